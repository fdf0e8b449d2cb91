//! The head: a volume's register value, and every change of it as a pure function.
//!
//! Owns the conditions of protocol.md §1 and §2.5: who may claim, when a record, a checkpoint or a release is allowed, what a
//! standing claim freezes. Does no I/O and draws nothing: nonces and times come in as arguments. Each change recognises that it
//! has happened already (`Move::Already`), because a register calls it again after an unknown outcome.
//!
//! Parts: what creation fixed (id, size, base, settings) and the log's state (active, ends, checkpoint) are the owner's;
//! claim, cloned, locks, gate, naming, boot, wanted and witnesses are anybody's; moved is set by the owner, with its last act;
//! mirror is set and taken out by the owner (`leave`), and heeded by who claims (`may_claim`, model `mirror`). JSON with a
//! `format` field; a part that is still as it was born (empty, null, zero) is left out. At most `HEAD_MAX` bytes, when it is
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
//! `format` is the lowest that says all: 6 of a volume that is mirrored, 5 where a snapshot is locked, 4 of an encrypted volume (its keys: see [keys](#keys)), 3 of a volume that moved to
//! another pool, 2 of a flat clone, and where settings are used that format 1 doesn't know (`VolumeSettings::format`).

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::boot_trace::{BootTrace, Trace};
use super::holds::{Cloned, Locks};
use super::naming::{ClaimBasis, Mirror, MirrorAccess, Moved, Naming, Wanted};
use super::settings::{Host, VolumeSettings, is_default};
use crate::base::format_limits::HEAD_MAX;
use crate::base::utc;
use crate::base::{
    Epoch, Error, HostId, Incarnation, Kind, Lsn, Name, Nonce, Result, Seq, StateId, VolumeId,
};
use crate::keys::KeyTable;
use crate::log::{FrameRef, Prefix};

const FORMAT: u32 = 6;
const LOCKED: u32 = 5;
const ENCRYPTED: u32 = 4;
const MOVED: u32 = 3;
/// That knows flat clones.
const FLAT: u32 = 2;
/// Bytes of a head that is made. The rest of what one may have is room for changes of ownership.
pub(super) const NEW_HEAD_MAX: usize = HEAD_MAX - (32 << 10);

/// A map's root page and the height of its tree (1: the root is a leaf).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RootRef {
    pub frame: FrameRef,
    pub height: u8,
}

/// Where a clone comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Base {
    /// Whose frames the base's pages may name, oldest first; the parent is the last. This volume's own index follows.
    pub ancestors: Vec<VolumeId>,
    /// The parent's name when the clone was made, for people.
    pub parent_name: Name,
    pub snapshot: StateId,
    /// The snapshot's name when the clone was made, for people.
    pub snapshot_name: Name,
    /// `None`: the snapshot was empty.
    pub root: Option<RootRef>,
    /// Blocks that the snapshot maps, for reports.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mapped_blocks: u64,
    /// The pin among those of the parent's snapshot (see `pins`).
    pub pin: Nonce,
    /// This state and all later ones need nothing of ancestors.
    #[serde(default, skip_serializing_if = "is_default")]
    pub flat: Option<StateId>,
    /// No state needs anything of them: the pin counts no more.
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
    /// Shards that make one of its chunks stored.
    pub w: u8,
    /// Nobody before the first write.
    #[serde(default, skip_serializing_if = "is_default")]
    pub owner: Option<Host>,
    pub since_ms: u64,
    pub released: bool,
}

/// An ended epoch: its last chunk, or that of the log before it when it wrote none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct End {
    pub epoch: Epoch,
    pub last: Seq,
}

/// What of the log the map holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The last chunk merged; a walk begins behind it.
    pub position: Seq,
    /// The last chunk that its pages name.
    pub top: Seq,
    /// The position's last record.
    pub last_lsn: Lsn,
    /// The tables page: states and their roots. `None` before the first checkpoint.
    pub tables: Option<FrameRef>,
    /// Made by its author once, so that it recognises it.
    pub nonce: Nonce,
}

impl Checkpoint {
    /// Where it stands in the log.
    pub fn place(&self) -> Prefix {
        Prefix { seq: self.position, lsn: self.last_lsn }
    }
}

/// The newest claim ever made; epochs are counted by it and never used again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claim {
    pub epoch: Epoch,
    pub nonce: Nonce,
    pub host: Host,
    pub since_ms: u64,
    pub withdrawn: bool,
}

