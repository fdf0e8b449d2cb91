//! A simulated network between daemons: links that are slow, that hang, that are cut.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::super::super::error::{Error, Kind, Result};
use super::super::link::{Dial, FRAME_MAX, Frame, Link, LinkReceiver, LinkSender};
use super::World;

/// The faults and delays between two hosts.
#[derive(Clone, Copy, Debug)]
pub struct LinkFaults {
    /// Connections can't be made.
    pub down: bool,
    /// Frames don't arrive as long as this stands, but later.
    pub hangs: bool,
    pub latency: (Duration, Duration),
}

#[derive(Debug)]
struct State {
    faults: LinkFaults,
    /// The daemon that listens; new connections go to it.
    listener: Option<mpsc::UnboundedSender<Link>>,
    /// Switches that break the connections under way.
    cuts: Vec<Arc<watch::Sender<bool>>>,
}

/// The way to one daemon that listens.
#[derive(Clone, Debug)]
pub struct SimNet {
    world: World,
    state: Arc<Mutex<State>>,
}

impl SimNet {
    pub fn new(world: &World) -> SimNet {
        let latency = (Duration::from_micros(50), Duration::from_millis(5));
        let faults = LinkFaults { down: false, hangs: false, latency };
        let state = State { faults, listener: None, cuts: Vec::new() };
        SimNet { world: world.clone(), state: Arc::new(Mutex::new(state)) }
    }

    pub fn faults(&self, change: impl FnOnce(&mut LinkFaults)) {
        change(&mut self.state.lock().faults);
    }

    /// Breaks all connections; frames that are on their way are lost.
    pub fn cut(&self) {
        let cuts = std::mem::take(&mut self.state.lock().cuts);
        cuts.iter().for_each(|cut| {
            cut.send_replace(true);
        });
    }

    /// Begins to listen: connections that are made from now on come here.
    pub fn listen(&self) -> mpsc::UnboundedReceiver<Link> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.state.lock().listener = Some(sender);
        receiver
    }

    fn direction(&self, cut: &Arc<watch::Sender<bool>>) -> (SimSender, SimReceiver) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (net, before) = (self.clone(), Arc::new(AtomicBool::new(true)));
        (SimSender { net, sender, before, cut: cut.clone() }, SimReceiver { receiver, cut: cut.subscribe() })
    }
}

#[async_trait]
impl Dial for SimNet {
    async fn dial(&self) -> Result<Link> {
        let latency = {
            let faults = self.state.lock().faults;
            self.world.latency(faults.latency.0, faults.latency.1)
        };
        self.world.rt().sleep(2 * latency).await;
        let refused = || Error::new(Kind::Unavailable, "connecting to the peer: nobody listens");
        let cut = Arc::new(watch::Sender::new(false));
        let (to, from) = (self.direction(&cut), self.direction(&cut));
        let mut state = self.state.lock();
        if state.faults.down || state.faults.hangs {
            return Err(refused());
        }
        state.cuts.retain(|cut| Arc::strong_count(cut) > 1);
        state.cuts.push(cut);
        let listener = state.listener.clone().ok_or_else(refused)?;
        drop(state);
        let there = Link { sender: Box::new(from.0), receiver: Box::new(to.1) };
        listener.send(there).map_err(|_| refused())?;
        Ok(Link { sender: Box::new(to.0), receiver: Box::new(from.1) })
    }

    fn place(&self) -> String {
        "peer:1".to_owned()
    }
}

#[derive(Debug)]
struct SimSender {
    net: SimNet,
    sender: mpsc::UnboundedSender<Bytes>,
    /// True once the frames that were sent before have arrived: nothing overtakes them.
    before: Arc<AtomicBool>,
    cut: Arc<watch::Sender<bool>>,
}

/// Frames on their way.
struct Way {
    net: SimNet,
    sender: mpsc::UnboundedSender<Bytes>,
    frames: Vec<Bytes>,
    before: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
}

impl Way {
    /// Delivers the frames. While the link hangs, or earlier frames have not arrived, it tries again a little
    /// later.
    fn arrive(self) {
        if self.net.state.lock().faults.hangs || !self.before.load(Ordering::Relaxed) {
            // When nobody is there any more nothing is to be waited for.
            if !self.sender.is_closed() {
                let world = self.net.world.clone();
                world.after(Duration::from_millis(5), move || self.arrive());
            }
            return;
        }
        for frame in self.frames {
            let _ = self.sender.send(frame);
        }
        self.done.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl LinkSender for SimSender {
    async fn send(&mut self, frames: Vec<Vec<Bytes>>) -> io::Result<()> {
        if *self.cut.borrow() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let whole = |parts: Vec<Bytes>| {
            let mut out = BytesMut::new();
            parts.iter().for_each(|part| out.extend_from_slice(part));
            assert!(out.len() <= FRAME_MAX, "a frame of {} bytes", out.len());
            out.freeze()
        };
        let frames: Vec<Bytes> = frames.into_iter().map(whole).collect();
        let world = self.net.world.clone();
        let faults = self.net.state.lock().faults;
        let way = Way {
            net: self.net.clone(),
            sender: self.sender.clone(),
            frames,
            before: self.before.clone(),
            done: Arc::new(AtomicBool::new(false)),
        };
        self.before = way.done.clone();
        world.after(world.latency(faults.latency.0, faults.latency.1), move || way.arrive());
        Ok(())
    }
}

#[derive(Debug)]
struct SimReceiver {
    receiver: mpsc::UnboundedReceiver<Bytes>,
    cut: watch::Receiver<bool>,
}

#[async_trait]
impl LinkReceiver for SimReceiver {
    async fn receive(&mut self) -> io::Result<Option<Frame>> {
        let cut = std::pin::pin!(self.cut.wait_for(|cut| *cut));
        let next = std::pin::pin!(self.receiver.recv());
        match select(cut, next).await {
            Either::Left(_) => Err(io::ErrorKind::ConnectionReset.into()),
            Either::Right((bytes, _)) => Ok(bytes.map(|bytes| Frame { bytes, held: None })),
        }
    }
}
