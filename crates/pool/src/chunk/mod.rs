//! A chunk: its layout, code and footer, how it becomes shards; and which chunks there are to be (`inventory`).

mod chunk_contents;
mod codec;
mod encode;
mod footer;
mod footer_cache;
mod inventory;
mod redundancy;
mod shard_set;

pub use chunk_contents::{Chunk, ChunkKind};
pub use codec::Codec;
pub use encode::sealing;
pub use encode::{seal, with_footer_of};
pub use footer::{About, CHECK_SPAN, FOOTER_GET, FOOTER_MAX, Footer};
pub use footer_cache::FooterCache;
pub use inventory::{Checked, DeletionCheck, Fate, Inventory, ReadCaches};
pub use redundancy::{Layout, Zoning};
pub use shard_set::ShardSet;
