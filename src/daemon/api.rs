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

/// What commands and engines tell each other may also name a volume that is being imported; no user does.
impl TryFrom<String> for VolumePath {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        VolumePath::of_volume(&s)
    }
}

impl VolumePath {
    /// `POOL/VOLUME`; the volume may be one that is being imported.
    pub fn of_volume(text: &str) -> Result<VolumePath> {
        match text.split_once('/') {
            Some((pool, volume)) => Ok(VolumePath { pool: pool.parse()?, volume: Name::of_volume(volume)? }),
            None => text.parse(),
        }
    }

    /// The same volume, as it is called until all of its image is in it.
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
pub struct PoolDestroy {
    pub name: Name,
    /// The pool's name once more: nothing is deleted without it.
    pub confirmed: Option<Name>,
    /// Also when a store is away, which keeps its contents, or when nobody can tell who uses the pool.
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

/// Clones that are made of one snapshot by one command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloneMany {
    pub from: SnapshotPath,
    pub count: u32,
    /// Their names; `{n}` stands for 1, 2, … up to `count`.
    pub pattern: String,
    pub if_absent: bool,
}

/// What stands for a clone's number in the pattern of its name.
const NUMBER: &str = "{n}";
/// Most clones of one command.
const CLONES_MAX: u32 = 10_000;

impl CloneMany {
    /// The clones' paths, in order of their numbers.
    ///
    /// # Errors
    /// `Usage`: there are none or too many of them, two would have the same name, or one of the names is none.
    pub fn paths(&self) -> Result<Vec<VolumePath>> {
        let bad = |why: String| Err(Error::new(Kind::Usage, why));
        if !(1..=CLONES_MAX).contains(&self.count) {
            return bad(format!("--count {} is not possible: use 1 to {CLONES_MAX}", self.count));
        }
        if !self.pattern.contains(NUMBER) {
            return bad(format!("--name {:?} gives all clones one name: put {NUMBER} into it", self.pattern));
        }
        let path = |n: u32| {
            let volume = self.pattern.replace(NUMBER, &n.to_string()).parse()?;
            Ok(VolumePath { pool: self.from.volume.pool.clone(), volume })
        };
        (1..=self.count).map(path).collect()
    }
}

/// What becomes of what is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoveMode {
    /// It goes into the trash, where the pool has one.
    #[default]
    Trash,
    /// It goes at once.
    Now,
    /// What is in the trash under that name goes at once.
    FromTrash,
}

/// A drill: one store of a pool is cut off.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoseStore {
    pub name: Name,
    /// Its URL; none: the last one.
    pub store: Option<String>,
    pub for_ms: u64,
    /// Also where I/O would wait without it.
    pub force: bool,
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
    PoolDestroy(PoolDestroy),
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
    DrillLoseStore(LoseStore),
    VolumeCreate(VolumeCreate),
    VolumeList {
        pool: Option<Name>,
        /// Those that are being imported, which are left out otherwise.
        #[serde(default)]
        importing: bool,
    },
    /// Volumes in the trash.
    VolumeTrash {
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
    VolumeRename {
        path: VolumePath,
        to: Name,
    },
    VolumeRelease {
        path: VolumePath,
    },
    VolumeRollBack {
        to: SnapshotPath,
        /// What the volume held since stays as its snapshot of this name.
        keep: Option<Name>,
        /// Clients are hung up on.
        disconnect: bool,
    },
    VolumeResize {
        path: VolumePath,
        size: u64,
        /// Clients are hung up on, to connect again.
        disconnect: bool,
    },
    VolumeFlatten {
        path: VolumePath,
        /// Bytes a second; 0: as fast as it goes.
        rate: u64,
    },
    VolumeHistory {
        path: VolumePath,
    },
    /// The newest snapshot that was not taken after this moment.
    SnapshotAt {
        path: VolumePath,
        at_ms: u64,
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
        mode: RemoveMode,
    },
    VolumeRestore {
        path: VolumePath,
        /// Its name from then on; none: the one that it had.
        to: Option<Name>,
    },
    SnapshotCreate {
        paths: Vec<SnapshotPath>,
        no_wait: bool,
        if_absent: bool,
    },
    /// Waits until snapshots that were taken are in the pool.
    SnapshotPromise {
        paths: Vec<SnapshotPath>,
    },
    SnapshotList {
        path: VolumePath,
        /// Where sums with older ones begin.
        from: Option<Name>,
    },
    /// Snapshots in the trash.
    SnapshotTrash {
        path: VolumePath,
    },
    SnapshotRemove {
        path: SnapshotPath,
        if_exists: bool,
        dry_run: bool,
        mode: RemoveMode,
    },
    SnapshotRestore {
        path: SnapshotPath,
        to: Option<Name>,
    },
    Clone {
        from: SnapshotPath,
        to: VolumePath,
        if_absent: bool,
    },
    CloneMany(CloneMany),
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
    /// What `top` and the page show, again and again: it costs stores next to nothing.
    Watch,
    /// Whether the engine is alive: it answers when none of its tables is stuck, whatever the stores do.
    Ping,
}

impl Verb {
    /// What the engine of mounts that began without a daemon does. It must not touch pools and volumes, which are the
    /// daemon's.
    pub fn is_of_mounts(&self) -> bool {
        matches!(
            self,
            Verb::Mount { .. }
                | Verb::Unmount { .. }
                | Verb::MountEnded { .. }
                | Verb::MountList
                | Verb::MountExport { .. }
                | Verb::MountDrop { .. }
                | Verb::Ping
        )
    }
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
    fn the_names_of_many_clones_are_checked_before_any_is_made() {
        let many = |count, pattern: &str| {
            let from = "p/v@s".parse().unwrap();
            CloneMany { from, count, pattern: pattern.into(), if_absent: false }.paths()
        };
        let names = |paths: Vec<VolumePath>| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(many(3, "web-{n}").unwrap()), ["p/web-1", "p/web-2", "p/web-3"]);
        assert_eq!(names(many(1, "{n}.{n}").unwrap()), ["p/1.1"]);
        assert_eq!(many(10_000, "w{n}").unwrap().len(), 10_000);
        let long = format!("{}{{n}}", "x".repeat(62));
        assert_eq!(many(9, &long).unwrap().len(), 9);
        for (count, pattern) in [(0, "w{n}"), (10_001, "w{n}"), (3, "web"), (3, "W{n}"), (3, ""), (10, &long)]
        {
            assert!(many(count, pattern).unwrap_err().is(Kind::Usage), "{count} {pattern}");
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
