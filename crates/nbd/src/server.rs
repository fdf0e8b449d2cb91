//! The accepting of clients and their lives, from greeting to the last reply; and what is handed over to another process.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::access::{Access, Identity, Policy};
use super::address::Address;
use super::export::Exports;
use super::handover_state::{ConnectionState, Entered, Haggling, Phase, Unserved};
use super::handshake::{Handshake, Handshaken, Session, enter_again};
use super::handshake_wire::ClientFlags;
use super::listener::{Listener, Socket, SocketRights, Stream};
use super::output::Output;
use super::prefixed_stream::Ahead;
use super::receive_buffer::Window;
use super::suspend_resume::{Begun, Paused, Until};
use super::tls_handshake_limit::{Place, Places};
use super::tls_server::peer_names;
use super::transmission::{SETTLE, transmit};
use windlass_base::rt::{Rt, Task};
use windlass_base::{Budget, Result};

/// Most clients at a time; beyond that a new one is turned away.
const CLIENTS: usize = 2048;
/// Most clients that are on their way into TLS at a time: those who show no certificate must not take the
/// place of those who do.
const HANDSHAKES: usize = 64;
/// Time from a client's connection to the end of its TLS handshake.
const TLS_WITHIN: Duration = Duration::from_secs(10);
/// Time for which a client that still haggles may go on when the server stops, to hear that it does.
const GRACE: Duration = Duration::from_secs(1);
/// Time between attempts to enter an export again that a client of another process holds.
const ENTER_AGAIN: Duration = Duration::from_secs(1);
/// Time to wait after accepting failed: most likely file descriptors are short.
const PAUSE: Duration = Duration::from_millis(200);

/// A running listener.
#[derive(Debug)]
pub struct Server {
    asked: Address,
    address: Address,
    pause: CancellationToken,
    tls_stop: CancellationToken,
    alive: mpsc::WeakSender<Connected>,
    all_gone: Task<(Option<Listener>, Vec<Connected>)>,
}

/// A client's connection as it goes to another process.
#[derive(Debug)]
pub struct Connected {
    pub client: Unserved,
    pub socket: OwnedFd,
}

/// A listener whose clients wait to be served, by this process or another one.
#[derive(Debug)]
pub struct PausedServer {
    /// The address that was asked for; `address` is the one that the listener has.
    pub asked: Address,
    pub address: Address,
    /// The listening socket. `None` where only the clients that are there go on.
    pub listener: Option<Listener>,
    pub clients: Vec<Connected>,
}

impl Server {
    /// Returns the address where the server listens, with the port that the system chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns how many clients are connected now.
    pub fn clients(&self) -> usize {
        // One of the senders is the listener's own.
        self.alive.strong_count().saturating_sub(1)
    }

    /// Waits until the stop token was given and every connection has ended.
    pub fn ended(self) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move { self.all_gone.await.map(drop) })
    }

    /// Stops taking clients and requests, for another process to go on. Returns when each connection stands
    /// between two requests, which takes `SETTLE` and a moment at most. Connections that were ending are not
    /// among them. Connections by TLS, whose keys do not leave this process, end as when the server stops.
    pub fn pause(self) -> BoxFuture<'static, Result<PausedServer>> {
        Box::pin(async move {
            self.pause.cancel();
            self.tls_stop.cancel();
            let (listener, clients) = self.all_gone.await?;
            Ok(PausedServer { asked: self.asked, address: self.address, listener, clients })
        })
    }
}

/// The way in for clients of a listener.
#[derive(Clone, Debug, Default)]
pub struct Entrance {
    /// Owner, group and mode of a unix socket's file.
    pub rights: SocketRights,
    pub access: Arc<Access>,
}

/// Serves as `serve_by` does: on a unix socket for this process's user alone, on TCP for everybody.
pub fn serve<'f>(
    rt: &'f Rt,
    address: &'f Address,
    exports: Arc<dyn Exports>,
    memory: Budget,
    stop: CancellationToken,
) -> BoxFuture<'f, Result<Server>> {
    Box::pin(async move { serve_by(rt, address, Entrance::default(), exports, memory, stop).await })
}

