//! The kernel's list of mounts (proc(5), `mountinfo`). Asked in place of folders themselves: whoever looks at one may
//! have to wait for a process that is not there.

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
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo")?))
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

fn parse(mounts: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let at = PathBuf::from(unescaped(line.split(' ').nth(4)?));
        Some(Mount { at, is_overlay: line.contains(" - overlay "), line: line.to_owned() })
    };
    mounts.lines().filter_map(mount).collect()
}

/// The kernel writes white space and backslashes as a backslash and three octal digits.
fn unescaped(place: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(place.to_owned(), |place, (written, meant)| place.replace(written, meant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_as_they_are() {
        let mounts = parse(
            "29 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
             61 29 0:51 / /mnt/with\\040blank ro - overlay shoal ro,lowerdir=/var/tmp/a/fs/0:/x\n",
        );
        let found: Vec<_> =
            mounts.iter().map(|mount| (mount.at.to_str().unwrap(), mount.is_overlay)).collect();
        assert_eq!(found, [("/", false), ("/mnt/with blank", true)]);
        assert!(mounts.last().unwrap().line.ends_with("lowerdir=/var/tmp/a/fs/0:/x"));
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(
            !is_mounted(Path::new("/proc/self")).unwrap()
                && !is_mounted(Path::new("/absent/folder")).unwrap()
        );
    }
}
