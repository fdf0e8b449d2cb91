//! The trash: what removing puts there, and what brings it back or ends it.

use serde_json::json;

use crate::daemon::answers::{TrashLine, TrashedSnapshotLine};
use crate::daemon::api::{Outcome, RemoveMode, SnapshotPath, VolumePath};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::pools::OpenPool;
use crate::daemon::volume_clients::Visitor;
use windlass_base::units::show_time;
use windlass_base::{Error, Kind, Name, Result, utc};
use windlass_volume::{Emptied, Trash, TrashedSnapshot, TrashedVolume};

/// Tells whether what is removed goes into the trash. Asks the stores, since another host may have set that
/// meanwhile.
pub async fn keeps(open: &OpenPool, mode: RemoveMode) -> Result<bool> {
    if mode == RemoveMode::Trash {
        open.pool.refresh_settings().await?;
    }
    Ok(mode == RemoveMode::Trash && open.pool.settings().trash().is_some())
}

/// Returns the answer that something is in the trash now.
pub fn discarded(open: &OpenPool, noun: &str, path: &impl std::fmt::Display) -> Outcome {
    let ms = open.pool.settings().trash_ms;
    let until = utc::show(open.pool.rt().wall_ms() + ms);
    let value = json!({"path": path.to_string(), "removed": true, "dry_run": false, "trash_until": until});
    let note = format!(
        "{path} is in the trash for {}, until {until}: `windlass {noun} restore {path}` brings it back",
        show_time(ms)
    );
    Outcome { value, ..Outcome::default() }.note(note)
}

fn until(removed_ms: u64, open: &OpenPool) -> String {
    utc::show(removed_ms + open.pool.settings().trash_ms)
}

pub async fn list(state: &EngineState, pool: Option<&Name>) -> Result<Outcome> {
    let names: Vec<Name> = match pool {
        Some(name) => vec![name.clone()],
        None => state.pools.known().into_iter().map(|k| k.name).collect(),
    };
    let (mut rows, mut outcome) = (Vec::new(), Outcome::default());
    for name in names {
        let listed = async {
            let open = state.pools.get(&name).await?;
            open.pool.refresh_settings().await?;
            Ok::<_, Error>((Trash(&open.volumes).list(super::LOOK_ONE).await?, open))
        };
        let late = || Err(Error::new(Kind::Unavailable, format!("pool {name}: too few stores answer")));
        let listed = state.host_context.rt.timeout(super::LOOK_ONE, listed).await.unwrap_or_else(late);
        match listed {
            Err(e) if pool.is_some() => return Err(e),
            Err(e) => outcome = outcome.note(format!("not listed: {e}")).degraded(true),
            Ok((all, open)) => {
                for TrashedVolume { name: volume, removed_ms, info } in all {
                    let path = VolumePath { pool: name.clone(), volume };
                    let info = match info {
                        Ok(info) => Some(info),
                        Err(e) => {
                            outcome = outcome.note(format!("{path}: {e}")).degraded(true);
                            None
                        }
                    };
                    rows.push(TrashLine {
                        path,
                        removed_ms,
                        removed: utc::show(removed_ms),
                        until: until(removed_ms, &open),
                        size: info.as_ref().map(|info| info.size),
                        stored_bytes: info.as_ref().map(|info| info.stored_bytes),
                        snapshots: info.map(|info| info.snapshots),
                    });
                }
            }
        }
    }
    Ok(Outcome { value: Outcome::of(&rows)?.value, ..outcome })
}

pub async fn snapshots(state: &EngineState, path: &VolumePath) -> Result<Outcome> {
    let open = state.pools.get(&path.pool).await?;
    open.pool.refresh_settings().await?;
    let line = |one: TrashedSnapshot| TrashedSnapshotLine {
        path: format!("{path}@{}", one.name),
        removed: utc::show(one.removed_ms),
        until: until(one.removed_ms, &open),
        snapshot: one,
    };
    let all = Trash(&open.volumes).snapshots(&path.volume).await?;
    Outcome::of(&all.into_iter().map(line).collect::<Vec<_>>())
}

fn restored(path: &impl std::fmt::Display) -> Outcome {
    let value = json!({"path": path.to_string(), "restored": true});
    Outcome { value, ..Outcome::default() }.note(format!("{path} is back"))
}

/// Adds to an error that the old name is another's by now: what is restored can come back under a new one.
fn hint(error: Error) -> Error {
    match error.is(Kind::Exists) {
        true => Error::new(Kind::Exists, format!("{error}: bring it back under another name with --to")),
        false => error,
    }
}

pub async fn restore(state: &EngineState, path: &VolumePath, to: Option<&Name>) -> Result<Outcome> {
    let volumes = &state.pools.get(&path.pool).await?.volumes;
    Trash(volumes).restore(&path.volume, to).await.map_err(hint)?;
    Ok(restored(&VolumePath { pool: path.pool.clone(), volume: to.unwrap_or(&path.volume).clone() }))
}

pub async fn restore_snapshot(
    state: &EngineState,
    path: &SnapshotPath,
    to: Option<&Name>,
) -> Result<Outcome> {
    let volumes = &state.pools.get(&path.volume.pool).await?.volumes;
    let _session = state.sessions.enter(&path.volume, volumes, Visitor::Command("a command"))?;
    Trash(volumes).restore_snapshot(&path.volume.volume, &path.snapshot, to).await.map_err(hint)?;
    let snapshot = to.unwrap_or(&path.snapshot).clone();
    Ok(restored(&SnapshotPath { volume: path.volume.clone(), snapshot }))
}

fn purged(path: &impl std::fmt::Display, count: usize) -> Outcome {
    let value = json!({"path": path.to_string(), "removed": true, "dry_run": false, "count": count});
    let note = match count {
        1 => format!("{path} is removed from the trash for good"),
        _ => format!("{path}: all {count} in the trash are removed for good"),
    };
    Outcome { value, ..Outcome::default() }.note(note)
}

pub async fn purge(state: &EngineState, path: &VolumePath) -> Result<Outcome> {
    let volumes = &state.pools.get(&path.pool).await?.volumes;
    Ok(purged(path, Trash(volumes).purge(&path.volume).await?))
}

pub async fn purge_snapshot(state: &EngineState, path: &SnapshotPath) -> Result<Outcome> {
    let volumes = &state.pools.get(&path.volume.pool).await?.volumes;
    let _session = state.sessions.enter(&path.volume, volumes, Visitor::Command("a command"))?;
    Ok(purged(path, Trash(volumes).purge_snapshot(&path.volume.volume, &path.snapshot).await?))
}

/// Removes for good what has been in a pool's trash for its time. Returns how much that was; since when the oldest of
/// the rest is there; and whether something failed, which is tried again later.
pub async fn empty(open: &OpenPool) -> (usize, Option<u64>, bool) {
    let kept_ms = open.pool.settings().trash_ms;
    let Emptied { gone, oldest_ms, failed } = Trash(&open.volumes).empty_old(kept_ms).await;
    if let Err(error) = &failed {
        tracing::warn!(pool = %open.pool.name(), %error, "the trash could not be emptied of all that is due; it is tried again");
    }
    if gone > 0 {
        tracing::info!(pool = %open.pool.name(), gone, "what was due in the trash was removed");
    }
    (gone, oldest_ms, failed.is_err())
}
