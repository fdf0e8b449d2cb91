//! By what an upload of ours is known again when its answer was lost, perhaps with the mount that sent it: the object's
//! size, and 128 bits drawn for it that stand in its metadata as `windlass-upload`. A server-side copy keeps them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::metadata::Meta as _;
use windlass_base::rt::Rt;
use windlass_store::Attrs;

/// Name of the metadata that hold the mark of an act's copy (`act_mark`).
pub const ACT: &str = "windlass-act";
const UPLOAD: &str = "windlass-upload";
const XATTRS: &str = "xattr";

type Xattrs = BTreeMap<String, Vec<u8>>;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UploadToken {
    pub size: u64,
    pub upload: String,
}

impl UploadToken {
    /// Returns the token in an object's metadata; `None` where they have none: no upload of ours signed them.
    pub fn of(attrs: &Attrs, size: u64) -> Option<UploadToken> {
        Some(UploadToken { size, upload: attrs.user.get(UPLOAD)?.clone() })
    }

    /// Returns metadata that hold this token and nothing else.
    pub fn attrs(&self) -> Attrs {
        Attrs { user: [(UPLOAD.to_owned(), self.upload.clone())].into(), ..Attrs::default() }
    }
}

/// Tells whether `there`, an object's metadata, come from the write that sent `ours`. The mark decides for
/// the copy of an act, the token for an upload.
pub fn is_same_write(ours: &Attrs, there: &Attrs) -> bool {
    let name = if ours.user.contains_key(ACT) { ACT } else { UPLOAD };
    ours.user.get(name).is_some_and(|ours| there.user.get(name) == Some(ours))
}

/// Returns a number that tells which upload has made an object: a hash of its token, 0 where the metadata
/// have none.
pub fn upload_hash(attrs: &Attrs) -> u64 {
    attrs.user.get(UPLOAD).map_or(0, |upload| xxh3_64(upload.as_bytes()))
}

/// Gives the metadata a new upload token, and takes the mark of an act's copy away.
pub fn add_upload_token(rt: &Rt, attrs: &mut Attrs) {
    attrs.user.remove(ACT);
    attrs.user.insert(UPLOAD.into(), format!("{:016x}{:016x}", rt.random(), rt.random()));
}

/// Takes over into `ours` whatever `theirs` changed since `base` and we did not. Returns true if anything was
/// taken over.
pub fn merge_attrs(base: &Attrs, theirs: &Attrs, ours: &mut Attrs) -> bool {
    let before = ours.clone();
    if theirs.content_type != base.content_type && ours.content_type == base.content_type {
        ours.content_type.clone_from(&theirs.content_type);
    }
    let (was, is, mut all) = (base.xattrs(), theirs.xattrs(), ours.xattrs());
    if merge_names(&was, &is, &mut all) {
        ours.set_xattrs(&all);
    }
    let names: BTreeSet<&String> = base.user.keys().chain(theirs.user.keys()).collect();
    for name in names.into_iter().filter(|name| !matches!(name.as_str(), UPLOAD | ACT | XATTRS)) {
        let (was, is) = (base.user.get(name), theirs.user.get(name));
        if was != is && ours.user.get(name) == was {
            match is {
                Some(is) => ours.user.insert(name.clone(), is.clone()),
                None => ours.user.remove(name),
            };
        }
    }
    *ours != before
}

/// Merges xattrs by the rule of `merge_attrs`, name by name: all of them stand in one metadata value.
fn merge_names(base: &Xattrs, theirs: &Xattrs, ours: &mut Xattrs) -> bool {
    let names: BTreeSet<&String> = base.keys().chain(theirs.keys()).collect();
    let mut merged = false;
    for name in names {
        let (was, is) = (base.get(name), theirs.get(name));
        if was != is && ours.get(name) == was {
            merged = true;
            match is {
                Some(is) => ours.insert(name.clone(), is.clone()),
                None => ours.remove(name),
            };
        }
    }
    merged
}

/// Returns what `base` says otherwise than `ours`, by name; the value is `None` where `base` lacks the name.
/// Marks of uploads and of acts are left out.
pub fn said_otherwise(base: &Attrs, ours: &Attrs) -> BTreeMap<String, Option<String>> {
    let names: BTreeSet<&String> = base.user.keys().chain(ours.user.keys()).collect();
    let names = names.into_iter().filter(|name| !matches!(name.as_str(), UPLOAD | ACT));
    let differs = names.filter(|name| base.user.get(*name) != ours.user.get(*name));
    differs.map(|name| (name.clone(), base.user.get(name).cloned())).collect()
}

/// Returns the metadata whose difference to `ours` was told by `said_otherwise`.
pub fn with_otherwise(ours: &Attrs, said: BTreeMap<String, Option<String>>) -> Attrs {
    let mut base = ours.clone();
    for (name, value) in said {
        match value {
            Some(value) => base.user.insert(name, value),
            None => base.user.remove(&name),
        };
    }
    base
}

/// Tells whether both say the same of a file, whichever upload brought them and when.
pub fn differ_in_time_only(a: &Attrs, b: &Attrs) -> bool {
    let timeless = |attrs: &Attrs| {
        let mut attrs = attrs.clone();
        attrs.user.retain(|name, _| !matches!(name.as_str(), "mtime" | "ctime" | "atime" | UPLOAD | ACT));
        attrs
    };
    timeless(a) == timeless(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(all: &[(&str, &str)]) -> Attrs {
        let user = all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Attrs { user, ..Attrs::default() }
    }

    #[test]
    fn what_the_object_said_comes_back_from_the_difference() {
        let base = attrs(&[("mode", "1"), ("uid", "5"), ("mtime", "1")]);
        let ours = attrs(&[("mode", "2"), ("uid", "5"), ("new", "n")]);
        let said = said_otherwise(&base, &ours);
        assert_eq!(said.len(), 3);
        assert_eq!(with_otherwise(&ours, said), base);
    }

    #[test]
    fn what_others_set_is_kept_and_what_was_set_here_too() {
        let base = attrs(&[("mode", "1"), ("uid", "5"), ("mtime", "1"), ("note", "x"), (UPLOAD, "a")]);
        let theirs = attrs(&[("mode", "2"), ("uid", "6"), ("mtime", "2"), ("new", "n"), (UPLOAD, "b")]);
        let mut ours = attrs(&[("mode", "1"), ("uid", "7"), ("mtime", "9"), ("note", "x"), (UPLOAD, "a")]);
        assert!(merge_attrs(&base, &theirs, &mut ours));
        assert_eq!(ours, attrs(&[("mode", "2"), ("uid", "7"), ("mtime", "9"), ("new", "n"), (UPLOAD, "a")]));
        // Xattrs stand in one text, and each is somebody's.
        let xattrs = |all: &[&str]| {
            let mut attrs = Attrs::default();
            attrs.set_xattrs(&all.iter().map(|name| ((*name).to_owned(), b"v".to_vec())).collect());
            attrs
        };
        let mut ours = xattrs(&["a", "here"]);
        assert!(merge_attrs(&xattrs(&["a", "gone"]), &xattrs(&["a", "gone", "there"]), &mut ours));
        assert_eq!(ours, xattrs(&["a", "here", "there"]));
        let mut ours = attrs(&[("mode", "1")]);
        let same = attrs(&[("mode", "1"), (UPLOAD, "c")]);
        assert!(!merge_attrs(&attrs(&[("mode", "1")]), &same, &mut ours), "only another upload of the same");
    }
}
