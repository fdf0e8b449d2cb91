//! Objects of pools that are being read stay open for a moment: the reads that follow open nothing and ask for no
//! attribute, and what the page cache has is read without a change of thread.
//!
//! Only reads whose bytes their reader verifies are answered so (`Cause::Read`), never one that something is built on, nor
//! one that tells that an object is not there. After each read the file is looked at: one that was changed, deleted or
//! replaced since it was opened is opened anew. What that look can't tell, that a file or the whole folder was moved away
//! or another filesystem lies over it, is seen when the descriptor's time is over, a second after it was opened. Then it is
//! closed whether it is read or not, so that the filesystem can be unmounted a moment after the last read.
//!
//! An event loop never waits here. Only local filesystems know what their page cache has, and those alone are asked for a
//! file's state on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::fstat;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::Inner;
use super::change_stamp::Stamp;
use super::key::KeyPath;
use super::object::{Object, read_at};
use crate::{BucketRequest, ByteRange, Cause, Found, Head};
use windlass_base::rt::{Instant, Rt};
use windlass_base::{Error, Kind, Result};

/// Descriptors that one store keeps.
const KEPT_MAX: usize = 128;
/// How long one is kept.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// Longer reads copy for too long to be an event loop's work.
const HERE_MAX: u64 = 128 << 10;

/// An object that stays open, and what it was when it was opened.
#[derive(Debug)]
struct KeptOpen {
    object: Object,
    head: Head,
    since: Instant,
    /// Its filesystem does not tell what the page cache has.
    mute: AtomicBool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct OpenObjects {
    kept: Mutex<lru::LruCache<String, Arc<KeptOpen>>>,
    /// A task closes those whose time is over.
    swept: AtomicBool,
}

impl Default for OpenObjects {
    fn default() -> OpenObjects {
        let max = std::num::NonZeroUsize::new(KEPT_MAX).expect("not zero");
        OpenObjects { kept: Mutex::new(lru::LruCache::new(max)), swept: AtomicBool::new(false) }
    }
}

impl OpenObjects {
    fn get(&self, key: &str, now: Instant) -> Option<Arc<KeptOpen>> {
        self.kept.lock().get(key).filter(|kept| kept.is_fresh(now)).cloned()
    }

    /// An object has another file from now on, or none.
    pub fn forget(&self, key: &str) {
        let old = self.kept.lock().pop(key);
        // Closing may take its time.
        drop(old);
    }

    /// Closes those whose time is over. False: none is left, and the sweeping ends.
    fn sweep(&self, now: Instant) -> bool {
        let mut kept = self.kept.lock();
        let old: Vec<String> =
            kept.iter().filter(|(_, kept)| !kept.is_fresh(now)).map(|(key, _)| key.clone()).collect();
        let closed: Vec<_> = old.iter().filter_map(|key| kept.pop(key)).collect();
        let goes_on = !kept.is_empty();
        self.swept.store(goes_on, Ordering::Release);
        drop(kept);
        drop(closed);
        goes_on
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.kept.lock().len()
    }
}

impl KeptOpen {
    fn is_fresh(&self, now: Instant) -> bool {
        now.since(self.since) < KEPT_FOR
    }

    /// Whether the file is what it was, under its name.
    fn is_same(&self) -> bool {
        fstat(&self.object.file)
            .is_ok_and(|stat| stat.st_nlink > 0 && Stamp::of(&stat) == Stamp::of(&self.object.stat))
    }

    fn found(&self, body: Vec<u8>, offset: u64) -> Found {
        Found { body: body.into(), offset, head: self.head.clone() }
    }

    /// What the page cache has of the range, if that is all of it.
    fn cached(&self, (from, to): (u64, u64)) -> Option<Vec<u8>> {
        let mut body = vec![0; (to - from) as usize];
        let mut parts = [std::io::IoSliceMut::new(&mut body)];
        match preadv2(&self.object.file, &mut parts, from, ReadWriteFlags::NOWAIT) {
            Ok(got) if got as u64 == to - from => Some(body),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.mute.store(true, Ordering::Relaxed);
                None
            }
            Ok(_) | Err(_) => None,
        }
    }
}

