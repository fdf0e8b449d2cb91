//! How a volume gets its next owner: a claim, the record that ends the epoch before it, or a withdrawal; and which stores the
//! owner's chunks need.

use std::collections::BTreeSet;

use crate::head::head_value::{Active, Claim, End, Head, Move};
use crate::head::other_hosts::{ClaimBasis, MirrorAccess};
use crate::head::settings::Host;
use windlass_base::{Epoch, Error, Incarnation, Kind, Nonce, Result, Seq};

/// A host that claims, and its ground (protocol §1.8).
#[derive(Clone, Debug)]
pub struct Claimer<'a> {
    pub host: &'a Host,
    pub nonce: Nonce,
    pub now_ms: u64,
    /// Epochs that this state folder has owned.
    pub lineage: &'a BTreeSet<Epoch>,
    /// The active epoch under which the volume was shown here; a host that has seen it claims only over that
    /// one.
    pub seen: Option<Epoch>,
    /// A claim of another host that this one may be made over, without force, since it has had its time.
    pub overtakes: Option<Nonce>,
    /// Is true if the user takes over by force.
    pub force: bool,
    /// Is true if this very claim shows the volume to clients of this host that stood by: not a copy in the
    /// middle of a round.
    pub shows: bool,
    /// The last ownership that this host has heard of: the pool may have forgotten it.
    pub floor: Epoch,
    pub mirror: MirrorAccess,
}

/// A successor's record of how the epoch before it ended (protocol §1.6).
#[derive(Clone, Debug)]
pub struct Recording {
    /// Nonce of the claim.
    pub nonce: Nonce,
    /// Last chunk of the old epoch.
    pub last: Seq,
    /// Number of shards that make a chunk of the new epoch stored.
    pub w: u8,
    pub witnesses: Vec<Incarnation>,
    /// Is true if the user gives up what only a mirror's journal has.
    pub gives_up_mirror: bool,
}

impl Head {
    /// Checks whether this state folder may claim (protocol §1.8), judged on the head that the claim
    /// replaces.
    pub fn may_claim(&self, who: &Claimer<'_>) -> Result<()> {
        self.gone()?;
        self.naming.check_here(self.moved.as_ref())?;
        if let Some(seen) = who.seen {
            self.changed_since(seen)?;
        }
        match self.active.released || who.lineage.contains(&self.active.epoch) {
            true => {}
            false if who.force => self.ground(who).map(drop)?,
            false => return Err(self.owned_elsewhere(Some(who.host.id))),
        }
        if who.shows && self.round.is_some() {
            let why = "it is a copy that shows no whole state, and clients here have it attached: disconnect them first";
            return Err(Error::new(Kind::Refused, why));
        }
        if who.force {
            return Ok(());
        }
        match self.standing().filter(|claim| claim.host.id != who.host.id) {
            Some(claim) if who.overtakes != Some(claim.nonce) => Err(self.being_taken(claim)),
            _ => Ok(()),
        }
    }

    /// Returns the ground of a claim over an owner. `Refused`: another host may have flushed writes that
    /// nobody else has.
    pub fn ground(&self, who: &Claimer<'_>) -> Result<ClaimBasis> {
        match who.lineage.contains(&self.active.epoch) {
            true => Ok(ClaimBasis::Own),
            false => who.mirror.ground(self.mirror.as_ref(), who.host.id),
        }
    }

    /// Claims the next epoch.
    pub fn claim(&self, who: &Claimer<'_>) -> Result<Move> {
        if self.claim.as_ref().is_some_and(|c| c.nonce == who.nonce) {
            return Ok(Move::Already);
        }
        self.may_claim(who)?;
        let epoch = self.last_epoch().max(who.floor).after(who.nonce);
        self.with(|h| {
            h.claim = Some(Claim {
                epoch,
                nonce: who.nonce,
                host: who.host.clone(),
                since_ms: who.now_ms,
                withdrawn: false,
            });
        })
    }

    /// Gives a claim up; its number stays used.
    pub fn withdraw(&self, nonce: Nonce) -> Result<Move> {
        match &self.claim {
            Some(claim) if claim.nonce == nonce && !claim.withdrawn && claim.epoch > self.active.epoch => {
                self.with(|h| h.claim.iter_mut().for_each(|c| c.withdrawn = true))
            }
            _ => Ok(Move::Already),
        }
    }

