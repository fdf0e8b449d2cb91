//! The name (dentry) cache: what the store lately said of single names, present or absent, and of whole directories.
//! Bounded, and believed for the mount's TTL only; own changes are entered as they happen.
//!
//! An answer that was asked for before an own change is not believed after it: own changes are counted, each name's
//! and each directory's last one is remembered, and an answer carries the count it began with (`ChangeSeq`). The node
//! table's answers are checked by the same tickets. Whoever changes the bucket enters that here and in the node table
//! in one step, under the node table's lock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::metadata_sample::{Metadata, SAMPLE};
use super::recent_names::RecentNames;
use crate::object::{Attributes, NamesLock};
use windlass_base::rt::Instant;

const NAMES_MAX: usize = 1 << 16;
/// Largest number of entries of all remembered directories together.
const ENTRIES_MAX: usize = 200_000;
/// Number of entries of the largest directory that is remembered as a whole.
pub const LISTING_MAX: usize = 50_000;
/// Number of names above which a listing that says nothing of them is forgotten.
const DOUBTED_MAX: usize = 10_000;
/// Number of slots for the number of the last change, chosen by a name's hash. Two names in one slot cost no
/// more than a request.
const STRIPES: usize = 1 << 15;
/// Number of names of one directory that are asked for within `BULK_TIME` before all of them are.
const BULK: u32 = 3;
/// Number of look-ups after which the next page is listed, where one page did not have all names.
const BULK_AGAIN: u32 = 64;
/// Number of look-ups after which the next page is listed, in a directory that is being emptied.
const BULK_EMPTIED: u32 = 8;
const BULK_TIME: Duration = Duration::from_secs(5);
/// Largest number of directories whose look-ups are counted.
const BULK_DIRS: usize = 1024;
/// Number of directories that went away lately and are kept one by one. Of older ones only the number of the
/// last change is kept.
const MOVED: usize = 64;
/// Number of names that were changed lately and are kept one by one. Of older ones only the number of the
/// last change is kept.
const RECENT: usize = 1024;

/// Entries that stand at a component: a directory, an object, both or nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CachedName {
    pub dir: Option<Attributes>,
    pub object: Option<Attributes>,
}

#[derive(Debug)]
struct Listing {
    entries: BTreeMap<String, CachedName>,
    /// Names of which the listing says nothing any more.
    doubted: BTreeSet<String>,
    until: Instant,
    /// True if names that the listing doesn't show are absent.
    whole: bool,
    metadata: Metadata,
    /// Kind of metadata that a sample of names that were asked for showed so far, and the size of the sample.
    sample: (Metadata, usize),
}

impl Listing {
    fn new(
        entries: BTreeMap<String, CachedName>,
        until: Instant,
        whole: bool,
        metadata: Metadata,
    ) -> Listing {
        let (doubted, sample) = (BTreeSet::new(), (Metadata::Unknown, 0));
        Listing { entries, doubted, until, whole, metadata, sample }
    }
}

/// Reason for listing a page of a directory: many of its names are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BulkLookup {
    First,
    More,
    /// Most of the names that were asked for are absent: the caller is about to make files.
    Missing,
}

/// Count of the names of a directory for which the store was asked lately.
#[derive(Debug)]
struct LookupCount {
    names: u32,
    missing: u32,
    /// True if `BulkLookup::Missing` was answered since `since`.
    all: bool,
    since: Instant,
}

/// Number of own changes at the time when a question was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangeSeq(u64);

/// Log of own changes, which are counted: when each name and each directory was changed last.
#[derive(Debug)]
struct ChangeLog {
    count: u64,
    /// Number of the last change of each name, by its slot.
    names: Vec<u64>,
    /// Number of the last change of each directory's entries, by its slot.
    dirs: Vec<u64>,
    /// Directories that went away or moved, the latest last, each with the change's number.
    below: VecDeque<(String, u64)>,
    /// Number of the last change for which `below` has no room.
    anywhere: u64,
    /// Names that were changed, the latest last, each with the change's number.
    recent: VecDeque<(String, u64)>,
    /// Number of the last change for which `recent` has no room.
    before: u64,
}

fn stripe(text: &str) -> usize {
    xxh3_64(text.as_bytes()) as usize % STRIPES
}

