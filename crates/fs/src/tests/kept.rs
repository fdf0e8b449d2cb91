//! What a mount could not store: listed, copied out, dropped; and left to the mount that comes next.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::user::{User, WRITE};
use crate::tree::OpenMode;
use crate::{KeptFile, KeptFiles};
use windlass_base::rt::sim::{Sim, SimDisk};
use windlass_base::rt::{Disk, OpenHow};
use windlass_store::{Reach, SimStore, Store as _};

const ROOT: &str = "/staging";
const FOLDER: &str = "/staging/bucket";

async fn write(user: &User, name: &str, bytes: &[u8]) {
    let handle = user.open(name, OpenMode { truncate: true, ..WRITE }, true).await.unwrap();
    user.fs.write(handle, 0, Bytes::copy_from_slice(bytes)).await.unwrap();
    user.close(handle).await.unwrap();
}

async fn content(disk: &SimDisk, path: &str) -> Bytes {
    disk.read(Path::new(path), 1 << 20).await.unwrap()
}

/// Kept files are listed while no mount has them, copied out whole without touching what is there, and
/// dropped for good.
#[test]
fn what_is_kept_is_listed_copied_out_and_dropped() {
    let sim = Sim::new(1);
    let store = SimStore::new(&sim, "s");
    let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
    sim.run(async move {
        let options = "flush=local,deadline=1";
        let user = User::mount(world.rt(), disk.clone(), inside.clone(), options, FOLDER).await;
        user.mkdir("d").await.unwrap();
        write(&user, "sent", b"sent").await;
        user.fs.idle().await;
        // Opened before the store goes: an open asks it.
        let large = vec![7; 300_000];
        let how = OpenMode { truncate: true, ..WRITE };
        let (one, two) =
            (user.open("small", how, true).await.unwrap(), user.open("d/large", how, true).await.unwrap());
        inside.faults(|f| f.reach = Reach::Refuses);
        for (handle, bytes) in [(one, Bytes::from_static(b"small")), (two, Bytes::from(large.clone()))] {
            user.fs.write(handle, 0, bytes).await.unwrap();
            user.close(handle).await.unwrap();
        }
        let shared = disk.clone() as Arc<dyn Disk>;
        let list = async || KeptFiles::open(&shared, Path::new(ROOT)).await.unwrap().list();
        assert_eq!(list().await, [], "a mount has them");
        user.fs.finish().await;
        let url = inside.url().to_owned();
        let seen: Vec<(String, String, u64, bool)> = list()
            .await
            .into_iter()
            .map(|KeptFile { url, key, bytes, partly, .. }| (url, key, bytes, partly))
            .collect();
        let kept = |key: &str, bytes| (url.clone(), key.to_owned(), bytes, false);
        assert_eq!(seen, [kept("d/large", 300_000), kept("small", 5)]);

        disk.create_dir(Path::new("/out")).await.unwrap();
        disk.open(Path::new("/out/small"), OpenHow::CreateNew).await.unwrap();
        let keep = KeptFiles::open(&shared, Path::new(ROOT)).await.unwrap();
        let (copied, result) = keep.only(&url).copy_out(Path::new("/out")).await;
        assert_eq!(copied, [Path::new("/out/d/large")]);
        assert!(result.unwrap_err().to_string().contains("/out/small"));
        assert_eq!(content(&disk, "/out/d/large").await, large);
        let keep = KeptFiles::open(&shared, Path::new(ROOT)).await.unwrap();
        let (copied, result) = keep.only(&url).copy_out(Path::new("/other")).await;
        result.unwrap();
        assert_eq!((copied.len(), content(&disk, "/other/small").await), (2, Bytes::from_static(b"small")));

        assert_eq!(list().await.len(), 2, "copies take nothing away");
        assert_eq!(
            KeptFiles::open(&shared, Path::new(ROOT)).await.unwrap().only("elsewhere").drop_all().await.0,
            0
        );
        assert_eq!(KeptFiles::open(&shared, Path::new(ROOT)).await.unwrap().only(&url).drop_all().await.0, 2);
        assert_eq!(list().await, []);
        inside.faults(|f| f.reach = Reach::Up);
        let user = User::mount(world.rt(), disk.clone(), inside.clone(), options, FOLDER).await;
        user.fs.idle().await;
        user.fs.finish().await;
        assert_eq!(inside.contents().keys(), ["d/", "sent"]);
    })
    .unwrap();
}

/// A file that is called as a copy under way might be is kept, among those that are copied out and in the folder.
#[test]
fn copying_out_touches_nothing_that_is_there() {
    let sim = Sim::new(3);
    let store = SimStore::new(&sim, "s");
    let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
    sim.run(async move {
        let user =
            User::mount(world.rt(), disk.clone(), inside.clone(), "flush=local,deadline=1", FOLDER).await;
        let how = OpenMode { truncate: true, ..WRITE };
        let names = [".f.part", ".f.0.part", "f", "g"];
        let mut handles = Vec::new();
        for name in names {
            handles.push(user.open(name, how, true).await.unwrap());
        }
        inside.faults(|f| f.reach = Reach::Refuses);
        for (name, handle) in names.into_iter().zip(handles) {
            user.fs.write(handle, 0, Bytes::from(name)).await.unwrap();
            user.close(handle).await.unwrap();
        }
        user.fs.finish().await;
        disk.create_dir(Path::new("/out")).await.unwrap();
        let theirs = ["/out/.g.part", "/out/.g.0.part"];
        for path in theirs {
            let file = disk.open(Path::new(path), OpenHow::CreateNew).await.unwrap();
            file.pwrite(0, vec![Bytes::from(path)], true).await.unwrap();
        }
        let shared = disk.clone() as Arc<dyn Disk>;
        let keep = KeptFiles::open(&shared, Path::new(ROOT)).await.unwrap();
        let (copied, result) = keep.copy_out(Path::new("/out")).await;
        result.unwrap();
        assert_eq!(copied.len(), 4);
        for name in names {
            assert_eq!(content(&disk, &format!("/out/{name}")).await, name);
        }
        for path in theirs {
            assert_eq!(content(&disk, path).await, path);
        }
        assert_eq!(disk.list(Path::new("/out")).await.unwrap().len(), 6, "no part is left");
    })
    .unwrap();
}

/// Files that wait when another mount comes are not sent first, but shown and sent by that mount.
#[test]
fn what_waits_is_left_to_the_mount_that_comes_next() {
    const FILES: u64 = 300;
    let sim = Sim::new(2);
    let store = SimStore::new(&sim, "s");
    let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
    sim.run(async move {
        let options = "flush=local,deadline=20";
        let user = User::mount(world.rt(), disk.clone(), inside.clone(), options, FOLDER).await;
        inside.faults(|f| f.patience = Duration::from_secs(2));
        for i in 0..FILES {
            write(&user, &format!("f{i}"), b"x").await;
        }
        user.forget_all();
        user.fs.hand_over();
        user.fs.finish().await;
        let sent = inside.contents().keys().len() as u64;
        assert!(sent < FILES / 2, "{sent} files were sent");
        assert_eq!(user.fs.kept().files, 0, "nothing is said to be left on this host for long");
        let user = User::mount(world.rt(), disk.clone(), inside.clone(), options, FOLDER).await;
        for i in 0..FILES {
            assert_eq!(user.get(&format!("f{i}")).await.unwrap(), b"x", "f{i}");
        }
        user.fs.idle().await;
        user.fs.finish().await;
        assert_eq!(inside.contents().keys().len() as u64, FILES);
    })
    .unwrap();
}
