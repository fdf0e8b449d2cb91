//! A pool's store replaced by another, or taken in again after it was emptied.

use std::sync::Arc;
use std::time::Duration;

use crate::daemon::answers::Replaced;
use crate::daemon::api::Outcome;
use crate::daemon::engine_tables::EngineState;
use crate::daemon::pools::OpenPool;
use crate::daemon::progress::ProgressSink;
use windlass_base::units::show_count;
use windlass_base::{Error, Kind, Name, Result};
use windlass_pool::{Care, Progress};
use windlass_volume::{Finished, TakenIn, lost_midway};

/// Longest time for which the end waits for what is under way on other stores.
const SETTLE: Duration = Duration::from_secs(30);
/// Longest time for which it is looked for why a pool can't be opened: in an outage that is said in time.
const LOOK_MAX: Duration = Duration::from_secs(5);

pub async fn replace(
    state: &EngineState,
    name: &Name,
    (old, new): (&str, &str),
    force: bool,
    progress: &ProgressSink,
) -> Result<Outcome> {
    let care = if force { Care::None } else { Care::All };
    let open = opened(state, name).await?;
    let old = state.pools.url_of(&state.config().store_url(old)?)?;
    let new = state.pools.new_stores(name, &[state.config().store_url(new)?]).await?;
    let new = new.into_iter().next().ok_or_else(|| Error::new(Kind::Internal, "a store vanished"))?;
    let done = |shards: u64| Outcome::of(&Replaced { old: old.clone(), new: new.url.clone(), shards });
    let watch = |step: Progress| progress.tell("bringing shards", step.done, step.of);
    let Some(Finished { shards, left }) =
        Box::pin(open.volumes.replace_store(&old, &new, care, &watch)).await?
    else {
        return Ok(done(0)?.note(already(&open, &old, &new.url)));
    };
    state.pools.remember_places(name, &open).await?;
    let (brought, is_short) = (show_count(shards, "shard"), !left.is_empty());
    let mut outcome = done(shards)?.note_all(left);
    let pending = open.pool.settled(SETTLE).await;
    if pending > 0 {
        let shards = show_count(pending as u64, "shard");
        outcome = outcome.note(format!("{shards} of other stores pending"));
    }
    let text = match old == new.url {
        true => format!("store {old} is taken in again, {brought} brought"),
        false => {
            format!("store {} has taken the place of {old}, which may be deleted; {brought} brought", new.url)
        }
    };
    Ok(outcome.note(text).degraded(pending > 0 || is_short))
}

/// Tells that the replacement was done before. The command is given again after its end, or is mistaken, which
/// nothing tells apart: the stores' names show it.
fn already(open: &OpenPool, old: &str, new: &str) -> String {
    let members = open.pool.membership().members.clone();
    let urls: Vec<&str> = members.iter().map(|m| m.url()).collect();
    if urls.contains(&old) {
        return format!("store {new} is the pool's already");
    }
    format!(
        "store {new} is the pool's already, and {old} is none of it: nothing was done now. Its stores: {}",
        urls.join(", ")
    )
}

/// Does what is left to do of a replacement, whoever began it.
pub async fn finish(open: &OpenPool, progress: &ProgressSink) -> Result<Finished> {
    let watch = |step: Progress| progress.tell("bringing shards", step.done, step.of);
    Box::pin(open.volumes.finish_replacement(&watch)).await
}

/// Opens the pool. Where that fails because stores were emptied, or a replacement's new one was lost midway, the
/// error says so, and the way out.
pub async fn opened(state: &EngineState, name: &Name) -> Result<Arc<OpenPool>> {
    let e = match state.pools.get(name).await {
        Err(e) if e.is(Kind::Unavailable) => e,
        out => return out,
    };
    let look = Box::pin(state.pools.recovery(name, Vec::new()));
    let Some(Ok(Some(recovery))) = state.host_context.rt.timeout(LOOK_MAX, look).await else { return Err(e) };
    let new =
        recovery.lost.iter().filter(|lost| lost.midway).map(|lost| (lost.url.as_str(), lost.why.as_str()));
    if let Some(why) = lost_midway(name, new) {
        return Err(Error::new(e.kind(), format!("{why} ({e})")));
    }
    // One that is only away comes back.
    if recovery.lost.iter().any(|lost| lost.new.is_some()) {
        let out = format!(
            "{e}. Bring the contents of what was emptied back; lost for good, `windlass pool force-recover {name} --dry-run` says \
             what is left"
        );
        return Err(Error::new(e.kind(), out));
    }
    Err(e)
}

/// Finishes what is under way, and takes emptied stores in again. What can't be done does not hold up the repair of
/// all else.
pub async fn before_repair(state: &EngineState, name: &Name, progress: &ProgressSink) -> Result<TakenIn> {
    let open = opened(state, name).await?;
    let watch = |step: Progress| progress.tell("bringing shards", step.done, step.of);
    let done = Box::pin(open.volumes.take_in_stores(&watch)).await?;
    state.pools.remember_places(name, &open).await?;
    Ok(done)
}
