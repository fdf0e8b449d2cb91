//! The head: a volume's register value, its bytes, and whose it is. Its changes are in `transitions`.
//!
//! Parts: what creation fixed (id, size, base, settings) and the log's state (active, ends, checkpoint) are the owner's;
//! claim, cloned, locks, gate, naming, boot, wanted and witnesses are anybody's; moved is set by the owner, with its last act;
//! mirror is set and taken out by the owner (`transitions::mirror`), and heeded by who claims (`may_claim`, model `mirror`);
//! round is set by the owner of a copy (`transitions::copy_round`), and heeded by who connects clients, and who claims for clients that stood by (`may_claim`).
//! JSON with a `format` field; a part that is still as it was born (empty, null, zero) is left out. At most `HEAD_MAX` bytes, when it is
//! made at most `NEW_HEAD_MAX`: the difference is for changes of ownership, which must never be refused for want of room.
//!
//! `boot` is base64 of two varints for each range of units of 16 blocks, in the order in which a clone's first boot read
//! them: the range's start, as the zigzag-coded difference from the end of the one before (from 0 at first), and its units
//! minus 1. At most 16 KiB before base64.
//!
//! `locks` has until when a snapshot is not removed, in ms since 1970, by the snapshot's id.
//!
//! `wanted` is a hint too: another host (`host`) that has the volume attached, or asks the owner of epoch `asks` for it. `nonce` is
//! drawn anew each time that it says so, `heard` counts how often the owner has said that it is on the way.
//!
//! `mirror` names the host (`host`) whose journal must be asked before the volume goes elsewhere, and the ownership (`session`) under
//! which that host got its records.
//!
//! `round` is of a copy that is being brought up to date: what tells the snapshot that it is to have (`snapshot`, the nonce of the
//! copy's mark), and since when it shows no whole state (`since_ms`).
//!
//! `format` is the lowest that says all: 7 of a copy in a round, 6 of a volume that is mirrored, 5 where a snapshot is locked, 4 of an encrypted volume (its keys: see [keys](#keys)), 3 of a volume that moved to
//! another pool, 2 of a flat clone, and where settings are used that format 1 doesn't know (`VolumeSettings::format`).

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::boot_trace::Trace;
use super::holds::{Cloned, Locks};
use super::name_and_move::{Moved, Naming};
use super::other_hosts::{Mirror, Wanted};
use super::settings::{Host, VolumeSettings, is_default};
use windlass_base::format_limits::HEAD_MAX;
use windlass_base::utc;
use windlass_base::{
    Epoch, Error, HostId, Incarnation, Kind, Lsn, Name, Nonce, Result, Seq, StateId, VolumeId,
};
use windlass_keys::KeyTable;
use windlass_log::{FrameRef, Prefix};

const FORMAT: u32 = 7;
const MIRRORED: u32 = 6;
const LOCKED: u32 = 5;
const ENCRYPTED: u32 = 4;
const MOVED: u32 = 3;
/// Head format that knows flat clones.
const FLAT: u32 = 2;
/// Most bytes of a head when it is made. The rest of what a head may have is room for changes of ownership.
pub(super) const NEW_HEAD_MAX: usize = HEAD_MAX - (32 << 10);

/// A map's root page and the height of its tree (1: the root is a leaf).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RootRef {
    pub frame: FrameRef,
    pub height: u8,
}

/// The snapshot that a clone was made of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Base {
    /// Volumes whose frames the base's pages may name, oldest first; the parent is the last. The index behind
    /// them is this volume's own.
    pub ancestors: Vec<VolumeId>,
    /// The parent's name when the clone was made, for people.
    pub parent_name: Name,
    pub snapshot: StateId,
    /// The snapshot's name when the clone was made, for people.
    pub snapshot_name: Name,
    /// The root of the snapshot's map; `None`: the snapshot was empty.
    pub root: Option<RootRef>,
    /// Blocks that the snapshot maps, for reports.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mapped_blocks: u64,
    /// The pin among those of the parent's snapshot (see `pins`).
    pub pin: Nonce,
    /// First state from which on this volume needs nothing of its ancestors, if there is one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub flat: Option<StateId>,
    /// Is true if no state needs anything of the ancestors: the pin counts no more.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dropped: bool,
}

/// The ownership in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Active {
    pub epoch: Epoch,
    /// The claim that became this ownership.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nonce: Nonce,
    /// Number of shards that make a chunk of this epoch stored.
    pub w: u8,
    /// The host that owns the volume, or was the last to; nobody before the first write.
    #[serde(default, skip_serializing_if = "is_default")]
    pub owner: Option<Host>,
    pub since_ms: u64,
    pub released: bool,
}

