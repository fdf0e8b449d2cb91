//! The pool on simulated stores: losses, rot, outages, foreign and emptied stores, lost answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::base::rt::Rt;
use crate::base::rt::sim::{Sim, SimDisk};
use crate::base::size::SHARD_SPAN;
use crate::base::{ChunkId, Epoch, Era, Error, Kind, Name, Result, Seq, VolumeId};
use crate::store::{BucketRef, Cause, MemStore, Reach, SimStore, Store as _, When};

const W: Cause = Cause::Walk;

/// Stores, a disk, and a way to open the pool on them.
#[derive(Clone, Debug)]
pub(super) struct Yard {
    pub(super) rt: Rt,
    disk: Arc<SimDisk>,
    pub(super) stores: Vec<Arc<SimStore>>,
    pub(super) spares: Vec<Arc<SimStore>>,
    layout: Layout,
    zones: Option<&'static str>,
}

impl Yard {
    pub(super) fn new(sim: &Sim, layout: &str) -> Yard {
        let layout: Layout = layout.parse().unwrap();
        let stores = (0..layout.n()).map(|i| SimStore::new(sim, &format!("s{i}"))).collect();
        Yard {
            rt: sim.rt(),
            disk: Arc::new(SimDisk::new(sim)),
            stores,
            spares: Vec::new(),
            layout,
            zones: None,
        }
    }

    /// The same, seen by another process.
    pub(super) fn on(&self, rt: &Rt) -> Yard {
        Yard { rt: rt.clone(), ..self.clone() }
    }

    pub(super) fn host(&self) -> PoolHost {
        PoolHost {
            rt: self.rt.clone(),
            disk: self.disk.clone(),
            folder: Path::new("/home/pool").into(),
            opener: Arc::new(self.clone()),
        }
    }

    pub(super) fn specs(&self) -> Vec<StoreSpec> {
        let zone = |i: usize| self.zones.map(|z| z[i..=i].to_owned());
        let spec = |(i, s): (usize, &Arc<SimStore>)| StoreSpec {
            url: s.url().to_owned(),
            zone: zone(i),
            bucket: s.clone(),
        };
        self.stores.iter().enumerate().map(spec).collect()
    }

    pub(super) async fn create(&self) -> Result<Arc<Pool>> {
        let name = "tank".parse().unwrap();
        Pool::create(self.host(), name, self.layout, self.specs(), CreateOptions::default()).await
    }

    pub(super) async fn open(&self) -> Result<Arc<Pool>> {
        Pool::open(self.host(), self.specs()).await
    }

    pub(super) fn reach(&self, store: usize, reach: Reach) {
        self.stores[store].faults(|f| f.reach = reach);
    }

    /// The contents of the store that holds a chunk's shard, and the shard's key.
    pub(super) fn shard(&self, id: &ChunkId, shard: usize) -> (&MemStore, String) {
        (self.stores[place(id, shard, self.layout.n())].contents(), shard_key(id, shard))
    }

    pub(super) fn has(&self, id: &ChunkId, shard: usize) -> bool {
        let (store, key) = self.shard(id, shard);
        store.keys().contains(&key)
    }

    pub(super) async fn settle(&self, ms: u64) {
        self.rt.sleep(Duration::from_millis(ms)).await;
    }
}

#[async_trait]
impl Opener for Yard {
    async fn open(&self, url: &str) -> Result<BucketRef> {
        let found = self.stores.iter().chain(&self.spares).find(|s| s.url() == url);
        found
            .map(|s| s.clone() as BucketRef)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("no store {url}")))
    }
}

pub(super) fn id(seq: u64) -> ChunkId {
    ChunkId { volume: VolumeId(0xabc), epoch: Epoch(1), seq: Seq(seq) }
}

/// A chunk whose data shards have these lengths.
pub(super) fn chunk(seq: u64, lens: &[usize]) -> Chunk {
    let byte = |i: usize, b: usize| (b.wrapping_mul(131) ^ (b >> 8) ^ (i * 57 + seq as usize)) as u8;
    let shards = lens.iter().enumerate().map(|(i, len)| (0..*len).map(|b| byte(i, b)).collect()).collect();
    let last = lens.len() as u64 - 1;
    let toc_len = *lens.last().unwrap() as u32;
    Chunk { id: id(seq), era: Era(1), kind: ChunkKind::Data, shards, toc_offset: last * SHARD_SPAN, toc_len }
}

pub(super) async fn store(pool: &Arc<Pool>, chunk: &Chunk) {
    let upload = pool.put_chunk(chunk.clone());
    upload.wait(pool.w()).await.unwrap();
    assert!(upload.stored() >= pool.w());
}

