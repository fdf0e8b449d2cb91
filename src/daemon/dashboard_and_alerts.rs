//! What packaging/monitoring holds for Prometheus and Grafana, made of the metrics' names: a name that changed can't be
//! left behind there. Only tests are made of this file: `WRITE_DOCS=1 cargo test --lib dashboard_and_alerts` writes both
//! files.
#![allow(clippy::disallowed_methods)] // reads and writes the repository's own files

use std::path::Path;

use serde_json::{Value, json};

use windlass_base::metric_definitions::{self, Metric, Moves};

const DASHBOARD: &str = "packaging/monitoring/grafana-dashboard.json";
const ALERTS: &str = "packaging/monitoring/prometheus-alerts.yml";

/// Returns the query for a metric's growth a second, summed over all labels but those of `by`.
fn rate(metric: Metric, by: &str) -> String {
    sum(&format!("rate({}[$__rate_interval])", filtered(metric.name, metric)), by)
}

/// Returns the query for the time within which 99 % of what a histogram counts was done.
fn p99(metric: Metric, by: &str) -> String {
    let buckets = filtered(&format!("{}_bucket", metric.name), metric);
    let by = if by.is_empty() { "le".to_owned() } else { format!("le, {by}") };
    format!("histogram_quantile(0.99, {})", sum(&format!("rate({buckets}[$__rate_interval])"), &by))
}

fn count_rate(metric: Metric, by: &str) -> String {
    sum(&format!("rate({}[$__rate_interval])", filtered(&format!("{}_count", metric.name), metric)), by)
}

fn sum(of: &str, by: &str) -> String {
    if by.is_empty() { format!("sum({of})") } else { format!("sum by ({by}) ({of})") }
}

/// Returns a metric's name with labels that narrow it to what is chosen at the head of the dashboard.
fn filtered(name: &str, metric: Metric) -> String {
    let chosen = |label: &&&str| matches!(**label, "pool" | "volume");
    let labels = metric.labels.iter().filter(chosen).map(|label| format!("{label}=~\"${label}\""));
    let all: Vec<String> = std::iter::once("instance=~\"$instance\"".to_owned()).chain(labels).collect();
    format!("{name}{{{}}}", all.join(", "))
}

fn shown(metric: Metric) -> String {
    filtered(metric.name, metric)
}

