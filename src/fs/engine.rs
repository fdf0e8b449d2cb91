//! What files need of their mount: the bucket, the staging folder, the clock.

use std::sync::atomic::{AtomicI64, Ordering};

use super::meta::Ns;
use super::options::MountOptions;
use super::reader::Ahead;
use super::remote::Remote;
use super::staging::Staging;
use crate::base::rt::Rt;

/// What files need of their mount.
#[derive(Debug)]
pub struct Engine {
    pub rt: Rt,
    pub remote: Remote,
    pub staging: Staging,
    pub ahead: Ahead,
    pub options: MountOptions,
    pub clock: Clock,
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
