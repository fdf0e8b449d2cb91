//! A pool's store replaced by another, or taken in again after it was emptied.

use std::sync::Arc;
use std::time::Duration;

use crate::base::units::show_count;
use crate::base::{Error, Kind, Name, Result};
use crate::daemon::answers::Replaced;
use crate::daemon::api::Outcome;
use crate::daemon::engine_tables::EngineState;
use crate::daemon::pools::OpenPool;
use crate::daemon::progress::ProgressSink;
use crate::pool::{Filled, PoolStore, Progress, Replacement};

/// How long what is under way on other stores is waited for at the end.
const SETTLE: Duration = Duration::from_secs(30);
/// Plans of others that are finished before ours, at most.
const TURNS: usize = 8;
/// What is said where a replaced store does not answer that alone has what is needed.
const OLD_IS_NEEDED: &str = ". The store that is replaced is needed too: only where it is lost for good, `windlass pool replace` with \
     --force goes on without what it has";
/// How long it is looked for why a pool can't be opened: in an outage that is said in time.
const LOOK_MAX: Duration = Duration::from_secs(5);

pub async fn replace(
    state: &EngineState,
    name: &Name,
    (old, new): (&str, &str),
    force: bool,
    progress: &ProgressSink,
) -> Result<Outcome> {
    let open = opened(state, name).await?;
    let old = state.pools.url_of(&state.config().store_url(old)?)?;
    let new = state.pools.new_stores(name, &[state.config().store_url(new)?]).await?;
    let new = new.into_iter().next().ok_or_else(|| Error::new(Kind::Internal, "a store vanished"))?;
    let done = |shards: u64| Outcome::of(&Replaced { old: old.clone(), new: new.url.clone(), shards });
    let mut outcome = done(0)?;
    for _ in 0..TURNS {
        match Box::pin(open.pool.plan_replacement(&old, &new, force)).await? {
            Replacement::Done => {
                return Ok(outcome.note(already(&open, &old, &new.url)));
            }
            Replacement::Planned => {
                let brought = Box::pin(finish_with(&open, force, progress)).await?;
                outcome.value = done(brought)?.value;
                let brought = show_count(brought, "shard");
                state.pools.remember_places(name, &open).await?;
                let pending = open.pool.settled(SETTLE).await;
                if pending > 0 {
                    let shards = show_count(pending as u64, "shard");
                    outcome = outcome.note(format!("{shards} of other stores pending"));
                }
                let text = match old == new.url {
                    true => format!("store {old} is taken in again, {brought} brought"),
                    false => format!(
                        "store {} has taken the place of {old}, which may be deleted; {brought} brought",
                        new.url
                    ),
                };
                return Ok(outcome.note(text).degraded(pending > 0));
            }
            Replacement::Other => {
                // That one's old store is not what the user gives up.
                Box::pin(finish(&open, progress)).await?;
                outcome = outcome.note("another replacement was under way; it is finished");
            }
        }
    }
    Err(busy(name))
}

/// The same command again, after its end; or a mistaken one, which nothing tells from that: the stores' names show it.
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

/// What is left to do of a replacement, whoever began it; the shards that the new store has then.
pub async fn finish(open: &OpenPool, progress: &ProgressSink) -> Result<u64> {
    finish_with(open, false, progress).await
}

/// `force`: what only a store has that is replaced and does not answer is given up.
async fn finish_with(open: &OpenPool, force: bool, progress: &ProgressSink) -> Result<u64> {
    for _ in 0..TURNS {
        match Box::pin(finish_one(open, force, progress)).await {
            Ok(Some(brought)) => return Ok(brought),
            Ok(None) => {}
            Err(e) => return Err(stuck(open, e).await),
        }
    }
    Err(busy(open.pool.name()))
}

/// `None`: others have begun another meanwhile.
async fn finish_one(open: &OpenPool, force: bool, progress: &ProgressSink) -> Result<Option<u64>> {
    let generation = open.pool.follow().await?;
    open.volumes.admit_stores().await?;
    let watch = |step: Progress| progress.tell("bringing shards", step.done, step.of);
    let Filled { there, left, of_old } = open.pool.fill(&open.volumes, &watch).await?;
    let left = if force { left - of_old } else { left };
    if left > 0 {
        return Err(Error::new(
            Kind::Unavailable,
            format!(
                "{} could not be brought to the new store yet: bring stores back and run it again{}",
                show_count(left, "shard"),
                if of_old > 0 && !force { OLD_IS_NEEDED } else { "" }
            ),
        ));
    }
    Ok(open.pool.settle(generation).await?.then_some(there))
}

fn busy(name: &Name) -> Error {
    Error::new(Kind::Owned, format!("other replacements in pool {name} come in between: try again"))
}

/// Why it does not end, where a new store was lost midway: then repeating it does not help.
async fn stuck(open: &OpenPool, e: Error) -> Error {
    let lost = open.pool.lost_midway().await;
    let new = lost.iter().map(|(member, why)| (member.url(), why.as_str()));
    lost_midway(open.pool.name(), new)
        .map_or_else(|| e.share(), |why| Error::new(e.kind(), format!("{why} ({e})")))
}

/// The pool, opened. Where that fails because stores were emptied, or a replacement's new one was lost midway, the error says
/// so, and the way out.
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

/// What to say of stores that were lost before all had come along to them, each with why it is away.
fn lost_midway<'a>(name: &Name, lost: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let lost: Vec<(&str, &str)> = lost.collect();
    let (first, _) = lost.first()?;
    let all: Vec<String> = lost.iter().map(|(url, why)| format!("{url} ({why})")).collect();
    let (stores, were, them) = match all.len() {
        1 => ("a new store", "was", "it"),
        _ => ("new stores", "were", "them"),
    };
    Some(format!(
        "{stores} of pool {name} {were} lost midway, before all had come along: {}; what was begun does not end without {them}. \
         Bring {them} back; lost for good, `windlass pool force-recover {name}` puts others there: something empty at the \
         same place, or `--old {first} --new URL`",
        all.join("; ")
    ))
}

/// Finishes what is under way and takes emptied stores in again; the shards brought, and what was done, for people.
pub async fn before_repair(
    state: &EngineState,
    name: &Name,
    progress: &ProgressSink,
) -> Result<(u64, Vec<String>)> {
    let open = opened(state, name).await?;
    let (mut brought, mut notes) = (0, Vec::new());
    if open.pool.is_moving() {
        brought += Box::pin(finish(&open, progress)).await?;
        notes.push("a replacement was under way; it is finished".to_owned());
    }
    open.pool.look().await;
    for PoolStore { url, .. } in open.pool.emptied().await {
        let again = Box::pin(replace(state, name, (&url, &url), true, progress)).await;
        notes.extend(match again {
            Ok(outcome) => {
                brought += outcome.answer::<Replaced>()?.shards;
                outcome.notes
            }
            Err(e) => vec![format!("store {url} stays out: {e}")],
        });
    }
    Ok((brought, notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_store_that_was_lost_is_named_with_the_way_out() {
        let name = "tank".parse().unwrap();
        let said = lost_midway(&name, [("mem:a", "it has no label")].into_iter()).unwrap();
        for part in ["mem:a (it has no label)", "`windlass pool force-recover tank`", "--old mem:a --new URL"]
        {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(lost_midway(&name, [].into_iter()), None);
    }
}
