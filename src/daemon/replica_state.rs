//! Copies of volumes that `serve` keeps up, as windlass.toml plans them (`[replica."POOL/VOLUME"]`), and how far they are behind.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::answers::ReplicaLine;
use super::api::VolumePath;
use super::config::ReplicaPlan;
use windlass_base::known_time::age_ms;
use windlass_base::rt::Instant;
use windlass_base::units::show_time;
use windlass_base::utc;

/// Time until the next try of a copy that could not be brought up to date.
const AGAIN: Duration = Duration::from_secs(60);

/// State of one copy.
#[derive(Clone, Debug)]
struct Standing {
    to: VolumePath,
    /// Is true while the copy is being brought up to date.
    busy: bool,
    /// Time of the last try.
    tried: Option<Instant>,
    /// Time by the wall clock at which the copy's newest snapshot was taken.
    copied_ms: Option<u64>,
    /// Time by the wall clock since which the plan is known here.
    known_ms: u64,
    failed: Option<String>,
}

/// Copies that are kept up, by the volume that is copied. See the module.
#[derive(Debug, Default)]
pub struct Replicas(Mutex<BTreeMap<VolumePath, Standing>>);

impl Replicas {
    /// Returns the state of each plan's copy.
    pub fn lines(&self, plans: &[ReplicaPlan], now_ms: u64) -> Vec<ReplicaLine> {
        let standings = self.0.lock();
        let of = |plan: &ReplicaPlan| standings.get(&plan.from).filter(|s| s.to == plan.to);
        plans.iter().map(|plan| line(plan, of(plan), now_ms)).collect()
    }

    /// Returns the plans that are due; these count as busy from now on.
    pub fn due(&self, plans: &[ReplicaPlan], now: Instant, wall_ms: u64) -> Vec<ReplicaPlan> {
        let mut standings = self.0.lock();
        standings.retain(|from, s| s.busy || plans.iter().any(|p| p.from == *from && p.to == s.to));
        let mut due = Vec::new();
        for plan in plans {
            let standing = standings.entry(plan.from.clone()).or_insert_with(|| Standing {
                to: plan.to.clone(),
                busy: false,
                tried: None,
                copied_ms: None,
                known_ms: wall_ms,
                failed: None,
            });
            let rested = standing.tried.is_none_or(|at| now.since(at) >= plan.every.min(AGAIN));
            let is_due = rested && standing.copied_ms.is_none_or(|ms| is_old(plan, ms, wall_ms));
            if standing.to == plan.to && !standing.busy && is_due {
                (standing.busy, standing.tried) = (true, Some(now));
                due.push(plan.clone());
            }
        }
        due
    }

    /// Notes that the copy has a snapshot that was taken at this time.
    pub fn copied(&self, plan: &ReplicaPlan, created_ms: u64) {
        self.change(plan, |standing| standing.copied_ms = Some(created_ms));
    }

    /// Notes that work on a copy has ended, well or not.
    pub fn ended(&self, plan: &ReplicaPlan, failed: Option<String>) {
        self.change(plan, |standing| (standing.busy, standing.failed) = (false, failed));
    }

    fn change(&self, plan: &ReplicaPlan, change: impl FnOnce(&mut Standing)) {
        if let Some(standing) = self.0.lock().get_mut(&plan.from) {
            change(standing);
        }
    }
}

/// Tells whether a copy whose snapshot was taken at that time is to be brought up to date. A time that lies ahead
/// can't be right, so such a copy is old.
pub fn is_old(plan: &ReplicaPlan, copied_ms: u64, wall_ms: u64) -> bool {
    age_ms(copied_ms, wall_ms).is_none_or(|age| u128::from(age) >= plan.every.as_millis())
}

fn line(plan: &ReplicaPlan, standing: Option<&Standing>, now_ms: u64) -> ReplicaLine {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let copied = standing.and_then(|s| s.copied_ms);
    let known = standing.map_or(now_ms, |s| s.known_ms);
    // Of a copy that was made at a time which lies ahead only this is sure.
    let lag_ms = copied.and_then(|at| age_ms(at, now_ms)).unwrap_or(now_ms.saturating_sub(known));
    let max_lag_ms = plan.max_lag.map(ms);
    let ahead = copied.filter(|at| age_ms(*at, now_ms).is_none()).map(|at| {
        let at = utc::show(at);
        format!(
            "the copy {} is of {at}, which lies ahead: when that was is not known, and it is made anew",
            plan.to
        )
    });
    let failed = standing.and_then(|s| s.failed.clone());
    let late = max_lag_ms.filter(|max| lag_ms > *max).map(|max| {
        let (lag, max) = (show_time(lag_ms), show_time(max));
        format!("the copy {} is {lag} behind, more than {max}", plan.to)
    });
    ReplicaLine {
        from: plan.from.clone(),
        to: plan.to.clone(),
        every_ms: ms(plan.every),
        max_lag_ms,
        copied_ms: standing.and_then(|s| s.copied_ms),
        lag_ms,
        busy: standing.is_some_and(|s| s.busy),
        trouble: match (ahead.or(late), failed) {
            (Some(late), Some(failed)) => Some(format!("{late}: {failed}")),
            (late, failed) => late.or(failed),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(to: &str) -> ReplicaPlan {
        let (from, to) = ("a/v".parse().unwrap(), to.parse().unwrap());
        ReplicaPlan { from, to, every: Duration::from_secs(60), max_lag: Some(Duration::from_secs(90)) }
    }

    #[test]
    fn a_copy_is_due_once_a_period_and_late_after_its_lag() {
        let (replicas, at) = (Replicas::default(), |s| Instant(Duration::from_secs(s)));
        let due = |to: &str, s: u64| replicas.due(&[plan(to)], at(s), s * 1000).len();
        assert_eq!((due("b/v", 0), due("b/v", 1), due("b/v", 100)), (1, 0, 0), "busy");
        replicas.ended(&plan("b/v"), Some("stores are away".into()));
        assert_eq!((due("b/v", 59), due("b/v", 60)), (0, 1));
        let shown = |s: u64| line(&plan("b/v"), replicas.0.lock().get(&plan("b/v").from), s * 1000);
        assert_eq!(shown(70).trouble.as_deref(), Some("stores are away"));
        let late = shown(91).trouble.unwrap();
        assert!(late.contains("behind") && late.ends_with("stores are away"), "{late}");
        replicas.change(&plan("b/v"), |s| (s.copied_ms, s.failed) = (Some(50_000), None));
        assert_eq!((shown(91).lag_ms, shown(91).trouble, shown(91).busy), (41_000, None, true));
        replicas.ended(&plan("b/v"), None);
        assert_eq!((due("b/v", 109), due("b/v", 120)), (0, 1), "by when the snapshot was taken");
        // A clock that was ahead: due now, and a trouble.
        replicas.change(&plan("b/v"), |s| (s.busy, s.copied_ms) = (false, Some(9_000_000)));
        let ahead = shown(190);
        assert!(ahead.lag_ms == 190_000 && ahead.trouble.unwrap().contains("lies ahead"));
        assert_eq!(due("b/v", 190), 1);
        // Another copy waits until the work on the first one has ended.
        assert_eq!(due("c/v", 500), 0);
        replicas.ended(&plan("c/v"), None);
        assert_eq!(due("c/v", 500), 1);
    }
}
