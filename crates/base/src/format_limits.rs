//! Sizes of the format that several layers must agree on.

/// The unit that maps, journal, overlay and chunks track, in bytes.
pub const BLOCK: u64 = 4096;
/// Blocks a map leaf covers (1 MiB of disk).
pub const LEAF_BLOCKS: u64 = 256;
/// Blocks a frame holds at most; never across a leaf.
pub const FRAME_BLOCKS: u64 = 16;
/// Virtual bytes a data shard covers: shard i covers `[i * SHARD_SPAN, (i + 1) * SHARD_SPAN)`.
pub const SHARD_SPAN: u64 = 16 << 20;
/// Real bytes of a data shard under load.
pub const SHARD_TARGET: u64 = 8 << 20;
/// Payload bytes a chunk is cut at under load, whatever the layout.
pub const CHUNK_TARGET: u64 = 32 << 20;
/// Chunks that may be beyond the stored prefix; a constant of the format (takeover relies on it).
pub const CHUNKS_AHEAD: u64 = 32;
/// Chunks a walk probes at once.
pub const WALK_WINDOW: u64 = 64;
/// Largest volume, in bytes.
pub const VOLUME_MAX: u64 = 64 << 40;
/// Largest head, in bytes: refused above.
pub const HEAD_MAX: usize = 256 << 10;
/// Data and parity shards together, at most: a footer must fit 4 KiB.
pub const SHARDS_MAX: usize = 64;
