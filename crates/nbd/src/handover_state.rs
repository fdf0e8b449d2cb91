//! A connection between two processes: what the next one must know to go on with it, as one plain value beside the socket.
//!
//! The export that a client uses is told by what it is (`held`), beside the name that it had: the next process refuses a disk
//! that has come by that name since, and one that has failed stays failed.
//!
//! A process hands a connection over between two requests. What it has answered is done. What it has received and not done
//! is in the value as bytes, as if the client had yet to send them, so the next process does it. Two things can't be
//! written so and have fields of their own: a request whose payload is being passed over, and the offset of a write whose
//! beginning is done, which replies with extended headers repeat.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::decoder::{Intake, Piece, Refusal, Rest, Resumed};
use super::export::{HeldDisk, Holding};
use super::handshake_wire::ClientFlags;
use super::wire::{Command, Errno, Headers, PAYLOAD_MAX, Request, STRING_MAX, bounded};
use windlass_base::{Error, Kind, Result};

/// Most bytes that a connection may hand over in each direction: all that it may hold, and the request that
/// exceeded that.
const BYTES_MAX: usize = 4 * PAYLOAD_MAX as usize;
/// Most contexts of one connection.
const CONTEXTS_MAX: usize = 64;
/// Most bytes of the identity of one export or snapshot, as JSON.
const HELD_MAX: usize = 16 << 10;

/// State of a connection between two processes, beside its socket; the module's head explains the fields.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionState {
    /// The client's address, or `process` and its number.
    pub peer: String,
    pub phase: Phase,
    /// Bytes that the client has sent and whose requests nobody has done. They come before those still in the
    /// socket.
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
    /// The client's answer to the greeting, once it has come.
    pub flags: Option<ClientFlags>,
    pub agreed: Agreed,
}

/// A client that uses an export.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entered {
    /// Name by which the client asked for the export.
    pub asked: String,
    /// Identity of the disk or snapshot behind the export, or the reason why it has failed.
    pub export: HeldExport,
    /// Size that the export had, in bytes.
    pub size: u64,
    /// The transmission flags that the client was told.
    pub flags: u16,
    pub agreed: Agreed,
    /// Identities of the snapshots of `agreed.contexts.since`, where those are contexts of this export.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub since: Vec<HeldDisk>,
    pub passed_over: Option<PassedOver>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Resumed>,
}

/// A client's claim on its export, as one process tells it to the next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldExport {
    Held(HeldDisk),
    /// The export has failed: each request is answered with this error, for good. Some of what the client was
    /// told may not hold any more.
    Failed(String),
}

/// A connection whose client no process serves at present, with the client's claim on its export.
pub struct Unserved {
    state: ConnectionState,
    holding: Option<Arc<dyn Holding>>,
}

impl std::fmt::Debug for Unserved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.state.fmt(f)
    }
}

impl From<ConnectionState> for Unserved {
    fn from(state: ConnectionState) -> Unserved {
        Unserved { state, holding: None }
    }
}

impl Unserved {
    pub fn new(state: ConnectionState, holding: Arc<dyn Holding>) -> Unserved {
        Unserved { state, holding: Some(holding) }
    }

    /// Returns the connection's state as of now: the export may have failed since its client's last request.
    pub fn state(&self) -> ConnectionState {
        let mut state = self.state.clone();
        if let (Some(holding), Phase::Entered(entered)) = (&self.holding, &mut state.phase) {
            entered.export = match holding.held() {
                Ok(held) => HeldExport::Held(held),
                Err(error) => HeldExport::Failed(bounded(&error.to_string()).to_owned()),
            };
        }
        state
    }
}

/// Results of the option haggling so far.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreed {
    pub structured: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub extended: bool,
    pub contexts: AgreedContexts,
}

