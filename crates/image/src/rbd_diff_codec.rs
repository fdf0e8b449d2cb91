//! The stream of `rbd export-diff`, version 1, as Ceph documents it (doc/dev/rbd-diff.rst).
//!
//! `rbd diff v1\n`, then records: a byte that says what it is, and little-endian numbers. First what the stream is about,
//! in any order: `f` and `t`, the snapshots between which it lies, `s`, the size at the end. Then `w`, bytes of a range, and
//! `z`, a range that became zero. Last `e`: a stream without it was cut off.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use windlass_base::{Error, Kind, Result};

pub const MAGIC: &[u8] = b"rbd diff v1\n";
/// Longest name of a snapshot that is read.
const NAME_MAX: u32 = 4096;
/// Most bytes of a record, without the bytes that follow a `w`.
pub const RECORD_MAX: usize = 5 + NAME_MAX as usize;

/// A record. The bytes of `Write` follow it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    From(String),
    To(String),
    Size(u64),
    Write { offset: u64, len: u64 },
    Zero { offset: u64, len: u64 },
    End,
}

impl Record {
    pub fn put(&self, out: &mut BytesMut) {
        let name = |out: &mut BytesMut, tag: u8, name: &str| {
            out.put_u8(tag);
            out.put_u32_le(name.len() as u32);
            out.put_slice(name.as_bytes());
        };
        let range = |out: &mut BytesMut, tag: u8, offset: u64, len: u64| {
            out.put_u8(tag);
            out.put_u64_le(offset);
            out.put_u64_le(len);
        };
        match self {
            Record::From(snapshot) => name(out, b'f', snapshot),
            Record::To(snapshot) => name(out, b't', snapshot),
            Record::Size(size) => {
                out.put_u8(b's');
                out.put_u64_le(*size);
            }
            Record::Write { offset, len } => range(out, b'w', *offset, *len),
            Record::Zero { offset, len } => range(out, b'z', *offset, *len),
            Record::End => out.put_u8(b'e'),
        }
    }

    /// Parses the record that these bytes begin with. Returns it with its length in bytes. `None`: more bytes
    /// are needed.
    ///
    /// # Errors
    /// `Invalid`: no such record exists, or its name is too long or no text.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Record, usize)>> {
        let Some((tag, rest)) = bytes.split_first() else { return Ok(None) };
        match tag {
            b'f' | b't' => Ok(name(rest)?.map(|(name, len)| {
                let record = if *tag == b'f' { Record::From(name) } else { Record::To(name) };
                (record, 1 + len)
            })),
            b's' => Ok((rest.len() >= 8).then(|| (Record::Size((&rest[..8]).get_u64_le()), 9))),
            b'w' | b'z' => Ok((rest.len() >= 16).then(|| {
                let (offset, len) = ((&rest[..8]).get_u64_le(), (&rest[8..16]).get_u64_le());
                let write = *tag == b'w';
                let record = if write { Record::Write { offset, len } } else { Record::Zero { offset, len } };
                (record, 17)
            })),
            b'e' => Ok(Some((Record::End, 1))),
            other => {
                let why =
                    format!("the diff has a record {:?}, which rbd diff v1 does not know", *other as char);
                Err(Error::new(Kind::Invalid, why))
            }
        }
    }
}

fn name(bytes: &[u8]) -> Result<Option<(String, usize)>> {
    let Some(mut head) = bytes.get(..4) else { return Ok(None) };
    let len = head.get_u32_le();
    if len > NAME_MAX {
        let why = format!("the diff names a snapshot with {len} bytes: at most {NAME_MAX} are read");
        return Err(Error::new(Kind::Invalid, why));
    }
    let Some(name) = bytes.get(4..4 + len as usize) else { return Ok(None) };
    let text = std::str::from_utf8(name)
        .map_err(|_| Error::new(Kind::Invalid, "the diff names a snapshot by bytes that are no text"))?;
    Ok(Some((text.to_owned(), 4 + name.len())))
}

/// The records that a stream begins with: the states between which it lies, and the size.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// Name of the snapshot that the stream begins with. `None`: the stream begins with nothing.
    pub from: Option<String>,
    /// Name of the snapshot that the stream ends with. `None`: the end is no snapshot.
    pub to: Option<String>,
    pub size: Option<u64>,
}

impl Header {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::from(MAGIC);
        let from = self.from.clone().map(Record::From);
        let to = self.to.clone().map(Record::To);
        let size = self.size.map(Record::Size);
        [from, to, size].iter().flatten().for_each(|record| record.put(&mut out));
        out.freeze()
    }

    /// Takes a record of the header. Returns the record if it is the first one after the header.
    ///
    /// # Errors
    /// `Invalid`: the header has two such records.
    pub fn take(&mut self, record: Record) -> Result<Option<Record>> {
        let again = match record {
            Record::From(name) => self.from.replace(name).is_some(),
            Record::To(name) => self.to.replace(name).is_some(),
            Record::Size(size) => self.size.replace(size).is_some(),
            other => return Ok(Some(other)),
        };
        match again {
            true => Err(Error::new(Kind::Invalid, "the diff says twice what it begins or ends with")),
            false => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by hand from Ceph's documentation.
    const GOLDEN: &[u8] = b"rbd diff v1\n\
        f\x06\0\0\0monday\
        t\x07\0\0\0tuesday\
        s\0\0\x10\0\0\0\0\0\
        w\0\x02\0\0\0\0\0\0\x04\0\0\0\0\0\0\0data\
        z\0\0\x01\0\0\0\0\0\0\0\0\0\x01\0\0\0\
        e";

    fn records() -> Vec<Record> {
        vec![
            Record::From("monday".into()),
            Record::To("tuesday".into()),
            Record::Size(1 << 20),
            Record::Write { offset: 512, len: 4 },
            Record::Zero { offset: 65536, len: 1 << 32 },
            Record::End,
        ]
    }

    #[test]
    fn records_have_the_documented_bytes() {
        let header = Header { from: Some("monday".into()), to: Some("tuesday".into()), size: Some(1 << 20) };
        let mut out = BytesMut::from(&header.encode()[..]);
        for record in &records()[3..] {
            record.put(&mut out);
            if matches!(record, Record::Write { .. }) {
                out.put_slice(b"data");
            }
        }
        assert_eq!(out, GOLDEN);
    }

    #[test]
    fn records_are_read_whole_or_not_at_all() {
        let (mut at, mut seen) = (MAGIC.len(), Vec::new());
        while at < GOLDEN.len() {
            let (record, len) = Record::parse(&GOLDEN[at..]).unwrap().unwrap();
            for end in at..at + len {
                assert_eq!(Record::parse(&GOLDEN[at..end]).unwrap(), None);
            }
            at += len + if matches!(record, Record::Write { .. }) { 4 } else { 0 };
            seen.push(record);
        }
        assert_eq!(seen, records());
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in [&b"x"[..], b"f\xff\xff\xff\xff", b"t\x01\x10\0\0", b"f\x02\0\0\0\xff\xfe", b"\0"] {
            assert!(Record::parse(bad).unwrap_err().is(Kind::Invalid), "{bad:?}");
        }
        let mut header = Header::default();
        assert_eq!(header.take(Record::Size(1)).unwrap(), None);
        assert!(header.take(Record::Size(1)).unwrap_err().is(Kind::Invalid));
        assert_eq!(header.take(Record::End).unwrap(), Some(Record::End));
        let longest = [&b"f\0\x10\0\0"[..], &[b'x'; 4096]].concat();
        assert_eq!(longest.len(), RECORD_MAX);
        assert!(Record::parse(&longest).unwrap().is_some());
    }
}
