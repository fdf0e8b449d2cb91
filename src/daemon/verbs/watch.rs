//! What somebody sees who looks all the time: `windlass top`, and the page on the metrics address.

use std::time::Duration;

use super::mount::by_bucket;
use super::{known, pool};
use crate::base::Budget;
use crate::daemon::answers::{MemoryPart, WatchAnswer};
use crate::daemon::engine_tables::{EngineState, LastLook};

/// How often stores are asked while somebody watches: what a pool that nobody uses knows of its stores grows old. All who
/// watch share it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What is known here, at once: no store is waited for.
pub async fn watch(state: &EngineState) -> WatchAnswer {
    let (rt, began) = (&state.host_context.rt, state.began);
    look(state).await;
    let LastLook { at, kept_files, kept_journals } = state.last_look.lock().clone();
    let since = |then| rt.now().since(then).as_millis() as u64;
    WatchAnswer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        wall_ms: rt.wall_ms(),
        up_ms: since(began),
        looked_ms_ago: at.map_or(0, since),
        status: known(state, kept_files, kept_journals),
        open_pools: state.pools.opened().iter().map(|(_, open)| open.pool.status()).collect(),
        memory: memory(state),
    }
}

/// When the last look is a while ago, asks stores in the background, and the local disk for what is kept.
async fn look(state: &EngineState) {
    let host_context = &state.host_context;
    let now = host_context.rt.now();
    {
        let mut last = state.last_look.lock();
        if last.at.is_some_and(|at| now.since(at) < LOOK_AGAIN) {
            return;
        }
        last.at = Some(now);
    }
    host_context.rt.spawn(pool::ask_all(state)).detach();
    let kept_files = by_bucket(&state.mounts.kept(host_context).await.unwrap_or_default());
    let kept_journals = host_context.home.kept_journals(&*host_context.disk).await;
    let mut last = state.last_look.lock();
    (last.kept_files, last.kept_journals) = (kept_files, kept_journals);
}

fn memory(state: &EngineState) -> Vec<MemoryPart> {
    let memory = state.pools.memory();
    let part = |part: &'static str, budget: &Budget| MemoryPart {
        part: part.into(),
        bytes: budget.used(),
        limit_bytes: budget.total(),
        short: budget.is_anyone_short(),
    };
    vec![
        part("writes", &memory.overlay),
        part("encoding", &memory.encode),
        part("requests", &memory.requests),
        part("readahead", &memory.ahead.budget),
    ]
}
