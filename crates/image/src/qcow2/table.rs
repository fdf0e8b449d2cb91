//! Entries of the L1 and L2 tables.

use super::header::Header;
use windlass_base::{Error, Kind, Result};

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Unit in which lengths of compressed clusters are measured.
const SECTOR: u64 = 512;
/// Parts of a cluster that has an extended entry.
pub const SUBCLUSTERS: u64 = 32;

fn invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, why)
}

/// Returns an entry of a table of 8 bytes each, 0 behind its end.
pub fn entry(table: &[u8], index: u64) -> u64 {
    let at = index as usize * 8;
    table.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Reads an L1 entry: the offset of the L2 table, and whether the entry says that nobody shares the table.
/// `None`: there is no table.
pub fn l1(header: &Header, entry: u64) -> Result<Option<(u64, bool)>> {
    let offset = entry & OFFSET;
    // Nothing but bits is no table, and no sign that there is none.
    if entry & L1_RESERVED != 0 || offset == 0 && entry != 0 {
        return Err(invalid("an entry of its L1 table has reserved bits"));
    }
    if !offset.is_multiple_of(header.cluster()) {
        return Err(invalid(format!("an L2 table at {offset:#x} lies at no whole cluster")));
    }
    Ok((offset != 0).then_some((offset, entry & COPIED != 0)))
}

/// Kinds of clusters of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cluster {
    /// The image has nothing here; what the backing file has counts.
    Absent,
    Zero,
    Data {
        offset: u64,
    },
    /// The cluster is compressed: it takes at most `bytes` at this offset of the file.
    Compressed {
        offset: u64,
        bytes: u64,
    },
    /// Each subcluster has two bits: one says that it is in the file, the other that it is zero.
    Parts {
        offset: u64,
        present: u32,
        zero: u32,
    },
}

/// An L2 entry that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L2Entry {
    pub cluster: Cluster,
    /// Offset of the file's cluster that the entry holds, also where that cluster is not read.
    pub holds: Option<u64>,
    /// The entry says that nobody shares the cluster that it holds.
    pub copied: bool,
}

pub fn l2(header: &Header, table: &[u8], index: u64) -> Result<L2Entry> {
    let (raw, bitmap) = match header.extended_l2 {
        true => (entry(table, 2 * index), entry(table, 2 * index + 1)),
        false => (entry(table, index), 0),
    };
    let copied = raw & COPIED != 0;
    if raw & COMPRESSED != 0 {
        return compressed(header, raw, bitmap).map(|cluster| L2Entry { cluster, holds: None, copied });
    }
    let offset = raw & OFFSET;
    if raw & L2_RESERVED != 0 || (header.extended_l2 || header.version < 3) && raw & ZERO != 0 {
        return Err(invalid("an entry of an L2 table has reserved bits"));
    }
    if !offset.is_multiple_of(header.cluster()) {
        return Err(invalid(format!("a cluster at {offset:#x} lies at no whole cluster")));
    }
    let cluster = match (header.extended_l2, offset, raw & ZERO != 0) {
        (true, ..) => parts(offset, bitmap)?,
        (false, _, true) => Cluster::Zero,
        (false, 0, false) => Cluster::Absent,
        (false, offset, false) => Cluster::Data { offset },
    };
    Ok(L2Entry { cluster, holds: (offset != 0).then_some(offset), copied })
}

fn parts(offset: u64, bitmap: u64) -> Result<Cluster> {
    let (zero, present) = ((bitmap >> 32) as u32, bitmap as u32);
    if zero & present != 0 || offset == 0 && present != 0 {
        return Err(invalid(format!("the subclusters of a cluster at {offset:#x} contradict each other")));
    }
    Ok(match (present, zero) {
        (u32::MAX, _) => Cluster::Data { offset },
        (_, u32::MAX) => Cluster::Zero,
        (0, 0) => Cluster::Absent,
        _ => Cluster::Parts { offset, present, zero },
    })
}

