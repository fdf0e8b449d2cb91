//! What the cache's handles and its one task share: the index, what waits to be written, and whether it is in use.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};

use super::format::{self, ENTRY};
use super::index::{FRAME_LEN_MAX, Index, Spot};
use crate::FrameKey;
use windlass_base::rt::{Disk, DiskFile, Rt};
use windlass_base::{Error, Kind, Result, ResultExt as _};

/// Name of the cache's file in its folder.
pub(super) const NAME: &str = "frames";
/// Longest time that a disk operation may take. A slower disk is as good as none: stores answer sooner.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest time that emptying the cache may take: writes that are under way come first.
const EMPTY_MAX: Duration = Duration::from_secs(30);

/// The contents of the cache, and its counts since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DiskStats {
    /// True while the cache is in use.
    pub on: bool,
    /// Reason why the cache turned itself off.
    pub trouble: Option<String>,
    /// Bytes of frames in the cache; `bytes_max` are the file's, at most.
    pub bytes: u64,
    pub bytes_max: u64,
    pub frames: u64,
    pub hits: u64,
    pub misses: u64,
    /// Entries that did not verify.
    pub damaged: u64,
    pub written_bytes: u64,
    /// Frames that were left out because they came faster than the disk took them.
    pub skipped: u64,
}

/// A frame on its way to the disk.
#[derive(Debug)]
pub(super) struct Item {
    pub key: FrameKey,
    pub hash: u64,
    pub frame: Bytes,
    /// The cache held the frame before, so that it goes to the proven segments.
    pub proven: bool,
}

#[derive(Debug, Default)]
pub(super) enum Phase {
    #[default]
    Starting,
    On(Arc<dyn DiskFile>),
    Off(Option<String>),
}

#[derive(Debug)]
pub(super) struct State {
    phase: Phase,
    pub index: Index,
    queue: Vec<Item>,
    queued: u64,
    /// Number of times that the cache was emptied: what was fetched before that is not taken in.
    emptied: u64,
    /// Those who wait until the cache is empty.
    empties: Vec<oneshot::Sender<()>>,
}

/// What the one task does next.
#[derive(Debug)]
pub(super) enum Work {
    Write(Vec<Item>),
    /// Empty the file, and tell these.
    Empty(Vec<oneshot::Sender<()>>),
}

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
    written: AtomicU64,
    skipped: AtomicU64,
}

/// State that the cache's handles and its task share.
#[derive(Debug)]
pub(super) struct Shared {
    pub rt: Rt,
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    /// Bytes of a segment.
    pub segment: u64,
    /// Number of segments.
    pub count: u16,
    /// Bytes that may wait to be written.
    queue_max: u64,
    pub state: Mutex<State>,
    work: Notify,
    counts: Counts,
}

impl Shared {
    pub fn new(
        rt: &Rt,
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        (segment, count, queue_max): (u64, u16, u64),
        index: Index,
    ) -> Arc<Shared> {
        let state = State {
            phase: Phase::Starting,
            index,
            queue: Vec::new(),
            queued: 0,
            emptied: 0,
            empties: Vec::new(),
        };
        let (state, work, counts) = (Mutex::new(state), Notify::new(), Counts::default());
        Arc::new(Shared { rt: rt.clone(), disk, dir, segment, count, queue_max, state, work, counts })
    }

    /// Puts the cache into use: from now on it is asked for frames.
    pub fn begin(&self, file: Arc<dyn DiskFile>) {
        let mut state = self.state.lock();
        if let Phase::Starting = state.phase
            && state.empties.is_empty()
        {
            state.phase = Phase::On(file);
        }
    }

    /// Empties the cache and its file, which a restart would find again. Nothing is in it as soon as this was called. Where the
    /// cache is off, or goes off over this, its file is removed.
    pub async fn empty(&self) {
        let (done, emptied) = oneshot::channel();
        let is_off = {
            let mut state = self.state.lock();
            state.emptied += 1;
            let is_off = matches!(state.phase, Phase::Off(_));
            if !is_off {
                state.phase = Phase::Starting;
                (state.queue, state.queued) = Default::default();
                state.empties.push(done);
            }
            is_off
        };
        if !is_off {
            self.work.notify_one();
            // An error of the channel: the cache has gone off.
            if self.rt.timeout(EMPTY_MAX, emptied).await.is_none() {
                self.fail(&Error::new(Kind::Timeout, format!("it was not emptied in {EMPTY_MAX:?}")));
            }
        }
        if self.is_off()
            && let Err(e) = self.remove_file().await
        {
            tracing::warn!("{e}; remove the folder before the next start: it may have false blocks");
        }
    }

