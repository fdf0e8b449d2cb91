//! Pools made and opened.

use bytes::Bytes;

use super::*;
use crate::admin::check_alone;
use crate::stores::{Named, parse};
use windlass_base::rt::sim::Sim;
use windlass_base::{Kind, Name, PoolId, VolumeId};
use windlass_store::{Reach, Store as _, When};

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
fn a_pool_is_made_whatever_the_order_of_things() {
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let yard = Yard::new(&sim, "4+2");
        sim.run(async move { yard.create().await.unwrap_or_else(|e| panic!("seed {seed}: {e}")) }).unwrap();
    }
}

#[test]
fn of_two_pools_made_at_once_in_the_same_places_at_most_one_is() {
    let mut made = 0;
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let yard = Yard::new(&sim, "2+1");
        let ours = sim.run(async move {
            let (one, other) = futures::future::join(yard.create(), yard.create()).await;
            let pools: Vec<_> = [one, other].into_iter().flatten().collect();
            assert!(pools.len() <= 1, "seed {seed}: two pools have the same places");
            yard.settle(60_000).await;
            let is_label = |key: &String| matches!(parse(key), Named::Label(_));
            for store in &yard.stores {
                let labels = store.contents().keys().into_iter().filter(is_label).count();
                assert_eq!(labels, pools.len(), "seed {seed}: the labels in a place");
            }
            if pools.is_empty() {
                yard.create().await.unwrap_or_else(|e| panic!("seed {seed}: the places are free again: {e}"));
            }
            pools.len()
        });
        made += ours.unwrap();
    }
    assert!(made > 0, "the later one is refused, not always both");
}

#[test]
fn another_pools_label_is_seen_behind_all_that_this_pool_has_stored() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        // More than a page of a listing has.
        for seq in 1..=2000 {
            let key = shard_key(&id(seq), 0);
            yard.stores[0].contents().put(&key, Bytes::new(), When::Always, W).await.unwrap();
        }
        let place = yard.specs().swap_remove(0);
        check_alone(&place, pool.id()).await.unwrap();
        let other = check_alone(&place, PoolId(pool.id().0 ^ 1)).await.unwrap_err();
        assert!(other.is(Kind::Refused) && other.to_string().contains("another pool"), "{other}");
    });
}

/// As whoever writes to one store can leave its label.
fn forge_generation(label: &mut Vec<u8>) {
    let text = String::from_utf8(std::mem::take(label)).unwrap();
    assert!(text.contains("\"generation\":0"));
    *label = text.replace("\"generation\":0", "\"generation\":1").into_bytes();
}

#[test]
fn a_label_of_a_generation_that_nobody_knows_keeps_no_pool_closed() {
    for layout in ["1+2", "4+2"] {
        run(layout, |yard| async move {
            let pool = yard.create().await.unwrap();
            let one = chunk(1, &LENS[..pool.layout().k()]);
            store(&pool, &one).await;
            pool.close().await;
            drop(pool);
            assert!(yard.stores[0].contents().rot(&label_at(&yard.stores[0]), forge_generation));
            let pool = yard.open().await.unwrap();
            check(&pool, &one).await;
            pool.close().await;
            drop(pool);
            for store in &yard.stores[1..] {
                assert!(store.contents().rot(&label_at(store), forge_generation));
            }
            let said = yard.open().await.unwrap_err().to_string();
            assert!(said.contains("mem:s1") && said.contains("delete nothing"), "{said}");
        });
    }
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
fn names_are_given_once() {
    run("1+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let name = |n: &str| n.parse::<Name>().unwrap();
        for i in 0..40u128 {
            pool.insert(&name(&format!("v{i}")), VolumeId(i)).await.unwrap();
        }
        pool.insert(&name("v1"), VolumeId(1)).await.unwrap();
        assert!(pool.insert(&name("v1"), VolumeId(2)).await.unwrap_err().is(Kind::Exists));
        pool.remove_name(&name("v1"), NameEntry::first(VolumeId(2))).await.unwrap();
        assert_eq!(pool.lookup(&name("v1")).await.unwrap(), Some(VolumeId(1)));
        // Another name of a volume that is there: the newest is listed, and each goes by itself.
        let renamed = NameEntry { volume: VolumeId(1), serial: 4 };
        assert_eq!(pool.insert_name(&name("w"), renamed, None).await.unwrap(), renamed);
        let has = pool.insert_name(&name("v1"), renamed, None).await.unwrap();
        assert_eq!(has, NameEntry::first(VolumeId(1)));
        assert!(pool.list().await.unwrap().contains(&(name("w"), VolumeId(1))));
        assert_eq!((pool.list().await.unwrap().len(), pool.name_entries().await.unwrap().len()), (40, 41));
        assert_eq!(pool.insert_name(&name("v1"), renamed, Some(has)).await.unwrap(), renamed);
        pool.remove_name(&name("w"), has).await.unwrap();
        pool.remove_name(&name("w"), renamed).await.unwrap();
        pool.remove_name(&name("v1"), has).await.unwrap();
        assert_eq!(pool.lookup(&name("v1")).await.unwrap(), Some(VolumeId(1)));
        pool.remove_name(&name("v1"), renamed).await.unwrap();
        assert_eq!(pool.lookup(&name("v1")).await.unwrap(), None);
        assert_eq!(pool.list().await.unwrap().len(), 39);
    });
}

#[test]
fn what_is_closed_at_once_leaves_no_copy_of_a_register_behind() {
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let yard = Yard::new(&sim, "2+1");
        sim.run(async move {
            let copies = || {
                let keys = yard.stores.iter().flat_map(|s| s.contents().keys());
                keys.filter(|key| key.starts_with("reg/")).count()
            };
            let pool = yard.create().await.unwrap();
            assert_eq!(copies(), 3, "seed {seed}: the pool's");
            pool.insert(&"v".parse().unwrap(), VolumeId(1)).await.unwrap();
            pool.close().await;
            assert_eq!(copies(), 6, "seed {seed}: the pool's and the name's");
        })
        .unwrap();
    }
}
