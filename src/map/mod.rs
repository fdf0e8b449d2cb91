//! A paged copy-on-write tree: block to frame, and the tables under the checkpoint.

mod tree;

pub use tree::{Extent, Mapped, PageCache, PageSink, Pages, Root, Tree, Walk};
