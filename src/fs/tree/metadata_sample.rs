//! What metadata a directory's objects carry that a listing doesn't show, as far as a few of them tell.
//!
//! S3's listings tell sizes and times; modes, owners and whether an object is a link cost a question each. Where a few
//! objects carry nothing but what the mount shows anyway, `-o attributes=sampled` takes the others to be like them, for
//! as long as a listing is believed. Without that option nothing is guessed: each object is asked for. That decides
//! what stat(2) shows, never who may read: whoever opens a file or changes its metadata finds what it really carries,
//! and where that is something else, the kernel is told to judge again.

use crate::fs::object::{Attributes, Meta as _, MountOptions, S_IFMT, S_IFREG};
use crate::store::Attrs;

/// Objects that are looked at.
pub const SAMPLE: usize = 3;
/// Bytes of a symbolic link's target, at most (PATH_MAX without its zero).
pub const LINK_MAX: u64 = 4095;
/// An `mtime` so near to the store's own time says nothing that a listing doesn't.
const SAME_TIME_NS: u64 = 2_000_000_000;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Metadata {
    #[default]
    Unknown,
    /// None: other tools put them. Nobody needs to look at them one by one.
    None,
    /// Ours or s3fs's, and all as the mount shows it anyway; but links among them can't be told from small files.
    Defaults,
    /// Modes, owners or times of their own, or links.
    Rich,
}

impl Metadata {
    /// Of one object: what a listing showed, what it is, what it carries.
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

    /// Whether what a listing shows, with `attributes=sampled`, of one of them is enough. Where other users may come,
    /// it isn't for a directory: the kernel asks nobody before it lets them pass.
    pub fn tells(self, listed: &Attributes, options: &MountOptions) -> bool {
        match self {
            _ if !options.sampled => false,
            Metadata::None => !listed.is_dir() || !options.allow_other,
            Metadata::Defaults => !listed.is_dir() && listed.size > LINK_MAX,
            Metadata::Unknown | Metadata::Rich => false,
        }
    }
}
