//! What does the disk work: one task writes and syncs what the ring says, one makes segments ahead of need.
//!
//! A task of its own, so that a caller that goes away midway leaves nothing half done, and so that whoever comes while
//! a sync is under way shares the next one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::format::Header;
use super::ring::{Granted, Job, Ring, Segment};
use super::segment::make_segment;
use crate::base::rt::{Disk, DiskLock, Rt};
use crate::base::{Error, Kind, Lsn, Result, ResultExt as _};

/// Until the next try to make a segment where there was no space.
const SPACE_RETRY: Duration = Duration::from_secs(1);

/// What the handle and its tasks share.
#[derive(Debug)]
pub struct Shared {
    pub rt: Rt,
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub ring: Mutex<Ring>,
    /// As on the disk; held across its rewriting.
    pub header: tokio::sync::Mutex<Header>,
    pub work: Notify,
    /// Held while a segment is made: who lets go of the folder waits for it.
    pub making: tokio::sync::Mutex<()>,
    /// Numbers for new segment files.
    pub next_number: Mutex<u64>,
    /// The writer has ended.
    pub ended: tokio::sync::watch::Sender<bool>,
    pub lock: Mutex<Option<Box<dyn DiskLock>>>,
}

impl Shared {
    /// Rewrites the header file, durable on return; in memory it changes only then.
    pub async fn change_header(&self, change: impl FnOnce(&mut Header) -> Result<()> + Send) -> Result<()> {
        let mut header = self.header.lock().await;
        let mut new = header.clone();
        change(&mut new)?;
        write_header(&*self.disk, &self.dir, &new).await?;
        *header = new;
        Ok(())
    }

    fn take_number(&self) -> u64 {
        let mut next = self.next_number.lock();
        *next += 1;
        *next - 1
    }

    /// A segment of the next number. One that can't be made leaves its number to the next attempt, which then fails in
    /// the same words.
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

    fn fail(&self, error: Error) {
        let why = format!("the journal in {} can't be trusted any more", self.dir.display());
        let error = Error::new(Kind::Io, why).because(error);
        tracing::error!("{error}; flushes wait until everything is stored in the pool");
        self.ring.lock().fail(error);
    }
}

pub async fn write_header(disk: &dyn Disk, dir: &Path, header: &Header) -> Result<()> {
    let path = dir.join("header");
    disk.write_atomic(&path, header.encode()).await.context(|| format!("writing {}", path.display()))
}

/// Runs until the ring says stop.
pub async fn write_loop(shared: Arc<Shared>) {
    loop {
        let job = shared.ring.lock().next_job(|| shared.rt.random());
        prepare(&shared);
        let result = match job {
            Job::Stop => break,
            Job::Idle => {
                shared.work.notified().await;
                continue;
            }
            Job::Write(w) => {
                let done = w.file.pwrite(w.offset, w.parts, w.sync).await;
                done.map(|()| shared.ring.lock().wrote(w.sync)).map_err(Error::from)
            }
            Job::Sync(file) => {
                file.sync().await.map(|()| shared.ring.lock().wrote(true)).map_err(Error::from)
            }
            Job::Header(mark) => keep_mark(&shared, mark).await,
        };
        if let Err(error) = result {
            shared.fail(error);
        }
    }
    shared.ended.send_replace(true);
}

async fn keep_mark(shared: &Shared, mark: Lsn) -> Result<()> {
    let change = |header: &mut Header| {
        header.mark = header.mark.max(mark);
        Ok(())
    };
    shared.change_header(change).await?;
    shared.ring.lock().header_has(mark);
    Ok(())
}

/// Starts making a segment when none is left to go on with.
pub fn prepare(shared: &Arc<Shared>) {
    let mut ring = shared.ring.lock();
    if !ring.wants_segment() {
        return;
    }
    ring.preparing = true;
    let (generation, bytes) = (ring.generation, ring.segment);
    drop(ring);
    let task = shared.clone();
    shared.rt.spawn(make_ahead(task, generation, bytes)).detach();
}

async fn make_ahead(shared: Arc<Shared>, generation: u64, bytes: u64) {
    let making = shared.making.lock().await;
    if shared.ring.lock().closing {
        return;
    }
    let made = shared.new_segment(bytes).await;
    let failed = made.as_ref().err().map(Error::share);
    let unwanted = {
        let mut ring = shared.ring.lock();
        match made.ok() {
            Some(segment) if generation == ring.generation && ring.failed.is_none() => {
                ring.fresh.push(segment);
                ring.admit();
                None
            }
            other => other,
        }
    };
    if let Some(segment) = unwanted {
        // It only takes space; the next start uses it.
        let _ = shared.disk.remove(&shared.dir.join(segment.name)).await;
    }
    drop(making);
    if let Some(error) = failed {
        tracing::warn!("{error}; the journal goes on with less space");
        // Nothing is held meanwhile: the journal may be closed and opened again.
        let (rt, weak) = (shared.rt.clone(), Arc::downgrade(&shared));
        drop(shared);
        rt.sleep(SPACE_RETRY).await;
        let Some(shared) = weak.upgrade() else { return };
        shared.ring.lock().preparing = false;
        return prepare(&shared);
    }
    shared.ring.lock().preparing = false;
    prepare(&shared);
}
