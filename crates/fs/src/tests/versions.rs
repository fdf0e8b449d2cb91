//! Earlier versions of objects as read-only files, and objects that an archive has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::user::{ME, READ, User, WRITE};
use crate::object::{Errno, Op};
use crate::ops::{Changes, Entry};
use crate::tree::{OpenMode, ROOT};
use windlass_base::Kind;
use windlass_base::rt::sim::{Sim, World};
use windlass_base::sum::crc32c;
use windlass_store::{
    Bucket as _, Cause, Counted, Faulty, MemStore, RequestFate, Store as _, VersionList, When,
};

const WHY: Cause = Cause::File;

/// Runs a story on a mount of a store that keeps versions.
fn with_versions<F: Future<Output = ()> + Send + 'static>(
    story: impl FnOnce(World, Arc<MemStore>, Arc<Counted>, User) -> F + Send + 'static,
) {
    let sim = Sim::new(7);
    let world = sim.clone();
    let run = async move {
        let store = MemStore::new("v");
        store.keep_versions();
        let counted = Counted::new(&world.rt(), store.clone());
        let user = User::simulated(&world, counted.clone(), "versions").await;
        story(world, store, counted, user).await;
    };
    sim.run(run).unwrap();
}

async fn names(user: &User, path: &str) -> Vec<String> {
    let items = user.list(path, false).await.unwrap();
    items.into_iter().map(|i| String::from_utf8(i.name).unwrap()).collect()
}

async fn put(store: &MemStore, key: &str, body: impl Into<Bytes>) {
    store.put(key, body.into(), When::Always, WHY).await.unwrap();
}

fn errno<T: std::fmt::Debug>(out: Op<T>) -> Errno {
    out.unwrap_err().errno
}

async fn xattr(user: &User, path: &str, name: &str) -> Op<String> {
    let ino = user.walk(path).await?;
    user.fs.getxattr(ino, name.as_bytes()).await.map(|v| String::from_utf8(v).unwrap())
}

async fn restore(user: &User, path: &str, value: &str) -> Op<()> {
    let ino = user.walk(path).await?;
    user.fs.setxattr(ino, b"s3.restore", Some(value.as_bytes()), false, false).await
}

fn mode(entry: &Entry) -> u32 {
    entry.attributes.mode & 0o7777
}

/// Promise: With `-o versions`, earlier versions are files.
#[test]
fn earlier_versions_are_files() {
    with_versions(|_, store, _, user| async move {
        user.mkdir("d").await.unwrap();
        for body in ["one", "two2", "three"] {
            user.put("d/f", body.as_bytes()).await.unwrap();
        }
        user.unlink("d/f").await.unwrap();
        assert_eq!(names(&user, "d").await, [""; 0]);
        assert_eq!(names(&user, "d/.versions").await, ["f"]);
        let all = names(&user, "d/.versions/f").await;
        assert_eq!(all.len(), 4, "{all:?}");
        let mut sorted = all.clone();
        sorted.sort();
        sorted.reverse();
        assert_eq!(all, sorted, "the newest comes first, and names sort by time");
        assert!(all[0].ends_with("-deleted"), "{all:?}");
        for (name, body) in all.iter().zip(["", "three", "two2", "one"]) {
            let path = format!("d/.versions/f/{name}");
            user.forget_all();
            let entry = user.stat(&path).await.unwrap();
            assert_eq!((mode(&entry), entry.attributes.size), (0o444, body.len() as u64), "{name}");
            assert_eq!(user.get(&path).await.unwrap(), body.as_bytes(), "{name}");
        }
        let list = VersionList { prefix: "d/f".into(), max: 10, ..VersionList::default() };
        let version = store.list_versions(&list, WHY).await.unwrap().versions.remove(1);
        let path = format!("d/.versions/f/{}", all[1]);
        assert_eq!(xattr(&user, &path, "s3.version-id").await.unwrap(), version.id);
        assert_eq!(xattr(&user, &path, "s3.etag").await.unwrap(), version.etag.unwrap().0);
        assert!(xattr(&user, &path, "s3.checksum").await.unwrap().starts_with("CRC32C:"));
        let other = all[1].replace(&version.id, "other");
        let wrong_time = all[1].replacen("1970", "1971", 1);
        let revived = all[0].trim_end_matches("-deleted").to_owned();
        for none in [&other, &wrong_time, &revived, &format!("{}-deleted", all[1]), &"x".to_owned()] {
            assert_eq!(errno(user.stat(&format!("d/.versions/f/{none}")).await), Errno::NOENT, "{none}");
        }
        assert_eq!(errno(user.stat("d/.versions/g").await), Errno::NOENT);
        user.put("d/f", &user.get(&path).await.unwrap()).await.unwrap();
        assert_eq!(user.get("d/f").await.unwrap(), b"three", "restored");
        user.forget_all();
        assert_eq!(user.fs.nodes(), 1);
    });
}

