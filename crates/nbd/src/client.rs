//! A small client: enough for the tour, the tests and the tools. Any number of requests run at a time.
//!
//! It takes extended headers where the server has them, else structured replies, else simple ones.
//! One task writes what is asked, one reads what is answered; a request waits for its cookie. When the connection
//! breaks, every request that waits fails, and so does every later one.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::address::Address;
use super::export::ListedExport;
use super::handshake_wire::{
    self, ClientFlags, ContextRequest, Info, InfoRequest, ReplyHeader, info, option, reply,
};
use super::output::Output;
use super::receive_buffer::Window;
use super::wire::{Chunk, Command, Errno, Headers, PAYLOAD_MAX, Reply, Request, STRING_MAX, command_flag};
use windlass_base::rt::{Rt, Task};
use windlass_base::{Error, Kind, Result, ResultExt as _};

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Bytes side by side that have the same flags in one context, as the protocol has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlaggedExtent {
    pub len: u64,
    pub flags: u32,
}

/// A connection to one export.
#[derive(Debug)]
pub struct Client {
    info: Info,
    /// Metadata contexts that BLOCK_STATUS reports: their names, and the numbers that stand for them in
    /// answers.
    contexts: Vec<(String, u32)>,
    headers: Headers,
    send: mpsc::Sender<(Request, Bytes)>,
    waiting: Arc<Mutex<Waiting>>,
    reader: Task<()>,
}

/// Requests that wait for their reply.
#[derive(Debug, Default)]
struct Waiting {
    last_cookie: u64,
    replies: BTreeMap<u64, Pending>,
    broken: Option<Error>,
}

#[derive(Debug)]
struct Pending {
    offset: u64,
    /// Bytes that a read asked for; 0 for any other command.
    len: usize,
    data: BytesMut,
    /// Bytes of `data` that have come.
    covered: usize,
    /// Extents that BLOCK_STATUS has reported so far, by context number; `None` for any other command.
    status: Option<Status>,
    error: Option<Error>,
    tell: oneshot::Sender<Result<Answer>>,
}

type Status = BTreeMap<u32, Vec<(u64, u32)>>;

#[derive(Debug)]
enum Answer {
    Data(Bytes),
    Status(Status),
}

/// Largest answer to BLOCK_STATUS in one context, in bytes.
const STATUS_MAX: usize = 1 << 20;

