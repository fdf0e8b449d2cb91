//! What looking costs in requests, counted at six stores: it must not grow with what else there is.

use super::place::Place;
use super::*;
use crate::VolumesUsage;

const PATIENCE: Duration = Duration::from_secs(15);

fn with_stores(test: impl AsyncFnOnce(Place)) {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    tokio.block_on(async { test(Place::new(6)).await });
}

/// What it comes to, and how many requests that took.
async fn asked<T>(place: &Place, work: impl Future<Output = T>) -> (T, u64) {
    let before = place.requests();
    let out = work.await;
    (out, place.requests() - before)
}

async fn open(volumes: &Volumes, volume: &str) -> std::sync::Arc<Volume> {
    volumes.open(&name(volume), OpenMode::Normal).await.unwrap()
}

async fn made(volumes: &Volumes, n: usize) {
    for i in 0..n {
        volumes.create(&name(&format!("v{i}")), MIB, VolumeSettings::default()).await.unwrap();
    }
}

#[test]
fn whether_a_group_is_whole_is_found_out_once() {
    with_stores(async |place| {
        let volumes = place.volumes(1, Some("4+2")).await;
        made(&volumes, 30).await;
        let (a, b) = (open(&volumes, "v0").await, open(&volumes, "v1").await);
        let group = |s: &str| [(a.clone(), name(s)), (b.clone(), name(s))];
        for s in ["x", "y", "z"] {
            snapshot_group(&group(s), true).await.unwrap();
        }
        let (list, requests) = asked(&place, volumes.snapshots(&name("v0"))).await;
        assert!(list.unwrap().iter().all(|s| !s.partial));
        assert!(requests < 40, "{requests} requests for three groups that were seen to the end here");
        let (sizes, requests) = asked(&place, volumes.snapshot_sizes(&name("v0"))).await;
        assert!(sizes.unwrap().len() == 3 && requests < 20, "{requests}");
        // Known to all, and for good: what a member does with its snapshot later makes no group unfinished.
        volumes.remove_snapshot(&name("v1"), &name("x")).await.unwrap();
        a.release().await.unwrap();
        let other = place.volumes(2, None).await;
        let (list, requests) = asked(&place, other.snapshots(&name("v0"))).await;
        assert!(list.unwrap().iter().all(|s| !s.partial));
        assert!(requests < 60, "{requests} requests on another host");
    });
}

#[test]
fn a_group_that_nobody_saw_to_the_end_is_looked_for_once() {
    with_stores(async |place| {
        let volumes = place.volumes(1, Some("4+2")).await;
        made(&volumes, 30).await;
        let (a, b) = (open(&volumes, "v0").await, open(&volumes, "v1").await);
        snapshot_group(&[(a.clone(), name("x")), (b.clone(), name("x"))], false).await.unwrap();
        // Their maps are written, so both marks are in the pool.
        a.release().await.unwrap();
        b.release().await.unwrap();
        let (list, first) = asked(&place, volumes.snapshots(&name("v0"))).await;
        assert!(!list.unwrap()[0].partial && first > 150, "all volumes are looked at: {first}");
        let (list, again) = asked(&place, volumes.snapshots(&name("v0"))).await;
        assert!(!list.unwrap()[0].partial && again < 40, "{again}");
    });
}

#[test]
fn a_start_asks_nothing_for_volumes_that_were_not_open_here() {
    with_stores(async |place| {
        let volumes = place.volumes(1, Some("4+2")).await;
        made(&volumes, 10).await;
        let released = open(&volumes, "v3").await;
        released.write(0, bytes(1, 4096)).await.unwrap();
        released.release().await.unwrap();
        let (left, requests) = asked(&place, volumes.left_open()).await;
        assert!(left.unwrap().is_empty() && requests == 0, "{requests}");
        let left = open(&volumes, "v7").await;
        left.write(0, bytes(1, 4096)).await.unwrap();
        left.flush().await.unwrap();
        let again = place.volumes(1, None).await;
        let (left, requests) = asked(&place, again.left_open()).await;
        assert_eq!(left.unwrap(), [name("v7")]);
        assert!(requests < 200, "one head and the names: {requests}");
        let other = place.volumes(2, None).await;
        let (left, requests) = asked(&place, other.left_open()).await;
        assert!(left.unwrap().is_empty() && requests == 0, "another folder: {requests}");
    });
}