/// Promise: With `-o versions`, earlier versions are files.
#[test]
fn a_large_version_is_read_as_it_was() {
    with_versions(|_, store, _, user| async move {
        let body: Vec<u8> = (0..3u32 << 20).map(|i| (i >> 9) as u8).collect();
        put(&store, "big", body.clone()).await;
        let name = names(&user, ".versions/big").await.remove(0);
        let handle = user.open(&format!(".versions/big/{name}"), READ, false).await.unwrap();
        put(&store, "big", "small now").await;
        let mut out = Vec::new();
        loop {
            let bytes = user.read(handle, out.len() as u64, 100_000).await.unwrap();
            if bytes.is_empty() {
                break;
            }
            out.extend_from_slice(&bytes);
        }
        assert!(out == body);
        assert_eq!(user.read(handle, 2 << 20, 10).await.unwrap(), body[2 << 20..][..10]);
        assert_eq!(user.read(handle, 9 << 20, 10).await.unwrap(), "");
        let to = user.open("copy", OpenMode { truncate: true, ..WRITE }, true).await.unwrap();
        // The kernel then reads and writes.
        assert_eq!(errno(user.fs.copy_range(handle, to, (0, 0), 1 << 20).await), Errno::OPNOTSUPP);
        user.fs.fsync(handle).await.unwrap();
        user.close(to).await.unwrap();
        user.close(handle).await.unwrap();
        assert_eq!(errno(user.read(handle, 0, 1).await), Errno::BADF);
    });
}

/// Promise: What was deleted is found among the versions, whole directories too.
#[test]
fn what_is_deleted_is_found_among_the_versions() {
    with_versions(|_, store, _, user| async move {
        for key in ["a", "a/b/c", "a-", "a/x", "é\u{1}", "%~odd"] {
            put(&store, key, format!("is {key}")).await;
        }
        for key in ["a", "a/b/c", "a-", "a/x", "é\u{1}", "%~odd"] {
            store.delete(&[key.to_owned()], WHY).await.unwrap();
        }
        assert_eq!(names(&user, "").await, [""; 0]);
        let mut all = names(&user, ".versions").await;
        all.sort();
        assert_eq!(all, ["%~%25~odd", "a", "a-", "é\u{1}"]);
        assert_eq!(names(&user, ".versions/a").await[2], ".versions");
        assert_eq!(names(&user, ".versions/a-").await.len(), 2);
        let mut inside = names(&user, ".versions/a/.versions").await;
        inside.sort();
        assert_eq!(inside, ["b", "x"]);
        // `b` was only ever a directory.
        assert_eq!(names(&user, ".versions/a/.versions/b").await, [".versions"]);
        let deep = ".versions/a/.versions/b/.versions/c";
        let version = names(&user, deep).await.remove(1);
        assert_eq!(user.get(&format!("{deep}/{version}")).await.unwrap(), b"is a/b/c");
        assert_eq!(names(&user, ".versions/%~%25~odd").await.len(), 2);
        assert_eq!(errno(user.stat(".versions/none").await), Errno::NOENT);
        assert_eq!(errno(user.stat(".versions/a-/.versions").await), Errno::NOENT);
        // Names that are too long for a file come in pieces, as everywhere.
        let long = "n".repeat(400);
        put(&store, &long, "long").await;
        store.delete(std::slice::from_ref(&long), WHY).await.unwrap();
        let piece = names(&user, ".versions").await.into_iter().find(|n| n.ends_with("%+")).unwrap();
        let rest = names(&user, &format!(".versions/{piece}")).await;
        assert_eq!(rest.len(), 1);
        let of = format!(".versions/{piece}/{}", rest[0]);
        let version = names(&user, &of).await.remove(1);
        assert_eq!(user.get(&format!("{of}/{version}")).await.unwrap(), b"long");
    });
}

