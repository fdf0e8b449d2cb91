//! One file's staged bytes on this host's disk: written before write(2) returns, read again after a crash.
//!
//! A small file that is here as a whole has a slot of a slab, any other a file of its own. A file descriptor is held
//! only while the file is in use.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::note::Note;
use crate::base::Result;

/// See the module. Clones are the same staged file.
pub type Stage = Arc<dyn StagedFile>;

/// A place for one file's bytes and its notes: `FileStage` or `SlabStage`.
#[async_trait]
pub trait StagedFile: Send + Sync {
    /// Where people find it.
    fn path(&self) -> PathBuf;

    /// What notes call it.
    fn id(&self) -> String;

    /// What it holds may have been made to survive a loss of power.
    fn is_durable(&self) -> bool;

    /// It is a slot: small, all of the file, and a sum tells whether what was closed survived a loss of power.
    fn is_slot(&self) -> bool {
        false
    }

    /// Edits stand beside it.
    fn partly(&self) -> bool {
        false
    }

    /// It can be changed to a file of so many bytes.
    fn takes(&self, _len: u64) -> bool {
        true
    }

    /// What it holds was closed, which it can tell after a loss of power: what takes its place must survive that.
    fn must_survive(&self) -> bool {
        false
    }

    /// Another stage that was to take its place may come back after a loss of power: nothing new must be in this one.
    fn freeze(&self) {}

    /// The disk may have lost what it holds, which this host still knows.
    fn is_doubtful(&self) -> bool {
        false
    }

    /// Whether it survived a loss of power can be told afterwards.
    fn is_sure(&self) -> bool {
        true
    }

    /// The bucket has all of it: what comes next was not synced.
    fn mark_sent(&self) {}

    /// Lets go of the file descriptors until the bytes are needed again.
    fn release_fds(&self);

    /// Makes what an earlier run left survive a loss of power.
    async fn sync_recovered(&self) -> Result<()>;

    async fn write(&self, offset: u64, data: Bytes) -> Result<()>;

    /// The file is so long now, and what of it was staged behind that isn't its any more.
    async fn cut(&self, size: u64) -> Result<()>;

    /// A write that failed may have left bytes behind the file's end, `size`: no part of the file, which whatever makes it longer would
    /// show. Needs no room.
    async fn take_back(&self, size: u64) -> Result<()> {
        self.cut(size).await
    }

    /// `len` bytes; zeros where nothing was written.
    async fn read(&self, offset: u64, len: usize) -> Result<Bytes>;

    /// Bytes whose room was given back to the disk: an upload has them. They can neither be read nor written.
    fn freed(&self) -> Range<u64> {
        0..0
    }

    /// Frees this range, which goes on where the one before it ended. The first time `note` says so durably before. False: the
    /// filesystem can't, and nothing was freed.
    async fn free(&self, _note: &Note, _range: Range<u64>) -> Result<bool> {
        Ok(false)
    }

    /// Writes down whose bytes these are. `durable`: and makes all that was staged survive a loss of power.
    async fn note(&self, note: &Note, durable: bool) -> Result<()>;

    /// It is nobody's for the next mount; who holds it goes on.
    async fn remove(&self) -> Result<()>;
}

impl fmt::Debug for dyn StagedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stage({})", self.path().display())
    }
}

impl dyn StagedFile {
    /// The bucket has the bytes, or nobody wants them.
    pub async fn remove_or_warn(&self) {
        if let Err(why) = self.remove().await {
            tracing::warn!(path = %self.path().display(), %why, "staged bytes that nobody needs can't be removed");
        }
    }
}
