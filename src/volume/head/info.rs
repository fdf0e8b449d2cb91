//! What is told about volumes and snapshots. Field names are a contract with scripts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::automatic_snapshot_plan::History;
use super::boot_trace::BootTrace;
use super::rate_limits::Limits;
use super::settings::{Clients, FlushMode, HandoverPolicy, MirrorLoss, VolumeSettings};
use crate::base::{HostId, Name, Nonce, StateId, VolumeId};
use crate::frame::Codec;
use crate::log::ReadCounts;

/// A volume, as its head tells it, and what this engine knows beside that when it is open here.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VolumeInfo {
    pub name: Name,
    pub id: VolumeId,
    pub size: u64,
    pub created_ms: u64,
    pub flush: FlushMode,
    /// What a flush means, as a sentence.
    pub meaning: String,
    pub compression: Codec,
    /// What was written so long ago is compressed anew, by zstd; none: nothing is.
    pub recompress_after_ms: Option<u64>,
    pub max_tail_ms: u64,
    pub journal_size: u64,
    /// I/O that has waited for stores for so long fails; none: it waits on.
    pub error_after_ms: Option<u64>,
    pub limits: Limits,
    /// What may be mapped.
    pub quota_bytes: Option<u64>,
    pub template: bool,
    /// Whether the first boot of a clone is recorded, for other clones.
    pub boot_trace: BootTrace,
    /// Whether another host gets it by asking for it.
    #[serde(default)]
    pub handover: HandoverPolicy,
    /// What flushes wait for while no peer has all, where they wait for one.
    #[serde(default)]
    pub mirror_loss: MirrorLoss,
    /// Who may write to it at the same time.
    #[serde(default)]
    pub clients_allowed: Clients,
    /// Of a volume whose flushes wait for a peer, or whose head names one.
    #[serde(default)]
    pub mirror: Option<MirrorInfo>,
    /// The host that owns it or was the last to; none before the first write.
    pub owner: Option<String>,
    /// Tells hosts of one name apart.
    pub owner_id: Option<HostId>,
    pub owner_since_ms: u64,
    /// Any host may open it.
    pub released: bool,
    /// What stores hold of it is encrypted, so that only hosts with its key can read it.
    #[serde(default)]
    pub encrypted: bool,
    /// Of an encrypted volume whose data key is being changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// This engine is the owner and has it open.
    pub open_here: bool,
    /// Writes are stored on fewer stores than usual, since too many are out.
    pub degraded: bool,
    /// Why I/O fails, waits or soon will, if so.
    pub trouble: Option<String>,
    /// For how long, when that is known.
    pub trouble_ms: Option<u64>,
    /// Bytes that read as data, by the last checkpoint and what came after it here.
    pub mapped_bytes: u64,
    /// Bytes of its own objects without parity; what clones share counts for the ancestor.
    pub stored_bytes: u64,
    /// With parity: what stores hold of it, but for the shards' footers.
    pub stored_with_parity_bytes: u64,
    /// Of its live bytes those that were written before the newest snapshot that has a clone, which clones may need; told by
    /// `info` when it is open here.
    pub shared_bytes: Option<u64>,
    /// Of its live bytes all others than the shared ones.
    pub exclusive_bytes: Option<u64>,
    /// Bytes of those that the volume or a snapshot needs, by the last checkpoint; told when it is open here.
    pub live_bytes: Option<u64>,
    /// Bytes of objects that writes became since the volume was opened here, without parity.
    pub logged_bytes: u64,
    /// Bytes that its maps and tables took, beside `logged_bytes`.
    pub map_bytes: u64,
    /// Bytes that collection wrote again since the volume was opened here.
    pub packed_bytes: u64,
    /// Objects that nobody needs any more and that wait for the grace period, or for stores.
    pub retired_objects: u64,
    /// Acknowledged here and not yet in the pool. Of a volume that isn't open, what its journal holds behind the last
    /// checkpoint: at most so much.
    pub unsent_bytes: u64,
    /// How long the oldest of those has waited; none when the volume isn't open and has some.
    pub unsent_age_ms: Option<u64>,
    /// Local disk in use by the journal.
    pub journal_bytes: u64,
    /// What can be written before writes wait for the stores: room in the journal, or in memory where that is less.
    pub room_bytes: Option<u64>,
    /// When that will be so, at the pace at which unsent writes have grown; none while the stores keep up.
    pub full_in_ms: Option<u64>,
    /// Parts of it that reads found in memory, found on the local disk, and asked stores for, since it was opened here.
    pub reads: ReadCounts,
    /// Journals that could not be replayed, kept for `volume salvage`.
    pub kept_journals: Vec<PathBuf>,
    pub snapshots: u64,
    /// Snapshots that are locked, and until when the last of them is, in ms since 1970.
    #[serde(default)]
    pub locked_snapshots: u64,
    #[serde(default)]
    pub locked_until_ms: Option<u64>,
    /// Of a copy that is being brought up to date: since when it shows no whole state, in ms since 1970.
    #[serde(default)]
    pub not_whole_since_ms: Option<u64>,
    /// Snapshots that it takes by itself, as set, and how many there are.
    pub history: History,
    pub history_marks: u64,
    /// `None` when the stores don't answer.
    pub clones: Option<u64>,
    /// Where a clone comes from, while it needs that.
    pub parent: Option<Parent>,
    /// The parent, its parent and so on; told of one volume, empty in a listing.
    pub chain: Vec<Parent>,
}

