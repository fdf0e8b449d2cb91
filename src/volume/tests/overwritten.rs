//! A volume overwritten many times: the space that it takes, and what that costs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::volume::handle::Known;

/// Bytes of the volume, and how often it is written over.
fn size() -> (u64, u64) {
    let of = |name: &str, usual| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(usual);
    (of("MIB", 256) * MIB, of("PASSES", 8))
}

fn block(n: u64) -> Bytes {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(4096);
    for _ in 0..512 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    out.into()
}

/// One pass of random writes at depth 8; the slowest of 100 took so long.
async fn pass(v: &Arc<Volume>, rt: &Rt, skewed: bool, count: u64) -> Duration {
    let blocks = v.size() / 4096;
    let tasks = (0..8).map(|_| {
        let (v, rt2) = (v.clone(), rt.clone());
        rt.spawn(async move {
            let mut took = Vec::new();
            for _ in 0..count / 8 {
                let hot = rt2.below(10) < 8;
                let n = match (skewed, hot) {
                    (false, _) => rt2.below(blocks),
                    (true, true) => rt2.below(blocks / 5) * 5,
                    (true, false) => rt2.below(blocks / 5 * 4) / 4 * 5 + 1 + rt2.below(4),
                };
                let began = rt2.now();
                v.write(n % blocks * 4096, block(rt2.random())).await.unwrap();
                took.push(rt2.now().since(began));
            }
            took
        })
    });
    let mut took = Vec::new();
    for t in tasks.collect::<Vec<_>>() {
        took.extend(t.await.unwrap());
    }
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

#[test]
#[ignore = "figures, not a test"]
fn space_and_amplification() {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (size, passes) = size();
    for skewed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        tokio.block_on(async {
            let volumes = super::speed::life(dir.path(), "1+0").await;
            volumes.engine().pool.set(|s| s.assign("grace=100ms")).await.unwrap();
            let rt = volumes.engine().rt.clone();
            volumes.create(&name("v"), size, VolumeSettings::default()).await.unwrap();
            let v = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            for n in 0..size / 4096 {
                v.write(n * 4096, block(n)).await.unwrap();
            }
            let mut before = (0, 0);
            for n in 0..passes {
                let p99 = pass(&v, &rt, skewed, size / 4096).await;
                let Known::Live(session) = v.known() else { panic!("it is open") };
                let (wrote, packed) = (session.writer.stored_bytes(), session.packed_bytes.load(Ordering::Relaxed));
                let info = volumes.info(&name("v")).await.unwrap();
                let live = info.live_bytes.unwrap();
                println!(
                    "skewed {skewed} pass {n}: space {:.2} x live, chunks and maps {:.2}, packs {:.2} a byte written, p99 {p99:?}",
                    info.stored_bytes as f64 / live as f64,
                    (wrote - before.0) as f64 / size as f64,
                    (packed - before.1) as f64 / size as f64,
                );
                before = (wrote, packed);
            }
        });
    }
}
