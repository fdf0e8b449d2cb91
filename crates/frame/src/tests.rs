//! Frames: golden bytes, changed bits, forgeries.

use proptest::prelude::*;

use super::*;
use windlass_base::{Epoch, Seq, VolumeId};
use windlass_keys::Secret;

const GOLDEN_FRAME: &str = concat!(
    "000300012800000008000000d95e52d001000000000000000000000000000000",
    "aef47fb7ca2fb3543464f4c20224382f9b9f34e192b829df"
);

#[test]
fn what_is_compressed_anew_is_smaller_and_the_same() {
    let raw: Bytes =
        (0..4096u32).flat_map(|i| format!("{:08}-{:07}", i / 7, i * i % 10_000_000).into_bytes()).collect();
    assert_eq!(raw.len(), 1 << 16);
    let (place, elsewhere) = (place(96, 3), place(112, 3));
    let stored = |codec| {
        let mut packer = Packer::new(codec, None);
        let body = packer.pack(FrameKind::Data, raw.clone());
        let mut out = Vec::new();
        packer.finish(&body, &place, &mut out);
        Bytes::from(out)
    };
    let (none, lz4, zstd) = (stored(Codec::None), stored(Codec::Lz4), stored(Codec::Zstd));
    let mut anew = Recompressor::new(KeyAccess::Plain, &place.chunk, 0);
    for old in [&none, &lz4] {
        let new = anew.smaller(old, &place).unwrap();
        assert!(new.len() < old.len() * 4 / 5, "{} of {}", new.len(), old.len());
        assert_eq!((new[0], new[3]), (Codec::Zstd as u8, FrameKind::Data as u8));
        assert_eq!(open(&new, &place, raw.len(), &KeyAccess::Plain).unwrap(), raw);
        assert!(anew.smaller(&new, &place).is_none(), "once");
        assert!(anew.smaller(old, &elsewhere).is_none(), "it is not of that place");
    }
    assert!(anew.smaller(&zstd, &place).is_none());
    assert!(
        anew.smaller(&Bytes::new(), &place).is_none() && anew.smaller(&lz4.slice(..20), &place).is_none()
    );
}

fn place(offset: u64, address: u64) -> Place {
    Place { chunk: ChunkId { volume: VolumeId(7), epoch: Epoch(2), seq: Seq(9) }, offset, address }
}

fn stored(codec: Codec, kind: FrameKind, raw: &[u8], at: &Place) -> Bytes {
    let mut packer = Packer::new(codec, None);
    let body = packer.pack(kind, Bytes::copy_from_slice(raw));
    let mut out = vec![0xee; 3];
    packer.finish(&body, at, &mut out);
    assert_eq!(out.len(), 3 + body.stored_len());
    Bytes::from(out).slice(3..)
}

#[test]
fn golden_bytes() {
    let at = place(16, 5);
    let plain = stored(Codec::None, FrameKind::Map, b"windlass", &at);
    assert_eq!(plain, &b"\0\0\0\x01\x08\0\0\0\x08\0\0\0\x86\x4e\xb6\xe6windlass"[..]);
    // 4096 times 0x55, packed and summed by hand: one literal, one match, the last five literals.
    let packed = "010001001a0000000010000069d2e7c71f550100fffffffffffffffffffffffffffffff6505555555555";
    let digit = |at: usize| u8::from_str_radix(&packed[at..at + 2], 16).unwrap();
    let packed: Vec<u8> = (0..packed.len()).step_by(2).map(digit).collect();
    assert_eq!(open(&packed.into(), &at, 4096, &KeyAccess::Plain).unwrap(), vec![0x55; 4096]);
    for codec in [Codec::Lz4, Codec::Zstd] {
        let ours = stored(codec, FrameKind::Data, &[0x55; 4096], &at);
        assert_eq!(ours[..4], [codec as u8, 0, 1, 0]);
        assert_eq!(ours[8..12], [0, 16, 0, 0]);
    }
    // The same by zstd 1.5.7, whatever a later one makes of it.
    let zstd = "28b52ffd60000f4d00001055550100fbf70116";
    let body: Vec<u8> =
        (0..zstd.len()).step_by(2).map(|at| u8::from_str_radix(&zstd[at..at + 2], 16).unwrap()).collect();
    let mut frame = vec![2, 0, 1, 0, body.len() as u8, 0, 0, 0, 0, 16, 0, 0];
    frame.extend_from_slice(
        &checksum(frame[..12].first_chunk::<CHECKED>().unwrap(), &at, &body).to_le_bytes(),
    );
    frame.extend_from_slice(&body);
    assert_eq!(open(&frame.into(), &at, 4096, &KeyAccess::Plain).unwrap(), vec![0x55; 4096]);
}

fn keys() -> VolumeKey {
    VolumeKey::new(VolumeId(7), [(3, Secret::new([0x42; 32]))]).unwrap()
}

