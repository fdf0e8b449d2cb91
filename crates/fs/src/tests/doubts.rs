//! Operations that meet each other, and answers that are lost: what was acknowledged keeps its name, and nothing of ours
//! is taken for another client's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::faults::body;
use super::power::{empty, mount_again, mounted, synced_and_anew};
use super::user::{READ, STAGING, User, WRITE};
use crate::object::{Errno, Meta as _};
use crate::ops::Changes;
use crate::tree::{OpenMode, ROOT};
use windlass_base::rt::sim::{Process, Sim, SimDisk, World};
use windlass_store::{Cause, Reach, SimStore, Store as _, When};

const MODE: Changes =
    Changes { mode: Some(0o600), size: None, uid: None, gid: None, atime: None, mtime: None };
const LENGTHS: [usize; 2] = [4000, 200_000];

/// Parts that one test needs.
#[derive(Clone)]
struct Set {
    world: World,
    disk: Arc<SimDisk>,
    store: Arc<SimStore>,
}

impl Set {
    fn run<T: Send + 'static, F: Future<Output = T> + Send>(
        seed: u64,
        test: impl FnOnce(Set) -> F + Send + 'static,
    ) -> T {
        let sim = Sim::new(seed);
        let (world, disk, store) = (sim.clone(), Arc::new(SimDisk::new(&sim)), SimStore::new(&sim, "s"));
        let out = sim.run(async move { test(Set { world, disk, store }).await });
        out.unwrap_or_else(|stall| panic!("seed {seed}: {stall}"))
    }

    async fn mount(&self, options: &str) -> (Process, User) {
        let process = self.world.process();
        let user = User::mount(process.rt(), self.disk.clone(), self.store.clone(), options, STAGING).await;
        (process, user)
    }

    async fn sleep(&self, time: Duration) {
        self.world.rt().sleep(time).await;
    }

    async fn f(&self) -> Option<Bytes> {
        body(self.store.contents(), "f").await
    }

    /// The daemon dies, the store is well, and the next mount sends what it finds.
    async fn end(&self, process: Process, user: User) {
        process.kill();
        drop(user);
        self.store.faults(|f| (f.errors, f.reach) = (0, Reach::Up));
        self.sleep(Duration::from_secs(10)).await;
        mount_again(&self.world, &self.disk, &self.store).await;
    }

    /// `f` is in the store, and nobody was told.
    async fn lost_answer(&self, user: &User, handle: u64) {
        user.fs.write(handle, 0, vec![1; 4000].into()).await.unwrap();
        self.store.faults(|f| f.lost = 1000);
        user.fs.flush(handle).await.unwrap();
        while self.f().await.is_none() {
            self.sleep(Duration::from_micros(200)).await;
        }
        self.store.faults(|f| (f.errors, f.lost) = (1000, 0));
        assert!(user.fs.file(handle).unwrap().file.is_dirty(), "the answer is lost");
    }

    /// `f` is open, and is another client's object by now.
    async fn overtaken(&self) -> (User, u64) {
        let (_, user) = mounted(&self.world, &self.disk, &self.store).await;
        user.put("f", b"first").await.unwrap();
        user.fs.idle().await;
        let handle = user.open("f", WRITE, false).await.unwrap();
        let disk = Arc::new(SimDisk::new(&self.world));
        let other = User::mount(self.world.rt(), disk, self.store.clone(), "", STAGING).await;
        other.put("f", b"other").await.unwrap();
        (user, handle)
    }

    /// The conflicts that are kept.
    async fn kept(&self) -> Vec<Bytes> {
        let mut kept = Vec::new();
        for key in self.store.contents().keys().into_iter().filter(|key| key.contains(".conflict-")) {
            kept.push(body(self.store.contents(), &key).await.unwrap());
        }
        kept
    }

    /// Waits until the store is asked once more.
    async fn asked(&self) {
        let was = self.store.requests();
        while self.store.requests() == was {
            self.sleep(Duration::from_micros(50)).await;
        }
    }
}

