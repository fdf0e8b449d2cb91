//! Stores that are new in a pool, as to its volumes: each counts only after the volumes were walked.

mod take_in_stores;
mod walk_for_new_stores;

pub use take_in_stores::{Finished, TakenIn, lost_midway};
pub use walk_for_new_stores::try_walks;
