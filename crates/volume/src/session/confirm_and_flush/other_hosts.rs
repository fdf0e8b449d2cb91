//! Other hosts that have the volume attached or ask for it, as the heads tell that confirm rounds read; and how often the
//! head is looked at for their sake.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::head::Head;
use windlass_base::rt::Instant;
use windlass_base::{HostId, Nonce};

/// Time for which a host counts that has said that it has the volume attached.
const ATTACHED: Duration = Duration::from_secs(120);
/// Time between looks at the head by the owner of a volume for which it may be asked, while another host has
/// the volume attached. `LOOK` is the time while none has.
const LOOK_OFTEN: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_secs(4);

/// Other hosts that have the volume attached, or ask for it, as the head tells.
#[derive(Debug, Default)]
pub struct Others {
    /// The last word of one of them, and the time until which it counts.
    attached: Mutex<(Nonce, Option<Instant>)>,
    asks: watch::Sender<bool>,
}

impl Others {
    /// Takes in what a head says of other hosts. Returns whether one has come.
    pub fn saw(&self, head: &Head, me: HostId, now: Instant) -> bool {
        let wanted = head.wanted.as_ref().filter(|wanted| wanted.host.id != me);
        let asks = head.asked().is_some_and(|wanted| wanted.host.id != me);
        self.asks.send_if_modified(|asked| std::mem::replace(asked, asks) != asks);
        let mut attached = self.attached.lock();
        let Some(wanted) = wanted.filter(|wanted| wanted.nonce != attached.0) else { return false };
        let has_come = attached.1.is_none_or(|until| until <= now);
        *attached = (wanted.nonce, Some(now + ATTACHED));
        has_come
    }

    pub fn expect(&self, now: Instant) {
        self.attached.lock().1 = Some(now + ATTACHED);
    }

    pub fn is_there(&self, now: Instant) -> bool {
        self.attached.lock().1.is_some_and(|until| now < until)
    }

    /// Waits until another host asks for the volume.
    pub async fn asked(&self) {
        // The sender lives as long as this.
        let _ = self.asks.subscribe().wait_for(|asks| *asks).await;
    }

    /// Returns how long after a look at the head the next one is due.
    pub fn look_after(&self, now: Instant) -> Duration {
        if self.is_there(now) { LOOK_OFTEN } else { LOOK }
    }
}