impl Inner {
    /// The answer, where it needs no waiting.
    pub(super) fn read_here(&self, request: &BucketRequest, cause: Cause) -> Option<Found> {
        let BucketRequest::Get { key, range: range @ ByteRange::At { len: 1..=HERE_MAX, .. }, .. } = request
        else {
            return None;
        };
        if cause != Cause::Read {
            return None;
        }
        let kept = self.open.get(key, self.root.rt.now())?;
        if kept.mute.load(Ordering::Relaxed) {
            return None;
        }
        let range = range.within(key, kept.head.size).ok()?;
        // In this order: a filesystem that answers the first waits for no server at the second.
        let body = kept.cached(range)?;
        kept.is_same().then(|| kept.found(body, range.0))
    }

    /// The same on a thread that may wait. An object that was not open stays open from then on.
    pub(super) fn read_on_thread(self: &Arc<Self>, key: &str, range: ByteRange) -> Result<Option<Found>> {
        if let Some(kept) = self.open.get(key, self.root.rt.now()) {
            let within = range.within(key, kept.head.size)?;
            if let Some(body) = self.read_range(key, &kept.object, within).ok().filter(|_| kept.is_same()) {
                return Ok(Some(kept.found(body, within.0)));
            }
            self.open.forget(key);
        }
        let since = self.root.rt.now();
        let root = self.root.open()?;
        let Some(object) = self.root.open_object(&root, &KeyPath::of(key)?)? else { return Ok(None) };
        let head = self.root.describe(&object, key)?;
        let within = range.within(key, head.size)?;
        let body = self.read_range(key, &object, within)?;
        let kept = KeptOpen { object, head, since, mute: AtomicBool::new(false) };
        let found = kept.found(body, within.0);
        // What was described by another state than it was opened in is looked at again.
        if kept.head.size == kept.object.size() {
            let old = self.open.kept.lock().push(key.to_owned(), Arc::new(kept));
            drop(old);
            self.sweep_later();
        }
        Ok(Some(found))
    }

    pub(super) fn read_range(&self, key: &str, object: &Object, (from, to): (u64, u64)) -> Result<Vec<u8>> {
        let body = read_at(&object.file, from, (to - from) as usize)
            .map_err(|e| self.root.failed(&format!("reading {key:?}"), e))?;
        if body.len() as u64 != to - from {
            return Err(Error::new(
                Kind::Unavailable,
                format!("store {}: {key:?} is being changed by another program; try again", self.root.url),
            ));
        }
        Ok(body)
    }

    fn sweep_later(self: &Arc<Self>) {
        if !self.open.swept.swap(true, Ordering::AcqRel) {
            let (rt, inner) = (self.root.rt.clone(), Arc::downgrade(self));
            self.root.rt.spawn(sweep(rt, inner)).detach();
        }
    }
}

