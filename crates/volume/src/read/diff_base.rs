//! A snapshot to which other states of its volume are compared.

use crate::space::{SnapshotId, Tables};
use windlass_base::{Error, Kind, Name};
use windlass_map::Tree;

/// A snapshot as it is, whatever has its name later. Any state of the same volume can be compared to it, also
/// one of another branch: a frame stays where it lies, and its place names its contents for good.
#[derive(Clone, Debug)]
pub struct Since {
    pub snapshot: SnapshotId,
    pub tree: Tree,
    /// Name of the snapshot, for messages.
    name: Name,
}

impl Since {
    /// Returns the snapshot of this name; `None` if there is none, or if it has no map yet: the caller has
    /// seen to that.
    pub fn of(tables: &Tables, snapshot: &Name) -> Option<Since> {
        let state = tables.snapshot(snapshot).filter(|state| state.built)?;
        Some(Since { snapshot: state.snapshot_id(), tree: state.tree, name: snapshot.clone() })
    }

    /// Returns a snapshot by what it is; `None`: it is gone, or has no map.
    pub fn again(tables: &Tables, snapshot: &SnapshotId) -> Option<Since> {
        let (name, state) = tables.find(snapshot).filter(|(_, state)| state.built)?;
        Some(Since { snapshot: *snapshot, tree: state.tree, name: name.clone() })
    }

    /// Tells whether the snapshot is still there.
    pub fn is_in(&self, tables: &Tables) -> bool {
        tables.find(&self.snapshot).is_some()
    }

    pub fn removed(&self) -> Error {
        let why = format!("snapshot {} was removed: what changed since cannot be told any more", self.name);
        Error::new(Kind::Removed, why)
    }
}
