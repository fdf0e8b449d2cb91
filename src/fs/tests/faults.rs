//! Stores that fail, hang and lose answers; clients that overtake each other; daemons that are killed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::user::{READ, STAGING, User, WRITE};
use crate::base::rt::sim::{Sim, SimDisk};
use crate::fs::core::Fs;
use crate::fs::errno::Errno;
use crate::fs::handles::How;
use crate::fs::options::MountOptions;
use crate::store::{ByteRange, Cause, MemStore, Reach, SimStore, Store as _, When};

async fn body(store: &MemStore, key: &str) -> Option<Bytes> {
    store.get(key, ByteRange::Whole { max: 1 << 30 }, Cause::File).await.unwrap().map(|f| f.body)
}

/// Two mounts write one object at once: one wins, the other is told, and both contents still exist.
#[test]
fn no_update_is_lost_silently() {
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let files = disk.clone();
        let fresh = seed % 2 == 0;
        let failed = sim.run(async move {
            let mut users = Vec::new();
            for i in 0..2 {
                let staging = format!("{STAGING}{i}");
                users.push(User::mount(world.rt(), disk.clone(), inside.clone(), "", &staging).await);
            }
            if !fresh {
                users[0].put("f", b"before").await.unwrap();
                world.rt().sleep(Duration::from_secs(20)).await;
            }
            let mut open = Vec::new();
            for (i, user) in users.into_iter().enumerate() {
                let handle = user.open("f", How { truncate: i == 1, ..WRITE }, true).await.unwrap();
                let bytes = Bytes::from(format!("written by {i}"));
                user.fs.write(handle, 0, bytes).await.unwrap();
                open.push((user, handle));
            }
            let close = |(user, handle): (User, u64)| {
                world.rt().spawn(async move { user.close(handle).await.map_err(|f| f.errno) })
            };
            let writers: Vec<_> = open.into_iter().map(close).collect();
            let mut failed = Vec::new();
            for (i, writer) in writers.into_iter().enumerate() {
                match writer.await.unwrap() {
                    Ok(()) => {
                        assert_eq!(body(inside.contents(), "f").await.unwrap(), format!("written by {i}"))
                    }
                    Err(errno) => {
                        assert_eq!(errno, Errno::STALE);
                        failed.push(i);
                    }
                }
            }
            failed
        });
        let failed = failed.unwrap();
        assert_eq!(failed.len(), 1, "seed {seed}: one of two wins");
        let kept: Vec<_> =
            files.files().into_iter().filter(|(p, _)| p.extension().is_some_and(|e| e == "data")).collect();
        assert_eq!(kept.len(), 1, "seed {seed}: the loser's bytes are kept");
        assert!(kept[0].0.starts_with(format!("{STAGING}{}/0", failed[0])));
    }
}

/// Whatever the store does, a close that succeeded means that the object is the file; one that failed means that
/// the object is the old or the new file, whole, and that the bytes are kept unless the object has them.
#[test]
fn a_close_says_what_became_of_the_file() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..40 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let out = sim.run(async move {
            let user = User::mount(world.rt(), disk.clone(), inside.clone(), "deadline=3", STAGING).await;
            inside.faults(|f| (f.errors, f.lost, f.late) = (60, 120, Duration::from_secs(1)));
            let (mut good, mut bad) = (0, 0);
            for i in 0..30u64 {
                let key = format!("f{}", i % 5);
                let before = body(inside.contents(), &key).await;
                let bytes = vec![i as u8; 1000 + i as usize];
                let closed = user.put(&key, &bytes).await;
                world.rt().sleep(Duration::from_secs(20)).await;
                let after = body(inside.contents(), &key).await;
                let new = after.as_deref() == Some(&bytes[..]);
                match closed {
                    Ok(()) => assert!(new, "seed {seed}, write {i}: closed with success, but not stored"),
                    Err(_) => assert!(new || after == before, "seed {seed}, write {i}: torn"),
                }
                if new {
                    good += 1
                } else {
                    bad += 1
                }
                user.forget_all();
            }
            (good, bad)
        });
        let out = out.unwrap();
        good += out.0;
        bad += out.1;
    }
    assert!(good > 500 && bad > 10, "{good} good, {bad} bad: the faults are no test");
}

