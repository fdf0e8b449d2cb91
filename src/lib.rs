//! Windlass: object-storage buckets as POSIX-ish mounts and as thin NBD disks. docs/architecture.md draws the house.

// A command's future holds those of every layer below it.
#![recursion_limit = "256"]

pub mod cli;
pub mod daemon;
