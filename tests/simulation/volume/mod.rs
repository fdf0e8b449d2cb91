//! Pool and volume under everything that may happen to hosts, disks and stores: is every promise kept?
//!
//! Two hosts share a volume and take it from each other, while `faults` does to them and to the stores what may happen.
//! `model` says what must be seen, `user` looks, `site` is the world, `settle` judges what is there at the end. In some runs
//! they ask each other for it instead (`era`, `shared_session`), or mirror each other's journals (`mirrors`).

mod era;
mod family;
mod faults;
mod mirrors;
pub mod model;
mod settle;
mod shared_session;
mod site;
mod user;

use windlass_base::rt::sim::{Sim, World};

use crate::seeds::each_seed;
use site::{Plan, Site, name};

/// Most steps of a run: many times more than any run takes.
const STEPS_MAX: u64 = 1_000_000;

fn run(seed: u64, layouts: &[&str]) {
    run_plan(seed, |world| Plan::draw(world, layouts));
}

fn run_plan(seed: u64, draw: impl FnOnce(&World) -> Plan) {
    let sim = Sim::new(seed);
    sim.limit_steps(STEPS_MAX);
    let plan = draw(&sim);
    let site = Site::new(&sim, plan);
    site.note(|| format!("{:?}", site.plan));
    let done = sim.run(faults::direct(site.clone()));
    done.unwrap_or_else(|stall| panic!("{stall}, at {:?} of virtual time", sim.now().0));
    site.note(|| format!("{} steps", sim.steps()));
}

#[test]
fn one_store() {
    each_seed("volume::one_store", 600, |seed| run(seed, &["1+0"]));
}

#[test]
fn mirrors() {
    each_seed("volume::mirrors", 1600, |seed| run(seed, &["1+1", "1+2"]));
}

#[test]
fn parity() {
    each_seed("volume::parity", 1800, |seed| run(seed, &["2+1", "2+1", "3+1", "4+1", "3+2", "4+2"]));
}

const ALL_LAYOUTS: &[&str] = &["1+0", "1+1", "1+2", "2+1", "3+1", "3+2"];

/// Hosts use a volume in turn, and ask each other for it.
#[test]
fn handover() {
    each_seed("volume::handover", 600, |seed| run_plan(seed, |world| Plan::in_turn(world, ALL_LAYOUTS)));
}

/// The data key of an encrypted volume is changed, and clients outlive the daemons that are killed under them.
#[test]
fn rotation() {
    each_seed("volume::rotation", 600, |seed| run_plan(seed, |world| Plan::rotating(world, ALL_LAYOUTS)));
}

/// Hosts mirror each other's journals.
#[test]
fn mirror_flush() {
    each_seed("volume::mirror_flush", 600, |seed| run_plan(seed, |world| Plan::mirrored(world, ALL_LAYOUTS)));
}
