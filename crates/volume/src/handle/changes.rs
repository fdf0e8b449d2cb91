//! What has changed in a volume since one of its snapshots.

use std::pin::pin;

use futures::future::BoxFuture;

use super::volume_handle::{Known, Volume};
use crate::head::Stop;
use crate::read::{Run, Since, blocks_of, in_bytes};
use crate::session::no_snapshot;
use crate::space::{SnapshotId, Tables};
use windlass_base::{Error, Kind, Name, Result};

fn removed(title: &str) -> Error {
    let why =
        format!("volume {title}: a snapshot was removed, and what changed since cannot be told any more");
    Error::new(Kind::Removed, why)
}

impl Volume {
    /// Returns one of the volume's snapshots, to ask `changed_since` of. `NotFound`: it has none of this name.
    pub fn since(&self, snapshot: &Name) -> impl Future<Output = Result<Since>> + Send {
        async move {
            let since = async {
                if let Known::Inert(inert) = self.known() {
                    let since = Since::of(&inert.tables, snapshot);
                    return since.ok_or_else(|| no_snapshot(&self.title(), snapshot));
                }
                self.ask(|session| async move { session.since(snapshot).await }).await
            };
            self.unless_outage(pin!(since)).await
        }
    }

    /// Returns the very snapshot that a client of another process of this host compares to, whatever it is called by now.
    ///
    /// # Errors
    /// `Removed`: it is not there any more.
    pub fn since_again<'f>(&'f self, snapshot: &'f SnapshotId) -> BoxFuture<'f, Result<Since>> {
        Box::pin(async move {
            let since = async {
                let title = self.title();
                if let Known::Inert(inert) = self.known() {
                    return Since::again(&inert.tables, snapshot).ok_or_else(|| removed(&title));
                }
                self.ask(|session| async move {
                    // A name that is given to another snapshot meanwhile has that built, which harms nobody.
                    let name = session.tip.lock().tables.find(snapshot).map(|(name, _)| name.clone());
                    if let Some(name) = name {
                        session.build_snapshot(&name).await?;
                    }
                    let since = Since::again(&session.tip.lock().tables, snapshot);
                    since.ok_or_else(|| Stop::Failed(removed(&session.context.title())))
                })
                .await
            };
            self.unless_outage(pin!(since)).await
        })
    }

    /// Returns which bytes of a range may read otherwise than in the snapshot: bytes side by side from its start on, and
    /// whether they may. `max` of them at most, so that they may end before the range does. Told by blocks, from the maps
    /// alone: no data is read. A block that was written with what it held before counts as changed.
    pub fn changed_since(
        &self,
        since: &Since,
        offset: u64,
        len: u64,
        max: usize,
    ) -> impl Future<Output = Result<Vec<Run>>> + Send {
        async move {
            self.check(offset, len)?;
            let runs = self.unless_outage(pin!(self.changed_now(since, offset, len, max))).await?;
            Ok(in_bytes(runs, offset, len))
        }
    }

    /// Returns the newest snapshot whose map is stored, to ask `changed_since` of. Asks nobody and waits for nothing.
    pub fn newest_stored(&self) -> Option<(Name, Since)> {
        let newest = |tables: &Tables| {
            let stored = tables.snapshots().filter(|(_, state)| state.built);
            let name = stored.max_by_key(|(_, state)| state.id).map(|(name, _)| name.clone())?;
            let since = Since::of(tables, &name)?;
            Some((name, since))
        };
        match self.known() {
            Known::Live(session) => newest(&session.tip.lock().tables),
            Known::Inert(inert) => newest(&inert.tables),
            Known::Ended(_) | Known::Nothing => None,
        }
    }

    /// Tells whether a look at the volume here changes nothing: it is open, and nobody has to claim it first.
    pub fn is_known(&self) -> bool {
        matches!(self.known(), Known::Live(_) | Known::Inert(_))
    }

    /// Returns which bytes of a range a clone has of its origin, as `changed_since` tells runs. From the maps alone.
    pub fn inherited(&self, offset: u64, len: u64, max: usize) -> BoxFuture<'_, Result<Vec<Run>>> {
        Box::pin(async move {
            self.check(offset, len)?;
            let runs = self.unless_outage(pin!(self.inherited_now(offset, len, max))).await?;
            Ok(in_bytes(runs, offset, len))
        })
    }

    async fn inherited_now(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Run>> {
        if let Known::Inert(inert) = self.known() {
            let (tree, found) = (inert.tables.tip().tree, vec![(blocks_of(offset, len), None)]);
            let context = self.context();
            return match context.view.inherited(found, &tree, context.index, max).await {
                Err(e) if e.is(Kind::Corrupt) => Err(self.superseded(&inert).await.unwrap_or(e)),
                done => done,
            };
        }
        self.ask(|session| async move { session.inherited(offset, len, max).await }).await
    }

    async fn changed_now(&self, since: &Since, offset: u64, len: u64, max: usize) -> Result<Vec<Run>> {
        if let Known::Inert(inert) = self.known() {
            let (tree, found) = (inert.tables.tip().tree, vec![(blocks_of(offset, len), None)]);
            return match self.context().view.changes(found, &tree, &since.tree, max).await {
                Err(e) if e.is(Kind::Corrupt) => Err(self.superseded(&inert).await.unwrap_or(e)),
                done => done,
            };
        }
        self.ask(|session| async move { session.changed_since(since, offset, len, max).await }).await
    }
}
