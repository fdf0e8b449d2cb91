//! The running daemon: its version, where clients connect, what it serves, and what ended runs have left behind.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use super::check::Check;
use crate::daemon::answers::EngineStatus;
use crate::daemon::config::Wrong;
use windlass_base::rt::Rt;
use windlass_base::units::{show_bytes, show_count, show_time};

pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Longest path of a unix socket that Linux takes, in bytes.
const SOCKET_PATH_MAX: usize = 107;
const CONNECT: Duration = Duration::from_secs(3);
/// Age in ms from which acknowledged bytes that are on this host alone are worth a word.
const UNSENT_MAX_MS: u64 = 10 * 60 * 1000;

/// A unix socket where clients connect.
#[derive(Clone, Debug)]
pub struct SocketFacts {
    pub path: String,
    /// Permission bits. `None`: there is no socket.
    pub mode: Option<u32>,
    pub connects: bool,
}

/// The daemon that runs, and what it says of itself.
#[derive(Debug)]
pub struct DaemonFacts {
    /// Version of the daemon. `None`: none runs.
    pub version: Option<String>,
    /// The daemon's program was replaced or removed since it began.
    pub replaced: bool,
    pub sockets: Vec<SocketFacts>,
}

impl SocketFacts {
    pub async fn look(rt: &Rt, path: &str) -> SocketFacts {
        let socket = std::fs::metadata(path).ok().filter(|meta| meta.file_type().is_socket());
        let connects = rt.timeout(CONNECT, tokio::net::UnixStream::connect(path)).await;
        SocketFacts {
            path: path.to_owned(),
            mode: socket.map(|meta| meta.mode() & 0o777),
            connects: connects.is_some_and(|connected| connected.is_ok()),
        }
    }

    fn judge(&self) -> Check {
        let (name, path) = ("nbd-socket", &self.path);
        let again = "`windlass serve` once more; whatever removed the socket must not";
        let check = match (self.mode, self.connects) {
            _ if path.len() > SOCKET_PATH_MAX => Check::bad(
                name,
                format!("its path has {} bytes, and a socket's has {SOCKET_PATH_MAX} at most", path.len()),
                "use a shorter one: `serve --nbd unix:PATH`",
            ),
            (None, _) => Check::bad(name, "is gone: no client can connect", again),
            (Some(_), false) => Check::bad(name, "nobody answers there, or this user may not connect", again),
            (Some(mode), true) if mode & 0o002 != 0 => Check::warn(
                name,
                format!("any user of this host may read and write all volumes by it (mode {mode:04o})"),
                format!("`chmod o-w {path}`"),
            ),
            (Some(mode), true) => Check::ok(name, format!("clients can connect (mode {mode:04o})")),
        };
        check.of(path.clone())
    }
}

impl DaemonFacts {
    pub fn judge(&self) -> Vec<Check> {
        let name = "daemon-version";
        let cure = "restart the daemon: `systemctl restart windlass`";
        let version = match &self.version {
            None => Check::ok(name, format!("no daemon runs; this is windlass {VERSION}")),
            Some(_) if self.replaced => {
                let found = "the daemon's program was replaced since it began: it runs the old one";
                Check::warn(name, found, cure)
            }
            Some(version) if version != VERSION => {
                let found = format!("the daemon is windlass {version}, and this is {VERSION}");
                Check::warn(name, found, cure)
            }
            Some(version) => Check::ok(name, format!("the daemon and this are windlass {version}")),
        };
        std::iter::once(version).chain(self.sockets.iter().map(SocketFacts::judge)).collect()
    }
}

