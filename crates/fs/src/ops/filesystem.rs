//! The filesystem without a kernel: nodes, handles and what is known of names, with one method an operation (in the
//! files of this folder). A server calls the `…_now` form first, which answers from memory or not at all, and hands
//! what is left to the runtime.
//!
//! Invariants: no lock is held while the store or the disk is asked; whatever changes the bucket enters the change in
//! `NameCache` and in the node table when it is done, in one step under the table's lock, or makes both forget when the
//! outcome is in doubt. A file that the bucket doesn't have as it is answers for itself; it becomes clean in the same
//! step in which the tables learn what the object shows. An answer that was asked for before a change of ours was
//! entered is not believed (`ChangeSeq`).

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::bucket::BucketClient;
use crate::file::{Clock, MountContext, MountResources, OpenFile, UploadMemory};
use crate::object::{
    Attributes, Errno, Fail, KernelLock, LeafLock, MountOptions, Naming, NodesLock, Ns, Op, VERSIONS,
};
use crate::read::{BlockCache, ReadAhead};
use crate::staging::{StagingArea, Unsent};
use crate::tree::{
    ChangeGate, Handles, Inodes, NameCache, Node, Pass, UnfinishedRename, UnlinkBursts, VersionFile,
    VersionNode, VersionPlace, VersionTree, Writeback, is_version, split,
};
use windlass_base::rt::{Disk, Instant, Rt};
use windlass_base::{Error, Kind, Result};
use windlass_store::BucketRef;

/// Time for which an implied directory whose last entry was removed here stays visible here at least: `rm -r`
/// comes back for it.
const KEPT: Duration = Duration::from_secs(5);

/// A node's number and attributes, and for how long the kernel may believe them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub ino: u64,
    /// True if no name leads to the node any more.
    pub gone: bool,
    pub attributes: Attributes,
    pub ttl: Duration,
}

/// A way to tell the kernel that what it holds of a node is out of date.
pub trait Invalidate: Send + Sync + 'static {
    /// Tells the kernel that the node's size and times are out of date. Pages stay.
    fn attrs(&self, ino: u64);
}

/// A mount's state; every operation is a method of it.
pub struct Fs {
    pub(super) context: MountContext,
    pub(crate) inodes: NodesLock<Inodes>,
    pub(crate) name_cache: NameCache,
    pub(super) handles: LeafLock<Handles>,
    next_handle: AtomicU64,
    /// Number of releases and other work under way; unmount waits for them.
    busy: AtomicUsize,
    idle: Notify,
    pub(super) kernel: KernelLock<Option<Box<dyn Invalidate>>>,
    since: Ns,
    pub(super) writeback: Writeback,
    /// Attributes that the mount's own directory shows.
    pub(super) root: LeafLock<Attributes>,
    pub(super) unlink_bursts: UnlinkBursts,
    /// The gate that tells who may change which names right now.
    pub(super) gate: Arc<ChangeGate>,
    /// Directories' renames that are still to be ended.
    pub(super) unfinished_renames: LeafLock<Vec<Arc<UnfinishedRename>>>,
    pub(super) version_tree: VersionTree,
}

impl std::fmt::Debug for Fs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fs({})", self.context.remote.url())
    }
}

