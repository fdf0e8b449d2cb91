//! What a few objects of a directory tell of the others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::requests::Counted;
use super::user::{ME, READ, STAGING, User};
use crate::object::{Errno, Meta as _, S_IFDIR};
use crate::ops::Changes;
use windlass_base::rt::sim::{Sim, SimDisk, World};
use windlass_store::{Attrs, Bucket as _, Cause, Reach, SimStore, Store as _, When};

const OPTIONS: &str = "uid=1000,gid=1000,allow_other,attributes=sampled";

async fn chmod(user: &User, ino: u64, mode: u32) -> Result<(), Errno> {
    let changes = Changes { mode: Some(mode), ..Changes::default() };
    user.fs.setattr(ino, changes, None).await.map(drop).map_err(|f| f.errno)
}

/// Twenty files as the mount shows all, a private one, a short one and a link, made by another mount.
async fn filled(world: &World, mode: u32) -> (Arc<Counted>, User) {
    let store = Counted::new(&world.rt());
    let maker = User::simulated(world, store.clone(), OPTIONS).await;
    maker.mkdir("d").await.unwrap();
    for i in 0..20 {
        maker.put(&format!("d/f{i:02}"), &[b'x'; 5000]).await.unwrap();
    }
    maker.put("d/private", &[b'p'; 5000]).await.unwrap();
    let private = Changes { mode: Some(0o600), uid: Some(7), ..Changes::default() };
    maker.fs.setattr(maker.walk("d/private").await.unwrap(), private, None).await.unwrap();
    maker.put("d/short", b"x").await.unwrap();
    let dir = maker.walk("d").await.unwrap();
    maker.fs.symlink(dir, b"link", b"f00", ME).await.unwrap();
    chmod(&maker, dir, mode).await.unwrap();
    maker.forget_all();
    maker.fs.finish().await;
    let user = User::simulated(world, store.clone(), OPTIONS).await;
    user.walk("d").await.unwrap();
    store.take();
    (store, user)
}

/// Fills a directory as `filled` does, and has ten of its names tell of the others. Returns the directory's
/// number too.
async fn among_guesses(world: &World) -> (Arc<Counted>, User, u64) {
    let (store, user) = filled(world, 0o755).await;
    for i in 0..10 {
        user.stat(&format!("d/f{i:02}")).await.unwrap();
    }
    let dir = user.walk("d").await.unwrap();
    (store, user, dir)
}

fn simulated<F: Future<Output = ()> + Send + 'static>(meet: impl FnOnce(World) -> F) {
    let sim = Sim::new(1);
    sim.run(meet(sim.clone())).unwrap();
}

/// Promise: With `attributes=sampled`, the objects of a directory are taken to be like a few of them.
#[test]
fn who_asks_for_many_names_learns_the_others_from_a_few() {
    simulated(|world| async move {
        let (store, user) = filled(&world, 0o755).await;
        for i in 0..20 {
            assert_eq!(user.stat(&format!("d/f{i:02}")).await.unwrap().attributes.mode & 0o7777, 0o644);
        }
        assert_eq!(store.take(), "5 head 3 list");
        let dir = user.walk("d").await.unwrap();
        assert!(user.step(dir, b"short").await.unwrap().attributes.exact, "it may be a link");
        assert_eq!(store.take(), "1 head");

        // A guess, and no more than that: whoever opens it, or changes whom it is for, is judged by what it is.
        let guess = user.step(dir, b"private").await.unwrap();
        assert_eq!((guess.attributes.mode & 0o7777, store.take().as_str()), (0o644, ""));
        assert_eq!(user.fs.open_file(guess.ino, READ).await.unwrap_err().errno, Errno::STALE);
        let is = user.step(dir, b"private").await.unwrap();
        assert_eq!((is.attributes.mode & 0o7777, is.attributes.exact), (0o600, true));
        assert_eq!(user.get("d/private").await.unwrap(), [b'p'; 5000]);
        store.take();
        // One that is unlike them: the others are no longer taken to be alike.
        assert!(user.step(dir, b"link").await.unwrap().attributes.is_link());
        user.forget_all();
        user.walk("d").await.unwrap();
        assert!(user.step(dir, b"f19").await.unwrap().attributes.exact);
        assert_eq!(store.take(), "2 head");
    });
}

