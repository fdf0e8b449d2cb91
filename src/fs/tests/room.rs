//! Files that are larger than what the disk of the state folder has left (`fs/file/room`): what is freed, what that refuses,
//! and that no byte is lost by it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::faults::{body, staged};
use super::user::{STAGING, User, WRITE};
use crate::base::rt::sim::{Sim, SimDisk, World};
use crate::cache::DiskCache;
use crate::fs::KeptFiles;
use crate::fs::object::{Errno, MountOptions, Op};
use crate::fs::ops::{Changes, Fs};
use crate::fs::staging::Unsent;
use crate::fs::tree::OpenMode;
use crate::store::{Bucket as _, Cause, Reach, SimStore, Store as _, When};

const NEW: OpenMode = OpenMode { truncate: true, ..WRITE };
const MIB: u64 = 1 << 20;
const DISK: u64 = 64 * MIB;
const LARGE: u64 = 150 * MIB;
/// In a part that is freed long before the file's end.
const FREED: u64 = 20 * MIB;

/// A MiB of the file, which tells where it belongs.
fn mib(at: u64) -> Bytes {
    let word = (at + 1).to_le_bytes();
    word.repeat(MIB as usize / word.len()).into()
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes.chunks(MIB as usize).enumerate().all(|(at, chunk)| chunk == &mib(at as u64)[..chunk.len()])
}

async fn write_all(user: &User, handle: u64, mibs: std::ops::Range<u64>) -> Op<()> {
    for at in mibs {
        user.fs.write(handle, at * MIB, mib(at)).await?;
    }
    Ok(())
}

/// A small disk, a store, and what a test does with them.
struct Small {
    world: World,
    store: Arc<SimStore>,
    disk: Arc<SimDisk>,
}

impl Small {
    fn run<F: Future<Output = ()> + Send + 'static>(
        seed: u64,
        test: impl FnOnce(Small) -> F + Send + 'static,
    ) {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let disk = Arc::new(SimDisk::new(&sim));
        disk.faults(|f| f.capacity = DISK);
        let small = Small { world: sim.clone(), store, disk };
        sim.run(async move { test(small).await }).unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    }

    async fn mount(&self, options: &str) -> User {
        User::mount(self.world.rt(), self.disk.clone(), self.store.clone(), options, STAGING).await
    }

    /// The next mount, and what it can't send.
    async fn next_mount(&self) -> (Arc<Fs>, Vec<Unsent>) {
        let (rt, disk, options) = (self.world.rt(), self.disk.clone(), MountOptions::default());
        let opened = Fs::open(rt, disk, self.store.clone(), options, STAGING.into(), DiskCache::off()).await;
        let (fs, unsent) = opened.unwrap();
        fs.idle().await;
        (fs, unsent)
    }

    async fn object(&self, key: &str) -> Option<Bytes> {
        body(self.store.contents(), key).await
    }

    async fn uploads(&self) -> Vec<(String, String)> {
        self.store.contents().multipart_list("", Cause::File).await.unwrap()
    }

    /// A mount that writes `mibs` of a file and is killed then; `how`: what it does before the writes.
    async fn cut_off(&self, name: &'static str, mibs: u64) {
        let process = self.world.process();
        let (rt, disk, store) = (process.rt(), self.disk.clone(), self.store.clone());
        let writing = async move {
            let user = User::mount(rt, disk, store, "", STAGING).await;
            let handle = user.open(name, NEW, true).await.unwrap();
            write_all(&user, handle, 0..mibs).await.unwrap();
            std::future::pending::<()>().await;
        };
        process.rt().spawn(writing).detach();
        self.world.rt().sleep(Duration::from_secs(600)).await;
        process.kill();
    }

    fn has_parts(&self) -> bool {
        staged(&self.disk).iter().any(|name| name.ends_with(".parts"))
    }
}

