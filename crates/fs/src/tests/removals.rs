//! Directories that are being emptied.

use std::time::Duration;

use super::acts::Set;
use super::requests::Counted;
use super::rules::Act;
use super::user::User;
use crate::object::Errno;
use crate::ops::Changes;
use windlass_base::rt::sim::Sim;
use windlass_store::EtagRule;

async fn chmod(user: &User, path: &str, mode: u32) {
    let changes = Changes { mode: Some(mode), ..Changes::default() };
    user.fs.setattr(user.walk(path).await.unwrap(), changes, None).await.unwrap();
}

/// Promise: Names that are removed one after another are deleted together.
#[test]
fn who_empties_a_directory_is_spared_questions_and_nobody_is_told_less() {
    let sim = Sim::new(1);
    let world = sim.clone();
    sim.run(async move {
        let store = Counted::new(&world.rt());
        let user = User::simulated(&world, store.clone(), "").await;
        user.mkdir("d").await.unwrap();
        for i in 0..40 {
            user.put(&format!("d/f{i:02}"), &[b'x'; 5000]).await.unwrap();
        }
        user.put("d/short", &[b'x'; 4095]).await.unwrap();
        user.fs.symlink(user.walk("d").await.unwrap(), b"link", b"f30", super::user::ME).await.unwrap();
        chmod(&user, "d/f30", 0o604).await;
        user.forget_all();
        world.rt().sleep(Duration::from_secs(70)).await;

        let other = user.another();
        let dir = other.walk("d").await.unwrap();
        let remove = async |some: std::ops::Range<u32>| {
            for i in some {
                user.remove(&format!("d/f{i:02}")).await.unwrap();
            }
        };
        remove(0..10).await;
        store.take();
        let vague = other.step(dir, b"f30").await.unwrap();
        assert_eq!((vague.ttl, vague.attributes.size, store.take().as_str()), (Duration::ZERO, 5000, ""));
        let exact = other.fs.getattr(vague.ino).await.unwrap();
        assert_eq!((exact.attributes.mode & 0o7777, store.take().as_str()), (0o604, "1 head"));
        assert!(exact.ttl > Duration::ZERO);
        // What may be a link is looked at.
        assert!(other.step(dir, b"link").await.unwrap().attributes.is_link());
        assert!(other.step(dir, b"short").await.unwrap().attributes.exact);
        assert_eq!(store.take(), "2 head");

        // There the kernel goes by who owns a file.
        chmod(&user, "d", 0o1777).await;
        remove(10..20).await;
        store.take();
        assert!(other.step(dir, b"f31").await.unwrap().attributes.exact);
        assert_eq!(store.take(), "1 head");

        chmod(&user, "d", 0o755).await;
        remove(20..25).await;
        world.rt().sleep(Duration::from_millis(300)).await;
        store.take();
        let after = other.step(dir, b"f32").await.unwrap();
        assert!(after.attributes.exact && after.ttl > Duration::ZERO, "it is emptied no more");
        assert_eq!(store.take(), "1 head");
        user.fs.finish().await;
    })
    .unwrap();
}

/// What this mount has just made, written or moved is deleted before its removal is answered, also among names that
/// go together, as SQLite's journal among other files.
/// Promise: Names that are removed one after another are deleted together.
#[test]
fn what_was_just_written_is_gone_when_its_removal_is_answered() {
    Set::run(1, EtagRule::OfBytes, |set| async move {
        for i in 0..9 {
            set.put(&format!("d/old{i}"), b"old").await;
        }
        let (_, user) = set.mount("deadline=5").await;
        user.list("d", false).await.unwrap();
        user.put("d/made", b"made").await.unwrap();
        user.put("d/old0", b"written").await.unwrap();
        user.rename("d/old1", "d/moved", false).await.unwrap();
        set.sleep(50_000).await;
        user.list("d", false).await.unwrap();
        for i in 2..6 {
            user.unlink(&format!("d/old{i}")).await.unwrap();
        }
        assert!(set.body("d/old5").await.is_some(), "old names go a moment later");
        for name in ["d/made", "d/old0", "d/moved"] {
            user.unlink(name).await.unwrap();
            assert_eq!(set.body(name).await, None, "{name}");
        }
        user.put("d/made", b"made").await.unwrap();
        set.store.rule("delete", "d/made", Act::Deny, 1);
        assert_eq!(user.unlink("d/made").await.unwrap_err().errno, Errno::ACCESS);
        set.sleep(61_000).await;
        user.list("d", false).await.unwrap();
        for name in ["d/old6", "d/old7", "d/made"] {
            user.unlink(name).await.unwrap();
        }
        assert!(set.body("d/made").await.is_some(), "a minute later it is an old name");
        user.fs.finish().await;
        assert_eq!(set.keys(), ["d/old8"]);
    });
}