/// An ended epoch, with its last chunk, or the last chunk of the log before it when it wrote none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct End {
    pub epoch: Epoch,
    pub last: Seq,
}

/// The part of the log that the map holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The last chunk merged; a walk begins behind it.
    pub position: Seq,
    /// The last chunk that the checkpoint's pages name.
    pub top: Seq,
    /// The last record of the chunk at `position`.
    pub last_lsn: Lsn,
    /// The tables page: states and their roots. `None` before the first checkpoint.
    pub tables: Option<FrameRef>,
    /// Drawn once by the author of the checkpoint, who recognises it by this number.
    pub nonce: Nonce,
}

impl Checkpoint {
    /// Returns the point of the log up to which the checkpoint has merged it.
    pub fn place(&self) -> Prefix {
        Prefix { seq: self.position, lsn: self.last_lsn }
    }
}

/// The newest claim ever made. Epochs are counted by it, and a number is never used again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claim {
    pub epoch: Epoch,
    pub nonce: Nonce,
    pub host: Host,
    pub since_ms: u64,
    pub withdrawn: bool,
}

/// A bar against new clones of what is about to be removed: no pin on it counts that was not there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gate {
    /// Random number of this gate: a gate that was lifted never comes back.
    pub nonce: Nonce,
    /// The snapshot that is to be removed; `None`: the volume, with all its snapshots.
    pub snapshot: Option<StateId>,
}

impl Gate {
    pub fn covers(&self, snapshot: StateId) -> bool {
        self.snapshot.is_none_or(|s| s == snapshot)
    }
}

/// A round in which a copy is brought up to date: until the round is done, the copy's tip is no state that
/// ever was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyRound {
    /// Nonce of the mark of the snapshot that the copy is to have.
    pub snapshot: Nonce,
    /// Start of the first round since the copy was last whole, in ms since 1970.
    pub since_ms: u64,
}

/// The value of a volume's register, as the module describes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    pub(super) format: u32,
    pub volume: VolumeId,
    pub created_ms: u64,
    pub size: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub base: Option<Base>,
    /// The keys of an encrypted volume; `None`: the volume is not encrypted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub keys: Option<KeyTable>,
    pub settings: VolumeSettings,
    pub active: Active,
    /// Ended epochs whose last chunk lies behind the checkpoint's position, oldest first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ends: Vec<End>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub checkpoint: Checkpoint,
    #[serde(default, skip_serializing_if = "is_default")]
    pub claim: Option<Claim>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub cloned: Cloned,
    #[serde(default, skip_serializing_if = "is_default")]
    pub locks: Locks,
    #[serde(default, skip_serializing_if = "is_default")]
    pub gate: Option<Gate>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub naming: Naming,
    /// The recorded boot trace: there is one exactly while the setting `boot-trace` says that it is kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub boot: Option<Trace>,
    /// The volume of another pool in which this one went on: nobody claims this one any more.
    #[serde(default, skip_serializing_if = "is_default")]
    pub moved: Option<Moved>,
    /// Another host that has the volume attached, or asks its owner for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub wanted: Option<Wanted>,
    /// The host whose journal must be asked before the volume goes elsewhere.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mirror: Option<Mirror>,
    /// The round of a copy that is being brought up to date and shows no whole state.
    #[serde(default, skip_serializing_if = "is_default")]
    pub round: Option<CopyRound>,
    /// Stores whose absence of a chunk means that it isn't there.
    pub witnesses: Vec<Incarnation>,
    /// Is true if the volume is gone; its id is never used again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub removed: bool,
}

/// The outcome of a change of a head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Move {
    /// The head has this change already, so nothing is written.
    Already,
    To(Box<Head>),
}

impl Head {
    /// Makes the head of a new volume, which is born released.
    pub fn new(
        volume: VolumeId,
        created_ms: u64,
        size: u64,
        settings: VolumeSettings,
        w: u8,
        witnesses: Vec<Incarnation>,
    ) -> Head {
        let nobody =
            Active { epoch: Epoch(0), nonce: Nonce(0), w, owner: None, since_ms: created_ms, released: true };
        Head {
            format: settings.format(),
            volume,
            created_ms,
            size,
            base: None,
            keys: None,
            settings,
            active: nobody,
            ends: Vec::new(),
            checkpoint: Checkpoint::default(),
            claim: None,
            cloned: Cloned::default(),
            locks: Locks::default(),
            gate: None,
            naming: Naming::default(),
            boot: None,
            moved: None,
            wanted: None,
            mirror: None,
            round: None,
            witnesses,
            removed: false,
        }
    }

