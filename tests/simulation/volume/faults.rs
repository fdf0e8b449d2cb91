//! What goes wrong, and when.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use windlass_base::rt::sim::{Process, World};
use windlass_store::{Reach, SimStore};

use super::settle::settle;
use super::site::{Hazard, Sharing, Site};
use super::user::User;

/// Times that something goes wrong in a run.
const ROUNDS: u64 = 7;

/// A hand that strikes the hosts' processes.
#[derive(Clone)]
pub struct Director {
    pub site: Arc<Site>,
    running: Arc<Mutex<Vec<Process>>>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Nothing,
    /// A process is killed at some step, with or without the host's power.
    Kill,
    /// A host is gone for good, its state folder with it; another comes in its place.
    HostLoss,
    /// A process stands still for a while.
    Freeze,
    ClockJump,
    StoreAway,
    StoresBack,
    /// Requests fail, or their answers are lost.
    Requests,
    /// Most requests fail for a few seconds.
    Storm,
    /// A store takes seconds to answer.
    Slow,
    /// The power fails, and as the host comes back stores are away.
    Blackout,
    /// Syncs and reads of a disk fail.
    BadDisk,
    FullDisk,
    /// The way between hosts that mirror each other fails.
    Link,
    /// The store that is to be lost loses its contents, or some of them go bad.
    Damage,
}

const CALM: &[Event] = &[
    Event::Nothing,
    Event::Kill,
    Event::Kill,
    Event::Kill,
    Event::HostLoss,
    Event::Freeze,
    Event::ClockJump,
];

const OUTAGES: &[Event] = &[
    Event::Nothing,
    Event::Kill,
    Event::Kill,
    Event::Kill,
    Event::Kill,
    Event::Kill,
    Event::HostLoss,
    Event::Freeze,
    Event::StoreAway,
    Event::StoreAway,
    Event::StoreAway,
    Event::StoresBack,
    Event::StoresBack,
    Event::Requests,
    Event::Requests,
    Event::Storm,
    Event::Slow,
    Event::Blackout,
    Event::Blackout,
];

const DISKS: &[Event] = &[
    Event::Kill,
    Event::Kill,
    Event::Freeze,
    Event::StoreAway,
    Event::StoresBack,
    Event::Requests,
    Event::BadDisk,
    Event::BadDisk,
    Event::BadDisk,
    Event::BadDisk,
    Event::FullDisk,
    Event::FullDisk,
];

const DAMAGE: &[Event] = &[
    Event::Nothing,
    Event::Kill,
    Event::Kill,
    Event::Kill,
    Event::Kill,
    Event::HostLoss,
    Event::Requests,
    Event::Damage,
    Event::Damage,
];

/// Directs a whole run.
pub async fn direct(site: Arc<Site>) {
    site.found().await;
    let rt = site.world.rt();
    let director = Director { site: site.clone(), running: Arc::default() };
    for host in 0..site.plan.hosts {
        director.start(host);
    }
    for _ in 0..ROUNDS {
        rt.sleep(Duration::from_millis(site.world.below(7_000))).await;
        let unclear = site.unclear.lock().pop();
        match unclear {
            Some(host) => director.crash_soon(host, site.world.per_mille(600)),
            None => director.happens(director.draw()),
        }
    }
    *site.over.lock() = true;
    if site.world.per_mille(500) {
        site.heal();
        director.revive();
        site.goes_on(&rt).await;
    }
    for (host, process) in director.running.lock().iter().enumerate() {
        site.crash(process, host, site.world.per_mille(500));
    }
    site.heal();
    settle(site, rt).await;
}

impl Director {
    fn start(&self, host: usize) {
        let process = self.site.world.process();
        let user = User { site: self.site.clone(), host, rt: process.rt() };
        let rt = user.rt.clone();
        let mut running = self.running.lock();
        match running.get_mut(host) {
            Some(before) => *before = process,
            None => running.push(process),
        }
        drop(running);
        rt.spawn(user.live()).detach();
    }

