//! When a read asks others than the store that has the bytes, because that one is slow.
//!
//! The delay is twice the time within which 95 % of a store's reads come, or the middle store's where that is less: a slow
//! store doesn't make its own readers wait longer. It is bounded, and so is how often it is used: each read earns a
//! part of a hedge, as much as lets m stores of the pool be slow all the time. When more are slow, others are no way
//! around them, and asking them too would only add to the load; such reads wait until the longest delay.
//!
//! Times are those of data gets alone, by size class (`traffic`). While a class has none, the times of all requests stand in.
//!
//! If half of a store's newest reads would have ended in a hedge, each read of it is hedged at once, without the delay. Now and
//! then a read that nobody waits for goes to that store, to see whether it is still slow.

use std::time::Duration;

use parking_lot::Mutex;

use super::member::Member;
use super::response_stats::SizeClass;
use crate::chunk::Layout;

const DELAY_MIN: Duration = Duration::from_millis(20);
pub const DELAY_MAX: Duration = Duration::from_secs(2);
/// Delay while too few reads were answered to tell.
const DELAY_UNKNOWN: Duration = Duration::from_millis(500);
/// Shortest time between two reads of one store that nobody waits for.
pub const TRIAL_EVERY: Duration = Duration::from_millis(100);
/// Price of one hedge, in the unit in which reads earn.
const HEDGE: u64 = 1000;
/// Largest balance of the hedges.
const SAVED_MAX: u64 = 16 * HEDGE;

/// The balance of what reads have earned and hedges have spent.
#[derive(Debug)]
pub struct Hedges(Mutex<u64>);

impl Default for Hedges {
    fn default() -> Hedges {
        Hedges(Mutex::new(SAVED_MAX))
    }
}

impl Hedges {
    /// Earns for a read the share that m stores have of reads, and a quarter more, of a hedge.
    pub(crate) fn asked(&self, layout: Layout) {
        let mut saved = self.0.lock();
        *saved = (*saved + HEDGE * 5 * layout.m() as u64 / (4 * layout.n() as u64)).min(SAVED_MAX);
    }

    /// Spends a hedge if there is enough for one, and tells whether there was.
    pub(crate) fn spend(&self) -> bool {
        let mut saved = self.0.lock();
        let left = saved.checked_sub(HEDGE);
        *saved = left.unwrap_or(*saved);
        left.is_some()
    }
}

/// Returns how long an answer is waited for. `own`: the time of the store that is asked, `usual`: the middle store's.
pub fn delay(own: Option<Duration>, usual: Option<Duration>) -> Duration {
    let known = own.into_iter().chain(usual).min();
    known.map_or(DELAY_UNKNOWN, |d| (d * 2).clamp(DELAY_MIN, DELAY_MAX))
}

/// Returns the time within which 95 % of a store's reads of this class come, or of its requests while it has answered no such
/// read.
pub fn time_of(member: &Member, class: SizeClass) -> Option<Duration> {
    let traffic = member.traffic();
    traffic.reads_percentile(class, 95).or_else(|| traffic.percentile(95))
}

/// Tells whether a read of this store may well end in a hedge.
pub fn is_slow(member: &Member, class: SizeClass, usual: Option<Duration>) -> bool {
    let limit = delay(None, usual);
    member.traffic().reads_percentile(class, 95).is_some_and(|own| own > limit)
        || is_surely_slow(member, class, usual)
}

/// Tells whether a read of this store most likely ends in a hedge, by its newest reads.
pub fn is_surely_slow(member: &Member, class: SizeClass, usual: Option<Duration>) -> bool {
    member.traffic().reads_recent(class).is_some_and(|own| own > delay(None, usual))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_follows_the_quicker_of_the_store_and_the_pool_within_bounds() {
        let ms = Duration::from_millis;
        assert_eq!(delay(None, None), DELAY_UNKNOWN);
        assert_eq!(delay(Some(ms(30)), Some(ms(40))), ms(60));
        assert_eq!(delay(Some(ms(200)), Some(ms(40))), ms(80), "slow alone");
        assert_eq!(delay(Some(ms(1)), Some(ms(40))), DELAY_MIN);
        assert_eq!(delay(Some(ms(9000)), Some(ms(5000))), DELAY_MAX);
    }

    #[test]
    fn hedges_are_earned_by_reads() {
        let hedges = Hedges::default();
        let saved = (0..100).filter(|_| hedges.spend()).count();
        assert_eq!(saved, 16);
        let layout: Layout = "4+2".parse().unwrap();
        let spent = (0..6000).filter(|_| {
            hedges.asked(layout);
            hedges.spend()
        });
        assert_eq!(spent.count(), 2496, "two stores' share and a quarter more");
    }
}
