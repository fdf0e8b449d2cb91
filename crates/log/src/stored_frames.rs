//! Fetching stored frames: from the local disk, else from where each lies by now, neighbours by one ranged get.
//!
//! What was packed is looked for in its pack, and what isn't where it should be by a newer table: collection goes on
//! while others read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _};

use super::pack::Slice;
use super::pack_lookup::{InPack, Places, Slices};
use windlass_base::format_limits::{SHARD_SPAN, SHARD_TARGET};
use windlass_base::rt::Rt;
use windlass_base::{ChunkId, Error, Kind, Result};
use windlass_cache::{DiskCache, FrameKey};
use windlass_frame::{self as frame, Place};
use windlass_keys::{FamilyKeys, KeyAccess};
use windlass_pool::Pool;
use windlass_store::Cause;

/// Bytes between two wanted frames that are rather read than left out by a second get.
const GAP_MAX: u64 = 32 << 10;
/// Bytes one ranged get asks for, at most: about a whole shard.
const GET_MAX: u64 = SHARD_TARGET + (128 << 10);
/// Gets of one read that are under way at once.
const GETS_MAX: usize = 32;
/// Opening less than this is done at once.
const OPEN_INLINE: usize = 256 << 10;

/// A frame that is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub place: Place,
    /// Bytes as first stored: what was packed may have become fewer.
    pub len: u32,
    /// Bytes of its contents, at most.
    pub raw_max: usize,
    /// It is wanted only if a request for others brings it along.
    pub along: bool,
}

impl Ask {
    fn key(&self) -> FrameKey {
        FrameKey { chunk: self.place.chunk, offset: self.place.offset }
    }
}

/// Where frames come from: the local disk, else the stores. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub rt: Rt,
    pub pool: Arc<Pool>,
    pub places: Arc<dyn Places>,
    pub slices: Slices,
    pub disk: DiskCache,
    pub keys: FamilyKeys,
    pub counts: Arc<Counts>,
}

/// Where frames came from.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub memory: AtomicU64,
    pub disk: AtomicU64,
    pub stores: AtomicU64,
    /// Stored bytes of frames that had been fetched ahead, and then were asked for.
    pub foreseen: AtomicU64,
}

/// Where a frame lies by now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Spot {
    object: ChunkId,
    at: u64,
    len: u32,
    /// Of what was asked for.
    index: usize,
}

/// What became of each that was asked for.
type Opened = Vec<(usize, Result<Bytes>)>;

impl Source {
    /// Fetches all of these; `take` is given each one's contents, or why there are none, as they come. Of those that only come
    /// along with others it may hear nothing.
    pub async fn fetch(&self, asks: &[Ask], cause: Cause, mut take: impl FnMut(usize, Result<Bytes>)) {
        let left = self.look_here(asks, &mut take).await;
        let asked = left.iter().filter(|index| !asks[**index].along).count();
        if asked == 0 {
            return;
        }
        self.counts.stores.fetch_add(asked as u64, Ordering::Relaxed);
        self.load_slices(asks, &left).await;
        let mut spots = Vec::with_capacity(left.len());
        for index in left {
            let ask = &asks[index];
            match self.locate(ask).await {
                Ok((object, at, len)) => spots.push(Spot { object, at, len, index }),
                Err(_) if ask.along => {}
                Err(e) => take(index, Err(e)),
            }
        }
        let mut groups = groups(spots);
        groups.retain(|group| group.iter().any(|spot| !asks[spot.index].along));
        let gets: Vec<_> = groups.into_iter().map(|group| self.get(asks, group, cause).boxed()).collect();
        let mut gets = stream::iter(gets).buffer_unordered(GETS_MAX);
        while let Some(done) = gets.next().await {
            done.into_iter().for_each(|(index, frame)| take(index, frame));
        }
    }

