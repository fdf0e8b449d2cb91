//! Frames on local disk: see `format` for the bytes, `handle` for what is promised.

mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handle;
mod index;
mod segment_rings;
mod shared;
#[cfg(test)]
mod tests;

pub use handle::{DiskCache, DiskCacheConfig};
pub use shared::DiskStats;
