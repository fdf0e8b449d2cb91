//! Writes qcow2 images: version 3, clusters of 64 KiB, refcounts of 16 bits.
//!
//! Nothing is read or written here: the writer is told what guest clusters hold, in order, and hands out bytes with their
//! places in the file. Host clusters are taken one after another, in the order
//!
//! ```text
//! header | first refcount block | data, each L2 table after its data | L1 table | refcount table
//! ```
//!
//! and every 32,768th host cluster, counted from the file's start, is the refcount block of those that follow. So all of
//! a file's offsets follow from its map. A writer of files learns the map as it goes on and writes header and refcount
//! blocks last; one that is told the `Totals` of an earlier pass over the same map writes them where they stand, and
//! never goes back. The latter can't compress, for the map does not tell compressed lengths.
//!
//! Invariants: a cluster's refcount is the number of entries that name it; only entries of refcount 1 are marked as
//! copied; no cluster is allocated without a use.

use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::{Compress, FlushCompress, Status};
use serde::{Deserialize, Serialize};

use super::diff_lineage::Between;
use windlass_base::{Error, Kind, Result};

pub const CLUSTER: u64 = 64 << 10;
const MAGIC: &[u8; 4] = b"QFI\xfb";
const HEADER_LEN: u32 = 112;
/// Bit of the incompatible feature that the header names the method by which clusters are compressed.
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// Our own extension, which tells the states between which an increment lies (`Lineage`, as JSON). Other
/// programs ignore extensions that they don't know.
const EXTENSION_LINEAGE: u32 = 0x574c_6c6e;
/// Longest name of a backing file, as the format limits it.
const BACKING_NAME_MAX: usize = 1023;
/// Refcounts of one block.
const COUNTS: u64 = CLUSTER / 2;
/// Entries of one L2 table.
const ENTRIES: u64 = CLUSTER / 8;
const COPIED: u64 = 1 << 63;
const PACKED: u64 = 1 << 62;
/// Lowest bit of the number of sectors in the entry of a compressed cluster.
const SECTORS_SHIFT: u32 = 62 - (16 - 8);
const SECTOR: u64 = 512;
/// The entry of a cluster that reads as zeros whatever lies beneath.
const ZERO: u64 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    Zlib,
    Zstd,
}

impl Compression {
    /// Compresses a cluster. `None`: the result takes as much as the cluster itself.
    pub fn pack(self, cluster: &[u8]) -> Option<Bytes> {
        match self {
            Compression::Zlib => {
                // Readers of qcow2 look back 4 KiB, and expect no header.
                let mut deflate = Compress::new_with_window_bits(flate2::Compression::default(), false, 12);
                let mut out = Vec::with_capacity(cluster.len() - SECTOR as usize);
                let status = deflate.compress_vec(cluster, &mut out, FlushCompress::Finish);
                matches!(status, Ok(Status::StreamEnd)).then(|| out.into())
            }
            Compression::Zstd => {
                let out = zstd::bulk::compress(cluster, zstd::DEFAULT_COMPRESSION_LEVEL).ok()?;
                (out.len() + SECTOR as usize <= cluster.len()).then(|| out.into())
            }
        }
    }
}

/// The image that lies beneath an overlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backing {
    pub file: String,
    /// Format of the file: `raw` or `qcow2`.
    pub format: &'static str,
}

/// The snapshots between which an increment lies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lineage {
    pub since: String,
    /// None: the increment ends with what the volume held, of which no snapshot is known.
    #[serde(default)]
    pub to: Option<String>,
    /// The ids of the same snapshots.
    #[serde(flatten)]
    pub between: Between,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    pub size: u64,
    pub compression: Option<Compression>,
    pub backing: Option<Backing>,
    pub lineage: Option<Lineage>,
}

/// The layout of a whole file, as a first pass over the map finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Totals {
    /// Number of host clusters of the file.
    pub clusters: u64,
    l1: u64,
    refcount_table: u64,
    /// Clusters without a use: a table that must lie in one piece begins after a refcount block.
    gaps: Vec<Range<u64>>,
}

#[derive(Debug)]
pub struct Writer {
    shape: Shape,
    /// The layout that an earlier pass found. `None`: the writer goes back to header and refcounts at the
    /// end.
    known: Option<Totals>,
    next: u64,
    /// Refcounts of the range of clusters that is being filled.
    counts: Vec<u16>,
    /// Place in the file where the last compressed cluster ends, inside a host cluster that has room for
    /// more.
    tail: Option<u64>,
    l1: Vec<u64>,
    /// The number of the L2 table that is being filled, and its entries.
    l2: Option<(u64, Vec<u64>)>,
    gaps: Vec<Range<u64>>,
    out: Vec<(u64, Bytes)>,
}

