//! How quickly a store answers: what the hedge delay and the status line are made of.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

/// Answers remembered.
const RING: usize = 128;

#[derive(Debug, Default)]
struct Ring {
    micros: VecDeque<u32>,
    /// The same, in order: asked for before every request.
    sorted: Vec<u32>,
    requests: u64,
}

/// Latencies of the last answers, and totals.
#[derive(Debug, Default)]
pub struct Traffic {
    all: Mutex<Ring>,
    /// Gets of data alone: puts and labels would blur what a read may take.
    reads: Mutex<Ring>,
}

impl Ring {
    fn count(&mut self, took: Duration) {
        self.requests += 1;
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

    /// The time within which `percent` of the last answers came; `None` before the first.
    fn percentile(&self, percent: usize) -> Option<Duration> {
        let at = (self.sorted.len() * percent).div_ceil(100).saturating_sub(1);
        self.sorted.get(at).map(|m| Duration::from_micros((*m).into()))
    }
}

impl Traffic {
    pub(super) fn count(&self, took: Duration, read: bool) {
        self.all.lock().count(took);
        if read {
            self.reads.lock().count(took);
        }
    }

    pub(super) fn requests(&self) -> u64 {
        self.all.lock().requests
    }
    pub(super) fn percentile(&self, percent: usize) -> Option<Duration> {
        self.all.lock().percentile(percent)
    }
    pub(super) fn reads_percentile(&self, percent: usize) -> Option<Duration> {
        self.reads.lock().percentile(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_the_last_answers() {
        let traffic = Traffic::default();
        assert_eq!(traffic.percentile(99), None);
        for n in 1..=1000u64 {
            traffic.count(Duration::from_micros(n), n % 2 == 0);
        }
        assert_eq!(traffic.requests(), 1000);
        assert_eq!(traffic.percentile(100), Some(Duration::from_micros(1000)));
        assert_eq!(traffic.percentile(50), Some(Duration::from_micros(936)));
        assert_eq!(traffic.reads_percentile(50), Some(Duration::from_micros(872)));
    }
}
