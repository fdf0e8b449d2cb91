//! Images of disks, in and out. Knows files and formats, nothing of volumes: what it needs of one is behind small traits.
//!
//! **In.** An image is untrusted. Its own words decide no allocation before they were held against the file's length, no file
//! that it names is opened unasked, and what contradicts itself is refused before the first byte is written. `ReadAt` is a file
//! that can be read anywhere: on the local disk, or behind `http(s)://`. A `Source` makes pieces of it, in order: a raw disk, a
//! qcow2 with what it is built on, a stream. `DiskCopy` takes a source to a `Target`, many pieces at a time.
//!
//! **Out.** A disk is told as runs (`runs`), all of it or what changed (`changes`), and becomes raw, qcow2 (`qcow2_writer`) or a
//! stream of differences (`rbd_diff`); `sum` is its checksum.

mod backing_dir;
mod copy;
pub mod diff_lineage;
pub mod diff_source;
mod disk_marks;
pub mod export;
pub mod export_formats;
mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod http;
mod local_file;
mod other_marks;
pub mod output;
mod piece_source;
pub mod portion_plan;
mod qcow2;
pub mod qcow2_writer;
mod raw_source;
pub mod rbd_diff_codec;
mod read_at;
mod sequential_source;
pub mod sum;

pub use backing_dir::BackingDir;
pub use copy::{CopyWatch, DiskCopy, FilledTo, Target};
pub use format::{
    Compression, Detected, Format, HEAD_BYTES, TAIL_BYTES, check_end, compression_named, compression_of,
    detect,
};
pub use http::{HttpFile, HttpOpened};
pub use local_file::{LocalFile, Opened};
pub use piece_source::{Content, PIECE, Piece, Source};
pub use qcow2::{Chain, Overlay};
pub use raw_source::Raw;
pub use read_at::{ReadAt, sha256};
pub use sequential_source::{Bytewise, Stream};
