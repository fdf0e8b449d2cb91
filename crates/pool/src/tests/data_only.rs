//! Pools some of whose stores refuse or ignore the conditions of writes: these hold data only, and nothing is lost by it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use windlass_base::rt::sim::{Sim, World};
use windlass_base::{Kind, VolumeId};
use windlass_store::{ConditionalPuts, SimConditions, SimStore, Store as _};

/// These stores keep no conditions, in one way or the other.
fn cheap(yard: &Yard, stores: &[usize]) {
    let ways = [SimConditions::Unknown, SimConditions::Ignored];
    for (store, way) in stores.iter().zip(ways.iter().cycle()) {
        yard.stores[*store].faults(|f| f.conditions = *way);
    }
}

/// A store that may take another's place.
fn spare(yard: &mut Yard, sim: &World, conditions: SimConditions) -> PoolStore {
    let bucket = SimStore::new(sim, &format!("t{}", yard.spares.len()));
    bucket.faults(|f| f.conditions = conditions);
    yard.spares.push(bucket.clone());
    PoolStore { url: bucket.url().to_owned(), zone: None, bucket }
}

fn run_with<F: Future<Output = ()> + Send + 'static>(layout: &str, test: impl FnOnce(Yard, World) -> F) {
    let sim = Sim::new(7);
    let yard = Yard::new(&sim, layout);
    let run = test(yard, sim.clone());
    sim.run(run).unwrap();
}

fn registers_in(store: &SimStore) -> usize {
    store.contents().keys().iter().filter(|key| key.starts_with("reg/")).count()
}

async fn replace(pool: &Arc<Pool>, old: &str, new: &PoolStore) -> Result<()> {
    let inventory = Counted { dead: 0, live: 1 };
    let planned = pool.plan_replacement(old, new, &inventory, Care::All, &|_| {}).await?;
    assert_eq!(planned, Replacement::Planned);
    let generation = pool.follow().await?;
    let filled = pool.fill(&inventory, &|_| {}).await?;
    assert_eq!(filled.left, 0, "{filled:?}");
    assert!(pool.settle(generation).await?);
    Ok(())
}

#[test]
fn stores_without_conditions_hold_data_and_no_registers() {
    run("4+2", |yard| async move {
        cheap(&yard, &[0, 2, 3]);
        let pool = yard.create().await.unwrap();
        assert_eq!(pool.membership().acceptors, [1, 4, 5]);
        let status = pool.status();
        assert!(status.survives[1].contains("without any 1 of the 3"), "{:?}", status.survives);
        let kinds: Vec<_> = status.stores.iter().map(|s| (s.conditions, s.registers)).collect();
        assert_eq!(kinds[0], (ConditionalPuts::None, false));
        assert_eq!(kinds[1], (ConditionalPuts::Held, true));
        let one = chunk(1, &LENS);
        store(&pool, &one).await;
        pool.insert(&"v".parse().unwrap(), VolumeId(1)).await.unwrap();
        yard.settle(2_000).await;
        assert!((0..6).all(|i| yard.has(&id(1), i)));
        let registers: Vec<usize> = yard.stores.iter().map(|s| registers_in(s)).collect();
        assert!(
            registers.iter().enumerate().all(|(i, n)| (*n > 0) == [1, 4, 5].contains(&i)),
            "{registers:?}"
        );
        assert!(pool.check_promises().await.is_empty());
        pool.close().await;
        drop(pool);
        // Any m may be lost for the data; of those that hold registers one.
        yard.reach(0, Reach::Refuses);
        yard.reach(4, Reach::Silent);
        let pool = yard.open().await.unwrap();
        check(&pool, &one).await;
        assert_eq!(pool.lookup(&"v".parse().unwrap()).await.unwrap(), Some(VolumeId(1)));
        assert!(!pool.condition().lacks(Need::Store));
        // More of the others may be away: what is there can be decided, though not read.
        (2..4).for_each(|i| yard.reach(i, Reach::Refuses));
        pool.look().await;
        assert!(!pool.condition().lacks(Need::Decide) && pool.condition().lacks(Need::Store));
        pool.insert(&"w".parse().unwrap(), VolumeId(2)).await.unwrap();
        yard.reach(1, Reach::Refuses);
        pool.look().await;
        assert!(pool.condition().lacks(Need::Decide));
    });
}

#[test]
fn too_few_stores_with_conditions_are_refused() {
    run("1+0", |yard| async move {
        cheap(&yard, &[0]);
        let e = yard.create().await.unwrap_err();
        assert!(e.is(Kind::Refused) && e.to_string().contains("conditions"), "{e}");
        assert!(yard.stores[0].contents().keys().is_empty());
    });
    run("4+2", |yard| async move {
        cheap(&yard, &[0, 1, 2, 3]);
        let e = yard.create().await.unwrap_err();
        assert!(e.is(Kind::Refused) && e.to_string().contains("only 2 of 6"), "{e}");
        assert!(yard.stores.iter().all(|s| s.contents().keys().is_empty()));
    });
    run("2+1", |yard| async move {
        cheap(&yard, &[0, 1, 2]);
        let e = yard.create().await.unwrap_err();
        assert!(e.to_string().contains("no store of pool tank"), "{e}");
    });
}

