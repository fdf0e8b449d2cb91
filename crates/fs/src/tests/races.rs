//! One mount, many processes: whoever looks at a name while another changes it sees what it was before or what it is
//! after, never anything else; and nothing stays behind on this host.
//!
//! A writer owns its names and notes every state that it gives them, before and after each call. A watcher's answer
//! must be one of the states between the last one that was reached when it asked and the latest one that was begun
//! when it was answered. What the kernel is told to believe for a while must be so at that moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::faults::{body, staged};
use super::user::{READ, STAGING, User, WRITE};
use crate::object::{Attributes, Errno, Ns, Op, S_IFMT};
use crate::ops::{Changes, Entry};
use crate::tree::{OpenMode, ROOT};
use windlass_base::rt::sim::{Sim, SimDisk, World};
use windlass_store::{Cause, SimStore, Store as _, When};

const DIR: &str = "d";

/// A file as its owner made it: so many bytes of this value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    /// Which file it is.
    file: u8,
    size: u64,
    value: u8,
    mode: u32,
}

#[derive(Default)]
struct History {
    states: Vec<Option<State>>,
    /// The last one that was reached.
    reached: usize,
    /// The times that a state showed, and which state that was.
    times: Option<(usize, Ns, Ns)>,
}

/// States of every name, past and present, as far as its owner knows.
#[derive(Clone, Default)]
struct Truth(Arc<Mutex<BTreeMap<String, History>>>);

/// The states that a name may show.
#[derive(Debug)]
struct Seen {
    path: String,
    states: Vec<Option<State>>,
}

impl Truth {
    fn with<T>(&self, path: &str, act: impl FnOnce(&mut History) -> T) -> T {
        let mut all = self.0.lock();
        act(all
            .entry(path.to_owned())
            .or_insert_with(|| History { states: vec![None], ..History::default() }))
    }

    fn begin(&self, path: &str, state: Option<State>) {
        self.with(path, |h| h.states.push(state));
    }

    fn reached(&self, path: &str) {
        self.with(path, |h| h.reached = h.states.len() - 1);
    }

    fn now(&self, path: &str) -> Option<State> {
        self.with(path, |h| h.states[h.reached])
    }

    fn mark(&self, path: &str) -> usize {
        self.with(path, |h| h.reached)
    }

    /// Checks that a file that stays as it is keeps its times.
    fn times(&self, path: &str, mark: usize, attributes: &Attributes) {
        let (mtime, ctime) = (attributes.mtime, attributes.ctime);
        self.with(path, |h| match h.times {
            _ if h.states.len() != mark + 1 => {}
            Some((at, m, c)) if at == mark => {
                assert!(
                    (m, c) == (mtime, ctime),
                    "{path}: its times change by themselves: {m:?} {c:?} {attributes:?}"
                )
            }
            _ => h.times = Some((mark, mtime, ctime)),
        });
    }

    /// Returns the states of a file that had the name, under whatever name it has now.
    fn followed(&self, marks: &BTreeMap<String, usize>, path: &str) -> Seen {
        let mut seen = self.since(path, marks[path]);
        let files: Vec<u8> = seen.states.iter().flatten().map(|s| s.file).collect();
        for (other, mark) in marks.iter().filter(|(other, _)| *other != path) {
            let states = self.since(other, *mark).states;
            seen.states.extend(states.into_iter().flatten().filter(|s| files.contains(&s.file)).map(Some));
        }
        seen
    }

    fn since(&self, path: &str, mark: usize) -> Seen {
        Seen { path: path.to_owned(), states: self.with(path, |h| h.states[mark..].to_vec()) }
    }
}

impl Seen {
    fn is(&self, what: &str, found: Option<(u64, u32)>) {
        let fits = self.states.iter().any(|s| s.map(|s| (s.size, s.mode)) == found);
        assert!(fits, "{what} {}: {found:?} was seen (size, mode), but it was {:?}", self.path, self.states);
    }

