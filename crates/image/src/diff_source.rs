//! Increments as they come in: an rbd-diff, or the overlay that `export` writes. Each is bounded before memory is taken.

use async_trait::async_trait;
use bytes::{Buf as _, Bytes, BytesMut};

use super::diff_lineage::{Between, TRAILER_MAX};
use super::rbd_diff_codec::{Header, MAGIC, RECORD_MAX, Record};
use windlass_base::{Error, Kind, Result};

/// Most bytes of a change that has data.
pub const DATA_MAX: usize = 1 << 20;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    Data { offset: u64, bytes: Bytes },
    Zero { offset: u64, len: u64 },
}

impl Change {
    pub fn range(&self) -> (u64, u64) {
        match self {
            Change::Data { offset, bytes } => (*offset, bytes.len() as u64),
            Change::Zero { offset, len } => (*offset, *len),
        }
    }
}

/// An increment that is read from start to end.
#[async_trait]
pub trait Changes: Send {
    /// Returns the names of the states between which the increment lies, and its size.
    fn header(&self) -> &Header;
    /// Returns the ids of the snapshots between which the increment lies, where they were told. An rbd-diff
    /// tells them behind its last change.
    fn between(&self) -> &Between;
    /// Returns the next change, none after the last. All lie inside the size at the end, where the header
    /// tells it.
    async fn next(&mut self) -> Result<Option<Change>>;
}

/// A source of bytes that are read once, in order: a file, a pipe.
#[async_trait]
pub trait ByteSource: Send {
    /// Reads some bytes; none at the end.
    async fn read(&mut self) -> Result<Bytes>;
}

/// An increment in the form of an rbd-diff.
pub struct RbdChanges {
    from: Box<dyn ByteSource>,
    have: BytesMut,
    header: Header,
    between: Between,
    /// The next record, if it was read already: the first one after the header, or the end.
    first: Option<Record>,
    /// The data of the last `w` record: offset on the disk of the next byte, and how many bytes are still to
    /// come.
    data: (u64, u64),
}

impl RbdChanges {
    /// Reads up to the first change.
    ///
    /// # Errors
    /// `Invalid`: this is no rbd diff of version 1.
    pub async fn open(from: Box<dyn ByteSource>) -> Result<RbdChanges> {
        let (have, header, between) = (BytesMut::new(), Header::default(), Between::default());
        let mut changes = RbdChanges { from, have, header, between, first: None, data: (0, 0) };
        changes.fill(MAGIC.len()).await?;
        if !changes.have.starts_with(MAGIC) {
            let why = match changes.have.starts_with(b"rbd diff v2\n") {
                true => "an rbd diff of version 2: `rbd export-diff` writes version 1 by default",
                false => "neither an rbd diff of version 1 nor a qcow2 that `windlass export --since` wrote",
            };
            return Err(Error::new(Kind::Invalid, why));
        }
        changes.have.advance(MAGIC.len());
        while changes.first.is_none() {
            let record = changes.record().await?;
            changes.first = changes.header.take(record)?;
        }
        Ok(changes)
    }

    /// Reads until at least so many bytes are at hand, or all that come.
    async fn fill(&mut self, len: usize) -> Result<()> {
        while self.have.len() < len {
            let more = self.from.read().await?;
            if more.is_empty() {
                break;
            }
            self.have.extend_from_slice(&more);
        }
        Ok(())
    }

    async fn record(&mut self) -> Result<Record> {
        // Most records are short: what is there may do.
        for wanted in [1, 17, RECORD_MAX] {
            self.fill(wanted).await?;
            if let Some((record, len)) = Record::parse(&self.have)? {
                self.have.advance(len);
                return Ok(record);
            }
        }
        Err(cut_off())
    }

    /// Reads what follows the last record. The end record is kept, so that another call of `next` meets the
    /// end again.
    async fn end(&mut self) -> Result<()> {
        self.first = Some(Record::End);
        self.fill(TRAILER_MAX + 1).await?;
        if self.have.is_empty() {
            return Ok(());
        }
        self.between = Between::of_trailer(&self.have).ok_or_else(|| {
            let another = self.have.windows(MAGIC.len()).any(|part| part == MAGIC);
            let why = match another {
                true => "another diff follows the end of this one: each is applied as a file of its own, one after the other",
                false => "the diff was cut off behind its last change, or something else was appended to it",
            };
            Error::new(Kind::Invalid, why)
        })?;
        self.have.clear();
        Ok(())
    }

    fn bounded(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.header.size.unwrap_or(u64::MAX);
        match offset.checked_add(len).is_some_and(|end| end <= size) {
            true => Ok(()),
            false => {
                let why = format!("the diff changes {len} bytes at {offset}, outside of its size {size}");
                Err(Error::new(Kind::Invalid, why))
            }
        }
    }
}

fn cut_off() -> Error {
    Error::new(Kind::Invalid, "the diff was cut off: its end is missing")
}

#[async_trait]
impl Changes for RbdChanges {
    fn header(&self) -> &Header {
        &self.header
    }

    fn between(&self) -> &Between {
        &self.between
    }

