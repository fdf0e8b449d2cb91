//! Whole volumes in the simulated world.

mod boot_storm;
mod changes;
mod checks;
mod clocks;
mod clones;
mod collecting;
mod copies;
mod costs;
mod damaged;
mod encrypted;
mod flatten;
mod forest;
mod former_owner;
mod full;
mod handover;
mod history;
mod huge;
mod limits;
mod locks;
mod lost_history;
mod mended;
mod mirror;
mod moves;
mod moving;
mod older;
mod order;
mod orphans;
mod outage;
mod place;
mod readers;
mod reading;
mod recompress;
mod renames;
mod replaced;
mod reports;
mod requests;
mod rollback;
mod rotation;
mod set_back;
mod settings;
mod site;
mod states;
mod storm;
mod takeovers;
mod trash;
mod unmounted;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use site::{Life, name, run};
use windlass_base::rt::Rt;
use windlass_base::units::MIB;
use windlass_base::{Kind, Name};
use windlass_store::Reach;

/// Asks what would be refused of a removal for good.
const LOOK: Removal = Removal { clean: false, for_good: true };

/// The seeds of a test: `VARIABLE=SEED[..END]` replays.
fn seeds(variable: &str, usual: &str) -> std::ops::Range<u64> {
    let asked = std::env::var(variable).unwrap_or(usual.into());
    let (first, end) = asked.split_once("..").map_or((asked.as_str(), None), |(a, b)| (a, Some(b)));
    let first: u64 = first.parse().unwrap();
    first..end.map_or(first + 1, |end| end.parse().unwrap())
}

fn bytes(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        out.push((state >> 56) as u8);
    }
    out.into()
}

/// What compresses: by zstd better than by lz4.
fn text(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 16);
    while out.len() < len {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let word =
            ["lorem ", "ipsum ", "dolor ", "sit ", "amet, ", "elit ", "sed ", "do "][(state >> 61) as usize];
        out.extend_from_slice(word.as_bytes());
    }
    out.truncate(len);
    out.into()
}

fn small(flush: FlushMode) -> VolumeSettings {
    VolumeSettings { flush, journal_size: VolumeSettings::JOURNAL_MIN, ..VolumeSettings::default() }
}

async fn volume(life: &Life, flush: FlushMode) -> std::sync::Arc<Volume> {
    life.volumes.create(&name("v"), 64 * MIB, small(flush)).await.unwrap();
    life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap()
}

#[test]
fn what_is_written_is_read_at_any_offset() {
    run(1, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        assert_eq!(v.read(0, 8192).await.unwrap(), vec![0; 8192]);
        assert!(life.volumes.info(&name("v")).await.unwrap().released, "reading claims nothing");
        let mut model = vec![0u8; 8 * MIB as usize];
        let world = site.world.clone();
        for i in 0..200u64 {
            let len = 1 + world.below(100_000) as usize;
            let at = world.below(model.len() as u64 - len as u64) as usize;
            if world.below(4) == 0 {
                v.zero(at as u64, len as u64).await.unwrap();
                model[at..at + len].fill(0);
            } else {
                let data = bytes(i, len);
                model[at..at + len].copy_from_slice(&data);
                v.write(at as u64, data).await.unwrap();
            }
            if i % 50 == 49 {
                v.flush().await.unwrap();
                life.sleep(8_000).await;
            }
        }
        assert!(v.read(0, model.len() as u64).await.unwrap() == model);
        for _ in 0..50 {
            let len = 1 + world.below(200_000) as usize;
            let at = world.below(model.len() as u64 - len as u64) as usize;
            assert!(v.read(at as u64, len as u64).await.unwrap() == model[at..at + len]);
        }
        life.sleep(70_000).await;
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert_eq!((info.unsent_bytes, info.unsent_age_ms), (0, Some(0)));
        assert!(info.journal_bytes < 20 * MIB, "trimmed but for segments that are being filled: {info:?}");
        assert!(info.mapped_bytes > 0 && info.stored_bytes > 0 && info.open_here, "{info:?}");
        assert!(v.read(0, model.len() as u64).await.unwrap() == model);
        // What is mapped is told as it is now, not as it was recorded: half of it has just been overwritten, the rest trimmed.
        v.zero(0, 8 * MIB).await.unwrap();
        v.write(MIB, bytes(9, 2 * MIB as usize)).await.unwrap();
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().mapped_bytes, 2 * MIB);
        v.write(MIB + 4096, bytes(9, 2 * MIB as usize)).await.unwrap();
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().mapped_bytes, 2 * MIB + 4096);
        assert!(v.read(64 * MIB - 1, 2).await.unwrap_err().is(Kind::Invalid));
    });
}

