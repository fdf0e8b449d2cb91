//! A checkpoint is published: the one change of the head that makes its tables the volume's, drops snapshots and rolls back.

use super::removal::{Removal, gate_lost};
use crate::head::head_value::{Checkpoint, Head, Move};
use windlass_base::{Epoch, Error, Kind, Result, StateId};

/// A rollback: with the checkpoint, the tip begins anew as what a snapshot was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Back {
    pub to: StateId,
    /// The snapshot's size in bytes: the volume has it from then on.
    pub size: u64,
}

impl Head {
    /// Publishes a checkpoint. `back`: it is a rollback.
    ///
    /// `removes`: states that the checkpoint drops. No clone may need one of them: it never had a clone, or
    /// the caller found no pin while the removal's gate stood, and that gate still stands.
    ///
    /// # Errors
    /// `Refused`: a clone may need one of those states, or one of them is locked.
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
                // It shows a whole state again.
                h.round = None;
                // What stands on ancestors is the tip again.
                h.base.iter_mut().for_each(|b| b.flat = b.flat.filter(|flat| *flat <= back.to));
            }
        })
    }
}
