//! Clones that are made independent of their parents.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use windlass_base::{Error, Result};

async fn snap(v: &Arc<Volume>, s: &str) {
    snapshot_group(&[(v.clone(), name(s))], true).await.unwrap();
}

async fn flatten(life: &Life, volume: &str) -> Result<Flattened> {
    life.volumes.flatten(&name(volume), Flattening { rate: None, progress: &|_| {} }).await
}

async fn checked(life: &Life, volume: &str) {
    let report = life.volumes.check(&name(volume)).await.unwrap();
    assert!(report.wrong.is_empty(), "{report:#?}");
}

/// A parent `v` with some data and its clone `c`; what that shows.
async fn cloned(life: &Life, seed: u64) -> (Arc<Volume>, Vec<u8>) {
    let v = volume(life, FlushMode::Local).await;
    let mut image = vec![0; 3 * MIB as usize];
    for (at, len) in [(0, 700_000), (1_200_000, 4096), (2_000_000 / 4096 * 4096, 1_000_000 / 4096 * 4096)] {
        let data = bytes(seed + 1, len);
        v.write(at as u64, data.clone()).await.unwrap();
        image[at..at + len].copy_from_slice(&data);
    }
    snap(&v, "a").await;
    v.write(0, bytes(77, 100_000)).await.unwrap();
    life.volumes.clone_snapshot(&name("v"), &name("a"), &name("c")).await.unwrap();
    let c = life.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
    (c, image)
}

#[test]
fn a_flat_clone_outlives_its_parent() {
    run(1, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let (c, mut image) = cloned(&life, 0).await;
        assert!(flatten(&life, "v").await.unwrap_err().is(Kind::Refused), "it is no clone");
        c.write(4096, bytes(5, 8192)).await.unwrap();
        image[4096..12288].copy_from_slice(&bytes(5, 8192));
        snap(&c, "before").await;
        let chain = life.volumes.info(&name("c")).await.unwrap().chain;
        assert_eq!(chain.len(), 1);
        let told = AtomicU64::new(0);
        let progress = |done: u64| {
            told.fetch_max(done, Ordering::Relaxed);
        };
        let how = Flattening { rate: Some(1 << 20), progress: &progress };
        let began = life.rt.now();
        let done = life.volumes.flatten(&name("c"), how).await.unwrap();
        let took = life.rt.now().since(began).as_secs_f64();
        assert_eq!(done.holders, [name("before")]);
        let due = done.bytes as f64 / f64::from(1 << 20);
        assert!(done.bytes > 1_500_000 && (due * 0.7..due * 1.5).contains(&took), "{done:?} in {took}");
        assert!(told.load(Ordering::Relaxed) > 2_000_000);
        assert_eq!(flatten(&life, "c").await.unwrap().bytes, 0, "nothing is left to do");
        let refused = life.volumes.remove(&name("v")).await.unwrap_err();
        assert!(refused.is(Kind::Refused), "{refused}");
        life.volumes.remove_snapshot(&name("c"), &name("before")).await.unwrap();
        assert_eq!(life.volumes.info(&name("c")).await.unwrap().parent, None);
        assert_eq!(life.volumes.info_with(&name("v"), true).await.unwrap().clones, Some(0));
        life.volumes.remove(&name("v")).await.unwrap();
        life.sleep(60_000).await;
        assert!(c.read(0, image.len() as u64).await.unwrap() == image);
        checked(&life, "c").await;
        life.volumes.release(&name("c")).await.unwrap();
        let other = site.machine(2).start().await;
        let c = other.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
        assert!(c.read(0, image.len() as u64).await.unwrap() == image);
        snap(&c, "x").await;
        other.volumes.clone_snapshot(&name("c"), &name("x"), &name("d")).await.unwrap();
        let d = other.volumes.open(&name("d"), OpenMode::Normal).await.unwrap();
        assert!(d.read(0, image.len() as u64).await.unwrap() == image);
        other.volumes.remove(&name("d")).await.unwrap();
        other.volumes.remove(&name("c")).await.unwrap();
    });
}

