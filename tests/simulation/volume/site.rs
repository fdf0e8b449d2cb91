//! The world of a run: stores, hosts with a disk each, and what all users know together.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use windlass_base::rt::sim::{Process, SimDisk, World};
use windlass_base::rt::{Instant, Rt};
use windlass_base::{HostId, Kind, Name};
use windlass_cache::{DiskCache, DiskCacheConfig};
use windlass_frame::Codec;
use windlass_keys::{Offered, OpenKeys, Secret};
use windlass_pool::{CreateOptions, Layout, OnlyNamed, Pool, PoolHost, PoolStore};
use windlass_store::{Effort, SimConditions, SimStore, Store as _, StoreFaults};
use windlass_volume::{EngineContext, FlushMode, Host, Memory, MirrorLoss, Tuning, VolumeSettings, Volumes};

use super::era::Era;
use super::family::Cloned;
use super::mirrors::Mirrors;
use super::model::Model;
use super::shared_session::Shared;
use crate::seeds::is_replay;

/// Time after the last trouble within which everything that waited must be done.
const RESUMES: Duration = Duration::from_secs(60);
/// Interval at which memory is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// Folder of a host's cache. `CACHE_SEGMENT` is the size of its parts in bytes.
const CACHE: &str = "/home/cache";
const CACHE_SEGMENT: u64 = 64 << 10;

/// Size of the volume in bytes: it has two map leaves. Its first block is written by whoever becomes the
/// owner, to become it.
pub const SIZE: u64 = 320 * 4096;
/// The bytes that are written and looked at: some of both leaves.
pub const SPAN: Range<u64> = 236 * 4096..280 * 4096;
/// The lanes, as sectors of the span. They meet within blocks, so that both merge into them.
pub const LANES: [Range<u64>; 4] =
    [0..10 * 8 + 3, 10 * 8 + 3..22 * 8 + 5, 22 * 8 + 5..33 * 8 + 2, 33 * 8 + 2..44 * 8];

/// Returns the byte where a sector of the span begins.
pub fn at(sector: u64) -> u64 {
    SPAN.start + sector * 512
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// The kind of trouble that a run has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hazard {
    /// Trouble for hosts alone; then more is promised.
    Calm,
    /// Stores and requests fail.
    Outages,
    /// Disks fail and are full.
    Disks,
    /// One store loses its contents for good.
    Wipe,
    /// Shards in one store go bad.
    Rot,
}

/// The way in which hosts come by the volume, beside taking it over by force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// The volume's owner releases it, now and then.
    Apart,
    /// All have it attached and ask its owner for it (`handover=ask`).
    InTurn,
    /// The owner releases it, and the journal is mirrored (`flush=mirror`): the first two hosts are each the
    /// other's peer.
    Mirrored { hold: bool },
}

/// Properties of a run, as its seed draws them.
#[derive(Clone, Debug)]
pub struct Plan {
    pub layout: Layout,
    pub flush: FlushMode,
    pub max_tail_ms: u64,
    pub codec: Codec,
    pub memory: u64,
    /// Bytes of the cache on a host's disk: none, too little for the volume, or enough.
    pub cache: u64,
    /// Small limits, so that there are checkpoints and collection all the time, and journals are full and
    /// used again.
    pub tuning: Tuning,
    pub grace_ms: u64,
    pub hazard: Hazard,
    pub degrade_after: Option<u64>,
    /// Chance of a forced takeover when another host owns the volume, in 1000.
    pub force: u32,
    pub hosts: usize,
    pub sharing: Sharing,
    /// The volume is encrypted, and its data key is changed now and then. A client lives on when its daemon
    /// is killed, and takes its next flush for all that was acknowledged to it.
    pub rotates: bool,
    /// So many stores refuse or ignore the conditions of writes.
    pub data_only: usize,
}

