//! What a volume's chunks are still needed for (protocol.md §5): deaths of frames, and the chunk table that counts them.
//!
//! *Death*: a frame that a state no longer holds, while its parent did, or nobody. A checkpoint that replaces a frame while
//! it builds state X with parent p records the death: with era(frame) > era(p) nobody holds it any more (*free*), else the
//! parent does, and X's list gets it. Removing a state moves lists and reads nothing. What is free is *folded* into the
//! chunk table, exactly once, in a checkpoint: dead bytes a chunk. Frames of ancestors are none of this volume's business.
//!
//! A *run* is an immutable sorted list of deaths, written by one checkpoint; lists name runs, or the part of a run within a
//! range of eras. Runs that were folded are kept as long as a chunk of theirs is: they tell which of its frames are dead.
//!
//! # Bytes of a run
//!
//! Pages (frames of kind table with address 2 << 60) of at most 4096 deaths, and an index (address 1 << 60).
//!
//! | page | field |
//! |---|---|
//! | 1 byte | format: 1 |
//! | varint | number of deaths |
//! | … | deaths, in order of era, chunk's sequence number, offset |
//!
//! A death, as varints: era less that of the one before; sequence number (less that of the one before, in the same era);
//! offset (less that of the one before, in the same chunk); length. The first follows zeros.
//!
//! | index | field |
//! |---|---|
//! | 1 byte | format: 1 |
//! | varint | number of eras |
//! | varints | each: era, bytes of its deaths |
//! | varint | number of pages |
//! | varints | each: frame, era and sequence number of its first death |
//!
//! # Bytes of a page of the chunk table
//!
//! The chunks whose sequence number divided by 4096 is n; a frame of kind table with address 3 << 60 | n.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | format: 1 |
//! | varint | number of entries |
//! | … | entries, in order of their sequence numbers |
//!
//! An entry, as varints: sequence number less n × 4096 or less that of the entry before; epoch; era; flags (map 1, counted
//! 2, in a pack 4); bytes of its frames (when counted), bytes of those that are dead; and in a pack: the pack's epoch,
//! number with the highest bit set, place and
//! length of the slice's index in it, how often it was packed (1 or 2). Not counted: a map chunk behind the checkpoint's position.

mod births;
mod ledger;
mod retired;
mod runs;
#[cfg(test)]
mod tests;

pub use births::{Birth, Births};
pub use ledger::{Entry, Folded, Home, Ledger, Object, PACKINGS_MAX, Repacked, SlabPlaces, Survivors};
pub use retired::Retired;
pub use runs::{
    Cursor, Death, PAGE_DEATHS, PAGES_MAX, Part, RUN_INDEX, RUN_PAGE, RunIndex, RunPage, encode_deaths,
};
