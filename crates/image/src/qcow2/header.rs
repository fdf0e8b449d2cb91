//! The first cluster of a qcow2 file: what the image is, and what it asks of its reader.
//!
//! The format is described in QEMU's docs/interop/qcow2. Each number is held against the file's length and against the
//! limits here before anything is allocated by it.

use windlass_base::format_limits::VOLUME_MAX;
use windlass_base::{Error, Kind, Result};

/// Largest L1 table, in bytes: QEMU's limit.
const L1_MAX: u64 = 32 << 20;
/// Largest table of reference counts, in bytes: QEMU's limit.
const REFERENCE_TABLE_MAX: u64 = 8 << 20;
/// Longest name of a backing file, in bytes.
const BACKING_NAME_MAX: u32 = 1023;
/// Largest directory of bitmaps, in bytes.
const BITMAP_DIRECTORY_MAX: u64 = 16 << 20;
/// Bytes of an entry of the table of feature names.
const FEATURE_NAME_BYTES: usize = 48;
/// Bytes of the extension that tells of bitmaps.
const BITMAPS_BYTES: usize = 24;
/// Bytes of a header of version 2, and least of version 3.
const V2_BYTES: usize = 72;
const V3_BYTES: u32 = 104;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
/// Bits of the auto-clear features, which a writer that does not know them clears.
const BITMAPS: u64 = 1 << 0;
const RAW_DATA_FILE: u64 = 1 << 1;

mod extension {
    pub const END: u32 = 0;
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub const FEATURE_NAMES: u32 = 0x6803_f857;
    pub const BITMAPS: u32 = 0x2385_2875;
    pub const ENCRYPTION: u32 = 0x0537_be77;
}

/// Methods by which clusters are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterCompression {
    Zlib,
    Zstd,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backing {
    pub name: String,
    /// Format of the backing file, `raw` or `qcow2`, as the image says. `None`: older images don't say it.
    pub format: Option<String>,
}

/// Place of the directory of bitmaps in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bitmaps {
    pub count: u32,
    pub offset: u64,
    pub bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub version: u32,
    pub cluster_bits: u32,
    /// Bytes of the disk.
    pub size: u64,
    pub l1_offset: u64,
    pub l1_entries: u64,
    pub references_offset: u64,
    /// Bytes of the table of blocks of reference counts.
    pub references_bytes: u64,
    /// Offset of the table of snapshots. It must be aligned, although an image with snapshots is refused.
    pub snapshots_offset: u64,
    /// Power of two of the bits that a reference count has.
    pub reference_order: u32,
    /// The image was not closed: the counts may lag behind what the tables say.
    pub dirty: bool,
    pub extended_l2: bool,
    pub compression: ClusterCompression,
    pub backing: Option<Backing>,
    pub bitmaps: Option<Bitmaps>,
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, why)
}

fn unsupported(why: impl Into<String>) -> Error {
    Error::new(Kind::Unsupported, why)
}

/// A header's bytes, from which numbers are read, most significant byte first.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let found = self.0.get(at..).and_then(|rest| rest.first_chunk());
        found.copied().ok_or_else(|| invalid("the file ends within its header"))
    }
    fn u32(&self, at: usize) -> Result<u32> {
        self.bytes(at).map(u32::from_be_bytes)
    }
    fn u64(&self, at: usize) -> Result<u64> {
        self.bytes(at).map(u64::from_be_bytes)
    }
}

/// Returns the bytes of a cluster, from the first bytes of a file. So many are to be read for
/// `Header::parse`.
pub fn cluster_bytes(head: &[u8]) -> Result<u64> {
    cluster_bits(&Fields(head)).map(|bits| 1 << bits)
}

fn cluster_bits(fields: &Fields<'_>) -> Result<u32> {
    match fields.u32(20)? {
        bits @ 9..=21 => Ok(bits),
        bits => Err(invalid(format!("clusters of 2^{bits} bytes are none: 512 bytes to 2 MiB are"))),
    }
}

