//! Whether an image's tables agree with each other: each cluster of the file is referred to as often as its count says.
//!
//! What `qemu-img check` calls corruption is refused: a reference that leads out of the file or between clusters, a cluster
//! that two things hold and one believes to be its own, reserved bits. Clusters that nobody refers to are no harm. An image
//! that was not closed (the dirty bit, lazy counts) has old counts: they are not looked at, and then nothing may be held twice.
//!
//! The references of a window of the file are counted at a time, so that memory has a bound: the tables are walked once a
//! window, and nearly every file is one window.

use super::header::Header;
use super::image_extents::Image;
use super::table::{Cluster, entry, l1, l2};
use crate::read_at::read_padded;
use windlass_base::{Error, Kind, Result};

/// Most clusters of a window, which takes 64 MiB of memory.
const WINDOW: u64 = 16 << 20;
/// Most windows: with clusters of 64 KiB these are 64 TiB.
const WINDOWS_MAX: u64 = 64;
/// Bytes that are read at once of a table that is read in parts.
const PART: u64 = 1 << 20;
/// Bits of an entry that hold the offset of a cluster, in all tables; the others are flags or reserved.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const REFERENCE_BLOCK_RESERVED: u64 = 0x1ff;
const BITMAP_RESERVED: u64 = 0xff00_0000_0000_01fe;
/// Bytes of an entry of the directory of bitmaps, without its name.
const BITMAP_ENTRY: usize = 24;

/// Flags in a cluster's cell, beside the number of references to it: an entry says that others share the
/// cluster, or that it owns it alone.
const SHARED: u32 = 1 << 31;
const OWNED: u32 = 1 << 30;
/// Flag of a cell: one reference at least is no compressed cluster. Only compressed ones may lie several in
/// one cluster.
const WHOLE: u32 = 1 << 29;
const COUNT: u32 = WHOLE - 1;

fn invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, why)
}

fn behind(offset: u64) -> Error {
    invalid(format!("it refers to {offset:#x}, behind the end of the file"))
}

/// Kinds of references to a cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// A reference to a part of the cluster, which is compressed.
    Compressed,
    /// A table that has no "copied" bit for the cluster.
    Metadata,
    /// An entry with the "copied" bit, which says that nobody else refers to the cluster, or without it.
    Entry { copied: bool },
}

struct Window {
    /// Number of the window's first cluster.
    first: u64,
    cells: Vec<u32>,
    cluster_bits: u32,
    /// Number of the file's clusters; the last one may be cut off.
    clusters: u64,
    file_bytes: u64,
}

impl Window {
    fn add(&mut self, offset: u64, bytes: u64, by: By) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let last = offset.checked_add(bytes - 1).map(|last| last >> self.cluster_bits);
        let last = last.filter(|last| *last < self.clusters);
        let last =
            last.ok_or_else(|| invalid(format!("it refers to {offset:#x}, behind the end of the file")))?;
        let (first, end) = (self.first, self.first + self.cells.len() as u64);
        for cluster in (offset >> self.cluster_bits).max(first)..(last + 1).min(end) {
            let cell = &mut self.cells[(cluster - first) as usize];
            let count = ((*cell & COUNT) + 1).min(COUNT);
            *cell = *cell & !COUNT | count;
            *cell |= match by {
                By::Compressed => 0,
                By::Metadata => WHOLE,
                By::Entry { copied: true } => WHOLE | OWNED,
                By::Entry { copied: false } => WHOLE | SHARED,
            };
        }
        Ok(())
    }

    /// Compares the references that were counted with the count in the file. `None`: the file's counts are
    /// old, and then no whole cluster may be held twice.
    fn compare(&self, cluster: u64, stored: Option<u64>) -> Result<()> {
        let cell = self.cells[(cluster - self.first) as usize];
        let (counted, at) = (u64::from(cell & COUNT), cluster << self.cluster_bits);
        let Some(stored) = stored else {
            return match counted > 1 && cell & WHOLE != 0 {
                true => Err(invalid(format!("the cluster at {at:#x} is held {counted} times"))),
                false => Ok(()),
            };
        };
        if stored < counted {
            let why = format!("the cluster at {at:#x} is held {counted} times, and counted {stored} times");
            return Err(invalid(why));
        }
        if cell & OWNED != 0 && stored != 1 || cell & SHARED != 0 && stored == 1 {
            let why = format!("the cluster at {at:#x} is counted {stored} times, which its entry denies");
            return Err(invalid(why));
        }
        Ok(())
    }
}

