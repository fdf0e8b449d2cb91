//! Whose it is what is made in the folder, and what a probe leaves.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // looks at the folder from outside

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::*;
use crate::{Attrs, Effort, Put, When, probe_with, try_rights};
use windlass_base::rt::RealRuntime;

/// A user that owns nothing else, where the test may be that user: as root.
fn somebody() -> (u32, u32) {
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if own.0 == 0 { (64_711, 64_712) } else { own }
}

fn folder_of_somebody() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (uid, gid) = somebody();
    std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
    dir
}

/// All that is below a folder, with the folder.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => all.extend(walk(&entry)),
            false => all.push(entry),
        }
    }
    all
}

async fn open(dir: &Path) -> BucketRef {
    FileStore::open(&Rt::new(RealRuntime::current()), dir).await.unwrap()
}

#[tokio::test]
async fn what_root_makes_is_the_folders_owners() {
    let dir = folder_of_somebody();
    let bucket = open(dir.path()).await;
    let put = |key: &'static str| bucket.put(key, Bytes::from_static(b"x"), When::Always, Cause::File);
    // An object, one in folders, one that moves aside, one that is put aside at once, a replaced one.
    for key in ["top", "a/b/c", "top/below", "a", "top"] {
        assert!(matches!(put(key).await.unwrap(), Put::Stored(_)), "{key}");
    }
    let upload = bucket.multipart_create("large", &Attrs::default(), Cause::File).await.unwrap();
    bucket.multipart_put("large", &upload, 1, Bytes::from_static(b"y"), Cause::File).await.unwrap();
    let all = walk(dir.path());
    for part in ["/locks/", "/uploads/", "/.%f/", "/about", "/a/b/c"] {
        assert!(all.iter().any(|path| path.to_string_lossy().contains(part)), "{part}: {all:?}");
    }
    for path in all {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), somebody(), "{}", path.display());
    }
    assert_eq!(std::fs::read_dir(dir.path().join(".%windlass/tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_probe_leaves_nothing_and_takes_nothing_of_others() {
    let dir = folder_of_somebody();
    let looker = open(dir.path()).await;
    let rt = Rt::new(RealRuntime::current());
    assert!(try_rights(&rt, &*looker, "probe/").await.iter().all(|one| one.outcome.is_ok()));
    probe_with(&rt, &*looker, "probe/", Effort::SHORT).await.unwrap();
    assert_eq!(walk(dir.path()), [dir.path().to_owned()]);
    // The lock files of the one who uses the store stay.
    let user = open(dir.path()).await;
    user.put("a/b", Bytes::from_static(b"x"), When::Always, Cause::File).await.unwrap();
    let before = walk(dir.path());
    for _ in 0..3 {
        assert!(try_rights(&rt, &*looker, "probe/").await.iter().all(|one| one.outcome.is_ok()));
    }
    assert_eq!(walk(dir.path()), before);
}

/// One of the processes of the next test: makes and removes objects in the same folders as the other.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by root_and_the_owner_share_a_folder"]
async fn come_and_go_in_a_process_of_its_own() {
    let bucket = open(Path::new(&std::env::var("WINDLASS_TEST_DIR").unwrap())).await;
    for n in 0..200 {
        let key = format!("{}/{}/{n}", n % 7, n % 3);
        let put = bucket.put(&key, Bytes::from_static(b"x"), When::Always, Cause::File).await;
        assert!(matches!(put, Ok(Put::Stored(_))), "{put:?}");
        // So that a probe takes lock files away meanwhile too.
        bucket.delete(&[key], if n % 5 == 0 { Cause::Probe } else { Cause::File }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_and_the_owner_share_a_folder() {
    let dir = folder_of_somebody();
    let (uid, gid) = somebody();
    let itself = std::env::current_exe().unwrap();
    let mut users = vec![(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())];
    users.extend([(uid, gid), users[0]]);
    let all: Vec<_> = users
        .into_iter()
        .map(|(uid, gid)| {
            let mut command = std::process::Command::new(&itself);
            command
                .args(["--ignored", "--exact", "file::owner_tests::come_and_go_in_a_process_of_its_own"])
                .env("WINDLASS_TEST_DIR", dir.path())
                .current_dir("/");
            if uid != rustix::process::geteuid().as_raw() {
                command.uid(uid).gid(gid);
            }
            command.stdout(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for process in all {
        let done = process.wait_with_output().unwrap();
        // A name that no test has is no failure to the child.
        assert!(done.status.success() && String::from_utf8_lossy(&done.stdout).contains("1 passed"));
    }
    let foreign = |path: &PathBuf| std::fs::symlink_metadata(path).unwrap().uid() != uid;
    assert_eq!(walk(dir.path()).into_iter().filter(foreign).collect::<Vec<_>>(), Vec::<PathBuf>::new());
}
