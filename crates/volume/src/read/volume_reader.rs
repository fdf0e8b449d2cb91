//! Reading a view: the pieces of a range as they lay at one instant, then their data without any lock.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::boot_recorder::BootRecorder;
use super::overlay::Piece;
use super::read_ahead::Fetch;
use super::read_around::{Around, REACH, beside};
use crate::head::Head;
use crate::head::HeadRegister;
use crate::space::{ChunkTable, PagePlaces, Part, TABLE_ADDRESS, Tables};
use windlass_base::format_limits::BLOCK;
use windlass_base::rt::Rt;
use windlass_base::{Budget, ChunkId, Error, Kind, Result, Rope, StateId};
use windlass_keys::FamilyKeys;
use windlass_log::{Along, FrameRef, ReadCounts, Reader, Want};
use windlass_map::{PageCache, Pages, Step, Tree};
use windlass_store::Cause;

/// A range of blocks and where its newest contents are; `None`: no layer has it, the tree says.
pub type Found = (Range<u64>, Option<Piece>);

/// Pages of a volume's tables that are read side by side.
const PAGES_AT_ONCE: usize = 32;
/// How long a read waits for stores before it fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// Reads of more bytes bring nothing along that lies around them.
const SMALL: u64 = 64 << 10;

/// Whether trying later may help.
pub fn passes(error: &Error) -> bool {
    error.is_transient()
}

/// Reads map pages for a volume and its ancestors.
#[derive(Clone, Debug)]
struct PageReader(Reader);

#[async_trait]
impl Pages for PageReader {
    fn chunk(&self, at: &FrameRef) -> Result<ChunkId> {
        self.0.chunk(at)
    }
    async fn load(&self, at: &FrameRef, address: u64) -> Result<Bytes> {
        self.0.page(at, address, Cause::Read).await
    }
    async fn load_many(&self, wanted: &[(FrameRef, u64)]) -> Vec<Result<Bytes>> {
        self.0.pages(wanted, Cause::Read).await
    }
}

/// What can be read of a volume: its frames, its map's pages. Cheap to clone.
#[derive(Clone, Debug)]
pub struct View {
    reader: Reader,
    pages: PageReader,
    cache: Arc<PageCache>,
    rt: Rt,
    cell: HeadRegister,
    recorder: BootRecorder,
    around: Arc<Around>,
}

/// The blocks that these bytes touch.
pub fn blocks_of(offset: u64, len: u64) -> Range<u64> {
    offset / BLOCK..(offset + len).div_ceil(BLOCK)
}

impl View {
    /// `size`: bytes of the volume. `ahead`: memory for what is fetched before it is asked for.
    pub fn new(
        rt: Rt,
        reader: Reader,
        cache: Arc<PageCache>,
        cell: HeadRegister,
        (size, ahead): (u64, Budget),
    ) -> View {
        let (pages, recorder) = (PageReader(reader.clone()), BootRecorder::default());
        View { pages, reader, cache, rt, cell, recorder, around: Arc::new(Around::new(ahead, size)) }
    }

    /// Of what is read here for clients.
    pub fn recorder(&self) -> &BootRecorder {
        &self.recorder
    }

    /// The access to the volume and its ancestors.
    pub fn keys(&self) -> &FamilyKeys {
        self.reader.keys()
    }

    pub fn reads(&self) -> ReadCounts {
        self.reader.counts()
    }

    pub fn pages(&self) -> &dyn Pages {
        &self.pages
    }

    pub fn page_cache(&self) -> &PageCache {
        &self.cache
    }

    /// The tables under a head's checkpoint.
    pub async fn tables(&self, head: &Head) -> Result<Tables> {
        match &head.checkpoint.tables {
            None => Ok(Tables::born(head)),
            Some(at) => Ok(self.states(head, at).await?.0.under(head)),
        }
    }

    /// The tables, and for each state the list of what its parent holds and it does not.
    pub async fn death_lists(&self, head: &Head) -> Result<(Tables, BTreeMap<StateId, Vec<Part>>)> {
        match &head.checkpoint.tables {
            None => Ok((Tables::born(head), BTreeMap::new())),
            Some(at) => {
                let (tables, lists, _) = self.states(head, at).await?;
                Ok((tables.under(head), lists.deaths))
            }
        }
    }

