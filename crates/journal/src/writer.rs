//! What does the disk work: one task writes and syncs what the ring says, both at once, one makes segments ahead of need.
//!
//! A task of its own, so that a caller that goes away midway leaves nothing half done, and so that whoever comes while
//! a sync is under way shares the next one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::format::{HEADER_MAX, Header};
use super::segment::make_segment;
use super::state::{Granted, Job, Ring, Segment, SyncJob};
use windlass_base::rt::{Disk, DiskLock, OpenHow, Rt};
use windlass_base::{Error, Kind, Lsn, Result, ResultExt as _};
use windlass_keys::{JournalKey, JournalSeal};

/// Time until the next try to make a segment where there was no space.
const SPACE_RETRY: Duration = Duration::from_secs(1);
/// Name of the file that holds room for the largest header.
const RESERVE: &str = "reserve";

/// The part of a journal that its handle and its tasks share.
#[derive(Debug)]
pub struct Shared {
    pub rt: Rt,
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    /// The key by which records are sealed; `None` when the volume is not encrypted.
    pub key: Option<JournalKey>,
    pub ring: Mutex<Ring>,
    /// Is true if the header on the disk says for certain that the journal is void.
    pub void: AtomicBool,
    /// The header as it is on the disk. The lock is held while the file is rewritten.
    pub header: tokio::sync::Mutex<Header>,
    /// Wakes the write loop: there may be something to write.
    pub work: Notify,
    /// Wakes the sync loop: there may be something to sync.
    pub sync_work: Notify,
    /// Held while a segment is made. Whoever lets go of the folder waits for it.
    pub making: tokio::sync::Mutex<()>,
    /// Number of the next new segment file.
    pub next_number: Mutex<u64>,
    /// Becomes true when the write and sync loops have ended.
    pub ended: tokio::sync::watch::Sender<bool>,
    pub lock: Mutex<Option<Box<dyn DiskLock>>>,
}

/// Draws a new seal for one ring; `None` when the volume is not encrypted.
pub fn new_seal(rt: &Rt, key: Option<&JournalKey>) -> Option<JournalSeal> {
    key.map(|key| key.seal(rt.random128()))
}

impl Shared {
    pub fn new_seal(&self) -> Option<JournalSeal> {
        new_seal(&self.rt, self.key.as_ref())
    }

    /// Rewrites the header file, durable on return. The header in memory changes only when the file has.
    pub async fn change_header(&self, change: impl FnOnce(&mut Header) -> Result<()> + Send) -> Result<()> {
        let mut header = self.header.lock().await;
        let mut new = header.clone();
        change(&mut new)?;
        if !new.is_void() {
            // Once the write begins the disk may have the new header, also when the write fails. So from here
            // on the journal is not known to be void.
            self.void.store(false, Ordering::Release);
        }
        write_header(&*self.disk, &self.dir, &new).await?;
        self.void.store(new.is_void(), Ordering::Release);
        *header = new;
        Ok(())
    }

    fn take_number(&self) -> u64 {
        let mut next = self.next_number.lock();
        *next += 1;
        *next - 1
    }

    /// Makes a segment with the next number. A failed attempt gives its number back, so that the next one fails
    /// in the same words.
    pub async fn new_segment(&self, bytes: u64) -> Result<Segment> {
        let number = self.take_number();
        let made = make_segment(&*self.disk, &self.dir, number, bytes).await;
        if made.is_err() {
            let mut next = self.next_number.lock();
            if *next == number + 1 {
                *next = number;
            }
        }
        made
    }

    pub fn give_back(&self, room: &Granted) {
        if room.cost > 0 {
            self.ring.lock().give_back(room.cost, room.generation);
        }
    }

    /// Makes the first two segments, which every journal that takes records has.
    pub async fn new_segments(&self, least: u64) -> Result<Vec<Segment>> {
        let first = self.new_segment(least).await?;
        match self.new_segment(least).await {
            Ok(second) => Ok(vec![first, second]),
            Err(error) => {
                self.remove_all(vec![first]).await;
                Err(error)
            }
        }
    }

