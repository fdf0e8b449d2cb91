//! Acts of several requests: what this host does below a directory while it is renamed, what other clients do, copies whose
//! etags tell nothing, answers that are lost, kills, and later mounts that can't end what an earlier one began.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;

use super::faults::{body, staged};
use super::model::seeds;
use super::rules::{Act, Ruled};
use super::user::{ME, READ, STAGING, User, WRITE};
use crate::object::{Errno, Meta as _, Op};
use crate::ops::{Changes, Looked};
use crate::tree::OpenMode;
use windlass_base::rt::sim::{Process, Sim, SimDisk, World};
use windlass_store::{Attrs, Bucket as _, Cause, EtagRule, MemStore, Reach, SimStore, Store as _, When};

pub const EMPTY: OpenMode = OpenMode { truncate: true, ..WRITE };
const RULES: [EtagRule; 3] = [EtagRule::OfBytes, EtagRule::OfParts, EtagRule::OfEachPut];

fn mode(mode: u32) -> Changes {
    Changes { mode: Some(mode), ..Changes::default() }
}

/// Calls by the number of a directory, as of a process that has it open: its path may change meanwhile.
struct InDir {
    user: User,
    dir: u64,
}

impl InDir {
    async fn ino(&self, name: &str) -> Op<u64> {
        match self.user.fs.lookup(self.dir, name.as_bytes()).await? {
            Looked::Found(entry) => Ok(entry.ino),
            Looked::Absent(_) => Err(Errno::NOENT.into()),
        }
    }

    async fn make(&self, name: &str, bytes: &[u8]) -> Op<()> {
        let (_, opened) = self.user.fs.create(self.dir, name.as_bytes(), 0o644, ME, EMPTY).await?;
        let written = self.user.fs.write(opened.handle, 0, Bytes::copy_from_slice(bytes)).await;
        self.user.close(opened.handle).await.and(written)
    }

    async fn write(&self, name: &str, bytes: &[u8]) -> Op<()> {
        let handle = self.user.fs.open_file(self.ino(name).await?, EMPTY).await?.handle;
        let written = self.user.fs.write(handle, 0, Bytes::copy_from_slice(bytes)).await;
        self.user.close(handle).await.and(written)
    }

    async fn chmod(&self, name: &str, to: u32) -> Op<()> {
        let ino = self.ino(name).await?;
        self.user.fs.setattr(ino, mode(to), None).await.map(drop)
    }

    async fn unlink(&self, name: &str) -> Op<()> {
        self.user.fs.unlink(self.dir, name.as_bytes()).await
    }

    async fn rename(&self, name: &str, to: &str) -> Op<()> {
        self.user.fs.rename(self.dir, name.as_bytes(), self.dir, to.as_bytes(), false).await
    }

    async fn cut(&self, name: &str, size: u64) -> Op<()> {
        let changes = Changes { size: Some(size), ..Changes::default() };
        self.user.fs.setattr(self.ino(name).await?, changes, None).await.map(drop)
    }
}

/// Contents that should be at the directory's new name: bytes and mode of each name; a directory has no
/// bytes.
type Meant = BTreeMap<String, (Option<Vec<u8>>, u32)>;

/// One random call below the directory; when it says that it is done, it is what is meant.
async fn one_call(world: &World, here: &InDir, meant: &mut Meant, turn: u64) {
    let names: Vec<String> =
        meant.iter().filter(|(_, (bytes, _))| bytes.is_some()).map(|(n, _)| n.clone()).collect();
    let name = names[world.below(names.len() as u64) as usize].clone();
    let (new, bytes) = (format!("new{turn}"), vec![turn as u8; 1 + world.below(5000) as usize]);
    let caller = &here.user.fs;
    match world.below(9) {
        0 => {
            here.make(&new, &bytes).await.unwrap();
            meant.insert(new, (Some(bytes), 0o644));
        }
        1 => {
            here.unlink(&name).await.unwrap();
            meant.remove(&name);
        }
        2 => {
            here.chmod(&name, 0o600).await.unwrap();
            meant.get_mut(&name).unwrap().1 = 0o600;
        }
        3 => {
            here.write(&name, &bytes).await.unwrap();
            meant.get_mut(&name).unwrap().0 = Some(bytes);
        }
        4 => {
            here.rename(&name, &new).await.unwrap();
            let was = meant.remove(&name).unwrap();
            meant.insert(new, was);
        }
        5 => {
            let entry = caller.mkdir(here.dir, new.as_bytes(), 0o755, ME).await.unwrap();
            caller.forget(entry.ino, 1);
            meant.insert(new, (None, 0o755));
        }
        6 => {
            let entry = caller.symlink(here.dir, new.as_bytes(), b"to/there", ME).await.unwrap();
            caller.forget(entry.ino, 1);
            meant.insert(new, (Some(b"to/there".to_vec()), 0o777));
        }
        7 => {
            let size = world.below(3000) as usize;
            here.cut(&name, size as u64).await.unwrap();
            meant.get_mut(&name).unwrap().0.as_mut().unwrap().resize(size, 0);
        }
        _ => {
            let ino = here.ino(&name).await.unwrap();
            caller.setxattr(ino, b"user.x", Some(b"y"), false, false).await.unwrap();
            caller.forget(ino, 1);
        }
    }
}

async fn is_meant(contents: &MemStore, meant: &Meant, prefix: &str, note: &str) {
    let files = |key: &String| !key.ends_with('/');
    let mut want: Vec<String> = meant.keys().map(|name| format!("{prefix}{name}")).collect();
    for (name, (bytes, _)) in meant {
        if bytes.is_none() {
            want.retain(|key| *key != format!("{prefix}{name}"));
        }
    }
    let found: Vec<String> = contents.keys().into_iter().filter(files).collect();
    assert_eq!(found, want, "{note}");
    for (name, (bytes, mode)) in meant {
        let key = format!("{prefix}{name}{}", if bytes.is_none() { "/" } else { "" });
        let head = contents.head(&key, Cause::File).await.unwrap();
        let head = head.unwrap_or_else(|| panic!("{note}: {key} is gone"));
        assert_eq!(head.attrs.mode().unwrap_or(0o644) & 0o777, *mode, "{note}: {key}");
        if let Some(bytes) = bytes {
            assert!(body(contents, &key).await.unwrap() == *bytes, "{note}: {key} has other bytes");
        }
    }
}

