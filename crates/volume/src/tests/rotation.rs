//! The data key of an encrypted volume is changed.

use std::sync::Arc;

use super::site::{Machine, Site};
use super::*;
use crate::handle::Known;
use windlass_base::rt::Disk as _;
use windlass_base::{Error, VolumeId};
use windlass_keys::{DATA_KEYS_MAX, KeyAccess, Offered, Passphrase, Secret, VolumeKey};
use windlass_pool::ScrubOptions;

fn file(byte: u8) -> Offered {
    Offered::Key(Secret::new([byte; 32]))
}

fn words(text: &str) -> Offered {
    Offered::Passphrase(Passphrase::read(text.as_bytes()).unwrap())
}

async fn made(life: &Life, flush: FlushMode) -> Arc<Volume> {
    let settings = VolumeSettings { recompress_after_ms: Some(0), ..small(flush) };
    life.volumes.create_sealed(&name("v"), 64 * MIB, settings, Some(&file(1))).await.unwrap();
    life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap()
}

async fn snap(v: &Arc<Volume>, named: &str) {
    snapshot_group(&[(v.clone(), name(named))], true).await.unwrap();
}

/// To its end.
async fn rotate(life: &Life, volume: &str) -> u8 {
    let number = life.volumes.rotate_keys(&name(volume), None).await.unwrap();
    life.volumes.rotated(&name(volume), &|_| {}).await.unwrap();
    number
}

async fn numbers(life: &Life, volume: &str) -> Vec<u8> {
    life.volumes.data_keys(&name(volume)).await.unwrap().iter().map(|key| key.number).collect()
}

async fn is_sound(life: &Life, volume: &str) {
    let report = life.volumes.check(&name(volume)).await.unwrap();
    assert!(report.wrong.is_empty(), "{:?}", report.wrong);
}

/// Where there may be the head of something that this data key has sealed: a frame of a chunk or of a pack. A head of another key
/// looks like one too, where what lies before it ends in a small byte: that is what begins a byte later.
fn heads(held: &[u8], key: u8) -> Vec<usize> {
    let sealed_by = |at: usize| {
        let head = &held[at..];
        if head[0] > 2 || head[2] > 16 || head[3] > 4 {
            return None;
        }
        let word = |from: usize| u32::from_le_bytes(head[from..from + 4].try_into().unwrap()) as usize;
        let (body, raw) = (word(4), word(8));
        let fits = (33..=head.len() - 16).contains(&body) && (1..=4 << 20).contains(&raw) && body <= raw + 32;
        fits.then_some(head[1])
    };
    let of_another = |at: usize| sealed_by(at).is_some_and(|other| other > 0 && other != key);
    let end = held.len().saturating_sub(48);
    (0..end).filter(|at| sealed_by(*at) == Some(key) && !of_another(at + 1)).collect()
}

/// Of all that stores and this machine's disk hold, what a data key has sealed.
async fn sealed_by(site: &Site, machine: &Machine, key: u8) -> Vec<String> {
    let mut found = Vec::new();
    for store in &site.stores {
        for name in store.contents().keys() {
            store.contents().rot(&name, |bytes| {
                let at = heads(bytes, key);
                found.extend(
                    at.first()
                        .map(|at| format!("{name} at {at} of {}: {:?}", bytes.len(), &bytes[*at..*at + 48])),
                );
            });
        }
    }
    // Journals are sealed by a key that comes from the volume key.
    let is_journal = |path: &std::path::Path| path.to_string_lossy().contains("/journal");
    for (path, _) in machine.disk.files().into_iter().filter(|(path, _)| !is_journal(path)) {
        let held = machine.disk.read(&path, 1 << 30).await.unwrap();
        found.extend((!heads(&held, key).is_empty()).then(|| path.display().to_string()));
    }
    found
}

/// The data keys in the head of now, as somebody has them who keeps them.
async fn kept_keys(life: &Life, id: VolumeId) -> VolumeKey {
    let engine = life.volumes.engine();
    let head = engine.cell(id).read().await.unwrap().unwrap();
    let root = engine.volume_key(&head).unwrap();
    VolumeKey::new(id, head.keys.unwrap().data_keys_for((id, &root), id).unwrap()).unwrap()
}

