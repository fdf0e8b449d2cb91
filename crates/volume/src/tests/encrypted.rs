//! Encrypted volumes: nothing of them is told by stores and disks, and what needs no key works without it.

use std::sync::Arc;

use super::site::{Machine, Site};
use super::*;
use windlass_base::rt::Disk as _;
use windlass_cache::{DiskCache, DiskCacheConfig};
use windlass_keys::{KeyFinder, Offered, OpenKeys, Passphrase, Secret};
use windlass_pool::ScrubOptions;

/// In what is written, and in the names of snapshots.
const WORD: &[u8] = b"plain-as-day";

fn file(byte: u8) -> Offered {
    Offered::Key(Secret::new([byte; 32]))
}

fn words(text: &str) -> Offered {
    Offered::Passphrase(Passphrase::read(text.as_bytes()).unwrap())
}

/// Text that lz4 leaves in pieces, with the word all over.
fn known(seed: u64, len: usize) -> Bytes {
    let noise = bytes(seed, len);
    let mut out = noise.to_vec();
    for line in out.chunks_exact_mut(64) {
        line[..WORD.len()].copy_from_slice(WORD);
    }
    out.into()
}

/// All bytes that stores and this machine's disk hold, each under its name.
async fn everything(site: &Site, machine: &Machine) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for store in &site.stores {
        for key in store.contents().keys() {
            store.contents().rot(&key, |bytes| all.push((key.clone(), bytes.clone())));
        }
    }
    for (path, _) in machine.disk.files() {
        let held = machine.disk.read(&path, 1 << 30).await.unwrap();
        all.push((path.display().to_string(), held.to_vec()));
    }
    all
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// Bits of each byte that its neighbours don't tell, as far as counts of single bytes show.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0u64; 256];
    bytes.iter().for_each(|b| counts[usize::from(*b)] += 1);
    let share = |n: &u64| *n as f64 / bytes.len() as f64;
    -counts.iter().filter(|n| **n > 0).map(|n| share(n) * share(n).log2()).sum::<f64>()
}

async fn made(life: &Life, encrypted: bool) -> std::sync::Arc<Volume> {
    let settings = VolumeSettings { recompress_after_ms: Some(0), ..small(FlushMode::Local) };
    let key = file(1);
    let key = encrypted.then_some(&key);
    life.volumes.create_sealed(&name("v"), 64 * MIB, settings, key).await.unwrap();
    life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap()
}

async fn snap(v: &std::sync::Arc<Volume>, named: &str) {
    snapshot_group(&[(v.clone(), name(named))], true).await.unwrap();
}

/// Its daemon keeps on its disk what it reads.
async fn caching(life: Life) -> Life {
    let engine = life.volumes.engine();
    let (dir, memory_max) = ("/home/cache".into(), Memory::disk_share(256 * MIB, 64 * MIB));
    let config = DiskCacheConfig { dir, bytes_max: 64 * MIB, memory_max, segment: Some(4 * MIB) };
    let disk = DiskCache::start(&life.rt, life.machine.disk.clone(), config);
    let memory = Memory::with_disk(256 * MIB, disk, memory_max);
    let volumes = Volumes::new(EngineContext { memory, ..EngineContext::clone(engine) });
    let life = Life { volumes, ..life };
    life.sleep(2_000).await;
    life
}

