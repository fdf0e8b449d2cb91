//! What every layer may use: identities, sizes, errors, bounded codecs, records, and the runtime seams.

pub mod budget;
pub mod codec;
pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod ids;
pub mod interval;
pub mod latency;
pub mod lock_order;
pub mod metric;
pub mod record;
pub mod rope;
pub mod rt;
pub mod size;
pub mod sum;
pub mod trace;
pub mod utc;

pub use budget::{Budget, Held};
pub use error::{Error, Kind, Result, ResultExt};
pub use ids::{
    ChunkId, Epoch, Era, Generation, HostId, Incarnation, JournalId, Lsn, Name, Nonce, PoolId, RegisterId,
    Seq, StateId, VolumeId,
};
pub use rope::Rope;

/// A buffer of zeros. Asked for a large one, the allocator gives its pages back to the kernel and takes zeroed ones, each by a
/// fault (`vec![0; len]`): writing the zeros costs less.
pub fn zeroed(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    bytes.resize(len, 0);
    bytes
}

/// A hash map whose order is the same in every run.
pub type FastMap<K, V> =
    std::collections::HashMap<K, V, std::hash::BuildHasherDefault<xxhash_rust::xxh3::Xxh3Default>>;
