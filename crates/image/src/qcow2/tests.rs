//! Images that are made here, whole and damaged. What QEMU makes is imported by `integration/checks/import`.

use std::sync::Arc;

use bytes::Bytes;
use futures::executor::block_on;

use super::chain::Chain;
use super::fuzz::{COMPRESSED, COPIED, L1_AT, L2_AT, Maker, put};
use super::header::Header;
use crate::piece_source::Source as _;
use crate::raw_source::whole;
use crate::read_at::{InMemory, ReadAt};
use windlass_base::rt::sim::Sim;
use windlass_base::{Error, Kind, Result};

fn read(image: Vec<u8>) -> Result<Bytes> {
    let rt = Sim::new(1).rt();
    let file: Arc<dyn ReadAt> = Arc::new(InMemory(image.into()));
    block_on(async {
        let mut chain = Chain::open(&rt, file, None).await?;
        whole(&mut chain).await
    })
}

fn refusal(image: Vec<u8>) -> Error {
    read(image).map(|all| all.len()).unwrap_err()
}

#[test]
fn data_zeros_and_holes_are_read() {
    for version in [2, 3] {
        for cluster_bits in [9, 12, 16] {
            let maker = Maker { version, cluster_bits, size: 40 << cluster_bits, ..Maker::default() };
            let all = read(maker.plain()).unwrap();
            assert_eq!(all.len() as u64, maker.size);
            for (index, cluster) in all.chunks(1 << cluster_bits).enumerate() {
                let byte = if index % 2 == 0 { index as u8 + 1 } else { 0 };
                assert!(cluster.iter().all(|b| *b == byte), "{version} {cluster_bits} {index}");
            }
        }
    }
}

#[test]
fn compressed_clusters_are_read() {
    for (zstd, cluster_bits) in [(false, 9), (false, 16), (true, 12), (true, 16)] {
        let maker = Maker { zstd, cluster_bits, size: 10 << cluster_bits, ..Maker::default() };
        let all = read(maker.compressed()).unwrap();
        for (index, cluster) in all.chunks(1 << cluster_bits).enumerate() {
            assert!(cluster.iter().all(|b| *b == index as u8 + 1), "{zstd} {cluster_bits} {index}");
        }
    }
}

#[test]
fn subclusters_are_read() {
    let maker = Maker { cluster_bits: 14, size: 3 << 14, extended: true, ..Maker::default() };
    // Of the first cluster the odd subclusters, of the second the lower half and zeros above, of the third none.
    let bitmaps = [0xaaaa_aaaa, 0xffff_0000_0000_ffff, 0u64];
    let image = maker.make(3, |index, at| match index {
        2 => (0, 0, vec![]),
        _ => (COPIED | at, bitmaps[index as usize], vec![index as u8 + 1; 1 << 14]),
    });
    let all = read(image).unwrap();
    for (at, part) in all.chunks(512).enumerate() {
        let byte = match at {
            0..32 => (at % 2) as u8,
            32..48 => 2,
            _ => 0,
        };
        assert!(part.iter().all(|b| *b == byte), "{at}");
    }
}

