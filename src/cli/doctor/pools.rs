//! Pools, by what `pool status` says of each.

use super::check::Check;
use super::folder_facts::percent;
use crate::daemon::answers::{PoolAnswer, word};
use windlass_base::units::{show_bytes, show_count, show_time};
use windlass_pool::{StoreState, StoreStatus};

/// Age in ms of the last scrub from which a pool gets a warning: bytes that nobody has read for longer may
/// have rotted.
const SCRUB_MAX_MS: u64 = 30 * 24 * 3600 * 1000;
const FULL: u64 = 90;

/// Returns the parity of the pool's layout `k+m`: how many stores the pool may lose.
pub fn bears(answer: &PoolAnswer) -> Option<usize> {
    answer.status.layout.split_once('+')?.1.parse().ok()
}

pub fn judge(pool: &str, answer: &Result<PoolAnswer, String>, now_ms: u64) -> Vec<Check> {
    let all = match answer {
        Err(why) => {
            let cure = format!("bring its stores back; `windlass pool status {pool}` says what is missing");
            vec![Check::bad("pool-open", format!("can't be opened: {why}"), cure)]
        }
        Ok(answer) => {
            let mut all = stores(pool, &answer.status.stores);
            all.push(shards(pool, answer));
            all.push(scrub(pool, answer, now_ms));
            all.push(space(pool, answer));
            all
        }
    };
    all.into_iter().map(|check| check.of(pool)).collect()
}

fn stores(pool: &str, all: &[StoreStatus]) -> Vec<Check> {
    let name = "pool-stores";
    let away: Vec<Check> = all
        .iter()
        .filter(|store| !matches!(store.state, StoreState::In | StoreState::Unknown))
        .map(|store| {
            let why = store.reason.as_deref().unwrap_or("no reason is known");
            let cure = match store.state {
                StoreState::Out => format!(
                    "bring it back with its contents; `windlass pool repair {pool}` takes an emptied one in again, `windlass \
                     pool replace {pool} --old {0} --new URL` puts another in its place",
                    store.url
                ),
                StoreState::Failing => "free space on it, or give the right to write".to_owned(),
                _ => format!("bring it back, then `windlass pool repair {pool}`"),
            };
            Check::bad(name, format!("{} is {}: {why}", store.url, word(&store.state)), cure)
        })
        .collect();
    match away.is_empty() {
        true => vec![Check::ok(name, format!("{} of {} are in", all.len(), all.len()))],
        false => away,
    }
}

fn shards(pool: &str, answer: &PoolAnswer) -> Check {
    let (name, status) = ("pool-shards", &answer.status);
    let count = |n: usize| show_count(n as u64, "shard");
    let repair = format!("`windlass pool repair {pool}`");
    if status.damaged_shards > 0 || !status.damaged_registers.is_empty() {
        let registers = show_count(status.damaged_registers.len() as u64, "copy of a register");
        let found = format!("{} and {registers} are damaged", count(status.damaged_shards));
        return Check::bad(name, found, repair);
    }
    if !status.replacing.is_empty() {
        return Check::warn(name, format!("being replaced: {}", status.replacing.join("; ")), repair);
    }
    if status.pending_shards > 0 || status.pending_incomplete {
        let found =
            format!("{} are pending: redundancy is short until they are put", count(status.pending_shards));
        let cure =
            format!("bring the stores back: they are put by themselves then; {repair} if they are not");
        return Check::warn(name, found, cure);
    }
    Check::ok(name, "none is pending or damaged")
}

fn scrub(pool: &str, answer: &PoolAnswer, now_ms: u64) -> Check {
    let name = "pool-scrub";
    let cure =
        format!("`windlass pool scrub {pool}`, and `scrub = \"7d\"` in [pool.{pool}] of windlass.toml");
    let Some(last) = &answer.last_scrub else {
        return Check::unknown(
            name,
            "was never scrubbed from this host: damage in what nobody reads is not known",
        );
    };
    let ago = now_ms.saturating_sub(last.ended_ms);
    let found = format!("the last scrub ended {} ago", show_time(ago));
    if last.rotten + last.missing > 0 && answer.status.damaged_shards > 0 {
        let found = format!("{found} and found {} rotten and {} missing", last.rotten, last.missing);
        return Check::bad(name, found, format!("`windlass pool repair {pool}`"));
    }
    match ago {
        ago if ago > SCRUB_MAX_MS => Check::warn(name, found, cure),
        _ => Check::ok(name, found),
    }
}