    pub async fn remove_file(&self) -> Result<()> {
        let path = self.dir.join(NAME);
        let doing = || format!("removing {}", path.display());
        match self.disk.remove(&path).await {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e).context(doing),
            Ok(()) => self.disk.sync_dir(&self.dir).await.context(doing),
        }
    }

    /// Returns how often the cache was emptied.
    pub fn emptied(&self) -> u64 {
        self.state.lock().emptied
    }

    pub fn has(&self, key: &FrameKey) -> bool {
        let state = self.state.lock();
        let Phase::On(_) = &state.phase else { return false };
        let has = state.index.has(format::hash(key));
        if !has {
            self.counts.misses.fetch_add(1, Ordering::Relaxed);
        }
        has
    }

    pub async fn get(&self, key: &FrameKey) -> Option<Bytes> {
        let hash = format::hash(key);
        let (file, spot) = {
            let mut state = self.state.lock();
            let Phase::On(file) = &state.phase else { return None };
            let file = file.clone();
            (file, state.index.used(hash)?)
        };
        let frame = match self.read(&*file, &spot).await {
            Ok(Some((whose, frame))) if whose == *key => Some(frame),
            Ok(_) => {
                // Rotten; or written over since it was looked up: then it is not there any more.
                if self.state.lock().index.remove_at(hash, &spot).is_some() {
                    self.counts.damaged.fetch_add(1, Ordering::Relaxed);
                }
                None
            }
            Err(e) => {
                self.fail(&e);
                None
            }
        };
        let count = if frame.is_some() { &self.counts.hits } else { &self.counts.misses };
        count.fetch_add(1, Ordering::Relaxed);
        frame
    }

    /// Reads the entry at a place, whichever frame it is of. `None`: it does not verify.
    pub async fn read(&self, file: &dyn DiskFile, spot: &Spot) -> Result<Option<(FrameKey, Bytes)>> {
        let at = u64::from(spot.segment) * self.segment + u64::from(spot.at);
        let read = file.pread(at, ENTRY + spot.len as usize);
        match self.rt.timeout(PATIENCE, read).await {
            Some(bytes) => Ok(format::entry(&bytes?)),
            None => Err(Error::new(Kind::Timeout, format!("it did not answer in {PATIENCE:?}"))),
        }
    }

    pub fn put(&self, key: &FrameKey, frame: &[u8], emptied: Option<u64>) {
        let hash = format::hash(key);
        let mut state = self.state.lock();
        let Phase::On(_) = &state.phase else { return };
        if emptied.is_some_and(|emptied| emptied != state.emptied) {
            return;
        }
        if state.index.has(hash) || frame.len() > FRAME_LEN_MAX {
            return;
        }
        let room = format::room(frame.len());
        if state.queued + room > self.queue_max {
            self.counts.skipped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let proven = state.index.remembers(hash);
        state.queued += room;
        state.queue.push(Item { key: *key, hash, frame: Bytes::copy_from_slice(frame), proven });
        drop(state);
        self.work.notify_one();
    }

    pub fn damaged(&self, hash: u64) {
        let mut state = self.state.lock();
        if let Some(spot) = state.index.used(hash)
            && state.index.remove_at(hash, &spot).is_some()
        {
            self.counts.damaged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until there is something to do. `None`: the cache is off.
    pub async fn work(&self) -> Option<Work> {
        loop {
            let work = self.work.notified();
            {
                let mut state = self.state.lock();
                if let Phase::Off(_) = &state.phase {
                    return None;
                }
                if !state.empties.is_empty() {
                    state.index.clear();
                    return Some(Work::Empty(std::mem::take(&mut state.empties)));
                }
                if !state.queue.is_empty() {
                    return Some(Work::Write(std::mem::take(&mut state.queue)));
                }
            }
            work.await;
        }
    }

    /// Takes bytes off the queue that were written or left out. Both count as written.
    pub fn done(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.queued = state.queued.saturating_sub(bytes);
        drop(state);
        self.counts.written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn is_off(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Off(_))
    }

    /// Turns the cache off, since nobody uses it any more.
    pub fn close(&self) {
        self.end(Phase::Off(None));
    }

    /// Turns the cache off: nothing is asked of the disk any more.
    fn end(&self, phase: Phase) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Off(_)) {
            state.phase = phase;
            state.index = Index::new(0, 0);
            (state.queue, state.queued) = Default::default();
            state.empties.clear();
            drop(state);
            self.work.notify_one();
        }
    }

    pub fn fail(&self, error: &Error) {
        if self.is_off() {
            return;
        }
        let why = format!(
            "the block cache in {} is off until the next start: {error}; reads go to the stores",
            self.dir.display()
        );
        tracing::warn!("{why}");
        self.end(Phase::Off(Some(why)));
    }

    pub fn stats(&self) -> DiskStats {
        let state = self.state.lock();
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        DiskStats {
            on: !matches!(state.phase, Phase::Off(_)),
            trouble: match &state.phase {
                Phase::Off(why) => why.clone(),
                _ => None,
            },
            bytes: state.index.bytes(),
            bytes_max: u64::from(self.count) * self.segment,
            frames: state.index.len() as u64,
            hits: count(&self.counts.hits),
            misses: count(&self.counts.misses),
            damaged: count(&self.counts.damaged),
            written_bytes: count(&self.counts.written),
            skipped: count(&self.counts.skipped),
        }
    }
}