#[test]
fn counts_of_every_width_are_read() {
    for reference_order in 0..=6 {
        let maker = Maker { reference_order, ..Maker::default() };
        read(maker.plain()).unwrap();
    }
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let table: &[(u64, &[u8], Kind, &str)] = &[
        (4, &[0, 0, 0, 4], Kind::Unsupported, "version 4"),
        (8, &[0, 0, 0, 0, 0, 0, 0xff, 0], Kind::Invalid, "backing file lies outside"),
        (20, &[0, 0, 0, 8], Kind::Invalid, "2^8"),
        (20, &[0, 0, 0, 22], Kind::Invalid, "2^22"),
        (24, &[0, 1], Kind::Unsupported, "larger than a volume"),
        (24, &[0, 0, 0, 1], Kind::Invalid, "L1 table does not cover"),
        (32, &[0, 0, 0, 2], Kind::Unsupported, "encrypted"),
        (36, &[0xff, 0xff, 0xff, 0xff], Kind::Invalid, "tables are larger"),
        (40, &[0, 0, 0, 0, 0, 1], Kind::Invalid, "L1 table does not lie"),
        (40, &[0, 0, 0, 0, 0, 0, 6, 8], Kind::Invalid, "L1 table does not lie"),
        (40, &[0xff; 8], Kind::Invalid, "L1 table does not lie"),
        (48, &[0xff; 8], Kind::Invalid, "reference counts does not lie"),
        (56, &[0; 4], Kind::Invalid, "no table of reference counts"),
        (56, &[0xff; 4], Kind::Invalid, "tables are larger"),
        (60, &[0, 0, 0, 3], Kind::Unsupported, "3 internal snapshots"),
        (79, &[2], Kind::Invalid, "marked as corrupt"),
        (79, &[4], Kind::Unsupported, "data_file"),
        (79, &[8], Kind::Invalid, "contradicts itself about how clusters are compressed"),
        (79, &[16], Kind::Invalid, "16 KiB"),
        (71, &[1], Kind::Invalid, "table of snapshots"),
        (95, &[2], Kind::Invalid, "a data file that it does not have"),
        (116, &[0xff; 4], Kind::Invalid, "extension of its header is too long"),
        (112, &[0x23, 0x85, 0x28, 0x75, 0, 0, 0, 8], Kind::Invalid, "bitmaps of its header"),
        (72, &[1], Kind::Unsupported, "not known here: number 56"),
        (95, &[1], Kind::Invalid, "lacks the bitmaps"),
        (99, &[7], Kind::Invalid, "more than 64 bits"),
        (103, &[96], Kind::Invalid, "a header of 96 bytes"),
        (103, &[109], Kind::Invalid, "a header of 109 bytes"),
        (104, &[1], Kind::Invalid, "contradicts itself about how clusters are compressed"),
        (112, &[0x12, 0x34, 0x56, 0x78, 0, 0, 9, 0], Kind::Invalid, "extension of its header is too long"),
        (112, &[0x05, 0x37, 0xbe, 0x77, 0, 0, 0, 0], Kind::Unsupported, "encrypted"),
    ];
    for (at, bytes, kind, words) in table {
        let mut image = Maker::default().plain();
        put(&mut image, *at, bytes);
        let error = refusal(image);
        assert!(error.is(*kind) && error.to_string().contains(words), "{at} {bytes:?}: {error}");
    }
}

#[test]
fn a_feature_is_named_as_the_image_names_it() {
    let mut image = Maker::default().plain();
    put(&mut image, 79, &[0x20]);
    put(&mut image, 112, &0x6803_f857u32.to_be_bytes());
    put(&mut image, 116, &48u32.to_be_bytes());
    put(&mut image, 120, &[0, 5]);
    put(&mut image, 122, b"time travel");
    assert!(refusal(image).to_string().ends_with("time travel"));
}

#[test]
fn a_backing_file_is_not_opened_unasked() {
    let mut image = Maker::default().plain();
    put(&mut image, 8, &400u64.to_be_bytes());
    put(&mut image, 16, &11u32.to_be_bytes());
    put(&mut image, 400, b"/etc/passwd");
    let error = refusal(image);
    assert!(error.is(Kind::Refused) && error.to_string().contains("/etc/passwd"), "{error}");
    assert!(error.to_string().contains("--backing-dir"), "{error}");
}

#[test]
fn tables_that_contradict_each_other_are_refused() {
    let cluster = 512;
    let l2 = |index: u64| L2_AT * cluster + 8 * index;
    let first = (L2_AT + 1) * cluster;
    let entry = |value: u64| value.to_be_bytes().to_vec();
    let table: Vec<(u64, Vec<u8>, &str)> = vec![
        (l2(2), entry(COPIED | first), "held 2 times"),
        (l2(0), entry(COPIED | (L2_AT * cluster)), "held 2 times"),
        (l2(0), entry(COPIED | 1 << 40), "behind the end"),
        (l2(0), entry(first), "denies"),
        (l2(1), entry(1 << 56), "reserved bits"),
        (l2(1), entry(COPIED | COMPRESSED | first), "compressed cluster says"),
        (l2(1), entry(COMPRESSED | 1 << 40), "behind the end"),
        (L1_AT * cluster, entry(L2_AT * cluster), "denies"),
        (L1_AT * cluster, entry(COPIED | (L1_AT * cluster)), "held 3 times"),
        (L1_AT * cluster, entry(COPIED | 1 << 40), "behind the end"),
        (L1_AT * cluster, entry(COPIED | (L2_AT * cluster + 2)), "reserved bits"),
        (cluster, entry(0), "counted 0 times"),
        (cluster, entry(1 << 40), "behind the end"),
        (cluster, entry(L2_AT * cluster), "held"),
        (2 * cluster + 8, entry(0), "counted 0 times"),
        (2 * cluster + 10, vec![0, 2], "denies"),
    ];
    for (at, bytes, words) in table {
        let mut image = Maker::default().plain();
        put(&mut image, at, &bytes);
        let error = refusal(image);
        assert!(error.is(Kind::Invalid) && error.to_string().contains(words), "{at}: {error}");
    }
}

