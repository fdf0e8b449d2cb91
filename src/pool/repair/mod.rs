//! Scrub and repair: what is damaged or missing, and how it comes back.

mod compare;
pub mod handoff;
pub mod rebuild;
pub mod recheck;
mod register_copies;
pub mod scrub;
pub mod sweep;

pub use handoff::put_back;
pub use sweep::Unneeded;
