//! Snapshots and clones.

use std::sync::Arc;

use windlass_store::SimStore;

use super::*;
use crate::space::pins;
use windlass_base::{Nonce, VolumeId};
use windlass_pool::{CatalogEntry, ScrubOptions};

async fn snap(v: &Arc<Volume>, s: &str) {
    snapshot_group(&[(v.clone(), name(s))], true).await.unwrap();
}

#[test]
fn snapshots_and_clones_never_change() {
    run(10, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        let first = bytes(1, MIB as usize);
        v.write(0, first.clone()).await.unwrap();
        snap(&v, "a").await;
        v.write(4096, bytes(2, 8192)).await.unwrap();
        snap(&v, "b").await;
        v.zero(0, 4096).await.unwrap();
        let again = snapshot_group(&[(v.clone(), name("a"))], true).await.unwrap_err();
        assert!(again.is(Kind::Exists), "{again}");
        let a = life.volumes.open_snapshot(&name("v"), &name("a")).await.unwrap();
        assert!(a.read(0, MIB).await.unwrap() == first);
        life.volumes.clone_snapshot(&name("v"), &name("b"), &name("c")).await.unwrap();
        let c = life.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
        assert!(c.read(0, 4096).await.unwrap() == first[..4096]);
        assert!(c.read(4096, 8192).await.unwrap() == bytes(2, 8192));
        c.write(0, bytes(3, 4096)).await.unwrap();
        snap(&c, "x").await;
        // A clone of a clone, on another host.
        life.volumes.release(&name("c")).await.unwrap();
        let other = site.machine(2).start().await;
        other.volumes.clone_snapshot(&name("c"), &name("x"), &name("d")).await.unwrap();
        let d = other.volumes.open(&name("d"), OpenMode::Normal).await.unwrap();
        assert!(d.read(0, 4096).await.unwrap() == bytes(3, 4096));
        assert!(d.read(4096, 8192).await.unwrap() == bytes(2, 8192));
        assert!(d.read(12288, 4096).await.unwrap() == first[12288..16384]);
        d.write(8192, bytes(4, 4096)).await.unwrap();
        other.volumes.release(&name("d")).await.unwrap();
        assert!(d.read(8192, 4096).await.unwrap() == bytes(4, 4096));
        // The parents have not changed.
        assert!(a.read(0, MIB).await.unwrap() == first);
        assert_eq!(v.read(0, 4096).await.unwrap(), vec![0; 4096]);
        let list = life.volumes.snapshots(&name("v")).await.unwrap();
        let shape: Vec<_> = list.iter().map(|s| (s.name.as_str(), s.ready, s.clones.len())).collect();
        assert_eq!(shape, [("a", true, 0), ("b", true, 1)]);
    });
}

#[test]
fn pins_hold_and_removal_goes_bottom_up() {
    run(11, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        snap(&v, "a").await;
        life.volumes.clone_snapshot(&name("v"), &name("a"), &name("c")).await.unwrap();
        let taken = life.volumes.clone_snapshot(&name("v"), &name("a"), &name("c")).await.unwrap_err();
        assert!(taken.is(Kind::Exists), "{taken}");
        let refused = life.volumes.remove_snapshot(&name("v"), &name("a")).await.unwrap_err();
        assert!(refused.is(Kind::Refused), "{refused}");
        assert!(life.volumes.remove(&name("v")).await.unwrap_err().is(Kind::Refused));
        assert!(v.read(0, 4096).await.unwrap() == bytes(1, 4096), "still there");
        life.volumes.remove(&name("c")).await.unwrap();
        assert!(life.volumes.open(&name("c"), OpenMode::Normal).await.unwrap_err().is(Kind::NotFound));
        life.volumes.remove_snapshot(&name("v"), &name("a")).await.unwrap();
        assert!(life.volumes.snapshots(&name("v")).await.unwrap().is_empty());
        assert!(life.volumes.open_snapshot(&name("v"), &name("a")).await.unwrap_err().is(Kind::NotFound));
        snap(&v, "a").await;
        life.volumes.remove(&name("v")).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap_err().is(Kind::Removed));
        assert!(life.volumes.list(Duration::from_secs(15)).await.unwrap().is_empty());
        life.sleep(20_000).await;
        let left: Vec<_> =
            site.stores.iter().flat_map(|s| s.contents().keys()).filter(|k| k.contains("/c-")).collect();
        assert!(left.is_empty(), "{left:?}");
        life.volumes.create(&name("v"), MIB, VolumeSettings::default()).await.unwrap();
    });
}

