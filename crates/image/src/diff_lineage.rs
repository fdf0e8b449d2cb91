//! Which snapshots a difference lies between, by what is never used again. A name tells that to people: another snapshot may have
//! it by the time when the difference is applied.
//!
//! A qcow2 has it in its own extension, beside the names. In an rbd-diff it follows the end of the stream, where other programs
//! have stopped reading: JSON, its length (4 bytes, little-endian), and `windlass\n`.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

const MARK: &[u8] = b"windlass\n";
/// Most bytes of a trailer.
pub const TRAILER_MAX: usize = 1024;

/// A snapshot of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotIdentity {
    /// Id of the volume.
    pub volume: String,
    /// Number of the snapshot in that volume.
    pub snapshot: u64,
    pub created_ms: u64,
}

/// The snapshots at both ends of a difference. `None`: that end is no snapshot, or nobody told.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Between {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_id: Option<SnapshotIdentity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_id: Option<SnapshotIdentity>,
}

impl Between {
    pub fn trailer(&self) -> Bytes {
        if *self == Between::default() {
            return Bytes::new();
        }
        let text = serde_json::to_vec(self).unwrap_or_default();
        let mut out = BytesMut::from(&text[..]);
        out.put_u32_le(text.len() as u32);
        out.put_slice(MARK);
        out.freeze()
    }

    /// Reads the bytes that follow the end of a stream. `None`: they are something else than a trailer.
    pub fn of_trailer(bytes: &[u8]) -> Option<Between> {
        if bytes.is_empty() {
            return Some(Between::default());
        }
        let (text, len) = bytes.strip_suffix(MARK)?.split_last_chunk::<4>()?;
        let whole = u32::from_le_bytes(*len) as usize == text.len() && bytes.len() <= TRAILER_MAX;
        whole.then(|| serde_json::from_slice(text).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_is_read_whole_or_not_at_all() {
        let one = SnapshotIdentity { volume: "0a".repeat(16), snapshot: 7, created_ms: 1_700_000_000_000 };
        let between = Between { since_id: Some(one.clone()), to_id: Some(one) };
        let bytes = between.trailer();
        assert!(bytes.len() < TRAILER_MAX && bytes.ends_with(b"windlass\n"));
        assert_eq!(Between::of_trailer(&bytes), Some(between));
        assert_eq!(Between::of_trailer(&Between::default().trailer()), Some(Between::default()));
        for end in 1..bytes.len() {
            assert_eq!(Between::of_trailer(&bytes[..end]), None);
        }
        for odd in [&b"\0"[..], b"rbd diff v1\n", b"{}\x03\0\0\0windlass\n", b"{}\x02\0\0\0windlass\nx"] {
            assert_eq!(Between::of_trailer(odd), None);
        }
    }
}
