//! The last change of a head by its owner: released, for any host to open, or left for a volume of another pool.

use super::moved::Leaving;
use super::transitions::{Head, Move};
use crate::base::{Epoch, Error, Kind, Result};

impl Head {
    /// The owner's last act.
    pub fn release(&self, epoch: Epoch) -> Result<Move> {
        if self.active.epoch == epoch && self.active.released {
            return Ok(Move::Already);
        }
        self.owned(epoch)?;
        self.with(|h| h.active.released = true)
    }

    /// The owner's last act where the volume goes on in another pool (model `move`): released, and never claimed again.
    /// `Refused`: it is not what was copied any more.
    pub fn leave(&self, epoch: Epoch, left: &Leaving) -> Result<Move> {
        if self.moved.as_ref().is_some_and(|moved| moved.volume == left.to.volume) {
            return Ok(Move::Already);
        }
        self.owned(epoch)?;
        self.no_template()?;
        if (self.size, self.settings, &self.naming) != (left.size, left.settings, &left.naming) {
            let why = "it was resized, renamed or given other settings meanwhile: move it again";
            return Err(Error::new(Kind::Refused, why));
        }
        self.with(|h| {
            h.active.released = true;
            h.moved = Some(left.to.clone());
        })
    }
}
