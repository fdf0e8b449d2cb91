//! How many requests each operation costs: counted at the store, compared with what is meant.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::user::{READ, User, WRITE};
use crate::object::{Errno, Meta as _, S_IFREG};
use crate::ops::Changes;
use crate::tree::OpenMode;
use windlass_base::Result;
use windlass_base::rt::Rt;
use windlass_base::rt::sim::Sim;
use windlass_store::{Attrs, Bucket, BucketAnswer, BucketRequest, Cause, MemStore, Put, Store, When};

/// Counts verbs on the way to a memory store, whose objects have the times at which they were put, as elsewhere.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<MemStore>,
    rt: Rt,
    times: Mutex<BTreeMap<String, u64>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// Bytes a second that all who send share; 0: as many as they like.
    a_second: AtomicU64,
    line: tokio::sync::Mutex<()>,
}

impl Counted {
    pub fn new(rt: &Rt) -> Arc<Counted> {
        let (times, counts, a_second, line) = Default::default();
        Arc::new(Counted { inner: MemStore::new("counted"), rt: rt.clone(), times, counts, a_second, line })
    }

    /// Makes all who send share a line of so many bytes a second from now on.
    pub fn slow(&self, a_second: u64) {
        self.a_second.store(a_second, Ordering::Relaxed);
    }

    /// Sends bytes over the line, by turns with others.
    async fn carry(&self, bytes: usize) {
        const TURN: u64 = 64 << 10;
        for _ in 0..(bytes as u64).div_ceil(TURN) {
            let a_second = self.a_second.load(Ordering::Relaxed);
            if a_second == 0 {
                return;
            }
            let _turn = self.line.lock().await;
            self.rt.sleep(Duration::from_micros(TURN * 1_000_000 / a_second)).await;
        }
    }

    fn note(&self, verb: &'static str) {
        *self.counts.lock().entry(verb).or_default() += 1;
    }

    /// Gives the object the time at which it was put or copied there last.
    fn date(&self, key: &str, modified_ms: &mut Option<u64>) {
        *modified_ms = self.times.lock().get(key).copied().or(*modified_ms);
    }

    /// Returns what was counted since the last time, as `2 head 1 put`.
    pub fn take(&self) -> String {
        let mut out = String::new();
        for (verb, n) in std::mem::take(&mut *self.counts.lock()) {
            write!(out, "{}{n} {verb}", if out.is_empty() { "" } else { " " }).unwrap();
        }
        out
    }
}

/// Returns the word by which a row calls a request.
fn verb(request: &BucketRequest) -> &'static str {
    match request {
        BucketRequest::Get { .. } => "get",
        BucketRequest::Head { .. } => "head",
        BucketRequest::Put { .. } => "put",
        BucketRequest::Delete { .. } | BucketRequest::DeleteSame { .. } => "delete",
        BucketRequest::List(_) => "list",
        BucketRequest::Copy { .. } => "copy",
        BucketRequest::MultipartCreate { .. } => "begin",
        BucketRequest::MultipartPut { .. } => "part",
        BucketRequest::MultipartCopy { .. } => "part-copy",
        BucketRequest::MultipartComplete { .. } => "complete",
        BucketRequest::MultipartAbort { .. } => "abort",
        BucketRequest::MultipartList { .. } => "uploads",
        BucketRequest::Versioned | BucketRequest::ListVersions(_) => "versions",
        BucketRequest::Restore { .. } => "restore",
    }
}

impl Store for Counted {
    fn url(&self) -> &str {
        self.inner.url()
    }
    fn call<'a>(
        &'a self,
        request: &'a Arc<BucketRequest>,
        cause: Cause,
    ) -> BoxFuture<'a, Result<BucketAnswer>> {
        async move {
            self.note(verb(request));
            if let BucketRequest::MultipartPut { body, .. } = &**request {
                self.carry(body.len()).await;
            }
            let mut answer = self.inner.call(request, cause).await?;
            match (&**request, &mut answer) {
                (
                    BucketRequest::Put { key, .. } | BucketRequest::Copy { to: key, .. },
                    BucketAnswer::Put(Put::Stored(_)),
                ) => {
                    self.times.lock().insert(key.clone(), self.rt.wall_ms());
                }
                (BucketRequest::Head { key, .. }, BucketAnswer::Head(Some(head))) => {
                    self.date(key, &mut head.modified_ms);
                }
                (_, BucketAnswer::Page(page)) => {
                    page.objects.iter_mut().for_each(|o| self.date(&o.key, &mut o.modified_ms));
                }
                _ => {}
            }
            Ok(answer)
        }
        .boxed()
    }
}

