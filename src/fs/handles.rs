//! What an open file or directory is known by between its open and its release.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::file::OpenFile;
use super::reader::Reader;
use super::stream::DirHandle;
use crate::base::FastMap;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct How {
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
    pub how: How,
    /// It wrote since its last flush; its close answers for that.
    pub wrote: AtomicBool,
    pub reader: Reader,
}

#[derive(Debug, Default)]
pub struct Handles {
    pub files: FastMap<u64, Arc<FileHandle>>,
    pub dirs: FastMap<u64, Arc<DirHandle>>,
}
