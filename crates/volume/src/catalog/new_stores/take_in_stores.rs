//! Stores put in the places of others, brought to an end: what the pool does, and between its steps the walks of the volumes
//! (protocol.md §2.8). Any process may go on where another was killed.

use futures::future::BoxFuture;

use super::walk_for_new_stores::admit_stores;
use crate::catalog::volumes::Volumes;
use windlass_base::units::show_count;
use windlass_base::{Error, Kind, Name, Result};
use windlass_pool::{Care, Filled, PoolStore, Replacement, Watch};

/// Largest number of others' plans that are finished before ours.
const TURNS: usize = 8;

/// Result of a replacement.
#[derive(Debug, Default)]
pub struct Finished {
    /// Shards that the new stores have.
    pub shards: u64,
    /// Volumes that are damaged, and could not be walked, a sentence each.
    pub left: Vec<String>,
}

/// Result of taking all of a pool's stores in.
#[derive(Debug, Default)]
pub struct TakenIn {
    /// Shards that came to stores which were taken in.
    pub shards: u64,
    /// Messages for the user.
    pub notes: Vec<String>,
    /// True if not everything could be done.
    pub is_short: bool,
}

/// End of the message where a replaced store does not answer and is the only one that has what is needed.
const OLD_IS_NEEDED: &str = ". The store that is replaced is needed too: only where it is lost for good, `windlass pool replace` with \
     --force goes on without what it has";

impl TakenIn {
    fn add(&mut self, finished: Finished) {
        self.shards += finished.shards;
        self.is_short |= !finished.left.is_empty();
        self.notes.extend(finished.left);
    }

    fn fail(&mut self, why: String) {
        self.is_short = true;
        self.notes.push(why);
    }
}