/// Promise: Nothing among the versions can be changed.
#[test]
fn nothing_among_the_versions_can_be_changed() {
    with_versions(|_, store, _, user| async move {
        put(&store, "f", "1").await;
        put(&store, "g", "1").await;
        let version = format!(".versions/f/{}", names(&user, ".versions/f").await[0]);
        let inode = user.walk(&version).await.unwrap();
        let before = store.keys();
        for place in [".versions", ".versions/x", ".versions/f/x", ".versions/f", &version] {
            assert_eq!(errno(user.mkdir(place).await), Errno::ROFS, "{place}");
            assert_eq!(errno(user.unlink(place).await), Errno::ROFS, "{place}");
            assert_eq!(errno(user.rmdir(place).await), Errno::ROFS, "{place}");
            assert_eq!(errno(user.rename("g", place, false).await), Errno::ROFS, "{place}");
            let (parent, name) = user.above(place).await.unwrap();
            assert_eq!(errno(user.fs.symlink(parent, name, b"t", ME).await), Errno::ROFS, "{place}");
            assert_eq!(errno(user.fs.mknod(parent, name, 0o100_644, ME).await), Errno::ROFS, "{place}");
            assert_eq!(errno(user.fs.create(parent, name, 0o644, ME, WRITE).await), Errno::ROFS, "{place}");
        }
        for taken in [".versions", ".versions/f", &version] {
            assert_eq!(errno(user.rename(taken, "h", false).await), Errno::ROFS, "{taken}");
        }
        let chmod = Changes { mode: Some(0o777), ..Changes::default() };
        assert_eq!(errno(user.fs.setattr(inode, chmod, None).await), Errno::ROFS);
        let cut = Changes { size: Some(0), ..Changes::default() };
        assert_eq!(errno(user.fs.setattr(inode, cut, None).await), Errno::ROFS);
        assert_eq!(errno(user.fs.setxattr(inode, b"user.a", Some(b"b"), false, false).await), Errno::ROFS);
        assert_eq!(errno(user.fs.open_file(inode, WRITE).await), Errno::ROFS);
        let handle = user.fs.open_file(inode, READ).await.unwrap().handle;
        assert_eq!(errno(user.fs.write(handle, 0, Bytes::from_static(b"x")).await), Errno::BADF);
        user.close(handle).await.unwrap();
        assert_eq!(store.keys(), before);
    });
}

/// Promise: A key called `.versions` stays reachable.
#[test]
fn a_key_called_versions_stays_reachable() {
    with_versions(|world, store, counted, user| async move {
        put(&store, "d/.versions", "object").await;
        put(&store, ".versions/inside", "inside").await;
        assert_eq!(names(&user, "d").await, ["%~%2Eversions"]);
        assert_eq!(user.get("d/%~%2Eversions").await.unwrap(), b"object");
        assert!(names(&user, "").await.contains(&"%~%2Eversions".to_owned()));
        assert_eq!(user.get("%~%2Eversions/inside").await.unwrap(), b"inside");
        assert_eq!(names(&user, "d/.versions").await, ["%~%2Eversions"]);
        assert_eq!(names(&user, "d/.versions/%~%2Eversions").await.len(), 1);
        assert_eq!(errno(user.stat("d/.versions/.versions").await), Errno::NOENT);
        user.rename("d/%~%2Eversions", "d/plain", false).await.unwrap();
        user.put("d/%~%2Eversions", b"anew").await.unwrap();
        assert_eq!(store.keys(), [".versions/inside", "d/.versions", "d/plain"]);
        let plain = User::simulated(&world, counted, "").await;
        assert_eq!(plain.get("d/.versions").await.unwrap(), b"anew");
        assert_eq!(plain.get(".versions/inside").await.unwrap(), b"inside");
        assert_eq!(errno(plain.stat("d/%~%2Eversions").await), Errno::NOENT);
    });
}

