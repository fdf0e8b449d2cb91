//! What the kernel knows of earlier versions: a tree of its own beside the table of the files, as nothing in it ever
//! changes, is written or is sent.
//!
//! `D/.versions` is the `Names` of D's prefix, `D/.versions/NAME` the `Versions` of a key, what lies in that is `One`; and
//! `D/.versions/NAME/.versions` is the `Names` of a directory that perhaps is no more. A node lives while the kernel
//! counts lookups of it; numbers have the highest bit, which no file's number has.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::base::FastMap;
use crate::fs::object::{Facts, VersionName};
use crate::store::Etag;

const BIT: u64 = 1 << 63;

/// Whether a node's number is one of an earlier version, or of a directory of them.
pub fn is_past(ino: u64) -> bool {
    ino & BIT != 0
}

/// What a number stands for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PastPlace {
    /// What has versions below a prefix (a directory's, or a piece).
    Names(String),
    /// The versions of a key.
    Versions(String),
    One {
        key: String,
        name: VersionName,
    },
}

#[derive(Debug)]
pub struct PastNode {
    pub ino: u64,
    pub place: PastPlace,
    lookups: u64,
    /// A listing's until it was looked up.
    pub facts: Facts,
    /// The object whose pages the kernel may hold.
    pub cached: Option<Etag>,
}

#[derive(Debug, Default)]
pub struct PastNodes {
    by_ino: FastMap<u64, PastNode>,
    by_place: BTreeMap<PastPlace, u64>,
}

/// A mount's share of this.
#[derive(Debug, Default)]
pub struct Past {
    pub nodes: Mutex<PastNodes>,
    /// The store is known to keep versions.
    pub kept: AtomicBool,
}

impl PastNodes {
    pub fn get(&self, ino: u64) -> Option<&PastNode> {
        self.by_ino.get(&ino)
    }

    pub fn get_mut(&mut self, ino: u64) -> Option<&mut PastNode> {
        self.by_ino.get_mut(&ino)
    }

    /// Finds the node or makes it, which the kernel is told of. Facts that were looked up outlive those of a listing.
    pub fn looked_up(&mut self, place: &PastPlace, facts: &Facts) -> &PastNode {
        let ino = self.by_place.get(place).copied().unwrap_or_else(|| self.insert(place, facts));
        let node = self.by_ino.get_mut(&ino).expect("each place's node is in the table");
        node.lookups += 1;
        if facts.exact || !node.facts.exact {
            node.facts = facts.clone();
        }
        node
    }

    fn insert(&mut self, place: &PastPlace, facts: &Facts) -> u64 {
        let mut ino = xxh3_64(format!("{place:?}").as_bytes()) | BIT;
        while self.by_ino.contains_key(&ino) {
            ino = ino.wrapping_add(1) | BIT;
        }
        let (place, facts) = (place.clone(), facts.clone());
        self.by_place.insert(place.clone(), ino);
        self.by_ino.insert(ino, PastNode { ino, place, lookups: 0, facts, cached: None });
        ino
    }

    pub fn forget(&mut self, ino: u64, times: u64) {
        let Some(node) = self.by_ino.get_mut(&ino) else { return };
        node.lookups = node.lookups.saturating_sub(times);
        if node.lookups == 0
            && let Some(node) = self.by_ino.remove(&ino)
        {
            self.by_place.remove(&node.place);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_ino.len()
    }
}
