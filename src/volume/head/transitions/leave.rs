//! The last change of a head by its owner: released, for any host to open, or left for a volume of another pool. How another
//! host asks for it (model `handover`), which host mirrors its journal (model `mirror`), and what the volume is called (model
//! `rename`).

use std::collections::BTreeSet;

use crate::base::{Epoch, Error, HostId, Kind, Name, Nonce, Result};
use crate::volume::head::head_value::{Head, Move};
use crate::volume::head::name_and_move::{Leaving, NameStanding, Naming};
use crate::volume::head::other_hosts::{Mirror, Wanted};
use crate::volume::head::settings::{HandoverPolicy, Host};

impl Head {
    /// The owner's last act.
    pub fn release(&self, epoch: Epoch) -> Result<Move> {
        if self.active.epoch == epoch && self.active.released {
            return Ok(Move::Already);
        }
        self.owned(epoch)?;
        // All is in the pool.
        self.with(|h| (h.active.released, h.mirror) = (true, None))
    }

    /// Names the host that mirrors the owner's journal, once that host lacks nothing which the pool lacks too.
    pub fn name_mirror(&self, epoch: Epoch, host: &Host, nonce: Nonce) -> Result<Move> {
        self.owned(epoch)?;
        let mirror = Mirror { host: host.clone(), session: epoch, nonce };
        match self.mirror.as_ref() == Some(&mirror) {
            true => Ok(Move::Already),
            false => self.with(|h| h.mirror = Some(mirror)),
        }
    }

    /// No other host's journal is needed any more: the pool has all.
    pub fn end_mirror(&self, epoch: Epoch) -> Result<Move> {
        self.owned(epoch)?;
        if self.mirror.is_none() { Ok(Move::Already) } else { self.with(|h| h.mirror = None) }
    }

    /// Whether an owner who starts anew takes no write yet: another host is named, and may have writes that this one lacks.
    pub fn is_mirrored_elsewhere(&self, me: HostId) -> bool {
        self.mirror.as_ref().is_some_and(|mirror| mirror.host.id != me)
    }

    /// The host that asks the present owner for the volume.
    pub fn asked(&self) -> Option<&Wanted> {
        self.wanted.as_ref().filter(|wanted| wanted.asks == Some(self.active.epoch) && !self.active.released)
    }

    /// Another host has the volume attached. Nothing where nobody owns it, or somebody asks for it already.
    pub fn attach(&self, host: &Host, nonce: Nonce) -> Result<Move> {
        let is_mine = self.active.owner.as_ref().is_some_and(|owner| owner.id == host.id);
        let is_said = self.wanted.as_ref().is_some_and(|wanted| wanted.nonce == nonce);
        if self.removed || self.active.released || is_mine || is_said || self.asked().is_some() {
            return Ok(Move::Already);
        }
        self.with(|h| h.wanted = Some(Wanted { host: host.clone(), nonce, asks: None, heard: 0 }))
    }

    /// A host asks the owner for the volume. Nothing where somebody has asked it already, or nobody owns the volume by now.
    /// `Owned`: its owner does not give it up.
    pub fn ask(&self, host: &Host, nonce: Nonce) -> Result<Move> {
        if self.removed || self.active.released || self.asked().is_some() {
            return Ok(Move::Already);
        }
        let is_mine = self.active.owner.as_ref().is_some_and(|owner| owner.id == host.id);
        if is_mine || self.settings.handover != HandoverPolicy::Ask {
            return Err(self.owned_elsewhere(Some(host.id)));
        }
        let asks = Some(self.active.epoch);
        self.with(|h| h.wanted = Some(Wanted { host: host.clone(), nonce, asks, heard: 0 }))
    }

    /// The owner is on the way to let go of the volume, and says so once more.
    pub fn hear(&self, epoch: Epoch, times: u64) -> Result<Move> {
        self.owned(epoch)?;
        match self.asked() {
            Some(wanted) if wanted.heard < times => {
                self.with(|h| h.wanted.iter_mut().for_each(|wanted| wanted.heard = times))
            }
            _ => Ok(Move::Already),
        }
    }

