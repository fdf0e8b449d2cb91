//! Verbs on an engine of their own, over folder stores.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::super::config::Config;
use super::super::pools::Pools;
use super::super::state_dir::{HostContext, StateDir};
use super::super::volume_clients::{Sessions, Visitor};
use super::*;
use crate::base::Nonce;
use crate::base::rt::{RealDisk, RealRuntime, Rt};
use crate::daemon::api::{PoolCreate, VolumeCreate};
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
    let args =
        VolumeCreate { path: path.parse().unwrap(), size: 1 << 20, settings: Vec::new(), if_absent: false };
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
    volume::clone(&state, &mark, &"p/c".parse().unwrap(), false).await.unwrap();
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
async fn a_volume_becomes_no_template_while_clients_may_write_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), "h").await;
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let (path, template) = ("p/v".parse().unwrap(), ["template=true".to_owned()]);
    let volumes = state.pools.get(&"p".parse().unwrap()).await.unwrap().volumes.clone();
    let client = state.sessions.enter(&path, &volumes, Visitor::Client("process 7")).unwrap();
    let refused = volume::set(&state, &path, &template).await.unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("process 7"), "{refused}");
    volume::set(&state, &path, &["iops=10".to_owned()]).await.unwrap();
    drop(client);
    volume::set(&state, &path, &template).await.unwrap();
    // Who is connected by now only reads.
    let _client = state.sessions.enter(&path, &volumes, Visitor::Client("process 7")).unwrap();
    let again = volume::set(&state, &path, &template).await.unwrap();
    assert!(
        again.value["template"] == true && again.value["limits"]["iops"]["rate"] == 10,
        "{}",
        again.value
    );
    assert!(volume::remove(&state, &path, true).await.unwrap_err().is(Kind::Owned));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_needs_the_volume_alone() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(state(dir.path(), "h").await);
    make_pool(&state, "p", &folders(dir.path(), &["s0", "s1", "s2"])).await.unwrap();
    make_volume(&state, "p/v").await;
    let snapshot: crate::daemon::api::SnapshotPath = "p/v@s".parse().unwrap();
    volume::snapshot(&state, std::slice::from_ref(&snapshot), true, false).await.unwrap();
    let volumes = state.pools.get(&"p".parse().unwrap()).await.unwrap().volumes.clone();
    let path = &snapshot.volume;
    let enter = |who| state.sessions.enter(path, &volumes, who);
    let roll_back = |disconnect| alter::roll_back(&state, &snapshot, None, disconnect);
    let client = enter(Visitor::Client("10.0.0.7:4000")).unwrap();
    let refused = roll_back(false).await.unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("10.0.0.7:4000"), "{refused}");
    // What is refused for another reason hangs up on nobody.
    let none = "p/v@none".parse().unwrap();
    assert!(alter::roll_back(&state, &none, None, true).await.unwrap_err().is(Kind::NotFound));
    // Nor is a command.
    let command = enter(Visitor::Command("a command")).unwrap();
    let refused = roll_back(true).await.unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("a command"), "{refused}");
    assert!(!client.hang_up().is_cancelled());
    drop(command);
    let token = client.hang_up();
    let leaves = tokio::spawn(async move {
        token.cancelled().await;
        drop(client);
    });
    let (done, ()) = futures::join!(roll_back(true), async {
        leaves.await.unwrap();
    });
    assert_eq!(done.unwrap().value["kept"], serde_json::Value::Null);
    let alone = state.sessions.alone(path, &volumes, "rolled back", false).await.unwrap();
    let refused = enter(Visitor::Client("10.0.0.7:4001")).unwrap_err();
    assert!(refused.is(Kind::Owned) && refused.to_string().contains("rolled back"), "{refused}");
    assert!(roll_back(false).await.is_err() && state.sessions.check_unused(path).is_err());
    drop(alone);
    enter(Visitor::Client("10.0.0.7:4001")).unwrap();
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}
