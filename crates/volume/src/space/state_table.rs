//! The states of a volume: its tip, its snapshots, what is kept hidden; and the table of them under each checkpoint.
//!
//! A state knows its parent and its era, by which it is told whose a dead frame was (see `space`). A mark in the log
//! turns the tip into a snapshot and begins a new tip as its child; the snapshot's map is built by the next checkpoint.
//! A table that is written down holds built states only.
//!
//! # Bytes of the table page
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | magic `WLTB` |
//! | 4 | 2 | version: 3 |
//! | 6 | 2 | 0 |
//! | 8 | 8 | id of the tip |
//! | 16 | 8 | next id of a state |
//! | 24 | 8 | bytes of own chunks that the chunk table counts, without parity |
//! | 32 | 4 | number of states in this page: all, or none |
//! | 36 | 4 | number of ended epochs |
//! | 40 | … | states, in order of their ids; ended epochs, oldest first; then what is needed of chunks |
//!
//! A state: id (8), parent (8, 0: none), era (8), size (8), mapped blocks (8), flags (1: named 1, hidden 2, mapped 4,
//! group whole 8, taken by the volume itself 16, name sealed 32), created ms (8), since when it was the tip, ms (8),
//! group (16), group size (4; 0 of a named state: frozen by a take-over, and the group
//! is the epoch that ended there, above, and its last write), name (u32 length and bytes; of an encrypted volume 97 bytes: the number of the data key, then the name
//! with its length before it and zeros up to 80 bytes behind it, sealed, and the tag), when mapped the root's height
//! (1) and frame (varints), and what its parent holds and it does not (a list of parts, below). An ended epoch: epoch and its last sequence number, as varints; the oldest ones may
//! have been forgotten. The page is a frame of kind table with address 0: the frame's checksum covers it.
//!
//! What is needed of chunks, all varints, each list behind its length: pages of the chunk table (number, frame); pages of
//! states (number, frame); free parts; folded parts (each with the number and the bytes of its deaths); retired
//! objects (epoch, sequence number). A part: the frame of a run's index, first and last era.
//!
//! # Bytes of a page of states
//!
//! The states whose ids divided by 128 are n, where they are too many for the table page; a frame of kind table with
//! address 4 << 60 | n.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | format: 1 |
//! | 4 | number of states |
//! | … | states, in order of their ids |

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use serde::{Deserialize, Serialize};

use crate::head::{End, Head, RootRef};
use crate::space::chunk_table::{ChunkTable, Deaths, PagePlaces, decode_parts, encode_parts};
use crate::space::dead_runs::Part;
use windlass_base::codec::{Reader, Writer};
use windlass_base::log_record::Mark;
use windlass_base::{Epoch, Era, Error, Kind, Name, Nonce, Result, Seq, StateId};
use windlass_keys::{KeyAccess, NAME_SEALED, VolumeKey};
use windlass_log::FrameRef;
use windlass_map::{Root, Tree};

/// Most snapshots that a volume may have: all of its states are in memory.
pub const SNAPSHOTS_MAX: usize = 16_384;
/// Ids that a page of states covers.
const PAGE_IDS: u64 = 128;
const PAGE_FORMAT: u8 = 1;
/// Most ended epochs that are remembered: what older ones left is told by scrub.
const ENDS_MAX: usize = 8192;
/// Address of the table page.
pub const TABLE_ADDRESS: u64 = 0;

const MAGIC: u32 = u32::from_le_bytes(*b"WLTB");
const VERSION: u16 = 3;
const NAMED: u8 = 1;
const HIDDEN: u8 = 2;
const MAPPED: u8 = 4;
const WHOLE: u8 = 8;
const HISTORY: u8 = 16;

/// First part of the names of automatic snapshots; behind it stands the time at which they were taken.
pub const HISTORY_NAME: &str = "history-";
const SEALED: u8 = 32;

/// A state of the volume: the contents that a root shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub id: StateId,
    /// Name of a snapshot. The tip and states without a name have none.
    pub name: Option<Name>,
    pub parent: Option<StateId>,
    pub era: Era,
    pub tree: Tree,
    /// Number of blocks that the tree maps, as far as it is built.
    pub mapped: u64,
    pub size: u64,
    pub hidden: bool,
    /// Time at which the state became what it is, in ms since 1970: a snapshot when it was taken, the tip
    /// when it began.
    pub created_ms: u64,
    /// Time at which the state began as the tip, in ms since 1970.
    pub since_ms: u64,
    pub group: Nonce,
    pub group_size: u32,
    /// Is true if all members of the group are known to be stored, for good. A snapshot that was taken alone
    /// has no others.
    pub whole: bool,
    /// Is true if the volume took the snapshot by itself, and removes it when its plan says so.
    pub history: bool,
    /// Is true if `tree` is that of this state, not of its parent.
    pub built: bool,
}

