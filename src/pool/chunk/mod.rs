//! A chunk: its id, layout, code and footer, and how it becomes shards.

mod codec;
mod encode;
mod footer;
mod footer_cache;
mod id;
mod layout;
mod shard_set;

pub use codec::Codec;
#[cfg(feature = "sim")]
pub use encode::sealing;
pub use encode::{seal, with_footer_of};
pub use footer::{About, CHECK_SPAN, FOOTER_GET, FOOTER_MAX, Footer};
pub use footer_cache::FooterCache;
pub use id::{Chunk, ChunkKind, Fate, Inventory};
pub use layout::{Layout, Zoning};
pub use shard_set::ShardSet;
