//! What keeps a volume's snapshots from removal: clones that may need one, and locks. Values of the head.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use windlass_base::{Error, Kind, Result, StateId, utc};

/// Stands for the hosts that read the volume, among the snapshots that may have clones: no snapshot has this
/// number.
pub const READERS: StateId = StateId(0);

/// Most snapshots that may have clones which a head lists one by one.
const CLONED_MAX: usize = 32;
/// Most locks that a head has. Each takes some 25 bytes of it.
pub(super) const LOCKS_MAX: usize = 512;

/// The snapshots that may have clones. No pin on another one counts, and so another is removed without a
/// gate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cloned {
    /// These snapshots alone, at most `CLONED_MAX`.
    Of(BTreeSet<StateId>),
    Any,
}

impl Default for Cloned {
    /// Returns the value of a volume of which no snapshot may have clones.
    fn default() -> Cloned {
        Cloned::Of(BTreeSet::new())
    }
}

impl Cloned {
    pub fn has(&self, snapshot: StateId) -> bool {
        match self {
            Cloned::Of(some) => some.contains(&snapshot),
            Cloned::Any => true,
        }
    }

    pub(super) fn none(&self) -> bool {
        *self == Cloned::default()
    }

    pub(super) fn add(&mut self, snapshot: StateId) {
        match self {
            Cloned::Of(some) if some.len() < CLONED_MAX => drop(some.insert(snapshot)),
            _ => *self = Cloned::Any,
        }
    }

    /// Forgets a snapshot that is gone, whose id is never used again.
    pub(super) fn forget(&mut self, snapshot: StateId) {
        if let Cloned::Of(some) = self {
            some.remove(&snapshot);
        }
    }
}

/// Times until which snapshots are locked, in ms since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Locks(BTreeMap<StateId, u64>);

impl Locks {
    pub(super) fn set(&mut self, snapshot: StateId, until_ms: u64) {
        self.0.insert(snapshot, until_ms);
    }

    /// Drops the locks that are over at this time.
    pub(super) fn end(&mut self, now_ms: u64) {
        self.0.retain(|_, until| *until > now_ms);
    }

    /// Returns the number of locks, with those that are over.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn none(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns until when the snapshot is locked, in ms since 1970; the lock may be over.
    pub fn until(&self, snapshot: StateId) -> Option<u64> {
        self.0.get(&snapshot).copied()
    }

    /// Returns the latest time at which a lock ends.
    pub fn last(&self) -> Option<u64> {
        self.0.values().copied().max()
    }

    /// Tells whether a lock is over at this time.
    pub fn any_over(&self, now_ms: u64) -> bool {
        self.0.values().any(|until| *until <= now_ms)
    }

    /// Fails with `Refused` if the snapshot is locked.
    pub fn allow(&self, snapshot: StateId) -> Result<()> {
        self.until(snapshot).map_or(Ok(()), |until| Err(locked("it is", until)))
    }

    /// Fails with `Refused` if one of the volume's snapshots is locked.
    pub fn allow_all(&self) -> Result<()> {
        self.last().map_or(Ok(()), |until| Err(locked("a snapshot of it is", until)))
    }
}

fn locked(what: &str, until_ms: u64) -> Error {
    let why = format!("{what} locked until {}, and nobody can end a lock before that", utc::show(until_ms));
    Error::new(Kind::Refused, why)
}
