//! What an earlier mount left, or this one removed, and what has become of it by the time that a file is sent.

use bytes::Bytes;

use super::acts::{EMPTY, Set};
use super::rules::Act;
use super::user::{User, WRITE};
use crate::ops::Changes;
use windlass_store::{Bucket as _, Cause, EtagRule};

const OF_BYTES: EtagRule = EtagRule::OfBytes;

async fn append(user: &User, path: &str, at: u64, bytes: &'static [u8]) {
    let handle = user.open(path, WRITE, false).await.unwrap();
    user.fs.write(handle, at, Bytes::from_static(bytes)).await.unwrap();
    user.close(handle).await.unwrap();
}

/// A put was on its way when the daemon died, and is done when the next mount has the file, which was changed since and has not been
/// sent.
/// Promise: What was written survives kill -9 and is sent by the next mount.
#[test]
fn what_was_on_its_way_at_a_kill_is_known_again() {
    for how in ["append", "chmod"] {
        Set::run(1, OF_BYTES, move |set| async move {
            let (process, user) = set.mount("flush=local").await;
            set.store.rule("put", "f", Act::CutAndCome(20_000), 1);
            set.store.rule("put", "", Act::Hang, 1000);
            user.put("f", b"one").await.unwrap();
            set.store.reached(1).await;
            // As many as are sent at once, and later than this one.
            for i in 0..40 {
                set.sleep(10).await;
                user.put(&format!("other{i}"), b"x").await.unwrap();
            }
            process.kill();
            drop(user);
            let (_, user) = set.mount("flush=local").await;
            set.sleep(1000).await;
            match how {
                "append" => append(&user, "f", 3, b"+two").await,
                _ => {
                    let mode = Changes { mode: Some(0o600), ..Changes::default() };
                    user.fs.setattr(user.walk("f").await.unwrap(), mode, None).await.unwrap();
                }
            }
            set.sleep(30_000).await;
            assert_eq!(set.body("f").await.unwrap(), "one", "{how}: it has come");
            set.store.clear();
            set.sleep(200_000).await;
            user.fs.finish().await;
            let wanted = if how == "append" { "one+two" } else { "one" };
            assert_eq!(set.body("f").await.unwrap(), wanted, "{how}: {:?}", set.keys());
            assert_eq!(set.keys().len(), 41, "{how}: {:?}", set.keys());
        });
    }
}

/// A put was on its way when the daemon died, and is done when the next mount's user has removed the file.
/// Promise: What was removed stays removed.
#[test]
fn what_was_on_its_way_at_a_kill_and_was_removed_is_not_back() {
    for anew in [false, true] {
        Set::run(1, OF_BYTES, move |set| async move {
            let (process, user) = set.mount("flush=local").await;
            set.store.rule("put", "f", Act::CutAndCome(20_000), 1);
            set.store.rule("put", "", Act::Hang, 1000);
            user.put("f", b"one").await.unwrap();
            set.store.reached(1).await;
            for i in 0..40 {
                set.sleep(10).await;
                user.put(&format!("other{i}"), b"x").await.unwrap();
            }
            process.kill();
            drop(user);
            let (_, user) = set.mount("flush=local").await;
            set.sleep(1000).await;
            user.unlink("f").await.unwrap();
            if anew {
                user.put("f", b"anew").await.unwrap();
            }
            set.sleep(30_000).await;
            set.store.clear();
            set.sleep(200_000).await;
            user.fs.finish().await;
            let wanted = anew.then(|| Bytes::from_static(b"anew"));
            assert_eq!(set.body("f").await, wanted, "{anew}: {:?}", set.keys());
            assert_eq!(set.keys().len(), if anew { 41 } else { 40 }, "{anew}: {:?}", set.keys());
        });
    }
}

/// A removal that failed is tried again, and done, while the file that follows it is on its way.
/// Promise: Names that are removed one after another are deleted together.
#[test]
fn what_follows_a_removal_is_stored_though_that_is_done_meanwhile() {
    for flush in ["bucket", "local"] {
        Set::run(1, OF_BYTES, move |set| async move {
            let (_, user) = set.mount(&format!("flush={flush}")).await;
            for name in ["a", "b", "f1", "f2", "f3"] {
                user.put(name, b"old").await.unwrap();
            }
            user.fs.idle().await;
            // Later their removal waits for others.
            set.sleep(61_000).await;
            // Those that go together, and each of them alone.
            set.store.rule("delete", "f", Act::Hang, 4);
            for name in ["a", "b", "f1", "f2", "f3"] {
                user.unlink(name).await.unwrap();
            }
            let handle = user.open("f3", WRITE, true).await.unwrap();
            user.fs.write(handle, 0, Bytes::from_static(b"new")).await.unwrap();
            set.sleep(125_000).await;
            assert_eq!(set.keys(), ["f1", "f2", "f3"], "they have failed, and wait for another attempt");
            set.store.rule("put", "f3", Act::Hold(1), 1);
            set.store.rule("put", "f3", Act::Hold(30_000), 1);
            user.close(handle).await.unwrap_or_else(|f| panic!("{flush}: {f:?}"));
            set.sleep(60_000).await;
            assert_eq!(set.keys(), ["f3"], "{flush}");
            assert_eq!(set.body("f3").await.unwrap(), "new", "{flush}");
            user.fs.finish().await;
        });
    }
}

