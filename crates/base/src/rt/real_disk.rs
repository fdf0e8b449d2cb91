//! The real disk, and threads that write to it. The bans of clippy.toml do not hold here.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::cell::Cell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use xxhash_rust::xxh3::xxh3_64;

use super::direct;
use super::disk::{Disk, DiskFile, DiskLock, OpenHow, write_zeros};
use super::lock_holder;
use super::write_parts::write_parts;

thread_local! {
    /// Quick disk jobs may be done on this thread: no event loop runs on it.
    static PATIENT: Cell<bool> = const { Cell::new(false) };
}

/// A guard: while it lives, its thread does quick disk jobs itself instead of waiting for a disk thread.
pub(super) struct InlineIoGuard;

impl InlineIoGuard {
    pub(super) fn now() -> InlineIoGuard {
        PATIENT.set(true);
        InlineIoGuard
    }
}

impl Drop for InlineIoGuard {
    fn drop(&mut self) {
        PATIENT.set(false);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Expected duration of a disk job. A quick one waits for no more than the page cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum JobClass {
    Quick,
    Slow,
}

impl JobClass {
    fn of(sync: bool) -> JobClass {
        if sync { JobClass::Slow } else { JobClass::Quick }
    }

    fn is_here(self) -> bool {
        self == JobClass::Quick && PATIENT.get()
    }
}

/// Number of threads that write. A sync in one folder holds up writes of other folders that share its thread.
const WRITERS: usize = 4;

/// The local disk. Writes and syncs go through threads of their own, so that an event loop never waits for
/// the disk.
///
/// All writes of one folder go through the same thread: a write that nobody waits for any more never comes
/// after what is done there later. A sync changes nothing that a later one could be too late for: syncs that
/// come alone have other threads, and hold up no write. A log's small writes are copied into the page cache
/// sooner than a thread is woken, and are done where they come from.
#[derive(Debug)]
pub struct RealDisk {
    writers: [Writer; WRITERS],
    syncers: [Writer; WRITERS],
}

#[derive(Clone, Debug)]
struct Writer {
    jobs: mpsc::Sender<Job>,
    /// Jobs that are not done, whether anybody waits for them or not.
    undone: Arc<AtomicUsize>,
}

/// Counts a job until it is done, panicked or dropped.
struct QueueGuard(Arc<AtomicUsize>);

impl Drop for QueueGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Writer {
    fn is_idle(&self) -> bool {
        self.undone.load(Ordering::Acquire) == 0
    }
}

fn start_writer() -> Writer {
    let (writer, jobs) = mpsc::channel::<Job>();
    std::thread::Builder::new()
        .name("disk".into())
        .spawn(move || {
            for job in jobs {
                job();
            }
        })
        .expect("the operating system starts a thread");
    Writer { jobs: writer, undone: Arc::default() }
}

impl RealDisk {
    pub fn start() -> Arc<RealDisk> {
        let threads = || std::array::from_fn(|_| start_writer());
        Arc::new(RealDisk { writers: threads(), syncers: threads() })
    }

    fn writer(&self, path: &Path) -> &Writer {
        &self.writers[number(path)]
    }

    /// Returns the thread that writes to this file and the one that syncs it.
    fn threads(&self, path: &Path) -> (Writer, Writer) {
        let number = number(path);
        (self.writers[number].clone(), self.syncers[number].clone())
    }
}

/// Returns the number of the threads that work for the folder of this file.
fn number(path: &Path) -> usize {
    let folder = path.parent().unwrap_or(path);
    xxh3_64(folder.as_os_str().as_bytes()) as usize % WRITERS
}

async fn ordered<T: Send + 'static>(
    writer: &Writer,
    pace: JobClass,
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // Jobs of one folder keep their order even when nobody waits for the earlier ones any more. A job may run
    // here only while its thread has nothing to do: otherwise it would overtake an abandoned write.
    if pace.is_here() && writer.is_idle() {
        return job();
    }
    let (tx, rx) = oneshot::channel();
    let gone = || io::Error::other("the disk thread has ended");
    writer.undone.fetch_add(1, Ordering::AcqRel);
    let undone = QueueGuard(writer.undone.clone());
    writer
        .jobs
        .send(Box::new(move || {
            let done = job();
            drop(undone);
            let _ = tx.send(done);
        }))
        .map_err(|_| gone())?;
    rx.await.map_err(|_| gone())?
}

async fn blocking<T: Send + 'static>(
    pace: JobClass,
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if pace.is_here() {
        return job();
    }
    tokio::task::spawn_blocking(job).await.map_err(io::Error::other)?
}

