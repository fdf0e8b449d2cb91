//! The world of a run: stores, hosts with a disk each, and what all users know together.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use windlass::base::rt::Rt;
use windlass::base::rt::sim::{Process, SimDisk, World};
use windlass::base::{HostId, Name};
use windlass::pool::{CreateOptions, Layout, OnlyNamed, Pool, PoolHost, StoreSpec};
use windlass::store::{Reach, SimStore, Store as _};
use windlass::volume::{Deps, FlushMode, Host, Memory, Settings, Tuning, Volumes};

use super::model::Model;

/// The volume has two map leaves. Its first block is written by whoever becomes the owner, to become it.
pub const SIZE: u64 = 320 * 4096;
/// The bytes that are written and looked at: some of both leaves.
pub const SPAN: Range<u64> = 224 * 4096..296 * 4096;
/// The lanes, as sectors of the span. They meet within a block, so that both merge into it.
pub const LANES: [Range<u64>; 2] = [0..30 * 8 + 3, 30 * 8 + 3..72 * 8];

/// The byte where a sector of the span begins.
pub fn at(sector: u64) -> u64 {
    SPAN.start + sector * 512
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// What a seed draws for its run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub layout: Layout,
    pub flush: FlushMode,
    pub max_tail_ms: u64,
    /// Nothing goes wrong but that processes are killed: then more is promised.
    pub calm: bool,
    /// Instead of outages and lost requests a store loses its contents for good, once.
    pub wipe: bool,
    /// Chance of a forced takeover when another host owns the volume, in 1000.
    pub force: u32,
    /// Chance of a sync to fail, in 1000, at times.
    pub sync_fails: u32,
    pub hosts: usize,
    /// Small, so that there are checkpoints and collection all the time.
    pub tuning: Tuning,
    pub grace_ms: u64,
}

impl Plan {
    pub fn draw(world: &World, layouts: &[&str]) -> Plan {
        let pick = |n: usize| world.below(n as u64) as usize;
        let layout: Layout = layouts[pick(layouts.len())].parse().unwrap();
        Plan {
            layout,
            // What was stored survives w-k lost stores at any instant; opening needs a majority.
            wipe: layout.w() > layout.k() && layout.survives_open() > 0 && world.per_mille(300),
            flush: [FlushMode::Local, FlushMode::Pool][pick(2)],
            max_tail_ms: [500, 5000][pick(2)],
            calm: world.per_mille(150),
            force: [0, 300, 800][pick(3)],
            sync_fails: [0, 0, 0, 100][pick(4)],
            hosts: 2,
            tuning: Tuning {
                log_min: 0,
                log_max: [20_000, 200_000, 1 << 30][pick(3)],
                log_share: 1,
                chunks_max: [3, 12, 2048][pick(3)],
            },
            grace_ms: [0, 500, 5_000][pick(3)],
        }
    }
}

/// See the module.
pub struct Site {
    pub world: World,
    pub plan: Plan,
    pub stores: Vec<Arc<SimStore>>,
    disks: Vec<SimDisk>,
    pub model: Mutex<Model>,
    /// One host after another looks who owns the volume: so that the model knows whom each follows.
    pub opening: tokio::sync::Mutex<()>,
    pub over: Mutex<bool>,
    /// Hosts whose process is to be started anew.
    pub unclear: Mutex<Vec<usize>>,
    trace: Mutex<Vec<String>>,
}

impl Site {
    pub fn new(world: &World, plan: Plan) -> Arc<Site> {
        let stores = (0..plan.layout.n()).map(|i| SimStore::new(world, &format!("s{i}"))).collect();
        Arc::new(Site {
            world: world.clone(),
            stores,
            disks: (0..plan.hosts + 1).map(|_| SimDisk::new(world)).collect(),
            model: Mutex::new(Model::new(&LANES)),
            opening: tokio::sync::Mutex::default(),
            over: Mutex::new(false),
            unclear: Mutex::default(),
            trace: Mutex::default(),
            plan,
        })
    }

    /// For whoever replays a seed.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if std::env::var_os("WINDLASS_SEED").is_some() {
            let line = format!("{:>14?} {}", self.world.now().0, what());
            eprintln!("{line}");
            self.trace.lock().push(line);
        }
    }

    pub fn specs(&self) -> Vec<StoreSpec> {
        let spec = |s: &Arc<SimStore>| StoreSpec { url: s.url().to_owned(), zone: None, bucket: s.clone() };
        self.stores.iter().map(spec).collect()
    }

    pub fn disk(&self, host: usize) -> &SimDisk {
        &self.disks[host]
    }

    fn host(&self, rt: &Rt, host: usize) -> PoolHost {
        let disk = Arc::new(self.disks[host].clone());
        PoolHost {
            rt: rt.clone(),
            disk,
            folder: Path::new("/home/pool").to_owned(),
            opener: Arc::new(OnlyNamed),
        }
    }

    /// Makes the pool and the volume, before anything goes wrong.
    pub async fn found(&self) {
        let rt = self.world.rt();
        let mut options = CreateOptions::default();
        options.settings.grace_ms = self.plan.grace_ms;
        let pool = Pool::create(self.host(&rt, 0), name("tank"), self.plan.layout, self.specs(), options);
        let volumes = self.volumes(&rt, 0, pool.await.unwrap());
        let settings = Settings {
            flush: self.plan.flush,
            max_tail_ms: self.plan.max_tail_ms,
            journal_size: Settings::JOURNAL_MIN,
            ..Settings::default()
        };
        volumes.create(&name("v"), SIZE, settings).await.unwrap();
        volumes.deps().pool.close().await;
    }

    pub async fn open(&self, rt: &Rt, host: usize) -> windlass::base::Result<Volumes> {
        let pool = Pool::open(self.host(rt, host), self.specs()).await?;
        Ok(self.volumes(rt, host, pool))
    }

    fn volumes(&self, rt: &Rt, host: usize, pool: Arc<Pool>) -> Volumes {
        Volumes::new(Deps {
            rt: rt.clone(),
            disk: Arc::new(self.disks[host].clone()),
            pool,
            dir: Path::new("/home/volumes").to_owned(),
            host: Host { id: HostId(host as u128 + 1), name: format!("host{host}") },
            memory: Memory::new(64 << 20),
            tuning: self.plan.tuning,
        })
    }

    /// A host's process ends, at once.
    pub fn crash(&self, process: &Process, host: usize, power: bool) {
        process.kill();
        if power {
            self.disks[host].power_loss();
        }
        let current = self.model.lock().current();
        let mut session = current.lock();
        if session.host == host {
            session.disturb(self.world.now());
        }
    }

    /// A store's contents are gone for good.
    pub fn wipe(&self) {
        let index = self.world.below(self.stores.len() as u64) as usize;
        self.note(|| format!("store s{index} is wiped"));
        self.stores[index].contents().wipe();
    }

    /// Everything works from now on.
    pub fn heal(&self) {
        for store in &self.stores {
            store.faults(|f| (f.reach, f.errors, f.lost) = (Reach::Up, 0, 0));
        }
        for disk in &self.disks {
            disk.faults(|f| f.sync_fails = 0);
        }
    }
}
