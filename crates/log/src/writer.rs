//! One epoch's end of the log: gives chunks their numbers, puts several at a time, and knows how far the log is stored
//! without a gap.
//!
//! Never more than `CHUNKS_AHEAD` chunks are beyond the stored prefix: a takeover relies on it. A map chunk takes its
//! number when its first page comes, since pages name each other; it is sealed as soon as a later chunk takes the next
//! number, so that an open one never holds the prefix up.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::chunk_builder::{Draft, Encoded, MapDraft, Placed, Stamp, chunk_target, encode};
use super::frame_ref::FrameRef;
use windlass_base::format_limits::CHUNKS_AHEAD;
use windlass_base::rt::Rt;
use windlass_base::{Budget, ChunkId, Epoch, Era, Error, Held, JournalId, Kind, Lsn, Result, Seq, VolumeId};
use windlass_cache::{FrameCache, FrameKey};
use windlass_frame::{Codec, FrameKind};
use windlass_keys::VolumeKey;
use windlass_pool::{Chunk, ChunkKind, Pool, Upload};

/// Number of chunks of the largest size that the memory for chunks has room for.
const CHUNKS_IN_MEMORY: u64 = 4;
/// Payload bytes of a chunk, at least, however little memory there is.
const CHUNK_MIN: u64 = 1 << 20;
/// Number of frames of a stored chunk that are cached before others get their turn.
const CACHED_AT_ONCE: usize = 64;

/// The surroundings of a writer: what it writes for, and what it uses.
#[derive(Debug)]
pub struct WriterConfig {
    pub rt: Rt,
    pub pool: Arc<Pool>,
    pub cache: FrameCache,
    /// Memory for chunks under way.
    pub encode: Budget,
    pub volume: VolumeId,
    /// The volume's index in the list of its ancestors and itself.
    pub index: u16,
    pub epoch: Epoch,
    pub codec: Codec,
    /// The key that seals chunks; `None` when the volume is not encrypted.
    pub key: Option<VolumeKey>,
    /// Number of shards that make a chunk stored, now.
    pub w: watch::Receiver<usize>,
    /// End of the log before this epoch: the last chunk before its first one, and the last lsn up to there.
    pub start: Prefix,
}

/// The stored prefix: last chunk and last lsn up to which the log is stored without a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prefix {
    pub seq: Seq,
    pub lsn: Lsn,
}

/// A number in the log. Whoever takes one must bring its chunk.
#[derive(Debug)]
pub struct Slot {
    id: ChunkId,
    last: Lsn,
}

impl Slot {
    pub fn seq(&self) -> Seq {
        self.id.seq
    }
}

/// A data chunk that is stored, and not yet counted into the prefix.
#[derive(Debug)]
pub struct Stored {
    slot: Slot,
    pub first: Lsn,
    pub last: Lsn,
    pub placed: Vec<Placed>,
    /// Number of runs of zeros beside the frames.
    pub zeros: usize,
}

#[derive(Debug)]
struct OpenMap {
    draft: MapDraft,
    slot: Slot,
    held: Held,
}

#[derive(Debug)]
struct State {
    next: Seq,
    /// Last lsn that has been given a chunk.
    cut: Lsn,
    prefix: Prefix,
    /// Chunks that are stored while one before them is not, each with the last lsn up to it.
    beyond: BTreeMap<Seq, Lsn>,
    map: Option<OpenMap>,
    journal: JournalId,
    codec: Codec,
    /// Chunks that settled with fewer shards than the layout's w.
    thin: BTreeMap<Seq, usize>,
    uploads: usize,
    stored_bytes: u64,
    /// Bytes of map chunks, which `stored_bytes` has too.
    map_bytes: u64,
    failed: Option<Error>,
}

/// The end of the log of one epoch. See the module.
#[derive(Debug)]
pub struct Writer {
    config: WriterConfig,
    state: Mutex<State>,
    /// Wakes who waits for the prefix, or for the writer's failure. The values stand in the state alone: two chunks that
    /// land at once may wake in reverse order, and a copy here would step back.
    steps: watch::Sender<()>,
    /// Tells that a chunk began to be put.
    pub busy: Notify,
}

