//! Who may change names right now. A call that changes the bucket passes with the keys that it is about; a rename of a
//! directory, from before its first request until its end, holds all that lies below both of its names.
//!
//! A call whose keys are held waits until they are free, and asks then what its keys have become. A holder waits for the
//! calls that have passed, and calls that come after it wait for it. Once the names of this host are the new ones, whoever
//! looks up an old one waits too: the store may show it still. Nobody waits here who holds a name lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::object::LeafLock;
use windlass_base::rt::Rt;

/// Keys of files, and prefixes of directories, which end in a slash (or are pieces).
pub type Keys = Vec<String>;

#[derive(Debug, Default)]
struct Passing {
    next: u64,
    calls: BTreeMap<u64, Keys>,
    holds: BTreeMap<u64, [String; 2]>,
    /// Old names of directories whose new names this host shows already, by the numbers of their holds.
    left: BTreeMap<u64, String>,
}

fn touches(held: &[String; 2], keys: &[String]) -> bool {
    let within = |a: &String, b: &String| a.starts_with(b.as_str());
    held.iter().any(|prefix| keys.iter().any(|key| within(key, prefix) || is_dir(key) && within(prefix, key)))
}

fn is_dir(key: &str) -> bool {
    key.is_empty() || key.ends_with('/')
}

/// The gate that calls and renames pass.
#[derive(Debug, Default)]
pub struct ChangeGate {
    passing: LeafLock<Passing>,
    changed: Notify,
    /// Number of names in `Passing::left`: mostly none.
    leaving: AtomicUsize,
}

/// A passed call, which may change what it named until this is dropped.
#[derive(Debug)]
pub struct Pass(Arc<ChangeGate>, u64);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.passing.lock().calls.remove(&self.1);
        self.0.changed.notify_waiters();
    }
}

/// A hold on all that lies below two prefixes, until this is dropped.
#[derive(Debug)]
pub struct Hold(Arc<ChangeGate>, u64);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut passing = self.0.passing.lock();
        passing.holds.remove(&self.1);
        passing.left.remove(&self.1);
        self.0.leaving.store(passing.left.len(), Ordering::Release);
        drop(passing);
        self.0.changed.notify_waiters();
    }
}

impl Hold {
    /// Declares this old name, one of the two prefixes, to be left: from now on nobody finds anything there.
    pub fn leave(&self, old: &str) {
        let mut passing = self.0.passing.lock();
        passing.left.insert(self.1, old.to_owned());
        self.0.leaving.store(passing.left.len(), Ordering::Release);
    }
}

