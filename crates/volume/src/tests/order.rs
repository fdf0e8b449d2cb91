//! Writes that overlap, of a client whose connection broke and who doesn't wait for the answers any more.

use std::sync::Arc;

use super::site::Site;
use super::*;
use crate::handle::Known;
use crate::read::Piece;
use windlass_base::Result;
use windlass_base::rt::Task;

fn write(life: &Life, v: &Arc<Volume>, at: u64, data: Bytes) -> Task<Result<()>> {
    let v = v.clone();
    life.volumes.engine().rt.spawn(async move { v.write(at, data).await })
}

/// A volume that is owned here, with these bytes at its beginning, of which nothing is in memory.
async fn cold(site: &Site, held: Bytes) -> (Life, Arc<Volume>) {
    let life = site.machine(1).found().await;
    let v = volume(&life, FlushMode::Pool).await;
    v.write(0, held).await.unwrap();
    v.flush().await.unwrap();
    v.release().await.unwrap();
    drop(v);
    let life = life.crash().start().await;
    let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
    v.write(MIB, bytes(2, 4096)).await.unwrap();
    (life, v)
}

/// One block of the first is held by a merge that waits for stores; nothing is in the second's way but the first.
#[test]
fn what_waits_lands_on_nothing_that_was_acknowledged_since() {
    run(80, "2+1", |site| async move {
        let (life, v) = cold(&site, bytes(1, 8192)).await;
        site.reach(0..3, Reach::Silent);
        let part = write(&life, &v, 10, bytes(3, 5));
        life.sleep(10).await;
        let first = write(&life, &v, 0, bytes(4, 8192));
        life.sleep(10).await;
        let second = write(&life, &v, 4096, bytes(5, 4096));
        let zeros = {
            let v = v.clone();
            life.sleep(10).await;
            life.volumes.engine().rt.spawn(async move { v.zero(4096, 512).await })
        };
        // Whatever doesn't overlap goes on.
        let aside = life.rt.timeout(Duration::from_secs(5), v.write(8192, bytes(6, 4096))).await;
        aside.expect("it waits for nobody").unwrap();
        site.reach(0..3, Reach::Up);
        for done in [part, first, second, zeros] {
            done.await.unwrap().unwrap();
        }
        assert!(v.read(0, 4096).await.unwrap() == bytes(4, 8192).slice(..4096));
        assert!(v.read(4096, 512).await.unwrap() == vec![0; 512]);
        assert!(v.read(4608, 3584).await.unwrap() == bytes(5, 4096).slice(512..));
        assert!(v.read(8192, 4096).await.unwrap() == bytes(6, 4096));
    });
}

/// Two threads may begin both before either waits: then it is the lock on the block that keeps them apart. Here nothing runs
/// at once, so the session is asked without the order that the volume keeps.
#[test]
fn parts_of_a_block_that_are_merged_at_once_are_all_there() {
    run(79, "2+1", |site| async move {
        let (life, v) = cold(&site, bytes(1, 4096)).await;
        let Known::Live(session) = v.known() else { panic!("it is open") };
        site.reach(0..3, Reach::Silent);
        let parts = [10, 1000, 4000].map(|at| {
            let session = session.clone();
            life.volumes.engine().rt.spawn(async move { session.write(at, bytes(at, 50)).await })
        });
        life.sleep(10).await;
        site.reach(0..3, Reach::Up);
        for part in parts {
            part.await.unwrap().unwrap();
        }
        let mut all = bytes(1, 4096).to_vec();
        for at in [10, 1000, 4000] {
            all[at as usize..][..50].copy_from_slice(&bytes(at, 50));
        }
        assert!(v.read(0, 4096).await.unwrap() == all);
    });
}

/// None that was given up meanwhile holds up the others.
#[test]
fn writes_that_wait_for_an_owner_are_done_as_they_came() {
    for seed in 81..91 {
        run(seed, "2+1", |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            site.reach(0..3, Reach::Refuses);
            let mut writes = Vec::new();
            for fill in 0..8 {
                writes.push(write(&life, &v, 4096 * (fill % 2), bytes(fill, 8192)));
                life.sleep(site.world.below(700)).await;
            }
            let mut given_up = writes.remove(3);
            given_up.abort();
            life.sleep(5_000).await;
            site.reach(0..3, Reach::Up);
            for done in writes {
                done.await.unwrap().unwrap();
            }
            assert!(v.read(0, 4096).await.unwrap() == bytes(6, 8192).slice(..4096));
            assert!(v.read(4096, 8192).await.unwrap() == bytes(7, 8192));
        });
    }
}

/// A record drops only so many entries of the tip: other writes wait for that. Nor do they wait while its ends are read.
#[test]
fn a_disk_of_any_size_is_zeroed_in_few_steps() {
    const SIZE: u64 = 16 << 40;
    run(81, "1+0", |site| async move {
        let life = site.machine(1).found().await;
        life.volumes.create(&name("big"), SIZE, small(FlushMode::Local)).await.unwrap();
        let v = life.volumes.open(&name("big"), OpenMode::Normal).await.unwrap();
        for at in [0, 5 << 40, SIZE - 4096] {
            v.write(at, bytes(at + 1, 4096)).await.unwrap();
        }
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        let last = || session.tip.lock().lsn.0;
        let before = last();
        v.zero(1, SIZE - 2).await.unwrap();
        assert_eq!(last() - before, 3, "both ends, and what is between");
        assert_eq!(v.read(0, 4096).await.unwrap(), [&bytes(1, 1)[..], &[0; 4095]].concat());
        assert_eq!(v.read(5 << 40, 4096).await.unwrap(), vec![0; 4096]);
        {
            let mut tip = session.tip.lock();
            tip.overlay.active.clear(0..SIZE / 4096);
            for block in (0..80_000).step_by(2) {
                tip.overlay.active.insert(block..block + 1, Piece::Zero);
            }
        }
        let before = last();
        v.zero(0, SIZE).await.unwrap();
        assert_eq!(last() - before, 3);
        assert_eq!(session.tip.lock().overlay.active.len(), 1);
        assert_eq!(v.allocation(0, SIZE, 9).await.unwrap(), [(SIZE, false)]);
        v.flush().await.unwrap();
    });
}
