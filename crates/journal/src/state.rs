//! What a journal knows without asking the disk: its segments, what waits to be written, who waits for what, and how
//! much room is promised. Everything here is quick and under one lock.
//!
//! Two work at it side by side, each on one thing at a time: what `next_write` says is written, what `next_sync` says is
//! synced, so that who waits for a write does not wait for another's sync.
//!
//! Invariants: segments in use have laps that follow each other, and only the last has bytes that aren't synced.
//! What is promised (rooms, and records not yet written) always fits into segments that exist, however it falls
//! into batches: that is why a segment counts for less than its size. There are two segments or more, or the journal has
//! failed: the one that is written to is not freed by trimming, so one alone could fill up for good.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::format::{ALIGN, BATCH_RECORDS, BatchHead, Entry, SEGMENT_HEAD, SegmentHead};
use windlass_base::codec::Writer;
use windlass_base::rt::DiskFile;
use windlass_base::{Error, JournalId, Kind, Lsn, Result};
use windlass_keys::JournalSeal;

/// Body bytes of a batch, at most (one record may be more).
pub const BATCH_BYTES: u64 = 4 << 20;
/// Appended bytes that are written out without waiting for a sync.
const WRITE_OUT: u64 = 1 << 20;
/// Bytes in memory that aren't written yet, at most.
const BUFFER_MAX: u64 = 16 << 20;

/// Bytes of zeros, to fill pages up.
pub const ZEROS: &[u8] = &[0; 64 << 10];

/// A segment file.
#[derive(Clone, Debug)]
pub struct Segment {
    pub name: String,
    pub file: Arc<dyn DiskFile>,
    pub bytes: u64,
}

/// Sizes of segments, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Size of the smallest segment; the first two have it.
    pub least: u64,
    /// Size of the largest segment.
    pub most: u64,
    /// Bytes that all segments together may have.
    pub all: u64,
}

/// A segment in use.
#[derive(Clone, Debug)]
pub struct Live {
    pub segment: Segment,
    pub head: SegmentHead,
    /// Offset in the file at which the next batch is written.
    pub end: u64,
    /// Lsn of the last record in the segment, or of the last one before it while it has none.
    pub last: Lsn,
}

/// The next step of the write loop.
#[derive(Debug)]
pub enum Job {
    Idle,
    Write(Write),
    /// The write loop waits until all is synced. The next segment is begun only then.
    AfterSync,
    /// The mark goes into the header file, since the segments have no room for it.
    Header(Lsn),
    Stop,
}

#[derive(Debug)]
pub struct Write {
    pub file: Arc<dyn DiskFile>,
    pub offset: u64,
    pub parts: Vec<Bytes>,
}

/// The next step of the sync loop.
#[derive(Debug)]
pub enum SyncJob {
    Idle,
    Sync(Arc<dyn DiskFile>, Progress),
    Stop,
}

/// A position in the sequence of batches: those up to here were given to the disk, or written, or synced.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Number of batches. They are counted, since a batch without records has no lsn of its own.
    batches: u64,
    lsn: Lsn,
    mark: Lsn,
}

#[derive(Debug)]
struct WriteWaiter {
    goal: Lsn,
    done: oneshot::Sender<()>,
}

#[derive(Debug)]
struct SyncWaiter {
    goal: Lsn,
    mark: Lsn,
    done: oneshot::Sender<Result<()>>,
}

#[derive(Debug)]
struct RoomWaiter {
    cost: u64,
    done: oneshot::Sender<Result<Granted>>,
}

/// Room that was set aside for a waiter. Whoever receives it gives it back. When nobody receives it, `admit` sets nothing aside.
#[derive(Debug)]
pub struct Granted {
    pub cost: u64,
    pub generation: u64,
}

/// A journal as its memory knows it: segments in use and spare, pending records, waiters, and rooms. See the module.
#[derive(Debug)]
pub struct Ring {
    pub journal: JournalId,
    /// Seals each record that is appended to this ring. Another ring has another seal, and so has the next opening.
    pub seal: Option<JournalSeal>,
    pub sizes: Sizes,
    /// Size of the largest segment that is tried: less than `sizes.most` where the disk had no room for that much.
    reach: u64,
    /// Is true if the disk had no room for one more segment of even the smallest size.
    pub cramped: bool,
    /// Is true once somebody has asked for room since the journal was opened. No segment is made before.
    asked: bool,
    pub live: VecDeque<Live>,
    /// Segments all of whose records are trimmed, in the order of their laps.
    pub spent: VecDeque<Segment>,
    /// Segments that were never used, or whose contents are unknown.
    pub fresh: VecDeque<Segment>,
    pub first_lsn: Lsn,
    trimmed: Lsn,
    /// Number of restarts. Rooms of an earlier generation are void.
    pub generation: u64,
    pub failed: Option<Error>,
    pub closing: bool,
    /// Is true while a task makes a segment.
    pub preparing: bool,