/// Reads every shard back in odd pieces.
pub(super) async fn check(pool: &Pool, chunk: &Chunk) {
    for (i, shard) in chunk.shards.iter().enumerate() {
        let mut at = 0;
        while at < shard.len() {
            let len = (shard.len() - at).min(70_001);
            let want = shard.slice(at..at + len);
            let offset = i as u64 * SHARD_SPAN + at as u64;
            let verify = |b: &[u8]| b == want;
            let got = pool.read(&chunk.id, offset, len as u32, Cause::Read, &verify).await;
            assert_eq!(got.unwrap(), want);
            at += len;
        }
    }
}

fn run<F: Future<Output = ()> + Send + 'static>(layout: &str, test: impl FnOnce(Yard) -> F) {
    let sim = Sim::new(7);
    let yard = Yard::new(&sim, layout);
    sim.run(test(yard)).unwrap();
}

pub(super) const LENS: [usize; 4] = [200_000, 65_536, 1, 90_000];

#[test]
fn what_is_stored_is_read_with_any_losses_up_to_m() {
    for layout in ["1+0", "1+2", "2+1", "4+2", "3+0"] {
        run(layout, move |yard| async move {
            let pool = yard.create().await.unwrap();
            let (k, n, m) = (pool.layout().k(), pool.layout().n(), pool.layout().m());
            let chunk = chunk(3, &LENS[..k.min(4)]);
            store(&pool, &chunk).await;
            yard.settle(1000).await;
            assert!((0..n).all(|i| yard.has(&chunk.id, i)));
            check(&pool, &chunk).await;
            for lost in 0..n {
                for other in lost..n {
                    let away = if m >= 2 { vec![lost, other] } else { vec![lost] };
                    if m == 0 {
                        continue;
                    }
                    away.iter().for_each(|i| yard.reach(*i, Reach::Refuses));
                    check(&pool, &chunk).await;
                    away.iter().for_each(|i| yard.reach(*i, Reach::Up));
                    yard.settle(20_000).await;
                }
            }
        });
    }
}

#[test]
fn a_pool_is_not_made_on_what_is_not_empty_and_leaves_nothing_behind() {
    run("2+1", |yard| async move {
        yard.stores[1].contents().put("x", Bytes::new(), When::Always, W).await.unwrap();
        let e = yard.create().await.unwrap_err();
        assert!(e.is(Kind::Refused) && e.to_string().contains("mem:s1"), "{e}");
        assert!(yard.stores[0].contents().keys().is_empty());
        yard.stores[1].contents().wipe();
        let twice = Yard {
            stores: vec![yard.stores[0].clone(), yard.stores[0].clone(), yard.stores[2].clone()],
            ..yard.clone()
        };
        let e = twice.create().await.unwrap_err();
        assert!(e.to_string().contains("twice"), "{e}");
        assert!(yard.stores.iter().all(|s| s.contents().keys().is_empty()));
        yard.create().await.unwrap();
        let e = yard.create().await.unwrap_err();
        assert!(e.is(Kind::Refused) && e.to_string().contains("the label of a pool tank"), "{e}");
        yard.stores.iter().for_each(|s| s.contents().wipe());
        // Killed while it looked at what this store promises.
        yard.stores[1].contents().put("probe/windlass-probe-1", Bytes::new(), When::Always, W).await.unwrap();
        yard.create().await.unwrap();
        let e = Yard { zones: Some("aab"), ..yard }.create().await.unwrap_err();
        assert!(e.to_string().contains("zone"), "{e}");
    });
}

#[test]
fn opening_needs_a_majority_and_finds_stores_by_label() {
    run("4+2", |mut yard| async move {
        let pool = yard.create().await.unwrap();
        let made = (pool.id(), pool.incarnations());
        pool.set(|s| s.assign("grace=1ms")).await.unwrap();
        let zones = pool.set(|s| s.assign("ack=zone")).await.unwrap_err();
        assert!(zones.is(Kind::Usage) && !pool.settings().ack_zone, "{zones}");
        pool.close().await;
        drop(pool);
        yard.stores.rotate_left(2);
        yard.reach(0, Reach::Silent);
        yard.reach(1, Reach::Refuses);
        let pool = yard.open().await.unwrap();
        assert_eq!((pool.id(), pool.incarnations()), made);
        assert_eq!(pool.settings().grace_ms, 1);
        drop(pool);
        (2..4).for_each(|i| yard.reach(i, Reach::Refuses));
        assert!(yard.open().await.unwrap_err().is(Kind::Unavailable));
    });
}

