//! The state folder: where it is, what lies in it, and the lock that one engine holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use windlass_base::rt::{Disk, DiskLock, Rt};
use windlass_base::{Error, HostId, Kind, Name, PoolId, Result, ResultExt};
use windlass_nbd::SocketRights;
use windlass_volume::Host;

/// Longest path of a unix socket that Linux takes, in bytes.
const SOCKET_PATH_MAX: usize = 107;
/// Largest state file that is read, in bytes.
const FILE_MAX: usize = 1 << 20;

/// Paths in the state folder, `$WINDLASS_HOME`.
///
/// Two engines may have the folder at a time. One is the daemon, or a command in its place; the other is the engine
/// of mounts that began without a daemon (`of_mounts`). Each has a lock, a control socket and a cache of its own.
/// They share what mounts stage, whose folders have locks of their own. The engine of mounts only reads which pools
/// are known, and has nothing to do with volumes.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
    /// Folder of the engine's own things: the root, or the folder of the engine of mounts.
    own: PathBuf,
}

/// A pool that this host knows, and where its stores are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownPool {
    pub format: u32,
    pub name: Name,
    /// Id of the pool, which its creation drew: another pool of this name is refused. `None`: noted by a version that
    /// did not keep the id; the next opening notes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<PoolId>,
    /// Stores as `URL[,zone=Z]` each, by index.
    pub stores: Vec<String>,
    /// Id of the pool, when this host has begun to destroy it: the pool is not opened any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroying: Option<PoolId>,
    /// Is true if the pool has a key: without the key it is not opened, whatever its labels say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_key: bool,
}

impl StateDir {
    /// Finds the state folder: `$WINDLASS_HOME`, else `/var/lib/windlass` for root, else the XDG state folder.
    pub fn locate() -> Result<StateDir> {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = match var("WINDLASS_HOME") {
            Some(home) => home,
            None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/windlass"),
            None => match (var("XDG_STATE_HOME"), var("HOME")) {
                (Some(state), _) => state.join("windlass"),
                (None, Some(home)) => home.join(".local/state/windlass"),
                (None, None) => {
                    return Err(Error::new(
                        Kind::Usage,
                        "no state folder: set WINDLASS_HOME (HOME is not set either)",
                    ));
                }
            },
        };
        let root = std::path::absolute(&root).context(|| format!("state folder {}", root.display()))?;
        Ok(StateDir::at(root))
    }

    pub fn at(root: impl Into<PathBuf>) -> StateDir {
        let root = root.into();
        StateDir { own: root.clone(), root }
    }

    /// Returns this folder as the engine of mounts that began without a daemon has it.
    #[must_use]
    pub fn of_mounts(&self) -> StateDir {
        StateDir { root: self.root.clone(), own: self.root.join("mounts") }
    }

