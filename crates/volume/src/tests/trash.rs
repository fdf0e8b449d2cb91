//! What was removed and comes back, and goes when its time has come, on hosts that are killed at any step.

use super::clones::command;
use super::*;
use crate::Emptied;
use windlass_base::{Error, Result};

async fn listed(life: &Life) -> Vec<String> {
    let all = life.volumes.list(Duration::from_secs(30)).await.unwrap();
    all.into_iter().map(|(name, _)| name.to_string()).collect()
}

async fn in_trash(life: &Life) -> Vec<String> {
    let all = Trash(&life.volumes).list(Duration::from_secs(30)).await.unwrap();
    all.into_iter().map(|one| one.info.unwrap().name.to_string()).collect()
}

fn objects(site: &site::Site) -> usize {
    let is_data = |k: &String| k.contains("/c-") || k.contains("/p-");
    site.stores.iter().flat_map(|s| s.contents().keys()).filter(is_data).count()
}

#[test]
fn a_volume_in_the_trash_has_no_name_and_nobody_opens_it() {
    run(1, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 9000)).await.unwrap();
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        // What can't be removed does not go there either.
        life.volumes.clone_snapshot(&name("v"), &name("s"), &name("c")).await.unwrap();
        for refused in [
            Trash(&life.volumes).discard(&name("v")).await,
            Trash(&life.volumes).discard_snapshot(&name("v"), &name("s")).await.map(|()| true),
        ] {
            assert!(refused.as_ref().unwrap_err().is(Kind::Refused), "{refused:?}");
        }
        life.volumes.remove(&name("c")).await.unwrap();
        assert!(Trash(&other.volumes).discard(&name("v")).await.unwrap_err().is(Kind::Owned));
        // Opened elsewhere when it was released: such a session must not write to it any more.
        life.volumes.release(&name("v")).await.unwrap();
        let inert = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        v.write(4096, bytes(2, 4096)).await.unwrap();
        assert!(Trash(&life.volumes).discard(&name("v")).await.unwrap());
        let late = inert.write(0, bytes(3, 4096)).await.unwrap_err();
        assert!(late.is(Kind::Fenced) || late.is(Kind::Removed), "{late}");
        assert!(v.read(0, 4096).await.unwrap_err().is(Kind::Removed));
        assert!(listed(&life).await.is_empty() && in_trash(&other).await == ["v"]);
        for gone in [
            other.volumes.info(&name("v")).await.map(drop),
            other.volumes.open(&name("v"), OpenMode::Normal).await.map(drop),
        ] {
            assert!(gone.as_ref().unwrap_err().is(Kind::NotFound), "{gone:?}");
        }
        // Its name is free. It comes back under another.
        life.volumes.create(&name("v"), MIB, small(FlushMode::Local)).await.unwrap();
        assert!(Trash(&other.volumes).restore(&name("v"), None).await.unwrap_err().is(Kind::Exists));
        Trash(&other.volumes).restore(&name("v"), Some(&name("w"))).await.unwrap();
        assert!(Trash(&other.volumes).restore(&name("v"), None).await.unwrap_err().is(Kind::NotFound));
        let w = other.volumes.open(&name("w"), OpenMode::Normal).await.unwrap();
        assert!(w.read(0, 4096).await.unwrap() == bytes(1, 9000)[..4096]);
        assert!(w.read(4096, 4096).await.unwrap() == bytes(2, 4096));
        w.write(0, bytes(4, 4096)).await.unwrap();
        let s = other.volumes.open_snapshot(&name("w"), &name("s")).await.unwrap();
        assert!(s.read(0, 9000).await.unwrap() == bytes(1, 9000));
        // Of two of one name the one that went last comes back first.
        Trash(&life.volumes).discard(&name("v")).await.unwrap();
        other.volumes.release(&name("w")).await.unwrap();
        rename(&other.volumes, &name("w"), &name("v")).await.unwrap();
        // By the same clock.
        Trash(&life.volumes).discard(&name("v")).await.unwrap();
        assert_eq!(in_trash(&life).await, ["v", "v"]);
        Trash(&life.volumes).restore(&name("v"), None).await.unwrap();
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().id, w.id());
        assert_eq!(Trash(&life.volumes).purge(&name("v")).await.unwrap(), 1);
        assert!(Trash(&life.volumes).purge(&name("v")).await.unwrap_err().is(Kind::NotFound));
        life.volumes.remove(&name("v")).await.unwrap();
        assert!(listed(&life).await.is_empty() && in_trash(&life).await.is_empty());
        life.sleep(60_000).await;
        assert_eq!((objects(&site), life.volumes.engine().pool.name_entries().await.unwrap().len()), (0, 0));
    });
}