/// The snapshot of its volume that a name meant when it was resolved. The name may be another's by now; so
/// may the number, where the stores were put back from a backup since.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotId {
    pub state: StateId,
    pub created_ms: u64,
    pub group: Nonce,
}

impl State {
    pub fn snapshot_id(&self) -> SnapshotId {
        SnapshotId { state: self.id, created_ms: self.created_ms, group: self.group }
    }
}

/// All states of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tables {
    pub tip: StateId,
    next: StateId,
    pub states: BTreeMap<StateId, State>,
    /// Ends of all epochs that wrote something up to the checkpoint, as far as they are remembered.
    pub ends: Vec<End>,
    pub stored_bytes: u64,
}

/// A rollback: what the tip held goes, and what a snapshot shows takes its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RollBack {
    pub to: StateId,
    /// Name of the snapshot as which what the tip held stays, if it stays.
    pub keep: Option<Name>,
    pub created_ms: u64,
    /// Drawn for this rollback: the state that it kept shows by this number that the rollback was done.
    pub nonce: Nonce,
}

/// A change of the states by a checkpoint, beside merging what was written and removing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Alteration {
    /// Names of states have changed: the states are written down again.
    Names,
    RollBack(RollBack),
}

/// A state that was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone {
    pub id: StateId,
    /// The state that stands in its place; it had one child at most.
    pub child: Option<StateId>,
    /// Era of its parent; 0 if it had none.
    pub parent_era: Era,
    pub tree: Tree,
}

pub fn root_ref(tree: &Tree) -> Option<RootRef> {
    tree.root.map(|r| RootRef { frame: r.frame, height: r.height })
}

pub fn tree_of(root: Option<RootRef>) -> Tree {
    Tree { root: root.map(|r| Root { frame: r.frame, height: r.height }) }
}

impl Tables {
    /// Makes the tables of a volume without a checkpoint: empty, or what its base shows.
    pub fn born(head: &Head) -> Tables {
        let tip = State {
            id: StateId(1),
            name: None,
            parent: None,
            era: Era(1),
            tree: tree_of(head.base.as_ref().and_then(|b| b.root)),
            mapped: head.base.as_ref().map_or(0, |b| b.mapped_blocks),
            size: head.size,
            hidden: false,
            created_ms: head.created_ms,
            since_ms: head.created_ms,
            group: Nonce(0),
            group_size: 0,
            whole: true,
            history: false,
            built: true,
        };
        Tables {
            tip: tip.id,
            next: tip.id.next(),
            states: BTreeMap::from([(tip.id, tip)]),
            ends: Vec::new(),
            stored_bytes: 0,
        }
    }

    /// Returns these tables as they are under this head: the volume may have grown since they were written.
    #[must_use]
    pub fn under(mut self, head: &Head) -> Tables {
        self.tip_mut().size = head.size;
        self
    }

    pub fn tip(&self) -> &State {
        self.states.get(&self.tip).expect("a table has its tip: checked when it is read")
    }

    pub fn tip_mut(&mut self) -> &mut State {
        self.states.get_mut(&self.tip).expect("a table has its tip: checked when it is read")
    }

    /// Returns the snapshots that are not in the trash.
    pub fn snapshots(&self) -> impl Iterator<Item = (&Name, &State)> {
        self.with_trash().filter(|(name, _)| name.trashed().is_none())
    }

    /// Returns all snapshots, also those in the trash, under the names that they have there.
    pub fn with_trash(&self) -> impl Iterator<Item = (&Name, &State)> {
        self.states.values().filter(|s| !s.hidden).filter_map(|s| Some((s.name.as_ref()?, s)))
    }

    /// Returns the snapshot of this name, also one in the trash.
    pub fn snapshot(&self, name: &Name) -> Option<&State> {
        self.with_trash().find(|(n, _)| *n == name).map(|(_, s)| s)
    }

    /// Returns the snapshot of a copy that this nonce tells, whatever it is called.
    pub fn copy_of(&self, identity: Nonce) -> Option<(&Name, &State)> {
        self.with_trash().find(|(_, state)| state.group == identity && state.group_size == 1)
    }