impl Agreed {
    pub fn headers(&self) -> Headers {
        match (self.extended, self.structured) {
            (true, _) => Headers::Extended,
            (false, true) => Headers::Structured,
            (false, false) => Headers::Simple,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The contexts that BLOCK_STATUS is to report, and the export that they are for, by the name that was asked
/// for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgreedContexts {
    pub of: String,
    pub allocation: bool,
    pub since: Vec<String>,
}

/// A request that is refused when the rest of its payload has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassedOver {
    pub cookie: u64,
    pub errno: u32,
    pub why: String,
    /// Bytes of the request's payload that are still to come.
    pub left: u64,
    /// Offset of the request, where replies repeat it (extended headers); 0 elsewhere.
    #[serde(default, skip_serializing_if = "is_default")]
    pub offset: u64,
}

impl ConnectionState {
    /// Returns the identity of the client's disk, if the client has entered an export that has not failed.
    pub fn held(&self) -> Option<&HeldDisk> {
        match &self.phase {
            Phase::Entered(Entered { export: HeldExport::Held(held), .. }) => Some(held),
            Phase::Entered(_) | Phase::Haggling(_) => None,
        }
    }

    /// Checks the state against the limits. Another process wrote it, so this comes before anything is made
    /// of it.
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
        if let Phase::Entered(Entered { export, since, .. }) = &self.phase {
            let held = match export {
                HeldExport::Held(held) => Some(held),
                HeldExport::Failed(why) if why.len() > STRING_MAX => return bad("fails at length"),
                HeldExport::Failed(_) => None,
            };
            let len = |held: &HeldDisk| held.0.to_string().len();
            if since.len() > CONTEXTS_MAX || held.into_iter().chain(since).any(|held| len(held) > HELD_MAX) {
                return bad("holds more than can be told");
            }
        }
        match &self.phase {
            Phase::Entered(Entered { passed_over: Some(_), resumed: Some(_), .. }) => {
                bad("is in the middle of two requests")
            }
            Phase::Entered(Entered { passed_over: Some(passed_over), .. }) => passed_over.refusal().map(drop),
            _ => Ok(()),
        }
    }
}

impl PassedOver {
    fn new(request: &Request, headers: Headers, refusal: &Refusal, left: u64) -> PassedOver {
        let offset = if headers == Headers::Extended { request.sent_offset } else { 0 };
        let (errno, why) = (refusal.errno as u32, refusal.why.to_string());
        PassedOver { cookie: request.cookie, errno, why, left, offset }
    }

    fn refusal(&self) -> Result<Refusal> {
        let errno = Errno::of_number(self.errno).filter(|_| self.why.len() <= STRING_MAX);
        let bad = || Error::new(Kind::Invalid, "a handed-over connection refuses a write in no known way");
        Ok(Refusal { errno: errno.ok_or_else(bad)?, why: self.why.clone().into() })
    }

    /// Makes an intake that goes on to pass over the request's payload.
    pub fn intake(&self) -> Result<Intake> {
        let request = Request::new(0, Command::Write, self.cookie, self.offset, self.left);
        Ok(Intake::passing_over(request, self.refusal()?, self.left))
    }
}

/// A collector of what a connection has received and not done.
#[derive(Debug, Default)]
pub struct Unread {
    headers: Headers,
    bytes: Vec<u8>,
    /// Header of the rest of the write that is arriving, and the payload of this rest that has come.
    arriving: Option<(Request, Vec<u8>)>,
    resumed: Option<Resumed>,
}

impl Unread {
    /// Makes an empty collector. `resumed` is the write whose rest was expected and has not come yet.
    pub fn new(headers: Headers, resumed: Option<Resumed>) -> Unread {
        Unread { headers, resumed, ..Unread::default() }
    }

    /// Adds a request without payload.
    pub fn request(&mut self, request: &Request) {
        request.put(self.headers, &mut self.bytes);
    }

    /// Adds a piece of a write. Pieces of one write come one after the other, and the pieces before the first
    /// one given here are done. Whole writes may come in between: the payload of the write that is still
    /// arriving goes on behind all others, in the socket.
    pub fn piece(&mut self, Piece { request, offset, data, last }: &Piece) {
        let goes_on = |(begun, payload): &mut (Request, Vec<u8>)| {
            begun.cookie == request.cookie && begun.offset + payload.len() as u64 == *offset
        };
        let begun = self.arriving.take_if(goes_on);
        let (request, mut payload) = begun.unwrap_or_else(|| (from(request, *offset), Vec::new()));
        payload.extend_from_slice(data);
        match last {
            true => self.write(request, &payload),
            false => self.arriving = Some((request, payload)),
        }
    }