/// One panel: its title, unit, and expressions with their legends.
type Panel = (&'static str, &'static str, Vec<(String, &'static str)>);
/// Panels in a row, and its title.
type Section = (&'static str, Vec<Panel>);

fn rows() -> Vec<Section> {
    vec![health(), clients(), unsent(), stores(), host()]
}

fn health() -> Section {
    (
        "Health",
        vec![
            (
                "New data can be stored",
                "bool_yes_no",
                vec![(shown(metric_definitions::POOL_STORABLE), "{{pool}}")],
            ),
            (
                "Volumes can be opened",
                "bool_yes_no",
                vec![(shown(metric_definitions::POOL_DECIDABLE), "{{pool}}")],
            ),
            ("Stores in use", "bool_yes_no", vec![(shown(metric_definitions::STORE_IN), "{{store}}")]),
            (
                "Volumes with a trouble",
                "bool_yes_no",
                vec![(shown(metric_definitions::VOLUME_TROUBLE), "{{volume}}")],
            ),
        ],
    )
}

fn clients() -> Section {
    let io = metric_definitions::VOLUME_REQUEST_SECONDS;
    (
        "Clients",
        vec![
            ("Requests", "reqps", vec![(count_rate(io, "verb"), "{{verb}}")]),
            ("Bytes", "Bps", vec![(rate(metric_definitions::VOLUME_REQUEST_BYTES, "verb"), "{{verb}}")]),
            ("Latency, 99 % within", "s", vec![(p99(io, "verb"), "{{verb}}")]),
            (
                "Requests that failed",
                "reqps",
                vec![(rate(metric_definitions::VOLUME_REQUEST_FAILED, "volume"), "{{volume}}")],
            ),
        ],
    )
}

fn unsent() -> Section {
    (
        "What a lost host would cost",
        vec![
            ("Unsent", "bytes", vec![(shown(metric_definitions::VOLUME_UNSENT_BYTES), "{{volume}}")]),
            (
                "Age of the oldest of it",
                "s",
                vec![(shown(metric_definitions::VOLUME_UNSENT_SECONDS), "{{volume}}")],
            ),
            (
                "Journal in use",
                "percentunit",
                vec![(
                    format!(
                        "{} / {}",
                        shown(metric_definitions::VOLUME_JOURNAL_BYTES),
                        shown(metric_definitions::VOLUME_JOURNAL_LIMIT_BYTES)
                    ),
                    "{{volume}}",
                )],
            ),
            ("Writes wait in", "s", vec![(shown(metric_definitions::VOLUME_FULL_SECONDS), "{{volume}}")]),
        ],
    )
}

fn stores() -> Section {
    (
        "Stores",
        vec![
            (
                "Requests by cause",
                "reqps",
                vec![(rate(metric_definitions::STORE_REQUESTS, "cause"), "{{cause}}")],
            ),
            (
                "Requests by verb",
                "reqps",
                vec![(rate(metric_definitions::STORE_REQUESTS, "verb"), "{{verb}}")],
            ),
            (
                "Latency, 99 % within",
                "s",
                vec![(p99(metric_definitions::STORE_REQUEST_SECONDS, "store"), "{{store}}")],
            ),
            (
                "Requests that failed",
                "reqps",
                vec![(rate(metric_definitions::STORE_FAILED, "store"), "{{store}}")],
            ),
            (
                "Bytes",
                "Bps",
                vec![
                    (rate(metric_definitions::STORE_SENT_BYTES, ""), "sent"),
                    (rate(metric_definitions::STORE_RECEIVED_BYTES, ""), "received"),
                ],
            ),
            (
                "Shards to mend",
                "short",
                vec![
                    (shown(metric_definitions::POOL_PENDING_SHARDS), "{{pool}} pending"),
                    (shown(metric_definitions::POOL_DAMAGED_SHARDS), "{{pool}} damaged"),
                ],
            ),
        ],
    )
}

fn host() -> Section {
    let hits = |tier: &str| {
        let of = |m: Metric| {
            format!("rate({}{{instance=~\"$instance\", tier=\"{tier}\"}}[$__rate_interval])", m.name)
        };
        let (hits, misses) = (of(metric_definitions::CACHE_HITS), of(metric_definitions::CACHE_MISSES));
        format!("sum({hits}) / (sum({hits}) + sum({misses}))")
    };
    (
        "This host",
        vec![
            ("Found in the cache", "percentunit", vec![(hits("memory"), "memory"), (hits("disk"), "disk")]),
            ("Cache", "bytes", vec![(shown(metric_definitions::CACHE_BYTES), "{{tier}}")]),
            ("Memory", "bytes", vec![(shown(metric_definitions::MEMORY_BYTES), "{{part}}")]),
            (
                "Files of mounts not stored yet",
                "short",
                vec![(shown(metric_definitions::MOUNT_UNSENT_FILES), "{{dir}}")],
            ),
        ],
    )
}

fn dashboard() -> Value {
    let (mut panels, mut y) = (Vec::new(), 0);
    for (title, row) in rows() {
        panels.push(json!({
            "type": "row", "title": title, "id": panels.len() + 1, "collapsed": false, "panels": [],
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
        }));
        y += 1;
        let across = if row.len() % 3 == 0 { 3 } else { 4 };
        for (at, (title, unit, targets)) in row.iter().enumerate() {
            let place =
                json!({"h": 7, "w": 24 / across, "x": at % across * (24 / across), "y": y + at / across * 7});
            panels.push(panel(panels.len() + 1, title, unit, targets, place));
        }
        y += row.len().div_ceil(across) * 7;
    }
    json!({
        "title": "Windlass", "uid": "windlass", "tags": ["windlass"], "schemaVersion": 39, "version": 1,
        "editable": true, "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "panels": panels,
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
            variable("instance", metric_definitions::UP_SECONDS),
            variable("pool", metric_definitions::POOL_STORABLE),
            variable("volume", metric_definitions::VOLUME_CLIENTS),
        ]},
    })
}

fn variable(label: &str, of: Metric) -> Value {
    let query = format!("label_values({}, {label})", of.name);
    json!({
        "name": label, "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": label}, "definition": query, "refresh": 2, "includeAll": true,
        "multi": true, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
    })
}

