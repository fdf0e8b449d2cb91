//! A bucket in memory, for tests and the simulation. Everything happens at one instant under one lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128;

use super::{
    Attrs, Bucket, ByteRange, Cause, Etag, Found, Head, List, Listed, Page, Part, Put, Restore, Restored,
    Store, Version, VersionList, VersionMark, VersionPage, When, too_large,
};
use crate::base::sum::crc32c;
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

/// What was once at a key; no object: it was deleted.
#[derive(Clone, Debug)]
struct Past {
    id: String,
    at_ms: u64,
    object: Option<Object>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    /// By key, the newest last; absent while no versions are kept.
    past: Option<BTreeMap<String, Vec<Past>>>,
}

impl State {
    fn remember(&mut self, key: &str, id: String, at_ms: u64) {
        let object = self.objects.get(key).cloned();
        if let Some(past) = &mut self.past {
            past.entry(key.to_owned()).or_default().push(Past { id, at_ms, object });
        }
    }

    fn version(&self, key: &str, id: &str) -> Option<&Object> {
        let all = self.past.as_ref()?.get(key)?;
        all.iter().find(|p| p.id == id)?.object.as_ref()
    }

    /// Changes the object at a key, which is its latest version too.
    fn amend(&mut self, key: &str, change: impl Fn(&mut Head)) {
        let object = self.objects.get_mut(key);
        let past = self.past.as_mut().and_then(|p| p.get_mut(key)?.last_mut()?.object.as_mut());
        object.into_iter().chain(past).for_each(|o| change(&mut o.head));
    }
}

/// Of the class that `archive` gives: no bytes are to be had until they are restored.
fn readable(key: &str, object: &Object) -> Result<()> {
    let archived = object.head.storage_class.as_deref() == Some(ARCHIVE);
    if archived && !matches!(object.head.restored, Some(Restored::Until(_))) {
        return Err(Error::new(Kind::Archived, format!("object {key} is archived: restore it first")));
    }
    Ok(())
}

const ARCHIVE: &str = "GLACIER";

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

fn slice_of(key: &str, body: &Bytes, range: ByteRange) -> Result<(u64, Bytes)> {
    let size = body.len() as u64;
    let (from, to) = match range {
        ByteRange::Whole { max } if size > max => return Err(too_large(key, size, max)),
        ByteRange::Whole { .. } => (0, size),
        ByteRange::At { offset, len } => (offset.min(size), offset.saturating_add(len).min(size)),
        ByteRange::Last(n) => (size.saturating_sub(n), size),
    };
    Ok((from, body.slice(from as usize..to as usize)))
}

fn allows(when: &When, current: Option<&Etag>) -> bool {
    match when {
        When::Always => true,
        When::Absent => current.is_none(),
        When::Matches(etag) => current == Some(etag),
    }
}

fn version_of(key: &str, past: &Past, latest: bool) -> Version {
    let head = past.object.as_ref().map(|o| &o.head);
    Version {
        key: key.to_owned(),
        id: past.id.clone(),
        size: head.map_or(0, |h| h.size),
        etag: head.map(|h| h.etag.clone()),
        modified_ms: past.at_ms,
        latest,
        deleted: head.is_none(),
    }
}

