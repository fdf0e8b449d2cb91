//! Pieces of a disk, in order.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use windlass_base::Result;

/// Most bytes of a piece that has data, but for formats whose own unit is larger.
pub const PIECE: u64 = 1 << 20;
/// Most bytes of pieces that are under way.
pub(super) const UNDER_WAY: u64 = 64 << 20;

/// A part of a disk. It may have any length where it has no data.
pub struct Piece {
    pub offset: u64,
    pub len: u64,
    pub content: Content,
}

pub enum Content {
    /// The piece is nothing but zeros.
    Zero,
    /// The future reads the piece's `len` bytes.
    Data(BoxFuture<'static, Result<Bytes>>),
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = match &self.content {
            Content::Zero => "zero",
            Content::Data(_) => "data",
        };
        write!(f, "{}+{} {content}", self.offset, self.len)
    }
}

/// A disk as pieces that lie side by side: each byte comes once, in order.
#[async_trait]
pub trait Source: Send {
    /// Returns the bytes of the disk, a multiple of 512. `None`: the size is known at the end only.
    fn size(&self) -> Option<u64>;

    /// Returns how many pieces may be read at a time: as many as fit the memory for them, and as the file can
    /// be asked for.
    fn pieces_max(&self) -> usize {
        (UNDER_WAY / PIECE) as usize
    }

    /// Goes on from this offset. What lies before need not be read.
    fn skip_to(&mut self, offset: u64);

    async fn next(&mut self) -> Result<Option<Piece>>;

    /// Returns, after the last piece, the SHA-256 of the file that the disk was read from, where the sum was
    /// taken on the way.
    fn sum(&self) -> Option<String> {
        None
    }
}
