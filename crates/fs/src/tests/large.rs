//! Large files: what leaves while they are written, what is copied instead of sent, and that the bytes are right.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::requests::Counted;
use super::user::{READ, STAGING, User, WRITE};
use crate::object::{Errno, MountOptions};
use crate::ops::{Changes, Fs};
use crate::tree::OpenMode;
use windlass_base::rt::sim::{Sim, SimDisk, World};
use windlass_cache::DiskCache;
use windlass_store::{
    Bucket as _, ByteRange, Cause, MemStore, Patience, Reach, Retrying, SimStore, Store as _, When,
};

const NEW: OpenMode = OpenMode { truncate: true, ..WRITE };
const MIB: u64 = 1 << 20;

async fn body(store: &MemStore, key: &str) -> Bytes {
    store.get(key, ByteRange::Whole { max: 1 << 30 }, Cause::File).await.unwrap().unwrap().body
}

fn at(seed: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (seed as usize * 31 + i / 1000) as u8).collect()
}

/// A large file's life: written in order with jumps back, cut, grown, appended to, edited, closed, opened again; each
/// time the object is what a plain array says.
async fn generation(world: &World, user: &User, store: &MemStore) {
    let mut want: Vec<u8> = Vec::new();
    let mut handle = user.open("f", NEW, true).await.unwrap();
    for step in 0..50 {
        match world.below(12) {
            0..6 if want.len() < 60 << 20 => {
                let data = at(step, world.below(7 << 20) as usize + 1);
                user.fs.write(handle, want.len() as u64, data.clone().into()).await.unwrap();
                want.extend_from_slice(&data);
            }
            6 | 7 if !want.is_empty() => {
                let from = world.below(want.len() as u64) as usize;
                let data = at(step, (world.below(90_000) as usize + 1).min(want.len() - from));
                want[from..from + data.len()].copy_from_slice(&data);
                user.fs.write(handle, from as u64, data.into()).await.unwrap();
            }
            8 => {
                let size = (want.len() as u64).saturating_sub(world.below(9 << 20)) + world.below(4 << 20);
                let ino = user.fs.file(handle).unwrap().ino;
                let changes = Changes { size: Some(size), ..Changes::default() };
                user.fs.setattr(ino, changes, Some(handle)).await.unwrap();
                want.resize(size as usize, 0);
            }
            9 => user.fs.fsync(handle).await.unwrap(),
            10 => {
                user.close(handle).await.unwrap();
                assert!(body(store, "f").await == want, "closed with other bytes");
                handle = user.open("f", WRITE, false).await.unwrap();
            }
            _ => {
                let from = world.below(want.len() as u64 + 1);
                let bytes = user.read(handle, from, 100_000).await.unwrap();
                assert!(bytes == want[from as usize..want.len().min(from as usize + 100_000)]);
            }
        }
    }
    user.close(handle).await.unwrap();
    assert!(body(store, "f").await == want);
    user.forget_all();
}

/// Promise: A large new file leaves while it is written.
#[test]
fn large_files_are_what_was_written() {
    for seed in 0..super::model::seeds(3) {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside) = (sim.clone(), store.clone());
        sim.run(async move {
            let user = User::simulated(&world, inside.clone(), "").await;
            generation(&world, &user, inside.contents()).await;
            let left = inside.contents().multipart_list("", Cause::File).await.unwrap();
            assert!(left.is_empty(), "seed {seed}: uploads are left: {left:?}");
        })
        .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    }
}

