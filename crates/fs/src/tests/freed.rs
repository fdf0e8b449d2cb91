//! Files that are larger than what the disk of the state folder has left (`fs/file/freed`): what is freed, what that refuses, and
//! that nothing is lost of which a close or fsync has answered, whatever becomes of the completion.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::faults::{body, staged};
use super::user::{READ, STAGING, User, WRITE};
use crate::KeptFiles;
use crate::object::{Errno, MountOptions, Op};
use crate::ops::{Changes, Fs};
use crate::staging::Unsent;
use crate::tree::{OpenMode, Pending};
use windlass_base::rt::sim::{Sim, SimDisk, World};
use windlass_base::{Error, Kind, Result};
use windlass_cache::DiskCache;
use windlass_store::{Bucket, BucketAnswer, BucketRequest, Cause, Reach, SimStore, Store, When};

const NEW: OpenMode = OpenMode { truncate: true, ..WRITE };
const MIB: u64 = 1 << 20;
const DISK: u64 = 64 * MIB;
const LARGE: u64 = 150 * MIB;
/// Offset in a part that is freed long before the file's end.
const FREED: u64 = 20 * MIB;

/// Fate of completions, but for their answers. The store is silent from each on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unheard {
    Done,
    /// The completion is done after so many seconds.
    Late(u64),
    Never,
}

/// A store whose completions can be lost.
#[derive(Debug)]
struct Losing {
    store: Arc<SimStore>,
    world: World,
    completions: Mutex<Option<Unheard>>,
}

impl Store for Losing {
    fn url(&self) -> &str {
        self.store.url()
    }
    fn call<'a>(
        &'a self,
        request: &'a Arc<BucketRequest>,
        cause: Cause,
    ) -> BoxFuture<'a, Result<BucketAnswer>> {
        async move {
            let unheard = *self.completions.lock();
            let (Some(unheard), BucketRequest::MultipartComplete { .. }) = (unheard, &**request) else {
                return self.store.call(request, cause).await;
            };
            let contents = self.store.contents().clone();
            match unheard {
                Unheard::Done => drop(contents.call(request, cause).await),
                Unheard::Late(seconds) => {
                    let (rt, request) = (self.world.rt(), request.clone());
                    let land = async move {
                        rt.sleep(Duration::from_secs(seconds)).await;
                        drop(contents.call(&request, cause).await);
                    };
                    self.world.rt().spawn(land).detach();
                }
                Unheard::Never => {}
            }
            self.store.faults(|f| f.reach = Reach::Silent);
            request.unanswered(Error::new(Kind::Timeout, "no answer"))
        }
        .boxed()
    }
}

impl Bucket for Losing {}

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

async fn resize(user: &User, handle: u64, size: u64) -> Op<()> {
    let ino = user.fs.file(handle).unwrap().ino;
    user.fs.setattr(ino, Changes { size: Some(size), ..Changes::default() }, Some(handle)).await.map(drop)
}

fn errno(failed: Op<()>) -> Errno {
    failed.unwrap_err().errno
}