    fn holds(&self, bytes: &[u8]) {
        let sizes = self.states.iter().flatten().any(|s| s.size == bytes.len() as u64);
        let values = bytes.iter().all(|b| self.states.iter().flatten().any(|s| s.value == *b));
        let found = (bytes.len(), bytes.first());
        assert!(sizes && values, "read {}: {found:?} (size, byte), but it was {:?}", self.path, self.states);
    }

    /// The name stood for different files meanwhile; the kernel asks anew then.
    fn moved(&self) -> bool {
        let file = |s: &Option<State>| s.map(|s| s.file);
        self.states.iter().any(|s| s.is_none() || file(s) != file(&self.states[0]))
    }
}

fn shown(entry: &Entry) -> (u64, u32) {
    (entry.attributes.size, entry.attributes.mode & !S_IFMT)
}

struct Writer {
    world: World,
    user: User,
    truth: Truth,
    names: [String; 2],
    count: u8,
}

impl Writer {
    /// Does what makes the names so.
    async fn change<T>(&self, to: &[(&str, Option<State>)], act: impl Future<Output = Op<T>>) -> T {
        for (path, state) in to {
            self.truth.begin(path, *state);
        }
        let done = act.await.unwrap_or_else(|f| panic!("{to:?}: {f:?}"));
        for (path, _) in to {
            self.truth.reached(path);
        }
        done
    }

    async fn put(&mut self, path: &str) {
        let (user, was) = (self.user.clone(), self.truth.now(path));
        let mode = was.map_or(0o644, |s| s.mode);
        self.count = self.count % 200 + 1;
        let file = was.map_or(self.count, |s| s.file);
        let empty = State { file, size: 0, value: 0, mode };
        let (parent, name) = user.above(path).await.unwrap();
        let handle = if was.is_none() {
            let create = user.fs.create(parent, name, 0o644, super::user::ME, WRITE);
            let (entry, opened) = self.change(&[(path, Some(empty))], create).await;
            user.fs.forget(entry.ino, 1);
            opened.handle
        } else {
            self.change(&[(path, Some(empty))], user.open(path, OpenMode { truncate: true, ..WRITE }, false))
                .await
        };
        let state = State { size: 1 + self.world.below(3000), value: self.count, ..empty };
        let bytes = Bytes::from(vec![state.value; state.size as usize]);
        self.change(&[(path, Some(state))], user.fs.write(handle, 0, bytes)).await;
        self.pause().await;
        if self.world.below(4) == 0 {
            user.fs.fsync(handle).await.unwrap();
        }
        let state = State { size: state.size + 1 + self.world.below(500), ..state };
        let bytes = Bytes::from(vec![state.value; state.size as usize]);
        self.change(&[(path, Some(state))], user.fs.write(handle, 0, bytes)).await;
        user.close(handle).await.unwrap();
    }

    async fn chmod(&self, path: &str, was: State) {
        let state = State { mode: 0o600 + self.world.below(64) as u32, ..was };
        let ino = self.user.walk(path).await.unwrap();
        let changes = Changes { mode: Some(state.mode), ..Changes::default() };
        self.change(&[(path, Some(state))], self.user.fs.setattr(ino, changes, None)).await;
    }

    async fn pause(&self) {
        if self.world.below(3) == 0 {
            self.world.rt().sleep(Duration::from_millis(self.world.below(60))).await;
        }
    }

    async fn step(&mut self) {
        let which = self.world.below(2) as usize;
        let [path, other] = [which, 1 - which].map(|i| self.names[i].clone());
        match (self.truth.now(&path), self.world.below(6)) {
            (Some(was), 0) => self.chmod(&path, was).await,
            (Some(_), 1) => {
                let (user, to) = (self.user.clone(), [(&*path, None)]);
                self.change(&to, user.unlink(&path)).await;
            }
            (Some(was), 2) => {
                let (user, to) = (self.user.clone(), [(&*path, None), (&*other, Some(was))]);
                self.change(&to, user.rename(&path, &other, false)).await;
            }
            _ => self.put(&path).await,
        }
        self.pause().await;
        self.user.forget_all();
    }
}

