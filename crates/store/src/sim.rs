//! A bucket of the simulated world: a memory store behind a network that delays, loses and delivers late.
//!
//! A request takes effect at some time and is answered at a later one. Its effect needs nobody waiting: when the
//! client's process is killed, what it had under way lands, soon, late or never. A put without an answer is
//! `Unknown`, whichever of these became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Asked, Bucket, BucketAnswer, BucketRequest, Cause, MemStore, Space, Store};
use windlass_base::rt::sim::World;
use windlass_base::{Error, Kind, Result};

/// Whether a store answers at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    Up,
    /// Nothing arrives, and the client is told at once.
    Refuses,
    /// Every request is refused for want of rights.
    Denies,
    /// Nothing arrives, and the client gives up after `patience`.
    Silent,
    /// Something else answers at its address: nothing arrives, and no answer says anything, of a put not even that it
    /// was not stored.
    Foreign,
    /// Puts hang until the client gives up, and the bucket tells it; all else is answered. As a folder whose filesystem
    /// is frozen.
    Frozen,
}

impl Reach {
    /// Whether a request gets no answer.
    pub(super) fn swallows(self, request: &BucketRequest) -> bool {
        self == Reach::Silent || self == Reach::Frozen && matches!(request, BucketRequest::Put { .. })
    }
}

/// What a store does with the condition of a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SimConditions {
    Judged,
    /// The put is done, whatever is there.
    Ignored,
    /// The put is refused as something that the server does not know (501).
    Unknown,
}

/// What goes wrong and how slow things are; changed while a run goes on.
#[derive(Clone, Copy, Debug)]
pub struct StoreFaults {
    pub reach: Reach,
    /// Half of a request's time: until its effect, and again until its answer.
    pub latency: (Duration, Duration),
    /// Requests that fail and certainly had no effect, in 1000.
    pub errors: u32,
    /// Requests whose answer is lost, in 1000: with effect, with a late one, or without.
    pub lost: u32,
    /// How late a lost request may still land.
    pub late: Duration,
    /// When a client gives up waiting.
    pub patience: Duration,
    /// Whoever asks may not delete.
    pub keeps: bool,
    /// How far its clock is ahead of that of whoever asks; `None`: it tells no time.
    pub ahead_ms: Option<i64>,
    /// How long after the condition of a put was judged it is written, at most, whatever is there by then. Zero: both at one
    /// instant.
    pub races: Duration,
    /// What it does with the condition of a put.
    pub conditions: SimConditions,
    /// What the server calls itself.
    pub server: Option<&'static str>,
    /// It is full: what is longer than this is refused.
    pub longest_put: Option<usize>,
    /// The room that it tells of.
    pub free_bytes: Option<u64>,
}

impl Default for StoreFaults {
    fn default() -> Self {
        StoreFaults {
            reach: Reach::Up,
            latency: (Duration::from_millis(1), Duration::from_millis(50)),
            errors: 0,
            lost: 0,
            late: Duration::from_secs(30),
            patience: Duration::from_secs(5),
            keeps: false,
            ahead_ms: None,
            races: Duration::ZERO,
            conditions: SimConditions::Judged,
            server: None,
            longest_put: None,
            free_bytes: None,
        }
    }
}

/// See the module. Clones reach the same contents; all processes may share one.
#[derive(Clone, Debug)]
pub struct SimStore {
    world: World,
    contents: Arc<MemStore>,
    faults: Arc<Mutex<StoreFaults>>,
    requests: Arc<AtomicU64>,
}

/// What becomes of a request, drawn when it is sent.
enum RequestFate {
    /// Took effect and is answered.
    Answered,
    /// Never arrives; the client is told.
    Failed,
    /// Arrives somewhere else, whose answer says nothing.
    Foreign,
    /// No answer; lands after this time, if at all.
    Lost(Option<Duration>),
}

/// What an answer comes to that is not the store's.
pub(super) fn foreign(url: &str) -> Error {
    Error::new(Kind::Unavailable, format!("what answers at {url} is another server"))
}

impl SimStore {
    pub fn new(world: &World, name: &str) -> Arc<SimStore> {
        let contents = MemStore::new(name);
        Arc::new(SimStore {
            world: world.clone(),
            contents,
            faults: Arc::default(),
            requests: Arc::default(),
        })
    }

    /// The same contents behind another network, with faults of its own: what one host reaches another need not.
    pub fn by_another_way(&self) -> Arc<SimStore> {
        Arc::new(SimStore {
            world: self.world.clone(),
            contents: self.contents.clone(),
            faults: Arc::default(),
            requests: Arc::default(),
        })
    }

    pub fn faults(&self, change: impl FnOnce(&mut StoreFaults)) {
        change(&mut self.faults.lock());
    }

    /// The contents without the network, for tests that look from outside.
    pub fn contents(&self) -> &Arc<MemStore> {
        &self.contents
    }

