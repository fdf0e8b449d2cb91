//! What is told of space agrees with what a walk over the maps finds.

use super::*;

/// A volume with snapshots `s0` to `s5` and random writes between them, all of it in a checkpoint.
async fn with_snapshots(life: &Life, site: &site::Site) -> std::sync::Arc<Volume> {
    let v = volume(life, FlushMode::Local).await;
    for round in 0..6 {
        for i in 0..20 {
            let at = site.world.below(300) * 4096;
            match site.world.below(4) {
                0 => v.zero(at, 8 * 4096).await.unwrap(),
                _ => v
                    .write(at, bytes(round * 100 + i, 4096 * (1 + site.world.below(8) as usize)))
                    .await
                    .unwrap(),
            }
        }
        snapshot_group(&[(v.clone(), name(&format!("s{round}")))], true).await.unwrap();
    }
    v.write(0, bytes(999, 200_000)).await.unwrap();
    life.volumes.collect(&name("v")).await.unwrap();
    v
}

async fn needed(life: &Life) -> u64 {
    let report = life.volumes.check(&name("v")).await.unwrap();
    assert!(report.wrong.is_empty(), "{:?}", report.wrong);
    report.live_bytes
}

#[test]
fn what_a_snapshot_frees_is_what_goes_with_it() {
    for seed in 0..6 {
        run(seed, "2+1", |site| async move {
            let life = site.machine(1).found().await;
            let v = with_snapshots(&life, &site).await;
            let mut left: Vec<Name> = (0..6).map(|i| name(&format!("s{i}"))).collect();
            let all = life.volumes.freed(&name("v"), None).await.unwrap();
            let (mut oldest, first) = (0, needed(&life).await);
            assert!(all.values().any(|frees| frees.alone > Some(0)), "{all:?}");
            while !left.is_empty() {
                let before = needed(&life).await;
                let frees = life.volumes.freed(&name("v"), None).await.unwrap();
                // Sometimes one from the middle: then the sums with older ones are others.
                let at = if seed % 2 == 0 { 0 } else { site.world.below(left.len() as u64) as usize };
                let gone = left.remove(at);
                life.volumes.remove_snapshot(&name("v"), &gone).await.unwrap();
                let freed = before - needed(&life).await;
                assert_eq!(frees[&gone].alone, Some(freed), "{gone}: {frees:?}");
                if seed % 2 == 0 {
                    oldest += freed;
                    assert_eq!(all[&gone].with_older, Some(oldest), "{gone}: {all:?}");
                }
            }
            assert!(first > needed(&life).await && v.read(0, 200_000).await.unwrap() == bytes(999, 200_000));
        });
    }
}

#[test]
fn a_range_frees_what_its_snapshots_share_as_well() {
    run(20, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        with_snapshots(&life, &site).await;
        let from = life.volumes.freed(&name("v"), Some(&name("s2"))).await.unwrap();
        assert_eq!(
            (from[&name("s1")].with_older, from[&name("s2")].with_older),
            (None, from[&name("s2")].alone)
        );
        assert!(life.volumes.freed(&name("v"), Some(&name("s9"))).await.unwrap_err().is(Kind::NotFound));
        let before = needed(&life).await;
        for gone in ["s4", "s2", "s3"] {
            life.volumes.remove_snapshot(&name("v"), &name(gone)).await.unwrap();
        }
        assert_eq!(from[&name("s4")].with_older, Some(before - needed(&life).await), "{from:?}");
    });
}

#[test]
fn what_clones_may_need_is_told_from_what_is_the_volumes_own() {
    run(21, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, 1 << 20)).await.unwrap();
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        v.write(8 << 20, bytes(2, 2 << 20)).await.unwrap();
        let own = |info: &VolumeInfo| (info.shared_bytes.unwrap() >> 20, info.exclusive_bytes.unwrap() >> 20);
        life.volumes.collect(&name("v")).await.unwrap();
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert_eq!(own(&info), (0, 3), "{info:?}");
        assert_eq!(info.stored_with_parity_bytes, info.stored_bytes * 3 / 2);
        let clone = life.volumes.clone_snapshot(&name("v"), &name("s"), &name("c")).await.unwrap();
        let parent = clone.parent.unwrap();
        assert_eq!((parent.mapped_bytes, clone.stored_bytes), (1 << 20, 0));
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert_eq!(own(&info), (1, 2), "{info:?}");
        assert_eq!(info.shared_bytes.unwrap() + info.exclusive_bytes.unwrap(), info.live_bytes.unwrap());
    });
}

async fn quota(life: &Life, size: &str) {
    life.volumes.set(&name("v"), &[format!("quota={size}")]).await.unwrap();
}

