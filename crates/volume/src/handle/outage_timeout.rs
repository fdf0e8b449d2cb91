//! `on-outage`: whether a client's request waits for stores as long as they are away, or fails.
//!
//! A request that has waited for longer than the volume's patience is given up when stores are what it waits for: too few
//! of them answer, or they do not keep up (the oldest write that is not in the pool is older than that), or the volume can't
//! become this host's because of them. Memory and room in the journal come back only when stores take what is in them, so
//! who waits for either waits for stores. Not what a limit holds up, nor this host's disk.
//!
//! What is given up may be done in part, or later: the records of a write that were taken in stay. What was acknowledged
//! is never lost, and the volume goes on when the stores are back.

use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use futures::future::{Either, select};

use crate::read::VolumeContext;
use windlass_base::rt::Instant;
use windlass_base::units::show_time;
use windlass_base::{Error, Kind, Result};

/// Least time between two looks at why a request still waits.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Returns what comes of `work`, unless it is given up, as the module says. `stores`: why stores hold requests up now, if they
/// do, for a patience of so long. Follows the settings while it waits. `work` is taken by reference: each future that holds
/// another by value has it twice, and these are large.
pub async fn unless_outage<T>(
    context: &VolumeContext,
    stores: impl Fn(Duration, Instant) -> Option<String>,
    mut work: Pin<&mut impl Future<Output = Result<T>>>,
) -> Result<T> {
    if let Poll::Ready(done) = futures::poll!(work.as_mut()) {
        return done;
    }
    let rt = context.rt();
    let (began, mut looked) = (rt.now(), rt.now());
    loop {
        let mut changed = pin!(context.settings_changed.notified());
        changed.as_mut().enable();
        let patience = context.settings().error_after();
        let look = async {
            match patience {
                Some(patience) => {
                    let at = (began + patience).max(looked + LOOK_AGAIN);
                    rt.sleep(at.since(rt.now())).await;
                }
                None => std::future::pending().await,
            }
        };
        if let Either::Left((done, _)) = select(work.as_mut(), select(pin!(look), changed)).await {
            return done;
        }
        looked = rt.now();
        let waited = looked.since(began);
        if let Some(patience) = patience.filter(|patience| waited >= *patience)
            && let Some(why) = stores(patience, looked)
        {
            let (title, waited) = (context.title(), show_time(waited.as_millis() as u64));
            let why = format!("volume {title}: given up after {waited} (on-outage=error): {why}");
            return Err(Error::new(Kind::Timeout, why));
        }
    }
}
