//! Random operations on a mount and on a tree in memory must end the same, by every errno and every byte; then the
//! bucket must hold the tree.
//!
//! One mount with files held open, and two mounts in turn (files closed, caches given their time to expire).
//! A failing seed is printed by the assertion and replays alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::user::{ME, READ, STAGING, User, WRITE, parts};
use crate::object::{Errno, Op};
use crate::ops::Changes;
use crate::tree::OpenMode;
use windlass_base::rt::sim::{Sim, SimDisk, World};
use windlass_store::{MemStore, SimStore};

#[derive(Clone, Debug, PartialEq)]
enum Thing {
    File(usize),
    Dir,
    Link(String),
}

#[derive(Clone, Debug, Default)]
struct Contents {
    bytes: Vec<u8>,
    mode: u32,
}

#[derive(Default)]
struct Model {
    tree: BTreeMap<String, Thing>,
    files: Vec<Contents>,
}

type Answer<T> = Result<T, Errno>;

impl Model {
    fn thing(&self, path: &str) -> Answer<Thing> {
        if path.is_empty() {
            return Ok(Thing::Dir);
        }
        self.above(path)?;
        self.tree.get(path).cloned().ok_or(Errno::NOENT)
    }

    /// Every folder on the way is one.
    fn above(&self, path: &str) -> Answer<()> {
        match self.thing(parts(path).0)? {
            Thing::Dir => Ok(()),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn vacant(&self, path: &str) -> Answer<()> {
        match self.thing(path) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => self.above(path),
            Err(e) => Err(e),
        }
    }

    fn children(&self, path: &str) -> Vec<(String, Thing)> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let below = self.tree.iter().filter(|(p, _)| p.starts_with(&prefix));
        let direct = below.map(|(p, t)| (p[prefix.len()..].to_owned(), t.clone()));
        direct.filter(|(name, _)| !name.contains('/')).collect()
    }

    fn open(&mut self, path: &str, how: OpenMode, create: bool) -> Answer<usize> {
        match self.thing(path) {
            Ok(_) if create && how.exclusive => Err(Errno::EXIST),
            Ok(Thing::Dir) => Err(Errno::ISDIR),
            Ok(Thing::Link(_)) => Err(Errno::LOOP),
            Ok(Thing::File(id)) => {
                if how.truncate {
                    self.files[id].bytes.clear();
                }
                Ok(id)
            }
            Err(Errno::NOENT) if create => {
                self.above(path)?;
                self.files.push(Contents { bytes: Vec::new(), mode: 0o644 });
                self.tree.insert(path.to_owned(), Thing::File(self.files.len() - 1));
                Ok(self.files.len() - 1)
            }
            Err(e) => Err(e),
        }
    }

    fn rename(&mut self, from: &str, to: &str, no_replace: bool) -> Answer<()> {
        let thing = self.thing(from)?;
        self.above(to)?;
        let there = self.thing(to).ok();
        if no_replace && there.is_some() {
            return Err(Errno::EXIST);
        }
        if from == to {
            return Ok(());
        }
        match (&thing, &there) {
            (Thing::Dir, Some(Thing::File(_) | Thing::Link(_))) => return Err(Errno::NOTDIR),
            (Thing::File(_) | Thing::Link(_), Some(Thing::Dir)) => return Err(Errno::ISDIR),
            (Thing::Dir, _) if to.starts_with(&format!("{from}/")) => return Err(Errno::INVAL),
            (Thing::Dir, Some(Thing::Dir)) if !self.children(to).is_empty() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        let below = format!("{from}/");
        let moved: Vec<String> =
            self.tree.keys().filter(|p| *p == from || p.starts_with(&below)).cloned().collect();
        for path in moved {
            let thing = self.tree.remove(&path).unwrap();
            self.tree.insert(format!("{to}{}", &path[from.len()..]), thing);
        }
        Ok(())
    }

    /// Returns the objects that the bucket must hold in the end.
    fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let object = |(path, thing): (&String, &Thing)| match thing {
            Thing::File(id) => (path.clone(), self.files[*id].bytes.clone()),
            Thing::Dir => (format!("{path}/"), Vec::new()),
            Thing::Link(target) => (path.clone(), target.clone().into_bytes()),
        };
        self.tree.iter().map(object).collect()
    }
}

