//! The bytes of a journal: its header file, segment heads, batches and records. See the module for the tables.

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use windlass_base::codec::{Reader, Writer};
use windlass_base::format_limits::BLOCK;
use windlass_base::ids::COUNT_MAX;
use windlass_base::log_record::{Mark, Op, Record};
use windlass_base::{Epoch, Error, JournalId, Kind, Lsn, Result, VolumeId};
use windlass_keys::{JournalKey, JournalSeal, TAG};

/// Bytes of a page: all places in a segment are multiples of it. So a batch never shares a page with one that
/// was synced before.
pub const ALIGN: u64 = 4096;
/// Bytes of the smallest segment that a journal may have. Room is counted by segments of at least this size,
/// and a smaller one was never made.
pub const SEGMENT_MIN: u64 = 8 * ALIGN;
const SEGMENT_MAX: u64 = 1 << 30;
/// Bytes before a segment's first batch.
pub const SEGMENT_HEAD: u64 = ALIGN;
pub const BATCH_HEAD: usize = 64;
pub const RECORD_HEAD: usize = 40;
/// Bytes of a record head that are sealed together with the body: first block, blocks, kind.
const FIELDS: usize = 20;
/// Records of a batch, at most.
pub const BATCH_RECORDS: usize = 4096;
/// Bytes of the header file, at most.
pub const HEADER_MAX: usize = 64 << 10;
/// Epochs that a lineage may list. Each start that fails before it is recorded adds one, so that endless such
/// starts end here.
pub const LINEAGE_MAX: usize = 4096;

const HEADER_FORMAT: u16 = 6;
const SEGMENT_FORMAT: u16 = 4;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"wlJh");
const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"wlJs");
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"wlJb");

/// The header file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub volume: VolumeId,
    pub journal: JournalId,
    pub first_lsn: Lsn,
    pub mark: Lsn,
    /// Bytes of the smallest segment.
    pub segment: u64,
    /// Identity of the file `lock`: tells this folder from its copies.
    pub place: u64,
    /// Is true if the journal belongs to an encrypted volume: its records are sealed.
    pub sealed: bool,
    pub lineage: Vec<Epoch>,
}

/// The contents of the first page of a segment in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHead {
    /// Number of this use of a segment, counted over all segments from 1 on.
    pub lap: u64,
    /// A random number that seeds the hashes: what an earlier use left in the file never verifies.
    pub salt: u64,
    /// Last lsn before this segment.
    pub before: Lsn,
    /// Offset at which the segment of the lap before ends; 0 for the first lap.
    pub before_end: u64,
    pub mark: Lsn,
    /// Bytes of the segment file.
    pub bytes: u64,
}

/// The head of a batch, which is one write: it precedes the heads of the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHead {
    pub lap: u64,
    pub salt: u64,
    pub records: u16,
    pub body: u32,
    /// The salt of the key by which the records are sealed; `None` when they are not.
    pub sealed: Option<u128>,
    /// Last lsn before this batch.
    pub before: Lsn,
    /// Last lsn known to be durable when this batch was written.
    pub synced: Lsn,
    pub mark: Lsn,
}

/// The key that opens the records of a journal, with the seal that it derived last.
#[derive(Clone, Debug, Default)]
pub struct Opener {
    key: Option<JournalKey>,
    last: Option<JournalSeal>,
}

impl Opener {
    pub fn new(key: Option<JournalKey>) -> Opener {
        Opener { key, last: None }
    }

    /// Returns the seal that opens the records of a batch whose head says `sealed`; an inner `None` when they
    /// are not sealed. `None` when the batch does not belong to this journal: one is sealed and the other is not.
    pub fn of(&mut self, sealed: Option<u128>) -> Option<Option<JournalSeal>> {
        match (&self.key, sealed) {
            (None, None) => Some(None),
            (Some(key), Some(salt)) => {
                let last = self.last.take().filter(|last| last.salt() == salt);
                self.last = Some(last.unwrap_or_else(|| key.seal(salt)));
                Some(self.last.clone())
            }
            _ => None,
        }
    }
}

