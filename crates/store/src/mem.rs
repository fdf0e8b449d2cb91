//! A bucket in memory, for tests and the simulation. Everything happens at one instant under one lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128;

use super::request_and_answer::no_versions;
use super::{
    Attrs, Bucket, BucketAnswer, BucketRequest, ByteRange, Cause, Etag, Found, Head, List, Listed, NO_ATTRS,
    Page, Part, Put, Restored, Store, Version, VersionList, VersionMark, VersionPage, When,
};
use windlass_base::sum::crc32c;
use windlass_base::{Error, Kind, Result};

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

/// All objects of a store.
#[derive(Clone, Debug, Default)]
pub struct Backup(BTreeMap<String, Object>);

/// An earlier or the latest state of a key. Without an object: it was deleted.
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
    /// The states of each key, the newest last; absent while no versions are kept.
    past: Option<BTreeMap<String, Vec<Past>>>,
}

impl State {
    fn remember(&mut self, key: &str, id: String, at_ms: u64) {
        let object = self.objects.get(key).cloned();
        if let Some(past) = &mut self.past {
            past.entry(key.to_owned()).or_default().push(Past { id, at_ms, object });
        }
    }

    fn object(&self, key: &str, version: Option<&str>) -> Option<&Object> {
        match version {
            Some(id) => self.past.as_ref()?.get(key)?.iter().find(|p| p.id == id)?.object.as_ref(),
            None => self.objects.get(key),
        }
    }

