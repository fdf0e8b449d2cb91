//! A bucket of the simulated world: a memory store behind a network that delays, loses and delivers late.
//!
//! A request takes effect at some time and is answered at a later one. Its effect needs nobody waiting: when the
//! client's process is killed, what it had under way lands, soon, late or never. A put without an answer is
//! `Unknown`, whichever of these became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    Attrs, Bucket, ByteRange, Cause, Etag, Found, Head, List, MemStore, Page, Part, Put, Store, When,
};
use crate::base::rt::sim::World;
use crate::base::{Error, Kind, Result};

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
enum Fate {
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

/// What came back: the answer, a sure failure, or nothing.
enum Reply<T> {
    Answer(T),
    Failed(Error),
    Nothing(Error),
}

type Effect<T> = Box<dyn FnOnce(Arc<MemStore>) -> BoxFuture<'static, T> + Send>;

fn effect<T, F>(run: impl FnOnce(Arc<MemStore>) -> F + Send + 'static) -> Effect<T>
where
    F: Future<Output = T> + Send + 'static,
{
    Box::new(move |contents| run(contents).boxed())
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

    fn draw(&self, faults: &StoreFaults) -> Fate {
        let world = &self.world;
        match faults.reach {
            Reach::Up => {}
            Reach::Refuses | Reach::Denies => return Fate::Failed,
            Reach::Silent => return Fate::Lost(None),
            Reach::Foreign => return Fate::Foreign,
        }
        if world.per_mille(faults.errors) {
            return Fate::Failed;
        }
        if !world.per_mille(faults.lost) {
            return Fate::Answered;
        }
        match world.below(3) {
            0 => Fate::Lost(None),
            1 => Fate::Lost(Some(world.latency(faults.latency.0, faults.latency.1))),
            _ => Fate::Lost(Some(world.latency(faults.latency.0, faults.late))),
        }
    }

    async fn ask<T: Send + 'static>(&self, run: Effect<T>) -> Reply<T> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let faults = *self.faults.lock();
        let url = self.contents.url();
        let pause = || self.world.latency(faults.latency.0, faults.latency.1);
        match self.draw(&faults) {
            Fate::Answered => self.deliver(run, faults).await,
            Fate::Failed => {
                self.wait(pause()).await;
                Reply::Failed(match faults.reach {
                    Reach::Denies => {
                        Error::new(Kind::Denied, format!("{url}: access denied; check the credentials"))
                    }
                    _ => {
                        let why = format!("{url} can't be reached; check the network and the endpoint");
                        Error::new(Kind::Unavailable, why)
                    }
                })
            }
            Fate::Foreign => {
                self.wait(pause()).await;
                Reply::Nothing(foreign(url))
            }
            Fate::Lost(landing) => {
                if let Some(after) = landing {
                    let contents = self.contents.clone();
                    self.world.after(after, move || drop(run(contents).now_or_never()));
                }
                self.wait(faults.patience).await;
                let why = format!("{url} did not answer in {:?}", faults.patience);
                Reply::Nothing(Error::new(Kind::Timeout, why))
            }
        }
    }

    /// Effect, then answer, each after its time.
    async fn deliver<T: Send + 'static>(&self, run: Effect<T>, faults: StoreFaults) -> Reply<T> {
        let (tx, rx) = oneshot::channel();
        let (world, contents) = (self.world.clone(), self.contents.clone());
        let half = move |world: &World| world.latency(faults.latency.0, faults.latency.1);
        self.world.after(half(&world), move || {
            // The client is gone: what it had sent may be lost or be late.
            match if tx.is_closed() { world.below(4) } else { 3 } {
                0 => {}
                1 => world.clone().after(world.latency(Duration::ZERO, faults.late), move || {
                    drop(run(contents).now_or_never());
                }),
                _ => {
                    let out = run(contents).now_or_never().expect("a memory store answers at once");
                    world.clone().after(half(&world), move || drop(tx.send(out)));
                }
            }
        });
        match rx.await {
            Ok(out) => Reply::Answer(out),
            Err(_) => Reply::Nothing(Error::new(Kind::Timeout, "the simulation is over")),
        }
    }

    async fn wait(&self, d: Duration) {
        let (tx, rx) = oneshot::channel::<()>();
        self.world.after(d, move || drop(tx));
        let _ = rx.await;
    }

    async fn verb<T: Send + 'static>(&self, run: Effect<Result<T>>) -> Result<T> {
        match self.ask(run).await {
            Reply::Answer(out) => out,
            Reply::Failed(e) | Reply::Nothing(e) => Err(e),
        }
    }

    async fn putting(&self, run: Effect<Result<Put>>) -> Result<Put> {
        match self.ask(run).await {
            Reply::Answer(out) => out,
            Reply::Failed(e) => Err(e),
            Reply::Nothing(e) => Ok(Put::Unknown(e)),
        }
    }
}

