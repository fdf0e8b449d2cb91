//! Stores that fail, hang and lose answers; clients that overtake each other; daemons that are killed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::user::{READ, STAGING, User, WRITE};
use crate::bucket::BucketClient;
use crate::object::{Errno, Meta as _, MountOptions};
use crate::ops::Fs;
use crate::tree::{OpenMode, Pending};
use windlass_base::Kind;
use windlass_base::rt::sim::{Sim, SimDisk};
use windlass_cache::DiskCache;
use windlass_store::{
    Attrs, Bucket as _, ByteRange, Cause, FileStore, MemStore, Reach, SimStore, Store as _, When,
};

pub(super) async fn body(store: &MemStore, key: &str) -> Option<Bytes> {
    store.get(key, ByteRange::Whole { max: 1 << 30 }, Cause::File).await.unwrap().map(|f| f.body)
}

/// Files that wait in the staging folders.
pub(super) fn staged(disk: &SimDisk) -> Vec<String> {
    let names = disk.files().into_iter().map(|(p, _)| p.display().to_string());
    names.filter(|p| !p.ends_with("lock")).collect()
}

/// Two mounts write one object at once: one wins, the other is told, and both contents still exist.
/// Promise: An update made elsewhere is never overwritten.
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
            let mounts: Vec<_> = users.iter().map(|user| user.fs.clone()).collect();
            for (i, user) in users.into_iter().enumerate() {
                let handle = user.open("f", OpenMode { truncate: i == 1, ..WRITE }, true).await.unwrap();
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
            for fs in mounts {
                fs.finish().await;
            }
            failed
        });
        let failed = failed.unwrap();
        assert_eq!(failed.len(), 1, "seed {seed}: one of two wins");
        let beside: Vec<_> = store.contents().keys().into_iter().filter(|k| k != "f").collect();
        assert!(beside.len() == 1 && beside[0].starts_with("f.conflict-"), "seed {seed}: {beside:?}");
        let kept = futures::executor::block_on(body(store.contents(), &beside[0])).unwrap();
        let wrote = format!("written by {}", failed[0]);
        assert!(kept.starts_with(wrote.as_bytes()), "seed {seed}: the loser's bytes are kept");
        assert_eq!(staged(&files), [""; 0], "seed {seed}");
    }
}

/// Somebody else's object of the same size and times is not taken for ours.
/// Promise: An update made elsewhere is never overwritten.
#[test]
fn equal_times_do_not_make_an_object_ours() {
    let sim = Sim::new(3);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "").await;
        let handle = user.open("f", OpenMode { truncate: true, ..WRITE }, true).await.unwrap();
        user.fs.write(handle, 0, Bytes::from_static(b"ours")).await.unwrap();
        let attributes = user.stat("f").await.unwrap().attributes;
        let mut attrs = Attrs::default();
        attrs.set_time("mtime", attributes.mtime);
        attrs.set_time("ctime", attributes.ctime);
        let theirs = Bytes::from_static(b"them");
        inside.contents().put_with("f", theirs, &attrs, When::Always, Cause::File).await.unwrap();
        assert_eq!(user.close(handle).await.unwrap_err().errno, Errno::STALE);
        assert_eq!(body(inside.contents(), "f").await.unwrap(), "them");
        let kept = inside.contents().keys().into_iter().find(|key| key != "f").unwrap();
        assert_eq!(body(inside.contents(), &kept).await.unwrap(), "ours");
    })
    .unwrap();
}

/// Whatever the store does, a close that succeeded means that the object is the file; one that failed means that
/// the object is the old or the new file, whole, and that the bytes are kept unless the object has them.
/// Promise: When close or fsync returns success, the object is stored and is the file.
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
/// Promise: A bucket that fails gives EIO at close and fsync, never silence.
/// Promise: A store that hangs hangs nobody.
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
        let late = |began: windlass_base::rt::Instant| {
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
        assert_eq!(user.fs.flush(open).await.unwrap_err().errno, Errno::IO);
        late(began);
        inside.faults(|f| f.reach = Reach::Up);
        user.close(open).await.unwrap();
        assert_eq!(body(inside.contents(), "f").await.unwrap(), "y");
    })
    .unwrap();
}

