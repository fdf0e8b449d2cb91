//! Renames that are cut off, fail, are repeated, or meet other clients' changes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::faults::{body, read, staged};
use super::user::{STAGING, User, WRITE};
use crate::object::{Errno, MountOptions};
use crate::ops::{Changes, Fs};
use crate::tree::OpenMode;
use windlass_base::rt::sim::{Sim, SimDisk};
use windlass_cache::DiskCache;
use windlass_store::{Cause, Reach, SimStore, Store as _, When};

/// A file is renamed to and fro while it is written and synced: whatever was synced last is in the bucket, once.
/// Promise: Renaming loses nothing.
#[test]
fn a_rename_loses_nothing_that_is_being_sent() {
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside) = (sim.clone(), store.clone());
        sim.run(async move {
            let user = User::simulated(&world, inside.clone(), "").await;
            let folders = seed % 2 == 0;
            user.mkdir("d").await.unwrap();
            let handle = user.open("d/f", OpenMode { truncate: true, ..WRITE }, true).await.unwrap();
            let (mover, rt) = (user.clone(), world.rt());
            let moving = rt.spawn(async move {
                for i in 0..6 {
                    let (from, to) = if i % 2 == 0 { ("d", "e") } else { ("e", "d") };
                    let done = match folders {
                        true => mover.rename(from, to, false).await,
                        false => {
                            mover
                                .rename(
                                    &format!("d/{}", if i % 2 == 0 { "f" } else { "g" }),
                                    &format!("d/{}", if i % 2 == 0 { "g" } else { "f" }),
                                    false,
                                )
                                .await
                        }
                    };
                    done.unwrap();
                }
            });
            for i in 0..20u8 {
                user.fs.write(handle, 0, Bytes::from(vec![i; 2000])).await.unwrap();
                user.fs.fsync(handle).await.unwrap();
            }
            moving.await.unwrap();
            user.close(handle).await.unwrap();
            let keys: Vec<_> = inside.contents().keys().into_iter().filter(|k| !k.ends_with('/')).collect();
            assert_eq!(keys, ["d/f"], "seed {seed}");
            assert_eq!(body(inside.contents(), "d/f").await.unwrap(), vec![19; 2000], "seed {seed}");
        })
        .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    }
}

/// Promise: A directory's rename that a crash cut off is finished by the next mount.
#[test]
fn a_directory_is_renamed_whole_or_not_at_all() {
    const FILES: usize = 40;
    let (mut old_names, mut new_names) = (0, 0);
    // 121: a copy of the mount that was killed lands while the next one copies.
    for seed in (0..super::model::seeds(50)).chain([121]) {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
        let (inside, again, files) = (store.clone(), disk.clone(), disk.clone());
        sim.run(async move {
            let contents = inside.contents().clone();
            for i in 0..FILES {
                let (key, body) = (format!("a/x/f{i}"), Bytes::from(format!("is {i}")));
                contents.put(&key, body, When::Always, Cause::File).await.unwrap();
            }
            inside.faults(|f| f.latency = (Duration::from_millis(1), Duration::from_millis(10)));
            let process = world.process();
            let (rt, bucket, disk) = (process.rt(), inside.clone(), disk.clone());
            process
                .rt()
                .spawn(async move {
                    let user = User::mount(rt, disk, bucket, "", STAGING).await;
                    user.rename("a", "b", false).await.unwrap();
                    std::future::pending::<()>().await;
                })
                .detach();
            world.rt().sleep(Duration::from_millis(world.below(160))).await;
            process.kill();
            world.rt().sleep(Duration::from_secs(1)).await;
            if seed % 3 == 0 {
                // Somebody else's, at an old name and at a new one.
                let theirs = || Bytes::from_static(b"theirs");
                contents.put("a/x/f3", theirs(), When::Always, Cause::File).await.unwrap();
                contents.put("b/x/f5", theirs(), When::Always, Cause::File).await.unwrap();
            }
            let options = MountOptions::default();
            let (fs, _) =
                Fs::open(world.rt(), again, inside.clone(), options, STAGING.into(), DiskCache::off())
                    .await
                    .unwrap();
            fs.finish().await;
        })
        .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
        let keys: Vec<_> = store.contents().keys().into_iter().filter(|k| !k.ends_with('/')).collect();
        let (old, new) = (keys.iter().filter(|k| k.starts_with("a/")).count(), keys.len());
        if seed % 3 == 0 {
            assert!(["a/x/f3", "b/x/f5"].iter().any(|k| read(&store, k).is_some_and(|b| b == "theirs")));
            for i in (0..FILES).filter(|i| *i != 3 && *i != 5) {
                let found = [format!("a/x/f{i}"), format!("b/x/f{i}")].map(|k| read(&store, &k));
                assert!(found.iter().flatten().all(|b| *b == format!("is {i}")), "seed {seed}: f{i}");
                assert!(found.iter().flatten().count() == 1, "seed {seed}: f{i} {found:?}");
            }
        } else {
            assert!(new == FILES && (old == 0 || old == FILES), "seed {seed}: {keys:?}");
            let folder = if old == 0 { "b" } else { "a" };
            for i in 0..FILES {
                assert_eq!(read(&store, &format!("{folder}/x/f{i}")).unwrap(), format!("is {i}"));
            }
            if old == 0 { new_names += 1 } else { old_names += 1 }
        }
        assert_eq!(staged(&files), [""; 0], "seed {seed}");
    }
    assert!(old_names > 0 && new_names > 5, "{old_names} kept, {new_names} renamed: the kills are no test");
}

