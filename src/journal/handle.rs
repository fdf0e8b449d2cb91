//! The journal's surface.
//!
//! This first body keeps records in memory only: the segments come next under the same surface.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::record::Record;
use crate::base::rt::{Disk, DiskLock, Rt};
use crate::base::{Epoch, Error, JournalId, Kind, Lsn, Result, ResultExt as _, VolumeId};

/// Where a volume's journal lies and how large it may get.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// A folder of its own; made if absent.
    pub dir: PathBuf,
    /// Bytes, at most (segments; the header file is beside).
    pub size: u64,
    /// Bytes a segment has; `None`: 64 MiB, less when `size` is small.
    pub segment: Option<u64>,
}

/// What opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub volume: VolumeId,
    pub journal: JournalId,
    /// Epochs that continue each other here, oldest first; replay is allowed iff the head's active epoch is among them.
    pub lineage: Vec<Epoch>,
    /// Every record from here on that was ever synced is here (some before it may be, too).
    pub first_lsn: Lsn,
    /// Highest lsn promised against loss of the host.
    pub mark: Lsn,
    /// The last record's lsn; `first_lsn - 1` when there is none.
    pub end: Lsn,
}

/// How full it is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// What records may take on disk, at most.
    pub size: u64,
    /// What records that aren't trimmed take, and what is promised to those to come.
    pub used: u64,
    /// Space that segments have on the disk now.
    pub allocated: u64,
    /// Appended and not written to the disk yet.
    pub buffered: u64,
}

/// A volume's write-ahead log. Shared by reference; all of it may be called at once.
#[derive(Debug)]
pub struct Journal {
    config: JournalConfig,
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
    _lock: Box<dyn DiskLock>,
}

#[derive(Debug)]
struct State {
    found: Recovered,
    records: Vec<Record>,
}

/// A promise of room for records; what isn't used returns when it is dropped.
#[derive(Debug)]
pub struct Room<'a> {
    _journal: &'a Journal,
}

/// Records in lsn order, read piece by piece.
#[derive(Debug)]
pub struct Replay {
    records: std::vec::IntoIter<Record>,
}

impl Journal {
    /// Starts a volume's first journal, durable on return. `Exists` when the folder has one.
    pub async fn create(
        rt: Rt,
        disk: Arc<dyn Disk>,
        config: JournalConfig,
        volume: VolumeId,
        lineage: Vec<Epoch>,
        first_lsn: Lsn,
    ) -> Result<Journal> {
        disk.create_dir(&config.dir).await.context(|| format!("making {}", config.dir.display()))?;
        let lock = disk.lock(&config.dir.join("lock"), &format!("process {}", std::process::id())).await?;
        let before = Lsn(first_lsn.0 - 1);
        let journal = JournalId(rt.random128());
        let found = Recovered { volume, journal, lineage, first_lsn, mark: before, end: before };
        let state = Mutex::new(State { found, records: Vec::new() });
        Ok(Journal { config, disk, state, _lock: lock })
    }

    /// `None` when the folder has no journal. `Owned` when another process has it, `Corrupt` (with the path; nothing
    /// is changed) when bytes that were synced are damaged.
    pub async fn open(
        _rt: Rt,
        _disk: Arc<dyn Disk>,
        _config: JournalConfig,
    ) -> Result<Option<(Journal, Recovered)>> {
        Ok(None)
    }

    pub fn id(&self) -> JournalId {
        self.state.lock().found.journal
    }

    /// Highest lsn durably promised against loss of the host.
    pub fn mark(&self) -> Lsn {
        self.state.lock().found.mark
    }

    /// Last appended lsn.
    pub fn end(&self) -> Lsn {
        self.state.lock().found.end
    }

    /// Everything after `after` that was here when the journal was opened. `Corrupt` when records are missing.
    pub fn replay(&self, after: Lsn) -> Replay {
        let records = self.state.lock().records.clone();
        let records: Vec<_> = records.into_iter().filter(|r| r.lsn > after).collect();
        Replay { records: records.into_iter() }
    }

    /// The largest `Write` payload that one record may have, in bytes; longer writes are several records.
    pub fn record_max(&self) -> u64 {
        4 << 20
    }

    /// Bytes of room that a record with this payload needs.
    pub fn cost(&self, payload: u64) -> u64 {
        payload.next_multiple_of(4096) + 4096
    }

    /// Waits for room for records of these costs together (first come, first served); dropping it while it waits is harmless.
    pub async fn reserve(&self, _cost: u64) -> Result<Room<'_>> {
        Ok(Room { _journal: self })
    }

    /// Takes a record in, to be written with the next group; no I/O. Callers append in lsn order, greater than all before.
    pub fn append(&self, _room: &mut Room<'_>, record: &Record) -> Result<()> {
        let mut state = self.state.lock();
        assert!(record.lsn > state.found.end, "records come in order");
        state.found.end = record.lsn;
        state.records.push(record.clone());
        Ok(())
    }

    /// Returns when all that was appended before, and the mark (at least), are durable. One fdatasync serves all waiters.
    pub async fn sync(&self, mark: Option<Lsn>) -> Result<()> {
        let mut state = self.state.lock();
        state.found.mark = state.found.mark.max(mark.unwrap_or_default());
        Ok(())
    }

    /// Records up to here are stored and confirmed: their room is free.
    pub fn trim(&self, upto: Lsn) {
        self.state.lock().records.retain(|r| r.lsn > upto);
    }

    /// "Continues as `next`", durable on return: before the takeover's record. Epochs before `active` are forgotten.
    pub async fn announce(&self, active: Epoch, next: Epoch) -> Result<()> {
        let lineage = &mut self.state.lock().found.lineage;
        lineage.retain(|e| *e >= active && *e != next);
        lineage.push(next);
        Ok(())
    }

    /// After a failure: starts anew on fresh files, with another id. All before `first_lsn` must be stored and confirmed.
    pub async fn restart(&self, first_lsn: Lsn, mark: Lsn) -> Result<JournalId> {
        let mut state = self.state.lock();
        state.records.clear();
        state.found.first_lsn = first_lsn;
        state.found.mark = mark;
        Ok(state.found.journal)
    }

    /// Why it failed, if it did: nothing is taken or synced until `restart`.
    pub fn failed(&self) -> Option<Error> {
        None::<Error>.filter(|e| e.is(Kind::Io))
    }

    pub fn usage(&self) -> Usage {
        Usage { size: self.config.size, ..Usage::default() }
    }

    /// Writes out and syncs all, and lets go of the folder; nothing can be done with it afterwards.
    pub async fn close(&self) -> Result<()> {
        self.sync(None).await
    }

    /// Renames the folder to a place beside it that names `why`, and says where. Nothing is deleted.
    pub async fn set_aside(&self, why: &str) -> Result<PathBuf> {
        let name = self.config.dir.file_name().and_then(|n| n.to_str()).unwrap_or("journal").to_owned();
        let kept = self.config.dir.with_file_name(format!("{name}.{why}.{}", self.id()));
        self.disk.rename(&self.config.dir, &kept).await?;
        Ok(kept)
    }
}

impl Replay {
    pub async fn next(&mut self) -> Result<Option<Record>> {
        Ok(self.records.next())
    }
}
