//! What the mount holds in memory: inodes, handles, the name cache, listings under way, and the queue of files to send.

mod bulk_unlink;
mod change_gate;
mod dir_stream;
mod handles;
mod inodes;
mod metadata_sample;
mod name_cache;
mod parallel_listing;
mod recent_names;
mod split_points;
mod unfinished_rename;
mod version_nodes;
mod writeback_queue;

pub use bulk_unlink::UnlinkBursts;
pub use change_gate::{ChangeGate, Hold, Pass};
pub use dir_stream::{BATCH, DirHandle, Item, Stream};
pub use handles::{Callers, FileHandle, Handles, OpenMode, VersionFile, Wrote};
pub use inodes::{Inodes, Node, ROOT};
pub use metadata_sample::{LINK_MAX, Metadata, SAMPLE};
pub use name_cache::{BulkLookup, CachedName, ChangeSeq, NameCache, split};
pub use parallel_listing::{ListedEntry, PageSource, ParallelListing};
pub use unfinished_rename::UnfinishedRename;
pub use version_nodes::{VersionNode, VersionPlace, VersionTree, is_version};
pub use writeback_queue::{Pending, QueuedFile, Writeback};