/// Promise: A file may be larger than the disk of the state folder.
#[test]
fn a_file_that_is_larger_than_the_disk_is_stored() {
    for options in ["", "flush=local"] {
        Small::run(1, async move |small| {
            let user = small.mount(options).await;
            let handle = user.open("f", NEW, true).await.unwrap();
            write_all(&user, handle, 0..LARGE / MIB).await.unwrap();
            assert!(small.has_parts() && user.fs.file(handle).unwrap().file.is_freed());
            // Its beginning and its end are there.
            for at in [0, LARGE / MIB - 1] {
                assert_eq!(user.read(handle, at * MIB, MIB).await.unwrap(), mib(at));
            }
            user.fs.write(handle, 0, mib(0)).await.unwrap();
            user.close(handle).await.unwrap();
            let object = small.object("f").await.unwrap();
            assert!(
                object.len() as u64 == LARGE && is_whole(&object),
                "{options}: stored when close returns"
            );
            let handle = user.open("f", WRITE, false).await.unwrap();
            assert_eq!(user.read(handle, FREED, MIB).await.unwrap(), mib(FREED / MIB));
            user.fs.write(handle, LARGE, mib(LARGE / MIB)).await.unwrap();
            user.close(handle).await.unwrap();
            user.fs.idle().await;
            let object = small.object("f").await.unwrap();
            assert!(object.len() as u64 == LARGE + MIB && is_whole(&object));
            user.forget_all();
            user.fs.finish().await;
            assert_eq!((staged(&small.disk), small.uploads().await), (vec![], vec![]));
        });
    }
}

/// Promise: Bytes that were freed can neither be read nor changed before the file is closed.
#[test]
fn what_was_freed_is_refused_and_harms_nothing() {
    Small::run(2, async |small| {
        let user = small.mount("").await;
        user.mkdir("d").await.unwrap();
        let handle = user.open("d/f", NEW, true).await.unwrap();
        write_all(&user, handle, 0..LARGE / MIB).await.unwrap();
        let ino = user.fs.file(handle).unwrap().ino;
        let errno = |failed: Op<()>| failed.unwrap_err().errno;
        assert_eq!(errno(user.read(handle, FREED, 9).await.map(drop)), Errno::IO);
        assert_eq!(
            errno(user.read(handle, 8 * MIB - 1, 2).await.map(drop)),
            Errno::IO,
            "half of it was freed"
        );
        assert_eq!(errno(user.fs.write(handle, FREED, mib(0)).await), Errno::NOSPC);
        let cut = Changes { size: Some(FREED), ..Changes::default() };
        assert_eq!(errno(user.fs.setattr(ino, cut, Some(handle)).await.map(drop)), Errno::NOSPC);
        assert_eq!(errno(user.rename("d/f", "d/g", false).await), Errno::BUSY);
        assert_eq!(errno(user.rename("d", "e", false).await), Errno::BUSY);
        user.fs.fsync(handle).await.unwrap();
        assert!(!small.has_parts() && is_whole(&small.object("d/f").await.unwrap()));
        // From then on all of it can be had.
        assert_eq!(user.read(handle, FREED, MIB).await.unwrap(), mib(FREED / MIB));
        user.fs.write(handle, FREED, mib(FREED / MIB)).await.unwrap();
        user.close(handle).await.unwrap();
        user.rename("d", "e", false).await.unwrap();
        let object = small.object("e/f").await.unwrap();
        assert!(object.len() as u64 == LARGE && is_whole(&object));
    });
}

/// Promise: Bytes that were freed can neither be read nor changed before the file is closed.
#[test]
fn a_file_of_which_parts_were_freed_can_be_cut_emptied_and_removed() {
    for (what, size) in
        [("cut at a part's end", 24 * MIB), ("cut into its beginning", 3 * MIB), ("emptied", 0)]
    {
        Small::run(3, async move |small| {
            let user = small.mount("").await;
            let handle = user.open("f", NEW, true).await.unwrap();
            write_all(&user, handle, 0..LARGE / MIB).await.unwrap();
            let ino = user.fs.file(handle).unwrap().ino;
            let cut = Changes { size: Some(size), ..Changes::default() };
            user.fs.setattr(ino, cut, Some(handle)).await.unwrap();
            // What is written behind was never freed.
            write_all(&user, handle, size / MIB..size / MIB + 4).await.unwrap();
            assert_eq!(user.read(handle, size, MIB).await.unwrap(), mib(size / MIB));
            user.close(handle).await.unwrap();
            let object = small.object("f").await.unwrap();
            assert!(object.len() as u64 == size + 4 * MIB && is_whole(&object), "{what}");
        });
    }
    Small::run(4, async |small| {
        let user = small.mount("").await;
        let handle = user.open("f", NEW, true).await.unwrap();
        write_all(&user, handle, 0..LARGE / MIB).await.unwrap();
        user.unlink("f").await.unwrap();
        user.close(handle).await.unwrap();
        user.forget_all();
        user.fs.finish().await;
        assert_eq!(
            (small.object("f").await, small.uploads().await, staged(&small.disk)),
            (None, vec![], vec![])
        );
    });
}

