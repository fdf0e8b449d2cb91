//! Reads with losses, rot and slow stores; what a walk finds.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::chunk::{CHECK_SPAN, Footer};
use windlass_base::Kind;
use windlass_base::format_limits::SHARD_SPAN;
use windlass_base::rt::sim::Sim;
use windlass_base::sum::crc32c;
use windlass_store::{Bucket as _, Cause, Reach, Restore, Store as _, When};

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

/// A rule of a bucket's owner may move a pool's objects into an archive. All stores answer then, and say so.
#[test]
fn what_lies_in_an_archive_is_named() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        let one = chunk(5, &LENS[..2]);
        store(&pool, &one).await;
        yard.settle(1000).await;
        // No answer is late, so that each store is heard before others are asked in its stead.
        let soon = Duration::from_millis(5);
        yard.stores.iter().for_each(|store| store.faults(|f| f.latency = (soon, soon)));
        let verify = |_: &[u8]| true;
        let read = || pool.read(&one.id, 0, 5, Cause::Read, &verify);
        let (contents, key) = yard.shard(&one.id, 0);
        contents.archive(&key);
        assert_eq!(read().await.unwrap(), one.shards[0][..5], "parity makes up for it");
        let told = pool.condition().archived().unwrap();
        assert!(told.contains("1 object of") && told.contains(&key), "{told}");
        assert!(pool.condition().away.is_empty());
        let (other, second) = yard.shard(&one.id, 1);
        other.archive(&second);
        let e = read().await.unwrap_err();
        assert!(e.to_string().contains("restored from an archive"), "{e}");
        assert!(!e.to_string().contains("more stores answer"), "{e}");
        assert_eq!(pool.whole_condition().loss(), pool.condition().archived());
        for (contents, key) in [(contents, key), (other, second)] {
            contents.restore(&key, None, Restore { days: 1, tier: None }, W).await.unwrap();
            contents.finish_restore(&key, u64::MAX);
        }
        assert_eq!(read().await.unwrap(), one.shards[0][..5]);
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

/// Another server answers at the address of some stores: nothing there is absent, foreign or damaged.
#[test]
fn what_another_server_answers_is_no_absence() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let one = chunk(5, &LENS);
        store(&pool, &one).await;
        yard.settle(1000).await;
        for away in [0, 1] {
            yard.reach(away, Reach::Foreign);
        }
        for _ in 0..3 {
            let seen = pool.probe(&one.id, &pool.incarnations(), W).await;
            assert_eq!((seen.good, seen.absent, seen.unknown), (4, 0, 2));
            yard.settle(2000).await;
        }
        check(&pool, &one).await;
        // Labels are not judged by such an answer: down is no other place, as `out` is.
        let down = pool.status().stores.iter().filter(|s| s.state == StoreState::Down).count();
        assert_eq!(down, 2);
        for back in [0, 1] {
            yard.reach(back, Reach::Up);
        }
        yard.settle(20_000).await;
        let seen = pool.probe(&one.id, &pool.incarnations(), W).await;
        assert_eq!((seen.good, seen.absent, seen.unknown), (6, 0, 0));
    });
}

/// Other bytes in a shard, and checksums that fit them.
fn forge(shard: &mut Vec<u8>) {
    forge_from(shard, 0);
}

fn forge_from(shard: &mut Vec<u8>, from: usize) {
    let mut footer = Footer::decode(shard, shard.len() as u64).unwrap();
    shard.truncate(shard.len() - footer.encode().len());
    shard[from..].iter_mut().for_each(|byte| *byte ^= 1);
    footer.checks = shard.chunks(CHECK_SPAN).map(crc32c).collect();
    footer.shard_hash = xxhash_rust::xxh3::xxh3_128(shard);
    shard.extend(footer.encode());
}

#[test]
fn a_forged_shard_beside_a_store_that_is_away_leaves_all_readable() {
    for (layout, forged) in [("2+2", 1), ("2+2", 2), ("2+2", 3), ("4+2", 4), ("4+2", 5), ("1+2", 1)] {
        run(layout, move |yard| async move {
            let pool = yard.create().await.unwrap();
            let one = chunk(5, &LENS[..pool.layout().k()]);
            store(&pool, &one).await;
            yard.settle(1000).await;
            yard.reach(place(&one.id, 0, yard.layout.n()), Reach::Refuses);
            let (contents, key) = yard.shard(&one.id, forged);
            assert!(contents.rot(&key, forge));
            check(&pool, &one).await;
        });
    }
}

