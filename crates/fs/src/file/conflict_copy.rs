//! Conflict copies: a file that can't become its object is stored under another name, which says why.
//!
//! `NAME.conflict-20261120T091500Z-1a2b3c`: somebody else changed the object. `NAME.unfinished-…`: the daemon died while
//! a whole object was being written anew. Where bytes of an object that is gone were the file's, those of the object
//! that is there now stand; `windlass-written` in the metadata says then which bytes are ours.

use std::fmt::Write as _;
use std::ops::Range;

use super::context::MountContext;
use super::upload::{Snapshot, upload};
use crate::object::{Attributes, Base, KEY_MAX, Meta as _, Ns, S_IFMT, Shown, Source, show};
use windlass_base::{Error, Kind, Result, utc};
use windlass_store::{Attrs, Head, When};

pub const CONFLICT: &str = "conflict";
pub const UNFINISHED: &str = "unfinished";
const WRITTEN: &str = "windlass-written";
/// Length from which on the list of written ranges is cut off: metadata have little room.
const WRITTEN_MAX: usize = 400;
const ATTEMPTS: usize = 4;

/// Returns the name for a file that couldn't have its key, in the same directory, with as much of the old
/// name as there is room for. A key that is nearly as long as keys can be leaves no room for the time.
fn name(key: &str, word: &str, wall_ms: u64, random: u64) -> Result<String> {
    let at: String = utc::show(wall_ms).chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let random = random & 0xff_ffff;
    let (dir, component) = key.split_at(key.rfind('/').map_or(0, |at| at + 1));
    let room = KEY_MAX - dir.len().min(KEY_MAX);
    let ends =
        [format!(".{word}-{at}-{random:06x}"), format!(".{word}-{random:06x}"), format!("{random:06x}")];
    let Some(end) = ends.into_iter().find(|end| end.len() < room) else {
        let said = format!("{key}: its directory's name leaves no room for a copy beside it");
        return Err(Error::new(Kind::Invalid, said));
    };
    // Escaped, no byte takes more than three.
    let shown = |len: usize| matches!(show(&format!("{}{end}", &component[..len])), Shown::Name(_));
    let mut len = component.len().min(room - end.len());
    while !component.is_char_boundary(len) || len > 0 && !shown(len) {
        len -= 1;
    }
    Ok(format!("{dir}{}{end}", &component[..len]))
}

/// Lists ranges as in `0-4095,8192-12287`, or as many of them as there is room for.
fn written(ranges: &[Range<u64>]) -> String {
    let mut out = String::new();
    for range in ranges {
        if out.len() > WRITTEN_MAX {
            out.push_str(",...");
            break;
        }
        let comma = if out.is_empty() { "" } else { "," };
        let _ = write!(out, "{comma}{}-{}", range.start, range.end - 1);
    }
    out
}

/// Gives a copy that has bytes of theirs to their owner, with no more rights than both objects allow.
fn for_whom_both_are(e: &MountContext, ours: &mut Attrs, theirs: &Head) {
    let theirs_is = Attributes::of_head(&e.options, false, theirs);
    let ours_is = Attributes::of(&e.options, false, theirs.size, None, Ns::default(), ours);
    ours.set_mode(ours_is.mode & (S_IFMT | theirs_is.mode));
    ours.set_id("uid", theirs_is.uid);
    ours.set_id("gid", theirs_is.gid);
    ours.set_xattrs(&theirs.attrs.xattrs());
}

/// Stores the file as a conflict copy, and returns its key. `None`: nothing was written that could be lost.
pub async fn store(e: &MountContext, file: &Snapshot, word: &str) -> Result<Option<String>> {
    if file.dirty.is_empty() {
        return Ok(None);
    }
    let name = name(&file.key, word, e.rt.wall_ms(), e.rt.random())?;
    let ours: Vec<_> = file.local.within(0..file.size).collect();
    let whole = ours.iter().map(|r| r.end - r.start).sum::<u64>() == file.size;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let mut kept = file.clone();
        kept.cuts = Default::default();
        (kept.key, kept.when, kept.source) = (name.clone(), When::Absent, None);
        if !whole {
            kept.attrs.user.insert(WRITTEN.into(), written(&ours));
            let theirs = e.remote.head(&file.key).await?;
            if let Some(theirs) = theirs.as_ref().filter(|_| file.base_len > 0) {
                for_whom_both_are(e, &mut kept.attrs, theirs);
            }
            let base = theirs.map(|h| Base { etag: h.etag, size: h.size });
            let theirs = base.as_ref().map_or(0, |b| b.size).min(file.base_len);
            kept.source = base.map(|base| Source { key: file.key.clone(), base });
            // What even theirs doesn't have reads as zeros.
            kept.local.insert(theirs..file.base_len);
            kept.base_len = theirs;
        }
        kept.dirty = kept.local.clone();
        match upload(e, &kept, None).await {
            Ok(_) => return Ok(Some(name)),
            // Theirs was changed again.
            Err(why) if why.is(Kind::Refused) && !whole => last = Some(why),
            Err(why) => return Err(why),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Kind::Internal, "no attempt was made")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ranges_are_readable() {
        let at = 1_795_166_100_999;
        let name = |key: &str| name(key, CONFLICT, at, 0x1a2b3c).unwrap();
        assert_eq!(name("d/f.txt"), "d/f.txt.conflict-20261120T091500Z-1a2b3c");
        assert_eq!(name(&"ä".repeat(512)), format!("{}.conflict-20261120T091500Z-1a2b3c", "ä".repeat(111)));
        let long = format!("{}/", vec!["p".repeat(200); 5].join("/"));
        assert_eq!(name(&format!("{long}nnnnnnnnnn")), format!("{long}nnn.conflict-1a2b3c"));
        let longer = format!("{}/", "p".repeat(1016));
        assert_eq!(name(&format!("{longer}name")), format!("{longer}n1a2b3c"));
        assert!(super::name(&format!("{}/a", "p".repeat(1020)), CONFLICT, at, 1).is_err());
        assert_eq!(written(&[0..4096, 8192..8193]), "0-4095,8192-8192");
        let many: Vec<_> = (0..1000).map(|i| i * 10..i * 10 + 1).collect();
        assert!(written(&many).len() < WRITTEN_MAX + 30);
    }
}
