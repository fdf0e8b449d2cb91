//! Frames over a stream: the length of each (4 bytes, little-endian), then the frame. A length is looked at before memory is
//! taken for it, and memory is taken of a budget before bytes are read.

use std::io;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, BufWriter};

use windlass_base::Budget;
use windlass_base::rt::link::{FRAME_MAX, Frame, Link, LinkReceiver, LinkSender};

/// Bytes that are gathered before the network gets them, and that are read ahead.
const BUFFER: usize = 64 << 10;
/// Largest frame from a peer, which sends no data, in bytes.
const ANSWER_MAX: usize = 4096;

#[derive(Debug)]
struct StreamSender<S>(BufWriter<S>);

#[derive(Debug)]
struct StreamReceiver<S> {
    stream: BufReader<S>,
    max: usize,
    /// Budget of the memory for frames; `None` where frames are small.
    budget: Option<Budget>,
}

/// Makes a link of a stream. The side that is sent data gives a `budget`.
pub fn link<S>(stream: S, budget: Option<Budget>) -> Link
where
    S: AsyncRead + AsyncWrite + Send + std::fmt::Debug + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let max = if budget.is_some() { FRAME_MAX } else { ANSWER_MAX };
    let stream = BufReader::with_capacity(BUFFER, read);
    Link {
        sender: Box::new(StreamSender(BufWriter::with_capacity(BUFFER, write))),
        receiver: Box::new(StreamReceiver { stream, max, budget }),
    }
}

#[async_trait]
impl<S: AsyncWrite + Send + Unpin + std::fmt::Debug> LinkSender for StreamSender<S> {
    async fn send(&mut self, frames: Vec<Vec<Bytes>>) -> io::Result<()> {
        for frame in frames {
            let len: usize = frame.iter().map(Bytes::len).sum();
            let len = u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            self.0.write_all(&len.to_le_bytes()).await?;
            for part in frame {
                self.0.write_all(&part).await?;
            }
        }
        self.0.flush().await
    }
}

#[async_trait]
impl<S: AsyncRead + Send + Unpin + std::fmt::Debug> LinkReceiver for StreamReceiver<S> {
    async fn receive(&mut self) -> io::Result<Option<Frame>> {
        let mut len = [0; 4];
        match self.stream.read_exact(&mut len).await {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        };
        let len = u32::from_le_bytes(len) as usize;
        if len > self.max {
            let why = format!("a frame of {len} bytes, where {} are allowed", self.max);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let held = match &self.budget {
            Some(budget) => Some(budget.take(len as u64).await),
            None => None,
        };
        let mut bytes = BytesMut::zeroed(len);
        self.stream.read_exact(&mut bytes).await?;
        Ok(Some(Frame { bytes: bytes.freeze(), held }))
    }

    /// Lets frames be as long as data needs from now on. They take no budget, and come one at a time: requests that
    /// hold some may wait for what these frames bring.
    fn expect_data(&mut self) {
        self.max = FRAME_MAX;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_as_they_were_sent_and_their_memory_is_counted() {
        let (a, b) = tokio::io::duplex(100_000);
        let budget = Budget::new(1 << 20);
        let (mut near, mut far) = (link(a, None), link(b, Some(budget.clone())));
        let parts = vec![Bytes::from_static(b"ab"), Bytes::new(), Bytes::from(vec![7; 70_000])];
        near.sender.send(vec![parts, vec![Bytes::new()]]).await.unwrap();
        let frame = far.receiver.receive().await.unwrap().unwrap();
        assert_eq!((frame.bytes.len(), &frame.bytes[..3]), (70_002, &b"ab\x07"[..]));
        assert!(budget.used() >= 70_002);
        drop(frame);
        assert!(far.receiver.receive().await.unwrap().unwrap().bytes.is_empty() && budget.used() == 0);
        // A peer says little.
        far.sender.send(vec![vec![Bytes::from(vec![1; ANSWER_MAX + 1])]]).await.unwrap();
        assert!(near.receiver.receive().await.is_err());
        let (a, b) = tokio::io::duplex(100_000);
        let (mut near, mut far) = (link(a, None), link(b, Some(budget.clone())));
        near.receiver.expect_data();
        far.sender.send(vec![vec![Bytes::from(vec![1; ANSWER_MAX + 1])]]).await.unwrap();
        assert_eq!(near.receiver.receive().await.unwrap().unwrap().bytes.len(), ANSWER_MAX + 1);
        drop(near);
        assert!(far.receiver.receive().await.unwrap().is_none());
    }
}
