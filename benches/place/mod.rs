//! What benchmarks of volumes stand on: a pool whose stores are in memory, and daemons with a real disk.
// Each benchmark uses a part of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use windlass_base::rt::{RealDisk, RealRuntime, Rt};
use windlass_base::units::GIB;
use windlass_base::{HostId, Name};
use windlass_cache::{DiskCache, DiskCacheConfig};
use windlass_pool::{CreateOptions, OnlyNamed, Pool, PoolHost, PoolStore};
use windlass_store::{BucketRef, Counted, Effort, Faulty, MemStore, Store as _};
use windlass_volume::{EngineContext, Host, Memory, Tuning, Volumes};

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn bytes(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

pub struct Place {
    pub rt: Rt,
    /// The stores that can be made slow.
    slow: Vec<Arc<Faulty>>,
    pub stores: Vec<Arc<Counted>>,
    dir: PathBuf,
    /// The folder, where it is to be removed at the end.
    _temporary: Option<tempfile::TempDir>,
    pub tuning: Tuning,
}

impl Place {
    /// Makes a place with stores in memory. Stores that may be `slow` cost a little also when they aren't.
    pub fn new(n: usize, slow: bool) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let stores = (0..n).map(|i| MemStore::new(&format!("s{i}")) as BucketRef).collect();
        let place = Place::over(Rt::new(RealRuntime::current()), dir.path(), stores, slow);
        Place { _temporary: Some(dir), ..place }
    }

    /// Makes a place over other stores, with the hosts' folders in `dir`, which outlives the place.
    pub fn over(rt: Rt, dir: &Path, stores: Vec<BucketRef>, slow: bool) -> Place {
        let mut delayed = Vec::new();
        let mut count = |store| match slow {
            true => {
                let store = Faulty::new(&rt, store);
                delayed.push(store.clone());
                Counted::new(&rt, store)
            }
            false => Counted::new(&rt, store),
        };
        let stores = stores.into_iter().map(&mut count).collect();
        let tuning = Tuning::default();
        Place { rt, slow: delayed, stores, dir: dir.to_owned(), _temporary: None, tuning }
    }

    pub fn slow(&self, latency: Duration) {
        // There and back.
        self.slow.iter().for_each(|s| s.faults(|f| f.latency = (latency / 2, latency / 2)));
    }

    pub fn requests(&self) -> u64 {
        self.stores.iter().map(|s| s.counters().unwrap().requests()).sum()
    }

    fn specs(&self) -> Vec<PoolStore> {
        let spec = |c: &Arc<Counted>| PoolStore { url: c.url().to_owned(), zone: None, bucket: c.clone() };
        self.stores.iter().map(spec).collect()
    }

    /// Starts a daemon that knows nothing, except for what its disk cache has. It has so much memory, for
    /// caches and all.
    pub async fn volumes(&self, host: u128, layout: Option<&str>, memory: u64, cache: bool) -> Volumes {
        let (rt, disk) = (self.rt.clone(), RealDisk::start());
        let dir = self.dir.join(format!("host{host}"));
        let pool_host = PoolHost {
            rt: rt.clone(),
            disk: disk.clone(),
            folder: dir.join("pool"),
            opener: Arc::new(OnlyNamed),
            pool: None,
            key: None,
            trial: Effort::LEAST,
        };
        let pool = match layout {
            Some(layout) => {
                let (layout, options) = (layout.parse().unwrap(), CreateOptions::default());
                Pool::create(pool_host, name("tank"), layout, self.specs(), options).await.unwrap()
            }
            None => Pool::open(pool_host, self.specs()).await.unwrap(),
        };
        let memory = match cache {
            false => Memory::new(memory),
            true => {
                let share = Memory::disk_share(memory, 4 * GIB);
                let config = DiskCacheConfig {
                    dir: dir.join("cache"),
                    bytes_max: 4 * GIB,
                    memory_max: share,
                    segment: None,
                };
                Memory::with_disk(memory, DiskCache::start(&rt, RealDisk::start(), config), share)
            }
        };
        let host = Host { id: HostId(host), name: "host".into() };
        let (tuning, sweeps) = (self.tuning, Default::default());
        Volumes::new(EngineContext {
            rt,
            disk,
            pool,
            dir,
            host,
            memory,
            tuning,
            sweeps,
            keys: Default::default(),
            left: Arc::default(),
            readers: Arc::default(),
            mirror: Default::default(),
        })
    }
}
