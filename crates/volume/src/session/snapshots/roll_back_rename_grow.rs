//! Changes of a volume's states beside marks and removals: rolling back, renaming a snapshot, letting the parent go, growing.

use std::sync::Arc;
use std::time::Duration;

use super::snapshot::no_snapshot;
use crate::head::Stop;
use crate::read::passes;
use crate::session::Session;
use crate::session::close_gate;
use crate::space::{Alteration, RollBack};
use windlass_base::{Error, Kind, Name, Nonce, StateId};

/// Time until stores that are away are asked again.
const AGAIN: Duration = Duration::from_secs(2);

impl Session {
    /// Rolls the volume back: it shows what the snapshot does, and has its size from then on. What it held is
    /// kept as snapshot `keep`, or freed. `nonce`: drawn for the rollback, so that it is not done again by
    /// the session that comes next.
    ///
    /// Writes wait meanwhile; one that is under way may be there in part afterwards, as after a crash. The
    /// rollback goes on when nobody waits for it any more, and through an outage.
    pub async fn roll_back(
        self: &Arc<Self>,
        to: &Name,
        keep: Option<&Name>,
        nonce: Nonce,
    ) -> Result<(), Stop> {
        let (me, to, keep) = (self.clone(), to.clone(), keep.cloned());
        let task = self.context.rt().spawn(async move { me.roll_back_now(&to, keep, nonce).await });
        task.await.map_err(Stop::Failed)?
    }

    async fn roll_back_now(
        self: &Arc<Self>,
        to: &Name,
        keep: Option<Name>,
        nonce: Nonce,
    ) -> Result<(), Stop> {
        let _one = self.altering.lock().await;
        let kept = |name: &Name| self.tip.lock().tables.snapshot(name).is_some_and(|s| s.group == nonce);
        if keep.as_ref().is_some_and(kept) {
            return Ok(());
        }
        self.build_snapshot(to).await?;
        // Whoever has read a block to write it whole has read what the tip holds now, and must not write that afterwards.
        let _all = self.or_end(self.ranges.lock(0..u64::MAX)).await?;
        let _gate = self.or_end(close_gate(self)).await?;
        let back = {
            let tip = self.tip.lock();
            let fits =
                keep.as_ref().map_or_else(|| tip.tables.check_room(), |keep| tip.tables.check_new(keep));
            fits.map_err(|e| e.context(self.context.title()))?;
            let there = tip.tables.snapshot(to).map(|s| s.id);
            let to = there.ok_or_else(|| Stop::Failed(no_snapshot(&self.context.title(), to)))?;
            RollBack { to, keep, created_ms: self.context.rt().wall_ms(), nonce }
        };
        alter_surely(self, Alteration::RollBack(back)).await?;
        // What the tip held goes with the next one, if it is not kept.
        let me = self.clone();
        self.context.rt().spawn(async move { me.checkpoint(&[]).await }).detach();
        Ok(())
    }

    /// Gives this snapshot another name, for good when this returns. The renaming goes on when nobody waits
    /// for it any more.
    ///
    /// # Errors
    /// `Exists`: another has that name. `NotFound`: the snapshot was removed.
    pub async fn rename_snapshot(self: &Arc<Self>, id: StateId, from: &Name, to: &Name) -> Result<(), Stop> {
        let (me, from, to) = (self.clone(), from.clone(), to.clone());
        let task = self.context.rt().spawn(async move { me.rename_snapshot_now(id, &from, &to).await });
        task.await.map_err(Stop::Failed)?
    }

    async fn rename_snapshot_now(self: &Arc<Self>, id: StateId, from: &Name, to: &Name) -> Result<(), Stop> {
        let _one = self.altering.lock().await;
        if self.tip.lock().tables.snapshot(to).is_none() {
            self.build_snapshot(from).await?;
        }
        {
            // In one step with the look, so that no mark takes the name in between. A session that ends before the checkpoint
            // leaves the old name to the next.
            let mut tip = self.tip.lock();
            match tip.tables.snapshot(to) {
                // Asked again by who has not heard that it was done.
                Some(there) if there.id == id => return Ok(()),
                Some(_) => {
                    let why = format!("snapshot {}@{to} exists", self.context.title());
                    return Err(Error::new(Kind::Exists, why).into());
                }
                None => {}
            }
            if tip.tables.snapshot(from).is_none_or(|there| there.id != id) {
                return Err(Stop::Failed(no_snapshot(&self.context.title(), from)));
            }
            tip.tables.rename(id, to);
        }
        alter_surely(self, Alteration::Names).await
    }

    /// Grows the volume: it gets new bytes at its end, which read as zeros. `Refused` for a size that is less
    /// than what it has.
    pub async fn grow(self: &Arc<Self>, size: u64) -> Result<(), Stop> {
        let _one = self.altering.lock().await;
        let epoch = self.epoch;
        let head = self.change(move |head| head.grow(epoch, size)).await?;
        self.tip.lock().tables.tip_mut().size = head.size;
        self.context.set_size(head.size);
        Ok(())
    }
}

/// Makes a checkpoint with a change of the states. It is tried again as long as an outage lasts.
async fn alter_surely(session: &Arc<Session>, alteration: Alteration) -> Result<(), Stop> {
    while let Err(stop) = session.make_checkpoint(&[], Some(alteration.clone())).await {
        match stop {
            Stop::Failed(e) if passes(&e) => {
                tracing::warn!(volume = %session.context.name(), error = %e, "a change of its states waits");
                session.or_end(session.context.rt().sleep(AGAIN)).await?;
            }
            stop => return Err(stop),
        }
    }
    Ok(())
}

/// Notes in the head that nothing stands on the parent any more. If snapshots still do, the head stays as it
/// is, and they are returned. None are returned of a volume that is no clone, or not flat.
pub async fn drop_base(session: &Arc<Session>) -> Result<Vec<Name>, Stop> {
    let _one = session.altering.lock().await;
    let flat = session.head.lock().base.as_ref().filter(|base| !base.dropped).and_then(|base| base.flat);
    let Some(flat) = flat else { return Ok(Vec::new()) };
    // What is hidden and needed no more goes with it.
    session.checkpoint_surely(&[]).await?;
    if session.tip.lock().tables.states.keys().any(|id| *id < flat) {
        return Ok(on_parent(session, flat));
    }
    let epoch = session.epoch;
    session.change(move |head| head.drop_base(epoch, flat)).await.map(|_| Vec::new())
}

/// Returns the snapshots older than this state, and those that hold a hidden state that is older.
fn on_parent(session: &Session, flat: StateId) -> Vec<Name> {
    let tip = session.tip.lock();
    let states = &tip.tables.states;
    let hidden = |id: &StateId| states.get(id).is_some_and(|s| s.hidden && s.id < flat);
    let holds = |id: StateId, parent: Option<StateId>| id < flat || parent.as_ref().is_some_and(hidden);
    let names = tip.tables.with_trash().filter(|(_, s)| holds(s.id, s.parent));
    names.map(|(name, _)| name.clone()).collect()
}
