//! A pool's store replaced by another, or taken in again after it was emptied.

use std::time::Duration;

use serde_json::json;

use crate::base::size::show_count;
use crate::base::{Error, Kind, Name, Result};
use crate::daemon::api::Outcome;
use crate::daemon::control::ProgressSink;
use crate::daemon::desk::Desk;
use crate::daemon::pools::OpenPool;
use crate::pool::{Filled, Progress, Replacement, StoreSpec};

/// How long what is under way on other stores is waited for at the end.
const SETTLE: Duration = Duration::from_secs(30);
/// Plans of others that are finished before ours, at most.
const TURNS: usize = 8;

pub async fn replace(
    desk: &Desk,
    name: &Name,
    (old, new): (&str, &str),
    force: bool,
    progress: &ProgressSink,
) -> Result<Outcome> {
    let open = desk.pools.get(name).await?;
    let old = desk.pools.url_of(&desk.config.store_url(old)?)?;
    let new = desk.pools.new_store(&desk.config.store_url(new)?).await?;
    let done = |shards: u64| json!({"old": old, "new": new.url, "shards": shards});
    let mut outcome = Outcome { value: done(0), ..Outcome::default() };
    for _ in 0..TURNS {
        match Box::pin(open.pool.plan_replacement(&old, &new, force)).await? {
            Replacement::Done => {
                return Ok(outcome.note(format!("store {} is the pool's already", new.url)));
            }
            Replacement::Planned => {
                let brought = Box::pin(finish(&open, progress)).await?;
                outcome.value = done(brought);
                let brought = show_count(brought, "shard");
                desk.pools.remember_places(name, &open).await?;
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
                Box::pin(finish(&open, progress)).await?;
                outcome = outcome.note("another replacement was under way; it is finished");
            }
        }
    }
    Err(Error::new(Kind::Owned, format!("other replacements in pool {name} come in between: try again")))
}

/// What is left to do of a replacement, whoever began it; the shards that the new store has then.
pub async fn finish(open: &OpenPool, progress: &ProgressSink) -> Result<u64> {
    open.pool.follow().await?;
    open.volumes.admit_stores().await?;
    let watch = |step: Progress| progress.tell("bringing shards", step.done, step.of);
    let Filled { there, left } = open.pool.fill(&open.volumes, &watch).await?;
    if left > 0 {
        return Err(Error::new(
            Kind::Unavailable,
            format!(
                "{} could not be brought to the new store yet: bring stores back and run it again",
                show_count(left, "shard")
            ),
        ));
    }
    open.pool.settle().await?;
    Ok(there)
}

/// Finishes what is under way and takes emptied stores in again; the shards brought, and what was done, for people.
pub async fn before_repair(desk: &Desk, name: &Name, progress: &ProgressSink) -> Result<(u64, Vec<String>)> {
    let open = desk.pools.get(name).await?;
    let (mut brought, mut notes) = (0, Vec::new());
    if open.pool.is_moving() {
        brought += Box::pin(finish(&open, progress)).await?;
        notes.push("a replacement was under way; it is finished".to_owned());
    }
    open.pool.look().await;
    for StoreSpec { url, .. } in open.pool.emptied().await {
        let again = Box::pin(replace(desk, name, (&url, &url), true, progress)).await;
        notes.extend(match again {
            Ok(outcome) => {
                brought += outcome.value["shards"].as_u64().unwrap_or(0);
                outcome.notes
            }
            Err(e) => vec![format!("store {url} stays out: {e}")],
        });
    }
    Ok((brought, notes))
}
