//! Checks of a volume that is written to, collected, or removed meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::join;

use super::site::Site;
use super::*;
use crate::checkpoint::check;
use windlass_base::Result;
use windlass_store::{Cause, Store as _};

const ORDER: Ordering = Ordering::Relaxed;

fn latency(site: &Site, ms: (u64, u64)) {
    let (least, most) = (Duration::from_millis(ms.0), Duration::from_millis(ms.1));
    site.stores.iter().for_each(|s| s.faults(|f| f.latency = (least, most)));
}

/// One block under each leaf of the map.
async fn overwrite(v: &Volume, round: u64) {
    for leaf in 0..64 {
        v.write(leaf * MIB, bytes(64 * round + leaf, 4096)).await.unwrap();
    }
    v.flush().await.unwrap();
}

/// Shards of chunks and packs.
fn objects(site: &Site) -> BTreeSet<String> {
    let keys = site.stores.iter().flat_map(|s| s.contents().keys());
    keys.filter(|k| k.contains("/c-") || k.contains("/p-")).collect()
}

fn clean(report: &CheckReport) {
    assert!(report.wrong.is_empty() && report.live_frames > 0, "{report:#?}");
}

/// An owner near the stores with its volume, and another host far from them: much is deleted between two of its requests.
async fn apart(site: &Site) -> (Life, Arc<Volume>, Life) {
    let mut far = site.clone();
    far.stores = site.stores.iter().map(|s| s.by_another_way()).collect();
    let owner = site.machine(1).found().await;
    let v = volume(&owner, FlushMode::Local).await;
    overwrite(&v, 0).await;
    owner.volumes.collect(&name("v")).await.unwrap();
    let other = far.machine(2).start().await;
    latency(site, (1, 3));
    latency(&far, (150, 150));
    (owner, v, other)
}

/// The owner overwrites and collects as long as it is told to.
async fn churn(owner: &Life, v: &Volume, go_on: impl Fn() -> bool) {
    let mut round = 10;
    while go_on() {
        overwrite(v, round).await;
        owner.volumes.collect(&name("v")).await.unwrap();
        round += 1;
    }
}

#[test]
fn what_a_check_elsewhere_was_yet_to_read_and_the_owner_deleted_is_no_damage() {
    for seed in 600..606 {
        run(seed, "2+1", move |mut site| async move {
            site = if seed % 2 == 1 { site.eager() } else { site };
            site.grace_ms = 0;
            let (owner, v, other) = apart(&site).await;
            let id = other.volumes.id(&name("v")).await.unwrap();
            let first = other.volumes.engine().cell(id).read().await.unwrap().unwrap();
            let until = owner.rt.now() + Duration::from_millis(2_500);
            let changes = churn(&owner, &v, || owner.rt.now() < until);
            let (checked, ()) = join(other.volumes.check(&name("v")), changes).await;
            clean(&checked.unwrap_or_else(|why| panic!("seed {seed}: {why}")));
            // By itself, what it began with gives this.
            let rounds = AtomicUsize::new(0);
            churn(&owner, &v, || rounds.fetch_add(1, ORDER) < 3).await;
            let gone = check(other.volumes.engine(), &first).await.unwrap_err();
            assert!(gone.is(Kind::Corrupt), "seed {seed}: {gone}");
        });
    }
}

#[test]
fn a_check_that_the_owner_outruns_names_the_host_to_run_it_on() {
    let outrun = Arc::new(AtomicUsize::new(0));
    for seed in 610..613 {
        let outrun = outrun.clone();
        run(seed, "2+1", move |mut site| async move {
            site.grace_ms = 0;
            let (owner, v, other) = apart(&site).await;
            let done = AtomicBool::new(false);
            let checked = async {
                let checked = other.volumes.check(&name("v")).await;
                done.store(true, ORDER);
                checked
            };
            let (checked, ()) = join(checked, churn(&owner, &v, || !done.load(ORDER))).await;
            match checked {
                Ok(report) => clean(&report),
                Err(why) => {
                    let text = why.to_string();
                    assert!(why.is(Kind::Unavailable) && text.contains("owner host1"), "seed {seed}: {text}");
                    assert!(text.contains("faster than it can be checked from here"), "seed {seed}: {text}");
                    outrun.fetch_add(1, ORDER);
                }
            }
            clean(&other.volumes.check(&name("v")).await.unwrap());
        });
    }
    assert!(outrun.load(ORDER) > 0, "no check had to begin anew");
}

#[test]
fn a_check_of_a_volume_that_is_removed_meanwhile_says_so() {
    let met = Arc::new(AtomicUsize::new(0));
    for n in 0..8 {
        let met = met.clone();
        run(620 + n, "2+1", move |mut site| async move {
            site.grace_ms = 0;
            let (owner, _v, other) = apart(&site).await;
            let removal = async {
                owner.sleep(250 * n).await;
                owner.volumes.remove(&name("v")).await.unwrap();
            };
            let at = if n % 2 == 0 { &owner } else { &other };
            let checked: Result<CheckReport> = join(at.volumes.check(&name("v")), removal).await.0;
            match checked {
                Ok(report) => clean(&report),
                Err(why) => {
                    assert!(why.is(Kind::NotFound), "{n}: {why}");
                    met.fetch_add(usize::from(why.to_string().contains("was removed")), ORDER);
                }
            }
        });
    }
    assert!(met.load(ORDER) > 0, "none came in between");
}

