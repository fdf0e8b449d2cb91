//! What scrub and repair ask about chunks, answered from heads and chunk tables (protocol.md §5.7).

use std::time::Duration;

use async_trait::async_trait;

use super::log_ends;
use crate::catalog::new_stores::try_walks;
use crate::catalog::volumes::Volumes;
use crate::handle::Known;
use crate::space::Liveness;
use crate::space::Object;
use windlass_base::{ChunkId, Error, Result, VolumeId};
use windlass_pool::{Fate, Inventory, Need};

/// Age up to which an answer counts, or half the grace period if that is less: a scrub asks about thousands of chunks of one
/// volume.
const LOGBOOK_AGE: Duration = Duration::from_secs(5);
/// Time for which a volume whose tables can't be read is not asked for again: a scrub asks about thousands of chunks of it.
const UNREAD_AGE: Duration = Duration::from_secs(30);

impl Volumes {
    async fn liveness(&self, id: VolumeId) -> Result<Option<Liveness>> {
        let stored = match self.here(id).map(|v| v.known()) {
            Some(Known::Live(session)) => Some((session.epoch, session.writer.prefix().seq)),
            _ => None,
        };
        let stored = stored.into_iter().chain(self.log_ends.lock().get(&id).copied());
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
        stored.for_each(|(epoch, seq)| book.goes_on(epoch, seq));
        Ok(Some(book))
    }
}

impl Volumes {
    /// Returns what `liveness` does; `None` also for a volume whose tables can't be read, which is remembered: it must not hold
    /// up the others.
    async fn liveness_if_readable(&self, id: VolumeId) -> Result<Option<Liveness>> {
        if let Some((at, _)) = self.unread.lock().get(&id)
            && self.engine.rt.now().since(*at) < UNREAD_AGE
        {
            return Ok(None);
        }
        match self.liveness(id).await {
            // Too few stores answer for any volume: that is no fault of this one.
            Err(e) if e.is_transient() && self.engine.pool.condition().lacks(Need::Decide) => Err(e),
            Err(e) => {
                self.unread.lock().insert(id, (self.engine.rt.now(), e.to_string()));
                Ok(None)
            }
            told => {
                self.unread.lock().remove(&id);
                told
            }
        }
    }
}

#[async_trait]
impl Inventory for Volumes {
    async fn fate(&self, id: ChunkId) -> Result<Fate> {
        // A volume without a head never wrote a chunk; its head may be out of reach, or yet to come.
        let book = self.liveness_if_readable(id.volume).await?;
        Ok(book.map_or(Fate::Unknown, |book| book.fate(id.epoch, id.seq)))
    }

    async fn live_after(&self, after: Option<ChunkId>, max: usize) -> Result<Vec<ChunkId>> {
        let mut ids: Vec<VolumeId> = self.engine.pool.list().await?.into_iter().map(|(_, id)| id).collect();
        ids.sort();
        if after.is_none() {
            // From here on it is asked for all that are there now.
            self.unread.lock().clear();
        }
        let mut live = Vec::new();
        for id in ids.into_iter().filter(|id| after.is_none_or(|a| *id >= a.volume)) {
            let Some(book) = self.liveness_if_readable(id).await? else { continue };
            let from = after.filter(|a| a.volume == id).map(|a| Object { epoch: a.epoch, seq: a.seq });
            live.extend(book.live_after(id, from, max - live.len()));
            if live.len() >= max {
                break;
            }
        }
        Ok(live)
    }

    async fn learn_log_ends(&self) -> Result<Vec<Error>> {
        log_ends::learn(self).await
    }

    async fn undecided(&self) -> Result<Vec<Error>> {
        try_walks(self).await
    }

    fn unread(&self) -> Vec<(VolumeId, String)> {
        let named = |id: &VolumeId, why: &str| format!("volume with id {id}: {why}");
        self.unread.lock().iter().map(|(id, (_, why))| (*id, named(id, why))).collect()
    }
}
