//! Pools whose majority is gone, decided by what is left: whoever does it, wherever it is broken off, and what becomes of
//! those that come back.

use std::time::Duration;

use super::*;
use crate::admin::{ForcedRecovery, StoreSwap};
use windlass_base::rt::sim::{Sim, World};
use windlass_base::{Error, Generation, Kind, RegisterId, Result};
use windlass_store::{Reach, SimStore, Store as _};

const KEPT: RegisterId = RegisterId(1);

fn run<F: Future<Output = ()> + Send + 'static>(
    seed: u64,
    layout: &str,
    test: impl FnOnce(World, Yard) -> F,
) {
    let sim = Sim::new(seed);
    let mut yard = Yard::new(&sim, layout);
    yard.spares = (0..3).map(|i| SimStore::new(&sim, &format!("spare{i}"))).collect();
    let run = test(sim.clone(), yard);
    sim.run(run).unwrap();
}

fn swap(yard: &Yard, lost: usize, spare: usize) -> StoreSwap {
    let bucket = yard.spares[spare].clone();
    let new = PoolStore { url: bucket.url().to_owned(), zone: None, bucket };
    StoreSwap { old: yard.stores[lost].url().to_owned(), new }
}

async fn find(yard: &Yard, swaps: Vec<StoreSwap>) -> Result<Option<ForcedRecovery>> {
    ForcedRecovery::find(yard.host(), yard.specs(), swaps).await
}

async fn recovery(yard: &Yard, swaps: Vec<StoreSwap>) -> ForcedRecovery {
    find(yard, swaps).await.unwrap().expect("it is one")
}

/// Decides by force, opens the pool and brings everything to its end.
async fn recover(yard: &Yard, swaps: Vec<StoreSwap>, live: u64) -> Result<std::sync::Arc<Pool>> {
    if let Some(recovery) = find(yard, swaps).await? {
        recovery.check().await?;
        recovery.recover().await?;
    }
    let pool = yard.open().await?;
    let generation = pool.follow().await?;
    if pool.fill(&Counted { dead: 0, live }, &|_| {}).await?.left > 0 {
        return Err(Error::new(Kind::Unavailable, "not all has come along"));
    }
    pool.settle(generation).await?;
    Ok(pool)
}

async fn add(register: &Register, byte: u8) -> Result<()> {
    register
        .change(|current| {
            let mut all = current.map(|b| b.to_vec()).unwrap_or_default();
            if all.contains(&byte) {
                return Ok(Change::Keep(()));
            }
            all.push(byte);
            Ok(Change::Put(all.into(), ()))
        })
        .await
}

async fn value(pool: &Pool) -> Vec<u8> {
    pool.register(KEPT).read().await.unwrap().unwrap_or_default().to_vec()
}

/// A pool with four chunks and a register, after what is under way has come everywhere.
async fn stocked(yard: &Yard, lens: &[usize]) -> std::sync::Arc<Pool> {
    let pool = yard.create().await.unwrap();
    for seq in 1..=4 {
        store(&pool, &chunk(seq, lens)).await;
    }
    pool.insert(&"v".parse().unwrap(), windlass_base::VolumeId(0xabc)).await.unwrap();
    add(&pool.register(KEPT), 1).await.unwrap();
    yard.settle(3000).await;
    pool
}

/// Everything is there, readable, whole, and can be changed.
async fn sound(yard: &Yard, pool: &std::sync::Arc<Pool>, lens: &[usize], expected: &[u8]) {
    assert_eq!(value(pool).await, expected);
    assert_eq!(pool.list().await.unwrap().len(), 1);
    for seq in 1..=4 {
        check(pool, &chunk(seq, lens)).await;
    }
    add(&pool.register(KEPT), 99).await.unwrap();
    store(pool, &chunk(5, lens)).await;
    pool.look().await;
    yard.settle(3000).await;
    let found = pool.scrub(&Counted { dead: 0, live: 5 }, ScrubOptions::default(), &|_| {}).await.unwrap();
    assert!(found.is_complete_and_clean(), "{found:?}");
}

