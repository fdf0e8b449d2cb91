//! Puts that may still come: one whose answer was lost, and which was sent again, may be delivered when its object has been
//! removed or moved away. S3 has no means against that. So who removes such a name looks at it for a while, and removes what
//! comes back if it is just that put.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::remover::{Doomed, Remover};
use crate::base::rt::Instant;
use crate::fs::object::is_same_write;
use crate::store::{Attrs, Cause};

/// How long a put may be late.
const LATE: Duration = Duration::from_secs(120);
const EVERY: Duration = Duration::from_secs(2);
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

    /// The name is gone: what comes there late goes again.
    pub fn removed(self: &Arc<Self>, key: &str, remover: &Remover) {
        let Some((attrs, until)) = self.0.lock().remove(key) else { return };
        let (remover, key) = (remover.clone(), key.to_owned());
        let rt = remover.rt.clone();
        rt.clone()
            .spawn(async move {
                while rt.now() < until {
                    rt.sleep(EVERY).await;
                    let Ok(head) = remover.ask(remover.bucket.head(&key, Cause::File)).await else { continue };
                    let Some(head) = head.filter(|head| is_same_write(&attrs, &head.attrs)) else { continue };
                    tracing::warn!(key, "a put arrived after its name was removed: it is removed again");
                    if remover.remove(&[Doomed::of(&key, &head)]).await.all().is_ok() {
                        return;
                    }
                }
            })
            .detach();
    }
}
