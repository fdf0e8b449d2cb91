//! Tables of contents of chunks, and indexes of packs.

use super::pack::{PackDraft, PackFrame, Slice};
use super::toc::{Toc, TocFrame};
use windlass_base::format_limits::{SHARD_SPAN, SHARDS_MAX};
use windlass_base::log_record::Mark;
use windlass_base::{ChunkId, Epoch, Era, JournalId, Lsn, Nonce, Seq, StateId, VolumeId};
use windlass_fuzz::{Target, number, with_crc};
use windlass_pool::ChunkKind;

pub const TARGETS: &[Target] = &[
    Target { name: "toc", run: toc, seeds: some_tocs, memory: 64 << 10 },
    Target { name: "pack_index", run: index, seeds: some_indexes, memory: 64 << 10 },
];

fn some_tocs() -> Vec<Vec<u8>> {
    let mark = Mark {
        state: StateId(1),
        name: "s1".parse().expect("a name"),
        group: Nonce(7),
        group_size: 1,
        created_ms: 1000,
        size: 1 << 30,
        history: true,
    };
    let data = Toc {
        kind: ChunkKind::Data,
        epoch: Epoch(2),
        seq: Seq(9),
        era: Era(1),
        journal: JournalId(0x0102),
        first: Lsn(5),
        last: Lsn(8),
        frames: vec![
            TocFrame { block: 0, count: 16, offset: 0, len: 100 },
            TocFrame { block: 300, count: 1, offset: SHARD_SPAN, len: 4112 },
        ],
        zeros: vec![(16, 4), (1000, 1 << 30)],
        mark: Some(mark),
    };
    let frames = vec![TocFrame { block: 1 << 56 | 256, count: 0, offset: 0, len: 90 }];
    let (first, last, zeros, mark) = (Lsn(9), Lsn(8), Vec::new(), None);
    let map = Toc { kind: ChunkKind::Map, first, last, frames, zeros, mark, ..data.clone() };
    [data, map].iter().map(Toc::encode).map(|bytes| bytes[..bytes.len() - 4].to_vec()).collect()
}

/// Decodes `data` as a table of contents, as it is and with its checksum behind it.
fn toc(data: &[u8]) {
    let _ = Toc::decode(data);
    let Ok(toc) = Toc::decode(&with_crc(data)) else { return };
    assert_eq!(Toc::decode(&toc.encode()).ok().as_ref(), Some(&toc));
    // What replay takes for granted.
    assert!(toc.frames.is_sorted_by(|a, b| a.offset + u64::from(a.len) <= b.offset));
    if toc.kind == ChunkKind::Data {
        assert!(toc.frames.is_sorted_by(|a, b| a.block + u64::from(a.count) <= b.block));
        assert!(toc.zeros.is_sorted_by(|a, b| a.0 + a.1 <= b.0));
    }
}

fn some_indexes() -> Vec<Vec<u8>> {
    let id = ChunkId { volume: VolumeId(3), epoch: Epoch(2), seq: Seq::pack(5) };
    let frame = |from: u64, address, is_data| {
        let data = vec![from as u8; 9].into();
        PackFrame { from, was: if is_data { 12 } else { 9 }, address, is_data, data }
    };
    let mut plain = PackDraft::new(id, 2, 6, None);
    plain.add(Epoch(1), Seq(9), &[frame(300, None, false), frame(400, None, false)]);
    let mut gathered = PackDraft::gathering(id, 1, None);
    gathered.add(Epoch(1), Seq(9), &[frame(300, Some(200), true), frame(400, Some(216), true)]);
    [plain, gathered]
        .into_iter()
        .map(|draft| {
            let (chunk, placings) = draft.finish(Era(4));
            let index = &chunk.shards[0][..placings[0].len as usize - 4];
            [&placings[0].at.to_le_bytes(), index].concat()
        })
        .collect()
}

/// Decodes `data` as an index: first its place in the pack, then its bytes without their checksum.
fn index(data: &[u8]) {
    let (at, body) = number(data);
    let _ = Slice::decode(data, at);
    let Ok(slice) = Slice::decode(&with_crc(body), at) else { return };
    assert!(slice.frames.is_sorted_by(|a, b| a.from + u64::from(a.was) <= b.from));
    assert!(slice.frames.is_sorted_by(|a, b| a.to + u64::from(a.len) <= b.to));
    assert!(slice.frames.iter().all(|m| m.to < SHARDS_MAX as u64 * SHARD_SPAN));
    assert!(slice.addresses.is_empty() || slice.addresses.len() == slice.frames.len());
    for moved in &slice.frames {
        assert!(slice.find(moved.from).is_some());
    }
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
