//! The operations of the filesystem, without a kernel: `impl Fs`, one file a kind of operation.

mod create_remove_setattr;
mod directory_metadata;
mod filesystem;
mod handle_io;
mod lookup;
mod readdir;
mod recovery;
mod removals;
mod renames;
mod version_readdir;
mod versions;
mod writeback;
mod xattrs;

pub use create_remove_setattr::Changes;
pub use filesystem::{Entry, Fs, Invalidate};
pub use handle_io::{Caller, Opened};
pub use lookup::Looked;
pub use xattrs::readable;
