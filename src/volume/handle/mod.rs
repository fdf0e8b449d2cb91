//! The handle that clients use, and how a volume is opened.

mod become_owner;
mod changes;
mod first_boot;
mod hand_over;
mod leave_pool;
mod limiter;
mod move_redirect;
mod outage_timeout;
mod settings;
mod snapshot_view;
mod standby;
mod start;
mod volume;
mod waiters;

pub use become_owner::{UNREAD_JOURNAL, lineage};
pub use move_redirect::{ClosedPassage, Passage};
pub use snapshot_view::SnapshotView;
pub use standby::Attachment;
pub use volume::{Known, Volume};
