//! What has changed in a volume since one of its snapshots.

use std::pin::pin;

use super::volume::{Known, Volume};
use crate::base::{Kind, Name, Result};
use crate::volume::read::{Run, Since, blocks_of, in_bytes};
use crate::volume::session::no_snapshot;

impl Volume {
    /// One of its snapshots, to ask `changed_since` of. `NotFound`: it has none of this name.
    pub async fn since(&self, snapshot: &Name) -> Result<Since> {
        let since = async {
            if let Known::Inert(inert) = self.known() {
                let since = Since::of(&inert.tables, snapshot);
                return since.ok_or_else(|| no_snapshot(&self.title(), snapshot));
            }
            self.ask(|session| async move { session.since(snapshot).await }).await
        };
        self.unless_outage(pin!(since)).await
    }

    /// Which bytes of a range may read otherwise than in the snapshot: bytes side by side from its start on, and whether they
    /// may. `max` of them at most, so that they may end before the range does. Told by blocks, from the maps alone: no data is
    /// read. A block that was written with what it held before counts as changed.
    pub async fn changed_since(&self, since: &Since, offset: u64, len: u64, max: usize) -> Result<Vec<Run>> {
        self.check(offset, len)?;
        let runs = self.unless_outage(pin!(self.changed_now(since, offset, len, max))).await?;
        Ok(in_bytes(runs, offset, len))
    }

    async fn changed_now(&self, since: &Since, offset: u64, len: u64, max: usize) -> Result<Vec<Run>> {
        if let Known::Inert(inert) = self.known() {
            let (tree, found) = (inert.tables.tip().tree, vec![(blocks_of(offset, len), None)]);
            return match self.context().view.changes(found, &tree, &since.tree, max).await {
                Err(e) if e.is(Kind::Corrupt) => Err(self.superseded(inert.seen).await.unwrap_or(e)),
                done => done,
            };
        }
        self.ask(|session| async move { session.changed_since(since, offset, len, max).await }).await
    }
}
