//! `windlass attach --device`: a volume as a device of this host's kernel.
//!
//! A process stays for each device: when the daemon dies and comes again, it connects anew and gives the kernel the new sockets,
//! and for that long the kernel holds the device's requests. A restart that hands connections over needs none of that.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use futures::future::{Either, select};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use super::attach_instructions::{Attach, CONNECTIONS, Disk, RECONNECT, look};
use super::attachments;
use super::kernel_disk::{KernelDisks, Losses};
use super::{Global, detach_process, output};
use crate::daemon::api::Verb;
use crate::daemon::control_client::Client;
use crate::daemon::{StateDir, signals};
use windlass_base::rt::{RealRuntime, Rt};
use windlass_base::{Error, Kind, Result, ResultExt as _};
use windlass_nbd::{self as nbd, Address, Info};

/// Time for which requests wait for a daemon that is gone; then they fail.
pub const PATIENCE: Duration = Duration::from_secs(RECONNECT);
/// Pause between two attempts to reach the daemon.
pub const AGAIN: Duration = Duration::from_millis(500);
/// Pause between two looks at whether the device is still there, and what it holds.
pub const LOOK: Duration = Duration::from_secs(1);
/// The folder where sysfs shows the kernel's disks.
const BLOCK: &str = "/sys/block";

/// Attaches the volume and keeps it attached. It starts a process in the background for that, which has
/// `--detached`.
pub async fn attach(global: &Global, args: &Attach, wanted: Option<u32>) -> Result<ExitCode> {
    if !args.detached {
        return detach_process::leave_behind("the device").await;
    }
    signals::outlive_hangup();
    let home = StateDir::locate()?;
    let disk = look(global, args).await?;
    if matches!(disk.address, Address::Tls(_)) {
        let why = "the kernel itself doesn't speak TLS: `--address` names another socket, `--as nbd` prints what nbd-client needs";
        return Err(Error::new(Kind::Unsupported, why));
    }
    attachments::refuse_second(&disk.shows)?;
    let (kernel, losses) = KernelDisks::open().await?;
    let (export, sockets) = connections(&disk).await?;
    let export = if disk.read_only { export.to_read() } else { export };
    let rt = Rt::new(RealRuntime::current());
    let held = ask_held(&rt, &home, &disk, None).await?;
    let name = disk.shows.to_string();
    let number = kernel.connect(wanted, &export, &sockets, PATIENCE, &name).await?;
    let maker = maker(Path::new(BLOCK), number);
    let count = sockets.len();
    drop(sockets);
    let device = format!("/dev/nbd{number}");
    match global.json {
        true => output::line(&json!({ "export": disk.export, "device": device }).to_string()),
        false => output::line(&device),
    }
    detach_process::let_go(&home.device_log(), "ready")?;
    Keeper { rt, home, kernel, losses, disk, held, name, number, connections: count, maker }.run().await;
    Ok(ExitCode::SUCCESS)
}

/// Returns the process that made a device, as the kernel numbers it. The number stays however often the
/// device is connected anew.
fn maker(block: &Path, number: u32) -> Option<String> {
    std::fs::read_to_string(block.join(format!("nbd{number}/pid"))).ok()
}

async fn connections(disk: &Disk) -> Result<(Info, Vec<OwnedFd>)> {
    let (export, first) = nbd::for_kernel(&disk.address, &disk.export).await?;
    let mut sockets = vec![first];
    while export.allows_many_connections() && sockets.len() < CONNECTIONS {
        sockets.push(nbd::for_kernel(&disk.address, &disk.export).await?.1);
    }
    Ok((export, sockets))
}

/// Asks what the device holds of its disk. `held`: what it held so far, which the daemon compares. The daemon
/// that serves the disk is asked, never an engine of this process: that would keep the daemon from starting.
pub async fn ask_held(rt: &Rt, home: &StateDir, disk: &Disk, held: Option<&Value>) -> Result<Value> {
    let nobody = || Error::new(Kind::Closed, "no daemon runs");
    let mut client = Client::connect(&home.control()?).await?.ok_or_else(nobody)?;
    let asks = Verb::ExportHeld { export: disk.export.clone(), held: held.cloned() };
    client.call(rt, asks, |_| {}, std::future::pending()).await?.answer()
}

/// The part of the process that keeps a device connected until it is let go.
struct Keeper {
    rt: Rt,
    home: StateDir,
    kernel: KernelDisks,
    losses: Losses,
    disk: Disk,
    /// The volume, and the ownership under which the kernel has last seen it: the kernel's caches are of that
    /// one.
    held: Value,
    name: String,
    number: u32,
    /// Number of connections that the device was made of.
    connections: usize,
    maker: Option<String>,
}

