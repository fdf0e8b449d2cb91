//! The seams that the seeded simulation replaces: tasks, CPU work, time, randomness (`Rt`), the local disk (`Disk`), and
//! connections between daemons (`Dial`).
//!
//! Above this module only `tokio::sync` is used of tokio; clippy.toml bans the rest.

pub mod direct;
pub mod disk;
pub mod link;
mod lock_holder;
mod real_disk;
mod real_runtime;
pub mod sim;
mod write_parts;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;

use super::error::{Error, Kind, Result};

pub use disk::{Disk, DiskFile, DiskLock, OpenHow};
pub use link::{Dial, Link, LinkReceiver, LinkSender};
pub use real_disk::RealDisk;
pub use real_runtime::RealRuntime;

/// Monotonic time since the runtime's start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(pub Duration);

impl Instant {
    /// Returns the time since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant(self.0 + d)
    }
}

/// The services that a runtime provides; `Rt` wraps them with types.
pub trait Runtime: Send + Sync + 'static {
    fn spawn(&self, task: BoxFuture<'static, ()>);
    /// Starts a task like `spawn`, but the caller's thread may take its first step.
    fn begin(&self, task: BoxFuture<'static, ()>) {
        self.spawn(task);
    }
    /// Runs `job` on a worker thread; inline in simulation.
    fn cpu(&self, job: Box<dyn FnOnce() + Send>);
    /// Waits until the other tasks that can run had their turn.
    fn give_way(&self) -> BoxFuture<'static, ()>;
    fn sleep(&self, d: Duration) -> BoxFuture<'static, ()>;
    fn now(&self) -> Instant;
    /// Returns milliseconds since 1970: for people, never for order.
    fn wall_ms(&self) -> u64;
    fn random(&self) -> u64;
}

/// A handle on the runtime; cheap to clone.
#[derive(Clone)]
pub struct Rt(Arc<dyn Runtime>);

impl fmt::Debug for Rt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rt")
    }
}

impl Rt {
    pub fn new(runtime: Arc<dyn Runtime>) -> Rt {
        Rt(runtime)
    }

    /// Tells whether both are handles on one runtime.
    pub fn is(&self, other: &Rt) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Starts a task; dropping the handle lets it run on.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Task<T> {
        let (tx, rx) = oneshot::channel();
        let (abort, stopped) = oneshot::channel::<()>();
        self.0.spawn(
            async move {
                // An abort handle that is dropped without a word means "run on".
                let stop = async move {
                    if stopped.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                futures::pin_mut!(stop);
                futures::pin_mut!(task);
                if let futures::future::Either::Right((out, _)) = futures::future::select(stop, task).await {
                    let _ = tx.send(out);
                }
            }
            .boxed(),
        );
        Task { rx, abort: Some(abort) }
    }

    /// Does, on this thread, what of the task needs no waiting but for this host's page cache: reads and
    /// writes of files that ask for no sync. The thread must be none of the runtime's. The rest of the task,
    /// if any, becomes a task of its own; most have none, and then cost no other thread's waking. A panic
    /// ends the task alone.
    pub fn begin(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.begin(task.boxed());
    }

    /// Runs CPU-bound work away from the event loop. A panic in it is `Kind::Internal`.
    pub async fn cpu<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (tx, rx) = oneshot::channel();
        let answer = Answer(Some(tx));
        self.0.cpu(Box::new(move || {
            let tx = answer.begin();
            let _ = tx.send(job());
        }));
        rx.await.map_err(|_| Error::new(Kind::Internal, "a worker thread panicked; see the log"))
    }

    /// Lets other tasks run. Work that takes long in memory calls this every tenth of a millisecond or so:
    /// else requests wait for it.
    pub fn give_way(&self) -> BoxFuture<'static, ()> {
        self.0.give_way()
    }

    pub fn sleep(&self, d: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(d)
    }

    pub fn now(&self) -> Instant {
        self.0.now()
    }

    pub fn wall_ms(&self) -> u64 {
        self.0.wall_ms()
    }

    pub fn random(&self) -> u64 {
        self.0.random()
    }

    pub fn random128(&self) -> u128 {
        u128::from(self.random()) << 64 | u128::from(self.random())
    }

    /// Returns a random number below `n` (n > 0).
    pub fn below(&self, n: u64) -> u64 {
        ((u128::from(self.random()) * u128::from(n)) >> 64) as u64
    }

    /// Runs `task` for at most `d`. `None`: it took longer, and was dropped.
    pub async fn timeout<T>(&self, d: Duration, task: impl Future<Output = T>) -> Option<T> {
        let sleep = self.sleep(d);
        futures::pin_mut!(task);
        match futures::future::select(task, sleep).await {
            futures::future::Either::Left((out, _)) => Some(out),
            futures::future::Either::Right(_) => None,
        }
    }
}

/// The way back for the answer of a job that runs elsewhere. A runtime that ends drops jobs that have not
/// begun. Nobody is to take that for a panic, so whoever waits goes on waiting until it is dropped as well.
struct Answer<T>(Option<oneshot::Sender<T>>);

impl<T> Answer<T> {
    fn begin(mut self) -> oneshot::Sender<T> {
        self.0.take().expect("taken here only, and by drop")
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

/// A started task. Awaiting it gives its output, or `Kind::Internal` when it panicked or was aborted.
#[must_use = "dropping a Task lets it run on; say so with detach()"]
#[derive(Debug)]
pub struct Task<T> {
    rx: oneshot::Receiver<T>,
    abort: Option<oneshot::Sender<()>>,
}

impl<T> Task<T> {
    pub fn detach(self) {}

    /// Drops the task at its next await.
    pub fn abort(&mut self) {
        if let Some(abort) = self.abort.take() {
            let _ = abort.send(());
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        self.rx.poll_unpin(cx).map(|r| {
            r.map_err(|_| {
                Error::new(Kind::Internal, "a background task panicked or was stopped; see the log")
            })
        })
    }
}
