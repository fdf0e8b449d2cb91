//! Puts a bucket's filesystem into the host's tree, and takes it out again.

use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::BackgroundSession;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use tokio::sync::watch;

use super::fuse::FuseServer;
use super::holders::Holders;
use super::kernel_mount::{self, DEVICE};
use crate::bucket::BucketClient;
use crate::file::MountResources;
use crate::object::MountOptions;
use crate::ops::Fs;
use crate::staging::Unsent;
use crate::tree::Pending;
use windlass_base::rt::{Disk, Rt};
use windlass_base::{Error, Kind, Result};
use windlass_store::BucketRef;

/// Type that statfs(2) tells of every FUSE filesystem.
const FUSE_MAGIC: i64 = 0x6573_5546;
/// Type that statfs(2) tells of a place where systemd or autofs mounts at the first use.
const AUTOFS_MAGIC: i64 = 0x0187;
/// Program that unmounts for users who are not root.
const FUSERMOUNT: &str = "fusermount3";
/// Type under which the kernel lists mounts of this program.
const TYPE: &str = "fuse.windlass";

/// Number of times that unmounting waits, each time for `PAUSE`, for those who are about to leave.
const PATIENCE: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// Time that the kernel may take to say that a mount is gone. Later it is looked who holds it.
const LEAVING: Duration = Duration::from_secs(2);

/// Time for which mounting waits until what an earlier mount left is sent.
const CATCH_UP: Duration = Duration::from_secs(5);

/// A mount that is up. Dropping it unmounts without waiting.
#[derive(Debug)]
pub struct Mounted {
    rt: Rt,
    fs: Arc<Fs>,
    dir: PathBuf,
    unsent: Vec<Unsent>,
    /// Name of the mount in /proc/mounts, with which it was mounted.
    name: String,
    options: MountOptions,
    /// Device number of the mount's filesystem.
    device: Option<(u32, u32)>,
    session: Mutex<Option<BackgroundSession>>,
    ended: watch::Receiver<bool>,
}

/// Fails where the bucket is a pool's store.
pub fn refuse_pool<'f>(rt: &'f Rt, bucket: &'f BucketRef, deadline: Duration) -> BoxFuture<'f, Result<()>> {
    Box::pin(async move { BucketClient::new(rt.clone(), bucket.clone(), deadline).refuse_pool().await })
}

/// Returns an error where these credentials may not list the bucket.
pub fn lacks_listing<'f>(
    rt: &'f Rt,
    bucket: &'f BucketRef,
    deadline: Duration,
) -> BoxFuture<'f, Option<Error>> {
    Box::pin(async move { BucketClient::new(rt.clone(), bucket.clone(), deadline).lacks_listing().await })
}

/// Mounts `bucket` at `dir`, named `name` in /proc/mounts unless the options say otherwise. Writes are staged in the folder
/// `staging`, which mounts of this bucket may share; what is read is kept in `cache`.
pub async fn mount(
    rt: Rt,
    disk: Arc<dyn Disk>,
    bucket: BucketRef,
    (dir, name): (&Path, &str),
    options: MountOptions,
    staging: PathBuf,
    resources: impl Into<MountResources>,
) -> Result<Mounted> {
    let place = dir.to_owned();
    let over_something = options.non_empty;
    let dir = rt.cpu(move || ready(&place, over_something)).await??;
    let name = options.fsname.clone().unwrap_or_else(|| name.to_owned());
    let (called, of_kernel) = (name.clone(), options.clone());
    let (fs, unsent) = Fs::open(rt.clone(), disk, bucket, options.clone(), staging, resources).await?;
    // What an earlier mount left is soon in the bucket, or goes on being sent by write-back.
    let _ = rt.timeout(CATCH_UP, fs.idle()).await;
    let (face, ended) = FuseServer::new(fs.clone(), rt.clone(), dir.clone());
    let at = dir.clone();
    let session = rt.cpu(move || {
        let session = kernel_mount::attach(face, &at, &of_kernel, &called)?;
        let notifier = session.notifier();
        Ok((session.spawn()?, notifier))
    });
    let (session, notifier) = session.await?.map_err(|why: std::io::Error| failed(&dir, why))?;
    fs.set_kernel(Box::new(notifier));
    let at = dir.clone();
    let device = rt.cpu(move || device_of(&at)).await?;
    Ok(Mounted { rt, fs, dir, unsent, name, options, device, session: Mutex::new(Some(session)), ended })
}

