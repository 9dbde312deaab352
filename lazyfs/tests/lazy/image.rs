//! An image of three layers that holds whatever is hard to get right, and the same as plain folders.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::folder;

/// The tars of the layers, lowest first.
pub(crate) fn adversarial(scratch: &Path) -> Vec<Vec<u8>> {
    vec![lowest(&scratch.join("lowest")), middle(&scratch.join("middle")), highest(&scratch.join("highest"))]
}

fn shell(script: &str, dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let status = Command::new("bash").args(["-e", "-c", script]).current_dir(dir).status().unwrap();
    assert!(status.success(), "{script}");
}

/// `members` as they are named, folders without what is in them.
fn tar(dir: &Path, args: &[&str], members: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["--create", "--numeric-owner", "--format=pax", "--xattrs", "--xattrs-include=*", "-f", "-"])
        .args(args)
        .arg("-C")
        .arg(dir)
        .args(members)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn lowest(dir: &Path) -> Vec<u8> {
    fs::create_dir_all(dir).unwrap();
    folder::make_folder(dir);
    shell(
        r"
        mkdir -p gone/deep opaque/old replaced-by-file/in inherit/deep/deeper usr/lib
        echo 1 > gone/deep/file; echo 1 > gone/other; echo 1 > opaque/old/file; echo 1 > opaque/file
        echo 1 > replaced-by-file/in/file; echo 1 > replaced-by-folder; echo 1 > replaced-by-link
        chmod 0711 inherit; chown 7:8 inherit; chmod 2770 inherit/deep; chown 9:10 inherit/deep
        touch -d '2020-01-02 03:04:05.678901234' inherit inherit/deep
        ln -s usr/lib lib; echo 1 > usr/lib/one; chmod 0751 usr/lib; chown 11:12 usr/lib
        ",
        dir,
    );
    let deep = dir.join("inherit/deep");
    rustix::fs::lsetxattr(&deep, "user.of-the-folder", b"below", XattrFlags::empty()).unwrap();
    tar(dir, &["--sparse"], &["."])
}

fn middle(dir: &Path) -> Vec<u8> {
    shell(
        r#"
        mkdir -p opaque replaced-by-folder inherit/deep/new only-implied/here lib
        : > .wh.another-hard; : > .wh.gone; : > opaque/.wh..wh..opq; echo 2 > opaque/new
        echo 2 > replaced-by-file; echo 2 > replaced-by-folder/file; ln -s nowhere replaced-by-link
        echo 2 > inherit/deep/new/file; echo 2 > only-implied/here/file; echo 2 > lib/two
        echo 2 > 'colon:comma,back\slash'; echo hard > a; ln a b; ln a z
        head -c 3000000 /dev/urandom > large
        "#,
        dir,
    );
    let members = [
        ".wh.another-hard",
        ".wh.gone",
        "opaque/.wh..wh..opq",
        "opaque/new",
        "replaced-by-file",
        "replaced-by-folder",
        "replaced-by-link",
        "inherit/deep/new/file",
        "only-implied/here/file",
        "lib/two",
        "colon:comma,back\\slash",
        "b",
        "a",
        "z",
        "large",
    ];
    tar(dir, &[], &members)
}

fn highest(dir: &Path) -> Vec<u8> {
    shell(
        r"
        mkdir -p gone inherit/deep/new/under opaque/old plain; echo 3 > gone/new
        echo 3 > inherit/deep/new/under/file; echo 3 > opaque/old/again; : > plain/.wh.hello
        chmod 0500 gone; : > opaque/.wh.new; echo 3 > z; chmod 0123 z
        ",
        dir,
    );
    tar(
        dir,
        &[],
        &[
            "gone",
            "inherit/deep/new/under/file",
            "opaque/old/again",
            "opaque/.wh.new",
            "plain/.wh.hello",
            "z",
        ],
    )
}

/// Unpacks a layer with the system's tar, and does what containerd then does for overlayfs. `below` are the folders
/// of lower layers, nearest first.
pub(crate) fn unpack(tar: &[u8], root: &Path, below: &[PathBuf]) {
    fs::create_dir_all(root).unwrap();
    let file = root.with_extension("tar");
    fs::write(&file, tar).unwrap();
    folder::unpack(&file, root);
    let listed = Command::new("tar").arg("-tf").arg(&file).arg("--quoting-style=literal").output().unwrap();
    let named = |path: &Path| {
        let path = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
        listed.stdout.split(|&byte| byte == b'\n').any(|line| {
            let line = line.strip_prefix(b"./").unwrap_or(line);
            line.strip_suffix(b"/").unwrap_or(line) == path
        })
    };
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        let meta = fs::metadata(&dir).unwrap();
        let entries: Vec<_> = fs::read_dir(&dir).unwrap().map(Result::unwrap).collect();
        for entry in entries {
            let path = entry.path();
            let name = entry.file_name();
            if entry.file_type().unwrap().is_dir() {
                if !named(&path) {
                    inherit(root, &path, below);
                }
                todo.push(path);
            } else if name == ".wh..wh..opq" {
                fs::remove_file(&path).unwrap();
                rustix::fs::lsetxattr(&dir, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
            } else if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
                fs::remove_file(&path).unwrap();
                let hidden = dir.join(OsStr::from_bytes(hidden));
                let cwd = rustix::fs::CWD;
                rustix::fs::mknodat(cwd, &hidden, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
            }
        }
        set_time(&dir, meta.mtime(), meta.mtime_nsec());
    }
}

fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::empty()).unwrap();
}

/// A folder that the tar does not name has the metadata of the nearest one below that there is. (containerd's then
/// has the time at which it was unpacked.)
fn inherit(root: &Path, path: &Path, below: &[PathBuf]) {
    let name = path.strip_prefix(root).unwrap();
    let found = below.iter().find_map(|lower| Some((lower, fs::metadata(lower.join(name)).ok()?)));
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let Some((lower, meta)) = found.filter(|(_, meta)| meta.is_dir()) else {
        // As any folder that is made in one with the set-group-id bit.
        let parent = fs::metadata(path.parent().unwrap()).unwrap();
        let group = if parent.mode() & 0o2000 == 0 { 0 } else { parent.gid() };
        std::os::unix::fs::chown(path, Some(0), Some(group)).unwrap();
        return set_time(path, 0, 0);
    };
    std::os::unix::fs::chown(path, Some(meta.uid()), Some(meta.gid())).unwrap();
    fs::set_permissions(path, meta.permissions()).unwrap();
    let mut value = [0; 100];
    if let Ok(len) = rustix::fs::getxattr(lower.join(name), "user.of-the-folder", &mut value[..]) {
        rustix::fs::lsetxattr(path, "user.of-the-folder", &value[..len], XattrFlags::empty()).unwrap();
    }
    set_time(path, meta.mtime(), meta.mtime_nsec());
}
