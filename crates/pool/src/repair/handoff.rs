//! Puts missing shards back, in the background and for repair; and deletes what a store missed to delete, once it is back.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::chunk::ShardSet;
use crate::chunk::seal;
use crate::io::Probe;
use crate::io::{DELETE_MAX, PoolContext};
use crate::local::{Damage, MissingShards};
use crate::stores::Member;
use crate::stores::PoolConfig;
use crate::stores::{At, How};
use crate::stores::{place, shard_key, shard_on};
use windlass_base::rt::Rt;
use windlass_base::{ChunkId, Error, Kind, Result};
use windlass_store::Cause;

/// Number of chunks that are mended at a time: each is held in memory whole, with its parity.
pub const AT_ONCE: usize = 2;
/// Pause after a pass over all missing shards that found nothing to try.
const IDLE: Duration = Duration::from_secs(1);
/// The longest pause: each pass that tried and mended nothing doubles it, from `IDLE` on.
const FAILED_MAX: Duration = Duration::from_secs(30);

/// Mends in the background as long as the pool lives.
pub fn start(context: &Arc<PoolContext>) {
    let task = run(context.rt().clone(), Arc::downgrade(context), context.missing_shards().clone());
    context.rt().spawn(task).detach();
}

async fn run(rt: Rt, context: Weak<PoolContext>, missing_shards: Arc<MissingShards>) {
    let mut pause = IDLE;
    while missing_shards.any().await {
        let Some(context) = context.upgrade() else { return };
        let mut pass = pass(&context).await;
        delete_missed(&context, &mut pass).await;
        drop(context);
        pause = match (pass.tried, pass.done) {
            (_, 1..) => continue,
            (0, 0) => IDLE,
            _ => (pause * 2).min(FAILED_MAX),
        };
        rt.sleep(pause).await;
    }
}

/// Counts of what one look at all missing shards did, in shards.
#[derive(Default)]
struct Pass {
    tried: usize,
    done: usize,
    /// Stores that did not take a shard: not tried again in this pass, since each try reads a whole chunk.
    failing: ShardSet,
}

async fn pass(context: &Arc<PoolContext>) -> Pass {
    let (mut after, mut pass) = (None, Pass::default());
    loop {
        let batch = context.missing_shards().after(after, AT_ONCE);
        let Some((last, _)) = batch.last() else { return pass };
        after = Some(*last);
        let ready = batch.into_iter().filter_map(|(id, mask)| {
            let open = |i: &usize| {
                let holder = context.holder(&id, *i);
                holder.standing().usable() && !pass.failing.has(holder.index())
            };
            let mask: ShardSet = mask.iter().filter(open).collect();
            (!mask.is_empty()).then_some((id, mask))
        });
        let ready: Vec<_> = ready.collect();
        let tries = ready.iter().map(|(id, mask)| hinted(context, *id, *mask));
        for ((id, mask), put) in ready.iter().zip(futures::future::join_all(tries).await) {
            let left = mask.minus(put);
            pass.tried += mask.count();
            pass.done += put.count();
            pass.failing = left.iter().fold(pass.failing, |all, i| all.with(context.holder(id, i).index()));
        }
        if context.missing_shards().closed() {
            return pass;
        }
    }
}

/// Deletes, on stores that are back, what they missed to delete, as far as no recorded state needs it by now. What was missed
/// before a decision by guess is not deleted: the guess may have chosen a head that needs these chunks.
async fn delete_missed(context: &Arc<PoolContext>, pass: &mut Pass) {
    let n = context.layout().n();
    let members = context.members().into_iter().filter(|m| m.standing().usable());
    let back: Vec<Arc<Member>> = members.filter(|m| !pass.failing.has(m.index())).collect();
    let stores: ShardSet = back.iter().map(|m| m.index()).collect();
    let is_back = |(id, shards): (&ChunkId, &ShardSet)| shards.iter().any(|i| stores.has(place(id, i, n)));
    if !context.missing_shards().leaving(|l| l.missed.iter().any(is_back)) {
        return;
    }
    pass.tried += 1;
    if let Err(e) =
        context.register(PoolConfig::register(context.missing_shards().pool())).hear_of_newer().await
    {
        return tracing::debug!("what stores missed to delete stays for now: {e}");
    }
    context.missing_shards().change_leaving(|l| l.fence(context.guesses()));
    let mut after = None;
    loop {
        let batch = context.missing_shards().leaving(|l| l.after(after, DELETE_MAX));
        let Some((last, _)) = batch.last() else { return };
        after = Some(*last);
        let batch: Vec<_> = batch.into_iter().filter(|(id, mask)| is_back((id, mask))).collect();
        let batch = match still_dead(context, batch).await {
            Ok((batch, kept)) => {
                pass.done += kept;
                batch
            }
            Err(e) => return tracing::debug!("what stores missed to delete stays for now: {e}"),
        };
        let deletes = back.iter().map(|member| delete_on(context, member, &batch));
        pass.done += futures::future::join_all(deletes).await.into_iter().sum::<usize>();
        if context.missing_shards().closed() {
            return;
        }
    }
}

