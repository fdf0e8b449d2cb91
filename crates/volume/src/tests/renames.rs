//! Volumes renamed, beside everything else that is done with names, and by hosts that are killed at any step.

use std::collections::{BTreeMap, BTreeSet};

use super::clones::command;
use super::*;
use windlass_base::VolumeId;
use windlass_base::{Error, Result};
use windlass_pool::NameEntry;

async fn names(life: &Life) -> BTreeMap<Name, VolumeId> {
    let listed = life.volumes.list(Duration::from_secs(30)).await.unwrap();
    listed.into_iter().map(|(name, info)| (name, info.unwrap().id)).collect()
}

#[test]
fn a_volume_that_is_renamed_keeps_clients_snapshots_and_clones() {
    run(1, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = volume(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, 9000)).await.unwrap();
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        life.volumes.clone_snapshot(&name("v"), &name("s"), &name("c")).await.unwrap();
        // By another host, while clients write.
        rename(&other.volumes, &name("v"), &name("w")).await.unwrap();
        v.write(9000, bytes(2, 9000)).await.unwrap();
        v.flush().await.unwrap();
        assert_eq!(v.name(), name("w"), "the owner has seen it when it confirmed");
        assert!(other.volumes.info(&name("v")).await.unwrap_err().is(Kind::NotFound));
        let info = life.volumes.info_with(&name("w"), true).await.unwrap();
        assert!(info.open_here && info.snapshots == 1 && info.clones == Some(1), "{info:?}");
        assert!(std::sync::Arc::ptr_eq(&v, &life.volumes.open(&name("w"), OpenMode::Normal).await.unwrap()));
        // Of a clone it is told what its parent is called now, alone and in a list.
        let parent = |info: &VolumeInfo| info.parent.clone().unwrap().name;
        assert_eq!(parent(&life.volumes.info(&name("c")).await.unwrap()), Some(name("w")));
        let list = other.volumes.list(Duration::from_secs(30)).await.unwrap();
        assert_eq!(parent(list[0].1.as_ref().unwrap()), Some(name("w")));
        // Another takes the old name. What this host knows of the snapshot that it cloned is not taken for the other's.
        let new = volume(&other, FlushMode::Local).await;
        new.write(0, bytes(7, 4096)).await.unwrap();
        snapshot_group(&[(new.clone(), name("s"))], true).await.unwrap();
        other.volumes.release(&name("v")).await.unwrap();
        life.volumes.clone_snapshot(&name("v"), &name("s"), &name("d")).await.unwrap();
        let d = life.volumes.open(&name("d"), OpenMode::Normal).await.unwrap();
        assert!(d.read(0, 4096).await.unwrap() == bytes(7, 4096));
        let snapshots = life.volumes.snapshots(&name("w")).await.unwrap();
        assert_eq!(snapshots[0].clones, ["c"], "what was pinned by mistake is free again");
        // Taken, and there and back.
        let taken = rename(&life.volumes, &name("w"), &name("v")).await.unwrap_err();
        assert!(taken.is(Kind::Exists), "{taken}");
        for (from, to) in [("w", "x"), ("x", "w"), ("w", "w"), ("w", "x"), ("x", "w")] {
            rename(&life.volumes, &name(from), &name(to)).await.unwrap();
        }
        assert!(rename(&life.volumes, &name("x"), &name("y")).await.unwrap_err().is(Kind::NotFound));
        let shown: Vec<_> = names(&life).await.into_keys().collect();
        assert_eq!(shown, ["c", "d", "v", "w"].map(name));
        assert_eq!(life.volumes.engine().pool.name_entries().await.unwrap().len(), 4);
        v.write(0, bytes(3, 100)).await.unwrap();
        v.flush().await.unwrap();
        life.volumes.release(&name("w")).await.unwrap();
        life.volumes.remove(&name("c")).await.unwrap();
        life.volumes.remove(&name("w")).await.unwrap();
        assert_eq!(life.volumes.engine().pool.name_entries().await.unwrap().len(), 2);
    });
}

