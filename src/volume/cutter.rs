//! The task that cuts pending records into chunks, and what happens when one is stored.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::pending::Taken;
use super::session::Session;
use crate::base::{Era, Held};
use crate::log::{Cutting, Prefix, chunk_target};

/// A whole chunk waits no longer than this for collection.
const SLOWEST: Duration = Duration::from_millis(800);
/// Per mille of what is live: more than what collection aims at before writes are slowed, and before they are at their
/// slowest.
const CROWDED: (u64, u64) = (20, 120);

impl Session {
    /// How old a record may get before its chunk is cut: half of max-tail, the other half is for the puts.
    pub fn cut_age(&self) -> Duration {
        self.ground.settings.max_tail() / 2
    }

    /// The one that cuts: the order of its calls is the order of the log.
    pub async fn cutter(self: Arc<Session>) {
        loop {
            self.wait_for_work().await;
            let taken = self.tip.lock().pending.take(self.writer.k());
            let Some(Taken { draft, era, held, oldest }) = taken else { continue };
            let Some((_, last)) = draft.span() else { continue };
            let bytes = draft.bytes();
            match self.writer.cut(draft, era).await {
                Ok(cutting) => {
                    self.tip.lock().was_cut(Prefix { seq: cutting.seq(), lsn: last }, oldest, bytes);
                    self.run(|session| session.store_chunk(cutting, era, held));
                    self.keep_pace(bytes).await;
                }
                Err(error) => {
                    tracing::error!(volume = %self.ground.name, %error, "writes can't be stored any more");
                    self.stop(super::stop::Stop::Failed(error));
                    return;
                }
            }
        }
    }

    /// Collection is behind when objects take more space than it aims at and it still finds work: writes go on the slower
    /// the more it is behind, so that space stays bounded and latency rises smoothly.
    async fn keep_pace(&self, bytes: u64) {
        let share = bytes as f64 / chunk_target(self.writer.k()) as f64;
        let began = self.ground.rt().now();
        loop {
            let news = self.collect.notified();
            let until = began + SLOWEST.mul_f64(share.min(1.0) * self.crowding());
            let now = self.ground.rt().now();
            if until <= now {
                return;
            }
            self.ground.rt().timeout(until.since(now), news).await;
        }
    }

    /// From 0, there is space enough, to 1, writes are at their slowest.
    fn crowding(&self) -> f64 {
        if self.settled() {
            return 0.0;
        }
        let live = self.live.load(Ordering::Relaxed);
        let tuning = &self.ground.deps.tuning;
        // What is not merged yet has died, too, and nobody has counted it.
        let aim = live / 1000 * tuning.space_max.1 + self.unmerged_max() + 2 * chunk_target(self.writer.k());
        let above = self.stored_bytes().saturating_sub(aim) as f64 * 1000.0 / live.max(1) as f64;
        let (from, to) = (CROWDED.0 as f64, CROWDED.1 as f64);
        ((above - from) / (to - from)).clamp(0.0, 1.0)
    }

    async fn wait_for_work(&self) {
        loop {
            let work = self.work.notified();
            let now = self.ground.rt().now();
            let due = self.tip.lock().pending.due(self.writer.k(), self.cut_age());
            match due {
                Some(at) if at <= now || self.ground.deps.memory.overlay.is_short() => return,
                Some(at) => {
                    self.ground.rt().timeout(at.since(now), work).await;
                }
                None => work.await,
            }
        }
    }

    /// Puts one chunk; when it is stored the tip's entries point to it, their memory is free, the prefix goes on.
    async fn store_chunk(self: Arc<Session>, cutting: Cutting, era: Era, held: Vec<Held>) {
        let id = cutting.seq();
        match cutting.stored().await {
            Ok(stored) => {
                let frames = stored.placed.iter().map(|p| (p.at.offset, p.at.len));
                self.births.lock().data(self.epoch, id, era, frames);
                self.tip.lock().place(&stored);
                self.writer.count(&stored);
                let upto = self.writer.prefix().lsn;
                self.tip.lock().stored_upto(upto);
                drop(held);
                self.ripe.notify_one();
            }
            Err(error) => {
                tracing::error!(volume = %self.ground.name, chunk = %id, %error, "a chunk can't be stored");
                self.stop(super::stop::Stop::Failed(error));
            }
        }
    }
}