impl Volumes {
    /// Makes every volume take the pool's stores as they are now for witnesses. Returns an error for each volume where that
    /// can't be done now.
    pub fn admit_stores(&self) -> BoxFuture<'_, Result<Vec<Error>>> {
        Box::pin(async move { admit_stores(self).await })
    }

    /// Puts `new` in the place of `old`; `None`: it is there already.
    pub fn replace_store<'f>(
        &'f self,
        old: &'f str,
        new: &'f PoolStore,
        care: Care,
        watch: Watch<'f>,
    ) -> BoxFuture<'f, Result<Option<Finished>>> {
        Box::pin(async move {
            let pool = &self.engine.pool;
            for _ in 0..TURNS {
                match Box::pin(pool.plan_replacement(old, new, self, care, watch)).await? {
                    Replacement::Done => return Ok(None),
                    Replacement::Planned => {
                        return Box::pin(self.finish_ours(new, care, watch)).await.map(Some);
                    }
                    // That one's old store is not what the user gives up.
                    Replacement::Other => match Box::pin(self.finish_replacement(watch)).await {
                        Ok(_) => {}
                        // It may be that one's new store that is to be replaced: it is too small, say.
                        Err(e) => match Box::pin(pool.plan_instead(old, new, self, care, watch)).await {
                            Ok(_) => return Box::pin(self.finish_ours(new, care, watch)).await.map(Some),
                            Err(other) if other.is(Kind::NotFound) => return Err(e),
                            Err(again) => return Err(Error::new(e.kind(), format!("{e}; {again}"))),
                        },
                    },
                }
            }
            Err(busy(pool.name()))
        })
    }

    /// Finishes the replacement that puts `new` into the pool. `Owned`: others have put another store in its place meanwhile.
    /// The user must not be told then that `new` has the place and that the store of before may be deleted: that may be the
    /// other one.
    pub(crate) async fn finish_ours(
        &self,
        new: &PoolStore,
        care: Care,
        watch: Watch<'_>,
    ) -> Result<Finished> {
        let finished = self.finish_with(care, watch).await?;
        let membership = self.engine.pool.membership();
        let urls: Vec<&str> = membership.members.iter().map(|member| member.url()).collect();
        match urls.contains(&new.url.as_str()) {
            true => Ok(finished),
            false => Err(Error::new(
                Kind::Owned,
                format!(
                    "another replacement in pool {} came in between: {} is none of its stores any more, which are {}",
                    self.engine.pool.name(),
                    new.url,
                    urls.join(", ")
                ),
            )),
        }
    }

    /// Does what is left to do of a replacement, whoever began it.
    pub fn finish_replacement<'f>(&'f self, watch: Watch<'f>) -> BoxFuture<'f, Result<Finished>> {
        Box::pin(async move { self.finish_with(Care::All, watch).await })
    }

    /// Finishes the replacement that is under way. `Care::None`: gives up what only a replaced store has that does not answer.
    async fn finish_with(&self, care: Care, watch: Watch<'_>) -> Result<Finished> {
        for _ in 0..TURNS {
            match Box::pin(self.finish_one(care, watch)).await {
                Ok(Some(finished)) => return Ok(finished),
                Ok(None) => {}
                Err(e) => return Err(self.stuck(e).await),
            }
        }
        Err(busy(self.engine.pool.name()))
    }

    /// Tries once to finish the replacement. `None`: others have begun another meanwhile.
    async fn finish_one(&self, care: Care, watch: Watch<'_>) -> Result<Option<Finished>> {
        let pool = &self.engine.pool;
        let generation = pool.follow().await?;
        let not_walked = admit_stores(self).await?;
        let Filled { there, left, of_old, why } = pool.fill(self, watch).await?;
        let left = if care == Care::None { left - of_old } else { left };
        if let Some(e) = not_walked.iter().find(|e| e.is_transient()) {
            return Err(e.share());
        }
        if left > 0 {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "{} could not be brought to the new store yet{}: bring stores back and run it again{}",
                    show_count(left, "shard"),
                    why.map(|why| format!(" ({why})")).unwrap_or_default(),
                    if of_old > 0 && care != Care::None { OLD_IS_NEEDED } else { "" }
                ),
            ));
        }
        let left = not_walked.iter().map(ToString::to_string).collect();
        Ok(pool.settle(generation).await?.then_some(Finished { shards: there, left }))
    }

    /// Adds to an error why the replacement does not end, and what ends it, where repeating it does not help: a new store was
    /// lost midway, or can't take it all.
    async fn stuck(&self, e: Error) -> Error {
        let pool = &self.engine.pool;
        let lost = pool.lost_midway().await;
        let new = lost.iter().map(|(member, why)| (member.url(), why.as_str()));
        if let Some(why) = lost_midway(pool.name(), new) {
            return Error::new(e.kind(), format!("{why} ({e})"));
        }
        match pool.new_stores().first() {
            Some(new) => Error::new(
                e.kind(),
                format!(
                    "{e}. Where a new store can't take what belongs there, `windlass pool replace {} --old {new} --new URL` puts \
                     another in its place",
                    pool.name()
                ),
            ),
            None => e,
        }
    }

    /// Finishes the replacement that is under way, and takes in again the stores that were emptied. What can't be done holds
    /// nothing else up.
    pub fn take_in_stores<'f>(&'f self, watch: Watch<'f>) -> BoxFuture<'f, Result<TakenIn>> {
        Box::pin(async move {
            let (pool, mut done) = (&self.engine.pool, TakenIn::default());
            if pool.is_moving() {
                match Box::pin(self.finish_or_plan_again(watch)).await {
                    Ok(finished) => {
                        done.notes.push("a replacement was under way; it is finished".to_owned());
                        done.add(finished);
                    }
                    Err(e) => {
                        done.fail(format!("a replacement is under way, and could not be finished: {e}"))
                    }
                }
            } else {
                // Where a volume was damaged when a store came, its walk is still to be made.
                let left = admit_stores(self).await?;
                left.iter().for_each(|e| done.fail(e.to_string()));
            }
            pool.look().await;
            let emptied = if pool.is_moving() { Vec::new() } else { pool.emptied().await };
            for place in emptied {
                let url = place.url.clone();
                match Box::pin(self.replace_store(&url, &place, Care::Data, watch)).await {
                    Ok(Some(finished)) => {
                        let brought = show_count(finished.shards, "shard");
                        done.notes.push(format!("store {url} is taken in again, {brought} brought"));
                        done.add(finished);
                    }
                    Ok(None) => done.notes.push(format!("store {url} is the pool's already")),
                    Err(e) => done.fail(format!("store {url} stays out: {e}")),
                }
            }
            Ok(done)
        })
    }

    /// Finishes the replacement that is under way. Where its new store is lost, and the place is free or has the predecessor's
    /// disk again, that is taken in instead.
    async fn finish_or_plan_again(&self, watch: Watch<'_>) -> Result<Finished> {
        let e = match Box::pin(self.finish_replacement(watch)).await {
            Err(e) => e,
            done => return done,
        };
        let pool = &self.engine.pool;
        let places = pool.lost_places().await;
        if places.is_empty() {
            return Err(e);
        }
        match Box::pin(pool.plan_again(places, self, Care::Data, watch)).await {
            Ok(_) => Box::pin(self.finish_replacement(watch)).await,
            Err(again) => Err(Error::new(e.kind(), format!("{e}; {again}"))),
        }
    }
}

fn busy(name: &Name) -> Error {
    Error::new(Kind::Owned, format!("other replacements in pool {name} come in between: try again"))
}

/// Returns a message on stores that were lost before all had come along to them, each with why it is away. `None`: none was
/// lost.
pub fn lost_midway<'a>(name: &Name, lost: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let lost: Vec<(&str, &str)> = lost.collect();
    let (first, _) = lost.first()?;
    let all: Vec<String> = lost.iter().map(|(url, why)| format!("{url} ({why})")).collect();
    let (stores, were, them) = match all.len() {
        1 => ("a new store", "was", "it"),
        _ => ("new stores", "were", "them"),
    };
    Some(format!(
        "{stores} of pool {name} {were} lost midway, before all had come along: {}; what was begun does not end without {them}. \
         Bring {them} back, or what was in the place before, and run `windlass pool repair {name}`; lost for good, `windlass pool \
         replace {name} --old {first} --new URL` puts others there, or `windlass pool force-recover {name}` where too few stores \
         answer",
        all.join("; ")
    ))
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