fn sealed(codec: Codec, kind: FrameKind, raw: &[u8], at: &Place, salt: u128) -> Bytes {
    let mut packer = Packer::new(codec, Some(keys().chunk(&at.chunk, salt)));
    let body = packer.pack(kind, Bytes::copy_from_slice(raw));
    let mut out = vec![0xee; 3];
    packer.finish(&body, at, &mut out);
    assert_eq!(out.len(), 3 + body.stored_len());
    Bytes::from(out).slice(3..)
}

fn access() -> KeyAccess {
    KeyAccess::Sealed(keys())
}

#[test]
fn a_sealed_frame_opens_with_its_key_alone() {
    let (at, raw) = (place(96, 3), [0x55; 8192]);
    let stored = sealed(Codec::Lz4, FrameKind::Data, &raw, &at, 9);
    assert!(verify(&stored, &at), "stores are scrubbed without the key");
    assert_eq!(open(&stored, &at, 8192, &access()).unwrap(), raw[..]);
    let kind = |access: &KeyAccess| open(&stored, &at, 8192, access).unwrap_err().kind();
    assert_eq!((kind(&KeyAccess::Locked), kind(&KeyAccess::Plain)), (Kind::Denied, Kind::Corrupt));
    let other = VolumeKey::new(VolumeId(7), [(3, Secret::new([0x43; 32]))]).unwrap();
    assert_eq!(kind(&KeyAccess::Sealed(other)), Kind::Corrupt);
    let other = VolumeKey::new(VolumeId(7), [(4, Secret::new([0x42; 32]))]).unwrap();
    assert_eq!(kind(&KeyAccess::Sealed(other)), Kind::Denied);
    let plain = super::tests::stored(Codec::Lz4, FrameKind::Data, &raw, &at);
    assert!(open(&plain, &at, 8192, &access()).unwrap_err().to_string().contains("not encrypted"));
    // Another pass over the same frame at the same place shares no byte of key stream with it.
    let again = sealed(Codec::Lz4, FrameKind::Data, &raw, &at, 10);
    assert_eq!(again.len(), stored.len());
    let same = again[32..].iter().zip(&stored[32..]).filter(|(a, b)| a == b).count();
    assert!(same < 8, "{same}");
}

#[test]
fn what_is_sealed_anew_is_opened_by_the_new_key_alone_and_no_forgery_is() {
    let both =
        VolumeKey::new(VolumeId(7), [(3, Secret::new([0x42; 32])), (4, Secret::new([0x44; 32]))]).unwrap();
    let new = VolumeKey::new(VolumeId(7), [(4, Secret::new([0x44; 32]))]).unwrap();
    let (new, both) = (KeyAccess::Sealed(new), KeyAccess::Sealed(both));
    let at = place(96, 3);
    let seal = both.key().unwrap().unwrap().chunk(&at.chunk, 77);
    for (kind, codec) in
        [(FrameKind::Data, Codec::Lz4), (FrameKind::Map, Codec::Zstd), (FrameKind::Table, Codec::None)]
    {
        let raw = [0x55; 8192];
        let stored = sealed(codec, kind, &raw, &at, 9);
        let anew = seal_anew(&stored, &at, &both, &seal).unwrap();
        assert_eq!((data_key_of(&stored), data_key_of(&anew), anew.len()), (3, 4, stored.len()));
        assert_eq!((anew[0], &anew[2..12]), (stored[0], &stored[2..12]), "its header is as it was");
        assert!(verify(&anew, &at));
        assert_eq!(open(&anew, &at, 8192, &new).unwrap(), raw[..]);
        assert!(open(&stored, &at, 8192, &new).unwrap_err().is(Kind::Denied));
        assert!(open(&anew, &at, 8192, &access()).unwrap_err().is(Kind::Denied));
        for elsewhere in [place(112, 3), place(96, 4)] {
            assert!(seal_anew(&stored, &elsewhere, &both, &seal).unwrap_err().is(Kind::Corrupt));
        }
        let mut forged = stored.to_vec();
        forged[FRAME_HEADER + SALT] ^= 1;
        let sum = checksum(forged[..12].first_chunk::<CHECKED>().unwrap(), &at, &forged[16..]);
        forged[12..16].copy_from_slice(&sum.to_le_bytes());
        assert!(verify(&forged, &at));
        assert!(seal_anew(&forged.into(), &at, &both, &seal).unwrap_err().is(Kind::Corrupt));
        assert!(seal_anew(&stored, &at, &KeyAccess::Locked, &seal).unwrap_err().is(Kind::Denied));
    }
}

