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

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::server::serve_stream;
use super::suspend_resume::Until;
use super::wire::Headers;
use super::{
    ChangedExtent, Changes, Description, Export, Exports, HeldDisk, Holding, ListedExport, MemoryDisk,
    StatusExtent,
};
use windlass_base::rt::sim::Sim;
use windlass_base::rt::{Instant, Rt, Task};
use windlass_base::{Budget, Error, Kind, Result, Rope};

pub const SIZE: u64 = 1 << 20;

/// Runs a scenario to its end for several orders of its tasks.
pub fn simulate<F: Future<Output = ()> + Send + 'static>(scenario: impl Fn(Rt) -> F) {
    for seed in 0..8 {
        let sim = Sim::new(seed);
        tick(sim.rt());
        sim.run(scenario(sim.rt())).unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    }
}

/// Ends a timer every second. The simulation may let the next timer fire early in a task's day, as a slow
/// host would. With one a second, no client that goes on talking looks silent for minutes.
pub fn tick(rt: Rt) {
    let clock = rt.clone();
    rt.spawn(async move {
        loop {
            clock.sleep(Duration::from_secs(1)).await;
        }
    })
    .detach();
}

/// Exports for tests: `disk` (writable), `snap` (read-only), `huge` (not listed), `owned` (refused), and no
/// other.
pub struct House {
    pub rt: Rt,
    disk: Arc<MemoryDisk>,
    snap: Arc<MemoryDisk>,
    pub state: Mutex<State>,
    /// Memory for requests of the clients: two whole disks.
    pub memory: Budget,
}

#[derive(Default)]
pub struct State {
    /// Operations that the exports were asked for, in the order in which they began; an entry with `.` in
    /// front is an end.
    pub log: Vec<String>,
    /// Handles that are open.
    pub open: usize,
    /// Time that every operation takes.
    pub delay: Duration,
    /// Error with which every operation fails.
    pub failing: Option<(Kind, &'static str)>,
    /// Error with which a disk of a client of another process is not entered again.
    pub not_again: Option<(Kind, &'static str)>,
    /// Reason why a client's disk has failed.
    pub lost: Option<&'static str>,
    /// Reads return a byte too few.
    pub short_reads: bool,
    /// Time from one write's turn to the next one's; `next_turn` is when that comes.
    pub pace: Option<Duration>,
    pub next_turn: Instant,
}

fn description(name: &str, read_only: bool) -> Description {
    Description {
        name: name.into(),
        text: format!("the {name}"),
        size: SIZE,
        read_only,
        multi_conn: true,
        fast_zero: true,
    }
}

impl House {
    pub fn new(rt: &Rt) -> Arc<House> {
        let disk = MemoryDisk::new(description("disk", false));
        let snap = MemoryDisk::new(description("snap", true));
        Arc::new(House { rt: rt.clone(), disk, snap, state: Mutex::default(), memory: Budget::new(2 * SIZE) })
    }

    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().log)
    }

    fn find(&self, name: &str) -> Result<&Arc<MemoryDisk>> {
        match name {
            "disk" | "" => Ok(&self.disk),
            "snap" => Ok(&self.snap),
            _ => Err(Error::new(Kind::NotFound, format!("there is no `{name}`"))),
        }
    }
}

/// The exports of a house, as the server takes them.
pub struct Shown(pub Arc<House>);

#[async_trait]
impl Exports for Shown {
    async fn list(&self) -> Result<Vec<ListedExport>> {
        let listed = |name: &str| ListedExport { name: name.into(), text: format!("the {name}") };
        Ok(["disk", "snap", "owned"].map(listed).into())
    }

    async fn describe(&self, name: &str) -> Result<Description> {
        match name {
            "owned" => Ok(description(name, false)),
            "huge" => Ok(extended::Huge(self.0.clone()).describe()),
            _ => Ok(self.0.find(name)?.describe()),
        }
    }

    /// Lists the snapshots `s0` to `s299`.
    async fn changes_since(&self, _: &str) -> Result<Vec<String>> {
        Ok((0..300).map(|n| format!("s{n}")).collect())
    }

    async fn open(&self, name: &str, _: &str) -> Result<Arc<dyn Export>> {
        if name == "owned" {
            return Err(Error::new(Kind::Owned, "host `b` has owned it since noon"));
        }
        if name == "huge" {
            return Ok(Arc::new(extended::Huge(self.0.clone())));
        }
        let disk = self.0.find(name)?.clone();
        self.0.state.lock().open += 1;
        Ok(Arc::new(Handle { house: self.0.clone(), disk }))
    }

    /// Opens whatever has this name now.
    async fn open_again(&self, _: &str, held: &HeldDisk, peer: &str) -> Result<Arc<dyn Export>> {
        if let Some((kind, why)) = self.0.state.lock().not_again {
            return Err(Error::new(kind, why));
        }
        self.open(held.0.as_str().unwrap_or("none"), peer).await
    }
}