fn failed(dir: &Path, why: std::io::Error) -> Error {
    let hint = match why.kind() {
        std::io::ErrorKind::PermissionDenied => " (be root, or install fusermount3)",
        _ => "",
    };
    Error::from(why).context(format_args!("mounting at {}{hint}", dir.display()))
}

/// Returns the mount point as a canonical path, after a mount that a killed daemon left there was taken away.
/// Fails where nothing can be mounted.
fn ready(dir: &Path, over_something: bool) -> Result<PathBuf> {
    if rustix::fs::stat(DEVICE).is_err() {
        return Err(Error::new(
            Kind::Unsupported,
            format!("this machine has no {DEVICE}: load the fuse module, or give the container that device"),
        ));
    }
    let refuse = |kind, what: &str| Err(Error::new(kind, format!("{} {what}", dir.display())));
    if clear_dead(dir)? {
        tracing::info!(dir = %dir.display(), "took away a mount whose daemon is gone");
    }
    let stat = match rustix::fs::stat(dir) {
        Err(Errno::NOENT) => {
            return refuse(Kind::NotFound, "is not there: make the folder to mount at first");
        }
        other => other.map_err(|e| Error::from(std::io::Error::from(e)).context(dir.display()))?,
    };
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        return refuse(Kind::Usage, "is not a folder: name one to mount at");
    }
    let dir = dir.canonicalize()?;
    let parent = dir.parent().and_then(|p| rustix::fs::stat(p).ok());
    let of_type = type_of(&dir);
    let is_fuse = of_type == Ok(FUSE_MAGIC);
    if is_fuse && parent.is_some_and(|p| p.st_dev != stat.st_dev) {
        return refuse(Kind::Exists, "has a filesystem mounted already: unmount it first");
    }
    // What lies below a place of automount is hidden already, and a look at it would wait for this very mount.
    if !over_something && of_type != Ok(AUTOFS_MAGIC) {
        refuse_covering(&dir)?;
    }
    Ok(dir)
}

/// Refuses a folder that is not empty: its contents would not be seen while something is mounted over it, and
/// seem lost.
fn refuse_covering(dir: &Path) -> Result<()> {
    let shown = dir.display();
    let cure = "mount at an empty folder, or add `-o nonempty`";
    let first = std::fs::read_dir(dir).and_then(|mut entries| entries.next().transpose());
    let why = match first {
        Ok(None) => return Ok(()),
        Ok(Some(entry)) => {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            format!(
                "{shown} is not empty (it has {name:?}), and its files could not be seen below the mount: {cure}"
            )
        }
        Err(e) => format!("whether {shown} is empty can't be seen ({e}): {cure}"),
    };
    Err(Error::new(Kind::Refused, why))
}

impl Mounted {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the mount's name in /proc/mounts.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what earlier mounts left in the staging folder and can't be sent.
    pub fn unsent(&self) -> &[Unsent] {
        &self.unsent
    }

