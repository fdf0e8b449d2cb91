//! What happens between two steps of an operation: another client's change, another process's, a second attempt.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::faults::{body, staged};
use super::user::{READ, STAGING, User, WRITE};
use crate::base::rt::sim::{Sim, SimDisk};
use crate::cache::DiskCache;
use crate::fs::core::Fs;
use crate::fs::errno::Errno;
use crate::fs::handles::How;
use crate::fs::options::MountOptions;
use crate::store::{Bucket as _, Cause, Reach, SimStore, Store as _, When};

const NEW: How = How { truncate: true, ..WRITE };

/// A rename fails; it is repeated, or done by hand, while the first is still being undone.
/// Promise: A directory's rename that fails leaves all of it at its old name.
#[test]
fn undoing_a_rename_takes_nothing_from_the_next() {
    let mut failed = 0;
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let files = disk.clone();
        failed += sim
            .run(async move {
                let user = User::mount(world.rt(), disk, inside.clone(), "deadline=2", STAGING).await;
                user.mkdir("a").await.unwrap();
                for i in 0..40 {
                    user.put(&format!("a/f{i}"), format!("is {i}").as_bytes()).await.unwrap();
                }
                user.walk("a").await.unwrap();
                let moving = {
                    let user = user.clone();
                    world.rt().spawn(async move { user.rename("a", "b", false).await.is_ok() })
                };
                world.rt().sleep(Duration::from_millis(seed * 4)).await;
                inside.faults(|f| f.reach = Reach::Refuses);
                let failed = !moving.await.unwrap();
                inside.faults(|f| f.reach = Reach::Up);
                world.rt().sleep(Duration::from_millis(world.below(12_000))).await;
                user.forget_all();
                if failed && seed % 2 == 0 && user.walk("a").await.is_ok() {
                    let moved = user.rename("a", "b", false).await;
                    assert!(moved.is_ok() || user.list("b", false).await.is_ok(), "seed {seed}: {moved:?}");
                } else if failed && user.walk("a").await.is_ok() {
                    let left = user.list("a", false).await.unwrap();
                    for name in left.iter().map(|item| String::from_utf8(item.name.to_vec()).unwrap()) {
                        // A rename that goes on to its end has moved it meanwhile.
                        let Ok(bytes) = user.get(&format!("a/{name}")).await else { continue };
                        let copy = format!("b/{name}");
                        for _ in 0..10 {
                            if user.put(&copy, &bytes).await.is_ok() {
                                break;
                            }
                            // The directory was only there for copies that have been taken away.
                            let _ = user.mkdir("b").await;
                        }
                        assert_eq!(user.get(&copy).await.unwrap(), bytes, "seed {seed}");
                        let gone = user.unlink(&format!("a/{name}")).await;
                        assert!(gone.is_ok() || gone.unwrap_err().errno == Errno::NOENT, "seed {seed}");
                    }
                }
                world.rt().sleep(Duration::from_secs(40)).await;
                user.fs.finish().await;
                failed
            })
            .map(usize::from)
            .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
        let keys: Vec<_> = store.contents().keys().into_iter().filter(|key| !key.ends_with('/')).collect();
        assert_eq!(keys.len(), 40, "seed {seed}: {keys:?}");
        for i in 0..40 {
            let [a, b] = ["a", "b"].map(|dir| format!("{dir}/f{i}"));
            let found = if keys.contains(&a) { a } else { b };
            let is = futures::executor::block_on(body(store.contents(), &found)).unwrap();
            assert_eq!(is, format!("is {i}"), "seed {seed}");
        }
        assert_eq!(staged(&files), [""; 0], "seed {seed}");
    }
    assert!(failed > 10, "{failed} failed: the faults are no test");
}

/// What another client puts at a file's old name while it is renamed is at one of the two names afterwards.
/// Promise: Renaming loses nothing.
#[test]
fn a_rename_takes_along_what_others_put() {
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside) = (sim.clone(), store.clone());
        sim.run(async move {
            let user = User::simulated(&world, inside.clone(), "").await;
            user.put("f", b"ours").await.unwrap();
            let moving = {
                let user = user.clone();
                world.rt().spawn(async move { user.rename("f", "g", false).await.is_ok() })
            };
            world.rt().sleep(Duration::from_millis(world.below(80))).await;
            let theirs = Bytes::from_static(b"theirs");
            inside.contents().put("f", theirs, When::Always, Cause::File).await.unwrap();
            assert!(moving.await.unwrap(), "seed {seed}");
            let found = [body(inside.contents(), "f").await, body(inside.contents(), "g").await];
            assert!(found.iter().flatten().any(|is| is == "theirs"), "seed {seed}: {found:?}");
        })
        .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    }
}