/// One record without its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHead {
    pub lsn: Lsn,
    pub block: u64,
    pub blocks: u64,
    pub len: u32,
    pub kind: u8,
    /// Hash of the body as it is stored.
    pub hash: u64,
    /// Sealed `block`, `blocks` and `kind`, which are 0 in this head then, and the tag of all that is sealed.
    pub sealed: Option<[u8; FIELDS + TAG]>,
}

/// A record as it is written.
#[derive(Clone, Debug)]
pub struct Entry {
    pub head: RecordHead,
    pub body: Bytes,
}

impl Header {
    /// The mark of a void journal, which is above every lsn: the journal takes no records, and vouches for none.
    pub const VOID: Lsn = Lsn(u64::MAX);

    pub fn is_void(&self) -> bool {
        self.mark == Header::VOID
    }

    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(88 + self.lineage.len() * 8);
        let key = u16::from(self.sealed);
        w.u32(HEADER_MAGIC).u16(HEADER_FORMAT).u16(key).u128(self.volume.0).u128(self.journal.0);
        w.u64(self.first_lsn.0).u64(self.mark.0).u64(self.segment).u64(self.place);
        w.u32(self.lineage.len() as u32);
        for epoch in &self.lineage {
            w.u64(epoch.0);
        }
        let hash = xxh3_64(&w.buf);
        w.u64(hash);
        w.buf.into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Header> {
        let mut r = Reader::new(bytes, "a journal's header");
        let sum_at = bytes.len().checked_sub(8).ok_or_else(|| r.bad("it is too short"))?;
        if r.u32()? != HEADER_MAGIC {
            return Err(r.bad("it is none"));
        }
        let (format, key) = (r.u16()?, r.u16()?);
        let stored = u64::from_le_bytes(bytes[sum_at..].try_into().expect("8 bytes"));
        if xxh3_64(&bytes[..sum_at]) != stored {
            return Err(r.bad("its checksum is wrong"));
        }
        if format != HEADER_FORMAT || key > 1 {
            let why = "the journal was written by another version of windlass: use that one";
            return Err(Error::new(Kind::Unsupported, why));
        }
        let (volume, journal) = (VolumeId(r.u128()?), JournalId(r.u128()?));
        let (first_lsn, mark, segment) = (Lsn(r.u64()?), Lsn(r.u64()?), r.u64()?);
        let (place, count) = (r.u64()?, r.u32()? as usize);
        if count > LINEAGE_MAX
            || first_lsn.0 == 0
            || !first_lsn.is_counted()
            || !(SEGMENT_MIN..=SEGMENT_MAX).contains(&segment)
            || segment % ALIGN != 0
        {
            return Err(r.bad("a field is out of its range"));
        }
        let lineage = (0..count).map(|_| Ok(Epoch(r.u64()?))).collect::<Result<_>>()?;
        r.u64()?;
        r.end()?;
        Ok(Header { volume, journal, first_lsn, mark, segment, place, sealed: key == 1, lineage })
    }
}

impl SegmentHead {
    /// Writes the whole first page of a segment.
    pub fn encode(&self, journal: JournalId, w: &mut Writer) {
        let start = w.buf.len();
        w.u32(SEGMENT_MAGIC).u16(SEGMENT_FORMAT).u16(0).u128(journal.0).u64(self.lap).u64(self.salt);
        w.u64(self.before.0).u64(self.before_end).u64(self.mark.0).u64(self.bytes);
        let hash = xxh3_64(&w.buf[start..]);
        w.u64(hash);
        w.buf.resize(start + SEGMENT_HEAD as usize, 0);
    }