fn space(pool: &str, answer: &PoolAnswer) -> Check {
    let (name, settings) = ("pool-space", &answer.status.settings);
    let stored = answer.usage.map(|usage| usage.stored_with_parity_bytes);
    if let (Some(quota), Some(stored)) = (settings.quota_bytes, stored)
        && percent(stored, quota.saturating_sub(stored)) >= FULL
    {
        let found = format!(
            "{} of its quota of {} are used: writes above it fail",
            show_bytes(stored),
            show_bytes(quota)
        );
        return Check::warn(
            name,
            found,
            format!("remove something, or `windlass pool set {pool} quota=SIZE`"),
        );
    }
    let (Some(percent), Some(free)) = (fullness(answer), answer.free_bytes) else {
        return Check::unknown(
            name,
            "its stores don't tell their room: `windlass pool set POOL capacity=SIZE` tells it",
        );
    };
    let found = format!("{percent} % full: {} are free with parity", show_bytes(free));
    match percent {
        FULL.. => Check::warn(
            name,
            found,
            "free space in it, add disks below its stores, or remove volumes and snapshots",
        ),
        _ => Check::ok(name, found),
    }
}

/// Returns how full the pool is, in percent: of its told capacity, or else of the fullest filesystem below its stores.
fn fullness(answer: &PoolAnswer) -> Option<u64> {
    if answer.status.settings.capacity_bytes.is_some() {
        return Some(percent(answer.used_bytes?, answer.free_bytes?));
    }
    let of_store = |store: &StoreStatus| Some(percent(store.used_bytes?, store.free_bytes?));
    answer.status.stores.iter().filter_map(of_store).max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::doctor::check::State;

    const NOW: u64 = 1_800_000_000_000;

    fn answer(change: impl FnOnce(&mut serde_json::Value)) -> Result<PoolAnswer, String> {
        let store = json!({"index": 0, "url": "file:///s", "zone": null, "state": "in", "reason": null,
            "failing_ms": null, "latency_ms_p99": null, "error_rate": 0.0, "requests": 0, "undeleted": 0,
            "used_bytes": 50, "free_bytes": 50, "traffic": []});
        let settings = serde_json::to_value(windlass_pool::PoolSettings::default()).unwrap();
        let id = serde_json::to_value(windlass_base::PoolId(7)).unwrap();
        let mut value = json!({"name": "p", "id": id, "layout": "2+1", "stored_at": 3, "keyed": false, "settings": settings,
            "survives": [], "hedge_ms": 20.0, "stores": [store], "replacing": [], "pending_shards": 0,
            "damaged_shards": 0, "damaged_registers": [], "at_risk": [], "pending_incomplete": false,
            "missed_deletes": 0, "missed_deletes_incomplete": false, "used_bytes": 10, "free_bytes": 90,
            "usage": null, "last_scrub": {"ended_ms": NOW - 1000, "rotten": 0, "missing": 0, "misplaced": 0,
            "foreign": 0, "orphans": 0, "unreachable": 0, "checked_shards": 1, "checked_bytes": 1}});
        change(&mut value);
        Ok(serde_json::from_value(value).unwrap())
    }

    fn states(answer: &Result<PoolAnswer, String>) -> Vec<(String, State)> {
        let all = judge("p", answer, NOW).into_iter();
        all.filter(|c| c.state != State::Ok).map(|c| (c.name, c.state)).collect()
    }

    #[test]
    fn each_trouble_of_a_pool_is_named() {
        assert!(states(&answer(|_| ())).is_empty());
        assert_eq!(bears(&answer(|_| ()).unwrap()), Some(1));
        type Change = fn(&mut serde_json::Value);
        let troubles: [(&str, State, Change); 11] = [
            ("pool-stores", State::Bad, |v| v["stores"][0]["state"] = json!("down")),
            ("pool-stores", State::Bad, |v| v["stores"][0]["state"] = json!("out")),
            ("pool-stores", State::Bad, |v| v["stores"][0]["state"] = json!("failing")),
            ("pool-shards", State::Warn, |v| v["pending_shards"] = json!(3)),
            ("pool-shards", State::Bad, |v| v["damaged_shards"] = json!(1)),
            ("pool-shards", State::Warn, |v| v["replacing"] = json!(["a by b"])),
            ("pool-scrub", State::Unknown, |v| v["last_scrub"] = json!(null)),
            ("pool-scrub", State::Warn, |v| v["last_scrub"]["ended_ms"] = json!(NOW - SCRUB_MAX_MS - 1)),
            ("pool-space", State::Warn, |v| v["stores"][0]["free_bytes"] = json!(1)),
            ("pool-space", State::Warn, |v| {
                v["settings"]["capacity_bytes"] = json!(11);
                v["free_bytes"] = json!(1);
            }),
            ("pool-space", State::Unknown, |v| v["stores"][0]["used_bytes"] = json!(null)),
        ];
        for (name, state, change) in troubles {
            assert_eq!(states(&answer(change)), [(name.to_owned(), state)]);
        }
        assert_eq!(states(&Err("no store answers".into())), [("pool-open".to_owned(), State::Bad)]);
    }
}
