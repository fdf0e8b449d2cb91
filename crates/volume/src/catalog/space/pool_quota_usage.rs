//! The pool's quota: what all volumes store is counted, and garbage is collected when little of it is left.

use futures::future::BoxFuture;

use super::usage::written_here;
use crate::catalog::volumes::Volumes;
use crate::handle::Known;
use windlass_base::Error;

impl Volumes {
    /// Counts what all volumes of the pool store, when that is due, and tells the pool what its quota leaves. Volumes that are
    /// open here count as they are now. While nothing is written here nobody is asked. When it can't be counted now, what was
    /// known stays. Returns whether it was counted.
    pub fn count_quota(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let (pool, rt) = (&self.engine.pool, &self.engine.rt);
            let (stored, unsent) = written_here(self);
            let Some(count) = pool.quota().begin(rt.now(), stored + unsent) else { return false };
            let left = async {
                // Without a limit no store is asked for a request that costs. Folders are: `pool status` shows what is stored there.
                let settings = pool.settings();
                let in_folders = pool.membership().members.iter().all(|member| member.space().is_some());
                if settings.quota_bytes.or(settings.capacity_bytes).is_none() && !in_folders {
                    return Ok(None);
                }
                pool.refresh_settings().await?;
                let used = self.count_usage().await?.stored_bytes + written_here(self).1;
                let (k, n) = (pool.layout().k() as u64, pool.layout().n() as u64);
                let left = |quota: u64| (quota / n * k).saturating_sub(used);
                Ok::<_, Error>(pool.settings().quota_bytes.map(left))
            };
            match left.await {
                Ok(left) => {
                    pool.quota().counted(rt.now(), count, left);
                    true
                }
                Err(error) => {
                    tracing::debug!(pool = %pool.name(), %error, "what the pool's quota leaves can't be counted now");
                    pool.quota().failed(rt.now(), count);
                    false
                }
            }
        })
    }

    /// Frees what nobody needs any more, when little of the pool's quota is left: sooner than it would be for space alone, and
    /// of the volumes that this engine owns.
    pub fn collect_for_quota(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (pool, now) = (&self.engine.pool, self.engine.rt.now());
            let Some(quota) = pool.settings().quota_bytes else { return };
            let least = quota / pool.layout().n() as u64 * pool.layout().k() as u64 / 10;
            if !pool.quota().must_collect(now, least) {
                return;
            }
            for open in self.open_now() {
                let Known::Live(session) = open.known() else { continue };
                if let Err(stop) = session.collect_all().await {
                    tracing::debug!(volume = %open.title(), error = %stop.error(), "collection for the pool's quota was broken off");
                }
            }
            pool.quota().has_collected();
        })
    }
}
