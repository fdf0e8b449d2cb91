//! Chunks of a volume's log: cut, write, read, walk.

mod draft;
mod frame_reader;
mod frame_ref;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod pack;
mod places;
mod stored_frames;
mod toc;
mod writer;

pub use draft::{Draft, Encoded, MapDraft, Placed, Stamp, chunk_target, encode};
pub use frame_reader::{ReadCounts, Reader, Want};
pub use frame_ref::FrameRef;
pub use pack::{PackDraft, PackFrame, Placing, Slice};
pub use places::{InPack, Places, Slices};
pub use toc::{TOC_MAX, Toc, TocFrame};
pub use writer::{Cutting, MapSink, Prefix, Stored, Writer, WriterConfig};
