//! What was made under a name while a request about it was refused, hung, or was still to arrive.

use bytes::Bytes;

use super::acts::{EMPTY, Set};
use super::rules::Act;
use super::user::WRITE;
use crate::object::Errno;
use windlass_store::EtagRule;

const OF_BYTES: EtagRule = EtagRule::OfBytes;

/// A close that was sent twice is watched for its first attempt once its name is gone. What comes there by this host is no such put.
#[test]
fn what_is_moved_away_and_back_is_taken_for_no_late_put() {
    for dir in [false, true] {
        Set::run(1, OF_BYTES, move |set| async move {
            let (_, user) = set.mount("deadline=5").await;
            user.mkdir("d").await.unwrap();
            set.store.rule("put", "d/f", Act::Hang, 1);
            user.put("d/f", b"kept").await.unwrap();
            let (away, back) = if dir { (("d", "e"), ("e", "d")) } else { (("d/f", "d/g"), ("d/g", "d/f")) };
            user.rename(away.0, away.1, false).await.unwrap();
            user.rename(back.0, back.1, false).await.unwrap();
            set.sleep(60_000).await;
            assert_eq!(set.body("d/f").await.unwrap_or_else(|| panic!("{:?}", set.keys())), "kept");
        });
    }
}

/// The close that a rename waits for has been sent meanwhile, and the file is being written anew.
/// Promise: A whole object is never replaced by half of one.
#[test]
fn a_rename_beside_a_close_publishes_no_half() {
    for local in ["bucket", "local"] {
        Set::run(1, OF_BYTES, move |set| async move {
            let (_, user) = set.mount(&format!("flush={local}")).await;
            set.store.rule("put", "f", Act::Hold(3000), 1);
            let first = user.open("f", WRITE, true).await.unwrap();
            user.fs.write(first, 0, Bytes::from_static(b"whole")).await.unwrap();
            let closing = {
                let user = user.another();
                set.world.rt().spawn(async move { user.close(first).await.unwrap() })
            };
            set.store.reached(1).await;
            let second = user.open("f", EMPTY, false).await.unwrap();
            user.fs.write(second, 0, Bytes::from_static(b"half")).await.unwrap();
            user.rename("f", "g", false).await.unwrap();
            closing.await.unwrap();
            assert_eq!(set.body("g").await.unwrap(), "whole", "{local}");
            user.close(second).await.unwrap();
            user.fs.finish().await;
            assert_eq!(set.body("g").await.unwrap(), "half", "{local}");
        });
    }
}

/// A removal that the store refuses is tried again later: what has come to the name by then stays.
/// Promise: Names that are removed one after another are deleted together.
#[test]
fn a_removal_that_is_tried_again_takes_nothing_that_came_since() {
    Set::run(1, OF_BYTES, |set| async move {
        for i in 0..8 {
            set.put(&format!("d/f{i}"), b"old").await;
        }
        set.put("new", b"new").await;
        let (_, user) = set.mount("deadline=5").await;
        user.list("d", false).await.unwrap();
        set.store.rule("delete", "d/f", Act::Deny, 1000);
        for i in 0..8 {
            let _ = user.unlink(&format!("d/f{i}")).await;
        }
        set.sleep(10_000).await;
        user.rename("new", "d/f4", false).await.unwrap();
        // Along with what could not be removed.
        let refused = user.rename("d", "e", false).await.unwrap_err();
        assert_eq!(refused.errno, Errno::ACCESS);
        set.store.clear();
        user.fs.fsync_dir(user.walk("d").await.unwrap()).await.unwrap();
        assert_eq!(set.keys(), ["d/f0", "d/f1", "d/f4"], "the first two are asked for one by one");
        user.rename("d", "e", false).await.unwrap();
        assert_eq!(set.body("e/f4").await.unwrap(), "new");
        user.fs.finish().await;
    });
}

