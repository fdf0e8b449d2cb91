//! What a daemon hands over to the next one: its NBD listeners and its clients' connections, as sockets and one plain value
//! that says what they are.
//!
//! The value is JSON in a file in memory, so that it travels as the sockets do, as a file descriptor. The way is a unix
//! socket, from process to process, or systemd's store of file descriptors. Of the volumes it has which one each client
//! holds, and as of which ownership: the next daemon opens that one, as after any end of the one before, and refuses any other.
// This socket belongs to the control socket, where the ban on sockets does not hold either.
#![allow(clippy::disallowed_types)]

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};

use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result, ResultExt as _};
use windlass_nbd::{Address, Connected, ConnectionState, Listener, PausedServer, SocketRights, bind_file};

/// Format of the value. A daemon hands over only to one that reads it.
pub const FORMAT: u32 = 2;
/// Most bytes of the value, and most sockets.
const STATE_MAX: u64 = 256 << 20;
const SOCKETS_MAX: usize = 8192;
/// Most sockets in one message; the kernel takes 253.
const BATCH: usize = 64;
/// Longest time that the other process may take for its part of the hand-over.
const PATIENCE: Duration = Duration::from_secs(5);
/// Byte by which the next daemon says that it has all.
const TAKEN: u8 = b'+';

/// State of a daemon's NBD sockets, as it is handed over. See the module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DaemonState {
    format: u32,
    /// Version of the program that wrote it, for the log.
    version: String,
    listeners: Vec<ListenerState>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerState {
    /// The address that was asked for, and the one that it became.
    asked: String,
    address: String,
    /// Is true if the listener's own socket comes first, before one for each client. Else only its clients go on.
    accepts: bool,
    clients: Vec<ConnectionState>,
}

/// Everything that is handed over, as it travels: the value, and the sockets in its order.
#[derive(Debug)]
pub struct Parcel {
    pub state: OwnedFd,
    pub sockets: Vec<OwnedFd>,
}

/// Servers with which a daemon that begins goes on.
#[derive(Clone, Debug, Default)]
pub struct HandedOver {
    servers: Arc<Mutex<Vec<PausedServer>>>,
    /// Function that is called before the first client goes on: until then the sockets may be handed over once more.
    taken: Option<fn(&[PausedServer])>,
}

impl HandedOver {
    pub fn new(servers: Vec<PausedServer>, taken: Option<fn(&[PausedServer])>) -> HandedOver {
        HandedOver { servers: Arc::new(Mutex::new(servers)), taken }
    }

    /// Returns the servers, for the engine that serves them. They are given out once.
    pub fn take(&self) -> Vec<PausedServer> {
        let servers = std::mem::take(&mut *self.servers.lock());
        if let Some(taken) = self.taken.filter(|_| !servers.is_empty()) {
            taken(&servers);
        }
        servers
    }

    pub fn is_empty(&self) -> bool {
        self.servers.lock().is_empty()
    }

    /// Shows the servers to `look`, which changes nothing.
    pub fn look<T>(&self, look: impl FnOnce(&[PausedServer]) -> T) -> T {
        look(&self.servers.lock())
    }
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, why)
}

/// Returns the value in a file, and the sockets beside it.
pub fn pack(servers: &[PausedServer]) -> Result<(OwnedFd, Vec<BorrowedFd<'_>>)> {
    let listener = |server: &PausedServer| ListenerState {
        asked: server.asked.to_string(),
        address: server.address.to_string(),
        accepts: server.listener.is_some(),
        clients: server.clients.iter().map(|client| client.client.state()).collect(),
    };
    let listeners = servers.iter().map(listener).collect();
    let state = DaemonState { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), listeners };
    let text = serde_json::to_vec(&state).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let file = rustix::fs::memfd_create("windlass-handover", MemfdFlags::CLOEXEC)
        .map_err(io::Error::from)
        .context(|| "a file in memory".into())?;
    let mut rest = &text[..];
    while !rest.is_empty() {
        let n = rustix::io::write(&file, rest).map_err(io::Error::from)?;
        rest = &rest[n..];
    }
    let sockets = servers.iter().flat_map(|server| {
        let clients = server.clients.iter().map(|client| client.socket.as_fd());
        server.listener.as_ref().map(Listener::fd).into_iter().chain(clients)
    });
    let sockets: Vec<BorrowedFd<'_>> = sockets.collect();
    if text.len() as u64 > STATE_MAX || sockets.len() > SOCKETS_MAX {
        return Err(Error::new(
            Kind::Unsupported,
            "more clients and more of their bytes than can be handed over",
        ));
    }
    Ok((file, sockets))
}

