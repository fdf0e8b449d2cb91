//! How quickly a store answers: what the hedge delay and the status line are made of.

use std::time::Duration;

use parking_lot::Mutex;

/// Answers remembered.
const RING: usize = 128;

#[derive(Debug, Default)]
struct Ring {
    micros: Vec<u32>,
    next: usize,
    requests: u64,
    bytes: u64,
}

/// Latencies of the last answers, and totals.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<Ring>);

impl Traffic {
    pub(super) fn count(&self, took: Duration, bytes: u64) {
        let mut ring = self.0.lock();
        ring.requests += 1;
        ring.bytes += bytes;
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let at = ring.next;
        if ring.micros.len() < RING {
            ring.micros.push(micros);
        } else {
            ring.micros[at] = micros;
        }
        ring.next = (at + 1) % RING;
    }

    pub(super) fn requests(&self) -> u64 {
        self.0.lock().requests
    }

    /// The time within which `percent` of the last answers came; `None` before the first.
    pub(super) fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut sorted = self.0.lock().micros.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(at).map(|m| Duration::from_micros((*m).into()))
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
            traffic.count(Duration::from_micros(n), 0);
        }
        assert_eq!(traffic.requests(), 1000);
        assert_eq!(traffic.percentile(100), Some(Duration::from_micros(1000)));
        assert_eq!(traffic.percentile(50), Some(Duration::from_micros(936)));
    }
}