impl Writer {
    pub fn new(config: WriterConfig, journal: JournalId) -> Arc<Writer> {
        let start = config.start;
        let state = State {
            next: start.seq.next(),
            cut: start.lsn,
            prefix: start,
            beyond: BTreeMap::new(),
            map: None,
            journal,
            codec: config.codec,
            thin: BTreeMap::new(),
            uploads: 0,
            stored_bytes: 0,
            map_bytes: 0,
            failed: None,
        };
        Arc::new(Writer {
            config,
            state: Mutex::new(state),
            steps: watch::Sender::new(()),
            busy: Notify::new(),
        })
    }

    pub fn k(&self) -> usize {
        self.config.pool.layout().k()
    }

    /// Returns the payload bytes that a chunk is cut at under load: less than usual where several such chunks
    /// would not fit into their memory.
    pub fn chunk_target(&self) -> u64 {
        chunk_target(self.k()).min((self.config.encode.total() / CHUNKS_IN_MEMORY).max(CHUNK_MIN))
    }

    pub fn prefix(&self) -> Prefix {
        self.state.lock().prefix
    }

    /// Returns the bytes of chunks that this writer has stored, without parity.
    pub fn stored_bytes(&self) -> u64 {
        self.state.lock().stored_bytes
    }

    /// Returns the bytes of stored map chunks, which have the pages of maps and tables. `stored_bytes` has them too.
    pub fn map_bytes(&self) -> u64 {
        self.state.lock().map_bytes
    }

    /// Notes that the journal was started anew: later chunks name this id.
    pub fn set_journal(&self, id: JournalId) {
        self.state.lock().journal = id;
    }

    /// Sets the codec of chunks that begin from now on.
    pub fn set_codec(&self, codec: Codec) {
        self.state.lock().codec = codec;
    }

    /// Returns the chunks of this epoch that have fewer than `w` shards, as far as is known.
    pub fn below(&self, w: usize) -> Vec<ChunkId> {
        let state = self.state.lock();
        state.thin.iter().filter(|(_, n)| **n < w).map(|(s, _)| self.id(*s)).collect()
    }

    /// Tells whether this chunk of the epoch has fewer than `w` shards, as far as is known.
    pub fn is_below(&self, id: &ChunkId, w: usize) -> bool {
        self.state.lock().thin.get(&id.seq).is_some_and(|n| *n < w)
    }

    /// Returns how many chunks have fewer shards than the layout's `w`.
    pub fn thin(&self) -> usize {
        self.state.lock().thin.len()
    }

    /// Notes that a chunk has been completed to so many shards.
    pub fn completed(&self, id: &ChunkId, shards: usize) {
        let mut state = self.state.lock();
        if shards >= self.config.pool.w() {
            state.thin.remove(&id.seq);
        } else {
            state.thin.insert(id.seq, shards);
        }
    }

    /// Notes that the chunk was deleted: nothing of it is to be completed.
    pub fn forget(&self, id: &ChunkId) {
        if id.epoch == self.config.epoch {
            self.state.lock().thin.remove(&id.seq);
        }
    }

    /// Returns the last number that was given.
    pub fn given(&self) -> Seq {
        Seq(self.state.lock().next.0 - 1)
    }

    /// Returns how many chunks are being put.
    pub fn under_way(&self) -> usize {
        self.state.lock().uploads
    }

    /// Counts something else of this epoch that is being put as under way, while the returned value lives.
    pub fn puts(self: &Arc<Self>) -> Putting {
        self.state.lock().uploads += 1;
        self.busy.notify_one();
        Putting(self.clone())
    }

    fn id(&self, seq: Seq) -> ChunkId {
        ChunkId { volume: self.config.volume, epoch: self.config.epoch, seq }
    }

