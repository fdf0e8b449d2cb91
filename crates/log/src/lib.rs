//! Chunks of a volume's log: cut, write, read, walk.

mod chunk_builder;
mod frame_reader;
mod frame_ref;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod pack;
mod pack_lookup;
mod stored_frames;
mod toc;
mod writer;

pub use chunk_builder::{Draft, Encoded, MapDraft, Placed, Stamp, chunk_target, encode};
pub use frame_reader::{Along, ReadCounts, Reader, Want};
pub use frame_ref::FrameRef;
pub use pack::{PackDraft, PackFrame, Placing, Slice};
pub use pack_lookup::{InPack, Places, Slices};
pub use toc::{TOC_MAX, Toc, TocFrame};
pub use writer::{Cutting, MapSink, Prefix, Stored, Writer, WriterConfig};