    /// Changes the options that can change while the mount is up; the error `Usage` names what can't.
    pub fn change(&self, options: MountOptions) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let (mut before, mut after) = (self.options.clone(), options.clone());
            for one in [&mut before, &mut after] {
                one.kernel.clear();
                one.fsname = None;
                one.non_empty = false;
                one.read_only = false;
            }
            let fixed = |what: &str| {
                let why =
                    format!("{what} can't change while {} is mounted: unmount it first", self.dir.display());
                Err(Error::new(Kind::Usage, why))
            };
            if before != after {
                return fixed("options other than ro, rw, exec, suid, dev and atime");
            }
            // Its files were opened so.
            if self.options.read_only && !options.read_only {
                return fixed("a mount that began with ro");
            }
            let (dir, device) = (self.dir.clone(), self.device);
            let change = move || match device_of(&dir) == device {
                true => kernel_mount::change(&dir, &options),
                false => {
                    let why = format!(
                        "{} shows another filesystem: this mount is below it, or taken out",
                        dir.display()
                    );
                    Err(Error::new(Kind::NotFound, why))
                }
            };
            self.rt.cpu(change).await?
        })
    }

    /// Tells whether the kernel's mount is gone; what was written may still be on its way.
    pub fn is_out(&self) -> bool {
        *self.ended.borrow()
    }

    /// Hands a mount that is out over to the one that comes next: what waits is left to that, what is being
    /// sent is waited for.
    pub fn hand_over(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.fs.hand_over();
            self.ended().await;
        })
    }

    /// Tells whether the mount is at its place still. One that was taken out of the tree a moment ago is
    /// waited for. Fails with `Owned` if it was taken out while files in it were open.
    pub fn is_in(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let place = self.dir.clone();
            let is_mount = self.rt.cpu(move || is_mount(&place)).await?;
            if is_mount && !self.is_out() {
                return Ok(true);
            }
            self.left_by_all().await.map(|()| false)
        })
    }

    /// Waits a moment until the kernel has let go of the mount, which is out of the own tree. Copies that
    /// other namespaces inherited are taken away where nobody uses them.
    ///
    /// # Errors
    ///
    /// `Owned`: somebody holds the mount, who is named.
    async fn left_by_all(&self) -> Result<()> {
        if self.ends_within(LEAVING).await {
            return Ok(());
        }
        let Some(device) = self.device else { return Err(self.held("")) };
        let limit = self.rt.now() + LEAVING;
        loop {
            let dir = self.dir.clone();
            let look = move || {
                let found = Holders::of(device);
                found.let_go_of_copies(&dir);
                found.told()
            };
            let who = self.rt.cpu(look).await?;
            // Who holds it comes and goes, as processes of a namespace do, and a busy machine tells of the end later.
            if self.ends_within(PAUSE).await {
                return Ok(());
            }
            if self.rt.now() >= limit {
                return Err(self.held(&who.map(|who| format!(": {who}")).unwrap_or_default()));
            }
        }
    }

    async fn ends_within(&self, limit: Duration) -> bool {
        let mut ended = self.ended.clone();
        self.rt.timeout(limit, ended.wait_for(|ended| *ended)).await.is_some()
    }

    fn held(&self, who: &str) -> Error {
        let dir = self.dir.display();
        let why = format!(
            "{dir} is unmounted here, but somebody holds it{who}. What is written there is still stored; end who holds it, and the \
             mount ends"
        );
        Error::new(Kind::Owned, why)
    }

    /// Returns why files that wait to be sent are not sent.
    pub fn not_sent(&self) -> Option<String> {
        self.fs.not_sent()
    }

    /// Asks whether the bucket answers, and may be listed; the error says why not.
    pub fn ask_bucket(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.fs.ask_bucket().await })
    }

    /// Returns what is still to be sent.
    pub fn pending(&self) -> Pending {
        self.fs.pending()
    }

    /// Unmounts, then waits until everything is sent or known to stay staged. Fails with `Owned` while
    /// processes have files open or stand in the mount.
    pub fn unmount(&self) -> BoxFuture<'_, Result<Pending>> {
        Box::pin(async move {
            self.take_out(UnmountFlags::empty()).await?;
            Ok(self.fs.kept())
        })
    }

    /// Takes the mount out of the tree though processes use it; what they have written is sent first.
    pub fn detach(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.fs.send_all().await;
            let place = self.dir.clone();
            let out = self.rt.cpu(move || match rustix::mount::unmount(&place, UnmountFlags::DETACH) {
                // Not root. What fusermount3 says beside that is the same.
                Err(Errno::PERM) => by_fusermount(FUSERMOUNT, &["-u", "-z"], &place).map_err(|_| Errno::PERM),
                out => out,
            });
            self.taken_out(out.await?)
        })
    }

    fn taken_out(&self, out: Result<(), Errno>) -> Result<()> {
        match out {
            // Somebody else has unmounted it.
            Ok(()) | Err(Errno::INVAL) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::BUSY) => Err(Error::new(
                Kind::Owned,
                format!(
                    "{} is in use: close its files and leave its folders, then unmount again",
                    self.dir.display()
                ),
            )),
            Err(e) => Err(Error::from(std::io::Error::from(e))
                .context(format_args!("unmounting {}", self.dir.display()))),
        }
    }

    async fn take_out(&self, flags: UnmountFlags) -> Result<()> {
        if !*self.ended.borrow() {
            let mut out = self.leave(flags).await?;
            if out == Err(Errno::PERM) {
                out = self.leave_by_fusermount().await?;
            }
            self.taken_out(out)?;
            self.left_by_all().await?;
        }
        self.ended().await;
        Ok(())
    }

    /// Unmounts, with a few attempts: whoever has just closed a file, or forked, holds the mount a moment
    /// longer.
    async fn leave(&self, flags: UnmountFlags) -> Result<Result<(), Errno>> {
        for _ in 0..PATIENCE {
            let place = self.dir.clone();
            let out = self.rt.cpu(move || rustix::mount::unmount(&place, flags)).await?;
            if out != Err(Errno::BUSY) {
                return Ok(out);
            }
            self.rt.sleep(PAUSE).await;
        }
        Ok(Err(Errno::BUSY))
    }

    /// Unmounts by fusermount3, for users who are not root. The library's own way would take the mount from
    /// its folder while files are open, and wait for them without a word.
    async fn leave_by_fusermount(&self) -> Result<Result<(), Errno>> {
        for _ in 0..PATIENCE {
            let place = self.dir.clone();
            let out = self.rt.cpu(move || by_fusermount(FUSERMOUNT, &["-u"], &place)).await?;
            match out {
                Ok(()) => return Ok(Ok(())),
                Err(why) if why.to_ascii_lowercase().contains("busy") => {}
                // Somebody else has unmounted it.
                Err(_) if device_of(&self.dir) != self.device => return Ok(Ok(())),
                Err(why) => {
                    return Err(Error::new(
                        Kind::Denied,
                        format!("unmounting {}: {why}", self.dir.display()),
                    ));
                }
            }
            self.rt.sleep(PAUSE).await;
        }
        Ok(Err(Errno::BUSY))
    }

    /// Returns when the mount is gone, whoever took it away, and everything written is sent or kept.
    pub fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut ended = self.ended.clone();
            // An error means that the session's end of the channel is gone, and the session with it.
            let _ = ended.wait_for(|ended| *ended).await;
            let session = self.session.lock().take();
            if let Some(Err(why)) =
                self.rt.cpu(move || session.map(BackgroundSession::join)).await.unwrap_or(None)
            {
                tracing::warn!(dir = %self.dir.display(), %why, "the kernel's connection ended with an error");
            }
            self.fs.finish().await;
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !*self.ended.borrow() {
            let _ = rustix::mount::unmount(&self.dir, UnmountFlags::DETACH);
        }
        // Its own drop would wait for nobody; detached, the threads end with the last open file.
        drop(self.session.lock().take());
    }
}

