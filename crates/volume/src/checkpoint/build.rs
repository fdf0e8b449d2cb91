//! What a checkpoint builds before its CAS: the trees of states, what died on the way, the chunk table, the page that names
//! it all (protocol.md §5).
//!
//! Works on copies: an attempt that fails leaves nothing but map chunks that no table names, which count as dead once the
//! position has passed them. An attempt begins its own map chunks, and the chunk table's pages lie in chunks of their own:
//! those are found without the table.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;

use async_trait::async_trait;
use bytes::Bytes;

use crate::read::View;
use crate::read::{Frozen, Layer, Piece, updates};
use crate::session::Session;
use crate::space::{
    ChunkTable, Cursor, DeadFrame, Folded, NewChunk, Object, PAGE_DEATHS, PAGES_MAX, Part, RUN_INDEX,
    RUN_PAGE, Repacked, RunIndex, RunPage, encode_deaths,
};
use crate::space::{Gone, TABLE_ADDRESS, Tables};
use windlass_base::{ChunkId, Era, Error, Kind, Result, Seq, StateId};
use windlass_frame::FRAME_MAX;
use windlass_log::{FrameRef, MapSink, Prefix};
use windlass_map::{Extent, PageSink, Pages, Step, Tree};
use windlass_pool::ChunkKind;

/// Largest number of deaths that are sorted at once.
const SORT_MAX: usize = 1 << 19;
/// Bytes of runs that are kept until their chunks are stored, for each block that is merged at once; then they are waited for.
const FRESH: u64 = 32;
/// Deaths that are counted before others get their turn.
const FOLDED_AT_ONCE: usize = 1024;
/// Parts of a state's list before they become fewer runs.
const PARTS_MAX: usize = 64;
/// Runs that are read side by side, a page of each in memory.
const JOINED_AT_ONCE: usize = 32;
/// Folded deaths of chunks that are gone are dropped when they are more than those that count, and than this.
const FOLDED_SLACK: u64 = 1 << 20;

const MS_AN_HOUR: u64 = 60 * 60 * 1000;

/// One attempt to build a checkpoint.
pub struct Build<'a> {
    session: &'a Session,
    attempt: u64,
    /// The last chunk that was given a number before the attempt began.
    given: Seq,
    index: u16,
    pub tables: Tables,
    pub chunk_table: ChunkTable,
    /// Runs that were named when the attempt began, or written since.
    runs: BTreeSet<FrameRef>,
    position: Prefix,
    /// Frames of the runs that the attempt wrote: their chunks are not stored yet.
    fresh: Fresh,
}

#[derive(Default)]
struct Fresh {
    /// Frames by their whole reference: a clone's chunks and its parent's have the same numbers.
    frames: BTreeMap<FrameRef, Bytes>,
    /// Sum of the bytes of all frames.
    bytes: u64,
}

impl Fresh {
    fn insert(&mut self, at: &FrameRef, raw: Bytes) {
        self.bytes += raw.len() as u64;
        self.frames.insert(*at, raw);
    }

    fn extend(&mut self, other: Fresh) {
        self.bytes += other.bytes;
        self.frames.extend(other.frames);
    }
}

/// Reader of runs and pages, also of those that were written just now.
struct Runs<'a> {
    view: &'a View,
    fresh: &'a Fresh,
}

#[async_trait]
impl Pages for Runs<'_> {
    fn chunk(&self, at: &FrameRef) -> Result<ChunkId> {
        self.view.pages().chunk(at)
    }

    async fn load(&self, at: &FrameRef, address: u64) -> Result<Bytes> {
        match self.fresh.frames.get(at) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.view.pages().load(at, address).await,
        }
    }
}

struct Sink<'a> {
    session: &'a Session,
    attempt: u64,
    era: Era,
    pages: MapSink,
    index: u16,
    died: Vec<FrameRef>,
    /// Pages that were written, if they are to be kept; all of them are forgotten when they have more than `fresh_max` bytes.
    fresh: Option<Fresh>,
    fresh_max: u64,
}