impl Plan {
    pub fn draw(world: &World, layouts: &[&str]) -> Plan {
        let pick = |n: usize| world.below(n as u64) as usize;
        let layout: Layout = layouts[pick(layouts.len())].parse().unwrap();
        // Others hold registers: more than m, or the loss of m may take all.
        let spared = layout.n() - layout.m();
        let data_only = if pick(3) == 0 { pick(spared) } else { 0 };
        let mut hazard = [
            Hazard::Calm,
            Hazard::Outages,
            Hazard::Outages,
            Hazard::Outages,
            Hazard::Disks,
            Hazard::Disks,
            Hazard::Wipe,
            Hazard::Rot,
        ][pick(8)];
        // What was stored survives w-k lost stores at any instant; opening needs a majority.
        if layout.w() == layout.k() && matches!(hazard, Hazard::Wipe | Hazard::Rot)
            || survives_open(layout, data_only) == 0 && hazard == Hazard::Wipe
        {
            hazard = Hazard::Outages;
        }
        // Without the lost store w can't be had where w = N.
        let must_degrade = hazard == Hazard::Wipe && layout.w() == layout.n();
        // There a store that is away for a moment and rot that nobody has noticed are more than is survived.
        let must_not = hazard == Hazard::Rot && layout.w() == layout.n();
        Plan {
            layout,
            hazard,
            flush: [FlushMode::Local, FlushMode::Pool][pick(2)],
            max_tail_ms: [500, 5000][pick(2)],
            tuning: Tuning {
                log_min: 0,
                log_max: [20_000, 200_000, 1 << 30][pick(3)],
                log_share: 1,
                chunks_max: [3, 12, 2048][pick(3)],
                journal: [Some(512), Some(4096), None][pick(3)].map(|kib: u64| (kib << 10, 128 << 10)),
                pack_max: [3_000, 20_000, 1 << 20][pick(3)],
                space_max: [(1_020, 1_020), (1_300, 1_450)][pick(2)],
                gain_min: 3_000,
                small_min: 8,
                merge_blocks: [1 << 19, 16, 300][pick(3)],
                states_inline: [256, 3][pick(2)],
                look_every: Duration::from_secs(5),
            },
            grace_ms: [0, 500, 5_000][pick(3)],
            memory: [4 << 20, 64 << 20][pick(2)],
            codec: [Codec::None, Codec::None, Codec::Lz4, Codec::Zstd][pick(4)],
            degrade_after: (must_degrade || pick(3) > 0 && !must_not).then_some(3_000),
            force: [0, 300, 800][pick(3)],
            hosts: 2,
            cache: [0, 5, 32][pick(3)] * CACHE_SEGMENT,
            sharing: Sharing::Apart,
            rotates: false,
            data_only,
        }
    }

    /// Draws a run with rotations. A host without a journal promises no client that lives on anything, so no
    /// disk fails.
    pub fn rotating(world: &World, layouts: &[&str]) -> Plan {
        let plan = Plan::draw(world, layouts);
        let hazard = if plan.hazard == Hazard::Disks { Hazard::Outages } else { plan.hazard };
        Plan { hazard, rotates: true, ..plan }
    }

    pub fn in_turn(world: &World, layouts: &[&str]) -> Plan {
        let plan = Plan::draw(world, layouts);
        Plan { hosts: 2 + world.below(2) as usize, sharing: Sharing::InTurn, ..plan }
    }

    /// Draws a run with mirrored journals. A third host has no peer.
    pub fn mirrored(world: &World, layouts: &[&str]) -> Plan {
        let plan = Plan::draw(world, layouts);
        let hold = world.below(3) == 0;
        // Where flushes wait for a peer each host needs one.
        let hosts = if hold { 2 } else { [2, 2, 3][world.below(3) as usize] };
        let sharing = Sharing::Mirrored { hold };
        Plan { flush: FlushMode::Mirror, hosts, sharing, ..plan }
    }

    pub fn is_in_turn(&self) -> bool {
        self.sharing == Sharing::InTurn
    }

    pub fn is_mirrored(&self) -> bool {
        matches!(self.sharing, Sharing::Mirrored { .. })
    }

    /// Tells whether collection compresses anew what was not compressed: at once, since no day passes here.
    fn recompresses(&self) -> bool {
        self.codec == Codec::None && self.grace_ms != 500
    }

    /// Stores that may be lost with the pool still opening.
    pub fn survives_open(&self) -> usize {
        survives_open(self.layout, self.data_only)
    }

    /// Shards that count as stored at the end.
    pub fn w(&self) -> usize {
        if self.degrade_after.is_some() { self.layout.k() } else { self.layout.w() }
    }

    /// Tells whether it may stay unknown what was acknowledged: fewer shards counted, and one of them is lost
    /// or bad.
    pub fn undecidable(&self) -> bool {
        matches!(self.hazard, Hazard::Wipe | Hazard::Rot) && self.degrade_after.is_some()
    }
}

fn survives_open(layout: Layout, data_only: usize) -> usize {
    let acceptors = layout.acceptors_max().min(layout.n() - data_only);
    layout.m().min(acceptors.div_ceil(2) - 1)
}

