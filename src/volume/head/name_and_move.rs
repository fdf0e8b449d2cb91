//! Where a volume is found: its name, and the pool in which it went on.

use serde::{Deserialize, Serialize};

use super::settings::VolumeSettings;
use crate::base::{Error, Kind, Lsn, Name, Result, VolumeId};

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
