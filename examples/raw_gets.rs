//! What a store gives without any volume in between, for `integration/bench cold`:
//! `cargo run --release --example raw_gets -- URL SECONDS BYTES PARALLEL random|sequential`.
//! Ranges of so many bytes, within the large objects below the URL, at random or one after another, so many at once.
//! Prints the median of their latencies in microseconds and the throughput in MB/s.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use windlass_base::rt::{RealRuntime, Rt};
use windlass_base::{Error, Kind, Result};
use windlass_store::{BucketRef, ByteRange, Cause, List, open};

const LARGE: u64 = 1 << 20;

/// All ranges of `bytes` within the large objects.
async fn ranges(bucket: &BucketRef, bytes: u64) -> Result<Vec<(String, u64)>> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let list = List { prefix: String::new(), after, delimited: false, max: 1000 };
        let page = bucket.list(&list, Cause::Read).await?;
        for object in page.objects.into_iter().filter(|o| o.size >= LARGE) {
            all.extend((0..object.size / bytes).map(|i| (object.key.clone(), i * bytes)));
        }
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = || Error::new(Kind::Usage, "raw_gets URL SECONDS BYTES PARALLEL random|sequential");
    let [url, seconds, bytes, parallel, order] = &args[..] else { return Err(usage()) };
    let number = |text: &String| text.parse::<u64>().map_err(|_| usage());
    let (seconds, bytes, parallel) = (number(seconds)?, number(bytes)?, number(parallel)?);
    let rt = Rt::new(RealRuntime::current());
    let bucket = open(&rt, &url.parse()?).await?;
    let mut ranges = ranges(&bucket, bytes).await?;
    if ranges.is_empty() {
        return Err(Error::new(Kind::NotFound, format!("{url} holds no object of {LARGE} bytes or more")));
    }
    if order == "random" {
        for i in (1..ranges.len()).rev() {
            ranges.swap(i, rt.below(i as u64 + 1) as usize);
        }
    }
    let (ranges, next) = (Arc::new(ranges), Arc::new(AtomicUsize::new(0)));
    let began = rt.now();
    let tasks: Vec<_> = (0..parallel)
        .map(|_| {
            let (rt2, bucket, ranges, next) = (rt.clone(), bucket.clone(), ranges.clone(), next.clone());
            rt.spawn(async move {
                let mut took = Vec::new();
                while rt2.now().since(began) < Duration::from_secs(seconds) {
                    let Some((key, at)) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                    let asked = rt2.now();
                    let range = ByteRange::At { offset: *at, len: bytes };
                    let found = bucket.get(key, range, Cause::Read).await?;
                    assert!(found.is_some_and(|f| f.body.len() as u64 == bytes), "{key} is cut short");
                    took.push(rt2.now().since(asked));
                }
                Ok::<_, Error>(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    let elapsed = rt.now().since(began).as_secs_f64();
    took.sort_unstable();
    println!("{} {:.1}", took[took.len() / 2].as_micros(), took.len() as f64 * bytes as f64 / elapsed / 1e6);
    Ok(())
}
