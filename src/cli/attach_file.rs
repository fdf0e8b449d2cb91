//! `windlass attach --file`: a volume as a file of this host, by FUSE. For loop devices, for programs that want a file, for
//! users who aren't root, and where the kernel has no client for NBD.
//!
//! A process stays for each file. The kernel keeps nothing of it (direct I/O), so that an answer is the daemon's. When the daemon
//! dies and comes again, requests wait and are sent anew: what it acknowledged before it has kept.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session, TimeOrNow, WriteFlags,
};
use futures::future::select;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::attach_device::{AGAIN, LOOK, PATIENCE, ask_held};
use super::attach_instructions::{Attach, Disk, look};
use super::attachments::{self, DeviceOf};
use super::export::{ALLOCATION, READS_AS_ZEROS};
use super::{Global, detach_process, mount, output};
use crate::daemon::{StateDir, signals};
use windlass_base::rt::{RealRuntime, Rt};
use windlass_base::{Error, Kind, Result, ResultExt as _};
use windlass_nbd as nbd;

/// Number of fuser's event loops.
const THREADS: usize = 2;
/// Most requests that the kernel may have under way in the background.
const BACKGROUND: u16 = 64;
/// Most bytes that one request carries.
const TRANSFER_MAX: u32 = 1 << 20;
/// Most bytes of a request that carries no data.
const RANGE_MAX: u64 = 1 << 30;
/// Time for which the kernel may believe the size.
const SIZE_TTL: Duration = Duration::from_secs(1);
const SECTOR: u64 = 512;
const BLOCK: u32 = 4096;
/// Mode bits of fallocate(2).
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;
/// Flag O_DSYNC of open(2), which is in O_SYNC too. The constant of that name in rustix is O_SYNC.
const DSYNC: i32 = 0o10000;
/// Values of lseek(2)'s `whence`.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// Attaches the volume and serves the file. It starts a process in the background for that, which has
/// `--detached`.
pub async fn attach(global: &Global, args: &Attach, file: &Path) -> Result<ExitCode> {
    if !args.detached {
        return detach_process::leave_behind("the file").await;
    }
    signals::outlive_hangup();
    let file = PathBuf::from(mount::absolute(file)?);
    let home = StateDir::locate()?;
    let disk = look(global, args).await?;
    attachments::refuse_second(&disk.shows)?;
    make_place(&file)?;
    let rt = Rt::new(RealRuntime::current());
    let (export, read_only, shows) = (disk.export.clone(), disk.read_only, disk.shows.clone());
    let daemon = Daemon { rt: rt.clone(), home: home.clone(), disk };
    let (up, held) = daemon.connect(None).await?;
    let link = Arc::new(Link::new(&rt, &export, Box::new(daemon), (up, held)));
    let (ended, mut over) = watch::channel(false);
    let face = FileServer { link: link.clone(), read_only, ended };
    let session = Session::new(face, &file, &config(&shows, read_only)).and_then(Session::spawn);
    let _session = session.context(|| format!("making {} a file of {export}", file.display()))?;
    match global.json {
        true => output::line(&json!({ "export": export, "file": file }).to_string()),
        false => output::line(&file.display().to_string()),
    }
    detach_process::let_go(&home.device_log(), "ready")?;
    let kept = std::pin::pin!(link.keep());
    let gone = std::pin::pin!(async {
        let (gone, signal) =
            (std::pin::pin!(over.wait_for(|over| *over)), std::pin::pin!(signals::terminated()));
        select(gone, signal).await;
    });
    select(kept, gone).await;
    let flushed = rt.timeout(PATIENCE, Box::pin(link.flush())).await;
    if let Err(error) = flushed.unwrap_or_else(|| Err(silent())) {
        tracing::warn!(%error, export, "what was written last may not be flushed");
    }
    tracing::info!(file = %file.display(), export, "the file is let go");
    Ok(ExitCode::SUCCESS)
}