    /// Removes all segments of a journal that is void.
    pub async fn sweep(&self) {
        let old = {
            let mut ring = self.ring.lock();
            let (journal, first) = (ring.journal, ring.first_lsn);
            let failed = ring.failed.as_ref().map(Error::share);
            let old = ring.begin_anew((journal, self.new_seal()), Vec::new(), first, Lsn(first.0 - 1));
            ring.failed = failed;
            old
        };
        self.remove_all(old).await;
    }

    /// Removes segments that nobody needs. A file that stays takes space until the next start.
    pub async fn remove_all(&self, segments: Vec<Segment>) {
        for Segment { name, .. } in segments {
            let _ = self.disk.remove(&self.dir.join(name)).await;
        }
    }

    /// Tells the ring what became of a write or sync. A ring that was begun anew meanwhile, or has failed, is told nothing.
    fn done<T>(&self, generation: u64, result: Result<()>, tell: impl FnOnce(&mut Ring) -> T) -> Option<T> {
        let mut ring = self.ring.lock();
        if ring.generation != generation || ring.failed.is_some() {
            return None;
        }
        match result {
            Ok(()) => Some(tell(&mut ring)),
            Err(error) => {
                drop(ring);
                self.fail(error);
                None
            }
        }
    }

    pub fn fail(&self, error: Error) {
        let why = format!("the journal in {} can't be trusted any more", self.dir.display());
        let error = Error::new(Kind::Io, why).because(error);
        tracing::error!("{error}; flushes wait until everything is stored in the pool");
        self.ring.lock().fail(error);
    }
}

/// Returns the error of a journal for which the disk takes no files.
pub fn no_files(dir: &Path, error: Error) -> Error {
    let why = format!("no journal can be kept in {}", dir.display());
    Error::new(error.kind(), why).because(error)
}

/// Replaces the header file, durable on return. On a disk without room, the file that was reserved for this is removed first.
pub async fn write_header(disk: &dyn Disk, dir: &Path, header: &Header) -> Result<()> {
    let path = dir.join("header");
    let doing = || format!("writing {}", path.display());
    let written = disk.write_atomic(&path, header.encode()).await.context(doing);
    let full = written.as_ref().is_err_and(|e| e.is(Kind::NoSpace));
    if full && disk.remove(&dir.join(RESERVE)).await.is_ok() {
        disk.write_atomic(&path, header.encode()).await.context(doing)?;
    } else {
        written?;
    }
    keep_reserve(disk, dir).await;
    Ok(())
}

