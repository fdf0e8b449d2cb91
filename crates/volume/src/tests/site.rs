//! A simulated site: stores, hosts with a disk each, a daemon's life on a host.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::head::Claimer;
use windlass_base::rt::Dial;
use windlass_base::rt::sim::{Process, Sim, SimDisk, SimNet, World};
use windlass_base::{Epoch, Error, HostId, Nonce, Result, VolumeId};
use windlass_keys::{Offered, OpenKeys, Secret};
use windlass_pool::{CreateOptions, Layout, Opener, Pool, PoolHost, PoolStore};
use windlass_store::{BucketRef, Counted, Effort, Reach, SimStore, Store as _};

#[derive(Clone, Debug)]
pub struct Site {
    pub world: World,
    pub stores: Vec<Arc<SimStore>>,
    /// The same, with every request counted: given to those machines whose requests are to be counted.
    pub counted: Vec<Arc<Counted>>,
    /// To put in the place of others.
    pub spare: Arc<SimStore>,
    layout: Layout,
    pub tuning: Tuning,
    /// All its volumes are.
    pub encrypted: bool,
    /// Of each daemon, in bytes.
    pub memory: u64,
    pub grace_ms: u64,
}

/// A machine: its disk outlives the processes.
#[derive(Clone)]
pub struct Machine {
    site: Site,
    pub disk: Arc<SimDisk>,
    host: Host,
    /// The way to its peer.
    dials: Option<SimNet>,
    /// The way to it, for those whose peer it is.
    serves: Option<SimNet>,
}

/// One run of a daemon.
pub struct Life {
    pub process: Process,
    pub rt: Rt,
    pub volumes: Volumes,
    pub machine: Machine,
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Runs a scenario in the simulated world.
pub fn run<F>(seed: u64, layout: &str, scenario: impl FnOnce(Site) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let sim = Sim::new(seed);
    sim.limit_steps(20_000_000);
    let layout: Layout = layout.parse().unwrap();
    let world: &World = &sim;
    let stores: Vec<_> = (0..layout.n()).map(|i| SimStore::new(world, &format!("s{i}"))).collect();
    let spare = SimStore::new(world, "spare");
    let (tuning, grace_ms) = (Tuning::default(), 30_000);
    let (counted, memory) = (Vec::new(), 256 * MIB);
    let site = Site {
        world: world.clone(),
        stores,
        counted,
        spare,
        layout,
        tuning,
        encrypted: false,
        memory,
        grace_ms,
    };
    sim.run(scenario(site)).unwrap();
}

#[async_trait::async_trait]
impl Opener for Site {
    async fn open(&self, url: &str) -> Result<BucketRef> {
        let all = self.stores.iter().chain([&self.spare]);
        let found = all.into_iter().find(|s| s.url() == url).map(|s| s.clone() as BucketRef);
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("no store {url}")))
    }
}

impl Site {
    /// With WINDLASS_TEST_ENCRYPTED set all volumes of all scenarios are encrypted.
    fn keys(&self) -> OpenKeys {
        let encrypted = self.encrypted || std::env::var_os("WINDLASS_TEST_ENCRYPTED").is_some();
        if encrypted { OpenKeys::of_all(Offered::Key(Secret::new([0x4b; 32]))) } else { OpenKeys::default() }
    }

    /// Checkpoints and collection all the time.
    pub fn eager(mut self) -> Site {
        let world = &self.world;
        let log_max = [20_000, 100_000, 1 << 20][world.below(3) as usize];
        let (pack_max, space_max) = (2_000 + world.below(300_000), (1_050, 1_050 + world.below(400)));
        let chunks_max = 1 + world.below(6);
        let merge_blocks = [1, 40, 1 << 19][world.below(3) as usize];
        let states_inline = [0, 5, 256][world.below(3) as usize];
        self.tuning = Tuning {
            log_min: 0,
            log_max,
            log_share: 1,
            chunks_max,
            merge_blocks,
            states_inline,
            pack_max,
            space_max,
            gain_min: 3_000,
            small_min: 8,
            journal: None,
            look_every: Duration::from_secs(5),
        };
        self.grace_ms = world.below(3_000);
        self
    }