/// Beside writes, snapshots, rollbacks, collection and power cuts, with the parent removed as soon as that is allowed.
#[test]
fn flattening_beside_everything() {
    for seed in 0..24 {
        run(seed, ["2+1", "1+0", "4+2"][seed as usize % 3], |site| async move {
            let site = if seed % 4 > 0 { site.eager() } else { site };
            let world = site.world.clone();
            let mut life = site.machine(1).found().await;
            let (mut c, mut image) = cloned(&life, seed).await;
            let mut snaps: std::collections::BTreeMap<String, Vec<u8>> = Default::default();
            let mut parent = true;
            for step in 0..50u64 {
                let volumes = life.volumes.clone();
                let flattening = (world.below(4) == 0).then(|| {
                    let (rt, patience) = (life.rt.clone(), Duration::from_millis(1 + world.below(400)));
                    life.rt.spawn(async move {
                        let how = Flattening { rate: Some(8 << 20), progress: &|_| {} };
                        let done = rt.timeout(patience, volumes.flatten(&name("c"), how)).await;
                        Ok::<_, Error>(done)
                    })
                });
                for _ in 0..world.below(4) {
                    let len = 1 + world.below(60_000);
                    let at = world.below(image.len() as u64 - len);
                    let data = bytes(1000 + step, len as usize);
                    c.write(at, data.clone()).await.unwrap();
                    image[at as usize..][..len as usize].copy_from_slice(&data);
                    life.sleep(world.below(20)).await;
                }
                let some = snaps.keys().nth(world.below(snaps.len().max(1) as u64) as usize).cloned();
                match (world.below(9), some) {
                    (0, _) => {
                        snap(&c, &format!("s{step}")).await;
                        snaps.insert(format!("s{step}"), image.clone());
                    }
                    (1, Some(gone)) => {
                        life.volumes.remove_snapshot(&name("c"), &name(&gone)).await.unwrap();
                        snaps.remove(&gone);
                    }
                    (2, Some(to)) => {
                        let keep = (world.below(2) == 0).then(|| name(&format!("k{step}")));
                        life.volumes.roll_back(&name("c"), &name(&to), keep.as_ref()).await.unwrap();
                        let before = std::mem::replace(&mut image, snaps[&to].clone());
                        keep.into_iter().for_each(|k| drop(snaps.insert(k.to_string(), before.clone())));
                    }
                    (3, _) => {
                        c.flush().await.unwrap();
                        drop(c);
                        life = life.crash().start().await;
                        c = life.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
                    }
                    (4, _) if parent => match life.volumes.remove(&name("v")).await {
                        Ok(()) => parent = false,
                        Err(e) => assert!(e.is(Kind::Refused), "{e}"),
                    },
                    _ => life.sleep(world.below(40_000)).await,
                }
                if let Some(flattening) = flattening {
                    // Ended with its process, given up, or done.
                    if let Ok(Ok(Some(Err(e)))) = flattening.await {
                        assert!(e.is(Kind::Closed) || e.is(Kind::Unavailable), "seed {seed}: {e}");
                    }
                }
                assert!(c.read(0, image.len() as u64).await.unwrap() == image, "seed {seed}, step {step}");
            }
            flatten(&life, "c").await.unwrap();
            for (s, image) in &snaps {
                let view = life.volumes.open_snapshot(&name("c"), &name(s)).await.unwrap();
                assert!(view.read(0, image.len() as u64).await.unwrap() == *image, "seed {seed}, {s}");
            }
            for gone in snaps.keys() {
                life.volumes.remove_snapshot(&name("c"), &name(gone)).await.unwrap();
            }
            if parent {
                life.volumes.remove(&name("v")).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            }
            life.sleep(90_000).await;
            c.release().await.unwrap();
            checked(&life, "c").await;
            let other = site.machine(2).start().await;
            let c = other.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
            assert!(c.read(0, image.len() as u64).await.unwrap() == image, "seed {seed}");
        });
    }
}

/// Nobody who writes waits for the pace of flattening.
#[test]
fn a_slow_flattening_holds_up_no_write() {
    run(4, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let (c, _) = cloned(&life, 0).await;
        c.write(0, bytes(9, 4096)).await.unwrap();
        let volumes = life.volumes.clone();
        let slow = life.rt.spawn(async move {
            let how = Flattening { rate: Some(100_000), progress: &|_| {} };
            volumes.flatten(&name("c"), how).await
        });
        let mut slowest = Duration::ZERO;
        for i in 0..400u64 {
            let began = life.rt.now();
            c.write(i * 4096 % 2_900_000, bytes(i, 4096)).await.unwrap();
            slowest = slowest.max(life.rt.now().since(began));
            life.sleep(20).await;
        }
        assert!(slowest < Duration::from_millis(500), "{slowest:?}");
        drop(slow);
    });
}
