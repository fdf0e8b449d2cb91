//! Snapshots: a mark in the log that freezes the overlay where it stands (protocol.md §4.2, §4.3).

use std::sync::Arc;

use crate::head::Stop;
use crate::head::{Gate, Removal};
use crate::read::Since;
use crate::session::Session;
use crate::session::close_gate;
use crate::space::State;
use crate::space::pins;
use windlass_base::log_record::{Mark, Op, Record};
use windlass_base::{Epoch, Error, Kind, Lsn, Name, Nonce, StateId, utc};

/// The part that all marks of one command share.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub id: Nonce,
    /// Number of members in the same pool.
    pub size: u32,
    pub created_ms: u64,
    /// Is true if the volume takes the snapshot by itself.
    pub history: bool,
}

/// Makes the group of a mark that a take-over sets. It has no other members, and says which epoch ended and
/// with which write.
fn taken_over(ended: Epoch, last: Lsn, created_ms: u64) -> Group {
    Group { id: Nonce(u128::from(ended.0) << 64 | u128::from(last.0)), size: 0, created_ms, history: false }
}

/// Returns the epoch at whose end a take-over froze this state, and that epoch's last write. `None` for any
/// other state.
pub fn frozen_by_take_over(state: &State) -> Option<(Epoch, Lsn)> {
    let made = state.name.is_some() && state.group_size == 0;
    made.then_some((Epoch((state.group.0 >> 64) as u64), Lsn(state.group.0 as u64)))
}

impl Session {
    /// Freezes the state as another owner left it. It is called before this session's first write.
    pub async fn mark_taken_over(&self, ended: Epoch, last: Lsn) -> Result<Name, Stop> {
        let now = self.context.rt().wall_ms();
        // Two take-overs may be of one second: no two end the same ownership.
        let name = format!("taken-over-{}-{}", utc::compact(now), ended.claims()).parse::<Name>()?;
        self.mark_now(|| (name.clone(), taken_over(ended, last, now))).await?;
        Ok(name)
    }

    /// Sets the mark. The caller holds the gate, so that all members of a group are marked at one instant,
    /// and has made `room` for it.
    pub fn mark(
        &self,
        name: &Name,
        group: Group,
        room: &mut Option<windlass_journal::Room<'_>>,
    ) -> Result<Lsn, Stop> {
        let mut tip = self.tip.lock();
        if let Some(stop) = &tip.closed {
            return Err(stop.share());
        }
        tip.tables.check_new(name).map_err(|e| e.context(self.context.title()))?;
        let mark = Mark {
            state: tip.tables.tip,
            name: name.clone(),
            group: group.id,
            group_size: group.size,
            created_ms: group.created_ms,
            size: tip.tables.tip().size,
            history: group.history,
        };
        let record = Record { lsn: tip.lsn.next(), op: Op::Mark(mark) };
        self.log_locally(room, &record);
        let (lsn, now) = (record.lsn, self.context.rt().now());
        tip.take(record, None, now)?;
        drop(tip);
        self.work.notify_one();
        self.ripe.notify_one();
        self.rounds.dirty(now);
        Ok(lsn)
    }

    /// Sets the mark of a snapshot that is taken alone, behind a gate of its own. `says` gives its name and
    /// time when the gate is closed: until then writes go on, and room may be long in coming.
    pub async fn mark_now(&self, says: impl Fn() -> (Name, Group) + Send) -> Result<Lsn, Stop> {
        loop {
            let mut room = self.mark_room().await?;
            let _gate = self.or_end(close_gate(self)).await?;
            // Behind a closed gate no journal is started anew, before it may have been.
            if self.journal.is_current(room.as_ref()) {
                let (name, group) = says();
                return self.mark(&name, group, &mut room);
            }
        }
    }