    /// Takes what the local disk has; the indexes of the rest.
    async fn look_here(&self, asks: &[Ask], take: &mut impl FnMut(usize, Result<Bytes>)) -> Vec<usize> {
        let (mut here, mut left): (Vec<usize>, Vec<usize>) =
            (0..asks.len()).partition(|index| self.disk.has(&asks[*index].key()));
        // It is near already.
        here.retain(|index| !asks[*index].along);
        let reads: Vec<_> = here.into_iter().map(|index| self.one_here(index, asks[index]).boxed()).collect();
        let mut reads = stream::iter(reads).buffer_unordered(GETS_MAX);
        while let Some((index, frame)) = reads.next().await {
            match frame {
                Some(frame) => take(index, Ok(frame)),
                None => left.push(index),
            }
        }
        left
    }

    async fn one_here(&self, index: usize, ask: Ask) -> (usize, Option<Bytes>) {
        let Some(stored) = self.disk.get(&ask.key()).await else { return (index, None) };
        match frame::open(&stored, &ask.place, ask.raw_max, self.keys.access(ask.place.chunk.volume)) {
            Ok(frame) => {
                self.counts.disk.fetch_add(1, Ordering::Relaxed);
                (index, Some(frame))
            }
            Err(_) => {
                self.disk.forget(&ask.key());
                (index, None)
            }
        }
    }

    /// What was read for a user is kept on the local disk, unless the cache there was emptied since.
    fn keep(&self, ask: &Ask, stored: &[u8], cause: Cause, emptied: u64) {
        if cause == Cause::Read {
            self.disk.put_since(emptied, &ask.key(), stored);
        }
    }

    /// The indexes of all packs that are needed, at once. What fails is met again by who needs it.
    async fn load_slices(&self, asks: &[Ask], left: &[usize]) {
        let chunks: BTreeSet<ChunkId> = left.iter().map(|i| asks[*i].place.chunk).collect();
        let packed: BTreeSet<InPack> = chunks.iter().filter_map(|c| self.places.find(c)).collect();
        let unknown: Vec<InPack> = packed.into_iter().filter(|p| self.slices.get(p).is_none()).collect();
        if unknown.len() > 1 {
            let loads: Vec<_> = unknown.into_iter().map(|packed| self.slice(packed).boxed()).collect();
            let _ = stream::iter(loads).buffer_unordered(GETS_MAX).collect::<Vec<_>>().await;
        }
    }

    /// The object that has the frame by now, where, and in how many bytes.
    async fn locate(&self, ask: &Ask) -> Result<(ChunkId, u64, u32)> {
        match self.places.find(&ask.place.chunk) {
            Some(packed) => self.unpack(packed, ask).await,
            None => Ok((ask.place.chunk, ask.place.offset, ask.len)),
        }
    }