/// What holds data only.
fn keep_no_conditions(world: &World, stores: &[Arc<SimStore>], count: usize) {
    let first = world.below(stores.len() as u64) as usize;
    for at in first..first + count {
        let conditions = [SimConditions::Ignored, SimConditions::Unknown][world.below(2) as usize];
        stores[at % stores.len()].faults(|f| f.conditions = conditions);
    }
}

/// See the module.
pub struct Site {
    pub world: World,
    pub plan: Plan,
    pub stores: Vec<Arc<SimStore>>,
    /// The store that `Hazard::Wipe` and `Hazard::Rot` befall.
    victim: usize,
    hosts: Vec<Machine>,
    pub model: Mutex<Model>,
    pub clones: Mutex<Vec<Cloned>>,
    /// Held while a host looks who owns the volume: one after another, so that the model knows whom each
    /// follows.
    pub opening: tokio::sync::Mutex<()>,
    pub over: Mutex<bool>,
    /// Hosts whose process is to be started anew.
    pub unclear: Mutex<Vec<usize>>,
    /// The last reason why the volume could not be opened.
    pub refused: Mutex<Option<(Kind, String)>>,
    /// The hosts that work on a volume which they have in turn.
    pub era: Mutex<Era>,
    pub mirrors: Mirrors,
    waiting: Arc<Mutex<BTreeMap<u64, (Instant, String)>>>,
    waits: AtomicU64,
    wiped: AtomicBool,
}

/// A machine, on which one host after another may be.
struct Machine {
    disk: SimDisk,
    /// Hosts that were lost here before.
    lost: AtomicUsize,
    /// Flushes that came back although syncs had failed meanwhile.
    mended: AtomicUsize,
    /// Volumes of the process that runs here.
    volumes: Mutex<Option<Volumes>>,
}

/// A user's request under way.
pub struct Waiting {
    all: Arc<Mutex<BTreeMap<u64, (Instant, String)>>>,
    number: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.all.lock().remove(&self.number);
    }
}

impl Site {
    pub fn new(world: &World, plan: Plan) -> Arc<Site> {
        let stores: Vec<_> = (0..plan.layout.n()).map(|i| SimStore::new(world, &format!("s{i}"))).collect();
        if plan.data_only > 0 {
            keep_no_conditions(world, &stores, plan.data_only);
        }
        let machine = |_| Machine {
            disk: SimDisk::new(world),
            lost: AtomicUsize::new(0),
            mended: AtomicUsize::new(0),
            volumes: Mutex::default(),
        };
        Arc::new(Site {
            world: world.clone(),
            victim: world.below(stores.len() as u64) as usize,
            stores,
            hosts: (0..plan.hosts + 1).map(machine).collect(),
            model: Mutex::new(Model::new(&LANES, plan.is_in_turn().then_some((plan.hosts, plan.hosts + 1)))),
            clones: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            over: Mutex::new(false),
            unclear: Mutex::default(),
            refused: Mutex::default(),
            era: Mutex::default(),
            mirrors: Mirrors::new(world, plan.is_mirrored()),
            waiting: Arc::default(),
            waits: AtomicU64::new(0),
            wiped: AtomicBool::new(false),
            plan,
        })
    }

