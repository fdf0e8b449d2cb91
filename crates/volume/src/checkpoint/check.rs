//! What is live, found by walking all maps, beside what the chunk table says (protocol.md §5.8).
//!
//! Takes the tables of one recorded head as they are and reads every page of every state: they must agree exactly. Holds
//! about 24 bytes a frame of one state and its parent, and of all states together.
//!
//! Checkpoints may be made meanwhile: nothing here changes, but what they retire may be deleted. Who calls sees to it that it
//! isn't, or takes `Corrupt` for damage only if the head is still the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Serialize;

use crate::head::Head;
use crate::read::EngineContext;
use crate::read::View;
use crate::space::{ChunkTable, Cursor, Part, RunIndex};
use crate::space::{State, Tables};
use windlass_base::rt::Rt;
use windlass_base::{ChunkId, Result, Seq, StateId, VolumeId};
use windlass_keys::FamilyKeys;
use windlass_log::{FrameRef, InPack, Places, Reader};
use windlass_map::{Step, Tree};

/// Sentences at most.
const FINDINGS_MAX: usize = 100;
/// Steps of a walk before others get their turn: its pages may all be in memory.
const STEPS_AT_ONCE: u64 = 1024;

/// What a check of one volume found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CheckReport {
    /// What the maps and the table disagree about; empty when nothing is wrong.
    pub wrong: Vec<String>,
    /// Frames and bytes that some state needs, by the maps.
    pub live_frames: u64,
    pub live_bytes: u64,
    /// Bytes of all objects that the table names.
    pub table_bytes: u64,
    pub states: u64,
}

type Frame = (Seq, u64, u32);
type Frames = BTreeSet<Frame>;

/// Where chunks lie by the table that is checked. What was packed since left behind what had died by then, and that is read
/// here too.
#[derive(Debug)]
struct AsRecorded {
    engine: EngineContext,
    volume: VolumeId,
    keys: FamilyKeys,
    packed: BTreeMap<Seq, InPack>,
    /// Chunks that were not there any more: what is live in them by the newest table is where that says.
    moved: Mutex<BTreeSet<Seq>>,
}

#[async_trait]
impl Places for AsRecorded {
    fn find(&self, chunk: &ChunkId) -> Option<InPack> {
        if chunk.volume == self.volume && !self.moved.lock().contains(&chunk.seq) {
            return self.packed.get(&chunk.seq).copied();
        }
        self.engine.memory.places.find(chunk)
    }

    async fn look_again(&self, chunk: &ChunkId, was: Option<InPack>) -> Result<bool> {
        if chunk.volume == self.volume {
            self.moved.lock().insert(chunk.seq);
        }
        let places = &self.engine.memory.places;
        if places.find(chunk) != was {
            return Ok(true);
        }
        if let Some((_, chunk_table)) = self.engine.chunk_table(chunk.volume).await? {
            places.know(chunk.volume, chunk_table.packed(chunk.volume));
        }
        Ok(places.find(chunk) != was)
    }

    async fn look_for_keys(&self, volume: VolumeId) -> Result<bool> {
        self.engine.look_for_keys((self.volume, &self.keys), volume).await
    }
}

fn view_as_recorded(engine: &EngineContext, head: &Head, chunk_table: &ChunkTable) -> View {
    let (volume, memory) = (head.volume, &engine.memory);
    let packed = chunk_table.packed(volume);
    let (keys, moved) = (engine.keys_of(head), Mutex::default());
    let family = (head.volumes(), keys.clone());
    let places = Arc::new(AsRecorded { engine: engine.clone(), volume, keys, packed, moved });
    let frames = (memory.frames.clone(), memory.disk.clone());
    let (rt, pool, slices) = (engine.rt.clone(), engine.pool.clone(), memory.places.slices.clone());
    let reader = Reader::new(rt.clone(), pool, frames, family, places, slices);
    let ahead = (head.size, memory.ahead.budget.clone());
    View::new(rt, reader, memory.pages.clone(), engine.cell(volume), ahead)
}

struct Check<'a> {
    rt: &'a Rt,
    view: &'a View,
    /// The volume's own, in the list of its ancestors and itself.
    index: u16,
    tables: &'a Tables,
    chunk_table: &'a ChunkTable,
    report: CheckReport,
}

/// Checks what this head's checkpoint recorded.
pub async fn check(engine: &EngineContext, head: &Head) -> Result<CheckReport> {
    let (tables, chunk_table) = engine.view(head).books(head).await?;
    let view = view_as_recorded(engine, head, &chunk_table);
    let report = CheckReport { states: tables.states.len() as u64, ..CheckReport::default() };
    let (rt, index) = (&engine.rt, head.own_index());
    let mut check = Check { rt, view: &view, index, tables: &tables, chunk_table: &chunk_table, report };
    let live = check.states().await?;
    let mut by_chunk = check.count(&live);
    check.own_pages(&mut by_chunk).await?;
    check.compare(&by_chunk);
    Ok(check.report)
}