/// One handle cuts the file off while another's close or fsync sends it: what is stored was the file once.
#[test]
fn a_cut_beside_a_send_stores_no_zeros() {
    for (len, sync) in LENGTHS.into_iter().flat_map(|len| [(len, false), (len, true)]) {
        for seed in 0..60 {
            Set::run(seed, move |set| async move {
                let (_process, user) = set.mount("deadline=5").await;
                user.put("f", &vec![1; len]).await.unwrap();
                let one = user.open("f", WRITE, true).await.unwrap();
                let two = user.open("f", WRITE, true).await.unwrap();
                user.fs.write(one, 0, vec![2; len].into()).await.unwrap();
                let cuts = user.clone();
                let cutting = set.world.rt().spawn(async move { empty(&cuts, two).await });
                set.sleep(Duration::from_micros(set.world.below(6000))).await;
                let done = if sync { user.fs.fsync(one).await } else { user.fs.flush(one).await };
                done.unwrap();
                let is = set.f().await.unwrap();
                assert!(is.is_empty() || *is == vec![2; len], "seed {seed}: {} bytes of {}", is.len(), is[0]);
                cutting.await.unwrap();
            });
        }
    }
}

/// Promise: When close or fsync returns success, the object is stored and is the file.
#[test]
fn an_fsync_beside_an_unlink_that_fails_is_kept() {
    for (local, len) in LENGTHS.into_iter().flat_map(|len| [(false, len), (true, len)]) {
        Set::run(1, move |set| async move {
            let flush = if local { "local" } else { "bucket" };
            let (process, user) = set.mount(&format!("deadline=5,metadata_ttl=600,flush={flush}")).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            user.fs.write(handle, 0, vec![1; len].into()).await.unwrap();
            user.fs.fsync(handle).await.unwrap();
            user.fs.idle().await;
            user.stat("f").await.unwrap();
            set.store.faults(|f| f.reach = Reach::Silent);
            let fs = user.fs.clone();
            let gone = process.rt().spawn(async move { fs.unlink(ROOT, b"f").await });
            set.sleep(Duration::from_millis(500)).await;
            user.fs.write(handle, 0, vec![2; len].into()).await.unwrap();
            let synced = user.fs.fsync(handle).await;
            assert_eq!(synced.is_ok(), local, "the store is silent");
            gone.await.unwrap().unwrap_err();
            set.end(process, user).await;
            let is = set.f().await.unwrap();
            assert!(is == vec![2; len] || !local && is == vec![1; len], "flush={flush}: {} is there", is[0]);
        });
    }
}

/// A file is closed again and again in an outage that began with an answer that was lost.
#[test]
fn many_sends_after_a_lost_answer_are_no_conflict() {
    for closes in [7, 8, 40] {
        Set::run(1, move |set| async move {
            let (_process, user) = mounted(&set.world, &set.disk, &set.store).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            set.lost_answer(&user, handle).await;
            user.fs.release(handle).await;
            for n in 0..closes {
                let handle = user.open("f", OpenMode { truncate: true, ..WRITE }, true).await.unwrap();
                user.fs.write(handle, 0, vec![2 + n; 4000].into()).await.unwrap();
                user.close(handle).await.unwrap();
                set.sleep(Duration::from_secs(100)).await;
            }
            set.store.faults(|f| f.errors = 0);
            set.sleep(Duration::from_secs(300)).await;
            assert_eq!(set.store.contents().keys(), ["f"], "{closes} closes");
            assert_eq!(set.f().await.unwrap(), [1 + closes; 4000][..]);
        });
    }
}

/// The next version meets one whose answer was lost, and the look at whose that is fails once.
#[test]
fn a_look_that_fails_is_no_conflict() {
    Set::run(1, |set| async move {
        let (_process, user) = mounted(&set.world, &set.disk, &set.store).await;
        let handle = user.open("f", WRITE, true).await.unwrap();
        set.lost_answer(&user, handle).await;
        empty(&user, handle).await;
        user.fs.write(handle, 0, vec![2; 4000].into()).await.unwrap();
        user.fs.fsync(handle).await.unwrap();
        set.sleep(Duration::from_secs(30)).await;
        set.store.faults(|f| f.errors = 0);
        set.asked().await;
        set.store.faults(|f| f.errors = 1000);
        set.asked().await;
        set.store.faults(|f| f.errors = 0);
        set.sleep(Duration::from_secs(100)).await;
        assert_eq!(set.store.contents().keys(), ["f"]);
        assert_eq!(set.f().await.unwrap(), [2; 4000][..]);
        assert_eq!(user.fs.read(handle, 0, 1).await.unwrap(), [2][..]);
    });
}