    /// Ends the old epoch and makes the claim's epoch the active one, only if the claim still stands.
    pub fn record(&self, how: &Recording) -> Result<Move> {
        if self.active.nonce == how.nonce {
            return Ok(Move::Already);
        }
        let claim = self.my_claim(how.nonce)?.clone();
        if how.last < self.checkpoint.top || how.last < self.active_starts_after() {
            return Err(Error::new(Kind::Internal, "the log would end before what the volume's map names"));
        }
        self.with(|h| {
            let ended = End { epoch: h.active.epoch, last: how.last };
            // An epoch whose chunks the checkpoint covers needs no entry.
            if ended.last > h.checkpoint.position {
                h.ends.push(ended);
            }
            h.active = Active {
                epoch: claim.epoch,
                nonce: how.nonce,
                w: how.w,
                owner: Some(claim.host),
                since_ms: claim.since_ms,
                released: false,
            };
            h.witnesses = how.witnesses.clone();
            // Asked of the epoch that ends here: who still wants the volume asks its new owner.
            h.wanted = None;
            h.mirror = h.mirror.take().filter(|_| !how.gives_up_mirror);
        })
    }

    /// Makes these stores the witnesses of chunks. They were in the pool while the whole log was walked, so
    /// their absences count from now on.
    pub fn join(&self, stores: &[Incarnation]) -> Result<Move> {
        self.gone()?;
        if self.witnesses == stores {
            return Ok(Move::Already);
        }
        self.with(|h| h.witnesses = stores.to_vec())
    }

    /// Sets how many shards make the owner's chunks stored.
    pub fn set_w(&self, epoch: Epoch, w: u8) -> Result<Move> {
        self.owned(epoch)?;
        if self.active.w == w { Ok(Move::Already) } else { self.with(|h| h.active.w = w) }
    }

