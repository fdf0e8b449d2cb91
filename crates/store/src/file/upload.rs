//! Multipart uploads: a folder each under `.%windlass/uploads`, named by 32 random hex digits. In it:
//!
//! | file | holds |
//! |---|---|
//! | `about` | JSON `{"format":1,"key":…,"content_type":…,"user":{…}}`: what the upload is for |
//! | `1` … `10000` | the bytes of that part, with its etag as every object has it |
//!
//! Parts are not synced one by one: only the object that they become is durable.

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::Inner;
use super::key::{HIDDEN, KeyPath};
use super::object::{Object, each_piece, etag_of, read_at, write_at, write_body, write_note};
use super::root::{absent_ok, open_at, open_dir};
use crate::{Attrs, Etag, Part, Put, When};
use windlass_base::{Error, Kind, Result};

/// Least size that S3 demands of every part but the last.
const PART_MIN: u64 = 5 << 20;
const PARTS_MAX: u32 = 10_000;
const ABOUT: &str = "about";
const ABOUT_MAX: usize = 1 << 20;

/// The file that says what an upload is for.
#[derive(Serialize, Deserialize)]
struct About {
    format: u32,
    key: String,
    content_type: Option<String>,
    user: BTreeMap<String, String>,
}

fn folder(upload: &str) -> String {
    format!("{HIDDEN}/uploads/{upload}")
}

impl Inner {
    fn no_upload(&self, key: &str, upload: &str) -> Error {
        Error::new(
            Kind::NotFound,
            format!("store {}: {key:?} has no upload {upload:?}: it ended or was aborted", self.root.url),
        )
    }

    fn upload_failed(&self, key: &str, upload: &str, e: Errno) -> Error {
        if e == Errno::NOENT { self.no_upload(key, upload) } else { self.unwritten(key, e) }
    }

    pub(super) fn upload_create(&self, key: &str, attrs: &Attrs) -> Result<String> {
        KeyPath::of(key)?;
        let root = self.root.open()?;
        self.root.hidden_dir(&root, "uploads")?;
        let upload = format!("{:032x}", self.root.rt.random128());
        let about = About {
            format: 1,
            key: key.to_owned(),
            content_type: attrs.content_type.clone(),
            user: attrs.user.clone(),
        };
        let bytes = serde_json::to_vec(&about).expect("strings become JSON");
        let make = || -> rustix::io::Result<OwnedFd> {
            self.root.make_dir(&root, &root, &folder(&upload))?;
            open_dir(&root, &folder(&upload))
        };
        let dir = make().map_err(|e| self.unwritten(key, e))?;
        let mut temp = self.root.temp()?;
        write_at(&temp.file, &bytes, 0)
            .and_then(|()| temp.install(&dir, ABOUT))
            .map_err(|e| self.unwritten(key, e))?;
        Ok(upload)
    }