#[async_trait]
impl PageSink for Sink<'_> {
    async fn append(&mut self, address: u64, raw: Bytes) -> Result<FrameRef> {
        let at = self.pages.append(address, raw.clone()).await?;
        self.born(&at);
        self.keep(&at, raw);
        // The pages that it was made from may all have been in memory.
        self.session.context.rt().give_way().await;
        Ok(at)
    }

    fn died(&mut self, frame: &FrameRef) {
        // Ancestors' frames are held by their pins.
        if frame.volume == self.index {
            self.died.push(*frame);
        }
    }
}

impl Sink<'_> {
    fn born(&mut self, at: &FrameRef) {
        let mut new_chunks = self.session.new_chunks.lock();
        for chunk in self.pages.begun() {
            new_chunks.map(self.attempt, chunk.epoch, chunk.seq, self.era);
        }
        new_chunks.page(self.attempt, at);
    }

    fn keep(&mut self, at: &FrameRef, raw: Bytes) {
        if let Some(fresh) = &mut self.fresh {
            fresh.insert(at, raw);
        }
        self.fresh = self.fresh.take().filter(|fresh| fresh.bytes <= self.fresh_max);
    }

    async fn table(&mut self, address: u64, raw: Bytes) -> Result<FrameRef> {
        let at = self.pages.table(address, raw.clone()).await?;
        self.born(&at);
        self.keep(&at, raw);
        self.session.context.rt().give_way().await;
        Ok(at)
    }
}

/// Writer of one run.
struct RunWriter {
    page: Vec<DeadFrame>,
    index: RunIndex,
    deaths: u64,
    bytes: u64,
}

impl RunWriter {
    fn new() -> RunWriter {
        RunWriter { page: Vec::new(), index: RunIndex::default(), deaths: 0, bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.index.pages.len() >= PAGES_MAX
    }

    async fn push(&mut self, sink: &mut Sink<'_>, death: DeadFrame) -> Result<()> {
        self.index.add(&death);
        self.deaths += 1;
        self.bytes += u64::from(death.len);
        self.page.push(death);
        if self.page.len() >= PAGE_DEATHS { self.flush(sink).await } else { Ok(()) }
    }

    async fn flush(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let Some(first) = self.page.first() else { return Ok(()) };
        let (era, seq) = (first.era, first.seq);
        let at = sink.table(RUN_PAGE, encode_deaths(&self.page)).await?;
        self.index.pages.push(RunPage { at, era, seq });
        self.page.clear();
        Ok(())
    }

    async fn finish(mut self, sink: &mut Sink<'_>) -> Result<Option<(FrameRef, Folded)>> {
        self.flush(sink).await?;
        if self.deaths == 0 {
            return Ok(None);
        }
        let run = sink.table(RUN_INDEX, self.index.encode()).await?;
        Ok(Some((run, Folded { part: Part::whole(run), deaths: self.deaths, bytes: self.bytes })))
    }
}

impl<'a> Build<'a> {
    pub fn begin(session: &'a Session, tables: Tables) -> Build<'a> {
        session.writer.seal_map();
        let attempt = session.new_chunks.lock().attempt();
        let mut chunk_table = ChunkTable::clone(&session.chunk_table.lock());
        session.retired.lock().forget_in(&mut chunk_table);
        Build {
            attempt,
            given: session.writer.given(),
            index: session.context.index,
            tables,
            runs: chunk_table.runs(),
            position: chunk_table.position,
            chunk_table,
            fresh: Fresh::default(),
            session,
        }
    }

    pub fn attempt(&self) -> u64 {
        self.attempt
    }

    pub fn position(&self) -> Prefix {
        self.position
    }

    fn sink(&self, era: Era) -> Sink<'a> {
        let Build { session, attempt, index, .. } = *self;
        let (pages, fresh_max) = (session.writer.pages(era), u64::MAX);
        Sink { session, attempt, era, pages, index, died: Vec::new(), fresh: None, fresh_max }
    }

