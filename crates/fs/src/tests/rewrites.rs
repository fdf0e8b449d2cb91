//! Files that are written anew and again, and whose host ends: what was synced is there, and nothing torn takes a name.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::faults::{body, close_unsent, nothing, read, staged, two_lives};
use super::power::{mount_again, mounted};
use super::user::{User, WRITE};
use crate::object::Op;
use crate::ops::Changes;
use crate::staging::UNKNOWN;
use crate::tree::{OpenMode, ROOT};
use windlass_base::rt::sim::{Sim, SimDisk, World};
use windlass_store::{Cause, Reach, SimStore, Store as _, When};

/// A version that no slot takes.
const LARGE: usize = 120_000;

/// One file's versions: each is its number, over and over.
#[derive(Default)]
struct Versions {
    last: u32,
    /// The file is this one as a whole by now.
    whole: Option<u32>,
    /// An fsync answered for it.
    synced: u32,
    did: Vec<String>,
}

type Shared = Arc<Mutex<Versions>>;

/// Which version the bytes are, all of them; `None`: parts of several, or of none. The first one is empty.
fn version(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() {
        return Some(0);
    }
    let first = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    let same = bytes.chunks(4).all(|four| four == first.to_le_bytes());
    same.then_some(first)
}

/// One writer of the file, who keeps it open where it can.
struct Writer {
    user: User,
    world: World,
    versions: Shared,
    handle: Option<u64>,
}

impl Writer {
    fn did(&self, what: &str, done: &Op<()>) {
        self.versions.lock().did.push(format!("{what} {}", done.is_ok()));
    }

    async fn step(&mut self) {
        let Some(handle) = self.handle else {
            self.handle = self.user.open("f", WRITE, true).await.ok();
            return;
        };
        let fs = &self.user.fs;
        let ino = fs.file(handle).unwrap().ino;
        match self.world.below(10) {
            0..=4 => {
                let done = self.rewrite(handle, ino).await;
                self.did("rewrite", &done);
            }
            5 => {
                let done = self.sync(handle).await;
                self.did("fsync", &done);
            }
            6 => {
                let done = self.user.close(handle).await;
                self.handle = None;
                self.did("close", &done);
            }
            7 => {
                let done = fs.rename(ROOT, b"f", ROOT, b"g", false).await;
                self.did("rename", &done);
                if done.is_ok() {
                    // A file that nobody has closed is renamed on this host alone.
                    fs.rename(ROOT, b"g", ROOT, b"f", false).await.unwrap();
                }
            }
            8 => {
                let mode = Some(0o600 + self.world.below(8) as u32);
                let done = fs.setattr(ino, Changes { mode, ..Changes::default() }, None).await;
                self.did("chmod", &done.map(drop));
            }
            _ => self.world.rt().sleep(Duration::from_millis(self.world.below(3000))).await,
        }
    }

    async fn sync(&self, handle: u64) -> Op<()> {
        self.user.fs.fsync(handle).await?;
        let mut versions = self.versions.lock();
        versions.synced = versions.whole.unwrap_or(versions.synced);
        Ok(())
    }

    /// Empties the file and writes the next version, which may be synced or flushed then.
    async fn rewrite(&self, handle: u64, ino: u64) -> Op<()> {
        let fs = &self.user.fs;
        let len = if self.world.below(3) == 0 { LARGE } else { 4 + 4 * self.world.below(2250) as usize };
        let number = {
            let mut versions = self.versions.lock();
            versions.last += 1;
            versions.whole = None;
            versions.last
        };
        let bytes = number.to_le_bytes().repeat(len / 4);
        fs.setattr(ino, Changes { size: Some(0), ..Changes::default() }, Some(handle)).await?;
        let piece = if self.world.below(2) == 0 { LARGE } else { 2000.max(len / 16 * 4) };
        for (at, piece) in bytes.chunks(piece).enumerate().map(|(i, bytes)| (i * piece, bytes)) {
            fs.write(handle, at as u64, Bytes::copy_from_slice(piece)).await?;
        }
        self.versions.lock().whole = Some(number);
        match self.world.below(3) {
            0 => self.sync(handle).await,
            1 => fs.flush(handle).await,
            _ => Ok(()),
        }
    }
}