    /// Prints a line for whoever replays a seed.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if is_replay() {
            eprintln!("{:>14?} {}", self.world.now().0, what());
        }
    }

    pub fn specs(&self) -> Vec<PoolStore> {
        let spec = |s: &Arc<SimStore>| PoolStore { url: s.url().to_owned(), zone: None, bucket: s.clone() };
        self.stores.iter().map(spec).collect()
    }

    pub fn disk(&self, host: usize) -> &SimDisk {
        &self.hosts[host].disk
    }

    /// Returns the number by which the model knows a host: a host in the place of a lost one has another.
    pub fn key(&self, host: usize) -> usize {
        host + self.hosts.len() * self.hosts[host].lost.load(Ordering::Relaxed)
    }

    /// Returns the place of the host with that key, if it is still there.
    pub fn host_of(&self, key: usize) -> Option<usize> {
        (0..self.plan.hosts).find(|host| self.key(*host) == key)
    }

    /// Returns the lanes that the host's users write to.
    pub fn lanes_of(&self, host: usize) -> Vec<usize> {
        let is_its = |lane: &usize| !self.plan.is_in_turn() || Shared::writer(*lane, self.plan.hosts) == host;
        (0..LANES.len()).filter(is_its).collect()
    }

    fn host(&self, rt: &Rt, host: usize) -> PoolHost {
        PoolHost {
            rt: rt.clone(),
            disk: Arc::new(self.disk(host).clone()),
            folder: Path::new("/home/pool").to_owned(),
            opener: Arc::new(OnlyNamed),
            pool: None,
            key: None,
            trial: Effort::LEAST,
        }
    }

    /// Makes the pool and the volume, before anything goes wrong.
    pub async fn found(&self) {
        let rt = self.world.rt();
        let mut options = CreateOptions::default();
        options.settings.grace_ms = self.plan.grace_ms;
        options.settings.degrade_after_ms = self.plan.degrade_after;
        let pool = Pool::create(self.host(&rt, 0), name("tank"), self.plan.layout, self.specs(), options);
        let volumes = self.volumes(&rt, 0, pool.await.unwrap());
        let settings = VolumeSettings {
            flush: self.plan.flush,
            max_tail_ms: self.plan.max_tail_ms,
            compression: self.plan.codec,
            journal_size: VolumeSettings::JOURNAL_MIN,
            recompress_after_ms: self.plan.recompresses().then_some(0),
            mirror_loss: match self.plan.sharing {
                Sharing::Mirrored { hold: true } => MirrorLoss::Hold,
                _ => MirrorLoss::Pool,
            },
            ..VolumeSettings::default()
        };
        volumes.create(&name("v"), SIZE, settings).await.unwrap();
        if self.plan.is_in_turn() {
            volumes.set(&name("v"), &["handover=ask".to_owned()]).await.unwrap();
        }
        volumes.engine().pool.close().await;
    }

    pub async fn open(&self, rt: &Rt, host: usize) -> windlass_base::Result<Volumes> {
        let pool = Pool::open(self.host(rt, host), self.specs()).await?;
        let volumes = self.volumes(rt, host, pool);
        self.mirrors.serve(rt, host, &volumes);
        *self.hosts[host].volumes.lock() = Some(volumes.clone());
        Ok(volumes)
    }

    /// Returns how often the host's journal, having failed, was begun anew before a flush came back.
    pub fn mended(&self, host: usize) -> &AtomicUsize {
        &self.hosts[host].mended
    }

    /// Makes a host's memory. The frames that its disk cache had read before are still there, if the disk is.
    fn memory(&self, rt: &Rt, host: usize) -> Memory {
        let Plan { cache, memory, .. } = self.plan;
        let memory_max = Memory::disk_share(memory, cache);
        let (dir, segment) = (Path::new(CACHE).to_owned(), Some(CACHE_SEGMENT));
        let config = DiskCacheConfig { dir, bytes_max: cache, memory_max, segment };
        let disk = DiskCache::start(rt, Arc::new(self.disk(host).clone()), config);
        Memory::with_disk(memory, disk, memory_max)
    }

    fn volumes(&self, rt: &Rt, host: usize, pool: Arc<Pool>) -> Volumes {
        Volumes::new(EngineContext {
            rt: rt.clone(),
            disk: Arc::new(self.disk(host).clone()),
            pool,
            dir: Path::new("/home/volumes").to_owned(),
            host: Host { id: HostId(self.key(host) as u128 + 1), name: format!("host{host}") },
            memory: self.memory(rt, host),
            tuning: self.plan.tuning,
            sweeps: Arc::default(),
            keys: match self.plan.rotates {
                true => OpenKeys::of_all(Offered::Key(Secret::new([0x4b; 32]))),
                false => OpenKeys::default(),
            },
            readers: Arc::default(),
            left: Arc::default(),
            mirror: self.mirrors.of(host),
        })
    }

    /// Ends a host's process, at once.
    pub fn crash(&self, process: &Process, host: usize, power: bool) {
        process.kill();
        *self.hosts[host].volumes.lock() = None;
        let current = self.model.lock().current();
        if self.plan.rotates && current.lock().host == self.key(host) {
            current.lock().killed(power);
        }
        if self.plan.is_in_turn() {
            self.leaves(host, self.world.now());
        }
        self.harm_cache(host);
        if power {
            self.disk(host).power_loss();
        }
        self.disturb(host);
    }

    /// Lets a host's cache rot, sometimes. A cache is nobody's promise, and nobody may notice.
    fn harm_cache(&self, host: usize) {
        let (world, file) = (&self.world, Path::new(CACHE).join("frames"));
        if self.plan.cache > 0 && world.per_mille(500) {
            for _ in 0..1 + world.below(40) {
                let (at, byte) = (world.below(self.plan.cache), world.below(256) as u8);
                self.disk(host).rot(&file, at, &[byte; 40]);
            }
        }
    }

    /// Notes that a host had trouble. If it is the owner, it can't be expected to store what it holds in
    /// time.
    pub fn disturb(&self, host: usize) {
        let current = self.model.lock().current();
        let mut session = current.lock();
        if session.host == self.key(host) || self.plan.is_in_turn() {
            session.disturb(self.world.now());
        }
    }

    /// Loses a host that does not run for good, with its state folder.
    pub fn lose(&self, host: usize) {
        self.disk(host).replace();
        self.model.lock().current().lock().disk_lost(host);
        // If it was the owner, nobody answers who asks before somebody uses force.
        self.troubled_until(self.world.now() + Duration::from_secs(100_000));
        self.hosts[host].lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Does what the hazard does to the store that it befalls.
    pub fn damage(&self) {
        let (contents, world) = (self.stores[self.victim].contents(), &self.world);
        if self.plan.hazard == Hazard::Wipe {
            self.note(|| format!("store s{} is wiped", self.victim));
            self.wiped.store(true, Ordering::Relaxed);
            return contents.wipe();
        }
        let share = [100, 1000][world.below(2) as usize];
        for key in contents.keys().iter().filter(|key| key.contains("/c-")) {
            if world.per_mille(share) {
                self.note(|| format!("{key} in s{} goes bad", self.victim));
                contents.rot(key, |bytes| rot(bytes, world));
            }
        }
    }

    pub fn wiped(&self) -> bool {
        self.wiped.load(Ordering::Relaxed)
    }

    /// Tells whether a store has lost what it had, or some of it.
    pub fn lost_some(&self) -> bool {
        self.wiped() || self.plan.hazard == Hazard::Rot
    }

    /// Makes `n` stores lose their contents, a rotten one among them.
    pub fn wipe_some(&self, n: usize) -> usize {
        let first = if self.plan.hazard == Hazard::Rot { self.victim as u64 } else { self.world.below(64) };
        for at in 0..n {
            let index = (first as usize + at) % self.stores.len();
            self.note(|| format!("store s{index} is wiped"));
            self.stores[index].contents().wipe();
        }
        n
    }

    pub fn usual_latency(&self) {
        let usual = StoreFaults::default().latency;
        self.stores.iter().for_each(|s| s.faults(|f| f.latency = usual));
    }

    /// Makes everything work from now on.
    pub fn heal(&self) {
        self.note(|| "stores and disks work again".to_owned());
        for store in &self.stores {
            store.faults(|f| *f = StoreFaults { conditions: f.conditions, ..StoreFaults::default() });
        }
        self.mirrors.heal();
        for host in 0..self.hosts.len() {
            self.disk(host).faults(|f| (f.sync_fails, f.read_fails, f.capacity) = (0, 0, u64::MAX));
        }
    }

    /// Registers a request of a user that must not wait for ever.
    pub fn waits(&self, what: String) -> Waiting {
        let number = self.waits.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(number, (self.world.now(), what));
        Waiting { all: self.waiting.clone(), number }
    }

    /// Waits while everything works, and checks that what waited for that has ended, of itself. Nobody asks
    /// for anything new, so the memory for what is on its way to the stores must come back as well.
    pub async fn goes_on(&self, rt: &Rt) {
        let since = self.world.now();
        let mut holding: Vec<_> = self.hosts.iter().filter_map(|host| host.volumes.lock().clone()).collect();
        while self.world.now().since(since) < RESUMES {
            rt.sleep(LOOK).await;
            holding.retain(|volumes| volumes.engine().memory.encode.used() > 0);
        }
        assert!(holding.is_empty(), "memory for encoding is held {RESUMES:?} after all is well");
        let old: Vec<_> =
            self.waiting.lock().values().filter(|(began, _)| *began <= since).cloned().collect();
        let failure = |host: &Machine| host.volumes.lock().as_ref()?.failure(&name("v"));
        let why: Vec<_> = self.hosts.iter().map(failure).collect();
        assert!(old.is_empty(), "these still wait {RESUMES:?} after all is well: {old:?}, {why:?}");
    }
}

fn rot(bytes: &mut Vec<u8>, world: &World) {
    let at = world.below(bytes.len().max(1) as u64) as usize;
    match world.below(4) {
        0 => bytes.truncate(at),
        1 => bytes[at..].fill(0),
        _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << world.below(8)),
    }
}