    fn write(&mut self, request: Request, payload: &[u8]) {
        if self.headers == Headers::Extended && request.sent_offset != request.offset {
            self.resumed = Some(Resumed { cookie: request.cookie, offset: request.sent_offset });
        }
        self.request(&request);
        self.bytes.extend_from_slice(payload);
    }

    /// Adds the message that the intake has begun, and the bytes behind it. `failed`: why the arriving write
    /// is refused. `None`: other requests wait beside one whose payload is being passed over, and the rest of
    /// that payload would be read as theirs.
    pub fn finish(mut self, begun: Rest, failed: Option<Refusal>, behind: &[u8]) -> Option<GivenBack> {
        let headers = self.headers;
        let passed_over = match (begun, failed) {
            (Rest::Nothing, _) => None,
            (Rest::Write { request, before, body }, Some(refusal)) => {
                let left = request.len - before - body.len() as u64;
                Some(PassedOver::new(&request, headers, &refusal, left))
            }
            (Rest::Write { request, before, body: data }, None) => {
                let offset = request.offset + before;
                self.piece(&Piece { request, offset, data, last: false });
                None
            }
            (Rest::Refused { request, refusal, left }, _) => {
                Some(PassedOver::new(&request, headers, &refusal, left))
            }
        };
        if let Some((request, payload)) = self.arriving.take() {
            self.write(request, &payload);
        }
        if passed_over.is_some() && (!self.bytes.is_empty() || self.resumed.is_some()) {
            return None;
        }
        self.bytes.extend_from_slice(behind);
        Some(GivenBack { unread: self.bytes, passed_over, resumed: self.resumed })
    }
}

/// Requests that a connection has received and not done, as the next process gets them.
#[derive(PartialEq, Eq, Debug)]
pub struct GivenBack {
    pub unread: Vec<u8>,
    pub passed_over: Option<PassedOver>,
    pub resumed: Option<Resumed>,
}

