//! `windlass detach`: undoes `attach --device` and `attach --file`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;
use serde_json::json;

use super::attach_instructions::{kernel_number, shown};
use super::attachments::{DeviceOf, Place, attached, chosen, kept_host};
use super::{Global, attach_device, mount, output};
use crate::daemon::StateDir;
use crate::daemon::control_client::Client;
use windlass_base::rt::{RealRuntime, Rt};
use windlass_base::{Error, HostId, Kind, Result, ResultExt as _};

/// Longest wait for the daemon to say what a name stands for now.
const SAID_WITHIN: Duration = Duration::from_secs(5);
/// Time after which `detach` says that it waits.
const SAY_AFTER: Duration = Duration::from_secs(3);

#[derive(clap::Args, Debug)]
pub struct Detach {
    /// POOL/VOLUME or POOL/VOLUME@SNAPSHOT that is attached, its /dev/nbdN, or the FILE that it is
    what: String,
    /// Also what is mounted or open, or can't be flushed: whoever uses it gets errors
    #[arg(long)]
    pub force: bool,
}

impl Detach {
    /// Returns the argument if it names a file, and not a disk or its device.
    fn file(&self) -> Option<&str> {
        let what = self.what.as_str();
        // A volume has its pool before it.
        let is_path = what.starts_with(['/', '.']) || !what.contains('/');
        (is_path && !what.starts_with("/dev/")).then_some(what)
    }
}

pub async fn detach(global: &Global, args: Detach) -> Result<ExitCode> {
    let place = match (args.file(), args.what.starts_with("/dev/")) {
        (Some(file), _) => Place::File(mount::absolute(Path::new(file))?.into()),
        (None, true) => Place::Device(ours(kernel_number(&args.what)?)?),
        (None, false) => of_export(global, &args.what).await?,
    };
    match place {
        Place::Device(number) => attach_device::let_go(global, number, args.force).await,
        Place::File(file) => file_let_go(global, &file, args.force).await,
    }
}

/// Returns the place where the disk that the name means is attached. Only disks of this daemon count.
async fn of_export(global: &Global, export: &str) -> Result<Place> {
    let all = attached();
    // The folder tells without a daemon: a device is let go of whether one runs or not.
    let host = kept_host(&StateDir::locate()?);
    let means = match host {
        Some(host) => meant(global, host, export).await,
        None => None,
    };
    chosen(&all, host, export, means.as_ref())
}

/// Returns what a name stands for now, where a daemon runs and says it.
async fn meant(global: &Global, host: HostId, export: &str) -> Option<DeviceOf> {
    let asked = async {
        let home = StateDir::locate()?;
        Client::connect(&home.control()?).await?.ok_or_else(|| Error::new(Kind::Closed, "no daemon runs"))?;
        shown(global, host, export).await
    };
    let rt = Rt::new(RealRuntime::current());
    let said = rt.timeout(SAID_WITHIN, asked).await;
    match said.unwrap_or_else(|| Err(Error::new(Kind::Timeout, "it does not answer in time"))) {
        Ok(means) => Some(means),
        Err(error) => {
            tracing::debug!(%error, export, "the daemon does not tell what this is now");
            None
        }
    }
}

/// Returns the number of a device that was attached here. Other programs' devices are theirs to let go.
fn ours(number: u32) -> Result<u32> {
    let made_here = attached().iter().any(|(place, _)| *place == Place::Device(number));
    made_here.then_some(number).ok_or_else(|| {
        let why = format!(
            "/dev/nbd{number} was not made by `windlass attach --device`: whoever made it lets it go"
        );
        Error::new(Kind::NotFound, why)
    })
}

