//! Where a volume is found: its name, and the pool in which it went on.

use serde::{Deserialize, Serialize};

use super::settings::VolumeSettings;
use windlass_base::{Error, Kind, Lsn, Name, Result, VolumeId};

/// The entry of the pool's directory that is the volume's name (model `rename`): the one of this name and
/// serial. A volume as it was born has that entry alone, of serial 0.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Naming {
    /// The name; `None`: the volume was never renamed. A name in the trash shows that it is one.
    #[serde(deserialize_with = "Name::deserialize_stored")]
    pub name: Option<Name>,
    pub serial: u64,
    /// Serial up to which every entry of the directory is the name, or dead for ever.
    pub round: u64,
}

impl Naming {
    pub fn in_trash(&self) -> bool {
        self.name.as_ref().is_some_and(|name| name.trashed().is_some())
    }

    /// Fails with `Removed` if the volume went on in another pool, or is in the trash.
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

    /// Fails with `NotFound` for a name in the trash that is not the volume's any more, since the volume was
    /// brought back. Names that are not in the trash pass, although they may be old ones.
    pub fn check_trashed(&self, name: &Name) -> Result<()> {
        match name.trashed().is_none() || self.name.as_ref() == Some(name) {
            true => Ok(()),
            false => Err(Error::new(Kind::NotFound, format!("{name} was brought back just now"))),
        }
    }
}

/// The standing of a directory entry with the volume that it leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameStanding {
    /// The volume's name.
    Current,
    /// The entry was the volume's name, or never came to be, and it never will be.
    Dead,
    /// The entry may become the volume's name: a rename is under way, or was broken off.
    Pending,
}

/// The volume of another pool that this one is now (model `move`). What stays behind is what it was at the
/// move: nobody writes to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// The pool's name, as the host that moved the volume calls it.
    pub pool: Name,
    pub volume: VolumeId,
    /// The name that the volume has in that pool, or is to have.
    pub name: Name,
    pub at_ms: u64,
}

/// A volume that is about to be left, as it was when it was copied.
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
    /// Makes the error that says why the volume is not opened any more.
    pub fn refusal(&self) -> Error {
        let at = windlass_base::utc::show(self.at_ms);
        Error::new(
            Kind::Removed,
            format!("it was moved to {}/{} at {at}: use it there", self.pool, self.name),
        )
    }

    /// Checks whether the volume may be removed for good. A moved one may not before its copy is known to
    /// have its name, which the trash tells.
    pub fn may_end(moved: Option<&Moved>, naming: &Naming) -> Result<()> {
        match moved.is_some() && !naming.in_trash() {
            true => Err(Error::new(Kind::Refused, "its move to another pool is not over: move it again")),
            false => Ok(()),
        }
    }
}
