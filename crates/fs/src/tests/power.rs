//! Hosts that lose power: a disk keeps any part of what was not synced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::faults::{body, staged};
use super::user::{STAGING, User, WRITE};
use crate::object::{MountOptions, Op};
use crate::ops::{Changes, Fs};
use crate::staging::Unsent;
use crate::tree::ROOT;
use windlass_base::rt::sim::{Process, Sim, SimDisk, World};
use windlass_cache::DiskCache;
use windlass_store::{Cause, SimStore, Store as _, When};

/// A file that is synced at times and changed in place.
#[derive(Default, Clone)]
struct Synced {
    /// The file's bytes when fsync last returned.
    durable: Option<Vec<u8>>,
    now: Vec<u8>,
    /// Bytes that were written since then, at their places.
    since: Vec<(usize, Vec<u8>)>,
}

impl Synced {
    fn may_be(&self, found: &[u8]) -> bool {
        let Some(durable) = &self.durable else { return true };
        let longest = self.since.iter().map(|(at, bytes)| at + bytes.len()).max().unwrap_or(0);
        // Lost sectors of a new file are zeros.
        let written = |i: usize, byte: u8| {
            let since = self.since.iter().filter_map(|(at, bytes)| bytes.get(i.checked_sub(*at)?));
            since.into_iter().any(|wrote| byte == *wrote || byte == 0)
        };
        let may = |(i, byte): (usize, &u8)| match durable.get(i) {
            Some(was) => was == byte || written(i, *byte),
            None => *byte == 0 || written(i, *byte),
        };
        (durable.len()..=durable.len().max(longest)).contains(&found.len())
            && found.iter().enumerate().all(may)
    }
}

/// A file that is never synced.
#[derive(Default)]
struct Closed {
    /// The bucket had it when this life began.
    known: bool,
    /// Contents with which the file was closed.
    may: Vec<Vec<u8>>,
}

impl Closed {
    /// A new file, whose last note may be the one with which it was made, is what the disk has kept of it.
    fn may_be(&self, found: &[u8]) -> bool {
        let wrote =
            |(i, byte): (usize, &u8)| *byte == 0 || self.may.iter().any(|may| may.get(i) == Some(byte));
        let part = || !self.known && found.iter().enumerate().all(wrote);
        self.may.iter().any(|may| found == may) || part()
    }
}

/// Contents that were promised to survive.
#[derive(Default)]
struct Promised {
    /// Files that are only ever put as a whole and closed.
    closed: BTreeMap<String, Closed>,
    synced: BTreeMap<String, Synced>,
}

type Shared = Arc<Mutex<Promised>>;

fn noise(world: &World, most: u64) -> Vec<u8> {
    vec![1 + world.below(255) as u8; 1 + world.below(most) as usize]
}

/// Lengths on both sides of what a slot takes.
fn length(world: &World) -> u64 {
    if world.below(4) == 0 { 120_000 } else { 9000 }
}

async fn put_closed(user: &User, world: &World, promised: &Shared) -> Op<()> {
    let key = format!("c{}", world.below(3));
    let bytes = noise(world, 9000);
    promised.lock().closed.entry(key.clone()).or_default().may.push(bytes.clone());
    user.put(&key, &bytes).await
}

async fn change_synced(user: &User, world: &World, promised: &Shared, keys: u64) -> Op<()> {
    let key = format!("s{}", world.below(keys));
    let bytes = noise(world, length(world));
    let at = {
        let mut promised = promised.lock();
        let file = promised.synced.entry(key.clone()).or_default();
        let at = world.below(file.now.len() as u64 + 1) as usize;
        file.since.push((at, bytes.clone()));
        let end = file.now.len().max(at + bytes.len());
        file.now.resize(end, 0);
        file.now[at..at + bytes.len()].copy_from_slice(&bytes);
        at
    };
    let handle = user.open(&key, WRITE, true).await?;
    let mut done = user.fs.write(handle, at as u64, Bytes::from(bytes)).await;
    let fresh = promised.lock().synced[&key].durable.is_none();
    if done.is_ok() && (fresh || world.below(2) == 0) {
        done = user.fs.fsync(handle).await;
        if done.is_ok() {
            let mut promised = promised.lock();
            let file = promised.synced.get_mut(&key).unwrap();
            (file.durable, file.since) = (Some(file.now.clone()), Vec::new());
        }
    }
    done.and(user.close(handle).await)
}

