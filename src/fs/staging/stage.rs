//! One file's staged bytes on this host's disk: written before write(2) returns, read again after a crash.
//!
//! A small file that is here as a whole has a berth of a shelf, any other a file of its own. A file descriptor is held
//! only while the file is in use.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;

use super::file_stage::Own;
use super::note::Note;
use super::slab::ROOM;
use super::slab_stage::Docked;
use crate::base::Result;

/// See the module. Clones are the same staged file.
#[derive(Clone)]
pub enum Stage {
    Own(Own),
    Docked(Docked),
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stage({})", self.path().display())
    }
}

impl Stage {
    /// Edits stand beside it.
    pub fn partly(&self) -> bool {
        matches!(self, Stage::Own(own) if own.partly())
    }

    /// Where people find it.
    pub fn path(&self) -> PathBuf {
        match self {
            Stage::Own(own) => own.path().to_owned(),
            Stage::Docked(docked) => docked.path(),
        }
    }

    /// What notes call it.
    pub fn id(&self) -> String {
        match self {
            Stage::Own(own) => own.id(),
            Stage::Docked(docked) => docked.id(),
        }
    }

    /// It can be changed to a file of so many bytes.
    pub fn takes(&self, len: u64) -> bool {
        match self {
            Stage::Own(_) => true,
            Stage::Docked(docked) => len <= ROOM && !docked.is_durable(),
        }
    }

    /// What it holds may have been made to survive a loss of power.
    pub fn is_durable(&self) -> bool {
        match self {
            Stage::Own(own) => own.is_durable(),
            Stage::Docked(docked) => docked.is_durable(),
        }
    }

    /// What it holds was closed, which it can tell after a loss of power: what takes its place must survive that.
    pub fn must_survive(&self) -> bool {
        matches!(self, Stage::Docked(docked) if docked.is_durable() || docked.was_closed())
    }

    /// Another stage that was to take its place may come back after a loss of power: nothing new must be in this one.
    pub fn keep(&self) {
        if let Stage::Docked(docked) = self {
            docked.keep();
        }
    }

    /// Makes what an earlier run left survive a loss of power.
    pub async fn harden(&self) -> Result<()> {
        match self {
            Stage::Own(own) => own.harden().await,
            Stage::Docked(docked) => docked.harden().await,
        }
    }

    /// The disk may have lost what it holds, which this host still knows.
    pub fn is_doubtful(&self) -> bool {
        matches!(self, Stage::Own(own) if own.is_doubtful())
    }

    /// Whether it survived a loss of power can be told afterwards.
    pub fn is_sure(&self) -> bool {
        match self {
            Stage::Own(own) => own.is_synced(),
            Stage::Docked(_) => true,
        }
    }

    /// The bucket has all of it.
    pub fn stored(&self) {
        if let Stage::Own(own) = self {
            own.stored();
        }
    }

    /// Both are the same staged file.
    pub fn is(&self, other: &Stage) -> bool {
        match (self, other) {
            (Stage::Own(one), Stage::Own(other)) => one.is(other),
            (Stage::Docked(one), Stage::Docked(other)) => one.is(other),
            _ => false,
        }
    }

    /// Lets go of the file descriptors until the bytes are needed again.
    pub fn rest(&self) {
        match self {
            Stage::Own(own) => own.rest(),
            Stage::Docked(docked) => docked.rest(),
        }
    }

    pub async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        match self {
            Stage::Own(own) => own.write(offset, data).await,
            Stage::Docked(docked) => docked.write(offset, data).await,
        }
    }

    /// The file is so long now, and what of it was staged behind that isn't its any more.
    pub async fn cut(&self, size: u64) -> Result<()> {
        match self {
            Stage::Own(own) => own.cut(size).await,
            Stage::Docked(docked) => docked.cut(size).await,
        }
    }

    /// `len` bytes; zeros where nothing was written.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        match self {
            Stage::Own(own) => own.read(offset, len).await,
            Stage::Docked(docked) => docked.read(offset, len).await,
        }
    }

    /// Writes down whose bytes these are. `durable`: and makes all that was staged survive a loss of power.
    pub async fn note(&self, note: &Note, durable: bool) -> Result<()> {
        match self {
            Stage::Own(own) => own.note(note, durable).await,
            Stage::Docked(docked) => docked.note(note, durable).await,
        }
    }

    /// It is nobody's for the next mount; who holds it goes on.
    pub async fn forget(&self) -> Result<()> {
        match self {
            Stage::Own(own) => own.forget().await,
            Stage::Docked(docked) => docked.forget().await,
        }
    }
}
