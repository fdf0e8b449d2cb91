//! Frames: what is stored of one, with its checksum made right.

use bytes::Bytes;

use super::frame_format::{CHECKED, put};
use super::{
    Codec, FRAME_HEADER, FrameKind, Packer, Place, Recompressor, SEALED_MORE, data_key_of, open, verify,
};
use windlass_base::{ChunkId, Epoch, Seq, VolumeId};
use windlass_fuzz::{Target, choice};
use windlass_keys::{KeyAccess, Secret, VolumeKey};

pub const TARGETS: &[Target] = &[Target { name: "frame", run: frame, seeds: some_frames, memory: 1 << 20 }];

const PLACE: Place =
    Place { chunk: ChunkId { volume: VolumeId(3), epoch: Epoch(2), seq: Seq(5) }, offset: 4096, address: 16 };
/// Bytes of the longest contents: those of a list, which may be longer than a frame.
const RAW_MAX: usize = 256 << 10;

fn key() -> VolumeKey {
    VolumeKey::new(VolumeId(3), [(1, Secret::new([7; 32]))]).expect("it has a data key")
}

/// Makes inputs: a byte that says whether the frame is sealed, the fields of its header, and its body.
fn some_frames() -> Vec<Vec<u8>> {
    let block = Bytes::from(b"a block of text. ".repeat(241)[..4096].to_vec());
    let of = |codec: Codec, kind: FrameKind, sealed: u8| {
        let mut packer = Packer::new(codec, None);
        let body = packer.pack(kind, block.clone());
        let mut stored = vec![sealed];
        packer.finish(&body, &PLACE, &mut stored);
        stored.drain(1 + CHECKED..1 + FRAME_HEADER);
        stored
    };
    let mut all = Vec::new();
    for codec in [Codec::Lz4, Codec::Zstd] {
        for (kind, sealed) in
            [(FrameKind::Data, 0), (FrameKind::Data, 1), (FrameKind::Map, 0), (FrameKind::Table, 1)]
        {
            all.push(of(codec, kind, sealed));
        }
    }
    all
}

fn frame(data: &[u8]) {
    let accesses = [KeyAccess::Plain, KeyAccess::Sealed(key()), KeyAccess::Locked];
    let raw = Bytes::copy_from_slice(data);
    for access in &accesses {
        let _ = open(&raw, &PLACE, RAW_MAX, access);
    }
    let (sealed, rest) = choice(data);
    let Some((fields, body)) = rest.split_first_chunk::<CHECKED>() else { return };
    let (is_sealed, mut fields) = (sealed & 1 == 1, *fields);
    let more = if is_sealed { SEALED_MORE } else { 0 };
    fields[4..8].copy_from_slice(&((body.len() + more) as u32).to_le_bytes());
    fields[1] = if is_sealed { 1 } else { fields[1] };
    let seal = is_sealed.then(|| key().chunk(&PLACE.chunk, 5));
    let mut stored = Vec::new();
    put(&fields, body, &PLACE, seal.as_ref(), &mut stored);
    let stored = Bytes::from(stored);
    assert!(verify(&stored, &PLACE));
    assert_eq!(data_key_of(&stored), fields[1]);
    for access in &accesses {
        if let Ok(contents) = open(&stored, &PLACE, RAW_MAX, access) {
            assert!(contents.len() <= RAW_MAX);
            // An encrypted volume has sealed frames only, and any other volume none.
            assert_eq!(matches!(access, KeyAccess::Plain), fields[1] == 0);
        }
        let mut anew = Recompressor::new(access.clone(), &PLACE.chunk, 6);
        if let Some(smaller) = anew.smaller(&stored, &PLACE) {
            let before = open(&stored, &PLACE, RAW_MAX, access).ok();
            assert_eq!(open(&smaller, &PLACE, RAW_MAX, access).ok(), before);
        }
    }
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
