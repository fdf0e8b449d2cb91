//! Whose bytes are staged, and what for: a note in one of three entries before them. A new one is written neither over the
//! latest, so that one that is torn leaves the one before, nor over the latest that was made durable, so that a loss of
//! power leaves that one whatever was written since.
//!
//! The entries begin at 0 (in a slot of a slab at 32), 10752 and 21504. The format is 5; or 6 where staged bytes may have been
//! freed because an upload has them: zeros there are none of the file's. Before bytes are freed every entry that has a note
//! gets one of format 6, so that a program that knows only 5 finds none, nor does a loss of power bring an earlier one back.
//! A note of another format is not read, and its bytes stay where they are.
//!
//! | entry | bytes | meaning |
//! |---|---|---|
//! | 0 | 8 | `WLSTAGE1` |
//! | 8 | 8 | number: the greater one counts |
//! | 16 | 8 | length of the note |
//! | 24 | 8 | XXH3-64 of number, length and note |
//! | 32 | … | the note: JSON |
//!
//! Numbers are little-endian.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::object::{Base, Sighting, UploadToken};
use windlass_base::{Error, Kind, Result};
use windlass_store::{Attrs, Carried};

const MAGIC: &[u8; 8] = b"WLSTAGE1";
const HEAD: usize = 32;
/// Offset at which a stage's bytes begin; its notes lie before it.
pub const AREA: u64 = 32 << 10;
const ENTRY: u64 = 10752;
/// Length of the longest note, in bytes; an entry has no less room.
const NOTE_MAX: usize = ENTRY as usize - 2 * HEAD;
pub const NOTE_FORMAT: u32 = 5;
/// The format of a note whose stage may lack bytes that an upload has.
pub const FREED_FORMAT: u32 = 6;

/// State of a file's staged bytes relative to its object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// The file was written to since it was last closed or synced.
    Open,
    /// The bytes are as they were closed or synced; the bucket may not have them yet.
    Closed,
    /// The bucket has the bytes.
    Sent,
}

/// A record of whose bytes are staged, and what for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    pub format: u32,
    pub url: String,
    pub key: String,
    /// The object that the staged bytes change; `None` for a new one.
    pub base: Option<Base>,
    /// Id of the multipart upload that has parts of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    pub size: u64,
    /// True if bytes of the object still count: the record of edits stands beside the stage.
    pub partly: bool,
    /// True if the file was emptied and the bucket has had nothing of it since. Older notes do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_anew: Option<bool>,
    pub mark: Mark,
    /// True if a close or fsync since the bucket last had the file was answered, or is being answered.
    pub unsent_close: bool,
    /// Id of the stage whose closed version this stage rewrites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrites: Option<String>,
    /// Id of the slot that the file outgrew: all that was there is in this stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outgrown_slot: Option<String>,
    /// XXH3-64 of the bytes of a closed file in a slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<u64>,
    /// Generation of the mount that wrote the note: a number greater than those of all notes that the mount
    /// found. No clock tells as well which note is later.
    #[serde(default)]
    pub generation: u64,
    /// The run of the machine in which the note was written (`Disk::boot`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// True if the bytes were to survive a loss of power, by this note or an earlier one, and the bucket has
    /// not had them since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub synced: bool,
    /// Tokens of uploads that may have been sent since `base` was the object, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sending: Vec<UploadToken>,
    /// The object that was removed from this name on this host before the file was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_object: Option<Sighting>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    pub user: BTreeMap<String, String>,
    /// Metadata of the object that differed from these when they were looked at last (`said_otherwise`);
    /// `None` where that isn't known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_said: Option<BTreeMap<String, Option<String>>>,
    /// Properties of the replaced object that other programs need.
    #[serde(default, skip_serializing_if = "Carried::is_nothing")]
    pub carried: Carried,
}

impl Note {
    /// Returns a note that says nothing.
    #[cfg(test)]
    pub fn nobody() -> Note {
        Note {
            format: NOTE_FORMAT,
            url: String::new(),
            key: String::new(),
            base: None,
            upload: None,
            size: 0,
            partly: false,
            begun_anew: None,
            mark: Mark::Sent,
            unsent_close: false,
            rewrites: None,
            outgrown_slot: None,
            checksum: None,
            generation: 0,
            boot: None,
            synced: false,
            sending: Vec::new(),
            removed_object: None,
            content_type: None,
            user: BTreeMap::new(),
            base_said: None,
            carried: Carried::default(),
        }
    }

    /// Tells whether the stage may lack bytes that an upload has: what is left of them can't be sent.
    pub fn is_freed(&self) -> bool {
        self.format == FREED_FORMAT
    }

