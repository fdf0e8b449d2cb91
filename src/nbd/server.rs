//! The accepting of clients and their lives, from greeting to the last reply.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::address::Address;
use super::export::Exports;
use super::handshake::{Handshake, Session};
use super::listener::{Listener, Socket, Stream};
use super::transmission::transmit;
use super::window::Window;
use crate::base::rt::{Rt, Task};
use crate::base::{Budget, Result};

/// Clients at a time; beyond that a new one is turned away.
const CLIENTS: usize = 512;
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

/// Binds `address` and serves every client until `stop`, with `memory_disk` for what requests hold. From then on nobody is
/// accepted, no request is taken, and those under way are finished and answered within `transmission::DRAIN`.
pub async fn serve(
    rt: &Rt,
    address: &Address,
    exports: Arc<dyn Exports>,
    memory: Budget,
    stop: CancellationToken,
) -> Result<Server> {
    let (listener, address) = Listener::bind(address).await?;
    let (alive, mut all_gone) = mpsc::channel(1);
    let house = House { rt: rt.clone(), exports, stop, memory, alive };
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
    exports: Arc<dyn Exports>,
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
                Ok((Socket::Tcp(stream), peer)) => self.start(stream, peer),
                Ok((Socket::Unix(stream), peer)) => self.start(stream, peer),
                Err(e) => {
                    warn!(error = %e, "accepting a client failed");
                    self.rt.sleep(PAUSE).await;
                }
            }
        }
    }

    fn start(&self, stream: impl Stream + Send + 'static, peer: String) {
        self.rt.spawn(self.clone().serve_client(stream, peer)).detach();
    }

    async fn serve_client(self, mut stream: impl Stream + Send, peer: String) {
        let mut window = Window::new();
        let Some(session) = self.handshake(&mut stream, &mut window, &peer).await else { return };
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
    ) -> Option<Session> {
        let haggling =
            Handshake { rt: &self.rt, stream, window, exports: &*self.exports, peer, stop: &self.stop };
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
    let house = House { rt: rt.clone(), exports, stop, memory, alive: mpsc::channel(1).0 };
    rt.spawn(house.serve_client(stream, "test".into()))
}