/// A directory moves while a process makes, writes, removes, moves and chmods files in it: each call that is answered counts,
/// at the new name.
/// Promise: What a process does in a directory that is being renamed is done at the new name.
#[test]
fn what_is_done_in_a_directory_that_moves_moves_with_it() {
    for seed in 0..seeds(60) {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        store.contents().etags_are(RULES[seed as usize % 3]);
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let files = disk.clone();
        sim.run(async move {
            let flush = if seed % 2 == 0 { "bucket" } else { "local" };
            let options = format!("flush={flush},metadata_ttl={}", seed % 4);
            let user = User::mount(world.rt(), disk, inside.clone(), &options, STAGING).await;
            user.mkdir("d").await.unwrap();
            let mut meant = Meant::new();
            for i in 0..40 {
                let (name, bytes) = (format!("f{i:02}"), vec![i as u8; 1000 + i]);
                user.put(&format!("d/{name}"), &bytes).await.unwrap();
                meant.insert(name, (Some(bytes), 0o644));
            }
            user.fs.idle().await;
            let here = InDir { user: user.clone(), dir: user.walk("d").await.unwrap() };
            let moving = {
                let user = user.another();
                world.rt().spawn(async move { user.rename("d", "e", false).await })
            };
            for turn in 0..12 {
                world.rt().sleep(Duration::from_millis(world.below(60))).await;
                one_call(&world, &here, &mut meant, turn).await;
            }
            moving.await.unwrap().unwrap_or_else(|f| panic!("seed {seed}: {:?}", f.why));
            user.fs.idle().await;
            user.fs.fsync_dir(here.dir).await.unwrap();
            is_meant(inside.contents(), &meant, "e/", &format!("seed {seed}")).await;
            user.fs.finish().await;
        })
        .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
        assert_eq!(staged(&files), [""; 0], "seed {seed}");
    }
}

pub struct Set {
    pub world: World,
    pub disk: Arc<SimDisk>,
    pub store: Arc<Ruled>,
}

impl Set {
    pub fn run<F: Future<Output = ()> + Send>(
        seed: u64,
        etags: EtagRule,
        test: impl FnOnce(Set) -> F + Send + 'static,
    ) {
        let sim = Sim::new(seed);
        let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
        let store = Ruled::new(&sim.rt());
        store.contents().etags_are(etags);
        let out = sim.run(async move { test(Set { world, disk, store }).await });
        out.unwrap_or_else(|stall| panic!("seed {seed}: {stall}"))
    }

    pub async fn mount(&self, options: &str) -> (Process, User) {
        let process = self.world.process();
        let user = User::mount(process.rt(), self.disk.clone(), self.store.clone(), options, STAGING).await;
        (process, user)
    }

    /// A client that shares nothing with this host.
    pub async fn other(&self) -> User {
        let disk = Arc::new(SimDisk::new(&self.world));
        let options = "metadata_ttl=0,negative_metadata_ttl=0";
        User::mount(self.world.rt(), disk, self.store.clone(), options, STAGING).await
    }

    pub async fn sleep(&self, ms: u64) {
        self.world.rt().sleep(Duration::from_millis(ms)).await;
    }

    pub async fn put(&self, key: &str, bytes: &[u8]) {
        self.store.contents().put(key, bytes.to_vec().into(), When::Always, Cause::File).await.unwrap();
    }

    /// Puts an object in parts, as other tools upload large ones.
    async fn put_in_parts(&self, key: &str, bytes: &[u8]) {
        let contents = self.store.contents();
        let upload = contents.multipart_create(key, &Attrs::default(), Cause::File).await.unwrap();
        let (first, second) = bytes.split_at(bytes.len().min(5 << 20));
        let mut parts = Vec::new();
        for (number, body) in [(1, first), (2, second)] {
            let body = body.to_vec().into();
            parts.push(contents.multipart_put(key, &upload, number, body, Cause::File).await.unwrap());
        }
        contents.multipart_complete(key, &upload, &parts, When::Always, Cause::File).await.unwrap();
    }

    pub async fn body(&self, key: &str) -> Option<Bytes> {
        body(self.store.contents(), key).await
    }

    pub fn keys(&self) -> Vec<String> {
        self.store.contents().keys()
    }

    /// A rename in the background.
    fn rename(&self, user: &User, from: &'static str, to: &'static str) -> windlass_base::rt::Task<Op<()>> {
        let user = user.another();
        let rt = user.fs.runtime().clone();
        rt.spawn(async move { user.rename(from, to, false).await })
    }
}

