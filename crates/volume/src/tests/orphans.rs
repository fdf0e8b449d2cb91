//! What killed and fenced owners leave on the stores, and who deletes it (protocol.md §5.9).

use std::collections::BTreeSet;

use futures::future::{Either, select};

use super::site::Site;
use super::*;
use windlass_base::{ChunkId, Seq};
use windlass_pool::{ScrubOptions, place, shard_key};
use windlass_store::{Cause, Store as _, When};

const GRACE: u64 = 2_000;
const EVERY: u64 = 30_000;
/// After this, what was under way when a client was killed has landed or is lost.
const LATE: u64 = 1_000;

fn packing(mut site: Site) -> Site {
    site.grace_ms = GRACE;
    site.tuning.log_min = 0;
    site.tuning.log_max = 100_000;
    site.tuning.pack_max = MIB;
    site.tuning.small_min = 8;
    site.tuning.space_max = (1_050, 1_100);
    site.tuning.gain_min = 3_000;
    site.tuning.look_every = Duration::from_millis(EVERY);
    let ms = Duration::from_millis(10);
    site.stores
        .iter()
        .for_each(|s| s.faults(|f| (f.latency, f.late) = ((ms, ms), Duration::from_millis(LATE))));
    site
}

/// Names of packs on all stores.
fn packs(site: &Site) -> BTreeSet<String> {
    let all = site.stores.iter().flat_map(|s| s.contents().keys());
    all.filter(|key| key.contains("/p-")).collect()
}

/// One object, of which one part lives longer than another.
async fn overwrite(life: &Life, v: &Volume, seed: u64) {
    for i in 0..3 {
        v.write(life.rt.below(40) * (16 << 10), bytes(seed * 3 + i, 16 << 10)).await.unwrap();
    }
    v.flush().await.unwrap();
}

/// Overwrites until a shard of a new pack is there: nobody has been told of it, so no head names the pack.
async fn until_packing(site: &Site, life: &Life, v: &Volume) {
    let known = packs(site);
    let writes = async {
        for i in 0..1_000 {
            overwrite(life, v, i).await;
        }
        panic!("nothing is packed");
    };
    let seen = async {
        while packs(site).is_subset(&known) {
            life.sleep(5).await;
        }
    };
    let (writes, seen) = (std::pin::pin!(writes), std::pin::pin!(seen));
    assert!(matches!(select(writes, seen).await, Either::Right(_)));
}

