//! Which host mirrors the owner's journal, as the head tells those who would take the volume over (model `mirror`).

use crate::head::head_value::{Head, Move};
use crate::head::other_hosts::Mirror;
use crate::head::settings::Host;
use windlass_base::{Epoch, HostId, Nonce, Result};

impl Head {
    /// Names the host that mirrors the owner's journal, once that host lacks nothing which the pool lacks too.
    pub fn name_mirror(&self, epoch: Epoch, host: &Host, nonce: Nonce) -> Result<Move> {
        self.owned(epoch)?;
        let mirror = Mirror { host: host.clone(), session: epoch, nonce };
        match self.mirror.as_ref() == Some(&mirror) {
            true => Ok(Move::Already),
            false => self.with(|h| h.mirror = Some(mirror)),
        }
    }

    /// Takes the mirror out of the head: no other host's journal is needed any more, since the pool has all.
    pub fn end_mirror(&self, epoch: Epoch) -> Result<Move> {
        self.owned(epoch)?;
        if self.mirror.is_none() { Ok(Move::Already) } else { self.with(|h| h.mirror = None) }
    }

    /// Tells whether an owner who starts anew takes no write yet: another host is named, and may have writes
    /// that this one lacks.
    pub fn is_mirrored_elsewhere(&self, me: HostId) -> bool {
        self.mirror.as_ref().is_some_and(|mirror| mirror.host.id != me)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::heads_for_tests::{born, host, recording, to};
    use super::super::ownership::{Claimer, Recording};
    use super::*;
    use crate::head::other_hosts::{ClaimBasis, MirrorAccess};
    use windlass_base::Kind;

    /// Returns the epoch of the n-th claim here.
    fn e(n: u64) -> Epoch {
        Epoch(n << 32 | n)
    }

    /// Model `mirror`: name, end, take, open, bare.
    #[test]
    fn a_head_that_names_a_mirror_is_taken_over_by_who_has_it() {
        let (a, b, c) = (host(1), host(2), host(3));
        let born = born();
        let none = BTreeSet::new();
        let who = |host, nonce: u128, lineage, mirror| {
            let (nonce, floor) = (Nonce(nonce), Epoch(0));
            Claimer {
                host,
                nonce,
                now_ms: 0,
                lineage,
                seen: None,
                overtakes: None,
                force: true,
                shows: false,
                floor,
                mirror,
            }
        };
        let access = |closed: Option<u64>, given_up| MirrorAccess { closed: closed.map(e), given_up };
        let nothing = access(None, false);
        let owned = to(to(born.claim(&who(&a, 1, &none, nothing))).record(&recording(1, 0)));
        assert_eq!(owned.ground(&who(&c, 9, &none, nothing)).unwrap(), ClaimBasis::Bare);
        assert!(owned.name_mirror(e(2), &b, Nonce(7)).unwrap_err().is(Kind::Fenced));
        let named = to(owned.name_mirror(e(1), &b, Nonce(7)));
        assert_eq!(named.name_mirror(e(1), &b, Nonce(7)).unwrap(), Move::Already);
        assert!(matches!(named.name_mirror(e(1), &b, Nonce(8)).unwrap(), Move::To(_)), "it is written anew");
        assert_eq!(Head::decode(&named.encode().unwrap()).unwrap(), named);
        assert!(named.is_mirrored_elsewhere(a.id) && !named.is_mirrored_elsewhere(b.id));
        // Who has nothing, or another session, or one that still takes records, is refused with the name of who has it.
        for (host, closed) in [(&c, None), (&c, Some(1)), (&b, None), (&b, Some(2))] {
            let refused = named.claim(&who(host, 2, &none, access(closed, false))).unwrap_err();
            assert!(refused.is(Kind::Refused) && refused.to_string().contains("host2"), "{refused}");
            assert!(refused.to_string().contains("--accept-loss"), "{refused}");
        }
        let own = BTreeSet::from([e(1)]);
        assert_eq!(named.ground(&who(&a, 2, &own, nothing)).unwrap(), ClaimBasis::Own);
        let anew = to(to(named.claim(&who(&a, 2, &own, nothing))).record(&recording(2, 0)));
        assert_eq!(
            anew.mirror.as_ref().map(|m| m.session),
            Some(e(1)),
            "the owner starts anew and leaves it"
        );
        let by_mirror = who(&b, 3, &none, access(Some(1), false));
        assert_eq!(anew.ground(&by_mirror).unwrap(), ClaimBasis::Mirror(e(1)));
        let claimed = to(anew.claim(&by_mirror));
        assert!(
            claimed.name_mirror(e(2), &b, Nonce(9)).unwrap_err().is(Kind::Fenced),
            "none is named under a claim"
        );
        assert!(claimed.end_mirror(e(2)).unwrap_err().is(Kind::Fenced));
        let taken = to(claimed.record(&recording(3, 0)));
        assert!(taken.mirror.is_some() && !taken.is_mirrored_elsewhere(b.id));
        assert!(
            taken.claim(&who(&c, 4, &none, nothing)).is_err(),
            "what it took over may be in its journal alone"
        );
        let ended = to(taken.end_mirror(e(3)));
        assert_eq!(ended.end_mirror(e(3)).unwrap(), Move::Already);
        assert_eq!(ended.ground(&who(&c, 4, &none, nothing)).unwrap(), ClaimBasis::Bare);
        let forced = who(&c, 5, &none, access(None, true));
        assert_eq!(taken.ground(&forced).unwrap(), ClaimBasis::Forced);
        let record = Recording { gives_up_mirror: true, ..recording(5, 0) };
        assert!(to(to(taken.claim(&forced)).record(&record)).mirror.is_none());
        assert!(to(taken.release(e(3))).mirror.is_none(), "all is in the pool");
    }
}
