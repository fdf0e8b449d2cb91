//! A server in memory for tests of the face and of what uses its client: its operations are slow, or fail, as the test says, on
//! the simulation's virtual time. No program is linked with it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::server::serve_stream;
use super::suspend_resume::Until;
use super::wire::Headers;
use super::{
    ChangedExtent, Changes, Description, Export, Exports, HeldDisk, Holding, ListedExport, MemoryDisk,
    StatusExtent,
};
use windlass_base::rt::sim::Sim;
use windlass_base::rt::{Instant, Rt};
use windlass_base::{Budget, Error, Kind, Result, Rope};

pub const SIZE: u64 = 1 << 20;

/// Runs a scenario to its end for several orders of its tasks.
pub fn simulate<F: Future<Output = ()> + Send + 'static>(scenario: impl Fn(Rt) -> F) {
    for seed in 0..8 {
        let sim = Sim::new(seed);
        tick(sim.rt());
        sim.run(scenario(sim.rt())).unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    }
}

/// Ends a timer every second. The simulation may let the next timer fire early in a task's day, as a slow
/// host would. With one a second, no client that goes on talking looks silent for minutes.
pub fn tick(rt: Rt) {
    let clock = rt.clone();
    rt.spawn(async move {
        loop {
            clock.sleep(Duration::from_secs(1)).await;
        }
    })
    .detach();
}

/// Exports for tests: `disk` (writable), `snap` (read-only), `huge` (not listed), `owned` (refused), and no
/// other.
pub struct House {
    pub rt: Rt,
    pub disk: Arc<MemoryDisk>,
    snap: Arc<MemoryDisk>,
    pub state: Mutex<State>,
    /// Memory for requests of the clients: two whole disks.
    pub memory: Budget,
}

#[derive(Default)]
pub struct State {
    /// Operations that the exports were asked for, in the order in which they began; an entry with `.` in
    /// front is an end.
    pub log: Vec<String>,
    /// Handles that are open.
    pub open: usize,
    /// Time that every operation takes.
    pub delay: Duration,
    /// Error with which every operation fails.
    pub failing: Option<(Kind, &'static str)>,
    /// Error with which a disk of a client of another process is not entered again.
    pub not_again: Option<(Kind, &'static str)>,
    /// Reason why a client's disk has failed.
    pub lost: Option<&'static str>,
    /// Reads return a byte too few.
    pub short_reads: bool,
    /// Time from one write's turn to the next one's; `next_turn` is when that comes.
    pub pace: Option<Duration>,
    pub next_turn: Instant,
}

pub fn description(name: &str, read_only: bool) -> Description {
    Description {
        name: name.into(),
        text: format!("the {name}"),
        size: SIZE,
        read_only,
        multi_conn: true,
        fast_zero: true,
    }
}

impl House {
    pub fn new(rt: &Rt) -> Arc<House> {
        let disk = MemoryDisk::new(description("disk", false));
        let snap = MemoryDisk::new(description("snap", true));
        Arc::new(House { rt: rt.clone(), disk, snap, state: Mutex::default(), memory: Budget::new(2 * SIZE) })
    }

    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().log)
    }

    fn find(&self, name: &str) -> Result<&Arc<MemoryDisk>> {
        match name {
            "disk" | "" => Ok(&self.disk),
            "snap" => Ok(&self.snap),
            _ => Err(Error::new(Kind::NotFound, format!("there is no `{name}`"))),
        }
    }
}

/// The exports of a house, as the server takes them.
pub struct Shown(pub Arc<House>);

#[async_trait]
impl Exports for Shown {
    async fn list(&self) -> Result<Vec<ListedExport>> {
        let listed = |name: &str| ListedExport { name: name.into(), text: format!("the {name}") };
        Ok(["disk", "snap", "owned"].map(listed).into())
    }

    async fn describe(&self, name: &str) -> Result<Description> {
        match name {
            "owned" => Ok(description(name, false)),
            "huge" => Ok(Huge(self.0.clone()).describe()),
            _ => Ok(self.0.find(name)?.describe()),
        }
    }

