//! From received bytes to requests: an incremental decoder without I/O.
//!
//! A write's payload comes out in pieces of at most `PIECE` bytes, each a buffer of exactly its length. So a client that
//! announces 32 MiB and sends nothing holds one piece. Inner edges of pieces lie where those of frames do.
//! What is small is copied out of the window: a copy of a few KiB costs less than a system call of its own, and a write
//! that stays in memory for a while must not pin the whole window. The rest of a large piece is received straight into
//! its buffer. A request that is refused has its payload passed over, of any length, in no memory. Nothing is allocated
//! for a length that was not accepted.
//!
//! With extended headers any command can announce a payload. That of a write is taken; any other's is passed over, and the
//! command refused. A client that announces more than `PAYLOAD_MAX` is hung up on.

use std::borrow::Cow;

use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::receive_buffer::Window;
use super::wire::{Command, Errno, Headers, PAYLOAD_MAX, Request, command_flag, flag};
use windlass_base::format_limits::{BLOCK, FRAME_BLOCKS};
use windlass_base::{Error, Kind, Result};

/// Payload of a write that is gathered at a time, in bytes. It is memory of the connection's own. What is no longer takes
/// effect as a whole.
pub const PIECE: u32 = 256 << 10;
/// Pieces of longer writes: the contents of a frame. Journal, chunk and cache then share the piece's buffer, where each
/// frame out of a larger buffer would be a copy.
const FRAME: u64 = FRAME_BLOCKS * BLOCK;
/// Payload that is still missing at least this much is received without the window.
const DIRECT: usize = 16 << 10;

/// One received message, or a part of a write, that is to be dealt with.
#[derive(Debug)]
pub enum Arrived {
    /// A request to carry out; it is not a write.
    Request(Request),
    /// A part of a write to carry out.
    Piece(Piece),
    /// A request to answer with an error. Its payload has been passed over.
    Refused { request: Request, refusal: Refusal },
    /// The client says goodbye.
    Disconnect,
}

/// A part of a write's payload; the whole payload where it is short.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The whole write to which the part belongs.
    pub request: Request,
    /// Offset of this part in the export.
    pub offset: u64,
    pub data: Bytes,
    /// No other part of the write follows.
    pub last: bool,
}

impl Piece {
    /// Tells whether the write begins with this part.
    pub fn is_first(&self) -> bool {
        self.offset == self.request.offset
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub errno: Errno,
    pub why: Cow<'static, str>,
}

/// The beginning of a message whose end has not arrived.
#[derive(Debug)]
pub enum Rest {
    Nothing,
    /// A write. `before`: bytes of its payload that came out in earlier pieces; `body`: those received since.
    Write {
        request: Request,
        before: u64,
        body: Bytes,
    },
    /// A refused request. `left`: bytes of its payload that are still to be passed over.
    Refused {
        request: Request,
        refusal: Refusal,
        left: u64,
    },
}

/// Properties of the export and the connection against which requests are checked.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub size: u64,
    /// The export's transmission flags.
    pub flags: u16,
    /// The client has agreed on contexts for block status.
    pub status: bool,
    pub headers: Headers,
}

/// A write of which another process has done the beginning. The first write with this cookie is the rest of
/// it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resumed {
    pub cookie: u64,
    /// Offset that the client has sent in its request, for the reply.
    pub offset: u64,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Header,
    /// A write's payload is coming in.
    Payload(Payload),
    /// A refused request of whose payload so many bytes are still to be passed over.
    Refused(Request, Refusal, u64),
}

#[derive(Debug)]
struct Payload {
    request: Request,
    /// Bytes of the request that came out in earlier pieces.
    before: u64,
    /// The piece that is being gathered; `len` is how long it will be.
    body: BytesMut,
    len: usize,
}

impl Payload {
    fn of(request: Request, before: u64) -> Payload {
        let (left, at) = (request.len - before, request.offset + before);
        let is_short = request.len <= u64::from(PIECE);
        let len = if is_short { left } else { left.min(FRAME - at % FRAME) } as usize;
        Payload { request, before, body: BytesMut::with_capacity(len), len }
    }
}

#[derive(Debug, Default)]
pub struct Intake {
    state: State,
    /// A write that another process has begun, whose rest is still to come.
    resumed: Option<Resumed>,
}

impl Intake {
    /// Makes an intake that goes on in the middle of a request that is refused.
    pub fn passing_over(request: Request, refusal: Refusal, left: u64) -> Intake {
        Intake { state: State::Refused(request, refusal, left), resumed: None }
    }

    /// Makes an intake that will meet the rest of a write.
    pub fn resuming(resumed: Resumed) -> Intake {
        Intake { state: State::Header, resumed: Some(resumed) }
    }

    /// Returns the write whose beginning another process has done, if the header of its rest has not been
    /// taken yet.
    pub fn resumed(&self) -> Option<Resumed> {
        self.resumed
    }

    /// Takes out the message that has begun to arrive.
    pub fn take_rest(&mut self) -> Rest {
        match std::mem::take(&mut self.state) {
            State::Header => Rest::Nothing,
            State::Payload(Payload { request, before, body, .. }) => {
                Rest::Write { request, before, body: body.freeze() }
            }
            State::Refused(request, refusal, left) => Rest::Refused { request, refusal, left },
        }
    }

