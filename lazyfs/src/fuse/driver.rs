//! FUSE's requests, translated.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle;

use crate::fs::{Attr, FileKind, FsError, Ino, LazyFs, Listed};
use crate::span_cache::ReadError;

/// How long the kernel may remember: nothing ever changes. As long as fits the kernel's own count on any machine.
const FOREVER: Duration = Duration::from_secs(1 << 31);
/// Inode numbers are never used again.
const GENERATION: Generation = Generation(0);
/// Read-ahead that may be under way at a time. With the kernel's 12 one layer that comes slowly stops all others.
const MAX_BACKGROUND: u16 = 1024;
/// What `stat` recommends for reads.
const BLOCK: u32 = 4096;
/// What the kernel is asked for where it has it. Without them it is slower, or access lists do not count.
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    // For EROFS: a read in several requests fails if one does, and is not shown with zeros in place of the rest.
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_NO_EXPORT_SUPPORT)
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_ALLOW_IDMAP);

thread_local! {
    /// Where a thread puts what it has read from disk, so that it needs no new memory for each reply.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Driver {
    fs: Arc<LazyFs>,
    runtime: Handle,
}

impl Driver {
    pub(super) fn new(fs: Arc<LazyFs>, runtime: Handle) -> Self {
        Self { fs, runtime }
    }
}

impl Filesystem for Driver {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = WANTED & config.capabilities();
        let refused = |_| io::Error::other("the kernel's FUSE refuses what it offered");
        config.add_capabilities(wanted).map_err(refused)?;
        config.set_max_background(MAX_BACKGROUND).map(drop).map_err(|_| io::ErrorKind::InvalidInput.into())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.fs.lookup(Ino(parent.0), name.as_bytes()) {
            Ok(Some(attr)) => reply.entry(&FOREVER, &file_attr(&attr), GENERATION),
            // Inode 0: a name that the kernel may remember not to be there.
            Ok(None) => reply.entry(&FOREVER, &absent(), GENERATION),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.attr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&FOREVER, &file_attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.link_target(Ino(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // After this the kernel opens files without asking, and keeps their pages.
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = match self.fs.read(Ino(ino.0), offset, size as usize) {
            Ok(read) => read,
            Err(error) => return reply.error(errno(&error)),
        };
        READ.with_borrow_mut(|buffer| {
            if buffer.len() < read.len() {
                buffer.resize(read.len(), 0);
            }
            let out = buffer.get_mut(..read.len()).unwrap_or_default();
            match read.local(out) {
                Ok(true) => reply.data(out),
                Ok(false) => {
                    self.runtime.spawn(async move {
                        match read.fetch().await {
                            Ok(bytes) => reply.data(&bytes),
                            Err(_) => reply.error(Errno::EIO),
                        }
                    });
                }
                Err(error) => {
                    // That a layer was revoked was told when it was: not again for each read.
                    if !matches!(error, ReadError::Revoked { .. }) {
                        tracing::warn!(%error, "a read fails");
                    }
                    reply.error(Errno::EIO);
                }
            }
        });
    }

    // There is nothing to write and no hole to tell of. The kernel does not ask a second time.

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let layers_come = Ino(ino.0) == Ino::ROOT;
        let kept = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
        reply.opened(FileHandle(0), if layers_come { FopenFlags::empty() } else { kept });
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.fs.list(Ino(ino.0), offset, |Listed { name, attr, next }| {
            !reply.add(INodeNo(attr.ino.0), next, file_type(attr.kind), OsStr::from_bytes(name))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.fs.list(Ino(ino.0), offset, |Listed { name, attr, next }| {
            let (ino, name) = (INodeNo(attr.ino.0), OsStr::from_bytes(name));
            !reply.add(ino, next, name, &FOREVER, &file_attr(&attr), GENERATION)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.fs.xattr(Ino(ino.0), name.as_bytes()) {
            Ok(value) => sized(reply, size, &value),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.fs.xattr_names(Ino(ino.0)) {
            Ok(names) => sized(reply, size, &names),
            Err(error) => reply.error(errno(&error)),
        }
    }
}

/// As FUSE wants attributes: their size for 0, themselves if they fit.
fn sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::NotAFolder => Errno::ENOTDIR,
        FsError::IsAFolder => Errno::EISDIR,
        FsError::OtherType => Errno::EINVAL,
        FsError::NoAttribute => Errno::ENODATA,
    }
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Folder => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Char => FileType::CharDevice,
        FileKind::Block => FileType::BlockDevice,
        FileKind::Fifo => FileType::NamedPipe,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    let since = Duration::new(attr.meta.mtime, attr.meta.mtime_nanos);
    let time = SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH);
    let (major, minor) = attr.device;
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: attr.meta.mode,
        nlink: attr.links,
        uid: attr.meta.uid,
        gid: attr.meta.gid,
        // As the kernel encodes it for its own use: `new_encode_dev`.
        rdev: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
        blksize: BLOCK,
        flags: 0,
    }
}

fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}
