//! One daemon goes on where another of its state folder stops: clients stay connected, and what they hold is the same volume.

use super::*;
use crate::head::Head;
use windlass_base::{Epoch, VolumeId};

/// As the next daemon is told of a client.
type Held = Option<Vec<Epoch>>;

fn block(seed: u64) -> Bytes {
    bytes(seed, 4096)
}

/// The daemon lets go of all, ends, and the next one starts.
async fn replaced(life: Life) -> Life {
    life.volumes.leave().await;
    life.volumes.engine().pool.close().await;
    life.kill().start().await
}

async fn again(life: &Life, id: VolumeId, held: &Held) -> windlass_base::Result<Arc<Volume>> {
    life.volumes.open_again(id, &name("v"), held.as_deref()).await
}

async fn head(life: &Life, id: VolumeId) -> Head {
    life.volumes.engine().cell(id).read().await.unwrap().unwrap()
}

#[test]
fn an_owner_that_is_replaced_stays_one_whoever_knocks_meanwhile() {
    for seed in 0..10 {
        run(seed, "2+1", move |site| async move {
            let mode = if seed % 2 == 0 { FlushMode::Local } else { FlushMode::Pool };
            let life = site.machine(1).found().await;
            let rival = site.machine(2).start().await;
            let v = volume(&life, mode).await;
            v.write(0, block(1)).await.unwrap();
            v.flush().await.unwrap();
            v.write(4096, block(2)).await.unwrap();
            let (id, rt) = (v.id(), site.world.rt());
            let knocks = rt.spawn(async move {
                for _ in 0..400 {
                    match rival.volumes.open(&name("v"), OpenMode::Attach).await {
                        Err(e) => assert!(e.is(Kind::Owned) && e.to_string().contains("host1"), "{e}"),
                        Ok(_) => panic!("another host was let in"),
                    }
                    rival.rt.sleep(Duration::from_millis(10)).await;
                }
            });
            life.sleep(500).await;
            life.volumes.leave().await;
            let held = v.held().unwrap();
            life.volumes.engine().pool.close().await;
            drop(v);
            let life = life.kill();
            rt.sleep(Duration::from_millis(site.world.below(1_000))).await;
            let life = life.start().await;
            // Two clients: the first makes this host the owner again.
            let v = again(&life, id, &held).await.unwrap();
            assert!(Arc::ptr_eq(&v, &again(&life, id, &held).await.unwrap()));
            assert!(!head(&life, id).await.active.released && v.held().unwrap() != held);
            assert!(v.read(0, 8192).await.unwrap() == [block(1), block(2)].concat());
            knocks.await.unwrap();
            v.write(4096, block(3)).await.unwrap();
            v.flush().await.unwrap();
            // And once more, of what the daemon before had from the one before that.
            let held = v.held().unwrap();
            let life = replaced(life).await;
            let v = again(&life, id, &held).await.unwrap();
            assert!(v.read(4096, 4096).await.unwrap() == block(3));
        });
    }
}

/// The next daemon was replaced in turn before its client had entered: what the client is told to hold is older than the claim.
#[test]
fn a_client_goes_on_behind_a_claim_that_it_was_not_told_of() {
    run(40, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, block(1)).await.unwrap();
        let (id, held) = (v.id(), v.held().unwrap());
        let life = replaced(life).await;
        drop(again(&life, id, &held).await.unwrap());
        let life = replaced(life).await;
        let v = again(&life, id, &held).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == block(1));
        v.write(4096, block(2)).await.unwrap();
        let held_by_then = v.held().unwrap();
        // Where another host has had it in between it does not.
        let life = replaced(life).await;
        let other = site.machine(2).start().await;
        other.volumes.take_over(&name("v"), false).await.unwrap();
        other.volumes.release(&name("v")).await.unwrap();
        life.volumes.open(&name("v"), OpenMode::TakeOver { accept_loss: false }).await.unwrap();
        let life = replaced(life).await;
        for held in [&held, &held_by_then] {
            assert!(again(&life, id, held).await.unwrap_err().is(Kind::Fenced));
        }
    });
}

