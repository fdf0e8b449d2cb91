//! The world of a run: stores as two sides reach them, hosts with a disk each, and what may never be seen in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use windlass_base::rt::Rt;
use windlass_base::rt::sim::{SimDisk, World};
use windlass_base::{Error, HostId, Incarnation, Kind, Name, Result};
use windlass_pool::{CreateOptions, Layout, Opener, Pool, PoolHost, PoolStore};
use windlass_store::{
    Backup, BucketRef, ByteRange, Cause, Effort, List, Reach, SimStore, Store as _, StoreFaults,
};
use windlass_volume::{EngineContext, FlushMode, Host, Memory, Tuning, VolumeSettings, Volumes};

use super::admin::Turns;
use crate::register::History;
use crate::seeds::is_replay;
use crate::volume::model::{Model, SECTOR};

/// Size of the volume in bytes: one block that is written by whoever becomes the owner, then those that are
/// written and looked at.
pub const SIZE: u64 = 64 * 4096;
const FIRST: u64 = 4096;
pub const SECTORS: u64 = 40 * 8;
const LANE: std::ops::Range<u64> = 0..SECTORS;
/// Host number of the owner. Then come clients of the register on each side, administrators, and a host that
/// comes at the end.
pub const OWNER: usize = 0;
pub const CLIENTS: [usize; 2] = [1, 2];
pub const ADMINS: [usize; 2] = [3, 4];
pub const HEIR: usize = 5;
const HOSTS: usize = 6;
/// Number of other stores for each place.
const SPARES: usize = 3;
/// Bytes of a register's object that hold the pool's generation.
const GENERATION: std::ops::Range<usize> = 28..36;

/// Returns the byte where a sector of the span begins.
pub fn at(sector: u64) -> u64 {
    FIRST + sector * SECTOR
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// The fate of a store that is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// The store's place is there, and empty.
    Emptied,
    /// The store never answers anybody again.
    Gone,
    /// Administrators take it for lost; the owner still reaches it.
    Apart,
}

/// Properties of a run, as its seed draws them.
#[derive(Clone, Debug)]
pub struct Plan {
    pub layout: Layout,
    pub loss: Loss,
    /// Places whose stores are lost.
    pub lost: Vec<usize>,
    /// The place whose store is being replaced meanwhile, and whose new one is lost.
    pub moving: Option<usize>,
    /// A majority of some generation may be lost.
    pub guess: bool,
    /// The owner's host is lost with the stores.
    pub owner_dies: bool,
    /// Set with `Loss::Apart` only: the owner reaches the lost stores alone.
    pub split: bool,
    pub admins: usize,
    /// Administrators put the same stores in the place of those that are lost.
    pub agree: bool,
    /// The contents that came to an emptied place are lost once more.
    pub again: bool,
    /// An emptied place was one whose disk was not mounted: in the end it is, over what has come there.
    pub mounted_again: bool,
    /// Requests in 1000 that fail, and whose answer is lost.
    pub errors: u32,
    pub unanswered: u32,
}

impl Plan {
    /// Draws a run in which so many stores are lost that the rest is no majority; with `guess` more than half
    /// of all.
    pub fn draw(world: &World, layouts: &[&str], guess: bool) -> Plan {
        let layout: Layout = layouts[world.below(layouts.len() as u64) as usize].parse().unwrap();
        let all = layout.acceptors_max();
        let least = if guess { all / 2 + 1 } else { all - all / 2 };
        let most = if guess { layout.m() } else { all / 2 };
        let lost = least + world.below((most - least) as u64 + 1) as usize;
        Plan::with(world, layout, some(world, all, lost), None)
    }

    /// Draws a run in which a store is replaced, and its new one is lost, and perhaps others.
    pub fn midway(world: &World, layouts: &[&str]) -> Plan {
        let layout: Layout = layouts[world.below(layouts.len() as u64) as usize].parse().unwrap();
        let place = world.below(layout.n() as u64) as usize;
        let others = world.below(layout.m() as u64) as usize;
        let mut lost = some(world, layout.n(), others + 1);
        lost.retain(|i| *i != place);
        lost.truncate(others);
        if world.per_mille(600) {
            lost.push(place);
        }
        Plan::with(world, layout, lost, Some(place))
    }

