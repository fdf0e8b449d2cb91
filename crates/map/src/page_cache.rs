//! Pages in memory, under a bound in bytes, shared by all volumes of a daemon: clones find their parents' pages here.
//!
//! A page that many want is loaded once. Whoever comes first loads it; if it gives up midway, the next one does.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::page::{Page, address};
use windlass_base::{ChunkId, FastMap, Result};
use windlass_log::FrameRef;

/// Where pages are read from: one volume's chunks and those of its ancestors.
#[async_trait]
pub trait Pages: Send + Sync {
    /// The chunk that a frame lies in: resolves the volume index.
    fn chunk(&self, at: &FrameRef) -> Result<ChunkId>;
    /// The page's contents (a frame of kind `Map`, its place's address is `address`).
    async fn load(&self, at: &FrameRef, address: u64) -> Result<Bytes>;
    /// Several pages, each with its address, in order; those that lie together by one request.
    async fn load_many(&self, wanted: &[(FrameRef, u64)]) -> Vec<Result<Bytes>> {
        let loads = wanted.iter().map(|(at, address)| self.load(at, *address));
        futures::future::join_all(loads).await
    }
}

/// What became of look-ups so far, and what is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    pub hits: u64,
    pub misses: u64,
    pub pages: usize,
    pub bytes: usize,
}

/// Chunk, offset, address: a page asked for at another place of a tree is not found, and does not verify when loaded.
type Key = (ChunkId, u64, u64);
type Hasher = std::hash::BuildHasherDefault<xxhash_rust::xxh3::Xxh3Default>;
type Waiter = oneshot::Sender<Result<Arc<Page>>>;

#[derive(Debug)]
struct State {
    pages: LruCache<Key, Arc<Page>, Hasher>,
    loading: FastMap<Key, Vec<Waiter>>,
    stats: CacheStats,
    bytes_max: usize,
    /// Number of times that the cache was emptied: a page that was asked for before is not kept.
    emptied: u64,
}

/// See the module.
#[derive(Debug)]
pub struct PageCache {
    state: Mutex<State>,
}

enum Role {
    Have(Arc<Page>),
    Wait(oneshot::Receiver<Result<Arc<Page>>>),
    /// With `State::emptied`.
    Load(u64),
}

/// Of the one who loads: whatever happens to it, nobody waits for ever.
struct Loading<'a> {
    cache: &'a PageCache,
    key: Key,
    /// `State::emptied` when the page was asked for.
    emptied: u64,
}

impl PageCache {
    pub fn new(bytes_max: usize) -> PageCache {
        let state = State {
            pages: LruCache::unbounded_with_hasher(Hasher::default()),
            loading: FastMap::default(),
            stats: CacheStats::default(),
            bytes_max,
            emptied: 0,
        };
        PageCache { state: Mutex::new(state) }
    }

    pub fn stats(&self) -> CacheStats {
        self.state.lock().stats
    }

    /// Drops all pages, and keeps none that is on its way: stores may have given false ones. Who waits for one asks again.
    pub fn empty(&self) {
        let mut state = self.state.lock();
        state.pages.clear();
        state.loading.clear();
        (state.stats.pages, state.stats.bytes) = (0, 0);
        state.emptied += 1;
    }

    /// Changes the bound; what is over it goes at once.
    pub fn resize(&self, bytes_max: usize) {
        let mut state = self.state.lock();
        state.bytes_max = bytes_max;
        state.shrink();
    }

    /// The page of this level whose first block is `first`.
    pub(super) async fn get(
        &self,
        pages: &dyn Pages,
        at: &FrameRef,
        level: u8,
        first: u64,
    ) -> Result<Arc<Page>> {
        let key = (pages.chunk(at)?, at.offset, address(level, first));
        loop {
            match self.role(key) {
                Role::Have(page) => return Ok(page),
                Role::Wait(answer) => {
                    if let Ok(result) = answer.await {
                        return result;
                    }
                }
                Role::Load(emptied) => {
                    let loading = Loading { cache: self, key, emptied };
                    let result = load(pages, at, level, first).await;
                    return loading.finish(result);
                }
            }
        }
    }

    /// The same, if it is in memory.
    pub(super) fn here(
        &self,
        pages: &dyn Pages,
        at: &FrameRef,
        level: u8,
        first: u64,
    ) -> Result<Option<Arc<Page>>> {
        let key = (pages.chunk(at)?, at.offset, address(level, first));
        let mut state = self.state.lock();
        let page = state.pages.get(&key).cloned();
        state.stats.hits += u64::from(page.is_some());
        Ok(page)
    }