/// The next mount sends what it finds; what it can't, it tells.
pub async fn mount_again(world: &World, disk: &Arc<SimDisk>, store: &Arc<SimStore>) -> Vec<Unsent> {
    let (rt, cache) = (world.rt(), DiskCache::off());
    let options = MountOptions::default();
    let (fs, unsent) =
        Fs::open(rt, disk.clone(), store.clone(), options, STAGING.into(), cache).await.unwrap();
    fs.idle().await;
    fs.finish().await;
    unsent
}

/// Checks that the bucket holds what was promised; from here on the promises go on from what it holds.
async fn check(store: &SimStore, promised: &Shared, unsent: &[Unsent], note: &str) {
    let Promised { closed, synced } = std::mem::take(&mut *promised.lock());
    for (key, file) in closed {
        let is = body(store.contents(), &key).await;
        assert!(is.is_some() || !file.known, "{note}: {key} is gone");
        if let Some(is) = is {
            assert!(file.may_be(&is), "{note}: {key} was never closed as this");
            promised.lock().closed.insert(key, Closed { known: true, may: vec![is.to_vec()] });
        }
    }
    for (key, file) in synced {
        let is = body(store.contents(), &key).await;
        assert!(is.is_some() || file.durable.is_none(), "{note}: {key} was synced, and is gone");
        let told = unsent.iter().any(|one| one.key == key);
        assert!(!told || file.durable.is_none(), "{note}: {key} was synced, and is held back");
        if let Some(is) = is {
            assert!(file.may_be(&is), "{note}: {key} was synced, and is something else");
            let (durable, now) = (Some(is.to_vec()), is.to_vec());
            promised.lock().synced.insert(key, Synced { durable, now, since: Vec::new() });
        }
    }
}

/// The power fails at any moment of writing, closing and syncing files, also while the store is away. What fsync
/// answered for is in the bucket after the next mount, changed at most by what was written since; and no file that was
/// there before is what its program never closed.
/// Promise: With `flush=local`, fsync returns when the bytes survive a loss of power.
#[test]
fn losses_of_power_lose_nothing_synced() {
    for seed in 0..super::model::seeds(40) {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
        let files = disk.clone();
        let told = sim.run(async move {
            let promised = Shared::default();
            let mut told = 0;
            for generation in 0..4 {
                let process = world.process();
                let (rt, its, bucket) = (process.rt(), disk.clone(), store.clone());
                let (at, ours) = (world.clone(), promised.clone());
                let work = async move {
                    let user = User::mount(rt, its, bucket.clone(), "deadline=5,flush=local", STAGING).await;
                    // In an outage all waits on this disk.
                    let outage = at.below(2) == 0;
                    bucket.faults(|f| f.errors = if outage { 1000 } else { 0 });
                    loop {
                        // What failed promised nothing.
                        let _ = match at.below(2) {
                            0 => put_closed(&user, &at, &ours).await,
                            _ => change_synced(&user, &at, &ours, 3 * (generation + 1)).await,
                        };
                        user.forget_all();
                    }
                };
                process.rt().spawn(work).detach();
                world.rt().sleep(Duration::from_millis(300 + world.below(2000))).await;
                process.kill();
                disk.power_loss();
                store.faults(|f| f.errors = 0);
                world.rt().sleep(Duration::from_secs(10)).await;
                let unsent = mount_again(&world, &disk, &store).await;
                told += unsent.len();
                check(&store, &promised, &unsent, &format!("seed {seed} life {generation}")).await;
            }
            told
        });
        let told = told.unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
        assert!(told > 0 || staged(&files).is_empty(), "seed {seed}: {:?}", staged(&files));
    }
}

