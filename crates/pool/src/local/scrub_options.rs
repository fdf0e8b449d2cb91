//! How a scrub, or a repair, is to go about it.

/// Options of a scrub: its speed, and where it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubOptions {
    /// Bytes a second at most; `None`: as fast as it goes.
    pub rate: Option<u64>,
    /// True if the scrub goes on where an earlier one on this host was cut off.
    pub resume: bool,
}
