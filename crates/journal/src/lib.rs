//! Local durability: a volume's write-ahead log on this host's disk. Needs neither log nor map.
//!
//! It owns one folder a volume. What is appended is written in groups; what is synced comes back after any crash, as a
//! prefix, in order; what was trimmed makes room for more. It does not know what records mean, when they are stored, or
//! who owns the volume: the caller says so (`trim`, `announce`, marks), and decides by the lineage whether to replay.
//!
//! - `append` is a push into memory, `sync` one write and one fdatasync for all who wait (`writer`, `state`).
//! - Room is promised before it is used (`reserve`), and what is promised always fits: no append ever finds it full.
//! - After a failed write or sync nothing is trusted until `restart` begins anew, on other files and with another id.
//! - Where the disk takes no files for records the journal is *void*: its folder keeps the lineage, vouches for no record, and
//!   is otherwise one that failed. `restart` begins it anew when the disk takes them.
//! - Opening tells a torn tail (cut) from damage (refused, nothing changed): `recover`.
//!
//! # Files
//!
//! `lock` is held while the journal is open; the process is named in it. `header` is replaced as one step. `reserve` has no
//! contents: its 64 KiB are given back to a disk that has no room for the next `header`. `segment-N`
//! are written with zeros before their first use, and used again when all their records are trimmed, the longest unused
//! first. The first two are small, each further one is as large as all before, up to 64 MiB; opening removes what is not
//! needed. A *lap* is one use of a segment, counted over all segments; the laps on the disk follow each
//! other. A lap begins only after the one before is synced, so that only the last can have a torn tail. All numbers are
//! little-endian, hashes xxh3-64. A folder that was kept aside has the same files.
//!
//! ## `header`
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | magic `wlJh` |
//! | 4 | 2 | format, 6 |
//! | 6 | 2 | 1: its records are sealed, else 0 |
//! | 8 | 16 | volume id |
//! | 24 | 16 | journal id, another after each `restart` |
//! | 40 | 8 | first lsn of this journal id |
//! | 48 | 8 | mark: highest lsn promised against loss of the host, if no later batch has one; 2^64 − 1: void |
//! | 56 | 8 | bytes of the smallest segment |
//! | 64 | 8 | place: of the file `lock`, by its number and when it was made; a copy of the folder has another |
//! | 72 | 4 | epochs in the lineage, at most 4096 |
//! | 76 | 8 each | the lineage, oldest first |
//! | … | 8 | hash of all before |
//!
//! ## Segment: its first 4096 bytes
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | magic `wlJs` |
//! | 4 | 2 | format, 4 |
//! | 6 | 2 | 0 |
//! | 8 | 16 | journal id |
//! | 24 | 8 | lap, 1.. |
//! | 32 | 8 | salt, random: what an earlier lap left in this file never verifies |
//! | 40 | 8 | last lsn before this segment |
//! | 48 | 8 | where the segment of the lap before ends; 0 in lap 1 |
//! | 56 | 8 | mark |
//! | 64 | 8 | bytes of the file |
//! | 72 | 8 | hash of all before |
//! | 80 | | zeros |
//!
//! ## Batch: one write, at a multiple of 4096, up to a multiple of 4096
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | magic `wlJb` |
//! | 4 | 4 | bytes of heads: 64 + 40 a record; sealed 104 + 80 a record |
//! | 8 | 4 | bytes of bodies |
//! | 12 | 2 | records, 0..=4096 (0: it only carries a mark or the synced lsn) |
//! | 14 | 2 | 1: its records are sealed, else 0 |
//! | 16 | 8 | lap |
//! | 24 | 8 | salt |
//! | 32 | 8 | last lsn before this batch |
//! | 40 | 8 | last lsn known to be synced when this was written |
//! | 48 | 8 | mark |
//! | 56 | 8 | hash, seeded with the salt, of journal id, offset in the segment (8 bytes), bytes 0..56 and 64.. of the heads |
//! | 64 | 40 each | record heads |
//! | … | | zeros up to a multiple of 4096, bodies in the order of the records, zeros up to one again |
//!
//! Record head:
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | lsn |
//! | 8 | 8 | first block |
//! | 16 | 8 | blocks |
//! | 24 | 4 | bytes of the body |
//! | 28 | 4 | kind: 1 write (body: the blocks), 2 zeros (no body), 3 mark (below) |
//! | 32 | 8 | hash of the body, as it is stored |
//!
//! Of an encrypted volume (see [keys](#keys)) the salt of the key (16) and 24 zeros stand before the record heads, and each of
//! these is followed by 20 bytes that are first block, blocks and kind (4), sealed, the tag (16) and 4 zeros; where they stand
//! otherwise are zeros. The body and these 20 bytes are one message, whose nonce is the lsn and whose associated data
//! are journal id, lsn and the bytes of the body (4). Lsns and lengths stay readable: hosts without the key tell how much is unsent.
//!
//! A mark's body (a snapshot, see `base::log_record`): state id (8), group (16), members of the group (4), wall clock in ms
//! since 1970 (8), bytes of the volume at that moment (8), 1 of one that the volume
//! took by itself, else 0 (1), length of the name (4), name.
//!
//! A batch counts as a whole. Lsns grow within a segment and from segment to segment; there may be gaps (writes that
//! were stored and then lost here). Synced pages are never written again before their segment's next lap.
//!
//! # What the disk is assumed to do
//!
//! What was written and then synced without an error stays. Until then any 512-byte sectors of a write may be there or
//! not, whatever the order. A sync that failed may have dropped what it was to write, and later ones may claim success:
//! that is why a failure is final, and why opening writes once more what no later batch says was synced.

mod batch_reader;
mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handle;
mod peek;
mod recover;
mod replay;
mod segment;
mod state;
#[cfg(test)]
mod tests;
mod writer;

pub use handle::{Journal, JournalConfig, Ready, Recovered, Room, Usage};
pub use peek::{Peek, is_there, peek};
pub use replay::Replay;
