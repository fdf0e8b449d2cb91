//! Puts that may still come: one whose answer was lost, and which was sent again, may be delivered when its object has been
//! removed or moved away. S3 has no means against that. So who removes such a name looks at it for a while, and removes what
//! comes back if it is just that put.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::rt::Instant;
use crate::store::Attrs;

/// How long a put may be late.
const LATE: Duration = Duration::from_secs(120);
const KEYS_MAX: usize = 4096;

/// Puts of unknown outcome, by their keys: what they carry, and until when they are expected.
#[derive(Debug, Default)]
pub struct LatePuts(Mutex<BTreeMap<String, (Attrs, Instant)>>);

impl LatePuts {
    /// An attempt at this put may still arrive.
    pub fn expect(&self, key: &str, attrs: &Attrs, now: Instant) {
        let mut all = self.0.lock();
        all.retain(|_, (_, until)| *until > now);
        if all.len() < KEYS_MAX {
            all.insert(key.to_owned(), (attrs.clone(), now + LATE));
        }
    }

    /// The put that may still arrive at this name, and until when; it is expected here no more.
    pub fn take(&self, key: &str) -> Option<(Attrs, Instant)> {
        self.0.lock().remove(key)
    }
}