#[test]
fn a_released_volume_opens_elsewhere_with_everything() {
    run(2, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        let data = bytes(1, 3 * MIB as usize);
        v.write(1000, data.clone()).await.unwrap();
        v.release().await.unwrap();
        assert!(v.read(1000, data.len() as u64).await.unwrap() == data, "inert again");
        let other = site.machine(2).start().await;
        let w = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(w.read(1000, data.len() as u64).await.unwrap() == data);
        w.write(0, Bytes::from_static(b"second")).await.unwrap();
        w.flush().await.unwrap();
        // The first has read an older state: its session must not write on it.
        let refused = v.write(0, Bytes::from_static(b"first")).await.unwrap_err();
        assert!(refused.is(Kind::Fenced) && refused.to_string().contains("host2"), "{refused}");
        let refused = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
        assert!(refused.is(Kind::Owned) && refused.to_string().contains("host2"), "{refused}");
        other.volumes.release(&name("v")).await.unwrap();
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert_eq!(v.read(0, 6).await.unwrap(), "second");
        v.write(0, Bytes::from_static(b"first!")).await.unwrap();
    });
}

#[test]
fn a_crash_keeps_what_was_flushed_locally() {
    for seed in 0..5 {
        run(seed, "2+1", |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            let data = bytes(1, 5 * MIB as usize);
            v.write(777, data.clone()).await.unwrap();
            v.flush().await.unwrap();
            if seed % 2 == 0 {
                life.sleep(3_000).await;
            }
            let life = life.crash().start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(v.read(777, data.len() as u64).await.unwrap() == data);
            v.write(0, Bytes::from_static(b"again")).await.unwrap();
            v.flush().await.unwrap();
            let life = life.crash().start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert_eq!(v.read(0, 5).await.unwrap(), "again");
            assert!(v.read(777, data.len() as u64).await.unwrap() == data);
        });
    }
}

