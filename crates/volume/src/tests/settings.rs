//! Settings that are changed while the volume is used.

use super::*;

async fn set(life: &Life, assignments: &[&str]) -> windlass_base::Result<VolumeInfo> {
    let assignments: Vec<String> = assignments.iter().map(|one| (*one).to_owned()).collect();
    life.volumes.set(&name("v"), &assignments).await?;
    life.volumes.info(&name("v")).await
}

#[test]
fn once_flush_is_pool_the_loss_of_the_host_costs_nothing_that_was_flushed() {
    for seed in 0..5 {
        run(seed, "2+1", |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, bytes(1, 100_000)).await.unwrap();
            v.flush().await.unwrap();
            let info = set(&life, &["flush=pool"]).await.unwrap();
            assert_eq!((info.flush, v.settings().flush), (FlushMode::Pool, FlushMode::Pool));
            if seed % 2 == 0 {
                v.write(200_000, bytes(2, 100_000)).await.unwrap();
                v.flush().await.unwrap();
            }
            life.process.kill();
            let other = site.machine(2).start().await;
            let done = other.volumes.take_over(&name("v"), false).await.unwrap();
            assert!(done.notes.iter().any(|n| n.contains("all flushed writes")), "{:?}", done.notes);
            let w = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(w.read(0, 100_000).await.unwrap() == bytes(1, 100_000), "flushed when it meant local");
            if seed % 2 == 0 {
                assert!(w.read(200_000, 100_000).await.unwrap() == bytes(2, 100_000));
            }
        });
    }
}

#[test]
fn a_change_that_is_given_up_in_an_outage_changes_nothing() {
    run(11, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 100_000)).await.unwrap();
        site.reach(0..3, Reach::Silent);
        let wait = Duration::from_secs(20);
        let set_pool = set(&life, &["flush=pool", "max-tail=1s"]);
        assert!(
            life.rt.timeout(wait, set_pool).await.is_none(),
            "what was flushed has to reach the pool first"
        );
        assert_eq!(v.settings(), small(FlushMode::Local));
        v.write(0, bytes(2, 100_000)).await.unwrap();
        life.rt.timeout(wait, v.flush()).await.expect("a flush means this host's disk").unwrap();
        site.reach(0..3, Reach::Up);
        life.sleep(10_000).await;
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().flush, FlushMode::Local);
    });
}

#[test]
fn the_owner_changes_settings_and_of_a_released_volume_anybody() {
    run(12, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        let other = site.machine(2).start().await;
        // Open inertly here: it follows when it claims.
        assert_eq!(set(&other, &["flush=pool"]).await.unwrap().flush, FlushMode::Pool);
        v.write(0, bytes(1, 4096)).await.unwrap();
        assert_eq!(v.settings().flush, FlushMode::Pool);
        let refused = set(&other, &["flush=local"]).await.unwrap_err();
        assert!(refused.is(Kind::Owned) && refused.to_string().contains("host1"), "{refused}");
        for bad in ["flush=disk", "flush", "size=1", "journal-size=1M", "max-tail=1"] {
            let refused = set(&life, &["compression=none", bad]).await.unwrap_err();
            assert!(refused.is(Kind::Usage), "{bad}: {refused}");
        }
        let info = set(&life, &["max-tail=1s", "journal-size=256M", "compression=none"]).await.unwrap();
        let settings = info.settings();
        assert_eq!((settings.max_tail_ms, settings.journal_size), (1_000, 256 * MIB));
        assert_eq!(v.settings(), settings, "all of them in force");
        // Sooner in the pool than before.
        v.write(0, bytes(2, 4096)).await.unwrap();
        life.sleep(1_200).await;
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().unsent_bytes, 0);
        // Of a daemon that was killed: the folder owns the volume, and nobody has it open.
        let life = life.crash().start().await;
        assert_eq!(set(&life, &["flush=local"]).await.unwrap().flush, FlushMode::Local);
        assert!(life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap().read(0, 4096).await.is_ok());
    });
}

#[test]
fn what_is_written_after_the_change_is_compressed_by_the_new_codec() {
    run(13, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        let text: Bytes =
            (0..100_000u32).flat_map(|i| format!("line {} of text\n", i * 7).into_bytes()).collect();
        let mut stored = Vec::new();
        for (i, codec) in ["none", "lz4", "zstd"].into_iter().enumerate() {
            set(&life, &[&format!("compression={codec}")]).await.unwrap();
            let before = life.volumes.info(&name("v")).await.unwrap().logged_bytes;
            v.write(i as u64 * 4 * MIB, text.clone()).await.unwrap();
            v.flush().await.unwrap();
            stored.push(life.volumes.info(&name("v")).await.unwrap().logged_bytes - before);
        }
        assert!(stored[0] > 2 * stored[1] && stored[1] > stored[2] * 3 / 2, "{stored:?}");
        // By another process, which has none of it in memory.
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        for i in 0..3 {
            assert!(v.read(i * 4 * MIB, text.len() as u64).await.unwrap() == text);
        }
        // A collection takes frames as they are.
        v.zero(0, 3 * MIB).await.unwrap();
        life.volumes.collect(&name("v")).await.unwrap();
        assert!(v.read(8 * MIB, text.len() as u64).await.unwrap() == text);
    });
}

#[test]
fn a_template_is_cloned_and_neither_written_to_nor_removed() {
    run(14, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 8192)).await.unwrap();
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        assert!(set(&life, &["template=true", "iops=9"]).await.unwrap().template);
        for refused in [v.write(0, bytes(2, 4096)).await, v.zero(0, 4096).await] {
            let refused = refused.unwrap_err();
            assert!(
                refused.is(Kind::ReadOnly) && refused.to_string().contains("template=false"),
                "{refused}"
            );
        }
        v.flush().await.unwrap();
        for refused in [
            life.volumes.check_remove(&name("v"), true).await,
            life.volumes.remove(&name("v")).await,
            life.volumes.check_remove_snapshot(&name("v"), &name("s"), LOOK).await,
            life.volumes.remove_snapshot(&name("v"), &name("s")).await,
        ] {
            let refused = refused.unwrap_err();
            assert!(refused.is(Kind::Refused) && refused.to_string().contains("template"), "{refused}");
        }
        let clone = life.volumes.clone_snapshot(&name("v"), &name("s"), &name("c")).await.unwrap();
        assert!(!clone.template && clone.limits.iops.is_some(), "{clone:?}");
        let c = life.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
        c.write(0, bytes(3, 4096)).await.unwrap();
        assert!(c.read(4096, 4096).await.unwrap() == bytes(1, 8192)[4096..]);
        assert!(v.read(0, 8192).await.unwrap() == bytes(1, 8192));
        // Released, and on another host.
        life.volumes.release(&name("v")).await.unwrap();
        let other = site.machine(2).start().await;
        let w = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(w.write(0, bytes(2, 4096)).await.unwrap_err().is(Kind::ReadOnly));
        assert!(other.volumes.remove(&name("v")).await.unwrap_err().is(Kind::Refused));
        set(&other, &["template=false"]).await.unwrap();
        w.write(0, bytes(2, 4096)).await.unwrap();
        // Whoever opened it before it became one, when nobody owned it.
        other.volumes.release(&name("v")).await.unwrap();
        set(&life, &["template=true"]).await.unwrap();
        assert!(!w.settings().template, "it is not told");
        assert!(w.write(0, bytes(4, 4096)).await.unwrap_err().is(Kind::ReadOnly));
        assert!(w.read(0, 4096).await.unwrap() == bytes(2, 4096));
    });
}
