//! Which of a volume's snapshots may have clones.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::base::StateId;

/// Snapshots that a head tells one by one of those that may have clones.
const CLONED_MAX: usize = 32;

/// Which snapshots may have clones. No pin on another counts, and so another is removed without a gate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cloned {
    /// At most `CLONED_MAX`.
    Of(BTreeSet<StateId>),
    Any,
}

impl Default for Cloned {
    /// None of them.
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

    /// It is gone, and its id is never used again.
    pub(super) fn forget(&mut self, snapshot: StateId) {
        if let Cloned::Of(some) = self {
            some.remove(&snapshot);
        }
    }
}