/// The store does not say what has the name of a file that an earlier mount left: its send finds out.
/// Promise: What was written survives kill -9 and is sent by the next mount.
#[test]
fn a_look_that_fails_keeps_no_file_from_being_sent() {
    for there in ["old", "stored", "theirs"] {
        Set::run(1, OF_BYTES, move |set| async move {
            set.put("f", b"old").await;
            let (process, user) = set.mount("flush=local").await;
            let act = if there == "stored" { Act::LoseAfter(1000) } else { Act::Deny };
            set.store.rule("put", "f", act, 1000);
            append(&user, "f", 3, b"+new").await;
            set.sleep(500).await;
            process.kill();
            drop(user);
            set.store.clear();
            if there == "theirs" {
                set.put("f", b"theirs").await;
            }
            set.store.rule("head", "f", Act::Deny, 2);
            let (_, user) = set.mount("flush=local").await;
            set.store.clear();
            set.sleep(30_000).await;
            user.fs.finish().await;
            assert_eq!(user.fs.kept().files, 0, "{there}");
            let wanted = if there == "theirs" { "theirs" } else { "old+new" };
            assert_eq!(set.body("f").await.unwrap(), wanted, "{there}: {:?}", set.keys());
            assert_eq!(set.keys().len(), if there == "theirs" { 2 } else { 1 }, "{there}: {:?}", set.keys());
        });
    }
}

/// Files that an earlier mount left and that can't be stored beside their objects when the next one begins
/// count as unsent.
/// Promise: What was written survives kill -9 and is sent by the next mount.
#[test]
fn what_cannot_be_taken_up_counts_as_unsent() {
    Set::run(1, OF_BYTES, move |set| async move {
        set.put("f", b"old").await;
        let (process, user) = set.mount("").await;
        let handle = user.open("f", EMPTY, false).await.unwrap();
        user.fs.write(handle, 0, Bytes::from_static(b"half")).await.unwrap();
        process.kill();
        drop(user);
        set.store.rule("put", "f.unfinished", Act::Deny, 1000);
        let (_, user) = set.mount("").await;
        assert_eq!(user.fs.pending().files, 1);
        user.fs.finish().await;
        assert_eq!(user.fs.kept().files, 1);
        set.store.clear();
        let (_, user) = set.mount("").await;
        user.fs.finish().await;
        assert_eq!((user.fs.kept().files, set.keys().len()), (0, 2), "{:?}", set.keys());
    });
}

/// A large file is removed while its upload begins: nothing of that stays in the bucket.
/// Promise: What was removed stays removed.
#[test]
fn an_upload_that_begins_while_its_file_is_removed_is_given_up() {
    Set::run(1, OF_BYTES, move |set| async move {
        let (_, user) = set.mount("").await;
        set.store.rule("begin", "f", Act::Hold(3000), 1);
        let handle = user.open("f", WRITE, true).await.unwrap();
        let writing = {
            let user = user.another();
            set.world.rt().spawn(async move {
                for at in 0..40 {
                    user.fs.write(handle, at << 20, vec![1; 1 << 20].into()).await.unwrap();
                }
                user.close(handle).await
            })
        };
        set.store.reached(1).await;
        user.unlink("f").await.unwrap();
        writing.await.unwrap().unwrap();
        user.fs.finish().await;
        let uploads = set.store.contents().multipart_list("", Cause::File).await.unwrap();
        assert_eq!(uploads.len(), 0);
        assert_eq!(set.keys(), [""; 0]);
    });
}