    /// Takes the next number, inside of `take`, which runs under the lock: a chunk's number and what it means
    /// become known at once. Waits while too many chunks are beyond the stored prefix. Seals the open map chunk first.
    async fn slot<T>(self: &Arc<Self>, mut take: impl FnMut(&mut State, ChunkId) -> T) -> Result<T> {
        let mut seen = self.steps.subscribe();
        loop {
            seen.mark_unchanged();
            let sealed = {
                let mut state = self.state.lock();
                if let Some(e) = &state.failed {
                    return Err(e.share());
                }
                let sealed = state.map.take();
                if state.next.0 - state.prefix.seq.0 <= CHUNKS_AHEAD {
                    let id = self.id(state.next);
                    state.next = id.seq.next();
                    state.uploads += 1;
                    self.busy.notify_one();
                    let taken = take(&mut state, id);
                    drop(state);
                    self.seal(sealed);
                    return Ok(taken);
                }
                sealed
            };
            self.seal(sealed);
            if seen.changed().await.is_err() {
                return Err(Error::new(Kind::Closed, "the log is closed"));
            }
        }
    }

    fn stamp(&self, slot: &Slot, era: Era, state: &State) -> Stamp {
        let (volume, &State { journal, codec, .. }) = (self.config.index, state);
        let seal = self.config.key.as_ref().map(|key| key.chunk(&slot.id, self.config.rt.random128()));
        Stamp { id: slot.id, volume, era, journal, k: self.k(), codec, seal }
    }

    /// Cuts one data chunk. Returns as soon as the chunk has its number; `Cutting::stored` brings it to the
    /// stores. Call this from one task only: the order of the calls is the order of the log.
    pub async fn cut(self: &Arc<Self>, draft: Draft, era: Era) -> Result<Cutting> {
        let (_, last) = draft.span().expect("a chunk is cut of at least one record");
        // Memory comes before the number: a chunk with a number that waits for memory would hold up the prefix.
        // The memory is for the payload, and beside it for its frames and parity.
        let layout = self.config.pool.layout();
        let held =
            self.config.encode.take(draft.bytes() * (1 + layout.n().div_ceil(layout.k()) as u64)).await;
        let slot = self
            .slot(|state, id| {
                state.cut = last;
                Slot { id, last }
            })
            .await?;
        Ok(Cutting { writer: self.clone(), slot, draft, era, held })
    }

    /// Waits until the prefix reaches `seq`.
    pub async fn wait_seq(&self, seq: Seq) -> Result<()> {
        self.wait(|p| p.seq >= seq).await
    }

    /// Waits until all records up to `lsn` are stored.
    pub async fn wait_lsn(&self, lsn: Lsn) -> Result<()> {
        self.wait(|p| p.lsn >= lsn).await
    }

    async fn wait(&self, enough: impl Fn(&Prefix) -> bool) -> Result<()> {
        let mut seen = self.steps.subscribe();
        loop {
            // Before the look: a step that comes after it wakes.
            seen.mark_unchanged();
            {
                let state = self.state.lock();
                if enough(&state.prefix) {
                    return Ok(());
                }
                if let Some(e) = &state.failed {
                    return Err(e.share());
                }
            }
            if seen.changed().await.is_err() {
                return Err(Error::new(Kind::Closed, "the log is closed"));
            }
        }
    }

    /// Ends the writer: it stores nothing more, and all who wait get the error.
    pub fn fail(&self, error: Error) {
        self.state.lock().failed.get_or_insert(error);
        self.steps.send_replace(());
    }

    pub fn failed(&self) -> Option<Error> {
        self.state.lock().failed.as_ref().map(Error::share)
    }

    /// Counts a chunk that is stored into the prefix, and those behind it that waited for it.
    fn landed(&self, slot: &Slot) {
        let mut state = self.state.lock();
        state.uploads -= 1;
        state.beyond.insert(slot.id.seq, slot.last);
        loop {
            let next = state.prefix.seq.next();
            let Some(lsn) = state.beyond.remove(&next) else { break };
            state.prefix = Prefix { seq: next, lsn };
        }
        drop(state);
        self.steps.send_replace(());
    }

    /// Waits until the writer has failed, and returns why.
    async fn over(&self) -> Error {
        let mut seen = self.steps.subscribe();
        loop {
            seen.mark_unchanged();
            if let Some(e) = self.failed() {
                return e;
            }
            seen.changed().await.expect("the sender is ours");
        }
    }

