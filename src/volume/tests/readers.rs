//! What clients of another host read is removed by nobody.

use super::*;

#[test]
fn what_another_host_reads_is_not_removed() {
    run(41, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        life.volumes.release(&name("v")).await.unwrap();
        let other = site.machine(2).start().await;
        let read = other.volumes.open(&name("v"), OpenMode::Attach).await.unwrap();
        let first = other.volumes.read_by_client(&name("v"), &read).await.unwrap().expect("it is nobody's");
        let second = other.volumes.read_by_client(&name("v"), &read).await.unwrap();
        let refused = async || {
            let check = life.volumes.check_remove(&name("v"), true).await.unwrap_err();
            let why = life.volumes.remove(&name("v")).await.unwrap_err();
            assert!(check.is(Kind::Owned) && why.is(Kind::Owned), "{check}; {why}");
            assert!(why.to_string().contains("host id"), "{why}");
        };
        refused().await;
        assert!(read.read(0, 4096).await.unwrap() == bytes(1, 4096));
        drop(first);
        life.sleep(1_000).await;
        refused().await;
        drop(second);
        life.sleep(1_000).await;
        life.volumes.check_remove(&name("v"), true).await.unwrap();
        // An owner is known by that.
        let w = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        w.write(0, bytes(2, 4096)).await.unwrap();
        assert!(life.volumes.read_by_client(&name("v"), &w).await.unwrap().is_none());
        life.volumes.remove(&name("v")).await.unwrap();
        let gone = other.volumes.open(&name("v"), OpenMode::Attach).await.unwrap_err();
        assert!(gone.is(Kind::NotFound), "{gone}");
    });
}

#[test]
fn the_note_of_a_host_that_was_cut_off_goes_with_its_next_run_or_by_consent() {
    run(42, "1+0", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        life.volumes.release(&name("v")).await.unwrap();
        let attach = async |life: &Life| {
            let read = life.volumes.open(&name("v"), OpenMode::Attach).await.unwrap();
            life.volumes.read_by_client(&name("v"), &read).await.unwrap().expect("it is nobody's")
        };
        let other = site.machine(2).start().await;
        let noted = attach(&other).await;
        let machine = other.crash();
        // The number is of a run that is no more: its end says nothing.
        std::mem::forget(noted);
        assert!(life.volumes.remove(&name("v")).await.unwrap_err().is(Kind::Owned));
        let other = machine.start().await;
        other.volumes.drop_readers(&name("v"), false).await.unwrap();
        life.volumes.check_remove(&name("v"), true).await.unwrap();
        let noted = attach(&other).await;
        let _machine = other.crash();
        std::mem::forget(noted);
        assert!(life.volumes.remove(&name("v")).await.unwrap_err().is(Kind::Owned));
        life.volumes.drop_readers(&name("v"), true).await.unwrap();
        life.volumes.remove(&name("v")).await.unwrap();
    });
}

/// As one whose keys can only read.
#[test]
fn who_cannot_note_it_in_time_reads_on() {
    run(43, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        life.volumes.release(&name("v")).await.unwrap();
        let other = site.machine(2).start().await;
        let read = other.volumes.open(&name("v"), OpenMode::Attach).await.unwrap();
        site.reach(0..2, Reach::Silent);
        let began = other.rt.now();
        assert!(other.volumes.read_by_client(&name("v"), &read).await.unwrap().is_none());
        assert!(other.rt.now().since(began) < Duration::from_secs(3));
        site.reach(0..2, Reach::Up);
        assert!(read.read(0, 4096).await.unwrap() == bytes(1, 4096));
        // A note that comes late is nobody's, and goes.
        other.sleep(60_000).await;
        life.volumes.remove(&name("v")).await.unwrap();
    });
}