    /// The tables with what is needed of which chunk.
    pub async fn books(&self, head: &Head) -> Result<(Tables, ChunkTable)> {
        let Some(at) = &head.checkpoint.tables else {
            return Ok((Tables::born(head), ChunkTable::default()));
        };
        let (tables, mut chunk_table, pages) = self.states(head, at).await?;
        for some in pages.slabs.chunks(PAGES_AT_ONCE) {
            let loads = some.iter().map(|(n, at)| self.table(at, ChunkTable::slab_address(*n)));
            for ((n, at), page) in some.iter().zip(futures::future::try_join_all(loads).await?) {
                chunk_table.add_page(*n, *at, &page)?;
            }
        }
        chunk_table.root = Some(*at);
        chunk_table.position = head.checkpoint.place();
        chunk_table.add_direct(tables.tip().era, |_| 0);
        Ok((tables.under(head), chunk_table))
    }

    /// The table page, with the pages of states that it names.
    async fn states(&self, head: &Head, at: &FrameRef) -> Result<(Tables, ChunkTable, PagePlaces)> {
        let (page, access) = (self.table(at, TABLE_ADDRESS).await?, self.keys().access(head.volume));
        let (mut tables, mut chunk_table, pages) = Tables::decode(&page, access)?;
        for some in pages.states.chunks(PAGES_AT_ONCE) {
            let loads = some.iter().map(|(n, at)| self.table(at, Tables::page_address(*n)));
            for ((n, at), page) in some.iter().zip(futures::future::try_join_all(loads).await?) {
                tables.add_page(*n, &page, &mut chunk_table.deaths, access)?;
                chunk_table.state_page_is(*n, *at, &page);
            }
        }
        Ok((tables.complete()?, chunk_table, pages))
    }

    async fn table(&self, at: &FrameRef, address: u64) -> Result<Bytes> {
        self.patiently(|| self.reader.table_page(at, address, Cause::Checkpoint)).await
    }

