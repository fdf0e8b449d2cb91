//! How another host asks a volume's owner for it, and what the owner answers (model `handover`).

use crate::head::head_value::{Head, Move};
use crate::head::other_hosts::Wanted;
use crate::head::settings::{HandoverPolicy, Host};
use windlass_base::{Epoch, Error, HostId, Kind, Nonce, Result};

impl Head {
    /// Returns the host that asks the present owner for the volume.
    pub fn asked(&self) -> Option<&Wanted> {
        self.wanted.as_ref().filter(|wanted| wanted.asks == Some(self.active.epoch) && !self.active.released)
    }

    /// Notes that another host has the volume attached. Changes nothing where nobody owns the volume, or
    /// somebody asks for it already.
    pub fn attach(&self, host: &Host, nonce: Nonce) -> Result<Move> {
        let is_mine = self.active.owner.as_ref().is_some_and(|owner| owner.id == host.id);
        let is_said = self.wanted.as_ref().is_some_and(|wanted| wanted.nonce == nonce);
        if self.removed || self.active.released || is_mine || is_said || self.asked().is_some() {
            return Ok(Move::Already);
        }
        self.with(|h| h.wanted = Some(Wanted { host: host.clone(), nonce, asks: None, heard: 0 }))
    }

    /// Asks the owner for the volume, for this host. Changes nothing where somebody has asked already, or
    /// nobody owns the volume by now. `Owned`: its owner does not give it up.
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

    /// Notes that the owner is on the way to let go of the volume, and says so once more.
    pub fn hear(&self, epoch: Epoch, times: u64) -> Result<Move> {
        self.owned(epoch)?;
        match self.asked() {
            Some(wanted) if wanted.heard < times => {
                self.with(|h| h.wanted.iter_mut().for_each(|wanted| wanted.heard = times))
            }
            _ => Ok(Move::Already),
        }
    }

    /// Makes the error of a host that is not given the volume, since nobody has answered its ask for so many
    /// seconds.
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
}

#[cfg(test)]
mod tests {
    use super::super::heads_for_tests::{born, claim, recording, to};
    use super::*;

    /// Returns the epoch of the first claim here.
    fn first() -> Epoch {
        Epoch(0).after(Nonce(1))
    }

    #[test]
    fn an_ask_is_of_one_ownership() {
        let (a, b) = (Host { id: HostId(1), name: "a".into() }, Host { id: HostId(2), name: "b".into() });
        let born = born();
        let owned = to(to(claim(&born, 1, false)).record(&recording(1, 0)));
        assert!(owned.ask(&b, Nonce(2)).unwrap_err().is(Kind::Owned), "it is not to be handed over");
        let owned = to(owned.set_settings(Some(first()), &["handover=ask".to_owned()]));
        assert!(owned.ask(&a, Nonce(2)).unwrap_err().is(Kind::Owned), "nobody asks himself");
        assert_eq!(owned.attach(&a, Nonce(2)).unwrap(), Move::Already);
        let attached = to(owned.attach(&b, Nonce(2)));
        assert!(attached.wanted.is_some() && attached.asked().is_none());
        assert_eq!(attached.hear(first(), 1).unwrap(), Move::Already, "nobody asks");
        let asked = to(attached.ask(&b, Nonce(3)));
        assert_eq!(asked.asked().map(|wanted| wanted.nonce), Some(Nonce(3)));
        assert_eq!(asked.ask(&b, Nonce(4)).unwrap(), Move::Already);
        assert_eq!(asked.attach(&b, Nonce(4)).unwrap(), Move::Already, "an ask stays until it is answered");
        assert_eq!(Head::decode(&asked.encode().unwrap()).unwrap(), asked);
        let heard = to(asked.hear(first(), 1));
        assert_eq!((heard.hear(first(), 1).unwrap(), heard.asked().unwrap().heard), (Move::Already, 1));
        assert!(asked.hear(Epoch(2), 1).unwrap_err().is(Kind::Fenced));
        let why = heard.unanswered(b.id, 30).to_string();
        assert!(why.contains("host (host id") && why.contains("volume take-over"), "{why}");
        let released = to(heard.release(first()));
        assert!(
            released.asked().is_none() && released.wanted.is_some(),
            "who asks may look which ownership ended"
        );
        let next = to(to(claim(&released, 5, false)).record(&recording(5, 0)));
        assert!(next.wanted.is_none());
        // An ask that comes late, of an owner that is gone, is none of the next.
        let mut late = next;
        late.wanted = asked.wanted;
        assert!(late.asked().is_none());
    }
}