    /// Requests sent so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn draw(&self, faults: &StoreFaults, request: &BucketRequest) -> RequestFate {
        let world = &self.world;
        match faults.reach {
            reach if reach.swallows(request) => return RequestFate::Lost(None),
            Reach::Up | Reach::Silent | Reach::Frozen => {}
            Reach::Refuses | Reach::Denies => return RequestFate::Failed,
            Reach::Foreign => return RequestFate::Foreign,
        }
        if world.per_mille(faults.errors) {
            return RequestFate::Failed;
        }
        if !world.per_mille(faults.lost) {
            return RequestFate::Answered;
        }
        match world.below(3) {
            0 => RequestFate::Lost(None),
            1 => RequestFate::Lost(Some(world.latency(faults.latency.0, faults.latency.1))),
            _ => RequestFate::Lost(Some(world.latency(faults.latency.0, faults.late))),
        }
    }

    async fn ask(&self, request: &Arc<BucketRequest>) -> Result<BucketAnswer> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let faults = *self.faults.lock();
        let url = self.contents.url();
        let bare = match faults.conditions {
            SimConditions::Judged => None,
            SimConditions::Ignored | SimConditions::Unknown => request.without_condition().map(Arc::new),
        };
        if bare.is_some() && faults.conditions == SimConditions::Unknown && faults.reach == Reach::Up {
            self.wait(self.world.latency(faults.latency.0, faults.latency.1)).await;
            return request.unanswered(Error::new(Kind::Unsupported, format!("{url}: NotImplemented")));
        }
        let request = bare.as_ref().unwrap_or(request);
        let pause = || self.world.latency(faults.latency.0, faults.latency.1);
        match self.draw(&faults, request) {
            RequestFate::Answered => self.deliver(request, faults).await,
            RequestFate::Failed => {
                self.wait(pause()).await;
                Err(match faults.reach {
                    Reach::Denies => {
                        Error::new(Kind::Denied, format!("{url}: access denied; check the credentials"))
                    }
                    _ => {
                        let why = format!("{url} can't be reached; check the network and the endpoint");
                        Error::new(Kind::Unavailable, why)
                    }
                })
            }
            RequestFate::Foreign => {
                self.wait(pause()).await;
                request.unanswered(foreign(url))
            }
            RequestFate::Lost(landing) => {
                if let Some(after) = landing {
                    let (store, request) = (self.clone(), request.clone());
                    self.world.after(after, move || store.land(&request, faults.races, drop));
                }
                self.wait(faults.patience).await;
                let why = format!("{url} did not answer in {:?}", faults.patience);
                request.unanswered(Error::new(Kind::Timeout, why))
            }
        }
    }

    /// Effect, then answer, each after its time.
    async fn deliver(&self, request: &Arc<BucketRequest>, faults: StoreFaults) -> Result<BucketAnswer> {
        let (tx, rx) = oneshot::channel();
        let (world, store, sent) = (self.world.clone(), self.clone(), request.clone());
        let half = move |world: &World| world.latency(faults.latency.0, faults.latency.1);
        self.world.after(half(&world), move || {
            // The client is gone: what it had sent may be lost or be late.
            match if tx.is_closed() { world.below(4) } else { 3 } {
                0 => {}
                1 => world.clone().after(world.latency(Duration::ZERO, faults.late), move || {
                    store.land(&sent, faults.races, drop);
                }),
                _ => store.land(&sent, faults.races, move |out| {
                    world.clone().after(half(&world), move || drop(tx.send(out)));
                }),
            }
        });
        let over = || request.unanswered(Error::new(Kind::Timeout, "the simulation is over"));
        rx.await.unwrap_or_else(|_| over())
    }

    /// The request's effect. What it gives is told when it has happened: at once, or where the store races a while after its
    /// condition was judged.
    fn land(
        &self,
        request: &BucketRequest,
        races: Duration,
        done: impl FnOnce(Result<BucketAnswer>) + Send + 'static,
    ) {
        let contents = self.contents.clone();
        match request.without_condition().filter(|_| !races.is_zero() && contents.allows(request)) {
            None => done(contents.answer(request)),
            Some(bare) => {
                let gap = self.world.latency(Duration::ZERO, races);
                self.world.after(gap, move || done(contents.answer(&bare)));
            }
        }
    }

    async fn wait(&self, d: Duration) {
        let (tx, rx) = oneshot::channel::<()>();
        self.world.after(d, move || drop(tx));
        let _ = rx.await;
    }
}

impl Store for SimStore {
    fn url(&self) -> &str {
        self.contents.url()
    }
    fn call<'a>(&'a self, request: &'a Arc<BucketRequest>, _: Cause) -> BoxFuture<'a, Result<BucketAnswer>> {
        async move {
            if let Some(out) = request.without_versions(self.url()) {
                return out;
            }
            if matches!(**request, BucketRequest::Delete { .. }) && self.faults.lock().keeps {
                return Err(Error::new(Kind::Denied, format!("{}: deleting is not allowed", self.url())));
            }
            let longest = self.faults.lock().longest_put.unwrap_or(usize::MAX);
            if matches!(&**request, BucketRequest::Put { body, .. } if body.len() > longest) {
                return Err(Error::new(Kind::NoSpace, format!("{}: no space left", self.url())));
            }
            self.ask(request).await
        }
        .boxed()
    }
}

