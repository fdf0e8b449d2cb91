//! One object as a file: its bytes, and its description in the extended attribute `user.windlass.object`:
//!
//! ```text
//! 1 ETAG SIZE MTIME INODE        version; 32 hex digits; bytes; nanoseconds since 1970; number: one line, decimal
//! {"content_type":…,"user":{…}}  the object's attributes as JSON; absent when there are none
//! ```
//!
//! The etag is the xxh3-128 of the contents. It counts only while size, mtime and inode are those of the file:
//! other programs may edit, replace or copy files, attribute and all. Then it is computed anew and kept. A file of
//! others that is larger than `HASH_MAX` is not read for that: its etag is the hash of what tells it from its other
//! states, its change time among it, which nobody can set back.

use rustix::buffer::spare_capacity;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{OFlags, Stat, XattrFlags, fcntl_getfl, fcntl_setfl, fgetxattr, fsetxattr, fstat};
use rustix::io::{Errno, pread, pwrite};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::change_stamp::Stamp;
use super::key::KeyPath;
use super::root::{Root, is_file, open_at};
use crate::{Attrs, Etag, Head};
use windlass_base::rt::direct;
use windlass_base::{Error, Kind, Result};

const XATTR: &str = "user.windlass.object";
const BUFFER: usize = 1 << 20;
/// Bytes of a body from which on it is written past the page cache.
const DIRECT_MIN: usize = 1 << 20;
/// A file changed this recently may change again without its mtime moving; its etag isn't kept yet.
const RACY_MS: u64 = 2000;
/// Size in bytes above which files of other programs are not read for their etag.
const HASH_MAX: u64 = 64 << 20;
/// Number of times that a file which changes under us is read for its etag.
const TRIES: usize = 3;

pub(super) fn etag_of(hash: u128) -> Etag {
    Etag(format!("{hash:032x}"))
}

/// Returns the etag of a file that is too large to be read for it.
fn etag_of_state(stat: &Stat) -> Etag {
    let changed = (stat.st_ctime, stat.st_ctime_nsec);
    etag_of(xxh3_128(format!("{:?} {changed:?} {}", Stamp::of(stat), stat.st_dev).as_bytes()))
}

/// The attributes' form on disk.
#[derive(Serialize, Deserialize, Default)]
struct Kept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    user: BTreeMap<String, String>,
}

fn text_of(etag: &Etag, stamp: Stamp, attrs: &Attrs) -> String {
    let mut text = format!("1 {} {} {} {}", etag.0, stamp.size, stamp.mtime_ns, stamp.inode);
    if *attrs != Attrs::default() {
        let kept = Kept { content_type: attrs.content_type.clone(), user: attrs.user.clone() };
        text.push('\n');
        text.push_str(&serde_json::to_string(&kept).expect("strings become JSON"));
    }
    text
}

/// Returns the noted etag if it still counts, and the attributes. What can't be read counts as not there.
fn read_text(text: &str, stamp: Stamp) -> (Option<Etag>, Attrs) {
    let (line, json) = text.split_once('\n').unwrap_or((text, "{}"));
    let kept: Kept = serde_json::from_str(json).unwrap_or_default();
    let attrs = Attrs { content_type: kept.content_type, user: kept.user, ..Attrs::default() };
    let mut words = line.split(' ');
    let (version, etag) = (words.next(), words.next().unwrap_or_default());
    let counts = version == Some("1")
        && etag.len() == 32
        && words.eq([stamp.size.to_string(), stamp.mtime_ns.to_string(), stamp.inode.to_string()]);
    (counts.then(|| Etag(etag.to_owned())), attrs)
}

fn read_xattr(file: &OwnedFd) -> rustix::io::Result<String> {
    let mut small = [0u8; 1024];
    let bytes = match fgetxattr(file, XATTR, &mut small[..]) {
        Ok(n) => small[..n].to_vec(),
        Err(Errno::NODATA) => Vec::new(),
        Err(Errno::RANGE) => {
            let mut large = Vec::with_capacity(64 << 10);
            fgetxattr(file, XATTR, spare_capacity(&mut large))?;
            large
        }
        Err(e) => return Err(e),
    };
    Ok(String::from_utf8(bytes).unwrap_or_default())
}

