//! Renames of directories that the store or this host's disk lets down.

use std::time::Duration;

use bytes::Bytes;

use super::acts::Set;
use super::faults::staged;
use super::rules::Act;
use super::user::WRITE;
use crate::object::{Errno, KEY_MAX};
use windlass_base::Kind;
use windlass_store::EtagRule;

const RULES: [EtagRule; 3] = [EtagRule::OfBytes, EtagRule::OfParts, EtagRule::OfEachPut];

/// The store refuses to delete the old names: they stay, with what is written there then, and the copies go
/// once they may. No later mount moves anything.
/// Promise: A directory's rename that fails leaves all of it at its old name.
#[test]
fn a_directory_whose_names_may_not_be_deleted_stays() {
    for (rule, denied) in RULES.into_iter().flat_map(|rule| ["d/", ""].map(|denied| (rule, denied))) {
        Set::run(1, rule, move |set| async move {
            let note = format!("{rule:?} {denied:?}");
            for name in ["d/a", "d/b", "d/sub/c"] {
                set.put(name, b"old").await;
            }
            let (_, user) = set.mount("deadline=20").await;
            let handle = user.open("d/a", WRITE, false).await.unwrap();
            user.fs.write(handle, 0, Bytes::from_static(b"new")).await.unwrap();
            set.store.rule("delete", denied, Act::Deny, 1_000_000);
            assert_eq!(user.rename("d", "e", false).await.unwrap_err().errno, Errno::ACCESS, "{note}");
            user.close(handle).await.unwrap();
            user.put("d/made", b"made").await.unwrap();
            set.sleep(30_000).await;
            assert_eq!(user.get("d/a").await.unwrap(), b"new", "{note}");
            user.forget_all();
            user.fs.finish().await;
            drop(user);
            set.store.clear();
            let (_, user) = set.mount("").await;
            set.sleep(60_000).await;
            user.fs.finish().await;
            let names: &[&str] = match denied {
                // Its source has changed: it is no copy any more.
                "" => &["d/a", "d/b", "d/made", "d/sub/c", "e/a"],
                _ => &["d/a", "d/b", "d/made", "d/sub/c"],
            };
            assert_eq!(set.keys(), names, "{note}");
            assert_eq!(set.body("d/a").await.unwrap(), "new", "{note}");
            assert_eq!(staged(&set.disk), [""; 0], "{note}");
        });
    }
}

/// A rename fails when the disk of this host has no room to note that, and the daemon dies then.
/// Promise: A directory's rename that fails leaves all of it at its old name.
#[test]
fn a_failed_rename_is_not_finished_though_the_disk_was_full() {
    Set::run(1, EtagRule::OfBytes, |set| async move {
        let names = ["d/a", "d/b", "d/c"];
        for name in names {
            set.put(name, b"old").await;
        }
        let (process, user) = set.mount("deadline=20").await;
        set.store.rule("copy", "e/b", Act::Hold(3000), 1);
        set.store.rule("copy", "e/c", Act::Deny, 1);
        set.store.rule("delete", "e/", Act::Hang, 1000);
        let moving = user.another();
        let moving =
            process.rt().spawn(async move { moving.rename("d", "e", false).await.map_err(|f| f.errno) });
        set.store.reached(2).await;
        let used = set.disk.files().iter().map(|(_, len)| len).sum();
        set.disk.faults(|f| f.capacity = used);
        set.sleep(5000).await;
        process.kill();
        drop((user, moving));
        set.store.clear();
        set.disk.faults(|f| f.capacity = u64::MAX);
        let (_, user) = set.mount("").await;
        set.sleep(60_000).await;
        for name in names {
            assert_eq!(set.body(name).await.unwrap(), "old", "{:?}", set.keys());
        }
        user.fs.finish().await;
        assert_eq!(staged(&set.disk), [""; 0]);
    });
}

/// The store asks for fewer requests again and again: the rename goes on, and says so when it can't.
#[test]
fn a_store_that_asks_for_fewer_requests_slows_a_rename_down() {
    for rule in RULES {
        Set::run(1, rule, move |set| async move {
            for i in 0..3 {
                set.put(&format!("d/f{i}"), b"x").await;
            }
            let (_, user) = set.mount("deadline=20").await;
            set.store.rule("copy", "e/f1", Act::SlowDown, 9);
            let began = set.world.rt().now();
            user.rename("d", "e", false).await.unwrap_or_else(|f| panic!("{rule:?}: {:?}", f.why));
            assert_eq!(set.keys(), ["e/f0", "e/f1", "e/f2"], "{rule:?}");
            set.store.rule("copy", "d/f1", Act::SlowDown, 1_000_000);
            let failed = user.rename("e", "d", false).await.unwrap_err();
            assert!(failed.why.unwrap().is(Kind::Throttled), "{rule:?}");
            assert!(set.world.rt().now().since(began) < Duration::from_secs(110), "{rule:?}");
            set.sleep(30_000).await;
            assert_eq!(set.keys(), ["e/f0", "e/f1", "e/f2"], "{rule:?}");
            user.fs.finish().await;
        });
    }
}

/// A directory gets a name so long that a key in it would be longer than keys can be.
#[test]
fn a_directorys_name_that_makes_a_key_too_long_is_refused_as_that() {
    Set::run(1, EtagRule::OfBytes, |set| async move {
        let long = format!("d/{}", ["x".repeat(200).as_str(); 5].join("/"));
        assert!(long.len() < KEY_MAX);
        set.put("d/a", b"a").await;
        set.put(&long, b"x").await;
        let (_, user) = set.mount("").await;
        let refused = user.rename("d", &"e".repeat(200), false).await.unwrap_err();
        assert_eq!(refused.errno, Errno::NAMETOOLONG);
        set.sleep(30_000).await;
        assert_eq!(set.keys(), ["d/a".to_owned(), long]);
        user.fs.finish().await;
    });
}

/// Some objects of a bucket are encrypted with SSE-KMS, and their copies alone have etags of their own: the
/// answer of such a copy is lost.
#[test]
fn a_lost_copy_with_an_etag_of_its_own_is_known_where_others_keep_theirs() {
    Set::run(1, EtagRule::OfBytes, |set| async move {
        for name in ["warm", "d/a", "d/k", "d/z"] {
            set.put(name, name.as_bytes()).await;
        }
        let (_, user) = set.mount("deadline=20").await;
        user.rename("warm", "warm2", false).await.unwrap();
        set.store.contents().etags_are(EtagRule::OfEachPut);
        set.store.rule("copy", "e/k", Act::Lose, 1);
        user.rename("d", "e", false).await.unwrap_or_else(|f| panic!("{:?}", f.why));
        assert_eq!(set.keys(), ["e/a", "e/k", "e/z", "warm2"]);
        assert_eq!(set.body("e/k").await.unwrap(), "d/k");
        user.fs.finish().await;
        assert_eq!(staged(&set.disk), [""; 0]);
    });
}
