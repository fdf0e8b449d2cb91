//! Signals that end the daemon, and the one that makes it read its configuration anew.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Returns at the first SIGTERM or SIGINT. It never returns when signals can't be had: then only SIGKILL ends us.
pub async fn terminated() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut stream) => drop(stream.recv().await),
            Err(error) => {
                tracing::error!(%error, "cannot listen for signals");
                std::future::pending().await
            }
        }
    };
    let (term, int) = (wait(SignalKind::terminate()), wait(SignalKind::interrupt()));
    futures::pin_mut!(term, int);
    futures::future::select(term, int).await;
}

/// Makes a SIGHUP, as of a terminal that is closed, change nothing from here on.
pub fn outlive_hangup() {
    // Once a signal was listened for, it does not end the process any more, also when nobody listens.
    if let Err(error) = signal(SignalKind::hangup()) {
        tracing::warn!(%error, "a SIGHUP ends this process");
    }
}

/// Stream of the SIGHUPs that come.
#[derive(Debug)]
pub struct Hangups(Option<Signal>);

impl Hangups {
    /// Listens for SIGHUPs. From here on none ends the process any more.
    pub fn listen() -> Hangups {
        let listening = signal(SignalKind::hangup());
        Hangups(listening.inspect_err(|error| tracing::warn!(%error, "a SIGHUP ends this process")).ok())
    }

    /// Returns at the next SIGHUP.
    pub async fn next(&mut self) {
        let came = match &mut self.0 {
            Some(stream) => stream.recv().await,
            None => None,
        };
        if came.is_none() {
            std::future::pending().await
        }
    }
}