fn round_up(len: u64) -> u64 {
    len.div_ceil(CLUSTER) * CLUSTER
}

fn table(entries: &[u64]) -> Bytes {
    let mut out = BytesMut::with_capacity(round_up(entries.len() as u64 * 8) as usize);
    entries.iter().for_each(|entry| out.put_u64(*entry));
    padded(out)
}

/// Fills the bytes up to whole clusters.
fn padded(mut bytes: BytesMut) -> Bytes {
    bytes.resize(round_up(bytes.len() as u64) as usize, 0);
    bytes.freeze()
}

impl Writer {
    /// Makes a writer that goes back at the end, to the header and the refcounts.
    ///
    /// # Errors
    /// `Usage`: the name of the backing file is too long.
    pub fn new(shape: Shape) -> Result<Writer> {
        if shape.backing.as_ref().is_some_and(|b| b.file.is_empty() || b.file.len() > BACKING_NAME_MAX) {
            let why = format!("the name of the backing file has 1 to {BACKING_NAME_MAX} bytes");
            return Err(Error::new(Kind::Usage, why));
        }
        let l1_len = shape.size.div_ceil(CLUSTER * ENTRIES);
        let mut counts = vec![0; COUNTS as usize];
        counts[..2].fill(1);
        Ok(Writer {
            shape,
            known: None,
            next: 2,
            counts,
            tail: None,
            l1: vec![0; l1_len as usize],
            l2: None,
            gaps: Vec::new(),
            out: Vec::new(),
        })
    }

    /// Makes a writer whose bytes come in order of their places. It must be told the same map as the pass
    /// that gave `totals`.
    ///
    /// # Errors
    /// As `new`; `Usage` if the shape is compressed.
    pub fn laid_out(shape: Shape, totals: Totals) -> Result<Writer> {
        if shape.compression.is_some() {
            return Err(Error::new(Kind::Usage, "a compressed qcow2 can't be laid out before it is written"));
        }
        let mut writer = Writer::new(shape)?;
        writer.out.push((0, writer.header(&totals)));
        writer.out.push((CLUSTER, known_counts(0, &totals)));
        writer.known = Some(totals);
        Ok(writer)
    }

    /// Takes the bytes that are to be written by now, with their places in the file.
    pub fn take(&mut self) -> Vec<(u64, Bytes)> {
        std::mem::take(&mut self.out)
    }

    /// Takes the bytes of the guest's clusters from `guest` on: whole clusters, but for the end of the image.
    pub fn data(&mut self, guest: u64, bytes: Bytes) {
        let places = self.count(guest, bytes.len() as u64);
        let mut at = 0;
        for (host, clusters) in places {
            let end = (at + clusters * CLUSTER).min(bytes.len() as u64);
            let here = bytes.slice(at as usize..end as usize);
            let whole = here.len() as u64 == clusters * CLUSTER;
            self.out.push((host, if whole { here } else { padded(BytesMut::from(&here[..])) }));
            at = end;
        }
    }

    /// Allocates the room that `data` of so many bytes takes. Returns places, and how many clusters lie there
    /// side by side.
    pub fn count(&mut self, guest: u64, len: u64) -> Vec<(u64, u64)> {
        let mut places: Vec<(u64, u64)> = Vec::new();
        for cluster in guest / CLUSTER..(guest + len).div_ceil(CLUSTER) {
            self.enter(cluster);
            let host = self.allocate() * CLUSTER;
            self.set(cluster, host | COPIED);
            match places.last_mut() {
                Some((start, n)) if *start + *n * CLUSTER == host => *n += 1,
                _ => places.push((host, 1)),
            }
        }
        places
    }

    /// Takes the compressed bytes of the guest's cluster at `guest`.
    pub fn packed(&mut self, guest: u64, bytes: Bytes) {
        let cluster = guest / CLUSTER;
        self.enter(cluster);
        let len = bytes.len() as u64;
        let at = self.room(len);
        self.tail = Some(at + len).filter(|end| !end.is_multiple_of(CLUSTER));
        let sectors = (at + len - 1) / SECTOR - at / SECTOR;
        self.set(cluster, PACKED | sectors << SECTORS_SHIFT | at);
        self.out.push((at, bytes));
    }