/// A handle that records what it is asked, and is slow or fails as told.
struct Handle {
    house: Arc<House>,
    disk: Arc<MemoryDisk>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.house.state.lock().open -= 1;
    }
}

impl Handle {
    async fn enter<T>(&self, what: String, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (delay, failing) = {
            let mut state = self.house.state.lock();
            state.log.push(what.clone());
            (state.delay, state.failing)
        };
        if !delay.is_zero() {
            self.house.rt.sleep(delay).await;
        }
        if let Some((kind, why)) = failing {
            return Err(Error::new(kind, why));
        }
        let out = work.await;
        self.house.state.lock().log.push(format!(".{what}"));
        out
    }
}

/// A client's claim on an export by its name, which no other export ever has here.
pub struct Named(pub Arc<House>, pub &'static str);

impl Holding for Named {
    fn held(&self) -> Result<HeldDisk> {
        match self.0.state.lock().lost {
            Some(why) => Err(Error::new(Kind::Fenced, why)),
            None => Ok(HeldDisk(self.1.into())),
        }
    }
}

#[async_trait]
impl Export for Handle {
    fn describe(&self) -> Description {
        self.disk.describe()
    }
    fn holding(&self) -> Arc<dyn Holding> {
        let name = if self.disk.describe().read_only { "snap" } else { "disk" };
        Arc::new(Named(self.house.clone(), name))
    }
    async fn changes_again(&self, _: &str, held: &HeldDisk) -> Result<Box<dyn Changes>> {
        self.changes(held.0.as_str().unwrap_or("none")).await
    }
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn turn(&self, writes: bool, _: u64) -> Option<BoxFuture<'_, ()>> {
        let mut state = self.house.state.lock();
        let (pace, now) = (state.pace.filter(|_| writes)?, self.house.rt.now());
        let mine = state.next_turn.max(now);
        state.next_turn = mine + pace;
        Some(self.house.rt.sleep(mine.since(now)))
    }
    async fn read(&self, offset: u64, len: usize) -> Result<Rope> {
        let cut = usize::from(self.house.state.lock().short_reads);
        self.enter(format!("read {offset}+{len}"), self.disk.read(offset, len - cut)).await
    }
    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.enter(format!("write {offset}+{}", data.len()), self.disk.write(offset, data)).await
    }
    async fn zero(&self, offset: u64, len: u64, no_hole: bool) -> Result<()> {
        let what = format!("zero {offset}+{len}{}", if no_hole { " no hole" } else { "" });
        self.enter(what, self.disk.zero(offset, len, no_hole)).await
    }
    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.enter(format!("trim {offset}+{len}"), self.disk.trim(offset, len)).await
    }
    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<StatusExtent>> {
        self.enter(format!("status {offset}+{len}"), self.disk.extents(offset, len, max)).await
    }
    async fn changes(&self, snapshot: &str) -> Result<Box<dyn Changes>> {
        match snapshot {
            "s7" => Err(Error::new(Kind::NotFound, "snapshot s7 was removed")),
            _ => Ok(Box::new(EverySecond(snapshot.to_owned()))),
        }
    }
    async fn flush(&self) -> Result<()> {
        self.enter("flush".into(), self.disk.flush()).await
    }
}

/// Changes of every second block, since any snapshot but one that is gone.
struct EverySecond(String);

#[async_trait]
impl Changes for EverySecond {
    fn held(&self) -> HeldDisk {
        HeldDisk(self.0.clone().into())
    }
    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<ChangedExtent>> {
        let blocks = (offset / 4096..(offset + len).div_ceil(4096)).take(max);
        Ok(blocks.map(|n| ChangedExtent { len: 4096, changed: n % 2 > 0 }).collect())
    }
}

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

/// Connects our own client to the house. Once the token is cancelled the server hangs up.
pub async fn open_to_map(
    house: &Arc<House>,
    name: &str,
    contexts: &[&str],
    headers: Headers,
) -> (Result<Client>, CancellationToken) {
    let (io, theirs) = tokio::io::duplex(10_000);
    let stop = CancellationToken::new();
    let exports = Arc::new(Shown(house.clone()));
    let until = Until { stop: stop.clone(), pause: CancellationToken::new() };
    serve_stream(&house.rt, (theirs, None), exports, house.memory.clone(), until).detach();
    (Client::enter(&house.rt, Box::new(io), name, contexts, headers).await, stop)
}

/// Connects our own client, for tests of code that uses the client.
pub async fn client_of(house: &Arc<House>, name: &str) -> (Result<Client>, CancellationToken) {
    open_to_map(house, name, &[], Headers::Extended).await
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