/// A small disk, a store, and what a test does with them.
struct Small {
    world: World,
    store: Arc<SimStore>,
    disk: Arc<SimDisk>,
    losing: Arc<Losing>,
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
        let losing = Losing { store: store.clone(), world: sim.clone(), completions: Mutex::default() };
        let small = Small { world: sim.clone(), store, disk, losing: Arc::new(losing) };
        sim.run(async move { test(small).await }).unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    }

    async fn mount(&self, options: &str) -> User {
        User::mount(self.world.rt(), self.disk.clone(), self.losing.clone(), options, STAGING).await
    }

    /// A mount that has written a large file, which is open.
    async fn written(&self, options: &str) -> (User, u64) {
        let user = self.mount(options).await;
        let handle = user.open("f", NEW, true).await.unwrap();
        write_all(&user, handle, 0..LARGE / MIB).await.unwrap();
        assert!(user.fs.file(handle).unwrap().file.is_freed());
        (user, handle)
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

    /// The object's bytes are those of `write_all`, so many.
    async fn is_stored(&self, size: u64) -> bool {
        self.object("f").await.is_some_and(|object| object.len() as u64 == size && is_whole(&object))
    }

    async fn put(&self, bytes: &'static str) {
        let bytes = Bytes::from_static(bytes.as_bytes());
        self.store.contents().put("f", bytes, When::Always, Cause::File).await.unwrap();
    }

    async fn uploads(&self) -> Vec<(String, String)> {
        self.store.contents().multipart_list("", Cause::File).await.unwrap()
    }

    async fn abort_all(&self) {
        for (key, upload) in self.uploads().await {
            self.store.contents().multipart_abort(&key, &upload, Cause::File).await.unwrap();
        }
    }

    /// Nothing is left of anything, in the bucket and on this host.
    async fn is_clean(&self) {
        assert_eq!((self.uploads().await, staged(&self.disk)), (vec![], vec![]));
    }

    /// A mount that writes `mibs` of a file, closes it if `closes`, and is killed then.
    async fn cut_off(&self, mibs: u64, closes: bool) {
        let process = self.world.process();
        let (rt, disk, store) = (process.rt(), self.disk.clone(), self.losing.clone());
        let writing = async move {
            let user = User::mount(rt, disk, store, "", STAGING).await;
            let handle = user.open("f", NEW, true).await.unwrap();
            write_all(&user, handle, 0..mibs).await.unwrap();
            if closes {
                let _ = user.close(handle).await;
            }
            std::future::pending::<()>().await;
        };
        process.rt().spawn(writing).detach();
        self.world.rt().sleep(Duration::from_secs(600)).await;
        process.kill();
    }
}

