//! The claim of another host that stands: it comes first, for as long as its host may need (model `open`).
//!
//! A host that was shut out by a claim has clients that come again at once. If it claimed over that one, as it may by its
//! lineage, the other host would fail again and again, and each time those clients' requests with it.

use std::time::Duration;

use parking_lot::Mutex;

use crate::head::{Claim, Head};
use windlass_base::rt::Instant;
use windlass_base::{HostId, Nonce};

/// Time for which a claim may stand without a sign of life of its host, beside what it may wait for one store.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Claim of another host that was met last, and since when this host knows of it.
#[derive(Debug, Default)]
pub struct OthersClaim(Mutex<Option<(Nonce, Instant)>>);

impl OthersClaim {
    /// Returns the claim of another host that stands, and since when this host knows of it.
    pub fn of<'a>(&self, head: &'a Head, me: HostId, now: Instant) -> Option<(&'a Claim, Instant)> {
        let claim = head.standing().filter(|claim| claim.host.id != me)?;
        let mut known = self.0.lock();
        let since = known.filter(|(nonce, _)| *nonce == claim.nonce).map_or(now, |(_, since)| since);
        *known = Some((claim.nonce, since));
        Some((claim, since))
    }
}