#[test]
fn an_emptied_or_foreign_store_is_out_by_name_and_the_pool_goes_on() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let first = chunk(1, &LENS);
        store(&pool, &first).await;
        yard.settle(1000).await;
        yard.stores[2].contents().wipe();
        // A label of another place in the same pool.
        let label = yard.stores[4].contents();
        let label = label.get("label", crate::store::ByteRange::Last(9999), W).await.unwrap().unwrap();
        yard.stores[3].contents().put("label", label.body, When::Always, W).await.unwrap();
        check(&pool, &first).await;
        yard.settle(200).await;
        let second = chunk(2, &LENS);
        let upload = pool.put_chunk(second.clone());
        upload.wait(4).await.unwrap();
        assert_eq!(upload.stored(), 4);
        assert!(yard.stores[2].contents().keys().is_empty(), "nothing is put on a store without a label");
        check(&pool, &second).await;
        let status = pool.status();
        assert_eq!((status.stores[2].state, status.stores[3].state), ("out", "out"));
        assert!(status.stores[2].reason.as_ref().unwrap().contains("mem:s2"));
        assert!(status.stores[3].reason.as_ref().unwrap().contains("store 4"));
        assert_eq!(pool.pending(), 2);
        assert_eq!(pool.out_for(Duration::ZERO), 2);
        let seen = pool.probe(&first.id, &pool.incarnations(), W).await;
        assert_eq!((seen.good, seen.absent, seen.unknown), (4, 0, 2));
        let seen = pool.probe(&id(99), &pool.incarnations(), W).await;
        assert_eq!((seen.good, seen.absent, seen.unknown), (0, 4, 2));
        let seen = pool.probe(&id(99), &pool.incarnations()[..1], W).await;
        assert_eq!((seen.good, seen.absent, seen.unknown), (0, 1, 5));
        drop(pool);
        let pool = yard.open().await.unwrap();
        check(&pool, &second).await;
    });
}

#[test]
fn who_may_not_delete_goes_on_and_is_told_what_piles_up() {
    run("4+2", |yard| async move {
        yard.stores[1].faults(|f| f.keeps = true);
        let pool = yard.create().await.unwrap();
        let chunks = [1, 2].map(|seq| chunk(seq, &LENS));
        for chunk in &chunks {
            store(&pool, chunk).await;
        }
        yard.settle(1000).await;
        assert!(pool.check_promises().await.is_empty());
        pool.delete(&chunks.map(|c| c.id)).await.unwrap();
        let kept: Vec<u64> = pool.status().stores.iter().map(|s| s.undeleted).collect();
        assert_eq!(kept, [0, 2, 0, 0, 0, 0]);
        assert_eq!(pool.status().stores[1].state, "in");
        let found = pool.scrub(&Counted { dead: 2, live: 0 }, Tempo::default(), &|_| {}).await.unwrap();
        assert_eq!(found.orphans.len(), 2);
        assert!(found.orphans.iter().all(|o| o.store == 1), "{found:?}");
    });
}

#[test]
fn a_store_whose_credentials_expire_is_down_by_name_and_taken_back() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        store(&pool, &chunk(1, &LENS)).await;
        yard.settle(1000).await;
        yard.reach(2, Reach::Denies);
        check(&pool, &chunk(1, &LENS)).await;
        let upload = pool.put_chunk(chunk(2, &LENS));
        upload.wait(5).await.unwrap();
        let status = &pool.status().stores[2];
        let reason = status.reason.as_deref().unwrap_or_default();
        assert_eq!(status.state, "down", "{reason}");
        assert!(reason.contains("mem:s2") && reason.contains("check the credentials"), "{reason}");
        check(&pool, &chunk(2, &LENS)).await;
        yard.reach(2, Reach::Up);
        yard.settle(20_000).await;
        assert_eq!((pool.pending(), pool.status().stores[2].state), (0, "in"));
    });
}

/// Times in ms of reads of single blocks, one after another, sorted.
async fn read_times(yard: &Yard, pool: &Pool, chunks: &[Chunk], count: usize) -> Vec<u64> {
    let mut times = Vec::new();
    for n in 0..count {
        let chunk = &chunks[n % chunks.len()];
        let shard = n / chunks.len() % 4;
        let want = chunk.shards[shard].slice(..4096);
        let begun = yard.rt.now();
        let offset = shard as u64 * SHARD_SPAN;
        let got = pool.read(&chunk.id, offset, 4096, Cause::Read, &|b| b == want).await;
        assert_eq!(got.unwrap(), want);
        times.push(yard.rt.now().since(begun).as_millis() as u64);
    }
    times.sort_unstable();
    times
}

