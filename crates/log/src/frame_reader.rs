//! Reading frames and pages: from the cache, else from where they are stored, each fetched once whoever wants it.
//!
//! Who finds a frame being fetched waits for that, and shares what comes of it: the frame, or that stores are away. What
//! else went wrong may be the other reader's own trouble, and one that was stopped midway leaves nothing: then it is
//! fetched anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::frame_ref::FrameRef;
use super::pack_lookup::{Places, Slices};
use super::stored_frames::{Ask, Counts, Source, is_sealed};
use windlass_base::format_limits::{BLOCK, FRAME_BLOCKS};
use windlass_base::rt::Rt;
use windlass_base::{ChunkId, Error, Held, Kind, Result, VolumeId};
use windlass_cache::{DiskCache, Flight, FrameCache, FrameKey, Lookup, Waiter};
use windlass_frame::{self as frame, FRAME_MAX, Place};
use windlass_keys::{FamilyKeys, KeyAccess};
use windlass_pool::Pool;
use windlass_store::Cause;

/// A data frame that a read needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    pub at: FrameRef,
    /// Its first block.
    pub block: u64,
}

/// Frames that a request brings along, beside those that it is made for, and what their memory is counted by meanwhile.
#[derive(Debug, Default)]
pub struct Along {
    pub wants: Vec<Want>,
    pub held: Option<Held>,
}

/// Frames and map pages that reads found in memory (frames alone), on the local disk, and asked stores for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct ReadCounts {
    pub memory: u64,
    pub disk: u64,
    pub stores: u64,
}

/// Reads one volume's frames and its ancestors'. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    source: Source,
    cache: FrameCache,
    /// Oldest ancestor first, the volume last.
    family: Arc<[VolumeId]>,
}

/// A frame that another read fetches, by its index in the answer.
type Waiting = (usize, Waiter);
/// A frame that this read fetches, and where in the answer it belongs.
type Fetch = (usize, Flight);

/// What a read finds in the cache.
struct Sorted {
    fetches: Vec<Fetch>,
    waiting: Vec<Waiting>,
    /// Whether something is read for the first time.
    is_news: bool,
}

impl Reader {
    pub fn new(
        rt: Rt,
        pool: Arc<Pool>,
        (cache, disk): (FrameCache, DiskCache),
        (family, keys): (Vec<VolumeId>, FamilyKeys),
        places: Arc<dyn Places>,
        slices: Slices,
    ) -> Reader {
        let counts = Arc::new(Counts::default());
        let source = Source { rt, pool, places, slices, disk, keys, counts };
        Reader { source, cache, family: family.into() }
    }

    /// The contents of these frames, in order. `news` is called before any is waited for, if one is the first that is read
    /// of it: it was not here, or fetched ahead. `along` is asked what to bring into the cache, as unread, with the first of
    /// those that are fetched here.
    pub async fn frames(
        &self,
        wants: &[Want],
        news: impl Fn(),
        along: impl Fn(&Want) -> Along,
    ) -> Result<Vec<Bytes>> {
        let mut out = vec![Bytes::new(); wants.len()];
        let mut left: Vec<usize> = (0..wants.len()).collect();
        while !left.is_empty() {
            let Sorted { fetches, waiting, is_news } = self.sort(wants, &left, &mut out)?;
            if is_news {
                news();
            }
            if let Some((first, _)) = fetches.first() {
                let along = along(&wants[*first]);
                // Not a part of the futures of reads that are answered from memory.
                Box::pin(self.fetch_with(wants, fetches, along, |index, frame| out[index] = frame)).await?;
            }
            left.clear();
            for (index, waiter) in waiting {
                match waiter.landed().await {
                    Some(Ok(frame)) => out[index] = frame,
                    Some(Err(e)) if e.is_transient() => return Err(e),
                    Some(Err(_)) | None => left.push(index),
                }
            }
        }
        Ok(out)
    }

