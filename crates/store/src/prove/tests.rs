//! Stores that break one promise each, and one that keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::{
    Bucket, BucketAnswer, BucketRef, BucketRequest, Cause, Counted, Etag, Faulty, List, MemStore, Put,
    SimStore, Store, When,
};
use windlass_base::rt::sim::Sim;
use windlass_base::{Error, Result};

/// What a store does instead of what it promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// Conditions are not looked at.
    Ignores,
    /// A put with a condition is `501 NotImplemented`.
    Refuses,
    /// An etag is made of the size and the second.
    EtagOfSizeAndSecond,
    /// If-match on a key without an object makes one.
    MakesWhatIsMissing,
    /// All of several writers at the same moment are refused.
    RefusesAll,
    /// One write is done and refused all the same, as behind a proxy that sends it twice.
    OddOnce,
    /// No fault: a key is written once a second, and who comes earlier is told to slow down.
    OnceASecond,
    /// No fault: who finds a key's lock taken tries again a second later.
    LocksKeys,
}

/// A memory store with a fault.
#[derive(Debug)]
struct Broken {
    rt: Rt,
    inner: Arc<MemStore>,
    fault: Fault,
    under_way: AtomicU64,
    /// The most at the same moment, since there was none.
    crowd: AtomicU64,
    /// When each key was written last.
    written: Mutex<BTreeMap<String, u64>>,
    locked: Mutex<BTreeSet<String>>,
}

impl Broken {
    fn new(rt: &Rt, fault: Fault) -> Broken {
        let (rt, inner) = (rt.clone(), MemStore::new("broken"));
        Broken {
            rt,
            inner,
            fault,
            under_way: AtomicU64::new(0),
            crowd: AtomicU64::new(0),
            written: Mutex::default(),
            locked: Mutex::default(),
        }
    }

    /// Its own name of the object's version, instead of the store's.
    fn etag(&self, size: u64) -> Etag {
        Etag(format!("{size:x}-{}", self.rt.wall_ms() / 1000))
    }

    async fn put(
        &self,
        key: &str,
        body: &bytes::Bytes,
        when: &When,
        request: &BucketRequest,
    ) -> Result<BucketAnswer> {
        let there = self.inner.keys().iter().any(|known| known == key);
        if self.fault == Fault::OnceASecond {
            let now = self.rt.wall_ms();
            let mut written = self.written.lock();
            if written.get(key).is_some_and(|at| now < at + 1000) {
                return Err(Error::new(Kind::Throttled, "SlowDown"));
            }
            written.insert(key.to_owned(), now);
        }
        if self.fault == Fault::LocksKeys {
            while !self.locked.lock().insert(key.to_owned()) {
                self.rt.sleep(Duration::from_secs(1)).await;
            }
            self.rt.sleep(Duration::from_millis(2)).await;
            self.locked.lock().remove(key);
        }
        match (self.fault, when) {
            (Fault::Ignores, _) => {}
            (Fault::Refuses, When::Absent | When::Matches(_)) => {
                return Ok(Put::Unknown(Error::new(Kind::Unsupported, "NotImplemented")).into());
            }
            (Fault::MakesWhatIsMissing, When::Matches(_)) if !there => {}
            (Fault::EtagOfSizeAndSecond, When::Absent) if there => return Ok(Put::Refused.into()),
            (Fault::EtagOfSizeAndSecond, _) => {
                if matches!(when, When::Matches(etag) if *etag != self.etag(body.len() as u64)) {
                    return Ok(Put::Refused.into());
                }
                self.inner.put(key, body.clone(), When::Always, Cause::Probe).await?;
                return Ok(Put::Stored(self.etag(body.len() as u64)).into());
            }
            (Fault::OddOnce, When::Absent) if self.locked.lock().insert("odd".to_owned()) => {
                self.inner.put(key, body.clone(), When::Always, Cause::Probe).await?;
                return Ok(Put::Refused.into());
            }
            (Fault::RefusesAll, _) if self.crowd.load(Ordering::Relaxed) > 1 => {
                return Ok(Put::Refused.into());
            }
            _ => return self.inner.answer(request),
        }
        self.inner.put(key, body.clone(), When::Always, Cause::Probe).await.map(Into::into)
    }
}

impl Store for Broken {
    fn url(&self) -> &str {
        "mem:broken"
    }
    fn call<'a>(&'a self, request: &'a Arc<BucketRequest>, _: Cause) -> BoxFuture<'a, Result<BucketAnswer>> {
        async move {
            let crowd = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
            self.crowd.fetch_max(crowd, Ordering::Relaxed);
            self.rt.sleep(Duration::from_millis(1)).await;
            let out = match &**request {
                BucketRequest::Put { key, body, when, .. } => self.put(key, body, when, request).await,
                _ => self.inner.answer(request),
            };
            if self.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.crowd.store(0, Ordering::Relaxed);
            }
            out.map(|answer| match answer {
                BucketAnswer::Found(Some(mut found)) if self.fault == Fault::EtagOfSizeAndSecond => {
                    found.head.etag = self.etag(found.head.size);
                    BucketAnswer::Found(Some(found))
                }
                BucketAnswer::Head(Some(mut head)) if self.fault == Fault::EtagOfSizeAndSecond => {
                    head.etag = self.etag(head.size);
                    BucketAnswer::Head(Some(head))
                }
                answer => answer,
            })
        }
        .boxed()
    }
}