/// Something is about to be removed: no pin on it counts that was not there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gate {
    /// Drawn for it: a gate that was lifted never comes back.
    pub nonce: Nonce,
    /// `None`: the volume, with all its snapshots.
    pub snapshot: Option<StateId>,
}

impl Gate {
    pub fn covers(&self, snapshot: StateId) -> bool {
        self.snapshot.is_none_or(|s| s == snapshot)
    }
}

/// A snapshot that a checkpoint drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removal {
    pub state: StateId,
    /// The gate behind which no pin on it was found. It goes with the very checkpoint that was begun for it: another removal's
    /// gate, for which pins are yet to be read, says nothing for this one.
    pub gate: Nonce,
}

/// The tip begins anew as what a snapshot was, with the checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Back {
    pub to: StateId,
    /// The snapshot's, in bytes: the volume has it from then on.
    pub size: u64,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    format: u32,
    pub volume: VolumeId,
    pub created_ms: u64,
    pub size: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub base: Option<Base>,
    /// Of an encrypted volume.
    #[serde(default, skip_serializing_if = "is_default")]
    pub keys: Option<KeyTable>,
    pub settings: VolumeSettings,
    pub active: Active,
    /// Ends behind the checkpoint's position only, oldest first.
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
    /// What a clone's first boot has read, as the settings say.
    #[serde(default, skip_serializing_if = "is_default")]
    pub boot: Option<Trace>,
    /// It goes on in another pool: nobody claims it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub moved: Option<Moved>,
    /// Who else has it attached, or asks for it, as the settings say.
    #[serde(default, skip_serializing_if = "is_default")]
    pub wanted: Option<Wanted>,
    /// Whose journal must be asked before the volume goes elsewhere.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mirror: Option<Mirror>,
    /// Stores whose absence of a chunk means that it isn't there.
    pub witnesses: Vec<Incarnation>,
    /// The volume is gone; its id is never used again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub removed: bool,
}

/// What a change comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Move {
    /// It has happened: nothing to write.
    Already,
    To(Box<Head>),
}

/// Who claims, and on what ground (protocol §1.8).
#[derive(Clone, Debug)]
pub struct Claimer<'a> {
    pub host: &'a Host,
    pub nonce: Nonce,
    pub now_ms: u64,
    /// Epochs that this state folder has owned.
    pub lineage: &'a BTreeSet<Epoch>,
    /// The active epoch that an inert session has read; its first write claims only over that one.
    pub seen: Option<Epoch>,
    /// The user takes over.
    pub force: bool,
    /// Epochs below it may have been used by claims that the pool has forgotten.
    pub floor: Epoch,
    pub mirror: MirrorAccess,
}

/// How an epoch is ended by its successor (protocol §1.6).
#[derive(Clone, Debug)]
pub struct Recording {
    /// The claim's.
    pub nonce: Nonce,
    /// The old epoch's last chunk.
    pub last: Seq,
    /// Shards that make a chunk of the new epoch stored.
    pub w: u8,
    pub witnesses: Vec<Incarnation>,
    /// What only a mirror's journal has is given up.
    pub gives_up_mirror: bool,
}