impl Header {
    /// Parses the first cluster of a file, or all of a file that is shorter.
    pub fn parse(cluster: &[u8], file_bytes: u64) -> Result<Header> {
        let fields = Fields(cluster);
        if fields.bytes::<4>(0)? != *b"QFI\xfb" {
            return Err(invalid("it is no qcow2 image"));
        }
        let version = fields.u32(4)?;
        if !(2..=3).contains(&version) {
            return Err(unsupported(format!("it is a qcow image of version {version}; 2 and 3 are read")));
        }
        let cluster_bits = cluster_bits(&fields)?;
        let mut header = Header {
            version,
            cluster_bits,
            size: fields.u64(24)?,
            l1_offset: fields.u64(40)?,
            l1_entries: u64::from(fields.u32(36)?),
            references_offset: fields.u64(48)?,
            references_bytes: u64::from(fields.u32(56)?) << cluster_bits,
            snapshots_offset: fields.u64(64)?,
            reference_order: 4,
            dirty: false,
            extended_l2: false,
            compression: ClusterCompression::Zlib,
            backing: None,
            bitmaps: None,
        };
        refuse_by_name(&fields)?;
        let (len, incompatible, autoclear) = header.take_v3(&fields)?;
        header.take_extensions(&fields, len, incompatible, autoclear)?;
        header.check(file_bytes)?;
        Ok(header)
    }

    /// Reads the fields that version 3 added. Returns the bytes of the header, the features that a reader
    /// must know, and the features that a writer clears.
    fn take_v3(&mut self, fields: &Fields<'_>) -> Result<(usize, u64, u64)> {
        if self.version == 2 {
            return Ok((V2_BYTES, 0, 0));
        }
        let (incompatible, autoclear) = (fields.u64(72)?, fields.u64(88)?);
        self.reference_order = fields.u32(96)?;
        let len = fields.u32(100)?;
        if len < V3_BYTES || u64::from(len) > 1 << self.cluster_bits || !len.is_multiple_of(8) {
            return Err(invalid(format!("a header of {len} bytes is none")));
        }
        if self.reference_order > 6 {
            return Err(invalid("its reference counts have more than 64 bits"));
        }
        self.dirty = incompatible & DIRTY != 0;
        self.extended_l2 = incompatible & EXTENDED_L2 != 0;
        let kind = if len > V3_BYTES { fields.bytes::<1>(V3_BYTES as usize)?[0] } else { 0 };
        self.compression = match (incompatible & COMPRESSION != 0, kind) {
            (false, 0) => ClusterCompression::Zlib,
            (true, 1) => ClusterCompression::Zstd,
            (true, 2..) => return Err(unsupported(format!("its clusters are compressed by method {kind}"))),
            _ => return Err(invalid("its header contradicts itself about how clusters are compressed")),
        };
        Ok((len as usize, incompatible, autoclear))
    }