/// Binds `address` and serves every client until `stop`; `memory` bounds what requests hold. From `stop` on
/// nobody is accepted and no request is taken. Requests under way are finished and answered within
/// `transmission::DRAIN`.
pub fn serve_by<'f>(
    rt: &'f Rt,
    address: &'f Address,
    entrance: Entrance,
    exports: Arc<dyn Exports>,
    memory: Budget,
    stop: CancellationToken,
) -> BoxFuture<'f, Result<Server>> {
    Box::pin(async move {
        let (listener, bound) = Listener::bind(address, Some(entrance.rights)).await?;
        let (asked, listener) = (address.clone(), Some(listener));
        let paused = PausedServer { asked, address: bound, listener, clients: Vec::new() };
        Ok(go_on(rt, paused, entrance.access, exports, memory, stop))
    })
}

/// Serves as `serve_by` does, from where another server was paused. A client that may not come in any more,
/// or whose export can't be entered again, is hung up on.
pub fn go_on(
    rt: &Rt,
    paused: PausedServer,
    access: Arc<Access>,
    exports: Arc<dyn Exports>,
    memory: Budget,
    stop: CancellationToken,
) -> Server {
    let PausedServer { asked, address, mut listener, clients } = paused;
    listener.iter_mut().for_each(Listener::keep_file);
    let (alive, mut left) = mpsc::channel(1);
    let (pause, tls_stop) = (CancellationToken::new(), stop.child_token());
    let by_tls = matches!(address, Address::Tls(_)).then(|| ByTls::new(tls_stop.clone()));
    let until = Until { stop, pause: pause.clone() };
    let house = House { rt: rt.clone(), exports, access, by_tls, until, memory, alive };
    let alive = house.alive.downgrade();
    clients.into_iter().for_each(|client| house.start_again(client));
    let all_gone = async move {
        let accepting = async {
            let listener = house.accept_all(listener).await;
            drop(house);
            listener
        };
        // Every connection holds a sender: the last one gone ends this.
        let leaving = async {
            let mut clients = Vec::new();
            while let Some(client) = left.recv().await {
                clients.push(client);
            }
            clients
        };
        futures::join!(accepting, leaving)
    };
    Server { asked, address, pause, tls_stop, alive, all_gone: rt.spawn(all_gone) }
}

/// State that all connections of a listener share.
#[derive(Clone)]
struct House {
    rt: Rt,
    /// All exports; in a client's copy only those that the client may see.
    exports: Arc<dyn Exports>,
    access: Arc<Access>,
    by_tls: Option<ByTls>,
    until: Until,
    memory: Budget,
    alive: mpsc::Sender<Connected>,
}

/// State of a listener whose clients come by TLS.
#[derive(Clone)]
struct ByTls {
    handshakes: Arc<Places>,
    /// Cancelled when clients by TLS are to end: also where other clients are to go on in another process.
    stop: CancellationToken,
}

impl ByTls {
    fn new(stop: CancellationToken) -> ByTls {
        ByTls { handshakes: Arc::new(Places::new(HANDSHAKES)), stop }
    }
}

/// The result of entering an export again for a client that comes from another process.
enum Again {
    Entered(Session),
    Lost,
    Paused,
}

impl House {
    /// Accepts clients until the server stops or pauses. Returns the listener when another process is to go
    /// on with it.
    async fn accept_all(&self, listener: Option<Listener>) -> Option<Listener> {
        let Until { stop, pause } = &self.until;
        let Some(listener) = listener else {
            select(std::pin::pin!(stop.cancelled()), std::pin::pin!(pause.cancelled())).await;
            return None;
        };
        loop {
            let next = {
                let paused = pause.cancelled();
                let stopped = stop.cancelled();
                let accept = listener.accept();
                futures::pin_mut!(paused, stopped, accept);
                match select(stopped, select(paused, accept)).await {
                    Either::Left(_) => return None,
                    Either::Right((Either::Left(_), _)) => break,
                    Either::Right((Either::Right((next, _)), _)) => next,
                }
            };
            match next {
                Ok((_, peer)) if self.alive.strong_count() > CLIENTS => {
                    warn!(peer, "a client was turned away: {CLIENTS} are connected");
                }
                Ok((Socket::Tcp(stream), peer)) => match &self.by_tls {
                    Some(by_tls) => self.start_tls(by_tls, stream, peer),
                    None => self.start(stream, &Identity::Unknown, peer, None),
                },
                Ok((Socket::Unix(stream), peer)) => {
                    let who = process(&stream);
                    self.start(stream, &who, peer, None);
                }
                Err(e) => {
                    warn!(error = %e, "accepting a client failed");
                    self.rt.sleep(PAUSE).await;
                }
            }
        }
        Some(listener)
    }

