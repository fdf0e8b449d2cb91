//! A catalog: a map that grows over registers, so that a change costs the same however much is in it (model `catalog`).
//!
//! A tree of nodes, each a register. A node is a *leaf* with at most `LEAF_MAX` entries (absent: an empty one), or it is
//! *split*: its entries are in its children, four of them, by the next two bits of the key's hash. A full leaf is split by
//! whoever meets it: it becomes *splitting*, which holds its entries and takes no change any more; each child that gets some
//! is made, only where there is none yet; then it is split, for good. A child is found from the parent's place alone, so one
//! that was never made is an empty leaf.
//!
//! Where a pool was decided by guess (`pool force-recover`), each node may be what it was at some time before, so a node that
//! was split may be a leaf again, while its children are there. A node is therefore stamped with the number of guesses known
//! to whoever made it or began to split it. A leaf of a lower stamp than the pool's number is *doubtful*: a lookup looks
//! below it too, and a change splits it first. Its children have all that it held when they were made, but what was removed
//! since, so they stay as they are. A change that began before the guess begins anew.
//!
//! Node id = the root's id for the root, else xxh3-128(`windlass catalog` ‖ root id, 16 bytes little-endian ‖ depth, 1 byte ‖
//! the first 2 × depth bits of the key's xxh3-64, as a number, 8 bytes little-endian).
//!
//! | bytes | field |
//! |---:|---|
//! | 1 | version: 4 |
//! | 1 | 0 leaf, 1 splitting, 2 split |
//! | 8 | stamp: how often the pool had been decided by guess |
//! | 2 | number of entries; 0 when split |
//! | … | entries in order of their keys: length of the key (1), key, value (16), serial (8) |
//!
//! All little-endian. Keys have 1 to 127 bytes. The serial tells an entry from earlier ones of the same key and value, where
//! that matters (names); else it is 0.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use parking_lot::Mutex;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::context::PoolContext;
use crate::register::{Change, Register};
use windlass_base::codec::{Reader, Writer};
use windlass_base::{Kind, RegisterId, Result};

/// Number of entries that a leaf has at most.
const LEAF_MAX: usize = 10;
/// Bits of the hash that tell a child. Four children leave a leaf that was just split a quarter full at worst: with eight
/// of them, reading a directory of a thousand names took twice the requests.
const STEP: u32 = 2;
/// Depth at which no bits are left to tell children by: a leaf there takes all entries that come.
const DEPTH_MAX: u32 = 64 / STEP;
const VERSION: u8 = 4;
/// Number of nodes whose registers are kept at hand.
const KEPT_MAX: usize = 4096;
/// Number of nodes that are read at a time.
const AT_ONCE: usize = 64;

/// The value that a key has in a catalog, and the entry's serial number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CatalogEntry {
    pub value: u128,
    pub serial: u64,
}

impl CatalogEntry {
    /// Makes an entry with serial 0, for catalogs in which entries of one value need not be told apart.
    pub fn of(value: u128) -> CatalogEntry {
        CatalogEntry { value, serial: 0 }
    }
}

/// Keys and what they have.
pub type Entries = BTreeMap<Vec<u8>, CatalogEntry>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Leaf(Entries),
    Splitting(Entries),
    Split,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Node {
    pub(super) form: Form,
    /// Number of guesses that had decided the pool, as far as whoever made the node or began to split it knew.
    pub(super) stamp: u64,
}

impl Node {
    /// Tells whether the node's children may hold entries that the node lacks, in a pool that was decided by guess so often.
    pub(super) fn hides_some(&self, guesses: u64) -> bool {
        match self.form {
            Form::Leaf(_) => self.stamp < guesses,
            // Its split may have begun because it was doubtful.
            Form::Splitting(_) => guesses > 0,
            Form::Split => false,
        }
    }
}

/// A node's place in the tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    depth: u32,
    /// The bits that the hashes of its keys begin with.
    prefix: u64,
}

const ROOT: Place = Place { depth: 0, prefix: 0 };

impl Place {
    fn child_of(self, hash: u64) -> Place {
        let depth = self.depth + 1;
        Place { depth, prefix: hash >> (64 - STEP * depth) }
    }

    fn is_deepest(self) -> bool {
        self.depth >= DEPTH_MAX
    }

    fn children(self) -> impl Iterator<Item = Place> {
        (0..1 << STEP).map(move |i| Place { depth: self.depth + 1, prefix: self.prefix << STEP | i })
    }
}

/// The outcome of one look at a node on the way to a key's leaf.
enum Step<T> {
    Done(T),
    Split,
    /// Somebody's split has to be finished first.
    Help(Entries),
    /// The pool was decided by guess since the change began.
    Anew,
}