/// Promise: With `attributes=sampled`, the objects of a directory are taken to be like a few of them.
#[test]
fn a_guess_lets_nobody_in() {
    simulated(|world| async move {
        let (_, user, dir) = among_guesses(&world).await;
        let guess = user.step(dir, b"private").await.unwrap();
        // Two whom the kernel let pass by the guess.
        let (one, other) =
            futures::join!(user.fs.open_file(guess.ino, READ), user.fs.open_file(guess.ino, READ));
        assert_eq!([one, other].map(|opened| opened.unwrap_err().errno), [Errno::STALE; 2]);
        assert_eq!(user.fs.getxattr(guess.ino, b"s3.etag").await.unwrap_err().errno, Errno::STALE);
        assert_eq!(user.step(dir, b"private").await.unwrap().attributes.mode & 0o7777, 0o600);
        assert!(user.fs.getxattr(guess.ino, b"s3.etag").await.is_ok());
    });
}

/// Promise: With `attributes=sampled`, the objects of a directory are taken to be like a few of them.
#[test]
fn what_would_be_refused_by_a_guess_is_asked_for() {
    simulated(|world| async move {
        let (store, user, dir) = among_guesses(&world).await;
        // Before it refuses anybody the kernel asks, though what it was told holds still.
        let guess = user.step(dir, b"f12").await.unwrap();
        assert!(guess.ttl > Duration::ZERO && !guess.attributes.exact);
        store.take();
        assert!(user.fs.getattr_now(guess.ino).is_none());
        assert!(user.fs.getattr(guess.ino).await.unwrap().attributes.exact);
        assert_eq!(store.take(), "1 head");
    });
}

/// Promise: With `attributes=sampled`, the objects of a directory are taken to be like a few of them.
#[test]
fn metadata_that_was_guessed_is_not_changed_by_who_may_not() {
    simulated(|world| async move {
        let (_, user, dir) = among_guesses(&world).await;
        let guess = user.step(dir, b"private").await.unwrap();
        assert!(!guess.attributes.exact);
        assert_eq!(chmod(&user, guess.ino, 0o666).await, Err(Errno::STALE));
        assert_eq!(user.step(dir, b"private").await.unwrap().attributes.mode & 0o7777, 0o600);
        assert_eq!(chmod(&user, guess.ino, 0o666).await, Ok(()));
        assert_eq!(user.stat("d/private").await.unwrap().attributes.mode & 0o7777, 0o666);
    });
}

/// Promise: With `attributes=sampled`, the objects of a directory are taken to be like a few of them.
#[test]
fn a_listing_without_attributes_makes_nobody_guess() {
    simulated(|world| async move {
        let (store, user) = filled(&world, 0o755).await;
        let dir = user.walk("d").await.unwrap();
        let link = user.step(dir, b"link").await.unwrap();
        // The same link, put by another mount: what is known of it is out of date.
        let other = User::simulated(&world, store.clone(), OPTIONS).await;
        other.unlink("d/link").await.unwrap();
        other.fs.symlink(other.walk("d").await.unwrap(), b"link", b"f01", ME).await.unwrap();
        user.list("d", false).await.unwrap();
        world.rt().sleep(Duration::from_secs(4)).await;
        assert!(user.step(dir, b"link").await.unwrap().attributes.is_link());
        assert_eq!(user.fs.readlink(link.ino).await.unwrap(), "f01");
    });
}

/// Promise: With `attributes=sampled`, the objects of a directory are taken to be like a few of them.
#[test]
fn nothing_is_guessed_in_a_sticky_directory() {
    simulated(|world| async move {
        let (store, user) = filled(&world, 0o1777).await;
        for i in 0..20 {
            assert!(user.stat(&format!("d/f{i:02}")).await.unwrap().attributes.exact);
        }
        assert_eq!(store.take(), "20 head 3 list");
        for name in ["link", "short", "private"] {
            user.unlink(&format!("d/{name}")).await.unwrap();
        }
        user.forget_all();
        world.rt().sleep(Duration::from_secs(20)).await;
        let items = user.list("d", true).await.unwrap();
        assert!(
            items.iter().all(|item| item.attributes.exact),
            "the smallest three would tell of the others"
        );
    });
}