#[test]
fn a_mirror_whose_other_half_was_emptied_goes_on_with_all_that_was_chosen() {
    run(1, "1+1", |_, yard| async move {
        let lens: &[usize] = &[9000];
        drop(stocked(&yard, lens).await);
        yard.stores[1].contents().wipe();
        assert!(yard.open().await.unwrap_err().is(Kind::Unavailable));
        let recovery = recovery(&yard, vec![]).await;
        assert!(!recovery.guess && !recovery.unfinished, "a majority had both");
        // The pool's own, the directory that names the volume, and the one that was put.
        assert_eq!(recovery.registers, 3);
        let lost = &recovery.lost[..];
        assert_eq!((lost.len(), lost[0].new.as_deref()), (1, Some(yard.stores[1].url())));
        assert!(lost[0].why.contains("emptied"), "{lost:?}");
        recovery.check().await.unwrap();
        assert!(yard.stores[1].contents().keys().is_empty(), "a look changes nothing");
        let pool = recover(&yard, vec![], 4).await.unwrap();
        assert_eq!((pool.generation(), pool.guesses()), (Generation(1), 0));
        sound(&yard, &pool, lens, &[1]).await;
        assert!(find(&yard, vec![]).await.unwrap().is_none(), "once is enough");
        assert!(!yard.open().await.unwrap().is_moving());
    });
}

#[test]
fn a_store_that_does_not_answer_needs_another_in_its_place() {
    run(2, "1+1", |_, yard| async move {
        let lens: &[usize] = &[9000];
        drop(stocked(&yard, lens).await);
        yard.reach(0, Reach::Refuses);
        let e = recovery(&yard, vec![]).await.check().await.unwrap_err();
        assert!(e.is(Kind::Refused) && e.to_string().contains("--old URL --new URL"), "{e}");
        let answers = StoreSwap { old: yard.stores[1].url().to_owned(), ..swap(&yard, 0, 0) };
        let e = find(&yard, vec![answers]).await.unwrap_err();
        assert!(e.is(Kind::Refused) && e.to_string().contains("answers"), "{e}");
        let pool = recover(&yard, vec![swap(&yard, 0, 0)], 4).await.unwrap();
        sound(&yard, &pool, lens, &[1]).await;
    });
}

#[test]
fn nothing_is_decided_by_force_while_a_majority_answers_or_nothing_could_be_read() {
    run(3, "2+1", |_, yard| async move {
        stocked(&yard, &[9000, 8000]).await;
        assert!(find(&yard, vec![]).await.unwrap().is_none());
        yard.stores[1].contents().wipe();
        assert!(find(&yard, vec![]).await.unwrap().is_none());
        yard.stores[2].contents().wipe();
        let recovery = recovery(&yard, vec![]).await;
        for e in [recovery.check().await.unwrap_err(), recovery.recover().await.unwrap_err()] {
            assert!(e.is(Kind::Refused) && e.to_string().contains("no data could be read"), "{e}");
        }
        assert!(yard.stores[2].contents().keys().is_empty());
    });
}

#[test]
fn a_guess_takes_the_newest_that_is_left_and_counts_above_all_that_was_forgotten() {
    run(4, "2+3", |_, yard| async move {
        let lens: &[usize] = &[9000, 8000];
        let pool = stocked(&yard, lens).await;
        yard.reach(1, Reach::Refuses);
        pool.look().await;
        add(&pool.register(KEPT), 2).await.unwrap();
        yard.settle(3000).await;
        yard.reach(0, Reach::Refuses);
        pool.look().await;
        add(&pool.register(KEPT), 3).await.unwrap();
        yard.settle(3000).await;
        pool.close().await;
        drop(pool);
        for lost in 2..5 {
            yard.stores[lost].contents().wipe();
        }
        yard.reach(0, Reach::Up);
        yard.reach(1, Reach::Up);
        let found = recovery(&yard, vec![]).await;
        assert!(found.guess && found.lost.len() == 3);
        let pool = recover(&yard, vec![], 4).await.unwrap();
        assert_eq!((pool.generation(), pool.guesses()), (Generation(1 << 16), 1));
        // 3 was known to lost stores alone.
        sound(&yard, &pool, lens, &[1, 2]).await;
    });
}

