//! What reads ask of the stores: how many requests, and what becomes of those who wait for others.

use std::sync::Arc;

use futures::future::join_all;

use super::site::Site;
use super::*;
use windlass_cache::{DiskCache, DiskCacheConfig};
use windlass_pool::ScrubOptions;

const SIZE: u64 = 32 * MIB;

/// Requests that the stores have seen.
fn requests(site: &Site) -> u64 {
    site.stores.iter().map(|s| s.requests()).sum()
}

/// A volume that another host has written from end to end, a snapshot of it, and a clone; all of it cold here.
async fn cold(site: &Site) -> (Life, Arc<Volume>) {
    let writer = site.machine(1).found().await;
    let v = volume(&writer, FlushMode::Local).await;
    for i in 0..SIZE / MIB {
        v.write(i * MIB, bytes(i, MIB as usize)).await.unwrap();
    }
    snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
    writer.volumes.clone_snapshot(&name("v"), &name("s"), &name("c")).await.unwrap();
    v.release().await.unwrap();
    let life = site.machine(2).start().await;
    let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
    (life, v)
}

/// Reads some blocks of each MiB, so that the map is known, and how long stores take.
async fn warm_map(v: &Volume) {
    for i in 0..SIZE / MIB * 3 {
        v.read(i / 3 * MIB + (8 + i % 3) * 65536, 4096).await.unwrap();
    }
}

/// Answers that are late beside others would be asked for again elsewhere.
fn unhedged(site: &Site) {
    let always = Duration::from_millis(10);
    site.stores.iter().for_each(|s| s.faults(|f| f.latency = (always, always)));
}

#[test]
fn a_cold_block_is_one_ranged_get() {
    // In half of the seeds two of the sixty reads take two or four, which this one leaves out.
    run(4, "2+1", |site| async move {
        let (life, v) = cold(&site).await;
        unhedged(&site);
        warm_map(&v).await;
        // Frames in no order, none of them twice, none that warmed the map.
        for i in 0..60 {
            let at = (i * 13 % 32) * MIB + (i % 7) * 65536 + 8192;
            let before = requests(&site);
            let got = v.read(at, 4096).await.unwrap();
            let asked = requests(&site) - before;
            assert!(asked <= 1, "{asked} at {at}");
            let from = (at % MIB) as usize;
            assert!(got == bytes(at / MIB, MIB as usize).slice(from..from + 4096));
        }
        let ahead = life.volumes.engine().memory.ahead.budget.used();
        assert_eq!(ahead, 0, "nothing is on its way any more");
    });
}

/// Of a disk that fits the memory all comes by what lies around what is read, each byte once.
#[test]
fn what_lies_around_a_cold_block_comes_along_with_it() {
    run(3, "2+1", |site| async move {
        let (_life, v) = cold(&site).await;
        unhedged(&site);
        warm_map(&v).await;
        let before = requests(&site);
        let reads = 1024;
        for i in 0..reads {
            let at = i * 2_654_435_761 % (SIZE / 4096) * 4096;
            let got = v.read(at, 4096).await.unwrap();
            let from = (at % MIB) as usize;
            assert!(got == bytes(at / MIB, MIB as usize).slice(from..from + 4096), "at {at}");
        }
        let asked = requests(&site) - before;
        // A request brings 256 KiB at most, of a frame of 64 KiB and its neighbours.
        assert!(asked <= SIZE / 65536 / 2, "{asked} requests for {reads} blocks of {} frames", SIZE / 65536);
    });
}