/// Promise: With `flush=local`, an fsync that failed is not made good by the next one.
#[test]
fn a_failed_close_is_not_taken_up_as_a_good_one() {
    for (len, seed) in LENGTHS.into_iter().flat_map(|len| (0..40).map(move |seed| (len, seed))) {
        Set::run(seed, move |set| async move {
            let (process, user) = mounted(&set.world, &set.disk, &set.store).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            set.store.faults(|f| f.errors = 1000);
            synced_and_anew(&user, handle, len).await;
            set.disk.faults(|f| f.sync_fails = 1000);
            user.fs.flush(handle).await.unwrap_err();
            set.disk.faults(|f| f.sync_fails = 0);
            process.kill();
            drop(user);
            set.store.faults(|f| f.errors = 0);
            let (process, user) = set.mount("deadline=5,flush=local").await;
            set.store.faults(|f| f.errors = 1000);
            set.sleep(Duration::from_secs(3)).await;
            set.disk.power_loss();
            set.end(process, user).await;
            let is = set.f().await.unwrap();
            assert!(is == [1; 3000][..] || is == vec![2; len], "seed {seed}: {} bytes", is.len());
        });
    }
}

/// A change of mode comes between what an fsync asks for and the note that says so.
#[test]
fn a_chmod_beside_an_fsync_of_a_rewrite_does_not_undo_it() {
    for again in [false, true] {
        Set::run(1, move |set| async move {
            let (process, user) = mounted(&set.world, &set.disk, &set.store).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            set.store.faults(|f| f.errors = 1000);
            synced_and_anew(&user, handle, 4000).await;
            let open = user.fs.file(handle).unwrap();
            // Stands for another thread's note.
            let noting = open.file.noting.lock().await;
            let fs = user.fs.clone();
            let syncing = process.rt().spawn(async move { fs.fsync(handle).await });
            set.sleep(Duration::from_millis(1)).await;
            // It is answered when it is written down, after that.
            let (fs, ino) = (user.fs.clone(), open.ino);
            let changing = process.rt().spawn(async move { fs.setattr(ino, MODE, None).await });
            set.sleep(Duration::from_millis(1)).await;
            drop(noting);
            syncing.await.unwrap().unwrap();
            changing.await.unwrap().unwrap();
            if again {
                empty(&user, handle).await;
                user.fs.write(handle, 0, vec![3; 10].into()).await.unwrap();
            }
            drop(open);
            set.end(process, user).await;
            assert_eq!(set.f().await.unwrap(), [2; 4000][..]);
        });
    }
}

/// The object's metadata change while the file is open, and the daemon dies.
#[test]
fn a_chmod_of_an_open_file_is_no_conflict_afterwards() {
    for (options, len) in LENGTHS.into_iter().flat_map(|len| [("deadline=5", len), ("flush=local", len)]) {
        Set::run(1, move |set| async move {
            let (process, user) = set.mount(options).await;
            let handle = user.open("f", WRITE, true).await.unwrap();
            user.fs.write(handle, 0, vec![1; len].into()).await.unwrap();
            user.fs.flush(handle).await.unwrap();
            set.sleep(Duration::from_secs(10)).await;
            let ino = user.fs.file(handle).unwrap().ino;
            user.fs.setattr(ino, MODE, None).await.unwrap();
            set.sleep(Duration::from_secs(10)).await;
            set.end(process, user).await;
            assert_eq!(set.store.contents().keys(), ["f"], "{options}, {len} bytes");
        });
    }
}

