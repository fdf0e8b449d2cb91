//! A pool of stores in memory that counts requests, on a real disk.

use std::sync::Arc;

use super::*;
use windlass_base::HostId;
use windlass_base::rt::{RealDisk, RealRuntime};
use windlass_base::units::GIB;
use windlass_pool::{CreateOptions, OnlyNamed, Pool, PoolHost, PoolStore};
use windlass_store::{Counted, Effort, Faulty, MemStore, Store as _};

pub struct Place {
    pub rt: Rt,
    stores: Vec<Arc<Counted>>,
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new(n: usize) -> Place {
        let rt = Rt::new(RealRuntime::current());
        // Answers that come at once would make hedges of what is only a busy processor.
        let store = |i: usize| Counted::new(&rt, Faulty::new(&rt, MemStore::new(&format!("s{i}"))));
        Place { stores: (0..n).map(store).collect(), dir: tempfile::tempdir().unwrap(), rt }
    }

    pub fn requests(&self) -> u64 {
        self.stores.iter().map(|c| c.counters().unwrap().requests()).sum()
    }

    pub fn lines(&self) -> Vec<windlass_store::Line> {
        self.stores.iter().flat_map(|c| c.counters().unwrap().snapshot()).collect()
    }

    fn specs(&self) -> Vec<PoolStore> {
        let spec = |c: &Arc<Counted>| PoolStore { url: c.url().to_owned(), zone: None, bucket: c.clone() };
        self.stores.iter().map(spec).collect()
    }

    /// A daemon that knows nothing.
    pub async fn volumes(&self, host: u128, layout: Option<&str>) -> Volumes {
        let (rt, disk) = (self.rt.clone(), RealDisk::start());
        let dir = self.dir.path().join(format!("host{host}"));
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
        let memory = Memory::new(2 * GIB);
        let host = Host { id: HostId(host), name: "host".into() };
        let (tuning, sweeps, keys, readers, left, mirror) = Default::default();
        Volumes::new(EngineContext {
            rt,
            disk,
            pool,
            dir,
            host,
            memory,
            tuning,
            sweeps,
            keys,
            readers,
            left,
            mirror,
        })
    }
}
