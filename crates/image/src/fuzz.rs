//! Images and increments, as they come in.

use std::io::{Cursor, Read as _};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::executor::block_on;

use super::diff_lineage::Between;
use super::diff_source::{ByteSource, Change, Changes, DATA_MAX, RbdChanges};
use super::format::{HEAD_BYTES, compression_of, detect};
use super::qcow2::fuzz as qcow2;
use super::qcow2_writer::{Lineage, Shape, Writer};
use super::rbd_diff_codec::{Header, Record};
use super::read_at::{InMemory, ReadAt};
use super::sequential_source::decoder_of;
use super::{Content, Overlay, Source as _};
use windlass_base::Result;
use windlass_base::rt::sim::Sim;
use windlass_fuzz::{Target, choice};

pub const TARGETS: &[Target] = &[
    Target { name: "qcow2", run: qcow2_image, seeds: qcow2::some_images, memory: 16 << 20 },
    Target { name: "qcow2_overlay", run: overlay, seeds: some_overlays, memory: 16 << 20 },
    Target { name: "rbd_diff", run: rbd_diff, seeds: some_diffs, memory: 4 << 20 },
    // What `xz -9` and `zstd --ultra -22` need.
    Target { name: "compressed_image", run: compressed, seeds: some_compressed, memory: 300 << 20 },
];

/// Reads all of an image that can be read, but no more than the start of a large one.
fn qcow2_image(data: &[u8]) {
    let _ = detect(&data[..data.len().min(HEAD_BYTES)]);
    let rt = Sim::new(1).rt();
    let file: Arc<dyn ReadAt> = Arc::new(InMemory(Bytes::copy_from_slice(data)));
    let read = block_on(async {
        let mut chain = super::Chain::open(&rt, file, None).await?;
        let mut at = 0;
        for _ in 0..64 {
            let Some(piece) = chain.next().await? else { break };
            assert_eq!(piece.offset, at, "pieces lie side by side");
            at += piece.len;
            if let Content::Data(read) = piece.content {
                assert_eq!(read.await?.len() as u64, piece.len);
            }
        }
        assert!(chain.size().is_none_or(|size| at <= size));
        Ok::<_, windlass_base::Error>(())
    });
    drop(read);
}

/// Bytes of a cluster of an image that `export` writes; an input has the first `SHOWN` bytes of each.
const CLUSTER: usize = 64 << 10;
const SHOWN: usize = 512;

fn some_overlays() -> Vec<Vec<u8>> {
    let lineage = Some(Lineage { since: "a".into(), to: Some("b".into()), between: Between::default() });
    let shape = Shape { size: 1 << 20, compression: None, backing: None, lineage };
    let mut writer = Writer::new(shape).expect("a small disk");
    writer.data(CLUSTER as u64, vec![7; CLUSTER].into());
    writer.zeros(2 * CLUSTER as u64, 3 * CLUSTER as u64);
    writer.data(9 * CLUSTER as u64, vec![8; CLUSTER].into());
    writer.finish().expect("a small disk");
    let mut file = Vec::new();
    for (at, bytes) in writer.take() {
        let end = at as usize + bytes.len();
        file.resize(file.len().max(end), 0);
        file[at as usize..end].copy_from_slice(&bytes);
    }
    vec![file.chunks(CLUSTER).flat_map(|cluster| cluster[..cluster.len().min(SHOWN)].to_vec()).collect()]
}

/// Reads an overlay. The input is the first bytes of each cluster, one behind the other; the rest of each
/// cluster is zeros.
fn overlay(data: &[u8]) {
    let mut file = Vec::new();
    for part in data.chunks(SHOWN).take(32) {
        file.extend_from_slice(part);
        file.resize(file.len().next_multiple_of(CLUSTER), 0);
    }
    let file: Arc<dyn ReadAt> = Arc::new(InMemory(file.into()));
    let _ = block_on(async {
        let mut overlay = Overlay::open(file).await?;
        followed(&mut overlay).await
    });
}

/// Reads changes up to the end, or up to a number of them, and checks that all lie inside of the size that
/// the header tells.
async fn followed(changes: &mut dyn Changes) -> Result<()> {
    let size = changes.header().size.unwrap_or(u64::MAX);
    for _ in 0..64 {
        let Some(change) = changes.next().await? else { return Ok(()) };
        let (offset, len) = change.range();
        assert!(
            len > 0 && offset.checked_add(len).is_some_and(|end| end <= size),
            "{offset}+{len} of {size}"
        );
        assert!(!matches!(change, Change::Data { bytes, .. } if bytes.len() > DATA_MAX));
    }
    Ok(())
}

fn some_diffs() -> Vec<Vec<u8>> {
    let header = Header { from: Some("a".into()), to: Some("b".into()), size: Some(4 << 20) };
    let mut out = bytes::BytesMut::from(&header.encode()[..]);
    Record::Write { offset: 512, len: 40 }.put(&mut out);
    out.resize(out.len() + 40, 7);
    Record::Zero { offset: 3 << 20, len: 1 << 20 }.put(&mut out);
    Record::End.put(&mut out);
    vec![[&[7], &out[..]].concat()]
}

/// A stream of bytes that come in pieces of `step`.
struct Steps {
    bytes: Bytes,
    step: usize,
}

#[async_trait]
impl ByteSource for Steps {
    async fn read(&mut self) -> Result<Bytes> {
        Ok(self.bytes.split_to(self.step.min(self.bytes.len())))
    }
}

/// Reads an rbd-diff. The first byte of the input is the number of bytes that come at a time, less one; the
/// rest is the stream.
fn rbd_diff(data: &[u8]) {
    let (step, bytes) = choice(data);
    let from = Steps { bytes: Bytes::copy_from_slice(bytes), step: usize::from(step) + 1 };
    let _ = block_on(async {
        let mut changes = RbdChanges::open(Box::new(from)).await?;
        followed(&mut changes).await
    });
    if let Ok(Some((record, len))) = Record::parse(bytes) {
        let mut again = bytes::BytesMut::new();
        record.put(&mut again);
        assert_eq!(again, bytes[..len]);
    }
}

fn some_compressed() -> Vec<Vec<u8>> {
    let xz = b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4F\x02\0!\x01\x16\0\0\0t/\xe5\xa3\x01\0\x02abc\0\xcd?\xd8\xaa\xf4\xc3\x1b\xcf\0\x01\x1b\x03\x0b/\xb9\x10\x1f\xb6\xf3}\x01\0\0\0\0\x04YZ";
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03KLJ\x06\0\xc2A$5\x03\0\0\0";
    let zstd = zstd::bulk::compress(&[7; 5000], 3).expect("it is short");
    vec![xz.to_vec(), gzip.to_vec(), [&gzip[..], gzip, &[0; 9]].concat(), zstd]
}

/// Decompresses the input, up to 1 MiB of its contents.
fn compressed(data: &[u8]) {
    let Some(how) = compression_of(data) else { return };
    let Ok(decoder) = decoder_of(Cursor::new(data.to_vec()), Some(how)) else { return };
    let mut out = Vec::new();
    let _ = decoder.take(1 << 20).read_to_end(&mut out);
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
