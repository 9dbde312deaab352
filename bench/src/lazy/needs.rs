//! What a run needs of the machine, said before anything is made.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A program, and the package of Debian that has it.
type Program = (&'static str, &'static str);

const ALWAYS: [Program; 10] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("docker-registry", "docker-registry"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("mkfs.ext4", "e2fsprogs"),
];
pub(super) const TO_MAKE_IMAGES: [Program; 3] =
    [("mmdebstrap", "mmdebstrap"), ("tar", "tar"), ("gzip", "gzip")];

/// Where Debian keeps programs that only root runs, which not every root's PATH has.
const ALSO: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// As statfs(2) has it.
const TMPFS: i64 = 0x0102_1994;

/// Whether all is there to start containers, with temporary files in `temporary`.
pub(super) fn check(temporary: &Path) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "containers need root: run it with sudo");
    programs(&ALWAYS)?;
    ensure!(Path::new("/dev/fuse").exists(), "there is no /dev/fuse (modprobe fuse may help)");
    let found = rustix::fs::statfs(temporary).with_context(|| format!("look at {}", temporary.display()))?;
    ensure!(
        found.f_type != TMPFS,
        "{} is in memory, where nothing is ever cold: let TMPDIR name a folder on a disk",
        temporary.display()
    );
    Ok(())
}

pub(super) fn programs(wanted: &[Program]) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(ALSO.map(PathBuf::from)).collect();
    let missing = |program: &str| !folders.iter().any(|folder| folder.join(program).is_file());
    let mut packages: Vec<&str> =
        wanted.iter().filter(|(program, _)| missing(program)).map(|(_, package)| *package).collect();
    packages.dedup();
    ensure!(
        packages.is_empty(),
        "programs are missing; with Debian's packages: apt-get install {}",
        packages.join(" ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_missing_programs_are_named_once() {
        programs(&[("sh", "dash")]).unwrap();
        let error =
            programs(&[("no-such-program", "some"), ("sh", "dash"), ("nor-this", "some")]).unwrap_err();
        assert!(error.to_string().ends_with("install some"), "{error}");
    }
}
