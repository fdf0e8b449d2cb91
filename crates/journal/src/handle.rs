//! The journal's surface: what a volume calls. It turns calls into changes of the ring and waits for their outcome;
//! the disk work is the writer's, except for what happens once (create, open, restart, set aside).
//!
//! Dropping any future midway is harmless: room comes back, a sync goes on for the others. Dropping the journal without
//! `close` is a crash: what was not synced may be lost.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::format::{ALIGN, Entry, Header, LINEAGE_MAX, Opener, SEGMENT_MIN};
use super::recover::{read_header, recover};
use super::replay::Replay;
use super::segment::make_segment;
use super::state::{Granted, Live, Ring, Segment, Sizes};
use super::writer::{Shared, disk_loop, new_seal, no_files, write_header};
use windlass_base::log_record::Record;
use windlass_base::rt::{Disk, DiskLock, Rt};
use windlass_base::units::MIB;
use windlass_base::{Epoch, Error, JournalId, Kind, Lsn, Result, ResultExt as _, VolumeId};
use windlass_keys::JournalKey;

/// Bytes of each of the first two segments. They are what a volume takes of the local disk at least, and what
/// stays to it when the disk is full.
const SEGMENT_FIRST: u64 = MIB / 2;
/// Bytes of the largest segments, or a sixteenth of the journal where that is less.
const SEGMENT_TARGET: u64 = 64 * MIB;

/// Configuration of a journal: its folder, its size, and its key.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// The folder, which nothing else uses; it is made if absent.
    pub dir: PathBuf,
    /// Bytes that the segments may take together, at most. The header file comes on top.
    pub size: u64,
    /// Bytes of the smallest and of the largest segment; `None`: 512 KiB and 64 MiB, less when `size` is small.
    pub segment: Option<(u64, u64)>,
    /// The key by which records are sealed; `None` when the volume is not encrypted.
    pub key: Option<JournalKey>,
}

/// The findings of an opening: whose journal it is, and which records it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub volume: VolumeId,
    pub journal: JournalId,
    /// Epochs that continue each other here, oldest first. Replay is allowed only if the active epoch of the
    /// head is among them.
    pub lineage: Vec<Epoch>,
    /// Lsn from which on every record that was ever synced is here. Some before it may be here, too.
    pub first_lsn: Lsn,
    /// Highest lsn promised against loss of the host.
    pub mark: Lsn,
    /// The last record's lsn; `first_lsn - 1` when there is none.
    pub end: Lsn,
    /// Is true if the folder is a copy of the one that was written, or was moved. What was written to the
    /// original since is not here.
    pub copied: bool,
}

/// Bytes of a journal by their use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that records may take on the disk, at most. A journal that was made smaller than its segments, or
    /// whose disk is full, has what its segments have.
    pub size: u64,
    /// Bytes of records that are not trimmed, and of room that is promised to records to come.
    pub used: u64,
    /// Bytes that the segments take on the disk now.
    pub allocated: u64,
    /// Bytes that were appended and are not written to the disk yet.
    pub buffered: u64,
}

/// A volume's write-ahead log. It is shared by reference; all methods may be called at once.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    /// Segments that were in use when the journal was opened, and are not trimmed: `replay` reads them.
    opened: Mutex<VecDeque<Live>>,
    /// Path and offset of the damage that the opening found in the segment before those.
    spoilt: Option<(PathBuf, u64)>,
}

/// Segments that were made for a journal which starts anew.
#[derive(Debug)]
pub struct Ready {
    segments: Vec<Segment>,
}

/// A promise of room for records. Dropping it gives back what isn't used.
#[derive(Debug)]
pub struct Room<'a> {
    shared: Arc<Shared>,
    granted: Granted,
    journal: PhantomData<&'a Journal>,
}

impl JournalConfig {
    /// Returns the sizes of segments. `least` is the smallest size of a journal that exists.
    fn sizes(&self, least: Option<u64>) -> Sizes {
        let usual = (SEGMENT_FIRST, (self.size / 16 / MIB * MIB).clamp(MIB, SEGMENT_TARGET));
        let (first, most) = self.segment.unwrap_or(usual);
        let least = least.unwrap_or((first / ALIGN * ALIGN).max(SEGMENT_MIN));
        let most = (most / ALIGN * ALIGN).max(least);
        Sizes { least, most, all: self.size.max(2 * least) }
    }
}

