//! What a command asks of an engine and what it answers: one line of JSON each way over the control socket,
//! or the same values by a call when the command runs the engine itself.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

pub use super::volume_path::{SnapshotPath, VolumePath};
#[cfg(test)]
use schemars::JsonSchema;
use windlass_base::{Error, Kind, Name, Result};
use windlass_keys::{Offered, Passphrase, Secret};
use windlass_store::AccessKeys;

/// Version of the control protocol, the `v` of every line.
pub const VERSION: u32 = 1;
/// Longest request that a daemon reads, in bytes.
pub const REQUEST_MAX: usize = 4 << 20;
/// Longest answer that a command reads, in bytes: listings of some hundred thousand volumes.
pub const ANSWER_MAX: usize = 256 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PoolCreate {
    pub name: Name,
    /// `URL[,zone=Z]` each.
    pub stores: Vec<String>,
    pub layout: Option<String>,
    #[serde(default)]
    pub ack_zone: bool,
    /// A duration or `never`.
    pub degrade_after: Option<String>,
    /// How long what is removed can be brought back, or 0; 24h where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trash: Option<String>,
    #[serde(default)]
    pub force: bool,
    #[serde(default)]
    pub if_absent: bool,
    /// By which its labels and registers are signed; no passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<GivenKey>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ForceRecover {
    pub name: Name,
    /// What is lost, and `URL[,zone=Z]` of what takes its place.
    pub swaps: Vec<(String, String)>,
    #[serde(default)]
    pub force: bool,
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PoolDestroy {
    pub name: Name,
    /// The pool's name once more: nothing is deleted without it.
    pub confirmed: Option<Name>,
    /// Also when a store is away, which keeps its contents, or when nobody can tell who uses the pool.
    #[serde(default)]
    pub force: bool,
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeCreate {
    pub path: VolumePath,
    pub size: u64,
    /// `KEY=VALUE` each, as for `VolumeSet`.
    #[serde(default)]
    pub settings: Vec<String>,
    #[serde(default)]
    pub if_absent: bool,
    /// It is encrypted, and this opens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<GivenKey>,
}

/// A key or a passphrase on its way to an engine. Printed, it shows nothing of it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(JsonSchema))]
pub enum GivenKey {
    /// 32 bytes, in hexadecimal.
    Key(String),
    Passphrase(String),
}

impl std::fmt::Debug for GivenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GivenKey")
    }
}

impl Drop for GivenKey {
    fn drop(&mut self) {
        let (GivenKey::Key(text) | GivenKey::Passphrase(text)) = self;
        text.zeroize();
    }
}

impl GivenKey {
    pub fn of(offered: &Offered) -> Result<GivenKey> {
        match offered {
            Offered::Key(key) => Ok(GivenKey::Key(key.bytes().iter().map(|b| format!("{b:02x}")).collect())),
            Offered::Passphrase(words) => {
                let text = std::str::from_utf8(words.bytes());
                let text = text.map_err(|_| Error::new(Kind::Usage, "a passphrase is UTF-8 text"))?;
                Ok(GivenKey::Passphrase(text.to_owned()))
            }
        }
    }

    /// Decodes the key or passphrase. From then on this process leaves no core file.
    pub fn offered(&self) -> Result<Offered> {
        super::key_places::keep_out_of_cores();
        match self {
            GivenKey::Key(text) => Secret::read(text.as_bytes()).map(Offered::Key),
            GivenKey::Passphrase(text) => Passphrase::of(text.as_bytes()).map(Offered::Passphrase),
        }
    }
}

/// The keys of an encrypted volume are changed. Who does so opens it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct KeyChange {
    pub path: VolumePath,
    /// What opens the volume now.
    pub key: GivenKey,
    pub change: SlotChange,
}

/// What becomes of the slots.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(JsonSchema))]
pub enum SlotChange {
    /// This opens it too.
    Add(GivenKey),
    /// The slot that the key opens takes this instead.
    Replace(GivenKey),
    /// This slot opens it no more.
    Remove(u8),
}

/// Clones that are made of one snapshot by one command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CloneMany {
    pub from: SnapshotPath,
    pub count: u32,
    /// Their names; `{n}` stands for 1, 2, … up to `count`.
    pub pattern: String,
    #[serde(default)]
    pub if_absent: bool,
}

/// Placeholder that stands for a clone's number in the pattern of its name.
const NUMBER: &str = "{n}";
/// Largest number of clones that one command makes.
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
#[cfg_attr(test, derive(JsonSchema))]
pub enum RemoveMode {
    /// It goes into the trash, where the pool has one.
    #[default]
    Trash,
    /// It goes at once.
    Now,
    /// What is in the trash under that name goes at once.
    FromTrash,
}

