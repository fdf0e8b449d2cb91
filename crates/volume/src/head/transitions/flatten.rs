//! A clone lets go of its parent: first it is flat, then it needs nothing older.

use crate::head::head_value::{Head, Move};
use windlass_base::{Epoch, Error, Kind, Result, StateId};

impl Head {
    /// Records that nothing from this state on stands on ancestors. The caller has walked a recorded map of
    /// the state, and all later states come from it.
    pub fn set_flat(&self, epoch: Epoch, from: StateId) -> Result<Move> {
        self.owned(epoch)?;
        match &self.base {
            Some(base) if base.flat.is_none() => {
                self.with(|h| h.base.iter_mut().for_each(|b| b.flat = Some(from)))
            }
            _ => Ok(Move::Already),
        }
    }

    /// Drops the clone's base, since no state before `flat` is left.
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
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::Back;
    use super::super::heads_for_tests::{OWNED, owned, to};
    use super::*;
    use crate::head::head_value::{Base, Checkpoint};
    use windlass_base::{Nonce, VolumeId};

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
        assert!(clone.drop_base(OWNED, StateId(5)).is_err(), "not flat");
        let flat = to(clone.set_flat(OWNED, StateId(5)));
        assert_eq!(flat.set_flat(OWNED, StateId(9)).unwrap(), Move::Already, "the older one counts");
        let new = Checkpoint { nonce: Nonce(8), ..Checkpoint::default() };
        let back = |head: &Head, state| {
            to(head.checkpoint(OWNED, &new, &[], Some(Back { to: StateId(state), size: 512 })))
        };
        assert!(back(&flat, 4).drop_base(OWNED, StateId(5)).is_err(), "back to what stands on the parent");
        assert_eq!(back(&flat, 4).size, 512);
        let dropped = to(back(&flat, 5).drop_base(OWNED, StateId(5)));
        assert!(dropped.parent().is_none() && flat.parent().is_some());
        assert_eq!(dropped.drop_base(OWNED, StateId(5)).unwrap(), Move::Already);
        assert_eq!(Head::decode(&dropped.encode().unwrap()).unwrap(), dropped);
    }
}
