//! Taking writes in: whole blocks into the journal's buffer and the tip.
//!
//! Memory and room in the journal are waited for before the tip is locked, so that an outage slows writes down and never
//! fails them. Blocks that are written in part are read, merged and written whole under a lock on their range; whoever
//! waits for such a lock, or for a gate, holds neither memory nor room meanwhile. Of writes that wait and overlap the one
//! that came first is done first: the volume sees to that before they come here (`range_lock::Arrivals`).
//!
//! A step is taken in at one instant (`take_in`). Dropped before, a write leaves nothing behind; one of several steps may be
//! there in part, as after a crash.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};

use super::range_lock::Guard;
use super::session_core::Session;
use super::tip::Tip;
use crate::head::{Stop, is_template, without_journal};
use crate::read::{Piece, blocks_of, passes};
use windlass_base::format_limits::{BLOCK, FRAME_BLOCKS};
use windlass_base::log_record::{Op, Record};
use windlass_base::units::show_size;
use windlass_base::{Error, Held, Kind, Lsn};
use windlass_journal::Room;

/// Payload that is taken in at once; a longer write is several steps, each atomic.
const STEP: u64 = 1 << 20;
/// Most records that are taken in at once.
const STEP_RECORDS: usize = 512;
/// Entries of the tip that one record may drop, about: other writes wait for that.
const DROPPED_MAX: usize = 16_384;
/// Bytes counted for a record beside its payload: its entry in the layer and in the queue.
const RECORD_COST: u64 = 256;

/// Time between two looks at how much of the quota is used.
const QUOTA_LOOK: Duration = Duration::from_secs(10);
/// Time until stores that are away are asked again, for the map or for the rest of a block.
const STORES_AGAIN: Duration = Duration::from_secs(1);

static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

fn is_zero(block: &[u8]) -> bool {
    block == &ZEROS[..block.len()]
}

/// Returns the changes that write `data` at `block`: runs that hold something, and runs of zero blocks. What
/// fits a frame is memory of its own, since caches keep it as it is.
fn changes(block: u64, data: Bytes, record_max: u64) -> Vec<Op> {
    let len = data.len() as u64;
    let mut ops = Vec::new();
    let mut rest = data;
    let mut block = block;
    while !rest.is_empty() {
        let zero = is_zero(&rest[..BLOCK as usize]);
        let run = rest.chunks(BLOCK as usize).take_while(|b| is_zero(b) == zero).count() as u64;
        let run = if zero { run } else { run.min(record_max / BLOCK) };
        let mut part = rest.split_to((run * BLOCK) as usize);
        if run <= FRAME_BLOCKS && (part.len() as u64) < len {
            part = Bytes::copy_from_slice(&part);
        }
        ops.push(if zero { Op::Zero { block, blocks: run } } else { Op::Write { block, data: part } });
        block += run;
    }
    ops
}

fn payload(ops: &[Op]) -> u64 {
    ops.iter().map(|op| op.payload().len() as u64).sum()
}

/// Returns how many of the first changes make one step. `cost` says what a payload takes of the journal,
/// which gives `room` at once.
fn step(ops: &[Op], cost: impl Fn(u64) -> u64, room: u64) -> usize {
    let (mut bytes, mut taken) = (0, 0);
    let fits = |op: &&Op| {
        let payload = op.payload().len() as u64;
        (bytes, taken) = (bytes + payload, taken + cost(payload));
        bytes <= STEP && taken <= room
    };
    ops.iter().take(STEP_RECORDS).take_while(fits).count().max(1)
}

fn span(ops: &[Op]) -> Range<u64> {
    let start = ops.iter().map(|op| op.blocks().0).min().unwrap_or(0);
    let end = ops.iter().map(|op| op.blocks().0 + op.blocks().1).max().unwrap_or(0);
    start..end
}

/// The outcome of a try to take in changes that had memory and room.
enum Look {
    Taken,
    /// Something has changed meanwhile: the caller does all of it anew.
    Again,
    /// The gate is closed.
    Closed,
    /// The quota has no room for the changes, unless some of their blocks are mapped already.
    Full,
}

/// Returns how many blocks these changes fill with data.
fn data_blocks(ops: &[Op]) -> u64 {
    ops.iter().filter(|op| matches!(op, Op::Write { .. })).map(|op| op.blocks().1).sum()
}

