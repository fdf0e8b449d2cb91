//! A volume of 16 TiB with a hundred million mapped extents, made by the real checkpoints of made-up layers, then opened in
//! another process over a store that takes 20 ms for every request:
//!
//! ```sh
//! export WINDLASS_HUGE=/some/folder
//! cargo test --release -p windlass-volume -- --ignored --nocapture tests::huge::generate
//! cargo test --release -p windlass-volume -- --ignored --nocapture tests::huge::open
//! ```
//!
//! `WINDLASS_HUGE_EXTENTS` makes it smaller. Only the blocks of `samples` hold real data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::handle::Known;
use crate::read::{Frozen, Layer, Piece};
use windlass_base::rt::{RealDisk, RealRuntime};
use windlass_base::{HostId, Lsn};
use windlass_log::FrameRef;
use windlass_pool::{CreateOptions, OnlyNamed, Pool, PoolHost, PoolStore};
use windlass_store::{Counted, Effort, Faulty, FileStore, Store as _};

const SIZE: u64 = 16 << 40;
/// Extents of one layer: what forces a checkpoint.
const LAYER: u64 = 1 << 20;
/// What it may use in all.
const RESIDENT_MAX_KB: u64 = 512 << 10;

fn place() -> (PathBuf, u64) {
    let dir = std::env::var("WINDLASS_HUGE").expect("WINDLASS_HUGE names a folder with 5 GB of room");
    let extents = std::env::var("WINDLASS_HUGE_EXTENTS").map_or(100_000_000, |n| n.parse().unwrap());
    (dir.into(), extents)
}

/// Extents are this far apart, in blocks, so that they fill the whole disk.
fn stride(extents: u64) -> u64 {
    SIZE / 4096 / extents
}

fn samples(extents: u64) -> impl Iterator<Item = u64> {
    // Between two extents each.
    (0..64).map(move |i| i * (extents / 64) * stride(extents) + stride(extents) / 2)
}

fn resident_kb(field: &str) -> u64 {
    let status = std::process::Command::new("grep")
        .args([field, &format!("/proc/{}/status", std::process::id())])
        .output()
        .unwrap();
    String::from_utf8(status.stdout).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn life(dir: &Path, host: u128, latency: Duration, memory: u64) -> (Volumes, Arc<Counted>) {
    let (rt, disk) = (Rt::new(RealRuntime::current()), RealDisk::start());
    std::fs::create_dir_all(dir.join("store")).unwrap();
    let file = FileStore::open(&rt, &dir.join("store")).await.unwrap();
    let slow = Faulty::new(&rt, file);
    // There and back.
    slow.faults(|f| f.latency = (latency / 2, latency / 2));
    let counted = Counted::new(&rt, slow);
    let state = dir.join(format!("state{host}"));
    let pool_host = PoolHost {
        rt: rt.clone(),
        disk: disk.clone(),
        folder: state.join("pool"),
        opener: Arc::new(OnlyNamed),
        pool: None,
        key: None,
        trial: Effort::LEAST,
    };
    let spec = || vec![PoolStore { url: counted.url().to_owned(), zone: None, bucket: counted.clone() }];
    let pool = match Pool::open(pool_host.clone(), spec()).await {
        Ok(pool) => pool,
        Err(_) => {
            let (layout, options) = ("1+0".parse().unwrap(), CreateOptions::default());
            Pool::create(pool_host, name("tank"), layout, spec(), options).await.unwrap()
        }
    };
    let host = Host { id: HostId(host), name: format!("host{host}") };
    let engine = EngineContext {
        rt,
        disk,
        pool,
        dir: state.join("volumes"),
        host,
        memory: Memory::new(memory),
        tuning: Tuning::default(),
        sweeps: Default::default(),
        keys: Default::default(),
        readers: Default::default(),
        left: Default::default(),
        mirror: Default::default(),
    };
    (Volumes::new(engine), counted)
}

/// Single blocks, each in a frame of its own that nobody reads.
fn layer(from: u64, count: u64, stride: u64, seed: &FrameRef) -> Layer {
    let mut layer = Layer::default();
    let mut state = from | 1;
    for i in from..from + count {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = FrameRef {
            offset: (state >> 40) & 0x3f_ffff,
            len: 200 + ((state >> 20) & 0xfff) as u32,
            ..*seed
        };
        layer.insert(i * stride..i * stride + 1, Piece::Frame { at, index: 0 });
    }
    layer
}

#[test]
#[ignore = "figures, not a test"]
fn generate() {
    let (dir, extents) = place();
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let (volumes, _) = life(&dir, 1, Duration::ZERO, 2 << 30).await;
        let rt = volumes.engine().rt.clone();
        volumes.create(&name("v"), SIZE, VolumeSettings::default()).await.unwrap();
        let v = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        for block in samples(extents) {
            v.write(block * 4096, bytes(block, 4096)).await.unwrap();
        }
        v.flush().await.unwrap();
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        session.checkpoint(&[]).await.unwrap();
        let began = rt.now();
        for from in (0..extents).step_by(LAYER as usize) {
            let count = LAYER.min(extents - from);
            {
                let mut tip = session.tip.lock();
                let seq = tip.last_cut.seq;
                let seed = FrameRef { volume: 0, epoch: session.epoch, seq, offset: 0, len: 0 };
                let layer = Arc::new(layer(from, count, stride(extents), &seed));
                let (state, era, last) = (tip.tables.tip, tip.tables.tip().era, tip.lsn);
                assert!(last > Lsn(0) && last == tip.last_cut.lsn, "all is stored");
                tip.overlay.frozen.push(Frozen { layer, state, era, last, seq: Some(seq) });
            }
            session.checkpoint(&[]).await.unwrap();
        }
        let took = rt.now().since(began);
        v.release().await.unwrap();
        let info = volumes.info(&name("v")).await.unwrap();
        println!(
            "{extents} extents in {took:.1?}, {} MiB of map, peak {} MiB resident",
            info.stored_bytes / MIB,
            resident_kb("VmHWM") >> 10
        );
    });
}