    /// Where a chunk's frame lies in a pack, or in the chunk if another has found it packed anew meanwhile.
    async fn unpack(&self, mut packed: InPack, ask: &Ask) -> Result<(ChunkId, u64, u32)> {
        let Place { chunk, offset, .. } = &ask.place;
        loop {
            let slice = match self.slices.get(&packed) {
                Some(slice) => Ok(slice),
                None => self.slice(packed).await,
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
                        slice.find(*offset).filter(|_| (slice.epoch, slice.seq) == (chunk.epoch, chunk.seq));
                    let moved = moved.ok_or_else(missing)?;
                    return Ok((packed.pack, moved.to, moved.len));
                }
                Err(e) if lacks(&e) && self.places.look_again(chunk, Some(packed)).await? => {
                    match self.places.find(chunk) {
                        Some(newer) => packed = newer,
                        None => return Ok((*chunk, *offset, ask.len)),
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    async fn slice(&self, packed: InPack) -> Result<Arc<Slice>> {
        let InPack { pack, at, len } = packed;
        let (access, emptied) = (self.keys.access(pack.volume), self.slices.emptied());
        let sound = |bytes: &[u8]| Slice::verify(bytes, &pack, at, access);
        let bytes = match self.pool.read(&pack, at, len, Cause::Read, &sound).await {
            Err(e) if is_sealed(access) && lacks(&e) && self.places.look_for_keys(pack.volume).await? => {
                self.pool.read(&pack, at, len, Cause::Read, &sound).await?
            }
            done => done?,
        };
        // Where its frames begin on the disk, reading needs not: the caller knows.
        let slice = Arc::new(Slice { addresses: Vec::new(), ..Slice::open(&bytes, &pack, at, access)? });
        self.slices.put_since(emptied, packed, slice.clone());
        Ok(slice)
    }

    /// One frame's stored bytes, wherever it is. `forged`: bytes came whose checksum was right and whose tag was not, so that
    /// each answer is judged by its tag.
    async fn stored(&self, ask: &Ask, cause: Cause, forged: bool) -> Result<Bytes> {
        let chunk = &ask.place.chunk;
        let verify = |bytes: &[u8]| match forged {
            true => self.opened(&Bytes::copy_from_slice(bytes), ask).is_ok(),
            false => frame::verify(bytes, &ask.place),
        };
        loop {
            let was = self.places.find(chunk);
            let (object, at, len) = match was {
                Some(packed) => self.unpack(packed, ask).await?,
                None => (*chunk, ask.place.offset, ask.len),
            };
            match self.pool.read(&object, at, len, cause, &verify).await {
                Err(e) if lacks(&e) && self.places.look_again(chunk, was).await? => {}
                done => return done,
            }
        }
    }

    /// One ranged get over neighbours of one shard.
    async fn get(&self, asks: &[Ask], group: Vec<Spot>, cause: Cause) -> Opened {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Vec::new() };
        let (object, from) = (first.object, first.at);
        let len = last.at - from + u64::from(last.len);
        let part = |s: &Spot| (s.at - from) as usize..(s.at - from) as usize + s.len as usize;
        let verify = |bytes: &[u8]| {
            let sound = |s: &Spot| bytes.get(part(s)).is_some_and(|f| frame::verify(f, &asks[s.index].place));
            group.iter().all(sound)
        };
        let emptied = self.disk.emptied();
        match self.pool.read(&object, from, len as u32, cause, &verify).await {
            Ok(bytes) => {
                group.iter().for_each(|s| self.keep(&asks[s.index], &bytes[part(s)], cause, emptied));
                let frames = group.iter().map(|s| (s.index, asks[s.index], bytes.slice(part(s)))).collect();
                let mut opened = self.open(frames, bytes.len()).await;
                for (index, frame) in &mut opened {
                    if !asks[*index].along && self.is_forged(frame, &asks[*index]) {
                        *frame = self.one_judged(&asks[*index], cause).await;
                    }
                }
                opened
            }
            // Perhaps collected meanwhile, or one of them is damaged: each is looked for by itself.
            Err(e) if lacks(&e) => self.each(asks, &group, cause).await,
            Err(e) => group.iter().map(|s| (s.index, Err(e.share()))).collect(),
        }
    }

    /// Each by itself. The first tells whether the stores are away: then the others need not be tried.
    async fn each(&self, asks: &[Ask], group: &[Spot], cause: Cause) -> Opened {
        let asked: Vec<Spot> = group.iter().filter(|spot| !asks[spot.index].along).copied().collect();
        let Some((first, rest)) = asked.split_first() else { return Vec::new() };
        let first = self.one(first.index, asks[first.index], cause).await;
        let mut out: Opened = match &first.1 {
            Err(e) if e.is_transient() => rest.iter().map(|s| (s.index, Err(e.share()))).collect(),
            _ => {
                let others: Vec<_> =
                    rest.iter().map(|s| self.one(s.index, asks[s.index], cause).boxed()).collect();
                stream::iter(others).buffer_unordered(GETS_MAX).collect().await
            }
        };
        out.push(first);
        out
    }

    async fn one(&self, index: usize, ask: Ask, cause: Cause) -> (usize, Result<Bytes>) {
        let emptied = self.disk.emptied();
        let stored = self.stored(&ask, cause, false).await;
        if let Ok(stored) = &stored {
            self.keep(&ask, stored, cause, emptied);
        }
        let opened = stored.and_then(|stored| self.opened(&stored, &ask));
        (index, if self.is_forged(&opened, &ask) { self.one_judged(&ask, cause).await } else { opened })
    }

    /// Whether an encrypted volume's frame was not what its owner stored: other shards may make it up.
    fn is_forged(&self, opened: &Result<Bytes>, ask: &Ask) -> bool {
        let sealed = matches!(self.keys.access(ask.place.chunk.volume), KeyAccess::Sealed(_));
        // A number of a key that the volume does not have is as false as a false tag.
        sealed && opened.as_ref().is_err_and(|e| e.is(Kind::Corrupt) || e.is(Kind::Denied))
    }

    async fn one_judged(&self, ask: &Ask, cause: Cause) -> Result<Bytes> {
        // Or its volume's data key was changed since it was opened here.
        if let Err(error) = self.places.look_for_keys(ask.place.chunk.volume).await {
            tracing::debug!(chunk = %ask.place.chunk, %error, "whether there is a newer data key is not known");
        }
        self.opened(&self.stored(ask, cause, true).await?, ask)
    }

    fn opened(&self, stored: &Bytes, ask: &Ask) -> Result<Bytes> {
        frame::open_verified(stored, &ask.place, ask.raw_max, self.keys.access(ask.place.chunk.volume))
    }

    /// Contents of verified frames that came in one answer of so many bytes.
    async fn open(&self, frames: Vec<(usize, Ask, Bytes)>, answer: usize) -> Opened {
        let indexes: Vec<usize> = frames.iter().map(|(index, ..)| *index).collect();
        let source = self.clone();
        let job = move || -> Opened {
            let open = |(index, ask, stored): (usize, Ask, Bytes)| {
                let raw = source.opened(&stored, &ask);
                // An uncompressed frame is a slice of the whole answer, which a cache must not keep.
                // What was unsealed is its own memory.
                let sealed = matches!(source.keys.access(ask.place.chunk.volume), KeyAccess::Sealed(_));
                let copied = |raw: &Bytes| !sealed && raw.len() < answer / 2;
                let own = |raw: Bytes| if copied(&raw) { Bytes::copy_from_slice(&raw) } else { raw };
                (index, raw.map(own))
            };
            frames.into_iter().map(open).collect()
        };
        if answer <= OPEN_INLINE {
            return job();
        }
        match self.rt.cpu(job).await {
            Ok(opened) => opened,
            Err(e) => indexes.into_iter().map(|index| (index, Err(e.share()))).collect(),
        }
    }
}

pub(super) fn is_sealed(access: &KeyAccess) -> bool {
    matches!(access, KeyAccess::Sealed(_))
}

/// Fewer than k shards were found. With a store away that may be an outage, or an object that was collected.
fn lacks(error: &Error) -> bool {
    matches!(error.kind(), Kind::Corrupt | Kind::Unavailable)
}

/// Neighbours together: same object, same shard, little between them.
fn groups(mut spots: Vec<Spot>) -> Vec<Vec<Spot>> {
    spots.sort();
    let mut groups: Vec<Vec<Spot>> = Vec::new();
    for spot in spots {
        // A damaged map may name any place: what no shard has is refused by the pool.
        let end = spot.at.saturating_add(spot.len.into());
        let joins = groups.last().and_then(|g| Some((g.first()?, g.last()?))).is_some_and(|(first, last)| {
            first.object == spot.object
                && first.at / SHARD_SPAN == end.saturating_sub(1) / SHARD_SPAN
                && spot.at <= last.at.saturating_add(u64::from(last.len) + GAP_MAX)
                && end - first.at <= GET_MAX
        });
        match groups.last_mut() {
            Some(group) if joins => group.push(spot),
            _ => groups.push(vec![spot]),
        }
    }
    groups
}