struct Held {
    handle: u64,
    file: usize,
    how: OpenMode,
}

/// A run: the model, the mounts, what is open.
struct Run {
    world: World,
    users: Vec<User>,
    at: usize,
    model: Model,
    held: Vec<Held>,
    seed: u64,
    step: u64,
}

impl Run {
    fn path(&self) -> String {
        let depth = 1 + self.world.below(3);
        let names: Vec<_> = (0..depth).map(|_| ["a", "b", "c.d"][self.world.below(3) as usize]).collect();
        names.join("/")
    }

    fn noise(&self, max: u64) -> Vec<u8> {
        let len = self.world.below(max);
        let start = self.world.random() as u8;
        (0..len).map(|i| start.wrapping_add((i * 7 / 5) as u8)).collect()
    }

    fn same<T: std::fmt::Debug, U: std::fmt::Debug>(
        &self,
        what: &str,
        real: Op<T>,
        model: Answer<U>,
    ) -> Option<(T, U)> {
        let note = format!("seed {} step {}: {what}", self.seed, self.step);
        match (real, model) {
            (Ok(r), Ok(m)) => Some((r, m)),
            (Err(r), Err(m)) => {
                assert_eq!(r.errno, m, "{note} ({:?})", r.why);
                None
            }
            (real, model) => panic!("{note}: {real:?}, but {model:?} is right"),
        }
    }

    fn user(&self) -> User {
        self.users[self.at].clone()
    }

    async fn open(&mut self) {
        let path = self.path();
        let flag = |n: u64| self.world.below(n) == 0;
        let write = flag(2);
        let (append, truncate, exclusive) = (write && flag(4), write && flag(4), flag(5));
        let how = if write {
            OpenMode { append, truncate, exclusive, ..WRITE }
        } else {
            OpenMode { exclusive, ..READ }
        };
        let create = write && !flag(3);
        let model = self.model.open(&path, how, create);
        // A directory may be opened for reading; that is the kernel's to know.
        if model == Err(Errno::ISDIR) {
            return;
        }
        let real = self.user().open(&path, how, create).await;
        if let Some((handle, file)) = self.same(&format!("open {path} {how:?}"), real, model) {
            self.held.push(Held { handle, file, how });
        }
    }

    async fn use_handle(&mut self) {
        if self.held.is_empty() {
            return self.open().await;
        }
        let which = self.world.below(self.held.len() as u64) as usize;
        let Held { handle, file, how } = self.held[which];
        let user = self.user();
        match self.world.below(7) {
            0 | 1 if how.write => self.write(handle, file, how).await,
            2 if how.write => {
                let size = self.world.below(120_000);
                let changes = Changes { size: Some(size), ..Changes::default() };
                let ino = user.fs.file(handle).unwrap().ino;
                let real = user.fs.setattr(ino, changes, Some(handle)).await;
                self.model.files[file].bytes.resize(size as usize, 0);
                let (entry, ()) = self.same("ftruncate", real, Ok(())).unwrap();
                assert_eq!(entry.attributes.size, size);
            }
            3 => {
                let real = user.fs.fsync(handle).await;
                self.same("fsync", real, Ok(()));
            }
            4 => {
                self.held.remove(which);
                self.same("close", user.close(handle).await, Ok(()));
            }
            _ => {
                let (offset, len) = (self.world.below(100_000), self.world.below(90_000));
                let real = user.read(handle, offset, len).await;
                let bytes = &self.model.files[file].bytes;
                let from = (offset as usize).min(bytes.len());
                let want = &bytes[from..bytes.len().min(from + len as usize)];
                let note = format!("seed {} step {}: read {handle} {offset}+{len}", self.seed, self.step);
                assert!(real.expect(&note) == want, "{note}: other bytes");
            }
        }
    }

