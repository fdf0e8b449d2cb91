//! What the pool costs above its stores: `cargo bench --bench pool`, for `integration/bench pool`.
//!
//! For each layout the same objects are put raw and through the pool, to the same stores with as much at once; then the same
//! ranges are read both ways. The ratio of puts is of the bytes that users gave, so that raw × k/N is 1. CPU is this process's.

// It measures real time, on real folders, and may stop at what it doesn't expect.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;

use windlass_base::format_limits::{CHUNK_TARGET, SHARD_SPAN, SHARD_TARGET};
use windlass_base::rt::{RealDisk, RealRuntime, Rt};
use windlass_base::{ChunkId, Epoch, Era, Result, Seq, VolumeId};
use windlass_pool::{
    Chunk, ChunkKind, CreateOptions, FOOTER_MAX, Layout, Opener, Pool, PoolHost, PoolStore, place, sealing,
    shard_key,
};
use windlass_store::{BucketRef, ByteRange, Cause, Effort, FileStore, MemStore, S3Store, StoreUrl, When};

/// The allocator of the program: where large buffers lie in memory, and whether they are fresh, is a part of
/// what is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Chunks put at a time: so many are under way at 4+2 in the memory that a daemon takes by itself, 2 GiB.
const PUTS: usize = 5;
/// Reads at a time.
const GETS: usize = 8;
const READ: usize = 1 << 20;
/// Bytes of users written for each figure.
const TOTAL: usize = 512 << 20;
const ROUNDS: usize = 3;

#[derive(Debug)]
struct None;

#[async_trait::async_trait]
impl Opener for None {
    async fn open(&self, url: &str) -> Result<BucketRef> {
        Err(windlass_base::Error::new(windlass_base::Kind::NotFound, url))
    }
}

/// Returns the bytes of a data shard of a chunk that is cut under load.
fn shard_len(k: usize) -> usize {
    SHARD_TARGET.min(CHUNK_TARGET / k as u64) as usize / 8 * 8
}

fn chunk(k: usize, seq: u64) -> Chunk {
    let mut state = seq;
    let mut shard = || {
        let words = (0..shard_len(k) / 8).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()
        });
        Bytes::from(words.collect::<Vec<u8>>())
    };
    let id = ChunkId { volume: VolumeId(7), epoch: Epoch(1), seq: Seq(seq) };
    let shards = (0..k).map(|_| shard()).collect();
    let toc_offset = (k as u64 - 1) * SHARD_SPAN;
    Chunk { id, era: Era(1), kind: ChunkKind::Data, shards, toc_offset, toc_len: 64 }
}

/// Copies a chunk into buffers as the log makes them: not shared, with room for the footer.
fn in_fresh_buffers(mut chunk: Chunk) -> Chunk {
    for shard in &mut chunk.shards {
        let mut own = Vec::with_capacity(shard.len() + FOOTER_MAX);
        own.extend_from_slice(shard);
        *shard = own.into();
    }
    chunk
}

struct Bench {
    rt: Rt,
    buckets: Vec<BucketRef>,
    pool: Arc<Pool>,
    chunks: Vec<Chunk>,
}

impl Bench {
    async fn new(layout: Layout, kind: &str, dir: &std::path::Path) -> Bench {
        let rt = Rt::new(RealRuntime::current());
        let mut buckets: Vec<BucketRef> = Vec::new();
        for i in 0..layout.n() {
            let folder = dir.join(format!("{layout}-{i}"));
            std::fs::create_dir(&folder).unwrap();
            buckets.push(match kind {
                "mem" => MemStore::new(&format!("{i}")),
                "file" => FileStore::open(&rt, &folder).await.unwrap(),
                _ => {
                    let (k, m, query) = (layout.k(), layout.m(), std::env::var("BENCH_S3").unwrap());
                    match format!("s3://bench-{k}-{m}-{i}?{query}").parse().unwrap() {
                        StoreUrl::S3(place) => S3Store::open(&rt, &place).await.unwrap(),
                        other => panic!("{other} is not on S3"),
                    }
                }
            });
        }
        let spec =
            |b: &BucketRef| PoolStore { url: b.url().to_owned(), zone: Option::None, bucket: b.clone() };
        let stores = buckets.iter().map(spec).collect();
        let (disk, folder) = (RealDisk::start(), dir.join(format!("{layout}-home")));
        std::fs::create_dir(&folder).unwrap();
        let host = PoolHost {
            rt: rt.clone(),
            disk,
            folder,
            opener: Arc::new(None),
            pool: Option::None,
            key: Option::None,
            trial: Effort::LEAST,
        };
        let name = "bench".parse().unwrap();
        let pool = Pool::create(host, name, layout, stores, CreateOptions::default()).await.unwrap();
        let few = (0..4).map(|seq| chunk(layout.k(), seq)).collect();
        Bench { rt, buckets, pool, chunks: few }
    }