/// Promise: A store that keeps no versions says so.
#[test]
fn a_store_without_versions_says_so() {
    let sim = Sim::new(1);
    let world = sim.clone();
    let run = async move {
        let store = MemStore::new("plain");
        let user = User::simulated(&world, store.clone(), "versions").await;
        user.put("f", b"x").await.unwrap();
        let failed = user.stat(".versions").await.unwrap_err();
        assert_eq!(failed.errno, Errno::OPNOTSUPP);
        let why = failed.why.unwrap();
        assert!(why.is(Kind::Unsupported) && why.to_string().contains("turn versioning on"), "{why}");
        // Once it does, what was there before has no id of its own.
        store.keep_versions();
        let name = names(&user, ".versions/f").await.remove(0);
        assert!(name.ends_with("-null"), "{name}");
        assert_eq!(user.get(&format!(".versions/f/{name}")).await.unwrap(), b"x");
    };
    sim.run(run).unwrap();
}

/// Promise: What was private stays private among the versions.
#[test]
fn what_was_private_stays_private_among_the_versions() {
    with_versions(|world, _, counted, user| async move {
        let (entry, private) = (user.fs.mkdir(ROOT, b"p", 0o700, ME).await.unwrap(), "p/f");
        user.put(private, b"secret").await.unwrap();
        let ino = user.walk(private).await.unwrap();
        let chmod = Changes { mode: Some(0o600), uid: Some(5), ..Changes::default() };
        user.fs.setattr(ino, chmod, None).await.unwrap();
        let version = names(&user, "p/.versions/f").await.remove(0);
        let entry_of = |user: User, path: String| async move { user.stat(&path).await.unwrap() };
        let file = entry_of(user.clone(), format!("p/.versions/f/{version}")).await;
        assert_eq!((mode(&file), file.attributes.uid), (0o400, 5));
        assert_eq!(mode(&entry_of(user.clone(), "p/.versions".into()).await), 0o500);
        user.fs.forget(entry.ino, 1);
        user.unlink(private).await.unwrap();
        user.rmdir("p").await.unwrap();
        user.forget_all();
        for user in [user, User::simulated(&world, counted, "versions").await] {
            let gone = entry_of(user.clone(), ".versions/p/.versions".into()).await;
            assert_eq!((mode(&gone), gone.attributes.uid), (0o500, ME.uid), "as it was when it was removed");
            // A listing knows nothing of this: what it tells is believed for no time, and lets nobody in.
            let listed = user.list(".versions/p", true).await.unwrap().remove(0);
            let entry = user.fs.adopt_item(&listed);
            assert!(entry.attributes.exact || entry.ttl.is_zero() && mode(&entry) == 0);
            assert_eq!(mode(&user.fs.getattr(entry.ino).await.unwrap()), 0o500);
            user.fs.forget(entry.ino, 1);
        }
    });
}

fn requests(counted: &Counted) -> u64 {
    counted.counters().unwrap().requests()
}