    /// Returns this very snapshot, and the name that it has by now.
    pub fn find(&self, snapshot: &SnapshotId) -> Option<(&Name, &State)> {
        let state = self.states.get(&snapshot.state).filter(|s| !s.hidden && s.snapshot_id() == *snapshot)?;
        Some((state.name.as_ref()?, state))
    }

    /// Checks that a snapshot of this name may be taken.
    pub fn check_new(&self, name: &Name) -> Result<()> {
        if self.snapshot(name).is_some() {
            return Err(Error::new(Kind::Exists, format!("snapshot {name} exists")));
        }
        self.check_room()
    }

    /// Checks that there may be one more state.
    pub fn check_room(&self) -> Result<()> {
        if self.states.len() > SNAPSHOTS_MAX {
            let why = format!(
                "the volume has {SNAPSHOTS_MAX} snapshots, those in the trash too, which is the most: remove some, with --now"
            );
            return Err(Error::new(Kind::Refused, why));
        }
        Ok(())
    }

    /// Turns the tip into the mark's snapshot, and begins a new tip as its child. The outcome is the same
    /// wherever the log is read.
    pub fn mark(&mut self, mark: &Mark) -> Result<()> {
        if mark.state != self.tip {
            let why =
                format!("the log's snapshot {} does not belong to the state that it freezes", mark.name);
            return Err(Error::new(Kind::Corrupt, why));
        }
        // Where the log is read again: the name was given away when it was set, to the trash, and that was not recorded yet.
        let before = self.snapshot(&mark.name).map(|s| s.id);
        before.into_iter().for_each(|id| self.rename(id, &mark.name.in_trash(mark.created_ms)));
        let id = self.next;
        self.next = id.next();
        let frozen = self.tip_mut();
        // The tip's is the head's, which may have grown since the mark was set.
        let size = std::mem::replace(&mut frozen.size, mark.size);
        frozen.name = Some(mark.name.clone());
        frozen.created_ms = mark.created_ms;
        frozen.group = mark.group;
        frozen.group_size = mark.group_size;
        frozen.whole = mark.group_size <= 1;
        frozen.history = mark.history;
        frozen.built = false;
        let tip = State {
            id,
            name: None,
            parent: Some(frozen.id),
            era: frozen.era.next(),
            created_ms: mark.created_ms,
            since_ms: mark.created_ms,
            group: Nonce(0),
            group_size: 0,
            whole: true,
            history: false,
            built: false,
            size,
            ..frozen.clone()
        };
        self.tip = id;
        self.states.insert(id, tip);
        Ok(())
    }

    /// Notes that all members of the group are known to be stored. Returns false if that was known, or no
    /// snapshot here is one of them.
    pub fn settle(&mut self, group: Nonce) -> bool {
        let mut news = false;
        for state in self.states.values_mut().filter(|s| s.group == group && !s.whole) {
            (state.whole, news) = (true, true);
        }
        news
    }

    /// Turns the tip into a snapshot, or hides it. A new tip begins as a child of the snapshot to which the
    /// volume goes back, under the next era (protocol.md §4.5). All states must be built.
    pub fn roll_back(&mut self, back: &RollBack) -> Result<()> {
        let Some(to) = self.states.get(&back.to).cloned() else {
            return Err(Error::new(Kind::Internal, "the snapshot to go back to is not there any more"));
        };
        let id = self.next;
        self.next = id.next();
        let era = self.tip().era.next();
        let before = self.tip_mut();
        before.hidden = back.keep.is_none();
        before.name = back.keep.clone();
        before.created_ms = back.created_ms;
        before.group = back.nonce;
        (before.group_size, before.whole) = (1, true);
        let tip = State {
            id,
            name: None,
            parent: Some(to.id),
            era,
            created_ms: back.created_ms,
            since_ms: back.created_ms,
            group: Nonce(0),
            group_size: 0,
            whole: true,
            history: false,
            ..to
        };
        self.tip = id;
        self.states.insert(id, tip);
        Ok(())
    }