    /// Returns how many bytes are kept until their chunks are stored.
    fn fresh_max(&self) -> u64 {
        self.session.context.engine.tuning.merge_blocks * FRESH
    }

    /// Merges the next frozen layer into the tree of its state.
    pub async fn merge(&mut self, tree: Tree, frozen: &Frozen, mapped: &mut u64) -> Result<Tree> {
        let Frozen { layer, state, era, last, seq } = frozen;
        let seq = seq.ok_or_else(|| internal("a stored layer's last chunk has no number"))?;
        let view = &self.session.context.view;
        let merge_blocks = self.session.context.engine.tuning.merge_blocks;
        let (mut merged, mut pieces, mut died) = (tree, Pieces::of(updates(layer)), Vec::new());
        while pieces.next.is_some() {
            let (mut sink, fresh_max) = (self.sink(*era), self.fresh_max());
            (sink.fresh, sink.fresh_max) = (Some(Fresh::default()), fresh_max);
            let pages = Runs { view, fresh: &self.fresh };
            let made = merged.merge(&pages, view.page_cache(), &mut sink, pieces.piece(merge_blocks)).await?;
            *mapped = mapped.saturating_add_signed(made.gained);
            merged = made.tree;
            died.append(&mut sink.died);
            let kept = sink.fresh.take();
            // Where little is mapped a piece ends little: a run and an object for each would be nearly one a block.
            if pieces.next.is_none() || died.len() as u64 >= merge_blocks / 2 {
                self.bury(Some(*state), take(&mut died)).await?;
            }
            // The next piece begins at pages of this one, which caches may have dropped by then.
            match kept {
                Some(fresh) => {
                    self.fresh.extend(fresh);
                    self.bound_fresh().await?;
                }
                None => self.land().await?,
            }
        }
        let before = self.position.seq;
        let chunks = self.session.new_chunks.lock().range(before.next()..=seq);
        let (index, layer) = (self.index, layer.clone());
        let died = self.session.context.rt().cpu(move || overwritten(index, &layer, &chunks)).await?;
        self.bury(Some(*state), died).await?;
        if seq > before {
            self.position = Prefix { seq, lsn: *last };
        }
        Ok(merged)
    }

    /// Takes into the table what packs hold from now on. Called before any merge: what dies in it counts in the new homes.
    pub fn adopt(&mut self, packs: &[Repacked]) -> Result<()> {
        packs.iter().try_for_each(|moved| self.chunk_table.adopt(moved))
    }

    /// Moves the position on over map chunks, and takes all chunks up to it into the table. Called after all merges.
    pub fn record(&mut self) -> Result<()> {
        let mut next = self.chunk_table.position.seq.next();
        let new_chunks = self.session.new_chunks.lock().range(next..=self.given);
        for (seq, birth) in new_chunks {
            if seq != next || (seq > self.position.seq && birth.kind != ChunkKind::Map) {
                break;
            }
            self.position.seq = self.position.seq.max(seq);
            self.count(seq, &birth);
            next = seq.next();
        }
        if next <= self.position.seq {
            return Err(internal("a chunk that a checkpoint has merged is not known"));
        }
        Ok(())
    }

    fn count(&mut self, seq: Seq, birth: &NewChunk) {
        if birth.recorded && birth.bytes > 0 {
            let hour = self.session.context.rt().wall_ms() / MS_AN_HOUR;
            self.chunk_table.count(seq, birth, hour as u32);
        } else {
            // Nothing in it was ever named.
            self.chunk_table.remove(seq);
            self.chunk_table.retired.insert(Object { epoch: birth.epoch, seq });
        }
    }

    fn era_of(&self, seq: Seq) -> Result<Era> {
        let era = self.session.era_of(&self.chunk_table, seq);
        era.ok_or_else(|| internal("something died in a part of the volume that nobody knows"))
    }