/// A page that can't be listed is asked for again by who reads on: no name is missing or shown twice.
#[test]
fn a_page_of_versions_that_failed_is_asked_for_again() {
    let sim = Sim::new(7);
    let world = sim.clone();
    let run = async move {
        let store = MemStore::new("v");
        store.keep_versions();
        for i in 0..1200 {
            put(&store, &format!("n{i:04}"), "x").await;
            put(&store, "d/many", "x").await;
            put(&store, &format!("d/many-{i:04}"), "x").await;
        }
        let faulty = Faulty::new(&world.rt(), store);
        let user = User::simulated(&world, faulty.clone(), "versions").await;
        let failed = RequestFate::Failed(Kind::Unavailable);
        let many = "d/.versions/many";
        // The last one: the page is listed, and not whether a directory has the name too.
        for (path, all, fates) in [
            (".versions", 1201, vec![failed]),
            (many, 1200, vec![failed]),
            (many, 1200, vec![RequestFate::Answered, failed]),
        ] {
            let handle = user.fs.opendir(user.walk(path).await.unwrap()).unwrap();
            let mut names = Vec::new();
            loop {
                if names.len() == 1000 {
                    faulty.next(fates.clone());
                    user.fs.readdir(handle, 1000, false).await.unwrap_err();
                }
                let items = user.fs.readdir(handle, names.len() as u64, false).await.unwrap();
                if items.is_empty() {
                    break;
                }
                names.extend(items.into_iter().map(|item| item.name));
            }
            let shown = names.len();
            names.sort();
            names.dedup();
            assert_eq!((shown, names.len()), (all, all), "{path}");
        }
    };
    sim.run(run).unwrap();
}

/// Promise: Versions are asked for page by page, and only by who looks.
#[test]
fn versions_are_asked_for_page_by_page() {
    with_versions(|_, store, counted, user| async move {
        for i in 0..2500 {
            put(&store, "many", format!("{i}")).await;
        }
        for i in 0..1200 {
            put(&store, &format!("n{i:04}"), "x").await;
        }
        let cost = |before: u64| requests(&counted) - before;
        let before = requests(&counted);
        names(&user, "").await;
        user.get("many").await.unwrap();
        let verbs = |counted: &Counted| -> Vec<String> {
            let lines = counted.counters().unwrap().snapshot();
            lines.iter().map(|l| format!("{:?}", l.verb)).collect()
        };
        assert!(!verbs(&counted).contains(&"Versions".to_owned()), "nobody asked for them");
        let of_all = cost(before);
        let before = requests(&counted);
        user.walk(".versions").await.unwrap();
        assert_eq!(cost(before), 1, "whether there are any");
        let before = requests(&counted);
        let all = names(&user, ".versions").await;
        assert_eq!((all.len(), cost(before)), (1201, 4), "3,700 versions; the names cost {of_all}");
        let ino = user.walk(".versions/many").await.unwrap();
        let before = requests(&counted);
        let items = user.list_at(ino, false).await.unwrap();
        assert_eq!((items.len(), cost(before)), (2500, 3));
        let mut names: Vec<_> = items.into_iter().map(|i| i.name).collect();
        names.dedup();
        assert_eq!(names.len(), 2500);
        let before = requests(&counted);
        let entry = user.step(ino, &names[1000]).await.unwrap();
        assert_eq!(cost(before), 1, "its metadata");
        let before = requests(&counted);
        user.fs.getattr(entry.ino).await.unwrap();
        assert_eq!(cost(before), 0);
        let handle = user.fs.open_file(entry.ino, READ).await.unwrap().handle;
        assert_eq!(user.read(handle, 0, 100).await.unwrap(), "1499");
        assert_eq!(cost(before), 1, "its bytes");
        user.close(handle).await.unwrap();
        // Back to the beginning, as rewinddir(3) does.
        let handle = user.fs.opendir(ino).unwrap();
        let first = user.fs.readdir(handle, 0, false).await.unwrap();
        assert!(!user.fs.readdir(handle, 1800, false).await.unwrap().is_empty());
        assert_eq!(user.fs.readdir(handle, 0, false).await.unwrap(), first);
        user.fs.releasedir(handle);
        assert_eq!(errno(user.fs.readdir(handle, 0, false).await), Errno::BADF);
    });
}

