//! Chunks of a volume's log: cut, write, read, walk.

mod draft;
mod frame_fetch;
mod frame_ref;
mod pack;
mod places;
mod reader;
mod toc;
mod writer;

pub use draft::{Draft, Encoded, MapDraft, Placed, Stamp, chunk_target, encode};
pub use frame_ref::FrameRef;
pub use pack::{PackDraft, Placing, Slice};
pub use places::{InPack, Places, Slices};
pub use reader::{ReadCounts, Reader, Want};
pub use toc::{TOC_MAX, Toc, TocFrame};
pub use writer::{Cutting, MapSink, Prefix, Stored, Writer, WriterConfig};