    /// Returns the next request or piece in the window; `None` when more bytes are needed. An error is the
    /// end of the connection.
    pub fn next(&mut self, window: &mut Window, facts: Facts) -> Result<Option<Arrived>> {
        if let State::Header = self.state {
            let Some(mut request) = Request::parse(facts.headers, window.bytes())? else { return Ok(None) };
            window.consume(Request::bytes(facts.headers));
            if let Some(Resumed { offset, .. }) = self.resumed.take_if(|it| it.cookie == request.cookie) {
                request.sent_offset = offset;
            }
            if request.command == Command::Disconnect {
                return Ok(Some(Arrived::Disconnect));
            }
            self.state = match (request.command, check(&request, facts)) {
                (_, Err(refusal)) => State::Refused(request, refusal, payload(&request, facts.headers)?),
                (Command::Write, Ok(())) => State::Payload(Payload::of(request, 0)),
                (_, Ok(())) => return Ok(Some(Arrived::Request(request))),
            };
        }
        Ok(self.receive(window))
    }

    /// Returns the buffer into which the rest of a large piece is received, once the window is empty. `None`:
    /// the window is to be used.
    pub fn direct(&mut self) -> Option<Limit<&mut BytesMut>> {
        let State::Payload(Payload { body, len, .. }) = &mut self.state else { return None };
        let missing = *len - body.len();
        (missing >= DIRECT).then(|| body.limit(missing))
    }

    fn receive(&mut self, window: &mut Window) -> Option<Arrived> {
        let here = window.bytes();
        match &mut self.state {
            State::Header => None,
            State::Payload(Payload { request, before, body, len }) => {
                let n = here.len().min(*len - body.len());
                body.extend_from_slice(&here[..n]);
                window.consume(n);
                if body.len() < *len {
                    return None;
                }
                let (request, before, data) = (*request, *before, std::mem::take(body).freeze());
                let done = before + data.len() as u64;
                let last = done == request.len;
                self.state = if last { State::Header } else { State::Payload(Payload::of(request, done)) };
                let offset = request.offset + before;
                Some(Arrived::Piece(Piece { request, offset, data, last }))
            }
            State::Refused(request, refusal, left) => {
                let n = here.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                window.consume(n);
                if *left > 0 {
                    return None;
                }
                let (request, refusal) = (*request, refusal.clone());
                self.state = State::Header;
                Some(Arrived::Refused { request, refusal })
            }
        }
    }
}

/// Returns how many bytes follow the header of a refused request. An extended header that announces more than
/// `PAYLOAD_MAX` bytes is an error.
fn payload(request: &Request, headers: Headers) -> Result<u64> {
    match headers {
        _ if !request.has_payload(headers) => Ok(0),
        Headers::Extended if request.len > u64::from(PAYLOAD_MAX) => {
            Err(Error::new(Kind::Invalid, format!("the client announced a payload of {} bytes", request.len)))
        }
        _ => Ok(request.len),
    }
}

fn check(request: &Request, facts: Facts) -> std::result::Result<(), Refusal> {
    let refuse = |errno, why: &'static str| Err(Refusal { errno, why: why.into() });
    let offered = |flag| facts.flags & flag != 0;
    let allowed = match request.command {
        Command::Read if offered(flag::SEND_DF) => command_flag::DF,
        Command::WriteZeroes if offered(flag::SEND_FAST_ZERO) => {
            command_flag::NO_HOLE | command_flag::FAST_ZERO
        }
        Command::WriteZeroes => command_flag::NO_HOLE,
        Command::Write if facts.headers == Headers::Extended => command_flag::PAYLOAD_LEN,
        Command::BlockStatus if !facts.status => {
            return refuse(Errno::Inval, "no metadata context was agreed for this export");
        }
        Command::BlockStatus if request.len == 0 => {
            return refuse(Errno::Inval, "block status of nothing is none");
        }
        Command::BlockStatus => command_flag::REQ_ONE,
        Command::Unknown(_) => return refuse(Errno::Inval, "this server does not know the command"),
        _ => 0,
    };
    // FUA is taken on every command; on those that write nothing it means nothing.
    if request.flags & !(allowed | command_flag::FUA) != 0 {
        return refuse(Errno::Inval, "the command does not take these flags");
    }
    if request.command == Command::Flush {
        let plain = request.offset == 0 && request.len == 0;
        return if plain { Ok(()) } else { refuse(Errno::Inval, "a flush has no offset and no length") };
    }
    let writes = matches!(request.command, Command::Write | Command::WriteZeroes | Command::Trim);
    if writes && offered(flag::READ_ONLY) {
        return refuse(Errno::Perm, "the export is read-only");
    }
    if request.len > PAYLOAD_MAX.into() {
        match request.command {
            // With structured replies the number says: smaller ones will do.
            Command::Read if offered(flag::SEND_DF) => {
                return refuse(Errno::Overflow, "a read is at most 32 MiB long");
            }
            Command::Read | Command::Write => {
                return refuse(Errno::Inval, "a read or write is at most 32 MiB long");
            }
            _ => {}
        }
    }
    if request.offset.checked_add(request.len).is_none_or(|end| end > facts.size) {
        let grows = matches!(request.command, Command::Write | Command::WriteZeroes);
        let errno = if grows { Errno::NoSpace } else { Errno::Inval };
        return refuse(errno, "the range ends beyond the end of the export");
    }
    Ok(())
}