    pending: VecDeque<Entry>,
    /// Room that the pending records take on the disk at worst, each in a batch of its own; and their body bytes.
    pending_cost: u64,
    pending_bytes: u64,
    /// Body bytes of the write under way.
    writing_bytes: u64,
    /// Room that was granted and is not used yet, in bytes.
    reserved: u64,
    appended: Lsn,
    /// Position of the newest batch that was given to the disk.
    begun: Progress,
    written: Progress,
    synced: Progress,
    /// The synced lsn that the newest batch on the disk tells.
    noted: Lsn,
    /// Is true if the current segment is full: nothing more is written before all of it is synced.
    lap_ends: bool,
    mark_wanted: Lsn,
    writes: VecDeque<WriteWaiter>,
    syncs: Vec<SyncWaiter>,
    rooms: VecDeque<RoomWaiter>,
}

impl Ring {
    /// Makes a ring without segments. `seal` belongs to this ring alone: the nonce of a record is its lsn, so
    /// that a second ring with that seal could repeat one.
    pub fn new(
        (journal, seal): (JournalId, Option<JournalSeal>),
        sizes: Sizes,
        first_lsn: Lsn,
        mark: Lsn,
    ) -> Ring {
        let before = Lsn(first_lsn.0 - 1);
        let progress = Progress { batches: 0, lsn: before, mark };
        Ring {
            journal,
            seal,
            sizes,
            reach: sizes.most,
            cramped: false,
            asked: false,
            live: VecDeque::new(),
            spent: VecDeque::new(),
            fresh: VecDeque::new(),
            first_lsn,
            trimmed: before,
            generation: 0,
            failed: None,
            closing: false,
            preparing: false,
            pending: VecDeque::new(),
            pending_cost: 0,
            pending_bytes: 0,
            writing_bytes: 0,
            reserved: 0,
            appended: before,
            begun: progress,
            written: progress,
            synced: progress,
            noted: before,
            lap_ends: false,
            mark_wanted: mark,
            writes: VecDeque::new(),
            syncs: Vec::new(),
            rooms: VecDeque::new(),
        }
    }

    /// Takes in what recovery found: these segments, whose records up to `end` are all on the disk and synced.
    pub fn resume(&mut self, live: VecDeque<Live>, end: Lsn, mark: Lsn) {
        self.live = live;
        let progress = Progress { batches: 0, lsn: end, mark };
        (self.begun, self.written, self.synced) = (progress, progress, progress);
        (self.appended, self.mark_wanted) = (end, mark);
    }

    pub fn appended(&self) -> Lsn {
        self.appended
    }

    pub fn mark(&self) -> Lsn {
        self.synced.mark
    }

    pub fn buffered(&self) -> u64 {
        self.pending_bytes + self.writing_bytes
    }

    pub fn used(&self) -> u64 {
        let live: u64 = self.live.iter().map(|l| l.end).sum();
        live + self.pending_cost + self.reserved
    }

    /// Number of segments that are on the disk.
    pub fn created(&self) -> usize {
        self.live.len() + self.spent.len() + self.fresh.len()
    }

    fn spare(&self) -> impl Iterator<Item = &Segment> {
        self.spent.iter().chain(&self.fresh)
    }

    /// Bytes of all segments on the disk.
    pub fn allocated(&self) -> u64 {
        self.live.iter().map(|l| &l.segment).chain(self.spare()).map(|s| s.bytes).sum()
    }

    /// Bytes that records may take before only trimming makes room. While the disk is full this is what the
    /// segments have, else what they may grow to.
    pub fn size(&self) -> u64 {
        if self.cramped { self.allocated() } else { self.sizes.all.max(self.allocated()) }
    }

    /// Sets the sizes of segments to come. Segments that exist stay.
    pub fn resize(&mut self, sizes: Sizes) {
        (self.sizes, self.reach) = (sizes, sizes.most);
    }