    /// Records deaths while this state was built; without a state, frames that nobody holds.
    async fn bury(&mut self, state: Option<StateId>, frames: Vec<FrameRef>) -> Result<()> {
        let parent = state.and_then(|s| self.tables.states.get(&s)).and_then(|s| s.parent);
        let parent_era = parent.and_then(|p| self.tables.states.get(&p)).map_or(Era(0), |p| p.era);
        for some in frames.chunks(SORT_MAX) {
            let mut deaths = Vec::with_capacity(some.len());
            for (n, f) in some.iter().enumerate() {
                if n % FOLDED_AT_ONCE == 0 {
                    self.session.context.rt().give_way().await;
                }
                deaths.push(DeadFrame { era: self.era_of(f.seq)?, seq: f.seq, offset: f.offset, len: f.len });
            }
            let sort = move || {
                deaths.sort_unstable();
                deaths
            };
            let deaths = self.session.context.rt().cpu(sort).await?;
            if deaths.windows(2).any(|d| d[0] == d[1]) {
                return Err(internal("something died twice"));
            }
            self.bury_sorted(state, parent_era, &deaths).await?;
        }
        Ok(())
    }

    async fn bury_sorted(
        &mut self,
        state: Option<StateId>,
        parent_era: Era,
        deaths: &[DeadFrame],
    ) -> Result<()> {
        let mut sink = self.sink(self.tables.tip().era);
        sink.fresh = Some(Fresh::default());
        let mut run = RunWriter::new();
        for d in deaths {
            run.push(&mut sink, *d).await?;
        }
        let Some((at, _)) = run.finish(&mut sink).await? else { return Ok(()) };
        self.fresh.extend(sink.fresh.take().unwrap_or_default());
        self.bound_fresh().await?;
        self.runs.insert(at);
        let (old, new) = Part::whole(at).split(parent_era);
        let held = deaths.partition_point(|d| d.era <= parent_era);
        if let (Some(state), Some(old)) = (state, old.filter(|_| held > 0)) {
            self.chunk_table.deaths.entry(state).or_default().push(old);
        }
        let free = &deaths[held..];
        if let Some(part) = new.filter(|_| !free.is_empty()) {
            let mut bytes = 0;
            for some in free.chunks(FOLDED_AT_ONCE) {
                for d in some {
                    self.fold(d)?;
                    bytes += u64::from(d.len);
                }
                self.session.context.rt().give_way().await;
            }
            self.chunk_table.folded.push(Folded { part, deaths: free.len() as u64, bytes });
        }
        Ok(())
    }

    /// Waits for the runs to be stored, where they take too much memory: they are read from the stores then.
    async fn bound_fresh(&mut self) -> Result<()> {
        if self.fresh.bytes > self.fresh_max() { self.land().await } else { Ok(()) }
    }

    /// Waits until all that was written so far can be read from the stores.
    async fn land(&mut self) -> Result<()> {
        let writer = &self.session.writer;
        writer.seal_map();
        writer.wait_seq(writer.given()).await?;
        self.fresh = Fresh::default();
        Ok(())
    }

    fn fold(&mut self, death: &DeadFrame) -> Result<()> {
        if self.chunk_table.entry(death.seq).is_none() {
            // Written by this very attempt.
            let birth = self.session.new_chunks.lock().get(death.seq).map(ChunkTable::young);
            birth.into_iter().for_each(|young| self.chunk_table.insert(death.seq, young));
        }
        self.chunk_table.bury(death)
    }

    /// Removes hidden states from the tables; what only they held becomes free.
    pub async fn remove_hidden(&mut self) -> Result<()> {
        for gone in self.tables.remove_hidden() {
            match gone.child {
                Some(child) => self.chunk_table.inherit(gone.id, child, gone.parent_era),
                None => {
                    self.chunk_table.deaths.remove(&gone.id);
                    self.free_alone(&gone).await?;
                }
            }
        }
        Ok(())
    }