#[test]
fn a_store_given_twice_is_found_without_conditions_too() {
    run("4+2", |yard| async move {
        cheap(&yard, &[0, 1]);
        let mut stores = yard.stores.clone();
        stores[1] = stores[0].clone();
        let mut twice = Yard { stores, ..yard.clone() }.specs();
        twice[1].url = "mem:again".to_owned();
        let (name, options) = ("tank".parse().unwrap(), CreateOptions::default());
        let made = Pool::create(yard.host(), name, yard.layout, twice, options).await;
        assert!(made.is_err());
        assert_eq!(registers_in(&yard.stores[2]), 0);
    });
}

#[test]
fn registers_move_when_a_store_without_conditions_takes_the_place_of_one_that_holds_them() {
    run_with("4+2", |mut yard, sim| async move {
        let new = spare(&mut yard, &sim, SimConditions::Unknown);
        let pool = yard.create().await.unwrap();
        assert_eq!(pool.membership().acceptors, [0, 1, 2, 3, 4]);
        let one = chunk(1, &LENS);
        store(&pool, &one).await;
        pool.insert(&"v".parse().unwrap(), VolumeId(1)).await.unwrap();
        yard.settle(2_000).await;
        replace(&pool, "mem:s0", &new).await.unwrap();
        assert_eq!(pool.membership().acceptors, [1, 2, 3, 4, 5]);
        let filled = yard.spares[0].contents().keys();
        assert!(filled.contains(&shard_key(&id(1), shard_on(&id(1), 0, 6))), "{filled:?}");
        assert_eq!(registers_in(&yard.spares[0]), 0);
        pool.insert(&"w".parse().unwrap(), VolumeId(2)).await.unwrap();
        pool.close().await;
        drop(pool);
        // Another host that knows the old stores only; the one that was replaced is gone, and two that hold registers are away.
        yard.reach(0, Reach::Refuses);
        (1..3).for_each(|i| yard.reach(i, Reach::Refuses));
        let pool = yard.open().await.unwrap();
        assert_eq!(pool.membership().acceptors, [1, 2, 3, 4, 5]);
        for (name, volume) in [("v", 1), ("w", 2)] {
            assert_eq!(pool.lookup(&name.parse().unwrap()).await.unwrap(), Some(VolumeId(volume)));
        }
        check(&pool, &one).await;
    });
}

#[test]
fn a_store_that_keeps_conditions_joins_those_that_hold_registers() {
    run_with("4+2", |mut yard, sim| async move {
        cheap(&yard, &[0, 2, 3]);
        let better = spare(&mut yard, &sim, SimConditions::Judged);
        let worse = spare(&mut yard, &sim, SimConditions::Ignored);
        let pool = yard.create().await.unwrap();
        store(&pool, &chunk(1, &LENS)).await;
        yard.settle(2_000).await;
        // With one less of three, two stores could take all.
        let e = replace(&pool, "mem:s1", &worse).await.unwrap_err();
        assert!(e.is(Kind::Refused) && e.to_string().contains("only 2 of 6"), "{e}");
        replace(&pool, "mem:s2", &better).await.unwrap();
        assert_eq!(pool.membership().acceptors, [1, 2, 4, 5]);
        assert!(registers_in(&yard.spares[0]) > 0);
        replace(&pool, "mem:s1", &worse).await.unwrap();
        assert_eq!(pool.membership().acceptors, [2, 4, 5]);
        check(&pool, &chunk(1, &LENS)).await;
    });
}

#[test]
fn a_place_takes_another_kind_when_its_server_has_learned_conditions() {
    run("4+2", |yard| async move {
        cheap(&yard, &[5]);
        let pool = yard.create().await.unwrap();
        assert_eq!(pool.membership().acceptors, [0, 1, 2, 3, 4]);
        store(&pool, &chunk(1, &LENS)).await;
        yard.settle(2_000).await;
        yard.stores[5].faults(|f| f.conditions = SimConditions::Judged);
        let place = PoolStore { url: "mem:s5".to_owned(), zone: None, bucket: yard.stores[5].clone() };
        let inventory = Counted { dead: 0, live: 1 };
        let same =
            pool.plan_replacement("mem:s5", &place, &inventory, Care::Data, &|_| {}).await.unwrap_err();
        assert!(
            same.is(Kind::Refused) && same.to_string().contains("keeps the conditions of writes now"),
            "{same}"
        );
        // Emptied, and made anew by another server.
        yard.stores[5].contents().wipe();
        pool.look().await;
        let planned = pool.plan_replacement("mem:s5", &place, &inventory, Care::Data, &|_| {}).await.unwrap();
        assert_eq!(planned, Replacement::Planned);
        let generation = pool.follow().await.unwrap();
        assert_eq!(pool.fill(&inventory, &|_| {}).await.unwrap().left, 0);
        assert!(pool.settle(generation).await.unwrap());
        assert!(pool.status().stores[5].conditions.are_held());
    });
}

