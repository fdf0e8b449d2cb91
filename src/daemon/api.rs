//! What a command asks of an engine and what it answers: one line of JSON each way over the control socket,
//! or the same values by a call when the command runs the engine itself.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::{Error, Kind, Name, Result};

/// Version of the control protocol, the `v` of every line.
pub const VERSION: u32 = 1;
/// Longest request that a daemon reads, in bytes.
pub const REQUEST_MAX: usize = 4 << 20;
/// Longest answer that a command reads, in bytes: listings of some hundred thousand volumes.
pub const ANSWER_MAX: usize = 256 << 20;

/// `POOL/VOLUME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumePath {
    pub pool: Name,
    pub volume: Name,
}

/// `POOL/VOLUME@SNAPSHOT`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotPath {
    pub volume: VolumePath,
    pub snapshot: Name,
}

impl std::str::FromStr for VolumePath {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s.split_once('/') {
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

impl TryFrom<String> for VolumePath {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
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

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolCreate {
    pub name: Name,
    /// `URL[,zone=Z]` each.
    pub stores: Vec<String>,
    pub layout: Option<String>,
    pub ack_zone: bool,
    /// A duration or `never`.
    pub degrade_after: Option<String>,
    pub force: bool,
    pub if_absent: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForceRecover {
    pub name: Name,
    /// What is lost, and `URL[,zone=Z]` of what takes its place.
    pub swaps: Vec<(String, String)>,
    pub force: bool,
    pub dry_run: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeCreate {
    pub path: VolumePath,
    pub size: u64,
    /// `KEY=VALUE` each, as for `VolumeSet`.
    pub settings: Vec<String>,
    pub if_absent: bool,
}

/// How fast a scrub or repair reads the stores.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ScrubRequest {
    /// Bytes a second; 0: as fast as it goes.
    pub rate: u64,
    /// From the beginning, also where an earlier one was cut off.
    pub restart: bool,
}

/// Everything that can be asked of an engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", content = "args", rename_all = "kebab-case")]
pub enum Verb {
    PoolCreate(PoolCreate),
    PoolAdd {
        name: Name,
        stores: Vec<String>,
    },
    PoolList,
    PoolStatus {
        name: Name,
    },
    PoolSet {
        name: Name,
        /// `KEY=VALUE` each.
        assignments: Vec<String>,
    },
    PoolForget {
        name: Name,
        if_exists: bool,
    },
    PoolScrub {
        name: Name,
        scrub: ScrubRequest,
    },
    PoolRepair {
        name: Name,
        scrub: ScrubRequest,
    },
    PoolReplace {
        name: Name,
        old: String,
        /// `URL[,zone=Z]`.
        new: String,
        force: bool,
    },
    PoolForceRecover(ForceRecover),
    VolumeCreate(VolumeCreate),
    VolumeList {
        pool: Option<Name>,
    },
    VolumeInfo {
        path: VolumePath,
    },
    VolumeSet {
        path: VolumePath,
        /// `KEY=VALUE` each.
        assignments: Vec<String>,
    },
    VolumeRelease {
        path: VolumePath,
    },
    VolumeCheck {
        path: VolumePath,
    },
    VolumeCollect {
        path: VolumePath,
    },
    VolumeTakeOver {
        path: VolumePath,
        accept_loss: bool,
    },
    VolumeSalvage {
        journal: String,
        to: VolumePath,
        force: bool,
    },
    VolumeRemove {
        path: VolumePath,
        if_exists: bool,
        dry_run: bool,
    },
    SnapshotCreate {
        paths: Vec<SnapshotPath>,
        no_wait: bool,
        if_absent: bool,
    },
    SnapshotList {
        path: VolumePath,
        /// Where sums with older ones begin.
        from: Option<Name>,
    },
    SnapshotRemove {
        path: SnapshotPath,
        if_exists: bool,
        dry_run: bool,
    },
    Clone {
        from: SnapshotPath,
        to: VolumePath,
        if_absent: bool,
    },
    Mount {
        url: String,
        dir: String,
        options: Vec<String>,
    },
    Unmount {
        dir: String,
    },
    /// Answers when the mount is gone.
    MountEnded {
        dir: String,
    },
    /// Mounts, and the files that earlier ones could not store.
    MountList,
    /// Copies the files that are kept of a bucket into a folder.
    MountExport {
        url: String,
        to: String,
    },
    /// Drops them.
    MountDrop {
        url: String,
        dry_run: bool,
    },
    Status,
}

/// A request line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    pub v: u32,
    #[serde(flatten)]
    pub verb: Verb,
}

/// How far a long verb has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub doing: String,
    pub done: u64,
    /// 0: not known.
    pub total: u64,
}

/// What a verb gave. `degraded`: done, but something needs attention (exit code 7).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub value: serde_json::Value,
    /// Sentences for people.
    #[serde(default)]
    pub notes: Vec<String>,
    #[serde(default)]
    pub degraded: bool,
}

impl Outcome {
    pub fn of(value: &impl Serialize) -> Result<Outcome> {
        let value = serde_json::to_value(value)
            .map_err(|e| Error::new(Kind::Internal, "an answer cannot be written as JSON").because(e))?;
        Ok(Outcome { value, ..Outcome::default() })
    }

    /// The answer in its verb's own type, of `daemon::answers`.
    pub fn answer<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.value).map_err(|e| {
            let why = "the answer is not understood: if the daemon is of another version, restart it";
            Error::new(Kind::Internal, why).because(e)
        })
    }

    #[must_use]
    pub fn note(mut self, sentence: impl Into<String>) -> Outcome {
        self.notes.push(sentence.into());
        self
    }

    #[must_use]
    pub fn note_all(mut self, sentences: impl IntoIterator<Item = String>) -> Outcome {
        self.notes.extend(sentences);
        self
    }

    #[must_use]
    pub fn degraded(mut self, yes: bool) -> Outcome {
        self.degraded = yes;
        self
    }
}

/// A reply line: any number of `progress` and `says`, then one of the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Progress(Progress),
    /// A sentence for people while it goes on.
    Says(String),
    Result(Outcome),
    Error {
        kind: Kind,
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_parse_and_print() {
        let path: SnapshotPath = "p/v@s".parse().unwrap();
        assert_eq!(path.to_string(), "p/v@s");
        for bad in ["p", "p/v", "p@s", "/v@s", "p/@s", "p/v@", "p/v/w@s"] {
            assert!(bad.parse::<SnapshotPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_have_the_shape_of_the_control_protocol() {
        let verb = Verb::VolumeInfo { path: "p/v".parse().unwrap() };
        let line = serde_json::to_string(&Request { v: VERSION, verb }).unwrap();
        assert_eq!(line, r#"{"v":1,"verb":"volume-info","args":{"path":"p/v"}}"#);
        let unit: Request = serde_json::from_str(r#"{"v":1,"verb":"status"}"#).unwrap();
        assert!(matches!(unit.verb, Verb::Status));
        assert!(
            serde_json::from_str::<Request>(r#"{"v":1,"verb":"volume-info","args":{"path":"P/v"}}"#).is_err()
        );
    }
}
