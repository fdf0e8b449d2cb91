//! Mirroring a volume's journal (model `mirror`): the owner's side, which brings what is written to its peer, and the peer's
//! side, which keeps it.

mod keep;
mod recover_from_peer;
mod serve;
mod stale_sessions;

pub use keep::keep_mirror;
pub use recover_from_peer::{Heard, hear, refusal};
pub use serve::{open_session, serve_mirror};
pub use stale_sessions::forget_stale;
