use futures::executor::block_on;
use proptest::prelude::*;

use super::chunk_table::{Entry, Home};
use super::dead_runs::decode_deaths;
use crate::head::{Head, VolumeSettings};
use crate::space::*;
use windlass_base::codec::{Reader, Writer};
use windlass_base::{ChunkId, Epoch, Era, Generation, Kind, Result, Seq, StateId, VolumeId};
use windlass_keys::KeyAccess;
use windlass_log::FrameRef;
use windlass_map::Pages;
use windlass_pool::ChunkKind;

fn frame(seq: u64, offset: u64) -> FrameRef {
    FrameRef { volume: 0, epoch: Epoch(1), seq: Seq(seq), offset, len: 10 }
}

fn death(era: u64, seq: u64, offset: u64, len: u32) -> DeadFrame {
    DeadFrame { era: Era(era), seq: Seq(seq), offset, len }
}

fn entry(total: u64, dead: u64, home: Home) -> Entry {
    let kind = ChunkKind::Data;
    let (epoch, era, counted) = (Epoch(2), Era(3), true);
    Entry { epoch, era, kind, counted, total, dead, home, hour: 0, settled: false, saved: 0, key: 0 }
}

#[test]
fn golden_bytes_of_runs() {
    let deaths = [death(1, 300, 0, 70), death(1, 300, 200, 5), death(1, 301, 9, 5), death(4, 2, 1, 1)];
    let bytes = encode_deaths(&deaths);
    let expect = [1, 4, 1, 0xac, 2, 0, 70, 0, 0, 0xc8, 1, 5, 0, 1, 9, 5, 3, 2, 1, 1];
    assert_eq!(bytes[..], expect);
    assert_eq!(decode_deaths(&bytes).unwrap(), deaths);
    let mut index = RunIndex::default();
    deaths.iter().for_each(|d| index.add(d));
    index.pages.push(RunPage { at: frame(7, 300), era: Era(1), seq: Seq(300) });
    let bytes = index.encode();
    assert_eq!(bytes[..], [1, 2, 1, 80, 4, 1, 1, 0, 1, 7, 0xac, 2, 10, 1, 0xac, 2]);
    assert_eq!(RunIndex::decode(&bytes).unwrap(), index);
}

#[test]
fn golden_bytes_of_the_table() {
    let mut chunk_table = ChunkTable::default();
    chunk_table.insert(Seq(4100), entry(300, 5, Home::Own));
    let pack = Object { epoch: Epoch(9), seq: Seq(2) };
    chunk_table.insert(Seq(4102), entry(7, 0, Home::Pack { pack, at: 6, len: 7, packed: 1 }));
    let young = Entry { counted: false, kind: ChunkKind::Map, ..entry(0, 1, Home::Own) };
    chunk_table.insert(Seq(4103), young);
    let packed = Home::Pack { pack, at: 6, len: 7, packed: 2 };
    let cold = Entry { hour: 200, settled: true, saved: 3, ..entry(7, 0, packed) };
    chunk_table.insert(Seq(4104), cold);
    let pages = chunk_table.changed();
    let mut bytes = vec![1, 4, 4, 2, 3, 2, 0xac, 2, 5, 2, 2, 3, 6, 7, 0, 9, 2, 6, 7, 1, 1, 2, 3, 1, 1];
    bytes.extend([1, 2, 3, 62, 7, 0, 9, 2, 6, 7, 2, 0xc8, 1, 3]);
    assert_eq!(pages.iter().map(|(n, b)| (*n, &b[..])).collect::<Vec<_>>(), [(1, &bytes[..])]);
    chunk_table.written(1, frame(5, 1));
    chunk_table.state_page_is(3, frame(1, 2), b"states");
    chunk_table.folded.push(Folded { part: Part::whole(frame(1, 3)), deaths: 2, bytes: 9 });
    chunk_table.retired.insert(Object { epoch: Epoch(1), seq: Seq(8) });
    let mut w = Writer::default();
    chunk_table.encode(&mut w);
    let mut whole = vec![1, 1, 0, 1, 5, 1, 10, 1, 3, 0, 1, 1, 2, 10, 0, 1, 0, 1, 1, 3, 10, 1];
    whole.extend([0xff; 9]);
    whole.extend([1, 2, 9, 1, 1, 8]);
    assert_eq!(w.buf, whole);
    let mut r = Reader::new(&w.buf, "a test");
    let (mut again, places) = ChunkTable::decode(&mut r).unwrap();
    assert_eq!((r.left(), places.slabs, places.states), (0, vec![(1, frame(5, 1))], vec![(3, frame(1, 2))]));
    again.add_page(1, frame(5, 1), &bytes).unwrap();
    assert!(again.entries().eq(chunk_table.entries()));
    assert_eq!((&again.free, &again.folded), (&chunk_table.free, &chunk_table.folded));
    for cut in 0..bytes.len() {
        assert!(again.add_page(1, frame(5, 1), &bytes[..cut]).unwrap_err().is(Kind::Corrupt));
    }
}