/// Whatever etags copies get, a directory's rename ends at one name: when it is killed when all is copied, when its last copy is
/// refused, and when a copy's answer is lost.
/// Promise: A directory's rename that a crash cut off is finished by the next mount.
#[test]
fn a_rename_ends_at_one_name_whatever_etags_its_copies_have() {
    for (rule, fault) in RULES.into_iter().flat_map(|rule| ["kill", "refused", "lost"].map(|f| (rule, f))) {
        Set::run(1, rule, move |set| async move {
            let big = vec![7; 6 << 20];
            set.put_in_parts("d/big", &big).await;
            set.put("d/a", b"a").await;
            set.put("d/z", b"z").await;
            let (process, user) = set.mount("deadline=20").await;
            let note = format!("{rule:?}, {fault}");
            let wanted = match fault {
                "kill" => {
                    set.store.rule("delete", "d/", Act::Hang, 100);
                    let _moving = set.rename(&user, "d", "e");
                    set.store.reached(1).await;
                    process.kill();
                    drop(user);
                    set.store.clear();
                    let (_, user) = set.mount("deadline=20").await;
                    set.sleep(1000).await;
                    user.fs.finish().await;
                    "e/"
                }
                "refused" => {
                    set.store.rule("copy", "e/z", Act::Deny, 100);
                    user.rename("d", "e", false).await.unwrap_err();
                    set.sleep(60_000).await;
                    user.fs.finish().await;
                    "d/"
                }
                _ => {
                    for key in ["e/big", "e/a"] {
                        set.store.rule("copy", key, Act::Lose, 1);
                    }
                    user.rename("d", "e", false).await.unwrap_or_else(|f| panic!("{note}: {:?}", f.why));
                    user.fs.finish().await;
                    "e/"
                }
            };
            assert_eq!(set.keys(), ["a", "big", "z"].map(|name| format!("{wanted}{name}")), "{note}");
            assert!(set.body(&format!("{wanted}big")).await.unwrap() == big, "{note}");
            assert_eq!(staged(&set.disk), [""; 0], "{note}");
        });
    }
}

/// A rename was cut off, the next mount can't end it, and its user goes on with the old name: a later mount takes nothing of
/// that away and moves nothing.
/// Promise: A directory's rename that fails leaves all of it at its old name.
#[test]
fn a_later_mount_moves_nothing_that_was_made_since() {
    for rule in RULES {
        Set::run(1, rule, move |set| async move {
            for name in ["a", "b", "c"] {
                set.put(&format!("d/{name}"), name.as_bytes()).await;
            }
            let (process, user) = set.mount("deadline=10").await;
            set.store.rule("copy", "e/c", Act::Hang, 100);
            let _moving = set.rename(&user, "d", "e");
            set.store.reached(1).await;
            set.sleep(500).await;
            process.kill();
            drop(user);
            set.store.clear();
            set.store.rule("head", "e/", Act::Deny, 1000);
            set.store.rule("copy", "e/", Act::Deny, 1000);
            let (_, user) = set.mount("deadline=10,metadata_ttl=0,negative_metadata_ttl=0").await;
            set.store.clear();
            for name in ["a", "b"] {
                let _ = user.unlink(&format!("e/{name}")).await;
            }
            user.put("d/new", b"new").await.unwrap();
            user.put("d/a", b"edited").await.unwrap();
            user.forget_all();
            user.fs.finish().await;
            let (_, user) = set.mount("").await;
            set.sleep(60_000).await;
            user.fs.finish().await;
            let keys: Vec<String> = set.keys().into_iter().filter(|key| key.starts_with("d/")).collect();
            assert_eq!(keys, ["d/a", "d/b", "d/c", "d/new"], "{rule:?}");
            assert_eq!(set.body("d/a").await.unwrap(), "edited");
            assert_eq!(set.body("d/new").await.unwrap(), "new");
        });
    }
}

/// A copy that the user made by hand, after a rename had failed, stays: it is nobody's but his own.
/// Promise: A directory's rename that fails leaves all of it at its old name.
#[test]
fn what_was_copied_by_hand_after_a_failed_rename_stays() {
    for (rule, again) in RULES.into_iter().flat_map(|rule| [(rule, false), (rule, true)]) {
        Set::run(1, rule, move |set| async move {
            for name in ["a", "b", "c"] {
                set.put(&format!("d/{name}"), name.as_bytes()).await;
            }
            let (_, user) = set.mount("deadline=5,metadata_ttl=0,negative_metadata_ttl=0").await;
            set.store.rule("copy", "e/c", Act::Deny, 100);
            set.store.rule("delete", "", Act::Deny, 1000);
            user.rename("d", "e", false).await.unwrap_err();
            user.forget_all();
            if user.walk("e").await.is_err() {
                user.mkdir("e").await.unwrap();
            }
            for name in ["a", "b", "c"] {
                user.put(&format!("e/{name}"), name.as_bytes()).await.unwrap();
            }
            user.forget_all();
            if again {
                user.fs.finish().await;
                set.store.clear();
                let (_, user) = set.mount("").await;
                set.sleep(60_000).await;
                user.fs.finish().await;
            } else {
                set.store.clear();
                set.sleep(60_000).await;
                user.fs.finish().await;
            }
            let keys = set.keys().into_iter().filter(|key| key.starts_with("e/") && !key.ends_with('/'));
            assert_eq!(
                keys.collect::<Vec<_>>(),
                ["e/a", "e/b", "e/c"],
                "{rule:?}, by a later mount: {again}"
            );
        });
    }
}

/// Two mounts rename in opposite directions: the file is at one of the two names.
/// Promise: Renaming loses nothing.
#[test]
fn opposite_renames_leave_the_file_at_one_name() {
    for (rule, dir) in RULES.into_iter().flat_map(|rule| [(rule, false), (rule, true)]) {
        Set::run(1, rule, move |set| async move {
            let (from, to, back, names) = match dir {
                false => ("f", "g", ("g", "f"), ["f", "g"]),
                true => ("d", "e", ("e/f", "d/f"), ["d/f", "e/f"]),
            };
            set.put(names[0], b"precious").await;
            if dir {
                set.put("d/z", b"z").await;
            }
            let (_, one) = set.mount("deadline=20,metadata_ttl=0").await;
            let other = set.other().await;
            match dir {
                false => set.store.rule("copy", "g", Act::Late(3000), 1),
                true => set.store.rule("copy", "e/z", Act::Hold(3000), 1),
            }
            let moving = set.rename(&one, from, to);
            set.store.reached(1).await;
            set.sleep(700).await;
            let _ = other.rename(back.0, back.1, false).await;
            let _ = moving.await;
            set.sleep(60_000).await;
            let found = [set.body(names[0]).await, set.body(names[1]).await];
            assert!(found.iter().flatten().any(|is| is == "precious"), "{rule:?} {dir}: {:?}", set.keys());
        });
    }
}