impl Parcel {
    /// Parses the parcel. Nothing of it is served yet: a client whose socket or state is not what it should be is
    /// lost when it is served, and no other.
    pub fn open(self) -> Result<Vec<PausedServer>> {
        let state = read_state(&self.state)?;
        let wanted: usize = state.listeners.iter().map(|l| usize::from(l.accepts) + l.clients.len()).sum();
        if wanted != self.sockets.len() {
            let came = self.sockets.len();
            return Err(invalid(format!("{wanted} sockets are handed over by name, and {came} have come")));
        }
        let mut sockets = VecDeque::from(self.sockets);
        let mut next = || sockets.pop_front().ok_or_else(|| invalid("a socket is missing"));
        let mut servers = Vec::new();
        for ListenerState { asked, address, accepts, clients } in state.listeners {
            let (asked, address): (Address, Address) = (asked.parse()?, address.parse()?);
            let listener = if accepts { Some(Listener::of(&address, next()?)?) } else { None };
            let clients = clients.into_iter().map(|state| {
                let (client, socket) = (state.into(), next()?);
                Ok(Connected { client, socket })
            });
            servers.push(PausedServer { asked, address, listener, clients: clients.collect::<Result<_>>()? });
        }
        Ok(servers)
    }
}

fn read_state(file: &OwnedFd) -> Result<DaemonState> {
    let doing = || "what an earlier daemon has handed over".to_owned();
    let len = rustix::fs::fstat(file).map_err(io::Error::from).context(doing)?.st_size;
    let len = u64::try_from(len).ok().filter(|len| *len <= STATE_MAX);
    let len = len.ok_or_else(|| invalid(format!("{}: it is too long", doing())))?;
    let mut text = vec![0; len as usize];
    let mut filled = 0;
    while filled < text.len() {
        let n = rustix::io::pread(file, &mut text[filled..], filled as u64).map_err(io::Error::from);
        match n.context(doing)? {
            0 => return Err(invalid(format!("{}: it is cut off", doing()))),
            n => filled += n,
        }
    }
    read_text(&text)
}

pub(super) fn read_text(text: &[u8]) -> Result<DaemonState> {
    let doing = || "what an earlier daemon has handed over".to_owned();
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let wrong = |e: serde_json::Error| invalid(format!("{} is not understood: {e}", doing()));
    let Format { format } = serde_json::from_slice(text).map_err(wrong)?;
    if format != FORMAT {
        return Err(Error::new(Kind::Unsupported, format!("{} has format {format}, not {FORMAT}", doing())));
    }
    serde_json::from_slice(text).map_err(wrong)
}

/// Sends all to the daemon that listens at `to`. Once this has succeeded all is the other's.
pub async fn send(rt: &Rt, to: &Path, servers: &[PausedServer]) -> Result<()> {
    let (state, sockets) = pack(servers)?;
    let sending = async {
        let mut stream = UnixStream::connect(to).await?;
        put(&stream, state.as_fd(), &sockets).await?;
        match stream.read_u8().await? {
            TAKEN => Ok(stream.shutdown().await?),
            _ => Err(invalid("the next daemon answers with something else")),
        }
    };
    let sent = rt.timeout(PATIENCE, sending).await;
    sent.unwrap_or_else(|| Err(Error::new(Kind::Timeout, "the next daemon does not answer")))
}

async fn put(stream: &UnixStream, state: BorrowedFd<'_>, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_fds(stream, &(sockets.len() as u32).to_be_bytes(), &[state]).await?;
    for batch in sockets.chunks(BATCH) {
        send_fds(stream, &[batch.len() as u8], batch).await?;
    }
    Ok(())
}

/// Socket where this process waits for what another one hands over.
#[derive(Debug)]
pub struct Receiver {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Receiver {
    pub fn listen(path: &Path) -> Result<Receiver> {
        let doing = || format!("socket {}", path.display());
        // What comes is believed: only this user may connect.
        let listener = bind_file(path, Some(SocketRights::default())).context(doing)?;
        Ok(Receiver { listener, path: path.to_owned() })
    }

    /// Receives what the other process sends, and where to tell it that all has come: until `Sender::taken` all is
    /// still its own.
    pub async fn receive(&self, rt: &Rt) -> Result<(Parcel, Sender)> {
        let (stream, _) =
            self.listener.accept().await.context(|| "waiting for the daemon that runs".into())?;
        let receiving = rt.timeout(PATIENCE, receive(&stream)).await;
        let parcel = receiving
            .unwrap_or_else(|| Err(Error::new(Kind::Timeout, "the daemon that runs sends no more")))?;
        Ok((parcel, Sender(stream)))
    }
}

/// The daemon that has sent a parcel.
#[derive(Debug)]
pub struct Sender(UnixStream);

impl Sender {
    pub async fn taken(mut self) -> Result<()> {
        self.0.write_u8(TAKEN).await.context(|| "the daemon that runs has taken its sockets back".into())
    }
}

async fn receive(stream: &UnixStream) -> Result<Parcel> {
    let mut many = [0; 4];
    let mut first = receive_fds(stream, &mut many).await?;
    let many = u32::from_be_bytes(many) as usize;
    let state = first.pop().filter(|_| first.is_empty() && many <= SOCKETS_MAX);
    let state = state.ok_or_else(|| invalid("what is handed over does not begin with its description"))?;
    let mut sockets = Vec::new();
    while sockets.len() < many {
        let mut announced = [0];
        let batch = receive_fds(stream, &mut announced).await?;
        // The kernel drops those that this process has no more room for.
        if batch.is_empty() || batch.len() != usize::from(announced[0]) {
            return Err(invalid(
                "sockets that were announced do not come: is the limit of open files reached?",
            ));
        }
        sockets.extend(batch);
    }
    Ok(Parcel { state, sockets })
}

/// Sends file descriptors with bytes, which are so few that the kernel takes all of them or none.
async fn send_fds(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            assert!(beside.push(SendAncillaryMessage::ScmRights(fds)), "a batch has room");
            Ok(rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL)?)
        })
        .await
        .map(drop)
}

