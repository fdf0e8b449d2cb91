//! What an open file needs of its mount: the bucket, the staging area, the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::rt::Rt;
use crate::fs::bucket::BucketClient;
use crate::fs::object::{MountOptions, Ns};
use crate::fs::read::ReadAhead;
use crate::fs::staging::StagingArea;

/// What an open file needs of its mount. Shared by all files.
#[derive(Debug)]
pub struct MountContext {
    pub rt: Rt,
    pub remote: BucketClient,
    pub staging: StagingArea,
    pub ahead: ReadAhead,
    pub options: MountOptions,
    pub clock: Clock,
    pub memory: UploadMemory,
}

/// What uploads of one mount may hold in memory.
#[derive(Clone, Debug)]
pub struct UploadMemory(Arc<Semaphore>);

/// In pages, as permits are counted in 32 bits.
const PAGE: u64 = 4096;
const MEMORY_MAX: u64 = 128 << 20;

impl UploadMemory {
    pub fn new() -> UploadMemory {
        UploadMemory(Arc::new(Semaphore::new((MEMORY_MAX / PAGE) as usize)))
    }

    /// Waits for room; more than all of it is as much as there is.
    pub async fn reserve(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let pages = bytes.min(MEMORY_MAX).div_ceil(PAGE) as u32;
        self.0.clone().acquire_many_owned(pages).await.ok()
    }
}

/// Wall time that never stands still nor goes back, so that two writes never carry one time.
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