impl Bucket for Broken {}

async fn proved(rt: &Rt, bucket: BucketRef) -> (Result<()>, Vec<Tried>, usize) {
    let proof = prove(rt, &*bucket, "probe/", Effort::SHORT, |tried| matches!(tried.verdict, Verdict::Held));
    let proof = proof.await.unwrap();
    let list = List { max: 1000, ..List::default() };
    let left = bucket.list(&list, Cause::Probe).await.unwrap().objects.len();
    (proof.verdict(), proof.tried, left)
}

#[test]
fn a_store_that_keeps_its_promises_passes_and_is_left_as_it_was() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let (rt, store) = (sim.rt(), SimStore::new(&sim, "s"));
        // Answers that get lost tell nothing of the store.
        store.faults(|f| (f.lost, f.errors) = if seed % 2 == 0 { (0, 0) } else { (5, 20) });
        sim.run(async move {
            let counted = Counted::new(&rt, store.clone());
            let (verdict, tried, left) = proved(&rt, counted.clone()).await;
            match verdict {
                Ok(()) => {
                    let of = |tried: &&Tried| tried.promise.is_contended();
                    assert!(tried.iter().filter(of).all(|t| t.writers >= 16 && t.rounds >= 8), "{tried:?}");
                    assert_eq!(tried.iter().map(|t| t.promise).collect::<Vec<_>>(), Promise::ALL);
                    assert!(seed % 2 == 1 || left == 0);
                    let requests = counted.counters().unwrap().requests();
                    assert!(seed % 2 == 1 || (500..700).contains(&requests), "{requests}");
                }
                Err(e) => assert!(seed % 2 == 1 && !e.is(Kind::Refused), "seed {seed}: {e}"),
            }
        })
        .unwrap();
    }
}

/// Of such servers each write of a key waits for the one before it, so nothing races; and the trial comes to an end.
#[test]
fn a_store_that_writes_a_key_once_a_second_passes() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let rt = sim.rt();
        let broken = Arc::new(Broken::new(&rt, Fault::OnceASecond));
        let world = (*sim).clone();
        sim.run(async move {
            let store = crate::retry::Retrying::new(&rt, broken, crate::retry::Patience::default());
            let (verdict, tried, left) = proved(&rt, store).await;
            verdict.unwrap();
            assert!(tried.iter().all(|t| t.rounds >= 1) && left == 0, "{tried:?}");
            assert!(world.now().0 < Duration::from_secs(120), "{:?}", world.now());
        })
        .unwrap();
    }
}

/// Many writers wait for long there: few come, and few times, after the first who showed it.
#[test]
fn a_store_whose_writers_wait_for_a_key_is_tried_in_less_than_a_minute() {
    let sim = Sim::new(1);
    let rt = sim.rt();
    let (world, store) = ((*sim).clone(), Arc::new(Broken::new(&rt, Fault::LocksKeys)));
    sim.run(async move {
        let (verdict, tried, left) = proved(&rt, store).await;
        verdict.unwrap();
        let contended: Vec<_> = tried.iter().filter(|t| t.promise.is_contended()).collect();
        assert!(contended.iter().all(|t| (t.writers, t.rounds) == (4, 2)) && left == 0, "{tried:?}");
        assert!(world.now().0 < Duration::from_secs(80), "{:?}", world.now());
    })
    .unwrap();
}

#[test]
fn a_store_whose_conditional_writes_race_is_refused_by_name() {
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let (rt, store) = (sim.rt(), SimStore::new(&sim, "s"));
        let gap = 1 + sim.below(50);
        store.faults(|f| {
            (f.latency, f.races) = ((Duration::ZERO, Duration::from_millis(1)), Duration::from_millis(gap));
        });
        sim.run(async move {
            let (verdict, tried, left) = proved(&rt, store).await;
            let (why, last) = (verdict.unwrap_err(), tried.last().unwrap());
            assert!(why.is(Kind::Refused), "seed {seed}: {why}");
            let text = why.to_string();
            assert!(text.contains("mem:s") && text.contains("race"), "seed {seed}: {text}");
            assert!(matches!(last.verdict, Verdict::Raced { winners: 2.., .. }), "{last:?}");
            assert_eq!(left, 0);
        })
        .unwrap();
    }
}

#[tokio::test]
async fn a_racing_store_is_found_among_real_threads_too() {
    let rt = Rt::new(windlass_base::rt::RealRuntime::current());
    let store = Faulty::new(&rt, MemStore::new("s"));
    store.faults(|f| f.races = Duration::from_millis(5));
    let why = probe(&rt, &*store, "probe/").await.unwrap_err();
    assert!(why.is(Kind::Refused) && why.to_string().contains("race"), "{why}");
}