    /// Marks whole clusters as zeros. Without a backing file those that nothing is said of read as zeros too.
    pub fn zeros(&mut self, guest: u64, len: u64) {
        if self.shape.backing.is_none() {
            return;
        }
        for cluster in guest / CLUSTER..(guest + len).div_ceil(CLUSTER) {
            self.enter(cluster);
            self.set(cluster, ZERO);
        }
    }

    /// Ends the image: everything was said. What is still to be written is to be taken once more.
    ///
    /// # Errors
    /// `Refused`: the writer was told another map than the first pass.
    pub fn finish(&mut self) -> Result<Totals> {
        self.leave();
        let l1 = self.contiguous(self.l1.len() as u64 * 8);
        self.out.push((l1, table(&self.l1)));
        let refcount_table = self.refcount_table();
        let totals = Totals { clusters: self.next, l1, refcount_table, gaps: std::mem::take(&mut self.gaps) };
        match &self.known {
            None => {
                self.end_range();
                self.out.push((0, self.header(&totals)));
            }
            Some(known) if *known != totals => {
                let why = "the volume's map changed while it was exported: export a snapshot of it";
                return Err(Error::new(Kind::Refused, why));
            }
            Some(_) => {}
        }
        Ok(totals)
    }

    /// Writes the table of refcount blocks, which counts itself too. Returns its place.
    fn refcount_table(&mut self) -> u64 {
        // Taking clusters for the table may begin one more range.
        let mut blocks = self.next.div_ceil(COUNTS);
        let place = loop {
            let mut trial = self.next;
            let clusters = (blocks * 8).div_ceil(CLUSTER);
            if crosses(trial, clusters) {
                trial = trial.next_multiple_of(COUNTS);
            }
            trial += u64::from(trial.is_multiple_of(COUNTS)) + clusters;
            if trial.div_ceil(COUNTS) == blocks {
                break self.contiguous(blocks * 8);
            }
            blocks = trial.div_ceil(COUNTS);
        };
        let places: Vec<u64> = (0..blocks).map(|range| block_of(range) * CLUSTER).collect();
        self.out.push((place, table(&places)));
        place
    }

    fn enter(&mut self, cluster: u64) {
        if self.l2.as_ref().is_none_or(|(index, _)| *index != cluster / ENTRIES) {
            self.leave();
            self.l2 = Some((cluster / ENTRIES, vec![0; ENTRIES as usize]));
        }
    }

    /// Places the table that was filled behind its data.
    fn leave(&mut self) {
        let Some((index, entries)) = self.l2.take() else { return };
        let host = self.allocate() * CLUSTER;
        self.l1[index as usize] = host | COPIED;
        self.out.push((host, table(&entries)));
        self.tail = None;
    }

    fn set(&mut self, cluster: u64, entry: u64) {
        if let Some((_, entries)) = &mut self.l2 {
            entries[(cluster % ENTRIES) as usize] = entry;
        }
    }

    fn allocate(&mut self) -> u64 {
        if self.next.is_multiple_of(COUNTS) {
            self.begin_range();
        }
        let cluster = self.next;
        self.next += 1;
        self.counts[(cluster % COUNTS) as usize] = 1;
        cluster
    }

    /// Allocates room for so many bytes of tables, in clusters side by side. Returns its place in the file.
    fn contiguous(&mut self, len: u64) -> u64 {
        let clusters = len.div_ceil(CLUSTER).max(1);
        if crosses(self.next, clusters) {
            let end = self.next.next_multiple_of(COUNTS);
            self.gaps.push(self.next..end);
            self.next = end;
        }
        let first = self.allocate();
        for _ in 1..clusters {
            self.allocate();
        }
        first * CLUSTER
    }

    /// Begins a range of clusters: its first one is its refcount block.
    fn begin_range(&mut self) {
        self.tail = None;
        match &self.known {
            Some(totals) => {
                let range = self.next / COUNTS;
                self.out.push((block_of(range) * CLUSTER, known_counts(range, totals)));
            }
            None => self.end_range(),
        }
        self.counts.fill(0);
        self.counts[0] = 1;
        self.next += 1;
    }

    /// Writes the refcounts of the range that the last allocated cluster lies in.
    fn end_range(&mut self) {
        let range = (self.next - 1) / COUNTS;
        let mut out = BytesMut::with_capacity(CLUSTER as usize);
        self.counts.iter().for_each(|count| out.put_u16(*count));
        self.out.push((block_of(range) * CLUSTER, out.freeze()));
    }