impl Client {
    /// Connects and enters `export`.
    pub fn connect<'f>(rt: &'f Rt, address: &'f Address, export: &'f str) -> BoxFuture<'f, Result<Client>> {
        Box::pin(async move { Client::connect_to_map(rt, address, export, &[]).await })
    }

    /// Connects and enters `export`, and agrees on `contexts` to ask extents of. A context that the export
    /// lacks is `Kind::NotFound`.
    pub fn connect_to_map<'f>(
        rt: &'f Rt,
        address: &'f Address,
        export: &'f str,
        contexts: &'f [&'f str],
    ) -> BoxFuture<'f, Result<Client>> {
        Box::pin(async move {
            let opened = async {
                let stream = connect(address).await?;
                Client::enter(rt, stream, export, contexts, Headers::Extended).await
            };
            opened.await.context(|| format!("opening {}", address.uri(export)))
        })
    }

    /// Enters `export` over a stream. `best` are the headers to ask for; a server that has only others serves
    /// those just as well.
    pub(super) async fn enter(
        rt: &Rt,
        stream: Box<dyn Stream>,
        export: &str,
        contexts: &[&str],
        best: Headers,
    ) -> Result<Client> {
        let mut haggler = Haggler::greet(stream).await?;
        let headers = haggler.headers(best).await?;
        let contexts = haggler.contexts(export, contexts).await?;
        let info = haggler.info(option::GO, export).await?;
        let (receive, transmit) = tokio::io::split(haggler.stream);
        let (send, requests) = mpsc::channel(64);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        rt.spawn(write_requests(headers, transmit, requests, waiting.clone())).detach();
        let reader = rt.spawn(read_replies(headers, receive, haggler.window, waiting.clone()));
        Ok(Client { info, contexts, headers, send, waiting, reader })
    }

    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Tells whether the connection has broken, so that nothing is answered any more.
    pub fn is_broken(&self) -> bool {
        self.send.is_closed() || self.waiting.lock().broken.is_some()
    }

    pub fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            match self.ask(Command::Read, 0, offset, len, Bytes::new()).await? {
                Answer::Data(data) => Ok(data),
                Answer::Status(_) => Err(Error::new(Kind::Internal, "a read was answered by extents")),
            }
        })
    }

    /// Returns the extents that `context` has in the range, from its start on. `context` is one of those that
    /// were connected to. There is at least one extent; the last may end before the range does, or go on
    /// behind it.
    pub fn extents<'f>(
        &'f self,
        context: &'f str,
        offset: u64,
        len: u32,
    ) -> BoxFuture<'f, Result<Vec<FlaggedExtent>>> {
        Box::pin(async move {
            let asked = self.contexts.iter().find(|(name, _)| name == context);
            let Some((_, id)) = asked else {
                return Err(Error::new(Kind::Usage, format!("the context {context} was not asked for")));
            };
            let told = match self.ask(Command::BlockStatus, 0, offset, len, Bytes::new()).await? {
                Answer::Status(mut all) => all.remove(id).unwrap_or_default(),
                Answer::Data(_) => Vec::new(),
            };
            if told.is_empty() || told.iter().any(|(len, _)| *len == 0) {
                return Err(Error::new(Kind::Invalid, format!("the server tells nothing of {context}")));
            }
            Ok(told.into_iter().map(|(len, flags)| FlaggedExtent { len, flags }).collect())
        })
    }

    /// Writes `data`. With `fua` the answer says that the write is durable.
    pub fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
            if len > PAYLOAD_MAX {
                return Err(Error::new(Kind::Invalid, "a write is at most 32 MiB long: split it"));
            }
            self.ask(Command::Write, fua_flag(fua), offset, len, data).await.map(drop)
        })
    }

    pub fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.ask(Command::Flush, 0, 0, 0, Bytes::new()).await.map(drop) })
    }

    pub fn trim(&self, offset: u64, len: u32, fua: bool) -> BoxFuture<'_, Result<()>> {
        Box::pin(
            async move { self.ask(Command::Trim, fua_flag(fua), offset, len, Bytes::new()).await.map(drop) },
        )
    }

    pub fn write_zeroes(&self, offset: u64, len: u32, fua: bool, no_hole: bool) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let flags = fua_flag(fua) | if no_hole { command_flag::NO_HOLE } else { 0 };
            self.ask(Command::WriteZeroes, flags, offset, len, Bytes::new()).await.map(drop)
        })
    }

    /// Says goodbye and waits until the server has gone.
    pub fn close(self) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let _ = self.send.send((Request::disconnect(), Bytes::new())).await;
            self.reader.await
        })
    }

    async fn ask(&self, command: Command, flags: u16, offset: u64, len: u32, data: Bytes) -> Result<Answer> {
        let (tell, told) = oneshot::channel();
        let read_len = if command == Command::Read { len as usize } else { 0 };
        let cookie = {
            let mut waiting = self.waiting.lock();
            if let Some(e) = &waiting.broken {
                return Err(e.share());
            }
            waiting.last_cookie += 1;
            let cookie = waiting.last_cookie;
            let status = (command == Command::BlockStatus).then(Status::new);
            let pending = Pending {
                offset,
                len: read_len,
                data: BytesMut::new(),
                covered: 0,
                status,
                error: None,
                tell,
            };
            waiting.replies.insert(cookie, pending);
            cookie
        };
        let gone = || Error::new(Kind::Io, "the connection to the NBD server has ended");
        let mut request = Request::new(flags, command, cookie, offset, len.into());
        if self.headers == Headers::Extended && command == Command::Write {
            request.flags |= command_flag::PAYLOAD_LEN;
        }
        self.send.send((request, data)).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?
    }
}

fn fua_flag(fua: bool) -> u16 {
    if fua { command_flag::FUA } else { 0 }
}

