//! The transmission phase's bytes, as pure functions: request and reply headers, big-endian, no I/O.
//!
//! Names and numbers are those of the protocol document (NetworkBlockDevice/nbd, doc/proto.md).

use bytes::{Buf, BufMut};

use crate::base::{Error, Kind, Result};

/// The largest payload in either direction, as told in `INFO_BLOCK_SIZE`.
pub const PAYLOAD_MAX: u32 = 32 << 20;
/// The longest string of the protocol.
pub const STRING_MAX: usize = 4096;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Transmission flags of an export.
pub mod flag {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Flags of one command.
pub mod command_flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// The error numbers that the protocol allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Errno {
    Perm = 1,
    Io = 5,
    Inval = 22,
    NoSpace = 28,
    Overflow = 75,
    NotSup = 95,
    Shutdown = 108,
}

impl Errno {
    /// Where our errors become the protocol's.
    pub fn of(kind: Kind) -> Errno {
        match kind {
            Kind::ReadOnly | Kind::Denied | Kind::Refused | Kind::Owned => Errno::Perm,
            Kind::Usage | Kind::Invalid | Kind::Unsupported => Errno::Inval,
            Kind::NoSpace => Errno::NoSpace,
            Kind::Closed => Errno::Shutdown,
            Kind::NotFound
            | Kind::Exists
            | Kind::Unavailable
            | Kind::Timeout
            | Kind::Throttled
            | Kind::Fenced
            | Kind::Corrupt
            | Kind::Archived
            | Kind::Io
            | Kind::Removed
            | Kind::Internal => Errno::Io,
        }
    }

    pub fn of_number(number: u32) -> Option<Errno> {
        use Errno::{Inval, Io, NoSpace, NotSup, Overflow, Perm, Shutdown};
        [Perm, Io, Inval, NoSpace, Overflow, NotSup, Shutdown].into_iter().find(|e| *e as u32 == number)
    }

    /// And back, in a client; the protocol has an unexpected number mean `Inval`.
    pub fn kind(number: u32) -> Kind {
        match number {
            1 => Kind::ReadOnly,
            5 => Kind::Io,
            28 => Kind::NoSpace,
            95 => Kind::Unsupported,
            108 => Kind::Closed,
            _ => Kind::Invalid,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    Cache,
    WriteZeroes,
    BlockStatus,
    /// Anything else, RESIZE too: nothing that would need it was negotiated.
    Unknown(u16),
}

impl Command {
    fn from_number(n: u16) -> Command {
        match n {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::WriteZeroes,
            7 => Command::BlockStatus,
            n => Command::Unknown(n),
        }
    }

    fn number(self) -> u16 {
        match self {
            Command::Read => 0,
            Command::Write => 1,
            Command::Disconnect => 2,
            Command::Flush => 3,
            Command::Trim => 4,
            Command::Cache => 5,
            Command::WriteZeroes => 6,
            Command::BlockStatus => 7,
            Command::Unknown(n) => n,
        }
    }
}

/// A request's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub flags: u16,
    pub command: Command,
    pub cookie: u64,
    pub offset: u64,
    pub len: u32,
}

impl Request {
    pub const BYTES: usize = 28;
    pub const DISCONNECT: Request =
        Request { flags: 0, command: Command::Disconnect, cookie: 0, offset: 0, len: 0 };

    /// An error here is the end of the connection: what follows can't be told apart any more.
    pub fn parse(b: &[u8; Request::BYTES]) -> Result<Request> {
        let mut b = &b[..];
        let magic = b.get_u32();
        if magic != REQUEST_MAGIC {
            return Err(Error::new(
                Kind::Invalid,
                format!("a request begins with {magic:#x}, not its magic"),
            ));
        }
        let (flags, command) = (b.get_u16(), Command::from_number(b.get_u16()));
        Ok(Request { flags, command, cookie: b.get_u64(), offset: b.get_u64(), len: b.get_u32() })
    }

    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u32(REQUEST_MAGIC);
        out.put_u16(self.flags);
        out.put_u16(self.command.number());
        out.put_u64(self.cookie);
        out.put_u64(self.offset);
        out.put_u32(self.len);
    }
}

/// A reply without structure; a read's data follows.
pub fn put_simple(out: &mut impl BufMut, cookie: u64, errno: Option<Errno>) {
    out.put_u32(SIMPLE_MAGIC);
    out.put_u32(errno.map_or(0, |e| e as u32));
    out.put_u64(cookie);
}

const DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_DATA: u16 = 1;
const CHUNK_HOLE: u16 = 2;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 0x8001;
const CHUNK_ERROR_OFFSET: u16 = 0x8002;

fn put_chunk_header(out: &mut impl BufMut, done: bool, kind: u16, cookie: u64, len: u32) {
    out.put_u32(CHUNK_MAGIC);
    out.put_u16(if done { DONE } else { 0 });
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u32(len);
}

/// A part of a read's reply, the last of it where it is `done`: `len` bytes of data follow.
pub fn put_data_chunk(out: &mut impl BufMut, cookie: u64, offset: u64, len: u32, done: bool) {
    put_chunk_header(out, done, CHUNK_DATA, cookie, len + 8);
    out.put_u64(offset);
}