impl Keeper {
    async fn run(mut self) {
        let device = format!("/dev/nbd{}", self.number);
        loop {
            let lost = {
                let (loss, look) = (std::pin::pin!(self.losses.next()), std::pin::pin!(self.rt.sleep(LOOK)));
                match select(loss, look).await {
                    Either::Left((number, _)) => number == self.number,
                    Either::Right(_) => false,
                }
            };
            if !self.is_there().await {
                tracing::info!(device, export = self.disk.export, "the device is let go");
                return;
            }
            if lost {
                tracing::warn!(device, export = self.disk.export, "a connection is lost");
                self.mend(&device).await;
            }
            // It may have become this host's since, by the device's first write. Losses may come for as long as the daemon lives.
            if let Ok(held) = ask_held(&self.rt, &self.home, &self.disk, Some(&self.held)).await {
                self.held = held;
            }
        }
    }

    /// Tells whether the device is still the one that was made; true also where the kernel does not tell.
    /// Another program may have its number by now, for whichever volume.
    async fn is_there(&self) -> bool {
        let connected = self.kernel.is_connected(self.number).await.unwrap_or(true);
        match (maker(Path::new(BLOCK), self.number), &self.maker) {
            (Some(now), Some(then)) => connected && now == *then,
            _ => connected,
        }
    }

    /// Replaces lost connections until all are made up for, or the device is gone. It makes as many as the
    /// device has: the kernel drops those that it has no use for, and does not say so.
    async fn mend(&self, device: &str) {
        let (mut told, mut made) = (String::new(), 0);
        while made < self.connections {
            match self.connect_one().await {
                Ok(true) => {
                    made += 1;
                    tracing::info!(device, "connected anew");
                }
                Ok(false) => return,
                Err(error) => {
                    let now = error.to_string();
                    if now != told {
                        tracing::warn!(device, error = now, "it can't be connected yet");
                        told = now;
                    }
                    if !self.is_there().await {
                        return;
                    }
                    self.rt.sleep(AGAIN).await;
                }
            }
        }
    }

    /// Makes one new connection for the device. False: the device is gone.
    async fn connect_one(&self) -> Result<bool> {
        let (export, socket) = nbd::for_kernel(&self.disk.address, &self.disk.export).await?;
        // Another volume may have the name by now, or others have had the volume: what they have is none of this device's.
        let held = ask_held(&self.rt, &self.home, &self.disk, Some(&self.held)).await;
        held.map_err(|error| match error.is(Kind::Fenced) {
            true => Error::new(Kind::Refused, format!("{error}: detach the device")),
            false => error,
        })?;
        self.kernel.reconnect(self.number, &export, &socket, &self.name).await
    }
}

/// Detaches a device that `attach --device` made.
pub async fn let_go(global: &Global, number: u32, force: bool) -> Result<ExitCode> {
    let device = format!("/dev/nbd{number}");
    // Held alone while it is let go: mounted file systems and whatever else is built on it hold it too.
    let held = match force {
        true => None,
        false => Some(alone(&device)?),
    };
    if let Some(held) = &held {
        rustix::fs::fsync(held).map_err(std::io::Error::from).context(|| format!("flushing {device}"))?;
    }
    let (kernel, _losses) = KernelDisks::open().await?;
    kernel.disconnect(number).await?;
    match global.json {
        true => output::line(&json!({ "device": device }).to_string()),
        false => output::line(&format!("{device} is let go")),
    }
    Ok(ExitCode::SUCCESS)
}

fn alone(device: &str) -> Result<OwnedFd> {
    let opened = rustix::fs::open(device, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|errno| match errno {
        rustix::io::Errno::BUSY => {
            let why = format!("{device} is in use: unmount it first, or `--force` (its users get errors)");
            Error::new(Kind::Refused, why)
        }
        rustix::io::Errno::NOENT | rustix::io::Errno::NXIO | rustix::io::Errno::NODEV => {
            Error::new(Kind::NotFound, format!("there is no {device}: nothing is attached there"))
        }
        other => Error::from(std::io::Error::from(other)).context(format!("opening {device}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_by_who_made_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("nbd0")).unwrap();
        std::fs::create_dir(dir.path().join("nbd7")).unwrap();
        let mut pid = tempfile::NamedTempFile::new_in(dir.path().join("nbd0")).unwrap();
        std::io::Write::write_all(&mut pid, b"4711\n").unwrap();
        pid.persist(dir.path().join("nbd0/pid")).unwrap();
        assert_eq!(maker(dir.path(), 0).as_deref(), Some("4711\n"));
        assert_eq!((maker(dir.path(), 7), maker(dir.path(), 8)), (None, None));
    }
}