    /// Pages of one level, each with its first block, in order. What is missing is loaded at once.
    pub(super) async fn get_many(
        &self,
        pages: &dyn Pages,
        level: u8,
        wanted: &[(FrameRef, u64)],
    ) -> Result<Vec<Result<Arc<Page>>>> {
        let mut out: Vec<Option<Result<Arc<Page>>>> = wanted.iter().map(|_| None).collect();
        let (mut loading, mut waiting) = (Vec::new(), Vec::new());
        for (index, (at, first)) in wanted.iter().enumerate() {
            let key = (pages.chunk(at)?, at.offset, address(level, *first));
            match self.role(key) {
                Role::Have(page) => out[index] = Some(Ok(page)),
                Role::Wait(answer) => waiting.push((index, answer)),
                Role::Load(emptied) => loading.push((index, Loading { cache: self, key, emptied })),
            }
        }
        let missing: Vec<_> =
            loading.iter().map(|(i, _)| (wanted[*i].0, address(level, wanted[*i].1))).collect();
        let loaded = match &missing[..] {
            [] => Vec::new(),
            some => pages.load_many(some).await,
        };
        for ((index, loading), bytes) in loading.into_iter().zip(loaded) {
            let page = bytes.and_then(|bytes| Ok(Arc::new(Page::decode(bytes, level)?)));
            out[index] = Some(loading.finish(page));
        }
        for (index, answer) in waiting {
            let (at, first) = &wanted[index];
            out[index] = Some(match answer.await {
                Ok(page) => page,
                // Whoever loaded it was stopped midway.
                Err(_) => self.get(pages, at, level, *first).await,
            });
        }
        Ok(out.into_iter().map(|page| page.expect("each was found, loaded or waited for")).collect())
    }

    /// Whether the page is neither here nor on its way.
    pub(super) fn lacks(&self, pages: &dyn Pages, at: &FrameRef, level: u8, first: u64) -> Result<bool> {
        let key = (pages.chunk(at)?, at.offset, address(level, first));
        let state = self.state.lock();
        Ok(!state.pages.contains(&key) && !state.loading.contains_key(&key))
    }

    /// Whether what nobody asked for yet would push out nothing, now and for a while.
    pub(super) fn is_roomy(&self) -> bool {
        let state = self.state.lock();
        state.stats.bytes < state.bytes_max / 2
    }

    /// Takes in a page that was just written.
    pub(super) fn insert(
        &self,
        pages: &dyn Pages,
        at: &FrameRef,
        address: u64,
        page: Arc<Page>,
    ) -> Result<()> {
        let key = (pages.chunk(at)?, at.offset, address);
        self.state.lock().insert(key, page);
        Ok(())
    }

    fn role(&self, key: Key) -> Role {
        let mut state = self.state.lock();
        if let Some(page) = state.pages.get(&key).cloned() {
            state.stats.hits += 1;
            return Role::Have(page);
        }
        if let Some(waiters) = state.loading.get_mut(&key) {
            let (tx, rx) = oneshot::channel();
            waiters.push(tx);
            return Role::Wait(rx);
        }
        state.stats.misses += 1;
        state.loading.insert(key, Vec::new());
        Role::Load(state.emptied)
    }
}

async fn load(pages: &dyn Pages, at: &FrameRef, level: u8, first: u64) -> Result<Arc<Page>> {
    let bytes = pages.load(at, address(level, first)).await?;
    Ok(Arc::new(Page::decode(bytes, level)?))
}

impl Loading<'_> {
    fn finish(self, result: Result<Arc<Page>>) -> Result<Arc<Page>> {
        let mut state = self.cache.state.lock();
        if state.emptied == self.emptied {
            if let Ok(page) = &result {
                state.insert(self.key, page.clone());
            }
            for waiter in state.loading.remove(&self.key).unwrap_or_default() {
                // A waiter that went away needs nothing.
                let _ = waiter.send(result.as_ref().map(Arc::clone).map_err(|e| e.share()));
            }
        }
        drop(state);
        // The next one who loads this page may have begun: nothing of it is ours to remove.
        std::mem::forget(self);
        result
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        // Dropping the senders wakes the waiters; one of them loads.
        let mut state = self.cache.state.lock();
        if state.emptied == self.emptied {
            state.loading.remove(&self.key);
        }
    }
}

impl State {
    fn insert(&mut self, key: Key, page: Arc<Page>) {
        self.stats.bytes += page.cost();
        if let Some((_, old)) = self.pages.push(key, page) {
            self.stats.bytes -= old.cost();
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.stats.bytes > self.bytes_max {
            let Some((_, page)) = self.pages.pop_lru() else { break };
            self.stats.bytes -= page.cost();
        }
        self.stats.pages = self.pages.len();
    }
}