/// Those that were given up are back, agree among themselves, and the labels of those who know better are behind; one of
/// these hangs.
#[test]
fn who_opens_the_pool_after_a_guess_hears_of_it_from_any_store() {
    for seed in 0..8 {
        run(20 + seed, "2+3", |_, yard| async move {
            drop(stocked(&yard, &[9000, 8000]).await);
            let mut labels = Vec::new();
            for store in &yard.stores[..2] {
                store.contents().rot(&label_at(store), |bytes| labels.push(bytes.clone()));
            }
            (2..5).for_each(|i| yard.reach(i, Reach::Refuses));
            let swaps = (0..3).map(|i| swap(&yard, 2 + i, i)).collect();
            assert_eq!(recover(&yard, swaps, 4).await.unwrap().guesses(), 1);
            (2..5).for_each(|i| yard.reach(i, Reach::Up));
            for (store, label) in yard.stores.iter().zip(labels) {
                store.contents().rot(&label_at(store), |bytes| *bytes = label);
            }
            let slow = Duration::from_secs(4);
            yard.stores[1].faults(|f| f.latency = (slow, slow));
            assert_eq!(yard.open().await.unwrap().guesses(), 1);
        });
    }
}

/// A process that has been cut off with the stores that were given up is back; the one that knows of it fails now and then.
#[test]
fn that_nobody_told_of_a_guess_counts_only_where_all_were_heard_that_are_not_away() {
    let mut untold = 0;
    for seed in 0..30 {
        let failed = std::sync::Arc::new(parking_lot::Mutex::new(false));
        let out = failed.clone();
        run(60 + seed, "1+2", |_, yard| async move {
            let mut own = yard.clone();
            own.stores = yard.stores.iter().map(|s| s.by_another_way()).collect();
            let pool = stocked(&own, &[9000]).await;
            own.reach(0, Reach::Refuses);
            [1, 2].iter().for_each(|i| yard.reach(*i, Reach::Refuses));
            let swaps = vec![swap(&yard, 1, 0), swap(&yard, 2, 1)];
            assert_eq!(recover(&yard, swaps, 4).await.unwrap().guesses(), 1);
            own.reach(0, Reach::Up);
            pool.look().await;
            own.stores[0].faults(|f| f.errors = 300);
            let heard = pool.hear_of_newer().await;
            let away = !pool.context().membership().members[0].standing().usable();
            *out.lock() = heard.is_err();
            assert!(heard.is_err() || pool.guesses() == 1 || away);
        });
        untold += i32::from(*failed.lock());
    }
    assert!((1..30).contains(&untold), "{untold}");
}