/// A snapshot that is copied into another volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SnapshotCopy {
    pub from: SnapshotPath,
    pub to: VolumePath,
    /// What was written to the copy since the newest common snapshot goes.
    #[serde(default)]
    pub roll_back: bool,
    /// All of both is compared at the end, not only what has changed.
    #[serde(default)]
    pub verify_all: bool,
}

/// A snapshot by what is never used again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SameAs {
    /// The volume's id.
    pub volume: String,
    /// The snapshot's number in it.
    pub snapshot: u64,
    pub created_ms: u64,
}

/// A snapshot that nobody can remove for a while.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SnapshotLock {
    pub path: SnapshotPath,
    /// In ms since 1970.
    #[serde(default)]
    pub until_ms: Option<u64>,
    /// Instead of `until_ms`: from now on.
    #[serde(default)]
    pub for_ms: Option<u64>,
}

/// A volume of which a copy is brought up to date.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Replicate {
    pub from: VolumePath,
    pub to: VolumePath,
}

/// A volume that moves to another pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeMove {
    pub path: VolumePath,
    /// The pool.
    pub to: Name,
    /// Its snapshots stay with what it was.
    #[serde(default)]
    pub no_snapshots: bool,
    /// What an unfinished move has copied is given up instead.
    #[serde(default)]
    pub abort: bool,
}

/// A drill: one store of a pool is cut off.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LoseStore {
    pub name: Name,
    /// Its URL; none: the last one.
    pub store: Option<String>,
    pub for_ms: u64,
    /// Also where I/O would wait without it.
    #[serde(default)]
    pub force: bool,
}

/// Another daemon of this host that is to go on in place of the one that is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    /// The format of what is handed over that it reads.
    pub format: u32,
    /// Its version, for the log.
    pub version: String,
    /// The socket where it waits for it.
    pub socket: String,
}

/// Keys for stores that an engine has open or will open.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CredentialsSet {
    /// `profile:NAME`, a store's URL, or the name of a store of windlass.toml.
    pub target: String,
    pub keys: AccessKeys,
    /// The state folder keeps them for the next start.
    #[serde(default)]
    pub keep: bool,
    /// Also when a store refuses them.
    #[serde(default)]
    pub force: bool,
}

/// How fast a scrub or repair reads the stores.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ScrubRequest {
    /// Bytes a second; 0: as fast as it goes.
    #[serde(default)]
    pub rate: u64,
    /// From the beginning, also where an earlier one was cut off.
    #[serde(default)]
    pub restart: bool,
}