async fn receive_fds(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
    stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let got = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut beside, flags)?;
            if got.bytes < bytes.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let fds = beside.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            Ok(fds.flatten().collect())
        })
        .await
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdStream;

    use super::*;
    use windlass_base::rt::RealRuntime;

    fn state(text: &str) -> OwnedFd {
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&file, text.as_bytes()).unwrap();
        file
    }

    fn listener(dir: &Path) -> PausedServer {
        let address = Address::Unix(dir.join("nbd"));
        let socket = std::os::unix::net::UnixListener::bind(dir.join("nbd")).unwrap();
        let listener = Some(Listener::of(&address, socket.into()).unwrap());
        PausedServer { asked: address.clone(), address, listener, clients: Vec::new() }
    }

    #[tokio::test]
    async fn sockets_and_their_state_arrive_at_the_next_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let rt = Rt::new(RealRuntime::current());
        let mut server = listener(dir.path());
        let mut others = Vec::new();
        for n in 0..3 * BATCH {
            let (one, other) = StdStream::pair().unwrap();
            others.push(other);
            let state: ConnectionState = serde_json::from_value(serde_json::json!({
                "peer": format!("process {n}"), "unread": "AAEC", "unsent": "",
                "phase": { "haggling": { "flags": null, "agreed": {
                    "structured": true, "contexts": { "of": "", "allocation": false, "since": [] } } } },
            }))
            .unwrap();
            server.clients.push(Connected { client: state.into(), socket: one.into() });
        }
        let (path, states) = (dir.path().join("r"), |server: &PausedServer| {
            server.clients.iter().map(|client| client.client.state()).collect::<Vec<_>>()
        });
        let wanted = states(&server);
        let receiver = Receiver::listen(&path).unwrap();
        let sent = [server];
        let (sending, received) = futures::join!(send(&rt, &path, &sent), async {
            let (parcel, sender) = receiver.receive(&rt).await.unwrap();
            sender.taken().await.unwrap();
            parcel.open().unwrap()
        });
        sending.unwrap();
        assert_eq!((received.len(), states(&received[0])), (1, wanted));
        // Each socket is the one that its state speaks of.
        for (n, client) in received[0].clients.iter().enumerate() {
            rustix::io::write(&client.socket, &[n as u8]).unwrap();
            let mut byte = [0];
            rustix::io::read(&others[n], &mut byte).unwrap();
            assert_eq!(byte[0], n as u8);
        }
        drop(receiver);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_not_taken_stays_with_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let rt = Rt::new(RealRuntime::current());
        let (path, sent) = (dir.path().join("r"), [listener(dir.path())]);
        assert!(send(&rt, &path, &sent).await.is_err(), "nobody listens");
        let receiver = Receiver::listen(&path).unwrap();
        let dies = async { drop(receiver.receive(&rt).await.unwrap()) };
        assert!(futures::join!(send(&rt, &path, &sent), dies).0.is_err());
        assert!(dir.path().join("nbd").exists());
    }

    #[tokio::test]
    async fn hostile_values_are_refused() {
        let good = r#"{"format":2,"version":"x","listeners":[]}"#;
        let open = |text: &str, sockets: Vec<OwnedFd>| Parcel { state: state(text), sockets }.open();
        assert_eq!(open(good, Vec::new()).unwrap().len(), 0);
        let one = r#"{"format":2,"version":"x","listeners":[{"asked":"h:1","address":"h:1","accepts":true,"clients":[]}]}"#;
        let socket = || StdStream::pair().unwrap().0.into();
        for (text, sockets, kind) in [
            ("", vec![], Kind::Invalid),
            ("[]", vec![], Kind::Invalid),
            (r#"{"format":1,"anything":7}"#, vec![], Kind::Unsupported),
            (r#"{"format":2,"version":"x","listeners":[],"more":1}"#, vec![], Kind::Invalid),
            (good, vec![socket()], Kind::Invalid),
            (one, vec![], Kind::Invalid),
            // Not one that listens.
            (one, vec![socket()], Kind::Io),
            (&one.replace("h:1", "nowhere"), vec![socket()], Kind::Usage),
        ] {
            let refused = open(text, sockets).unwrap_err();
            assert_eq!(refused.kind(), kind, "{text}: {refused}");
        }
        let long = state(good);
        rustix::fs::ftruncate(&long, STATE_MAX + 1).unwrap();
        assert!(Parcel { state: long, sockets: Vec::new() }.open().unwrap_err().is(Kind::Invalid));
    }
}
