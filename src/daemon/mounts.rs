//! The mounts of one engine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::answers::MountInfo;
use super::pools::is_on_disk_of;
use super::state_dir::HostContext;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};
use windlass_cache::DiskCache;
use windlass_fs::{
    self as fs, Cache, KeptFile, KeptFiles, MountOptions, MountResources, Mounted, Pending, Unsent,
};
use windlass_store::{self as store, BucketRef, Cause, Conditions, Etag, Heeds, Put, StoreUrl, When};
use windlass_volume::Memory;

/// Time between two words of an unmount about how far it is.
const TELL: Duration = Duration::from_millis(500);

/// Number of tries, and the pause between them, to get at kept files while a mount is being made.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// Largest note of which conditions a store heeds, in bytes; the note has four words.
const NOTE_MAX: usize = 4096;

/// Party that asked for a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskedBy {
    /// The configuration asks for the mount, and ends it when it asks no more.
    Configuration,
    /// Somebody made the mount by a command, and ends it so.
    Command,
}

#[derive(Debug)]
struct Entry {
    url: String,
    asked_by: AskedBy,
    place: StoreUrl,
    identity: String,
    options: Vec<String>,
    mounted: Arc<Mounted>,
    /// Reason why the bucket did not answer when it was asked last.
    away: Option<String>,
}

#[derive(Debug, Default)]
struct List {
    entries: BTreeMap<String, Entry>,
    /// Folders at which mounts are being made.
    coming: BTreeSet<String>,
    /// Is true once the engine ends: whoever mounted now would be left without one.
    closed: bool,
}

/// Mounts of one engine, by folder.
#[derive(Debug, Default)]
pub struct Mounts {
    list: Mutex<List>,
    /// Number of changes, for those who wait for a mount's end.
    changed: watch::Sender<u64>,
    /// Lock of the kept files: mounts take kept files up with the lock shared; whoever looks at the files has it
    /// alone.
    keeping: tokio::sync::RwLock<()>,
}

/// Returns a folder's name for what this text means.
fn named(text: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}

/// Returns which of the known folders is `dir` by another name: through a symbolic link, or with `..` in it. The
/// folders themselves are asked nothing: a mount may hang.
fn same_folder(known: Vec<String>, dir: &str) -> Option<String> {
    let real = Path::new(dir).canonicalize().ok()?;
    known.into_iter().find(|known| Path::new(known).canonicalize().is_ok_and(|known| known == real))
}

/// Returns a sentence about files that an earlier mount left and that can't be stored; none if there are none.
fn kept_back(unsent: &[Unsent]) -> Option<String> {
    const NAMED: usize = 3;
    let first = unsent.iter().take(NAMED).map(|one| format!("{} at {}", one.key, one.path.display()));
    let (first, more) = (first.collect::<Vec<_>>().join(", "), unsent.len().saturating_sub(NAMED));
    let others = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!unsent.is_empty()).then(|| {
        format!(
            "{} of the files that an earlier mount left can't be stored and stay on this host: {first}{others}; the log says why",
            unsent.len()
        )
    })
}

/// Returns the place that is to be mounted, and the options. Options that are for the store go into the place.
fn place_of(url: &str, options: &[String]) -> Result<(StoreUrl, MountOptions)> {
    let mut place: StoreUrl = url.parse()?;
    let (options, of_store) = MountOptions::parse(&options.join(","))?;
    for (name, value) in &of_store {
        place.set(name, value)?;
    }
    Ok((place, options))
}

/// A mount that is being added: whoever waits for the last mount's end waits for this one too.
struct Coming(Arc<Mounts>, String);

impl Coming {
    fn new(of: &Arc<Mounts>, dir: &str) -> Result<Coming> {
        let mut list = of.list.lock();
        if list.closed {
            return Err(Error::new(Kind::Closed, "the daemon is ending: mount again"));
        }
        if !list.coming.insert(dir.to_owned()) {
            return Err(Error::new(Kind::Exists, format!("a mount at {dir} is being made")));
        }
        Ok(Coming(of.clone(), dir.to_owned()))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.list.lock().coming.remove(&self.1);
        self.0.tick();
    }
}