    fn chunks(&self, from: u64) -> impl Iterator<Item = Chunk> {
        let k = self.pool.layout().k();
        let count = TOTAL / (k * shard_len(k));
        let chunk = move |n: usize| {
            let mut chunk = self.chunks[n % self.chunks.len()].clone();
            chunk.id.seq = Seq(from + n as u64);
            chunk
        };
        (0..count).map(chunk)
    }

    /// Runs work in a task of its own, as the pool's requests run.
    async fn apart<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.rt.spawn(work).await.unwrap()
    }

    async fn raw_put(&self, round: u64) -> Speed {
        let layout = self.pool.layout();
        let chunks: Vec<Chunk> = self.chunks(1_000_000 * (round + 1)).map(in_fresh_buffers).collect();
        let clock = Clock::start();
        let puts = stream::iter(&chunks).map(|chunk| async move {
            let puts = (0..layout.n()).map(|i| {
                let (key, body) = (shard_key(&chunk.id, i), chunk.shards[i % layout.k()].clone());
                let bucket = self.buckets[place(&chunk.id, i, layout.n())].clone();
                self.apart(async move { bucket.put(&key, body, When::Absent, Cause::Write).await.unwrap() })
            });
            futures::future::join_all(puts).await;
        });
        puts.buffer_unordered(PUTS).count().await;
        let speed = clock.speed(self.bytes());
        self.pool.delete(&chunks.iter().map(|c| c.id).collect::<Vec<_>>()).await.unwrap();
        speed
    }

    async fn pool_put(&self, round: u64, keep: bool) -> Speed {
        let n = self.pool.layout().n();
        let chunks: Vec<Chunk> = self.chunks(1000 * (round + 1)).map(in_fresh_buffers).collect();
        let ids: Vec<ChunkId> = chunks.iter().map(|c| c.id).collect();
        let clock = Clock::start();
        let puts = stream::iter(chunks).map(|chunk| async move {
            let upload = self.pool.put_chunk(chunk);
            upload.wait(n).await.unwrap();
        });
        puts.buffer_unordered(PUTS).count().await;
        let speed = clock.speed(self.bytes());
        if !keep {
            self.pool.delete(&ids).await.unwrap();
        }
        speed
    }

    /// Returns the bytes of users in one round.
    fn bytes(&self) -> f64 {
        let k = self.pool.layout().k();
        (TOTAL / (k * shard_len(k)) * k * shard_len(k)) as f64
    }

    /// Reads what a round kept, in reads of 1 MiB; the rest at the end of a shard is not read.
    async fn get(&self, round: u64, raw: bool) -> Speed {
        let (k, n) = (self.pool.layout().k(), self.pool.layout().n());
        let ids: Vec<ChunkId> = self.chunks(1000 * (round + 1)).map(|c| c.id).collect();
        let parts = ids.iter().flat_map(|id| {
            let at = |part| (part * READ) as u64;
            (0..k).flat_map(move |shard| (0..shard_len(k) / READ).map(move |part| (*id, shard, at(part))))
        });
        let clock = Clock::start();
        let gets = stream::iter(parts).map(|(id, shard, at)| {
            let (bucket, pool) = (self.buckets[place(&id, shard, n)].clone(), self.pool.clone());
            self.apart(async move {
                if raw {
                    let range = ByteRange::At { offset: at, len: READ as u64 };
                    let found = bucket.get(&shard_key(&id, shard), range, Cause::Read).await;
                    assert_eq!(found.unwrap().unwrap().body.len(), READ);
                } else {
                    let offset = shard as u64 * SHARD_SPAN + at;
                    let read = pool.read(&id, offset, READ as u32, Cause::Read, &|_| true).await;
                    assert_eq!(read.unwrap().len(), READ);
                }
            })
        });
        let reads = gets.buffer_unordered(GETS).count().await;
        clock.speed(reads as f64 * READ as f64)
    }
}