    /// Returns the newest snapshot that shows what the volume was at this time: of the branch on which it was
    /// then, as far as that is still there.
    pub fn at(&self, ms: u64) -> Option<&State> {
        let tip_then =
            self.states.values().filter(|s| s.since_ms <= ms).max_by_key(|s| (s.since_ms, s.id))?;
        let mut next = Some(tip_then);
        while let Some(state) = next {
            let shown = state.name.as_ref().is_some_and(|name| name.trashed().is_none());
            if shown && !state.hidden && state.created_ms <= ms {
                return Some(state);
            }
            next = state.parent.and_then(|parent| self.states.get(&parent));
        }
        None
    }

    /// Tells whether this state is there and all later ones come from it.
    pub fn all_descend_from(&self, first: StateId) -> bool {
        let mut known = BTreeSet::from([first]);
        let of = |s: &State, known: &BTreeSet<StateId>| s.parent.is_some_and(|p| known.contains(&p));
        let mut later = self.states.range(first.next()..);
        // A parent's id is less than its children's.
        self.states.contains_key(&first) && later.all(|(id, s)| of(s, &known) && known.insert(*id))
    }

    /// Gives a snapshot another name, if it is there.
    pub fn rename(&mut self, id: StateId, name: &Name) {
        let Some(state) = self.states.get_mut(&id).filter(|s| s.name.is_some()) else { return };
        // One that somebody has given a name is his: the plan of the history removes it no more.
        state.history &= name.trashed().is_some() || name.as_str().starts_with(HISTORY_NAME);
        state.name = Some(name.clone());
    }

    /// Hides a state, so that nobody sees it any more; `remove_hidden` removes it.
    pub fn hide(&mut self, id: StateId) {
        assert!(id != self.tip, "the tip is never removed");
        if let Some(state) = self.states.get_mut(&id) {
            state.hidden = true;
        }
    }

    /// Returns a hidden state on which no other stands, or only one.
    fn removable(&self) -> Option<StateId> {
        let children = |id| self.states.values().filter(|s| s.parent == Some(id)).count();
        self.states.values().find(|s| s.hidden && children(s.id) < 2).map(|s| s.id)
    }

    /// Tells whether `remove_hidden` would remove something.
    pub fn has_removable(&self) -> bool {
        self.removable().is_some()
    }

    /// Removes hidden states. A state with several children stays until one is left (protocol.md §5.4).
    /// Returns what has gone, in order.
    pub fn remove_hidden(&mut self) -> Vec<Gone> {
        let mut gone = Vec::new();
        while let Some(id) = self.removable() {
            let Some(State { parent, tree, .. }) = self.states.remove(&id) else { break };
            let parent_era = parent.and_then(|p| self.states.get(&p)).map_or(Era(0), |p| p.era);
            let child = self.states.values_mut().find(|s| s.parent == Some(id)).map(|child| {
                child.parent = parent;
                child.id
            });
            gone.push(Gone { id, child, parent_era, tree });
        }
        gone
    }

    /// Remembers ended epochs whose last chunk the checkpoint covers.
    pub fn remember(&mut self, ends: impl IntoIterator<Item = End>) {
        for end in ends {
            if self.ends.last().is_none_or(|e| e.epoch < end.epoch && e.last < end.last) {
                self.ends.push(end);
            }
        }
        let surplus = self.ends.len().saturating_sub(ENDS_MAX);
        self.ends.drain(..surplus);
    }

    pub fn page_address(n: u64) -> u64 {
        4 << 60 | n
    }

    /// Returns the numbers and bytes of the pages of states; none if the states are so few that the table
    /// page holds them.
    pub fn pages(&self, deaths: &Deaths, inline: usize, key: Option<&VolumeKey>) -> BTreeMap<u64, Bytes> {
        let mut pages: BTreeMap<u64, Vec<&State>> = BTreeMap::new();
        if self.states.len() > inline {
            self.states.values().for_each(|s| pages.entry(s.id.0 / PAGE_IDS).or_default().push(s));
        }
        let encode = |(n, states): (u64, Vec<&State>)| {
            let mut w = Writer::with_capacity(8 + 160 * states.len());
            w.u8(PAGE_FORMAT).u32(states.len() as u32);
            states.into_iter().for_each(|s| s.encode(deaths, key, &mut w));
            (n, w.buf.into())
        };
        pages.into_iter().map(encode).collect()
    }

