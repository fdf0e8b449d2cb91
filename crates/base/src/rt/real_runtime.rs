//! The real runtime (tokio). Beside `real_disk` the one place where the bans of clippy.toml do not hold.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::real_disk::InlineIoGuard;
use super::{Instant, Runtime};

/// The runtime of programs. It runs on the tokio runtime that it was made in.
#[derive(Debug)]
pub struct RealRuntime {
    handle: tokio::runtime::Handle,
    start: std::time::Instant,
}

impl RealRuntime {
    /// Returns the runtime of the calling thread. Must be called inside a tokio runtime.
    pub fn current() -> Arc<RealRuntime> {
        Arc::new(RealRuntime { handle: tokio::runtime::Handle::current(), start: std::time::Instant::now() })
    }
}

impl Runtime for RealRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.handle.spawn(task);
    }
    fn begin(&self, mut task: BoxFuture<'static, ()>) {
        let _inside = self.handle.enter();
        let _patient = InlineIoGuard::now();
        // Whoever wakes it in between wakes nobody; it is polled again as soon as it is a task.
        let mut nobody = Context::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut nobody))) {
            Ok(Poll::Pending) => drop(self.handle.spawn(task)),
            Ok(Poll::Ready(())) => {}
            Err(_) => tracing::error!("an operation panicked; the others go on"),
        }
    }
    fn cpu(&self, job: Box<dyn FnOnce() + Send>) {
        self.handle.spawn_blocking(job);
    }
    fn give_way(&self) -> BoxFuture<'static, ()> {
        tokio::task::yield_now().boxed()
    }
    fn sleep(&self, d: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(d).boxed()
    }
    fn now(&self) -> Instant {
        Instant(self.start.elapsed())
    }
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_millis() as u64
    }
    fn random(&self) -> u64 {
        // Ids must never repeat across hosts: the operating system's generator, not a seeded one.
        let mut bytes = [0u8; 8];
        getrandom::fill(&mut bytes).expect("the operating system gives randomness");
        u64::from_le_bytes(bytes)
    }
}
