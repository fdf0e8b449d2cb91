//! Reads: the overlay of new writes, one immutable view of the disk, read-ahead, and the context that rooms share.

mod block_status;
mod boot_recorder;
mod boot_templates;
mod deletion_check;
mod diff_base;
mod engine_context;
mod gates;
mod memory_shares;
mod overlay;
mod read_ahead;
mod read_around;
mod volume_context;
mod volume_reader;

pub use block_status::{Run, in_bytes};
pub use boot_templates::{Boot, BootTemplate};
pub use diff_base::Since;
pub use engine_context::{EngineContext, Tuning};
pub use gates::wait_at;
pub use memory_shares::Memory;
pub use overlay::{Frozen, Layer, Overlay, Piece, updates};
pub use read_ahead::{Fetch, Trail};
pub use volume_context::VolumeContext;
pub use volume_reader::{Found, View, blocks_of, passes};
