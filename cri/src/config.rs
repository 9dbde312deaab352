use std::path::Path;

/// Off, because they need what a machine may lack (device mapper, other filesystems).
const DISABLED: &str = r#"[
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]"#;
const CRI: &str = r#"[plugins."io.containerd.grpc.v1.cri""#;

/// The configuration of a containerd that has nothing to do with others on the machine: all that it keeps is in the
/// folder `root`, its socket is `sock` there, and `hosts` tells where registries are. Images are unpacked by overlayfs, or
/// shown by the snapshotter `shoal` that listens at `snapshotter`.
pub fn containerd_config(root: &Path, snapshotter: Option<&Path>) -> String {
    let root = root.display();
    let (name, proxy) = match snapshotter {
        None => ("overlayfs", String::new()),
        Some(socket) => (
            "shoal",
            format!("[proxy_plugins.shoal]\ntype = \"snapshot\"\naddress = \"{}\"\n", socket.display()),
        ),
    };
    format!(
        "version = 2\nroot = \"{root}/root\"\nstate = \"{root}/state\"\ndisabled_plugins = {DISABLED}\n\
         [grpc]\naddress = \"{root}/sock\"\n[ttrpc]\naddress = \"{root}/ttrpc\"\n[debug]\nlevel = \"warn\"\n{proxy}\
         {CRI}]\nstream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n\
         {CRI}.containerd]\nsnapshotter = \"{name}\"\ndisable_snapshot_annotations = false\n\
         {CRI}.cni]\nbin_dir = \"{root}/cni\"\nconf_dir = \"{root}/cni\"\n\
         {CRI}.registry]\nconfig_path = \"{root}/hosts\"\n"
    )
}