/// Checks that each cluster is referred to as its count says, see the module.
///
/// # Errors
/// `Invalid`: the image contradicts itself. `Unsupported`: it has too many clusters.
pub async fn check(image: &Image) -> Result<()> {
    let header = &image.header;
    let file_bytes = image.file.size();
    let clusters = file_bytes.div_ceil(header.cluster());
    check_work(image, clusters)?;
    let windows = clusters.div_ceil(WINDOW);
    if windows > WINDOWS_MAX {
        let why =
            format!("a file of {clusters} clusters is too large: give it larger ones (`qemu-img convert`)");
        return Err(Error::new(Kind::Unsupported, why));
    }
    for window in 0..windows {
        let first = window * WINDOW;
        let cells = vec![0; (clusters - first).min(WINDOW) as usize];
        let mut window = Window { first, cells, cluster_bits: header.cluster_bits, clusters, file_bytes };
        let blocks = count(image, &mut window).await?;
        compare(image, &window, &blocks).await?;
    }
    Ok(())
}

/// Bounds the work: tables that lie in the file several times over would be walked as often.
fn check_work(image: &Image, clusters: u64) -> Result<()> {
    let tables = (0..image.header.l1_entries).filter(|index| entry(image.l1(), *index) != 0).count() as u64;
    match tables > clusters {
        true => Err(invalid(format!("it has {tables} L2 tables, in a file of {clusters} clusters"))),
        false => Ok(()),
    }
}

/// Counts all references. Returns the table of blocks of counts.
async fn count(image: &Image, window: &mut Window) -> Result<Vec<u64>> {
    let header = &image.header;
    window.add(0, header.cluster(), By::Metadata)?;
    window.add(header.l1_offset, header.l1_entries * 8, By::Metadata)?;
    for index in 0..header.l1_entries {
        let Some((offset, copied)) = l1(header, entry(image.l1(), index))? else { continue };
        window.add(offset, header.cluster(), By::Entry { copied })?;
        count_l2(header, &image.table(offset).await?, window)?;
    }
    window.add(header.references_offset, header.references_bytes, By::Metadata)?;
    count_bitmaps(image, window).await?;
    count_blocks(image, window).await
}

fn count_l2(header: &Header, table: &[u8], window: &mut Window) -> Result<()> {
    for index in 0..header.l2_entries() {
        let found = l2(header, table, index)?;
        if let Cluster::Compressed { offset, bytes } = found.cluster {
            // The last sectors may be cut off by the end of the file, but not a whole cluster of them.
            let end = window.clusters << window.cluster_bits;
            let inside = bytes.min(end.saturating_sub(offset).max(1));
            if offset + bytes >= window.file_bytes + header.cluster() {
                return Err(behind(offset));
            }
            window.add(offset, inside, By::Compressed)?;
        }
        if let Some(offset) = found.holds {
            window.add(offset, header.cluster(), By::Entry { copied: found.copied })?;
        }
    }
    Ok(())
}

async fn count_blocks(image: &Image, window: &mut Window) -> Result<Vec<u64>> {
    let header = &image.header;
    let (offset, bytes) = (header.references_offset, header.references_bytes);
    let table = read_padded(&*image.file, offset, bytes, header.cluster()).await?;
    let mut blocks = Vec::with_capacity(table.len() / 8);
    for index in 0..bytes / 8 {
        let block = entry(&table, index);
        if block & REFERENCE_BLOCK_RESERVED != 0 || !block.is_multiple_of(header.cluster()) {
            return Err(invalid(format!(
                "a block of reference counts at {block:#x} lies at no whole cluster"
            )));
        }
        if block != 0 {
            window.add(block, header.cluster(), By::Metadata)?;
        }
        blocks.push(block);
    }
    for block in blocks.iter().filter(|block| **block != 0) {
        let cluster = block >> header.cluster_bits;
        let cell = cluster.checked_sub(window.first).and_then(|at| window.cells.get(at as usize));
        if cell.is_some_and(|cell| cell & COUNT != 1) {
            return Err(invalid(format!("the block of reference counts at {block:#x} is held twice")));
        }
    }
    Ok(blocks)
}

