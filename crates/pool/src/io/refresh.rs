//! Hearing of stores that other hosts have replaced.

use std::sync::Arc;
use std::time::Duration;

use super::context::PoolContext;
use crate::stores::PoolConfig;
use windlass_base::PoolId;

/// Pause between two looks for news while a store is away or a replacement is under way; one more look follows when that is
/// over.
const KEEP_UP: Duration = Duration::from_secs(15);

/// Looks now and then, as long as the pool lives, whether other hosts have replaced a store that is out or down here, or have
/// finished to replace one.
pub fn keep_up(context: &Arc<PoolContext>, pool: PoolId) {
    let (rt, context) = (context.rt().clone(), Arc::downgrade(context));
    let looking = rt.clone();
    let task = async move {
        let mut whole = true;
        loop {
            looking.sleep(KEEP_UP).await;
            let Some(context) = context.upgrade() else { return };
            context.clock().look().await;
            let now = context.membership();
            let well = now.before.is_none() && now.members.iter().all(|m| m.standing().usable());
            if std::mem::replace(&mut whole, well) && well {
                continue;
            }
            let register = context.register(PoolConfig::register(pool));
            // A store that was away may know that the others, which agree, were given up.
            if let Err(e) = register.hear_of_newer().await
                && !e.is_transient()
            {
                tracing::warn!("the pool's description is not understood: {e}");
            }
            if let Ok(Some(value)) = register.read().await
                && let Err(e) = context.roster().learn(&value).await
            {
                tracing::warn!("the pool's description is not understood: {e}");
            }
        }
    };
    rt.spawn(task).detach();
}
