//! Pool and volume under everything that may happen to hosts, disks and stores: is every promise kept?
//!
//! Two hosts share a volume and take it from each other, while `faults` does to them and to the stores what may happen.
//! `model` says what must be seen, `user` looks, `site` is the world, `settle` judges what is there at the end.

mod family;
mod faults;
pub mod model;
mod settle;
mod site;
mod user;

use windlass::base::rt::sim::Sim;

use crate::seeds::each_seed;
use site::{Plan, Site, name};

/// Many times more than any run takes.
const STEPS_MAX: u64 = 1_000_000;

fn run(seed: u64, layouts: &[&str]) {
    let sim = Sim::new(seed);
    sim.limit_steps(STEPS_MAX);
    let plan = Plan::draw(&sim, layouts);
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