async fn watch_one(user: &User, truth: &Truth, paths: &[String], world: &World) {
    let path = &*paths[world.below(paths.len() as u64) as usize];
    let marks: BTreeMap<String, usize> = paths.iter().map(|p| (p.clone(), truth.mark(p))).collect();
    let mark = marks[path];
    if world.below(2) == 0 {
        let found = user.stat(path).await;
        let seen = truth.since(path, mark);
        match found {
            Ok(entry) => {
                truth.followed(&marks, path).is("stat", Some(shown(&entry)));
                truth.times(path, mark, &entry.attributes);
            }
            Err(f) if f.errno == Errno::NOENT => seen.is("stat", None),
            Err(f) => assert!(f.errno == Errno::STALE && seen.moved(), "stat {path}: {f:?} {seen:?}"),
        }
        return;
    }
    let handle = match user.open(path, READ, false).await {
        Ok(handle) => handle,
        Err(f) => {
            let seen = truth.since(path, mark);
            assert!(matches!(f.errno, Errno::NOENT | Errno::STALE) && seen.moved(), "{path}: {f:?} {seen:?}");
            return;
        }
    };
    let bytes = user.read(handle, 0, 10_000).await;
    let seen = truth.followed(&marks, path);
    match bytes {
        Ok(bytes) => seen.holds(&bytes),
        // A name that went while it was opened.
        Err(f) => assert!(seen.moved(), "read {path}: {f:?} {seen:?}"),
    }
    user.close(handle).await.unwrap();
}

async fn watch_all(user: &User, truth: &Truth, paths: &[String]) {
    let ino = user.walk(DIR).await.unwrap();
    let marks: Vec<usize> = paths.iter().map(|path| truth.mark(path)).collect();
    let handle = user.fs.opendir(ino).unwrap();
    let (mut at, mut found) = (0, BTreeMap::new());
    loop {
        let items = user.fs.readdir(handle, at, true).await.unwrap();
        if items.is_empty() {
            break;
        }
        at += items.len() as u64;
        for item in items {
            let path = format!("{DIR}/{}", String::from_utf8(item.name.clone()).unwrap());
            // Changed here since it was listed, and forgotten: the name is told, and to believe nothing of it.
            let current = {
                let inodes = user.fs.inodes.lock();
                let holds = item.seq.is_some_and(|seq| user.fs.name_cache.is_current(&item.key, seq));
                holds || inodes.at(&item.key, false).is_some()
            };
            let entry = user.fs.adopt_item(&item);
            if !entry.ttl.is_zero() {
                truth
                    .since(&path, truth.mark(&path))
                    .is("the kernel is told to believe of", Some(shown(&entry)));
            }
            user.fs.forget(entry.ino, 1);
            found.insert(path, (current || !entry.ttl.is_zero()).then(|| shown(&entry)));
        }
    }
    user.fs.releasedir(handle);
    for (path, mark) in paths.iter().zip(marks) {
        let seen = truth.since(path, mark);
        match found.get(path) {
            // The name alone.
            Some(None) => assert!(seen.states.iter().any(Option::is_some), "{path} is not there: {seen:?}"),
            found => seen.is("list", found.copied().flatten()),
        }
    }
}