impl ChangeLog {
    fn name(&mut self, stem: &str) {
        self.count += 1;
        self.names[stripe(stem)] = self.count;
        self.dirs[stripe(split(stem).0)] = self.count;
        self.recent.push_back((stem.to_owned(), self.count));
        if self.recent.len() > RECENT {
            self.before = self.recent.pop_front().map_or(self.before, |(_, at)| at);
        }
    }

    fn below(&mut self, prefix: &str) {
        self.count += 1;
        self.below.push_back((prefix.to_owned(), self.count));
        if self.below.len() > MOVED {
            self.anywhere = self.below.pop_front().map_or(self.anywhere, |(_, at)| at);
        }
    }

    /// Tells whether nothing above `key` went away since.
    fn stayed(&self, key: &str, since: ChangeSeq) -> bool {
        let mut later = self.below.iter().rev().take_while(|(_, at)| *at > since.0);
        self.anywhere <= since.0 && !later.any(|(prefix, _)| key.starts_with(prefix))
    }

    fn name_holds(&self, stem: &str, since: ChangeSeq) -> bool {
        self.names[stripe(stem)] <= since.0 && self.stayed(stem, since)
    }

    fn dir_holds(&self, prefix: &str, since: ChangeSeq) -> bool {
        self.dirs[stripe(prefix)] <= since.0 && self.stayed(prefix, since)
    }

    /// Returns the names in a directory that were changed since, if that can be told.
    fn since(&self, prefix: &str, since: ChangeSeq) -> Option<BTreeSet<String>> {
        let later = self.recent.iter().rev().take_while(|(_, at)| *at > since.0);
        let names =
            later.filter_map(|(stem, _)| stem.strip_prefix(prefix)).filter(|name| !name.contains('/'));
        let told = self.before <= since.0 && self.stayed(prefix, since);
        told.then(|| names.map(str::to_owned).collect())
    }
}

type Lru<V> = LruCache<String, V, BuildHasherDefault<Xxh3Default>>;

#[derive(Debug)]
struct Inner {
    /// Single names that the store was asked for, by the key up to the component's end.
    names: Lru<(CachedName, Instant)>,
    /// Listings of directories, by prefix.
    listings: Lru<Listing>,
    entries: usize,
    changes: ChangeLog,
    /// Names that own changes have given an object lately.
    written: RecentNames,
    lookups: Lru<LookupCount>,
}

impl Inner {
    fn enter(&mut self, prefix: &str, listing: Listing) {
        if listing.entries.len() > LISTING_MAX {
            return;
        }
        self.entries += listing.entries.len();
        let old = self.listings.put(prefix.to_owned(), listing);
        self.entries -= old.map_or(0, |l| l.entries.len());
        while self.entries > ENTRIES_MAX {
            let Some((_, old)) = self.listings.pop_lru() else { break };
            self.entries -= old.entries.len();
        }
    }
}

#[derive(Debug)]
pub struct NameCache(NamesLock<Inner>);

/// Splits a key into the directory part and its last component.
pub fn split(stem: &str) -> (&str, &str) {
    stem.split_at(stem.rfind('/').map_or(0, |at| at + 1))
}

impl NameCache {
    pub fn new() -> NameCache {
        let names =
            LruCache::with_hasher(NonZeroUsize::new(NAMES_MAX).expect("not zero"), Default::default());
        let listings = LruCache::unbounded_with_hasher(Default::default());
        let (names_at, dirs) = (vec![0; STRIPES], vec![0; STRIPES]);
        let (below, recent) = Default::default();
        let changes = ChangeLog { count: 0, names: names_at, dirs, below, anywhere: 0, recent, before: 0 };
        let lookups =
            LruCache::with_hasher(NonZeroUsize::new(BULK_DIRS).expect("not zero"), Default::default());
        let written = RecentNames::default();
        NameCache(NamesLock::new(Inner { names, listings, entries: 0, changes, written, lookups }))
    }