#[test]
fn what_is_dead_retires_and_a_miscount_does_not() {
    let mut chunk_table = ChunkTable::default();
    let pack = Object { epoch: Epoch(9), seq: Seq(2) };
    let packed = |at| Home::Pack { pack, at, len: 1, packed: 1 };
    chunk_table.insert(Seq(1), entry(10, 10, Home::Own));
    chunk_table.insert(Seq(2), entry(10, 9, Home::Own));
    chunk_table.insert(Seq(3), entry(10, 11, Home::Own));
    chunk_table.insert(Seq(4), entry(5, 5, packed(0)));
    chunk_table.insert(Seq(5), entry(5, 4, packed(1)));
    chunk_table.insert(Seq(6), Entry { counted: false, ..entry(0, 0, Home::Own) });
    chunk_table.retire();
    assert_eq!(chunk_table.retired, [Object { epoch: Epoch(2), seq: Seq(1) }].into());
    assert_eq!(chunk_table.entries().map(|(s, _)| s.0).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    assert_eq!(chunk_table.objects()[&pack], (10, 1));
    chunk_table.bury(&death(3, 5, 0, 1)).unwrap();
    chunk_table.retire();
    assert!(chunk_table.retired.contains(&pack) && chunk_table.entry(Seq(4)).is_none());
    assert!(chunk_table.bury(&death(3, 5, 0, 1)).is_err(), "it is gone");
}

#[test]
fn packs_take_over_and_what_died_meanwhile_is_dead_in_them() {
    let mut chunk_table = ChunkTable::default();
    let (one, two) = (Object { epoch: Epoch(2), seq: Seq(1) }, Object { epoch: Epoch(2), seq: Seq(2) });
    chunk_table.insert(Seq(1), entry(10, 6, Home::Own));
    chunk_table.insert(Seq(2), entry(10, 7, Home::Own));
    let pack = Object { epoch: Epoch(2), seq: Seq::pack(1) };
    let chunk = |seq, bytes, dead| {
        let (saved, settled) = (bytes / 2, true);
        Survivors { seq: Seq(seq), at: 0, len: 9, bytes, saved, dead, settled, key: 0 }
    };
    // Of the first chunk a byte died while it was packed; the third is gone by now.
    let chunks = vec![chunk(1, 5, 5), chunk(2, 3, 7), chunk(3, 1, 0)];
    let moved =
        Repacked { pack, counted_in: Generation(0), sources: [one, two].into(), chunks, settled: Vec::new() };
    chunk_table.adopt(&moved).unwrap();
    let seen: Vec<_> = chunk_table.entries().map(|(_, e)| (e.total, e.dead, e.packings())).collect();
    assert_eq!(seen, [(5, 1, 1), (3, 0, 1)]);
    assert_eq!(chunk_table.retired, [one, two].into());
    assert_eq!(chunk_table.objects()[&pack], (8, 7));
    let stored: Vec<_> = chunk_table.entries().map(|(_, e)| e.stored()).collect();
    assert_eq!((stored, chunk_table.space()), (vec![(3, 2), (2, 2)], (5, 4)));
    let none = Repacked {
        pack: two,
        counted_in: Generation(0),
        sources: [one].into(),
        chunks: vec![chunk(3, 1, 0)],
        settled: Vec::new(),
    };
    chunk_table.adopt(&none).unwrap();
    assert!(chunk_table.retired.contains(&two), "nothing in it counts");
    chunk_table.insert(Seq(4), entry(10, 0, Home::Own));
    chunk_table.insert(Seq(5), entry(10, 0, Home::Own));
    let (own, never) =
        (Object { epoch: Epoch(2), seq: Seq(4) }, Object { epoch: Epoch(2), seq: Seq::pack(2) });
    // The second one has moved since it was looked at.
    let settled = vec![(Seq(4), own), (Seq(5), pack)];
    chunk_table
        .adopt(&Repacked {
            pack: never,
            counted_in: Generation(0),
            sources: [].into(),
            chunks: Vec::new(),
            settled,
        })
        .unwrap();
    let settled = |seq| chunk_table.entry(Seq(seq)).unwrap().settled;
    assert!(settled(4) && !settled(5) && !chunk_table.retired.contains(&never));
}

#[test]
fn removing_a_state_moves_its_lists() {
    let part = |n, from, to| Part { run: frame(n, 0), from: Era(from), to: Era(to) };
    let mut chunk_table = ChunkTable::default();
    chunk_table.deaths.insert(StateId(2), vec![part(1, 1, 3)]);
    chunk_table.deaths.insert(StateId(3), vec![part(2, 1, 9), part(3, 4, 9), part(4, 1, 2)]);
    chunk_table.inherit(StateId(2), StateId(3), Era(3));
    assert_eq!(chunk_table.free, [part(2, 4, 9), part(3, 4, 9)]);
    assert_eq!(chunk_table.deaths[&StateId(3)], [part(2, 1, 3), part(4, 1, 2), part(1, 1, 3)]);
    chunk_table.inherit(StateId(9), StateId(3), Era(0));
    assert!(!chunk_table.deaths.contains_key(&StateId(3)) && chunk_table.free.len() == 5);
}

/// A store of pages by their offset.
struct Shelf(Vec<bytes::Bytes>);

#[async_trait::async_trait]
impl Pages for Shelf {
    fn chunk(&self, at: &FrameRef) -> Result<ChunkId> {
        Ok(ChunkId { volume: VolumeId(1), epoch: at.epoch, seq: at.seq })
    }
    async fn load(&self, at: &FrameRef, _address: u64) -> Result<bytes::Bytes> {
        Ok(self.0[at.offset as usize].clone())
    }
}

proptest! {
    #[test]
    fn parts_of_runs_read_back(
        mut deaths in prop::collection::vec((1..6u64, 0..20u64, 0..1000u64, 1..9u32), 1..200),
        (from, to, page) in (0..7u64, 0..7u64, 1..50usize),
    ) {
        deaths.sort_unstable();
        let deaths: Vec<DeadFrame> = deaths.into_iter().map(|(e, s, o, l)| death(e, s, o, l)).collect();
        let mut shelf = Shelf(Vec::new());
        let mut index = RunIndex::default();
        deaths.iter().for_each(|d| index.add(d));
        for some in deaths.chunks(page) {
            let at = frame(1, shelf.0.len() as u64);
            index.pages.push(RunPage { at, era: some[0].era, seq: some[0].seq });
            shelf.0.push(encode_deaths(some));
        }
        shelf.0.push(index.encode());
        let part = Part { run: frame(1, shelf.0.len() as u64 - 1), from: Era(from), to: Era(to) };
        let read = |mut cursor: Cursor<'_>| {
            let mut all = Vec::new();
            while let Some(d) = block_on(cursor.next()).unwrap() {
                all.push(d);
            }
            all
        };
        let inside = |d: &&DeadFrame| (Era(from)..=Era(to)).contains(&d.era);
        let wanted: Vec<DeadFrame> = deaths.iter().filter(inside).copied().collect();
        prop_assert_eq!(read(block_on(Cursor::open(&shelf, part)).unwrap()), wanted);
        for d in &deaths {
            let near = read(Cursor::of_chunk(&shelf, Part::whole(part.run), &index, d.era, d.seq));
            let of = |all: &[DeadFrame]| all.iter().filter(|o| o.seq == d.seq && o.era == d.era).count();
            prop_assert_eq!(of(&near), of(&deaths));
        }
    }

    #[test]
    fn any_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_deaths(&bytes);
        let _ = RunIndex::decode(&bytes);
        let _ = ChunkTable::decode(&mut Reader::new(&bytes, "a test"));
        let _ = ChunkTable::default().add_page(0, frame(1, 1), &bytes);
    }
}