async fn race(world: World, store: Arc<SimStore>, disk: Arc<SimDisk>, options: &'static str) {
    let user = User::mount(world.rt(), disk, store.clone(), options, STAGING).await;
    user.mkdir(DIR).await.unwrap();
    user.forget_all();
    let truth = Truth::default();
    let mut paths = Vec::new();
    let mut tasks = Vec::new();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for i in 0..2 {
        let names = [format!("{DIR}/a{i}"), format!("{DIR}/b{i}")];
        paths.extend(names.clone());
        let (world, user, truth) = (world.clone(), user.another(), truth.clone());
        let mut writer = Writer { world: world.clone(), user, truth, names, count: 0 };
        tasks.push(world.rt().spawn(async move {
            for _ in 0..40 {
                writer.step().await;
            }
        }));
    }
    let mut watchers = Vec::new();
    for i in 0..3 {
        let (world, user, truth) = (world.clone(), user.another(), truth.clone());
        let (paths, over) = (paths.clone(), over.clone());
        watchers.push(world.rt().spawn(async move {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                match i {
                    0 => watch_all(&user, &truth, &paths).await,
                    _ => watch_one(&user, &truth, &paths, &world).await,
                }
                world.rt().sleep(Duration::from_millis(world.below(20))).await;
                user.forget_all();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    for watcher in watchers {
        watcher.await.unwrap();
    }
    user.fs.finish().await;
    for path in &paths {
        let want = truth.now(path).map(|s| vec![s.value; s.size as usize]);
        let have = body(store.contents(), path).await.map(|b| b.to_vec());
        assert!(have == want, "{path}: {:?} is in the bucket", have.map(|b| (b.len(), b.first().copied())));
    }
    assert_eq!(user.fs.nodes(), 1, "{ROOT} alone is known in the end");
}

/// Promise: Who looks at a file while another process here changes it sees it before or after.
#[test]
fn who_looks_sees_before_or_after() {
    for seed in 0..super::model::seeds(60) {
        let options = ["flush=local", "", "flush=local,metadata_ttl=0"][seed as usize % 3];
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let files = disk.clone();
        sim.run(race(world, inside, disk, options)).unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
        assert_eq!(staged(&files), [""; 0], "seed {seed}");
        assert!(
            store.contents().keys().iter().all(|k| !k.contains("conflict")),
            "seed {seed}: a conflict with itself"
        );
    }
}

/// A file is read and closed while another is renamed onto it, or while its name is removed: what was fetched for its
/// readers does not stay.
/// Promise: Who looks at a file while another process here changes it sees it before or after.
#[test]
fn a_name_that_goes_leaves_nothing_staged() {
    for delay in 0..120 {
        let sim = Sim::new(delay);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let files = disk.clone();
        sim.run(async move {
            let user = User::mount(world.rt(), disk, inside, "", STAGING).await;
            user.put("f", &[1; 9000]).await.unwrap();
            user.put("g", &[2; 9000]).await.unwrap();
            let handle = user.open("f", READ, false).await.unwrap();
            let going = {
                let user = user.clone();
                world.rt().spawn(async move {
                    match delay % 2 {
                        0 => user.rename("g", "f", false).await,
                        _ => user.unlink("f").await,
                    }
                })
            };
            world.rt().sleep(Duration::from_millis(delay)).await;
            user.close(handle).await.unwrap();
            going.await.unwrap().unwrap();
            user.fs.finish().await;
        })
        .unwrap();
        assert_eq!(staged(&files), [""; 0], "closed after {delay} ms");
    }
}

/// A file is removed as one of many while its upload is under way: what arrives goes too, and the next file of that name meets
/// nothing.
/// Promise: What was removed stays removed.
#[test]
fn what_arrives_while_its_name_is_removed_goes_too() {
    for delay in 0..150 {
        let sim = Sim::new(delay);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        sim.run(async move {
            let user = User::mount(world.rt(), disk, inside, "flush=local", STAGING).await;
            user.mkdir("d").await.unwrap();
            for name in ["d/a", "d/b", "d/f", "d/g"] {
                user.put(name, &[1; 500]).await.unwrap();
            }
            world.rt().sleep(Duration::from_secs(30)).await;
            for name in ["d/f", "d/g"] {
                user.put(name, &[2; 600]).await.unwrap();
            }
            world.rt().sleep(Duration::from_millis(delay)).await;
            for name in ["d/a", "d/b", "d/f", "d/g"] {
                user.unlink(name).await.unwrap();
            }
            user.put("d/f", &[3; 700]).await.unwrap();
            user.fs.finish().await;
        })
        .unwrap();
        assert_eq!(store.contents().keys(), ["d/", "d/f"], "removed {delay} ms after the close");
        let is = futures::executor::block_on(body(store.contents(), "d/f")).unwrap();
        assert_eq!(is, vec![3; 700], "removed {delay} ms after the close");
    }
}

/// A file is written and closed while its directory is renamed: it is at the new name as it was written.
/// Promise: Who looks at a file while another process here changes it sees it before or after.
#[test]
fn what_is_written_while_its_directory_moves_is_not_lost() {
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        sim.run(async move {
            let user = User::mount(world.rt(), disk, inside, "", STAGING).await;
            user.mkdir("d").await.unwrap();
            for n in 0..5 {
                user.put(&format!("d/f{n}"), &[1; 100]).await.unwrap();
            }
            let moving = {
                let user = user.clone();
                world.rt().spawn(async move { user.rename("d", "e", false).await })
            };
            world.rt().sleep(Duration::from_millis(seed)).await;
            let written = user.put("d/f3", &[2; 200]).await;
            moving.await.unwrap().unwrap();
            user.fs.finish().await;
            let user = User::simulated(&world, store, "").await;
            let (old, new) = (user.get("d/f3").await, user.get("e/f3").await);
            let lengths = [&old, &new].map(|is| is.as_ref().ok().map(|is| is.len()));
            assert!(old.is_err(), "written {seed} ms after the rename began: {lengths:?} {written:?}");
            assert!(new.unwrap() == [2; 200] || written.is_err(), "written {seed} ms after the rename began");
        })
        .unwrap();
    }
}

/// Another client changes a file or makes one while its directory is renamed: it is at the new name, or stays.
/// Promise: A directory's rename that a crash cut off is finished by the next mount.
#[test]
fn what_others_put_while_a_directory_moves_is_not_lost() {
    let mut moved = 0;
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let key = if seed % 2 == 0 { "d/f3" } else { "d/g" };
        sim.run(async move {
            let user = User::mount(world.rt(), disk, inside.clone(), "", STAGING).await;
            user.mkdir("d").await.unwrap();
            for n in 0..5 {
                user.put(&format!("d/f{n}"), &[1; 100]).await.unwrap();
            }
            let moving = {
                let user = user.clone();
                world.rt().spawn(async move { user.rename("d", "e", false).await })
            };
            world.rt().sleep(Duration::from_millis(seed)).await;
            let theirs = Bytes::from_static(b"theirs");
            inside.contents().put(key, theirs, When::Always, Cause::File).await.unwrap();
            moving.await.unwrap().unwrap();
            user.fs.finish().await;
        })
        .unwrap();
        let at = |key: &str| futures::executor::block_on(body(store.contents(), key));
        let (old, new) = (at(key), at(&key.replace("d/", "e/")));
        let theirs = |body: &Option<Bytes>| body.as_ref().is_some_and(|body| body == "theirs");
        assert!(theirs(&old) || theirs(&new), "{key} was put {seed} ms after the rename began");
        moved += u32::from(theirs(&new));
    }
    assert!((20..180).contains(&moved), "{moved} were moved: the moments are no test");
}

/// A directory that has an open file is renamed while another of its files is renamed onto that one.
#[test]
fn renames_of_a_directory_and_within_it_do_not_wait_for_each_other() {
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, disk) = (sim.clone(), Arc::new(SimDisk::new(&sim)));
        sim.run(async move {
            let user = User::mount(world.rt(), disk, store, "", STAGING).await;
            user.mkdir("d").await.unwrap();
            for n in 0..3 {
                user.put(&format!("d/f{n}"), &[n; 100]).await.unwrap();
            }
            let handle = user.open("d/f2", WRITE, false).await.unwrap();
            let moving = {
                let user = user.clone();
                world.rt().spawn(async move { user.rename("d", "e", false).await })
            };
            world.rt().sleep(Duration::from_millis(seed)).await;
            // Whether it comes before, after or too late: it ends.
            let _ = user.rename("d/f0", "d/f2", false).await;
            let _ = moving.await.unwrap();
            user.close(handle).await.ok();
            user.fs.finish().await;
        })
        .unwrap();
    }
}

