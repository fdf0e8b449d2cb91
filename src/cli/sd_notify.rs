//! What systemd hears of `serve`: that all is up, that it ends, and again and again that it is alive. Without systemd
//! nobody is told anything.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pipe::PipeFlags;
use sd_notify::NotifyState;

use crate::daemon::api::Verb;
use crate::daemon::control_client::Client;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result, ResultExt as _};

/// Signs of life that are given within the time after which systemd takes the daemon for dead.
const SIGNS: u32 = 4;
/// Longest time in which systemd takes up a message, under load.
const HEARS: Duration = Duration::from_secs(10);

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told of this daemon's state");
    }
}

/// Tells systemd that all is up. From here on signs of life are given, if systemd wants them.
pub fn ready(rt: &Rt, control: &Path) {
    tell(&[NotifyState::Ready, NotifyState::Status("serves")]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        rt.spawn(keep_alive(rt.clone(), control.to_owned(), limit / SIGNS)).detach();
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stores what is unsent and lets go of volumes")]);
}

/// Tells whether systemd keeps sockets of a daemon that ends for the next one. Since its version 254 systemd
/// says so itself, before that the unit does.
pub fn keeps_sockets() -> bool {
    let is_there = std::env::var_os("NOTIFY_SOCKET").is_some_and(|address| !address.is_empty());
    is_there && places() > 0
}

/// Returns how many file descriptors systemd keeps for this service.
pub fn places() -> usize {
    std::env::var("FDSTORE").ok().and_then(|most| most.parse().ok()).unwrap_or_default()
}

/// Sends systemd a message, with a file descriptor for it to keep.
pub fn tell_with(message: &str, fd: Option<BorrowedFd<'_>>) -> Result<()> {
    let doing = || "telling systemd".to_owned();
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound().context(doing)?;
    socket.connect(address).context(doing)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let message = [IoSlice::new(message.as_bytes())];
    let sent = rustix::net::sendmsg(&socket, &message, &mut beside, SendFlags::NOSIGNAL);
    sent.map(drop).map_err(std::io::Error::from).context(doing)
}

/// Waits until systemd has carried out all that it was told before: it closes a pipe when it comes to this
/// message. `Timeout` after `HEARS`.
pub fn wait_until_heard() -> Result<()> {
    let doing = || "waiting for systemd".to_owned();
    let (ours, its) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from).context(doing)?;
    tell_with("BARRIER=1", Some(its.as_fd()))?;
    // While this process has that end too the pipe never closes, and the wait runs into its limit.
    drop(its);
    let mut closed = [PollFd::new(&ours, PollFlags::empty())];
    let patience = Timespec::try_from(HEARS).expect("seconds");
    match rustix::event::poll(&mut closed, Some(&patience)).map_err(std::io::Error::from).context(doing)? {
        0 => Err(Error::new(Kind::Timeout, "systemd does not take up what it is told")),
        _ => Ok(()),
    }
}

/// Gives a sign of life for each answer that the engine gives in the way that commands take. An engine that
/// is stuck gives none, so that systemd starts it again. Stores are not asked: a daemon whose stores are away
/// is alive.
async fn keep_alive(rt: Rt, control: PathBuf, every: Duration) {
    loop {
        rt.sleep(every).await;
        match rt.timeout(every, ping(&rt, &control)).await {
            Some(Ok(())) => tell(&[NotifyState::Watchdog]),
            Some(Err(error)) => tracing::warn!(%error, "the daemon does not answer itself"),
            None => tracing::warn!("the daemon does not answer itself within {every:?}"),
        }
    }
}

async fn ping(rt: &Rt, control: &Path) -> Result<()> {
    let nobody = || Error::new(Kind::Closed, "nobody listens on the control socket");
    let mut client = Client::connect(control).await?.ok_or_else(nobody)?;
    client.call(rt, Verb::Ping, |_| {}, std::future::pending()).await.map(drop)
}
