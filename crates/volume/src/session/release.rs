//! Letting go of a volume: everything stored, confirmed, in the checkpoint, then one CAS, which is the epoch's last act.

use std::sync::Arc;

use futures::future::{Either, select};
use tokio_util::sync::CancellationToken;

use super::confirm_and_flush::{confirm, store_upto};
use super::session_core::Session;
use super::write_gate::close_gate;
use crate::head::Stop;
use crate::head::{HandoverPolicy, Head, Leaving, Move};
use windlass_base::{Epoch, Error, Kind, Lsn, Result};

/// The last change of the head in an epoch.
#[derive(Clone, Debug)]
pub enum LastAct {
    Release,
    /// The owner leaves the volume, which goes on in another pool.
    Leave(Arc<Leaving>),
}

impl LastAct {
    /// Checks, behind the closed gate, that nothing was written since the copy: a copy that has less is not
    /// taken for the volume.
    fn check(&self, last: Lsn) -> Result<()> {
        match self {
            LastAct::Leave(left) if left.last != last => {
                Err(Error::new(Kind::Refused, "it was changed when it was about to be left"))
            }
            _ => Ok(()),
        }
    }

    fn step(&self, head: &Head, epoch: Epoch) -> Result<Move> {
        match self {
            LastAct::Release => head.release(epoch),
            LastAct::Leave(left) => head.leave(epoch, left),
        }
    }
}

/// The outcome of a release.
#[derive(Debug)]
pub enum Released {
    /// The volume is released: any host may open it now.
    Done(Box<Head>),
    /// The session goes on, since the release did not come to the CAS.
    NotYet(Stop),
    /// The session is over, and it is not known whether the CAS happened.
    Unknown(Stop),
}

impl Session {
    /// Releases the volume. Writes wait from the beginning. If the release is given up before the last act,
    /// they go on.
    pub async fn release(self: &Arc<Self>, act: &LastAct, given_up: &CancellationToken) -> Released {
        let drained = async {
            let gate = close_gate(self).await;
            act.check(self.tip.lock().lsn)?;
            self.drain().await?;
            // It is the last act: no checkpoint comes after it.
            let one = self.checkpointing.lock().await;
            self.settle().await.map(|()| (gate, one))
        };
        let (gate, _one) = match unless(given_up, drained).await {
            Ok(held) => held,
            Err(stop) => return Released::NotYet(stop),
        };
        if self.context.settings().handover == HandoverPolicy::Ask {
            // Another host may be the owner the moment this comes through: what is read from here on must not be of
            // this epoch. It is over anyway, whatever comes of its last act.
            self.tip.lock().closed.get_or_insert(Stop::Again);
        }
        let done = self.last_act(act, given_up).await;
        self.stop(Stop::Again);
        // Released, nothing in the journal is needed any more, wherever the volume is opened next.
        if done.is_err() {
            let _ = self.leave_empty_journal().await;
        } else if let Err(error) = self.journal.discard().await {
            tracing::warn!(volume = %self.context.name(), %error, "the journal of a released volume could not be removed");
        }
        if let Ok(head) = &done {
            self.context.confirmed.keep(head, self.context.engine.pool.guesses()).await;
        }
        drop(gate);
        match done {
            Ok(head) => {
                match act {
                    LastAct::Release => {
                        tracing::info!(volume = %self.context.title(), "the volume is released")
                    }
                    LastAct::Leave(left) => {
                        let Leaving { to, .. } = &**left;
                        tracing::info!(volume = %self.context.title(), pool = %to.pool, "the volume goes on in another pool");
                    }
                }
                Released::Done(Box::new(head))
            }
            Err(stop) => Released::Unknown(stop),
        }
    }

    /// Empties and closes the journal of a volume that was drained, and may be this host's yet. The lineage
    /// stays. The records do not, being under the checkpoint: another host that has the volume next would
    /// have them kept here as if they were missing there.
    async fn leave_empty_journal(&self) -> Result<()> {
        if self.is_counted() {
            let next = Lsn(self.tip.lock().lsn.0 + 1);
            // Where its disk fails the records stay in it; the folder is let go of all the same.
            let _ = self.journal.give_up(next).await;
        }
        self.leave_journal().await
    }

    /// Does the last act. Any host may open the volume afterwards, and looks for nothing behind the
    /// checkpoint. So it is done only where all was counted on the pool's stores of now. A head that a guess
    /// took from before the checkpoint is not let go of; what is behind would be lost.
    pub(crate) async fn last_act(
        self: &Arc<Self>,
        act: &LastAct,
        given_up: &CancellationToken,
    ) -> Result<Head, Stop> {
        loop {
            let mut uncounted = false;
            let step = |head: &Head| {
                let done = self.if_counted(act.step(head, self.epoch)?, &[]);
                uncounted = done.is_err();
                done
            };
            let done = self.change(step).await;
            if !uncounted {
                return done;
            }
            // Nothing was let go of, but by an attempt whose answer is still to come: from here on all is unknown.
            unless(given_up, self.settle()).await?;
        }
    }

    /// Stores everything and makes a checkpoint of it. The gate must be closed.
    async fn drain(self: &Arc<Self>) -> Result<(), Stop> {
        let upto = self.tip.lock().lsn;
        store_upto(self, upto).await?;
        self.checkpoint_surely(&[]).await
    }

    /// Waits until all that was given a number is stored, and the volume is seen to be this session's still.
    async fn settle(self: &Arc<Self>) -> Result<(), Stop> {
        let given = self.writer.given();
        if let Err(e) = self.writer.wait_seq(given).await {
            return Err(self.explain(e));
        }
        confirm(self).await
    }
}

/// Runs `run` to its end, unless it is given up before.
async fn unless<T>(
    given_up: &CancellationToken,
    run: impl Future<Output = Result<T, Stop>>,
) -> Result<T, Stop> {
    let (run, given_up) = (std::pin::pin!(run), std::pin::pin!(given_up.cancelled()));
    match select(run, given_up).await {
        Either::Left((done, _)) => done,
        Either::Right(_) => Err(Error::new(Kind::Closed, "not released: given up").into()),
    }
}
