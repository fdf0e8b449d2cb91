//! Staged bytes whose room was given back to a disk that was nearly full: the store has them as parts of an upload that is
//! under way.
//!
//! `ID.parts` stands beside a stage whose note's format is 6. A part is written down in it before its bytes go, so that
//! whoever reads the stage knows that zeros there are none of the file's.
//!
//! | `ID.parts`, a line | meaning |
//! |---|---|
//! | `SUM {"upload":{…}}` | the multipart upload, and the metadata that it began with; parts before this line count no more |
//! | `SUM {"part":{…}}` | the upload has this part, and the stage may not have its bytes |
//! | `SUM {"cut":N}` | the file was cut to N bytes: no part that reaches behind counts any more |
//!
//! SUM is the XXH3-64 of the JSON, 16 hexadecimal digits. Zeros follow the last line.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::base::{Error, Kind};
use crate::fs::object::ByteRanges;
use crate::store::{Attrs, Carried, Etag, Part};

/// Bytes that are reserved for `ID.parts` at a time: a full disk must not keep what was freed from being written down.
pub const RESERVED: u64 = 64 << 10;
/// A log that is longer is not read. 10,000 parts are far shorter.
pub const LEN_MAX: usize = 8 << 20;
const SUM: usize = 16;

/// A multipart upload under way, with the metadata that its object will carry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartsUpload {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    user: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Carried::is_nothing")]
    carried: Carried,
}

impl PartsUpload {
    pub fn new(id: &str, attrs: &Attrs) -> PartsUpload {
        let Attrs { content_type, user, carried } = attrs.clone();
        PartsUpload { id: id.to_owned(), content_type, user, carried }
    }

    pub fn attrs(&self) -> Attrs {
        let PartsUpload { content_type, user, carried, .. } = self.clone();
        Attrs { content_type, user, carried }
    }
}

/// A part that the store has acknowledged, and the bytes of the file that it holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoredPart {
    pub start: u64,
    pub end: u64,
    number: u32,
    etag: Etag,
}

impl StoredPart {
    pub fn new(range: &Range<u64>, part: Part) -> StoredPart {
        StoredPart { start: range.start, end: range.end, number: part.number, etag: part.etag }
    }

    pub fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    pub fn part(&self) -> Part {
        Part { number: self.number, etag: self.etag.clone() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Upload(PartsUpload),
    Part(StoredPart),
    Cut(u64),
}

impl Line {
    fn text(&self) -> String {
        let json = serde_json::to_string(self).expect("a line has only strings and numbers");
        format!("{:016x} {json}\n", xxh3_64(json.as_bytes()))
    }

    /// The line, if its sum is right.
    fn read(text: &[u8]) -> Option<Line> {
        let (sum, json) = text.split_at_checked(SUM)?;
        let json = json.strip_prefix(b" ")?;
        let sum = u64::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
        if sum != xxh3_64(json) {
            return None;
        }
        serde_json::from_slice(json).ok()
    }
}

/// The parts of a stage whose bytes were freed, and the upload that has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FreedParts {
    pub upload: PartsUpload,
    /// In the order in which they were freed.
    parts: Vec<StoredPart>,
    /// The bytes of all of them.
    ranges: ByteRanges,
}

impl FreedParts {
    pub fn new(upload: PartsUpload) -> FreedParts {
        FreedParts { upload, parts: Vec::new(), ranges: ByteRanges::default() }
    }

    pub fn parts(&self) -> &[StoredPart] {
        &self.parts
    }

    pub fn add(&mut self, parts: &[StoredPart]) {
        parts.iter().for_each(|part| self.ranges.insert(part.range()));
        self.parts.extend_from_slice(parts);
    }

    /// Reads the log; also returns its length. `None`: the log is damaged, and nobody can tell which bytes of the stage are
    /// the file's. What follows the last end of a line was cut off: the bytes of that part have not been freed.
    pub fn read(mut log: &[u8]) -> Option<(FreedParts, u64)> {
        let (mut found, mut len): (Option<FreedParts>, u64) = (None, 0);
        while let Some(end) = log.iter().position(|byte| *byte == b'\n').filter(|_| log[0] != 0) {
            match (Line::read(&log[..end])?, &mut found) {
                (Line::Upload(upload), _) => found = Some(FreedParts::new(upload)),
                (Line::Part(part), Some(found)) if part.start < part.end => found.add(&[part]),
                (Line::Cut(size), Some(found)) => found.cut(size),
                _ => return None,
            }
            len += end as u64 + 1;
            log = &log[end + 1..];
        }
        found.map(|found| (found, len))
    }

    pub fn begin(&self) -> Bytes {
        Line::Upload(self.upload.clone()).text().into()
    }

    pub fn lines_of(parts: &[StoredPart]) -> Bytes {
        parts.iter().map(|part| Line::Part(part.clone()).text()).collect::<String>().into()
    }

    pub fn line_of_cut(size: u64) -> Bytes {
        Line::Cut(size).text().into()
    }

    pub fn meets(&self, range: &Range<u64>) -> bool {
        self.ranges.within(range.clone()).next().is_some()
    }

    pub fn cut(&mut self, size: u64) {
        self.ranges.cut(size);
        self.parts.retain(|part| part.end <= size);
    }
}

/// Who wants the bytes of a freed part is told so, whatever they were for.
pub fn freed(kind: Kind, path: &std::path::Path, what: &str) -> Error {
    let said = format!(
        "{}: the disk was nearly full and these bytes were freed, as the store has them: {what} before the file is closed",
        path.display()
    );
    Error::new(kind, said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32) -> StoredPart {
        let (start, etag) = (u64::from(number) * 100, Etag(format!("\"{number}\"")));
        StoredPart::new(&(start..start + 100), Part { number, etag })
    }

    fn log(lines: &[Bytes]) -> Vec<u8> {
        lines.concat()
    }

    #[test]
    fn what_was_freed_is_read_again() {
        let upload = PartsUpload::new("u", &Attrs { content_type: Some("t".into()), ..Attrs::default() });
        let none = FreedParts::new(upload);
        let begun = none.begin();
        let two = FreedParts::lines_of(&[part(1), part(2)]);
        let text = log(&[begun.clone(), two.clone()]);
        let read = |bytes: &[u8]| FreedParts::read(bytes);
        let mut both = none;
        both.add(&[part(1), part(2)]);
        assert_eq!(read(&text), Some((both.clone(), text.len() as u64)));
        assert_eq!(both.upload.attrs().content_type.as_deref(), Some("t"));
        assert!(both.meets(&(150..151)) && both.meets(&(0..101)) && !both.meets(&(0..100)));
        // Zeros behind, and a line that was cut off or is wrong at the end.
        let reserved = [&text[..], &[0; 99]].concat();
        assert_eq!(read(&reserved), Some((both.clone(), text.len() as u64)));
        let torn = text.len() - 3;
        assert_eq!(read(&text[..torn]).unwrap().0.parts, [part(1)]);
        let cut = log(&[begun.clone(), two.clone(), FreedParts::line_of_cut(299)]);
        assert_eq!(read(&cut).unwrap().0.parts, [part(1)]);
        let anew = log(&[begun.clone(), two, begun.clone()]);
        assert_eq!(read(&anew).unwrap().0.parts, []);
        for at in 0..begun.len() {
            let mut bad = text.clone();
            bad[at] ^= 1;
            assert_eq!(read(&bad), None, "byte {at}");
        }
        assert_eq!((read(&[]), read(&[0; 9])), (None, None));
    }
}