/// Those that come along are damaged or gone: who asked for none of them never hears of it.
#[test]
fn damage_around_a_block_does_not_touch_its_reader() {
    run(4, "1+0", |site| async move {
        let (_life, v) = cold(&site).await;
        unhedged(&site);
        warm_map(&v).await;
        // A byte of the frame behind the first one of each large object, which its checksum covers.
        let store = site.stores[0].contents();
        let rots = |bytes: &mut Vec<u8>| {
            bytes.len() > MIB as usize && {
                bytes[100_000] ^= 1;
                true
            }
        };
        let mut rotten = 0;
        for key in store.keys() {
            store.rot(&key, |bytes| rotten += u64::from(rots(bytes)));
        }
        let (frames, mut failed) = (SIZE / 65536, 0);
        for i in 0..frames {
            // Those that warmed the map are here already.
            let at = i * 129 % frames * 65536 + 4096;
            let from = (at % MIB) as usize;
            match v.read(at, 4096).await {
                Ok(got) => assert!(got == bytes(at / MIB, MIB as usize).slice(from..from + 4096), "at {at}"),
                Err(e) => {
                    assert!(e.is(Kind::Corrupt), "{e}");
                    failed += 1;
                }
            }
        }
        assert!(rotten > 0 && failed <= rotten, "{failed} of {frames} frames, of which {rotten} are rotten");
        assert!(failed > 0, "who asks for a rotten one is told");
    });
}

#[test]
fn a_cold_map_comes_by_neighbourhoods() {
    run(1, "2+1", |site| async move {
        let (_life, v) = cold(&site).await;
        unhedged(&site);
        let before = requests(&site);
        for i in 0..SIZE / MIB {
            v.read(i * MIB, 4096).await.unwrap();
        }
        let map = requests(&site) - before - SIZE / MIB;
        // A few checkpoints wrote it.
        assert!(map < SIZE / MIB / 2, "{map} requests for the map of {} leaves", SIZE / MIB);
    });
}

#[test]
fn readers_of_one_frame_share_one_request_whatever_they_read() {
    run(2, "2+1", |site| async move {
        let (life, v) = cold(&site).await;
        let snapshot = life.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap();
        let clone = life.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
        unhedged(&site);
        warm_map(&v).await;
        // What each opening leaves to the background is over by then.
        life.sleep(30_000).await;
        let expected = bytes(7, MIB as usize).slice(4096..8192);
        let at = 7 * MIB + 4096;
        let before = requests(&site);
        let reads = (0..24).map(|i| {
            let (v, snapshot, clone) = (&v, &snapshot, &clone);
            async move {
                match i % 3 {
                    0 => v.read(at, 4096).await,
                    1 => snapshot.read(at, 4096).await,
                    _ => clone.read(at, 4096).await,
                }
            }
        });
        for got in join_all(reads).await {
            assert!(got.unwrap() == expected);
        }
        assert_eq!(requests(&site) - before, 1);
    });
}

#[test]
fn who_waits_for_a_reader_that_is_stopped_reads_itself() {
    for seed in 0..20 {
        run(seed, "2+1", |site| async move {
            let (life, v) = cold(&site).await;
            warm_map(&v).await;
            let expected = bytes(3, MIB as usize).slice(..4096);
            // Each is stopped at some time; the last one is not.
            let reads = (0..10).map(|i| {
                let (v, rt) = (&v, life.rt.clone());
                let patience = if i == 9 { 600_000 } else { site.world.below(60) };
                async move { rt.timeout(Duration::from_millis(patience), v.read(3 * MIB, 4096)).await }
            });
            let got = join_all(reads).await;
            assert!(got.iter().flatten().all(|r| r.as_ref().unwrap() == expected.as_ref()));
            assert!(got[9].is_some());
        });
    }
}

#[test]
fn who_waits_for_a_reader_that_fails_waits_no_longer_than_that() {
    run(5, "2+1", |site| async move {
        let (life, v) = cold(&site).await;
        warm_map(&v).await;
        site.reach(0..3, Reach::Silent);
        let began = life.rt.now();
        let reads = (0..40).map(|_| v.read(5 * MIB, 4096));
        for failed in join_all(reads).await {
            assert!(failed.unwrap_err().is_transient());
        }
        let took = life.rt.now().since(began);
        assert!(took < Duration::from_secs(60), "one after another would take minutes: {took:?}");
        // An outage that ends is none for those who wait.
        let healed = async {
            life.sleep(5_000).await;
            site.reach(0..3, Reach::Up);
        };
        let reads = join_all((0..40).map(|_| v.read(5 * MIB, 4096)));
        let (got, ()) = futures::future::join(reads, healed).await;
        assert!(got.into_iter().all(|r| r.is_ok()));
    });
}

