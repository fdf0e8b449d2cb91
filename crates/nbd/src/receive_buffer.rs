//! The bytes that a connection has received and not yet understood: one fixed buffer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Size of the buffer in bytes: large enough that many small requests come with one system call.
pub const WINDOW: usize = 64 << 10;

pub struct Window {
    buf: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Window {
    pub fn new() -> Window {
        Window { buf: vec![0; WINDOW].into(), start: 0, end: 0 }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Returns the next `N` bytes, when they are there, and leaves them in the window.
    pub fn peek<const N: usize>(&self) -> Option<&[u8; N]> {
        self.bytes().first_chunk()
    }

    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.end - self.start, "only what was seen is consumed");
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Receives what fits, and returns how much it was; 0 is the end. There is always room for anything that
    /// needs at most half the window.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        if self.end > WINDOW / 2 {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut space = ReadBuf::new(&mut self.buf[self.end..]);
        ready!(Pin::new(stream).poll_read(cx, &mut space))?;
        let n = space.filled().len();
        self.end += n;
        Poll::Ready(Ok(n))
    }

    /// Receives until `n` bytes are there. An end before that is `UnexpectedEof`.
    pub async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin), n: usize) -> io::Result<()> {
        assert!(n <= WINDOW / 2, "the window holds whatever is waited for");
        while self.end - self.start < n {
            if std::future::poll_fn(|cx| self.poll_fill(cx, stream)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Receives and returns `N` bytes.
    pub async fn take<const N: usize>(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<[u8; N]> {
        self.fill(stream, N).await?;
        let bytes = *self.peek().expect("fill gave N bytes");
        self.consume(N);
        Ok(bytes)
    }

    /// Receives `n` bytes and forgets them, however many.
    pub async fn drain(&mut self, stream: &mut (impl AsyncRead + Unpin), mut n: u64) -> io::Result<()> {
        while n > 0 {
            self.fill(stream, 1).await?;
            let step = (self.end - self.start).min(usize::try_from(n).unwrap_or(usize::MAX));
            self.consume(step);
            n -= step as u64;
        }
        Ok(())
    }
}
