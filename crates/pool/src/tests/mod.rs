//! The pool on simulated stores: losses, rot, outages, foreign and emptied stores, lost answers.

mod catalog;
mod creating;
mod data_only;
mod destroy;
mod keyed;
mod mending;
mod plan;
mod reading;
mod recover;
mod relabel;
mod replace;
mod standing;
mod writing;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use windlass_base::format_limits::SHARD_SPAN;
use windlass_base::rt::Rt;
use windlass_base::rt::sim::{Sim, SimDisk};
use windlass_base::{ChunkId, Epoch, Era, Error, Kind, Result, Seq, VolumeId};
use windlass_keys::PoolKey;
use windlass_store::{BucketRef, Cause, Effort, MemStore, Reach, SimStore, Store as _};

const W: Cause = Cause::Walk;

/// Stores, a disk, and a way to open the pool on them.
#[derive(Clone, Debug)]
struct Yard {
    rt: Rt,
    disk: Arc<SimDisk>,
    stores: Vec<Arc<SimStore>>,
    spares: Vec<Arc<SimStore>>,
    layout: Layout,
    zones: Option<&'static str>,
    key: Option<PoolKey>,
    trial: Effort,
    needed: Arc<Needed>,
}

/// What is needed of what was found dead.
#[derive(Debug, Default)]
struct Needed(parking_lot::Mutex<BTreeSet<ChunkId>>);

#[async_trait]
impl DeletionCheck for Needed {
    async fn check(&self, ids: &BTreeSet<ChunkId>) -> Checked {
        let needed = self.0.lock();
        let (live, dead) = ids.iter().partition(|id| needed.contains(id));
        Checked { dead, live }
    }
}

impl Yard {
    fn new(sim: &Sim, layout: &str) -> Yard {
        let layout: Layout = layout.parse().unwrap();
        let stores = (0..layout.n()).map(|i| SimStore::new(sim, &format!("s{i}"))).collect();
        Yard {
            rt: sim.rt(),
            disk: Arc::new(SimDisk::new(sim)),
            stores,
            spares: Vec::new(),
            layout,
            zones: None,
            key: None,
            trial: Effort::LEAST,
            needed: Arc::default(),
        }
    }

    /// The same, seen by another process.
    fn on(&self, rt: &Rt) -> Yard {
        Yard { rt: rt.clone(), ..self.clone() }
    }

    fn host(&self) -> PoolHost {
        PoolHost {
            rt: self.rt.clone(),
            disk: self.disk.clone(),
            folder: Path::new("/home/pool").into(),
            opener: Arc::new(self.clone()),
            pool: None,
            key: self.key.clone(),
            trial: self.trial,
        }
    }

    fn specs(&self) -> Vec<PoolStore> {
        let zone = |i: usize| self.zones.map(|z| z[i..=i].to_owned());
        let spec = |(i, s): (usize, &Arc<SimStore>)| PoolStore {
            url: s.url().to_owned(),
            zone: zone(i),
            bucket: s.clone(),
        };
        self.stores.iter().enumerate().map(spec).collect()
    }

    async fn create(&self) -> Result<Arc<Pool>> {
        let name = "tank".parse().unwrap();
        let made = Pool::create(self.host(), name, self.layout, self.specs(), CreateOptions::default()).await;
        made.map(|pool| self.checked(pool))
    }

    async fn open(&self) -> Result<Arc<Pool>> {
        Pool::open(self.host(), self.specs()).await.map(|pool| self.checked(pool))
    }

    fn checked(&self, pool: Arc<Pool>) -> Arc<Pool> {
        let needed = Arc::downgrade(&self.needed);
        pool.check_deletions_by(needed);
        pool
    }

    fn reach(&self, store: usize, reach: Reach) {
        self.stores[store].faults(|f| f.reach = reach);
    }

    /// The contents of the store that holds a chunk's shard, and the shard's key.
    fn shard(&self, id: &ChunkId, shard: usize) -> (&MemStore, String) {
        (self.stores[place(id, shard, self.layout.n())].contents(), shard_key(id, shard))
    }

