//! The cache on a simulated disk that tears, rots, fills up and fails.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{DiskCache, DiskCacheConfig, DiskStats};
use crate::FrameKey;
use windlass_base::rt::Rt;
use windlass_base::rt::sim::{Sim, SimDisk, World};
use windlass_base::{ChunkId, Epoch, Seq, VolumeId};

const SEGMENT: u64 = 64 << 10;

fn key(n: u64) -> FrameKey {
    FrameKey { chunk: ChunkId { volume: VolumeId(7), epoch: Epoch(1), seq: Seq(n / 100) }, offset: n % 100 }
}

/// Makes 1 to 3 KiB that only this key has.
fn frame(n: u64) -> Bytes {
    let len = 1024 + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize % 2048;
    (0..len).map(|i| (n as usize * 31 + i * 7) as u8).collect::<Vec<_>>().into()
}

struct Host {
    world: World,
    rt: Rt,
    disk: Arc<SimDisk>,
}

impl Host {
    fn start(&self, bytes_max: u64) -> DiskCache {
        self.start_with(bytes_max, 1 << 20)
    }

    fn start_with(&self, bytes_max: u64, memory_max: u64) -> DiskCache {
        let config = DiskCacheConfig { dir: "/cache".into(), bytes_max, memory_max, segment: Some(SEGMENT) };
        DiskCache::start(&self.rt, self.disk.clone(), config)
    }

    /// Waits until what was begun is done.
    async fn settle(&self) {
        self.rt.sleep(Duration::from_secs(2)).await;
    }

    async fn put_all(&self, cache: &DiskCache, range: std::ops::Range<u64>) {
        for n in range {
            cache.put(&key(n), &frame(n));
            if n % 50 == 49 {
                self.settle().await;
            }
        }
        self.settle().await;
    }

    /// Counts the frames of the range that the cache has; each must be what was put.
    async fn found(&self, cache: &DiskCache, range: std::ops::Range<u64>) -> u64 {
        let mut found = 0;
        for n in range {
            if let Some(got) = cache.get(&key(n)).await {
                assert!(got == frame(n), "frame {n} is another");
                found += 1;
            }
        }
        found
    }

    fn file(&self) -> Option<u64> {
        let files = self.disk.files();
        files.iter().find(|(path, _)| path == Path::new("/cache/frames")).map(|(_, len)| *len)
    }
}

fn stats(cache: &DiskCache) -> DiskStats {
    cache.stats().expect("there is a cache")
}

fn run<F>(seed: u64, scenario: impl FnOnce(Host) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let sim = Sim::new(seed);
    let world: &World = &sim;
    let (rt, disk) = (world.rt(), Arc::new(SimDisk::new(world)));
    sim.run(scenario(Host { world: world.clone(), rt, disk })).unwrap();
}

#[test]
fn what_was_put_is_there_after_a_restart_whether_segments_were_closed_or_not() {
    run(1, |host| async move {
        let cache = host.start(8 * SEGMENT);
        host.settle().await;
        assert!(cache.get(&key(1)).await.is_none());
        host.put_all(&cache, 0..100).await;
        assert_eq!(host.found(&cache, 0..101).await, 100);
        let stats = stats(&cache);
        let bytes: u64 = (0..100).map(|n| frame(n).len() as u64).sum();
        assert_eq!((stats.frames, stats.bytes, stats.hits), (100, bytes, 100));
        assert!(stats.on && stats.trouble.is_none() && stats.bytes_max == 8 * SEGMENT && stats.skipped == 0);
        for size in [8, 6, 16] {
            drop(cache.clone());
            let again = host.start(size * SEGMENT);
            assert_eq!(host.found(&again, 0..1).await, 0, "what it has is found again in the background");
            host.settle().await;
            assert_eq!(host.found(&again, 0..100).await, 100, "{size}");
        }
        // Of another make: begun anew.
        let config = DiskCacheConfig {
            dir: "/cache".into(),
            bytes_max: 8 * SEGMENT,
            memory_max: 1 << 20,
            segment: Some(SEGMENT / 2),
        };
        let other = DiskCache::start(&host.rt, host.disk.clone(), config);
        host.settle().await;
        assert_eq!(host.found(&other, 0..100).await, 0);
        host.put_all(&other, 0..10).await;
        assert_eq!(host.found(&other, 0..10).await, 10);
    });
}

#[test]
fn what_was_emptied_is_empty_after_a_restart_as_well() {
    run(3, |host| async move {
        let cache = host.start(8 * SEGMENT);
        host.settle().await;
        host.put_all(&cache, 0..100).await;
        let before = cache.emptied();
        cache.put(&key(100), &frame(100));
        cache.empty().await;
        assert_eq!(host.found(&cache, 0..101).await, 0);
        // It was asked for before.
        cache.put_since(before, &key(101), &frame(101));
        cache.put_since(cache.emptied(), &key(102), &frame(102));
        host.settle().await;
        assert_eq!((host.found(&cache, 0..102).await, host.found(&cache, 102..103).await), (0, 1));
        drop(cache);
        let again = host.start(8 * SEGMENT);
        // While what the file has is being found again.
        again.empty().await;
        host.settle().await;
        assert_eq!(host.found(&again, 0..103).await, 0);
        host.put_all(&again, 0..10).await;
        drop(again);
        let again = host.start(8 * SEGMENT);
        host.settle().await;
        assert_eq!(host.found(&again, 0..103).await, 10);
    });
}

