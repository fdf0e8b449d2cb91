//! The `file` store: a local folder as a bucket.
//!
//! It owns the folder's `.%windlass` and nothing else; people and other programs may read, edit, add and remove
//! files meanwhile. Invariants:
//! - an object is a plain file under its key's path (`key.rs`), or beside it while a folder has that name;
//! - a put is seen whole or not at all: temporary file, sync, rename, sync of the folder (`write.rs`);
//! - conditions hold across processes: whoever changes a key holds its lock (`root.rs`);
//! - etag and attributes travel with the file as an extended attribute (`object.rs`).
//!
//! It does not: create its own root, follow symbolic links below it, keep empty folders (the last object's removal
//! takes them along), show what is neither a plain file nor a folder, or names that aren't UTF-8.
//!
//! This is the one part above `base::rt` that calls the filesystem itself: the `Disk` seam has neither extended
//! attributes nor shared locks, and the simulation uses `MemStore` instead. All calls run on worker threads, so many at a
//! time that a folder which hangs (a network filesystem without its server) leaves enough of them to the others.

mod key;
mod list;
mod object;
mod root;
mod stamp;
#[cfg(test)]
mod tests;
mod upload;
mod write;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::key::KeyPath;
use self::object::read_at;
use self::root::Root;
use super::{
    Attrs, Bucket, BucketRef, ByteRange, Cause, Etag, Found, Head, List, Page, Part, Put, Store, StoreUrl,
    When, too_large,
};
use crate::base::rt::Rt;
use crate::base::{Error, Kind, Result};

/// Calls under way at a time; the process has 512 worker threads for all that it does.
const AT_ONCE: usize = 32;

/// See the module.
#[derive(Debug, Clone)]
pub struct FileStore {
    inner: Arc<Inner>,
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct Inner {
    root: Root,
}

impl FileStore {
    /// Opens a folder that exists on a filesystem that keeps user extended attributes. Writes nothing.
    pub async fn open(rt: &Rt, dir: &Path) -> Result<BucketRef> {
        let store = FileStore::new(rt, dir);
        store.run(|inner| inner.root.check()).await?;
        Ok(Arc::new(store))
    }

    /// The same for one that is to become a store from now on: it survives a power cut.
    pub async fn adopt(rt: &Rt, dir: &Path) -> Result<()> {
        FileStore::new(rt, dir).run(|inner| inner.root.adopt()).await
    }

    /// A folder that may be away now: each operation says so until it is there.
    pub fn expected(rt: &Rt, dir: &Path) -> BucketRef {
        Arc::new(FileStore::new(rt, dir))
    }

    fn new(rt: &Rt, dir: &Path) -> FileStore {
        let url = StoreUrl::File { dir: dir.to_owned() }.to_string();
        let room = Arc::new(Semaphore::new(AT_ONCE));
        FileStore { inner: Arc::new(Inner { root: Root::new(rt, dir, url) }), room }
    }

    /// Held by the call itself, also when nobody waits for it any more.
    async fn turn(&self) -> OwnedSemaphorePermit {
        self.room.clone().acquire_owned().await.expect("it is never closed")
    }

    /// Runs on a worker thread. Once begun, goes on to its end when the caller is dropped.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (inner, turn) = (self.inner.clone(), self.turn().await);
        let job = move || {
            let _turn = turn;
            job(&inner)
        };
        self.inner.root.rt.cpu(job).await?
    }

    /// The same for puts, of which a broken worker leaves the outcome open.
    async fn run_put(&self, job: impl FnOnce(&Inner) -> Result<Put> + Send + 'static) -> Result<Put> {
        self.run(move |inner| Ok(job(inner))).await.unwrap_or_else(|e| Ok(Put::Unknown(e)))
    }
}

/// Is more than a user's answer made of what is read: a promise, a count of what is stored?
fn builds_on(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Register | Cause::Label | Cause::Walk | Cause::Repair | Cause::Write | Cause::Checkpoint
    )
}

