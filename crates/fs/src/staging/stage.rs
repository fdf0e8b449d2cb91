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
use windlass_base::Result;

/// A stage shared by its users; clones are the same staged file.
pub type Stage = Arc<dyn StagedFile>;

/// A place for one file's bytes and its notes: `FileStage` or `SlabStage`.
#[async_trait]
pub trait StagedFile: Send + Sync {
    /// Returns the path at which people find the stage.
    fn path(&self) -> PathBuf;

    /// Returns the id by which notes name the stage.
    fn id(&self) -> String;

    /// Tells whether what the stage holds may have been made to survive a loss of power.
    fn is_durable(&self) -> bool;

    /// Tells whether the stage is a slot: small, with all of the file, and with a checksum that tells whether
    /// what was closed survived a loss of power.
    fn is_slot(&self) -> bool {
        false
    }

    /// Tells whether a record of edits stands beside the stage: the object has the file's other bytes.
    fn partly(&self) -> bool {
        false
    }

    /// Tells whether the stage can be changed to a file of so many bytes.
    fn takes(&self, _len: u64) -> bool {
        true
    }

    /// Tells whether the stage holds what was closed, and can tell so after a loss of power: a stage that
    /// takes its place must survive that too.
    fn must_survive(&self) -> bool {
        false
    }

    /// Makes the stage take no more changes. Another stage that was to take its place may come back after a
    /// loss of power, so nothing new must be in this one.
    fn freeze(&self) {}

    /// Tells whether the disk may have lost bytes of the stage that this host still has in memory.
    fn is_doubtful(&self) -> bool {
        false
    }

    /// Tells whether it can be told after a loss of power that the stage survived.
    fn is_sure(&self) -> bool {
        true
    }

    /// Notes that the bucket has all of the stage: what is written next is not synced yet.
    fn mark_sent(&self) {}

    /// Lets go of the file descriptors until the bytes are needed again.
    fn release_fds(&self);

    /// Makes what an earlier run left in the stage survive a loss of power.
    async fn sync_recovered(&self) -> Result<()>;

    async fn write(&self, offset: u64, data: Bytes) -> Result<()>;

    /// Gives the file this length. Staged bytes behind it are no longer the file's.
    async fn cut(&self, size: u64) -> Result<()>;

    /// Removes bytes that a failed write may have left behind the file's end, `size`. They are no part of the
    /// file, but would show once the file gets longer. Needs no room on the disk.
    async fn take_back(&self, size: u64) -> Result<()> {
        self.cut(size).await
    }

    /// Reads `len` bytes; zeros where nothing was written.
    async fn read(&self, offset: u64, len: usize) -> Result<Bytes>;

    /// Returns the range whose room was given back to the disk, since an upload has its bytes. They can
    /// neither be read nor written.
    fn freed(&self) -> Range<u64> {
        0..0
    }

    /// Frees this range, which begins where the one freed before it ended. The first time, `note` says so
    /// durably before any byte goes. Returns false if this stage or its filesystem can't: nothing was freed.
    async fn free(&self, _note: &Note, _range: Range<u64>) -> Result<bool> {
        Ok(false)
    }

    /// Writes down whose bytes these are. With `durable`, all that was staged is made to survive a loss of
    /// power too.
    async fn note(&self, note: &Note, durable: bool) -> Result<()>;

    /// Takes the stage away from the next mount. Whoever holds it goes on with it.
    async fn remove(&self) -> Result<()>;
}

impl fmt::Debug for dyn StagedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stage({})", self.path().display())
    }
}

impl dyn StagedFile {
    /// Removes the stage since the bucket has the bytes or nobody wants them. A failure is logged.
    pub async fn remove_or_warn(&self) {
        if let Err(why) = self.remove().await {
            tracing::warn!(path = %self.path().display(), %why, "staged bytes that nobody needs can't be removed");
        }
    }
}
