//! qcow2, read: versions 2 and 3, clusters of any size, compressed by zlib and zstd, subclusters, chains of images.

mod chain;
mod compressed_cluster;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod header;
mod image_extents;
mod qcow2_diff;
mod refcount_check;
mod table;

pub use chain::Chain;
pub use qcow2_diff::Overlay;

#[cfg(test)]
mod tests;
