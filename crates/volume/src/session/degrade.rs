//! Fewer shards count as stored while too many stores are out (protocol.md §1.2): `w` is lowered in the head before it
//! is counted with, and raised again only when every chunk of the epoch has the full one.
//!
//! Before the head may say more, chunks must wait for more: if another store fails then, writes are held up that were
//! stored well a moment ago. So what the stores that are back have missed is brought to them before anybody waits for
//! them; and an attempt ends, and chunks count with the low number again, as soon as stores are out or nothing gets on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{Either, select};

use super::session_core::Session;
use crate::head::Stop;
use windlass_base::{Error, Kind, Result, Seq};
use windlass_pool::Upload;
use windlass_store::Cause;

/// Time between looks at the stores, while something is under way or `w` is low.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Most rounds in which what was stored with fewer shards meanwhile is completed, before chunks wait for the
/// full number.
const ROUNDS: usize = 3;
/// Time without progress after which an attempt to raise `w` is given up, while chunks wait for the full
/// number: a store may hang and still show its label. It is doubled with every attempt that ended so: where
/// links are slow a chunk takes its time.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_MAX: Duration = Duration::from_secs(30);
/// Pause after a failed attempt. It is doubled with each.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Multiple of the time for which an attempt held writes up, which the pause after it lasts at least.
const PAUSE_PER_HELD_UP: u32 = 10;

/// State of the attempts to raise `w`, since one succeeded.
#[derive(Debug)]
struct Attempts {
    patience: Duration,
    pause: Duration,
    /// Is true if the head may say a low number though all is counted with the full one: a change whose
    /// outcome nobody learned can have been chosen.
    unsure: bool,
}

impl Default for Attempts {
    fn default() -> Attempts {
        Attempts { patience: PATIENCE, pause: PAUSE, unsure: false }
    }
}

impl Attempts {
    /// Notes that an attempt has failed which held writes up for so long. Returns the pause until the next.
    fn failed(&mut self, held_up: Duration) -> Duration {
        let pause = self.pause.max(held_up * PAUSE_PER_HELD_UP);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        if held_up >= self.patience {
            self.patience = (self.patience * 2).min(PATIENCE_MAX);
        }
        pause
    }
}

/// Lowers and raises how many shards make a chunk stored, as stores go and come. Runs with the session.
pub async fn watch_stores(session: Arc<Session>) {
    let mut attempts = Attempts::default();
    loop {
        let low = *session.w.borrow() < session.full_w() || attempts.unsure;
        if !low && session.writer.under_way() == 0 {
            session.writer.busy.notified().await;
        }
        session.context.rt().sleep(LOOK_EVERY).await;
        let done = match low {
            true => session.raise(&mut attempts).await,
            false => session.lower(&mut attempts).await.map_err(|stop| (stop, session.pause())),
        };
        if let Err((stop, pause)) = done {
            tracing::warn!(volume = %session.context.name(), error = %stop.error(), "the number of shards that make a write stored could not be changed");
            session.rest(pause).await;
        }
    }
}

impl Session {
    /// Sleeps for a pause, and cuts it short where stores are out, which may ask for fewer shards still.
    async fn rest(&self, pause: Duration) {
        let rt = self.context.rt();
        let until = rt.now() + pause;
        loop {
            let left = until.since(rt.now());
            rt.sleep(left.min(LOOK_EVERY)).await;
            if left <= LOOK_EVERY || self.context.engine.pool.out_for(Duration::ZERO) > self.spare() {
                return;
            }
        }
    }

    pub fn full_w(&self) -> usize {
        self.context.engine.pool.w()
    }

    fn spare(&self) -> usize {
        self.context.engine.pool.layout().n() - self.full_w()
    }

    async fn lower(self: &Arc<Self>, attempts: &mut Attempts) -> Result<(), Stop> {
        let (pool, k, w) = (&self.context.engine.pool, self.writer.k(), *self.w.borrow());
        let Some(after) = pool.settings().degrade_after() else { return Ok(()) };
        let out = pool.out_for(after);
        if w <= k || out <= pool.layout().n().saturating_sub(w) || self.writer.under_way() == 0 {
            return Ok(());
        }
        // Fewer than k are left: nothing can be stored whatever the number, so it stays.
        if out > pool.layout().m() {
            return Ok(());
        }
        attempts.unsure = true;
        // The head says the low number before anything counts with it: a taker judges chunks by the head.
        self.write_w(k).await?;
        tracing::warn!(volume = %self.context.name(), "{out} stores are out: writes are stored on {k} stores from now on");
        self.count_with(k);
        Ok(())
    }

    async fn write_w(self: &Arc<Self>, w: usize) -> Result<(), Stop> {
        let w = u8::try_from(w).map_err(|_| Error::new(Kind::Internal, "a layout has at most 64 shards"))?;
        let epoch = self.epoch;
        self.change(move |head| head.set_w(epoch, w)).await.map(|_| ())
    }

