//! Hearing of stores that other hosts have replaced.

use std::sync::Arc;
use std::time::Duration;

use super::config::PoolConfig;
use super::fleet::Fleet;
use crate::base::PoolId;

/// How often a host looks for news while a store is away.
const KEEP_UP: Duration = Duration::from_secs(15);

/// Other hosts may have replaced a store that is out or down here: looks now and then, as long as the pool lives.
pub(super) fn keep_up(fleet: &Arc<Fleet>, pool: PoolId) {
    let (rt, fleet) = (fleet.rt().clone(), Arc::downgrade(fleet));
    let looking = rt.clone();
    let task = async move {
        loop {
            looking.sleep(KEEP_UP).await;
            let Some(fleet) = fleet.upgrade() else { return };
            if fleet.members().iter().all(|m| m.standing().usable()) {
                continue;
            }
            if let Ok(Some(value)) = fleet.register(PoolConfig::register(pool)).read().await
                && let Err(e) = fleet.roster().learn(&value).await
            {
                tracing::warn!("the pool's description is not understood: {e}");
            }
        }
    };
    rt.spawn(task).detach();
}