async fn orphans(life: &Life) -> Vec<String> {
    let pool = &life.volumes.engine().pool;
    let found = pool.scrub(&life.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
    found.orphans.into_iter().map(|orphan| orphan.key).collect()
}

async fn reads_back(life: &Life, v: &Volume) {
    v.read(0, MIB).await.unwrap();
    let wrong = life.volumes.check(&name("v")).await.unwrap().wrong;
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Again and again a daemon dies between the puts of a pack and the change of the head that names it.
#[test]
fn packs_of_killed_daemons_are_deleted() {
    for seed in 100..104 {
        run(seed, "2+1", |site| async move {
            let site = packing(site);
            let mut life = site.machine(1).found().await;
            volume(&life, FlushMode::Pool).await;
            for _ in 1..6 {
                let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                until_packing(&site, &life, &v).await;
                drop(v);
                life = life.crash().start().await;
            }
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            life.sleep(GRACE + LATE + 5_000).await;
            assert_eq!(orphans(&life).await, Vec::<String>::new(), "seed {seed}");
            reads_back(&life, &v).await;
        });
    }
}

/// Nor is a store forgotten that was away when the others were looked through.
#[test]
fn a_store_that_was_away_is_looked_through_when_it_is_back() {
    run(104, "2+1", |site| async move {
        let site = packing(site);
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        until_packing(&site, &life, &v).await;
        life.sleep(10).await;
        let first = packs(&site);
        let left = |store: usize| site.stores[store].contents().keys().iter().any(|key| first.contains(key));
        drop(v);
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(left(2));
        site.reach(2..3, Reach::Refuses);
        life.sleep(GRACE + LATE + 5_000).await;
        assert!(!left(0) && !left(1) && left(2));
        // As long as it takes.
        life.sleep(100_000).await;
        site.reach(2..3, Reach::Up);
        life.sleep(70_000).await;
        assert_eq!(orphans(&life).await, Vec::<String>::new());
        reads_back(&life, &v).await;
    });
}

/// An owner that was shut out, and has not noticed, packs on: what it puts is found by a later look.
#[test]
fn what_a_fenced_owner_puts_late_is_found_by_a_later_look() {
    run(105, "2+1", |site| async move {
        let site = packing(site);
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        until_packing(&site, &life, &v).await;
        let first = life.ownership(v.id()).await;
        let other = site.machine(2).start().await;
        let take = OpenMode::TakeOver { accept_loss: false };
        let w = other.volumes.open(&name("v"), take).await.unwrap();
        other.sleep(GRACE + LATE + 5_000).await;
        assert_eq!(orphans(&other).await, Vec::<String>::new());
        // As if it had been cut off until now.
        let late = ChunkId { volume: w.id(), epoch: first, seq: Seq::pack(77) };
        put_late(&site, &late).await;
        assert_eq!(orphans(&other).await.len(), 3);
        other.sleep(EVERY + 5_000).await;
        assert_eq!(orphans(&other).await, Vec::<String>::new());
        reads_back(&other, &w).await;
    });
}

async fn put_late(site: &Site, id: &ChunkId) {
    for shard in 0..3 {
        let (store, key) = (&site.stores[place(id, shard, 3)], shard_key(id, shard));
        store.contents().put(&key, bytes(1, 100), When::Absent, Cause::Checkpoint).await.unwrap();
    }
}

/// A store was away when objects died, and the host that remembered this is gone with its disk.
#[test]
fn deletions_that_nobody_remembers_are_made_by_the_next_owner() {
    run(106, "2+1", |site| async move {
        let site = packing(site);
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        site.reach(1..2, Reach::Up);
        until_packing(&site, &life, &v).await;
        life.sleep(20_000).await;
        site.reach(1..2, Reach::Refuses);
        for i in 0..60 {
            overwrite(&life, &v, i).await;
        }
        life.volumes.collect(&name("v")).await.unwrap();
        let missed = life.volumes.engine().pool.status().missed_deletes;
        assert!(missed > 0);
        drop(v);
        drop(life.crash());
        site.reach(1..2, Reach::Up);
        let other = site.machine(2).start().await;
        let take = OpenMode::TakeOver { accept_loss: false };
        let w = other.volumes.open(&name("v"), take).await.unwrap();
        other.sleep(GRACE + LATE + 5_000).await;
        assert_eq!(orphans(&other).await, Vec::<String>::new(), "{missed} deletions were missed");
        reads_back(&other, &w).await;
    });
}

/// Nothing of an epoch that is active is touched, nor what the volume needs, however often stores are looked through.
#[test]
fn later_looks_delete_nothing_that_is_needed() {
    for seed in 107..110 {
        run(seed, "2+1", |site| async move {
            let site = packing(site);
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Pool).await;
            for round in 0..3 {
                until_packing(&site, &life, &v).await;
                if round == 1 {
                    snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
                }
                life.sleep(EVERY + 5_000).await;
            }
            assert_eq!(orphans(&life).await, Vec::<String>::new());
            reads_back(&life, &v).await;
        });
    }
}

/// A host that was shut out, and does not know it, makes a checkpoint of what it has; the volume was removed meanwhile with the pages that
/// this needs. It ends, and does not try again for ever, each time with new objects.
#[test]
fn who_was_shut_out_of_a_volume_that_is_gone_ends() {
    for seed in 0..4 {
        run(seed, "2+1", |site| async move {
            let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
            let v = volume(&life, FlushMode::Pool).await;
            v.write(0, bytes(1, 1_000_000)).await.unwrap();
            v.release().await.unwrap();
            // No page is in memory.
            let life = life.crash().start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            v.write(50 * MIB, bytes(2, 4096)).await.unwrap();
            // Until it has looked at the stores, which would tell it.
            life.sleep(200_000).await;
            v.write(0, bytes(3, 4096)).await.unwrap();
            v.flush().await.unwrap();
            other.volumes.take_over(&name("v"), false).await.unwrap();
            other.volumes.remove(&name("v")).await.unwrap();
            life.sleep(300_000).await;
            let pool = &life.volumes.engine().pool;
            pool.repair(&life.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
            life.sleep(300_000).await;
            let is_data = |k: &String| k.contains("/c-") || k.contains("/p-");
            let left: Vec<_> = site.stores.iter().flat_map(|s| s.contents().keys()).filter(is_data).collect();
            assert!(left.is_empty(), "seed {seed}: {left:?}");
            assert!(
                v.write(0, bytes(4, 4096)).await.is_err(),
                "seed {seed}: it still takes itself for the owner"
            );
        });
    }
}