/// Counts what is mapped when the quota may be nearly used up, and says so once. Runs with the session.
pub async fn watch_quota(session: Arc<Session>) {
    loop {
        if !session.near_quota.load(Ordering::Relaxed) {
            session.quota.notified().await;
        }
        let counted = async {
            let _one = session.counting.lock().await;
            session.count_mapped().await
        };
        let most = match counted.await {
            Ok(()) => session.tip.lock().mapped_most(),
            Err(_) => None,
        };
        let quota = session.context.settings().quota_bytes;
        let near = quota.zip(most).is_some_and(|(quota, most)| is_near(most, quota / BLOCK));
        if near && !session.near_quota.swap(true, Ordering::Relaxed) {
            let title = session.context.title();
            tracing::warn!(volume = %title, "90 % of the volume's quota is used: writes above it fail");
        } else if !near {
            session.near_quota.store(false, Ordering::Relaxed);
        }
        session.context.rt().sleep(QUOTA_LOOK).await;
    }
}

fn is_near(blocks: u64, quota: u64) -> bool {
    u128::from(blocks) * 10 >= u128::from(quota) * 9
}

/// Logs the parts of these blocks once more that no write since the last checkpoint has. Returns how many
/// bytes that is.
pub async fn write_again(session: &Arc<Session>, blocks: Range<u64>) -> Result<u64, Stop> {
    session.keep_pace((blocks.end - blocks.start) * BLOCK).await?;
    let guard = session.or_end(session.ranges.lock(blocks.clone())).await?;
    // It may have become smaller (`roll_back`).
    let end = session.tip.lock().tables.tip().size.div_ceil(BLOCK);
    let blocks = blocks.start..blocks.end.min(end);
    if blocks.is_empty() {
        return Ok(0);
    }
    let (found, _) = session.lookup(blocks.start * BLOCK, (blocks.end - blocks.start) * BLOCK)?;
    let mut written = 0;
    for (range, _) in found.into_iter().filter(|(_, piece)| piece.is_none()) {
        let len = (range.end - range.start) * BLOCK;
        let data = session.read((range.start * BLOCK, len), &|| ()).await?.into_bytes();
        session.apply(changes(range.start, data, session.record_max()), Some(&guard)).await?;
        written += len;
    }
    Ok(written)
}

impl Session {
    /// Returns the payload that one record may have.
    fn record_max(&self) -> u64 {
        (self.journal.record_max().min(STEP) / BLOCK * BLOCK).max(BLOCK)
    }