    /// Returns the bytes of the segment that should be made now, if one should. It is as large as all others
    /// together: so the journal grows with what is not trimmed, and small segments are made quickly.
    pub fn wants_segment(&self) -> Option<u64> {
        if self.preparing || self.closing || self.failed.is_some() || !self.asked {
            return None;
        }
        let allocated = self.allocated();
        let bytes =
            allocated.clamp(self.sizes.least, self.reach).min(self.sizes.all.saturating_sub(allocated));
        let begun = self.live.back().is_some_and(|l| l.end > l.segment.bytes / 4);
        let stuck = self.rooms.front().is_some_and(|next| !self.fits(next.cost));
        let wanted = self.created() < 2 || stuck || begun && self.spare().next().is_none();
        (wanted && bytes >= self.sizes.least).then_some(bytes / ALIGN * ALIGN)
    }

    /// Takes in a segment that was made.
    pub fn made(&mut self, segment: Segment) {
        self.fresh.push_back(segment);
        (self.cramped, self.reach) = (false, self.reach.saturating_mul(2).min(self.sizes.most));
        self.admit();
    }

    /// Notes that the disk had no room for a segment of so many bytes. Returns true if a smaller one may be tried at once.
    pub fn not_made(&mut self, bytes: u64) -> bool {
        self.cramped |= bytes == self.sizes.least;
        self.reach = (bytes / 2).max(self.sizes.least);
        bytes > self.sizes.least
    }

    /// Returns the room that a record of so many body bytes takes at worst: that of a batch of its own.
    pub fn cost(body: u64) -> u64 {
        ALIGN + body.next_multiple_of(ALIGN)
    }

    /// Returns the body bytes of the largest record: a quarter of the smallest segment, 4 MiB at most.
    pub fn record_max(least: u64) -> u64 {
        (least / 4 / ALIGN * ALIGN).clamp(ALIGN, BATCH_BYTES)
    }

    /// Bytes at the end of a segment that count as unusable, since the next record may just not fit there.
    fn waste(&self) -> u64 {
        Self::cost(Self::record_max(self.sizes.least))
    }

    /// Room that every empty segment has for certain, even the smallest. Nobody may ask for more at once: while
    /// the disk is full, larger segments may never come.
    pub fn room_max(&self) -> u64 {
        self.sizes.least - SEGMENT_HEAD - self.waste()
    }

    fn available(&self) -> u64 {
        let current = self.live.back().map_or(0, |l| (l.segment.bytes - l.end).saturating_sub(self.waste()));
        current + self.spare().map(|s| s.bytes - SEGMENT_HEAD - self.waste()).sum::<u64>()
    }

    fn fits(&self, cost: u64) -> bool {
        self.pending_cost + self.reserved + cost <= self.available()
    }

    /// Sets room aside, or queues for it: then the inner result is the receiver that tells when there is room.
    pub fn reserve(&mut self, cost: u64) -> Result<Result<Granted, oneshot::Receiver<Result<Granted>>>> {
        self.check()?;
        if cost > self.room_max() {
            let least = self.sizes.least;
            let why = format!("a journal with segments of {least} bytes was asked for {cost} at once");
            return Err(Error::new(Kind::Internal, why));
        }
        self.asked = true;
        if self.rooms.is_empty() && self.may_enter(cost) {
            self.reserved += cost;
            return Ok(Ok(Granted { cost, generation: self.generation }));
        }
        let (done, rx) = oneshot::channel();
        self.rooms.push_back(RoomWaiter { cost, done });
        Ok(Err(rx))
    }

    fn may_enter(&self, cost: u64) -> bool {
        let buffered = self.buffered() + self.reserved;
        self.fits(cost) && (buffered == 0 || buffered + cost <= BUFFER_MAX)
    }

    /// Tells whether writes wait, or will soon wait, for room that only trimming makes. A waiter who waits for
    /// the disk to take what is in memory does not count.
    pub fn is_short(&self) -> bool {
        let stuck = self.rooms.front().is_some_and(|next| !self.fits(next.cost));
        stuck || self.used() > self.size() / 2
    }