/// What is in stores, caches, journals and kept journals of a volume that did all that volumes do.
async fn life_of(site: Site, encrypted: bool) -> Vec<(String, Vec<u8>)> {
    let machine = site.machine(1);
    let life = machine.found().await;
    let v = made(&life, encrypted).await;
    for round in 0..4u64 {
        for i in 0..12 {
            v.write(i * MIB / 2, known(round * 100 + i, MIB as usize / 2)).await.unwrap();
        }
        v.write(20 * MIB, text(round, 300_000)).await.unwrap();
        v.flush().await.unwrap();
        snap(&v, &format!("plain-as-day-{round}")).await;
        life.sleep(20_000).await;
    }
    life.volumes.remove_snapshot(&name("v"), &name("plain-as-day-1")).await.unwrap();
    life.volumes.clone_snapshot(&name("v"), &name("plain-as-day-2"), &name("c")).await.unwrap();
    let c = life.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
    assert!(c.read(MIB / 2, 4096).await.unwrap() == known(201, MIB as usize / 2).slice(..4096));
    c.write(0, known(900, MIB as usize)).await.unwrap();
    snap(&c, "plain-as-day-clone").await;
    life.volumes.collect(&name("v")).await.unwrap();
    // By another daemon of the host, which has nothing of it in memory.
    let life = caching(life.crash().start().await).await;
    if encrypted {
        life.volumes.unlock(&name("v"), &file(1)).await.unwrap();
    }
    let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
    for i in 0..12 {
        let got = v.read(i * MIB / 2, MIB / 2).await.unwrap();
        assert!(got == known(300 + i, MIB as usize / 2), "{i}");
        life.sleep(200).await;
    }
    // What only the journal has.
    v.write(0, known(1_000, MIB as usize)).await.unwrap();
    v.flush().await.unwrap();
    let all = everything(&site, &machine).await;
    assert!(all.iter().any(|(at, bytes)| at.contains("/p-") && !bytes.is_empty()), "something was packed");
    assert!(all.iter().any(|(at, held)| at.contains("cache") && held.iter().any(|b| *b != 0)), "and cached");
    assert_eq!(life.volumes.check(&name("v")).await.unwrap().wrong, Vec::<String>::new());
    // After a crash, and by another host.
    let life = life.crash().start().await;
    if encrypted {
        life.volumes.unlock(&name("v"), &file(1)).await.unwrap();
    }
    let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
    assert!(v.read(0, MIB).await.unwrap() == known(1_000, MIB as usize));
    all
}

#[test]
fn stores_caches_and_journals_tell_nothing_of_what_is_written() {
    for seed in 1..4 {
        run(seed, "2+1", |site| async move {
            let all = life_of(site.eager(), true).await;
            for (at, held) in &all {
                assert!(!holds(held, WORD), "{at}");
                // Heads of frames and tables stay readable; what was written is noise.
                if at.contains("/c-") && held.len() > MIB as usize {
                    assert!(entropy(held) > 7.9, "{at}: {} bits a byte", entropy(held));
                }
            }
        });
        // That the same would be found.
        run(seed, "2+1", |site| async move {
            let all = life_of(site.eager(), false).await;
            // In packs zstd leaves nothing of it as it was.
            for kind in ["/c-", "/home/cache", "/journal/segment"] {
                assert!(all.iter().any(|(at, held)| at.contains(kind) && holds(held, WORD)), "{kind}");
            }
        });
    }
}

