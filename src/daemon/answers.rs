//! What verbs answer, as the engine writes it and commands read it. Field names are a contract with scripts
//! (docs/reference.md).

use std::borrow::Cow;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::api::{SnapshotPath, VolumePath};
use windlass_base::{HostId, Name};
use windlass_cache::{DiskStats, MemoryStats};
use windlass_fs::KeptFile;
use windlass_keys::SlotKind;
use windlass_pool::{LastScrub, Located, PoolStatus};
use windlass_store::KeySource;
use windlass_volume::{Copied, HistoryMark, MovedVolume, SnapshotInfo, TrashedSnapshot, VolumeInfo};

/// One of a few words, which docs/reference.md lists.
pub type Word = Cow<'static, str>;

/// Returns an enum's value as JSON writes it.
pub fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// A pool as listings show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolLine {
    pub name: Name,
    /// Erasure-code layout of the pool; none unless the pool is open.
    pub layout: Option<String>,
    pub stores: usize,
    pub state: Word,
    /// Sentence that says why the pool isn't `open`, or that it fills up; none if nobody has tried to open the pool.
    pub trouble: Option<String>,
    /// Bytes that the pool's volumes have stored, with parity; none until this daemon has counted them.
    pub used_bytes: Option<u64>,
    /// Free bytes, as far as the stores can tell them or the user has told the pool's capacity; else none.
    pub free_bytes: Option<u64>,
}

/// Answer of `pool status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolAnswer {
    #[serde(flatten)]
    pub status: PoolStatus,
    /// Last scrub of the pool on this host.
    pub last_scrub: Option<LastScrub>,
    /// Bytes used and free, with the meaning that both have in `PoolLine`.
    pub used_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    /// Usage of all volumes; none if this daemon has not counted it yet (`--walk` does), or can't count it now.
    pub usage: Option<PoolUsage>,
}

/// Sum of what all volumes of a pool are promised and take.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct PoolUsage {
    /// Time at which the heads of all volumes were walked, in ms since 1970. The figures also count what this host
    /// has done since then.
    #[serde(default)]
    pub counted_ms: u64,
    pub volumes: u64,
    /// Sum of the volumes' sizes.
    pub provisioned_bytes: u64,
    pub mapped_bytes: u64,
    pub stored_bytes: u64,
    pub stored_with_parity_bytes: u64,
    /// Volumes in the trash, and what they store with parity. The other figures include both.
    pub trash_volumes: u64,
    pub trash_stored_bytes: u64,
}

/// Part of the answer of `pool scrub` that is printed; the whole answer is the pool's `ScrubReport`.
#[derive(Clone, Debug, Deserialize)]
pub struct ScrubFindings {
    pub findings: Vec<Located>,
    /// Stores that could not be looked through, and why.
    pub unreachable: Vec<String>,
}

/// Answer of `pool replace`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replaced {
    pub old: String,
    pub new: String,
    /// Shards that were brought to the new store.
    pub shards: u64,
}

/// Answer of `drill lose-store`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrillReport {
    pub pool: Name,
    pub store: String,
    pub cut_off_ms: u64,
    /// Requests of all clients of the pool's volumes while the store was away.
    pub requests: u64,
    pub failed: u64,
    /// Slowest of these requests; the figure is right to about 20 %.
    pub slowest_ms: f64,
    /// Troubles that volumes reported while the store was away.
    pub troubles: Vec<String>,
    /// Largest number of shards that were pending at one time.
    pub pending_shards: u64,
    /// Time from the store's return until everything that it missed was put; none when nobody waited for that.
    pub repaired_ms: Option<u64>,
    /// Is true if the caller gave up before the drill was over.
    pub broken_off: bool,
}