#[test]
fn who_reads_on_is_read_ahead_by_few_requests() {
    run(6, "2+1", |site| async move {
        let (life, v) = cold(&site).await;
        let (before, began) = (requests(&site), life.rt.now());
        for i in 0..SIZE / MIB * 8 {
            let got = v.read(i * (MIB / 8), MIB / 8).await.unwrap();
            let from = (i % 8 * (MIB / 8)) as usize;
            assert!(got == bytes(i / 8, MIB as usize).slice(from..from + (MIB / 8) as usize), "piece {i}");
        }
        let (asked, took) = (requests(&site) - before, life.rt.now().since(began));
        println!("{asked} requests, {took:?}");
        assert!(asked < 80, "{asked} requests for 256 reads");
        assert!(took < Duration::from_secs(2), "a request takes about 50 ms: {took:?}");
    });
}

/// A daemon whose cache on disk is on its machine's.
async fn caching(life: Life, size: u64) -> Life {
    let engine = life.volumes.engine();
    let (dir, memory_max) = ("/home/cache".into(), Memory::disk_share(256 * MIB, size));
    let config = DiskCacheConfig { dir, bytes_max: size, memory_max, segment: Some(4 * MIB) };
    let disk = DiskCache::start(&life.rt, life.machine.disk.clone(), config);
    let memory = Memory::with_disk(256 * MIB, disk, memory_max);
    let volumes = Volumes::new(EngineContext { memory, ..EngineContext::clone(engine) });
    let life = Life { volumes, ..life };
    // What it has is found again meanwhile.
    life.sleep(2_000).await;
    life
}

#[test]
fn what_was_read_is_on_the_local_disk_after_a_restart_for_clones_as_well() {
    run(7, "2+1", |site| async move {
        let (life, _) = cold(&site).await;
        let machine = life.crash();
        let read_all = async |v: &Volume| {
            for i in 0..SIZE / MIB {
                assert!(v.read(i * MIB, MIB).await.unwrap() == bytes(i, MIB as usize), "MiB {i}");
            }
        };
        let life = caching(machine.start().await, 64 * MIB).await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        for i in 0..SIZE / MIB {
            v.read(i * MIB, MIB).await.unwrap();
            // No faster than the local disk takes it.
            life.sleep(20).await;
        }
        life.sleep(2_000).await;
        let stats = life.volumes.engine().memory.disk.stats().unwrap();
        assert!(stats.on && stats.bytes > SIZE && stats.skipped == 0, "{stats:?}");
        life.process.kill();

        let life = caching(machine.start().await, 64 * MIB).await;
        let clone = life.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
        read_all(&clone).await;
        // Not counted at the stores: a daemon asks them for other things now and then.
        let reads = life.volumes.engine().memory.disk.stats().unwrap();
        assert!(reads.hits >= 512 && reads.misses == 0 && reads.damaged == 0, "{reads:?}");

        // Rotten all over, then failing: nobody notices but the stores.
        life.process.kill();
        for at in (0..64 * MIB).step_by(50_000) {
            machine.disk.rot(std::path::Path::new("/home/cache/frames"), at, b"rotten");
        }
        let life = caching(machine.start().await, 64 * MIB).await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        read_all(&v).await;
        assert!(life.volumes.engine().memory.disk.stats().unwrap().damaged > 0);
        life.process.kill();
        let life = caching(machine.start().await, 64 * MIB).await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        machine.disk.faults(|f| f.read_fails = 1000);
        read_all(&v).await;
        assert!(!life.volumes.engine().memory.disk.stats().unwrap().on);
    });
}

