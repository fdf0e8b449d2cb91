//! What clients of gRPC that are not Go's send as `:authority` over a unix socket: the socket's path, percent-encoded. No host has
//! such a name, and the HTTP/2 library ends the stream. Nothing here asks for the authority, so each `%` in it is read as `-`.
//!
//! The byte is changed where it stands, in a literal of the header block. So lengths stay, and both sides have the same table of
//! headers when they refer to it later. What is not understood passes as it came.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of the preface, which a client sends first.
const PREFACE: usize = 24;
/// Bytes before the payload of each frame: its length in 3 bytes, its type, its flags, its stream.
const FRAME: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Longest frame of headers that is looked at, in bytes. Servers say that they take none over 16 KiB.
const HEADERS_MAX: usize = 64 << 10;
const READ: usize = 16 << 10;
/// Index of `:authority` among the headers that HTTP/2 knows.
const INDEX: usize = 1;
const NAME: &[u8] = b":authority";

/// A connection whose client may name a path as the authority.
pub struct PlainAuthority<S> {
    stream: S,
    frames: Frames,
}

/// Received bytes of a connection, cut into frames.
#[derive(Default)]
struct Frames {
    /// Bytes that can be passed on.
    done: BytesMut,
    /// The beginning of a frame whose rest is to come.
    begun: BytesMut,
    /// Number of bytes to come that pass without a look.
    passes: usize,
}

impl<S> PlainAuthority<S> {
    pub fn of(stream: S) -> PlainAuthority<S> {
        PlainAuthority { stream, frames: Frames { passes: PREFACE, ..Frames::default() } }
    }
}

impl Frames {
    fn take(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
        loop {
            let passing = self.passes.min(self.begun.len());
            self.done.extend_from_slice(&self.begun.split_to(passing));
            self.passes -= passing;
            let Some(frame) = self.begun.first_chunk::<FRAME>().filter(|_| self.passes == 0) else { return };
            let len = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
            let (kind, flags) = (frame[3], frame[4]);
            if kind != HEADERS || len > HEADERS_MAX {
                self.passes = FRAME + len;
                continue;
            }
            if self.begun.len() < FRAME + len {
                return;
            }
            let mut whole = self.begun.split_to(FRAME + len);
            let mut at = FRAME;
            at += if flags & PADDED != 0 { 1 } else { 0 };
            at += if flags & PRIORITY != 0 { 5 } else { 0 };
            if let Some(block) = whole.get_mut(at..) {
                make_plain(block);
            }
            self.done.extend_from_slice(&whole);
        }
    }
}

/// Reads an integer that begins in the lower bits of a byte. Returns how many bytes it takes as well.
fn integer(bytes: &[u8], bits: u32) -> Option<(usize, usize)> {
    let most = (1usize << bits) - 1;
    let mut value = usize::from(*bytes.first()?) & most;
    if value < most {
        return Some((value, 1));
    }
    for (n, byte) in bytes.get(1..)?.iter().take(4).enumerate() {
        value += usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((value, n + 2));
        }
    }
    None
}

/// Returns where a string's bytes lie, if they are not coded, and where the string ends.
fn string(bytes: &[u8], at: usize) -> Option<(Option<std::ops::Range<usize>>, usize)> {
    let from = bytes.get(at..)?;
    let is_coded = from.first()? & 0x80 != 0;
    let (len, taken) = integer(from, 7)?;
    let (start, end) = (at + taken, (at + taken).checked_add(len)?);
    bytes.get(start..end)?;
    Some(((!is_coded).then_some(start..end), end))
}

/// Replaces `%` in the authority of a header block, as far as the block is understood.
fn make_plain(block: &mut [u8]) {
    let mut at = 0;
    while let Some(next) = plain_from(block, at) {
        at = next;
    }
}

