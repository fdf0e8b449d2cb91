//! What a head says of where its volume goes: that it went on in another pool, or that another host wants it.

use serde::{Deserialize, Serialize};

use super::naming::Naming;
use super::settings::{Host, VolumeSettings, is_default};
use crate::base::{Epoch, Error, Kind, Lsn, Name, Nonce, Result, VolumeId};

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
