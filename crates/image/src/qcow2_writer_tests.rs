//! Files of the writer read again by a small reader of its own, and their refcounts counted anew.

use std::collections::BTreeMap;

use super::*;

/// A file as what was written where; what wasn't is zeros.
#[derive(Default)]
struct File(BTreeMap<u64, Bytes>);

impl File {
    fn add(&mut self, writes: Vec<(u64, Bytes)>) {
        for (at, bytes) in writes {
            let again = self.0.insert(at, bytes);
            assert!(again.is_none(), "written twice at {at}");
        }
        let mut end = 0;
        for (at, bytes) in &self.0 {
            assert!(*at >= end, "two writes overlap at {at}");
            end = at + bytes.len() as u64;
        }
    }

    fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(at, bytes)| at + bytes.len() as u64)
    }

    fn bytes(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut out = vec![0; len as usize];
        let first = self.0.range(..=offset).next_back().map_or(0, |(at, _)| *at);
        for (at, bytes) in self.0.range(first..offset + len) {
            let (from, to) = ((*at).max(offset), (at + bytes.len() as u64).min(offset + len));
            if from < to {
                let part = &bytes[(from - at) as usize..(to - at) as usize];
                out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
            }
        }
        out
    }

    fn u64s(&self, offset: u64, n: u64) -> Vec<u64> {
        let all = self.bytes(offset, n * 8);
        all.chunks(8).map(|c| u64::from_be_bytes(c.try_into().unwrap())).collect()
    }

    fn number(&self, offset: u64, len: usize) -> u64 {
        let mut all = [0; 8];
        all[8 - len..].copy_from_slice(&self.bytes(offset, len as u64));
        u64::from_be_bytes(all)
    }
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// The guest's clusters as entries, after all refcounts were compared with what names the clusters.
fn checked(file: &File) -> BTreeMap<u64, u64> {
    assert_eq!(file.bytes(0, 4), MAGIC);
    let (l1_len, l1) = (file.number(36, 4), file.number(40, 8));
    let (refcount_table, table_clusters) = (file.number(48, 8), file.number(56, 4));
    let mut named: BTreeMap<u64, u16> = BTreeMap::new();
    let mut name = |at: u64, len: u64| {
        for cluster in at / CLUSTER..(at + len).div_ceil(CLUSTER) {
            *named.entry(cluster).or_default() += 1;
        }
    };
    name(0, CLUSTER);
    name(l1, l1_len * 8);
    name(refcount_table, table_clusters * CLUSTER);
    let mut guest = BTreeMap::new();
    for (index, entry) in file.u64s(l1, l1_len).into_iter().enumerate().filter(|(_, entry)| *entry != 0) {
        assert_eq!(entry & COPIED, COPIED);
        name(entry & OFFSET, CLUSTER);
        for (n, entry) in file.u64s(entry & OFFSET, ENTRIES).into_iter().enumerate() {
            match entry {
                0 => continue,
                ZERO => {}
                packed if packed & PACKED != 0 => {
                    let at = packed & ((1 << SECTORS_SHIFT) - 1);
                    let sectors = (packed & !PACKED) >> SECTORS_SHIFT;
                    let first = at / SECTOR * SECTOR;
                    name(first, (sectors + 1) * SECTOR);
                }
                plain => {
                    assert_eq!(plain & !OFFSET, COPIED);
                    assert!((plain & OFFSET).is_multiple_of(CLUSTER));
                    name(plain & OFFSET, CLUSTER);
                }
            }
            guest.insert(index as u64 * ENTRIES + n as u64, entry);
        }
    }
    let blocks = file.u64s(refcount_table, table_clusters * ENTRIES);
    blocks.iter().filter(|block| **block != 0).for_each(|block| name(*block, CLUSTER));
    let clusters = round_up(file.end()) / CLUSTER;
    for cluster in 0..clusters.max(blocks.iter().filter(|b| **b != 0).count() as u64 * COUNTS) {
        let block = blocks[(cluster / COUNTS) as usize];
        let counted = if block == 0 { 0 } else { file.number(block + cluster % COUNTS * 2, 2) as u16 };
        assert_eq!(counted, named.get(&cluster).copied().unwrap_or(0), "refcount of host cluster {cluster}");
    }
    guest
}

fn shape(size: u64) -> Shape {
    Shape { size, compression: None, backing: None, lineage: None }
}

fn overlay(size: u64) -> Shape {
    let lineage =
        Some(Lineage { since: "monday".into(), to: Some("tuesday".into()), between: Between::default() });
    let backing = Some(Backing { file: "base.raw".into(), format: "raw" });
    Shape { backing, lineage, ..shape(size) }
}

fn cluster(byte: u8) -> Bytes {
    vec![byte; CLUSTER as usize].into()
}

