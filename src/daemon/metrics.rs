//! What the daemon measures, as OpenMetrics text, which Prometheus reads. Made when it is asked for, of what is known here:
//! no store is asked, nothing is counted twice.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::answers::word;
use super::engine_tables::EngineState;
use super::io_tally::IO_VERBS;
use super::pools::OpenPool;
use windlass_base::latency::Histogram;
use windlass_base::metric_definitions::{self, Metric, Moves};
use windlass_base::{Budget, Name};
use windlass_pool::StoreState;

/// Media type of the page of metrics.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

#[derive(Clone, Debug)]
enum Sample {
    Value(f64),
    Histogram(Histogram),
}

/// Samples of all metrics, by the metric's name.
#[derive(Debug, Default)]
struct Page(BTreeMap<&'static str, Vec<(Labels, Sample)>>);

/// Returns a metric's name without what OpenMetrics itself appends, and its unit.
fn parts(name: &str) -> (&str, Option<Unit>) {
    let name = name.strip_suffix("_total").unwrap_or(name);
    let units = [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)];
    units
        .into_iter()
        .find_map(|(end, unit)| Some((name.strip_suffix(end)?, Some(unit))))
        .unwrap_or((name, None))
}

impl Page {
    /// Adds a sample to the page. `values` are those of the metric's labels, in order.
    fn put(&mut self, metric: Metric, values: &[&str], sample: Sample) {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        let labels = metric.labels.iter().zip(values).map(|(name, value)| (*name, (*value).to_owned()));
        self.0.entry(metric.name).or_default().push((labels.collect(), sample));
    }

    fn add(&mut self, metric: Metric, values: &[&str], sample: f64) {
        debug_assert_ne!(metric.moves, Moves::Histogram, "{}", metric.name);
        self.put(metric, values, Sample::Value(sample));
    }

    fn add_histogram(&mut self, metric: Metric, values: &[&str], histogram: Histogram) {
        debug_assert_eq!(metric.moves, Moves::Histogram, "{}", metric.name);
        self.put(metric, values, Sample::Histogram(histogram));
    }