    fn has(&self, id: &ChunkId, shard: usize) -> bool {
        let (store, key) = self.shard(id, shard);
        store.keys().contains(&key)
    }

    async fn settle(&self, ms: u64) {
        self.rt.sleep(Duration::from_millis(ms)).await;
    }
}

#[async_trait]
impl Opener for Yard {
    async fn open(&self, url: &str) -> Result<BucketRef> {
        let found = self.stores.iter().chain(&self.spares).find(|s| s.url() == url);
        found
            .map(|s| s.clone() as BucketRef)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("no store {url}")))
    }
}

/// The key of the label that a store has.
fn label_at(store: &SimStore) -> String {
    store.contents().keys().into_iter().find(|key| key.starts_with(LABELS)).unwrap()
}

fn id(seq: u64) -> ChunkId {
    ChunkId { volume: VolumeId(0xabc), epoch: Epoch(1), seq: Seq(seq) }
}

/// A chunk whose data shards have these lengths.
fn chunk(seq: u64, lens: &[usize]) -> Chunk {
    let byte = |i: usize, b: usize| (b.wrapping_mul(131) ^ (b >> 8) ^ (i * 57 + seq as usize)) as u8;
    let shards = lens.iter().enumerate().map(|(i, len)| (0..*len).map(|b| byte(i, b)).collect()).collect();
    let last = lens.len() as u64 - 1;
    let toc_len = *lens.last().unwrap() as u32;
    Chunk { id: id(seq), era: Era(1), kind: ChunkKind::Data, shards, toc_offset: last * SHARD_SPAN, toc_len }
}

async fn store(pool: &Arc<Pool>, chunk: &Chunk) {
    let upload = pool.put_chunk(chunk.clone());
    upload.wait(pool.w()).await.unwrap();
    assert!(upload.stored() >= pool.w());
}

/// Reads every shard back in odd pieces.
async fn check(pool: &Pool, chunk: &Chunk) {
    for (i, shard) in chunk.shards.iter().enumerate() {
        let mut at = 0;
        while at < shard.len() {
            let len = (shard.len() - at).min(70_001);
            let want = shard.slice(at..at + len);
            let offset = i as u64 * SHARD_SPAN + at as u64;
            let verify = |b: &[u8]| b == want;
            let got = pool.read(&chunk.id, offset, len as u32, Cause::Read, &verify).await;
            assert_eq!(got.unwrap(), want);
            at += len;
        }
    }
}

fn run<F: Future<Output = ()> + Send + 'static>(layout: &str, test: impl FnOnce(Yard) -> F) {
    let sim = Sim::new(7);
    let yard = Yard::new(&sim, layout);
    sim.run(test(yard)).unwrap();
}

const LENS: [usize; 4] = [200_000, 65_536, 1, 90_000];

/// Of a pool without volumes.
const EMPTY: Counted = Counted { dead: 0, live: 0 };

/// Chunks up to `dead` are dead, then live up to `live`, then nobody knows.
struct Counted {
    dead: u64,
    live: u64,
}

#[async_trait]
impl Inventory for Counted {
    async fn fate(&self, id: ChunkId) -> Result<Fate> {
        Ok(match id.seq.0 {
            seq if seq <= self.dead => Fate::Dead,
            seq if seq <= self.live => Fate::Live,
            _ => Fate::Unknown,
        })
    }
    async fn live_after(&self, after: Option<ChunkId>, max: usize) -> Result<Vec<ChunkId>> {
        let from = after.map_or(self.dead, |a| a.seq.0) + 1;
        Ok((from..=self.live).take(max).map(id).collect())
    }
    async fn learn_log_ends(&self) -> Result<Vec<Error>> {
        Ok(Vec::new())
    }
    async fn undecided(&self) -> Result<Vec<Error>> {
        Ok(Vec::new())
    }
    fn unread(&self) -> Vec<(VolumeId, String)> {
        Vec::new()
    }
}
