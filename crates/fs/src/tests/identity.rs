//! Whose an object is: the same bytes under the same name may be another client's, and what was stored, removed or set here long
//! ago says nothing of what is there now.

use bytes::Bytes;

use super::acts::{EMPTY, Set};
use super::rules::Act;
use super::user::{ME, READ, User, WRITE};
use crate::object::{Errno, Meta as _, Op};
use crate::ops::Changes;
use crate::tree::{OpenMode, ROOT};
use windlass_base::rt::Task;
use windlass_store::{Attrs, Bucket as _, Cause, EtagRule, Store as _};

const OF_BYTES: EtagRule = EtagRule::OfBytes;
const NEW: OpenMode = OpenMode { exclusive: true, ..EMPTY };

impl Set {
    /// Does something in the background.
    fn does<F: Future<Output = Op<()>> + Send + 'static>(
        &self,
        user: &User,
        what: impl FnOnce(User) -> F,
    ) -> Task<Op<()>> {
        self.world.rt().spawn(what(user.another()))
    }

    async fn attrs(&self, key: &str) -> Attrs {
        self.store.contents().head(key, Cause::File).await.unwrap().unwrap().attrs
    }

    fn copy_beside(&self, key: &str) -> Option<String> {
        let begins = format!("{key}.conflict-");
        self.keys().into_iter().find(|key| key.starts_with(&begins))
    }
}

async fn edit(user: &User, path: &str, bytes: &'static [u8]) -> u64 {
    let handle = user.open(path, WRITE, false).await.unwrap();
    user.fs.write(handle, 0, Bytes::from_static(bytes)).await.unwrap();
    handle
}

async fn chmod(user: &User, path: &str, mode: u32) {
    let ino = user.stat(path).await.unwrap().ino;
    user.fs.setattr(ino, Changes { mode: Some(mode), ..Changes::default() }, None).await.unwrap();
}

/// Somebody holds a file open that was stored, and another client has removed it, put back what was there before, or put something
/// else: after a kill nothing of that is undone.
/// Promise: An update made elsewhere is never overwritten.
#[test]
fn what_was_stored_is_not_sent_again_after_a_kill() {
    for flush in ["bucket", "local"] {
        for then in [None, Some("before"), Some("third!")] {
            Set::run(1, OF_BYTES, move |set| async move {
                set.put("f", b"before").await;
                let (process, user) = set.mount(&format!("flush={flush}")).await;
                let other = set.other().await;
                let _reader = user.open("f", READ, false).await.unwrap();
                let writer = edit(&user, "f", b"after!").await;
                match flush {
                    "bucket" => user.close(writer).await.unwrap(),
                    // A log that is written on and on.
                    _ => user.fs.fsync(writer).await.unwrap(),
                }
                set.sleep(5_000).await;
                assert_eq!(set.body("f").await.unwrap(), "after!");
                match then {
                    Some(bytes) => other.put("f", bytes.as_bytes()).await.unwrap(),
                    None => other.remove("f").await.unwrap(),
                }
                set.sleep(5_000).await;
                process.kill();
                drop(user);
                let (_, user) = set.mount(&format!("flush={flush}")).await;
                set.sleep(5_000).await;
                user.fs.finish().await;
                let is = set.body("f").await;
                assert_eq!(is.as_deref(), then.map(str::as_bytes), "{flush}: {:?}", set.keys());
                assert_eq!(
                    set.keys().len(),
                    usize::from(then.is_some()),
                    "{flush} {then:?}: {:?}",
                    set.keys()
                );
            });
        }
    }
}

