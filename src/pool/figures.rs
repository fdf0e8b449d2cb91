//! What the pool costs above its stores: `integration/bench pool` runs this in a release build.
//!
//! For each layout the same objects are put raw and through the pool, to the same stores with as much at once; then the same
//! ranges are read both ways. The ratio of puts is of the bytes that users gave, so that raw × k/N is 1. CPU is this process's,
//! making and deleting the objects included, on both sides.

// It measures real time, on real folders.
#![allow(clippy::disallowed_methods)]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;

use super::codec::Codec;
use super::footer::FOOTER_MAX;
use super::mask::Mask;
use super::seal::seal;
use super::*;
use crate::base::rt::{RealDisk, RealRuntime, Rt};
use crate::base::size::{CHUNK_TARGET, SHARD_SPAN, SHARD_TARGET};
use crate::base::{ChunkId, Epoch, Era, Result, Seq, VolumeId};
use crate::store::{BucketRef, ByteRange, Cause, FileStore, MemStore, S3Store, StoreUrl, When};

/// As in the program: where large buffers lie in memory, and whether they are fresh, is a part of what is measured.
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
        Err(crate::base::Error::new(crate::base::Kind::NotFound, url))
    }
}

/// Bytes of a data shard of a chunk that is cut under load.
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

/// As the log makes them: not shared, with room for the footer.
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
                query => {
                    let (k, m) = (layout.k(), layout.m());
                    match format!("s3://bench-{k}-{m}-{i}?{query}").parse().unwrap() {
                        StoreUrl::S3(place) => S3Store::open(&rt, &place).await.unwrap(),
                        other => panic!("{other} is not on S3"),
                    }
                }
            });
        }
        let spec =
            |b: &BucketRef| StoreSpec { url: b.url().to_owned(), zone: Option::None, bucket: b.clone() };
        let stores = buckets.iter().map(spec).collect();
        let (disk, folder) = (RealDisk::start(), dir.join(format!("{layout}-home")));
        std::fs::create_dir(&folder).unwrap();
        let host = PoolHost { rt: rt.clone(), disk, folder, opener: Arc::new(None) };
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

    /// MB of users' bytes a second.
    async fn raw_put(&self, round: u64) -> f64 {
        let layout = self.pool.layout();
        let chunks: Vec<Chunk> = self.chunks(1_000_000 * (round + 1)).map(in_fresh_buffers).collect();
        let begun = Instant::now();
        let puts = stream::iter(&chunks).map(|chunk| async move {
            let puts = (0..layout.n()).map(|i| {
                let body = chunk.shards[i % layout.k()].clone();
                let bucket = &self.buckets[place(&chunk.id, i, layout.n())];
                async move { bucket.put(&shard_key(&chunk.id, i), body, When::Absent, Cause::Write).await }
            });
            futures::future::join_all(puts).await.into_iter().for_each(|put| drop(put.unwrap()));
        });
        puts.buffer_unordered(PUTS).count().await;
        let rate = self.bytes() / 1e6 / begun.elapsed().as_secs_f64();
        self.pool.delete(&chunks.iter().map(|c| c.id).collect::<Vec<_>>()).await.unwrap();
        rate
    }

    async fn pool_put(&self, round: u64, keep: bool) -> f64 {
        let n = self.pool.layout().n();
        let chunks: Vec<Chunk> = self.chunks(1000 * (round + 1)).map(in_fresh_buffers).collect();
        let ids: Vec<ChunkId> = chunks.iter().map(|c| c.id).collect();
        let begun = Instant::now();
        let puts = stream::iter(chunks).map(|chunk| async move {
            let upload = self.pool.put_chunk(chunk);
            upload.wait(n).await.unwrap();
        });
        puts.buffer_unordered(PUTS).count().await;
        let rate = self.bytes() / 1e6 / begun.elapsed().as_secs_f64();
        if !keep {
            self.pool.delete(&ids).await.unwrap();
        }
        rate
    }

    /// Of users, in a round.
    fn bytes(&self) -> f64 {
        let k = self.pool.layout().k();
        (TOTAL / (k * shard_len(k)) * k * shard_len(k)) as f64
    }

    /// What a round kept, in reads of 1 MiB; what is left at the end of a shard is not read.
    async fn get(&self, round: u64, raw: bool) -> f64 {
        let (k, n) = (self.pool.layout().k(), self.pool.layout().n());
        let ids: Vec<ChunkId> = self.chunks(1000 * (round + 1)).map(|c| c.id).collect();
        let parts = ids.iter().flat_map(|id| {
            let at = |part| (part * READ) as u64;
            (0..k).flat_map(move |shard| (0..shard_len(k) / READ).map(move |part| (id, shard, at(part))))
        });
        let begun = Instant::now();
        let gets = stream::iter(parts).map(|(id, shard, at)| async move {
            let bytes = if raw {
                let bucket = &self.buckets[place(id, shard, n)];
                let range = ByteRange::At { offset: at, len: READ as u64 };
                bucket.get(&shard_key(id, shard), range, Cause::Read).await.unwrap().unwrap().body
            } else {
                let offset = shard as u64 * SHARD_SPAN + at;
                self.pool.read(id, offset, READ as u32, Cause::Read, &|_| true).await.unwrap()
            };
            assert_eq!(bytes.len(), READ);
        });
        let reads = gets.buffer_unordered(GETS).count().await;
        reads as f64 * READ as f64 / 1e6 / begun.elapsed().as_secs_f64()
    }
}

