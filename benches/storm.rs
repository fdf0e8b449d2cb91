//! A hundred clones of one template boot at once on one host, on stores that take 20 ms: `cargo bench --bench storm`.
//!
//! What one boot reads is 200 MiB here and there of a template of 2 GiB, each file in order, four requests at a time. Each
//! line begins cold, but for `again`.
// It may stop at what it doesn't expect.
#![allow(clippy::unwrap_used)]

mod place;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream;
use windlass_base::units::{GIB, MIB};
use windlass_store::Store as _;
use windlass_volume::{BootTrace, OpenMode, Volume, VolumeSettings, Volumes, snapshot_group};

use place::{Place, bytes, name};

const LATENCY: Duration = Duration::from_millis(20);
const SIZE: u64 = 2 * GIB;
const BOOT: u64 = 200 * MIB;
const CLONES: usize = 100;
/// Requests that a guest has under way.
const DEPTH: usize = 4;

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(storm());
}

/// Returns the reads of one boot: a file in each of some of the template's MiBs, none of them twice.
fn boot() -> Vec<(u64, u64)> {
    let (mut reads, mut total, mut state) = (Vec::new(), 0, 7u64);
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut places: Vec<u64> = (0..SIZE / MIB).collect();
    while total < BOOT {
        let place = places.swap_remove(draw(places.len() as u64) as usize);
        let file = ((1 + draw(128)) * 4096).min(BOOT - total);
        let (at, step) = (place * MIB + draw((MIB - file) / 4096 + 1) * 4096, (1 + draw(32)) * 4096);
        reads.extend((0..file).step_by(step as usize).map(|from| (at + from, step.min(file - from))));
        total += file;
    }
    reads
}

async fn template(place: &Place) {
    let volumes = place.volumes(1, Some("4+2"), 2 * GIB, false).await;
    volumes.create(&name("t"), SIZE, VolumeSettings::default()).await.unwrap();
    let t = volumes.open(&name("t"), OpenMode::Normal).await.unwrap();
    for i in 0..SIZE / MIB {
        t.write(i * MIB, bytes(i, MIB as usize)).await.unwrap();
    }
    snapshot_group(&[(t.clone(), name("s"))], true).await.unwrap();
    t.release().await.unwrap();
    for i in 0..CLONES {
        volumes.clone_snapshot(&name("t"), &name("s"), &name(&format!("c{i}"))).await.unwrap();
    }
    volumes.engine().pool.close().await;
}

async fn opened(volumes: &Volumes, many: usize) -> Vec<Arc<Volume>> {
    let opens = (0..many)
        .map(|i| async move { volumes.open(&name(&format!("c{i}")), OpenMode::Normal).await.unwrap() });
    join_all(opens).await
}

async fn boots(place: &Place, clones: &[Arc<Volume>]) {
    let reads = Arc::new(boot());
    let boots = clones.iter().map(|clone| {
        let (clone, reads) = (clone.clone(), reads.clone());
        place.rt.spawn(async move {
            let reads: Vec<_> = reads.iter().map(|(at, len)| clone.read_parts(*at, *len)).collect();
            stream::iter(reads).buffered(DEPTH).for_each(|read| async move { drop(read.unwrap()) }).await;
        })
    });
    for boot in join_all(boots.collect::<Vec<_>>()).await {
        boot.unwrap();
    }
}

/// Runs `work`, and prints the bytes and time that it took, beside those of one boot alone, if given. Returns
/// both.
async fn told(
    place: &Place,
    what: &str,
    one: Option<(u64, f64)>,
    work: impl Future<Output = ()>,
) -> (u64, f64) {
    let received = || -> u64 {
        let lines = place.stores.iter().flat_map(|s| s.counters().unwrap().snapshot());
        lines.map(|line| line.received_bytes).sum()
    };
    let (requests, bytes, began) = (place.requests(), received(), place.rt.now());
    work.await;
    let took = place.rt.now().since(began).as_secs_f64();
    let (requests, bytes) = (place.requests() - requests, received() - bytes);
    let beside = one.map_or_else(String::new, |(of, alone)| {
        format!("  {:5.2} x the bytes, {:5.2} x the time", bytes as f64 / of as f64, took / alone)
    });
    println!("{what:34} {took:7.2} s {:8.1} MiB {requests:6} requests{beside}", bytes as f64 / MIB as f64);
    (bytes, took)
}

/// Boots one cold clone, then all at once on another host, as cold, then all again. Returns the bytes and
/// time of the one.
async fn cold(place: &Place, host: u128, memory: u64, cache: bool, beside: Option<(u64, f64)>) -> (u64, f64) {
    let lonely = place.volumes(host, None, memory, cache).await;
    let alone = async { boots(place, &opened(&lonely, 1).await).await };
    let one = told(place, "one is opened and boots", beside, alone).await;
    let (crowded, mut clones) = (place.volumes(host + 1, None, memory, cache).await, Vec::new());
    let all = async {
        clones = opened(&crowded, CLONES).await;
        boots(place, &clones).await;
    };
    told(place, "100 are, at once", Some(beside.unwrap_or(one)), all).await;
    told(place, "the 100 boot again", Some(beside.unwrap_or(one)), boots(place, &clones)).await;
    one
}

/// Records a first boot, up to the end of its clone.
async fn record(place: &Place) {
    let volumes = place.volumes(90, None, 2 * GIB, false).await;
    volumes.set(&name("t"), &["boot-trace=record".to_owned()]).await.unwrap();
    volumes.clone_snapshot(&name("t"), &name("s"), &name("r")).await.unwrap();
    let clone = volumes.open(&name("r"), OpenMode::Normal).await.unwrap();
    place.rt.sleep(Duration::from_secs(1)).await;
    boots(place, &[clone]).await;
    volumes.remove(&name("r")).await.unwrap();
    loop {
        let trace = volumes.info(&name("t")).await.unwrap().boot_trace;
        if trace != BootTrace::Record {
            return println!("a first boot is recorded: {trace}");
        }
        place.rt.sleep(Duration::from_secs(1)).await;
    }
}

async fn storm() {
    let place = Place::new(6, true);
    template(&place).await;
    place.slow(LATENCY);
    println!("2 GiB of memory");
    let one = cold(&place, 10, 2 * GIB, false, None).await;
    println!("4 GiB of memory");
    cold(&place, 15, 4 * GIB, false, Some(one)).await;
    println!("512 MiB of memory, a cache on disk");
    cold(&place, 20, GIB / 2, true, None).await;
    record(&place).await;
    println!("2 GiB of memory, fetched ahead");
    cold(&place, 30, 2 * GIB, false, Some(one)).await;
}
