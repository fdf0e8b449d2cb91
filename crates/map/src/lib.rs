//! A paged copy-on-write tree, block to frame, and small tables beside it.
//!
//! A tree is its root. Merging updates gives another tree that shares all pages that didn't change; no page is ever
//! changed or taken back, so that every older root (a snapshot, a clone's base) reads as before. Pages are frames of
//! kind `Map` in map chunks; this layer decides what is in them, the caller where they go (`PageSink`) and where they
//! come from (`Pages`). It does not know which states exist, nor free anything.
//!
//! # Pages
//!
//! A page has 256 slots: the blocks of a leaf (level 0, 1 MiB of disk), the children of an inner page of level n, which
//! covers 256^(n+1) blocks. A root of level h (0..=6) begins at block 0. The frame's place has the *address*
//! `level << 56 | first block`, so that a page read for the wrong place of a tree does not verify. At most 16 KiB.
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 1 | format, 1 |
//! | 1 | 1 | level |
//! | 2 | 2 | entries, 1..=256 |
//! | 4 | … | entries, in order of their slots |
//!
//! An entry says how it differs from the one before; before the first stand slot 0 and a frame of zeros:
//!
//! | bytes | field | present when flag |
//! |---|---|---|
//! | 1 | flags; 128 must be 0 | |
//! | 1 | slots skipped since the last entry's end, else 0 | 1 |
//! | 1 | slots, else 1 (1..=16 in a leaf, 1 in an inner page) | 2 |
//! | 1 | which block of the frame the first slot is, else 0 (with the slots at most 16) | 4 |
//! | varints | the frame's volume (index into the ancestors), epoch | 8 |
//! | varint | the frame's sequence minus the last one, zigzag | 16 |
//! | varint | the frame's offset, else where the last frame ended | 32 |
//! | varint | the frame's stored length, else as the last | 64 |
//!
//! A varint is LEB128 of at most 64 bits. A frame of random 4 KiB writes takes about 10 bytes, of sequential ones 4 to 6.
//!
//! # Tables
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 1 | format, 1 |
//! | 1 | 1 | kind |
//! | 2 | 2 | rows |
//! | 4 | … | rows: length (4 bytes), bytes |

mod change_leaf;
mod differences;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod known;
mod merge;
mod page;
mod page_cache;
#[cfg(test)]
mod tests;
mod tree;

pub use known::Known;
pub use merge::{Merged, PageSink};
pub use page::PAGE_MAX;
pub use page_cache::{CacheStats, PageCache, Pages};
pub use tree::{Extent, Mapped, Root, Step, Tree, Walk};
