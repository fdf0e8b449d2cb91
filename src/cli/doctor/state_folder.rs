//! The state folder: whose it is, where it lies, its room, its lock and its socket.

use std::path::PathBuf;

use super::check::Check;
use super::folder_facts::{FLEETING, Folder, REMOTE};
use crate::daemon::StateDir;
use windlass_base::units::{GIB, MIB, show_bytes};

/// Least room in bytes that is no trouble: journals of volumes grow to gigabytes while stores are behind.
const ROOM_MIN: u64 = GIB;
/// Room in bytes below which new journals do not begin.
const ROOM_LEAST: u64 = 64 * MIB;
const INODES_MIN: u64 = 1000;
/// Mode of root's folder that the package's tmpfiles.d makes: the daemon's group may write there, and takes
/// away only its own files.
const SHARED_WITH_ROOT: u32 = 0o1770;

/// Facts on the state folder, see the module.
#[derive(Clone, Debug)]
pub struct StateFacts {
    pub dir: PathBuf,
    /// The folder, or why it can't be looked at. `None`: it is not there yet.
    pub folder: Option<Result<Folder, String>>,
    pub user: u32,
    /// The control socket's path, or why there can be none.
    pub control: Result<PathBuf, String>,
    /// True if a daemon answers at the control socket; the error says why it can't be asked.
    pub answers: Result<bool, String>,
    /// The process that has noted itself in the lock, if it lives.
    pub holder: Option<u32>,
}

impl StateFacts {
    pub fn look(home: &StateDir, answers: Result<bool, String>) -> StateFacts {
        let dir = home.root().to_owned();
        let folder = match Folder::look(&dir) {
            Ok(folder) => Some(Ok(folder)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => Some(Err(e.to_string())),
        };
        let note = std::fs::read_to_string(dir.join("lock")).unwrap_or_default();
        let noted = note.strip_prefix("process ").and_then(|pid| pid.trim().parse::<u32>().ok());
        let runs_windlass = |pid: &u32| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.starts_with("windlass") || name.starts_with("mount")
        };
        StateFacts {
            folder,
            user: rustix::process::geteuid().as_raw(),
            control: home.control().map_err(|e| e.to_string()),
            answers,
            holder: noted.filter(runs_windlass),
            dir,
        }
    }

    pub fn judge(&self) -> Vec<Check> {
        let dir = self.dir.display().to_string();
        let mut all = match &self.folder {
            None => vec![Check::ok("state-folder", "is not there yet: the first command makes it")],
            Some(Err(why)) => vec![Check::bad(
                "state-folder",
                format!("can't be looked at: {why}"),
                "be the user whose folder it is, or name another one by WINDLASS_HOME",
            )],
            Some(Ok(folder)) => vec![self.rights(folder), self.filesystem(folder), room(folder)],
        };
        all.push(self.socket());
        all.into_iter().map(|check| check.of(dir.clone())).collect()
    }

    fn rights(&self, folder: &Folder) -> Check {
        let (mode, dir) = (folder.mode, self.dir.display());
        if folder.uid == 0 && mode == SHARED_WITH_ROOT {
            return Check::ok("state-folder", format!("is shared by root and the daemon (mode {mode:04o})"));
        }
        if folder.uid != self.user {
            return Check::bad(
                "state-folder",
                format!("is that of user {}, and this is user {}", folder.uid, self.user),
                format!("run this as user {}, or name another folder by WINDLASS_HOME", folder.uid),
            );
        }
        if mode & 0o022 != 0 {
            return Check::bad(
                "state-folder",
                format!("others may write into it (mode {mode:04o}): they could put another journal there"),
                format!("`chmod 0700 {dir}`"),
            );
        }
        Check::ok("state-folder", format!("is ours (mode {mode:04o})"))
    }

    fn filesystem(&self, folder: &Folder) -> Check {
        let name = "state-filesystem";
        let cure = "stop the daemon, move the folder to a local disk, and name it by WINDLASS_HOME";
        match folder.kind {
            Some(kind) if folder.is(FLEETING) => Check::warn(
                name,
                format!(
                    "is on {kind}: journals, and what they alone hold, are gone with the machine or container"
                ),
                cure,
            ),
            Some(kind) if folder.is(REMOTE) => Check::warn(
                name,
                format!("is on {kind}: flushes are as slow as that, and its locks may not hold"),
                cure,
            ),
            _ => Check::ok(name, "is on a local disk"),
        }
    }

