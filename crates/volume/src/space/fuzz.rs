//! The tables under a checkpoint: states, the chunk table's pages, lists of dead frames.

use std::collections::{BTreeMap, BTreeSet};

use super::chunk_table::{ChunkTable, Entry, Home, Object};
use super::dead_runs::{DeadFrame, Part, RunIndex, RunPage, decode_deaths, encode_deaths};
use super::snapshot_freed_space::{DeadBytes, freed};
use super::state_table::Tables;
use crate::head::{Head, VolumeSettings};
use windlass_base::log_record::Mark;
use windlass_base::{Epoch, Era, Nonce, Seq, StateId, VolumeId};
use windlass_fuzz::{choice, number};
use windlass_keys::{KeyAccess, Secret, VolumeKey};
use windlass_log::FrameRef;
use windlass_pool::ChunkKind;

const AT: FrameRef = FrameRef { volume: 0, epoch: Epoch(1), seq: Seq(1), offset: 7, len: 9 };

fn key() -> VolumeKey {
    VolumeKey::new(VolumeId(1), [(1, Secret::new([7; 32]))]).expect("it has a data key")
}

fn some_states() -> Tables {
    let head = Head::new(VolumeId(1), 5, 1 << 30, VolumeSettings::default(), 1, vec![]);
    let mut tables = Tables::born(&head);
    for (state, name) in [(1, "a"), (2, "b")] {
        let (state, name) = (StateId(state), name.parse().expect("a name"));
        let (group, group_size, created_ms, size, history) = (Nonce(1), 1, 9, 1 << 20, false);
        let mark = Mark { state, name, group, group_size, created_ms, size, history };
        tables.mark(&mark).expect("of the tip");
    }
    tables.states.values_mut().for_each(|state| state.built = true);
    tables
}

/// Returns tables with the states inline, sealed, and on a page of their own.
pub fn some_tables() -> Vec<Vec<u8>> {
    let (tables, mut chunks) = (some_states(), ChunkTable::default());
    let part = Part { run: AT, from: Era(1), to: Era(2) };
    chunks.deaths.insert(StateId(3), vec![part]);
    let inline = tables.encode(&chunks, None);
    let sealed = tables.encode(&chunks, Some(&key()));
    let pages = tables.pages(&chunks.deaths, 0, None);
    let [page] = pages.values().collect::<Vec<_>>()[..] else { return Vec::new() };
    chunks.state_page_is(0, AT, page);
    let beside = tables.encode(&chunks, None);
    let with_page = |table: &[u8], page: &[u8]| [&(table.len() as u64).to_le_bytes(), table, page].concat();
    vec![with_page(&inline, &[]), with_page(&sealed, &[]), with_page(&beside, page)]
}

/// Reads tables: the length of the table page, the page, and a page of states.
pub fn tables(data: &[u8]) {
    let (len, rest) = number(data);
    let (table, page) = rest.split_at(usize::try_from(len).unwrap_or(usize::MAX).min(rest.len()));
    for access in [KeyAccess::Plain, KeyAccess::Locked, KeyAccess::Sealed(key())] {
        let Ok((mut tables, mut chunks, _)) = Tables::decode(table, &access) else { continue };
        let _ = tables.add_page(0, page, &mut chunks.deaths, &access);
        let Ok(tables) = tables.complete() else { continue };
        let keyed = access.key().ok().flatten();
        if matches!(access, KeyAccess::Plain) {
            let again = Tables::decode(&tables.encode(&chunks, keyed), &access);
            assert_eq!(again.ok().map(|(tables, ..)| tables), Some(tables.clone()));
        }
        looked_at(&tables, chunks);
    }
}