#[async_trait]
impl Bucket for SimStore {
    async fn ahead_ms(&self) -> Option<Asked<i64>> {
        let StoreFaults { reach, ahead_ms, .. } = *self.faults.lock();
        match reach {
            Reach::Up | Reach::Denies | Reach::Frozen => ahead_ms.map(Ok),
            Reach::Refuses | Reach::Silent | Reach::Foreign => Some(Err("silent")),
        }
    }
    fn hangs(&self) -> Option<Duration> {
        (self.faults.lock().reach == Reach::Frozen).then_some(Duration::from_secs(3))
    }
    fn server(&self) -> Option<Arc<str>> {
        self.faults.lock().server.map(Arc::from)
    }
    async fn space(&self) -> Option<Space> {
        let free_bytes = self.faults.lock().free_bytes?;
        Some(Space { filesystem: 0, used_bytes: 0, free_bytes })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{List, Put, When};
    use windlass_base::rt::sim::Sim;

    async fn put(store: &SimStore, key: &str) -> Result<Put> {
        store.put(key, Bytes::from_static(b"x"), When::Absent, Cause::Write).await
    }

    #[test]
    fn lost_puts_land_late_or_never_and_are_unknown() {
        let mut landed = [0, 0];
        for seed in 0..100 {
            let sim = Sim::new(seed);
            let store = SimStore::new(&sim, "s");
            store.faults(|f| (f.lost, f.patience) = (1000, Duration::from_millis(100)));
            let (rt, inside) = (sim.rt(), store.clone());
            let early = sim.run(async move {
                assert!(matches!(put(&inside, "k").await, Ok(Put::Unknown(_))));
                let early = inside.contents().keys().len();
                rt.sleep(Duration::from_secs(60)).await;
                early
            });
            landed[0] += early.unwrap();
            landed[1] += store.contents().keys().len();
        }
        assert!(landed[0] > 20 && landed[1] > landed[0] && landed[1] < 90, "{landed:?}");
    }

    #[test]
    fn a_killed_client_leaves_puts_in_flight() {
        let mut landed = 0;
        for seed in 0..100 {
            let sim = Sim::new(seed);
            let (store, process, rt) = (SimStore::new(&sim, "s"), sim.process(), sim.rt());
            let client = store.clone();
            process.rt().spawn(async move { drop(put(&client, "k").await) }).detach();
            sim.after(Duration::from_micros(500), move || process.kill());
            sim.run(async move { rt.sleep(Duration::from_secs(60)).await }).unwrap();
            landed += store.contents().keys().len();
        }
        assert!((50..100).contains(&landed), "{landed}");
    }

    #[test]
    fn conditions_may_be_ignored_or_not_known() {
        let sim = Sim::new(1);
        let store = SimStore::new(&sim, "s");
        sim.run(async move {
            store.faults(|f| f.conditions = SimConditions::Unknown);
            assert!(matches!(put(&store, "k").await, Ok(Put::Unknown(e)) if e.is(Kind::Unsupported)));
            assert!(store.contents().keys().is_empty());
            store.faults(|f| f.conditions = SimConditions::Ignored);
            for _ in 0..2 {
                assert!(matches!(put(&store, "k").await, Ok(Put::Stored(_))));
            }
            store.faults(|f| f.conditions = SimConditions::Judged);
            assert!(matches!(put(&store, "k").await, Ok(Put::Refused)));
        })
        .unwrap();
    }

    #[test]
    fn outages_fail_surely_or_silently() {
        let sim = Sim::new(1);
        let store = SimStore::new(&sim, "s");
        sim.run(async move {
            store.faults(|f| f.reach = Reach::Refuses);
            assert!(put(&store, "k").await.unwrap_err().is(Kind::Unavailable));
            store.faults(|f| f.reach = Reach::Silent);
            assert!(matches!(put(&store, "k").await, Ok(Put::Unknown(_))));
            assert!(store.head("k", Cause::Read).await.unwrap_err().is(Kind::Timeout));
            store.faults(|f| f.reach = Reach::Foreign);
            assert!(matches!(put(&store, "k").await, Ok(Put::Unknown(_))));
            assert!(store.head("k", Cause::Read).await.unwrap_err().is(Kind::Unavailable));
            assert!(store.list(&List::default(), Cause::Read).await.unwrap_err().is(Kind::Unavailable));
            assert!(store.delete(&["k".into()], Cause::Read).await.unwrap_err().is(Kind::Unavailable));
            store.faults(|f| f.reach = Reach::Up);
            assert!(matches!(put(&store, "k").await, Ok(Put::Stored(_))));
            assert!(matches!(put(&store, "k").await, Ok(Put::Refused)));
        })
        .unwrap();
    }
}
