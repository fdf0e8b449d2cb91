//! Mirroring a volume's journal (model `mirror`): the owner's side, which brings what is written to its peer, and the peer's
//! side, which keeps it.

mod forget;
mod hear;
mod keep;
mod serve;

pub use forget::forget_stale;
pub use hear::{Heard, hear, refusal};
pub use keep::keep_mirror;
pub use serve::{open_session, serve_mirror};
