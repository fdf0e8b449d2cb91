//! The accepting of clients and their lives, from greeting to the last reply.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::access::{Access, Identity, Policy};
use super::address::Address;
use super::export::Exports;
use super::handshake::{Handshake, Session};
use super::listener::{Listener, Socket, SocketRights, Stream};
use super::options::ClientFlags;
use super::tls::peer_names;
use super::transmission::transmit;
use super::window::Window;
use crate::base::rt::{Rt, Task};
use crate::base::{Budget, Result};

/// Clients at a time; beyond that a new one is turned away.
const CLIENTS: usize = 512;
/// Clients that may be on their way into TLS at a time: who shows no certificate must not take the place of those who do.
const HANDSHAKES: usize = 64;
/// From a client's connection to the end of its TLS handshake.
const TLS_WITHIN: Duration = Duration::from_secs(10);
/// How long a client that still haggles may go on when the server stops, to hear that it does.
const GRACE: Duration = Duration::from_secs(1);
/// Accepting failed, most likely for want of file descriptors: how long to wait for some.
const PAUSE: Duration = Duration::from_millis(200);

/// A running listener.
#[derive(Debug)]
pub struct Server {
    address: Address,
    all_gone: Task<()>,
}

impl Server {
    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns when the stop token was given and every connection has ended.
    pub async fn ended(self) -> Result<()> {
        self.all_gone.await
    }
}

/// How clients come in.
#[derive(Clone, Debug, Default)]
pub struct Entrance {
    /// Of a unix socket.
    pub rights: SocketRights,
    pub access: Arc<Access>,
}

/// As `serve_by`, for this user, and on TCP for everybody.
pub async fn serve(
    rt: &Rt,
    address: &Address,
    exports: Arc<dyn Exports>,
    memory: Budget,
    stop: CancellationToken,
) -> Result<Server> {
    serve_by(rt, address, Entrance::default(), exports, memory, stop).await
}

/// Binds `address` and serves every client until `stop`, with `memory_disk` for what requests hold. From then on nobody is
/// accepted, no request is taken, and those under way are finished and answered within `transmission::DRAIN`.
pub async fn serve_by(
    rt: &Rt,
    address: &Address,
    entrance: Entrance,
    exports: Arc<dyn Exports>,
    memory: Budget,
    stop: CancellationToken,
) -> Result<Server> {
    let (listener, address) = Listener::bind(address, Some(entrance.rights)).await?;
    let (alive, mut all_gone) = mpsc::channel(1);
    let (access, handshakes) = (entrance.access, Arc::new(Semaphore::new(HANDSHAKES)));
    let by_tls = matches!(address, Address::Tls(_));
    let house = House { rt: rt.clone(), exports, access, by_tls, handshakes, stop, memory, alive };
    let all_gone = rt.spawn(async move {
        house.accept_all(listener).await;
        // Every connection holds a sender: nothing is ever sent, and the last one gone ends this.
        let _ = all_gone.recv().await;
    });
    Ok(Server { address, all_gone })
}

/// What every connection of a listener shares.
#[derive(Clone)]
struct House {
    rt: Rt,
    /// All; then those that the client may see.
    exports: Arc<dyn Exports>,
    access: Arc<Access>,
    by_tls: bool,
    handshakes: Arc<Semaphore>,
    stop: CancellationToken,
    memory: Budget,
    alive: mpsc::Sender<()>,
}

impl House {
    async fn accept_all(self, listener: Listener) {
        loop {
            let next = {
                let stopped = self.stop.cancelled();
                let accept = listener.accept();
                futures::pin_mut!(stopped, accept);
                match select(stopped, accept).await {
                    Either::Left(_) => return,
                    Either::Right((next, _)) => next,
                }
            };
            match next {
                Ok((_, peer)) if self.alive.strong_count() > CLIENTS => {
                    warn!(peer, "a client was turned away: {CLIENTS} are connected");
                }
                Ok((Socket::Tcp(stream), peer)) if self.by_tls => self.start_tls(stream, peer),
                Ok((Socket::Tcp(stream), peer)) => self.start(stream, peer, &Identity::Unknown),
                Ok((Socket::Unix(stream), peer)) => {
                    let process = stream.peer_cred();
                    let who = process.map_or(Identity::Unknown, |process| Identity::Process {
                        uid: process.uid(),
                        gid: process.gid(),
                    });
                    self.start(stream, peer, &who);
                }
                Err(e) => {
                    warn!(error = %e, "accepting a client failed");
                    self.rt.sleep(PAUSE).await;
                }
            }
        }
    }

    fn start(&self, stream: impl Stream + Send + 'static, peer: String, who: &Identity) {
        let Some(house) = self.for_client(&self.access.policy(), who, &peer) else { return };
        self.rt.spawn(house.serve_client(stream, peer, None)).detach();
    }