#[test]
fn a_pin_without_its_clone_holds_nothing() {
    run(12, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        snap(&v, "a").await;
        for new in ["c", "d"] {
            life.volumes.clone_snapshot(&name("v"), &name("a"), &name(new)).await.unwrap();
        }
        // A removal that was killed after its first step, and a clone that was killed before its last.
        let engine = life.volumes.engine();
        let parent = engine.pool.lookup(&name("v")).await.unwrap().unwrap();
        let clone = engine.pool.lookup(&name("c")).await.unwrap().unwrap();
        engine.cell(clone).change(|head| head.remove(&[].into(), Nonce(0))).await.unwrap();
        let head = engine.cell(clone).read().await.unwrap().unwrap();
        let snapshot = head.base.unwrap().snapshot;
        let pins = pins::of(&engine.pool, parent, snapshot);
        pins.insert(&pins::key(VolumeId(77)), CatalogEntry::of(77)).await.unwrap();
        // What would be done says no more than is true, and changes nothing.
        let said = life.volumes.check_remove_snapshot(&name("v"), &name("a"), LOOK).await.unwrap_err();
        let why = "tank/v@a is needed by its clones: tank/d; remove them first";
        assert!(said.is(Kind::Refused) && said.to_string() == why, "{said}");
        assert_eq!(pins.all().await.unwrap().len(), 3);
        let said = life.volumes.remove_snapshot(&name("v"), &name("a")).await.unwrap_err();
        assert!(said.is(Kind::Refused) && said.to_string() == why, "{said}");
        assert_eq!(pins.all().await.unwrap().len(), 1);
        life.volumes.remove(&name("d")).await.unwrap();
        life.volumes.check_remove_snapshot(&name("v"), &name("a"), LOOK).await.unwrap();
        life.volumes.remove_snapshot(&name("v"), &name("a")).await.unwrap();
        let gone = life.volumes.check_remove_snapshot(&name("v"), &name("a"), LOOK).await.unwrap_err();
        assert!(gone.is(Kind::NotFound), "{gone}");
    });
}

#[test]
fn a_mark_survives_a_crash_before_its_checkpoint() {
    for seed in 20..24 {
        run(seed, "2+1", |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, bytes(1, 40_960)).await.unwrap();
            snapshot_group(&[(v.clone(), name("a"))], seed % 2 == 0).await.unwrap();
            v.write(0, bytes(2, 4096)).await.unwrap();
            v.flush().await.unwrap();
            let life = life.crash().start().await;
            let a = life.volumes.open_snapshot(&name("v"), &name("a")).await.unwrap();
            assert!(a.read(0, 40_960).await.unwrap() == bytes(1, 40_960));
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(v.read(0, 4096).await.unwrap() == bytes(2, 4096));
        });
    }
}