#[test]
#[ignore = "figures, not a test"]
fn open() {
    let (dir, extents) = place();
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let (volumes, store) = life(&dir, 2, Duration::from_millis(20), 256 << 20).await;
        let rt = volumes.engine().rt.clone();
        let count = || store.counters().unwrap().requests();
        let (began, before) = (rt.now(), count());
        let v = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        let took = rt.now().since(began);
        println!("opened in {took:.1?} with {} requests", count() - before);
        assert!(took < Duration::from_secs(1));
        let mut first = true;
        for block in samples(extents).skip(5) {
            let (began, before) = (rt.now(), count());
            assert!(v.read(block * 4096, 4096).await.unwrap() == bytes(block, 4096), "block {block}");
            if std::mem::take(&mut first) {
                let requests = count() - before;
                println!("first read in {:.1?} with {requests} requests", rt.now().since(began));
                assert!(requests <= 5);
            }
        }
        let (began, before) = (rt.now(), count());
        v.write(4096, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        println!("claimed and flushed in {:.1?} with {} requests", rt.now().since(began), count() - before);
        // All over the disk: pages come and go under their bound.
        let tasks: Vec<_> = (0..64u64)
            .map(|t| {
                let (v, rt2) = (v.clone(), rt.clone());
                rt.spawn(async move {
                    for i in 0..100 {
                        // Blocks that nothing is mapped at: the map alone is read.
                        let at = (rt2.below(extents) * stride(extents) + 1 + (t + i) % 8) * 4096;
                        v.read(at, 4096).await.unwrap();
                    }
                })
            })
            .collect();
        for t in tasks {
            t.await.unwrap();
        }
        for i in 0..2000 {
            v.write(rt.below(SIZE / 4096) * 4096, bytes(i, 4096)).await.unwrap();
        }
        let began = rt.now();
        v.release().await.unwrap();
        println!("2000 random writes released in {:.1?}", rt.now().since(began));
        let peak = resident_kb("VmHWM");
        println!("peak {} MiB resident, with a budget of 256 MiB", peak >> 10);
        assert!(peak < RESIDENT_MAX_KB);
    });
}
