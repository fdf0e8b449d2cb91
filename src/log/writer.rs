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
use crate::base::format_limits::CHUNKS_AHEAD;
use crate::base::rt::Rt;
use crate::base::{Budget, ChunkId, Epoch, Era, Error, Held, JournalId, Kind, Lsn, Result, Seq, VolumeId};
use crate::cache::{FrameCache, FrameKey};
use crate::frame::{Codec, FrameKind};
use crate::keys::VolumeKey;
use crate::pool::{Chunk, ChunkKind, Pool, Upload};

/// Of the largest size.
const CHUNKS_IN_MEMORY: u64 = 4;
/// However little memory there is.
const CHUNK_MIN: u64 = 1 << 20;
/// Frames of a stored chunk that are cached before others get their turn.
const CACHED_AT_ONCE: usize = 64;

/// What a writer stands on.
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
    /// Of an encrypted volume.
    pub key: Option<VolumeKey>,
    /// Shards that make a chunk stored, now.
    pub w: watch::Receiver<usize>,
    /// Where the log stands: the last chunk before this epoch's first, and its last lsn.
    pub start: Prefix,
}

/// How far the log is stored without a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prefix {
    pub seq: Seq,
    pub lsn: Lsn,
}

/// A number in the log; whoever takes one must bring its chunk.
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
    /// Runs of zeros beside them.
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
    /// Stored, with a gap before them.
    beyond: BTreeMap<Seq, Lsn>,
    map: Option<OpenMap>,
    journal: JournalId,
    codec: Codec,
    /// Chunks that settled with fewer shards than the layout's w.
    thin: BTreeMap<Seq, usize>,
    uploads: usize,
    stored_bytes: u64,
    /// Of those, what map chunks have.
    map_bytes: u64,
    failed: Option<Error>,
}