/// A synced file that changes takes another stage; what it left behind may come back with the power, and is known.
/// Promise: With `flush=local`, fsync returns when the bytes survive a loss of power.
#[test]
fn what_a_file_has_outgrown_does_not_come_back() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk, inside) = (sim.clone(), Arc::new(SimDisk::new(&sim)), store.clone());
        let files = disk.clone();
        sim.run(async move {
            let process = world.process();
            let bucket = inside.clone();
            let user =
                User::mount(process.rt(), disk.clone(), bucket, "deadline=5,flush=local", STAGING).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            inside.faults(|f| f.errors = 1000);
            for letter in [b'a', b'b', b'c', b'd'] {
                user.fs.write(handle, u64::from(letter), vec![letter; 10].into()).await.unwrap();
                user.fs.fsync(handle).await.unwrap();
            }
            process.kill();
            disk.power_loss();
            inside.faults(|f| f.errors = 0);
            world.rt().sleep(Duration::from_secs(10)).await;
            assert_eq!(mount_again(&world, &disk, &inside).await, []);
            let is = body(inside.contents(), "f").await.unwrap();
            assert_eq!((is.len(), &is[96..]), (110, &b"\0abcdddddddddd"[..]), "seed {seed}");
        })
        .unwrap();
        assert_eq!(store.contents().keys(), ["f"], "seed {seed}: nothing is kept beside");
        assert_eq!(staged(&files), [""; 0], "seed {seed}");
    }
}

/// A closed file that goes to a larger stage and one that is emptied and written again are whole after a loss of power:
/// as they were, or as they were closed since.
#[test]
fn a_synced_version_goes_for_one_that_is() {
    for seed in 0..40 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk, inside) = (sim.clone(), Arc::new(SimDisk::new(&sim)), store.clone());
        sim.run(async move {
            let process = world.process();
            let bucket = inside.clone();
            let user =
                User::mount(process.rt(), disk.clone(), bucket, "deadline=5,flush=local", STAGING).await;
            let grown = user.open("grown", WRITE, true).await.unwrap();
            let emptied = user.open("emptied", WRITE, true).await.unwrap();
            inside.faults(|f| f.errors = 1000);
            user.fs.write(grown, 0, vec![1; 50_000].into()).await.unwrap();
            user.fs.flush(grown).await.unwrap();
            // The neighbour's sync is the first one's too.
            user.fs.write(emptied, 0, vec![1; 3000].into()).await.unwrap();
            user.fs.fsync(emptied).await.unwrap();
            let ino = user.fs.file(emptied).unwrap().ino;
            user.fs
                .setattr(ino, Changes { size: Some(0), ..Changes::default() }, Some(emptied))
                .await
                .unwrap();
            user.fs.write(emptied, 0, vec![2; 4000].into()).await.unwrap();
            user.fs.flush(emptied).await.unwrap();
            user.fs.write(grown, 50_000, vec![2; 60_000].into()).await.unwrap();
            process.kill();
            disk.power_loss();
            inside.faults(|f| f.errors = 0);
            world.rt().sleep(Duration::from_secs(10)).await;
            assert_eq!(mount_again(&world, &disk, &inside).await, [], "seed {seed}");
            let is = body(inside.contents(), "emptied").await.unwrap();
            assert!(is == [1; 3000][..] || is == [2; 4000][..], "seed {seed}: it was synced");
            let is = body(inside.contents(), "grown").await.unwrap();
            assert!(is.len() >= 50_000 && is[..50_000] == [1; 50_000], "seed {seed}: this disk had it");
        })
        .unwrap();
    }
}

