//! The overlays that `export --since` writes, read as what changed: what lies beneath is never opened.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::compressed_cluster::unpack;
use super::image_extents::{Extent, Image};
use super::refcount_check::check;
use crate::diff_lineage::Between;
use crate::diff_source::{Change, Changes, DATA_MAX};
use crate::qcow2_writer::{CLUSTER, lineage};
use crate::raw_source::SECTOR;
use crate::rbd_diff_codec::Header;
use crate::read_at::{ReadAt, read_padded};
use windlass_base::{Error, Kind, Result};

#[derive(Debug)]
pub struct Overlay {
    image: Image,
    header: Header,
    between: Between,
    at: u64,
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, format!("the qcow2 {}", why.into()))
}

impl Overlay {
    /// Opens an overlay and reads its lineage.
    ///
    /// # Errors
    /// `Invalid`: this is no qcow2 that `windlass export --since` wrote, or a damaged one.
    pub async fn open(file: Arc<dyn ReadAt>) -> Result<Overlay> {
        let head = file.read_at(0, CLUSTER as usize).await?;
        let lineage = lineage(&head).ok_or_else(|| {
            invalid("does not say which snapshots it lies between: `windlass export --since` writes that")
        })?;
        let image = Image::open(file.clone()).await?;
        if image.header.cluster() != CLUSTER || !image.header.size.is_multiple_of(SECTOR) {
            return Err(invalid("is of a form that `windlass export` does not write"));
        }
        // The counts are written last.
        let counts_end = image.header.references_offset.checked_add(image.header.references_bytes);
        if counts_end.is_none_or(|end| end > file.size()) {
            return Err(invalid("was cut off"));
        }
        check(&image).await?;
        let header = Header { from: Some(lineage.since), to: lineage.to, size: Some(image.header.size) };
        Ok(Overlay { image, header, between: lineage.between, at: 0 })
    }

    async fn data(&self, offset: u64, len: u64) -> Result<Bytes> {
        read_padded(&*self.image.file, offset, len, CLUSTER).await
    }
}

#[async_trait]
impl Changes for Overlay {
    fn header(&self) -> &Header {
        &self.header
    }

    fn between(&self) -> &Between {
        &self.between
    }