impl ChangeGate {
    /// Passes with the keys that `keys` gives, once nobody holds them. Asked again, `keys` must give the
    /// same: a rename may have ended in between. `None`: the keys stayed held for `limit`.
    pub async fn pass<E>(
        self: &Arc<Self>,
        rt: &Rt,
        limit: Option<Duration>,
        keys: impl Fn() -> Result<Keys, E>,
    ) -> Result<Option<Pass>, E> {
        let until = limit.map(|limit| rt.now() + limit);
        loop {
            // Registered before the gate is looked at: a hold that ended in between would wake nobody.
            let changed = self.changed.notified();
            futures::pin_mut!(changed);
            changed.as_mut().enable();
            let its = keys()?;
            if let Some(pass) = self.try_pass(&its) {
                if keys()? == its {
                    return Ok(Some(pass));
                }
                continue;
            }
            match until {
                None => changed.await,
                Some(until) => {
                    if rt.timeout(until.since(rt.now()), changed).await.is_none() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Passes with these keys; `None` if somebody holds one of them.
    fn try_pass(self: &Arc<Self>, keys: &Keys) -> Option<Pass> {
        let mut passing = self.passing.lock();
        if passing.holds.values().any(|held| touches(held, keys)) {
            return None;
        }
        passing.next += 1;
        let id = passing.next;
        passing.calls.insert(id, keys.clone());
        Some(Pass(self.clone(), id))
    }

    /// Tells whether somebody holds one of these keys.
    pub fn is_held(&self, keys: &[String]) -> bool {
        self.passing.lock().holds.values().any(|held| touches(held, keys))
    }

    /// Tells whether a name is or lies below an old one that was just left. `prefix` is that of a directory
    /// of this name.
    pub fn is_left(&self, prefix: &str) -> bool {
        self.leaving.load(Ordering::Acquire) > 0
            && self.passing.lock().left.values().any(|old| prefix.starts_with(old.as_str()))
    }

    /// Waits until no old name is left that this name is or lies below. Returns false if that takes longer
    /// than `limit`.
    pub async fn wait_left(&self, rt: &Rt, limit: Duration, prefix: impl Fn() -> String) -> bool {
        let until = rt.now() + limit;
        loop {
            let changed = self.changed.notified();
            futures::pin_mut!(changed);
            changed.as_mut().enable();
            if !self.is_left(&prefix()) {
                return true;
            }
            if rt.timeout(until.since(rt.now()), changed).await.is_none() {
                return false;
            }
        }
    }

    /// Takes a hold on both prefixes: waits for whoever holds any of them, then for the calls that have
    /// passed.
    pub async fn hold(self: &Arc<Self>, prefixes: [&str; 2]) -> Hold {
        let held = prefixes.map(str::to_owned);
        let mut hold = None;
        loop {
            let changed = self.changed.notified();
            futures::pin_mut!(changed);
            changed.as_mut().enable();
            {
                let mut passing = self.passing.lock();
                // Entered before the passed calls are waited for: otherwise later calls could pass for ever,
                // and the hold would never be had.
                if hold.is_none() && !passing.holds.values().any(|other| touches(other, &held)) {
                    passing.next += 1;
                    let id = passing.next;
                    passing.holds.insert(id, held.clone());
                    hold = Some(Hold(self.clone(), id));
                }
                if hold.is_some() && !passing.calls.values().any(|keys| touches(&held, keys)) {
                    break;
                }
            }
            changed.await;
        }
        hold.expect("the loop ends with it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::sim::Sim;

    #[test]
    fn what_is_held_is_touched_by_what_lies_below_it_and_above() {
        let held = ["d/".to_owned(), "e/f/".to_owned()];
        for (key, wanted) in [
            ("d/x", true),
            ("d/", true),
            ("d", false),
            ("e/f/g/", true),
            ("e/", true),
            ("", true),
            ("e/x", false),
            ("dd/", false),
        ] {
            assert_eq!(touches(&held, &[key.to_owned()]), wanted, "{key}");
        }
    }

    /// A holder waits for who has passed; who comes later waits for it, and has another key then.
    #[test]
    fn a_call_that_waited_has_the_key_that_its_file_has_by_then() {
        let sim = Sim::new(1);
        let rt = sim.rt();
        sim.run(async move {
            let gate = Arc::new(ChangeGate::default());
            let key = Arc::new(LeafLock::new("d/x".to_owned()));
            let pass = {
                let key = key.clone();
                move |gate: Arc<ChangeGate>, rt: Rt, limit| {
                    let key = key.clone();
                    async move {
                        let keys = || Ok::<_, ()>(vec![key.lock().clone()]);
                        let passed = gate.pass(&rt, limit, keys).await.unwrap();
                        passed.map(|_| key.lock().clone())
                    }
                }
            };
            let first = gate.pass(&rt, None, || Ok::<_, ()>(vec!["d/y".to_owned()])).await.unwrap();
            let holder = gate.clone();
            let moved = key.clone();
            let inner = rt.clone();
            let holding = rt.spawn(async move {
                let hold = holder.hold(["d/", "e/"]).await;
                inner.sleep(Duration::from_secs(10)).await;
                "e/x".clone_into(&mut moved.lock());
                drop(hold);
            });
            rt.sleep(Duration::from_secs(1)).await;
            let late = rt.spawn(pass(gate.clone(), rt.clone(), None));
            let short = pass(gate.clone(), rt.clone(), Some(Duration::from_secs(2))).await;
            assert_eq!(short, None, "the holder waits for the first, and this one for the holder");
            assert!(gate.is_held(&["e/z".to_owned()]));
            drop(first);
            assert_eq!(late.await.unwrap(), Some("e/x".to_owned()));
            holding.await.unwrap();
            assert!(!gate.is_held(&["e/z".to_owned()]));
        })
        .unwrap();
    }
}
