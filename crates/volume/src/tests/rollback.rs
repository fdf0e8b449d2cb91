//! Back to what a snapshot was, and larger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use windlass_pool::ScrubOptions;

async fn snap(v: &Arc<Volume>, s: &str) {
    snapshot_group(&[(v.clone(), name(s))], true).await.unwrap();
}

async fn back(life: &Life, to: &str, keep: Option<&str>) -> windlass_base::Result<()> {
    life.volumes.roll_back(&name("v"), &name(to), keep.map(name).as_ref()).await
}

async fn checked(life: &Life) {
    let report = life.volumes.check(&name("v")).await.unwrap();
    assert!(report.wrong.is_empty(), "{report:#?}");
}

#[test]
fn a_volume_goes_back_and_newer_snapshots_stay() {
    run(1, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 100_000)).await.unwrap();
        snap(&v, "a").await;
        v.write(50_000, bytes(2, 100_000)).await.unwrap();
        snap(&v, "b").await;
        v.write(0, bytes(3, 4096)).await.unwrap();
        for (to, keep, kind) in
            [("none", None, Kind::NotFound), ("a", Some("b"), Kind::Exists), ("a", Some("a"), Kind::Exists)]
        {
            let refused = back(&life, to, keep).await.unwrap_err();
            assert!(refused.is(kind), "{refused}");
        }
        back(&life, "a", Some("kept")).await.unwrap();
        assert!(v.read(0, 100_000).await.unwrap() == bytes(1, 100_000));
        assert_eq!(v.read(100_000, 50_000).await.unwrap(), vec![0; 50_000]);
        v.write(0, bytes(4, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == bytes(4, 4096));
        assert!(v.read(4096, 95_904).await.unwrap() == bytes(1, 100_000)[4096..]);
        let kept = life.volumes.open_snapshot(&name("v"), &name("kept")).await.unwrap();
        assert!(kept.read(0, 4096).await.unwrap() == bytes(3, 4096));
        let b = life.volumes.open_snapshot(&name("v"), &name("b")).await.unwrap();
        assert!(b.read(50_000, 100_000).await.unwrap() == bytes(2, 100_000));
        // Forward again, to what is newer.
        back(&life, "b", None).await.unwrap();
        assert!(v.read(50_000, 100_000).await.unwrap() == bytes(2, 100_000));
        let list = life.volumes.snapshots(&name("v")).await.unwrap();
        let names: Vec<_> = list.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "kept"]);
        // On a host that has never opened it, of a volume that nobody owns.
        life.volumes.release(&name("v")).await.unwrap();
        let other = site.machine(2).start().await;
        other.volumes.roll_back(&name("v"), &name("kept"), None).await.unwrap();
        let v = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == bytes(3, 4096));
        let refused = back(&life, "a", None).await.unwrap_err();
        assert!(refused.is(Kind::Owned), "{refused}");
    });
}

/// What is promised by a flush is there before and gone after; neither is half there, whenever the power fails.
#[test]
fn a_power_cut_leaves_it_done_or_not() {
    for seed in 0..30 {
        run(seed, ["2+1", "1+0"][seed as usize % 2], |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, bytes(1, 200_000)).await.unwrap();
            snap(&v, "a").await;
            v.write(0, bytes(2, 200_000)).await.unwrap();
            v.flush().await.unwrap();
            let (process, disk) = (life.process.clone(), life.machine.disk.clone());
            site.world.after_steps(1 + site.world.below(600), move || {
                if process.alive() {
                    process.kill();
                    disk.power_loss();
                }
            });
            let volumes = life.volumes.clone();
            let keep = [None, Some(name("k"))][seed as usize / 2 % 2].clone();
            let kept = keep.clone();
            let back = async move { volumes.roll_back(&name("v"), &name("a"), kept.as_ref()).await };
            let done = life.rt.spawn(back).await.is_ok_and(|done| done.is_ok());
            let life = life.crash().start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            let now = v.read(0, 200_000).await.unwrap();
            let gone_back = now == bytes(1, 200_000);
            assert!(gone_back || !done && now == bytes(2, 200_000), "seed {seed}");
            let list = life.volumes.snapshots(&name("v")).await.unwrap();
            assert_eq!(list.len(), 1 + usize::from(gone_back && keep.is_some()), "seed {seed}");
            checked(&life).await;
        });
    }
}

