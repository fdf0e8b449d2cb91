//! Erasure coding over stores: layout, codec, membership, registers, repair, scrub.

mod admin;
mod chunk;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod io;
mod local;
mod register;
mod repair;
mod stores;
#[cfg(test)]
mod tests;

pub use crate::store::Space;
pub use admin::{
    CreateOptions, Deleted, Destruction, Filled, ForcedRecovery, Lost, Pool, Replacement, StoreSwap,
};
pub use chunk::sealing;
pub use chunk::{About, CHECK_SPAN, Chunk, ChunkKind, FOOTER_MAX, Fate, Inventory, Layout, Zoning};
pub use io::{
    Away, Catalog, CatalogEntry, Clocks, Condition, Hurry, NameEntry, Need, Payload, PoolStatus, Probe,
    QuotaRoom, StoreState, StoreStatus, Told, Upload, Verify, about_jump,
};
pub use local::{Finding, LastScrub, Located, Progress, RepairReport, ScrubOptions, ScrubReport, Watch};
pub use register::{Change, Register, Veto};
pub use repair::Unneeded;
pub use stores::{
    ASIDE, LABEL_KEY, LABEL_MAX, Label, Member, Membership, OnlyNamed, Opener, PoolConfig, PoolHost,
    PoolSettings, PoolStore, Roster, Standing, StoreEntry, being_destroyed, lacks_key, place, register_key,
    shard_key, shard_on,
};