/// Connects to `export` for the kernel to go on with: simple replies are agreed on, and nothing follows yet.
pub fn for_kernel<'f>(address: &'f Address, export: &'f str) -> BoxFuture<'f, Result<(Info, OwnedFd)>> {
    Box::pin(async move {
        let opened = async {
            let (stream, socket) = match address {
                Address::Unix(path) => {
                    let stream = UnixStream::connect(path).await?;
                    let socket = stream.as_fd().try_clone_to_owned()?;
                    (Box::new(stream) as Box<dyn Stream>, socket)
                }
                _ => {
                    let stream = connect_tcp(address).await?;
                    let socket = stream.as_fd().try_clone_to_owned()?;
                    (Box::new(stream) as Box<dyn Stream>, socket)
                }
            };
            let mut haggler = Haggler::greet(stream).await?;
            let info = haggler.info(option::GO, export).await?;
            match haggler.window.bytes().is_empty() {
                true => Ok((info, socket)),
                false => Err(Error::new(Kind::Invalid, "the server answers what was not asked")),
            }
        };
        opened.await.context(|| format!("opening {}", address.uri(export)))
    })
}

/// Lists the exports that the server at `address` shows.
pub fn list<'f>(address: &'f Address) -> BoxFuture<'f, Result<Vec<ListedExport>>> {
    Box::pin(async move {
        let doing = || format!("listing the exports at {address}");
        let mut haggler = Haggler::connect(address).await.context(doing)?;
        let replies = haggler.ask(option::LIST, &[]).await.context(doing)?.context(doing)?;
        let listed = replies.iter().filter(|(kind, _)| *kind == reply::SERVER);
        listed.map(|(_, data)| handshake_wire::parse_listed(data)).collect()
    })
}

/// Returns the server's information about an export, without opening it.
pub fn describe<'f>(address: &'f Address, export: &'f str) -> BoxFuture<'f, Result<Info>> {
    Box::pin(async move {
        let doing = || format!("asking about {}", address.uri(export));
        let mut haggler = Haggler::connect(address).await.context(doing)?;
        haggler.info(option::INFO, export).await.context(doing)
    })
}

/// Most bytes that the replies to one option may take together.
const REPLIES_MAX: usize = 16 << 20;

async fn connect(address: &Address) -> Result<Box<dyn Stream>> {
    Ok(match address {
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        _ => Box::new(connect_tcp(address).await?),
    })
}

async fn connect_tcp(address: &Address) -> Result<TcpStream> {
    let Address::Tcp(host_port) = address else {
        return Err(Error::new(Kind::Unsupported, "this client does not speak TLS: use a unix socket"));
    };
    let stream = TcpStream::connect(host_port).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The client's side of option haggling.
struct Haggler {
    stream: Box<dyn Stream>,
    window: Window,
}

type Replies = Vec<(u32, Vec<u8>)>;

impl Haggler {
    async fn connect(address: &Address) -> Result<Haggler> {
        Haggler::greet(connect(address).await?).await
    }

    async fn greet(mut stream: Box<dyn Stream>) -> Result<Haggler> {
        let mut window = Window::new();
        let no_zeroes = handshake_wire::parse_greeting(&window.take(&mut stream).await?)?;
        let mut out = Vec::new();
        ClientFlags { fixed: true, no_zeroes }.put(&mut out);
        stream.write_all(&out).await?;
        Ok(Haggler { stream, window })
    }

    /// Sends an option, and returns all replies before the ACK; the inner error is the server's refusal.
    async fn ask(&mut self, option: u32, data: &[u8]) -> Result<Result<Replies>> {
        let mut out = Vec::new();
        handshake_wire::put_option(&mut out, option, data);
        self.stream.write_all(&out).await?;
        let (mut replies, mut bytes) = (Vec::new(), 0);
        loop {
            let header = ReplyHeader::parse(&self.window.take(&mut self.stream).await?)?;
            bytes += ReplyHeader::BYTES + header.len as usize;
            if header.option != option || bytes > REPLIES_MAX {
                return Err(Error::new(Kind::Invalid, "the server answers what was not asked"));
            }
            let mut data = Vec::with_capacity(header.len as usize);
            while data.len() < header.len as usize {
                self.window.fill(&mut self.stream, 1).await?;
                let here = self.window.bytes();
                let n = here.len().min(header.len as usize - data.len());
                data.extend_from_slice(&here[..n]);
                self.window.consume(n);
            }
            match header.reply {
                reply::ACK => return Ok(Ok(replies)),
                refusal if reply::is_error(refusal) => return Ok(Err(refused(refusal, &data))),
                kind => replies.push((kind, data)),
            }
        }
    }

    /// Agrees on headers with the server, and returns them: `best` if the server has them, else the next
    /// simpler ones.
    async fn headers(&mut self, best: Headers) -> Result<Headers> {
        let options =
            [(Headers::Extended, option::EXTENDED_HEADERS), (Headers::Structured, option::STRUCTURED_REPLY)];
        for (headers, option) in options.into_iter().skip_while(|(headers, _)| *headers != best) {
            if self.ask(option, &[]).await?.is_ok() {
                return Ok(headers);
            }
        }
        Ok(Headers::Simple)
    }

    /// Agrees on the `wanted` contexts, and returns each with its number. One that the export lacks is
    /// `Kind::NotFound`.
    async fn contexts(&mut self, export: &str, wanted: &[&str]) -> Result<Vec<(String, u32)>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let queries = wanted.iter().map(|&name| name.to_owned()).collect();
        let mut data = Vec::new();
        ContextRequest { name: export.to_owned(), queries }.put(&mut data);
        let replies = self.ask(option::SET_META_CONTEXT, &data).await??;
        let told = replies.iter().filter(|(kind, _)| *kind == reply::META_CONTEXT);
        let contexts =
            told.map(|(_, data)| handshake_wire::parse_context(data)).collect::<Result<Vec<_>>>()?;
        match wanted.iter().find(|&&name| !contexts.iter().any(|(found, _)| found == name)) {
            Some(missing) => {
                Err(Error::new(Kind::NotFound, format!("the export has no {missing} to ask about")))
            }
            None => Ok(contexts),
        }
    }

    async fn info(&mut self, option: u32, export: &str) -> Result<Info> {
        let wants = vec![info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];
        let mut data = Vec::new();
        InfoRequest { name: export.to_string(), wants }.put(&mut data);
        let mut told = Info::default();
        for (_, data) in self.ask(option, &data).await??.iter().filter(|(kind, _)| *kind == reply::INFO) {
            told.take(data)?;
        }
        Ok(told)
    }
}

