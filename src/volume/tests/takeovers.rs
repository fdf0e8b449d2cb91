//! Owners that end, are shut out, or come back.

use super::*;

#[test]
fn a_pool_flush_survives_the_loss_of_the_host() {
    run(3, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        let data = bytes(1, 2 * MIB as usize);
        v.write(500, data.clone()).await.unwrap();
        v.flush().await.unwrap();
        let other = site.machine(2).start().await;
        let refused = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
        assert!(refused.is(Kind::Owned) && refused.to_string().contains("host1"), "{refused}");
        let done = other.volumes.take_over(&name("v"), false).await.unwrap();
        assert_eq!(done.from.as_deref(), Some("host1"));
        let w = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(w.read(500, data.len() as u64).await.unwrap() == data);
        w.write(0, Bytes::from_static(b"mine now")).await.unwrap();
        w.flush().await.unwrap();
        // The first one's flush can't be confirmed any more.
        v.write(0, Bytes::from_static(b"too late")).await.unwrap();
        let fenced = v.flush().await.unwrap_err();
        assert!(fenced.is(Kind::Fenced) && fenced.to_string().contains("host2"), "{fenced}");
        assert!(v.write(0, Bytes::from_static(b"x")).await.unwrap_err().is(Kind::Fenced));
        assert_eq!(w.read(0, 8).await.unwrap(), "mine now");
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert_eq!(info.kept_journals.len(), 1, "{info:?}");
    });
}

#[test]
fn a_local_owner_notices_within_its_confirm_time() {
    run(4, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        life.sleep(20_000).await;
        let other = site.machine(2).start().await;
        other.volumes.take_over(&name("v"), false).await.unwrap();
        v.write(0, bytes(2, 4096)).await.unwrap();
        life.sleep(5_000).await;
        assert!(v.write(0, bytes(2, 4096)).await.unwrap_err().is(Kind::Fenced));
        let w = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(w.read(0, 4096).await.unwrap() == bytes(1, 4096));
    });
}

#[test]
fn writes_go_on_with_a_store_away_and_come_back_to_full() {
    run(5, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, 100_000)).await.unwrap();
        v.flush().await.unwrap();
        site.reach(0..1, Reach::Refuses);
        v.write(0, bytes(2, 100_000)).await.unwrap();
        v.flush().await.unwrap();
        assert!(v.read(0, 100_000).await.unwrap() == bytes(2, 100_000));
        // w = 2 + 1 = N: it took the degrade time.
        assert!(life.volumes.info(&name("v")).await.unwrap().degraded);
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(v.read(0, 100_000).await.unwrap() == bytes(2, 100_000));
        v.write(5000, bytes(3, 100_000)).await.unwrap();
        v.flush().await.unwrap();
        site.reach(0..1, Reach::Up);
        life.sleep(60_000).await;
        assert!(!life.volumes.info(&name("v")).await.unwrap().degraded);
    });
}

#[test]
fn what_a_killed_process_left_short_is_mended() {
    for seed in 0..10 {
        run(seed, "4+2", |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Pool).await;
            v.write(0, bytes(1, 100_000)).await.unwrap();
            v.flush().await.unwrap();
            site.reach(0..1, Reach::Refuses);
            v.write(0, bytes(2, 100_000)).await.unwrap();
            v.flush().await.unwrap();
            // Killed before it could write down what that store lacks.
            let machine = life.crash();
            site.reach(0..1, Reach::Up);
            let life = machine.start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            v.write(0, bytes(3, 4096)).await.unwrap();
            v.flush().await.unwrap();
            // Before the checkpoint of an idle volume puts new chunks.
            life.sleep(50_000).await;
            assert_eq!(life.volumes.deps().pool.pending(), 0);
            let found = life.volumes.deps().pool.scrub(&life.volumes, &|_| {}).await.unwrap();
            // A register's copy that the killed process still owed is repair's.
            let shards = found.missing.iter().filter(|f| !f.key.starts_with("reg/"));
            assert_eq!(shards.count(), 0, "nothing pending, and yet: {found:?}");
        });
    }
}

#[test]
fn an_outage_holds_and_nothing_fails() {
    run(6, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        site.reach(0..3, Reach::Silent);
        for i in 0..20 {
            v.write(i * 4096, bytes(i, 4096)).await.unwrap();
            v.flush().await.unwrap();
            life.sleep(1_000).await;
        }
        site.reach(0..3, Reach::Up);
        life.sleep(60_000).await;
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert_eq!((info.unsent_bytes, info.trouble), (0, None));
        for i in 0..20 {
            assert!(v.read(i * 4096, 4096).await.unwrap() == bytes(i, 4096));
        }
    });
}
