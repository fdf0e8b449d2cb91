//! Pool and volume under everything that may happen to hosts, disks and stores: is every promise kept?
//!
//! Two hosts share a volume and take it from each other; their processes are killed at any step, with or without the
//! power; stores answer late, wrongly or not at all. `model` says what must be seen, `user` looks, `site` is the world.

mod model;
mod site;
mod user;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use windlass::base::rt::sim::{Process, Sim};
use windlass::store::Reach;

use crate::seeds::each_seed;
use site::{Plan, Site, name};
use user::{Look, User, look};

/// Times that something goes wrong in a run.
const ROUNDS: u64 = 7;

type Running = Arc<Mutex<Vec<Process>>>;

fn start(site: &Arc<Site>, running: &Running, host: usize) {
    let process = site.world.process();
    let user = User { site: site.clone(), host, rt: process.rt() };
    let rt = user.rt.clone();
    let mut running = running.lock();
    match running.get_mut(host) {
        Some(before) => *before = process,
        None => running.push(process),
    }
    drop(running);
    rt.spawn(user.live()).detach();
}

/// Kills a host's process within the next steps; it starts again after a while.
fn crash_soon(site: &Arc<Site>, running: &Running, host: usize) {
    let (world, site, running) = (site.world.clone(), site.clone(), running.clone());
    let (power, pause) = (world.per_mille(600), Duration::from_millis(world.below(8_000)));
    world.clone().after_steps(world.below(600), move || {
        if *site.over.lock() || !running.lock()[host].alive() {
            return;
        }
        site.note(|| format!("host{host} is killed, power {power}"));
        site.crash(&running.lock()[host], host, power);
        world.after(pause, move || {
            if !*site.over.lock() {
                site.note(|| format!("host{host} starts"));
                start(&site, &running, host);
            }
        });
    });
}

fn trouble(site: &Site) {
    let world = &site.world;
    let store = &site.stores[world.below(site.stores.len() as u64) as usize];
    match world.below(6) {
        0 => store.faults(|f| f.reach = Reach::Refuses),
        1 => store.faults(|f| f.reach = Reach::Silent),
        2 | 3 => site.stores.iter().for_each(|s| s.faults(|f| f.reach = Reach::Up)),
        4 => {
            let (errors, lost) = (world.below(80) as u32, world.below(80) as u32);
            site.stores.iter().for_each(|s| s.faults(|f| (f.errors, f.lost) = (errors, lost)));
        }
        _ => {
            let host = world.below(site.plan.hosts as u64) as usize;
            let sync_fails = if world.per_mille(500) { site.plan.sync_fails } else { 0 };
            site.disk(host).faults(|f| f.sync_fails = sync_fails);
        }
    }
}

async fn direct(site: Arc<Site>) {
    site.found().await;
    let rt = site.world.rt();
    let running = Running::default();
    for host in 0..site.plan.hosts {
        start(&site, &running, host);
    }
    let wipe = site.plan.wipe.then(|| site.world.below(ROUNDS));
    for round in 0..ROUNDS {
        rt.sleep(Duration::from_millis(site.world.below(7_000))).await;
        let unclear = site.unclear.lock().pop();
        if let Some(host) = unclear {
            crash_soon(&site, &running, host);
        } else if site.world.per_mille(400) {
            crash_soon(&site, &running, site.world.below(site.plan.hosts as u64) as usize);
        } else if wipe == Some(round) {
            site.wipe();
        } else if !site.plan.calm && wipe.is_none() {
            trouble(&site);
        }
    }
    *site.over.lock() = true;
    for (host, process) in running.lock().iter().enumerate() {
        site.crash(process, host, site.world.per_mille(500));
    }
    site.heal();
    settle(site, rt).await;
}

/// All is well again: the volume must open, show every promise, and work.
async fn settle(site: Arc<Site>, rt: windlass::base::rt::Rt) {
    // One of the hosts that were there, or one that knows nothing.
    let host = site.world.below(site.plan.hosts as u64 + 1) as usize;
    site.note(|| format!("all is well; host{host} looks"));
    let user = User { site: site.clone(), host, rt: rt.clone() };
    let volumes = site.open(&rt, host).await.unwrap();
    let owned = rt.timeout(Duration::from_secs(300), async {
        loop {
            match user.become_owner(&volumes, 1000).await {
                Look::Owner(owned) => return owned,
                Look::Unclear => panic!("all is well, and yet it is unclear who owns the volume"),
                Look::Refused => rt.sleep(Duration::from_secs(1)).await,
            }
        }
    });
    let (volume, session) = owned.await.expect("the volume opens when all is well");
    volume.flush().await.unwrap();
    let snapshots: Vec<_> =
        site.model.lock().snapshots.iter().map(|(name, s)| (name.clone(), s.promised)).collect();
    for (which, promised) in snapshots {
        match user.read_snapshot(&volumes, &which).await {
            Err(e) if promised => panic!("snapshot {which} was promised, but: {e}"),
            _ => {}
        }
    }
    let before = look(&volume).await.unwrap();
    volume.release().await.unwrap();
    drop(session);
    let other = (host + 1) % (site.plan.hosts + 1);
    let volumes = site.open(&rt, other).await.unwrap();
    let volume = volumes.open(&name("v"), windlass::volume::OpenMode::Normal).await.unwrap();
    assert!(look(&volume).await.unwrap() == before, "what was released is what the next host reads");
    let books = volumes.check(&name("v")).await.unwrap();
    assert!(books.wrong.is_empty(), "{books:#?}");
}

fn run(seed: u64, layouts: &[&str]) {
    let sim = Sim::new(seed);
    let plan = Plan::draw(&sim, layouts);
    let site = Site::new(&sim, plan);
    site.note(|| format!("{:?}", site.plan));
    sim.run(direct(site.clone())).unwrap();
    site.note(|| format!("{} steps", sim.steps()));
}

#[test]
fn one_store() {
    each_seed("volume::one_store", 100, |seed| run(seed, &["1+0"]));
}

#[test]
fn mirrors() {
    each_seed("volume::mirrors", 400, |seed| run(seed, &["1+1", "1+2"]));
}

#[test]
fn parity() {
    each_seed("volume::parity", 500, |seed| run(seed, &["2+1", "2+1", "3+2", "4+2"]));
}