/// A change of a leaf's entries.
enum Edit<T> {
    Keep(T),
    Put(T),
}

#[derive(Debug)]
struct Kept {
    register: Register,
    split: bool,
}

#[derive(Default, Debug)]
struct Known {
    nodes: BTreeMap<Place, Kept>,
    /// Number of guesses that had decided the pool when it was learned which nodes are split.
    guesses: u64,
}

/// A map that grows over registers. Clones share what is known.
#[derive(Clone, Debug)]
pub struct Catalog {
    context: Arc<PoolContext>,
    root: RegisterId,
    known: Arc<Mutex<Known>>,
}

pub(super) fn decode(value: &Bytes) -> Result<Node> {
    let mut r = Reader::new(value, "a catalog's node");
    if r.u8()? != VERSION {
        return Err(r.bad("it is of another version"));
    }
    let (form, stamp, count) = (r.u8()?, r.u64()?, r.u16()?);
    let mut entries = Entries::new();
    for _ in 0..count {
        let len = usize::from(r.u8()?);
        let key = r.raw(len)?.to_vec();
        if entries.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(r.bad("its entries are out of order"));
        }
        entries.insert(key, CatalogEntry { value: r.u128()?, serial: r.u64()? });
    }
    r.end()?;
    let form = match form {
        0 => Form::Leaf(entries),
        1 => Form::Splitting(entries),
        2 if entries.is_empty() => Form::Split,
        _ => return Err(r.bad("it is of no kind that there is")),
    };
    Ok(Node { form, stamp })
}

/// Decodes the register of this place, in a pool that was decided by guess so often. An absent value is an empty leaf.
fn node_of(value: Option<&Bytes>, place: Place, guesses: u64) -> Result<Node> {
    match value {
        Some(value) => decode(value),
        // The root alone is looked below: else no way down would end.
        None => Ok(Node { form: Form::Leaf(Entries::new()), stamp: if place == ROOT { 0 } else { guesses } }),
    }
}

pub(super) fn encode(form: &Form, stamp: u64) -> Bytes {
    let none = Entries::new();
    let (kind, entries) = match form {
        Form::Leaf(entries) => (0, entries),
        Form::Splitting(entries) => (1, entries),
        Form::Split => (2, &none),
    };
    let mut w = Writer::with_capacity(12 + entries.len() * 48);
    w.u8(VERSION).u8(kind).u64(stamp).u16(entries.len() as u16);
    for (key, CatalogEntry { value, serial }) in entries {
        w.u8(key.len() as u8).raw(key).u128(*value).u64(*serial);
    }
    w.buf.into()
}

impl Catalog {
    pub(crate) fn new(context: &Arc<PoolContext>, root: RegisterId) -> Catalog {
        Catalog { context: context.clone(), root, known: Arc::default() }
    }

    fn id(&self, place: Place) -> RegisterId {
        if place == ROOT {
            return self.root;
        }
        let (root, prefix) = (self.root.0.to_le_bytes(), place.prefix.to_le_bytes());
        let text = [&b"windlass catalog"[..], &root, &[place.depth as u8], &prefix].concat();
        RegisterId(xxh3_128(&text))
    }

    /// Returns the node's register, and whether it was known before.
    fn node(&self, place: Place) -> (Register, bool) {
        let nodes = &mut self.known.lock().nodes;
        if let Some(node) = nodes.get(&place) {
            return (node.register.clone(), true);
        }
        if nodes.len() >= KEPT_MAX {
            // What is split stays so: that saves the way to the leaves.
            nodes.retain(|_, node| node.split);
            if nodes.len() >= KEPT_MAX {
                nodes.clear();
            }
        }
        let register = self.context.register(self.id(place));
        nodes.insert(place, Kept { register: register.clone(), split: false });
        (register, false)
    }

    fn is_split(&self, place: Place, guesses: u64) {
        self.node(place);
        let mut known = self.known.lock();
        if known.guesses == guesses
            && let Some(node) = known.nodes.get_mut(&place)
        {
            node.split = true;
        }
    }

    /// Returns the deepest node on the key's way that may be its leaf, by what is known.
    fn begin(&self, hash: u64, guesses: u64) -> Place {
        let mut known = self.known.lock();
        if known.guesses != guesses {
            known.guesses = guesses;
            known.nodes.values_mut().for_each(|node| node.split = false);
        }
        let mut place = ROOT;
        while known.nodes.get(&place).is_some_and(|node| node.split) {
            place = place.child_of(hash);
        }
        place
    }

    pub async fn get(&self, key: &[u8]) -> Result<Option<CatalogEntry>> {
        loop {
            let guesses = self.context.guesses();
            let found = self.look_up(key, guesses).await?;
            // What was read before a guess says nothing of what is left after it.
            if self.context.guesses() == guesses {
                return Ok(found);
            }
        }
    }

