//! Where requests of clients wait when the volume's rate is limited (`volume set iops=…`).
//!
//! A lane for reads, one for writes and one for both. A request passes the lane of its direction, then the common one: each
//! lets one through after the other, in the order in which they came, whatever connection they came by. Only the first in
//! a lane has a timer. Who waits holds nothing of the volume; who gives up has taken nothing.
//!
//! A lane has two buckets, of operations and of bytes. A bucket lets a request through while there is anything in it, and
//! may owe the rest: so requests larger than the burst go on, and the rate is exact however late a timer is.

use std::time::Duration;

use futures::future::select;
use parking_lot::Mutex;

use crate::head::{Direction, Limits, Rate};
use crate::read::VolumeContext;
use windlass_base::rt::Instant;

const NANOS: u128 = 1_000_000_000;

/// Returns how long an amount takes at this rate.
fn time(amount: u64, rate: u64) -> Duration {
    Duration::from_nanos(u64::try_from(u128::from(amount) * NANOS / u128::from(rate)).unwrap_or(u64::MAX))
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    limit: Option<Rate>,
    /// Time when the burst is there again.
    full_at: Instant,
}

impl Bucket {
    /// Returns when something is in the bucket; `None`: now. A bucket whose limit was changed begins full.
    fn opens(&mut self, limit: Option<Rate>, now: Instant) -> Option<Instant> {
        if self.limit != limit {
            *self = Bucket { limit, full_at: now };
        }
        let Rate { rate, burst } = limit?;
        let (until_full, fills_in) = (self.full_at.since(now), time(burst, rate));
        (until_full >= fills_in).then(|| now + (until_full - fills_in) + Duration::from_nanos(1))
    }

    fn take(&mut self, amount: u64, now: Instant) {
        if let Some(Rate { rate, .. }) = self.limit {
            self.full_at = self.full_at.max(now) + time(amount, rate);
        }
    }
}

#[derive(Debug, Default)]
struct Lane {
    /// Lock by which requests are served in order.
    turn: tokio::sync::Mutex<()>,
    buckets: Mutex<[Bucket; 2]>,
}

impl Lane {
    /// Returns when `amounts` (operations, bytes) may pass. `limits` are asked again when the settings change.
    async fn pass(
        &self,
        context: &VolumeContext,
        limits: impl Fn(&Limits) -> [Option<Rate>; 2],
        amounts: [u64; 2],
    ) {
        let _turn = self.turn.lock().await;
        loop {
            // Registered before the settings are read: a limit that is lifted in between must not hold the request up.
            let changed = context.settings_changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let now = context.rt().now();
            let Some(at) = self.take(limits(&context.settings().limits), amounts, now) else { return };
            select(context.rt().sleep(at.since(now)), changed).await;
        }
    }

    /// Takes the amounts out of the buckets. `Some`: nothing was taken, and nothing will be there before.
    fn take(&self, limits: [Option<Rate>; 2], amounts: [u64; 2], now: Instant) -> Option<Instant> {
        let mut buckets = self.buckets.lock();
        let mut opens = None;
        for ((bucket, limit), amount) in buckets.iter_mut().zip(limits).zip(amounts) {
            let at = bucket.opens(limit, now);
            opens = opens.max(at.filter(|_| amount > 0));
        }
        if opens.is_none() {
            buckets.iter_mut().zip(amounts).for_each(|(bucket, amount)| bucket.take(amount, now));
        }
        opens
    }
}

/// Limits of a volume's rate: the lanes in which clients' requests wait.
#[derive(Debug, Default)]
pub struct Limiter {
    all: Lane,
    reads: Lane,
    writes: Lane,
}

impl Limiter {
    /// Returns a future that waits for the turn of one request of so many bytes; `None` where nothing is limited.
    pub fn turn(
        &self,
        context: &VolumeContext,
        direction: Direction,
        bytes: u64,
    ) -> Option<impl Future<Output = ()> + Send> {
        let limits = context.settings().limits;
        let (common, own) = (limits.of_all() != [None; 2], limits.of(direction) != [None; 2]);
        let lane = match direction {
            Direction::Read => &self.reads,
            Direction::Write => &self.writes,
        };
        (common || own).then_some(async move {
            if own {
                lane.pass(context, |limits| limits.of(direction), [1, bytes]).await;
            }
            if common {
                self.all.pass(context, Limits::of_all, [1, bytes]).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(Duration::from_millis(ms))
    }

    #[test]
    fn a_bucket_lets_its_burst_through_and_then_its_rate() {
        let (lane, limits) = (Lane::default(), [Some(Rate { rate: 100, burst: 5 }), None]);
        let passed = |now: Instant| {
            let mut passed = 0;
            while lane.take(limits, [1, 4096], now).is_none() {
                passed += 1;
            }
            passed
        };
        assert_eq!(passed(at(1_000)), 5);
        assert_eq!(
            (passed(at(1_009)), passed(at(1_009)), passed(at(1_011)), passed(at(1_019))),
            (1, 0, 1, 0)
        );
        // A pause gives no more than the burst, and a late timer loses nothing.
        assert_eq!(passed(at(9_000)), 5);
        assert_eq!((passed(at(9_045)), passed(at(9_049)), passed(at(9_051))), (5, 0, 1));
        // Larger than the burst: it passes, and what it owes is waited for.
        assert_eq!(lane.take(limits, [100, 0], at(20_000)), None);
        assert_eq!(lane.take(limits, [1, 0], at(20_001)), Some(at(20_950) + Duration::from_nanos(1)));
        // Of what asks for no bytes only operations count.
        let bytes = [None, Some(Rate { rate: 1, burst: 1 })];
        assert_eq!(lane.take(bytes, [1, 4096], at(20_001)), None, "changed: it begins full");
        assert!(lane.take(bytes, [1, 1], at(20_002)).is_some());
        assert_eq!(lane.take(bytes, [1, 0], at(20_002)), None);
    }
}