/// Bytes that are written while another client's object refuses what was closed before are kept beside it as
/// well.
/// Promise: An update made elsewhere is never overwritten.
#[test]
fn what_is_written_while_a_send_is_refused_is_kept_beside() {
    for seed in 0..60 {
        Set::run(seed, move |set| async move {
            let (user, handle) = set.overtaken().await;
            user.fs.write(handle, 0, Bytes::from_static(b"0")).await.unwrap();
            user.fs.flush(handle).await.unwrap();
            let mut written = 0;
            for n in 1..100 {
                set.sleep(Duration::from_micros(set.world.below(20_000))).await;
                if user.fs.write(handle, 0, Bytes::from(format!("{n:02}"))).await.is_err() {
                    break;
                }
                written = n;
                // What is overwritten before it could be sent waits for its own close.
                if n % 5 == 0 && user.fs.flush(handle).await.is_ok() {
                    set.sleep(Duration::from_micros(set.world.below(300_000))).await;
                }
            }
            assert!((1..99).contains(&written), "seed {seed}: {written} writes are no test");
            user.fs.idle().await;
            let kept = set.kept().await;
            let last = format!("{written:02}her");
            assert!(kept.iter().any(|kept| *kept == last), "seed {seed}: {last} is not in {kept:?}");
            assert_eq!(set.f().await.unwrap(), b"other"[..]);
        });
    }
}

/// A version that is closed while another client's object refuses the one before is kept beside it, and so is
/// what has been written of the next one, for which the file was begun anew.
/// Promise: An update made elsewhere is never overwritten.
#[test]
fn what_is_closed_and_begun_anew_while_a_send_is_refused_is_kept_beside() {
    let mut anew = 0;
    for seed in 0..200 {
        anew += Set::run(seed, move |set| async move {
            let (user, handle) = set.overtaken().await;
            user.fs.write(handle, 0, Bytes::from_static(b"00000")).await.unwrap();
            user.fs.flush(handle).await.unwrap();
            set.sleep(Duration::from_micros(set.world.below(60_000))).await;
            let closes = async {
                user.fs.write(handle, 0, Bytes::from_static(b"closed")).await?;
                user.fs.flush(handle).await
            };
            let closed = closes.await.is_ok();
            set.sleep(Duration::from_micros(set.world.below(20_000))).await;
            let cut = Changes { size: Some(0), ..Changes::default() };
            let ino = user.fs.file(handle).unwrap().ino;
            let begun = user.fs.setattr(ino, cut, Some(handle)).await.is_ok()
                && user.fs.write(handle, 0, Bytes::from_static(b"next")).await.is_ok();
            user.fs.idle().await;
            let kept = set.kept().await;
            assert!(!closed || kept.iter().any(|kept| *kept == b"closed"[..]), "seed {seed}: {kept:?}");
            assert_eq!(set.f().await.unwrap(), b"other"[..]);
            u32::from(closed && begun)
        });
    }
    assert!(anew > 5, "{anew} were begun anew: the moments are no test");
}

/// The power goes at any moment of an fsync over an object that is whole.
/// Promise: With `flush=local`, what a loss of power may have torn takes no name.
#[test]
fn power_that_goes_during_an_fsync_leaves_one_of_the_two() {
    for seed in 0..100 {
        Set::run(seed, move |set| async move {
            let (process, user) = mounted(&set.world, &set.disk, &set.store).await;
            user.put("f", &[1; 200_000]).await.unwrap();
            user.fs.idle().await;
            let handle = user.open("f", WRITE, false).await.unwrap();
            set.store.faults(|f| f.errors = 1000);
            empty(&user, handle).await;
            user.fs.write(handle, 0, vec![2; 200_000].into()).await.unwrap();
            let fs = user.fs.clone();
            process.rt().spawn(async move { fs.fsync(handle).await }).detach();
            set.sleep(Duration::from_micros(set.world.below(8000))).await;
            set.disk.power_loss();
            set.end(process, user).await;
            let is = set.f().await.unwrap();
            assert!(is == [1; 200_000][..] || is == [2; 200_000][..], "seed {seed}: it is torn");
        });
    }
}

/// Promise: With `flush=local`, what a loss of power may have torn takes no name.
#[test]
fn a_chmod_of_what_waits_leaves_it_to_be_synced() {
    Set::run(1, |set| async move {
        let (process, user) = mounted(&set.world, &set.disk, &set.store).await;
        let handle = user.open("f", WRITE, true).await.unwrap();
        set.store.faults(|f| f.errors = 1000);
        user.fs.write(handle, 0, vec![2; 200_000].into()).await.unwrap();
        let ino = user.fs.file(handle).unwrap().ino;
        user.close(handle).await.unwrap();
        user.fs.setattr(ino, MODE, None).await.unwrap();
        user.fs.finish().await;
        set.disk.power_loss();
        set.end(process, user).await;
        assert_eq!(set.store.contents().keys(), ["f"]);
        assert_eq!(set.f().await.unwrap(), vec![2; 200_000]);
    });
}

