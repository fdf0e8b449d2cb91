//! A connection between two processes: what the next one must know to go on with it, as one plain value beside the socket.
//!
//! A process hands a connection over between two requests. What it has answered is done. What it has received and not done
//! is in the value as bytes, as if the client had yet to send them, so the next process does it. The only request that
//! can't be written so is a write whose payload is being passed over, which has fields of its own.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::decoder::{Intake, Piece, Refusal, Rest};
use super::options::ClientFlags;
use super::wire::{Command, Errno, PAYLOAD_MAX, Request, STRING_MAX};
use crate::base::{Error, Kind, Result};

/// Bytes that a connection may hand over in each direction: all that it may hold, and the request that went past that.
const BYTES_MAX: usize = 4 * PAYLOAD_MAX as usize;
/// Contexts of one connection.
const CONTEXTS_MAX: usize = 64;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionState {
    /// The client's address, or `process` and its number.
    pub peer: String,
    pub phase: Phase,
    /// What the client has sent and nobody has done, before what is still in the socket.
    #[serde(with = "in_base64")]
    pub unread: Vec<u8>,
    /// Replies that the socket has not taken.
    #[serde(with = "in_base64")]
    pub unsent: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Phase {
    Haggling(Haggling),
    Entered(Entered),
}

/// A client that has not entered an export.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Haggling {
    /// What it answered to the greeting, once it has.
    pub flags: Option<ClientFlags>,
    pub agreed: Agreed,
}

/// A client that uses an export.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entered {
    /// The export, by the name that it was asked by.
    pub asked: String,
    /// The transmission flags that the client was told.
    pub flags: u16,
    pub agreed: Agreed,
    pub passed_over: Option<PassedOver>,
}

/// What was agreed so far.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreed {
    pub structured: bool,
    pub contexts: AgreedContexts,
}

/// What BLOCK_STATUS is to tell, and of which export, by the name that was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgreedContexts {
    pub of: String,
    pub allocation: bool,
    pub since: Vec<String>,
}

/// A write that is refused when the rest of its payload has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassedOver {
    pub cookie: u64,
    pub errno: u32,
    pub why: String,
    /// Bytes of its payload that are still to come.
    pub left: u32,
}

impl ConnectionState {
    /// What comes from another process is held against the limits before anything is made of it.
    pub fn check(&self) -> Result<()> {
        let bad = |what: &str| Err(Error::new(Kind::Invalid, format!("a handed-over connection {what}")));
        if self.unread.len() > BYTES_MAX || self.unsent.len() > BYTES_MAX {
            return bad("holds more bytes than a connection can");
        }
        let (agreed, asked) = match &self.phase {
            Phase::Haggling(haggling) => (&haggling.agreed, ""),
            Phase::Entered(entered) => (&entered.agreed, &*entered.asked),
        };
        let since = &agreed.contexts.since;
        let names = since.iter().chain([&agreed.contexts.of, &self.peer]).map(|name| name.len());
        if since.len() > CONTEXTS_MAX || names.chain([asked.len()]).any(|len| len > STRING_MAX) {
            return bad("has more or longer names than the protocol allows");
        }
        match &self.phase {
            Phase::Entered(Entered { passed_over: Some(passed_over), .. }) => passed_over.refusal().map(drop),
            _ => Ok(()),
        }
    }
}

impl PassedOver {
    fn new(cookie: u64, errno: Errno, why: &str, left: u32) -> PassedOver {
        PassedOver { cookie, errno: errno as u32, why: why.to_owned(), left }
    }

    fn refusal(&self) -> Result<Refusal> {
        let errno = Errno::of_number(self.errno).filter(|_| self.why.len() <= STRING_MAX);
        let bad = || Error::new(Kind::Invalid, "a handed-over connection refuses a write in no known way");
        Ok(Refusal { errno: errno.ok_or_else(bad)?, why: self.why.clone().into() })
    }

    /// Goes on with it.
    pub fn intake(&self) -> Result<Intake> {
        let request =
            Request { flags: 0, command: Command::Write, cookie: self.cookie, offset: 0, len: self.left };
        Ok(Intake::passing_over(request, self.refusal()?, self.left))
    }
}

/// Gathers what was received and is not done.
#[derive(Debug, Default)]
pub struct Unread {
    bytes: Vec<u8>,
    /// What is left of the write that is arriving, and the payload of it that has come.
    arriving: Option<(Request, Vec<u8>)>,
}

impl Unread {
    /// One without payload.
    pub fn request(&mut self, request: &Request) {
        request.put(&mut self.bytes);
    }

    /// The pieces of a write come one after the other. Those before the first of them are done.
    pub fn piece(&mut self, Piece { request, offset, data, last }: &Piece) {
        let (request, mut payload) =
            self.arriving.take().unwrap_or_else(|| (from(request, *offset), Vec::new()));
        payload.extend_from_slice(data);
        self.arriving = Some((request, payload));
        if *last {
            self.end_arriving();
        }
    }

    fn end_arriving(&mut self) {
        if let Some((request, payload)) = self.arriving.take() {
            request.put(&mut self.bytes);
            self.bytes.extend_from_slice(&payload);
        }
    }

