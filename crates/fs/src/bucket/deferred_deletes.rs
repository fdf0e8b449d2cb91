//! Deletes that go together: who removes many names one after another is answered at once, and the store is asked for
//! up to a thousand of them in one request, a moment later.
//!
//! Whoever asks the store about a name that waits here, or lists a prefix that has one, is held until it is gone. A delete
//! that failed holds nobody: its name shows again, the callback of `tell` gets it, and `retry_below` tries it once more.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::remover::{Doomed, Removed, Remover, is_refusal};
use crate::object::Sighting;
use windlass_base::Error;

/// Largest number of keys in one request.
const BATCH: usize = 1000;
/// Longest time between two removals of names that go together.
const WINDOW: Duration = Duration::from_millis(50);
/// Number of windows for which a removed name waits for others, at most.
const WINDOWS: u32 = 10;
/// Time until names are tried again that could not be deleted, unless the store refused them.
const AGAIN: Duration = Duration::from_secs(10);

/// Callback at the end of each batch: gets the keys that are gone (or others' by now), and the objects that
/// are left.
pub type Ended = Box<dyn Fn(&[String], &[Doomed]) + Send + Sync>;

#[derive(Debug, Default)]
struct DeleteQueue {
    waiting: BTreeMap<String, Doomed>,
    sending: BTreeMap<String, Doomed>,
    /// Objects that could not be deleted, by their keys.
    failed: BTreeMap<String, Doomed>,
    /// Reason of the last failure.
    why: Option<Error>,
    running: bool,
    /// A task waits to try the failed ones again.
    comes_back: bool,
    /// The mount has ended: no further batch is begun.
    ended: bool,
}

fn any_below<T>(of: &BTreeMap<String, T>, prefix: &str) -> bool {
    of.range(prefix.to_owned()..).next().is_some_and(|(key, _)| key.starts_with(prefix))
}

impl DeleteQueue {
    fn has(&self, prefix: &str, exact: bool) -> bool {
        let any = |of: &BTreeMap<String, Doomed>| match exact {
            true => of.contains_key(prefix),
            false => any_below(of, prefix),
        };
        any(&self.waiting) || any(&self.sending)
    }

    /// Moves the last keys, in order, from `waiting` to `sending`, and returns them. A folder goes after what
    /// was in it: a server that has real folders (SeaweedFS) keeps one that is not empty.
    fn next_batch(&mut self) -> Vec<Doomed> {
        let batch: Vec<Doomed> = self.waiting.values().rev().take(BATCH).cloned().collect();
        for doomed in &batch {
            self.waiting.remove(&doomed.key);
            self.sending.insert(doomed.key.clone(), doomed.clone());
        }
        batch
    }
}

pub struct Deletes {
    remover: Remover,
    state: Mutex<DeleteQueue>,
    hurry: Notify,
    done: Notify,
    on_end: OnceLock<Ended>,
}

impl std::fmt::Debug for Deletes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Deletes({:?})", self.state.lock())
    }
}

impl Deletes {
    pub fn new(remover: Remover) -> Arc<Deletes> {
        let (state, hurry, done, on_end) = Default::default();
        Arc::new(Deletes { remover, state, hurry, done, on_end })
    }

    /// Sets who is told of each batch's end; called once.
    pub fn tell(&self, on_end: Ended) {
        let _ = self.on_end.set(on_end);
    }

    /// Queues the object, which is deleted soon.
    pub fn add(self: &Arc<Self>, doomed: Doomed) {
        let mut state = self.state.lock();
        state.failed.remove(&doomed.key);
        state.waiting.insert(doomed.key.clone(), doomed);
        if state.waiting.len() >= BATCH {
            self.hurry.notify_one();
        }
        self.start(&mut state);
    }

    fn start(self: &Arc<Self>, state: &mut DeleteQueue) {
        if !std::mem::replace(&mut state.running, true) {
            let this = self.clone();
            self.remover.rt.spawn(async move { this.run().await }).detach();
        }
    }