impl Mounts {
    /// Mounts a bucket. `typed` is what the user calls the bucket, which mount(8) looks for in /proc/mounts. Returns
    /// sentences about what is not as it was asked for.
    pub async fn add(
        self: &Arc<Self>,
        host_context: &HostContext,
        (url, typed): (&str, &str),
        (dir, asked_by): (&str, AskedBy),
        options: &[String],
        memory: &Memory,
    ) -> Result<Vec<String>> {
        let _coming = Coming::new(self, dir)?;
        let before = self.before(dir).await?;
        let as_said = options.to_owned();
        let (parsed, options) = place_of(url, options)?;
        let place = parsed.clone();
        let bucket = store::open_patiently(&host_context.rt, &parsed).await?;
        let by_url = host_context.home.staging().join(named(&parsed.to_string()));
        let mut notes = Vec::new();
        if matches!(parsed, StoreUrl::S3(_)) && !options.read_only {
            notes.extend(look_first(host_context, &bucket, &by_url, options.deadline).await?);
        }
        if let StoreUrl::File { dir } = &place
            && !options.read_only
        {
            may_write_in(host_context, dir).await?;
        }
        let identity = bucket.identity().to_string();
        let left = make_way(before, &identity, &options).await;
        // From here to the end of its start: whoever looks at what is kept has that to itself.
        let shared = self.keeping.read().await;
        let staging = staging_of(host_context, &bucket);
        // A copy beside the original gains nothing.
        let near = is_on_disk_of(host_context.home.root(), &parsed.to_string());
        let keeps = options.cache != Cache::Off && !near;
        if keeps && !memory.disk.is_on() {
            let why =
                "what is read is not kept on disk: the daemon runs without a cache (see `serve --cache`)";
            tracing::warn!(dir, "{why}");
            notes.push(why.to_owned());
        }
        let mounted = fs::mount(
            host_context.rt.clone(),
            host_context.disk.clone(),
            bucket,
            (Path::new(dir), typed),
            options,
            staging,
            MountResources {
                cache: if keeps { memory.disk.clone() } else { DiskCache::off() },
                ahead: memory.ahead.budget.party(),
                uploads: memory.encode.party(),
            },
        )
        .await;
        let mounted = mounted.inspect_err(|_| {
            if left {
                tracing::warn!(
                    dir,
                    url,
                    "what the mount before had not sent is kept on this host: mount the bucket again"
                );
            }
        })?;
        drop(shared);
        notes.extend(kept_back(mounted.unsent()));
        let mounted = Arc::new(mounted);
        let url = url.to_owned();
        let entry = Entry { url, asked_by, place, identity, options: as_said, mounted, away: None };
        self.enter(host_context, dir, entry);
        Ok(notes)
    }

    /// Lists the mount until it ends.
    fn enter(self: &Arc<Self>, host_context: &HostContext, dir: &str, entry: Entry) {
        let (this, dir, mounted) = (self.clone(), dir.to_owned(), entry.mounted.clone());
        self.list.lock().entries.insert(dir.clone(), entry);
        let until_it_ends = async move {
            mounted.ended().await;
            let mut list = this.list.lock();
            // Another may have its place by now.
            if list.entries.get(&dir).is_some_and(|e| Arc::ptr_eq(&e.mounted, &mounted)) {
                list.entries.remove(&dir);
            }
            drop(list);
            this.tick();
        };
        host_context.rt.spawn(until_it_ends).detach();
    }

    /// Returns the mount before at `dir` that is taken out of the tree, but sends on. Fails with `Exists` if it is
    /// there still.
    async fn before(&self, dir: &str) -> Result<Option<(String, Arc<Mounted>)>> {
        let before = self.list.lock().entries.get(dir).map(|e| (e.identity.clone(), e.mounted.clone()));
        let Some((identity, mounted)) = before else { return Ok(None) };
        if mounted.is_in().await? {
            let why = format!("{dir} is a mount already: unmount it first, or change it with -o remount");
            return Err(Error::new(Kind::Exists, why));
        }
        Ok(Some((identity, mounted)))
    }

    /// Does `mount -o remount`: what the kernel heeds changes at once, anything else is refused.
    pub async fn change(&self, url: &str, dir: &str, options: &[String]) -> Result<()> {
        let found = self
            .list
            .lock()
            .entries
            .get(dir)
            .map(|e| (e.place.clone(), e.options.clone(), e.mounted.clone()));
        let Some((place, before, mounted)) = found.filter(|(_, _, mounted)| !mounted.is_out()) else {
            return Err(Error::new(
                Kind::NotFound,
                format!("{dir} is not mounted: mount it without `remount`"),
            ));
        };
        // What is not said again stays as it is.
        let options = [&before, options].concat();
        if mounted.name() != url {
            let (asked, _) = place_of(url, &options)?;
            if asked != place {
                let why = format!("{dir} has {place} mounted, not {asked}: unmount it first");
                return Err(Error::new(Kind::Exists, why));
            }
        }
        mounted.change(MountOptions::parse(&options.join(","))?.0).await?;
        if let Some(entry) =
            self.list.lock().entries.get_mut(dir).filter(|e| Arc::ptr_eq(&e.mounted, &mounted))
        {
            entry.options = options;
        }
        Ok(())
    }