/// Promise: With `attributes=sampled`, the objects of a directory are taken to be like a few of them.
#[test]
fn directories_are_looked_at_where_other_users_may_come() {
    for (options, mode) in [("attributes=sampled", 0o755), ("attributes=sampled,allow_other", 0o700)] {
        simulated(move |world| async move {
            let store = Counted::new(&world.rt());
            for i in 0..5 {
                let body = Bytes::from_static(b"x");
                store.put(&format!("d/f{i}"), body, When::Always, Cause::File).await.unwrap();
            }
            let mut attrs = Attrs::default();
            attrs.set_mode(S_IFDIR | 0o700);
            store.put_with("d/sub/", Bytes::new(), &attrs, When::Always, Cause::File).await.unwrap();
            let user = User::simulated(&world, store.clone(), options).await;
            let items = user.list("d", true).await.unwrap();
            let sub = items.iter().find(|item| item.dir).unwrap();
            assert_eq!(sub.attributes.mode & 0o7777, mode, "{options}");
        });
    }
}

/// Promise: With `attributes=sampled`, the objects of a directory are taken to be like a few of them.
#[test]
fn what_is_known_of_a_directory_grows_no_younger_by_listings() {
    simulated(|world| async move {
        let (store, user) = filled(&world, 0o755).await;
        let sub = |mode| {
            let mut attrs = Attrs::default();
            attrs.set_mode(S_IFDIR | mode);
            let store = store.clone();
            async move { store.put_with("d/sub/", Bytes::new(), &attrs, When::Always, Cause::File).await.unwrap() }
        };
        sub(0o755).await;
        assert_eq!(user.stat("d/sub").await.unwrap().attributes.mode & 0o7777, 0o755);
        sub(0o700).await;
        // The kernel holds the node as long as listings name it.
        let mut seen = Vec::new();
        for _ in 0..4 {
            world.rt().sleep(Duration::from_secs(3)).await;
            let items = user.list("d", true).await.unwrap();
            seen.push(items.iter().find(|item| item.dir).unwrap().attributes.mode & 0o7777);
        }
        assert_eq!(seen, [0o755, 0o700, 0o700, 0o700]);
    });
}

/// Promise: A mode, owner or time that was set is shown by every stat from then on.
#[test]
fn what_each_object_carries_is_asked_for() {
    simulated(|world| async move {
        let (store, _) = filled(&world, 0o755).await;
        let plain = || OPTIONS.replace(",attributes=sampled", "");
        for way in 0..3 {
            let user = User::simulated(&world, store.clone(), &plain()).await;
            if way == 1 {
                user.list("d", false).await.unwrap();
            }
            let listed = if way == 2 { user.list("d", true).await.unwrap() } else { Vec::new() };
            assert!(listed.iter().all(|item| item.attributes.exact), "a listing tells no modes");
            for i in 0..10 {
                user.stat(&format!("d/f{i:02}")).await.unwrap();
            }
            let is = user.stat("d/private").await.unwrap().attributes;
            assert_eq!((is.mode & 0o7777, is.uid, is.exact), (0o600, 7, true), "way {way}");
            assert!(user.stat("d/link").await.unwrap().attributes.is_link(), "way {way}");
            user.forget_all();
            user.fs.finish().await;
        }
    });
}

/// A file was closed here and waits to be sent; its mode is changed by name, and the daemon is killed.
/// Promise: A mode, owner or time that was set is shown by every stat from then on.
#[test]
fn the_mode_of_what_waits_survives_a_kill() {
    for size in [10, 200_000] {
        simulated(move |world| async move {
            let (store, disk) = (SimStore::new(&world, "s"), Arc::new(SimDisk::new(&world)));
            let process = world.process();
            let options = "flush=local,deadline=2";
            let user = User::mount(process.rt(), disk.clone(), store.clone(), options, STAGING).await;
            user.put("f", &vec![b'x'; size]).await.unwrap();
            store.faults(|f| f.reach = Reach::Refuses);
            chmod(&user, user.walk("f").await.unwrap(), 0o600).await.unwrap();
            process.kill();
            drop(user);
            store.faults(|f| f.reach = Reach::Up);
            let next = User::mount(world.rt(), disk, store.clone(), options, STAGING).await;
            assert_eq!(next.stat("f").await.unwrap().attributes.mode & 0o7777, 0o600);
            next.forget_all();
            next.fs.finish().await;
            let other = User::simulated(&world, store.clone(), "").await;
            assert_eq!(other.stat("f").await.unwrap().attributes.mode & 0o7777, 0o600);
            assert_eq!(other.get("f").await.unwrap().len(), size);
        });
    }
}
