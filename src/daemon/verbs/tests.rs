//! Verbs on an engine of their own, over folder stores.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::super::config::Config;
use super::super::pools::Pools;
use super::super::state_dir::{HostContext, StateDir};
use super::super::volume_clients::Sessions;
use super::*;
use crate::base::Nonce;
use crate::base::rt::{RealDisk, RealRuntime, Rt};
use crate::daemon::answers::VolumeLine;
use crate::daemon::api::{CloneMany, PoolCreate, VolumeCreate};
use crate::volume::Memory;

/// A host whose state is in `dir/NAME`.
async fn state(dir: &Path, name: &str) -> EngineState {
    let (rt, disk) = (Rt::new(RealRuntime::current()), RealDisk::start());
    let home = StateDir::at(dir.join(name));
    std::fs::create_dir_all(home.root()).unwrap();
    let host = home.host(&rt, &*disk).await.unwrap();
    let host_context = HostContext { rt: rt.clone(), disk, home, host };
    EngineState {
        stop: Default::default(),
        pools: Pools::new(host_context.clone(), Memory::new(64 << 20)).await.unwrap(),
        sessions: Sessions::new(rt.clone()),
        mounts: Arc::default(),
        capacities: Default::default(),
        nbd: Default::default(),
        metrics: Default::default(),
        began: rt.now(),
        host_context,
        config: Config::default(),
    }
}

/// Folders below `dir`, made, as stores.
fn folders(dir: &Path, names: &[&str]) -> Vec<String> {
    let made = names.iter().map(|name| {
        std::fs::create_dir_all(dir.join(name)).unwrap();
        format!("file://{}", dir.join(name).display())
    });
    made.collect()
}

async fn make_pool(state: &EngineState, name: &str, stores: &[String]) -> Result<Outcome> {
    let args = PoolCreate {
        name: name.parse().unwrap(),
        stores: stores.to_vec(),
        layout: None,
        ack_zone: false,
        degrade_after: None,
        force: true,
        if_absent: false,
    };
    pool::create(state, args).await
}