#[test]
fn a_store_that_is_slow_costs_its_readers_nothing_once_it_is_known_to_be() {
    run("4+2", |yard| async move {
        for store in &yard.stores {
            store.faults(|f| f.latency = (Duration::from_millis(2), Duration::from_millis(10)));
        }
        let pool = yard.create().await.unwrap();
        let chunks: Vec<Chunk> = (1..=6).map(|seq| chunk(seq, &[70_000; 4])).collect();
        for chunk in &chunks {
            store(&pool, chunk).await;
        }
        let p99 = |times: &[u64]| times[times.len() * 99 / 100];
        read_times(&yard, &pool, &chunks, 300).await;
        let healthy = p99(&read_times(&yard, &pool, &chunks, 1200).await);
        let slow = Duration::from_millis(100);
        yard.stores[2].faults(|f| f.latency = (slow, slow));
        read_times(&yard, &pool, &chunks, 600).await;
        let before: u64 = yard.stores.iter().map(|s| s.requests()).sum();
        let times = read_times(&yard, &pool, &chunks, 1200).await;
        let delay = pool.status().hedge_ms as u64;
        assert!((20..=40).contains(&delay), "{delay}");
        let asked: u64 = yard.stores.iter().map(|s| s.requests()).sum::<u64>() - before;
        // Known to be slow, it is not even waited for.
        assert!(p99(&times) <= healthy * 3 / 2, "{} of {healthy}", p99(&times));
        // Each sixth read asks four more stores, whose footers are known.
        assert!(asked <= 1200 + 1200 / 6 * 5 / 4 * 4 + 16 * 4 + 20, "{asked}");
        let p99_seen = pool.status().stores[2].latency_ms_p99.unwrap();
        assert!(p99_seen >= 20.0, "it shows as slow: {p99_seen}");
        yard.stores[2].faults(|f| f.latency = (Duration::from_millis(2), Duration::from_millis(10)));
        read_times(&yard, &pool, &chunks, 2400).await;
        let before: u64 = yard.stores.iter().map(|s| s.requests()).sum();
        read_times(&yard, &pool, &chunks, 600).await;
        let asked: u64 = yard.stores.iter().map(|s| s.requests()).sum::<u64>() - before;
        assert!(asked <= 620, "seen to be quick again: {asked}");
    });
}

/// One store is known to be slow, and one that would be asked in its stead does not answer at all.
#[test]
fn a_slow_store_is_asked_after_all_when_the_others_hang() {
    run("2+1", |yard| async move {
        for store in &yard.stores {
            store.faults(|f| f.latency = (Duration::from_millis(2), Duration::from_millis(10)));
        }
        let pool = yard.create().await.unwrap();
        let one = chunk(1, &[70_000; 2]);
        store(&pool, &one).await;
        let (slow, hung) = (place(&one.id, 0, 3), place(&one.id, 1, 3));
        yard.stores[slow].faults(|f| f.latency = (Duration::from_millis(200), Duration::from_millis(200)));
        let chunks = [one];
        for _ in 0..400 {
            let want = chunks[0].shards[0].slice(..4096);
            pool.read(&chunks[0].id, 0, 4096, Cause::Read, &|b| b == want).await.unwrap();
        }
        // Reads of the other earn hedges.
        for _ in 0..60 {
            let want = chunks[0].shards[1].slice(..4096);
            pool.read(&chunks[0].id, SHARD_SPAN, 4096, Cause::Read, &|b| b == want).await.unwrap();
        }
        let begun = yard.rt.now();
        let want = chunks[0].shards[0].slice(..4096);
        pool.read(&chunks[0].id, 0, 4096, Cause::Read, &|b| b == want).await.unwrap();
        assert!(yard.rt.now().since(begun) < Duration::from_millis(20), "it is known to be slow");
        let day = Duration::from_secs(86_400);
        yard.stores[hung].faults(|f| f.latency = (day, day));
        let want = chunks[0].shards[0].slice(..4096);
        let begun = yard.rt.now();
        pool.read(&chunks[0].id, 0, 4096, Cause::Read, &|b| b == want).await.unwrap();
        let took = yard.rt.now().since(begun);
        // Its label may be looked at as well.
        assert!(took < Duration::from_millis(500), "{took:?}");
    });
}

/// Emptied a moment ago, with a label that was read a moment before: what it says does not count (protocol §1.7).
#[test]
fn what_an_emptied_store_says_does_not_count() {
    run("1+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        pool.look().await;
        yard.stores[1].contents().wipe();
        let seen = pool.probe(&id(9), &pool.incarnations(), W).await;
        assert_eq!((seen.good, seen.absent, seen.unknown), (0, 2, 1));
        drop(pool);
        let pool = yard.open().await.unwrap();
        yard.settle(3000).await;
        pool.look().await;
        yard.stores[2].contents().wipe();
        let upload = pool.put_chunk(chunk(1, &LENS[..1]));
        let both = yard.rt.timeout(Duration::from_secs(60), upload.wait(2)).await;
        assert!(both.is_none(), "one store is left");
        assert_eq!(upload.stored(), 1);
        let (contents, _) = yard.shard(&id(1), 0);
        assert!(!contents.keys().is_empty());
    });
}