#[test]
fn it_is_bounded_and_what_is_asked_for_again_outlives_a_scan() {
    run(2, |host| async move {
        // About 290 frames.
        let cache = host.start(10 * SEGMENT);
        host.settle().await;
        host.put_all(&cache, 0..100).await;
        for _ in 0..3 {
            assert_eq!(host.found(&cache, 0..100).await, 100);
        }
        host.put_all(&cache, 1000..3000).await;
        assert!(host.file().unwrap() <= 10 * SEGMENT);
        let kept = host.found(&cache, 0..100).await;
        assert!(kept >= 95, "{kept} of 100 after a scan of seven times its size");
        let last = host.found(&cache, 2900..3000).await;
        assert!(last >= 50, "{last}: what came last is there");
        // Nobody asks for them any more: in time others get their room.
        for round in 0..6 {
            let some = 5000 + round * 200..5200 + round * 200;
            host.put_all(&cache, some.clone()).await;
            host.found(&cache, some.clone()).await;
            host.put_all(&cache, 9000 + round * 1000..9900 + round * 1000).await;
        }
        assert!(host.found(&cache, 0..100).await < 60);
        assert!(stats(&cache).bytes <= 10 * SEGMENT);
    });
}

#[test]
fn what_comes_back_soon_after_it_went_is_kept() {
    run(3, |host| async move {
        let cache = host.start(10 * SEGMENT);
        host.settle().await;
        host.put_all(&cache, 0..400).await;
        // The first went; asking for those that are there would prove them.
        assert!(!cache.has(&key(0)) && !cache.has(&key(50)));
        host.put_all(&cache, 0..50).await;
        host.put_all(&cache, 1000..2000).await;
        let kept = host.found(&cache, 0..50).await;
        assert!(kept >= 40, "{kept} of 50: they came twice, what came after them once");
    });
}

#[test]
fn its_memory_is_bounded_too() {
    run(4, |host| async move {
        let cache = host.start_with(16 * SEGMENT, (256 << 10) + 100 * super::index::INDEX_ENTRY);
        host.settle().await;
        host.put_all(&cache, 0..2000).await;
        let stats = stats(&cache);
        assert!(stats.frames <= 100 && stats.frames > 20, "{stats:?}");
        assert!(host.found(&cache, 1900..2000).await > 0, "what came last has its place");
    });
}

#[test]
fn a_full_disk_turns_it_off_and_gets_its_space_back() {
    run(5, |host| async move {
        host.disk.faults(|f| f.capacity = 3 * SEGMENT);
        let cache = host.start(16 * SEGMENT);
        host.settle().await;
        host.put_all(&cache, 0..300).await;
        let stats = stats(&cache);
        assert!(!stats.on && stats.trouble.as_ref().is_some_and(|t| t.contains("full")), "{stats:?}");
        assert_eq!(host.found(&cache, 0..300).await, 0);
        assert_eq!(host.file(), None);
        cache.put(&key(1), &frame(1));
        host.disk.faults(|f| f.capacity = u64::MAX);
        let again = host.start(16 * SEGMENT);
        host.settle().await;
        host.put_all(&again, 0..300).await;
        assert_eq!(host.found(&again, 0..300).await, 300);
    });
}

#[test]
fn a_disk_that_fails_or_hangs_turns_it_off() {
    for (seed, hangs) in [(6, false), (7, true)] {
        run(seed, move |host| async move {
            let cache = host.start(16 * SEGMENT);
            host.settle().await;
            host.put_all(&cache, 0..50).await;
            host.disk.faults(|f| match hangs {
                false => f.read_fails = 1000,
                true => f.latency = (Duration::from_secs(60), Duration::from_secs(60)),
            });
            let began = host.rt.now();
            assert!(cache.get(&key(1)).await.is_none());
            assert!(host.rt.now().since(began) < Duration::from_secs(3));
            assert!(!stats(&cache).on);
            host.disk.faults(|f| *f = Default::default());
            assert!(cache.get(&key(1)).await.is_none());
            // The file of before is there for the next start.
            let again = host.start(16 * SEGMENT);
            host.settle().await;
            assert_eq!(host.found(&again, 0..50).await, 50);
        });
    }
}

#[test]
fn no_rot_no_torn_write_and_no_restart_makes_it_lie() {
    for seed in 0..60 {
        run(seed, |host| async move {
            let world = &host.world;
            let size = (4 + world.below(8)) * SEGMENT;
            let mut cache = host.start(size);
            for _ in 0..12 {
                match world.below(5) {
                    0 => {
                        host.disk.power_loss();
                        cache = host.start(size);
                    }
                    1 => cache = host.start(size),
                    2 => {
                        let at = world.below(size);
                        let junk = vec![world.below(256) as u8; 1 + world.below(3000) as usize];
                        host.disk.rot(Path::new("/cache/frames"), at, &junk);
                    }
                    _ => {}
                }
                host.settle().await;
                let first = world.below(600);
                host.put_all(&cache, first..first + 150).await;
                let from = world.below(600);
                host.found(&cache, from..from + 200).await;
                assert!(host.file().unwrap_or(0) <= size + 3000);
            }
            host.put_all(&cache, 5000..5020).await;
            let works = host.found(&cache, 5000..5020).await;
            assert!(works >= 18, "{works} of 20 after all that: {:?}", stats(&cache));
        });
    }
}
