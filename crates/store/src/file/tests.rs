//! What only the `file` store has: other programs and processes in the same folder.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // looks at the folder from outside

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::*;
use crate::{Attrs, Etag, List, Put, When};
use windlass_base::rt::RealRuntime;

const WHY: Cause = Cause::File;
const WHOLE: ByteRange = ByteRange::Whole { max: 1 << 20 };

struct Yard {
    dir: tempfile::TempDir,
    rt: Rt,
    bucket: BucketRef,
}

async fn yard() -> Yard {
    let dir = tempfile::tempdir().unwrap();
    let rt = Rt::new(RealRuntime::current());
    let bucket = FileStore::open(&rt, dir.path()).await.unwrap();
    Yard { dir, rt, bucket }
}

impl Yard {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    async fn put(&self, key: &str, body: &str, when: When) -> Result<Put> {
        self.bucket.put(key, Bytes::copy_from_slice(body.as_bytes()), when, WHY).await
    }
    async fn store(&self, key: &str, body: &str) -> Etag {
        match self.put(key, body, When::Always).await.unwrap() {
            Put::Stored(etag) => etag,
            other => panic!("{other:?}"),
        }
    }
    async fn body(&self, key: &str) -> Option<Bytes> {
        self.bucket.get(key, WHOLE, WHY).await.unwrap().map(|found| found.body)
    }
    async fn etag(&self, key: &str) -> Etag {
        self.bucket.head(key, WHY).await.unwrap().unwrap().etag
    }
    async fn keys(&self, prefix: &str) -> Vec<String> {
        let list = List { prefix: prefix.into(), max: 1000, ..List::default() };
        let page = self.bucket.list(&list, WHY).await.unwrap();
        page.objects.into_iter().map(|o| o.key).collect()
    }
    /// Every kind of operation fails by these words.
    async fn all_say(&self, words: &str) {
        for e in [
            self.bucket.get("a/b", WHOLE, WHY).await.unwrap_err(),
            self.bucket.head("no", WHY).await.unwrap_err(),
            self.put("c", "x", When::Absent).await.unwrap_err(),
            self.bucket.delete(&["a/b".into()], WHY).await.unwrap_err(),
            self.bucket.list(&List::default(), WHY).await.unwrap_err(),
            self.bucket.multipart_create("m", &Attrs::default(), WHY).await.unwrap_err(),
            self.bucket.multipart_list("", WHY).await.unwrap_err(),
        ] {
            assert!(e.is(Kind::Unavailable) && e.to_string().contains(words), "{e}");
        }
    }
    fn has_xattr(&self, name: &str) -> bool {
        rustix::fs::getxattr(self.path(name), "user.windlass.object", &mut [0u8; 1024][..]).is_ok()
    }
}

