//! What scrub and repair ask about chunks, answered from heads and chunk tables (protocol.md §5.7).

use std::time::Duration;

use async_trait::async_trait;

use crate::base::{ChunkId, Result, VolumeId};
use crate::pool::{Fate, Inventory};
use crate::volume::catalog::volumes::Volumes;
use crate::volume::handle::Known;
use crate::volume::space::Liveness;
use crate::volume::space::Object;

/// How long an answer counts, or half the grace period: a scrub asks about thousands of chunks of one volume.
const LOGBOOK_AGE: Duration = Duration::from_secs(5);

impl Volumes {
    async fn liveness(&self, id: VolumeId) -> Result<Option<Liveness>> {
        let stored = match self.here(id).map(|v| v.known()) {
            Some(Known::Live(session)) => Some((session.epoch, session.writer.prefix().seq)),
            _ => None,
        };
        let (now, age) = (self.engine.rt.now(), LOGBOOK_AGE.min(self.engine.pool.settings().grace() / 2));
        // Dead stays dead, and what was live or unknown a moment ago may still be treated so.
        let known = self.logbooks.lock().get(&id).filter(|(at, _)| now.since(*at) < age).cloned();
        let mut book = match known {
            Some((_, book)) => book,
            None => {
                let Some((head, chunk_table)) = self.engine.chunk_table(id).await? else { return Ok(None) };
                let book = Liveness::new(&head, &chunk_table);
                let mut books = self.logbooks.lock();
                books.retain(|_, (at, _)| now.since(*at) < LOGBOOK_AGE);
                books.insert(id, (now, book.clone()));
                book
            }
        };
        if let Some((_, stored)) = stored.filter(|(epoch, _)| *epoch == book.active) {
            book.stored = book.stored.max(stored);
        }
        Ok(Some(book))
    }
}

#[async_trait]
impl Inventory for Volumes {
    async fn fate(&self, id: ChunkId) -> Result<Fate> {
        // A volume without a head never wrote a chunk; its head may be out of reach, or yet to come.
        Ok(self.liveness(id.volume).await?.map_or(Fate::Unknown, |book| book.fate(id.epoch, id.seq)))
    }

    async fn live_after(&self, after: Option<ChunkId>, max: usize) -> Result<Vec<ChunkId>> {
        let mut ids: Vec<VolumeId> = self.engine.pool.list().await?.into_iter().map(|(_, id)| id).collect();
        ids.sort();
        let mut live = Vec::new();
        for id in ids.into_iter().filter(|id| after.is_none_or(|a| *id >= a.volume)) {
            let Some(book) = self.liveness(id).await? else { continue };
            let from = after.filter(|a| a.volume == id).map(|a| Object { epoch: a.epoch, seq: a.seq });
            live.extend(book.live_after(id, from, max - live.len()));
            if live.len() >= max {
                break;
            }
        }
        Ok(live)
    }
}
