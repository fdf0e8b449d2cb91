//! One qcow2 file: where each byte of its disk lies.

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use super::header::{Header, cluster_bytes};
use super::table::{Cluster, SUBCLUSTERS, entry, l1, l2};
use crate::read_at::{ReadAt, read_padded};
use windlass_base::{Error, Kind, Result};

/// Number of first bytes that tell how long the header's cluster is.
const FIRST_BYTES: usize = 512;
/// Most bytes of L2 tables that are kept.
const TABLES_BYTES: u64 = 8 << 20;
/// Bytes that are read at once where a table is smaller: its neighbours are wanted next.
const NEAR: u64 = 256 << 10;

/// Kinds of what one image of a chain has for a run of a disk's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// The image has nothing; what the image below has counts.
    Absent,
    Zero,
    /// The bytes lie as they are at this offset of the file.
    Data {
        offset: u64,
    },
    /// The bytes are a part, from `within` on, of one compressed cluster, which takes at most `bytes` at this
    /// offset of the file.
    Compressed {
        offset: u64,
        bytes: u64,
        within: u64,
    },
}

#[derive(Debug)]
pub struct Image {
    pub header: Header,
    pub file: Arc<dyn ReadAt>,
    l1: Bytes,
    /// L2 tables by their offset in the file; small ones with what lies beside them.
    tables: Mutex<LruCache<u64, Bytes>>,
}

impl Image {
    pub async fn open(file: Arc<dyn ReadAt>) -> Result<Image> {
        let name = file.name();
        Image::read(file).await.map_err(|e| e.context(name))
    }

    async fn read(file: Arc<dyn ReadAt>) -> Result<Image> {
        let head = file.read_at(0, FIRST_BYTES).await?;
        let first = file.read_at(0, cluster_bytes(&head)? as usize).await?;
        let header = Header::parse(&first, file.size())?;
        let l1 = read_padded(&*file, header.l1_offset, header.l1_entries * 8, header.cluster()).await?;
        let kept = (TABLES_BYTES / header.cluster().max(NEAR)) as usize;
        let kept = NonZeroUsize::new(kept).unwrap_or(NonZeroUsize::MIN);
        Ok(Image { header, file, l1, tables: Mutex::new(LruCache::new(kept)) })
    }

    pub fn l1(&self) -> &[u8] {
        &self.l1
    }

    /// Returns a cluster that holds a table.
    pub async fn table(&self, offset: u64) -> Result<Bytes> {
        let cluster = self.header.cluster();
        let unit = cluster.max(NEAR);
        let begin = offset / unit * unit;
        let kept = self.tables.lock().get(&begin).cloned();
        let near = match kept {
            Some(near) => near,
            None => {
                let end = (begin + unit).min(self.file.size().next_multiple_of(cluster));
                let len = end.checked_sub(begin).ok_or_else(|| outside(offset))?;
                let near = read_padded(&*self.file, begin, len, cluster).await?;
                self.tables.lock().put(begin, near.clone());
                near
            }
        };
        let at = (offset - begin) as usize;
        match at.checked_add(cluster as usize).filter(|end| *end <= near.len()) {
            Some(end) => Ok(near.slice(at..end)),
            None => Err(outside(offset)),
        }
    }

    /// Returns what the byte at `offset` is, and how many bytes from there on are alike: at most `max`, at
    /// least one. `offset` must lie inside of the disk.
    pub async fn extent(&self, offset: u64, max: u64) -> Result<(u64, Extent)> {
        let (header, span) = (&self.header, self.header.l2_span());
        let max = max.min(header.size - offset);
        let (first, mut index) = (offset / span, offset / span);
        let table = loop {
            if let Some((table, _)) = l1(header, entry(&self.l1, index))? {
                break table;
            }
            index += 1;
            if index * span >= offset + max {
                return Ok((max, Extent::Absent));
            }
        };
        if index > first {
            return Ok((index * span - offset, Extent::Absent));
        }
        let table = self.table(table).await?;
        run(header, &table, offset, max.min(span - offset % span))
    }
}

fn outside(offset: u64) -> Error {
    Error::new(Kind::Invalid, format!("a table at {offset:#x} lies behind the end of the file"))
}

/// Returns the run from `offset` on, inside one L2 table.
fn run(header: &Header, table: &[u8], offset: u64, max: u64) -> Result<(u64, Extent)> {
    let (len, extent) = one(header, table, offset)?;
    let mut len = len;
    while len < max {
        let (more, next) = one(header, table, offset + len)?;
        let same = match (extent, next) {
            (Extent::Absent, Extent::Absent) | (Extent::Zero, Extent::Zero) => true,
            (Extent::Data { offset: from }, Extent::Data { offset: to }) => from + len == to,
            _ => false,
        };
        if !same {
            break;
        }
        len += more;
    }
    Ok((len.min(max), extent))
}

/// Returns what lies from `offset` on in its cluster.
fn one(header: &Header, table: &[u8], offset: u64) -> Result<(u64, Extent)> {
    let cluster = header.cluster();
    let within = offset % cluster;
    let index = (offset >> header.cluster_bits) % header.l2_entries();
    let left = cluster - within;
    Ok(match l2(header, table, index)?.cluster {
        Cluster::Absent => (left, Extent::Absent),
        Cluster::Zero => (left, Extent::Zero),
        Cluster::Data { offset } => (left, Extent::Data { offset: offset + within }),
        Cluster::Compressed { offset, bytes } => (left, Extent::Compressed { offset, bytes, within }),
        Cluster::Parts { offset, present, zero } => {
            let part = cluster / SUBCLUSTERS;
            let bit = 1u32 << (within / part);
            let extent = match (present & bit != 0, zero & bit != 0) {
                (true, _) => Extent::Data { offset: offset + within },
                (false, true) => Extent::Zero,
                (false, false) => Extent::Absent,
            };
            (part - within % part, extent)
        }
    })
}