    fn with(world: &World, layout: Layout, lost: Vec<usize>, moving: Option<usize>) -> Plan {
        let all = layout.acceptors_max();
        let before = lost.iter().filter(|i| **i < all).count();
        let after = before + usize::from(moving.is_some_and(|i| i < all && !lost.contains(&i)));
        let (guess, owner_dies) = (after > all / 2, world.per_mille(400));
        let loss = [Loss::Emptied, Loss::Gone, Loss::Apart][world.below(3) as usize];
        // What was acknowledged since survives it only if it survives so many at any instant.
        let bears = owner_dies || !guess && places(&lost, moving) <= layout.w() - layout.k();
        let again = loss == Loss::Emptied && bears && world.per_mille(300);
        Plan {
            split: loss == Loss::Apart && world.per_mille(400),
            mounted_again: loss == Loss::Emptied && !again && world.per_mille(400),
            again,
            admins: 1 + world.below(2) as usize,
            agree: world.per_mille(600),
            errors: [0, 5][world.below(2) as usize],
            unanswered: [0, 10][world.below(2) as usize],
            layout,
            loss,
            lost,
            moving,
            guess,
            owner_dies,
        }
    }

    /// Tells whether everything must be everywhere before the loss: only then does what was acknowledged
    /// survive it.
    pub fn is_hushed(&self) -> bool {
        !self.guess && places(&self.lost, self.moving) > self.layout.w() - self.layout.k()
    }
}

/// Returns the number of places where the last put is lost. A store that is being replaced is one more, since
/// new objects go to the new store alone.
fn places(lost: &[usize], moving: Option<usize>) -> usize {
    lost.len() + usize::from(moving.is_some_and(|place| !lost.contains(&place)))
}

/// Draws `count` different ones of the first `n` numbers.
fn some(world: &World, n: usize, count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    (0..count).map(|_| all.swap_remove(world.below(all.len() as u64) as usize)).collect()
}

/// The side from which a host sees the stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The administrators', for whom stores are lost.
    Near,
    /// The owner's side.
    Far,
}

/// A store, as each side reaches it.
#[derive(Clone, Debug)]
pub struct Way {
    pub near: Arc<SimStore>,
    pub far: Arc<SimStore>,
}

impl Way {
    fn new(world: &World, name: &str) -> Way {
        let near = SimStore::new(world, name);
        Way { far: near.by_another_way(), near }
    }

    fn from(&self, side: Side) -> &Arc<SimStore> {
        if side == Side::Near { &self.near } else { &self.far }
    }

    pub fn both(&self, change: impl Fn(&mut StoreFaults)) {
        self.near.faults(&change);
        self.far.faults(&change);
    }
}

/// A call that tells the model what was acknowledged.
type Promise = Box<dyn FnOnce() + Send>;

/// The world of a run; see the module.
pub struct Site {
    pub world: World,
    pub plan: Plan,
    pub stores: Vec<Way>,
    /// Spare stores, by place, then number.
    spares: Vec<Vec<Way>>,
    disks: Vec<SimDisk>,
    pub model: Mutex<Model>,
    pub history: Mutex<History>,
    /// The stores of each generation that anybody was in.
    members: Mutex<BTreeMap<u64, Vec<Incarnation>>>,
    /// The generation that each register's object was last seen in, by store and key.
    generations: Mutex<BTreeMap<(String, String), u64>>,
    /// Acknowledgements for the model, each with the number of guesses by then.
    promises: Mutex<Vec<(u64, Promise)>>,
    /// Number of all guesses, once nobody guesses any more.
    guesses: Mutex<Option<u64>>,
    /// An administrator was told that it would be a guess.
    pub told_of_guess: AtomicBool,
    /// Stores are lost, though the owner may reach them still.
    struck: AtomicBool,
    /// The owner begins nothing new.
    pub hush: AtomicBool,
    /// The owner was told that the volume is another's.
    pub shut_out: AtomicBool,
    /// The disk of the first emptied place, as it was.
    unmounted: Mutex<Option<Backup>>,
    pub turns: Turns,
}

/// The opener by which a host opens stores that the pool lists.
#[derive(Clone)]
struct Doors {
    site: Arc<Site>,
    side: Side,
}

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.side)
    }
}

#[async_trait]
impl Opener for Doors {
    async fn open(&self, url: &str) -> Result<BucketRef> {
        let found = self.site.ways().find(|way| way.near.url() == url);
        let none = || Error::new(Kind::NotFound, format!("no store {url}"));
        found.map(|way| way.from(self.side).clone() as BucketRef).ok_or_else(none)
    }
}

impl Site {
    pub fn new(world: &World, plan: Plan) -> Arc<Site> {
        let n = plan.layout.n();
        let spare = |i: usize| (0..SPARES).map(|s| Way::new(world, &format!("spare{i}-{s}"))).collect();
        Arc::new(Site {
            world: world.clone(),
            stores: (0..n).map(|i| Way::new(world, &format!("s{i}"))).collect(),
            spares: (0..n).map(spare).collect(),
            disks: (0..HOSTS).map(|_| SimDisk::new(world)).collect(),
            model: Mutex::new(Model::new(std::slice::from_ref(&LANE), None)),
            history: Mutex::default(),
            members: Mutex::default(),
            generations: Mutex::default(),
            promises: Mutex::default(),
            guesses: Mutex::default(),
            told_of_guess: AtomicBool::new(false),
            struck: AtomicBool::new(false),
            hush: AtomicBool::new(false),
            shut_out: AtomicBool::new(false),
            unmounted: Mutex::default(),
            turns: Turns::default(),
            plan,
        })
    }