    /// Tells whether the bytes may be torn: the machine has been started anew since the note, and nobody had
    /// asked for the bytes to survive that.
    pub fn may_be_torn(&self, boot: Option<&str>) -> bool {
        let here = boot.is_none() || self.boot.is_none() || boot == self.boot.as_deref();
        !here && !self.synced && self.mark != Mark::Sent
    }

    pub fn attrs(&self) -> Attrs {
        let (content_type, user) = (self.content_type.clone(), self.user.clone());
        Attrs { content_type, user, carried: self.carried.clone() }
    }

    /// Returns the id of the stage whose version this one replaces; `None` as long as this one was not
    /// closed.
    pub fn replaces(&self) -> Option<&str> {
        self.rewrites.as_deref().filter(|_| self.mark != Mark::Open || self.unsent_close)
    }
}

/// Returns a note as it stands in its entry. Fails with `Invalid` where name and attributes are too long for
/// an entry.
pub fn encode_entry(number: u64, note: &Note) -> Result<Bytes> {
    let mut body = serde_json::to_vec(note).expect("a note has only string keys");
    if body.len() > NOTE_MAX {
        // Without it another client's change of metadata may be undone after a crash.
        let bare = Note { base_said: None, ..note.clone() };
        body = serde_json::to_vec(&bare).expect("a note has only string keys");
    }
    if body.len() > NOTE_MAX {
        return Err(Error::new(Kind::Invalid, format!("{}: name and attributes are too long", note.key)));
    }
    let mut hashed = BytesMut::with_capacity(16 + body.len());
    hashed.extend_from_slice(&number.to_le_bytes());
    hashed.extend_from_slice(&(body.len() as u64).to_le_bytes());
    hashed.extend_from_slice(&body);
    let mut out = BytesMut::with_capacity(HEAD + body.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&hashed[..16]);
    out.extend_from_slice(&xxh3_64(&hashed).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out.freeze())
}

pub fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Reads an entry: its number, the length of head and note together, and the note. `None` where the entry has
/// no whole note.
fn decode_entry(bytes: &[u8]) -> Option<(u64, usize, Note)> {
    if bytes.len() < HEAD || bytes[..8] != MAGIC[..] {
        return None;
    }
    let len = usize::try_from(word(bytes, 16)).ok().filter(|n| *n <= bytes.len() - HEAD)?;
    let body = &bytes[HEAD..HEAD + len];
    let hashed = [&bytes[8..24], body].concat();
    if xxh3_64(&hashed) != word(bytes, 24) {
        return None;
    }
    let note: Note = serde_json::from_slice(body).ok()?;
    matches!(note.format, NOTE_FORMAT | FREED_FORMAT).then_some((word(bytes, 8), HEAD + len, note))
}

/// The note entries of one stage, written in turn. A new note is written neither over the latest nor over the
/// latest durable one.
#[derive(Debug)]
pub struct NoteRing {
    starts: [u64; 3],
    /// True for entries that have a note.
    used: [bool; 3],
    /// Number of the next note.
    number: u64,
    last: Range<u64>,
    /// Range of the latest note that was made durable.
    durable: Range<u64>,
    /// True if the latest note is an earlier run's: nobody knows whether it was made durable.
    inherited: bool,
}

impl NoteRing {
    /// Makes the entries of a new stage, whose notes begin at `first`.
    pub fn new(first: u64) -> NoteRing {
        let starts = [first, ENTRY, 2 * ENTRY];
        NoteRing { starts, used: [false; 3], number: 1, last: 0..0, durable: 0..0, inherited: false }
    }

    /// Reads the entries of a stage that begins with `area`, and the note that counts.
    pub fn read(first: u64, area: &[u8]) -> (NoteRing, Option<Note>) {
        let mut ring = NoteRing::new(first);
        let at = |start: u64| {
            let bytes = area.get(start as usize..).unwrap_or_default();
            let (number, len, note) = decode_entry(&bytes[..bytes.len().min(HEAD + NOTE_MAX)])?;
            Some((number, start..start + len as u64, note))
        };
        let found = ring.starts.map(at);
        ring.used = found.each_ref().map(Option::is_some);
        let latest = found.into_iter().flatten().max_by_key(|(number, ..)| *number);
        let Some((number, last, note)) = latest else { return (ring, None) };
        // Nobody else has written there: the greatest number can't be one.
        ring.number = number.saturating_add(1);
        (ring.last, ring.inherited) = (last, true);
        (ring, Some(note))
    }

    /// Goes on behind this number: notes up to it were written, as is known from elsewhere.
    pub fn follow(&mut self, number: u64) {
        self.number = self.number.max(number.saturating_add(1));
    }

