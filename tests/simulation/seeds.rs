//! Which seeds a test runs, and what it says about one that fails.

use std::any::Any;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;

/// Time after which a run is taken to hang in one step: runs of any sane number of steps are over much
/// sooner.
const HANGS: Duration = Duration::from_secs(300);

/// Factor by which fewer seeds run without optimization, where a run takes ten times as long. Such runs see
/// assertions and overflows, for which fewer of them will do.
const UNOPTIMIZED: u64 = 25;

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Tells whether one seed is replayed; runs then print what happens.
pub fn is_replay() -> bool {
    std::env::var_os("WINDLASS_SEED").is_some()
}

fn again(test: &str, seed: u64) -> String {
    format!("  WINDLASS_SEED={seed} cargo test --test simulation {test} -- --exact --nocapture")
}

/// Ends the process when a seed does not end.
fn watch(test: &str, at_work: &Receiver<u64>) {
    let mut seed = None;
    loop {
        match at_work.recv_timeout(HANGS) {
            Ok(next) => seed = Some(next),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let seed = seed.unwrap_or(0);
                // What tests print is captured, and lost with the process.
                let again = again(test, seed);
                let _ = writeln!(std::io::stderr(), "seed {seed} does not end; again with:\n{again}");
                std::process::exit(101);
            }
        }
    }
}

/// Runs `run` for each seed, on all processors. `test` is the test's path, for the command that replays a failure.
/// `usual`: seeds of an optimized build.
pub fn each_seed(test: &str, usual: u64, run: impl Fn(u64) + Sync) {
    let first = from_env("WINDLASS_FIRST").unwrap_or(0);
    let usual = if cfg!(debug_assertions) { usual.div_ceil(UNOPTIMIZED) } else { usual };
    let seeds = match (from_env("WINDLASS_SEED"), from_env("WINDLASS_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => first..first + seeds.unwrap_or(usual),
    };
    if is_replay() {
        let filter = tracing_subscriber::EnvFilter::from_env("WINDLASS_LOG");
        // Another test may have done so.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .without_time()
            .with_writer(std::io::stderr)
            .try_init();
    }
    let goes_on = std::env::var_os("WINDLASS_ALL").is_some();
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let failures: Mutex<Vec<(u64, Box<dyn Any + Send>)>> = Mutex::default();
    let work = |at_work: Sender<u64>| {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || at_work.send(seed).is_err() {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
                stop.store(!goes_on, Ordering::Relaxed);
                failures.lock().push((seed, panic));
            }
        }
    };
    // A run needs one thread; several runs know nothing of each other.
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|threads| {
        for _ in 0..workers.min(seeds.end - seeds.start) {
            let (tx, rx) = channel();
            threads.spawn(|| work(tx));
            threads.spawn(move || watch(test, &rx));
        }
    });
    let mut failures = failures.into_inner();
    failures.sort_by_key(|(seed, _)| *seed);
    for (seed, _) in &failures {
        eprintln!("seed {seed} failed; again with:\n{}", again(test, *seed));
    }
    if let Some((_, panic)) = failures.into_iter().next() {
        resume_unwind(panic);
    }
}
