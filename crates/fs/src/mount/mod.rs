//! The kernel's side: the FUSE server and a mount's life.

mod caller_descriptors;
mod fuse;
mod holders;
mod kernel_mount;
mod mounted;

pub use mounted::{Mounted, clear_dead, lacks_listing, mount, refuse_pool};