#[test]
fn a_snapshot_in_the_trash_keeps_what_it_shows() {
    run(2, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 90_000)).await.unwrap();
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        v.write(0, bytes(2, 90_000)).await.unwrap();
        Trash(&life.volumes).discard_snapshot(&name("v"), &name("s")).await.unwrap();
        let gone = life.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap_err();
        assert!(gone.is(Kind::NotFound), "{gone}");
        let refused = life.volumes.clone_snapshot(&name("v"), &name("s"), &name("c")).await.unwrap_err();
        assert!(refused.is(Kind::NotFound), "{refused}");
        assert!(life.volumes.snapshots(&name("v")).await.unwrap().is_empty());
        assert!(
            life.volumes.snapshot_at(&name("v"), life.rt.wall_ms()).await.unwrap_err().is(Kind::NotFound)
        );
        // The name is free, after a power cut too.
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        let taken = Trash(&life.volumes).restore_snapshot(&name("v"), &name("s"), None).await.unwrap_err();
        assert!(taken.is(Kind::Exists), "{taken}");
        Trash(&life.volumes).restore_snapshot(&name("v"), &name("s"), Some(&name("old"))).await.unwrap();
        let old = life.volumes.open_snapshot(&name("v"), &name("old")).await.unwrap();
        assert!(old.read(0, 90_000).await.unwrap() == bytes(1, 90_000));
        life.volumes.roll_back(&name("v"), &name("old"), None).await.unwrap();
        assert!(v.read(0, 90_000).await.unwrap() == bytes(1, 90_000));
        // Twice of one name, and gone for good when due: not before.
        for s in ["old", "s"] {
            Trash(&life.volumes).discard_snapshot(&name("v"), &name(s)).await.unwrap();
        }
        // By their times: the clock may have been set back by the power cut.
        let trashed = Trash(&life.volumes).snapshots(&name("v")).await.unwrap();
        assert!(trashed.len() == 2 && trashed[0].removed_ms < trashed[1].removed_ms, "{trashed:?}");
        let Emptied { gone, failed: done, .. } = Trash(&life.volumes).empty(trashed[0].removed_ms).await;
        done.unwrap();
        assert_eq!((gone, Trash(&life.volumes).snapshots(&name("v")).await.unwrap().len()), (1, 1));
        assert_eq!(Trash(&life.volumes).purge_snapshot(&name("v"), &trashed[1].name).await.unwrap(), 1);
        let report = life.volumes.check(&name("v")).await.unwrap();
        assert!(report.wrong.is_empty() && report.states == 1, "{report:?}");
    });
}

/// Two hosts discard, restore, purge and empty at once, either of which may be killed at any step: the volume is there with all that it
/// held, or in the trash; it goes only when somebody asked for that while it was there.
#[test]
fn who_was_shut_out_and_has_not_heard_of_it_restores_from_the_trash_of_now() {
    run(1, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = volume(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, 9000)).await.unwrap();
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        // From here on the first owner asks the stores for nothing.
        let take = OpenMode::TakeOver { accept_loss: false };
        let taken = other.volumes.open(&name("v"), take).await.unwrap();
        taken.write(0, bytes(2, 9000)).await.unwrap();
        Trash(&other.volumes).discard_snapshot(&name("v"), &name("s")).await.unwrap();
        other.volumes.release(&name("v")).await.unwrap();
        Trash(&life.volumes).restore_snapshot(&name("v"), &name("s"), None).await.unwrap();
        let shown = life.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap();
        assert!(shown.read(0, 9000).await.unwrap() == bytes(1, 9000));
    });
}

