//! Stores that answer legally but oddly, as some S3 servers do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::user::{ME, User, WRITE};
use crate::object::{Errno, Op};
use crate::ops::Changes;
use crate::tree::{OpenMode, ROOT};
use windlass_base::rt::Disk;
use windlass_base::rt::sim::{Sim, SimDisk, World};
use windlass_base::{Error, Kind, Result};
use windlass_store::{
    Attrs, Bucket, BucketAnswer, BucketRequest, Carried, Cause, List, MemStore, Page, Put, Store, When,
};

/// Ways in which a store differs from others.
#[derive(Clone, Copy, Debug, Default)]
struct Ways {
    /// The first page of each listing has no names, and says that there are more.
    empty_first_pages: bool,
    /// Each page has one name at most.
    short_pages: bool,
    /// Keys that end with a slash lose their metadata.
    forgets_markers: bool,
    no_part_copies: bool,
    /// Nothing says when an object was stored.
    no_times: bool,
}

#[derive(Debug)]
struct Odd {
    inner: Arc<MemStore>,
    ways: Ways,
}

/// Name that a page without names gives as the beginning of the next page.
const AGAIN: &str = "\u{1}again";

impl Odd {
    fn new(ways: Ways) -> Arc<Odd> {
        Arc::new(Odd { inner: MemStore::new("odd"), ways })
    }

    fn asked(&self, list: &List) -> Option<BucketRequest> {
        let mut list = list.clone();
        if self.ways.empty_first_pages {
            match list.after.take() {
                None => return None,
                Some(after) => list.after = after.strip_prefix(AGAIN).map_or(Some(after.clone()), |_| None),
            }
        }
        if self.ways.short_pages {
            list.max = 1;
        }
        Some(BucketRequest::List(list))
    }
}

impl Store for Odd {
    fn url(&self) -> &str {
        self.inner.url()
    }
    fn call<'a>(
        &'a self,
        request: &'a Arc<BucketRequest>,
        cause: Cause,
    ) -> BoxFuture<'a, Result<BucketAnswer>> {
        async move {
            let mut asked = (**request).clone();
            match &mut asked {
                BucketRequest::List(list) => match self.asked(list) {
                    Some(request) => asked = request,
                    None => return Ok(Page { next: Some(AGAIN.into()), ..Page::default() }.into()),
                },
                BucketRequest::Put { key, attrs, .. } if self.ways.forgets_markers && key.ends_with('/') => {
                    *attrs = None;
                }
                BucketRequest::Copy { to, attrs, .. } if self.ways.forgets_markers && to.ends_with('/') => {
                    *attrs = Some(Attrs::default());
                }
                BucketRequest::MultipartCopy { .. } if self.ways.no_part_copies => {
                    return Err(Error::new(Kind::Unsupported, "no parts are copied here"));
                }
                _ => {}
            }
            let mut answer = self.inner.call(&Arc::new(asked), cause).await?;
            if self.ways.no_times {
                match &mut answer {
                    BucketAnswer::Head(Some(head)) => head.modified_ms = None,
                    BucketAnswer::Found(Some(found)) => found.head.modified_ms = None,
                    BucketAnswer::Page(page) => page.objects.iter_mut().for_each(|o| o.modified_ms = None),
                    _ => {}
                }
            }
            Ok(answer)
        }
        .boxed()
    }
}

impl Bucket for Odd {}

fn run<F: Future<Output = ()> + Send>(
    ways: Ways,
    test: impl FnOnce(World, Arc<Odd>, User) -> F + Send + 'static,
) {
    let sim = Sim::new(1);
    let world = sim.clone();
    sim.run(async move {
        let store = Odd::new(ways);
        let user = User::simulated(&world, store.clone(), "").await;
        test(world, store, user).await;
    })
    .unwrap();
}

async fn put(store: &Odd, key: &str, attrs: &Attrs) {
    let put = store.put_with(key, "12345".into(), attrs, When::Always, Cause::File).await;
    assert!(matches!(put, Ok(Put::Stored(_))), "{put:?}");
}

fn errno<T>(done: Op<T>) -> Option<Errno> {
    done.err().map(|fail| fail.errno)
}

async fn later(world: &World) {
    world.rt().sleep(Duration::from_secs(20)).await;
}

