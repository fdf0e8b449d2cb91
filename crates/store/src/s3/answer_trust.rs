//! What a server's answers have shown of it. By this those answers are judged that carry nothing of S3's own.
//!
//! Most answers say themselves whose they are: a listing repeats bucket and prefix, an error has one of S3's codes, a
//! read and a write have an etag. The answer to a HEAD for a missing object is a bare 404. Any HTTP server gives the
//! same answer, and S3 gives it for a bucket that is gone. So it is believed only shortly after an answer that showed
//! the bucket; otherwise the asker looks again with a GET, whose answer has a body.
//!
//! Most S3 servers give each answer an id. Where one has come with answers of a kind, an answer of that kind without
//! one is another server's: a proxy's page, or what listens at that address by now.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use windlass_base::rt::{Instant, Rt};

/// Time for which the bucket is taken to be there after it was shown. A lookup that lists and then looks needs no third
/// request; a bucket that is gone is missed for this long by those who only look.
const FRESH: Duration = Duration::from_secs(1);

/// Answers that differ from those of any other server by their headers alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bare {
    Read = 1,
    Head = 2,
    Missing = 4,
    Stored = 8,
    Deleted = 16,
}

/// The facts that a server's answers have shown of it.
#[derive(Debug)]
pub(super) struct Trust {
    rt: Rt,
    /// The time at which the bucket was last shown by an answer that only its own server gives.
    shown: Mutex<Option<Instant>>,
    /// The kinds of bare answers that have come with an id.
    with_ids: AtomicU8,
}

impl Trust {
    pub fn new(rt: &Rt) -> Trust {
        Trust { rt: rt.clone(), shown: Mutex::default(), with_ids: AtomicU8::new(0) }
    }

    pub fn rt(&self) -> &Rt {
        &self.rt
    }

    /// Notes that an answer has just shown the bucket.
    pub fn show(&self) {
        *self.shown.lock() = Some(self.rt.now());
    }

    pub fn is_fresh(&self) -> bool {
        self.shown.lock().is_some_and(|at| self.rt.now().since(at) < FRESH)
    }

    /// Tells whether an answer is the server's own. False: answers of this kind have come with an id, and this one has none.
    pub fn is_own(&self, kind: Bare, id: Option<&str>) -> bool {
        let bit = kind as u8;
        match id {
            Some(_) => {
                self.with_ids.fetch_or(bit, Ordering::Relaxed);
                true
            }
            None => self.with_ids.load(Ordering::Relaxed) & bit == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::sim::Sim;

    #[test]
    fn an_answer_without_an_id_is_another_servers_once_one_has_come() {
        let sim = Sim::new(1);
        let rt = sim.rt();
        sim.run(async move {
            let trust = Trust::new(&rt);
            assert!(trust.is_own(Bare::Read, None));
            assert!(trust.is_own(Bare::Read, Some("id")));
            assert!(!trust.is_own(Bare::Read, None));
            assert!(trust.is_own(Bare::Deleted, None), "another kind of answer");
        })
        .unwrap();
    }

    #[test]
    fn a_bucket_is_taken_to_be_there_for_a_moment() {
        let sim = Sim::new(1);
        let rt = sim.rt();
        sim.run(async move {
            let trust = Trust::new(&rt);
            assert!(!trust.is_fresh());
            trust.show();
            assert!(trust.is_fresh());
            rt.sleep(FRESH).await;
            assert!(!trust.is_fresh());
        })
        .unwrap();
    }
}