/// Those who chose the pool's newest generation are lost; of those that are left other registers are in it, and perhaps
/// their labels tell of it.
#[test]
fn what_is_left_of_the_pools_own_register_may_be_behind_the_others() {
    for labels in [false, true] {
        run(9, "2+3", move |_, yard| async move {
            let lens: &[usize] = &[9000, 8000];
            let pool = stocked(&yard, lens).await;
            let own = format!("reg/{}", PoolConfig::register(pool.id()));
            let label = label_at(&yard.stores[0]);
            let keys: &[&str] = if labels { &[&own, &label] } else { &[&own] };
            let behind = |i: usize| keys.iter().map(move |key| (i, *key));
            let behind: Vec<(usize, &str)> = behind(0).chain(behind(1)).collect();
            let mut before = Vec::new();
            for (store, key) in &behind {
                let there = yard.stores[*store].contents().rot(key, |bytes| before.push(bytes.clone()));
                assert!(there, "{key}");
            }
            let StoreSwap { old, new } = swap(&yard, 4, 0);
            assert_eq!(
                pool.plan_replacement(&old, &new, &EMPTY, Care::All, &|_| {}).await.unwrap(),
                Replacement::Planned
            );
            let generation = pool.follow().await.unwrap();
            assert_eq!(pool.fill(&Counted { dead: 0, live: 4 }, &|_| {}).await.unwrap().left, 0);
            assert!(pool.settle(generation).await.unwrap());
            add(&pool.register(KEPT), 2).await.unwrap();
            yard.settle(3000).await;
            pool.close().await;
            drop(pool);
            for ((store, key), old) in behind.into_iter().zip(before) {
                yard.stores[store].contents().rot(key, |bytes| *bytes = old);
            }
            yard.stores[2..].iter().chain(&yard.spares[..1]).for_each(|s| s.contents().wipe());
            assert!(recovery(&yard, vec![]).await.guess);
            let pool = recover(&yard, vec![], 4).await.unwrap();
            assert_eq!(pool.guesses(), 1);
            sound(&yard, &pool, lens, &[1, 2]).await;
        });
    }
}

