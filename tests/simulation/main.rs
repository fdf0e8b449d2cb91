//! Seeded simulations of the real code on simulated stores, disks and time (docs/architecture.md, "Proof").
//!
//! `cargo test --release --test simulation` runs the usual number of seeds, as `integration/run` does; without
//! `--release` it is a 25th. A failing seed prints the command that replays it exactly. `WINDLASS_SEEDS=N` runs N seeds a
//! test instead (from `WINDLASS_FIRST` on, 0 if not given), `WINDLASS_SEED=S` only that one; then
//! the run tells what happens, with `WINDLASS_LOG=debug` also what the code logs. With `WINDLASS_ALL` a failure does not
//! end the test: all that fail are named.

#![allow(clippy::unwrap_used)] // All of it is tests.

mod recovery;
mod register;
mod seeds;
mod volume;
