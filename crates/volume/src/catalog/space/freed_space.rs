//! What comes back when snapshots go, and how much of a volume clones may need: told by counters.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;

use crate::catalog::volumes::Volumes;
use crate::head::Head;
use crate::read::{EngineContext, View};
use crate::session::no_snapshot;
use crate::space::{ChunkTable, DeadBytes, Freed, RunIndex, Tables, freed};
use windlass_base::{Era, Error, Kind, Name, Result, StateId};
use windlass_log::FrameRef;

/// Largest number of lists of deaths that are read; with more of them nothing is told.
const RUNS_MAX: usize = 4096;
const READS_AT_ONCE: usize = 32;

impl Volumes {
    /// Returns what comes back when each snapshot goes, by the last checkpoint; empty where that would take too many reads.
    /// `from`: where sums with older ones begin.
    pub fn freed<'f>(
        &'f self,
        volume: &'f Name,
        from: Option<&'f Name>,
    ) -> BoxFuture<'f, Result<BTreeMap<Name, Freed>>> {
        Box::pin(async move {
            let id = self.id(volume).await?;
            let found = newest_deaths(&self.engine, id).await?;
            let Some((tables, dead)) = found else { return Ok(BTreeMap::new()) };
            let from = match from {
                Some(name) => match tables.snapshot(name) {
                    Some(state) => Some(state.id),
                    None => return Err(no_snapshot(&self.engine.title(volume), name)),
                },
                None => None,
            };
            let freed = freed(&tables, &dead, from);
            let named = tables
                .snapshots()
                .map(|(name, state)| (name.clone(), freed.get(&state.id).copied().unwrap_or_default()));
            Ok(named.collect())
        })
    }
}

/// Reads the newest lists of deaths. `None`: there is too much to read, or no volume. What another owner replaces meanwhile is
/// read again.
async fn newest_deaths(
    engine: &EngineContext,
    id: windlass_base::VolumeId,
) -> Result<Option<(Tables, DeadBytes)>> {
    let cell = engine.cell(id);
    let mut head = cell.read().await?;
    loop {
        let Some(now) = head.filter(|head| !head.removed) else { return Ok(None) };
        let error = match deaths(&engine.view(&now), &now).await {
            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::Unavailable) => e,
            done => return done,
        };
        head = cell.read().await?;
        if head.as_ref().is_some_and(|h| h.checkpoint.nonce == now.checkpoint.nonce) {
            return Err(error);
        }
    }
}

async fn deaths(view: &View, head: &Head) -> Result<Option<(Tables, DeadBytes)>> {
    let (tables, lists) = view.death_lists(head).await?;
    let runs: std::collections::BTreeSet<FrameRef> = lists.values().flatten().map(|part| part.run).collect();
    if runs.len() > RUNS_MAX {
        return Ok(None);
    }
    let reads = runs
        .into_iter()
        .map(|run| async move { Ok::<_, Error>((run, RunIndex::load(view.pages(), &run).await?)) });
    let mut reads = stream::iter(reads).buffer_unordered(READS_AT_ONCE);
    let mut read = BTreeMap::new();
    while let Some(one) = reads.next().await {
        let (run, index) = one?;
        read.insert(run, index);
    }
    let mut dead = DeadBytes::default();
    for (state, parts) in &lists {
        for part in parts {
            if let Some(index) = read.get(&part.run) {
                dead.add(*state, part, index);
            }
        }
    }
    Ok(Some((tables, dead)))
}

/// Divides the bytes that somebody needs: those written before the newest snapshot that has clones, and all others.
pub fn shared(chunk_table: &ChunkTable, tables: &Tables, cloned: &[StateId]) -> (u64, u64) {
    let newest = cloned.iter().filter_map(|id| tables.states.get(id)).map(|state| state.era).max();
    let newest = newest.unwrap_or(Era(0));
    let counted = chunk_table.entries().filter(|(_, entry)| entry.counted);
    counted.fold((0, 0), |(shared, own), (_, entry)| match entry.era <= newest {
        true => (shared + entry.stored().1, own),
        false => (shared, own + entry.stored().1),
    })
}
