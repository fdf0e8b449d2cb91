//! The removal of a volume, and the gate that keeps new clones from what is about to be removed.

use std::collections::BTreeSet;

use crate::head::head_value::{Gate, Head, Move};
use crate::head::name_and_move::Moved;
use windlass_base::{Epoch, Error, Kind, Nonce, Result, StateId};

/// A snapshot that a checkpoint drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removal {
    pub state: StateId,
    /// The gate behind which no pin on the snapshot was found. It goes with the very checkpoint that was
    /// begun for it: another removal's gate, for which pins are yet to be read, says nothing for this one.
    pub gate: Nonce,
}

impl Head {
    /// Puts a gate before what is to be removed. A gate of another remover, who begins anew or is gone, ends
    /// with that.
    pub fn set_gate(&self, gate: Gate) -> Result<Move> {
        self.gone()?;
        match self.gate == Some(gate) {
            true => Ok(Move::Already),
            false => self.with(|h| h.gate = Some(gate)),
        }
    }

    /// Lifts that gate, since nothing is removed by it any more.
    pub fn lift_gate(&self, nonce: Nonce) -> Result<Move> {
        match self.gate {
            Some(gate) if gate.nonce == nonce => self.with(|h| h.gate = None),
            _ => Ok(Move::Already),
        }
    }

    /// Marks the volume as removed, never while another state folder owns it, nor while clones may need it.
    /// None of its snapshots has any, or the caller found no pin while its gate stood, and that gate still
    /// stands.
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

/// Makes the error of a removal whose gate is gone: a clone came in between, or another removal.
pub(super) fn gate_lost() -> Error {
    Error::new(Kind::Refused, "a clone is being made of it, or another removal came in between: try again")
}

#[cfg(test)]
mod tests {
    use super::super::heads_for_tests::{OWNED, owned, to};
    use super::*;
    use crate::head::head_value::Checkpoint;
    use crate::head::holds::Cloned;
    use windlass_base::Seq;

    #[test]
    fn what_may_have_clones_is_removed_behind_its_gate() {
        let head = owned();
        let new = Checkpoint { position: Seq(3), top: Seq(4), nonce: Nonce(5), ..Checkpoint::default() };
        let behind = |gate| [Removal { state: StateId(1), gate: Nonce(gate) }];
        let mine = BTreeSet::from([OWNED]);
        to(head.checkpoint(OWNED, &new, &behind(0), None));
        to(head.remove(&mine, Nonce(0)));
        let doubted = to(head.doubt_cloned());
        assert!(doubted.cloned.has(StateId(7)) && doubted.was_cloned());
        assert_eq!(doubted.doubt_cloned().unwrap(), Move::Already);
        let head = to(to(head.set_cloned(StateId(1))).set_cloned(StateId(2)));
        assert_eq!(head.set_cloned(StateId(2)).unwrap(), Move::Already);
        to(head.checkpoint(OWNED, &new, &[Removal { state: StateId(3), gate: Nonce(0) }], None));
        let refused = |head: &Head, gate: u128| {
            let snapshot = head.checkpoint(OWNED, &new, &behind(gate), None).map_err(|e| e.kind());
            let volume = head.remove(&mine, Nonce(gate)).map_err(|e| e.kind());
            (snapshot.err() == Some(Kind::Refused), volume.err() == Some(Kind::Refused))
        };
        assert_eq!(refused(&head, 7), (true, true), "no gate");
        let gate = |nonce, snapshot| Gate { nonce: Nonce(nonce), snapshot };
        let of_it = to(head.set_gate(gate(7, Some(StateId(1)))));
        assert_eq!(of_it.set_gate(gate(7, Some(StateId(1)))).unwrap(), Move::Already);
        assert_eq!((refused(&of_it, 7), refused(&of_it, 8)), ((false, true), (true, true)));
        let through = to(of_it.checkpoint(OWNED, &new, &behind(7), None));
        assert!(through.gate.is_none() && !through.cloned.has(StateId(1)) && through.cloned.has(StateId(2)));
        let of_another = to(of_it.set_gate(gate(8, Some(StateId(2)))));
        assert_eq!(refused(&of_another, 7), (true, true), "another's took its place");
        assert_eq!(refused(&of_another, 8), (true, true));
        to(of_another.checkpoint(OWNED, &new, &[], None));
        let of_all = to(of_another.set_gate(gate(9, None)));
        assert_eq!(refused(&of_all, 9), (false, false));
        assert_eq!(of_all.lift_gate(Nonce(8)).unwrap(), Move::Already);
        assert_eq!(refused(&to(of_all.lift_gate(Nonce(9))), 9), (true, true));
        assert_eq!(of_all.remove(&BTreeSet::new(), Nonce(9)).unwrap_err().kind(), Kind::Owned);
        let removed = to(of_all.remove(&mine, Nonce(9)));
        assert_eq!(removed.owned(OWNED).unwrap_err().kind(), Kind::Removed);
        assert_eq!(removed.set_cloned(StateId(1)).unwrap_err().kind(), Kind::Removed);
        let many = (1..100).fold(head, |head, i| match head.set_cloned(StateId(i)).unwrap() {
            Move::To(next) => *next,
            Move::Already => head,
        });
        assert!(many.cloned == Cloned::Any && refused(&many, 7) == (true, true));
    }
}
