//! Reads: the overlay of new writes, one immutable view of the disk, read-ahead, and the context that rooms share.

mod boot_recorder;
mod boot_templates;
mod diff_base;
mod engine_context;
mod memory_shares;
mod overlay;
mod read_ahead;
mod view;
mod volume_context;

pub use boot_templates::{Boot, BootTemplate};
pub use diff_base::Since;
pub use engine_context::{EngineContext, Tuning};
pub use memory_shares::Memory;
pub use overlay::{Frozen, Layer, Overlay, Piece, updates};
pub use read_ahead::{Fetch, Trail};
pub use view::{Found, Run, View, blocks_of, in_bytes, passes};
pub use volume_context::VolumeContext;