/// Bytes that are closed while their file is renamed have the new name, whatever ends the mount then.
#[test]
fn what_is_closed_beside_a_rename_has_the_new_name() {
    let mut beside = 0;
    for seed in 0..60 {
        beside += Set::run(seed, move |set| async move {
            let (process, user) = mounted(&set.world, &set.disk, &set.store).await;
            user.put("f", &[1; 4000]).await.unwrap();
            user.fs.idle().await;
            user.stat("g").await.unwrap_err();
            let handle = user.open("f", WRITE, false).await.unwrap();
            let fs = user.fs.clone();
            let moving = process.rt().spawn(async move { fs.rename(ROOT, b"f", ROOT, b"g", false).await });
            set.sleep(Duration::from_micros(set.world.below(120_000))).await;
            user.fs.write(handle, 0, vec![2; 4000].into()).await.unwrap();
            let closed = user.fs.flush(handle).await;
            moving.await.unwrap().unwrap();
            let waited = user.fs.file(handle).unwrap().file.is_dirty();
            set.store.faults(|f| f.errors = 1000);
            set.sleep(Duration::from_secs(20)).await;
            set.end(process, user).await;
            closed.unwrap();
            assert_eq!(set.store.contents().keys(), ["g"], "seed {seed}");
            assert_eq!(body(set.store.contents(), "g").await.unwrap(), [2; 4000][..], "seed {seed}");
            u32::from(waited)
        });
    }
    assert!(beside > 5, "{beside} were not sent yet: the moments are no test");
}

const NEW: OpenMode = OpenMode { truncate: true, ..WRITE };

/// A program copies a file, beside an fsync of the copy, a rename of its directory, or a change of the source by another
/// client.
#[test]
fn a_copy_beside_other_changes_is_whole_or_refused() {
    let mut copied = 0;
    for (seed, options) in (0..40).flat_map(|n| [(n, "deadline=5"), (n, "deadline=5,flush=local")]) {
        copied += Set::run(seed, move |set| async move {
            let (_process, user) = set.mount(options).await;
            let bytes = Bytes::from([vec![1; 10 << 20], vec![2; 10 << 20]].concat());
            set.store.contents().put("d/a", bytes.clone(), When::Always, Cause::File).await.unwrap();
            let from = user.open("d/a", READ, false).await.unwrap();
            let to = user.open("d/f", NEW, true).await.unwrap();
            let (fs, moves) = (user.fs.clone(), user.another());
            let beside = set.world.rt().spawn(async move {
                match seed % 3 {
                    0 => fs.fsync(to).await.unwrap(),
                    1 => moves.rename("d", "e", false).await.unwrap(),
                    _ => moves.put("d/a", b"other").await.unwrap(),
                }
            });
            set.sleep(Duration::from_micros(set.world.below(100_000))).await;
            let done = user.fs.copy_range(from, to, (0, 0), 1 << 30).await;
            let want = match &done {
                // The source was another before the copy began.
                Ok(5) if seed % 3 == 2 => Bytes::from_static(b"other"),
                Ok(done) => {
                    assert_eq!(*done, 20 << 20, "seed {seed}, {options}");
                    bytes
                }
                // The program reads and writes then.
                Err(fail) => {
                    assert_eq!(fail.errno, Errno::OPNOTSUPP, "seed {seed}, {options}");
                    user.fs.write(to, 0, bytes.clone()).await.unwrap();
                    bytes
                }
            };
            beside.await.unwrap();
            user.close(to).await.unwrap();
            user.fs.idle().await;
            let key = if seed % 3 == 1 { "e/f" } else { "d/f" };
            let is = body(set.store.contents(), key).await.unwrap();
            assert!(is == want, "seed {seed}, {options}: {} bytes of {}", is.len(), want.len());
            u32::from(done.is_ok())
        });
    }
    assert!(copied > 20, "{copied} were copied: the moments are no test");
}

