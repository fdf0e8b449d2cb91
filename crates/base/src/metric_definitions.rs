//! Every metric: its name, what it measures, in which unit. Names are a contract like the JSON fields: they stay, and
//! `docs/reference.md` lists them (a test compares).

/// The ways in which a metric changes over time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moves {
    /// The value goes up and down.
    Gauge,
    /// The value only grows, from the start of the process on.
    Counter,
    /// The value counts how long things took, by buckets.
    Histogram,
}

/// One metric; the unit is the last part of its name, or it is a plain number.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub moves: Moves,
    /// Names of the labels that each sample has, in this order.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, moves: Moves::Gauge, labels, help }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, moves: Moves::Counter, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, moves: Moves::Histogram, labels, help }
}

const BUDGET: &[&str] = &["part"];
const TIER: &[&str] = &["tier"];
const POOL: &[&str] = &["pool"];
const STORE: &[&str] = &["pool", "store"];
const TRAFFIC: &[&str] = &["pool", "store", "verb", "cause"];
const VOLUME: &[&str] = &["volume"];
const VOLUME_IO: &[&str] = &["volume", "verb"];
const REPLICA: &[&str] = &["volume", "copy"];
const MOUNT: &[&str] = &["dir"];

pub const UP_SECONDS: Metric =
    counter("windlass_up_seconds_total", &[], "how long the daemon has been running");
pub const MEMORY_BYTES: Metric =
    gauge("windlass_memory_bytes", BUDGET, "memory in use, of each part of the budget");
pub const MEMORY_LIMIT_BYTES: Metric = gauge("windlass_memory_limit_bytes", BUDGET, "what that part may use");
pub const MEMORY_SHORT: Metric =
    gauge("windlass_memory_short", BUDGET, "1: somebody waits for memory of that part");

pub const CACHE_BYTES: Metric = gauge("windlass_cache_bytes", TIER, "what that part of the cache holds");
pub const CACHE_LIMIT_BYTES: Metric = gauge("windlass_cache_limit_bytes", TIER, "what it may hold");
pub const CACHE_HITS: Metric = counter("windlass_cache_hits_total", TIER, "parts of volumes found there");
pub const CACHE_MISSES: Metric = counter("windlass_cache_misses_total", TIER, "parts not found there");
pub const AHEAD_BYTES: Metric =
    counter("windlass_ahead_bytes_total", &[], "bytes of volumes fetched before anybody asked for them");
pub const AHEAD_USED_BYTES: Metric =
    counter("windlass_ahead_used_bytes_total", &[], "those of them that were read then");
pub const CACHE_OFF: Metric =
    gauge("windlass_cache_off", &[], "1: the cache on disk failed and is off until the next start");

pub const POOL_STORABLE: Metric =
    gauge("windlass_pool_storable", POOL, "1: enough stores answer for new data to be stored");
pub const POOL_DECIDABLE: Metric =
    gauge("windlass_pool_decidable", POOL, "1: enough stores answer for volumes to be opened and changed");
pub const POOL_PENDING_SHARDS: Metric =
    gauge("windlass_pool_pending_shards", POOL, "shards left out, which are put when their stores take them");
pub const POOL_DAMAGED_SHARDS: Metric = gauge(
    "windlass_pool_damaged_shards",
    POOL,
    "shards that a scrub or a read found gone or rotten, which `pool repair` rebuilds",
);
pub const STORE_IN: Metric =
    gauge("windlass_store_in", STORE, "1: the store is in use, 0: it is down, out or takes no writes");
pub const STORE_REQUESTS: Metric =
    counter("windlass_store_requests_total", TRAFFIC, "requests since the pool was opened");
pub const STORE_FAILED: Metric =
    counter("windlass_store_failed_total", TRAFFIC, "those of them that failed, or whose outcome is unknown");
pub const STORE_SENT_BYTES: Metric =
    counter("windlass_store_sent_bytes_total", TRAFFIC, "bytes sent to the store");
pub const STORE_RECEIVED_BYTES: Metric =
    counter("windlass_store_received_bytes_total", TRAFFIC, "bytes received from it");
pub const STORE_LATENCY_SECONDS: Metric =
    gauge("windlass_store_latency_p99_seconds", STORE, "99 % of the last requests took no longer");

pub const STORE_REQUEST_SECONDS: Metric =
    histogram("windlass_store_request_seconds", TRAFFIC, "how long its requests took");