/// With `flush=local` as well a copy that the store is to make is stored when its close returns: this host has no byte
/// of it.
/// Promise: With `flush=local`, close returns when this host has the bytes.
#[test]
fn a_copy_in_the_bucket_is_stored_when_it_is_closed() {
    let sim = Sim::new(7);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "flush=local").await;
        let bytes = Bytes::from(vec![7; 1 << 20]);
        inside.contents().put("a", bytes.clone(), When::Always, Cause::File).await.unwrap();
        for (name, synced) in [("closed", false), ("synced", true)] {
            let from = user.open("a", READ, false).await.unwrap();
            let to = user.open(name, NEW, true).await.unwrap();
            assert_eq!(user.fs.copy_range(from, to, (0, 0), 1 << 20).await.unwrap(), 1 << 20);
            match synced {
                true => user.fs.fsync(to).await.unwrap(),
                false => user.close(to).await.unwrap(),
            }
            assert_eq!(body(inside.contents(), name).await.unwrap(), bytes, "{name}");
        }
    })
    .unwrap();
}

/// A version that was closed while the one before it was being kept as a conflict is kept as well.
/// Promise: An update made elsewhere is never overwritten.
#[test]
fn what_is_closed_while_a_conflict_is_kept_is_kept_too() {
    for seed in 0..40 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside) = (sim.clone(), store.clone());
        sim.run(async move {
            let user = User::simulated(&world, inside.clone(), "flush=local").await;
            user.put("f", b"before").await.unwrap();
            user.fs.idle().await;
            let handle = user.open("f", WRITE, false).await.unwrap();
            let theirs = Bytes::from_static(b"theirs");
            inside.contents().put("f", theirs, When::Always, Cause::File).await.unwrap();
            user.fs.write(handle, 0, Bytes::from_static(b"first!")).await.unwrap();
            user.fs.flush(handle).await.unwrap();
            let mut last = b"first!".to_vec();
            for version in 0..20u8 {
                world.rt().sleep(Duration::from_millis(world.below(30))).await;
                let bytes = vec![b'a' + version; 6];
                let wrote = user.fs.write(handle, 0, Bytes::from(bytes.clone())).await;
                if wrote.is_ok() && user.fs.flush(handle).await.is_ok() {
                    last = bytes;
                }
            }
            user.fs.release(handle).await;
            user.fs.idle().await;
            let mut found = Vec::new();
            for key in inside.contents().keys() {
                found.push(body(inside.contents(), &key).await.unwrap());
            }
            assert!(found.iter().any(|is| *is == last), "seed {seed}: {last:?} of {found:?}");
            assert_eq!(body(inside.contents(), "f").await.unwrap(), "theirs");
        })
        .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    }
}

/// A process that closes answers for what it wrote, also while another's close of the same handle is on its way.
/// Promise: When close or fsync returns success, the object is stored and is the file.
#[test]
fn a_close_answers_for_what_was_written_during_another() {
    for seed in 0..40 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside) = (sim.clone(), store.clone());
        sim.run(async move {
            let user = User::simulated(&world, inside.clone(), "").await;
            let handle = user.open("f", NEW, true).await.unwrap();
            user.fs.write(handle, 0, Bytes::from_static(b"one")).await.unwrap();
            let child = {
                let user = user.clone();
                world.rt().spawn(async move { user.fs.flush(handle).await.is_ok() })
            };
            world.rt().sleep(Duration::from_millis(world.below(40))).await;
            user.fs.write(handle, 3, Bytes::from_static(b"two")).await.unwrap();
            if seed % 2 == 0 {
                assert!(child.await.unwrap());
            }
            user.fs.flush(handle).await.unwrap();
            assert_eq!(body(inside.contents(), "f").await.unwrap(), "onetwo", "seed {seed}");
        })
        .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    }
}

