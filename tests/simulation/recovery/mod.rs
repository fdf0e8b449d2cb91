//! A pool whose majority is lost for good, decided by those that are left (`pool force-recover`): under whatever may happen
//! to whoever does it, to those who knew nothing of it, and to the stores.
//!
//! An owner writes to a volume and clients change a register, while stores are lost, perhaps in the middle of a
//! replacement. One or two administrators recover the pool and bring it to rest, each killed at times. `site` is the
//! world and what it must never show, `users` work on the pool, `admin` puts it right, `course` is what happens when.

mod admin;
mod course;
mod site;
mod users;

use windlass_base::rt::sim::Sim;

use crate::seeds::each_seed;
use site::{Plan, Site};

/// Most steps of a run: many times more than any run takes.
const STEPS_MAX: u64 = 2_000_000;

fn run(seed: u64, draw: impl FnOnce(&Sim) -> Plan) {
    let sim = Sim::new(seed);
    sim.limit_steps(STEPS_MAX);
    let plan = draw(&sim);
    let site = Site::new(&sim, plan);
    site.note(|| format!("{:?}", site.plan));
    let done = sim.run(course::direct(site.clone()));
    done.unwrap_or_else(|stall| panic!("{stall}, at {:?} of virtual time", sim.now().0));
    site.note(|| format!("{} steps", sim.steps()));
}

#[test]
fn half_of_the_stores_are_lost_and_nothing_that_was_acknowledged() {
    let test = "recovery::half_of_the_stores_are_lost_and_nothing_that_was_acknowledged";
    each_seed(test, 60, |seed| run(seed, |world| Plan::draw(world, &["1+1", "2+2", "1+3", "3+3"], false)));
}

#[test]
fn a_majority_is_lost_and_what_is_guessed_is_said_to_be() {
    let test = "recovery::a_majority_is_lost_and_what_is_guessed_is_said_to_be";
    each_seed(test, 60, |seed| run(seed, |world| Plan::draw(world, &["1+2", "2+3", "1+3"], true)));
}

#[test]
fn a_new_store_is_lost_midway_of_its_replacement() {
    let test = "recovery::a_new_store_is_lost_midway_of_its_replacement";
    each_seed(test, 60, |seed| run(seed, |world| Plan::midway(world, &["1+1", "2+1", "1+2", "2+2", "3+1"])));
}
