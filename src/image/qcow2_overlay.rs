//! Reads the overlays that `export --since` writes: those name the snapshots they lie between, which no other program's do.
//!
//! What lies beneath an overlay is never opened. Of the format only what `qcow2_writer` writes is known, and nothing in
//! the file is believed: each offset is held against the file's length, and memory is bound by two tables and 1 MiB.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use flate2::{Decompress, FlushDecompress};
use zstd::stream::raw::{Decoder, InBuffer, Operation as _, OutBuffer};

use super::changes::{Change, Changes, DATA_MAX};
use super::qcow2_writer::{CLUSTER, Compression, lineage};
use super::rbd_diff::Header;
use crate::base::rt::DiskFile;
use crate::base::{Error, Kind, Result};

/// Guest clusters of one L2 table.
const ENTRIES: u64 = CLUSTER / 8;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const PACKED: u64 = 1 << 62;
const ZERO: u64 = 1;
const SECTORS_SHIFT: u32 = 54;
const SECTOR: u64 = 512;
/// As large as a volume can be.
const SIZE_MAX: u64 = 64 << 40;

pub struct Overlay {
    file: Arc<dyn DiskFile>,
    file_bytes: u64,
    header: Header,
    size: u64,
    compression: Compression,
    l1: Bytes,
    /// The table that is read, and its number.
    l2: Option<(u64, Bytes)>,
    /// The next guest cluster.
    at: u64,
    /// Bytes of the file that clusters and tables have taken so far.
    taken: u64,
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, format!("the qcow2 {}", why.into()))
}

impl Overlay {
    /// # Errors
    /// `Invalid`: this is no qcow2 that `windlass export --since` wrote, or a damaged one.
    pub async fn open(file: Arc<dyn DiskFile>) -> Result<Overlay> {
        let file_bytes = file.size().await?;
        let head = file.pread(0, CLUSTER as usize).await?;
        let Some(lineage) = lineage(&head) else {
            return Err(invalid(
                "does not say which snapshots it lies between: `windlass export --since` writes that",
            ));
        };
        if head.len() < CLUSTER as usize {
            return Err(invalid("was cut off"));
        }
        let u32_at = |at: usize| (&head[at..]).get_u32();
        let u64_at = |at: usize| (&head[at..]).get_u64();
        let size = u64_at(24);
        let (zstd, plain) = (u64_at(72) == 8 && head[104] == 1, u64_at(72) == 0);
        let known = u32_at(4) == 3 && u32_at(20) == CLUSTER.trailing_zeros() && u32_at(32) == 0;
        if !known || !(zstd || plain) || u32_at(60) != 0 {
            return Err(invalid("is of a form that `windlass export` does not write"));
        }
        let (l1_len, l1_at) = (u64::from(u32_at(36)), u64_at(40));
        if size > SIZE_MAX || !size.is_multiple_of(SECTOR) || l1_len != size.div_ceil(CLUSTER * ENTRIES) {
            return Err(invalid(format!("has {l1_len} tables for {size} bytes")));
        }
        // The refcounts are not needed, but they lie last.
        let end = u64_at(48).checked_add(u64::from(u32_at(56)) * CLUSTER);
        if end.is_none_or(|end| end > file_bytes) {
            return Err(invalid("was cut off"));
        }
        let header = Header { from: Some(lineage.since), to: lineage.to, size: Some(size) };
        let compression = if zstd { Compression::Zstd } else { Compression::Zlib };
        let mut overlay = Overlay {
            file,
            file_bytes,
            header,
            size,
            compression,
            l1: Bytes::new(),
            l2: None,
            at: 0,
            taken: 0,
        };
        overlay.l1 = overlay.read(l1_at, l1_len * 8).await?;
        Ok(overlay)
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Bytes> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.file_bytes);
        if !inside {
            return Err(invalid(format!("has {len} bytes at {offset}, behind its own end: it was cut off")));
        }
        let bytes = self.file.pread(offset, len as usize).await?;
        match bytes.len() as u64 == len {
            true => Ok(bytes),
            false => Err(invalid("became shorter while it was read")),
        }
    }

    /// No part of the file is used twice: a small file must not become a large volume.
    fn take(&mut self, len: u64) -> Result<()> {
        self.taken += len;
        match self.taken <= self.file_bytes {
            true => Ok(()),
            false => Err(invalid("uses parts of itself twice")),
        }
    }

    /// The entry of a guest cluster, in a table that is there.
    async fn entry(&mut self, cluster: u64) -> Result<u64> {
        let number = cluster / ENTRIES;
        let index = (cluster % ENTRIES * 8) as usize;
        if let Some((_, table)) = self.l2.as_ref().filter(|(of, _)| *of == number) {
            return Ok((&table[index..]).get_u64());
        }
        let place = (&self.l1[(number * 8) as usize..]).get_u64();
        if place == 0 {
            return Ok(0);
        }
        self.take(CLUSTER)?;
        let table = self.read(self.place(place)?, CLUSTER).await?;
        let entry = (&table[index..]).get_u64();
        self.l2 = Some((number, table));
        Ok(entry)
    }

    fn place(&self, entry: u64) -> Result<u64> {
        let place = entry & OFFSET;
        match entry & !OFFSET == COPIED && place.is_multiple_of(CLUSTER) && place > 0 {
            true => Ok(place),
            false => Err(invalid(format!("has an entry {entry:#x} that means nothing"))),
        }
    }

    /// Clusters from `cluster` on that are zeros too, or that lie behind each other in the file too.
    async fn run(&mut self, cluster: u64, entry: u64, max: u64) -> Result<u64> {
        let step = if entry == ZERO { 0 } else { CLUSTER };
        let mut n = 1;
        while n < max && cluster + n < self.clusters() {
            if self.entry(cluster + n).await? != entry.wrapping_add(n * step) {
                break;
            }
            n += 1;
        }
        Ok(n)
    }

    fn clusters(&self) -> u64 {
        self.size.div_ceil(CLUSTER)
    }

    async fn unpack(&mut self, entry: u64) -> Result<Bytes> {
        let at = entry & ((1 << SECTORS_SHIFT) - 1);
        let sectors = (entry & !(PACKED | COPIED)) >> SECTORS_SHIFT;
        let end = (at / SECTOR + sectors + 1) * SECTOR;
        // Neighbours share the sector in which one ends and the other begins.
        self.take(sectors * SECTOR)?;
        let packed = self.read(at, end.min(self.file_bytes).saturating_sub(at)).await?;
        let bytes = match self.compression {
            Compression::Zlib => inflate(&packed),
            Compression::Zstd => unpack_zstd(&packed),
        };
        bytes.ok_or_else(|| invalid(format!("has a compressed cluster at {at} that can't be unpacked")))
    }
}

