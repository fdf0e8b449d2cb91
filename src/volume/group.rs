//! Several volumes frozen at one instant: all gates closed, all marks set, all gates opened (protocol.md §4.3).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::try_join_all;

use super::handle::Volume;
use super::info::SnapshotInfo;
use super::session::Session;
use super::snapshot::Group;
use super::stop::Stop;
use crate::base::{Error, Kind, Lsn, Name, Nonce, Result};

/// Freezes volumes at one instant (of any pools of this engine). With `wait` it returns when all marks are stored and
/// confirmed, else when they are in the journals.
pub async fn snapshot_group(marks: &[(Arc<Volume>, Name)], wait: bool) -> Result<Vec<SnapshotInfo>> {
    // In one order whoever asks: two groups must not wait for each other's gates.
    let mut members: Vec<_> = marks.iter().collect();
    members.sort_by_key(|(volume, _)| volume.id());
    if members.windows(2).any(|m| m[0].0.id() == m[1].0.id()) {
        return Err(Error::new(Kind::Usage, "one command takes one snapshot of a volume: use two commands"));
    }
    loop {
        let sessions = try_join_all(members.iter().map(|(volume, _)| volume.session())).await?;
        let done = match set_marks(&members, &sessions).await {
            Ok(lsns) => promise(&sessions, &lsns, wait).await,
            Err(stop) => Err(stop),
        };
        match done {
            Ok(()) => return Ok(marks.iter().map(|(volume, name)| told(volume, name, &sessions)).collect()),
            // Not promised; a mark that is set already is met again by the session that comes.
            Err(Stop::Again) if !any_marked(&members).await => {}
            Err(stop) => return Err(stop.error()),
        }
    }
}

async fn any_marked(members: &[&(Arc<Volume>, Name)]) -> bool {
    for (volume, name) in members {
        if volume.session().await.is_ok_and(|s| s.tip.lock().tables.snapshot(name).is_some()) {
            return true;
        }
    }
    false
}

async fn set_marks(members: &[&(Arc<Volume>, Name)], sessions: &[Arc<Session>]) -> Result<Vec<Lsn>, Stop> {
    let Some(first) = sessions.first() else { return Ok(Vec::new()) };
    let mut same_pool = BTreeMap::new();
    for session in sessions {
        *same_pool.entry(session.ground.deps.pool.id()).or_insert(0) += 1;
    }
    let rt = first.ground.rt();
    let (id, created_ms) = (Nonce(rt.random128()), rt.wall_ms());
    let mut rooms = Vec::with_capacity(sessions.len());
    for session in sessions {
        rooms.push(session.mark_room().await?);
    }
    let mut gates = Vec::with_capacity(sessions.len());
    for session in sessions {
        gates.push(session.or_end(session.close_gate()).await?);
    }
    for ((_, name), session) in members.iter().zip(sessions) {
        session
            .tip
            .lock()
            .tables
            .check_new(name)
            .map_err(|e| e.context(format!("volume {}", session.ground.name)))?;
    }
    let mut lsns = Vec::with_capacity(sessions.len());
    for (((_, name), session), room) in members.iter().zip(sessions).zip(&mut rooms) {
        let size = same_pool.get(&session.ground.deps.pool.id()).copied().unwrap_or(1);
        lsns.push(session.mark(name, Group { id, size, created_ms }, room)?);
    }
    Ok(lsns)
}

async fn promise(sessions: &[Arc<Session>], lsns: &[Lsn], wait: bool) -> Result<(), Stop> {
    let all = sessions.iter().zip(lsns).map(|(session, lsn)| session.promise_mark(*lsn, wait));
    try_join_all(all).await.map(|_| ())
}

fn told(volume: &Volume, name: &Name, sessions: &[Arc<Session>]) -> SnapshotInfo {
    let session = sessions.iter().find(|s| s.ground.id == volume.id());
    let state = session.and_then(|s| s.tip.lock().tables.snapshot(name).cloned());
    SnapshotInfo {
        name: name.clone(),
        size: volume.size(),
        created_ms: state.as_ref().map_or(0, |s| s.created_ms),
        ready: state.is_some_and(|s| s.built),
        partial: false,
        clones: Vec::new(),
    }
}
