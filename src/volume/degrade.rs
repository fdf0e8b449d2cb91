//! Fewer shards count as stored while too many stores are out (protocol.md §1.2): `w` is lowered in the head before it
//! is counted with, and raised again only when every chunk of the epoch has the full one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{Either, select};

use super::session::Session;
use super::stop::Stop;
use crate::base::{Error, Kind, Result};
use crate::pool::Upload;
use crate::store::Cause;

/// How often stores are looked at, while something is under way or `w` is low.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long one attempt to raise `w` may take before chunks count with the low one again.
const RAISE_MAX: Duration = Duration::from_secs(30);

impl Session {
    pub async fn watch_stores(self: Arc<Session>) {
        loop {
            let low = *self.w.borrow() < self.full_w();
            if !low && self.writer.under_way() == 0 {
                self.writer.busy.notified().await;
            }
            self.ground.rt().sleep(LOOK_EVERY).await;
            let done = if low { self.raise().await } else { self.lower().await };
            if let Err(stop) = done {
                tracing::warn!(volume = %self.ground.name, error = %stop.error(), "how many shards count as stored stays as it is");
                self.ground.rt().sleep(self.pause()).await;
            }
        }
    }

    pub fn full_w(&self) -> usize {
        self.ground.deps.pool.w()
    }

    fn spare(&self) -> usize {
        self.ground.deps.pool.layout().n() - self.full_w()
    }

    async fn lower(self: &Arc<Self>) -> Result<(), Stop> {
        let (pool, k) = (&self.ground.deps.pool, self.writer.k());
        let Some(after) = pool.settings().degrade_after() else { return Ok(()) };
        let out = pool.out_for(after);
        if k == self.full_w() || out <= self.spare() || self.writer.under_way() == 0 {
            return Ok(());
        }
        // Fewer than k are left: nothing can be stored whatever the number, so it stays.
        if out > pool.layout().m() {
            return Ok(());
        }
        self.write_w(k).await?;
        tracing::warn!(volume = %self.ground.name, "{out} stores are out: writes are stored on {k} stores from now on");
        self.count_with(k);
        Ok(())
    }

    async fn write_w(self: &Arc<Self>, w: usize) -> Result<(), Stop> {
        let w = u8::try_from(w).map_err(|_| Error::new(Kind::Internal, "a layout has at most 64 shards"))?;
        let epoch = self.epoch;
        self.change(move |head| head.set_w(epoch, w)).await.map(|_| ())
    }

    /// From now on chunks wait for the full number; those that have fewer are completed; then the head says so.
    async fn raise(self: &Arc<Self>) -> Result<(), Stop> {
        let (pool, full) = (&self.ground.deps.pool, self.full_w());
        if pool.out_for(Duration::ZERO) > self.spare() {
            return Ok(());
        }
        let low = *self.w.borrow();
        self.w.send_replace(full);
        let raised = match self.ground.rt().timeout(RAISE_MAX, self.complete_all()).await {
            Some(done) => done,
            None => Err(self.not_raised().into()),
        };
        if let Err(stop) = raised {
            self.count_with(low);
            return Err(stop);
        }
        self.w_of_all.fetch_max(full, Ordering::Relaxed);
        // Completed to the full number by then, whether or not the head learns of it.
        self.write_w(full).await?;
        // As loud as its beginning was.
        tracing::warn!(volume = %self.ground.name, "the stores are back: writes are stored on {full} of them again");
        Ok(())
    }

    /// All that is stored behind the checkpoint was counted with at least so many shards.
    pub fn w_of_all(&self) -> usize {
        self.w_of_all.load(Ordering::Relaxed)
    }

    /// Chunks are stored with so few from now on.
    pub fn count_with(&self, w: usize) {
        self.w_of_all.fetch_min(w, Ordering::Relaxed);
        self.w.send_replace(w);
    }

    /// Chunks count as stored with so many from now on, and `counting` sees to those that were stored with fewer. Who lowers
    /// it meanwhile has the last word.
    pub async fn count_with_more(&self, w: usize, counting: impl Future<Output = Result<()>>) -> Result<()> {
        let before = self.w_of_all.swap(w, Ordering::Relaxed);
        self.w.send_if_modified(|now| std::mem::replace(now, (*now).max(w)) < w);
        let counted = counting.await;
        if counted.is_err() {
            self.w_of_all.fetch_min(before, Ordering::Relaxed);
        }
        counted
    }

    /// Waits until so many shards are stored; no longer than until fewer are to count.
    pub async fn completed_to(&self, w: usize, upload: &Upload) -> Result<()> {
        let mut now = self.w.subscribe();
        let lowered = std::pin::pin!(now.wait_for(|now| *now < w));
        match select(std::pin::pin!(upload.wait(w)), lowered).await {
            Either::Left((stored, _)) => stored,
            Either::Right(_) => {
                Err(Error::new(Kind::Unavailable, "stores are out: what is stored is counted again"))
            }
        }
    }

    /// Why it took too long: the next attempt goes on from where this one came to.
    fn not_raised(&self) -> Error {
        let condition = self.ground.deps.pool.condition();
        let why = match condition.away.is_empty() {
            true => format!("bringing the rest to the stores that are back takes longer than {RAISE_MAX:?}"),
            false => condition.sentence(),
        };
        Error::new(Kind::Timeout, format!("{why}; it goes on"))
    }

    async fn complete_all(&self) -> Result<(), Stop> {
        let (pool, full) = (&self.ground.deps.pool, self.full_w());
        // Those under way may have been counted with the low number while this began.
        let upto = self.writer.given();
        self.writer.wait_seq(upto).await?;
        for id in self.writer.below(full) {
            let witnesses = self.head.lock().witnesses.clone();
            let probe = pool.probe(&id, &witnesses, Cause::Repair).await;
            if probe.good < full {
                let payload = pool.payload(&id, &probe, Cause::Repair).await?;
                pool.complete(&payload).wait(full).await?;
            }
            self.writer.completed(&id, full);
        }
        Ok(())
    }
}