    async fn next(&mut self) -> Result<Option<Change>> {
        let size = self.image.header.size;
        while self.at < size {
            let offset = self.at;
            let (len, extent) = self.image.extent(offset, size - offset).await?;
            let change = match extent {
                Extent::Absent => None,
                Extent::Zero => Some(Change::Zero { offset, len }),
                Extent::Data { offset: place } => {
                    let bytes = self.data(place, len.min(DATA_MAX as u64)).await?;
                    Some(Change::Data { offset, bytes })
                }
                Extent::Compressed { offset: place, bytes, .. } => {
                    // Its last sector may be cut off by the end of the file.
                    let end = self.image.file.size().next_multiple_of(CLUSTER);
                    let packed = self.data(place, bytes.min(end.saturating_sub(place))).await?;
                    let cluster = unpack(self.image.header.compression, &packed, CLUSTER as usize)?;
                    let bytes = Bytes::from(cluster).slice(..len as usize);
                    Some(Change::Data { offset, bytes })
                }
            };
            self.at += change.as_ref().map_or(len, |change| change.range().1);
            if change.is_some() {
                return Ok(change);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;
    use crate::qcow2_writer::{Backing, Compression, Lineage, Shape, Writer};
    use crate::read_at::InMemory;

    const SIZE: u64 = (1 << 30) + 512;

    /// Data here and there, zeros, and a last cluster of 512 bytes.
    fn written(compression: Option<Compression>) -> Vec<(u64, Bytes)> {
        let backing = Some(Backing { file: "beneath.raw".into(), format: "raw" });
        let lineage = Some(Lineage { since: "a".into(), to: Some("b".into()), between: Between::default() });
        let mut writer = Writer::new(Shape { size: SIZE, compression, backing, lineage }).unwrap();
        let put = |writer: &mut Writer, n: u64| {
            let bytes = Bytes::from(vec![n as u8; CLUSTER as usize]);
            match compression.and_then(|compression| compression.pack(&bytes)) {
                Some(packed) => writer.packed(n * CLUSTER, packed),
                None => writer.data(n * CLUSTER, bytes),
            }
        };
        put(&mut writer, 1);
        writer.zeros(2 * CLUSTER, 3 * CLUSTER);
        (5..30).for_each(|n| put(&mut writer, n));
        writer.zeros(8000 * CLUSTER, 400 * CLUSTER);
        put(&mut writer, 16000);
        put(&mut writer, 16384);
        writer.finish().unwrap();
        writer.take()
    }

    fn file(writes: &[(u64, Bytes)]) -> Vec<u8> {
        let end = writes.iter().map(|(at, bytes)| *at as usize + bytes.len()).max().unwrap();
        let mut file = vec![0; end];
        for (at, bytes) in writes {
            file[*at as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        file
    }

    fn read(file: Vec<u8>) -> Result<Vec<Change>> {
        block_on(async {
            let mut overlay = Overlay::open(Arc::new(InMemory(file.into()))).await?;
            assert!(overlay.header().from.is_some());
            let mut all = Vec::new();
            while let Some(change) = overlay.next().await? {
                let (offset, len) = change.range();
                assert!(len > 0 && offset + len <= overlay.image.header.size);
                all.push(change);
            }
            Ok(all)
        })
    }

    #[test]
    fn what_the_writer_wrote_is_read_again() {
        for compression in [None, Some(Compression::Zlib), Some(Compression::Zstd)] {
            let all = read(file(&written(compression))).unwrap();
            let (mut data, mut zeros) = (Vec::new(), Vec::new());
            for change in all {
                match change {
                    Change::Zero { offset, len } => zeros.push((offset / CLUSTER, len / CLUSTER)),
                    Change::Data { offset, bytes } => {
                        for (n, cluster) in bytes.chunks(CLUSTER as usize).enumerate() {
                            let number = offset / CLUSTER + n as u64;
                            let len = CLUSTER.min(SIZE - number * CLUSTER);
                            assert!(cluster == vec![number as u8; len as usize], "cluster {number}");
                            data.push(number);
                        }
                    }
                }
            }
            let wanted: Vec<u64> = [1].into_iter().chain(5..30).chain([16000, 16384]).collect();
            assert_eq!(data, wanted);
            // The second run ends one table and begins another.
            assert_eq!(zeros, [(2, 3), (8000, 192), (8192, 208)]);
        }
    }

    #[test]
    fn a_small_file_does_not_become_a_large_volume() {
        let backing = Some(Backing { file: "beneath.raw".into(), format: "raw" });
        let lineage = Some(Lineage { since: "a".into(), to: None, between: Between::default() });
        let shape = Shape { size: 64 << 40, compression: None, backing, lineage };
        let mut writer = Writer::new(shape).unwrap();
        (0..8).for_each(|n| writer.data(n * CLUSTER, vec![1; CLUSTER as usize].into()));
        writer.finish().unwrap();
        let mut writes = writer.take();
        // The L1 table: each of its entries names the one L2 table.
        let l1 = writes
            .iter_mut()
            .find(|(_, bytes)| bytes.len() as u64 == (64 << 40) / CLUSTER / (CLUSTER / 8) * 8);
        let (_, bytes) = l1.unwrap();
        *bytes = bytes[..8].repeat(bytes.len() / 8).into();
        let seen = read(file(&writes));
        assert!(seen.is_err_and(|error| error.is(Kind::Invalid)));
    }

    #[test]
    fn hostile_overlays_are_refused_or_read_within_bounds() {
        for compression in [None, Some(Compression::Zlib), Some(Compression::Zstd)] {
            let writes = written(compression);
            let whole = file(&writes);
            // The header, and a table's entries: any byte may be anything.
            let tables = writes.iter().filter(|(at, bytes)| *at > 0 && bytes.len() as u64 == CLUSTER);
            let places: Vec<u64> =
                (0..240).chain(tables.flat_map(|(at, _)| (0..48).map(move |n| at + n))).collect();
            for (n, at) in places.into_iter().enumerate() {
                let mut file = whole.clone();
                file[at as usize] ^= [1, 0x80, 0xff, 0x40][n % 4];
                if let Err(error) = read(file) {
                    assert!(error.is(Kind::Invalid) || error.is(Kind::Unsupported), "byte {at}: {error}");
                }
            }
            for len in [0, 3, 100, 4096, CLUSTER as usize, whole.len() / 2, whole.len() - 1] {
                let seen = read(whole[..len].to_vec());
                assert!(seen.is_err_and(|error| error.is(Kind::Invalid)), "{len} bytes");
            }
        }
    }
}