/// Whether these keys open what the newest head names.
async fn opens(life: &Life, v: &Arc<Volume>, keys: &VolumeKey) -> Result<(), Error> {
    let engine = life.volumes.engine();
    let (head, table) = engine.chunk_table(v.id()).await?.unwrap();
    let access = KeyAccess::Sealed(keys.clone());
    let mut opened = Err(Error::new(Kind::NotFound, "there is nothing to open"));
    for (seq, entry) in table.entries() {
        let id = entry.object(seq).of(v.id());
        let probe = engine.pool.probe(&id, &head.witnesses, windlass_store::Cause::Repair).await;
        let payload = engine.pool.payload(&id, &probe, windlass_store::Cause::Repair).await?;
        let done = match entry.home {
            crate::space::Home::Own => {
                let (at, len) = (payload.chunk.toc_offset, payload.chunk.toc_len);
                windlass_log::Toc::open(&payload.slice(at, len).unwrap(), &id, at, &access).map(drop)
            }
            crate::space::Home::Pack { at, len, .. } => {
                windlass_log::Slice::open(&payload.slice(at, len).unwrap(), &id, at, &access).map(drop)
            }
        };
        match done {
            Ok(()) => opened = Ok(()),
            Err(e) if opened.is_err() => opened = Err(e),
            Err(_) => {}
        }
    }
    opened
}

