//! What systemd hears of `serve`: that all is up, that it ends, and again and again that it is alive. Without systemd
//! nobody is told anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::base::rt::Rt;
use crate::base::{Error, Kind, Result};
use crate::daemon::api::Verb;
use crate::daemon::control::Client;

/// Signs of life within the time after which systemd takes the daemon for dead.
const SIGNS: u32 = 4;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told of this daemon's state");
    }
}

/// All is up. From here on signs of life are given, if systemd wants them.
pub fn ready(rt: &Rt, control: &Path) {
    tell(&[NotifyState::Ready, NotifyState::Status("serves")]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        rt.spawn(keep_alive(rt.clone(), control.to_owned(), limit / SIGNS)).detach();
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stores what is unsent and lets go of volumes")]);
}

/// Gives a sign of life for each answer of the engine that came the way that commands take. An engine that is stuck gives
/// none, so that systemd starts it again. Stores are not asked: a daemon whose stores are away is alive.
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