    async fn look_up(&self, key: &[u8], guesses: u64) -> Result<Option<CatalogEntry>> {
        let hash = xxh3_64(key);
        let (mut place, mut found) = (self.begin(hash, guesses), None);
        loop {
            let value = self.node(place).0.read().await?;
            let node = node_of(value.as_ref(), place, guesses)?;
            let below = node.form == Form::Split || node.hides_some(guesses) && !place.is_deepest();
            match node.form {
                // What is below is newer.
                Form::Leaf(entries) | Form::Splitting(entries) => found = entries.get(key).copied().or(found),
                Form::Split => self.is_split(place, guesses),
            }
            if !below {
                return Ok(found);
            }
            place = place.child_of(hash);
        }
    }

    /// Gives the key this unless it has something: what it has then.
    pub async fn insert(&self, key: &[u8], new: CatalogEntry) -> Result<CatalogEntry> {
        self.insert_over(key, new, None).await
    }

    /// Gives the key this entry where it has nothing, or exactly `old`; returns what the key has then.
    pub async fn insert_over(
        &self,
        key: &[u8],
        new: CatalogEntry,
        old: Option<CatalogEntry>,
    ) -> Result<CatalogEntry> {
        assert!((1..128).contains(&key.len()), "a key has 1 to 127 bytes");
        let edit = |entries: &mut Entries| match entries.get(key) {
            Some(has) if Some(*has) != old || *has == new => Edit::Keep(*has),
            _ => {
                entries.insert(key.to_vec(), new);
                Edit::Put(new)
            }
        };
        self.change(key, edit).await
    }

    /// Takes the key away if it has exactly this.
    pub async fn remove(&self, key: &[u8], old: CatalogEntry) -> Result<()> {
        let edit = |entries: &mut Entries| match entries.get(key) {
            Some(has) if *has == old => {
                entries.remove(key);
                Edit::Put(())
            }
            _ => Edit::Keep(()),
        };
        self.change(key, edit).await
    }