#[test]
fn after_a_rotation_the_old_data_key_opens_nothing_that_is_left() {
    for (seed, layout) in [(1, "1+0"), (2, "2+1"), (3, "1+2")] {
        run(seed, layout, |site| async move {
            let site = site.eager();
            let machine = site.machine(1);
            let life = machine.found().await;
            let v = made(&life, FlushMode::Local).await;
            for round in 0..4 {
                for i in 0..12 {
                    v.write(i * MIB / 2, text(round * 100 + i, MIB as usize / 2)).await.unwrap();
                }
                v.write(20 * MIB + round * 8192, bytes(round, 4096)).await.unwrap();
                snap(&v, &format!("s{round}")).await;
                life.sleep(5_000).await;
            }
            life.volumes.remove_snapshot(&name("v"), &name("s1")).await.unwrap();
            life.volumes.collect(&name("v")).await.unwrap();
            v.write(0, bytes(7, 8192)).await.unwrap();
            v.flush().await.unwrap();
            let kept = kept_keys(&life, v.id()).await;
            opens(&life, &v, &kept).await.unwrap();
            let before = sealed_by(&site, &machine, 1).await;
            for kind in ["/c-", "/p-"] {
                assert!(before.iter().any(|at| at.contains(kind)), "{kind} of {before:?}");
            }
            assert_eq!(sealed_by(&site, &machine, 2).await, Vec::<String>::new());
            assert_eq!(rotate(&life, "v").await, 2);
            assert_eq!(numbers(&life, "v").await, [2]);
            life.volumes.collect(&name("v")).await.unwrap();
            life.sleep(60_000).await;
            assert_eq!(sealed_by(&site, &machine, 1).await, Vec::<String>::new());
            let refused = opens(&life, &v, &kept).await.unwrap_err();
            assert!(refused.is(Kind::Denied), "{refused}");
            assert!(!sealed_by(&site, &machine, 2).await.is_empty());
            is_sound(&life, "v").await;
            // Also by another process, which has nothing of it in memory.
            let life = life.crash().start().await;
            life.volumes.unlock(&name("v"), &file(1)).await.unwrap();
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(v.read(0, 8192).await.unwrap() == bytes(7, 8192));
            for round in [0, 2, 3] {
                let s = life.volumes.open_snapshot(&name("v"), &name(&format!("s{round}"))).await.unwrap();
                for i in 0..12 {
                    let wanted = text(round * 100 + i, MIB as usize / 2);
                    assert!(s.read(i * MIB / 2, MIB / 2).await.unwrap() == wanted, "{round} {i}");
                }
            }
            let pool = &life.volumes.engine().pool;
            let found = pool.scrub(&life.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
            assert!(found.is_complete_and_clean(), "{found:?}");
        });
    }
}

/// Each slot opens all of it, before, during and after; slots and data keys are changed beside each other.
#[test]
fn all_slots_open_the_volume_whatever_is_changed_beside_a_rotation() {
    run(4, "1+0", |site| async move {
        let life = site.machine(1).found().await;
        let v = made(&life, FlushMode::Local).await;
        let (volumes, n) = (&life.volumes, name("v"));
        assert_eq!(volumes.add_key(&n, &file(1), &words("correct horse")).await.unwrap(), 2);
        v.write(0, text(1, 4 * MIB as usize)).await.unwrap();
        assert_eq!(volumes.rotate_keys(&n, Some(&words("correct horse"))).await.unwrap(), 2);
        assert!(volumes.rotate_keys(&n, Some(&words("battery"))).await.unwrap_err().is(Kind::Denied));
        assert_eq!(volumes.add_key(&n, &words("correct horse"), &file(3)).await.unwrap(), 3);
        assert_eq!(volumes.change_key(&n, &file(1), &file(4)).await.unwrap(), 1);
        volumes.remove_key(&n, &file(4), 3).await.unwrap();
        volumes.rotated(&n, &|_| {}).await.unwrap();
        assert_eq!(rotate(&life, "v").await, 3);
        assert_eq!(numbers(&life, "v").await, [3]);
        v.write(MIB, text(2, MIB as usize)).await.unwrap();
        v.flush().await.unwrap();
        let mut life = life;
        for opens in [file(4), words("correct horse")] {
            life = life.crash().start().await;
            assert!(life.volumes.unlock(&n, &file(1)).await.unwrap_err().is(Kind::Denied));
            life.volumes.unlock(&n, &opens).await.unwrap();
            let v = life.volumes.open(&n, OpenMode::Normal).await.unwrap();
            assert!(v.read(MIB, MIB).await.unwrap() == text(2, MIB as usize));
            assert!(v.read(0, MIB).await.unwrap() == text(1, 4 * MIB as usize).slice(..MIB as usize));
        }
        life.volumes.create(&name("p"), MIB, small(FlushMode::Local)).await.unwrap();
        let plain = life.volumes.rotate_keys(&name("p"), None).await.unwrap_err();
        assert!(plain.is(Kind::Refused) && plain.to_string().contains("not encrypted"), "{plain}");
    });
}

/// A parent is changed to its end while a clone is open on a host that has only the clone's key, and a snapshot on a third one.
#[test]
fn clones_and_snapshots_that_others_have_open_are_read_on() {
    run(5, "2+1", |mut site| async move {
        site.grace_ms = 1_000;
        let life = site.machine(1).found().await;
        let v = made(&life, FlushMode::Pool).await;
        v.write(0, text(1, 4 * MIB as usize)).await.unwrap();
        snap(&v, "s").await;
        v.write(0, text(2, MIB as usize)).await.unwrap();
        life.volumes.clone_snapshot(&name("v"), &name("s"), &name("c")).await.unwrap();
        let other = site.machine(2).start().await;
        other.volumes.unlock(&name("c"), &file(1)).await.unwrap();
        let c = other.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
        c.write(4096, text(3, 4096)).await.unwrap();
        c.flush().await.unwrap();
        snap(&c, "cs").await;
        other.volumes.clone_snapshot(&name("c"), &name("cs"), &name("d")).await.unwrap();
        let third = site.machine(3).start().await;
        third.volumes.unlock(&name("v"), &file(1)).await.unwrap();
        let s = third.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap();
        let whole = text(1, 4 * MIB as usize);
        assert!(s.read(0, 4096).await.unwrap() == whole.slice(..4096), "its table is known, and its key");
        assert!(c.read(0, 4096).await.unwrap() == whole.slice(..4096));
        let kept = kept_keys(&life, v.id()).await;
        assert_eq!(rotate(&life, "v").await, 2);
        life.volumes.collect(&name("v")).await.unwrap();
        life.sleep(30_000).await;
        assert!(opens(&life, &v, &kept).await.unwrap_err().is(Kind::Denied));
        assert!(s.read(0, 4 * MIB).await.unwrap() == whole);
        let read = c.read(0, 4 * MIB).await.unwrap();
        assert!(read[4096..8192] == text(3, 4096) && read[8192..] == whole[8192..]);
        let d = other.volumes.open(&name("d"), OpenMode::Normal).await.unwrap();
        assert!(d.read(0, 4 * MIB).await.unwrap() == read);
        // A clone changes what is its own, and flattens what its parent's new key has sealed.
        assert_eq!(rotate(&other, "c").await, 2);
        assert!(c.read(0, 4 * MIB).await.unwrap() == read);
        assert!(d.read(0, 4 * MIB).await.unwrap() == read);
        other.volumes.flatten(&name("d"), Flattening { rate: None, progress: &|_| {} }).await.unwrap();
        assert!(d.read(0, 4 * MIB).await.unwrap() == read);
        for volume in ["c", "d"] {
            is_sound(&other, volume).await;
        }
        is_sound(&life, "v").await;
        // One that was made later.
        let third = site.machine(4).start().await;
        third.volumes.unlock(&name("v"), &file(1)).await.unwrap();
        third.volumes.clone_snapshot(&name("v"), &name("s"), &name("e")).await.unwrap();
        let e = third.volumes.open(&name("e"), OpenMode::Normal).await.unwrap();
        assert!(e.read(0, 4 * MIB).await.unwrap() == whole);
    });
}

/// Writes that only a host's journal has are kept there when another host takes the volume over, and no rotation takes away the
/// key that opens them.
#[test]
fn a_kept_journal_is_salvaged_after_a_rotation() {
    run(6, "1+0", |site| async move {
        let life = site.machine(1).found().await;
        let v = made(&life, FlushMode::Local).await;
        v.write(0, text(1, MIB as usize)).await.unwrap();
        v.flush().await.unwrap();
        life.sleep(10_000).await;
        site.reach(0..1, Reach::Silent);
        v.write(0, text(2, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let machine = life.crash();
        site.reach(0..1, Reach::Up);
        let other = site.machine(2).start().await;
        other.volumes.unlock(&name("v"), &file(1)).await.unwrap();
        other.volumes.take_over(&name("v"), false).await.unwrap();
        assert_eq!(rotate(&other, "v").await, 2);
        assert_eq!(rotate(&other, "v").await, 3);
        assert_eq!(numbers(&other, "v").await, [3]);
        other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap().release().await.unwrap();
        let life = machine.start().await;
        life.volumes.unlock(&name("v"), &file(1)).await.unwrap();
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        v.write(2 * MIB, text(4, 4096)).await.unwrap();
        let [kept] = &life.volumes.info(&name("v")).await.unwrap().kept_journals[..] else {
            panic!("one is kept")
        };
        // Nor does one that is kept hold a rotation up.
        assert_eq!(rotate(&life, "v").await, 4);
        let salvaged = life.volumes.salvage(kept, &name("s"), false).await.unwrap();
        assert_eq!(salvaged.bytes, 4096);
        let s = life.volumes.open(&name("s"), OpenMode::Normal).await.unwrap();
        assert!(s.read(0, 4096).await.unwrap() == text(2, 4096));
        assert!(s.read(4096, 4096).await.unwrap() == text(1, MIB as usize).slice(4096..8192));
        assert!(v.read(0, 4096).await.unwrap() == text(1, MIB as usize).slice(..4096));
    });
}

#[test]
fn too_many_rotations_at_a_time_are_refused() {
    run(16, "1+0", |site| async move {
        let life = site.machine(1).found().await;
        let v = made(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, 8 * MIB as usize)).await.unwrap();
        v.flush().await.unwrap();
        // Each object takes longer than a change of the head.
        site.stores[0].faults(|f| f.latency = (Duration::from_millis(400), Duration::from_millis(500)));
        for more in 2..=DATA_KEYS_MAX as u8 {
            assert_eq!(life.volumes.rotate_keys(&name("v"), None).await.unwrap(), more);
        }
        let refused = life.volumes.rotate_keys(&name("v"), None).await.unwrap_err();
        assert!(refused.is(Kind::Refused) && refused.to_string().contains("key list"), "{refused}");
        assert_eq!(numbers(&life, "v").await, [1, 2, 3, 4]);
        let rotation = life.volumes.info(&name("v")).await.unwrap().rotation.unwrap();
        assert_eq!((rotation.key, rotation.oldest), (4, 1));
        life.volumes.rotated(&name("v"), &|_| {}).await.unwrap();
        assert_eq!(numbers(&life, "v").await, [4]);
        assert_eq!(life.volumes.info(&name("v")).await.unwrap().rotation, None);
        assert!(v.read(0, MIB).await.unwrap() == bytes(1, 8 * MIB as usize).slice(..MIB as usize));
    });
}

/// Blocks of a backlog that is several times what memory holds.
const BACKLOG: u64 = 1_500;

/// The stores are away, a flush means the journal, and a rotation is under way. The next process replays the backlog slowly, since
/// it waits for the stores, and is killed before the end.
#[test]
fn a_backlog_in_the_journal_outlives_a_rotation_and_two_deaths() {
    for seed in 170..182 {
        run(seed, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let v = made(&life, FlushMode::Local).await;
            life.volumes.rotate_keys(&name("v"), None).await.unwrap();
            site.reach(0..3, Reach::Silent);
            for n in 0..BACKLOG {
                v.write(n * 4096, bytes(n, 4096)).await.unwrap();
                v.keep().await.unwrap();
            }
            let flushed = life.rt.timeout(Duration::from_secs(1), v.flush()).await;
            flushed.expect("this host's disk has it").unwrap();
            let machine = life.crash().with_memory(4 * MIB);
            site.reach(0..3, Reach::Up);
            let slow = Duration::from_millis(20 + site.world.below(100));
            site.stores.iter().for_each(|s| s.faults(|f| f.latency = (slow, slow)));
            let life = machine.start().await;
            let opens = life.volumes.clone();
            let opening = life.rt.spawn(async move {
                opens.unlock(&name("v"), &file(1)).await.unwrap();
                let v = opens.open(&name("v"), OpenMode::Normal).await.unwrap();
                v.read(0, 4096).await.map(drop)
            });
            opening.detach();
            life.sleep(500 + site.world.below(6_000)).await;
            let life = life.crash().with_memory(256 * MIB).start().await;
            life.volumes.unlock(&name("v"), &file(1)).await.unwrap();
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            for n in 0..BACKLOG {
                assert!(v.read(n * 4096, 4096).await.unwrap() == bytes(n, 4096), "seed {seed}: block {n}");
            }
            life.volumes.rotated(&name("v"), &|_| {}).await.unwrap();
            assert_eq!(numbers(&life, "v").await, [2]);
        });
    }
}

/// The journal goes on as it is.
#[test]
fn a_rotation_begins_no_journal_anew() {
    run(17, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = made(&life, FlushMode::Local).await;
        v.write(0, text(1, MIB as usize)).await.unwrap();
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        let journal = session.journal.id();
        assert_eq!(rotate(&life, "v").await, 2);
        assert_eq!((session.journal.id(), session.journal.failed().is_none()), (journal, true));
    });
}

