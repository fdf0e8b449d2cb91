//! Clients of this host beside other hosts that fill and ask for the same volumes.

use std::sync::Arc;
use std::time::Duration;

use crate::daemon::api::VolumeCreate;
use crate::daemon::engine_tables::EngineState;
use crate::daemon::exports::EngineExports;
use crate::nbd::{Export, Exports as _};

use super::tests::{folders, make_pool, state};
use super::{pool, volume};

async fn make(state: &EngineState, path: &str, settings: &[&str]) {
    let settings = settings.iter().chain(&["flush=pool"]).map(|&set| set.to_owned()).collect();
    let path = path.parse().unwrap();
    let args = VolumeCreate { path, size: 1 << 20, settings, if_absent: false, key: None };
    volume::create(state, args).await.unwrap();
}

/// Two hosts that know the pool p.
async fn two_hosts(dir: &std::path::Path) -> (Arc<EngineState>, Arc<EngineState>) {
    let (here, other) = (Arc::new(state(dir, "h").await), Arc::new(state(dir, "other").await));
    let stores = folders(dir, &["s0", "s1", "s2"]);
    make_pool(&here, "p", &stores).await.unwrap();
    pool::add(&other, "p".parse().unwrap(), &stores, None).await.unwrap();
    (here, other)
}

fn exports(state: &Arc<EngineState>) -> EngineExports {
    EngineExports { state: Arc::downgrade(state), for_commands: true }
}

/// What is confirmed by a flush leaves nothing that would tell this host of a new name.
async fn write(export: &dyn Export, byte: u8) -> crate::base::Result<()> {
    export.write(0, vec![byte; 4096].into()).await?;
    export.flush().await
}

async fn end(states: impl IntoIterator<Item = Arc<EngineState>>) {
    for state in states {
        assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_a_command_fills_is_handed_to_no_other_host() {
    let dir = tempfile::tempdir().unwrap();
    let (here, other) = two_hosts(dir.path()).await;
    make(&here, "p/v", &["handover=ask"]).await;
    let alone = exports(&here).open("!p/v", "process 1").await.unwrap();
    write(&*alone, 1).await.unwrap();
    let client = exports(&other).open("p/v", "process 2").await.unwrap();
    let rt = &here.host_context.rt;
    // An owner looks every four seconds whether it is asked.
    let waits = rt.timeout(Duration::from_secs(9), write(&*client, 2)).await;
    assert!(waits.is_none(), "{waits:?}");
    assert_eq!(alone.read(0, 1).await.unwrap().into_bytes().as_ref(), [1]);
    write(&*alone, 3).await.unwrap();
    drop(alone);
    let read = rt.timeout(Duration::from_secs(30), client.read(0, 1)).await.expect("nobody holds it");
    assert_eq!(read.unwrap().into_bytes().as_ref(), [3]);
    drop(client);
    end([other, here]).await;
}