/// Judges what the store has while it takes nothing, and what the next mount makes of it after a loss of
/// power. `before` runs between the close and the loss.
fn after_a_close<F: Future<Output = ()> + Send>(
    seeds: u64,
    before: impl Fn(User, World) -> F + Clone + Send + 'static,
    judge: impl Fn(u64, &SimStore, Vec<Option<Bytes>>) + Clone + Send + 'static,
) {
    for seed in 0..seeds {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk, inside) = (sim.clone(), Arc::new(SimDisk::new(&sim)), store.clone());
        let (files, before, judge) = (disk.clone(), before.clone(), judge.clone());
        sim.run(async move {
            for key in ["rewritten", "edited"] {
                let old = Bytes::from(vec![1; LARGE]);
                inside.contents().put(key, old, When::Always, Cause::File).await.unwrap();
            }
            let (process, user) = mounted(&world, &disk, &inside).await;
            let mut handles = Vec::new();
            for name in ["rewritten", "edited", "new"] {
                handles.push(user.open(name, WRITE, true).await.unwrap());
            }
            inside.faults(|f| f.errors = 1000);
            let ino = user.fs.file(handles[0]).unwrap().ino;
            let none = Changes { size: Some(0), ..Changes::default() };
            user.fs.setattr(ino, none, Some(handles[0])).await.unwrap();
            for (handle, len) in handles.iter().zip([LARGE, 50, LARGE]) {
                user.fs.write(*handle, 0, vec![2; len].into()).await.unwrap();
            }
            for handle in handles {
                user.close(handle).await.unwrap();
            }
            before(user, world.clone()).await;
            process.kill();
            disk.power_loss();
            inside.faults(|f| f.errors = 0);
            world.rt().sleep(Duration::from_secs(10)).await;
            let unsent = mount_again(&world, &disk, &inside).await;
            let mut found = Vec::new();
            for key in ["rewritten", "edited", "new"] {
                found.push(body(inside.contents(), key).await);
            }
            // A stage that has lost its notes is told, and stays.
            assert!(unsent.iter().all(|one| one.key == UNKNOWN), "seed {seed}: {unsent:?}");
            assert_eq!(staged(&files).is_empty(), unsent.is_empty(), "seed {seed}");
            judge(seed, &inside, found);
        })
        .unwrap();
    }
}

fn is_all(seed: u64, store: &SimStore, found: Vec<Option<Bytes>>) {
    let edited = [vec![2; 50], vec![1; LARGE - 50]].concat();
    assert_eq!(
        found,
        [Some(vec![2; LARGE].into()), Some(edited.into()), Some(vec![2; LARGE].into())],
        "seed {seed}"
    );
    assert_eq!(store.contents().keys(), ["edited", "new", "rewritten"], "seed {seed}");
}

/// Promise: With `flush=local`, what a loss of power may have torn takes no name.
#[test]
fn what_a_loss_of_power_may_have_torn_is_kept_beside() {
    let aside = Arc::new(Mutex::new(0));
    let count = aside.clone();
    after_a_close(
        20,
        |_, _| async {},
        move |seed, store, found| {
            let old = || Some(Bytes::from(vec![1; LARGE]));
            assert_eq!(found, [old(), old(), None], "seed {seed}");
            let keys = store.contents().keys();
            let beside = |key: &&String| key.contains(".unfinished-");
            assert_eq!(keys.iter().filter(|key| !beside(key)).count(), 2, "seed {seed}: {keys:?}");
            *count.lock() += keys.iter().filter(beside).count();
        },
    );
    assert!(*aside.lock() > 5, "what the disk has of it is not lost: {}", aside.lock());
}

/// Promise: With `flush=local`, what a loss of power may have torn takes no name.
#[test]
fn what_waits_is_synced() {
    let waits = |user: User, world: World| async move {
        world.rt().sleep(Duration::from_secs(40)).await;
        drop(user);
    };
    after_a_close(5, waits, is_all);
}

/// Promise: With `flush=local`, what a loss of power may have torn takes no name.
#[test]
fn what_the_end_of_a_mount_keeps_is_synced() {
    let ends = |user: User, _: World| async move {
        user.fs.finish().await;
        assert_eq!(user.fs.kept().files, 3);
    };
    after_a_close(5, ends, is_all);
}

