//! A catalog: a map that grows over registers, so that a change costs the same however much is in it (model `catalog`).
//!
//! A tree of nodes, each a register. A node is a *leaf* with at most `LEAF_MAX` entries (absent: an empty one), or it is
//! *split*: its entries are in its children, eight of them, by the next three bits of the key's hash. A full leaf is split by
//! whoever meets it: it becomes *splitting*, which holds its entries and takes no change any more; each child that gets some
//! is made, only where there is none yet; then it is split, for good. A child is found from the parent's place alone, so one
//! that was never made is an empty leaf.
//!
//! Node id = the root's id for the root, else xxh3-128(`windlass catalog` ‖ root id, 16 bytes little-endian ‖ depth, 1 byte ‖
//! the first 3 × depth bits of the key's xxh3-64, as a number, 8 bytes little-endian).
//!
//! | bytes | field |
//! |---:|---|
//! | 1 | version: 1 |
//! | 1 | 0 leaf, 1 splitting, 2 split |
//! | 2 | number of entries; 0 when split |
//! | … | entries in order of their keys: length of the key (1), key, value (16) |
//!
//! All little-endian. Keys have 1 to 63 bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use parking_lot::Mutex;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::fleet::Fleet;
use super::register::{Change, Register};
use crate::base::codec::{Reader, Writer};
use crate::base::{Kind, RegisterId, Result};

/// Entries of a leaf.
const LEAF_MAX: usize = 16;
/// Bits of the hash that tell a child.
const STEP: u32 = 3;
/// No more bits to tell children by: such a leaf takes all that come.
const DEPTH_MAX: u32 = 64 / STEP;
const VERSION: u8 = 1;
/// Nodes whose registers are kept at hand.
const KEPT_MAX: usize = 4096;
/// Nodes read at a time.
const AT_ONCE: usize = 64;

type Entries = BTreeMap<Vec<u8>, u128>;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Node {
    Leaf(Entries),
    Splitting(Entries),
    Split,
}

/// Where a node is in the tree.
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

    fn children(self) -> impl Iterator<Item = Place> {
        (0..1 << STEP).map(move |i| Place { depth: self.depth + 1, prefix: self.prefix << STEP | i })
    }
}

/// What a look at a leaf comes to.
enum Step<T> {
    Done(T),
    Split,
    /// Somebody's split has to be finished first.
    Help(Entries),
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

/// See the module. Clones share what is known.
#[derive(Clone, Debug)]
pub struct Catalog {
    fleet: Arc<Fleet>,
    root: RegisterId,
    kept: Arc<Mutex<BTreeMap<Place, Kept>>>,
}

fn decode(value: Option<&Bytes>) -> Result<Node> {
    let Some(value) = value else { return Ok(Node::Leaf(Entries::new())) };
    let mut r = Reader::new(value, "a catalog's node");
    if r.u8()? != VERSION {
        return Err(r.bad("it is of another version"));
    }
    let (kind, count) = (r.u8()?, r.u16()?);
    let mut entries = Entries::new();
    for _ in 0..count {
        let len = usize::from(r.u8()?);
        let key = r.raw(len)?.to_vec();
        if entries.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(r.bad("its entries are out of order"));
        }
        entries.insert(key, r.u128()?);
    }
    r.end()?;
    match kind {
        0 => Ok(Node::Leaf(entries)),
        1 => Ok(Node::Splitting(entries)),
        2 if entries.is_empty() => Ok(Node::Split),
        _ => Err(r.bad("it is of no kind that there is")),
    }
}

fn encode(node: &Node) -> Bytes {
    let none = Entries::new();
    let (kind, entries) = match node {
        Node::Leaf(entries) => (0, entries),
        Node::Splitting(entries) => (1, entries),
        Node::Split => (2, &none),
    };
    let mut w = Writer::with_capacity(4 + entries.len() * 40);
    w.u8(VERSION).u8(kind).u16(entries.len() as u16);
    for (key, value) in entries {
        w.u8(key.len() as u8).raw(key).u128(*value);
    }
    w.buf.into()
}

