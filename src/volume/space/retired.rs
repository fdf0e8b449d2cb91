//! Objects that the recorded table lists as retired: since when, and which of them are deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ledger::{Ledger, Object};
use crate::base::rt::Instant;

/// Objects deleted together.
const AT_ONCE: usize = 64;

/// Retired objects of one session.
#[derive(Debug, Default)]
pub struct Retired {
    /// Since when the recorded table lists them.
    since: BTreeMap<Object, Instant>,
    /// Deleted; the next checkpoint forgets them.
    gone: BTreeSet<Object>,
}

impl Retired {
    /// This table is recorded.
    pub fn recorded(&mut self, ledger: &Ledger, now: Instant) {
        self.gone.retain(|o| ledger.retired.contains(o));
        for object in ledger.retired.iter().filter(|o| !self.gone.contains(o)) {
            self.since.entry(*object).or_insert(now);
        }
    }

    /// What may be deleted now, and when the next may.
    pub fn due(&self, now: Instant, grace: Duration) -> (Vec<Object>, Option<Instant>) {
        let ready = self.since.iter().filter(|(_, at)| **at + grace <= now);
        let next = self.since.values().map(|at| *at + grace).min();
        (ready.map(|(o, _)| *o).take(AT_ONCE).collect(), next)
    }

    pub fn deleted(&mut self, objects: &[Object]) {
        for object in objects {
            self.since.remove(object);
            self.gone.insert(*object);
        }
    }

    /// Takes what is deleted off a table's list.
    pub fn forget_in(&self, ledger: &mut Ledger) {
        ledger.retired.retain(|o| !self.gone.contains(o));
    }

    /// Objects that wait to be deleted.
    pub fn waiting(&self) -> usize {
        self.since.len()
    }
}