fn finished(mut writer: Writer) -> (File, Totals) {
    let mut file = File::default();
    let totals = writer.finish().unwrap();
    file.add(writer.take());
    assert_eq!(totals.clusters * CLUSTER, round_up(file.end()));
    (file, totals)
}

#[test]
fn an_empty_image_has_its_header_and_tables_alone() {
    let (file, totals) = finished(Writer::new(shape(1 << 30)).unwrap());
    assert_eq!(totals.clusters, 4);
    assert_eq!(checked(&file).len(), 0);
    let header = file.bytes(0, 112);
    let golden = [
        &b"QFI\xfb\0\0\0\x03"[..],
        &[0; 12],                     // no backing file
        &[0, 0, 0, 16],               // cluster bits
        &[0, 0, 0, 0, 0x40, 0, 0, 0], // size
        &[0; 4],                      // no encryption
        &[0, 0, 0, 2],                // entries of L1
        &[0, 0, 0, 0, 0, 2, 0, 0],    // L1 at cluster 2
        &[0, 0, 0, 0, 0, 3, 0, 0],    // refcount table at cluster 3
        &[0, 0, 0, 1],                // of one cluster
        &[0; 12],                     // no snapshots
        &[0; 24],                     // no features
        &[0, 0, 0, 4],                // refcount order
        &[0, 0, 0, 112],              // length
        &[0; 8],                      // zlib
    ]
    .concat();
    assert_eq!(header, golden);
}

#[test]
fn clusters_lie_where_the_tables_say_and_the_last_one_is_filled_up() {
    let mut writer = Writer::new(shape(600 << 20)).unwrap();
    let two = [cluster(1), cluster(2)].concat();
    writer.data(CLUSTER, two.into());
    writer.data(599 << 20, Bytes::from_static(&[3; 512]));
    let (file, _) = finished(writer);
    let guest = checked(&file);
    let at = |n: u64| file.bytes(guest[&n] & OFFSET, CLUSTER);
    assert_eq!(guest.len(), 3);
    assert!(at(1) == cluster(1) && at(2) == cluster(2));
    let last = at((599 << 20) / CLUSTER);
    assert!(last[..512] == [3; 512] && last[512..].iter().all(|b| *b == 0));
}

#[test]
fn compressed_clusters_are_packed_and_counted() {
    for compression in [Compression::Zlib, Compression::Zstd] {
        let mut shape = shape(1 << 30);
        shape.compression = Some(compression);
        let mut writer = Writer::new(shape).unwrap();
        let mut wanted = BTreeMap::new();
        let mut seed = 1_u32;
        // From hardly any bytes to nearly a whole cluster, over more than one L2 table, and some not compressed.
        for n in (0..1500_u64).map(|n| n * 6) {
            let mut bytes = vec![n as u8; CLUSTER as usize];
            let noise = (n * 7919 % 61) as usize * 1024 / if n % 300 == 0 { 1 } else { 40 };
            for byte in &mut bytes[..noise] {
                seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
                *byte = (seed >> 24) as u8;
            }
            if n % 977 == 5 {
                writer.data(n * CLUSTER, bytes.clone().into());
                wanted.insert(n, None);
            } else {
                let packed = compression.pack(&bytes).unwrap();
                wanted.insert(n, Some(packed.clone()));
                writer.packed(n * CLUSTER, packed);
            }
        }
        let (file, totals) = finished(writer);
        let guest = checked(&file);
        for (n, packed) in &wanted {
            let entry = guest[n];
            assert_eq!(entry & PACKED != 0, packed.is_some());
            if let Some(packed) = packed {
                let at = entry & ((1 << SECTORS_SHIFT) - 1);
                assert!(file.bytes(at, packed.len() as u64) == *packed);
                let sectors = (entry & !PACKED) >> SECTORS_SHIFT;
                assert!((at / SECTOR + sectors + 1) * SECTOR >= at + packed.len() as u64);
            }
        }
        let packed: u64 = wanted.values().flatten().map(|b| b.len() as u64).sum();
        assert!(totals.clusters * CLUSTER < packed + (40 + 10) * CLUSTER, "{packed} bytes are not packed");
        assert_eq!(file.number(72, 8), if compression == Compression::Zstd { 8 } else { 0 });
    }
}

#[test]
fn what_does_not_compress_is_left_as_it_is() {
    let noise: Vec<u8> = (0..CLUSTER / 32).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
    for compression in [Compression::Zlib, Compression::Zstd] {
        assert_eq!(compression.pack(&noise), None);
        assert!(compression.pack(&cluster(0)).unwrap().len() < 200);
    }
}

