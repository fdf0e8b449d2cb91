//! What is asked right before chunks are deleted that were found dead earlier: do the heads of now agree (protocol.md §5.7)?
//!
//! A deletion may be remembered for as long as a store is away. Meanwhile all stores may be put back from a backup, and the
//! head in it may need what was deleted since. A chunk that is dead under the head of now is dead for ever, whatever else
//! became of the stores; so that head alone is asked, and only where it is not behind what this host has seen recorded.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream;

use super::engine_context::EngineContext;
use crate::head::Floor;
use crate::space::Liveness;
use windlass_base::{ChunkId, Result, VolumeId};
use windlass_pool::{Checked, DeletionCheck, Fate};

/// Most volumes that are asked about at a time.
const AT_ONCE: usize = 8;

impl EngineContext {
    /// Reads the volume's head and table, and returns which objects are live. `None`: there is no such
    /// volume. An error where its head is behind, or can't be read.
    async fn liveness_now(&self, id: VolumeId) -> Result<Option<Liveness>> {
        let floor = Floor { known: self.confirmed(id).load().await, title: format!("with id {id}") };
        let now = self.chunk_table_in(&self.cell(id).above(floor)).await?;
        Ok(now.map(|(head, chunk_table)| Liveness::new(&head, &chunk_table)))
    }
}

#[async_trait]
impl DeletionCheck for EngineContext {
    async fn check(&self, ids: &BTreeSet<ChunkId>) -> Checked {
        let mut volumes: BTreeMap<VolumeId, Vec<ChunkId>> = BTreeMap::new();
        ids.iter().for_each(|id| volumes.entry(id.volume).or_default().push(*id));
        let looks = stream::iter(volumes)
            .map(|(volume, ids)| async move { (volume, ids, self.liveness_now(volume).await) });
        let mut looks = looks.buffer_unordered(AT_ONCE);
        let mut checked = Checked::default();
        while let Some((volume, ids, book)) = looks.next().await {
            let book = match book {
                Ok(Some(book)) => book,
                Ok(None) => continue,
                Err(error) => {
                    tracing::debug!(%volume, %error, "what was found dead of this volume stays for now");
                    continue;
                }
            };
            for id in ids {
                match book.fate(id.epoch, id.seq) {
                    Fate::Dead | Fate::Leaving => checked.dead.insert(id),
                    Fate::Live => checked.live.insert(id),
                    Fate::Unknown => false,
                };
            }
        }
        checked
    }
}
