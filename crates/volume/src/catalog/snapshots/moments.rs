//! A volume's past by time: what it took by itself, and which snapshot shows a moment.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::catalog::marks_in_log::tables_to_the_end;
use crate::catalog::volumes::Volumes;
use crate::space::State;
use windlass_base::{Error, Kind, Name, Result, utc};

/// A snapshot that a volume took by itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HistoryMark {
    pub name: Name,
    pub created_ms: u64,
    pub size: u64,
    /// Time before which nobody can remove the snapshot, in ms since 1970; `None`: it is not locked.
    #[serde(default)]
    pub locked_until_ms: Option<u64>,
}

impl Volumes {
    /// Returns the snapshots that the volume took by itself, oldest first.
    pub fn history<'f>(&'f self, volume: &'f Name) -> BoxFuture<'f, Result<Vec<HistoryMark>>> {
        Box::pin(async move {
            let id = self.id(volume).await?;
            let (head, tables) = tables_to_the_end(self, volume, id).await?;
            let mark = |(name, state): (&Name, &State)| {
                let State { id, created_ms, size, .. } = *state;
                HistoryMark { name: name.clone(), created_ms, size, locked_until_ms: head.locks.until(id) }
            };
            let mut all: Vec<_> = tables.snapshots().filter(|(_, s)| s.history).map(mark).collect();
            all.sort_by(|a, b| (a.created_ms, &a.name).cmp(&(b.created_ms, &b.name)));
            Ok(all)
        })
    }

    /// Returns the newest snapshot, by name or of its history, that shows what the volume was at this moment.
    pub fn snapshot_at<'f>(&'f self, volume: &'f Name, at_ms: u64) -> BoxFuture<'f, Result<Name>> {
        Box::pin(async move {
            let id = self.id(volume).await?;
            let (_, tables) = tables_to_the_end(self, volume, id).await?;
            tables.at(at_ms).and_then(|state| state.name.clone()).ok_or_else(|| {
                let (title, at) = (self.engine.title(volume), utc::show(at_ms));
                let oldest = tables.snapshots().map(|(_, s)| s.created_ms).min();
                let why = match oldest {
                    Some(oldest) if oldest <= at_ms => {
                        format!("what volume {title} was at {at} is in no snapshot any more")
                    }
                    Some(oldest) => format!(
                        "volume {title} has no snapshot as old as {at}: the oldest is of {}",
                        utc::show(oldest)
                    ),
                    None => format!("volume {title} has no snapshots"),
                };
                Error::new(Kind::NotFound, why)
            })
        })
    }
}