    /// Decodes the head of a segment; `None` when the bytes are no such head of this journal.
    pub fn decode(bytes: &[u8], journal: JournalId) -> Option<SegmentHead> {
        let mut r = Reader::new(bytes, "a segment's head");
        let start = (r.u32().ok()?, r.u16().ok()?, r.u16().ok()?, r.u128().ok()?);
        let mut word = || r.u64().ok();
        let (lap, salt, before, before_end) = (word()?, word()?, Lsn(word()?), word()?);
        let (mark, size, hash) = (Lsn(word()?), word()?, word()?);
        let ours = start == (SEGMENT_MAGIC, SEGMENT_FORMAT, 0, journal.0) && xxh3_64(&bytes[..72]) == hash;
        ours.then_some(SegmentHead { lap, salt, before, before_end, mark, bytes: size })
    }
}

impl SegmentHead {
    /// Tells whether its numbers are so small that somebody can have counted to them.
    pub fn is_counted(&self) -> bool {
        self.lap <= COUNT_MAX && self.before.is_counted()
    }
}

impl BatchHead {
    /// Returns the bytes of the heads: that of the batch and those of its records.
    pub fn heads(&self) -> usize {
        Self::heads_of(self.records.into(), self.sealed.is_some())
    }

    /// Returns the bytes of the heads. A sealed batch has a head's room for its salt, and a second one for each record.
    fn heads_of(records: usize, sealed: bool) -> usize {
        BATCH_HEAD + RECORD_HEAD * if sealed { 1 + 2 * records } else { records }
    }

    /// Returns how many bytes on the disk a batch takes that has so many records and bytes of bodies.
    pub fn size_of(records: usize, body: u64, sealed: bool) -> u64 {
        let heads = Self::heads_of(records, sealed) as u64;
        heads.next_multiple_of(ALIGN) + body.next_multiple_of(ALIGN)
    }

    /// Returns the offset in the batch at which the bodies begin: on a page of their own, so that disks take
    /// blocks from where they lie in memory.
    pub fn bodies(&self) -> u64 {
        (self.heads() as u64).next_multiple_of(ALIGN)
    }

    /// Returns how many bytes on the disk the batch takes.
    pub fn size(&self) -> u64 {
        Self::size_of(self.records.into(), self.body.into(), self.sealed.is_some())
    }

    /// Writes the heads of a batch that lies at `offset` of its segment.
    pub fn encode<'a>(
        &self,
        journal: JournalId,
        offset: u64,
        records: impl Iterator<Item = &'a RecordHead>,
        w: &mut Writer,
    ) {
        let start = w.buf.len();
        w.u32(BATCH_MAGIC).u32(self.heads() as u32).u32(self.body).u16(self.records);
        w.u16(self.sealed.is_some().into());
        w.u64(self.lap).u64(self.salt).u64(self.before.0).u64(self.synced.0).u64(self.mark.0).u64(0);
        if let Some(salt) = self.sealed {
            w.u128(salt).raw(&[0; RECORD_HEAD - 16]);
        }
        for r in records {
            w.u64(r.lsn.0).u64(r.block).u64(r.blocks).u32(r.len).u32(r.kind.into()).u64(r.hash);
            if let Some(sealed) = &r.sealed {
                w.raw(sealed).raw(&[0; RECORD_HEAD - FIELDS - TAG]);
            }
        }
        debug_assert_eq!(w.buf.len() - start, self.heads());
        let hash = batch_hash(&w.buf[start..], journal, offset, self.salt);
        w.buf[start + 56..start + 64].copy_from_slice(&hash.to_le_bytes());
    }

    /// Returns how many bytes of heads a batch claims to have; `None` when no batch can begin here. Nothing is verified yet.
    pub fn claims(first: &[u8]) -> Option<usize> {
        let word = |at: usize| Some(u32::from_le_bytes(first.get(at..at + 4)?.try_into().ok()?));
        let heads = word(4)? as usize;
        let shape = heads.checked_sub(BATCH_HEAD)?;
        let ok = word(0)? == BATCH_MAGIC
            && shape % RECORD_HEAD == 0
            && shape / RECORD_HEAD <= 1 + 2 * BATCH_RECORDS;
        ok.then_some(heads)
    }

    /// Decodes and verifies the heads of a batch; `None` when no batch of this journal was written here.
    pub fn decode(bytes: &[u8], journal: JournalId, offset: u64) -> Option<(BatchHead, Vec<RecordHead>)> {
        let heads = Self::claims(bytes)?;
        let bytes = bytes.get(..heads)?;
        let mut r = Reader::new(bytes, "a batch");
        let (_, _, body, records, sealed) =
            (r.u32().ok()?, r.u32().ok()?, r.u32().ok()?, r.u16().ok()?, r.u16().ok()?);
        let mut word = || r.u64().ok();
        let (lap, salt, before) = (word()?, word()?, Lsn(word()?));
        let (synced, mark, hash) = (Lsn(word()?), Lsn(word()?), word()?);
        let sealed = match sealed {
            0 => None,
            1 => Some(u128::from_le_bytes(*bytes.get(BATCH_HEAD..)?.first_chunk()?)),
            _ => return None,
        };
        let head = BatchHead { lap, salt, records, body, sealed, before, synced, mark };
        if head.heads() != heads || batch_hash(bytes, journal, offset, salt) != hash {
            return None;
        }
        if sealed.is_some() {
            r.raw(RECORD_HEAD).ok()?;
        }
        let mut list = Vec::with_capacity(records.into());
        for _ in 0..records {
            list.push(RecordHead::decode(&mut r, sealed.is_some()).ok()?);
        }
        Some((head, list))
    }
}

