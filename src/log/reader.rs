//! Reading frames: from the cache, else by one ranged get for neighbours, each frame fetched once whoever wants it.
//!
//! What was packed is looked for in its pack, and what isn't where it should be by a newer table: collection goes on
//! while others read.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};

use super::frame_ref::FrameRef;
use super::pack::Slice;
use super::places::{InPack, Places, Slices};
use crate::base::size::{BLOCK, FRAME_BLOCKS, SHARD_SPAN};
use crate::base::{ChunkId, Error, Kind, Result, VolumeId};
use crate::cache::{Flight, FrameCache, FrameKey, Lookup, Waiter};
use crate::frame::{self, FRAME_MAX, Place};
use crate::pool::Pool;
use crate::store::Cause;

/// Bytes between two wanted frames that are rather read than left out by a second get.
const GAP_MAX: u64 = 32 << 10;
/// Bytes one ranged get asks for, at most.
const GET_MAX: u64 = 4 << 20;
/// Gets of one read that are under way at once.
const GETS_MAX: usize = 32;

/// A data frame that a read needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    pub at: FrameRef,
    /// Its first block.
    pub block: u64,
}

/// Reads one volume's frames and its ancestors'. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    pool: Arc<Pool>,
    cache: FrameCache,
    /// Oldest ancestor first, the volume last.
    family: Arc<[VolumeId]>,
    places: Arc<dyn Places>,
    slices: Slices,
}

/// A frame that this read fetches, and where in the answer it belongs.
struct Fetch {
    flight: Flight,
    /// The object that has it by now, and where.
    object: ChunkId,
    at: u64,
    len: u32,
    block: u64,
    index: usize,
}

/// A frame that another read fetches, by its index in the answer.
type Waiting = (usize, Waiter);

impl Reader {
    pub fn new(
        pool: Arc<Pool>,
        cache: FrameCache,
        family: Vec<VolumeId>,
        places: Arc<dyn Places>,
        slices: Slices,
    ) -> Reader {
        Reader { pool, cache, family: family.into(), places, slices }
    }

    /// The contents of these frames, in order.
    pub async fn frames(&self, wants: &[Want]) -> Result<Vec<Bytes>> {
        let mut out = vec![Bytes::new(); wants.len()];
        let mut left: Vec<usize> = (0..wants.len()).collect();
        while !left.is_empty() {
            let (mut fetches, waiting) = self.sort(wants, &left, &mut out)?;
            for fetch in &mut fetches {
                let key = *fetch.flight.key();
                if let Some(packed) = self.places.find(&key.chunk) {
                    (fetch.object, fetch.at) = self.unpack(packed, &key.chunk, key.offset).await?;
                }
            }
            let mut gets =
                stream::iter(groups(fetches).into_iter().map(|g| self.fetch(g))).buffer_unordered(GETS_MAX);
            while let Some(done) = gets.next().await {
                for (index, frame) in done? {
                    out[index] = frame;
                }
            }
            left.clear();
            for (index, waiter) in waiting {
                waiter.landed().await;
                left.push(index);
            }
        }
        Ok(out)
    }

    /// Takes what the cache has; the rest is fetched here or waited for.
    fn sort(&self, wants: &[Want], left: &[usize], out: &mut [Bytes]) -> Result<(Vec<Fetch>, Vec<Waiting>)> {
        let (mut fetches, mut waiting) = (Vec::new(), Vec::new());
        for &index in left {
            let Want { at, block } = wants[index];
            let key = FrameKey { chunk: self.chunk(&at)?, offset: at.offset };
            match self.cache.lookup(key) {
                Lookup::Hit(frame) => out[index] = frame,
                Lookup::Wait(waiter) => waiting.push((index, waiter)),
                Lookup::Fetch(flight) => {
                    let (object, offset) = (key.chunk, key.offset);
                    fetches.push(Fetch { flight, object, at: offset, len: at.len, block, index });
                }
            }
        }
        Ok((fetches, waiting))
    }