/// Work under way that unmount waits for, until this is dropped.
pub(super) struct Busy(Arc<Fs>);

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Fs {
    /// Opens the filesystem: looks at the bucket (a pool's is refused) and takes up what an earlier mount
    /// left unsent. Returns also what of that can't be sent.
    pub async fn open(
        rt: Rt,
        disk: Arc<dyn Disk>,
        bucket: BucketRef,
        options: MountOptions,
        staging: PathBuf,
        resources: impl Into<MountResources>,
    ) -> Result<(Arc<Fs>, Vec<Unsent>)> {
        let remote = BucketClient::new(rt.clone(), bucket, options.deadline);
        remote.refuse_pool().await?;
        let (staging, found) = StagingArea::open(rt.clone(), disk, staging, remote.url()).await?;
        if options.read_only {
            staging.let_go();
        }
        let MountResources { cache, ahead: budget, uploads } = resources.into();
        let blocks = BlockCache::new(cache, remote.url());
        let ahead = ReadAhead { rt: rt.clone(), remote: remote.clone(), blocks, budget, version: None };
        let since = Ns::from_ms(rt.wall_ms());
        let root = Attributes::listed(&options, true, 4096, None, since);
        let clock = Clock::default();
        let uploads = UploadMemory::new(uploads);
        let context = MountContext { rt, remote, staging, ahead, options, clock, uploads };
        let fs = Fs {
            context,
            inodes: NodesLock::new(Inodes::new(root.clone())),
            root: LeafLock::new(Attributes { exact: true, ..root }),
            name_cache: NameCache::new(),
            handles: LeafLock::default(),
            next_handle: AtomicU64::new(1),
            busy: AtomicUsize::new(0),
            idle: Notify::new(),
            kernel: KernelLock::new(None),
            since,
            writeback: Writeback::new(),
            unlink_bursts: UnlinkBursts::new(),
            gate: Arc::default(),
            unfinished_renames: LeafLock::default(),
            version_tree: VersionTree::default(),
        };
        let fs = Arc::new(fs);
        let mut found = found;
        fs.watch_removals();
        if !fs.options().read_only {
            // A rename takes along what is there: names that were removed before it go first.
            fs.recover_removals(&mut found).await?;
            fs.recover_renames(&mut found).await;
        }
        let unsent = fs.recover_staged(found).await;
        fs.spawn_removal_syncer();
        Ok((fs, unsent))
    }

    pub fn options(&self) -> &MountOptions {
        &self.context.options
    }

    pub fn set_kernel(&self, kernel: Box<dyn Invalidate>) {
        *self.kernel.lock() = Some(kernel);
    }

    /// Makes the kernel ask anew for a node's attributes.
    pub(super) fn recall(&self, ino: u64) {
        if let Some(kernel) = &*self.kernel.lock() {
            kernel.attrs(ino);
        }
    }

    pub(super) fn handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(self.clone())
    }

    /// Waits for the releases under way, and for what is to be sent.
    pub async fn idle(&self) {
        loop {
            let woken = self.idle.notified();
            if !self.writeback.queue.lock().is_waiting() && self.busy.load(Ordering::Acquire) == 0 {
                return;
            }
            woken.await;
        }
    }

    /// Runs an operation of a few requests, and fails with a timeout when it takes longer than those may
    /// together.
    pub async fn bounded<T>(&self, op: impl Future<Output = Op<T>>) -> Op<T> {
        // A single request's deadline, and room for the ones that follow it.
        let limit = self.options().deadline * 11 / 6;
        match self.context.rt.timeout(limit, op).await {
            Some(done) => done,
            None => Err(Error::new(
                Kind::Timeout,
                format!("{} did not answer within {} s", self.context.remote.url(), limit.as_secs_f64()),
            )
            .into()),
        }
    }

    pub(super) fn writable(&self) -> Op<()> {
        if self.options().read_only { Err(Errno::ROFS.into()) } else { Ok(()) }
    }

    /// Fails with `EROFS` where what a node is can't be changed: on a read-only mount, or for an earlier
    /// version.
    pub(super) fn writable_at(&self, ino: u64) -> Op<()> {
        if is_version(ino) { Err(Errno::ROFS.into()) } else { self.writable() }
    }

    /// Fails with `EROFS` where a directory's names can't be changed: on a read-only mount, or for names of
    /// earlier versions.
    pub(super) fn writable_in(&self, parent: u64, name: &[u8]) -> Op<()> {
        if self.is_versions(name) { Err(Errno::ROFS.into()) } else { self.writable_at(parent) }
    }

    pub(super) fn now(&self) -> Instant {
        self.context.rt.now()
    }

    /// Returns when an answer to a question asked at `asked` stops being believed.
    pub(super) fn until(&self, asked: Instant) -> Instant {
        asked + self.options().ttl
    }

    pub(super) fn default_attributes(&self, dir: bool) -> Attributes {
        Attributes::listed(self.options(), dir, if dir { 4096 } else { 0 }, None, self.since)
    }

    /// Returns what the kernel is told of a node: an open file that has changes knows better than the table.
    pub(super) fn entry(&self, node: &Node) -> Entry {
        let (attributes, ttl) = match &node.file {
            Some(file) if node.gone || file.is_failed() => (file.attributes(self.options()), Duration::ZERO),
            // Its changes come from the kernel, which knows them.
            Some(file) if file.overrides_cache() => (file.attributes(self.options()), self.options().ttl),
            _ => (node.attributes.clone(), node.until.since(self.now())),
        };
        Entry { ino: node.ino, gone: node.gone, attributes, ttl }
    }

    /// Records that the kernel is told this of a node.
    pub fn record_reply(&self, entry: &Entry) {
        if let Some(node) = self.inodes.lock().get_mut(entry.ino) {
            let now = Some(entry.attributes.rights());
            // What was set here was noted before it is told.
            node.learned += u64::from(node.last_reply.is_some() && node.last_reply != now);
            node.last_reply = now;
            node.known_size = Some(entry.attributes.size);
        }
    }

    /// Returns a directory's prefix. Fails with `ENOENT` for one that is gone, with `ENOTDIR` for a file, and
    /// with `ESTALE` for an unknown number.
    pub(super) fn prefix(&self, ino: u64) -> Op<String> {
        let inodes = self.inodes.lock();
        match inodes.get(ino) {
            Some(node) if node.gone => Err(Errno::NOENT.into()),
            Some(node) if node.dir => Ok(node.key.clone()),
            Some(_) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::STALE.into()),
        }
    }

    /// Returns the words by which the log names a node.
    pub fn called(&self, ino: u64) -> String {
        if let Some(node) = self.version_tree.nodes.lock().get(ino) {
            return match &node.place {
                VersionPlace::Names(prefix) => format!("versions below {prefix:?}"),
                VersionPlace::Versions(key) => format!("versions of {key:?}"),
                VersionPlace::One { key, name } => format!("version {:?} of {key:?}", name.id),
            };
        }
        self.inodes.lock().get(ino).map_or_else(|| format!("node {ino}"), |n| format!("{:?}", n.key))
    }

    pub fn forget(&self, ino: u64, times: u64) {
        match is_version(ino) {
            true => self.version_tree.nodes.lock().forget(ino, times),
            false => self.inodes.lock().forget(ino, times),
        }
    }

    #[cfg(test)]
    pub fn runtime(&self) -> &Rt {
        &self.context.rt
    }

    #[cfg(test)]
    pub fn nodes(&self) -> usize {
        self.inodes.lock().len() + self.version_tree.nodes.lock().len()
    }

    /// Returns every open file below a prefix, in the order of their keys.
    pub(super) fn open_below(&self, prefix: &str) -> Vec<(u64, Arc<OpenFile>)> {
        let inodes = self.inodes.lock();
        let nodes = inodes.below(prefix).filter_map(|ino| inodes.get(ino));
        nodes.filter_map(|n| Some((n.ino, n.file.clone()?))).collect()
    }

    /// Tells whether this is the name of the directory of earlier versions, which is in every directory and
    /// not listed.
    pub(super) fn is_versions(&self, name: &[u8]) -> bool {
        self.options().versions && name == VERSIONS.as_bytes()
    }

    pub(super) fn version_place(&self, ino: u64) -> Op<VersionPlace> {
        let nodes = self.version_tree.nodes.lock();
        nodes.get(ino).map(|n| n.place.clone()).ok_or_else(|| Errno::STALE.into())
    }

    pub(super) fn version_file(&self, handle: u64) -> Option<Arc<VersionFile>> {
        self.handles.lock().version_files.get(&handle).cloned()
    }

    /// Passes the gate with a node. A node that was renamed with its directory has its new key then.
    pub(super) async fn pass_node(&self, ino: u64) -> Op<Pass> {
        let keys = || {
            let inodes = self.inodes.lock();
            Op::Ok(vec![inodes.get(ino).ok_or(Errno::STALE)?.key.clone()])
        };
        let passed = self.gate.pass(&self.context.rt, Some(self.options().deadline), keys).await?;
        passed.ok_or_else(being_renamed)
    }

    /// Passes the gate with an open file, however long that takes.
    pub(super) async fn pass_file(&self, file: &OpenFile) -> Pass {
        let keys = || Ok::<_, std::convert::Infallible>(vec![file.key()]);
        let Ok(passed) = self.gate.pass(&self.context.rt, None, keys).await;
        passed.expect("without a limit it waits")
    }

    /// Closes the descriptors of a file without a name that only the queue and the caller have open: nobody
    /// reads it any more.
    pub(super) fn release_unread_fds(&self, ino: u64, file: &OpenFile) {
        let queued = self.writeback.queue.lock().files.contains_key(&ino);
        if queued && self.inodes.lock().opens(ino) <= 2 {
            file.release_fds();
        }
    }

    /// Keeps the directory of `stem` visible here, since the last name in it may be gone and only that name
    /// may have implied it.
    pub(super) fn keep_parent(&self, stem: &str) {
        let (prefix, _) = split(stem);
        let until = self.now() + self.options().ttl.max(KEPT);
        if let Some(node) = self.inodes.lock().at_mut(prefix, true) {
            node.visible_until = until;
        }
    }

    pub(super) fn naming(&self) -> Naming {
        Naming { versions: self.options().versions }
    }

    pub(super) fn version_entry(&self, node: &VersionNode) -> Entry {
        let ttl = if node.attributes.exact { self.options().ttl } else { Duration::ZERO };
        Entry { ino: node.ino, gone: false, attributes: node.attributes.clone(), ttl }
    }

    /// Makes a node of a place; counts that the kernel is told of it.
    pub(super) fn version_adopt(&self, place: &VersionPlace, attributes: &Attributes) -> Entry {
        self.version_entry(self.version_tree.nodes.lock().looked_up(place, attributes))
    }

    /// Forgets what is believed of a name: the store is asked next time.
    pub(super) fn doubt(&self, stem: &str) {
        let mut inodes = self.inodes.lock();
        self.name_cache.forget(stem);
        for dir in [false, true] {
            let key = if dir { format!("{stem}/") } else { stem.to_owned() };
            if let Some(node) = inodes.at_mut(&key, dir) {
                node.until = Instant::default();
            }
        }
    }
}

/// Returns the error for a call whose directory is being renamed for as long as the call may wait.
pub(super) fn being_renamed() -> Fail {
    let said = "the directory is being renamed: try again when that has ended";
    Fail { errno: Errno::BUSY, why: Some(Error::new(Kind::Unavailable, said)) }
}

pub(super) fn fail(kind: Kind, what: String) -> Fail {
    Error::new(kind, what).into()
}
