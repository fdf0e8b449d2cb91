//! One daemon goes on where another of its state folder stops, with its clients (models `replace`, `open`, `setback`).
//!
//! Host A has clients that stay connected while its daemon is replaced again and again. Host B knocks, forces, renames,
//! removes and makes anew; all stores are put back from a backup; those of another pool lie in their places. `truth` is what
//! each volume must hold, and whom it is to be told to; `hosts` is the world; `course` does one thing after another, and looks.

mod course;
mod hosts;
mod truth;

use windlass_base::rt::sim::Sim;

use crate::seeds::each_seed;

/// Most steps of a run: many times more than any run takes.
const STEPS_MAX: u64 = 4_000_000;

#[test]
fn clients_go_on_with_what_they_hold_and_nothing_else() {
    each_seed("replaced::clients_go_on_with_what_they_hold_and_nothing_else", 600, |seed| {
        let sim = Sim::new(seed);
        sim.limit_steps(STEPS_MAX);
        let done = sim.run(course::run((*sim).clone()));
        done.unwrap_or_else(|stall| panic!("{stall}, at {:?} of virtual time", sim.now().0));
    });
}