/// A store that answers late, but within the deadline, fails nothing; nor one that missed a single answer.
/// Promise: A store that hangs hangs nobody.
#[test]
fn a_slow_store_fails_nobody() {
    let sim = Sim::new(5);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "deadline=6,metadata_ttl=0").await;
        inside.faults(|f| f.latency = (Duration::from_millis(2400), Duration::from_millis(2500)));
        for i in 0..5 {
            user.mkdir(&format!("d{i}")).await.unwrap();
            user.stat(&format!("d{i}")).await.unwrap();
        }
        // Then nothing comes for a while, and it is slow again.
        inside.faults(|f| (f.reach, f.patience) = (Reach::Silent, Duration::from_secs(1 << 30)));
        assert_eq!(user.stat("d1").await.map(|_| ()).unwrap_err().errno, Errno::TIMEDOUT);
        let began = world.rt().now();
        assert_eq!(user.stat("d2").await.map(|_| ()).unwrap_err().errno, Errno::TIMEDOUT);
        assert!(world.rt().now().since(began) <= Duration::from_secs(2));
        inside.faults(|f| f.reach = Reach::Up);
        world.rt().sleep(Duration::from_secs(8)).await;
        for i in 0..5 {
            user.stat(&format!("d{i}")).await.unwrap();
            user.mkdir(&format!("e{i}")).await.unwrap();
        }
    })
    .unwrap();
}

/// A daemon's life, ended by a kill after a minute; then another on the same disk and bucket.
pub(super) fn two_lives<A: Future<Output = ()> + Send + 'static, B: Future<Output = ()> + Send + 'static>(
    seed: u64,
    options: &'static str,
    first: impl FnOnce(User, Arc<SimStore>) -> A + Send + 'static,
    between: impl FnOnce(Arc<SimStore>) -> B + Send + 'static,
) -> (Arc<SimStore>, Arc<SimDisk>) {
    let sim = Sim::new(seed);
    let store = SimStore::new(&sim, "s");
    let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
    let (rt, process) = (world.process().rt(), world.process());
    let (inside, early, at) = (store.clone(), disk.clone(), process.rt());
    process
        .rt()
        .spawn(async move {
            let user = User::mount(at, early, inside.clone(), options, STAGING).await;
            first(user, inside).await;
            std::future::pending::<()>().await;
        })
        .detach();
    let (inside, again) = (store.clone(), disk.clone());
    sim.run(async move {
        rt.sleep(Duration::from_secs(60)).await;
        process.kill();
        inside.faults(|f| f.reach = Reach::Up);
        between(inside.clone()).await;
        let (bucket, options) = (inside.clone(), MountOptions::parse(options).unwrap().0);
        let (fs, unsent) =
            Fs::open(rt.clone(), again, bucket, options, STAGING.into(), DiskCache::off()).await.unwrap();
        assert_eq!(unsent, []);
        fs.idle().await;
        fs.finish().await;
    })
    .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    (store, disk)
}

pub(super) async fn nothing(_: Arc<SimStore>) {}

pub(super) fn read(store: &Arc<SimStore>, key: &str) -> Option<Bytes> {
    futures::executor::block_on(body(store.contents(), key))
}