impl Check<'_> {
    fn wrong(&mut self, what: impl FnOnce() -> String) {
        if self.report.wrong.len() < FINDINGS_MAX {
            let what = what();
            self.report.wrong.push(what);
        }
    }

    /// All frames that a state needs; each state's list of deaths is compared on the way.
    async fn states(&mut self) -> Result<Frames> {
        let mut live = Frames::new();
        let states: Vec<&State> = self.tables.states.values().collect();
        for state in states {
            let own = self.reach(&state.tree).await?;
            if let Some(parent) = state.parent.and_then(|p| self.tables.states.get(&p)) {
                let parent = self.reach(&parent.tree).await?;
                let told = self.deaths(state.id).await?;
                let gone: Vec<Frame> = parent.difference(&own).copied().collect();
                if told != gone {
                    self.wrong(|| differ(state.id, &gone, &told));
                }
            } else if self.chunk_table.deaths.contains_key(&state.id) {
                self.wrong(|| format!("state {} has no parent, and yet a list of what that lost", state.id));
            }
            live.extend(own);
        }
        Ok(live)
    }

    async fn reach(&self, tree: &Tree) -> Result<Frames> {
        let mut walk = tree.walk(self.view.pages(), self.view.page_cache(), 0..u64::MAX);
        let (mut frames, mut steps) = (Frames::new(), 0u64);
        while let Some(step) = walk.step().await? {
            steps += 1;
            if steps.is_multiple_of(STEPS_AT_ONCE) {
                self.rt.give_way().await;
            }
            let f = match step {
                Step::Page { frame, .. } => frame,
                Step::Mapped(extent) => extent.at.expect("a walk shows what is mapped").frame,
            };
            if f.volume == self.index {
                frames.insert((f.seq, f.offset, f.len));
            }
        }
        Ok(frames)
    }

    async fn deaths(&self, state: StateId) -> Result<Vec<Frame>> {
        let mut all = Vec::new();
        for part in self.chunk_table.deaths.get(&state).into_iter().flatten() {
            self.read(*part, &mut all).await?;
        }
        all.sort_unstable();
        Ok(all)
    }

    async fn read(&self, part: Part, all: &mut Vec<Frame>) -> Result<()> {
        let mut cursor = Cursor::open(self.view.pages(), part).await?;
        while let Some(d) = cursor.next().await? {
            all.push((d.seq, d.offset, d.len));
        }
        Ok(())
    }

    fn count(&mut self, live: &Frames) -> BTreeMap<Seq, u64> {
        let mut by_chunk = BTreeMap::new();
        for (seq, _, len) in live {
            *by_chunk.entry(*seq).or_default() += u64::from(*len);
        }
        self.report.live_frames = live.len() as u64;
        self.report.live_bytes = by_chunk.values().sum();
        by_chunk
    }

    /// The tables' own frames are live too.
    async fn own_pages(&self, by_chunk: &mut BTreeMap<Seq, u64>) -> Result<()> {
        let mut add = |f: &FrameRef| *by_chunk.entry(f.seq).or_default() += u64::from(f.len);
        for run in self.chunk_table.runs() {
            let index = RunIndex::load(self.view.pages(), &run).await?;
            index.pages.iter().for_each(|p| add(&p.at));
            add(&run);
        }
        self.chunk_table.own_pages().iter().for_each(add);
        Ok(())
    }

    fn compare(&mut self, by_chunk: &BTreeMap<Seq, u64>) {
        let (chunk_table, mut table) = (self.chunk_table, 0);
        for (seq, entry) in chunk_table.entries() {
            let live = by_chunk.get(&seq).copied().unwrap_or(0);
            table += entry.total;
            if entry.counted && entry.total.checked_sub(entry.dead) != Some(live) {
                let (total, dead, kind) = (entry.total, entry.dead, entry.kind);
                self.wrong(|| {
                    format!("chunk {seq} ({kind:?}): {total} bytes, {dead} dead by the table; {live} live by the maps")
                });
            }
        }
        for (seq, live) in by_chunk {
            if chunk_table.entry(*seq).is_none() {
                self.wrong(|| {
                    format!("chunk {seq}: {live} bytes are needed, and the table does not name it")
                });
            }
        }
        self.report.table_bytes = table;
    }
}

fn differ(state: StateId, gone: &[Frame], told: &[Frame]) -> String {
    let (g, t): (Frames, Frames) = (gone.iter().copied().collect(), told.iter().copied().collect());
    let some = |f: Vec<&Frame>| f.into_iter().take(3).map(|(s, o, _)| format!("{s}+{o}")).collect::<Vec<_>>();
    let (missing, extra) = (some(g.difference(&t).collect()), some(t.difference(&g).collect()));
    let twice = told.len() - t.len();
    format!(
        "state {state}: {} parts of its parent are not its own, {} are listed; not listed {missing:?}, listed and its own \
         or nobody's {extra:?}, listed twice {twice}",
        gone.len(),
        told.len()
    )
}
