//! Mirroring a volume's journal (model `mirror`): the owner's side, which brings what is written to its peer, and the peer's
//! side, which keeps it.

mod keep;
mod serve;

pub use keep::keep_mirror;
pub use serve::{open_session, serve_mirror};
