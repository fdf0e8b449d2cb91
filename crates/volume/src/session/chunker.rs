//! The task that cuts pending records into chunks, and what happens when one is stored.

use std::sync::Arc;

use futures::future::{Either, select};

use super::pending::Taken;
use super::session_core::Session;
use super::tip::Kept;
use windlass_base::{Era, Held};
use windlass_log::{Cutting, Prefix};

/// Frames of a stored chunk that are placed in one hold of the tip's lock, for which writes wait.
const PLACED_AT_ONCE: usize = 64;
/// Bytes of memory that an entry takes from when it is stored until it is merged: in its overlay layer, and in `NewChunks`.
const ENTRY_COST: u64 = 128;

/// Joins all of `held` into one hold of memory, shrunk to `bytes`.
fn keep(held: Vec<Held>, bytes: u64) -> Option<Held> {
    let mut kept = held.into_iter().reduce(|mut all, one| {
        all.join(one);
        all
    })?;
    kept.shrink(bytes);
    Some(kept)
}

/// Cuts pending records into chunks until the session ends. This is the only task that cuts: the order of its
/// calls is the order of the log.
pub async fn cut_chunks(session: Arc<Session>) {
    loop {
        session.wait_for_work().await;
        let taken = session.tip.lock().pending.take(session.writer.chunk_target());
        let Some(Taken { draft, era, held, oldest }) = taken else { continue };
        let Some((_, last)) = draft.span() else { continue };
        let bytes = draft.bytes();
        match session.writer.cut(draft, era).await {
            Ok(cutting) => {
                session.tip.lock().was_cut(Prefix { seq: cutting.seq(), lsn: last }, oldest, bytes);
                session.run(|session| session.store_chunk(cutting, era, held));
            }
            Err(error) => {
                tracing::error!(volume = %session.context.name(), %error, "the volume's log can't be written: I/O fails from now on");
                session.stop(crate::head::Stop::Failed(error));
                return;
            }
        }
    }
}

impl Session {
    /// Waits until a chunk is to be cut. When any volume of the engine waits for memory, every volume cuts
    /// all that it has pending, since each holds some of the memory.
    async fn wait_for_work(&self) {
        let overlay = &self.context.engine.memory.overlay;
        loop {
            let work = std::pin::pin!(self.work.notified());
            // Registered before `due` is read, so that a shortage that begins in between is not missed.
            let mut short = std::pin::pin!(overlay.shortage());
            short.as_mut().enable();
            let now = self.context.rt().now();
            let due = self.tip.lock().pending.due(self.writer.chunk_target(), self.cut_age());
            let woken = select(work, short);
            let woken = match due {
                Some(at) if at <= now => return,
                Some(at) => self.context.rt().timeout(at.since(now), woken).await,
                None => Some(woken.await),
            };
            if let Some(Either::Right(_)) = woken {
                self.hurry();
            }
        }
    }

    /// Puts one chunk. When it is stored, the tip's entries point to it and the prefix goes on. The memory is
    /// free then, but for what the entries themselves take until a checkpoint has merged them.
    async fn store_chunk(self: Arc<Session>, cutting: Cutting, era: Era, held: Vec<Held>) {
        let id = cutting.seq();
        match cutting.stored().await {
            Ok(stored) => {
                let frames = stored.placed.iter().map(|p| (p.at.offset, p.at.len));
                self.new_chunks.lock().data(self.epoch, id, era, frames);
                self.set_pace();
                for some in stored.placed.chunks(PLACED_AT_ONCE) {
                    self.tip.lock().place(&stored, some);
                    self.context.rt().give_way().await;
                }
                // Must come before any checkpoint that counts these entries as merged.
                if let Some(kept) = keep(held, (stored.placed.len() + stored.zeros) as u64 * ENTRY_COST) {
                    let kept = Kept::new(kept, &self.context.engine.memory.kept);
                    self.tip.lock().keep(stored.last, kept);
                }
                self.writer.count(&stored);
                let upto = self.writer.prefix().lsn;
                self.tip.lock().stored_upto(upto);
                self.ripe.notify_one();
                if self.journal.is_short() {
                    // Who waits for room asked for a round before this was stored: that round may be over and have
                    // trimmed nothing.
                    self.rounds.ask();
                }
            }
            Err(error) => {
                tracing::error!(volume = %self.context.name(), chunk = %id, %error, "a chunk can't be stored");
                self.stop(crate::head::Stop::Failed(error));
            }
        }
    }
}
