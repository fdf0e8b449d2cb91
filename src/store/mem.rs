//! A bucket in memory, for tests and the simulation. Everything happens at one instant under one lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128;

use super::{Attrs, Bucket, ByteRange, Cause, Etag, Found, Head, List, Listed, Page, Part, Put, Store, When};
use crate::base::{Error, Kind, Result};

#[derive(Clone, Debug)]
struct Object {
    body: Bytes,
    head: Head,
}

#[derive(Debug, Default)]
struct Upload {
    key: String,
    attrs: Attrs,
    parts: BTreeMap<u32, Bytes>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
}

/// See the module. Clones of the `Arc` share the contents.
#[derive(Debug)]
pub struct MemStore {
    url: String,
    state: Mutex<State>,
    /// Also the modification time, so that it grows with every change.
    changes: AtomicU64,
}

fn etag_of(body: &[u8]) -> Etag {
    Etag(format!("{:032x}", xxh3_128(body)))
}

pub(super) fn slice_of(key: &str, body: &Bytes, range: ByteRange) -> Result<(u64, Bytes)> {
    let size = body.len() as u64;
    let (from, to) = match range {
        ByteRange::Whole { max } if size > max => return Err(too_large(key, size, max)),
        ByteRange::Whole { .. } => (0, size),
        ByteRange::At { offset, len } => (offset.min(size), offset.saturating_add(len).min(size)),
        ByteRange::Last(n) => (size.saturating_sub(n), size),
    };
    Ok((from, body.slice(from as usize..to as usize)))
}

/// The error for an object that is larger than its reader allows.
pub(super) fn too_large(key: &str, size: u64, max: u64) -> Error {
    Error::new(Kind::Invalid, format!("object {key} has {size} bytes where at most {max} are expected"))
}

fn allows(when: &When, current: Option<&Etag>) -> bool {
    match when {
        When::Always => true,
        When::Absent => current.is_none(),
        When::Matches(etag) => current == Some(etag),
    }
}

fn gone(key: &str) -> Error {
    Error::new(Kind::NotFound, format!("object {key} is not there"))
}

impl MemStore {
    pub fn new(name: &str) -> Arc<MemStore> {
        Arc::new(MemStore { url: format!("mem:{name}"), state: Mutex::default(), changes: AtomicU64::new(1) })
    }

    /// The two change places, as two folders that are renamed.
    pub fn swap(&self, other: &MemStore) {
        let theirs = std::mem::take(&mut *other.state.lock());
        let ours = std::mem::replace(&mut *self.state.lock(), theirs);
        *other.state.lock() = ours;
    }

    /// Forgets everything, as a wiped bucket would.
    pub fn wipe(&self) {
        *self.state.lock() = State::default();
    }

    /// Every key, for tests that look from outside.
    pub fn keys(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }

    /// Changes an object's bytes behind everyone's back, keeping its etag: bit rot. False when it isn't there.
    pub fn rot(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state.lock();
        let Some(object) = state.objects.get_mut(key) else { return false };
        let mut body = object.body.to_vec();
        change(&mut body);
        object.head.size = body.len() as u64;
        object.body = body.into();
        true
    }

    fn store(&self, state: &mut State, key: &str, body: Bytes, attrs: &Attrs, when: &When) -> Put {
        if !allows(when, state.objects.get(key).map(|o| &o.head.etag)) {
            return Put::Refused;
        }
        let etag = etag_of(&body);
        let head = Head {
            size: body.len() as u64,
            etag: etag.clone(),
            modified_ms: self.changes.fetch_add(1, Ordering::Relaxed),
            attrs: attrs.clone(),
            version: None,
            storage_class: None,
        };
        state.objects.insert(key.to_owned(), Object { body, head });
        Put::Stored(etag)
    }
}

#[async_trait]
impl Store for MemStore {
    fn url(&self) -> &str {
        &self.url
    }
    async fn get(&self, key: &str, range: ByteRange, _: Cause) -> Result<Option<Found>> {
        let Some(object) = self.state.lock().objects.get(key).cloned() else { return Ok(None) };
        let (offset, body) = slice_of(key, &object.body, range)?;
        Ok(Some(Found { body, offset, head: object.head }))
    }
    async fn head(&self, key: &str, _: Cause) -> Result<Option<Head>> {
        Ok(self.state.lock().objects.get(key).map(|o| o.head.clone()))
    }
    async fn put(&self, key: &str, body: Bytes, when: When, cause: Cause) -> Result<Put> {
        self.put_with(key, body, &Attrs::default(), when, cause).await
    }
    async fn delete(&self, keys: &[String], _: Cause) -> Result<()> {
        let mut state = self.state.lock();
        for key in keys {
            state.objects.remove(key);
        }
        Ok(())
    }
    async fn list(&self, list: &List, _: Cause) -> Result<Page> {
        let state = self.state.lock();
        let mut page = Page::default();
        for (key, object) in state.objects.range(list.prefix.clone()..) {
            let Some(tail) = key.strip_prefix(&list.prefix) else { break };
            let group =
                tail.find('/').filter(|_| list.delimited).map(|at| &key[..list.prefix.len() + at + 1]);
            let name = group.unwrap_or(key);
            let seen = |after: &String| name <= after.as_str();
            if list.after.as_ref().is_some_and(seen)
                || group.is_some() && page.prefixes.last().is_some_and(seen)
            {
                continue;
            }
            if page.objects.len() + page.prefixes.len() >= list.max.max(1) {
                let last = page.objects.last().map(|o| &o.key).max(page.prefixes.last());
                page.next = last.cloned();
                break;
            }
            match group {
                Some(group) => page.prefixes.push(group.to_owned()),
                None => page.objects.push(Listed {
                    key: key.clone(),
                    size: object.head.size,
                    etag: object.head.etag.clone(),
                    modified_ms: object.head.modified_ms,
                }),
            }
        }
        Ok(page)
    }
}

