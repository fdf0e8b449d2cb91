//! The task that makes checkpoints, and when one is due: the overlay's frozen layers become map pages in the same log, then
//! one CAS of the head publishes them (protocol.md §5.6). I/O goes on meanwhile; recovery replays only what came after.
//!
//! The layers are frozen where a chunk ends, so that the position is a chunk. Each layer is merged into the tree of the
//! state that was the tip when it was written: the roots of snapshots are made on the way. The CAS comes only after every
//! chunk up to the last page is stored. A crash before it leaves the old tables; the pages are garbage of the log then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::select;

use super::build::Build;
use crate::head::Stop;
use crate::head::{Back, Checkpoint, Head, Move, Removal};
use crate::read::Frozen;
use crate::read::passes;
use crate::session::Session;
use crate::session::{Kept, Tip};
use crate::session::{confirm, store_upto};
use crate::space::{Alteration, ChunkTable, Object, Repacked, RollBack, Tables};
use windlass_base::rt::Instant;
use windlass_base::{Error, Kind, Lsn, Nonce, Result};
use windlass_log::{FrameRef, Prefix};

/// Frozen layers that force a checkpoint.
const LAYERS_MAX: usize = 8;
/// Entries of all layers together that force a checkpoint.
const ENTRIES_MAX: usize = 1 << 20;
/// Divisor of the memory for writes: entries that take more than this part of it force a checkpoint.
const ENTRIES_SHARE: u64 = 4;
/// Pause between two looks, while somebody waits for memory, whether entries that wait for a checkpoint have most of it.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of log that force a checkpoint while another host has the volume attached: its map is stored before it is handed over.
const LOG_BESIDE_OTHERS: u64 = 4 << 20;
/// Time without writes after which a checkpoint is made.
const IDLE: Duration = Duration::from_secs(60);
/// Pause after a checkpoint that failed.
pub const AGAIN: Duration = Duration::from_secs(2);

/// Input of a checkpoint, taken at one instant.
struct Plan {
    /// Number of layers that are merged, the oldest ones.
    layers: usize,
    tables: Tables,
    last: Lsn,
    removes: Vec<Removal>,
    packs: Vec<Repacked>,
    alteration: Option<Alteration>,
}

/// Result of building a checkpoint, which is yet to be recorded.
struct Built {
    tables: Tables,
    chunk_table: ChunkTable,
    attempt: u64,
    table: FrameRef,
    /// The last chunk that was merged, and its last lsn.
    position: Prefix,
    /// Packs that the chunk table names for the first time.
    packs: Vec<Object>,
}

/// Makes checkpoints as they come due. Runs with the session.
pub async fn make_checkpoints(session: Arc<Session>) {
    loop {
        session.wait_until_ripe().await;
        if let Err(stop) = session.checkpoint(&[]).await {
            tracing::warn!(volume = %session.context.name(), error = %stop.error(), "a checkpoint failed; it is tried again");
            session.context.rt().sleep(AGAIN).await;
        }
    }
}

impl Session {
    async fn wait_until_ripe(&self) {
        loop {
            let ripe = std::pin::pin!(self.ripe.notified());
            let mut short = std::pin::pin!(self.context.engine.memory.overlay.shortage());
            short.as_mut().enable();
            let now = self.context.rt().now();
            let due = self.ripe_at();
            let is_short = self.context.engine.memory.overlay.is_short();
            let woken = select(ripe, short);
            match due {
                Some(at) if at <= now => return,
                Some(at) => {
                    let wait = if is_short { at.since(now).min(LOOK) } else { at.since(now) };
                    self.context.rt().timeout(wait, woken).await;
                }
                None => {
                    woken.await;
                }
            }
        }
    }

    /// Tells whether somebody waits for memory that mostly waits for checkpoints.
    fn is_held_up(&self) -> bool {
        let memory = &self.context.engine.memory;
        memory.overlay.is_short() && memory.kept.load(Ordering::Relaxed) > memory.overlay.used_here() / 2
    }

