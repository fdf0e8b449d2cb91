//! Objects that nobody needs are deleted: after the checkpoint that says so is known to be recorded, and a grace period
//! (protocol.md §5.7).
//!
//! What is dead under one recorded head is dead for ever, so a deletion may come late, twice, or from an owner that was shut
//! out meanwhile; the grace only spares readers a second look. What stores are put back to may be older than that head: it is
//! asked for again right before each deletion. An object stays in the table's list of retired ones until
//! a checkpoint after its deletion, so that the next owner deletes what this one left.
//!
//! Who reads all that a recorded head names, for as long as that takes (a check), keeps the session from deleting what is
//! retired meanwhile (`Kept`). Only this session's deletions wait: another owner's don't, nor does the removal of the volume.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::head::Stop;
use crate::session::Session;
use crate::session::confirm;
use crate::space::Object;
use windlass_base::{ChunkId, Result};

/// Pause between two looks whether all is collected.
const LOOK: Duration = Duration::from_millis(100);
/// Pause after a deletion that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Guard of a reader: while it is there, its session deletes nothing that was retired since it was made.
#[derive(Debug)]
pub struct Kept {
    session: Arc<Session>,
    reader: u64,
}

impl Kept {
    /// Tells whether the guard still holds: not when the session has ended, nor when too much was retired.
    pub fn holds(&self) -> bool {
        !self.session.has_ended() && self.session.retired.lock().keeps_for(self.reader)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.session.retired.lock().leave(self.reader);
        self.session.collect.notify_waiters();
    }
}

/// Guard of whoever waits for collection: while it is there, its session packs all that pays.
struct Urge(Arc<Session>);

impl Urge {
    fn new(session: &Arc<Session>) -> Urge {
        session.pace.urged.fetch_add(1, Ordering::Relaxed);
        // On a quiet volume no table is recorded that would wake the packer.
        session.pace.ask();
        session.collect.notify_waiters();
        Urge(session.clone())
    }
}

impl Drop for Urge {
    fn drop(&mut self) {
        self.0.pace.urged.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Deletes what is retired as it comes due. Runs with the session.
pub async fn delete_retired(session: Arc<Session>) {
    loop {
        let objects = session.deletable().await;
        let ids: Vec<ChunkId> = objects.iter().map(|o| o.of(session.context.id)).collect();
        match session.delete(&ids).await {
            Ok(()) => {
                ids.iter().for_each(|id| session.writer.forget(id));
                session.retired.lock().deleted(&objects);
                session.collect.notify_waiters();
            }
            Err(error) => {
                tracing::debug!(volume = %session.context.name(), %error, "dead objects stay for now");
                session.context.rt().sleep(AGAIN).await;
            }
        }
    }
}

impl Session {
    /// Keeps what is retired from now on, for those who read all that a recorded head names. They must read the head after this
    /// call: what an earlier table lists as retired isn't named by it, and may be on its way out.
    pub fn keep_retired(self: &Arc<Self>) -> Kept {
        let reader = self.retired.lock().enter(self.context.rt().now());
        Kept { session: self.clone(), reader }
    }

    /// Deletes these objects. What is dead under one recorded head is dead for ever, unless a guess took an older one, or all
    /// stores were put back from a backup. So first it is heard whether any store knows of a guess, also where those that were
    /// given up still answer and agree; then the head must still be this session's, and not behind what was recorded
    /// (`confirm`).
    async fn delete(&self, ids: &[ChunkId]) -> Result<()> {
        let pool = &self.context.engine.pool;
        pool.hear_of_newer().await?;
        confirm(self).await.map_err(Stop::error)?;
        pool.delete(ids).await
    }

    async fn deletable(&self) -> Vec<Object> {
        loop {
            // Registered before the look: a notice that comes in between must not be lost.
            let news = self.collect.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            let (now, grace) = (self.context.rt().now(), self.context.engine.pool.settings().grace());
            let (objects, next) = self.retired.lock().due(now, grace);
            if !objects.is_empty() {
                return objects;
            }
            match next {
                Some(at) => {
                    self.context.rt().timeout(at.since(now), news).await;
                }
                None => news.await,
            }
        }
    }

    /// Returns when nothing is left to pack or to delete, grace period included. Waits for checks that are under way.
    /// Meanwhile less space is aimed at than writes alone would make it worth (`URGED`).
    pub async fn collect_all(self: &Arc<Self>) -> Result<(), Stop> {
        let _urge = Urge::new(self);
        self.checkpoint_surely(&[]).await?;
        loop {
            if self.settled() && self.retired.lock().waiting() == 0 {
                return Ok(());
            }
            self.or_end(self.context.rt().sleep(LOOK)).await?;
        }
    }
}
