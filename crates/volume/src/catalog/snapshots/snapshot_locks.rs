//! Locks of snapshots: set until a date, ended when that is over by all clocks (model `lock`).

use futures::future::BoxFuture;

use super::open_snapshot::tables_with;
use crate::catalog::volumes::Volumes;
use crate::head::Head;
use crate::session::no_snapshot;
use crate::space::Tables;
use windlass_base::{Error, Kind, Name, Result, StateId, VolumeId, utc};
use windlass_pool::{Clocks, about_jump};

/// Longest lock: nobody takes back one that was a slip of the keyboard.
const LOCK_MAX_MS: u64 = 100 * 366 * 24 * 3_600_000;

/// End of a snapshot's lock, in milliseconds: since 1970 (`At`), or from now on (`In`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockEnd {
    At(u64),
    In(u64),
}

impl LockEnd {
    /// Returns the end in ms since 1970. `Refused`: this host's clock has jumped, so that it can't be told how long the lock
    /// would be. `Usage`: the end is over already, or too far away.
    fn at(self, Clocks { latest_ms, jumped_ms, .. }: Clocks) -> Result<u64> {
        if let Some(jumped) = jumped_ms {
            let why =
                format!("nothing is locked now, since a lock is never shortened: {}", about_jump(jumped));
            return Err(Error::new(Kind::Refused, why));
        }
        let until = match self {
            LockEnd::At(ms) => ms,
            LockEnd::In(ms) => latest_ms.saturating_add(ms),
        };
        let bad =
            |why: &str| Err(Error::new(Kind::Usage, format!("a lock until {} {why}", utc::show(until))));
        match until.checked_sub(latest_ms) {
            None | Some(0) => bad("is over already: name a later date"),
            Some(ms) if ms > LOCK_MAX_MS => bad("can't be: name a date within the next 100 years"),
            Some(_) => Ok(until),
        }
    }
}

impl Volumes {
    /// Keeps a snapshot from removal until `end`, whoever wants to remove it (model `lock`). Any host may lock, also while
    /// another owns the volume. Returns until when the snapshot is locked. `Refused`: it is locked for longer already, or
    /// clocks disagree.
    pub fn lock_snapshot<'f>(
        &'f self,
        volume: &'f Name,
        snapshot: &'f Name,
        end: LockEnd,
    ) -> BoxFuture<'f, Result<u64>> {
        Box::pin(async move {
            let title = || format!("{}@{snapshot}", self.engine.title(volume));
            let id = self.id(volume).await?;
            let state = self.recorded_snapshot(volume, id, snapshot).await?;
            let clocks = self.engine.pool.clocks().await?;
            let until = end.at(clocks)?;
            let cell = self.engine.cell(id);
            let locked = cell.change(move |h| h.set_lock(state, until, clocks.earliest_ms)).await;
            locked.map_err(|e| e.context(title()))?;
            // A removal that did not meet the lock came before it.
            let (_, tables) = self.recorded(volume, id).await?;
            match tables.with_trash().any(|(_, s)| s.id == state) {
                true => Ok(until),
                false => {
                    let why = format!("{} was removed just before it was locked", title());
                    Err(Error::new(Kind::NotFound, why))
                }
            }
        })
    }

    /// Returns the id of a snapshot that is recorded: one whose mark is only in the log might not be there after a take-over.
    async fn recorded_snapshot(&self, volume: &Name, id: VolumeId, snapshot: &Name) -> Result<StateId> {
        let of = |tables: &Tables| tables.snapshot(snapshot).map(|state| state.id);
        if let Some(state) = of(&self.recorded_with_names(volume, id).await?.1) {
            return Ok(state);
        }
        let tables = tables_with(self, volume, id, snapshot).await?.1;
        of(&tables).ok_or_else(|| no_snapshot(&self.engine.title(volume), snapshot))
    }

    /// Checks that no snapshot of the volume is locked. `Refused`: one is.
    pub fn check_unlocked<'f>(&'f self, volume: &'f Name) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let head = self.head(volume, self.id(volume).await?).await?;
            let head = end_locks(self, head).await?;
            head.locks.allow_all().map_err(|e| e.context(format!("volume {}", self.engine.title(volume))))
        })
    }
}

/// Returns the head without locks that are over by this host's clock and by those of the stores.
pub async fn end_locks(volumes: &Volumes, head: Head) -> Result<Head> {
    if !head.locks.any_over(volumes.engine.rt.wall_ms()) {
        return Ok(head);
    }
    let now = volumes.engine.pool.clocks().await?.earliest_ms;
    volumes.engine.cell(head.volume).change(move |h| h.end_locks(now)).await
}
