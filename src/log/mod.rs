//! Chunks of a volume's log: cut, write, read, walk.

mod frame_ref;

pub use frame_ref::FrameRef;
