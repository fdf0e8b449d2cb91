//! Bytes in pieces: what comes from several places is handed on without being put together.

use bytes::{Bytes, BytesMut};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Bytes in pieces, see the module. No piece is empty.
#[derive(Clone, Debug, Default)]
pub struct Rope {
    pieces: Vec<Piece>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Piece {
    Data(Bytes),
    Zeros(usize),
}

/// A part of a rope: bytes in pieces, or so many zeros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Run {
    Data(Vec<Bytes>),
    Zeros(usize),
}

impl Rope {
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push(Piece::Data(piece));
        }
    }

    /// Appends zeros, which take no memory of their own.
    pub fn push_zeros(&mut self, len: usize) {
        self.len += len;
        match self.pieces.last_mut() {
            Some(Piece::Zeros(before)) => *before += len,
            _ if len > 0 => self.pieces.push(Piece::Zeros(len)),
            _ => {}
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns all bytes in one piece: a copy, unless there is only one piece.
    pub fn into_bytes(mut self) -> Bytes {
        if let [Piece::Data(one)] = &mut self.pieces[..] {
            return std::mem::take(one);
        }
        let mut all = BytesMut::with_capacity(self.len);
        for piece in self.pieces {
            match piece {
                Piece::Data(data) => all.extend_from_slice(&data),
                Piece::Zeros(len) => all.resize(all.len() + len, 0),
            }
        }
        all.freeze()
    }

    /// Splits the rope into runs of data and of zeros, in turn. Fewer than `zeros_min` zeros side by side
    /// count as data.
    pub fn into_runs(self, zeros_min: usize) -> Vec<Run> {
        let mut runs = Vec::new();
        for piece in self.pieces {
            match (piece, runs.last_mut()) {
                (Piece::Zeros(len), _) if len >= zeros_min => runs.push(Run::Zeros(len)),
                (piece, Some(Run::Data(all))) => all.extend(shown(piece)),
                (piece, _) => runs.push(Run::Data(shown(piece).collect())),
            }
        }
        runs
    }
}

/// Returns a piece as bytes; zeros are slices of a static.
fn shown(piece: Piece) -> impl Iterator<Item = Bytes> {
    let (data, mut zeros) = match piece {
        Piece::Data(data) => (Some(data), 0),
        Piece::Zeros(len) => (None, len),
    };
    let zeros = std::iter::from_fn(move || {
        let n = zeros.min(ZEROS.len());
        zeros -= n;
        (n > 0).then(|| Bytes::from_static(&ZEROS[..n]))
    });
    data.into_iter().chain(zeros)
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
    type IntoIter = Box<dyn Iterator<Item = Bytes> + Send>;
    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.pieces.into_iter().flat_map(shown))
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
        assert_eq!(rope.clone().into_bytes(), pieces.concat());
        let runs = rope.clone().into_runs(4096);
        assert!(
            matches!(&runs[..], [Run::Data(a), Run::Zeros(100_000), Run::Data(b)] if a.len() == 1 && b.len() == 1)
        );
        assert!(matches!(&rope.into_runs(100_001)[..], [Run::Data(all)] if all.concat() == pieces.concat()));
        assert!(Rope::default().into_runs(1).is_empty());
    }
}
