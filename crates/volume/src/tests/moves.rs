//! Stores replaced, and emptied ones taken in again, under a volume that is written to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::site::Site;
use super::*;
use crate::session::{LastAct, confirm, store_upto};
use windlass_base::Error;
use windlass_base::rt::Instant;
use windlass_pool::{Replacement, ScrubOptions};
use windlass_store::{SimStore, Store as _};

const BLOCK: u64 = 4096;

/// Brings a replacement to its end, whatever comes in between.
async fn replace(life: &Life, old: &str, new: &windlass_pool::PoolStore) {
    let pool = life.volumes.engine().pool.clone();
    for _ in 0..60 {
        let out = async {
            if pool.plan_replacement(old, new, &life.volumes, windlass_pool::Care::All, &|_| {}).await?
                == Replacement::Done
            {
                return Ok(true);
            }
            let generation = pool.follow().await?;
            if let Some(e) = life.volumes.admit_stores().await?.into_iter().next() {
                return Err(e);
            }
            if pool.fill(&life.volumes, &|_| {}).await?.left == 0 {
                pool.settle(generation).await?;
            }
            Ok::<_, Error>(false)
        };
        match out.await {
            Ok(true) => return,
            Ok(false) => {}
            Err(_) => life.sleep(300).await,
        }
    }
    panic!("{:?}", pool.status());
}

/// Writes block after block, each flushed; the number of those that were acknowledged.
fn keep_writing(life: &Life, v: Arc<Volume>, acked: Arc<AtomicU64>) {
    let rt = life.rt.clone();
    let pause = rt.clone();
    rt.spawn(async move {
        for n in 0..200 {
            let written = v.write(n * BLOCK, bytes(n + 1, BLOCK as usize)).await;
            if written.is_err() || v.flush().await.is_err() {
                return;
            }
            acked.store(n + 1, Ordering::Relaxed);
            pause.sleep(Duration::from_millis(pause.below(80))).await;
        }
    })
    .detach();
}

async fn moved(site: Site, wiped: bool) {
    let owner = site.machine(1).found().await;
    let admin = site.machine(2).start().await;
    let v = volume(&owner, FlushMode::Pool).await;
    let acked = Arc::new(AtomicU64::new(0));
    keep_writing(&owner, v.clone(), acked.clone());
    owner.sleep(site.world.below(2000)).await;
    let old = site.stores[1].url().to_owned();
    if wiped {
        site.stores[1].contents().wipe();
        admin.volumes.engine().pool.look().await;
        owner.sleep(site.world.below(3000)).await;
        let free = admin.volumes.engine().pool.emptied().await;
        replace(&admin, &old, &free[0]).await;
    } else {
        replace(&admin, &old, &site.spare_spec()).await;
        site.stores[1].contents().wipe();
    }
    if site.world.below(2) == 0 {
        owner.sleep(site.world.below(4000)).await;
    }
    // The owner's host is lost, and whatever m allows with it.
    let least = acked.load(Ordering::Relaxed);
    drop(owner.crash());
    if site.stores.len() > 3 {
        site.reach(3..4, Reach::Refuses);
    }
    let heir = site.machine(3).start().await;
    let (mut tries, w) = (0, name("v"));
    while let Err(e) = heir.volumes.take_over(&w, false).await {
        tries += 1;
        assert!(tries < 20, "{e}");
        heir.sleep(500).await;
    }
    let w = heir.volumes.open(&w, OpenMode::Normal).await.unwrap();
    for n in 0..least {
        assert!(
            w.read(n * BLOCK, BLOCK).await.unwrap() == bytes(n + 1, BLOCK as usize),
            "block {n} of {least}"
        );
    }
    w.write(0, bytes(77, 4096)).await.unwrap();
    w.flush().await.unwrap();
}

#[test]
fn what_was_flushed_survives_a_replaced_store_and_the_loss_of_the_owner() {
    for seed in 0..12 {
        run(seed, ["4+2", "2+1"][seed as usize % 2], |site| moved(site, false));
    }
}

#[test]
fn what_was_flushed_survives_an_emptied_store_taken_in_again() {
    for seed in 0..12 {
        run(100 + seed, "4+2", |site| moved(site, true));
    }
}

/// Brings what a recovery began to its end; false: a volume's newest writes can't be told.
async fn finished(life: &Life) -> bool {
    let pool = life.volumes.engine().pool.clone();
    let generation = pool.follow().await.unwrap();
    if !life.volumes.admit_stores().await.is_ok_and(|left| left.is_empty()) {
        return false;
    }
    assert_eq!(pool.fill(&life.volumes, &|_| {}).await.unwrap().left, 0);
    pool.settle(generation).await.unwrap()
}