    /// Brings these into the cache, as unread, but for those that are here or on their way.
    pub async fn fetch_ahead(&self, wants: &[Want]) -> Result<()> {
        let mut fetches = Vec::new();
        for (index, want) in wants.iter().enumerate() {
            fetches.extend(self.cache.lookup_ahead(self.key(&want.at)?).map(|flight| (index, flight)));
        }
        self.fetch(wants, wants.len(), fetches, |_, _| ()).await
    }

    /// The same, and with them those that come along, as far as they are neither here nor on their way.
    async fn fetch_with(
        &self,
        wants: &[Want],
        mut fetches: Vec<Fetch>,
        along: Along,
        came: impl FnMut(usize, Bytes),
    ) -> Result<()> {
        let all = [wants, &along.wants].concat();
        for (index, want) in all.iter().enumerate().skip(wants.len()) {
            fetches.extend(self.cache.lookup_ahead(self.key(&want.at)?).map(|flight| (index, flight)));
        }
        self.fetch(&all, wants.len(), fetches, came).await
    }

    /// Those of these frames that are neither here nor on their way.
    pub fn missing(&self, wants: &[Want]) -> Result<Vec<Want>> {
        let mut missing = Vec::new();
        for want in wants {
            if !self.cache.expects(&self.key(&want.at)?) {
                missing.push(*want);
            }
        }
        Ok(missing)
    }

    /// Whether a store is asked over a network: a request costs its latency, whatever it asks for.
    pub fn is_afar(&self) -> bool {
        self.source.pool.is_afar()
    }

    /// Bytes that the larger of the caches may hold now.
    pub fn room(&self) -> u64 {
        let disk = self.source.disk.stats().filter(|disk| disk.on).map_or(0, |disk| disk.bytes_max);
        self.cache.stats().bytes_max.max(disk)
    }

    fn key(&self, at: &FrameRef) -> Result<FrameKey> {
        Ok(FrameKey { chunk: self.chunk(at)?, offset: at.offset })
    }

    /// Takes what the cache has; the rest is fetched here or waited for.
    fn sort(&self, wants: &[Want], left: &[usize], out: &mut [Bytes]) -> Result<Sorted> {
        let (mut fetches, mut waiting, mut is_news) = (Vec::new(), Vec::new(), false);
        for &index in left {
            match self.cache.lookup(self.key(&wants[index].at)?) {
                Lookup::Hit { frame, first } => {
                    is_news |= first;
                    self.count_foreseen(first, &wants[index]);
                    out[index] = frame;
                }
                Lookup::Wait { waiter, first } => {
                    is_news |= first;
                    self.count_foreseen(first, &wants[index]);
                    waiting.push((index, waiter));
                }
                Lookup::Fetch(flight) => {
                    is_news = true;
                    fetches.push((index, flight));
                }
            }
        }
        let known = left.len() - fetches.len();
        self.source.counts.memory.fetch_add(known as u64, Ordering::Relaxed);
        Ok(Sorted { fetches, waiting, is_news })
    }

    fn count_foreseen(&self, first: bool, want: &Want) {
        if first {
            self.source.counts.foreseen.fetch_add(u64::from(want.at.len), Ordering::Relaxed);
        }
    }

    /// Stored bytes that were fetched ahead, by whomever, and then read here for the first time.
    pub fn foreseen(&self) -> u64 {
        self.source.counts.foreseen.load(Ordering::Relaxed)
    }

    /// What came from where since it was opened.
    pub fn counts(&self) -> ReadCounts {
        let count = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let Counts { memory, disk, stores, .. } = &*self.source.counts;
        ReadCounts { memory: count(memory), disk: count(disk), stores: count(stores) }
    }