/// Files that were not sent when the daemon was killed are sent by the next mount: closed in vain, or never
/// closed.
/// Promise: A bucket that fails gives EIO at close and fsync, never silence.
/// Promise: What was written survives kill -9 and is sent by the next mount.
#[test]
fn unsent_files_survive_a_kill() {
    let first = |user: User, store: Arc<SimStore>| async move {
        user.put("sent", b"sent").await.unwrap();
        user.put("long", &[1; 20_000]).await.unwrap();
        let handle = user.open("unsent", OpenMode { truncate: true, ..WRITE }, true).await.unwrap();
        user.fs.write(handle, 0, Bytes::from_static(b"precious")).await.unwrap();
        store.faults(|f| f.reach = Reach::Refuses);
        assert_eq!(user.fs.flush(handle).await.unwrap_err().errno, Errno::IO);
        user.fs.release(handle).await;
        let open = user.open("unsent", WRITE, false).await.unwrap();
        assert_eq!(user.read(open, 0, 99).await.unwrap(), "precious", "here it is still seen");
        store.faults(|f| f.reach = Reach::Up);
        let open = user.open("open", OpenMode { truncate: true, ..WRITE }, true).await.unwrap();
        user.fs.write(open, 0, Bytes::from_static(b"never closed")).await.unwrap();
        let open = user.open("long", OpenMode { append: true, ..WRITE }, false).await.unwrap();
        store.faults(|f| f.reach = Reach::Refuses);
        user.fs.write(open, 0, Bytes::from_static(b"end")).await.unwrap();
    };
    let (store, disk) = two_lives(4, "deadline=1", first, nothing);
    assert_eq!(store.contents().keys(), ["long", "open", "sent", "unsent"]);
    assert_eq!(read(&store, "unsent").unwrap(), "precious");
    assert_eq!(read(&store, "open").unwrap(), "never closed");
    assert_eq!(read(&store, "long").unwrap(), [&[1; 20_000][..], b"end"].concat());
    assert_eq!(staged(&disk), [""; 0]);
}

/// S3 denies what is absent to those who may not list, as if it were another right: the refusal of a mount says which one lacks.
#[test]
fn a_mount_without_the_right_to_list_says_so() {
    let sim = Sim::new(9);
    let store = SimStore::new(&sim, "s");
    let world = sim.clone();
    sim.run(async move {
        let client = BucketClient::new(world.rt(), store.clone(), Duration::from_secs(5));
        client.refuse_pool().await.unwrap();
        assert!(client.lacks_listing().await.is_none());
        store.faults(|f| f.reach = Reach::Denies);
        let why = client.refuse_pool().await.unwrap_err();
        assert_eq!(why.kind(), Kind::Denied);
        assert!(why.to_string().contains("s3:ListBucket"), "{why}");
    })
    .unwrap();
}

/// A pool's label has its id in its key, and an older pool's has not; other objects that are called so are files.
#[test]
fn a_bucket_with_a_pool_of_any_age_is_not_mounted() {
    let label = r#"{"format": 1, "pool": "c0", "index": 0, "incarnation": "1a"}"#;
    let pool = "label-00112233445566778899aabbccddeeff";
    for (key, body, refused) in [
        ("label", label, true),
        (pool, label, true),
        ("label", "a file", false),
        ("label-of-a-bottle", label, false),
        ("sub/label", label, false),
    ] {
        let sim = Sim::new(9);
        let store = SimStore::new(&sim, "s");
        let world = sim.clone();
        sim.run(async move {
            for n in 0..30 {
                store.put(&format!("label-{n}"), "a file".into(), When::Always, Cause::File).await.unwrap();
            }
            store.put(key, body.into(), When::Always, Cause::File).await.unwrap();
            let client = BucketClient::new(world.rt(), store.clone(), Duration::from_secs(5));
            let said = client.refuse_pool().await;
            assert_eq!(said.is_err_and(|why| why.is(Kind::Refused)), refused, "{key} {body}");
        })
        .unwrap();
    }
}