/// Lives that end by a kill between two operations, or by a loss of power at any moment, while the store takes nothing
/// and the disk fails at times. The bucket has the version that was synced last in the end, or a later one, whole.
/// Promise: With `flush=local`, fsync returns when the bytes survive a loss of power.
#[test]
fn rewrites_lose_no_synced_version() {
    // The last one: what was stored of a version before went for another's object.
    for seed in (0..super::model::seeds(150)).chain([2347]) {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk, inside) = (sim.clone(), Arc::new(SimDisk::new(&sim)), store.clone());
        let versions = Shared::default();
        let ours = versions.clone();
        let end = sim.run(async move {
            for _ in 0..1 + world.below(3) {
                generation(&world, &disk, &inside, &ours).await;
            }
            let unsent = mount_again(&world, &disk, &inside).await;
            (body(inside.contents(), "f").await, unsent)
        });
        let (is, unsent) = end.unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
        let Versions { synced, did, .. } = &*versions.lock();
        let found = is.as_deref().map(version);
        // A file that was synced before, at its beginning too, is as the disk has kept it.
        let fine = *synced == 0 || found.flatten().is_some_and(|found| found >= *synced);
        assert!(fine, "seed {seed}: {synced} was synced, {found:?} is there, {unsent:?}: {did:#?}");
    }
}

async fn generation(world: &World, disk: &Arc<SimDisk>, store: &Arc<SimStore>, versions: &Shared) {
    versions.lock().whole = None;
    let power = world.below(2) == 0;
    let (process, user) = mounted(world, disk, store).await;
    let (done, mut over) = tokio::sync::watch::channel(false);
    let (at, ours, bucket, files) = (world.clone(), versions.clone(), store.clone(), disk.clone());
    let rt = process.rt();
    let work = async move {
        let handle = user.open("f", WRITE, true).await.ok();
        // Known to be absent, so that a rename gets as far as the store.
        let _ = user.stat("g").await;
        bucket.faults(|f| f.errors = 1000);
        files.faults(|f| f.sync_fails = if at.below(4) == 0 { 150 } else { 0 });
        let steps = 1 + at.below(8);
        let mut writer = Writer { user, world: at, versions: ours, handle };
        for _ in 0..steps {
            writer.step().await;
        }
        let _ = done.send(true);
        // Its handles stay open until its end.
        rt.sleep(Duration::from_secs(100_000)).await;
        drop(writer);
    };
    process.rt().spawn(work).detach();
    let over = over.wait_for(|over| *over);
    if power {
        let moment = Duration::from_micros(300_000 + world.below(3_000_000));
        let _ = world.rt().timeout(moment, over).await;
    } else {
        let _ = over.await;
    }
    process.kill();
    disk.faults(|f| f.sync_fails = 0);
    if power {
        disk.power_loss();
    }
    versions.lock().did.push(if power { "power" } else { "kill" }.to_owned());
    store.faults(|f| f.errors = 0);
    world.rt().sleep(Duration::from_secs(10)).await;
}

/// A whole object is never replaced by half of one: what a killed daemon was in the middle of becomes a conflict copy.
/// Promise: A whole object is never replaced by half of one.
#[test]
fn an_unfinished_rewrite_is_kept_beside() {
    // By a kill; by `umount -f`, whose mount ends with the file open; by a daemon that is told to end before its writer.
    for (ends, sends) in [(false, false), (true, false), (true, true)] {
        let first = move |user: User, store: Arc<SimStore>| async move {
            user.put("f", b"whole").await.unwrap();
            let handle = user.open("f", OpenMode { truncate: true, ..WRITE }, false).await.unwrap();
            user.fs.write(handle, 0, Bytes::from_static(b"ha")).await.unwrap();
            if sends {
                user.fs.send_all().await;
            }
            if ends {
                user.fs.finish().await;
                assert_eq!(store.contents().keys(), ["f"]);
                assert_eq!(read(&store, "f").unwrap(), "whole");
            }
        };
        let (store, disk) = two_lives(5, "", first, nothing);
        let keys = store.contents().keys();
        assert!(keys.len() == 2 && keys[1].starts_with("f.unfinished-"), "{keys:?}");
        assert_eq!(
            (read(&store, "f").unwrap(), read(&store, &keys[1]).unwrap()),
            ("whole".into(), "ha".into())
        );
        assert_eq!(staged(&disk), [""; 0]);
    }
}