    /// With what the intake has begun with, and what is behind that. `failed`: why the write that is arriving is refused.
    pub fn finish(
        mut self,
        begun: Rest,
        failed: Option<Refusal>,
        behind: &[u8],
    ) -> (Vec<u8>, Option<PassedOver>) {
        let passed_over = match (begun, failed) {
            (Rest::Nothing, _) => None,
            (Rest::Write { request, before, body }, Some(Refusal { errno, why })) => {
                let left = request.len - before - body.len() as u32;
                Some(PassedOver::new(request.cookie, errno, &why, left))
            }
            (Rest::Write { request, before, body: data }, None) => {
                let offset = request.offset + u64::from(before);
                self.piece(&Piece { request, offset, data, last: false });
                None
            }
            (Rest::Refused { request, refusal, left }, _) => {
                Some(PassedOver::new(request.cookie, refusal.errno, &refusal.why, left))
            }
        };
        self.end_arriving();
        self.bytes.extend_from_slice(behind);
        (self.bytes, passed_over)
    }
}

/// The same write without what is before `offset`.
fn from(request: &Request, offset: u64) -> Request {
    let done = (offset - request.offset) as u32;
    Request { offset, len: request.len - done, ..*request }
}

mod in_base64 {
    use super::*;

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn state(phase: Phase) -> ConnectionState {
        ConnectionState { peer: "process 7".into(), phase, unread: vec![0, 1, 255], unsent: vec![9; 5] }
    }

    fn entered(passed_over: Option<PassedOver>) -> Phase {
        let contexts = AgreedContexts { of: "p/v".into(), allocation: true, since: vec!["s1".into()] };
        let agreed = Agreed { structured: true, contexts };
        Phase::Entered(Entered { asked: "p/v".into(), flags: 0x1ed, agreed, passed_over })
    }

    #[test]
    fn a_connection_is_the_same_behind_its_text() {
        let flags = Some(ClientFlags { fixed: true, no_zeroes: false });
        let passed_over = PassedOver::new(3, Errno::NoSpace, "too long", 77);
        for phase in [
            Phase::Haggling(Haggling::default()),
            Phase::Haggling(Haggling { flags, agreed: Agreed::default() }),
            entered(None),
            entered(Some(passed_over)),
        ] {
            let state = state(phase);
            state.check().unwrap();
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<ConnectionState>(&text).unwrap(), state);
        }
    }

    #[test]
    fn what_no_connection_can_be_is_refused() {
        let whole = serde_json::to_value(state(entered(None))).unwrap();
        for (key, value) in [
            ("unread", serde_json::json!("no base64!")),
            ("unread", serde_json::json!([1, 2])),
            ("phase", serde_json::json!({ "asleep": {} })),
            ("more", serde_json::json!(1)),
            ("peer", serde_json::Value::Null),
        ] {
            let mut changed = whole.clone();
            changed[key] = value;
            assert!(serde_json::from_value::<ConnectionState>(changed).is_err(), "{key}");
        }
        let long = "x".repeat(STRING_MAX + 1);
        let mut many = vec![
            ConnectionState { peer: long.clone(), ..state(entered(None)) },
            ConnectionState { unread: vec![0; BYTES_MAX + 1], ..state(entered(None)) },
            state(entered(Some(PassedOver { errno: 4, ..PassedOver::new(1, Errno::Io, "why", 1) }))),
            state(entered(Some(PassedOver::new(1, Errno::Io, &long, 1)))),
        ];
        let contexts = AgreedContexts { since: vec![String::new(); CONTEXTS_MAX + 1], ..Default::default() };
        let agreed = Agreed { structured: true, contexts };
        many.push(state(Phase::Haggling(Haggling { flags: None, agreed })));
        for state in many {
            assert!(state.check().unwrap_err().is(Kind::Invalid));
        }
    }

    #[test]
    fn what_is_left_of_a_write_is_a_write() {
        let request = Request { flags: 1, command: Command::Write, cookie: 5, offset: 100, len: 10 };
        let flush = Request { command: Command::Flush, offset: 0, len: 0, ..request };
        let piece = |offset, data: &'static [u8], last| Piece {
            request,
            offset,
            data: Bytes::from_static(data),
            last,
        };
        // Four bytes of it are done, two wait, one has come of the next piece, and another behind that.
        let mut unread = Unread::default();
        unread.request(&flush);
        unread.piece(&piece(104, b"ab", false));
        let begun = Rest::Write { request, before: 6, body: Bytes::from_static(b"c") };
        let (bytes, passed_over) = unread.finish(begun, None, b"d");
        let mut wanted = Vec::new();
        flush.put(&mut wanted);
        Request { offset: 104, len: 6, ..request }.put(&mut wanted);
        wanted.extend_from_slice(b"abcd");
        assert_eq!((bytes, passed_over), (wanted, None));
        // Its last piece alone.
        let mut unread = Unread::default();
        unread.piece(&piece(108, b"yz", true));
        let mut wanted = Vec::new();
        Request { offset: 108, len: 2, ..request }.put(&mut wanted);
        wanted.extend_from_slice(b"yz");
        assert_eq!(unread.finish(Rest::Nothing, None, b""), (wanted, None));
        // A piece before has failed.
        let begun = Rest::Write { request, before: 6, body: Bytes::from_static(b"c") };
        let failed = Refusal { errno: Errno::Io, why: "broken".into() };
        let (bytes, passed_over) = Unread::default().finish(begun, Some(failed), b"");
        assert_eq!((bytes, passed_over), (Vec::new(), Some(PassedOver::new(5, Errno::Io, "broken", 3))));
    }
}
