//! Verbs of snapshots: they are taken, listed, locked and removed.

use std::sync::Arc;

use super::volume::removed;
use crate::daemon::answers::{HistoryLine, SnapshotLine, SnapshotLocked};
use crate::daemon::api::{Outcome, RemoveMode, SameAs, SnapshotLock, SnapshotPath, VolumePath};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::pools::OpenPool;
use crate::daemon::volume_clients::Visitor;
use windlass_base::{Error, Kind, Name, Result, StateId, utc};
use windlass_volume::{
    Freed, HistoryMark, LockEnd, OpenMode, Removal, SnapshotInfo, Trash, Volume, applied_mark, snapshot_as,
    snapshot_group,
};

fn snapshot_line(volume: &VolumePath, info: SnapshotInfo, frees: Freed) -> SnapshotLine {
    let (path, created) = (format!("{volume}@{}", info.name), windlass_base::utc::show(info.created_ms));
    let Freed { alone: frees_bytes, with_older: frees_with_older_bytes } = frees;
    SnapshotLine { path, created, frees_bytes, frees_with_older_bytes, info }
}

pub async fn snapshots(state: &EngineState, path: &VolumePath, from: Option<&Name>) -> Result<Outcome> {
    let volumes = &state.pools.get(&path.pool).await?.volumes;
    let all = volumes.snapshots(&path.volume).await?;
    let (mut freed, unknown) = match volumes.freed(&path.volume, from).await {
        Ok(freed) => (freed, None),
        Err(e) if e.is(Kind::NotFound) => return Err(e),
        Err(e) => (Default::default(), Some(e)),
    };
    let mut line = |info: SnapshotInfo| {
        let frees = freed.remove(&info.name).unwrap_or_default();
        snapshot_line(path, info, frees)
    };
    let outcome = Outcome::of(&all.into_iter().map(&mut line).collect::<Vec<_>>())?;
    let sealed = volumes.has_sealed_marks(&path.volume).await?.then(|| {
        format!("{path} is locked here: snapshots that were taken lately may lack in this list; `windlass volume unlock {path}`, or ask its owner")
    });
    let unknown = unknown.map(|e| format!("what snapshots give back when they go can't be told: {e}"));
    Ok(outcome.note_all(sealed).note_all(unknown))
}

pub async fn history(state: &EngineState, path: &VolumePath) -> Result<Outcome> {
    let all = state.pools.get(&path.pool).await?.volumes.history(&path.volume).await?;
    let line = |mark: HistoryMark| HistoryLine {
        path: format!("{path}@{}", mark.name),
        created: windlass_base::utc::show(mark.created_ms),
        mark,
    };
    Outcome::of(&all.into_iter().map(line).collect::<Vec<_>>())
}

pub async fn snapshot_at(state: &EngineState, path: &VolumePath, at_ms: u64) -> Result<Outcome> {
    let found = state.pools.get(&path.pool).await?.volumes.snapshot_at(&path.volume, at_ms).await?;
    Outcome::of(&SnapshotPath { volume: path.clone(), snapshot: found })
}

/// Manner in which snapshots are taken.
#[derive(Clone, Copy, Default)]
pub struct Taking {
    /// Is true if the verb waits until the snapshots are in the pool.
    pub wait: bool,
    /// Is true if snapshots that exist are left out.
    pub if_absent: bool,
    /// Is true if who asks holds the volumes alone.
    pub held: bool,
}

/// Takes snapshots, with one barrier over all the volumes.
pub async fn snapshot(
    state: &EngineState,
    paths: &[SnapshotPath],
    Taking { wait, if_absent, held }: Taking,
) -> Result<Outcome> {
    let mut marks: Vec<(Arc<Volume>, Name)> = Vec::new();
    // Guards: the volumes must not be released under the barrier.
    let (mut sessions, mut holds) = (Vec::new(), Vec::new());
    for path in paths {
        let open: Arc<OpenPool> = state.pools.get(&path.volume.pool).await?;
        // Whoever waits learns from the promise itself whether the volume is still this host's: one that is written here
        // need not be looked up, unless it seems to have the snapshot.
        let new_here = |v: &Arc<Volume>| wait && !v.has_snapshot(&path.snapshot);
        let owned = open.volumes.owned_here(&path.volume.volume).filter(new_here);
        if owned.is_none() {
            let there = open.volumes.snapshot_sizes(&path.volume.volume).await?;
            if there.iter().any(|(name, _)| *name == path.snapshot) {
                if if_absent {
                    // It may have been taken a moment ago, without waiting, or by who was killed before it was promised.
                    if wait {
                        open.volumes.promise_snapshot(&path.volume.volume, &path.snapshot).await?;
                    }
                    continue;
                }
                return Err(Error::new(Kind::Exists, format!("the snapshot {path} exists already")));
            }
        }
        let mut session = state.sessions.enter(&path.volume, &open.volumes, Visitor::Command("a command"))?;
        let volume = match owned {
            Some(volume) => volume,
            None => open.volumes.open(&path.volume.volume, OpenMode::Normal).await?,
        };
        session.opened(&volume)?;
        sessions.push(session);
        if held {
            holds.push(state.sessions.join_filling(&path.volume, &open.volumes, &volume)?);
        }
        marks.push((volume, path.snapshot.clone()));
    }
    let made = if marks.is_empty() { Vec::new() } else { snapshot_group(&marks, wait).await? };
    Outcome::of(&made)
}

