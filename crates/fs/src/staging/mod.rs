//! Written bytes on the local disk until the bucket has them: the area, its files and slabs, and their notes.

mod file_stage;
mod found_stages;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod kept_files;
mod note;
mod removal_log;
mod rename_intent;
mod slab;
mod slab_stage;
mod stage;
mod staging_area;
mod unsynced_removals;

pub use file_stage::Edits;
pub use found_stages::{FoundFile, FoundStages, UNKNOWN, Unsent};
pub use kept_files::{KeptFile, KeptFiles};
pub use note::{Mark, NOTE_FORMAT, Note};
pub use removal_log::Left;
pub use rename_intent::{RenameIntent, RenameStage};
pub use stage::Stage;
pub use staging_area::StagingArea;
pub use unsynced_removals::StagingDir;
