//! One epoch of a volume in this process: from the record of its takeover to its release, or to the moment when another
//! owner shows.
//!
//! Owns the tip, the journal, the log's writer and the tasks that go with them: cutter, confirmer, checkpointer and the
//! watch over stores that are out. A session never changes its epoch; when a claim on its volume was withdrawn it ends
//! with `Stop::Again`, and the volume takes over from itself.
//!
//! Order that everything here keeps: journal before acknowledgement; stored before confirmed; confirmed before the
//! journal is trimmed, a `pool` flush or a snapshot promised; the promise's mark synced before it is given.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::confirm_and_flush::{ConfirmRounds, JournalRestart};
use super::range_lock::Ranges;
use super::takeover::Taken;
use super::tip::{Counted, Tip};
use super::write_throttle::WriteThrottle;
use crate::head::Stop;
use crate::head::VolumeSettings;
use crate::head::{Head, is_no_older};
use crate::mirror::Mirroring;
use crate::read::Fetch;
use crate::read::Since;
use crate::read::VolumeContext;
use crate::read::{Found, Piece, Run, blocks_of, passes};
use crate::space::Tables;
use crate::space::{ChunkTable, NewChunks, Repacked, Retired};
use windlass_base::format_limits::BLOCK;
use windlass_base::{Epoch, Error, Kind, Result, Rope};
use windlass_journal::Journal;
use windlass_log::chunk_target;
use windlass_log::{Prefix, Writer, WriterConfig};
use windlass_map::Tree;

/// Most entries of the overlay, and pages and extents of the map, that are gone through to tell what is
/// mapped.
const COUNT_STEPS: usize = 16_384;
/// Blocks that are looked up at a time, unless what was written lately has no more entries than this number.
const LOOKED_THROUGH: u64 = 16_384;
/// Time until the next attempt where the map can't be read.
const COUNT_AGAIN: Duration = Duration::from_secs(1);
/// Time that a count of mapped blocks may take: the rest of what is told must not wait for pages of the map.
const COUNT_PATIENCE: Duration = Duration::from_millis(500);

/// Returns what `View::mapped` needs to count all that is mapped.
fn to_count(tip: &Tip) -> (Vec<(std::ops::Range<u64>, bool)>, Tree, u64) {
    let state = tip.tables.tip();
    let (found, tree) = tip.lookup(0..state.size.div_ceil(BLOCK));
    let over = found.into_iter().filter_map(|(range, piece)| Some((range, piece? != Piece::Zero)));
    (over.collect(), tree, state.mapped)
}

/// Largest `cut_age` while another host has the volume attached: little is to be stored when it asks.
const CUT_AGE_BESIDE_OTHERS: Duration = Duration::from_millis(200);

/// State of the volume's automatic snapshots.
#[derive(Debug, Default)]
pub struct HistoryState {
    /// Reason why the last snapshot could not be taken, if so.
    pub failed: Mutex<Option<String>>,
    /// Is true while snapshots that the plan keeps no longer are being removed.
    pub thinning: AtomicBool,
}