    /// Returns the number of the next note.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the next note as it stands in its entry, and the range in which it is to be written.
    pub fn next(&self, note: &Note) -> Result<(Range<u64>, Bytes)> {
        let bytes = encode_entry(self.number, note)?;
        let ranges = self.starts.map(|start| start..start + bytes.len() as u64);
        let meets = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        let free = ranges.into_iter().find(|at| !meets(at, &self.last) && !meets(at, &self.durable));
        let at = free.ok_or_else(|| Error::new(Kind::Internal, "a note has no entry"))?;
        Ok((at, bytes))
    }

    /// Returns where entries with notes other than the latest begin.
    pub fn earlier(&self) -> Vec<u64> {
        let entries = self.starts.into_iter().zip(self.used);
        entries.filter(|(start, used)| *used && *start != self.last.start).map(|(start, _)| start).collect()
    }

    /// Returns the next note as it stands in the entry that begins at `start`, in place of an earlier one.
    /// Panics if the durable note lies there.
    pub fn over(&self, start: u64, note: &Note) -> Result<(Range<u64>, Bytes)> {
        let bytes = encode_entry(self.number, note)?;
        let at = start..start + bytes.len() as u64;
        assert!(at.end <= self.durable.start || self.durable.end <= at.start, "the durable note stays");
        Ok((at, bytes))
    }

    /// Records that the next note was written at this range.
    pub fn wrote(&mut self, at: Range<u64>) {
        self.number += 1;
        for (start, used) in self.starts.into_iter().zip(&mut self.used) {
            *used |= start == at.start;
        }
        self.last = at;
    }

    /// Tells whether the latest note is an earlier run's, to be made durable before there are others.
    pub fn inherited(&self) -> bool {
        self.inherited
    }

    /// Records that the latest note was made durable.
    pub fn synced(&mut self) {
        self.durable = self.last.clone();
        self.inherited = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        Note { key: "k".into(), mark: Mark::Open, url: "mem:x".into(), ..Note::nobody() }
    }

    #[test]
    fn the_bytes_of_a_note_are_these() {
        let body = br#"{"format":5,"url":"mem:x","key":"k","base":null,"size":0,"partly":false,"mark":"open","unsent_close":false,"generation":0,"user":{}}"#;
        let bytes = encode_entry(3, &note()).unwrap();
        assert_eq!(
            &bytes[..24],
            [&MAGIC[..], &[3, 0, 0, 0, 0, 0, 0, 0, body.len() as u8, 0, 0, 0, 0, 0, 0, 0]].concat()
        );
        assert_eq!(&bytes[32..], body);
        assert_eq!(word(&bytes, 24), 11_164_869_600_045_354_240);
        assert_eq!(decode_entry(&bytes), Some((3, bytes.len(), note())));
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert_eq!(decode_entry(&bad), None, "byte {at}");
            assert_eq!(decode_entry(&bytes[..at]), None);
        }
    }

    fn put(area: &mut [u8], ring: &mut NoteRing, note: &Note) -> Range<u64> {
        let (at, bytes) = ring.next(note).unwrap();
        area[at.start as usize..at.end as usize].copy_from_slice(&bytes);
        ring.wrote(at.clone());
        at
    }

    #[test]
    fn the_last_note_and_the_last_durable_one_are_not_written_over() {
        let mut area = vec![0; AREA as usize];
        let mut ring = NoteRing::new(32);
        let sized = |size| Note { size, ..note() };
        put(&mut area, &mut ring, &sized(1));
        let durable = put(&mut area, &mut ring, &sized(2));
        ring.synced();
        for size in 3..9 {
            let before = ring.last.clone();
            let at = put(&mut area, &mut ring, &sized(size));
            assert!(at.start != durable.start && at.start != before.start, "{at:?}");
            let (found, latest) = NoteRing::read(32, &area);
            assert_eq!((latest, found.number), (Some(sized(size)), size + 1));
        }
        let torn = ring.last.clone();
        area[torn.start as usize + 40] ^= 1;
        assert_eq!(NoteRing::read(32, &area).1, Some(sized(7)), "the one before");
        for start in [32, ENTRY, 2 * ENTRY].into_iter().filter(|start| *start != durable.start) {
            area[start as usize] = 0;
        }
        assert_eq!(NoteRing::read(32, &area).1, Some(sized(2)), "the durable one");
        area[durable.start as usize] = 0;
        assert_eq!(NoteRing::read(32, &area).1, None);
        assert_eq!(NoteRing::read(32, &[]).1, None);
    }

    #[test]
    fn a_note_of_another_format_is_not_read() {
        for format in [NOTE_FORMAT - 1, FREED_FORMAT + 1] {
            let other = encode_entry(3, &Note { format, ..note() }).unwrap();
            assert_eq!(decode_entry(&other), None);
        }
    }
}
