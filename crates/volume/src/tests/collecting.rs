//! What collection leaves behind, and what it costs.

use super::*;
use crate::handle::Known;
use windlass_pool::ScrubOptions;

/// Objects of volumes on the first store.
fn objects(site: &site::Site) -> usize {
    site.stores[0].contents().keys().iter().filter(|k| k.contains("/c-") || k.contains("/p-")).count()
}

/// Parts that were packed stand beside parts that never were; then nothing is written any more.
#[test]
fn a_quiet_volume_with_a_removed_snapshot_is_collected() {
    run(90, "1+0", |mut site| async move {
        site.tuning.gain_min = 128 << 10;
        site.tuning.pack_max = MIB;
        site.tuning.log_min = MIB;
        site.grace_ms = 1_000;
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        let overwrite = async |share: u64, seed: u64| {
            for i in 0..128 {
                if life.rt.below(100) < share {
                    v.write(i * (64 << 10), bytes(seed + i, 64 << 10)).await.unwrap();
                    v.flush().await.unwrap();
                }
            }
        };
        overwrite(100, 0).await;
        overwrite(50, 1_000).await;
        life.volumes.collect(&name("v")).await.unwrap();
        overwrite(10, 2_000).await;
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        overwrite(50, 3_000).await;
        life.volumes.remove_snapshot(&name("v"), &name("s")).await.unwrap();
        life.volumes.collect(&name("v")).await.unwrap();
        let info = life.volumes.info(&name("v")).await.unwrap();
        let (stored, live) = (info.stored_bytes, info.live_bytes.unwrap());
        assert!(stored * 10 <= live * 13, "{stored} bytes are stored for {live}");
        assert!(life.volumes.check(&name("v")).await.unwrap().wrong.is_empty());
    });
}

/// Blocks that lie so far apart that a checkpoint's piece of a trim meets one at most.
#[test]
fn trimming_scattered_blocks_takes_few_objects() {
    run(91, "1+0", |mut site| async move {
        site.tuning.merge_blocks = 4096;
        let life = site.machine(1).found().await;
        let (size, apart) = (64 << 30, 128 * MIB);
        life.volumes.create(&name("v"), size, small(FlushMode::Local)).await.unwrap();
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        for at in (0..size).step_by(apart as usize) {
            v.write(at, bytes(at, 4096)).await.unwrap();
        }
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        session.checkpoint(&[]).await.unwrap();
        let before = objects(&site);
        v.zero(0, size).await.unwrap();
        session.checkpoint(&[]).await.unwrap();
        let made = objects(&site) - before;
        assert!(made <= 20, "{made} objects for {} blocks", size / apart);
        assert_eq!(v.read(0, 4096).await.unwrap(), vec![0; 4096]);
        let s = life.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap();
        assert!(s.read(apart, 4096).await.unwrap() == bytes(apart, 4096));
        assert!(life.volumes.check(&name("v")).await.unwrap().wrong.is_empty());
    });
}

/// Each flush to the pool makes an object of its own.
#[test]
fn small_objects_are_merged() {
    run(92, "1+0", |mut site| async move {
        site.grace_ms = 1_000;
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        for i in 0..300 {
            v.write(i * 8192, bytes(i, 4096)).await.unwrap();
            v.flush().await.unwrap();
        }
        assert!(objects(&site) >= 300);
        life.volumes.collect(&name("v")).await.unwrap();
        assert!(objects(&site) <= 20, "{} objects are left", objects(&site));
        for i in 0..300 {
            assert!(v.read(i * 8192, 4096).await.unwrap() == bytes(i, 4096));
        }
        assert!(life.volumes.check(&name("v")).await.unwrap().wrong.is_empty());
    });
}

/// Objects die all the time, also while the stores are away that hold their shards.
#[test]
fn outages_leave_nothing_that_nobody_needs() {
    for seed in [94, 95] {
        run(seed, "1+2", move |site| async move {
            let site = site.eager();
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Pool).await;
            let mut missed = 0;
            for outage in 0..30 {
                let store = life.rt.below(3) as usize;
                let reach = [Reach::Refuses, Reach::Silent][life.rt.below(2) as usize];
                site.reach(store..store + 1, reach);
                for i in 0..10 {
                    let at = life.rt.below(60) * (64 << 10);
                    v.write(at, bytes(outage * 100 + i, 64 << 10)).await.unwrap();
                    v.flush().await.unwrap();
                    life.sleep(life.rt.below(1_000)).await;
                }
                missed += life.volumes.engine().pool.status().missed_deletes;
                site.reach(0..3, Reach::Up);
                life.sleep(life.rt.below(4_000)).await;
            }
            assert!(missed > 0, "seed {seed}: nothing was deleted during an outage");
            life.sleep(60_000).await;
            v.release().await.unwrap();
            life.sleep(60_000).await;
            let pool = &life.volumes.engine().pool;
            let found = pool.scrub(&life.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
            assert!(found.is_complete_and_clean(), "seed {seed}: {} orphans, {found:?}", found.orphans.len());
            assert_eq!(pool.status().missed_deletes, 0);
        });
    }
}

/// A clone's chunks are numbered from 1 as its parent's are, so pages of both come to have one number and offset. A checkpoint
/// that has just written the clone's must not take it for the parent's, which no cache has.
#[test]
fn a_page_in_memory_is_not_taken_for_the_parents_of_the_same_number() {
    run(93, "1+0", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        let (a, b) = (bytes(1, MIB as usize), bytes(2, MIB as usize));
        // Each leaf is the first page of a chunk of its own.
        for (at, data) in [(0, &a), (MIB, &b)] {
            v.write(at, data.clone()).await.unwrap();
            v.flush().await.unwrap();
            v.session().await.unwrap().checkpoint_surely(&[]).await.unwrap();
        }
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        life.volumes.release(&name("v")).await.unwrap();
        for before in 0..12 {
            let other = site.machine(10 + u128::from(before)).start().await;
            let clone = name(&format!("c{before}"));
            other.volumes.clone_snapshot(&name("v"), &name("s"), &clone).await.unwrap();
            let c = other.volumes.open(&clone, OpenMode::Normal).await.unwrap();
            for i in 0..before {
                c.write((8 + i) * MIB, bytes(i, 4096)).await.unwrap();
                c.flush().await.unwrap();
            }
            c.write(0, bytes(77, 4096)).await.unwrap();
            snapshot_group(&[(c.clone(), name("x"))], false).await.unwrap();
            c.write(MIB, bytes(78, 4096)).await.unwrap();
            c.session().await.unwrap().checkpoint_surely(&[]).await.unwrap();
            let read = c.read(MIB, MIB).await.unwrap();
            assert!(read[..4096] == bytes(78, 4096), "{before}");
            assert!(read[4096..] == b[4096..], "{before} chunks before: the parent's other blocks");
            assert!(c.read(4096, MIB - 4096).await.unwrap() == a[4096..], "{before}");
        }
    });
}