/// Holds room on the disk for the next header. If that fails, the next rewrite of the header tries again.
async fn keep_reserve(disk: &dyn Disk, dir: &Path) {
    let path = dir.join(RESERVE);
    let hold = async {
        let file = disk.open(&path, OpenHow::Create).await?;
        if file.size().await? < HEADER_MAX as u64 {
            file.allocate(0, HEADER_MAX as u64).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    if let Err(error) = hold.await {
        tracing::debug!(%error, "no room is held for the journal's header in {}", dir.display());
        let _ = disk.remove(&path).await;
    }
}

/// Runs the write loop and the sync loop until the ring says stop.
pub async fn disk_loop(shared: Arc<Shared>) {
    futures::join!(write_loop(&shared), sync_loop(&shared));
    shared.ended.send_replace(true);
}

async fn write_loop(shared: &Arc<Shared>) {
    loop {
        let (job, generation) = {
            let mut ring = shared.ring.lock();
            (ring.next_write(|| shared.rt.random()), ring.generation)
        };
        prepare(shared);
        let result = match job {
            Job::Stop => break,
            Job::Idle => {
                shared.work.notified().await;
                continue;
            }
            Job::AfterSync => {
                shared.sync_work.notify_one();
                shared.work.notified().await;
                continue;
            }
            Job::Write(w) => w.file.pwrite(w.offset, w.parts, false).await.map_err(Error::from),
            Job::Header(mark) => keep_mark(shared, mark).await,
        };
        if shared.done(generation, result, |ring| ring.wrote()) == Some(true) {
            shared.sync_work.notify_one();
        }
    }
    // The sync loop ends with this one: it is woken to see that.
    shared.sync_work.notify_one();
}

async fn sync_loop(shared: &Shared) {
    loop {
        let (job, generation) = {
            let ring = shared.ring.lock();
            (ring.next_sync(), ring.generation)
        };
        let (file, upto) = match job {
            SyncJob::Stop => break,
            SyncJob::Idle => {
                shared.sync_work.notified().await;
                continue;
            }
            SyncJob::Sync(file, upto) => (file, upto),
        };
        let synced = file.sync().await.map_err(Error::from);
        shared.done(generation, synced, |ring| ring.synced(upto));
        // The write loop may wait for this sync: to begin the next segment, or to write a mark into the header.
        shared.work.notify_one();
    }
}

async fn keep_mark(shared: &Shared, mark: Lsn) -> Result<()> {
    let change = |header: &mut Header| {
        header.mark = header.mark.max(mark);
        Ok(())
    };
    let generation = shared.ring.lock().generation;
    shared.change_header(change).await?;
    let mut ring = shared.ring.lock();
    if ring.generation == generation && ring.failed.is_none() {
        ring.header_has(mark);
    }
    Ok(())
}

/// Starts making a segment when one is wanted.
pub fn prepare(shared: &Arc<Shared>) {
    let mut ring = shared.ring.lock();
    if ring.wants_segment().is_none() {
        return;
    }
    ring.preparing = true;
    drop(ring);
    let task = shared.clone();
    shared.rt.spawn(make_ahead(task)).detach();
}

/// Makes segments until none is wanted, with `preparing` set meanwhile.
async fn make_ahead(shared: Arc<Shared>) {
    let weak = Arc::downgrade(&shared);
    let rt = shared.rt.clone();
    let mut next = Some(shared);
    while let Some(shared) = next.take() {
        let making = shared.making.lock().await;
        let (generation, bytes) = {
            let mut ring = shared.ring.lock();
            ring.preparing = false;
            let Some(bytes) = ring.wants_segment() else { return };
            ring.preparing = true;
            (ring.generation, bytes)
        };
        let made = shared.new_segment(bytes).await;
        let failed = made.as_ref().err().map(Error::share);
        let (unwanted, at_once) = settle(&shared, made, generation, bytes);
        shared.remove_all(Vec::from_iter(unwanted)).await;
        drop(making);
        if failed.is_none() || at_once {
            next = Some(shared);
            continue;
        }
        // The journal isn't held during the wait: it may be closed and opened again meanwhile.
        drop(shared);
        rt.sleep(SPACE_RETRY).await;
        next = weak.upgrade();
    }
}

/// Takes a segment in, or says why there is none. Returns a segment that came too late, and whether to go on at once.
fn settle(shared: &Shared, made: Result<Segment>, generation: u64, bytes: u64) -> (Option<Segment>, bool) {
    let mut ring = shared.ring.lock();
    let current = generation == ring.generation && ring.failed.is_none();
    match made {
        Ok(segment) if current => {
            ring.made(segment);
            (None, true)
        }
        Ok(segment) => (Some(segment), true),
        Err(_) if !current => (None, true),
        Err(error) if ring.created() < 2 => {
            let error = no_files(&shared.dir, error);
            tracing::warn!("{error}");
            ring.fail(error);
            (None, true)
        }
        Err(error) => {
            let known = ring.cramped;
            let smaller = ring.not_made(bytes);
            if ring.cramped && !known {
                tracing::warn!("{error}; the journal goes on with less space");
            }
            (None, smaller)
        }
    }
}
