//! A process as the kernel would be for it: walks paths name by name, forgets what it looked up.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::object::{Cache, Errno, MountOptions, Op};
use crate::ops::{Caller, Entry, Fs, Looked};
use crate::tree::{Item, OpenMode, ROOT};
use windlass_base::rt::sim::{SimDisk, World};
use windlass_base::rt::{Disk, Rt};
use windlass_cache::{DiskCache, DiskCacheConfig};
use windlass_store::BucketRef;

pub const ME: Caller = Caller { uid: 1000, gid: 1000 };
pub const READ: OpenMode =
    OpenMode { read: true, write: false, append: false, truncate: false, exclusive: false };
pub const WRITE: OpenMode =
    OpenMode { read: true, write: true, append: false, truncate: false, exclusive: false };
pub const STAGING: &str = "/staging";

/// A mount and who uses it.
#[derive(Clone)]
pub struct User {
    pub fs: Arc<Fs>,
    looked: Arc<parking_lot::Mutex<Vec<u64>>>,
    rt: Option<Rt>,
}

impl Fs {
    /// Writes as the handle was opened: at `offset`, or at the end.
    pub async fn write(&self, handle: u64, offset: u64, data: Bytes) -> Op<()> {
        let append = self.file(handle)?.how.append;
        self.write_at(handle, (!append).then_some(offset), data).await
    }
}

