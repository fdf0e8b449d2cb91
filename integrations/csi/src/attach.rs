//! How a volume becomes a block device of this host.

use std::path::{Path, PathBuf};

use crate::daemon::VolumeInfo;
use crate::host;
use crate::names::Id;
use crate::status::{Code, Result, Status};

/// Beginning of what sysfs shows as `backend` of a device that `windlass attach --device` made.
const OURS: &str = "windlass:";

pub enum Attacher {
    /// `windlass attach POOL/VOLUME --device`, the kernel's own NBD client.
    Kernel { windlass: PathBuf, home: PathBuf },
    /// A program for hosts whose kernel has no NBD client: `PROGRAM find|attach|detach POOL/VOLUME [ro]`,
    /// with the daemon's state folder in `$WINDLASS_HOME`. Where the id of the volume is known, it is in
    /// `$WINDLASS_VOLUME_ID`. `find` and `attach` print the device; `find` prints nothing where there is
    /// none. `detach` of a volume that is not attached is no failure.
    Program { program: PathBuf, home: PathBuf },
}

/// The disk that is meant: the volume's id, and a snapshot's number in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub volume: String,
    pub snapshot: Option<u64>,
}

impl Identity {
    pub fn of(info: &VolumeInfo) -> Identity {
        Identity { volume: info.id.clone(), snapshot: info.snapshot_id }
    }
}

impl Attacher {
    /// Finds the device that shows this very volume or snapshot, served by this daemon. `identity` is `None`
    /// where nobody can tell what the name stands for now; then the device is found by the name.
    pub async fn find(&self, id: &Id, identity: Option<&Identity>) -> Result<Option<PathBuf>> {
        match self {
            Attacher::Kernel { home, .. } => {
                let devices = Devices { block: Path::new("/sys/block"), host: &host_id(home)? };
                Ok(devices.find(&id.to_string(), identity))
            }
            Attacher::Program { .. } => {
                let said = self.run(&["find", &id.to_string()], identity).await?;
                Ok(Some(said).filter(|device| !device.is_empty()).map(PathBuf::from))
            }
        }
    }

    /// Returns the device of a volume: the one that there is, or a new one.
    pub async fn attach(&self, id: &Id, identity: &Identity, read_only: bool) -> Result<PathBuf> {
        if let Some(device) = self.find(id, Some(identity)).await? {
            return Ok(device);
        }
        let text = id.to_string();
        let read_only_is = |option| read_only.then_some(option);
        let args: Vec<&str> = match self {
            Attacher::Kernel { .. } => {
                ["attach", &text, "--device"].into_iter().chain(read_only_is("--read-only")).collect()
            }
            Attacher::Program { .. } => ["attach", &text].into_iter().chain(read_only_is("ro")).collect(),
        };
        let said = self.run(&args, Some(identity)).await?;
        let device = PathBuf::from(said.lines().last().unwrap_or_default());
        match host::number_of(&device) {
            // The kernel keeps what an earlier user of that device node said of it.
            Some(number) if !read_only && host::is_read_only(&number)? => {
                host::set_read_only(&device, false).await?;
                Ok(device)
            }
            Some(_) => Ok(device),
            None => Err(Status::internal(format!(
                "{text} was attached as {}, which is no device",
                device.display()
            ))),
        }
    }

    /// Takes the device away, if there is one. A device that is still used is refused.
    pub async fn detach(&self, id: &Id, identity: Option<&Identity>) -> Result<()> {
        let Some(device) = self.find(id, identity).await? else { return Ok(()) };
        // It was published to be read: that would hold for whatever has the device node next.
        if host::number_of(&device).is_some_and(|number| host::is_read_only(&number).unwrap_or(true)) {
            host::set_read_only(&device, false).await?;
        }
        match self {
            // By the device: its name may stand for another volume by now.
            Attacher::Kernel { .. } => self.run(&["detach", host::utf8(&device)?], identity).await?,
            Attacher::Program { .. } => self.run(&["detach", &id.to_string()], identity).await?,
        };
        Ok(())
    }

    async fn run(&self, args: &[&str], identity: Option<&Identity>) -> Result<String> {
        let (Attacher::Kernel { windlass: program, home } | Attacher::Program { program, home }) = self;
        let volume = identity.map_or("", |identity| &identity.volume);
        run(program, args, &[("WINDLASS_HOME", host::utf8(home)?), ("WINDLASS_VOLUME_ID", volume)]).await
    }
}

/// Returns the id of this host's daemon, which tells its devices from those of another daemon here.
fn host_id(home: &Path) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct Host {
        id: String,
    }
    let path = home.join("host.json");
    let failed = |why: &dyn std::fmt::Display| {
        Status::new(
            Code::Unavailable,
            format!("which daemon this is, {} does not tell: {why}", path.display()),
        )
    };
    let text = std::fs::read_to_string(&path).map_err(|e| failed(&e))?;
    Ok(serde_json::from_str::<Host>(&text).map_err(|e| failed(&e))?.id)
}