#[test]
fn what_needs_no_key_works_without_it_and_the_rest_is_refused_in_a_line() {
    run(4, "2+1", |site| async move {
        let machine = site.machine(1);
        let life = machine.found().await;
        let v = made(&life, true).await;
        v.write(0, known(1, 4 * MIB as usize)).await.unwrap();
        snap(&v, "monday").await;
        life.sleep(70_000).await;
        let keyless = site.machine(2).start().await;
        let pool = keyless.volumes.engine().pool.clone();
        let clean = pool.scrub(&keyless.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(clean.is_clean(), "{clean:?}");
        v.write(0, known(2, MIB as usize)).await.unwrap();
        v.flush().await.unwrap();

        // The same host without the key: its journal is there, and stays.
        let life = life.crash().start().await;
        let refused = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
        assert!(refused.is(Kind::Denied) && refused.to_string().contains("tank/v"), "{refused}");
        assert!(refused.to_string().contains("encrypted"), "{refused}");
        let info = life.volumes.info(&name("v")).await.unwrap();
        assert!(info.encrypted && info.snapshots == 1 && info.stored_bytes > 0, "{info:?}");
        assert!(info.unsent_bytes > 0, "the journal's lengths are readable: {info:?}");
        let listed = life.volumes.list(Duration::from_secs(10)).await.unwrap();
        assert!(listed[0].1.as_ref().unwrap().encrypted);
        let shown = life.volumes.snapshots(&name("v")).await.unwrap();
        assert!(shown[0].name.as_str().starts_with("sealed-"), "{shown:?}");
        for denied in [
            life.volumes.open_snapshot(&name("v"), &shown[0].name).await.map(drop),
            life.volumes.clone_snapshot(&name("v"), &shown[0].name, &name("c")).await.map(drop),
            life.volumes.remove_snapshot(&name("v"), &shown[0].name).await,
            life.volumes.take_over(&name("v"), false).await.map(drop),
            life.volumes.check(&name("v")).await.map(drop),
        ] {
            let refused = denied.unwrap_err();
            assert!(refused.is(Kind::Denied), "{refused}");
        }
        // The wrong key, then the right one.
        let wrong = life.volumes.unlock(&name("v"), &file(2)).await.unwrap_err();
        assert!(wrong.is(Kind::Denied) && wrong.to_string().contains("slot 1"), "{wrong}");
        assert!(life.volumes.open(&name("v"), OpenMode::Normal).await.is_err());
        assert_eq!(life.volumes.unlock(&name("v"), &file(1)).await.unwrap(), 1);
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(v.read(0, MIB).await.unwrap() == known(2, MIB as usize));
        assert_eq!(life.volumes.snapshots(&name("v")).await.unwrap()[0].name, name("monday"));

        // It is removed without.
        let life = life.crash().start().await;
        life.volumes.remove(&name("v")).await.unwrap();
        assert!(life.volumes.info(&name("v")).await.unwrap_err().is(Kind::NotFound));
    });
}

#[test]
fn another_host_reads_and_writes_with_the_key_and_finds_names_and_clones() {
    run(5, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = made(&life, true).await;
        v.write(0, known(1, 4 * MIB as usize)).await.unwrap();
        snap(&v, "monday").await;
        life.volumes.clone_snapshot(&name("v"), &name("monday"), &name("c")).await.unwrap();
        v.write(0, known(2, MIB as usize)).await.unwrap();
        v.release().await.unwrap();
        let other = site.machine(2).start().await;
        other.volumes.unlock(&name("v"), &file(1)).await.unwrap();
        let w = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(w.read(0, MIB).await.unwrap() == known(2, MIB as usize));
        assert!(w.read(MIB, 3 * MIB).await.unwrap() == known(1, 4 * MIB as usize).slice(MIB as usize..));
        w.write(4096, known(3, 8192)).await.unwrap();
        w.flush().await.unwrap();
        // A clone is opened by its parent's slots, and by none of another.
        let refused = other.volumes.open(&name("c"), OpenMode::Normal).await.unwrap_err();
        assert!(refused.is(Kind::Denied), "{refused}");
        other.volumes.unlock(&name("c"), &file(1)).await.unwrap();
        let c = other.volumes.open(&name("c"), OpenMode::Normal).await.unwrap();
        assert!(c.read(0, 4 * MIB).await.unwrap() == known(1, 4 * MIB as usize));
        c.write(0, known(4, 4096)).await.unwrap();
        c.flush().await.unwrap();
        // Its parent's removal is none of its business, but its own flattening is.
        other.volumes.flatten(&name("c"), Flattening { rate: None, progress: &|_| {} }).await.unwrap();
        assert!(
            c.read(4096, MIB).await.unwrap() == known(1, 4 * MIB as usize).slice(4096..4096 + MIB as usize)
        );
    });
}

/// The key comes while the tables are being read: names are known then, or the key is said to be missing.
#[test]
fn a_snapshot_is_there_whoever_brings_the_key_meanwhile() {
    for seed in 0..40 {
        run(700 + seed, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let v = made(&life, true).await;
            v.write(0, known(1, 4096)).await.unwrap();
            snap(&v, "monday").await;
            v.release().await.unwrap();
            let other = site.machine(2).start().await;
            let (volumes, v, key) = (&other.volumes, name("v"), file(1));
            let unlock = async {
                other.sleep(seed * 2).await;
                volumes.unlock(&v, &key).await.unwrap();
            };
            let monday = name("monday");
            let (opened, ()) = futures::join!(volumes.open_snapshot(&v, &monday), unlock);
            match opened.map(drop) {
                Ok(()) => {}
                Err(e) => assert!(e.is(Kind::Denied), "{e}"),
            }
        });
    }
}

