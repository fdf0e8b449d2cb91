//! Latencies by buckets: a few hundred bytes, whatever their number.

use std::time::Duration;

/// Number of buckets: they reach up to 2^32 µs, over an hour.
const BUCKETS: usize = 4 * 32;
/// Powers of two that a histogram's buckets end at, in µs: 64 µs to 33 s.
const BOUNDS: std::ops::RangeInclusive<usize> = 6..=25;

/// Latencies in buckets that grow by a quarter of a doubling: a percentile is right to about 20 %.
#[derive(Clone, PartialEq, Debug)]
pub struct Latencies {
    buckets: [u64; BUCKETS],
    sum: Duration,
    max: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies { buckets: [0; BUCKETS], sum: Duration::ZERO, max: Duration::ZERO }
    }
}

/// Latencies as monitoring reads them.
#[derive(Clone, PartialEq, Debug)]
pub struct Histogram {
    /// Ends of buckets in seconds, and how many latencies fell into each and not into one before. The last
    /// has no end: `f64::INFINITY`.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    /// Sum of all latencies, in seconds.
    pub sum: f64,
}

impl Latencies {
    fn bucket(d: Duration) -> usize {
        let us = u64::try_from(d.as_micros()).unwrap_or(u64::MAX).max(4);
        let log = us.ilog2() as usize;
        let quarter = (us >> (log - 2)) as usize & 3;
        (4 * log + quarter).min(BUCKETS - 1)
    }

    /// Returns the upper end of a bucket.
    fn bound(bucket: usize) -> Duration {
        let (log, quarter) = (bucket / 4, bucket as u64 % 4);
        Duration::from_micros(((5 + quarter) << log) >> 2)
    }

    pub fn add(&mut self, d: Duration) {
        self.buckets[Self::bucket(d)] += 1;
        self.sum = self.sum.saturating_add(d);
        self.max = self.max.max(d);
    }

    pub fn merge(&mut self, other: &Latencies) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// Returns the latencies that were added since `earlier`, which was a copy of this value. The slowest of
    /// them is right to about 20 %.
    #[must_use]
    pub fn since(&self, earlier: &Latencies) -> Latencies {
        let mut new = self.clone();
        for (mine, theirs) in new.buckets.iter_mut().zip(&earlier.buckets) {
            *mine = mine.saturating_sub(*theirs);
        }
        new.sum = self.sum.saturating_sub(earlier.sum);
        let last = new.buckets.iter().rposition(|n| *n > 0);
        new.max = last.map_or(Duration::ZERO, |last| Self::bound(last).min(self.max));
        new
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub fn max(&self) -> Duration {
        self.max
    }

    /// Returns the time within which `percent` of the requests were over. `None` before the first.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let rank = (self.count() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let at = self.buckets.iter().position(|n| {
            seen += n;
            seen >= rank
        })?;
        Some(Self::bound(at).min(self.max))
    }

    /// Returns the buckets that hold any latency: their ends, and how many are in each.
    pub fn counts(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let any = self.buckets.iter().enumerate().filter(|(_, n)| **n > 0);
        any.map(|(bucket, n)| (Self::bound(bucket), *n))
    }

    pub fn histogram(&self) -> Histogram {
        let (mut from, mut buckets) = (0, Vec::new());
        for log in BOUNDS {
            let n: u64 = self.buckets[from..4 * log].iter().sum();
            buckets.push((Duration::from_micros(1 << log).as_secs_f64(), n));
            from = 4 * log;
        }
        buckets.push((f64::INFINITY, self.buckets[from..].iter().sum()));
        Histogram { buckets, count: self.count(), sum: self.sum.as_secs_f64() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_buckets_that_hold_them() {
        for us in [0, 1, 4, 5, 7, 8, 999, 1000, 12_345, 1 << 31, u64::MAX] {
            let d = Duration::from_micros(us);
            let bucket = Latencies::bucket(d);
            assert!(bucket == BUCKETS - 1 || d <= Latencies::bound(bucket), "{us}");
            let near = Latencies::bound(bucket) <= d * 5 / 4 + Duration::from_micros(1);
            assert!(us < 8 || bucket == BUCKETS - 1 || near, "{us}");
        }
        let mut some = Latencies::default();
        assert_eq!(some.percentile(99), None);
        for ms in 1..=100 {
            some.add(Duration::from_millis(ms));
        }
        let counts: Vec<(Duration, u64)> = some.counts().collect();
        assert_eq!(counts.iter().map(|(_, n)| n).sum::<u64>(), 100);
        assert!(counts.is_sorted() && counts.iter().all(|(_, n)| *n > 0));
        let ms = |percent| some.percentile(percent).unwrap().as_millis();
        assert!((50..=63).contains(&ms(50)) && (99..=100).contains(&ms(99)), "{} {}", ms(50), ms(99));
    }

    #[test]
    fn what_was_added_since_is_told_apart() {
        let mut all = Latencies::default();
        all.add(Duration::from_secs(9));
        let earlier = all.clone();
        assert_eq!((all.since(&earlier).count(), all.since(&earlier).max()), (0, Duration::ZERO));
        all.add(Duration::from_millis(7));
        let since = all.since(&earlier);
        assert!(since.count() == 1 && (7..=9).contains(&since.max().as_millis()), "{since:?}");
    }

    #[test]
    fn a_histogram_counts_each_latency_once_below_its_bound() {
        let mut some = Latencies::default();
        for us in [0, 63, 64, 1_000, 1_024, 5_000_000, 100_000_000] {
            some.add(Duration::from_micros(us));
        }
        let histogram = some.histogram();
        assert_eq!((histogram.count, histogram.buckets.iter().map(|(_, n)| n).sum::<u64>()), (7, 7));
        assert!((histogram.sum - 105.002_151).abs() < 1e-6, "{}", histogram.sum);
        let below = |end: f64| -> u64 {
            histogram.buckets.iter().filter(|(bound, _)| *bound <= end).map(|(_, n)| n).sum()
        };
        assert_eq!((below(0.000_064), below(0.001_024), below(9.0), below(40.0)), (2, 4, 6, 6));
        assert_eq!(histogram.buckets.last(), Some(&(f64::INFINITY, 1)));
    }
}
