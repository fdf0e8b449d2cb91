//! The way of clients' requests to the volume that they use: a move to another pool closes it for a moment, and changes where
//! it leads.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::volume_handle::Volume;

/// What has moved, in order: the volume that it was, and the one that it is.
type Moves = Vec<(Arc<Volume>, Arc<Volume>)>;

/// See the module. Shared by all who use a volume.
#[derive(Debug, Default)]
pub struct Passage(Arc<RwLock<Moves>>);

/// A request on its way.
#[derive(Debug)]
pub struct Pass(OwnedRwLockReadGuard<Moves>);

/// No request is on its way, and those that come wait.
#[derive(Debug)]
pub struct ClosedPassage(OwnedRwLockWriteGuard<Moves>);

impl Passage {
    /// Waits while the passage is closed. For as long as the request takes.
    pub async fn enter(&self) -> Pass {
        Pass(self.0.clone().read_owned().await)
    }

    /// Where requests go now to a client that came to this volume; for what can't wait.
    pub fn leads_to(&self, came_to: &Arc<Volume>) -> Arc<Volume> {
        // Closed: it leads where it did, until it is open again.
        self.0.try_read().map_or_else(|_| came_to.clone(), |moves| follow(&moves, came_to).clone())
    }

    /// Holds up new requests, and returns when those that are under way are done. Dropped, it is open again.
    pub async fn close(&self) -> ClosedPassage {
        ClosedPassage(self.0.clone().write_owned().await)
    }
}

fn follow<'a>(moves: &'a Moves, came_to: &'a Arc<Volume>) -> &'a Arc<Volume> {
    let mut now = came_to;
    for (from, to) in moves {
        if Arc::ptr_eq(from, now) {
            now = to;
        }
    }
    now
}

impl Pass {
    /// The volume of a client that came to this one.
    pub fn volume<'a>(&'a self, came_to: &'a Arc<Volume>) -> &'a Arc<Volume> {
        follow(&self.0, came_to)
    }
}

impl ClosedPassage {
    /// It leads to another volume when it is open again.
    pub fn lead(&mut self, from: &Arc<Volume>, to: &Arc<Volume>) {
        self.0.push((from.clone(), to.clone()));
    }
}