/// Promise: A file may be larger than the disk of the state folder.
#[test]
fn a_file_larger_than_the_disk_that_was_cut_off_is_stored_as_far_as_it_was_written() {
    // The first is killed before anything is freed.
    for mibs in [30, 90, 121, 150] {
        Small::run(mibs, async move |small| {
            small.cut_off("f", mibs).await;
            assert_eq!(small.has_parts(), mibs > 60);
            let (fs, unsent) = small.next_mount().await;
            fs.finish().await;
            assert_eq!(unsent, []);
            let object = small.object("f").await.unwrap();
            assert!(object.len() as u64 == mibs * MIB && is_whole(&object), "{mibs}");
            assert_eq!((small.uploads().await, staged(&small.disk)), (vec![], vec![]));
        });
    }
}

/// Neither the object that was to be replaced nor what is left of the other one is lost, and no zeros take a name.
/// Promise: A whole object is never replaced by half of one.
#[test]
fn what_is_left_of_a_rewrite_that_was_cut_off_takes_no_name() {
    Small::run(7, async |small| {
        small
            .store
            .contents()
            .put("f", Bytes::from_static(b"before"), When::Always, Cause::File)
            .await
            .unwrap();
        small.cut_off("f", 120).await;
        let (fs, unsent) = small.next_mount().await;
        fs.finish().await;
        assert_eq!((unsent.len(), &unsent[0].key[..]), (1, "f"));
        assert_eq!(small.object("f").await.unwrap(), "before");
        assert_eq!(small.store.contents().keys(), ["f"]);
        let disk = small.disk.clone() as Arc<dyn crate::base::rt::Disk>;
        let kept = KeptFiles::open(&disk, Path::new("/")).await.unwrap();
        assert!(kept.list().iter().any(|kept| kept.partly && kept.unfinished));
        kept.copy_out(Path::new("/out")).await.1.unwrap_err();
        drop(kept);
        let kept = KeptFiles::open(&disk, Path::new("/")).await.unwrap();
        kept.drop_all().await.1.unwrap();
        assert_eq!(staged(&small.disk), [""; 0]);
    });
}

/// A bucket's rule ends uploads that are not complete.
/// Promise: A file may be larger than the disk of the state folder.
#[test]
fn an_upload_that_the_bucket_ended_is_told_and_never_made_up_for_by_zeros() {
    Small::run(8, async |small| {
        small.cut_off("f", 120).await;
        for (key, upload) in small.uploads().await {
            small.store.contents().multipart_abort(&key, &upload, Cause::File).await.unwrap();
        }
        let options = "deadline=2";
        let user = small.mount(options).await;
        small.world.rt().sleep(Duration::from_secs(30)).await;
        assert!(user.fs.not_sent().is_some() && user.fs.pending().files == 1);
        user.fs.finish().await;
        assert_eq!((small.object("f").await, user.fs.kept().files), (None, 1));
        assert!(small.has_parts());
    });
}