/// Hashes everything that says where and when this batch is, and all heads but the hash itself. The hash is
/// seeded with the salt, so that no guest can write bytes that look like a batch.
fn batch_hash(heads: &[u8], journal: JournalId, offset: u64, salt: u64) -> u64 {
    let mut hash = Xxh3::with_seed(salt);
    hash.update(&journal.0.to_le_bytes());
    hash.update(&offset.to_le_bytes());
    hash.update(&heads[..56]);
    hash.update(&heads[64..]);
    hash.digest()
}

/// Makes the hashes of one batch right: that of the heads that begin here, and those of the bodies, which lie
/// behind the heads from the next page on.
#[cfg(any(test, fuzzing))]
pub(super) fn sum_batch(segment: &mut [u8], at: usize, journal: JournalId) {
    let Some(heads) = segment.get(at..).and_then(BatchHead::claims) else { return };
    let Some(bytes) = segment.get(at..at + heads).map(<[u8]>::to_vec) else { return };
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
    let mut body = at + heads.next_multiple_of(ALIGN as usize);
    for head in (BATCH_HEAD..bytes.len()).step_by(RECORD_HEAD) {
        let end = body.saturating_add(word(head + 24));
        let Some(hash) = segment.get(body..end).map(xxh3_64) else { break };
        segment[at + head + 32..at + head + 40].copy_from_slice(&hash.to_le_bytes());
        body = end;
    }
    let salt = u64::from_le_bytes(bytes[24..32].try_into().expect("eight bytes"));
    let hash = batch_hash(&segment[at..at + heads], journal, at as u64, salt);
    segment[at + 56..at + 64].copy_from_slice(&hash.to_le_bytes());
}

impl RecordHead {
    fn decode(r: &mut Reader<'_>, is_sealed: bool) -> Result<RecordHead> {
        let (lsn, block, blocks, len) = (Lsn(r.u64()?), r.u64()?, r.u64()?, r.u32()?);
        let kind = u8::try_from(r.u32()?).map_err(|_| r.bad("a record's kind is unknown"))?;
        let hash = r.u64()?;
        let more = if is_sealed { r.raw(RECORD_HEAD)?.first_chunk().copied() } else { None };
        Ok(RecordHead { lsn, block, blocks, len, kind, hash, sealed: more })
    }