#[test]
fn above_its_quota_a_volume_takes_no_new_blocks_but_overwrites_and_trims() {
    for seed in 30..33 {
        run(seed, "2+1", |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, bytes(1, 1 << 20)).await.unwrap();
            quota(&life, "2M").await;
            // Over and over: what is there takes nothing.
            for i in 0..10 {
                v.write(0, bytes(i, 1 << 20)).await.unwrap();
            }
            v.write(2 << 20, bytes(2, 1 << 20)).await.unwrap();
            if seed == 31 {
                life.volumes.collect(&name("v")).await.unwrap();
            }
            for (at, len) in [(8 << 20, 4096), (3 << 20, 100), ((3 << 20) - 100, 200)] {
                let refused = v.write(at, bytes(3, len)).await.unwrap_err();
                assert!(
                    refused.is(Kind::NoSpace) && refused.to_string().contains("quota of 2M"),
                    "{refused}"
                );
            }
            v.write((2 << 20) + 100, bytes(4, 5000)).await.unwrap();
            v.write(8 << 20, vec![0; 1 << 20].into()).await.unwrap();
            v.flush().await.unwrap();
            life.sleep(15_000).await;
            let told = life.volumes.info(&name("v")).await.unwrap();
            assert!(told.trouble.unwrap().contains("quota"), "all of it is used");
            // A trim makes room, for as much and no more.
            v.zero(0, 8192).await.unwrap();
            v.write(12 << 20, bytes(5, 8192)).await.unwrap();
            assert!(v.write(16 << 20, bytes(6, 1)).await.unwrap_err().is(Kind::NoSpace));
            if seed == 32 {
                v.flush().await.unwrap();
                let life = life.crash().start().await;
                let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                assert!(
                    v.write(16 << 20, bytes(6, 1)).await.unwrap_err().is(Kind::NoSpace),
                    "of the volume, not the run"
                );
                v.write(0, bytes(6, 8192)).await.unwrap_err();
                return;
            }
            v.zero(2 << 20, 1 << 20).await.unwrap();
            life.sleep(15_000).await;
            assert_eq!(life.volumes.info(&name("v")).await.unwrap().trouble, None);
            quota(&life, "none").await;
            v.write(0, bytes(7, 8 << 20)).await.unwrap();
        });
    }
}

/// A quota that is set below what is mapped, and a write that it refuses before anything was counted.
#[test]
fn a_write_that_the_quota_refuses_is_told_by_the_volume() {
    run(35, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 2 << 20)).await.unwrap();
        quota(&life, "1M").await;
        assert!(v.write(4 << 20, bytes(2, 4096)).await.unwrap_err().is(Kind::NoSpace));
        life.sleep(1000).await;
        let told = life.volumes.info(&name("v")).await.unwrap();
        assert!(told.trouble.as_ref().is_some_and(|why| why.contains("quota")), "{:?}", told.trouble);
    });
}

#[test]
fn many_writers_stay_within_the_quota() {
    run(34, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        quota(&life, "1M").await;
        let writes = (0..600u64).map(|i| {
            let v = &v;
            async move { v.write(i * 4096, bytes(i, 4096)).await.map_err(|e| e.kind()) }
        });
        let done = futures::future::join_all(writes).await;
        assert_eq!(done.iter().filter(|one| one.is_ok()).count(), 256);
        assert!(done.iter().all(|one| one.is_ok() || *one == Err(Kind::NoSpace)));
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().mapped_bytes, 1 << 20);
    });
}

/// What all volumes store together reaches the pool's quota: what needs space fails, the rest goes on, and all goes on when there is
/// space again.
#[test]
fn a_pool_takes_no_more_than_its_quota() {
    run(30, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        life.volumes.create(&name("w"), 64 * MIB, small(FlushMode::Local)).await.unwrap();
        let w = life.volumes.open(&name("w"), OpenMode::Normal).await.unwrap();
        let pool = life.volumes.engine().pool.clone();
        pool.set(|settings| settings.assign("quota=6M")).await.unwrap();
        // As the daemon does.
        let (volumes, rt) = (life.volumes.clone(), life.rt.clone());
        life.rt
            .spawn(async move {
                loop {
                    volumes.count_quota().await;
                    rt.sleep(Duration::from_secs(1)).await;
                }
            })
            .detach();
        life.sleep(2_000).await;
        let part = 64 << 10;
        let mut fits = 0;
        let full = loop {
            match v.write(fits * part, bytes(fits, part as usize)).await {
                Ok(()) => fits += 1,
                Err(e) => break e,
            }
            assert!(fits < 100, "6 MiB with parity are 4 without");
        };
        assert!(full.is(Kind::NoSpace) && full.to_string().contains("pool tank has a quota of 6M"), "{full}");
        assert!((50..=64).contains(&fits), "{fits} parts of 64 KiB, and what is needed beside them");
        // Neither this volume nor another takes more; what is there can be changed, and read.
        assert!(w.write(0, bytes(1, 4096)).await.unwrap_err().is(Kind::NoSpace));
        v.write(0, bytes(7, part as usize)).await.unwrap();
        v.flush().await.unwrap();
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        assert!(v.read(0, part).await.unwrap() == bytes(7, part as usize));
        life.volumes.remove_snapshot(&name("v"), &name("s")).await.unwrap();
        // Trimmed and collected there is room again, for everybody.
        v.zero(0, 30 * part).await.unwrap();
        life.volumes.collect(&name("v")).await.unwrap();
        w.write(0, bytes(1, 4096)).await.unwrap();
        v.write(0, bytes(8, part as usize)).await.unwrap();
        // Taken back it binds nobody.
        pool.set(|settings| settings.assign("quota=none")).await.unwrap();
        pool.quota().ask();
        life.sleep(5_000).await;
        for i in 0..100 {
            v.write(i * part, bytes(i, part as usize)).await.unwrap();
        }
    });
}
