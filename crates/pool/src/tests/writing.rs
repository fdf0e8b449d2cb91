//! Writes in outages, what is remembered as missing, deletions that are not allowed.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use windlass_base::Kind;
use windlass_base::rt::sim::Sim;
use windlass_store::Reach;

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

/// With nothing else to put a store that is said to take no writes would stay so, and whoever counts stores would wait for ever.
#[test]
fn a_store_whose_lost_answer_is_found_to_be_stored_takes_writes() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        let lose = |lost| {
            yard.stores.iter().for_each(|s| s.faults(|f| (f.lost, f.late) = (lost, Duration::from_secs(1))))
        };
        for seq in 1..=40 {
            lose(400);
            let upload = pool.put_chunk(chunk(seq, &[9000, 7]));
            yard.settle(4_000).await;
            lose(0);
            upload.wait(3).await.unwrap();
            upload.settled().await;
            yard.settle(10_000).await;
            assert_eq!(pool.out_for(Duration::ZERO), 0, "chunk {seq}");
        }
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
        assert_eq!(pool.status().stores[1].state, StoreState::In);
        let found =
            pool.scrub(&Counted { dead: 2, live: 0 }, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert_eq!(found.orphans.len(), 2);
        assert!(found.orphans.iter().all(|o| o.store == 1), "{found:?}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

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

/// A disk is unmounted for a second: what lands in the folder below it does not count once the disk is back, however long ago
/// that was.
#[test]
fn what_lands_where_a_disk_was_for_a_moment_does_not_count() {
    for layout in ["1+0", "1+1"] {
        run(layout, |yard| async move {
            let pool = yard.create().await.unwrap();
            store(&pool, &chunk(1, &LENS[..1])).await;
            let disk = yard.stores[0].contents().exchange(MemStore::new("below").backup());
            let upload = pool.put_chunk(chunk(2, &LENS[..1]));
            yard.settle(1_000).await;
            let below = yard.stores[0].contents().exchange(disk);
            // Until it is known that the disk is back, and what was put is put again.
            yard.settle(90_000).await;
            let there = (0..yard.stores.len()).filter(|i| yard.has(&id(2), *i)).count();
            assert_eq!(upload.stored(), there);
            upload.wait(yard.stores.len()).await.unwrap();
            assert!((0..yard.stores.len()).all(|i| yard.has(&id(2), i)));
            let folder = MemStore::new("folder");
            folder.exchange(below);
            assert!(!folder.keys().is_empty(), "it had landed below");
        });
    }
}
