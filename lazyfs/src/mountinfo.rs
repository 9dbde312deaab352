//! The kernel's list of mounts (proc(5), `mountinfo`). Asked in place of folders themselves: whoever looks at one may
//! have to wait for a process that is not there.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// One mount of this process's namespace.
#[derive(Debug)]
pub struct Mount {
    pub at: PathBuf,
    pub is_overlay: bool,
    /// All that is told of it, as the kernel writes it.
    pub line: String,
}

/// In the order in which they were mounted.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// Whether something is mounted right there. Symbolic links on the way are followed, but none of the path's last part.
pub fn is_mounted(at: &Path) -> io::Result<bool> {
    let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return Ok(true) };
    let at = match parent.canonicalize() {
        Ok(parent) => parent.join(name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(mounts()?.iter().any(|mount| mount.at == at))
}

fn parse(mounts: &[u8]) -> Vec<Mount> {
    let mount = |line: &[u8]| {
        let at = PathBuf::from(unescaped(line.split(|&byte| byte == b' ').nth(4)?));
        let line = String::from_utf8_lossy(line).into_owned();
        Some(Mount { at, is_overlay: line.contains(" - overlay "), line })
    };
    mounts.split(|&byte| byte == b'\n').filter_map(mount).collect()
}

/// The kernel writes white space and backslashes as a backslash and three octal digits, and all else as it is: a user of
/// this machine may have mounted something under a name that is no text.
fn unescaped(place: &[u8]) -> OsString {
    let escaped = |rest: &[u8]| {
        let digits = rest.strip_prefix(b"\\")?.get(..3)?;
        u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
    };
    let (mut name, mut rest) = (Vec::with_capacity(place.len()), place);
    while let Some((&first, behind)) = rest.split_first() {
        let found = escaped(rest);
        name.push(found.unwrap_or(first));
        rest = if found.is_some() { rest.get(4..).unwrap_or_default() } else { behind };
    }
    OsString::from_vec(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn folders_are_named_as_they_are() {
        let mounts = parse(
            b"29 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
             30 29 0:40 / /media/someone/\xff\\134040 rw - fuse x rw\n\
             61 29 0:51 / /mnt/with\\040blank ro - overlay shoal ro,lowerdir=/var/tmp/a/fs/0:/x\n",
        );
        let found: Vec<_> =
            mounts.iter().map(|mount| (mount.at.as_os_str().as_bytes(), mount.is_overlay)).collect();
        let want: [(&[u8], bool); 3] =
            [(b"/", false), (b"/media/someone/\xff\\040", false), (b"/mnt/with blank", true)];
        assert_eq!(found, want);
        assert!(mounts.last().unwrap().line.ends_with("lowerdir=/var/tmp/a/fs/0:/x"));
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(
            !is_mounted(Path::new("/proc/self")).unwrap()
                && !is_mounted(Path::new("/absent/folder")).unwrap()
        );
    }
}