/// Refuses a journal without sealed records if the volume is encrypted, since its owner did not write that; and
/// a sealed one without the key.
fn check_sealed(config: &JournalConfig, header: &Header) -> Result<()> {
    let dir = config.dir.display();
    match (header.sealed, &config.key) {
        (true, None) => {
            let why = format!("the journal in {dir} is an encrypted volume's, and its key is not here");
            Err(Error::new(Kind::Denied, why))
        }
        (false, Some(_)) => {
            let why = format!("the journal in {dir} is not encrypted, and its volume is: move it away");
            Err(Error::new(Kind::Corrupt, why))
        }
        _ => Ok(()),
    }
}

async fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DiskLock>> {
    disk.lock(&dir.join("lock"), &format!("process {}", std::process::id()))
        .await
        .context(|| format!("locking the journal in {}", dir.display()))
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
        let dir = &config.dir;
        disk.create_dir(dir).await.context(|| format!("making {}", dir.display()))?;
        let held = lock(&*disk, dir).await?;
        if disk.list(dir).await?.iter().any(|name| name == "header") {
            return Err(Error::new(Kind::Exists, format!("{} has a journal already", dir.display())));
        }
        let sizes = config.sizes(None);
        let mark = Lsn(first_lsn.0 - 1);
        let journal = JournalId(rt.random128());
        let (place, segment) = (held.place(), sizes.least);
        let sealed = config.key.is_some();
        let mut header = Header { volume, journal, first_lsn, mark, segment, place, sealed, lineage };
        let seal = new_seal(&rt, config.key.as_ref());
        let mut ring = Ring::new((journal, seal), sizes, first_lsn, mark);
        let mut made = Vec::new();
        for number in [1, 2] {
            made.push(make_segment(&*disk, dir, number, segment).await);
        }
        match made.into_iter().collect() {
            Ok(segments) => ring.fresh = segments,
            Err(error) => {
                header.mark = Header::VOID;
                ring.fail(no_files(dir, error));
            }
        }
        // The header comes last: a folder without one has no journal, so a crash before this leaves nothing that counts.
        write_header(&*disk, dir, &header).await?;
        let journal = Self::start(rt, disk, config, ring, header, 3, held);
        if journal.failed().is_some() {
            journal.shared.sweep().await;
        }
        Ok(journal)
    }

    /// Opens the journal in the folder; `None` when it has none. `Owned` when another process has it. `Corrupt`
    /// (with the path; nothing is changed) when bytes that were synced are damaged.
    pub async fn open(
        rt: Rt,
        disk: Arc<dyn Disk>,
        config: JournalConfig,
    ) -> Result<Option<(Journal, Recovered)>> {
        if read_header(&*disk, &config.dir).await?.is_none() {
            return Ok(None);
        }
        let held = match lock(&*disk, &config.dir).await {
            Ok(held) => held,
            // A session that was shut out may have put the folder aside meanwhile.
            Err(e) if e.is(Kind::NotFound) => return Ok(None),
            Err(e) => return Err(e),
        };
        let Some(header) = read_header(&*disk, &config.dir).await? else { return Ok(None) };
        check_sealed(&config, &header)?;
        let opener = Opener::new(config.key.clone());
        let found = recover(&*disk, config.dir.clone(), header, opener).await?;
        let header = found.header;
        let copied = header.place != held.place();
        let first_lsn = found.live.front().map_or(header.first_lsn, |l| l.head.before.next());
        let recovered = Recovered {
            volume: header.volume,
            journal: header.journal,
            lineage: header.lineage.clone(),
            first_lsn,
            mark: found.mark,
            end: found.end,
            copied,
        };
        // The mark of a void journal is above every lsn: the ring must not take it for a promise.
        let mark = if header.is_void() { Lsn(first_lsn.0 - 1) } else { found.mark };
        let seal = new_seal(&rt, config.key.as_ref());
        let mut ring = Ring::new((header.journal, seal), config.sizes(Some(header.segment)), first_lsn, mark);
        ring.fresh = found.fresh.into();
        ring.fresh.make_contiguous().sort_by_key(|s| s.bytes);
        // Spare segments are removed: the journal grows again when it has to. Where there is damage, or where
        // damage may hide records, all files stay for whoever may yet need them.
        let keep = 2usize.saturating_sub(found.live.len()).max(1);
        while ring.fresh.len() > keep && found.spoilt.is_none() && !found.doubtful {
            let Some(Segment { name, .. }) = ring.fresh.pop_back() else { break };
            let path = config.dir.join(name);
            disk.remove(&path).await.context(|| format!("removing {}", path.display()))?;
        }
        // Files that an earlier process made may not be durable in the folder yet, and are used from now on.
        disk.sync_dir(&config.dir).await.context(|| format!("syncing {}", config.dir.display()))?;
        if header.is_void() {
            let why = format!("the journal in {} was given up when its disk took none", config.dir.display());
            ring.fail(Error::new(Kind::NoSpace, why));
        } else {
            ring.resume(found.live.clone(), found.end, found.mark);
        }
        let mut journal = Self::start(rt, disk, config, ring, header, found.next_number, held);
        *journal.opened.lock() = found.live;
        journal.spoilt = found.spoilt;
        Ok(Some((journal, recovered)))
    }

    fn start(
        rt: Rt,
        disk: Arc<dyn Disk>,
        config: JournalConfig,
        ring: Ring,
        header: Header,
        next_number: u64,
        held: Box<dyn DiskLock>,
    ) -> Journal {
        let shared = Arc::new(Shared {
            rt,
            disk,
            dir: config.dir,
            key: config.key,
            void: AtomicBool::new(header.is_void()),
            ring: Mutex::new(ring),
            header: tokio::sync::Mutex::new(header),
            work: Notify::new(),
            sync_work: Notify::new(),
            making: tokio::sync::Mutex::default(),
            next_number: Mutex::new(next_number),
            ended: watch::Sender::new(false),
            lock: Mutex::new(Some(held)),
        });
        shared.rt.spawn(disk_loop(shared.clone())).detach();
        Journal { shared, opened: Mutex::default(), spoilt: None }
    }

    /// Tells whether the journal belongs to an encrypted volume: its records are sealed.
    pub fn is_sealed(&self) -> bool {
        self.shared.key.is_some()
    }

    pub fn id(&self) -> JournalId {
        self.shared.ring.lock().journal
    }

    /// Tells whether the journal still holds its folder. Until it lets go nobody else can open it, and
    /// `set_aside` may move it.
    pub fn is_held(&self) -> bool {
        self.shared.lock.lock().is_some()
    }

    /// Returns the highest lsn that is durably promised against loss of the host.
    pub fn mark(&self) -> Lsn {
        self.shared.ring.lock().mark()
    }

    /// Returns the lsn of the newest appended record.
    pub fn end(&self) -> Lsn {
        self.shared.ring.lock().appended()
    }

    /// Reads back all records after `after` that were here when the journal was opened. Call it before anything is trimmed.
    pub fn replay(&self, after: Lsn) -> Replay {
        let (id, first) = {
            let ring = self.shared.ring.lock();
            (ring.journal, ring.first_lsn)
        };
        let (spoilt, live) = (self.spoilt.clone(), self.opened.lock().clone());
        let opener = Opener::new(self.shared.key.clone());
        Replay::new(self.shared.dir.clone(), (id, opener), after, first, spoilt, live)
    }

    /// Changes how much of the disk the journal may take. A journal that has more already makes no further
    /// segments, and keeps those that it has until it is opened the next time.
    pub fn resize(&self, config: &JournalConfig) {
        {
            let mut ring = self.shared.ring.lock();
            let sizes = config.sizes(Some(ring.sizes.least));
            ring.resize(sizes);
        }
        self.shared.work.notify_one();
    }

    /// Returns the largest `Write` payload that one record may have, in bytes. Longer writes are several records.
    pub fn record_max(&self) -> u64 {
        Ring::record_max(self.shared.ring.lock().sizes.least)
    }

    /// Returns the most room that one reservation may ask for, in bytes.
    pub fn room_max(&self) -> u64 {
        self.shared.ring.lock().room_max()
    }

    /// Returns the bytes of room that a record with this payload needs.
    pub fn cost(&self, payload: u64) -> u64 {
        Ring::cost(payload)
    }

    /// Waits for so much room, `room_max` at most: the sum of the costs of the records that are to come. First
    /// come, first served. Dropping the future while it waits is harmless.
    pub async fn reserve(&self, cost: u64) -> Result<Room<'_>> {
        let asked = self.shared.ring.lock().reserve(cost)?;
        let granted = match asked {
            Ok(granted) => granted,
            Err(wait) => {
                self.shared.work.notify_one();
                let mut wait = Waiting { shared: &self.shared, answer: wait };
                (&mut wait.answer).await.map_err(|_| closed())??
            }
        };
        Ok(Room { shared: self.shared.clone(), granted, journal: PhantomData })
    }

    /// Tells whether the caller may go on with this room. It may if `append` takes the record that the room was
    /// made for. It may also if the journal has failed and nobody needs its records: then `append` takes
    /// nothing. Otherwise the journal has failed, or was started anew, and would miss the record: the caller
    /// asks for room again.
    pub fn is_current(&self, room: Option<&Room<'_>>) -> bool {
        let ring = self.shared.ring.lock();
        match &ring.failed {
            Some(_) => !ring.is_needed(),
            None => room.is_some_and(|room| room.granted.generation == ring.generation),
        }
    }

    /// Takes a record in, to be written with the next group; no I/O. Callers append in lsn order; each lsn is
    /// greater than all before.
    pub fn append(&self, room: &mut Room<'_>, record: &Record) -> Result<()> {
        let sealing = match &self.shared.key {
            Some(_) => {
                let ring = self.shared.ring.lock();
                ring.seal.clone().map(|seal| (seal, ring.journal))
            }
            None => None,
        };
        let entry = Entry::of(record, sealing.as_ref().map(|(seal, journal)| (seal, *journal)));
        let cost = Ring::cost(entry.body.len() as u64);
        if cost > room.granted.cost {
            let why = format!("record {} of {} bytes has no room", record.lsn, entry.body.len());
            return Err(Error::new(Kind::Internal, why));
        }
        let write_out = self.shared.ring.lock().append(entry, room.granted.generation)?;
        room.granted.cost -= cost;
        if write_out {
            self.shared.work.notify_one();
        }
        Ok(())
    }

    /// Waits until all that was appended before is in the kernel, so that it outlives this process. Returns
    /// early when the journal has failed or is closed.
    pub async fn written(&self) {
        let wait = self.shared.ring.lock().written();
        if let Some(wait) = wait {
            self.shared.work.notify_one();
            let _ = wait.await;
        }
    }

    /// Waits until all that was appended before, and the mark (or a higher one), are durable. One fdatasync
    /// serves all waiters.
    pub async fn sync(&self, mark: Option<Lsn>) -> Result<()> {
        let Some(done) = self.shared.ring.lock().sync(mark)? else { return Ok(()) };
        self.shared.work.notify_one();
        self.shared.sync_work.notify_one();
        done.await.map_err(|_| closed())?
    }

    /// Frees the room of the records up to `upto`. The caller knows them to be stored and confirmed.
    pub fn trim(&self, upto: Lsn) {
        self.shared.ring.lock().trim(upto);
        self.opened.lock().retain(|l| l.last > upto);
    }

    /// Writes into the header that epoch `next` continues this journal; durable on return. Callers do so before
    /// they record the takeover. Epochs before `active` are forgotten. `Refused` when the lineage is full.
    pub async fn announce(&self, active: Epoch, next: Epoch) -> Result<()> {
        let change = |header: &mut Header| {
            header.lineage.retain(|e| *e >= active && *e != next);
            header.lineage.push(next);
            if header.lineage.len() > LINEAGE_MAX {
                let why = "this volume was opened too often without success: see the log for why";
                return Err(Error::new(Kind::Refused, why));
            }
            Ok(())
        };
        self.shared.change_header(change).await
    }

    /// Makes the folder the journal's own, also one that it was copied to: the next opening does not take it
    /// for a copy. Durable on return.
    pub async fn settle_here(&self) -> Result<()> {
        let Some(place) = self.shared.lock.lock().as_ref().map(|held| held.place()) else {
            return Err(closed());
        };
        let change = |header: &mut Header| {
            header.place = place;
            Ok(())
        };
        self.shared.change_header(change).await
    }

    /// Tells whether the journal has records, or lacks some that it should have, that are not known to be
    /// stored and confirmed. While it has failed, no later write may be acknowledged that is in memory alone.
    pub fn is_needed(&self) -> bool {
        self.shared.ring.lock().is_needed()
    }

    /// Notes that a record was not taken in although it had room. The journal has failed then, as after a
    /// failure of the disk. The record counts among those that are to be stored before the journal is begun anew.
    pub fn missed(&self, lsn: Lsn, error: Error) {
        let first = self.shared.ring.lock().missed(lsn);
        if first {
            self.shared.fail(error);
        }
    }

    /// Makes files for `restart`, after a failure. Where the disk takes none, nothing changes but what `failed`
    /// says of a void journal.
    pub async fn make_ready(&self) -> Result<Ready> {
        let _making = self.shared.making.lock().await;
        let least = self.shared.ring.lock().sizes.least;
        match self.shared.new_segments(least).await {
            Ok(segments) => Ok(Ready { segments }),
            Err(error) => {
                let error = no_files(&self.shared.dir, error);
                if self.is_void() {
                    self.shared.ring.lock().failed = Some(error.share());
                }
                Err(error)
            }
        }
    }

    /// Starts a failed journal anew on these files, with another id. All records before `first_lsn` must be
    /// stored and confirmed; `mark` is what was promised so far. `Internal` while the journal has records from
    /// `first_lsn` on.
    pub async fn restart(&self, ready: Ready, first_lsn: Lsn, mark: Lsn) -> Result<JournalId> {
        let shared = &self.shared;
        // Held to the end: `stop` waits for it, so that nothing is removed from the folder once another may open it.
        let _making = shared.making.lock().await;
        let begun = self.begin_anew(first_lsn, mark).await;
        let id = match begun {
            Ok(id) => id,
            Err(error) => {
                shared.remove_all(ready.segments).await;
                return Err(error);
            }
        };
        // The header names the new id by now: no opening would find a batch whose id it does not name.
        let anew = (id, shared.new_seal());
        let old = shared.ring.lock().begin_anew(anew, ready.segments, first_lsn, mark);
        self.opened.lock().clear();
        // All records in the old segments are stored.
        shared.remove_all(old).await;
        shared.work.notify_one();
        Ok(id)
    }

    /// Makes the journal void: it vouches for no record any more, and gives back its space on the disk. Called
    /// after a failure, when the disk takes no files to start anew, or since nobody needs the journal. All
    /// records before `first_lsn` must be stored and confirmed. `Internal` while the journal has records from
    /// `first_lsn` on.
    pub async fn give_up(&self, first_lsn: Lsn) -> Result<()> {
        let _making = self.shared.making.lock().await;
        {
            let mut ring = self.shared.ring.lock();
            ring.check_left(first_lsn)?;
            if ring.failed.is_none() {
                ring.fail(Error::new(Kind::Unavailable, "the journal was given up"));
            }
        }
        self.begin_anew(first_lsn, Header::VOID).await?;
        self.opened.lock().clear();
        self.shared.sweep().await;
        Ok(())
    }

    /// Writes another id, this first lsn and this mark into the header. `Internal` unless the journal has failed.
    async fn begin_anew(&self, first_lsn: Lsn, mark: Lsn) -> Result<JournalId> {
        {
            let ring = self.shared.ring.lock();
            if ring.closing {
                return Err(closed());
            }
            if ring.failed.is_none() {
                return Err(Error::new(Kind::Internal, "a journal that works is not started anew"));
            }
            ring.check_left(first_lsn)?;
        }
        let journal = JournalId(self.shared.rt.random128());
        let change = |header: &mut Header| {
            *header = Header { journal, first_lsn, mark, ..header.clone() };
            Ok(())
        };
        self.shared.change_header(change).await.map(|()| journal)
    }

    /// Tells whether the header on the disk says for certain that the journal vouches for no record. All
    /// promises stand on the pool alone then.
    pub fn is_void(&self) -> bool {
        self.shared.void.load(Ordering::Acquire)
    }

    /// Returns why the journal failed, if it did. It takes and syncs nothing until `restart`.
    pub fn failed(&self) -> Option<Error> {
        self.shared.ring.lock().failed.as_ref().map(Error::share)
    }

    /// Tells whether the journal is more than half full, or somebody waits for room that only `trim` makes.
    pub fn is_short(&self) -> bool {
        self.shared.ring.lock().is_short()
    }

    pub fn usage(&self) -> Usage {
        let ring = self.shared.ring.lock();
        Usage { size: ring.size(), used: ring.used(), allocated: ring.allocated(), buffered: ring.buffered() }
    }

    /// Writes out and syncs all, and lets go of the folder. The journal can't be used afterwards.
    pub async fn close(&self) -> Result<()> {
        let result = self.sync(None).await;
        self.stop().await;
        let note = self.shared.ring.lock().closing_note();
        if let Some(note) = note {
            // This batch tells that the records before it were synced. It only helps to find damage, so its
            // failure is none.
            let _ = note.file.pwrite(note.offset, note.parts, true).await;
        }
        self.shared.lock.lock().take();
        result
    }

    async fn stop(&self) {
        self.shared.ring.lock().close(closed);
        self.shared.work.notify_one();
        // The sender is part of `shared`, so the wait ends only with the loops.
        let _ = self.shared.ended.subscribe().wait_for(|ended| *ended).await;
        drop(self.shared.making.lock().await);
    }

    /// Lets go of the folder and deletes the journal in it. Only for a journal of which nobody will ever need a record.
    pub async fn discard(&self) -> Result<()> {
        self.stop().await;
        let (disk, dir) = (&self.shared.disk, &self.shared.dir);
        let doing = || format!("deleting the journal in {}", dir.display());
        // A folder without its header has no journal, whatever a crash leaves of the other files.
        disk.remove(&dir.join("header")).await.context(doing)?;
        disk.sync_dir(dir).await.context(doing)?;
        for name in disk.list(dir).await.context(doing)? {
            if name != "lock" {
                disk.remove(&dir.join(name)).await.context(doing)?;
            }
        }
        self.shared.lock.lock().take();
        Ok(())
    }

    /// Renames the folder to a place beside it that names `why`, and returns the new path. Nothing is deleted.
    pub async fn set_aside(&self, why: &str) -> Result<PathBuf> {
        // A failed sync loses nothing that could have been kept; all that is on the disk stays in the folder.
        let _ = self.sync(None).await;
        self.stop().await;
        let dir = &self.shared.dir;
        let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or("journal");
        let kept = dir.with_file_name(format!("{name}.{why}.{}", self.id()));
        let doing = || format!("keeping {} as {}", dir.display(), kept.display());
        self.shared.disk.rename(dir, &kept).await.context(doing)?;
        if let Some(parent) = dir.parent() {
            self.shared.disk.sync_dir(parent).await.context(doing)?;
        }
        self.shared.lock.lock().take();
        Ok(kept)
    }
}

fn closed() -> Error {
    Error::new(Kind::Closed, "the journal is closed")
}

/// A waiter in the queue for room, who may go away between being granted room and hearing of it.
struct Waiting<'a> {
    shared: &'a Shared,
    answer: tokio::sync::oneshot::Receiver<Result<Granted>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Closed before it is read: room that is granted between the two would be lost for good.
        self.answer.close();
        if let Ok(Ok(granted)) = self.answer.try_recv() {
            self.shared.give_back(&granted);
        }
        // Those behind this waiter may be let in now.
        self.shared.ring.lock().admit();
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.shared.give_back(&self.granted);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Without a close this is a crash: what isn't written yet is lost.
        self.shared.ring.lock().close(closed);
        self.shared.work.notify_one();
    }
}