#[test]
fn half_of_a_mirror_and_its_owner_are_lost_and_nothing_that_was_flushed() {
    for seed in 0..8 {
        run(200 + seed, "1+1", |site| async move {
            let owner = site.machine(1).found().await;
            let v = volume(&owner, FlushMode::Pool).await;
            let acked = Arc::new(AtomicU64::new(0));
            keep_writing(&owner, v.clone(), acked.clone());
            owner.sleep(site.world.below(3000)).await;
            // Before writes go on with one store alone, which nobody could tell from nothing.
            site.stores[1].contents().wipe();
            owner.sleep(site.world.below(1000)).await;
            let least = acked.load(Ordering::Relaxed);
            drop(owner.crash());
            let heir = site.machine(3);
            heir.force_recover(vec![]).await.unwrap();
            let heir = heir.start().await;
            assert!(finished(&heir).await);
            heir.volumes.take_over(&name("v"), false).await.unwrap();
            let w = heir.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            for n in 0..least {
                assert!(
                    w.read(n * BLOCK, BLOCK).await.unwrap() == bytes(n + 1, BLOCK as usize),
                    "{n} of {least}"
                );
            }
            w.write(0, bytes(77, 4096)).await.unwrap();
            w.flush().await.unwrap();
            let pool = &heir.volumes.engine().pool;
            heir.sleep(5000).await;
            let found = pool.scrub(&heir.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
            assert!(found.rotten.is_empty() && found.missing.is_empty(), "{found:?}");
        });
    }
}

#[test]
fn an_owner_goes_on_after_a_recovery_and_is_shut_out_by_a_take_over_as_ever() {
    let told = Arc::new(AtomicU64::new(0));
    // In 6, 7 and 8 it never learns whether fewer shards are to count, which the recovery finds chosen.
    let mirrors = [1, 2, 5, 6, 7, 8].map(|seed| (seed, "1+1"));
    for (seed, layout) in mirrors.into_iter().chain([(3, "2+2"), (4, "2+2")]) {
        let told = told.clone();
        run(300 + seed, layout, |site| async move {
            let owner = site.machine(1).found().await;
            let v = volume(&owner, FlushMode::Pool).await;
            let acked = Arc::new(AtomicU64::new(0));
            keep_writing(&owner, v.clone(), acked.clone());
            owner.sleep(1000 + site.world.below(2000)).await;
            let lost = site.stores.len() / 2..site.stores.len();
            lost.for_each(|i| site.stores[i].contents().wipe());
            owner.sleep(site.world.below(10_000)).await;
            let admin = site.machine(2);
            admin.force_recover(vec![]).await.unwrap();
            let admin = admin.start().await;
            let mut tries = 0;
            while !finished(&admin).await {
                admin.sleep(1000).await;
                tries += 1;
                if tries > 60 {
                    // A chunk was under way to stores of both halves: see the next test.
                    return;
                }
            }
            told.fetch_add(1, Ordering::Relaxed);
            owner.sleep(20_000).await;
            let before = acked.load(Ordering::Relaxed);
            owner.sleep(2000).await;
            assert!(before == 200 || acked.load(Ordering::Relaxed) > before, "its writes are taken again");
            admin.volumes.take_over(&name("v"), false).await.unwrap();
            let least = acked.load(Ordering::Relaxed);
            let w = admin.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            for n in 0..least {
                assert!(
                    w.read(n * BLOCK, BLOCK).await.unwrap() == bytes(n + 1, BLOCK as usize),
                    "{n} of {least}"
                );
            }
            let shut_out = async {
                v.write(0, bytes(5, 4096)).await?;
                v.flush().await
            };
            assert!(shut_out.await.is_err());
            assert!(w.read(0, BLOCK).await.unwrap() == bytes(1, BLOCK as usize));
        });
    }
    assert!(told.load(Ordering::Relaxed) >= 7, "{told:?}");
}

#[test]
fn what_cannot_be_told_after_a_guess_is_ended_by_one_and_numbered_as_nothing_was() {
    run(400, "1+2", |site| async move {
        let owner = site.machine(1).found().await;
        let v = volume(&owner, FlushMode::Pool).await;
        v.write(0, bytes(1, 3 * MIB as usize)).await.unwrap();
        v.flush().await.unwrap();
        owner.sleep(5000).await;
        let before: Vec<String> = site.stores[0].contents().keys();
        drop(owner.crash());
        site.stores[1].contents().wipe();
        site.stores[2].contents().wipe();
        let heir = site.machine(3);
        heir.force_recover(vec![]).await.unwrap();
        let heir = heir.start().await;
        let pool = heir.volumes.engine().pool.clone();
        assert_eq!(pool.guesses(), 1);
        assert!(!finished(&heir).await, "two stores could have taken a write that nobody else has");
        let e = heir.volumes.take_over(&name("v"), false).await.unwrap_err();
        assert!(e.is(Kind::Unavailable) && e.to_string().contains("--accept-loss"), "{e}");
        heir.volumes.take_over(&name("v"), true).await.unwrap();
        assert!(finished(&heir).await);
        let w = heir.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(w.read(0, 3 * MIB).await.unwrap() == bytes(1, 3 * MIB as usize));
        w.write(0, bytes(2, 4096)).await.unwrap();
        w.flush().await.unwrap();
        let now = format!("c-{}-", heir.ownership(w.id()).await);
        let named = site.stores[0].contents().keys().iter().any(|key| key.contains(&now));
        assert!(named && !before.iter().any(|key| key.contains(&now)), "{now}");
    });
}

#[test]
fn an_owner_goes_on_while_a_store_is_replaced_and_nothing_is_left_over() {
    run(7, "4+2", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 3 * MIB as usize)).await.unwrap();
        v.flush().await.unwrap();
        let old = site.stores[4].url().to_owned();
        replace(&life, &old, &site.spare_spec()).await;
        v.write(MIB, bytes(2, MIB as usize)).await.unwrap();
        v.flush().await.unwrap();
        life.sleep(40_000).await;
        assert!(v.read(MIB, MIB).await.unwrap() == bytes(2, MIB as usize));
        site.stores[4].contents().wipe();
        let pool = &life.volumes.engine().pool;
        assert_eq!(pool.pending(), 0);
        let found = pool.scrub(&life.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(found.is_complete_and_clean(), "{found:?}");
        life.volumes.release(&name("v")).await.unwrap();
        let other = site.machine(2).start().await;
        let w = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(w.read(MIB, MIB).await.unwrap() == bytes(2, MIB as usize));
    });
}