impl Inner {
    fn get(&self, key: &str, range: ByteRange, cause: Cause) -> Result<Option<Found>> {
        let path = KeyPath::of(key)?;
        let root = self.root.open()?;
        let Some(object) = self.root.open_object(&root, &path)? else { return Ok(None) };
        if builds_on(cause) {
            self.root.settle_what_was_read(&root, (&object.file, &object.stat), &path)?;
        }
        // Before its etag is asked for: that may mean to read it.
        if let ByteRange::Whole { max } = range
            && object.size() > max
        {
            return Err(too_large(key, object.size(), max));
        }
        let head = self.root.describe(&object, key)?;
        let size = head.size;
        let (from, to) = match range {
            ByteRange::Whole { max } if size > max => return Err(too_large(key, size, max)),
            ByteRange::Whole { .. } => (0, size),
            ByteRange::At { offset, len } => (offset.min(size), offset.saturating_add(len).min(size)),
            ByteRange::Last(n) => (size.saturating_sub(n), size),
        };
        let body = read_at(&object.file, from, (to - from) as usize)
            .map_err(|e| self.root.failed(&format!("reading {key:?}"), e))?;
        if body.len() as u64 != to - from {
            return Err(Error::new(
                Kind::Unavailable,
                format!("store {}: {key:?} is being changed by another program; try again", self.root.url),
            ));
        }
        Ok(Some(Found { body: body.into(), offset: from, head }))
    }

    fn head(&self, key: &str, cause: Cause) -> Result<Option<Head>> {
        let path = KeyPath::of(key)?;
        let root = self.root.open()?;
        let Some(object) = self.root.open_object(&root, &path)? else { return Ok(None) };
        if builds_on(cause) {
            self.root.settle_what_was_read(&root, (&object.file, &object.stat), &path)?;
        }
        self.root.describe(&object, key).map(Some)
    }
}

#[async_trait]
impl Store for FileStore {
    fn url(&self) -> &str {
        &self.inner.root.url
    }
    async fn get(&self, key: &str, range: ByteRange, cause: Cause) -> Result<Option<Found>> {
        let key = key.to_owned();
        self.run(move |inner| inner.get(&key, range, cause)).await
    }
    async fn head(&self, key: &str, cause: Cause) -> Result<Option<Head>> {
        let key = key.to_owned();
        self.run(move |inner| inner.head(&key, cause)).await
    }
    async fn put(&self, key: &str, body: Bytes, when: When, cause: Cause) -> Result<Put> {
        self.put_with(key, body, &Attrs::default(), when, cause).await
    }
    async fn delete(&self, keys: &[String], _: Cause) -> Result<()> {
        let keys = keys.to_vec();
        self.run(move |inner| inner.delete(&keys)).await
    }
    async fn list(&self, list: &List, _: Cause) -> Result<Page> {
        let list = list.clone();
        self.run(move |inner| inner.list(&list)).await
    }
}

#[async_trait]
impl Bucket for FileStore {
    async fn put_with(&self, key: &str, body: Bytes, attrs: &Attrs, when: When, _: Cause) -> Result<Put> {
        let (key, attrs) = (key.to_owned(), attrs.clone());
        self.run_put(move |inner| inner.put(&key, &body, &attrs, &when)).await
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
        let (from, to, from_match) = (from.to_owned(), to.to_owned(), from_match.cloned());
        let attrs = attrs.cloned();
        self.run_put(move |inner| inner.copy(&from, &to, from_match.as_ref(), attrs.as_ref(), &when)).await
    }
    async fn delete_same(&self, objects: &[(String, Etag)], _: Cause) -> Result<bool> {
        let objects = objects.to_vec();
        self.run(move |inner| inner.delete_same(&objects)).await
    }
    async fn multipart_create(&self, key: &str, attrs: &Attrs, _: Cause) -> Result<String> {
        let (key, attrs) = (key.to_owned(), attrs.clone());
        self.run(move |inner| inner.upload_create(&key, &attrs)).await
    }
    async fn multipart_put(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        body: Bytes,
        _: Cause,
    ) -> Result<Part> {
        let (key, upload) = (key.to_owned(), upload.to_owned());
        self.run(move |inner| inner.part_put(&key, &upload, number, &body)).await
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
        _: Cause,
    ) -> Result<Part> {
        let (key, upload, from) = (key.to_owned(), upload.to_owned(), from.to_owned());
        let from_match = from_match.cloned();
        self.run(move |inner| {
            inner.part_copy(&key, &upload, number, (&from, from_match.as_ref()), (offset, len))
        })
        .await
    }
    async fn multipart_complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        when: When,
        _: Cause,
    ) -> Result<Put> {
        let (key, upload, parts) = (key.to_owned(), upload.to_owned(), parts.to_vec());
        self.run_put(move |inner| inner.upload_complete(&key, &upload, &parts, &when)).await
    }
    async fn multipart_abort(&self, key: &str, upload: &str, _: Cause) -> Result<()> {
        let (key, upload) = (key.to_owned(), upload.to_owned());
        self.run(move |inner| inner.upload_abort(&key, &upload)).await
    }
    async fn multipart_list(&self, prefix: &str, _: Cause) -> Result<Vec<(String, String)>> {
        let prefix = prefix.to_owned();
        self.run(move |inner| inner.upload_list(&prefix)).await
    }
}
