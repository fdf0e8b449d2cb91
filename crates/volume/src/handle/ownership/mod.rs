//! Whose an open volume is: how it is claimed, stood by for, handed over and let go.

mod become_owner;
mod filling;
mod hand_over;
mod others_claim;
mod ownership_states;
mod readers;
mod rounds;
mod shown;
mod standby;
mod start;

pub use become_owner::lineage;
pub use filling::Filling;
pub use ownership_states::{AGAIN, Claiming, Inner, State};
pub use readers::{
    Reading, forget_reader, keep_notes, keep_notes_no_more, read_by_client, read_by_moved, reader_key,
};
pub use rounds::whole;
pub use shown::Shown;
pub use standby::{Attachment, Inert, Standby};
