//! Erasure coding over stores: layout, codec, membership, registers, repair, scrub.

mod bookmark;
mod chunk;
mod codec;
mod condition;
mod config;
mod damage;
#[cfg(test)]
mod figures;
mod fleet;
mod footer;
mod footers;
mod handle;
mod hedge;
mod hints;
mod host;
mod key;
mod label;
mod layout;
mod mask;
mod member;
mod mend;
mod names;
mod news;
mod open;
mod plan;
mod probe;
mod read;
mod records;
mod recover;
mod register;
mod repair;
mod replace;
mod report;
mod roster;
mod scrub;
mod seal;
mod seats;
mod shard;
mod status;
mod traffic;
mod upload;
mod watched;

#[cfg(test)]
mod tests;

pub use bookmark::LastScrub;
pub use chunk::{Chunk, ChunkKind, Fate, Inventory};
pub use condition::{Away, Condition, Need};
pub use config::{PoolConfig, Settings, StoreEntry};
pub use footer::{About, CHECK_SPAN, FOOTER_MAX};
pub use handle::Pool;
pub use host::{OnlyNamed, Opener, PoolHost, StoreSpec};
pub use key::{ASIDE, place, register_key, shard_key, shard_on};
pub use label::{LABEL_KEY, LABEL_MAX, Label};
pub use layout::{Layout, Zoning};
pub use member::{Member, Standing};
pub use open::CreateOptions;
pub use probe::{Payload, Probe};
pub use read::Verify;
pub use recover::{Lost, Swap, Wreck};
pub use register::{Change, Register};
pub use replace::{Filled, Replacement};
pub use report::{Finding, Located, Progress, RepairReport, ScrubReport, Tempo, Watch};
pub use roster::{Membership, Roster};
pub use status::{PoolStatus, StoreStatus};
pub use upload::Upload;
