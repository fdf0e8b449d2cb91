//! Stores, and hosts with a disk and a daemon each.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use windlass_base::rt::Rt;
use windlass_base::rt::sim::{Process, SimDisk, World};
use windlass_base::{HostId, Kind, Name, PoolId, Result};
use windlass_pool::{CreateOptions, OnlyNamed, Pool, PoolHost, PoolStore};
use windlass_store::{ByteRange, Cause, Effort, Reach, SimStore, Store as _, When};
use windlass_volume::{EngineContext, Host, Memory, MirrorHost, Tuning, Volumes};

const GET: ByteRange = ByteRange::Whole { max: 64 << 20 };

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Time longer than any request to these stores takes.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// The stores of one pool.
#[derive(Clone)]
pub struct Stores(Vec<Arc<SimStore>>);

/// Copies of the objects of each store.
pub type Copies = Vec<Vec<(String, Bytes)>>;

impl Stores {
    pub fn new(world: &World, prefix: &str) -> Stores {
        let stores = (0..3).map(|i| SimStore::new(world, &format!("{prefix}{i}"))).collect::<Vec<_>>();
        for store in &stores {
            let to = Duration::from_micros(100 << world.below(10));
            store.faults(|f| f.latency = (to / 4, to));
        }
        Stores(stores)
    }

    fn specs(&self) -> Vec<PoolStore> {
        let spec = |s: &Arc<SimStore>| PoolStore { url: s.url().to_owned(), zone: None, bucket: s.clone() };
        self.0.iter().map(spec).collect()
    }

    pub async fn copies(&self) -> Copies {
        let mut all = Vec::new();
        for store in &self.0 {
            let mut objects = Vec::new();
            for key in store.contents().keys() {
                let found = store.contents().get(&key, GET, Cause::Walk).await.unwrap().unwrap();
                objects.push((key, found.body));
            }
            all.push(objects);
        }
        all
    }

    /// Puts the stores back to the copies. `left`: newer objects stay where there was nothing then. Meanwhile
    /// nobody reaches the stores, for as long as a request may be on its way.
    pub async fn put_back(&self, rt: &Rt, copies: &Copies, left: bool) {
        self.reach(Reach::Refuses);
        rt.sleep(ON_ITS_WAY).await;
        for (store, objects) in self.0.iter().zip(copies) {
            if !left {
                store.contents().wipe();
            }
            for (key, body) in objects {
                store.contents().put(key, body.clone(), When::Always, Cause::Walk).await.unwrap();
            }
        }
        self.reach(Reach::Up);
    }

    pub fn is_away(&self, store: usize) {
        self.0[store].faults(|f| f.reach = Reach::Refuses);
    }

    fn reach(&self, reach: Reach) {
        self.0.iter().for_each(|store| store.faults(|f| f.reach = reach));
    }
}

/// A host; its disk outlives its daemons.
pub struct Daemon {
    world: World,
    id: u128,
    pub disk: SimDisk,
    process: Process,
    pub rt: Rt,
    pub volumes: Option<Volumes>,
    /// The pool that the daemon knows.
    knows: Option<PoolId>,
}

impl Daemon {
    pub fn new(world: &World, id: u128) -> Daemon {
        let process = world.process();
        let (rt, disk) = (process.rt(), SimDisk::new(world));
        Daemon { world: world.clone(), id, disk, process, rt, volumes: None, knows: None }
    }

    fn host(&self) -> PoolHost {
        let (rt, disk) = (self.rt.clone(), Arc::new(self.disk.clone()));
        let (folder, opener) = (Path::new("/home/pool").to_owned(), Arc::new(OnlyNamed));
        PoolHost { rt, disk, folder, opener, pool: self.knows, key: None, trial: Effort::LEAST }
    }

    pub async fn found(&mut self, stores: &Stores) {
        let (layout, options) = ("2+1".parse().unwrap(), CreateOptions::default());
        let pool = Pool::create(self.host(), name("tank"), layout, stores.specs(), options).await.unwrap();
        self.has(pool);
    }

    pub async fn start(&mut self, stores: &Stores) {
        let pool = Pool::open(self.host(), stores.specs()).await.unwrap();
        self.has(pool);
    }

    /// Checks that the daemon refuses the stores of another pool of this name, which stand where its own
    /// were.
    pub async fn refuses(&self, others: &Stores) {
        let error = Pool::open(self.host(), others.specs()).await.expect_err("it is another pool");
        assert!(error.is(Kind::Refused) && error.to_string().contains("another pool"), "{error}");
    }

    fn has(&mut self, pool: Arc<Pool>) {
        self.knows = Some(pool.id());
        self.volumes = Some(Volumes::new(EngineContext {
            rt: self.rt.clone(),
            disk: Arc::new(self.disk.clone()),
            pool,
            dir: Path::new("/home/volumes").to_owned(),
            host: Host { id: HostId(self.id), name: format!("host{}", self.id) },
            memory: Memory::new(32 << 20),
            tuning: Tuning { log_min: 0, log_max: 20_000, chunks_max: 6, ..Tuning::default() },
            sweeps: Arc::default(),
            keys: Default::default(),
            readers: Arc::default(),
            left: Arc::default(),
            mirror: MirrorHost::with_peer(None),
        }));
    }

    pub fn volumes(&self) -> &Volumes {
        self.volumes.as_ref().expect("it runs")
    }

    /// Ends the daemon's process; another one may be started.
    pub fn kill(&mut self) {
        self.process.kill();
        self.volumes = None;
        self.process = self.world.process();
        self.rt = self.process.rt();
    }
}

/// Checks that opening a volume failed that may be another host's, and with no other kind of error than that
/// allows.
pub fn is_refused<T>(opened: Result<T>, why: &str) {
    let error = opened.map(drop).expect_err(why);
    let fine = [Kind::Owned, Kind::Fenced, Kind::NotFound, Kind::Removed, Kind::Refused];
    assert!(fine.contains(&error.kind()), "{why}: {:?} {error}", error.kind());
}
