//! From received bytes to requests: an incremental decoder without I/O.
//!
//! A write's payload becomes one buffer of exactly its length. What is small is copied out of the window (a copy of
//! a few KiB costs less than a system call of its own, and a write that stays in memory for a while must not pin the
//! whole window); the rest of what is large is received straight into it. A write that is refused has its payload
//! passed over, of any length, in no memory. Nothing is allocated for a length that was not accepted.

use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};

use super::window::Window;
use super::wire::{Command, Errno, PAYLOAD_MAX, Request, command_flag, flag};
use crate::base::Result;

/// Payload that is still missing at least this much is received without the window.
const DIRECT: usize = 16 << 10;

/// A request that has arrived in full.
#[derive(Debug)]
pub enum Arrived {
    /// To be done; `payload` is a write's.
    Request { request: Request, payload: Bytes },
    /// To be answered with this, its payload is gone.
    Refused { request: Request, refusal: Refusal },
    /// The client says goodbye.
    Disconnect,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub errno: Errno,
    pub why: &'static str,
}

/// What requests are held against.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub size: u64,
    /// The export's transmission flags.
    pub flags: u16,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Header,
    /// A write's payload is coming in.
    Payload(Request, BytesMut),
    /// So many bytes are still to be passed over.
    Refused(Request, Refusal, u32),
}

#[derive(Debug, Default)]
pub struct Intake {
    state: State,
}

impl Intake {
    /// The next request in the window; `None` when more bytes are needed. An error is the end of the connection.
    pub fn next(&mut self, window: &mut Window, facts: Facts) -> Result<Option<Arrived>> {
        if let State::Header = self.state {
            let Some(header) = window.peek() else { return Ok(None) };
            let request = Request::parse(header)?;
            window.consume(Request::BYTES);
            self.state = match (request.command, check(&request, facts)) {
                (Command::Disconnect, _) => return Ok(Some(Arrived::Disconnect)),
                (Command::Write, Ok(())) => {
                    State::Payload(request, BytesMut::with_capacity(request.len as usize))
                }
                (Command::Write, Err(refusal)) => State::Refused(request, refusal, request.len),
                (_, Ok(())) => return Ok(Some(Arrived::Request { request, payload: Bytes::new() })),
                (_, Err(refusal)) => return Ok(Some(Arrived::Refused { request, refusal })),
            };
        }
        Ok(self.receive(window))
    }

    /// Bytes that the request whose header waits in the window will hold; 0 while there is none.
    pub fn wants(&self, window: &Window) -> u64 {
        let header = window.peek().filter(|_| !self.under_way());
        header.and_then(|h| Request::parse(h).ok()).map_or(0, |r| r.weight())
    }

    /// Where the rest of a large payload goes, once the window is empty.
    pub fn direct(&mut self) -> Option<Limit<&mut BytesMut>> {
        let State::Payload(request, body) = &mut self.state else { return None };
        let missing = request.len as usize - body.len();
        (missing >= DIRECT).then(|| body.limit(missing))
    }

    /// A request has begun to arrive and its end is still to come.
    pub fn under_way(&self) -> bool {
        !matches!(self.state, State::Header)
    }

    /// Bytes of payload under way.
    pub fn held(&self) -> usize {
        if let State::Payload(request, _) = &self.state { request.len as usize } else { 0 }
    }

    fn receive(&mut self, window: &mut Window) -> Option<Arrived> {
        let here = window.bytes();
        match &mut self.state {
            State::Header => None,
            State::Payload(request, body) => {
                let n = here.len().min(request.len as usize - body.len());
                body.extend_from_slice(&here[..n]);
                window.consume(n);
                if body.len() < request.len as usize {
                    return None;
                }
                let (request, payload) = (*request, std::mem::take(body).freeze());
                self.state = State::Header;
                Some(Arrived::Request { request, payload })
            }
            State::Refused(request, refusal, left) => {
                let n = here.len().min(*left as usize);
                *left -= n as u32;
                window.consume(n);
                if *left > 0 {
                    return None;
                }
                let (request, refusal) = (*request, *refusal);
                self.state = State::Header;
                Some(Arrived::Refused { request, refusal })
            }
        }
    }
}

fn check(request: &Request, facts: Facts) -> std::result::Result<(), Refusal> {
    let refuse = |errno, why| Err(Refusal { errno, why });
    let offered = |flag| facts.flags & flag != 0;
    let allowed = match request.command {
        Command::Read if offered(flag::SEND_DF) => command_flag::DF,
        Command::WriteZeroes if offered(flag::SEND_FAST_ZERO) => {
            command_flag::NO_HOLE | command_flag::FAST_ZERO
        }
        Command::WriteZeroes => command_flag::NO_HOLE,
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
    if request.len > PAYLOAD_MAX {
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
    if request.offset.checked_add(request.len.into()).is_none_or(|end| end > facts.size) {
        let grows = matches!(request.command, Command::Write | Command::WriteZeroes);
        let errno = if grows { Errno::NoSpace } else { Errno::Inval };
        return refuse(errno, "the range ends beyond the end of the export");
    }
    Ok(())
}