    pub fn is_of_mounts(&self) -> bool {
        self.own != self.root
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn config(&self) -> PathBuf {
        self.root.join("windlass.toml")
    }

    /// Returns the file of keys that a command gave and asked to keep. Mounts that run by themselves read it too.
    pub fn credentials(&self) -> PathBuf {
        self.root.join("credentials.json")
    }

    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Returns the folder where imports that were cut off stand.
    pub fn imports(&self) -> PathBuf {
        self.root.join("imports")
    }

    pub fn hints(&self) -> PathBuf {
        self.root.join("hints")
    }

    /// Returns the folder of the cache on the local disk, for what was read from stores.
    pub fn cache(&self) -> PathBuf {
        self.own.join("cache")
    }

    /// Returns the file where a mount that has left its terminal logs.
    pub fn mount_log(&self) -> PathBuf {
        self.own.join("mount.log")
    }

    /// Returns the file where the processes that keep devices connected log.
    pub fn device_log(&self) -> PathBuf {
        self.root.join("devices.log")
    }

    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Returns the control socket; an error when its path is longer than a socket's may be.
    pub fn control(&self) -> Result<PathBuf> {
        self.socket("control.sock")
    }

    pub fn nbd(&self) -> Result<PathBuf> {
        self.socket("nbd.sock")
    }

    /// Returns the socket where commands reach exports: NBD for this user alone, whatever else is listened on.
    pub fn exports(&self) -> Result<PathBuf> {
        self.socket("exports.sock")
    }

    /// Returns the socket where a daemon waits for what the one before it hands over. `id` is its own, since several
    /// may try.
    pub fn handover(&self, id: u32) -> Result<PathBuf> {
        self.socket(&format!("next-{id:x}.sock"))
    }

    fn socket(&self, name: &str) -> Result<PathBuf> {
        let path = self.own.join(name);
        if path.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "{} is too long for a unix socket: use a state folder with a shorter path",
                    path.display()
                ),
            ));
        }
        Ok(path)
    }

    /// Makes the folder and takes its lock; `Kind::Owned` when another engine holds it.
    pub async fn lock(&self, disk: &dyn Disk) -> Result<Box<dyn DiskLock>> {
        let path = self.own.join("lock");
        let shown = self.own.display();
        disk.create_dir(&self.own).await.context(|| format!("state folder {shown}"))?;
        self.refuse_anothers(&path)?;
        let note = format!("process {}\n", std::process::id());
        disk.lock(&path, &note).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => Error::new(
                Kind::Owned,
                format!("the state folder {shown} is in use: {e}, or use another WINDLASS_HOME"),
            ),
            _ => Error::from(e).context(format!("locking the state folder {shown}")),
        })
    }

    /// Takes the lock of the next daemon, which holds it from before another hands over to it until it listens
    /// itself. Meanwhile nobody else may begin an engine on this folder: clients wait whom only that daemon knows of.
    /// `Kind::Owned`: another is about to do the same.
    pub async fn announce_next(&self, disk: &dyn Disk) -> Result<Box<dyn DiskLock>> {
        let path = self.own.join("next");
        let note = format!("process {}\n", std::process::id());
        disk.create_dir(&self.own).await.context(|| format!("state folder {}", self.own.display()))?;
        disk.lock(&path, &note).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => Error::new(
                Kind::Owned,
                format!("another daemon is about to go on on {}: {e}", self.own.display()),
            ),
            _ => Error::from(e).context(format!("locking {}", path.display())),
        })
    }

    /// Tells whether a daemon has said that it is the next one. Called by whoever has found no daemon that listens.
    pub async fn awaits_next(&self, disk: &dyn Disk) -> bool {
        let path = self.own.join("next");
        if disk.list_if_there(&self.own).await.is_ok_and(|names| !names.iter().any(|name| name == "next")) {
            return false;
        }
        let note = format!("process {}\n", std::process::id());
        disk.lock(&path, &note).await.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Refuses a folder of another user. Root can write into every folder, but a daemon that runs as another user
    /// could not read what root leaves there.
    fn refuse_anothers(&self, lock: &Path) -> Result<()> {
        let Ok(held) = rustix::fs::stat(lock) else { return Ok(()) };
        if held.st_uid == rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        let why = format!(
            "the state folder {} is that of the user with the id {}, and only his daemon uses it: commands reach it while it runs \
             (`systemctl start windlass`); a daemon of your own needs another WINDLASS_HOME",
            self.own.display(),
            held.st_uid
        );
        Err(Error::new(Kind::Refused, why))
    }

    /// Returns the folder's identity, drawn on first use. Mounts need none: their engine leaves it to the daemon to
    /// keep one, since two that begin at once would each draw their own.
    pub async fn host(&self, rt: &Rt, disk: &dyn Disk) -> Result<Host> {
        let path = self.root.join("host.json");
        if let Some(host) = read_json(disk, &path).await? {
            return Ok(host);
        }
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host = Host { id: HostId(rt.random128()), name };
        if !self.is_of_mounts() {
            write_json(disk, &path, &host).await?;
        }
        Ok(host)
    }

    fn pools(&self) -> PathBuf {
        self.root.join("pools")
    }

    fn pool_file(&self, name: &Name) -> PathBuf {
        self.pools().join(format!("{name}.json"))
    }

    pub async fn known_pools(&self, disk: &dyn Disk) -> Result<Vec<KnownPool>> {
        let names = match disk.list(&self.pools()).await {
            Ok(names) => names,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::from(e).context(format!("listing {}", self.pools().display()))),
        };
        let mut known = Vec::new();
        for file in names.iter().filter(|n| n.ends_with(".json") && !n.starts_with('.')) {
            if let Some(pool) = read_json(disk, &self.pools().join(file)).await? {
                known.push(pool);
            }
        }
        Ok(known)
    }

    /// Returns journals that were put aside, of volumes that may be gone.
    pub async fn kept_journals(&self, disk: &dyn Disk) -> Vec<PathBuf> {
        self.of_volumes(disk).await.into_iter().filter(|path| is_kept_journal(path)).collect()
    }

    /// Returns journals of volumes that stay this host's, as the daemon that ended has left them: they may hold what
    /// is in no store.
    pub async fn left_journals(&self, disk: &dyn Disk) -> Vec<PathBuf> {
        let mut left = Vec::new();
        for path in self.of_volumes(disk).await {
            // One that can't be looked at may hold something.
            if path.file_name().is_some_and(|name| name == "journal")
                && windlass_journal::is_there(disk, &path).await.unwrap_or(true)
            {
                left.push(path);
            }
        }
        left
    }

    /// Returns the paths of all that lies in folders of volumes.
    async fn of_volumes(&self, disk: &dyn Disk) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let all = |dir: PathBuf| async move {
            let names = disk.list(&dir).await.unwrap_or_default();
            names.into_iter().map(move |name| dir.join(name)).collect::<Vec<_>>()
        };
        for pool in all(self.volumes()).await {
            for volume in all(pool).await {
                found.extend(all(volume).await);
            }
        }
        found
    }

    /// Deletes what this host keeps of a pool that is no more. Journals that were put aside stay; their paths are
    /// returned.
    pub async fn clear(&self, disk: &dyn Disk, name: &Name, pool: PoolId) -> Result<Vec<PathBuf>> {
        let failed = |path: &Path| format!("removing {}", path.display());
        let mut kept = Vec::new();
        for root in [self.hints().join(name.as_str()), self.volumes().join(pool.to_string())] {
            let mut to_visit = vec![root];
            let mut folders = Vec::new();
            while let Some(path) = to_visit.pop() {
                if is_kept_journal(&path) {
                    kept.push(path);
                    continue;
                }
                match disk.list(&path).await {
                    Ok(names) => {
                        to_visit.extend(names.iter().map(|name| path.join(name)));
                        folders.push(path);
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
                        disk.remove(&path).await.context(|| failed(&path))?;
                    }
                    Err(e) => return Err(Error::from(e).context(failed(&path))),
                }
            }
            for folder in
                folders.iter().rev().filter(|folder| !kept.iter().any(|path| path.starts_with(folder)))
            {
                disk.remove_dir(folder).await.context(|| failed(folder))?;
            }
        }
        Ok(kept)
    }

    pub async fn remember(&self, disk: &dyn Disk, pool: &KnownPool) -> Result<()> {
        disk.create_dir(&self.pools()).await.context(|| format!("making {}", self.pools().display()))?;
        write_json(disk, &self.pool_file(&pool.name), pool).await
    }

    pub async fn forget(&self, disk: &dyn Disk, name: &Name) -> Result<()> {
        let path = self.pool_file(name);
        disk.remove(&path).await.context(|| format!("removing {}", path.display()))?;
        disk.sync_dir(&self.pools()).await.context(|| format!("syncing {}", self.pools().display()))
    }
}