    /// Other stores of the same world, for another layout.
    pub fn elsewhere_as(&self, layout: &str) -> Site {
        Site { layout: layout.parse().unwrap(), ..self.clone() }.elsewhere()
    }

    /// Other stores of the same world.
    pub fn elsewhere(&self) -> Site {
        let stores = (0..self.layout.n()).map(|i| SimStore::new(&self.world, &format!("e{i}"))).collect();
        Site { stores, counted: Vec::new(), ..self.clone() }
    }

    pub fn spare_spec(&self) -> PoolStore {
        PoolStore { url: self.spare.url().to_owned(), zone: None, bucket: self.spare.clone() }
    }

    pub fn machine(&self, id: u128) -> Machine {
        let host = Host { id: HostId(id), name: format!("host{id}") };
        let disk = Arc::new(SimDisk::new(&self.world));
        Machine { site: self.clone(), disk, host, dials: None, serves: None }
    }

    fn specs(&self) -> Vec<PoolStore> {
        let spec = |bucket: BucketRef| PoolStore { url: bucket.url().to_owned(), zone: None, bucket };
        match self.counted.is_empty() {
            true => self.stores.iter().map(|s| spec(s.clone())).collect(),
            false => self.counted.iter().map(|s| spec(s.clone())).collect(),
        }
    }

    /// From now on all that new machines ask is counted.
    pub fn count(&mut self) {
        self.counted = self.stores.iter().map(|s| Counted::new(&self.world.rt(), s.clone())).collect();
    }

    pub fn reach(&self, stores: std::ops::Range<usize>, reach: Reach) {
        for s in &self.stores[stores] {
            s.faults(|f| f.reach = reach);
        }
    }
}

impl Machine {
    pub fn world(&self) -> World {
        self.site.world.clone()
    }

    /// Where this host has noted how far a volume has come.
    pub fn confirmed_file(&self, volume: VolumeId) -> std::path::PathBuf {
        Path::new("/home/volumes").join(volume.to_string()).join("confirmed")
    }

    /// The same host with another disk.
    pub fn with(self, disk: SimDisk) -> Machine {
        Machine { disk: Arc::new(disk), ..self }
    }

    /// The same with so much memory for its daemons, in bytes.
    pub fn with_memory(mut self, bytes: u64) -> Machine {
        self.site.memory = bytes;
        self
    }

    /// The same, with a peer, and as a peer of others.
    pub fn mirrored(self, dials: &SimNet, serves: &SimNet) -> Machine {
        Machine { dials: Some(dials.clone()), serves: Some(serves.clone()), ..self }
    }

    /// Makes the pool, then lives on it.
    pub async fn found(&self) -> Life {
        let (process, rt, host) = self.process();
        let mut options = CreateOptions::default();
        options.settings.grace_ms = self.site.grace_ms;
        let pool =
            Pool::create(host, name("tank"), self.site.layout, self.site.specs(), options).await.unwrap();
        self.live(process, rt, pool)
    }

    pub async fn start(&self) -> Life {
        self.try_start().await.unwrap()
    }

    /// The same; an error where the pool can't be opened.
    pub async fn try_start(&self) -> Result<Life> {
        let (process, rt, host) = self.process();
        let pool = Pool::open(host, self.site.specs()).await?;
        Ok(self.live(process, rt, pool))
    }

    /// The same, with a clock that is ahead.
    pub async fn start_ahead(&self, by: Duration) -> Life {
        let (process, rt, host) = self.process();
        process.clock_ahead(by);
        let pool = Pool::open(host, self.site.specs()).await.unwrap();
        self.live(process, rt, pool)
    }

    /// Decides the pool by what is left of it; the lost have these in their places.
    pub async fn force_recover(&self, swaps: Vec<windlass_pool::StoreSwap>) -> Result<()> {
        let (_, _, host) = self.process();
        if let Some(recovery) = windlass_pool::ForcedRecovery::find(host, self.site.specs(), swaps).await? {
            recovery.check().await?;
            recovery.recover().await?;
        }
        Ok(())
    }