    /// Frees what only a state without children held: all that is newer than its parent. Below an older page nothing is.
    async fn free_alone(&mut self, gone: &Gone) -> Result<()> {
        let (session, index, born) = (self.session, self.index, gone.parent_era);
        let known = self.chunk_table.clone();
        // What nobody knows is met, and told, on the way.
        let newer = move |f: &FrameRef| {
            f.volume == index && session.era_of(&known, f.seq).is_none_or(|era| era > born)
        };
        let view = &session.context.view;
        let mut walk = gone.tree.walk_where(view.pages(), view.page_cache(), &newer);
        let (mut freed, mut leaf) = (Vec::new(), Vec::new());
        while let Some(step) = walk.step().await? {
            match step {
                // No frame crosses a leaf, so that each is met within one.
                Step::Page { frame, .. } => {
                    add_once(&mut freed, &mut leaf);
                    freed.push(frame);
                }
                Step::Mapped(extent) => leaf.extend(extent.at.map(|at| at.frame).filter(&newer)),
            }
            if freed.len() as u64 >= session.context.engine.tuning.merge_blocks {
                self.bury(None, take(&mut freed)).await?;
            }
        }
        add_once(&mut freed, &mut leaf);
        self.bury(None, freed).await
    }

    /// Counts in the table what became free by removals, shortens lists of many runs, and lets runs die that nobody names.
    pub async fn settle(&mut self) -> Result<()> {
        for part in take(&mut self.chunk_table.free) {
            let (mut deaths, mut bytes) = (0, 0);
            let fresh = take(&mut self.fresh);
            let pages = Runs { view: &self.session.context.view, fresh: &fresh };
            let mut cursor = Cursor::open(&pages, part).await?;
            while let Some(d) = cursor.next().await? {
                self.fold(&d)?;
                (deaths, bytes) = (deaths + 1, bytes + u64::from(d.len));
                if deaths % FOLDED_AT_ONCE as u64 == 0 {
                    self.session.context.rt().give_way().await;
                }
            }
            self.fresh = fresh;
            if deaths > 0 {
                self.chunk_table.folded.push(Folded { part, deaths, bytes });
            }
        }
        self.shorten_folded().await?;
        self.shorten_lists().await?;
        let kept = self.chunk_table.runs();
        let mut gone = Vec::new();
        let pages = Runs { view: &self.session.context.view, fresh: &take(&mut self.fresh) };
        for run in take(&mut self.runs) {
            if !kept.contains(&run) {
                let index = RunIndex::load(&pages, &run).await?;
                gone.extend(index.pages.iter().map(|p| p.at).chain([run]));
            }
        }
        self.bury(None, gone).await
    }

    /// Joins neighbours of like size into one; all of them when most of what they name is gone.
    async fn shorten_folded(&mut self) -> Result<()> {
        let folded = &self.chunk_table.folded;
        let bytes: u64 = folded.iter().map(|f| f.bytes).sum();
        let counted: u64 = self.chunk_table.entries().map(|(_, e)| e.dead).sum();
        let mut first = folded.len();
        let mut sum = 0;
        while first > 0 && (folded[first - 1].deaths <= 2 * sum || first == folded.len()) {
            first -= 1;
            sum += folded[first].deaths;
        }
        if bytes > 2 * counted + FOLDED_SLACK {
            first = 0;
        } else if folded.len() - first < 4 {
            return Ok(());
        }
        let parts: Vec<Part> = self.chunk_table.folded.drain(first..).map(|f| f.part).collect();
        for some in parts.chunks(JOINED_AT_ONCE) {
            let joined = self.join(some, true).await?;
            self.chunk_table.folded.extend(joined);
        }
        Ok(())
    }