/// Another client changes the mode of an object after it was copied: the copy has it too.
/// Promise: Renaming loses nothing.
#[test]
fn what_others_chmod_while_a_directory_moves_keeps_its_mode() {
    for rule in RULES {
        Set::run(1, rule, move |set| async move {
            for name in ["a", "f", "z"] {
                set.put(&format!("d/{name}"), b"old").await;
            }
            let (_, user) = set.mount("deadline=20,metadata_ttl=0").await;
            let other = set.other().await;
            let ino = other.walk("d/f").await.unwrap();
            set.store.rule("copy", "e/z", Act::Hold(3000), 1);
            let moving = set.rename(&user, "d", "e");
            set.store.reached(1).await;
            set.sleep(1000).await;
            other.fs.setattr(ino, mode(0o600), None).await.unwrap();
            moving.await.unwrap().unwrap();
            let head = set.store.contents().head("e/f", Cause::File).await.unwrap().unwrap();
            assert_eq!(head.attrs.mode().unwrap() & 0o777, 0o600, "{rule:?}");
            assert!(set.keys().iter().all(|key| key.starts_with("e/")));
        });
    }
}

/// rename(2) without replacing finds its own copy when the answer was lost.
#[test]
fn a_rename_that_may_not_replace_is_not_in_its_own_way() {
    for rule in RULES {
        Set::run(1, rule, move |set| async move {
            set.put("f", b"x").await;
            set.put("other", b"y").await;
            let (_, user) = set.mount("deadline=10").await;
            set.store.rule("copy", "g", Act::Lose, 1);
            user.rename("f", "g", true).await.unwrap_or_else(|f| panic!("{rule:?}: {:?}", f.why));
            assert_eq!(set.keys(), ["g", "other"]);
            let taken = user.rename("g", "other", true).await.unwrap_err();
            assert_eq!((taken.errno, set.keys()), (Errno::EXIST, vec!["g".into(), "other".into()]));
        });
    }
}

/// A file that is being written anew is published by its close, and by no rename.
/// Promise: A whole object is never replaced by half of one.
#[test]
fn a_rename_publishes_nothing_that_is_being_written() {
    for (local, how) in ["bucket", "local"].into_iter().flat_map(|l| ["file", "dir", "over"].map(|h| (l, h)))
    {
        Set::run(1, EtagRule::OfBytes, move |set| async move {
            let (process, user) = set.mount(&format!("flush={local}")).await;
            user.mkdir("d").await.unwrap();
            user.put("d/f", b"whole").await.unwrap();
            user.put("d/target", b"target").await.unwrap();
            user.fs.idle().await;
            let path = if how == "over" { "d/fresh" } else { "d/f" };
            let handle = user.open(path, EMPTY, true).await.unwrap();
            user.fs.write(handle, 0, Bytes::from_static(b"half")).await.unwrap();
            let now = match how {
                "file" => {
                    user.rename("d/f", "d/g", false).await.unwrap();
                    "d/g"
                }
                "dir" => {
                    user.rename("d", "e", false).await.unwrap();
                    "e/f"
                }
                _ => {
                    user.rename("d/fresh", "d/target", false).await.unwrap();
                    "d/target"
                }
            };
            let whole = if how == "over" { "target" } else { "whole" };
            assert_eq!(set.body(now).await.unwrap(), whole, "{local} {how}: what others see");
            assert_eq!(user.get(now).await.unwrap(), b"half", "{local} {how}: what is seen here");
            if local == "bucket" {
                user.fs.write(handle, 4, Bytes::from_static(b" and half")).await.unwrap();
                user.close(handle).await.unwrap();
                assert_eq!(set.body(now).await.unwrap(), "half and half");
                return user.fs.finish().await;
            }
            process.kill();
            drop(user);
            let (_, user) = set.mount("").await;
            user.fs.finish().await;
            assert_eq!(set.body(now).await.unwrap(), whole, "{how}: after a kill");
            let beside = set.keys().into_iter().find(|key| key.contains(".unfinished-")).unwrap();
            assert!(beside.starts_with(now), "{beside}");
            assert_eq!(set.body(&beside).await.unwrap(), "half");
        });
    }
}

/// A large file is written on and on while its directory moves: its upload, begun for the old name, is begun anew.
/// Promise: What a process does in a directory that is being renamed is done at the new name.
#[test]
fn a_large_file_that_is_written_while_its_directory_moves_is_whole() {
    Set::run(1, EtagRule::OfParts, |set| async move {
        const MIB: usize = 1 << 20;
        set.put("d/z", b"z").await;
        let (_, user) = set.mount("deadline=20").await;
        let handle = user.open("d/f", EMPTY, true).await.unwrap();
        let more = |at: usize| user.fs.write(handle, (at * MIB) as u64, Bytes::from(vec![at as u8; MIB]));
        for at in 0..30 {
            more(at).await.unwrap();
        }
        set.store.rule("copy", "e/z", Act::Hold(3000), 1);
        let moving = set.rename(&user, "d", "e");
        set.store.reached(1).await;
        for at in 30..40 {
            more(at).await.unwrap();
        }
        moving.await.unwrap().unwrap();
        for at in 40..45 {
            more(at).await.unwrap();
        }
        user.close(handle).await.unwrap();
        set.sleep(10_000).await;
        let want: Vec<u8> = (0..45).flat_map(|at| vec![at as u8; MIB]).collect();
        assert!(set.body("e/f").await.unwrap() == want);
        assert_eq!(set.keys(), ["e/f", "e/z"]);
        assert_eq!(set.store.contents().multipart_list("", Cause::File).await.unwrap(), []);
        user.fs.finish().await;
    });
}