/// Promise: A file may be larger than the disk of the state folder.
#[test]
fn a_file_that_is_larger_than_the_disk_is_stored() {
    for options in ["", "flush=local"] {
        Small::run(1, async move |small| {
            let (user, handle) = small.written(options).await;
            // Its beginning and its end are there.
            for at in [0, LARGE / MIB - 1] {
                assert_eq!(user.read(handle, at * MIB, MIB).await.unwrap(), mib(at));
            }
            user.fs.write(handle, 0, mib(0)).await.unwrap();
            user.close(handle).await.unwrap();
            assert!(small.is_stored(LARGE).await, "{options}: stored when close returns");
            for keeps in [false, true] {
                let opened = user.fs.open_file(user.walk("f").await.unwrap(), READ).await.unwrap();
                assert_eq!(opened.keep_cache, keeps, "pages whose writing was refused are dropped, once");
                user.close(opened.handle).await.unwrap();
            }
            let handle = user.open("f", WRITE, false).await.unwrap();
            assert_eq!(user.read(handle, FREED, MIB).await.unwrap(), mib(FREED / MIB));
            user.fs.write(handle, LARGE, mib(LARGE / MIB)).await.unwrap();
            user.close(handle).await.unwrap();
            user.fs.idle().await;
            assert!(small.is_stored(LARGE + MIB).await);
            user.forget_all();
            user.fs.finish().await;
            small.is_clean().await;
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
        assert_eq!(errno(user.read(handle, FREED, 9).await.map(drop)), Errno::IO);
        assert_eq!(
            errno(user.read(handle, 8 * MIB - 1, 2).await.map(drop)),
            Errno::IO,
            "half of it was freed"
        );
        assert_eq!(errno(user.fs.write(handle, FREED, mib(0)).await), Errno::NOSPC);
        for size in [1, FREED] {
            assert_eq!(errno(resize(&user, handle, size).await), Errno::NOSPC);
        }
        assert_eq!(errno(user.rename("d/f", "d/g", false).await), Errno::BUSY);
        assert_eq!(errno(user.rename("d", "e", false).await), Errno::BUSY);
        user.fs.fsync(handle).await.unwrap();
        assert!(is_whole(&small.object("d/f").await.unwrap()));
        // From then on all of it can be had.
        assert_eq!(user.read(handle, FREED, MIB).await.unwrap(), mib(FREED / MIB));
        user.fs.write(handle, FREED, mib(FREED / MIB)).await.unwrap();
        write_all(&user, handle, LARGE / MIB..LARGE / MIB + 2).await.unwrap();
        user.close(handle).await.unwrap();
        user.rename("d", "e", false).await.unwrap();
        let object = small.object("e/f").await.unwrap();
        assert!(object.len() as u64 == LARGE + 2 * MIB && is_whole(&object));
    });
}

/// Promise: Bytes that were freed can neither be read nor changed before the file is closed.
#[test]
fn a_file_of_which_parts_were_freed_can_be_emptied_and_removed() {
    Small::run(3, async |small| {
        let (user, handle) = small.written("").await;
        resize(&user, handle, 0).await.unwrap();
        write_all(&user, handle, 0..LARGE / MIB - 9).await.unwrap();
        user.close(handle).await.unwrap();
        assert!(small.is_stored(LARGE - 9 * MIB).await);
        // Over an object, which is there until the close.
        let handle = user.open("f", NEW, false).await.unwrap();
        write_all(&user, handle, 0..LARGE / MIB).await.unwrap();
        assert!(small.is_stored(LARGE - 9 * MIB).await);
        user.close(handle).await.unwrap();
        assert!(small.is_stored(LARGE).await);
        user.forget_all();
        user.fs.finish().await;
        small.is_clean().await;
    });
    Small::run(4, async |small| {
        let (user, handle) = small.written("").await;
        user.unlink("f").await.unwrap();
        user.close(handle).await.unwrap();
        user.forget_all();
        user.fs.finish().await;
        assert_eq!(small.object("f").await, None);
        small.is_clean().await;
    });
}

/// The upload of a file that is emptied ends before anything else is said of the file: nobody knows of it after a kill.
/// Promise: Bytes that were freed can neither be read nor changed before the file is closed.
#[test]
fn an_emptied_files_upload_outlives_no_kill() {
    for seed in 0..6 {
        Small::run(seed, async |small| {
            let process = small.world.process();
            let (rt, disk, store) = (process.rt(), small.disk.clone(), small.losing.clone());
            let (tell, told) = tokio::sync::oneshot::channel();
            let writing = async move {
                let user = User::mount(rt, disk, store, "", STAGING).await;
                let handle = user.open("f", NEW, true).await.unwrap();
                write_all(&user, handle, 0..LARGE / MIB).await.unwrap();
                resize(&user, handle, 0).await.unwrap();
                tell.send(()).unwrap();
                std::future::pending::<()>().await;
            };
            process.rt().spawn(writing).detach();
            told.await.unwrap();
            process.kill();
            let (fs, unsent) = small.next_mount().await;
            fs.finish().await;
            assert_eq!((unsent, small.object("f").await), (vec![], Some(Bytes::new())));
            small.is_clean().await;
        });
    }
}

/// A file of which bytes were freed is as it was when its removal fails.
/// Promise: When close or fsync returns success, the object is stored and is the file.
#[test]
fn a_removal_that_fails_takes_nothing_of_a_freed_file() {
    Small::run(14, async |small| {
        small.put("before").await;
        let (user, handle) = small.written("deadline=2").await;
        small.store.faults(|f| f.reach = Reach::Refuses);
        user.unlink("f").await.unwrap_err();
        small.store.faults(|f| f.reach = Reach::Up);
        user.fs.fsync(handle).await.unwrap();
        assert!(small.is_stored(LARGE).await);
        user.close(handle).await.unwrap();
        user.forget_all();
        user.fs.finish().await;
        small.is_clean().await;
    });
}

/// No mount can send it any more: who unmounts is told.
/// Promise: A bucket that fails gives EIO at close and fsync, never silence.
#[test]
fn a_mount_that_ends_tells_how_many_freed_files_are_lost() {
    for options in ["deadline=2", "deadline=2,flush=local"] {
        Small::run(15, async move |small| {
            let (user, handle) = small.written(options).await;
            small.store.faults(|f| f.reach = Reach::Refuses);
            assert_eq!(errno(user.close(handle).await), Errno::IO);
            user.forget_all();
            user.fs.finish().await;
            assert_eq!(user.fs.kept(), Pending { lost: 1, ..Pending::default() });
            small.store.faults(|f| f.reach = Reach::Up);
            let (fs, unsent) = small.next_mount().await;
            fs.finish().await;
            assert_eq!((unsent, small.object("f").await), (vec![], None));
            small.is_clean().await;
        });
    }
}

/// The completion's answer is lost: nothing is taken until it is known what became of it, and what is asked for again is the same.
/// Promise: When close or fsync returns success, the object is stored and is the file.
#[test]
fn nothing_is_written_between_a_completion_and_its_answer() {
    for unheard in [Unheard::Done, Unheard::Late(40), Unheard::Late(400), Unheard::Never] {
        for (seed, options) in ["deadline=2", "deadline=2,flush=local"].into_iter().enumerate() {
            Small::run(seed as u64, async move |small| {
                let (user, handle) = small.written(options).await;
                *small.losing.completions.lock() = Some(unheard);
                assert_eq!(errno(user.fs.fsync(handle).await), Errno::IO, "{unheard:?}");
                for _ in 0..2 {
                    let more = user.fs.write(handle, LARGE, mib(LARGE / MIB)).await;
                    assert_eq!(errno(more), Errno::IO);
                    assert_eq!(errno(user.fs.write(handle, 0, mib(7)).await), Errno::IO);
                    assert_eq!(errno(resize(&user, handle, 0).await), Errno::IO);
                    user.rename("f", "g", false).await.unwrap_err();
                    assert_eq!(errno(user.fs.fsync(handle).await), Errno::IO);
                }
                *small.losing.completions.lock() = None;
                small.store.faults(|f| f.reach = Reach::Up);
                user.fs.fsync(handle).await.unwrap();
                assert!(small.is_stored(LARGE).await, "{unheard:?}");
                write_all(&user, handle, LARGE / MIB..LARGE / MIB + 3).await.unwrap();
                user.fs.fsync(handle).await.unwrap();
                user.close(handle).await.unwrap();
                user.fs.idle().await;
                small.world.rt().sleep(Duration::from_secs(600)).await;
                assert!(small.is_stored(LARGE + 3 * MIB).await, "{unheard:?}");
                user.forget_all();
                user.fs.finish().await;
                small.is_clean().await;
            });
        }
    }
}

/// A close that failed is made good by the queue, with the same upload.
/// Promise: When close or fsync returns success, the object is stored and is the file.
#[test]
fn a_close_that_failed_is_made_good_by_the_same_upload() {
    for unheard in [Unheard::Done, Unheard::Late(40), Unheard::Never] {
        for (seed, options) in ["deadline=2", "deadline=2,flush=local"].into_iter().enumerate() {
            Small::run(9 + seed as u64, async move |small| {
                let (user, handle) = small.written(options).await;
                *small.losing.completions.lock() = Some(unheard);
                assert_eq!(errno(user.fs.flush(handle).await), Errno::IO, "{options}");
                user.fs.release(handle).await;
                *small.losing.completions.lock() = None;
                small.store.faults(|f| f.reach = Reach::Up);
                user.fs.idle().await;
                assert!(small.is_stored(LARGE).await, "{unheard:?}");
                user.fs.finish().await;
                small.is_clean().await;
            });
        }
    }
}

/// Nothing was answered for, and no zeros take a name.
/// Promise: A whole object is never replaced by half of one.
#[test]
fn what_a_killed_mount_leaves_of_a_freed_file_is_dropped() {
    for (mibs, before) in [(90, false), (121, true), (150, false)] {
        Small::run(mibs, async move |small| {
            if before {
                small.put("before").await;
            }
            small.cut_off(mibs, false).await;
            let disk = small.disk.clone() as Arc<dyn windlass_base::rt::Disk>;
            let kept = KeptFiles::open(&disk, Path::new("/")).await.unwrap();
            assert!(kept.list().iter().any(|kept| kept.partly && kept.unfinished));
            kept.copy_out(Path::new("/out")).await.1.unwrap_err();
            drop(kept);
            let (fs, unsent) = small.next_mount().await;
            fs.finish().await;
            assert_eq!(unsent, []);
            let wanted = before.then_some("before".into());
            assert_eq!(small.object("f").await, wanted);
            small.is_clean().await;
        });
    }
    // Killed between the completion and its answer: it is the object, or not.
    for (unheard, wanted) in [(Unheard::Done, true), (Unheard::Late(900), false), (Unheard::Never, false)] {
        Small::run(7, async move |small| {
            *small.losing.completions.lock() = Some(unheard);
            small.cut_off(LARGE / MIB, true).await;
            small.store.faults(|f| f.reach = Reach::Up);
            let (fs, unsent) = small.next_mount().await;
            fs.finish().await;
            assert_eq!(unsent, []);
            small.world.rt().sleep(Duration::from_secs(1000)).await;
            assert_eq!((small.object("f").await.is_some(), small.is_stored(LARGE).await), (wanted, wanted));
            small.is_clean().await;
        });
    }
}

/// A bucket's rule ends uploads that are not complete.
/// Promise: When close or fsync returns success, the object is stored and is the file.
#[test]
fn an_upload_that_was_ended_from_outside_is_told_and_never_made_up_for_by_zeros() {
    for options in ["", "flush=local"] {
        Small::run(8, async move |small| {
            small.put("before").await;
            let (user, handle) = small.written(options).await;
            small.abort_all().await;
            assert_eq!(errno(user.fs.fsync(handle).await), Errno::IO);
            assert_eq!(errno(user.fs.fsync(handle).await), Errno::IO);
            assert_eq!(errno(user.fs.write(handle, LARGE, mib(0)).await), Errno::IO);
            assert_eq!(errno(user.read(handle, 0, 1).await.map(drop)), Errno::IO);
            let _ = user.close(handle).await;
            assert_eq!(small.object("f").await.unwrap(), "before");
            user.put("f", b"again").await.unwrap();
            user.fs.idle().await;
            assert_eq!(small.object("f").await.unwrap(), "again");
            user.forget_all();
            user.fs.finish().await;
            small.is_clean().await;
        });
    }
}

/// Promise: An update made elsewhere is never overwritten.
#[test]
fn a_conflict_of_a_file_of_which_parts_were_freed_overwrites_nothing() {
    for before in [false, true] {
        Small::run(10, async move |small| {
            if before {
                small.put("before").await;
            }
            let (user, handle) = small.written("").await;
            small.put("theirs").await;
            assert_eq!(user.close(handle).await.unwrap_err().errno, Errno::STALE);
            assert_eq!(small.object("f").await.unwrap(), "theirs");
            assert_eq!(user.get("f").await.unwrap(), b"theirs");
            user.forget_all();
            user.fs.finish().await;
            small.is_clean().await;
            assert_eq!(small.store.contents().keys(), ["f"]);
        });
    }
    Small::run(16, async |small| {
        small.put("before").await;
        let (user, handle) = small.written("").await;
        small.store.contents().delete(&["f".to_owned()], Cause::File).await.unwrap();
        assert_eq!(user.close(handle).await.unwrap_err().errno, Errno::STALE, "removed by somebody else");
        user.forget_all();
        user.fs.finish().await;
        small.is_clean().await;
        assert_eq!(small.store.contents().keys(), [""; 0]);
    });
}

/// Without a way to free parts of files, and without parts that arrive, a full disk is a full disk.
/// Promise: A file may be larger than the disk of the state folder.
#[test]
fn a_disk_without_holes_and_a_store_that_is_away_leave_no_room() {
    Small::run(11, async |small| {
        small.disk.faults(|f| f.no_holes = true);
        let user = small.mount("deadline=2").await;
        let handle = user.open("f", NEW, true).await.unwrap();
        let failed = write_all(&user, handle, 0..LARGE / MIB).await.unwrap_err();
        assert_eq!(failed.errno, Errno::NOSPC);
        assert!(!user.fs.file(handle).unwrap().file.is_freed());
        let size = user.stat("f").await.unwrap().attributes.size;
        user.rename("f", "g", false).await.unwrap();
        user.rename("g", "f", false).await.unwrap();
        user.close(handle).await.unwrap();
        assert!(small.is_stored(size).await, "what was written is stored");
        small.disk.faults(|f| f.no_holes = false);
        let handle = user.open("f", NEW, true).await.unwrap();
        write_all(&user, handle, 0..26).await.unwrap();
        small.store.faults(|f| f.reach = Reach::Refuses);
        let failed = write_all(&user, handle, 26..LARGE / MIB).await.unwrap_err();
        assert_eq!(failed.errno, Errno::NOSPC);
        // Parts that failed leave again once the store is back, and make room.
        small.store.faults(|f| f.reach = Reach::Up);
        let size = user.stat("f").await.unwrap().attributes.size;
        write_all(&user, handle, size / MIB..LARGE / MIB).await.unwrap();
        user.close(handle).await.unwrap();
        assert!(small.is_stored(LARGE).await);
    });
}

/// This host keeps what it has promised to keep: after an fsync with `flush=local` nothing of the file is
/// freed.
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
        assert_eq!(failed.errno, Errno::NOSPC);
        assert!(!user.fs.file(handle).unwrap().file.is_freed());
        let size = user.stat("f").await.unwrap().attributes.size;
        user.close(handle).await.unwrap();
        user.fs.idle().await;
        assert!(small.is_stored(size).await);
    });
}