    fn about(&self, root: &OwnedFd, upload: &str) -> rustix::io::Result<About> {
        // Whatever isn't one of our names must not lead out of the folder.
        if upload.len() != 32 || !upload.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Errno::NOENT);
        }
        let path = format!("{}/{ABOUT}", folder(upload));
        let file = open_at(root, &path, rustix::fs::OFlags::RDONLY)?;
        let bytes = read_at(&file, 0, ABOUT_MAX)?;
        serde_json::from_slice(&bytes).ok().filter(|a: &About| a.format == 1).ok_or(Errno::NOENT)
    }

    fn upload_for(&self, root: &OwnedFd, key: &str, upload: &str) -> Result<Attrs> {
        let about = self.about(root, upload).map_err(|e| self.upload_failed(key, upload, e))?;
        if about.key != key {
            return Err(self.no_upload(key, upload));
        }
        Ok(Attrs { content_type: about.content_type, user: about.user, ..Attrs::default() })
    }

    fn check_number(number: u32) -> Result<()> {
        if (1..=PARTS_MAX).contains(&number) {
            return Ok(());
        }
        Err(Error::new(Kind::Invalid, format!("part number {number} is not within 1..={PARTS_MAX}")))
    }

    pub(super) fn part_put(&self, key: &str, upload: &str, number: u32, body: &[u8]) -> Result<Part> {
        Self::check_number(number)?;
        let root = self.root.open()?;
        self.upload_for(&root, key, upload)?;
        let mut temp = self.root.temp()?;
        let etag = etag_of(xxh3_128(body));
        let mut go = || -> rustix::io::Result<()> {
            write_body(&temp.file, body)?;
            write_note(&temp.file, &etag, &Attrs::default())?;
            let dir = open_dir(&root, &folder(upload))?;
            temp.install(dir, &number.to_string())
        };
        go().map_err(|e| self.upload_failed(key, upload, e))?;
        Ok(Part { number, etag })
    }

    pub(super) fn part_copy(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        from: (&str, Option<&Etag>),
        range: (u64, u64),
    ) -> Result<Part> {
        let (object, ..) = self.source(from.0, from.1)?.ok_or_else(|| {
            Error::new(Kind::Refused, format!("object {:?} has changed since it was looked at", from.0))
        })?;
        let (offset, len) = range;
        if offset.checked_add(len).is_none_or(|end| end > object.size()) || len == 0 {
            return Err(Error::new(
                Kind::Invalid,
                format!("bytes {offset}+{len} are not within {:?}, which has {}", from.0, object.size()),
            ));
        }
        Self::check_number(number)?;
        let root = self.root.open()?;
        self.upload_for(&root, key, upload)?;
        let mut temp = self.root.temp()?;
        let mut hash = Xxh3::new();
        let mut go = || -> rustix::io::Result<Etag> {
            append(&object, offset, len, &temp.file, 0, &mut hash)?;
            let etag = etag_of(hash.digest128());
            write_note(&temp.file, &etag, &Attrs::default())?;
            let dir = open_dir(&root, &folder(upload))?;
            temp.install(dir, &number.to_string())?;
            Ok(etag)
        };
        let etag = go().map_err(|e| self.upload_failed(key, upload, e))?;
        Ok(Part { number, etag })
    }

    fn open_parts(&self, root: &OwnedFd, key: &str, upload: &str, parts: &[Part]) -> Result<Vec<Object>> {
        let bad = |part: &Part, why: &str| {
            Err(Error::new(Kind::Invalid, format!("part {} of {key:?} {why}", part.number)))
        };
        let mut out = Vec::with_capacity(parts.len());
        for (at, part) in parts.iter().enumerate() {
            let path = format!("{}/{}", folder(upload), part.number);
            let found = self.root.open_path(root, &path).map_err(|e| self.upload_failed(key, upload, e))?;
            let Some(object) = found else { return bad(part, "was not uploaded") };
            if self.root.describe(&object, key)?.etag != part.etag {
                return bad(part, "is another one than was uploaded");
            }
            if at + 1 < parts.len() && object.size() < PART_MIN {
                return bad(part, "is smaller than 5 MiB and not the last one");
            }
            if at > 0 && parts[at - 1].number >= part.number {
                return bad(part, "is out of order");
            }
            out.push(object);
        }
        if out.is_empty() { Err(Error::new(Kind::Invalid, format!("{key:?} has no parts"))) } else { Ok(out) }
    }

    pub(super) fn upload_complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        when: &When,
    ) -> Result<Put> {
        let path = KeyPath::of(key)?;
        let root = self.root.open()?;
        let attrs = self.upload_for(&root, key, upload)?;
        let objects = self.open_parts(&root, key, upload, parts)?;
        let temp = self.root.temp()?;
        let mut hash = Xxh3::new();
        let mut go = || -> rustix::io::Result<Etag> {
            let mut end = 0;
            for object in &objects {
                append(object, 0, object.size(), &temp.file, end, &mut hash)?;
                end += object.size();
            }
            let etag = etag_of(hash.digest128());
            self.root.seal(&temp.file, &etag, &attrs)?;
            Ok(etag)
        };
        let etag = go().map_err(|e| self.unwritten(key, e))?;
        let out = self.commit(&path, temp, etag, when)?;
        if matches!(out, Put::Stored(_)) {
            // The object is there; what can't be cleared away is an upload that someone may abort.
            let _ = self.remove_upload(&root, upload);
        }
        Ok(out)
    }

    fn remove_upload(&self, root: &OwnedFd, upload: &str) -> rustix::io::Result<()> {
        let path = folder(upload);
        let dir = open_dir(root, &path)?;
        // What the upload is for goes first: after that no part is added.
        absent_ok(unlinkat(&dir, ABOUT, AtFlags::empty()))?;
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                absent_ok(unlinkat(&dir, entry.file_name(), AtFlags::empty()))?;
            }
        }
        unlinkat(root, path.as_str(), AtFlags::REMOVEDIR)
    }

    pub(super) fn upload_abort(&self, key: &str, upload: &str) -> Result<()> {
        let root = self.root.open()?;
        match self.about(&root, upload) {
            Ok(about) if about.key == key => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(self.unwritten(key, e)),
        }
        absent_ok(self.remove_upload(&root, upload)).map_err(|e| self.upload_failed(key, upload, e))
    }

    pub(super) fn upload_list(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let root = self.root.open()?;
        let failed = |e| self.root.failed("listing uploads", e);
        let dir = match open_dir(&root, &format!("{HIDDEN}/uploads")).and_then(Dir::new) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let mut out = Vec::new();
        for entry in dir {
            let entry = entry.map_err(failed)?;
            let upload = entry.file_name().to_string_lossy().into_owned();
            match self.about(&root, &upload) {
                Ok(about) if about.key.starts_with(prefix) => out.push((about.key, upload)),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        out.sort();
        Ok(out)
    }
}

/// Copies a range to the end of a file and adds it to the hash.
fn append(
    from: &Object,
    offset: u64,
    len: u64,
    to: &OwnedFd,
    mut end: u64,
    hash: &mut Xxh3,
) -> rustix::io::Result<()> {
    let before = end;
    each_piece(&from.file, offset, len, |piece| {
        hash.update(piece);
        write_at(to, piece, end)?;
        end += piece.len() as u64;
        Ok(())
    })?;
    // Cut short by another program meanwhile.
    if end - before == len { Ok(()) } else { Err(Errno::IO) }
}
