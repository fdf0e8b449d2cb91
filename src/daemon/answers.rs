//! What verbs answer, as the engine writes it and commands read it. Field names are a contract with scripts
//! (docs/reference.md).

use std::borrow::Cow;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::api::{SnapshotPath, VolumePath};
use crate::base::{HostId, Name};
use crate::cache::{DiskStats, MemoryStats};
use crate::fs::KeptFile;
use crate::keys::SlotKind;
use crate::pool::{LastScrub, Located, PoolStatus};
use crate::store::KeySource;
use crate::volume::{Copied, HistoryMark, MovedVolume, SnapshotInfo, TrashedSnapshot, VolumeInfo};

/// One of a few words, which docs/reference.md lists.
pub type Word = Cow<'static, str>;

/// An enum's value as JSON writes it.
pub fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// A pool as listings show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolLine {
    pub name: Name,
    /// None unless the pool is open.
    pub layout: Option<String>,
    pub stores: usize,
    pub state: Word,
    /// Why it isn't `open`, or that it fills up; of one that nobody has tried to open, none.
    pub trouble: Option<String>,
    /// What the volumes have stored, with parity; none before this daemon has counted it.
    pub used_bytes: Option<u64>,
    /// As far as the stores can tell, or the user has told the pool's capacity.
    pub free_bytes: Option<u64>,
}

/// `pool status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolAnswer {
    #[serde(flatten)]
    pub status: PoolStatus,
    /// On this host.
    pub last_scrub: Option<LastScrub>,
    /// As in `PoolLine`.
    pub used_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    /// None when this daemon has not counted it yet (`--walk` does), or it can't be counted now.
    pub usage: Option<PoolUsage>,
}

/// What a pool's volumes are promised and take, all together.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct PoolUsage {
    /// When the heads of all volumes were walked, in ms since 1970. What this host has done since then is counted too.
    #[serde(default)]
    pub counted_ms: u64,
    pub volumes: u64,
    /// Their sizes.
    pub provisioned_bytes: u64,
    pub mapped_bytes: u64,
    pub stored_bytes: u64,
    pub stored_with_parity_bytes: u64,
    /// Of the trash, which the others count too: volumes, and what they store with parity.
    pub trash_volumes: u64,
    pub trash_stored_bytes: u64,
}

/// What is printed of `pool scrub`; the whole answer is the pool's `ScrubReport`.
#[derive(Clone, Debug, Deserialize)]
pub struct ScrubFindings {
    pub findings: Vec<Located>,
    /// Stores that could not be looked through, and why.
    pub unreachable: Vec<String>,
}

/// `pool replace`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replaced {
    pub old: String,
    pub new: String,
    /// Shards that were brought to the new store.
    pub shards: u64,
}

/// `drill lose-store`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrillReport {
    pub pool: Name,
    pub store: String,
    pub cut_off_ms: u64,
    /// Of all clients of the pool's volumes, while the store was away.
    pub requests: u64,
    pub failed: u64,
    /// Right to about 20 %.
    pub slowest_ms: f64,
    /// What volumes had to say meanwhile.
    pub troubles: Vec<String>,
    /// Shards that were left out, at most.
    pub pending_shards: u64,
    /// From the store's return until all that it missed was put; none when that was not waited for.
    pub repaired_ms: Option<u64>,
    /// Whoever asked gave up.
    pub broken_off: bool,
}

/// `volume info`: what the volume says of itself, and what the engine knows beside that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeAnswer {
    pub path: VolumePath,
    pub state: Word,
    pub clients: u64,
    /// Those who have written to it and are still connected.
    pub writers: Vec<String>,
    /// Of a clone: the snapshot that it was made from, POOL/VOLUME@SNAPSHOT; the volume by its id where its name can't be told.
    pub origin: Option<String>,
    /// The copy that this daemon keeps of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<ReplicaLine>,
    /// Commands that this daemon carries out on it.
    #[serde(default)]
    pub under_way: Vec<WorkLine>,
    #[serde(flatten)]
    pub info: VolumeInfo,
}

/// A command that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkLine {
    /// The pool, volume or bucket that it is about.
    pub of: String,
    pub doing: String,
    pub done: u64,
    /// 0: not known.
    pub total: u64,
    pub for_ms: u64,
}

