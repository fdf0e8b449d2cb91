//! The kernel's side: fuser's callbacks become calls of `Fs`. Of fuser, the other files here know only the session.
//!
//! A callback runs on one of fuser's few threads: it answers what is in memory, and hands everything else, with its
//! reply, to the runtime. What mostly needs no more than this host's page cache is begun on the thread itself, as long
//! as another is free: waking threads costs more than such an operation. A panic costs one operation: a reply that is
//! dropped unanswered answers `EIO` by itself. The kernel's FUSE_INTERRUPT is not answered (fuser can't), so each
//! operation is bounded.

use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, Notifier, OpenAccMode, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;
use tokio::sync::watch;
use tracing::Instrument as _;

use super::caller_descriptors;
use crate::object::{Attributes, Fail, Ns, Op, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFSOCK};
use crate::ops::{Caller, Changes, Entry, Fs, Invalidate, Looked, Opened};
use crate::tree::{Item, OpenMode, ROOT};
use windlass_base::rt::Rt;
use windlass_base::trace::{Side, Span, fact};

/// Number of fuser's event loops.
pub const THREADS: usize = 2;
/// Number of requests that the kernel may have under way in the background (readahead); its default of 12 starves a bucket.
const BACKGROUND: u16 = 64;
const BLOCK: u32 = 4096;
/// Number of blocks that statfs(2) shows of something without an end: 4 PiB.
const BLOCKS: u64 = 1 << 40;
const FILES: u64 = 1 << 40;

/// Modes of fallocate(2).
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;
/// Flags of setxattr(2).
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;

pub struct FuseServer {
    fs: Arc<Fs>,
    rt: Rt,
    /// Folder at which the filesystem is mounted.
    dir: PathBuf,
    ended: watch::Sender<bool>,
    /// Number of threads that are in the middle of an operation which may wait for this host's disk.
    inside: AtomicUsize,
}

impl Invalidate for Notifier {
    fn attrs(&self, ino: u64) {
        // A negative offset leaves the pages alone. Failing means that the kernel doesn't hold the node.
        let _ = self.inval_inode(INodeNo(ino), -1, 0);
    }
}

fn errno(fail: &Fail) -> fuser::Errno {
    fuser::Errno::from_i32(fail.errno.raw_os_error())
}

