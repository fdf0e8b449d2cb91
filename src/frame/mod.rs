//! What one run of blocks, or one page of a map, becomes when stored: compressed, (later) sealed, checksummed, bound to
//! its place; and back.
//!
//! # Bytes
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 1 | codec: 0 none, 1 lz4 block format, 2 zstd |
//! | 1 | 1 | key slot: 0 not encrypted; 1.. the volume's data keys (none yet) |
//! | 2 | 1 | blocks held: 1..16 in a data frame, 0 in all others |
//! | 3 | 1 | kind: 0 data, 1 map page, 2 table page |
//! | 4 | 4 | body length as stored, without this header |
//! | 8 | 4 | length of the contents (after decompression) |
//! | 12 | 4 | CRC32C over bytes 0..12, the place, the body |
//! | 16 | … | body |
//!
//! All little-endian. The place is not stored, it is what a reader must already know, so that a frame found anywhere
//! else than where it was put does not verify; it enters the checksum as volume id (16 bytes), epoch, sequence, offset
//! in the chunk, address (8 bytes each). The address is the first block of a data frame, and what map and tables define
//! for theirs.
//!
//! The version of this format is that of the chunk that holds the frame. A frame of an unknown codec or key slot whose
//! checksum is right is `Unsupported` (a newer version wrote it), all else that is wrong is `Corrupt`.

mod frame_format;

pub use frame_format::{
    Body, Codec, FRAME_HEADER, FRAME_MAX, FrameKind, Packer, Place, Recompressor, open, open_verified, verify,
};