#[test]
fn slots_are_added_changed_and_removed_by_who_opens_the_volume() {
    run(6, "1+0", |site| async move {
        let life = site.machine(1).found().await;
        let v = made(&life, true).await;
        v.write(0, known(1, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let (volumes, v) = (&life.volumes, name("v"));
        assert!(volumes.add_key(&v, &file(9), &words("w")).await.unwrap_err().is(Kind::Denied));
        assert_eq!(volumes.add_key(&v, &file(1), &words("correct horse")).await.unwrap(), 2);
        assert_eq!(volumes.change_key(&v, &file(1), &file(3)).await.unwrap(), 1);
        assert!(volumes.unlock(&v, &file(1)).await.unwrap_err().is(Kind::Denied));
        assert_eq!(volumes.unlock(&v, &file(3)).await.unwrap(), 1);
        volumes.remove_key(&v, &words("correct horse"), 1).await.unwrap();
        assert_eq!(volumes.key_slots(&v).await.unwrap().len(), 1);
        assert!(volumes.remove_key(&v, &words("correct horse"), 2).await.unwrap_err().is(Kind::Refused));
        let life = life.crash().start().await;
        assert!(life.volumes.unlock(&v, &file(3)).await.unwrap_err().is(Kind::Denied));
        life.volumes.unlock(&v, &words("correct horse")).await.unwrap();
        let open = life.volumes.open(&v, OpenMode::Normal).await.unwrap();
        assert!(open.read(0, 4096).await.unwrap() == known(1, 4096));
        life.volumes.create(&name("p"), MIB, small(FlushMode::Local)).await.unwrap();
        let plain = life.volumes.unlock(&name("p"), &file(1)).await.unwrap_err();
        assert!(plain.is(Kind::Refused) && plain.to_string().contains("not encrypted"), "{plain}");
    });
}

#[derive(Debug)]
struct Nobody;

impl MovingClients for Nobody {
    fn passages(&self) -> Vec<std::sync::Arc<Passage>> {
        Vec::new()
    }

    fn follow(&self, _moved: &std::sync::Arc<Volume>) {}
}

#[test]
fn nothing_encrypted_becomes_plain_in_another_volume_unseen() {
    run(7, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = made(&life, true).await;
        v.write(0, known(1, MIB as usize)).await.unwrap();
        snap(&v, "monday").await;
        let quiet = || Copying { roll_back: false, verify_all: true, progress: &|_, _, _| {} };
        let (from, to) = ((&life.volumes, &name("v"), &name("monday")), &name("copy"));
        let refused = copy_snapshot(from, (&life.volumes, to), quiet()).await.unwrap_err();
        assert!(refused.is(Kind::Refused) && refused.to_string().contains("--encrypt"), "{refused}");
        assert!(life.volumes.info(to).await.unwrap_err().is(Kind::NotFound), "nothing was made");
        life.volumes.create(to, 64 * MIB, small(FlushMode::Local)).await.unwrap();
        assert!(copy_snapshot(from, (&life.volumes, to), quiet()).await.unwrap_err().is(Kind::Refused));
        let sealed = &name("sealed");
        let key = file(8);
        life.volumes.create_sealed(sealed, 64 * MIB, small(FlushMode::Local), Some(&key)).await.unwrap();
        copy_snapshot(from, (&life.volumes, sealed), quiet()).await.unwrap();
        let elsewhere = site.elsewhere().machine(1).found().await;
        let moving =
            Moving { snapshots: true, clients: std::sync::Arc::new(Nobody), progress: &|_, _, _| {} };
        let refused = move_volume((&life.volumes, &name("v")), &elsewhere.volumes, moving).await.unwrap_err();
        assert!(refused.is(Kind::Refused) && refused.to_string().contains("encrypted"), "{refused}");
        assert!(
            life.volumes.set(&name("v"), &["boot-trace=record".into()]).await.unwrap_err().is(Kind::Refused)
        );
    });
}

/// Whoever can write to the stores puts something of his own, with checksums that are right.
#[test]
fn a_volume_that_was_made_plain_behind_its_owner_is_not_served() {
    run(8, "1+0", |site| async move {
        let life = site.machine(1).found().await;
        let v = made(&life, true).await;
        v.write(0, known(1, 4096)).await.unwrap();
        v.release().await.unwrap();
        let id = v.id();
        let cell = life.volumes.engine().cell(id);
        cell.change(|head| head.forged_plain()).await.unwrap();
        // Who opens it anew, and knows its key.
        let again = Volumes::new(EngineContext::clone(life.volumes.engine()));
        let refused = again.open(&name("v"), OpenMode::Normal).await.unwrap_err();
        assert!(refused.is(Kind::Corrupt) && refused.to_string().contains("not encrypted"), "{refused}");
        // Who never knew it as encrypted still meets frames that a plain volume does not have.
        let other = site.machine(2).start().await;
        let w = other.volumes.open(&name("v"), OpenMode::Normal).await;
        let read = match w {
            Ok(w) => w.read(0, 4096).await.map(drop),
            Err(e) => Err(e),
        };
        assert!(read.unwrap_err().is(Kind::Corrupt));
    });
}

/// Changes a bit of each frame of a data shard, and makes the frames' checksums right again, as whoever can write to the store
/// may: what changes tells by how much, wherever the frame lies.
fn forge(key: &str, shard: &mut [u8]) {
    forge_from(key, shard, 0);
}

/// Does that to frames of more bytes than this.
pub(super) fn forge_from(key: &str, shard: &mut [u8], least: usize) {
    if !key.rsplit_once('/').is_some_and(|(_, name)| name.starts_with("c-")) {
        return;
    }
    let covered = |frame: &[u8]| windlass_base::sum::crc32c_of(&[&frame[..12], &[0; 48], &frame[16..]]);
    let mut at = 0;
    while let Some(head) = shard.get(at..at + 16).filter(|head| head[1] < 2 && head[3] < 5) {
        let len = u32::from_le_bytes(head[4..8].try_into().unwrap()) as usize;
        let Some(frame) = shard.get_mut(at..at + 16 + len) else { break };
        let before = covered(frame);
        if len > least.max(20) {
            frame[16 + 20] ^= 1;
        }
        let sum = u32::from_le_bytes(frame[12..16].try_into().unwrap()) ^ before ^ covered(frame);
        frame[12..16].copy_from_slice(&sum.to_le_bytes());
        at += 16 + len;
    }
}

#[test]
fn what_one_store_forges_is_made_up_for_by_the_others() {
    for forgers in [1, 2] {
        run(9, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let v = made(&life, true).await;
            v.write(0, known(1, 4 * MIB as usize)).await.unwrap();
            v.release().await.unwrap();
            let other = site.machine(2).start().await;
            other.volumes.unlock(&name("v"), &file(1)).await.unwrap();
            let w = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            for store in &site.stores[..forgers] {
                for key in store.contents().keys() {
                    store.contents().rot(&key, |bytes| forge(&key, bytes));
                }
            }
            for i in 0..16 {
                let got = w.read(i * MIB / 4, MIB / 4).await;
                let (from, to) = ((i * MIB / 4) as usize, ((i + 1) * MIB / 4) as usize);
                match got {
                    Ok(got) => assert!(got == known(1, 4 * MIB as usize).slice(from..to), "{i}"),
                    Err(e) => assert!(forgers == 2 && e.is(Kind::Corrupt), "{i}: {e}"),
                }
            }
        });
    }
}