/// Promise: A page without names is not the end of a listing.
#[test]
fn a_directory_whose_first_page_is_empty_is_full() {
    for ways in [
        Ways { empty_first_pages: true, ..Ways::default() },
        Ways { short_pages: true, ..Ways::default() },
        Ways { empty_first_pages: true, short_pages: true, ..Ways::default() },
    ] {
        run(ways, |world, store, user| async move {
            user.mkdir("full").await.unwrap();
            user.mkdir("other").await.unwrap();
            for key in ["full/a", "full/sub/b", "other/c", "implied/d/e", "f"] {
                put(&store, key, &Attrs::default()).await;
            }
            for _ in 0..2 {
                user.forget_all();
                later(&world).await;
                assert!(user.stat("implied/d").await.unwrap().attributes.is_dir());
                assert!(user.stat("full/sub").await.unwrap().attributes.is_dir());
                assert_eq!(user.stat("f").await.unwrap().attributes.size, 5);
                assert_eq!(errno(user.stat("none").await), Some(Errno::NOENT));
                assert_eq!(errno(user.rmdir("full").await), Some(Errno::NOTEMPTY));
                assert_eq!(errno(user.rmdir("implied").await), Some(Errno::NOTEMPTY));
                assert_eq!(errno(user.rename("other", "full", false).await), Some(Errno::NOTEMPTY));
            }
            let names = async |path| {
                let mut names: Vec<_> =
                    user.list(path, true).await.unwrap().into_iter().map(|i| i.name).collect();
                names.sort();
                names
            };
            assert_eq!(names("full").await, [b"a".to_vec(), b"sub".to_vec()]);
            assert_eq!(names("").await.len(), 4);
            user.rename("full", "moved", false).await.unwrap();
            assert_eq!(user.get("moved/sub/b").await.unwrap(), b"12345");
            user.remove("moved/a").await.unwrap();
            user.remove("moved/sub/b").await.unwrap();
            user.fs.finish().await;
            later(&world).await;
            let _ = user.rmdir("moved/sub").await;
            user.rmdir("moved").await.unwrap();
            assert_eq!(errno(user.stat("moved").await), Some(Errno::NOENT));
            assert!(
                store.inner.keys().iter().all(|key| !key.starts_with("moved")),
                "{:?}",
                store.inner.keys()
            );
        });
    }
}

async fn chmod(user: &User, path: &str, mode: u32) -> Op<()> {
    let changes = Changes { mode: Some(mode), ..Changes::default() };
    user.fs.setattr(user.walk(path).await?, changes, None).await.map(drop)
}

async fn mode(user: &User, path: &str) -> u32 {
    user.stat(path).await.unwrap().attributes.mode & 0o7777
}

/// Promise: A mode that a directory can't keep is refused.
#[test]
fn a_mode_that_a_directory_cannot_keep_is_refused() {
    let ways = Ways { forgets_markers: true, ..Ways::default() };
    run(ways, |world, store, user| async move {
        user.fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap();
        put(&store, "implied/f", &Attrs::default()).await;
        for path in ["d", "implied"] {
            assert_eq!(errno(chmod(&user, path, 0o700).await), Some(Errno::OPNOTSUPP), "{path}");
            assert_eq!(mode(&user, path).await, 0o755, "{path}");
            // What it shows anyway can be set.
            chmod(&user, path, 0o755).await.unwrap();
        }
        let made = user.fs.mkdir(ROOT, b"private", 0o700, ME).await.unwrap();
        assert_eq!(made.attributes.mode & 0o7777, 0o755, "what can't be kept is not shown");
        let ino = user.walk("d").await.unwrap();
        let owner = Changes { uid: Some(7), ..Changes::default() };
        assert_eq!(errno(user.fs.setattr(ino, owner, None).await), Some(Errno::OPNOTSUPP));
        assert_eq!(
            errno(user.fs.setxattr(ino, b"user.a", Some(b"1"), false, false).await),
            Some(Errno::OPNOTSUPP)
        );
        let dated = Changes { mtime: Some(crate::object::Ns(5)), ..Changes::default() };
        user.fs.setattr(ino, dated, None).await.unwrap();
        for path in ["d", "private"] {
            let shown = user.stat(path).await.unwrap().attributes;
            user.forget_all();
            later(&world).await;
            let kept = user.stat(path).await.unwrap().attributes;
            assert_eq!((shown.mode, shown.uid, shown.mtime), (kept.mode, kept.uid, kept.mtime), "{path}");
        }
        // Files are no directories.
        user.put("f", b"x").await.unwrap();
        chmod(&user, "f", 0o600).await.unwrap();
        assert_eq!(mode(&user, "f").await, 0o600);
    });
    // The first mode that is set shows what the store does, whichever that is.
    run(ways, |world, _, user| async move {
        let made = user.fs.mkdir(ROOT, b"d", 0o700, ME).await.unwrap();
        assert_eq!(made.attributes.mode & 0o7777, 0o755);
        later(&world).await;
        assert_eq!(mode(&user, "d").await, 0o755);
    });
    run(Ways::default(), |world, _, user| async move {
        user.fs.mkdir(ROOT, b"d", 0o700, ME).await.unwrap();
        user.fs.mkdir(ROOT, b"e", 0o755, ME).await.unwrap();
        chmod(&user, "e", 0o711).await.unwrap();
        user.forget_all();
        later(&world).await;
        assert_eq!((mode(&user, "d").await, mode(&user, "e").await), (0o700, 0o711));
    });
}