/// A file is renamed while it is written, and the daemon dies when the old name is gone and nobody has heard of it.
/// Promise: What was written survives kill -9 and is sent by the next mount.
#[test]
fn what_is_written_of_a_file_goes_along_with_a_rename_that_is_cut_off() {
    for (deleted, etags) in [(true, OF_BYTES), (true, EtagRule::OfEachPut), (false, OF_BYTES)] {
        Set::run(1, etags, move |set| async move {
            set.put("log", b"old").await;
            let (process, user) = set.mount("flush=local").await;
            let handle = user.open("log", WRITE, false).await.unwrap();
            user.fs.write(handle, 3, Bytes::from_static(b"+line")).await.unwrap();
            set.store.rule("delete", "log", if deleted { Act::Late(60_000) } else { Act::Hang }, 1);
            let moving = user.another();
            process.rt().spawn(async move { moving.rename("log", "log.1", false).await }).detach();
            set.store.reached(1).await;
            set.sleep(1000).await;
            process.kill();
            drop(user);
            set.store.clear();
            let (_, user) = set.mount("flush=local").await;
            set.sleep(10_000).await;
            user.fs.finish().await;
            assert_eq!(set.body("log.1").await.unwrap(), "old+line", "{deleted}: {:?}", set.keys());
            let both: &[&str] = if deleted { &["log.1"] } else { &["log", "log.1"] };
            assert_eq!(set.keys(), both, "{deleted}");
        });
    }
}

/// A large file is renamed while it is written, and what had left for its old name is no use to anybody: one that was an object
/// before, and one that is none yet. The daemon dies before that has ended.
/// Promise: An upload that a crash cut off is given up by the next mount.
#[test]
fn an_upload_for_the_old_name_of_a_file_is_given_up_after_a_crash() {
    for was in [true, false] {
        Set::run(1, OF_BYTES, move |set| async move {
            if was {
                set.put("big", b"old").await;
            }
            let (process, user) = set.mount("flush=local").await;
            let handle = user.open("big", if was { EMPTY } else { WRITE }, !was).await.unwrap();
            set.store.rule("part", "big", Act::Hang, if was { 0 } else { 100 });
            for at in 0..40 {
                user.fs.write(handle, at << 20, vec![1; 1 << 20].into()).await.unwrap();
            }
            let uploads = async || set.store.contents().multipart_list("", Cause::File).await.unwrap().len();
            assert_eq!(uploads().await, 1, "{was}");
            set.store.rule("delete", "big", Act::Late(60_000), 1);
            let moving = user.another();
            let moved = process.rt().spawn(async move { moving.rename("big", "big.1", false).await });
            match was {
                true => set.store.reached(1).await,
                false => moved.await.unwrap().unwrap(),
            }
            set.sleep(1000).await;
            process.kill();
            drop(user);
            set.store.clear();
            let (_, user) = set.mount("flush=local").await;
            set.sleep(10_000).await;
            user.fs.finish().await;
            assert_eq!(uploads().await, 0, "{was}");
            assert!(set.body("big.1").await.is_some(), "{was}: {:?}", set.keys());
        });
    }
}

/// A file is renamed while it is written, and the old name can't be deleted. The file stays there, and is
/// sent there after a kill.
/// Promise: What was written survives kill -9 and is sent by the next mount.
#[test]
fn what_is_written_of_a_file_stays_with_it_when_its_rename_fails() {
    Set::run(1, OF_BYTES, move |set| async move {
        set.put("log", b"old").await;
        let (process, user) = set.mount("flush=local").await;
        let handle = user.open("log", WRITE, false).await.unwrap();
        user.fs.write(handle, 3, Bytes::from_static(b"+line")).await.unwrap();
        set.store.rule("delete", "log", Act::Deny, 10);
        user.rename("log", "log.1", false).await.unwrap_err();
        process.kill();
        drop(user);
        set.store.clear();
        let (_, user) = set.mount("flush=local").await;
        set.sleep(10_000).await;
        user.fs.finish().await;
        assert_eq!(set.body("log").await.unwrap(), "old+line", "{:?}", set.keys());
    });
}

/// A rename was cut off, and the next mount can neither end nor undo it, as one look at a copy fails. What its user makes at the old
/// name stays there, also when a third mount finds it unsent.
/// Promise: A directory's rename that fails leaves all of it at its old name.
#[test]
fn a_third_mount_moves_nothing_that_the_second_has_made() {
    Set::run(1, OF_BYTES, move |set| async move {
        for name in ["d/a", "d/b"] {
            set.put(name, b"old").await;
        }
        let (process, user) = set.mount("flush=local").await;
        let handle = user.open("d/a", WRITE, false).await.unwrap();
        user.fs.write(handle, 3, Bytes::from_static(b"+line")).await.unwrap();
        set.store.rule("copy", "e/", Act::Hang, 100);
        let moving = user.another();
        process.rt().spawn(async move { moving.rename("d", "e", false).await }).detach();
        set.store.reached(1).await;
        process.kill();
        drop(user);
        set.store.clear();
        set.store.rule("head", "e/a", Act::Deny, 100);
        let (process, user) = set.mount("flush=local").await;
        set.store.clear();
        set.store.rule("put", "d/new", Act::Deny, 100);
        user.put("d/new", b"since").await.unwrap();
        process.kill();
        drop(user);
        set.store.clear();
        let (_, user) = set.mount("flush=local").await;
        set.sleep(30_000).await;
        user.fs.finish().await;
        assert_eq!(set.body("d/new").await.unwrap_or_else(|| panic!("{:?}", set.keys())), "since");
        assert_eq!(set.body("e/b").await.unwrap(), "old");
    });
}

