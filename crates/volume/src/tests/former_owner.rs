//! What a host that lost a volume still says, and what it keeps others from.

use super::*;
use windlass_store::Store as _;

/// Takes over, and writes what the former owner does not have.
async fn taken(other: &Life) -> Arc<Volume> {
    let w = other.volumes.open(&name("v"), OpenMode::TakeOver { accept_loss: false }).await.unwrap();
    w.write(0, bytes(2, 4096)).await.unwrap();
    w.flush().await.unwrap();
    w
}

/// Who only reads, or flushes what is flushed, hears within 5 s that the volume is another host's, however long nothing was
/// written before.
#[test]
fn reads_and_flushes_of_a_former_owner_end_in_time() {
    for (seed, mode) in
        [(1, FlushMode::Local), (2, FlushMode::Pool), (3, FlushMode::Local), (4, FlushMode::Pool)]
    {
        run(seed, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let other = site.machine(2).start().await;
            let v = volume(&life, mode).await;
            v.write(0, bytes(1, 4096)).await.unwrap();
            v.flush().await.unwrap();
            let idle = [6_000, 400_000][site.world.below(2) as usize];
            life.sleep(idle).await;
            let _w = taken(&other).await;
            life.sleep(site.world.below(100_000)).await;
            let (began, reads) = (life.rt.now(), seed < 3);
            let ended = loop {
                let asked = match reads {
                    true => v.read(0, 4096).await.map(|_| ()),
                    false => v.flush().await,
                };
                if let Err(e) = asked {
                    break e;
                }
                let took = life.rt.now().since(began);
                assert!(took < Duration::from_secs(5), "answered after {took:?}");
                life.sleep(300).await;
            };
            assert!(ended.is(Kind::Fenced) && ended.to_string().contains("host2"), "{ended}");
        });
    }
}

/// A look every 4 s while somebody reads; none while nobody does.
#[test]
fn the_head_is_looked_at_while_somebody_asks_and_else_not() {
    run(5, "2+1", |mut site| async move {
        site.count();
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        life.sleep(200_000).await;
        let registers = |site: &super::site::Site| {
            let lines = site.counted.iter().flat_map(|s| s.counters().unwrap().snapshot());
            lines
                .filter(|line| line.cause == windlass_store::Cause::Register)
                .map(|line| line.requests)
                .sum::<u64>()
        };
        let before = registers(&site);
        life.sleep(600_000).await;
        assert_eq!(registers(&site), before, "an idle volume asks nothing");
        for _ in 0..400 {
            v.read(0, 4096).await.unwrap();
            v.flush().await.unwrap();
            life.sleep(100).await;
        }
        let looks = (registers(&site) - before) / site.stores.len() as u64;
        assert!((9..=11).contains(&looks), "{looks} looks in 40 s");
    });
}

/// The user takes a volume over whose owner is alive, with clients that come again at once when they are shut out.
#[test]
fn a_take_over_is_not_overtaken_by_clients_that_come_again() {
    for seed in 0..20 {
        run(seed, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let other = site.machine(2).start().await;
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, bytes(1, 4096)).await.unwrap();
            v.flush().await.unwrap();
            for store in &site.stores {
                store.faults(|f| f.latency = (Duration::from_millis(20), Duration::from_millis(60)));
            }
            let (volumes, rt) = (life.volumes.clone(), life.rt.clone());
            let clients = life.rt.spawn(async move {
                let mut refused = 0;
                let mut open = Some(v);
                for i in 0..400 {
                    let done = match &open {
                        Some(v) => v.write(4096, bytes(i, 4096)).await,
                        None => volumes.open(&name("v"), OpenMode::Attach).await.map(|v| open = Some(v)),
                    };
                    if let Err(e) = done {
                        assert!(matches!(e.kind(), Kind::Fenced | Kind::Owned | Kind::Unavailable), "{e}");
                        (open, refused) = (None, refused + 1);
                    }
                    rt.sleep(Duration::from_millis(30)).await;
                }
                refused
            });
            other.sleep(300 + site.world.below(2_000)).await;
            let taken = other.volumes.take_over(&name("v"), false).await.unwrap();
            assert_eq!(taken.from.as_deref(), Some("host1"));
            let w = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            w.write(0, bytes(5, 4096)).await.unwrap();
            w.flush().await.unwrap();
            assert!(clients.await.unwrap() > 0);
            w.flush().await.unwrap();
        });
    }
}

/// Who began to take a volume over and is gone is waited for in vain: for a time, and no longer.
#[test]
fn a_claim_whose_host_is_gone_holds_the_owner_up_for_a_time() {
    run(30, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let other = site.machine(2).start().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        other.claim().await;
        drop(other.crash());
        let life = life.crash().start().await;
        let began = life.rt.now();
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        let took = life.rt.now().since(began);
        assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(40), "{took:?}");
        assert!(v.read(0, 4096).await.unwrap() == bytes(1, 4096));
    });
}

#[test]
fn a_former_owner_denies_no_snapshot_of_the_owner_there_is() {
    run(31, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let other = site.machine(2).start().await;
        let v = volume(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        life.sleep(10_000).await;
        let w = taken(&other).await;
        snapshot_group(&[(w.clone(), name("s"))], true).await.unwrap();
        other.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap();
        let view = life.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap();
        assert!(view.read(0, 4096).await.unwrap() == bytes(2, 4096));
        // And where the session was asked before it knew.
        let listed = life.volumes.snapshot_names(&name("v")).await.unwrap();
        assert!(listed.contains(&name("s")), "{listed:?}");
        let listed = life.volumes.snapshots(&name("v")).await.unwrap();
        assert!(listed.iter().any(|line| line.name == name("s")));
    });
}

#[test]
fn each_of_two_take_overs_within_a_second_keeps_what_it_found() {
    run(32, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let others = [site.machine(2).start().await, site.machine(3).start().await];
        for other in &others {
            let took = other.volumes.take_over(&name("v"), false).await.unwrap();
            assert!(took.notes.iter().any(|note| note.contains("@taken-over-")), "{took:?}");
        }
        assert_eq!(others[1].volumes.snapshot_names(&name("v")).await.unwrap().len(), 2);
    });
}
