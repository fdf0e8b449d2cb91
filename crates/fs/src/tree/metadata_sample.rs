//! What metadata a directory's objects carry that a listing doesn't show, as far as a few of them tell.
//!
//! S3's listings tell sizes and times; modes, owners and whether an object is a link cost a question each. Where a few
//! objects carry nothing but what the mount shows anyway, `-o attributes=sampled` takes the others to be like them, for
//! as long as a listing is believed. Without that option nothing is guessed: each object is asked for. That decides
//! what stat(2) shows, never who may read: whoever opens a file or changes its metadata finds what it really carries,
//! and where that is something else, the kernel is told to judge again.

use crate::object::{Attributes, Meta as _, MountOptions, S_IFMT, S_IFREG};
use windlass_store::Attrs;

/// Number of objects that are looked at.
pub const SAMPLE: usize = 3;
/// Length of the longest target of a symbolic link, in bytes (PATH_MAX without its zero).
pub const LINK_MAX: u64 = 4095;
/// Difference, in nanoseconds, up to which an `mtime` says nothing that a listing doesn't, which tells the
/// store's own time.
const SAME_TIME_NS: u64 = 2_000_000_000;

/// Kind of metadata that a directory's objects carry, as far as a few of them tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Metadata {
    #[default]
    Unknown,
    /// The objects carry none: other tools put them. Nobody needs to look at them one by one.
    None,
    /// The objects carry metadata of windlass or s3fs, all as the mount shows it anyway. Links among them
    /// can't be told from small files.
    Defaults,
    /// The objects carry modes, owners or times of their own, or are links.
    Rich,
}

impl Metadata {
    /// Returns the kind of one object's metadata, from what a listing showed, what the object is and what it
    /// carries.
    pub fn of(listed: &Attributes, is: &Attributes, attrs: &Attrs) -> Metadata {
        let special = !is.is_dir() && is.mode & S_IFMT != S_IFREG;
        let dated = !is.is_dir() && listed.mtime.0.abs_diff(is.mtime.0) > SAME_TIME_NS;
        if special || dated || listed.rights() != is.rights() {
            Metadata::Rich
        } else if attrs.mode().is_some() {
            Metadata::Defaults
        } else {
            Metadata::None
        }
    }

    /// Tells whether what a listing shows of one object is enough, with `attributes=sampled`. Where other
    /// users may come, it isn't for a directory: the kernel asks nobody before it lets them pass.
    pub fn tells(self, listed: &Attributes, options: &MountOptions) -> bool {
        match self {
            _ if !options.sampled => false,
            Metadata::None => !listed.is_dir() || !options.allow_other,
            Metadata::Defaults => !listed.is_dir() && listed.size > LINK_MAX,
            Metadata::Unknown | Metadata::Rich => false,
        }
    }
}