/// A host without the key looks after the stores meanwhile, and tells how far it is.
#[test]
fn a_host_without_the_key_scrubs_mends_and_tells_how_far_it_is() {
    run(7, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = made(&life, FlushMode::Pool).await;
        v.write(0, bytes(1, 8 * MIB as usize)).await.unwrap();
        snap(&v, "s").await;
        life.sleep(70_000).await;
        site.reach(0..1, Reach::Refuses);
        let number = life.volumes.rotate_keys(&name("v"), None).await.unwrap();
        v.write(0, text(2, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let life = life.crash().start().await;
        site.reach(0..1, Reach::Up);
        let keyless = site.machine(2).start().await;
        let told = keyless.volumes.data_keys(&name("v")).await.unwrap();
        assert_eq!(
            told.iter().map(|key| (key.number, key.seals)).collect::<Vec<_>>(),
            [(1, false), (number, true)]
        );
        assert!(told[0].bytes >= 8 * MIB, "{told:?}");
        assert_eq!(keyless.volumes.info(&name("v")).await.unwrap().rotation.unwrap().left_bytes, None);
        let pool = keyless.volumes.engine().pool.clone();
        pool.repair(&keyless.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
        let found = pool.scrub(&keyless.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(found.is_clean(), "{found:?}");
        // It goes on with the next opening that has the key.
        life.volumes.unlock(&name("v"), &file(1)).await.unwrap();
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        v.write(8192, text(3, 4096)).await.unwrap();
        life.volumes.rotated(&name("v"), &|_| {}).await.unwrap();
        assert_eq!(numbers(&life, "v").await, [number]);
        let found = pool.scrub(&keyless.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(found.is_clean(), "{found:?}");
        assert!(v.read(0, 4096).await.unwrap() == text(2, 4096));
    });
}

/// Writes, snapshots, collections, rotations, changes of slots, crashes and hosts that take over, at random.
#[test]
fn kills_at_any_moment_lose_nothing_and_a_rotation_comes_to_its_end() {
    for seed in 130..142 {
        let layout = ["2+1", "1+0", "1+2"][seed as usize % 3];
        run(seed, layout, move |site| async move { stormy(site.eager(), seed).await });
    }
}

async fn stormy(site: Site, seed: u64) {
    let machines: Vec<_> = (1..3).map(|i| site.machine(i)).collect();
    let mut life = Some(machines[0].found().await);
    let flush = [FlushMode::Pool, FlushMode::Local][seed as usize % 2];
    made(life.as_ref().unwrap(), flush).await;
    let mut image = vec![0u8; 8 * MIB as usize];
    let (world, mut fill, mut most) = (site.world.clone(), 0, 1);
    for round in 0..14 {
        let now = life.take().unwrap();
        let v = now.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        if world.below(2) == 0 {
            match now.volumes.rotate_keys(&name("v"), None).await {
                Ok(number) => most = number,
                Err(e) => assert!(e.is(Kind::Refused), "seed {seed}, round {round}: {e}"),
            }
        }
        for _ in 0..world.below(40) {
            let (at, len) = (world.below(100) << 16, 4096 * (1 + world.below(16)));
            fill += 1;
            let data = if fill % 5 == 0 { bytes(fill, len as usize) } else { text(fill, len as usize) };
            v.write(at, data.clone()).await.unwrap();
            image[at as usize..(at + len) as usize].copy_from_slice(&data);
            now.sleep(world.below(500)).await;
        }
        v.flush().await.unwrap();
        match world.below(6) {
            0 => drop(snapshot_group(&[(v.clone(), name(&format!("s{round}")))], true).await.unwrap()),
            1 => now.volumes.collect(&name("v")).await.unwrap(),
            2 => drop(now.volumes.add_key(&name("v"), &file(1), &words(&format!("w{round}"))).await.unwrap()),
            3 => now.volumes.rotated(&name("v"), &|_| {}).await.unwrap(),
            _ => now.sleep(world.below(20_000)).await,
        }
        drop(v);
        let machine = now.crash();
        // The one that was, or the other one: after a `local` flush what is not in the pool is there alone.
        let next = match world.below(3) {
            0 if flush == FlushMode::Pool => machines[world.below(2) as usize].start().await,
            _ => machine.start().await,
        };
        next.volumes.unlock(&name("v"), &file(1)).await.unwrap();
        next.volumes.take_over(&name("v"), false).await.unwrap();
        let w = next.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(w.read(0, 8 * MIB).await.unwrap() == image, "seed {seed}, round {round}");
        is_sound(&next, "v").await;
        life = Some(next);
    }
    let life = life.unwrap();
    life.volumes.rotated(&name("v"), &|_| {}).await.unwrap();
    assert!(most > 1 && numbers(&life, "v").await == [most], "seed {seed}: {most}");
    let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
    assert!(v.read(0, 8 * MIB).await.unwrap() == image, "seed {seed}, at the end");
    is_sound(&life, "v").await;
    life.volumes.collect(&name("v")).await.unwrap();
    life.sleep(120_000).await;
    for old in 1..most {
        let left = sealed_by(&site, &life.machine, old).await;
        assert_eq!(left, Vec::<String>::new(), "seed {seed}, key {old}");
    }
}