/// Answer of `volume info`: what the volume says of itself, and what the engine knows beside that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeAnswer {
    pub path: VolumePath,
    pub state: Word,
    pub clients: u64,
    /// Clients that have written to the volume and are still connected.
    pub writers: Vec<String>,
    /// Snapshot that a clone was made from, POOL/VOLUME@SNAPSHOT. The volume is given by its id where its name can't
    /// be told.
    pub origin: Option<String>,
    /// The copy that this daemon keeps of the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<ReplicaLine>,
    /// Commands that this daemon carries out on the volume.
    #[serde(default)]
    pub under_way: Vec<WorkLine>,
    #[serde(flatten)]
    pub info: VolumeInfo,
}

/// A command that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkLine {
    /// The pool, volume or bucket that the command is about.
    pub of: String,
    pub doing: String,
    pub done: u64,
    /// Amount of work in all; 0 if it is not known.
    pub total: u64,
    pub for_ms: u64,
}

/// A volume as `volume list` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VolumeLine {
    Known(Box<VolumeAnswer>),
    /// A volume whose head could not be read.
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
    /// Bytes that are acknowledged here and not yet in the pool: they are lost if this host dies now.
    pub unsent_bytes: u64,
    /// Age of the oldest unsent write.
    pub unsent_age_ms: Option<u64>,
    /// Bytes that can be written before writes wait for the stores, and the time until then at the present pace.
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

/// Counts of clients' requests to a volume with one verb, since the first client came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IoLine {
    pub verb: Word,
    pub requests: u64,
    /// Bytes of the requests that were done.
    pub bytes: u64,
    pub failed: u64,
    pub latency_ms_p50: f64,
    pub latency_ms_p99: f64,
    pub latency_ms_max: f64,
    /// Bounds in ms, and how many requests took at most that long and longer than the bound before. From two such
    /// lists, in order of time, the latencies between both are known.
    #[serde(default)]
    pub latency_counts: Vec<(f64, u64)>,
}

/// A snapshot as listings show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotLine {
    pub path: String,
    /// Time at which the snapshot was taken, as people write it.
    pub created: String,
    /// Bytes that the snapshot's removal gives back, without parity; none when only reading its map could tell.
    pub frees_bytes: Option<u64>,
    /// Bytes that are given back if all older snapshots, or those from the given one on, are removed with this one.
    pub frees_with_older_bytes: Option<u64>,
    #[serde(flatten)]
    pub info: SnapshotInfo,
}

/// Answer of `snapshot lock`.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotLocked {
    pub path: SnapshotPath,
    pub locked_until_ms: u64,
    /// Time at which the lock ends, as people write it.
    pub locked_until: String,
}

/// Answer of `snapshot copy`.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotCopied {
    pub from: SnapshotPath,
    pub to: VolumePath,
    #[serde(flatten)]
    pub copied: Copied,
}

/// Answer of `volume move`.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeMoved {
    pub from: VolumePath,
    pub to: VolumePath,
    /// Time until which the volume as it was stays in the trash of its old pool. None when it had moved before, or
    /// that pool keeps no trash.
    pub trash_until: Option<String>,
    #[serde(flatten)]
    pub moved: MovedVolume,
}

/// Answer of `replicate`.
#[derive(Clone, Debug, Serialize)]
pub struct Replicated {
    #[serde(flatten)]
    pub copied: SnapshotCopied,
    /// Older snapshots that `replicate` had taken and that were removed, on both sides.
    pub removed: Vec<SnapshotPath>,
    /// Time at which the snapshot was taken that the copy has now.
    pub created_ms: u64,
}

/// A copy that is kept up as windlass.toml plans it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplicaLine {
    pub from: VolumePath,
    pub to: VolumePath,
    pub every_ms: u64,
    pub max_lag_ms: Option<u64>,
    /// Time at which the copy's newest snapshot was taken; none when the copy has none, or nobody has looked yet.
    pub copied_ms: Option<u64>,
    /// Time since the copy's newest snapshot was taken; where that is not known, since the daemon learned of the
    /// plan.
    pub lag_ms: u64,
    /// Is true while the copy is being brought up to date.
    pub busy: bool,
    pub trouble: Option<String>,
}