/// Runs a program and returns what it printed. The code of a failure follows from the exit code, as
/// Windlass's commands have them.
async fn run(program: &Path, args: &[&str], environment: &[(&str, &str)]) -> Result<String> {
    let done = host::output(program, args, environment).await?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
    }
    let code = match done.status.code() {
        Some(3) => Code::NotFound,
        Some(5 | 6) => Code::FailedPrecondition,
        _ => Code::Internal,
    };
    let what = format!("{} {}", program.display(), args.join(" "));
    Err(Status::new(code, format!("{what}: {}", host::complaint(&done))))
}

/// The kernel's NBD devices of one daemon. Their maker wrote `windlass:HOST:VOLUME:SNAPSHOT:EXPORT` into
/// each: the first three are ids, with `-` for no snapshot.
struct Devices<'a> {
    block: &'a Path,
    host: &'a str,
}

impl Devices<'_> {
    fn find(&self, export: &str, identity: Option<&Identity>) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.block).ok()?.flatten();
        let mut names = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok().filter(|name| name.starts_with("nbd"))?;
            let backend = std::fs::read_to_string(entry.path().join("backend")).ok()?;
            self.shows(backend.trim_end(), export, identity).then_some(name)
        });
        names.next().map(|name| Path::new("/dev").join(name))
    }

    fn shows(&self, backend: &str, export: &str, identity: Option<&Identity>) -> bool {
        let mut parts = backend.strip_prefix(OURS).unwrap_or_default().splitn(4, ':');
        let (Some(host), Some(volume), Some(snapshot), Some(shown)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        host == self.host
            && match identity {
                Some(identity) => {
                    volume == identity.volume && snapshot.parse::<u64>().ok() == identity.snapshot
                }
                None => shown == export,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a folder as sysfs has it")]
    fn devices_are_found_by_what_they_show() {
        let dir = tempfile::tempdir().unwrap();
        for (name, backend) in [
            ("nbd0", "windlass:h1:a1:-:tank/a\n"),
            ("nbd1", "windlass:h1:b1:-:tank/ab\n"),
            ("nbd2", "other\n"),
            ("nbd3", "windlass:h2:b2:-:tank/ab\n"),
            ("nbd4", "windlass:h1:b1:7:tank/ab@s\n"),
            ("sda", "windlass:h1:c1:-:tank/c"),
        ] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("backend"), backend).unwrap();
        }
        let find = |host: &str, export: &str, identity: Option<(&str, Option<u64>)>| {
            let identity = identity.map(|(volume, snapshot)| Identity { volume: volume.into(), snapshot });
            let found = Devices { block: dir.path(), host }.find(export, identity.as_ref());
            found.map(|device| device.to_string_lossy().into_owned())
        };
        assert_eq!(find("h1", "tank/ab", None).unwrap(), "/dev/nbd1");
        assert_eq!(find("h2", "tank/ab", None).unwrap(), "/dev/nbd3", "the other daemon's");
        assert_eq!(find("h1", "tank/ab@s", None).unwrap(), "/dev/nbd4");
        assert_eq!((find("h1", "tank/c", None), find("h1", "tank", None)), (None, None));
        assert_eq!(find("h1", "tank/a", Some(("b1", None))).unwrap(), "/dev/nbd1", "it was renamed");
        assert_eq!(find("h1", "tank/ab", Some(("b2", None))), None, "made anew under the name");
        assert_eq!(find("h1", "tank/ab@s", Some(("b1", Some(7)))).unwrap(), "/dev/nbd4");
        assert_eq!(find("h1", "tank/ab@s", Some(("b1", Some(8)))), None, "taken anew under the name");
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "a program that is tried")]
    async fn a_programs_exit_code_tells_what_it_was() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("attacher");
        let script =
            "#!/bin/sh\ncase $1 in find) ;; attach) echo /dev/null;; *) echo busy >&2; exit 6;; esac\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let attacher = Attacher::Program { program: program.clone(), home: dir.path().into() };
        let (id, of) = ("p/v".parse::<Id>().unwrap(), Identity { volume: "a1".into(), snapshot: None });
        assert_eq!(attacher.find(&id, Some(&of)).await.unwrap(), None);
        assert!(attacher.attach(&id, &of, false).await.unwrap_err().message.contains("which is no device"));
        attacher.detach(&id, None).await.unwrap();
        let refused = run(&program, &["detach", "p/v"], &[]).await.unwrap_err();
        assert!(
            refused.is(Code::FailedPrecondition) && refused.message.ends_with("busy (exit code 6)"),
            "{refused}"
        );
    }
}