/// The stores take its claim, and the answer is lost: the client is let in when that is tried again.
#[test]
fn a_client_goes_on_behind_a_claim_whose_answer_was_lost() {
    for seed in 50..70 {
        run(seed, "1+0", move |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, block(1)).await.unwrap();
            let (id, held) = (v.id(), v.held().unwrap());
            let life = replaced(life).await;
            let lose = |lost| {
                for store in &site.stores {
                    store.faults(|f| {
                        (f.lost, f.late, f.patience) = (lost, Duration::ZERO, Duration::from_secs(60))
                    });
                }
            };
            lose(300);
            for _ in 0..6 {
                match life.rt.timeout(Duration::from_secs(300), again(&life, id, &held)).await {
                    Some(Err(error)) => assert!(error.is_transient(), "{error}"),
                    Some(Ok(_)) | None => break,
                }
            }
            lose(0);
            let v = loop {
                match again(&life, id, &held).await {
                    Ok(v) => break v,
                    Err(error) => assert!(error.is_transient(), "{error}"),
                }
                life.sleep(1_000).await;
            };
            assert!(v.read(0, 4096).await.unwrap() == block(1));
        });
    }
}

/// The daemon opens what was its own, before its clients are here.
#[test]
fn clients_join_what_the_next_daemon_has_opened_by_itself() {
    run(20, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, block(1)).await.unwrap();
        let (id, held) = (v.id(), v.held().unwrap());
        let life = replaced(life).await;
        let opened = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(Arc::ptr_eq(&opened, &again(&life, id, &held).await.unwrap()));
        // The other process does not come: they go on here.
        let held = opened.held().unwrap();
        life.volumes.leave().await;
        life.volumes.stay();
        let v = again(&life, id, &held).await.unwrap();
        assert!(Arc::ptr_eq(&opened, &v) && v.read(0, 4096).await.unwrap() == block(1));
        v.write(0, block(2)).await.unwrap();
    });
}

#[test]
fn a_client_goes_on_with_its_volume_whatever_has_the_name_by_then() {
    for owned in [true, false] {
        run(30, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let other = site.machine(2).start().await;
            let v = volume(&life, FlushMode::Pool).await;
            v.write(0, block(1)).await.unwrap();
            v.flush().await.unwrap();
            if !owned {
                v.release().await.unwrap();
            }
            let (id, held) = (v.id(), v.held().unwrap());
            rename(&other.volumes, &name("v"), &name("w")).await.unwrap();
            other.volumes.create(&name("v"), 64 * MIB, small(FlushMode::Pool)).await.unwrap();
            let theirs = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            theirs.write(0, block(9)).await.unwrap();
            theirs.release().await.unwrap();
            let life = replaced(life).await;
            let v = again(&life, id, &held).await.unwrap();
            assert_eq!((v.id(), v.name()), (id, name("w")));
            assert!(v.read(0, 4096).await.unwrap() == block(1));
            v.write(0, block(2)).await.unwrap();
            v.flush().await.unwrap();
            let theirs = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(theirs.id() != id && theirs.read(0, 4096).await.unwrap() == block(9));
        });
    }
}

#[test]
fn a_volume_that_was_removed_and_made_anew_is_another_one() {
    run(31, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let other = site.machine(2).start().await;
        let v = volume(&life, FlushMode::Pool).await;
        v.write(0, block(1)).await.unwrap();
        v.release().await.unwrap();
        let (id, held) = (v.id(), v.held().unwrap());
        other.volumes.remove(&name("v")).await.unwrap();
        other.volumes.create(&name("v"), 64 * MIB, small(FlushMode::Pool)).await.unwrap();
        let life = replaced(life).await;
        let gone = again(&life, id, &held).await.unwrap_err();
        assert!(gone.is(Kind::NotFound) && gone.to_string().contains("removed"), "{gone}");
    });
}

/// Whoever was shut out stays so, whether this host has noticed or not, and whoever has the volume now.
#[test]
fn a_client_that_was_shut_out_is_not_let_in_by_the_next_daemon() {
    for (noticed, released) in [(false, false), (false, true), (true, true)] {
        run(32, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let other = site.machine(2).start().await;
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, block(1)).await.unwrap();
            v.flush().await.unwrap();
            let id = v.id();
            other.volumes.take_over(&name("v"), false).await.unwrap();
            if released {
                other.volumes.release(&name("v")).await.unwrap();
            }
            if noticed {
                life.sleep(10_000).await;
                assert!(v.flush().await.unwrap_err().is(Kind::Fenced));
                // Others have come to this host since: the volume is in its seat anew.
                life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                life.volumes.leave().await;
                let failed = v.held().unwrap_err();
                assert!(failed.to_string().contains("host2"), "{failed}");
                return;
            }
            let held = v.held().unwrap();
            let life = replaced(life).await;
            let refused = again(&life, id, &held).await.unwrap_err();
            assert!(refused.is(Kind::Fenced) && refused.to_string().contains("host2"), "{refused}");
            // Nor where the daemon has opened it by then, for others.
            if released {
                life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                assert!(again(&life, id, &held).await.unwrap_err().is(Kind::Fenced));
            }
        });
    }
}