    fn text(self) -> String {
        let (mut registry, mut out) = (Registry::default(), String::new());
        registry.register_collector(Box::new(self));
        // Writing to a String can't fail.
        let _ = encode(&mut out, &registry);
        out
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for m in metric_definitions::ALL {
            let Some(samples) = self.0.get(m.name) else { continue };
            let (name, unit) = parts(m.name);
            let kind = match m.moves {
                Moves::Gauge => MetricType::Gauge,
                Moves::Counter => MetricType::Counter,
                Moves::Histogram => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(name, m.help, unit.as_ref(), kind)?;
            for (labels, sample) in samples {
                sample.encode(*m, family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

impl Sample {
    fn encode(&self, metric: Metric, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match (self, metric.moves) {
            (Sample::Histogram(Histogram { buckets, count, sum }), _) => {
                encoder.encode_histogram::<Labels>(*sum, *count, buckets, None)
            }
            (Sample::Value(value), Moves::Counter) => encoder.encode_counter::<Labels, f64, f64>(value, None),
            (Sample::Value(value), _) => encoder.encode_gauge(value),
        }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// Returns the page as of now.
pub fn page(state: &EngineState) -> String {
    let mut page = Page::default();
    page.add(
        metric_definitions::UP_SECONDS,
        &[],
        state.host_context.rt.now().since(state.began).as_secs_f64().floor(),
    );
    memory(&mut page, state);
    let opened = state.pools.opened();
    for (name, open) in &opened {
        pool(&mut page, name, open);
    }
    // One that can't be opened stores nothing: it does not vanish from the page.
    let served = state.served.lock().clone().unwrap_or_default();
    let is_closed = |name: &Name| served.contains(name) && !opened.iter().any(|(open, _)| open == name);
    for known in state.pools.known().into_iter().filter(|known| is_closed(&known.name)) {
        page.add(metric_definitions::POOL_STORABLE, &[known.name.as_str()], 0.0);
    }
    volumes(&mut page, state, &opened);
    for replica in state.replica_lines() {
        let labels = [&*replica.from.to_string(), &*replica.to.to_string()];
        page.add(metric_definitions::REPLICA_LAG_SECONDS, &labels, seconds(replica.lag_ms));
        page.add(
            metric_definitions::REPLICA_TROUBLE,
            &labels,
            f64::from(u8::from(replica.trouble.is_some())),
        );
    }
    for mount in state.mounts.list() {
        page.add(metric_definitions::MOUNT_UNSENT_FILES, &[&mount.dir], mount.unsent_files as f64);
        page.add(metric_definitions::MOUNT_UNSENT_BYTES, &[&mount.dir], mount.unsent_bytes as f64);
    }
    page.text()
}

fn memory(page: &mut Page, state: &EngineState) {
    let memory = state.pools.memory();
    let parts: [(&str, &Budget); 4] = [
        ("writes", &memory.overlay),
        ("encoding", &memory.encode),
        ("requests", &memory.requests),
        ("readahead", &memory.ahead.budget),
    ];
    for (part, budget) in parts {
        page.add(metric_definitions::MEMORY_BYTES, &[part], budget.used() as f64);
        page.add(metric_definitions::MEMORY_LIMIT_BYTES, &[part], budget.total() as f64);
        page.add(metric_definitions::MEMORY_SHORT, &[part], f64::from(u8::from(budget.is_anyone_short())));
    }
    page.add(metric_definitions::MEMORY_BYTES, &["cache"], memory.frames.bytes() as f64);
    let mut tier = |tier, held: [u64; 4]| {
        let metrics = [
            metric_definitions::CACHE_BYTES,
            metric_definitions::CACHE_LIMIT_BYTES,
            metric_definitions::CACHE_HITS,
            metric_definitions::CACHE_MISSES,
        ];
        metrics.into_iter().zip(held).for_each(|(metric, n)| page.add(metric, &[tier], n as f64));
    };
    let frames = memory.frames.stats();
    tier("memory", [frames.bytes, frames.bytes_max, frames.hits, frames.misses]);
    let disk = memory.disk.stats();
    if let Some(disk) = &disk {
        tier("disk", [disk.bytes, disk.bytes_max, disk.hits, disk.misses]);
    }
    page.add(metric_definitions::AHEAD_BYTES, &[], frames.ahead_bytes as f64);
    page.add(metric_definitions::AHEAD_USED_BYTES, &[], frames.ahead_used_bytes as f64);
    if let Some(disk) = &disk {
        page.add(metric_definitions::CACHE_OFF, &[], f64::from(u8::from(!disk.on)));
    }
}

fn pool(page: &mut Page, name: &Name, open: &Arc<OpenPool>) {
    let (name, condition, status) = (name.as_str(), open.pool.condition(), open.pool.status());
    let flag = |good: bool| f64::from(u8::from(good));
    page.add(metric_definitions::POOL_STORABLE, &[name], flag(condition.trouble().is_none()));
    page.add(metric_definitions::POOL_DECIDABLE, &[name], flag(condition.undecided.is_none()));
    page.add(metric_definitions::POOL_PENDING_SHARDS, &[name], status.pending_shards as f64);
    page.add(metric_definitions::POOL_DAMAGED_SHARDS, &[name], status.damaged_shards as f64);
    for store in &status.stores {
        let labels = [name, store.url.as_str()];
        page.add(
            metric_definitions::STORE_IN,
            &labels,
            flag(matches!(store.state, StoreState::In | StoreState::Unknown)),
        );
        for line in &store.traffic {
            let labels = [name, &store.url, &word(&line.verb), &word(&line.cause)];
            page.add(metric_definitions::STORE_REQUESTS, &labels, line.requests as f64);
            page.add(metric_definitions::STORE_FAILED, &labels, line.failed as f64);
            page.add(metric_definitions::STORE_SENT_BYTES, &labels, line.sent_bytes as f64);
            page.add(metric_definitions::STORE_RECEIVED_BYTES, &labels, line.received_bytes as f64);
            page.add_histogram(
                metric_definitions::STORE_REQUEST_SECONDS,
                &labels,
                line.latencies.histogram(),
            );
        }
        if let Some(ms) = store.latency_ms_p99 {
            page.add(metric_definitions::STORE_LATENCY_SECONDS, &labels, ms / 1000.0);
        }
    }
}

fn volumes(page: &mut Page, state: &EngineState, opened: &[(Name, Arc<OpenPool>)]) {
    for used in state.sessions.list() {
        let path = used.path.to_string();
        let labels = [path.as_str()];
        page.add(metric_definitions::VOLUME_CLIENTS, &labels, used.clients as f64);
        for (verb, word) in IO_VERBS {
            let (labels, counts) = ([path.as_str(), word], used.io.of(verb));
            page.add_histogram(
                metric_definitions::VOLUME_REQUEST_SECONDS,
                &labels,
                counts.latencies.histogram(),
            );
            page.add(metric_definitions::VOLUME_REQUEST_BYTES, &labels, counts.bytes as f64);
            page.add(metric_definitions::VOLUME_REQUEST_FAILED, &labels, counts.failed as f64);
        }
        let Some((_, open)) = opened.iter().find(|(name, _)| *name == used.path.pool) else { continue };
        let Some(info) = open.volumes.glance(&used.path.volume) else {
            let failed = used.failure.is_some() || open.volumes.failure(&used.path.volume).is_some();
            page.add(metric_definitions::VOLUME_TROUBLE, &labels, f64::from(u8::from(failed)));
            continue;
        };
        let in_trouble = used.failure.is_some() || info.trouble.is_some();
        page.add(metric_definitions::VOLUME_TROUBLE, &labels, f64::from(u8::from(in_trouble)));
        page.add(metric_definitions::VOLUME_DEGRADED, &labels, f64::from(u8::from(info.degraded)));
        page.add(metric_definitions::VOLUME_UNSENT_BYTES, &labels, info.unsent_bytes as f64);
        page.add(
            metric_definitions::VOLUME_UNSENT_SECONDS,
            &labels,
            seconds(info.unsent_age_ms.unwrap_or(0)),
        );
        page.add(metric_definitions::VOLUME_JOURNAL_BYTES, &labels, info.journal_bytes as f64);
        page.add(metric_definitions::VOLUME_JOURNAL_LIMIT_BYTES, &labels, info.journal_size as f64);
        page.add(metric_definitions::VOLUME_STORED_BYTES, &labels, info.stored_bytes as f64);
        if let Some(room) = info.room_bytes {
            page.add(metric_definitions::VOLUME_ROOM_BYTES, &labels, room as f64);
        }
        if let Some(ms) = info.full_in_ms {
            page.add(metric_definitions::VOLUME_FULL_SECONDS, &labels, seconds(ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn samples_stand_under_their_metric_with_escaped_labels() {
        let mut page = Page::default();
        page.add(metric_definitions::MOUNT_UNSENT_BYTES, &["/a\"b\\c\n"], 7.0);
        page.add(metric_definitions::UP_SECONDS, &[], 1.0);
        let mut took = windlass_base::latency::Latencies::default();
        took.add(std::time::Duration::from_millis(2));
        page.add_histogram(metric_definitions::VOLUME_REQUEST_SECONDS, &["p/v", "read"], took.histogram());
        let text = page.text();
        let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with("# HELP")).collect();
        assert_eq!(
            lines[..3],
            [
                "# TYPE windlass_up_seconds counter",
                "# UNIT windlass_up_seconds seconds",
                "windlass_up_seconds_total 1.0",
            ]
        );
        assert_eq!(
            lines[3..6],
            [
                "# TYPE windlass_volume_request_seconds histogram",
                "# UNIT windlass_volume_request_seconds seconds",
                "windlass_volume_request_seconds_sum{volume=\"p/v\",verb=\"read\"} 0.002",
            ]
        );
        assert!(
            lines.contains(
                &"windlass_volume_request_seconds_bucket{le=\"+Inf\",volume=\"p/v\",verb=\"read\"} 1"
            )
        );
        assert_eq!(lines[lines.len() - 2], "windlass_mount_unsent_bytes{dir=\"/a\\\"b\\\\c\\n\"} 7.0");
        assert_eq!(lines.last(), Some(&"# EOF"));
    }

    #[test]
    fn the_reference_lists_every_metric_and_no_other() {
        let reference = include_str!("../../docs/reference.md");
        let listed: BTreeSet<&str> =
            reference.split('`').filter(|word| word.starts_with("windlass_")).collect();
        let all: BTreeSet<&str> = metric_definitions::ALL.iter().map(|m| m.name).collect();
        assert_eq!(listed, all);
        assert_eq!(all.len(), metric_definitions::ALL.len(), "a name is used twice");
        let known = |m: &&Metric| (m.moves == Moves::Counter) == m.name.ends_with("_total");
        let timed = |m: &Metric| m.moves != Moves::Histogram || m.name.ends_with("_seconds");
        assert!(metric_definitions::ALL.iter().all(timed), "histograms are of seconds");
        assert!(metric_definitions::ALL.iter().all(|m| known(&m)), "counters, and only they, end in _total");
    }
}