async fn make_volume(state: &EngineState, path: &str) {
    let args = VolumeCreate {
        path: path.parse().unwrap(),
        size: 1 << 20,
        flush: None,
        compression: None,
        max_tail_ms: None,
        journal_size: None,
        if_absent: false,
    };
    volume::create(state, args).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_removed_when_only_a_removed_clone_held_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0", "s1", "s2"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let mark = "p/v@s".parse().unwrap();
    volume::snapshot(&state, std::slice::from_ref(&mark), true, false).await.unwrap();
    clone::clone(&state, &mark, &"p/c".parse().unwrap(), false).await.unwrap();
    let said = volume::remove_snapshot(&state, &mark, false).await.unwrap_err();
    assert_eq!(said.to_string(), "p/v@s is needed by its clones: p/c; remove them first");
    // As a removal leaves it that was killed after its first step.
    let open = state.pools.get(&"p".parse().unwrap()).await.unwrap();
    let clone = open.pool.lookup(&"c".parse().unwrap()).await.unwrap().unwrap();
    open.volumes.engine().cell(clone).change(|head| head.remove(&BTreeSet::new(), Nonce(0))).await.unwrap();
    volume::remove_snapshot(&state, &mark, true).await.unwrap();
    volume::remove_snapshot(&state, &mark, false).await.unwrap();
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clones_are_made_and_what_is_there_counts_when_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make_volume(&state, "p/v").await;
    make_volume(&state, "p/w-30").await;
    let mark: crate::daemon::api::SnapshotPath = "p/v@s".parse().unwrap();
    volume::snapshot(&state, std::slice::from_ref(&mark), true, false).await.unwrap();
    let many = async |count, pattern: &str, if_absent| {
        let args = CloneMany { from: mark.clone(), count, pattern: pattern.into(), if_absent };
        clone::clone_many(&state, &args, &ProgressSink::default()).await
    };
    // Nothing is made by a command that is wrong.
    for (count, pattern) in [(0, "w-{n}"), (10_001, "w-{n}"), (20, "w")] {
        assert!(many(count, pattern, false).await.unwrap_err().is(Kind::Usage));
    }
    let made = many(20, "w-{n}", false).await.unwrap();
    assert_eq!(made.value["made"].as_array().unwrap().len(), 20);
    assert_eq!((&made.value["made"][0], &made.value["made"][19]), (&"p/w-1".into(), &"p/w-20".into()));
    let there = many(25, "w-{n}", true).await.unwrap();
    assert_eq!(there.value["existed"].as_array().unwrap().len(), 20);
    assert_eq!(there.value["made"].as_array().unwrap().len(), 5);
    let stopped = many(26, "w-{n}", false).await.unwrap_err();
    assert!(stopped.is(Kind::Exists), "{stopped}");
    // One of them has its name from another volume: those that were made before it are told.
    let other = many(30, "w-{n}", true).await.unwrap_err();
    assert!(
        other.is(Kind::Exists) && other.to_string().contains("p/w-30 exists, but is no clone"),
        "{other}"
    );
    assert!(other.to_string().contains("4 of 30: p/w-26 to p/w-29;"), "{other}");
    let line = |line: VolumeLine| match line {
        VolumeLine::Known(v) => (v.path.to_string(), v.origin),
        VolumeLine::Unknown { path, .. } => panic!("{path}"),
    };
    let listed: Vec<VolumeLine> = volume::list(&state, None).await.unwrap().answer().unwrap();
    let listed: std::collections::BTreeMap<_, _> = listed.into_iter().map(line).collect();
    assert_eq!(listed.len(), 2 + 29);
    assert_eq!((&listed["p/w-7"], &listed["p/w-30"]), (&Some("p/v@s".to_owned()), &None));
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_store_is_made_inside_another() {
    let dir = tempfile::tempdir().unwrap();
    let (knows, stranger) = (state(dir.path(), "h").await, state(dir.path(), "other").await);
    let stores = folders(dir.path(), &["d/s0", "d/s1", "d/s2"]);
    let silent = ProgressSink::default();
    make_pool(&knows, "outer", &stores).await.unwrap();
    let inside = folders(dir.path(), &["d/s0/x/inner", "i1", "i2"]);
    let refused = |why: Error| {
        let text = why.to_string();
        assert!(why.is(Kind::Refused) && text.contains("pool outer") && text.contains("d/s0"), "{why}");
    };
    refused(make_pool(&knows, "inner", &inside).await.unwrap_err());
    // A host that knows nothing of that pool sees its label.
    refused(make_pool(&stranger, "inner", &inside).await.unwrap_err());
    let outer = "outer".parse().unwrap();
    let swap = |new| replace::replace(&knows, &outer, (&stores[2], new), false, &silent);
    refused(swap(&inside[0]).await.unwrap_err());
    let above = folders(dir.path(), &["d"]);
    refused(make_pool(&knows, "above", &[&above[..], &inside[1..]].concat()).await.unwrap_err());
    let twice = folders(dir.path(), &["t", "t/u", "t2"]);
    let why = make_pool(&stranger, "twice", &twice).await.unwrap_err();
    assert!(why.is(Kind::Usage) && why.to_string().contains("overlap"), "{why}");
    // Nothing was labelled; a place beside them is taken.
    assert!(!dir.path().join("i1/label").exists() && !dir.path().join("t/label").exists());
    swap(&inside[1]).await.unwrap();
    for state in [knows, stranger] {
        assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
    }
}

/// Names, states and exit code as `pool list` and `status` tell them.
async fn told(state: &EngineState) -> [(String, String, bool); 2] {
    let one = |outcome: Outcome, pools: &serde_json::Value| {
        let line = &pools[0];
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        (text("state"), text("trouble"), outcome.degraded)
    };
    let (listed, status) = (pool::list(state).await.unwrap(), status(state).await.unwrap());
    let (pools, inner) = (listed.value.clone(), status.value["pools"].clone());
    [one(listed, &pools), one(status, &inner)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods)] // takes a store's folder away from outside
async fn what_needs_attention_is_said_by_list_and_status() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0", "s1", "s2"])).await.unwrap();
    for (state, trouble, degraded) in told(&state).await {
        assert_eq!((state.as_str(), trouble.as_str(), degraded), ("open", "", false));
    }
    let away =
        |name: &str| std::fs::rename(dir.path().join(name), dir.path().join(format!("{name}.away"))).unwrap();
    away("s2");
    for (state, trouble, degraded) in told(&state).await {
        assert!(state == "degraded" && degraded && trouble.contains("s2"), "{state}: {trouble}");
    }
    away("s1");
    for (state, trouble, degraded) in told(&state).await {
        assert!(state == "stalled" && degraded && trouble.contains("s1"), "{state}: {trouble}");
    }
    // A daemon that can't open it says so too; a command that opens nothing has nothing to say.
    let later = self::state(dir.path(), "h").await;
    let quiet = status(&later).await.unwrap();
    assert!(!quiet.degraded && quiet.value["pools"][0]["state"] == "closed");
    later.pools.get(&"p".parse().unwrap()).await.unwrap_err();
    let closed = status(&later).await.unwrap();
    assert!(closed.degraded && closed.value["pools"][0]["trouble"].is_string(), "{}", closed.value);
}
