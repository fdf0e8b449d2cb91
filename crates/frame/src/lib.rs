//! What one run of blocks, or one page of a map, becomes when stored: compressed, sealed if the volume is encrypted,
//! checksummed, bound to its place; and back.
//!
//! # Bytes
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 1 | codec: 0 none, 1 lz4 block format, 2 zstd |
//! | 1 | 1 | key slot: 0 not encrypted, else the number of the data key |
//! | 2 | 1 | blocks held: 1..16 in a data frame, 0 in all others |
//! | 3 | 1 | kind: 0 data, 1 map page, 2 table page; of encrypted volumes 3 table of contents, 4 index of a slice |
//! | 4 | 4 | body length as stored, without this header |
//! | 8 | 4 | length of the contents (after decompression) |
//! | 12 | 4 | CRC32C over bytes 0..12, the place, the body |
//! | 16 | … | body |
//!
//! All little-endian. The place is not stored, it is what a reader must already know, so that a frame found anywhere
//! else than where it was put does not verify; it enters the checksum as volume id (16 bytes), epoch, sequence, offset
//! in the chunk, address (8 bytes each). The address is the first block of a data frame, what map and tables define
//! for theirs, and 0 of a list.
//!
//! The body of an encrypted volume's frame is a salt (16), what was compressed, sealed by AES-256-GCM, and the tag (16). The
//! key comes from the data key, the chunk and the salt (see [keys](#keys)), the nonce is the offset, and bytes 0..12 and the
//! place are the associated data. The checksum covers what is stored; the address enters it as 0: a
//! checksum with all else that it covers would tell it. A table page is signed and not sealed: its tag is over no text, with its body as
//! the end of the associated data, so that hosts without the key find out which objects are needed.
//!
//! The version of this format is that of the chunk that holds the frame. A frame of an unknown codec whose
//! checksum is right is `Unsupported` (a newer version wrote it), one of an unknown data key or without its key `Denied`, all else
//! that is wrong is `Corrupt`: also one that is sealed in a volume that is not encrypted, or the other way.

mod frame_format;
#[cfg(any(test, fuzzing))]
pub mod fuzz;

pub use frame_format::{
    Body, Codec, FRAME_HEADER, FRAME_MAX, FrameKind, Packer, Place, Recompressor, SEALED_MORE, data_key_of,
    list_len, open, open_verified, seal_anew, seal_list, verify,
};