/// Promise: A large new file leaves while it is written.
#[test]
fn a_large_file_leaves_while_it_is_written() {
    let sim = Sim::new(1);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "").await;
        let handle = user.open("f.bin", NEW, true).await.unwrap();
        for i in 0..100 {
            user.fs.write(handle, i * MIB, Bytes::from(vec![i as u8; MIB as usize])).await.unwrap();
            world.rt().sleep(Duration::from_millis(100)).await;
        }
        let before = inside.requests();
        user.close(handle).await.unwrap();
        let rest = inside.requests() - before;
        assert!(rest <= 3, "{rest} requests were left for the end: the last part and the completion");
        assert_eq!(body(inside.contents(), "f.bin").await.len(), 100 << 20);
        let stat = user.stat("f.bin").await.unwrap();
        // Times that somebody sets are the object's, though its upload began before.
        let handle = user.open("g", NEW, true).await.unwrap();
        for i in 0..40 {
            user.fs.write(handle, i * MIB, Bytes::from(vec![i as u8; MIB as usize])).await.unwrap();
        }
        let ino = user.fs.file(handle).unwrap().ino;
        let mtime = Some(crate::object::Ns(7));
        user.fs
            .setattr(ino, Changes { mtime, mode: Some(0o640), ..Changes::default() }, Some(handle))
            .await
            .unwrap();
        user.close(handle).await.unwrap();
        user.forget_all();
        world.rt().sleep(Duration::from_secs(20)).await;
        let again = user.stat("g").await.unwrap();
        assert_eq!((again.attributes.mtime.0, again.attributes.mode), (7, 0o100640));
        assert_eq!(user.stat("f.bin").await.unwrap().attributes.mtime, stat.attributes.mtime);
    })
    .unwrap();
}

/// Promise: An upload that a crash cut off is given up by the next mount.
#[test]
fn uploads_cut_off_are_given_up() {
    let sim = Sim::new(2);
    let store = SimStore::new(&sim, "s");
    let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
    let (process, inside) = (world.process(), store.clone());
    sim.run(async move {
        let (rt, early, bucket) = (process.rt(), disk.clone(), inside.clone());
        let writing = async move {
            let user = User::mount(rt, early, bucket, "", STAGING).await;
            let handle = user.open("f", NEW, true).await.unwrap();
            for i in 0..40 {
                user.fs.write(handle, i * MIB, Bytes::from(vec![i as u8; MIB as usize])).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        process.rt().spawn(writing).detach();
        world.rt().sleep(Duration::from_secs(60)).await;
        process.kill();
        let contents = inside.contents();
        assert_eq!(contents.multipart_list("", Cause::File).await.unwrap().len(), 1);
        let options = MountOptions::default();
        let (fs, unsent) =
            Fs::open(world.rt(), disk, inside.clone(), options, STAGING.into(), DiskCache::off())
                .await
                .unwrap();
        assert_eq!(unsent, []);
        fs.idle().await;
        fs.finish().await;
        assert!(contents.multipart_list("", Cause::File).await.unwrap().is_empty());
        assert_eq!(body(contents, "f").await.len(), 40 << 20);
    })
    .unwrap();
}

/// Promise: copy_file_range of a whole file to a new one moves no bytes.
#[test]
fn copies_are_made_by_the_store() {
    let sim = Sim::new(3);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "").await;
        let bytes = at(1, 20 << 20);
        inside.contents().put("a", bytes.clone().into(), When::Always, Cause::File).await.unwrap();
        for (name, what) in ["plain", "edited", "unlinked", "renamed", "overwritten"].into_iter().zip(0..) {
            let (from, to) =
                (user.open("a", READ, false).await.unwrap(), user.open(name, NEW, true).await.unwrap());
            let part = user.fs.copy_range(from, to, (0, 0), 7 * MIB).await.unwrap_err().errno;
            assert_eq!(part, Errno::OPNOTSUPP);
            let size = bytes.len() as u64;
            assert_eq!(user.fs.copy_range(from, to, (0, 0), 1 << 31).await.unwrap(), size);
            assert_eq!(user.fs.copy_range(from, to, (size, size), 1).await.unwrap(), 0);
            assert!(body(inside.contents(), name).await == bytes, "{name} is stored before its close");
            let mut want = bytes.clone();
            match what {
                1 => {
                    user.fs.write(to, 9 << 20, Bytes::from_static(b"edit")).await.unwrap();
                    want[9 << 20..(9 << 20) + 4].copy_from_slice(b"edit");
                    let over = user.fs.copy_range(from, to, (0, 0), 1 << 31).await.unwrap_err().errno;
                    assert_eq!(over, Errno::OPNOTSUPP);
                }
                2 => user.unlink("a").await.unwrap(),
                3 => user.rename("a", "b", false).await.unwrap(),
                4 => user.put("a", b"other").await.unwrap(),
                _ => {}
            }
            assert!(user.read(to, 9 << 20, 4).await.unwrap() == want[9 << 20..(9 << 20) + 4]);
            user.close(to).await.unwrap();
            user.close(from).await.unwrap();
            assert!(body(inside.contents(), name).await == want, "{name}");
            inside.contents().put("a", bytes.clone().into(), When::Always, Cause::File).await.unwrap();
            user.forget_all();
            world.rt().sleep(Duration::from_secs(20)).await;
        }
        // An object that somebody else changed is not copied, and a new one there is not replaced.
        for (key, name) in [("a", "late"), ("taken", "taken")] {
            let (from, to) =
                (user.open("a", READ, false).await.unwrap(), user.open(name, NEW, true).await.unwrap());
            inside.contents().put(key, Bytes::from_static(b"new"), When::Always, Cause::File).await.unwrap();
            let refused = user.fs.copy_range(from, to, (0, 0), 1 << 31).await.unwrap_err().errno;
            assert_eq!(refused, Errno::OPNOTSUPP, "{name}");
            user.fs.write(to, 0, Bytes::from_static(b"written")).await.unwrap();
            let closed = user.close(to).await;
            assert_eq!(closed.is_err(), name == "taken", "{closed:?}");
            user.close(from).await.unwrap();
            inside.contents().put("a", bytes.clone().into(), When::Always, Cause::File).await.unwrap();
            world.rt().sleep(Duration::from_secs(20)).await;
        }
        assert!(body(inside.contents(), "taken").await == b"new"[..]);
    })
    .unwrap();
}