/// Makes an empty file at the path where there is none. A file that has bytes of its own is refused: the
/// mount would hide them.
fn make_place(file: &Path) -> Result<()> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(file, flags, Mode::from_raw_mode(0o600));
    let found = opened.and_then(rustix::fs::fstat).map_err(std::io::Error::from);
    let found = found.context(|| format!("making {}", file.display()))?;
    if rustix::fs::FileType::from_raw_mode(found.st_mode) != rustix::fs::FileType::RegularFile
        || found.st_size != 0
    {
        let why = format!("{} is no empty file: name one, or one that is not there yet", file.display());
        return Err(Error::new(Kind::Refused, why));
    }
    Ok(())
}

fn config(shows: &DeviceOf, read_only: bool) -> Config {
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName(shows.to_string()), MountOption::Subtype("windlass-file".into())];
    if read_only {
        config.mount_options.push(MountOption::RO);
    }
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}

type Connected = Result<(Arc<nbd::Client>, Value)>;

/// The ways in which the daemon is asked.
#[async_trait]
trait Reach: Send + Sync {
    /// Connects, and makes sure that the export still is what it was. `Fenced`: it never will be again. Any
    /// other error of a daemon may be over in a moment: it has just begun, and its stores or its keys are not
    /// there yet.
    async fn connect(&self, held: Option<&Value>) -> Connected;
    /// Asks what the export is now, as `ask_held` does.
    async fn held(&self, held: Option<&Value>) -> Result<Value>;
}

struct Daemon {
    rt: Rt,
    home: StateDir,
    disk: Disk,
}

#[async_trait]
impl Reach for Daemon {
    async fn connect(&self, held: Option<&Value>) -> Connected {
        let Disk { address, export, .. } = &self.disk;
        let client = nbd::Client::connect_to_map(&self.rt, address, export, &[ALLOCATION]).await?;
        // Another volume may have the name by now, or others have had the volume: what they have is none of this file's.
        Ok((Arc::new(client), self.held(held).await?))
    }

    async fn held(&self, held: Option<&Value>) -> Result<Value> {
        ask_held(&self.rt, &self.home, &self.disk, held).await
    }
}

fn silent() -> Error {
    Error::new(Kind::Timeout, "no daemon answers")
}

/// The states of the connection to the daemon.
#[derive(Clone)]
enum State {
    Up(Arc<nbd::Client>),
    Down,
    /// The file answers no more, for good; the text says why.
    Over(String),
}

/// The connection to the daemon, which is made anew when it breaks.
struct Link {
    rt: Rt,
    export: String,
    daemon: Box<dyn Reach>,
    /// The volume, and the ownership under which it was last seen. A later daemon must go on from there.
    held: Mutex<Value>,
    /// True once `held` was looked at after the connection's first write, by which the volume may have become
    /// this host's.
    is_held_known: AtomicBool,
    state: watch::Sender<State>,
    /// Rings when a connection has broken.
    broken: Notify,
}

impl Link {
    fn new(rt: &Rt, export: &str, daemon: Box<dyn Reach>, (up, held): (Arc<nbd::Client>, Value)) -> Link {
        let (rt, export, state) = (rt.clone(), export.to_owned(), watch::Sender::new(State::Up(up)));
        let (held, is_held_known) = (Mutex::new(held), AtomicBool::new(false));
        Link { rt, export, daemon, held, is_held_known, state, broken: Notify::new() }
    }