/// Longest read in bytes that is tried without waiting. A longer one copies for too long to be an event
/// loop's work.
const CACHED_MAX: usize = 128 << 10;

/// Reads from the page cache alone. `None`: the cache lacks a part of the range, or the range is longer than
/// `CACHED_MAX`.
fn cached(file: &File, offset: u64, len: usize) -> Option<Bytes> {
    use rustix::io::{ReadWriteFlags, preadv2};
    if len > CACHED_MAX {
        return None;
    }
    let mut buf = vec![0; len];
    let got = preadv2(file, &mut [io::IoSliceMut::new(&mut buf)], offset, ReadWriteFlags::NOWAIT).ok()?;
    (got == len).then(|| buf.into())
}

#[derive(Debug)]
struct RealFile {
    file: Arc<File>,
    /// A second opening of a log, for writes past the page cache. `None`: the file is no log, or the
    /// filesystem refuses.
    direct: Option<Arc<Direct>>,
    writer: Writer,
    syncer: Writer,
}

/// A log's file, opened for writes past the page cache.
#[derive(Debug)]
struct Direct {
    file: File,
    refused: AtomicBool,
    /// Beginning of the last write into the page cache that had to wait.
    waited: Mutex<Option<Instant>>,
}

/// A write into the page cache that takes longer waits for the disk: the kernel lets nobody write more while
/// it has too much to write out.
const WAITED: Duration = Duration::from_millis(1);
/// Pause after such a wait during which nothing is written on an event loop.
const WAITED_FOR: Duration = Duration::from_secs(1);

/// Returns how often this thread has waited for something in the kernel. Losing the processor to others is
/// not counted: where processors are few, that happens within every copy that is long enough.
fn waits() -> i64 {
    use nix::sys::resource::{UsageWho, getrusage};
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.voluntary_context_switches())
}

impl Direct {
    /// Opens a log a second time, for writes past the page cache. `None`: the filesystem has no such thing.
    fn open(path: &Path) -> Option<Direct> {
        let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
        Some(Direct { file, refused: AtomicBool::new(false), waited: Mutex::default() })
    }

    /// Runs a job on the calling thread and notes whether it had to wait. A copy into the page cache is done
    /// sooner than a thread is woken, as long as the kernel takes it at once.
    fn here<T>(&self, job: impl FnOnce() -> T) -> T {
        let (began, before) = (Instant::now(), waits());
        let done = job();
        if began.elapsed() > WAITED && waits() != before {
            *self.waited.lock() = Some(began);
        }
        done
    }

    fn is_quick(&self) -> bool {
        self.waited.lock().is_none_or(|at| at.elapsed() > WAITED_FOR)
    }