#[test]
fn an_outage_of_too_many_stores_holds_and_heals() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        (0..3).for_each(|i| yard.reach(i, Reach::Silent));
        let chunk = chunk(1, &LENS);
        let upload = pool.put_chunk(chunk.clone());
        assert!(yard.rt.timeout(Duration::from_secs(600), upload.wait(5)).await.is_none());
        assert_eq!(upload.stored(), 3);
        assert_eq!(pool.out_for(Duration::from_secs(500)), 3);
        (0..2).for_each(|i| yard.reach(i, Reach::Up));
        upload.wait(5).await.unwrap();
        assert_eq!((upload.stored(), pool.pending()), (5, 1));
        upload.settled().await;
        // A store known to be down costs the next chunk nothing.
        let before = yard.rt.now();
        store(&pool, &super::tests::chunk(2, &LENS)).await;
        assert!(
            yard.rt.now().since(before) < Duration::from_millis(700),
            "{:?}",
            yard.rt.now().since(before)
        );
        yard.reach(2, Reach::Up);
        yard.settle(20_000).await;
        assert_eq!(pool.pending(), 0);
        assert!((0..6).all(|i| yard.has(&chunk.id, i)));
        check(&pool, &chunk).await;
    });
}

#[test]
fn hints_outlive_the_process() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        yard.reach(1, Reach::Refuses);
        let chunk = chunk(5, &[100_000, 7]);
        let upload = pool.put_chunk(chunk.clone());
        upload.wait(2).await.unwrap();
        pool.close().await;
        drop((pool, upload));
        let pool = yard.open().await.unwrap();
        assert_eq!(pool.pending(), 1);
        yard.reach(1, Reach::Up);
        yard.settle(20_000).await;
        assert_eq!(pool.pending(), 0);
        assert!((0..3).all(|i| yard.has(&chunk.id, i)));
    });
}

#[test]
fn two_contents_under_one_id_are_an_error_and_rot_is_replaced() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        let one = chunk(5, &[100_000, 7]);
        store(&pool, &one).await;
        yard.settle(1000).await;
        // The same contents again, with one shard's footer gone: all is well afterwards.
        let (contents, key) = yard.shard(&one.id, 1);
        contents.rot(&key, |b| b.truncate(9));
        store(&pool, &one).await;
        let seen = pool.probe(&one.id, &pool.incarnations(), W).await;
        assert_eq!(seen.good, 3);
        let mut other = one.clone();
        other.shards[1] = Bytes::from_static(b"another");
        let upload = pool.put_chunk(other);
        assert!(upload.wait(3).await.unwrap_err().is(Kind::Corrupt));
        check(&pool, &one).await;
    });
}

#[test]
fn a_walk_counts_fetches_and_completes() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let one = chunk(5, &LENS);
        store(&pool, &one).await;
        yard.settle(1000).await;
        for shard in [0, 3] {
            let (contents, key) = yard.shard(&one.id, shard);
            contents.delete(&[key], W).await.unwrap();
        }
        let (contents, key) = yard.shard(&one.id, 1);
        // Rot inside, under a footer that looks well.
        contents.rot(&key, |b| b[10] ^= 1);
        let seen = pool.probe(&one.id, &pool.incarnations(), W).await;
        assert_eq!((seen.good, seen.absent, seen.unknown), (4, 2, 0));
        let e = pool.payload(&one.id, &seen, W).await.unwrap_err();
        assert!(e.is(Kind::Corrupt), "three of six are bad: {e}");
        contents.rot(&key, |b| b[10] ^= 1);
        let (contents, key) = yard.shard(&one.id, 4);
        contents.rot(&key, |b| *b.last_mut().unwrap() ^= 1);
        let (contents, key) = yard.shard(&one.id, 3);
        contents.put(&key, Bytes::from(vec![0; 100]), When::Absent, W).await.unwrap();
        let seen = pool.probe(&one.id, &pool.incarnations(), W).await;
        assert_eq!((seen.good, seen.absent, seen.unknown), (3, 1, 2));
        assert!(pool.payload(&one.id, &seen, W).await.unwrap_err().is(Kind::Corrupt));
        let (contents, key) = yard.shard(&one.id, 4);
        contents.rot(&key, |b| *b.last_mut().unwrap() ^= 1);
        let seen = pool.probe(&one.id, &pool.incarnations(), W).await;
        let payload = pool.payload(&one.id, &seen, W).await.unwrap();
        assert_eq!(payload.chunk.shards, one.shards);
        assert_eq!(payload.slice(3 * SHARD_SPAN, 5).unwrap(), one.shards[3][..5]);
        assert!(payload.slice(2 * SHARD_SPAN, 2).is_none());
        let upload = pool.complete(&payload);
        upload.wait(6).await.unwrap();
        let seen = pool.probe(&one.id, &pool.incarnations(), W).await;
        assert_eq!((seen.good, seen.about.unwrap().lengths), (6, LENS.map(|l| l as u32).to_vec()));
        check(&pool, &one).await;
        pool.delete(&[one.id]).await.unwrap();
        assert!((0..6).all(|i| !yard.has(&one.id, i)));
        let verify = |_: &[u8]| true;
        let e = pool.read(&one.id, 0, 1, Cause::Read, &verify).await.unwrap_err();
        assert!(e.is(Kind::Corrupt), "gone for sure: {e}");
    });
}

