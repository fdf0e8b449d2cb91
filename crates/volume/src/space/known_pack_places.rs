//! Which chunks of which volume lie in packs, as far as this engine knows: its own volumes' by each checkpoint, others' (a
//! clone's ancestors, snapshots that are read here) from their newest tables when something isn't where it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use windlass_base::{ChunkId, Seq, VolumeId};
use windlass_log::{InPack, Slices};

type Packed = Arc<BTreeMap<Seq, InPack>>;

/// An index of the packs, shared by all volumes of a daemon. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PackIndex {
    known: Arc<Mutex<BTreeMap<VolumeId, Packed>>>,
    pub slices: Slices,
}

impl PackIndex {
    pub fn know(&self, volume: VolumeId, packed: BTreeMap<Seq, InPack>) {
        self.known.lock().insert(volume, Arc::new(packed));
    }

    pub fn find(&self, chunk: &ChunkId) -> Option<InPack> {
        self.known.lock().get(&chunk.volume)?.get(&chunk.seq).copied()
    }
}