/// A volume as `volume list` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VolumeLine {
    Known(Box<VolumeAnswer>),
    /// Its head could not be read.
    Unknown {
        path: VolumePath,
        state: Word,
    },
}

/// A volume in use here, as `status` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeInUse {
    pub path: VolumePath,
    pub clients: u64,
    pub state: Word,
    /// Acknowledged here and not yet in the pool: what is lost if this host dies now.
    pub unsent_bytes: u64,
    /// How long the oldest of those has waited.
    pub unsent_age_ms: Option<u64>,
    /// What can be written before writes wait for the stores, and when that will be so at this pace.
    pub room_bytes: Option<u64>,
    pub full_in_ms: Option<u64>,
    /// Local disk that the journal uses and may use; none when the volume isn't open.
    #[serde(default)]
    pub journal_bytes: Option<u64>,
    #[serde(default)]
    pub journal_size: Option<u64>,
    pub trouble: Option<String>,
    pub io: Vec<IoLine>,
}

/// What clients have asked of a volume with one verb, since the first of them came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IoLine {
    pub verb: Word,
    pub requests: u64,
    /// Of those that were done.
    pub bytes: u64,
    pub failed: u64,
    pub latency_ms_p50: f64,
    pub latency_ms_p99: f64,
    pub latency_ms_max: f64,
    /// Up to how many ms, and how many took so long and longer than the ones before. From two of them on, in order of time,
    /// the latencies between both are known.
    #[serde(default)]
    pub latency_counts: Vec<(f64, u64)>,
}

/// A snapshot as listings show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotLine {
    pub path: String,
    /// As people write it.
    pub created: String,
    /// What comes back when it is removed, without parity; none when it can't be told without reading its map.
    pub frees_bytes: Option<u64>,
    /// The same with all older ones, or those from the given one on.
    pub frees_with_older_bytes: Option<u64>,
    #[serde(flatten)]
    pub info: SnapshotInfo,
}

/// `snapshot lock`.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotLocked {
    pub path: SnapshotPath,
    pub locked_until_ms: u64,
    /// As people write it.
    pub locked_until: String,
}

/// `snapshot copy`.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotCopied {
    pub from: SnapshotPath,
    pub to: VolumePath,
    #[serde(flatten)]
    pub copied: Copied,
}

/// `volume move`.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeMoved {
    pub from: VolumePath,
    pub to: VolumePath,
    /// Until when what it was can be looked at; none when it had moved before, or the pool keeps no trash.
    pub trash_until: Option<String>,
    #[serde(flatten)]
    pub moved: MovedVolume,
}

/// `replicate`.
#[derive(Clone, Debug, Serialize)]
pub struct Replicated {
    #[serde(flatten)]
    pub copied: SnapshotCopied,
    /// Older ones of its own that were removed, on both sides.
    pub removed: Vec<SnapshotPath>,
    /// When the snapshot was taken that the copy has now.
    pub created_ms: u64,
}

/// A copy that is kept up as windlass.toml plans it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplicaLine {
    pub from: VolumePath,
    pub to: VolumePath,
    pub every_ms: u64,
    pub max_lag_ms: Option<u64>,
    /// When the newest snapshot was taken that the copy has; none when it has none, or nobody has looked yet.
    pub copied_ms: Option<u64>,
    /// Since then; since the daemon knows of the plan where that is not known.
    pub lag_ms: u64,
    /// It is being brought up to date.
    pub busy: bool,
    pub trouble: Option<String>,
}

/// A line of `volume list --trash`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrashLine {
    pub path: VolumePath,
    pub removed_ms: u64,
    /// As people write it.
    pub removed: String,
    /// When it goes for good.
    pub until: String,
    /// None when its head can't be read now.
    pub size: Option<u64>,
    pub stored_bytes: Option<u64>,
    pub snapshots: Option<u64>,
}

/// A line of `snapshot list --trash`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrashedSnapshotLine {
    pub path: String,
    pub removed: String,
    pub until: String,
    #[serde(flatten)]
    pub snapshot: TrashedSnapshot,
}

