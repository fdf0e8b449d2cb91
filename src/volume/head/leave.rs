//! The last change of a head by its owner: released, for any host to open, or left for a volume of another pool.

use super::naming::Leaving;
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
        // What stays behind is removed in time.
        self.locks.allow_all()?;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::naming::Moved;
    use super::super::settings::{Host, VolumeSettings};
    use super::super::transitions::{Claimer, Recording};
    use super::*;
    use crate::base::{HostId, Incarnation, Lsn, Name, Nonce, Seq, VolumeId};

    fn to(step: Result<Move>) -> Head {
        match step.unwrap() {
            Move::To(head) => *head,
            Move::Already => panic!("it has not happened yet"),
        }
    }

    fn claim(head: &Head, nonce: u128, force: bool) -> Result<Move> {
        let (host, lineage) = (Host { id: HostId(nonce), name: "host".into() }, BTreeSet::new());
        let (nonce, floor) = (Nonce(nonce), Epoch(0));
        head.claim(&Claimer { host: &host, nonce, now_ms: 0, lineage: &lineage, seen: None, force, floor })
    }

    #[test]
    fn what_was_left_is_claimed_by_nobody_and_comes_back_as_another() {
        let born = Head::new(VolumeId(7), 1, 1 << 30, VolumeSettings::default(), 1, vec![Incarnation(1)]);
        let recording = Recording { nonce: Nonce(1), last: Seq(0), w: 1, witnesses: vec![Incarnation(1)] };
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
        assert!(head.leave(Epoch(1), &Leaving { size: 512, ..left.clone() }).unwrap_err().is(Kind::Refused));
        assert!(to(claim(&head, 2, true)).leave(Epoch(1), &left).unwrap_err().is(Kind::Fenced));
        let gone = to(head.leave(Epoch(1), &left));
        assert_eq!(gone.leave(Epoch(1), &left).unwrap(), Move::Already);
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