    /// Puts a chunk until it is stored by the `w` of the moment. When the writer fails meanwhile, what is under way is
    /// dropped: its stores may be away for ever, and its memory is the whole daemon's.
    async fn put(self: &Arc<Self>, chunk: Chunk, held: Held) -> Result<()> {
        let (id, bytes) = (chunk.id, chunk.shards.iter().map(|s| s.len() as u64).sum::<u64>());
        let of_map = if chunk.kind == ChunkKind::Map { bytes } else { 0 };
        let upload = self.config.pool.put_chunk(chunk);
        let over = std::pin::pin!(self.over());
        match select(std::pin::pin!(self.is_stored(&upload)), over).await {
            Either::Left((stored, _)) => stored?,
            Either::Right((e, _)) => return Err(e),
        }
        {
            let mut state = self.state.lock();
            state.stored_bytes += bytes;
            state.map_bytes += of_map;
        }
        self.watch_rest(id, upload, held);
        Ok(())
    }

    /// Waits until enough shards are stored; how many are enough may change meanwhile.
    async fn is_stored(&self, upload: &Upload) -> Result<()> {
        let mut w = self.config.w.clone();
        loop {
            let enough = *w.borrow_and_update();
            let waiting = std::pin::pin!(upload.wait(enough));
            let changed = std::pin::pin!(w.changed());
            match select(waiting, changed).await {
                Either::Left((done, _)) => return done,
                Either::Right((Ok(()), _)) => {}
                Either::Right((Err(_), waiting)) => return waiting.await,
            }
        }
    }

    /// Leaves the trailing shards to a task, which keeps their memory accounted for until they are settled.
    fn watch_rest(self: &Arc<Self>, id: ChunkId, upload: Upload, held: Held) {
        let full = self.config.pool.w();
        if upload.stored() < full {
            self.completed(&id, upload.stored());
        }
        let writer = self.clone();
        self.config
            .rt
            .spawn(async move {
                upload.settled().await;
                drop(held);
                if upload.stored() < full || writer.state.lock().thin.contains_key(&id.seq) {
                    writer.completed(&id, upload.stored());
                }
            })
            .detach();
    }

    /// Returns a guard that seals the open map chunk when it is dropped. Otherwise a checkpoint that is given
    /// up midway would leave that chunk open, while others wait for its place and its memory.
    pub fn seal_at_last(self: &Arc<Self>) -> impl Drop + use<> {
        struct AtLast(Arc<Writer>);
        impl Drop for AtLast {
            fn drop(&mut self) {
                self.0.seal_map();
            }
        }
        AtLast(self.clone())
    }

    /// Seals the open map chunk, if there is one: it is finished and put.
    pub fn seal_map(self: &Arc<Self>) {
        let open = self.state.lock().map.take();
        self.seal(open);
    }

    fn seal(self: &Arc<Self>, open: Option<OpenMap>) {
        let Some(OpenMap { draft, slot, held }) = open else { return };
        let writer = self.clone();
        self.config
            .rt
            .spawn(async move {
                let last = slot.last;
                let stored = match writer.config.rt.cpu(move || draft.finish(last)).await {
                    Ok(chunk) => writer.put(chunk, held).await,
                    Err(e) => Err(e),
                };
                match stored {
                    Ok(()) => writer.landed(&slot),
                    Err(e) => writer.fail(e),
                }
            })
            .detach();
    }

    /// Returns a sink that takes the pages of one checkpoint, which are of one era.
    pub fn pages(self: &Arc<Self>, era: Era) -> MapSink {
        MapSink { writer: self.clone(), era, kind: FrameKind::Map, begun: Vec::new() }
    }

    /// Appends a page, if the open map chunk is there and takes it.
    fn try_append(&self, sink: &MapSink, address: u64, raw: &Bytes) -> Option<FrameRef> {
        let target = self.chunk_target();
        let mut state = self.state.lock();
        let map = state.map.as_mut()?;
        (map.draft.era() == sink.era && !map.draft.is_full(target))
            .then(|| map.draft.append(sink.kind, address, raw.clone()))
    }