/// One epoch of a volume in this process, as the module describes it.
#[derive(Debug)]
pub struct Session {
    pub context: Arc<VolumeContext>,
    pub epoch: Epoch,
    pub tip: Mutex<Tip>,
    pub ranges: Ranges,
    pub journal: Journal,
    pub writer: Arc<Writer>,
    /// Number of shards that make a chunk stored, now.
    pub w: watch::Sender<usize>,
    /// Number of shards with which all that is stored was counted at least (see the method `w_of_all`).
    pub w_of_all: AtomicUsize,
    pub rounds: ConfirmRounds,
    /// The head as this session last saw or wrote it.
    pub head: Mutex<Head>,
    /// Number of changes of the head so far: a head that was read before a change is older than what that
    /// change wrote.
    pub changes: AtomicU64,
    /// Serializes changes of the head, so that the last one's head is the one that is kept.
    changing: tokio::sync::Mutex<()>,
    /// Bytes of the log that this session had put when its last checkpoint was planned.
    merged_bytes: AtomicU64,
    pub pace: WriteThrottle,
    /// The chunk table as it was last published.
    pub chunk_table: Mutex<Arc<ChunkTable>>,
    pub new_chunks: Mutex<NewChunks>,
    /// Held during a checkpoint, so that there is one at a time.
    pub checkpointing: tokio::sync::Mutex<()>,
    /// Held during a change of the states or of the size, so that there is one at a time. Removals put their
    /// gates in the places of others', and a rollback changes both.
    pub altering: tokio::sync::Mutex<()>,
    pub retired: Mutex<Retired>,
    /// Number of packs that were given a number. `packed_bytes` has the bytes that they took.
    pub packs: AtomicU64,
    /// Packs that are stored, for the next checkpoint.
    pub packed: Mutex<Vec<Repacked>>,
    pub packed_bytes: AtomicU64,
    /// Wakes the collection: the table changed, or something was deleted.
    pub collect: Notify,
    /// Wakes the cutter: there is something to cut.
    pub work: Notify,
    /// Wakes the checkpointer: a checkpoint may be due.
    pub ripe: Notify,
    /// Wakes writes that wait at the gate: it was opened, or the session has ended.
    pub opened: Notify,
    pub mending: JournalRestart,
    /// State of the journal's mirror: what a peer has, and what it is to have.
    pub mirror: Mirroring,
    /// Held during a count of mapped blocks, so that there is one at a time.
    pub counting: tokio::sync::Mutex<()>,
    /// Wakes the count: nearly all of the quota may be used.
    pub quota: Notify,
    /// Is true if nearly all of the quota is used, by the last count.
    pub near_quota: AtomicBool,
    pub history: HistoryState,
    ended: watch::Sender<bool>,
    /// Held while the journal is let go: another session must not open it meanwhile.
    leaving: tokio::sync::Mutex<()>,
    /// Is true if the session ended because of a withdrawn claim, and another is to follow.
    goes_on: AtomicBool,
}

/// Returns how the session's log is written.
fn writer_config(
    context: &VolumeContext,
    head: &Head,
    epoch: Epoch,
    w: watch::Receiver<usize>,
    start: Prefix,
) -> WriterConfig {
    let engine = &context.engine;
    WriterConfig {
        rt: engine.rt.clone(),
        pool: engine.pool.clone(),
        cache: engine.memory.frames.clone(),
        encode: engine.memory.encode.clone(),
        volume: context.id,
        index: head.own_index(),
        epoch,
        codec: head.settings.compression,
        key: context.key.clone(),
        w,
        start,
    }
}