/// Returns those of these shards that may be deleted now, and how many others were forgotten because a recorded state needs
/// them.
async fn still_dead(
    context: &PoolContext,
    batch: Vec<(ChunkId, ShardSet)>,
) -> Result<(Vec<(ChunkId, ShardSet)>, usize)> {
    let checked = context.check_deletion(&batch.iter().map(|(id, _)| *id).collect()).await?;
    let live: Vec<_> = batch.iter().filter(|(id, _)| checked.live.contains(id)).collect();
    if !live.is_empty() {
        context.missing_shards().change_leaving(|l| live.iter().for_each(|(id, mask)| l.deleted(id, *mask)));
    }
    let kept = live.iter().map(|(_, mask)| mask.count()).sum();
    Ok((batch.into_iter().filter(|(id, _)| checked.dead.contains(id)).collect(), kept))
}

/// Deletes those of these shards that are this store's; returns how many are gone now.
async fn delete_on(context: &PoolContext, member: &Member, batch: &[(ChunkId, ShardSet)]) -> usize {
    let shard = |id: &ChunkId| shard_on(id, member.index(), context.layout().n());
    let here = batch.iter().map(|(id, mask)| (id, mask, shard(id)));
    let here: Vec<(&ChunkId, usize)> =
        here.filter(|(_, mask, i)| mask.has(*i)).map(|(id, _, i)| (id, i)).collect();
    if here.is_empty() {
        return 0;
    }
    let keys: Vec<String> = here.iter().map(|(id, i)| shard_key(id, *i)).collect();
    if let Err(e) = context.delete_from(member, &keys).await {
        tracing::debug!("store {} keeps what nobody needs for now: {e}", member.url());
        return 0;
    }
    context.missing_shards().change_leaving(|l| {
        here.iter().for_each(|(id, i)| l.deleted(id, ShardSet::default().with(*i)));
    });
    here.len()
}

/// Puts back the shards of a chunk that a hint names; returns those that need no more mending.
async fn hinted(context: &Arc<PoolContext>, id: ChunkId, mask: ShardSet) -> ShardSet {
    let rotten = context.missing_shards().damage(&id).rotten;
    let done = match put_back(context, &id, mask, rotten, Cause::Repair).await {
        Ok((put, _)) => put,
        // Deleted meanwhile, most likely; or it is damaged.
        Err(e) if e.is(Kind::Corrupt) => {
            tracing::debug!("no longer mended: {e}");
            let damaged = !context.missing_shards().damage(&id).all().is_empty();
            context.missing_shards().remove(&id, mask);
            if damaged {
                context
                    .missing_shards()
                    .damaged(id, Damage { gone: mask.minus(rotten), rotten: mask.and(rotten) });
            }
            return mask;
        }
        Err(e) => {
            tracing::debug!("mending waits: {e}");
            ShardSet::default()
        }
    };
    // Of the others only the footer may have been looked at.
    let verified = done.and(rotten);
    context.missing_shards().remove(&id, verified);
    context.missing_shards().stored(&id, done.minus(verified));
    done
}

/// Rebuilds and puts these shards of a chunk, one attempt each; the ones that are stored now, and why others are not.
/// `verify`: those of which every byte is looked at, because the footer may be right and the rest not, or because the shard
/// gave the others of its chunk the lie.
pub async fn put_back(
    context: &Arc<PoolContext>,
    id: &ChunkId,
    mask: ShardSet,
    verify: ShardSet,
    cause: Cause,
) -> Result<(ShardSet, Vec<Error>)> {
    // Before the bytes are read: a deletion that comes from now on hears of the puts, and is made up for after them.
    let number = context.missing_shards().put_begins(*id, mask);
    let out = rebuild_and_put(context, id, mask, verify, cause).await;
    context.missing_shards().put_ended(number);
    out
}

async fn rebuild_and_put(
    context: &Arc<PoolContext>,
    id: &ChunkId,
    mask: ShardSet,
    verify: ShardSet,
    cause: Cause,
) -> Result<(ShardSet, Vec<Error>)> {
    let layout = context.layout();
    // What gives others the lie may be read as well as they: nothing is made of it.
    if ShardSet::all(layout.n()).minus(verify).count() < layout.k() {
        let why = format!(
            "chunk {id} has too few shards that none of the others gives the lie: nobody can tell what it was"
        );
        return Err(Error::new(Kind::Corrupt, why));
    }
    let payload = context.payload(id, &Probe::all_but(mask, layout), cause).await?;
    let codec = context.codec().clone();
    let sealed = context.rt().cpu(move || seal(&codec, payload.chunk, mask)).await??;
    let about = &sealed.about;
    let puts =
        sealed.objects.iter().enumerate().filter_map(|(index, object)| Some((index, object.as_ref()?)));
    let puts = puts.map(|(index, object)| async move {
        let member = context.holder(id, index);
        let how = if verify.has(index) { How::Replace } else { How::Look };
        let (at, mut over) = (At { member: &member, id, index }, false);
        let out = at.store_over((about, object), how, cause, &mut over).await;
        (index, over, out)
    });
    let outs = futures::future::join_all(puts).await;
    let (mut stored, mut replaced, mut refusals) = (ShardSet::default(), 0, Vec::new());
    for (index, over, out) in outs {
        // Also where the answer was lost: the next attempt finds the right contents, and knows of no others.
        replaced += usize::from(over);
        match out {
            Ok(()) => stored = stored.with(index),
            Err(e) => {
                tracing::debug!("shard {index} of {id} is not mended yet: {e}");
                refusals.push(e);
            }
        }
    }
    context.contents_replaced(replaced).await;
    Ok((stored, refusals))
}
