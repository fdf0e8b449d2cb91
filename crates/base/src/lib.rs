//! What every layer may use: identities, sizes, errors, bounded codecs, records, and the runtime seams.

pub mod accounts;
pub mod budget;
pub mod codec;
pub mod error;
pub mod format_limits;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod ids;
pub mod interval_map;
pub mod known_time;
pub mod latency;
pub mod loan;
pub mod lock_order;
pub mod log_record;
pub mod metric_definitions;
pub mod name;
pub mod nearest;
pub mod rope;
pub mod rt;
pub mod spare_buffers;
pub mod sum;
pub mod trace;
pub mod units;
pub mod utc;
pub mod watched_state;

pub use accounts::Accounts;
pub use budget::{Budget, Held};
pub use error::{Error, Kind, Result, ResultExt};
pub use ids::{
    ChunkId, Epoch, Era, Generation, HostId, Incarnation, JournalId, Lsn, Nonce, PoolId, RegisterId, Seq,
    StateId, VolumeId,
};
pub use loan::{Borrower, Loan};
pub use name::Name;
pub use nearest::{nearest, nearest_word};
pub use rope::Rope;

/// A hash map whose order is the same in every run.
pub type FastMap<K, V> =
    std::collections::HashMap<K, V, std::hash::BuildHasherDefault<xxhash_rust::xxh3::Xxh3Default>>;
