//! Reading frames: from the cache, else by one ranged get for neighbours, each frame fetched once whoever wants it.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};

use super::frame_ref::FrameRef;
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
}

/// A frame that this read fetches, and where in the answer it belongs.
struct Fetch {
    flight: Flight,
    len: u32,
    block: u64,
    index: usize,
}

/// A frame that another read fetches, by its index in the answer.
type Waiting = (usize, Waiter);

impl Reader {
    pub fn new(pool: Arc<Pool>, cache: FrameCache, family: Vec<VolumeId>) -> Reader {
        Reader { pool, cache, family: family.into() }
    }

    /// The contents of these frames, in order.
    pub async fn frames(&self, wants: &[Want]) -> Result<Vec<Bytes>> {
        let mut out = vec![Bytes::new(); wants.len()];
        let mut left: Vec<usize> = (0..wants.len()).collect();
        while !left.is_empty() {
            let (fetches, waiting) = self.sort(wants, &left, &mut out)?;
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
                Lookup::Fetch(flight) => fetches.push(Fetch { flight, len: at.len, block, index }),
            }
        }
        Ok((fetches, waiting))
    }

    /// One ranged get over neighbours of one shard.
    async fn fetch(&self, group: Vec<Fetch>) -> Result<Vec<(usize, Bytes)>> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(Vec::new()) };
        let chunk = first.flight.key().chunk;
        let from = first.flight.key().offset;
        let len = last.flight.key().offset + u64::from(last.len) - from;
        let places: Vec<(usize, usize, Place)> = group
            .iter()
            .map(|f| {
                let offset = f.flight.key().offset;
                let at = (offset - from) as usize;
                (at, at + f.len as usize, Place { chunk, offset, address: f.block })
            })
            .collect();
        let verify = |bytes: &[u8]| {
            places.iter().all(|(a, b, place)| bytes.get(*a..*b).is_some_and(|f| frame::verify(f, place)))
        };
        let bytes = self.pool.read(&chunk, from, len as u32, Cause::Read, &verify).await?;
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

    /// A page of a map or table, not cached here.
    pub async fn page(&self, at: &FrameRef, address: u64, cause: Cause) -> Result<Bytes> {
        let chunk = self.chunk(at)?;
        if at.len as usize > FRAME_MAX + frame::FRAME_HEADER {
            return Err(Error::new(Kind::Corrupt, format!("a page of {chunk} has an impossible length")));
        }
        let place = Place { chunk, offset: at.offset, address };
        let verify = |bytes: &[u8]| frame::verify(bytes, &place);
        let stored = self.pool.read(&chunk, at.offset, at.len, cause, &verify).await?;
        frame::open(&stored, &place, FRAME_MAX)
    }

    pub fn chunk(&self, at: &FrameRef) -> Result<ChunkId> {
        match self.family.get(usize::from(at.volume)) {
            Some(&volume) => Ok(ChunkId { volume, epoch: at.epoch, seq: at.seq }),
            None => Err(Error::new(Kind::Corrupt, "a map names an ancestor that the volume doesn't have")),
        }
    }
}

/// Neighbours together: same chunk, same shard, little between them.
fn groups(mut fetches: Vec<Fetch>) -> Vec<Vec<Fetch>> {
    fetches.sort_by_key(|f| (f.flight.key().chunk, f.flight.key().offset));
    let mut groups: Vec<Vec<Fetch>> = Vec::new();
    for fetch in fetches {
        let key = fetch.flight.key();
        let end = key.offset + u64::from(fetch.len);
        let joins = groups.last().and_then(|g| Some((g.first()?, g.last()?))).is_some_and(|(first, last)| {
            let (a, b) = (first.flight.key(), last.flight.key());
            a.chunk == key.chunk
                && a.offset / SHARD_SPAN == (end - 1) / SHARD_SPAN
                && key.offset <= b.offset + u64::from(last.len) + GAP_MAX
                && end - a.offset <= GET_MAX
        });
        match groups.last_mut() {
            Some(group) if joins => group.push(fetch),
            _ => groups.push(vec![fetch]),
        }
    }
    groups
}