    pub async fn write(self: &Arc<Self>, offset: u64, data: Bytes) -> Result<(), Stop> {
        self.writable()?;
        let len = data.len() as u64;
        // Not while a range is locked: those who wait for it would wait their own turns after this one.
        self.keep_pace(len).await?;
        let blocks = blocks_of(offset, len);
        if offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK) {
            return self.apply(changes(blocks.start, data, self.record_max()), None).await;
        }
        let guard = self.ranges.lock(blocks.clone()).await;
        let whole = Box::pin(self.merge(&blocks, offset, &data)).await?;
        self.apply(changes(blocks.start, whole, self.record_max()), Some(&guard)).await
    }

    /// Reads these blocks and lays `data` over them.
    async fn merge(self: &Arc<Self>, blocks: &Range<u64>, offset: u64, data: &[u8]) -> Result<Bytes, Stop> {
        let (first, end) = (blocks.start * BLOCK, blocks.end * BLOCK);
        let (head, tail) = (offset - first, end - offset - data.len() as u64);
        let mut whole = BytesMut::with_capacity((end - first) as usize);
        if head > 0 {
            whole.extend_from_slice(&self.read_kept(first, head).await?);
        }
        whole.extend_from_slice(data);
        if tail > 0 {
            whole.extend_from_slice(&self.read_kept(end - tail, tail).await?);
        }
        Ok(whole.freeze())
    }

    /// Reads what a write keeps of a block. A read gives up after a while; a write waits through an outage, until
    /// `unless_outage` gives it up.
    async fn read_kept(self: &Arc<Self>, offset: u64, len: u64) -> Result<Bytes, Stop> {
        loop {
            match self.read((offset, len), &|| ()).await {
                Err(Stop::Failed(e)) if passes(&e) => {
                    self.or_end(self.context.rt().sleep(STORES_AGAIN)).await?;
                }
                done => return Ok(done?.into_bytes()),
            }
        }
    }

    /// Fails with `ReadOnly` if the volume is a template: it may have become one while nobody owned it.
    fn writable(&self) -> Result<(), Stop> {
        match self.context.settings().template {
            true => Err(Error::new(Kind::ReadOnly, is_template(&self.context.title())).into()),
            false => Ok(()),
        }
    }

    pub async fn zero(self: &Arc<Self>, offset: u64, len: u64) -> Result<(), Stop> {
        self.writable()?;
        self.keep_pace(0).await?;
        let end = offset + len;
        let (from, to) = (offset.next_multiple_of(BLOCK), end / BLOCK * BLOCK);
        if (from, to) != (offset, end) && len <= STEP {
            return Box::pin(self.zero_in_one(offset, len)).await;
        }
        // A lock on all of it would hold up who writes anywhere in it while its ends are read.
        if offset < from {
            Box::pin(self.zero_in_one(offset, from - offset)).await?;
        }
        self.zero_blocks(from / BLOCK..to / BLOCK).await?;
        if to < end {
            Box::pin(self.zero_in_one(to, end - to)).await?;
        }
        Ok(())
    }

    /// Zeroes whole blocks: a disk of any size in one step, unless much was written to it lately.
    async fn zero_blocks(self: &Arc<Self>, mut blocks: Range<u64>) -> Result<(), Stop> {
        loop {
            let end = self.tip.lock().overlay.active.end_of(&blocks, DROPPED_MAX);
            self.apply(vec![Op::Zero { block: blocks.start, blocks: end - blocks.start }], None).await?;
            if end == blocks.end {
                return Ok(());
            }
            blocks.start = end;
            self.context.rt().give_way().await;
        }
    }

    /// Zeroes a range at once, together with blocks of which only a part is zeroed.
    async fn zero_in_one(self: &Arc<Self>, offset: u64, len: u64) -> Result<(), Stop> {
        let blocks = blocks_of(offset, len);
        let (from, to) = (offset.div_ceil(BLOCK), (offset + len) / BLOCK);
        let guard = self.ranges.lock(blocks.clone()).await;
        let mut ops = Vec::new();
        if from > to || blocks.end - blocks.start == 1 {
            let whole = self.merge(&blocks, offset, &vec![0; len as usize]).await?;
            ops.extend(changes(blocks.start, whole, self.record_max()));
        } else {
            if blocks.start < from {
                let part = vec![0; (from * BLOCK - offset) as usize];
                let whole = self.merge(&(blocks.start..from), offset, &part).await?;
                ops.extend(changes(blocks.start, whole, self.record_max()));
            }
            if from < to {
                ops.push(Op::Zero { block: from, blocks: to - from });
            }
            if to < blocks.end {
                let part = vec![0; (offset + len - to * BLOCK) as usize];
                let whole = self.merge(&(to..blocks.end), to * BLOCK, &part).await?;
                ops.extend(changes(to, whole, self.record_max()));
            }
        }
        self.apply(ops, Some(&guard)).await
    }

    /// Waits until a write of so many bytes is due.
    async fn keep_pace(&self, bytes: u64) -> Result<(), Stop> {
        let rt = self.context.rt();
        let now = rt.now();
        let turn = self.pace.turn(now, bytes);
        if turn > now { self.or_end(rt.sleep(turn.since(now))).await } else { Ok(()) }
    }

    /// Takes in changes, step by step. `mine`: the caller's lock on all these blocks.
    async fn apply(self: &Arc<Self>, ops: Vec<Op>, mine: Option<&Guard<'_>>) -> Result<(), Stop> {
        let (mut rest, room) = (&ops[..], self.journal.room_max());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(step(rest, |bytes| self.journal.cost(bytes), room));
            self.admit(now, mine).await?;
            rest = later;
        }
        Ok(())
    }

    async fn admit(self: &Arc<Self>, ops: &[Op], mine: Option<&Guard<'_>>) -> Result<(), Stop> {
        let bytes = payload(ops) + RECORD_COST * ops.len() as u64;
        let cost = ops.iter().map(|op| self.journal.cost(op.payload().len() as u64)).sum();
        let range = span(ops);
        // Blocks that nobody else may hold.
        let free = if mine.is_none() { Some(&range) } else { None };
        let mut fresh = None;
        loop {
            // Nobody waits for blocks, nor at a closed gate, with memory or room in hand: who holds the blocks may stand in
            // the queue for room behind this write, and who closed the gate may need some as well.
            if let Some(range) = free {
                self.or_end(self.ranges.free(range)).await?;
            }
            let held = self.memory(bytes).await?;
            let room = self.room(cost).await?;
            let waiting = self.opened.notified();
            let mut waiting = std::pin::pin!(waiting);
            waiting.as_mut().enable();
            match self.take_in(ops, free, held, room, fresh)? {
                Look::Taken => return Ok(()),
                Look::Again => {}
                // Rare, and large: not a part of each write's future.
                Look::Full => fresh = Some(Box::pin(self.space_for(ops)).await?),
                Look::Closed => self.or_end(waiting).await?,
            }
        }
    }

    /// Returns how many of the blocks that these changes fill are not mapped yet, once it is known that they
    /// fit the quota. Waits through an outage.
    ///
    /// # Errors
    /// `NoSpace`: the quota of the volume or of the pool is used up.
    async fn space_for(self: &Arc<Self>, ops: &[Op]) -> Result<u64, Stop> {
        let one = self.counting.lock().await;
        let mut fresh = self.unmapped(ops).await?;
        if fresh == 0 {
            return Ok(0);
        }
        if let Some(quota) = self.context.settings().quota_bytes {
            self.count_mapped().await?;
            // Another connection may have filled them meanwhile: counted with what is mapped, they need nothing any more.
            fresh = self.unmapped(ops).await?;
            if fresh > 0 && self.tip.lock().mapped_most().unwrap_or(0) + fresh > quota / BLOCK {
                // Nothing may have been counted before: who looks at the volume is told why writes fail.
                self.quota.notify_one();
                let (title, quota) = (self.context.title(), show_size(quota));
                let why = format!(
                    "volume {title} has a quota of {quota}, and it is used up: trim or remove something in it"
                );
                return Err(Error::new(Kind::NoSpace, why).into());
            }
        }
        // Overwrites need not wait for a count of the pool. An outage holds.
        drop(one);
        let pool = &self.context.engine.pool;
        if !self.or_end(pool.quota().has(self.context.rt().now(), fresh * BLOCK)).await? {
            let quota = pool.settings().quota_bytes.map_or_else(String::new, show_size);
            let why = format!(
                "pool {} has a quota of {quota}, and it is used up: remove something (--now, where there is a trash), or raise it with \
                 `windlass pool set`",
                pool.name()
            );
            return Err(Error::new(Kind::NoSpace, why).into());
        }
        Ok(fresh)
    }

    /// Returns how many of the blocks that these changes fill read as zeros now. Waits through an outage.
    async fn unmapped(self: &Arc<Self>, ops: &[Op]) -> Result<u64, Stop> {
        let mut fresh = 0;
        for op in ops.iter().filter(|op| matches!(op, Op::Write { .. })) {
            let (block, count) = op.blocks();
            fresh += loop {
                let recorded = self.chunk_table.lock().root;
                let (found, tree) = self.lookup(block * BLOCK, count * BLOCK)?;
                // What is left of so many when those that are mapped are taken away.
                let zeros = found.iter().filter(|(_, piece)| matches!(piece, None | Some(Piece::Zero)));
                let all = zeros.map(|(range, _)| range.end - range.start).sum();
                let holes = found.into_iter().filter(|(_, piece)| piece.is_none());
                let holes = holes.map(|(range, _)| (range, false)).collect();
                match self.context.view.mapped(holes, &tree, all, usize::MAX).await {
                    Ok(left) => break left.unwrap_or(all),
                    Err(e) if e.is(Kind::Corrupt) && self.chunk_table.lock().root != recorded => {}
                    Err(e) if passes(&e) => self.or_end(self.context.rt().sleep(STORES_AGAIN)).await?,
                    Err(e) => return Err(self.end_by_absence(e).await),
                }
            };
        }
        Ok(fresh)
    }

    /// Tells whether the volume's quota has room for so many blocks more.
    fn fits(&self, tip: &Tip, fresh: u64) -> bool {
        let Some(quota) = self.context.settings().quota_bytes else { return true };
        let most = tip.mapped_most().map(|most| most + fresh);
        if most.is_some_and(|most| is_near(most, quota / BLOCK)) {
            self.quota.notify_one();
        }
        fresh == 0 || most.is_some_and(|most| most <= quota / BLOCK)
    }

    /// Tells whether the quotas of the volume and the pool have room for so many blocks more, and takes it of
    /// the pool's.
    fn take_space(&self, tip: &Tip, fresh: u64) -> bool {
        self.fits(tip, fresh) && (fresh == 0 || self.context.engine.pool.quota().take(fresh * BLOCK))
    }

    /// Makes the changes visible and logs them, in this instant or not at all. Whoever waits for it may give
    /// up before, never midway. `fresh`: so many of the blocks are not mapped, where that was counted.
    fn take_in(
        &self,
        ops: &[Op],
        free: Option<&Range<u64>>,
        held: Held,
        mut room: Option<Room<'_>>,
        fresh: Option<u64>,
    ) -> Result<Look, Stop> {
        let mut tip = self.tip.lock();
        if let Some(stop) = &tip.closed {
            return Err(stop.share());
        }
        if tip.barrier {
            return Ok(Look::Closed);
        }
        // It failed or was mended since it was asked for room: its records must not be missing from the new one.
        if !self.journal.is_current(room.as_ref()) {
            return Ok(Look::Again);
        }
        // Since it was asked for the volume may have become smaller (`roll_back`).
        let end = tip.tables.tip().size.div_ceil(BLOCK);
        if span(ops).end > end {
            let why = format!("volume {} ends before that by now", self.context.title());
            return Err(Error::new(Kind::Invalid, why).into());
        }
        // Looked at under the lock: a merge that began later will read what is taken in now.
        if free.is_some_and(|range| self.ranges.is_held(range)) {
            return Ok(Look::Again);
        }
        let blocks = data_blocks(ops);
        let fresh = fresh.unwrap_or(blocks);
        if !self.take_space(&tip, fresh) {
            return Ok(Look::Full);
        }
        let now = self.context.rt().now();
        let first = tip.pending.is_empty();
        let (many, mut held) = (ops.len(), Some(held));
        for (i, op) in ops.iter().enumerate() {
            let record = Record { lsn: tip.lsn.next(), op: op.clone() };
            self.log_locally(&mut room, &record);
            let held = if i + 1 == many { held.take() } else { None };
            tip.take(record, held, now)?;
        }
        tip.overwrote(blocks.saturating_sub(fresh));
        let full = tip.pending.due(self.writer.chunk_target(), self.cut_age()).is_some_and(|at| at <= now);
        drop(tip);
        if first || full {
            self.work.notify_one();
        }
        self.rounds.dirty(now);
        Ok(Look::Taken)
    }

    /// Appends a record to the journal's buffer, and to what a peer is sent. Called under the tip's lock.
    /// `room`: asked for since the last restart (`is_current`); none of a journal that takes nothing.
    ///
    /// A journal that does not take what it has room for has failed with that. The record counts as one that
    /// it should have, so that nobody hears of it before the pool has it.
    pub fn log_locally(&self, room: &mut Option<Room<'_>>, record: &Record) {
        if self.mirror.collects() {
            self.mirror.push(record);
        }
        if let Some(room) = room
            && let Err(error) = self.journal.append(room, record)
        {
            tracing::warn!(volume = %self.context.name(), %error, "the journal takes no more writes");
            self.journal.missed(record.lsn, error);
            self.mending.want();
        }
    }

    /// Waits for memory for writes; when there is none all volumes of the pool are hurried.
    pub async fn memory(&self, bytes: u64) -> Result<Held, Stop> {
        let budget = &self.context.engine.memory.overlay;
        if let Some(held) = budget.try_take(bytes) {
            return Ok(held);
        }
        // The others when somebody begins to wait; this one whenever somebody of it does.
        self.hurry();
        self.or_end(budget.take(bytes)).await
    }

    /// Waits for so many bytes of room in the journal. `None` while the journal takes no records and nobody
    /// needs those that are in it. It must not be called behind a closed gate: a journal that failed is begun
    /// anew behind one.
    pub async fn room(&self, cost: u64) -> Result<Option<Room<'_>>, Stop> {
        loop {
            self.mended_or_left().await?;
            if self.journal.failed().is_some() {
                return Ok(None);
            }
            let usage = self.journal.usage();
            if usage.used + cost > usage.size / 2 {
                // Room comes from what is stored and confirmed.
                self.hurry();
                self.rounds.ask();
            }
            match self.or_end(self.journal.reserve(cost)).await? {
                Ok(room) => return Ok(Some(room)),
                Err(_) if self.journal.failed().is_some() => {}
                Err(e) => return Err(self.explain(e)),
            }
        }
    }

    /// Waits until all that was taken in before outlives this process: the journal's file has it, in the
    /// kernel, or the pool.
    pub async fn kept(&self) -> Result<(), Stop> {
        self.journal.written().await;
        self.mended_or_left().await
    }

    /// Waits while the journal has failed and it alone may have something. Nothing is acknowledged past that,
    /// since a killed process would come back with the journal and without what came later.
    async fn mended_or_left(&self) -> Result<(), Stop> {
        if self.journal.failed().is_none() {
            return Ok(());
        }
        loop {
            let news = self.mending.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            if self.journal.failed().is_none() {
                return Ok(());
            }
            self.mending.want();
            if !self.journal.is_needed() {
                return Ok(());
            }
            self.or_end(news).await?;
        }
    }

    /// Takes in again the records of the journal that the adopted log doesn't have; gives up if `left` is
    /// ready before. The records stay in the journal whatever becomes of this.
    pub async fn replay(self: &Arc<Self>, after: Lsn, left: impl Future<Output = ()>) -> Result<(), Stop> {
        let (replay, left) = (std::pin::pin!(self.replay_all(after)), std::pin::pin!(left));
        match select(replay, left).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => {
                let why = "let go before all of its journal was read again: it is when it is opened next";
                Err(Error::new(Kind::Unavailable, why).into())
            }
        }
    }

    async fn replay_all(self: &Arc<Self>, after: Lsn) -> Result<(), Stop> {
        let mut records = self.journal.replay(after);
        while let Some(record) = records.next().await.map_err(without_journal)? {
            let held = self.memory(record.op.payload().len() as u64 + RECORD_COST).await?;
            let mut tip = self.tip.lock();
            if let Some(stop) = &tip.closed {
                return Err(stop.share());
            }
            if record.lsn <= tip.lsn {
                return Err(Error::new(Kind::Internal, "the journal's records are out of order").into());
            }
            let now = self.context.rt().now();
            tip.take(record, Some(held), now)?;
            drop(tip);
            self.work.notify_one();
            self.rounds.dirty(now);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_blocks_become_zero_changes() {
        let mut data = vec![0u8; 6 * BLOCK as usize];
        data[BLOCK as usize..3 * BLOCK as usize].fill(7);
        data[5 * BLOCK as usize] = 1;
        let ops = changes(10, data.into(), BLOCK);
        let shape: Vec<_> = ops.iter().map(|op| (op.blocks(), !op.payload().is_empty())).collect();
        assert_eq!(
            shape,
            [((10, 1), false), ((11, 1), true), ((12, 1), true), ((13, 2), false), ((15, 1), true)]
        );
        assert_eq!(span(&ops), 10..16);
    }

    #[test]
    fn steps_are_bounded() {
        let ops = changes(0, vec![1; 3 << 20].into(), STEP);
        assert_eq!(ops.len(), 3);
        let cost = |bytes: u64| bytes + BLOCK;
        assert_eq!((step(&ops, cost, 4 << 20), step(&ops, cost, 1)), (1, 1));
        let small: Vec<Op> = (0..2000).map(|block| Op::Zero { block, blocks: 1 }).collect();
        assert_eq!(step(&small, cost, 4 << 20), STEP_RECORDS);
        assert_eq!(step(&small, cost, 10 * BLOCK), 10);
    }
}