/// A line of `volume history`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistoryLine {
    pub path: String,
    /// As people write it.
    pub created: String,
    #[serde(flatten)]
    pub mark: HistoryMark,
}

/// What `volume key list` tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyList {
    pub slots: Vec<KeySlotLine>,
    pub data_keys: Vec<DataKeyLine>,
}

/// A data key of an encrypted volume, in `volume key list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataKeyLine {
    pub number: u8,
    /// As people write it; empty where it is not known.
    pub made: String,
    pub made_ms: u64,
    /// What is written is sealed by it; the others are to go.
    pub seals: bool,
    /// Live bytes as stored, by the last checkpoint, of which it may have sealed something, and no older one.
    pub bytes: u64,
}

/// A slot, in `volume key list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeySlotLine {
    pub slot: u8,
    pub kind: SlotKind,
    /// As people write it.
    pub made: String,
    pub made_ms: u64,
}

/// A line of `credentials list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CredentialsLine {
    /// `profile:NAME` or the URL of a place.
    pub target: String,
    pub key_id: String,
    pub source: KeySource,
    /// When they end, as people write it.
    pub expires: Option<String>,
    pub expires_ms: Option<u64>,
    /// Open stores that use them.
    pub stores: u64,
}

/// One mount, as listings show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountInfo {
    pub dir: String,
    pub url: String,
    /// Files that are closed here and not stored yet, and their bytes.
    pub unsent_files: u64,
    pub unsent_bytes: u64,
    /// Why files are not sent, or that the bucket did not answer when it was asked last.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// What is kept of one bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptOf {
    pub url: String,
    pub files: u64,
    pub bytes: u64,
}

/// `mount list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountList {
    pub mounts: Vec<MountInfo>,
    pub kept: Vec<KeptOf>,
    /// The first of them, by name.
    pub kept_files: Vec<KeptFile>,
}

/// What is wrong with a host, or what its daemon has tried in vain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostTrouble {
    /// Of its kind, as docs/reference.md lists them.
    pub name: Word,
    /// A sentence with what to do.
    pub trouble: String,
}

/// `status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Of the program that answers.
    #[serde(default)]
    pub version: String,
    /// How long it has run.
    #[serde(default)]
    pub up_ms: u64,
    pub home: String,
    pub host: String,
    pub host_id: HostId,
    /// Where NBD clients connect; none without a daemon.
    pub nbd: Vec<String>,
    /// Where its metrics are read.
    #[serde(default)]
    pub metrics: Vec<String>,
    /// Where journals of volumes that are owned here are mirrored to.
    #[serde(default)]
    pub mirror: Option<String>,
    /// Where this host is the peer of others.
    #[serde(default)]
    pub mirror_listen: Option<String>,
    /// Of the host and the daemon itself.
    #[serde(default)]
    pub troubles: Vec<HostTrouble>,
    pub pools: Vec<PoolLine>,
    pub volumes: Vec<VolumeInUse>,
    #[serde(default)]
    pub replicas: Vec<ReplicaLine>,
    /// Commands that this engine carries out, as far as they have told how far they are.
    #[serde(default)]
    pub under_way: Vec<WorkLine>,
    pub mounts: Vec<MountInfo>,
    pub kept_files: Vec<KeptOf>,
    pub kept_journals: Vec<PathBuf>,
    pub cache: ReadCaches,
}

/// `watch`: what somebody sees who looks all the time. Made of what is known here; stores are asked once a minute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WatchAnswer {
    pub version: String,
    /// By this host's clock, in ms since 1970.
    pub wall_ms: u64,
    pub up_ms: u64,
    /// How long ago stores were asked how they are. What requests have shown since is known too.
    pub looked_ms_ago: u64,
    #[serde(flatten)]
    pub status: EngineStatus,
    /// Those that are open.
    pub open_pools: Vec<PoolStatus>,
    pub memory: Vec<MemoryPart>,
}

/// One part of the memory budget.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemoryPart {
    pub part: Word,
    pub bytes: u64,
    pub limit_bytes: u64,
    /// Somebody waits for it.
    pub short: bool,
}

/// The cache of what is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadCaches {
    pub memory: MemoryStats,
    /// None: there is none on disk.
    pub disk: Option<DiskStats>,
}
