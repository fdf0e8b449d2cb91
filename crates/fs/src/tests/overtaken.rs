//! What happens between two steps of an operation: another client's change, another process's, a second attempt.

use std::time::Duration;

use bytes::Bytes;

use super::faults::{body, nothing, staged, two_lives};
use super::user::{READ, User, WRITE};
use crate::object::Errno;
use crate::ops::Changes;
use crate::tree::OpenMode;
use windlass_base::rt::sim::Sim;
use windlass_store::{Bucket as _, Cause, Reach, SimStore, Store as _, When};

const NEW: OpenMode = OpenMode { truncate: true, ..WRITE };

/// A copy that the store makes is stored when the call returns, with `flush=local` as well: this host has no
/// byte of it.
/// Promise: With `flush=local`, close returns when this host has the bytes.
#[test]
fn a_copy_in_the_bucket_is_stored_at_once() {
    let sim = Sim::new(7);
    let store = SimStore::new(&sim, "s");
    let (world, inside) = (sim.clone(), store.clone());
    sim.run(async move {
        let user = User::simulated(&world, inside.clone(), "flush=local").await;
        let bytes = Bytes::from(vec![7; 1 << 20]);
        inside.contents().put("a", bytes.clone(), When::Always, Cause::File).await.unwrap();
        let from = user.open("a", READ, false).await.unwrap();
        let to = user.open("f", NEW, true).await.unwrap();
        assert_eq!(user.fs.copy_range(from, to, (0, 0), 1 << 20).await.unwrap(), 1 << 20);
        assert_eq!(body(inside.contents(), "f").await.unwrap(), bytes);
        user.close(to).await.unwrap();
        assert_eq!(user.stat("f").await.unwrap().attributes.size, 1 << 20);
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
                if wrote.is_ok() {
                    last = bytes;
                    let _ = user.fs.flush(handle).await;
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
            let two = user.fs.write(handle, 3, Bytes::from_static(b"two"));
            if seed % 2 == 0 {
                two.await.unwrap();
                assert!(child.await.unwrap());
            } else {
                // A close that begins while the bytes are on their way.
                let (wrote, closed) = futures::join!(two, user.fs.flush(handle));
                assert!(wrote.is_ok() && closed.is_ok(), "seed {seed}");
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

/// `mkstemp` and `unlink` before the first byte: the next mount finds nothing.
/// Promise: What was removed stays removed.
#[test]
fn a_file_without_a_name_is_nobodys_after_a_kill() {
    for made in [false, true] {
        let first = move |user: User, _| async move {
            if made {
                user.put("scratch", b"").await.unwrap();
            }
            let handle = user.open("scratch", WRITE, true).await.unwrap();
            user.unlink("scratch").await.unwrap();
            user.fs.write(handle, 0, Bytes::from_static(b"private")).await.unwrap();
            assert_eq!(user.read(handle, 0, 10).await.unwrap(), "private");
        };
        let (store, disk) = two_lives(6, "", first, nothing);
        assert_eq!(store.contents().keys(), [""; 0], "made {made}");
        assert_eq!(staged(&disk), [""; 0], "made {made}");
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

/// Several open a file at the same time whose pages the kernel has, of the object before: none of them is told to keep those, whoever
/// is answered first.
/// Promise: An open sees what was closed before it, on whichever mount.
#[test]
fn none_of_those_who_open_a_changed_file_at_once_keeps_its_old_pages() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside) = (sim.clone(), store.clone());
        sim.run(async move {
            let user = User::simulated(&world, inside.clone(), "").await;
            user.put("f", b"before").await.unwrap();
            let handle = user.open("f", READ, false).await.unwrap();
            user.read(handle, 0, 6).await.unwrap();
            user.close(handle).await.unwrap();
            let ino = user.stat("f").await.unwrap().ino;
            let again = user.fs.open_file(ino, READ).await.unwrap();
            assert!(again.keep_cache, "nothing has changed");
            user.close(again.handle).await.unwrap();
            User::simulated(&world, inside.clone(), "").await.put("f", b"theirs").await.unwrap();
            let opens = (0..4).map(|_| user.fs.open_file(ino, READ));
            for opened in futures::future::join_all(opens).await {
                assert!(!opened.unwrap().keep_cache, "seed {seed}");
            }
            assert!(user.fs.open_file(ino, READ).await.unwrap().keep_cache);
        })
        .unwrap();
    }
}

/// Another client has made the file private since. Its owner, who is told so, opens it beside who was let in by what it was before.
/// Promise: Who opens a file is judged by what it is by now.
#[test]
fn who_opens_beside_others_is_judged_by_what_he_was_told() {
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside) = (sim.clone(), store.clone());
        sim.run(async move {
            let user = User::simulated(&world, inside.clone(), "").await;
            let other = User::simulated(&world, inside.clone(), "").await;
            user.put("f", b"public").await.unwrap();
            let ino = user.stat("f").await.unwrap().ino;
            let private = Changes { mode: Some(0o600), ..Changes::default() };
            let theirs = other.stat("f").await.unwrap().ino;
            other.fs.setattr(theirs, private, None).await.unwrap();
            let owner = user.another();
            let owns = async {
                world.rt().sleep(Duration::from_millis(world.below(40))).await;
                owner.open("f", READ, false).await
            };
            let (opened, owned) = futures::future::join(user.fs.open_file(ino, READ), owns).await;
            assert!(opened.is_err(), "seed {seed}");
            owned.unwrap();
        })
        .unwrap();
    }
}

/// copy_file_range(2), sendfile(2) and their like end where the kernel believes the end to be, and do not ask.
/// Promise: Who opens a file is judged by what it is by now.
#[test]
fn who_opens_a_file_that_has_grown_elsewhere_goes_by_its_new_size() {
    let sim = Sim::new(1);
    let store = SimStore::new(&sim, "s");
    let world = sim.clone();
    sim.run(async move {
        let user = User::simulated(&world, store.clone(), "metadata_ttl=10").await;
        let other = User::simulated(&world, store, "").await;
        user.put("log", b"one\n").await.unwrap();
        let root = user.walk("").await.unwrap();
        let known = user.step(root, b"log").await.unwrap();
        assert_eq!(known.attributes.size, 4);
        // What this mount writes, the kernel knows.
        user.close(user.fs.open_file(known.ino, READ).await.unwrap().handle).await.unwrap();

        other.put("log", b"one\ntwo\n").await.unwrap();
        assert_eq!(user.fs.open_file(known.ino, READ).await.unwrap_err().errno, Errno::STALE);
        assert_eq!(user.step(root, b"log").await.unwrap().attributes.size, 8, "it is told");
        // One that changes between every two calls is opened all the same.
        other.put("log", b"one\ntwo\nthree\n").await.unwrap();
        let handle = user.fs.open_file(known.ino, READ).await.unwrap().handle;
        assert_eq!(&user.read(handle, 0, 100).await.unwrap()[..], b"one\ntwo\nthree\n");
        user.close(handle).await.unwrap();
    })
    .unwrap();
}