/// Seconds that processors have spent on this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    // User and system time, in ticks of 10 ms.
    [12, 13].iter().map(|i| fields[*i].parse::<f64>().unwrap() / 100.0).sum()
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, not a test: integration/bench pool"]
async fn beside_raw_stores() {
    for layout in ["1+0", "4+2", "10+4"].map(|l| l.parse::<Layout>().unwrap()) {
        let s3 = std::env::var("BENCH_S3").ok();
        for kind in ["mem", "file"].into_iter().chain(s3.as_deref()) {
            let dir =
                tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| "/tmp".into())).unwrap();
            let bench = Bench::new(layout, kind, dir.path()).await;
            let gb = bench.bytes() / 1e9;
            let (mut raw, mut put, mut raw_get, mut get) = (vec![], vec![], vec![], vec![]);
            let (mut raw_cpu, mut put_cpu) = (vec![], vec![]);
            for round in 0..ROUNDS as u64 {
                let begun = cpu();
                raw.push(bench.raw_put(round).await);
                let between = cpu();
                put.push(bench.pool_put(round, round == 0).await);
                raw_cpu.push((between - begun) / gb);
                put_cpu.push((cpu() - between) / gb);
                raw_get.push(bench.get(0, true).await);
                get.push(bench.get(0, false).await);
            }
            let [raw, put, raw_get, get] = [raw, put, raw_get, get].map(median);
            let [raw_cpu, put_cpu] = [raw_cpu, put_cpu].map(median);
            let kind = if kind.len() > 4 { "s3" } else { kind };
            println!(
                "{layout:>5} {kind:>4}: put {put:6.0} MB/s = {:.2} of raw x k/N ({raw:.0}), CPU {put_cpu:.2} s a GB (raw {raw_cpu:.2}); get {get:6.0} MB/s = {:.2} of raw ({raw_get:.0})",
                put / raw,
                get / raw_get
            );
            bench.pool.close().await;
            bench.rt.sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    for layout in ["1+0", "4+2", "10+4"].map(|l| l.parse::<Layout>().unwrap()) {
        let codec = Codec::new(layout);
        let rounds = TOTAL / (layout.k() * shard_len(layout.k()));
        let chunks: Vec<Chunk> =
            (0..rounds).map(|n| chunk(layout.k(), n as u64)).map(in_fresh_buffers).collect();
        let begun = Instant::now();
        for chunk in chunks {
            std::hint::black_box(seal(&codec, chunk, Mask::all(layout.n())).unwrap());
        }
        let bytes = (rounds * layout.k() * shard_len(layout.k())) as f64;
        let took = begun.elapsed().as_secs_f64();
        println!("{layout:>5} encode, hash and footers: {:.3} s of one core a GB", took * 1e9 / bytes);
    }
}