    /// Returns when a checkpoint is due, as things stand; `None`: there is nothing to merge.
    fn ripe_at(&self) -> Option<Instant> {
        let log = self.writer.stored_bytes().saturating_sub(self.merged_bytes());
        let chunks = self.writer.prefix().seq.0.saturating_sub(self.head.lock().checkpoint.top.0);
        let is_wanted = self.rounds.others.is_there(self.context.rt().now());
        let log_max =
            if is_wanted { self.unmerged_max().min(LOG_BESIDE_OTHERS) } else { self.unmerged_max() };
        let tip = self.tip.lock();
        if tip.overlay.frozen.is_empty() && tip.overlay.active.is_empty() {
            return None;
        }
        let much = tip.kept_bytes() > self.context.engine.memory.overlay.total() / ENTRIES_SHARE
            || tip.kept_bytes() > 0 && self.is_held_up();
        let many = much || tip.overlay.frozen.len() > LAYERS_MAX || tip.overlay.len() > ENTRIES_MAX;
        // Recovery reads the log's tables of contents; and what died in it is not known until it is merged.
        let chunks_max = self.context.engine.tuning.chunks_max;
        Some(if many || log > log_max || chunks > chunks_max {
            Instant::default()
        } else {
            tip.last_write + IDLE
        })
    }

    /// Makes a checkpoint of all that was written before this call. `removes`: snapshots that go with it. It is made to its end
    /// when nobody waits for it any more: a checkpoint that is recorded must be known to the next.
    pub async fn checkpoint(self: &Arc<Self>, removes: &[Removal]) -> Result<(), Stop> {
        let (me, removes) = (self.clone(), removes.to_vec());
        let making = self.context.rt().spawn(async move { me.make_checkpoint(&removes, None).await });
        making.await.map_err(Stop::Failed)?
    }

    /// Makes a checkpoint as `checkpoint` does, without a task of its own. For a rollback the caller has closed the gate.
    pub async fn make_checkpoint(
        self: &Arc<Self>,
        removes: &[Removal],
        alteration: Option<Alteration>,
    ) -> Result<(), Stop> {
        // Packs need not wait for the stores as well.
        if let Some(last) = self.freeze()? {
            store_upto(self, last).await?;
        }
        let _one = self.checkpointing.lock().await;
        let Some(plan) = self.plan(removes, alteration)? else { return Ok(()) };
        let log = self.writer.stored_bytes();
        // A snapshot may have been taken meanwhile, and another layer frozen for it.
        store_upto(self, plan.last).await?;
        self.carry_out(plan).await?;
        self.count_merged(log);
        Ok(())
    }

    /// Lets packs take over from their sources: with the next checkpoint, or with one of the chunk table alone. Waits through
    /// an outage.
    pub async fn publish_packs(self: &Arc<Self>, moved: Vec<Repacked>) -> Result<(), Stop> {
        self.packed.lock().extend(moved);
        loop {
            // What was marked and has no map yet must be built with it.
            let unbuilt = self.tip.lock().tables.states.values().any(|s| !s.built);
            if unbuilt {
                self.checkpoint_surely(&[]).await?;
            }
            let one = self.checkpointing.lock().await;
            let packs = self.packed.lock().clone();
            if packs.is_empty() {
                return Ok(());
            }
            let tables = self.tip.lock().tables.clone();
            if tables.states.values().any(|s| !s.built) {
                continue;
            }
            let plan = Plan { layers: 0, tables, last: Lsn(0), removes: Vec::new(), packs, alteration: None };
            match self.carry_out(plan).await {
                Err(Stop::Failed(e)) if passes(&e) => {
                    drop(one);
                    self.or_end(self.context.rt().sleep(AGAIN)).await?;
                }
                done => return done,
            }
        }
    }

    async fn carry_out(self: &Arc<Self>, plan: Plan) -> Result<(), Stop> {
        let merged = plan.layers;
        let removes = plan.removes.clone();
        let back = match &plan.alteration {
            Some(Alteration::RollBack(back)) => Some(back.clone()),
            Some(Alteration::Names) | None => None,
        };
        let built = match self.or_end(self.build(plan)).await? {
            Ok(built) => built,
            Err(e) => return Err(self.end_by_absence(e).await),
        };
        let to = back.as_ref().map(|b| Back { to: b.to, size: built.tables.tip().size });
        self.publish(&built, &removes, to).await?;
        let Built { tables, chunk_table, attempt, position, packs, .. } = built;
        self.new_chunks.lock().recorded(attempt, position.seq);
        // Others may have been added.
        self.packed.lock().retain(|p| !packs.contains(&p.pack));
        self.recorded(chunk_table);
        let (merged, held) = self.adopt_tables(tables, merged, &removes, back.as_ref())?;
        // A million entries: neither under the lock nor in a request's way.
        let dropped = self.context.rt().cpu(move || drop(merged)).await;
        drop(held);
        dropped.map_err(Stop::Failed)
    }