/// The mount ends while many files wait for a store that says nothing: a few are tried, and the next mount sends all.
/// Where it is something else that keeps a file, each is tried.
#[test]
fn a_mount_leaves_a_hung_store_soon() {
    const FILES: u64 = 400;
    for reach in [Reach::Silent, Reach::Denies] {
        let sim = Sim::new(8);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let files = disk.clone();
        sim.run(async move {
            let options = "flush=local,deadline=2";
            let user = User::mount(world.rt(), disk.clone(), inside.clone(), options, STAGING).await;
            let mut open = Vec::new();
            for i in 0..FILES {
                let how = OpenMode { truncate: true, ..WRITE };
                open.push(user.open(&format!("f{i}"), how, true).await.unwrap());
            }
            inside.faults(|f| (f.reach, f.patience) = (reach, Duration::from_secs(1 << 30)));
            for handle in open {
                user.fs.write(handle, 0, Bytes::from_static(b"x")).await.unwrap();
                user.close(handle).await.unwrap();
            }
            user.forget_all();
            let (began, before) = (world.rt().now(), inside.requests());
            user.fs.finish().await;
            let (took, asked) = (world.rt().now().since(began), inside.requests() - before);
            assert_eq!(user.fs.kept(), Pending { files: FILES, bytes: FILES, ..Pending::default() });
            match reach {
                Reach::Silent => assert!(took <= Duration::from_secs(8), "{took:?}, {asked} requests"),
                _ => assert!(asked >= FILES - 32, "{asked} requests"),
            }
            inside.faults(|f| f.reach = Reach::Up);
            let options = MountOptions::parse(options).unwrap().0;
            let (fs, unsent) =
                Fs::open(world.rt(), disk, inside.clone(), options, STAGING.into(), DiskCache::off())
                    .await
                    .unwrap();
            assert_eq!(unsent, []);
            fs.idle().await;
            fs.finish().await;
            assert_eq!(inside.contents().keys().len() as u64, FILES);
        })
        .unwrap_or_else(|stall| panic!("{reach:?}: {stall}"));
        assert_eq!(staged(&files), [""; 0], "{reach:?}");
    }
}

/// `f` is closed on this host while the store can't be reached.
pub(super) async fn close_unsent(user: &User, store: &SimStore) {
    let handle = user.open("f", OpenMode { truncate: true, ..WRITE }, true).await.unwrap();
    store.faults(|f| f.reach = Reach::Refuses);
    user.fs.write(handle, 0, Bytes::from_static(b"closed")).await.unwrap();
    user.close(handle).await.unwrap();
}

/// A version that was closed with `flush=local` and not sent yet is not given up for one that was only begun.
/// Promise: A whole object is never replaced by half of one.
#[test]
fn a_closed_version_outlives_a_rewrite_that_is_cut_off() {
    for (seed, before, half) in [(1, true, "ha"), (2, true, ""), (3, false, "ha"), (4, false, "")] {
        let first = move |user: User, store: Arc<SimStore>| async move {
            if before {
                user.put("f", b"sent long ago").await.unwrap();
                user.fs.idle().await;
            }
            close_unsent(&user, &store).await;
            let handle = user.open("f", OpenMode { truncate: true, ..WRITE }, false).await.unwrap();
            user.fs.write(handle, 0, Bytes::from(half)).await.unwrap();
            assert_eq!(user.read(handle, 0, 99).await.unwrap(), half, "here it is seen as written");
        };
        let (store, disk) = two_lives(seed, "flush=local,deadline=1", first, nothing);
        assert_eq!(read(&store, "f").unwrap(), "closed");
        let kept: Vec<_> = store.contents().keys().into_iter().filter(|key| key != "f").collect();
        let kept: Vec<_> = kept.iter().map(|key| read(&store, key).unwrap()).collect();
        assert_eq!(kept, if half.is_empty() { vec![] } else { vec![half] });
        assert_eq!(staged(&disk), [""; 0]);
    }
}

/// Write-back sends what was closed, not what a process has begun to write over it since.
/// Promise: With `flush=local`, close returns when this host has the bytes.
#[test]
fn what_was_closed_is_sent_while_it_is_written_anew() {
    let sim = Sim::new(7);
    let store = SimStore::new(&sim, "s");
    let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
    let files = disk.clone();
    sim.run(async move {
        let user = User::mount(world.rt(), disk, inside.clone(), "flush=local,deadline=1", STAGING).await;
        close_unsent(&user, &inside).await;
        let handle = user.open("f", OpenMode { truncate: true, ..WRITE }, false).await.unwrap();
        user.fs.write(handle, 0, Bytes::from_static(b"half")).await.unwrap();
        inside.faults(|f| f.reach = Reach::Up);
        world.rt().sleep(Duration::from_secs(60)).await;
        assert_eq!(body(inside.contents(), "f").await.unwrap(), "closed");
        user.fs.write(handle, 4, Bytes::from_static(b" and whole")).await.unwrap();
        user.close(handle).await.unwrap();
        user.fs.finish().await;
        assert_eq!(inside.contents().keys(), ["f"]);
        assert_eq!(body(inside.contents(), "f").await.unwrap(), "half and whole");
    })
    .unwrap();
    assert_eq!(staged(&files), [""; 0]);
}