    /// Where a chunk's frame lies in a pack, or in the chunk if another has found it packed anew meanwhile.
    async fn unpack(&self, mut packed: InPack, chunk: &ChunkId, offset: u64) -> Result<(ChunkId, u64)> {
        loop {
            let slice = match self.slices.get(&packed) {
                Some(slice) => Ok(slice),
                None => self.slice(&packed).await,
            };
            match slice {
                Ok(slice) => {
                    let missing = || {
                        let why = format!(
                            "a part of {chunk} is not in {}: run `windlass volume check`",
                            packed.pack
                        );
                        Error::new(Kind::Corrupt, why)
                    };
                    let moved =
                        slice.find(offset).filter(|_| (slice.epoch, slice.seq) == (chunk.epoch, chunk.seq));
                    return Ok((packed.pack, moved.ok_or_else(missing)?.to));
                }
                Err(e) if lacks(&e) && self.places.look_again(chunk, Some(packed)).await? => {
                    match self.places.find(chunk) {
                        Some(newer) => packed = newer,
                        None => return Ok((*chunk, offset)),
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    async fn slice(&self, packed: &InPack) -> Result<Arc<Slice>> {
        let InPack { pack, at, len } = *packed;
        let sound = |bytes: &[u8]| Slice::decode(bytes, at).is_ok();
        let bytes = self.pool.read(&pack, at, len, Cause::Read, &sound).await?;
        let slice = Arc::new(Slice::decode(&bytes, at)?);
        self.slices.put(*packed, slice.clone());
        Ok(slice)
    }

    /// One frame's stored bytes, wherever it is.
    async fn stored(&self, place: &Place, len: u32, cause: Cause) -> Result<Bytes> {
        let verify = |bytes: &[u8]| frame::verify(bytes, place);
        loop {
            let was = self.places.find(&place.chunk);
            let (object, at) = match was {
                Some(packed) => self.unpack(packed, &place.chunk, place.offset).await?,
                None => (place.chunk, place.offset),
            };
            match self.pool.read(&object, at, len, cause, &verify).await {
                Err(e) if lacks(&e) && self.places.look_again(&place.chunk, was).await? => {}
                done => return done,
            }
        }
    }

    /// One ranged get over neighbours of one shard.
    async fn fetch(&self, group: Vec<Fetch>) -> Result<Vec<(usize, Bytes)>> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(Vec::new()) };
        let (object, from) = (first.object, first.at);
        let len = last.at + u64::from(last.len) - from;
        let places: Vec<(usize, usize, Place)> = group
            .iter()
            .map(|f| {
                let FrameKey { chunk, offset } = *f.flight.key();
                let at = (f.at - from) as usize;
                (at, at + f.len as usize, Place { chunk, offset, address: f.block })
            })
            .collect();
        let verify = |bytes: &[u8]| {
            places.iter().all(|(a, b, place)| bytes.get(*a..*b).is_some_and(|f| frame::verify(f, place)))
        };
        let bytes = match self.pool.read(&object, from, len as u32, Cause::Read, &verify).await {
            // Perhaps collected meanwhile: each is looked for by itself.
            Err(e) if lacks(&e) => return self.fetch_each(group, &places).await,
            done => done?,
        };
        let mut out = Vec::with_capacity(group.len());
        for (fetch, (a, b, place)) in group.into_iter().zip(&places) {
            let raw = frame::open(&bytes.slice(*a..*b), place, (FRAME_BLOCKS * BLOCK) as usize)?;
            // An uncompressed frame is a slice of the whole answer, which the cache must not keep.
            let raw = if raw.len() < bytes.len() / 2 { Bytes::copy_from_slice(&raw) } else { raw };
            out.push((fetch.index, raw.clone()));
            fetch.flight.land(raw);
        }
        Ok(out)
    }

    async fn fetch_each(
        &self,
        group: Vec<Fetch>,
        places: &[(usize, usize, Place)],
    ) -> Result<Vec<(usize, Bytes)>> {
        let mut out = Vec::with_capacity(group.len());
        for (fetch, (.., place)) in group.into_iter().zip(places) {
            let stored = self.stored(place, fetch.len, Cause::Read).await?;
            let raw = frame::open(&stored, place, (FRAME_BLOCKS * BLOCK) as usize)?;
            out.push((fetch.index, raw.clone()));
            fetch.flight.land(raw);
        }
        Ok(out)
    }

    /// A page of a map or table, not cached here.
    pub async fn page(&self, at: &FrameRef, address: u64, cause: Cause) -> Result<Bytes> {
        let place = self.page_place(at, address)?;
        frame::open(&self.stored(&place, at.len, cause).await?, &place, FRAME_MAX)
    }

    /// A page of the chunk table, which is never packed: the table tells where others are.
    pub async fn table_page(&self, at: &FrameRef, address: u64, cause: Cause) -> Result<Bytes> {
        let place = self.page_place(at, address)?;
        let verify = |bytes: &[u8]| frame::verify(bytes, &place);
        let stored = self.pool.read(&place.chunk, at.offset, at.len, cause, &verify).await?;
        frame::open(&stored, &place, FRAME_MAX)
    }

    fn page_place(&self, at: &FrameRef, address: u64) -> Result<Place> {
        let chunk = self.chunk(at)?;
        if at.len as usize > FRAME_MAX + frame::FRAME_HEADER {
            return Err(Error::new(Kind::Corrupt, format!("a page of {chunk} has an impossible length")));
        }
        Ok(Place { chunk, offset: at.offset, address })
    }

    pub fn chunk(&self, at: &FrameRef) -> Result<ChunkId> {
        match self.family.get(usize::from(at.volume)) {
            Some(&volume) => Ok(ChunkId { volume, epoch: at.epoch, seq: at.seq }),
            None => Err(Error::new(Kind::Corrupt, "a map names an ancestor that the volume doesn't have")),
        }
    }
}

/// Fewer than k shards were found. With a store away that may be an outage, or an object that was collected.
fn lacks(error: &Error) -> bool {
    matches!(error.kind(), Kind::Corrupt | Kind::Unavailable)
}

/// Neighbours together: same object, same shard, little between them.
fn groups(mut fetches: Vec<Fetch>) -> Vec<Vec<Fetch>> {
    fetches.sort_by_key(|f| (f.object, f.at));
    let mut groups: Vec<Vec<Fetch>> = Vec::new();
    for fetch in fetches {
        let end = fetch.at + u64::from(fetch.len);
        let joins = groups.last().and_then(|g| Some((g.first()?, g.last()?))).is_some_and(|(first, last)| {
            first.object == fetch.object
                && first.at / SHARD_SPAN == (end - 1) / SHARD_SPAN
                && fetch.at <= last.at + u64::from(last.len) + GAP_MAX
                && end - first.at <= GET_MAX
        });
        match groups.last_mut() {
            Some(group) if joins => group.push(fetch),
            _ => groups.push(vec![fetch]),
        }
    }
    groups
}