/// A removal that nobody waits for any more leaves a file that can be closed.
/// Promise: When close or fsync returns success, the object is stored and is the file.
#[test]
fn a_removal_that_came_to_nothing_forgets_nothing() {
    let sim = Sim::new(5);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "").await;
        user.put("f", b"old").await.unwrap();
        let handle = user.open("f", NEW, false).await.unwrap();
        user.fs.write(handle, 0, Bytes::from_static(b"new")).await.unwrap();
        inside.faults(|f| (f.reach, f.patience) = (Reach::Silent, Duration::from_secs(1 << 30)));
        let late = world.rt().timeout(Duration::from_secs(3), user.unlink("f")).await;
        assert!(late.is_none());
        inside.faults(|f| f.reach = Reach::Up);
        user.close(handle).await.unwrap();
        assert_eq!(body(inside.contents(), "f").await.unwrap(), "new");
    })
    .unwrap();
}

/// A second open here finds another's object; who has the first one open is told, and gets nothing of the second.
/// Promise: A reader never sees two objects as one.
#[test]
fn a_second_open_gives_a_reader_no_other_object() {
    let sim = Sim::new(5);
    let store = SimStore::new(&sim, "s");
    let world = sim.clone();
    sim.run(async move {
        let user = User::simulated(&world, store.clone(), "").await;
        let put = |byte: u8| {
            let (body, store) = (Bytes::from(vec![byte; 4 << 20]), store.clone());
            async move { store.contents().put("f", body, When::Always, Cause::File).await.unwrap() }
        };
        put(1).await;
        let handle = user.open("f", READ, false).await.unwrap();
        assert_eq!(user.read(handle, 0, 1000).await.unwrap()[..], [1; 1000]);
        put(2).await;
        assert_eq!(user.another().get("f").await.unwrap(), vec![2; 4 << 20]);
        assert_eq!(user.read(handle, 3 << 20, 1000).await.unwrap_err().errno, Errno::STALE);
        user.close(handle).await.unwrap();
    })
    .unwrap();
}

/// `mkstemp` and `unlink` before the first byte: the next mount finds nothing.
/// Promise: What was removed stays removed.
#[test]
fn a_file_without_a_name_is_nobodys_after_a_kill() {
    for made in [false, true] {
        let sim = Sim::new(6);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let (process, again) = (world.process(), disk.clone());
        let (rt, at) = (world.process().rt(), process.rt());
        process
            .rt()
            .spawn(async move {
                let user = User::mount(at, disk, inside, "", STAGING).await;
                if made {
                    user.put("scratch", b"").await.unwrap();
                }
                let handle = user.open("scratch", WRITE, true).await.unwrap();
                user.unlink("scratch").await.unwrap();
                user.fs.write(handle, 0, Bytes::from_static(b"private")).await.unwrap();
                assert_eq!(user.read(handle, 0, 10).await.unwrap(), "private");
                std::future::pending::<()>().await;
            })
            .detach();
        let bucket = store.clone();
        sim.run(async move {
            rt.sleep(Duration::from_secs(60)).await;
            process.kill();
            let (options, staging) = (MountOptions::default(), STAGING.into());
            let (fs, unsent) =
                Fs::open(rt.clone(), again, bucket, options, staging, DiskCache::off()).await.unwrap();
            assert_eq!(unsent, []);
            fs.idle().await;
            fs.finish().await;
        })
        .unwrap();
        assert_eq!(store.contents().keys(), [""; 0], "made {made}");
    }
}

/// A new file whose close failed for want of an answer may be in the bucket: removing it says so there.
/// Promise: What was removed stays removed.
#[test]
fn what_may_have_been_stored_is_removed() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside) = (sim.clone(), store.clone());
        sim.run(async move {
            let user = User::simulated(&world, inside.clone(), "deadline=2").await;
            let handle = user.open("f", NEW, true).await.unwrap();
            user.fs.write(handle, 0, Bytes::from_static(b"x")).await.unwrap();
            inside.faults(|f| (f.lost, f.late) = (1000, Duration::ZERO));
            let closed = user.fs.flush(handle).await;
            inside.faults(|f| f.lost = 0);
            user.unlink("f").await.unwrap();
            user.fs.release(handle).await;
            user.fs.finish().await;
            assert_eq!(inside.contents().keys(), [""; 0], "seed {seed}: {closed:?}");
        })
        .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    }
}

