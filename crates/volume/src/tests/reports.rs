//! What is told of a volume while something is wrong.

use super::*;
use windlass_base::RegisterId;
use windlass_store::{Cause, Store as _, When};

#[test]
fn an_outage_shows_with_its_age_and_what_is_left_of_the_journal() {
    run(31, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        life.sleep(30_000).await;
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().trouble, None);
        site.reach(0..3, Reach::Silent);
        v.write(0, bytes(2, 16 * MIB as usize)).await.unwrap();
        v.flush().await.unwrap();
        life.sleep(40_000).await;
        let began = life.rt.now();
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert!(life.rt.now().since(began) < Duration::from_secs(5), "known here, so it is told soon");
        let why = info.trouble.unwrap();
        assert!(why.starts_with("nothing can be stored: 3 of 3 stores are away"), "{why}");
        assert!(info.trouble_ms.unwrap() >= 30_000, "{info:?}", info = info.trouble_ms);
        assert_eq!(info.unsent_bytes, 16 * MIB);
        let (room, full) = (info.room_bytes.unwrap(), info.full_in_ms.unwrap());
        // The overlay's quarter of 256 MiB is less than the journal.
        assert!(room <= 48 * MIB && room > 40 * MIB, "{room}");
        let pace = (16 * MIB) as f64 / info.unsent_age_ms.unwrap() as f64;
        assert!((full as f64 * pace / room as f64 - 1.0).abs() < 0.01, "{full}");
        // A client that comes now is served as well.
        let again = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(again.read(0, 4096).await.unwrap() == bytes(2, 4096));
        site.reach(0..3, Reach::Up);
        life.sleep(60_000).await;
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert_eq!((info.unsent_bytes, info.trouble, info.full_in_ms), (0, None, None));
    });
}

#[test]
fn a_volume_that_is_not_open_shows_what_its_journal_holds() {
    run(32, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        life.sleep(30_000).await;
        site.reach(0..3, Reach::Refuses);
        v.write(0, bytes(2, 3 * MIB as usize)).await.unwrap();
        v.flush().await.unwrap();
        let machine = life.crash();
        site.reach(0..3, Reach::Up);
        let life = machine.start().await;
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert!(!info.open_here && info.kept_journals.is_empty());
        assert!(info.unsent_bytes >= 3 * MIB && info.journal_bytes >= 3 * MIB, "{info:?}");
        assert_eq!(info.unsent_age_ms, None);
        // Another takes it over: those writes are in no volume, and lie where they are until it is opened here.
        let other = site.machine(2).start().await;
        let taken = other.volumes.take_over(&name("v"), true).await.unwrap();
        assert!(taken.took_ms > 0);
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert_eq!((info.unsent_bytes, info.kept_journals.len()), (0, 1), "{info:?}");
        assert!(info.kept_journals[0].ends_with("journal"));
        // Also when the new owner has written more than was lost, and gives it up.
        let newer = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        for block in 0..8 {
            newer.write(block * MIB, bytes(9, MIB as usize)).await.unwrap();
        }
        newer.flush().await.unwrap();
        other.sleep(60_000).await;
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert_eq!((info.unsent_bytes, info.kept_journals.len()), (0, 1), "{info:?}");
        newer.release().await.unwrap();
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert_eq!((info.released, info.kept_journals.len()), (true, 1), "{info:?}");
        drop(newer);
        other.volumes.release(&name("v")).await.unwrap();
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        v.write(0, bytes(3, 4096)).await.unwrap();
        let info = life.volumes.info(&name("v")).await.unwrap();
        let kept = info.kept_journals[0].file_name().unwrap().to_str().unwrap().to_owned();
        assert!(info.kept_journals.len() == 1 && kept.starts_with("journal.kept."), "{kept}");
    });
}

#[test]
fn a_release_that_is_given_up_lets_writes_go_on() {
    run(33, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        site.reach(0..3, Reach::Refuses);
        assert!(life.rt.timeout(Duration::from_secs(5), v.release()).await.is_none());
        let write = v.write(4096, bytes(2, 4096));
        life.rt.timeout(Duration::from_secs(1), write).await.expect("writes go on").unwrap();
        v.flush().await.unwrap();
        site.reach(0..3, Reach::Up);
        life.sleep(60_000).await;
        assert!(!life.volumes.info(&name("v")).await.unwrap().released, "nothing of it is done later");
        v.release().await.unwrap();
        assert!(life.volumes.info(&name("v")).await.unwrap().released);
        assert!(v.read(4096, 4096).await.unwrap() == bytes(2, 4096));
    });
}

#[test]
fn a_journal_of_which_all_is_in_the_volume_is_not_named() {
    run(34, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 3 * MIB as usize)).await.unwrap();
        v.flush().await.unwrap();
        life.sleep(30_000).await;
        let machine = life.crash();
        let life = machine.start().await;
        assert!(life.volumes.info(&name("v")).await.unwrap().journal_bytes > 0, "it still has its records");
        let other = site.machine(2).start().await;
        other.volumes.take_over(&name("v"), true).await.unwrap();
        let newer = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        newer.write(0, bytes(9, MIB as usize)).await.unwrap();
        newer.flush().await.unwrap();
        other.sleep(60_000).await;
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert_eq!((info.unsent_bytes, info.kept_journals.len()), (0, 0), "{info:?}");
    });
}

#[test]
fn what_nobody_waits_for_any_more_is_no_trouble() {
    run(35, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        site.reach(0..3, Reach::Refuses);
        let mut write = Box::pin(v.write(0, bytes(1, 4096)));
        assert!(life.rt.timeout(Duration::from_secs(60), &mut write).await.is_none());
        let why = life.volumes.failure(&name("v")).unwrap();
        assert!(why.starts_with("I/O waits"), "{why}");
        drop(write);
        assert_eq!(life.volumes.failure(&name("v")), None);
    });
}

/// What can't be told is not taken for another host's: opening it says why, and is tried again.
#[test]
fn a_volume_whose_head_cannot_be_read_is_among_those_that_were_left_open() {
    run(33, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let head = life.volumes.engine().pool.register(RegisterId(v.id().0)).key();
        drop(v);
        let life = life.crash().start().await;
        assert_eq!(life.volumes.left_open().await.unwrap(), [name("v")]);
        for store in &site.stores {
            store.contents().put(&head, bytes(9, 100), When::Always, Cause::Walk).await.unwrap();
        }
        assert_eq!(life.volumes.left_open().await.unwrap(), [name("v")]);
        let why = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
        assert!(!why.is(Kind::Owned), "{why}");
    });
}
