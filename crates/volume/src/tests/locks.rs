//! Locked snapshots: nothing removes one before its time, on any host, whatever its clock says.

use super::*;
use windlass_base::Result;

const HOUR: u64 = 3_600_000;

fn refused(done: Result<()>, says: &str) {
    let error = done.unwrap_err();
    assert!(error.is(Kind::Refused) && error.to_string().contains(says), "{error}");
}

async fn lock(life: &Life, snapshot: &str, ms: u64) -> Result<u64> {
    life.volumes.lock_snapshot(&name("v"), &name(snapshot), LockEnd::In(ms)).await
}

/// All that removes a snapshot, or takes it out of reach.
async fn nothing_removes(life: &Life, says: &str) {
    let (v, s) = (name("v"), name("s"));
    refused(life.volumes.remove_snapshot(&v, &s).await, says);
    refused(Trash(&life.volumes).discard_snapshot(&v, &s).await, says);
    refused(life.volumes.check_remove_snapshot(&v, &s, LOOK).await, says);
    refused(life.volumes.remove(&v).await, says);
    refused(Trash(&life.volumes).discard(&v).await.map(drop), says);
    refused(life.volumes.check_remove(&v, true).await, says);
    refused(life.volumes.check_unlocked(&v).await, says);
    refused(end_all(&life.volumes, &|_| ()).await, says);
}

#[test]
fn nothing_removes_a_locked_snapshot_before_its_time() {
    run(1, "2+1", |site| async move {
        let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 9000)).await.unwrap();
        for snapshot in ["s", "t"] {
            snapshot_group(&[(v.clone(), name(snapshot))], true).await.unwrap();
        }
        v.write(0, bytes(2, 9000)).await.unwrap();
        // Clocks of hosts differ by up to two hours here. Another host than the owner may lock.
        let until = lock(&other, "s", 6 * HOUR).await;
        let until = match until {
            // The mark is only in the owner's log yet.
            Err(e) if e.is(Kind::Unavailable) => lock(&life, "s", 6 * HOUR).await.unwrap(),
            done => done.unwrap(),
        };
        nothing_removes(&life, "locked until").await;
        assert!(
            life.volumes.remove_snapshot(&name("v"), &name("t")).await.is_ok(),
            "the other is not locked"
        );
        for host in [&life, &other] {
            let all = host.volumes.snapshots(&name("v")).await.unwrap();
            assert_eq!((all[0].name.as_str(), all[0].locked_until_ms), ("s", Some(until)));
            let info = host.volumes.info(&name("v")).await.unwrap();
            assert_eq!((info.locked_snapshots, info.locked_until_ms), (1, Some(until)));
        }
        // Nor what comes after other changes: back to it, another name, another owner, a crash.
        life.volumes.roll_back(&name("v"), &name("s"), None).await.unwrap();
        rename(&life.volumes, &name("v"), &name("w")).await.unwrap();
        rename(&life.volumes, &name("w"), &name("v")).await.unwrap();
        other.volumes.take_over(&name("v"), false).await.unwrap();
        nothing_removes(&other, "locked until").await;
        let other = other.crash().start().await;
        nothing_removes(&other, "locked until").await;
        let s = life.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap();
        assert!(s.read(0, 9000).await.unwrap() == bytes(1, 9000));
        let short = lock(&other, "s", HOUR).await.map(drop);
        refused(short, "never shortened");
        other.sleep(9 * HOUR).await;
        other.volumes.remove_snapshot(&name("v"), &name("s")).await.unwrap();
        other.volumes.remove(&name("v")).await.unwrap();
    });
}