    fn start_tls(&self, stream: impl Stream + Send + 'static, peer: String) {
        let Ok(handshake) = self.handshakes.clone().try_acquire_owned() else {
            return warn!(peer, "a client was turned away: {HANDSHAKES} are on their way into TLS");
        };
        self.rt.spawn(self.clone().serve_tls(stream, peer, handshake)).detach();
    }

    /// `handshake`: its place among those that are on their way into TLS.
    async fn serve_tls(self, stream: impl Stream + Send, peer: String, handshake: OwnedSemaphorePermit) {
        let policy = self.access.policy();
        let Some((stream, client)) = self.secure(&policy, stream, &peer).await else { return };
        drop(handshake);
        let names = peer_names(&stream);
        info!(peer, certificate = ?names, "a client is within TLS");
        let who = names.map_or(Identity::Unknown, Identity::Certificate);
        let Some(house) = self.for_client(&policy, &who, &peer) else { return };
        drop((self, policy));
        house.serve_client(stream, peer, Some(client)).await;
    }

    /// With what this client may see. None: with nothing, and it is hung up on.
    fn for_client(&self, policy: &Policy, who: &Identity, peer: &str) -> Option<House> {
        let Some(exports) = policy.exports_for(&self.exports, who) else {
            warn!(peer, ?who, "a client was turned away: no rule of `allow` is for it");
            return None;
        };
        Some(House { exports, ..self.clone() })
    }

    /// Into TLS, in a bounded time.
    async fn secure<S: Stream>(
        &self,
        policy: &Policy,
        stream: S,
        peer: &str,
    ) -> Option<(TlsStream<S>, ClientFlags)> {
        let tls = policy.tls.as_ref()?;
        let (secured, stopped) = (self.rt.timeout(TLS_WITHIN, tls.accept(stream)), self.stop.cancelled());
        futures::pin_mut!(secured, stopped);
        match select(secured, stopped).await {
            Either::Left((Some(Ok(secured)), _)) => secured,
            Either::Left((Some(Err(error)), _)) => {
                info!(peer, %error, "a client was dropped before it was within TLS");
                None
            }
            Either::Left((None, _)) => {
                info!(peer, "a client was dropped: it was not within TLS after {} s", TLS_WITHIN.as_secs());
                None
            }
            Either::Right(_) => None,
        }
    }

    /// `secured`: within TLS, what the client had said before.
    async fn serve_client(self, mut stream: impl Stream + Send, peer: String, secured: Option<ClientFlags>) {
        let mut window = Window::new();
        let Some(session) = self.handshake(&mut stream, &mut window, &peer, secured).await else { return };
        let name = session.name.clone();
        info!(peer, export = ?name, "a client is connected");
        transmit(&self.rt, stream, window, session, self.memory, self.stop).await;
        info!(peer, export = ?name, "a client is gone");
    }

    async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: &mut S,
        window: &mut Window,
        peer: &str,
        secured: Option<ClientFlags>,
    ) -> Option<Session> {
        let (rt, exports, stop) = (&self.rt, &*self.exports, &self.stop);
        let haggling = Handshake { rt, stream, window, exports, peer, secured, stop };
        let haggling = haggling.run();
        let stopped = async {
            self.stop.cancelled().await;
            self.rt.sleep(GRACE).await;
        };
        futures::pin_mut!(haggling, stopped);
        match select(haggling, stopped).await {
            Either::Left((Ok(session), _)) => session,
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

/// One client on any stream, without a listener.
#[cfg(test)]
pub fn serve_stream(
    rt: &Rt,
    stream: impl Stream + Send + 'static,
    exports: Arc<dyn Exports>,
    memory: Budget,
    stop: CancellationToken,
) -> Task<()> {
    let house = house_for_tests(rt, exports, Access::default().into(), memory, stop);
    rt.spawn(house.serve_client(stream, "test".into(), None))
}

/// One client of a listener by TLS.
#[cfg(test)]
pub fn serve_tls_stream(
    rt: &Rt,
    stream: impl Stream + Send + 'static,
    access: Arc<Access>,
    exports: Arc<dyn Exports>,
    memory: Budget,
    stop: CancellationToken,
) -> Task<()> {
    let house = house_for_tests(rt, exports, access, memory, stop);
    let handshake = house.handshakes.clone().try_acquire_owned().expect("nobody else is there");
    rt.spawn(house.serve_tls(stream, "test".into(), handshake))
}

#[cfg(test)]
fn house_for_tests(
    rt: &Rt,
    exports: Arc<dyn Exports>,
    access: Arc<Access>,
    memory: Budget,
    stop: CancellationToken,
) -> House {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let alive = mpsc::channel(1).0;
    House { rt: rt.clone(), exports, access, by_tls: true, handshakes, stop, memory, alive }
}