    /// An outage holds: what too few stores answer for is asked again for a while.
    pub(super) async fn patiently<T, F>(&self, ask: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let began = self.rt.now();
        let mut pause = Duration::from_millis(50);
        loop {
            match ask().await {
                Err(e) if passes(&e) && self.rt.now().since(began) < PATIENCE => {
                    tracing::debug!("a read is tried again: {e}");
                    self.rt.sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Err(e) if e.is(Kind::Corrupt) => return Err(Box::pin(self.explain(e)).await),
                done => return done,
            }
        }
    }

    /// Chunks of a volume that was removed are gone: that is no damage.
    async fn explain(&self, error: Error) -> Error {
        match self.cell.read().await {
            Ok(Some(head)) if head.removed => Error::new(Kind::Removed, "the volume was removed"),
            _ => error,
        }
    }

    /// The bytes at `offset`, given where their blocks lie. `news` is called before any is waited for when one of their
    /// frames is read for the first time.
    pub async fn read(
        &self,
        found: Vec<Found>,
        tree: &Tree,
        (offset, len): (u64, u64),
        news: &(dyn Fn() + Sync),
    ) -> Result<Rope> {
        let once = || async {
            let pieces = self.resolve(found.clone(), tree).await?;
            self.recorder.read(&pieces, self.rt.now());
            let wants = wants(&pieces);
            let along = |want: &Want| if len <= SMALL { self.along(want, tree) } else { Along::default() };
            let frames = self.reader.frames(&wants, news, along).await?;
            assemble(&pieces, &wants, &frames, offset, len)
        };
        self.patiently(once).await
    }

    /// What a request for this frame is to bring along: frames of this tree that lie around it, by what is known of the map.
    fn along(&self, want: &Want, tree: &Tree) -> Along {
        if !self.reader.is_afar() || !self.around.may(self.reader.room(), self.reader.foreseen()) {
            return Along::default();
        }
        let mut wants = Vec::new();
        for reach in REACH {
            let blocks = want.block.saturating_sub(reach)..want.block.saturating_add(reach);
            // Who reads what can't be told here is told why.
            let Ok(known) = tree.known(&self.pages, &self.cache, blocks) else { return Along::default() };
            wants = beside(want, &known.extents);
            if wants.len() as u64 >= reach / 8 {
                break;
            }
        }
        self.around.pay(wants)
    }

    /// Brings into the cache what it lacks of a fetch's blocks. What fails is asked for again by who reads it.
    pub async fn prefetch(&self, fetch: &Fetch, found: Vec<Found>, tree: &Tree) {
        let brought = async {
            let mut pieces = self.resolve(found, tree).await?;
            let next = if fetch.leaves { pieces.pop() } else { None };
            let mut missing = self.reader.missing(&wants(&pieces))?;
            if let Some((_, Piece::Frame { at, .. })) = next {
                leave(&mut missing, &at);
            }
            self.reader.fetch_ahead(&missing).await
        };
        if let Err(e) = brought.await {
            tracing::debug!("reading ahead: {e}");
        }
    }

    /// Brings into the cache what it lacks of these blocks of a tree.
    pub async fn bring(&self, blocks: Range<u64>, tree: &Tree) -> Result<()> {
        let pieces = self.resolve(vec![(blocks, None)], tree).await?;
        let missing = self.reader.missing(&wants(&pieces))?;
        self.reader.frames(&missing, || (), |_| Along::default()).await.map(drop)
    }

    /// Brings the map of these blocks into memory.
    pub async fn prefetch_map(&self, tree: &Tree, blocks: Range<u64>) {
        if let Err(e) = tree.lookup(&self.pages, &self.cache, blocks).await {
            tracing::debug!("reading the map ahead: {e}");
        }
    }

    /// Mapped blocks, given those of the tree and the ranges that lie over it, each with whether it is data (else
    /// zeros). `None`: that would take more than `steps` pages and extents of the map.
    pub async fn mapped(
        &self,
        over: Vec<(Range<u64>, bool)>,
        tree: &Tree,
        in_tree: u64,
        mut steps: usize,
    ) -> Result<Option<u64>> {
        let mut mapped = in_tree;
        for (range, is_data) in over {
            if is_data {
                mapped += range.end - range.start;
            }
            let mut walk = tree.walk(&self.pages, &self.cache, range);
            while let Some(step) = walk.step().await? {
                let Some(left) = steps.checked_sub(1) else { return Ok(None) };
                steps = left;
                if let Step::Mapped(extent) = step {
                    mapped = mapped.saturating_sub(extent.count);
                }
            }
        }
        Ok(Some(mapped))
    }

    /// What no layer has is looked up in the tree.
    async fn resolve(&self, found: Vec<Found>, tree: &Tree) -> Result<Vec<(Range<u64>, Piece)>> {
        let mut pieces = Vec::with_capacity(found.len());
        for (range, piece) in found {
            if let Some(piece) = piece {
                pieces.push((range, piece));
                continue;
            }
            for e in tree.lookup(&self.pages, &self.cache, range).await? {
                let piece = match e.at {
                    None => Piece::Zero,
                    Some(m) => Piece::Frame { at: m.frame, index: m.skip },
                };
                pieces.push((e.block..e.block + e.count, piece));
            }
        }
        Ok(pieces)
    }
}

/// The frames that these pieces lie in.
fn wants(pieces: &[(Range<u64>, Piece)]) -> Vec<Want> {
    let mut wants: Vec<Want> = Vec::new();
    for (range, piece) in pieces {
        if let Piece::Frame { at, index } = piece {
            let want = Want { at: *at, block: range.start - u64::from(*index) };
            if wants.last() != Some(&want) {
                wants.push(want);
            }
        }
    }
    wants
}

/// What lies in one object with the next frame is left for later, unless that is most of it: then the object is large
/// beside what is fetched.
fn leave(missing: &mut Vec<Want>, next: &FrameRef) {
    let stays = missing.iter().filter(|want| want.at.same_object(next)).count();
    if stays <= missing.len() / 2 {
        missing.retain(|want| !want.at.same_object(next));
    }
}

fn assemble(
    pieces: &[(Range<u64>, Piece)],
    wants: &[Want],
    frames: &[Bytes],
    offset: u64,
    len: u64,
) -> Result<Rope> {
    let mut out = Rope::default();
    let mut fetched = wants.iter().zip(frames).peekable();
    for (range, piece) in pieces {
        let start = range.start * BLOCK;
        let from = offset.max(start);
        let to = (offset + len).min(range.end * BLOCK);
        let part = (from - start) as usize..(to - start) as usize;
        match piece {
            Piece::Memory { data, .. } => out.push(piece_of(data, part)),
            Piece::Zero => out.push_zeros(part.len()),
            Piece::Frame { at, index } => {
                while fetched
                    .next_if(|(w, _)| w.at != *at || w.block != range.start - u64::from(*index))
                    .is_some()
                {}
                let (_, frame) = fetched.peek().expect("every frame was asked for, in this order");
                let skip = (u64::from(*index) * BLOCK) as usize;
                if skip + ((range.end - range.start) * BLOCK) as usize > frame.len() {
                    let why = "the volume's map names more of a frame than it has: run `windlass pool scrub`";
                    return Err(Error::new(Kind::Corrupt, why));
                }
                out.push(piece_of(frame, skip + part.start..skip + part.end));
            }
        }
    }
    debug_assert_eq!(out.len() as u64, len, "the pieces cover the range");
    Ok(out)
}

/// Most of a frame, or of what was written, is handed on as it is. A small part is copied: it may wait long for a client to
/// take it, and would hold on to all of it.
fn piece_of(whole: &Bytes, part: Range<usize>) -> Bytes {
    match part.len() < whole.len() / 2 {
        true => Bytes::copy_from_slice(&whole[part]),
        false => whole.slice(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::format_limits::SHARD_SPAN;
    use windlass_base::{Epoch, Lsn, Seq};

    fn memory(fill: u8, blocks: u64) -> Piece {
        Piece::Memory { data: vec![fill; (blocks * BLOCK) as usize].into(), lsn: Lsn(1) }
    }

    #[test]
    fn what_shares_an_object_with_the_next_frame_is_left_unless_it_is_most() {
        let at = |seq, offset| FrameRef { volume: 0, epoch: Epoch(1), seq: Seq(seq), offset, len: 9 };
        let want = |seq, offset| Want { at: at(seq, offset), block: 0 };
        let both = vec![want(1, 0), want(1, 9), want(2, 0), want(2, 9)];
        let mut missing = both.clone();
        leave(&mut missing, &at(2, 18));
        assert_eq!(missing, both[..2]);
        for next in [at(3, 0), at(2, SHARD_SPAN)] {
            let mut missing = both.clone();
            leave(&mut missing, &next);
            assert_eq!(missing, both, "another object");
        }
        let mut missing = both[1..].to_vec();
        leave(&mut missing, &at(2, 18));
        assert_eq!(missing, both[1..], "a large one is got in parts");
    }

    #[test]
    fn pieces_are_put_together_at_any_offset() {
        let pieces = [(2..4, memory(7, 2)), (4..5, Piece::Zero), (5..6, memory(9, 1))];
        let read = |pieces: &[_], offset, len| assemble(pieces, &[], &[], offset, len).unwrap().into_bytes();
        let all = read(&pieces, 2 * BLOCK, 4 * BLOCK);
        assert_eq!(all.len() as u64, 4 * BLOCK);
        let part = read(&pieces, 2 * BLOCK + 4000, 8500);
        assert_eq!(part, all.slice(4000..12500));
        let small = read(&pieces[..1], 2 * BLOCK, 100);
        let Piece::Memory { data, .. } = &pieces[0].1 else { unreachable!("it was made above") };
        assert!(small.as_ptr() != data.as_ptr(), "a small part holds on to nothing");
        let one = read(&pieces[..1], 2 * BLOCK + 10, 5000);
        assert_eq!(one, vec![7; 5000]);
        assert_eq!(blocks_of(4095, 2), 0..2);
        assert_eq!(blocks_of(4096, 4096), 1..2);
    }
}