/// A removal was done, and nobody heard of it. What another client puts there since has the very bytes that were removed.
/// Promise: What was removed stays removed.
#[test]
fn a_removal_in_doubt_takes_no_object_of_the_same_bytes() {
    for killed in [false, true] {
        Set::run(1, OF_BYTES, move |set| async move {
            let (process, user) = set.mount("deadline=20").await;
            let other = set.other().await;
            user.mkdir("d").await.unwrap();
            let names: &[&str] = if killed { &["d/a", "d/b", "d/c", "d/d", "d/lock"] } else { &["d/lock"] };
            for name in names {
                user.put(name, b"mine").await.unwrap();
            }
            // Later their removal waits for others.
            set.sleep(61_000).await;
            set.store.rule(
                "delete",
                "d/lock",
                if killed { Act::Late(60_000) } else { Act::LoseAfter(2000) },
                1,
            );
            let removing = set.does(&user, move |user| async move {
                for name in names {
                    user.unlink(name).await?;
                }
                Ok(())
            });
            set.store.reached(1).await;
            set.sleep(500).await;
            other.put("d/lock", b"mine").await.unwrap();
            if killed {
                removing.await.unwrap().unwrap();
                process.kill();
                drop(user);
                let (_, user) = set.mount("deadline=20").await;
                set.sleep(30_000).await;
                user.fs.finish().await;
            } else {
                removing.await.unwrap().unwrap();
                set.sleep(20_000).await;
                user.fs.finish().await;
            }
            assert_eq!(
                set.body("d/lock").await.unwrap_or_else(|| panic!("{killed}: {:?}", set.keys())),
                "mine"
            );
        });
    }
}

/// A file that is made where one is being removed replaces that one, and no other with its bytes: a lock is had by one alone.
/// Promise: An update made elsewhere is never overwritten.
#[test]
fn what_follows_a_removal_replaces_nothing_of_others() {
    for killed in [false, true] {
        Set::run(1, OF_BYTES, move |set| async move {
            let (process, user) = set.mount("deadline=20").await;
            let other = set.other().await;
            for name in ["a", "b", "c", "e", "lock"] {
                user.put(name, b"").await.unwrap();
            }
            // Later their removal waits for others.
            set.sleep(61_000).await;
            set.store.rule("delete", "lock", Act::Late(2000), 1);
            for name in ["a", "b", "c", "e", "lock"] {
                user.unlink(name).await.unwrap();
            }
            let (_, made) = user.fs.create(ROOT, b"lock", 0o644, ME, NEW).await.unwrap();
            set.store.reached(1).await;
            set.sleep(100).await;
            other.close(other.open("lock", NEW, true).await.unwrap()).await.unwrap();
            let theirs = set.attrs("lock").await;
            set.sleep(5_000).await;
            user.fs.write(made.handle, 0, Bytes::from_static(b"pid")).await.unwrap();
            if killed {
                process.kill();
                drop(user);
                let (_, user) = set.mount("deadline=20").await;
                set.sleep(10_000).await;
                user.fs.finish().await;
            } else {
                user.close(made.handle).await.unwrap_err();
                user.fs.finish().await;
            }
            assert_eq!(set.attrs("lock").await, theirs, "{killed}");
        });
    }
}

/// A close whose version is refused while another process writes the file anew says so.
/// Promise: A bucket that fails gives EIO at close and fsync, never silence.
#[test]
fn a_close_whose_version_is_refused_beside_a_rewrite_says_so() {
    for size in [4, 20 << 20] {
        Set::run(1, OF_BYTES, move |set| async move {
            set.put("f", b"old").await;
            let (_, user) = set.mount("deadline=20").await;
            let other = set.other().await;
            let one = user.open("f", EMPTY, false).await.unwrap();
            user.fs.write(one, 0, vec![b'm'; size].into()).await.unwrap();
            set.store.rule("head", "f", Act::Late(3000), 1);
            let closing = set.does(&user, move |user| async move { user.close(one).await });
            set.store.reached(1).await;
            let second = user.open("f", EMPTY, false).await.unwrap();
            user.fs.write(second, 0, Bytes::from_static(b"half")).await.unwrap();
            other.put("f", b"theirs").await.unwrap();
            let said = closing.await.unwrap().unwrap_err();
            assert_eq!(said.errno, Errno::STALE, "{size}: {said:?}");
            let _ = user.close(second).await;
            user.fs.finish().await;
            assert_eq!(set.body("f").await.unwrap(), "theirs");
            assert_eq!(set.body(&set.copy_beside("f").unwrap()).await.unwrap().len(), size);
        });
    }
}