/// Promise: An object's Content-Type comes from its name.
#[test]
fn types_come_from_names() {
    let sim = Sim::new(4);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "").await;
        let kind = |key: &'static str| {
            let store = inside.clone();
            async move { store.contents().head(key, Cause::File).await.unwrap().unwrap().attrs.content_type }
        };
        user.put("a.html", b"x").await.unwrap();
        assert_eq!(kind("a.html").await.as_deref(), Some("text/html"));
        user.put(".a.css.tmp", b"x").await.unwrap();
        assert_eq!(kind(".a.css.tmp").await, None);
        user.rename(".a.css.tmp", "a.css", false).await.unwrap();
        assert_eq!(kind("a.css").await.as_deref(), Some("text/css"));
        assert_eq!(user.get("a.css").await.unwrap(), b"x");
    })
    .unwrap();
}

/// Promise: The store's own facts are read as xattrs.
#[test]
fn the_store_is_read_by_xattrs() {
    let sim = Sim::new(6);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "").await;
        user.put("a.html", b"x").await.unwrap();
        let ino = user.walk("a.html").await.unwrap();
        let etag = inside.contents().head("a.html", Cause::File).await.unwrap().unwrap().etag.0;
        assert_eq!(user.fs.getxattr(ino, b"s3.etag").await.unwrap(), etag.into_bytes());
        assert_eq!(user.fs.getxattr(ino, b"s3.content-type").await.unwrap(), b"text/html");
        assert_eq!(user.fs.getxattr(ino, b"s3.storage-class").await.unwrap(), b"STANDARD");
        let errno = |name: &'static [u8]| {
            let user = user.clone();
            async move { user.fs.getxattr(ino, name).await.unwrap_err().errno }
        };
        assert_eq!(errno(b"s3.version-id").await, Errno::NODATA);
        assert_eq!(errno(b"s3.url").await, Errno::OPNOTSUPP);
        assert_eq!(errno(b"s3.other").await, Errno::OPNOTSUPP);
        assert!(user.fs.listxattr(ino).await.unwrap().is_empty());
        let set = user.fs.setxattr(ino, b"s3.etag", Some(b"x"), false, false).await;
        assert_eq!(set.unwrap_err().errno, Errno::OPNOTSUPP);
    })
    .unwrap();
}