    /// Grants room to those who wait for it, in the order in which they came.
    pub fn admit(&mut self) {
        while let Some(next) = self.rooms.front() {
            if !next.done.is_closed() && !self.may_enter(next.cost) {
                return;
            }
            let Some(RoomWaiter { cost, done }) = self.rooms.pop_front() else { return };
            if done.send(Ok(Granted { cost, generation: self.generation })).is_ok() {
                self.reserved += cost;
            }
        }
    }

    pub fn give_back(&mut self, cost: u64, generation: u64) {
        if generation == self.generation {
            self.reserved -= cost;
            self.admit();
        }
    }

    fn check(&self) -> Result<()> {
        match &self.failed {
            Some(error) => Err(error.share()),
            None if self.closing => Err(Error::new(Kind::Closed, "the journal is closed")),
            None => Ok(()),
        }
    }

    /// Takes a record in, whose cost is part of a room of this generation. Returns whether enough is pending to
    /// be written even if nobody waits for it.
    pub fn append(&mut self, entry: Entry, generation: u64) -> Result<bool> {
        self.check()?;
        if generation != self.generation {
            return Err(Error::new(Kind::Closed, "the journal was started anew"));
        }
        let (lsn, body) = (entry.head.lsn, entry.body.len() as u64);
        if lsn <= self.appended || body > Self::record_max(self.sizes.least) {
            let why = format!("record {lsn} of {body} bytes can't come after record {}", self.appended);
            return Err(Error::new(Kind::Internal, why));
        }
        let cost = Self::cost(entry.body.len() as u64);
        self.appended = lsn;
        self.reserved -= cost;
        self.pending_cost += cost;
        self.pending_bytes += entry.body.len() as u64;
        self.pending.push_back(entry);
        Ok(self.pending_bytes >= WRITE_OUT || self.pending.len() >= BATCH_RECORDS)
    }

    /// Returns a receiver that resolves when all that was appended is written, or never will be; `None` when it
    /// is written already, or the journal takes no writes any more.
    pub fn written(&mut self) -> Option<oneshot::Receiver<()>> {
        if self.appended <= self.written.lsn || self.check().is_err() {
            return None;
        }
        let (done, rx) = oneshot::channel();
        self.writes.push_back(WriteWaiter { goal: self.appended, done });
        Some(rx)
    }

    /// Returns a receiver that resolves when all that was appended, and the mark, are durable; `None` when they are already.
    pub fn sync(&mut self, mark: Option<Lsn>) -> Result<Option<oneshot::Receiver<Result<()>>>> {
        self.check()?;
        let (goal, mark) = (self.appended, mark.unwrap_or(self.synced.mark));
        self.mark_wanted = self.mark_wanted.max(mark);
        if goal <= self.synced.lsn && mark <= self.synced.mark {
            return Ok(None);
        }
        let (done, rx) = oneshot::channel();
        self.syncs.push(SyncWaiter { goal, mark, done });
        Ok(Some(rx))
    }

    /// Tells whether there are records that are not known to be stored and confirmed.
    pub fn is_needed(&self) -> bool {
        self.appended > self.trimmed
    }

    /// Notes that a needed record was not taken in: `is_needed` counts it like one that was. Returns whether
    /// the journal had not failed before.
    pub fn missed(&mut self, lsn: Lsn) -> bool {
        self.appended = self.appended.max(lsn);
        self.failed.is_none()
    }

    /// Fails with `Internal` when there are records from `first` on, so that the journal must not begin anew there.
    pub fn check_left(&self, first: Lsn) -> Result<()> {
        if self.appended < first || self.appended < self.first_lsn {
            return Ok(());
        }
        let why =
            format!("the journal has records up to {}, and is not begun anew before them", self.appended);
        Err(Error::new(Kind::Internal, why))
    }

    pub fn trim(&mut self, upto: Lsn) {
        self.trimmed = self.trimmed.max(upto);
        while self.live.len() > 1 && self.live[0].last <= self.trimmed {
            let Some(done) = self.live.pop_front() else { break };
            self.spent.push_back(done.segment);
        }
        self.admit();
    }

    /// Marks the journal as failed: nothing in it is trusted any more. All who wait get the error.
    pub fn fail(&mut self, error: Error) {
        self.writes.clear();
        for waiter in self.syncs.drain(..) {
            let _ = waiter.done.send(Err(error.share()));
        }
        for waiter in self.rooms.drain(..) {
            let _ = waiter.done.send(Err(error.share()));
        }
        self.pending.clear();
        (self.pending_bytes, self.pending_cost, self.writing_bytes) = (0, 0, 0);
        self.failed = Some(error);
    }

