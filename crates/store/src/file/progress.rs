//! Whether the puts into a folder get on.
//!
//! A filesystem can hang for writes alone (`fsfreeze`, a suspended device): reads are answered from memory all the
//! while, and a thread that writes waits in the kernel, for how long nobody knows. So each put notes the step that it is
//! at. Puts hang when one waits too long in its step and none has ended a step meanwhile: a busy disk ends some.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use windlass_base::rt::{Instant, Rt};

/// Time after which a step hangs; longer by the time for the bytes that the step writes and syncs.
const HANGS_AFTER: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 3 });
/// The slowest disk that is taken for one that works.
const BYTES_A_SECOND: u64 = 1 << 20;

#[derive(Debug, Default)]
struct State {
    /// The time at which a put last ended a step.
    last: Instant,
    begun: u64,
    /// Puts under way: since when each is at its step, and how many bytes the step writes and syncs.
    at: BTreeMap<u64, (Instant, u64)>,
}

/// The steps of the puts into a folder, by which it is told whether they get on.
#[derive(Debug, Default)]
pub(super) struct Progress {
    state: Mutex<State>,
    /// A lock for tests: while a test holds it, each step waits at its beginning, as in a filesystem that hangs.
    #[cfg(test)]
    pub hang: Mutex<()>,
}

/// A put under way, on its worker thread.
#[derive(Debug)]
pub(super) struct Step<'a> {
    of: &'a Progress,
    rt: &'a Rt,
    number: u64,
}

impl Progress {
    pub fn begin<'a>(&'a self, rt: &'a Rt) -> Step<'a> {
        let mut state = self.state.lock();
        state.begun += 1;
        let number = state.begun;
        state.at.insert(number, (rt.now(), 0));
        Step { of: self, rt, number }
    }

    /// Returns for how long no put has got on, when the puts hang.
    pub fn hangs(&self, now: Instant) -> Option<Duration> {
        let state = self.state.lock();
        let waits = |(since, bytes): &(Instant, u64)| {
            let waits = now.since(state.last.max(*since));
            (waits >= HANGS_AFTER + Duration::from_secs(bytes / BYTES_A_SECOND)).then_some(waits)
        };
        state.at.values().filter_map(waits).max()
    }
}

impl Step<'_> {
    /// Ends the step before; the next one writes and syncs so many bytes.
    pub fn next(&self, bytes: u64) {
        let now = self.rt.now();
        let mut state = self.of.state.lock();
        state.last = now;
        state.at.insert(self.number, (now, bytes));
        drop(state);
        #[cfg(test)]
        drop(self.of.hang.lock());
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let mut state = self.of.state.lock();
        state.last = self.rt.now();
        state.at.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::sim::Sim;

    #[test]
    fn puts_hang_when_one_waits_too_long_and_none_gets_on() {
        let sim = Sim::new(1);
        let rt = sim.rt();
        sim.run(async move {
            let puts = Progress::default();
            let hangs = || puts.hangs(rt.now());
            let pass = |part: u32| rt.sleep(HANGS_AFTER * part / 4);
            let (one, other) = (puts.begin(&rt), puts.begin(&rt));
            pass(3).await;
            other.next(0);
            pass(3).await;
            assert_eq!(hangs(), None, "one has got on meanwhile: the disk is busy");
            pass(1).await;
            assert_eq!(hangs(), Some(HANGS_AFTER));
            drop(other);
            assert_eq!(hangs(), None, "one has ended");
            one.next(2 * BYTES_A_SECOND);
            pass(4).await;
            assert_eq!(hangs(), None, "its bytes take their time");
            rt.sleep(Duration::from_secs(2)).await;
            assert!(hangs().is_some());
            drop(one);
            pass(40).await;
            assert_eq!(hangs(), None, "nothing is under way");
        })
        .unwrap();
    }
}