fn panel(id: usize, title: &str, unit: &str, targets: &[(String, &str)], place: Value) -> Value {
    let target = |(at, (expr, legend)): (usize, &(String, &str))| {
        let id = char::from(b'A' + at as u8).to_string();
        json!({"refId": id, "expr": expr, "legendFormat": legend})
    };
    json!({
        "type": "timeseries", "title": title, "id": id, "gridPos": place,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets.iter().enumerate().map(target).collect::<Vec<_>>(),
    })
}

/// One alert: its name, expression, how long that must hold, how bad it is, and what to say.
type Alert = (&'static str, String, &'static str, &'static str, &'static str);

/// Returns an expression that compares a metric with a bound.
fn is(metric: Metric, bound: &str) -> String {
    format!("{} {bound}", metric.name)
}

fn alerts() -> Vec<Alert> {
    [of_daemon(), of_pools(), of_volumes()].concat()
}

fn of_daemon() -> Vec<Alert> {
    vec![
        (
            "WindlassDown",
            "up{job=\"windlass\"} == 0".into(),
            "1m",
            "critical",
            "The daemon on {{ $labels.instance }} does not answer.",
        ),
        (
            "WindlassCacheOff",
            is(metric_definitions::CACHE_OFF, "== 1"),
            "1m",
            "warning",
            "The cache on the disk of {{ $labels.instance }} failed and is off until the daemon's next start.",
        ),
        (
            "WindlassMemoryShort",
            is(metric_definitions::MEMORY_SHORT, "== 1"),
            "5m",
            "warning",
            "Requests on {{ $labels.instance }} wait for memory ({{ $labels.part }}): give the daemon more.",
        ),
        (
            "WindlassFilesNotStored",
            is(metric_definitions::MOUNT_UNSENT_FILES, "> 0"),
            "1h",
            "warning",
            "Files of the mount {{ $labels.dir }} have waited for an hour to be stored.",
        ),
    ]
}

fn of_pools() -> Vec<Alert> {
    let failing = {
        let of = |metric: Metric| format!("sum by (instance, pool, store) (rate({}[5m]))", metric.name);
        format!(
            "{} / {} > 0.05",
            of(metric_definitions::STORE_FAILED),
            of(metric_definitions::STORE_REQUESTS)
        )
    };
    vec![
        (
            "WindlassPoolCantStore",
            is(metric_definitions::POOL_STORABLE, "== 0"),
            "1m",
            "critical",
            "Pool {{ $labels.pool }} can store nothing now: too few stores answer {{ $labels.instance }}.",
        ),
        (
            "WindlassPoolCantDecide",
            is(metric_definitions::POOL_DECIDABLE, "== 0"),
            "1m",
            "critical",
            "No volume of pool {{ $labels.pool }} can be opened or changed: too few stores answer {{ $labels.instance }}.",
        ),
        (
            "WindlassStoreAway",
            is(metric_definitions::STORE_IN, "== 0"),
            "5m",
            "warning",
            "Store {{ $labels.store }} of pool {{ $labels.pool }} is not in use: windlass pool status {{ $labels.pool }} says why.",
        ),
        (
            "WindlassStoreFails",
            failing,
            "10m",
            "warning",
            "{{ $value | humanizePercentage }} of the requests to store {{ $labels.store }} fail.",
        ),
        (
            "WindlassShardsDamaged",
            is(metric_definitions::POOL_DAMAGED_SHARDS, "> 0"),
            "5m",
            "warning",
            "{{ $value }} shards of pool {{ $labels.pool }} are gone or rotten: windlass pool repair {{ $labels.pool }} rebuilds them.",
        ),
        (
            "WindlassShardsPending",
            is(metric_definitions::POOL_PENDING_SHARDS, "> 0"),
            "1h",
            "warning",
            "{{ $value }} shards of pool {{ $labels.pool }} have waited for their stores for an hour.",
        ),
    ]
}