    /// Raises `w` to the full number. First the stores that are back get what they have missed. Then chunks
    /// wait for the full number, those that have fewer are completed, and the head says so. An error comes
    /// with the pause until the next attempt.
    async fn raise(self: &Arc<Self>, attempts: &mut Attempts) -> Result<(), (Stop, Duration)> {
        let (rt, full) = (self.context.rt(), self.full_w());
        if self.context.engine.pool.out_for(Duration::ZERO) > self.spare() {
            // The full number may have grown by a setting: then the low one need not be the lowest.
            return self.lower(attempts).await.map_err(|stop| (stop, self.pause()));
        }
        let missed = self.while_it_gets_on(None, self.bring_what_was_missed(full)).await;
        missed.map_err(|stop| (stop, attempts.failed(Duration::ZERO)))?;
        let low = *self.w.borrow();
        if low >= full && !attempts.unsure {
            return Ok(());
        }
        let began = rt.now();
        self.w.send_replace(full);
        let raised = self.while_it_gets_on(Some(attempts.patience), self.complete_all(full)).await;
        if let Err(stop) = raised {
            // The head still says so.
            self.count_with(low);
            return Err((stop, attempts.failed(rt.now().since(began))));
        }
        *attempts = Attempts { unsure: true, ..Attempts::default() };
        self.w_of_all.fetch_max(full, Ordering::Relaxed);
        // Completed to the full number by then, whether or not the head learns of it.
        self.write_w(full).await.map_err(|stop| (stop, self.pause()))?;
        attempts.unsure = false;
        // As loud as its beginning was.
        tracing::warn!(volume = %self.context.name(), "the stores are back: writes are stored on {full} of them again");
        Ok(())
    }

    /// Does the work, as long as there are stores enough for the full number and, with `patience`, as
    /// something gets on.
    async fn while_it_gets_on(
        &self,
        patience: Option<Duration>,
        work: impl Future<Output = Result<(), Stop>>,
    ) -> Result<(), Stop> {
        let rt = self.context.rt();
        let mut work = std::pin::pin!(work);
        let (mut far, mut since) = (self.how_far(), rt.now());
        loop {
            if let Some(done) = rt.timeout(LOOK_EVERY, work.as_mut()).await {
                return done;
            }
            // One put that failed, and was stored when it was sent again, makes no outage.
            if self.context.engine.pool.out_for(LOOK_EVERY) > self.spare() {
                return Err(self.not_raised());
            }
            let (now_far, now) = (self.how_far(), rt.now());
            if now_far != far {
                (far, since) = (now_far, now);
            } else if patience.is_some_and(|patience| now.since(since) >= patience) {
                return Err(self.not_raised());
            }
        }
    }

    /// Returns a value that changes with every chunk that is stored behind no gap, or completed.
    fn how_far(&self) -> (Seq, usize) {
        (self.writer.prefix().seq, self.writer.thin())
    }

    /// Returns the number of shards with which all that is stored behind the checkpoint was counted at least.
    pub fn w_of_all(&self) -> usize {
        self.w_of_all.load(Ordering::Relaxed)
    }

    /// Makes chunks count as stored with so few shards from now on.
    pub fn count_with(&self, w: usize) {
        self.w_of_all.fetch_min(w, Ordering::Relaxed);
        self.w.send_replace(w);
    }

    /// Makes chunks count as stored with so many shards from now on, while `counting` sees to those that were
    /// stored with fewer. A caller that lowers the number meanwhile has the last word.
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

    /// Makes the error of an attempt that was given up. The next one goes on from where this one came to.
    fn not_raised(&self) -> Stop {
        let condition = self.context.engine.pool.condition();
        let why = match condition.away.is_empty() {
            true => "the stores that are back don't take what they have missed".to_owned(),
            false => condition.sentence(),
        };
        Error::new(Kind::Timeout, format!("{why}; it is tried again")).into()
    }

    /// Brings to the stores what they have missed, while chunks still count with the low number, so that
    /// nobody waits for it. A store that doesn't take what it has missed shows itself here.
    async fn bring_what_was_missed(&self, full: usize) -> Result<(), Stop> {
        for _ in 0..ROUNDS {
            if self.writer.below(full).is_empty() {
                break;
            }
            self.complete(full).await?;
        }
        Ok(())
    }

    async fn complete_all(&self, full: usize) -> Result<(), Stop> {
        // Those under way may have been counted with the low number while this began.
        let upto = self.writer.given();
        // One that is still being filled has its number, and is put when it is full.
        self.writer.seal_map();
        self.writer.wait_seq(upto).await?;
        self.complete(full).await
    }

    /// Completes all chunks that have fewer shards now.
    async fn complete(&self, full: usize) -> Result<(), Stop> {
        let pool = &self.context.engine.pool;
        for id in self.writer.below(full) {
            // By itself, or deleted, meanwhile.
            if !self.writer.is_below(&id, full) {
                continue;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_hold_writes_up_for_a_small_part_of_the_time() {
        let mut attempts = Attempts::default();
        let ms = Duration::from_millis;
        let pauses: Vec<_> = (0..4).map(|_| attempts.failed(ms(0))).collect();
        assert_eq!(pauses, [ms(250), ms(500), ms(1_000), ms(2_000)]);
        assert_eq!(attempts.patience, PATIENCE, "they ended at once");
        assert_eq!(attempts.failed(ms(3_000)), ms(30_000));
        for patience in [PATIENCE, PATIENCE * 2, PATIENCE * 4, PATIENCE_MAX, PATIENCE_MAX] {
            assert_eq!(attempts.patience, patience);
            assert!(attempts.failed(patience) >= patience * 10);
        }
        assert_eq!(attempts.failed(ms(0)), PAUSE_MAX);
    }
}
