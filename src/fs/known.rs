//! What the store lately said about names: single ones, present or absent, and whole directories. Bounded, and
//! believed for the mount's TTL only; own changes are entered as they happen.
//!
//! An answer that was asked for before an own change of that directory is not entered after it: each directory has a
//! count of changes, and an answer carries the count it began with (`Ticket`).

use std::collections::BTreeMap;
use std::hash::BuildHasherDefault;
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::facts::Facts;
use crate::base::rt::Instant;

const NAMES_MAX: usize = 1 << 16;
/// Entries of all remembered directories together.
const ENTRIES_MAX: usize = 200_000;
/// A larger directory is not remembered as a whole.
pub const LISTING_MAX: usize = 50_000;
const STRIPES: usize = 1024;

/// What stands at a component: a directory, an object, both or nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    pub dir: Option<Facts>,
    pub object: Option<Facts>,
}

#[derive(Debug)]
struct Listing {
    entries: BTreeMap<String, Seen>,
    until: Instant,
    /// A sample showed that its objects carry nothing but defaults: a listing's facts are good enough.
    light: bool,
}

/// A directory's count of changes when a question was asked.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(u64);

type Lru<V> = LruCache<String, V, BuildHasherDefault<Xxh3Default>>;

#[derive(Debug)]
struct Inner {
    /// By the key up to the component's end.
    names: Lru<(Seen, Instant)>,
    /// By prefix.
    listings: Lru<Listing>,
    entries: usize,
    changes: Vec<u64>,
}

#[derive(Debug)]
pub struct Known(Mutex<Inner>);

/// The directory part of a key and its last component.
pub fn split(stem: &str) -> (&str, &str) {
    stem.split_at(stem.rfind('/').map_or(0, |at| at + 1))
}

fn stripe(stem: &str) -> usize {
    xxh3_64(split(stem).0.as_bytes()) as usize % STRIPES
}

impl Known {
    pub fn new() -> Known {
        let names =
            LruCache::with_hasher(NonZeroUsize::new(NAMES_MAX).expect("not zero"), Default::default());
        let listings = LruCache::unbounded_with_hasher(Default::default());
        Known(Mutex::new(Inner { names, listings, entries: 0, changes: vec![0; STRIPES] }))
    }

    /// Before asking the store about a name at `stem` (or a directory, given its prefix).
    pub fn ticket(&self, stem: &str) -> Ticket {
        Ticket(self.0.lock().changes[stripe(stem)])
    }

    /// What is known of a name, until when, and whether a listing's facts are good enough.
    pub fn get(&self, stem: &str, now: Instant) -> Option<(Seen, Instant, bool)> {
        let mut inner = self.0.lock();
        if let Some((seen, until)) = inner.names.get(stem).filter(|(_, until)| *until > now) {
            return Some((seen.clone(), *until, false));
        }
        let (prefix, component) = split(stem);
        let listing = inner.listings.get(prefix).filter(|l| l.until > now)?;
        let seen = listing.entries.get(component).cloned().unwrap_or_default();
        Some((seen, listing.until, listing.light))
    }

    pub fn learn(&self, stem: &str, seen: Seen, until: Instant, ticket: Ticket) {
        let mut inner = self.0.lock();
        if inner.changes[stripe(stem)] == ticket.0 {
            inner.names.put(stem.to_owned(), (seen, until));
        }
    }

    /// A whole directory was listed.
    pub fn learn_listing(
        &self,
        prefix: &str,
        entries: BTreeMap<String, Seen>,
        until: Instant,
        light: bool,
        ticket: Ticket,
    ) {
        let mut inner = self.0.lock();
        if inner.changes[stripe(prefix)] != ticket.0 || entries.len() > LISTING_MAX {
            return;
        }
        inner.entries += entries.len();
        let old = inner.listings.put(prefix.to_owned(), Listing { entries, until, light });
        inner.entries -= old.map_or(0, |l| l.entries.len());
        while inner.entries > ENTRIES_MAX {
            let Some((_, old)) = inner.listings.pop_lru() else { break };
            inner.entries -= old.entries.len();
        }
    }