#[test]
fn each_broken_promise_is_named() {
    for (fault, promise, said) in [
        (Fault::Ignores, Promise::Creates, "overwrites an object although the write asked for none"),
        (Fault::Refuses, Promise::Etags, "NotImplemented"),
        (Fault::EtagOfSizeAndSecond, Promise::Etags, "one size"),
        (Fault::MakesWhatIsMissing, Promise::RefusesMissing, "writes where no object is"),
        (Fault::RefusesAll, Promise::Creates, "refuses each"),
    ] {
        let sim = Sim::new(1);
        let rt = sim.rt();
        sim.run(async move {
            let store = Broken::new(&rt, fault);
            let (verdict, tried, left) = proved(&rt, Arc::new(store)).await;
            let why = verdict.unwrap_err();
            assert!(why.is(Kind::Refused), "{fault:?}: {why}");
            assert!(
                why.to_string().contains(said) && why.to_string().contains("mem:broken"),
                "{fault:?}: {why}"
            );
            assert_eq!((tried.last().unwrap().promise, left), (promise, 0), "{fault:?}");
        })
        .unwrap();
    }
}

/// All promises may be tried although one is broken.
#[test]
fn a_proof_goes_on_as_long_as_it_is_told() {
    let sim = Sim::new(1);
    let rt = sim.rt();
    sim.run(async move {
        let store = Broken::new(&rt, Fault::Ignores);
        let effort = Effort { writers: 4, rounds: 2, ..Effort::SHORT };
        let proof = prove(&rt, &store, "probe/", effort, |_| true).await.unwrap();
        let broken: Vec<Promise> =
            proof.tried.iter().filter(|t| !matches!(t.verdict, Verdict::Held)).map(|t| t.promise).collect();
        let conditions =
            [Promise::Creates, Promise::Replaces, Promise::RefusesStale, Promise::RefusesMissing];
        assert_eq!(broken, conditions);
    })
    .unwrap();
}

/// A store of two servers, each of which is right by itself.
#[derive(Debug)]
struct TwoServers([Arc<SimStore>; 2]);

impl Store for TwoServers {
    fn url(&self) -> &str {
        self.0[0].url()
    }
    fn call<'a>(
        &'a self,
        request: &'a Arc<BucketRequest>,
        cause: Cause,
    ) -> BoxFuture<'a, Result<BucketAnswer>> {
        self.0[0].call(request, cause)
    }
}

#[async_trait::async_trait]
impl Bucket for TwoServers {
    async fn each_address(&self) -> Result<Vec<(std::net::IpAddr, BucketRef)>> {
        let at = |n: usize| std::net::IpAddr::from([10, 0, 0, n as u8]);
        let all = self.0.iter().enumerate();
        Ok(all.map(|(n, store)| (at(n), store.clone() as BucketRef)).collect())
    }
}

#[test]
fn writers_come_by_each_address_that_answers() {
    for (races, away) in [(false, false), (true, false), (true, true)] {
        let sim = Sim::new(1);
        let (rt, one) = (sim.rt(), SimStore::new(&sim, "s"));
        let other = one.by_another_way();
        other.faults(|f| {
            f.races = Duration::from_millis(if races { 30 } else { 0 });
            f.reach = if away { crate::Reach::Refuses } else { crate::Reach::Up };
        });
        sim.run(async move {
            let store = TwoServers([one, other]);
            let proof = prove(&rt, &store, "probe/", Effort::SHORT, |t| matches!(t.verdict, Verdict::Held));
            let proof = proof.await.unwrap();
            let (there, silent) = if away { (1, 1) } else { (2, 0) };
            assert_eq!((proof.addresses.len(), proof.silent.len()), (there, silent));
            let most = proof.tried.iter().map(|t| t.writers).max();
            match proof.verdict() {
                Ok(()) => assert!(!races || away),
                Err(e) => assert!(races && e.to_string().contains("over its 2 addresses"), "{e}"),
            }
            assert_eq!(most, Some(16 * there));
        })
        .unwrap();
    }
}

#[test]
fn one_odd_answer_makes_no_verdict_that_stays() {
    for (fault, conditions) in [
        (Fault::OddOnce, None),
        (Fault::Refuses, Some(ConditionalPuts::None)),
        (Fault::Ignores, Some(ConditionalPuts::None)),
    ] {
        let sim = Sim::new(1);
        let rt = sim.rt();
        sim.run(async move {
            let store = Broken::new(&rt, fault);
            match (probe_fitness(&rt, &store, "probe/", Effort::SHORT).await, conditions) {
                (Ok(fit), Some(conditions)) => {
                    assert!(fit.conditions == conditions && fit.why.is_some(), "{fit:?}")
                }
                (Err(e), None) => {
                    assert!(e.is(Kind::Refused) && e.to_string().contains("asked once more"), "{e}")
                }
                (found, _) => panic!("{fault:?}: {found:?}"),
            }
        })
        .unwrap();
    }
}