    /// Makes a checkpoint as `checkpoint` does, and waits through an outage.
    pub async fn checkpoint_surely(self: &Arc<Self>, removes: &[Removal]) -> Result<(), Stop> {
        loop {
            match self.checkpoint(removes).await {
                Err(Stop::Failed(e)) if passes(&e) => {
                    tracing::warn!(volume = %self.context.name(), error = %e, "a checkpoint waits");
                    self.or_end(self.context.rt().sleep(AGAIN)).await?;
                }
                done => return done,
            }
        }
    }

    /// Makes what was written so far a layer; returns the last record of those that wait to be merged.
    fn freeze(&self) -> Result<Option<Lsn>, Stop> {
        let mut tip = self.tip.lock();
        if let Some(stop) = &tip.closed {
            return Err(stop.share());
        }
        if !tip.overlay.active.is_empty() {
            tip.freeze();
        }
        Ok(tip.overlay.frozen.last().map(|f| f.last))
    }

    fn plan(&self, removes: &[Removal], alteration: Option<Alteration>) -> Result<Option<Plan>, Stop> {
        let tip = self.tip.lock();
        if let Some(stop) = &tip.closed {
            return Err(stop.share());
        }
        let layers = tip.overlay.frozen.len();
        if layers == 0 && removes.is_empty() && alteration.is_none() && !tip.tables.has_removable() {
            return Ok(None);
        }
        let last = tip.overlay.frozen.last().map_or(Lsn(0), |f| f.last);
        Ok(Some(Plan {
            layers,
            tables: tip.tables.clone(),
            last,
            removes: removes.to_vec(),
            packs: self.packed.lock().clone(),
            alteration,
        }))
    }

    async fn build(&self, plan: Plan) -> Result<Built> {
        let Plan { layers, tables, removes, packs, alteration, .. } = plan;
        let _seal = self.writer.seal_at_last();
        let mut build = Build::begin(self, tables);
        build.adopt(&packs)?;
        let mut tree = None;
        for at in 0..layers {
            let frozen = self.stored_layer(at)?;
            let state = frozen.state;
            let (base, mut mapped) = match tree {
                Some(built) => built,
                None => build.tables.states.get(&state).map_or_else(Default::default, |s| (s.tree, s.mapped)),
            };
            let merged = build.merge(base, &frozen, &mut mapped).await?;
            if let Some(s) = build.tables.states.get_mut(&state) {
                (s.tree, s.mapped, s.built) = (merged, mapped, true);
            }
            tree = Some((merged, mapped));
        }
        if let Some((tree, mapped)) = tree {
            // States after the last layer begin as it ended.
            for s in build.tables.states.values_mut().filter(|s| !s.built) {
                (s.tree, s.mapped, s.built) = (tree, mapped, true);
            }
        }
        build.record()?;
        removes.iter().for_each(|r| build.tables.hide(r.state));
        build.remove_hidden().await?;
        build.settle().await?;
        if let Some(Alteration::RollBack(back)) = alteration {
            // What this leaves hidden goes with the next one: a rollback takes as long as a snapshot, whatever it drops.
            build.tables.roll_back(&back)?;
        }
        let position = build.position();
        let ends = self.head.lock().ends.clone();
        build.tables.remember(ends.into_iter().filter(|e| e.last <= position.seq));
        let table = build.write().await?;
        self.writer.wait_seq(table.seq).await?;
        let attempt = build.attempt();
        let Build { tables, chunk_table, .. } = build;
        let packs = packs.iter().map(|p| p.pack).collect();
        Ok(Built { tables, chunk_table, table, position, attempt, packs })
    }

