//! The handle that clients use, and how a volume is opened.

mod become_owner;
mod changes;
mod first_boot;
mod hand_over;
mod leave;
mod leavers;
mod limiter;
mod outage;
mod passage;
mod settings;
mod snapshot_view;
mod standby;
mod start;
mod volume;

pub use become_owner::{UNREAD_JOURNAL, lineage};
pub use passage::{ClosedPassage, Passage};
pub use snapshot_view::SnapshotView;
pub use standby::Attachment;
pub use volume::{Known, Volume};