#[test]
fn a_lock_is_over_when_the_host_and_the_stores_say_so() {
    run(2, "2+1", |site| async move {
        let clocks = |ms: [Option<i64>; 3]| {
            site.stores.iter().zip(ms).for_each(|(store, ms)| store.faults(|f| f.ahead_ms = ms));
        };
        let minutes = |n: i64| Some(n * 60_000);
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 9000)).await.unwrap();
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        // A lock is reckoned by the clock that is ahead, and its end by the one that is behind.
        clocks([minutes(0), minutes(3), minutes(-2)]);
        let until = lock(&life, "s", HOUR).await.unwrap();
        let ahead = until - HOUR - life.rt.wall_ms();
        assert!((179_000..=180_000).contains(&ahead), "{ahead}");
        refused(
            life.volumes.lock_snapshot(&name("v"), &name("s"), LockEnd::At(until - 1)).await.map(drop),
            "never",
        );
        let past = LockEnd::At(life.rt.wall_ms() + 100_000);
        let past = life.volumes.lock_snapshot(&name("v"), &name("s"), past).await.unwrap_err();
        assert!(past.is(Kind::Usage), "{past}");
        life.sleep(HOUR + 4 * 60_000).await;
        nothing_removes(&life, "locked until").await;
        // This host is a year ahead, as far as one store tells.
        clocks([minutes(0), minutes(0), minutes(-525_600)]);
        nothing_removes(&life, "525600 minutes ahead of").await;
        refused(lock(&life, "s", 9 * HOUR).await.map(drop), "clock");
        // One that tells the time is enough, and one that has no clock says nothing.
        clocks([minutes(0), None, None]);
        site.stores[2].faults(|f| f.reach = Reach::Refuses);
        life.volumes.remove_snapshot(&name("v"), &name("s")).await.unwrap();
    });
}

#[test]
fn where_no_store_that_has_a_clock_answers_nothing_is_over() {
    run(3, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        lock(&life, "s", HOUR).await.unwrap();
        life.sleep(2 * HOUR).await;
        site.stores[0].faults(|f| f.reach = Reach::Refuses);
        let late = life.volumes.remove_snapshot(&name("v"), &name("s")).await.unwrap_err();
        assert!(late.is(Kind::Unavailable) && late.to_string().contains("what time it is"), "{late}");
        site.stores[0].faults(|f| f.reach = Reach::Up);
        life.volumes.remove_snapshot(&name("v"), &name("s")).await.unwrap();
    });
}

/// Whoever is told that it is locked can read it until then.
#[test]
fn a_lock_that_races_a_removal_holds_or_is_refused() {
    let mut came = [0, 0];
    for seed in 0..40 {
        let (tx, rx) = std::sync::mpsc::channel();
        run(seed, "2+1", move |site| async move {
            let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, bytes(seed, 9000)).await.unwrap();
            snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
            life.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap();
            let of_volume = seed % 2 == 1;
            // Each comes first now and then.
            let lead = site.world.below(2_000);
            let locks = async {
                other.sleep(500u64.saturating_sub(lead)).await;
                lock(&other, "s", 9 * HOUR).await
            };
            let removes = async {
                life.sleep(lead.saturating_sub(500)).await;
                match of_volume {
                    true => life.volumes.remove(&name("v")).await,
                    false => life.volumes.remove_snapshot(&name("v"), &name("s")).await,
                }
            };
            let (locked, removed) = futures::future::join(locks, removes).await;
            if locked.is_ok() {
                assert!(removed.unwrap_err().is(Kind::Refused));
                let s = other.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap();
                assert!(s.read(0, 9000).await.unwrap() == bytes(seed, 9000));
                nothing_removes(&life, "locked until").await;
            } else {
                removed.unwrap();
            }
            tx.send(usize::from(locked.is_ok())).unwrap();
        });
        came[rx.recv().unwrap()] += 1;
    }
    assert!(came.iter().all(|n| *n > 5), "{came:?}");
}

#[test]
fn history_keeps_what_is_locked_and_goes_on_with_the_rest() {
    run(5, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        life.volumes.set(&name("v"), &["history=1m:10m".to_owned()]).await.unwrap();
        let written = async |minutes| {
            for i in 0..minutes {
                v.write(0, bytes(i, 8192)).await.unwrap();
                life.sleep(60_000).await;
            }
        };
        written(8).await;
        let kept = life.volumes.history(&name("v")).await.unwrap()[2].clone();
        let until = lock(&life, kept.name.as_str(), 2 * HOUR).await.unwrap();
        written(90).await;
        let marks = life.volumes.history(&name("v")).await.unwrap();
        assert_eq!((&marks[0].name, marks[0].locked_until_ms), (&kept.name, Some(until)));
        assert!(marks.len() < 30, "{}", marks.len());
        written(60).await;
        let marks = life.volumes.history(&name("v")).await.unwrap();
        assert!(marks.iter().all(|mark| mark.name != kept.name) && marks.len() < 30, "{marks:?}");
    });
}