#[test]
fn a_listing_is_one_pass_over_heads() {
    with_stores(async |place| {
        let volumes = place.volumes(1, Some("4+2")).await;
        made(&volumes, 1).await;
        let v = open(&volumes, "v0").await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        snapshot_group(&[(v.clone(), name("a"))], true).await.unwrap();
        for i in 0..100 {
            volumes.clone_snapshot(&name("v0"), &name("a"), &name(&format!("c{i}"))).await.unwrap();
        }
        v.release().await.unwrap();
        for host in [1, 2] {
            let volumes = place.volumes(host, None).await;
            let (list, requests) = asked(&place, volumes.list(PATIENCE)).await;
            let list = list.unwrap();
            let named = list.iter().filter(|(_, info)| {
                let parent = info.as_ref().unwrap().parent.as_ref();
                parent.is_some_and(|p| p.name == Some(name("v0")))
            });
            assert_eq!((list.len(), named.count()), (101, 100));
            assert!(requests <= 8 * 101, "{requests}");
        }
        let (info, requests) = asked(&place, volumes.info(&name("c7"))).await;
        assert_eq!(info.unwrap().parent.unwrap().name, Some(name("v0")));
        assert!(requests <= 20, "{requests} for one volume");
        // How many clones a volume has is counted for who asks for it.
        let (info, requests) = asked(&place, volumes.info(&name("v0"))).await;
        assert_eq!(info.unwrap().clones, None);
        assert!(requests <= 20, "{requests} for a volume with 100 clones");
        let (info, requests) = asked(&place, volumes.info_with(&name("v0"), true)).await;
        assert_eq!(info.unwrap().clones, Some(100));
        assert!(requests > 100, "{requests}");
        // What `pool status` asks.
        let pool = volumes.engine().pool.clone();
        let status = async {
            pool.look().await;
            pool.refresh_settings().await.unwrap();
            volumes.usage()
        };
        let (_, requests) = asked(&place, status).await;
        assert!(requests <= 20, "{requests} for a pool with 101 volumes");
        let (list, requests) = asked(&place, volumes.snapshots(&name("v0"))).await;
        assert!(list.unwrap()[0].clones.len() == 100 && requests < 500, "{requests}");
    });
}

/// Requests, bytes sent and received.
fn counts(place: &Place) -> [u64; 3] {
    let mut sums = [0; 3];
    for line in place.lines() {
        sums[0] += line.requests;
        sums[1] += line.sent_bytes;
        sums[2] += line.received_bytes;
    }
    sums
}

#[test]
fn a_clone_costs_the_same_however_many_there_are() {
    with_stores(async |place| {
        let volumes = place.volumes(1, Some("4+2")).await;
        made(&volumes, 1).await;
        let v = open(&volumes, "v0").await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        snapshot_group(&[(v.clone(), name("a"))], true).await.unwrap();
        let mut costs = Vec::new();
        for i in 0..400 {
            let before = counts(&place);
            volumes.clone_snapshot(&name("v0"), &name("a"), &name(&format!("c{i}"))).await.unwrap();
            let after = counts(&place);
            costs.push([after[0] - before[0], after[1] - before[1], after[2] - before[2]]);
        }
        let median = |part: &[[u64; 3]], what: usize| {
            let mut all: Vec<u64> = part.iter().map(|cost| cost[what]).collect();
            all.sort_unstable();
            all[all.len() / 2]
        };
        for (part, says) in [(&costs[..40], "first"), (&costs[360..], "last")] {
            let [requests, sent, received] = [0, 1, 2].map(|what| median(part, what));
            println!("{says} 40 of 400 clones: {requests} requests, {sent} bytes sent, {received} received");
            assert!(
                requests <= 75 && sent <= 16_000 && received <= 40_000,
                "{says}: {requests} {sent} {received}"
            );
        }
        let head = v.read(0, 4096).await;
        assert!(head.is_ok());
        let id = volumes.engine().pool.lookup(&name("v0")).await.unwrap().unwrap();
        let head = volumes.engine().cell(id).read().await.unwrap().unwrap();
        assert!(head.encode().unwrap().len() < 2_000, "nothing of them is in the head");
    });
}