/// Handles the field that begins at `at`, and returns where the next one begins. `None`: there is no field,
/// or none that is understood.
fn plain_from(block: &mut [u8], at: usize) -> Option<usize> {
    let first = *block.get(at)?;
    let bits = match first {
        // A field of the table, and a new size of that.
        _ if first & 0x80 != 0 => return Some(at + integer(&block[at..], 7)?.1),
        _ if first & 0xe0 == 0x20 => return Some(at + integer(&block[at..], 5)?.1),
        // A literal that the table takes up, and one that it does not.
        _ if first & 0x40 != 0 => 6,
        _ => 4,
    };
    let (index, taken) = integer(&block[at..], bits)?;
    let mut at = at + taken;
    let mut is_authority = index == INDEX;
    if index == 0 {
        let (name, end) = string(block, at)?;
        is_authority = name.is_some_and(|name| block[name] == *NAME);
        at = end;
    }
    let (value, end) = string(block, at)?;
    if let Some(value) = value.filter(|_| is_authority) {
        block[value].iter_mut().filter(|byte| **byte == b'%').for_each(|byte| *byte = b'-');
    }
    Some(end)
}

impl<S: AsyncRead + Unpin> AsyncRead for PlainAuthority<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.frames.done.is_empty() {
            let mut bytes = [0; READ];
            let mut come = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut come))?;
            if come.filled().is_empty() {
                // The end; a frame that was cut off goes with it.
                return Poll::Ready(Ok(()));
            }
            this.frames.take(come.filled());
        }
        let some = to.remaining().min(this.frames.done.len());
        to.put_slice(&this.frames.done[..some]);
        this.frames.done.advance(some);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PlainAuthority<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = (payload.len() as u32).to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A header block as grpc 1.85 for Python sends it.
    const BLOCK: &[u8] = b"@\x05:path\x06/a.b/C@\n:authority\x13tmp%2Fw%2Fauth.sock\x83\x86@\x0ccontent-type\x10application/grpc\
        @\x02te\x08trailers";
    const PLAIN: &[u8] = b"@\x05:path\x06/a.b/C@\n:authority\x13tmp-2Fw-2Fauth.sock\x83\x86@\x0ccontent-type\x10application/grpc\
        @\x02te\x08trailers";

    #[test]
    fn a_path_becomes_a_name_wherever_the_bytes_are_cut() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let data = frame(0, 1, b"\0\0\0\0\x03a%b");
        let padded =
            frame(HEADERS, 4 | PADDED | PRIORITY, &[&b"\x02\0\0\0\0\0"[..], BLOCK, b"\0\0"].concat());
        let sent =
            [preface.clone(), frame(4, 0, &[0; 36]), frame(HEADERS, 4, BLOCK), data.clone(), padded].concat();
        let padded =
            frame(HEADERS, 4 | PADDED | PRIORITY, &[&b"\x02\0\0\0\0\0"[..], PLAIN, b"\0\0"].concat());
        let wanted = [preface, frame(4, 0, &[0; 36]), frame(HEADERS, 4, PLAIN), data, padded].concat();
        for step in [1, 7, 100, sent.len()] {
            let mut frames = Frames { passes: PREFACE, ..Frames::default() };
            sent.chunks(step).for_each(|bytes| frames.take(bytes));
            assert!(frames.done[..] == wanted[..], "in steps of {step}");
        }
    }

    #[test]
    fn nothing_else_is_changed() {
        for block in [
            // Another header, a name of the table, a coded value, fields of the table, and what breaks off.
            &b"@\x01x\x03a%b"[..],
            b"\x04\x03a%b",
            b"\x41\x83a%b",
            b"\x82\x84\x3f\xe1\x1f",
            b"@\n:authority\x7f\xff\xff\xff\xff\xff",
            b"@\n:authority\x10a%b",
            b"",
        ] {
            let mut seen = block.to_vec();
            make_plain(&mut seen);
            assert_eq!(seen, block);
        }
        let mut indexed = b"\x41\x03a%b\x01\x03c%d".to_vec();
        make_plain(&mut indexed);
        assert_eq!(indexed, b"\x41\x03a-b\x01\x03c-d");
    }
}
