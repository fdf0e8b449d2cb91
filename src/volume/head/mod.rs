//! The head: what a volume's register holds, its settings, and the register itself.

mod confirmed;
mod info;
mod register;
mod settings;
mod stop;
mod transitions;

pub use confirmed::{Floor, Record};
pub use info::{Parent, SnapshotInfo, TakeOver, VolumeInfo};
pub use register::{CREATION, HeadRegister};
pub use settings::{FlushMode, Host, VolumeSettings};
pub use stop::{Stop, without_journal};
pub use transitions::{
    Base, Checkpoint, Claimer, End, Gate, Head, Move, NameStanding, Naming, Recording, Removal, RootRef,
};