    fn take_extensions(
        &mut self,
        fields: &Fields<'_>,
        mut at: usize,
        incompatible: u64,
        autoclear: u64,
    ) -> Result<()> {
        let cluster = 1usize << self.cluster_bits;
        let (name_at, name_len) = (fields.u64(8)?, fields.u32(16)?);
        if name_at > cluster as u64 {
            return Err(invalid("the name of its backing file lies outside of its header"));
        }
        let end = if name_at == 0 { cluster } else { name_at as usize };
        let (mut names, mut format, mut bitmaps) = (&[][..], None, None);
        while at < end {
            // The file ends here: nothing follows.
            let (Ok(kind), Ok(len)) = (fields.u32(at), fields.u32(at + 4)) else { break };
            at += 8;
            let len = len as usize;
            let too_long = || invalid("an extension of its header is too long");
            // Of the one that ends them, too.
            end.checked_sub(at).filter(|room| len <= *room).ok_or_else(too_long)?;
            if kind == extension::END {
                break;
            }
            let data = fields.0.get(at..at + len).ok_or_else(too_long)?;
            match kind {
                extension::BACKING_FORMAT => format = Some(text(data)?),
                extension::FEATURE_NAMES => names = data,
                extension::BITMAPS => bitmaps = Some(parse_bitmaps(data)?),
                extension::ENCRYPTION => return Err(encrypted()),
                _ => {}
            }
            at += len.next_multiple_of(8);
        }
        check_features(incompatible, names)?;
        // The data file itself is refused before.
        if autoclear & RAW_DATA_FILE != 0 {
            return Err(invalid("its header speaks of a data file that it does not have"));
        }
        if autoclear & BITMAPS != 0 {
            self.bitmaps = Some(bitmaps.ok_or_else(|| invalid("its header lacks the bitmaps that it has"))?);
        }
        if name_at != 0 && name_len != 0 {
            self.backing = Some(Backing { name: backing_name(fields, name_at, name_len, cluster)?, format });
        }
        Ok(())
    }

    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the bytes of an entry of an L2 table.
    pub fn l2_entry(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    pub fn l2_entries(&self) -> u64 {
        self.cluster() / self.l2_entry()
    }

    /// Returns the bytes of the disk that an L2 table covers.
    pub fn l2_span(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    fn check(&self, file_bytes: u64) -> Result<()> {
        let cluster = self.cluster();
        if self.size > VOLUME_MAX {
            return Err(unsupported(format!("a disk of {} bytes is larger than a volume can be", self.size)));
        }
        if self.extended_l2 && self.cluster_bits < 14 {
            return Err(invalid("clusters with subclusters have 16 KiB at least"));
        }
        if self.l1_entries * 8 > L1_MAX || self.references_bytes > REFERENCE_TABLE_MAX {
            return Err(invalid("its tables are larger than any image needs"));
        }
        if self.l1_entries < self.size.div_ceil(self.l2_span()) {
            return Err(invalid("its L1 table does not cover the disk"));
        }
        if self.references_bytes == 0 {
            return Err(invalid("it has no table of reference counts"));
        }
        // Also of none: whoever checks an image looks at where they would lie.
        if !self.snapshots_offset.is_multiple_of(cluster) || self.snapshots_offset > i64::MAX as u64 {
            return Err(invalid("its table of snapshots lies at no whole cluster"));
        }
        let mut tables = vec![
            ("L1 table", self.l1_offset, self.l1_entries * 8),
            ("table of reference counts", self.references_offset, self.references_bytes),
        ];
        if let Some(bitmaps) = self.bitmaps {
            if bitmaps.bytes > BITMAP_DIRECTORY_MAX || bitmaps.bytes == 0 || bitmaps.count == 0 {
                return Err(invalid("its directory of bitmaps is of no use"));
            }
            tables.push(("directory of bitmaps", bitmaps.offset, bitmaps.bytes));
        }
        let end = file_bytes.next_multiple_of(cluster);
        for (name, offset, bytes) in tables {
            let inside = offset.checked_add(bytes).is_some_and(|last| last <= end);
            if !inside || !offset.is_multiple_of(cluster) {
                return Err(invalid(format!("its {name} does not lie at whole clusters in the file")));
            }
        }
        Ok(())
    }
}

fn encrypted() -> Error {
    unsupported("it is encrypted: decrypt it first (`qemu-img convert`), windlass has no key of it")
}

fn refuse_by_name(fields: &Fields<'_>) -> Result<()> {
    if fields.u32(32)? != 0 {
        return Err(encrypted());
    }
    match fields.u32(60)? {
        0 => Ok(()),
        n => Err(unsupported(format!(
            "it has {n} internal snapshots: take the one that is wanted out of it (`qemu-img convert -l NAME`), or delete them \
             (`qemu-img snapshot -d NAME`)"
        ))),
    }
}

fn check_features(incompatible: u64, names: &[u8]) -> Result<()> {
    if incompatible & CORRUPT != 0 {
        return Err(invalid("it is marked as corrupt: `qemu-img check -r all` may mend it"));
    }
    if incompatible & DATA_FILE != 0 {
        let why =
            "its data are in a file of their own (data_file): make it one file first (`qemu-img convert`)";
        return Err(unsupported(why));
    }
    let unknown = incompatible & !KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let bit = unknown.trailing_zeros();
    let name = names.chunks_exact(FEATURE_NAME_BYTES).find(|entry| entry[..2] == [0, bit as u8]);
    let name = name.map(|entry| String::from_utf8_lossy(&entry[2..]).trim_end_matches('\0').to_owned());
    let name = name.filter(|name| !name.is_empty() && !name.chars().any(char::is_control));
    let name = name.unwrap_or_else(|| format!("number {bit}"));
    Err(unsupported(format!("it uses a feature that is not known here: {name}")))
}

fn text(data: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(data).ok().filter(|text| !text.chars().any(char::is_control));
    text.map(str::to_owned).ok_or_else(|| invalid("what its header names is no text"))
}

fn backing_name(fields: &Fields<'_>, at: u64, len: u32, cluster: usize) -> Result<String> {
    let room = cluster as u64 - at;
    let name = fields.0.get(at as usize..).and_then(|rest| rest.get(..len as usize));
    match name.filter(|_| len <= BACKING_NAME_MAX && u64::from(len) <= room) {
        Some(name) => text(name),
        None => Err(invalid("the name of its backing file is too long")),
    }
}

fn parse_bitmaps(data: &[u8]) -> Result<Bitmaps> {
    let fields = Fields(data);
    if data.len() != BITMAPS_BYTES {
        return Err(invalid("the bitmaps of its header are of another length than they have"));
    }
    Ok(Bitmaps { count: fields.u32(0)?, bytes: fields.u64(8)?, offset: fields.u64(16)? })
}
