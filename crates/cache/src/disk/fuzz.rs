//! The cache's file: its parts one by one, and the whole of it, found again after it was changed here and there.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::format::{ENTRY, End, Head, Ring, Row, encode_table, entry, entry_head, put_entry, summed};
use super::{DiskCache, DiskCacheConfig};
use crate::FrameKey;
use windlass_base::rt::Rt;
use windlass_base::rt::sim::{Sim, SimDisk};
use windlass_base::{ChunkId, Epoch, Seq, VolumeId};
use windlass_fuzz::{apply, choice, edit, edits, with_crc};

const SEGMENT: u64 = 16 << 10;
const FILE: &str = "/cache/frames";

fn key(n: u64) -> FrameKey {
    FrameKey { chunk: ChunkId { volume: VolumeId(7), epoch: Epoch(1), seq: Seq(n) }, offset: n }
}

pub fn some_parts() -> Vec<Vec<u8>> {
    let rows = encode_table(&[Row { hash: 5, at: 64, len: 9 }, Row { hash: 6, at: 144, len: 3 }]);
    let end = End::of(3, 200, &rows).encode();
    let mut one = Vec::new();
    put_entry(&mut one, 3, &key(4), b"a frame");
    let head = Head { ring: Ring::Proven, generation: 3, size: SEGMENT }.encode();
    [head, [end, rows].concat(), one].into_iter().map(|part| [&part[..60], &part[64..]].concat()).collect()
}

/// Decodes the parts of a segment. The input is 60 bytes, whose checksum each run adds, and what follows
/// them.
pub fn parts(data: &[u8]) {
    let (fields, rest) = data.split_at(data.len().min(60));
    let bytes = [with_crc(fields), rest.to_vec()].concat();
    if let Some(head) = Head::decode(&bytes) {
        assert_eq!(Head::decode(&head.encode()), Some(head));
    }
    if let Some(end) = End::decode(&bytes) {
        assert_eq!(End::decode(&end.encode()), Some(end));
        if let Some(rows) = end.rows(rest) {
            assert_eq!(encode_table(&rows), rest);
        }
    }
    let _ = entry_head(data, 3);
    let _ = entry(&Bytes::copy_from_slice(data));
    let summed = Bytes::from(summed(data));
    if let Some((key, frame)) = entry(&summed) {
        assert!(frame.len() + ENTRY <= summed.len());
        let mut again = Vec::new();
        put_entry(&mut again, 3, &key, &frame);
        assert_eq!(entry(&again.into()), Some((key, frame)));
    }
}

fn config() -> DiskCacheConfig {
    DiskCacheConfig {
        dir: "/cache".into(),
        bytes_max: 6 * SEGMENT,
        memory_max: 1 << 20,
        segment: Some(SEGMENT),
    }
}

fn frame(n: u64) -> Vec<u8> {
    vec![n as u8; 700 + n as usize * 13 % 900]
}

async fn settle(rt: &Rt) {
    rt.sleep(Duration::from_secs(2)).await;
}

/// Returns the file that a cache leaves which 60 frames were put into.
fn written() -> Bytes {
    let sim = Sim::new(1);
    let (rt, disk) = (sim.rt(), Arc::new(SimDisk::new(&sim)));
    let its = disk.clone();
    let run = sim.run(async move {
        let cache = DiskCache::start(&rt, its.clone(), config());
        for n in 0..60 {
            cache.put(&key(n), &frame(n));
            settle(&rt).await;
        }
        let path = Path::new(FILE);
        windlass_base::rt::Disk::read(&*its, path, 1 << 20).await.expect("the cache has a file")
    });
    run.unwrap_or_else(|stall| panic!("{stall}"))
}

thread_local! {
    static WRITTEN: RefCell<Option<Bytes>> = const { RefCell::new(None) };
}

pub fn some_edits() -> Vec<Vec<u8>> {
    let generation = edit(0, 16, &u64::MAX.to_le_bytes());
    let end = edit(0, SEGMENT as usize - 48, &[0xff; 8]);
    vec![
        Vec::new(),
        [vec![1], generation].concat(),
        [vec![1], end].concat(),
        [vec![0], edit(0, 100, b"x")].concat(),
    ]
}

/// Opens a file after some edits, and reads and writes frames. The first byte says whether checksums are made
/// right before.
pub fn file(data: &[u8]) {
    let mut bytes = WRITTEN.with_borrow_mut(|kept| kept.get_or_insert_with(written).to_vec());
    let (sums, rest) = choice(data);
    edits(rest, |_, offset, change| apply(&mut bytes, offset, change));
    if sums & 1 == 1 {
        for segment in bytes.chunks_mut(SEGMENT as usize) {
            resum(segment);
        }
    }
    let sim = Sim::new(1);
    let (rt, disk) = (sim.rt(), Arc::new(SimDisk::new(&sim)));
    let run = sim.run(async move {
        windlass_base::rt::Disk::create_dir(&*disk, Path::new("/cache")).await.expect("an empty disk");
        let written = windlass_base::rt::Disk::write_atomic(&*disk, Path::new(FILE), bytes.into()).await;
        written.expect("an empty disk");
        let cache = DiskCache::start(&rt, disk.clone(), config());
        settle(&rt).await;
        for n in 0..60 {
            if let Some(found) = cache.get(&key(n)).await {
                // Checksums that were made right make it give what was put there by whoever made them.
                assert!(sums & 1 == 1 || found == frame(n), "frame {n}");
            }
        }
        for n in 60..80 {
            cache.put(&key(n), &frame(n));
        }
        settle(&rt).await;
    });
    run.unwrap_or_else(|stall| panic!("{stall}"));
}

/// Makes the checksums of a segment's head and end right.
fn resum(segment: &mut [u8]) {
    let len = segment.len();
    for at in [0, len.saturating_sub(64)] {
        let Some(part) = segment.get_mut(at..at + 64) else { continue };
        let summed = with_crc(&part[..60]);
        part.copy_from_slice(&summed);
    }
}