/// Programs go first: while one file after another is closed few leave, and the rest as soon as that pauses, or the mount
/// ends.
/// Promise: With `flush=local`, small files are closed at the speed of this host.
#[test]
fn a_burst_of_closes_is_sent_when_it_pauses() {
    const FILES: usize = 300;
    for ends in [false, true] {
        let sim = Sim::new(8);
        let store = SimStore::new(&sim, "s");
        let (world, inside) = (sim.clone(), store.clone());
        sim.run(async move {
            let user = User::simulated(&world, inside.clone(), "flush=local,metadata_ttl=600").await;
            user.list("", true).await.unwrap();
            for n in 0..FILES {
                user.put(&format!("f{n:03}"), &[n as u8; 100]).await.unwrap();
            }
            let stored = inside.contents().keys().len();
            assert!(stored < FILES / 2, "{stored} were sent meanwhile");
            assert!(user.fs.pending().files >= (FILES - stored) as u64);
            if ends {
                user.fs.finish().await;
            } else {
                world.rt().sleep(Duration::from_secs(2)).await;
                user.fs.idle().await;
            }
            assert_eq!(inside.contents().keys().len(), FILES);
            assert_eq!((user.fs.pending().files, user.fs.kept().files), (0, 0));
        })
        .unwrap();
    }
}

/// The next mount overwrites nothing either: an object that was changed in between keeps its name.
/// Promise: An update made elsewhere is never overwritten.
#[test]
fn what_is_sent_later_overwrites_nothing() {
    let first = |user: User, store: Arc<SimStore>| async move {
        user.put("f", &[1; 20_000]).await.unwrap();
        let handle = user.open("f", WRITE, false).await.unwrap();
        store.faults(|f| f.reach = Reach::Refuses);
        user.fs.write(handle, 5, Bytes::from_static(b"ours")).await.unwrap();
        user.close(handle).await.unwrap_err();
    };
    let between = |store: Arc<SimStore>| async move {
        let theirs = Bytes::from_static(b"their other object");
        store.contents().put("f", theirs, When::Always, Cause::File).await.unwrap();
    };
    let (store, disk) = two_lives(6, "deadline=1", first, between);
    let keys = store.contents().keys();
    assert!(keys.len() == 2 && keys[1].starts_with("f.conflict-"), "{keys:?}");
    assert_eq!(read(&store, "f").unwrap(), "their other object");
    let kept = read(&store, &keys[1]).unwrap();
    assert_eq!((kept.len(), &kept[..19]), (20_000, &b"theirourser object\0"[..]));
    let head = futures::executor::block_on(store.contents().head(&keys[1], Cause::File)).unwrap().unwrap();
    assert_eq!(head.attrs.user["windlass-written"], "5-8");
    assert_eq!(staged(&disk), [""; 0]);
}

