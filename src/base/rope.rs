//! Bytes in pieces: what comes from several places is handed on without being put together.

use bytes::{Bytes, BytesMut};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// See the module. No piece is empty.
#[derive(Clone, Debug, Default)]
pub struct Rope {
    pieces: Vec<Bytes>,
    len: usize,
}

impl Rope {
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Takes no memory of its own.
    pub fn push_zeros(&mut self, mut len: usize) {
        while len > 0 {
            let n = len.min(ZEROS.len());
            self.push(Bytes::from_static(&ZEROS[..n]));
            len -= n;
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All in one: a copy, unless there is only one piece.
    pub fn into_bytes(mut self) -> Bytes {
        if self.pieces.len() <= 1 {
            return self.pieces.pop().unwrap_or_default();
        }
        let mut all = BytesMut::with_capacity(self.len);
        self.pieces.iter().for_each(|piece| all.extend_from_slice(piece));
        all.freeze()
    }
}

impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Rope {
        let mut rope = Rope::default();
        rope.push(bytes);
        rope
    }
}

impl IntoIterator for Rope {
    type Item = Bytes;
    type IntoIter = std::vec::IntoIter<Bytes>;
    fn into_iter(self) -> Self::IntoIter {
        self.pieces.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_as_they_went_in() {
        assert!(Rope::default().is_empty() && Rope::default().into_bytes().is_empty());
        let one = Bytes::from(vec![7; 10]);
        assert_eq!(Rope::from(one.clone()).into_bytes().as_ptr(), one.as_ptr());
        let mut rope = Rope::from(one);
        rope.push(Bytes::new());
        rope.push_zeros(100_000);
        rope.push(Bytes::from_static(b"end"));
        assert_eq!(rope.len(), 100_013);
        let pieces: Vec<Bytes> = rope.clone().into_iter().collect();
        assert!(pieces.len() == 4 && pieces.iter().all(|p| !p.is_empty()));
        assert_eq!(rope.into_bytes(), pieces.concat());
    }
}
