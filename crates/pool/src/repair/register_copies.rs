//! Copies of registers, as scrub and repair see them: is each there that should be, can it be read, and is it the newest?
//!
//! A register that most of its stores hold, or that holds a value anywhere, should be in all of them. One that was begun
//! and never got a value is nobody's loss.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;

use crate::chunk::ShardSet;
use crate::io::PoolContext;
use crate::local::{Finding, RepairReport, ScrubReport};
use crate::register::{Copy, Progressed};
use crate::stores::register_key;
use windlass_base::RegisterId;

/// Number of registers that are looked at at a time; a copy is read whole.
const AT_ONCE: usize = 8;

/// A copy that was put by a write a moment ago is there after this.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// Registers by id, and the stores (indices) that list a copy.
pub type Listed = BTreeMap<RegisterId, ShardSet>;

/// Reads every copy. `complete`: the stores whose listing came to its end.
pub async fn look(context: &Arc<PoolContext>, listed: &Listed, complete: ShardSet, report: &mut ScrubReport) {
    let acceptors: ShardSet = context.membership().acceptors.iter().copied().collect();
    let looks =
        stream::iter(listed.keys().copied()).map(|id| async move { (id, both_looks(context, id).await) });
    let mut looks = looks.buffer_unordered(AT_ONCE);
    while let Some((id, copies)) = looks.next().await {
        let needed = is_needed(&copies);
        for (store, copy) in copies {
            let found = || finding(context, id, store);
            match copy {
                Copy::Sound(_) => report.checked_registers += 1,
                Copy::Damaged => report.rotten.push(found()),
                Copy::Older if complete.has(store) => report.missing.push(found()),
                Copy::Older => {}
                Copy::Absent if needed && complete.has(store) && acceptors.has(store) => {
                    report.missing.push(found());
                }
                Copy::Absent => {}
                Copy::Silent(e) => report.unreachable.push(e.to_string()),
            }
        }
    }
}

/// Looks at a register's copies, and once more where some are missing or behind, since these may be on their way. Brings up
/// those that are behind still.
async fn both_looks(context: &PoolContext, id: RegisterId) -> Vec<(usize, Copy)> {
    let register = context.register(id);
    let first = register.copies().await;
    let newest = first.iter().filter_map(|(_, copy)| progressed(copy)).max();
    let is_newest = |copy: &Copy| progressed(copy).is_some() && progressed(copy) == newest;
    if first.iter().all(|(_, copy)| is_newest(copy)) {
        return first;
    }
    if first.iter().any(|(_, copy)| matches!(copy, Copy::Absent | Copy::Sound(_)) && !is_newest(copy)) {
        context.rt().sleep(ON_ITS_WAY).await;
    }
    let second = marked(register.copies().await, newest);
    if !second.iter().any(|(_, copy)| matches!(copy, Copy::Older)) {
        return second;
    }
    // Its store was away, or was put back: what a bare majority has would be forgotten with one more.
    match register.mend().await {
        Ok(_) => marked(register.copies().await, newest),
        Err(error) => {
            tracing::debug!(register = %id, %error, "older copies stay for now");
            second
        }
    }
}

/// Marks the copies that are older than what a majority has. What fewer than a majority have accepted may never have been
/// chosen, or be all that is left where the others were put back: whoever opens the volume decides that.
fn marked(mut copies: Vec<(usize, Copy)>, newest: Option<Progressed>) -> Vec<(usize, Copy)> {
    let has_newest = |copy: &Copy| progressed(copy).is_some_and(|at| Some(at) >= newest);
    if copies.iter().filter(|(_, copy)| has_newest(copy)).count() > copies.len() / 2 {
        let behind = copies.iter_mut().filter(|(_, copy)| progressed(copy).is_some() && !has_newest(copy));
        behind.for_each(|(_, copy)| *copy = Copy::Older);
    }
    copies
}

fn progressed(copy: &Copy) -> Option<Progressed> {
    match copy {
        Copy::Sound(at) => Some(*at),
        Copy::Older | Copy::Absent | Copy::Damaged | Copy::Silent(_) => None,
    }
}

fn is_needed(copies: &[(usize, Copy)]) -> bool {
    let holds = |what: fn(&Copy) -> bool| copies.iter().filter(|(_, copy)| what(copy)).count();
    let is_there = |c: &Copy| matches!(c, Copy::Sound(_) | Copy::Older);
    let has_value = |c: &Copy| match c {
        Copy::Sound(at) => at.has_value(),
        Copy::Older | Copy::Damaged => true,
        Copy::Absent | Copy::Silent(_) => false,
    };
    holds(has_value) > 0 || holds(is_there) > copies.len() / 2
}

fn finding(context: &PoolContext, id: RegisterId, store: usize) -> Finding {
    let url = context.members()[store].url().to_owned();
    Finding { key: register_key(id), store, url, shard: None, register: Some(id) }
}

/// Makes damaged and missing copies good by consensus.
pub async fn mend(
    context: &Arc<PoolContext>,
    missing: &mut Vec<Finding>,
    rotten: &mut Vec<Finding>,
    done: &mut RepairReport,
) {
    let (mut gone, mut bad) = (take_registers(missing), take_registers(rotten));
    let ids: BTreeSet<RegisterId> = gone.iter().chain(&bad).filter_map(|f| f.register).collect();
    for id in ids {
        let left = match context.register(id).mend().await {
            Ok(left) => left,
            Err(e) => {
                let e = e.context(register_key(id));
                let places = gone.iter().chain(&bad).filter(|f| f.register == Some(id));
                places.map(|f| (f.store, e.share())).collect()
            }
        };
        let why = |f: &Finding| left.iter().find(|(store, _)| f.register == Some(id) && *store == f.store);
        let mut count = |kept: &mut Vec<Finding>, put: fn(&mut ScrubReport, Finding)| {
            for finding in kept.extract_if(.., |f| f.register == Some(id)) {
                match why(&finding) {
                    None => done.rebuilt += 1,
                    Some((_, e)) => done.leave(|left| put(left, finding), e),
                }
            }
        };
        count(&mut gone, |left, f| left.missing.push(f));
        count(&mut bad, |left, f| left.rotten.push(f));
    }
}

fn take_registers(from: &mut Vec<Finding>) -> Vec<Finding> {
    from.extract_if(.., |f| f.register.is_some()).collect()
}