    /// Takes nothing more in. All who wait get this error.
    pub fn close(&mut self, why: fn() -> Error) {
        self.closing = true;
        self.pending.clear();
        self.writes.clear();
        for waiter in self.syncs.drain(..) {
            let _ = waiter.done.send(Err(why()));
        }
        for waiter in self.rooms.drain(..) {
            let _ = waiter.done.send(Err(why()));
        }
    }

    /// Returns what to write next; the caller has ended the write before. `salt` makes one for a segment that may be begun.
    pub fn next_write(&mut self, salt: impl FnOnce() -> u64) -> Job {
        let nothing = if self.closing { Job::Stop } else { Job::Idle };
        if self.failed.is_some() {
            return nothing;
        }
        let waited_for = !self.writes.is_empty() || !self.syncs.is_empty();
        // A written record takes less room than was promised for it: that may let a waiter in.
        let short = !self.rooms.is_empty();
        let much = self.pending_bytes >= WRITE_OUT || self.pending.len() >= BATCH_RECORDS || short;
        if !self.pending.is_empty() && (waited_for || much) {
            return self.write_job(salt);
        }
        if self.syncs.is_empty() || self.mark_wanted <= self.written.mark {
            return nothing;
        }
        let has_page = self.live.back().is_some_and(|l| l.end + ALIGN <= l.segment.bytes) && self.fits(ALIGN);
        if has_page { Job::Write(self.batch(Vec::new(), None)) } else { Job::Header(self.mark_wanted) }
    }

    /// Returns what to sync next; the caller has ended the sync before.
    pub fn next_sync(&self) -> SyncJob {
        let nothing = if self.closing { SyncJob::Stop } else { SyncJob::Idle };
        if self.failed.is_some() || self.written.batches <= self.synced.batches {
            return nothing;
        }
        let Progress { lsn, mark, .. } = self.written;
        let wanted = self.lap_ends || self.syncs.iter().any(|w| w.goal <= lsn && w.mark <= mark);
        match self.live.back() {
            // Only the last segment has bytes that are not synced.
            Some(last) if wanted => SyncJob::Sync(last.segment.file.clone(), self.written),
            _ => nothing,
        }
    }

    fn write_job(&mut self, salt: impl FnOnce() -> u64) -> Job {
        let need = self.pending.front().map_or(0, |e| Self::cost(e.body.len() as u64));
        let left = self.live.back().map_or(0, |l| l.segment.bytes - l.end);
        if left >= need {
            let entries = self.take_entries(left);
            return Job::Write(self.batch(entries, None));
        }
        self.lap_ends = self.begun.batches > self.synced.batches;
        if self.lap_ends {
            return Job::AfterSync;
        }
        let unused = self.spent.pop_front().or_else(|| self.fresh.pop_front());
        let Some(segment) = unused else {
            self.fail(Error::new(Kind::Internal, "the journal promised more room than it has"));
            return Job::Idle;
        };
        let (old, bytes) = (self.live.back(), segment.bytes);
        let head = SegmentHead {
            bytes,
            lap: old.map_or(0, |l| l.head.lap) + 1,
            salt: salt(),
            before: old.map_or(Lsn(self.first_lsn.0 - 1), |l| l.last),
            before_end: old.map_or(0, |l| l.end),
            mark: self.mark_wanted,
        };
        self.live.push_back(Live { segment, head, end: SEGMENT_HEAD, last: head.before });
        let entries = self.take_entries(bytes - SEGMENT_HEAD);
        let job = self.batch(entries, Some(head));
        // All records of the segment before may be trimmed already: it stayed because it was the last.
        self.trim(self.trimmed);
        Job::Write(job)
    }

    fn take_entries(&mut self, room: u64) -> Vec<Entry> {
        let (mut body, sealed) = (0, self.seal.is_some());
        let fits = |e: &Entry, body: &mut u64, n: usize| {
            *body += e.body.len() as u64;
            let bytes = BatchHead::size_of(n + 1, *body, sealed);
            n < BATCH_RECORDS && bytes <= room && (n == 0 || bytes <= BATCH_BYTES)
        };
        let count = self.pending.iter().enumerate().take_while(|(n, e)| fits(e, &mut body, *n)).count();
        self.pending.drain(..count).collect()
    }