#[test]
fn whoever_is_killed_what_is_in_the_trash_is_whole() {
    // TRASH=SEED[..END] replays.
    for seed in seeds("TRASH", "0..16") {
        eprintln!("TRASH={seed}");
        run(seed, ["2+1", "1+0", "4+2"][seed as usize % 3], |site| async move {
            let mut hosts = [site.machine(1).found().await, site.machine(2).start().await];
            for round in 0..10u64 {
                let latency = (Duration::from_millis(1), Duration::from_millis(1 + site.world.below(60)));
                site.stores.iter().for_each(|s| s.faults(|f| f.latency = latency));
                let v = match hosts[0].volumes.open(&name("v"), OpenMode::Normal).await {
                    Ok(v) => v,
                    Err(e) if e.is(Kind::NotFound) => volume(&hosts[0], FlushMode::Local).await,
                    Err(e) => panic!("round {round}: {e}"),
                };
                let data = bytes(round, 5000);
                v.write(0, data.clone()).await.unwrap();
                v.release().await.unwrap();
                if site.world.below(2) == 0 {
                    Trash(&hosts[0].volumes).discard(&name("v")).await.unwrap();
                }
                let purges = site.world.below(2) == 0;
                let work = [0, 1, 0, 1].map(|host| {
                    let volumes = hosts[host].volumes.clone();
                    let (what, late) =
                        (site.world.below(if purges { 5 } else { 3 }), hosts[host].rt.wall_ms() + 100_000);
                    let work = async move {
                        match what {
                            0 => Trash(&volumes).discard(&name("v")).await.map(drop),
                            1 | 2 => Trash(&volumes).restore(&name("v"), None).await,
                            3 => Trash(&volumes).purge(&name("v")).await.map(drop),
                            _ => Trash(&volumes).empty(late).await.failed,
                        }
                    };
                    command::<()>(&site, &hosts[host], work)
                });
                let done: Vec<Option<Result<()>>> = futures::future::join_all(work).await;
                let is_expected = |e: &Error| {
                    matches!(
                        e.kind(),
                        Kind::NotFound | Kind::Exists | Kind::Owned | Kind::Removed | Kind::Fenced
                    )
                };
                for failed in done.iter().flatten().filter_map(|done| done.as_ref().err()) {
                    assert!(is_expected(failed), "round {round}: {failed}");
                }
                let mut revived = Vec::new();
                for host in hosts {
                    let alive = host.process.alive();
                    revived.push(if alive { host } else { host.crash().start().await });
                }
                hosts = revived.try_into().unwrap_or_else(|_| panic!("two hosts"));
                let (there, kept) = (listed(&hosts[1]).await, in_trash(&hosts[0]).await);
                assert!(there.len() + kept.len() <= 1, "round {round}: {there:?} {kept:?}");
                assert!(purges || there.len() + kept.len() == 1, "round {round}: it is gone");
                if !kept.is_empty() {
                    Trash(&hosts[1].volumes).restore(&name("v"), None).await.unwrap();
                }
                if there.len() + kept.len() == 1 {
                    let v = hosts[1].volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                    assert!(v.read(0, 5000).await.unwrap() == data, "round {round}");
                    v.release().await.unwrap();
                }
            }
        });
    }
}