fn age(path: &std::path::Path, by: Duration) {
    #[allow(clippy::disallowed_methods)] // the file's time, not the test's
    let then = SystemTime::now() - by;
    fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

#[tokio::test]
async fn files_of_others_are_objects_and_edits_change_their_etag() {
    let yard = yard().await;
    fs::create_dir_all(yard.path("docs")).unwrap();
    fs::write(yard.path("docs/a.txt"), "one").unwrap();
    let first = yard.etag("docs/a.txt").await;
    assert!(!yard.has_xattr("docs/a.txt"), "too fresh: it may change again within its mtime");
    age(&yard.path("docs/a.txt"), Duration::from_secs(60));
    assert_eq!(yard.etag("docs/a.txt").await, first);
    assert!(yard.has_xattr("docs/a.txt"));
    assert_eq!(yard.store("same", "one").await, first, "an etag is of the contents");
    fs::write(yard.path("docs/a.txt"), "two").unwrap();
    let second = yard.etag("docs/a.txt").await;
    assert_ne!(first, second);
    assert!(matches!(yard.put("docs/a.txt", "x", When::Matches(first)).await, Ok(Put::Refused)));
    assert!(matches!(yard.put("docs/a.txt", "x", When::Matches(second)).await, Ok(Put::Stored(_))));
    // Copied with its attributes: another file, whatever the attribute says.
    let etag = yard.store("one", "original").await;
    let mut copy = [0u8; 1024];
    let size = rustix::fs::getxattr(yard.path("one"), "user.windlass.object", &mut copy[..]).unwrap();
    fs::write(yard.path("two"), "a forgery").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(yard.path("two"), "user.windlass.object", &copy[..size], flags).unwrap();
    assert_ne!(yard.etag("two").await, etag);
}

#[tokio::test]
async fn attributes_outlive_edits_by_others() {
    let yard = yard().await;
    let attrs = Attrs {
        content_type: Some("text/x".into()),
        user: [("k".into(), "v".into())].into(),
        ..Attrs::default()
    };
    let put = yard.bucket.put_with("a", Bytes::from_static(b"1"), &attrs, When::Always, WHY).await;
    assert!(matches!(put, Ok(Put::Stored(_))));
    fs::write(yard.path("a"), "edited").unwrap();
    age(&yard.path("a"), Duration::from_secs(60));
    for _ in 0..2 {
        let head = yard.bucket.head("a", WHY).await.unwrap().unwrap();
        assert_eq!((head.size, head.attrs), (6, attrs.clone()));
    }
    let large = Attrs { user: [("k".into(), "v".repeat(100_000))].into(), ..Attrs::default() };
    let put = yard.bucket.put_with("a", Bytes::from_static(b"2"), &large, When::Always, WHY).await;
    assert_eq!(put.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(yard.body("a").await.unwrap(), "edited");
}

#[tokio::test]
async fn a_folder_that_is_away_is_not_empty() {
    let yard = yard().await;
    yard.store("a/b", "x").await;
    let away = yard.dir.path().with_extension("away");
    fs::rename(yard.dir.path(), &away).unwrap();
    yard.all_say("is not there").await;
    assert!(!yard.dir.path().exists(), "nothing makes a store's folder by writing");
    assert_eq!(FileStore::open(&yard.rt, yard.dir.path()).await.unwrap_err().kind(), Kind::NotFound);
    fs::rename(&away, yard.dir.path()).unwrap();
    assert_eq!(yard.body("a/b").await.unwrap(), "x");
}

/// As under a disk that was unmounted, or where a script made the folder again.
/// Promise: A folder that is away is no empty bucket.
#[tokio::test]
async fn another_folder_in_its_place_is_not_taken_for_it() {
    let yard = yard().await;
    yard.store("a/b", "x").await;
    let away = yard.dir.path().with_extension("away");
    fs::rename(yard.dir.path(), &away).unwrap();
    fs::create_dir(yard.dir.path()).unwrap();
    yard.all_say("is not the folder that was opened").await;
    assert_eq!(fs::read_dir(yard.dir.path()).unwrap().count(), 0, "nothing was written there");
    // Whoever opens it now means it, and so does a pool, which looks at labels.
    let new = FileStore::open(&yard.rt, yard.dir.path()).await.unwrap();
    assert!(new.head("a/b", WHY).await.unwrap().is_none());
    let expected = FileStore::expected(&yard.rt, yard.dir.path());
    assert!(expected.head("a/b", WHY).await.unwrap().is_none());
    fs::remove_dir(yard.dir.path()).unwrap();
    fs::rename(&away, yard.dir.path()).unwrap();
    assert_eq!(yard.body("a/b").await.unwrap(), "x");
    // It grows and shrinks as it likes.
    fs::remove_dir_all(yard.path("a")).unwrap();
    yard.store("c", "y").await;
    assert_eq!(yard.keys("").await, ["c"]);
    assert!(expected.head("c", WHY).await.unwrap().is_some());
    // Removed and made again: another, also where its inode is used again.
    fs::remove_dir_all(yard.dir.path()).unwrap();
    fs::create_dir(yard.dir.path()).unwrap();
    yard.all_say("is not the folder that was opened").await;
}

#[tokio::test]
async fn reading_and_opening_leave_no_trace() {
    let yard = yard().await;
    let probe = yard.bucket.get("none", WHOLE, WHY).await.unwrap();
    assert!(probe.is_none() && yard.keys("").await.is_empty());
    yard.bucket.delete(&["none".into(), "a/b".into()], WHY).await.unwrap();
    assert!(matches!(yard.put("a", "x", When::Matches(Etag("e".into()))).await, Ok(Put::Refused)));
    yard.bucket.multipart_list("", WHY).await.unwrap();
    assert_eq!(fs::read_dir(yard.dir.path()).unwrap().count(), 0);
    FileStore::adopt(&yard.rt, yard.dir.path()).await.unwrap();
    let e = FileStore::adopt(&yard.rt, &yard.path("typo")).await.unwrap_err();
    assert!(e.is(Kind::NotFound) && e.to_string().contains("/typo first"), "{e}");
    assert_eq!(fs::read_dir(yard.dir.path()).unwrap().count(), 0);
}

/// As a folder on a network filesystem whose server is gone: its calls never come back.
#[tokio::test]
async fn a_folder_that_hangs_leaves_worker_threads_to_the_others() {
    let (hung, well) = (FileStore::new(&yard().await.rt, std::path::Path::new("/")), yard().await);
    let (free, wait) = std::sync::mpsc::channel::<()>();
    let wait = Arc::new(parking_lot::Mutex::new(wait));
    let calls: Vec<_> = (0..600)
        .map(|_| {
            let (hung, wait) = (hung.clone(), wait.clone());
            tokio::spawn(async move { hung.run(move |_| Ok(wait.lock().recv().is_err())).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let put = tokio::time::timeout(Duration::from_secs(5), well.put("a", "x", When::Absent)).await;
    drop(free);
    put.expect("it does not wait for the folder that hangs").unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_filesystem_without_attributes_is_refused_by_name() {
    let rt = Rt::new(RealRuntime::current());
    let e = FileStore::open(&rt, std::path::Path::new("/proc")).await.unwrap_err();
    assert!(e.is(Kind::Unsupported) && e.to_string().contains("file:///proc"), "{e}");
}

#[tokio::test]
async fn links_pipes_and_odd_names_are_neither_followed_nor_shown() {
    let yard = yard().await;
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink(outside.path(), yard.path("link")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), yard.path("leaf")).unwrap();
    let fifo = (yard.path("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo.0, fifo.1, fifo.2, 0).unwrap();
    fs::create_dir_all(yard.path(".%f")).unwrap();
    for foreign in [".%zzz", ".%=plain", ".%f/.%zzz"] {
        fs::write(yard.path(foreign), "x").unwrap();
    }
    fs::create_dir_all(yard.path(".%+short")).unwrap();
    fs::write(yard.path(".%+short/x"), "x").unwrap();
    let bytes = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\xfe");
    fs::write(yard.dir.path().join::<&std::ffi::OsStr>(bytes), "x").unwrap();
    fs::create_dir_all(yard.path("empty/inner")).unwrap();
    yard.store("plain", "x").await;
    assert_eq!(yard.keys("").await, ["plain"]);
    let groups = List { delimited: true, max: 10, ..List::default() };
    assert_eq!(yard.bucket.list(&groups, WHY).await.unwrap().prefixes, Vec::<String>::new());
    for key in ["link/secret", "leaf", "fifo", "link"] {
        assert!(yard.body(key).await.is_none(), "{key}");
        yard.bucket.delete(&[key.into()], WHY).await.unwrap();
    }
    for key in ["link/new", "link/secret", "leaf", "fifo"] {
        let e = yard.put(key, "x", When::Always).await.unwrap_err();
        assert!(e.is(Kind::Refused), "{key}: {e}");
    }
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"s");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(yard.keys("").await, ["plain"]);
}

#[tokio::test]
async fn an_object_and_a_folder_share_a_name() {
    let yard = yard().await;
    let etag = yard.store("a", "file").await;
    yard.store("a/b", "inner").await;
    assert!(yard.path("a").is_dir() && yard.path(".%f/a").is_file());
    assert_eq!((yard.body("a").await.unwrap(), yard.etag("a").await), ("file".into(), etag.clone()));
    assert!(matches!(yard.put("a", "no", When::Absent).await, Ok(Put::Refused)));
    assert!(matches!(yard.put("a", "new", When::Matches(etag)).await, Ok(Put::Stored(_))));
    assert_eq!(yard.keys("").await, ["a", "a/b"]);
    yard.bucket.delete(&["a/b".into()], WHY).await.unwrap();
    assert_eq!(yard.body("a").await.unwrap(), "new");
    // With the folder gone it goes back to its plain path when it is written next.
    yard.store("a", "plain").await;
    assert!(yard.path("a").is_file() && !yard.path(".%f/a").exists());
    // What a crash between the two steps leaves: the plain one is the object, and deleting takes both.
    fs::create_dir_all(yard.path(".%f")).unwrap();
    fs::write(yard.path(".%f/a"), "stale").unwrap();
    assert_eq!((yard.body("a").await.unwrap(), yard.keys("").await), ("plain".into(), vec!["a".to_owned()]));
    yard.bucket.delete(&["a".into()], WHY).await.unwrap();
    assert!(yard.body("a").await.is_none());
    assert_eq!(fs::read_dir(yard.dir.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_come_and_go_under_racing_writers() {
    let yard = yard().await;
    let other = FileStore::open(&yard.rt, yard.dir.path()).await.unwrap();
    let tasks: Vec<_> = (0..8u32)
        .map(|task| {
            let bucket = if task % 2 == 0 { yard.bucket.clone() } else { other.clone() };
            let key = ["x", "x/y", "x/y/z", "x/y/z/w"][task as usize / 2].to_owned();
            yard.rt.spawn(async move {
                for round in 0..150 {
                    let body = Bytes::from(format!("{task} {round}"));
                    let out = bucket.put(&key, body, When::Always, WHY).await.unwrap();
                    assert!(matches!(out, Put::Stored(_)), "{out:?}");
                    bucket.get(&key, WHOLE, WHY).await.unwrap();
                    bucket.delete(std::slice::from_ref(&key), WHY).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(yard.keys("").await, Vec::<String>::new());
    assert_eq!(fs::read_dir(yard.dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn what_a_crash_left_is_cleared_away_at_the_next_start() {
    let yard = yard().await;
    yard.store("a", "x").await;
    let tmp = yard.path(".%windlass/tmp");
    for name in ["old", "new", "held"] {
        fs::write(tmp.join(name), "half").unwrap();
    }
    age(&tmp.join("old"), Duration::from_secs(25 * 3600));
    // Another process is at it, however long it takes.
    age(&tmp.join("held"), Duration::from_secs(25 * 3600));
    let held = fs::File::open(tmp.join("held")).unwrap();
    held.lock().unwrap();
    let again = FileStore::open(&yard.rt, yard.dir.path()).await.unwrap();
    // A process that only reads tidies too.
    assert!(again.head("a", WHY).await.unwrap().is_some());
    let left = || -> Vec<_> { fs::read_dir(&tmp).unwrap().map(|e| e.unwrap().file_name()).collect() };
    assert_eq!(left(), ["held"]);
    drop(held);
    FileStore::open(&yard.rt, yard.dir.path()).await.unwrap().head("a", WHY).await.unwrap();
    assert!(left().is_empty());
    assert_eq!(yard.keys("").await, ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_another_holds_is_waited_for_in_vain() {
    let yard = yard().await;
    yard.store("a", "x").await;
    let locks: Vec<_> =
        fs::read_dir(yard.path(".%windlass/locks")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(locks.len(), 1);
    let file = fs::File::open(&locks[0]).unwrap();
    file.lock().unwrap();
    let e = yard.put("a", "y", When::Always).await.unwrap_err();
    assert!(e.is(Kind::Unavailable) && e.to_string().contains("another process"), "{e}");
    drop(file);
    yard.store("a", "z").await;
}

/// One of the processes of the next test: counts up a number by compare-and-set.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by processes_agree_on_conditions"]
async fn count_up_in_a_process_of_its_own() {
    let dir = PathBuf::from(std::env::var("WINDLASS_TEST_DIR").unwrap());
    let rt = Rt::new(RealRuntime::current());
    let bucket = FileStore::open(&rt, &dir).await.unwrap();
    for _ in 0..100 {
        loop {
            let found = bucket.get("number", WHOLE, WHY).await.unwrap();
            let (n, when) = match found {
                None => (0, When::Absent),
                Some(f) => {
                    let text = std::str::from_utf8(&f.body).unwrap();
                    (text.parse::<u64>().unwrap(), When::Matches(f.head.etag))
                }
            };
            let next = Bytes::from((n + 1).to_string());
            match bucket.put("number", next, when, WHY).await.unwrap() {
                Put::Stored(_) => break,
                Put::Refused => {}
                Put::Unknown(e) => panic!("{e}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_agree_on_conditions() {
    let yard = yard().await;
    let counters: Vec<_> = (0..3)
        .map(|_| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "file::tests::count_up_in_a_process_of_its_own"])
                .env("WINDLASS_TEST_DIR", yard.dir.path())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for counter in counters {
        let done = counter.wait_with_output().unwrap();
        // A name that no test has is no failure to the child.
        assert!(done.status.success() && String::from_utf8_lossy(&done.stdout).contains("1 passed"));
    }
    assert_eq!(yard.body("number").await.unwrap(), "300");
}

#[tokio::test]
async fn whatever_else_lies_under_a_key_neither_hangs_nor_is_read_whole() {
    let yard = yard().await;
    fs::create_dir_all(yard.path("d/dir/inside")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", yard.path("d/link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        yard.path("d/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for key in ["d/dir", "d/link", "d/pipe"] {
        assert_eq!(yard.body(key).await, None, "{key}");
        assert!(yard.bucket.head(key, WHY).await.unwrap().is_none());
    }
    for key in ["d/link", "d/pipe"] {
        let e = yard.put(key, "x", When::Absent).await.unwrap_err();
        assert!(e.is(Kind::Refused) && e.to_string().contains(key), "{e}");
    }
    yard.store("d/dir", "beside").await;
    assert_eq!(yard.body("d/dir").await.unwrap(), "beside");
    // A terabyte of nothing: told apart by its state, replaced by its etag, never read.
    let huge = fs::File::create(yard.path("huge")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let began = std::time::Instant::now();
    let first = yard.etag("huge").await;
    assert_eq!(yard.bucket.get("huge", WHOLE, WHY).await.unwrap_err().kind(), Kind::Invalid);
    let part = ByteRange::At { offset: 1 << 30, len: 10 };
    let found = yard.bucket.get("huge", part, WHY).await.unwrap().unwrap();
    assert_eq!((found.body.len(), found.head.size), (10, 1 << 40));
    assert_eq!(yard.etag("huge").await, first);
    std::thread::sleep(Duration::from_millis(20));
    huge.set_len((1 << 40) + 1).unwrap();
    huge.set_len(1 << 40).unwrap();
    let second = yard.etag("huge").await;
    assert_ne!(second, first);
    assert!(matches!(yard.put("huge", "x", When::Matches(first)).await, Ok(Put::Refused)));
    assert!(matches!(yard.put("huge", "x", When::Matches(second)).await, Ok(Put::Stored(_))));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn what_was_changed_since_it_was_seen_is_not_deleted() {
    let yard = yard().await;
    let (seen, same) = (yard.store("a/b", "old").await, yard.store("a/c", "same").await);
    yard.store("a/b", "new").await;
    let gone = ("none".to_owned(), seen.clone());
    let objects = [("a/b".to_owned(), seen), ("a/c".to_owned(), same), gone];
    assert!(!yard.bucket.delete_same(&objects, WHY).await.unwrap());
    assert_eq!((yard.body("a/b").await.unwrap(), yard.body("a/c").await), ("new".into(), None));
    assert!(yard.bucket.delete_same(&objects[1..], WHY).await.unwrap());
}

/// Large ones go past the page cache, but for their last bytes.
#[tokio::test]
async fn objects_of_any_length_are_whole() {
    let yard = yard().await;
    let mib = 1 << 20;
    for len in [0, 1, 4096, mib - 1, mib, mib + 1, mib + 4095, mib + 4096, 3 * mib + 5000] {
        let body: Bytes = (0..len as u32).map(|i| (i ^ i >> 8 ^ i >> 16) as u8).collect();
        yard.bucket.put("a/b", body.clone(), When::Always, WHY).await.unwrap();
        assert!(fs::read(yard.path("a/b")).unwrap() == body, "{len} bytes");
        let whole = ByteRange::Whole { max: len as u64 };
        let found = yard.bucket.get("a/b", whole, WHY).await.unwrap().unwrap();
        assert!(found.body == body && found.head.size == len as u64, "{len} bytes");
    }
}

#[tokio::test]
async fn what_is_made_is_the_owners_alone_and_what_is_there_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt as _;
    let yard = yard().await;
    let mode = |name: &str| fs::metadata(yard.path(name)).unwrap().permissions().mode() & 0o777;
    let own = mode("");
    yard.store("a/b/c", "1").await;
    yard.store("top", "2").await;
    for (name, bits) in
        [("a", 0o700), ("a/b", 0o700), ("a/b/c", 0o600), ("top", 0o600), (".%windlass", 0o700)]
    {
        assert_eq!(mode(name), bits, "{name}: {:o}", mode(name));
    }
    assert_eq!(mode(""), own, "the folder itself is its maker's");
    fs::set_permissions(yard.path("top"), fs::Permissions::from_mode(0o644)).unwrap();
    yard.store("top", "3").await;
    assert_eq!(mode("top"), 0o644);
    assert_eq!(yard.body("top").await.unwrap(), "3");
}

/// As on a filesystem that is frozen: writes wait in the kernel, reads are answered.
#[tokio::test]
#[allow(clippy::await_holding_lock)] // what waits for it are worker threads
async fn puts_that_hang_leave_threads_to_reads_and_more_than_may_wait_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let rt = Rt::new(RealRuntime::current());
    let store = FileStore::new(&rt, dir.path());
    let put = |n: usize| {
        let store = store.clone();
        async move { store.put(&format!("k{n}"), Bytes::from_static(b"x"), When::Absent, WHY).await }
    };
    assert!(matches!(put(0).await, Ok(Put::Stored(_))));
    let hang = store.inner.puts.hang.lock();
    let stuck: Vec<_> = (1..=AT_ONCE).map(|n| rt.spawn(put(n))).collect();
    let begun = rt.now();
    while store.hangs().is_none() {
        assert!(rt.now().since(begun) < Duration::from_secs(10), "it is never told");
        rt.sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..2 * AT_ONCE {
        let found = rt.timeout(Duration::from_secs(5), store.get("k0", WHOLE, WHY)).await;
        assert!(found.expect("a read has a thread").unwrap().is_some());
    }
    let refused = rt.timeout(Duration::from_secs(5), put(99)).await.expect("it is refused").unwrap_err();
    assert!(refused.is(Kind::Unavailable) && refused.to_string().contains("frozen"), "{refused}");
    assert_eq!(store.room.all.available_permits(), AT_ONCE - CHANGES_AT_ONCE);
    drop(hang);
    for (n, put) in stuck.into_iter().enumerate() {
        let out = put.await.unwrap();
        // Those that found no turn were not begun.
        let expected = if n < CHANGES_AT_ONCE { out.is_ok() } else { out.is_err() };
        assert!(expected, "{n}: {out:?}");
    }
    assert_eq!(store.hangs(), None);
    assert!(matches!(put(99).await, Ok(Put::Stored(_))), "it goes on by itself");
}

#[tokio::test]
async fn the_bytes_that_threads_write_at_a_time_are_bounded() {
    let rt = Rt::new(RealRuntime::current());
    let room = Room::new();
    let most = u64::from(KIB_AT_ONCE) << 10;
    let soon = |bytes| rt.timeout(Duration::from_millis(50), room.turn(Some(bytes)));
    let (one, other) = (room.turn(Some(most / 2)).await, room.turn(Some(most / 2)).await);
    assert!(soon(1).await.is_none());
    assert!(
        soon(0).await.is_some() && rt.timeout(Duration::from_millis(50), room.turn(None)).await.is_some()
    );
    drop(one);
    assert!(soon(1).await.is_some());
    drop(other);
    assert!(soon(u64::MAX).await.is_some(), "one that is larger than all goes alone");
}