#[async_trait]
impl Bucket for MemStore {
    async fn put_with(&self, key: &str, body: Bytes, attrs: &Attrs, when: When, _: Cause) -> Result<Put> {
        Ok(self.store(&mut self.state.lock(), key, body, attrs, &when))
    }
    async fn copy(
        &self,
        from: &str,
        to: &str,
        from_match: Option<&Etag>,
        attrs: Option<&Attrs>,
        when: When,
        _: Cause,
    ) -> Result<Put> {
        let mut state = self.state.lock();
        let source = state.objects.get(from).cloned().ok_or_else(|| gone(from))?;
        if from_match.is_some_and(|m| *m != source.head.etag) {
            return Ok(Put::Refused);
        }
        Ok(self.store(&mut state, to, source.body, attrs.unwrap_or(&source.head.attrs), &when))
    }
    async fn delete_same(&self, objects: &[(String, Etag)], _: Cause) -> Result<bool> {
        let mut state = self.state.lock();
        let mut all = true;
        for (key, etag) in objects {
            match state.objects.get(key) {
                Some(object) if object.head.etag != *etag => all = false,
                _ => drop(state.objects.remove(key)),
            }
        }
        Ok(all)
    }
    async fn multipart_create(&self, key: &str, attrs: &Attrs, _: Cause) -> Result<String> {
        let id = format!("u{:08}", self.changes.fetch_add(1, Ordering::Relaxed));
        let upload = Upload { key: key.to_owned(), attrs: attrs.clone(), parts: BTreeMap::new() };
        self.state.lock().uploads.insert(id.clone(), upload);
        Ok(id)
    }
    async fn multipart_put(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        body: Bytes,
        _: Cause,
    ) -> Result<Part> {
        let mut state = self.state.lock();
        let etag = etag_of(&body);
        let upload = state.uploads.get_mut(upload).filter(|u| u.key == key).ok_or_else(|| gone(upload))?;
        upload.parts.insert(number, body);
        Ok(Part { number, etag })
    }
    async fn multipart_copy(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        from: &str,
        from_match: Option<&Etag>,
        offset: u64,
        len: u64,
        cause: Cause,
    ) -> Result<Part> {
        let source = self.state.lock().objects.get(from).cloned().ok_or_else(|| gone(from))?;
        if from_match.is_some_and(|m| *m != source.head.etag) {
            return Err(Error::new(
                Kind::Refused,
                format!("object {from} has changed since it was looked at"),
            ));
        }
        let (_, body) = slice_of(from, &source.body, ByteRange::At { offset, len })?;
        self.multipart_put(key, upload, number, body, cause).await
    }
    async fn multipart_complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        when: When,
        _: Cause,
    ) -> Result<Put> {
        let mut state = self.state.lock();
        let found = state.uploads.get(upload).filter(|u| u.key == key).ok_or_else(|| gone(upload))?;
        let mut body = BytesMut::new();
        for (at, part) in parts.iter().enumerate() {
            let bytes = found.parts.get(&part.number).filter(|b| etag_of(b) == part.etag);
            let bytes = bytes.ok_or_else(|| {
                Error::new(Kind::Invalid, format!("upload {upload} has no such part {}", part.number))
            })?;
            if at + 1 < parts.len() && bytes.len() < 5 << 20 {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("part {} of {key} is smaller than 5 MiB", part.number),
                ));
            }
            body.extend_from_slice(bytes);
        }
        let attrs = found.attrs.clone();
        let out = self.store(&mut state, key, body.freeze(), &attrs, &when);
        if matches!(out, Put::Stored(_)) {
            state.uploads.remove(upload);
        }
        Ok(out)
    }
    async fn multipart_abort(&self, _: &str, upload: &str, _: Cause) -> Result<()> {
        self.state.lock().uploads.remove(upload);
        Ok(())
    }
    async fn multipart_list(&self, prefix: &str, _: Cause) -> Result<Vec<(String, String)>> {
        let state = self.state.lock();
        let below = state.uploads.iter().filter(|(_, u)| u.key.starts_with(prefix));
        Ok(below.map(|(id, u)| (u.key.clone(), id.clone())).collect())
    }
}
