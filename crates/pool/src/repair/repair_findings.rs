//! Mending what a scrub finds: shards rebuilt, moved to their stores, or deleted when nobody needs them.
//!
//! Nothing is deleted but shards: of chunks that are dead for ever, and misplaced ones whose own place is right again.
//! Objects that aren't the pool's are moved below `aside/` in their store, never deleted: they may be somebody's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::handoff::{AT_ONCE, put_back};
use super::register_copies;
use super::scrub::scrub;
use crate::chunk::ShardSet;
use crate::chunk::with_footer_of;
use crate::chunk::{Fate, Inventory};
use crate::io::PoolContext;
use crate::local::{Finding, Progress, RepairReport, ScrubOptions, Watch};
use crate::stores::ASIDE;
use crate::stores::{At, How};
use crate::stores::{LABEL_BEFORE, LABELS};
use futures::StreamExt as _;
use futures::stream;
use windlass_base::{ChunkId, Error, Kind, Result};
use windlass_store::{Cause, List, Put, When};

/// Orphans of which it is asked at once whether they are dead still.
const ORPHANS_AT_ONCE: usize = 64;
const HINTS_PAGE: usize = 1024;

pub async fn repair(
    context: &Arc<PoolContext>,
    inventory: &dyn Inventory,
    options: ScrubOptions,
    watch: Watch<'_>,
) -> Result<RepairReport> {
    // Shards found missing while it runs are not known to be mended.
    let (hints, replaced) = (context.missing_shards().hints(), context.replaced());
    let mut found = scrub(context, inventory, options, watch).await?;
    let mut done = RepairReport::default();
    done.left.unreachable = found.unreachable;
    done.left.unread_volumes = found.unread_volumes;
    done.left.former = found.former;
    done.left.checked_shards = found.checked_shards;
    done.left.checked_bytes = found.checked_bytes;
    done.left.checked_registers = found.checked_registers;
    register_copies::mend(context, &mut found.missing, &mut found.rotten, &mut done).await;
    for misplaced in found.misplaced {
        match put_in_place(context, &misplaced).await {
            Ok(()) => done.moved += 1,
            Err(e) => done.leave(|left| left.misplaced.push(misplaced), &e),
        }
    }
    rebuild(context, inventory, found.missing, found.rotten, watch, &mut done).await?;
    for orphans in found.orphans.chunks(ORPHANS_AT_ONCE) {
        let ids = orphans.iter().filter_map(|orphan| orphan.shard).map(|(id, _)| id).collect();
        let dead = context.check_deletion(&ids).await.map(|checked| checked.dead).unwrap_or_default();
        for orphan in orphans {
            match drop_orphan(context, inventory, orphan, &dead).await {
                Ok(()) => done.deleted += 1,
                Err(e) => done.leave(|left| left.orphans.push(orphan.clone()), &e),
            }
        }
    }
    for foreign in found.foreign {
        match set_aside(context, &foreign).await {
            Ok(()) => done.set_aside += 1,
            Err(e) => done.leave(|left| left.foreign.push(foreign), &e),
        }
    }
    done.replaced = context.replaced() - replaced;
    done.left.sort();
    if done.left.is_complete_and_clean() {
        let kept = undecided(context, inventory).await?;
        context.missing_shards().all_is_there(&hints, &kept);
    }
    Ok(done)
}

/// Chunks that this host knows to lack shards, and of which a scrub says nothing, since nobody has decided on them yet.
async fn undecided(context: &PoolContext, inventory: &dyn Inventory) -> Result<BTreeSet<ChunkId>> {
    let (mut after, mut kept) = (None, BTreeSet::new());
    loop {
        let page = context.missing_shards().after(after, HINTS_PAGE);
        let Some((last, _)) = page.last() else { return Ok(kept) };
        after = Some(*last);
        for (id, _) in page {
            if inventory.fate(id).await? == Fate::Unknown {
                kept.insert(id);
            }
        }
    }
}

/// A shard on a wrong store: to its own, if that hasn't it, and away from here.
async fn put_in_place(context: &Arc<PoolContext>, misplaced: &Finding) -> Result<()> {
    let (id, index) = misplaced.shard.expect("what is misplaced is a shard");
    let wrong = &context.members()[misplaced.store];
    let right = context.holder(&id, index);
    let own = At { member: &right, id: &id, index };
    if own.whole(Cause::Repair).await.is_err() {
        let here = At { member: wrong, id: &id, index }.whole(Cause::Repair).await;
        let Ok((footer, bytes, _)) = here else {
            return Err(Error::new(
                Kind::Corrupt,
                format!("{} on store {} is damaged", misplaced.key, misplaced.url),
            ));
        };
        let object = with_footer_of(&footer, bytes);
        let mut over = false;
        let done = own.store_over((&footer.about, &object), How::Verify, Cause::Repair, &mut over).await;
        context.contents_replaced(usize::from(over)).await;
        done?;
    }
    wrong.delete(std::slice::from_ref(&misplaced.key), Cause::Repair).await
}

