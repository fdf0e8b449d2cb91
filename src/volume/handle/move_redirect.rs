//! The way of clients' requests to the volume that they use: a move to another pool closes it for a moment, and changes where
//! it leads.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::volume_handle::Volume;

/// What has moved, in order: the volume that it was, and the one that it is.
type Moves = Arc<Mutex<Vec<(Arc<Volume>, Arc<Volume>)>>>;

/// See the module. Shared by all who use a volume.
#[derive(Debug, Default)]
pub struct Passage {
    /// Requests read it, a move writes it.
    gate: Arc<RwLock<()>>,
    /// Beside the gate, so that it is known while the gate is closed, or somebody waits for that.
    moves: Moves,
}

/// A request on its way.
#[derive(Debug)]
pub struct Pass {
    moves: Moves,
    _open: OwnedRwLockReadGuard<()>,
}

/// No request is on its way, and those that come wait.
#[derive(Debug)]
pub struct ClosedPassage {
    moves: Moves,
    _closed: OwnedRwLockWriteGuard<()>,
}

impl Passage {
    /// Waits while the passage is closed. For as long as the request takes.
    pub async fn enter(&self) -> Pass {
        Pass { _open: self.gate.clone().read_owned().await, moves: self.moves.clone() }
    }

    /// Where requests go now to a client that came to this volume; for what can't wait.
    pub fn leads_to(&self, came_to: &Arc<Volume>) -> Arc<Volume> {
        follow(&self.moves, came_to)
    }

    /// Holds up new requests, and returns when those that are under way are done. Dropped, it is open again.
    pub async fn close(&self) -> ClosedPassage {
        ClosedPassage { _closed: self.gate.clone().write_owned().await, moves: self.moves.clone() }
    }
}

fn follow(moves: &Moves, came_to: &Arc<Volume>) -> Arc<Volume> {
    let moves = moves.lock();
    let mut now = came_to;
    for (from, to) in &*moves {
        if Arc::ptr_eq(from, now) {
            now = to;
        }
    }
    now.clone()
}

impl Pass {
    /// The volume of a client that came to this one.
    pub fn volume(&self, came_to: &Arc<Volume>) -> Arc<Volume> {
        follow(&self.moves, came_to)
    }
}

impl ClosedPassage {
    /// It leads to another volume when it is open again.
    pub fn lead(&mut self, from: &Arc<Volume>, to: &Arc<Volume>) {
        self.moves.lock().push((from.clone(), to.clone()));
    }
}