/// A repair that took it in would move registers, or leave fewer, without a word.
#[test]
fn a_place_that_keeps_conditions_no_more_is_not_taken_in_by_itself() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        store(&pool, &chunk(1, &LENS)).await;
        yard.settle(2_000).await;
        yard.stores[0].faults(|f| f.conditions = SimConditions::Unknown);
        yard.stores[0].contents().wipe();
        pool.look().await;
        let place = PoolStore { url: "mem:s0".to_owned(), zone: None, bucket: yard.stores[0].clone() };
        let inventory = Counted { dead: 0, live: 1 };
        let e = pool.plan_replacement("mem:s0", &place, &inventory, Care::Data, &|_| {}).await.unwrap_err();
        assert!(e.is(Kind::Refused) && e.to_string().contains("does not now"), "{e}");
        assert_eq!(pool.membership().acceptors, [0, 1, 2, 3, 4]);
        let planned = pool.plan_replacement("mem:s0", &place, &inventory, Care::All, &|_| {}).await.unwrap();
        assert_eq!(planned, Replacement::Planned);
        assert_eq!(pool.membership().acceptors, [1, 2, 3, 4, 5]);
    });
}

#[test]
fn a_lost_label_is_written_anew_and_all_is_deleted_without_conditions() {
    run("4+2", |yard| async move {
        cheap(&yard, &[0, 2, 3]);
        let pool = yard.create().await.unwrap();
        store(&pool, &chunk(1, &LENS)).await;
        yard.settle(2_000).await;
        pool.close().await;
        drop(pool);
        for i in [0, 2, 3] {
            let key = label_at(&yard.stores[i]);
            yard.stores[i].contents().delete(&[key], W).await.unwrap();
        }
        let name = "tank".parse().unwrap();
        let done = relabel(&yard.host(), &name, &yard.specs(), &BTreeSet::new()).await.unwrap();
        assert_eq!(done.written, ["mem:s0", "mem:s2", "mem:s3"], "{done:?}");
        let pool = yard.open().await.unwrap();
        check(&pool, &chunk(1, &LENS)).await;
        pool.close().await;
        drop(pool);
        let all = Destruction::find(yard.host(), &name, yard.specs(), None).await.unwrap();
        all.run(false, &|_| {}).await.unwrap();
        assert!(yard.stores.iter().all(|store| store.contents().keys().is_empty()));
    });
}

#[test]
fn another_writer_of_one_identity_puts_nothing_over_and_rot_is_replaced() {
    run("4+2", |yard| async move {
        cheap(&yard, &[0, 2, 3]);
        let pool = yard.create().await.unwrap();
        let one = chunk(5, &LENS);
        store(&pool, &one).await;
        yard.settle(2_000).await;
        let mut other = one.clone();
        other.shards[1] = bytes::Bytes::from_static(b"another");
        let upload = pool.put_chunk(other);
        assert!(upload.wait(6).await.unwrap_err().is(Kind::Corrupt));
        yard.settle(2_000).await;
        let whole = async |n: usize| {
            let seen = pool.probe(&one.id, &pool.incarnations(), W).await;
            assert_eq!(pool.verified(&one.id, &seen, W).await.good, n);
        };
        whole(6).await;
        check(&pool, &one).await;
        // Of each kind of store one shard goes bad, and is put over by the right one.
        for shard in 0..6 {
            let (contents, key) = yard.shard(&one.id, shard);
            if [0, 1, 2].contains(&place(&one.id, shard, 6)) {
                contents.rot(&key, |bytes| bytes.truncate(9));
            }
        }
        whole(3).await;
        store(&pool, &one).await;
        yard.settle(2_000).await;
        whole(6).await;
    });
}

#[test]
fn late_and_lost_answers_of_stores_without_conditions_lose_nothing() {
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let yard = Yard::new(&sim, "4+2");
        let rt = sim.rt();
        sim.run(async move {
            cheap(&yard, &[0, 3, 5]);
            let pool = yard.create().await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            for store in &yard.stores {
                store.faults(|f| (f.lost, f.late) = (150, Duration::from_secs(20)));
            }
            let chunks: Vec<Chunk> = (1..6).map(|seq| chunk(seq, &LENS)).collect();
            for chunk in &chunks {
                store(&pool, chunk).await;
            }
            for store in &yard.stores {
                store.faults(|f| f.lost = 0);
            }
            rt.sleep(Duration::from_secs(60)).await;
            for chunk in &chunks {
                check(&pool, chunk).await;
                assert!((0..6).all(|i| yard.has(&chunk.id, i)), "seed {seed}");
            }
            pool.close().await;
        })
        .unwrap();
    }
}
