//! What a head says of the volume's name.

use serde::{Deserialize, Serialize};

use crate::base::{Error, Kind, Name, Result};

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
