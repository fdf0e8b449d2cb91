//! What is damaged though it was stored: shards that reads could not use are looked at more closely, and what is known to be
//! damaged is looked at again, because others may have mended or deleted it.
//!
//! Only what is certain is remembered (`hints`): rot by every byte of the shard, absence where the store attests after it, and
//! while the rest of the chunk is there, since a chunk that is being deleted goes a shard at a time. Nothing is mended here.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::fleet::Fleet;
use super::hints::{Damage, Hints};
use super::shard::{At, Miss};
use crate::base::ChunkId;
use crate::base::rt::Rt;
use crate::store::Cause;

/// A shard that is on its way, or a chunk on its way out, is left so long.
const SETTLES: Duration = Duration::from_secs(3);
/// Pauses between looks at what is known to be damaged; doubled each time.
const AGAIN_MIN: Duration = Duration::from_secs(10);
const AGAIN_MAX: Duration = Duration::from_secs(600);
/// Chunks looked at again at a time.
const AGAIN: usize = 500;

/// Looks as long as the pool lives.
pub(super) fn start(fleet: &Arc<Fleet>) {
    let task = run(fleet.rt().clone(), Arc::downgrade(fleet), fleet.hints().clone());
    fleet.rt().spawn(task).detach();
}

async fn run(rt: Rt, fleet: Weak<Fleet>, hints: Arc<Hints>) {
    let (mut pause, mut after) = (AGAIN_MIN, None);
    loop {
        match rt.timeout(pause, hints.any_doubts()).await {
            Some(false) => return,
            Some(true) => {
                rt.sleep(SETTLES).await;
                let Some(fleet) = fleet.upgrade() else { return };
                for (id, shard) in hints.doubts() {
                    look(&fleet, id, shard).await;
                }
                pause = AGAIN_MIN;
            }
            None => {
                let Some(fleet) = fleet.upgrade() else { return };
                let batch = hints.damaged_after(after, AGAIN);
                after = batch.last().map(|(id, _)| *id);
                for (id, damage) in batch {
                    look_again(&fleet, id, damage).await;
                }
                pause = (pause * 2).min(AGAIN_MAX);
            }
        }
    }
}

/// A shard that a read could not use: is it damaged?
async fn look(fleet: &Fleet, id: ChunkId, index: usize) {
    let hints = fleet.hints();
    let member = fleet.holder(&id, index);
    // What was never stored, or is still to come along from another store, is missed elsewhere.
    if hints.not_stored(&id).has(index)
        || !member.standing().usable()
        || fleet.former_holder(&id, index).is_some()
    {
        return;
    }
    let damage = match (At { member: &member, id: &id, index }).whole(Cause::Scrub).await {
        Ok((footer, ..)) if footer.about.layout == fleet.layout() => return,
        Ok(_) | Err(Miss::Rot(_)) => Damage::rotten(index),
        Err(Miss::Absent) => {
            let rest = fleet.probe(&id, &fleet.incarnations(), Cause::Scrub).await;
            if rest.good < fleet.layout().k() || member.attest().await.is_err() {
                return;
            }
            Damage::gone(index)
        }
        Err(Miss::Silent(_)) => return,
    };
    let what = if damage.rotten.is_empty() { "gone" } else { "rotten" };
    tracing::warn!(
        "{} on store {} is {what}: reads go around it, `windlass pool repair` rebuilds it",
        At { member: &member, id: &id, index }.key(),
        member.url()
    );
    hints.damaged(id, damage);
}

/// Whether a chunk is still damaged, by one small request a store: what was gone may be back, or the whole chunk gone.
async fn look_again(fleet: &Fleet, id: ChunkId, damage: Damage) {
    let seen = fleet.probe(&id, &fleet.incarnations(), Cause::Scrub).await;
    let readable = damage.all().count() <= fleet.layout().m();
    let right = match seen.absent == fleet.layout().n() {
        // Of a chunk that was readable: deleted. Else only a scrub can tell that from lost.
        true if readable => damage.all(),
        // Rot may lie under a footer that is right.
        _ => damage.gone.minus(seen.not_good(fleet.layout())),
    };
    fleet.hints().remove_damage(&id, right);
}