    /// Reserves room for a mark. It must not be called behind a closed gate (see `room`).
    pub async fn mark_room(&self) -> Result<Option<windlass_journal::Room<'_>>, Stop> {
        self.room(self.journal.cost(Mark::BYTES_MAX)).await
    }

    /// Waits until the snapshot is promised: in the pool and confirmed, or only in the journal.
    pub async fn promise_mark(&self, lsn: Lsn, wait: bool) -> Result<(), Stop> {
        if wait { self.promise(lsn).await } else { self.sync_journal(None).await }
    }

    /// Tells whether the snapshot has its map. `NotFound`: there is no such snapshot.
    pub fn snapshot_ready(&self, name: &Name) -> Result<bool, Stop> {
        let tip = self.tip.lock();
        match tip.tables.snapshot(name) {
            Some(state) => Ok(state.built),
            None => Err(Stop::Failed(no_snapshot(&self.context.title(), name))),
        }
    }

    /// Gives a snapshot its map, if it has none yet.
    pub async fn build_snapshot(self: &Arc<Self>, name: &Name) -> Result<(), Stop> {
        while !self.snapshot_ready(name)? {
            self.checkpoint_surely(&[]).await?;
        }
        Ok(())
    }

    /// Returns a snapshot, by what it shows; it gets its map first, if it has none yet.
    pub async fn since(self: &Arc<Self>, snapshot: &Name) -> Result<Since, Stop> {
        self.build_snapshot(snapshot).await?;
        let since = Since::of(&self.tip.lock().tables, snapshot);
        since.ok_or_else(|| Stop::Failed(no_snapshot(&self.context.title(), snapshot)))
    }

    /// Removes snapshots that have no clones, all at once. `Refused` when one of them is cloned meanwhile.
    pub async fn remove_uncloned(self: &Arc<Self>, states: &[StateId]) -> Result<(), Stop> {
        let _one = self.altering.lock().await;
        if self.context.engine.pool.guesses() > 0 {
            self.change(|head| head.doubt_cloned()).await?;
        }
        let gate = Nonce(0);
        let removes: Vec<_> = states.iter().map(|state| Removal { state: *state, gate }).collect();
        self.checkpoint_surely(&removes).await
    }

    /// Removes a snapshot by a checkpoint without it. `Refused` while a clone pins it. A snapshot that may
    /// have clones is put behind a gate first. Whoever meets a gate may lift it, so one that is left there
    /// holds nobody up.
    pub async fn remove_snapshot(self: &Arc<Self>, name: &Name) -> Result<(), Stop> {
        let _one = self.altering.lock().await;
        self.build_snapshot(name).await?;
        let id = self.tip.lock().tables.snapshot(name).map(|s| s.id);
        let id = id.ok_or_else(|| Stop::Failed(no_snapshot(&self.context.title(), name)))?;
        let head = match self.context.cell.confirm().await {
            Ok(head) => head,
            Err(e) => return Err(self.explain(e)),
        };
        if self.context.engine.pool.guesses() > 0 {
            self.change(|head| head.doubt_cloned()).await?;
        } else if !head.cloned.has(id) {
            return self.checkpoint_surely(&[Removal { state: id, gate: Nonce(0) }]).await;
        }
        let nonce = Nonce(self.context.rt().random128());
        let (gate, epoch) = (Gate { nonce, snapshot: Some(id) }, self.epoch);
        self.change(move |head| head.owned(epoch).and_then(|()| head.set_gate(gate))).await?;
        let done = match pins::of(&self.context.engine.pool, self.context.id, id).all().await {
            Ok(pins) if pins.is_empty() => {
                self.checkpoint_surely(&[Removal { state: id, gate: nonce }]).await
            }
            Ok(_) => Err(Error::new(Kind::Refused, "a clone needs the snapshot").into()),
            Err(e) => Err(self.explain(e)),
        };
        if done.is_err()
            && let Err(error) = self.context.cell.change(move |head| head.lift_gate(nonce)).await
        {
            tracing::debug!(volume = %self.context.name(), %error, "a clone that comes lifts the gate");
        }
        done
    }
}

pub fn no_snapshot(volume: &str, name: &Name) -> Error {
    Error::new(Kind::NotFound, format!("volume {volume} has no snapshot {name}"))
}