    /// Writes the parts past the page cache. False: they must be written otherwise.
    fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<bool> {
        if self.refused.load(Ordering::Relaxed) || !direct::fits(offset, parts) {
            return Ok(false);
        }
        match direct::write(&self.file, offset, parts) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::INVAL) => {
                self.refused.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// Syncs a file's data. A log that was removed by its name while it is open would take syncs as ever, and
/// nobody would ever read it: that is `NotFound`.
fn sync_data(file: &File, is_log: bool) -> io::Result<()> {
    file.sync_data()?;
    if is_log && file.metadata()?.nlink() == 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the file was removed while it was in use"));
    }
    Ok(())
}

#[async_trait]
impl DiskFile for RealFile {
    async fn size(&self) -> io::Result<u64> {
        size_of(&self.file)
    }
    async fn pread(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let len = len.min(size_of(&self.file)?.saturating_sub(offset) as usize);
        if let Some(bytes) = cached(&self.file, offset, len) {
            return Ok(bytes);
        }
        let file = self.file.clone();
        blocking(JobClass::Quick, move || {
            let mut buf = vec![0; len];
            let mut done = 0;
            while done < len {
                match file.read_at(&mut buf[done..], offset + done as u64) {
                    Ok(0) => break,
                    Ok(n) => done += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            buf.truncate(done);
            Ok(buf.into())
        })
        .await
    }
    async fn pwrite(&self, offset: u64, parts: Vec<Bytes>, sync: bool) -> io::Result<()> {
        if let Some(log) = &self.direct
            && !sync
            && !direct::fits(offset, &parts)
            && log.is_quick()
            && self.writer.is_idle()
        {
            return log.here(|| write_parts(&*self.file, offset, &parts)).map_err(io::Error::from);
        }
        let (file, direct) = (self.file.clone(), self.direct.clone());
        ordered(&self.writer, JobClass::of(sync), move || {
            let written = direct.as_ref().map_or(Ok(false), |d| d.write(offset, &parts))?;
            if !written {
                write_parts(&*file, offset, &parts)?;
            }
            if sync { sync_data(&file, direct.is_some()) } else { Ok(()) }
        })
        .await
    }
    async fn sync(&self) -> io::Result<()> {
        let (file, is_log) = (self.file.clone(), self.direct.is_some());
        ordered(&self.syncer, JobClass::Slow, move || sync_data(&file, is_log)).await
    }
    async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let file = self.file.clone();
        ordered(&self.writer, JobClass::Slow, move || {
            match rustix::fs::fallocate(&*file, rustix::fs::FallocateFlags::empty(), offset, len) {
                // A filesystem without fallocate: writing zeros reserves as well.
                Err(rustix::io::Errno::OPNOTSUPP) => {
                    let zeros = vec![0; 1 << 20];
                    let mut at = offset;
                    while at < offset + len {
                        let n = (offset + len - at).min(zeros.len() as u64);
                        file.write_all_at(&zeros[..n as usize], at)?;
                        at += n;
                    }
                    Ok(())
                }
                other => other.map_err(io::Error::from),
            }
        })
        .await
    }
    async fn set_len(&self, len: u64) -> io::Result<()> {
        let file = self.file.clone();
        ordered(&self.writer, JobClass::Slow, move || file.set_len(len)).await
    }
    async fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        let file = self.file.clone();
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let done =
            ordered(&self.writer, JobClass::Slow, move || match fallocate(&*file, flags, offset, len) {
                // Not every filesystem has that, and no device for parts of its sectors.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => Ok(false),
                other => other.map(|()| true).map_err(io::Error::from),
            });
        match done.await? {
            true => Ok(()),
            false => write_zeros(self, offset, len).await,
        }
    }
    async fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        let file = self.file.clone();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        ordered(&self.writer, JobClass::Slow, move || match fallocate(&*file, flags, offset, len) {
            Err(why @ (rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS)) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, why))
            }
            other => other.map_err(io::Error::from),
        })
        .await
    }
}

/// Returns the size of a file or of a block device, whose metadata don't tell it.
fn size_of(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    match metadata.file_type().is_block_device() {
        // Reads and writes name their offsets: the file's own position is nobody's.
        true => Ok(rustix::fs::seek(file, rustix::fs::SeekFrom::End(0))?),
        false => Ok(metadata.len()),
    }
}

#[derive(Debug)]
struct RealLock {
    file: File,
    place: u64,
}

impl DiskLock for RealLock {
    fn place(&self) -> u64 {
        self.place
    }
    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        Some(std::os::fd::AsFd::as_fd(&self.file))
    }
}

/// Identifies a file by its inode number and its birth time, which no copy has alike. The device is left out:
/// its number changes between boots.
fn place_of(file: &File) -> io::Result<u64> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&stat.stx_ino.to_le_bytes());
    bytes[8..16].copy_from_slice(&stat.stx_btime.tv_sec.to_le_bytes());
    bytes[16..].copy_from_slice(&stat.stx_btime.tv_nsec.to_le_bytes());
    Ok(xxhash_rust::xxh3::xxh3_64(&bytes).max(1))
}

impl Drop for RealLock {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being started holds the file too until its program runs.
        let _ = rustix::fs::flock(&self.file, rustix::fs::FlockOperation::Unlock);
    }
}