/// A file of which parts have left is emptied.
#[test]
fn a_large_file_that_is_emptied_before_its_close_is_empty() {
    Set::run(1, EtagRule::OfParts, |set| async move {
        let (_, user) = set.mount("").await;
        let handle = user.open("f", EMPTY, true).await.unwrap();
        for at in 0..40u64 {
            user.fs.write(handle, at << 20, Bytes::from(vec![1; 1 << 20])).await.unwrap();
        }
        let ino = user.fs.file(handle).unwrap().ino;
        let empty = Changes { size: Some(0), ..Changes::default() };
        user.fs.setattr(ino, empty, Some(handle)).await.unwrap();
        user.close(handle).await.unwrap();
        set.sleep(10_000).await;
        assert_eq!(set.body("f").await.unwrap(), "");
        assert_eq!(set.store.contents().multipart_list("", Cause::File).await.unwrap(), []);
    });
}

/// A file that was edited in place while its directory moved, and closed, is sent to the new name after a
/// kill. Its object has another etag there.
/// Promise: What was written survives kill -9 and is sent by the next mount.
#[test]
fn what_was_closed_while_its_directory_moved_is_sent_to_the_new_name() {
    for rule in RULES {
        Set::run(1, rule, move |set| async move {
            let big = vec![7; 6 << 20];
            set.put_in_parts("d/big", &big).await;
            set.put("d/z", b"z").await;
            let (process, user) = set.mount("deadline=20,flush=local").await;
            let handle = user.open("d/big", WRITE, false).await.unwrap();
            set.store.rule("copy", "e/z", Act::Hang, 100);
            let _moving = set.rename(&user, "d", "e");
            set.store.reached(1).await;
            set.sleep(1000).await;
            user.fs.write(handle, 0, Bytes::from_static(b"MINE")).await.unwrap();
            user.close(handle).await.unwrap();
            process.kill();
            drop(user);
            set.store.clear();
            let (_, user) = set.mount("").await;
            user.fs.idle().await;
            user.fs.finish().await;
            assert_eq!(set.keys(), ["e/big", "e/z"], "{rule:?}");
            let is = set.body("e/big").await.unwrap();
            assert!(is.starts_with(b"MINE") && is.len() == big.len(), "{rule:?}");
        });
    }
}

/// A directory is renamed, and killed at any moment, by a store with any etags, while another client puts into it: nothing is
/// lost, and all that this rename moved is at one name.
/// Promise: A directory's rename that a crash cut off is finished by the next mount.
#[test]
fn kills_and_others_leave_each_file_at_one_name() {
    for seed in 0..seeds(60) {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        store.contents().etags_are(RULES[seed as usize % 3]);
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let files = disk.clone();
        sim.run(async move {
            let contents = inside.contents().clone();
            for i in 0..30 {
                let body = Bytes::from(format!("is {i}"));
                contents.put(&format!("d/f{i}"), body, When::Always, Cause::File).await.unwrap();
            }
            let process = world.process();
            let user = User::mount(process.rt(), disk.clone(), inside.clone(), "", STAGING).await;
            inside.faults(|f| (f.lost, f.late) = (20, Duration::from_secs(5)));
            let rt = process.rt();
            let inner = user.another();
            rt.spawn(async move { inner.rename("d", "e", false).await }).detach();
            world.rt().sleep(Duration::from_millis(world.below(2500))).await;
            contents.put("d/theirs", Bytes::from_static(b"theirs"), When::Always, Cause::File).await.unwrap();
            world.rt().sleep(Duration::from_millis(world.below(500))).await;
            process.kill();
            drop(user);
            inside.faults(|f| f.lost = 0);
            world.rt().sleep(Duration::from_secs(6)).await;
            let user = User::mount(world.rt(), disk, inside.clone(), "", STAGING).await;
            world.rt().sleep(Duration::from_secs(60)).await;
            user.fs.finish().await;
            for i in 0..30 {
                let mut found = Vec::new();
                for key in [format!("d/f{i}"), format!("e/f{i}")] {
                    found.extend(body(&contents, &key).await);
                }
                assert_eq!(found, [format!("is {i}")], "seed {seed}: f{i}");
            }
            let theirs = [body(&contents, "d/theirs").await, body(&contents, "e/theirs").await];
            assert!(theirs.iter().flatten().count() >= 1, "seed {seed}");
        })
        .unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
        assert_eq!(staged(&files), [""; 0], "seed {seed}");
    }
}

/// A delete whose answer was lost takes nothing that another client put there since.
/// Promise: What was removed stays removed.
#[test]
fn a_delete_in_doubt_takes_nothing_of_others() {
    for (rule, how) in RULES.into_iter().flat_map(|rule| ["rm", "one", "mv", "rmdir"].map(|how| (rule, how)))
    {
        Set::run(1, rule, move |set| async move {
            for i in 0..6 {
                set.put(&format!("d/f{i}"), b"old").await;
            }
            set.put("d/keep", b"kept").await;
            let (_, user) = set.mount("deadline=20").await;
            let other = set.other().await;
            user.list("d", false).await.unwrap();
            user.mkdir("empty").await.unwrap();
            let (key, rest) = match how {
                "rm" => ("d/f4", 6),
                "rmdir" => ("empty/", 0),
                _ => ("d/f0", 1),
            };
            set.store.rule("delete", key, Act::LoseAfter(2000), 1);
            let working = {
                let user = user.another();
                set.world.rt().spawn(async move {
                    match how {
                        "mv" => user.rename("d/f0", "moved", false).await.unwrap(),
                        "rmdir" => user.rmdir("empty").await.unwrap(),
                        _ => {
                            for i in 0..rest {
                                user.unlink(&format!("d/f{i}")).await.unwrap();
                            }
                        }
                    }
                })
            };
            set.store.reached(1).await;
            set.sleep(700).await;
            match how {
                "rmdir" => other.mkdir("empty").await.unwrap(),
                _ => other.put(key, b"new").await.unwrap(),
            }
            working.await.unwrap();
            set.sleep(20_000).await;
            let is = set.body(key).await.unwrap_or_else(|| panic!("{rule:?} {how}: {:?}", set.keys()));
            assert!(how == "rmdir" || is == "new");
            user.fs.finish().await;
        });
    }
}

