//! Where names are removed one after another, as by `rm -r`: such a directory's deletes go together, and its lookups need no
//! more than a listing.

use std::hash::BuildHasherDefault;
use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3Default;

use windlass_base::rt::Instant;

/// Longest time between two removals of names of one directory that go together.
const PAUSE: Duration = Duration::from_millis(300);
/// Number of removals in a row from which on they go together.
const MANY: u32 = 3;
/// Largest number of directories that are emptied at once, by as many hands.
const DIRECTORIES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

#[derive(Debug)]
struct Run {
    names: u32,
    last: Instant,
}

/// Removals in a row, by directory.
#[derive(Debug)]
pub struct UnlinkBursts(Mutex<LruCache<String, Run, BuildHasherDefault<Xxh3Default>>>);

impl UnlinkBursts {
    pub fn new() -> UnlinkBursts {
        UnlinkBursts(Mutex::new(LruCache::with_hasher(DIRECTORIES, Default::default())))
    }

    /// Counts that a name of this directory is removed. Returns true from the third removal on without a
    /// pause.
    pub fn goes_on(&self, prefix: &str, now: Instant) -> bool {
        let mut runs = self.0.lock();
        let run = runs.get_or_insert_mut(prefix.to_owned(), || Run { names: 0, last: now });
        run.names = if now.since(run.last) < PAUSE { run.names.saturating_add(1) } else { 1 };
        run.last = now;
        run.names >= MANY
    }

    /// Tells whether names of this directory are being removed one after another right now.
    pub fn is_emptied(&self, prefix: &str, now: Instant) -> bool {
        let runs = self.0.lock();
        runs.peek(prefix).is_some_and(|run| run.names >= MANY && now.since(run.last) < PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_has_a_run_of_its_own() {
        let at = |ms| Instant(Duration::from_millis(ms));
        let removals = UnlinkBursts::new();
        let goes_on: Vec<bool> =
            (0..4).flat_map(|n| ["a/", "b/"].map(|prefix| removals.goes_on(prefix, at(200 * n)))).collect();
        assert_eq!(goes_on, [false, false, false, false, true, true, true, true]);
        assert!(removals.is_emptied("a/", at(899)) && !removals.is_emptied("a/", at(900)));
        assert!(!removals.is_emptied("c/", at(600)));
        assert!(!removals.goes_on("a/", at(900)), "a pause ends it");
        for n in 0..DIRECTORIES.get() {
            removals.goes_on(&format!("{n}/"), at(900));
        }
        assert!(!removals.goes_on("b/", at(901)), "the oldest are forgotten");
    }
}
