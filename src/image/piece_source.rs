//! Pieces of a disk, in order.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::base::Result;

/// Bytes of a piece that has data, but for formats whose own unit is larger.
pub const PIECE: u64 = 1 << 20;
/// Bytes of pieces that are under way.
pub(super) const UNDER_WAY: u64 = 64 << 20;

/// A part of a disk. Of any length where it has no data.
pub struct Piece {
    pub offset: u64,
    pub len: u64,
    pub content: Content,
}

pub enum Content {
    /// Nothing but zeros.
    Zero,
    /// `len` bytes, once this is run.
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

/// Gives each byte of a disk once, in order, as pieces that lie side by side.
#[async_trait]
pub trait Source: Send {
    /// Bytes of the disk, a multiple of 512; none: it is known at the end only.
    fn size(&self) -> Option<u64>;

    /// Pieces that may be read at a time: so many fit the memory for it, and what they come from can be asked for.
    fn pieces_max(&self) -> usize {
        (UNDER_WAY / PIECE) as usize
    }

    /// Goes on from there. What lies before need not be read.
    fn skip_to(&mut self, offset: u64);

    async fn next(&mut self) -> Result<Option<Piece>>;

    /// Returns, after the last piece, the SHA-256 of the file that the disk was read from, where the sum was
    /// taken on the way.
    fn sum(&self) -> Option<String> {
        None
    }
}