/// Splits a path into its folder and its last name.
pub fn parts(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Makes a cache of the size that the options say, beside the staged files.
fn cache(rt: &Rt, disk: &Arc<dyn Disk>, options: &MountOptions, staging: &str) -> DiskCache {
    let Cache::Bytes(bytes_max) = options.cache else { return DiskCache::off() };
    let dir = format!("{staging}-cache").into();
    let config = DiskCacheConfig { dir, bytes_max, memory_max: 16 << 20, segment: Some(1 << 20) };
    DiskCache::start(rt, disk.clone(), config)
}

impl User {
    pub async fn mount(rt: Rt, disk: Arc<dyn Disk>, bucket: BucketRef, options: &str, staging: &str) -> User {
        let options = MountOptions::parse(options).unwrap().0;
        let cache = cache(&rt, &disk, &options, staging);
        let (fs, _) =
            Fs::open(rt.clone(), disk, bucket, options, PathBuf::from(staging), cache).await.unwrap();
        User { rt: Some(rt), ..User::of(fs) }
    }

    pub fn of(fs: Arc<Fs>) -> User {
        User { fs, looked: Arc::default(), rt: None }
    }

    /// Sleeps, for a user that was mounted here.
    pub async fn sleep(&self, ms: u64) {
        self.rt.as_ref().unwrap().sleep(std::time::Duration::from_millis(ms)).await;
    }

    pub async fn simulated(world: &World, bucket: BucketRef, options: &str) -> User {
        let disk = Arc::new(SimDisk::new(world));
        User::mount(world.rt(), disk, bucket, options, STAGING).await
    }

    /// Another process on the same mount.
    pub fn another(&self) -> User {
        User { rt: self.rt.clone(), ..User::of(self.fs.clone()) }
    }

    /// A name's entry, as the kernel asks for it.
    pub async fn step(&self, parent: u64, name: &[u8]) -> Op<Entry> {
        let looked = match self.fs.lookup_now(parent, name) {
            Some(known) => known?,
            None => self.fs.lookup(parent, name).await?,
        };
        match looked {
            Looked::Found(entry) => {
                self.looked.lock().push(entry.ino);
                Ok(entry)
            }
            Looked::Absent(_) => Err(Errno::NOENT.into()),
        }
    }

    pub async fn walk(&self, path: &str) -> Op<u64> {
        let mut at = ROOT;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            at = self.step(at, name.as_bytes()).await?.ino;
        }
        Ok(at)
    }

    /// The folder's number and the last name of a path.
    pub async fn above<'a>(&self, path: &'a str) -> Op<(u64, &'a [u8])> {
        let (folder, name) = parts(path);
        Ok((self.walk(folder).await?, name.as_bytes()))
    }

    pub fn forget_all(&self) {
        for ino in std::mem::take(&mut *self.looked.lock()) {
            self.fs.forget(ino, 1);
        }
    }

    pub async fn stat(&self, path: &str) -> Op<Entry> {
        let (parent, name) = self.above(path).await?;
        if name.is_empty() {
            return self.fs.getattr(parent).await;
        }
        match self.step(parent, name).await? {
            entry if entry.ttl.is_zero() => self.fs.getattr(entry.ino).await,
            entry => Ok(entry),
        }
    }

    /// open(2) with O_CREAT when there is nothing, as the kernel turns it into create or open; it walks a path once more
    /// after `ESTALE`.
    pub async fn open(&self, path: &str, how: OpenMode, create: bool) -> Op<u64> {
        match self.open_once(path, how, create).await {
            Err(f) if f.errno == Errno::STALE => self.open_once(path, how, create).await,
            done => done,
        }
    }

    async fn open_once(&self, path: &str, how: OpenMode, create: bool) -> Op<u64> {
        let (parent, name) = self.above(path).await?;
        match self.step(parent, name).await {
            Ok(_) if create && how.exclusive => Err(Errno::EXIST.into()),
            Ok(entry) if entry.attributes.is_link() => Err(Errno::LOOP.into()),
            Ok(entry) if entry.attributes.is_dir() && (how.write || how.truncate) => Err(Errno::ISDIR.into()),
            Ok(entry) => Ok(self.fs.open_file(entry.ino, how).await?.handle),
            Err(f) if f.errno == Errno::NOENT && create => {
                let (entry, opened) = self.fs.create(parent, name, 0o644, ME, how).await?;
                self.looked.lock().push(entry.ino);
                Ok(opened.handle)
            }
            Err(fail) => Err(fail),
        }
    }

    /// close(2): the flush's result is the caller's.
    pub async fn close(&self, handle: u64) -> Op<()> {
        let flushed = self.fs.flush(handle).await;
        self.fs.release(handle).await;
        flushed
    }

    pub async fn put(&self, path: &str, bytes: &[u8]) -> Op<()> {
        let handle = self.open(path, OpenMode { truncate: true, ..WRITE }, true).await?;
        let written = self.fs.write(handle, 0, Bytes::copy_from_slice(bytes)).await;
        self.close(handle).await.and(written)
    }

    pub async fn read(&self, handle: u64, offset: u64, len: u64) -> Op<Bytes> {
        match self.fs.read_now(handle, offset, len) {
            Some(known) => known,
            None => self.fs.read(handle, offset, len).await,
        }
    }

    pub async fn get(&self, path: &str) -> Op<Vec<u8>> {
        let handle = self.open(path, READ, false).await?;
        let mut out = Vec::new();
        let all = loop {
            match self.read(handle, out.len() as u64, 100_000).await {
                Ok(bytes) if bytes.is_empty() => break Ok(out),
                Ok(bytes) => out.extend_from_slice(&bytes),
                Err(fail) => break Err(fail),
            }
        };
        self.close(handle).await?;
        all
    }

    /// A folder's entries in the bucket's order.
    pub async fn list(&self, path: &str, plus: bool) -> Op<Vec<Item>> {
        let ino = self.walk(path).await?;
        self.list_at(ino, plus).await
    }

    pub async fn list_at(&self, ino: u64, plus: bool) -> Op<Vec<Item>> {
        let handle = self.fs.opendir(ino)?;
        let mut out = Vec::new();
        let all = loop {
            let cookie = out.len() as u64;
            let batch = match self.fs.readdir_now(handle, cookie, plus) {
                Some(known) => Ok(known),
                None => self.fs.readdir(handle, cookie, plus).await,
            };
            match batch {
                Ok(items) if items.is_empty() => break Ok(out),
                Ok(items) => out.extend(items),
                Err(fail) => break Err(fail),
            }
        };
        self.fs.releasedir(handle);
        // The kernel takes over what comes with readdirplus.
        for item in all.iter().flatten().filter(|_| plus) {
            let entry = self.fs.adopt_item(item);
            self.fs.record_reply(&entry);
            self.looked.lock().push(entry.ino);
        }
        for item in all.iter().flatten().filter(|_| !plus) {
            self.fs.number_of(item);
        }
        all
    }

    pub async fn mkdir(&self, path: &str) -> Op<()> {
        let (parent, name) = self.above(path).await?;
        let entry = self.fs.mkdir(parent, name, 0o755, ME).await?;
        self.looked.lock().push(entry.ino);
        Ok(())
    }

    pub async fn unlink(&self, path: &str) -> Op<()> {
        let (parent, name) = self.above(path).await?;
        self.fs.unlink(parent, name).await
    }

    /// unlink(2) with the lookup that the kernel makes before it.
    pub async fn remove(&self, path: &str) -> Op<()> {
        let (parent, name) = self.above(path).await?;
        self.step(parent, name).await?;
        let removed = self.fs.unlink(parent, name).await;
        self.forget_all();
        removed
    }

    pub async fn rmdir(&self, path: &str) -> Op<()> {
        let (parent, name) = self.above(path).await?;
        self.fs.rmdir(parent, name).await
    }

    pub async fn rename(&self, from: &str, to: &str, no_replace: bool) -> Op<()> {
        let (old_parent, old) = self.above(from).await?;
        self.step(old_parent, old).await?;
        let (new_parent, new) = self.above(to).await?;
        self.fs.rename(old_parent, old, new_parent, new, no_replace).await
    }
}
