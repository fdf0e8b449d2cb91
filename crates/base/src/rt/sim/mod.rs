//! The seeded simulation: the same code on virtual time, a simulated disk and one thread, so that a run is its seed.
//!
//! Part of the library, not of its tests, because every layer's tests (and those in `tests/`) stand on it. Only they have
//! it: the feature `sim` is off when a binary is built by itself.

mod disk;
mod executor;
mod link;
mod random;

pub use disk::{DiskFaults, SimDisk};
pub use executor::{Process, Sim, Stall, World};
pub use link::{LinkFaults, SimNet};
