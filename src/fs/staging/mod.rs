//! Written bytes on the local disk until the bucket has them: the area, its files and slabs, and their notes.

mod area;
mod file_stage;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod kept_files;
mod note;
mod rename_intent;
mod slab;
mod slab_stage;
mod stage;
mod unsynced_removals;

pub use area::{FoundFile, FoundStages, StagingArea, UNKNOWN, Unsent, take_over};
pub use file_stage::Edits;
pub use kept_files::{KeptFile, KeptFiles};
pub use note::{Mark, NOTE_FORMAT, Note};
pub use rename_intent::{INTENT_FORMAT, RenameIntent};
pub use stage::Stage;
pub use unsynced_removals::StagingDir;
