//! A real mount, through the kernel: what programs do with files must do the same on a bucket.
//!
//! Needs /dev/fuse; without it each test says so and passes.

// A test outside of the program: its files are real ones, and a failed step is a failed test.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use windlass_base::rt::{RealDisk, RealRuntime, Rt};
use windlass_base::{Kind, Result};
use windlass_cache::DiskCache;
use windlass_fs::{MountOptions, Mounted, mount};
use windlass_store::{BucketRef, Counted, Faulty, FileStore, MemStore, Reach};

/// Lock around the start of a process. A process that is being started has all our files open until its
/// program runs, and closes them then: a close(2) that a test did not make. Tests to which that matters hold
/// the lock for reading.
static STARTING: RwLock<()> = RwLock::new(());

fn run(command: &mut Command) -> std::io::Result<Output> {
    let child = {
        let _alone = STARTING.write().unwrap_or_else(PoisonError::into_inner);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?
    };
    child.wait_with_output()
}

fn nothing_starts() -> RwLockReadGuard<'static, ()> {
    STARTING.read().unwrap_or_else(PoisonError::into_inner)
}

/// A mount and everything under it. It is unmounted when dropped, also by a panic.
struct Bench {
    mounted: Option<Mounted>,
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

fn absent() -> bool {
    let absent = !Path::new("/dev/fuse").exists();
    if absent {
        eprintln!("skipped: this machine has no /dev/fuse");
    }
    absent
}

impl Bench {
    fn try_new(bucket: BucketRef, options: &str) -> Result<Bench> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        fs::create_dir(dir.path().join("other")).unwrap();
        let mut bench = Bench { mounted: None, runtime, dir };
        bench.mounted = Some(bench.mount(bucket, options, "mnt")?);
        Ok(bench)
    }

    fn mount(&self, bucket: BucketRef, options: &str, at: &str) -> Result<Mounted> {
        let options = MountOptions::parse(options).unwrap().0;
        let (at, staging) = (self.dir.path().join(at), self.dir.path().join("staging"));
        self.runtime.block_on(async {
            mount(
                Rt::new(RealRuntime::current()),
                RealDisk::start(),
                bucket,
                (&at, "bucket"),
                options,
                staging,
                DiskCache::off(),
            )
            .await
        })
    }

    fn new(bucket: &Arc<MemStore>) -> Bench {
        Bench::try_new(bucket.clone(), "").unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }

    fn sh(&self, script: &str) -> String {
        let out = run(Command::new("sh").arg("-ec").arg(script).current_dir(self.path(""))).unwrap();
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Lists the files that wait in the staging folder.
    fn staged(&self) -> Vec<PathBuf> {
        let slots = fs::read_dir(self.dir.path().join("staging")).unwrap();
        let files = slots.flat_map(|slot| fs::read_dir(slot.unwrap().path()).unwrap());
        files.map(|e| e.unwrap().path()).filter(|p| !p.ends_with("lock")).collect()
    }

    fn unmount(mut self) {
        let mounted = self.mounted.take().unwrap();
        self.runtime.block_on(async {
            // A program that another test is just starting has our files open until it runs.
            while let Err(why) = mounted.unmount().await {
                assert_eq!(why.kind(), Kind::Owned, "{why}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert_eq!(self.staged(), Vec::<PathBuf>::new(), "staged files are left");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.mounted.take());
    }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut step = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(|_| step()).collect()
}

#[test]
fn files_are_written_read_and_changed() {
    if absent() {
        return;
    }
    let store = MemStore::new("k");
    let b = Bench::new(&store);
    fs::write(b.path("hello"), "hello, bucket").unwrap();
    assert_eq!(store.keys(), ["hello"]);
    assert_eq!(fs::read_to_string(b.path("hello")).unwrap(), "hello, bucket");
    fs::OpenOptions::new().append(true).open(b.path("hello")).unwrap().write_all(b"!").unwrap();
    assert_eq!(fs::read_to_string(b.path("hello")).unwrap(), "hello, bucket!");

    let big = noise(20 << 20, 7);
    fs::write(b.path("big"), &big).unwrap();
    assert!(fs::read(b.path("big")).unwrap() == big);
    let file = fs::OpenOptions::new().read(true).write(true).open(b.path("big")).unwrap();
    file.write_all_at(b"edited", 9 << 20).unwrap();
    let mut around = [0; 8];
    file.read_exact_at(&mut around, (9 << 20) - 1).unwrap();
    assert_eq!(&around[1..7], b"edited");
    file.set_len(18 << 20).unwrap();
    file.set_len(19 << 20).unwrap();
    drop(file);
    let mut want = big;
    want.truncate(18 << 20);
    want.resize(19 << 20, 0);
    want[9 << 20..(9 << 20) + 6].copy_from_slice(b"edited");
    assert!(fs::read(b.path("big")).unwrap() == want);
    let mut tail = Vec::new();
    let mut file = fs::File::open(b.path("big")).unwrap();
    file.seek(SeekFrom::Start((18 << 20) - 3)).unwrap();
    file.read_to_end(&mut tail).unwrap();
    assert!(tail == want[(18 << 20) - 3..]);
    drop(file);
    fs::File::options().write(true).open(b.path("hello")).unwrap().set_len(5).unwrap();
    assert_eq!(fs::read_to_string(b.path("hello")).unwrap(), "hello");
    b.unmount();
}

#[test]
fn names_are_made_listed_moved_and_removed() {
    if absent() {
        return;
    }
    let store = MemStore::new("k");
    let b = Bench::new(&store);
    fs::create_dir_all(b.path("a/b/c")).unwrap();
    for i in 0..30 {
        fs::write(b.path(&format!("a/b/f{i}")), format!("{i}")).unwrap();
    }
    let mut names: Vec<_> =
        fs::read_dir(b.path("a/b")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.len(), 31);
    assert_eq!(fs::rename(b.path("a"), b.path("a/b/x")).unwrap_err().raw_os_error(), Some(22));
    fs::rename(b.path("a/b"), b.path("moved")).unwrap();
    assert_eq!(fs::read_to_string(b.path("moved/f7")).unwrap(), "7");
    assert!(!b.path("a/b").exists());
    fs::rename(b.path("moved/f7"), b.path("moved/f8")).unwrap();
    assert_eq!(fs::read_to_string(b.path("moved/f8")).unwrap(), "7");
    assert!(fs::remove_dir(b.path("moved")).is_err());
    std::os::unix::fs::symlink("moved/f8", b.path("link")).unwrap();
    assert_eq!(fs::read_to_string(b.path("link")).unwrap(), "7");
    fs::set_permissions(b.path("moved/f8"), fs::Permissions::from_mode(0o751)).unwrap();
    assert_eq!(fs::metadata(b.path("moved/f8")).unwrap().mode(), 0o100751);
    fs::remove_dir_all(b.path("moved")).unwrap();
    fs::remove_file(b.path("link")).unwrap();
    fs::remove_dir(b.path("a")).unwrap();
    assert_eq!(store.keys(), [""; 0]);
    assert!(fs::read_dir(b.path("")).unwrap().next().is_none());
    b.unmount();
}

#[test]
fn shell_tools_work_side_by_side() {
    if !absent() {
        shell_tools(Bench::new(&MemStore::new("k")));
    }
}

#[test]
fn shell_tools_work_on_a_folder_as_bucket() {
    if absent() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let rt = runtime.block_on(async { Rt::new(RealRuntime::current()) });
    let bucket = match runtime.block_on(FileStore::open(&rt, root.path())) {
        Ok(bucket) => bucket,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    shell_tools(Bench::try_new(bucket, "").unwrap());
}

fn shell_tools(b: Bench) {
    let local = b.dir.path().join("local");
    fs::create_dir_all(local.join("sub/deep")).unwrap();
    for i in 0..40 {
        fs::write(local.join(format!("sub/f{i}")), noise(i * 997, i as u64)).unwrap();
    }
    fs::write(local.join("sub/deep/run.sh"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(local.join("sub/deep/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    b.sh("cp -a ../local/sub one & (tar -C ../local -cf - sub | tar xf -) & wait");
    b.sh("diff -r ../local/sub one; diff -r ../local/sub sub");
    assert_eq!(b.sh("./one/deep/run.sh"), "ran\n");
    b.sh("dd if=/dev/urandom of=dd bs=64k count=200 conv=fsync status=none; cp dd dd2; cmp dd dd2; rm dd");
    assert_eq!(
        b.sh("printf 'one\\ntwo\\n' > t; sed -i s/two/2/ t; echo 3 >> t; cat t; mv t u; cat u"),
        "one\n2\n3\none\n2\n3\n"
    );
    b.sh("mv sub two; test ! -e sub; diff -r ../local/sub two; mv -n dd2 u; cmp dd2 ../local/x 2>/dev/null || test -e dd2");
    b.sh("for i in 1 2 3 4; do (for j in 1 2 3 4 5; do echo $i >> p$i; done) & done; wait; for i in 1 2 3 4; do test $(wc -l < p$i) = 5; done");
    b.sh("find . -type f | wc -l; du -s . > /dev/null; df . > /dev/null");
    b.sh("rm -r one two; rm -f p? u dd2");
    assert_eq!(b.sh("ls -A"), "");
    b.unmount();
}

/// Tells whether a program is missing, and prints a word about it then.
fn lacks(program: &str) -> bool {
    let lacks = run(Command::new(program).arg("--version")).is_err();
    if lacks {
        eprintln!("skipped: this machine has no {program}");
    }
    lacks
}

/// Promise: Programs that write a temporary file and rename it, and those that lock, edit and sync in place, work.
#[test]
fn programs_keep_their_files_here() {
    if absent() {
        return;
    }
    for options in ["", "flush=local"] {
        let store = MemStore::new("k");
        let b = Bench::try_new(store.clone(), options).unwrap();
        b.sh("printf 'x = 1\\n' > conf.toml; cp conf.toml .conf.toml.swp; echo 'y = 2' >> .conf.toml.swp; sync .conf.toml.swp; mv .conf.toml.swp conf.toml");
        assert_eq!(fs::read_to_string(b.path("conf.toml")).unwrap(), "x = 1\ny = 2\n");
        b.sh("mkdir t; seq 1000 > t/n; tar cf t.tar t; tar -C t -xf t.tar; cmp t/n t/t/n; tar tf t.tar > /dev/null");
        if !lacks("git") {
            let git = "git -c init.defaultBranch=main -c user.name=a -c user.email=a@example.com -c safe.directory='*'";
            b.sh(&format!("mkdir repo; cd repo; {git} init -q .; cp ../t/n .; {git} add .; {git} commit -qm one; seq 9 > n; {git} commit -qam two; {git} gc -q; {git} fsck --strict; {git} checkout -q HEAD~1; test $(wc -l < n) = 1000"));
        }
        if !lacks("sqlite3") {
            for mode in ["delete", "wal"] {
                let sql = format!(
                    "pragma journal_mode={mode}; create table t_{mode}(a, b); with recursive n(i) as (select 1 union all select i+1 from n where i<2000) insert into t_{mode} select i, hex(randomblob(40)) from n; update t_{mode} set b='x' where a%3=0; delete from t_{mode} where a%5=0; pragma integrity_check; select count(*) from t_{mode};"
                );
                let said = b.sh(&format!("sqlite3 base.sqlite \"{sql}\""));
                assert!(said.ends_with("ok\n1600\n"), "{mode}: {said}");
            }
        }
        b.unmount();
        assert!(store.keys().contains(&"conf.toml".to_owned()), "{options}");
        let again = Bench::new(&store);
        again.sh("cmp t/n t/t/n; test ! -e base.sqlite || test $(sqlite3 base.sqlite 'select count(*) from t_wal') = 1600");
        again.unmount();
    }
}

/// Promise: cp of a file of up to 4 GiB within a mount is one request of the store.
#[test]
fn copies_within_a_mount_move_no_bytes() {
    use windlass_store::{Store as _, Verb};
    if absent() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let counted =
        Counted::new(&runtime.block_on(async { Rt::new(RealRuntime::current()) }), MemStore::new("k"));
    let b = Bench::try_new(counted.clone(), "").unwrap();
    let big = noise(40 << 20, 3);
    // By a process of its own: what this one has open is closed, and sent, by whatever another test starts.
    fs::write(b.dir.path().join("big"), &big).unwrap();
    b.sh("cp ../big big; cp big copy");
    assert!(fs::read(b.path("copy")).unwrap() == big);
    b.unmount();
    let lines = counted.counters().unwrap().snapshot();
    let sent: u64 = lines.iter().map(|l| l.sent_bytes).sum();
    let copies: u64 = lines.iter().filter(|l| l.verb == Verb::Copy).map(|l| l.requests).sum();
    assert_eq!((sent, copies), (40 << 20, 1), "{lines:?}");
}

/// Promise: With `flush=local`, small files are closed at the speed of this host.
#[test]
fn small_files_are_closed_at_once_and_sent_behind() {
    if absent() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let rt = runtime.block_on(async { Rt::new(RealRuntime::current()) });
    let store = MemStore::new("k");
    let faulty = Faulty::new(&rt, store.clone());
    // What is known of the new directory is believed however slow this machine is.
    let b = Bench::try_new(faulty.clone(), "flush=local,metadata_ttl=600").unwrap();
    let local = b.dir.path().join("local");
    fs::create_dir(&local).unwrap();
    for i in 0..300 {
        fs::write(local.join(format!("f{i:03}")), noise(i * 13, i as u64)).unwrap();
    }
    b.sh("cd ../local; tar -cf ../local.tar *");
    fs::create_dir(b.path("local")).unwrap();
    // Nothing is answered while the files are made: no request stands between a write and its close.
    faulty.faults(|f| f.reach = Reach::Refuses);
    b.sh("tar -C local -xf ../local.tar; cmp local/f299 ../local/f299");
    assert_eq!(store.keys(), ["local/"]);
    faulty.faults(|f| f.reach = Reach::Up);
    b.sh("test $(ls local | wc -l) = 300; cmp local/f298 ../local/f298");
    b.unmount();
    assert_eq!(store.keys().len(), 301);
}

#[test]
fn what_others_put_is_seen_with_sane_modes() {
    if absent() {
        return;
    }
    use windlass_store::{Attrs, Bucket as _, Cause, Store as _, When};
    let store = MemStore::new("k");
    let b = Bench::try_new(store.clone(), "metadata_ttl=0,umask=027").unwrap();
    let put = |key: &str, body: &'static str| {
        b.runtime.block_on(store.put(key, body.into(), When::Always, Cause::File)).unwrap();
    };
    put("plain", "1");
    put("dir/below/file", "2");
    put("both", "object");
    put("both/x", "below");
    put("a//b", "3");
    assert_eq!(fs::metadata(b.path("plain")).unwrap().mode(), 0o100640);
    assert_eq!(fs::metadata(b.path("dir/below")).unwrap().mode(), 0o040750);
    assert_eq!(fs::read_to_string(b.path("dir/below/file")).unwrap(), "2");
    assert_eq!(fs::read_to_string(b.path("both/x")).unwrap(), "below");
    assert_eq!(fs::read_to_string(b.path("%~both%!")).unwrap(), "object");
    assert_eq!(fs::read_to_string(b.path("a/%~/b")).unwrap(), "3");
    assert_eq!(b.sh("ls"), "%~both%!\na\nboth\ndir\nplain\n");
    // Close-to-open: the next open sees another's object, and not the pages of the last one.
    assert_eq!(fs::read_to_string(b.path("plain")).unwrap(), "1");
    put("plain", "changed elsewhere");
    assert_eq!(fs::read_to_string(b.path("plain")).unwrap(), "changed elsewhere");
    // A link leads where it does now, and not where the kernel once read that it does.
    for target in ["dir/below/file", "plain"] {
        let attrs = Attrs { user: [("mode".to_owned(), 0o120777.to_string())].into(), ..Attrs::default() };
        b.runtime.block_on(store.put_with("link", target.into(), &attrs, When::Always, Cause::File)).unwrap();
        assert_eq!(fs::read_link(b.path("link")).unwrap(), Path::new(target));
        assert_eq!(fs::read(b.path("link")).unwrap(), fs::read(b.path(target)).unwrap());
    }
    b.sh("rm -r dir both a");
    b.unmount();
}

/// Promise: Who opens a file is judged by what it is by now.
// What the kernel was told holds for a minute here.
#[test]
fn what_a_file_has_become_is_found_at_open() {
    if absent() {
        return;
    }
    use windlass_store::{Attrs, Bucket as _, Cause, When};
    let store = MemStore::new("k");
    let b = Bench::try_new(store.clone(), "metadata_ttl=60,allow_other").unwrap();
    fs::set_permissions(b.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let put = |key: &str, body: &'static str, mode: Option<u32>| {
        let mut attrs = Attrs::default();
        attrs.user.extend(mode.map(|mode| ("mode".to_owned(), mode.to_string())));
        b.runtime.block_on(store.put_with(key, body.into(), &attrs, When::Always, Cause::File)).unwrap();
    };
    for name in ["link", "secret", "target"] {
        put(name, name, None);
        assert_eq!(fs::metadata(b.path(name)).unwrap().mode(), 0o100644);
    }
    put("link", "target", Some(0o120777));
    assert_eq!(
        fs::read_to_string(b.path("link")).unwrap(),
        "target",
        "where it leads to, which says the same"
    );
    assert!(fs::symlink_metadata(b.path("link")).unwrap().is_symlink());
    put("target", "further", None);
    assert_eq!(fs::read_to_string(b.path("link")).unwrap(), "further");

    // As long as before; for others than before.
    put("same", "old bytes", None);
    assert_eq!(fs::read_to_string(b.path("same")).unwrap(), "old bytes");
    put("same", "new bytes", Some(0o100640));
    assert_eq!(fs::read_to_string(b.path("same")).unwrap(), "new bytes");
    put("same", "3rd bytes", Some(0o100640));
    fs::set_permissions(b.path("same"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::read_to_string(b.path("same")).unwrap(), "3rd bytes");

    put("secret", "mine alone", Some(0o100600));
    let nobody = |command: &str| {
        run(Command::new("sh").args(["-c", command]).current_dir(b.path("")).uid(65534).gid(65534))
    };
    match nobody("cat target secret") {
        Err(why) => eprintln!("skipped: only root can be another user: {why}"),
        Ok(out) => {
            assert_eq!(String::from_utf8_lossy(&out.stdout), "further");
            assert!(String::from_utf8_lossy(&out.stderr).contains("Permission denied"), "{out:?}");
        }
    }
    assert_eq!(fs::read_to_string(b.path("secret")).unwrap(), "mine alone");
    b.unmount();
}

#[test]
fn an_update_made_elsewhere_is_never_overwritten() {
    if absent() {
        return;
    }
    use windlass_store::{Cause, Store as _, When};
    let store = MemStore::new("k");
    let b = Bench::new(&store);
    fs::write(b.path("f"), "mine").unwrap();
    let alone = nothing_starts();
    let mut file = fs::OpenOptions::new().write(true).open(b.path("f")).unwrap();
    file.write_all(b"ours").unwrap();
    b.runtime.block_on(store.put("f", "theirs".into(), When::Always, Cause::File)).unwrap();
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(116), "ESTALE");
    // Whoever opens the name gets the other's object, whether or not the handle that lost is released yet.
    assert_eq!(fs::read_to_string(b.path("f")).unwrap(), "theirs");
    drop((file, alone));
    assert_eq!(fs::read_to_string(b.path("f")).unwrap(), "theirs");
    let names = b.sh("ls");
    let [theirs, ours] = names.lines().collect::<Vec<_>>()[..] else { panic!("{names}") };
    assert!(theirs == "f" && ours.starts_with("f.conflict-"), "{names}");
    assert_eq!(fs::read_to_string(b.path(ours)).unwrap(), "ours");
    b.unmount();
}

/// A shell's `command > file` copies its descriptor and closes one before the command writes.
/// Promise: When close or fsync returns success, the object is stored and is the file.
#[test]
fn a_redirection_replaces_nothing_before_something_is_written() {
    if absent() {
        return;
    }
    use windlass_store::{Cause, Store as _};
    let store = MemStore::new("k");
    let b = Bench::new(&store);
    let stored = |key: &str| b.runtime.block_on(store.head(key, Cause::File)).unwrap();
    let size = |key: &str| stored(key).map(|head| head.size);
    fs::write(b.path("f"), "old").unwrap();
    let alone = nothing_starts();
    for name in ["f", "new"] {
        let was = size(name);
        let file = fs::File::create(b.path(name)).unwrap();
        let mut copy = file.try_clone().unwrap();
        drop(file);
        assert_eq!(size(name), was, "{name}: nothing is written yet");
        copy.write_all(b"longer").unwrap();
        drop(copy);
        assert_eq!(size(name), Some(6), "{name}");
    }
    let file = fs::File::create(b.path("f")).unwrap();
    drop((file.try_clone().unwrap(), file));
    assert_eq!(size("f"), Some(0), "the last close stores it");
    fs::write(b.path("empty"), "").unwrap();
    assert_eq!(size("empty"), Some(0));
    drop(alone);
    b.sh("(echo one; sleep 0.2; echo two) > f; : > empty; seq 3 > three; test $(wc -l < f) = 2");
    assert_eq!((size("f"), size("empty"), size("three")), (Some(8), Some(0), Some(6)));
    b.unmount();
}

/// A mount that ends while its bucket fails keeps what was written, and the next one sends it.
#[test]
fn what_could_not_be_sent_is_sent_by_the_next_mount() {
    if absent() {
        return;
    }
    let store = MemStore::new("k");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let rt = runtime.block_on(async { Rt::new(RealRuntime::current()) });
    let faulty = Faulty::new(&rt, store.clone());
    let mut b = Bench::try_new(faulty.clone(), "").unwrap();
    let alone = nothing_starts();
    let mut file = fs::File::create(b.path("f")).unwrap();
    file.write_all(b"precious").unwrap();
    faulty.faults(|f| f.reach = Reach::Refuses);
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(5), "EIO");
    drop((file, alone));
    assert_eq!(fs::read_to_string(b.path("f")).unwrap(), "precious");
    let mounted = b.mounted.take().unwrap();
    b.runtime.block_on(mounted.unmount()).unwrap();
    assert_eq!((store.keys().len(), b.staged().len()), (0, 1));
    faulty.faults(|f| f.reach = Reach::Up);
    b.mounted = Some(b.mount(faulty, "", "mnt").unwrap());
    assert_eq!(fs::read_to_string(b.path("f")).unwrap(), "precious");
    b.unmount();
    assert_eq!(store.keys(), ["f"]);
}

#[test]
fn mounting_says_what_is_wrong() {
    if absent() {
        return;
    }
    use windlass_store::{Cause, Store as _, When};
    let store = MemStore::new("k");
    let b = Bench::new(&store);
    let busy = fs::File::create(b.path("open")).unwrap();
    let why = b.runtime.block_on(b.mounted.as_ref().unwrap().unmount()).unwrap_err();
    assert_eq!(why.kind(), Kind::Owned, "{why}");
    drop(busy);
    b.unmount();
    let label = r#"{"format":1,"pool":"00","index":0,"incarnation":"00"}"#;
    let put = store.put("label-00000000000000000000000000000000", label.into(), When::Always, Cause::File);
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(put).unwrap();
    let why = Bench::try_new(store, "").err().unwrap();
    assert_eq!(why.kind(), Kind::Refused, "{why}");
    let b = Bench::try_new(MemStore::new("r"), "ro").unwrap();
    assert_eq!(fs::write(b.path("x"), "x").unwrap_err().raw_os_error(), Some(30));
    b.unmount();
}

#[test]
fn calls_beyond_the_standard_library() {
    use rustix::fs::{CWD, FallocateFlags, RenameFlags, XattrFlags, renameat_with};
    if absent() {
        return;
    }
    let b = Bench::new(&MemStore::new("k"));
    fs::write(b.path("a"), "aaaa").unwrap();
    fs::write(b.path("b"), "b").unwrap();
    let rename = |flags| renameat_with(CWD, b.path("a"), CWD, b.path("b"), flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(rustix::io::Errno::EXIST));
    assert_eq!(rename(RenameFlags::EXCHANGE), Err(rustix::io::Errno::INVAL));
    assert_eq!(rustix::fs::link(b.path("a"), b.path("c")), Err(rustix::io::Errno::PERM));

    let mut value = [0; 16];
    rustix::fs::setxattr(b.path("a"), "user.colour", b"blue", XattrFlags::empty()).unwrap();
    assert_eq!(rustix::fs::getxattr(b.path("a"), "user.colour", &mut value), Ok(4));
    assert_eq!(&value[..4], b"blue");
    rustix::fs::removexattr(b.path("a"), "user.colour").unwrap();
    let gone = rustix::fs::getxattr(b.path("a"), "user.colour", &mut value);
    assert_eq!(gone, Err(rustix::io::Errno::NODATA));

    // A file whose name is gone goes on for those who have it open.
    let mut open = fs::OpenOptions::new().read(true).write(true).open(b.path("a")).unwrap();
    fs::rename(b.path("b"), b.path("a")).unwrap();
    open.seek(SeekFrom::End(0)).unwrap();
    open.write_all(b"more").unwrap();
    open.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "aaaamore");
    drop(open);
    assert_eq!(fs::read_to_string(b.path("a")).unwrap(), "b");

    let file =
        fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(b.path("h")).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 10_000).unwrap();
    file.write_all_at(&[7; 10_000], 0).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 1000, 2000).unwrap();
    drop(file);
    let bytes = fs::read(b.path("h")).unwrap();
    assert_eq!((bytes.len(), bytes[999], bytes[1000], bytes[2999], bytes[3000]), (10_000, 7, 0, 0, 7));

    // Archives and rsync set what they find at their root.
    b.sh("chmod 750 .; touch .; test $(stat -c %a .) = 750");
    b.sh("touch -d '2001-02-03 04:05:06.789 UTC' a");
    let at = fs::metadata(b.path("a")).unwrap();
    assert_eq!((at.mtime(), at.mtime_nsec()), (981_173_106, 789_000_000));
    assert_eq!(fs::metadata(b.path(&"x".repeat(256))).unwrap_err().raw_os_error(), Some(36));
    b.unmount();
}

/// Promise: With `-o versions`, earlier versions are files.
#[test]
fn versions_are_copied_out_by_shell_tools() {
    if absent() {
        return;
    }
    let store = MemStore::new("k");
    store.keep_versions();
    let b = Bench::try_new(store.clone(), "versions").unwrap();
    fs::create_dir(b.path("d")).unwrap();
    fs::write(b.path("d/f"), "one\n").unwrap();
    fs::write(b.path("d/f"), "two\n").unwrap();
    b.sh("chmod 600 d/f; rm d/f; mkdir d/sub; echo x > d/sub/x; rm -r d/sub");
    assert_eq!(b.sh("ls -a d | wc -l").trim(), "2", "`.versions` is found, not listed");
    assert_eq!(
        b.sh("ls d/.versions; ls d/.versions/sub/.versions").split_whitespace().collect::<Vec<_>>(),
        ["f", "sub", "x"]
    );
    // 1970: the store in memory counts its milliseconds from there.
    let long = b.sh("ls -l d/.versions/f | grep -v total | cut -c1-10");
    assert_eq!(long, "-r--r--r--\n-r--r--r--\n-r--------\n-r--r--r--\n");
    b.sh("cp \"$(ls -d d/.versions/f/* | head -n 1)\" d/f");
    assert_eq!(fs::read_to_string(b.path("d/f")).unwrap(), "one\n");
    assert_eq!(b.sh("cat d/.versions/f/*-deleted | wc -c").trim(), "0");
    b.sh("find . d/.versions d/.versions/*/ -type f -print0 | xargs -0 cat > /dev/null");
    b.sh("! echo x > d/.versions/f/new; ! rm -r d/.versions/f 2>/dev/null; ! mv d d/.versions/g 2>/dev/null; ! rmdir d/.versions");
    let written = fs::write(b.path("d/.versions/x"), "x").unwrap_err();
    assert_eq!(written.raw_os_error(), Some(30));
    assert_eq!(b.sh("ls d/.versions/f | wc -l").trim(), "5", "and the copy");
    b.unmount();
}

/// Promise: A store that keeps no versions says so.
#[test]
fn a_folder_has_no_versions() {
    if absent() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let rt = runtime.block_on(async { Rt::new(RealRuntime::current()) });
    let bucket = match runtime.block_on(FileStore::open(&rt, root.path())) {
        Ok(bucket) => bucket,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let b = Bench::try_new(bucket, "versions").unwrap();
    fs::write(b.path("f"), "x").unwrap();
    assert_eq!(fs::read_dir(b.path(".versions")).unwrap_err().raw_os_error(), Some(95));
    assert_eq!(fs::read_dir(b.path("")).unwrap().count(), 1);
    b.unmount();
}

/// The kernel does the changes of one directory one after another. On a store that hangs they do not wait a deadline each.
/// Promise: A store that hangs hangs nobody.
#[test]
fn changes_of_one_directory_of_a_hung_store_end_soon() {
    if absent() {
        return;
    }
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let faulty = {
        let _inside = rt.enter();
        Faulty::new(&Rt::new(RealRuntime::current()), MemStore::new("k"))
    };
    let b = Bench::try_new(faulty.clone(), "deadline=3").unwrap();
    fs::create_dir(b.path("before")).unwrap();
    faulty.faults(|f| (f.reach, f.patience) = (Reach::Silent, Duration::from_secs(1 << 30)));
    let began = std::time::Instant::now();
    let ends: Vec<Duration> = std::thread::scope(|scope| {
        let make = |i: usize| {
            let path = b.path(&format!("d{i}"));
            scope.spawn(move || {
                assert!(fs::create_dir(path).is_err());
                began.elapsed()
            })
        };
        let makers: Vec<_> = (0..40).map(make).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    let last = ends.iter().max().unwrap();
    // One deadline with what may follow it, for all of them.
    assert!(*last < Duration::from_millis(5500 + 3500), "{ends:?}");
    faulty.faults(|f| f.reach = Reach::Up);
    fs::create_dir(b.path("after")).unwrap();
    assert_eq!(b.sh("ls"), "after\nbefore\n");
    b.unmount();
}