/// Detaches a file: what was written is flushed, then the file is again as it was before it was attached.
async fn file_let_go(global: &Global, file: &Path, force: bool) -> Result<ExitCode> {
    let shown = without_links(file.display().to_string());
    let is_it = |(place, _): &(Place, DeviceOf)| *place == Place::File((&shown).into());
    let Some((_, of)) = attached().into_iter().find(is_it) else {
        let why = format!("{shown} is not attached: `windlass attach POOL/VOL --file {shown}` does that");
        return Err(Error::new(Kind::NotFound, why));
    };
    if !force {
        check_daemon(&of).await.map_err(|e| e.context(format!("detaching {shown}")))?;
    }
    let rt = Rt::new(RealRuntime::current());
    let place = shown.clone();
    let mut taken = std::pin::pin!(rt.cpu(move || flush_and_take_out(&place, force)));
    let done = match rt.timeout(SAY_AFTER, &mut taken).await {
        Some(done) => done,
        None => {
            eprintln!(
                "{shown}: waiting for the daemon to store what was written last (`--force` does not wait)"
            );
            taken.await
        }
    };
    done?.context(|| format!("detaching {shown}"))?;
    match global.json {
        true => output::line(&json!({ "file": shown }).to_string()),
        false => output::line(&format!("{shown} is let go")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses at once where the daemon is gone: the file's process would wait long for it. A file that another
/// state folder's daemon serves is not known here.
async fn check_daemon(of: &DeviceOf) -> Result<()> {
    let home = StateDir::locate()?;
    if kept_host(&home) == Some(of.host) && Client::connect(&home.control()?).await?.is_none() {
        let why = format!(
            "no daemon runs, so that what was written last can't be flushed: `windlass serve` starts one; `--force` detaches \
             without, and the daemon stores what it has acknowledged of {} when it starts",
            of.export
        );
        return Err(Error::new(Kind::Refused, why));
    }
    Ok(())
}

/// Returns the path as the kernel names it, without links. The file itself is not asked: whoever serves it
/// may be gone.
fn without_links(file: String) -> String {
    let path = Path::new(&file);
    let folder = path.parent().and_then(|folder| std::fs::canonicalize(folder).ok());
    let named = folder
        .zip(path.file_name())
        .and_then(|(folder, name)| folder.join(name).into_os_string().into_string().ok());
    named.unwrap_or(file)
}

/// Flushes and unmounts a file: as root by itself, for other users by fusermount3. `Refused`: somebody has
/// the file open. `force`: nothing is flushed, and whoever has it open gets errors.
fn flush_and_take_out(file: &str, force: bool) -> Result<()> {
    let (how, lazily) = match force {
        true => (UnmountFlags::DETACH, &["-z"][..]),
        false => {
            let opened = rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            match opened.and_then(rustix::fs::fsync) {
                // Its process is gone, and nobody can write to it any more.
                Err(rustix::io::Errno::NOTCONN) => {}
                flushed => flushed.map_err(std::io::Error::from)?,
            }
            (UnmountFlags::empty(), &[][..])
        }
    };
    let busy =
        || Error::new(Kind::Refused, "it is in use: close it, and let go of loop devices that stand on it");
    match rustix::mount::unmount(file, how) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Err(busy()),
        Err(rustix::io::Errno::PERM) => {
            let ran = std::process::Command::new("fusermount3")
                .arg("-u")
                .args(lazily)
                .args(["--", file])
                .env("LC_ALL", "C")
                .output();
            let ran = ran.context(|| "starting fusermount3".into())?;
            let why = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
            match ran.status.success() {
                true => Ok(()),
                false if why.contains("busy") => Err(busy()),
                false => Err(Error::new(Kind::Denied, why)),
            }
        }
        Err(errno) => Err(std::io::Error::from(errno).into()),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a user's file
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_same_by_a_link_to_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(folder.join("d")).unwrap();
        std::os::unix::fs::symlink("d", folder.join("l")).unwrap();
        let text = |name: &str| folder.join(name).into_os_string().into_string().unwrap();
        assert_eq!(without_links(text("l/v.img")), text("d/v.img"));
        assert_eq!(without_links(text("gone/v.img")), text("gone/v.img"));
    }
}