/// A store that does not answer costs a large file's writes one wait and no more.
/// Promise: A store that hangs hangs nobody.
#[test]
fn writes_wait_once_for_an_upload_that_cannot_begin() {
    let sim = Sim::new(8);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "deadline=10").await;
        let handle = user.open("f", NEW, true).await.unwrap();
        inside.faults(|f| f.reach = Reach::Silent);
        let began = world.rt().now();
        for at in 0..64u64 {
            user.fs.write(handle, at << 20, Bytes::from(vec![1; 1 << 20])).await.unwrap();
        }
        let took = world.rt().now().since(began);
        assert!(took <= Duration::from_secs(20), "{took:?}");
        inside.faults(|f| f.reach = Reach::Up);
        user.close(handle).await.unwrap();
        assert_eq!(body(inside.contents(), "f").await.unwrap().len(), 64 << 20);
    })
    .unwrap();
}

/// Metadata that no object can hold is refused at once, also of a file that is not stored yet.
#[test]
fn metadata_that_no_object_holds_is_refused_before_the_close() {
    let sim = Sim::new(9);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "").await;
        let handle = user.open("f", NEW, true).await.unwrap();
        user.fs.write(handle, 0, Bytes::from_static(b"x")).await.unwrap();
        let ino = user.walk("f").await.unwrap();
        let refused = user.fs.setxattr(ino, b"user.big", Some(&[1; 1900]), false, false).await.unwrap_err();
        assert_eq!(refused.errno, Errno::NOSPC);
        user.fs.setxattr(ino, b"user.small", Some(&[1; 100]), false, false).await.unwrap();
        user.close(handle).await.unwrap();
        assert_eq!(body(inside.contents(), "f").await.unwrap(), "x");
    })
    .unwrap();
}

/// A file that somebody here reads and another client has replaced can be removed and replaced here.
#[test]
fn what_others_replaced_can_be_removed_while_it_is_read() {
    let sim = Sim::new(10);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "").await;
        for (name, replaced) in [("f", false), ("g", true)] {
            user.put(name, &[1; 300_000]).await.unwrap();
            world.rt().sleep(Duration::from_secs(20)).await;
            user.forget_all();
            let handle = user.open(name, READ, false).await.unwrap();
            let theirs = Bytes::from_static(b"theirs");
            inside.contents().put(name, theirs, When::Always, Cause::File).await.unwrap();
            match replaced {
                false => user.unlink(name).await.unwrap(),
                true => {
                    user.put("tmp", b"ours").await.unwrap();
                    user.rename("tmp", name, false).await.unwrap();
                }
            }
            assert_eq!(user.read(handle, 200_000, 10).await.unwrap_err().errno, Errno::STALE);
            user.close(handle).await.unwrap();
        }
        assert_eq!(inside.contents().keys(), ["g"]);
        assert_eq!(body(inside.contents(), "g").await.unwrap(), "ours");
    })
    .unwrap();
}

/// A link's target is asked for once, and again when the object is another.
#[test]
fn a_link_leads_where_the_object_says() {
    let sim = Sim::new(11);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "").await;
        let (parent, name) = user.above("l").await.unwrap();
        user.fs.symlink(parent, name, b"one", super::user::ME).await.unwrap();
        let ino = user.walk("l").await.unwrap();
        assert_eq!(user.fs.readlink(ino).await.unwrap(), "one");
        let asked = inside.requests();
        assert_eq!(user.fs.readlink(ino).await.unwrap(), "one");
        assert_eq!(inside.requests(), asked, "known");
        let attrs = inside.contents().head("l", Cause::File).await.unwrap().unwrap().attrs;
        let theirs = Bytes::from_static(b"two");
        inside.contents().put_with("l", theirs, &attrs, When::Always, Cause::File).await.unwrap();
        world.rt().sleep(Duration::from_secs(20)).await;
        let ino = user.walk("l").await.unwrap();
        assert_eq!(user.fs.readlink(ino).await.unwrap(), "two");
    })
    .unwrap();
}
