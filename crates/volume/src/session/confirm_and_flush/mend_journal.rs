//! The tasks that free a journal's room, and that mend one that failed. Both are begun when the replay is in (`handle::ownership`):
//! before, memory does not know of all that the journal has.

use std::sync::Arc;
use std::time::Duration;

use super::confirm::confirm;
use super::flush::store_upto;
use crate::head::Stop;
use crate::session::Session;
use crate::session::close_gate;
use windlass_base::Kind;
use windlass_journal::Ready;

/// Longest pause between attempts.
const MEND_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Frees the journal's room of records that are stored and confirmed. Runs with the session.
pub async fn trim_journal(session: Arc<Session>) {
    let mut confirmed = session.rounds.confirmed();
    loop {
        let upto = *confirmed.borrow_and_update();
        session.journal.trim(upto);
        if session.journal.failed().is_some() {
            // Writes may go on when the pool has all that was in it.
            session.mending.news.notify_waiters();
        }
        if confirmed.changed().await.is_err() {
            return;
        }
    }
}

/// Begins a journal anew that failed, since it is never trusted again (§3.6). Everything is stored and
/// confirmed, then a new file begins, or none for as long as the disk takes none. Runs with the session.
pub async fn mend_journal(session: Arc<Session>) {
    loop {
        session.mending.wanted.notified().await;
        let (mut pause, mut ready, mut said) = (session.pause(), None, false);
        while session.journal.failed().is_some() {
            if let Err(stop) = session.mend_once(&mut ready).await {
                let error = stop.error();
                if std::mem::replace(&mut said, true) {
                    tracing::debug!(volume = %session.context.name(), %error, "the journal is not mended yet");
                } else {
                    tracing::warn!(volume = %session.context.name(), %error, "the journal is not mended yet");
                }
                if session.journal.is_void() || session.unmended().is_some() {
                    session.mending.news.notify_waiters();
                }
                session.context.rt().sleep(pause).await;
                pause = (pause * 2).min(MEND_PAUSE_MAX);
            }
        }
        session.mending.news.notify_waiters();
    }
}

impl Session {
    /// Tries once to begin the journal anew. `ready`: the files to begin with, once they are made.
    async fn mend_once(self: &Arc<Self>, ready: &mut Option<Ready>) -> Result<(), Stop> {
        let refused = match ready {
            Some(_) => None,
            None => match self.journal.make_ready().await {
                Ok(made) => {
                    *ready = Some(made);
                    None
                }
                Err(error) => Some(error),
            },
        };
        if let Some(error) = refused.as_ref().filter(|_| self.journal.is_void()) {
            // Nothing changes: writes need not wait for it.
            return Err(error.share().into());
        }
        // Most of it while writes go on; the rest while they wait.
        let upto = self.tip.lock().lsn;
        store_upto(self, upto).await?;
        let _barrier = close_gate(self).await;
        let upto = self.tip.lock().lsn;
        store_upto(self, upto).await?;
        confirm(self).await?;
        let (first, begun) = (upto.next(), ready.take());
        // A task of its own: cut off midway, what it still removes would be of the journal that is opened next.
        let session = self.clone();
        let begin = self.context.rt().spawn(async move {
            match begun {
                Some(made) => session.journal.restart(made, first, upto).await.map(Some),
                None => session.journal.give_up(first).await.map(|()| None),
            }
        });
        let done = begin.await?;
        match done {
            Ok(None) => {
                *self.mending.held_up.lock() = None;
                let why = refused.map_or_else(String::new, |e| format!(" ({e})"));
                tracing::warn!(
                    volume = %self.context.name(),
                    "the journal takes no writes for now{why}: a flush waits until all is in the pool"
                );
            }
            Ok(Some(id)) => {
                self.writer.set_journal(id);
                *self.mending.held_up.lock() = None;
                tracing::info!(volume = %self.context.name(), "the journal was begun anew");
            }
            Err(error) => {
                // Room comes back, other than a disk that fails: flushes wait for it and say so.
                if !error.is(Kind::NoSpace) {
                    self.mending.held_up.lock().get_or_insert_with(|| self.context.rt().now());
                }
                return Err(error.into());
            }
        }
        Ok(())
    }
}
