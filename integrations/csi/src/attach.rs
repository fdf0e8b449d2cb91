//! How a volume becomes a block device of this host.

use std::path::{Path, PathBuf};

use crate::host;
use crate::names::Id;
use crate::status::{Code, Result, Status};

/// What the `backend` of a device that `windlass attach --device` made begins with, in sysfs.
const OURS: &str = "windlass:";

pub enum Attacher {
    /// `windlass attach POOL/VOLUME --device`, the kernel's own NBD client.
    Kernel { windlass: PathBuf, home: PathBuf },
    /// A program for hosts whose kernel has none: `PROGRAM find|attach|detach POOL/VOLUME [ro]`. `find` and `attach` print the
    /// device, `find` nothing where there is none. `detach` of what is not attached is no failure.
    Program(PathBuf),
}

impl Attacher {
    /// The device that shows a volume or snapshot.
    pub async fn find(&self, id: &Id) -> Result<Option<PathBuf>> {
        match self {
            Attacher::Kernel { .. } => Ok(shown_by(Path::new("/sys/block"), &id.to_string())),
            Attacher::Program(program) => {
                let said = run(program, &["find", &id.to_string()], &[]).await?;
                Ok(Some(said).filter(|device| !device.is_empty()).map(PathBuf::from))
            }
        }
    }

    /// The device of a volume: the one that there is, or a new one.
    pub async fn attach(&self, id: &Id, read_only: bool) -> Result<PathBuf> {
        if let Some(device) = self.find(id).await? {
            return Ok(device);
        }
        let text = id.to_string();
        let device = match self {
            Attacher::Kernel { windlass, home } => {
                run(windlass, &["attach", &text, "--device"], &[("WINDLASS_HOME", host::utf8(home)?)]).await?
            }
            Attacher::Program(program) if read_only => run(program, &["attach", &text, "ro"], &[]).await?,
            Attacher::Program(program) => run(program, &["attach", &text], &[]).await?,
        };
        let device = PathBuf::from(device.lines().last().unwrap_or_default());
        match host::number_of(&device) {
            Some(_) => Ok(device),
            None => Err(Status::internal(format!(
                "{text} was attached as {}, which is no device",
                device.display()
            ))),
        }
    }

    /// Takes the device away, if there is one. One that is still used is refused.
    pub async fn detach(&self, id: &Id) -> Result<()> {
        if self.find(id).await?.is_none() {
            return Ok(());
        }
        let text = id.to_string();
        match self {
            Attacher::Kernel { windlass, home } => {
                run(windlass, &["detach", &text], &[("WINDLASS_HOME", host::utf8(home)?)]).await?
            }
            Attacher::Program(program) => run(program, &["detach", &text], &[]).await?,
        };
        Ok(())
    }
}

/// Windlass's exit codes tell what kind of failure it was.
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

/// Of the kernel's NBD devices the one that shows an export, by what its maker wrote into it.
fn shown_by(block: &Path, export: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(block).ok()?.flatten();
    let mut names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok().filter(|name| name.starts_with("nbd"))?;
        let backend = std::fs::read_to_string(entry.path().join("backend")).ok()?;
        (backend.trim_end().strip_prefix(OURS) == Some(export)).then_some(name)
    });
    names.next().map(|name| Path::new("/dev").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a folder as sysfs has it")]
    fn devices_are_found_by_what_they_show() {
        let dir = tempfile::tempdir().unwrap();
        for (name, backend) in [
            ("nbd0", "windlass:tank/a\n"),
            ("nbd1", "windlass:tank/ab\n"),
            ("nbd2", "other\n"),
            ("sda", "windlass:tank/c"),
        ] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("backend"), backend).unwrap();
        }
        std::fs::create_dir(dir.path().join("nbd3")).unwrap();
        assert_eq!(shown_by(dir.path(), "tank/ab"), Some("/dev/nbd1".into()));
        assert_eq!(shown_by(dir.path(), "tank/c"), None);
        assert_eq!(shown_by(dir.path(), "tank"), None);
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
        let (attacher, id) = (Attacher::Program(program.clone()), "p/v".parse::<Id>().unwrap());
        assert_eq!(attacher.find(&id).await.unwrap(), None);
        assert!(attacher.attach(&id, false).await.unwrap_err().message.contains("which is no device"));
        attacher.detach(&id).await.unwrap();
        let refused = run(&program, &["detach", "p/v"], &[]).await.unwrap_err();
        assert!(
            refused.is(Code::FailedPrecondition) && refused.message.ends_with("busy (exit code 6)"),
            "{refused}"
        );
    }
}