    /// We changed what stands at `stem`. What was known of it too long ago is not taken for known.
    pub fn changed(&self, stem: &str, now: Instant, until: Instant, change: impl Fn(&mut Seen)) {
        let mut inner = self.0.lock();
        inner.changes[stripe(stem)] += 1;
        let (prefix, component) = split(stem);
        let named = inner.names.pop(stem).filter(|(_, until)| *until > now).map(|(seen, _)| seen);
        let mut fresh = None;
        if let Some(listing) = inner.listings.get_mut(prefix).filter(|l| l.until > now) {
            let new = !listing.entries.contains_key(component);
            let entry = listing.entries.entry(component.to_owned()).or_default();
            change(entry);
            fresh = Some(entry.clone());
            inner.entries += usize::from(new);
        } else if let Some(old) = inner.listings.pop(prefix) {
            inner.entries -= old.entries.len();
        }
        let known = fresh.is_some() || named.is_some();
        let mut seen = fresh.or(named).unwrap_or_default();
        change(&mut seen);
        // That nothing is left is not known of a name that we knew nothing of: something may have been hidden.
        if known || seen != Seen::default() {
            inner.names.put(stem.to_owned(), (seen, until));
        }
    }

    /// Something happened that leaves us in doubt: the store is asked next time.
    pub fn forget(&self, stem: &str) {
        let mut inner = self.0.lock();
        inner.changes[stripe(stem)] += 1;
        inner.names.pop(stem);
        if let Some(old) = inner.listings.pop(split(stem).0) {
            inner.entries -= old.entries.len();
        }
    }

    /// A directory went away or moved: nothing below it is believed.
    pub fn forget_below(&self, prefix: &str) {
        let mut inner = self.0.lock();
        for count in &mut inner.changes {
            *count += 1;
        }
        let below = |(key, _): &(&String, _)| key.starts_with(prefix);
        let names: Vec<String> =
            inner.names.iter().map(|(k, v)| (k, v.1)).filter(below).map(|(k, _)| k.clone()).collect();
        for name in names {
            inner.names.pop(&name);
        }
        let listings: Vec<String> =
            inner.listings.iter().map(|(k, v)| (k, v.until)).filter(below).map(|(k, _)| k.clone()).collect();
        for listing in listings {
            let old = inner.listings.pop(&listing);
            inner.entries -= old.map_or(0, |l| l.entries.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fs::meta::Ns;
    use crate::fs::options::MountOptions;

    fn object() -> Seen {
        let facts = Facts::listed(&MountOptions::default(), false, 1, None, Ns(0));
        Seen { dir: None, object: Some(facts) }
    }

    fn at(s: u64) -> Instant {
        Instant(Duration::from_secs(s))
    }

    #[test]
    fn answers_asked_before_a_change_are_not_believed_after_it() {
        let known = Known::new();
        let ticket = known.ticket("d/a");
        known.changed("d/a", at(1), at(5), |s| *s = object());
        known.learn("d/a", Seen::default(), at(5), ticket);
        known.learn_listing("d/", BTreeMap::new(), at(5), false, ticket);
        assert_eq!(known.get("d/a", at(1)).unwrap().0, object());
        assert!(known.get("d/b", at(1)).is_none());
        assert!(known.get("d/a", at(5)).is_none(), "nothing is believed past its time");
    }

    #[test]
    fn a_listing_answers_for_absent_names_too() {
        let known = Known::new();
        let ticket = known.ticket("d/");
        known.learn_listing("d/", BTreeMap::from([("a".to_owned(), object())]), at(5), true, ticket);
        assert_eq!(known.get("d/a", at(1)).unwrap(), (object(), at(5), true));
        assert_eq!(known.get("d/b", at(1)).unwrap().0, Seen::default());
        known.changed("d/b", at(1), at(6), |s| *s = object());
        assert_eq!(known.get("d/b", at(1)).unwrap().0, object());
        known.forget_below("d/");
        assert!(known.get("d/a", at(1)).is_none() && known.get("d/b", at(1)).is_none());
    }
}
