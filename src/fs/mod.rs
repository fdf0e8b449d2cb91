//! The file face: a bucket as a FUSE filesystem, objects 1:1 visible as files.
//!
//! | room | what it owns |
//! |---|---|
//! | `names` | keys as file names and back |
//! | `inodes` | the nodes that the kernel knows |
//! | `known` | what the store lately said about names |
//! | `core` with `lookup`, `dirs`, `files`, `change`, `xattrs`, `rename`, `moves` | the operations, without a kernel |
//! | `handles`, `stream`, `facts`, `engine` | what those work on |
//! | `file` with `staged`, `ranges`, `stage` (`own`, `docked` in a `shelf`, `note`), `staging`, `parts`, `early`, `upload`, `send` | an open file's changes and their way into the bucket |
//! | `behind`, `queue`, `beside`, `kept` | what is sent without anybody waiting, what can't have its name, what no mount sends |
//! | `reader`, `blocks` | reading ahead; what was read, on the local disk |
//! | `feed`, `scale` | a directory's names page by page, many of them over ranges at once |
//! | `meta`, `content` | metadata under s3fs's names; types |
//! | `remote`, `deletes`, `silence` | the bucket with deadlines and settled outcomes; whether it answers at all |
//! | `past`, `versions`, `version_dirs`, `version_name` | earlier versions of objects, a tree of their own |
//! | `adapter` | the only place that knows fuser |
//! | `mount`, `attach` | a mount's life; the kernel's part of it |

mod adapter;
mod anew;
mod attach;
mod behind;
mod beside;
mod blocks;
mod callers;
mod change;
mod content;
mod core;
mod deletes;
mod dirs;
mod docked;
mod earlier;
mod early;
mod ending;
mod engine;
mod errno;
mod facts;
mod feed;
mod file;
mod files;
mod folder;
mod handles;
mod inodes;
mod intent;
mod kept;
mod known;
mod lookup;
mod meta;
mod mount;
mod moves;
mod names;
mod note;
mod options;
mod own;
mod parts;
mod past;
mod queue;
mod ranges;
mod reader;
mod remote;
mod removals;
mod rename;
mod sample;
mod scale;
mod send;
mod shelf;
mod signature;
mod silence;
mod stage;
mod staged;
mod staging;
mod stream;
#[cfg(test)]
mod tests;
mod upload;
mod version_dirs;
mod version_name;
mod versions;
mod xattrs;

pub use kept::{Keep, Kept};
pub use mount::{Mounted, clear_dead, mount, refuse_pool};
pub use options::{Cache, Flush, HELP as MOUNT_OPTIONS, KernelFlag, MountOptions};
pub use queue::Pending;
pub use staging::{Unsent, take_over};