/// Promise: A file may be larger than the disk of the state folder.
#[test]
fn a_close_that_failed_is_made_good_by_the_same_upload() {
    for options in ["deadline=2", "deadline=2,flush=local"] {
        Small::run(9, async move |small| {
            let user = small.mount(options).await;
            let handle = user.open("f", NEW, true).await.unwrap();
            write_all(&user, handle, 0..LARGE / MIB).await.unwrap();
            small.store.faults(|f| f.reach = Reach::Refuses);
            assert_eq!(user.fs.flush(handle).await.unwrap_err().errno, Errno::IO, "{options}");
            assert_eq!(user.fs.fsync(handle).await.unwrap_err().errno, Errno::IO, "{options}");
            user.fs.release(handle).await;
            small.store.faults(|f| f.reach = Reach::Up);
            user.fs.idle().await;
            let object = small.object("f").await.unwrap();
            assert!(object.len() as u64 == LARGE && is_whole(&object));
            user.fs.finish().await;
            assert_eq!((small.uploads().await, staged(&small.disk)), (vec![], vec![]));
        });
    }
}

/// Promise: An update made elsewhere is never overwritten.
#[test]
fn a_conflict_of_a_file_of_which_parts_were_freed_overwrites_nothing() {
    Small::run(10, async |small| {
        let user = small.mount("").await;
        let handle = user.open("f", NEW, true).await.unwrap();
        write_all(&user, handle, 0..LARGE / MIB).await.unwrap();
        let theirs = Bytes::from_static(b"theirs");
        small.store.contents().put("f", theirs, When::Always, Cause::File).await.unwrap();
        assert_eq!(user.close(handle).await.unwrap_err().errno, Errno::STALE);
        assert_eq!(small.object("f").await.unwrap(), "theirs");
        user.forget_all();
        user.fs.finish().await;
        let (fs, _) = small.next_mount().await;
        fs.finish().await;
        assert_eq!(
            (small.object("f").await.unwrap(), small.store.contents().keys()),
            ("theirs".into(), vec!["f".into()])
        );
        // Once the name is free, the next mount stores it.
        small.store.contents().delete(&["f".to_owned()], Cause::File).await.unwrap();
        let (fs, unsent) = small.next_mount().await;
        fs.finish().await;
        assert_eq!(unsent, []);
        assert!(is_whole(&small.object("f").await.unwrap()));
    });
}

/// Without a way to free parts of files, and without parts that arrive, a full disk is a full disk.
#[test]
fn a_disk_without_holes_and_a_store_that_is_away_leave_no_room() {
    Small::run(11, async |small| {
        small.disk.faults(|f| f.no_holes = true);
        let user = small.mount("deadline=2").await;
        let handle = user.open("f", NEW, true).await.unwrap();
        let failed = write_all(&user, handle, 0..LARGE / MIB).await.unwrap_err();
        assert_eq!((failed.errno, small.has_parts()), (Errno::NOSPC, false));
        let size = user.stat("f").await.unwrap().attributes.size;
        user.close(handle).await.unwrap();
        let object = small.object("f").await.unwrap();
        assert!(object.len() as u64 == size && is_whole(&object), "what was written is stored");
        small.disk.faults(|f| f.no_holes = false);
        let handle = user.open("g", NEW, true).await.unwrap();
        write_all(&user, handle, 0..26).await.unwrap();
        small.store.faults(|f| f.reach = Reach::Refuses);
        let failed = write_all(&user, handle, 26..LARGE / MIB).await.unwrap_err();
        assert_eq!(failed.errno, Errno::NOSPC);
        // Parts that failed leave again once the store is back, and make room.
        small.store.faults(|f| f.reach = Reach::Up);
        write_all(&user, handle, 26..LARGE / MIB).await.unwrap();
        user.close(handle).await.unwrap();
        assert!(is_whole(&small.object("g").await.unwrap()));
    });
}

/// What this host has promised to keep, it keeps: after an fsync with `flush=local` nothing of the file is freed.
/// Promise: With `flush=local`, fsync returns when the bytes survive a loss of power.
#[test]
fn what_was_synced_here_is_not_freed() {
    Small::run(12, async |small| {
        let user = small.mount("flush=local,deadline=2").await;
        let handle = user.open("f", NEW, true).await.unwrap();
        write_all(&user, handle, 0..30).await.unwrap();
        small.store.faults(|f| f.reach = Reach::Refuses);
        user.fs.fsync(handle).await.unwrap();
        small.store.faults(|f| f.reach = Reach::Up);
        let failed = write_all(&user, handle, 30..LARGE / MIB).await.unwrap_err();
        assert_eq!((failed.errno, small.has_parts()), (Errno::NOSPC, false));
        user.close(handle).await.unwrap();
        user.fs.idle().await;
        assert!(is_whole(&small.object("f").await.unwrap()));
    });
}

