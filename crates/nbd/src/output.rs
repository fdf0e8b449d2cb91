//! Replies on their way out: headers gathered, data by reference, several at a time in one vectored write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Most slices in one write.
const SLICES: usize = 64;
/// Data of at most so many bytes are copied behind their header: a slice of their own costs more.
const COPIED: usize = 512;

#[derive(Debug, Default)]
pub struct Output {
    whole: VecDeque<Bytes>,
    /// Headers that no data has followed yet.
    tail: BytesMut,
    bytes: usize,
    /// The stream may hold back what it took, as TLS does.
    unflushed: bool,
}

impl Output {
    /// Returns how many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tells whether all that was added has left.
    pub fn is_done(&self) -> bool {
        self.bytes == 0 && !self.unflushed
    }

    /// Adds the header that `put` writes.
    pub fn header(&mut self, put: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        put(&mut self.tail);
        self.bytes += self.tail.len() - before;
    }

    pub fn data(&mut self, data: Bytes) {
        self.bytes += data.len();
        if data.len() <= COPIED {
            self.tail.extend_from_slice(&data);
        } else {
            self.close_tail();
            self.whole.push_back(data);
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.whole.push_back(self.tail.split().freeze());
        }
    }

    /// Writes until nothing is left, here or in the stream, or until the peer takes no more.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        self.close_tail();
        while !self.whole.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = self.whole.iter().zip(&mut slices).map(|(b, s)| *s = IoSlice::new(b)).count();
            match ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..used]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.advance(n),
            }
            self.unflushed = true;
        }
        if self.unflushed {
            // A plain socket has nothing to flush, so this costs it no system call.
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut n: usize) {
        self.bytes -= n;
        while n > 0 {
            let first = self.whole.front_mut().expect("no more was written than there is");
            if n < first.len() {
                first.advance(n);
                return;
            }
            n -= first.len();
            self.whole.pop_front();
        }
    }

    /// Makes an output that begins with `first`.
    pub fn beginning(first: Vec<u8>) -> Output {
        let mut output = Output { bytes: first.len(), ..Output::default() };
        if !first.is_empty() {
            output.whole.push_back(first.into());
        }
        output
    }

    /// Takes out all bytes that wait.
    pub fn take(&mut self) -> Vec<u8> {
        self.close_tail();
        std::mem::take(self).whole.into_iter().flatten().collect()
    }

    /// Drops all bytes that wait: the peer takes no more.
    pub fn discard(&mut self) {
        *self = Output::default();
    }
}
