//! Commands that are under way and have told how far they are, for who looks from elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::answers::WorkLine;
use super::api::{Progress, Request, VERSION, Verb};
use windlass_base::rt::Instant;

/// Last word of a command about how far it is; none until it has told.
pub type Told = Arc<Mutex<Option<Progress>>>;

#[derive(Debug)]
struct Work {
    /// The pool, volume or bucket that the command is about.
    of: String,
    began: Instant,
    told: Told,
}

/// Commands of a daemon that are under way.
#[derive(Clone, Debug, Default)]
pub struct Works(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    all: BTreeMap<u64, Work>,
}

/// A command that is under way, until this is dropped.
#[derive(Debug)]
pub struct UnderWay {
    works: Works,
    number: u64,
    pub told: Told,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.works.0.lock().all.remove(&self.number);
    }
}

impl Works {
    pub fn begin(&self, verb: &Verb, now: Instant) -> UnderWay {
        let (told, mut table) = (Told::default(), self.0.lock());
        let number = table.next;
        table.next += 1;
        table.all.insert(number, Work { of: subject(verb), began: now, told: told.clone() });
        UnderWay { works: self.clone(), number, told }
    }

    /// Returns the commands that have told how far they are, the oldest first.
    pub fn list(&self, now: Instant) -> Vec<WorkLine> {
        let table = self.0.lock();
        let line = |work: &Work| {
            let Progress { doing, done, total } = work.told.lock().clone()?;
            let for_ms = now.since(work.began).as_millis() as u64;
            Some(WorkLine { of: work.of.clone(), doing, done, total, for_ms })
        };
        table.all.values().filter_map(line).collect()
    }
}

/// Returns what a command is about: the first of a request's fields that names something.
fn subject(verb: &Verb) -> String {
    let request = serde_json::to_value(Request { v: VERSION, verb: verb.clone() }).unwrap_or_default();
    let of = |field: &&str| request["args"][*field].as_str().map(str::to_owned);
    let named = ["path", "name", "from", "url", "pool"].iter().find_map(of);
    named.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use windlass_base::rt::sim::Sim;

    #[test]
    fn a_command_is_told_from_its_first_word_to_its_end() {
        let sim = Sim::new(1);
        let rt = sim.rt();
        let test = async move {
            let works = Works::default();
            let verb = Verb::VolumeFlatten { path: "p/v".parse().unwrap(), rate: 0 };
            let under_way = works.begin(&verb, rt.now());
            assert_eq!(works.list(rt.now()), []);
            *under_way.told.lock() = Some(Progress { doing: "flattening".into(), done: 3, total: 12 });
            rt.sleep(Duration::from_secs(5)).await;
            let (of, doing) = ("p/v".into(), "flattening".into());
            assert_eq!(works.list(rt.now()), [WorkLine { of, doing, done: 3, total: 12, for_ms: 5000 }]);
            drop(under_way);
            assert_eq!(works.list(rt.now()), []);
        };
        sim.run(test).unwrap();
    }
}
