//! What is told about volumes and snapshots. Field names are a contract with scripts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::automatic_snapshot_plan::History;
use super::boot_trace::BootTrace;
use super::rate_limits::Limits;
use super::settings::{Clients, FlushMode, HandoverPolicy, MirrorLoss, VolumeSettings};
use windlass_base::{HostId, Name, Nonce, StateId, VolumeId};
use windlass_frame::Codec;
use windlass_log::ReadCounts;

/// A volume, as its head tells it, and what this engine knows beside that when it is open here.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VolumeInfo {
    pub name: Name,
    pub id: VolumeId,
    pub size: u64,
    pub created_ms: u64,
    pub flush: FlushMode,
    /// A sentence that says what a flush means.
    pub meaning: String,
    pub compression: Codec,
    /// Age from which on data is compressed anew, by zstd, in ms; none: nothing is.
    pub recompress_after_ms: Option<u64>,
    pub max_tail_ms: u64,
    pub journal_size: u64,
    /// Time after which I/O that waits for stores fails, in ms; none: it waits on.
    pub error_after_ms: Option<u64>,
    pub limits: Limits,
    /// Most bytes that may be mapped.
    pub quota_bytes: Option<u64>,
    pub template: bool,
    /// State of the recording of a clone's first boot, which serves other clones.
    pub boot_trace: BootTrace,
    /// Policy for a host that asks for the volume while another owns it.
    #[serde(default)]
    pub handover: HandoverPolicy,
    /// The setting `mirror-loss`: where flushes wait for a peer, what they wait for while no peer has all.
    #[serde(default)]
    pub mirror_loss: MirrorLoss,
    /// Clients that may write to the volume at the same time.
    #[serde(default)]
    pub clients_allowed: Clients,
    /// The mirror, of a volume whose flushes wait for a peer, or whose head names one.
    #[serde(default)]
    pub mirror: Option<MirrorInfo>,
    /// The host that owns the volume or was the last to; none before the first write.
    pub owner: Option<String>,
    /// Id of that host, which tells hosts of one name apart.
    pub owner_id: Option<HostId>,
    pub owner_since_ms: u64,
    /// Is true if no host owns the volume, so that any host may open it.
    pub released: bool,
    /// Is true if what stores hold of the volume is encrypted, so that only hosts with its key can read it.
    #[serde(default)]
    pub encrypted: bool,
    /// The change of an encrypted volume's data key, while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// Is true if this engine is the owner and has the volume open.
    pub open_here: bool,
    /// Is true if writes are stored on fewer stores than usual, since too many are out.
    pub degraded: bool,
    /// A sentence that says why I/O fails, waits or soon will, if so.
    pub trouble: Option<String>,
    /// Time for which that trouble has lasted, in ms, when it is known.
    pub trouble_ms: Option<u64>,
    /// Bytes that read as data, by the last checkpoint and what came after it here.
    pub mapped_bytes: u64,
    /// Bytes of the volume's own objects without parity; what clones share counts for the ancestor.
    pub stored_bytes: u64,
    /// Bytes that stores hold of the volume, parity among them, but not the shards' footers.
    pub stored_with_parity_bytes: u64,
    /// Live bytes that were written before the newest snapshot that has a clone, and that clones may need.
    /// Told by `info` when the volume is open here.
    pub shared_bytes: Option<u64>,
    /// Live bytes of the volume that are not among the shared ones.
    pub exclusive_bytes: Option<u64>,
    /// Bytes of the volume's objects that the volume or a snapshot needs, by the last checkpoint; told when
    /// it is open here.
    pub live_bytes: Option<u64>,
    /// Bytes of the objects that hold what was written since the volume was opened here, without parity.
    pub logged_bytes: u64,
    /// Bytes that the volume's maps and tables took, beside `logged_bytes`.
    pub map_bytes: u64,
    /// Bytes that collection wrote again since the volume was opened here.
    pub packed_bytes: u64,
    /// Objects that nobody needs any more and that wait for the grace period, or for stores.
    pub retired_objects: u64,
    /// Bytes that are acknowledged here and not yet in the pool. Of a volume that isn't open: what its
    /// journal holds behind the last checkpoint, which is at most so much.
    pub unsent_bytes: u64,
    /// Time for which the oldest unsent bytes have waited, in ms; none when the volume isn't open and has
    /// some.
    pub unsent_age_ms: Option<u64>,
    /// Bytes of the local disk in use by the journal.
    pub journal_bytes: u64,
    /// Bytes that can be written before writes wait for the stores: room in the journal, or in memory where
    /// that is less.
    pub room_bytes: Option<u64>,
    /// Time until writes wait for the stores, in ms, at the pace at which unsent writes have grown; none
    /// while the stores keep up.
    pub full_in_ms: Option<u64>,
    /// Parts of the volume that reads found in memory, found on the local disk, and asked stores for, since
    /// it was opened here.
    pub reads: ReadCounts,
    /// Journals that could not be replayed, kept for `volume salvage`.
    pub kept_journals: Vec<PathBuf>,
    pub snapshots: u64,
    /// Number of snapshots that are locked. `locked_until_ms` has until when the last of them is, in ms since
    /// 1970.
    #[serde(default)]
    pub locked_snapshots: u64,
    #[serde(default)]
    pub locked_until_ms: Option<u64>,
    /// Time since which a copy that is being brought up to date shows no whole state, in ms since 1970.
    #[serde(default)]
    pub not_whole_since_ms: Option<u64>,
    /// The plan of automatic snapshots, as set. `history_marks` is how many of them there are.
    pub history: History,
    pub history_marks: u64,
    /// Number of clones; `None` when the stores don't answer.
    pub clones: Option<u64>,
    /// The snapshot that a clone was made of, while the clone needs it.
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
    /// Address at which this host looks for its peer; told when the volume is open here.
    pub peer: Option<String>,
    /// State of the mirror: `mirrored`, `catching-up` or `lost`; told when the volume is open here.
    pub state: Option<String>,
    /// A sentence that says why the volume is not mirrored, if so.
    pub why: Option<String>,
    /// Bytes that were written here and that the peer has not on its disk.
    pub lag_bytes: u64,
}

