//! Puts that may still come: one whose answer was lost, and which was sent again, may be delivered when its object has been
//! removed or moved away. S3 has no means against that. So who removes such a name looks at it for a while, and removes what
//! comes back if it is just that put; until this mount puts or copies something there itself. A copy carries what the put
//! did: what was moved away and back would be taken for it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use windlass_base::rt::Instant;
use windlass_store::Attrs;

/// Time for which a put may be late.
const LATE: Duration = Duration::from_secs(120);
const KEYS_MAX: usize = 4096;

/// A put that the store may still carry out.
#[derive(Clone, Debug)]
pub struct LatePut {
    pub attrs: Attrs,
    pub size: u64,
    /// End of the time in which the put is expected.
    pub until: Instant,
}

#[derive(Debug, Default)]
struct LatePutState {
    /// Puts of unknown outcome, by their keys.
    expected: BTreeMap<String, LatePut>,
    /// Puts that may still come to names whose objects are gone, by their keys. These names are looked at.
    watched: BTreeMap<String, LatePut>,
}

/// Puts of this mount that may still come: expected ones, and those whose names are watched.
#[derive(Debug, Default)]
pub struct LatePuts(Mutex<LatePutState>);

impl LatePuts {
    /// Notes that an attempt at this put may still arrive. Beyond `KEYS_MAX` expected puts nothing more is
    /// noted.
    pub fn expect(&self, key: &str, attrs: &Attrs, size: u64, now: Instant) {
        let expected = &mut self.0.lock().expected;
        expected.retain(|_, put| put.until > now);
        if expected.len() < KEYS_MAX {
            let put = LatePut { attrs: attrs.clone(), size, until: now + LATE };
            expected.insert(key.to_owned(), put);
        }
    }

    /// Watches a name that is gone: returns the put that may still arrive there, for whoever looks at the
    /// name from now on. `None` if no put is expected.
    pub fn watch(&self, key: &str) -> Option<LatePut> {
        let mut state = self.0.lock();
        let expected = state.expected.remove(key)?;
        state.watched.insert(key.to_owned(), expected.clone());
        Some(expected)
    }

    /// Returns the put that may come to a name that is gone; nobody wants its object.
    pub fn watched(&self, key: &str) -> Option<LatePut> {
        self.0.lock().watched.get(key).cloned()
    }

    /// Tells whether the name is still watched: this mount has put nothing there since.
    pub fn is_watched(&self, key: &str) -> bool {
        self.0.lock().watched.contains_key(key)
    }

    /// Stops watching a name: this mount is about to put something there, or nobody looks at the name any
    /// more.
    pub fn unwatch(&self, key: &str) {
        self.0.lock().watched.remove(key);
    }
}