#[test]
fn what_is_let_go_of_was_counted_on_the_stores_of_that_moment() {
    run(9, "1+2", |site| async move {
        let (owner, admin) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = volume(&owner, FlushMode::Pool).await;
        v.write(0, bytes(1, MIB as usize)).await.unwrap();
        v.flush().await.unwrap();
        let session = v.session().await.unwrap();
        // The rest of a release, while nobody writes: another store is in the place of one of those that were counted.
        session.checkpoint_surely(&[]).await.unwrap();
        confirm(&session).await.unwrap();
        let (pool, old) = (&admin.volumes.engine().pool, site.stores[1].url());
        assert_eq!(
            pool.plan_replacement(
                old,
                &site.spare_spec(),
                &admin.volumes,
                windlass_pool::Care::None,
                &|_| {}
            )
            .await
            .unwrap(),
            Replacement::Planned
        );
        pool.follow().await.unwrap();
        let given_up = CancellationToken::new();
        assert!(session.last_act(&LastAct::Release, &given_up).await.unwrap().active.released);
        assert!(session.is_counted(), "released with what was counted on other stores");
    });
}

/// A pack is stored on the old stores, and its owner is held up before the head names it. The replacement ends meanwhile.
#[test]
fn a_pack_from_before_a_replacement_comes_to_the_new_store_before_it_is_named() {
    run(17, "1+1", |mut site| async move {
        site.tuning.gain_min = 128 << 10;
        site.tuning.pack_max = MIB;
        let (owner, admin) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = volume(&owner, FlushMode::Pool).await;
        for i in (0..64).chain((0..64).filter(|i| i % 3 > 0)) {
            v.write(i * (64 << 10), bytes(i, 64 << 10)).await.unwrap();
            if i % 8 == 7 {
                v.flush().await.unwrap();
            }
        }
        v.flush().await.unwrap();
        let session = v.session().await.unwrap();
        session.checkpoint_surely(&[]).await.unwrap();
        let held = session.checkpointing.lock().await;
        let volumes = owner.volumes.clone();
        owner.rt.spawn(async move { volumes.collect(&name("v")).await }).detach();
        for _ in 0..600 {
            owner.sleep(100).await;
            if !session.packed.lock().is_empty() {
                break;
            }
        }
        assert!(!session.packed.lock().is_empty(), "a pack waits to be named");
        replace(&admin, site.stores[1].url(), &site.spare_spec()).await;
        site.stores[1].contents().wipe();
        drop(held);
        owner.sleep(20_000).await;
        assert!(session.packed.lock().is_empty(), "it is named");
        let packs = |store: &SimStore| store.contents().keys().iter().filter(|k| k.contains("/p-")).count();
        assert!(packs(&site.stores[0]) > 0);
        assert_eq!(packs(&site.spare), packs(&site.stores[0]), "none rests on the store that is gone");
        assert!(owner.volumes.check(&name("v")).await.unwrap().wrong.is_empty());
    });
}