    /// Encodes the table page. It holds the states only where the chunk table names no pages of them.
    pub fn encode(&self, chunk_table: &ChunkTable, key: Option<&VolumeKey>) -> Bytes {
        let inline: Vec<&State> = match chunk_table.has_state_pages() {
            true => Vec::new(),
            false => self.states.values().collect(),
        };
        let mut w = Writer::with_capacity(64 + 160 * inline.len());
        w.u32(MAGIC).u16(VERSION).u16(0).u64(self.tip.0).u64(self.next.0);
        w.u64(self.stored_bytes);
        w.u32(inline.len() as u32).u32(self.ends.len() as u32);
        inline.into_iter().for_each(|s| s.encode(&chunk_table.deaths, key, &mut w));
        for e in &self.ends {
            w.varint(e.epoch.0).varint(e.last.0);
        }
        chunk_table.encode(&mut w);
        w.buf.into()
    }

    /// Decodes the table page. Also returns the places of the pages that are yet to be read; the caller calls
    /// `complete` after them.
    pub fn decode(bytes: &[u8], access: &KeyAccess) -> Result<(Tables, ChunkTable, PagePlaces)> {
        let mut r = Reader::new(bytes, "a volume's table of states");
        if r.u32()? != MAGIC || r.u16()? != VERSION || r.u16()? != 0 {
            return Err(r.bad("it is of another kind or version"));
        }
        let (tip, next) = (StateId(r.u64()?), StateId(r.u64()?));
        let stored_bytes = r.u64()?;
        let (n, ended) = (r.u32()?, r.u32()?);
        let mut tables = Tables { tip, next, states: BTreeMap::new(), ends: Vec::new(), stored_bytes };
        let mut deaths = Deaths::new();
        for _ in 0..n {
            tables.add_state(&mut r, &mut deaths, access)?;
        }
        for _ in 0..ended {
            tables.ends.push(End { epoch: Epoch(r.varint()?), last: Seq(r.varint()?) });
        }
        let (mut chunk_table, places) = ChunkTable::decode(&mut r)?;
        chunk_table.deaths = deaths;
        r.end()?;
        Ok((tables, chunk_table, places))
    }

    fn add_state(&mut self, r: &mut Reader<'_>, deaths: &mut Deaths, access: &KeyAccess) -> Result<StateId> {
        let (state, lost) = decode_state(r, access)?;
        let id = state.id;
        let counted = self.next.is_counted() && state.era.is_counted();
        // What follows parents comes to an end, because each is older than its children.
        let is_younger = state.parent.is_none_or(|parent| parent < id);
        if !counted
            || !is_younger
            || id >= self.next
            || self.states.len() > SNAPSHOTS_MAX
            || self.states.insert(id, state).is_some()
        {
            return Err(r.bad("a state's id is impossible"));
        }
        if !lost.is_empty() {
            deaths.insert(id, lost);
        }
        Ok(id)
    }

    /// Adds the states of a page that was read.
    pub fn add_page(&mut self, n: u64, bytes: &[u8], deaths: &mut Deaths, access: &KeyAccess) -> Result<()> {
        let mut r = Reader::new(bytes, "a page of a volume's states");
        if r.u8()? != PAGE_FORMAT {
            return Err(r.bad("its format is unknown"));
        }
        for _ in 0..r.u32()? {
            if self.add_state(&mut r, deaths, access)?.0 / PAGE_IDS != n {
                return Err(r.bad("a state is on another's page"));
            }
        }
        r.end()
    }

    /// Ends the reading after all pages, and checks that there is a tip.
    pub fn complete(self) -> Result<Tables> {
        match self.states.get(&self.tip) {
            Some(tip) if tip.name.is_none() && !tip.hidden => Ok(self),
            _ => Err(Error::new(Kind::Corrupt, "a volume's table of states has no tip")),
        }
    }
}

impl State {
    fn encode(&self, deaths: &Deaths, key: Option<&VolumeKey>, w: &mut Writer) {
        assert!(self.built, "a table is written when its states are built");
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let sealed = self.name.as_ref().zip(key).map(|(name, key)| key.seal_name(self.id, name));
        let flags = flag(sealed.is_some(), SEALED)
            | flag(self.name.is_some(), NAMED)
            | flag(self.hidden, HIDDEN)
            | flag(self.tree.root.is_some(), MAPPED)
            | flag(self.whole, WHOLE)
            | flag(self.history, HISTORY);
        w.u64(self.id.0).u64(self.parent.map_or(0, |p| p.0)).u64(self.era.0).u64(self.size).u64(self.mapped);
        w.u8(flags).u64(self.created_ms).u64(self.since_ms).u128(self.group.0).u32(self.group_size);
        match &sealed {
            Some(sealed) => w.bytes(sealed),
            None => w.bytes(self.name.as_ref().map_or("", |n| n.as_str()).as_bytes()),
        };
        if let Some(root) = self.tree.root {
            w.u8(root.height);
            root.frame.encode(w);
        }
        encode_parts(w, deaths.get(&self.id).map_or(&[], |lost| lost));
    }
}