/// Promise: A directory's rename that fails leaves all of it at its old name.
#[test]
fn a_failed_rename_is_undone() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let files = disk.clone();
        let renamed = sim.run(async move {
            let user = User::mount(world.rt(), disk.clone(), inside.clone(), "deadline=2", STAGING).await;
            for i in 0..30 {
                let key = format!("a/f{i}");
                inside
                    .contents()
                    .put(&key, Bytes::from(key.clone()), When::Always, Cause::File)
                    .await
                    .unwrap();
            }
            user.walk("a").await.unwrap();
            inside.faults(|f| f.errors = 60);
            let renamed = user.rename("a", "b", false).await;
            inside.faults(|f| f.errors = 0);
            user.fs.finish().await;
            // What even the undoing could not do, the next mount does.
            let options = MountOptions::default();
            let (fs, _) =
                Fs::open(world.rt(), disk, inside.clone(), options, STAGING.into(), DiskCache::off())
                    .await
                    .unwrap();
            fs.finish().await;
            renamed.is_ok()
        });
        let renamed = renamed.unwrap();
        let keys = store.contents().keys();
        let folder = if keys.iter().all(|k| k.starts_with("b/")) { "b/" } else { "a/" };
        assert!(keys.len() == 30 && keys.iter().all(|k| k.starts_with(folder)), "seed {seed}: {keys:?}");
        assert!(!renamed || folder == "b/", "seed {seed}");
        assert_eq!(staged(&files), [""; 0], "seed {seed}");
    }
}

/// A rename that the store cut off is ended as soon as the store answers again, without another mount.
/// Promise: A directory's rename that fails leaves all of it at its old name.
#[test]
fn a_failed_rename_leaves_one_of_two_names() {
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let files = disk.clone();
        sim.run(async move {
            let user = User::mount(world.rt(), disk, inside.clone(), "deadline=2", STAGING).await;
            for i in 0..60 {
                let (key, body) = (format!("a/f{i}"), Bytes::from(format!("is {i}")));
                inside.contents().put(&key, body, When::Always, Cause::File).await.unwrap();
            }
            user.walk("a").await.unwrap();
            let moving = {
                let user = user.clone();
                world.rt().spawn(async move { user.rename("a", "b", false).await.is_ok() })
            };
            world.rt().sleep(Duration::from_millis(seed * 5)).await;
            inside.faults(|f| f.reach = Reach::Refuses);
            moving.await.unwrap();
            inside.faults(|f| f.reach = Reach::Up);
            world.rt().sleep(Duration::from_secs(30)).await;
            let keys = inside.contents().keys();
            let folder = if keys.iter().any(|k| k.starts_with("b/")) { "b" } else { "a" };
            assert!(keys.len() == 60 && keys.iter().all(|k| k.starts_with(folder)), "seed {seed}: {keys:?}");
            user.forget_all();
            user.rename(folder, "c", false).await.unwrap();
            user.fs.finish().await;
        })
        .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
        assert!(store.contents().keys().iter().all(|k| k.starts_with("c/")), "seed {seed}");
        assert_eq!(staged(&files), [""; 0], "seed {seed}");
    }
}

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

