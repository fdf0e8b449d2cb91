//! A full local disk: nothing of it reaches a guest.

use super::*;

/// Bytes of all files on the machine's disk.
fn used(machine: &site::Machine) -> u64 {
    machine.disk.files().iter().map(|(_, len)| len).sum()
}

/// Room for a new journal's header, and hardly more.
const LITTLE: u64 = 16 << 10;

/// Not a byte is free from now on.
fn fill_up(machine: &site::Machine) {
    let full = used(machine);
    machine.disk.faults(|f| f.capacity = full);
}

#[test]
fn without_room_for_a_journal_a_flush_means_the_pool_until_there_is_room() {
    for (mode, room) in [(FlushMode::Local, 0), (FlushMode::Pool, 0), (FlushMode::Local, 700 << 10)] {
        run(21, "2+1", |site| async move {
            let machine = site.machine(1);
            let life = machine.found().await;
            let v = volume(&life, mode).await;
            let full = used(&machine) + LITTLE + room;
            machine.disk.faults(|f| f.capacity = full);
            for n in 0..40 {
                v.write(n * 100_000, bytes(n + 1, 100_000)).await.unwrap();
            }
            v.flush().await.unwrap();
            snapshot_group(&[(v.clone(), name("s"))], false).await.unwrap();
            let info = life.volumes.info(&name("v")).await.unwrap();
            let why = info.trouble.expect("it is said");
            assert!(
                why.contains("no journal can be kept")
                    && why.contains("disk is full")
                    && why.contains("in the pool"),
                "{why}"
            );
            assert_eq!(info.unsent_bytes, 0);
            // Nor is it said beside that what a journal would mean.
            assert!(
                !info.meaning.contains("at most") && !info.meaning.contains("power cut"),
                "{}",
                info.meaning
            );
            v.write(0, bytes(99, 4096)).await.unwrap();
            v.flush().await.unwrap();
            // Cut off, and as full as before: only what was in the pool can come back, and all of it was.
            let machine = life.crash();
            let life = machine.start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(v.read(0, 4096).await.unwrap() == bytes(99, 4096));
            assert!(v.read(3_900_000, 100_000).await.unwrap() == bytes(40, 100_000));
            site.reach(0..3, Reach::Silent);
            v.write(0, bytes(100, 4096)).await.unwrap();
            let early = life.rt.timeout(std::time::Duration::from_secs(2), v.flush()).await;
            assert!(early.is_none(), "acknowledged, and stored nowhere: {early:?}");
            site.reach(0..3, Reach::Up);
            v.flush().await.unwrap();
            machine.disk.faults(|f| f.capacity = u64::MAX);
            life.sleep(20_000).await;
            let info = life.volumes.info(&name("v")).await.unwrap();
            assert_eq!(info.trouble, None, "it came back by itself");
            assert_eq!(info.meaning, info.settings().meaning());
            site.reach(0..3, Reach::Silent);
            v.write(4096, bytes(101, 4096)).await.unwrap();
            if mode == FlushMode::Local {
                v.flush().await.unwrap();
            }
            let machine = life.crash();
            site.reach(0..3, Reach::Up);
            let life = machine.start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(v.read(0, 4096).await.unwrap() == bytes(100, 4096));
            if mode == FlushMode::Local {
                assert!(v.read(4096, 4096).await.unwrap() == bytes(101, 4096), "the journal has it");
            }
        });
    }
}