#[test]
fn what_has_nobody_in_its_place_stays_listed_and_may_come_back() {
    run(5, "1+2", |_, yard| async move {
        let lens: &[usize] = &[9000];
        let pool = stocked(&yard, lens).await;
        pool.close().await;
        drop(pool);
        yard.reach(1, Reach::Refuses);
        yard.stores[2].contents().wipe();
        let found = recovery(&yard, vec![]).await;
        assert!(found.guess);
        let stays: Vec<bool> = found.lost.iter().map(|l| l.new.is_none()).collect();
        assert_eq!(stays, [true, false]);
        let pool = recover(&yard, vec![], 4).await.unwrap();
        add(&pool.register(KEPT), 2).await.unwrap();
        yard.reach(1, Reach::Up);
        yard.settle(5000).await;
        let mended =
            pool.repair(&Counted { dead: 0, live: 4 }, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(mended.left.is_complete_and_clean(), "{mended:?}");
        sound(&yard, &pool, lens, &[1, 2]).await;
    });
}

#[test]
fn whoever_reached_the_lost_stores_learns_that_they_were_given_up() {
    for (seed, layout) in [(6, "1+1"), (7, "1+2")] {
        run(seed, layout, move |_, yard| async move {
            let lens: &[usize] = &[9000];
            let pool = stocked(&yard, lens).await;
            let theirs = pool.register(KEPT);
            add(&theirs, 2).await.unwrap();
            yard.settle(3000).await;
            // They are lost to us alone.
            let lost: Vec<usize> = (1..yard.stores.len()).collect();
            let swaps: Vec<StoreSwap> = lost.iter().map(|i| swap(&yard, *i, i - 1)).collect();
            lost.iter().for_each(|i| yard.reach(*i, Reach::Refuses));
            let ours = recover(&yard, swaps, 4).await.unwrap();
            add(&ours.register(KEPT), 3).await.unwrap();
            // They come back as they were.
            lost.iter().for_each(|i| yard.reach(*i, Reach::Up));
            yard.settle(3000).await;
            if layout == "1+1" {
                // Nothing was ever chosen without a store that is left: the first change meets the seal.
                add(&theirs, 4).await.unwrap();
                assert_eq!(value(&ours).await, [1, 2, 3, 4]);
            } else {
                // A guess: lost stores are a majority, and take one more change that nobody else will see.
                add(&theirs, 4).await.unwrap();
                yard.settle(5000).await;
                assert_eq!(value(&ours).await, [1, 2, 3]);
                add(&theirs, 5).await.unwrap();
                assert_eq!(value(&ours).await, [1, 2, 3, 5]);
            }
            assert_eq!(pool.generation(), ours.generation());
            // Nor is anybody who comes new led astray by them.
            let fresh = yard.open().await.unwrap();
            assert_eq!(fresh.generation(), ours.generation());
            assert_eq!(value(&fresh).await, value(&ours).await);
            for seq in 1..=4 {
                check(&fresh, &chunk(seq, lens)).await;
            }
        });
    }
}

#[test]
fn whoever_is_killed_at_whatever_step_another_goes_on_and_two_at_once_agree() {
    for seed in 0..40 {
        let layout = ["1+1", "1+2", "2+2"][seed as usize % 3];
        run(100 + seed, layout, move |sim, yard| async move {
            let lens: &[usize] = if layout == "2+2" { &[9000, 8000] } else { &[9000] };
            let pool = stocked(&yard, lens).await;
            pool.close().await;
            drop(pool);
            let m = yard.stores.len() - lens.len();
            (1..=m).for_each(|lost| yard.stores[lost].contents().wipe());
            // Another process begins, and dies at some step.
            let process = sim.process();
            let theirs = yard.on(&process.rt());
            process.rt().spawn(async move { drop(recover(&theirs, vec![], 4).await) }).detach();
            yard.settle(sim.below(1500)).await;
            process.kill();
            if seed % 4 == 0 {
                // What had come to a new store is lost again.
                yard.stores[1].contents().wipe();
            }
            let tries = [&yard, &yard].map(|yard| async move {
                for _ in 0..20 {
                    match recover(yard, vec![], 4).await {
                        Ok(pool) => return pool,
                        Err(e) => assert!(
                            [Kind::Owned, Kind::Unavailable, Kind::Refused].contains(&e.kind()),
                            "{e}"
                        ),
                    }
                    yard.settle(300).await;
                }
                panic!("no end");
            });
            futures::future::join_all(tries).await;
            let fresh = recover(&yard, vec![], 4).await.unwrap();
            assert!(!fresh.is_moving());
            sound(&yard, &fresh, lens, &[1]).await;
        });
    }
}

#[test]
fn a_replacement_that_was_under_way_is_brought_along() {
    for (seed, lost_again) in [(8, true), (9, false)] {
        run(seed, "1+1", move |_, yard| async move {
            let lens: &[usize] = &[9000];
            let pool = stocked(&yard, lens).await;
            let plan = swap(&yard, 1, 0);
            pool.plan_replacement(&plan.old, &plan.new, &EMPTY, Care::All, &|_| {}).await.unwrap();
            pool.register(PoolConfig::register(pool.id())).bring().await.unwrap();
            yard.settle(1000).await;
            pool.close().await;
            drop(pool);
            // Other registers are still where they were, on a store that goes away; perhaps its successor does so too.
            yard.reach(1, Reach::Refuses);
            if lost_again {
                yard.spares[0].contents().wipe();
            }
            let found = recovery(&yard, vec![]).await;
            assert!(found.unfinished && !found.guess);
            let pool = recover(&yard, vec![], 4).await.unwrap();
            sound(&yard, &pool, lens, &[1]).await;
        });
    }
}

#[test]
fn a_new_store_that_is_lost_midway_is_named_until_another_is_in_its_place() {
    for (seed, layout) in [(10, "1+1"), (11, "2+1")] {
        run(seed, layout, move |_, yard| async move {
            let lens: &[usize] = if layout == "2+1" { &[9000, 8000] } else { &[9000] };
            let pool = stocked(&yard, lens).await;
            let plan = swap(&yard, 1, 0);
            pool.plan_replacement(&plan.old, &plan.new, &EMPTY, Care::All, &|_| {}).await.unwrap();
            pool.register(PoolConfig::register(pool.id())).bring().await.unwrap();
            yard.settle(1000).await;
            assert!(pool.lost_midway().await.is_empty());
            yard.reach(1, Reach::Refuses);
            yard.spares[0].contents().wipe();
            let lost = pool.lost_midway().await;
            let url = yard.spares[0].url();
            assert_eq!((lost.len(), lost[0].0.url()), (1, url));
            assert!(lost[0].1.contains("emptied"), "{lost:?}");
            pool.close().await;
            drop(pool);
            // Also where the pool can't be opened any more.
            assert_eq!(yard.open().await.is_ok(), layout == "2+1");
            let found = recovery(&yard, vec![]).await;
            let midway = found.lost.iter().filter(|lost| lost.midway).map(|lost| lost.url.as_str());
            assert_eq!(midway.collect::<Vec<_>>(), [url]);
            let pool = recover(&yard, vec![], 4).await.unwrap();
            assert!(pool.lost_midway().await.is_empty());
            sound(&yard, &pool, lens, &[1]).await;
        });
    }
}

#[test]
fn a_generation_is_settled_only_by_who_has_followed_it() {
    run(12, "2+1", |_, yard| async move {
        let lens: &[usize] = &[9000, 8000];
        let pool = stocked(&yard, lens).await;
        let live = Counted { dead: 0, live: 4 };
        let plan = swap(&yard, 1, 0);
        pool.plan_replacement(&plan.old, &plan.new, &EMPTY, Care::All, &|_| {}).await.unwrap();
        let slow = pool.follow().await.unwrap();
        let other = yard.open().await.unwrap();
        let first = other.follow().await.unwrap();
        assert_eq!(other.fill(&live, &|_| {}).await.unwrap().left, 0);
        assert!(other.settle(first).await.unwrap());
        let next = swap(&yard, 2, 1);
        other.plan_replacement(&next.old, &next.new, &EMPTY, Care::All, &|_| {}).await.unwrap();
        assert!(!pool.settle(slow).await.unwrap(), "it has brought nothing into that one");
        assert!(yard.open().await.unwrap().is_moving());
        let second = other.follow().await.unwrap();
        assert_eq!(other.fill(&live, &|_| {}).await.unwrap().left, 0);
        assert!(other.settle(second).await.unwrap());
        sound(&yard, &other, lens, &[1]).await;
    });
}

#[test]
fn a_dead_place_that_is_remembered_does_not_stand_for_the_store_in_its_stead() {
    run(13, "1+1", |_, yard| async move {
        let lens: &[usize] = &[9000];
        drop(stocked(&yard, lens).await);
        yard.reach(1, Reach::Refuses);
        drop(recover(&yard, vec![swap(&yard, 1, 0)], 4).await.unwrap());
        let pool = yard.open().await.unwrap();
        assert_eq!(pool.membership().members[1].url(), yard.spares[0].url());
        sound(&yard, &pool, lens, &[1]).await;
    });
}

#[test]
fn who_never_heard_of_the_pools_description_takes_that_of_the_labels() {
    run(14, "1+2", |_, yard| async move {
        let pool = yard.create().await.unwrap();
        yard.settle(3000).await;
        pool.close().await;
        // Made while this store did not answer for a moment, and then most were lost.
        let key = register_key(PoolConfig::register(pool.id()));
        drop(pool);
        yard.stores[0].contents().delete(&[key], windlass_store::Cause::Walk).await.unwrap();
        (1..3).for_each(|lost| yard.stores[lost].contents().wipe());
        assert!(recovery(&yard, vec![]).await.guess);
        let pool = recover(&yard, vec![], 0).await.unwrap();
        assert_eq!((pool.generation(), pool.name().as_str()), (Generation(1 << 16), "tank"));
        add(&pool.register(KEPT), 1).await.unwrap();
    });
}

/// A guess may have chosen a head that needs what was deleted under a later one.
#[test]
fn what_a_store_missed_to_delete_before_a_guess_is_not_deleted_after_it() {
    run(95, "1+2", |_, yard| async move {
        let pool = stocked(&yard, &[9000]).await;
        yard.reach(0, Reach::Refuses);
        pool.look().await;
        pool.delete(&[id(1)]).await.unwrap();
        assert_eq!(pool.status().missed_deletes, 1);
        pool.close().await;
        yard.reach(0, Reach::Up);
        [1, 2].iter().for_each(|i| yard.reach(*i, Reach::Refuses));
        let pool = recover(&yard, vec![swap(&yard, 1, 0), swap(&yard, 2, 1)], 4).await.unwrap();
        assert_eq!(pool.guesses(), 1);
        yard.settle(60_000).await;
        check(&pool, &chunk(1, &[9000])).await;
        let status = pool.status();
        assert!(status.missed_deletes == 0 && status.missed_deletes_incomplete, "{status:?}");
    });
}

/// The stores that are left missed that a catalog's root was split, and have its children.
#[test]
fn a_catalog_hides_and_loses_nothing_that_is_left_after_a_guess() {
    const ROOT: RegisterId = RegisterId(77);
    let key = |i: u128| format!("k{i}").into_bytes();
    for seen in [10, 16] {
        run(11, "2+3", move |_, yard| async move {
            let pool = stocked(&yard, &[9000, 8000]).await;
            let (catalog, root) = (pool.catalog(ROOT), format!("reg/{ROOT}"));
            let mut before = Vec::new();
            for i in 0..40 {
                if i == seen {
                    yard.settle(3000).await;
                    // On all of them, also where the handle that wrote it last was given up.
                    assert!(pool.register(ROOT).mend().await.unwrap().is_empty());
                    yard.stores[..2]
                        .iter()
                        .for_each(|s| assert!(s.contents().rot(&root, |b| before.push(b.clone()))));
                }
                catalog.insert(&key(i), CatalogEntry::of(i)).await.unwrap();
            }
            yard.settle(3000).await;
            for (store, before) in yard.stores.iter().zip(before) {
                store.contents().rot(&root, |bytes| *bytes = before);
            }
            pool.close().await;
            (2..5).for_each(|lost| yard.stores[lost].contents().wipe());
            let pool = recover(&yard, vec![], 4).await.unwrap();
            assert_eq!(pool.guesses(), 1);
            let catalog = pool.catalog(ROOT);
            assert_eq!(catalog.all().await.unwrap().len(), 40, "all that is left is listed");
            for i in 0..40 {
                assert_eq!(catalog.get(&key(i)).await.unwrap(), Some(CatalogEntry::of(i)));
                let has = catalog.insert(&key(i), CatalogEntry::of(99)).await.unwrap();
                assert_eq!(has.value, i, "it is there already");
            }
            for i in 40..80 {
                catalog.insert(&key(i), CatalogEntry::of(i)).await.unwrap();
            }
            catalog.remove(&key(3), CatalogEntry::of(3)).await.unwrap();
            catalog.remove(&key(50), CatalogEntry::of(50)).await.unwrap();
            let all = yard.open().await.unwrap().catalog(ROOT).all().await.unwrap();
            let told = (0..80).filter(|i| ![3, 50].contains(i)).map(|i| (key(i), CatalogEntry::of(i)));
            assert_eq!(all, told.collect());
        });
    }
}

/// The seal was chosen, and the new store lost before any register had come along: no store of the new generation tells of it.
#[test]
fn a_mirror_whose_new_half_is_lost_right_after_the_seal_goes_on() {
    run(40, "1+1", |_, yard| async move {
        let lens: &[usize] = &[9000];
        let pool = stocked(&yard, lens).await;
        let new = swap(&yard, 0, 0);
        let plan = pool
            .plan_replacement(&new.old, &new.new, &Counted { dead: 0, live: 4 }, Care::All, &|_| {})
            .await;
        assert_eq!(plan.unwrap(), Replacement::Planned);
        pool.close().await;
        yard.spares[0].faults(|f| f.reach = Reach::Refuses);
        let back = StoreSwap {
            old: new.new.url.clone(),
            new: PoolStore { url: new.old.clone(), zone: None, bucket: yard.stores[0].clone() },
        };
        let pool = recover(&yard, vec![back], 4).await.unwrap();
        sound(&yard, &pool, lens, &[1]).await;
    });
}
