//! The server's greeting and its side of option haggling: one answer an option, until the client enters an export or leaves.
//!
//! Of the options two things outlive their answers: whether structured replies or extended headers were agreed, and which
//! contexts of block status, for which export. What isn't served is refused by the protocol's own means, and the haggling
//! goes on; the connection ends only where the protocol leaves no other answer (a broken magic,
//! flags that were not offered, an EXPORT_NAME that can't be had).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::export::{Changes, Description, Export, Exports, LostChanges, LostExport};
use super::handover_state::{Agreed, AgreedContexts, Entered, Haggling, HeldExport};
use super::handshake_wire::{
    self as wire, ClientFlags, ContextRequest, InfoRequest, OptionHeader, option, reply,
};
use super::job::{StatusContext, context_id};
use super::receive_buffer::Window;
use super::wire::Headers;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result, ResultExt as _};

/// A client that says nothing for so long is hung up on.
const SILENCE: Duration = Duration::from_secs(120);
/// Most bytes of a refused option that are passed over. A client that sends more is hung up on.
const DRAIN_MAX: u32 = 32 << 20;
/// Most snapshots since which one client may be told changes. Listings name up to `LISTED_MAX` of them.
const CHANGES_MAX: usize = 16;
const LISTED_MAX: usize = 256;

/// The result of a successful handshake.
pub struct Session {
    pub export: Arc<dyn Export>,
    pub name: String,
    /// The name by which the client asked for the export.
    pub asked: String,
    pub flags: u16,
    pub headers: Headers,
    pub agreed: Agreed,
    /// Contexts that BLOCK_STATUS reports, in the order of their numbers. Without any, BLOCK_STATUS is
    /// refused.
    pub contexts: Vec<StatusContext>,
}

pub struct Handshake<'a, S> {
    pub rt: &'a Rt,
    pub stream: &'a mut S,
    pub window: &'a mut Window,
    pub exports: &'a dyn Exports,
    pub peer: &'a str,
    /// Set where the stream is within TLS: the client's answer to the greeting, from before TLS began.
    pub secured: Option<ClientFlags>,
    pub stop: &'a CancellationToken,
    /// Cancelled when another process is to go on with the client.
    pub pause: &'a CancellationToken,
}

/// The end of a handshake, by how it came.
pub enum Handshaken {
    Entered(Session),
    Left,
    /// Another process is to go on. Bytes of the next option that have come are in the window.
    Paused(Haggling),
}

/// The result of waiting for the client to send something.
enum Came<T> {
    Here(T),
    Left,
    Paused,
}

impl AgreedContexts {
    fn names(&self) -> impl Iterator<Item = String> {
        let allocation = self.allocation.then(|| wire::ALLOCATION.to_owned());
        allocation.into_iter().chain(self.since.iter().map(|snapshot| format!("{}{snapshot}", wire::CHANGES)))
    }
}

