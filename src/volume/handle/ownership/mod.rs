//! Whose an open volume is: how it is claimed, stood by for, handed over and let go.

mod become_owner;
mod hand_over;
mod ownership_states;
mod standby;
mod start;

pub use become_owner::lineage;
pub use ownership_states::{AGAIN, Inner, State};
pub use standby::{Attachment, Inert, Standby};
