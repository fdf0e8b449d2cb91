//! Several volumes frozen at one instant: all gates closed, all marks set, all gates opened (protocol.md §4.3).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::{BoxFuture, try_join_all};

use crate::handle::{Known, Volume};
use crate::head::SnapshotInfo;
use crate::head::Stop;
use crate::session::Session;
use crate::session::{Group, close_gate, no_snapshot};
use windlass_base::{Error, Kind, Name, Nonce, Result, StateId};

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
        match set_marks(&members, &sessions).await {
            Ok(group) => {
                try_join_all(members.iter().map(|(volume, name)| promise(volume, name, group, wait))).await?;
                if wait {
                    // Each member's mark is in the pool: nobody has to look for it among all volumes later.
                    members.iter().for_each(|(volume, _)| volume.settle_group(group));
                }
                return Ok(marks
                    .iter()
                    .map(|(volume, name)| told(volume, name).unwrap_or(new_one(volume, name)))
                    .collect());
            }
            // A session ended before its mark was set; members that have theirs show as an unfinished group.
            Err(Stop::Again) if !any_marked(&members) => {}
            Err(stop) => return Err(stop.error()),
        }
    }
}

/// Takes a snapshot that carries this nonce and time, unless the volume has it already; returns when it is in the pool.
pub async fn snapshot_as(volume: &Volume, name: &Name, nonce: Nonce, created_ms: u64) -> Result<()> {
    volume
        .ask(|session| async move {
            // The session before may have set it.
            if session.tip.lock().tables.snapshot(name).is_some_and(|s| s.group == nonce) {
                return Ok(());
            }
            let group = Group { id: nonce, size: 1, created_ms, history: false };
            session.mark_now(|| (name.clone(), group)).await.map(|_| ())
        })
        .await?;
    promise(volume, name, nonce, true).await
}

fn any_marked(members: &[&(Arc<Volume>, Name)]) -> bool {
    members.iter().any(|(volume, name)| told(volume, name).is_ok())
}

/// Waits until the snapshot is promised, in the next session if need be: that session has met the mark in the journal.
async fn promise(volume: &Volume, name: &Name, group: Nonce, wait: bool) -> Result<()> {
    volume
        .ask(|session| async move {
            let (lsn, marked) = {
                let tip = session.tip.lock();
                (tip.lsn, tip.tables.snapshot(name).is_some_and(|s| s.group == group))
            };
            if !marked {
                let why = format!(
                    "snapshot {name} of volume {} was lost with its journal: try again",
                    volume.title()
                );
                return Err(Error::new(Kind::Unavailable, why).into());
            }
            session.promise_mark(lsn, wait).await
        })
        .await
}

async fn set_marks(members: &[&(Arc<Volume>, Name)], sessions: &[Arc<Session>]) -> Result<Nonce, Stop> {
    let Some(first) = sessions.first() else { return Ok(Nonce(0)) };
    let mut same_pool = BTreeMap::new();
    for session in sessions {
        *same_pool.entry(session.context.engine.pool.id()).or_insert(0) += 1;
    }
    let rt = first.context.rt();
    let id = Nonce(rt.random128());
    let (mut rooms, _gates) = loop {
        let mut rooms = Vec::with_capacity(sessions.len());
        for session in sessions {
            rooms.push(session.mark_room().await?);
        }
        let mut gates = Vec::with_capacity(sessions.len());
        for session in sessions {
            gates.push(session.or_end(close_gate(session)).await?);
        }
        // Behind closed gates no journal is started anew, before it may have been.
        if sessions.iter().zip(&rooms).all(|(session, room)| session.journal.is_current(room.as_ref())) {
            break (rooms, gates);
        }
    };
    for ((_, name), session) in members.iter().zip(sessions) {
        if session.head.lock().round.is_some() {
            let title = session.context.title();
            let why = format!("volume {title} is a copy that is not whole: there is no state to keep");
            return Err(Error::new(Kind::Refused, why).into());
        }
        session
            .tip
            .lock()
            .tables
            .check_new(name)
            .map_err(|e| e.context(format!("volume {}", session.context.title())))?;
    }
    // Until now writes went on.
    let created_ms = rt.wall_ms();
    for (((_, name), session), room) in members.iter().zip(sessions).zip(&mut rooms) {
        let size = same_pool.get(&session.context.engine.pool.id()).copied().unwrap_or(1);
        session.mark(name, Group { id, size, created_ms, history: false }, room)?;
    }
    Ok(id)
}

impl Volume {
    /// Waits until a snapshot that the volume has is in the pool and confirmed. `NotFound`: the volume has none of that name,
    /// and so it was lost.
    pub fn promise_snapshot<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            // Of a released volume all is in the pool.
            if let Known::Inert(inert) = self.known() {
                return inert.tables.snapshot(name).map(drop).ok_or_else(|| no_snapshot(&self.title(), name));
            }
            self.ask(|session| async move {
                let (lsn, there) = {
                    let tip = session.tip.lock();
                    (tip.lsn, tip.tables.snapshot(name).is_some())
                };
                match there {
                    true => session.promise_mark(lsn, true).await,
                    false => Err(Stop::Failed(no_snapshot(&session.context.title(), name))),
                }
            })
            .await
        })
    }

    /// Tells whether this engine, which writes the volume, knows a snapshot of this name.
    pub fn has_snapshot(&self, name: &Name) -> bool {
        told(self, name).is_ok()
    }
}

/// Describes a new snapshot by its name and size alone, for a volume whose session ended just now.
fn new_one(volume: &Volume, name: &Name) -> SnapshotInfo {
    let (name, size, clones) = (name.clone(), volume.size(), Vec::new());
    SnapshotInfo {
        name,
        id: StateId::default(),
        mark: Nonce::default(),
        size,
        created_ms: 0,
        ready: false,
        partial: false,
        clones,
        locked_until_ms: None,
    }
}

fn told(volume: &Volume, name: &Name) -> Result<SnapshotInfo> {
    let Known::Live(session) = volume.known() else {
        return Err(Error::new(Kind::Unavailable, format!("volume {} is being opened anew", volume.title())));
    };
    let tip = session.tip.lock();
    let state = tip.tables.snapshot(name).ok_or_else(|| no_snapshot(&volume.title(), name))?;
    Ok(SnapshotInfo {
        name: name.clone(),
        id: state.id,
        mark: state.group,
        size: state.size,
        created_ms: state.created_ms,
        ready: state.built,
        partial: false,
        clones: Vec::new(),
        locked_until_ms: None,
    })
}
