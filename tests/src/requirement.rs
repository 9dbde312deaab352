use std::fs::File;
use std::path::PathBuf;

/// What a test needs beyond a Rust toolchain.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Mounting a snapshot, or writing the stores of containerd and podman, needs root.
    pub root: bool,
    /// Showing files through FUSE.
    pub fuse: bool,
    pub programs: &'static [&'static str],
}

impl Needs {
    pub const REGISTRY: Self = Self { root: false, fuse: false, programs: &["docker-registry", "htpasswd"] };
    pub const SKOPEO: Self =
        Self { root: false, fuse: false, programs: &["docker-registry", "htpasswd", "skopeo"] };
    pub const PODMAN: Self =
        Self { root: true, fuse: false, programs: &["docker-registry", "htpasswd", "podman"] };
    pub const CONTAINERD: Self =
        Self { root: true, fuse: false, programs: &["docker-registry", "htpasswd", "containerd", "ctr"] };
    pub const FUSE: Self = Self { root: true, fuse: true, programs: &[] };
    /// Containers whose images are shown lazily.
    pub const CONTAINERS: Self = Self {
        root: true,
        fuse: true,
        programs: &["docker-registry", "htpasswd", "containerd", "ctr", "runc", "containerd-shim-runc-v2"],
    };
}

/// Whether the test can run here. When not, it says why; with `CI=true` it fails, so that a skipped
/// test never passes for a test that ran.
pub fn available(needs: Needs) -> bool {
    let mut missing: Vec<String> =
        needs.programs.iter().filter(|p| find(p).is_none()).map(|p| (*p).into()).collect();
    if needs.root && !rustix::process::geteuid().is_root() {
        missing.push("root".into());
    }
    if needs.fuse && File::open("/dev/fuse").is_err() {
        missing.push("/dev/fuse".into());
    }
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "this test needs {missing}, and CI=true allows no skipping"
    );
    eprintln!("SKIPPED: needs {missing} (`make deps` installs the programs)");
    false
}

/// Where a program is, looked for in PATH and where Debian puts daemons.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}
