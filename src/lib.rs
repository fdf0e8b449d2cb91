//! Windlass: object-storage buckets as POSIX-ish mounts and as thin NBD disks. docs/architecture.md draws the house.

// A command's future holds those of every layer below it.
#![recursion_limit = "256"]

pub mod base;
pub mod cache;
pub mod cli;
pub mod daemon;
pub mod frame;
pub mod fs;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod image;
pub mod journal;
pub mod keys;
pub mod log;
pub mod map;
pub mod nbd;
pub mod pool;
pub mod store;
pub mod volume;