fn inflate(packed: &[u8]) -> Option<Bytes> {
    let mut out = Vec::with_capacity(CLUSTER as usize);
    let mut inflate = Decompress::new_with_window_bits(false, 12);
    inflate.decompress_vec(packed, &mut out, FlushDecompress::Finish).ok()?;
    (out.len() as u64 == CLUSTER).then(|| out.into())
}

/// What follows the frame, to the end of its sector, is none of it.
fn unpack_zstd(packed: &[u8]) -> Option<Bytes> {
    let mut out = vec![0; CLUSTER as usize];
    let mut decoder = Decoder::new().ok()?;
    let mut from = InBuffer::around(packed);
    let mut to = OutBuffer::around(&mut out[..]);
    while (to.pos() as u64) < CLUSTER {
        let before = (from.pos(), to.pos());
        decoder.run(&mut from, &mut to).ok()?;
        if (from.pos(), to.pos()) == before {
            return None;
        }
    }
    Some(out.into())
}

#[async_trait]
impl Changes for Overlay {
    fn header(&self) -> &Header {
        &self.header
    }

    async fn next(&mut self) -> Result<Option<Change>> {
        while self.at < self.clusters() {
            let cluster = self.at;
            let entry = self.entry(cluster).await?;
            let number = cluster / ENTRIES;
            if entry == 0 {
                let none = self.l2.as_ref().is_none_or(|(of, _)| *of != number);
                self.at = if none { (number + 1) * ENTRIES } else { cluster + 1 };
                continue;
            }
            let offset = cluster * CLUSTER;
            if entry == ZERO {
                let n = self.run(cluster, entry, ENTRIES).await?;
                self.at += n;
                let len = (n * CLUSTER).min(self.size - offset);
                return Ok(Some(Change::Zero { offset, len }));
            }
            let (n, mut bytes) = if entry & PACKED != 0 {
                (1, self.unpack(entry).await?)
            } else {
                let place = self.place(entry)?;
                let n = self.run(cluster, entry, DATA_MAX as u64 / CLUSTER).await?;
                self.take(n * CLUSTER)?;
                (n, self.read(place, n * CLUSTER).await?)
            };
            self.at += n;
            // The last cluster may reach behind the end.
            bytes.truncate((n * CLUSTER).min(self.size - offset) as usize);
            return Ok(Some(Change::Data { offset, bytes }));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::qcow2_writer::{Backing, Lineage, Shape, Writer};
    use super::*;
    use crate::base::rt::{Disk as _, OpenHow, RealDisk};

    const SIZE: u64 = (1 << 30) + 512;

    /// Data here and there, zeros, and a last cluster of 512 bytes.
    fn written(compression: Option<Compression>) -> Vec<(u64, Bytes)> {
        let backing = Some(Backing { file: "beneath.raw".into(), format: "raw" });
        let lineage = Some(Lineage { since: "a".into(), to: Some("b".into()) });
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

    async fn file(dir: &tempfile::TempDir, writes: &[(u64, Bytes)]) -> Arc<dyn DiskFile> {
        let file = RealDisk::start().open(&dir.path().join("x"), OpenHow::Create).await.unwrap();
        file.set_len(0).await.unwrap();
        for (at, bytes) in writes {
            file.pwrite(*at, vec![bytes.clone()], false).await.unwrap();
        }
        file
    }

    async fn read(file: Arc<dyn DiskFile>) -> Result<Vec<Change>> {
        let mut overlay = Overlay::open(file).await?;
        assert!(overlay.header().from.is_some());
        let mut all = Vec::new();
        while let Some(change) = overlay.next().await? {
            let (offset, len) = change.range();
            assert!(len > 0 && offset + len <= overlay.size);
            all.push(change);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn what_the_writer_wrote_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        for compression in [None, Some(Compression::Zlib), Some(Compression::Zstd)] {
            let all = read(file(&dir, &written(compression)).await).await.unwrap();
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
            assert_eq!(zeros, [(2, 3), (8000, 400)]);
        }
    }

    #[tokio::test]
    async fn a_small_file_does_not_become_a_large_volume() {
        let dir = tempfile::tempdir().unwrap();
        let backing = Some(Backing { file: "beneath.raw".into(), format: "raw" });
        let lineage = Some(Lineage { since: "a".into(), to: None });
        let shape = Shape { size: 64 << 40, compression: None, backing, lineage };
        let mut writer = Writer::new(shape).unwrap();
        (0..8).for_each(|n| writer.data(n * CLUSTER, vec![1; CLUSTER as usize].into()));
        writer.finish().unwrap();
        let mut writes = writer.take();
        // The L1 table: each of its entries names the one L2 table.
        let l1 =
            writes.iter_mut().find(|(_, bytes)| bytes.len() as u64 == (64 << 40) / CLUSTER / ENTRIES * 8);
        let (_, bytes) = l1.unwrap();
        *bytes = bytes[..8].repeat(bytes.len() / 8).into();
        let seen = read(file(&dir, &writes).await).await;
        assert!(seen.is_err_and(|error| error.to_string().contains("twice")));
    }

    #[tokio::test]
    async fn hostile_overlays_are_refused_or_read_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        for compression in [None, Some(Compression::Zlib), Some(Compression::Zstd)] {
            let writes = written(compression);
            let file = file(&dir, &writes).await;
            let end = file.size().await.unwrap();
            // The header, and a table's entries: any byte may be anything.
            let tables = writes.iter().filter(|(at, bytes)| *at > 0 && bytes.len() as u64 == CLUSTER);
            let places: Vec<u64> =
                (0..240).chain(tables.flat_map(|(at, _)| (0..48).map(move |n| at + n))).collect();
            for (n, at) in places.into_iter().enumerate() {
                let before = file.pread(at, 1).await.unwrap();
                let byte = before[0] ^ [1, 0x80, 0xff, 0x40][n % 4];
                file.pwrite(at, vec![vec![byte].into()], false).await.unwrap();
                if let Err(error) = read(file.clone()).await {
                    assert!(error.is(Kind::Invalid), "byte {at}: {error}");
                }
                file.pwrite(at, vec![before], false).await.unwrap();
            }
            for len in [0, 3, 100, 4096, CLUSTER, end / 2, end - 1] {
                file.set_len(len).await.unwrap();
                let seen = read(file.clone()).await;
                assert!(seen.is_err_and(|error| error.is(Kind::Invalid)), "{len} bytes");
                for (at, bytes) in &writes {
                    file.pwrite(*at, vec![bytes.clone()], false).await.unwrap();
                }
            }
        }
    }
}