    /// Makes one write of a batch: perhaps the head of its segment, its heads, the bodies, zeros up to the end of the page.
    fn batch(&mut self, entries: Vec<Entry>, head: Option<SegmentHead>) -> Write {
        let body: u64 = entries.iter().map(|e| e.body.len() as u64).sum();
        let cost: u64 = entries.iter().map(|e| Self::cost(e.body.len() as u64)).sum();
        let last = entries.last().map_or(self.begun.lsn, |e| e.head.lsn);
        let live = self.live.back_mut().expect("a batch goes into a segment");
        let batch = BatchHead {
            lap: live.head.lap,
            salt: live.head.salt,
            records: entries.len() as u16,
            body: body as u32,
            sealed: self.seal.as_ref().map(JournalSeal::salt),
            before: live.last,
            synced: self.synced.lsn,
            mark: self.mark_wanted,
        };
        let begins = if head.is_some() { SEGMENT_HEAD } else { 0 };
        let mut w = Writer::with_capacity((begins + batch.bodies()) as usize);
        if let Some(head) = head {
            head.encode(self.journal, &mut w);
        }
        let offset = live.end - begins;
        batch.encode(self.journal, live.end, entries.iter().map(|e| &e.head), &mut w);
        w.buf.resize((begins + batch.bodies()) as usize, 0);
        let mut parts = Vec::with_capacity(entries.len() + 2);
        parts.push(Bytes::from(w.buf));
        parts.extend(entries.into_iter().map(|e| e.body).filter(|b| !b.is_empty()));
        let pad = batch.size() - batch.bodies() - body;
        parts.push(Bytes::from_static(&ZEROS[..pad as usize]));
        live.end += batch.size();
        live.last = last;
        self.pending_bytes -= body;
        self.pending_cost -= cost;
        self.writing_bytes = body;
        self.begun = Progress { batches: self.begun.batches + 1, lsn: last, mark: self.mark_wanted };
        self.noted = self.synced.lsn;
        Write { file: live.segment.file.clone(), offset, parts }
    }

    /// Notes that the write under way ended well. Returns whether somebody waits for a sync.
    pub fn wrote(&mut self) -> bool {
        (self.writing_bytes, self.written) = (0, self.begun);
        while let Some(waiter) = self.writes.pop_front_if(|w| w.goal <= self.written.lsn) {
            let _ = waiter.done.send(());
        }
        self.admit();
        !self.syncs.is_empty()
    }

    /// Notes that a sync ended well: it covers what was written when it began, `upto`.
    pub fn synced(&mut self, upto: Progress) {
        self.synced = Progress { mark: self.synced.mark.max(upto.mark), ..upto };
        self.lap_ends = false;
        self.answer();
    }

    /// Notes that the header file has this mark.
    pub fn header_has(&mut self, mark: Lsn) {
        for progress in [&mut self.begun, &mut self.written, &mut self.synced] {
            progress.mark = progress.mark.max(mark);
        }
        self.answer();
    }

    fn answer(&mut self) {
        let Progress { lsn, mark, .. } = self.synced;
        for waiter in self.syncs.extract_if(.., |w| w.goal <= lsn && w.mark <= mark) {
            let _ = waiter.done.send(Ok(()));
        }
    }

    /// Returns a last batch without records, if it would tell of more that is synced than the batches before.
    pub fn closing_note(&mut self) -> Option<Write> {
        let current = self.live.back()?;
        let has_page = current.end + ALIGN <= current.segment.bytes && self.fits(ALIGN);
        let news = self.noted < self.synced.lsn && self.failed.is_none();
        (news && has_page).then(|| self.batch(Vec::new(), None))
    }

    /// Starts anew with another id, another seal and these segments. Returns the old segments.
    pub fn begin_anew(
        &mut self,
        journal: (JournalId, Option<JournalSeal>),
        segments: Vec<Segment>,
        first_lsn: Lsn,
        mark: Lsn,
    ) -> Vec<Segment> {
        let mut old: Vec<Segment> = self.live.drain(..).map(|l| l.segment).collect();
        old.extend(self.spent.drain(..).chain(self.fresh.drain(..)));
        let mut new = Ring::new(journal, self.sizes, first_lsn, mark);
        new.generation = self.generation + 1;
        new.preparing = self.preparing;
        new.closing = self.closing;
        new.asked = self.asked;
        new.fresh = segments.into();
        *self = new;
        old
    }
}