    async fn shorten_lists(&mut self) -> Result<()> {
        let long: Vec<StateId> =
            self.chunk_table.deaths.iter().filter(|(_, l)| l.len() > PARTS_MAX).map(|(s, _)| *s).collect();
        for state in long {
            let parts = self.chunk_table.deaths.remove(&state).unwrap_or_default();
            let mut list = Vec::new();
            for some in parts.chunks(JOINED_AT_ONCE) {
                list.extend(self.join(some, false).await?.into_iter().map(|f| f.part));
            }
            self.chunk_table.deaths.insert(state, list);
        }
        Ok(())
    }

    /// Joins several parts into one run (or a few long ones). `known`: only deaths in chunks that the table has.
    async fn join(&mut self, parts: &[Part], known: bool) -> Result<Vec<Folded>> {
        let pages = Runs { view: &self.session.context.view, fresh: &self.fresh };
        let mut heads = Vec::new();
        for part in parts {
            let mut cursor = Cursor::open(&pages, *part).await?;
            if let Some(death) = cursor.next().await? {
                heads.push((death, cursor));
            }
        }
        let mut sink = self.sink(self.tables.tip().era);
        let (mut run, mut done, mut seen) = (RunWriter::new(), Vec::new(), 0usize);
        while let Some(at) = (0..heads.len()).min_by_key(|i| heads[*i].0) {
            let death = heads[at].0;
            seen += 1;
            if seen.is_multiple_of(FOLDED_AT_ONCE) {
                self.session.context.rt().give_way().await;
            }
            match heads[at].1.next().await? {
                Some(next) => heads[at].0 = next,
                None => drop(heads.swap_remove(at)),
            }
            if known && self.chunk_table.entry(death.seq).is_none() {
                continue;
            }
            run.push(&mut sink, death).await?;
            if run.is_full() {
                done.extend(std::mem::replace(&mut run, RunWriter::new()).finish(&mut sink).await?);
            }
        }
        done.extend(run.finish(&mut sink).await?);
        drop(heads);
        self.runs.extend(done.iter().map(|(at, _)| *at));
        Ok(done.into_iter().map(|(_, folded)| folded).collect())
    }

    /// Writes the table's pages that changed, and the page that names everything. Returns where that page lies.
    pub async fn write(&mut self) -> Result<FrameRef> {
        let mine: Vec<_> = self
            .session
            .new_chunks
            .lock()
            .of(self.attempt)
            .map(|(seq, b)| (seq, ChunkTable::young(b)))
            .collect();
        for (seq, young) in mine {
            if self.chunk_table.entry(seq).is_none() {
                self.chunk_table.insert(seq, young);
            }
        }
        self.chunk_table.retire();
        if let Some(key) = &self.session.context.key {
            self.chunk_table.renew_pages(key.number());
        }
        let inline = self.session.context.engine.tuning.states_inline;
        let key = self.session.context.key.as_ref();
        let states = self.tables.pages(&self.chunk_table.deaths, inline, key);
        let states = self.chunk_table.changed_states(states);
        let mut stale = self.chunk_table.take_stale();
        stale.extend(self.chunk_table.root.take());
        while !stale.is_empty() {
            for at in &stale {
                self.chunk_table.bury_bytes(at.seq, at.len.into())?;
            }
            stale = self.chunk_table.take_stale();
        }
        self.session.writer.seal_map();
        let era = self.tables.tip().era;
        let mut sink = self.sink(era);
        for (n, bytes) in states {
            let at = sink.table(Tables::page_address(n), bytes.clone()).await?;
            self.chunk_table.state_page_is(n, at, &bytes);
        }
        for (n, bytes) in self.chunk_table.changed() {
            let at = sink.table(ChunkTable::slab_address(n), bytes).await?;
            self.chunk_table.written(n, at);
        }
        self.tables.stored_bytes = self.chunk_table.space().0;
        let page = self.tables.encode(&self.chunk_table, key);
        if page.len() > FRAME_MAX {
            let why = "a volume's tables are too large: remove snapshots";
            return Err(Error::new(Kind::Refused, why));
        }
        let root = sink.table(TABLE_ADDRESS, page).await?;
        self.chunk_table.root = Some(root);
        self.chunk_table.position = self.position;
        self.chunk_table.add_direct(era, |seq| self.session.new_chunks.lock().key_of(seq));
        self.session.writer.seal_map();
        Ok(root)
    }
}

impl Session {
    /// Returns the era of a chunk's frames; `None`: neither this session nor the table knows the chunk.
    fn era_of(&self, chunk_table: &ChunkTable, seq: Seq) -> Option<Era> {
        let born = self.new_chunks.lock().get(seq).map(|b| b.era);
        born.or_else(|| chunk_table.entry(seq).map(|e| e.era))
    }
}

/// Moves a leaf's frames over, each once.
fn add_once(frames: &mut Vec<FrameRef>, leaf: &mut Vec<FrameRef>) {
    leaf.sort_unstable();
    leaf.dedup();
    frames.append(leaf);
}

/// A layer's updates, some at a time.
struct Pieces<I> {
    next: Option<Extent>,
    rest: I,
}

impl<I: Iterator<Item = Extent>> Pieces<I> {
    fn of(mut rest: I) -> Self {
        Pieces { next: rest.next(), rest }
    }