    fn tick(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Ends a mount that the configuration asks for no more. One that somebody else made there since stays.
    pub async fn remove_configured(&self, host_context: &HostContext, dir: &str) -> Result<()> {
        let configured = |e: &&Entry| e.asked_by == AskedBy::Configuration;
        let mounted = self.list.lock().entries.get(dir).filter(configured).map(|e| e.mounted.clone());
        match mounted {
            Some(mounted) => self.take_out(host_context, dir, mounted, &|_, _| ()).await,
            None => Ok(()),
        }
    }

    /// Unmounts and waits for the mount's uploads. `tell` hears how many bytes are done, and of how many.
    pub async fn remove(
        &self,
        host_context: &HostContext,
        dir: &str,
        tell: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<()> {
        let mut found = self.at(dir);
        if found.is_none() {
            let known: Vec<String> = self.list.lock().entries.keys().cloned().collect();
            let asked = dir.to_owned();
            let known = host_context.rt.cpu(move || same_folder(known, &asked)).await?;
            found = known.and_then(|dir| self.at(&dir));
        }
        let Some((dir, mounted)) = found else {
            if fs::clear_dead(Path::new(dir))? {
                return Ok(());
            }
            return Err(Error::new(
                Kind::NotFound,
                format!("{dir} is not a mount of this daemon: `windlass status` lists them"),
            ));
        };
        self.take_out(host_context, &dir, mounted, tell).await
    }

    /// Returns the mount that is known by this name of its folder, and the name.
    fn at(&self, dir: &str) -> Option<(String, Arc<Mounted>)> {
        self.list.lock().entries.get(dir).map(|entry| (dir.to_owned(), entry.mounted.clone()))
    }

    async fn take_out(
        &self,
        host_context: &HostContext,
        dir: &str,
        mounted: Arc<Mounted>,
        tell: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<()> {
        let leaving = mounted.unmount().fuse();
        futures::pin_mut!(leaving);
        let total = mounted.pending().bytes;
        let left = loop {
            match host_context.rt.timeout(TELL, &mut leaving).await {
                Some(left) => break left?,
                None => {
                    let left = mounted.pending().bytes;
                    tell(total.saturating_sub(left), total.max(left));
                }
            }
        };
        let gone = |list: &mut List| list.entries.get(dir).is_none_or(|e| !Arc::ptr_eq(&e.mounted, &mounted));
        self.until(gone).await;
        match what_is_left(&left) {
            Some(why) => Err(Error::new(Kind::Unavailable, format!("{dir} is unmounted, but {why}"))),
            None => Ok(()),
        }
    }

    /// Returns when the mount at `dir` is gone.
    pub async fn ended(&self, dir: &str) {
        self.until(|list| !list.entries.contains_key(dir)).await;
    }

    /// Returns when no mount is left. None is added after that.
    pub async fn idle(&self) {
        self.until(|list| {
            list.closed |= list.entries.is_empty() && list.coming.is_empty();
            list.closed
        })
        .await;
    }

    async fn until(&self, mut so: impl FnMut(&mut List) -> bool) {
        // Subscribed before the first look: a change between the look and the wait must not be missed.
        let mut changed = self.changed.subscribe();
        while !so(&mut self.list.lock()) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns the files that are kept on this host and that no mount is at work on; none while a mount is being
    /// made.
    pub async fn kept(&self, host_context: &HostContext) -> Result<Vec<KeptFile>> {
        match self.keeping.try_write() {
            Ok(_alone) => Ok(KeptFiles::open(&host_context.disk, &host_context.home.staging()).await?.list()),
            Err(_) => Ok(Vec::new()),
        }
    }

    /// Locks `keeping` alone. It is tried again and again rather than waited for in the lock's queue: behind a mount
    /// that hangs all others would wait too.
    async fn alone(&self, host_context: &HostContext) -> Result<tokio::sync::RwLockWriteGuard<'_, ()>> {
        for _ in 0..ATTEMPTS {
            if let Ok(alone) = self.keeping.try_write() {
                return Ok(alone);
            }
            host_context.rt.sleep(PAUSE).await;
        }
        Err(Error::new(
            Kind::Unavailable,
            "a mount is being made, which takes up what is kept: try again when it is up",
        ))
    }

    /// Does something to what is kept of the bucket `url`. A mount of that bucket that comes meanwhile leaves those
    /// files to the next.
    pub async fn with_kept<T>(
        &self,
        host_context: &HostContext,
        url: &str,
        work: impl AsyncFnOnce(KeptFiles) -> Result<T>,
    ) -> Result<T> {
        let keep = {
            let _alone = self.alone(host_context).await?;
            KeptFiles::open(&host_context.disk, &host_context.home.staging()).await?.only(url)
        };
        if keep.list().is_empty() {
            let why = format!(
                "nothing is kept of {url}: `windlass mount list` shows what is, by the names to give here"
            );
            return Err(Error::new(Kind::NotFound, why));
        }
        work(keep).await
    }

    pub fn list(&self) -> Vec<MountInfo> {
        let list = self.list.lock();
        let info = |(dir, e): (&String, &Entry)| {
            let unsent = e.mounted.pending();
            MountInfo {
                dir: dir.clone(),
                url: e.url.clone(),
                unsent_files: unsent.files,
                unsent_bytes: unsent.bytes,
                trouble: e.mounted.not_sent().or_else(|| e.away.clone()),
            }
        };
        list.entries.iter().map(info).collect()
    }

    /// Asks the buckets of all mounts whether they answer within `limit`, for `list` to tell.
    pub fn ask(self: &Arc<Self>, rt: &Rt, limit: Duration) -> impl Future<Output = ()> + Send + use<> {
        let list = self.list.lock();
        let all: Vec<_> = list.entries.iter().map(|(dir, e)| (dir.clone(), e.mounted.clone())).collect();
        let (this, rt) = (self.clone(), rt.clone());
        async move {
            let asks =
                all.iter().map(async |(_, mounted)| match rt.timeout(limit, mounted.ask_bucket()).await {
                    Some(answer) => answer.err().map(|error| error.to_string()),
                    None => Some(format!("it said nothing within {limit:?}")),
                });
            let answers = join_all(asks).await;
            let mut list = this.list.lock();
            for ((dir, _), away) in all.into_iter().zip(answers) {
                if let Some(entry) = list.entries.get_mut(&dir) {
                    entry.away = away;
                }
            }
        }
    }

    /// Unmounts all, and returns the first failure after all were tried.
    pub async fn shutdown(&self, host_context: &HostContext) -> Result<()> {
        self.list.lock().closed = true;
        self.until(|list| list.coming.is_empty()).await;
        let mut result = Ok(());
        for mount in self.list() {
            let ended = self.remove(host_context, &mount.dir, &|_, _| ()).await;
            if let Err(e) = ended {
                tracing::error!(error = %e, dir = mount.dir, "could not unmount");
                result = result.and(Err(e));
            }
        }
        result
    }
}

/// Returns a sentence about what a mount that ended could not store; none if it has stored all.
fn what_is_left(left: &Pending) -> Option<String> {
    let mut kept = Vec::new();
    if left.files > 0 {
        kept.push(format!("{} files ({} bytes) could not be sent", left.files, left.bytes));
    }
    if left.removals > 0 {
        kept.push(format!("{} removed names could not be deleted", left.removals));
    }
    let mut said = Vec::new();
    if !kept.is_empty() {
        let kept = kept.join(", and ");
        said.push(format!("{kept}: they are kept on this host, mount the bucket again to send them"));
    }
    if left.lost > 0 {
        said.push(format!(
            "{} files could not be stored and are lost, since parts of them were freed on a full disk: write them again",
            left.lost
        ));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

/// Makes way for a new mount at the folder of the one before. A new mount of the same bucket that may write sees, and
/// sends, what the one before has not sent; any other waits until that is sent. Returns true if something may be
/// left.
async fn make_way(before: Option<(String, Arc<Mounted>)>, identity: &str, options: &MountOptions) -> bool {
    let Some((of, before)) = before else { return false };
    let takes_up = of == identity && !options.read_only;
    match takes_up {
        true => before.hand_over().await,
        false => before.ended().await,
    }
    takes_up
}

/// Returns the folder where a bucket's unsent files wait. They are found again at its next mount, wherever that is
/// and with whatever options: what wrong keys kept from being sent is sent with others.
fn staging_of(host_context: &HostContext, bucket: &BucketRef) -> PathBuf {
    // No URL reads so.
    host_context.home.staging().join(named(&format!("objects of {}", bucket.identity())))
}

/// Finds out, once for each URL and host, whether the store heeds the conditions of writes. If it doesn't, objects
/// are looked at before they are replaced. Returns a sentence that tells so.
async fn look_first(
    host_context: &HostContext,
    bucket: &BucketRef,
    by_url: &Path,
    deadline: Duration,
) -> Result<Option<String>> {
    let note = by_url.with_extension("heeds-conditions");
    let noted = host_context.disk.read(&note, NOTE_MAX).await.ok();
    let found = match noted.and_then(|text| serde_json::from_slice::<Conditions>(&text).ok()) {
        Some(found) => {
            may_write(host_context, bucket, &found, deadline).await?;
            found
        }
        None => {
            // Nothing is written into a pool's store, not even for a moment.
            fs::refuse_pool(&host_context.rt, bucket, deadline).await?;
            let late = || {
                Error::new(Kind::Timeout, format!("{} takes too long over conditional writes", bucket.url()))
            };
            let tried =
                host_context.rt.timeout(deadline, store::conditions(&host_context.rt, &**bucket, "")).await;
            match tried.unwrap_or_else(|| Err(late())) {
                Ok(found) => {
                    keep_note(host_context, &note, &found).await;
                    found
                }
                Err(why) if why.is(Kind::Denied) => return Err(cannot_write(bucket.url(), why)),
                Err(why) if why.is(Kind::Refused) => return Err(why),
                Err(why) => {
                    bucket.looks_first(Conditions::all(Heeds::Ignores));
                    let why =
                        format!("{why}: objects are looked at before they are replaced until the next mount");
                    tracing::warn!("{why}");
                    return Ok(Some(why));
                }
            }
        }
    };
    bucket.looks_first(found);
    let told = found.told(bucket.url());
    if let Some(told) = &told {
        tracing::warn!(note = %note.display(), "{told}; remove the note to have it tried again");
    }
    Ok(told)
}

fn cannot_write(url: &str, why: Error) -> Error {
    let hint = "mount it with -o ro to read it, or get the right to write";
    Error::new(Kind::Denied, format!("{url} can't be written: {hint}")).because(why)
}

/// Refuses a bucket in which these credentials may not write. It tries a write that the bucket would not do, since
/// its condition can't hold.
async fn may_write(
    host_context: &HostContext,
    bucket: &BucketRef,
    found: &Conditions,
    deadline: Duration,
) -> Result<()> {
    if found.puts != Heeds::Yes {
        return Ok(());
    }
    let key = format!("windlass-probe-{:032x}", host_context.rt.random128());
    let never = When::Matches(Etag("0".repeat(32)));
    let tried = host_context.rt.timeout(deadline, bucket.put(&key, Bytes::new(), never, Cause::Probe)).await;
    match tried {
        Some(Err(why)) if why.is(Kind::Denied) => {
            let listing = fs::lacks_listing(&host_context.rt, bucket, deadline).await;
            Err(listing.unwrap_or_else(|| cannot_write(bucket.url(), why)))
        }
        // Its conditions are no longer heeded.
        Some(Ok(Put::Stored(_))) => bucket.delete(&[key], Cause::Probe).await,
        // Whoever writes later hears of it.
        _ => Ok(()),
    }
}

/// Refuses a folder in which this user may not write.
async fn may_write_in(host_context: &HostContext, dir: &Path) -> Result<()> {
    let dir = dir.to_owned();
    let tried =
        host_context.rt.cpu(move || (rustix::fs::access(&dir, rustix::fs::Access::WRITE_OK), dir)).await?;
    match tried {
        (Err(rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS), dir) => {
            let why = Error::new(Kind::Denied, "this user may not write there");
            Err(cannot_write(&dir.display().to_string(), why))
        }
        _ => Ok(()),
    }
}

/// Notes which conditions the store heeds. If that fails the store is only asked again.
async fn keep_note(host_context: &HostContext, note: &Path, found: &Conditions) {
    let kept = async {
        let text = serde_json::to_vec(found)?;
        host_context.disk.create_dir(&host_context.home.staging()).await?;
        host_context.disk.write_atomic(note, Bytes::from(text)).await
    };
    if let Err(why) = kept.await {
        tracing::warn!(%why, note = %note.display(), "which conditional writes the store heeds could not be noted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::state_dir::StateDir;
    use windlass_base::rt::{RealDisk, RealRuntime, Rt};

    async fn folder(host_context: &HostContext, url: &str) -> PathBuf {
        let bucket = store::open(&host_context.rt, &url.parse().unwrap()).await.unwrap();
        staging_of(host_context, &bucket)
    }

    #[test]
    fn who_unmounts_is_told_what_is_kept_and_what_is_lost() {
        let left = |files, removals, lost| what_is_left(&Pending { files, bytes: 9, removals, lost });
        assert_eq!(left(0, 0, 0), None);
        let both = left(2, 1, 0).unwrap();
        assert!(both.starts_with("2 files (9 bytes) could not be sent, and 1 removed names"), "{both}");
        assert!(both.ends_with("mount the bucket again to send them"));
        let lost = left(0, 0, 1).unwrap();
        assert!(lost.contains("1 files") && lost.contains("lost") && !lost.contains("kept"), "{lost}");
        assert!(left(2, 0, 1).unwrap().contains("to send them; 1 files"));
    }

    #[test]
    fn what_stays_on_the_host_is_named() {
        let unsent = |n: u64| Unsent { path: format!("/s/{n}.stage").into(), key: format!("k{n}"), bytes: n };
        assert_eq!(kept_back(&[]), None);
        let two = kept_back(&[unsent(1), unsent(2)]).unwrap();
        assert!(two.starts_with("2 of") && two.contains(": k1 at /s/1.stage, k2 at /s/2.stage; "), "{two}");
        let many: Vec<_> = (0..5).map(unsent).collect();
        assert!(kept_back(&many).unwrap().contains("k2 at /s/2.stage and 2 more; "));
    }

    #[test]
    fn a_folder_is_known_by_each_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        for name in ["real", "other"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        std::os::unix::fs::symlink(path("real"), path("link")).unwrap();
        let same = |dir: &str| same_folder(vec![path("gone"), path("link"), path("other")], &path(dir));
        assert_eq!(same("real"), Some(path("link")));
        assert_eq!(same("real/../link"), Some(path("link")));
        assert_eq!(same("real/../other"), Some(path("other")));
        assert_eq!((same("gone"), same("real/..")), (None, None));
    }

    #[tokio::test]
    async fn unsent_files_are_found_whatever_the_options() {
        let dir = tempfile::tempdir().unwrap();
        let (rt, disk) = (Rt::new(RealRuntime::current()), RealDisk::start());
        let home = StateDir::at(dir.path());
        let host = home.host(&rt, &*disk).await.unwrap();
        let host_context = HostContext { rt, disk, home, host };
        let place = |prefix: &str, more: &str| {
            format!("s3://b/{prefix}?endpoint=http://127.0.0.1:1&region=r&anonymous=true{more}")
        };
        let other = place("p", "&profile=other&storage_class=GLACIER_IR&requester_pays=true");
        let first = folder(&host_context, &place("p", "")).await;
        assert_eq!(folder(&host_context, &other).await, first);
        assert_ne!(folder(&host_context, &place("q", "")).await, first);
    }

    /// A bucket in a folder of a disk that is away when the next mount begins.
    /// Promise: A folder that is away is no empty bucket.
    #[tokio::test]
    #[allow(clippy::disallowed_methods)] // a user's disk that goes away and comes back
    async fn what_waits_for_a_folder_is_not_for_another_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (rt, disk) = (Rt::new(RealRuntime::current()), RealDisk::start());
        let state = dir.path().join("home");
        std::fs::create_dir(&state).unwrap();
        let home = StateDir::at(&state);
        let host = home.host(&rt, &*disk).await.unwrap();
        let host_context = HostContext { rt, disk, home, host };
        let (place, away) = (dir.path().join("bucket"), dir.path().join("away"));
        let url = format!("file://{}", place.display());
        let born = || std::fs::metadata(&place).and_then(|folder| folder.created());
        std::fs::create_dir(&place).unwrap();
        let Ok(first_born) = born() else { return };
        let first = folder(&host_context, &url).await;
        std::fs::rename(&place, &away).unwrap();
        std::fs::create_dir(&place).unwrap();
        // Within one tick of the kernel's clock two folders have the same time of birth.
        while born().unwrap() == first_born {
            std::fs::remove_dir(&place).unwrap();
            std::fs::create_dir(&place).unwrap();
        }
        assert_ne!(folder(&host_context, &url).await, first);
        std::fs::remove_dir(&place).unwrap();
        std::fs::rename(&away, &place).unwrap();
        assert_eq!(folder(&host_context, &url).await, first);
    }
}
