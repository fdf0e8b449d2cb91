//! What reads cost over a store that takes 20 ms for every request, beside what the store itself can do:
//! `cargo test --release --lib -- --ignored --nocapture volume::tests::figures`.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream;

use super::*;
use crate::base::HostId;
use crate::base::rt::{RealDisk, RealRuntime};
use crate::base::size::GIB;
use crate::cache::{DiskCache, DiskCacheConfig};
use crate::pool::{CreateOptions, OnlyNamed, Pool, PoolHost, PoolStore};
use crate::store::{ByteRange, Cause, Counted, Faulty, List, MemStore, Store as _};

const LATENCY: Duration = Duration::from_millis(20);
const SIZE: u64 = GIB;

pub struct Place {
    pub rt: Rt,
    stores: Vec<(Arc<Faulty>, Arc<Counted>)>,
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new(n: usize) -> Place {
        let rt = Rt::new(RealRuntime::current());
        let store = |i: usize| {
            let slow = Faulty::new(&rt, MemStore::new(&format!("s{i}")));
            let counted = Counted::new(&rt, slow.clone());
            (slow, counted)
        };
        Place { stores: (0..n).map(store).collect(), dir: tempfile::tempdir().unwrap(), rt }
    }

    fn slow(&self, latency: Duration) {
        // There and back.
        self.stores.iter().for_each(|(s, _)| s.faults(|f| f.latency = (latency / 2, latency / 2)));
    }

    pub fn requests(&self) -> u64 {
        self.stores.iter().map(|(_, c)| c.counters().unwrap().requests()).sum()
    }

    pub fn lines(&self) -> Vec<crate::store::Line> {
        self.stores.iter().flat_map(|(_, c)| c.counters().unwrap().snapshot()).collect()
    }

    fn specs(&self) -> Vec<PoolStore> {
        let spec =
            |(_, c): &(_, Arc<Counted>)| PoolStore { url: c.url().to_owned(), zone: None, bucket: c.clone() };
        self.stores.iter().map(spec).collect()
    }

    /// A daemon that knows nothing, but for what its disk cache has.
    pub async fn volumes(&self, host: u128, layout: Option<&str>, cache: bool) -> Volumes {
        let (rt, disk) = (self.rt.clone(), RealDisk::start());
        let dir = self.dir.path().join(format!("host{host}"));
        let pool_host = PoolHost {
            rt: rt.clone(),
            disk: disk.clone(),
            folder: dir.join("pool"),
            opener: Arc::new(OnlyNamed),
        };
        let pool = match layout {
            Some(layout) => {
                let (layout, options) = (layout.parse().unwrap(), CreateOptions::default());
                Pool::create(pool_host, name("tank"), layout, self.specs(), options).await.unwrap()
            }
            None => Pool::open(pool_host, self.specs()).await.unwrap(),
        };
        let memory = match cache {
            false => Memory::new(2 * GIB),
            true => {
                let share = Memory::disk_share(2 * GIB, 4 * GIB);
                let config = DiskCacheConfig {
                    dir: dir.join("cache"),
                    bytes_max: 4 * GIB,
                    memory_max: share,
                    segment: None,
                };
                Memory::with_disk(2 * GIB, DiskCache::start(&rt, RealDisk::start(), config), share)
            }
        };
        let host = Host { id: HostId(host), name: "host".into() };
        let (tuning, sweeps) = Default::default();
        Volumes::new(EngineContext { rt, disk, pool, dir, host, memory, tuning, sweeps })
    }

    /// Runs it, says how long it took and what it asked for.
    async fn told(&self, what: &str, bytes: u64, work: impl Future<Output = ()>) {
        let (before, began) = (self.requests(), self.rt.now());
        work.await;
        let took = self.rt.now().since(began);
        let rate = bytes as f64 / took.as_secs_f64() / MIB as f64;
        println!("{what:46} {:8.1?} {rate:9.1} MiB/s {:6} requests", took, self.requests() - before);
    }

    /// All objects of the first stores, in parts of 4 MiB, so many at once.
    async fn raw(&self, at_once: usize) -> u64 {
        let mut parts = Vec::new();
        for (_, store) in &self.stores {
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
}

async fn sequential(v: &Volume, bytes: u64, depth: usize, size: u64) {
    let reads: Vec<_> = (0..bytes / size).map(|i| v.read(i * size, size)).collect();
    stream::iter(reads).buffered(depth).for_each(|r| async move { drop(r.unwrap()) }).await;
}

async fn write(place: &Place, layout: &str) {
    let volumes = place.volumes(1, Some(layout), false).await;
    volumes.create(&name("v"), SIZE, VolumeSettings::default()).await.unwrap();
    let v = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
    for i in 0..SIZE / MIB {
        v.write(i * MIB, bytes(i, MIB as usize)).await.unwrap();
    }
    place.told("fresh data read from memory", 64 * MIB, sequential(&v, 64 * MIB, 1, MIB)).await;
    v.release().await.unwrap();
    volumes.engine().pool.close().await;
}

#[test]
#[ignore = "figures, not a test"]
fn figures() {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for layout in ["1+0", "4+2"] {
        tokio.block_on(async {
            println!("{layout}");
            let n = layout.parse::<crate::pool::Layout>().unwrap().n();
            let place = Place::new(n);
            write(&place, layout).await;
            place.slow(LATENCY);
            if n == 1 {
                for at_once in [8, 16, 32] {
                    let what = format!("raw gets of 4 MiB, {at_once} at once");
                    place.told(&what, SIZE, async { assert!(place.raw(at_once).await >= SIZE) }).await;
                }
            }
            let volumes = place.volumes(2, None, false).await;
            let mut opened = None;
            place
                .told("open", 0, async {
                    opened = Some(volumes.open(&name("v"), OpenMode::Normal).await.unwrap());
                })
                .await;
            let v = opened.unwrap();
            place
                .told("first read of 4 KiB", 4096, async { drop(v.read(SIZE / 2, 4096).await.unwrap()) })
                .await;
            place
                .told("second, of the same MiB", 4096, async {
                    drop(v.read(SIZE / 2 + 512 * 1024, 4096).await.unwrap());
                })
                .await;
            for (depth, size) in [(1, MIB), (4, MIB / 4), (32, 128 << 10)] {
                let volumes = place.volumes(10 + depth as u128, None, false).await;
                let v = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                let what = format!("sequential, {} KiB at depth {depth}", size >> 10);
                place.told(&what, SIZE, sequential(&v, SIZE, depth, size)).await;
            }
            for what in ["the same, filling the disk cache", "after a restart, from the disk cache"] {
                let volumes = place.volumes(30, None, true).await;
                let v = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                place.rt.sleep(Duration::from_secs(1)).await;
                place.told(what, SIZE, sequential(&v, SIZE, 32, 128 << 10)).await;
                place.rt.sleep(Duration::from_secs(3)).await;
                println!("    {:?}", volumes.engine().memory.disk.stats().unwrap());
            }
        });
    }
}