/// The daemon is killed at any moment of writing and closing files: afterwards every file that was closed with
/// success is whole, no send is taken for somebody else's, and nothing stays staged.
/// Promise: What was written survives kill -9 and is sent by the next mount.
/// Promise: With `flush=local`, close returns when this host has the bytes.
#[test]
fn kills_at_any_moment_lose_nothing_closed() {
    for seed in 0..super::model::seeds(60) {
        let options = if seed % 2 == 0 { "deadline=5" } else { "deadline=5,flush=local" };
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
        let (inside, again) = (store.clone(), disk.clone());
        // What each file may be; a file that may be several things was cut off in the middle of one.
        let closed: Arc<parking_lot::Mutex<std::collections::BTreeMap<String, Vec<Vec<u8>>>>> =
            Arc::default();
        let promised = closed.clone();
        sim.run(async move {
            inside.faults(|f| (f.lost, f.late) = (40, Duration::from_millis(300)));
            for generation in 0..4u8 {
                let process = world.process();
                let (rt, disk, bucket) = (process.rt(), again.clone(), inside.clone());
                let (at, promised) = (world.clone(), promised.clone());
                process
                    .rt()
                    .spawn(async move {
                        let user = User::mount(rt, disk, bucket, options, STAGING).await;
                        loop {
                            let key = format!("f{}", at.below(4));
                            // On both sides of what a slot takes.
                            let most = if at.below(4) == 0 { 120_000 } else { 9000 };
                            let bytes =
                                vec![generation * 16 + at.below(16) as u8; 1 + at.below(most) as usize];
                            let before = promised.lock().get(&key).cloned().unwrap_or_default();
                            let fresh = before.len() != 1 || at.below(2) == 0;
                            let how = OpenMode { truncate: fresh, append: !fresh, ..WRITE };
                            let want = match fresh {
                                false => [&before[0][..], &bytes].concat(),
                                true => bytes.clone(),
                            };
                            if !before.is_empty() {
                                let may = [before, vec![want.clone()]].concat();
                                promised.lock().insert(key.clone(), may);
                            }
                            let Ok(handle) = user.open(&key, how, true).await else { continue };
                            let wrote = user.fs.write(handle, 0, bytes.into()).await;
                            if user.close(handle).await.is_ok() && wrote.is_ok() {
                                promised.lock().insert(key, vec![want]);
                            }
                            user.forget_all();
                        }
                    })
                    .detach();
                world.rt().sleep(Duration::from_millis(500 + world.below(4000))).await;
                process.kill();
                world.rt().sleep(Duration::from_secs(1)).await;
            }
            world.rt().sleep(Duration::from_secs(1)).await;
            inside.faults(|f| f.lost = 0);
            let options = MountOptions::default();
            let (fs, unsent) = Fs::open(
                world.rt(),
                again.clone(),
                inside.clone(),
                options,
                STAGING.into(),
                DiskCache::off(),
            )
            .await
            .unwrap();
            assert_eq!(unsent, [], "seed {seed}");
            fs.idle().await;
            fs.finish().await;
        })
        .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
        for (key, may) in &*closed.lock() {
            let is = read(&store, key).expect("it was closed once");
            assert!(may.iter().any(|may| is == may[..]), "seed {seed}: {key} was closed with success");
        }
        let conflicts: Vec<_> =
            store.contents().keys().into_iter().filter(|k| k.contains(".conflict")).collect();
        assert_eq!(conflicts, [""; 0], "seed {seed}: nobody else was there");
        assert_eq!(staged(&disk), [""; 0], "seed {seed}");
    }
}

/// A reader whose object is replaced is told, and never gets bytes of two objects, also when somebody else here opens
/// the other one.
/// Promise: A reader never sees two objects as one.
#[test]
fn a_reader_never_sees_two_objects_as_one() {
    for opened_again in [false, true] {
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
            if opened_again {
                assert_eq!(user.another().get("f").await.unwrap(), vec![2; 4 << 20]);
            }
            let errno = user.read(handle, 3 << 20, 1000).await.unwrap_err().errno;
            assert_eq!(errno, Errno::STALE);
            user.close(handle).await.unwrap();
            assert_eq!(user.get("f").await.unwrap(), vec![2; 4 << 20]);
        })
        .unwrap();
    }
}

/// A file that was removed while it was being sent does not come back.
/// Promise: What was removed stays removed.
#[test]
fn what_was_removed_stays_removed() {
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside) = (sim.clone(), store.clone());
        sim.run(async move {
            let user = User::simulated(&world, inside.clone(), "").await;
            let handle = user.open("f", OpenMode { truncate: true, ..WRITE }, true).await.unwrap();
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

/// Promise: Names that are removed one after another are deleted together.
#[test]
fn removed_names_never_show_again() {
    for seed in 0..40 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside) = (sim.clone(), store.clone());
        sim.run(async move {
            let user = User::simulated(&world, inside.clone(), "").await;
            user.mkdir("d").await.unwrap();
            for i in 0..20 {
                user.put(&format!("d/f{i}"), b"x").await.unwrap();
            }
            user.forget_all();
            // Later their removal waits for others.
            user.sleep(61_000).await;
            for i in 0..20 {
                user.unlink(&format!("d/f{i}")).await.unwrap();
                match world.below(6) {
                    0 => assert_eq!(user.list("d", true).await.unwrap().len(), 19 - i),
                    1 => assert_eq!(user.stat(&format!("d/f{i}")).await.unwrap_err().errno, Errno::NOENT),
                    2 => {
                        user.put(&format!("d/f{i}"), b"again").await.unwrap();
                        assert_eq!(user.get(&format!("d/f{i}")).await.unwrap(), b"again");
                        user.unlink(&format!("d/f{i}")).await.unwrap();
                    }
                    _ => {}
                }
            }
            user.rmdir("d").await.unwrap();
            user.forget_all();
            user.fs.finish().await;
            assert_eq!(inside.contents().keys(), [""; 0], "seed {seed}");
        })
        .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    }
}

