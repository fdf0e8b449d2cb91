//! What changes objects: put, copy, delete. Bytes are written and made durable under a temporary name; then, under
//! the key's lock, the condition is judged and the file moved to its place.
//!
//! A reader can see an object some milliseconds before it would survive a power cut; the put's answer comes after. A
//! pool's reader that builds on what it sees makes that durable first.

use std::collections::BTreeSet;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, copy_file_range, ftruncate, unlinkat};
use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_128;

use super::Inner;
use super::key::KeyPath;
use super::key_lock::lock_key;
use super::object::{Object, each_piece, etag_of, write_at, write_body};
use super::object_place::Spot;
use super::root::absent_ok;
use super::temp_file::Temp;
use crate::{Attrs, Etag, Put, When};
use windlass_base::{Error, Kind, Result};

/// The last step of a put counts as one of so many bytes.
const LAST_STEP: u64 = 7 << 20;

impl Inner {
    /// Tells whether the condition holds right now.
    fn allows(&self, root: &OwnedFd, path: &KeyPath, when: &When) -> Result<bool> {
        if *when == When::Always {
            return Ok(true);
        }
        let Some(object) = self.root.open_object(root, path)? else { return Ok(*when == When::Absent) };
        match when {
            When::Matches(etag) => Ok(self.root.describe(&object, path.key())?.etag == *etag),
            _ => Ok(false),
        }
    }

    pub(super) fn unwritten(&self, key: &str, e: Errno) -> Error {
        if e == Errno::TOOBIG {
            return Error::new(
                Kind::Invalid,
                format!("the attributes of {key:?} are more than the filesystem of {} keeps", self.root.url),
            );
        }
        self.root.failed(&format!("writing {key:?}"), e)
    }

    pub(super) fn put(&self, key: &str, body: &[u8], attrs: &Attrs, when: &When) -> Result<Put> {
        let path = KeyPath::of(key)?;
        let step = self.puts.begin(&self.root.rt);
        // Spares writing what will be refused; the judgement that counts is made under the lock.
        if !self.allows(&self.root.open()?, &path, when)? {
            return Ok(Put::Refused);
        }
        step.next(0);
        let temp = self.root.temp()?;
        let etag = etag_of(xxh3_128(body));
        step.next(body.len() as u64);
        write_body(&temp.file, body)
            .and_then(|()| self.root.seal(&temp.file, &etag, attrs))
            .map_err(|e| self.unwritten(key, e))?;
        // The lock may be another process's for as long as that may have it, and the folders' sync may wait for the disk.
        step.next(LAST_STEP);
        self.commit(&path, temp, etag, when)
    }

    /// Moves a sealed file to its place if the condition holds.
    pub(super) fn commit(&self, path: &KeyPath, mut temp: Temp, etag: Etag, when: &When) -> Result<Put> {
        let put = |root: &OwnedFd, spot: &Spot| {
            if !self.allows(root, path, when)? {
                return Ok(Ok(None));
            }
            Ok(temp.install(spot.dir_of_object(), path.name()).map(|()| {
                if spot.displaced.is_none() {
                    // One that stood aside is replaced too. Left there by a crash it stays hidden behind this one.
                    let _ = unlinkat(root, path.displaced().as_str(), AtFlags::empty());
                }
                Some(())
            }))
        };
        match self.root.place(path, put)? {
            None => Ok(Put::Refused),
            Some(((), Ok(()))) => {
                self.root.note_settled(&temp.file);
                Ok(Put::Stored(etag))
            }
            Some(((), Err(e))) => Ok(Put::Unknown(self.unwritten(path.key(), e))),
        }
    }

    pub(super) fn source(
        &self,
        key: &str,
        from_match: Option<&Etag>,
    ) -> Result<Option<(Object, Etag, Attrs)>> {
        let found = self.root.open_object(&self.root.open()?, &KeyPath::of(key)?)?;
        let object = found.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("object {key:?} is not in store {}", self.root.url))
        })?;
        let head = self.root.describe(&object, key)?;
        Ok(from_match.is_none_or(|m| *m == head.etag).then_some((object, head.etag, head.attrs)))
    }

    pub(super) fn copy(
        &self,
        from: &str,
        to: &str,
        from_match: Option<&Etag>,
        attrs: Option<&Attrs>,
        when: &When,
    ) -> Result<Put> {
        let path = KeyPath::of(to)?;
        let Some((object, etag, kept)) = self.source(from, from_match)? else { return Ok(Put::Refused) };
        if !self.allows(&self.root.open()?, &path, when)? {
            return Ok(Put::Refused);
        }
        let temp = self.root.temp()?;
        copy_whole(&object, &temp.file)
            .and_then(|()| self.root.seal(&temp.file, &etag, attrs.unwrap_or(&kept)))
            .map_err(|e| self.unwritten(to, e))?;
        // Edited in place while it was copied: the etag would not be that of the copy.
        if !object.is_unchanged().map_err(|e| self.root.failed(&format!("reading {from:?}"), e))? {
            return Err(Error::new(
                Kind::Unavailable,
                format!("store {}: {from:?} changed while it was copied; try again", self.root.url),
            ));
        }
        self.commit(&path, temp, etag, when)
    }

    pub(super) fn delete(&self, keys: &[String]) -> Result<()> {
        self.delete_if(keys.iter().map(|key| (key, When::Always))).map(|_| ())
    }

    /// Deletes the objects that have these etags. False: some have other etags, and stay.
    pub(super) fn delete_same(&self, objects: &[(String, Etag)]) -> Result<bool> {
        self.delete_if(objects.iter().map(|(key, etag)| (key, When::Matches(etag.clone()))))
    }

    fn delete_if<'a>(&self, objects: impl Iterator<Item = (&'a String, When)>) -> Result<bool> {
        let root = self.root.open()?;
        let mut folders = BTreeSet::new();
        let mut all = true;
        for (key, when) in objects {
            let path = KeyPath::of(key)?;
            let failed = |e| self.root.failed(&format!("deleting {key:?}"), e);
            let there = [path.displaced(), path.path()].map(|place| self.root.has_file(&root, &place));
            let [aside, plain] = there.map(|there| there.map_err(failed));
            if !aside? && !plain? {
                continue;
            }
            let _lock = lock_key(&self.root, &root, key)?;
            if !self.allows(&root, &path, &when)? {
                all &= self.root.open_object(&root, &path)?.is_none();
                continue;
            }
            self.remove(&root, &path).map_err(failed)?;
            folders.insert(path.folder());
        }
        // The innermost first: one prune often makes the next one possible.
        for folder in folders.iter().rev() {
            self.root.prune(&root, folder).map_err(|e| self.root.failed("deleting", e))?;
        }
        Ok(all)
    }

    fn remove(&self, root: &OwnedFd, path: &KeyPath) -> rustix::io::Result<()> {
        // The one aside first: it must not come to light again behind the other.
        for place in [path.displaced(), path.path()] {
            if self.root.has_file(root, &place)? {
                absent_ok(unlinkat(root, place.as_str(), AtFlags::empty()))?;
            }
        }
        Ok(())
    }
}

/// Copies all bytes, sharing them where the filesystem can.
fn copy_whole(from: &Object, to: &OwnedFd) -> rustix::io::Result<()> {
    let (mut at, mut out) = (0, 0);
    while at < from.size() {
        match copy_file_range(&from.file, Some(&mut at), to, Some(&mut out), 1 << 30) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                ftruncate(to, 0)?;
                let mut end = 0;
                return each_piece(&from.file, 0, from.size(), |piece| {
                    write_at(to, piece, end)?;
                    end += piece.len() as u64;
                    Ok(())
                });
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