/// An edit waits here for the store; another client makes the file private. The next mount sends the edit, and private it stays.
/// Promise: An update made elsewhere is never overwritten.
#[test]
fn what_waited_over_a_mounts_end_undoes_no_chmod() {
    for (flush, ends) in [("local", "kill"), ("local", "unmount"), ("bucket", "kill")] {
        Set::run(1, OF_BYTES, move |set| async move {
            let (process, user) = set.mount(&format!("flush={flush},deadline=3")).await;
            user.put("f", b"before").await.unwrap();
            user.fs.idle().await;
            let other = set.other().await;
            set.store.rule("put", "f", Act::Deny, 1000);
            let handle = edit(&user, "f", b"AF").await;
            if flush == "local" {
                user.close(handle).await.unwrap();
            }
            set.sleep(2_000).await;
            if ends == "unmount" {
                user.fs.finish().await;
            }
            process.kill();
            drop(user);
            set.store.clear();
            chmod(&other, "f", 0o600).await;
            let ino = other.stat("f").await.unwrap().ino;
            other.fs.setxattr(ino, b"user.there", Some(b"x"), true, false).await.unwrap();
            let (_, user) = set.mount(&format!("flush={flush}")).await;
            set.sleep(5_000).await;
            user.fs.finish().await;
            assert_eq!(set.body("f").await.unwrap(), "AFfore", "{flush} {ends} {:?}", set.keys());
            let attrs = set.attrs("f").await;
            assert_eq!((attrs.mode().unwrap() & 0o777, attrs.xattrs().len()), (0o600, 1), "{flush} {ends}");
        });
    }
}

/// A conflict copy that has bytes of another client's object is for nobody whom that shuts out.
/// Promise: An update made elsewhere is never overwritten.
#[test]
fn a_conflict_copy_shows_nobody_what_is_private() {
    Set::run(1, OF_BYTES, |set| async move {
        let (_, user) = set.mount("").await;
        user.put("f", b"0123456789").await.unwrap();
        let other = set.other().await;
        let handle = edit(&user, "f", b"AB").await;
        chmod(&other, "f", 0o600).await;
        other.put("f", b"private things").await.unwrap();
        assert_eq!(user.close(handle).await.unwrap_err().errno, Errno::STALE);
        let copy = set.copy_beside("f").unwrap();
        assert_eq!(set.body(&copy).await.unwrap(), "ABivate th");
        assert_eq!(set.attrs(&copy).await.mode().unwrap() & 0o777, 0o600);
        user.fs.finish().await;
    });
}

/// Metadata that another client sets of a file that is being written here stay, unless this host has set
/// something else.
/// Promise: An update made elsewhere is never overwritten.
#[test]
fn what_others_set_stays_where_nothing_of_the_kind_was_set_here() {
    for mode in [None, Some("0100644")] {
        Set::run(1, OF_BYTES, move |set| async move {
            let mut attrs = Attrs::default();
            attrs.user.extend(mode.map(|mode| ("mode".to_owned(), mode.to_owned())));
            let contents = set.store.contents();
            let when = windlass_store::When::Always;
            contents.put_with("f", Bytes::from_static(b"before"), &attrs, when, Cause::File).await.unwrap();
            let (_, user) = set.mount("").await;
            let other = set.other().await;
            let handle = edit(&user, "f", b"AF").await;
            let (here, there) = (user.stat("f").await.unwrap().ino, other.stat("f").await.unwrap().ino);
            let times = Changes { mtime: Some(crate::object::Ns(5_000_000_000)), ..Changes::default() };
            user.fs.setattr(here, times, Some(handle)).await.unwrap();
            user.fs.setxattr(here, b"user.here", Some(b"x"), true, false).await.unwrap();
            other.fs.setxattr(there, b"user.there", Some(b"x"), true, false).await.unwrap();
            chmod(&other, "f", 0o600).await;
            user.close(handle).await.unwrap();
            let attrs = set.attrs("f").await;
            let names: Vec<String> = attrs.xattrs().into_keys().collect();
            assert_eq!(
                (attrs.mode().unwrap() & 0o777, names.join(" ").as_str()),
                (0o600, "user.here user.there")
            );
            assert_eq!(attrs.time("mtime").unwrap().0, 5_000_000_000);
            user.fs.finish().await;
        });
    }
}

