//! What the mount holds in memory: inodes, handles, the name cache, listings under way, and the queue of files to send.

mod bulk_unlink;
mod dir_stream;
mod handles;
mod inodes;
mod metadata_sample;
mod name_cache;
mod parallel_listing;
mod split_points;
mod unfinished_rename;
mod version_nodes;
mod writeback_queue;

pub use bulk_unlink::Removals;
pub use dir_stream::{BATCH, DirHandle, Item, Stream};
pub use handles::{FileHandle, Handles, How, PastDir, PastFile, PastStream, Wrote};
pub use inodes::{Inodes, Node, ROOT};
pub use metadata_sample::{LINK_MAX, Metadata, SAMPLE};
pub use name_cache::{Crowd, Known, Seen, Ticket, split};
pub use parallel_listing::{Feed, Line, Pages};
pub use unfinished_rename::{Ending, Marker};
pub use version_nodes::{Past, PastNode, PastPlace, is_past};
pub use writeback_queue::{Behind, Pending, Waiting};