/// The name that a snapshot gave away is taken before that was recorded, and the host is cut off: the name is the new one's.
#[test]
fn a_name_that_was_given_away_is_the_new_ones_after_a_power_cut() {
    let mut hits = 0;
    for seed in 0..40 {
        let found = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let hit = found.clone();
        run(seed, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, bytes(1, 4096)).await.unwrap();
            snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
            v.write(0, bytes(2, 4096)).await.unwrap();
            let latency = (Duration::from_millis(1), Duration::from_millis(1 + site.world.below(60)));
            site.stores.iter().for_each(|s| s.faults(|f| f.latency = latency));
            let volumes = life.volumes.clone();
            let discard =
                life.rt.spawn(async move { Trash(&volumes).discard_snapshot(&name("v"), &name("s")).await });
            // As soon as the name is free.
            while snapshot_group(&[(v.clone(), name("s"))], false).await.is_err() {
                life.sleep(1).await;
            }
            drop(discard);
            let life = life.crash().start().await;
            life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            let s = life.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap();
            assert!(s.read(0, 4096).await.unwrap() == bytes(2, 4096), "seed {seed}");
            let gone = Trash(&life.volumes).snapshots(&name("v")).await.unwrap();
            assert_eq!(gone.len(), 1, "seed {seed}: {gone:?}");
            // Not recorded when the power failed: it went into the trash by the new one's mark.
            let late = gone[0].removed_ms == life.volumes.snapshots(&name("v")).await.unwrap()[0].created_ms;
            hit.fetch_add(u64::from(late), std::sync::atomic::Ordering::Relaxed);
        });
        hits += found.load(std::sync::atomic::Ordering::Relaxed);
    }
    assert!(hits > 0, "no seed cut it off in between");
}

/// Removed in order, clone first, as anybody does who clears up: what the clone needs goes into the trash behind it, and stays there as
/// long as the clone does.
#[test]
fn what_a_clone_in_the_trash_needs_goes_there_too() {
    run(5, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 9000)).await.unwrap();
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        life.volumes.clone_snapshot(&name("v"), &name("s"), &name("c")).await.unwrap();
        let trash = Trash(&life.volumes);
        assert!(trash.discard_snapshot(&name("v"), &name("s")).await.unwrap_err().is(Kind::Refused));
        assert!(trash.discard(&name("c")).await.unwrap());
        trash.discard_snapshot(&name("v"), &name("s")).await.unwrap();
        drop(v);
        assert!(trash.discard(&name("v")).await.unwrap());
        assert!(trash.purge(&name("v")).await.unwrap_err().is(Kind::Refused), "for good in the other order");
        // All of it comes back.
        trash.restore(&name("c"), None).await.unwrap();
        let c = life.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
        assert!(c.read(0, 9000).await.unwrap() == bytes(1, 9000));
        drop(c);
        assert!(trash.discard(&name("c")).await.unwrap());
        for _ in 0..2 {
            assert!(trash.empty(u64::MAX).await.failed.is_ok());
        }
        assert!(in_trash(&life).await.is_empty());
    });
}

/// Another snapshot has the name. Beside the restoring, which can only refuse, what is in the trash goes for good.
#[test]
fn a_snapshot_that_is_purged_beside_its_restoring_is_not_said_to_be_back() {
    for seed in 60..120 {
        run(seed, "2+1", |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            for byte in [1, 2] {
                v.write(0, bytes(byte, 4096)).await.unwrap();
                snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
                if byte == 1 {
                    Trash(&life.volumes).discard_snapshot(&name("v"), &name("s")).await.unwrap();
                }
            }
            let pause = Duration::from_millis(site.world.below(60));
            let restores = async {
                life.rt.sleep(pause).await;
                Trash(&life.volumes).restore_snapshot(&name("v"), &name("s"), None).await
            };
            let (v, s) = (name("v"), name("s"));
            let purges = Trash(&life.volumes);
            let (restored, purged) = futures::future::join(restores, purges.purge_snapshot(&v, &s)).await;
            let told = restored.unwrap_err();
            assert!(told.is(Kind::Exists) || told.is(Kind::NotFound), "{told}");
            assert_eq!(purged.unwrap(), 1);
        });
    }
}