#[test]
fn what_is_retired_while_somebody_reads_is_deleted_after_that() {
    run(630, "2+1", |mut site| async move {
        site.grace_ms = 0;
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        overwrite(&v, 0).await;
        life.volumes.collect(&name("v")).await.unwrap();
        let session = v.session().await.unwrap();
        let before = objects(&site);
        let (kept, other) = (session.keep_retired(), session.keep_retired());
        for round in 1..5 {
            overwrite(&v, round).await;
            session.checkpoint_surely(&[]).await.unwrap();
        }
        life.sleep(5_000).await;
        assert!(session.retired.lock().waiting() > 0 && kept.holds());
        assert!(objects(&site).is_superset(&before), "a checkpoint was made, and nothing deleted");
        drop(kept);
        life.sleep(5_000).await;
        assert!(objects(&site).is_superset(&before), "another still reads");
        drop(other);
        life.sleep(5_000).await;
        assert_eq!(session.retired.lock().waiting(), 0);
        assert!(!objects(&site).is_superset(&before));
    });
}

/// So long that checkpoints are made meanwhile: each of these snapshots has a map of its own.
async fn with_snapshots(life: &Life) {
    let v = volume(life, FlushMode::Local).await;
    for round in 0..16 {
        overwrite(&v, round).await;
        snapshot_group(&[(v.clone(), name(&format!("s{round}")))], true).await.unwrap();
    }
    overwrite(&v, 16).await;
    v.release().await.unwrap();
}

#[test]
fn checkpoints_go_on_while_the_owner_checks_and_what_they_retire_is_deleted_afterwards() {
    for seed in 640..644 {
        run(seed, "2+1", move |mut site| async move {
            let eager = seed % 2 == 1;
            site = if eager { site.eager() } else { site };
            site.grace_ms = 0;
            let life = site.machine(1).found().await;
            with_snapshots(&life).await;
            // Nothing of the maps is in memory then.
            let life = life.crash().start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            overwrite(&v, 17).await;
            life.volumes.collect(&name("v")).await.unwrap();
            let session = v.session().await.unwrap();
            let before = objects(&site);
            latency(&site, (100, 100));
            let (done, mut made) = (AtomicBool::new(false), 0);
            let checked = async {
                let checked = life.volumes.check(&name("v")).await;
                done.store(true, ORDER);
                checked
            };
            let changes = async {
                // It has come to the head, so that what it reads stays.
                life.sleep(1_000).await;
                for round in 20.. {
                    overwrite(&v, round).await;
                    session.checkpoint_surely(&[]).await.unwrap();
                    if done.load(ORDER) {
                        return;
                    }
                    made += 1;
                    assert!(session.retired.lock().waiting() > 0, "seed {seed}");
                    assert!(objects(&site).is_superset(&before), "seed {seed}: deleted too early");
                }
            };
            let (checked, ()) = join(checked, changes).await;
            clean(&checked.unwrap_or_else(|why| panic!("seed {seed}: {why}")));
            assert!(made > 0 || eager, "seed {seed}: no checkpoint while it was checked");
            latency(&site, (1, 3));
            life.volumes.collect(&name("v")).await.unwrap();
            assert!(!objects(&site).is_superset(&before), "seed {seed}");
            clean(&life.volumes.check(&name("v")).await.unwrap());
        });
    }
}

/// A chunk without enough shards is told as bytes of the volume, of its snapshot and of the clone that read them.
#[test]
fn what_is_lost_is_told_as_ranges_of_volumes_snapshots_and_clones() {
    run(640, "2+1", |site| async move {
        let owner = site.machine(1).found().await;
        let v = volume(&owner, FlushMode::Pool).await;
        v.write(8 * MIB, bytes(1, 64 << 10)).await.unwrap();
        v.write(9 * MIB, bytes(2, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let before = objects(&site);
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        owner.volumes.clone_snapshot(&name("v"), &name("s"), &name("c")).await.unwrap();
        v.zero(8 * MIB, MIB).await.unwrap();
        v.write(20 * MIB, bytes(3, 4096)).await.unwrap();
        v.flush().await.unwrap();
        owner.sleep(70_000).await;
        let pool = &owner.volumes.engine().pool;
        let scrub = || pool.scrub(&owner.volumes, Default::default(), &|_| {});
        assert!(owner.volumes.unreadable(&scrub().await.unwrap().lost(1, &[])).await.unwrap().is_empty());
        for store in &site.stores[..2] {
            let gone: Vec<_> = before.iter().cloned().collect();
            store.contents().delete(&gone, Cause::Walk).await.unwrap();
        }
        let lost = scrub().await.unwrap().lost(1, &[]);
        assert!(!lost.is_empty());
        let told = owner.volumes.unreadable(&lost).await.unwrap();
        let told: Vec<_> = told
            .iter()
            .map(|t| {
                (t.volume.to_string(), t.snapshot.clone(), &t.ranges[..], t.bytes, t.told == MapWalk::Whole)
            })
            .collect();
        let (all, tail) = ([8 * MIB..8 * MIB + (64 << 10), 9 * MIB..9 * MIB + 4096], 9 * MIB..9 * MIB + 4096);
        assert_eq!(
            told,
            [
                ("c".to_owned(), None, &all[..], 68 << 10, true),
                ("v".to_owned(), None, &[tail][..], 4096, true),
                ("v".to_owned(), Some(name("s")), &all[..], 68 << 10, true),
            ]
        );
    });
}
