//! Letting go of a volume: everything stored, confirmed, in the checkpoint, then one CAS, which is the epoch's last act.

use std::sync::Arc;

use futures::future::{Either, select};
use tokio_util::sync::CancellationToken;

use super::head::Head;
use super::session::Session;
use super::stop::Stop;
use crate::base::{Error, Kind};

/// What a release came to.
#[derive(Debug)]
pub enum Released {
    /// Any host may open it now.
    Done(Box<Head>),
    /// The session goes on: it did not come to the CAS.
    NotYet(Stop),
    /// The session is over, and it is not known whether the CAS happened.
    Unknown(Stop),
}

impl Session {
    /// Writes wait from the beginning; given up before the last act they go on.
    pub async fn release(self: &Arc<Self>, given_up: &CancellationToken) -> Released {
        let drained = async {
            let gate = self.close_gate().await;
            self.drain().await?;
            // It is the last act: no checkpoint comes after it.
            let one = self.checkpointing.lock().await;
            self.settle().await.map(|()| (gate, one))
        };
        let drained = std::pin::pin!(drained);
        let given_up = std::pin::pin!(given_up.cancelled());
        let (gate, _one) = match select(drained, given_up).await {
            Either::Left((Ok(held), _)) => held,
            Either::Left((Err(stop), _)) => return Released::NotYet(stop),
            Either::Right(_) => {
                return Released::NotYet(Error::new(Kind::Closed, "not released: given up").into());
            }
        };
        let epoch = self.epoch;
        let done = self.change(move |head| head.release(epoch)).await;
        self.stop(Stop::Again);
        // Released, nothing in the journal is needed any more, wherever the volume is opened next.
        if done.is_err() {
            let _ = self.leave_journal().await;
        } else if let Err(error) = self.journal.discard().await {
            tracing::warn!(volume = %self.ground.name, %error, "the journal could not be let go");
        }
        drop(gate);
        match done {
            Ok(head) => Released::Done(Box::new(head)),
            Err(stop) => Released::Unknown(stop),
        }
    }

    /// With the gate closed.
    async fn drain(self: &Arc<Self>) -> Result<(), Stop> {
        let upto = self.tip.lock().lsn;
        self.store(upto).await?;
        self.checkpoint_surely(&[]).await
    }

    /// All that was given a number is stored, and the volume still this session's.
    async fn settle(self: &Arc<Self>) -> Result<(), Stop> {
        let given = self.writer.given();
        if let Err(e) = self.writer.wait_seq(given).await {
            return Err(self.explain(e));
        }
        self.confirm().await
    }
}