    async fn append(self: &Arc<Self>, sink: &mut MapSink, address: u64, raw: Bytes) -> Result<FrameRef> {
        loop {
            if let Some(at) = self.try_append(sink, address, &raw) {
                return Ok(at);
            }
            self.seal_map();
            // Memory for the largest chunk is taken at once: whoever holds memory must not wait for more.
            let mut held = Some(self.config.encode.take(self.chunk_target()).await);
            let era = sink.era;
            let begun = self.slot(|state, id| {
                let slot = Slot { id, last: state.cut };
                let draft = MapDraft::new(self.stamp(&slot, era, state));
                state.map = held.take().map(|held| OpenMap { draft, slot, held });
                id
            });
            sink.begun.push(begun.await?);
        }
    }
}

/// A thing that is being put, and counts as under way while this lives (`Writer::puts`).
#[derive(Debug)]
pub struct Putting(Arc<Writer>);

impl Drop for Putting {
    fn drop(&mut self) {
        self.0.state.lock().uploads -= 1;
    }
}

/// A data chunk that has its number, and is yet to be encoded and put.
#[derive(Debug)]
pub struct Cutting {
    writer: Arc<Writer>,
    slot: Slot,
    draft: Draft,
    era: Era,
    held: Held,
}

impl Cutting {
    pub fn seq(&self) -> Seq {
        self.slot.seq()
    }

    /// Encodes and puts the chunk, and returns when it is stored. Then the caller must `Writer::count` it. A
    /// failure is a failure of the whole writer.
    pub async fn stored(self) -> Result<Stored> {
        let Cutting { writer, slot, draft, era, held } = self;
        let stamp = writer.stamp(&slot, era, &writer.state.lock());
        let (first, last) = draft.span().expect("a chunk is cut of at least one record");
        let done = match writer.config.rt.cpu(move || encode(&stamp, draft)).await {
            Ok(Encoded { chunk, placed, raw, zeros }) => {
                let id = chunk.id;
                let put = writer.put(chunk, held).await;
                if put.is_ok() {
                    writer.cache(id, &placed, raw).await;
                }
                put.map(|()| (placed, zeros))
            }
            Err(e) => Err(e),
        };
        match done {
            Ok((placed, zeros)) => Ok(Stored { slot, first, last, placed, zeros }),
            Err(e) => {
                writer.fail(e.share());
                Err(e)
            }
        }
    }
}

impl Writer {
    /// Puts the frames of a stored chunk into the cache, since what was written is likely to be read.
    async fn cache(&self, chunk: ChunkId, placed: &[Placed], raw: Vec<Bytes>) {
        for (n, (p, raw)) in placed.iter().zip(raw).enumerate() {
            if n % CACHED_AT_ONCE == 0 {
                self.config.rt.give_way().await;
            }
            self.config.cache.insert(FrameKey { chunk, offset: p.at.offset }, raw);
        }
    }

    /// Lets the prefix go over a stored chunk. Call this when the overlay knows where its blocks are, not before.
    pub fn count(&self, stored: &Stored) {
        self.landed(&stored.slot);
    }
}

/// A sink for the pages of one checkpoint (`Writer::pages`).
#[derive(Debug)]
pub struct MapSink {
    writer: Arc<Writer>,
    era: Era,
    kind: FrameKind,
    begun: Vec<ChunkId>,
}

impl MapSink {
    /// Returns the chunks that were begun for this sink since the last call. One of them may have been sealed
    /// before a page came into it.
    pub fn begun(&mut self) -> Vec<ChunkId> {
        std::mem::take(&mut self.begun)
    }

    /// Appends a page of a map.
    pub async fn append(&mut self, address: u64, raw: Bytes) -> Result<FrameRef> {
        self.writer.clone().append(self, address, raw).await
    }

    /// Appends a page of the tables.
    pub async fn table(&mut self, address: u64, raw: Bytes) -> Result<FrameRef> {
        self.kind = FrameKind::Table;
        let done = self.writer.clone().append(self, address, raw).await;
        self.kind = FrameKind::Map;
        done
    }
}