/// Returns what is shown at a path, without asking whoever serves it.
fn shown_at(dir: &Path) -> Option<Statx> {
    let how = AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    statx(CWD, dir, how, StatxFlags::empty()).ok()
}

fn device_of(dir: &Path) -> Option<(u32, u32)> {
    shown_at(dir).map(|shown| (shown.stx_dev_major, shown.stx_dev_minor))
}

fn is_mount(dir: &Path) -> bool {
    shown_at(dir).is_some_and(|shown| shown.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Returns the type of the filesystem that is mounted there now, without having anything mounted for the
/// look.
fn type_of(dir: &Path) -> std::result::Result<i64, Errno> {
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::fstatfs(&dir)?.f_type)
}

/// Tells whether the mount's daemon is dead. The kernel may answer a stat by itself for a while after the
/// daemon's death.
fn is_dead(dir: &Path) -> bool {
    matches!(type_of(dir), Err(Errno::NOTCONN))
}

/// Tells whether the kernel lists the mount there as one of this program's: another's may be without its
/// server for a while.
fn is_ours(dir: &Path) -> bool {
    let Ok(top) = rustix::fs::open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { return false };
    let text = |file: String| std::fs::read_to_string(file).unwrap_or_default();
    let about = text(format!("/proc/self/fdinfo/{}", top.as_raw_fd()));
    let id = about.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap_or_default().trim();
    is_type_of(&text("/proc/self/mountinfo".to_owned()), id, TYPE)
}

/// Tells whether a mount has the wanted type, by the text of `/proc/PID/mountinfo`. The mount's number is
/// each line's first word, its type the first word after a lone `-`.
fn is_type_of(mountinfo: &str, id: &str, wanted: &str) -> bool {
    let mut lines = mountinfo.lines().map(str::split_whitespace);
    let line = lines.find_map(|mut words| (words.next() == Some(id)).then_some(words));
    line.is_some_and(|mut words| words.any(|word| word == "-") && words.next() == Some(wanted))
}

/// Takes away a mount whose process has died (`Transport endpoint is not connected`). Returns false if there
/// is none of this program's.
pub fn clear_dead(dir: &Path) -> Result<bool> {
    if !is_dead(dir) {
        return Ok(false);
    }
    if !is_ours(dir) {
        return Ok(false);
    }
    let cleared = match rustix::mount::unmount(dir, UnmountFlags::DETACH) {
        // Not root: fusermount3 takes away what the same user has mounted.
        Err(Errno::PERM) => by_fusermount(FUSERMOUNT, &["-u", "-z"], dir),
        cleared => cleared.map_err(|e| e.to_string()),
    };
    cleared.map_err(|why| {
        let shown = dir.display();
        let what = format!(
            "{shown} is a mount whose process has died, and can't be taken away ({why}): be the user who mounted it, or as root \
             `umount -l {shown}`"
        );
        Error::new(Kind::Denied, what)
    })?;
    Ok(true)
}

/// Runs fusermount3, with these flags, to unmount; the error is what it said.
fn by_fusermount(program: &str, flags: &[&str], dir: &Path) -> std::result::Result<(), String> {
    let ran = std::process::Command::new(program).args(flags).arg("--").arg(dir).output();
    let ran = ran.map_err(|e| format!("starting {program}: {e}"))?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a folder from outside, and a program of the host
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_mounts_type_is_found_by_its_number() {
        let text = "20 1 8:1 / / rw - ext4 /dev/sda rw\n42 20 0:35 / /m rw,nosuid shared:7 - fuse.windlass s3://b rw\n";
        assert!(is_type_of(text, "42", TYPE) && is_type_of(text, "20", "ext4"));
        assert!(!is_type_of(text, "20", TYPE) && !is_type_of(text, "4", TYPE) && !is_type_of(text, "", TYPE));
        assert!(!is_ours(Path::new("/")));
    }

    #[test]
    fn a_folder_with_files_is_not_covered_without_a_word() {
        if rustix::fs::stat(DEVICE).is_err() {
            assert!(ready(Path::new("/"), true).unwrap_err().is(Kind::Unsupported));
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(ready(dir.path(), false).is_ok());
        std::fs::write(dir.path().join("letter"), "dear").unwrap();
        let why = ready(dir.path(), false).unwrap_err();
        assert!(why.is(Kind::Refused), "{why}");
        assert!(why.to_string().contains("letter") && why.to_string().contains("-o nonempty"), "{why}");
        assert!(ready(dir.path(), true).is_ok());
    }

    #[test]
    fn fusermount_is_asked_to_let_go_lazily_and_its_reason_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("fusermount3");
        let told = dir.path().join("told");
        let script = format!("#!/bin/sh\necho \"$@\" >{}\necho no entry >&2\nexit $#\n", told.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let why = by_fusermount(program.to_str().unwrap(), &["-u", "-z"], Path::new("-at")).unwrap_err();
        assert_eq!(why, "no entry");
        assert_eq!(std::fs::read_to_string(&told).unwrap(), "-u -z -- -at\n");
        assert!(by_fusermount("/no/fusermount3", &["-u"], Path::new("/m")).unwrap_err().contains("starting"));
        assert_eq!(by_fusermount("true", &["-u"], Path::new("/m")), Ok(()));
    }
}
