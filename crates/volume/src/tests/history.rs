//! Snapshots that a volume takes by itself.

use std::collections::BTreeMap;

use super::*;

const MINUTE: u64 = 60_000;

/// Hours of writing: any minute that the plan keeps can be cloned, and equals what a witness saw.
#[test]
fn any_kept_minute_can_be_had_again() {
    run(1, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        life.volumes.set(&name("v"), &["history=1m:1h,20m:6h".to_owned()]).await.unwrap();
        snapshot_group(&[(v.clone(), name("mine"))], true).await.unwrap();
        // What the volume held at the end of each minute.
        let mut witness: BTreeMap<u64, u64> = BTreeMap::new();
        for i in 0..240u64 {
            v.write(0, bytes(i, 8192)).await.unwrap();
            life.sleep(MINUTE).await;
            witness.insert(life.rt.wall_ms(), i);
        }
        let now = life.rt.wall_ms();
        let marks = life.volumes.history(&name("v")).await.unwrap();
        assert!((61 + 9..=61 + 12 + 17).contains(&marks.len()), "{} of 240", marks.len());
        for back in [2, 7, 30, 55] {
            let at = now - back * MINUTE;
            let found = life.volumes.snapshot_at(&name("v"), at).await.unwrap();
            let taken = marks.iter().find(|m| m.name == found).unwrap().created_ms;
            let newest = marks.iter().map(|m| m.created_ms).filter(|ms| *ms <= at).max();
            assert_eq!(Some(taken), newest, "{back} minutes ago");
            // A mark is due a minute after the last, and takes its time.
            assert!(at - taken <= MINUTE + 1_000, "{back} minutes ago: {} ms before", at - taken);
            let c = name(&format!("c{back}"));
            life.volumes.clone_snapshot(&name("v"), &found, &c).await.unwrap();
            let clone = life.volumes.open(&c, OpenMode::Normal).await.unwrap();
            // The witness of the first moment that is not before the mark. In the very millisecond of one, the next write may be in it.
            let (then, i) = witness.range(taken..).next().unwrap();
            let held = clone.read(0, 8192).await.unwrap();
            let is = |n: u64| held == bytes(n, 8192);
            assert!(is(*i) || *then == taken && is(i + 1), "{back} minutes ago");
        }
        let long_ago = life.volumes.snapshot_at(&name("v"), now - 200 * MINUTE).await.unwrap();
        assert!(long_ago.as_str().starts_with("history-"), "{long_ago}");
        let too_old = life.volumes.snapshot_at(&name("v"), 5).await.unwrap_err();
        assert!(too_old.is(Kind::NotFound), "{too_old}");
        // Listings show what people took, and nothing is taken while nothing is written.
        let shown = life.volumes.snapshots(&name("v")).await.unwrap();
        assert!(shown.len() == 1 && shown[0].name == name("mine"));
        let before = life.volumes.history(&name("v")).await.unwrap().len();
        life.sleep(30 * MINUTE).await;
        let after = life.volumes.history(&name("v")).await.unwrap();
        assert!(after.len() <= before + 1, "{before}, {}", after.len());
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert_eq!((info.snapshots, info.history_marks), (1, after.len() as u64));
        // What was cloned stays, whatever its age.
        let held =
            marks.iter().find(|m| now - m.created_ms > 50 * MINUTE && now - m.created_ms < 56 * MINUTE);
        let held = held.unwrap().name.clone();
        for i in 0..90u64 {
            v.write(4096, bytes(i, 4096)).await.unwrap();
            life.sleep(MINUTE).await;
        }
        let kept = life.volumes.history(&name("v")).await.unwrap();
        let cloned: Vec<_> = life.volumes.list(Duration::from_secs(15)).await.unwrap();
        let parents: Vec<_> = cloned.iter().filter_map(|(_, i)| i.as_ref().ok()?.parent.clone()).collect();
        assert!(parents.iter().all(|p| kept.iter().any(|m| m.name == p.snapshot)), "{held}: {kept:?}");
        // Off, and a rollback to a minute.
        life.volumes.set(&name("v"), &["history=none".to_owned()]).await.unwrap();
        let to = kept[kept.len() / 2].clone();
        life.volumes.roll_back(&name("v"), &to.name, None).await.unwrap();
        life.sleep(10 * MINUTE).await;
        let report = life.volumes.check(&name("v")).await.unwrap();
        assert!(report.wrong.is_empty(), "{report:#?}");
    });
}

/// A host that is cut off goes on with the history that it has.
#[test]
fn history_goes_on_after_a_power_cut_and_elsewhere() {
    run(2, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        life.volumes.set(&name("v"), &["history=10s:10m".to_owned()]).await.unwrap();
        let write = async |v: &Volume, life: &Life, n: u64| {
            for i in 0..n {
                v.write(i * 4096, bytes(i, 4096)).await.unwrap();
                v.flush().await.unwrap();
                life.sleep(10_000).await;
            }
        };
        write(&v, &life, 6).await;
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        let before = life.volumes.history(&name("v")).await.unwrap().len();
        assert!(before >= 5, "{before}");
        write(&v, &life, 6).await;
        life.volumes.release(&name("v")).await.unwrap();
        let other = site.machine(2).start().await;
        let v = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(other.volumes.history(&name("v")).await.unwrap().len() >= before + 5);
        write(&v, &other, 6).await;
        assert!(other.volumes.history(&name("v")).await.unwrap().len() >= before + 10);
    });
}
