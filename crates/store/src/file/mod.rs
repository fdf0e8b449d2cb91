//! The `file` store: a local folder as a bucket.
//!
//! It owns the folder's `.%windlass` and nothing else; people and other programs may read, edit, add and remove
//! files meanwhile. Invariants:
//! - an object is a plain file under its key's path (`key.rs`), or beside it while a folder has that name;
//! - a put is seen whole or not at all: temporary file, sync, rename, sync of the folder (`write.rs`);
//! - conditions hold across processes: whoever changes a key holds its lock (`key_lock.rs`);
//! - etag and attributes travel with the file as an extended attribute (`object.rs`);
//! - what root makes belongs to the folder's owner (`ownership.rs`).
//!
//! It does not: create its own root, follow symbolic links below it, keep empty folders (the last object's removal
//! takes them along), show what is neither a plain file nor a folder, or names that aren't UTF-8.
//!
//! This is the one part above `base::rt` that calls the filesystem itself: the `Disk` seam has neither extended
//! attributes nor shared locks, and the simulation uses `MemStore` instead. Calls run on worker threads, but for reads that
//! the page cache answers (`kept_open.rs`); so many at a time that a folder which hangs (a network filesystem without its
//! server) leaves enough of them to the others. Where writes alone hang (`progress.rs`), they leave threads to reads, and
//! are refused when too many wait.

mod change_stamp;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod kept_open;
mod key;
mod key_lock;
mod list;
mod object;
mod object_place;
#[cfg(test)]
mod owner_tests;
mod ownership;
mod progress;
mod root;
mod temp_file;
#[cfg(test)]
mod tests;
mod upload;
mod write;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::kept_open::OpenObjects;
use self::key::KeyPath;
use self::progress::Progress;
use self::root::Root;
use super::{
    Bucket, BucketAnswer, BucketRef, BucketRequest, ByteRange, Cause, Found, Head, NO_ATTRS, Space, Store,
    StoreUrl, too_large,
};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

/// Calls under way at a time; the process has 512 worker threads for all that it does.
const AT_ONCE: usize = 32;
/// Those of them that change something, and the KiB that these carry: a thread that hangs keeps its bytes, also when
/// nobody waits for it any more.
const CHANGES_AT_ONCE: usize = 24;
const KIB_AT_ONCE: u32 = 128 << 10;
/// How often a call that waits for its turn looks whether puts hang.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug, Clone)]
pub struct FileStore {
    inner: Arc<Inner>,
    room: Room,
}

#[derive(Debug, Clone)]
struct Room {
    all: Arc<Semaphore>,
    changes: Arc<Semaphore>,
    kib: Arc<Semaphore>,
}

impl Room {
    fn new() -> Room {
        let of = |n| Arc::new(Semaphore::new(n));
        Room { all: of(AT_ONCE), changes: of(CHANGES_AT_ONCE), kib: of(KIB_AT_ONCE as usize) }
    }

    /// Held by the call itself, also when nobody waits for it any more. `changes`: it changes something, and carries so
    /// many bytes.
    async fn turn(&self, changes: Option<u64>) -> Vec<OwnedSemaphorePermit> {
        let mut turn = Vec::new();
        let kib =
            changes.map(|bytes| u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(KIB_AT_ONCE));
        // In one order for all.
        if let Some(kib) = kib {
            turn.push(self.changes.clone().acquire_owned().await.expect("it is never closed"));
            turn.push(self.kib.clone().acquire_many_owned(kib).await.expect("it is never closed"));
        }
        turn.push(self.all.clone().acquire_owned().await.expect("it is never closed"));
        turn
    }
}

#[derive(Debug)]
struct Inner {
    root: Root,
    puts: Progress,
    open: OpenObjects,
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
        FileStore {
            inner: Arc::new(Inner {
                root: Root::new(rt, dir, url),
                puts: Progress::default(),
                open: OpenObjects::default(),
            }),
            room: Room::new(),
        }
    }

    /// The turn of a call that changes something. An error while puts hang and have taken all turns: nothing was begun.
    async fn turn_to_change(&self, bytes: u64) -> Result<Vec<OwnedSemaphorePermit>> {
        let (rt, turn) = (&self.inner.root.rt, self.room.turn(Some(bytes)));
        futures::pin_mut!(turn);
        loop {
            if let Some(turn) = rt.timeout(LOOK_EVERY, turn.as_mut()).await {
                return Ok(turn);
            }
            if let Some(time) = self.inner.puts.hangs(rt.now()) {
                let (url, s) = (&self.inner.root.url, time.as_secs());
                let what = format!("store {url}: no write got on for {s} s, and no more may wait");
                let why = format!("{what}: its filesystem is frozen, or its disk or server does not answer");
                return Err(Error::new(Kind::Unavailable, why));
            }
        }
    }

    /// Runs on a worker thread what changes nothing.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_in(self.room.turn(None).await, job).await
    }

    /// Runs on a worker thread. Once begun, goes on to its end when the caller is dropped.
    async fn run_in<T: Send + 'static>(
        &self,
        turn: Vec<OwnedSemaphorePermit>,
        job: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        let job = move || {
            let _turn = turn;
            job(&inner)
        };
        self.inner.root.rt.cpu(job).await?
    }
}