    /// Seals the fields of this head with the body. The head keeps the sealed fields; the sealed body is returned.
    fn seal(&mut self, seal: &JournalSeal, journal: JournalId, body: &[u8]) -> Bytes {
        let mut fields = [0; FIELDS];
        fields[..8].copy_from_slice(&self.block.to_le_bytes());
        fields[8..16].copy_from_slice(&self.blocks.to_le_bytes());
        fields[16..].copy_from_slice(&u32::from(self.kind).to_le_bytes());
        let mut out = [0; FIELDS + TAG];
        let sealed = seal.seal(self.lsn, &self.bound(journal), body, &fields, &mut out);
        (self.block, self.blocks, self.kind, self.sealed) = (0, 0, 0, Some(out));
        sealed.into()
    }

    /// Opens a sealed head and its body; `None` when they are not what was sealed.
    fn open(&self, seal: &JournalSeal, journal: JournalId, body: &[u8]) -> Option<(RecordHead, Bytes)> {
        let (fields, tag) = self.sealed.as_ref()?.split_at(FIELDS);
        let opened = Bytes::from(seal.open(self.lsn, &self.bound(journal), body, fields, tag)?);
        let mut r = Reader::new(opened.get(body.len()..)?, "a record's head");
        let (block, blocks, kind) = (r.u64().ok()?, r.u64().ok()?, u8::try_from(r.u32().ok()?).ok()?);
        let head = RecordHead { block, blocks, kind, sealed: None, ..*self };
        Some((head, opened.slice(..body.len())))
    }

    /// Returns what the tag covers beside the sealed bytes: journal, lsn and length of the body.
    fn bound(&self, journal: JournalId) -> [u8; 28] {
        let mut out = [0; 28];
        out[..16].copy_from_slice(&journal.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.lsn.0.to_le_bytes());
        out[24..].copy_from_slice(&self.len.to_le_bytes());
        out
    }
}

impl Entry {
    /// Makes a record ready to be written: seals it, if the journal is sealed, and hashes the body. The caller
    /// does this outside of any lock.
    pub fn of(record: &Record, seal: Option<(&JournalSeal, JournalId)>) -> Entry {
        let (block, blocks) = record.op.blocks();
        let (kind, body) = match &record.op {
            Op::Write { data, .. } => {
                assert!(
                    !data.is_empty() && (data.len() as u64).is_multiple_of(BLOCK),
                    "{} bytes",
                    data.len()
                );
                (1, data.clone())
            }
            Op::Zero { .. } => (2, Bytes::new()),
            Op::Mark(mark) => {
                let mut w = Writer::default();
                mark.encode(&mut w);
                (3, w.buf.into())
            }
        };
        let len = body.len() as u32;
        let mut head = RecordHead { lsn: record.lsn, block, blocks, len, kind, hash: 0, sealed: None };
        let body = match seal {
            Some((seal, journal)) => head.seal(seal, journal, &body),
            None => body,
        };
        head.hash = xxh3_64(&body);
        Entry { head, body }
    }

    /// Opens and decodes the record, in a journal that is sealed by `seal`; `None` when the bytes are not what was written.
    pub fn record(&self, journal: JournalId, seal: Option<&JournalSeal>) -> Option<Record> {
        if xxh3_64(&self.body) != self.head.hash {
            return None;
        }
        let Some(seal) = seal else { return self.read() };
        let (head, body) = self.head.open(seal, journal, &self.body)?;
        Entry { head, body }.read()
    }

    /// Decodes a record that is not sealed, or was opened.
    fn read(&self) -> Option<Record> {
        let Entry { head, body } = self;
        let op = match head.kind {
            // A write of no bytes is never made (`Entry::of`).
            1 if head.len > 0 && head.len as u64 == head.blocks.checked_mul(BLOCK)? => {
                Op::Write { block: head.block, data: body.clone() }
            }
            2 if body.is_empty() => Op::Zero { block: head.block, blocks: head.blocks },
            3 => {
                let mut r = Reader::new(body, "a mark");
                let mark = Mark::decode(&mut r).ok()?;
                r.end().ok()?;
                Op::Mark(mark)
            }
            _ => return None,
        };
        Some(Record { lsn: head.lsn, op })
    }
}