    fn process(&self) -> (Process, Rt, PoolHost) {
        let process = self.site.world.process();
        let rt = process.rt();
        let (folder, opener) = (Path::new("/home/pool").to_owned(), Arc::new(self.site.clone()));
        let disk = self.disk.clone();
        let (pool, key, trial) = (None, None, Effort::LEAST);
        (process, rt.clone(), PoolHost { rt, disk, folder, opener, pool, key, trial })
    }

    fn live(&self, process: Process, rt: Rt, pool: Arc<Pool>) -> Life {
        let engine = EngineContext {
            rt: rt.clone(),
            disk: self.disk.clone(),
            pool,
            dir: Path::new("/home/volumes").to_owned(),
            host: self.host.clone(),
            memory: Memory::new(self.site.memory),
            tuning: self.site.tuning,
            sweeps: Arc::default(),
            keys: self.site.keys(),
            readers: Arc::default(),
            left: Arc::default(),
            mirror: MirrorHost::with_peer(self.dials.clone().map(|net| Arc::new(net) as Arc<dyn Dial>)),
        };
        if let Some(net) = &self.serves {
            let (mut links, serving, engine) = (net.listen(), rt.clone(), Arc::new(engine.clone()));
            let serve = async move {
                while let Some(link) = links.recv().await {
                    let (engine, rt) = (engine.clone(), serving.clone());
                    serving
                        .spawn(async move { serve_mirror(rt, |_| async { Ok(engine) }, link).await })
                        .detach();
                }
            };
            rt.spawn(serve).detach();
        }
        Life { process, rt, volumes: Volumes::new(engine), machine: self.clone() }
    }
}

impl Life {
    /// Claims the volume and gives up.
    pub async fn claim_and_withdraw(&self) {
        if let Ok(id) = self.volumes.id(&name("v")).await {
            self.claim_and_withdraw_of(id).await;
        }
    }

    /// Claims the volume, and does no more.
    pub async fn claim(&self) {
        let (host, nobody) = (self.volumes.engine().host.clone(), Default::default());
        let (nonce, floor, mirror) = (Nonce(self.rt.random128()), Epoch(0), Default::default());
        let (lineage, force) = (&nobody, true);
        let (host, now_ms, seen, overtakes) = (&host, 0, None, None);
        let shows = false;
        let who = Claimer { host, nonce, now_ms, lineage, seen, overtakes, force, shows, floor, mirror };
        let id = self.volumes.id(&name("v")).await.unwrap();
        self.volumes.engine().cell(id).change(|h| h.claim(&who)).await.unwrap();
    }

    /// The same, whatever it is called.
    pub async fn claim_and_withdraw_of(&self, id: VolumeId) {
        let (host, nobody) = (self.volumes.engine().host.clone(), Default::default());
        let nonce = Nonce(self.rt.random128());
        let floor = Epoch(0);
        let mirror = Default::default();
        let who = Claimer {
            host: &host,
            nonce,
            now_ms: 0,
            lineage: &nobody,
            seen: None,
            overtakes: None,
            force: true,
            shows: false,
            floor,
            mirror,
        };
        let cell = self.volumes.engine().cell(id);
        if cell.change(|h| h.claim(&who)).await.is_ok() {
            while cell.change(|h| h.withdraw(nonce)).await.is_err() {}
        }
    }

    /// The volume's ownership in force.
    pub async fn ownership(&self, id: VolumeId) -> Epoch {
        self.volumes.engine().cell(id).read().await.unwrap().unwrap().active.epoch
    }

    /// The process dies; what the disk was not asked to sync may be lost with the power.
    pub fn crash(self) -> Machine {
        if self.process.alive() {
            self.process.kill();
            self.machine.disk.power_loss();
        }
        self.machine
    }

    /// The process dies; its machine goes on.
    pub fn kill(self) -> Machine {
        self.process.kill();
        self.machine
    }

    pub async fn sleep(&self, ms: u64) {
        self.rt.sleep(Duration::from_millis(ms)).await;
    }
}
