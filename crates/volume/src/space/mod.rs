//! What a volume's chunks are still needed for (protocol.md §5): deaths of frames, and the chunk table that counts them.
//!
//! *Dead frame*: a frame that a state no longer holds, while its parent did, or nobody. A checkpoint that replaces a
//! frame while it builds state X with parent p records the death: with era(frame) > era(p) nobody holds it any more
//! (*free*), else the parent does, and X's list gets it. Removing a state moves lists and reads nothing. What is free
//! is *folded* into the chunk table, exactly once, in a checkpoint: dead bytes a chunk. Frames of ancestors are none of
//! this volume's business.
//!
//! A *run* is an immutable sorted list of deaths, written by one checkpoint; lists name runs, or the part of a run within a
//! range of eras. Runs that were folded are kept as long as a chunk of theirs is: they tell which of its frames are dead.

mod chunk_table;
mod dead_runs;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod known_pack_places;
mod liveness;
mod new_chunks;
pub mod pins;
mod retired;
mod snapshot_freed_space;
mod state_table;
mod sweep_schedule;
#[cfg(test)]
mod tests;

pub use chunk_table::{
    ChunkTable, Entry, Folded, Home, Object, PACKINGS_MAX, PagePlaces, Repacked, Survivors,
};
pub use dead_runs::{
    Cursor, DeadFrame, PAGE_DEATHS, PAGES_MAX, Part, RUN_INDEX, RUN_PAGE, RunIndex, RunPage, encode_deaths,
};
pub use known_pack_places::PackIndex;
pub use liveness::Liveness;
pub use new_chunks::{NewChunk, NewChunks};
pub use retired::Retired;
pub use snapshot_freed_space::{DeadBytes, Freed, freed};
pub use state_table::{
    Alteration, Gone, HISTORY_NAME, RollBack, SnapshotId, State, TABLE_ADDRESS, Tables, name_of_sealed,
    root_ref,
};
pub use sweep_schedule::{Before, Rules, Sweeps};