/// An object that another client puts at a file's old name while it is renamed is at one of the two names
/// afterwards.
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

/// A directory with a mode of its own is renamed over an empty one, and the mount is killed, or the store goes away, at any
/// moment: whichever name has its file afterwards has its mode too.
/// Promise: A mode, owner or time that was set is shown by every stat from then on.
#[test]
fn a_directory_renamed_over_another_keeps_its_mode() {
    let (mut done, mut not) = (0, 0);
    for seed in 0..90 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
        let moved = sim
            .run(async move {
                let process = world.process();
                let user =
                    User::mount(process.rt(), disk.clone(), store.clone(), "deadline=2", STAGING).await;
                let mode = |mode| Changes { mode: Some(mode), ..Changes::default() };
                // A directory without a marker shows the default.
                let marked = seed % 4 != 3;
                if marked {
                    user.mkdir("a").await.unwrap();
                    user.fs.setattr(user.walk("a").await.unwrap(), mode(0o700), None).await.unwrap();
                }
                let key = if marked { "a/f" } else { "a/x" };
                store
                    .contents()
                    .put(key, Bytes::from_static(b"secret"), When::Always, Cause::File)
                    .await
                    .unwrap();
                user.mkdir("b").await.unwrap();
                user.fs.setattr(user.walk("b").await.unwrap(), mode(0o711), None).await.unwrap();
                user.forget_all();
                store.faults(|f| f.latency = (Duration::from_millis(1), Duration::from_millis(5)));
                let moving = {
                    let user = user.clone();
                    process.rt().spawn(async move { drop(user.rename("a", "b", false).await) })
                };
                // Some are left alone, some are killed, and of some the store goes away for a while.
                world.rt().sleep(Duration::from_millis(if seed < 10 { 10_000 } else { seed % 45 })).await;
                if seed % 2 == 0 {
                    process.kill();
                } else {
                    store.faults(|f| f.reach = Reach::Refuses);
                    world.rt().sleep(Duration::from_secs(4)).await;
                    store.faults(|f| f.reach = Reach::Up);
                    world.rt().sleep(Duration::from_secs(40)).await;
                    moving.await.unwrap();
                    user.fs.finish().await;
                }
                drop(user);
                world.rt().sleep(Duration::from_secs(1)).await;
                let next = User::mount(world.rt(), disk, store.clone(), "", STAGING).await;
                let [a, b] = [next.stat("a").await, next.stat("b").await];
                let [a, b] = [a, b].map(|found| found.ok().map(|entry| entry.attributes.mode & 0o7777));
                let is = if marked { 0o700 } else { 0o755 };
                let name = key.strip_prefix("a/").unwrap();
                let moved = next.get(&format!("b/{name}")).await.is_ok();
                let stayed = next.get(&format!("a/{name}")).await.is_ok();
                let (wanted, was) =
                    if moved { ((None, Some(is)), "moved") } else { ((Some(is), Some(0o711)), "stayed") };
                assert!(
                    moved != stayed,
                    "seed {seed}: {moved} {stayed} {a:?} {b:?} {:?}",
                    store.contents().keys()
                );
                assert_eq!((a, b), wanted, "seed {seed}: {was}");
                next.forget_all();
                next.fs.finish().await;
                moved
            })
            .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
        if moved { done += 1 } else { not += 1 }
    }
    assert!(done > 20 && not > 5, "{done} moved, {not} stayed: the faults are no test");
}
