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

use crate::object::{Attributes, VersionName};
use windlass_base::FastMap;
use windlass_store::Etag;

const BIT: u64 = 1 << 63;

/// Tells whether a node's number is one of an earlier version, or of a directory of them.
pub fn is_version(ino: u64) -> bool {
    ino & BIT != 0
}

/// Place in the tree of versions for which a number stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum VersionPlace {
    /// The directory of names that have versions below a prefix (a directory's, or a piece).
    Names(String),
    /// The directory of a key's versions.
    Versions(String),
    One {
        key: String,
        name: VersionName,
    },
}

#[derive(Debug)]
pub struct VersionNode {
    pub ino: u64,
    pub place: VersionPlace,
    lookups: u64,
    /// Attributes of the version; those of a listing until it was looked up.
    pub attributes: Attributes,
    /// Etag of the object whose pages the kernel may hold.
    pub cached: Option<Etag>,
}

#[derive(Debug, Default)]
pub struct VersionNodes {
    by_ino: FastMap<u64, VersionNode>,
    by_place: BTreeMap<VersionPlace, u64>,
}

/// State of a mount's tree of earlier versions.
#[derive(Debug, Default)]
pub struct VersionTree {
    pub nodes: Mutex<VersionNodes>,
    /// True once the store is known to keep versions.
    pub kept: AtomicBool,
}

impl VersionNodes {
    pub fn get(&self, ino: u64) -> Option<&VersionNode> {
        self.by_ino.get(&ino)
    }

    pub fn get_mut(&mut self, ino: u64) -> Option<&mut VersionNode> {
        self.by_ino.get_mut(&ino)
    }

    /// Finds or makes the node, and counts that the kernel is told of it. Facts that were looked up outlive
    /// those of a listing.
    pub fn looked_up(&mut self, place: &VersionPlace, attributes: &Attributes) -> &VersionNode {
        let ino = self.by_place.get(place).copied().unwrap_or_else(|| self.insert(place, attributes));
        let node = self.by_ino.get_mut(&ino).expect("each place's node is in the table");
        node.lookups += 1;
        if attributes.exact || !node.attributes.exact {
            node.attributes = attributes.clone();
        }
        node
    }

    fn insert(&mut self, place: &VersionPlace, attributes: &Attributes) -> u64 {
        let mut ino = xxh3_64(format!("{place:?}").as_bytes()) | BIT;
        while self.by_ino.contains_key(&ino) {
            ino = ino.wrapping_add(1) | BIT;
        }
        let (place, attributes) = (place.clone(), attributes.clone());
        self.by_place.insert(place.clone(), ino);
        self.by_ino.insert(ino, VersionNode { ino, place, lookups: 0, attributes, cached: None });
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
