//! Writes and flushes of a journal on this machine's disk, or in the folder `WINDLASS_BENCH_DIR`: `cargo bench --bench journal`.
// It may stop at what it doesn't expect.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use windlass_base::log_record::{Op, Record};
use windlass_base::rt::{RealDisk, RealRuntime, Rt};
use windlass_base::{Lsn, VolumeId};
use windlass_journal::{Journal, JournalConfig};

fn main() {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(figures());
}

async fn replayed(journal: &Journal, after: u64) -> Vec<Record> {
    let mut replay = journal.replay(Lsn(after));
    let mut out = Vec::new();
    while let Some(record) = replay.next().await.unwrap() {
        out.push(record);
    }
    out
}

async fn figures() {
    let dir = tempfile::tempdir_in(std::env::var("WINDLASS_BENCH_DIR").unwrap_or(".".into())).unwrap();
    let rt = Rt::new(RealRuntime::current());
    let config = JournalConfig { dir: dir.path().join("j"), size: 1 << 30, segment: None, key: None };
    let start = rt.now();
    let disk = RealDisk::start();
    let journal =
        Journal::create(rt.clone(), disk.clone(), config.clone(), VolumeId(1), vec![], Lsn(1)).await.unwrap();
    println!("create: {:?}", rt.now().since(start));
    let journal = Arc::new(journal);
    let next = Arc::new(tokio::sync::Mutex::new(1u64));
    for (depth, blocks, flush, seconds) in
        [(1, 1, true, 3), (32, 1, true, 3), (32, 1, false, 3), (8, 256, false, 3), (1, 1, true, 3)]
    {
        let start = rt.now();
        let tasks: Vec<_> = (0..depth)
            .map(|_| {
                let (journal, next, rt2) = (journal.clone(), next.clone(), rt.clone());
                let data = Bytes::from(vec![7; 4096 * blocks]);
                rt.spawn(async move {
                    let mut done = 0u64;
                    while rt2.now().since(start) < Duration::from_secs(seconds) {
                        let mut room = journal.reserve(journal.cost(data.len() as u64)).await.unwrap();
                        {
                            let mut next = next.lock().await;
                            let op = Op::Write { block: *next, data: data.clone() };
                            journal.append(&mut room, &Record { lsn: Lsn(*next), op }).unwrap();
                            journal.trim(Lsn(next.saturating_sub(4096 / blocks as u64)));
                            *next += 1;
                        }
                        if flush {
                            journal.sync(None).await.unwrap();
                        }
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let mut done = 0;
        for task in tasks {
            done += task.await.unwrap();
        }
        journal.sync(None).await.unwrap();
        let rate = done as f64 / rt.now().since(start).as_secs_f64();
        println!(
            "depth {depth}, {blocks} blocks, flush {flush}: {rate:.0}/s, {:.0} MB/s, {:?}",
            rate * blocks as f64 * 4096.0 / 1e6,
            journal.usage()
        );
    }
    let end = *next.lock().await;
    drop(journal);
    rt.sleep(Duration::from_millis(200)).await;
    let start = rt.now();
    let (journal, found) = Journal::open(rt.clone(), disk, config).await.unwrap().unwrap();
    println!("open: {:?}, {} to {} of {end}", rt.now().since(start), found.first_lsn, found.end);
    let start = rt.now();
    let records = replayed(&journal, found.first_lsn.0 - 1).await;
    println!("replay of {}: {:?}", records.len(), rt.now().since(start));
}