/// Another server answers at the bucket's address: no directory is empty, no name is missing, then and afterwards.
/// Promise: An answer that is none of S3's to the request says nothing of what is in the bucket.
#[test]
fn what_another_server_answers_empties_no_directory() {
    let sim = Sim::new(9);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "").await;
        user.mkdir("d").await.unwrap();
        user.put("d/f", b"kept").await.unwrap();
        let dir = user.walk("d").await.unwrap();
        let file = user.walk("d/f").await.unwrap();
        world.rt().sleep(Duration::from_secs(60)).await;
        inside.faults(|f| f.reach = Reach::Foreign);
        nothing_is_said_of(&user, dir, file).await;
        inside.faults(|f| f.reach = Reach::Up);
        all_is_as_before(&user).await;
    })
    .unwrap();
}

/// The disk of a folder that is mounted as a bucket was unmounted, or another folder was made in its place.
/// Promise: A folder that is away is no empty bucket.
#[test]
#[allow(clippy::disallowed_methods)] // looks at the folder from outside
fn another_folder_in_its_place_empties_no_directory() {
    let sim = Sim::new(10);
    let world = sim.clone();
    sim.run(async move {
        let above = tempfile::tempdir().unwrap();
        let (root, away) = (above.path().join("b"), above.path().join("away"));
        std::fs::create_dir(&root).unwrap();
        let bucket = FileStore::open(&world.rt(), &root).await.unwrap();
        let user = User::simulated(&world, bucket, "").await;
        user.mkdir("d").await.unwrap();
        user.put("d/f", b"kept").await.unwrap();
        let dir = user.walk("d").await.unwrap();
        let file = user.walk("d/f").await.unwrap();
        world.rt().sleep(Duration::from_secs(60)).await;
        std::fs::rename(&root, &away).unwrap();
        nothing_is_said_of(&user, dir, file).await;
        std::fs::create_dir(&root).unwrap();
        nothing_is_said_of(&user, dir, file).await;
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "nothing was written there");
        std::fs::remove_dir(&root).unwrap();
        std::fs::rename(&away, &root).unwrap();
        all_is_as_before(&user).await;
    })
    .unwrap();
}

/// Checks that, while the bucket is away, nothing is said to be missing or empty.
async fn nothing_is_said_of(user: &User, dir: u64, file: u64) {
    let fails = |what: &str, errno: Option<Errno>| assert_eq!(errno, Some(Errno::IO), "{what}");
    for plus in [false, true] {
        fails("readdir", user.list_at(dir, plus).await.err().map(|f| f.errno));
    }
    for name in [&b"f"[..], b"none"] {
        fails("lookup", user.step(dir, name).await.err().map(|f| f.errno));
    }
    fails("getattr", user.fs.getattr(file).await.err().map(|f| f.errno));
    fails("open", user.fs.open_file(file, READ).await.err().map(|f| f.errno));
    fails("unlink", user.remove("d/f").await.err().map(|f| f.errno));
    fails("rmdir", user.rmdir("d").await.err().map(|f| f.errno));
}

async fn all_is_as_before(user: &User) {
    let names: Vec<_> = user.list("d", true).await.unwrap().into_iter().map(|i| i.name).collect();
    assert_eq!(names, [b"f"]);
    assert_eq!(user.get("d/f").await.unwrap(), b"kept");
    user.forget_all();
}