/// A change of an encrypted volume's data key that is under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rotation {
    /// The data key that seals what is written.
    pub key: u8,
    /// The oldest data key that still seals something.
    pub oldest: u8,
    /// Bytes, as stored, that older keys than the newest seal; told when the volume is open here, since the
    /// rotation goes on then.
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
    /// The parent's present name, when it can be told.
    pub name: Option<Name>,
    pub snapshot: Name,
    /// The snapshot's number in that volume, which no other of the name ever has.
    #[serde(default)]
    pub snapshot_id: StateId,
    /// Bytes that the snapshot mapped when it was cloned, which take no space of the clone's own.
    pub mapped_bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotInfo {
    pub name: Name,
    /// Number of the snapshot in its volume, which no other of the name ever has.
    #[serde(default)]
    pub id: StateId,
    /// Nonce of the snapshot's mark. In a copy it tells which snapshot this is a copy of.
    #[serde(default)]
    pub mark: Nonce,
    pub size: u64,
    pub created_ms: u64,
    /// Is true if the snapshot's map is written: clones and exports need not wait.
    pub ready: bool,
    /// Is true if the snapshot is a member of a group that was never finished.
    pub partial: bool,
    /// Clones that pin the snapshot, by name where they have one.
    pub clones: Vec<String>,
    /// Time before which nobody can remove the snapshot, in ms since 1970; none: it is not locked.
    #[serde(default)]
    pub locked_until_ms: Option<u64>,
}

/// The outcome of `take_over`, for the user.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct TakeOver {
    /// Is true if the volume was released or already ours: nothing was forced.
    pub already: bool,
    /// The former owner that was shut out.
    pub from: Option<String>,
    /// Time that the take-over took, in ms.
    pub took_ms: u64,
    /// Sentences that say whose last writes may be lost, and where they lie.
    pub notes: Vec<String>,
}
