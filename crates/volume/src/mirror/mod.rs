//! A mirrored journal (model `mirror`): what owner and peer tell each other, what the owner has yet to send, and the sessions
//! that a peer keeps.

mod message;
mod outgoing;
mod sessions;

#[cfg(any(test, fuzzing))]
pub use message::fuzz;
pub use message::{Begin, Message};
pub use outgoing::{Answer, Mirroring};
pub use sessions::{MirrorHost, Seat, Sessions, check_whole};
