//! Erasure coding over stores: layout, codec, membership, registers, repair, scrub.

mod chunk;
mod codec;
mod config;
mod fleet;
mod footer;
mod footers;
mod handle;
mod hints;
mod key;
mod label;
mod layout;
mod mask;
mod member;
mod mend;
mod names;
mod open;
mod probe;
mod read;
mod register;
mod repair;
mod scrub;
mod seal;
mod shard;
mod status;
mod traffic;
mod upload;
mod watched;

#[cfg(test)]
mod tests;

pub use chunk::{Chunk, ChunkKind, Fate, Inventory};
pub use config::{PoolConfig, Settings, StoreEntry};
pub use fleet::{Membership, PoolHost};
pub use footer::{About, CHECK_SPAN, FOOTER_MAX};
pub use handle::Pool;
pub use key::{place, register_key, shard_key, shard_on};
pub use label::{LABEL_KEY, Label};
pub use layout::{Layout, Zoning};
pub use member::{Member, Standing};
pub use open::{CreateOptions, StoreSpec};
pub use probe::{Payload, Probe};
pub use read::Verify;
pub use register::{Change, Register};
pub use repair::RepairReport;
pub use scrub::{Finding, Progress, ScrubReport, Watch};
pub use status::{PoolStatus, StoreStatus};
pub use upload::Upload;