#[test]
fn what_a_rename_left_behind_is_found_and_healed() {
    run(2, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        let (pool, id) = (life.volumes.engine().pool.clone(), v.id());
        let put = async |text: &str, serial| {
            let entry = NameEntry { volume: id, serial };
            assert_eq!(pool.insert_name(&name(text), entry, None).await.unwrap(), entry);
        };
        // Broken off before the head was changed: both names open it, one is listed.
        put("w", 1).await;
        assert_eq!(life.volumes.open(&name("w"), OpenMode::Normal).await.unwrap().id(), id);
        assert_eq!(names(&life).await, BTreeMap::from([(name("v"), id)]));
        // Whoever wants that name gets it, and the rename can't come after all.
        life.volumes.create(&name("w"), MIB, small(FlushMode::Local)).await.unwrap();
        let head = life.volumes.engine().cell(id).read().await.unwrap().unwrap();
        assert!(head.rename(&name("w"), 0).unwrap_err().is(Kind::Owned));
        assert_eq!(names(&life).await.len(), 2);
        // One that is pending is finished by the same command, given up by another.
        put("x", 2).await;
        rename(&life.volumes, &name("x"), &name("x")).await.unwrap();
        put("y", 3).await;
        rename(&life.volumes, &name("y"), &name("z")).await.unwrap();
        assert_eq!(names(&life).await.into_keys().collect::<Vec<_>>(), ["w", "z"].map(name));
        // Broken off after the head was changed: the listing shows the new name, and removes the old one.
        put("old", 1).await;
        assert_eq!(life.volumes.info(&name("old")).await.unwrap().id, id);
        assert_eq!(names(&life).await.get(&name("z")), Some(&id));
        assert_eq!(pool.name_entries().await.unwrap().len(), 2);
        // The dead entry of a name that the volume gets back is put anew.
        put("v", 1).await;
        rename(&life.volumes, &name("z"), &name("v")).await.unwrap();
        assert_eq!(pool.name_entry(&name("v")).await.unwrap().map(|entry| entry.serial), Some(4));
        // Removed under a name that is left over, it is gone under all.
        put("left", 1).await;
        life.volumes.remove(&name("left")).await.unwrap();
        assert_eq!(names(&life).await.into_keys().collect::<Vec<_>>(), [name("w")]);
        assert_eq!(pool.name_entries().await.unwrap().len(), 1);
    });
}

/// Commands on names by two hosts at once, either of which may be killed at any step.
#[test]
fn whoever_is_killed_every_volume_has_one_name() {
    // RENAMES=SEED[..END] replays.
    for seed in seeds("RENAMES", "0..12") {
        eprintln!("RENAMES={seed}");
        run(seed, ["2+1", "1+0", "4+2"][seed as usize % 3], |site| async move {
            let mut hosts = [site.machine(1).found().await, site.machine(2).start().await];
            let mut v = volume(&hosts[0], FlushMode::Local).await;
            let all = ["v", "a", "b"].map(name);
            for round in 0..10u64 {
                let latency = (Duration::from_millis(1), Duration::from_millis(1 + site.world.below(60)));
                site.stores.iter().for_each(|s| s.faults(|f| f.latency = latency));
                let data = bytes(round, 5000);
                v.write(0, data.clone()).await.unwrap();
                v.flush().await.unwrap();
                let work = [0, 1, 0, 1].map(|host| {
                    let (volumes, all) = (hosts[host].volumes.clone(), all.clone());
                    let [what, from, to] = [3, 3, 3].map(|n| site.world.below(n) as usize);
                    let work = async move {
                        match what {
                            0 | 1 => rename(&volumes, &all[from], &all[to]).await,
                            _ => volumes.create(&all[to], MIB, small(FlushMode::Local)).await.map(drop),
                        }
                    };
                    command::<()>(&site, &hosts[host], work)
                });
                let done = futures::future::join_all(work).await;
                let is_expected = |e: &Error| {
                    matches!(e.kind(), Kind::NotFound | Kind::Exists | Kind::Owned | Kind::Removed)
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
                check_names(&hosts, v.id(), &all, round).await.unwrap();
                // Under its one name it has what was written; the other volumes make room for the next round.
                let listed = names(&hosts[0]).await;
                let own = listed.iter().find(|(_, id)| **id == v.id()).map(|(name, _)| name.clone()).unwrap();
                for other in listed.into_keys().filter(|other| *other != own) {
                    hosts[1].volumes.remove(&other).await.unwrap();
                }
                v = hosts[0].volumes.open(&own, OpenMode::Normal).await.unwrap();
                assert!(v.read(0, 5000).await.unwrap() == data, "round {round}");
                assert!(v.name() == own || !v.is_failed(), "round {round}");
            }
        });
    }
}

/// The volume is listed once, under a name that opens it, and every other name can be had.
async fn check_names(hosts: &[Life; 2], id: VolumeId, all: &[Name], round: u64) -> Result<()> {
    let listed = names(&hosts[1]).await;
    let ids: BTreeSet<VolumeId> = listed.values().copied().collect();
    assert_eq!(ids.len(), listed.len(), "round {round}: a volume is listed twice: {listed:?}");
    assert!(ids.contains(&id), "round {round}: the volume has no name: {listed:?}");
    for (name, id) in &listed {
        assert_eq!(hosts[0].volumes.info(name).await?.id, *id, "round {round}: {name}");
    }
    for free in all.iter().filter(|name| !listed.contains_key(name)) {
        hosts[0].volumes.create(free, MIB, small(FlushMode::Local)).await?;
        hosts[1].volumes.remove(free).await?;
    }
    assert_eq!(names(&hosts[0]).await, listed, "round {round}");
    let left = hosts[0].volumes.engine().pool.name_entries().await?;
    assert_eq!(left.len(), listed.len(), "round {round}: {left:?}");
    Ok(())
}