/// Ends with the store, or with the last descriptor.
async fn sweep(rt: Rt, inner: Weak<Inner>) {
    loop {
        rt.sleep(KEPT_FOR / 2).await;
        let Some(inner) = inner.upgrade() else { return };
        // Closing a file of a network filesystem may wait for its server.
        let (now, it) = (rt.now(), inner.clone());
        let swept = rt.cpu(move || it.open.sweep(now)).await;
        if !swept.unwrap_or(false) {
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::disallowed_types)] // looks at the folder from outside
mod tests {
    use std::fs;

    use bytes::Bytes;

    use super::super::FileStore;
    use super::*;
    use crate::{BucketAnswer, Store as _, When};
    use windlass_base::rt::RealRuntime;

    const PART: ByteRange = ByteRange::At { offset: 4, len: 4 };

    fn request() -> Arc<BucketRequest> {
        Arc::new(BucketRequest::Get { key: "a/b".into(), version: None, range: PART })
    }

    impl FileStore {
        async fn part(&self) -> Option<Bytes> {
            self.get("a/b", PART, Cause::Read).await.unwrap().map(|found| found.body)
        }
        fn here(&self) -> Option<Bytes> {
            self.inner.read_here(&request(), Cause::Read).map(|found| found.body)
        }
    }

    async fn store(dir: &std::path::Path) -> FileStore {
        let rt = Rt::new(RealRuntime::current());
        let store = FileStore::new(&rt, dir);
        let body = Bytes::from_static(b"0123456789");
        store.put("a/b", body, When::Always, Cause::Write).await.unwrap();
        store
    }

    #[tokio::test]
    async fn what_was_read_is_read_again_here_until_its_file_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let (store, path) = (store(dir.path()).await, dir.path().join("a/b"));
        assert!(store.here().is_none(), "nobody has read it yet");
        assert_eq!(store.part().await.unwrap(), "4567");
        // A filesystem that does not tell what it has cached is read on a thread, always.
        let tells = store.here().is_some();
        if tells {
            assert_eq!(store.here().unwrap(), "4567");
            let end = BucketRequest::Get {
                key: "a/b".into(),
                version: None,
                range: ByteRange::At { offset: 8, len: 9 },
            };
            assert_eq!(store.inner.read_here(&end, Cause::Read).unwrap().body, "89");
        }
        for cause in [Cause::Write, Cause::Register, Cause::Scrub, Cause::Repair, Cause::File] {
            assert!(store.inner.read_here(&request(), cause).is_none(), "{cause:?}");
        }
        // Another program edits it in place, replaces it, deletes it.
        fs::write(&path, "abcdefghijk").unwrap();
        assert!(store.here().is_none());
        assert_eq!(store.part().await.unwrap(), "efgh");
        fs::write(dir.path().join("new"), "ABCDEFGHIJ").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert!(store.here().is_none());
        assert_eq!(store.part().await.unwrap(), "EFGH");
        assert_eq!(store.here().is_some(), tells);
        fs::remove_file(&path).unwrap();
        assert!(store.here().is_none() && store.part().await.is_none());
        // And so do we.
        store.put("a/b", Bytes::from_static(b"zyxwvutsrq"), When::Absent, Cause::Write).await.unwrap();
        assert_eq!(store.part().await.unwrap(), "vuts");
        store.delete(&["a/b".into()], Cause::Delete).await.unwrap();
        assert!(store.inner.open.count() == 0 && store.part().await.is_none());
    }

    #[tokio::test]
    async fn a_folder_that_is_moved_away_is_read_no_longer_than_a_moment_and_let_go_of() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("store");
        fs::create_dir(&at).unwrap();
        let store = store(&at).await;
        let rt = Rt::new(RealRuntime::current());
        assert!(store.part().await.is_some());
        assert_eq!(store.inner.open.count(), 1);
        fs::rename(&at, dir.path().join("elsewhere")).unwrap();
        let begun = rt.now();
        let error = loop {
            match store.get("a/b", PART, Cause::Read).await {
                Ok(found) => assert_eq!(found.unwrap().body, "4567"),
                Err(error) => break error,
            }
            rt.sleep(Duration::from_millis(20)).await;
        };
        assert!(error.is(Kind::Unavailable), "{error}");
        assert!(rt.now().since(begun) < 3 * KEPT_FOR);
        while store.inner.open.count() > 0 {
            assert!(rt.now().since(begun) < 10 * KEPT_FOR, "its descriptors stay open");
            rt.sleep(Duration::from_millis(20)).await;
        }
        let answer: Result<BucketAnswer> = store.call(&request(), Cause::Read).await;
        assert!(answer.is_err());
    }

    #[tokio::test]
    async fn descriptors_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        for n in 0..KEPT_MAX + 20 {
            let key = format!("k/{n}");
            let body = Bytes::from(n.to_string().repeat(4));
            store.put(&key, body.clone(), When::Absent, Cause::Write).await.unwrap();
            let got =
                store.get(&key, ByteRange::At { offset: 1, len: 2 }, Cause::Read).await.unwrap().unwrap();
            assert_eq!((got.body, got.head.size), (body.slice(1..3), body.len() as u64));
            assert!(store.inner.open.count() <= KEPT_MAX);
        }
    }
}