/// As windlass.toml has it.
#[derive(Debug)]
struct Ours;

#[async_trait::async_trait]
impl KeyFinder for Ours {
    fn has(&self, _: &str) -> bool {
        true
    }
    async fn find(&self, _: &str) -> windlass_base::Result<Option<Offered>> {
        Ok(Some(file(1)))
    }
}

/// The tables are signed: with the key, which is looked for before they are read, a forged one is as good as none.
#[test]
fn forged_tables_of_one_store_keep_no_snapshot_from_who_can_find_the_key() {
    run(9, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = made(&life, true).await;
        v.write(0, known(1, MIB as usize)).await.unwrap();
        snap(&v, "monday").await;
        v.release().await.unwrap();
        for forger in 0..3 {
            let other = site.machine(2 + forger as u128).start().await;
            let keys = OpenKeys::with_source(Arc::new(Ours));
            let store = &site.stores[forger];
            let held: Vec<_> = store.contents().keys();
            for key in &held {
                store.contents().rot(key, |bytes| forge(key, bytes));
            }
            let engine = EngineContext { keys, ..EngineContext::clone(other.volumes.engine()) };
            let monday = Volumes::new(engine).open_snapshot(&name("v"), &name("monday")).await.unwrap();
            assert!(monday.read(0, MIB).await.unwrap() == known(1, MIB as usize), "{forger}");
            // The same bit again.
            for key in &held {
                store.contents().rot(key, |bytes| forge(key, bytes));
            }
        }
    });
}

/// The storm of `storm`, and takeovers, on encrypted volumes: WINDLASS_TEST_ENCRYPTED does it to all scenarios.
#[test]
fn storms_of_encrypted_volumes() {
    super::storm::encrypted(&[103, 106, 108, 109]);
}
