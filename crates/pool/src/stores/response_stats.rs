//! How quickly a store answers, and how often it fails: what the hedge delay and the status line are made of.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use windlass_base::rt::Instant;

/// Number of answers that are remembered.
const RING: usize = 128;
/// Number of the newest answers by which it is told whether a store is slow now.
const RECENT: usize = 9;
/// Upper ends of the size classes of data gets; the last class has no end.
const CLASSES: [u64; 3] = [128 << 10, 1 << 20, 4 << 20];

/// Rough size of what a data get asks for: a get of 16 MiB says nothing about how long one of 4 KiB may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SizeClass(usize);

impl SizeClass {
    pub(crate) fn of(len: u64) -> SizeClass {
        SizeClass(CLASSES.iter().position(|end| len <= *end).unwrap_or(CLASSES.len()))
    }
}

#[derive(Debug, Default)]
struct Ring {
    micros: VecDeque<u32>,
    /// The times of `micros` in ascending order: they are asked for before every request.
    sorted: Vec<u32>,
    requests: u64,
    /// Outcomes of the last requests, in order: true for each that failed. `failed` is how many did.
    failures: VecDeque<bool>,
    failed: usize,
}

/// Latencies of the last answers, and totals.
#[derive(Debug, Default)]
pub struct Traffic {
    all: Mutex<Ring>,
    /// Gets of data alone, by size class: puts, registers and labels would blur what a read may take.
    reads: [Mutex<Ring>; CLASSES.len() + 1],
    /// The last read that nobody waits for.
    tried: Mutex<Option<Instant>>,
    /// Number of objects that the store did not let us delete.
    undeleted: AtomicU64,
    /// The last deletion was refused for want of rights.
    keeps_all: AtomicBool,
}

impl Ring {
    fn count(&mut self, took: Duration, failed: bool) {
        self.requests += 1;
        if self.failures.len() == RING && self.failures.pop_front() == Some(true) {
            self.failed -= 1;
        }
        self.failures.push_back(failed);
        self.failed += usize::from(failed);
        if self.micros.len() == RING
            && let Some(oldest) = self.micros.pop_front()
            && let Ok(at) = self.sorted.binary_search(&oldest)
        {
            self.sorted.remove(at);
        }
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.micros.push_back(micros);
        let at = self.sorted.binary_search(&micros).unwrap_or_else(|at| at);
        self.sorted.insert(at, micros);
    }

    /// Returns the time within which `percent` of the last answers came; `None` before the first.
    fn percentile(&self, percent: usize) -> Option<Duration> {
        let at = (self.sorted.len() * percent).div_ceil(100).saturating_sub(1);
        self.sorted.get(at).map(|m| Duration::from_micros((*m).into()))
    }

    /// Returns the median of the newest answers' times; `None` before there are so many.
    fn recent(&self) -> Option<Duration> {
        let from = self.micros.len().checked_sub(RECENT)?;
        let mut newest: Vec<u32> = self.micros.range(from..).copied().collect();
        newest.sort_unstable();
        newest.get(RECENT / 2).map(|m| Duration::from_micros((*m).into()))
    }
}

impl Traffic {
    /// Counts an answer. `read`: the size class, where it was a get of data.
    pub(crate) fn count(&self, took: Duration, read: Option<SizeClass>, failed: bool) {
        self.all.lock().count(took, failed);
        // One that failed says nothing about how long a read takes.
        if let Some(SizeClass(class)) = read
            && !failed
        {
            self.reads[class].lock().count(took, false);
        }
    }

    /// Tells whether the last read that nobody waits for is `every` ago: if so, this one is it.
    pub(crate) fn try_now(&self, now: Instant, every: Duration) -> bool {
        let mut tried = self.tried.lock();
        let due = tried.is_none_or(|at| now.since(at) >= every);
        if due {
            *tried = Some(now);
        }
        due
    }

    /// Returns the share of the last requests that failed.
    pub(crate) fn error_rate(&self) -> f64 {
        let all = self.all.lock();
        all.failed as f64 / all.failures.len().max(1) as f64
    }

    /// Counts so many objects that stay for want of rights; returns true the first time.
    pub(crate) fn not_deleted(&self, objects: u64) -> bool {
        self.keeps_all.store(true, Ordering::Relaxed);
        self.undeleted.fetch_add(objects, Ordering::Relaxed) == 0
    }
    pub(crate) fn deleted(&self) {
        self.keeps_all.store(false, Ordering::Relaxed);
    }
    /// Tells whether deletions are refused for want of rights, by the last one.
    pub(crate) fn keeps_all(&self) -> bool {
        self.keeps_all.load(Ordering::Relaxed)
    }
    pub(crate) fn undeleted(&self) -> u64 {
        self.undeleted.load(Ordering::Relaxed)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.all.lock().requests
    }
    pub(crate) fn percentile(&self, percent: usize) -> Option<Duration> {
        self.all.lock().percentile(percent)
    }
    /// Returns the time within which `percent` of the last data gets of this class came; `None` before the first.
    pub(crate) fn reads_percentile(&self, class: SizeClass, percent: usize) -> Option<Duration> {
        self.reads[class.0].lock().percentile(percent)
    }
    /// Returns the median of the newest data gets of this class; `None` while there are too few to tell.
    pub(crate) fn reads_recent(&self, class: SizeClass) -> Option<Duration> {
        self.reads[class.0].lock().recent()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_the_last_answers() {
        let traffic = Traffic::default();
        let small = SizeClass::of(4096);
        assert_eq!(traffic.percentile(99), None);
        for n in 1..=1000u64 {
            traffic.count(Duration::from_micros(n), (n % 2 == 0).then_some(small), false);
        }
        assert_eq!(traffic.requests(), 1000);
        assert_eq!(traffic.percentile(100), Some(Duration::from_micros(1000)));
        assert_eq!(traffic.percentile(50), Some(Duration::from_micros(936)));
        assert_eq!(traffic.reads_percentile(small, 50), Some(Duration::from_micros(872)));
        assert_eq!(traffic.error_rate(), 0.0);
        for n in 0..RING {
            traffic.count(Duration::from_secs(1), Some(small), n % 4 == 0);
        }
        assert_eq!(traffic.error_rate(), 0.25);
        (0..RING).for_each(|_| traffic.count(Duration::from_secs(1), Some(small), false));
        assert_eq!(traffic.error_rate(), 0.0);
    }
    #[test]
    fn gets_of_data_are_told_apart_by_size_and_the_newest_tell_who_is_slow_now() {
        let ms = Duration::from_millis;
        let (traffic, small, large) = (Traffic::default(), SizeClass::of(128 << 10), SizeClass::of(16 << 20));
        (0..RING).for_each(|_| traffic.count(ms(60), None, false));
        assert_eq!(traffic.reads_percentile(small, 95), None, "registers say nothing about reads");
        for _ in 0..RING {
            traffic.count(ms(30), Some(small), false);
            traffic.count(ms(200), Some(large), false);
        }
        assert_eq!(traffic.reads_percentile(small, 95), Some(ms(30)));
        assert_eq!(traffic.reads_percentile(large, 95), Some(ms(200)));
        assert_eq!(traffic.reads_percentile(SizeClass::of(1 << 20), 95), None);
        (0..4).for_each(|_| traffic.count(ms(300), Some(small), false));
        assert_eq!(traffic.reads_recent(small), Some(ms(30)));
        traffic.count(ms(300), Some(small), false);
        assert_eq!(traffic.reads_recent(small), Some(ms(300)));
        assert_eq!(traffic.reads_percentile(small, 50), Some(ms(30)));
    }
}