/// A mount that only reads comes first: what an earlier one could not send is for one that writes.
/// Promise: What was written survives kill -9 and is sent by the next mount.
#[test]
fn a_mount_that_only_reads_keeps_nothing_from_being_sent() {
    Set::run(1, OF_BYTES, move |set| async move {
        set.put("f", b"old").await;
        let (process, user) = set.mount("flush=local").await;
        set.store.rule("put", "f", Act::Deny, 1000);
        append(&user, "f", 3, b"+new").await;
        set.sleep(500).await;
        process.kill();
        drop(user);
        set.store.clear();
        let (_reads, reader) = set.mount("ro").await;
        let (_, user) = set.mount("flush=local").await;
        assert_eq!(user.get("f").await.unwrap(), b"old+new");
        set.sleep(10_000).await;
        assert_eq!(set.body("f").await.unwrap(), "old+new");
        user.fs.finish().await;
        reader.fs.finish().await;
        assert_eq!(set.keys(), ["f"]);
    });
}

/// A put that was sent twice comes once more, when its file is removed and the next one of that name is being written.
/// Promise: What was removed stays removed.
#[test]
fn a_late_put_of_a_removed_file_is_replaced_by_the_next() {
    for flush in ["bucket", "local"] {
        Set::run(1, OF_BYTES, move |set| async move {
            let (_, user) = set.mount(&format!("deadline=5,flush={flush}")).await;
            set.store.rule("put", "f", Act::CutAndCome(20_000), 1);
            user.put("f", b"first").await.unwrap();
            user.fs.idle().await;
            user.unlink("f").await.unwrap();
            set.sleep(18_000).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            user.fs.write(handle, 0, Bytes::from_static(b"second")).await.unwrap();
            while set.body("f").await.is_none() {
                set.sleep(1).await;
            }
            user.close(handle).await.unwrap_or_else(|f| panic!("{flush}: {f:?}"));
            set.sleep(60_000).await;
            user.fs.finish().await;
            assert_eq!(set.keys(), ["f"], "{flush}");
            assert_eq!(set.body("f").await.unwrap(), "second", "{flush}");
        });
    }
}

/// A file is emptied and written when its name, whose removal failed, has shown again. It is stored though
/// that removal is done meanwhile. The daemon may die in between.
/// Promise: Names that are removed one after another are deleted together.
#[test]
fn what_replaces_a_name_whose_removal_failed_is_stored_though_that_is_done_meanwhile() {
    for (flush, killed) in [("bucket", false), ("local", false), ("local", true)] {
        Set::run(1, OF_BYTES, move |set| async move {
            let note = format!("{flush} {killed}");
            let (process, user) = set.mount(&format!("flush={flush}")).await;
            for name in ["a", "b", "f1", "f2", "f3"] {
                user.put(name, b"old").await.unwrap();
            }
            user.fs.idle().await;
            // Later their removal waits for others.
            set.sleep(61_000).await;
            set.store.rule("delete", "f", Act::Hang, 4);
            for name in ["a", "b", "f1", "f2", "f3"] {
                user.unlink(name).await.unwrap();
            }
            set.sleep(125_000).await;
            let handle = user.open("f3", EMPTY, false).await.unwrap();
            user.fs.write(handle, 0, Bytes::from_static(b"new")).await.unwrap();
            set.store.rule("put", "f3", if killed { Act::Deny } else { Act::Hold(30_000) }, 1);
            user.close(handle).await.unwrap_or_else(|f| panic!("{note}: {f:?}"));
            if killed {
                set.sleep(500).await;
                process.kill();
                drop(user);
                let (_, user) = set.mount(&format!("flush={flush}")).await;
                set.sleep(60_000).await;
                user.fs.finish().await;
            } else {
                set.sleep(60_000).await;
                user.fs.finish().await;
            }
            assert_eq!(set.keys(), ["f3"], "{note}");
            assert_eq!(set.body("f3").await.unwrap(), "new", "{note}");
        });
    }
}
