//! Hosts beside the owner: the one that wants the volume, the one that has its newest writes, and what a claim of another rests on.

use serde::{Deserialize, Serialize};

use super::settings::{Host, is_default};
use windlass_base::{Epoch, Error, HostId, Kind, Nonce, Result};

/// Another host that has the volume attached, or asks its owner for it. The value is a hint: the owner
/// answers it with a release, and who owns a volume is decided by claims alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wanted {
    pub host: Host,
    /// Drawn anew each time that the host says so: a value that doesn't change any more is out of date.
    pub nonce: Nonce,
    /// The ownership that is asked to let go. None: the volume is attached, and nobody has used it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub asks: Option<Epoch>,
    /// Number of times that the owner has said that it is on the way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub heard: u64,
}

/// The host whose journal must be asked before the volume goes elsewhere: what was flushed is in the pool, or
/// in that journal (model `mirror`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mirror {
    pub host: Host,
    /// The ownership under which that host got its records.
    pub session: Epoch,
    /// Drawn each time that the host is named, so that naming it again writes the head again. An earlier
    /// change of the owner's whose answer was lost can't come through behind that.
    pub nonce: Nonce,
}

/// The access that a host which was never the owner has to a mirror, or its consent to do without.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MirrorAccess {
    /// A mirror session on this host that takes no more records.
    pub closed: Option<Epoch>,
    /// Is true if the user gives up what only journals of other hosts have.
    pub given_up: bool,
}

/// The ground on which a claim is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimBasis {
    /// The journal of the ownership that ends is this host's.
    Own,
    /// A mirror session on this host, of this ownership, has the flushed writes.
    Mirror(Epoch),
    /// No host has flushed writes that the pool lacks, as far as the head tells.
    Bare,
    /// The user gives up what another host's journal has.
    Forced,
}

impl MirrorAccess {
    /// Returns the ground of a claim by the host `me`, judged on the head that the claim replaces. `named`:
    /// the mirror in that head.
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