impl Catalog {
    pub(super) fn new(fleet: &Arc<Fleet>, root: RegisterId) -> Catalog {
        Catalog { fleet: fleet.clone(), root, kept: Arc::default() }
    }

    fn id(&self, place: Place) -> RegisterId {
        if place == ROOT {
            return self.root;
        }
        let (root, prefix) = (self.root.0.to_le_bytes(), place.prefix.to_le_bytes());
        let text = [&b"windlass catalog"[..], &root, &[place.depth as u8], &prefix].concat();
        RegisterId(xxh3_128(&text))
    }

    /// The node's register, and whether it was known before.
    fn node(&self, place: Place) -> (Register, bool) {
        let mut kept = self.kept.lock();
        if let Some(node) = kept.get(&place) {
            return (node.register.clone(), true);
        }
        if kept.len() >= KEPT_MAX {
            // What is split stays so: that saves the way to the leaves.
            kept.retain(|_, node| node.split);
            if kept.len() >= KEPT_MAX {
                kept.clear();
            }
        }
        let register = self.fleet.register(self.id(place));
        kept.insert(place, Kept { register: register.clone(), split: false });
        (register, false)
    }

    fn is_split(&self, place: Place) {
        self.node(place);
        if let Some(node) = self.kept.lock().get_mut(&place) {
            node.split = true;
        }
    }

    /// The deepest node on the key's way that may be its leaf, by what is known.
    fn begin(&self, hash: u64) -> Place {
        let kept = self.kept.lock();
        let mut place = ROOT;
        while kept.get(&place).is_some_and(|node| node.split) {
            place = place.child_of(hash);
        }
        place
    }

    pub async fn get(&self, key: &[u8]) -> Result<Option<u128>> {
        let hash = xxh3_64(key);
        let mut place = self.begin(hash);
        loop {
            match decode(self.node(place).0.read().await?.as_ref())? {
                Node::Leaf(entries) | Node::Splitting(entries) => return Ok(entries.get(key).copied()),
                Node::Split => {
                    self.is_split(place);
                    place = place.child_of(hash);
                }
            }
        }
    }

    /// Gives the key this value unless it has one: the value that it has then.
    pub async fn insert(&self, key: &[u8], value: u128) -> Result<u128> {
        assert!((1..64).contains(&key.len()), "a key has 1 to 63 bytes");
        let edit = |entries: &mut Entries| match entries.get(key) {
            Some(has) => Edit::Keep(*has),
            None => {
                entries.insert(key.to_vec(), value);
                Edit::Put(value)
            }
        };
        self.change(key, edit).await
    }