#[test]
fn a_client_that_has_read_a_released_volume_writes_on_nothing_else() {
    run(33, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let other = site.machine(2).start().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, block(1)).await.unwrap();
        v.release().await.unwrap();
        let (id, held) = (v.id(), v.held().unwrap());
        // As it is: both of two clients go on, also behind the first one's write.
        let life = replaced(life).await;
        let v = again(&life, id, &held).await.unwrap();
        assert!(head(&life, id).await.active.released, "nothing is claimed for who only reads");
        v.write(0, block(2)).await.unwrap();
        assert!(Arc::ptr_eq(&v, &again(&life, id, &held).await.unwrap()));
        v.release().await.unwrap();
        let (held, stale) = (v.held().unwrap(), held);
        let w = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        w.write(0, block(3)).await.unwrap();
        w.release().await.unwrap();
        // Another client of this host has the newer one: `v` is in no seat any more.
        let newer = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(!Arc::ptr_eq(&newer, &v) && v.held().unwrap() == held);
        let life = replaced(life).await;
        for held in [&held, &stale] {
            assert!(again(&life, id, held).await.unwrap_err().is(Kind::Fenced));
        }
        let newer = newer.held().unwrap();
        assert!(again(&life, id, &newer).await.unwrap().read(0, 4096).await.unwrap() == block(3));
        assert!(again(&life, id, &held).await.unwrap_err().is(Kind::Fenced));
    });
}

/// A session that has ended goes on only with what it left, also where it would be free to claim.
#[test]
fn what_was_let_go_of_is_not_claimed_over_what_others_wrote() {
    run(34, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let other = site.machine(2).start().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, block(1)).await.unwrap();
        life.volumes.leave().await;
        let w = other.volumes.open(&name("v"), OpenMode::TakeOver { accept_loss: false }).await.unwrap();
        w.write(0, block(2)).await.unwrap();
        w.release().await.unwrap();
        life.volumes.stay();
        let refused = v.write(4096, block(3)).await.unwrap_err();
        assert!(refused.is(Kind::Fenced) && refused.to_string().contains("host2"), "{refused}");
        assert!(v.held().is_err());
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(v.read(0, 8192).await.unwrap() == [block(2), vec![0; 4096].into()].concat());
    });
}

#[test]
fn a_snapshot_is_the_very_one_whatever_it_is_called() {
    run(35, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        let (vol, s) = (name("v"), name("s"));
        v.write(0, block(1)).await.unwrap();
        snapshot_group(&[(v.clone(), s.clone())], true).await.unwrap();
        v.write(0, block(2)).await.unwrap();
        let view = life.volumes.open_snapshot(&vol, &s).await.unwrap();
        let since = v.since(&s).await.unwrap();
        let (id, held) = (v.id(), view.id());
        let again = life.volumes.open_snapshot_again(id, &held, (&vol, &s)).await.unwrap();
        assert!(again.read(0, 4096).await.unwrap() == block(1));
        assert_eq!(v.since_again(&since.snapshot).await.unwrap().snapshot, since.snapshot);
        life.volumes.remove_snapshot(&vol, &s).await.unwrap();
        snapshot_group(&[(v.clone(), s.clone())], true).await.unwrap();
        let gone = life.volumes.open_snapshot_again(id, &held, (&vol, &s)).await.unwrap_err();
        assert!(gone.is(Kind::Removed), "{gone}");
        assert!(v.since_again(&since.snapshot).await.unwrap_err().is(Kind::Removed));
        let view = life.volumes.open_snapshot(&vol, &s).await.unwrap();
        assert!(view.since_again(&since.snapshot).await.unwrap_err().is(Kind::Removed));
        assert!(view.read(0, 4096).await.unwrap() == block(2));
    });
}
