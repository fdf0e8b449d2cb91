//! The gate that makes writes wait: for a snapshot, a release, a new journal, or from a session's beginning on.

use super::session_core::Session;

/// Writes wait from here on, until the gate is dropped. One at a time.
pub async fn close_gate(session: &Session) -> Gate<'_> {
    loop {
        let opened = session.opened.notified();
        let mut opened = std::pin::pin!(opened);
        opened.as_mut().enable();
        {
            let mut tip = session.tip.lock();
            if !tip.barrier {
                tip.barrier = true;
                return Gate { session };
            }
        }
        opened.await;
    }
}

impl Session {
    /// Writes wait from the session's beginning, until `gate_of_the_start` is dropped: before anybody has the session.
    pub fn begin_gated(&self) {
        self.tip.lock().barrier = true;
    }

    /// Of `begin_gated`, once.
    pub fn gate_of_the_start(&self) -> Gate<'_> {
        Gate { session: self }
    }
}

/// While it lives no write is taken in.
#[derive(Debug)]
pub struct Gate<'a> {
    session: &'a Session,
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        self.session.tip.lock().barrier = false;
        self.session.opened.notify_waiters();
    }
}