    /// Prints a line for whoever replays a seed.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if is_replay() {
            eprintln!("{:>14?} {}", self.world.now().0, what());
        }
    }

    pub fn ways(&self) -> impl Iterator<Item = &Way> {
        self.stores.iter().chain(self.spares.iter().flatten())
    }

    fn specs(&self, side: Side) -> Vec<PoolStore> {
        self.stores.iter().map(|way| spec(way, side)).collect()
    }

    pub fn url(&self, place: usize) -> String {
        self.stores[place].near.url().to_owned()
    }

    /// Returns another store for this place.
    pub fn spare(&self, place: usize, number: usize, side: Side) -> PoolStore {
        spec(&self.spares[place][number], side)
    }

    /// Returns the stores that are lost, the new store of a replacement among them.
    fn victims(&self) -> impl Iterator<Item = &Way> {
        let new = self.plan.moving.map(|place| &self.spares[place][0]);
        self.plan.lost.iter().map(|place| &self.stores[*place]).chain(new)
    }

    /// Tells whether whoever knows what happened takes this store for lost.
    pub fn is_lost(&self, url: &str) -> bool {
        self.victims().any(|way| way.near.url() == url)
    }

    pub fn host(self: &Arc<Self>, rt: &Rt, host: usize, side: Side) -> (PoolHost, Vec<PoolStore>) {
        let opener = Arc::new(Doors { site: self.clone(), side });
        let (disk, folder) = (Arc::new(self.disks[host].clone()), Path::new("/home/pool").to_owned());
        let (pool, key, trial) = (None, None, Effort::LEAST);
        (PoolHost { rt: rt.clone(), disk, folder, opener, pool, key, trial }, self.specs(side))
    }

    pub async fn open(self: &Arc<Self>, rt: &Rt, host: usize, side: Side) -> Result<Volumes> {
        let (at, specs) = self.host(rt, host, side);
        let pool = Pool::open(at, specs).await?;
        self.saw(&pool);
        Ok(self.volumes(rt, host, pool))
    }

    pub fn volumes(&self, rt: &Rt, host: usize, pool: Arc<Pool>) -> Volumes {
        Volumes::new(EngineContext {
            rt: rt.clone(),
            disk: Arc::new(self.disks[host].clone()),
            pool,
            dir: Path::new("/home/volumes").to_owned(),
            host: Host { id: HostId(host as u128 + 1), name: format!("host{host}") },
            memory: Memory::new(8 << 20),
            tuning: Tuning::default(),
            sweeps: Arc::default(),
            keys: Default::default(),
            readers: Arc::default(),
            left: Arc::default(),
            mirror: Default::default(),
        })
    }

    /// Makes the pool and the volume, before anything goes wrong.
    pub async fn found(self: &Arc<Self>) {
        let rt = self.world.rt();
        let (at, specs) = self.host(&rt, OWNER, Side::Far);
        let mut options = CreateOptions::default();
        options.settings.degrade_after_ms = None;
        let pool = Pool::create(at, name("tank"), self.plan.layout, specs, options).await.unwrap();
        let volumes = self.volumes(&rt, OWNER, pool);
        let settings =
            VolumeSettings { flush: FlushMode::Pool, max_tail_ms: 500, ..VolumeSettings::default() };
        volumes.create(&name("v"), SIZE, settings).await.unwrap();
        volumes.engine().pool.close().await;
        for way in self.ways() {
            way.both(|f| (f.errors, f.lost) = (self.plan.errors, self.plan.unanswered));
        }
    }

    /// Makes stores lost, for ever or as far as administrators know.
    pub fn lose(&self) {
        self.struck.store(true, Ordering::Relaxed);
        let silent = [Reach::Refuses, Reach::Silent][self.world.below(2) as usize];
        for way in self.victims() {
            self.note(|| format!("{} is lost, {:?}", way.near.url(), self.plan.loss));
            match self.plan.loss {
                Loss::Emptied => {
                    let disk = way.near.contents().exchange(Backup::default());
                    self.unmounted.lock().get_or_insert(disk);
                }
                Loss::Gone => way.both(|f| f.reach = silent),
                Loss::Apart => way.near.faults(|f| f.reach = silent),
            }
        }
        if self.plan.split {
            let left = |way: &&Way| !self.is_lost(way.near.url());
            self.ways().filter(left).for_each(|way| way.far.faults(|f| f.reach = Reach::Refuses));
        }
    }

    /// Loses again what has come to one of the emptied places.
    pub fn lose_again(&self) {
        if let Some(way) = self.victims().next() {
            self.note(|| format!("{} is emptied again", way.near.url()));
            way.near.contents().wipe();
        }
    }

    /// Makes everything work from now on but what is gone.
    pub fn heal(&self) {
        self.note(|| "all that is not gone works".to_owned());
        if self.plan.mounted_again
            && let (Some(way), Some(disk)) = (self.victims().next(), self.unmounted.lock().take())
        {
            self.note(|| format!("the disk of {} is mounted again", way.near.url()));
            way.near.contents().exchange(disk);
            // That disk is of before.
            let url = way.near.url();
            self.generations.lock().retain(|(place, _), _| place != url);
        }
        for way in self.ways() {
            let gone = self.plan.loss == Loss::Gone && self.is_lost(way.near.url());
            way.both(|f| {
                (f.errors, f.lost) = (0, 0);
                f.reach = if gone { Reach::Refuses } else { Reach::Up };
            });
        }
    }

    /// Checks that all who are in one generation are in it with the same stores.
    pub fn saw(&self, pool: &Pool) {
        let now = pool.membership();
        let stores: Vec<Incarnation> = now.members.iter().map(|m| m.incarnation()).collect();
        let mut all = self.members.lock();
        let known = all.entry(now.generation.0).or_insert_with(|| stores.clone());
        assert_eq!(*known, stores, "two pools of one: generation {} stands twice", now.generation.0);
    }

    /// Tells whether what was just acknowledged bears the loss. Chunks stored on `w` stores do not, while others
    /// lack their shards (`Layout` says so when a pool is made): the owner may die before those have them.
    pub fn bears(&self, pool: &Pool) -> bool {
        !self.struck.load(Ordering::Relaxed) || pool.pending() == 0
    }

    /// Notes what was acknowledged after so many guesses: it counts if no other guess comes.
    pub fn promised(&self, guesses: u64, promise: impl FnOnce() + Send + 'static) {
        match *self.guesses.lock() {
            None => self.promises.lock().push((guesses, Box::new(promise))),
            Some(all) if all == guesses => promise(),
            Some(_) => {}
        }
    }

    /// Makes the promises since the last guess count, as nobody guesses any more: what was acknowledged must
    /// be there.
    pub fn keep_promises(&self, guesses: u64) {
        *self.guesses.lock() = Some(guesses);
        let promises = std::mem::take(&mut *self.promises.lock());
        promises.into_iter().filter(|(before, _)| *before == guesses).for_each(|(_, promise)| promise());
    }

    /// Returns how many guesses there were, as far as anybody has seen.
    pub fn guesses(&self) -> u64 {
        self.members.lock().keys().last().map_or(0, |generation| generation >> 16)
    }

    /// Tells whether a generation was seen that began with a guess.
    pub fn guessed(&self) -> bool {
        self.guesses() > 0
    }

    /// Looks at every register's object in every store: none ever goes back to an earlier generation.
    async fn look_at_registers(&self) {
        let mut now = BTreeMap::new();
        for way in self.ways() {
            let contents = way.near.contents();
            let list = List { prefix: "reg/".to_owned(), max: 1_000, ..List::default() };
            let page = contents.list(&list, Cause::Scrub).await.unwrap();
            for key in page.objects.into_iter().map(|object| object.key) {
                let range = ByteRange::Whole { max: 1 << 20 };
                let object = contents.get(&key, range, Cause::Scrub).await.unwrap();
                let bytes = object.unwrap().body[GENERATION].try_into().unwrap();
                now.insert((way.near.url().to_owned(), key), u64::from_le_bytes(bytes));
            }
        }
        let before = std::mem::take(&mut *self.generations.lock());
        for (place, generation) in &now {
            let least = before.get(place).copied().unwrap_or(0);
            assert!(*generation >= least, "{place:?} went from generation {least} back to {generation}");
        }
        *self.generations.lock() = now;
    }

    /// Looks at all registers again and again, until the run is over.
    pub async fn watch(self: Arc<Self>, rt: Rt) {
        loop {
            self.look_at_registers().await;
            rt.sleep(Duration::from_millis(50 + self.world.below(500))).await;
        }
    }

    pub fn is_shut_out(&self) -> bool {
        self.shut_out.load(Ordering::Relaxed)
    }
}

fn spec(way: &Way, side: Side) -> PoolStore {
    PoolStore { url: way.near.url().to_owned(), zone: None, bucket: way.from(side).clone() }
}