/// A quota is counted while somebody writes, and what all volumes take is told by counters.
#[test]
fn who_does_not_write_asks_nothing_for_a_quota() {
    with_stores(async |place| {
        let volumes = place.volumes(1, Some("4+2")).await;
        made(&volumes, 40).await;
        volumes.set(&name("v0"), &["flush=pool".to_owned()]).await.unwrap();
        let v = open(&volumes, "v0").await;
        volumes.engine().pool.set(|settings| settings.assign("quota=1G")).await.unwrap();
        assert_eq!(volumes.usage(), None, "nobody has counted yet");
        // As the daemon does it each second; a count is due each 30 s at most, and somebody has just changed the quota.
        let looks = async |n: u64| {
            for _ in 0..n {
                volumes.engine().pool.quota().ask();
                volumes.count_quota().await;
            }
        };
        let (_, first) = asked(&place, looks(1)).await;
        assert!(first > 100, "all volumes are looked at: {first}");
        let idle = async {
            for _ in 0..50 {
                volumes.count_quota().await;
            }
        };
        let (_, requests) = asked(&place, idle).await;
        assert_eq!(requests, 0);
        let (usage, requests) = asked(&place, async { volumes.usage() }).await;
        assert_eq!((usage.unwrap().volumes, requests), (40, 0));
        // What happens here counts without another walk.
        v.write(0, bytes(1, 1 << 20)).await.unwrap();
        v.flush().await.unwrap();
        volumes.create(&name("w"), MIB, VolumeSettings::default()).await.unwrap();
        volumes.remove(&name("v3")).await.unwrap();
        volumes.remove(&name("v4")).await.unwrap();
        Trash(&volumes).discard(&name("v5")).await.unwrap();
        let usage = volumes.usage().unwrap();
        assert_eq!((usage.volumes, usage.trash_volumes), (38, 1));
        assert!(usage.stored_bytes >= 1 << 20, "{usage:?}");
        let counted = volumes.count_usage().await.unwrap();
        assert_eq!(VolumesUsage { counted_ms: 0, ..counted }, VolumesUsage { counted_ms: 0, ..usage });
    });
}

/// A snapshot's removal looks for clones only where there ever was one.
#[test]
fn what_was_never_cloned_is_removed_without_looking_for_clones() {
    with_stores(async |place| {
        let volumes = place.volumes(1, Some("4+2")).await;
        made(&volumes, 1).await;
        let v = open(&volumes, "v0").await;
        for s in ["a", "b", "c"] {
            v.write(0, bytes(1, 4096)).await.unwrap();
            snapshot_group(&[(v.clone(), name(s))], true).await.unwrap();
        }
        let (done, never) = asked(&place, volumes.remove_snapshot(&name("v0"), &name("a"))).await;
        done.unwrap();
        volumes.clone_snapshot(&name("v0"), &name("b"), &name("x")).await.unwrap();
        let (done, once) = asked(&place, volumes.remove_snapshot(&name("v0"), &name("c"))).await;
        done.unwrap();
        println!("{never} requests, {once} once another snapshot has a clone");
        assert!(once < never + 40, "{never} {once}");
        let refused = volumes.remove_snapshot(&name("v0"), &name("b")).await.unwrap_err();
        assert!(refused.is(Kind::Refused) && refused.to_string().contains("tank/x"), "{refused}");
        volumes.remove(&name("x")).await.unwrap();
        volumes.remove_snapshot(&name("v0"), &name("b")).await.unwrap();
    });
}