/// A mode that is set while the store copies is newer than that which the copy carries.
#[test]
fn a_chmod_beside_a_copy_is_kept() {
    let mut beside = 0;
    for seed in 0..120 {
        beside += Set::run(seed, move |set| async move {
            let (_process, user) = set.mount("deadline=5").await;
            set.store.contents().put("a", vec![1; 8000].into(), When::Always, Cause::File).await.unwrap();
            set.store.faults(|f| f.latency = (Duration::from_millis(5), Duration::from_millis(20)));
            let from = user.open("a", READ, false).await.unwrap();
            let to = user.open("f", NEW, true).await.unwrap();
            let fs = user.fs.clone();
            let copying = set.world.rt().spawn(async move { fs.copy_range(from, to, (0, 0), 1 << 20).await });
            set.sleep(Duration::from_micros(set.world.below(40_000))).await;
            let ino = user.fs.file(to).unwrap().ino;
            let under_way = !set.store.contents().keys().contains(&"f".to_owned());
            let mode = Changes { mode: Some(0o600), ..Changes::default() };
            user.fs.setattr(ino, mode, None).await.unwrap();
            assert_eq!(copying.await.unwrap().unwrap(), 8000, "seed {seed}");
            user.close(to).await.unwrap();
            user.fs.idle().await;
            let head = set.store.contents().head("f", Cause::File).await.unwrap().unwrap();
            assert_eq!(head.attrs.mode().map(|mode| mode & 0o7777), Some(0o600), "seed {seed}");
            assert_eq!(user.stat("f").await.unwrap().attributes.mode & 0o7777, 0o600, "seed {seed}");
            u32::from(under_way)
        });
    }
    assert!(beside > 5, "{beside} were set meanwhile: the moments are no test");
}

/// The disk has failed to sync a file, the bucket has it, and its name is being removed: who has it open writes to it
/// and still reads all of it.
#[test]
fn a_doubtful_stage_is_kept_while_the_name_goes() {
    for seed in 0..60 {
        Set::run(seed, move |set| async move {
            let (_process, user) = set.mount("deadline=5,flush=local").await;
            let handle = user.open("f", NEW, true).await.unwrap();
            user.fs.write(handle, 0, vec![1; 300_000].into()).await.unwrap();
            set.disk.faults(|f| f.sync_fails = 1000);
            user.fs.fsync(handle).await.unwrap_err();
            set.disk.faults(|f| f.sync_fails = 0);
            user.fs.flush(handle).await.unwrap();
            user.fs.idle().await;
            set.sleep(Duration::from_secs(10)).await;
            assert_eq!(set.f().await.unwrap().len(), 300_000, "seed {seed}");
            set.store.faults(|f| f.latency = (Duration::from_millis(20), Duration::from_millis(60)));
            let removes = user.another();
            let removing = set.world.rt().spawn(async move { removes.unlink("f").await });
            set.sleep(Duration::from_micros(set.world.below(200_000))).await;
            let wrote = user.fs.write(handle, 0, vec![2; 4].into()).await;
            removing.await.unwrap().unwrap();
            wrote.unwrap();
            let is = user.read(handle, 0, 300_000).await.unwrap();
            assert!(is[..4] == [2; 4] && is[4..] == vec![1; 299_996], "seed {seed}: {} bytes", is.len());
        });
    }
}

/// A reader of a file goes on while the file is renamed, its directory too.
#[test]
fn who_reads_a_file_that_is_renamed_reads_on() {
    for (seed, (from, to)) in (0..40).flat_map(|n| [(n, ("d/f", "d/g")), (n, ("d", "e"))]) {
        Set::run(seed, move |set| async move {
            let (_process, user) = set.mount("deadline=5").await;
            let bytes = Bytes::from((0..1 << 20).map(|at| (at >> 12) as u8).collect::<Vec<u8>>());
            set.store.contents().put("d/f", bytes.clone(), When::Always, Cause::File).await.unwrap();
            let handle = user.open("d/f", READ, false).await.unwrap();
            let moves = user.another();
            let moving = set.world.rt().spawn(async move { moves.rename(from, to, false).await });
            for _ in 0..30 {
                let at = (50 + set.world.below(200)) << 12;
                let read = user.read(handle, at, 4096).await;
                let read = read.unwrap_or_else(|f| panic!("seed {seed}, {from}: {f:?}"));
                assert_eq!(read, bytes.slice(at as usize..at as usize + 4096));
            }
            moving.await.unwrap().unwrap();
        });
    }
}