    fn socket(&self) -> Check {
        let path = match &self.control {
            Ok(path) => path.display(),
            Err(why) => {
                return Check::bad(
                    "control-socket",
                    why.clone(),
                    "set WINDLASS_HOME to a folder with a shorter path",
                );
            }
        };
        match (&self.answers, self.holder) {
            (Err(why), _) => Check::bad(
                "control-socket",
                format!("{path} can't be reached: {why}"),
                "run this as the user of the daemon",
            ),
            (Ok(true), _) => Check::ok("control-socket", format!("a daemon answers at {path}")),
            (Ok(false), Some(pid)) => Check::warn(
                "control-socket",
                format!("process {pid} has the folder's lock, and nobody answers at {path}"),
                format!(
                    "wait until it has ended; `kill {pid}` if it is a daemon that hangs, then `windlass serve`"
                ),
            ),
            (Ok(false), None) => {
                Check::ok("control-socket", "no daemon runs: commands do the work themselves")
            }
        }
    }
}

fn room(folder: &Folder) -> Check {
    let free = show_bytes(folder.free_bytes);
    let cure = "free space there, or move the folder to a larger disk while no daemon runs";
    let name = "state-space";
    match folder.free_bytes {
        free_bytes if free_bytes < ROOM_LEAST => Check::bad(
            name,
            format!("{free} are free: new journals don't begin, and each flush waits for the stores"),
            cure,
        ),
        _ if folder.free_inodes.is_some_and(|free| free < INODES_MIN) => {
            Check::bad(name, "hardly any inodes are free: no new file can be made", cure)
        }
        free_bytes if free_bytes < ROOM_MIN => {
            Check::warn(name, format!("{free} are free: journals grow while stores are behind"), cure)
        }
        _ => Check::ok(name, format!("{free} are free")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::State;

    fn folder() -> Folder {
        Folder {
            uid: 1000,
            mode: 0o700,
            device: 1,
            kind: None,
            free_bytes: 100 * GIB,
            used_bytes: GIB,
            free_inodes: Some(1 << 20),
        }
    }

    fn facts(folder: Folder) -> StateFacts {
        StateFacts {
            dir: "/h".into(),
            folder: Some(Ok(folder)),
            user: 1000,
            control: Ok("/h/control.sock".into()),
            answers: Ok(true),
            holder: None,
        }
    }

    fn states(facts: &StateFacts) -> Vec<(String, State)> {
        facts.judge().into_iter().filter(|c| c.state != State::Ok).map(|c| (c.name, c.state)).collect()
    }

    #[test]
    fn each_trouble_of_a_state_folder_is_named() {
        assert!(states(&facts(folder())).is_empty());
        type Change = fn(&mut Folder);
        let troubles: [(&str, State, Change); 8] = [
            ("state-folder", State::Bad, |f| f.uid = 0),
            ("state-folder", State::Bad, |f| f.mode = 0o770),
            ("state-filesystem", State::Warn, |f| f.kind = Some("tmpfs")),
            ("state-filesystem", State::Warn, |f| f.kind = Some("nfs")),
            ("state-space", State::Warn, |f| f.free_bytes = 500 * MIB),
            ("state-space", State::Bad, |f| f.free_bytes = MIB),
            ("state-space", State::Bad, |f| f.free_inodes = Some(3)),
            ("state-space", State::Bad, |f| f.free_bytes = 0),
        ];
        for (name, state, change) in troubles {
            let mut folder = folder();
            change(&mut folder);
            assert_eq!(states(&facts(folder)), [(name.to_owned(), state)]);
        }
    }

    #[test]
    fn the_folder_of_the_package_is_well_for_root_and_the_daemon() {
        for user in [0, 996] {
            let shared = Folder { uid: 0, mode: SHARED_WITH_ROOT, ..folder() };
            assert!(states(&StateFacts { user, ..facts(shared) }).is_empty());
        }
        let open = Folder { uid: 0, mode: 0o1777, ..folder() };
        assert_eq!(states(&StateFacts { user: 0, ..facts(open) }), [("state-folder".to_owned(), State::Bad)]);
    }

    #[test]
    fn sockets_that_nobody_reaches_are_named() {
        let with = |change: fn(&mut StateFacts)| {
            let mut facts = facts(folder());
            change(&mut facts);
            states(&facts)
        };
        let socket = |state| [("control-socket".to_owned(), state)];
        assert_eq!(with(|f| f.control = Err("too long".into())), socket(State::Bad));
        assert_eq!(with(|f| f.answers = Err("denied".into())), socket(State::Bad));
        assert_eq!(with(|f| (f.answers, f.holder) = (Ok(false), Some(7))), socket(State::Warn));
        assert!(with(|f| f.answers = Ok(false)).is_empty());
        assert!(with(|f| f.folder = None).is_empty());
    }
}
