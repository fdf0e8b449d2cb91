//! The handle that clients use, and how a volume is opened.

mod changes;
mod first_boot;
mod leave_pool;
mod limiter;
mod move_redirect;
mod outage_timeout;
mod ownership;
mod settings;
mod snapshot_view;
mod volume_handle;
mod waiters;

pub use move_redirect::{ClosedPassage, Passage};
pub use ownership::{
    Attachment, Claiming, Filling, Reading, Shown, forget_reader, keep_notes, keep_notes_no_more, lineage,
    reader_key,
};
pub use snapshot_view::SnapshotView;
pub use volume_handle::{Known, Volume};