/// Ordinary files are what they were: nothing is freed while there is room.
/// Promise: A file may be larger than the disk of the state folder.
#[test]
fn nothing_is_freed_while_there_is_room() {
    Small::run(13, async |small| {
        small.disk.faults(|f| f.capacity = 1 << 40);
        let user = small.mount("").await;
        let handle = user.open("f", NEW, true).await.unwrap();
        write_all(&user, handle, 0..LARGE / MIB).await.unwrap();
        assert!(!user.fs.file(handle).unwrap().file.is_freed());
        assert_eq!(user.read(handle, FREED, MIB).await.unwrap(), mib(FREED / MIB));
        user.rename("f", "g", false).await.unwrap();
        user.rename("g", "f", false).await.unwrap();
        user.close(handle).await.unwrap();
        assert!(small.is_stored(LARGE).await);
    });
}

/// Random programs see of a file on a small disk what they may, with a store that loses answers. Each write,
/// cut and read does what it says or fails, and when an fsync or close succeeds the object is what a plain
/// array says.
/// Promise: A file may be larger than the disk of the state folder.
#[test]
fn random_programs_on_a_small_disk_store_what_they_wrote() {
    for seed in 0..super::model::seeds(8) {
        Small::run(seed, async move |small| {
            let options = if seed % 2 == 0 { "deadline=6" } else { "deadline=6,flush=local" };
            let user = small.mount(options).await;
            let mut want: Vec<u8> = Vec::new();
            let handle = user.open("f", NEW, true).await.unwrap();
            if seed % 4 > 1 {
                small.store.faults(|f| (f.lost, f.errors) = (60, 30));
            }
            let mut freed = 0;
            for step in 0..70u64 {
                let world = &small.world;
                let file = &user.fs.file(handle).unwrap().file;
                freed += u32::from(file.is_freed());
                match world.below(20) {
                    0..13 if want.len() < 140 << 20 => {
                        let data = vec![step as u8 + 1; world.below(7 << 20) as usize + 1];
                        if user.fs.write(handle, want.len() as u64, data.clone().into()).await.is_ok() {
                            want.extend_from_slice(&data);
                        }
                    }
                    13 | 14 if !want.is_empty() => {
                        let from = world.below(want.len() as u64) as usize;
                        let data = vec![step as u8 + 1; 90_000.min(want.len() - from)];
                        if user.fs.write(handle, from as u64, data.clone().into()).await.is_ok() {
                            want[from..from + data.len()].copy_from_slice(&data);
                        }
                    }
                    15 => {
                        let size = (want.len() as u64).saturating_sub(world.below(30 << 20));
                        let size = if world.below(6) == 0 { 0 } else { size };
                        if resize(&user, handle, size).await.is_ok() {
                            want.resize(size as usize, 0);
                        }
                    }
                    16 | 17 if world.below(3) == 0 => {
                        let synced = match world.below(2) {
                            0 => user.fs.fsync(handle).await,
                            _ => user.fs.flush(handle).await,
                        };
                        if synced.is_ok() && options == "deadline=6" {
                            assert!(small.object("f").await.unwrap() == want, "seed {seed}: other bytes");
                        }
                    }
                    _ => {
                        let from = world.below(want.len() as u64 + 1);
                        match user.read(handle, from, 100_000).await {
                            Ok(read) => {
                                assert!(read == want[from as usize..want.len().min(from as usize + 100_000)]);
                            }
                            Err(fail) => assert!(fail.errno == Errno::IO || seed % 4 > 1, "{fail:?}"),
                        }
                    }
                }
            }
            small.store.faults(|f| (f.lost, f.errors) = (0, 0));
            small.world.rt().sleep(Duration::from_secs(60)).await;
            user.fs.fsync(handle).await.unwrap();
            user.fs.idle().await;
            assert!(small.object("f").await.unwrap() == want, "seed {seed}");
            user.close(handle).await.unwrap();
            user.forget_all();
            user.fs.finish().await;
            tracing::info!(seed, freed, "steps with a freed file");
            small.is_clean().await;
        });
    }
}
