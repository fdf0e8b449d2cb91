//! The way of clients' requests to the volume that they use: a move to another pool closes it for a moment, and changes where
//! it leads.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::volume_handle::Volume;

/// List of moves, in order: the volume that it was, and the one that it is.
type Moves = Arc<Mutex<Vec<(Arc<Volume>, Arc<Volume>)>>>;

/// Way of clients' requests to a volume. It is shared by all who use the volume.
#[derive(Debug, Default)]
pub struct Passage {
    /// Gate that requests lock for reading, and a move for writing.
    gate: Arc<RwLock<()>>,
    /// Moves, kept beside the gate, so that they are known while the gate is closed, or somebody waits for that.
    moves: Moves,
}

/// A request on its way.
#[derive(Debug)]
pub struct Pass {
    moves: Moves,
    _open: OwnedRwLockReadGuard<()>,
}

/// Closed passage: no request is on its way, and those that come wait.
#[derive(Debug)]
pub struct ClosedPassage {
    moves: Moves,
    _closed: OwnedRwLockWriteGuard<()>,
}

impl Passage {
    /// Lets a request in, for as long as it takes; waits while the passage is closed.
    pub async fn enter(&self) -> Pass {
        Pass { _open: self.gate.clone().read_owned().await, moves: self.moves.clone() }
    }

    /// Returns the volume where requests go now of a client that came to this one; for what can't wait.
    pub fn leads_to(&self, came_to: &Arc<Volume>) -> Arc<Volume> {
        follow(&self.moves, came_to)
    }

    /// Holds up new requests, and returns when those that are under way are done. The passage is open again when the result is
    /// dropped.
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
    /// Returns the volume where the request goes of a client that came to this one.
    pub fn volume(&self, came_to: &Arc<Volume>) -> Arc<Volume> {
        follow(&self.moves, came_to)
    }
}

impl ClosedPassage {
    /// Leads requests to another volume when the passage is open again.
    pub fn lead(&mut self, from: &Arc<Volume>, to: &Arc<Volume>) {
        self.moves.lock().push((from.clone(), to.clone()));
    }
}
