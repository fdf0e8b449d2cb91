//! Signals that end the daemon.

use tokio::signal::unix::{SignalKind, signal};

/// Returns at the first SIGTERM or SIGINT; never when signals can't be had (then only SIGKILL ends us).
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

/// From here on a SIGHUP, as of a terminal that is closed, changes nothing.
pub fn outlive_hangup() {
    // Once a signal was listened for, it does not end the process any more, also when nobody listens.
    if let Err(error) = signal(SignalKind::hangup()) {
        tracing::warn!(%error, "a SIGHUP ends this process");
    }
}