fn refused(refusal: u32, data: &[u8]) -> Error {
    let kind = match refusal {
        reply::ERR_UNSUP => Kind::Unsupported,
        reply::ERR_POLICY => Kind::Refused,
        reply::ERR_UNKNOWN => Kind::NotFound,
        reply::ERR_SHUTDOWN => Kind::Closed,
        _ => Kind::Invalid,
    };
    let text = String::from_utf8_lossy(&data[..data.len().min(STRING_MAX)]);
    Error::new(kind, if text.is_empty() { "the server refuses".into() } else { text })
}

/// Sends requests until the client is dropped or the socket breaks; then the server learns that nothing more
/// comes.
async fn write_requests(
    headers: Headers,
    mut stream: WriteHalf<Box<dyn Stream>>,
    mut requests: mpsc::Receiver<(Request, Bytes)>,
    waiting: Arc<Mutex<Waiting>>,
) {
    let mut output = Output::default();
    while let Some(first) = requests.recv().await {
        let mut next = Some(first);
        while let Some((request, data)) = next {
            output.header(|out| request.put(headers, out));
            output.data(data);
            next = requests.try_recv().ok();
        }
        if let Err(e) = std::future::poll_fn(|cx| output.poll_write(cx, &mut stream)).await {
            return waiting.lock().fail(&Error::from(e).context("sending to the NBD server"));
        }
    }
    let _ = stream.shutdown().await;
}

async fn read_replies(
    headers: Headers,
    mut stream: ReadHalf<Box<dyn Stream>>,
    mut window: Window,
    waiting: Arc<Mutex<Waiting>>,
) {
    let error = loop {
        if let Err(e) = read_reply(headers, &mut stream, &mut window, &waiting).await {
            break e;
        }
    };
    waiting.lock().fail(&error.context("receiving from the NBD server"));
}