/// Speed of a round: MB of users' bytes a second, and seconds of this process on processors for a GB of them.
#[derive(Clone, Copy)]
struct Speed {
    rate: f64,
    cpu: f64,
}

struct Clock {
    begun: Instant,
    cpu: f64,
}

impl Clock {
    fn start() -> Clock {
        Clock { begun: Instant::now(), cpu: cpu() }
    }

    fn speed(self, bytes: f64) -> Speed {
        let took = self.begun.elapsed().as_secs_f64();
        Speed { rate: bytes / 1e6 / took, cpu: (cpu() - self.cpu) * 1e9 / bytes }
    }
}

/// Returns the seconds that processors have spent on this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    // User and system time, in ticks of 10 ms.
    [12, 13].iter().map(|i| fields[*i].parse::<f64>().unwrap() / 100.0).sum()
}

fn median(all: &[Speed]) -> Speed {
    let middle = |of: fn(&Speed) -> f64| {
        let mut all: Vec<f64> = all.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Speed { rate: middle(|s| s.rate), cpu: middle(|s| s.cpu) }
}

async fn beside_raw(layout: Layout, kind: &str) {
    let dir = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| "/tmp".into())).unwrap();
    let bench = Bench::new(layout, kind, dir.path()).await;
    let (mut raw, mut put, mut raw_get, mut get) = (vec![], vec![], vec![], vec![]);
    // Not counted: connections and the servers' files are made. What the pool puts is what is read.
    bench.raw_put(0).await;
    bench.pool_put(0, true).await;
    for round in 1..=ROUNDS as u64 {
        raw.push(bench.raw_put(round).await);
        put.push(bench.pool_put(round, false).await);
        raw_get.push(bench.get(0, true).await);
        get.push(bench.get(0, false).await);
    }
    let [raw, put, raw_get, get] = [raw, put, raw_get, get].map(|all| median(&all));
    println!(
        "{layout:>5} {kind:>4}: put {:6.0} MB/s = {:.2} of raw x k/N ({:.0}), CPU {:.2} s a GB (raw {:.2}); get {:6.0} MB/s = {:.2} of raw ({:.0}), CPU {:.2} s a GB (raw {:.2})",
        put.rate,
        put.rate / raw.rate,
        raw.rate,
        put.cpu,
        raw.cpu,
        get.rate,
        get.rate / raw_get.rate,
        raw_get.rate,
        get.cpu,
        raw_get.cpu,
    );
    bench.pool.close().await;
    bench.rt.sleep(std::time::Duration::from_millis(10)).await;
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        beside_raw_stores().await;
        encoding();
    });
}

async fn beside_raw_stores() {
    let s3 = std::env::var("BENCH_S3").is_ok().then_some("s3");
    for layout in ["1+0", "4+2", "10+4"].map(|l| l.parse::<Layout>().unwrap()) {
        for kind in ["mem", "file"].into_iter().chain(s3) {
            beside_raw(layout, kind).await;
        }
    }
}

fn encoding() {
    for layout in ["1+0", "4+2", "10+4"].map(|l| l.parse::<Layout>().unwrap()) {
        let seal = sealing(layout);
        let rounds = TOTAL / (layout.k() * shard_len(layout.k()));
        let chunks: Vec<Chunk> =
            (0..rounds).map(|n| chunk(layout.k(), n as u64)).map(in_fresh_buffers).collect();
        let begun = Instant::now();
        for chunk in chunks {
            seal(chunk).unwrap();
        }
        let bytes = (rounds * layout.k() * shard_len(layout.k())) as f64;
        let took = begun.elapsed().as_secs_f64();
        println!("{layout:>5} encode, hash and footers: {:.3} s of one core a GB", took * 1e9 / bytes);
    }
}