/// Of an owner that was killed right after: the snapshot is in its log, and in no checkpoint.
#[test]
fn a_snapshot_that_is_only_in_the_owners_log_is_not_said_to_be_missing() {
    run(25, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        life.volumes.create(&name("w"), MIB, small(FlushMode::Pool)).await.unwrap();
        let w = life.volumes.open(&name("w"), OpenMode::Normal).await.unwrap();
        v.write(0, bytes(1, 40_960)).await.unwrap();
        w.write(0, bytes(2, 4096)).await.unwrap();
        snapshot_group(&[(v.clone(), name("g")), (w.clone(), name("g"))], true).await.unwrap();
        drop((v, w));
        let machine = life.crash();
        let other = site.machine(2).start().await;
        let volumes = &other.volumes;
        let early = [
            volumes.open_snapshot(&name("v"), &name("g")).await.map(drop),
            volumes.clone_snapshot(&name("v"), &name("g"), &name("c")).await.map(drop),
            volumes.snapshot_id(&name("v"), &name("g")).await.map(drop),
        ];
        for told in early {
            let told = told.unwrap_err();
            assert!(told.is(Kind::Unavailable) && told.to_string().contains("take-over"), "{told}");
        }
        assert!(
            volumes.open_snapshot(&name("v"), &name("no")).await.map(drop).unwrap_err().is(Kind::NotFound)
        );
        let mut life = machine.start().await;
        for host in [&other, &life] {
            for member in ["v", "w"] {
                let listed = host.volumes.snapshots(&name(member)).await.unwrap();
                assert!(listed.len() == 1 && !listed[0].partial, "{member}: {listed:?}");
            }
        }
        life.volumes.open_snapshot(&name("v"), &name("g")).await.unwrap();
        life = life.crash().start().await;
        let shown = other.volumes.open_snapshot(&name("v"), &name("g")).await.unwrap();
        assert!(shown.read(0, 40_960).await.unwrap() == bytes(1, 40_960));
        drop(life);
    });
}

/// Its command was killed with the daemon before it had heard of anything: who asks for it once more is told when it is safe.
#[test]
fn a_snapshot_that_nobody_promised_is_promised_to_who_asks_for_it_again() {
    run(27, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, 40_960)).await.unwrap();
        site.reach(2..3, Reach::Refuses);
        let _ =
            life.rt.timeout(Duration::from_secs(1), snapshot_group(&[(v.clone(), name("a"))], true)).await;
        drop(v);
        let machine = life.crash();
        site.reach(2..3, Reach::Up);
        let (life, other) = (machine.start().await, site.machine(2).start().await);
        let told = other.volumes.promise_snapshot(&name("v"), &name("a")).await.unwrap_err();
        assert!(told.is(Kind::Unavailable), "{told}");
        life.volumes.promise_snapshot(&name("v"), &name("a")).await.unwrap();
        drop(life.crash());
        // The host, and one store that has it.
        site.reach(0..1, Reach::Refuses);
        other.volumes.take_over(&name("v"), false).await.unwrap();
        let shown = other.volumes.open_snapshot(&name("v"), &name("a")).await.unwrap();
        assert!(shown.read(0, 40_960).await.unwrap() == bytes(1, 40_960));
    });
}

/// Acknowledged as on this host's disk, before the stores have it.
#[test]
fn a_snapshot_that_is_only_in_the_journal_is_at_stake_with_its_volume() {
    run(26, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 40_960)).await.unwrap();
        site.reach(0..3, Reach::Refuses);
        snapshot_group(&[(v.clone(), name("a"))], false).await.unwrap();
        v.flush().await.unwrap();
        drop(v);
        let machine = life.crash();
        site.reach(0..3, Reach::Up);
        let life = machine.start().await;
        assert_eq!(life.volumes.snapshots_at_stake(&name("v")).await.unwrap(), [name("a")]);
        assert_eq!(life.volumes.snapshots(&name("v")).await.unwrap().len(), 1);
    });
}

#[test]
fn a_group_is_one_instant() {
    run(30, "1+1", |site| async move {
        let life = site.machine(1).found().await;
        let a = volume(&life, FlushMode::Local).await;
        life.volumes.create(&name("w"), MIB, VolumeSettings::default()).await.unwrap();
        let b = life.volumes.open(&name("w"), OpenMode::Normal).await.unwrap();
        // A counter goes to `a` first, then to `b`: at no instant is b ahead of a.
        let (va, vb) = (a.clone(), b.clone());
        let writer = life.rt.spawn(async move {
            for i in 1..200u64 {
                va.write(0, Bytes::copy_from_slice(&i.to_le_bytes())).await.unwrap();
                vb.write(0, Bytes::copy_from_slice(&i.to_le_bytes())).await.unwrap();
                va.flush().await.unwrap();
            }
        });
        for i in 0..5 {
            life.sleep(100).await;
            let s = name(&format!("s{i}"));
            let marks = [(a.clone(), s.clone()), (b.clone(), s.clone())];
            let infos = snapshot_group(&marks, true).await.unwrap();
            assert_eq!(infos.len(), 2);
            let mut seen = Vec::new();
            for volume in ["v", "w"] {
                let view = life.volumes.open_snapshot(&name(volume), &s).await.unwrap();
                let bytes = view.read(0, 8).await.unwrap();
                seen.push(u64::from_le_bytes(bytes[..].try_into().unwrap()));
            }
            assert!(seen[0] == seen[1] || seen[0] == seen[1] + 1, "{seen:?}");
        }
        writer.await.unwrap();
        assert!(life.volumes.snapshots(&name("v")).await.unwrap().iter().all(|s| !s.partial));
    });
}