#[async_trait]
impl Store for SimStore {
    fn url(&self) -> &str {
        self.contents.url()
    }
    async fn get(&self, key: &str, range: ByteRange, cause: Cause) -> Result<Option<Found>> {
        let key = key.to_owned();
        self.verb(effect(move |c| async move { c.get(&key, range, cause).await })).await
    }
    async fn head(&self, key: &str, cause: Cause) -> Result<Option<Head>> {
        let key = key.to_owned();
        self.verb(effect(move |c| async move { c.head(&key, cause).await })).await
    }
    async fn put(&self, key: &str, body: Bytes, when: When, cause: Cause) -> Result<Put> {
        self.put_with(key, body, &Attrs::default(), when, cause).await
    }
    async fn delete(&self, keys: &[String], cause: Cause) -> Result<()> {
        let keys = keys.to_vec();
        if self.faults.lock().keeps {
            return Err(Error::new(Kind::Denied, format!("{}: deleting is not allowed", self.url())));
        }
        self.verb(effect(move |c| async move { c.delete(&keys, cause).await })).await
    }
    async fn list(&self, list: &List, cause: Cause) -> Result<Page> {
        let list = list.clone();
        self.verb(effect(move |c| async move { c.list(&list, cause).await })).await
    }
}

#[async_trait]
impl Bucket for SimStore {
    async fn put_with(&self, key: &str, body: Bytes, attrs: &Attrs, when: When, cause: Cause) -> Result<Put> {
        let (key, attrs) = (key.to_owned(), attrs.clone());
        self.putting(effect(move |c| async move { c.put_with(&key, body, &attrs, when, cause).await })).await
    }
    async fn copy(
        &self,
        from: &str,
        to: &str,
        from_match: Option<&Etag>,
        attrs: Option<&Attrs>,
        when: When,
        cause: Cause,
    ) -> Result<Put> {
        let (from, to, from_match, attrs) =
            (from.to_owned(), to.to_owned(), from_match.cloned(), attrs.cloned());
        self.putting(effect(move |c| async move {
            c.copy(&from, &to, from_match.as_ref(), attrs.as_ref(), when, cause).await
        }))
        .await
    }
    async fn delete_same(&self, objects: &[(String, Etag)], cause: Cause) -> Result<bool> {
        let objects = objects.to_vec();
        self.verb(effect(move |c| async move { c.delete_same(&objects, cause).await })).await
    }
    async fn multipart_create(&self, key: &str, attrs: &Attrs, cause: Cause) -> Result<String> {
        let (key, attrs) = (key.to_owned(), attrs.clone());
        self.verb(effect(move |c| async move { c.multipart_create(&key, &attrs, cause).await })).await
    }
    async fn multipart_put(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        body: Bytes,
        cause: Cause,
    ) -> Result<Part> {
        let (key, upload) = (key.to_owned(), upload.to_owned());
        self.verb(effect(move |c| async move { c.multipart_put(&key, &upload, number, body, cause).await }))
            .await
    }
    async fn multipart_copy(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        from: &str,
        from_match: Option<&Etag>,
        offset: u64,
        len: u64,
        cause: Cause,
    ) -> Result<Part> {
        let (key, upload, from) = (key.to_owned(), upload.to_owned(), from.to_owned());
        let from_match = from_match.cloned();
        self.verb(effect(move |c| async move {
            c.multipart_copy(&key, &upload, number, &from, from_match.as_ref(), offset, len, cause).await
        }))
        .await
    }
    async fn multipart_complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        when: When,
        cause: Cause,
    ) -> Result<Put> {
        let (key, upload, parts) = (key.to_owned(), upload.to_owned(), parts.to_vec());
        self.putting(effect(move |c| async move {
            c.multipart_complete(&key, &upload, &parts, when, cause).await
        }))
        .await
    }
    async fn multipart_abort(&self, key: &str, upload: &str, cause: Cause) -> Result<()> {
        let (key, upload) = (key.to_owned(), upload.to_owned());
        self.verb(effect(move |c| async move { c.multipart_abort(&key, &upload, cause).await })).await
    }
    async fn multipart_list(&self, prefix: &str, cause: Cause) -> Result<Vec<(String, String)>> {
        let prefix = prefix.to_owned();
        self.verb(effect(move |c| async move { c.multipart_list(&prefix, cause).await })).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rt::sim::Sim;

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
