//! An open file: what was written over its object, and how both become the next object.

mod closed_version;
mod commit;
mod conflict_copy;
mod context;
mod freed;
mod open_file;
mod own_send;
mod part_plan;
mod rewrite;
mod stage_lifecycle;
mod state;
mod streaming_upload;
mod upload;
mod write;

pub use conflict_copy::{CONFLICT, UNFINISHED};
pub use context::{Clock, MountContext, MountResources, UploadMemory};
pub use freed::BytesHeld;
pub use open_file::OpenFile;
pub use state::{Purpose, Stood};
