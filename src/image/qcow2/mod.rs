//! qcow2, read: versions 2 and 3, clusters of any size, compressed by zlib and zstd, subclusters, chains of images.

mod chain;
mod cluster;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod header;
mod image;
mod overlay;
mod references;
mod table;

pub use chain::Chain;
pub use overlay::Overlay;

#[cfg(test)]
mod tests;