/// Names that the store refuses to delete show again, fsync of their directory says so, the mount's end counts them, and a file
/// that is written there replaces what could not be removed.
/// Promise: Names that are removed one after another are deleted together.
#[test]
fn removals_that_the_store_refuses_are_told() {
    Set::run(1, EtagRule::OfBytes, |set| async move {
        for i in 0..8 {
            set.put(&format!("d/f{i}"), b"old").await;
        }
        let (_, user) = set.mount("deadline=5").await;
        user.list("d", false).await.unwrap();
        set.store.rule("delete", "d/f", Act::Deny, 1000);
        let dir = user.walk("d").await.unwrap();
        let mut removed = Vec::new();
        for i in 0..8 {
            let name = format!("d/f{i}");
            if user.unlink(&name).await.is_ok() {
                removed.push(name);
            }
        }
        assert_eq!(removed.len(), 6, "the first two are asked for one by one");
        assert_eq!(user.fs.fsync_dir(dir).await.unwrap_err().errno, Errno::IO);
        set.sleep(10_000).await;
        assert_eq!(user.list("d", false).await.unwrap().len(), 8, "they show again");
        user.put("d/f5", b"anew").await.unwrap();
        assert_eq!(set.body("d/f5").await.unwrap(), "anew");
        user.fs.finish().await;
        assert_eq!(user.fs.kept().removals, 5, "but for the one that was replaced");
        assert!(set.keys().iter().all(|key| !key.contains("conflict")));
        drop(user);
        set.store.clear();
        let (_, user) = set.mount("").await;
        set.sleep(5000).await;
        user.fs.finish().await;
        assert_eq!(set.keys(), ["d/f0", "d/f1", "d/f5"], "the next mount goes on with it");
        assert_eq!(staged(&set.disk), [""; 0]);
    });
}

/// Names that are removed and written anew while the store hangs have the new contents after a kill, with
/// flush=local.
/// Promise: With `flush=local`, close returns when this host has the bytes.
#[test]
fn what_was_removed_and_written_anew_is_what_was_written() {
    for (rule, kill) in RULES.into_iter().flat_map(|rule| [(rule, false), (rule, true)]) {
        Set::run(1, rule, move |set| async move {
            for i in 0..6 {
                set.put(&format!("d/f{i}"), b"old").await;
            }
            let (process, user) = set.mount("deadline=20,flush=local").await;
            user.list("d", false).await.unwrap();
            set.store.rule("delete", "d/f3", Act::Hang, 1000);
            for i in 0..6 {
                user.unlink(&format!("d/f{i}")).await.unwrap();
            }
            for i in 2..6 {
                user.put(&format!("d/f{i}"), b"new").await.unwrap();
            }
            if kill {
                process.kill();
                drop(user);
                set.store.clear();
                let (_, user) = set.mount("").await;
                user.fs.idle().await;
                user.fs.finish().await;
            } else {
                set.sleep(90_000).await;
                set.store.clear();
                set.sleep(200_000).await;
                user.fs.finish().await;
            }
            assert_eq!(set.keys(), ["d/f2", "d/f3", "d/f4", "d/f5"], "{rule:?} {kill}");
            for i in 2..6 {
                assert_eq!(set.body(&format!("d/f{i}")).await.unwrap(), "new", "{rule:?} {kill}");
            }
            assert_eq!(staged(&set.disk), [""; 0], "{rule:?} {kill}");
        });
    }
}

/// Unmounting waits once for a store that hangs, however many names were removed, and says what is left.
/// Promise: Names that are removed one after another are deleted together.
#[test]
fn the_end_of_a_mount_waits_once_for_a_store_that_deletes_nothing() {
    Set::run(1, EtagRule::OfBytes, |set| async move {
        const NAMES: usize = 6000;
        for i in 0..NAMES {
            set.put(&format!("d/f{i:04}"), b"x").await;
        }
        let (_, user) = set.mount("metadata_ttl=600").await;
        user.list("d", false).await.unwrap();
        for i in 0..2 {
            user.unlink(&format!("d/f{i:04}")).await.unwrap();
        }
        set.store.rule("delete", "", Act::Hang, 1_000_000);
        for i in 2..NAMES {
            user.unlink(&format!("d/f{i:04}")).await.unwrap();
        }
        let began = set.world.rt().now();
        user.forget_all();
        user.fs.finish().await;
        let took = set.world.rt().now().since(began);
        assert!(took < Duration::from_secs(100), "{took:?}");
        assert_eq!(user.fs.kept().removals as usize, NAMES - 2);
        drop(user);
        set.store.clear();
        let (_, user) = set.mount("").await;
        user.fs.finish().await;
        assert_eq!(set.keys(), [""; 0]);
    });
}

/// An object `d/` of bytes is a file in d: no rmdir, no rename over d and no chmod of d touches it.
/// Promise: Every object has exactly one name.
#[test]
fn an_object_of_bytes_whose_key_ends_in_a_slash_is_no_marker() {
    Set::run(1, EtagRule::OfBytes, |set| async move {
        set.put("d/", b"<html>").await;
        set.put("e/x", b"x").await;
        let (_, user) = set.mount("metadata_ttl=0").await;
        assert_eq!(user.rmdir("d").await.unwrap_err().errno, Errno::NOTEMPTY);
        assert_eq!(user.rename("e", "d", false).await.unwrap_err().errno, Errno::NOTEMPTY);
        let ino = user.walk("d").await.unwrap();
        assert_eq!(user.fs.setattr(ino, mode(0o700), None).await.unwrap_err().errno, Errno::OPNOTSUPP);
        assert_eq!(set.body("d/").await.unwrap(), "<html>");
        user.rename("d", "moved", false).await.unwrap();
        assert_eq!(set.keys(), ["e/x", "moved/"]);
        assert_eq!(user.get("moved/%~").await.unwrap(), b"<html>");
    });
}