#[test]
fn a_slow_store_costs_one_hedge_delay() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let one = chunk(5, &LENS);
        store(&pool, &one).await;
        yard.settle(3000).await;
        for seq in 6..40 {
            store(&pool, &chunk(seq, &LENS)).await;
        }
        let slow = place(&one.id, 0, 6);
        yard.stores[slow].faults(|f| f.latency = (Duration::from_secs(20), Duration::from_secs(20)));
        let before = yard.rt.now();
        let want = one.shards[0].slice(..100);
        let got = pool.read(&one.id, 0, 100, Cause::Read, &|b| b == want).await.unwrap();
        assert_eq!(got, want);
        let took = yard.rt.now().since(before);
        assert!(took < Duration::from_millis(600), "{took:?}");
    });
}

#[test]
fn names_are_given_once() {
    run("1+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let name = |n: &str| n.parse::<Name>().unwrap();
        for i in 0..40u128 {
            pool.insert(&name(&format!("v{i}")), VolumeId(i)).await.unwrap();
        }
        pool.insert(&name("v1"), VolumeId(1)).await.unwrap();
        assert!(pool.insert(&name("v1"), VolumeId(2)).await.unwrap_err().is(Kind::Exists));
        pool.remove(&name("v1"), VolumeId(2)).await.unwrap();
        assert_eq!(pool.lookup(&name("v1")).await.unwrap(), Some(VolumeId(1)));
        pool.remove(&name("v1"), VolumeId(1)).await.unwrap();
        assert_eq!(pool.lookup(&name("v1")).await.unwrap(), None);
        assert_eq!(pool.list().await.unwrap().len(), 39);
    });
}

#[test]
fn a_pool_is_made_whatever_the_order_of_things() {
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let yard = Yard::new(&sim, "4+2");
        sim.run(async move { yard.create().await.unwrap_or_else(|e| panic!("seed {seed}: {e}")) }).unwrap();
    }
}

/// A store that was emptied after a label get had begun is not attested by that get.
#[test]
fn attest_answers_only_from_a_label_get_begun_after_it() {
    let sim = Sim::new(3);
    let world = (*sim).clone();
    let yard = Yard::new(&sim, "1+0");
    sim.run(async move {
        let pool = yard.create().await.unwrap();
        let member = pool.membership().members[0].clone();
        let second = Duration::from_secs(1);
        yard.stores[0].faults(|f| f.latency = (second / 2, second / 2));
        let early = member.attest();
        let late = async {
            yard.rt.sleep(second * 3 / 4).await;
            // The first get has taken effect and is not answered yet.
            yard.stores[0].contents().wipe();
            let (one, two) = futures::future::join(member.attest(), member.attest()).await;
            (one, two, yard.rt.now())
        };
        let begun = world.now();
        let (early, (one, two, end)) = futures::future::join(early, late).await;
        assert!(early.is_ok());
        assert!(one.unwrap_err().to_string().contains("mem:s0") && two.is_err());
        assert!(end.since(begun) < second * 9 / 4, "one get serves both: {:?}", end.since(begun));
        assert!(matches!(member.standing(), Standing::Out(_)));
        // Nothing is sent to it any more.
        assert!(member.put("x", Bytes::new(), When::Absent, W).await.is_err());
        assert!(member.get("x", crate::store::ByteRange::Last(1), W).await.is_err());
    })
    .unwrap();
}

#[test]
fn a_silent_store_is_found_out_within_seconds_and_gives_up_what_waits() {
    run("2+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let one = chunk(1, &LENS[..2]);
        store(&pool, &one).await;
        yard.settle(1000).await;
        yard.stores[0].faults(|f| (f.reach, f.patience) = (Reach::Silent, Duration::from_secs(3600)));
        let begun = yard.rt.now();
        store(&pool, &chunk(2, &LENS[..2])).await;
        assert!(yard.rt.now().since(begun) < Duration::from_secs(1));
        check(&pool, &one).await;
        yard.settle(4000).await;
        assert_eq!(pool.out_for(Duration::from_secs(1)), 1);
        assert_eq!(pool.status().stores[0].state, "down");
        yard.reach(0, Reach::Up);
        yard.settle(30_000).await;
        assert_eq!((pool.out_for(Duration::ZERO), pool.pending()), (0, 0));
    });
}

/// A link that is too slow is not a store that is down.
#[test]
fn a_slow_answer_among_quick_ones_is_no_outage() {
    run("1+0", |yard| async move {
        let pool = yard.create().await.unwrap();
        let member = pool.membership().members[0].clone();
        yard.stores[0].faults(|f| f.latency = (Duration::from_millis(1400), Duration::from_millis(1400)));
        // Label gets take longer than they may; other requests are answered all the time.
        for _ in 0..20 {
            let busy = (0..4u64).map(|i| {
                let (rt, member) = (yard.rt.clone(), member.clone());
                async move {
                    rt.sleep(Duration::from_millis(i * 700)).await;
                    member.head("x", W).await
                }
            });
            assert!(futures::future::join_all(busy).await.iter().all(Result::is_ok));
            assert!(member.standing().usable());
        }
    });
}