    /// Counts that the store is asked for a name of this directory. Now and then so many were that it is
    /// cheaper to ask for a page of them. In a directory that is `emptied`, where each name is asked for to
    /// be removed, that is so more often.
    pub fn bulk_lookup_due(&self, prefix: &str, emptied: bool, now: Instant) -> Option<BulkLookup> {
        let mut inner = self.0.lock();
        let none = || LookupCount { names: 0, missing: 0, all: false, since: now };
        let asked = inner.lookups.get_or_insert_mut(prefix.to_owned(), none);
        if now.since(asked.since) > BULK_TIME {
            *asked = none();
        }
        asked.names += 1;
        if asked.missing + 1 >= BULK && !asked.all {
            asked.all = true;
            return Some(BulkLookup::Missing);
        }
        match asked.names {
            BULK => Some(BulkLookup::First),
            n if n % (if emptied { BULK_EMPTIED } else { BULK_AGAIN }) == 0 => Some(BulkLookup::More),
            _ => None,
        }
    }

    /// Counts that the store has nothing of a name of this directory.
    pub fn missed(&self, prefix: &str) {
        if let Some(asked) = self.0.lock().lookups.get_mut(prefix) {
            asked.missing += 1;
        }
    }

    /// Returns the number of own changes, to be taken before the store is asked.
    pub fn seq(&self) -> ChangeSeq {
        ChangeSeq(self.0.lock().changes.count)
    }

    /// Tells whether an answer about a name that was asked for at `since` is still to be believed: nothing
    /// was changed here since then.
    pub fn is_current(&self, stem: &str, since: ChangeSeq) -> bool {
        self.0.lock().changes.name_holds(stem, since)
    }

    /// Counts a change of a name that stands here for a file of which the store knows nothing yet.
    pub fn touched(&self, stem: &str, now: Instant) {
        let mut inner = self.0.lock();
        inner.changes.name(stem);
        inner.written.note(stem, now);
    }

    /// Tells whether this mount has made, written or changed the object of this name within the last minute.
    pub fn is_written_lately(&self, stem: &str, now: Instant) -> bool {
        self.0.lock().written.has(stem, now)
    }

    /// Returns what is known of a name, until when, and what metadata the objects of its directory carry.
    pub fn get(&self, stem: &str, now: Instant) -> Option<(CachedName, Instant, Metadata)> {
        let mut inner = self.0.lock();
        if let Some((seen, until)) = inner.names.get(stem).filter(|(_, until)| *until > now) {
            return Some((seen.clone(), *until, Metadata::Unknown));
        }
        let (prefix, component) = split(stem);
        let listing =
            inner.listings.get(prefix).filter(|l| l.until > now && !l.doubted.contains(component))?;
        let seen = match listing.entries.get(component) {
            Some(seen) => seen.clone(),
            None if listing.whole => CachedName::default(),
            None => return None,
        };
        Some((seen, listing.until, listing.metadata))
    }

    pub fn learn(&self, stem: &str, seen: CachedName, until: Instant, seq: ChangeSeq) {
        let mut inner = self.0.lock();
        if inner.changes.name_holds(stem, seq) {
            inner.names.put(stem.to_owned(), (seen, until));
        }
    }

    /// Enters a directory that was listed as a whole.
    pub fn learn_listing(
        &self,
        prefix: &str,
        entries: BTreeMap<String, CachedName>,
        until: Instant,
        metadata: Metadata,
        seq: ChangeSeq,
    ) {
        let mut inner = self.0.lock();
        if inner.changes.dir_holds(prefix, seq) {
            inner.enter(prefix, Listing::new(entries, until, true, metadata));
        }
    }

    /// Enters names that stand in a directory. With `whole`, no others do, but perhaps the names in it.
    /// Nothing is said of names that were changed here since.
    pub fn learn_page(
        &self,
        prefix: &str,
        mut entries: BTreeMap<String, CachedName>,
        whole: Option<BTreeSet<String>>,
        until: Instant,
        seq: ChangeSeq,
    ) {
        let mut inner = self.0.lock();
        let changed = whole.and_then(|perhaps| Some(&inner.changes.since(prefix, seq)? | &perhaps));
        match &changed {
            Some(changed) => entries.retain(|component, _| !changed.contains(component)),
            None => {
                entries.retain(|component, _| inner.changes.name_holds(&format!("{prefix}{component}"), seq))
            }
        }
        let mut listing = Listing::new(entries, until, changed.is_some(), Metadata::Unknown);
        listing.doubted = changed.unwrap_or_default();
        inner.enter(prefix, listing);
    }

