//! What mounts hold in memory is taken of what their process has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::user::{READ, STAGING, User, WRITE};
use crate::MountResources;
use crate::object::MountOptions;
use crate::ops::Fs;
use crate::tree::OpenMode;
use windlass_base::Budget;
use windlass_base::rt::sim::{Sim, SimDisk, World};
use windlass_base::units::MIB;
use windlass_cache::DiskCache;
use windlass_store::SimStore;

const FILE: u64 = 40 * MIB;

async fn write_and_read(world: World, name: &str, ahead: Budget, uploads: Budget) {
    let (disk, store) = (Arc::new(SimDisk::new(&world)), SimStore::new(&world, name));
    let resources = MountResources { cache: DiskCache::off(), ahead, uploads };
    let (options, staging) = (MountOptions::default(), STAGING.into());
    let (fs, _) = Fs::open(world.rt(), disk, store, options, staging, resources).await.unwrap();
    let user = User::of(fs);
    let piece = |at: u64| Bytes::from(vec![(at / MIB) as u8; MIB as usize]);
    let handle = user.open("f", OpenMode { truncate: true, ..WRITE }, true).await.unwrap();
    for at in (0..FILE).step_by(MIB as usize) {
        user.fs.write(handle, at, piece(at)).await.unwrap();
    }
    user.close(handle).await.unwrap();
    user.fs.idle().await;
    let handle = user.open("f", READ, false).await.unwrap();
    for at in (0..FILE).step_by(MIB as usize) {
        assert!(user.read(handle, at, MIB).await.unwrap() == piece(at), "{name} at {at}");
    }
    user.close(handle).await.unwrap();
}

/// Each has a share of it, so that none waits for what another keeps; and parts are larger than the shares.
#[test]
fn mounts_share_the_memory_of_their_process() {
    let sim = Sim::new(5);
    let world = sim.clone();
    sim.run(async move {
        let (ahead, uploads) = (Budget::new(8 * MIB), Budget::new(12 * MIB));
        let rt = world.rt();
        let run = |name| rt.spawn(write_and_read(world.clone(), name, ahead.party(), uploads.party()));
        let mounts = futures::future::join_all(["a", "b", "c"].map(run));
        let mut most = (0, 0);
        let watch = async {
            loop {
                most = (ahead.used().max(most.0), uploads.used().max(most.1));
                rt.sleep(Duration::from_millis(5)).await;
            }
        };
        match futures::future::select(std::pin::pin!(mounts), std::pin::pin!(watch)).await {
            futures::future::Either::Left((ended, _)) => ended.into_iter().for_each(|e| e.unwrap()),
            futures::future::Either::Right(_) => unreachable!("it has no end"),
        }
        assert!(most.0 > MIB && most.1 > 8 * MIB, "it is counted: {most:?}");
        assert_eq!((ahead.used(), uploads.used()), (0, 0), "all is given back");
    })
    .unwrap();
}