/// Ordinary files are what they were: nothing is freed while there is room.
#[test]
fn nothing_is_freed_while_there_is_room() {
    Small::run(13, async |small| {
        small.disk.faults(|f| f.capacity = 1 << 40);
        let user = small.mount("").await;
        let handle = user.open("f", NEW, true).await.unwrap();
        write_all(&user, handle, 0..LARGE / MIB).await.unwrap();
        assert!(!small.has_parts());
        assert_eq!(user.read(handle, FREED, MIB).await.unwrap(), mib(FREED / MIB));
        user.rename("f", "g", false).await.unwrap();
        user.close(handle).await.unwrap();
        assert!(is_whole(&small.object("g").await.unwrap()));
    });
}

/// What a program may see of a file on a small disk: each write, cut and read does what it says or fails, and what is stored
/// is what a plain array says.
#[test]
fn random_programs_on_a_small_disk_store_what_they_wrote() {
    for seed in 0..super::model::seeds(6) {
        Small::run(seed, async move |small| {
            let options = if seed % 2 == 0 { "" } else { "flush=local" };
            let user = small.mount(options).await;
            let mut want: Vec<u8> = Vec::new();
            let mut handle = user.open("f", NEW, true).await.unwrap();
            for step in 0..70u64 {
                let world = &small.world;
                match world.below(20) {
                    0..13 if want.len() < 140 << 20 => {
                        let data = vec![step as u8 + 1; world.below(7 << 20) as usize + 1];
                        match user.fs.write(handle, want.len() as u64, data.clone().into()).await {
                            Ok(()) => want.extend_from_slice(&data),
                            Err(fail) => assert_eq!(fail.errno, Errno::NOSPC),
                        }
                    }
                    13 | 14 if !want.is_empty() => {
                        let from = world.below(want.len() as u64) as usize;
                        let data = vec![step as u8 + 1; 90_000.min(want.len() - from)];
                        match user.fs.write(handle, from as u64, data.clone().into()).await {
                            Ok(()) => want[from..from + data.len()].copy_from_slice(&data),
                            Err(fail) => assert_eq!(fail.errno, Errno::NOSPC),
                        }
                    }
                    15 => {
                        let size = (want.len() as u64).saturating_sub(world.below(30 << 20));
                        let ino = user.fs.file(handle).unwrap().ino;
                        let cut = Changes { size: Some(size), ..Changes::default() };
                        match user.fs.setattr(ino, cut, Some(handle)).await {
                            Ok(_) => want.resize(size as usize, 0),
                            Err(fail) => assert_eq!(fail.errno, Errno::NOSPC),
                        }
                    }
                    16 if world.below(4) == 0 => user.fs.fsync(handle).await.unwrap(),
                    17 if world.below(3) == 0 => {
                        user.close(handle).await.unwrap();
                        user.fs.idle().await;
                        assert!(
                            small.object("f").await.unwrap() == want,
                            "seed {seed}: closed with other bytes"
                        );
                        let how = if world.below(2) == 0 { NEW } else { WRITE };
                        if how.truncate {
                            want.clear();
                        }
                        handle = user.open("f", how, false).await.unwrap();
                    }
                    _ => {
                        let from = world.below(want.len() as u64 + 1);
                        match user.read(handle, from, 100_000).await {
                            Ok(read) => {
                                assert!(read == want[from as usize..want.len().min(from as usize + 100_000)]);
                            }
                            Err(fail) => assert!(fail.errno == Errno::IO && small.has_parts()),
                        }
                    }
                }
            }
            user.close(handle).await.unwrap();
            user.fs.idle().await;
            assert!(small.object("f").await.unwrap() == want, "seed {seed}");
            user.forget_all();
            user.fs.finish().await;
            assert_eq!((small.uploads().await, staged(&small.disk)), (vec![], vec![]), "seed {seed}");
        });
    }
}
