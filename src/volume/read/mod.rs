//! Reads: the overlay of new writes, one immutable view of the disk, read-ahead, and the context that rooms share.

mod boot_recorder;
mod boots;
mod engine_context;
mod overlay;
mod read_ahead;
mod since;
mod view;

pub use boots::{Boot, BootTemplate};
pub use engine_context::{EngineContext, Memory, Tuning, VolumeContext};
pub use overlay::{Frozen, Layer, Overlay, Piece, updates};
pub use read_ahead::{Fetch, Trail};
pub use since::Since;
pub use view::{Found, Run, View, blocks_of, in_bytes, passes};