    /// Takes the key away if it has this value.
    pub async fn remove(&self, key: &[u8], value: u128) -> Result<()> {
        let edit = |entries: &mut Entries| match entries.get(key) {
            Some(has) if *has == value => {
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
        let mut place = self.begin(hash);
        loop {
            let (register, known) = self.node(place);
            // A change costs puts also where it changes nothing.
            let split = !known && matches!(decode(register.read().await?.as_ref())?, Node::Split);
            let step = match split {
                true => Step::Split,
                false => register.change(|value| step(value, place, &edit)).await?,
            };
            match step {
                Step::Done(out) => return Ok(out),
                Step::Split => {
                    self.is_split(place);
                    place = place.child_of(hash);
                }
                Step::Help(entries) => self.split(place, entries).await?,
            }
        }
    }

    /// Finishes a split.
    async fn split(&self, place: Place, entries: Entries) -> Result<()> {
        let mut parts: BTreeMap<Place, Entries> = BTreeMap::new();
        for (key, value) in entries {
            parts.entry(place.child_of(xxh3_64(&key))).or_default().insert(key, value);
        }
        let made = parts.into_iter().map(|(child, part)| async move {
            let make = |value: Option<&Bytes>| match value {
                // What is there was made of the same entries, and may have changed since.
                Some(_) => Ok(Change::Keep(())),
                None => Ok(Change::Put(encode(&Node::Leaf(part.clone())), ())),
            };
            self.node(child).0.change(make).await
        });
        futures::future::try_join_all(made).await?;
        let done = |value: Option<&Bytes>| match decode(value)? {
            Node::Splitting(_) => Ok(Change::Put(encode(&Node::Split), ())),
            _ => Ok(Change::Keep(())),
        };
        self.node(place).0.change(done).await?;
        self.is_split(place);
        Ok(())
    }

    /// All entries, in no order. One that is there all the while is among them.
    pub async fn all(&self) -> Result<Vec<(Vec<u8>, u128)>> {
        self.walk(false).await
    }

    /// The same, after every node has come along into the pool's generation, and with it all that may be made.
    pub(super) async fn bring(&self) -> Result<Vec<(Vec<u8>, u128)>> {
        self.walk(true).await
    }

    async fn walk(&self, bring: bool) -> Result<Vec<(Vec<u8>, u128)>> {
        let (mut all, mut level) = (Vec::new(), vec![ROOT]);
        while !level.is_empty() {
            let looks = stream::iter(std::mem::take(&mut level)).map(|place| async move {
                let register = self.node(place).0;
                if bring {
                    register.bring().await?;
                }
                Ok((place, decode(register.read().await?.as_ref())?))
            });
            let nodes: Vec<Result<(Place, Node)>> = looks.buffer_unordered(AT_ONCE).collect().await;
            for node in nodes {
                match node? {
                    (_, Node::Leaf(entries) | Node::Splitting(entries)) => all.extend(entries),
                    (place, Node::Split) => {
                        self.is_split(place);
                        level.extend(place.children());
                    }
                }
            }
        }
        Ok(all)
    }
}

fn step<T>(
    value: Option<&Bytes>,
    place: Place,
    edit: &impl Fn(&mut Entries) -> Edit<T>,
) -> Result<Change<Step<T>>> {
    let mut entries = match decode(value)? {
        Node::Split => return Ok(Change::Keep(Step::Split)),
        Node::Splitting(entries) => return Ok(Change::Keep(Step::Help(entries))),
        Node::Leaf(entries) => entries,
    };
    let before = entries.clone();
    Ok(match edit(&mut entries) {
        Edit::Keep(out) => Change::Keep(Step::Done(out)),
        Edit::Put(_) if entries.len() > LEAF_MAX && place.depth < DEPTH_MAX => {
            Change::Put(encode(&Node::Splitting(before.clone())), Step::Help(before))
        }
        Edit::Put(out) => Change::Put(encode(&Node::Leaf(entries)), Step::Done(out)),
    })
}

/// What is wrong with a name or an id that a catalog holds.
pub(super) fn malformed(what: &str, e: impl std::fmt::Display) -> crate::base::Error {
    crate::base::Error::new(Kind::Corrupt, format!("{what} is malformed: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_ids() {
        let entries = Entries::from([(b"a".to_vec(), 1), (b"bc".to_vec(), 2)]);
        let bytes = encode(&Node::Leaf(entries.clone()));
        assert_eq!(&bytes[..6], [1, 0, 2, 0, 1, b'a']);
        assert_eq!(bytes.len(), 4 + 18 + 19);
        assert_eq!(&encode(&Node::Split)[..], [1, 2, 0, 0]);
        for node in [Node::Leaf(entries.clone()), Node::Splitting(entries), Node::Split] {
            let bytes = encode(&node);
            assert_eq!(decode(Some(&bytes)).unwrap(), node);
            for cut in 0..bytes.len() {
                assert!(decode(Some(&bytes.slice(..cut))).is_err(), "{cut}");
            }
        }
        assert_eq!(decode(None).unwrap(), Node::Leaf(Entries::new()));
        assert!(decode(Some(&Bytes::from_static(&[1, 3, 0, 0]))).is_err());
        let hash = 0b101_110_001 << 55;
        let child = ROOT.child_of(hash);
        assert_eq!((child.depth, child.prefix), (1, 0b101));
        assert_eq!(child.child_of(hash), Place { depth: 2, prefix: 0b101_110 });
        assert!(child.children().any(|c| c == child.child_of(hash)));
        assert_eq!(Place { depth: 20, prefix: 0 }.child_of(u64::MAX).prefix, u64::MAX >> 1);
    }
}