pub const VOLUME_REQUEST_SECONDS: Metric = histogram(
    "windlass_volume_request_seconds",
    VOLUME_IO,
    "how long clients' requests took, without their wait for a limited volume's turn",
);
pub const VOLUME_REQUEST_BYTES: Metric =
    counter("windlass_volume_request_bytes_total", VOLUME_IO, "bytes of clients' requests that were done");
pub const VOLUME_REQUEST_FAILED: Metric =
    counter("windlass_volume_request_failed_total", VOLUME_IO, "clients' requests that got an error");
pub const VOLUME_CLIENTS: Metric = gauge("windlass_volume_clients", VOLUME, "block clients connected");
pub const VOLUME_TROUBLE: Metric =
    gauge("windlass_volume_trouble", VOLUME, "1: I/O fails, waits or soon will");
pub const VOLUME_DEGRADED: Metric =
    gauge("windlass_volume_degraded", VOLUME, "1: writes are stored on fewer stores than usual");
pub const VOLUME_UNSENT_BYTES: Metric =
    gauge("windlass_volume_unsent_bytes", VOLUME, "acknowledged here and not yet in the pool");
pub const VOLUME_UNSENT_SECONDS: Metric =
    gauge("windlass_volume_unsent_age_seconds", VOLUME, "age of the oldest of those");
pub const VOLUME_JOURNAL_BYTES: Metric =
    gauge("windlass_volume_journal_bytes", VOLUME, "local disk in use by the journal");
pub const VOLUME_JOURNAL_LIMIT_BYTES: Metric =
    gauge("windlass_volume_journal_limit_bytes", VOLUME, "what the journal may use");
pub const VOLUME_ROOM_BYTES: Metric =
    gauge("windlass_volume_room_bytes", VOLUME, "what can be written before writes wait for the stores");
pub const VOLUME_FULL_SECONDS: Metric = gauge(
    "windlass_volume_full_in_seconds",
    VOLUME,
    "until then, at the pace at which unsent writes grow; absent while the stores keep up",
);
pub const VOLUME_STORED_BYTES: Metric =
    gauge("windlass_volume_stored_bytes", VOLUME, "bytes of its own objects, without parity");

pub const REPLICA_LAG_SECONDS: Metric =
    gauge("windlass_replica_lag_seconds", REPLICA, "how old the newest snapshot is that the copy has");
pub const REPLICA_TROUBLE: Metric = gauge(
    "windlass_replica_trouble",
    REPLICA,
    "1: the copy is too far behind, or could not be brought up to date",
);

pub const MOUNT_UNSENT_FILES: Metric =
    gauge("windlass_mount_unsent_files", MOUNT, "files closed here and not stored yet");
pub const MOUNT_UNSENT_BYTES: Metric = gauge("windlass_mount_unsent_bytes", MOUNT, "their bytes");

/// All metrics, in the order in which they are shown.
pub const ALL: &[Metric] = &[
    UP_SECONDS,
    MEMORY_BYTES,
    MEMORY_LIMIT_BYTES,
    MEMORY_SHORT,
    CACHE_BYTES,
    CACHE_LIMIT_BYTES,
    CACHE_HITS,
    CACHE_MISSES,
    AHEAD_BYTES,
    AHEAD_USED_BYTES,
    CACHE_OFF,
    POOL_STORABLE,
    POOL_DECIDABLE,
    POOL_PENDING_SHARDS,
    POOL_DAMAGED_SHARDS,
    STORE_IN,
    STORE_REQUESTS,
    STORE_FAILED,
    STORE_SENT_BYTES,
    STORE_RECEIVED_BYTES,
    STORE_LATENCY_SECONDS,
    STORE_REQUEST_SECONDS,
    VOLUME_REQUEST_SECONDS,
    VOLUME_REQUEST_BYTES,
    VOLUME_REQUEST_FAILED,
    VOLUME_CLIENTS,
    VOLUME_TROUBLE,
    VOLUME_DEGRADED,
    VOLUME_UNSENT_BYTES,
    VOLUME_UNSENT_SECONDS,
    VOLUME_JOURNAL_BYTES,
    VOLUME_JOURNAL_LIMIT_BYTES,
    VOLUME_ROOM_BYTES,
    VOLUME_FULL_SECONDS,
    VOLUME_STORED_BYTES,
    REPLICA_LAG_SECONDS,
    REPLICA_TROUBLE,
    MOUNT_UNSENT_FILES,
    MOUNT_UNSENT_BYTES,
];
