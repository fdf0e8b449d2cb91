//! The file face: a bucket as a FUSE filesystem, objects 1:1 visible as files.
//!
//! A room uses only rooms above its own line; `tests/tidy` holds that.
//!
//! | room | what it owns |
//! |---|---|
//! | `object` | names, attributes, metadata, mount options: values without I/O |
//! | `bucket` | the bucket with deadlines and settled outcomes |
//! | `read` | read-ahead, and the cache on the local disk |
//! | `staging` | written bytes on the local disk, and their notes |
//! | `file` | an open file's changes and their way into the bucket |
//! | `tree` | inodes, handles, the name cache, listings, the write-back queue |
//! | `ops` | the operations, without a kernel |
//! | `mount` | the FUSE server; a mount's life |

mod bucket;
mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod mount;
mod object;
mod ops;
mod read;
mod staging;
#[cfg(test)]
mod tests;
mod tree;

pub use file::MountResources;
pub use mount::{Mounted, clear_dead, lacks_listing, mount, refuse_pool};
pub use object::{Cache, Flush, HELP as MOUNT_OPTIONS, KernelFlag, MountOptions};
pub use staging::{KeptFile, KeptFiles, Unsent};
pub use tree::Pending;
