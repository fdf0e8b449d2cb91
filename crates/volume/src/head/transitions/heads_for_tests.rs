//! Heads that the tests of transitions begin with.

use std::collections::BTreeSet;

use super::ownership::{Claimer, Recording};
use crate::head::head_value::{Head, Move};
use crate::head::other_hosts::MirrorAccess;
use crate::head::settings::{Host, VolumeSettings};
use windlass_base::{Epoch, HostId, Incarnation, Nonce, Result, Seq, VolumeId};

pub fn host(n: u128) -> Host {
    Host { id: HostId(n), name: format!("host{n}") }
}

pub fn born() -> Head {
    Head::new(VolumeId(7), 1_000, 1 << 30, VolumeSettings::default(), 5, vec![Incarnation(1)])
}

pub fn to(step: Result<Move>) -> Head {
    match step.unwrap() {
        Move::To(head) => *head,
        Move::Already => panic!("it has not happened yet"),
    }
}

pub fn claimer<'a>(host: &'a Host, nonce: u128, lineage: &'a BTreeSet<Epoch>) -> Claimer<'a> {
    Claimer {
        host,
        nonce: Nonce(nonce),
        now_ms: 2_000,
        lineage,
        seen: None,
        overtakes: None,
        force: false,
        shows: false,
        floor: Epoch(0),
        mirror: MirrorAccess::default(),
    }
}

pub fn recording(nonce: u128, last: u64) -> Recording {
    Recording {
        nonce: Nonce(nonce),
        last: Seq(last),
        w: 5,
        witnesses: vec![Incarnation(1)],
        gives_up_mirror: false,
    }
}

/// Claims for a host that has nothing to do with the volume, and whose id is the nonce.
pub fn claim(head: &Head, nonce: u128, force: bool) -> Result<Move> {
    let (host, lineage) = (Host { id: HostId(nonce), name: "host".into() }, BTreeSet::new());
    let (nonce, floor, mirror) = (Nonce(nonce), Epoch(0), MirrorAccess::default());
    head.claim(&Claimer {
        host: &host,
        nonce,
        now_ms: 0,
        lineage: &lineage,
        seen: None,
        overtakes: None,
        force,
        shows: false,
        floor,
        mirror,
    })
}

/// The epoch under which the head of `owned` has an owner.
pub const OWNED: Epoch = Epoch(1 << 32 | 11);

/// Returns a head that host 1 owns.
pub fn owned() -> Head {
    let (h, none) = (host(1), BTreeSet::new());
    let claimed = to(born().claim(&claimer(&h, 11, &none)));
    to(claimed.record(&recording(11, 0)))
}