/// Blocks that are written in part while the volume goes back hold what the snapshot had beside what was written.
#[test]
fn partial_writes_beside_a_rollback_mix_nothing() {
    for seed in 0..30 {
        run(seed, "2+1", |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, Bytes::from(vec![1; 64 * 4096])).await.unwrap();
            snap(&v, "a").await;
            v.write(0, Bytes::from(vec![2; 64 * 4096])).await.unwrap();
            let writer = {
                let (v, rt, world) = (v.clone(), life.rt.clone(), site.world.clone());
                life.rt.spawn(async move {
                    for block in 0..64u64 {
                        rt.sleep(Duration::from_millis(world.below(8))).await;
                        v.write(block * 4096 + 1000, Bytes::from(vec![3; 100])).await.unwrap();
                    }
                })
            };
            life.sleep(site.world.below(200)).await;
            back(&life, "a", None).await.unwrap();
            writer.await.unwrap();
            let now = v.read(0, 64 * 4096).await.unwrap();
            for (i, block) in now.chunks(4096).enumerate() {
                let (beside, written) = (block[0], block[1000]);
                assert!(beside == 1 && block[4095] == 1, "seed {seed}, block {i}: {beside}");
                assert!(written == 1 || written == 3, "seed {seed}, block {i}: {written}");
            }
        });
    }
}