#[test]
fn zlib_clusters_are_raw_deflate_with_a_window_of_4_kib() {
    // The same 8 KiB of noise twice: a longer window would find the first in the second.
    let noise: Vec<u8> = (0..256_u32).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
    let mut bytes = [&noise[..], &noise].concat();
    bytes.resize(CLUSTER as usize, 0);
    let packed = Compression::Zlib.pack(&bytes).unwrap();
    assert!(packed.len() > 2 * noise.len());
    let mut inflate = flate2::Decompress::new_with_window_bits(false, 12);
    let mut out = Vec::with_capacity(CLUSTER as usize);
    inflate.decompress_vec(&packed, &mut out, flate2::FlushDecompress::Finish).unwrap();
    assert!(out == bytes);
}

#[test]
fn an_overlay_names_what_lies_beneath_and_between_which_states_it_lies() {
    let mut writer = Writer::new(overlay(1 << 30)).unwrap();
    writer.zeros(CLUSTER, 2 * CLUSTER);
    writer.data(8 * CLUSTER, cluster(1));
    let (file, _) = finished(writer);
    let guest = checked(&file);
    assert_eq!(guest.keys().copied().collect::<Vec<_>>(), [1, 2, 8]);
    assert_eq!((guest[&1], guest[&2]), (ZERO, ZERO));
    let (at, len) = (file.number(8, 8), file.number(16, 4));
    assert_eq!(file.bytes(at, len), b"base.raw");
    let start = file.bytes(0, CLUSTER);
    assert_eq!(&start[112..112 + 16], b"\xe2\x79\x2a\xca\0\0\0\x03raw\0\0\0\0\0");
    assert_eq!(lineage(&start), overlay(0).lineage);
    for end in 0..300 {
        lineage(&start[..end]);
    }
    let mut bad = start.clone();
    bad[100..104].fill(255);
    assert_eq!(lineage(&bad), None);
    let long = Backing { file: "x".repeat(1024), format: "raw" };
    assert!(Writer::new(Shape { backing: Some(long), ..shape(512) }).unwrap_err().is(Kind::Usage));
}

/// Tells a writer of `runs` of clusters, alternately data and nothing.
fn told(writer: &mut Writer, runs: &[u64], mut each: impl FnMut(&mut Writer, u64, u64)) {
    let mut at = 0;
    for (n, clusters) in runs.iter().enumerate() {
        if n % 2 == 0 {
            each(writer, at * CLUSTER, clusters * CLUSTER);
        }
        at += clusters;
    }
}

#[test]
fn a_file_that_is_laid_out_before_is_the_same_and_comes_in_order() {
    let size = 40 << 30;
    // Up to several ranges of refcounts, and ends just before, at and after their borders.
    let many: Vec<Vec<u64>> =
        vec![vec![], vec![1], vec![3, 5, 9000, 100_000, 7], vec![32_700, 1, 200], vec![33_000, 500_000, 100]];
    let near_borders = (32_760..32_765).map(|n| vec![n]);
    let data = cluster(9);
    for runs in many.into_iter().chain(near_borders) {
        let write = |writer: &mut Writer, guest: u64, len: u64| {
            (guest..guest + len).step_by(CLUSTER as usize).for_each(|at| writer.data(at, data.clone()));
        };
        let mut first = Writer::new(shape(size)).unwrap();
        told(&mut first, &runs, |writer, guest, len| drop(writer.count(guest, len)));
        let totals = first.finish().unwrap();
        let mut plain = Writer::new(shape(size)).unwrap();
        told(&mut plain, &runs, write);
        let (plain, same) = finished(plain);
        assert_eq!(totals, same);
        checked(&plain);

        let mut second = Writer::laid_out(shape(size), totals).unwrap();
        told(&mut second, &runs, write);
        second.finish().unwrap();
        let writes = second.take();
        let in_order = writes.windows(2).all(|w| w[0].0 + w[0].1.len() as u64 <= w[1].0);
        assert!(in_order, "{runs:?} goes back");
        let mut streamed = File::default();
        streamed.add(writes);
        assert!(streamed.0 == plain.0, "{runs:?} differs");
    }
}

#[test]
fn tables_never_lie_across_a_refcount_block() {
    // 16 TiB: an L1 of 4 clusters, which would begin just before the next refcount block.
    let told = |clusters: u64| {
        let mut writer = Writer::new(shape(16 << 40)).unwrap();
        (0..clusters).for_each(|at| writer.data(at * CLUSTER, cluster(1)));
        finished(writer)
    };
    let mut gaps = (32_759..32_764).map(told).filter(|(_, totals)| !totals.gaps.is_empty());
    checked(&gaps.next().unwrap().0);
}

#[test]
fn another_map_than_the_first_is_refused() {
    let mut first = Writer::new(shape(1 << 30)).unwrap();
    let totals = first.finish().unwrap();
    let mut second = Writer::laid_out(shape(1 << 30), totals).unwrap();
    second.data(0, cluster(1));
    assert!(second.finish().unwrap_err().is(Kind::Refused));
}
