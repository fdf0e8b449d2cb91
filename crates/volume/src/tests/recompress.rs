//! What is cold is compressed anew (`recompress=zstd`).

use super::site::Site;
use super::*;
use windlass_pool::ScrubOptions;

const PIECE: u64 = 64 << 10;

async fn set(life: &Life, assignment: &str) {
    life.volumes.set(&name("v"), &[assignment.to_owned()]).await.unwrap();
}

async fn stored(life: &Life) -> u64 {
    life.volumes.info(&name("v")).await.unwrap().stored_bytes
}

async fn is_sound(life: &Life) {
    let report = life.volumes.check(&name("v")).await.unwrap();
    assert!(report.wrong.is_empty(), "{:?}", report.wrong);
    let pool = &life.volumes.engine().pool;
    let found = pool.scrub(&life.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
    assert!(found.is_complete_and_clean(), "{found:?}");
}

/// Objects of volumes on the first store.
fn objects(site: &Site) -> Vec<String> {
    site.stores[0].contents().keys().into_iter().filter(|k| k.contains("/c-") || k.contains("/p-")).collect()
}

#[test]
fn what_is_cold_takes_less_and_reads_as_before() {
    run(120, "2+1", |mut site| async move {
        site.grace_ms = 1_000;
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        for i in 0..160 {
            v.write(i * PIECE, text(i, PIECE as usize)).await.unwrap();
        }
        // A part that does not compress, in objects of its own.
        v.flush().await.unwrap();
        v.write(20 * MIB, bytes(7, 4 * MIB as usize)).await.unwrap();
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        for i in 0..40 {
            v.write(i * 4 * PIECE, text(1000 + i, 4096)).await.unwrap();
        }
        life.volumes.collect(&name("v")).await.unwrap();
        let before = stored(&life).await;
        set(&life, "recompress=zstd:2h").await;
        life.sleep(60 * 60 * 1000).await;
        assert_eq!(stored(&life).await, before, "nothing is cold yet");
        life.sleep(3 * 60 * 60 * 1000).await;
        let after = stored(&life).await;
        let text_bytes = before - 4 * MIB;
        assert!(after < before - text_bytes / 5, "{before} bytes became {after}");
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert!(info.live_bytes.unwrap() <= after, "{info:?}");
        // Once is enough: also by another process, which has nothing of this in memory.
        let (done, packed) = (objects(&site), info.packed_bytes);
        life.sleep(5 * 60 * 60 * 1000).await;
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().packed_bytes, packed);
        assert_eq!(objects(&site), done);
        is_sound(&life).await;
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        v.write(30 * MIB, text(1, 4096)).await.unwrap();
        life.sleep(60 * 60 * 1000).await;
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().packed_bytes, 0);
        let s = life.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap();
        for i in 0..160 {
            let (seen, old) = (v.read(i * PIECE, PIECE).await.unwrap(), text(i, PIECE as usize));
            assert!(s.read(i * PIECE, PIECE).await.unwrap() == old, "{i}");
            let new = if i % 4 == 0 { text(1000 + i / 4, 4096) } else { old.slice(..4096) };
            assert!(seen[..4096] == new && seen[4096..] == old[4096..], "{i}");
        }
        assert!(v.read(20 * MIB, 4 * MIB).await.unwrap() == bytes(7, 4 * MIB as usize));
        // What dies of it is counted and goes.
        life.volumes.remove_snapshot(&name("v"), &name("s")).await.unwrap();
        v.zero(0, 5 * MIB).await.unwrap();
        life.volumes.collect(&name("v")).await.unwrap();
        is_sound(&life).await;
        assert!(v.read(8 * MIB, PIECE).await.unwrap()[4096..] == text(128, PIECE as usize)[4096..]);
    });
}

/// A clone reads its ancestor's frames, whatever has become of them; the clone itself compresses nothing of them.
#[test]
fn clones_read_what_was_compressed_anew() {
    run(121, "1+0", |mut site| async move {
        site.grace_ms = 1_000;
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        v.write(0, text(1, 2 * MIB as usize)).await.unwrap();
        snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
        v.session().await.unwrap().checkpoint_surely(&[]).await.unwrap();
        let other = site.machine(2).start().await;
        other.volumes.clone_snapshot(&name("v"), &name("s"), &name("c")).await.unwrap();
        other.volumes.set(&name("c"), &["recompress=zstd:0s".to_owned()]).await.unwrap();
        let c = other.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
        c.write(4096, text(2, 4096)).await.unwrap();
        other.volumes.collect(&name("c")).await.unwrap();
        let before = stored(&life).await;
        set(&life, "recompress=zstd:0s").await;
        life.volumes.collect(&name("v")).await.unwrap();
        assert!(stored(&life).await < before * 4 / 5);
        let read = c.read(0, 2 * MIB).await.unwrap();
        let whole = text(1, 2 * MIB as usize);
        assert!(read[4096..8192] == text(2, 4096) && read[8192..] == whole[8192..]);
        assert!(other.volumes.check(&name("c")).await.unwrap().wrong.is_empty());
        is_sound(&life).await;
    });
}

/// Writes, snapshots, collections, crashes and hosts that take over, at random.
#[test]
fn crashes_lose_nothing_of_it() {
    for seed in 122..126 {
        run(seed, ["2+1", "1+0", "1+2"][seed as usize % 3], move |site| async move {
            let site = site.eager();
            let machines: Vec<_> = (1..3).map(|i| site.machine(i)).collect();
            let mut life = Some(machines[0].found().await);
            let settings = VolumeSettings { recompress_after_ms: Some(0), ..small(FlushMode::Pool) };
            life.as_ref().unwrap().volumes.create(&name("v"), 8 * MIB, settings).await.unwrap();
            let mut image = vec![0u8; 8 * MIB as usize];
            let (world, mut fill, mut anew) = (site.world.clone(), 0, false);
            for round in 0..12 {
                let now = life.take().unwrap();
                let v = now.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                for _ in 0..world.below(40) {
                    let (at, len) = (world.below(100) * PIECE, 4096 * (1 + world.below(16)));
                    fill += 1;
                    let data =
                        if fill % 5 == 0 { bytes(fill, len as usize) } else { text(fill, len as usize) };
                    v.write(at, data.clone()).await.unwrap();
                    image[at as usize..(at + len) as usize].copy_from_slice(&data);
                    now.sleep(world.below(500)).await;
                }
                v.flush().await.unwrap();
                match world.below(4) {
                    0 => {
                        drop(snapshot_group(&[(v.clone(), name(&format!("s{round}")))], true).await.unwrap())
                    }
                    1 => now.volumes.collect(&name("v")).await.unwrap(),
                    _ => now.sleep(world.below(20_000)).await,
                }
                let session = v.session().await.unwrap();
                anew |= session.chunk_table.lock().entries().any(|(_, entry)| entry.saved > 0);
                drop(session);
                drop(v);
                let machine = now.crash();
                // The one that was, or the other one.
                let next = match world.below(3) {
                    0 => machines[world.below(2) as usize].start().await,
                    _ => machine.start().await,
                };
                next.volumes.take_over(&name("v"), false).await.unwrap();
                let w = next.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
                assert!(w.read(0, 8 * MIB).await.unwrap() == image, "seed {seed}, round {round}");
                let report = next.volumes.check(&name("v")).await.unwrap();
                assert!(report.wrong.is_empty(), "seed {seed}, round {round}: {:?}", report.wrong);
                life = Some(next);
            }
            assert!(anew, "seed {seed}: nothing was compressed anew");
        });
    }
}