#[test]
fn a_checksum_of_what_is_sealed_tells_no_address() {
    let stored = sealed(Codec::None, FrameKind::Data, &[7; 4096], &place(96, 3), 9);
    assert!(verify(&stored, &place(96, 4)));
    let wrong = open(&stored, &place(96, 4), 4096, &access()).unwrap_err();
    assert!(wrong.is(Kind::Corrupt), "{wrong}");
    assert!(!verify(&stored, &place(97, 3)));
}

#[test]
fn a_table_is_read_without_the_key_and_not_forged_before_who_has_it() {
    let at = place(64, 0);
    let stored = sealed(Codec::None, FrameKind::Table, b"which objects are needed", &at, 5);
    for access in [access(), KeyAccess::Locked] {
        assert_eq!(open(&stored, &at, 4096, &access).unwrap(), &b"which objects are needed"[..]);
    }
    assert!(!verify(&stored, &place(64, 1)));
    let mut forged = stored.to_vec();
    forged[FRAME_HEADER + SALT] ^= 1;
    let sum = checksum(forged[..12].first_chunk::<CHECKED>().unwrap(), &at, &forged[16..]);
    forged[12..16].copy_from_slice(&sum.to_le_bytes());
    let forged = Bytes::from(forged);
    assert!(open(&forged, &at, 4096, &KeyAccess::Locked).is_ok());
    assert!(open(&forged, &at, 4096, &access()).unwrap_err().is(Kind::Corrupt));
}

#[test]
fn a_list_may_be_longer_than_a_frame() {
    let (at, raw) = (place(96, 0), vec![5; FRAME_MAX + 9]);
    let stored: Bytes = seal_list(FrameKind::Contents, &raw, &at, &keys().chunk(&at.chunk, 1)).into();
    assert_eq!(stored.len(), list_len(raw.len()));
    assert_eq!(open(&stored, &at, raw.len(), &access()).unwrap(), raw);
    assert!(open(&stored, &at, raw.len() - 1, &access()).unwrap_err().is(Kind::Corrupt));
    assert!(open(&stored.slice(..40), &at, raw.len(), &access()).unwrap_err().is(Kind::Corrupt));
}

#[test]
fn a_sealed_frame_that_is_compressed_anew_is_sealed_anew() {
    let raw: Vec<u8> = (0..8192u32).flat_map(|i| format!("{:08}", i / 7).into_bytes()).collect();
    let at = place(96, 3);
    let old = sealed(Codec::Lz4, FrameKind::Data, &raw, &at, 9);
    let mut anew = Recompressor::new(access(), &at.chunk, 10);
    let new = anew.smaller(&old, &at).unwrap();
    assert!(new[16..32] != old[16..32] && new.len() < old.len());
    assert_eq!(open(&new, &at, raw.len(), &access()).unwrap(), raw);
    assert!(Recompressor::new(KeyAccess::Locked, &at.chunk, 11).smaller(&old, &at).is_none());
}

/// The expected bytes were sealed by another program (Python's `cryptography`).
#[test]
fn golden_bytes_of_a_sealed_frame() {
    let at = place(16, 5);
    let stored = sealed(Codec::None, FrameKind::Map, b"windlass", &at, 1);
    let hex: String = stored.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, GOLDEN_FRAME);
}

proptest! {
    #[test]
    fn no_sealed_frame_is_believed_that_was_changed(
        fill: u8, blocks in 1usize..4, offset: u64, address: u64, flip: prop::sample::Index, other in 1u64..,
    ) {
        let (at, raw) = (place(offset, address), vec![fill; blocks * 4096]);
        let good = sealed(Codec::None, FrameKind::Data, &raw, &at, 3);
        prop_assert_eq!(&open(&good, &at, raw.len(), &access()).unwrap()[..], &raw[..]);
        // By somebody who knows checksums.
        let mut bad = good.to_vec();
        let bit = flip.index(bad.len() * 8);
        bad[bit / 8] ^= 1 << (bit % 8);
        let sum = checksum(bad[..12].first_chunk::<CHECKED>().unwrap(), &at, &bad[16..]);
        bad[12..16].copy_from_slice(&sum.to_le_bytes());
        prop_assume!(bad[..] != good[..]);
        prop_assert!(open(&bad.into(), &at, raw.len(), &access()).is_err());
        for moved in [place(offset ^ other, address), place(offset, address ^ other)] {
            let mut bytes = good.to_vec();
            let sum = checksum(bytes[..12].first_chunk::<CHECKED>().unwrap(), &moved, &bytes[16..]);
            bytes[12..16].copy_from_slice(&sum.to_le_bytes());
            prop_assert!(open(&bytes.into(), &moved, raw.len(), &access()).unwrap_err().is(Kind::Corrupt));
        }
    }
}