    /// Connects anew whenever a connection breaks. Never returns: where the volume can't be gone on with, the
    /// mount stays until somebody takes it away.
    async fn keep(&self) {
        loop {
            let (look, broken) =
                (std::pin::pin!(self.rt.sleep(LOOK)), std::pin::pin!(self.broken.notified()));
            select(look, broken).await;
            let is_up = matches!(&*self.state.borrow(), State::Up(client) if !client.is_broken());
            if is_up {
                self.look_at_held().await;
                continue;
            }
            self.state.send_replace(State::Down);
            match self.connect_again().await {
                Ok((client, now)) => {
                    *self.held.lock() = now;
                    self.is_held_known.store(false, Ordering::Release);
                    tracing::info!(export = self.export, "connected anew");
                    self.state.send_replace(State::Up(client));
                }
                Err(error) => {
                    tracing::error!(%error, export = self.export, "the file answers no more: detach it");
                    self.state.send_replace(State::Over(error.to_string()));
                    // The mount stays until somebody takes it away, so that nobody writes into the file below it.
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Connects anew, however often it takes. `Err`: the name is another volume's now, or others have had the
    /// volume.
    async fn connect_again(&self) -> Connected {
        let mut told = String::new();
        loop {
            let held = self.held.lock().clone();
            match self.daemon.connect(Some(&held)).await {
                Err(error) if !error.is(Kind::Fenced) => {
                    let now = error.to_string();
                    if now != told {
                        tracing::warn!(export = self.export, error = now, "it can't be connected yet");
                        told = now;
                    }
                    self.rt.sleep(AGAIN).await;
                }
                connected => return connected,
            }
        }
    }

    /// Asks the daemon, and asks again where it has gone meanwhile. A daemon that is there and does not
    /// answer is waited for without limit, as the kernel does for a device. It may still do what it was
    /// asked, and it waits itself for stores that are away.
    async fn with<T: Send, F>(&self, ask: impl Fn(Arc<nbd::Client>) -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        loop {
            let client = self.up().await?;
            match ask(client.clone()).await {
                Err(_) if client.is_broken() => self.broken.notify_one(),
                answered => return answered,
            }
        }
    }

    /// Returns a connection that is not known to be broken. Where there is none it waits for one, as long as
    /// the kernel would for a device.
    async fn up(&self) -> Result<Arc<nbd::Client>> {
        let mut states = self.state.subscribe();
        let known = async {
            let up = states.wait_for(|state| match state {
                State::Up(client) => !client.is_broken(),
                State::Down => false,
                State::Over(_) => true,
            });
            up.await.map(|state| state.clone())
        };
        match self.rt.timeout(PATIENCE, Box::pin(known)).await {
            Some(Ok(State::Up(client))) => Ok(client),
            Some(Ok(State::Over(why))) => Err(Error::new(Kind::Refused, why)),
            Some(Ok(State::Down) | Err(_)) => Err(Error::new(Kind::Closed, "the process ends")),
            None => Err(silent()),
        }
    }

    /// Asks the daemon what the export is now, and keeps the answer. False: nobody answers.
    async fn look_at_held(&self) -> bool {
        let held = self.held.lock().clone();
        match self.daemon.held(Some(&held)).await {
            Ok(now) => {
                *self.held.lock() = now;
                true
            }
            Err(_) => false,
        }
    }

    /// Asks the daemon, like `with`, for a change of the volume. By its first write the volume becomes this
    /// host's, and nobody may count on that write before this process knows of it. If the daemon died in
    /// between, the next one would take the file for one that others have outrun.
    async fn change<F>(&self, ask: impl Fn(Arc<nbd::Client>) -> F + Send) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send,
    {
        self.with(ask).await?;
        if !self.is_held_known.load(Ordering::Acquire) && self.look_at_held().await {
            self.is_held_known.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Writes. `durable`: the bytes survive what a flush survives.
    async fn write(&self, offset: u64, data: Bytes, durable: bool) -> Result<()> {
        self.change(|client| {
            let data = data.clone();
            async move { client.write(offset, data, durable).await }
        })
        .await
    }

    async fn flush(&self) -> Result<()> {
        self.with(|client| async move { client.flush().await }).await
    }

    /// Returns the size that the daemon told last.
    async fn size(&self) -> Result<u64> {
        self.with(|client| async move { Ok(client.info().size) }).await
    }

    /// Makes zeros of the range; they become holes where the volume can have them, unless `keep`.
    async fn zero(&self, range: std::ops::Range<u64>, keep: bool) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let part = RANGE_MAX.min(range.end - at) as u32;
            self.change(|client| async move { client.write_zeroes(at, part, false, keep).await }).await?;
            at += u64::from(part);
        }
        Ok(())
    }

    /// Returns the offset of the next data, or else of the next hole. `None`: there is none behind `from`.
    async fn next(&self, from: u64, data: bool) -> Result<Option<u64>> {
        let (size, mut at) = (self.size().await?, from);
        while at < size {
            let part = RANGE_MAX.min(size - at) as u32;
            let told = self.with(|client| async move { client.extents(ALLOCATION, at, part).await }).await?;
            for extent in told {
                if (extent.flags & READS_AS_ZEROS == 0) == data {
                    return Ok(Some(at));
                }
                at = (at + extent.len).min(size);
            }
        }
        // The end is a hole.
        Ok((!data && from < size).then_some(size))
    }
}

fn errno(error: &Error) -> Errno {
    match error.kind() {
        Kind::NoSpace => Errno::ENOSPC,
        Kind::ReadOnly => Errno::EROFS,
        Kind::Denied => Errno::EPERM,
        Kind::Usage | Kind::Invalid => Errno::EINVAL,
        Kind::Unsupported => Errno::EOPNOTSUPP,
        _ => Errno::EIO,
    }
}

/// Tells whether a write must be durable, by O_DSYNC or O_SYNC of the file or of the one write. With direct
/// I/O the kernel asks for no flush behind such a write: it passes the flag on.
fn is_durable(flags: OpenFlags) -> bool {
    flags.0 & DSYNC != 0
}

/// The FUSE server, which the kernel asks.
struct FileServer {
    link: Arc<Link>,
    read_only: bool,
    ended: watch::Sender<bool>,
}

impl FileServer {
    /// Runs the work as a task, which replies once it is done.
    fn run<T, F>(
        &self,
        work: impl FnOnce(Arc<Link>) -> F,
        reply: impl FnOnce(std::result::Result<T, Errno>) + Send + 'static,
    ) where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (link, rt) = (self.link.clone(), self.link.rt.clone());
        let work = work(link.clone());
        rt.spawn(async move {
            let done = work.await;
            if let Err(error) = &done {
                tracing::warn!(%error, export = link.export, "a request of the file failed");
            }
            reply(done.map_err(|error| errno(&error)));
        })
        .detach();
    }

    fn attr(&self, size: u64) -> FileAttr {
        let perm = if self.read_only { 0o400 } else { 0o600 };
        FileAttr {
            ino: INodeNo::ROOT,
            size,
            blocks: size.div_ceil(SECTOR),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm,
            nlink: 1,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }

    fn tell_attr(&self, reply: ReplyAttr) {
        let empty = self.attr(0);
        self.run(
            |link| async move { link.size().await },
            move |out| match out {
                Ok(size) => {
                    reply.attr(&SIZE_TTL, &FileAttr { size, blocks: size.div_ceil(SECTOR), ..empty });
                }
                Err(errno) => reply.error(errno),
            },
        );
    }
}

fn tell_done(reply: ReplyEmpty, out: std::result::Result<(), Errno>) {
    match out {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for FileServer {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // An older kernel does without.
        for flag in [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP] {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_max_write(TRANSFER_MAX);
        Ok(())
    }

    fn destroy(&mut self) {
        self.ended.send_replace(true);
    }

    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.tell_attr(reply);
    }

    /// Accepts and ignores new times. A disk's size changes by `windlass volume resize` alone.
    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if mode.is_some() || uid.is_some() || gid.is_some() || size.is_some() {
            return reply.error(Errno::EPERM);
        }
        self.tell_attr(reply);
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.read_only && flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let work = move |link: Arc<Link>| async move {
            let end = offset.saturating_add(size.into()).min(link.size().await?);
            let (mut at, mut parts) = (offset, Vec::new());
            while at < end {
                let part = u64::from(TRANSFER_MAX).min(end - at) as u32;
                parts.push(link.with(|client| async move { client.read(at, part).await }).await?);
                at += u64::from(part);
            }
            Ok(parts)
        };
        self.run(work, move |out: std::result::Result<Vec<Bytes>, Errno>| match out {
            Ok(parts) => match parts.as_slice() {
                [whole] => reply.data(whole),
                parts => reply.data(&parts.concat()),
            },
            Err(errno) => reply.error(errno),
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = Bytes::copy_from_slice(data);
        let durable = is_durable(flags);
        let work = move |link: Arc<Link>| async move {
            // A disk does not grow by a write behind its end.
            let room = link.size().await?.saturating_sub(offset);
            let data = data.slice(..data.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            if data.is_empty() {
                return Err(Error::new(Kind::NoSpace, "a write behind the end of the disk"));
            }
            let written = data.len() as u32;
            link.write(offset, data, durable).await?;
            Ok(written)
        };
        self.run(work, move |out| match out {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // As with a device, a close promises nothing.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.run(|link| async move { link.flush().await }, move |out| tell_done(reply, out));
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let keep = match mode {
            mode if mode == PUNCH_HOLE | KEEP_SIZE => false,
            mode if mode & !KEEP_SIZE == ZERO_RANGE => true,
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        let work = move |link: Arc<Link>| async move {
            let (size, end) = (link.size().await?, offset.saturating_add(len));
            if mode & KEEP_SIZE == 0 && end > size {
                return Err(Error::new(Kind::NoSpace, "zeros behind the end of the disk"));
            }
            link.zero(offset..end.min(size), keep).await
        };
        self.run(work, move |out| tell_done(reply, out));
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let data = match whence {
            SEEK_DATA => true,
            SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(from) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        self.run(
            move |link| async move { link.next(from, data).await },
            move |out| match out {
                Ok(Some(at)) => reply.offset(at as i64),
                Ok(None) => reply.error(Errno::ENXIO),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 1, 0, BLOCK, 255, BLOCK);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a user's file
mod tests {
    use super::*;
    use tokio_util::sync::CancellationToken;
    use windlass_nbd::sim::{House, client_of, simulate};

    /// A daemon that says what it was given, one after another, and serves the house then. The volume is under this ownership.
    struct Script {
        house: Arc<House>,
        then: Mutex<Vec<Kind>>,
        epoch: Arc<Mutex<u64>>,
    }

    #[async_trait]
    impl Reach for Script {
        async fn connect(&self, held: Option<&Value>) -> Connected {
            let refused = self.then.lock().pop();
            match refused {
                // As the server says it.
                Some(Kind::Refused) => client_of(&self.house, "owned").await.0.map(|_| unreachable!()),
                Some(kind) => Err(Error::new(kind, "not now")),
                None => {
                    let client = client_of(&self.house, "disk").await.0?;
                    let now = self.held(None).await?;
                    match held == Some(&now) {
                        true => Ok((Arc::new(client), now)),
                        false => Err(Error::new(Kind::Fenced, "others have had it")),
                    }
                }
            }
        }
        async fn held(&self, _: Option<&Value>) -> Result<Value> {
            Ok(json!(*self.epoch.lock()))
        }
    }

    /// A file whose daemon, once it has gone, answers so. It goes when the token is cancelled.
    async fn link_to(house: &Arc<House>, then: &[Kind]) -> (Arc<Link>, CancellationToken, Arc<Mutex<u64>>) {
        let (client, stop) = client_of(house, "disk").await;
        let (then, epoch) = (Mutex::new(then.iter().rev().copied().collect()), Arc::default());
        let daemon = Script { house: house.clone(), then, epoch: Arc::clone(&epoch) };
        let up = (Arc::new(client.unwrap()), json!(0));
        let link = Arc::new(Link::new(&house.rt, "p/v", Box::new(daemon), up));
        let kept = link.clone();
        house.rt.spawn(async move { kept.keep().await }).detach();
        (link, stop, epoch)
    }

    /// The daemon goes, and that is seen.
    async fn gone(link: &Link, stop: &CancellationToken) {
        let mut states = link.state.subscribe();
        let State::Up(now) = states.borrow().clone() else { return };
        stop.cancel();
        let is_seen = |state: &State| !matches!(state, State::Up(up) if Arc::ptr_eq(up, &now));
        states.wait_for(is_seen).await.unwrap();
    }

    #[test]
    fn a_daemon_that_can_not_serve_the_volume_yet_is_asked_again() {
        simulate(|rt| async move {
            let house = House::new(&rt);
            let (link, stop, _) = link_to(&house, &[Kind::Closed, Kind::Refused, Kind::NotFound]).await;
            link.write(0, Bytes::from_static(b"one"), false).await.unwrap();
            gone(&link, &stop).await;
            link.write(3, Bytes::from_static(b"two"), false).await.unwrap();
            let read = link.with(|client| async move { client.read(0, 6).await }).await.unwrap();
            assert_eq!(read, "onetwo");
        });
    }

    #[test]
    fn a_daemon_that_goes_soon_after_a_first_write_is_followed_by_the_next() {
        simulate(|rt| async move {
            let house = House::new(&rt);
            let (link, stop, epoch) = link_to(&house, &[]).await;
            // The write makes it this host's.
            *epoch.lock() = 1;
            link.zero(0..4096, true).await.unwrap();
            gone(&link, &stop).await;
            link.flush().await.unwrap();
        });
    }

    #[test]
    fn who_has_become_another_volume_answers_no_more() {
        simulate(|rt| async move {
            let house = House::new(&rt);
            let (link, stop, _) = link_to(&house, &[Kind::Closed, Kind::Fenced]).await;
            gone(&link, &stop).await;
            let (asked, why) = (rt.now(), link.flush().await.unwrap_err());
            assert!(why.is(Kind::Refused) && rt.now().since(asked) < PATIENCE, "{why}");
        });
    }

    /// The daemon may still do what it was asked, and an error would say that it does not.
    #[test]
    fn a_daemon_that_is_there_is_waited_for_and_one_that_is_gone_for_a_while() {
        simulate(|rt| async move {
            let house = House::new(&rt);
            let (link, stop, _) = link_to(&house, &[Kind::Closed; 5000]).await;
            house.state.lock().delay = PATIENCE * 2;
            link.write(0, Bytes::from_static(b"one"), false).await.unwrap();
            link.flush().await.unwrap();
            house.state.lock().delay = Duration::ZERO;
            gone(&link, &stop).await;
            let (asked, why) = (rt.now(), link.flush().await.unwrap_err());
            assert!(why.is(Kind::Timeout), "{why}");
            assert!(rt.now().since(asked) >= PATIENCE);
        });
    }

    #[test]
    fn a_synchronous_write_is_flushed_before_it_is_answered() {
        // O_RDWR with O_DSYNC, with O_SYNC, and with O_DIRECT.
        let durable = [0o10002, 0o4010002, 0o40002].map(|flags| is_durable(OpenFlags(flags)));
        assert_eq!(durable, [true, true, false]);
        simulate(|rt| async move {
            let house = House::new(&rt);
            let (link, _stop, _) = link_to(&house, &[]).await;
            for (wanted, log) in [(false, &["write 0+3", ".write 0+3"][..]), (true, &["flush", ".flush"][..])]
            {
                link.write(0, Bytes::from_static(b"one"), wanted).await.unwrap();
                assert!(house.log().ends_with(&log.iter().map(ToString::to_string).collect::<Vec<_>>()));
            }
        });
    }

    #[test]
    fn a_file_with_bytes_of_its_own_is_not_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("v.img");
        make_place(&file).unwrap();
        make_place(&file).unwrap();
        std::fs::write(&file, "x").unwrap();
        assert!(make_place(&file).unwrap_err().is(Kind::Refused));
        assert!(make_place(dir.path()).is_err());
    }
}
