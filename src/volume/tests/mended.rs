//! What failed midway and is done again: a checkpoint that is given up, a journal that is begun anew.

use futures::future::{join, join_all, join3};

use super::*;
use crate::volume::handle::Known;

/// Of a map's leaf.
const LEAF: u64 = MIB;
/// Leaves that a merge loads at once.
const LOADED_AT_ONCE: u64 = 32;

/// The pages that it made lie in a chunk that is still open, whose memory the next chunk may need.
#[test]
fn a_checkpoint_that_is_given_up_gives_its_memory_back() {
    run(110, "2+1", |mut site| async move {
        site.memory = 4 * MIB;
        let life = site.machine(1).found().await;
        life.volumes.create(&name("v"), 256 * MIB, small(FlushMode::Pool)).await.unwrap();
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        // Leaves in several chunks: the next merge gets them by several requests, one after another.
        for part in 0..4 {
            for leaf in part * LOADED_AT_ONCE..(part + 1) * LOADED_AT_ONCE {
                v.write(leaf * LEAF, bytes(leaf, 4096)).await.unwrap();
            }
            v.flush().await.unwrap();
            let Known::Live(session) = v.known() else { panic!("it was written to") };
            session.checkpoint(&[]).await.unwrap();
        }
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        for leaf in 0..4 * LOADED_AT_ONCE {
            v.write(leaf * LEAF + 4096, bytes(leaf, 4096)).await.unwrap();
        }
        v.flush().await.unwrap();
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        let encode = &life.volumes.engine().memory.encode;
        while encode.used() > 0 {
            life.sleep(1).await;
        }
        let cut_off = async {
            while encode.used() == 0 {
                life.sleep(1).await;
            }
            site.reach(0..3, Reach::Refuses);
        };
        let (given_up, ()) = join(session.checkpoint(&[]), cut_off).await;
        assert!(given_up.is_err(), "it had pages to get");
        // A checkpoint that is tried again stores this before it begins.
        v.write(0, bytes(999, 4096)).await.unwrap();
        site.reach(0..3, Reach::Up);
        let flushed = life.rt.timeout(Duration::from_secs(120), v.flush()).await;
        flushed.expect("memory comes back").unwrap();
        session.checkpoint(&[]).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == bytes(999, 4096));
        assert!(v.read(4096, 4096).await.unwrap() == bytes(0, 4096));
        assert!(life.volumes.check(&name("v")).await.unwrap().wrong.is_empty());
    });
}

/// Some writes are under way while the journal fails, and wait at the gate behind which it is begun anew.
#[test]
fn a_write_that_waits_for_a_new_journal_is_in_it() {
    run(111, "2+1", |site| async move {
        const WRITES: u64 = 200;
        let machine = site.machine(1);
        let life = machine.found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(0, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let slow = Duration::from_millis(100);
        site.stores.iter().for_each(|s| s.faults(|f| f.latency = (slow, slow)));
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        machine.disk.faults(|f| f.sync_fails = 1000);
        let failed = async {
            while session.journal.failed().is_none() {
                life.sleep(1).await;
            }
            machine.disk.faults(|f| f.sync_fails = 0);
        };
        let writes = (1..WRITES).map(|n| {
            let (v, life) = (&v, &life);
            async move {
                life.sleep(n * 5).await;
                v.write(n * 4096, bytes(n, 4096)).await.unwrap();
            }
        });
        let flush = async {
            life.sleep(20).await;
            v.flush().await.unwrap();
        };
        join3(failed, join_all(writes), flush).await;
        assert!(session.journal.failed().is_none(), "it was begun anew");
        let stored = session.writer.prefix().lsn;
        assert!(session.tip.lock().lsn.0 > stored.0 + 10, "the last of them are in the journal alone");
        site.reach(0..3, Reach::Silent);
        v.flush().await.unwrap();
        let machine = life.crash();
        site.reach(0..3, Reach::Up);
        let life = machine.start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        for n in 0..WRITES {
            assert!(v.read(n * 4096, 4096).await.unwrap() == bytes(n, 4096), "write {n}");
        }
    });
}
