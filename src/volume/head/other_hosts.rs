//! Hosts beside the owner: the one that wants the volume, the one that has its newest writes, and what a claim of another rests on.

use serde::{Deserialize, Serialize};

use super::settings::{Host, is_default};
use crate::base::{Epoch, Error, HostId, Kind, Nonce, Result};

/// Another host that has the volume attached, or asks its owner for it. A hint: what answers it is a release, and all that
/// decides who owns a volume is said by claims.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wanted {
    pub host: Host,
    /// Drawn anew each time that the host says so: one that doesn't change any more is out of date.
    pub nonce: Nonce,
    /// The ownership that is asked to let go. None: the volume is attached, and nobody has used it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub asks: Option<Epoch>,
    /// How often the owner has said that it is on the way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub heard: u64,
}

/// The host whose journal must be asked before the volume goes elsewhere: what was flushed is in the pool, or there (model
/// `mirror`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mirror {
    pub host: Host,
    /// The ownership under which that host got its records.
    pub session: Epoch,
    /// Drawn each time that it is named: what is named again is written again, so that an earlier change of the owner's whose answer
    /// was lost can't come through behind it.
    pub nonce: Nonce,
}

/// What a host that was never the owner has of a mirror, or does without.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MirrorAccess {
    /// A session of this host's that takes no more records.
    pub closed: Option<Epoch>,
    /// The user gives up what only journals of other hosts have.
    pub given_up: bool,
}

/// What a claim rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimBasis {
    /// The journal of the ownership that ends is this host's.
    Own,
    /// This session of this host's.
    Mirror(Epoch),
    /// No host has flushed writes that the pool lacks, as far as the head tells.
    Bare,
    /// What another host's journal has is given up.
    Forced,
}

impl MirrorAccess {
    /// Judged on the head that the claim replaces.
    pub(super) fn ground(&self, named: Option<&Mirror>, me: HostId) -> Result<ClaimBasis> {
        match named {
            None => Ok(ClaimBasis::Bare),
            Some(named) if named.host.id == me && self.closed == Some(named.session) => {
                Ok(ClaimBasis::Mirror(named.session))
            }
            Some(_) if self.given_up => Ok(ClaimBasis::Forced),
            Some(named) => Err(named.refusal(me)),
        }
    }
}

impl Mirror {
    fn refusal(&self, me: HostId) -> Error {
        let host = &self.host;
        let why = match host.id == me {
            true => format!(
                "its flushed writes are mirrored to this host ({host}), by records that are not here any more: the disk or the state \
                 folder was lost. Open it on its owner instead"
            ),
            false => format!(
                "its flushed writes are in a journal of {host}: take the volume over there, or open it on its owner if that has its journal yet"
            ),
        };
        let force =
            "`windlass volume take-over --accept-loss` gives up the flushed writes that are only there";
        Error::new(Kind::Refused, format!("{why}. If both hosts are gone, {force}"))
    }
}
