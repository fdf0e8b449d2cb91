//! Clocks that jump: nothing goes for its age while one is wrong, and all goes that is due when it is right.

use super::*;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const YEARS: Duration = Duration::from_secs(2 * 365 * 24 * 3600);

async fn written(life: &Life, v: &Volume, minutes: u64) {
    for i in 0..minutes {
        v.write(0, bytes(i, 8192)).await.unwrap();
        life.sleep(MINUTE).await;
    }
}

async fn marks(life: &Life) -> Vec<u64> {
    let all = life.volumes.history(&name("v")).await.unwrap();
    all.into_iter().map(|mark| mark.created_ms).collect()
}

/// Of folders, whose pool has no other clock, and of stores that tell the time.
#[test]
fn a_clock_that_is_ahead_for_minutes_thins_no_history() {
    for (seed, ahead_ms) in [(1, None), (2, Some(0)), (3, None)] {
        run(seed, "2+1", move |site| async move {
            site.stores.iter().for_each(|s| s.faults(|f| f.ahead_ms = ahead_ms));
            let mut life = site.machine(1).found().await;
            let mut v = volume(&life, FlushMode::Local).await;
            life.volumes.set(&name("v"), &["history=1m:2h".to_owned()]).await.unwrap();
            written(&life, &v, 40).await;
            let before = marks(&life).await;
            assert!(before.len() >= 38, "{}", before.len());
            let restarts = seed == 3;
            if restarts {
                drop(v);
                life = life.crash().start_ahead(YEARS).await;
                v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            } else {
                life.process.clock_ahead(YEARS);
                // The stores' clocks are right, and so far behind this host's.
                let behind = -(YEARS.as_millis() as i64);
                site.stores.iter().for_each(|s| s.faults(|f| f.ahead_ms = ahead_ms.map(|_| behind)));
            }
            written(&life, &v, 3).await;
            life.process.clock_back(YEARS);
            site.stores.iter().for_each(|s| s.faults(|f| f.ahead_ms = ahead_ms));
            written(&life, &v, 5).await;
            let after = marks(&life).await;
            let lost = before.iter().filter(|at| !after.contains(at)).count();
            assert_eq!(lost, 0, "of {} marks, seed {seed}", before.len());
            // And the plan goes on.
            written(&life, &v, 320).await;
            let late = marks(&life).await;
            let left = before.iter().filter(|at| late.contains(at)).count();
            assert!(left == 0 && late.len() < 170, "{left} of before, {} in all", late.len());
        });
    }
}

/// What is taken while the clock is slow is not older for that.
#[test]
fn a_clock_that_was_behind_thins_no_history_afterwards() {
    for (seed, ahead_ms) in [(5, None), (6, Some(0))] {
        run(seed, "2+1", move |site| async move {
            site.stores.iter().for_each(|s| s.faults(|f| f.ahead_ms = ahead_ms));
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            life.volumes.set(&name("v"), &["history=1m:1h".to_owned()]).await.unwrap();
            written(&life, &v, 10).await;
            let hour = Duration::from_millis(HOUR);
            life.process.clock_back(hour);
            site.stores.iter().for_each(|s| s.faults(|f| f.ahead_ms = ahead_ms.map(|_| HOUR as i64)));
            written(&life, &v, 20).await;
            life.process.clock_ahead(hour);
            site.stores.iter().for_each(|s| s.faults(|f| f.ahead_ms = ahead_ms));
            written(&life, &v, 15).await;
            let left = marks(&life).await.len();
            assert!(left >= 42, "{left} of 45, seed {seed}");
        });
    }
}

#[test]
fn a_clock_that_is_ahead_ends_no_lock_of_folders() {
    for restarts in [false, true] {
        run(4, "2+1", move |site| async move {
            let mut life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Pool).await;
            v.write(0, bytes(1, 9000)).await.unwrap();
            snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
            let end = LockEnd::In(9 * HOUR);
            life.volumes.lock_snapshot(&name("v"), &name("s"), end).await.unwrap();
            drop(v);
            if restarts {
                life = life.crash().start_ahead(YEARS).await;
            } else {
                life.process.clock_ahead(YEARS);
            }
            for _ in 0..3 {
                let refused = life.volumes.remove_snapshot(&name("v"), &name("s")).await.unwrap_err();
                assert!(
                    refused.is(Kind::Refused) && refused.to_string().contains("locked until"),
                    "{refused}"
                );
                life.sleep(MINUTE).await;
            }
            // Nor is one made that would be years too long, and never shortened.
            let refused = life.volumes.lock_snapshot(&name("v"), &name("s"), LockEnd::In(20 * HOUR)).await;
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("ahead of"), "{refused}");
            life.process.clock_back(YEARS);
            life.sleep(12 * HOUR).await;
            life.volumes.remove_snapshot(&name("v"), &name("s")).await.unwrap();
        });
    }
}

#[test]
fn a_clock_that_is_ahead_empties_no_trash() {
    run(5, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, 9000)).await.unwrap();
        drop(v);
        Trash(&life.volumes).discard(&name("v")).await.unwrap();
        let kept_ms = 24 * HOUR;
        life.process.clock_ahead(YEARS);
        for _ in 0..3 {
            let emptied = Trash(&life.volumes).empty_old(kept_ms).await;
            assert!(
                emptied.gone == 0 && emptied.failed.is_ok() && emptied.oldest_ms.is_some(),
                "{emptied:?}"
            );
            life.sleep(MINUTE).await;
        }
        life.process.clock_back(YEARS);
        assert_eq!(Trash(&life.volumes).empty_old(kept_ms).await.gone, 0);
        life.sleep(25 * HOUR).await;
        assert_eq!(Trash(&life.volumes).empty_old(kept_ms).await.gone, 1);
    });
}

/// One that stands by its jump is believed in the end: a host that slept, or was set right.
#[test]
fn a_clock_that_stays_ahead_is_believed_after_an_hour() {
    run(6, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        drop(volume(&life, FlushMode::Pool).await);
        Trash(&life.volumes).discard(&name("v")).await.unwrap();
        life.process.clock_ahead(Duration::from_secs(3 * 24 * 3600));
        let kept_ms = 24 * HOUR;
        assert_eq!(Trash(&life.volumes).empty_old(kept_ms).await.gone, 0);
        life.sleep(HOUR + MINUTE).await;
        assert_eq!(Trash(&life.volumes).empty_old(kept_ms).await.gone, 1);
    });
}
