//! A raw disk in a file.

use std::sync::Arc;

use async_trait::async_trait;

use super::piece_source::{Content, PIECE, Piece, Source, UNDER_WAY};
use super::read_at::{ReadAt, read_padded};
use windlass_base::Result;

/// Bytes of a sector. Disks are made of sectors: a file that ends in the middle of one is filled up.
pub(super) const SECTOR: u64 = 512;

#[derive(Debug)]
pub struct Raw {
    file: Arc<dyn ReadAt>,
    at: u64,
    /// The run of data that `at` lies in or before. `None`: it is to be looked for.
    data: Option<std::ops::Range<u64>>,
}

impl Raw {
    pub fn new(file: Arc<dyn ReadAt>) -> Raw {
        Raw { file, at: 0, data: None }
    }

    fn end(&self) -> u64 {
        self.file.size().next_multiple_of(SECTOR)
    }

    /// Returns a piece without data, from `at` up to `end`, in whole sectors.
    fn hole(&mut self, end: u64) -> Piece {
        let piece = Piece { offset: self.at, len: end - self.at, content: Content::Zero };
        self.at = end;
        piece
    }

    fn read(&mut self, end: u64) -> Piece {
        let (offset, file) = (self.at, self.file.clone());
        let len = end - offset;
        self.at = end;
        let read = async move { read_padded(&*file, offset, len, SECTOR).await };
        Piece { offset, len, content: Content::Data(Box::pin(read)) }
    }
}

#[async_trait]
impl Source for Raw {
    fn size(&self) -> Option<u64> {
        Some(self.end())
    }

    fn pieces_max(&self) -> usize {
        ((UNDER_WAY / PIECE) as usize).min(self.file.reads_max())
    }

    fn skip_to(&mut self, offset: u64) {
        (self.at, self.data) = (offset, None);
    }

    async fn next(&mut self) -> Result<Option<Piece>> {
        if self.at >= self.end() {
            return Ok(None);
        }
        let data = match self.data.take().filter(|data| self.at < data.end) {
            Some(data) => data,
            None => match self.file.data_after(self.at).await? {
                Some(data) => data.start / SECTOR * SECTOR..data.end.next_multiple_of(SECTOR).min(self.end()),
                None => return Ok(Some(self.hole(self.end()))),
            },
        };
        if data.start > self.at {
            let start = data.start;
            self.data = Some(data);
            return Ok(Some(self.hole(start)));
        }
        let end = (self.at / PIECE + 1) * PIECE;
        let end = end.min(data.end);
        self.data = Some(data);
        Ok(Some(self.read(end)))
    }
}

/// Reads all of a source, as one run of bytes.
#[cfg(test)]
pub(super) async fn whole(source: &mut dyn Source) -> Result<bytes::Bytes> {
    let mut all = Vec::new();
    while let Some(piece) = source.next().await? {
        assert_eq!(piece.offset, all.len() as u64, "{piece:?}");
        let len = piece.len;
        match piece.content {
            Content::Data(read) => all.extend_from_slice(&read.await?),
            Content::Zero => all.resize(all.len() + len as usize, 0),
        }
        assert_eq!(all.len() as u64, piece.offset + len);
    }
    Ok(all.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_at::InMemory;
    use futures::executor::block_on;

    #[test]
    fn a_disk_is_filled_up_to_whole_sectors() {
        let bytes: Vec<u8> = (0..3_000_001u32).map(|n| n as u8).collect();
        let file: Arc<dyn ReadAt> = Arc::new(InMemory(bytes.clone().into()));
        let mut raw = Raw::new(file);
        let all = block_on(whole(&mut raw)).unwrap();
        assert_eq!(all.len() as u64, raw.size().unwrap());
        assert_eq!(all.len(), 3_000_320);
        assert_eq!(&all[..bytes.len()], &bytes[..]);
        assert!(all[bytes.len()..].iter().all(|b| *b == 0));
        raw.skip_to(2_500_096);
        let piece = block_on(raw.next()).unwrap().unwrap();
        assert_eq!((piece.offset, piece.len), (2_500_096, 3_000_320 - 2_500_096));
    }
}