    async fn change<T: Send>(
        &self,
        key: &[u8],
        edit: impl Fn(&mut Entries) -> Edit<T> + Send + Sync,
    ) -> Result<T> {
        let hash = xxh3_64(key);
        'anew: loop {
            let guesses = self.context.guesses();
            let mut place = self.begin(hash, guesses);
            loop {
                let (register, known) = self.node(place);
                // A change costs puts also where it changes nothing.
                let is_split = |value: Option<Bytes>| {
                    node_of(value.as_ref(), place, guesses).map(|node| node.form == Form::Split)
                };
                let step = match !known && is_split(register.read().await?)? {
                    true => Step::Split,
                    false => register.change(|value| self.step(value, place, guesses, &edit)).await?,
                };
                match step {
                    Step::Done(out) => return Ok(out),
                    Step::Split => {
                        self.is_split(place, guesses);
                        place = place.child_of(hash);
                    }
                    Step::Help(entries) => self.split(place, entries, guesses).await?,
                    Step::Anew => continue 'anew,
                }
            }
        }
    }

    fn step<T>(
        &self,
        value: Option<&Bytes>,
        place: Place,
        guesses: u64,
        edit: &impl Fn(&mut Entries) -> Edit<T>,
    ) -> Result<Change<Step<T>>> {
        // Asked here, for each attempt: it is one of the generation that the pool has now, or of one whose puts are refused.
        if self.context.guesses() != guesses {
            return Ok(Change::Keep(Step::Anew));
        }
        let node = node_of(value, place, guesses)?;
        let splitting = |entries: Entries| {
            Ok(Change::Put(encode(&Form::Splitting(entries.clone()), guesses), Step::Help(entries)))
        };
        let doubtful = node.stamp < guesses && !place.is_deepest();
        let mut entries = match node.form {
            Form::Split => return Ok(Change::Keep(Step::Split)),
            Form::Leaf(entries) | Form::Splitting(entries) if doubtful => return splitting(entries),
            Form::Splitting(entries) => return Ok(Change::Keep(Step::Help(entries))),
            Form::Leaf(entries) => entries,
        };
        let before = entries.clone();
        match edit(&mut entries) {
            Edit::Keep(out) => Ok(Change::Keep(Step::Done(out))),
            Edit::Put(_) if entries.len() > LEAF_MAX && !place.is_deepest() => splitting(before),
            Edit::Put(out) => Ok(Change::Put(encode(&Form::Leaf(entries), node.stamp), Step::Done(out))),
        }
    }

    /// Finishes a split; what it comes to when the pool is decided by guess meanwhile shows at the node.
    async fn split(&self, place: Place, entries: Entries, guesses: u64) -> Result<()> {
        let mut parts: BTreeMap<Place, Entries> = BTreeMap::new();
        for (key, value) in entries {
            parts.entry(place.child_of(xxh3_64(&key))).or_default().insert(key, value);
        }
        let made = parts.into_iter().map(|(child, part)| async move {
            let make = |value: Option<&Bytes>| match value {
                None if self.context.guesses() == guesses => {
                    Ok(Change::Put(encode(&Form::Leaf(part.clone()), guesses), ()))
                }
                // What is there was made of the same entries, or of more, and may have changed since.
                _ => Ok(Change::Keep(())),
            };
            self.node(child).0.change(make).await
        });
        futures::future::try_join_all(made).await?;
        let done = |value: Option<&Bytes>| {
            let node = node_of(value, place, guesses)?;
            let ours = node.stamp == guesses && self.context.guesses() == guesses;
            Ok(match node.form {
                Form::Splitting(_) if ours => Change::Put(encode(&Form::Split, guesses), true),
                Form::Split => Change::Keep(true),
                _ => Change::Keep(false),
            })
        };
        if self.node(place).0.change(done).await? {
            self.is_split(place, guesses);
        }
        Ok(())
    }

    /// Returns all entries. One that is there all the while is among them.
    pub async fn all(&self) -> Result<Entries> {
        self.walk(false).await
    }

    /// Returns all entries, after every node has come along into the pool's generation, and with it all that may be made.
    pub(crate) async fn bring(&self) -> Result<Entries> {
        self.walk(true).await
    }

    async fn walk(&self, bring: bool) -> Result<Entries> {
        loop {
            let guesses = self.context.guesses();
            let all = self.walk_once(bring, guesses).await?;
            if self.context.guesses() == guesses {
                return Ok(all);
            }
        }
    }

    async fn walk_once(&self, bring: bool, guesses: u64) -> Result<Entries> {
        let (mut all, mut level) = (Entries::new(), vec![ROOT]);
        while !level.is_empty() {
            let looks = stream::iter(std::mem::take(&mut level)).map(|place| async move {
                let register = self.node(place).0;
                if bring {
                    register.bring().await?;
                }
                Ok((place, node_of(register.read().await?.as_ref(), place, guesses)?))
            });
            let nodes: Vec<Result<(Place, Node)>> = looks.buffer_unordered(AT_ONCE).collect().await;
            for node in nodes {
                let (place, node) = node?;
                let below = node.form == Form::Split || node.hides_some(guesses) && !place.is_deepest();
                level.extend(place.children().filter(|_| below));
                match node.form {
                    // Where an entry is in a child too, what that has is newer: it is the next level's.
                    Form::Leaf(entries) | Form::Splitting(entries) => all.extend(entries),
                    Form::Split => self.is_split(place, guesses),
                }
            }
        }
        Ok(all)
    }
}

/// Returns the error for a malformed name or id in a catalog.
pub fn malformed(what: &str, e: impl std::fmt::Display) -> windlass_base::Error {
    windlass_base::Error::new(Kind::Corrupt, format!("{what} is malformed: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_ids() {
        let second = CatalogEntry { value: 2, serial: 9 };
        let entries = Entries::from([(b"a".to_vec(), CatalogEntry::of(1)), (b"bc".to_vec(), second)]);
        let bytes = encode(&Form::Leaf(entries.clone()), 7);
        assert_eq!(&bytes[..14], [4, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, b'a']);
        assert_eq!(bytes.len(), 12 + 26 + 27);
        assert_eq!(bytes[bytes.len() - 8..], [9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&encode(&Form::Split, 0)[..], [4, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for form in [Form::Leaf(entries.clone()), Form::Splitting(entries), Form::Split] {
            let bytes = encode(&form, 3);
            assert_eq!(decode(&bytes).unwrap(), Node { form, stamp: 3 });
            for cut in 0..bytes.len() {
                assert!(decode(&bytes.slice(..cut)).is_err(), "{cut}");
            }
        }
        assert!(decode(&Bytes::from_static(&[4, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])).is_err());
        let hides = |place| node_of(None, place, 1).unwrap().hides_some(1);
        assert!(hides(ROOT) && !hides(ROOT.child_of(0)));
        let hash = 0b10_11_01 << 58;
        let child = ROOT.child_of(hash);
        assert_eq!((child.depth, child.prefix), (1, 0b10));
        assert_eq!(child.child_of(hash), Place { depth: 2, prefix: 0b10_11 });
        assert!(child.children().any(|c| c == child.child_of(hash)));
        assert_eq!(Place { depth: DEPTH_MAX - 1, prefix: 0 }.child_of(u64::MAX).prefix, u64::MAX);
    }
}