/// Takes a snapshot that is the same as one elsewhere: whoever says so has written the difference. Returns when it is
/// in the pool.
pub async fn snapshot_same_as(
    state: &EngineState,
    paths: &[SnapshotPath],
    SameAs { volume, snapshot, created_ms }: &SameAs,
    held: bool,
) -> Result<Outcome> {
    let [path] = paths else {
        return Err(Error::new(Kind::Usage, "one snapshot is the same as one other: name one"));
    };
    let mark = applied_mark(volume.parse()?, StateId(*snapshot), *created_ms);
    let open = state.pools.get(&path.volume.pool).await?;
    if open.volumes.snapshot_sizes(&path.volume.volume).await?.iter().any(|(name, _)| *name == path.snapshot)
    {
        return Err(Error::new(Kind::Exists, format!("the snapshot {path} exists already")));
    }
    let mut session = state.sessions.enter(&path.volume, &open.volumes, Visitor::Command("a command"))?;
    let volume = open.volumes.open(&path.volume.volume, OpenMode::Normal).await?;
    session.opened(&volume)?;
    let _hold = match held {
        true => Some(state.sessions.join_filling(&path.volume, &open.volumes, &volume)?),
        false => None,
    };
    snapshot_as(&volume, &path.snapshot, mark, *created_ms).await?;
    Outcome::of(&paths)
}

/// Waits until snapshots are in the pool. Takes none: one that is not there any more was lost with its host's
/// journal.
pub async fn promise_snapshots(state: &EngineState, paths: &[SnapshotPath]) -> Result<Outcome> {
    for path in paths {
        let volumes = &state.pools.get(&path.volume.pool).await?.volumes;
        let _session = state.sessions.enter(&path.volume, volumes, Visitor::Command("a command"))?;
        let volume = volumes.open(&path.volume.volume, OpenMode::Normal).await?;
        volume.promise_snapshot(&path.snapshot).await?;
    }
    Outcome::of(&paths)
}

/// Locks a snapshot. Any host may do that, whoever owns the volume.
pub async fn lock_snapshot(state: &EngineState, args: &SnapshotLock) -> Result<Outcome> {
    let SnapshotLock { path, until_ms, for_ms } = args;
    let end = match (*until_ms, *for_ms) {
        (Some(at), None) => LockEnd::At(at),
        (None, Some(ms)) => LockEnd::In(ms),
        _ => {
            return Err(Error::new(
                Kind::Usage,
                "say either until when the snapshot is locked, or for how long",
            ));
        }
    };
    let volumes = &state.pools.get(&path.volume.pool).await?.volumes;
    let locked_until_ms = volumes.lock_snapshot(&path.volume.volume, &path.snapshot, end).await?;
    let locked_until = utc::show(locked_until_ms);
    let note = format!("{path} is locked until {locked_until}: no host removes it before");
    Ok(Outcome::of(&SnapshotLocked { path: path.clone(), locked_until_ms, locked_until })?.note(note))
}

/// Removes a snapshot, or puts it into the trash: as `volume::remove` does with a volume.
pub async fn remove_snapshot(
    state: &EngineState,
    path: &SnapshotPath,
    dry_run: bool,
    mode: RemoveMode,
) -> Result<Outcome> {
    if mode == RemoveMode::FromTrash && !dry_run {
        return super::trash::purge_snapshot(state, path).await;
    }
    let open = state.pools.get(&path.volume.pool).await?;
    let volumes = &open.volumes;
    let keeps = super::trash::keeps(&open, mode).await?;
    if dry_run {
        let removal = Removal { clean: false, for_good: !keeps };
        volumes.check_remove_snapshot(&path.volume.volume, &path.snapshot, removal).await?;
        let how = if keeps { "put into the trash" } else { "removed" };
        return removed(path, true, &format!("{path} would be {how}"));
    }
    // One that has to be opened for it is released again when nobody uses it, and who removes the volume waits.
    let _session = state.sessions.enter(&path.volume, volumes, Visitor::Command("a command"))?;
    if keeps {
        Trash(volumes).discard_snapshot(&path.volume.volume, &path.snapshot).await?;
        return Ok(super::trash::discarded(&open, "snapshot", path));
    }
    volumes.remove_snapshot(&path.volume.volume, &path.snapshot).await?;
    removed(path, false, &format!("{path} is removed"))
}