/// A file that was closed with success and can be stored neither under its name nor beside it is told by
/// status and unmount.
/// Promise: With `flush=local`, close returns when this host has the bytes.
#[test]
fn a_conflict_that_no_copy_keeps_counts_as_unsent() {
    Set::run(1, OF_BYTES, |set| async move {
        set.put("f", b"before").await;
        let (_, user) = set.mount("flush=local,deadline=3").await;
        let other = set.other().await;
        set.store.rule("put", "f.conflict", Act::Deny, 1000);
        set.store.rule("put", "f", Act::Hold(2000), 1);
        let handle = edit(&user, "f", b"AF").await;
        user.close(handle).await.unwrap();
        set.store.reached(1).await;
        other.put("f", b"theirs").await.unwrap();
        set.sleep(20_000).await;
        assert_eq!((user.fs.pending().files, set.keys().len()), (1, 1), "{:?}", set.keys());
        user.fs.finish().await;
        assert_eq!(user.fs.kept().files, 1);
        set.store.clear();
        let (_, user) = set.mount("flush=local").await;
        set.sleep(10_000).await;
        assert_eq!(user.fs.pending().files, 0);
        user.fs.finish().await;
        assert_eq!(set.body(&set.copy_beside("f").unwrap()).await.unwrap(), "AFeirs");
    });
}

/// setxattr(2) is judged by what the object has, not by what was known of it.
#[test]
fn an_xattr_that_is_there_is_not_created() {
    Set::run(1, OF_BYTES, |set| async move {
        set.put("f", b"x").await;
        let (_, user) = set.mount("metadata_ttl=60").await;
        let other = set.other().await;
        let (here, there) = (user.stat("f").await.unwrap().ino, other.stat("f").await.unwrap().ino);
        other.fs.setxattr(there, b"user.lock", Some(b"theirs"), true, false).await.unwrap();
        let said = user.fs.setxattr(here, b"user.lock", Some(b"mine"), true, false).await.unwrap_err();
        assert_eq!(said.errno, Errno::EXIST);
        let said = user.fs.setxattr(here, b"user.none", None, false, false).await.unwrap_err();
        assert_eq!(said.errno, Errno::NODATA);
        assert_eq!(set.attrs("f").await.xattrs()["user.lock"], b"theirs");
        user.fs.finish().await;
    });
}

/// A proxy repeats what was done: our own object is no other's.
#[test]
fn what_is_refused_by_our_own_object_is_done() {
    Set::run(1, OF_BYTES, |set| async move {
        let (_, user) = set.mount("deadline=20").await;
        set.store.rule("put", "", Act::Twice, 1);
        user.mkdir("d").await.unwrap();
        set.store.rule("put", "", Act::Twice, 1);
        user.fs.symlink(ROOT, b"link", b"d", ME).await.unwrap();
        set.store.rule("put", "", Act::Twice, 1);
        user.put("a", b"a").await.unwrap();
        set.store.rule("copy", "", Act::Twice, 1);
        user.rename("a", "b", true).await.unwrap();
        set.store.rule("complete", "", Act::Twice, 1);
        user.put("large", &vec![7; 30 << 20]).await.unwrap();
        set.store.reached(5).await;
        user.fs.finish().await;
        assert_eq!(set.keys(), ["b", "d/", "large", "link"]);
    });
}

