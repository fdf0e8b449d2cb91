//! Erasure coding over stores: layout, codec, membership, registers, repair, scrub.
#![allow(dead_code)] // The rooms that use these come in the next commits.

mod chunk;
mod codec;
mod config;
mod footer;
mod handle;
mod key;
mod label;
mod layout;
mod mask;
mod member;
mod probe;
mod register;
mod seal;
mod traffic;
mod upload;
mod watched;

pub use chunk::{Chunk, ChunkKind, Fate, Inventory};
pub use config::{PoolConfig, Settings, StoreEntry};
pub use footer::{About, CHECK_SPAN, FOOTER_MAX};
pub use handle::{CreateOptions, Membership, Pool, PoolHost, StoreSpec};
pub use key::{place, register_key, shard_key, shard_on};
pub use label::{LABEL_KEY, Label};
pub use layout::{Layout, Zoning};
pub use member::{Member, Standing};
pub use probe::{Payload, Probe};
pub use register::{Change, Register};
pub use upload::Upload;
