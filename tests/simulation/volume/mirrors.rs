//! Hosts that mirror each other's journals: the ways between them, and what goes wrong there.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use windlass_base::rt::sim::{LinkFaults, SimNet, World};
use windlass_base::rt::{Dial, Rt};
use windlass_volume::{MirrorHost, Volumes, serve_mirror};

use super::name;
use super::site::Site;

/// The network of hosts that mirror each other; see the module.
pub struct Mirrors {
    /// The ways to the first two hosts, each the other's peer. Empty where nothing is mirrored.
    nets: Vec<SimNet>,
    usual: (Duration, Duration),
    /// Acknowledged bytes may be on one disk alone. A disk was lost, or a host shut out whose journal was put
    /// aside, and nobody has seen since that two hosts have all.
    thin: Mutex<bool>,
}

impl Mirrors {
    pub fn new(world: &World, is_mirrored: bool) -> Mirrors {
        let nets: Vec<_> = (0..if is_mirrored { 2 } else { 0 }).map(|_| SimNet::new(world)).collect();
        let mut usual = Default::default();
        nets.iter().for_each(|net| net.faults(|f| usual = f.latency));
        Mirrors { nets, usual, thin: Mutex::new(false) }
    }

    /// Returns the host that a host's journals are mirrored to.
    pub fn peer_of(&self, host: usize) -> Option<usize> {
        1_usize.checked_sub(host).filter(|peer| *peer < self.nets.len())
    }

    /// Returns the way to a host's peer, as the host knows it.
    pub fn of(&self, host: usize) -> MirrorHost {
        let peer = self.peer_of(host).map(|peer| &self.nets[peer]);
        MirrorHost::with_peer(peer.map(|net| Arc::new(net.clone()) as Arc<dyn Dial>))
    }

    /// Makes a host its peer's peer, for as long as its process lives.
    pub fn serve(&self, rt: &Rt, host: usize, volumes: &Volumes) {
        let Some(net) = self.nets.get(host) else { return };
        let (mut links, serving, engine) = (net.listen(), rt.clone(), volumes.shared_engine());
        let serve = async move {
            while let Some(link) = links.recv().await {
                let (engine, rt) = (engine.clone(), serving.clone());
                serving.spawn(async move { serve_mirror(rt, |_| async { Ok(engine) }, link).await }).detach();
            }
        };
        rt.spawn(serve).detach();
    }

    fn change(&self, net: usize, change: impl FnOnce(&mut LinkFaults)) {
        self.nets[net].faults(change);
    }

    pub fn heal(&self) {
        let usual = self.usual;
        self.nets.iter().for_each(|net| net.faults(|f| (f.down, f.hangs, f.latency) = (false, false, usual)));
    }

    /// Asks whether a host's disk may be lost now. `false`: another one was, and the rest of what was flushed
    /// may lie on this disk alone.
    pub fn may_lose(&self) -> bool {
        self.nets.is_empty() || !std::mem::replace(&mut *self.thin.lock(), true)
    }

    /// Notes that what was flushed may lie on the disk of the host that takes over, and nowhere else.
    pub fn taken_over(&self) {
        *self.thin.lock() = true;
    }

    /// Looks, as the volume's owner, whether its peer has all: then one of both may be lost again.
    pub fn look(&self, volumes: &Volumes) {
        if !self.nets.is_empty() {
            let state = volumes.glance(&name("v")).and_then(|info| info.mirror?.state);
            if state.as_deref() == Some("mirrored") {
                *self.thin.lock() = false;
            }
        }
    }
}

impl Site {
    /// Lets something go wrong on the way to a host.
    pub fn trouble_a_link(self: &Arc<Site>) {
        let world = &self.world;
        let (net, kind, for_ms) = (world.below(2) as usize, world.below(5), 1 << world.below(15));
        self.note(|| {
            format!("link to host{net}: {}", ["cut", "down", "hangs", "slow", "flaps"][kind as usize])
        });
        match kind {
            0 => self.mirrors.nets[net].cut(),
            1 => self.mirrors.change(net, |f| f.down = true),
            2 => self.mirrors.change(net, |f| f.hangs = true),
            3 => {
                let most = Duration::from_millis(1 + world.below(3_000));
                self.mirrors.change(net, |f| f.latency.1 = most);
            }
            _ => self.flap(net, 1 + world.below(6)),
        }
        if kind == 1 {
            self.mirrors.nets[net].cut();
        }
        let (site, usual) = (self.clone(), self.mirrors.usual);
        world.after(Duration::from_millis(for_ms), move || {
            site.mirrors.change(net, |f| (f.down, f.hangs, f.latency) = (false, false, usual));
        });
    }

    /// Breaks the way to a host several times.
    fn flap(self: &Arc<Site>, net: usize, times: u64) {
        self.mirrors.nets[net].cut();
        if times > 0 {
            let site = self.clone();
            let pause = Duration::from_millis(1 << self.world.below(12));
            self.world.after(pause, move || site.flap(net, times - 1));
        }
    }
}
