//! Keeps up the copies of volumes that windlass.toml plans.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};

use super::config::ReplicaPlan;
use super::engine::Engine;
use super::replica_state::is_old;
use super::verbs::{newest_copied, replicate};
use windlass_base::{Error, Kind};

/// Time between two looks at whether a copy is due.
const LOOK: Duration = Duration::from_secs(2);

/// Keeps up the copies that are planned, until the engine ends.
pub fn follow(engine: &Arc<Engine>) {
    let (weak, rt) = (Arc::downgrade(engine), engine.state().host_context.rt.clone());
    let again = rt.clone();
    let work = async move {
        while let Some(engine) = weak.upgrade().filter(|engine| !engine.state().stop.is_cancelled()) {
            let state = engine.state();
            let plans = state.config().replicas();
            for plan in state.replicas.due(&plans, again.now(), again.wall_ms()) {
                let engine = engine.clone();
                again.spawn(async move { keep_up(&engine, &plan).await }).detach();
            }
            let stop = state.stop.clone();
            drop(engine);
            let _ = again.timeout(LOOK, stop.cancelled()).await;
        }
    };
    rt.spawn(work).detach();
}

async fn keep_up(engine: &Engine, plan: &ReplicaPlan) {
    let state = engine.state();
    if let Ok(Some(copied)) = newest_copied(state, &plan.from, &plan.to).await {
        state.replicas.copied(plan, copied);
        // As after a restart of the daemon.
        if !is_old(plan, copied, state.host_context.rt.wall_ms()) {
            return state.replicas.ended(plan, None);
        }
    }
    // What an engine that ends leaves undone, the next one goes on with.
    let mut work = std::pin::pin!(replicate(state, &plan.from, &plan.to, &|_, _, _| {}));
    let mut stopped = std::pin::pin!(state.stop.cancelled());
    let done = match select(work.as_mut(), stopped.as_mut()).await {
        Either::Left((done, _)) => done.map(|round| round.created_ms),
        Either::Right(_) => Err(Error::new(Kind::Closed, "the daemon is ending")),
    };
    if let Ok(created_ms) = &done {
        state.replicas.copied(plan, *created_ms);
    }
    state.replicas.ended(plan, done.as_ref().err().map(ToString::to_string));
    if let Err(error) = done {
        tracing::warn!(volume = %plan.from, copy = %plan.to, %error, "the copy could not be brought up to date");
    }
}