    /// Starts the hosts that are down, where requests may wait for another host: for a peer, or for an owner
    /// who is asked for the volume.
    fn revive(&self) {
        let down: Vec<_> = self
            .running
            .lock()
            .iter()
            .enumerate()
            .filter(|(_, p)| !p.alive())
            .map(|(host, _)| host)
            .collect();
        if self.site.plan.sharing != Sharing::Apart {
            self.site.troubled_until(self.site.world.now());
            down.into_iter().for_each(|host| self.start(host));
        }
    }

    fn draw(&self) -> Event {
        if self.site.plan.is_mirrored() && self.site.world.below(3) == 0 {
            return Event::Link;
        }
        let events = match self.site.plan.hazard {
            Hazard::Calm => CALM,
            Hazard::Outages => OUTAGES,
            Hazard::Disks => DISKS,
            Hazard::Wipe | Hazard::Rot => DAMAGE,
        };
        events[self.site.world.below(events.len() as u64) as usize]
    }

    fn some_host(&self) -> usize {
        self.site.world.below(self.site.plan.hosts as u64) as usize
    }

    /// Returns the place of the volume's last owner, or any host's if that one is gone.
    fn owner(&self) -> usize {
        let key = self.site.model.lock().current().lock().host;
        self.site.host_of(key).unwrap_or_else(|| self.some_host())
    }

    fn happens(&self, event: Event) {
        let (site, world) = (&self.site, &self.site.world);
        let host = self.some_host();
        site.note(|| format!("{event:?}"));
        let n = site.stores.len() as u64;
        let store = &site.stores[world.below(n) as usize];
        match event {
            Event::Nothing => {}
            Event::Kill => self.crash_soon(host, world.per_mille(600)),
            Event::HostLoss if site.mirrors.may_lose() => self.lose(host),
            Event::HostLoss => self.crash_soon(host, true),
            Event::Freeze => self.freeze(host),
            Event::ClockJump => self.running.lock()[host].jump_clock(),
            Event::StoreAway => self.away_soon(store.clone()),
            Event::StoresBack => site.stores.iter().for_each(|s| s.faults(|f| f.reach = Reach::Up)),
            Event::Requests => {
                // So many that a store is out for seconds would be one more that is lost, where one loses its contents.
                let most = if matches!(site.plan.hazard, Hazard::Wipe | Hazard::Rot) { 20 } else { 80 };
                let (errors, lost) = (world.below(most) as u32, world.below(most) as u32);
                site.stores.iter().for_each(|s| s.faults(|f| (f.errors, f.lost) = (errors, lost)));
            }
            Event::Storm => self.storm(),
            Event::Slow => {
                let to = Duration::from_millis(100 << world.below(6));
                store.faults(|f| f.latency = (to / 4, to));
                self.later(15_000, |site| site.usual_latency());
            }
            Event::Blackout => self.blackout(),
            Event::BadDisk => self.bad_disk(self.owner()),
            Event::FullDisk => {
                let disk = site.disk(host);
                let used: u64 = disk.files().iter().map(|(_, len)| len).sum();
                disk.faults(|f| f.capacity = used + world.below(1 << 20));
                self.later(8_000, move |site| site.disk(host).faults(|f| f.capacity = u64::MAX));
            }
            Event::Link => site.trouble_a_link(),
            Event::Damage => site.damage(),
        }
    }

    /// Takes a store away within the next steps, not within some time. So work that takes no time, as
    /// building a checkpoint's map, is met as often as pauses are.
    fn away_soon(&self, store: Arc<SimStore>) {
        let (site, world) = (self.site.clone(), &self.site.world);
        let how = away(world);
        world.after_steps(world.below(600), move || {
            if !*site.over.lock() {
                store.faults(|f| f.reach = how);
            }
        });
    }

    fn later(&self, within_ms: u64, job: impl FnOnce(&Site) + Send + 'static) {
        let site = self.site.clone();
        let after = Duration::from_millis(site.world.below(within_ms));
        self.site.world.after(after, move || job(&site));
    }

    /// Kills a host's process within the next steps; it starts again after a while.
    fn crash_soon(&self, host: usize, power: bool) {
        let pause = Duration::from_millis(self.site.world.below(8_000));
        let (director, steps) = (self.clone(), self.site.world.below(600));
        self.site.world.after_steps(steps, move || director.crash(host, power, pause));
    }

