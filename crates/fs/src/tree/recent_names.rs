//! The names that this mount has made or written lately, whose removal is done before it is answered.
//!
//! Programs take the removal of such a name for a step of theirs, as SQLite does with a journal: it must not come back after
//! a kill, a loss of power or a delete that the store refuses.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use windlass_base::FastMap;
use windlass_base::rt::Instant;

/// Time for which a name counts as made or written lately.
const LATELY: Duration = Duration::from_secs(60);
/// Largest number of names that are kept one by one. With more, every name counts as written lately.
const NAMES_MAX: usize = 1 << 16;

#[derive(Debug, Default)]
struct Generation {
    /// Time of each name's last write, by the hash of its key.
    written: FastMap<u64, Instant>,
    /// Time of the last write for which there was no room.
    crowded: Option<Instant>,
}

/// Names that were made or written lately, in two generations: the older one goes when all in it is old.
#[derive(Debug, Default)]
pub struct RecentNames {
    newer: Generation,
    older: Generation,
    /// Time at which the newer generation began.
    since: Instant,
}

impl RecentNames {
    /// Notes that this mount has made or written what has this key.
    pub fn note(&mut self, key: &str, now: Instant) {
        if now.since(self.since) >= LATELY {
            self.older = std::mem::take(&mut self.newer);
            self.since = now;
        }
        let newer = &mut self.newer;
        let hash = xxh3_64(key.as_bytes());
        if newer.written.len() < NAMES_MAX || newer.written.contains_key(&hash) {
            newer.written.insert(hash, now);
        } else {
            newer.crowded = Some(now);
        }
    }

    /// Tells whether this mount has made or written the name within the last minute.
    pub fn has(&self, key: &str, now: Instant) -> bool {
        let hash = xxh3_64(key.as_bytes());
        [&self.newer, &self.older].into_iter().any(|generation| {
            let written = generation.written.get(&hash).copied();
            [written, generation.crowded].into_iter().flatten().any(|at| now.since(at) < LATELY)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_recent_for_a_minute_and_all_are_where_there_were_too_many() {
        let at = |s| Instant(Duration::from_secs(s));
        let mut names = RecentNames::default();
        names.note("a", at(1));
        assert!(names.has("a", at(60)) && !names.has("a", at(61)) && !names.has("b", at(2)));
        names.note("b", at(59));
        names.note("c", at(61));
        assert!(names.has("b", at(118)) && !names.has("b", at(119)));
        names.note("d", at(121));
        assert!(names.has("c", at(120)) && !names.has("c", at(121)));
        for n in 0..=NAMES_MAX {
            names.note(&format!("many/{n}"), at(200));
        }
        assert!(names.has("old", at(259)) && !names.has("old", at(260)));
    }
}