/// The mirror of a volume's journal.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MirrorInfo {
    /// The host that has to be asked before the volume goes elsewhere.
    pub host: Option<String>,
    /// The ownership under which that host got its records.
    pub epoch: Option<u64>,
    /// Where this host looks for its peer; told when it is open here.
    pub peer: Option<String>,
    /// `mirrored`, `catching-up` or `lost`; told when it is open here.
    pub state: Option<String>,
    /// Why it is not mirrored, if so.
    pub why: Option<String>,
    /// Bytes that were written here and that the peer has not on its disk.
    pub lag_bytes: u64,
}

/// A change of an encrypted volume's data key that is under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rotation {
    /// The data key that seals what is written.
    pub key: u8,
    /// The oldest one that still seals something.
    pub oldest: u8,
    /// Bytes, as stored, that older ones than the newest seal; told when it is open here: then it goes on.
    pub left_bytes: Option<u64>,
}

impl VolumeInfo {
    pub fn settings(&self) -> VolumeSettings {
        VolumeSettings {
            flush: self.flush,
            compression: self.compression,
            recompress_after_ms: self.recompress_after_ms,
            max_tail_ms: self.max_tail_ms,
            journal_size: self.journal_size,
            error_after_ms: self.error_after_ms,
            limits: self.limits,
            quota_bytes: self.quota_bytes,
            template: self.template,
            history: self.history,
            boot_trace: self.boot_trace,
            handover: self.handover,
            mirror_loss: self.mirror_loss,
            clients: self.clients_allowed,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Parent {
    pub volume: VolumeId,
    /// By its present name, when it can be told.
    pub name: Option<Name>,
    pub snapshot: Name,
    /// The snapshot's number in that volume, which no other of the name ever has.
    #[serde(default)]
    pub snapshot_id: StateId,
    /// What the snapshot mapped when it was cloned, which takes no space of the clone's own.
    pub mapped_bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotInfo {
    pub name: Name,
    /// Its number in the volume, which no other of the name ever has.
    #[serde(default)]
    pub id: StateId,
    /// What its mark carries: of a copy, what tells the snapshot that it is a copy of.
    #[serde(default)]
    pub mark: Nonce,
    pub size: u64,
    pub created_ms: u64,
    /// Its map is written: clones and exports need not wait.
    pub ready: bool,
    /// A member of a group that was never finished.
    pub partial: bool,
    /// Clones that pin it, by name where they have one.
    pub clones: Vec<String>,
    /// Nobody can remove it before, in ms since 1970; none: it is not locked.
    #[serde(default)]
    pub locked_until_ms: Option<u64>,
}

/// What `take_over` did, for the user.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct TakeOver {
    /// It was released or already ours: nothing was forced.
    pub already: bool,
    /// Who was shut out.
    pub from: Option<String>,
    /// How long it took.
    pub took_ms: u64,
    /// Whose tail may be lost, and where it lies; sentences.
    pub notes: Vec<String>,
}