    /// Returns the frozen layer as it is now that its chunks are stored.
    fn stored_layer(&self, at: usize) -> Result<Frozen> {
        let tip = self.tip.lock();
        match tip.overlay.frozen.get(at) {
            Some(f) => Ok(f.clone()),
            None => Err(Error::new(Kind::Internal, "a layer vanished while it was merged")),
        }
    }

    /// Records the checkpoint, and waits through an outage. A checkpoint that may have been recorded is repeated until that is
    /// known: another made in its place would take its pages for nobody's, on which a clone may stand by now.
    async fn publish(
        self: &Arc<Self>,
        built: &Built,
        removes: &[Removal],
        back: Option<Back>,
    ) -> Result<(), Stop> {
        let nonce = Nonce(self.context.rt().random128());
        loop {
            match self.publish_once(built, removes, back, nonce).await {
                Err(Stop::Failed(e)) if passes(&e) => {
                    tracing::warn!(volume = %self.context.name(), error = %e, "a checkpoint waits to be recorded");
                    self.or_end(self.context.rt().sleep(AGAIN)).await?;
                }
                done => return done,
            }
        }
    }

    async fn publish_once(
        self: &Arc<Self>,
        built: &Built,
        removes: &[Removal],
        back: Option<Back>,
        nonce: Nonce,
    ) -> Result<(), Stop> {
        // It may not rest on shards that lie on stores which the pool lists no more.
        if !self.is_counted() {
            confirm(self).await?;
        }
        let lost = match self.or_end(self.count_packs(&built.packs)).await? {
            Err(e) if e.is(Kind::Corrupt) => Some(e),
            counted => counted.map(|()| None)?,
        };
        // A walk meets no chunk behind the position any more, and no pack: what they lack must be known without one.
        self.context.engine.pool.missing_written().await;
        let Prefix { seq, lsn } = built.position;
        let new = Checkpoint {
            position: seq,
            top: built.table.seq,
            last_lsn: lsn,
            tables: Some(built.table),
            nonce,
        };
        let (epoch, removes) = (self.epoch, removes.to_vec());
        let (me, packs) = (self.clone(), built.packs.clone());
        let step = move |head: &Head| match (head.checkpoint(epoch, &new, &removes, back)?, &lost) {
            // An earlier attempt may have recorded it: only where none has, the checkpoint is given up.
            (Move::To(_), Some(lost)) => Err(lost.share()),
            (change, _) => me.if_counted(change, &packs),
        };
        self.change(step).await.map(|_| ())
    }

    /// Puts the checkpoint's trees into the tip's tables. Returns the layers that the tables now hold, and the memory of their
    /// entries.
    fn adopt_tables(
        &self,
        built: Tables,
        merged: usize,
        removes: &[Removal],
        back: Option<&RollBack>,
    ) -> Result<(Vec<Frozen>, BTreeMap<Lsn, Kept>)> {
        let mut tip = self.tip.lock();
        // None are left of a session that has ended meanwhile.
        let merged = merged.min(tip.overlay.frozen.len());
        let merged: Vec<Frozen> = tip.overlay.frozen.drain(..merged).collect();
        let held = merged.last().map(|f| f.last).map(|last| tip.give_back(last)).unwrap_or_default();
        let Tip { tables, counted, rollbacks, .. } = &mut *tip;
        removes.iter().for_each(|r| tables.hide(r.state));
        tables.remove_hidden();
        if let Some(back) = back {
            tables.roll_back(back)?;
            self.context.set_size(tables.tip().size);
            (*counted, *rollbacks) = (None, *rollbacks + 1);
        }
        tables.ends = built.ends.clone();
        let (newest, mapped) = (built.tip().tree, built.tip().mapped);
        let tip_now = tables.tip;
        for s in tables.states.values_mut() {
            match built.states.get(&s.id) {
                Some(b) if b.id != built.tip => (s.tree, s.mapped, s.built) = (b.tree, b.mapped, true),
                // Still the tip, or marked since, or a later tip: then layers above this tree belong to it or to a parent.
                _ => (s.tree, s.mapped, s.built) = (newest, mapped, tip_now == built.tip),
            }
        }
        Ok((merged, held))
    }
}