#[test]
fn a_disk_that_becomes_full_slows_writes_down_and_stops_none() {
    run(22, "2+1", |site| async move {
        let machine = site.machine(1);
        let life = machine.found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        assert!(used(&machine) <= 2 * MIB, "{} bytes for 4 KiB", used(&machine));
        fill_up(&machine);
        let began = life.rt.now();
        for n in 0..64 {
            v.write(n * MIB / 4, bytes(n + 7, MIB as usize / 4)).await.unwrap();
        }
        v.flush().await.unwrap();
        let took = life.rt.now().since(began);
        assert!(took < std::time::Duration::from_secs(60), "{took:?}");
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert!(info.trouble.is_none(), "{:?}", info.trouble);
        let machine = life.crash();
        let life = machine.start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        for n in 0..64 {
            assert!(v.read(n * MIB / 4, MIB / 4).await.unwrap() == bytes(n + 7, MIB as usize / 4), "{n}");
        }
        // Each opening writes the journal's header.
        for n in 0..3 {
            v.write(0, bytes(200 + n, 4096)).await.unwrap();
            v.flush().await.unwrap();
            life.volumes.engine().pool.look().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(v.read(0, 4096).await.unwrap() == bytes(200 + n, 4096), "{n}");
        }
    });
}

/// The disk is full and a volume has no journal; then another host begins to take the volume over and gives up.
#[test]
fn a_new_claim_without_a_journal_loses_nothing_in_silence() {
    for flushed in [true, false] {
        run(23, "2+1", move |site| async move {
            let machine = site.machine(1);
            let life = machine.found().await;
            let v = volume(&life, FlushMode::Local).await;
            let full = used(&machine) + LITTLE;
            machine.disk.faults(|f| f.capacity = full);
            v.write(0, bytes(1, 4096)).await.unwrap();
            v.flush().await.unwrap();
            let other = site.machine(2).start().await;
            if !flushed {
                site.reach(0..1, Reach::Silent);
                v.write(0, bytes(2, 4096)).await.unwrap();
            }
            other.claim_and_withdraw().await;
            life.sleep(10_000).await;
            site.reach(0..1, Reach::Up);
            let again = life.rt.timeout(std::time::Duration::from_secs(30), async {
                v.write(4096, bytes(3, 4096)).await?;
                v.flush().await
            });
            match again.await.expect("it does not wait for room that may never come") {
                Ok(()) => assert!(flushed),
                Err(e) => {
                    assert!(!flushed && e.is(Kind::Io) && e.to_string().contains("are lost"), "{e}");
                    return;
                }
            }
            assert!(v.read(0, 4096).await.unwrap() == bytes(1, 4096));
            assert!(v.read(4096, 4096).await.unwrap() == bytes(3, 4096));
        });
    }
}

/// Not even a header can be written: flushes wait and say for what, and no guest gets an error.
#[test]
fn without_room_for_a_header_flushes_wait_and_say_so() {
    run(25, "2+1", |site| async move {
        let machine = site.machine(1);
        let life = machine.found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        machine.disk.faults(|f| (f.sync_fails, f.capacity) = (1000, 0));
        v.write(0, bytes(2, 4096)).await.unwrap();
        let flush = life.rt.timeout(std::time::Duration::from_secs(90), v.flush()).await;
        assert!(flush.is_none(), "{flush:?}");
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert!(info.trouble.is_some_and(|why| why.contains("flushes wait")) && info.unsent_bytes == 0);
        machine.disk.faults(|f| (f.sync_fails, f.capacity) = (0, u64::MAX));
        v.flush().await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == bytes(2, 4096));
    });
}

/// A disk that fails is told by its own name, not as one that is full.
#[test]
fn why_there_is_no_journal_is_said_as_it_is() {
    run(24, "2+1", |site| async move {
        let machine = site.machine(1);
        let life = machine.found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        v.release().await.unwrap();
        let full = used(&machine) + LITTLE;
        machine.disk.faults(|f| f.capacity = full);
        v.write(0, bytes(2, 4096)).await.unwrap();
        v.flush().await.unwrap();
        machine.disk.faults(|f| (f.capacity, f.sync_fails) = (u64::MAX, 1000));
        life.sleep(10_000).await;
        let why = life.volumes.info(&name("v")).await.unwrap().trouble.expect("it is said");
        assert!(why.contains("failed to sync") && !why.contains("full"), "{why}");
        machine.disk.faults(|f| f.sync_fails = 0);
        life.sleep(10_000).await;
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().trouble, None);
    });
}
