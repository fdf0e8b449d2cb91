//! What an open file or directory is known by between its open and its release.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::dir_stream::DirHandle;
use crate::file::OpenFile;
use crate::object::Base;
use crate::read::{ReadAhead, Reader};
use windlass_base::FastMap;

/// Flags with which a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenMode {
    pub read: bool,
    pub write: bool,
    pub append: bool,
    pub truncate: bool,
    pub exclusive: bool,
}

#[derive(Debug)]
pub struct FileHandle {
    pub ino: u64,
    pub file: Arc<OpenFile>,
    pub how: OpenMode,
    pub wrote: Wrote,
    pub reader: Reader,
    pub callers: Callers,
}

/// Largest number of callers that a handle remembers.
const CALLERS: usize = 16;

/// The threads that have opened a handle or written through it.
#[derive(Debug, Default)]
pub struct Callers(Mutex<Vec<u32>>);

impl Callers {
    pub fn met(&self, thread: u32) {
        let mut all = self.0.lock();
        if all.len() <= CALLERS && !all.contains(&thread) {
            // Nobody has number 0: it stands for those who were not remembered.
            let number = if all.len() == CALLERS { 0 } else { thread };
            all.push(number);
        }
    }

    pub fn all(&self) -> Vec<u32> {
        self.0.lock().clone()
    }
}

/// Counts the changes that a handle made, and those that a flush has answered for. Of two processes that
/// share a handle, one may write while the other's close sends.
#[derive(Debug, Default)]
pub struct Wrote {
    changes: AtomicU64,
    flushed: AtomicU64,
}

impl Wrote {
    /// Counts a change that the handle has made.
    pub fn add(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Begins a change, which is counted when it ends, however it does. A flush that begins before then may
    /// have missed it.
    pub fn changing(&self) -> Changing<'_> {
        Changing(self)
    }

    /// Returns the number of changes, for which a flush that begins now answers.
    pub fn now(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Records that a flush succeeded which began when `now` returned `then`.
    pub fn flushed(&self, then: u64) {
        self.flushed.fetch_max(then, Ordering::AcqRel);
    }

    /// Tells whether the handle's close has something to answer for.
    pub fn unflushed(&self) -> bool {
        self.flushed.load(Ordering::Acquire) < self.now()
    }
}

/// A change under way (`Wrote::changing`), counted when this is dropped.
#[derive(Debug)]
pub struct Changing<'a>(&'a Wrote);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.add();
    }
}

/// A version that is open for reading.
#[derive(Debug)]
pub struct VersionFile {
    pub key: String,
    /// The version's object; `None` for a mark that the object was deleted.
    pub base: Option<Base>,
    pub reader: Reader,
    pub ahead: ReadAhead,
}

#[derive(Debug, Default)]
pub struct Handles {
    pub files: FastMap<u64, Arc<FileHandle>>,
    pub dirs: FastMap<u64, Arc<DirHandle>>,
    pub version_files: FastMap<u64, Arc<VersionFile>>,
}