/// A file that was stored and whose bytes are still staged is written to while a change of its mode meets another
/// client's object.
#[test]
fn a_write_beside_a_chmod_that_meets_anothers_object_is_not_lost() {
    let mut met = 0;
    for seed in 0..300 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        met += sim
            .run(async move {
                let user = User::mount(world.rt(), disk, inside.clone(), "", STAGING).await;
                let handle = user.open("f", WRITE, true).await.unwrap();
                user.fs.write(handle, 0, vec![1; 5000].into()).await.unwrap();
                user.fs.fsync(handle).await.unwrap();
                let other = Arc::new(SimDisk::new(&world));
                let other = User::mount(world.rt(), other, inside.clone(), "", STAGING).await;
                other.put("f", &[3; 5000]).await.unwrap();
                let ino = user.fs.file(handle).unwrap().ino;
                let mode = Changes { mode: Some(0o600), ..Changes::default() };
                let fs = user.fs.clone();
                let changing = world.rt().spawn(async move { fs.setattr(ino, mode, None).await });
                world.rt().sleep(Duration::from_micros(world.below(250_000))).await;
                user.fs.write(handle, 1000, vec![2; 1000].into()).await.unwrap();
                let seen = user.fs.read(handle, 0, 5000).await.unwrap();
                let is = |bytes: &[u8], around| {
                    bytes[1000..2000] == [2; 1000]
                        && bytes[..1000] == [around; 1000]
                        && bytes[2000..] == [around; 3000]
                };
                assert!(
                    is(&seen, 1) || is(&seen, 3),
                    "seed {seed}: {:?}",
                    seen.chunk_by(|a, b| a == b).map(|c| c[0]).collect::<Vec<_>>()
                );
                let _ = changing.await.unwrap();
                let closed = user.close(handle).await;
                user.fs.finish().await;
                let stored = body(inside.contents(), "f").await.unwrap();
                assert!(if closed.is_ok() { is(&stored, 3) } else { stored == vec![3; 5000] }, "seed {seed}");
                u32::from(closed.is_ok())
            })
            .unwrap();
    }
    assert!((10..290).contains(&met), "{met} writes came after the change: the moments are no test");
}

