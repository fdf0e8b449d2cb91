//! Snapshots that a volume takes by itself while it is written to, and their thinning (`history` of its settings).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::roll_back_rename_grow::drop_base;
use super::snapshot::Group;
use crate::head::{Locks, Stop};
use crate::session::Session;
use crate::space::HISTORY_NAME;
use windlass_base::{Kind, Name, Nonce, StateId, utc};
use windlass_pool::Clocks;

/// Fewest snapshots that are removed at once, since that takes a checkpoint. `THINNED_MAX` is the most.
const THINNED_MIN: usize = 16;
const THINNED_MAX: usize = 512;
/// Most snapshots that may have clones which are removed at once.
const CLONED_AT_ONCE: usize = 32;

/// Takes a snapshot at the end of each period in which something changed. Runs with the session.
pub async fn keep_history(session: Arc<Session>) {
    let context = &session.context;
    loop {
        let changed = context.settings_changed.notified();
        let mut changed = std::pin::pin!(changed);
        changed.as_mut().enable();
        let settings = context.settings();
        let Some(every) = settings.history.every_ms().filter(|_| !settings.template) else {
            *session.history.failed.lock() = None;
            changed.await;
            continue;
        };
        let wait = Duration::from_millis(every - context.rt().wall_ms() % every);
        if context.rt().timeout(wait, changed).await.is_some() {
            continue;
        }
        let failed = session.go_on_in_history().await.err().map(Stop::error);
        if let Some(error) = &failed {
            tracing::warn!(volume = %context.title(), %error, "the volume's history could not be kept up: tried again");
        }
        *session.history.failed.lock() = failed.map(|error| error.to_string());
    }
}

fn history_name(created_ms: u64) -> Name {
    format!("{HISTORY_NAME}{}", utc::compact(created_ms)).parse().expect("digits and a dash are a name")
}

impl Session {
    async fn go_on_in_history(self: &Arc<Self>) -> Result<(), Stop> {
        // Of a volume that nobody changes all stay: who looks for an old state has just begun to. A copy that is being
        // filled shows no state that ever was.
        let is_whole = self.context.name().moved_as().is_none() && self.head.lock().round.is_none();
        if !self.differs_from_its_newest() || !is_whole {
            return Ok(());
        }
        // What is outdated makes room, whether another can be taken or not. The next moment does not wait for it: in an outage,
        // or where a store takes nothing, that would leave moments out which the journal has room for.
        if !self.history.thinning.swap(true, Ordering::Relaxed) {
            self.run(async move |session| {
                if let Err(stop) = session.thin_history().await {
                    let (volume, error) = (session.context.title(), stop.error());
                    tracing::warn!(%volume, %error, "what the volume's history keeps no longer could not be removed: tried again");
                }
                session.history.thinning.store(false, Ordering::Relaxed);
            });
        }
        self.take_for_history().await
    }

    /// Tells whether the volume has changed since its newest snapshot.
    fn differs_from_its_newest(&self) -> bool {
        let tip = self.tip.lock();
        let now = tip.tables.tip();
        let written = !tip.overlay.active.is_empty() || tip.overlay.frozen.iter().any(|f| f.state == now.id);
        let newest = now.parent.and_then(|parent| tip.tables.states.get(&parent));
        written || newest.is_none_or(|newest| newest.tree != now.tree)
    }

    async fn take_for_history(&self) -> Result<(), Stop> {
        let rt = self.context.rt();
        // One that a slow clock dates too early would be thinned once the clock is right.
        let behind_ms = self.context.engine.pool.latest_ms().await.saturating_sub(rt.wall_ms());
        let now = || {
            let created_ms = rt.wall_ms().saturating_add(behind_ms);
            (history_name(created_ms), Group { id: Nonce(0), size: 1, created_ms, history: true })
        };
        match self.mark_now(now).await {
            // The clock was set back.
            Err(Stop::Failed(e)) if e.is(Kind::Exists) => Ok(()),
            done => done.map(|_| ()),
        }
    }

    /// Removes snapshots that the plan keeps no longer, when they are many. What was cloned stays until its
    /// clones are gone.
    async fn thin_history(self: &Arc<Self>) -> Result<(), Stop> {
        // What was known when the head was read last spares the look, and this host's clock that of the stores.
        let known = self.head.lock().locks.clone();
        let due = |now: u64| {
            let mut outdated = self.outdated(now);
            outdated.retain(|(id, _)| known.until(*id).is_none_or(|until| until <= now));
            outdated
        };
        if due(self.context.rt().wall_ms()).len() < THINNED_MIN {
            return Ok(());
        }
        let mut outdated = due(self.context.engine.pool.time().await?.earliest_ms);
        if outdated.len() < THINNED_MIN {
            return Ok(());
        }
        let locks = self.standing_locks().await?;
        outdated.retain(|(id, _)| locks.until(*id).is_none());
        let cloned = |(id, _): &&(StateId, Name)| self.head.lock().cloned.has(*id);
        let (cloned, free): (Vec<_>, Vec<_>) = outdated.iter().partition(cloned);
        // Each of these is looked at on its own; one that a clone needs must not hold up the others.
        for (_, name) in cloned.into_iter().take(CLONED_AT_ONCE) {
            if let Err(stop) = self.remove_snapshot(name).await {
                tracing::debug!(volume = %self.context.name(), snapshot = %name, error = %stop.error(), "history keeps it");
            }
        }
        let free: Vec<StateId> = free.into_iter().take(THINNED_MAX).map(|(id, _)| *id).collect();
        if !free.is_empty() {
            self.remove_uncloned(&free).await?;
        }
        // The last that needed the parent of a flat clone may have been among them.
        drop_base(self).await.map(|_| ())
    }

    /// Returns the locks as they are by now, without those that are over; with all where clocks disagree on
    /// that.
    async fn standing_locks(self: &Arc<Self>) -> Result<Locks, Stop> {
        let head = match self.context.cell.confirm().await {
            Ok(head) => head,
            Err(e) => return Err(self.explain(e)),
        };
        if !head.locks.any_over(self.context.rt().wall_ms()) {
            return Ok(head.locks);
        }
        match self.context.engine.pool.clocks().await {
            Ok(Clocks { earliest_ms, .. }) => {
                self.change(move |head| head.end_locks(earliest_ms)).await.map(|head| head.locks)
            }
            Err(error) => {
                tracing::debug!(volume = %self.context.name(), %error, "history keeps what was locked");
                Ok(head.locks)
            }
        }
    }

    /// Returns the automatic snapshots that the plan keeps no longer, of those whose maps are written; oldest
    /// first.
    ///
    /// The plan goes on by what has passed since the last of them, and by one of its steps at most: however
    /// late a look comes, the next one is no further away.
    fn outdated(&self, now_ms: u64) -> Vec<(StateId, Name)> {
        let plan = self.context.settings().history;
        let tip = self.tip.lock();
        let all = tip.tables.snapshots().filter(|(_, s)| s.history && s.built);
        let mut all: Vec<_> = all.map(|(name, s)| (s.created_ms, s.id, name.clone())).collect();
        drop(tip);
        all.sort_unstable_by_key(|(at, id, _)| (*at, *id));
        let times: Vec<u64> = all.iter().map(|(at, ..)| *at).collect();
        let last = times.iter().copied().filter(|at| *at <= now_ms).max();
        let step = last.zip(plan.every_ms()).map(|(last, every)| last.saturating_add(every));
        let outdated = plan.outdated(&times, step.map_or(now_ms, |step| step.min(now_ms)));
        outdated.into_iter().map(|i| (all[i].1, all[i].2.clone())).collect()
    }
}
