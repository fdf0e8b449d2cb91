//! Pins: which clones hold a snapshot (protocol.md §4.4, model `pin`).
//!
//! Those of one snapshot are a catalog (`pool::io::register_tree`): key = the clone's id, 16 bytes little-endian, value = the
//! pin's nonce. Its root's register id = xxh3-128(`windlass pins` ‖ the volume's id, 16 bytes ‖ the snapshot's id, 8
//! bytes, both little-endian). They are not in the head, which would grow with them.
//!
//! A pin counts from the moment when the head, looked at after the pin was made, shows the snapshot, also among the
//! `cloned`, and no gate on it. What is removed is first put behind a gate, then looked for pins, then removed in one
//! change of the head, which requires the same gate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128;

use super::state_table::Tables;
use windlass_base::{Error, Kind, Nonce, RegisterId, Result, StateId, VolumeId};
use windlass_pool::{Catalog, Pool};

/// Number of times that a removal is tried, since clones or other removals may come in between.
pub const REMOVE_TRIES: usize = 8;

/// Returns the catalog of the pins of one snapshot.
pub fn of(pool: &Pool, volume: VolumeId, snapshot: StateId) -> Catalog {
    let text = [&b"windlass pins"[..], &volume.0.to_le_bytes(), &snapshot.0.to_le_bytes()].concat();
    pool.catalog(RegisterId(xxh3_128(&text)))
}

/// Returns the catalog of the hosts that read a volume: pins on the volume itself
/// (`handle::ownership::readers`). Its root's register id is made like that of a snapshot's pins, of
/// `windlass readers` and the volume's id.
pub fn readers(pool: &Pool, volume: VolumeId) -> Catalog {
    let text = [&b"windlass readers"[..], &volume.0.to_le_bytes()].concat();
    pool.catalog(RegisterId(xxh3_128(&text)))
}

/// The clients of this engine that use one volume, and this host's note of them.
#[derive(Debug, Default)]
pub struct ReadersHere {
    /// Number of clients. It is raised before anybody asks whether a note is needed, and lowered before a
    /// note is taken away.
    pub clients: AtomicUsize,
    /// Number of the note; none is needed while this host owns the volume.
    pub noted: tokio::sync::Mutex<Option<Nonce>>,
}

/// The readers of the volumes that are open here for clients, and that another host may remove.
#[derive(Debug, Default)]
pub struct Readers {
    all: Mutex<BTreeMap<VolumeId, Arc<ReadersHere>>>,
    /// Is true if the clients leave for another process of this host: what is noted of them stays.
    pub keeps: AtomicBool,
}

impl Readers {
    pub fn of(&self, id: VolumeId) -> Arc<ReadersHere> {
        self.all.lock().entry(id).or_default().clone()
    }

    pub fn all(&self) -> Vec<(VolumeId, Arc<ReadersHere>)> {
        self.all.lock().iter().map(|(id, here)| (*id, here.clone())).collect()
    }
}

pub fn key(clone: VolumeId) -> [u8; 16] {
    clone.0.to_le_bytes()
}

/// Returns the clone that a pin's key names.
pub fn clone_of(key: &[u8]) -> Result<VolumeId> {
    let id = key.try_into().map_err(|_| Error::new(Kind::Corrupt, "a pin names no clone"))?;
    Ok(VolumeId(u128::from_le_bytes(id)))
}

/// Returns all states that clones can pin.
pub fn snapshots_of(tables: &Tables) -> Vec<StateId> {
    tables.with_trash().map(|(_, state)| state.id).collect()
}