/// Everything that can be asked of an engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", content = "args", rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(test, derive(JsonSchema))]
pub enum Verb {
    /// Makes a pool on stores that hold none.
    PoolCreate(PoolCreate),
    /// Makes a pool that exists known to this host.
    PoolAdd {
        name: Name,
        stores: Vec<String>,
        /// The pool's, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<GivenKey>,
    },
    /// The pools that this host knows.
    PoolList,
    /// How a pool and its stores are.
    PoolStatus {
        name: Name,
        /// Walks over the heads of all volumes, so that what they take is exact: some requests for each.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        walk: bool,
    },
    /// Changes a pool's settings.
    PoolSet {
        name: Name,
        /// `KEY=VALUE` each.
        assignments: Vec<String>,
    },
    /// This host no longer knows the pool, which stays as it is.
    PoolForget {
        name: Name,
        #[serde(default)]
        if_exists: bool,
    },
    /// Deletes a pool with all that is in it.
    PoolDestroy(PoolDestroy),
    /// Reads what is stored and tells what is wrong with it.
    PoolScrub {
        name: Name,
        #[serde(default)]
        scrub: ScrubRequest,
    },
    /// The same, and mends what can be mended.
    PoolRepair {
        name: Name,
        #[serde(default)]
        scrub: ScrubRequest,
        /// Only writes lost labels of stores anew.
        #[serde(default)]
        labels: bool,
    },
    /// Moves what a store has, or should have, to another that takes its place.
    PoolReplace {
        name: Name,
        old: String,
        /// `URL[,zone=Z]`.
        new: String,
        #[serde(default)]
        force: bool,
    },
    /// Goes on with a pool that has lost more stores than it can decide without.
    PoolForceRecover(ForceRecover),
    /// Cuts a store off for a while and tells what clients saw.
    DrillLoseStore(LoseStore),
    /// Makes an empty volume.
    VolumeCreate(VolumeCreate),
    /// Volumes, those of one pool or of all.
    VolumeList {
        pool: Option<Name>,
        /// Those that are being imported, which are left out otherwise.
        #[serde(default)]
        importing: bool,
    },
    /// Volumes in the trash.
    VolumeTrash { pool: Option<Name> },
    /// All that is known of a volume.
    VolumeInfo {
        path: VolumePath,
        /// Counts its clones and names all of its ancestors: some requests for each.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        walk: bool,
    },
    /// Gives this engine the key of an encrypted volume, until it ends.
    VolumeUnlock { path: VolumePath, key: GivenKey },
    /// The key slots of an encrypted volume.
    VolumeKeys { path: VolumePath },
    /// Changes them.
    VolumeKeyChange(KeyChange),
    /// Seals an encrypted volume by a new data key, and what there is anew.
    VolumeKeyRotate {
        path: VolumePath,
        /// What opens it; none: as it is opened otherwise.
        key: Option<GivenKey>,
        /// Answers when the older data keys are gone; else when the new one is in force.
        #[serde(default)]
        wait: bool,
    },
    /// Changes a volume's settings.
    VolumeSet {
        path: VolumePath,
        /// `KEY=VALUE` each.
        assignments: Vec<String>,
    },
    /// Gives a volume another name in its pool.
    VolumeRename { path: VolumePath, to: Name },
    /// Brings a volume to another pool while it is used; its clients go on with it there, and what it was goes into the trash.
    VolumeMove(VolumeMove),
    /// Gives a volume that nobody uses up, so that another host can open it.
    VolumeRelease { path: VolumePath },
    /// Makes a volume what it was at a snapshot.
    VolumeRollBack {
        to: SnapshotPath,
        /// What the volume held since stays as its snapshot of this name.
        keep: Option<Name>,
        /// Clients are hung up on.
        #[serde(default)]
        disconnect: bool,
        /// By the command that holds the volume alone, and only while it does.
        #[serde(default)]
        held: bool,
    },
    /// Makes a volume larger.
    VolumeResize {
        path: VolumePath,
        size: u64,
        /// Clients are hung up on, to connect again.
        #[serde(default)]
        disconnect: bool,
    },
    /// Makes a clone stand without the snapshot that it was made from.
    VolumeFlatten {
        path: VolumePath,
        /// Bytes a second; 0: as fast as it goes.
        #[serde(default)]
        rate: u64,
    },
    /// The marks that a volume with `history` has made.
    VolumeHistory { path: VolumePath },
    /// The newest snapshot that was not taken after this moment.
    SnapshotAt { path: VolumePath, at_ms: u64 },
    /// Looks through a volume's own structures.
    VolumeCheck { path: VolumePath },
    /// Sums the bytes of a volume as it is now, or of one of its snapshots.
    VolumeChecksum {
        path: VolumePath,
        #[serde(default)]
        snapshot: Option<Name>,
    },
    /// Frees the space of what is no longer needed.
    VolumeCollect { path: VolumePath },
    /// Takes a volume from a host that is gone.
    VolumeTakeOver {
        path: VolumePath,
        #[serde(default)]
        accept_loss: bool,
    },
    /// Writes what a journal that was put aside still holds into a volume.
    VolumeSalvage {
        journal: String,
        to: VolumePath,
        #[serde(default)]
        force: bool,
    },
    /// Removes a volume, into the trash where the pool has one.
    VolumeRemove {
        path: VolumePath,
        #[serde(default)]
        if_exists: bool,
        #[serde(default)]
        dry_run: bool,
        #[serde(default)]
        mode: RemoveMode,
        /// Its snapshots go with it. Else a volume that has some is refused.
        #[serde(default)]
        with_snapshots: bool,
    },
    /// Brings a volume back from the trash.
    VolumeRestore {
        path: VolumePath,
        /// Its name from then on; none: the one that it had.
        to: Option<Name>,
    },
    /// Takes snapshots, of several volumes at one moment.
    SnapshotCreate {
        paths: Vec<SnapshotPath>,
        #[serde(default)]
        no_wait: bool,
        #[serde(default)]
        if_absent: bool,
        /// By the command that holds the volumes alone, and only while it does.
        #[serde(default)]
        held: bool,
        /// It is the same as that snapshot, wherever that is: of one volume, when this is returned, it is in the pool.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        same_as: Option<SameAs>,
    },
    /// Waits until snapshots that were taken are in the pool.
    SnapshotPromise { paths: Vec<SnapshotPath> },
    /// The snapshots of a volume, oldest first.
    SnapshotList {
        path: VolumePath,
        /// Where sums with older ones begin.
        from: Option<Name>,
    },
    /// Snapshots in the trash.
    SnapshotTrash { path: VolumePath },
    /// Removes a snapshot, into the trash where the pool has one.
    SnapshotRemove {
        path: SnapshotPath,
        #[serde(default)]
        if_exists: bool,
        #[serde(default)]
        dry_run: bool,
        #[serde(default)]
        mode: RemoveMode,
    },
    /// Keeps a snapshot from removal, by whoever it is: until a time, or for so long.
    SnapshotLock(SnapshotLock),
    /// Brings a snapshot back from the trash.
    SnapshotRestore { path: SnapshotPath, to: Option<Name> },
    /// Brings a snapshot into a volume of another pool: what differs from the newest snapshot that both have.
    SnapshotCopy(SnapshotCopy),
    /// A snapshot of a volume is taken and copied; older ones of that kind are removed on both sides.
    Replicate(Replicate),
    /// Makes a volume of a snapshot; they share what they have in common.
    Clone {
        from: SnapshotPath,
        to: VolumePath,
        /// In bytes, where it is to be larger than the snapshot.
        #[serde(default)]
        size: Option<u64>,
        /// `KEY=VALUE` each, beside what the volume of the snapshot has.
        #[serde(default)]
        settings: Vec<String>,
        /// Content with a clone of this very snapshot that has these settings and this size.
        #[serde(default)]
        if_absent: bool,
    },
    /// Makes many at once.
    CloneMany(CloneMany),
    /// Mounts a bucket.
    Mount {
        url: String,
        dir: String,
        #[serde(default)]
        options: Vec<String>,
    },
    /// Uploads what waits and unmounts.
    Unmount { dir: String },
    /// Answers when the mount is gone.
    MountEnded { dir: String },
    /// Mounts, and the files that earlier ones could not store.
    MountList,
    /// Copies the files that are kept of a bucket into a folder.
    MountExport { url: String, to: String },
    /// Drops them.
    MountDrop {
        url: String,
        #[serde(default)]
        dry_run: bool,
    },
    /// Gives keys to stores, also to those that are open: they go on with them.
    CredentialsSet(CredentialsSet),
    /// Whose keys were given, without their secrets.
    CredentialsList,
    /// Takes keys back that were given.
    CredentialsRemove { target: String },
    /// What needs attention, and what is in use here.
    Status,
    /// What `top` and the page show, again and again: it costs stores next to nothing.
    Watch,
    /// Hands the NBD sockets over to another daemon that waits for them, and ends. `windlass serve --replace` asks for it.
    HandOver(HandOver),
    /// What a client of an export holds, by which a later daemon knows it again. With `held` it is compared: who held that must
    /// have missed nothing of what is open here.
    ExportHeld {
        export: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        held: Option<serde_json::Value>,
    },
    /// Whether the engine is alive: it answers when none of its tables is stuck, whatever the stores do.
    Ping,
}