/// A disk that fails while a synced file changes its stage leaves one of the two.
#[test]
fn a_change_of_stage_that_fails_leaves_no_second_file() {
    for seed in 0..10 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk, inside) = (sim.clone(), Arc::new(SimDisk::new(&sim)), store.clone());
        let files = disk.clone();
        sim.run(async move {
            let process = world.process();
            let bucket = inside.clone();
            let user =
                User::mount(process.rt(), disk.clone(), bucket, "deadline=5,flush=local", STAGING).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            inside.faults(|f| f.errors = 1000);
            user.fs.write(handle, 0, vec![b'a'; 10].into()).await.unwrap();
            user.fs.fsync(handle).await.unwrap();
            disk.faults(|f| f.sync_fails = 1000);
            user.fs.write(handle, 10, vec![b'b'; 10].into()).await.unwrap_err();
            disk.faults(|f| f.sync_fails = 0);
            let again = seed % 2 == 0;
            if again {
                // It has its old stage still, and changes it now.
                user.fs.write(handle, 10, vec![b'c'; 10].into()).await.unwrap();
                user.fs.flush(handle).await.unwrap();
            }
            process.kill();
            drop(user);
            inside.faults(|f| f.errors = 0);
            world.rt().sleep(Duration::from_secs(10)).await;
            assert_eq!(mount_again(&world, &disk, &inside).await, []);
            let is = body(inside.contents(), "f").await.unwrap();
            let want = if again { &b"aaaaaaaaaacccccccccc"[..] } else { b"aaaaaaaaaa" };
            assert_eq!(is, want, "seed {seed}");
        })
        .unwrap();
        assert_eq!(store.contents().keys(), ["f"], "seed {seed}: nothing is kept beside");
        assert_eq!(staged(&files), [""; 0], "seed {seed}");
    }
}

/// A file that is written anew and outgrows a slot before it is closed leaves the synced version standing.
#[test]
fn what_is_not_closed_takes_no_place() {
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk, inside) = (sim.clone(), Arc::new(SimDisk::new(&sim)), store.clone());
        sim.run(async move {
            let process = world.process();
            let bucket = inside.clone();
            let user =
                User::mount(process.rt(), disk.clone(), bucket, "deadline=5,flush=local", STAGING).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            inside.faults(|f| f.errors = 1000);
            user.fs.write(handle, 0, vec![1; 3000].into()).await.unwrap();
            user.fs.fsync(handle).await.unwrap();
            let ino = user.fs.file(handle).unwrap().ino;
            user.fs
                .setattr(ino, Changes { size: Some(0), ..Changes::default() }, Some(handle))
                .await
                .unwrap();
            user.fs.write(handle, 0, vec![2; 50_000].into()).await.unwrap();
            let again = user.fs.clone();
            let write = async move {
                let _ = again.write(handle, 50_000, vec![3; 60_000].into()).await;
            };
            process.rt().spawn(write).detach();
            world.rt().sleep(Duration::from_micros(world.below(20_000))).await;
            process.kill();
            drop(user);
            if seed % 3 > 0 {
                disk.power_loss();
            }
            inside.faults(|f| f.errors = 0);
            world.rt().sleep(Duration::from_secs(10)).await;
            mount_again(&world, &disk, &inside).await;
            let is = body(inside.contents(), "f").await.unwrap();
            assert_eq!(is, [1; 3000][..], "seed {seed}");
        })
        .unwrap();
    }
}