fn compressed(header: &Header, raw: u64, bitmap: u64) -> Result<Cluster> {
    if raw & COPIED != 0 {
        return Err(invalid("a compressed cluster says that nobody shares it"));
    }
    if bitmap != 0 {
        return Err(invalid("a compressed cluster has subclusters"));
    }
    // The offset takes all but the bits that count sectors.
    let shift = 62 - (header.cluster_bits - 8);
    let offset = raw & ((1 << shift) - 1);
    let sectors = ((raw & !(COPIED | COMPRESSED)) >> shift) + 1;
    Ok(Cluster::Compressed { offset, bytes: sectors * SECTOR - offset % SECTOR })
}

#[cfg(test)]
mod tests {
    use super::super::header::{ClusterCompression, Header};
    use super::*;

    fn header(cluster_bits: u32, version: u32, extended_l2: bool) -> Header {
        Header {
            version,
            cluster_bits,
            size: 1 << 30,
            l1_offset: 0,
            l1_entries: 0,
            references_offset: 0,
            references_bytes: 0,
            snapshots_offset: 0,
            reference_order: 4,
            dirty: false,
            extended_l2,
            compression: ClusterCompression::Zlib,
            backing: None,
            bitmaps: None,
        }
    }

    fn table(entries: &[u64]) -> Vec<u8> {
        entries.iter().flat_map(|e| e.to_be_bytes()).collect()
    }

    #[test]
    fn entries_are_read() {
        let of = |version, entry| l2(&header(16, version, false), &table(&[entry]), 0).map(|e| e.cluster);
        assert_eq!(of(3, 0).unwrap(), Cluster::Absent);
        assert_eq!(of(3, 1).unwrap(), Cluster::Zero);
        assert_eq!(of(3, COPIED | 0x5_0001).unwrap(), Cluster::Zero);
        assert_eq!(of(3, COPIED | 0x5_0000).unwrap(), Cluster::Data { offset: 0x5_0000 });
        assert!(of(2, 1).is_err(), "version 2 has no zero clusters");
        for bad in [2, 1 << 56, 0x5_0200, COPIED | COMPRESSED | 0x5_0000] {
            assert!(of(3, bad).is_err(), "{bad:#x}");
        }
        let packed = of(3, COMPRESSED | 2 << 54 | 0x5_0010).unwrap();
        assert_eq!(packed, Cluster::Compressed { offset: 0x5_0010, bytes: 3 * 512 - 16 });
    }

    #[test]
    fn subclusters_are_read() {
        let of = |entry, zero: u32, present: u32| {
            let bitmap = u64::from(zero) << 32 | u64::from(present);
            l2(&header(16, 3, true), &table(&[entry, bitmap]), 0).map(|e| e.cluster)
        };
        assert_eq!(of(0, 0, 0).unwrap(), Cluster::Absent);
        assert_eq!(of(0, u32::MAX, 0).unwrap(), Cluster::Zero);
        assert_eq!(of(0x5_0000, 0, u32::MAX).unwrap(), Cluster::Data { offset: 0x5_0000 });
        let mixed = Cluster::Parts { offset: 0x5_0000, present: 2, zero: 1 };
        assert_eq!(of(0x5_0000, 1, 2).unwrap(), mixed);
        for (entry, zero, present) in [(0, 0, 1), (0x5_0000, 1, 1), (1, 0, 0), (COMPRESSED | 0x5_0000, 1, 0)]
        {
            assert!(of(entry, zero, present).is_err(), "{entry:#x} {zero} {present}");
        }
    }

    #[test]
    fn tables_lie_at_whole_clusters() {
        let header = header(16, 3, false);
        assert_eq!(l1(&header, 0).unwrap(), None);
        assert_eq!(l1(&header, COPIED | 0x3_0000).unwrap(), Some((0x3_0000, true)));
        for bad in [1, 0x3_0200, COMPRESSED | 0x3_0000, COPIED] {
            assert!(l1(&header, bad).is_err(), "{bad:#x}");
        }
    }
}
