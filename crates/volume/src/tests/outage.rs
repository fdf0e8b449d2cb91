//! `on-outage`: what waits for stores that are away waits on, or fails after a while.

use super::*;

async fn opened(life: &Life, settings: &[&str]) -> std::sync::Arc<Volume> {
    let v = volume(life, FlushMode::Pool).await;
    let settings: Vec<String> = settings.iter().map(|one| (*one).to_owned()).collect();
    life.volumes.set(&name("v"), &settings).await.unwrap();
    v
}

#[test]
fn what_waits_for_stores_fails_after_its_time_and_nothing_acknowledged_is_lost() {
    for seed in 0..5 {
        run(seed, "2+1", |mut site| async move {
            site.tuning.journal = Some((8 * MIB, 2 * MIB));
            let life = site.machine(1).found().await;
            let v = opened(&life, &["on-outage=error:5s"]).await;
            v.write(0, bytes(1, 4096)).await.unwrap();
            v.flush().await.unwrap();
            site.reach(0..3, Reach::Silent);
            let mut took_in = 0;
            let refused = loop {
                let began = life.rt.now();
                let at = (1 + took_in) * 500_000;
                match v.write(at, bytes(took_in, 500_000)).await {
                    Ok(()) => took_in += 1,
                    Err(error) => {
                        let took = life.rt.now().since(began);
                        assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(9), "{took:?}");
                        break error;
                    }
                }
            };
            assert!(took_in > 5 && refused.is(Kind::Timeout), "{took_in}: {refused}");
            assert!(refused.to_string().contains("on-outage=error"), "{refused}");
            assert!(v.flush().await.unwrap_err().is(Kind::Timeout));
            site.reach(0..3, Reach::Up);
            life.sleep(30_000).await;
            v.write(40 * MIB, bytes(77, 4096)).await.unwrap();
            v.flush().await.unwrap();
            let life = life.crash().start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(v.read(0, 100).await.unwrap() == bytes(1, 100));
            for i in 0..took_in {
                assert!(v.read((1 + i) * 500_000, 500_000).await.unwrap() == bytes(i, 500_000), "{i}");
            }
            assert!(v.read(40 * MIB, 4096).await.unwrap() == bytes(77, 4096));
        });
    }
}

#[test]
fn without_it_io_waits_as_long_as_it_takes() {
    run(9, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = opened(&life, &["on-outage=hold"]).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        site.reach(0..3, Reach::Silent);
        let flushed = async {
            life.sleep(300_000).await;
            site.reach(0..3, Reach::Up);
        };
        let ((), done) = futures::future::join(flushed, v.flush()).await;
        done.unwrap();
    });
}

/// The rest of a block lies in stores alone, which are away for longer than a read waits.
#[test]
fn a_write_of_part_of_a_block_waits_as_well_and_fails_only_where_it_should() {
    for (setting, waits) in [("on-outage=hold", true), ("on-outage=error:60s", false)] {
        run(11, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let v = opened(&life, &[setting]).await;
            v.write(0, bytes(1, 16 * 4096)).await.unwrap();
            v.flush().await.unwrap();
            life.volumes.release(&name("v")).await.unwrap();
            drop(v);
            let life = life.crash().start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            v.write(MIB, bytes(2, 4096)).await.unwrap();
            site.reach(0..3, Reach::Refuses);
            let back = async {
                life.sleep(100_000).await;
                site.reach(0..3, Reach::Up);
            };
            let work = async { (v.write(512, bytes(3, 512)).await, v.zero(4 * 4096 + 7, 100).await) };
            let ((), (wrote, zeroed)) = futures::future::join(back, work).await;
            if !waits {
                assert!(wrote.unwrap_err().is(Kind::Timeout));
                return;
            }
            wrote.unwrap();
            zeroed.unwrap();
            let mut expected = bytes(1, 16 * 4096).to_vec();
            expected[512..1024].copy_from_slice(&bytes(3, 512));
            expected[4 * 4096 + 7..4 * 4096 + 107].fill(0);
            assert!(v.read(0, 16 * 4096).await.unwrap() == expected[..]);
        });
    }
}

/// A volume that nobody owns can't be claimed for a write while stores are away.
#[test]
fn a_write_that_would_have_to_claim_the_volume_fails_as_well() {
    run(10, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = opened(&life, &["on-outage=error:5s"]).await;
        site.reach(0..3, Reach::Silent);
        let began = life.rt.now();
        assert!(v.write(0, bytes(1, 4096)).await.unwrap_err().is(Kind::Timeout));
        assert!(life.rt.now().since(began) < Duration::from_secs(9));
        site.reach(0..3, Reach::Up);
        v.write(0, bytes(2, 4096)).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == bytes(2, 4096));
    });
}

/// A folder whose filesystem is frozen answers for its label and takes no put.
#[test]
fn a_flush_goes_on_without_a_store_whose_puts_hang_however_much_is_put() {
    for seed in 0..3 {
        run(11 + seed, "2+1", |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Pool).await;
            v.write(0, bytes(1, 4096)).await.unwrap();
            v.flush().await.unwrap();
            site.stores[0].faults(|f| (f.reach, f.patience) = (Reach::Frozen, Duration::from_secs(3600)));
            let mut longest = Duration::ZERO;
            for round in 0..4 {
                let began = life.rt.now();
                for i in 0..8 {
                    v.write(i * MIB, bytes(round * 8 + i, MIB as usize)).await.unwrap();
                }
                v.flush().await.unwrap();
                longest = longest.max(life.rt.now().since(began));
            }
            assert!(longest < Duration::from_secs(6), "degrade-after is 3 s: {longest:?}");
            assert!(life.volumes.info(&name("v")).await.unwrap().degraded);
            site.stores[0].faults(|f| *f = windlass_store::StoreFaults::default());
            life.sleep(120_000).await;
            assert!(!life.volumes.info(&name("v")).await.unwrap().degraded, "it is back");
            let life = life.crash().start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            for i in 0..8 {
                assert!(v.read(i * MIB, MIB).await.unwrap() == bytes(24 + i, MIB as usize), "{i}");
            }
        });
    }
}
