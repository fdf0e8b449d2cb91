//! The local disk as a seam. What is promised: a write is durable after a sync of its file that began
//! after it ended; a rename or creation after `sync_dir`. Everything else may be lost, torn or reordered by a crash.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// Modes of opening a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenHow {
    /// The file must exist; it is only read.
    Read,
    /// The file must exist; it is read and written.
    Write,
    /// The file is read and written, and made if absent.
    Create,
    /// The file is read and written, and must not exist yet.
    CreateNew,
}

#[async_trait]
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Returns the length in bytes; of a block device, all that it holds.
    async fn size(&self) -> io::Result<u64>;
    /// Reads up to `len` bytes; fewer only at the end of the file.
    async fn pread(&self, offset: u64, len: usize) -> io::Result<Bytes>;
    /// Writes the parts one after another from `offset` on; with `sync`, returns when they (and all written before) are
    /// durable.
    async fn pwrite(&self, offset: u64, parts: Vec<Bytes>, sync: bool) -> io::Result<()>;
    /// Makes durable all writes that had ended before it began. Writes that are under way, or were given up
    /// midway, may or may not be durable.
    async fn sync(&self) -> io::Result<()>;
    /// Reserves space; the bytes read as zeros. Not durable before a sync.
    async fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    async fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the range read as zeros. Not durable before a sync.
    async fn zero(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Gives the range's room back to the filesystem: it reads as zeros, and the file stays as long. `Unsupported` where the
    /// filesystem can't. Not durable before a sync.
    async fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// Writes zeros as bytes, where there is no better way.
pub(super) async fn write_zeros(file: &dyn DiskFile, offset: u64, len: u64) -> io::Result<()> {
    let zeros = Bytes::from(vec![0; len.min(1 << 20) as usize]);
    let mut at = offset;
    while at < offset + len {
        let n = (offset + len - at).min(zeros.len() as u64);
        file.pwrite(at, vec![zeros.slice(..n as usize)], false).await?;
        at += n;
    }
    Ok(())
}

/// An exclusive lock on a file, which is held while this value lives.
pub trait DiskLock: Send + Sync + fmt::Debug {
    /// Identifies the locked file among its copies, for as long as it lies where it was made; never 0.
    fn place(&self) -> u64;
    /// Returns the descriptor that holds the lock, if it can be passed to another process that goes on
    /// holding the lock.
    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

#[async_trait]
pub trait Disk: Send + Sync + fmt::Debug {
    async fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file as `open` does, for one that is written and hardly ever read. Writes of whole pages go
    /// past the page cache where the filesystem lets them.
    async fn open_log(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path, how).await
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    async fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder that is empty.
    async fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Returns the names of files and folders in a folder, sorted; `NotFound` when it isn't there.
    async fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes the folder and its parents, durably.
    async fn create_dir(&self, dir: &Path) -> io::Result<()>;
    async fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes an exclusive lock on a file (made if absent); `WouldBlock` when another holds it. `note` is
    /// written into the file for people (pid).
    async fn lock(&self, path: &Path, note: &str) -> io::Result<Box<dyn DiskLock>>;
    /// Identifies this run of the machine: what was written is there while it lasts, synced or not. `None`:
    /// that can't be told.
    fn boot(&self) -> Option<String>;

    /// Returns how many bytes this process may still write to the filesystem of a folder. `None`: that can't
    /// be told.
    async fn room(&self, dir: &Path) -> Option<u64>;

    /// Lists a folder as `list` does; a folder that isn't there is empty.
    async fn list_if_there(&self, dir: &Path) -> io::Result<Vec<String>> {
        match self.list(dir).await {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// Reads the whole file, at most `max` bytes (`InvalidData` above).
    async fn read(&self, path: &Path, max: usize) -> io::Result<Bytes> {
        let file = self.open(path, OpenHow::Read).await?;
        if file.size().await? > max as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is larger than {max} bytes", path.display()),
            ));
        }
        file.pread(0, max).await
    }

    /// Replaces a file as one step, durable on return: temporary file, sync, rename, folder sync.
    async fn write_atomic(&self, path: &Path, bytes: Bytes) -> io::Result<()> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("file");
        let temp = path.with_file_name(format!(".{name}.tmp"));
        let file = self.open(&temp, OpenHow::Create).await?;
        file.set_len(0).await?;
        file.pwrite(0, vec![bytes], true).await?;
        self.rename(&temp, path).await?;
        match path.parent() {
            Some(dir) => self.sync_dir(dir).await,
            None => Ok(()),
        }
    }
}