    fn part(&mut self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<Part> {
        let etag = etag_of(&body);
        let found = self.uploads.get_mut(upload).filter(|u| u.key == key).ok_or_else(|| gone(upload))?;
        found.parts.insert(number, body);
        Ok(Part { number, etag })
    }

    fn list(&self, list: &List) -> Page {
        let mut page = Page::default();
        for (key, object) in self.objects.range(list.prefix.clone()..) {
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
        page
    }

    fn versions(&self, list: &VersionList, url: &str) -> Result<VersionPage> {
        let past = self.past.as_ref().ok_or_else(|| no_versions(url))?;
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

    fn restore(&mut self, key: &str) -> Result<bool> {
        let head = self.objects.get(key).map(|o| o.head.clone()).ok_or_else(|| gone(key))?;
        if head.storage_class.as_deref() != Some(ARCHIVE) {
            return Err(Error::new(Kind::Invalid, format!("object {key} isn't archived")));
        }
        let new = head.restored.is_none();
        if new {
            self.amend(key, |head| head.restored = Some(Restored::Underway));
        }
        Ok(new || head.restored != Some(Restored::Underway))
    }

    /// Changes the object at a key, which is its latest version too.
    fn amend(&mut self, key: &str, change: impl Fn(&mut Head)) {
        let object = self.objects.get_mut(key);
        let past = self.past.as_mut().and_then(|p| p.get_mut(key)?.last_mut()?.object.as_mut());
        object.into_iter().chain(past).for_each(|o| change(&mut o.head));
    }
}

/// Refuses the bytes of an object of the class that `archive` gives, until they are restored.
fn readable(key: &str, object: &Object) -> Result<()> {
    let archived = object.head.storage_class.as_deref() == Some(ARCHIVE);
    if archived && !matches!(object.head.restored, Some(Restored::Until(_))) {
        return Err(Error::new(Kind::Archived, format!("object {key} is archived: restore it first")));
    }
    Ok(())
}

const ARCHIVE: &str = "GLACIER";

/// The rule by which objects get their etags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EtagRule {
    /// The etag is that of the bytes, always.
    #[default]
    OfBytes,
    /// The etag is as with AWS: what was uploaded in parts has an etag of its parts, its copy that of its bytes.
    OfParts,
    /// The etag is as with SSE-KMS: each put and each copy has one of its own.
    OfEachPut,
}

/// A bucket in memory. Clones of the `Arc` share the contents.
#[derive(Debug)]
pub struct MemStore {
    url: String,
    state: Mutex<State>,
    etags: Mutex<EtagRule>,
    /// Counts changes. The count is also the modification time, so that it grows with every change.
    changes: AtomicU64,
}

fn etag_of(body: &[u8]) -> Etag {
    Etag(format!("{:032x}", xxh3_128(body)))
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
    let (from, to) = range.within(key, object.body.len() as u64)?;
    Ok(Found { body: object.body.slice(from as usize..to as usize), offset: from, head: object.head })
}

fn gone(key: &str) -> Error {
    Error::new(Kind::NotFound, format!("object {key} is not there"))
}

impl MemStore {
    pub fn new(name: &str) -> Arc<MemStore> {
        let (url, state, etags) = (format!("mem:{name}"), Mutex::default(), Mutex::default());
        Arc::new(MemStore { url, state, etags, changes: AtomicU64::new(1) })
    }

    /// Lets two stores change places, as two folders that are renamed.
    pub fn swap(&self, other: &MemStore) {
        let theirs = std::mem::take(&mut *other.state.lock());
        let ours = std::mem::replace(&mut *self.state.lock(), theirs);
        *other.state.lock() = ours;
    }

    /// Tells whether the condition of a request holds at this instant. True of a request that has none.
    pub(super) fn allows(&self, request: &BucketRequest) -> bool {
        match request {
            BucketRequest::Put { key, when, .. } => {
                allows(when, self.state.lock().objects.get(key).map(|o| &o.head.etag))
            }
            _ => true,
        }
    }

    /// Sets the etags that objects get which are put from now on.
    pub fn etags_are(&self, rule: EtagRule) {
        *self.etags.lock() = rule;
    }

    /// Forgets everything, as a wiped bucket would.
    pub fn wipe(&self) {
        *self.state.lock() = State::default();
    }

    /// Returns a copy of all objects, as a backup of the store's disk has them.
    pub fn backup(&self) -> Backup {
        Backup(self.state.lock().objects.clone())
    }

    /// Puts another disk in the store's place from now on; returns what the one before held. A default one is an empty mount
    /// point.
    pub fn exchange(&self, disk: Backup) -> Backup {
        Backup(std::mem::replace(&mut self.state.lock().objects, disk.0))
    }

    /// Returns every key, for tests that look from outside.
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
            let there: Vec<(String, Option<u64>)> =
                state.objects.iter().map(|(key, o)| (key.clone(), o.head.modified_ms)).collect();
            for (key, at_ms) in there {
                state.remember(&key, "null".into(), at_ms.expect("this store tells all times"));
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
        let etag = etag_of(&body);
        self.store_as(state, key, body, (etag, attrs), when)
    }

    fn store_as(
        &self,
        state: &mut State,
        key: &str,
        body: Bytes,
        (mut etag, attrs): (Etag, &Attrs),
        when: &When,
    ) -> Put {
        if !allows(when, state.objects.get(key).map(|o| &o.head.etag)) {
            return Put::Refused;
        }
        if *self.etags.lock() == EtagRule::OfEachPut {
            etag = Etag(format!("{:032x}", self.changes.fetch_add(1, Ordering::Relaxed)));
        }
        let change = self.changes.fetch_add(1, Ordering::Relaxed);
        let id = format!("v{change:08}");
        let head = Head {
            size: body.len() as u64,
            etag: etag.clone(),
            modified_ms: Some(change),
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

impl MemStore {
    /// Does what a request asks, at this instant, and returns the answer.
    pub(super) fn answer(&self, request: &BucketRequest) -> Result<BucketAnswer> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        Ok(match request {
            BucketRequest::Get { key, version, range } => match state.object(key, version.as_deref()) {
                Some(object) => Some(found(key, object.clone(), *range)?).into(),
                None => BucketAnswer::Found(None),
            },
            BucketRequest::Head { key, version, checksums } => {
                let checksum = |o: &Object| checksums.then(|| format!("CRC32C:{:08x}", crc32c(&o.body)));
                let described = |o: &Object| Head { checksum: checksum(o), ..o.head.clone() };
                state.object(key, version.as_deref()).map(described).into()
            }
            BucketRequest::Put { key, body, attrs, when } => {
                self.store(state, key, body.clone(), attrs.as_ref().unwrap_or(NO_ATTRS), when).into()
            }
            BucketRequest::Delete { keys } => {
                keys.iter().for_each(|key| self.take_away(state, key));
                BucketAnswer::Done(())
            }
            BucketRequest::DeleteSame { objects } => self.delete_same(state, objects).into(),
            BucketRequest::List(list) => state.list(list).into(),
            BucketRequest::Copy { from, to, from_match, attrs, when } => {
                let source = state.objects.get(from).cloned().ok_or_else(|| gone(from))?;
                if from_match.as_ref().is_some_and(|m| *m != source.head.etag) {
                    return Ok(Put::Refused.into());
                }
                readable(from, &source)?;
                let attrs = attrs.as_ref().unwrap_or(&source.head.attrs);
                self.store(state, to, source.body, attrs, when).into()
            }
            BucketRequest::MultipartCreate { key, attrs } => {
                let id = format!("u{:08}", self.changes.fetch_add(1, Ordering::Relaxed));
                let upload = Upload { key: key.clone(), attrs: attrs.clone(), parts: BTreeMap::new() };
                state.uploads.insert(id.clone(), upload);
                id.into()
            }
            BucketRequest::MultipartPut { key, upload, number, body } => {
                state.part(key, upload, *number, body.clone())?.into()
            }
            BucketRequest::MultipartCopy { key, upload, number, from, from_match, offset, len } => {
                let source = state.objects.get(from).ok_or_else(|| gone(from))?;
                if from_match.as_ref().is_some_and(|m| *m != source.head.etag) {
                    let why = format!("object {from} has changed since it was looked at");
                    return Err(Error::new(Kind::Refused, why));
                }
                let range = ByteRange::At { offset: *offset, len: *len };
                let body = found(from, source.clone(), range)?.body;
                state.part(key, upload, *number, body)?.into()
            }
            BucketRequest::MultipartComplete { key, upload, parts, when } => {
                self.complete(state, key, upload, parts, when)?.into()
            }
            BucketRequest::MultipartAbort { key, upload } => {
                if state.uploads.get(upload).is_some_and(|u| u.key == *key) {
                    state.uploads.remove(upload);
                }
                BucketAnswer::Done(())
            }
            BucketRequest::MultipartList { prefix } => {
                let below = state.uploads.iter().filter(|(_, u)| u.key.starts_with(prefix));
                below.map(|(id, u)| (u.key.clone(), id.clone())).collect::<Vec<_>>().into()
            }
            BucketRequest::Versioned => state.past.is_some().into(),
            BucketRequest::ListVersions(list) => state.versions(list, &self.url)?.into(),
            BucketRequest::Restore { key, .. } => state.restore(key)?.into(),
        })
    }

    fn delete_same(&self, state: &mut State, objects: &[(String, Etag)]) -> bool {
        let mut all = true;
        for (key, etag) in objects {
            match state.objects.get(key) {
                Some(object) if object.head.etag != *etag => all = false,
                _ => self.take_away(state, key),
            }
        }
        all
    }

    fn complete(
        &self,
        state: &mut State,
        key: &str,
        upload: &str,
        parts: &[Part],
        when: &When,
    ) -> Result<Put> {
        let found = state.uploads.get(upload).filter(|u| u.key == key).ok_or_else(|| gone(upload))?;
        let invalid = |why| Error::new(Kind::Invalid, why);
        if parts.is_empty() {
            return Err(invalid(format!("upload {upload} is to be completed of no parts")));
        }
        let mut body = BytesMut::new();
        for (at, part) in parts.iter().enumerate() {
            let bytes = found.parts.get(&part.number).filter(|b| etag_of(b) == part.etag);
            let none = || invalid(format!("upload {upload} has no such part {}", part.number));
            let bytes = bytes.ok_or_else(none)?;
            if at + 1 < parts.len() && bytes.len() < 5 << 20 {
                return Err(invalid(format!("part {} of {key} is smaller than 5 MiB", part.number)));
            }
            body.extend_from_slice(bytes);
        }
        let (attrs, body) = (found.attrs.clone(), body.freeze());
        let etag = match *self.etags.lock() {
            EtagRule::OfParts => Etag(format!("{}-{}", etag_of(&body).0, parts.len())),
            _ => etag_of(&body),
        };
        let out = self.store_as(state, key, body, (etag, &attrs), when);
        if matches!(out, Put::Stored(_)) {
            state.uploads.remove(upload);
        }
        Ok(out)
    }
}

impl Store for MemStore {
    fn url(&self) -> &str {
        &self.url
    }
    fn call<'a>(&'a self, request: &'a Arc<BucketRequest>, _: Cause) -> BoxFuture<'a, Result<BucketAnswer>> {
        async move { self.answer(request) }.boxed()
    }
}

impl Bucket for MemStore {}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::sim::Sim;

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
