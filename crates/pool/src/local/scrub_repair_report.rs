//! What a scrub found and a repair did.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, Serializer};

use windlass_base::{ChunkId, Error, RegisterId, Result};

/// One object, or the place of one that isn't there. Shown as its key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    pub key: String,
    /// The store's index and URL.
    pub store: usize,
    pub url: String,
    pub(crate) shard: Option<(ChunkId, usize)>,
    pub(crate) register: Option<RegisterId>,
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.key)
    }
}

/// The findings of a scrub; all empty when nothing is wrong.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScrubReport {
    /// Objects that are there, but are not what was stored.
    pub rotten: Vec<Finding>,
    pub missing: Vec<Finding>,
    /// Shards on another store than their own.
    pub misplaced: Vec<Finding>,
    /// Objects that are not the pool's.
    pub foreign: Vec<Finding>,
    /// Shards of chunks that nobody needs.
    pub orphans: Vec<Finding>,
    /// Stores that could not be looked through, and why: nothing is said about their shards.
    pub unreachable: Vec<String>,
    /// Volumes whose tables can't be read, and why: what they need nobody knows, so nothing of it is missed.
    pub unread_volumes: Vec<String>,
    /// Shards that have yet to come along to a new store, and that its predecessor has.
    #[serde(skip)]
    pub(crate) former: BTreeSet<(ChunkId, usize)>,
    /// Shards read and verified, and their bytes.
    pub checked_shards: u64,
    pub checked_bytes: u64,
    /// Copies of registers that were read.
    pub checked_registers: u64,
    /// All of the above once more, with their stores.
    pub findings: Vec<Located>,
}

/// A finding with all that a person needs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Located {
    /// `rotten`, `missing`, `misplaced`, `foreign` or `orphans`.
    pub what: Cow<'static, str>,
    pub key: String,
    pub store: String,
}

impl ScrubReport {
    /// Tells whether nothing is wrong, as far as stores could be looked through.
    pub fn is_clean(&self) -> bool {
        let all = [&self.rotten, &self.missing, &self.misplaced, &self.foreign, &self.orphans];
        all.iter().all(|found| found.is_empty()) && self.unread_volumes.is_empty()
    }
    /// Tells whether nothing is wrong, and everything was looked at.
    pub fn is_complete_and_clean(&self) -> bool {
        self.is_clean() && self.unreachable.is_empty()
    }

    /// Chunks that lack more than m shards, without those that lie elsewhere or where their store was before: what lies in them
    /// can't be read.
    pub fn lost(&self, m: usize, elsewhere: &[Finding]) -> BTreeSet<ChunkId> {
        let mut lacking: BTreeMap<ChunkId, usize> = BTreeMap::new();
        let misplaced: BTreeSet<_> = elsewhere.iter().filter_map(|f| f.shard).collect();
        let damaged = self.missing.iter().chain(&self.rotten).filter_map(|f| f.shard);
        for (id, _) in damaged.filter(|shard| !misplaced.contains(shard) && !self.former.contains(shard)) {
            *lacking.entry(id).or_default() += 1;
        }
        lacking.into_iter().filter(|(_, n)| *n > m).map(|(id, _)| id).collect()
    }

    /// Sorts the findings, and lists each of them also with its store in `findings`.
    pub(crate) fn sort(&mut self) {
        let all = [
            ("rotten", &mut self.rotten),
            ("missing", &mut self.missing),
            ("misplaced", &mut self.misplaced),
            ("foreign", &mut self.foreign),
            ("orphans", &mut self.orphans),
        ];
        self.findings.clear();
        for (what, found) in all {
            found.sort();
            found.dedup();
            let located =
                |f: &Finding| Located { what: what.into(), key: f.key.clone(), store: f.url.clone() };
            self.findings.extend(found.iter().map(located));
        }
        self.unreachable.sort();
        self.unreachable.dedup();
    }
}

/// Progress of a scrub or repair, in shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    pub done: u64,
    pub of: u64,
}

pub type Watch<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// The outcome of a repair: what was mended, and what is left.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RepairReport {
    /// Shards rebuilt in their places.
    pub rebuilt: u64,
    /// Shards in whose places other contents were, which caches may have: this host's were emptied.
    pub replaced: u64,
    /// Shards moved to their own store, or deleted from a wrong one.
    pub moved: u64,
    /// Shards deleted that nobody needs.
    pub deleted: u64,
    /// Objects that aren't the pool's, moved below `aside/`.
    pub set_aside: u64,
    /// The findings that are still wrong, and the stores that could not be looked through.
    pub left: ScrubReport,
    /// The reasons why something is left, a sentence for each different one.
    pub reasons: Vec<String>,
}

impl RepairReport {
    pub(crate) fn leave(&mut self, put: impl FnOnce(&mut ScrubReport), why: &Error) {
        put(&mut self.left);
        let why = why.to_string();
        if !self.reasons.contains(&why) && self.reasons.len() < 100 {
            self.reasons.push(why);
        }
    }
}
