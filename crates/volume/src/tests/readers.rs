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
        let first = read.read_by_client(false).await.unwrap();
        let second = read.read_by_client(false).await.unwrap();
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
        let id = life.volumes.id(&name("v")).await.unwrap();
        let _owner = w.read_by_client(false).await.unwrap();
        assert!(life.volumes.engine().readers.of(id).noted.lock().await.is_none());
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
            read.read_by_client(false).await.unwrap()
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
        let reading = read.read_by_client(false).await.unwrap();
        assert!(other.rt.now().since(began) < Duration::from_secs(3));
        site.reach(0..2, Reach::Up);
        assert!(read.read(0, 4096).await.unwrap() == bytes(1, 4096));
        // A note that comes late goes with the client as any other.
        other.sleep(60_000).await;
        drop(reading);
        other.sleep(1_000).await;
        life.volumes.remove(&name("v")).await.unwrap();
    });
}

/// Owned by the first host, where a client uses it, and attached at the second one.
async fn owned_and_attached(site: &super::site::Site) -> (Life, Life, Arc<Volume>, Arc<Volume>) {
    let (life, other) = (site.machine(1).found().await, site.machine(2).start().await);
    volume(&life, FlushMode::Local).await;
    life.volumes.set(&name("v"), &["handover=ask".to_owned()]).await.unwrap();
    let v = life.volumes.open(&name("v"), OpenMode::Attach).await.unwrap();
    v.write(0, bytes(1, 4096)).await.unwrap();
    let w = other.volumes.open(&name("v"), OpenMode::Attach).await.unwrap();
    (life, other, v, w)
}

/// Of hosts that have just handed the volume over it is known that clients use it there.
#[test]
fn who_hands_a_volume_over_is_known_to_use_it() {
    run(44, "2+1", |site| async move {
        let (life, other, v, w) = owned_and_attached(&site).await;
        assert!(matches!(v.known(), crate::handle::Known::Live(_)));
        let first = v.read_by_client(false).await.unwrap();
        w.write(4096, bytes(2, 4096)).await.unwrap();
        other.volumes.release(&name("v")).await.unwrap();
        assert!(other.volumes.remove(&name("v")).await.unwrap_err().is(Kind::Owned));
        // Also behind a client that came when it owned the volume and one that came later.
        v.write(0, bytes(3, 4096)).await.unwrap();
        let second = v.read_by_client(false).await.unwrap();
        drop(first);
        life.sleep(1_000).await;
        assert!(w.read(0, 4096).await.unwrap() == bytes(3, 4096));
        other.volumes.release(&name("v")).await.unwrap();
        assert!(other.volumes.remove(&name("v")).await.unwrap_err().is(Kind::Owned));
        drop(second);
        life.sleep(1_000).await;
        other.volumes.remove(&name("v")).await.unwrap();
    });
}

/// Who was said to be gone, and is not, is noted again with the next client, and before it lets go of the volume.
#[test]
fn a_note_that_another_host_has_dropped_is_made_again() {
    run(45, "2+1", |site| async move {
        let (_life, other, v, w) = owned_and_attached(&site).await;
        assert!(w.read(0, 4096).await.unwrap() == bytes(1, 4096));
        let first = v.read_by_client(false).await.unwrap();
        other.volumes.release(&name("v")).await.unwrap();
        let refused = async || other.volumes.check_remove(&name("v"), true).await.unwrap_err();
        assert!(refused().await.is(Kind::Owned));
        let drop_notes = async || {
            other.volumes.drop_readers(&name("v"), true).await.unwrap();
            other.volumes.check_remove(&name("v"), true).await.unwrap();
        };
        drop_notes().await;
        let _second = v.read_by_client(false).await.unwrap();
        assert!(refused().await.is(Kind::Owned));
        drop_notes().await;
        v.write(0, bytes(2, 4096)).await.unwrap();
        assert!(w.read(0, 4096).await.unwrap() == bytes(2, 4096));
        other.volumes.release(&name("v")).await.unwrap();
        assert!(refused().await.is(Kind::Owned));
        drop(first);
    });
}

/// From the moment on when its clients leave for the next process of the host until that has noted them itself.
#[test]
fn clients_that_another_process_goes_on_with_stay_noted() {
    run(46, "2+1", |site| async move {
        let (life, other, v, w) = owned_and_attached(&site).await;
        let noted = w.read_by_client(false).await.unwrap();
        v.release().await.unwrap();
        let refused = async || life.volumes.check_remove(&name("v"), true).await.unwrap_err();
        assert!(refused().await.is(Kind::Owned));
        other.volumes.keep_notes();
        drop(noted);
        other.sleep(10_000).await;
        other.volumes.leave().await;
        assert!(refused().await.is(Kind::Owned));
        let other = other.crash().start().await;
        let w = other.volumes.open(&name("v"), OpenMode::Attach).await.unwrap();
        let noted = w.read_by_client(true).await.unwrap();
        assert!(refused().await.is(Kind::Owned));
        drop(noted);
        other.sleep(1_000).await;
        life.volumes.check_remove(&name("v"), true).await.unwrap();
        // An owner goes on with what it had noted when it stood by: nothing of that is left behind its clients.
        let noted = w.read_by_client(false).await.unwrap();
        assert!(w.read(0, 4096).await.unwrap() == bytes(1, 4096));
        other.volumes.keep_notes();
        drop(noted);
        other.volumes.leave().await;
        let other = other.crash().start().await;
        let w = other.volumes.open(&name("v"), OpenMode::Attach).await.unwrap();
        drop(w.read_by_client(true).await.unwrap());
        other.sleep(1_000).await;
        w.release().await.unwrap();
        life.volumes.check_remove(&name("v"), true).await.unwrap();
        // The other process does not come, and neither do the clients.
        let noted = w.read_by_client(false).await.unwrap();
        other.volumes.leave().await;
        drop(noted);
        other.volumes.stay();
        other.sleep(5_000).await;
        assert!(refused().await.is(Kind::Owned));
        other.sleep(60_000).await;
        life.volumes.check_remove(&name("v"), true).await.unwrap();
    });
}
