//! The pool's quota: what all volumes store is counted, and garbage is collected when little of it is left.

use futures::StreamExt as _;
use futures::stream;

use crate::base::{Error, Result};
use crate::volume::catalog::volumes::Volumes;
use crate::volume::handle::Known;

const VOLUMES_AT_ONCE: usize = 32;

impl Volumes {
    /// Counts, when that is due, what all volumes of the pool store, those that are open here as they are now, and tells the pool what
    /// its quota leaves. When it can't be counted now what was known stays.
    pub async fn count_quota(&self) {
        let (pool, rt) = (&self.engine.pool, &self.engine.rt);
        let Some(count) = pool.quota().begin(rt.now()) else { return };
        let left = async {
            // Without one no store is asked.
            if pool.settings().quota_bytes.is_none() {
                return Ok(None);
            }
            pool.refresh_settings().await?;
            let Some(quota) = pool.settings().quota_bytes else { return Ok(None) };
            let (k, n) = (pool.layout().k() as u64, pool.layout().n() as u64);
            Ok::<_, Error>(Some((quota / n * k).saturating_sub(self.stored_now().await?)))
        };
        match left.await {
            Ok(left) => pool.quota().counted(rt.now(), count, left),
            Err(error) => {
                tracing::debug!(pool = %pool.name(), %error, "what the pool's quota leaves can't be counted now");
                pool.quota().failed(rt.now(), count);
            }
        }
    }

    /// When little of the pool's quota is left, what nobody needs any more is freed sooner than it would be for space alone, of the
    /// volumes that this engine owns.
    pub async fn collect_for_quota(&self) {
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
    }

    /// Bytes of all volumes' objects and of what is on its way to them, without parity.
    async fn stored_now(&self) -> Result<u64> {
        let names = self.engine.pool.list().await?;
        let looks = names.into_iter().map(|(name, id)| async move {
            if let Some(Known::Live(session)) = self.here(id).map(|open| open.known()) {
                let (unsent, _) = session.tip.lock().unsent();
                return Ok(session.stored_bytes() + unsent);
            }
            match self.engine.newest(id).await {
                Ok(Some((head, tables))) if !head.removed => Ok(tables.stored_bytes),
                Ok(_) => Ok(0),
                Err(e) if e.is_transient() => Err(e),
                // One volume that can't be read is no reason to refuse all others.
                Err(error) => {
                    let volume = self.engine.title(&name);
                    tracing::warn!(%volume, %error, "the pool's quota is counted without this volume");
                    Ok(0)
                }
            }
        });
        let mut looks = stream::iter(looks).buffer_unordered(VOLUMES_AT_ONCE);
        let mut sum = 0;
        while let Some(stored) = looks.next().await {
            sum += stored?;
        }
        Ok(sum)
    }
}