/// What is missing or rotten, a chunk at a time.
async fn rebuild(
    context: &Arc<PoolContext>,
    inventory: &dyn Inventory,
    missing: Vec<Finding>,
    rotten: Vec<Finding>,
    watch: Watch<'_>,
    done: &mut RepairReport,
) -> Result<()> {
    let mut chunks: BTreeMap<ChunkId, (ShardSet, ShardSet)> = BTreeMap::new();
    let mut places: BTreeMap<(ChunkId, usize), (Finding, bool)> = BTreeMap::new();
    let both = missing.into_iter().map(|f| (f, false)).chain(rotten.into_iter().map(|f| (f, true)));
    for (finding, rot) in both {
        let (id, index) = finding.shard.expect("what is missing or rotten is a shard");
        let (all, bad) = chunks.entry(id).or_default();
        *all = all.with(index);
        if rot {
            *bad = bad.with(index);
        }
        places.insert((id, index), (finding, rot));
    }
    let mut progress = Progress { done: 0, of: places.len() as u64 };
    let jobs = stream::iter(chunks)
        .map(|(id, (all, bad))| async move { (id, all, one_chunk(context, inventory, &id, all, bad).await) });
    let mut jobs = jobs.buffer_unordered(AT_ONCE);
    while let Some((id, all, outcome)) = jobs.next().await {
        let (stored, refusals) = match outcome {
            Ok(done) => done,
            Err(e) => (ShardSet::default(), vec![e]),
        };
        let silent = || Error::new(Kind::Unavailable, "some stores did not take their shards");
        let why = refusals.first().map_or_else(silent, Error::share);
        done.rebuilt += stored.count() as u64;
        context.missing_shards().remove(&id, stored);
        for index in all.minus(stored).iter() {
            if let Some((finding, rot)) = places.remove(&(id, index)) {
                done.leave(
                    |left| if rot { left.rotten.push(finding) } else { left.missing.push(finding) },
                    &why,
                );
            }
        }
        progress.done += all.count() as u64;
        watch(progress);
    }
    Ok(())
}

/// The shards that are right now, all of them when the chunk is not needed any more; and why others are not.
async fn one_chunk(
    context: &Arc<PoolContext>,
    inventory: &dyn Inventory,
    id: &ChunkId,
    all: ShardSet,
    bad: ShardSet,
) -> Result<(ShardSet, Vec<Error>)> {
    match put_back(context, id, all, bad, Cause::Repair).await {
        Err(e) if inventory.fate(*id).await?.is_over() || is_dead_now(context, id).await => {
            tracing::debug!("not mended, not needed any more: {e}");
            Ok((all, Vec::new()))
        }
        other => other,
    }
}

/// By a head that is read now: what the inventory says may be some seconds old, and the volume removed since.
async fn is_dead_now(context: &Arc<PoolContext>, id: &ChunkId) -> bool {
    let checked = context.check_deletion(&BTreeSet::from([*id])).await;
    checked.is_ok_and(|checked| checked.dead.contains(id))
}

/// `dead`: by a look since the scrub.
async fn drop_orphan(
    context: &Arc<PoolContext>,
    inventory: &dyn Inventory,
    orphan: &Finding,
    dead: &BTreeSet<ChunkId>,
) -> Result<()> {
    let (id, _) = orphan.shard.expect("an orphan is a shard");
    if inventory.fate(id).await? != Fate::Dead || !dead.contains(&id) {
        return Err(Error::new(Kind::Refused, format!("{} may be needed after all", orphan.key)));
    }
    context.members()[orphan.store].delete(std::slice::from_ref(&orphan.key), Cause::Repair).await
}

async fn set_aside(context: &Arc<PoolContext>, foreign: &Finding) -> Result<()> {
    let member = &context.members()[foreign.store];
    member.attest().await?;
    let bucket = member.raw().expect("a store that was listed is known");
    let to = format!("{ASIDE}{}", foreign.key);
    // Another pool's store that was made inside this one: moving its objects would take that pool apart.
    for (at, _) in foreign.key.match_indices('/') {
        let place = &foreign.key[..at];
        let labels = List { prefix: format!("{place}/{LABELS}"), max: 1, ..List::default() };
        let before = format!("{place}/{LABEL_BEFORE}");
        if !bucket.list(&labels, Cause::Repair).await?.objects.is_empty()
            || bucket.head(&before, Cause::Repair).await?.is_some()
        {
            let text = format!(
                "{} on store {} is left alone: {place} has a label, as a pool's store; bring that store to another place with \
                 `windlass pool replace`",
                foreign.key, foreign.url
            );
            return Err(Error::new(Kind::Refused, text));
        }
    }
    let kept = |why: &str| {
        let text =
            format!("{} on store {} is not the pool's and can't be moved: {why}", foreign.key, foreign.url);
        Error::new(Kind::Refused, text)
    };
    if member.is_data_only() && bucket.head(&to, Cause::Repair).await?.is_some() {
        return Err(kept(&format!("{to} exists already")));
    }
    let when = member.asked(When::Absent);
    match bucket.copy(&foreign.key, &to, None, None, when, Cause::Repair).await? {
        Put::Stored(_) => {}
        Put::Refused => return Err(kept(&format!("{to} exists already"))),
        Put::Unknown(e) => return Err(kept(&e.to_string())),
    }
    bucket.delete(std::slice::from_ref(&foreign.key), Cause::Repair).await
}
