//! A volume that goes on in another pool: what its copy must have survived, and how this one is left.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::ownership::Claiming;
use super::volume_handle::Volume;
use crate::head::Leaving;
use crate::session::LastAct;
use windlass_base::{Kind, Lsn, Result};

/// Pause before it is asked again whether the volume has moved.
const AGAIN: Duration = Duration::from_secs(1);

impl Volume {
    /// Stores all that was written in the pool, whatever a flush means. This host was still the owner then.
    pub(crate) async fn store_all(&self) -> Result<()> {
        self.ask(|session| async move {
            let upto = session.tip.lock().lsn;
            session.promise(upto).await
        })
        .await
    }

    /// Returns the last record that the volume's session has taken.
    pub(crate) async fn last_lsn(&self) -> Result<Lsn> {
        Ok(self.session().await?.tip.lock().lsn)
    }

    /// Stores everything, and leaves the volume for good: it goes on as another one. Returns false where it did not come to
    /// that, and the volume goes on here. The caller must not drop this before it says which: where no answer tells, the volume
    /// is claimed anew, after which an earlier attempt can't come through. An error: it went to another host meanwhile.
    pub(crate) async fn leave(&self, left: &Arc<Leaving>, given_up: &CancellationToken) -> Result<bool> {
        let Err(stop) = self.end_by(LastAct::Leave(left.clone()), given_up).await else { return Ok(true) };
        tracing::debug!(volume = %self.name(), why = %stop.error(), "the volume was not left, or no answer says so");
        loop {
            let error = match self.own(Claiming::ByRight).await {
                Ok(()) => return Ok(false),
                Err(e) => e,
            };
            let over = match error.is_transient() || error.is(Kind::NoSpace) {
                true => None,
                false => self.context().cell.read().await.ok(),
            };
            match over {
                Some(head) => {
                    let moved = head.and_then(|head| head.moved).is_some_and(|m| m.volume == left.to.volume);
                    return if moved { Ok(true) } else { Err(error) };
                }
                None => self.context().rt().sleep(AGAIN).await,
            }
        }
    }
}