impl Verb {
    /// A clone with the size of its snapshot and the settings of that one's volume.
    pub fn clone_of(from: SnapshotPath, to: VolumePath, if_absent: bool) -> Verb {
        Verb::Clone { from, to, size: None, settings: Vec::new(), if_absent }
    }

    /// Tells whether the verb is for the engine of mounts as well as for the daemon: a command then asks all engines.
    pub fn is_of_each_engine(&self) -> bool {
        matches!(self, Verb::CredentialsSet(_) | Verb::CredentialsList | Verb::CredentialsRemove { .. })
    }

    /// Tells whether the engine of mounts that began without a daemon does this verb. That engine must not touch pools and
    /// volumes, which are the daemon's.
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

/// Progress of a long verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub doing: String,
    pub done: u64,
    /// Amount of work in all; 0 if it is not known.
    pub total: u64,
}

/// Result of a verb. If `degraded` is true the verb is done, but something needs attention (exit code 7).
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
        let verb = Verb::VolumeInfo { path: "p/v".parse().unwrap(), walk: false };
        let line = serde_json::to_string(&Request { v: VERSION, verb }).unwrap();
        assert_eq!(line, r#"{"v":1,"verb":"volume-info","args":{"path":"p/v"}}"#);
        let unit: Request = serde_json::from_str(r#"{"v":1,"verb":"status"}"#).unwrap();
        assert!(matches!(unit.verb, Verb::Status));
        assert!(
            serde_json::from_str::<Request>(r#"{"v":1,"verb":"volume-info","args":{"path":"P/v"}}"#).is_err()
        );
    }
}