    async fn write(&mut self, handle: u64, file: usize, how: OpenMode) {
        let data = self.noise(50_000);
        let bytes = &mut self.model.files[file].bytes;
        let offset = if how.append { bytes.len() as u64 } else { self.world.below(60_000) };
        let end = offset as usize + data.len();
        if !data.is_empty() {
            bytes.resize(bytes.len().max(end), 0);
            bytes[offset as usize..end].copy_from_slice(&data);
            let real = self.user().fs.write(handle, offset, Bytes::from(data)).await;
            self.same("write", real, Ok(()));
        }
    }

    async fn names(&mut self) {
        let (path, user) = (self.path(), self.user());
        match self.world.below(6) {
            0 | 1 => {
                let model = self.model.vacant(&path);
                if self.same(&format!("mkdir {path}"), user.mkdir(&path).await, model).is_some() {
                    self.model.tree.insert(path, Thing::Dir);
                }
            }
            2 => {
                let model = match self.model.thing(&path) {
                    Ok(Thing::Dir) if !self.model.children(&path).is_empty() => Err(Errno::NOTEMPTY),
                    Ok(Thing::Dir) => Ok(()),
                    Ok(_) => Err(Errno::NOTDIR),
                    Err(e) => Err(e),
                };
                if self.same(&format!("rmdir {path}"), user.rmdir(&path).await, model).is_some() {
                    self.model.tree.remove(&path);
                }
            }
            3 => {
                let model = match self.model.thing(&path) {
                    Ok(Thing::Dir) => Err(Errno::ISDIR),
                    other => other.map(|_| ()),
                };
                if self.same(&format!("unlink {path}"), user.unlink(&path).await, model).is_some() {
                    self.model.tree.remove(&path);
                }
            }
            4 => {
                let target = format!("to/{}", self.world.below(9));
                let model = self.model.vacant(&path);
                let real = async {
                    let (parent, name) = user.above(&path).await?;
                    let entry = user.fs.symlink(parent, name, target.as_bytes(), ME).await?;
                    user.fs.forget(entry.ino, 1);
                    Ok(())
                };
                if self.same(&format!("symlink {path}"), real.await, model).is_some() {
                    self.model.tree.insert(path, Thing::Link(target));
                }
            }
            _ => {
                let (to, no_replace) = (self.path(), self.world.below(3) == 0);
                let real = user.rename(&path, &to, no_replace).await;
                let model = self.model.rename(&path, &to, no_replace);
                self.same(&format!("rename {path} {to} {no_replace}"), real, model);
            }
        }
    }

    async fn look(&mut self) {
        let (path, user) = (self.path(), self.user());
        match self.world.below(3) {
            0 => self.stat(&user, &path).await,
            1 => {
                let folder = parts(&path).0;
                let Ok(Thing::Dir) = self.model.thing(folder) else { return };
                let plus = self.world.below(2) == 0;
                let items = user.list(folder, plus).await.unwrap();
                let real: BTreeSet<_> = items.iter().map(|i| (i.name.clone(), i.dir)).collect();
                let want: BTreeSet<_> = self
                    .model
                    .children(folder)
                    .into_iter()
                    .collect::<BTreeMap<_, _>>()
                    .into_iter()
                    .map(|(n, t)| (n.into_bytes(), t == Thing::Dir))
                    .collect();
                assert_eq!(real, want, "seed {} step {}: list {folder}", self.seed, self.step);
                assert_eq!(real.len(), items.len());
            }
            _ => {
                let Ok(Thing::File(id)) = self.model.thing(&path) else { return };
                let mode = self.world.below(0o1000) as u32;
                let ino = user.walk(&path).await.unwrap();
                let changes = Changes { mode: Some(mode), ..Changes::default() };
                self.same(&format!("chmod {path}"), user.fs.setattr(ino, changes, None).await, Ok(()));
                self.model.files[id].mode = mode;
            }
        }
    }

    async fn stat(&self, user: &User, path: &str) {
        let model = self.model.thing(path);
        let Some((entry, thing)) = self.same(&format!("stat {path}"), user.stat(path).await, model) else {
            return;
        };
        let note = format!("seed {} step {}: stat {path}", self.seed, self.step);
        match thing {
            Thing::File(id) => {
                let want = &self.model.files[id];
                assert_eq!(entry.attributes.size, want.bytes.len() as u64, "{note}");
                assert_eq!(entry.attributes.mode, 0o100000 | want.mode, "{note}");
            }
            Thing::Dir => assert!(entry.attributes.is_dir(), "{note}"),
            Thing::Link(target) => {
                assert!(entry.attributes.is_link(), "{note}");
                assert_eq!(user.fs.readlink(entry.ino).await.unwrap(), target, "{note}");
            }
        }
    }