#[test]
fn a_lowering_of_w_that_a_guess_forgot_is_no_longer_counted_with() {
    run(11, "2+3", |site| async move {
        let owner = site.machine(1).found().await;
        let v = volume(&owner, FlushMode::Pool).await;
        v.write(0, bytes(1, BLOCK as usize)).await.unwrap();
        v.flush().await.unwrap();
        let session = v.session().await.unwrap();
        // The head says four: those acceptors that knew of two were given up.
        session.count_with(2);
        site.reach(3..5, Reach::Refuses);
        v.write(BLOCK, bytes(2, BLOCK as usize)).await.unwrap();
        let last = session.tip.lock().lsn;
        assert!(store_upto(&session, last).await.is_ok(), "stored, as far as it knows");
        let flushed = owner.rt.timeout(Duration::from_secs(1), v.flush()).await;
        assert!(flushed.is_none(), "a take-over would take what is on three stores for none");
        site.reach(3..5, Reach::Up);
        v.flush().await.unwrap();
        assert_eq!((*session.w.borrow(), session.w_of_all()), (4, 4));
    });
}

#[test]
fn an_owner_cut_off_from_a_recovery_by_guess_deletes_nothing_that_the_guessed_head_needs() {
    run(13, "1+2", |mut site| async move {
        // The owner's own ways to the stores.
        let mut own = site.clone();
        own.stores = site.stores.iter().map(|s| s.by_another_way()).collect();
        (site.grace_ms, own.grace_ms) = (20_000, 20_000);
        let owner = own.machine(1).found().await;
        let v = volume(&owner, FlushMode::Pool).await;
        let write = async |at: u64, n: u64| {
            v.write(at * MIB, bytes(n, MIB as usize)).await.unwrap();
            v.flush().await.unwrap();
            let session = v.session().await.unwrap();
            session.checkpoint_surely(&[]).await.unwrap();
            session.retired.lock().waiting()
        };
        write(0, 1).await;
        write(1, 1).await;
        owner.sleep(5000).await;
        // Only the two that are about to be given up hear of what follows, which is gone from them before the third is back.
        own.reach(2..3, Reach::Refuses);
        for n in 2..5 {
            write(0, n).await;
        }
        owner.sleep(25_000).await;
        assert!(write(1, 5).await > 0, "what the first checkpoint needs is to be deleted");
        // Where the administrator looks, new ones are in their places.
        for s in &mut site.stores[..2] {
            *s = SimStore::new(&site.world, s.url().strip_prefix("mem:").unwrap());
        }
        let admin = site.machine(2);
        admin.force_recover(vec![]).await.unwrap();
        let heir = admin.start().await;
        heir.volumes.engine().pool.follow().await.unwrap();
        own.reach(2..3, Reach::Up);
        owner.sleep(60_000).await;
        drop(owner.crash());
        heir.volumes.take_over(&name("v"), true).await.unwrap();
        let w = heir.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        for at in 0..2 {
            assert!(w.read(at * MIB, MIB).await.unwrap() == bytes(1, MIB as usize), "as of the guess");
        }
    });
}

#[test]
fn a_checkpoint_recorded_by_those_that_were_given_up_is_noticed_whenever_its_answer_comes() {
    let midway = Arc::new(AtomicU64::new(0));
    for n in 0..10 {
        let midway = midway.clone();
        run(500 + n, "1+2", move |site| async move {
            let owner = site.machine(1).found().await;
            let v = volume(&owner, FlushMode::Pool).await;
            v.write(0, bytes(1, BLOCK as usize)).await.unwrap();
            v.flush().await.unwrap();
            owner.sleep(3000).await;
            site.stores[1..].iter().for_each(|s| s.contents().wipe());
            site.machine(2).force_recover(vec![]).await.unwrap();
            owner.sleep(30_000).await;
            v.write(0, bytes(2, BLOCK as usize)).await.unwrap();
            v.flush().await.unwrap();
            assert_eq!(owner.volumes.engine().pool.guesses(), 1);
            let session = v.session().await.unwrap();
            let slow = (Duration::from_millis(100), Duration::from_millis(120));
            site.stores.iter().for_each(|s| s.faults(|f| f.latency = slow));
            let asking = session.clone();
            let confirmed = owner.rt.spawn(async move { confirm(&asking).await });
            owner.sleep(20 * n).await;
            if session.rounds.due() == Some(Instant::default()) {
                // Midway. This is how a change leaves it that those stores chose, when its answer comes so late.
                let recorded = session.head.lock().checkpoint.position.next();
                session.head.lock().checkpoint.position = recorded;
                midway.fetch_add(1, Ordering::Relaxed);
                drop(confirmed.await.unwrap().expect_err("the head is older than what was recorded"));
            }
        });
    }
    assert!(midway.load(Ordering::Relaxed) > 5, "{midway:?}");
}