/// The power fails while a synced file takes another stage: one of the two has its bytes.
#[test]
fn a_synced_file_survives_its_change_of_stage() {
    for seed in 0..super::model::seeds(100) {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk, inside) = (sim.clone(), Arc::new(SimDisk::new(&sim)), store.clone());
        sim.run(async move {
            let process = world.process();
            let bucket = inside.clone();
            let user =
                User::mount(process.rt(), disk.clone(), bucket, "deadline=5,flush=local", STAGING).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            let other = user.open("other", WRITE, true).await.unwrap();
            inside.faults(|f| f.errors = 1000);
            user.fs.write(handle, 0, vec![1; 50_000].into()).await.unwrap();
            user.fs.fsync(handle).await.unwrap();
            // Its syncs of the folder make the other's name durable too.
            user.fs.write(other, 0, vec![9; 200_000].into()).await.unwrap();
            let fs = user.fs.clone();
            let syncs = async move { while fs.fsync(other).await.is_ok() {} };
            process.rt().spawn(syncs).detach();
            let fails = seed % 4 == 0;
            disk.faults(|f| f.sync_fails = if fails { 700 } else { 0 });
            let fs = user.fs.clone();
            let write = async move {
                for _ in 0..3 {
                    let _ = fs.write(handle, 50_000, vec![2; 10_000].into()).await;
                }
            };
            process.rt().spawn(write).detach();
            world.rt().sleep(Duration::from_micros(world.below(20_000))).await;
            process.kill();
            drop(user);
            disk.power_loss();
            disk.faults(|f| f.sync_fails = 0);
            inside.faults(|f| f.errors = 0);
            world.rt().sleep(Duration::from_secs(10)).await;
            mount_again(&world, &disk, &inside).await;
            let is = body(inside.contents(), "f").await.unwrap();
            assert!(is.len() >= 50_000 && is[..50_000] == [1; 50_000], "seed {seed}: it was synced");
        })
        .unwrap();
    }
}

pub async fn mounted(world: &World, disk: &Arc<SimDisk>, inside: &Arc<SimStore>) -> (Process, User) {
    let process = world.process();
    let options = "deadline=5,flush=local,metadata_ttl=600";
    let user = User::mount(process.rt(), disk.clone(), inside.clone(), options, STAGING).await;
    (process, user)
}

/// A new file is open and the store is away; `change` is what a user does then, until the power goes. Judged is what the
/// next mount stores of it.
fn after_a_loss<F: Future<Output = ()> + Send>(
    seeds: std::ops::Range<u64>,
    key: &'static str,
    change: impl Fn(User, Arc<SimDisk>, u64) -> F + Clone + Send + 'static,
    judge: impl Fn(&[u8]) -> bool,
) {
    after_an_end(true, seeds, key, change, judge);
}

/// Does what `after_a_loss` does, or, without `power`, has the daemon die alone.
fn after_an_end<F: Future<Output = ()> + Send>(
    power: bool,
    seeds: std::ops::Range<u64>,
    key: &'static str,
    change: impl Fn(User, Arc<SimDisk>, u64) -> F + Clone + Send + 'static,
    judge: impl Fn(&[u8]) -> bool,
) {
    for seed in seeds {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk, change) = (sim.clone(), Arc::new(SimDisk::new(&sim)), change.clone());
        let (is, unsent) = sim
            .run(async move {
                let (process, user) = mounted(&world, &disk, &store).await;
                let handle = user.open(key, WRITE, true).await.unwrap();
                user.stat("other").await.unwrap_err();
                store.faults(|f| f.errors = 1000);
                change(user, disk.clone(), handle).await;
                process.kill();
                if power {
                    disk.power_loss();
                }
                store.faults(|f| f.errors = 0);
                world.rt().sleep(Duration::from_secs(10)).await;
                let unsent = mount_again(&world, &disk, &store).await;
                (body(store.contents(), key).await, unsent)
            })
            .unwrap();
        let runs =
            is.as_deref().map(|is| is.chunk_by(|a, b| a == b).map(|c| (c[0], c.len())).collect::<Vec<_>>());
        assert!(is.is_some_and(|is| judge(&is)), "seed {seed}: {runs:?}, {unsent:?}");
    }
}

/// A file that was synced, is begun anew and gets so many bytes.
pub async fn synced_and_anew(user: &User, handle: u64, len: usize) {
    user.fs.write(handle, 0, vec![1; 3000].into()).await.unwrap();
    user.fs.fsync(handle).await.unwrap();
    empty(user, handle).await;
    user.fs.write(handle, 0, vec![2; len].into()).await.unwrap();
}

