//! A pool's volumes, by name.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::info::{SnapshotInfo, TakeOver, VolumeInfo};
use super::settings::{Host, Settings};
use crate::base::rt::{Disk, Rt};
use crate::base::{Error, Kind, Name, Result, VolumeId};

/// The daemon's one memory budget, split (design.md §2); shared by all its volumes.
#[derive(Clone, Debug)]
pub struct Memory {
    total: u64,
}

impl Memory {
    /// A quarter each for writes under way and for encoding, the rest for caches.
    pub fn new(total: u64) -> Memory {
        Memory { total }
    }
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// What a pool's volumes stand on.
#[derive(Clone, Debug)]
pub struct Deps {
    pub rt: Rt,
    pub disk: Arc<dyn Disk>,
    /// A folder of the state folder, of this pool's volumes alone: journals, one folder a volume.
    pub dir: PathBuf,
    pub host: Host,
    pub memory: Memory,
    /// How long more than N-w stores must be out before writes go on with fewer; `None`: never.
    pub degrade_after: Option<Duration>,
}

/// How a volume is opened for writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OpenMode {
    /// A released volume opens inertly and is claimed by its first write; one that this state folder owns is claimed
    /// at once; one that another owns is refused (`Kind::Owned`).
    #[default]
    Normal,
    /// Also when another host owns it. `accept_loss`: also when it cannot be told what was acknowledged.
    TakeOver { accept_loss: bool },
}

/// All volumes of one pool in one engine; one `Volume` a volume, shared by its sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Volumes {
    deps: Arc<Deps>,
}

fn soon<T>() -> Result<T> {
    Err(Error::new(Kind::Unsupported, "volumes are not there yet"))
}

impl Volumes {
    pub fn new(deps: Deps) -> Volumes {
        Volumes { deps: Arc::new(deps) }
    }

    pub fn deps(&self) -> &Deps {
        &self.deps
    }

    /// A new empty volume, born released. `Exists` when the name is taken.
    pub async fn create(&self, _name: &Name, _size: u64, _settings: Settings) -> Result<VolumeInfo> {
        soon()
    }

    /// All volumes in order of their names, by their heads; opens nothing. `Err` beside a name: its head cannot be read.
    pub async fn list(&self) -> Result<Vec<(Name, Result<VolumeInfo>)>> {
        soon()
    }

    pub async fn info(&self, _name: &Name) -> Result<VolumeInfo> {
        soon()
    }

    /// The one `Volume` of this engine; a session that failed before is replaced by a new one.
    pub async fn open(&self, _name: &Name, _mode: OpenMode) -> Result<Arc<Volume>> {
        soon()
    }

    /// A snapshot, read-only, whoever owns the volume. Waits for its map when this engine is the owner; when another
    /// is and the map isn't written yet: `Unavailable`.
    pub async fn open_snapshot(&self, _volume: &Name, _snapshot: &Name) -> Result<Arc<SnapshotView>> {
        soon()
    }

    pub async fn snapshots(&self, _volume: &Name) -> Result<Vec<SnapshotInfo>> {
        soon()
    }

    /// `Refused` while a clone needs it.
    pub async fn remove_snapshot(&self, _volume: &Name, _snapshot: &Name) -> Result<()> {
        soon()
    }

    /// A new volume whose contents are the snapshot's: O(1) in time and bytes.
    pub async fn clone_snapshot(&self, _volume: &Name, _snapshot: &Name, _new: &Name) -> Result<VolumeInfo> {
        soon()
    }

    /// This engine becomes the owner now.
    pub async fn take_over(&self, _name: &Name, _accept_loss: bool) -> Result<TakeOver> {
        soon()
    }

    /// Drains and releases if it is open here or owned by this state folder; nothing to do otherwise.
    pub async fn release(&self, _name: &Name) -> Result<()> {
        soon()
    }

    /// `Refused` while clones need it, `Owned` when another host does. With its snapshots.
    pub async fn remove(&self, _name: &Name) -> Result<()> {
        soon()
    }

    /// What `remove` would refuse, without doing it.
    pub async fn check_remove(&self, _name: &Name) -> Result<()> {
        soon()
    }

    /// Releases all that are open, as far as `drain` lasts; the sentences name those that stay unreleased.
    pub async fn shutdown(&self, _drain: Duration) -> Vec<String> {
        Vec::new()
    }
}

/// An open virtual disk. Any offset and length inside its size may be read and written, concurrently.
#[derive(Debug)]
pub struct Volume {
    id: VolumeId,
}

impl Volume {
    pub fn id(&self) -> VolumeId {
        self.id
    }

    pub fn size(&self) -> u64 {
        0
    }

    pub async fn read(&self, _offset: u64, _len: u64) -> Result<Bytes> {
        soon()
    }

    /// Acknowledged when it is in memory and in the journal's buffer: `flush` makes it last.
    pub async fn write(&self, _offset: u64, _data: Bytes) -> Result<()> {
        soon()
    }

    /// Reads as zeros from then on; whole blocks take no space (trim and write-zeroes alike).
    pub async fn zero(&self, _offset: u64, _len: u64) -> Result<()> {
        soon()
    }

    /// What was acknowledged before this call survives what the volume's `FlushMode` says.
    pub async fn flush(&self) -> Result<()> {
        soon()
    }

    pub async fn info(&self) -> Result<VolumeInfo> {
        soon()
    }

    /// Stores everything, lets go of the volume; the next write claims it again.
    pub async fn release(&self) -> Result<()> {
        soon()
    }
}

/// Freezes volumes at one instant (of any pools of this engine). With `wait` it returns when all marks are stored and
/// confirmed, else when they are in the journals.
pub async fn snapshot_group(_marks: &[(Arc<Volume>, Name)], _wait: bool) -> Result<Vec<SnapshotInfo>> {
    soon()
}

/// A snapshot's contents; they never change.
#[derive(Debug)]
pub struct SnapshotView {
    size: u64,
}

impl SnapshotView {
    pub fn size(&self) -> u64 {
        self.size
    }

    pub async fn read(&self, _offset: u64, _len: u64) -> Result<Bytes> {
        soon()
    }
}