    /// Finds a place for a compressed cluster: in the rest of the host cluster before, in this one and the
    /// next, or in a new one.
    fn room(&mut self, len: u64) -> u64 {
        if let Some(at) = self.tail {
            let end = round_up(at);
            let fits = at + len <= end;
            if fits || (end / CLUSTER == self.next && !self.next.is_multiple_of(COUNTS)) {
                self.counts[(at / CLUSTER % COUNTS) as usize] += 1;
                if !fits {
                    self.allocate();
                }
                return at;
            }
        }
        self.allocate() * CLUSTER
    }

    fn header(&self, totals: &Totals) -> Bytes {
        let shape = &self.shape;
        let extensions = extensions(shape);
        let (backing, backing_at) = match &shape.backing {
            Some(backing) => (backing.file.as_bytes(), u64::from(HEADER_LEN) + extensions.len() as u64),
            None => (&b""[..], 0),
        };
        let zstd = shape.compression == Some(Compression::Zstd);
        let table_clusters = (totals.clusters.div_ceil(COUNTS) * 8).div_ceil(CLUSTER);
        let mut out = BytesMut::with_capacity(CLUSTER as usize);
        out.put_slice(MAGIC);
        out.put_u32(3);
        out.put_u64(backing_at);
        out.put_u32(backing.len() as u32);
        out.put_u32(CLUSTER.trailing_zeros());
        out.put_u64(shape.size);
        out.put_u32(0); // not encrypted
        out.put_u32(self.l1.len() as u32);
        out.put_u64(totals.l1);
        out.put_u64(totals.refcount_table);
        out.put_u32(table_clusters as u32);
        out.put_bytes(0, 12); // no internal snapshots
        out.put_u64(if zstd { COMPRESSION_TYPE } else { 0 });
        out.put_bytes(0, 16); // no compatible and autoclear features
        out.put_u32(4); // refcounts of 2^4 bits
        out.put_u32(HEADER_LEN);
        out.put_u8(u8::from(zstd));
        out.put_bytes(0, 7);
        out.put_slice(&extensions);
        out.put_slice(backing);
        padded(out)
    }
}

/// Tells whether so many clusters side by side would hold a refcount block.
fn crosses(first: u64, clusters: u64) -> bool {
    !first.is_multiple_of(COUNTS) && first / COUNTS != (first + clusters - 1) / COUNTS
}

/// Returns the cluster of a range's refcount block.
fn block_of(range: u64) -> u64 {
    if range == 0 { 1 } else { range * COUNTS }
}

/// Makes a refcount block of a file without compressed clusters.
fn known_counts(range: u64, totals: &Totals) -> Bytes {
    let used = |c: u64| c < totals.clusters && !totals.gaps.iter().any(|gap| gap.contains(&c));
    let mut out = BytesMut::with_capacity(CLUSTER as usize);
    (range * COUNTS..(range + 1) * COUNTS).for_each(|cluster| out.put_u16(u16::from(used(cluster))));
    out.freeze()
}

fn extensions(shape: &Shape) -> BytesMut {
    let mut out = BytesMut::new();
    let mut put = |kind: u32, data: &[u8]| {
        out.put_u32(kind);
        out.put_u32(data.len() as u32);
        out.put_slice(data);
        out.resize(out.len().next_multiple_of(8), 0);
    };
    if let Some(backing) = &shape.backing {
        put(EXTENSION_BACKING_FORMAT, backing.format.as_bytes());
    }
    if let Some(lineage) = shape.lineage.as_ref().and_then(|lineage| serde_json::to_vec(lineage).ok()) {
        put(EXTENSION_LINEAGE, &lineage);
    }
    put(EXTENSION_END, &[]);
    out
}

/// Reads the lineage, if there is one, out of the beginning of a qcow2 file: its first cluster, or what there
/// is of it.
pub fn lineage(beginning: &[u8]) -> Option<Lineage> {
    let u32_at = |at: usize| Some(u32::from_be_bytes(beginning.get(at..at + 4)?.try_into().ok()?));
    if !beginning.starts_with(MAGIC) {
        return None;
    }
    let mut at = u32_at(100)? as usize;
    loop {
        let (kind, len) = (u32_at(at)?, u32_at(at + 4)? as usize);
        let data = beginning.get(at + 8..(at + 8).checked_add(len)?)?;
        match kind {
            EXTENSION_END => return None,
            EXTENSION_LINEAGE => return serde_json::from_slice(data).ok(),
            _ => at += 8 + len.next_multiple_of(8),
        }
    }
}

#[cfg(test)]
#[path = "qcow2_writer_tests.rs"]
mod tests;
