//! What an open file needs of its mount: the bucket, the staging area, the clock.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::bucket::BucketClient;
use crate::object::{MountOptions, Ns};
use crate::read::ReadAhead;
use crate::staging::StagingArea;
use windlass_base::rt::Rt;
use windlass_base::{Budget, Held};
use windlass_cache::DiskCache;

/// Parts of a mount that its open files need; all files share them.
#[derive(Debug)]
pub struct MountContext {
    pub rt: Rt,
    pub remote: BucketClient,
    pub staging: StagingArea,
    pub ahead: ReadAhead,
    pub options: MountOptions,
    pub clock: Clock,
    pub uploads: UploadMemory,
}

/// Largest number of bytes of a mount's parts on their way into the bucket, however much memory there is.
/// While files are written, more only takes the processors from who writes.
const UPLOADS_MAX: u64 = 128 << 20;

/// Memory of a mount for parts on their way into the bucket.
#[derive(Clone, Debug)]
pub struct UploadMemory {
    own: Budget,
    shared: Budget,
}

impl UploadMemory {
    pub fn new(shared: Budget) -> UploadMemory {
        UploadMemory { own: Budget::new(UPLOADS_MAX), shared }
    }

    /// Waits for so many bytes of memory. A holder must never wait for more.
    pub async fn take(&self, bytes: u64) -> (Held, Held) {
        // The mount's own share first: a mount that waits for that must not hold memory which others wait
        // for.
        let own = self.own.take(bytes).await;
        (own, self.shared.take(bytes).await)
    }
}

/// Resources that a mount takes of its process and shares with all else that runs there.
#[derive(Clone, Debug)]
pub struct MountResources {
    /// Cache on the local disk of what is read.
    pub cache: DiskCache,
    /// Memory for what is read ahead. Nobody waits for it.
    pub ahead: Budget,
    /// Memory for parts on their way into the bucket.
    pub uploads: Budget,
}

/// Makes the resources of a mount that shares memory with nobody.
impl From<DiskCache> for MountResources {
    fn from(cache: DiskCache) -> MountResources {
        MountResources { cache, ahead: Budget::new(256 << 20), uploads: Budget::new(UPLOADS_MAX) }
    }
}

/// A wall clock that never stands still nor goes back, so that two writes never carry one time.
#[derive(Debug, Default)]
pub struct Clock(AtomicI64);

impl MountContext {
    pub fn now(&self) -> Ns {
        let wall = Ns::from_ms(self.rt.wall_ms()).0;
        let last =
            self.clock.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(wall.max(last + 1)));
        Ns(wall.max(last.expect("the update never declines") + 1))
    }
}