    /// Lists the snapshots `s0` to `s299`.
    async fn changes_since(&self, _: &str) -> Result<Vec<String>> {
        Ok((0..300).map(|n| format!("s{n}")).collect())
    }

    async fn open(&self, name: &str, _: &str) -> Result<Arc<dyn Export>> {
        if name == "owned" {
            return Err(Error::new(Kind::Owned, "host `b` has owned it since noon"));
        }
        if name == "huge" {
            return Ok(Arc::new(Huge(self.0.clone())));
        }
        let disk = self.0.find(name)?.clone();
        self.0.state.lock().open += 1;
        Ok(Arc::new(Handle { house: self.0.clone(), disk }))
    }

    /// Opens whatever has this name now.
    async fn open_again(&self, _: &str, held: &HeldDisk, peer: &str) -> Result<Arc<dyn Export>> {
        if let Some((kind, why)) = self.0.state.lock().not_again {
            return Err(Error::new(kind, why));
        }
        self.open(held.0.as_str().unwrap_or("none"), peer).await
    }
}

/// A handle that records what it is asked, and is slow or fails as told.
struct Handle {
    house: Arc<House>,
    pub disk: Arc<MemoryDisk>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.house.state.lock().open -= 1;
    }
}

impl Handle {
    async fn enter<T>(&self, what: String, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (delay, failing) = {
            let mut state = self.house.state.lock();
            state.log.push(what.clone());
            (state.delay, state.failing)
        };
        if !delay.is_zero() {
            self.house.rt.sleep(delay).await;
        }
        if let Some((kind, why)) = failing {
            return Err(Error::new(kind, why));
        }
        let out = work.await;
        self.house.state.lock().log.push(format!(".{what}"));
        out
    }
}

/// A client's claim on an export by its name, which no other export ever has here.
pub struct Named(pub Arc<House>, pub &'static str);

impl Holding for Named {
    fn held(&self) -> Result<HeldDisk> {
        match self.0.state.lock().lost {
            Some(why) => Err(Error::new(Kind::Fenced, why)),
            None => Ok(HeldDisk(self.1.into())),
        }
    }
}

#[async_trait]
impl Export for Handle {
    fn describe(&self) -> Description {
        self.disk.describe()
    }
    fn holding(&self) -> Arc<dyn Holding> {
        let name = if self.disk.describe().read_only { "snap" } else { "disk" };
        Arc::new(Named(self.house.clone(), name))
    }
    async fn changes_again(&self, _: &str, held: &HeldDisk) -> Result<Box<dyn Changes>> {
        self.changes(held.0.as_str().unwrap_or("none")).await
    }
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn turn(&self, writes: bool, _: u64) -> Option<BoxFuture<'_, ()>> {
        let mut state = self.house.state.lock();
        let (pace, now) = (state.pace.filter(|_| writes)?, self.house.rt.now());
        let mine = state.next_turn.max(now);
        state.next_turn = mine + pace;
        Some(self.house.rt.sleep(mine.since(now)))
    }
    async fn read(&self, offset: u64, len: usize) -> Result<Rope> {
        let cut = usize::from(self.house.state.lock().short_reads);
        self.enter(format!("read {offset}+{len}"), self.disk.read(offset, len - cut)).await
    }
    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.enter(format!("write {offset}+{}", data.len()), self.disk.write(offset, data)).await
    }
    async fn zero(&self, offset: u64, len: u64, no_hole: bool) -> Result<()> {
        let what = format!("zero {offset}+{len}{}", if no_hole { " no hole" } else { "" });
        self.enter(what, self.disk.zero(offset, len, no_hole)).await
    }
    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.enter(format!("trim {offset}+{len}"), self.disk.trim(offset, len)).await
    }
    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<StatusExtent>> {
        self.enter(format!("status {offset}+{len}"), self.disk.extents(offset, len, max)).await
    }
    async fn changes(&self, snapshot: &str) -> Result<Box<dyn Changes>> {
        match snapshot {
            "s7" => Err(Error::new(Kind::NotFound, "snapshot s7 was removed")),
            _ => Ok(Box::new(EverySecond(snapshot.to_owned()))),
        }
    }
    async fn flush(&self) -> Result<()> {
        self.enter("flush".into(), self.disk.flush()).await
    }
}

