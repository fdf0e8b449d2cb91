//! Verbs beside clients that connect and beside each other: whoever comes between two of their steps loses nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::daemon::api::{RemoveMode, SnapshotPath, VolumeMove, VolumePath};
use crate::daemon::exports::EngineExports;
use crate::daemon::progress::ProgressSink;
use windlass_nbd::Exports as _;

use super::tests::{TAKEN, folders, make_pool, make_volume, state};
use super::{move_volume, pool, snapshot, trash, volume};

/// Rounds, each with a client that comes a little later.
const ROUNDS: u32 = 40;

/// A client that connects while its volume is removed is refused, or keeps it: what it has flushed is not gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_to_a_volume_that_is_being_removed_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(state(dir.path(), "h").await);
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    let path: VolumePath = "p/v".parse().unwrap();
    let exports = EngineExports { state: Arc::downgrade(&state), for_commands: false };
    let (mut went, mut stayed) = (0, 0);
    for round in 0..ROUNDS {
        make_volume(&state, "p/v").await;
        let comes = async {
            state.host_context.rt.sleep(Duration::from_micros(200) * round).await;
            let client = exports.open("p/v", "process 7").await?;
            client.write(0, vec![7; 4096].into()).await?;
            client.flush().await
        };
        let goes = volume::remove(&state, &path, false, (RemoveMode::Now, false));
        match futures::future::join(Box::pin(goes), Box::pin(comes)).await {
            (Ok(_), Err(_)) => went += 1,
            (Err(_), Ok(())) => {
                stayed += 1;
                volume::remove(&state, &path, false, (RemoveMode::Now, false)).await.unwrap();
            }
            (gone, flushed) => panic!("round {round}: removal {gone:?}, flush {flushed:?}"),
        }
    }
    assert_eq!(went + stayed, ROUNDS);
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

/// A snapshot that is brought back is no volume's to take along without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_back_does_not_go_with_its_volume() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(state(dir.path(), "h").await);
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    pool::set(&state, &"p".parse().unwrap(), &["trash=1h".to_owned()]).await.unwrap();
    let (path, mark): (VolumePath, SnapshotPath) = ("p/v".parse().unwrap(), "p/v@s".parse().unwrap());
    for round in 0..ROUNDS {
        make_volume(&state, "p/v").await;
        snapshot::snapshot(&state, std::slice::from_ref(&mark), TAKEN).await.unwrap();
        snapshot::remove_snapshot(&state, &mark, false, RemoveMode::Trash).await.unwrap();
        let comes_back = async {
            state.host_context.rt.sleep(Duration::from_micros(200) * round).await;
            trash::restore_snapshot(&state, &mark, None).await
        };
        let goes = volume::remove(&state, &path, false, (RemoveMode::Now, false));
        let (gone, back) = futures::future::join(Box::pin(goes), Box::pin(comes_back)).await;
        assert!(gone.is_err() || back.is_err(), "round {round}: {gone:?} {back:?}");
        if gone.is_err() {
            volume::remove(&state, &path, false, (RemoveMode::Now, true)).await.unwrap();
        }
    }
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}

/// An idle client of a volume that is renamed while it moves to another pool goes on there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_volume_that_is_renamed_while_it_moves_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(state(dir.path(), "h").await);
    make_pool(&state, "p", &folders(dir.path(), &["s0"])).await.unwrap();
    make_pool(&state, "q", &folders(dir.path(), &["t0"])).await.unwrap();
    let exports = EngineExports { state: Arc::downgrade(&state), for_commands: false };
    for round in 0..ROUNDS / 2 {
        let (v, w) = (format!("p/v{round}"), format!("w{round}"));
        make_volume(&state, &v).await;
        let client = exports.open(&v, "process 7").await.unwrap();
        client.write(0, vec![7; 4096].into()).await.unwrap();
        client.flush().await.unwrap();
        let path: VolumePath = v.parse().unwrap();
        let args =
            VolumeMove { path: path.clone(), to: "q".parse().unwrap(), no_snapshots: true, abort: false };
        let progress = ProgressSink::default();
        let renames = async {
            state.host_context.rt.sleep(Duration::from_millis(2) * round).await;
            volume::rename(&state, &path, &w.parse().unwrap()).await
        };
        let (moved, renamed) =
            futures::future::join(Box::pin(move_volume::run(&state, &args, &progress)), Box::pin(renames))
                .await;
        let read = client.read(0, 1).await.unwrap_or_else(|e| panic!("{round}: {e}; {moved:?} {renamed:?}"));
        assert_eq!(read.into_bytes().as_ref(), [7], "{round}: {moved:?} {renamed:?}");
        client.write(4096, vec![8; 4096].into()).await.unwrap();
        client.flush().await.unwrap();
    }
    assert!(state.pools.shutdown(Duration::from_secs(5)).await.is_empty());
}