/// The version that was synced, or the next one as far as anything was said of it.
fn one_of_two(len: usize) -> impl Fn(&[u8]) -> bool {
    move |is| is == [1; 3000] || is.len() >= len && is[..len].iter().all(|byte| *byte == 2)
}

/// Promise: With `flush=local`, an fsync that failed is not made good by the next one.
#[test]
fn a_sync_that_failed_replaces_no_synced_version() {
    for len in [4000, 200_000] {
        let change = move |user: User, disk: Arc<SimDisk>, handle: u64| async move {
            synced_and_anew(&user, handle, len).await;
            disk.faults(|f| f.sync_fails = 1000);
            user.fs.fsync(handle).await.unwrap_err();
            disk.faults(|f| f.sync_fails = 0);
            // In a slot it moves to a sound place; in a file of its own the disk can't tell what it has lost.
            user.fs.write(handle, len as u64, vec![2; 10].into()).await.unwrap();
            assert_eq!(user.fs.flush(handle).await.is_ok(), len < 100_000);
        };
        after_a_loss(0..30, "f", change, one_of_two(len));
    }
}

/// Promise: With `flush=local`, an fsync that failed is not made good by the next one.
#[test]
fn a_sync_that_failed_fails_again() {
    let sim = Sim::new(1);
    let store = SimStore::new(&sim, "s");
    let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
    sim.run(async move {
        let (_process, user) = mounted(&world, &disk, &store).await;
        let handle = user.open("f", WRITE, true).await.unwrap();
        store.faults(|f| f.errors = 1000);
        user.fs.write(handle, 0, vec![2; 200_000].into()).await.unwrap();
        disk.faults(|f| f.sync_fails = 1000);
        user.fs.fsync(handle).await.unwrap_err();
        disk.faults(|f| f.sync_fails = 0);
        let why = user.fs.fsync(handle).await.unwrap_err().why.unwrap().to_string();
        assert!(why.contains("an earlier sync failed"), "{why}");
        store.faults(|f| f.errors = 0);
        world.rt().sleep(Duration::from_secs(200)).await;
        assert_eq!(
            body(store.contents(), "f").await,
            Some(vec![2; 200_000].into()),
            "it is stored all the same"
        );
    })
    .unwrap();
}

/// Notes longer than a sector, which a loss of power may tear.
#[test]
fn notes_that_were_not_synced_leave_the_one_that_was() {
    const LONG: &str = concat!(
        "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk",
        "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk",
    );
    for len in [50_000, 150_000] {
        let change = move |user: User, _, handle: u64| async move {
            user.fs.write(handle, 0, vec![1; len].into()).await.unwrap();
            user.fs.fsync(handle).await.unwrap();
            user.fs.write(handle, len as u64, vec![2; 1000].into()).await.unwrap();
            user.fs.flush(handle).await.unwrap();
        };
        after_a_loss(0..100, LONG, change, |is| is.len() >= len && is[..len].iter().all(|byte| *byte == 1));
    }
}

#[test]
fn a_rename_that_can_not_send_replaces_no_synced_version() {
    for len in [4000, 200_000] {
        let change = move |user: User, _, handle: u64| async move {
            synced_and_anew(&user, handle, len).await;
            user.fs.rename(ROOT, b"f", ROOT, b"other", false).await.unwrap_err();
            user.fs.write(handle, len as u64, vec![2; 10].into()).await.unwrap();
        };
        after_a_loss(0..50, "f", change, one_of_two(len));
    }
}

pub async fn empty(user: &User, handle: u64) {
    let ino = user.fs.file(handle).unwrap().ino;
    let empty = Changes { size: Some(0), ..Changes::default() };
    user.fs.setattr(ino, empty, Some(handle)).await.unwrap();
}