    /// Counts that an object that a listing shows was looked at: when some were, the others are known. Who
    /// asks for single names doesn't begin with small ones, which may be links.
    pub fn sampled(&self, prefix: &str, metadata: Metadata) {
        let mut inner = self.0.lock();
        let Some(listing) = inner.listings.get_mut(prefix) else { return };
        let (worst, looked) = listing.sample;
        listing.sample = (worst.max(metadata).max(Metadata::Defaults), looked + 1);
        if looked + 1 >= SAMPLE || metadata == Metadata::Rich {
            listing.metadata = listing.metadata.max(listing.sample.0);
        }
    }

    /// Enters a change that we made of what stands at `stem`. What was known of it too long ago is not taken
    /// for known.
    pub fn changed(&self, stem: &str, now: Instant, until: Instant, change: impl Fn(&mut CachedName)) {
        let mut inner = self.0.lock();
        inner.changes.name(stem);
        let (prefix, component) = split(stem);
        let named = inner.names.pop(stem).filter(|(_, until)| *until > now).map(|(seen, _)| seen);
        let mut fresh = None;
        if let Some(listing) = inner.listings.get_mut(prefix).filter(|l| l.until > now) {
            let told = listing.whole || listing.entries.contains_key(component);
            if told && !listing.doubted.contains(component) {
                let new = !listing.entries.contains_key(component);
                let entry = listing.entries.entry(component.to_owned()).or_default();
                change(entry);
                fresh = Some(entry.clone());
                inner.entries += usize::from(new);
            }
        } else if let Some(old) = inner.listings.pop(prefix) {
            inner.entries -= old.entries.len();
        }
        let known = fresh.is_some() || named.is_some();
        let mut seen = fresh.or(named).unwrap_or_default();
        change(&mut seen);
        if seen.object.is_some() {
            inner.written.note(stem, now);
        }
        // That nothing is left is not known of a name that we knew nothing of: something may have been hidden.
        if known || seen != CachedName::default() {
            inner.names.put(stem.to_owned(), (seen, until));
        }
    }

    /// Forgets a name after something that leaves us in doubt: the store is asked next time.
    pub fn forget(&self, stem: &str) {
        let mut inner = self.0.lock();
        inner.changes.name(stem);
        inner.names.pop(stem);
        let (prefix, component) = split(stem);
        if let Some(listing) = inner.listings.get_mut(prefix)
            && listing.doubted.len() < DOUBTED_MAX
        {
            listing.doubted.insert(component.to_owned());
        } else if let Some(old) = inner.listings.pop(prefix) {
            inner.entries -= old.entries.len();
        }
    }