/// See the module.
#[derive(Debug)]
pub struct Writer {
    config: WriterConfig,
    state: Mutex<State>,
    prefix: watch::Sender<Prefix>,
    /// A chunk began to be put.
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
            prefix: watch::Sender::new(start),
            busy: Notify::new(),
        })
    }

    pub fn k(&self) -> usize {
        self.config.pool.layout().k()
    }

    /// Payload bytes that a chunk is cut at under load: less than usual where several would not fit the memory for them.
    pub fn chunk_target(&self) -> u64 {
        chunk_target(self.k()).min((self.config.encode.total() / CHUNKS_IN_MEMORY).max(CHUNK_MIN))
    }

    pub fn prefix(&self) -> Prefix {
        self.state.lock().prefix
    }

    /// Sees every step of the prefix, and that the writer failed.
    pub fn watch(&self) -> watch::Receiver<Prefix> {
        self.prefix.subscribe()
    }

    /// Bytes of chunks put by this writer, without parity.
    pub fn stored_bytes(&self) -> u64 {
        self.state.lock().stored_bytes
    }

    /// Of those, what maps and tables took.
    pub fn map_bytes(&self) -> u64 {
        self.state.lock().map_bytes
    }

    /// The journal was started anew: later chunks name it.
    pub fn set_journal(&self, id: JournalId) {
        self.state.lock().journal = id;
    }

    /// Chunks that begin from now on are compressed so.
    pub fn set_codec(&self, codec: Codec) {
        self.state.lock().codec = codec;
    }

    /// Chunks of this epoch that have fewer than `w` shards as far as is known.
    pub fn below(&self, w: usize) -> Vec<ChunkId> {
        let state = self.state.lock();
        state.thin.iter().filter(|(_, n)| **n < w).map(|(s, _)| self.id(*s)).collect()
    }

    /// Whether this one has.
    pub fn is_below(&self, id: &ChunkId, w: usize) -> bool {
        self.state.lock().thin.get(&id.seq).is_some_and(|n| *n < w)
    }

    /// How many chunks have fewer than the layout's `w`.
    pub fn thin(&self) -> usize {
        self.state.lock().thin.len()
    }

    /// A chunk has been completed to so many shards.
    pub fn completed(&self, id: &ChunkId, shards: usize) {
        let mut state = self.state.lock();
        if shards >= self.config.pool.w() {
            state.thin.remove(&id.seq);
        } else {
            state.thin.insert(id.seq, shards);
        }
    }

    /// The chunk was deleted: nothing of it is to be completed.
    pub fn forget(&self, id: &ChunkId) {
        if id.epoch == self.config.epoch {
            self.state.lock().thin.remove(&id.seq);
        }
    }

    /// The last number that was given.
    pub fn given(&self) -> Seq {
        Seq(self.state.lock().next.0 - 1)
    }

    /// Chunks that are being put.
    pub fn under_way(&self) -> usize {
        self.state.lock().uploads
    }

    /// Something else of this epoch is being put: it counts as under way while this lives.
    pub fn puts(self: &Arc<Self>) -> Putting {
        self.state.lock().uploads += 1;
        self.busy.notify_one();
        Putting(self.clone())
    }

    fn id(&self, seq: Seq) -> ChunkId {
        ChunkId { volume: self.config.volume, epoch: self.config.epoch, seq }
    }

    /// The next number, given inside `take`, which runs under the lock: a chunk's number and what it means become known at
    /// once. Waits while too many chunks are beyond the stored prefix. The open map chunk is sealed first.
    async fn slot<T>(self: &Arc<Self>, mut take: impl FnMut(&mut State, ChunkId) -> T) -> Result<T> {
        let mut seen = self.prefix.subscribe();
        loop {
            seen.borrow_and_update();
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

    /// Cuts one data chunk. Returns as soon as it has its number; `stored` resolves it. Call from one task only: the
    /// order of the calls is the order of the log.
    pub async fn cut(self: &Arc<Self>, draft: Draft, era: Era) -> Result<Cutting> {
        let (_, last) = draft.span().expect("a chunk is cut of at least one record");
        // Beside the payload: its frames and parity.
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
        let mut seen = self.prefix.subscribe();
        loop {
            let now = *seen.borrow_and_update();
            if enough(&now) {
                return Ok(());
            }
            if let Some(e) = &self.state.lock().failed {
                return Err(e.share());
            }
            if seen.changed().await.is_err() {
                return Err(Error::new(Kind::Closed, "the log is closed"));
            }
        }
    }

    /// Nothing more is stored; all who wait get the error.
    pub fn fail(&self, error: Error) {
        self.state.lock().failed.get_or_insert(error);
        self.prefix.send_modify(|_| {});
    }

    pub fn failed(&self) -> Option<Error> {
        self.state.lock().failed.as_ref().map(Error::share)
    }

    /// The chunk is stored: counts it, and those that waited for it.
    fn landed(&self, slot: &Slot) {
        let mut state = self.state.lock();
        state.uploads -= 1;
        state.beyond.insert(slot.id.seq, slot.last);
        loop {
            let next = state.prefix.seq.next();
            let Some(lsn) = state.beyond.remove(&next) else { break };
            state.prefix = Prefix { seq: next, lsn };
        }
        let prefix = state.prefix;
        drop(state);
        self.prefix.send_replace(prefix);
    }

    /// Returns, with the reason, when nothing more is to be stored.
    async fn over(&self) -> Error {
        let mut seen = self.prefix.subscribe();
        loop {
            seen.borrow_and_update();
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

    /// The trailing shards go on by themselves; their memory stays accounted for.
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

    /// A checkpoint that is given up midway leaves its open map chunk: others wait for its place and its memory. Let go
    /// of when this is dropped.
    pub fn seal_at_last(self: &Arc<Self>) -> impl Drop + use<> {
        struct AtLast(Arc<Writer>);
        impl Drop for AtLast {
            fn drop(&mut self) {
                self.0.seal_map();
            }
        }
        AtLast(self.clone())
    }

    /// Lets the open map chunk go, if there is one.
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

    /// Where a checkpoint's pages go; they are of one era.
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
            // For the worst case at once: a holder must not wait for more.
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

/// See `Writer::puts`.
#[derive(Debug)]
pub struct Putting(Arc<Writer>);

impl Drop for Putting {
    fn drop(&mut self) {
        self.0.state.lock().uploads -= 1;
    }
}

/// A data chunk that has its number.
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

    /// Encodes and puts it; returns when it is stored. Then `Writer::count` it. A failure is the whole writer's.
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
    /// What was written is likely to be read.
    async fn cache(&self, chunk: ChunkId, placed: &[Placed], raw: Vec<Bytes>) {
        for (n, (p, raw)) in placed.iter().zip(raw).enumerate() {
            if n % CACHED_AT_ONCE == 0 {
                self.config.rt.give_way().await;
            }
            self.config.cache.insert(FrameKey { chunk, offset: p.at.offset }, raw);
        }
    }

    /// After the overlay knows where a stored chunk's blocks are: now the prefix may go over it.
    pub fn count(&self, stored: &Stored) {
        self.landed(&stored.slot);
    }
}

/// See `Writer::pages`.
#[derive(Debug)]
pub struct MapSink {
    writer: Arc<Writer>,
    era: Era,
    kind: FrameKind,
    begun: Vec<ChunkId>,
}

impl MapSink {
    /// Chunks that were begun for it since the last call; one may have been sealed before a page came into it.
    pub fn begun(&mut self) -> Vec<ChunkId> {
        std::mem::take(&mut self.begun)
    }

    /// A page of a map.
    pub async fn append(&mut self, address: u64, raw: Bytes) -> Result<FrameRef> {
        self.writer.clone().append(self, address, raw).await
    }

    /// A page of the tables.
    pub async fn table(&mut self, address: u64, raw: Bytes) -> Result<FrameRef> {
        self.kind = FrameKind::Table;
        let done = self.writer.clone().append(self, address, raw).await;
        self.kind = FrameKind::Map;
        done
    }
}
