//! Which ownerships an open volume was shown under: what clients have read, and may have kept, is the volume's only as long as
//! one of them is in force, or one that this handle has gone on to since.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::head::Head;
use windlass_base::{Epoch, Result};

/// Ownerships under which a volume was shown: one must still be in force when it is claimed, for the sake of who has seen it.
#[derive(Debug)]
pub struct Shown {
    /// The last ownership that is known to have been in force here.
    under: Epoch,
    /// Own claims since then of which it is not known whether they were recorded: what was shown counts under them.
    tried: Mutex<Vec<Epoch>>,
}

impl Shown {
    pub fn under(epoch: Epoch) -> Arc<Shown> {
        Arc::new(Shown { under: epoch, tried: Mutex::default() })
    }

    /// Makes the value of what another process of this host tells by `all`.
    pub fn told(all: &[Epoch]) -> Option<Arc<Shown>> {
        let (under, tried) = all.split_first()?;
        Some(Arc::new(Shown { under: *under, tried: Mutex::new(tried.to_vec()) }))
    }

    /// Returns the ownerships of which any may be in force; the one that is known to have been comes first.
    pub fn all(&self) -> Vec<Epoch> {
        [self.under].into_iter().chain(self.tried.lock().iter().copied()).collect()
    }

    /// Tells whether the last ownership that is known to have been in force is this one.
    pub fn is_under(&self, epoch: Epoch) -> bool {
        self.under == epoch
    }

    pub fn try_next(&self, claim: Option<Epoch>) {
        self.tried.lock().extend(claim);
    }

    /// Checks that the volume is still what was shown. `Fenced`: others have had it since.
    pub fn check(&self, head: &Head) -> Result<()> {
        let is_tried = self.tried.lock().contains(&head.active.epoch);
        if is_tried { Ok(()) } else { head.changed_since(self.under) }
    }

    /// Tells whether a released volume is still what was shown, also where an own claim was recorded and the answer was lost:
    /// the next write goes on under it.
    pub fn is_newest(&self, head: &Head) -> bool {
        let active = &head.active;
        active.released && active.epoch == self.under || self.tried.lock().contains(&active.epoch)
    }
}

/// The ownerships of which an open volume's clients have missed nothing.
#[derive(Debug, Default)]
pub struct Lives(Mutex<BTreeSet<Epoch>>);

impl Lives {
    pub fn begin(&self, lives: impl IntoIterator<Item = Epoch>) {
        *self.0.lock() = lives.into_iter().collect();
    }

    /// Adds ownerships. `goes_on`: the clients that there are have missed nothing of what was before these either.
    pub fn take_in(&self, lives: BTreeSet<Epoch>, goes_on: bool) {
        let mut all = self.0.lock();
        if !goes_on {
            all.clear();
        }
        all.extend(lives);
    }

    /// Tells whether those who were shown the volume under one of these have missed nothing.
    pub fn continue_any(&self, shown: &[Epoch]) -> bool {
        let all = self.0.lock();
        shown.iter().any(|epoch| all.contains(epoch))
    }
}
