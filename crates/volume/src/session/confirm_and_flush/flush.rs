//! What is promised of writes: a flush, by the volume's mode, and what it stands on: stored, confirmed, or on this host's disk
//! or a peer's.

use std::time::Duration;

use futures::future::join;

use super::confirm::confirm;
use crate::head::Stop;
use crate::head::{FlushMode, MirrorLoss};
use crate::mirror::Answer;
use crate::session::Session;
use windlass_base::{Error, Lsn};

/// Time for which flushes wait for a journal that can't be begun anew although all is in the pool.
const MEND_PATIENCE: Duration = Duration::from_secs(30);

/// Has chunks cut and waits until all up to `upto` is stored.
pub async fn store_upto(session: &Session, upto: Lsn) -> Result<(), Stop> {
    {
        let mut tip = session.tip.lock();
        if let Some(stop) = &tip.closed {
            return Err(stop.share());
        }
        tip.pending.want(upto);
    }
    session.work.notify_one();
    match session.or_end(session.writer.wait_lsn(upto)).await? {
        Ok(()) => Ok(()),
        Err(e) => Err(session.explain(e)),
    }
}

impl Session {
    /// Makes all that was acknowledged before this call as safe as the volume's setting `flush` promises. A
    /// session that is over promises nothing more: what was written to it may not be in what the volume's
    /// owner has.
    pub async fn flush(&self) -> Result<(), Stop> {
        if let Some(stop) = self.closed() {
            return Err(stop);
        }
        match self.context.settings().flush {
            FlushMode::Local => {
                self.relies_on_here();
                self.sync_journal(None).await
            }
            FlushMode::Pool => {
                let upto = self.tip.lock().lsn;
                if self.journal.mark() >= upto && self.closed().is_none() {
                    self.relies_on_here();
                    return Ok(());
                }
                self.promise(upto).await
            }
            FlushMode::Mirror => {
                self.relies_on_here();
                let upto = self.tip.lock().lsn;
                let (local, mirrored) = join(self.sync_journal(None), self.mirrored(upto)).await;
                local.and(mirrored)
            }
        }
    }

    /// Notes that a flush is answered by what is known here, so that the head is looked at in time. A flush
    /// that goes to the pool looks once all is stored: a look before could end what is on its way there.
    fn relies_on_here(&self) {
        if !self.journal.is_void() {
            self.rounds.relied_on(self.context.rt().now());
        }
    }

    /// Waits until all up to `upto` is on the disk of a peer that the head names, or is as safe as
    /// `mirror-loss` says (model `mirror`: ack).
    async fn mirrored(&self, upto: Lsn) -> Result<(), Stop> {
        loop {
            let news = self.mirror.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            let settings = self.context.settings();
            let waits = settings.flush == FlushMode::Mirror && settings.mirror_loss == MirrorLoss::Hold;
            match self.mirror.ask(upto) {
                Answer::Has => return self.closed().map_or(Ok(()), Err),
                Answer::Lost if self.journal.mark() >= upto => return self.closed().map_or(Ok(()), Err),
                Answer::Lost if !waits => return self.promise(upto).await,
                Answer::Waits | Answer::Lost => self.or_end(news).await?,
            }
        }
    }

    /// Stores, then confirms, then writes the mark into the journal. What is promised so survives the loss of
    /// this host (§1.5, §3.2).
    pub async fn promise(&self, upto: Lsn) -> Result<(), Stop> {
        store_upto(self, upto).await?;
        confirm(self).await?;
        self.sync_journal(Some(upto)).await
    }

    /// Waits until all is durable on this host's disk. `mark`: what is marked in the journal is stored and
    /// confirmed already.
    ///
    /// When the journal has failed for good, everything is stored and confirmed instead. A new journal is
    /// begun then, or none while the disk takes none.
    ///
    /// # Errors
    /// The disk has taken neither for `MEND_PATIENCE`: unlike stores, a disk seldom comes back by itself.
    pub async fn sync_journal(&self, mark: Option<Lsn>) -> Result<(), Stop> {
        let upto = self.tip.lock().lsn;
        loop {
            let id = self.journal.id();
            let news = self.mending.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            match self.or_end(self.journal.sync(mark)).await? {
                Ok(()) => return Ok(()),
                Err(_) if self.journal.is_void() && mark.is_some() => return Ok(()),
                Err(_) if self.journal.is_void() => {
                    store_upto(self, upto).await?;
                    return confirm(self).await;
                }
                // Begun anew meanwhile.
                Err(_) if self.journal.id() != id => {}
                Err(error) if self.journal.failed().is_some() => {
                    tracing::debug!(volume = %self.context.name(), %error, "a flush waits until all is in the pool");
                    self.mending.want();
                    self.or_end(news).await?;
                    if let Some(error) = self.unmended() {
                        return Err(self.explain(error));
                    }
                }
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    /// Returns why flushes fail: for long enough nothing but the journal's disk was in their way. `None`:
    /// they don't.
    pub fn unmended(&self) -> Option<Error> {
        let since = (*self.mending.held_up.lock())?;
        let error = self.journal.failed().filter(|_| !self.journal.is_void())?;
        (self.context.rt().now().since(since) >= MEND_PATIENCE).then(|| {
            error.context(format!(
                "{}: no flush can be promised, since the journal can't be written, though writes still go to the pool: mend \
                 the disk of the state folder, or stop the daemon and take the volume over from another state folder \
                 (`windlass volume take-over`)",
                self.context.title()
            ))
        })
    }
}
