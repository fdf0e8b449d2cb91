//! What happened between two answers of a daemon.

use std::collections::BTreeMap;

use crate::daemon::answers::{IoLine, VolumeInUse, WatchAnswer};
use windlass_pool::StoreStatus;

/// The I/O of one volume; all but the latency is for a second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct VolumeRates {
    pub requests: f64,
    pub read_bytes: f64,
    pub written_bytes: f64,
    pub failed: f64,
    /// Time within which 99 % of the requests were answered. `None`: there were none.
    pub latency_ms_p99: Option<f64>,
}

/// Returns the seconds between both answers; never 0.
pub fn seconds(was: &WatchAnswer, now: &WatchAnswer) -> f64 {
    (now.up_ms.saturating_sub(was.up_ms).max(1)) as f64 / 1000.0
}

/// Returns by how much a counter has risen. Counters only rise: one that fell began anew.
fn risen(was: Option<u64>, now: u64) -> u64 {
    was.and_then(|was| now.checked_sub(was)).unwrap_or(now)
}

/// Returns the rates of all volumes, in the order of `now`. A volume that is only in the newer answer was
/// opened meanwhile, and all that it did counts. But between an answer and itself nothing happened.
pub fn volumes(was: &WatchAnswer, now: &WatchAnswer) -> Vec<VolumeRates> {
    let before: BTreeMap<String, &VolumeInUse> =
        was.status.volumes.iter().map(|v| (v.path.to_string(), v)).collect();
    let seconds = seconds(was, now);
    let of = |volume: &VolumeInUse| rates(before.get(&volume.path.to_string()).copied(), volume, seconds);
    now.status.volumes.iter().map(of).collect()
}

fn rates(was: Option<&VolumeInUse>, now: &VolumeInUse, seconds: f64) -> VolumeRates {
    let mut rates = VolumeRates::default();
    let mut counts: Vec<(f64, u64)> = Vec::new();
    for line in &now.io {
        let before = was.and_then(|was| was.io.iter().find(|old| old.verb == line.verb));
        let each = |of: fn(&IoLine) -> u64| risen(before.map(of), of(line)) as f64 / seconds;
        rates.requests += each(|line| line.requests);
        rates.failed += each(|line| line.failed);
        match &*line.verb {
            "read" => rates.read_bytes += each(|line| line.bytes),
            "write" => rates.written_bytes += each(|line| line.bytes),
            _ => {}
        }
        let old = |up_to: f64| {
            before.and_then(|b| b.latency_counts.iter().find(|(at, _)| *at == up_to)).map(|(_, n)| *n)
        };
        counts.extend(line.latency_counts.iter().map(|(up_to, n)| (*up_to, risen(old(*up_to), *n))));
    }
    rates.latency_ms_p99 = percentile(counts, 99);
    rates
}

/// Returns the percentile of counts that are given by their upper ends.
fn percentile(mut counts: Vec<(f64, u64)>, percent: u64) -> Option<f64> {
    counts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all: u64 = counts.iter().map(|(_, n)| n).sum();
    let rank = (all * percent).div_ceil(100).max(1);
    let mut seen = 0;
    counts.into_iter().find_map(|(up_to, n)| {
        seen += n;
        (seen >= rank).then_some(up_to)
    })
}

/// Returns the requests a second of a pool's store.
pub fn store_requests(was: &WatchAnswer, now: &WatchAnswer, pool: &str, store: &StoreStatus) -> f64 {
    let old = was.open_pools.iter().find(|p| p.name.as_str() == pool);
    let old = old.and_then(|p| p.stores.iter().find(|s| s.url == store.url)).map(|s| s.requests);
    risen(old, store.requests) as f64 / seconds(was, now)
}

/// Returns the share of lookups since the older answer that were found in memory. `None`: there were none.
pub fn found_in_memory(was: &WatchAnswer, now: &WatchAnswer) -> Option<f64> {
    let (was, now) = (&was.status.cache.memory, &now.status.cache.memory);
    let (hits, misses) = (risen(Some(was.hits), now.hits), risen(Some(was.misses), now.misses));
    (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Makes an answer with volumes that have been read so often, each read of 4 KiB in up to 2 ms.
    pub fn answer(up_ms: u64, reads: &[(&str, u64)]) -> WatchAnswer {
        let volume = |(path, n): &(&str, u64)| {
            serde_json::json!({
                "path": path, "clients": 1, "state": "open", "unsent_bytes": 5 << 20, "unsent_age_ms": 3000,
                "room_bytes": null, "full_in_ms": null, "journal_bytes": 1 << 30, "journal_size": 4u64 << 30,
                "trouble": null, "io": [{
                    "verb": "read", "requests": n, "bytes": n * 4096, "failed": 0, "latency_ms_p50": 1.0,
                    "latency_ms_p99": 2.0, "latency_ms_max": 2.0, "latency_counts": [[2.0, n]],
                }],
            })
        };
        let volumes: Vec<_> = reads.iter().map(volume).collect();
        let memory = serde_json::json!({"hits": up_ms, "misses": up_ms, "bytes": 1, "bytes_max": 2});
        let text = serde_json::json!({
            "version": "1", "wall_ms": 0, "up_ms": up_ms, "looked_ms_ago": 0, "home": "/h", "host": "here",
            "host_id": "00000000000000000000000000000001", "nbd": [], "volumes": volumes, "mounts": [],
            "kept_files": [], "kept_journals": [], "cache": {"memory": memory, "disk": null}, "open_pools": [],
            "memory": [], "pools": [{
                "name": "p", "layout": "4+2", "stores": 6, "state": "stalled", "trouble": "too few stores answer",
                "used_bytes": null, "free_bytes": null,
            }],
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn rates_are_what_happened_between_two_answers() {
        let (was, now) = (answer(1000, &[("p/a", 10)]), answer(3000, &[("p/a", 30), ("p/new", 4)]));
        let rates = volumes(&was, &now);
        assert_eq!((rates[0].requests, rates[0].read_bytes, rates[0].failed), (10.0, 40960.0, 0.0));
        assert_eq!(rates[0].latency_ms_p99, Some(2.0));
        assert_eq!(rates[1].requests, 2.0);
        assert_eq!(found_in_memory(&was, &now), Some(0.5));
        let still = volumes(&now, &now);
        assert_eq!((still[0].requests, still[0].latency_ms_p99), (0.0, None));
        // Closed and opened again meanwhile.
        assert_eq!(volumes(&now, &answer(4000, &[("p/a", 3)]))[0].requests, 3.0);
    }

    #[test]
    fn a_percentile_is_the_end_of_the_bucket_that_it_falls_into() {
        assert_eq!(percentile(vec![(8.0, 1), (1.0, 99)], 99), Some(1.0));
        assert_eq!(percentile(vec![(8.0, 2), (1.0, 98)], 99), Some(8.0));
        assert_eq!(percentile(vec![(8.0, 0)], 99), None);
    }
}