/// Notes etag and attributes on a file that was just written.
pub(super) fn write_note(file: &OwnedFd, etag: &Etag, attrs: &Attrs) -> rustix::io::Result<()> {
    let text = text_of(etag, Stamp::of(&fstat(file)?), attrs);
    match fsetxattr(file, XATTR, text.as_bytes(), XattrFlags::empty()) {
        // A small one always fits, unless the disk is full: these are about the attributes' size.
        Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) if text.len() > 1024 => Err(Errno::TOOBIG),
        other => other,
    }
}

/// Reads up to `len` bytes at `offset`; fewer only at the file's end.
pub(super) fn read_at(file: impl AsFd, offset: u64, len: usize) -> rustix::io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        let at = offset + out.len() as u64;
        match pread(&file, spare_capacity(&mut out), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    // The capacity may have been larger than asked for.
    out.truncate(len);
    Ok(out)
}

pub(super) fn write_at(file: impl AsFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match pwrite(&file, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes a new file's contents, large ones past the page cache: who put an object seldom reads it from here soon.
pub(super) fn write_body(file: &OwnedFd, body: &[u8]) -> rustix::io::Result<()> {
    let whole = if body.len() < DIRECT_MIN { 0 } else { body.len() / direct::ALIGN * direct::ALIGN };
    let written = if whole > 0 { write_direct(file, &body[..whole])? } else { 0 };
    write_at(file, &body[written..], written as u64)
}

/// Writes the bytes past the page cache. Returns how many were written: none where the filesystem refuses.
fn write_direct(file: &OwnedFd, pages: &[u8]) -> rustix::io::Result<usize> {
    let flags = fcntl_getfl(file)?;
    if fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
        return Ok(0);
    }
    let done = direct::write(file, 0, &[pages]);
    fcntl_setfl(file, flags)?;
    match done {
        Ok(()) => Ok(pages.len()),
        Err(Errno::INVAL) => Ok(0),
        Err(e) => Err(e),
    }
}

/// Hands the bytes of a range to `take`, piece by piece.
pub(super) fn each_piece(
    file: impl AsFd,
    mut offset: u64,
    mut len: u64,
    mut take: impl FnMut(&[u8]) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    while len > 0 {
        let piece = read_at(&file, offset, len.min(BUFFER as u64) as usize)?;
        if piece.is_empty() {
            break;
        }
        take(&piece)?;
        offset += piece.len() as u64;
        len -= piece.len() as u64;
    }
    Ok(())
}

/// A file that is open, and what it was when it was opened.
#[derive(Debug)]
pub(super) struct Object {
    pub file: OwnedFd,
    pub stat: Stat,
}

impl Object {
    pub fn size(&self) -> u64 {
        self.stat.st_size as u64
    }

    /// Tells whether nobody edited the file since it was opened.
    pub fn is_unchanged(&self) -> rustix::io::Result<bool> {
        Ok(Stamp::of(&fstat(&self.file)?) == Stamp::of(&self.stat))
    }
}

impl Root {
    /// Opens a path if it is an object; `None` when nothing, or something else, has that path.
    pub(super) fn open_path(&self, root: &OwnedFd, path: &str) -> rustix::io::Result<Option<Object>> {
        // Without NONBLOCK a named pipe would hang us.
        match open_at(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW) {
            Ok(file) => {
                let stat = fstat(&file)?;
                Ok(is_file(&stat).then_some(Object { file, stat }))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Tells whether a path is an object's; needs no right to read it.
    pub(super) fn has_file(&self, root: &OwnedFd, path: &str) -> rustix::io::Result<bool> {
        match open_at(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(file) => Ok(is_file(&fstat(&file)?)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(super) fn open_object(&self, root: &OwnedFd, path: &KeyPath) -> Result<Option<Object>> {
        let (plain, aside) = (path.path(), path.displaced());
        // An object may move between its two places while we look: the plain one is looked at twice.
        for place in [&plain, &aside, &plain] {
            let found = self.open_path(root, place);
            let found = found.map_err(|e| self.failed(&format!("opening {:?}", path.key()), e))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Notes etag and attributes on a file that was just written, and makes it durable.
    pub(super) fn seal(&self, file: &OwnedFd, etag: &Etag, attrs: &Attrs) -> rustix::io::Result<()> {
        write_note(file, etag, attrs)?;
        if *attrs == Attrs::default() {
            // A lost etag is computed again; lost attributes would be lost.
            rustix::fs::fdatasync(file)
        } else {
            rustix::fs::fsync(file)
        }
    }

    pub(super) fn describe(&self, object: &Object, key: &str) -> Result<Head> {
        let failed = |e| self.failed(&format!("reading {key:?}"), e);
        let mut stamp = Stamp::of(&object.stat);
        let text = read_xattr(&object.file).map_err(failed)?;
        let (mut etag, attrs) = read_text(&text, stamp);
        if etag.is_none() {
            let device = (object.stat.st_dev, stamp.inode);
            etag = self
                .remembered
                .lock()
                .get(&device)
                .filter(|(s, _)| *s == stamp)
                .map(|(_, etag)| etag.clone());
        }
        let etag = match etag {
            Some(etag) => etag,
            None => {
                let (now, etag) = self.compute(object, key)?;
                stamp = now;
                self.note(object, stamp, &etag, &attrs);
                etag
            }
        };
        Ok(Head {
            size: stamp.size,
            etag,
            modified_ms: Some(stamp.modified_ms()),
            attrs,
            version: None,
            storage_class: None,
            restored: None,
            checksum: None,
        })
    }

    fn compute(&self, object: &Object, key: &str) -> Result<(Stamp, Etag)> {
        let failed = |e| self.failed(&format!("reading {key:?}"), e);
        for _ in 0..TRIES {
            let stat = fstat(&object.file).map_err(failed)?;
            let before = Stamp::of(&stat);
            if before.size > HASH_MAX {
                return Ok((before, etag_of_state(&stat)));
            }
            let mut hash = Xxh3::new();
            let add = |piece: &[u8]| {
                hash.update(piece);
                Ok(())
            };
            each_piece(&object.file, 0, before.size, add).map_err(failed)?;
            if Stamp::of(&fstat(&object.file).map_err(failed)?) == before {
                return Ok((before, etag_of(hash.digest128())));
            }
        }
        Err(Error::new(
            Kind::Unavailable,
            format!("store {}: {key:?} is being changed by another program; try again", self.url),
        ))
    }

    fn note(&self, object: &Object, stamp: Stamp, etag: &Etag, attrs: &Attrs) {
        let age_ms = self.rt.wall_ms().saturating_sub(stamp.modified_ms());
        if age_ms < RACY_MS {
            return;
        }
        let text = text_of(etag, stamp, attrs);
        if fsetxattr(&object.file, XATTR, text.as_bytes(), XattrFlags::empty()).is_err() {
            let device = (object.stat.st_dev, stamp.inode);
            self.remembered.lock().put(device, (stamp, etag.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { size: 5, mtime_ns: 1_700_000_000_123_456_789, inode: 42 };

    #[test]
    fn the_attribute_has_its_golden_form() {
        let etag = Etag("00112233445566778899aabbccddeeff".into());
        let mut attrs = Attrs::default();
        assert_eq!(
            text_of(&etag, STAMP, &attrs),
            "1 00112233445566778899aabbccddeeff 5 1700000000123456789 42"
        );
        attrs.user.insert("mode".into(), "33188".into());
        attrs.content_type = Some("text/plain".into());
        let text = text_of(&etag, STAMP, &attrs);
        assert!(
            text.ends_with("\n{\"content_type\":\"text/plain\",\"user\":{\"mode\":\"33188\"}}"),
            "{text}"
        );
        assert_eq!(read_text(&text, STAMP), (Some(etag), attrs.clone()));
        for other in [Stamp { size: 6, ..STAMP }, Stamp { mtime_ns: 7, ..STAMP }, Stamp { inode: 8, ..STAMP }]
        {
            assert_eq!(read_text(&text, other), (None, attrs.clone()));
        }
        for bad in ["", "1", "1 x 5 1700000000123456789 42", "2 00112233445566778899aabbccddeeff 5", "\n{"] {
            assert_eq!(read_text(bad, STAMP), (None, Attrs::default()));
        }
    }
}
