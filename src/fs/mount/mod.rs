//! The kernel's side: the FUSE server and a mount's life.

mod fuse;
mod kernel_mount;
mod mounted;
mod open_elsewhere;

pub use mounted::{Mounted, clear_dead, mount, refuse_pool};