#[test]
fn an_upload_that_nobody_wants_ends() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        (0..3).for_each(|i| yard.reach(i, Reach::Refuses));
        let upload = pool.put_chunk(chunk(1, &LENS[..2]));
        yard.settle(10_000).await;
        drop(upload);
        (0..3).for_each(|i| yard.reach(i, Reach::Up));
        yard.settle(30_000).await;
        assert!((0..3).all(|i| !yard.has(&id(1), i)));
        assert_eq!(pool.pending(), 0);
        // Once enough are stored, dropping it leaves the rest to repair.
        yard.reach(2, Reach::Refuses);
        yard.settle(100).await;
        let upload = pool.put_chunk(chunk(2, &LENS[..2]));
        upload.wait(2).await.unwrap();
        drop(upload);
        assert_eq!(pool.pending(), 1);
        yard.reach(2, Reach::Up);
        yard.settle(30_000).await;
        assert!((0..3).all(|i| yard.has(&id(2), i)));
    });
}

#[test]
fn a_store_that_breaks_a_promise_is_out() {
    run("1+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        assert!(pool.check_promises().await.is_empty());
        assert!(yard.stores.iter().all(|s| !s.contents().keys().iter().any(|k| k.starts_with("probe/"))));
        yard.reach(1, Reach::Refuses);
        assert_eq!(pool.check_promises().await.len(), 1);
    });
}

/// Real folders: moved away and back, emptied and made again.
#[tokio::test]
async fn folders_come_and_go() {
    use crate::base::rt::{RealDisk, RealRuntime};
    let dir = tempfile::tempdir().unwrap();
    let rt = Rt::new(RealRuntime::current());
    let disk = RealDisk::start();
    let path = |i: usize| dir.path().join(format!("s{i}"));
    let specs = async || {
        let mut specs = Vec::new();
        for i in 0..6 {
            let url: crate::store::StoreUrl = format!("file://{}", path(i).display()).parse().unwrap();
            let bucket = crate::store::expect(&rt, &url).await.unwrap();
            specs.push(StoreSpec { url: url.to_string(), zone: None, bucket });
        }
        specs
    };
    let host = || PoolHost {
        rt: rt.clone(),
        disk: disk.clone(),
        folder: dir.path().join("home"),
        opener: Arc::new(OnlyNamed),
    };
    let rename = |from: std::path::PathBuf, to: std::path::PathBuf| {
        let disk = disk.clone();
        async move { crate::base::rt::Disk::rename(&*disk, &from, &to).await.unwrap() }
    };
    let until = async |pool: &Arc<Pool>, what: fn(&Pool) -> bool| {
        for _ in 0..600 {
            if what(pool) {
                return;
            }
            rt.sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?}", pool.status());
    };
    (0..6).for_each(|i| std::fs::create_dir(path(i)).unwrap());
    let layout = "4+2".parse().unwrap();
    let made = Pool::create(host(), "tank".parse().unwrap(), layout, specs().await, CreateOptions::default());
    let pool = made.await.unwrap();
    store(&pool, &chunk(1, &LENS)).await;
    for i in [1, 4] {
        rename(path(i), dir.path().join(format!("away{i}"))).await;
    }
    check(&pool, &chunk(1, &LENS)).await;
    let upload = pool.put_chunk(chunk(2, &LENS));
    upload.wait(4).await.unwrap();
    check(&pool, &chunk(2, &LENS)).await;
    assert!(!path(1).exists(), "nothing makes a store's folder");
    assert_eq!(pool.pending(), 2);
    pool.close().await;
    drop((pool, upload));
    let pool = Pool::open(host(), specs().await).await.unwrap();
    check(&pool, &chunk(2, &LENS)).await;
    for i in [1, 4] {
        rename(dir.path().join(format!("away{i}")), path(i)).await;
    }
    until(&pool, |p| p.pending() == 0 && p.out_for(Duration::ZERO) == 0).await;
    let known = Counted { dead: 0, live: 2 };
    let report = pool.scrub(&known, Tempo::default(), &|_| {}).await.unwrap();
    assert!(report.is_complete_and_clean(), "{report:?}");
    // Something else under two shards' keys: nothing, and 5 GiB of it.
    for (shard, len) in [(0, 0), (1, 5 << 30)] {
        let at = path(place(&id(1), shard, 6)).join(shard_key(&id(1), shard));
        #[allow(clippy::disallowed_types)] // on a real folder
        std::fs::File::create(at).unwrap().set_len(len).unwrap();
    }
    check(&pool, &chunk(1, &LENS)).await;
    let report = pool.scrub(&known, Tempo::default(), &|_| {}).await.unwrap();
    assert_eq!((report.rotten.len(), report.findings.len()), (2, 2), "{report:?}");
    let done = pool.repair(&known, Tempo::default(), &|_| {}).await.unwrap();
    assert!(done.left.is_complete_and_clean() && done.rebuilt == 2, "{done:?}");
    rename(path(3), dir.path().join("gone")).await;
    std::fs::create_dir(path(3)).unwrap();
    pool.look().await;
    assert_eq!(pool.status().stores[3].state, "out");
    check(&pool, &chunk(1, &LENS)).await;
    store(&pool, &chunk(3, &LENS)).await;
    assert_eq!(std::fs::read_dir(path(3)).unwrap().count(), 0, "nothing is put on a store without its label");
    let seen = pool.probe(&id(1), &pool.incarnations(), W).await;
    assert_eq!((seen.good, seen.absent, seen.unknown), (5, 0, 1));
}