#[test]
fn old_counts_of_an_image_that_was_not_closed_do_not_matter() {
    let mut image = Maker::default().plain();
    put(&mut image, 79, &[1]);
    put(&mut image, 2 * 512 + 8, &[0; 16]);
    read(image.clone()).unwrap();
    // What is held twice does.
    let l2 = L2_AT * 512;
    let first: Vec<u8> = image[l2 as usize..][..8].to_vec();
    put(&mut image, l2 + 16, &first);
    assert!(refusal(image).to_string().contains("held 2 times"));
}

#[test]
fn leaks_are_no_harm() {
    let mut image = Maker::default().plain();
    image.extend_from_slice(&[7; 512]);
    let clusters = image.len() as u64 / 512;
    put(&mut image, 2 * 512 + 2 * (clusters - 1), &[0, 1]);
    read(image).unwrap();
}

#[test]
fn the_last_cluster_may_be_cut_off() {
    let whole = Maker::default().plain();
    let mut image = whole.clone();
    image.truncate(image.len() - 100);
    assert_eq!(read(image.clone()).unwrap().len(), 40 * 512);
    image.truncate(image.len() - 512);
    assert!(refusal(image).is(Kind::Invalid));
}

/// The same numbers on each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n.max(1)
    }
}

fn mutate(image: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        // Most of what matters lies in the tables.
        let end = if dice.below(4) == 0 { image.len() } else { image.len().min(6 * 512) };
        let at = dice.below(end);
        match dice.below(6) {
            0 => image[at] ^= 1 << dice.below(8),
            1 => image[at] = dice.below(256) as u8,
            2 => {
                let at = at / 8 * 8;
                let value =
                    (dice.below(image.len() / 512 + 2) as u64 * 512) | (COPIED * dice.below(2) as u64);
                let end = (at + 8).min(image.len());
                image[at..end].copy_from_slice(&value.to_be_bytes()[..end - at]);
            }
            3 => {
                let end = (at + dice.below(16)).min(image.len());
                image[at..end].fill(if dice.below(2) == 0 { 0xff } else { 0 });
            }
            4 => image.truncate(at.max(1)),
            _ => {
                let from = dice.below(image.len());
                let len = dice.below(64).min(image.len() - from.max(at));
                image.copy_within(from..from + len, at);
            }
        }
        if image.len() < 2 {
            return;
        }
    }
}

/// Reads what can be read of a damaged image, and no more of a large one than its begin.
fn read_some(image: Vec<u8>) -> Result<()> {
    let rt = Sim::new(1).rt();
    let file: Arc<dyn ReadAt> = Arc::new(InMemory(image.into()));
    block_on(async {
        let mut chain = Chain::open(&rt, file, None).await?;
        for _ in 0..64 {
            let Some(piece) = chain.next().await? else { break };
            if let crate::piece_source::Content::Data(read) = piece.content {
                assert_eq!(read.await?.len() as u64, piece.len);
            }
        }
        Ok(())
    })
}

#[test]
fn no_damage_makes_it_panic() {
    let small = Maker::default();
    let seeds = [
        small.plain(),
        small.compressed(),
        Maker { version: 2, ..Maker::default() }.plain(),
        Maker { reference_order: 0, ..Maker::default() }.plain(),
        Maker { zstd: true, size: 10 * 512, ..Maker::default() }.compressed(),
        Maker { cluster_bits: 14, size: 3 << 14, extended: true, ..Maker::default() }.plain(),
    ];
    let mut dice = Dice(30);
    let (mut read, mut refused) = (0, 0);
    for n in 0..10_000 {
        let mut image = seeds[n % seeds.len()].clone();
        mutate(&mut image, &mut dice);
        let kept = image.clone();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read_some(image)));
        match result {
            Ok(Ok(())) => read += 1,
            Ok(Err(_)) => refused += 1,
            Err(_) => panic!("image {n} of {} bytes makes the reader panic", kept.len()),
        }
    }
    assert!(read > 500 && refused > 3000, "{read} read, {refused} refused");
}

#[test]
fn a_header_alone_never_panics() {
    let image = Maker::default().plain();
    for len in 0..200 {
        let _ = Header::parse(&image[..len], image.len() as u64);
        let _ = read_some(image[..len].to_vec());
    }
}