/// Judges what is in use, and what was left behind.
pub fn judge_status(status: &EngineStatus) -> Vec<Check> {
    let mut all = Vec::new();
    for volume in &status.volumes {
        let cure = format!("`windlass volume info {}` says more", volume.path);
        let old = volume.unsent_age_ms.filter(|age| *age > UNSENT_MAX_MS && volume.unsent_bytes > 0);
        all.push(
            match (&volume.trouble, old) {
                (Some(why), _) => Check::bad("volume", why.clone(), cure),
                (None, Some(age)) => {
                    let (bytes, age) = (show_bytes(volume.unsent_bytes), show_time(age));
                    let found = format!("{bytes} are on this host alone, for {age}");
                    Check::warn("volume", found, "bring the pool's stores back, or look why they are slow")
                }
                (None, None) => Check::ok("volume", format!("is {}", volume.state)),
            }
            .of(volume.path.to_string()),
        );
    }
    all.extend(status.kept_journals.iter().map(|journal| kept_journal(journal)));
    // The state folder's room has a check of its own.
    let told = status.troubles.iter().filter(|told| told.name != "state-space");
    all.extend(told.map(|told| {
        Check::warn("daemon-trouble", told.trouble.clone(), "do as the message says")
            .of(told.name.to_string())
    }));
    all.extend(status.mounts.iter().map(|mount| {
        let check = match &mount.trouble {
            Some(why) => {
                let cure = format!("bring {} back; files that wait are sent by themselves then", mount.url);
                Check::bad("mount", why.clone(), cure)
            }
            None => Check::ok("mount", format!("{} answers", mount.url)),
        };
        check.of(mount.dir.clone())
    }));
    let files = status.kept_files.iter().map(|kept| {
        let found = format!(
            "{} of ended mounts, {}, are not in the bucket",
            show_count(kept.files, "file"),
            show_bytes(kept.bytes)
        );
        let cure = format!("mount {0} again: they are sent; or `windlass mount export {0} FOLDER`", kept.url);
        Check::warn("unsent-files", found, cure).of(kept.url.clone())
    });
    all.extend(files);
    if let Some(why) = status.cache.disk.as_ref().and_then(|disk| disk.trouble.clone()) {
        all.push(Check::warn(
            "disk-cache",
            why,
            "mend the disk or free space on it, then restart the daemon",
        ));
    }
    let left = status.troubles.iter().any(|told| told.name == "left-journals");
    if status.kept_journals.is_empty() && status.kept_files.is_empty() && !left {
        all.push(Check::ok("left-behind", "no journals and no files of ended runs"));
    }
    all
}

fn kept_journal(journal: &Path) -> Check {
    let dir = journal.display();
    let cure = format!(
        "`windlass volume salvage {dir} POOL/NEW` makes a volume of them; delete the folder when nobody needs them"
    );
    Check::warn("kept-journals", "has writes that are in no volume", cure).of(dir.to_string())
}

/// Judges the configuration file.
pub fn judge_config(file: &Path, wrong: &Result<Vec<Wrong>, String>) -> Vec<Check> {
    let of = file.display().to_string();
    let all = match wrong {
        Err(why) => vec![Check::bad("config", why.clone(), "make the file readable for this user")],
        Ok(wrong) if wrong.is_empty() => vec![Check::ok("config", "nothing is wrong")],
        Ok(wrong) => {
            let one = |w: &Wrong| {
                Check::bad(
                    "config",
                    format!("line {}, {}: {}", w.line, w.key, w.what),
                    format!("mend line {}, or the file that it names", w.line),
                )
            };
            wrong.iter().map(one).collect()
        }
    };
    all.into_iter().map(|check| check.of(of.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::State;

    fn states(all: Vec<Check>) -> Vec<(String, State)> {
        all.into_iter().filter(|c| c.state != State::Ok).map(|c| (c.name, c.state)).collect()
    }

    #[test]
    fn each_trouble_of_a_daemon_is_named() {
        let socket = |mode, connects| SocketFacts { path: "/h/nbd.sock".into(), mode, connects };
        let with = |version: Option<&str>, replaced, sockets| {
            states(DaemonFacts { version: version.map(str::to_owned), replaced, sockets }.judge())
        };
        assert!(with(None, false, vec![]).is_empty());
        assert!(with(Some(VERSION), false, vec![socket(Some(0o660), true)]).is_empty());
        let version = [("daemon-version".to_owned(), State::Warn)];
        assert_eq!(with(Some("0.0.9"), false, vec![]), version);
        assert_eq!(with(Some(VERSION), true, vec![]), version);
        let long = SocketFacts { path: "/".repeat(108), mode: None, connects: false };
        for (one, state) in [
            (socket(None, false), State::Bad),
            (socket(Some(0o600), false), State::Bad),
            (socket(Some(0o666), true), State::Warn),
            (long, State::Bad),
        ] {
            assert_eq!(with(None, false, vec![one]), [("nbd-socket".to_owned(), state)]);
        }
    }

    #[test]
    fn what_is_wrong_in_the_file_is_told_one_by_one() {
        let wrong = |line| Wrong { line, key: "memory".into(), what: "is too small".into() };
        let judged = |wrong| states(judge_config(Path::new("/h/windlass.toml"), &wrong)).len();
        assert_eq!(judged(Ok(vec![])), 0);
        assert_eq!(judged(Ok(vec![wrong(1), wrong(2)])), 2);
        assert_eq!(judged(Err("permission denied".into())), 1);
    }
}