/// Tells whether this is a journal that was put aside.
fn is_kept_journal(path: &Path) -> bool {
    path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("journal."))
}

async fn read_json<T: serde::de::DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<Option<T>> {
    let bytes = match disk.read(path, FILE_MAX).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::from(e).context(format!("reading {}", path.display()))),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        Error::new(Kind::Invalid, format!("{} is damaged ({e}): restore it or move it away", path.display()))
    })
}

async fn write_json(disk: &dyn Disk, path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    disk.write_atomic(path, Bytes::from(text)).await.context(|| format!("writing {}", path.display()))
}

/// Runtime, disk, folder and identity of this host, which every part of an engine needs.
#[derive(Clone, Debug)]
pub struct HostContext {
    pub rt: Rt,
    pub disk: Arc<dyn Disk>,
    pub home: StateDir,
    pub host: Host,
}

/// Returns who may connect to the daemon's own sockets in this folder: its user alone. Where an administrator gave
/// the folder to the process's group, as the package does (another user's, sticky, for the group to write in), that
/// group may too.
pub fn socket_rights(folder: &Path) -> SocketRights {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let given =
        rustix::fs::stat(folder).is_ok_and(|f| is_given(f.st_mode, (f.st_uid, f.st_gid), (user, group)));
    SocketRights { mode: if given { 0o660 } else { 0o600 }, ..SocketRights::default() }
}

