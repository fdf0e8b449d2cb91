//! The transmission phase's bytes, as pure functions: request and reply headers, big-endian, no I/O.
//!
//! Names and numbers are those of the protocol document (NetworkBlockDevice/nbd, doc/proto.md).

use bytes::{Buf, BufMut};

use windlass_base::{Error, Kind, Result};

/// The largest payload in either direction, as told in `INFO_BLOCK_SIZE`.
pub const PAYLOAD_MAX: u32 = 32 << 20;
/// The longest string of the protocol, in bytes.
pub const STRING_MAX: usize = 4096;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// The headers that were agreed on for requests and their replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Headers {
    /// Requests of 32-bit lengths, replies of one piece.
    #[default]
    Simple,
    /// Requests of 32-bit lengths. Replies to reads and failures are chunks.
    Structured,
    /// Requests of 64-bit lengths. All replies are chunks, which repeat the request's offset.
    Extended,
}

impl Headers {
    pub fn has_chunks(self) -> bool {
        self != Headers::Simple
    }
}

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
    /// Flag of extended headers: the length is that of a payload, which follows.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
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
    /// Returns the protocol's number for an error of ours.
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

    /// Returns the kind of error for a server's number, in a client. The protocol has an unexpected number
    /// mean `Inval`.
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
    pub len: u64,
    /// Offset that the client has sent, for the reply. It differs from `offset` only where just the rest of a
    /// write is left to do.
    pub sent_offset: u64,
}

impl Request {
    /// Returns how many bytes a request's header has.
    pub const fn bytes(headers: Headers) -> usize {
        match headers {
            Headers::Simple | Headers::Structured => 28,
            Headers::Extended => 32,
        }
    }

    pub fn new(flags: u16, command: Command, cookie: u64, offset: u64, len: u64) -> Request {
        Request { flags, command, cookie, offset, len, sent_offset: offset }
    }

    pub fn disconnect() -> Request {
        Request::new(0, Command::Disconnect, 0, 0, 0)
    }

    /// Parses a request's header; `None` when more bytes are needed. An error is the end of the connection:
    /// the next requests can't be told apart any more.
    pub fn parse(headers: Headers, bytes: &[u8]) -> Result<Option<Request>> {
        let mut b = bytes;
        let Ok(magic) = b.try_get_u32() else { return Ok(None) };
        if magic != request_magic(headers) {
            return Err(Error::new(
                Kind::Invalid,
                format!("a request begins with {magic:#x}, not its magic"),
            ));
        }
        if bytes.len() < Request::bytes(headers) {
            return Ok(None);
        }
        let (flags, command) = (b.get_u16(), Command::from_number(b.get_u16()));
        let (cookie, offset) = (b.get_u64(), b.get_u64());
        let len = if headers == Headers::Extended { b.get_u64() } else { b.get_u32().into() };
        Ok(Some(Request::new(flags, command, cookie, offset, len)))
    }

    pub fn put(&self, headers: Headers, out: &mut impl BufMut) {
        out.put_u32(request_magic(headers));
        out.put_u16(self.flags);
        out.put_u16(self.command.number());
        out.put_u64(self.cookie);
        out.put_u64(self.offset);
        match headers {
            Headers::Simple | Headers::Structured => out.put_u32(self.len as u32),
            Headers::Extended => out.put_u64(self.len),
        }
    }

    /// Tells whether a payload of the request's length follows. With extended headers the client has to say
    /// so. QEMU's client does not (10.0), but a write has a payload in any case.
    pub fn has_payload(&self, headers: Headers) -> bool {
        let says_so = headers == Headers::Extended && self.flags & command_flag::PAYLOAD_LEN != 0;
        says_so || self.command == Command::Write
    }
}

fn request_magic(headers: Headers) -> u32 {
    match headers {
        Headers::Simple | Headers::Structured => REQUEST_MAGIC,
        Headers::Extended => EXTENDED_REQUEST_MAGIC,
    }
}

const DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_DATA: u16 = 1;
const CHUNK_HOLE: u16 = 2;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_BLOCK_STATUS_EXT: u16 = 6;
const CHUNK_ERROR: u16 = 0x8001;
const CHUNK_ERROR_OFFSET: u16 = 0x8002;

/// Flags of a hole, in the context `base:allocation`: it takes no space, and reads as zeros.
pub const STATUS_HOLE: u32 = 1 | 2;
/// Flag of a changed range, in the context `qemu:dirty-bitmap:…`.
pub const STATUS_CHANGED: u32 = 1;
/// Most bytes that an answer to BLOCK_STATUS takes for one extent.
pub const EXTENT_BYTES: usize = 16;

/// The request that a reply is for, and the headers that the reply has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyTo {
    headers: Headers,
    cookie: u64,
    /// Offset as the client sent it.
    offset: u64,
}

impl ReplyTo {
    pub fn new(headers: Headers, request: &Request) -> ReplyTo {
        ReplyTo { headers, cookie: request.cookie, offset: request.sent_offset }
    }

    /// Writes a reply without structure; a read's data follows.
    pub fn put_simple(self, out: &mut impl BufMut, errno: Option<Errno>) {
        out.put_u32(SIMPLE_MAGIC);
        out.put_u32(errno.map_or(0, |e| e as u32));
        out.put_u64(self.cookie);
    }

    fn put_chunk_header(self, out: &mut impl BufMut, done: bool, kind: u16, len: u32) {
        let extended = self.headers == Headers::Extended;
        out.put_u32(if extended { EXTENDED_CHUNK_MAGIC } else { CHUNK_MAGIC });
        out.put_u16(if done { DONE } else { 0 });
        out.put_u16(kind);
        out.put_u64(self.cookie);
        if extended {
            out.put_u64(self.offset);
            out.put_u64(len.into());
        } else {
            out.put_u32(len);
        }
    }

