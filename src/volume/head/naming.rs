//! Where a volume is found: its name, the pool in which it went on, the host that wants it, and the host that has its newest writes.

use serde::{Deserialize, Serialize};

use super::settings::{Host, VolumeSettings, is_default};
use crate::base::{Epoch, Error, HostId, Kind, Lsn, Name, Nonce, Result, VolumeId};

/// Which of the directory's entries is the volume's name (model `rename`): the one of this name and serial. As it was born:
/// the only one, of serial 0.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Naming {
    /// `None`: it was never renamed. A volume in the trash has one that says so.
    #[serde(deserialize_with = "Name::deserialize_stored")]
    pub name: Option<Name>,
    pub serial: u64,
    /// Entries with serials up to this one are the name, or dead for ever.
    pub round: u64,
}

impl Naming {
    pub fn in_trash(&self) -> bool {
        self.name.as_ref().is_some_and(|name| name.trashed().is_some())
    }

    /// `Removed`: the volume went on in another pool, or is in the trash.
    pub fn check_here(&self, moved: Option<&Moved>) -> Result<()> {
        match (moved, self.in_trash()) {
            (Some(moved), _) => Err(moved.refusal()),
            (None, true) => {
                let why = "it is in the trash: `windlass volume restore` brings it back";
                Err(Error::new(Kind::Removed, why))
            }
            (None, false) => Ok(()),
        }
    }

    /// `NotFound` for a name in the trash that is not the volume's any more: it was brought back. Others may be old ones.
    pub fn check_trashed(&self, name: &Name) -> Result<()> {
        match name.trashed().is_none() || self.name.as_ref() == Some(name) {
            true => Ok(()),
            false => Err(Error::new(Kind::NotFound, format!("{name} was brought back just now"))),
        }
    }
}

/// What an entry of the directory is to the volume that it leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameStanding {
    /// The volume's name.
    Current,
    /// It was its name, or never came to be; it never will be.
    Dead,
    /// It may become its name: a rename is under way, or was broken off.
    Pending,
}

/// The volume of another pool that this one is now (model `move`). What stays behind is what it was then: nobody writes to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// As the host that moved it calls the pool.
    pub pool: Name,
    pub volume: VolumeId,
    /// The name that it has there, or is to have.
    pub name: Name,
    pub at_ms: u64,
}

/// A volume that is about to be left, as it was copied.
#[derive(Clone, Debug)]
pub struct Leaving {
    pub to: Moved,
    pub size: u64,
    pub settings: VolumeSettings,
    pub naming: Naming,
    /// The last record that the copy has.
    pub last: Lsn,
}

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

impl Moved {
    /// Why it is not opened any more.
    pub fn refusal(&self) -> Error {
        let at = crate::base::utc::show(self.at_ms);
        Error::new(
            Kind::Removed,
            format!("it was moved to {}/{} at {at}: use it there", self.pool, self.name),
        )
    }

    /// May the volume be removed for good? Not before its copy is known to have its name, which the trash tells.
    pub fn may_end(moved: Option<&Moved>, naming: &Naming) -> Result<()> {
        match moved.is_some() && !naming.in_trash() {
            true => Err(Error::new(Kind::Refused, "its move to another pool is not over: move it again")),
            false => Ok(()),
        }
    }
}
