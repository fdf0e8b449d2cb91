//! The file face: a bucket as a FUSE filesystem, objects 1:1 visible as files.

mod mount;
mod options;

pub use mount::{Mounted, Unsent, mount};
pub use options::{KernelFlag, MountOptions};
