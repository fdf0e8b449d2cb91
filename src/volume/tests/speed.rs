//! Figures of the volume alone, on real threads, a real disk for the journal and stores in memory:
//! `cargo test --release --lib -- --ignored --nocapture volume::tests::speed`.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::base::HostId;
use crate::base::rt::{RealDisk, RealRuntime};
use crate::pool::{CreateOptions, OnlyNamed, Pool, PoolHost, PoolStore};
use crate::store::{MemStore, Store as _};

pub async fn life(dir: &Path, layout: &str) -> Volumes {
    let (rt, disk) = (Rt::new(RealRuntime::current()), RealDisk::start());
    let layout: crate::pool::Layout = layout.parse().unwrap();
    let spec = |i: usize| {
        let bucket = MemStore::new(&format!("s{i}"));
        PoolStore { url: bucket.url().to_owned(), zone: None, bucket }
    };
    let host = PoolHost {
        rt: rt.clone(),
        disk: disk.clone(),
        folder: dir.join("pool"),
        opener: Arc::new(OnlyNamed),
    };
    let specs = (0..layout.n()).map(spec).collect();
    let pool = Pool::create(host, name("tank"), layout, specs, CreateOptions::default()).await.unwrap();
    let host = Host { id: HostId(1), name: "host".into() };
    let (dir, memory, tuning) = (dir.join("volumes"), Memory::new(1 << 30), Tuning::default());
    Volumes::new(EngineContext { rt, disk, pool, dir, host, memory, tuning, sweeps: Default::default() })
}

fn told(what: &str, bytes: u64, count: u64, began: std::time::Duration) {
    let s = began.as_secs_f64();
    println!("{what:40} {:9.0} op/s {:9.1} MiB/s", count as f64 / s, bytes as f64 / s / MIB as f64);
}

async fn random(v: &Arc<Volume>, rt: &Rt, depth: u64, ops: u64, write: bool, what: &str) {
    let began = rt.now();
    let tasks: Vec<_> = (0..depth)
        .map(|_| {
            let (v, rt2) = (v.clone(), rt.clone());
            rt.spawn(async move {
                let data = bytes(rt2.random(), 4096);
                for _ in 0..ops / depth {
                    let at = rt2.below(v.size() / 4096) * 4096;
                    if write {
                        v.write(at, data.clone()).await.unwrap();
                    } else {
                        v.read(at, 4096).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for t in tasks {
        t.await.unwrap();
    }
    told(what, ops * 4096, ops, rt.now().since(began));
}

#[test]
#[ignore = "figures, not a test"]
fn figures() {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for layout in ["1+0", "4+2"] {
        let dir = tempfile::tempdir().unwrap();
        tokio.block_on(async {
            let volumes = life(dir.path(), layout).await;
            let rt = volumes.engine().rt.clone();
            volumes.create(&name("v"), 1 << 30, VolumeSettings::default()).await.unwrap();
            let v = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            println!("{layout}");
            let began = rt.now();
            let data = bytes(1, MIB as usize);
            for i in 0..1024 {
                v.write(i * MIB, data.clone()).await.unwrap();
            }
            v.flush().await.unwrap();
            told("1 MiB sequential writes, flushed", 1024 * MIB, 1024, rt.now().since(began));
            let began = rt.now();
            v.release().await.unwrap();
            println!("{:40} {:?}", "released after", rt.now().since(began));
            let began = rt.now();
            for i in 0..1024 {
                v.read(i * MIB, MIB).await.unwrap();
            }
            told("1 MiB sequential reads", 1024 * MIB, 1024, rt.now().since(began));
            random(&v, &rt, 32, 200_000, true, "4 KiB random writes, depth 32").await;
            let began = rt.now();
            for i in 0..300 {
                v.write(i * 4096, data.slice(..4096)).await.unwrap();
                v.flush().await.unwrap();
            }
            told("4 KiB write and flush, depth 1", 300 * 4096, 300, rt.now().since(began));
            random(&v, &rt, 32, 100_000, false, "4 KiB random reads, depth 32").await;
            let began = rt.now();
            v.release().await.unwrap();
            println!("{:40} {:?}", "released after", rt.now().since(began));
            random(&v, &rt, 32, 100_000, false, "4 KiB random reads, depth 32, from the map").await;
        });
    }
}
