//! For which volumes stores are to be looked through, and when (protocol.md §5.9).
//!
//! The first opening of a volume by this process makes a look due when the grace period has passed, and so does each that
//! follows an owner which did not release; then a day after the last look (`Tuning::look_every`). A store that is away stays to
//! be looked through. Nothing is written down: the next process looks again. `sweep` does what is due.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use windlass_base::VolumeId;
use windlass_base::rt::Instant;

/// Time until stores that could not be looked through are asked again.
const AGAIN: Duration = Duration::from_secs(60);

/// The end of the ownership before this one, as a take-over tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    /// There was no owner: the volume is new.
    Nobody,
    Released,
    /// The owner was killed or shut out.
    Gone,
}

#[derive(Debug)]
struct Due {
    at: Instant,
    /// Stores that this look has yet to go through.
    left: BTreeSet<usize>,
    /// Is true if one look follows another each day: not for a volume that isn't open here any more.
    daily: bool,
    /// The token that the session holds which has the volume open.
    open: Weak<()>,
}

/// Rules by which looks are timed.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub grace: Duration,
    pub every: Duration,
    pub stores: usize,
}

impl Rules {
    fn all(self) -> BTreeSet<usize> {
        (0..self.stores).collect()
    }
}

/// The looks of one pool in this process.
#[derive(Debug, Default)]
pub struct Sweeps {
    due: Mutex<BTreeMap<VolumeId, Due>>,
    /// Held during a look, so that there is one at a time.
    pub turn: tokio::sync::Mutex<()>,
}

impl Sweeps {
    /// Notes that a volume is open from now on, for as long as the returned token is held.
    pub fn opened(&self, id: VolumeId, before: Before, now: Instant, rules: Rules) -> Arc<()> {
        let token = Arc::new(());
        let (at, daily) = match before {
            Before::Nobody => (now + rules.every, true),
            Before::Released | Before::Gone => (now + rules.grace, false),
        };
        let mut due = self.due.lock();
        let known = due.remove(&id).filter(|_| before != Before::Gone);
        let mut entry = known.unwrap_or_else(|| Due { at, left: rules.all(), daily, open: Weak::new() });
        entry.open = Arc::downgrade(&token);
        due.insert(id, entry);
        token
    }

    pub fn at(&self, id: VolumeId) -> Option<Instant> {
        self.due.lock().get(&id).map(|due| due.at)
    }

    /// Returns the volumes to look for now, with the stores that are left.
    pub fn now(&self, now: Instant) -> BTreeMap<VolumeId, BTreeSet<usize>> {
        let mut due = self.due.lock();
        due.retain(|_, d| d.at > now || !d.daily || d.open.strong_count() > 0);
        due.iter().filter(|(_, d)| d.at <= now).map(|(id, d)| (*id, d.left.clone())).collect()
    }

    /// Notes that the store was looked through for these volumes, by heads that were read after `began`.
    pub fn looked(&self, volumes: &BTreeSet<VolumeId>, store: usize, began: Instant) {
        let mut due = self.due.lock();
        for id in volumes {
            // One that was opened meanwhile, after an owner that did not release, needs another look.
            if let Some(d) = due.get_mut(id).filter(|d| d.at <= began) {
                d.left.remove(&store);
            }
        }
    }

    /// Ends a look that began at `began`: the next one is due a day later, or soon where stores are left.
    pub fn over(&self, began: Instant, now: Instant, rules: Rules) {
        for d in self.due.lock().values_mut().filter(|d| d.at <= began) {
            if d.left.is_empty() {
                (d.at, d.left, d.daily) = (now + rules.every, rules.all(), true);
            } else {
                d.at = now + AGAIN;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(86_400);

    fn rules(stores: usize) -> Rules {
        Rules { grace: Duration::from_secs(30), every: EVERY, stores }
    }

    fn at(secs: u64) -> Instant {
        Instant(Duration::from_secs(secs))
    }

    #[test]
    fn looks_are_due_after_openings_and_daily() {
        let (sweeps, one, two) = (Sweeps::default(), VolumeId(1), VolumeId(2));
        let first = sweeps.opened(one, Before::Released, at(0), rules(2));
        let _new = sweeps.opened(two, Before::Nobody, at(0), rules(2));
        assert!(sweeps.now(at(29)).is_empty());
        assert_eq!(sweeps.now(at(30)), [(one, rules(2).all())].into());
        sweeps.looked(&[one].into(), 1, at(30));
        sweeps.over(at(30), at(31), rules(2));
        assert_eq!(sweeps.at(one), Some(at(31) + AGAIN), "one store was away");
        drop(first);
        assert_eq!(sweeps.now(at(91)), [(one, [0].into())].into(), "remembered, also when it is let go");
        sweeps.looked(&[one].into(), 0, at(91));
        sweeps.over(at(91), at(92), rules(2));
        let again = sweeps.opened(one, Before::Released, at(100), rules(2));
        assert_eq!(sweeps.at(one), Some(at(92) + EVERY), "not at each opening");
        drop(again);
        assert_eq!(sweeps.now(at(92) + EVERY), [(two, rules(2).all())].into(), "not open here any more");
        assert_eq!(sweeps.at(one), None);
    }

    #[test]
    fn an_owner_that_goes_while_a_look_is_made_is_looked_after() {
        let (sweeps, id) = (Sweeps::default(), VolumeId(1));
        let _open = sweeps.opened(id, Before::Gone, at(0), rules(1));
        assert_eq!(sweeps.now(at(30)).len(), 1);
        let _taken = sweeps.opened(id, Before::Gone, at(31), rules(1));
        sweeps.looked(&[id].into(), 0, at(30));
        sweeps.over(at(30), at(32), rules(1));
        assert_eq!(sweeps.at(id), Some(at(61)));
        assert_eq!(sweeps.now(at(61)), [(id, rules(1).all())].into());
    }
}