fn file_type(mode: u32) -> FileType {
    match mode & S_IFMT {
        S_IFDIR => FileType::Directory,
        S_IFLNK => FileType::Symlink,
        S_IFIFO => FileType::NamedPipe,
        S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

fn time(at: Ns) -> SystemTime {
    let d = Duration::from_nanos(at.0.unsigned_abs());
    if at.0 < 0 { UNIX_EPOCH - d } else { UNIX_EPOCH + d }
}

/// Returns the time since 1970; `None` for a time that can't be kept, before 1678 or after 2262.
fn ns(at: SystemTime) -> Option<Ns> {
    let count = |d: Duration| i64::try_from(d.as_nanos()).ok();
    at.duration_since(UNIX_EPOCH).map_or_else(|e| count(e.duration()).map(|ns| -ns), count).map(Ns)
}

fn attr(ino: u64, f: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: f.size,
        blocks: f.size.div_ceil(512),
        atime: time(f.atime),
        mtime: time(f.mtime),
        ctime: time(f.ctime),
        crtime: time(f.ctime),
        kind: file_type(f.mode),
        perm: (f.mode & 0o7777) as u16,
        // A directory's 1 says that its folders were not counted.
        nlink: 1,
        uid: f.uid,
        gid: f.gid,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// Returns the attributes by which the kernel remembers that there is no such name: the number is 0.
fn absent() -> FileAttr {
    attr(0, &Attributes::default())
}

fn open_mode(flags: i32) -> OpenMode {
    let has = |flag: OFlags| flags as u32 & flag.bits() != 0;
    let access = OpenFlags(flags).acc_mode();
    OpenMode {
        read: access != OpenAccMode::O_WRONLY,
        write: access != OpenAccMode::O_RDONLY,
        append: has(OFlags::APPEND),
        truncate: has(OFlags::TRUNC),
        exclusive: has(OFlags::EXCL),
    }
}

fn fopen(opened: &Opened, changes: bool) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    // Who only reads has nothing to ask for at the close.
    flags.set(FopenFlags::FOPEN_NOFLUSH, !changes);
    flags
}

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}

fn reply_entry(reply: ReplyEntry, out: Op<Entry>) {
    match out {
        Ok(e) => reply.entry(&e.ttl, &attr(e.ino, &e.attributes), Generation(0)),
        Err(f) => reply.error(errno(&f)),
    }
}

fn reply_looked(reply: ReplyEntry, out: Op<Looked>) {
    match out {
        Ok(Looked::Found(e)) => reply_entry(reply, Ok(e)),
        Ok(Looked::Absent(ttl)) if ttl.is_zero() => reply.error(fuser::Errno::ENOENT),
        Ok(Looked::Absent(ttl)) => reply.entry(&ttl, &absent(), Generation(0)),
        Err(f) => reply.error(errno(&f)),
    }
}

fn reply_attr(reply: ReplyAttr, out: Op<Entry>) {
    match out {
        Ok(e) => reply.attr(&e.ttl, &FileAttr { nlink: u32::from(!e.gone), ..attr(e.ino, &e.attributes) }),
        Err(f) => reply.error(errno(&f)),
    }
}

fn reply_empty(reply: ReplyEmpty, out: Op<()>) {
    match out {
        Ok(()) => reply.ok(),
        Err(f) => reply.error(errno(&f)),
    }
}

fn reply_bytes<B: AsRef<[u8]>>(reply: ReplyData, out: Op<B>) {
    match out {
        Ok(bytes) => reply.data(bytes.as_ref()),
        Err(f) => reply.error(errno(&f)),
    }
}

fn reply_xattr(reply: ReplyXattr, size: u32, out: Op<Vec<u8>>) {
    match out {
        Ok(bytes) if size == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() <= size as usize => reply.data(&bytes),
        Ok(_) => reply.error(fuser::Errno::ERANGE),
        Err(f) => reply.error(errno(&f)),
    }
}

/// Number of the next operation, for the log.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Runs an operation and its reply; says in the log what failed and for which object. Requests to the store for its sake are
/// logged under its number. The work is on the heap: each future that takes another by value has it twice.
async fn log_and_reply<T>(
    fs: Arc<Fs>,
    op: &'static str,
    ino: INodeNo,
    work: Pin<Box<impl Future<Output = Op<T>>>>,
    reply: impl FnOnce(Op<T>),
) {
    let id = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let facts = || vec![fact("object", fs.called(ino.0).to_string()), fact("id", id as i64)];
    let span = Span::begin(Side::Served, || format!("fuse {op}"), facts);
    let numbered = tracing::debug_span!("operation", id, op, object = fs.called(ino.0));
    let work = work.instrument(numbered);
    let out = match &span {
        None => work.await,
        Some(span) => span.around(work).await,
    };
    if let Some(span) = span {
        let why = out.as_ref().err().map(|fail| &fail.errno as &dyn std::fmt::Display);
        span.end([], why);
    }
    if let Err(Fail { errno, why: Some(why) }) = &out {
        tracing::warn!(op, object = fs.called(ino.0), %errno, %why, "operation failed");
    }
    reply(out);
}

impl FuseServer {
    pub fn new(fs: Arc<Fs>, rt: Rt, dir: PathBuf) -> (FuseServer, watch::Receiver<bool>) {
        let (ended, watch) = watch::channel(false);
        (FuseServer { fs, rt, dir, ended, inside: AtomicUsize::new(0) }, watch)
    }

    /// Returns what is known at once; a panic in it is taken for "nothing".
    fn known<T>(&self, ask: impl FnOnce(&Fs) -> Option<T>) -> Option<T> {
        catch_unwind(AssertUnwindSafe(|| ask(&self.fs))).unwrap_or(None)
    }

    /// Does what needs no answer from elsewhere; a panic in it drops the reply, which answers `EIO`.
    fn guarded(&self, act: impl FnOnce(&Fs)) {
        if catch_unwind(AssertUnwindSafe(|| act(&self.fs))).is_err() {
            tracing::error!("an operation panicked; the mount goes on");
        }
    }

    /// Hands an operation and its reply to the runtime.
    fn spawn<T: Send + 'static, F: Future<Output = Op<T>> + Send + 'static>(
        &self,
        op: &'static str,
        ino: INodeNo,
        work: impl FnOnce(Arc<Fs>) -> F,
        reply: impl FnOnce(Op<T>) + Send + 'static,
    ) {
        let work = Box::pin(work(self.fs.clone()));
        self.rt.spawn(log_and_reply(self.fs.clone(), op, ino, work, reply)).detach();
    }

    /// Runs an operation and its reply as `spawn` does, but begins on this thread while another is free.
    fn run_inline<T: Send + 'static, F: Future<Output = Op<T>> + Send + 'static>(
        &self,
        op: &'static str,
        ino: INodeNo,
        work: impl FnOnce(Arc<Fs>) -> F,
        reply: impl FnOnce(Op<T>) + Send + 'static,
    ) {
        let work = Box::pin(work(self.fs.clone()));
        let task = log_and_reply(self.fs.clone(), op, ino, work, reply);
        let others = self.inside.fetch_add(1, Ordering::AcqRel);
        if others + 1 < THREADS {
            self.rt.begin(task);
        } else {
            self.rt.spawn(task).detach();
        }
        self.inside.fetch_sub(1, Ordering::AcqRel);
    }

    /// Runs an operation of a few requests as `spawn` does, within the time that a process waits for it.
    fn run_bounded<T: Send + 'static, F: Future<Output = Op<T>> + Send + 'static>(
        &self,
        op: &'static str,
        ino: INodeNo,
        work: impl FnOnce(Arc<Fs>) -> F,
        reply: impl FnOnce(Op<T>) + Send + 'static,
    ) {
        self.spawn(op, ino, |fs| bounded(fs.clone(), Box::pin(work(fs))), reply);
    }

    /// Runs an operation of a few requests as `run_inline` does, within the time that a process waits for it.
    fn run_inline_bounded<T: Send + 'static, F: Future<Output = Op<T>> + Send + 'static>(
        &self,
        op: &'static str,
        ino: INodeNo,
        work: impl FnOnce(Arc<Fs>) -> F,
        reply: impl FnOnce(Op<T>) + Send + 'static,
    ) {
        self.run_inline(op, ino, |fs| bounded(fs.clone(), Box::pin(work(fs))), reply);
    }
}

async fn bounded<T>(fs: Arc<Fs>, work: Pin<Box<impl Future<Output = Op<T>>>>) -> Op<T> {
    fs.bounded(work).await
}

/// Adds `.` and `..`, before the directory's entries, which begin at cookie 2. Returns true when the reply is full.
fn dots(offset: u64, ino: INodeNo, mut add: impl FnMut(INodeNo, u64, &str) -> bool) -> bool {
    (offset < 1 && add(ino, 1, ".")) || (offset < 2 && add(ino, 2, ".."))
}

fn reply_dir(fs: &Fs, ino: INodeNo, offset: u64, mut reply: ReplyDirectory, out: Op<Vec<Item>>) {
    let items = match out {
        Ok(items) => items,
        Err(f) => return reply.error(errno(&f)),
    };
    let mut full = dots(offset, ino, |ino, at, name| reply.add(ino, at, FileType::Directory, name));
    for item in &items {
        if full {
            break;
        }
        let at = item.cookie + 2;
        let (ino, kind) = (INodeNo(fs.number_of(item)), file_type(item.attributes.mode));
        full = reply.add(ino, at, kind, OsStr::from_bytes(&item.name));
    }
    reply.ok();
}

fn reply_dir_plus(fs: &Fs, ino: INodeNo, offset: u64, mut reply: ReplyDirectoryPlus, out: Op<Vec<Item>>) {
    let items = match out {
        Ok(items) => items,
        Err(f) => return reply.error(errno(&f)),
    };
    let dir = Attributes { mode: S_IFDIR, ..Attributes::listed(fs.options(), true, 4096, None, Ns(0)) };
    let (zero, none) = (Duration::ZERO, Generation(0));
    let mut full =
        dots(offset, ino, |ino, at, name| reply.add(ino, at, name, &zero, &attr(ino.0, &dir), none));
    for item in &items {
        if full {
            break;
        }
        let e = fs.adopt_item(item);
        let at = item.cookie + 2;
        let name = OsStr::from_bytes(&item.name);
        full = reply.add(INodeNo(e.ino), at, name, &e.ttl, &attr(e.ino, &e.attributes), none);
        // The kernel counts each entry that it is given as a lookup.
        if full {
            fs.forget(e.ino, 1);
        } else {
            fs.record_reply(&e);
        }
    }
    reply.ok();
}

impl Filesystem for FuseServer {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
        ];
        for flag in wanted {
            // An older kernel does without.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_background(BACKGROUND);
        if let Err(most) = config.set_max_readahead(1 << 20) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.ended.send_replace(true);
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some(known) = self.known(|fs| fs.lookup_now(parent.0, name.as_bytes())) {
            return reply_looked(reply, known);
        }
        let name = name.as_bytes().to_vec();
        let work = move |fs: Arc<Fs>| async move { fs.lookup(parent.0, &name).await };
        self.run_bounded("lookup", parent, work, move |out| reply_looked(reply, out));
    }

    fn forget(&self, _: &Request, ino: INodeNo, times: u64) {
        self.guarded(|fs| fs.forget(ino.0, times));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if let Some(known) = self.known(|fs| fs.getattr_now(ino.0)) {
            return reply_attr(reply, known);
        }
        let work = move |fs: Arc<Fs>| async move { fs.getattr(ino.0).await };
        self.run_bounded("getattr", ino, work, move |out| reply_attr(reply, out));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let at = |t: TimeOrNow| match t {
            TimeOrNow::SpecificTime(t) => ns(t),
            TimeOrNow::Now => Some(Ns::from_ms(self.rt.wall_ms())),
        };
        let (atime, mtime) = (atime.map(at), mtime.map(at));
        if [atime, mtime].contains(&Some(None)) {
            return reply.error(fuser::Errno::EINVAL);
        }
        let (atime, mtime) = (atime.flatten(), mtime.flatten());
        let changes = Changes { mode, uid, gid, size, atime, mtime };
        // Truncation by name uploads: its requests have deadlines, the whole may take longer.
        let work = move |fs: Arc<Fs>| async move { fs.setattr(ino.0, changes, handle.map(|h| h.0)).await };
        self.run_inline("setattr", ino, work, move |out| reply_attr(reply, out));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let work = move |fs: Arc<Fs>| async move { fs.readlink(ino.0).await };
        self.run_bounded("readlink", ino, work, move |out| reply_bytes(reply, out));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let (name, by) = (name.as_bytes().to_vec(), caller(req));
        let work = move |fs: Arc<Fs>| async move { fs.mknod(parent.0, &name, mode, by).await };
        self.run_bounded("mknod", parent, work, move |out| reply_entry(reply, out));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let (name, by) = (name.as_bytes().to_vec(), caller(req));
        let work = move |fs: Arc<Fs>| async move { fs.mkdir(parent.0, &name, mode, by).await };
        self.run_bounded("mkdir", parent, work, move |out| reply_entry(reply, out));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        let work = move |fs: Arc<Fs>| async move { fs.unlink(parent.0, &name).await };
        self.run_bounded("unlink", parent, work, move |out| reply_empty(reply, out));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        let work = move |fs: Arc<Fs>| async move { fs.rmdir(parent.0, &name).await };
        self.run_bounded("rmdir", parent, work, move |out| reply_empty(reply, out));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target, by) =
            (name.as_bytes().to_vec(), target.as_os_str().as_bytes().to_vec(), caller(req));
        let work = move |fs: Arc<Fs>| async move { fs.symlink(parent.0, &name, &target, by).await };
        self.run_bounded("symlink", parent, work, move |out| reply_entry(reply, out));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.intersects(!RenameFlags::RENAME_NOREPLACE) {
            return reply.error(fuser::Errno::EINVAL);
        }
        let no_replace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        // As long as the directory is large; each of its requests has a deadline.
        let work = move |fs: Arc<Fs>| async move {
            fs.rename(parent.0, &name, new_parent.0, &new_name, no_replace).await
        };
        self.spawn("rename", parent, work, move |out| reply_empty(reply, out));
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        // An object has one key.
        reply.error(fuser::Errno::EPERM);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (open_mode, thread) = (open_mode(flags.0), req.pid());
        let work = move |fs: Arc<Fs>| async move {
            let opened = fs.open_file(ino.0, open_mode).await;
            opened.inspect(|opened| fs.met_caller(opened.handle, thread))
        };
        self.run_bounded("open", ino, work, move |out| match out {
            Ok(opened) => {
                reply.opened(FileHandle(opened.handle), fopen(&opened, open_mode.write || open_mode.truncate))
            }
            Err(f) => reply.error(errno(&f)),
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, by, thread) = (name.as_bytes().to_vec(), caller(req), req.pid());
        let work = move |fs: Arc<Fs>| async move {
            let made = fs.create(parent.0, &name, mode, by, open_mode(flags)).await;
            made.inspect(|(_, opened)| fs.met_caller(opened.handle, thread))
        };
        self.run_inline_bounded("create", parent, work, move |out| match out {
            Ok((e, opened)) => {
                let attr = attr(e.ino, &e.attributes);
                reply.created(&e.ttl, &attr, Generation(0), FileHandle(opened.handle), fopen(&opened, true));
            }
            Err(f) => reply.error(errno(&f)),
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Some(known) = self.known(|fs| fs.read_now(handle.0, offset, u64::from(size))) {
            return reply_bytes(reply, known);
        }
        let work = move |fs: Arc<Fs>| async move { fs.read(handle.0, offset, u64::from(size)).await };
        self.run_bounded("read", ino, work, move |out| reply_bytes(reply, out));
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        how: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (data, size) = (Bytes::copy_from_slice(data), data.len() as u32);
        // Each write has its own flags: O_APPEND may have been set or cleared since the open, and what comes from a mapping
        // has a place of its own.
        let append = open_mode(flags.0).append && !how.contains(WriteFlags::FUSE_WRITE_CACHE);
        let at = (!append).then_some(offset);
        let thread = req.pid();
        let work = move |fs: Arc<Fs>| async move {
            fs.met_caller(handle.0, thread);
            fs.write_at(handle.0, at, data).await
        };
        self.run_inline_bounded("write", ino, work, move |out| match out {
            Ok(()) => reply.written(size),
            Err(f) => reply.error(errno(&f)),
        });
    }

    fn flush(&self, req: &Request, ino: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        if self.known(|fs| Some(fs.flush_needed(handle.0))) == Some(false) {
            return reply.ok();
        }
        // A shell's `command > file` opens, copies the descriptor and closes one, before anything is written.
        if self.known(|fs| Some(fs.is_begun(handle.0))) == Some(true)
            && caller_descriptors::has_open(req.pid(), ino.0, &self.dir)
        {
            return reply.ok();
        }
        // What a fork copied is closed when the child becomes another program: its parent is in the middle of writing.
        if self
            .known(|fs| Some(fs.callers(handle.0)))
            .is_some_and(|known| caller_descriptors::is_inherited(req.pid(), &known, ino.0, &self.dir))
        {
            return reply.ok();
        }
        // As long as the file is large; each of its requests has a deadline.
        let work = move |fs: Arc<Fs>| async move { fs.flush(handle.0).await };
        self.run_inline("close", ino, work, move |out| reply_empty(reply, out));
    }

    fn fsync(&self, _: &Request, ino: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let work = move |fs: Arc<Fs>| async move { fs.fsync(handle.0).await };
        self.spawn("fsync", ino, work, move |out| reply_empty(reply, out));
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let work = move |fs: Arc<Fs>| async move {
            fs.release(handle.0).await;
            Ok(())
        };
        // Nobody waits for a release.
        reply.ok();
        self.run_inline("release", ino, work, |_| ());
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.guarded(|fs| match fs.opendir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(f) => reply.error(errno(&f)),
        });
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        let cookie = offset.saturating_sub(2);
        if let Some(known) = self.known(|fs| fs.readdir_now(handle.0, cookie, false)) {
            return self.guarded(|fs| reply_dir(fs, ino, offset, reply, Ok(known)));
        }
        let fs = self.fs.clone();
        let work = move |fs: Arc<Fs>| async move { fs.readdir(handle.0, cookie, false).await };
        self.run_bounded("readdir", ino, work, move |out| reply_dir(&fs, ino, offset, reply, out));
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let cookie = offset.saturating_sub(2);
        if let Some(known) = self.known(|fs| fs.readdir_now(handle.0, cookie, true)) {
            return self.guarded(|fs| reply_dir_plus(fs, ino, offset, reply, Ok(known)));
        }
        let fs = self.fs.clone();
        let work = move |fs: Arc<Fs>| async move { fs.readdir(handle.0, cookie, true).await };
        self.run_bounded("readdir", ino, work, move |out| reply_dir_plus(&fs, ino, offset, reply, out));
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.guarded(|fs| fs.releasedir(handle.0));
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // Names are in the bucket when the call that made them returns; removed ones a moment later.
        let work = move |fs: Arc<Fs>| async move { fs.fsync_dir(ino.0).await };
        self.run_bounded("fsyncdir", ino, work, move |out| reply_empty(reply, out));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, FILES, FILES, BLOCK, crate::object::NAME_MAX as u32, BLOCK);
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let (create, replace) = (flags & XATTR_CREATE != 0, flags & XATTR_REPLACE != 0);
        let work =
            move |fs: Arc<Fs>| async move { fs.setxattr(ino.0, &name, Some(&value), create, replace).await };
        self.run_bounded("setxattr", ino, work, move |out| reply_empty(reply, out));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        // The kernel asks for its own attributes at every turn.
        if let Err(f) = crate::ops::readable(name.as_bytes()) {
            return reply.error(errno(&f));
        }
        let name = name.as_bytes().to_vec();
        let work = move |fs: Arc<Fs>| async move { fs.getxattr(ino.0, &name).await };
        self.run_bounded("getxattr", ino, work, move |out| reply_xattr(reply, size, out));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let work = move |fs: Arc<Fs>| async move { fs.listxattr(ino.0).await };
        self.run_bounded("listxattr", ino, work, move |out| reply_xattr(reply, size, out));
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        let work = move |fs: Arc<Fs>| async move { fs.setxattr(ino.0, &name, None, false, false).await };
        self.run_bounded("removexattr", ino, work, move |out| reply_empty(reply, out));
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks by mode itself (default_permissions) and doesn't ask again.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 {
            return reply.error(fuser::Errno::EOPNOTSUPP);
        }
        let (zero, keep) = (mode & (PUNCH_HOLE | ZERO_RANGE) != 0, mode & KEEP_SIZE != 0);
        let work = move |fs: Arc<Fs>| async move { fs.allocate(handle.0, offset, len, zero, keep).await };
        self.run_bounded("fallocate", ino, work, move |out| reply_empty(reply, out));
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        // The kernel then takes the whole file for data.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        from: FileHandle,
        from_at: u64,
        ino: INodeNo,
        to: FileHandle,
        to_at: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let len = len.min(u64::from(u32::MAX));
        let work = move |fs: Arc<Fs>| async move { fs.copy_range(from.0, to.0, (from_at, to_at), len).await };
        // The store may take long to copy, as it may for a close.
        self.spawn("copy_file_range", ino, work, move |out| match out {
            Ok(size) => reply.written(size as u32),
            Err(f) => reply.error(errno(&f)),
        });
    }
}

/// The kernel's number for the mount's own directory must be ours.
const _: () = assert!(ROOT == INodeNo::ROOT.0);