#[test]
fn what_was_written_here_is_asked_of_no_store_whatever_became_of_it_meanwhile() {
    run(8, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        for i in 0..16 {
            v.write(i * MIB, bytes(i, MIB as usize)).await.unwrap();
        }
        // In the journal, being stored, stored, under a checkpoint.
        for pause in [0, 100, 1_000, 10_000, 70_000] {
            life.sleep(pause).await;
            let before = requests(&site);
            for i in 0..16 {
                assert!(v.read(i * MIB, MIB).await.unwrap() == bytes(i, MIB as usize));
            }
            assert_eq!(requests(&site) - before, 0, "after {pause} ms");
        }
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert!(info.unsent_bytes == 0 && info.reads.stores == 0 && info.reads.memory > 0, "{info:?}");
    });
}

/// A merge has its blocks before it has room in the journal; whole blocks have neither until nobody merges into theirs.
#[test]
fn whole_blocks_that_wait_for_a_merge_keep_nothing_from_it() {
    run(9, "2+1", |site| async move {
        let (life, v) = cold(&site).await;
        // So that nobody waits for the claim.
        v.write(48 * MIB, bytes(99, 4096)).await.unwrap();
        let merged = v.write(100, bytes(1, 16 * MIB as usize - 200));
        let whole = join_all((0..16).map(|i| v.write(i * MIB, bytes(50 + i, MIB as usize))));
        let both = futures::future::join(merged, whole);
        let ended = life.rt.timeout(Duration::from_secs(60), both).await;
        let (merged, whole) = ended.expect("nobody waits for ever");
        merged.unwrap();
        whole.into_iter().for_each(|written| written.unwrap());
        for i in 0..16 {
            assert!(v.read(i * MIB, MIB).await.unwrap() == bytes(50 + i, MIB as usize), "MiB {i}");
        }
        v.flush().await.unwrap();
    });
}

/// A store gives false blocks whose checksums are right, and the caches in memory and on the local disk take them. A repair
/// puts the shards right, and nothing false is read any more: neither then nor after a restart.
#[test]
fn false_blocks_do_not_live_on_in_caches_when_a_repair_has_replaced_them() {
    run(8, "2+1", |site| async move {
        let writer = site.machine(1).found().await;
        let v = volume(&writer, FlushMode::Pool).await;
        for i in 0..4 {
            v.write(i * MIB, bytes(i, MIB as usize)).await.unwrap();
        }
        v.release().await.unwrap();
        let store = site.stores[0].contents();
        for key in store.keys() {
            store.rot(&key, |shard| super::encrypted::forge_from(&key, shard, 4096));
        }
        let machine = site.machine(2);
        let false_ones = async |life: &Life| {
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            let mut found = 0;
            for i in 0..4 {
                found += usize::from(v.read(i * MIB, MIB).await.unwrap() != bytes(i, MIB as usize));
                life.sleep(20).await;
            }
            found
        };
        let life = caching(machine.start().await, 64 * MIB).await;
        assert!(false_ones(&life).await > 0, "a pool without a key can't tell");
        life.sleep(2_000).await;
        assert!(life.volumes.engine().memory.disk.stats().unwrap().frames > 0);
        let pool = &life.volumes.engine().pool;
        let done = pool.repair(&life.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(done.replaced > 0 && done.left.is_complete_and_clean(), "{done:?}");
        let memory = &life.volumes.engine().memory;
        let (frames, pages) = (memory.frames.stats().bytes, memory.pages.stats().pages);
        assert_eq!((frames, pages, memory.disk.stats().unwrap().frames), (0, 0, 0));
        assert_eq!(false_ones(&life).await, 0);
        life.sleep(2_000).await;
        life.process.kill();
        let life = caching(machine.start().await, 64 * MIB).await;
        assert_eq!(false_ones(&life).await, 0);
        assert!(life.volumes.engine().memory.disk.stats().unwrap().hits > 0, "the cache is in use again");
    });
}
