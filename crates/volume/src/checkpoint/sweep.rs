//! Looks through the stores for what killed owners left behind, and has it deleted (protocol.md §5.9; model `collect`, K1).
//!
//! One look serves all volumes that are due, and any session of the pool makes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;

use crate::read::EngineContext;
use crate::session::Session;
use crate::space::Liveness;
use crate::space::{Before, Rules};
use windlass_base::rt::Instant;
use windlass_base::{ChunkId, Result, VolumeId};
use windlass_pool::{Fate, Unneeded};

impl EngineContext {
    fn rules(&self) -> Rules {
        let (grace, stores) = (self.pool.settings().grace(), self.pool.layout().n());
        Rules { grace, every: self.tuning.look_every, stores }
    }

    /// Looks through the stores for all volumes that are due. What can't be done now is tried again later.
    async fn sweep(&self) {
        let began = self.rt.now();
        if let Err(error) = self.sweep_for(self.sweeps.now(began), began).await {
            tracing::debug!(pool = %self.pool.name(), %error, "stores are looked through later");
        }
        self.sweeps.over(began, self.rt.now(), self.rules());
    }

    async fn sweep_for(&self, due: BTreeMap<VolumeId, BTreeSet<usize>>, began: Instant) -> Result<()> {
        let stores = self.pool.usable();
        if !due.values().any(|left| stores.iter().any(|s| left.contains(s))) {
            return Ok(());
        }
        self.pool.hear_of_newer().await?;
        let guesses = self.pool.guesses();
        if guesses > 0 {
            // Each register was guessed by itself. A clone's head may need what its parent's knows nothing of any more: there
            // `pool repair` alone deletes, when somebody asks for it.
            let volumes = due.keys().copied().collect();
            stores.iter().for_each(|store| self.sweeps.looked(&volumes, *store, began));
            return Ok(());
        }
        let mut books = BTreeMap::new();
        for id in due.keys() {
            // What is dead by one recorded head is dead for ever: it need not be the newest when the look ends.
            match self.chunk_table(*id).await {
                Ok(Some((head, chunk_table))) => {
                    drop(books.insert(*id, Some(Liveness::new(&head, &chunk_table))))
                }
                Ok(None) => drop(books.insert(*id, None)),
                // The others' are looked for all the same; this one stays due.
                Err(error) => {
                    tracing::debug!(volume = %id, %error, "what a former owner left is looked for later")
                }
            }
        }
        let is_dead = |id: &ChunkId| {
            let book = books.get(&id.volume).and_then(Option::as_ref);
            book.is_some_and(|book| book.fate(id.epoch, id.seq) == Fate::Dead)
        };
        let (due, books, is_dead) = (&due, &books, &is_dead);
        join_all(stores.into_iter().map(|store| async move {
            let volumes: BTreeSet<VolumeId> = due
                .iter()
                .filter(|(_, left)| left.contains(&store))
                .map(|(id, _)| *id)
                .filter(|id| books.contains_key(id))
                .collect();
            if volumes.is_empty() {
                return;
            }
            let unneeded = Unneeded { volumes, is_dead, guesses };
            match self.pool.sweep(store, &unneeded).await {
                Ok(deleted) => {
                    self.sweeps.looked(&unneeded.volumes, store, began);
                    if deleted > 0 {
                        let pool = self.pool.name();
                        tracing::info!(%pool, store, "deleted {deleted} objects that former owners had left");
                    }
                }
                Err(error) => tracing::debug!(store, %error, "this store is looked through later"),
            }
        }))
        .await;
        Ok(())
    }
}

/// Has the stores looked through when that is due, for as long as the session lasts.
pub async fn sweep_when_due(session: Arc<Session>, before: Before) {
    let (engine, rt, id) = (&session.context.engine, session.context.rt(), session.context.id);
    let _open = engine.sweeps.opened(id, before, rt.now(), engine.rules());
    while let Some(at) = engine.sweeps.at(id) {
        if at > rt.now() {
            rt.sleep(at.since(rt.now())).await;
            continue;
        }
        let _turn = engine.sweeps.turn.lock().await;
        // Another session's look may have been for this volume too.
        if engine.sweeps.at(id).is_some_and(|at| at <= rt.now()) {
            engine.sweep().await;
        }
    }
}