/// Promise: A checksum that the store keeps is read as an xattr.
#[test]
fn checksums_are_asked_for_by_their_xattr_only() {
    with_versions(|_, store, counted, user| async move {
        put(&store, "f", "x").await;
        let before = requests(&counted);
        let with_versions = xattr(&user, "f", "s3.checksum").await.unwrap();
        assert_eq!(with_versions, format!("CRC32C:{:08x}", crc32c(b"x")));
        assert_eq!(requests(&counted) - before, 3, "a name, its metadata, its checksum");
        assert!(store.head("f", WHY).await.unwrap().unwrap().checksum.is_none());
        assert_eq!(errno(xattr(&user, "", "s3.checksum").await), Errno::NODATA);
    });
}

/// Promise: An archived object says EREMOTE until it is restored, which an xattr asks for.
#[test]
fn archived_objects_are_restored_by_an_xattr() {
    with_versions(|world, store, _, user| async move {
        put(&store, "f", "bytes").await;
        put(&store, "warm", "bytes").await;
        store.archive("f");
        let failed = user.get("f").await.unwrap_err();
        assert_eq!(failed.errno, Errno::REMOTE);
        let why = failed.why.unwrap().to_string();
        assert!(why.contains(" f") && why.contains("setfattr -n s3.restore -v DAYS"), "{why}");
        assert_eq!(errno(user.rename("f", "g", false).await), Errno::REMOTE);
        let handle = user.open("f", WRITE, false).await.unwrap();
        user.fs.write(handle, 5, Bytes::from_static(b"!")).await.ok();
        assert_eq!(errno(user.close(handle).await), Errno::REMOTE);
        assert_eq!(xattr(&user, "f", "s3.restore").await.unwrap(), "archived");
        assert_eq!(xattr(&user, "f", "s3.storage-class").await.unwrap(), "GLACIER");
        for bad in ["", "soon", "7:Fast"] {
            assert_eq!(errno(restore(&user, "f", bad).await), Errno::INVAL, "{bad}");
        }
        assert_eq!(errno(restore(&user, "warm", "7").await), Errno::INVAL);
        assert_eq!(errno(xattr(&user, "warm", "s3.restore").await), Errno::NODATA);
        assert_eq!(errno(restore(&user, "", "7").await), Errno::ISDIR);
        restore(&user, "f", "7:bulk").await.unwrap();
        assert_eq!(xattr(&user, "f", "s3.restore").await.unwrap(), "ongoing");
        assert_eq!(errno(restore(&user, "f", "7").await), Errno::ALREADY);
        assert_eq!(errno(user.get("f").await), Errno::REMOTE);
        store.finish_restore("f", 1_795_166_100_000);
        assert_eq!(xattr(&user, "f", "s3.restore").await.unwrap(), "until 2026-11-20T09:15:00Z");
        world.rt().sleep(Duration::from_secs(10)).await;
        assert_eq!(
            user.get("f").await.unwrap(),
            b"bytes!",
            "what close could not send is sent when it can be"
        );
        let read_only = User::simulated(&world, store.clone(), "ro").await;
        assert_eq!(errno(restore(&read_only, "f", "7").await), Errno::ROFS);
    });
}

/// Promise: An archived object says EREMOTE until it is restored, which an xattr asks for.
#[test]
fn archived_objects_are_listed_and_replaced_as_any() {
    with_versions(|world, store, counted, _| async move {
        for key in ["cold/a", "cold/b", "warm/a", "warm/b"] {
            put(&store, key, "bytes").await;
        }
        store.archive("cold/a");
        store.archive("cold/b");
        let mut costs = Vec::new();
        for dir in ["warm", "cold"] {
            let user = User::simulated(&world, counted.clone(), "").await;
            let before = requests(&counted);
            assert_eq!(user.list(dir, true).await.unwrap().len(), 2);
            assert_eq!(user.stat(&format!("{dir}/a")).await.unwrap().attributes.size, 5);
            costs.push(requests(&counted) - before);
        }
        assert_eq!(costs[0], costs[1]);
        let user = User::simulated(&world, counted, "").await;
        user.put("cold/a", b"new").await.unwrap();
        assert_eq!(user.get("cold/a").await.unwrap(), b"new");
        user.unlink("cold/b").await.unwrap();
    });
}