/// A shard is false from some byte on. Reads around a store that is away meet the shard, once in its false part and once before
/// it. A repair replaces the shard, and all is readable without m stores.
#[test]
fn nothing_that_was_known_of_a_false_shard_outlives_its_repair() {
    let span = CHECK_SPAN;
    for (false_from, read_at) in [(0, 0), (span, 0), (span, span)] {
        run("3+2", move |yard| async move {
            let pool = yard.create().await.unwrap();
            let one = chunk(1, &[2 * span; 3]);
            store(&pool, &one).await;
            yard.settle(1000).await;
            let (contents, key) = yard.shard(&one.id, 1);
            assert!(contents.rot(&key, |shard| forge_from(shard, false_from)));
            let at = |shard| place(&one.id, shard, yard.layout.n());
            let read = async |offset: usize| {
                let want = one.shards[0].slice(offset..offset + 4096);
                pool.read(&one.id, offset as u64, 4096, Cause::Read, &|b| b == want).await
            };
            yard.reach(at(0), Reach::Refuses);
            read(read_at).await.unwrap();
            yard.reach(at(0), Reach::Up);
            yard.settle(20_000).await;
            yard.needed.0.lock().insert(one.id);
            let (known, quiet) = (Counted { dead: 0, live: 1 }, |_| {});
            let done = pool.repair(&known, ScrubOptions::default(), &quiet).await.unwrap();
            assert!(done.left.is_complete_and_clean() && done.rebuilt == 1, "{done:?}");
            [0, 4].into_iter().for_each(|shard| yard.reach(at(shard), Reach::Refuses));
            for offset in [0, span] {
                assert!(read(offset).await.is_ok(), "false from {false_from}, read at {read_at}: {offset}");
            }
        });
    }
}

/// No hash covers a parity shard: reads alone prove that one is false, and a repair takes it away by that.
#[test]
fn a_false_parity_shard_that_reads_have_proven_is_taken_away_by_a_repair() {
    run("3+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let one = chunk(1, &LENS[..3]);
        store(&pool, &one).await;
        yard.settle(1000).await;
        let (contents, key) = yard.shard(&one.id, 3);
        assert!(contents.rot(&key, forge));
        let at = |shard| place(&one.id, shard, yard.layout.n());
        yard.reach(at(0), Reach::Refuses);
        check(&pool, &one).await;
        yard.settle(30_000).await;
        yard.reach(at(0), Reach::Up);
        yard.settle(20_000).await;
        assert_eq!(pool.status().damaged_shards, 1, "it is not forgotten");
        yard.needed.0.lock().insert(one.id);
        let (known, quiet) = (Counted { dead: 0, live: 1 }, |_| {});
        let found = pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
        assert_eq!(found.rotten.iter().map(|finding| &*finding.key).collect::<Vec<_>>(), [&*key]);
        let done = pool.repair(&known, ScrubOptions::default(), &quiet).await.unwrap();
        assert!(done.left.is_complete_and_clean() && done.rebuilt == 1, "{done:?}");
        assert_eq!(pool.status().damaged_shards, 0);
        // Suspected once more, and right.
        pool.context().missing_shards().damaged(one.id, crate::local::Damage::rotten(3));
        let clean = pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
        assert!(clean.is_complete_and_clean() && pool.status().damaged_shards == 0, "{clean:?}");
        [0, 4].into_iter().for_each(|shard| yard.reach(at(shard), Reach::Refuses));
        check(&pool, &one).await;
    });
}

#[derive(Debug, Default)]
struct Emptied(std::sync::atomic::AtomicUsize);

