//! The last change of a head by its owner: released, for any host to open, or left for a volume of another pool.

use crate::head::head_value::{Head, Move};
use crate::head::name_and_move::Leaving;
use windlass_base::{Epoch, Error, Kind, Result};

impl Head {
    /// Releases the volume, as the owner's last act.
    pub fn release(&self, epoch: Epoch) -> Result<Move> {
        if self.active.epoch == epoch && self.active.released {
            return Ok(Move::Already);
        }
        self.owned(epoch)?;
        // All is in the pool.
        self.with(|h| (h.active.released, h.mirror) = (true, None))
    }

    /// Releases the volume for good, as the owner's last act where it goes on in another pool (model `move`):
    /// it is never claimed again. `Refused`: it is not what was copied any more, is a copy without a whole
    /// state, a template, or has locks.
    pub fn leave(&self, epoch: Epoch, left: &Leaving) -> Result<Move> {
        if self.moved.as_ref().is_some_and(|moved| moved.volume == left.to.volume) {
            return Ok(Move::Already);
        }
        self.owned(epoch)?;
        self.no_template()?;
        if self.round.is_some() {
            return Err(Error::new(
                Kind::Refused,
                "it is a copy that shows no whole state: roll it back first",
            ));
        }
        // What stays behind is removed in time.
        self.locks.allow_all()?;
        if (self.size, self.settings, &self.naming) != (left.size, left.settings, &left.naming) {
            let why = "it was resized, renamed or given other settings meanwhile: move it again";
            return Err(Error::new(Kind::Refused, why));
        }
        self.with(|h| {
            (h.active.released, h.mirror) = (true, None);
            h.moved = Some(left.to.clone());
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::heads_for_tests::{born, claim, recording, to};
    use super::*;
    use crate::head::name_and_move::Moved;
    use windlass_base::{Lsn, Name, Nonce, VolumeId};

    /// Returns the epoch of the first claim here.
    fn first() -> Epoch {
        Epoch(0).after(Nonce(1))
    }

    #[test]
    fn what_was_left_is_claimed_by_nobody_and_comes_back_as_another() {
        let born = born();
        let recording = recording(1, 0);
        let head = to(to(claim(&born, 1, false)).record(&recording));
        let name: Name = "v".parse().unwrap();
        let moved = Moved { pool: "q".parse().unwrap(), volume: VolumeId(8), name: name.clone(), at_ms: 1 };
        let left = Leaving {
            to: moved,
            size: 1 << 30,
            settings: head.settings,
            naming: head.naming.clone(),
            last: Lsn(0),
        };
        assert!(head.leave(Epoch(2), &left).unwrap_err().is(Kind::Fenced));
        assert!(head.leave(first(), &Leaving { size: 512, ..left.clone() }).unwrap_err().is(Kind::Refused));
        assert!(to(claim(&head, 2, true)).leave(first(), &left).unwrap_err().is(Kind::Fenced));
        let gone = to(head.leave(first(), &left));
        assert_eq!(gone.leave(first(), &left).unwrap(), Move::Already);
        assert!(gone.active.released && Head::decode(&gone.encode().unwrap()).unwrap() == gone);
        assert!(claim(&gone, 3, true).unwrap_err().is(Kind::Removed));
        // Not before the trash says that its copy has a name.
        assert!(gone.remove(&BTreeSet::new(), Nonce(0)).unwrap_err().is(Kind::Refused));
        let trashed = to(gone.rename(&name.in_trash(5), 0));
        assert!(trashed.moved.is_some() && to(trashed.remove(&BTreeSet::new(), Nonce(0))).removed);
        let back = to(trashed.rename(&name, 1));
        assert!(back.moved.is_none() && to(claim(&back, 4, false)).standing().is_some());
    }
}