    fn start(
        &self,
        stream: impl Stream + Send + 'static,
        who: &Identity,
        peer: String,
        from: Option<ConnectionState>,
    ) {
        let Some(house) = self.for_client(&self.access.policy(), who, &peer) else { return };
        let life = async move {
            let Some((stream, client)) = house.serve_client(stream, peer, from).await else { return };
            match stream.into_fd() {
                Ok(socket) => drop(house.alive.send(Connected { client, socket }).await),
                Err(error) => {
                    warn!(peer = client.state().peer, %error, "a client is lost: it can't be handed over");
                }
            }
        };
        self.rt.spawn(life).detach();
    }

    fn start_again(&self, Connected { client, socket }: Connected) {
        let state = client.state();
        let peer = state.peer.clone();
        match state.check().and_then(|()| Socket::of(socket)) {
            Ok(Socket::Tcp(stream)) => self.start(stream, &Identity::Unknown, peer, Some(state)),
            Ok(Socket::Unix(stream)) => {
                let who = process(&stream);
                self.start(stream, &who, peer, Some(state));
            }
            Err(error) => warn!(peer, %error, "a client is lost"),
        }
    }

    fn start_tls(&self, by_tls: &ByTls, stream: impl Stream + Send + 'static, peer: String) {
        let handshake = by_tls.handshakes.take();
        // No pause: it can't go on elsewhere.
        let until = Until { stop: by_tls.stop.clone(), pause: CancellationToken::new() };
        let house = House { until, ..self.clone() };
        self.rt.spawn(house.serve_tls(stream, peer, handshake)).detach();
    }

    /// Serves a client by TLS. `handshake`: its place among those that are on their way into TLS.
    async fn serve_tls(self, stream: impl Stream + Send, peer: String, handshake: Place) {
        let policy = self.access.policy();
        let Some((stream, client)) = self.secure(&policy, stream, &peer, &handshake).await else { return };
        drop(handshake);
        let names = peer_names(&stream);
        info!(peer, certificate = ?names, "a client is within TLS");
        let who = names.map_or(Identity::Unknown, Identity::Certificate);
        let Some(house) = self.for_client(&policy, &who, &peer) else { return };
        drop((self, policy));
        let stream = Ahead::new(Vec::new(), stream);
        house.haggle(stream, Begun::default(), peer, (Some(client), None)).await;
    }

    /// Returns a copy of the house with the exports that this client may see. `None`: no rule is for the
    /// client, and it is hung up on.
    fn for_client(&self, policy: &Policy, who: &Identity, peer: &str) -> Option<House> {
        let Some(exports) = policy.exports_for(&self.exports, who) else {
            warn!(peer, ?who, "a client was turned away: no rule of `allow` is for it");
            return None;
        };
        Some(House { exports, ..self.clone() })
    }

