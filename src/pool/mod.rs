//! Erasure coding over stores: layout, codec, membership, registers, repair, scrub.
#![allow(dead_code)] // The rooms that use these come in the next commits.

mod chunk;
mod config;
mod handle;
mod key;
mod label;
mod layout;
mod member;
mod probe;
mod register;
mod traffic;
mod upload;
mod watched;

pub use chunk::{Chunk, ChunkKind, Fate, Inventory};
pub use config::{PoolConfig, Settings, StoreEntry};
pub use handle::{CreateOptions, Membership, Pool, PoolHost, StoreSpec};
pub use key::{place, register_key, shard_key, shard_on};
pub use label::{LABEL_KEY, Label};
pub use layout::{Layout, Zoning};
pub use member::{Member, Standing};
pub use probe::{About, Payload, Probe};
pub use register::{Change, Register};
pub use upload::Upload;