/// The directory that shows the rest of a long name is removed, and the file whose key it begins with stays.
/// Promise: Every object has exactly one name.
#[test]
fn a_short_name_that_a_longer_one_begins_with_is_in_no_piece() {
    for len in [250, 251, 252] {
        Set::run(1, EtagRule::OfBytes, move |set| async move {
            let (short, long) = ("n".repeat(len), "n".repeat(300));
            set.put(&short, b"precious").await;
            set.put(&long, b"x").await;
            let (_, user) = set.mount("metadata_ttl=0,negative_metadata_ttl=0").await;
            let items = user.list("", false).await.unwrap();
            let piece = items.iter().find(|item| item.dir).unwrap();
            let piece = String::from_utf8(piece.name.clone()).unwrap();
            assert_eq!(user.rmdir(&piece).await.unwrap_err().errno, Errno::NOTEMPTY);
            for item in user.list(&piece, false).await.unwrap() {
                user.unlink(&format!("{piece}/{}", String::from_utf8(item.name).unwrap())).await.unwrap();
            }
            let gone = user.rmdir(&piece).await;
            assert!(gone.is_ok() || gone.unwrap_err().errno == Errno::NOENT);
            assert_eq!((set.keys(), set.body(&short).await.unwrap()), (vec![short], "precious".into()));
        });
    }
}

/// Nothing can be made of an empty key.
#[test]
fn the_empty_name_of_the_root_is_refused() {
    Set::run(1, EtagRule::OfBytes, |set| async move {
        set.put("d/x", b"x").await;
        let (_, user) = set.mount("").await;
        assert_eq!(user.put("%~", b"n").await.unwrap_err().errno, Errno::INVAL);
        assert_eq!(user.unlink("%~").await.unwrap_err().errno, Errno::NOENT);
        assert_eq!(user.mkdir("%~").await.unwrap_err().errno, Errno::INVAL);
        user.put("d/%~", b"n").await.unwrap();
        user.unlink("d/%~").await.unwrap();
        assert_eq!(set.keys(), ["d/x"]);
    });
}

/// A reader goes back to a place that it was told, after names before it were removed: it finds all that follow.
/// Promise: A name that stays while its directory is listed is listed once, whatever changes beside it.
#[test]
fn who_seeks_back_finds_the_names_behind_the_place() {
    Set::run(1, EtagRule::OfBytes, |set| async move {
        for i in 0..3000 {
            set.put(&format!("d/f{i:04}"), b"x").await;
        }
        let (_, user) = set.mount("").await;
        let dir = user.walk("d").await.unwrap();
        let handle = user.fs.opendir(dir).unwrap();
        let rest = async |mut cookie: u64| {
            let mut names = Vec::new();
            loop {
                let items = user.fs.readdir(handle, cookie, false).await.unwrap();
                let Some(last) = items.last() else { return names };
                cookie = last.cookie;
                names.extend(items.into_iter().map(|item| (item.cookie, item.name)));
            }
        };
        let all = rest(0).await;
        assert_eq!(all.len(), 3000);
        for i in (0..100).chain(1600..1700) {
            user.unlink(&format!("d/f{i:04}")).await.unwrap();
        }
        user.fs.fsync_dir(dir).await.unwrap();
        set.put("d/f0050new", b"x").await;
        for place in [1500, 1650, 10, 2999] {
            let stay = |(_, name): &&(u64, Vec<u8>)| {
                set.keys().contains(&format!("d/{}", String::from_utf8(name.clone()).unwrap()))
            };
            let want: Vec<_> = all.iter().skip(place).filter(stay).cloned().collect();
            let found = rest(place as u64).await;
            let news = found.iter().filter(|(_, name)| name == b"f0050new").count();
            assert!(news <= 1);
            let found: Vec<_> = found.into_iter().filter(|(_, name)| name != b"f0050new").collect();
            assert_eq!(found, want, "from {place}");
        }
        user.fs.releasedir(handle);
    });
}

/// Files and directories that are made in a directory with the setgid bit belong to its group, and
/// directories have the bit.
#[test]
fn what_is_made_in_a_setgid_directory_has_its_group() {
    Set::run(1, EtagRule::OfBytes, |set| async move {
        let (_, user) = set.mount("").await;
        user.mkdir("d").await.unwrap();
        let dir = user.walk("d").await.unwrap();
        let changes = Changes { mode: Some(0o2775), gid: Some(77), ..Changes::default() };
        user.fs.setattr(dir, changes, None).await.unwrap();
        user.put("d/f", b"x").await.unwrap();
        user.mkdir("d/sub").await.unwrap();
        user.put("d/sub/g", b"x").await.unwrap();
        for (path, bits) in [("d/f", 0o644), ("d/sub", 0o2755), ("d/sub/g", 0o644)] {
            let entry = user.stat(path).await.unwrap();
            assert_eq!((entry.attributes.gid, entry.attributes.mode & 0o7777), (77, bits), "{path}");
        }
    });
}