/// Chunks up to `dead` are dead, then live up to `live`, then nobody knows.
pub(super) struct Counted {
    pub(super) dead: u64,
    pub(super) live: u64,
}

#[async_trait]
impl Inventory for Counted {
    async fn fate(&self, id: ChunkId) -> Result<Fate> {
        Ok(match id.seq.0 {
            seq if seq <= self.dead => Fate::Dead,
            seq if seq <= self.live => Fate::Live,
            _ => Fate::Unknown,
        })
    }
    async fn live_after(&self, after: Option<ChunkId>, max: usize) -> Result<Vec<ChunkId>> {
        let from = after.map_or(self.dead, |a| a.seq.0) + 1;
        Ok((from..=self.live).take(max).map(id).collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any bytes of up to m shards changed, cut or blown up: reads give the right bytes.
    #[test]
    fn rot_never_gives_wrong_bytes(
        seed in any::<u64>(),
        hurt in prop::collection::vec((0usize..6, 0u8..5, any::<prop::sample::Index>(), 1u8..), 1..7),
    ) {
        let sim = Sim::new(seed);
        let yard = Yard::new(&sim, "4+2");
        let out = sim.run(async move {
            let pool = yard.create().await.unwrap();
            let one = chunk(5, &LENS);
            store(&pool, &one).await;
            yard.settle(10_000).await;
            let mut shards: BTreeMap<usize, ()> = BTreeMap::new();
            for (shard, how, at, flip) in hurt {
                shards.insert(shard, ());
                let (contents, key) = yard.shard(&one.id, shard);
                contents.rot(&key, |b| match how {
                    0 => b.truncate(at.index(b.len().max(1))),
                    1 => b.clear(),
                    2 => b.resize(b.len() + 100_000, flip),
                    _ if b.is_empty() => {}
                    _ => { let i = at.index(b.len()); b[i] ^= flip; }
                });
            }
            for (i, shard) in one.shards.iter().enumerate() {
                let verify = |b: &[u8]| b == shard;
                let offset = i as u64 * SHARD_SPAN;
                let got = pool.read(&one.id, offset, shard.len() as u32, Cause::Read, &verify).await;
                match got {
                    Ok(bytes) => assert_eq!(bytes, shard),
                    Err(e) => assert!(shards.len() > 2 && e.is(Kind::Corrupt), "{e}"),
                }
            }
            let seen = pool.probe(&one.id, &pool.incarnations(), W).await;
            match pool.payload(&one.id, &seen, W).await {
                Ok(payload) => assert_eq!(payload.chunk.shards, one.shards),
                Err(e) => assert!(shards.len() > 2 && e.is(Kind::Corrupt), "{e}"),
            }
        });
        prop_assert!(out.is_ok());
    }

    /// Stores that fail, lose answers and deliver late: what counts as stored is stored.
    #[test]
    fn what_counts_as_stored_is_stored(seed in any::<u64>(), errors in 0u32..300, lost in 0u32..300) {
        let sim = Sim::new(seed);
        let yard = Yard::new(&sim, "2+2");
        let out = sim.run(async move {
            let pool = yard.create().await.unwrap();
            for store in &yard.stores {
                store.faults(|f| (f.errors, f.lost) = (errors, lost));
            }
            let chunks: Vec<Chunk> = (1..6).map(|seq| chunk(seq, &LENS[..2])).collect();
            let uploads: Vec<Upload> = chunks.iter().map(|c| pool.put_chunk(c.clone())).collect();
            for (upload, chunk) in uploads.iter().zip(&chunks) {
                upload.wait(3).await.unwrap();
                let there = (0..4).filter(|i| yard.has(&chunk.id, *i)).count();
                assert!(there >= upload.stored() && upload.stored() >= 3);
            }
            for store in &yard.stores {
                store.faults(|f| (f.errors, f.lost) = (0, 0));
            }
            yard.settle(60_000).await;
            assert_eq!(pool.pending(), 0);
            for chunk in &chunks {
                assert!((0..4).all(|i| yard.has(&chunk.id, i)));
                check(&pool, chunk).await;
            }
        });
        prop_assert!(out.is_ok());
    }
}