/// A store that says nothing: every operation ends with an error within its time.
#[test]
fn a_hung_store_hangs_nobody() {
    let sim = Sim::new(3);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "deadline=5,metadata_ttl=0").await;
        user.put("f", b"x").await.unwrap();
        user.mkdir("d").await.unwrap();
        let open = user.open("f", WRITE, false).await.unwrap();
        inside.faults(|f| (f.reach, f.patience) = (Reach::Silent, Duration::from_secs(1 << 30)));
        let rt = world.rt();
        let late = |began: crate::base::rt::Instant| {
            let took = rt.now().since(began);
            assert!(took <= Duration::from_secs(25), "{took:?}");
        };
        macro_rules! ends {
            ($op:expr) => {{
                let began = rt.now();
                let errno = user.fs.bounded(async { $op }).await.map(|_| ()).unwrap_err().errno;
                assert_eq!(errno, Errno::TIMEDOUT, stringify!($op));
                late(began);
            }};
        }
        ends!(user.get("g").await);
        ends!(user.stat("d").await);
        ends!(user.mkdir("e").await);
        ends!(user.list("", true).await);
        ends!(user.unlink("f").await);
        ends!(user.rename("f", "g", false).await);
        user.fs.write(open, 0, Bytes::from_static(b"y")).await.unwrap();
        let began = rt.now();
        assert_eq!(user.fs.flush(open).await.unwrap_err().errno, Errno::TIMEDOUT);
        late(began);
        inside.faults(|f| f.reach = Reach::Up);
        user.close(open).await.unwrap();
        assert_eq!(body(inside.contents(), "f").await.unwrap(), "y");
    })
    .unwrap();
}

/// What was not sent when the daemon was killed is named at the next mount, and stays.
#[test]
fn unsent_files_survive_a_kill() {
    let sim = Sim::new(4);
    let store = SimStore::new(&sim, "s");
    let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
    let (rt, process) = (world.process().rt(), world.process());
    let (inside, first) = (store.clone(), disk.clone());
    let life = process.rt();
    let at = life.clone();
    life.spawn(async move {
        let user = User::mount(at, first, inside.clone(), "deadline=1", STAGING).await;
        user.put("sent", b"sent").await.unwrap();
        let handle = user.open("unsent", How { truncate: true, ..WRITE }, true).await.unwrap();
        user.fs.write(handle, 0, Bytes::from_static(b"precious")).await.unwrap();
        inside.faults(|f| f.reach = Reach::Refuses);
        user.close(handle).await.unwrap_err();
        std::future::pending::<()>().await;
    })
    .detach();
    let (inside, again) = (store.clone(), disk.clone());
    sim.run(async move {
        rt.sleep(Duration::from_secs(60)).await;
        process.kill();
        inside.faults(|f| f.reach = Reach::Up);
        let (bucket, options) = (inside.clone(), MountOptions::default());
        let (fs, unsent) = Fs::open(rt.clone(), again, bucket, options, STAGING.into()).await.unwrap();
        let [left] = &unsent[..] else { panic!("{unsent:?}") };
        assert_eq!((left.key.as_str(), left.bytes), ("unsent", 8));
        fs.finish().await;
        assert!(body(inside.contents(), "sent").await.is_some());
    })
    .unwrap();
    let kept = disk.files().into_iter().filter(|(p, _)| p.extension().is_some_and(|e| e == "data")).count();
    assert_eq!(kept, 1);
}

/// A reader whose object is replaced is told, and never gets bytes of two objects.
#[test]
fn a_reader_never_sees_two_objects_as_one() {
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
        let errno = user.read(handle, 3 << 20, 1000).await.unwrap_err().errno;
        assert_eq!(errno, Errno::STALE);
        user.close(handle).await.unwrap();
        assert_eq!(user.get("f").await.unwrap(), vec![2; 4 << 20]);
    })
    .unwrap();
}

/// A file is renamed to and fro while it is written and synced: whatever was synced last is in the bucket, once.
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
            let handle = user.open("d/f", How { truncate: true, ..WRITE }, true).await.unwrap();
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

/// A file that was removed while it was being sent does not come back.
#[test]
fn what_was_removed_stays_removed() {
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside) = (sim.clone(), store.clone());
        sim.run(async move {
            let user = User::simulated(&world, inside.clone(), "").await;
            let handle = user.open("f", How { truncate: true, ..WRITE }, true).await.unwrap();
            user.fs.write(handle, 0, Bytes::from_static(b"x")).await.unwrap();
            let closer = user.clone();
            let closing = world.rt().spawn(async move { closer.close(handle).await.map_err(|f| f.errno) });
            world.rt().sleep(Duration::from_millis(world.below(40))).await;
            user.unlink("f").await.unwrap();
            closing.await.unwrap().unwrap();
            world.rt().sleep(Duration::from_secs(60)).await;
            assert_eq!(inside.contents().keys(), [""; 0], "seed {seed}");
        })
        .unwrap();
    }
}
