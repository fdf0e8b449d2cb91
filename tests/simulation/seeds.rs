//! Which seeds a test runs, and what it says about one that fails.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs `run` for each seed. `test` is the test's path, for the command that replays a failure.
pub fn each_seed(test: &str, usual: u64, run: impl Fn(u64)) {
    let seeds = match (from_env("WINDLASS_SEED"), from_env("WINDLASS_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 0..seeds.unwrap_or(usual),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("seed {seed} failed; again with:");
            eprintln!("  WINDLASS_SEED={seed} cargo test --test simulation {test} -- --exact --nocapture");
            resume_unwind(panic);
        }
    }
}