    /// Forgets all that is known below a directory that went away or moved.
    pub fn forget_below(&self, prefix: &str) {
        let mut inner = self.0.lock();
        inner.changes.below(prefix);
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
    use super::*;
    use crate::object::{MountOptions, Ns};

    fn object() -> CachedName {
        let attributes = Attributes::listed(&MountOptions::default(), false, 1, None, Ns(0));
        CachedName { dir: None, object: Some(attributes) }
    }

    fn at(s: u64) -> Instant {
        Instant(Duration::from_secs(s))
    }

    #[test]
    fn answers_asked_before_a_change_are_not_believed_after_it() {
        let known = NameCache::new();
        let seq = known.seq();
        known.changed("d/a", at(1), at(5), |s| *s = object());
        assert!(
            !known.is_current("d/a", seq)
                && known.is_current("d/b", seq)
                && known.is_current("d/a", known.seq())
        );
        known.learn("d/a", CachedName::default(), at(5), seq);
        known.learn_listing("d/", BTreeMap::new(), at(5), Metadata::Unknown, seq);
        assert_eq!(known.get("d/a", at(1)).unwrap().0, object());
        assert!(known.get("d/b", at(1)).is_none());
        assert!(known.get("d/a", at(5)).is_none(), "nothing is believed past its time");
    }

    #[test]
    fn names_that_were_not_asked_for_are_not_absent() {
        let known = NameCache::new();
        let seq = known.seq();
        known.learn_page("d/", BTreeMap::from([("a".to_owned(), object())]), None, at(5), seq);
        assert_eq!(known.get("d/a", at(1)).unwrap().0, object());
        assert_eq!(known.get("d/b", at(1)), None);
        known.changed("d/b", at(1), at(6), |seen| seen.object = None);
        assert_eq!(known.get("d/b", at(2)), None, "a directory of that name may be hidden");
        known.changed("d/a", at(1), at(6), |seen| seen.object = None);
        assert_eq!(known.get("d/a", at(2)).unwrap().0, CachedName::default());
        let asked = (1..=130).filter_map(|n| known.bulk_lookup_due("d/", false, at(1)).map(|bulk| (n, bulk)));
        assert_eq!(
            asked.collect::<Vec<_>>(),
            [(3, BulkLookup::First), (64, BulkLookup::More), (128, BulkLookup::More)]
        );
        let missing = (1..=9).filter_map(|n| {
            known.missed("d/");
            known.bulk_lookup_due("d/", false, at(9)).map(|bulk| (n, bulk))
        });
        assert_eq!(missing.collect::<Vec<_>>(), [(3, BulkLookup::Missing)], "one miss is of the time before");
    }

    #[test]
    fn a_page_that_is_all_of_a_directory_says_nothing_of_what_was_changed_meanwhile() {
        let known = NameCache::new();
        known.changed("d/old", at(0), at(1), |s| *s = object());
        let seq = known.seq();
        for name in ["d/new", "d/gone", "d/sub/new", "e/new"] {
            known.touched(name, at(1));
        }
        let page = || ["a", "gone"].map(|name| (name.to_owned(), object())).into();
        known.learn_page("d/", page(), Some(BTreeSet::new()), at(5), seq);
        assert_eq!(known.get("d/a", at(1)).unwrap().0, object());
        for name in ["d/other", "d/sub", "d/old"] {
            assert_eq!(known.get(name, at(1)).unwrap().0, CachedName::default(), "{name}");
        }
        assert!(known.get("d/new", at(1)).is_none() && known.get("d/gone", at(1)).is_none());
        // What is made later is known, and what is not remembered may be any name.
        known.changed("d/later", at(1), at(9), |s| *s = object());
        assert_eq!(known.get("d/later", at(2)).unwrap().0, object());
        let seq = known.seq();
        for n in 0..=RECENT {
            known.touched(&format!("e/{n}"), at(1));
        }
        known.learn_page("d/", page(), Some(BTreeSet::new()), at(5), seq);
        assert_eq!(known.get("d/a", at(1)).unwrap().0, object());
        assert!(known.get("d/other", at(1)).is_none());
        known.learn_page("d/", page(), Some(BTreeSet::new()), at(5), known.seq());
        known.forget_below("d/");
        assert!(known.get("d/other", at(1)).is_none());
        let seq = known.seq();
        known.forget_below("d/");
        known.learn_page("d/", page(), Some(BTreeSet::new()), at(5), seq);
        assert!(known.get("d/a", at(1)).is_none() && known.get("d/other", at(1)).is_none());
    }

    #[test]
    fn a_listing_answers_for_absent_names_too() {
        let known = NameCache::new();
        let seq = known.seq();
        known.learn_listing("d/", BTreeMap::from([("a".to_owned(), object())]), at(5), Metadata::None, seq);
        assert_eq!(known.get("d/a", at(1)).unwrap(), (object(), at(5), Metadata::None));
        assert_eq!(known.get("d/b", at(1)).unwrap().0, CachedName::default());
        known.changed("d/b", at(1), at(6), |s| *s = object());
        assert_eq!(known.get("d/b", at(1)).unwrap().0, object());
        known.forget("d/b");
        assert!(known.get("d/b", at(1)).is_none(), "of that one nothing is known");
        assert_eq!(known.get("d/c", at(1)).unwrap().0, CachedName::default(), "of its neighbours what was");
        known.forget_below("d/");
        assert!(known.get("d/a", at(1)).is_none() && known.get("d/b", at(1)).is_none());
        assert!(!known.is_current("d/x", seq) && known.is_current("e/x", seq));
        for i in 0..=MOVED {
            known.forget_below(&format!("m{i}/"));
        }
        assert!(!known.is_current("e/x", seq), "what is not remembered may have been anywhere");
    }
}