impl Head {
    /// A new volume, born released.
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
            witnesses,
            removed: false,
        }
    }

    /// The bytes of a new volume's. A clone's is refused that has too many ancestors to live long.
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

    /// What every head must hold; checked before each write too.
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

    /// The claim that freezes the owner's part, if one stands.
    pub fn standing(&self) -> Option<&Claim> {
        self.claim.as_ref().filter(|c| c.epoch > self.active.epoch && !c.withdrawn)
    }

    /// The index that this volume's own frames carry.
    pub fn own_index(&self) -> u16 {
        let ancestors = self.base.as_ref().map_or(0, |b| b.ancestors.len());
        u16::try_from(ancestors).expect("a head of 256 KiB holds fewer ancestors")
    }

    /// Whose frames an index names: ancestors, oldest first, then this volume.
    pub fn volumes(&self) -> Vec<VolumeId> {
        let ancestors = self.base.iter().flat_map(|b| b.ancestors.iter().copied());
        ancestors.chain([self.volume]).collect()
    }

    /// The epoch whose chunk has this sequence number, of those behind the checkpoint's position.
    pub fn epoch_of(&self, seq: Seq) -> Epoch {
        self.ends.iter().find(|e| e.last >= seq).map_or(self.active.epoch, |e| e.epoch)
    }

    /// The last chunk before the active epoch's first.
    pub fn active_starts_after(&self) -> Seq {
        self.ends.last().map_or(self.checkpoint.position, |e| e.last).max(self.checkpoint.position)
    }

    pub(super) fn with(&self, change: impl FnOnce(&mut Head)) -> Result<Move> {
        let mut head = self.clone();
        change(&mut head);
        let is_flat = head.base.as_ref().is_some_and(|base| base.flat.is_some());
        head.format = match (&head.keys, &head.moved, is_flat) {
            _ if head.mirror.is_some() || head.settings.is_mirrored() => FORMAT,
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

    pub(super) fn gone(&self) -> Result<()> {
        if self.removed {
            return Err(Error::new(Kind::Removed, "the volume was removed"));
        }
        Ok(())
    }

    /// `Fenced`: another epoch is active than the one that was.
    pub fn changed_since(&self, seen: Epoch) -> Result<()> {
        if seen == self.active.epoch {
            return Ok(());
        }
        let by = self.active.owner.clone().unwrap_or_else(Host::unknown);
        Err(Error::new(Kind::Fenced, format!("changed by {by} since it was opened: connect again")))
    }

    /// May this state folder claim (protocol §1.8)? Judged on the value that the claim replaces.
    pub fn may_claim(&self, who: &Claimer<'_>) -> Result<()> {
        self.gone()?;
        self.naming.check_here(self.moved.as_ref())?;
        if let Some(seen) = who.seen.filter(|_| !who.force) {
            self.changed_since(seen)?;
        }
        if self.active.released || who.lineage.contains(&self.active.epoch) {
            return Ok(());
        }
        match who.force {
            true => self.ground(who).map(drop),
            false => Err(self.owned_elsewhere(Some(who.host.id))),
        }
    }

    /// What a claim over an owner rests on. `Refused`: another host may have flushed writes that nobody else has.
    pub fn ground(&self, who: &Claimer<'_>) -> Result<ClaimBasis> {
        match who.lineage.contains(&self.active.epoch) {
            true => Ok(ClaimBasis::Own),
            false => who.mirror.ground(self.mirror.as_ref(), who.host.id),
        }
    }

    /// Claims the next epoch.
    pub fn claim(&self, who: &Claimer<'_>) -> Result<Move> {
        if self.claim.as_ref().is_some_and(|c| c.nonce == who.nonce) {
            return Ok(Move::Already);
        }
        self.may_claim(who)?;
        let epoch = self.claim.as_ref().map_or(self.active.epoch, |c| c.epoch).next().max(who.floor);
        self.with(|h| {
            h.claim = Some(Claim {
                epoch,
                nonce: who.nonce,
                host: who.host.clone(),
                since_ms: who.now_ms,
                withdrawn: false,
            });
        })
    }

    /// The own claim, if it still stands; `Fenced` when another came after it.
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

    /// Gives a claim up; its number stays used.
    pub fn withdraw(&self, nonce: Nonce) -> Result<Move> {
        match &self.claim {
            Some(claim) if claim.nonce == nonce && !claim.withdrawn && claim.epoch > self.active.epoch => {
                self.with(|h| h.claim.iter_mut().for_each(|c| c.withdrawn = true))
            }
            _ => Ok(Move::Already),
        }
    }

    /// Ends the old epoch and makes the claim's the active one, only if the claim still stands.
    pub fn record(&self, how: &Recording) -> Result<Move> {
        if self.active.nonce == how.nonce {
            return Ok(Move::Already);
        }
        let claim = self.my_claim(how.nonce)?.clone();
        if how.last < self.checkpoint.top || how.last < self.active_starts_after() {
            return Err(Error::new(Kind::Internal, "the log would end before what the volume's map names"));
        }
        self.with(|h| {
            let ended = End { epoch: h.active.epoch, last: how.last };
            // An epoch whose chunks the checkpoint covers needs no entry.
            if ended.last > h.checkpoint.position {
                h.ends.push(ended);
            }
            h.active = Active {
                epoch: claim.epoch,
                nonce: how.nonce,
                w: how.w,
                owner: Some(claim.host),
                since_ms: claim.since_ms,
                released: false,
            };
            h.witnesses = how.witnesses.clone();
            // Asked of the epoch that ends here: who still wants the volume asks its new owner.
            h.wanted = None;
            h.mirror = h.mirror.take().filter(|_| !how.gives_up_mirror);
        })
    }

    /// These stores were in the pool while the whole log was walked: their absences count from now on.
    pub fn join(&self, stores: &[Incarnation]) -> Result<Move> {
        self.gone()?;
        if self.witnesses == stores {
            return Ok(Move::Already);
        }
        self.with(|h| h.witnesses = stores.to_vec())
    }

    /// Is this epoch in force and unclaimed? `Fenced` otherwise, by whom and when; a *withdrawn* claim is
    /// `Refused`: the owner takes over from itself (§1.9).
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

    /// The owner sets how many shards make its chunks stored.
    pub fn set_w(&self, epoch: Epoch, w: u8) -> Result<Move> {
        self.owned(epoch)?;
        if self.active.w == w { Ok(Move::Already) } else { self.with(|h| h.active.w = w) }
    }

    /// A taker lowers w of the epoch that it ends, while its claim stands.
    pub fn lower_w(&self, claim: Nonce, w: u8) -> Result<Move> {
        self.my_claim(claim)?;
        if self.active.w <= w { Ok(Move::Already) } else { self.with(|h| h.active.w = w) }
    }

    /// Publishes a checkpoint. `removes`: states that it drops, of which no clone may need one: it never had a clone, or the
    /// caller found no pin while the removal's gate stood, and it stands still. `Refused` else, and where one is locked. `back`: it is a rollback.
    pub fn checkpoint(
        &self,
        epoch: Epoch,
        new: &Checkpoint,
        removes: &[Removal],
        back: Option<Back>,
    ) -> Result<Move> {
        if self.checkpoint.nonce == new.nonce && self.active.epoch == epoch {
            return Ok(Move::Already);
        }
        self.owned(epoch)?;
        if !removes.is_empty() || back.is_some() {
            self.no_template()?;
        }
        let stands = |r: &Removal| self.gate.is_some_and(|g| g.nonce == r.gate && g.covers(r.state));
        if !removes.iter().all(|r| !self.cloned.has(r.state) || stands(r)) {
            return Err(gate_lost());
        }
        removes.iter().try_for_each(|r| self.locks.allow(r.state))?;
        if new.position < self.checkpoint.position {
            return Err(Error::new(Kind::Internal, "a checkpoint would go back"));
        }
        self.with(|h| {
            h.checkpoint = *new;
            // A gate of these is through, whoever's.
            h.gate = h.gate.filter(|g| g.snapshot.is_none_or(|s| removes.iter().all(|r| r.state != s)));
            removes.iter().for_each(|r| h.cloned.forget(r.state));
            h.ends.retain(|e| e.last > new.position);
            if let Some(back) = back {
                h.size = back.size;
                // What stands on ancestors is the tip again.
                h.base.iter_mut().for_each(|b| b.flat = b.flat.filter(|flat| *flat <= back.to));
            }
        })
    }

    /// The volume grows to `size` bytes; what is behind its old end reads as zeros. `Refused` when it is larger already.
    pub fn grow(&self, epoch: Epoch, size: u64) -> Result<Move> {
        self.owned(epoch)?;
        self.no_template()?;
        match size.cmp(&self.size) {
            Ordering::Less => Err(Error::new(Kind::Refused, "the volume is larger than that by now")),
            Ordering::Equal => Ok(Move::Already),
            Ordering::Greater => self.with(|h| h.size = size),
        }
    }

    /// From this state on nothing stands on ancestors: the caller has walked a recorded map of it, and all later states
    /// come from it.
    pub fn set_flat(&self, epoch: Epoch, from: StateId) -> Result<Move> {
        self.owned(epoch)?;
        match &self.base {
            Some(base) if base.flat.is_none() => {
                self.with(|h| h.base.iter_mut().for_each(|b| b.flat = Some(from)))
            }
            _ => Ok(Move::Already),
        }
    }

    /// No state before `flat` is left.
    pub fn drop_base(&self, epoch: Epoch, flat: StateId) -> Result<Move> {
        self.owned(epoch)?;
        match &self.base {
            Some(base) if base.dropped => Ok(Move::Already),
            Some(base) if base.flat == Some(flat) => {
                self.with(|h| h.base.iter_mut().for_each(|b| b.dropped = true))
            }
            _ => Err(Error::new(Kind::Refused, "the volume was rolled back meanwhile: try again")),
        }
    }

    /// Where it comes from, while it needs that.
    pub fn parent(&self) -> Option<(VolumeId, &Base)> {
        let base = self.base.as_ref().filter(|base| !base.dropped)?;
        Some((*base.ancestors.last()?, base))
    }

    /// Puts a gate before what is to be removed; another's, whose remover begins anew or is gone, ends with it.
    pub fn set_gate(&self, gate: Gate) -> Result<Move> {
        self.gone()?;
        match self.gate == Some(gate) {
            true => Ok(Move::Already),
            false => self.with(|h| h.gate = Some(gate)),
        }
    }

    /// Nothing is removed by that gate any more.
    pub fn lift_gate(&self, nonce: Nonce) -> Result<Move> {
        match self.gate {
            Some(gate) if gate.nonce == nonce => self.with(|h| h.gate = None),
            _ => Ok(Move::Already),
        }
    }

    /// Changes settings, all of the assignments or none. `by`: the ownership of who asks; none: the volume is released,
    /// and anybody may.
    pub fn set_settings(&self, by: Option<Epoch>, assignments: &[String]) -> Result<Move> {
        match by {
            Some(epoch) => self.owned(epoch)?,
            None => self.may_take(&BTreeSet::new())?,
        }
        let settings = self.settings.assigned(assignments)?;
        if settings == self.settings {
            return Ok(Move::Already);
        }
        settings.check_for(self.keys.is_some())?;
        self.with(|h| {
            h.settings = settings;
            h.boot = h.boot.take().filter(|_| settings.boot_trace.is_kept());
        })
    }

    /// What a clone's first boot has read, unless another was first, or nobody asks for it any more. Anybody's change, as a
    /// clone may be another host's; it waits for no claim, and only the volume's owner sets what may be kept.
    pub fn keep_boot(&self, trace: &Trace) -> Result<Move> {
        self.gone()?;
        if self.settings.boot_trace != BootTrace::Record {
            return Ok(Move::Already);
        }
        let kept = self.with(|h| {
            h.settings.boot_trace = trace.kept();
            h.boot = Some(trace.clone());
        })?;
        match &kept {
            Move::To(head) if head.encode()?.len() > NEW_HEAD_MAX => {
                Err(Error::new(Kind::Refused, "the volume's description has no room for a boot trace"))
            }
            _ => Ok(kept),
        }
    }

    /// `Refused`: it is there to be cloned, and changes no more.
    pub fn no_template(&self) -> Result<()> {
        match self.settings.template {
            true => Err(Error::new(
                Kind::Refused,
                "it is a template, there to be cloned: `volume set` it to template=false first",
            )),
            false => Ok(()),
        }
    }

    /// May it be removed, as far as its owner and its locks are concerned?
    pub fn may_remove(&self, lineage: &BTreeSet<Epoch>) -> Result<()> {
        self.may_take(lineage)?;
        self.no_template()?;
        self.locks.allow_all()
    }

    /// Nobody else has it.
    fn may_take(&self, lineage: &BTreeSet<Epoch>) -> Result<()> {
        self.gone()?;
        if !self.active.released && !lineage.contains(&self.active.epoch) {
            return Err(self.owned_elsewhere(None));
        }
        if let Some(claim) = self.standing() {
            return Err(Error::new(Kind::Owned, format!("{} is taking it over", claim.host.name)));
        }
        Ok(())
    }

    /// Marks it removed: never while another state folder owns it, nor while clones may need it: none of its snapshots has
    /// any, or the caller found no pin while its gate stood, and it stands still.
    pub fn remove(&self, lineage: &BTreeSet<Epoch>, gate: Nonce) -> Result<Move> {
        if self.removed {
            return Ok(Move::Already);
        }
        self.may_remove(lineage)?;
        Moved::may_end(self.moved.as_ref(), &self.naming)?;
        if !self.cloned.none() && !self.gate.is_some_and(|g| g.nonce == gate && g.snapshot.is_none()) {
            return Err(gate_lost());
        }
        self.with(|h| {
            h.removed = true;
            h.gate = None;
        })
    }
}

/// A clone came in between, or another removal.
fn gate_lost() -> Error {
    Error::new(Kind::Refused, "a clone is being made of it, or another removal came in between: try again")
}

fn fenced(by: &Host, since_ms: u64) -> Error {
    Error::new(Kind::Fenced, format!("fenced: {by} took the volume over at {}", utc::show(since_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::HostId;
    use crate::volume::head::FlushMode;

    fn host(n: u128) -> Host {
        Host { id: HostId(n), name: format!("host{n}") }
    }

    fn born() -> Head {
        Head::new(VolumeId(7), 1_000, 1 << 30, VolumeSettings::default(), 5, vec![Incarnation(1)])
    }

    fn moved(step: Result<Move>) -> Head {
        match step.unwrap() {
            Move::To(head) => *head,
            Move::Already => panic!("it has not happened yet"),
        }
    }

    fn claimer<'a>(host: &'a Host, nonce: u128, lineage: &'a BTreeSet<Epoch>) -> Claimer<'a> {
        Claimer {
            host,
            nonce: Nonce(nonce),
            now_ms: 2_000,
            lineage,
            seen: None,
            force: false,
            floor: Epoch(0),
            mirror: MirrorAccess::default(),
        }
    }

    fn recording(nonce: u128, last: u64) -> Recording {
        Recording {
            nonce: Nonce(nonce),
            last: Seq(last),
            w: 5,
            witnesses: vec![Incarnation(1)],
            gives_up_mirror: false,
        }
    }

    /// Owned by host 1 under epoch 1.
    fn owned() -> Head {
        let (h, none) = (host(1), BTreeSet::new());
        let claimed = moved(born().claim(&claimer(&h, 11, &none)));
        moved(claimed.record(&recording(11, 0)))
    }

    #[test]
    fn a_flat_clone_lets_go_when_nothing_older_is_left() {
        let (pin, snapshot) = (Nonce(3), StateId(4));
        let (parent_name, snapshot_name) = ("p".parse().unwrap(), "s".parse().unwrap());
        let ancestors = vec![VolumeId(1)];
        let base = Base {
            ancestors,
            parent_name,
            snapshot,
            snapshot_name,
            root: None,
            mapped_blocks: 0,
            pin,
            flat: None,
            dropped: false,
        };
        let clone = Head { base: Some(base), ..owned() };
        assert!(clone.drop_base(Epoch(1), StateId(5)).is_err(), "not flat");
        let flat = moved(clone.set_flat(Epoch(1), StateId(5)));
        assert_eq!(flat.set_flat(Epoch(1), StateId(9)).unwrap(), Move::Already, "the older one counts");
        let new = Checkpoint { nonce: Nonce(8), ..Checkpoint::default() };
        let back = |head: &Head, to| {
            moved(head.checkpoint(Epoch(1), &new, &[], Some(Back { to: StateId(to), size: 512 })))
        };
        assert!(back(&flat, 4).drop_base(Epoch(1), StateId(5)).is_err(), "back to what stands on the parent");
        assert_eq!(back(&flat, 4).size, 512);
        let dropped = moved(back(&flat, 5).drop_base(Epoch(1), StateId(5)));
        assert!(dropped.parent().is_none() && flat.parent().is_some());
        assert_eq!(dropped.drop_base(Epoch(1), StateId(5)).unwrap(), Move::Already);
        assert_eq!(Head::decode(&dropped.encode().unwrap()).unwrap(), dropped);
    }

    #[test]
    fn a_volume_grows_and_never_shrinks() {
        let head = owned();
        let size = head.size;
        assert_eq!(head.grow(Epoch(1), size).unwrap(), Move::Already);
        assert!(head.grow(Epoch(1), size - 512).unwrap_err().is(Kind::Refused));
        assert!(head.grow(Epoch(2), size + 512).is_err(), "not the owner");
        assert_eq!(moved(head.grow(Epoch(1), size + 512)).size, size + 512);
    }

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
        assert_eq!(Head::decode(br#"{"format":7}"#).unwrap_err().kind(), Kind::Unsupported);
        for cut in (0..bytes.len()).step_by(7) {
            assert!(Head::decode(&bytes[..cut]).is_err());
        }
        let mut wrong = head;
        wrong.ends.push(End { epoch: Epoch(9), last: Seq(9) });
        let bytes = serde_json::to_vec(&wrong).unwrap();
        assert_eq!(Head::decode(&bytes).unwrap_err().kind(), Kind::Invalid);
        // What could not be counted on from.
        let mut far = owned();
        far.claim.as_mut().unwrap().epoch = Epoch(u64::MAX);
        assert!(far.check().is_err() && owned().check().is_ok());
    }

    #[test]
    fn settings_are_changed_by_the_owner_or_of_a_released_volume_by_anybody() {
        let set = |head: &Head, by: Option<u64>, what: &[&str]| {
            let what: Vec<String> = what.iter().map(|one| (*one).to_owned()).collect();
            head.set_settings(by.map(Epoch), &what)
        };
        let changed = moved(set(&born(), None, &["flush=pool", "max-tail=1s"]));
        assert_eq!((changed.settings.flush, changed.settings.max_tail_ms), (FlushMode::Pool, 1_000));
        assert_eq!(set(&changed, None, &["flush=pool"]).unwrap(), Move::Already);
        assert!(
            set(&born(), None, &["flush=pool", "max-tail=1"]).unwrap_err().is(Kind::Usage),
            "all or none"
        );
        let owned = owned();
        assert!(set(&owned, None, &["flush=pool"]).unwrap_err().is(Kind::Owned));
        assert!(set(&owned, Some(2), &["flush=pool"]).unwrap_err().is(Kind::Fenced));
        let zstd = moved(set(&owned, Some(1), &["compression=zstd"]));
        assert_eq!((zstd.format, owned.format), (2, 1), "who doesn't know it refuses the head");
        assert_eq!(Head::decode(&zstd.encode().unwrap()).unwrap(), zstd);
        assert_eq!(moved(set(&zstd, Some(1), &["compression=lz4"])).format, 1);
        let (two, none) = (host(2), BTreeSet::new());
        let claimed = moved(owned.claim(&Claimer { force: true, ..claimer(&two, 22, &none) }));
        assert!(
            set(&claimed, Some(1), &["flush=pool"]).unwrap_err().is(Kind::Fenced),
            "a claim freezes them"
        );
    }

    #[test]
    fn only_the_owners_folder_or_force_claims_what_is_not_released() {
        let head = owned();
        let (two, none, mine) = (host(2), BTreeSet::new(), BTreeSet::from([Epoch(1)]));
        let refused = head.claim(&claimer(&two, 22, &none)).unwrap_err();
        assert_eq!(refused.kind(), Kind::Owned);
        assert!(refused.to_string().contains("stop it there"), "{refused}");
        let older = head.claim(&claimer(&host(1), 22, &none)).unwrap_err();
        assert!(older.to_string().contains("not there any more"), "{older}");
        moved(head.claim(&claimer(&two, 22, &mine)));
        moved(head.claim(&Claimer { force: true, ..claimer(&two, 22, &none) }));
        let released = moved(head.release(Epoch(1)));
        moved(released.claim(&claimer(&two, 22, &none)));
        let stale = Claimer { seen: Some(Epoch(0)), ..claimer(&two, 22, &none) };
        assert_eq!(released.claim(&stale).unwrap_err().kind(), Kind::Fenced);
    }

    #[test]
    fn a_claim_freezes_the_owner_and_a_withdrawn_one_keeps_its_number() {
        let (two, none) = (host(2), BTreeSet::new());
        let force = Claimer { force: true, ..claimer(&two, 22, &none) };
        let claimed = moved(owned().claim(&force));
        assert_eq!(claimed.claim(&force).unwrap(), Move::Already);
        assert_eq!(claimed.owned(Epoch(1)).unwrap_err().kind(), Kind::Fenced);
        let new = Checkpoint { position: Seq(3), top: Seq(4), nonce: Nonce(5), ..Checkpoint::default() };
        assert!(claimed.checkpoint(Epoch(1), &new, &[], None).is_err());
        assert!(claimed.release(Epoch(1)).is_err());
        let lowered = moved(claimed.lower_w(Nonce(22), 4));
        assert_eq!(lowered.active.w, 4);
        let withdrawn = moved(claimed.withdraw(Nonce(22)));
        assert_eq!(withdrawn.owned(Epoch(1)).unwrap_err().kind(), Kind::Refused);
        assert!(withdrawn.record(&recording(22, 0)).is_err());
        let again = Claimer { nonce: Nonce(33), ..force };
        assert_eq!(moved(withdrawn.claim(&again)).claim.unwrap().epoch, Epoch(3));
        let above = Claimer { floor: Epoch(9), ..again.clone() };
        assert_eq!(moved(withdrawn.claim(&above)).claim.unwrap().epoch, Epoch(9));
        let below = Claimer { floor: Epoch(2), ..again };
        assert_eq!(moved(withdrawn.claim(&below)).claim.unwrap().epoch, Epoch(3));
    }

    #[test]
    fn a_record_needs_the_claim_and_keeps_the_ends_behind_the_checkpoint() {
        let (two, none) = (host(2), BTreeSet::new());
        let new = Checkpoint { position: Seq(3), top: Seq(4), nonce: Nonce(5), ..Checkpoint::default() };
        let head = moved(owned().checkpoint(Epoch(1), &new, &[], None));
        assert_eq!(head.checkpoint(Epoch(1), &new, &[], None).unwrap(), Move::Already);
        let claimed = moved(head.claim(&Claimer { force: true, ..claimer(&two, 22, &none) }));
        assert!(claimed.record(&recording(22, 3)).is_err(), "chunk 4 is named by the map");
        assert!(claimed.record(&recording(99, 6)).is_err(), "not this claim");
        let taken = moved(claimed.record(&recording(22, 6)));
        assert_eq!(taken.record(&recording(22, 6)).unwrap(), Move::Already);
        assert_eq!(taken.ends, [End { epoch: Epoch(1), last: Seq(6) }]);
        assert_eq!((taken.epoch_of(Seq(6)), taken.epoch_of(Seq(7))), (Epoch(1), Epoch(2)));
        assert_eq!(taken.owned(Epoch(1)).unwrap_err().kind(), Kind::Fenced);
        let later = Checkpoint { position: Seq(7), top: Seq(8), nonce: Nonce(6), ..Checkpoint::default() };
        assert!(moved(taken.checkpoint(Epoch(2), &later, &[], None)).ends.is_empty());
    }

    #[test]
    fn what_may_have_clones_is_removed_behind_its_gate() {
        let head = owned();
        let new = Checkpoint { position: Seq(3), top: Seq(4), nonce: Nonce(5), ..Checkpoint::default() };
        let behind = |gate| [Removal { state: StateId(1), gate: Nonce(gate) }];
        let mine = BTreeSet::from([Epoch(1)]);
        moved(head.checkpoint(Epoch(1), &new, &behind(0), None));
        moved(head.remove(&mine, Nonce(0)));
        let doubted = moved(head.doubt_cloned());
        assert!(doubted.cloned.has(StateId(7)) && doubted.was_cloned());
        assert_eq!(doubted.doubt_cloned().unwrap(), Move::Already);
        let head = moved(moved(head.set_cloned(StateId(1))).set_cloned(StateId(2)));
        assert_eq!(head.set_cloned(StateId(2)).unwrap(), Move::Already);
        moved(head.checkpoint(Epoch(1), &new, &[Removal { state: StateId(3), gate: Nonce(0) }], None));
        let refused = |head: &Head, gate: u128| {
            let snapshot = head.checkpoint(Epoch(1), &new, &behind(gate), None).map_err(|e| e.kind());
            let volume = head.remove(&mine, Nonce(gate)).map_err(|e| e.kind());
            (snapshot.err() == Some(Kind::Refused), volume.err() == Some(Kind::Refused))
        };
        assert_eq!(refused(&head, 7), (true, true), "no gate");
        let gate = |nonce, snapshot| Gate { nonce: Nonce(nonce), snapshot };
        let of_it = moved(head.set_gate(gate(7, Some(StateId(1)))));
        assert_eq!(of_it.set_gate(gate(7, Some(StateId(1)))).unwrap(), Move::Already);
        assert_eq!((refused(&of_it, 7), refused(&of_it, 8)), ((false, true), (true, true)));
        let through = moved(of_it.checkpoint(Epoch(1), &new, &behind(7), None));
        assert!(through.gate.is_none() && !through.cloned.has(StateId(1)) && through.cloned.has(StateId(2)));
        let of_another = moved(of_it.set_gate(gate(8, Some(StateId(2)))));
        assert_eq!(refused(&of_another, 7), (true, true), "another's took its place");
        assert_eq!(refused(&of_another, 8), (true, true));
        moved(of_another.checkpoint(Epoch(1), &new, &[], None));
        let of_all = moved(of_another.set_gate(gate(9, None)));
        assert_eq!(refused(&of_all, 9), (false, false));
        assert_eq!(of_all.lift_gate(Nonce(8)).unwrap(), Move::Already);
        assert_eq!(refused(&moved(of_all.lift_gate(Nonce(9))), 9), (true, true));
        assert_eq!(of_all.remove(&BTreeSet::new(), Nonce(9)).unwrap_err().kind(), Kind::Owned);
        let removed = moved(of_all.remove(&mine, Nonce(9)));
        assert_eq!(removed.owned(Epoch(1)).unwrap_err().kind(), Kind::Removed);
        assert_eq!(removed.set_cloned(StateId(1)).unwrap_err().kind(), Kind::Removed);
        let many = (1..100).fold(head, |head, i| match head.set_cloned(StateId(i)).unwrap() {
            Move::To(next) => *next,
            Move::Already => head,
        });
        assert!(many.cloned == Cloned::Any && refused(&many, 7) == (true, true));
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
                force: true,
                floor,
                mirror: MirrorAccess::default(),
            };
            head = moved(head.claim(&who));
            let last = Seq(1_000_000 + epoch);
            head = moved(head.record(&Recording {
                nonce,
                last,
                w: 1,
                witnesses: vec![],
                gives_up_mirror: false,
            }));
            head.encode().expect("a change of owner has room");
        }
        base.ancestors = ancestors(7_000);
        head.base = Some(base);
        assert!(head.encode_new().unwrap_err().is(Kind::Refused));
    }
}
