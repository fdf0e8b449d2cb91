//! Copies of snapshots in other volumes, of any pool that this engine has open; and volumes that move to another pool.

mod compare_states;
mod copy_progress_file;
mod copy_snapshot;
mod move_volume;
mod switch;

pub use copy_snapshot::{Copied, Copying, applied_mark, copy_mark, copy_snapshot, is_applied_mark};
pub use move_volume::{
    MovedVolume, Moving, check_other, finish_move, give_up_move, move_volume, moved_to, while_moved,
};
pub use switch::MovingClients;