#[async_trait]
impl ReadCaches for Emptied {
    async fn empty(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn caches_are_emptied_where_a_shard_had_other_contents_and_only_there() {
    let kinds: [fn(&mut Vec<u8>); 2] = [forge, |shard| shard[0] ^= 1];
    for (kind, expected) in [(Some(kinds[0]), 1), (Some(kinds[1]), 1), (None, 0)] {
        run("2+1", move |yard| async move {
            let pool = yard.create().await.unwrap();
            let caches = Arc::new(Emptied::default());
            let weak = Arc::downgrade(&caches);
            pool.empties(weak);
            let one = chunk(1, &LENS[..2]);
            store(&pool, &one).await;
            yard.settle(1000).await;
            let (contents, key) = yard.shard(&one.id, 0);
            match kind {
                Some(kind) => assert!(contents.rot(&key, kind)),
                None => contents.delete(&[key], W).await.unwrap(),
            }
            yard.needed.0.lock().insert(one.id);
            let (known, quiet) = (Counted { dead: 0, live: 1 }, |_| {});
            let done = pool.repair(&known, ScrubOptions::default(), &quiet).await.unwrap();
            assert_eq!((done.rebuilt, done.replaced), (1, expected), "{done:?}");
            assert_eq!(caches.0.load(std::sync::atomic::Ordering::Relaxed) as u64, expected);
        });
    }
}

/// The attempt after a lost answer finds the right contents, and knows of no others.
#[test]
fn caches_are_emptied_also_where_the_answer_to_the_replacement_is_lost() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let yard = Yard::new(&sim, "2+1");
        let repaired = async move {
            let pool = yard.create().await.unwrap();
            let caches = Arc::new(Emptied::default());
            let weak = Arc::downgrade(&caches);
            pool.empties(weak);
            let one = chunk(1, &LENS[..2]);
            store(&pool, &one).await;
            yard.settle(1000).await;
            let (contents, key) = yard.shard(&one.id, 0);
            assert!(contents.rot(&key, forge));
            yard.needed.0.lock().insert(one.id);
            let (known, quiet) = (Counted { dead: 0, live: 1 }, |_| {});
            let clean = async || {
                let found = pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
                found.is_complete_and_clean()
            };
            while !clean().await {
                yard.stores.iter().for_each(|store| store.faults(|f| f.lost = 150));
                // One that fails is tried again.
                let _ = pool.repair(&known, ScrubOptions::default(), &quiet).await;
                yard.stores.iter().for_each(|store| store.faults(|f| f.lost = 0));
                yard.settle(60_000).await;
            }
            assert!(caches.0.load(std::sync::atomic::Ordering::Relaxed) > 0, "seed {seed}");
        };
        sim.run(repaired).unwrap();
    }
}

/// Nobody can tell which of the two was stored: what was is not to be overwritten, whichever hash is the lower one.
#[test]
fn of_two_copies_that_contradict_each_other_repair_touches_neither() {
    for forged in [0, 1] {
        run("1+1", move |yard| async move {
            let pool = yard.create().await.unwrap();
            let one = chunk(1, &LENS[..1]);
            store(&pool, &one).await;
            yard.settle(1000).await;
            let (contents, key) = yard.shard(&one.id, forged);
            assert!(contents.rot(&key, |shard| {
                forge(shard);
                let mut footer = Footer::decode(shard, shard.len() as u64).unwrap();
                shard.truncate(shard.len() - footer.encode().len());
                footer.about.payload_hash = footer.about.hash(&[footer.shard_hash]);
                shard.extend(footer.encode());
            }));
            let (honest, key) = yard.shard(&one.id, 1 - forged);
            let before = bytes_of(honest, &key);
            let (known, quiet) = (Counted { dead: 0, live: 1 }, |_| {});
            yard.needed.0.lock().insert(one.id);
            let found = pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
            assert_eq!(found.rotten.len(), 2, "{found:?}");
            let done = pool.repair(&known, ScrubOptions::default(), &quiet).await.unwrap();
            assert_eq!((done.rebuilt, done.left.rotten.len()), (0, 2), "{done:?}");
            yard.settle(60_000).await;
            assert!(bytes_of(honest, &key) == before);
        });
    }
}

fn bytes_of(contents: &MemStore, key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(contents.rot(key, |held| bytes = held.clone()));
    bytes
}

/// Each of these is right in itself: only the others show that it is another's.
#[test]
fn scrub_finds_a_forged_shard_and_repair_takes_it_away() {
    for (layout, forged) in [("2+1", 0), ("2+1", 1), ("4+2", 3), ("1+2", 0), ("1+2", 2), ("1+1", 1)] {
        run(layout, move |yard| async move {
            let pool = yard.create().await.unwrap();
            let one = chunk(1, &LENS[..pool.layout().k()]);
            store(&pool, &one).await;
            yard.settle(1000).await;
            let (known, quiet) = (Counted { dead: 0, live: 1 }, |_| {});
            let clean = pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
            assert!(clean.is_complete_and_clean(), "{clean:?}");
            let (contents, key) = yard.shard(&one.id, forged);
            assert!(contents.rot(&key, forge));
            let found = pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
            let named: Vec<&str> = found.rotten.iter().map(|finding| &*finding.key).collect();
            assert_eq!((named, found.missing.len()), (vec![&*key], 0), "{layout}, {forged}");
            let done = pool.repair(&known, ScrubOptions::default(), &quiet).await.unwrap();
            assert!(done.left.is_complete_and_clean() && done.rebuilt == 1, "{layout}, {forged}: {done:?}");
            let clean = pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
            assert!(clean.is_complete_and_clean(), "{clean:?}");
            check(&pool, &one).await;
        });
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
}
