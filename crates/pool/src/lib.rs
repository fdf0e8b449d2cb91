//! Erasure coding over stores: layout, codec, membership, registers, repair, scrub.

mod admin;
mod chunk;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod io;
mod local;
mod register;
mod repair;
mod stores;
#[cfg(test)]
mod tests;

pub use admin::{
    Care, CreateOptions, Deleted, Destruction, Filled, ForcedRecovery, Lost, Pool, Relabelled, Replacement,
    StoreSwap, relabel,
};
pub use chunk::sealing;
pub use chunk::{
    About, CHECK_SPAN, Checked, Chunk, ChunkKind, DeletionCheck, FOOTER_MAX, Fate, Inventory, Layout,
    ReadCaches, Zoning,
};
pub use io::{
    Away, Catalog, CatalogEntry, Clocks, Condition, NameEntry, Need, Payload, PoolStatus, Probe, QuotaRoom,
    StoreState, StoreStatus, Told, Upload, Verify,
};
pub use local::{
    Finding, LastScrub, Located, Progress, RepairReport, ScrubOptions, ScrubReport, Watch, about_jump,
};
pub use register::{Change, Compared, Register, Veto};
pub use repair::Unneeded;
pub use stores::{
    ASIDE, LABEL_BEFORE, LABEL_MAX, LABELS, Label, Member, Membership, OnlyNamed, Opener, PoolConfig,
    PoolHost, PoolSettings, PoolStore, Roster, Standing, StoreEntry, being_destroyed, label_key, lacks_key,
    place, pool_of_label, register_key, shard_key, shard_on,
};
pub use windlass_store::Space;