/// Returns the name under which a snapshot is shown where the key of its name is not at hand.
pub fn name_of_sealed(id: StateId) -> Name {
    format!("sealed-{}", id.0).parse().expect("letters, a dash and digits are a name")
}

fn decode_name(bytes: &[u8], id: StateId, is_sealed: bool, access: &KeyAccess) -> Result<Name> {
    let wrong = |why: &str| Error::new(Kind::Corrupt, format!("the name of snapshot {id} {why}"));
    match (is_sealed, access) {
        (true, KeyAccess::Sealed(key)) => key.open_name(id, bytes),
        (true, KeyAccess::Locked) => Ok(name_of_sealed(id)),
        (true, KeyAccess::Plain) => Err(wrong("is encrypted, and its volume is not")),
        (false, KeyAccess::Sealed(_)) => Err(wrong("is not encrypted, and its volume is")),
        (false, _) => {
            let text = std::str::from_utf8(bytes).map_err(|_| wrong("is not UTF-8"))?;
            Name::stored(text)
        }
    }
}

/// Decodes a state, with its list of deaths.
fn decode_state(r: &mut Reader<'_>, access: &KeyAccess) -> Result<(State, Vec<Part>)> {
    let (id, parent, era, size) = (StateId(r.u64()?), r.u64()?, Era(r.u64()?), r.u64()?);
    let (mapped, flags) = (r.u64()?, r.u8()?);
    let (created_ms, since_ms) = (r.u64()?, r.u64()?);
    let (group, group_size) = (Nonce(r.u128()?), r.u32()?);
    let text = r.bytes(Name::BYTES_MAX.max(NAME_SEALED))?;
    let name = match flags & NAMED {
        0 => None,
        _ => Some(decode_name(text, id, flags & SEALED != 0, access)?),
    };
    let root = match flags & MAPPED {
        0 => None,
        _ => Some(Root { height: r.u8()?, frame: FrameRef::decode(r)? }),
    };
    if flags & !(NAMED | HIDDEN | MAPPED | WHOLE | HISTORY | SEALED) != 0 || id.0 == 0 {
        return Err(r.bad("a state is impossible"));
    }
    let state = State {
        id,
        name,
        parent: (parent != 0).then_some(StateId(parent)),
        era,
        tree: Tree { root },
        mapped,
        size,
        hidden: flags & HIDDEN != 0,
        whole: flags & WHOLE != 0,
        history: flags & HISTORY != 0,
        created_ms,
        since_ms,
        group,
        group_size,
        built: true,
    };
    Ok((state, decode_parts(r)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::head::VolumeSettings;
    use windlass_base::VolumeId;

    fn born() -> Tables {
        Tables::born(&Head::new(VolumeId(1), 5, 1 << 30, VolumeSettings::default(), 1, vec![]))
    }

    fn mark(state: u64, name: &str) -> Mark {
        let (state, name) = (StateId(state), name.parse().unwrap());
        Mark { state, name, group: Nonce(1), group_size: 1, created_ms: 9, size: 1 << 20, history: false }
    }

    fn built(mut t: Tables) -> Tables {
        for (i, s) in t.states.values_mut().enumerate() {
            s.built = true;
            let frame = FrameRef { volume: 0, epoch: Epoch(1), seq: Seq(i as u64), offset: 7, len: 9 };
            s.tree = Tree { root: (i % 2 == 1).then_some(Root { frame, height: 1 }) };
        }
        t
    }

    #[test]
    fn marks_make_snapshots_and_raise_the_era() {
        let mut t = born();
        t.mark(&mark(1, "a")).unwrap();
        t.mark(&mark(2, "b")).unwrap();
        assert!(t.mark(&mark(2, "c")).is_err(), "not the tip");
        let names: Vec<_> = t.snapshots().map(|(n, s)| (n.as_str().to_owned(), s.id.0, s.era.0)).collect();
        assert_eq!(names, [("a".to_owned(), 1, 1), ("b".to_owned(), 2, 2)]);
        assert_eq!((t.tip().id, t.tip().era, t.tip().parent), (StateId(3), Era(3), Some(StateId(2))));
        assert!(t.check_new(&"a".parse().unwrap()).unwrap_err().is(Kind::Exists));
        t.hide(StateId(1));
        t.remove_hidden();
        assert!(t.check_new(&"a".parse().unwrap()).is_ok());
        assert_eq!(t.states[&StateId(2)].parent, None);
        t.hide(StateId(2));
        t.remove_hidden();
        assert_eq!((t.states.len(), t.tip().parent), (1, None));
        t.mark(&mark(3, "a")).unwrap();
        assert_eq!(t.tip().id, StateId(4), "ids are never used again");
    }

    #[test]
    fn a_mark_of_the_history_that_is_given_a_name_is_its_givers() {
        let mut t = born();
        let name: Name = "history-20261130".parse().unwrap();
        t.mark(&Mark { history: true, ..mark(1, name.as_str()) }).unwrap();
        t.rename(StateId(1), &name.in_trash(5));
        t.rename(StateId(1), &name);
        assert!(t.states[&StateId(1)].history, "as it was");
        t.rename(StateId(1), &"golden".parse().unwrap());
        assert!(!t.states[&StateId(1)].history);
        t.rename(StateId(1), &name);
        assert!(!t.states[&StateId(1)].history, "a name makes no mark of the history");
    }

    #[test]
    fn a_state_with_two_children_stays_hidden() {
        let mut t = born();
        t.mark(&mark(1, "a")).unwrap();
        t.mark(&mark(2, "b")).unwrap();
        // As after a rollback to `a`: the tip is a second child.
        t.tip_mut().parent = Some(StateId(1));
        t.hide(StateId(1));
        assert!(t.remove_hidden().is_empty());
        assert!(t.states[&StateId(1)].hidden && t.snapshot(&"a".parse().unwrap()).is_none());
        t.hide(StateId(2));
        t.remove_hidden();
        assert_eq!(t.states.keys().copied().collect::<Vec<_>>(), [StateId(3)]);
    }

    #[test]
    fn a_rollback_begins_a_new_tip() {
        let mut t = born();
        t.mark(&mark(1, "a")).unwrap();
        t.mark(&Mark { size: 2 << 20, ..mark(2, "b") }).unwrap();
        let mut t = built(t);
        let back = |to, keep: Option<&str>| RollBack {
            to: StateId(to),
            keep: keep.map(|k| k.parse().unwrap()),
            created_ms: 7,
            nonce: Nonce(5),
        };
        t.roll_back(&back(1, Some("kept"))).unwrap();
        assert_eq!((t.tip().id, t.tip().parent, t.tip().era), (StateId(4), Some(StateId(1)), Era(4)));
        assert_eq!(t.tip().size, 1 << 20, "as the snapshot");
        let kept = t.snapshot(&"kept".parse().unwrap()).unwrap();
        assert_eq!((kept.id, kept.parent, kept.group), (StateId(3), Some(StateId(2)), Nonce(5)));
        // What is not kept is gone with the next removal.
        t.roll_back(&back(2, None)).unwrap();
        assert!(t.has_removable() && t.states[&StateId(4)].hidden);
        let gone: Vec<_> = t.remove_hidden().iter().map(|g| (g.id, g.child, g.parent_era)).collect();
        assert_eq!(gone, [(StateId(4), None, Era(1))]);
        assert_eq!((t.tip().id, t.tip().size), (StateId(5), 2 << 20));
        assert!(t.roll_back(&back(4, None)).is_err());
    }

    #[test]
    fn golden_bytes_and_round_trip() {
        let mut t = born();
        t.mark(&mark(1, "snap")).unwrap();
        let mut t = built(t);
        t.remember([End { epoch: Epoch(1), last: Seq(4) }, End { epoch: Epoch(3), last: Seq(300) }]);
        let bytes = t.encode(&ChunkTable::default(), None);
        assert_eq!(Tables::decode(&bytes, &KeyAccess::Plain).unwrap().0, t);
        assert_eq!(&bytes[..8], b"WLTB\x03\0\0\0");
        assert_eq!(bytes[32..40], [2, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[80], NAMED | WHOLE);
        assert_eq!(&bytes[117..125], b"\x04\0\0\0snap");
        assert_eq!(bytes[bytes.len() - 10..], [1, 4, 3, 0xac, 2, 0, 0, 0, 0, 0]);
        assert_eq!(bytes.len(), 40 + (77 + 4 + 4 + 1) + (77 + 4 + 1) + 6 + 5 + 5);
        for cut in 0..bytes.len() {
            assert!(Tables::decode(&bytes[..cut], &KeyAccess::Plain).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_time_is_looked_up_on_the_branch_of_then() {
        let mut t = born();
        let marked = |t: &mut Tables, name: &str, ms| {
            let state = t.tip.0;
            t.mark(&Mark { created_ms: ms, ..mark(state, name) }).unwrap();
            *t = built(t.clone());
        };
        marked(&mut t, "good", 100);
        marked(&mut t, "bad", 200);
        let (to, nonce) = (t.snapshot(&"good".parse().unwrap()).unwrap().id, Nonce(5));
        let back = |keep: Option<&str>, created_ms| {
            let keep = keep.map(|k| k.parse().unwrap());
            RollBack { to, keep, created_ms, nonce }
        };
        let shows = |t: &Tables, ms| t.at(ms).map(|s| s.name.clone().unwrap().to_string());
        let all = |t: &Tables| [50, 150, 250, 350, 450].map(|ms| shows(t, ms).unwrap_or_default());
        let mut kept = t.clone();
        kept.roll_back(&back(Some("kept"), 300)).unwrap();
        assert_eq!(all(&kept), ["", "good", "bad", "good", "good"]);
        marked(&mut kept, "later", 400);
        assert_eq!(all(&kept), ["", "good", "bad", "good", "later"]);
        t.roll_back(&back(None, 300)).unwrap();
        t.remove_hidden();
        assert_eq!(all(&t), ["", "good", "bad", "good", "good"]);
    }

    #[test]
    fn many_states_are_in_pages() {
        let mut t = born();
        for id in 1..400 {
            t.mark(&mark(id, &format!("s{id}"))).unwrap();
        }
        for id in [3, 130, 131] {
            t.hide(StateId(id));
        }
        t.remove_hidden();
        let t = built(t);
        let at = |seq| FrameRef { volume: 0, epoch: Epoch(1), seq: Seq(seq), offset: 0, len: 9 };
        let mut chunk_table = ChunkTable::default();
        chunk_table.deaths.insert(StateId(200), vec![Part::whole(at(5))]);
        assert!(t.pages(&chunk_table.deaths, 1_000, None).is_empty());
        let pages = t.pages(&chunk_table.deaths, 100, None);
        assert_eq!(pages.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(chunk_table.changed_states(pages.clone()), pages.clone().into_iter().collect::<Vec<_>>());
        pages.iter().for_each(|(n, bytes)| chunk_table.state_page_is(*n, at(*n), bytes));
        assert!(chunk_table.changed_states(pages.clone()).is_empty() && chunk_table.take_stale().is_empty());
        let (mut read, mut books, places) =
            Tables::decode(&t.encode(&chunk_table, None), &KeyAccess::Plain).unwrap();
        assert_eq!(places.states, [(0, at(0)), (1, at(1)), (2, at(2)), (3, at(3))]);
        assert!(read.clone().complete().is_err(), "its tip is on a page");
        assert!(read.clone().add_page(1, &pages[&0], &mut books.deaths, &KeyAccess::Plain).is_err());
        pages
            .iter()
            .for_each(|(n, bytes)| read.add_page(*n, bytes, &mut books.deaths, &KeyAccess::Plain).unwrap());
        assert_eq!((read.complete().unwrap(), books.deaths), (t.clone(), chunk_table.deaths.clone()));
        // One more snapshot changes one page, or begins one; a page that is not needed any more is gone.
        let mut next = t.clone();
        next.mark(&mark(400, "s400")).unwrap();
        let next = built(next);
        let changed = chunk_table.changed_states(next.pages(&chunk_table.deaths, 100, None));
        assert_eq!(changed.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [3]);
        assert_eq!(chunk_table.take_stale(), [at(3)]);
        assert!(chunk_table.changed_states(BTreeMap::new()).is_empty());
        assert_eq!(chunk_table.take_stale(), [at(0), at(1), at(2)]);
        assert!(!chunk_table.has_state_pages());
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if bytes.len() > 40 {
                bytes[..8].copy_from_slice(b"WLTB\x03\0\0\0");
                bytes[33..36].fill(0);
            }
            let _ = born().add_page(0, &bytes, &mut Deaths::new(), &KeyAccess::Plain);
            let _ = Tables::decode(&bytes, &KeyAccess::Plain);
        }
    }
}