/// A file that is larger than what is fetched at once is unlinked, or replaced, while it is open: its handle reads on.
/// Promise: What was removed stays removed.
#[test]
fn an_open_file_without_a_name_is_read_on_whatever_its_size() {
    for replaced in [false, true] {
        Set::run(1, EtagRule::OfBytes, move |set| async move {
            let large: Vec<u8> = (0..70u32 << 20).map(|i| (i >> 12) as u8).collect();
            set.put("f", &large).await;
            set.put("g", b"other").await;
            let (_, user) = set.mount("").await;
            let handle = user.open("f", READ, false).await.unwrap();
            match replaced {
                true => user.rename("g", "f", false).await.unwrap(),
                false => user.unlink("f").await.unwrap(),
            }
            for at in [0, 33 << 20, (70 << 20) - 4096] {
                let is = user.read(handle, at, 4096).await.unwrap();
                assert!(is == large[at as usize..at as usize + 4096], "at {at}");
            }
            user.close(handle).await.unwrap();
            user.fs.finish().await;
            assert_eq!(staged(&set.disk), [""; 0]);
        });
    }
}

/// A directory's handle lists the directory, also after it was renamed.
#[test]
fn an_open_directory_is_listed_under_its_new_name() {
    Set::run(1, EtagRule::OfBytes, |set| async move {
        for i in 0..2000 {
            set.put(&format!("d/f{i:04}"), b"x").await;
        }
        let (_, user) = set.mount("").await;
        let handle = user.fs.opendir(user.walk("d").await.unwrap()).unwrap();
        let first = user.fs.readdir(handle, 0, false).await.unwrap();
        user.rename("d", "e", false).await.unwrap();
        let (mut names, mut cookie) = (first.len(), first.last().unwrap().cookie);
        loop {
            let items = user.fs.readdir(handle, cookie, false).await.unwrap();
            let Some(last) = items.last() else { break };
            assert!(last.key.starts_with("e/"));
            (names, cookie) = (names + items.len(), last.cookie);
        }
        assert_eq!(names, 2000);
        user.fs.releasedir(handle);
    });
}

/// A rename of a store that gives no answer fails, and calls in its directory go on then.
#[test]
fn a_rename_that_hangs_holds_nobody_for_ever() {
    let sim = Sim::new(3);
    let store = SimStore::new(&sim, "s");
    let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
    sim.run(async move {
        let options = "deadline=10,flush=local,metadata_ttl=600";
        let user = User::mount(world.rt(), disk, inside.clone(), options, STAGING).await;
        user.mkdir("d").await.unwrap();
        for name in ["a", "b"] {
            user.put(&format!("d/{name}"), name.as_bytes()).await.unwrap();
        }
        user.fs.idle().await;
        let here = InDir { user: user.clone(), dir: user.walk("d").await.unwrap() };
        inside.faults(|f| f.reach = Reach::Silent);
        let moving = {
            let user = user.another();
            world.rt().spawn(async move { user.rename("d", "e", false).await })
        };
        world.rt().sleep(Duration::from_millis(10)).await;
        let began = world.rt().now();
        let made = here.make("new", b"new").boxed().await;
        assert!(world.rt().now().since(began) < Duration::from_secs(80));
        moving.await.unwrap().unwrap_err();
        inside.faults(|f| f.reach = Reach::Up);
        if made.is_err() {
            here.make("new", b"new").await.unwrap();
        }
        world.rt().sleep(Duration::from_secs(120)).await;
        user.fs.idle().await;
        assert_eq!(body(inside.contents(), "d/new").await.unwrap(), "new");
        assert_eq!(inside.contents().keys(), ["d/", "d/a", "d/b", "d/new"]);
        user.fs.finish().await;
    })
    .unwrap();
}

/// Another client changes mode and owner of an object while it is open for writing here: content, and so the etag, is the
/// same. The close keeps what was set there, and what was set here.
/// Promise: An update made elsewhere is never overwritten.
#[test]
fn what_others_chmod_while_a_file_is_written_keeps_its_mode() {
    for (local, how) in
        ["bucket", "local"].into_iter().flat_map(|l| ["append", "anew", "chown"].map(|h| (l, h)))
    {
        Set::run(1, EtagRule::OfBytes, move |set| async move {
            let (_, user) = set.mount(&format!("flush={local}")).await;
            let other = set.other().await;
            user.put("f", b"secret\n").await.unwrap();
            user.fs.idle().await;
            let how_opened = if how == "anew" { EMPTY } else { WRITE };
            let handle = user.open("f", how_opened, false).await.unwrap();
            user.fs.write(handle, 0, Bytes::from_static(b"more")).await.unwrap();
            if how == "chown" {
                let ino = user.fs.file(handle).unwrap().ino;
                let changes = Changes { gid: Some(5), ..Changes::default() };
                user.fs.setattr(ino, changes, Some(handle)).await.unwrap();
            }
            let ino = other.walk("f").await.unwrap();
            other.fs.setattr(ino, mode(0o600), None).await.unwrap();
            user.close(handle).await.unwrap();
            user.fs.idle().await;
            let head = set.store.contents().head("f", Cause::File).await.unwrap().unwrap();
            assert_eq!(head.attrs.mode().unwrap() & 0o777, 0o600, "{local} {how}");
            assert_eq!(head.attrs.id("gid"), Some(if how == "chown" { 5 } else { 1000 }));
            assert!(set.body("f").await.unwrap().starts_with(b"more"));
            user.fs.finish().await;
        });
    }
}

/// A put that was sent again arrives late, when its name was removed or moved away: it does not stay.
#[test]
fn a_put_that_comes_after_its_name_was_removed_goes_again() {
    for how in ["removed", "moved"] {
        Set::run(1, EtagRule::OfBytes, move |set| async move {
            let (_, user) = set.mount("deadline=5").await;
            set.store.rule("put", "f", Act::CutAndCome(14_000), 1);
            user.put("f", b"on").await.unwrap();
            match how {
                "removed" => user.unlink("f").await.unwrap(),
                _ => user.rename("f", "g", false).await.unwrap(),
            }
            set.sleep(20_000).await;
            let wanted: &[&str] = if how == "removed" { &[] } else { &["g"] };
            assert_eq!(set.keys(), wanted);
        });
    }
}