/// A bucket that fails while a large file is written costs nothing but time.
#[test]
fn parts_that_fail_early_are_sent_at_the_end() {
    let sim = Sim::new(5);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "deadline=2").await;
        let handle = user.open("f", NEW, true).await.unwrap();
        for i in 0..60 {
            let reach = if i % 20 > 10 { Reach::Refuses } else { Reach::Up };
            inside.faults(|f| f.reach = reach);
            user.fs.write(handle, i * MIB, Bytes::from(vec![i as u8; MIB as usize])).await.unwrap();
            world.rt().sleep(Duration::from_millis(40)).await;
        }
        inside.faults(|f| f.reach = Reach::Up);
        user.close(handle).await.unwrap();
        let body = body(inside.contents(), "f").await;
        assert!(body.len() == 60 << 20 && (0..60usize).all(|i| body[i << 20] == i as u8));
    })
    .unwrap();
}

/// A part that is written to while it is on its way, and takes long: it is sent again when that has ended, or what left
/// first would be the part.
#[test]
fn a_part_is_sent_again_when_what_left_before_has_ended() {
    let sim = Sim::new(8);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "").await;
        let handle = user.open("f", NEW, true).await.unwrap();
        let usual = Duration::from_millis(1);
        for i in 0..25 {
            let slow = Duration::from_secs(20);
            inside.faults(|f| f.latency = if i < 24 { (usual, usual) } else { (slow, slow) });
            user.fs.write(handle, i * MIB, Bytes::from(vec![i as u8; MIB as usize])).await.unwrap();
        }
        // Three parts have left.
        world.rt().sleep(Duration::from_secs(1)).await;
        inside.faults(|f| f.latency = (usual, usual));
        user.fs.write(handle, 5, Bytes::from_static(b"other")).await.unwrap();
        user.close(handle).await.unwrap();
        let body = body(inside.contents(), "f").await;
        assert!(body.len() == 25 << 20 && body[..5] == [0; 5] && body[5..10] == *b"other");
        assert!((0..25usize).all(|i| body[(i << 20) + 99] == i as u8));
    })
    .unwrap();
}

/// Eight parts that leave together on a line of 5 Mbit/s take almost two minutes, each of them, and have that
/// time.
/// Promise: A store that hangs hangs nobody.
#[test]
fn parts_that_leave_together_have_time_for_all() {
    let sim = Sim::new(9);
    let world = sim.clone();
    sim.run(async move {
        let store = Counted::new(&world.rt());
        let patient = Retrying::new(&world.rt(), store.clone(), Patience::default());
        let user = User::simulated(&world, patient, "").await;
        store.slow(5_000_000 / 8);
        let handle = user.open("f", NEW, true).await.unwrap();
        for i in 0..64 {
            user.fs.write(handle, i * MIB, Bytes::from(vec![i as u8; MIB as usize])).await.unwrap();
        }
        let began = world.rt().now();
        user.close(handle).await.unwrap();
        let took = world.rt().now().since(began);
        assert!(took > Duration::from_secs(90), "{took:?} is no test");
        let found = store.get("f", ByteRange::Whole { max: 1 << 30 }, Cause::File).await.unwrap().unwrap();
        assert!(found.body.len() == 64 << 20 && (0..64usize).all(|i| found.body[i << 20] == i as u8));
    })
    .unwrap();
}

/// Zeros are sent like any bytes: nobody gets a terabyte of them by one call.
/// Promise: A hole is stored as zeros, and one of more than 64 GiB is refused.
#[test]
fn endless_holes_are_refused() {
    let sim = Sim::new(1);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "").await;
        let handle = user.open("f", NEW, true).await.unwrap();
        let byte = || Bytes::from_static(b"x");
        assert_eq!(user.fs.write(handle, 1 << 40, byte()).await.unwrap_err().errno, Errno::FBIG);
        let grown = user.fs.allocate(handle, 0, 1 << 40, false, false).await;
        assert_eq!(grown.unwrap_err().errno, Errno::FBIG);
        user.fs.write(handle, 10_000, byte()).await.unwrap();
        user.close(handle).await.unwrap();
        let body = body(inside.contents(), "f").await;
        assert!(body.len() == 10_001 && body[..10_000].iter().all(|b| *b == 0) && body[10_000] == b'x');
    })
    .unwrap();
}
