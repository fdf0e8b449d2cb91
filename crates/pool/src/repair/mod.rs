//! Scrub and repair: what is damaged or missing, and how it comes back.

mod compare;
pub mod handoff;
pub mod older;
mod others_hold;
mod register_copies;
pub mod repair_findings;
pub mod scrub;
pub mod sweep;
pub mod verify_damage;

pub use handoff::put_back;
pub use others_hold::{Holdings, predecessors};
pub use sweep::Unneeded;
