//! The face against scripted bytes, on the simulation's virtual time: what hangs is a deadlock and fails.

mod connection_state;
mod extended;
mod handshake;
mod malformed;
mod model;
mod sockets;
mod tls;
mod transmission;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::server::serve_stream;
pub use super::sim::*;
use super::suspend_resume::Until;
use super::wire::Headers;
use super::{Export, HeldDisk, ListedExport, MemoryDisk};
use windlass_base::rt::sim::Sim;
use windlass_base::rt::{Rt, Task};
use windlass_base::{Budget, Kind};

/// A client that says exactly what the test says. Its numbers are written out here, not taken from the codec.
pub struct Peer<S = DuplexStream> {
    pub io: S,
    pub house: Arc<House>,
    pub stop: CancellationToken,
    pub pause: CancellationToken,
    pub server: Task<Option<(DuplexStream, super::Unserved)>>,
}

pub fn connect(house: &Arc<House>, buffer: usize) -> Peer {
    let (io, theirs) = tokio::io::duplex(buffer);
    let (stop, pause) = (CancellationToken::new(), CancellationToken::new());
    let until = Until { stop: stop.clone(), pause: pause.clone() };
    let exports = Arc::new(Shown(house.clone()));
    let server = serve_stream(&house.rt, (theirs, None), exports, house.memory.clone(), until);
    Peer { io, house: house.clone(), stop, pause, server }
}

pub fn option(code: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &code.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

pub fn info_data(name: &str, wants: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((wants.len() as u16).to_be_bytes());
    wants.iter().for_each(|w| data.extend(w.to_be_bytes()));
    data
}

pub fn context_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let string = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
    let mut data = string(name);
    data.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| data.extend(string(query)));
    data
}

pub fn reply(code: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let magic = 0x0003_e889_0455_65a9_u64.to_be_bytes();
    let len = (data.len() as u32).to_be_bytes();
    [&magic[..], &code.to_be_bytes(), &kind.to_be_bytes(), &len, data].concat()
}

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const ZEROES: u16 = 6;
pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 2;
pub const DF: u16 = 4;
pub const FAST_ZERO: u16 = 16;
/// Flag of extended headers: the payload is as long as the header says.
pub const PAYLOAD: u16 = 32;

pub fn request(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut out = vec![0x25, 0x60, 0x95, 0x13];
    out.extend(flags.to_be_bytes());
    out.extend(command.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(len.to_be_bytes());
    out
}

pub fn simple(errno: u32, cookie: u64) -> Vec<u8> {
    [&[0x67, 0x44, 0x66, 0x98][..], &errno.to_be_bytes(), &cookie.to_be_bytes()].concat()
}

pub fn chunk(kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    let head = [0x66, 0x8e, 0x33, 0xef, 0, 1];
    [&head[..], &kind.to_be_bytes(), &cookie.to_be_bytes(), &len, payload].concat()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.io.write_all(bytes.as_ref()).await.expect("the server takes bytes");
        self.io.flush().await.expect("the server takes bytes");
    }

    pub async fn receive(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.io.read_exact(&mut bytes).await.expect("the server answers");
        bytes
    }

    pub async fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        assert_eq!(self.receive(bytes.as_ref().len()).await, bytes.as_ref());
    }

    /// Checks that the server hangs up and says nothing before.
    pub async fn expect_end(mut self) {
        let mut rest = Vec::new();
        let _ = self.io.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
        self.server.await.expect("the connection ends in order");
        assert_eq!(self.house.state.lock().open, 0);
    }

    /// Exchanges greeting and flags: FIXED_NEWSTYLE and NO_ZEROES.
    pub async fn greet(&mut self) {
        self.expect(b"NBDMAGICIHAVEOPT\0\x03").await;
        self.send([0, 0, 0, 3]).await;
    }

    /// Receives an option's reply, and returns its kind and data.
    pub async fn answer(&mut self, code: u32) -> (u32, Vec<u8>) {
        let head = self.receive(20).await;
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!(head[..12], reply(code, 0, &[])[..12]);
        (number(12), self.receive(number(16) as usize).await)
    }

    /// Checks that an option is refused so, and returns the reason.
    pub async fn refused(&mut self, code: u32, kind: u32) -> String {
        let (seen, data) = self.answer(code).await;
        assert_eq!(seen, (1 << 31) + kind, "option {code}");
        String::from_utf8(data).unwrap()
    }

    pub async fn structured(&mut self) {
        self.send(option(8, &[])).await;
        self.expect(reply(8, 1, &[])).await;
    }

    pub async fn go(&mut self, name: &str) {
        self.send(option(7, &info_data(name, &[]))).await;
        assert_eq!(self.answer(7).await.0, 3);
        self.expect(reply(7, 1, &[])).await;
    }

    /// Receives a structured error, and returns its number and text.
    pub async fn error_chunk(&mut self, cookie: u64) -> (u32, String) {
        let head = self.receive(20).await;
        assert_eq!(head[..16], chunk(0x8001, cookie, &[])[..16]);
        let len = u32::from_be_bytes(head[16..].try_into().unwrap()) as usize;
        let body = self.receive(len).await;
        assert_eq!(usize::from(u16::from_be_bytes([body[4], body[5]])), len - 6);
        let errno = u32::from_be_bytes(body[..4].try_into().unwrap());
        (errno, String::from_utf8(body[6..].to_vec()).unwrap())
    }
}

/// Connects a client in the transmission phase of `name`, in a house of its own.
pub async fn entered(rt: &Rt, name: &str, structured: bool) -> Peer {
    entered_at(&House::new(rt), name, structured).await
}

/// Connects a client in the transmission phase of `name`, in a house that others are in.
pub async fn entered_at(house: &Arc<House>, name: &str, structured: bool) -> Peer {
    let mut peer = connect(house, 64 << 10);
    peer.greet().await;
    if structured {
        peer.structured().await;
    }
    peer.go(name).await;
    peer
}