    /// Takes a client into TLS, in a bounded time. `None`: it has failed, left, or lost its place to a newer
    /// client.
    async fn secure<S: Stream>(
        &self,
        policy: &Policy,
        stream: S,
        peer: &str,
        place: &Place,
    ) -> Option<(TlsStream<S>, ClientFlags)> {
        let tls = policy.tls.as_ref()?;
        let secured = self.rt.timeout(TLS_WITHIN, tls.accept(stream));
        let (stopped, lost) = (self.until.stop.cancelled(), place.lost());
        futures::pin_mut!(secured, stopped, lost);
        match select(secured, select(stopped, lost)).await {
            Either::Left((Some(Ok(secured)), _)) => secured,
            Either::Left((Some(Err(error)), _)) => {
                info!(peer, %error, "a client was dropped before it was within TLS");
                None
            }
            Either::Left((None, _)) => {
                info!(peer, "a client was dropped: it was not within TLS after {} s", TLS_WITHIN.as_secs());
                None
            }
            Either::Right((Either::Left(_), _)) => None,
            Either::Right((Either::Right(_), _)) => {
                info!(peer, "a client was dropped: {HANDSHAKES} newer ones are on their way into TLS");
                None
            }
        }
    }

    /// Serves a client from its greeting on, or from where another process has left it (`from`). Returns the
    /// stream and its state when another process is to go on.
    async fn serve_client<S: Stream + Send>(
        &self,
        stream: S,
        peer: String,
        from: Option<ConnectionState>,
    ) -> Option<(S, Unserved)> {
        match from {
            Some(state) => self.serve_again(stream, state).await,
            None => self.haggle(Ahead::new(Vec::new(), stream), Begun::default(), peer, (None, None)).await,
        }
    }

    async fn serve_again<S: Stream + Send>(
        &self,
        stream: S,
        state: ConnectionState,
    ) -> Option<(S, Unserved)> {
        let session = match &state.phase {
            Phase::Haggling(_) => None,
            Phase::Entered(entered) => match self.enter_again(entered, &state.peer).await {
                Again::Entered(session) => Some(session),
                Again::Lost => return None,
                Again::Paused => return Some((stream, state.into())),
            },
        };
        let ConnectionState { peer, phase, unread, unsent } = state;
        let stream = Ahead::new(unread, stream);
        match (phase, session) {
            (Phase::Entered(entered), Some(session)) => {
                let begun = Begun::again(unsent, &entered).ok()?;
                self.transmit(stream, begun, session, peer).await
            }
            (Phase::Haggling(haggling), _) => {
                let begun = Begun { output: Output::beginning(unsent), ..Begun::default() };
                self.haggle(stream, begun, peer, (None, Some(haggling))).await
            }
            (Phase::Entered(_), None) => None,
        }
    }

    /// Haggles with a client and serves it then. `from`: within TLS, the client's answer to the greeting
    /// before TLS; and the haggling that another process has left.
    async fn haggle<S: Stream + Send>(
        &self,
        mut stream: Ahead<S>,
        mut begun: Begun,
        peer: String,
        from: (Option<ClientFlags>, Option<Haggling>),
    ) -> Option<(S, Unserved)> {
        match self.handshake(&mut stream, &mut begun.window, &peer, from).await? {
            Ok(session) => self.transmit(stream, begun, session, peer).await,
            Err(haggling) => {
                let (ahead, stream) = stream.into_parts();
                let (unread, unsent) = ([begun.window.bytes(), &ahead].concat(), begun.output.take());
                let phase = Phase::Haggling(haggling);
                Some((stream, ConnectionState { peer, phase, unread, unsent }.into()))
            }
        }
    }

    async fn transmit<S: Stream>(
        &self,
        stream: Ahead<S>,
        begun: Begun,
        session: Session,
        peer: String,
    ) -> Option<(S, Unserved)> {
        let name = session.name.clone();
        info!(peer, export = ?name, "a client is connected");
        let (memory, until) = (self.memory.clone(), self.until.clone());
        let Some(paused) = transmit(&self.rt, stream, begun, session, memory, until).await else {
            info!(peer, export = ?name, "a client is gone");
            return None;
        };
        debug!(peer, export = ?name, "a client waits for another process to go on");
        let Paused { stream, entered, holding, unread, unsent } = paused;
        let phase = Phase::Entered(entered);
        Some((stream, Unserved::new(ConnectionState { peer, phase, unread, unsent }, holding)))
    }

