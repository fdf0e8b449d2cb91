//! Deletes that go together: who removes many names one after another is answered at once, and the store is asked for
//! up to a thousand of them in one request, a moment later.
//!
//! Whoever asks the store about a name that waits here, or lists a prefix that has one, is held until it is gone: on
//! this mount a removed name never shows again unless its delete failed, which the log says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::rt::Rt;
use crate::store::{BucketRef, Cause};

/// One request's keys.
const BATCH: usize = 1000;
/// A removed name waits no longer for others.
const WINDOW: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct DeleteQueue {
    waiting: BTreeSet<String>,
    sending: BTreeSet<String>,
    running: bool,
}

impl DeleteQueue {
    fn has(&self, prefix: &str, exact: bool) -> bool {
        let any = |set: &BTreeSet<String>| match exact {
            true => set.contains(prefix),
            false => set.range(prefix.to_owned()..).next().is_some_and(|key| key.starts_with(prefix)),
        };
        any(&self.waiting) || any(&self.sending)
    }
}

#[derive(Debug)]
pub struct Deletes {
    rt: Rt,
    bucket: BucketRef,
    state: Mutex<DeleteQueue>,
    hurry: Notify,
    done: Notify,
}

impl Deletes {
    pub fn new(rt: Rt, bucket: BucketRef) -> Arc<Deletes> {
        Arc::new(Deletes { rt, bucket, state: Mutex::default(), hurry: Notify::new(), done: Notify::new() })
    }

    /// Deletes the object soon.
    pub fn add(self: &Arc<Self>, key: &str) {
        let mut state = self.state.lock();
        state.waiting.insert(key.to_owned());
        if state.waiting.len() >= BATCH {
            self.hurry.notify_one();
        }
        if !std::mem::replace(&mut state.running, true) {
            let this = self.clone();
            self.rt.spawn(async move { this.run().await }).detach();
        }
    }

    async fn run(&self) {
        loop {
            let full = self.state.lock().waiting.len() >= BATCH;
            if !full {
                self.rt.timeout(WINDOW, self.hurry.notified()).await;
            }
            let batch: Vec<String> = {
                let mut state = self.state.lock();
                // A folder goes after what was in it: a server that has real folders (SeaweedFS) keeps one that is not empty.
                let batch: Vec<String> = state.waiting.iter().rev().take(BATCH).cloned().collect();
                if batch.is_empty() {
                    state.running = false;
                    return;
                }
                for key in &batch {
                    state.waiting.remove(key);
                }
                state.sending.extend(batch.iter().cloned());
                batch
            };
            if let Err(why) = self.bucket.delete(&batch, Cause::File).await {
                tracing::error!(first = batch[0], names = batch.len(), %why, "removed names could not be deleted: they show again");
            }
            self.state.lock().sending.clear();
            self.done.notify_waiters();
        }
    }

    /// Waits until nothing that waits has this key.
    pub async fn wait_for_delete(&self, key: &str) {
        self.gone(key, true).await;
    }

    /// The same for all that begin with `prefix`.
    pub async fn settled_below(&self, prefix: &str) {
        self.gone(prefix, false).await;
    }

    /// Whether nothing that waits begins so.
    pub fn is_settled_below(&self, prefix: &str) -> bool {
        !self.state.lock().has(prefix, false)
    }

    async fn gone(&self, prefix: &str, exact: bool) {
        loop {
            let done = self.done.notified();
            futures::pin_mut!(done);
            done.as_mut().enable();
            if !self.state.lock().has(prefix, exact) {
                return;
            }
            self.hurry.notify_one();
            done.await;
        }
    }
}
