//! The head: what a volume's register holds, its settings, and the register itself.

mod automatic_snapshot_plan;
mod boot_trace;
mod confirmed;
mod head_value;
mod holds;
mod info;
mod keys;
mod name_and_move;
mod other_hosts;
mod rate_limits;
mod register;
mod session_stop;
mod settings;
mod transitions;

pub use boot_trace::{BootTrace, Trace};
pub use confirmed::{Floor, Record, is_no_older};
pub use head_value::{Base, Checkpoint, Claim, CopyRound, End, Gate, Head, Move, RootRef};
pub use holds::{Cloned, Locks, READERS};
pub use info::{MirrorInfo, Parent, Rotation, SnapshotInfo, TakeOver, VolumeInfo};
pub use name_and_move::{Leaving, Moved, NameStanding, Naming};
pub use other_hosts::{ClaimBasis, Mirror, MirrorAccess};
pub use rate_limits::{Direction, Limits, Rate};
pub use register::{CREATION, HeadRegister};
pub use session_stop::{Stop, without_journal};
pub use settings::{
    Clients, FlushMode, HandoverPolicy, Host, MirrorLoss, VolumeSettings, check_size, is_template,
};
pub use transitions::{Back, Claimer, Recording, Removal};