async fn read_reply(
    headers: Headers,
    stream: &mut ReadHalf<Box<dyn Stream>>,
    window: &mut Window,
    waiting: &Mutex<Waiting>,
) -> Result<()> {
    let header = loop {
        match Reply::parse(headers, window.bytes())? {
            Some((header, n)) => {
                window.consume(n);
                break header;
            }
            None => window.fill(stream, window.bytes().len() + 1).await?,
        }
    };
    match header {
        Reply::Simple { cookie, errno } => {
            let len = waiting.lock().get(cookie)?.len;
            let data = match errno {
                0 => receive(stream, window, len).await?,
                _ => BytesMut::new(),
            };
            let mut waiting = waiting.lock();
            let pending = waiting.get(cookie)?;
            (pending.covered, pending.data) = (data.len(), data);
            if errno != 0 {
                pending.error = Some(failed(errno, ""));
            }
            waiting.finish(cookie)
        }
        Reply::Chunk { cookie, offset, done, kind, len } => {
            // Data with its offset, or an error with its text and offset: neither needs more.
            let max = {
                let mut waiting = waiting.lock();
                let pending = waiting.get(cookie)?;
                if offset.is_some_and(|offset| offset != pending.offset) {
                    return Err(Error::new(
                        Kind::Invalid,
                        "a reply is for another offset than was asked for",
                    ));
                }
                if pending.status.is_some() { STATUS_MAX } else { pending.len + STRING_MAX + 14 }
            };
            if len > max as u64 {
                return Err(Error::new(Kind::Invalid, "a reply is longer than what was asked for"));
            }
            let payload = receive(stream, window, len as usize).await?;
            let mut waiting = waiting.lock();
            waiting.get(cookie)?.take(Chunk::parse(kind, &payload)?)?;
            if done { waiting.finish(cookie) } else { Ok(()) }
        }
    }
}

async fn receive(
    stream: &mut ReadHalf<Box<dyn Stream>>,
    window: &mut Window,
    len: usize,
) -> Result<BytesMut> {
    let mut data = BytesMut::with_capacity(len);
    let here = window.bytes().len().min(len);
    data.extend_from_slice(&window.bytes()[..here]);
    window.consume(here);
    while data.len() < len {
        let missing = len - data.len();
        if stream.read_buf(&mut (&mut data).limit(missing)).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(data)
}

fn failed(errno: u32, text: &str) -> Error {
    let text =
        if text.is_empty() { format!("the NBD server answers with error {errno}") } else { text.into() };
    Error::new(Errno::kind(errno), text)
}

impl Pending {
    fn take(&mut self, chunk: Chunk<'_>) -> Result<()> {
        match chunk {
            Chunk::None => {}
            Chunk::Status { context, extents } => {
                let unasked =
                    || Error::new(Kind::Invalid, "the server tells of extents that were not asked for");
                self.status.as_mut().ok_or_else(unasked)?.insert(context, extents);
            }
            Chunk::Error { errno, text } => self.error = Some(failed(errno, &text)),
            Chunk::Data { offset, data } => self.part(offset, data.len())?.copy_from_slice(data),
            Chunk::Hole { offset, len } => self.part(offset, len as usize)?.fill(0),
        }
        Ok(())
    }

    fn part(&mut self, offset: u64, len: usize) -> Result<&mut [u8]> {
        let outside = || Error::new(Kind::Invalid, "a reply's data lies outside of what was asked for");
        let start = offset.checked_sub(self.offset).ok_or_else(outside)?;
        let start = usize::try_from(start).map_err(|_| outside())?;
        self.covered += len;
        if self.data.is_empty() {
            self.data.resize(self.len, 0);
        }
        self.data.get_mut(start..).and_then(|rest| rest.get_mut(..len)).ok_or_else(outside)
    }
}

impl Waiting {
    fn get(&mut self, cookie: u64) -> Result<&mut Pending> {
        self.replies
            .get_mut(&cookie)
            .ok_or_else(|| Error::new(Kind::Invalid, "the server answers what was not asked"))
    }

    fn finish(&mut self, cookie: u64) -> Result<()> {
        let Some(pending) = self.replies.remove(&cookie) else { return Ok(()) };
        let result = match pending.error {
            Some(e) => Err(e),
            None if pending.covered != pending.len => {
                Err(Error::new(Kind::Invalid, "the reply does not cover what was asked for"))
            }
            None => Ok(match pending.status {
                Some(status) => Answer::Status(status),
                None => Answer::Data(pending.data.freeze()),
            }),
        };
        // Whoever asked may have stopped waiting.
        let _ = pending.tell.send(result);
        Ok(())
    }

    fn fail(&mut self, error: &Error) {
        for (_, pending) in std::mem::take(&mut self.replies) {
            let _ = pending.tell.send(Err(error.share()));
        }
        self.broken.get_or_insert_with(|| error.share());
    }
}