    fn crash(&self, host: usize, power: bool, pause: Duration) {
        let process = self.running.lock()[host].clone();
        if *self.site.over.lock() || !process.alive() {
            return;
        }
        self.site.note(|| format!("host{host} is killed, power {power}"));
        self.site.crash(&process, host, power);
        self.start_after(host, pause);
    }

    fn start_after(&self, host: usize, pause: Duration) {
        let director = self.clone();
        self.site.world.after(pause, move || {
            if !*director.site.over.lock() {
                director.site.note(|| format!("host{host} starts"));
                director.site.troubled_until(director.site.world.now());
                director.start(host);
            }
        });
    }

    fn lose(&self, host: usize) {
        let process = self.running.lock()[host].clone();
        if process.alive() {
            self.site.crash(&process, host, true);
            self.start_after(host, Duration::from_millis(self.site.world.below(8_000)));
        }
        // One that is down may be lost, too.
        self.site.lose(host);
    }

    fn freeze(&self, host: usize) {
        let world = &self.site.world;
        self.site.disturb(host);
        let time = Duration::from_millis(1 << world.below(15));
        self.site.troubled_until(world.now() + time);
        self.running.lock()[host].freeze(time);
    }

    fn storm(&self) {
        let world = &self.site.world;
        let (errors, lost) = (world.below(700) as u32, world.below(300) as u32);
        self.site.stores.iter().for_each(|s| s.faults(|f| (f.errors, f.lost) = (errors, lost)));
        self.later(6_000, |site| site.stores.iter().for_each(|s| s.faults(|f| (f.errors, f.lost) = (0, 0))));
    }

    fn blackout(&self) {
        let (site, world) = (&self.site, &self.site.world);
        let count = 1 + world.below(site.plan.layout.m() as u64 + 1);
        for _ in 0..count {
            let store = &site.stores[world.below(site.stores.len() as u64) as usize];
            store.faults(|f| f.reach = away(world));
        }
        let host = self.owner();
        let (director, pause) = (self.clone(), Duration::from_millis(world.below(2_000)));
        let power = world.per_mille(800);
        world.after_steps(world.below(300), move || director.crash(host, power, pause));
        self.later(20_000, |site| site.stores.iter().for_each(|s| s.faults(|f| f.reach = Reach::Up)));
    }

    /// Makes a host's disk fail for a while. Often the host comes to its end soon after, mostly when its
    /// journal has just been begun anew: what was taken in meanwhile must be in it.
    fn bad_disk(&self, host: usize) {
        let (site, world) = (&self.site, &self.site.world);
        let (sync_fails, read_fails) = (50 + world.below(400) as u32, world.below(2) as u32 * 50);
        let disk = site.disk(host).clone();
        disk.faults(|f| (f.sync_fails, f.read_fails) = (sync_fails, read_fails));
        let (director, rt, failures) = (self.clone(), world.rt(), disk.sync_failures());
        let (end, power) = (world.per_mille(700), world.per_mille(500));
        let (site, mended) = (site.clone(), site.mended(host).load(Ordering::Relaxed));
        let task = async move {
            for _ in 0..40 {
                rt.sleep(Duration::from_millis(100)).await;
                if disk.sync_failures() > failures && rt.below(3) == 0 {
                    break;
                }
            }
            disk.faults(|f| (f.sync_fails, f.read_fails) = (0, 0));
            if end {
                for _ in 0..rt.below(200) {
                    if site.mended(host).load(Ordering::Relaxed) > mended {
                        break;
                    }
                    rt.sleep(Duration::from_millis(20)).await;
                }
                rt.sleep(Duration::from_millis(1 << rt.below(10))).await;
                director.crash(host, power, Duration::from_millis(rt.below(2_000)));
            }
        };
        world.rt().spawn(task).detach();
    }
}

/// Draws in which way a store is away.
fn away(world: &World) -> Reach {
    [Reach::Refuses, Reach::Silent, Reach::Foreign][world.below(3) as usize]
}