/// A file that took the place of a synced version, or could not, is emptied and written again.
#[test]
fn a_version_is_not_lost_with_the_one_that_was_to_replace_it() {
    for (power, len) in [(false, 4000), (false, 200_000), (true, 4000), (true, 200_000)] {
        let renamed = move |user: User, _, handle: u64| async move {
            synced_and_anew(&user, handle, len).await;
            user.fs.rename(ROOT, b"f", ROOT, b"other", false).await.unwrap_err();
            empty(&user, handle).await;
            user.fs.write(handle, 0, vec![3; 10].into()).await.unwrap();
        };
        after_an_end(power, 0..15, "f", renamed, |is| is == [1; 3000] || is == vec![2; len]);
        let failed = move |user: User, disk: Arc<SimDisk>, handle: u64| async move {
            synced_and_anew(&user, handle, len).await;
            disk.faults(|f| f.sync_fails = 1000);
            user.fs.flush(handle).await.unwrap_err();
            disk.faults(|f| f.sync_fails = 0);
            empty(&user, handle).await;
            user.fs.write(handle, 0, vec![3; 10].into()).await.unwrap();
        };
        after_an_end(power, 0..15, "f", failed, |is| is == [1; 3000]);
    }
}

/// A file that took the place of a synced version is emptied and written again while the queue tries again
/// and again. When the bucket comes back, it never gets what nobody closed.
#[test]
fn what_follows_a_failed_close_is_not_sent_before_its_own() {
    for len in [4000, 200_000] {
        let sim = Sim::new(1);
        let store = SimStore::new(&sim, "s");
        let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
        sim.run(async move {
            let (_process, user) = mounted(&world, &disk, &store).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            store.faults(|f| f.errors = 1000);
            synced_and_anew(&user, handle, len).await;
            disk.faults(|f| f.sync_fails = 1000);
            user.fs.flush(handle).await.unwrap_err();
            disk.faults(|f| f.sync_fails = 0);
            empty(&user, handle).await;
            user.fs.write(handle, 0, vec![3; 10].into()).await.unwrap();
            world.rt().sleep(Duration::from_secs(100)).await;
            store.faults(|f| f.errors = 0);
            world.rt().sleep(Duration::from_secs(100)).await;
            assert_eq!(body(store.contents(), "f").await, Some(vec![1; 3000].into()), "what was synced");
            user.fs.write(handle, 10, vec![3; 10].into()).await.unwrap();
            user.close(handle).await.unwrap();
            user.fs.idle().await;
            assert_eq!(body(store.contents(), "f").await, Some(vec![3; 20].into()));
            user.fs.finish().await;
            assert_eq!(staged(&disk), [""; 0]);
        })
        .unwrap();
    }
}

/// One that the disk can't promise is stored all the same, by the mount that has it.
#[test]
fn a_file_whose_sync_failed_is_stored_once_the_bucket_is_back() {
    for len in [4000, 200_000] {
        let sim = Sim::new(1);
        let store = SimStore::new(&sim, "s");
        let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
        sim.run(async move {
            let (_process, user) = mounted(&world, &disk, &store).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            store.faults(|f| f.errors = 1000);
            synced_and_anew(&user, handle, len).await;
            disk.faults(|f| f.sync_fails = 1000);
            user.fs.fsync(handle).await.unwrap_err();
            disk.faults(|f| f.sync_fails = 0);
            user.fs.flush(handle).await.unwrap_err();
            store.faults(|f| f.errors = 0);
            world.rt().sleep(Duration::from_secs(200)).await;
            assert_eq!(body(store.contents(), "f").await, Some(vec![2; len].into()));
            // The bucket has it: what is written from here on is as safe as ever.
            for value in 3..6 {
                user.fs.write(handle, 0, vec![value; len].into()).await.unwrap();
                user.fs.fsync(handle).await.unwrap();
                user.fs.flush(handle).await.unwrap();
                user.fs.idle().await;
                assert_eq!(body(store.contents(), "f").await, Some(vec![value; len].into()));
            }
            user.fs.release(handle).await;
            user.put("f", &[7; 100]).await.unwrap();
            user.rename("f", "g", false).await.unwrap();
            user.fs.finish().await;
            assert_eq!(staged(&disk), [""; 0]);
        })
        .unwrap();
    }
}

