//! The operations of the filesystem, without a kernel: `impl Fs`, one file a kind of operation.

mod create_remove_setattr;
mod filesystem;
mod lookup;
mod open;
mod readdir;
mod recovery;
mod rename;
mod rename_dir;
mod version_readdir;
mod versions;
mod writeback;
mod xattrs;

pub use create_remove_setattr::Changes;
pub use filesystem::{Entry, Fs, Invalidate};
pub use lookup::Looked;
pub use open::{Caller, Opened};
pub use xattrs::readable;