/// An append beside a chmod that meets another client's object ends up behind that client's bytes, or is
/// refused.
#[test]
fn an_append_beside_a_chmod_that_meets_anothers_object_is_behind_its_end() {
    for seed in 0..300 {
        let sim = Sim::new(seed);
        let store = SimStore::new(&sim, "s");
        let (world, inside, disk) = (sim.clone(), store.clone(), Arc::new(SimDisk::new(&sim)));
        let (closed, is) = sim
            .run(async move {
                let user = User::mount(world.rt(), disk, inside.clone(), "", STAGING).await;
                let handle = user.open("f", OpenMode { append: true, ..WRITE }, true).await.unwrap();
                user.fs.write(handle, 0, vec![1; 5000].into()).await.unwrap();
                user.fs.fsync(handle).await.unwrap();
                let other = Arc::new(SimDisk::new(&world));
                let other = User::mount(world.rt(), other, inside.clone(), "", STAGING).await;
                other.put("f", &[3; 8000]).await.unwrap();
                let ino = user.fs.file(handle).unwrap().ino;
                let mode = Changes { mode: Some(0o600), ..Changes::default() };
                let fs = user.fs.clone();
                let changing = world.rt().spawn(async move { fs.setattr(ino, mode, None).await });
                world.rt().sleep(Duration::from_micros(world.below(250_000))).await;
                user.fs.write(handle, 0, vec![2; 1000].into()).await.unwrap();
                let _ = changing.await.unwrap();
                let closed = user.close(handle).await.is_ok();
                user.fs.finish().await;
                (closed, body(inside.contents(), "f").await.unwrap())
            })
            .unwrap();
        let writeback = [vec![3; 8000], vec![2; 1000]].concat();
        assert!(
            if closed { is == writeback } else { is == vec![3; 8000] },
            "seed {seed}: {} bytes",
            is.len()
        );
    }
}