/// Random trees of snapshots and rollbacks, removals, growth, clones, power cuts: contents and accounting.
#[test]
fn trees_of_states_are_exact() {
    const BLOCKS: u64 = 300;
    static ROLLBACKS: AtomicU64 = AtomicU64::new(0);
    static CLONES: AtomicU64 = AtomicU64::new(0);
    for seed in 0..24 {
        run(seed, ["2+1", "1+0", "4+2"][seed as usize % 3], |site| async move {
            let site = if seed % 4 > 0 { site.eager() } else { site };
            let world = site.world.clone();
            let mut life = site.machine(1).found().await;
            let size = BLOCKS * 4096;
            life.volumes.create(&name("v"), size, small(FlushMode::Local)).await.unwrap();
            let mut v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            let mut image = vec![0; size as usize];
            let mut snaps: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            for step in 0..70u64 {
                let some = |snaps: &BTreeMap<String, Vec<u8>>| {
                    let at = world.below(snaps.len().max(1) as u64) as usize;
                    snaps.keys().nth(at).cloned()
                };
                match world.below(12) {
                    0 | 1 => {
                        snap(&v, &format!("s{step}")).await;
                        snaps.insert(format!("s{step}"), image.clone());
                    }
                    2 => {
                        if let Some(gone) = some(&snaps) {
                            life.volumes.remove_snapshot(&name("v"), &name(&gone)).await.unwrap();
                            snaps.remove(&gone);
                        }
                    }
                    3 | 4 => {
                        if let Some(to) = some(&snaps) {
                            let keep = (world.below(2) == 0).then(|| format!("k{step}"));
                            back(&life, &to, keep.as_deref()).await.unwrap();
                            let before = std::mem::replace(&mut image, snaps[&to].clone());
                            keep.into_iter().for_each(|keep| drop(snaps.insert(keep, before.clone())));
                            ROLLBACKS.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    5 => {
                        let more = 512 * (1 + world.below(100));
                        life.volumes.resize(&name("v"), image.len() as u64 + more).await.unwrap();
                        image.resize(image.len() + more as usize, 0);
                    }
                    6 => {
                        v.flush().await.unwrap();
                        drop(v);
                        life = life.crash().start().await;
                        v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                    }
                    7 => {
                        v.release().await.unwrap();
                        checked(&life).await;
                    }
                    8 => {
                        let Some(of) = some(&snaps) else { continue };
                        let c = name(&format!("c{step}"));
                        life.volumes.clone_snapshot(&name("v"), &name(&of), &c).await.unwrap();
                        let clone = life.volumes.open(&c, OpenMode::Normal).await.unwrap();
                        assert_eq!(clone.size(), snaps[&of].len() as u64);
                        assert!(clone.read(0, clone.size()).await.unwrap() == snaps[&of], "seed {seed}");
                        life.volumes.remove(&c).await.unwrap();
                        CLONES.fetch_add(1, Ordering::Relaxed);
                    }
                    9 => life.sleep(world.below(90_000)).await,
                    _ => {
                        let blocks = image.len() as u64 / 4096;
                        let block = world.below(blocks);
                        let len = (1 + world.below((blocks - block).min(40))) * 4096;
                        let data = bytes(step, len as usize);
                        v.write(block * 4096, data.clone()).await.unwrap();
                        image[(block * 4096) as usize..][..len as usize].copy_from_slice(&data);
                    }
                }
                assert_eq!(v.size(), image.len() as u64, "seed {seed}, step {step}");
                assert!(v.read(0, v.size()).await.unwrap() == image, "seed {seed}, step {step}");
            }
            let sizes = life.volumes.snapshot_sizes(&name("v")).await.unwrap();
            assert_eq!(sizes.len(), snaps.len());
            for (s, size) in sizes {
                let view = life.volumes.open_snapshot(&name("v"), &s).await.unwrap();
                assert_eq!(size, snaps[s.as_str()].len() as u64, "seed {seed}, {s}");
                assert!(view.read(0, size).await.unwrap() == snaps[s.as_str()], "seed {seed}, {s}");
            }
            v.release().await.unwrap();
            checked(&life).await;
            for gone in snaps.keys() {
                life.volumes.remove_snapshot(&name("v"), &name(gone)).await.unwrap();
            }
            v.release().await.unwrap();
            checked(&life).await;
            life.volumes.remove(&name("v")).await.unwrap();
            life.sleep(120_000).await;
            // What a process that was cut off left behind the log's end is found by looking.
            let pool = &life.volumes.engine().pool;
            pool.repair(&life.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
            life.sleep(60_000).await;
            let is_data = |k: &String| k.contains("/c-") || k.contains("/p-");
            let left: Vec<_> = site.stores.iter().flat_map(|s| s.contents().keys()).filter(is_data).collect();
            assert!(left.is_empty(), "seed {seed}: {left:?}");
        });
    }
    let done = (ROLLBACKS.load(Ordering::Relaxed), CLONES.load(Ordering::Relaxed));
    assert!(done.0 > 24 && done.1 > 24, "{done:?} rollbacks and clones");
}

/// A snapshot has the size that the volume had, also where its mark is read after the volume grew.
#[test]
fn a_snapshot_keeps_its_size_when_the_volume_grows() {
    run(3, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        let size = v.size();
        v.write(size - 4096, bytes(1, 4096)).await.unwrap();
        snapshot_group(&[(v.clone(), name("a"))], false).await.unwrap();
        life.volumes.resize(&name("v"), 2 * size).await.unwrap();
        assert_eq!(v.size(), 2 * size);
        v.write(2 * size - 4096, bytes(2, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert_eq!(v.size(), 2 * size);
        assert!(v.read(2 * size - 4096, 4096).await.unwrap() == bytes(2, 4096));
        assert_eq!(v.read(size, 4096).await.unwrap(), vec![0; 4096]);
        let a = life.volumes.open_snapshot(&name("v"), &name("a")).await.unwrap();
        assert_eq!(a.size(), size);
        let less = life.volumes.resize(&name("v"), size).await.unwrap_err();
        assert!(less.is(Kind::Refused) && less.to_string().contains("copy"), "{less}");
        life.volumes.resize(&name("v"), 2 * size).await.unwrap();
        // Back to when it was smaller: what is behind the end is refused, and zero when it grows again.
        life.volumes.roll_back(&name("v"), &name("a"), None).await.unwrap();
        assert_eq!(v.size(), size);
        assert!(v.write(size, bytes(3, 4096)).await.unwrap_err().is(Kind::Invalid));
        life.volumes.resize(&name("v"), 2 * size).await.unwrap();
        assert_eq!(v.read(2 * size - 4096, 4096).await.unwrap(), vec![0; 4096]);
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().size, 2 * size);
    });
}

/// More snapshots than the table page holds, of which some are removed, and a volume that opens on another host with them.
#[test]
fn many_snapshots_are_in_pages() {
    run(5, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        for i in 0..300u64 {
            v.write(i % 50 * 4096, bytes(i, 4096)).await.unwrap();
            snap(&v, &format!("s{i}")).await;
        }
        for i in [0, 7, 128, 299] {
            life.volumes.remove_snapshot(&name("v"), &name(&format!("s{i}"))).await.unwrap();
        }
        back(&life, "s100", None).await.unwrap();
        v.release().await.unwrap();
        checked(&life).await;
        let other = site.machine(2).start().await;
        assert_eq!(other.volumes.snapshot_sizes(&name("v")).await.unwrap().len(), 296);
        let v = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == bytes(100, 4096));
        let view = other.volumes.open_snapshot(&name("v"), &name("s250")).await.unwrap();
        assert!(view.read(0, 4096).await.unwrap() == bytes(250, 4096));
        // Few are in the table page again.
        for i in (1..300).filter(|i| ![7, 128, 299].contains(i)) {
            if i % 3 > 0 {
                other.volumes.remove_snapshot(&name("v"), &name(&format!("s{i}"))).await.unwrap();
            }
        }
        other.volumes.release(&name("v")).await.unwrap();
        checked(&other).await;
    });
}
