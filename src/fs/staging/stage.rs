//! One file's staged bytes on this host's disk: written before write(2) returns, read again after a crash.
//!
//! A small file that is here as a whole has a slot of a slab, any other a file of its own. A file descriptor is held
//! only while the file is in use.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;

use super::file_stage::FileStage;
use super::note::Note;
use super::slab::SLOT_DATA_MAX;
use super::slab_stage::SlabStage;
use crate::base::Result;

/// See the module. Clones are the same staged file.
#[derive(Clone)]
pub enum Stage {
    File(FileStage),
    Slab(SlabStage),
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stage({})", self.path().display())
    }
}

impl Stage {
    /// Edits stand beside it.
    pub fn partly(&self) -> bool {
        matches!(self, Stage::File(file) if file.partly())
    }

    /// Where people find it.
    pub fn path(&self) -> PathBuf {
        match self {
            Stage::File(file) => file.path().to_owned(),
            Stage::Slab(slab) => slab.path(),
        }
    }

    /// What notes call it.
    pub fn id(&self) -> String {
        match self {
            Stage::File(file) => file.id(),
            Stage::Slab(slab) => slab.id(),
        }
    }

    /// It can be changed to a file of so many bytes.
    pub fn takes(&self, len: u64) -> bool {
        match self {
            Stage::File(_) => true,
            Stage::Slab(slab) => len <= SLOT_DATA_MAX && !slab.is_durable(),
        }
    }

    /// What it holds may have been made to survive a loss of power.
    pub fn is_durable(&self) -> bool {
        match self {
            Stage::File(file) => file.is_durable(),
            Stage::Slab(slab) => slab.is_durable(),
        }
    }

    /// What it holds was closed, which it can tell after a loss of power: what takes its place must survive that.
    pub fn must_survive(&self) -> bool {
        matches!(self, Stage::Slab(slab) if slab.is_durable() || slab.was_closed())
    }

    /// Another stage that was to take its place may come back after a loss of power: nothing new must be in this one.
    pub fn freeze(&self) {
        if let Stage::Slab(slab) = self {
            slab.freeze();
        }
    }

    /// Makes what an earlier run left survive a loss of power.
    pub async fn sync_recovered(&self) -> Result<()> {
        match self {
            Stage::File(file) => file.sync_recovered().await,
            Stage::Slab(slab) => slab.sync_recovered().await,
        }
    }

    /// The disk may have lost what it holds, which this host still knows.
    pub fn is_doubtful(&self) -> bool {
        matches!(self, Stage::File(file) if file.is_doubtful())
    }

    /// Whether it survived a loss of power can be told afterwards.
    pub fn is_sure(&self) -> bool {
        match self {
            Stage::File(file) => file.is_synced(),
            Stage::Slab(_) => true,
        }
    }

    /// The bucket has all of it.
    pub fn mark_sent(&self) {
        if let Stage::File(file) = self {
            file.mark_sent();
        }
    }

    /// Both are the same staged file.
    pub fn is(&self, other: &Stage) -> bool {
        match (self, other) {
            (Stage::File(one), Stage::File(other)) => one.is(other),
            (Stage::Slab(one), Stage::Slab(other)) => one.is(other),
            _ => false,
        }
    }

    /// Lets go of the file descriptors until the bytes are needed again.
    pub fn release_fds(&self) {
        match self {
            Stage::File(file) => file.release_fds(),
            Stage::Slab(slab) => slab.release_fds(),
        }
    }

    pub async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        match self {
            Stage::File(file) => file.write(offset, data).await,
            Stage::Slab(slab) => slab.write(offset, data).await,
        }
    }

    /// The file is so long now, and what of it was staged behind that isn't its any more.
    pub async fn cut(&self, size: u64) -> Result<()> {
        match self {
            Stage::File(file) => file.cut(size).await,
            Stage::Slab(slab) => slab.cut(size).await,
        }
    }

    /// `len` bytes; zeros where nothing was written.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        match self {
            Stage::File(file) => file.read(offset, len).await,
            Stage::Slab(slab) => slab.read(offset, len).await,
        }
    }

    /// Writes down whose bytes these are. `durable`: and makes all that was staged survive a loss of power.
    pub async fn note(&self, note: &Note, durable: bool) -> Result<()> {
        match self {
            Stage::File(file) => file.note(note, durable).await,
            Stage::Slab(slab) => slab.note(note, durable).await,
        }
    }

    /// It is nobody's for the next mount; who holds it goes on.
    pub async fn remove(&self) -> Result<()> {
        match self {
            Stage::File(file) => file.remove().await,
            Stage::Slab(slab) => slab.remove().await,
        }
    }
}
