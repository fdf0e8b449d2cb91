//! What the daemon measures, in the text form that Prometheus reads. Made when it is asked for, of what is known here:
//! no store is asked, nothing is counted twice.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::answers::word;
use super::engine_tables::EngineState;
use super::pools::OpenPool;
use crate::base::metric::{self, Metric, Moves};
use crate::base::{Budget, Name};
use crate::pool::StoreState;

/// Samples under the metrics they belong to.
#[derive(Default)]
struct Page(BTreeMap<&'static str, Vec<(String, f64)>>);

impl Page {
    /// `values`: of the metric's labels.
    fn add(&mut self, metric: Metric, values: &[&str], sample: f64) {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        let label = |(name, value): (&&str, &&str)| format!("{name}=\"{}\"", escaped(value));
        let labels: Vec<String> = metric.labels.iter().zip(values).map(label).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.0.entry(metric.name).or_default().push((labels, sample));
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for m in metric::ALL {
            let Some(samples) = self.0.get(m.name) else { continue };
            let moves = if m.moves == Moves::Gauge { "gauge" } else { "counter" };
            // Writing to a String can't fail.
            let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {moves}", m.name, m.help, m.name);
            for (labels, sample) in samples {
                let _ = writeln!(out, "{}{labels} {sample}", m.name);
            }
        }
        out
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// The page as of now.
pub fn page(state: &EngineState) -> String {
    let mut page = Page::default();
    page.add(metric::UP_SECONDS, &[], state.host_context.rt.now().since(state.began).as_secs_f64().floor());
    memory(&mut page, state);
    let opened = state.pools.opened();
    for (name, open) in &opened {
        pool(&mut page, name, open);
    }
    volumes(&mut page, state, &opened);
    for mount in state.mounts.list() {
        page.add(metric::MOUNT_UNSENT_FILES, &[&mount.dir], mount.unsent_files as f64);
        page.add(metric::MOUNT_UNSENT_BYTES, &[&mount.dir], mount.unsent_bytes as f64);
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
        page.add(metric::MEMORY_BYTES, &[part], budget.used() as f64);
        page.add(metric::MEMORY_LIMIT_BYTES, &[part], budget.total() as f64);
        page.add(metric::MEMORY_SHORT, &[part], f64::from(u8::from(budget.is_anyone_short())));
    }
    page.add(metric::MEMORY_BYTES, &["cache"], memory.frames.bytes() as f64);
    let mut tier = |tier, held: [u64; 4]| {
        let metrics =
            [metric::CACHE_BYTES, metric::CACHE_LIMIT_BYTES, metric::CACHE_HITS, metric::CACHE_MISSES];
        metrics.into_iter().zip(held).for_each(|(metric, n)| page.add(metric, &[tier], n as f64));
    };
    let frames = memory.frames.stats();
    tier("memory", [frames.bytes, frames.bytes_max, frames.hits, frames.misses]);
    if let Some(disk) = memory.disk.stats() {
        tier("disk", [disk.bytes, disk.bytes_max, disk.hits, disk.misses]);
        page.add(metric::CACHE_OFF, &[], f64::from(u8::from(!disk.on)));
    }
}

fn pool(page: &mut Page, name: &Name, open: &Arc<OpenPool>) {
    let (name, condition, status) = (name.as_str(), open.pool.condition(), open.pool.status());
    let flag = |good: bool| f64::from(u8::from(good));
    page.add(metric::POOL_STORABLE, &[name], flag(condition.trouble().is_none()));
    page.add(metric::POOL_DECIDABLE, &[name], flag(condition.undecided.is_none()));
    page.add(metric::POOL_PENDING_SHARDS, &[name], status.pending_shards as f64);
    page.add(metric::POOL_DAMAGED_SHARDS, &[name], status.damaged_shards as f64);
    for store in &status.stores {
        let labels = [name, store.url.as_str()];
        page.add(
            metric::STORE_IN,
            &labels,
            flag(matches!(store.state, StoreState::In | StoreState::Unknown)),
        );
        for line in &store.traffic {
            let labels = [name, &store.url, &word(&line.verb), &word(&line.cause)];
            page.add(metric::STORE_REQUESTS, &labels, line.requests as f64);
            page.add(metric::STORE_FAILED, &labels, line.failed as f64);
            page.add(metric::STORE_SENT_BYTES, &labels, line.sent_bytes as f64);
            page.add(metric::STORE_RECEIVED_BYTES, &labels, line.received_bytes as f64);
        }
        if let Some(ms) = store.latency_ms_p99 {
            page.add(metric::STORE_LATENCY_SECONDS, &labels, ms / 1000.0);
        }
    }
}

fn volumes(page: &mut Page, state: &EngineState, opened: &[(Name, Arc<OpenPool>)]) {
    for used in state.sessions.list() {
        let path = used.path.to_string();
        let labels = [path.as_str()];
        page.add(metric::VOLUME_CLIENTS, &labels, used.clients as f64);
        let Some((_, open)) = opened.iter().find(|(name, _)| *name == used.path.pool) else { continue };
        let Some(info) = open.volumes.glance(&used.path.volume) else {
            let failed = open.volumes.failure(&used.path.volume).is_some();
            page.add(metric::VOLUME_TROUBLE, &labels, f64::from(u8::from(failed)));
            continue;
        };
        page.add(metric::VOLUME_TROUBLE, &labels, f64::from(u8::from(info.trouble.is_some())));
        page.add(metric::VOLUME_DEGRADED, &labels, f64::from(u8::from(info.degraded)));
        page.add(metric::VOLUME_UNSENT_BYTES, &labels, info.unsent_bytes as f64);
        page.add(metric::VOLUME_UNSENT_SECONDS, &labels, seconds(info.unsent_age_ms.unwrap_or(0)));
        page.add(metric::VOLUME_JOURNAL_BYTES, &labels, info.journal_bytes as f64);
        page.add(metric::VOLUME_JOURNAL_LIMIT_BYTES, &labels, info.journal_size as f64);
        page.add(metric::VOLUME_STORED_BYTES, &labels, info.stored_bytes as f64);
        if let Some(room) = info.room_bytes {
            page.add(metric::VOLUME_ROOM_BYTES, &labels, room as f64);
        }
        if let Some(ms) = info.full_in_ms {
            page.add(metric::VOLUME_FULL_SECONDS, &labels, seconds(ms));
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
        page.add(metric::MOUNT_UNSENT_BYTES, &["/a\"b\\c\n"], 7.0);
        page.add(metric::UP_SECONDS, &[], 1.0);
        let text = page.text();
        let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with("# HELP")).collect();
        assert_eq!(
            lines,
            [
                "# TYPE windlass_up_seconds_total counter",
                "windlass_up_seconds_total 1",
                "# TYPE windlass_mount_unsent_bytes gauge",
                "windlass_mount_unsent_bytes{dir=\"/a\\\"b\\\\c\\n\"} 7",
            ]
        );
    }

    #[test]
    fn the_reference_lists_every_metric_and_no_other() {
        let reference = include_str!("../../docs/reference.md");
        let listed: BTreeSet<&str> =
            reference.split('`').filter(|word| word.starts_with("windlass_")).collect();
        let all: BTreeSet<&str> = metric::ALL.iter().map(|m| m.name).collect();
        assert_eq!(listed, all);
        assert_eq!(all.len(), metric::ALL.len(), "a name is used twice");
        let known = |m: &&Metric| (m.moves == Moves::Counter) == m.name.ends_with("_total");
        assert!(metric::ALL.iter().all(|m| known(&m)), "counters, and only they, end in _total");
    }
}
