//! Figures of the volume alone, on real threads, with a real disk for journal and cache and stores in memory, that answer at
//! once or take 20 ms for every request: `cargo bench --bench volume`.
// It may stop at what it doesn't expect.
#![allow(clippy::unwrap_used)]

mod place;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use windlass_base::rt::Rt;
use windlass_base::units::{GIB, MIB};
use windlass_pool::Layout;
use windlass_store::{ByteRange, Cause, List, Store as _};
use windlass_volume::{OpenMode, Volume, VolumeSettings};

use place::{Place, bytes, name};

const LATENCY: Duration = Duration::from_millis(20);
const SIZE: u64 = GIB;

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for layout in ["1+0", "4+2"] {
        println!("{layout}, stores that answer at once");
        tokio.block_on(at_once(layout));
        println!("{layout}, stores that take {LATENCY:?}");
        tokio.block_on(slow(layout));
    }
}

/// Reads the chunks of all stores, in parts of 4 MiB, `at_once` at a time. Returns how many bytes they have.
async fn raw(place: &Place, at_once: usize) -> u64 {
    let mut parts = Vec::new();
    for store in &place.stores {
        let mut list = List { max: 1000, ..List::default() };
        loop {
            let page = store.list(&list, Cause::Probe).await.unwrap();
            for object in page.objects.iter().filter(|o| o.key.contains("/c-")) {
                let parts_of = (0..object.size).step_by(4 << 20);
                parts.extend(parts_of.map(|from| (store, object.key.clone(), from)));
            }
            if page.next.is_none() {
                break;
            }
            list.after = page.next;
        }
    }
    let gets = parts.into_iter().map(|(store, key, from)| async move {
        let range = ByteRange::At { offset: from, len: 4 << 20 };
        store.get(&key, range, Cause::Read).await.unwrap().map_or(0, |found| found.body.len() as u64)
    });
    let all: Vec<_> = gets.collect();
    stream::iter(all).buffer_unordered(at_once).fold(0, |sum, n| async move { sum + n }).await
}

/// Runs `work`, and prints how long it took and how many requests it made.
async fn timed(place: &Place, what: &str, bytes: u64, work: impl Future<Output = ()>) {
    let (before, began) = (place.requests(), place.rt.now());
    work.await;
    let took = place.rt.now().since(began);
    let rate = bytes as f64 / took.as_secs_f64() / MIB as f64;
    println!("{what:46} {:8.1?} {rate:9.1} MiB/s {:6} requests", took, place.requests() - before);
}

async fn sequential(v: &Volume, bytes: u64, depth: usize, size: u64) {
    let reads: Vec<_> = (0..bytes / size).map(|i| v.read(i * size, size)).collect();
    stream::iter(reads).buffered(depth).for_each(|r| async move { drop(r.unwrap()) }).await;
}

async fn write(place: &Place, layout: &str) {
    let volumes = place.volumes(1, Some(layout), 2 * GIB, false).await;
    volumes.create(&name("v"), SIZE, VolumeSettings::default()).await.unwrap();
    let v = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
    for i in 0..SIZE / MIB {
        v.write(i * MIB, bytes(i, MIB as usize)).await.unwrap();
    }
    timed(place, "fresh data read from memory", 64 * MIB, sequential(&v, 64 * MIB, 1, MIB)).await;
    v.release().await.unwrap();
    volumes.engine().pool.close().await;
}

async fn slow(layout: &str) {
    let n = layout.parse::<Layout>().unwrap().n();
    let place = Place::new(n, true);
    write(&place, layout).await;
    place.slow(LATENCY);
    if n == 1 {
        for at_once in [8, 16, 32] {
            let what = format!("raw gets of 4 MiB, {at_once} at once");
            timed(&place, &what, SIZE, async { assert!(raw(&place, at_once).await >= SIZE) }).await;
        }
    }
    let volumes = place.volumes(2, None, 2 * GIB, false).await;
    let mut opened = None;
    timed(&place, "open", 0, async {
        opened = Some(volumes.open(&name("v"), OpenMode::Normal).await.unwrap());
    })
    .await;
    let v = opened.unwrap();
    timed(&place, "first read of 4 KiB", 4096, async { drop(v.read(SIZE / 2, 4096).await.unwrap()) }).await;
    timed(&place, "second, of the same MiB", 4096, async {
        drop(v.read(SIZE / 2 + 512 * 1024, 4096).await.unwrap());
    })
    .await;
    for (depth, size) in [(1, MIB), (4, MIB / 4), (32, 128 << 10)] {
        let volumes = place.volumes(10 + depth as u128, None, 2 * GIB, false).await;
        let v = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        let what = format!("sequential, {} KiB at depth {depth}", size >> 10);
        timed(&place, &what, SIZE, sequential(&v, SIZE, depth, size)).await;
    }
    for what in ["the same, filling the disk cache", "after a restart, from the disk cache"] {
        let volumes = place.volumes(30, None, 2 * GIB, true).await;
        let v = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        place.rt.sleep(Duration::from_secs(1)).await;
        timed(&place, what, SIZE, sequential(&v, SIZE, 32, 128 << 10)).await;
        place.rt.sleep(Duration::from_secs(3)).await;
        println!("    {:?}", volumes.engine().memory.disk.stats().unwrap());
    }
}

fn told(what: &str, bytes: u64, count: u64, began: Duration) {
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

async fn at_once(layout: &str) {
    let place = Place::new(layout.parse::<Layout>().unwrap().n(), false);
    let volumes = place.volumes(1, Some(layout), 2 * GIB, false).await;
    let rt = volumes.engine().rt.clone();
    volumes.create(&name("v"), 1 << 30, VolumeSettings::default()).await.unwrap();
    let v = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
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
}