/// Names whose removal was answered are not taken along by a rename that a kill cuts off.
/// Promise: What was removed stays removed.
#[test]
fn what_was_removed_before_a_rename_that_is_cut_off_stays_removed() {
    Set::run(1, OF_BYTES, |set| async move {
        for name in ["a", "b", "f0", "f1", "f2", "keep"] {
            set.put(&format!("d/{name}"), b"old").await;
        }
        let (process, user) = set.mount("deadline=20").await;
        user.list("d", false).await.unwrap();
        set.store.rule("delete", "d/f", Act::Hang, 1000);
        for name in ["a", "b", "f0", "f1", "f2"] {
            user.unlink(&format!("d/{name}")).await.unwrap();
        }
        let moving = user.another();
        process.rt().spawn(async move { moving.rename("d", "e", false).await }).detach();
        set.sleep(2000).await;
        process.kill();
        drop(user);
        set.store.clear();
        let (_, user) = set.mount("").await;
        set.sleep(30_000).await;
        user.fs.finish().await;
        let names: Vec<String> = set.keys().into_iter().filter(|key| !key.ends_with('/')).collect();
        assert!(names == ["e/keep"] || names == ["d/keep"], "{names:?}");
    });
}

/// The copies of a rename that has failed arrive, and find another file at the new name.
#[test]
fn a_copy_that_comes_late_overwrites_nothing() {
    for there in [false, true] {
        Set::run(1, OF_BYTES, move |set| async move {
            set.put("f", b"moved").await;
            if there {
                set.put("g", b"old").await;
            }
            let (_, user) = set.mount("deadline=5").await;
            set.store.rule("copy", "g", Act::CutAndCome(60_000), 100);
            user.rename("f", "g", false).await.unwrap_err();
            user.put("g", b"since").await.unwrap();
            set.sleep(120_000).await;
            assert_eq!(set.body("g").await.unwrap(), "since", "{there}");
            assert_eq!(set.body("f").await.unwrap(), "moved", "{there}");
            user.fs.finish().await;
        });
    }
}

/// A writer of a file that a rename replaces is told, where that rename fails at its end.
#[test]
fn who_writes_what_a_failed_rename_has_replaced_loses_nothing() {
    Set::run(1, OF_BYTES, |set| async move {
        set.put("f", b"moved").await;
        set.put("g", b"old").await;
        let (_, user) = set.mount("deadline=5").await;
        let handle = user.open("g", WRITE, false).await.unwrap();
        user.fs.write(handle, 0, Bytes::from_static(b"mine")).await.unwrap();
        set.store.rule("delete", "f", Act::Deny, 1000);
        assert_eq!(user.rename("f", "g", false).await.unwrap_err().errno, Errno::ACCESS);
        let closed = user.close(handle).await;
        user.fs.finish().await;
        let mut bodies = Vec::new();
        for key in set.keys() {
            bodies.push(set.body(&key).await.unwrap());
        }
        assert!(closed.is_err() && bodies.iter().any(|body| body == "mine"), "{closed:?} {:?}", set.keys());
    });
}

/// Told ESTALE the kernel renames once more, over what the other client has just put there.
#[test]
fn a_rename_whose_copy_another_client_has_replaced_is_not_made_again() {
    Set::run(1, OF_BYTES, |set| async move {
        set.put("f", b"moved").await;
        let (_, user) = set.mount("deadline=20").await;
        let other = set.other().await;
        user.stat("f").await.unwrap();
        set.store.rule("copy", "g", Act::Late(3000), 1);
        let renaming = {
            let user = user.another();
            set.world.rt().spawn(async move { user.rename("f", "g", false).await })
        };
        while set.body("g").await.is_none() {
            set.sleep(10).await;
        }
        other.put("g", b"theirs").await.unwrap();
        let refused = renaming.await.unwrap().unwrap_err();
        assert_eq!(refused.errno, Errno::BUSY);
        assert_eq!(set.body("g").await.unwrap(), "theirs");
        assert_eq!(set.body("f").await.unwrap(), "moved");
        user.fs.finish().await;
    });
}
