//! The handle that clients use, and how a volume is opened.

mod changes;
mod first_boot;
mod leave_pool;
mod limiter;
mod move_redirect;
mod open_volume;
mod outage_timeout;
mod ownership;
mod settings;
mod snapshot_view;
mod waiters;

pub use move_redirect::{ClosedPassage, Passage};
pub use open_volume::{Known, Volume};
pub use ownership::{Attachment, UNREAD_JOURNAL, lineage};
pub use snapshot_view::SnapshotView;
