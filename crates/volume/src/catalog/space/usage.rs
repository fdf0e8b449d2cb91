//! What all volumes of a pool take, by counters: a walk over their heads fills them, and what this host does since then keeps
//! them up. What other hosts do shows with the next walk.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;

use super::tally::{Part, VolumesUsage};
use crate::catalog::volumes::Volumes;
use crate::handle::Known;
use windlass_base::format_limits::BLOCK;
use windlass_base::{Error, Kind, Result, VolumeId};

const VOLUMES_AT_ONCE: usize = 32;

impl Volumes {
    /// Returns what all volumes take, by the counters of this host; those that are open here count as they are now. Asks
    /// nobody. `None`: they were not walked since this engine began.
    pub fn usage(&self) -> Option<VolumesUsage> {
        self.tally.sum(|id| self.part_here(id))
    }

    /// Walks over the heads of all volumes: some requests for each.
    ///
    /// # Errors
    /// Transient ones: what was counted before stays.
    pub fn count_usage(&self) -> BoxFuture<'_, Result<VolumesUsage>> {
        Box::pin(async move {
            let at_ms = self.engine.rt.wall_ms();
            let names = self.engine.pool.list().await?;
            let looks = names.into_iter().map(|(name, id)| async move {
            let in_trash = name.trashed().is_some();
            if let Some(here) = self.part_here(id) {
                return Ok(Some((id, Part { in_trash, ..here })));
            }
            match self.engine.newest(id).await {
                Ok(Some((head, tables))) if !head.removed => {
                    let (mapped_bytes, stored_bytes) = (tables.tip().mapped * BLOCK, tables.stored_bytes);
                    Ok(Some((id, Part { size: head.size, mapped_bytes, stored_bytes, in_trash })))
                }
                Ok(_) => Ok(None),
                Err(e) if e.is_transient() => Err(e),
                // One volume that can't be read is no reason to tell nothing of all others.
                Err(error) => {
                    let volume = self.engine.title(&name);
                    tracing::warn!(%volume, %error, "what the pool's volumes take is counted without this one");
                    Ok(None)
                }
            }
        });
            let mut looks = stream::iter(looks).buffer_unordered(VOLUMES_AT_ONCE);
            let mut parts = BTreeMap::new();
            while let Some(part) = looks.next().await {
                parts.extend(part?);
            }
            self.tally.counted(at_ms, parts);
            self.usage().ok_or_else(|| Error::new(Kind::Internal, "what was just counted is there"))
        })
    }

    /// Returns what a volume takes that this engine owns, as it is now.
    fn part_here(&self, id: VolumeId) -> Option<Part> {
        let Known::Live(session) = self.here(id)?.known() else { return None };
        let (size, mapped_bytes) = {
            let tip = session.tip.lock();
            (tip.tables.tip().size, tip.tables.tip().mapped * BLOCK)
        };
        Some(Part { size, mapped_bytes, stored_bytes: session.stored_bytes(), in_trash: false })
    }
}

/// Returns the bytes that the volumes which are open here have stored, and those on their way.
pub fn written_here(volumes: &Volumes) -> (u64, u64) {
    let open = volumes.open_now();
    let live = open.iter().filter_map(|open| match open.known() {
        Known::Live(session) => Some((session.stored_bytes(), session.tip.lock().unsent().0)),
        _ => None,
    });
    live.fold((0, 0), |(stored, unsent), one| (stored + one.0, unsent + one.1))
}
