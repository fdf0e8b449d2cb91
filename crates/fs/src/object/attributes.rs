//! What stat(2) shows of an object, from its listing or its metadata.

use super::metadata::{Meta as _, Ns, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use super::options::MountOptions;
use super::upload_token::upload_hash;
use windlass_store::{Attrs, Etag, Head, Listed};

const SECOND: i64 = 1_000_000_000;

/// Attributes of a file or directory that stat(2) shows, but for the inode number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    pub size: u64,
    /// File type (`S_IFMT`) and permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Ns,
    pub ctime: Ns,
    pub atime: Ns,
    pub etag: Option<Etag>,
    /// The store's own modification time. Changes of metadata set it too, while the etag stays. `None` after
    /// a write of ours, since the store has not told it yet.
    pub stored: Option<Ns>,
    /// `upload_hash` of the object's metadata; `None` where they were not read.
    pub upload: Option<u64>,
    /// The object's metadata was read; otherwise mode, owner and times are the mount's defaults.
    pub exact: bool,
    pub xattrs: bool,
}

/// Tells whether two times at which a store says that an object was stored may be one. Some stores tell whole
/// seconds in one answer and milliseconds in another. A time that a store does not tell says nothing against
/// it.
pub fn same_time(a_ms: Option<u64>, b_ms: Option<u64>) -> bool {
    let (Some(a), Some(b)) = (a_ms, b_ms) else { return true };
    let coarse = |ms: u64| ms.is_multiple_of(1000);
    a == b || (coarse(a) || coarse(b)) && a / 1000 == b / 1000
}

/// Tells whether an object was copied so soon after it was stored that a version stored since may tell the
/// same time. An unknown time counts as too soon.
pub fn in_one_moment(stored_ms: Option<u64>, copied_ms: Option<u64>) -> bool {
    same_time(stored_ms, copied_ms) || copied_ms < stored_ms
}

/// Attributes by which the kernel decides on access: file type, permission bits, owner and group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Rights {
    /// Tells whether both have the same owner, group and file type. Permission bits may differ.
    pub fn same_owner(&self, other: &Rights) -> bool {
        (self.mode & S_IFMT, self.uid, self.gid) == (other.mode & S_IFMT, other.uid, other.gid)
    }
}

impl Attributes {
    pub fn is_dir(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }

    pub fn is_sticky(&self) -> bool {
        self.mode & 0o1000 != 0
    }

    pub fn rights(&self) -> Rights {
        Rights { mode: self.mode, uid: self.uid, gid: self.gid }
    }

    pub fn is_link(&self) -> bool {
        self.mode & S_IFMT == S_IFLNK
    }

    /// Returns the attributes that a listing tells; mode and owner are the mount's defaults.
    pub fn listed(
        options: &MountOptions,
        dir: bool,
        size: u64,
        etag: Option<Etag>,
        modified: Ns,
    ) -> Attributes {
        let mode = if dir { S_IFDIR | options.dir_mode } else { S_IFREG | options.file_mode };
        let (uid, gid, at) = (options.uid, options.gid, modified);
        Attributes { size, mode, uid, gid, mtime: at, ctime: at, atime: at, etag, ..Attributes::default() }
    }

    /// Returns the attributes that a listing tells of this object.
    pub fn of_listed(options: &MountOptions, object: Listed) -> Attributes {
        let modified = Ns::of_store(object.modified_ms);
        let attributes = Attributes::listed(options, false, object.size, Some(object.etag), modified);
        Attributes { stored: object.modified_ms.map(Ns::from_ms), ..attributes }
    }