    async fn one(&mut self) {
        match self.world.below(10) {
            0..4 => self.use_handle().await,
            4 => self.open().await,
            5..8 => self.names().await,
            8 => self.look().await,
            _ => self.world.rt().sleep(Duration::from_millis(self.world.below(4000))).await,
        }
        if self.world.below(2) == 0 {
            self.user().forget_all();
        }
    }

    async fn close_all(&mut self) {
        for held in std::mem::take(&mut self.held) {
            let closed = self.user().close(held.handle).await;
            self.same("close", closed, Ok(()));
        }
    }

    async fn finish(mut self, contents: &MemStore) {
        self.close_all().await;
        for user in &self.users {
            user.forget_all();
            user.fs.finish().await;
            assert_eq!(user.fs.nodes(), 1, "seed {}: nodes are left", self.seed);
        }
        let want = self.model.objects();
        assert_eq!(contents.keys(), want.keys().cloned().collect::<Vec<_>>(), "seed {}", self.seed);
        for (key, bytes) in want {
            assert!(body(contents, &key).await == bytes, "seed {}: object {key} has other bytes", self.seed);
        }
    }
}

async fn body(contents: &MemStore, key: &str) -> Vec<u8> {
    use windlass_store::{ByteRange, Cause, Store as _};
    let found = contents.get(key, ByteRange::Whole { max: 1 << 30 }, Cause::File).await.unwrap();
    found.unwrap().body.to_vec()
}

fn run(seed: u64, mounts: usize, steps: u64) {
    let sim = Sim::new(seed);
    let store = SimStore::new(&sim, "model");
    let (world, contents) = (sim.clone(), store.contents().clone());
    let disk = Arc::new(SimDisk::new(&sim));
    let files = disk.clone();
    let flush = if seed % 3 == 2 { "local" } else { "bucket" };
    let cache = if seed % 4 == 1 { "8M" } else { "off" };
    let options = format!("metadata_ttl=2,flush={flush},cache={cache}");
    let ran = sim.run(async move {
        let mut users = Vec::new();
        for i in 0..mounts {
            let staging = format!("{STAGING}{i}");
            let process = world.process();
            users.push(User::mount(process.rt(), disk.clone(), store.clone(), &options, &staging).await);
        }
        let (at, model, held) = (0, Model::default(), Vec::new());
        let mut run = Run { world, users, at, model, held, seed, step: 0 };
        for step in 0..steps {
            run.step = step;
            run.one().await;
            if mounts > 1 && run.world.below(6) == 0 {
                run.close_all().await;
                run.at = run.world.below(mounts as u64) as usize;
                run.world.rt().sleep(Duration::from_secs(10)).await;
            }
        }
        run.finish(&contents).await;
    });
    ran.unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    let left: Vec<_> = files.files().into_iter().collect();
    let kept = |p: &Path| p.ends_with("lock") || p.ends_with("frames");
    let left: Vec<_> = left.into_iter().filter(|(p, _)| !kept(p)).collect();
    assert!(left.is_empty(), "seed {seed}: staged files are left: {left:?}");
}

/// Returns how many seeds to try: as many as the machine's patience allows, by `WINDLASS_SEEDS=1000 cargo
/// test fs::tests`.
pub fn seeds(some: u64) -> u64 {
    std::env::var("WINDLASS_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(some)
}

/// Promise: When close or fsync returns success, the object is stored and is the file.
#[test]
fn one_mount_is_a_filesystem() {
    for seed in 0..seeds(100) {
        run(seed, 1, 250);
    }
}

/// Promise: An open sees what was closed before it, on whichever mount.
#[test]
fn two_mounts_in_turn_are_one_filesystem() {
    for seed in 0..seeds(40) {
        run(1000 + seed, 2, 200);
    }
}
