//! Whose bytes are staged, and what for: a note beside them, in one of two slots in turn, so that one that is torn leaves
//! the one before.
//!
//! | slot | bytes | meaning |
//! |---|---|---|
//! | 0 | 8 | `WLSTAGE1` |
//! | 8 | 8 | number: the greater one counts |
//! | 16 | 8 | length of the note |
//! | 24 | 8 | XXH3-64 of number, length and note |
//! | 32 | … | the note: JSON |
//!
//! Numbers are little-endian.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::remote::{Base, Source};
use super::signature::Signature;
use crate::base::{Error, Kind, Result};
use crate::store::Attrs;

const MAGIC: &[u8; 8] = b"WLSTAGE1";
const HEAD: usize = 32;
/// The longest note, in bytes; a slot has no less room.
const NOTE_MAX: usize = (16 << 10) - 2 * HEAD;
pub const FORMAT: u32 = 2;

/// How a file's staged bytes stand to its object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Written to since it was last closed or synced.
    Open,
    /// As it was closed or synced; the bucket may not have it yet.
    Closed,
    /// The bucket has it.
    Sent,
}

/// Whose bytes are staged, and what for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    pub format: u32,
    pub url: String,
    pub key: String,
    /// The object that they change; none for a new one.
    pub base: Option<Base>,
    /// Another object, whose bytes count instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrowed: Option<Source>,
    /// The multipart upload that has parts of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    pub size: u64,
    /// Bytes of the object still count: the edits stand beside.
    pub partly: bool,
    pub mark: Mark,
    /// A close or fsync since the bucket last had it was answered, or is being.
    pub owed: bool,
    /// The stage of a version that was closed, over which this one was begun anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// The berth that the file outgrew: all that was there is in this stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outgrown: Option<String>,
    /// XXH3-64 of the bytes of a closed file in a berth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<u64>,
    /// What may have been sent since `base` was the object, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sending: Vec<Signature>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    pub user: BTreeMap<String, String>,
}

impl Note {
    /// One that says nothing.
    #[cfg(test)]
    pub fn nobody() -> Note {
        Note {
            format: FORMAT,
            url: String::new(),
            key: String::new(),
            base: None,
            borrowed: None,
            upload: None,
            size: 0,
            partly: false,
            mark: Mark::Sent,
            owed: false,
            over: None,
            outgrown: None,
            sum: None,
            sending: Vec::new(),
            content_type: None,
            user: BTreeMap::new(),
        }
    }

    pub fn attrs(&self) -> Attrs {
        Attrs { content_type: self.content_type.clone(), user: self.user.clone() }
    }
}

/// A note as it stands in its slot.
pub fn slot(number: u64, note: &Note) -> Result<Bytes> {
    let body = serde_json::to_vec(note).expect("a note has only string keys");
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

/// How long the note in a slot is, with what stands before it, if its first bytes are a slot's.
pub fn slot_len(bytes: &[u8]) -> Option<usize> {
    let is_slot = bytes.len() >= HEAD && bytes[..8] == MAGIC[..];
    is_slot.then(|| usize::try_from(word(bytes, 16)).ok()?.checked_add(HEAD)).flatten()
}

/// A slot's number and note; none where it has no whole one.
pub fn unslot(bytes: &[u8]) -> Option<(u64, Note)> {
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
    (note.format == FORMAT).then_some((word(bytes, 8), note))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        Note { key: "k".into(), mark: Mark::Open, url: "mem:x".into(), ..Note::nobody() }
    }

    #[test]
    fn the_bytes_of_a_note_are_these() {
        let body = br#"{"format":2,"url":"mem:x","key":"k","base":null,"size":0,"partly":false,"mark":"open","owed":false,"user":{}}"#;
        let bytes = slot(3, &note()).unwrap();
        assert_eq!(
            &bytes[..24],
            [&MAGIC[..], &[3, 0, 0, 0, 0, 0, 0, 0, body.len() as u8, 0, 0, 0, 0, 0, 0, 0]].concat()
        );
        assert_eq!(&bytes[32..], body);
        assert_eq!(word(&bytes, 24), 13_357_802_529_577_690_139);
        assert_eq!(unslot(&bytes), Some((3, note())));
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert_eq!(unslot(&bad), None, "byte {at}");
            assert_eq!(unslot(&bytes[..at]), None);
        }
    }
}