impl Session {
    /// Makes the session, with the tip that was adopted. Nothing runs yet, and the journal isn't replayed.
    ///
    /// The tables and the chunk table are those under the head's checkpoint. The head's size and settings
    /// hold from now on: they may have been changed since the volume was opened, or by another owner.
    pub fn new(
        context: Arc<VolumeContext>,
        Taken { head, epoch, adopted, .. }: Taken,
        journal: Journal,
        (tables, chunk_table): (Tables, ChunkTable),
    ) -> Result<Arc<Session>> {
        context.set_size(head.size);
        context.follow(head.settings);
        journal.resize(&context.engine.journal(context.id, &head.settings));
        let lsn = adopted.last().map_or(head.checkpoint.last_lsn, |a| a.toc.last);
        let start = Prefix { seq: head.active_starts_after(), lsn };
        let mut tip = Tip::new(tables, head.checkpoint.place(), context.rt().now());
        let mut new_chunks = NewChunks::behind(start.seq, head.data_keys());
        for chunk in &adopted {
            tip.adopt(head.own_index(), chunk)?;
            chunk.born(&mut new_chunks, &chunk_table);
        }
        let (w, seen) = watch::channel(head.active.w.into());
        let rounds = ConfirmRounds::default();
        rounds.looked(context.rt().now());
        let config = writer_config(&context, &head, epoch, seen, start);
        Ok(Arc::new(Session {
            writer: Writer::new(config, journal.id()),
            w_of_all: AtomicUsize::new(head.active.w.into()),
            epoch,
            tip: Mutex::new(tip),
            ranges: Ranges::default(),
            journal,
            w,
            rounds,
            head: Mutex::new(head),
            changes: AtomicU64::new(0),
            changing: tokio::sync::Mutex::default(),
            merged_bytes: AtomicU64::new(0),
            pace: WriteThrottle::default(),
            chunk_table: Mutex::new(Arc::new(chunk_table)),
            new_chunks: Mutex::new(new_chunks),
            checkpointing: tokio::sync::Mutex::default(),
            altering: tokio::sync::Mutex::default(),
            retired: Mutex::default(),
            packs: AtomicU64::new(0),
            packed: Mutex::default(),
            packed_bytes: AtomicU64::new(0),
            collect: Notify::new(),
            work: Notify::new(),
            ripe: Notify::new(),
            opened: Notify::new(),
            mending: JournalRestart::default(),
            mirror: Mirroring::default(),
            counting: tokio::sync::Mutex::default(),
            quota: Notify::new(),
            near_quota: AtomicBool::new(false),
            history: HistoryState::default(),
            ended: watch::Sender::new(false),
            leaving: Default::default(),
            goes_on: AtomicBool::new(false),
            context,
        }))
    }

