//! Hearing of stores that other hosts have replaced.

use std::sync::Arc;
use std::time::Duration;

use super::config::PoolConfig;
use super::fleet::Fleet;
use crate::base::PoolId;

/// How often a host looks for news while a store is away or a replacement is under way, and once more when that is over.
const KEEP_UP: Duration = Duration::from_secs(15);
/// The first look where the pool was opened without hearing all of its stores.
const FIRST: Duration = Duration::from_secs(3);

/// Other hosts may have replaced a store that is out or down here, or have finished to replace one: looks now and then, as
/// long as the pool lives. `heard`: when it was opened every store said which generation it knows of.
pub(super) fn keep_up(fleet: &Arc<Fleet>, pool: PoolId, heard: bool) {
    let (rt, fleet) = (fleet.rt().clone(), Arc::downgrade(fleet));
    let looking = rt.clone();
    let task = async move {
        let mut whole = heard;
        let mut pause = if heard { KEEP_UP } else { FIRST };
        loop {
            looking.sleep(std::mem::replace(&mut pause, KEEP_UP)).await;
            let Some(fleet) = fleet.upgrade() else { return };
            let now = fleet.membership();
            let well = now.before.is_none() && now.members.iter().all(|m| m.standing().usable());
            if std::mem::replace(&mut whole, well) && well {
                continue;
            }
            let register = fleet.register(PoolConfig::register(pool));
            // A store that was away may know that the others, which agree, were given up.
            if let Err(e) = register.hear_of_newer().await
                && !e.is_transient()
            {
                tracing::warn!("the pool's description is not understood: {e}");
            }
            if let Ok(Some(value)) = register.read().await
                && let Err(e) = fleet.roster().learn(&value).await
            {
                tracing::warn!("the pool's description is not understood: {e}");
            }
        }
    };
    rt.spawn(task).detach();
}