fn found(key: &str, object: Object, range: ByteRange) -> Result<Found> {
    readable(key, &object)?;
    let (offset, body) = slice_of(key, &object.body, range)?;
    Ok(Found { body, offset, head: object.head })
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

    /// Keeps versions from now on.
    pub fn keep_versions(&self) {
        let mut state = self.state.lock();
        if state.past.is_none() {
            state.past = Some(BTreeMap::new());
            let there: Vec<(String, u64)> =
                state.objects.iter().map(|(key, o)| (key.clone(), o.head.modified_ms)).collect();
            for (key, at_ms) in there {
                state.remember(&key, "null".into(), at_ms);
            }
        }
    }

    /// Moves an object's bytes to an archive.
    pub fn archive(&self, key: &str) {
        self.state.lock().amend(key, |head| head.storage_class = Some(ARCHIVE.into()));
    }

    /// Ends the restoring that was asked for: the bytes can be read until then.
    pub fn finish_restore(&self, key: &str, until_ms: u64) {
        self.state.lock().amend(key, |head| {
            if head.restored.is_some() {
                head.restored = Some(Restored::Until(until_ms));
            }
        });
    }

    fn take_away(&self, state: &mut State, key: &str) {
        state.objects.remove(key);
        if state.past.is_some() {
            let change = self.changes.fetch_add(1, Ordering::Relaxed);
            state.remember(key, format!("v{change:08}"), change);
        }
    }

    fn store(&self, state: &mut State, key: &str, body: Bytes, attrs: &Attrs, when: &When) -> Put {
        if !allows(when, state.objects.get(key).map(|o| &o.head.etag)) {
            return Put::Refused;
        }
        let etag = etag_of(&body);
        let change = self.changes.fetch_add(1, Ordering::Relaxed);
        let id = format!("v{change:08}");
        let head = Head {
            size: body.len() as u64,
            etag: etag.clone(),
            modified_ms: change,
            attrs: attrs.clone(),
            version: state.past.is_some().then(|| id.clone()),
            storage_class: None,
            restored: None,
            checksum: None,
        };
        state.objects.insert(key.to_owned(), Object { body, head });
        state.remember(key, id, change);
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
        found(key, object, range).map(Some)
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
            self.take_away(&mut state, key);
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
        readable(from, &source)?;
        Ok(self.store(&mut state, to, source.body, attrs.unwrap_or(&source.head.attrs), &when))
    }
    async fn delete_same(&self, objects: &[(String, Etag)], _: Cause) -> Result<bool> {
        let mut state = self.state.lock();
        let mut all = true;
        for (key, etag) in objects {
            match state.objects.get(key) {
                Some(object) if object.head.etag != *etag => all = false,
                _ => self.take_away(&mut state, key),
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
        readable(from, &source)?;
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
    async fn versioned(&self, _: Cause) -> Result<bool> {
        Ok(self.state.lock().past.is_some())
    }
    async fn list_versions(&self, list: &VersionList, _: Cause) -> Result<VersionPage> {
        let state = self.state.lock();
        let past = state.past.as_ref().ok_or_else(|| super::no_versions(&self.url))?;
        let mut page = VersionPage::default();
        let mut last = None;
        let from = list.after.as_ref().map_or(&list.prefix, |mark| &mark.key).max(&list.prefix);
        let all = past.range(from.clone()..).flat_map(|(key, all)| all.iter().rev().map(move |p| (key, p)));
        let mut skipping = true;
        for (key, p) in all {
            let Some(tail) = key.strip_prefix(&list.prefix) else { break };
            let group =
                tail.find('/').filter(|_| list.delimited).map(|at| &key[..list.prefix.len() + at + 1]);
            let mark = match group {
                Some(group) => VersionMark { key: group.to_owned(), version: None },
                None => VersionMark { key: key.clone(), version: Some(p.id.clone()) },
            };
            match list.after.as_ref().filter(|_| skipping).map(|after| (&after.key, &after.version)) {
                Some((seen, None)) if key.starts_with(seen) => continue,
                Some((seen, Some(id))) if key == seen => {
                    skipping = p.id != *id;
                    continue;
                }
                _ => skipping = false,
            }
            if group.is_some() && page.prefixes.last().map(String::as_str) == group {
                continue;
            }
            if page.versions.len() + page.prefixes.len() >= list.max.max(1) {
                page.next = last;
                break;
            }
            last = Some(mark);
            match group {
                Some(group) => page.prefixes.push(group.to_owned()),
                None => {
                    page.versions.push(version_of(key, p, past[key].last().is_some_and(|l| l.id == p.id)))
                }
            }
        }
        Ok(page)
    }
    async fn get_version(
        &self,
        key: &str,
        version: &str,
        range: ByteRange,
        _: Cause,
    ) -> Result<Option<Found>> {
        let Some(object) = self.state.lock().version(key, version).cloned() else { return Ok(None) };
        found(key, object, range).map(Some)
    }
    async fn head_version(
        &self,
        key: &str,
        version: Option<&str>,
        checksums: bool,
        _: Cause,
    ) -> Result<Option<Head>> {
        let state = self.state.lock();
        let object = match version {
            Some(id) => state.version(key, id),
            None => state.objects.get(key),
        };
        Ok(object.map(|o| {
            let checksum = checksums.then(|| format!("CRC32C:{:08x}", crc32c(&o.body)));
            Head { checksum, ..o.head.clone() }
        }))
    }
    async fn restore(&self, key: &str, _: Option<&str>, _: Restore, _: Cause) -> Result<bool> {
        let mut state = self.state.lock();
        let head = state.objects.get(key).map(|o| o.head.clone()).ok_or_else(|| gone(key))?;
        if head.storage_class.as_deref() != Some(ARCHIVE) {
            return Err(Error::new(Kind::Invalid, format!("object {key} isn't archived")));
        }
        let new = head.restored.is_none();
        if new {
            state.amend(key, |head| head.restored = Some(Restored::Underway));
        }
        Ok(new || head.restored != Some(Restored::Underway))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rt::sim::Sim;

    /// Pages of any size hold the same, each version and each group once.
    #[test]
    fn versions_are_paged_as_elsewhere() {
        Sim::new(1)
            .run(async {
                let store = MemStore::new("paged");
                store.put("d/a", "before".into(), When::Always, Cause::Probe).await.unwrap();
                assert!(store.list_versions(&VersionList::default(), Cause::Probe).await.is_err());
                store.keep_versions();
                for key in ["d/a", "d/a/x", "d/a/y", "d/a-", "e", "d/b"] {
                    store.put(key, "1".into(), When::Always, Cause::Probe).await.unwrap();
                    store.put(key, "2".into(), When::Always, Cause::Probe).await.unwrap();
                    store.delete(&[key.to_owned()], Cause::Probe).await.unwrap();
                }
                for (delimited, want) in [(false, 3 * 5 + 1), (true, 3 * 3 + 1 + 1)] {
                    for max in 1..=17 {
                        let mut list = VersionList { prefix: "d/".into(), after: None, delimited, max };
                        let mut seen = Vec::new();
                        loop {
                            let page = store.list_versions(&list, Cause::Probe).await.unwrap();
                            assert!((1..=max).contains(&(page.versions.len() + page.prefixes.len())));
                            seen.extend(page.versions.into_iter().map(|v| (v.key, v.id)));
                            seen.extend(page.prefixes.into_iter().map(|p| (p, String::new())));
                            list.after = page.next;
                            if list.after.is_none() {
                                break;
                            }
                        }
                        let all = seen.len();
                        seen.sort();
                        seen.dedup();
                        assert_eq!((all, seen.len()), (want, want), "by {max}, delimited {delimited}");
                    }
                }
            })
            .unwrap();
    }
}