    /// Why the volume is not given to this host, whose ask nobody has answered for so many seconds.
    pub fn unanswered(&self, me: HostId, seconds: u64) -> Error {
        let owner = self.active.owner.clone().filter(|owner| owner.id != me).unwrap_or_else(Host::unknown);
        let why = match self.standing() {
            Some(claim) => {
                format!("{} began to take it over, and has not finished for {seconds} s", claim.host)
            }
            None => format!("{owner} owns it, and has not answered for {seconds} s when it was asked for it"),
        };
        let cure = "if that host is gone, take the volume over with `windlass volume take-over`";
        Error::new(Kind::Owned, format!("{why}: {cure}"))
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
            (h.active.released, h.mirror) = (true, None);
            h.moved = Some(left.to.clone());
        })
    }

    /// What an entry of the directory is that leads to this volume.
    pub fn standing_of(&self, name: &Name, serial: u64) -> NameStanding {
        let Naming { name: current, serial: since, round } = &self.naming;
        let is_current = serial == *since && current.as_ref().is_none_or(|current| current == name);
        match (self.removed, is_current) {
            (false, true) => NameStanding::Current,
            (false, false) if serial > *round => NameStanding::Pending,
            _ => NameStanding::Dead,
        }
    }

    /// The entry of serial `round + 1`, which is in the directory, becomes the name. `Owned`: another rename came first, or
    /// somebody took this one for broken off. Into the trash goes what nobody has. What was moved away and is brought back from
    /// there is a volume of its own from then on.
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

    /// No entry with a serial up to this one becomes the name any more.
    pub fn close_round(&self, serial: u64) -> Result<Move> {
        match self.removed || self.naming.round >= serial {
            true => Ok(Move::Already),
            false => self.with(|h| h.naming.round = serial),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ownership::{Claimer, Recording};
    use super::*;
    use crate::base::{HostId, Incarnation, Lsn, Name, Nonce, Seq, VolumeId};
    use crate::volume::head::name_and_move::Moved;
    use crate::volume::head::other_hosts::{ClaimBasis, MirrorAccess};
    use crate::volume::head::settings::{Host, VolumeSettings};

    fn to(step: Result<Move>) -> Head {
        match step.unwrap() {
            Move::To(head) => *head,
            Move::Already => panic!("it has not happened yet"),
        }
    }

    fn claim(head: &Head, nonce: u128, force: bool) -> Result<Move> {
        let (host, lineage) = (Host { id: HostId(nonce), name: "host".into() }, BTreeSet::new());
        let (nonce, floor, mirror) = (Nonce(nonce), Epoch(0), MirrorAccess::default());
        head.claim(&Claimer {
            host: &host,
            nonce,
            now_ms: 0,
            lineage: &lineage,
            seen: None,
            force,
            floor,
            mirror,
        })
    }

    fn recording(nonce: Nonce) -> Recording {
        Recording { nonce, last: Seq(0), w: 1, witnesses: vec![Incarnation(1)], gives_up_mirror: false }
    }

    /// Model `mirror`: name, end, take, open, bare.
    #[test]
    fn a_head_that_names_a_mirror_is_taken_over_by_who_has_it() {
        let host = |n| Host { id: HostId(n), name: format!("host{n}") };
        let (a, b, c) = (host(1), host(2), host(3));
        let born = Head::new(VolumeId(7), 1, 1 << 30, VolumeSettings::default(), 1, vec![Incarnation(1)]);
        let none = BTreeSet::new();
        let who = |host, nonce: u128, lineage, mirror| {
            let (nonce, floor) = (Nonce(nonce), Epoch(0));
            Claimer { host, nonce, now_ms: 0, lineage, seen: None, force: true, floor, mirror }
        };
        let access = |closed: Option<u64>, given_up| MirrorAccess { closed: closed.map(Epoch), given_up };
        let nothing = access(None, false);
        let owned = to(to(born.claim(&who(&a, 1, &none, nothing))).record(&recording(Nonce(1))));
        assert_eq!(owned.ground(&who(&c, 9, &none, nothing)).unwrap(), ClaimBasis::Bare);
        assert!(owned.name_mirror(Epoch(2), &b, Nonce(7)).unwrap_err().is(Kind::Fenced));
        let named = to(owned.name_mirror(Epoch(1), &b, Nonce(7)));
        assert_eq!(named.name_mirror(Epoch(1), &b, Nonce(7)).unwrap(), Move::Already);
        assert!(
            matches!(named.name_mirror(Epoch(1), &b, Nonce(8)).unwrap(), Move::To(_)),
            "it is written anew"
        );
        assert_eq!(Head::decode(&named.encode().unwrap()).unwrap(), named);
        assert!(named.is_mirrored_elsewhere(a.id) && !named.is_mirrored_elsewhere(b.id));
        // Who has nothing, or another session, or one that still takes records, is refused with the name of who has it.
        for (host, closed) in [(&c, None), (&c, Some(1)), (&b, None), (&b, Some(2))] {
            let refused = named.claim(&who(host, 2, &none, access(closed, false))).unwrap_err();
            assert!(refused.is(Kind::Refused) && refused.to_string().contains("host2"), "{refused}");
            assert!(refused.to_string().contains("--accept-loss"), "{refused}");
        }
        let own = BTreeSet::from([Epoch(1)]);
        assert_eq!(named.ground(&who(&a, 2, &own, nothing)).unwrap(), ClaimBasis::Own);
        let anew = to(to(named.claim(&who(&a, 2, &own, nothing))).record(&recording(Nonce(2))));
        assert_eq!(
            anew.mirror.as_ref().map(|m| m.session),
            Some(Epoch(1)),
            "the owner starts anew and leaves it"
        );
        let by_mirror = who(&b, 3, &none, access(Some(1), false));
        assert_eq!(anew.ground(&by_mirror).unwrap(), ClaimBasis::Mirror(Epoch(1)));
        let claimed = to(anew.claim(&by_mirror));
        assert!(
            claimed.name_mirror(Epoch(2), &b, Nonce(9)).unwrap_err().is(Kind::Fenced),
            "none is named under a claim"
        );
        assert!(claimed.end_mirror(Epoch(2)).unwrap_err().is(Kind::Fenced));
        let taken = to(claimed.record(&recording(Nonce(3))));
        assert!(taken.mirror.is_some() && !taken.is_mirrored_elsewhere(b.id));
        assert!(
            taken.claim(&who(&c, 4, &none, nothing)).is_err(),
            "what it took over may be in its journal alone"
        );
        let ended = to(taken.end_mirror(Epoch(3)));
        assert_eq!(ended.end_mirror(Epoch(3)).unwrap(), Move::Already);
        assert_eq!(ended.ground(&who(&c, 4, &none, nothing)).unwrap(), ClaimBasis::Bare);
        let forced = who(&c, 5, &none, access(None, true));
        assert_eq!(taken.ground(&forced).unwrap(), ClaimBasis::Forced);
        let record = Recording { gives_up_mirror: true, ..recording(Nonce(5)) };
        assert!(to(to(taken.claim(&forced)).record(&record)).mirror.is_none());
        assert!(to(taken.release(Epoch(3))).mirror.is_none(), "all is in the pool");
    }

    #[test]
    fn what_was_left_is_claimed_by_nobody_and_comes_back_as_another() {
        let born = Head::new(VolumeId(7), 1, 1 << 30, VolumeSettings::default(), 1, vec![Incarnation(1)]);
        let recording = recording(Nonce(1));
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

    #[test]
    fn an_ask_is_of_one_ownership() {
        let (a, b) = (Host { id: HostId(1), name: "a".into() }, Host { id: HostId(2), name: "b".into() });
        let born = Head::new(VolumeId(7), 1, 1 << 30, VolumeSettings::default(), 1, vec![Incarnation(1)]);
        let owned = to(to(claim(&born, 1, false)).record(&recording(Nonce(1))));
        assert!(owned.ask(&b, Nonce(2)).unwrap_err().is(Kind::Owned), "it is not to be handed over");
        let owned = to(owned.set_settings(Some(Epoch(1)), &["handover=ask".to_owned()]));
        assert!(owned.ask(&a, Nonce(2)).unwrap_err().is(Kind::Owned), "nobody asks himself");
        assert_eq!(owned.attach(&a, Nonce(2)).unwrap(), Move::Already);
        let attached = to(owned.attach(&b, Nonce(2)));
        assert!(attached.wanted.is_some() && attached.asked().is_none());
        assert_eq!(attached.hear(Epoch(1), 1).unwrap(), Move::Already, "nobody asks");
        let asked = to(attached.ask(&b, Nonce(3)));
        assert_eq!(asked.asked().map(|wanted| wanted.nonce), Some(Nonce(3)));
        assert_eq!(asked.ask(&b, Nonce(4)).unwrap(), Move::Already);
        assert_eq!(asked.attach(&b, Nonce(4)).unwrap(), Move::Already, "an ask stays until it is answered");
        assert_eq!(Head::decode(&asked.encode().unwrap()).unwrap(), asked);
        let heard = to(asked.hear(Epoch(1), 1));
        assert_eq!((heard.hear(Epoch(1), 1).unwrap(), heard.asked().unwrap().heard), (Move::Already, 1));
        assert!(asked.hear(Epoch(2), 1).unwrap_err().is(Kind::Fenced));
        let why = heard.unanswered(b.id, 30).to_string();
        assert!(why.contains("host (host id") && why.contains("volume take-over"), "{why}");
        let released = to(heard.release(Epoch(1)));
        assert!(
            released.asked().is_none() && released.wanted.is_some(),
            "who asks may look which ownership ended"
        );
        let next = to(to(claim(&released, 5, false)).record(&recording(Nonce(5))));
        assert!(next.wanted.is_none());
        // An ask that comes late, of an owner that is gone, is none of the next.
        let mut late = next;
        late.wanted = asked.wanted;
        assert!(late.asked().is_none());
    }

    #[test]
    fn one_name_counts_and_what_is_dead_stays_so() {
        use NameStanding::{Current, Dead, Pending};
        let [a, b, c]: [Name; 3] = ["a", "b", "c"].map(|name| name.parse().unwrap());
        let head = Head::new(VolumeId(7), 1, 1 << 30, VolumeSettings::default(), 1, vec![Incarnation(1)]);
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
