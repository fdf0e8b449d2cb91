//! How a volume and a snapshot are named: `POOL/VOLUME`, `POOL/VOLUME@SNAPSHOT`.

#[cfg(test)]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use windlass_base::{Error, Kind, Name, Result};

/// `POOL/VOLUME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(test, derive(JsonSchema))]
pub struct VolumePath {
    pub pool: Name,
    pub volume: Name,
}

/// `POOL/VOLUME@SNAPSHOT`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(test, derive(JsonSchema))]
pub struct SnapshotPath {
    pub volume: VolumePath,
    pub snapshot: Name,
}

impl std::str::FromStr for VolumePath {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s.split_once('/') {
            Some((_, volume)) if volume.contains('@') => {
                let why = format!("{s:?} is a snapshot: a volume is POOL/VOLUME, without @ and what follows");
                Err(Error::new(Kind::Usage, why))
            }
            Some((pool, volume)) => Ok(VolumePath { pool: pool.parse()?, volume: volume.parse()? }),
            None => Err(Error::new(Kind::Usage, format!("{s:?} does not name a volume: write POOL/VOLUME"))),
        }
    }
}

impl std::str::FromStr for SnapshotPath {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s.split_once('@') {
            Some((volume, snapshot)) => {
                Ok(SnapshotPath { volume: volume.parse()?, snapshot: snapshot.parse()? })
            }
            None => Err(Error::new(
                Kind::Usage,
                format!("{s:?} does not name a snapshot: write POOL/VOLUME@SNAPSHOT"),
            )),
        }
    }
}

/// Parses a path that commands and engines tell each other. It may also name a volume that is being imported, which
/// no user does.
impl TryFrom<String> for VolumePath {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        VolumePath::of_volume(&s)
    }
}

impl VolumePath {
    /// Parses `POOL/VOLUME`; the volume may be one that is being imported.
    pub fn of_volume(text: &str) -> Result<VolumePath> {
        match text.split_once('/') {
            Some((pool, volume)) => Ok(VolumePath { pool: pool.parse()?, volume: Name::of_volume(volume)? }),
            None => text.parse(),
        }
    }

    /// Returns the path of this volume until all of its image is in it.
    #[must_use]
    pub fn while_imported(&self) -> VolumePath {
        VolumePath { pool: self.pool.clone(), volume: self.volume.while_imported() }
    }
}

impl TryFrom<String> for SnapshotPath {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl std::fmt::Display for VolumePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.pool, self.volume)
    }
}

impl std::fmt::Display for SnapshotPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.volume, self.snapshot)
    }
}

impl From<VolumePath> for String {
    fn from(p: VolumePath) -> String {
        p.to_string()
    }
}

impl From<SnapshotPath> for String {
    fn from(p: SnapshotPath) -> String {
        p.to_string()
    }
}