/// Changes of every second block, since any snapshot but one that is gone.
struct EverySecond(String);

#[async_trait]
impl Changes for EverySecond {
    fn held(&self) -> HeldDisk {
        HeldDisk(self.0.clone().into())
    }
    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<ChangedExtent>> {
        let blocks = (offset / 4096..(offset + len).div_ceil(4096)).take(max);
        Ok(blocks.map(|n| ChangedExtent { len: 4096, changed: n % 2 > 0 }).collect())
    }
}

/// Connects our own client to the house. Once the token is cancelled the server hangs up.
pub async fn open_to_map(
    house: &Arc<House>,
    name: &str,
    contexts: &[&str],
    headers: Headers,
) -> (Result<Client>, CancellationToken) {
    let (io, theirs) = tokio::io::duplex(10_000);
    let stop = CancellationToken::new();
    let exports = Arc::new(Shown(house.clone()));
    let until = Until { stop: stop.clone(), pause: CancellationToken::new() };
    serve_stream(&house.rt, (theirs, None), exports, house.memory.clone(), until).detach();
    (Client::enter(&house.rt, Box::new(io), name, contexts, headers).await, stop)
}

/// Connects our own client, for tests of code that uses the client.
pub async fn client_of(house: &Arc<House>, name: &str) -> (Result<Client>, CancellationToken) {
    open_to_map(house, name, &[], Headers::Extended).await
}

/// A disk of 16 TiB, of which one piece is data. It does everything at once, and writes down what it was
/// asked.
pub struct Huge(pub Arc<House>);

pub const HUGE: u64 = 16 << 40;
pub const DATA: std::ops::Range<u64> = 5 << 40..(5 << 40) + (64 << 10);

#[async_trait]
impl Export for Huge {
    fn describe(&self) -> Description {
        Description { size: HUGE, ..description("huge", false) }
    }
    fn holding(&self) -> Arc<dyn Holding> {
        Arc::new(Named(self.0.clone(), "huge"))
    }
    async fn changes_again(&self, snapshot: &str, _: &HeldDisk) -> Result<Box<dyn Changes>> {
        self.changes(snapshot).await
    }
    fn size(&self) -> u64 {
        HUGE
    }
    async fn read(&self, _: u64, len: usize) -> Result<Rope> {
        Ok(Bytes::from(vec![0; len]).into())
    }
    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.log(format!("write {offset}+{}", data.len()))
    }
    async fn zero(&self, offset: u64, len: u64, _: bool) -> Result<()> {
        self.log(format!("zero {offset}+{len}"))
    }
    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.log(format!("trim {offset}+{len}"))
    }
    async fn flush(&self) -> Result<()> {
        self.log("flush".into())
    }
    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<StatusExtent>> {
        assert!(len <= 4 << 30, "a map of any length is walked in steps");
        self.log("status".into())?;
        let marks = [offset, DATA.start.clamp(offset, offset + len), DATA.end.clamp(offset, offset + len)];
        let parts = [(marks[0]..marks[1], true), (marks[1]..marks[2], false), (marks[2]..offset + len, true)];
        let parts = parts.into_iter().filter(|(part, _)| !part.is_empty());
        Ok(parts.map(|(part, hole)| StatusExtent { len: part.end - part.start, hole }).take(max).collect())
    }
    async fn changes(&self, _: &str) -> Result<Box<dyn Changes>> {
        Ok(Box::new(HugeChanges))
    }
}

impl Huge {
    fn log(&self, what: String) -> Result<()> {
        self.0.state.lock().log.push(what);
        Ok(())
    }
}

struct HugeChanges;

#[async_trait]
impl Changes for HugeChanges {
    fn held(&self) -> HeldDisk {
        HeldDisk("huge".into())
    }
    async fn extents(&self, _: u64, len: u64, _: usize) -> Result<Vec<ChangedExtent>> {
        assert!(len <= 4 << 30);
        Ok(vec![ChangedExtent { len, changed: false }])
    }
}
