//! Windlass: object-storage buckets as POSIX-ish mounts and as thin NBD disks. docs/architecture.md draws the house.

pub mod base;
pub mod store;