/// Two clients publish a directory under one name; this one knows that there was none a moment ago, or both begin at once.
/// Promise: A directory's rename that a crash cut off is finished by the next mount.
#[test]
fn two_directories_do_not_become_one() {
    for (apart, same) in [(true, true), (true, false), (false, true)] {
        for seed in 0..20 {
            Set::run(seed, OF_BYTES, move |set| async move {
                for name in ["a", "b", "c"] {
                    set.put(&format!("x/{name}"), b"of x").await;
                    set.put(&format!("y/{}{name}", if same { "" } else { "y" }), b"of y").await;
                }
                let ((_, user), other) = (set.mount("deadline=20").await, set.other().await);
                user.list("", false).await.unwrap();
                assert!(user.stat("release").await.is_err());
                let theirs =
                    set.does(&other, |other| async move { other.rename("y", "release", false).await });
                set.sleep(if apart { 1000 } else { set.world.below(20) }).await;
                let ours = user.rename("x", "release", false).await;
                let theirs = theirs.await.unwrap();
                set.sleep(60_000).await;
                let note = format!("{apart}, {same}, {seed}: {:?}", set.keys());
                assert!(ours.is_err() && (!apart || theirs.is_ok()) || theirs.is_err(), "{note}");
                for (done, from, bytes) in [(ours, "x/", "of x"), (theirs, "y/", "of y")] {
                    let at = if done.is_ok() { "release/" } else { from };
                    for name in ["a", "b", "c"] {
                        let name = if same || from == "x/" { name.to_owned() } else { format!("y{name}") };
                        assert_eq!(set.body(&format!("{at}{name}")).await.unwrap(), bytes, "{note}");
                    }
                }
                assert_eq!(set.keys().iter().filter(|key| !key.ends_with('/')).count(), 6, "{note}");
                user.fs.finish().await;
            });
        }
    }
}

/// Another client's chmod comes between a rename's copy and its look at the old name, in the second in which the object was stored:
/// neither etag nor time tells.
/// Promise: Renaming loses nothing.
#[test]
fn what_others_chmod_in_the_second_of_a_rename_keeps_its_mode() {
    for (rule, dir) in
        [EtagRule::OfBytes, EtagRule::OfEachPut].into_iter().flat_map(|rule| [(rule, false), (rule, true)])
    {
        for ours in [false, true] {
            Set::run(1, rule, move |set| async move {
                set.store.in_one_second();
                let ((_, user), other) = (set.mount("deadline=20").await, set.other().await);
                for (key, bytes) in [("d/", ""), ("d/s/", ""), ("d/f", "secret")] {
                    set.put(key, bytes.as_bytes()).await;
                }
                if ours {
                    user.put("d/f", b"secret").await.unwrap();
                }
                let (to, names) = if dir { ("e/", ("d", "e")) } else { ("d/g", ("d/f", "d/g")) };
                set.store.rule("copy", to, Act::Late(500), 3);
                let moving =
                    set.does(&user, move |user| async move { user.rename(names.0, names.1, false).await });
                set.store.reached(1).await;
                set.sleep(100).await;
                chmod(&other, "d/f", 0o600).await;
                if dir {
                    chmod(&other, "d/s", 0o700).await;
                }
                moving.await.unwrap().unwrap();
                let mode = async |key: &str| set.attrs(key).await.mode().unwrap_or(0o644) & 0o777;
                let note = format!("{rule:?}, {dir}, {ours}: {:?}", set.keys());
                assert_eq!(mode(if dir { "e/f" } else { "d/g" }).await, 0o600, "{note}");
                assert!(!dir || mode("e/s/").await == 0o700, "{note}");
                assert!(set.body("d/f").await.is_none(), "{note}");
                user.fs.finish().await;
            });
        }
    }
}
