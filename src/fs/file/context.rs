//! What files need of their mount: the bucket, the staging folder, the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::rt::Rt;
use crate::fs::bucket::Remote;
use crate::fs::object::{MountOptions, Ns};
use crate::fs::read::Ahead;
use crate::fs::staging::Staging;

/// What files need of their mount.
#[derive(Debug)]
pub struct Engine {
    pub rt: Rt,
    pub remote: Remote,
    pub staging: Staging,
    pub ahead: Ahead,
    pub options: MountOptions,
    pub clock: Clock,
    pub memory: Memory,
}

/// What uploads of one mount may hold in memory.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Semaphore>);

/// In pages, as permits are counted in 32 bits.
const PAGE: u64 = 4096;
const MEMORY_MAX: u64 = 128 << 20;

impl Memory {
    pub fn new() -> Memory {
        Memory(Arc::new(Semaphore::new((MEMORY_MAX / PAGE) as usize)))
    }

    /// Waits for room; more than all of it is as much as there is.
    pub async fn hold(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let pages = bytes.min(MEMORY_MAX).div_ceil(PAGE) as u32;
        self.0.clone().acquire_many_owned(pages).await.ok()
    }
}

/// Wall time that never stands still nor goes back, so that two writes never carry one time.
#[derive(Debug, Default)]
pub struct Clock(AtomicI64);

impl Engine {
    pub fn now(&self) -> Ns {
        let wall = Ns::from_ms(self.rt.wall_ms()).0;
        let last =
            self.clock.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(wall.max(last + 1)));
        Ns(wall.max(last.expect("the update never declines") + 1))
    }
}
