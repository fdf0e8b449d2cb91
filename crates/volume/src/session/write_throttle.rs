//! Writes are slowed while collection is behind (docs/decisions.md): when objects take more space than it aims at and it
//! still finds work, each write waits its turn, the longer the more it is behind. So space stays bounded, latency rises
//! smoothly, and nothing waits in memory that a checkpoint must store first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use windlass_base::rt::Instant;

const MIB: u64 = 1 << 20;
/// Per mille of what is live, above the aim, at which writes begin to be slowed. For each `WIDTH` further
/// they take `STEP` more.
const BEGINS: u64 = 20;
const WIDTH: u64 = 100;
/// Time that a MiB of writes takes more for each `WIDTH`, with one data shard a chunk; with more the stores
/// take more at once.
const STEP: Duration = Duration::from_millis(80);
const SLOWEST: Duration = Duration::from_millis(400);
/// Longest time that a write waits for this.
const LONGEST: Duration = Duration::from_millis(900);

/// The throttle of a volume's writes, as the module describes it.
#[derive(Debug, Default)]
pub struct WriteThrottle {
    /// Bytes that somebody needs, by the recorded table. `counted` has the bytes of all objects.
    pub live: AtomicU64,
    pub counted: AtomicU64,
    /// Number of callers that wait for all to be packed that pays.
    pub urged: AtomicU64,
    /// Number of the reasons so far to look for something to pack. `looked` has up to which of them that was
    /// looked for in vain.
    asked: AtomicU64,
    looked: AtomicU64,
    /// Time that a MiB of writes takes, in ns; 0: writes are free.
    mib: AtomicU64,
    /// Time at which the next write may go.
    turn: Mutex<Instant>,
}

impl WriteThrottle {
    /// Notes that there may be something to pack.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of the last reason to look; the packer takes it down before it looks.
    pub fn last_asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Notes that a look that began at this reason found nothing.
    pub fn found_nothing(&self, asked: u64) {
        self.looked.store(asked, Ordering::Relaxed);
    }

    /// Tells whether every reason to look was followed, and nothing is left to pack.
    pub fn settled(&self) -> bool {
        self.looked.load(Ordering::Relaxed) == self.last_asked()
    }

    /// Sets how much writes are slowed. `above`: per mille of what is live that objects take above the aim.
    /// `k`: data shards a chunk.
    pub fn set(&self, above: u64, k: usize) {
        let steps = above.saturating_sub(BEGINS) as f64 / WIDTH as f64;
        let mib = STEP.mul_f64(steps).min(SLOWEST) / k as u32;
        self.mib.store(mib.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Returns when a write of so many bytes may go, and moves the next write's turn on.
    pub fn turn(&self, now: Instant, bytes: u64) -> Instant {
        let mib = self.mib.load(Ordering::Relaxed);
        if mib == 0 {
            return now;
        }
        let takes = Duration::from_nanos((u128::from(bytes) * u128::from(mib) / u128::from(MIB)) as u64);
        let mut turn = self.turn.lock();
        let mine = (*turn).max(now);
        *turn = (mine + takes).min(now + LONGEST);
        mine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_take_turns_when_collection_is_behind() {
        let (pace, now) = (WriteThrottle::default(), Instant(Duration::from_secs(7)));
        assert_eq!((pace.turn(now, 9 * MIB), pace.turn(now, MIB)), (now, now));
        pace.set(BEGINS + WIDTH, 1);
        assert_eq!(pace.turn(now, 4 * MIB), now, "the first finds the way free");
        assert_eq!(pace.turn(now, MIB / 2).since(now), STEP * 4);
        assert_eq!(pace.turn(now, MIB).since(now), STEP * 9 / 2);
        for _ in 0..100 {
            assert!(pace.turn(now, MIB).since(now) <= LONGEST);
        }
        pace.set(u64::MAX, 4);
        assert_eq!(pace.mib.load(Ordering::Relaxed), 100_000_000);
        pace.set(BEGINS, 1);
        assert_eq!(pace.turn(now, MIB), now);
    }
}