    /// Writes the reply to a request that is done and has no data.
    pub fn put_done(self, out: &mut impl BufMut) {
        match self.headers {
            Headers::Simple | Headers::Structured => self.put_simple(out, None),
            Headers::Extended => self.put_none_chunk(out),
        }
    }

    /// Writes the reply to a request that has failed. `text` is for people, where the headers have room for
    /// it.
    pub fn put_error(self, out: &mut impl BufMut, errno: Errno, text: &str) {
        if !self.headers.has_chunks() {
            return self.put_simple(out, Some(errno));
        }
        let text = bounded(text);
        self.put_chunk_header(out, true, CHUNK_ERROR, 6 + text.len() as u32);
        out.put_u32(errno as u32);
        out.put_u16(text.len() as u16);
        out.put_slice(text.as_bytes());
    }

    /// Writes the header of a part of a read's reply, the last one where it is `done`: `len` bytes of data
    /// follow.
    pub fn put_data_chunk(self, out: &mut impl BufMut, offset: u64, len: u32, done: bool) {
        self.put_chunk_header(out, done, CHUNK_DATA, len + 8);
        out.put_u64(offset);
    }

    /// Writes a part of a read's reply that is `len` zeros: no data follow.
    pub fn put_hole_chunk(self, out: &mut impl BufMut, offset: u64, len: u32, done: bool) {
        self.put_chunk_header(out, done, CHUNK_HOLE, 12);
        out.put_u64(offset);
        out.put_u32(len);
    }

    pub fn put_none_chunk(self, out: &mut impl BufMut) {
        self.put_chunk_header(out, true, CHUNK_NONE, 0);
    }

    /// Writes the answer to BLOCK_STATUS in one context: extents side by side, as bytes and flags. `done`: no
    /// other context follows. Without extended headers no extent may be longer than 32 bits tell.
    pub fn put_status(self, out: &mut impl BufMut, done: bool, context: u32, extents: &[(u64, u32)]) {
        let many = extents.len() as u32;
        if self.headers == Headers::Extended {
            self.put_chunk_header(out, done, CHUNK_BLOCK_STATUS_EXT, 8 + 16 * many);
            out.put_u32(context);
            out.put_u32(many);
            for (len, flags) in extents {
                out.put_u64(*len);
                out.put_u64((*flags).into());
            }
        } else {
            self.put_chunk_header(out, done, CHUNK_BLOCK_STATUS, 4 + 8 * many);
            out.put_u32(context);
            for (len, flags) in extents {
                out.put_u32(*len as u32);
                out.put_u32(*flags);
            }
        }
    }
}

/// Returns the longest start of `text` that the protocol lets through.
pub fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(STRING_MAX)]
}

/// A reply's header as a client reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A successful read's data follows.
    Simple { cookie: u64, errno: u32 },
    /// `len` bytes of payload follow. `offset`: the request's, where the headers are extended.
    Chunk { cookie: u64, offset: Option<u64>, done: bool, kind: u16, len: u64 },
}

impl Reply {
    const SIMPLE_BYTES: usize = 16;
    const CHUNK_BYTES: usize = 20;
    const EXTENDED_CHUNK_BYTES: usize = 32;

    /// Parses a reply's header, and returns its length as well; `None` when more bytes are needed. An error
    /// is the end of the connection.
    pub fn parse(headers: Headers, mut b: &[u8]) -> Result<Option<(Reply, usize)>> {
        let have = b.len();
        let Ok(magic) = b.try_get_u32() else { return Ok(None) };
        let (bytes, is_extended) = match (magic, headers) {
            (SIMPLE_MAGIC, Headers::Simple | Headers::Structured) if have < Reply::SIMPLE_BYTES => {
                return Ok(None);
            }
            (SIMPLE_MAGIC, Headers::Simple | Headers::Structured) => {
                let errno = b.get_u32();
                return Ok(Some((Reply::Simple { errno, cookie: b.get_u64() }, Reply::SIMPLE_BYTES)));
            }
            (CHUNK_MAGIC, Headers::Simple | Headers::Structured) => (Reply::CHUNK_BYTES, false),
            (EXTENDED_CHUNK_MAGIC, Headers::Extended) => (Reply::EXTENDED_CHUNK_BYTES, true),
            _ => {
                let why = format!("a reply begins with {magic:#x}, not a magic");
                return Err(Error::new(Kind::Invalid, why));
            }
        };
        if have < bytes {
            return Ok(None);
        }
        let (flags, kind, cookie) = (b.get_u16(), b.get_u16(), b.get_u64());
        let offset = is_extended.then(|| b.get_u64());
        let len = if is_extended { b.get_u64() } else { b.get_u32().into() };
        Ok(Some((Reply::Chunk { cookie, offset, done: flags & DONE != 0, kind, len }, bytes)))
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
    /// Extents of one context, each with its length and flags.
    Status {
        context: u32,
        extents: Vec<(u64, u32)>,
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
                let next = || Some((b.try_get_u32().ok()?.into(), b.try_get_u32().ok()?));
                Ok(Chunk::Status { context, extents: std::iter::from_fn(next).collect() })
            }
            CHUNK_BLOCK_STATUS_EXT if payload.len() >= 24 && payload.len() % 16 == 8 => {
                let (context, many) = (b.get_u32(), b.get_u32());
                if many as usize != b.len() / 16 {
                    return Err(bad());
                }
                // The contexts that are asked for have no more than 32 flags.
                let next = || Some((b.try_get_u64().ok()?, b.try_get_u64().ok()? as u32));
                Ok(Chunk::Status { context, extents: std::iter::from_fn(next).collect() })
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