/// A case that fuzzing found: an owner that merged such a list into its own stopped with a panic.
#[test]
fn deaths_out_of_order_are_refused() {
    let shorter = [1, 2, 1, 9, 4, 70, 0, 0, 0, 5];
    assert!(decode_deaths(&shorter).is_err());
    assert_eq!(decode_deaths(&[1, 2, 1, 9, 4, 5, 0, 0, 0, 70]).unwrap().len(), 2);
}

/// A reader that goes from a state to its parents would never come to an end, or count over the end of 64
/// bits.
#[test]
fn states_that_nobody_can_have_made_are_refused() {
    let head = Head::new(VolumeId(1), 5, 1 << 30, VolumeSettings::default(), 1, vec![]);
    let with = |change: fn(&mut State)| {
        let mut tables = Tables::born(&head);
        tables.states.values_mut().for_each(|state| state.built = true);
        tables.states.values_mut().for_each(change);
        let bytes = tables.encode(&ChunkTable::default(), None);
        Tables::decode(&bytes, &KeyAccess::Plain).map(drop)
    };
    assert!(with(|_| {}).is_ok());
    assert!(with(|state| state.parent = Some(state.id)).is_err(), "its own parent");
    assert!(with(|state| state.parent = Some(state.id.next())).is_err());
    assert!(with(|state| state.era = Era(u64::MAX)).is_err());
}

#[test]
fn a_chunk_is_not_larger_than_a_chunk_can_be() {
    let with = |total, dead| {
        let mut chunks = ChunkTable::default();
        chunks.insert(Seq(3), entry(total, dead, Home::Own));
        let (n, page) = chunks.changed().remove(0);
        ChunkTable::default().add_page(n, frame(1, 0), &page)
    };
    assert!(with(1 << 30, 1 << 30).is_ok());
    assert!(with(u64::MAX, 0).is_err() && with(9, u64::MAX).is_err());
}