/// Its clients may connect anew, know nothing of its death, and flush then.
#[test]
fn a_killed_process_takes_nothing_acknowledged_with_it() {
    for seed in 0..20 {
        run(seed, "2+1", move |site| async move {
            let mode = if seed % 2 == 0 { FlushMode::Local } else { FlushMode::Pool };
            let mut life = site.machine(1).found().await;
            let mut v = volume(&life, mode).await;
            let model = Arc::new(Mutex::new(vec![0; MIB as usize]));
            let acknowledged = Arc::new(AtomicUsize::new(0));
            for _ in 0..4 {
                // Owned from here on: what comes takes no request.
                v.write(2 * MIB, bytes(seed, 4096)).await.unwrap();
                let (seen, written, rt) = (model.clone(), v.clone(), life.rt.clone());
                let count = acknowledged.clone();
                let client = life.rt.spawn(async move {
                    loop {
                        let len = 1 + rt.below(40_000);
                        let at = rt.below(MIB - len);
                        let data = bytes(rt.random(), len as usize);
                        if rt.below(5) == 0 {
                            written.zero(at, len).await.unwrap();
                            written.keep().await.unwrap();
                            seen.lock()[at as usize..(at + len) as usize].fill(0);
                        } else {
                            written.write(at, data.clone()).await.unwrap();
                            written.keep().await.unwrap();
                            seen.lock()[at as usize..(at + len) as usize].copy_from_slice(&data);
                        }
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
                client.detach();
                // Long enough for some writes; the one under way may be there in part.
                site.world.process().rt().sleep(Duration::from_micros(site.world.below(30_000))).await;
                drop(v);
                life = life.kill().start().await;
                v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                let found = v.read(0, MIB).await.unwrap();
                let model = &mut *model.lock();
                let differ = found.iter().zip(&*model).filter(|(a, b)| a != b).count();
                assert!(differ <= 40_000, "{differ} bytes are not what was acknowledged");
                let (first, last) = (0..MIB as usize)
                    .filter(|at| found[*at] != model[*at])
                    .fold((usize::MAX, 0), |(first, last), at| (first.min(at), last.max(at)));
                assert!(
                    first == usize::MAX || last - first < 40_000,
                    "more than the write under way differs"
                );
                model.copy_from_slice(&found);
            }
            let acknowledged = acknowledged.load(Ordering::Relaxed);
            assert!(acknowledged > 10, "{acknowledged}");
        });
    }
}

/// What stores have taken is trimmed at once when writes wait for it, not when writes were confirmed long ago.
#[test]
fn a_full_journal_is_emptied_as_fast_as_stores_take_what_it_holds() {
    run(4, "2+1", |mut site| async move {
        site.tuning.journal = Some((8 * MIB, 2 * MIB));
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        // Chunks need the slow one as well, heads only two of three: a round is over before a chunk is stored.
        for (store, ms) in site.stores.iter().zip([5, 5, 150]) {
            let half = Duration::from_millis(ms);
            store.faults(|f| f.latency = (half, half));
        }
        let (data, began) = (bytes(2, MIB as usize), life.rt.now());
        for i in 0..48 {
            v.write(i * MIB, data.clone()).await.unwrap();
        }
        let took = life.rt.now().since(began);
        assert!(took < Duration::from_secs(15), "{took:?}");
    });
}

/// Whatever a write waits for when it is dropped.
#[test]
fn writes_that_are_given_up_leave_nothing_behind() {
    for seed in 50..60 {
        run(seed, "2+1", |mut site| async move {
            site.tuning.journal = Some((8 * MIB, 2 * MIB));
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            let slow = Duration::from_millis(100);
            site.stores.iter().for_each(|s| s.faults(|f| f.latency = (slow, slow)));
            let writes = (0..60).map(|i| {
                let (v, rt, world) = (&v, life.rt.clone(), &site.world);
                let patience = Duration::from_millis(world.below(1_500));
                let (at, len) = (world.below(3 * MIB), 1 + world.below(MIB));
                async move { rt.timeout(patience, v.write(at, bytes(i, len as usize))).await }
            });
            let done = futures::future::join_all(writes).await;
            assert!(done.into_iter().flatten().all(|written| written.is_ok()));
            life.sleep(30_000).await;
            assert_eq!(life.volumes.engine().memory.overlay.used(), 0);
            let data = bytes(99, 4 * MIB as usize);
            let written = async {
                v.write(0, data.clone()).await.unwrap();
                v.flush().await.unwrap();
            };
            life.rt.timeout(Duration::from_secs(60), written).await.expect("writes go on");
            assert!(v.read(0, 4 * MIB).await.unwrap() == data);
            // Nor is there a gap in the journal.
            let life = life.crash().start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(v.read(0, 4 * MIB).await.unwrap() == data);
        });
    }
}

/// Who connects while the first write makes this host the owner gets what it writes to.
#[test]
fn a_volume_opens_while_its_first_write_claims_it() {
    for seed in 60..70 {
        run(seed, "2+1", |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            for round in 0..8 {
                let written = std::sync::atomic::AtomicBool::new(false);
                let order = std::sync::atomic::Ordering::Relaxed;
                let write = async {
                    v.write(0, bytes(round, 4096)).await.unwrap();
                    written.store(true, order);
                };
                let opens = async {
                    while !written.load(order) {
                        let again = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                        assert!(std::sync::Arc::ptr_eq(&again, &v));
                    }
                };
                futures::future::join(write, opens).await;
                v.release().await.unwrap();
            }
        });
    }
}