    /// Lowers w of the epoch that a taker ends, while its claim stands.
    pub fn lower_w(&self, claim: Nonce, w: u8) -> Result<Move> {
        self.my_claim(claim)?;
        if self.active.w <= w { Ok(Move::Already) } else { self.with(|h| h.active.w = w) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::heads_for_tests::{OWNED, claimer, host, owned, recording, to};
    use super::*;
    use crate::head::head_value::Checkpoint;

    /// Returns the epoch of the n-th claim here, which has this nonce.
    fn e(n: u64, nonce: u64) -> Epoch {
        Epoch(n << 32 | nonce)
    }

    #[test]
    fn only_the_owners_folder_or_force_claims_what_is_not_released() {
        let head = owned();
        let (two, none, mine) = (host(2), BTreeSet::new(), BTreeSet::from([OWNED]));
        let refused = head.claim(&claimer(&two, 22, &none)).unwrap_err();
        assert_eq!(refused.kind(), Kind::Owned);
        assert!(refused.to_string().contains("stop it there"), "{refused}");
        let older = head.claim(&claimer(&host(1), 22, &none)).unwrap_err();
        assert!(older.to_string().contains("not there any more"), "{older}");
        to(head.claim(&claimer(&two, 22, &mine)));
        to(head.claim(&Claimer { force: true, ..claimer(&two, 22, &none) }));
        let released = to(head.release(OWNED));
        to(released.claim(&claimer(&two, 22, &none)));
        let stale = Claimer { seen: Some(Epoch(0)), ..claimer(&two, 22, &none) };
        assert_eq!(released.claim(&stale).unwrap_err().kind(), Kind::Fenced);
    }

    #[test]
    fn a_claim_freezes_the_owner_and_a_withdrawn_one_keeps_its_number() {
        let (two, none) = (host(2), BTreeSet::new());
        let force = Claimer { force: true, ..claimer(&two, 22, &none) };
        let claimed = to(owned().claim(&force));
        assert_eq!(claimed.claim(&force).unwrap(), Move::Already);
        assert_eq!(claimed.owned(OWNED).unwrap_err().kind(), Kind::Fenced);
        let new = Checkpoint { position: Seq(3), top: Seq(4), nonce: Nonce(5), ..Checkpoint::default() };
        assert!(claimed.checkpoint(OWNED, &new, &[], None).is_err());
        assert!(claimed.release(OWNED).is_err());
        let lowered = to(claimed.lower_w(Nonce(22), 4));
        assert_eq!(lowered.active.w, 4);
        let withdrawn = to(claimed.withdraw(Nonce(22)));
        assert_eq!(withdrawn.owned(OWNED).unwrap_err().kind(), Kind::Refused);
        assert!(withdrawn.record(&recording(22, 0)).is_err());
        let again = Claimer { nonce: Nonce(33), ..force };
        assert_eq!(to(withdrawn.claim(&again)).claim.unwrap().epoch, e(3, 33));
        let above = Claimer { floor: e(9, 5), ..again.clone() };
        assert_eq!(to(withdrawn.claim(&above)).claim.unwrap().epoch, e(10, 33));
        let below = Claimer { floor: e(1, 5), ..again };
        assert_eq!(to(withdrawn.claim(&below)).claim.unwrap().epoch, e(3, 33));
    }

    /// A host that brings the copy up to date, or rolls it back, claims it all the same.
    #[test]
    fn nobody_claims_a_copy_in_a_round_to_show_it() {
        let (two, none) = (host(2), BTreeSet::new());
        let begun = to(owned().begin_round(OWNED, Nonce(5), 100));
        let released = to(begun.release(OWNED));
        let shows = Claimer { shows: true, ..claimer(&two, 22, &none) };
        assert_eq!(released.claim(&shows).unwrap_err().kind(), Kind::Refused);
        assert_eq!(begun.claim(&shows).unwrap_err().kind(), Kind::Owned, "its owner is asked for it");
        assert_eq!(begun.claim(&Claimer { force: true, ..shows.clone() }).unwrap_err().kind(), Kind::Refused);
        to(released.claim(&claimer(&two, 22, &none)));
        to(to(released.end_round(Nonce(5))).claim(&shows));
    }

    /// A host waits for a claim that another host has begun. The user, by force, and the claiming host itself
    /// do not wait.
    #[test]
    fn nobody_claims_over_a_claim_that_stands() {
        let (two, three, none, mine) = (host(2), host(3), BTreeSet::new(), BTreeSet::from([OWNED]));
        let owner = host(1);
        let taking = to(owned().claim(&Claimer { force: true, ..claimer(&two, 22, &none) }));
        let again = claimer(&owner, 33, &mine);
        let waits = taking.claim(&again).unwrap_err();
        assert!(waits.is_transient() && waits.to_string().contains("host2"), "{waits}");
        assert!(taking.claim(&claimer(&three, 33, &none)).unwrap_err().is(Kind::Owned));
        to(taking.claim(&Claimer { overtakes: Some(Nonce(22)), ..again.clone() }));
        assert!(taking.claim(&Claimer { overtakes: Some(Nonce(21)), ..again.clone() }).is_err());
        to(taking.claim(&Claimer { force: true, ..claimer(&three, 33, &none) }));
        to(to(taking.withdraw(Nonce(22))).claim(&again));
        let own = to(owned().claim(&claimer(&owner, 22, &mine)));
        to(own.claim(&again));
        // Whoever was shown something is told that it is over, also where he forces it.
        let taken = to(taking.record(&recording(22, 0)));
        let shown = Claimer { seen: Some(OWNED), force: true, ..claimer(&owner, 44, &mine) };
        assert!(taken.claim(&shown).unwrap_err().is(Kind::Fenced));
    }

    #[test]
    fn a_record_needs_the_claim_and_keeps_the_ends_behind_the_checkpoint() {
        let (two, none) = (host(2), BTreeSet::new());
        let new = Checkpoint { position: Seq(3), top: Seq(4), nonce: Nonce(5), ..Checkpoint::default() };
        let head = to(owned().checkpoint(OWNED, &new, &[], None));
        assert_eq!(head.checkpoint(OWNED, &new, &[], None).unwrap(), Move::Already);
        let claimed = to(head.claim(&Claimer { force: true, ..claimer(&two, 22, &none) }));
        assert!(claimed.record(&recording(22, 3)).is_err(), "chunk 4 is named by the map");
        assert!(claimed.record(&recording(99, 6)).is_err(), "not this claim");
        let taken = to(claimed.record(&recording(22, 6)));
        assert_eq!(taken.record(&recording(22, 6)).unwrap(), Move::Already);
        assert_eq!(taken.ends, [End { epoch: OWNED, last: Seq(6) }]);
        assert_eq!((taken.epoch_of(Seq(6)), taken.epoch_of(Seq(7))), (OWNED, e(2, 22)));
        assert_eq!(taken.owned(OWNED).unwrap_err().kind(), Kind::Fenced);
        let later = Checkpoint { position: Seq(7), top: Seq(8), nonce: Nonce(6), ..Checkpoint::default() };
        assert!(to(taken.checkpoint(e(2, 22), &later, &[], None)).ends.is_empty());
    }
}