fn of_volumes() -> Vec<Alert> {
    let journal = format!(
        "{} / {} > 0.8",
        metric_definitions::VOLUME_JOURNAL_BYTES.name,
        metric_definitions::VOLUME_JOURNAL_LIMIT_BYTES.name
    );
    let slow = format!(
        "histogram_quantile(0.99, sum by (instance, volume, le) (rate({}_bucket[5m]))) > 1",
        metric_definitions::VOLUME_REQUEST_SECONDS.name
    );
    let erring = format!(
        "sum by (instance, volume) (increase({}[5m])) > 0",
        metric_definitions::VOLUME_REQUEST_FAILED.name
    );
    vec![
        (
            "WindlassVolumeTrouble",
            is(metric_definitions::VOLUME_TROUBLE, "== 1"),
            "1m",
            "critical",
            "I/O of volume {{ $labels.volume }} fails, waits or soon will: windlass volume info {{ $labels.volume }} says why.",
        ),
        (
            "WindlassVolumeDegraded",
            is(metric_definitions::VOLUME_DEGRADED, "== 1"),
            "15m",
            "warning",
            "Writes to volume {{ $labels.volume }} are stored on fewer stores than usual.",
        ),
        (
            "WindlassClientsGetErrors",
            erring,
            "0m",
            "critical",
            "Clients of volume {{ $labels.volume }} got errors.",
        ),
        (
            "WindlassClientsWait",
            slow,
            "10m",
            "warning",
            "1 % of the requests to volume {{ $labels.volume }} take longer than {{ $value | humanizeDuration }}.",
        ),
        (
            "WindlassUnsentOld",
            is(metric_definitions::VOLUME_UNSENT_SECONDS, "> 60"),
            "2m",
            "warning",
            "Volume {{ $labels.volume }} has writes of {{ $value | humanizeDuration }} ago only on host {{ $labels.instance }}: they are lost if it is.",
        ),
        (
            "WindlassWritesSoonWait",
            is(metric_definitions::VOLUME_FULL_SECONDS, "< 600"),
            "1m",
            "critical",
            "Writes to volume {{ $labels.volume }} wait for the stores in {{ $value | humanizeDuration }}.",
        ),
        (
            "WindlassJournalFills",
            journal,
            "5m",
            "warning",
            "The journal of volume {{ $labels.volume }} is {{ $value | humanizePercentage }} full.",
        ),
    ]
}

/// Returns the file of alerts. A JSON string is a YAML string too.
fn rules() -> String {
    let mut out = String::from(
        "# Alerts for Prometheus, made of the metrics' names by src/daemon/dashboard_and_alerts.rs: change them there, or copy them.\n\
         # They want the scrape job to be called windlass.\n\
         groups:\n  - name: windlass\n    rules:\n",
    );
    for (name, expr, held, severity, says) in alerts() {
        out += &format!(
            "      - alert: {name}\n        expr: {}\n        for: {held}\n        labels:\n          severity: {severity}\n        \
             annotations:\n          summary: {}\n",
            json!(expr),
            json!(says)
        );
    }
    out
}

#[test]
fn packaging_has_the_dashboard_and_alerts_of_these_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dashboard = serde_json::to_string_pretty(&dashboard()).unwrap() + "\n";
    for (file, wanted) in [(DASHBOARD, dashboard), (ALERTS, rules())] {
        let path = root.join(file);
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        }
        let is = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            is == wanted,
            "{file} is behind its source: WRITE_DOCS=1 cargo test --lib dashboard_and_alerts"
        );
        let words = wanted.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<&str> = words.filter(|word| word.starts_with("windlass_")).collect();
        assert!(names.len() > 10, "{file}");
        for name in names {
            let parts = ["_bucket", "_count", "_sum"];
            let of_histogram = parts.iter().find_map(|end| name.strip_suffix(end));
            let known = |m: &&Metric| match m.moves {
                Moves::Histogram => of_histogram == Some(m.name),
                Moves::Gauge | Moves::Counter => name == m.name,
            };
            assert!(metric_definitions::ALL.iter().any(|m| known(&m)), "{file}: there is no metric {name}");
        }
    }
}
