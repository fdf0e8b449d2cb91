//! The gate that makes writes wait: for a snapshot, a release, a new journal, or from a session's beginning on.

use super::session_core::Session;

/// Closes the gate: writes wait from here on, until the gate is dropped. There is one closed gate at a time;
/// a second caller waits.
pub async fn close_gate(session: &Session) -> Gate<'_> {
    loop {
        let opened = session.opened.notified();
        // Registered before the barrier is looked at: a gate that opens in between must wake this caller.
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
    /// Makes writes wait from the session's beginning, until `gate_of_the_start` is dropped. Called before
    /// anybody has the session.
    pub fn begin_gated(&self) {
        self.tip.lock().barrier = true;
    }

    /// Returns the gate that `begin_gated` closed. It may be called once.
    pub fn gate_of_the_start(&self) -> Gate<'_> {
        Gate { session: self }
    }
}

/// A closed gate: while it lives no write is taken in.
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