async fn checked(life: &Life, volume: &str) -> CheckReport {
    let report = life.volumes.check(&name(volume)).await.unwrap();
    assert!(report.wrong.is_empty(), "{report:#?}");
    report
}

/// What the table counts is what the maps say, whatever happens to snapshots.
#[test]
fn deaths_are_exact() {
    for seed in 40..80 {
        run(seed, "2+1", |site| async move {
            let site = if seed % 4 > 0 { site.eager() } else { site };
            let world = site.world.clone();
            let mut life = site.machine(1).found().await;
            let mut v = volume(&life, FlushMode::Local).await;
            let mut snaps: Vec<String> = Vec::new();
            for step in 0..60u64 {
                match world.below(10) {
                    0 => {
                        snaps.push(format!("s{step}"));
                        snap(&v, &format!("s{step}")).await;
                    }
                    1 if !snaps.is_empty() => {
                        let gone = snaps.remove(world.below(snaps.len() as u64) as usize);
                        life.volumes.remove_snapshot(&name("v"), &name(&gone)).await.unwrap();
                    }
                    2 => {
                        v.zero(world.below(500) * 4096, (1 + world.below(700)) * 4096).await.unwrap();
                    }
                    3 if world.below(3) == 0 => {
                        v.flush().await.unwrap();
                        if world.below(2) == 0 {
                            life.sleep(world.below(8_000)).await;
                        }
                        drop(v);
                        life = life.crash().start().await;
                        v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                    }
                    4 => {
                        v.release().await.unwrap();
                        checked(&life, "v").await;
                    }
                    5 => life.sleep(world.below(90_000)).await,
                    _ => {
                        let len = (1 + world.below(40)) * 4096;
                        v.write(world.below(1200) * 4096, bytes(step, len as usize)).await.unwrap();
                    }
                }
            }
            v.release().await.unwrap();
            checked(&life, "v").await;
            for gone in snaps {
                life.volumes.remove_snapshot(&name("v"), &name(&gone)).await.unwrap();
                checked(&life, "v").await;
            }
        });
    }
}

/// A snapshot taken while a checkpoint runs: the tip stands on it, not on what that checkpoint merged.
#[test]
fn a_snapshot_amid_a_checkpoint_is_under_the_tip() {
    for seed in 0..40 {
        run(seed, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, bytes(1, 100_000)).await.unwrap();
            snap(&v, "a").await;
            let (a, building) = (name("a"), name("v"));
            let checkpoint = life.volumes.open_snapshot(&building, &a);
            let amid = async {
                life.sleep(seed).await;
                v.write(4096, bytes(2, 50_000)).await.unwrap();
                snap(&v, "b").await;
            };
            let (a, ()) = futures::join!(checkpoint, amid);
            assert!(a.unwrap().read(0, 100_000).await.unwrap() == bytes(1, 100_000));
            let b = life.volumes.open_snapshot(&name("v"), &name("b")).await.unwrap();
            assert!(b.read(4096, 50_000).await.unwrap() == bytes(2, 50_000));
            assert!(v.read(4096, 50_000).await.unwrap() == bytes(2, 50_000), "seed {seed}");
        });
    }
}