    /// Enters an export again for a client of another process. Opening may take as long as stores are away:
    /// the client's requests wait, as they do in an outage.
    async fn enter_again(&self, entered: &Entered, peer: &str) -> Again {
        let entering = async {
            loop {
                match enter_again(&*self.exports, peer, entered).await {
                    Err(error) if error.is_transient() => {
                        debug!(peer, export = entered.asked, %error, "a client of the process before waits");
                        self.rt.sleep(ENTER_AGAIN).await;
                    }
                    done => return done,
                }
            }
        };
        let (stopped, paused) = (self.until.stop.cancelled(), self.until.pause.cancelled());
        futures::pin_mut!(entering, stopped, paused);
        match select(entering, select(stopped, paused)).await {
            Either::Left((Ok(session), _)) => Again::Entered(session),
            Either::Left((Err(error), _)) => {
                warn!(peer, export = entered.asked, %error, "a client is lost: it can't go on here");
                Again::Lost
            }
            Either::Right((Either::Left(_), _)) => Again::Lost,
            Either::Right((Either::Right(_), _)) => Again::Paused,
        }
    }

    /// Haggles with a client. Returns the session, or the haggling as another process is to go on with it;
    /// `None` when the client is gone.
    async fn handshake<S: Stream + Send>(
        &self,
        stream: &mut Ahead<S>,
        window: &mut Window,
        peer: &str,
        (secured, begun): (Option<ClientFlags>, Option<Haggling>),
    ) -> Option<Result<Session, Haggling>> {
        let (Until { stop, pause }, rt, exports) = (&self.until, &self.rt, &*self.exports);
        let haggling = Handshake { rt, stream, window, exports, peer, secured, stop, pause };
        let haggling = haggling.run(begun);
        let stopped = async {
            stop.cancelled().await;
            self.rt.sleep(GRACE).await;
        };
        let paused = async {
            pause.cancelled().await;
            self.rt.sleep(SETTLE).await;
        };
        futures::pin_mut!(haggling, stopped, paused);
        match select(haggling, select(stopped, paused)).await {
            Either::Left((Ok(Handshaken::Entered(session)), _)) => Some(Ok(session)),
            Either::Left((Ok(Handshaken::Paused(haggling)), _)) => Some(Err(haggling)),
            Either::Left((Ok(Handshaken::Left), _)) => None,
            Either::Left((Err(error), _)) => {
                info!(peer, %error, "a client was dropped before it entered an export");
                None
            }
            Either::Right(_) => {
                debug!(peer, "a client was dropped by the shutdown");
                None
            }
        }
    }
}

/// Returns the user and group of the process at the other end.
fn process(stream: &tokio::net::UnixStream) -> Identity {
    let process = stream.peer_cred();
    process.map_or(Identity::Unknown, |who| Identity::Process { uid: who.uid(), gid: who.gid() })
}

/// Serves one client on any stream, without a listener. `from`: its state as another process has left it. No program uses it.
pub fn serve_stream<S: Stream + Send + 'static>(
    rt: &Rt,
    (stream, from): (S, Option<ConnectionState>),
    exports: Arc<dyn Exports>,
    memory: Budget,
    until: Until,
) -> Task<Option<(S, Unserved)>> {
    let (access, alive) = (Arc::default(), mpsc::channel(1).0);
    let house = House { rt: rt.clone(), exports, access, by_tls: None, until, memory, alive };
    rt.spawn(async move { house.serve_client(stream, "test".into(), from).await })
}

/// Serves one client by TLS, without a listener. Such a client never goes on in another process.
#[cfg(any(test, fuzzing))]
pub fn serve_tls_stream<S: Stream + Send + 'static>(
    rt: &Rt,
    stream: S,
    access: Arc<Access>,
    exports: Arc<dyn Exports>,
    memory: Budget,
    stop: CancellationToken,
) -> Task<Option<(S, Unserved)>> {
    let by_tls = ByTls::new(stop.clone());
    let handshake = by_tls.handshakes.take();
    let until = Until { stop, pause: CancellationToken::new() };
    let (by_tls, alive) = (Some(by_tls), mpsc::channel(1).0);
    let house = House { rt: rt.clone(), exports, access, by_tls, until, memory, alive };
    rt.spawn(async move {
        house.serve_tls(stream, "test".into(), handshake).await;
        None
    })
}