/// A file is closed while its directory is being renamed, and the daemon dies before that ends. It is no
/// conflict: nobody else changed anything.
#[test]
fn what_is_closed_while_its_directory_moves_is_no_conflict_after_a_kill() {
    for seed in 0..60 {
        Set::run(seed, move |set| async move {
            let (process, user) = mounted(&set.world, &set.disk, &set.store).await;
            for name in ["d/a", "d/f", "d/z"] {
                set.store
                    .contents()
                    .put(name, vec![1; 4000].into(), When::Always, Cause::File)
                    .await
                    .unwrap();
            }
            let handle = user.open("d/f", WRITE, false).await.unwrap();
            let moves = user.another();
            process.rt().spawn(async move { moves.rename("d", "e", false).await }).detach();
            set.sleep(Duration::from_micros(set.world.below(300_000))).await;
            user.fs.write(handle, 0, vec![2; 4000].into()).await.unwrap();
            user.fs.flush(handle).await.unwrap();
            set.sleep(Duration::from_micros(set.world.below(20_000))).await;
            set.end(process, user).await;
            set.sleep(Duration::from_secs(60)).await;
            let keys = set.store.contents().keys();
            assert!(!keys.iter().any(|key| key.contains(".conflict-")), "seed {seed}: {keys:?}");
            let mut found = Vec::new();
            for key in ["d/f", "e/f"] {
                found.extend(body(set.store.contents(), key).await);
            }
            assert!(found.iter().any(|is| *is == [2; 4000][..]), "seed {seed}: {keys:?}");
        });
    }
}

/// An object that another client removed was known in the directory over which one is renamed.
#[test]
fn what_moves_to_where_another_was_is_found_there() {
    Set::run(1, |set| async move {
        let (_process, one) = set.mount("deadline=5").await;
        let two = one.another();
        for (key, bytes) in [("d/f", &b"old"[..]), ("e/", b""), ("e/f", b"was")] {
            let bytes = Bytes::from_static(bytes);
            set.store.contents().put(key, bytes, When::Always, Cause::File).await.unwrap();
        }
        one.stat("e/f").await.unwrap();
        set.store.contents().delete(&["e/f".to_owned()], Cause::File).await.unwrap();
        set.sleep(Duration::from_secs(20)).await;
        let handle = two.open("d/f", WRITE, false).await.unwrap();
        two.rename("d", "e", false).await.unwrap();
        // The kernel lets go of what it knew below the directory that was replaced (shrink_dcache_parent).
        one.forget_all();
        two.fs.write(handle, 0, Bytes::from_static(b"new")).await.unwrap();
        assert_eq!(one.get("e/f").await.unwrap(), b"new");
        one.put("e/f", b"next").await.unwrap();
        two.close(handle).await.unwrap();
        assert_eq!(set.kept().await, [b""; 0].map(|b| Bytes::from_static(b)));
    });
}

/// One file is copied to another in a directory that is being renamed, and then written to. The simulation
/// says where it stalls.
#[test]
fn a_directory_moves_while_copies_are_made_in_it() {
    for seed in 0..20 {
        Set::run(seed, move |set| async move {
            let (_process, user) = set.mount("deadline=5").await;
            let large = Bytes::from(vec![7; 65 << 20]);
            set.store.contents().put("d/z", large, When::Always, Cause::File).await.unwrap();
            let from = user.open("d/z", WRITE, false).await.unwrap();
            let to = user.open("d/b", NEW, true).await.unwrap();
            let between = user.open("d/m", NEW, true).await.unwrap();
            user.fs.write(between, 0, Bytes::from_static(b"m")).await.unwrap();
            let moves = user.another();
            let moving = set.world.rt().spawn(async move { moves.rename("d", "e", false).await });
            // After `d/b` was sent and is held, before it is `d/z`'s turn.
            set.sleep(Duration::from_micros(set.world.below(250_000))).await;
            let _ = user.fs.copy_range(from, to, (0, 0), 65 << 20).await;
            let _ = user.fs.write(from, 0, Bytes::from_static(b"!")).await;
            let _ = moving.await.unwrap();
        });
    }
}