    /// Returns the next updates, of about so many blocks. An update that unmaps more is cut: its rest is left for the next
    /// piece.
    fn piece(&mut self, blocks: u64) -> impl Iterator<Item = Extent> {
        let mut left = blocks;
        std::iter::from_fn(move || {
            let update = self.next.filter(|_| left > 0)?;
            let count = if update.at.is_none() { update.count.min(left) } else { update.count };
            left = left.saturating_sub(count);
            self.next = match update.count - count {
                0 => self.rest.next(),
                more => Some(Extent { block: update.block + count, count: more, at: None }),
            };
            Some(Extent { count, ..update })
        })
    }
}

/// Returns frames of a layer's chunks of which nothing is left in the layer: overwritten before any map named them.
fn overwritten(index: u16, layer: &Layer, chunks: &[(Seq, NewChunk)]) -> Vec<FrameRef> {
    let mut named: Vec<(Seq, u64)> = layer
        .iter()
        .filter_map(|(_, piece)| match piece {
            Piece::Frame { at, .. } => Some((at.seq, at.offset)),
            _ => None,
        })
        .collect();
    named.sort_unstable();
    let mut died = Vec::new();
    for (seq, birth) in chunks.iter().filter(|(_, b)| b.kind == ChunkKind::Data) {
        for &(offset, len) in birth.frames.iter() {
            if named.binary_search(&(*seq, offset)).is_err() {
                died.push(FrameRef { volume: index, epoch: birth.epoch, seq: *seq, offset, len });
            }
        }
    }
    died
}

fn internal(why: &'static str) -> Error {
    Error::new(Kind::Internal, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::Epoch;
    use windlass_map::Mapped;

    #[test]
    fn a_long_trim_is_merged_in_pieces() {
        let frame = FrameRef { volume: 0, epoch: Epoch(1), seq: Seq(1), offset: 0, len: 10 };
        let write = |block, count| Extent { block, count, at: Some(Mapped { frame, skip: 0 }) };
        let trim = |block, count| Extent { block, count, at: None };
        let all = [write(0, 3), trim(3, 25), write(40, 16), write(60, 1)];
        let mut pieces = Pieces::of(all.into_iter());
        let mut seen = Vec::new();
        while pieces.next.is_some() {
            seen.push(pieces.piece(10).collect::<Vec<_>>());
        }
        let expect = [
            vec![write(0, 3), trim(3, 7)],
            vec![trim(10, 10)],
            // What maps something is never cut: it lies within a frame.
            vec![trim(20, 8), write(40, 16)],
            vec![write(60, 1)],
        ];
        assert_eq!(seen, expect);
        assert!(Pieces::of(std::iter::empty()).next.is_none());
    }
}