/// What is written over, trimmed, or only in removed snapshots goes away; scrub agrees all the time.
#[test]
fn space_follows_overwrites_trims_and_removals() {
    for seed in 0..6 {
        run(seed, ["2+1", "1+2"][seed as usize % 2], |site| async move {
            let site = site.eager();
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            let stored = || -> usize {
                let size = |s: &Arc<SimStore>| -> usize {
                    let keys =
                        s.contents().keys().into_iter().filter(|k| k.contains("/c-") || k.contains("/p-"));
                    let len = |k: String| {
                        let mut len = 0;
                        s.contents().rot(&k, |bytes| len = bytes.len());
                        len
                    };
                    keys.map(len).sum()
                };
                site.stores.iter().map(size).sum()
            };
            for round in 0..30 {
                v.write(0, bytes(round, MIB as usize)).await.unwrap();
                v.flush().await.unwrap();
                life.sleep(3_000).await;
                if round == 10 {
                    snap(&v, "a").await;
                }
                if round % 10 == 5 {
                    let report = life
                        .volumes
                        .engine()
                        .pool
                        .scrub(&life.volumes, ScrubOptions::default(), &|_| {})
                        .await
                        .unwrap();
                    assert!(report.missing.is_empty() && report.rotten.is_empty(), "{report:?}");
                    checked(&life, "v").await;
                }
            }
            let a = life.volumes.open_snapshot(&name("v"), &name("a")).await.unwrap();
            assert!(a.read(0, MIB).await.unwrap() == bytes(10, MIB as usize));
            let elsewhere = site.machine(3).start().await.volumes;
            let b = elsewhere.open_snapshot(&name("v"), &name("a")).await.unwrap();
            let with = stored();
            life.volumes.remove_snapshot(&name("v"), &name("a")).await.unwrap();
            v.zero(0, MIB).await.unwrap();
            for i in 0..4 {
                life.sleep(70_000).await;
                v.write(4096 * i, bytes(i, 4096)).await.unwrap();
            }
            life.sleep(70_000).await;
            let without = stored();
            assert!(with > 2 << 20 && without < 300_000, "{with} bytes before, {without} after");
            let a = site.machine(2).start().await.volumes.open_snapshot(&name("v"), &name("a")).await;
            let gone = b.read(0, MIB).await.unwrap_err();
            assert!(gone.is(Kind::Removed), "{gone}");
            assert!(a.is_err_and(|e| e.is(Kind::NotFound)));
            assert!(v.read(MIB / 2, 100_000).await.unwrap().iter().all(|b| *b == 0));
            v.release().await.unwrap();
            let report = life
                .volumes
                .engine()
                .pool
                .scrub(&life.volumes, ScrubOptions::default(), &|_| {})
                .await
                .unwrap();
            assert!(report.is_complete_and_clean(), "{report:?}");
            checked(&life, "v").await;
        });
    }
}

/// A command is broken off while its checkpoint is being recorded, and another host clones the snapshot that it has
/// built: the owner knows of that checkpoint, and what the clone stands on stays.
#[test]
fn what_a_broken_off_command_recorded_is_what_the_owner_goes_on_from() {
    for n in 0..16 {
        run(500 + n, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let other = site.machine(2).start().await;
            let v = volume(&life, FlushMode::Pool).await;
            v.write(0, bytes(1, 4096)).await.unwrap();
            snap(&v, "old").await;
            v.write(4096, bytes(2, 4096)).await.unwrap();
            snap(&v, "s").await;
            v.write(8192, bytes(3, 4096)).await.unwrap();
            let patience = Duration::from_millis(15 * n);
            life.rt.timeout(patience, life.volumes.remove_snapshot(&name("v"), &name("old"))).await;
            // Others know of it as soon as a checkpoint has it.
            while let Err(why) = other.volumes.clone_snapshot(&name("v"), &name("s"), &name("c")).await {
                assert!(why.is(Kind::Unavailable), "{n}: {why}");
                other.sleep(10).await;
            }
            for i in 0..3 {
                v.write(16384, bytes(9 + i, 4096)).await.unwrap();
                v.flush().await.unwrap();
                life.sleep(70_000).await;
            }
            let c = other.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
            assert!(c.read(0, 4096).await.unwrap() == bytes(1, 4096), "{n}");
            assert!(c.read(4096, 4096).await.unwrap() == bytes(2, 4096), "{n}");
            assert!(c.read(8192, 4096).await.unwrap() == [0; 4096][..], "{n}");
        });
    }
}