/// How many bytes a request carries that changes something. `None`: it changes nothing.
fn bytes_to_change(request: &BucketRequest) -> Option<u64> {
    match request {
        BucketRequest::Get { .. }
        | BucketRequest::Head { .. }
        | BucketRequest::List(_)
        | BucketRequest::MultipartList { .. } => None,
        BucketRequest::Put { body, .. } | BucketRequest::MultipartPut { body, .. } => Some(body.len() as u64),
        _ => Some(0),
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
    fn get(self: &Arc<Self>, key: &str, range: ByteRange, cause: Cause) -> Result<Option<Found>> {
        if cause == Cause::Read && matches!(range, ByteRange::At { .. }) {
            return self.read_on_thread(key, range);
        }
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
        let (from, to) = range.within(key, size)?;
        let body = self.read_range(key, &object, (from, to))?;
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

    fn answer(self: &Arc<Self>, request: &BucketRequest, cause: Cause) -> Result<BucketAnswer> {
        Ok(match request {
            BucketRequest::Get { key, range, .. } => self.get(key, *range, cause)?.into(),
            BucketRequest::Head { key, .. } => self.head(key, cause)?.into(),
            BucketRequest::Put { key, body, attrs, when } => {
                self.open.forget(key);
                self.put(key, body, attrs.as_ref().unwrap_or(NO_ATTRS), when)?.into()
            }
            BucketRequest::Delete { keys } => {
                keys.iter().for_each(|key| self.open.forget(key));
                self.delete(keys)?;
                // A probe ends by deleting what it has put, and leaves nothing.
                if cause == Cause::Probe {
                    self.root.clear_what_was_made(&self.root.open()?);
                }
                ().into()
            }
            BucketRequest::DeleteSame { objects } => self.delete_same(objects)?.into(),
            BucketRequest::List(list) => self.list(list)?.into(),
            BucketRequest::Copy { from, to, from_match, attrs, when } => {
                self.copy(from, to, from_match.as_ref(), attrs.as_ref(), when)?.into()
            }
            BucketRequest::MultipartCreate { key, attrs } => self.upload_create(key, attrs)?.into(),
            BucketRequest::MultipartPut { key, upload, number, body } => {
                self.part_put(key, upload, *number, body)?.into()
            }
            BucketRequest::MultipartCopy { key, upload, number, from, from_match, offset, len } => {
                self.part_copy(key, upload, *number, (from, from_match.as_ref()), (*offset, *len))?.into()
            }
            BucketRequest::MultipartComplete { key, upload, parts, when } => {
                self.upload_complete(key, upload, parts, when)?.into()
            }
            BucketRequest::MultipartAbort { key, upload } => self.upload_abort(key, upload)?.into(),
            BucketRequest::MultipartList { prefix } => self.upload_list(prefix)?.into(),
            BucketRequest::Versioned | BucketRequest::ListVersions(_) | BucketRequest::Restore { .. } => {
                unreachable!("answered without the folder")
            }
        })
    }
}

impl Store for FileStore {
    fn url(&self) -> &str {
        &self.inner.root.url
    }
    fn call<'a>(
        &'a self,
        request: &'a Arc<BucketRequest>,
        cause: Cause,
    ) -> BoxFuture<'a, Result<BucketAnswer>> {
        async move {
            if let Some(out) = request.without_versions(self.url()) {
                return out;
            }
            if let Some(found) = self.inner.read_here(request, cause) {
                return Ok(Some(found).into());
            }
            let turn = match bytes_to_change(request) {
                Some(bytes) => self.turn_to_change(bytes).await?,
                None => self.room.turn(None).await,
            };
            let asked = request.clone();
            let out = self.run_in(turn, move |inner| Ok(inner.answer(&asked, cause))).await;
            // A broken worker leaves a put's outcome open.
            out.unwrap_or_else(|e| request.unanswered(e))
        }
        .boxed()
    }
}

#[async_trait]
impl Bucket for FileStore {
    async fn space(&self) -> Option<Space> {
        self.run(|inner| inner.root.space()).await.ok()
    }
    fn hangs(&self) -> Option<Duration> {
        self.inner.puts.hangs(self.inner.root.rt.now())
    }
    fn identity(&self) -> String {
        // What waits for a folder is not for the one that lies below its disk while that is away.
        match self.inner.root.born() {
            Some(born) => format!("{} of {born}", self.url()),
            None => self.url().to_owned(),
        }
    }
}
