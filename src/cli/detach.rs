//! `windlass detach`: undoes `attach --device` and `attach --file`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::attach_instructions::{kernel_number, shown};
use super::attachments::{DeviceOf, Place, attached, chosen, kept_host};
use super::{Global, attach_device, attach_file, mount};
use crate::base::rt::{RealRuntime, Rt};
use crate::base::{Error, HostId, Kind, Result};
use crate::daemon::StateDir;
use crate::daemon::control_client::Client;

/// How long `detach` waits for the daemon to say what a name stands for now.
const SAID_WITHIN: Duration = Duration::from_secs(5);

#[derive(clap::Args, Debug)]
pub struct Detach {
    /// POOL/VOLUME or POOL/VOLUME@SNAPSHOT that is attached, its /dev/nbdN, or the FILE that it is
    what: String,
    /// Also what is mounted or open, or can't be flushed: whoever uses it gets errors
    #[arg(long)]
    pub force: bool,
}

impl Detach {
    /// What names a file, and not a disk or its device.
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
        Place::File(file) => attach_file::detach(global, &file, args.force).await,
    }
}

/// Where that is attached which the name means, of this daemon.
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

/// What a name stands for now, where a daemon runs and says it.
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

/// Other programs' devices are theirs to let go.
fn ours(number: u32) -> Result<u32> {
    let made_here = attached().iter().any(|(place, _)| *place == Place::Device(number));
    made_here.then_some(number).ok_or_else(|| {
        let why = format!(
            "/dev/nbd{number} was not made by `windlass attach --device`: whoever made it lets it go"
        );
        Error::new(Kind::NotFound, why)
    })
}
