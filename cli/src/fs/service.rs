//! `shoal fs`: mounts the filesystem that containers run on, keeps it, and lets [another process](super::snapshots)
//! serve it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use shoal_lazyfs::fuse::Device;
use shoal_lazyfs::snapshots::{Fill, Pattern, Places, Policy};
use shoal_lazyfs::{mountinfo, overlay};

use super::systemd::{Systemd, inherited};
use super::{Driver, Keeper};
use crate::log::{self, LogFormat};
use crate::serve::{self, Stop};

/// Below the mount folder: where the filesystem is mounted, with a short name for overlayfs.
const LAYERS: &str = "l";
/// Beside it: where layers are mounted on EROFS.
const EROFS: &str = "x";
/// Beside both: the kernel's INIT, for a process of another life that gets the mount from systemd.
const INIT_FILE: &str = "init";

#[derive(Debug, Args)]
pub(crate) struct FsArguments {
    /// Where snapshots and what was read of layers are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/shoal-fs")]
    state: PathBuf,
    /// Where layers are shown. A short path: overlayfs takes 4 KiB of them
    #[arg(long, value_name = "DIR", default_value = "/run/shoal-fs")]
    mount: PathBuf,
    /// The socket of the node's daemon
    #[arg(long, value_name = "FILE", default_value = "/var/lib/shoal/lazy.sock")]
    pub(super) node: PathBuf,
    /// The socket on which containerd finds the snapshotter
    #[arg(long, value_name = "FILE", default_value = "/run/shoal-fs/snapshotter.sock")]
    socket: PathBuf,
    /// Leave images to containerd whose layers are smaller together, compressed
    #[arg(long, value_name = "SIZE", default_value = "0B")]
    smallest: ByteSize,
    /// Show these images only: registry/repository, or the beginning of it and *; repeatable
    #[arg(long, value_name = "IMAGES")]
    allow: Vec<Pattern>,
    /// Leave these images to containerd; repeatable
    #[arg(long, value_name = "IMAGES")]
    deny: Vec<Pattern>,
    /// Fetch these images whole at once, in the background; repeatable
    #[arg(long, value_name = "IMAGES")]
    eager: Vec<Pattern>,
    /// Bytes of the disk that what was read of layers may take. What is shown stays even beyond it; then nothing is
    /// fetched that nobody reads
    #[arg(long, value_name = "SIZE")]
    pub(super) disk: Option<ByteSize>,
    /// When to fetch what nobody has read
    #[arg(long, value_enum, default_value_t)]
    fill: FillTime,
    /// How fast, at most: bytes of layers a second, compressed, of all images together. Without it as fast as they come
    #[arg(long, value_name = "SIZE", default_value = "0B", hide_default_value = true)]
    fill_rate: ByteSize,
    /// What shows the files of layers
    #[arg(long, value_enum, default_value_t)]
    pub(super) driver: Driver,
    #[arg(long, value_enum, default_value_t)]
    pub(super) log: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum FillTime {
    Never,
    /// Once a container uses it and no reader waits
    #[default]
    Quiet,
    /// At once
    Eager,
}

impl FsArguments {
    pub(super) fn places(&self) -> Places {
        let (fuse, erofs) = (self.mount.join(LAYERS), self.mount.join(EROFS));
        Places { state: self.state.clone(), fuse, erofs }
    }