/// One handle cuts the file while another's fsync sends it: what is stored was the file once.
#[test]
fn what_is_cut_beside_a_send_is_stored_before_or_after() {
    for (len, seeds, most) in [(4000, 200, 6000), (200_000, 200, 6000), (20 << 20, 10, 60_000)] {
        for seed in 0..seeds {
            Set::run(seed, move |set| async move {
                let (_process, user) = set.mount("deadline=60").await;
                user.put("f", &vec![1; len]).await.unwrap();
                let one = user.open("f", WRITE, true).await.unwrap();
                let two = user.open("f", WRITE, true).await.unwrap();
                user.fs.write(one, 0, vec![2; len].into()).await.unwrap();
                let (cuts, world) = (user.clone(), set.world.clone());
                let cutting = set.world.rt().spawn(async move {
                    world.rt().sleep(Duration::from_micros(world.below(most))).await;
                    let ino = cuts.fs.file(two).unwrap().ino;
                    let cut = Changes { size: Some(10), ..Changes::default() };
                    cuts.fs.setattr(ino, cut, Some(two)).await.unwrap();
                });
                user.fs.fsync(one).await.unwrap();
                let is = set.f().await.unwrap();
                cutting.await.unwrap();
                let once = [len, 10].contains(&is.len()) && is.iter().all(|byte| *byte == 2);
                assert!(once, "seed {seed}: {len} bytes are {} now, the last {:?}", is.len(), is.last());
            });
        }
    }
}

/// Stored, and 10 s later another client removes it: the power takes nothing of that back.
/// Promise: With `flush=local`, what a loss of power may have torn takes no name.
#[test]
fn what_was_stored_does_not_come_back_with_the_power() {
    for (seed, len) in (0..20).flat_map(|n| LENGTHS.map(|len| (n, len))) {
        Set::run(seed, move |set| async move {
            let (process, user) = mounted(&set.world, &set.disk, &set.store).await;
            let handle = user.open("f", NEW, true).await.unwrap();
            user.fs.write(handle, 0, vec![2; len].into()).await.unwrap();
            user.fs.fsync(handle).await.unwrap();
            user.close(handle).await.unwrap();
            set.sleep(Duration::from_secs(20)).await;
            assert_eq!(set.f().await.unwrap().len(), len, "seed {seed}");
            set.store.contents().delete(&["f".to_owned()], Cause::File).await.unwrap();
            process.kill();
            drop(user);
            set.disk.power_loss();
            set.sleep(Duration::from_secs(10)).await;
            mount_again(&set.world, &set.disk, &set.store).await;
            assert_eq!(set.store.contents().keys(), [""; 0], "seed {seed}, {len} bytes");
        });
    }
}

/// A file that grows all the time while it is sent is sent all the same.
#[test]
fn what_grows_beside_a_send_is_no_cut() {
    for seed in 0..20 {
        Set::run(seed, move |set| async move {
            let (_process, user) = set.mount("deadline=60").await;
            let handle = user.open("f", NEW, true).await.unwrap();
            user.fs.write(handle, 0, vec![2; 200_000].into()).await.unwrap();
            let (grows, world) = (user.clone(), set.world.clone());
            let growing = set.world.rt().spawn(async move {
                for size in 200_001..200_400 {
                    grows.fs.allocate(handle, 0, size, false, false).await.unwrap();
                    world.rt().sleep(Duration::from_micros(500)).await;
                }
            });
            let before = set.store.requests();
            user.fs.fsync(handle).await.unwrap();
            assert!(
                set.store.requests() - before <= 2,
                "seed {seed}: {} requests",
                set.store.requests() - before
            );
            let is = set.f().await.unwrap();
            assert!(is.len() >= 200_000 && is[..200_000].iter().all(|byte| *byte == 2), "seed {seed}");
            growing.await.unwrap();
            user.close(handle).await.unwrap();
        });
    }
}
