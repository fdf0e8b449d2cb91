//! Directories that are being emptied.

use std::time::Duration;

use super::requests::Counted;
use super::user::User;
use crate::ops::Changes;
use windlass_base::rt::sim::Sim;

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
        world.rt().sleep(Duration::from_secs(20)).await;

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