/// Does what an owner does with tables, and works out what is told of their states.
fn looked_at(tables: &Tables, mut chunks: ChunkTable) {
    let _ = (tables.snapshots().count(), tables.at(u64::MAX), tables.all_descend_from(StateId(1)));
    let index = RunIndex { sums: vec![(Era(1), u64::MAX), (Era(2), u64::MAX)], pages: vec![] };
    let mut dead = DeadBytes::default();
    for (state, parts) in &chunks.deaths {
        parts.iter().for_each(|part| dead.add(*state, part, &index));
    }
    let _ = freed(tables, &dead, None);
    let _ = (chunks.runs(), chunks.own_pages());
    let mut next = tables.clone();
    let (state, name) = (next.tip, "new".parse().expect("a name"));
    let (group, group_size, created_ms, size, history) = (Nonce(1), 1, 9, 1 << 20, false);
    if next.check_room().is_ok() {
        let mark = Mark { state, name, group, group_size, created_ms, size, history };
        next.mark(&mark).expect("of the tip");
        assert!(next.tip().era > tables.tip().era && next.tip > tables.tip);
    }
    let hidden: Vec<StateId> = next.states.keys().copied().filter(|id| *id != next.tip).collect();
    hidden.into_iter().for_each(|id| next.hide(id));
    for gone in next.remove_hidden() {
        gone.child.into_iter().for_each(|child| chunks.inherit(gone.id, child, gone.parent_era));
    }
    assert!(!next.has_removable());
}

pub fn some_slabs() -> Vec<Vec<u8>> {
    let own = Entry {
        epoch: Epoch(2),
        era: Era(1),
        kind: ChunkKind::Data,
        counted: true,
        total: 9000,
        dead: 100,
        home: Home::Own,
        hour: 5,
        settled: true,
        saved: 20,
        key: 1,
    };
    let pack = Object { epoch: Epoch(2), seq: Seq::pack(3) };
    let home = Home::Pack { pack, at: 4096, len: 30, packed: 1 };
    let mut chunks = ChunkTable::default();
    chunks.insert(Seq(3), own);
    chunks.insert(Seq(9), Entry { home, kind: ChunkKind::Map, saved: 0, ..own });
    chunks.changed().into_iter().map(|(n, page)| [&n.to_le_bytes(), &page[..]].concat()).collect()
}

/// Reads a page of the chunk table: its number, and its bytes.
pub fn slab(data: &[u8]) {
    let (n, bytes) = number(data);
    let mut chunks = ChunkTable::default();
    if chunks.add_page(n, AT, bytes).is_err() {
        return;
    }
    let all: BTreeMap<Seq, Entry> = chunks.entries().map(|(seq, entry)| (seq, *entry)).collect();
    let objects: BTreeSet<Object> = chunks.objects().into_keys().collect();
    let (stored, live) = chunks.space();
    assert!(live <= stored);
    let _ = (
        chunks.live_of(&objects),
        chunks.sealed_bytes(),
        chunks.packed(VolumeId(1)),
        chunks.packable().count(),
    );
    // A death, and the page written again.
    for (seq, entry) in &all {
        chunks.bury_bytes(*seq, u32::MAX.into()).expect("the entry is there");
        chunks.insert(*seq, *entry);
    }
    let mut again = ChunkTable::default();
    for (n, page) in chunks.changed() {
        again.add_page(n, AT, &page).expect("what was written here");
    }
    assert_eq!(again.entries().map(|(seq, entry)| (seq, *entry)).collect::<BTreeMap<_, _>>(), all);
    chunks.retire();
    // Nothing is taken for dead that is counted to be needed, or of which more died than there is.
    for (seq, entry) in all.iter().filter(|(_, e)| !e.counted || e.dead != e.total) {
        assert!(chunks.entry(*seq).is_some(), "{seq}: {entry:?}");
    }
}

pub fn some_dead() -> Vec<Vec<u8>> {
    let death = |n: u64| DeadFrame { era: Era(n / 2), seq: Seq(n), offset: n * 10, len: 5 };
    let deaths: Vec<DeadFrame> = (1..8).map(death).collect();
    let mut index = RunIndex { sums: vec![], pages: vec![RunPage { at: AT, era: Era(0), seq: Seq(1) }] };
    deaths.iter().for_each(|death| index.add(death));
    vec![[&[0], &encode_deaths(&deaths)[..]].concat(), [&[1], &index.encode()[..]].concat()]
}

/// Reads a page of deaths, or a run's index.
pub fn dead(data: &[u8]) {
    let (form, bytes) = choice(data);
    if form & 1 == 0 {
        if let Ok(deaths) = decode_deaths(bytes) {
            assert!(deaths.is_sorted());
            assert_eq!(decode_deaths(&encode_deaths(&deaths)).ok(), Some(deaths));
        }
    } else if let Ok(index) = RunIndex::decode(bytes) {
        assert_eq!(RunIndex::decode(&index.encode()).ok(), Some(index));
    }
}