async fn compare(image: &Image, window: &Window, blocks: &[u64]) -> Result<()> {
    let header = &image.header;
    let counts = (header.cluster() * 8) >> header.reference_order;
    let (mut cluster, end) = (window.first, window.first + window.cells.len() as u64);
    while cluster < end {
        let index = (cluster / counts) as usize;
        let block = match blocks.get(index) {
            Some(0) | None => None,
            Some(_) if header.dirty => None,
            Some(offset) => Some(image.table(*offset).await?),
        };
        let last = ((index as u64 + 1) * counts).min(end);
        while cluster < last {
            let stored = block.as_ref().map_or(0, |block| stored_count(header, block, cluster % counts));
            window.compare(cluster, (!header.dirty).then_some(stored))?;
            cluster += 1;
        }
    }
    Ok(())
}

fn stored_count(header: &Header, block: &[u8], index: u64) -> u64 {
    let bits = 1u64 << header.reference_order;
    let at = (index * bits / 8) as usize;
    if bits < 8 {
        let byte = block.get(at).copied().unwrap_or_default();
        return u64::from(byte >> (index * bits % 8)) & ((1 << bits) - 1);
    }
    let bytes = block.get(at..at + (bits / 8) as usize).unwrap_or_default();
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

async fn count_bitmaps(image: &Image, window: &mut Window) -> Result<()> {
    let header = &image.header;
    let Some(bitmaps) = header.bitmaps else { return Ok(()) };
    window.add(bitmaps.offset, bitmaps.bytes, By::Metadata)?;
    let directory = read_padded(&*image.file, bitmaps.offset, bitmaps.bytes, header.cluster()).await?;
    let bad = || invalid("its directory of bitmaps is damaged");
    let (mut rest, mut tables) = (&directory[..], 0);
    for _ in 0..bitmaps.count {
        let fixed = rest.get(..BITMAP_ENTRY).ok_or_else(bad)?;
        let table = entry(fixed, 0);
        let [entries, _flags, _kinds_and_name, extra] =
            [8, 12, 16, 20].map(|at| fixed[at..].first_chunk().map_or(0, |b| u32::from_be_bytes(*b)));
        let name = u64::from(u16::from_be_bytes([fixed[18], fixed[19]]));
        let len = (BITMAP_ENTRY as u64 + u64::from(extra) + name).next_multiple_of(8);
        rest = rest.get(len as usize..).ok_or_else(bad)?;
        tables += u64::from(entries) * 8;
        if tables > window.file_bytes {
            return Err(bad());
        }
        count_bitmap(image, window, table, u64::from(entries) * 8).await?;
    }
    if rest.is_empty() { Ok(()) } else { Err(bad()) }
}

async fn count_bitmap(image: &Image, window: &mut Window, table: u64, bytes: u64) -> Result<()> {
    let header = &image.header;
    if !table.is_multiple_of(header.cluster()) {
        return Err(invalid(format!("a table of a bitmap at {table:#x} lies at no whole cluster")));
    }
    window.add(table, bytes, By::Metadata)?;
    let mut at = 0;
    while at < bytes {
        let len = PART.min(bytes - at);
        let part = read_padded(&*image.file, table + at, len, header.cluster()).await?;
        for index in 0..len / 8 {
            let raw = entry(&part, index);
            let offset = raw & OFFSET;
            if raw & BITMAP_RESERVED != 0 || !offset.is_multiple_of(header.cluster()) {
                return Err(invalid("an entry of a table of a bitmap has reserved bits"));
            }
            if offset != 0 {
                window.add(offset, header.cluster(), By::Metadata)?;
            }
        }
        at += len;
    }
    Ok(())
}