enum Next {
    Option,
    Enter(Session),
    Leave,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handshake<'_, S> {
    /// Haggles with the client, from the greeting on, or from where another process has paused.
    pub async fn run(mut self, begun: Option<Haggling>) -> Result<Handshaken> {
        let Haggling { flags, mut agreed } = match begun {
            Some(begun) => begun,
            None if self.secured.is_some() => Haggling { flags: self.secured, ..Haggling::default() },
            None => {
                let mut greeting = Vec::with_capacity(wire::GREETING_BYTES);
                wire::put_greeting(&mut greeting);
                self.send(&greeting).await?;
                Haggling::default()
            }
        };
        let client = match flags {
            Some(flags) => flags,
            None => match self.client_flags().await? {
                Came::Here(flags) => flags,
                Came::Left => return Ok(Handshaken::Left),
                Came::Paused => return Ok(Handshaken::Paused(Haggling { flags, agreed })),
            },
        };
        loop {
            let (code, data) = match self.option(client).await? {
                Came::Here(option) => option,
                Came::Left => return Ok(Handshaken::Left),
                Came::Paused => return Ok(Handshaken::Paused(Haggling { flags: Some(client), agreed })),
            };
            let mut out = Vec::new();
            let next = self.answer((code, data.as_deref()), client, &mut agreed, &mut out).await?;
            let sent = self.send(&out).await;
            match next {
                Next::Option => sent?,
                Next::Enter(session) => return sent.map(|()| Handshaken::Entered(session)),
                // Many clients close without waiting for the answer to ABORT.
                Next::Leave => return Ok(Handshaken::Left),
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.rt.timeout(SILENCE, self.stream.write_all(bytes)).await;
        sent.ok_or_else(silent)?.context(|| "answering the client".into())
    }

    /// Waits until `n` bytes are in the window. No byte is lost where a pause ends the wait.
    async fn wait_for(&mut self, n: usize) -> Result<Came<()>> {
        let filled = self.rt.timeout(SILENCE, self.window.fill(self.stream, n));
        match select(pin!(self.pause.cancelled()), pin!(filled)).await {
            Either::Left(_) => Ok(Came::Paused),
            Either::Right((filled, _)) => match filled.ok_or_else(silent)? {
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Came::Left),
                other => Ok(Came::Here(other?)),
            },
        }
    }

    async fn client_flags(&mut self) -> Result<Came<ClientFlags>> {
        match self.wait_for(ClientFlags::BYTES).await? {
            Came::Left => return Ok(Came::Left),
            Came::Paused => return Ok(Came::Paused),
            Came::Here(()) => {}
        }
        let flags = ClientFlags::parse(*self.window.peek().expect("it was waited for"))?;
        self.window.consume(ClientFlags::BYTES);
        Ok(Came::Here(flags))
    }

    /// Receives the next option's code and data. Data longer than `wire::OPTION_DATA_MAX` are passed over, and
    /// `None` is returned in their place.
    async fn option(&mut self, client: ClientFlags) -> Result<Came<(u32, Option<Vec<u8>>)>> {
        match self.wait_for(OptionHeader::BYTES).await? {
            Came::Left => return Ok(Came::Left),
            Came::Paused => return Ok(Came::Paused),
            Came::Here(()) => {}
        }
        let header = OptionHeader::parse(self.window.peek().expect("it was waited for"))?;
        let (code, n) = (header.option, header.len as usize);
        if !client.fixed && code != option::EXPORT_NAME {
            return Err(Error::new(
                Kind::Invalid,
                "the client sent an option that only fixed newstyle has, but did not choose that",
            ));
        }
        if header.len > DRAIN_MAX {
            return Err(Error::new(Kind::Invalid, format!("the client sent an option of {n} bytes")));
        }
        if n > wire::OPTION_DATA_MAX {
            self.window.consume(OptionHeader::BYTES);
            let drained = self.rt.timeout(SILENCE, self.window.drain(self.stream, header.len.into())).await;
            drained.ok_or_else(silent)??;
            return Ok(Came::Here((code, None)));
        }
        match self.wait_for(OptionHeader::BYTES + n).await? {
            Came::Left => return Err(Error::new(Kind::Io, "the client left in the middle of an option")),
            Came::Paused => return Ok(Came::Paused),
            Came::Here(()) => {}
        }
        let data = self.window.bytes()[OptionHeader::BYTES..][..n].to_vec();
        self.window.consume(OptionHeader::BYTES + n);
        Ok(Came::Here((code, Some(data))))
    }

    async fn answer(
        &mut self,
        (code, data): (u32, Option<&[u8]>),
        client: ClientFlags,
        agreed: &mut Agreed,
        out: &mut Vec<u8>,
    ) -> Result<Next> {
        match (code, data) {
            (option::EXPORT_NAME, data) => {
                return self.enter_by_name(data, (client.no_zeroes, agreed), out).await;
            }
            (option::ABORT, _) => {
                wire::put_reply(out, code, reply::ACK, &[]);
                return Ok(Next::Leave);
            }
            _ if self.stop.is_cancelled() => {
                wire::put_refusal(out, code, reply::ERR_SHUTDOWN, "the server is shutting down");
            }
            (
                option::LIST
                | option::STRUCTURED_REPLY
                | option::EXTENDED_HEADERS
                | option::INFO
                | option::GO
                | option::LIST_META_CONTEXT
                | option::SET_META_CONTEXT,
                None,
            ) => {
                if code == option::SET_META_CONTEXT {
                    agreed.contexts = AgreedContexts::default();
                }
                wire::put_refusal(out, code, reply::ERR_TOO_BIG, "the option's data is too long");
            }
            (
                option::LIST | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS | option::STARTTLS,
                Some([_, ..]),
            ) => {
                wire::put_refusal(out, code, reply::ERR_INVALID, "the option takes no data");
            }
            (option::STARTTLS, _) if self.secured.is_some() => {
                wire::put_refusal(out, code, reply::ERR_INVALID, "this is TLS already");
            }
            (option::LIST, _) => self.list(out).await,
            (option::STRUCTURED_REPLY, _) if agreed.extended => {
                let why = "extended headers are agreed: their replies have structure";
                wire::put_refusal(out, code, reply::ERR_EXT_HEADER_REQD, why);
            }
            (option::EXTENDED_HEADERS, _) => {
                agreed.extended = true;
                wire::put_reply(out, code, reply::ACK, &[]);
            }
            (option::STRUCTURED_REPLY, _) => {
                agreed.structured = true;
                wire::put_reply(out, code, reply::ACK, &[]);
            }
            (option::INFO, Some(data)) => self.inform(data, agreed, out).await,
            (option::GO, Some(data)) => return Ok(self.go(data, agreed, out).await),
            (option::LIST_META_CONTEXT | option::SET_META_CONTEXT, Some(data)) => {
                self.contexts(code, data, agreed, out).await;
            }
            _ => {
                wire::put_refusal(out, code, reply::ERR_UNSUP, "this server does not know the option");
            }
        }
        Ok(Next::Option)
    }

    async fn list(&mut self, out: &mut Vec<u8>) {
        match self.exports.list().await {
            Ok(all) => {
                all.iter().for_each(|listed| wire::put_listed(out, listed));
                wire::put_reply(out, option::LIST, reply::ACK, &[]);
            }
            Err(e) => refuse(out, option::LIST, &e),
        }
    }

    /// Answers LIST_META_CONTEXT and SET_META_CONTEXT. Setting drops all contexts that were set before, even
    /// where it is refused.
    async fn contexts(&mut self, code: u32, data: &[u8], agreed: &mut Agreed, out: &mut Vec<u8>) {
        let sets = code == option::SET_META_CONTEXT;
        if sets {
            agreed.contexts = AgreedContexts::default();
        }
        if !agreed.headers().has_chunks() {
            let why = "structured replies or extended headers come first: contexts have no other answer";
            return wire::put_refusal(out, code, reply::ERR_INVALID, why);
        }
        match found_contexts(self.exports, data, sets).await {
            Ok(found) => {
                let number = |n| if sets { context_id(n) } else { 0 };
                let names = found.names().enumerate();
                names.for_each(|(n, name)| wire::put_context(out, code, number(n), &name));
                if sets {
                    agreed.contexts = found;
                }
                wire::put_reply(out, code, reply::ACK, &[]);
            }
            Err(refused) => refused.put(out, code),
        }
    }

    async fn inform(&mut self, data: &[u8], agreed: &Agreed, out: &mut Vec<u8>) {
        let described = async {
            let request = parse_info(data)?;
            Ok::<_, Refused>((self.exports.describe(&request.name).await?, request))
        };
        match described.await {
            Ok((d, request)) => put_success(out, option::INFO, &d, agreed, &request.wants),
            Err(refused) => refused.put(out, option::INFO),
        }
    }

    async fn go(&mut self, data: &[u8], agreed: &Agreed, out: &mut Vec<u8>) -> Next {
        let opened = async {
            let request = parse_info(data)?;
            let export = self.exports.open(&request.name, self.peer).await?;
            let d = export.describe();
            Ok::<_, Refused>((session(export, d.clone(), agreed, &request.name).await?, d, request))
        };
        match opened.await {
            Ok((session, d, request)) => {
                put_success(out, option::GO, &d, agreed, &request.wants);
                Next::Enter(session)
            }
            Err(refused) => {
                refused.log();
                refused.put(out, option::GO);
                Next::Option
            }
        }
    }

    /// Answers EXPORT_NAME. This old way in has no answer but yes, so every error ends the connection.
    async fn enter_by_name(
        &mut self,
        data: Option<&[u8]>,
        (no_zeroes, agreed): (bool, &Agreed),
        out: &mut Vec<u8>,
    ) -> Result<Next> {
        if self.stop.is_cancelled() {
            return Err(Error::new(Kind::Closed, "the server is shutting down"));
        }
        if agreed.extended {
            let why = "the client agreed to extended headers, and entered the old way, which has none";
            return Err(Error::new(Kind::Invalid, why));
        }
        let name = wire::parse_name(data.unwrap_or(&[0; wire::OPTION_DATA_MAX]))?;
        let export = self.exports.open(&name, self.peer).await?;
        let d = export.describe();
        wire::put_old_answer(out, &d, agreed.headers(), no_zeroes);
        session(export, d, agreed, &name).await.map(Next::Enter)
    }
}

/// Returns the contexts among those requested that the export has. `sets`: SET_META_CONTEXT asks, not a
/// listing.
async fn found_contexts(
    exports: &dyn Exports,
    data: &[u8],
    sets: bool,
) -> std::result::Result<AgreedContexts, Refused> {
    let request = ContextRequest::parse(data).map_err(|e| Refused(e, Some(reply::ERR_INVALID)))?;
    exports.describe(&request.name).await?;
    let mut since = Vec::new();
    if request.wants_changes(!sets) {
        since = request.changes_since(exports.changes_since(&request.name).await?, !sets);
    }
    if sets && since.len() > CHANGES_MAX {
        let why = format!("changes since {CHANGES_MAX} snapshots are told at most");
        return Err(Refused(Error::new(Kind::Invalid, why), Some(reply::ERR_TOO_BIG)));
    }
    since.truncate(LISTED_MAX);
    Ok(AgreedContexts { allocation: request.wants_allocation(!sets), of: request.name, since })
}

/// Makes the session of a client that enters `export`. `asked` is the export's name as the client gave it. A
/// snapshot that was agreed and is gone is `Kind::NotFound`.
async fn session(export: Arc<dyn Export>, d: Description, agreed: &Agreed, asked: &str) -> Result<Session> {
    let mut since = Vec::new();
    if agreed.contexts.of == asked {
        for snapshot in &agreed.contexts.since {
            since.push(export.changes(snapshot).await?);
        }
    }
    Ok(session_with(export, d, agreed, asked, since))
}

fn session_with(
    export: Arc<dyn Export>,
    d: Description,
    agreed: &Agreed,
    asked: &str,
    since: Vec<Box<dyn Changes>>,
) -> Session {
    let (headers, allocation) = (agreed.headers(), agreed.contexts.allocation && agreed.contexts.of == asked);
    let flags = wire::flags_of(&d, headers);
    let contexts = allocation.then_some(StatusContext::Allocation).into_iter();
    let contexts = contexts.chain(since.into_iter().map(StatusContext::Changes)).collect();
    let (asked, agreed) = (asked.to_owned(), agreed.clone());
    Session { export, name: d.name, asked, flags, headers, agreed, contexts }
}

/// Enters an export again that the client has entered with another process. If the disk is not what the
/// client held any more, the client enters all the same, and each request is answered with the reason.
///
/// # Errors
/// `is_transient`: to be tried again. `Kind::Closed`: the server ends. `Kind::Refused`: the export
/// can do other things than the client was told.
pub async fn enter_again(exports: &dyn Exports, peer: &str, entered: &Entered) -> Result<Session> {
    let Entered { asked, agreed, size, flags, .. } = entered;
    let opened = match &entered.export {
        HeldExport::Held(held) => exports.open_again(asked, held, peer).await,
        HeldExport::Failed(why) => Err(Error::new(Kind::Fenced, why.clone())),
    };
    let export = match opened {
        Ok(export) if export.size() < *size => {
            let why = format!("export {asked:?} is smaller than when the client entered it");
            return Ok(lost(Error::new(Kind::Fenced, why), entered).await);
        }
        Ok(export) => export,
        Err(error) if error.is_transient() || error.is(Kind::Closed) => return Err(error),
        Err(error) => return Ok(lost(error, entered).await),
    };
    let since = since_again(&*export, entered).await?;
    let d = export.describe();
    let session = session_with(export, d, agreed, asked, since);
    if session.flags != *flags {
        let why = format!("export {asked:?} can do other things than when the client entered it");
        return Err(Error::new(Kind::Refused, why));
    }
    Ok(session)
}

/// Returns the changes since each agreed snapshot. Transient errors are returned, for another try. A snapshot
/// that is gone is no error here: the client is told when it asks.
async fn since_again(export: &dyn Export, entered: &Entered) -> Result<Vec<Box<dyn Changes>>> {
    let mut since: Vec<Box<dyn Changes>> = Vec::new();
    for (snapshot, held) in entered.agreed.contexts.since.iter().zip(&entered.since) {
        since.push(match export.changes_again(snapshot, held).await {
            Ok(changes) => changes,
            Err(why) if why.is_transient() => return Err(why),
            Err(why) => Box::new(LostChanges { held: held.clone(), why }),
        });
    }
    Ok(since)
}

async fn lost(why: Error, entered: &Entered) -> Session {
    let Entered { asked, agreed, size, flags, .. } = entered;
    warn!(export = asked, error = %why, "a client of the process before is answered errors alone");
    let (name, text) = (asked.clone(), String::new());
    let (read_only, multi_conn, fast_zero) = (false, false, false);
    let description = Description { name, text, size: *size, read_only, multi_conn, fast_zero };
    let export: Arc<dyn Export> = Arc::new(LostExport { description: description.clone(), why });
    let since = since_again(&*export, entered).await.unwrap_or_default();
    // As the client was told: what it may send is decoded by these.
    Session { flags: *flags, ..session_with(export, description, agreed, asked, since) }
}

fn put_success(out: &mut Vec<u8>, code: u32, d: &Description, agreed: &Agreed, wants: &[u16]) {
    wire::put_infos(out, code, d, agreed.headers(), wants);
    wire::put_reply(out, code, reply::ACK, &[]);
}

fn silent() -> Error {
    Error::new(Kind::Timeout, format!("the client said nothing for {} s", SILENCE.as_secs()))
}

/// An error that keeps a client from an export or its contexts. The number is the reply to send; `None`:
/// `answer_to` chooses one.
struct Refused(Error, Option<u32>);

impl From<Error> for Refused {
    fn from(e: Error) -> Refused {
        Refused(e, None)
    }
}

impl Refused {
    fn put(&self, out: &mut Vec<u8>, code: u32) {
        match self.1 {
            Some(rep) => wire::put_refusal(out, code, rep, &self.0.to_string()),
            None => refuse(out, code, &self.0),
        }
    }

    /// Logs the refusal. Clients' libraries hide the text, so whoever runs the server must find it in the
    /// log. A name that doesn't exist is the client's affair, and no warning.
    fn log(&self) {
        match self.1.unwrap_or_else(|| answer_to(&self.0)) {
            reply::ERR_POLICY => warn!(reason = %self.0, "an export was refused"),
            _ => info!(reason = %self.0, "an export was refused"),
        }
    }
}

fn parse_info(data: &[u8]) -> std::result::Result<InfoRequest, Refused> {
    InfoRequest::parse(data).map_err(|e| Refused(e, Some(reply::ERR_INVALID)))
}

fn answer_to(e: &Error) -> u32 {
    match e.kind() {
        // A name that can't be one isn't one.
        Kind::NotFound | Kind::Removed | Kind::Invalid | Kind::Usage => reply::ERR_UNKNOWN,
        Kind::Closed => reply::ERR_SHUTDOWN,
        // Never UNSUP: clients take that for a server without GO and try the old way in, which tells no reason.
        _ => reply::ERR_POLICY,
    }
}

fn refuse(out: &mut Vec<u8>, code: u32, e: &Error) {
    wire::put_refusal(out, code, answer_to(e), &e.to_string());
}