impl Bucket for Counted {}

const NEW: OpenMode = OpenMode { truncate: true, ..WRITE };

struct Table {
    store: Arc<Counted>,
    user: User,
    rt: Rt,
    rows: Vec<(&'static str, String)>,
}

impl Table {
    /// Adds a row with what has been asked since the last row.
    fn row(&mut self, operation: &'static str) {
        self.user.forget_all();
        self.rows.push((operation, self.store.take()));
    }

    async fn later(&self) {
        self.rt.sleep(Duration::from_secs(20)).await;
    }
}

async fn files(t: &mut Table) {
    let user = t.user.clone();
    user.put("f", b"hello").await.unwrap();
    t.row("create");
    user.get("f").await.unwrap();
    t.row("read what was just written");
    t.later().await;
    user.stat("f").await.unwrap();
    t.row("stat, later");
    user.stat("f").await.unwrap();
    t.row("stat again");
    t.later().await;
    user.get("f").await.unwrap();
    t.row("open and read, later");
    t.later().await;
    for _ in 0..2 {
        assert_eq!(user.stat("none").await.unwrap_err().errno, Errno::NOENT);
    }
    t.row("stat a missing name twice");
    let ino = user.walk("f").await.unwrap();
    t.store.take();
    let changes = Changes { mode: Some(0o600), ..Changes::default() };
    user.fs.setattr(ino, changes, None).await.unwrap();
    t.row("chmod");
    let handle = user.open("c", OpenMode { truncate: true, ..WRITE }, true).await.unwrap();
    user.fs.write(handle, 0, Bytes::from_static(b"x")).await.unwrap();
    let ino = user.walk("c").await.unwrap();
    user.fs.setattr(ino, changes, Some(handle)).await.unwrap();
    user.close(handle).await.unwrap();
    t.row("create, write, chmod, close");
    user.rename("f", "g", false).await.unwrap();
    t.row("rename");
    user.unlink("g").await.unwrap();
    t.row("unlink");
}

async fn folders(t: &mut Table) {
    let user = t.user.clone();
    // A mount looks once whether the store keeps what directories carry.
    user.mkdir("first").await.unwrap();
    t.row("mkdir, the first of an owner");
    user.rmdir("first").await.unwrap();
    t.store.take();
    user.mkdir("d").await.unwrap();
    t.row("mkdir");
    for i in 0..100 {
        user.put(&format!("d/f{i:02}"), b"hello").await.unwrap();
    }
    t.row("create 100 in it");
    t.later().await;
    user.walk("d").await.unwrap();
    t.store.take();
    for item in user.list("d", true).await.unwrap() {
        user.stat(&format!("d/{}", String::from_utf8(item.name).unwrap())).await.unwrap();
    }
    t.row("ls -l of 100, later");
    t.later().await;
    user.walk("d").await.unwrap();
    t.store.take();
    user.rename("d", "e", false).await.unwrap();
    t.row("rename a directory of 100");
    let items = user.list("e", false).await.unwrap();
    for item in items {
        user.unlink(&format!("e/{}", String::from_utf8(item.name).unwrap())).await.unwrap();
    }
    user.rmdir("e").await.unwrap();
    t.row("rm -r of 100");
}

/// Directories of more names than a page has, made by other tools; and files of ours as the mount shows them anyway.
async fn many(t: &mut Table) {
    for i in 0..2500 {
        let (key, body) = (format!("m/f{i:04}"), Bytes::from_static(b"hello"));
        t.store.inner.put(&key, body, When::Always, Cause::File).await.unwrap();
    }
    let user = t.user.clone();
    user.walk("m").await.unwrap();
    t.store.take();
    for item in user.list("m", true).await.unwrap() {
        user.stat(&format!("m/{}", String::from_utf8(item.name).unwrap())).await.unwrap();
    }
    t.row("ls -l of 2,500 made elsewhere");
    t.later().await;
    for _ in 0..3 {
        for _ in 0..4 {
            assert_eq!(user.stat("none").await.unwrap_err().errno, Errno::NOENT);
        }
        t.later().await;
    }
    t.row("a missing name in 3 TTLs");
    user.walk("m").await.unwrap();
    t.store.take();
    for i in 0..2500 {
        user.stat(&format!("m/f{i:04}")).await.unwrap();
    }
    t.row("stat of these 2,500 by name");
    user.walk("m").await.unwrap();
    t.store.take();
    user.rename("m", "n", false).await.unwrap();
    t.row("rename a directory of 2,500");
    t.later().await;
    user.walk("n").await.unwrap();
    t.store.take();
    for item in user.list("n", false).await.unwrap() {
        user.unlink(&format!("n/{}", String::from_utf8(item.name).unwrap())).await.unwrap();
    }
    user.fs.fsync_dir(user.walk("n").await.unwrap()).await.unwrap();
    t.row("rm of these 2,500");
}

/// Files of ours that are as the mount shows all: its own user's, written now, and larger than a link.
async fn plain(t: &mut Table) {
    let user = t.user.clone();
    user.mkdir("p").await.unwrap();
    for i in 0..100 {
        user.put(&format!("p/f{i:02}"), &[b'x'; 5000]).await.unwrap();
    }
    t.row("mkdir, create 100 as the owner");
    t.later().await;
    user.walk("p").await.unwrap();
    t.store.take();
    for item in user.list("p", true).await.unwrap() {
        user.stat(&format!("p/{}", String::from_utf8(item.name).unwrap())).await.unwrap();
    }
    t.row("ls -l of these 100, later");
    t.later().await;
    user.walk("p").await.unwrap();
    t.store.take();
    for i in 0..100 {
        user.stat(&format!("p/f{i:02}")).await.unwrap();
    }
    t.row("stat of these 100, later");
    t.later().await;
    user.walk("p").await.unwrap();
    t.store.take();
    for i in 0..100 {
        user.remove(&format!("p/f{i:02}")).await.unwrap();
    }
    user.fs.fsync_dir(user.walk("p").await.unwrap()).await.unwrap();
    t.row("unlink of these 100, later");
    t.later().await;
    for i in 0..100 {
        t.store.inner.put(&format!("k/g{i}"), Bytes::new(), When::Always, Cause::File).await.unwrap();
    }
    user.walk("k").await.unwrap();
    t.store.take();
    for i in 0..100 {
        user.put(&format!("k/f{i:02}"), b"hello").await.unwrap();
        // Longer than names are believed, all in all.
        t.rt.sleep(Duration::from_millis(100)).await;
    }
    t.row("create 100 in 10 s among others");
}

/// Two directories are emptied by turns.
async fn by_turns(t: &mut Table) {
    let user = t.user.clone();
    user.mkdir("q").await.unwrap();
    user.mkdir("r").await.unwrap();
    let names: Vec<String> = (0..1500).flat_map(|i| ["q", "r"].map(|dir| format!("{dir}/f{i:04}"))).collect();
    for name in &names {
        user.put(name, &[b'x'; 5000]).await.unwrap();
    }
    // What was written within a minute is removed name by name.
    t.rt.sleep(Duration::from_secs(61)).await;
    user.walk("q").await.unwrap();
    user.walk("r").await.unwrap();
    t.store.take();
    for name in &names {
        user.remove(name).await.unwrap();
    }
    user.fs.fsync_dir(user.walk("q").await.unwrap()).await.unwrap();
    t.row("unlink of 3,000, two by turns");
}

async fn large(t: &mut Table) {
    let user = t.user.clone();
    let handle = user.open("big", OpenMode { truncate: true, ..WRITE }, true).await.unwrap();
    for i in 0..64 {
        user.fs.write(handle, i << 20, Bytes::from(vec![i as u8; 1 << 20])).await.unwrap();
    }
    user.close(handle).await.unwrap();
    t.row("write 64 MiB");
    let handle = user.open("big", WRITE, false).await.unwrap();
    user.fs.write(handle, 30 << 20, Bytes::from(vec![0xee; 4096])).await.unwrap();
    user.close(handle).await.unwrap();
    t.row("change 4 KiB in 64 MiB");
    let handle = user.open("big", OpenMode { append: true, ..WRITE }, false).await.unwrap();
    user.fs.write(handle, 0, Bytes::from_static(b"end")).await.unwrap();
    user.close(handle).await.unwrap();
    t.row("append to 64 MiB");
    let (from, to) =
        (user.open("big", READ, false).await.unwrap(), user.open("copy", NEW, true).await.unwrap());
    t.store.take();
    assert_eq!(user.fs.copy_range(from, to, (0, 0), 1 << 40).await.unwrap(), (64 << 20) + 3);
    user.close(to).await.unwrap();
    user.close(from).await.unwrap();
    t.row("copy_file_range of 64 MiB");
    user.unlink("copy").await.unwrap();
    t.store.take();
    let handle = user.open("big", READ, false).await.unwrap();
    for at in 0..512 {
        let bytes = user.read(handle, at << 17, 1 << 17).await.unwrap();
        let want = if at == 240 { 0xee } else { (at >> 3) as u8 };
        assert_eq!((bytes[0], bytes.len()), (want, 1 << 17), "at {at}");
    }
    user.close(handle).await.unwrap();
    t.row("read 64 MiB in order");
    let handle = user.open("big", READ, false).await.unwrap();
    for at in [50u64, 3, 40, 11, 29, 60] {
        user.read(handle, at << 20, 1 << 17).await.unwrap();
    }
    user.close(handle).await.unwrap();
    t.row("6 random reads");
    t.later().await;
}

/// Promise: A change of a large file sends what changed.
#[test]
fn requests_per_operation() {
    let sim = Sim::new(1);
    let world = sim.clone();
    let rows = sim.run(async move {
        let store = Counted::new(&world.rt());
        let user = User::simulated(&world, store.clone(), "").await;
        let mut t = Table { store, user, rt: world.rt(), rows: Vec::new() };
        t.row("mount");
        files(&mut t).await;
        folders(&mut t).await;
        many(&mut t).await;
        large(&mut t).await;
        t.user = User::simulated(&world, t.store.clone(), "uid=1000,gid=1000").await;
        t.row("mount as the owner");
        plain(&mut t).await;
        by_turns(&mut t).await;
        t.rows
    });
    let rows = rows.unwrap();
    let mut shown = String::new();
    for (operation, cost) in &rows {
        writeln!(shown, "{operation:<32}{cost}").unwrap();
    }
    assert_eq!(shown, MEANT, "\n{shown}");
}

/// The kernel takes a few names of what it is given at a time (4 KiB): no more is asked for the others when their turn
/// comes.
#[test]
fn a_directory_that_is_read_by_few_names_is_asked_for_once() {
    const FEW: usize = 23;
    let sim = Sim::new(2);
    let world = sim.clone();
    sim.run(async move {
        let store = Counted::new(&world.rt());
        let mut attrs = Attrs::default();
        attrs.set_mode(S_IFREG | 0o600);
        for i in 0..700 {
            let (key, body) = (format!("d/f{i:03}"), Bytes::from_static(b"x"));
            store.inner.put_with(&key, body, &attrs, When::Always, Cause::File).await.unwrap();
        }
        let user = User::simulated(&world, store.clone(), "").await;
        let dir = user.walk("d").await.unwrap();
        store.take();
        let handle = user.fs.opendir(dir).unwrap();
        let mut told = Vec::new();
        loop {
            let items = user.fs.readdir(handle, told.len() as u64, true).await.unwrap();
            if items.is_empty() {
                break;
            }
            for item in items.iter().take(FEW) {
                let entry = user.fs.adopt_item(item);
                user.fs.record_reply(&entry);
                told.push(entry);
            }
        }
        user.fs.releasedir(handle);
        assert_eq!((told.len(), store.take().as_str()), (700, "700 head 1 list"));
        for entry in told {
            assert_eq!(entry.attributes.mode, S_IFREG | 0o600);
            user.fs.forget(entry.ino, 1);
        }
        user.forget_all();
    })
    .unwrap();
}

const MEANT: &str = "\
mount                           1 list
create                          1 list 1 put
read what was just written      1 get
stat, later                     1 head 1 list
stat again                      \n\
open and read, later            1 get 1 head 1 list
stat a missing name twice       1 list
chmod                           1 copy 1 head
create, write, chmod, close     1 list 1 put
rename                          1 copy 1 delete 3 head 1 list
unlink                          1 delete
mkdir, the first of an owner    1 head 1 list 1 put
mkdir                           1 put
create 100 in it                100 put
ls -l of 100, later             100 head 1 list
rename a directory of 100       101 copy 1 delete 5 list
rm -r of 100                    4 delete 1 head 3 list
ls -l of 2,500 made elsewhere   2500 head 4 list
a missing name in 3 TTLs        3 list
stat of these 2,500 by name     2500 head 128 list
rename a directory of 2,500     2500 copy 3 delete 12 list
rm of these 2,500               5 delete 4 list
write 64 MiB                    1 begin 1 complete 1 list 8 part
change 4 KiB in 64 MiB          1 begin 1 complete 1 get 2 head 1 part 2 part-copy
append to 64 MiB                1 begin 1 complete 2 head 1 part 1 part-copy
copy_file_range of 64 MiB       1 copy
read 64 MiB in order            15 get
6 random reads                  7 get
mount as the owner              1 list
mkdir, create 100 as the owner  1 list 101 put
ls -l of these 100, later       100 head 1 list
stat of these 100, later        100 head 3 list
unlink of these 100, later      3 delete 3 head 3 list
create 100 in 10 s among others 2 head 8 list 100 put
unlink of 3,000, two by turns   9 delete 17 head 16 list
";