/// A line of `volume list --trash`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrashLine {
    pub path: VolumePath,
    pub removed_ms: u64,
    /// Time of the removal, as people write it.
    pub removed: String,
    /// Time at which the volume is deleted for good.
    pub until: String,
    /// Size of the volume; none when its head can't be read now.
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
    /// Time at which the mark was made, as people write it.
    pub created: String,
    #[serde(flatten)]
    pub mark: HistoryMark,
}

/// Answer of `volume key list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyList {
    pub slots: Vec<KeySlotLine>,
    pub data_keys: Vec<DataKeyLine>,
}

/// A data key of an encrypted volume, in `volume key list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataKeyLine {
    pub number: u8,
    /// Time at which the key was made, as people write it; empty where it is not known.
    pub made: String,
    pub made_ms: u64,
    /// Is true for the key that seals new data; the other keys are to go.
    pub seals: bool,
    /// Live bytes as stored, by the last checkpoint, of objects in which this key, and no older one, may have sealed
    /// something.
    pub bytes: u64,
}

/// A slot, in `volume key list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeySlotLine {
    pub slot: u8,
    pub kind: SlotKind,
    /// Time at which the slot was filled, as people write it.
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
    /// Time at which the keys expire, as people write it.
    pub expires: Option<String>,
    pub expires_ms: Option<u64>,
    /// Number of open stores that use these keys.
    pub stores: u64,
}

/// One mount, as listings show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountInfo {
    pub dir: String,
    pub url: String,
    /// Files that are closed here and not stored yet: their number and their bytes.
    pub unsent_files: u64,
    pub unsent_bytes: u64,
    /// Reason why files are not sent, or a sentence that the bucket did not answer when it was asked last.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// Files of one bucket that this host keeps since they could not be stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptOf {
    pub url: String,
    pub files: u64,
    pub bytes: u64,
}

/// Answer of `mount list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountList {
    pub mounts: Vec<MountInfo>,
    pub kept: Vec<KeptOf>,
    /// First of the kept files, by name.
    pub kept_files: Vec<KeptFile>,
}

/// A trouble of a host, or something that its daemon has tried in vain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostTrouble {
    /// Name of the trouble's kind, as docs/reference.md lists them.
    pub name: Word,
    /// A sentence that tells the trouble and what to do.
    pub trouble: String,
}

/// Answer of `status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Version of the program that answers.
    #[serde(default)]
    pub version: String,
    /// Time for which the program has run.
    #[serde(default)]
    pub up_ms: u64,
    pub home: String,
    pub host: String,
    pub host_id: HostId,
    /// Addresses where NBD clients connect; none without a daemon.
    pub nbd: Vec<String>,
    /// Addresses where the daemon's metrics are read.
    #[serde(default)]
    pub metrics: Vec<String>,
    /// Address of the peer to which the journals of volumes that are owned here are mirrored.
    #[serde(default)]
    pub mirror: Option<String>,
    /// Address where this host takes in journals as the peer of other hosts.
    #[serde(default)]
    pub mirror_listen: Option<String>,
    /// Troubles of the host and of the daemon itself.
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

/// Answer of `watch`: the view of somebody who looks all the time. It is made of what is known here; stores are asked
/// once a minute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WatchAnswer {
    pub version: String,
    /// Time of the answer by this host's clock, in ms since 1970.
    pub wall_ms: u64,
    pub up_ms: u64,
    /// Time since the stores were last asked how they are. What requests have shown since then is counted in too.
    pub looked_ms_ago: u64,
    #[serde(flatten)]
    pub status: EngineStatus,
    /// Status of each pool that is open.
    pub open_pools: Vec<PoolStatus>,
    pub memory: Vec<MemoryPart>,
}

/// One part of the memory budget.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemoryPart {
    pub part: Word,
    pub bytes: u64,
    pub limit_bytes: u64,
    /// Is true while somebody waits for memory of this part.
    pub short: bool,
}

/// State of the cache of what is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadCaches {
    pub memory: MemoryStats,
    /// State of the cache on disk; none if there is no such cache.
    pub disk: Option<DiskStats>,
}