    /// All are tried, whatever becomes of some. Those from `asked` on only come along: it is no matter if they fail.
    async fn fetch(
        &self,
        wants: &[Want],
        asked: usize,
        fetches: Vec<Fetch>,
        mut came: impl FnMut(usize, Bytes),
    ) -> Result<()> {
        let ask = |(index, flight): &Fetch| {
            let Want { at, block } = wants[*index];
            let FrameKey { chunk, offset } = *flight.key();
            let place = Place { chunk, offset, address: block };
            Ask { place, len: at.len, raw_max: (FRAME_BLOCKS * BLOCK) as usize, along: *index >= asked }
        };
        let asks: Vec<Ask> = fetches.iter().map(ask).collect();
        let mut fetches: Vec<Option<Fetch>> = fetches.into_iter().map(Some).collect();
        let mut failed = None;
        let take = |n: usize, frame: Result<Bytes>| match (fetches[n].take(), frame) {
            (Some((index, flight)), Ok(frame)) => {
                if index < asked {
                    came(index, frame.clone());
                }
                flight.land(frame);
            }
            (Some((index, flight)), Err(e)) => {
                flight.fail(&e);
                if index < asked {
                    failed.get_or_insert(e);
                }
            }
            (None, _) => {}
        };
        self.source.fetch(&asks, Cause::Read, take).await;
        failed.map_or(Ok(()), Err)
    }

    /// A page of a map or table, not cached here.
    pub async fn page(&self, at: &FrameRef, address: u64, cause: Cause) -> Result<Bytes> {
        let mut pages = self.pages(&[(*at, address)], cause).await;
        pages.pop().expect("as many answers as pages")
    }

    /// Pages of a map or table, each with its address, in order: neighbours take one request. Not cached here.
    pub async fn pages(&self, wanted: &[(FrameRef, u64)], cause: Cause) -> Vec<Result<Bytes>> {
        let missing = || Error::new(Kind::Internal, "a page was not looked for");
        let mut out: Vec<Result<Bytes>> = wanted.iter().map(|_| Err(missing())).collect();
        let mut asks = Vec::with_capacity(wanted.len());
        let mut indexes = Vec::with_capacity(wanted.len());
        for (index, (at, address)) in wanted.iter().enumerate() {
            match self.page_place(at, *address) {
                Ok(place) => {
                    asks.push(Ask { place, len: at.len, raw_max: FRAME_MAX, along: false });
                    indexes.push(index);
                }
                Err(e) => out[index] = Err(e),
            }
        }
        self.source.fetch(&asks, cause, |n, page| out[indexes[n]] = page).await;
        out
    }

    /// A page of the chunk table, which is never packed: the table tells where others are.
    pub async fn table_page(&self, at: &FrameRef, address: u64, cause: Cause) -> Result<Bytes> {
        let place = self.page_place(at, address)?;
        let access = self.source.keys.access(place.chunk.volume);
        let verify = |bytes: &[u8]| match access {
            KeyAccess::Sealed(_) => {
                frame::open(&Bytes::copy_from_slice(bytes), &place, FRAME_MAX, access).is_ok()
            }
            KeyAccess::Plain | KeyAccess::Locked => frame::verify(bytes, &place),
        };
        let read = || self.source.pool.read(&place.chunk, at.offset, at.len, cause, &verify);
        let stored = match read().await {
            Err(e) if e.is(Kind::Corrupt) && self.has_new_keys(&place).await? => read().await?,
            done => done?,
        };
        frame::open(&stored, &place, FRAME_MAX, access)
    }

    /// Whether the volume's data key was changed since it was opened here.
    async fn has_new_keys(&self, place: &Place) -> Result<bool> {
        let volume = place.chunk.volume;
        match is_sealed(self.source.keys.access(volume)) {
            true => self.source.places.look_for_keys(volume).await,
            false => Ok(false),
        }
    }

    fn page_place(&self, at: &FrameRef, address: u64) -> Result<Place> {
        let chunk = self.chunk(at)?;
        if at.len as usize > FRAME_MAX + frame::FRAME_HEADER + frame::SEALED_MORE {
            return Err(Error::new(Kind::Corrupt, format!("a page of {chunk} has an impossible length")));
        }
        Ok(Place { chunk, offset: at.offset, address })
    }

    /// The access to the family's volumes.
    pub fn keys(&self) -> &FamilyKeys {
        &self.source.keys
    }

    pub fn chunk(&self, at: &FrameRef) -> Result<ChunkId> {
        match self.family.get(usize::from(at.volume)) {
            Some(&volume) => Ok(ChunkId { volume, epoch: at.epoch, seq: at.seq }),
            None => Err(Error::new(Kind::Corrupt, "a map names an ancestor that the volume doesn't have")),
        }
    }
}
