//! What a volume is called: which entry of the directory is its name, and how another becomes it (model `rename`).

use std::collections::BTreeSet;

use crate::head::head_value::{Head, Move};
use crate::head::name_and_move::{NameStanding, Naming};
use windlass_base::{Error, Kind, Name, Result};

impl Head {
    /// Returns the standing of a directory entry that leads to this volume.
    pub fn standing_of(&self, name: &Name, serial: u64) -> NameStanding {
        let Naming { name: current, serial: since, round } = &self.naming;
        let is_current = serial == *since && current.as_ref().is_none_or(|current| current == name);
        match (self.removed, is_current) {
            (false, true) => NameStanding::Current,
            (false, false) if serial > *round => NameStanding::Pending,
            _ => NameStanding::Dead,
        }
    }

    /// Makes the entry of serial `round + 1`, which is in the directory, the volume's name.
    ///
    /// Only a volume that no host owns goes into the trash. A moved volume that is brought back from the
    /// trash is a volume of its own from then on.
    ///
    /// # Errors
    /// `Owned`: another rename came first, or somebody took this one for broken off.
    pub fn rename(&self, to: &Name, round: u64) -> Result<Move> {
        self.gone()?;
        if to.trashed().is_some() {
            self.may_remove(&BTreeSet::new())?;
        }
        let naming = Naming { name: Some(to.clone()), serial: round + 1, round: round + 1 };
        match self.naming {
            _ if self.naming == naming => Ok(Move::Already),
            Naming { round: now, .. } if now == round => self.with(|h| {
                h.moved = h.moved.take().filter(|_| !h.naming.in_trash() || naming.in_trash());
                h.naming = naming;
            }),
            _ => Err(Error::new(Kind::Owned, "it is being renamed by another at the same time: try again")),
        }
    }

    /// Closes the round: no entry with a serial up to this one becomes the name any more.
    pub fn close_round(&self, serial: u64) -> Result<Move> {
        match self.removed || self.naming.round >= serial {
            true => Ok(Move::Already),
            false => self.with(|h| h.naming.round = serial),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::heads_for_tests::{born, to};
    use super::*;
    use windlass_base::Nonce;

    #[test]
    fn one_name_counts_and_what_is_dead_stays_so() {
        use NameStanding::{Current, Dead, Pending};
        let [a, b, c]: [Name; 3] = ["a", "b", "c"].map(|name| name.parse().unwrap());
        let head = born();
        assert_eq!((head.standing_of(&a, 0), head.standing_of(&b, 1)), (Current, Pending));
        let renamed = to(head.rename(&b, 0));
        assert_eq!(renamed.rename(&b, 0).unwrap(), Move::Already);
        assert_eq!((renamed.standing_of(&a, 0), renamed.standing_of(&b, 1)), (Dead, Current));
        assert_eq!((renamed.standing_of(&c, 1), renamed.standing_of(&c, 2)), (Dead, Pending));
        assert_eq!(renamed.rename(&c, 0).unwrap_err().kind(), Kind::Owned);
        let closed = to(renamed.close_round(2));
        assert_eq!(closed.close_round(2).unwrap(), Move::Already);
        assert_eq!((closed.standing_of(&b, 1), closed.standing_of(&c, 2)), (Current, Dead));
        assert_eq!(closed.rename(&c, 1).unwrap_err().kind(), Kind::Owned);
        let back = to(closed.rename(&a, 2));
        assert_eq!((back.standing_of(&a, 0), back.standing_of(&a, 3)), (Dead, Current));
        assert_eq!(Head::decode(&back.encode().unwrap()).unwrap(), back);
        let removed = to(back.remove(&BTreeSet::new(), Nonce(0)));
        assert_eq!((removed.standing_of(&a, 3), removed.standing_of(&c, 9)), (Dead, Dead));
        assert_eq!(removed.rename(&c, 3).unwrap_err().kind(), Kind::Removed);
    }
}