fn open_real(path: &Path, how: OpenHow) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // What users store is in them: nobody else's, whatever the umask says.
    options.read(true).mode(0o600);
    match how {
        OpenHow::Read => {}
        OpenHow::Write => drop(options.write(true)),
        OpenHow::Create => drop(options.write(true).create(true).truncate(false)),
        OpenHow::CreateNew => drop(options.write(true).create_new(true)),
    }
    let file = options.open(path)?;
    if !matches!(how, OpenHow::Read) {
        // One that was made before it was so.
        let metadata = file.metadata()?;
        let mut may = metadata.permissions();
        if metadata.is_file() && may.mode() & 0o077 != 0 {
            may.set_mode(0o600);
            // Another user's, or a filesystem without modes: no reason to do without the file.
            if let Err(error) = file.set_permissions(may) {
                tracing::debug!(%error, "{} stays readable by others", path.display());
            }
        }
    }
    Ok(file)
}

#[async_trait]
impl Disk for RealDisk {
    async fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        let (writer, syncer) = self.threads(path);
        let path = path.to_owned();
        let file = blocking(JobClass::Quick, move || open_real(&path, how)).await?;
        Ok(Arc::new(RealFile { file: Arc::new(file), direct: None, writer, syncer }))
    }
    async fn open_log(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        let (writer, syncer) = self.threads(path);
        let path = path.to_owned();
        let open = move || Ok((open_real(&path, how)?, Direct::open(&path).map(Arc::new)));
        let (file, direct) = blocking(JobClass::Slow, open).await?;
        Ok(Arc::new(RealFile { file: Arc::new(file), direct, writer, syncer }))
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let writer = self.writer(from);
        let (from, to) = (from.to_owned(), to.to_owned());
        ordered(writer, JobClass::Quick, move || std::fs::rename(from, to)).await
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        let writer = self.writer(path);
        let path = path.to_owned();
        ordered(writer, JobClass::Slow, move || std::fs::remove_file(path)).await
    }
    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let (writer, dir) = (self.writer(dir), dir.to_owned());
        ordered(writer, JobClass::Slow, move || std::fs::remove_dir(dir)).await
    }
    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let dir = dir.to_owned();
        blocking(JobClass::Slow, move || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(dir)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            Ok(names)
        })
        .await
    }
    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        blocking(JobClass::Slow, move || {
            let mut fresh: Vec<PathBuf> = Vec::new();
            for parent in dir.ancestors() {
                if parent.as_os_str().is_empty() || parent.is_dir() {
                    break;
                }
                fresh.push(parent.to_owned());
            }
            // Names tell as well, and who may write to a folder may replace what is in it.
            DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            for made in fresh {
                if let Some(parent) = made.parent().filter(|p| !p.as_os_str().is_empty()) {
                    File::open(parent)?.sync_all()?;
                }
            }
            Ok(())
        })
        .await
    }
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        blocking(JobClass::Slow, move || File::open(dir)?.sync_all()).await
    }
    async fn lock(&self, path: &Path, note: &str) -> io::Result<Box<dyn DiskLock>> {
        let (path, note) = (path.to_owned(), note.to_owned());
        blocking(JobClass::Slow, move || {
            let mut file = open_real(&path, OpenHow::Create)?;
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let (note, seen) = (std::fs::read_to_string(&path).unwrap_or_default(), file.metadata()?);
                    let since_ms = u64::try_from(seen.mtime()).unwrap_or(0).saturating_mul(1000);
                    let holder = lock_holder::describe(seen.dev(), seen.ino(), &note, since_ms);
                    let why = format!("{} is held by {holder}", path.display());
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
                }
                other => other?,
            }
            // In place: a note that is there leaves its room to the next. A full disk hinders no lock.
            match file.write_all(note.as_bytes()).and_then(|()| file.set_len(note.len() as u64)) {
                Err(e) if !matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                    return Err(e);
                }
                _ => {}
            }
            let place = place_of(&file)?;
            Ok(Box::new(RealLock { file, place }) as Box<dyn DiskLock>)
        })
        .await
    }
    fn boot(&self) -> Option<String> {
        // It is asked for each staged file.
        static BOOT: OnceLock<Option<String>> = OnceLock::new();
        let read = || {
            let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
            Some(id.trim().to_owned()).filter(|id| !id.is_empty() && id.len() <= 64)
        };
        BOOT.get_or_init(read).clone()
    }
    async fn room(&self, dir: &Path) -> Option<u64> {
        let dir = dir.to_owned();
        let room = move || Ok(rustix::fs::statvfs(&dir).map(|s| s.f_bavail.saturating_mul(s.f_frsize))?);
        blocking(JobClass::Slow, room).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;
    use futures::future::BoxFuture;

    use super::super::{Instant, RealRuntime, Rt, Runtime};
    use super::*;
    use crate::Kind;

    #[tokio::test]
    async fn files_are_written_read_and_locked() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::start();
        let sub = dir.path().join("a/b");
        disk.create_dir(&sub).await.unwrap();
        for made in [&sub, sub.parent().unwrap()] {
            let mode = std::fs::metadata(made).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o700, "{}", made.display());
        }
        let path = sub.join("f");
        disk.write_atomic(&path, Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(disk.read(&path, 5).await.unwrap(), "hello");
        assert!(disk.read(&path, 4).await.is_err());
        let file = disk.open(&path, OpenHow::Write).await.unwrap();
        let parts = (0..2500).map(|n| Bytes::from(vec![n as u8; n % 3])).collect::<Vec<_>>();
        file.pwrite(3, parts.clone(), true).await.unwrap();
        assert_eq!(file.pread(0, 9999).await.unwrap(), [b"hel".to_vec(), parts.concat()].concat());
        assert_eq!(disk.list(&sub).await.unwrap(), ["f"]);
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        disk.open(&path, OpenHow::Write).await.unwrap();
        assert_eq!(mode(), 0o600);
        let held = disk.lock(&sub.join("lock"), "pid 1").await.unwrap();
        let again = disk.lock(&sub.join("lock"), "pid 2").await.unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
        assert!(again.to_string().contains(&format!("this process ({})", std::process::id())), "{again}");
        drop(held);
        disk.lock(&sub.join("lock"), "pid 3").await.unwrap();
        let file = File::open(sub.join("lock")).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let also = file.try_clone().unwrap();
        drop(RealLock { file, place: 1 });
        disk.lock(&sub.join("lock"), "pid 4")
            .await
            .expect("whoever else has the file open does not hold the lock");
        drop(also);
    }

    #[tokio::test]
    async fn a_log_that_was_removed_by_its_name_takes_no_sync() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::start();
        let path = dir.path().join("log");
        let file = disk.open_log(&path, OpenHow::Create).await.unwrap();
        file.pwrite(0, vec![vec![1; 4096].into()], true).await.unwrap();
        file.sync().await.unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.sync().await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(file.pwrite(0, vec![vec![2; 4096].into()], true).await.is_err());
    }

    /// Whole pages go past the page cache where the filesystem lets them, all else through it: both see each other.
    #[tokio::test]
    async fn a_log_is_what_was_written_to_it_by_either_way() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::start();
        let file = disk.open_log(&dir.path().join("log"), OpenHow::Create).await.unwrap();
        let mut expected = vec![0; 8 << 20];
        file.allocate(0, expected.len() as u64).await.unwrap();
        for n in 0..40usize {
            let lens: &[usize] = match n % 4 {
                // More than a buffer holds, in parts that don't end with pages.
                0 => &[1, (1 << 20) + 4095, 700_000, (2 << 20) - 4096 - 700_000],
                1 => &[256 << 10],
                2 => &[64, 40, 3992, 0, 8192],
                _ => &[17, 5000],
            };
            let parts: Vec<Bytes> = lens.iter().map(|len| vec![n as u8 + 1; *len].into()).collect();
            let offset = (n * 37 % 1000) * if n % 4 == 3 { 1111 } else { 4096 };
            assert_eq!(direct::fits(offset as u64, &parts), matches!(n % 4, 0 | 1));
            let all = parts.concat();
            expected[offset..offset + all.len()].copy_from_slice(&all);
            file.pwrite(offset as u64, parts, n % 5 == 0).await.unwrap();
            assert!(file.pread(0, 8 << 20).await.unwrap() == expected, "after write {n}");
        }
    }

    #[tokio::test]
    async fn tasks_abort_and_time_out() {
        let rt = super::super::Rt::new(RealRuntime::current());
        let mut task = rt.spawn(std::future::pending::<()>());
        task.abort();
        assert!(task.await.is_err());
        assert_eq!(rt.spawn(async { 7 }).await.unwrap(), 7);
        assert!(rt.timeout(Duration::from_millis(5), std::future::pending::<()>()).await.is_none());
        assert_eq!(rt.cpu(|| 6 * 7).await.unwrap(), 42);
    }

    #[tokio::test]
    async fn a_locked_file_is_told_from_its_copies_wherever_its_folder_is_moved() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::start();
        let at = |name: &str| dir.path().join(name).join("lock");
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let place = disk.lock(&at("a"), "pid 1").await.unwrap().place();
        assert_eq!(disk.lock(&at("a"), "pid 2").await.unwrap().place(), place);
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(disk.lock(&at("b"), "pid 3").await.unwrap().place(), place);
        std::fs::create_dir(dir.path().join("c")).unwrap();
        std::fs::copy(at("b"), at("c")).unwrap();
        assert_ne!(disk.lock(&at("c"), "pid 4").await.unwrap().place(), place);
    }

    /// A job dropped by a runtime that ends never looks like a panic; a panic does.
    #[tokio::test]
    async fn a_dropped_job_has_no_answer_and_a_panic_has_one() {
        struct Ending;
        impl Runtime for Ending {
            fn spawn(&self, _task: BoxFuture<'static, ()>) {}
            fn cpu(&self, job: Box<dyn FnOnce() + Send>) {
                drop(job);
            }
            fn give_way(&self) -> BoxFuture<'static, ()> {
                std::future::ready(()).boxed()
            }
            fn sleep(&self, d: Duration) -> BoxFuture<'static, ()> {
                tokio::time::sleep(d).boxed()
            }
            fn now(&self) -> Instant {
                Instant::default()
            }
            fn wall_ms(&self) -> u64 {
                0
            }
            fn random(&self) -> u64 {
                0
            }
        }
        let ending = Rt::new(Arc::new(Ending));
        assert!(ending.timeout(Duration::from_millis(50), ending.cpu(|| 1)).await.is_none());
        let real = Rt::new(RealRuntime::current());
        let panicked = real.cpu(|| std::panic::resume_unwind(Box::new("told"))).await;
        assert!(matches!(panicked, Err::<(), _>(e) if e.is(Kind::Internal)));
    }

    #[tokio::test]
    async fn what_needs_no_waiting_is_done_on_the_thread_that_begins_it() {
        let rt = Rt::new(RealRuntime::current());
        let (done, mut ends) = tokio::sync::mpsc::unbounded_channel();
        let (go, gone) = oneshot::channel::<()>();
        let stranger = std::thread::spawn(move || {
            let me = || std::thread::current().id();
            let (own, later, timed) = (done.clone(), done.clone(), rt.clone());
            rt.begin(async move { own.send(("at once", me())).unwrap() });
            rt.begin(async { std::panic::resume_unwind(Box::new("told")) });
            rt.begin(async move {
                // Timers and wakings of the first step are the runtime's.
                timed.timeout(Duration::from_secs(60), gone).await.unwrap().unwrap();
                later.send(("later", me())).unwrap();
            });
            let first = ends.try_recv().unwrap();
            assert_eq!(first, ("at once", me()));
            assert!(ends.try_recv().is_err());
            (me(), ends)
        });
        let (stranger, mut ends) = tokio::task::spawn_blocking(|| stranger.join().unwrap()).await.unwrap();
        go.send(()).unwrap();
        let (what, by) = ends.recv().await.unwrap();
        assert_eq!(what, "later");
        assert_ne!(by, stranger);
    }

    #[tokio::test]
    async fn what_is_written_here_comes_after_what_nobody_waits_for_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, rt) = (RealDisk::start(), Rt::new(RealRuntime::current()));
        let path = dir.path().join("f");
        let file = disk.open(&path, OpenHow::Create).await.unwrap();
        let (go, gone) = mpsc::channel::<()>();
        let mut old = {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            Box::pin(ordered(disk.writer(&path), JobClass::Slow, move || {
                gone.recv().unwrap();
                file.write_all_at(b"old", 0)
            }))
        };
        assert!(futures::poll!(&mut old).is_pending());
        drop(old);
        let (done, mut ended) = oneshot::channel();
        let stranger = std::thread::spawn(move || {
            rt.begin(async move {
                file.pwrite(0, vec![Bytes::from_static(b"new")], false).await.unwrap();
                let _ = done.send(());
            });
        });
        tokio::task::spawn_blocking(|| stranger.join().unwrap()).await.unwrap();
        assert!(ended.try_recv().is_err());
        go.send(()).unwrap();
        ended.await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }
}