/// Returns the same write without the part before `offset`.
fn from(request: &Request, offset: u64) -> Request {
    Request { offset, len: request.len - (offset - request.offset), ..*request }
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
        let agreed = Agreed { structured: true, extended: false, contexts };
        let export = HeldExport::Held(HeldDisk(serde_json::json!({ "volume": 7 })));
        let (asked, size, flags, since) = ("p/v".into(), 1 << 20, 0x1ed, vec![HeldDisk("s1".into())]);
        Phase::Entered(Entered { asked, export, size, flags, agreed, since, passed_over, resumed: None })
    }

    fn what(phase: Phase) -> Entered {
        match phase {
            Phase::Entered(entered) => entered,
            Phase::Haggling(_) => panic!("it has entered"),
        }
    }

    fn passed_over(errno: Errno, why: &str, headers: Headers) -> PassedOver {
        let request = Request::new(0, Command::Write, 3, 4096, 100);
        PassedOver::new(&request, headers, &Refusal { errno, why: why.to_owned().into() }, 77)
    }

    #[test]
    fn a_connection_is_the_same_behind_its_text() {
        let flags = Some(ClientFlags { fixed: true, no_zeroes: false });
        let passed = |headers| Some(passed_over(Errno::NoSpace, "too long", headers));
        let mut resumes = entered(None);
        if let Phase::Entered(entered) = &mut resumes {
            entered.resumed = Some(Resumed { cookie: 7, offset: 9 });
        }
        for phase in [
            Phase::Haggling(Haggling::default()),
            Phase::Haggling(Haggling { flags, agreed: Agreed::default() }),
            Phase::Haggling(Haggling { flags, agreed: Agreed { extended: true, ..Agreed::default() } }),
            entered(None),
            entered(passed(Headers::Structured)),
            entered(passed(Headers::Extended)),
            resumes,
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
            ("phase", {
                let mut phase = whole["phase"].clone();
                phase["entered"].as_object_mut().unwrap().remove("export");
                phase
            }),
        ] {
            let mut changed = whole.clone();
            changed[key] = value;
            assert!(serde_json::from_value::<ConnectionState>(changed).is_err(), "{key}");
        }
        let long = "x".repeat(STRING_MAX + 1);
        let mut many = vec![
            ConnectionState { peer: long.clone(), ..state(entered(None)) },
            ConnectionState { unread: vec![0; BYTES_MAX + 1], ..state(entered(None)) },
            state(entered(Some(PassedOver { errno: 4, ..passed_over(Errno::Io, "why", Headers::Simple) }))),
            state(entered(Some(passed_over(Errno::Io, &long, Headers::Simple)))),
        ];
        let mut two = entered(Some(passed_over(Errno::Io, "why", Headers::Extended)));
        if let Phase::Entered(entered) = &mut two {
            entered.resumed = Some(Resumed { cookie: 7, offset: 9 });
        }
        many.push(state(two));
        for wrong in [
            Entered { export: HeldExport::Failed(long.clone()), ..what(entered(None)) },
            Entered {
                export: HeldExport::Held(HeldDisk("x".repeat(HELD_MAX).into())),
                ..what(entered(None))
            },
            Entered { since: vec![HeldDisk::default(); CONTEXTS_MAX + 1], ..what(entered(None)) },
        ] {
            many.push(state(Phase::Entered(wrong)));
        }
        let contexts = AgreedContexts { since: vec![String::new(); CONTEXTS_MAX + 1], ..Default::default() };
        let agreed = Agreed { structured: true, extended: false, contexts };
        many.push(state(Phase::Haggling(Haggling { flags: None, agreed })));
        for state in many {
            assert!(state.check().unwrap_err().is(Kind::Invalid));
        }
    }

    #[test]
    fn what_is_left_of_a_write_is_a_write() {
        for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
            let request = Request::new(1, Command::Write, 5, 100, 10);
            let flush = Request::new(1, Command::Flush, 5, 0, 0);
            let piece = |offset, data: &'static [u8], last| Piece {
                request,
                offset,
                data: Bytes::from_static(data),
                last,
            };
            let resumed = (headers == Headers::Extended).then_some(Resumed { cookie: 5, offset: 100 });
            // Four bytes of it are done, two wait, one has come of the next piece, and another behind that.
            let mut unread = Unread::new(headers, None);
            unread.request(&flush);
            unread.piece(&piece(104, b"ab", false));
            let begun = Rest::Write { request, before: 6, body: Bytes::from_static(b"c") };
            let given_back = unread.finish(begun, None, b"d");
            let mut wanted = Vec::new();
            flush.put(headers, &mut wanted);
            Request { offset: 104, len: 6, ..request }.put(headers, &mut wanted);
            wanted.extend_from_slice(b"abcd");
            assert_eq!(given_back, Some(GivenBack { unread: wanted, passed_over: None, resumed }));
            // Its last piece alone.
            let mut unread = Unread::new(headers, None);
            unread.piece(&piece(108, b"yz", true));
            let mut wanted = Vec::new();
            Request { offset: 108, len: 2, ..request }.put(headers, &mut wanted);
            wanted.extend_from_slice(b"yz");
            let given_back = unread.finish(Rest::Nothing, None, b"");
            assert_eq!(given_back, Some(GivenBack { unread: wanted, passed_over: None, resumed }));
            // A piece before has failed.
            let begun = Rest::Write { request, before: 6, body: Bytes::from_static(b"c") };
            let failed = Refusal { errno: Errno::Io, why: "broken".into() };
            let passed_over = Some(PassedOver::new(&request, headers, &failed, 3));
            let given_back = Unread::new(headers, None).finish(begun, Some(failed), b"");
            assert_eq!(given_back, Some(GivenBack { unread: Vec::new(), passed_over, resumed: None }));
            // The rest of its payload would be taken from the request that waits.
            let begun =
                Rest::Refused { request, refusal: Refusal { errno: Errno::Io, why: "no".into() }, left: 3 };
            let mut unread = Unread::new(headers, None);
            unread.request(&flush);
            assert_eq!(unread.finish(begun, None, b""), None);
        }
    }
}
