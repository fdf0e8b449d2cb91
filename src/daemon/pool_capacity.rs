//! How full pools are, and the warning before one is full.
//!
//! What the volumes' counters say, with parity, is used. Stores in folders tell the room that is left on their filesystems. For
//! others the user tells what all the pool's stores together may hold (`pool set POOL capacity=SIZE`). Where both are
//! known, the smaller holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;

use super::pools::OpenPool;
use windlass_base::Name;
use windlass_base::units::show_bytes;
use windlass_pool::{Pool, Space};

/// Share of use, in percent, from which on a warning is given.
const WARN: u64 = 90;

/// Longest time for which the first count of a pool in folders may hold up who asks how full the pool is.
const FIRST_COUNT: Duration = Duration::from_secs(5);

/// Bytes, with parity, that a pool's volumes have stored and that its stores can still take. `None`: nobody can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    pub used_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    /// Warning for the user, if the pool needs attention.
    pub warning: Option<String>,
}

/// Last look at each pool.
#[derive(Debug, Default)]
pub struct Capacities {
    seen: Mutex<BTreeMap<Name, Capacity>>,
    /// Pools of which the log has said that they fill up.
    said: Mutex<BTreeSet<Name>>,
}

impl Capacities {
    pub fn of(&self, pool: &Name) -> Capacity {
        self.seen.lock().get(pool).cloned().unwrap_or_default()
    }

    /// Looks again how full a pool is. Stores in folders are asked for their room; what is used is told by this
    /// daemon's counters. A pool in folders is counted at its first look, since requests to folders cost nothing.
    pub async fn look(&self, open: &OpenPool) -> Capacity {
        let pool = &open.pool;
        pool.measure().await;
        let (settings, spaces) = (pool.settings(), spaces(pool));
        if stored(open).is_none() && spaces.iter().all(|(_, space)| space.is_some()) {
            // A count that fails or takes too long leaves the figure out; the next look tries again.
            let _ = pool.rt().timeout(FIRST_COUNT, open.volumes.count_usage()).await;
        }
        let stored = stored(open);
        let mut capacity = judge(pool.name(), &spaces, settings.capacity_bytes, stored);
        let filled =
            settings.quota_bytes.zip(stored).and_then(|(quota, used)| over_quota(pool.name(), quota, used));
        capacity.warning = filled.or(capacity.warning);
        self.say_once(pool.name(), capacity.warning.as_deref());
        self.seen.lock().insert(pool.name().clone(), capacity.clone());
        capacity
    }

    /// Logs a warning once, and again when there was room meanwhile.
    fn say_once(&self, pool: &Name, warning: Option<&str>) {
        match warning {
            None => drop(self.said.lock().remove(pool)),
            Some(why) if self.said.lock().insert(pool.clone()) => tracing::warn!("pool {pool}: {why}"),
            Some(_) => {}
        }
    }
}

/// Returns what the pool's volumes have stored by now, with parity, by this daemon's counters. `None`: nobody has counted yet.
pub fn stored(open: &OpenPool) -> Option<u64> {
    let layout = open.pool.layout();
    open.volumes.usage().map(|usage| usage.stored_bytes * layout.n() as u64 / layout.k() as u64)
}

/// Returns a warning if most of the quota is used.
fn over_quota(pool: &Name, quota: u64, used: u64) -> Option<String> {
    (percent(used, quota.saturating_sub(used)) >= WARN).then(|| {
        let (used, quota) = (show_bytes(used), show_bytes(quota));
        format!(
            "{used} of its quota of {quota} are used, and writes that need space above it fail: remove something, or \
             `windlass pool set {pool} quota=SIZE` raises it"
        )
    })
}

/// Returns each store's URL, and the room that it told.
fn spaces(pool: &Pool) -> Vec<(String, Option<Space>)> {
    pool.membership().members.iter().map(|m| (m.url().to_owned(), m.space())).collect()
}

fn percent(used: u64, free: u64) -> u64 {
    let all = u128::from(used) + u128::from(free);
    (u128::from(used) * 100).checked_div(all).map_or(100, |percent| percent as u64)
}