/// The same for `len` zeros: nothing follows.
pub fn put_hole_chunk(out: &mut impl BufMut, cookie: u64, offset: u64, len: u32, done: bool) {
    put_chunk_header(out, done, CHUNK_HOLE, cookie, 12);
    out.put_u64(offset);
    out.put_u32(len);
}

/// Of a hole, in the context `base:allocation`: it takes no space, and reads as zeros.
pub const STATUS_HOLE: u32 = 1 | 2;
/// Of what has changed, in the context `qemu:dirty-bitmap:…`.
pub const STATUS_CHANGED: u32 = 1;

/// What BLOCK_STATUS tells in one context: extents side by side, their bytes and flags. `done`: no other context follows.
pub fn put_status(out: &mut impl BufMut, done: bool, cookie: u64, context: u32, extents: &[(u32, u32)]) {
    put_chunk_header(out, done, CHUNK_BLOCK_STATUS, cookie, 4 + 8 * extents.len() as u32);
    out.put_u32(context);
    for (len, flags) in extents {
        out.put_u32(*len);
        out.put_u32(*flags);
    }
}

pub fn put_none_chunk(out: &mut impl BufMut, cookie: u64) {
    put_chunk_header(out, true, CHUNK_NONE, cookie, 0);
}

pub fn put_error_chunk(out: &mut impl BufMut, cookie: u64, errno: Errno, text: &str) {
    let text = bounded(text);
    put_chunk_header(out, true, CHUNK_ERROR, cookie, 6 + text.len() as u32);
    out.put_u32(errno as u32);
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

/// The longest start of `text` that the protocol lets through.
pub fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(STRING_MAX)]
}

/// A reply's header as a client reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A successful read's data follows.
    Simple { cookie: u64, errno: u32 },
    /// `len` bytes of payload follow.
    Chunk { cookie: u64, done: bool, kind: u16, len: u32 },
}

impl Reply {
    pub const SIMPLE_BYTES: usize = 16;
    pub const CHUNK_BYTES: usize = 20;

    /// `None` when more bytes are needed. An error is the end of the connection.
    pub fn parse(mut b: &[u8]) -> Result<Option<(Reply, usize)>> {
        if b.len() < Reply::SIMPLE_BYTES {
            return Ok(None);
        }
        match b.get_u32() {
            SIMPLE_MAGIC => {
                let errno = b.get_u32();
                Ok(Some((Reply::Simple { errno, cookie: b.get_u64() }, Reply::SIMPLE_BYTES)))
            }
            CHUNK_MAGIC if b.len() + 4 < Reply::CHUNK_BYTES => Ok(None),
            CHUNK_MAGIC => {
                let (flags, kind, cookie) = (b.get_u16(), b.get_u16(), b.get_u64());
                let reply = Reply::Chunk { cookie, done: flags & DONE != 0, kind, len: b.get_u32() };
                Ok(Some((reply, Reply::CHUNK_BYTES)))
            }
            magic => Err(Error::new(Kind::Invalid, format!("a reply begins with {magic:#x}, not a magic"))),
        }
    }
}

/// A structured reply's chunk as a client reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chunk<'a> {
    None,
    Data {
        offset: u64,
        data: &'a [u8],
    },
    Hole {
        offset: u64,
        len: u32,
    },
    /// Of a context: extents, each with its flags.
    Status {
        context: u32,
        extents: Vec<(u32, u32)>,
    },
    Error {
        errno: u32,
        text: String,
    },
}

impl Chunk<'_> {
    pub fn parse(kind: u16, payload: &[u8]) -> Result<Chunk<'_>> {
        let bad = || Error::new(Kind::Invalid, format!("a reply chunk of type {kind:#x} is malformed"));
        let mut b = payload;
        match kind {
            CHUNK_NONE if payload.is_empty() => Ok(Chunk::None),
            CHUNK_DATA if payload.len() > 8 => Ok(Chunk::Data { offset: b.get_u64(), data: &payload[8..] }),
            CHUNK_BLOCK_STATUS if payload.len() >= 12 && payload.len() % 8 == 4 => {
                let context = b.get_u32();
                let extents = std::iter::from_fn(|| Some((b.try_get_u32().ok()?, b.try_get_u32().ok()?)));
                Ok(Chunk::Status { context, extents: extents.collect() })
            }
            CHUNK_HOLE if payload.len() == 12 => Ok(Chunk::Hole { offset: b.get_u64(), len: b.get_u32() }),
            // Any other type with this bit is an error too, of a kind that later servers may have.
            CHUNK_ERROR | CHUNK_ERROR_OFFSET | 0x8003.. if payload.len() >= 6 => {
                let (errno, len) = (b.get_u32(), usize::from(b.get_u16()));
                let text = b.get(..len.min(STRING_MAX)).ok_or_else(bad)?;
                Ok(Chunk::Error { errno, text: String::from_utf8_lossy(text).into_owned() })
            }
            _ => Err(bad()),
        }
    }
}
