//! What a put costs in a folder, and what a request costs on its way through counters and retries to a store in memory:
//! `cargo bench --bench file_store`.
// It measures real time, on a real folder, and may stop at what it doesn't expect.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use windlass_base::rt::{RealRuntime, Rt};
use windlass_store::{ByteRange, Cause, Counted, FileStore, MemStore, Patience, Retrying, Store as _, When};

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        requests().await;
        puts().await;
    });
}

async fn requests() {
    const COUNT: u32 = 500_000;
    let rt = Rt::new(RealRuntime::current());
    let bucket = Retrying::new(&rt, Counted::new(&rt, MemStore::new("m")), Patience::default());
    let (key, body) = ("0123/volume/c-0000000000000001-00", Bytes::from(vec![7; 4096]));
    for _ in 0..3 {
        let began = Instant::now();
        for _ in 0..COUNT {
            bucket.get(key, ByteRange::Last(4096), Cause::Read).await.unwrap();
        }
        let get = began.elapsed() / COUNT;
        let began = Instant::now();
        for _ in 0..COUNT {
            bucket.put(key, body.clone(), When::Always, Cause::Write).await.unwrap();
        }
        println!("through counters and retries: {get:?} a get, {:?} a put of 4 KiB", began.elapsed() / COUNT);
    }
}

async fn puts() {
    for (what, bytes, at_once) in [("4 KiB", 4096, 1), ("4 KiB", 4096, 16), ("8 MiB", 8 << 20, 1)] {
        for fresh in [true, false] {
            let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            let rt = Rt::new(RealRuntime::current());
            let bucket = FileStore::open(&rt, dir.path()).await.unwrap();
            let body = Bytes::from(vec![7; bytes]);
            let count = if bytes > 1 << 20 { 16 } else { 200 };
            let key = |n: usize| format!("{:02x}/volume/c-{n}", if fresh { n % 256 } else { 1 });
            for n in 0..4 {
                bucket.put(&key(n), body.clone(), When::Absent, Cause::Write).await.unwrap();
            }
            let began = Instant::now();
            let put = |n: usize| {
                let (bucket, key, body) = (bucket.clone(), key(n), body.clone());
                async move { bucket.put(&key, body, When::Absent, Cause::Write).await }
            };
            let puts = (4..count).map(put);
            let done: Vec<_> =
                futures::stream::iter(puts.collect::<Vec<_>>()).buffer_unordered(at_once).collect().await;
            let ms = began.elapsed().as_secs_f64() * 1000.0 / done.len() as f64;
            println!("{what}, {at_once} at once, new folder each: {fresh}: {ms:.2} ms a put");
        }
    }
}