#[test]
fn what_does_not_shrink_is_seldom_tried_and_what_does_is_soon_found() {
    let mut state = 1u64;
    let mut noise = || -> Bytes {
        let step = |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        (0..4096).map(step).collect()
    };
    let mut packer = Packer::new(Codec::Lz4, None);
    for _ in 0..100 {
        assert_eq!(packer.pack(FrameKind::Data, noise()).codec, Codec::None);
    }
    let mut text = || packer.pack(FrameKind::Data, vec![7; 4096].into()).codec;
    let found = (0..UNTRIED + 1).position(|_| text() == Codec::Lz4);
    assert!(found.is_some_and(|n| n > 0), "{found:?}");
    assert!((0..100).all(|_| text() == Codec::Lz4));
    for _ in 0..FUTILE - 1 {
        assert_eq!(packer.pack(FrameKind::Data, noise()).codec, Codec::None);
    }
    assert_eq!(packer.pack(FrameKind::Data, vec![7; 4096].into()).codec, Codec::Lz4);
}

#[test]
fn newer_and_oversized_frames_are_refused() {
    let at = place(0, 0);
    let forge = |at_byte: usize, value: u8| {
        let mut bytes = stored(Codec::None, FrameKind::Map, &[1; 64], &at).to_vec();
        bytes[at_byte] = value;
        let sum = checksum(bytes[..12].first_chunk::<CHECKED>().unwrap(), &at, &bytes[16..]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        open(&bytes.into(), &at, 4096, &KeyAccess::Plain).map_err(|e| e.kind())
    };
    assert_eq!(forge(0, 3), Err(Kind::Unsupported));
    assert_eq!(forge(1, 1), Err(Kind::Corrupt), "sealed, in a volume that is not encrypted");
    assert_eq!(forge(0, 1), Err(Kind::Corrupt));
    assert_eq!(forge(0, 2), Err(Kind::Corrupt));
    for high in 8..12 {
        assert_eq!(forge(high, 0xff), Err(Kind::Corrupt), "{high}");
    }
    assert_eq!(forge(3, 0), Err(Kind::Corrupt), "64 bytes are no blocks");
    assert!(open(&Bytes::new(), &at, 4096, &KeyAccess::Plain).unwrap_err().is(Kind::Corrupt));
    let page = stored(Codec::Lz4, FrameKind::Map, &[1; 64], &at);
    assert!(open(&page, &at, 63, &KeyAccess::Plain).unwrap_err().is(Kind::Corrupt));
}

proptest! {
    #[test]
    fn frames_come_back_and_damage_is_seen(
        (blocks, fill, noise) in (1usize..=16, any::<u8>(), prop::collection::vec(any::<(u16, u8)>(), 0..2000)),
        codec in prop::sample::select(vec![Codec::None, Codec::Lz4, Codec::Zstd]), offset: u64, address: u64, flip: prop::sample::Index, other in 1u64..,
    ) {
        let mut raw = vec![fill; blocks * 4096];
        for (at, byte) in noise {
            let at = at as usize % raw.len();
            raw[at] = byte;
        }
        let at = place(offset, address);
        let good = stored(codec, FrameKind::Data, &raw, &at);
        prop_assert!(good.len() <= FRAME_HEADER + raw.len());
        prop_assert_eq!(&open(&good, &at, raw.len(), &KeyAccess::Plain).unwrap()[..], &raw[..]);

        let mut bad = good.to_vec();
        let bit = flip.index(bad.len() * 8);
        bad[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(open(&bad.into(), &at, raw.len(), &KeyAccess::Plain).unwrap_err().is(Kind::Corrupt));
        let cut = good.slice(..flip.index(good.len()));
        prop_assert!(open(&cut, &at, raw.len(), &KeyAccess::Plain).unwrap_err().is(Kind::Corrupt));
        for elsewhere in [place(offset ^ other, address), place(offset, address ^ other)] {
            prop_assert!(!verify(&good, &elsewhere));
            prop_assert!(open(&good, &elsewhere, raw.len(), &KeyAccess::Plain).unwrap_err().is(Kind::Corrupt));
        }
    }

    #[test]
    fn any_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200), codec in 1u8..=2) {
        let at = place(0, 0);
        prop_assert!(open(&bytes.clone().into(), &at, 4096, &KeyAccess::Plain).is_err());
        // With a right checksum, so that the decoder itself is reached.
        if bytes.len() >= FRAME_HEADER {
            let mut forged = bytes;
            forged[..3].copy_from_slice(&[codec, 0, 0]);
            forged[3] = 1;
            let len = (forged.len() - FRAME_HEADER) as u32;
            forged[4..8].copy_from_slice(&len.to_le_bytes());
            forged[10..12].fill(0);
            let sum = checksum(forged[..12].first_chunk::<CHECKED>().unwrap(), &at, &forged[16..]);
            forged[12..16].copy_from_slice(&sum.to_le_bytes());
            let _ = open(&forged.into(), &at, FRAME_MAX, &KeyAccess::Plain);
        }
    }
}