/// Judges how full a pool is. `told` is its capacity as the user told it, `stored` what the volumes have stored, with
/// parity.
fn judge(
    pool: &Name,
    stores: &[(String, Option<Space>)],
    told: Option<u64>,
    stored: Option<u64>,
) -> Capacity {
    let full = |what: &str, used: u64, free: u64| {
        let percent = percent(used, free);
        let way = "free space in it, or add to it";
        (percent >= WARN).then(|| format!("{what} is {percent} % full, {} are free: {way}", show_bytes(free)))
    };
    let mut capacity = match (told, stored) {
        (Some(size), Some(used)) => {
            let free = size.saturating_sub(used);
            let what = format!(
                "its capacity of {}, as it was told (`windlass pool set {pool} capacity=SIZE`),",
                show_bytes(size)
            );
            let warning = full(&what, used, free);
            // What was told may be more than the stores' filesystems have left.
            let free = room_of(stores).map_or(free, |room| free.min(room));
            Capacity { used_bytes: Some(used), free_bytes: Some(free), warning }
        }
        (Some(_), None) => Capacity::default(),
        (None, _) => Capacity { used_bytes: stored, free_bytes: room_of(stores), warning: None },
    };
    let fullest = || stores.iter().filter_map(|(url, space)| Some((url, (*space)?)));
    let warn =
        |(url, space): (&String, Space)| full(&format!("store {url}"), space.used_bytes, space.free_bytes);
    capacity.warning = capacity.warning.or_else(|| fullest().find_map(warn));
    capacity
}

/// Returns how many bytes the filesystems can still take. Shards are spread evenly: when the store with the least
/// room is full, so is the pool. Several stores on one filesystem share its room.
fn room_of(stores: &[(String, Option<Space>)]) -> Option<u64> {
    let spaces = stores.iter().map(|(_, space)| *space).collect::<Option<Vec<Space>>>()?;
    let mut filesystems: BTreeMap<u64, (u64, Space)> = BTreeMap::new();
    for space in &spaces {
        filesystems.entry(space.filesystem).or_insert((0, *space)).0 += 1;
    }
    let least = filesystems.values().map(|(stores, space)| space.free_bytes / stores).min();
    least.map(|least| least.saturating_mul(spaces.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(filesystem: u64, used_bytes: u64, free_bytes: u64) -> (String, Option<Space>) {
        (format!("file:///f{filesystem}"), Some(Space { filesystem, used_bytes, free_bytes }))
    }

    fn judged(stores: &[(String, Option<Space>)], told: Option<u64>, stored: Option<u64>) -> Capacity {
        judge(&"p".parse().unwrap(), stores, told, stored)
    }

    #[test]
    fn the_store_with_the_least_room_bounds_the_pool() {
        let apart = judged(&[store(1, 50, 50), store(2, 10, 90), store(3, 10, 40)], None, Some(6));
        assert_eq!((apart.free_bytes, apart.warning), (Some(120), None));
        // Two of them share one filesystem, which is counted once.
        let shared = judged(&[store(1, 50, 50), store(1, 50, 50), store(2, 10, 90)], None, None);
        assert_eq!(shared.free_bytes, Some(75));
        let one_mute = judged(&[store(1, 50, 50), ("s3://b".into(), None)], None, None);
        assert_eq!(one_mute, Capacity::default());
    }

    #[test]
    fn used_is_what_the_volumes_have_stored_and_not_what_else_is_on_the_filesystems() {
        let folders = [store(1, 50, 50), store(2, 10, 90)];
        assert_eq!(judged(&folders, None, Some(6)).used_bytes, Some(6));
        assert_eq!(judged(&folders, None, None).used_bytes, None, "nobody has counted");
        assert_eq!(judged(&[("s3://b".into(), None)], None, Some(6)).used_bytes, Some(6));
    }

    #[test]
    fn ninety_percent_warns() {
        assert_eq!(judged(&[store(1, 89, 11)], None, None).warning, None);
        let full = judged(&[store(1, 10, 90), store(2, 90, 10)], None, None);
        assert!(full.warning.as_ref().unwrap().starts_with("store file:///f2 is 90 % full"), "{full:?}");
        let told = judged(&[("s3://b".into(), None)], Some(1000), Some(950));
        assert_eq!((told.used_bytes, told.free_bytes), (Some(950), Some(50)));
        assert!(told.warning.unwrap().contains("is 95 % full"));
        let more = judged(&[store(1, 50, 50)], Some(1 << 40), Some(6));
        assert_eq!((more.free_bytes, more.warning), (Some(50), None), "no more than the folders have");
        let over = judged(&[], Some(1000), Some(3000));
        assert_eq!((over.free_bytes, percent(0, 0)), (Some(0), 100));
        assert!(over.warning.unwrap().contains("100 % full"));
    }

    #[test]
    fn the_log_says_it_once_until_there_was_room() {
        let (capacities, pool) = (Capacities::default(), "p".parse().unwrap());
        let said = || capacities.said.lock().len();
        for (warning, expected) in [(Some("full"), 1), (Some("full"), 1), (None, 0), (Some("full"), 1)] {
            capacities.say_once(&pool, warning);
            assert_eq!(said(), expected);
        }
    }
}