/// The daemon dies within the close of a rewrite; the next mount takes that for closed, and loses its host's power.
#[test]
fn a_mount_keeps_what_it_takes_up() {
    for (len, seed) in (0..120).map(|n| (if n % 2 == 0 { 4000 } else { 200_000 }, n)) {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
        let is = sim.run(async move {
            let (process, user) = mounted(&world, &disk, &store).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            store.faults(|f| f.errors = 1000);
            synced_and_anew(&user, handle, len).await;
            let fs = user.fs.clone();
            process.rt().spawn(async move { fs.flush(handle).await }).detach();
            world.rt().sleep(Duration::from_micros(world.below(30_000))).await;
            process.kill();
            drop(user);
            // It answers, and takes nothing.
            store.faults(|f| f.errors = 0);
            let process = world.process();
            let (its, bucket, rt) = (disk.clone(), store.clone(), process.rt());
            let up = async move {
                let options = "deadline=5,flush=local";
                let _user = User::mount(rt.clone(), its, bucket.clone(), options, STAGING).await;
                bucket.faults(|f| f.errors = 1000);
                rt.sleep(Duration::from_secs(1000)).await;
            };
            process.rt().spawn(up).detach();
            world.rt().sleep(Duration::from_secs(3)).await;
            process.kill();
            disk.power_loss();
            store.faults(|f| f.errors = 0);
            world.rt().sleep(Duration::from_secs(10)).await;
            mount_again(&world, &disk, &store).await;
            body(store.contents(), "f").await
        });
        let is = is.unwrap();
        let one = is.as_deref().is_some_and(|is| is == [1; 3000] || is == vec![2; len]);
        assert!(one, "seed {seed}: {:?}", is.map(|is| (is.len(), is.first().copied())));
    }
}

/// A version that was synced meets another's object while the store takes nothing, and the file is being written anew.
#[test]
fn a_synced_version_that_is_refused_is_kept() {
    for seed in 0..100 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
        let kept = sim.run(async move {
            let (process, user) = mounted(&world, &disk, &store).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            store.faults(|f| f.errors = 1000);
            user.fs.write(handle, 0, vec![1; 3000].into()).await.unwrap();
            user.fs.fsync(handle).await.unwrap();
            store
                .contents()
                .put("f", Bytes::from_static(b"theirs"), When::Always, Cause::File)
                .await
                .unwrap();
            // It refuses, and answers hardly anything else.
            store.faults(|f| f.errors = 900);
            world.rt().sleep(Duration::from_millis(world.below(40_000))).await;
            let ino = user.fs.file(handle).unwrap().ino;
            let cut = Changes { size: Some(0), ..Changes::default() };
            let _ = user.fs.setattr(ino, cut, Some(handle)).await;
            let _ = user.fs.write(handle, 0, vec![2; 100].into()).await;
            world.rt().sleep(Duration::from_millis(world.below(100_000))).await;
            process.kill();
            store.faults(|f| f.errors = 0);
            world.rt().sleep(Duration::from_secs(10)).await;
            drop(user);
            mount_again(&world, &disk, &store).await;
            let mut all = Vec::new();
            for key in store.contents().keys() {
                all.push(body(store.contents(), &key).await.unwrap());
            }
            all
        });
        let kept = kept.unwrap();
        assert!(kept.iter().any(|body| body == "theirs"), "seed {seed}");
        assert!(
            kept.iter().any(|body| *body == vec![1; 3000]),
            "seed {seed}: {:?}",
            kept.iter().map(Bytes::len).collect::<Vec<_>>()
        );
    }
}