/// One process closes or syncs; another begins the file anew beside it, and never ends. The bucket gets what was closed, and keeps it.
/// Promise: A whole object is never replaced by half of one.
#[test]
fn a_close_stores_what_was_closed_though_another_begins_anew_beside_it() {
    for (size, syncs) in [(10, false), (300_000, false), (10, true), (300_000, true)] {
        for ms in (0..240).step_by(8) {
            let whole = Bytes::from(vec![b'w'; size]);
            let first = {
                let whole = whole.clone();
                move |user: User, store: Arc<SimStore>| async move {
                    user.put("f", b"before").await.unwrap();
                    let one = user.open("f", OpenMode { truncate: true, ..WRITE }, false).await.unwrap();
                    user.fs.write(one, 0, whole.clone()).await.unwrap();
                    let closes = async {
                        match syncs {
                            true => user.fs.fsync(one).await,
                            false => user.close(one).await,
                        }
                    };
                    let begins = async {
                        user.sleep(ms).await;
                        let other =
                            user.open("f", OpenMode { truncate: true, ..WRITE }, false).await.unwrap();
                        user.fs.write(other, 0, Bytes::from_static(b"ha")).await.unwrap();
                    };
                    let (closed, ()) = futures::future::join(closes, begins).await;
                    closed.unwrap();
                    user.sleep(5_000).await;
                    assert!(read(&store, "f").unwrap() == whole, "{size} {syncs} {ms}");
                }
            };
            let (store, disk) = two_lives(6, "", first, nothing);
            assert!(read(&store, "f").unwrap() == whole, "{size} {syncs} {ms}: after a kill");
            assert_eq!(staged(&disk), [""; 0]);
        }
    }
}

/// A closed version that waits while another process writes the file anew outlives a mount that is taken away
/// by force.
/// Promise: A whole object is never replaced by half of one.
#[test]
fn a_closed_version_that_waits_outlives_a_mount_that_is_cut_off() {
    let first = |user: User, store: Arc<SimStore>| async move {
        user.put("f", b"before").await.unwrap();
        user.fs.idle().await;
        close_unsent(&user, &store).await;
        let handle = user.open("f", OpenMode { truncate: true, ..WRITE }, false).await.unwrap();
        user.fs.write(handle, 0, Bytes::from_static(b"ha")).await.unwrap();
        // What is tried now fails.
        user.sleep(500).await;
        store.faults(|f| f.reach = Reach::Up);
        user.fs.finish().await;
        assert_eq!(read(&store, "f").unwrap(), "closed");
    };
    let (store, disk) = two_lives(8, "flush=local,deadline=1", first, nothing);
    let keys = store.contents().keys();
    assert!(keys.len() == 2 && keys[1].starts_with("f.unfinished-"), "{keys:?}");
    assert_eq!((read(&store, "f").unwrap(), read(&store, &keys[1]).unwrap()), ("closed".into(), "ha".into()));
    assert_eq!(staged(&disk), [""; 0]);
}

/// A file that was made here and synced is no rewrite of itself: what is appended to it is kept under its name, as what is appended
/// to an object that was empty. One that is emptied again is a rewrite.
/// Promise: A whole object is never replaced by half of one.
#[test]
fn what_is_appended_before_a_kill_is_no_rewrite() {
    for (made_here, emptied) in [(true, false), (false, false), (true, true)] {
        let first = move |user: User, store: Arc<SimStore>| async move {
            let handle = match made_here {
                true => {
                    let handle = user.open("log", WRITE, true).await.unwrap();
                    user.fs.write(handle, 0, Bytes::from_static(b"one\n")).await.unwrap();
                    user.fs.fsync(handle).await.unwrap();
                    handle
                }
                false => {
                    store.contents().put("log", Bytes::new(), When::Always, Cause::File).await.unwrap();
                    user.open("log", WRITE, false).await.unwrap()
                }
            };
            if emptied {
                user.fs.write_at(handle, None, Bytes::from_static(b"two\n")).await.unwrap();
                user.open("log", OpenMode { truncate: true, ..WRITE }, false).await.unwrap();
            }
            user.fs.write_at(handle, None, Bytes::from_static(b"three\n")).await.unwrap();
        };
        let (store, disk) = two_lives(11, "", first, nothing);
        let seen: Vec<_> = store.contents().keys().iter().map(|key| read(&store, key).unwrap()).collect();
        let wanted: &[&str] = match (made_here, emptied) {
            (true, false) => &["one\nthree\n"],
            (false, false) => &["three\n"],
            (_, true) => &["one\n", "three\n"],
        };
        assert_eq!(seen, wanted);
        assert_eq!(staged(&disk), [""; 0]);
    }
}