    /// Spawns a task that ends with the session.
    pub fn run<F>(self: &Arc<Self>, task: impl FnOnce(Arc<Session>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = task(self.clone());
        let session = self.clone();
        let rt = self.context.rt();
        rt.spawn(async move {
            let ended = std::pin::pin!(session.ended());
            let task = std::pin::pin!(task);
            select(ended, task).await;
        })
        .detach();
    }

    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until the session has ended.
    pub async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        while !*ended.borrow_and_update() {
            if ended.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits for `work`, or until the session ends, whose reason is the error then.
    pub async fn or_end<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let work = std::pin::pin!(work);
        let ended = std::pin::pin!(self.ended());
        match select(work, ended).await {
            Either::Left((out, _)) => Ok(out),
            Either::Right(_) => Err(self.closed().unwrap_or(Stop::Again)),
        }
    }

    /// Tells whether the volume is to take over from itself.
    pub fn goes_on(&self) -> bool {
        self.goes_on.load(Ordering::Relaxed)
    }

    /// Returns why the session does nothing any more, if so.
    pub fn closed(&self) -> Option<Stop> {
        self.tip.lock().closed.as_ref().map(Stop::share)
    }

    /// Ends the session; the first reason counts.
    pub fn stop(&self, why: Stop) {
        let writer = match &why {
            Stop::Again => Error::new(Kind::Closed, "the volume was let go"),
            Stop::Failed(e) => e.share(),
        };
        self.tip.lock().closed.get_or_insert(why);
        self.end(writer);
    }

    /// Makes the error of an operation from the error of a part below. The session's own end explains more,
    /// when there is one.
    pub fn explain(&self, error: Error) -> Stop {
        self.closed().unwrap_or(Stop::Failed(error))
    }

    /// Ends the session if something isn't where it was looked up because another owner took it away, or
    /// removed the volume. Returns the reason for which the operation fails.
    ///
    /// A session that has told one client that it is over must not go on answering the flushes of others.
    /// Nobody hears of damage before it is known whose volume it is: an outage holds that up, as it does a
    /// read.
    pub async fn end_by_absence(self: &Arc<Self>, error: Error) -> Stop {
        while error.is(Kind::Corrupt) {
            match self.context.cell.confirm().await.map(|head| head.owned(self.epoch).err()) {
                Ok(Some(over)) => return self.lost(over).await,
                Err(e) if passes(&e) => {
                    if let Err(stop) = self.or_end(self.context.rt().sleep(COUNT_AGAIN)).await {
                        return stop;
                    }
                }
                // Of something else, as a snapshot that was removed: no word of the head's.
                Ok(None) | Err(_) => break,
            }
        }
        self.explain(error)
    }

    /// Changes the head, and acts on what the outcome says about the owner.
    ///
    /// No head is changed that is behind what was recorded from here. On stores that were put back from a
    /// backup it would come to name what only those stores held that were put back.
    pub async fn change(
        self: &Arc<Self>,
        mut step: impl FnMut(&Head) -> Result<crate::head::Move> + Send,
    ) -> Result<Head, Stop> {
        let pool = &self.context.engine.pool;
        let guesses = pool.guesses();
        let turn = self.changing.lock().await;
        // Only this session records checkpoints, each in its turn, while the head is its own.
        let position = self.head.lock().checkpoint.position;
        let epoch = self.epoch;
        let on_newest = |head: &Head| {
            if head.owned(epoch).is_ok() {
                is_no_older(head, (position, 0), guesses)?;
            }
            step(head)
        };
        match self.context.cell.change(on_newest).await {
            // It may have been chosen by stores that are given up: nothing may be deleted for its sake.
            Ok(_) if pool.guesses() > guesses => Err(self.explain(Error::new(
                Kind::Unavailable,
                "the pool's stores were decided by guess meanwhile (`pool force-recover`): tried again",
            ))),
            Ok(head) => {
                {
                    let mut known = self.head.lock();
                    *known = head.clone();
                    self.changes.fetch_add(1, Ordering::Relaxed);
                }
                self.context.follow_name(&head);
                self.context.confirmed_in_time(&head);
                Ok(head)
            }
            Err(e) => {
                drop(turn);
                Err(self.lost(e).await)
            }
        }
    }

    /// Acts on an error that may say that this epoch is over.
    pub async fn lost(self: &Arc<Self>, error: Error) -> Stop {
        match error.kind() {
            Kind::Fenced | Kind::Removed => self.fence(&error).await,
            // Only a withdrawn claim is told this way, see `Head::owned`.
            Kind::Refused if self.withdrawn().await => {
                tracing::info!(volume = %self.context.name(), "{error}; going on under a new claim");
                self.go_on_anew();
            }
            _ => {}
        }
        self.explain(error)
    }

    /// Ends the session so that the volume takes over from itself, under another epoch.
    pub fn go_on_anew(&self) {
        self.goes_on.store(true, Ordering::Relaxed);
        self.stop(Stop::Again);
    }

    /// Tells whether a `Refused` meant a withdrawn claim: it has other meanings too, such as pins.
    async fn withdrawn(&self) -> bool {
        match self.context.cell.confirm().await {
            Ok(head) => head.owned(self.epoch).is_err(),
            Err(_) => false,
        }
    }

    /// Ends the session because another owner shows: I/O fails from now on, and what is not in the pool is
    /// kept. This runs in a task of its own, so that a caller that is dropped does not stop it midway.
    async fn fence(self: &Arc<Self>, error: &Error) {
        let (session, error) = (self.clone(), error.share());
        let task = self.context.rt().spawn(async move { session.fence_now(error).await });
        // A task that was dropped with the runtime leaves nobody who waits.
        let _ = task.await;
    }

    async fn fence_now(&self, error: Error) {
        let _journal = self.leaving.lock().await;
        let say = |rest: &str| {
            let why = format!("volume {}: {error}{rest}", self.context.title());
            Stop::Failed(Error::new(Kind::Fenced, why))
        };
        {
            // Nothing more may reach the journal while it is put aside.
            let mut tip = self.tip.lock();
            if tip.closed.is_some() {
                return;
            }
            tip.closed = Some(say("; writes that were not in the pool are kept"));
        }
        let config = self.context.engine.journal(self.context.id, &self.context.settings());
        let head = self.context.cell.confirm().await;
        // Under a claim that may yet be withdrawn the journal stays: the next open here replays it then.
        let over = head.is_ok_and(|h| h.active.epoch != self.epoch || h.removed);
        let kept = match over {
            true => self.journal.set_aside("kept").await.unwrap_or(config.dir),
            false => config.dir,
        };
        let moves = if over { "" } else { "; `volume info` says where when they are moved" };
        let why = say(&format!("; writes that were not in the pool are kept in {}{moves}", kept.display()));
        tracing::warn!("{}", why.share().error());
        self.tip.lock().closed = Some(why);
        self.end(error);
    }

    /// Writes out the journal of a session that was stopped, and lets go of it, unless it is put aside
    /// already.
    ///
    /// # Errors
    /// What was not flushed may be missing from the journal, and is not in the pool.
    pub async fn leave_journal(&self) -> Result<()> {
        let _journal = self.leaving.lock().await;
        let mut closed = self.journal.close().await;
        // One that vouches for records may vouch for too few, and a takeover would end the log there.
        if self.journal.is_void() && self.writer.prefix().lsn >= self.tip.lock().lsn {
            closed = Ok(());
        }
        if let Err(error) = &closed {
            tracing::debug!(volume = %self.context.name(), %error, "closing the journal");
        }
        closed
    }

    fn end(&self, writer: Error) {
        self.writer.fail(writer);
        self.ended.send_replace(true);
        self.opened.notify_waiters();
        let gone = self.tip.lock().let_go();
        drop(gone);
    }

    /// Returns where these blocks lie at this instant.
    pub fn lookup(&self, offset: u64, len: u64) -> Result<(Vec<Found>, Tree), Stop> {
        self.rounds.relied_on(self.context.rt().now());
        let tip = self.tip.lock();
        match &tip.closed {
            Some(stop) => Err(stop.share()),
            None => Ok(tip.lookup(blocks_of(offset, len))),
        }
    }

    /// Reads bytes of the tip, like `View::read`.
    pub async fn read(
        self: &Arc<Self>,
        (offset, len): (u64, u64),
        news: &(dyn Fn() + Sync),
    ) -> Result<Rope, Stop> {
        loop {
            let recorded = self.chunk_table.lock().root;
            let (found, tree) = self.lookup(offset, len)?;
            match self.context.view.read(found, &tree, (offset, len), news).await {
                Ok(data) => return Ok(data),
                // What was looked up was collected meanwhile: it is elsewhere by now.
                Err(e) if e.is(Kind::Corrupt) && self.chunk_table.lock().root != recorded => {}
                Err(e) => return Err(Box::pin(self.end_by_absence(e)).await),
            }
        }
    }

    /// Brings what is fetched ahead into the cache.
    pub async fn prefetch(&self, fetch: &Fetch) {
        let found = {
            let tip = self.tip.lock();
            if tip.closed.is_some() {
                return;
            }
            tip.lookup(fetch.blocks())
        };
        self.context.view.prefetch(fetch, found.0, &found.1).await;
    }

    /// Returns how many blocks read as data at this instant. `None`: so much was written since the last
    /// checkpoint that counting it would read much of the map, or the map can't be read now.
    pub async fn mapped(&self) -> Option<u64> {
        let (over, tree, in_tree) = {
            let tip = self.tip.lock();
            if tip.closed.is_some() || tip.overlay.len() > COUNT_STEPS {
                return None;
            }
            to_count(&tip)
        };
        let counting = self.context.view.mapped(over, &tree, in_tree, COUNT_STEPS);
        self.context.rt().timeout(COUNT_PATIENCE, counting).await?.ok().flatten()
    }

    /// Counts the mapped blocks exactly, however long that takes, also through an outage.
    pub async fn count_mapped(self: &Arc<Self>) -> Result<(), Stop> {
        loop {
            let ((over, tree, in_tree), rollbacks, written, lsn) = {
                let tip = self.tip.lock();
                match (&tip.closed, &tip.counted) {
                    (Some(stop), _) => return Err(stop.share()),
                    (None, Some(counted)) if counted.lsn == tip.lsn => return Ok(()),
                    _ => (to_count(&tip), tip.rollbacks, tip.written, tip.lsn),
                }
            };
            let recorded = self.chunk_table.lock().root;
            match self.context.view.mapped(over, &tree, in_tree, usize::MAX).await {
                Ok(blocks) => {
                    let blocks = blocks.unwrap_or(in_tree);
                    let mut tip = self.tip.lock();
                    if tip.rollbacks == rollbacks {
                        tip.counted = Some(Counted { blocks, written, lsn });
                        return Ok(());
                    }
                }
                // Pages that were collected meanwhile are elsewhere by now.
                Err(e) if e.is(Kind::Corrupt) && self.chunk_table.lock().root != recorded => {}
                Err(e) if passes(&e) => self.or_end(self.context.rt().sleep(COUNT_AGAIN)).await?,
                Err(e) => return Err(self.end_by_absence(e).await),
            }
        }
    }

    /// Returns the bytes of the log that this session had put when its last checkpoint was planned.
    pub fn merged_bytes(&self) -> u64 {
        self.merged_bytes.load(Ordering::Relaxed)
    }

    pub fn count_merged(&self, bytes: u64) {
        self.merged_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes of the volume's own chunks, without parity.
    pub fn stored_bytes(&self) -> u64 {
        self.pace.counted.load(Ordering::Relaxed) + self.new_chunks.lock().bytes()
    }

    /// Takes in a table that is known to be recorded: what it lists as retired will be deleted.
    pub fn recorded(&self, chunk_table: ChunkTable) {
        let (counted, live) = chunk_table.space();
        self.pace.counted.store(counted, Ordering::Relaxed);
        self.pace.live.store(live, Ordering::Relaxed);
        self.retired.lock().recorded(&chunk_table, self.context.rt().now());
        let packed = chunk_table.packed(self.context.id);
        // Known before the table is exchanged: a read that finds something gone looks again once it sees
        // another root.
        self.context.engine.memory.places.know(self.context.id, packed);
        *self.chunk_table.lock() = Arc::new(chunk_table);
        self.pace.ask();
        self.set_pace();
        self.collect.notify_waiters();
    }

    /// Computes the write throttle anew, after what takes space or gives it back.
    pub fn set_pace(&self) {
        let k = self.writer.k();
        let live = self.pace.live.load(Ordering::Relaxed);
        // What is not merged yet has died too, and nobody has counted it.
        let unmerged = self.unmerged_max() + 2 * chunk_target(k);
        let aim = live / 1000 * self.context.engine.tuning.space_max.1 + unmerged;
        let above = if self.settled() { 0 } else { self.stored_bytes().saturating_sub(aim) };
        self.pace
            .set(u64::try_from(u128::from(above) * 1000 / u128::from(live.max(1))).unwrap_or(u64::MAX), k);
    }

    /// Tells whether there is nothing to pack, as far as the recorded table tells.
    pub fn settled(&self) -> bool {
        self.pace.settled()
    }

    /// Returns the bytes of log that force a checkpoint.
    pub fn unmerged_max(&self) -> u64 {
        let tuning = &self.context.engine.tuning;
        (self.pace.live.load(Ordering::Relaxed) / tuning.log_share).clamp(tuning.log_min, tuning.log_max)
    }

    /// Returns how old a record may get before its chunk is cut: half of max-tail, as the other half is for
    /// the puts.
    pub fn cut_age(&self) -> Duration {
        let age = self.context.settings().max_tail() / 2;
        if self.rounds.others.is_there(self.context.rt().now()) {
            age.min(CUT_AGE_BESIDE_OTHERS)
        } else {
            age
        }
    }

    /// Puts these settings into force.
    pub fn follow(&self, settings: VolumeSettings) {
        self.context.follow(settings);
        self.writer.set_codec(settings.compression);
        self.journal.resize(&self.context.engine.journal(self.context.id, &settings));
        // What is due by now?
        self.rounds.poke();
        self.work.notify_one();
        self.collect.notify_waiters();
        self.mirror.news.notify_waiters();
    }

    /// Has all that is pending cut now.
    pub fn hurry(&self) {
        let mut tip = self.tip.lock();
        let upto = tip.lsn;
        tip.pending.want(upto);
        drop(tip);
        self.work.notify_one();
    }

    pub fn pause(&self) -> Duration {
        Duration::from_millis(200)
    }
}

/// Queries for what is data, and for what has changed since a snapshot: from the overlay and the maps. What
/// was written lately is looked through under the tip's lock, for which writes wait: where that is much,
/// parts are of moments one after another.
impl Session {
    /// Returns what is data in a range of bytes, like `View::allocation`.
    pub async fn allocation(self: &Arc<Self>, offset: u64, len: u64, max: usize) -> Result<Vec<Run>, Stop> {
        let of = |found, tree, max| async move { self.context.view.allocation(found, &tree, max).await };
        self.in_parts(blocks_of(offset, len), max, of).await
    }

    /// Returns what is inherited in a range of bytes, like `View::inherited`.
    pub async fn inherited(self: &Arc<Self>, offset: u64, len: u64, max: usize) -> Result<Vec<Run>, Stop> {
        let context = &self.context;
        let of =
            |found, tree, max| async move { context.view.inherited(found, &tree, context.index, max).await };
        self.in_parts(blocks_of(offset, len), max, of).await
    }

    /// Returns what has changed in a range of bytes since a snapshot, like `View::changes`.
    pub async fn changed_since(
        self: &Arc<Self>,
        since: &Since,
        offset: u64,
        len: u64,
        max: usize,
    ) -> Result<Vec<Run>, Stop> {
        let of = |found, tree, max| async move {
            let changes = self.context.view.changes(found, &tree, &since.tree, max).await;
            let gone = || !since.is_in(&self.tip.lock().tables);
            changes.map_err(|e| if e.is(Kind::Corrupt) && gone() { since.removed() } else { e })
        };
        self.in_parts(blocks_of(offset, len), max, of).await
    }

    async fn in_parts<F>(
        self: &Arc<Self>,
        mut blocks: Range<u64>,
        max: usize,
        of: impl Fn(Vec<Found>, Tree, usize) -> F,
    ) -> Result<Vec<Run>, Stop>
    where
        F: Future<Output = Result<Vec<Run>, Error>>,
    {
        let mut all = Vec::<Run>::new();
        while !blocks.is_empty() && all.len() < max {
            for (count, is) in self.part(blocks.clone(), max - all.len(), &of).await? {
                blocks.start += count;
                match all.last_mut() {
                    Some((before, same)) if *same == is => *before += count,
                    _ => all.push((count, is)),
                }
            }
        }
        Ok(all)
    }

    /// Returns the runs at the beginning of these blocks.
    async fn part<F>(
        self: &Arc<Self>,
        blocks: Range<u64>,
        max: usize,
        of: &impl Fn(Vec<Found>, Tree, usize) -> F,
    ) -> Result<Vec<Run>, Stop>
    where
        F: Future<Output = Result<Vec<Run>, Error>>,
    {
        loop {
            let recorded = self.chunk_table.lock().root;
            let (found, tree) = self.look_up_part(blocks.clone())?;
            match of(found, tree, max).await {
                Ok(runs) => return Ok(runs),
                // What was looked up was collected meanwhile: it is elsewhere by now.
                Err(e) if e.is(Kind::Corrupt) && self.chunk_table.lock().root != recorded => {}
                Err(e) => return Err(self.end_by_absence(e).await),
            }
        }
    }

    fn look_up_part(self: &Arc<Self>, blocks: Range<u64>) -> Result<(Vec<Found>, Tree), Stop> {
        self.rounds.relied_on(self.context.rt().now());
        let tip = self.tip.lock();
        if let Some(stop) = &tip.closed {
            return Err(stop.share());
        }
        let few = tip.overlay.len() as u64 <= LOOKED_THROUGH;
        let end = if few { blocks.end } else { blocks.end.min(blocks.start + LOOKED_THROUGH) };
        Ok(tip.lookup(blocks.start..end))
    }
}