    /// Returns the attributes that an object's metadata tell. An object without any gets the mount's
    /// defaults, never mode 0.
    pub fn of(
        options: &MountOptions,
        dir: bool,
        size: u64,
        etag: Option<Etag>,
        modified: Ns,
        attrs: &Attrs,
    ) -> Attributes {
        let mut attributes = Attributes::listed(options, dir, size, etag, modified);
        let kind = attributes.mode & S_IFMT;
        if let Some(mode) = attrs.mode() {
            // A directory's marker is a directory whatever it says, and no object without a slash is one.
            let said = mode & S_IFMT;
            let kind = if dir || said == 0 || said == S_IFDIR { kind } else { said };
            attributes.mode = kind | mode & 0o7777;
        }
        attributes.uid = attrs.id("uid").unwrap_or(attributes.uid);
        attributes.gid = attrs.id("gid").unwrap_or(attributes.gid);
        attributes.mtime = attrs.time("mtime").unwrap_or(modified);
        attributes.ctime = attrs.time("ctime").unwrap_or(attributes.mtime);
        attributes.atime = attrs.time("atime").unwrap_or(attributes.mtime);
        attributes.exact = true;
        attributes.upload = Some(upload_hash(attrs));
        attributes.xattrs = attrs.user.contains_key("xattr");
        if dir {
            attributes.size = 4096;
        }
        attributes
    }

    pub fn of_head(options: &MountOptions, dir: bool, head: &Head) -> Attributes {
        let modified = Ns::of_store(head.modified_ms);
        let etag = Some(head.etag.clone());
        let attributes = Attributes::of(options, dir, head.size, etag, modified, &head.attrs);
        Attributes { stored: head.modified_ms.map(Ns::from_ms), ..attributes }
    }

    /// Tells whether `self`, read from the object's metadata, still holds although a listing now says
    /// `listed`.
    pub fn outlives(&self, listed: &Attributes) -> bool {
        let (stored, second) = (self.stored, |at: &Ns| at.0.div_euclid(SECOND));
        // Some servers tell milliseconds in listings alone.
        let coarse = stored.is_some_and(|at| at.0.rem_euclid(SECOND) == 0)
            && stored.as_ref().map(second) == listed.stored.as_ref().map(second);
        // A listing without times does not say whether the metadata are still the same.
        let unchanged = listed.stored.is_some() && (stored.is_none() || stored == listed.stored || coarse);
        let same = self.is_dir() || self.etag == listed.etag && unchanged;
        self.exact && !listed.exact && self.is_dir() == listed.is_dir() && same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: Mode, owner, times, links and xattrs are kept under the names that s3fs uses.
    #[test]
    fn objects_made_elsewhere_get_default_modes() {
        let options = MountOptions { file_mode: 0o640, uid: 5, ..MountOptions::default() };
        let attributes = Attributes::of(&options, false, 3, None, Ns(7), &Attrs::default());
        assert_eq!((attributes.mode, attributes.uid, attributes.mtime), (S_IFREG | 0o640, 5, Ns(7)));
        let mut attrs = Attrs::default();
        attrs.set_mode(S_IFDIR | 0o700);
        assert_eq!(Attributes::of(&options, false, 3, None, Ns(7), &attrs).mode, S_IFREG | 0o700);
    }

    #[test]
    fn metadata_outlives_listings_of_the_same_object() {
        let options = MountOptions::default();
        let at = |stored, exact| {
            let mut attributes = Attributes::listed(&options, false, 3, Some(Etag("e".into())), Ns(0));
            (attributes.stored, attributes.exact) = (Some(Ns::from_ms(stored)), exact);
            attributes
        };
        assert!(at(5000, true).outlives(&at(5000, false)));
        assert!(
            at(5000, true).outlives(&at(5999, false)),
            "a listing tells milliseconds where metadata doesn't"
        );
        assert!(!at(5001, true).outlives(&at(5999, false)), "metadata tells them too");
        assert!(!at(5000, true).outlives(&at(6000, false)));
        assert!(!at(5000, false).outlives(&at(5000, false)));
        let untold = Attributes { stored: None, ..at(5000, false) };
        assert!(!at(5000, true).outlives(&untold), "a listing without times says nothing of metadata");
    }
}