fn described() -> Attrs {
    let headers = [("cache-control", "no-store"), ("expires", "0"), ("content-encoding", "gzip")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let carried = Carried { headers, storage_class: Some("STANDARD_IA".into()), may_have_tags: true };
    Attrs { content_type: Some("text/x".into()), carried, ..Attrs::default() }
}

async fn carried(store: &Odd, key: &str) -> (Option<String>, Carried) {
    let attrs = store.head(key, Cause::File).await.unwrap().unwrap().attrs;
    (attrs.content_type, attrs.carried)
}

async fn write(user: &User, path: &str, how: OpenMode, offset: u64, bytes: &[u8]) {
    let handle = user.open(path, how, false).await.unwrap();
    user.fs.write(handle, offset, Bytes::copy_from_slice(bytes)).await.unwrap();
    user.close(handle).await.unwrap();
}

/// Promise: An edit keeps what other programs need of an object.
#[test]
fn every_edit_carries_what_the_object_had() {
    run(Ways::default(), |_, store, user| async move {
        let first = described();
        let same = async |way: &str, key: &str| {
            let expected = (first.content_type.clone(), first.carried.clone());
            assert_eq!(carried(&store, key).await, expected, "{way}");
        };
        put(&store, "f", &first).await;
        write(&user, "f", OpenMode { append: true, ..WRITE }, 5, b"6").await;
        same("append", "f").await;
        write(&user, "f", WRITE, 0, b"x").await;
        same("overwrite", "f").await;
        write(&user, "f", OpenMode { truncate: true, ..WRITE }, 0, b"new").await;
        same("O_TRUNC", "f").await;
        let cut = Changes { size: Some(1), ..Changes::default() };
        user.fs.setattr(user.walk("f").await.unwrap(), cut, None).await.unwrap();
        same("truncate", "f").await;
        chmod(&user, "f", 0o600).await.unwrap();
        same("chmod", "f").await;
        let dated = Changes { mtime: Some(crate::object::Ns(5)), ..Changes::default() };
        user.fs.setattr(user.walk("f").await.unwrap(), dated, None).await.unwrap();
        same("touch", "f").await;
        // In parts.
        write(&user, "f", WRITE, 0, &vec![b'l'; 17 << 20]).await;
        same("upload", "f").await;
        write(&user, "f", WRITE, 20 << 20, b"far").await;
        same("upload with copied parts", "f").await;
        // A file of ours is not described by anybody else.
        user.put("g", b"x").await.unwrap();
        assert!(carried(&store, "g").await.1.is_nothing());
        user.fs.finish().await;
    });
}

/// Promise: An edit keeps what other programs need of an object.
#[test]
fn what_is_sent_after_a_crash_carries_what_the_object_had() {
    let sim = Sim::new(3);
    let world = sim.clone();
    sim.run(async move {
        let store = Odd::new(Ways::default());
        let disk = Arc::new(SimDisk::new(&world));
        let mount = async || {
            let disk: Arc<dyn Disk> = disk.clone();
            User::mount(world.rt(), disk, store.clone(), "flush=local", super::user::STAGING).await
        };
        put(&store, "f", &described()).await;
        let user = mount().await;
        let handle = user.open("f", OpenMode { append: true, ..WRITE }, false).await.unwrap();
        user.fs.write(handle, 5, "678".into()).await.unwrap();
        drop(user);
        let user = mount().await;
        user.fs.finish().await;
        assert_eq!(store.head("f", Cause::File).await.unwrap().unwrap().size, 8);
        assert_eq!(carried(&store, "f").await.1, described().carried);
    })
    .unwrap();
}

/// A store without UploadPartCopy: what it would copy is read and sent.
#[test]
fn large_files_are_edited_where_no_parts_are_copied() {
    run(Ways { no_part_copies: true, ..Ways::default() }, |_, store, user| async move {
        let size = 30 << 20;
        let mut bytes: Vec<u8> = (0..size).map(|i| (i >> 12) as u8).collect();
        user.put("f", &bytes).await.unwrap();
        for at in [0, 11 << 20, size - 3] {
            write(&user, "f", WRITE, at as u64, b"new").await;
            bytes[at..at + 3].copy_from_slice(b"new");
            assert!(user.get("f").await.unwrap() == bytes, "{at}");
        }
        write(&user, "f", OpenMode { append: true, ..WRITE }, size as u64, b"end").await;
        bytes.extend(b"end");
        assert!(user.get("f").await.unwrap() == bytes);
        user.fs.finish().await;
        assert_eq!(store.inner.keys(), ["f"]);
    });
}

/// Times that nobody tells are not taken for "unchanged".
#[test]
fn metadata_that_changed_elsewhere_is_seen_without_times() {
    run(Ways { no_times: true, ..Ways::default() }, |world, store, user| async move {
        user.put("f", b"12345").await.unwrap();
        chmod(&user, "f", 0o600).await.unwrap();
        assert_eq!(mode(&user, "f").await, 0o600);
        let mut attrs = store.head("f", Cause::File).await.unwrap().unwrap().attrs;
        attrs.user.insert("mode".into(), 0o100644.to_string());
        put(&store, "f", &attrs).await;
        later(&world).await;
        user.list("", true).await.unwrap();
        user.forget_all();
        later(&world).await;
        user.list("", true).await.unwrap();
        assert_eq!(mode(&user, "f").await, 0o644);
    });
}