    pub(super) fn policy(&self) -> Policy {
        let fill = match self.fill {
            FillTime::Never => Fill::Never,
            FillTime::Quiet => Fill::WhenQuiet,
            FillTime::Eager => Fill::Eager,
        };
        let (allow, deny, eager) = (self.allow.clone(), self.deny.clone(), self.eager.clone());
        Policy {
            smallest: self.smallest.as_u64(),
            allow,
            deny,
            eager,
            fill,
            fill_rate: self.fill_rate.as_u64(),
        }
    }
}

pub(crate) fn run(arguments: FsArguments) -> anyhow::Result<ExitCode> {
    log::start(arguments.log);
    ensure!(rustix::process::geteuid().is_root(), "only root can mount");
    for path in [&arguments.state, &arguments.mount] {
        let text = path.to_str().unwrap_or(":");
        let odd = text.contains([':', ',', '\\']) || text.contains(char::is_whitespace);
        ensure!(
            path.is_absolute() && !odd,
            "overlayfs cannot use the folder {}: it must be an absolute path without blanks, colons, commas and backslashes",
            path.display()
        );
    }
    let runtime = serve::runtime()?;
    let done = runtime.block_on(keep(&arguments));
    runtime.shutdown_timeout(serve::BLOCKING_MAY_LAST);
    done
}

async fn keep(arguments: &FsArguments) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let systemd = Systemd::from_env().context("cannot reach systemd")?;
    for folder in [&arguments.state, &arguments.mount] {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let _alone = [hold(&arguments.state)?, hold(&arguments.mount)?];
    // As the kernel's list of mounts has it.
    let at = arguments.mount.canonicalize()?.join(LAYERS);
    let device = device(&at, arguments, systemd.as_ref())?;
    let socket = listen(&arguments.socket)?;
    let starting = Keeper::start(device, server(&socket));
    let started = tokio::select! {
        started = starting => started,
        () = stop.told() => Err(anyhow::anyhow!("stopped before it served")),
    };
    let mut keeper = match started {
        Ok((keeper, _)) => keeper,
        Err(error) => {
            leave(&at, systemd.is_some())?;
            return Err(error);
        }
    };
    if let Some(systemd) = &systemd {
        systemd.ready().context("cannot reach systemd")?;
    }
    tracing::info!(socket = %arguments.socket.display(), mount = %at.display(), "serving");
    tokio::select! {
        () = stop.told() => {}
        ended = keeper.ended() => {
            leave(&at, systemd.is_some())?;
            ended?;
            bail!("somebody unmounted {}", at.display());
        }
    }
    let _ = fs::remove_file(&arguments.socket);
    if systemd.is_some() {
        // The mount waits there for the next process, and so do its readers.
        return Ok(ExitCode::SUCCESS);
    }
    leave(&at, false)?;
    tracing::info!("waiting for the last container, or a second signal");
    tokio::select! {
        () = stop.told() => {}
        ended = keeper.ended() => ended?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The mount of the process before this one, or a new one.
fn device(at: &Path, arguments: &FsArguments, systemd: Option<&Systemd>) -> anyhow::Result<Device> {
    let init_file = arguments.mount.join(INIT_FILE);
    let stored = inherited()?.and_then(|descriptor| Some((descriptor, fs::read(&init_file).ok()?)));
    if let Some((descriptor, init)) = stored
        && mountinfo::is_mounted(at)?
    {
        tracing::info!("going on with the mount of the process before");
        return Ok(Device::from_parts(descriptor, init));
    }
    // What a process left that was killed: nobody answers there any more.
    leave(at, false)?;
    DirBuilder::new().recursive(true).create(at)?;
    let device = Device::mount(at).context("cannot mount a FUSE filesystem (modprobe fuse may help)")?;
    if let Some(systemd) = systemd {
        fs::write(&init_file, device.init())?;
        systemd.store(&device.descriptor()?).context("systemd does not take the mount")?;
    }
    Ok(device)
}

/// Unmounts, unless systemd keeps the mount for the next process. Whoever uses what is in it still has it.
fn leave(at: &Path, kept: bool) -> anyhow::Result<()> {
    if kept {
        return Ok(());
    }
    while mountinfo::is_mounted(at)? {
        unmount(at)?;
    }
    // From now on no process finds a tar to mount another one.
    let erofs = at.with_file_name(EROFS);
    let layers: Vec<_> =
        mountinfo::mounts()?.into_iter().rev().filter(|mount| mount.at.starts_with(&erofs)).collect();
    for layer in &layers {
        unmount(&layer.at)?;
    }
    for layer in &layers {
        // An empty folder in its place would be taken for an empty layer.
        match fs::remove_dir(&layer.at) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", layer.at.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Keeps others from a folder that one process uses at a time, as long as what it returns.
fn hold(folder: &Path) -> anyhow::Result<File> {
    let open = File::open(folder).with_context(|| format!("cannot open the folder {}", folder.display()))?;
    let held = rustix::fs::flock(&open, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    held.with_context(|| format!("another shoal fs uses {}; is it running twice?", folder.display()))?;
    Ok(open)
}

fn unmount(at: &Path) -> anyhow::Result<()> {
    overlay::unmount(at).map(drop).with_context(|| format!("cannot unmount {}", at.display()))
}

/// Listens, for root only, in the place of whoever did before.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let bind = || {
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        // Inherited by the processes that serve. While there is none, containerd waits.
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty())?;
        io::Result::Ok(listener)
    };
    bind().with_context(|| format!("cannot listen on {}", path.display()))
}

/// The command line of the process that serves: that of this one, and the socket.
fn server(socket: &UnixListener) -> Vec<OsString> {
    let own = std::env::args_os().skip(2);
    let listener = socket.as_raw_fd().to_string();
    ["fs-snapshots".into(), "--listener".into(), listener.into()].into_iter().chain(own).collect()
}