    async fn next(&mut self) -> Result<Option<Change>> {
        loop {
            let (offset, left) = self.data;
            if left > 0 {
                let wanted = left.min(DATA_MAX as u64) as usize;
                self.fill(wanted).await?;
                if self.have.len() < wanted {
                    return Err(cut_off());
                }
                self.data = (offset + wanted as u64, left - wanted as u64);
                return Ok(Some(Change::Data { offset, bytes: self.have.split_to(wanted).freeze() }));
            }
            let record = match self.first.take() {
                Some(record) => record,
                None => self.record().await?,
            };
            match record {
                Record::Write { offset, len } => {
                    self.bounded(offset, len)?;
                    self.data = (offset, len);
                }
                Record::Zero { offset, len } => {
                    self.bounded(offset, len)?;
                    if len > 0 {
                        return Ok(Some(Change::Zero { offset, len }));
                    }
                }
                Record::End => {
                    self.end().await?;
                    return Ok(None);
                }
                Record::From(_) | Record::To(_) | Record::Size(_) => {
                    let why = "the diff says after its first change what it begins or ends with";
                    return Err(Error::new(Kind::Invalid, why));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff_lineage::SnapshotIdentity;

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

    fn diff() -> Vec<u8> {
        let header = Header { from: Some("a".into()), to: Some("b".into()), size: Some(4 << 20) };
        let mut out = BytesMut::from(&header.encode()[..]);
        Record::Write { offset: 512, len: DATA_MAX as u64 + 3 }.put(&mut out);
        out.resize(out.len() + DATA_MAX + 3, 7);
        Record::Write { offset: 0, len: 0 }.put(&mut out);
        Record::Zero { offset: 3 << 20, len: 1 << 20 }.put(&mut out);
        Record::End.put(&mut out);
        out.to_vec()
    }

    async fn read(bytes: &[u8], step: usize) -> Result<(Header, Vec<(u64, u64)>)> {
        let from = Steps { bytes: Bytes::copy_from_slice(bytes), step };
        let mut changes = RbdChanges::open(Box::new(from)).await?;
        let mut seen = Vec::new();
        while let Some(change) = changes.next().await? {
            seen.push(change.range());
        }
        assert_eq!(changes.next().await?, None);
        Ok((changes.header().clone(), seen))
    }

    #[tokio::test]
    async fn a_diff_is_read_whatever_pieces_it_comes_in() {
        let data = DATA_MAX as u64;
        for step in [1000, 4096, 5 << 20] {
            let (header, seen) = read(&diff(), step).await.unwrap();
            assert_eq!(header, Header { from: Some("a".into()), to: Some("b".into()), size: Some(4 << 20) });
            assert_eq!(seen, [(512, data), (512 + data, 3), (3 << 20, 1 << 20)]);
        }
    }

    #[tokio::test]
    async fn a_diff_that_is_cut_off_anywhere_is_refused() {
        let whole = diff();
        let ends = (0..80).chain(whole.len() - 60..whole.len()).chain([5000, 1 << 20]);
        for end in ends {
            let error = read(&whole[..end], 1 << 16).await.unwrap_err();
            assert!(error.is(Kind::Invalid), "{end}: {error}");
        }
    }

    #[tokio::test]
    async fn what_a_diff_lies_between_follows_its_end() {
        let one = SnapshotIdentity { volume: "0b".repeat(16), snapshot: 3, created_ms: 5 };
        let told = Between { since_id: Some(one), to_id: None };
        for step in [7, 1 << 20] {
            let bytes = Bytes::from([&diff(), &told.trailer()[..]].concat());
            let mut changes = RbdChanges::open(Box::new(Steps { bytes, step })).await.unwrap();
            while changes.next().await.unwrap().is_some() {}
            assert_eq!((changes.next().await.unwrap(), changes.between()), (None, &told));
        }
    }

    #[tokio::test]
    async fn what_follows_the_end_of_a_diff_is_refused() {
        let (cut, another) = ("cut off behind its last change", "another diff follows");
        for (behind, step, told) in
            [(&b"\0"[..], 7, cut), (&diff(), 1 << 20, another), (MAGIC, usize::MAX, another)]
        {
            let error = read(&[&diff(), behind].concat(), step).await.unwrap_err();
            assert!(error.is(Kind::Invalid) && error.to_string().contains(told), "{error}");
        }
    }

    #[tokio::test]
    async fn hostile_diffs_are_refused_before_memory_is_taken() {
        let with = |record: Record| {
            let mut out = BytesMut::from(&Header { size: Some(4096), ..Header::default() }.encode()[..]);
            record.put(&mut out);
            out.to_vec()
        };
        let bad = [
            with(Record::Write { offset: 0, len: 4097 }),
            with(Record::Write { offset: u64::MAX, len: 2 }),
            with(Record::Zero { offset: 4096, len: 1 }),
            with(Record::Zero { offset: 1, len: u64::MAX }),
            [with(Record::Zero { offset: 0, len: 1 }), b"s\0\0\0\0\0\0\0\0".to_vec()].concat(),
            b"rbd diff v2\nf".to_vec(),
            b"#!/bin/sh\nexit 0\n".to_vec(),
            b"rbd diff v1\nf\xff\xff\xff\x7f".to_vec(),
            Vec::new(),
        ];
        for (n, bytes) in bad.iter().enumerate() {
            let error = read(bytes, 7).await.unwrap_err();
            assert!(error.is(Kind::Invalid), "{n}: {error}");
        }
        // Without a size of its own a diff is bounded by the volume it is applied to.
        let unsized_ = [MAGIC, b"w\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7fx"].concat();
        assert!(read(&unsized_, 7).await.unwrap_err().is(Kind::Invalid));
    }

    #[tokio::test]
    async fn any_byte_may_be_wrong() {
        let whole = diff();
        let places = (0..80).chain(whole.len() - 40..whole.len());
        for (at, bit) in places.flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            if let Ok((header, seen)) = read(&bytes, 1 << 20).await {
                let size = header.size.unwrap_or(u64::MAX);
                assert!(seen.iter().all(|(offset, len)| offset + len <= size));
            }
        }
    }
}