    async fn run(self: &Arc<Self>) {
        loop {
            self.collect().await;
            let batch = {
                let mut state = self.state.lock();
                let batch = if state.ended { Vec::new() } else { state.next_batch() };
                if batch.is_empty() {
                    state.running = false;
                    break;
                }
                batch
            };
            let Removed { left, why, .. } = self.remover.remove(&batch).await;
            let passes = why.as_ref().is_some_and(|why| !is_refusal(why));
            if let Some(why) = &why {
                tracing::error!(first = left[0].key, names = left.len(), %why, "removed names could not be deleted: they show again");
            }
            let gone: Vec<String> = {
                let mut state = self.state.lock();
                let mut gone = std::mem::take(&mut state.sending);
                for doomed in &left {
                    gone.remove(&doomed.key);
                    state.failed.insert(doomed.key.clone(), doomed.clone());
                }
                state.why = why.or(state.why.take());
                if passes && !std::mem::replace(&mut state.comes_back, true) {
                    let this = self.clone();
                    self.remover.rt.spawn(async move { this.try_again().await }).detach();
                }
                gone.into_keys().collect()
            };
            if let Some(on_end) = self.on_end.get() {
                on_end(&gone, &left);
            }
            self.done.notify_waiters();
        }
        self.done.notify_waiters();
    }

    /// Waits for more names: until none has come for a moment, or there are enough, or somebody waits for these.
    async fn collect(&self) {
        let count = || self.state.lock().waiting.len();
        for _ in 0..WINDOWS {
            let before = count();
            let hurried = self.remover.rt.timeout(WINDOW, self.hurry.notified()).await.is_some();
            if hurried || count() == before || count() >= BATCH {
                return;
            }
        }
    }

    /// Tries the failed deletes once more, some time after a store gave no answer.
    async fn try_again(self: &Arc<Self>) {
        self.remover.rt.sleep(AGAIN).await;
        {
            let mut state = self.state.lock();
            state.comes_back = false;
            if state.ended {
                return;
            }
        }
        let _ = self.retry_below("").await;
    }

    /// Returns the object that is being deleted under this key, or could not be.
    pub fn doomed(&self, key: &str) -> Option<Sighting> {
        let state = self.state.lock();
        let of = [&state.waiting, &state.sending, &state.failed];
        of.iter().find_map(|of| of.get(key)).map(|doomed| doomed.object.clone())
    }

    /// Notes that another object has the name by now. Returns true if an object that could not be deleted had
    /// the name.
    pub fn replaced(&self, key: &str) -> bool {
        self.state.lock().failed.remove(key).is_some()
    }

    /// Tries once more what could not be deleted below a prefix, and waits for the outcome. The error says
    /// why some of it can't be.
    pub async fn retry_below(self: &Arc<Self>, prefix: &str) -> Result<(), Error> {
        {
            let mut state = self.state.lock();
            let again: Vec<String> =
                state.failed.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
            for key in again {
                let doomed = state.failed.remove(&key).expect("it was there just now");
                // Its name has shown again meanwhile, to whoever puts things there.
                state.waiting.insert(key, Doomed { look_first: true, ..doomed });
            }
            if !state.waiting.is_empty() {
                self.start(&mut state);
            }
        }
        self.settled_below(prefix).await;
        let state = self.state.lock();
        match (any_below(&state.failed, prefix), &state.why) {
            (true, Some(why)) => Err(why.share()),
            _ => Ok(()),
        }
    }

    /// Ends all deletes with the mount: what is not deleted within `limit` is left. Returns how many objects
    /// are left.
    pub async fn end(self: &Arc<Self>, limit: Duration) -> usize {
        self.remover.rt.timeout(limit, self.retry_below("")).await;
        self.state.lock().ended = true;
        self.count()
    }

    /// Returns how many objects are still to be deleted, failed ones included.
    pub fn count(&self) -> usize {
        let state = self.state.lock();
        state.waiting.len() + state.sending.len() + state.failed.len()
    }

    /// Waits until no delete of this key waits or is under way, and hurries the deletes.
    pub async fn wait_for_delete(&self, key: &str) {
        self.gone(key, true).await;
    }

    /// Waits until no delete of a key that begins with `prefix` waits or is under way, and hurries the
    /// deletes.
    pub async fn settled_below(&self, prefix: &str) {
        self.gone(prefix, false).await;
    }

    /// Tells whether no delete of a key that begins with `prefix` waits or is under way.
    pub fn is_settled_below(&self, prefix: &str) -> bool {
        !self.state.lock().has(prefix, false)
    }

    async fn gone(&self, prefix: &str, exact: bool) {
        loop {
            // Registered before the state is read: a batch that ended in between would wake nobody.
            let done = self.done.notified();
            futures::pin_mut!(done);
            done.as_mut().enable();
            {
                let state = self.state.lock();
                if state.ended || !state.has(prefix, exact) {
                    return;
                }
            }
            self.hurry.notify_one();
            done.await;
        }
    }
}
