//! What was read is on the local disk, for as long as the object is the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::requests::Counted;
use super::user::{READ, STAGING, User};
use crate::read::BLOCK;
use windlass_base::rt::sim::{Sim, SimDisk, World};
use windlass_store::{Cause, Store as _, When};

fn noise(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|n| ((n ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// A mount of its own; what the cache has is found again meanwhile.
async fn mount(world: &World, disk: &Arc<SimDisk>, store: &Arc<Counted>) -> User {
    let user = User::mount(world.rt(), disk.clone(), store.clone(), "cache=64M", STAGING).await;
    world.rt().sleep(Duration::from_secs(2)).await;
    user
}

async fn leave(world: &World, user: User) {
    // What was put into the cache is written by then.
    world.rt().sleep(Duration::from_secs(2)).await;
    user.forget_all();
    user.fs.finish().await;
}

/// Promise: With `-o cache`, what was read is read from this host's disk as long as the object is the same.
#[test]
fn what_was_read_is_on_the_local_disk_for_the_next_mount() {
    let sim = Sim::new(1);
    let disk = Arc::new(SimDisk::new(&sim));
    let store = Counted::new(&sim.rt());
    let world = sim.clone();
    sim.run(async move {
        let large = noise(1, 3 << 20);
        for (key, body) in [("large", large.clone()), ("small", noise(2, 5000)), ("empty", Vec::new())] {
            store.put(key, body.into(), When::Always, Cause::File).await.unwrap();
        }
        let first = mount(&world, &disk, &store).await;
        for (name, len) in [("large", 3 << 20), ("small", 5000), ("empty", 0)] {
            assert_eq!(first.get(name).await.unwrap().len(), len);
        }
        leave(&world, first).await;

        let second = mount(&world, &disk, &store).await;
        store.take();
        assert_eq!(second.get("large").await.unwrap(), large);
        assert_eq!(second.get("small").await.unwrap(), noise(2, 5000));
        let asked = store.take();
        assert!(!asked.contains("get"), "only names were asked for: {asked}");
        leave(&world, second).await;

        // Another object of the same name and size.
        let other = noise(3, 3 << 20);
        store.put("large", other.clone().into(), When::Always, Cause::File).await.unwrap();
        let third = mount(&world, &disk, &store).await;
        assert_eq!(third.get("large").await.unwrap(), other);
        leave(&world, third).await;
    })
    .unwrap();
}

#[test]
fn what_is_missing_between_blocks_is_fetched_and_nothing_else() {
    let sim = Sim::new(2);
    let disk = Arc::new(SimDisk::new(&sim));
    let store = Counted::new(&sim.rt());
    let world = sim.clone();
    sim.run(async move {
        let body = noise(1, 20 * BLOCK + 77);
        store.put("f", Bytes::from(body.clone()), When::Always, Cause::File).await.unwrap();
        let first = mount(&world, &disk, &store).await;
        let handle = first.open("f", READ, false).await.unwrap();
        // No two in order: only what is asked for is fetched.
        for block in [12, 9, 4, 20, 0] {
            let len = if block == 20 { 77 } else { BLOCK };
            let at = block * BLOCK;
            let bytes = first.read(handle, at, len).await.unwrap();
            assert_eq!(bytes, body[at as usize..(at + len) as usize]);
        }
        first.close(handle).await.unwrap();
        leave(&world, first).await;
        let second = mount(&world, &disk, &store).await;
        assert_eq!(second.get("f").await.unwrap(), body);
        leave(&world, second).await;
    })
    .unwrap();
}

/// Bytes that the disk gives back wrong are fetched again.
#[test]
fn a_rotten_block_is_fetched_again() {
    let sim = Sim::new(3);
    let disk = Arc::new(SimDisk::new(&sim));
    let store = Counted::new(&sim.rt());
    let world = sim.clone();
    sim.run(async move {
        let body = noise(1, 2 << 20);
        store.put("f", Bytes::from(body.clone()), When::Always, Cause::File).await.unwrap();
        let first = mount(&world, &disk, &store).await;
        assert_eq!(first.get("f").await.unwrap(), body);
        leave(&world, first).await;
        let frames = format!("{STAGING}-cache/frames");
        let rotten = (0..8).filter(|n| disk.rot(frames.as_ref(), 1000 + n * 300_000, b"rot")).count();
        assert!(rotten > 0, "there was nothing to spoil");
        let second = mount(&world, &disk, &store).await;
        store.take();
        assert_eq!(second.get("f").await.unwrap(), body);
        assert!(store.take().contains("get"), "nothing was rotten");
        leave(&world, second).await;
    })
    .unwrap();
}
