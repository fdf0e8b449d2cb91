//! What is damaged though it was stored: shards that reads could not use are looked at more closely, and what is known to be
//! gone is looked at again, because others may have put it back or deleted the chunk.
//!
//! Only what is certain is remembered (`missing_shards`): rot by every byte of the shard, absence where the store
//! attests after it, and as long as the chunk is readable, since one that is deleted goes a shard at a time. Of what
//! can't be read any more scrub tells, which knows what is needed. Nothing is mended here.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::chunk::ShardSet;
use crate::io::PoolContext;
use crate::io::Probe;
use crate::local::{Damage, MissingShards};
use crate::stores::{At, Miss};
use windlass_base::ChunkId;
use windlass_base::rt::Rt;
use windlass_store::Cause;

/// Pause before a look at shards in doubt: a shard may be on its way, or a chunk on its way out.
const SETTLES: Duration = Duration::from_secs(3);
/// Number of chunks in doubt that are looked at between two such pauses, each with one whole shard or more.
const LOOKS: usize = 8;
/// Pauses between looks at what is known to be gone; doubled each time that nothing has changed.
const AGAIN_MIN: Duration = Duration::from_secs(30);
const AGAIN_MAX: Duration = Duration::from_secs(600);
/// Number of chunks that are looked at again at a time, each by two small requests a store.
const AGAIN: usize = 50;

/// Looks as long as the pool lives.
pub fn start(context: &Arc<PoolContext>) {
    let task = run(context.rt().clone(), Arc::downgrade(context), context.missing_shards().clone());
    context.rt().spawn(task).detach();
}

async fn run(rt: Rt, context: Weak<PoolContext>, missing_shards: Arc<MissingShards>) {
    let mut again = Again { pause: AGAIN_MIN, after: None, news: 0 };
    let mut due = rt.now() + again.pause;
    let mut last = None;
    loop {
        match rt.timeout(due.since(rt.now()), missing_shards.any_doubts()).await {
            Some(false) => return,
            Some(true) => {
                rt.sleep(SETTLES).await;
                let Some(context) = context.upgrade() else { return };
                last = look_at_doubts(&context, last).await;
            }
            None => {}
        }
        if due <= rt.now() {
            let Some(context) = context.upgrade() else { return };
            again.round(&context).await;
            due = rt.now() + again.pause;
        }
        if again.news != missing_shards.news() {
            (again.news, again.pause) = (missing_shards.news(), AGAIN_MIN);
            due = due.min(rt.now() + again.pause);
        }
    }
}

/// Looks at some, in turn; the chunk that was the last of them.
async fn look_at_doubts(context: &PoolContext, last: Option<ChunkId>) -> Option<ChunkId> {
    let mut chunks: BTreeMap<ChunkId, ShardSet> = BTreeMap::new();
    for (id, shard) in context.missing_shards().doubts() {
        let shards = chunks.entry(id).or_default();
        *shards = shards.with(shard);
    }
    let (mut found, mut first, mut at) = (0, None, last);
    // The rest is met again.
    let (before, after): (Vec<_>, Vec<_>) = chunks.into_iter().partition(|(id, _)| Some(*id) <= last);
    for (id, shards) in after.into_iter().chain(before).take(LOOKS) {
        if context.missing_shards().closed() {
            return None;
        }
        at = Some(id);
        let damage = look(context, id, shards).await;
        found += damage.all().count();
        first = first.or(damage.all().iter().next().map(|shard| (id, shard)));
    }
    if let Some((id, shard)) = first {
        let member = context.holder(&id, shard);
        tracing::warn!(
            "reads met {found} shards that are gone or rotten, one of them {} on store {}: reads go around them, `windlass pool \
             repair` rebuilds them",
            At { member: &member, id: &id, index: shard }.key(),
            member.url()
        );
    }
    at
}

/// Looks for what is damaged of a chunk that is readable, and remembers it; every byte of these shards is looked at.
async fn look(context: &PoolContext, id: ChunkId, shards: ShardSet) -> Damage {
    let missing_shards = context.missing_shards();
    // Known before the look, so that a shard that comes in between is not taken for one that went.
    let known = missing_shards.not_stored(&id);
    let coming = |shard: &usize| known.has(*shard) || context.is_coming(&id, *shard);
    let seen = probe(context, &id).await;
    if seen.good < context.layout().k() {
        return Damage::default();
    }
    let (gone, mut rotten) = seen.absent_and_rotten();
    for index in shards.minus(seen.not_good(context.layout())).iter() {
        let member = context.holder(&id, index);
        if let Err(Miss::Rot(_)) = (At { member: &member, id: &id, index }).whole(Cause::Scrub).await {
            rotten = rotten.with(index);
        }
    }
    let certain = |mask: ShardSet| -> ShardSet { mask.iter().filter(|shard| !coming(shard)).collect() };
    let damage = Damage { gone: certain(gone), rotten: certain(rotten) };
    missing_shards.damaged(id, damage);
    damage
}

async fn probe(context: &PoolContext, id: &ChunkId) -> Probe {
    context.probe(id, &context.incarnations(), Cause::Scrub).await
}

/// The looks at what is known to be gone.
struct Again {
    pause: Duration,
    after: Option<ChunkId>,
    /// The count of findings (`MissingShards::news`) when the pause began.
    news: u64,
}

impl Again {
    /// Goes on as long as it finds things changed.
    async fn round(&mut self, context: &PoolContext) {
        let missing_shards = context.missing_shards();
        let mut changed = false;
        loop {
            let mut batch = missing_shards.gone_after(self.after, AGAIN);
            if batch.is_empty() {
                batch = missing_shards.gone_after(None, AGAIN);
            }
            self.after = batch.last().map(|(id, _)| *id);
            let mut better = 0;
            for (id, damage) in &batch {
                if missing_shards.closed() {
                    return;
                }
                better += usize::from(is_better(context, id, *damage).await);
            }
            changed |= better > 0;
            if batch.is_empty() || better * 2 < batch.len() {
                break;
            }
        }
        self.pause = if changed { AGAIN_MIN } else { (self.pause * 2).min(AGAIN_MAX) };
    }
}

/// Forgets what was gone and is back, and a chunk that was readable and is deleted by now, as far as stores answer and let
/// it; was there any?
async fn is_better(context: &PoolContext, id: &ChunkId, damage: Damage) -> bool {
    let seen = probe(context, id).await;
    let m = context.layout().m();
    let deleted = seen.absent > m && damage.all().count() <= m;
    let right = match deleted {
        true => damage.all(),
        // Rot may lie under a footer that is right.
        false => damage.gone.minus(seen.not_good(context.layout())),
    };
    context.missing_shards().remove_damage(id, right);
    !right.is_empty()
}