    /// Encodes the head of a new volume. A clone that has too many ancestors to live long is refused.
    pub fn encode_new(&self) -> Result<Bytes> {
        let bytes = self.encode()?;
        if bytes.len() > NEW_HEAD_MAX {
            let ancestors = self.base.as_ref().map_or(0, |b| b.ancestors.len());
            let why =
                format!("a clone of a clone, {ancestors} deep, can't be cloned again: clone an earlier one");
            return Err(Error::new(Kind::Refused, why));
        }
        Ok(bytes)
    }

    pub fn encode(&self) -> Result<Bytes> {
        let bytes = serde_json::to_vec(self)
            .map_err(|e| Error::new(Kind::Internal, "a head cannot be written").because(e))?;
        if bytes.len() > HEAD_MAX {
            let most = HEAD_MAX >> 10;
            let why = format!(
                "the volume's description would grow over {most} KiB: too many hosts took it over since its last checkpoint"
            );
            return Err(Error::new(Kind::Refused, why));
        }
        Ok(bytes.into())
    }

    pub fn decode(bytes: &[u8]) -> Result<Head> {
        let bad =
            |why: String| Error::new(Kind::Invalid, format!("the volume's description is malformed: {why}"));
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        if bytes.len() > HEAD_MAX {
            return Err(bad("it is too large".into()));
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if !(1..=FORMAT).contains(&version.format) {
            let why = format!(
                "the volume has format {}, this version knows those up to {FORMAT}: use a newer windlass",
                version.format
            );
            return Err(Error::new(Kind::Unsupported, why));
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        head.check().map_err(|why| bad(why.to_owned()))?;
        Ok(head)
    }

    /// Checks what holds for every head. A head is checked when it is decoded, and after each change before
    /// it is written.
    pub fn check(&self) -> Result<(), &'static str> {
        let grows = self.ends.windows(2).all(|e| e[0].epoch < e[1].epoch && e[0].last <= e[1].last);
        if !grows
            || self.ends.iter().any(|e| e.epoch >= self.active.epoch || e.last <= self.checkpoint.position)
        {
            return Err("the ended ownerships are out of order");
        }
        let claimed = self.claim.as_ref().map_or(Epoch(0), |c| c.epoch);
        if claimed < self.active.epoch {
            return Err("the ownership was never claimed");
        }
        let last = self.ends.last().map_or(self.checkpoint.top, |end| end.last.max(self.checkpoint.top));
        if !(claimed.is_counted() && last.is_counted() && self.checkpoint.last_lsn.is_counted()) {
            return Err("nobody has counted to a number in it");
        }
        if self.checkpoint.top < self.checkpoint.position {
            return Err("the checkpoint ends before it begins");
        }
        if self.boot.is_some() != self.settings.boot_trace.is_kept() {
            return Err("it has a boot trace that its settings do not have, or the other way");
        }
        if self.active.epoch == Epoch(0) && !self.active.released {
            return Err("nobody owns it and yet it is not released");
        }
        KeyTable::check(self.keys.as_ref(), self.boot.is_some())?;
        if self.moved.is_some() && !self.active.released {
            return Err("it has moved to another pool and is owned");
        }
        Ok(())
    }

    /// Returns the claim that freezes the owner's part, if one stands.
    pub fn standing(&self) -> Option<&Claim> {
        self.claim.as_ref().filter(|c| c.epoch > self.active.epoch && !c.withdrawn)
    }

    /// Returns the index that this volume's own frames carry.
    pub fn own_index(&self) -> u16 {
        let ancestors = self.base.as_ref().map_or(0, |b| b.ancestors.len());
        u16::try_from(ancestors).expect("a head of 256 KiB holds fewer ancestors")
    }

    /// Returns the volumes that the frames' indexes name: the ancestors, oldest first, then this volume.
    pub fn volumes(&self) -> Vec<VolumeId> {
        let ancestors = self.base.iter().flat_map(|b| b.ancestors.iter().copied());
        ancestors.chain([self.volume]).collect()
    }

    /// Returns the highest number of an ownership that was ever used: that of the newest claim.
    pub fn last_epoch(&self) -> Epoch {
        self.claim.as_ref().map_or(self.active.epoch, |claim| claim.epoch)
    }

    /// Returns the epoch whose chunk has this sequence number, which lies behind the checkpoint's position.
    pub fn epoch_of(&self, seq: Seq) -> Epoch {
        self.ends.iter().find(|e| e.last >= seq).map_or(self.active.epoch, |e| e.epoch)
    }

    /// Returns the last chunk before the active epoch's first.
    pub fn active_starts_after(&self) -> Seq {
        self.ends.last().map_or(self.checkpoint.position, |e| e.last).max(self.checkpoint.position)
    }

    /// Returns the parent's id and the base of a clone that still needs its parent.
    pub fn parent(&self) -> Option<(VolumeId, &Base)> {
        let base = self.base.as_ref().filter(|base| !base.dropped)?;
        Some((*base.ancestors.last()?, base))
    }

    pub(super) fn with(&self, change: impl FnOnce(&mut Head)) -> Result<Move> {
        let mut head = self.clone();
        change(&mut head);
        let is_flat = head.base.as_ref().is_some_and(|base| base.flat.is_some());
        // Ordered from the highest format down: an older version must not open a head of which it would
        // ignore a part.
        head.format = match (&head.keys, &head.moved, is_flat) {
            _ if head.round.is_some() => FORMAT,
            _ if head.mirror.is_some() || head.settings.is_mirrored() => MIRRORED,
            _ if !head.locks.none() => LOCKED,
            (Some(_), _, _) => ENCRYPTED,
            (None, Some(_), _) => MOVED,
            (None, None, true) => FLAT,
            (None, None, false) => head.settings.format(),
        };
        head.check().map_err(|why| {
            Error::new(Kind::Internal, format!("a change of the volume's description was stopped: {why}"))
        })?;
        Ok(Move::To(Box::new(head)))
    }

    pub(super) fn gone(&self) -> Result<()> {
        if self.removed {
            return Err(Error::new(Kind::Removed, "the volume was removed"));
        }
        Ok(())
    }

    /// Fails with `Fenced` if another epoch is active than the one that was seen.
    pub fn changed_since(&self, seen: Epoch) -> Result<()> {
        if seen == self.active.epoch {
            return Ok(());
        }
        let by = self.active.owner.clone().unwrap_or_else(Host::unknown);
        Err(Error::new(Kind::Fenced, format!("changed by {by} since it was opened: connect again")))
    }

    /// Checks that this epoch is in force and that no claim stands over it.
    ///
    /// # Errors
    /// `Fenced`, by whom and when. `Refused` if the claim over it was *withdrawn*: the owner takes over from
    /// itself (§1.9).
    pub fn owned(&self, epoch: Epoch) -> Result<()> {
        self.gone()?;
        if self.active.epoch != epoch {
            let by = self.active.owner.clone().unwrap_or_else(Host::unknown);
            return Err(fenced(&by, self.active.since_ms));
        }
        match &self.claim {
            Some(c) if c.epoch > epoch && c.withdrawn => {
                Err(Error::new(Kind::Refused, format!("{} began to take it over and gave up", c.host)))
            }
            Some(c) if c.epoch > epoch => Err(fenced(&c.host, c.since_ms)),
            _ => Ok(()),
        }
    }

    /// Returns this host's claim, if it still stands; `Fenced` when another came after it.
    pub fn my_claim(&self, nonce: Nonce) -> Result<&Claim> {
        self.gone()?;
        match &self.claim {
            Some(claim) if claim.nonce == nonce && !claim.withdrawn && claim.epoch > self.active.epoch => {
                Ok(claim)
            }
            Some(claim) => Err(fenced(&claim.host, claim.since_ms)),
            None => Err(Error::new(Kind::Internal, "a claim vanished from the volume's description")),
        }
    }

    /// Makes the error of a host that may not claim over a standing claim. Its kind is `Unavailable`, since
    /// such a claim comes to an end.
    pub fn being_taken(&self, claim: &Claim) -> Error {
        let (host, since) = (&claim.host, utc::show(claim.since_ms));
        Error::new(
            Kind::Unavailable,
            format!("{host} is taking it over since {since}: what comes of that is waited for"),
        )
    }

    pub(super) fn owned_elsewhere(&self, host: Option<HostId>) -> Error {
        let owner = self.active.owner.clone().unwrap_or_else(Host::unknown);
        let since = utc::show(self.active.since_ms);
        let why = match Some(owner.id) == host {
            // An older backup of it, or a part of it was removed.
            true => format!(
                "it is owned by {owner} since {since}, by a state of this folder that is not there any more: if no copy of the \
                 folder is in use, take it over with `volume take-over`"
            ),
            false => format!(
                "it is owned by {owner} since {since}: stop it there (or `volume release`), or take it over with `volume take-over`"
            ),
        };
        Error::new(Kind::Owned, why)
    }

    /// Fails with `Refused` if the volume is a template, which is there to be cloned and changes no more.
    pub fn no_template(&self) -> Result<()> {
        match self.settings.template {
            true => Err(Error::new(
                Kind::Refused,
                "it is a template, there to be cloned: `volume set` it to template=false first",
            )),
            false => Ok(()),
        }
    }

    /// Checks whether the volume may be removed, as far as its owner, its locks and its being a template are
    /// concerned.
    pub fn may_remove(&self, lineage: &BTreeSet<Epoch>) -> Result<()> {
        self.may_take(lineage)?;
        self.no_template()?;
        self.locks.allow_all()
    }

    /// Checks that no other state folder owns the volume, and that nobody is taking it over.
    pub(super) fn may_take(&self, lineage: &BTreeSet<Epoch>) -> Result<()> {
        self.gone()?;
        if !self.active.released && !lineage.contains(&self.active.epoch) {
            return Err(self.owned_elsewhere(None));
        }
        if let Some(claim) = self.standing() {
            return Err(Error::new(Kind::Owned, format!("{} is taking it over", claim.host.name)));
        }
        Ok(())
    }
}

fn fenced(by: &Host, since_ms: u64) -> Error {
    Error::new(Kind::Fenced, format!("fenced: {by} took the volume over at {}", utc::show(since_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::other_hosts::MirrorAccess;
    use crate::head::transitions::heads_for_tests::{born, host, owned, to};
    use crate::head::transitions::{Claimer, Recording};

    #[test]
    fn a_head_survives_its_bytes_and_bad_bytes_are_errors() {
        let head = owned();
        let bytes = head.encode().unwrap();
        assert_eq!(Head::decode(&bytes).unwrap(), head);
        let born = born();
        let text = String::from_utf8(born.encode().unwrap().into()).unwrap();
        assert!(!text.contains("ends") && !text.contains("claim") && !text.contains("null"), "{text}");
        assert_eq!(Head::decode(text.as_bytes()).unwrap(), born);
        assert_eq!(Head::decode(b"{}").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(Head::decode(br#"{"format":8}"#).unwrap_err().kind(), Kind::Unsupported);
        for cut in (0..bytes.len()).step_by(7) {
            assert!(Head::decode(&bytes[..cut]).is_err());
        }
        let mut wrong = head;
        wrong.ends.push(End { epoch: Epoch(9 << 32), last: Seq(9) });
        let bytes = serde_json::to_vec(&wrong).unwrap();
        assert_eq!(Head::decode(&bytes).unwrap_err().kind(), Kind::Invalid);
        // What could not be counted on from.
        let mut far = owned();
        far.claim.as_mut().unwrap().epoch = Epoch(u64::MAX);
        assert!(far.check().is_err() && owned().check().is_ok());
    }

    /// However large a head may be made, it can change hands.
    #[test]
    fn room_for_owners_is_kept() {
        let mut head = owned();
        let ancestors = |n: u128| (0..n).map(|i| VolumeId(u128::MAX - i)).collect();
        let name: Name = "parent".parse().unwrap();
        let mut base = Base {
            ancestors: ancestors(6_400),
            parent_name: name.clone(),
            snapshot: StateId(1),
            snapshot_name: name,
            root: None,
            mapped_blocks: 0,
            pin: Nonce(1),
            flat: None,
            dropped: false,
        };
        head.base = Some(base.clone());
        head.encode_new().unwrap();
        for epoch in 2..300u64 {
            let (host, lineage, nonce) = (host(2), BTreeSet::new(), Nonce(u128::from(epoch)));
            let (floor, now_ms) = (Epoch(0), 9);
            let who = Claimer {
                host: &host,
                nonce,
                now_ms,
                lineage: &lineage,
                seen: None,
                overtakes: None,
                force: true,
                shows: false,
                floor,
                mirror: MirrorAccess::default(),
            };
            head = to(head.claim(&who));
            let last = Seq(1_000_000 + epoch);
            head =
                to(head.record(&Recording { nonce, last, w: 1, witnesses: vec![], gives_up_mirror: false }));
            head.encode().expect("a change of owner has room");
        }
        base.ancestors = ancestors(7_000);
        head.base = Some(base);
        assert!(head.encode_new().unwrap_err().is(Kind::Refused));
    }
}