fn is_given(mode: u32, (owner, of): (u32, u32), (user, group): (u32, u32)) -> bool {
    const STICKY_FOR_GROUP: u32 = 0o1070;
    mode & STICKY_FOR_GROUP == STICKY_FOR_GROUP && owner != user && of == group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_given_to_the_daemons_group_lets_that_group_in() {
        let daemon = (990, 991);
        assert!(is_given(0o41770, (0, 991), daemon), "as the package makes it");
        for (mode, of) in
            [(0o40770, (0, 991)), (0o41770, (990, 991)), (0o41770, (0, 100)), (0o41750, (0, 991))]
        {
            assert!(!is_given(mode, of, daemon), "{mode:o} {of:?}");
        }
    }
    use windlass_base::rt::{RealDisk, RealRuntime};

    /// Clients of the daemon before wait for the next one: no command begins an engine of its own meanwhile.
    #[tokio::test]
    async fn a_daemon_that_is_to_come_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::start();
        let home = StateDir::at(dir.path().join("h"));
        assert!(!home.awaits_next(&*disk).await, "no folder");
        let next = home.announce_next(&*disk).await.unwrap();
        assert!(home.awaits_next(&*disk).await && !home.of_mounts().awaits_next(&*disk).await);
        assert_eq!(home.announce_next(&*disk).await.unwrap_err().kind(), Kind::Owned);
        drop(next);
        assert!(!home.awaits_next(&*disk).await, "it listens, or has ended");
        drop(home.announce_next(&*disk).await.unwrap());
    }

    /// Returns what the package's script says is in no store yet, below a state folder that holds these files.
    #[allow(clippy::disallowed_methods)] // files that stand for those of a daemon
    fn unsent_by_the_package(files: &[&str]) -> Vec<String> {
        let script = include_str!("../../packaging/debian/postrm");
        let start = script.find("unsent() {").unwrap();
        let function = &script[start..start + script[start..].find("\n}\n").unwrap() + 3];
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let line = format!("state={}\n{function}\nunsent", dir.path().display());
        let said = std::process::Command::new("sh").args(["-ec", &line]).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let prefix = format!("{}/", dir.path().display());
        let text = String::from_utf8(said.stdout).unwrap();
        let mut all: Vec<String> = text.lines().map(|line| line.replace(&prefix, "")).collect();
        all.sort();
        all
    }

    #[test]
    fn a_purge_keeps_what_is_in_no_store_and_nothing_else() {
        let left_by_a_daemon_that_sent_all = [
            "lock",
            "next",
            "host.json",
            "pools/tank.json",
            "hints/tank/clock",
            "cache/frames",
            "volumes/p/v/confirmed",
            "volumes/p/v/journal/lock",
            "volumes/p/w/mirror-closed",
            "staging/b.heeds-conditions",
            "staging/b/0/lock",
        ];
        assert_eq!(unsent_by_the_package(&left_by_a_daemon_that_sent_all), Vec::<String>::new());
        assert_eq!(unsent_by_the_package(&[]), Vec::<String>::new(), "no state folder was ever used");
        let unsent = [
            "staging/b/0/1.slab",
            "volumes/p/v/journal.kept-3/segment-00000001",
            "volumes/p/v/journal/header",
            "volumes/p/w/mirror-4/segment-00000001",
        ];
        let both: Vec<_> = left_by_a_daemon_that_sent_all.iter().chain(&unsent).copied().collect();
        assert_eq!(unsent_by_the_package(&both), unsent);
    }

    #[tokio::test]
    async fn a_folder_keeps_its_identity_its_pools_and_one_engine() {
        let dir = tempfile::tempdir().unwrap();
        let (rt, disk) = (Rt::new(RealRuntime::current()), RealDisk::start());
        let home = StateDir::at(dir.path().join("h"));
        let held = home.lock(&*disk).await.unwrap();
        assert_eq!(home.lock(&*disk).await.unwrap_err().kind(), Kind::Owned);
        let id = home.host(&rt, &*disk).await.unwrap().id;
        assert_eq!(home.host(&rt, &*disk).await.unwrap().id, id);
        assert!(home.known_pools(&*disk).await.unwrap().is_empty());
        let pool = KnownPool {
            format: 1,
            name: "p".parse().unwrap(),
            id: Some(PoolId(7)),
            stores: vec!["file:///x".into()],
            destroying: None,
            has_key: false,
        };
        home.remember(&*disk, &pool).await.unwrap();
        assert_eq!(home.known_pools(&*disk).await.unwrap().len(), 1);
        home.forget(&*disk, &pool.name).await.unwrap();
        assert!(home.known_pools(&*disk).await.unwrap().is_empty());
        let mounts = home.of_mounts();
        let beside = mounts.lock(&*disk).await.unwrap();
        assert_eq!(mounts.lock(&*disk).await.unwrap_err().kind(), Kind::Owned);
        assert_eq!((mounts.staging(), mounts.host(&rt, &*disk).await.unwrap().id), (home.staging(), id));
        assert!(mounts.control().unwrap() != home.control().unwrap() && mounts.cache() != home.cache());
        drop((held, beside));
        home.lock(&*disk).await.unwrap();
        let fresh = StateDir::at(dir.path().join("fresh")).of_mounts();
        let drawn = [fresh.host(&rt, &*disk).await.unwrap().id, fresh.host(&rt, &*disk).await.unwrap().id];
        assert_ne!(drawn[0], drawn[1], "only the daemon keeps an identity");
        assert!(StateDir::at("/".repeat(120)).control().is_err());
    }
}
