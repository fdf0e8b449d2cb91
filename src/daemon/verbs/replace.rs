//! A pool's store replaced by another, or taken in again after it was emptied.

use crate::base::{Error, Kind, Name, Result};
use crate::daemon::api::Outcome;
use crate::daemon::control::ProgressSink;
use crate::daemon::desk::Desk;
use crate::daemon::pools::OpenPool;
use crate::pool::{Progress, Replacement, StoreSpec};

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
    let mut outcome = Outcome::default();
    for _ in 0..TURNS {
        match Box::pin(open.pool.plan_replacement(&old, &new, force)).await? {
            Replacement::Done => {
                return Ok(outcome.note(format!("store {} is the pool's already", new.url)));
            }
            Replacement::Planned => {
                Box::pin(finish(&open, progress)).await?;
                desk.pools.remember_places(name, &open).await?;
                let pending = open.pool.pending();
                if pending > 0 {
                    outcome = outcome.note(format!("{pending} shards of other stores are pending"));
                }
                let text = format!("store {} has taken the place of {old}, which may be deleted", new.url);
                let text = if old == new.url { format!("store {old} is taken in again") } else { text };
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

/// What is left to do of a replacement, whoever began it.
pub async fn finish(open: &OpenPool, progress: &ProgressSink) -> Result<()> {
    open.pool.follow().await?;
    open.volumes.admit_stores().await?;
    let watch = |step: Progress| progress.tell("bringing shards", step.done, step.of);
    let left = open.pool.fill(&open.volumes, &watch).await?;
    if left > 0 {
        return Err(Error::new(
            Kind::Unavailable,
            format!(
                "{left} shards could not be brought to the new store yet: bring stores back and run it again"
            ),
        ));
    }
    open.pool.settle().await
}

/// Finishes what is under way and takes emptied stores in again; what was done, for people.
pub async fn before_repair(desk: &Desk, name: &Name, progress: &ProgressSink) -> Result<Vec<String>> {
    let open = desk.pools.get(name).await?;
    let mut notes = Vec::new();
    if open.pool.is_moving() {
        Box::pin(finish(&open, progress)).await?;
        notes.push("a replacement was under way; it is finished".to_owned());
    }
    open.pool.look().await;
    for StoreSpec { url, .. } in open.pool.emptied().await {
        let again = Box::pin(replace(desk, name, (&url, &url), true, progress)).await;
        notes.extend(match again {
            Ok(outcome) => outcome.notes,
            Err(e) => vec![format!("store {url} stays out: {e}")],
        });
    }
    Ok(notes)
}
