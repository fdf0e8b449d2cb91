//! A disk that keeps no more than `base::rt::disk` promises.
//!
//! Every file has what is on the medium and what the running system sees; unsynced writes lie between. A loss of
//! power keeps any subset of their 512-byte sectors, and any subset of the renames, creations and removals since
//! their folder's sync. A failed sync loses what it should have written and the next one does not try again, as
//! Linux does. Operations under way take effect at some time, before or after their caller is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::super::disk::{Disk, DiskFile, DiskLock, OpenHow};
use super::World;
use crate::interval_map::Intervals;

const SECTOR: u64 = 512;
const PAGE: u64 = 4096;

/// The faults and delays of a simulated disk; they change while a run goes on.
#[derive(Clone, Copy, Debug)]
pub struct DiskFaults {
    /// Half of an operation's time: until its effect, and again until its answer.
    pub latency: (Duration, Duration),
    /// Syncs that fail, in 1000.
    pub sync_fails: u32,
    /// Reads that fail, in 1000.
    pub read_fails: u32,
    /// Listings of folders that fail, in 1000.
    pub list_fails: u32,
    /// Most bytes that all files may have; `StorageFull` beyond.
    pub capacity: u64,
    /// Files can't be punched.
    pub no_holes: bool,
    /// Number of this disk among the copies of its files, 1 for the original.
    pub copy: u64,
}

impl Default for DiskFaults {
    fn default() -> Self {
        let latency = (Duration::from_micros(5), Duration::from_millis(2));
        DiskFaults {
            latency,
            sync_fails: 0,
            read_fails: 0,
            list_fails: 0,
            capacity: u64::MAX,
            no_holes: false,
            copy: 1,
        }
    }
}

/// A file's bytes; pages that were never written are zeros.
#[derive(Clone, Default, Debug)]
struct Image {
    len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
    /// Ranges that take no room.
    holes: Intervals<()>,
}

impl Image {
    fn write(&mut self, offset: u64, data: &[u8]) {
        self.holes.clear(offset..offset + data.len() as u64);
        if self.len < offset {
            self.holes.insert(self.len..offset, ());
        }
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (page, from) = (at / PAGE, (at % PAGE) as usize);
            let n = (PAGE as usize - from).min(data.len() - done);
            let bytes = self.pages.entry(page).or_insert_with(|| vec![0; PAGE as usize]);
            bytes[from..from + n].copy_from_slice(&data[done..done + n]);
            done += n;
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    fn read(&self, offset: u64, len: usize) -> Bytes {
        let end = self.len.min(offset.saturating_add(len as u64));
        let mut out = vec![0; end.saturating_sub(offset) as usize];
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let (page, from) = (at / PAGE, (at % PAGE) as usize);
            let n = (PAGE as usize - from).min(out.len() - done);
            if let Some(bytes) = self.pages.get(&page) {
                out[done..done + n].copy_from_slice(&bytes[from..from + n]);
            }
            done += n;
        }
        out.into()
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.retain(|page, _| page * PAGE < len);
            if let Some(bytes) = self.pages.get_mut(&(len / PAGE)) {
                bytes[(len % PAGE) as usize..].fill(0);
            }
            self.holes.clear(len..u64::MAX);
        }
        self.len = len;
    }

    /// Makes zeros of a range. Pages that were never written stay away: journals zero large files.
    fn zero(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        self.holes.clear(offset..end);
        for (page, bytes) in self.pages.range_mut(offset / PAGE..end.div_ceil(PAGE)) {
            let start = page * PAGE;
            let from = offset.max(start) - start;
            bytes[from as usize..(end.min(start + PAGE) - start) as usize].fill(0);
        }
        self.len = self.len.max(end);
    }

    fn punch(&mut self, offset: u64, len: u64) {
        let end = self.len.min(offset + len);
        if offset < end {
            self.zero(offset, end - offset);
            self.holes.insert(offset..end, ());
        }
    }

    /// Returns how many bytes of the range take no room.
    fn holes_in(&self, range: Range<u64>) -> u64 {
        self.holes.overlaps(range).map(|(hole, ())| hole.end - hole.start).sum()
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, data) => self.write(*offset, data),
            Change::Zero(offset, len) => self.zero(*offset, *len),
            Change::Punch(offset, len) => self.punch(*offset, *len),
            Change::SetLen(len) => self.set_len(*len),
        }
    }

    /// Applies a change as a loss of power leaves it: some of its sectors.
    fn apply_torn(&mut self, change: &Change, world: &World) {
        let (offset, len) = match change {
            Change::Write(offset, data) => (*offset, data.len() as u64),
            Change::Zero(offset, len) | Change::Punch(offset, len) => (*offset, *len),
            Change::SetLen(_) if world.per_mille(500) => return self.apply(change),
            Change::SetLen(_) => return,
        };
        let mut at = 0;
        while at < len {
            let n = (SECTOR - (offset + at) % SECTOR).min(len - at);
            if world.per_mille(500) {
                match change {
                    Change::Write(_, data) => self.write(offset + at, &data[at as usize..(at + n) as usize]),
                    Change::Punch(..) => self.punch(offset + at, n),
                    _ => self.zero(offset + at, n),
                }
            }
            at += n;
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Bytes),
    Zero(u64, u64),
    Punch(u64, u64),
    SetLen(u64),
}

#[derive(Clone, Default, Debug)]
struct Inode {
    medium: Image,
    seen: Image,
    /// Changes that are seen and not yet on the medium, oldest first, each with its number.
    unsynced: Vec<(u64, Change)>,
}

#[derive(Clone, Default, Debug)]
struct Names {
    files: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(PathBuf, u64),
    Move { from: PathBuf, to: PathBuf, inode: u64 },
    MoveDir { from: PathBuf, to: PathBuf },
    Unlink(PathBuf),
}

impl NameChange {
    fn touches(&self, dir: &Path) -> bool {
        let inside = |p: &PathBuf| p.parent() == Some(dir);
        match self {
            NameChange::Link(p, _) | NameChange::Unlink(p) => inside(p),
            NameChange::Move { from, to, .. } | NameChange::MoveDir { from, to } => {
                inside(from) || inside(to)
            }
        }
    }
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Link(path, inode) => {
                self.files.insert(path.clone(), *inode);
            }
            NameChange::Move { from, to, inode } => {
                self.files.remove(from);
                self.files.insert(to.clone(), *inode);
            }
            NameChange::MoveDir { from, to } => self.move_dir(from, to),
            NameChange::Unlink(path) => {
                self.files.remove(path);
            }
        }
    }

    fn move_dir(&mut self, from: &Path, to: &Path) {
        let moved = |p: &PathBuf| match p.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => p.clone(),
        };
        self.files = self.files.iter().map(|(p, inode)| (moved(p), *inode)).collect();
        self.dirs = self.dirs.iter().map(moved).collect();
    }
}

#[derive(Debug)]
struct State {
    faults: DiskFaults,
    /// Counts losses of power; what began before one ends without effect.
    boot: u64,
    inodes: BTreeMap<u64, Inode>,
    made: u64,
    medium: Names,
    seen: Names,
    unsynced: Vec<NameChange>,
    locks: BTreeMap<PathBuf, (u64, String)>,
    sync_failures: u64,
}

/// A simulated disk, see the module. Clones are the same disk; it outlives the processes that use it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: World,
    state: Arc<Mutex<State>>,
}

/// Tells whether all bytes are zeros. It compares whole pages, since simulations run without optimisation.
fn is_zero(bytes: &Bytes) -> bool {
    static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
    bytes.chunks(PAGE as usize).all(|part| part == &ZEROS[..part.len()])
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", path.display()))
}

fn no_power() -> io::Error {
    io::Error::other("the simulated disk lost power")
}

impl State {
    fn empty() -> State {
        let root = Names { dirs: [PathBuf::from("/")].into(), ..Names::default() };
        State {
            faults: DiskFaults::default(),
            boot: 0,
            inodes: BTreeMap::new(),
            made: 0,
            medium: root.clone(),
            seen: root,
            unsynced: Vec::new(),
            locks: BTreeMap::new(),
            sync_failures: 0,
        }
    }

    fn change_name(&mut self, change: NameChange) {
        self.seen.apply(&change);
        self.unsynced.push(change);
    }

    fn inode(&mut self, id: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(no_power)
    }

    fn used(&self) -> u64 {
        let taken = |image: &Image| image.len - image.holes_in(0..image.len);
        self.seen.files.values().filter_map(|id| Some(taken(&self.inodes.get(id)?.seen))).sum()
    }

    fn change(&mut self, id: u64, change: Change) -> io::Result<()> {
        let seen = &self.inode(id)?.seen;
        let range = match &change {
            Change::Write(offset, data) => *offset..offset + data.len() as u64,
            Change::Zero(offset, len) => *offset..offset + len,
            Change::Punch(..) => 0..0,
            // Longer files are reserved.
            Change::SetLen(len) => seen.len.min(*len)..*len,
        };
        let more =
            range.end.saturating_sub(seen.len.max(range.start)) + seen.holes_in(range.start..range.end);
        if more > 0 && self.faults.capacity < u64::MAX && self.used() + more > self.faults.capacity {
            let lacks = (self.used() + more - self.faults.capacity).min(more);
            // What there is room for is written, as a real one does.
            if let Change::Write(offset, data) = change
                && let Some(fits) = (data.len() as u64).checked_sub(lacks).filter(|fits| *fits > 0)
            {
                self.apply(id, Change::Write(offset, data.slice(..fits as usize)))?;
            }
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full"));
        }
        self.apply(id, change)
    }

    fn apply(&mut self, id: u64, change: Change) -> io::Result<()> {
        self.made += 1;
        let number = self.made;
        let inode = self.inode(id)?;
        inode.seen.apply(&change);
        inode.unsynced.push((number, change));
        Ok(())
    }

    /// Ends a sync that began when `upto` changes were made.
    fn sync(&mut self, id: u64, upto: u64, world: &World) -> io::Result<()> {
        let fails = world.per_mille(self.faults.sync_fails);
        self.sync_failures += u64::from(fails);
        let inode = self.inode(id)?;
        let later = inode.unsynced.split_off(inode.unsynced.partition_point(|(n, _)| *n <= upto));
        for (_, change) in std::mem::replace(&mut inode.unsynced, later) {
            if fails {
                inode.medium.apply_torn(&change, world);
            } else {
                inode.medium.apply(&change);
            }
        }
        if fails { Err(io::Error::other("the simulated disk failed to sync")) } else { Ok(()) }
    }

    fn open(&mut self, path: &Path, how: OpenHow) -> io::Result<u64> {
        match (self.seen.files.get(path), how) {
            (Some(_), OpenHow::CreateNew) => {
                Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", path.display())))
            }
            (Some(inode), _) => Ok(*inode),
            (None, OpenHow::Read | OpenHow::Write) => Err(not_found(path)),
            (None, _) if !path.parent().is_some_and(|dir| self.seen.dirs.contains(dir)) => {
                Err(not_found(path))
            }
            (None, _) => {
                self.made += 1;
                let inode = self.made;
                self.inodes.insert(inode, Inode::default());
                self.change_name(NameChange::Link(path.to_owned(), inode));
                Ok(inode)
            }
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        if !to.parent().is_some_and(|dir| self.seen.dirs.contains(dir)) {
            return Err(not_found(&to));
        }
        if self.seen.dirs.contains(&from) {
            self.change_name(NameChange::MoveDir { from, to });
        } else {
            let inode = *self.seen.files.get(&from).ok_or_else(|| not_found(&from))?;
            self.change_name(NameChange::Move { from, to, inode });
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.seen.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let inside = |p: &&PathBuf| p.parent() == Some(dir);
        let names = self.seen.files.keys().filter(inside).chain(self.seen.dirs.iter().filter(inside));
        let mut names: Vec<_> =
            names.filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).collect();
        names.sort();
        Ok(names)
    }

    fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.seen.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        for change in self.unsynced.extract_if(.., |c| c.touches(dir)) {
            self.medium.apply(&change);
        }
        Ok(())
    }

    fn power_loss(&mut self, world: &World) {
        self.boot += 1;
        self.locks.clear();
        // What a crash keeps: nothing, everything, or anything between.
        let mood = world.below(4);
        let kept = |one: bool| mood == 1 || mood >= 2 && one;
        for change in std::mem::take(&mut self.unsynced) {
            if kept(world.per_mille(500)) {
                self.medium.apply(&change);
            }
        }
        self.seen = self.medium.clone();
        let linked: BTreeSet<u64> = self.seen.files.values().copied().collect();
        self.inodes.retain(|id, _| linked.contains(id));
        for inode in self.inodes.values_mut() {
            for (_, change) in std::mem::take(&mut inode.unsynced) {
                match mood {
                    0 => {}
                    1 => inode.medium.apply(&change),
                    _ => inode.medium.apply_torn(&change, world),
                }
            }
            inode.seen = inode.medium.clone();
        }
    }
}

impl SimDisk {
    pub fn new(world: &World) -> SimDisk {
        SimDisk { world: world.clone(), state: Arc::new(Mutex::new(State::empty())) }
    }

    pub fn faults(&self, change: impl FnOnce(&mut DiskFaults)) {
        change(&mut self.state.lock().faults);
    }

    /// Fails the host's power now. Kill its processes with it: what they hold of this disk answers with
    /// errors.
    pub fn power_loss(&self) {
        self.state.lock().power_loss(&self.world);
    }

    /// Loses the host: another, empty disk takes this one's place. Kill its processes with it.
    pub fn replace(&self) {
        let mut state = self.state.lock();
        let boot = state.boot + 1;
        *state = State { boot, made: state.made, faults: state.faults, ..State::empty() };
    }

    /// Returns another disk with copies of all files as the running system sees them.
    pub fn copied(&self) -> SimDisk {
        let copy = self.snapshot();
        copy.state.lock().faults.copy += 1;
        copy
    }

    /// Copies the disk as it is now, for a test that puts a snapshot of its machine back: the copy's files
    /// count as the original ones.
    pub fn snapshot(&self) -> SimDisk {
        let state = self.state.lock();
        let mut inodes = state.inodes.clone();
        for inode in inodes.values_mut() {
            *inode = Inode { medium: inode.seen.clone(), seen: inode.seen.clone(), unsynced: Vec::new() };
        }
        let (medium, seen) = (state.seen.clone(), state.seen.clone());
        let (faults, made) = (state.faults, state.made);
        let copy = State { inodes, medium, seen, faults, made, ..State::empty() };
        SimDisk { world: self.world.clone(), state: Arc::new(Mutex::new(copy)) }
    }

    /// Returns how many syncs have failed so far.
    pub fn sync_failures(&self) -> u64 {
        self.state.lock().sync_failures
    }

    /// Returns every file as the running system sees it, with its length.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state.lock();
        let len = |id: &u64| state.inodes.get(id).map_or(0, |i| i.seen.len);
        state.seen.files.iter().map(|(path, id)| (path.clone(), len(id))).collect()
    }

    /// Changes bytes behind everyone's back, as rot does. False when the file isn't there.
    pub fn rot(&self, path: &Path, offset: u64, bytes: &[u8]) -> bool {
        let mut state = self.state.lock();
        let id = state.seen.files.get(path).copied();
        let Some(inode) = id.and_then(|id| state.inodes.get_mut(&id)) else { return false };
        inode.medium.write(offset, bytes);
        inode.seen.write(offset, bytes);
        true
    }

    /// Does an operation, which takes effect after some time and is answered after some more.
    async fn act<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut State, &World) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (tx, rx) = oneshot::channel();
        let (world, state) = (self.world.clone(), self.state.clone());
        let (boot, (min, max)) = {
            let state = state.lock();
            (state.boot, state.faults.latency)
        };
        self.world.after(world.latency(min, max), move || {
            let mut locked = state.lock();
            // Its caller died: a real system may or may not have got to it.
            let dropped = tx.is_closed() && world.per_mille(500);
            if locked.boot == boot && !dropped {
                let out = job(&mut locked, &world);
                drop(locked);
                let answer = world.latency(min, max);
                world.after(answer, move || {
                    if state.lock().boot == boot {
                        let _ = tx.send(out);
                    }
                });
            }
        });
        rx.await.unwrap_or_else(|_| Err(no_power()))
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
    boot: u64,
    writable: bool,
}

impl SimFile {
    async fn act<T: Send + 'static>(
        &self,
        writes: bool,
        job: impl FnOnce(&mut State, &World, u64) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if writes && !self.writable {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file was opened for reading"));
        }
        let (inode, boot) = (self.inode, self.boot);
        let stale = move |s: &State| s.boot != boot;
        self.disk.act(move |s, w| if stale(s) { Err(no_power()) } else { job(s, w, inode) }).await
    }
}

#[async_trait]
impl DiskFile for SimFile {
    async fn size(&self) -> io::Result<u64> {
        self.act(false, |s, _, id| Ok(s.inode(id)?.seen.len)).await
    }
    async fn pread(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.act(false, move |s, w, id| {
            if w.per_mille(s.faults.read_fails) {
                return Err(io::Error::other("the simulated disk failed to read"));
            }
            Ok(s.inode(id)?.seen.read(offset, len))
        })
        .await
    }
    async fn pwrite(&self, offset: u64, parts: Vec<Bytes>, sync: bool) -> io::Result<()> {
        let zeros = parts.iter().all(is_zero);
        let change = match &parts[..] {
            parts if zeros => Change::Zero(offset, parts.iter().map(|p| p.len() as u64).sum()),
            [one] => Change::Write(offset, one.clone()),
            parts => Change::Write(offset, parts.concat().into()),
        };
        self.act(true, move |s, _, id| s.change(id, change)).await?;
        if sync { self.sync().await } else { Ok(()) }
    }
    async fn sync(&self) -> io::Result<()> {
        let upto = self.disk.state.lock().made;
        self.act(false, move |s, w, id| s.sync(id, upto, w)).await
    }
    async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        self.act(
            true,
            move |s, _, id| {
                if s.inode(id)?.seen.len < end { s.change(id, Change::SetLen(end)) } else { Ok(()) }
            },
        )
        .await
    }
    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.act(true, move |s, _, id| s.change(id, Change::SetLen(len))).await
    }
    async fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.act(true, move |s, _, id| s.change(id, Change::Zero(offset, len))).await
    }
    async fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.act(true, move |s, _, id| {
            if s.faults.no_holes {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "the simulated disk makes no holes"));
            }
            s.change(id, Change::Punch(offset, len))
        })
        .await
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    token: u64,
    place: u64,
}

impl DiskLock for SimLock {
    fn place(&self) -> u64 {
        self.place
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.locks.get(&self.path).is_some_and(|(token, _)| *token == self.token) {
            state.locks.remove(&self.path);
        }
    }
}

#[async_trait]
impl Disk for SimDisk {
    async fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        let path = path.to_owned();
        let (inode, boot) = self.act(move |s, _| Ok((s.open(&path, how)?, s.boot))).await?;
        let writable = how != OpenHow::Read;
        Ok(Arc::new(SimFile { disk: self.clone(), inode, boot, writable }))
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.act(move |s, _| s.rename(&from, &to)).await
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.act(move |s, _| {
            if !s.seen.files.contains_key(&path) {
                return Err(not_found(&path));
            }
            s.change_name(NameChange::Unlink(path));
            Ok(())
        })
        .await
    }
    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        self.act(move |s, _| {
            if !s.list(&dir)?.is_empty() {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            // Durable at once, as a folder's making is.
            s.seen.dirs.remove(&dir);
            s.medium.dirs.remove(&dir);
            Ok(())
        })
        .await
    }
    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let dir = dir.to_owned();
        self.act(move |s, w| match s.faults.list_fails {
            0 => s.list(&dir),
            some if w.per_mille(some) => Err(io::Error::other("simulated failure of a listing")),
            _ => s.list(&dir),
        })
        .await
    }
    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        self.act(move |s, _| {
            for parent in dir.ancestors() {
                s.seen.dirs.insert(parent.to_owned());
                s.medium.dirs.insert(parent.to_owned());
            }
            Ok(())
        })
        .await
    }
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        self.act(move |s, _| s.sync_dir(&dir)).await
    }
    fn boot(&self) -> Option<String> {
        Some(self.state.lock().boot.to_string())
    }
    async fn room(&self, _dir: &Path) -> Option<u64> {
        let state = self.state.lock();
        let capacity = state.faults.capacity;
        (capacity < u64::MAX).then(|| capacity.saturating_sub(state.used()))
    }
    async fn lock(&self, path: &Path, note: &str) -> io::Result<Box<dyn DiskLock>> {
        let (at, note) = (path.to_owned(), note.to_owned());
        let disk = self.clone();
        // A killed process holds its locks until the writes it was in have ended: whoever gets one sees them all.
        let (ended, all_ended) = oneshot::channel();
        let longest = self.state.lock().faults.latency.1;
        self.world.after(longest, move || {
            let _ = ended.send(());
        });
        let _ = all_ended.await;
        // The lock travels as a value: a caller that dies before the answer lets go of it.
        self.act(move |s, _| {
            if let Some((_, holder)) = s.locks.get(&at) {
                let why = format!("{} is held by {holder}", at.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
            }
            s.open(&at, OpenHow::Create)?;
            s.made += 1;
            let token = s.made;
            s.locks.insert(at.clone(), (token, note));
            Ok(Box::new(SimLock { disk, path: at, token, place: s.faults.copy }) as Box<dyn DiskLock>)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sim;
    use super::*;

    /// Runs a scenario on a fresh disk. Returns its result, and the disk as a loss of power leaves it.
    fn scenario<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        seed: u64,
        run: impl FnOnce(SimDisk) -> F,
    ) -> T {
        let sim = Sim::new(seed);
        let disk = SimDisk::new(&sim);
        sim.run(run(disk)).unwrap()
    }

    #[test]
    fn synced_bytes_survive_and_others_may_not() {
        let mut kept = [0, 0, 0];
        for seed in 0..200 {
            let found = scenario(seed, |disk| async move {
                disk.create_dir(Path::new("/d")).await.unwrap();
                let file = disk.open(Path::new("/d/f"), OpenHow::Create).await.unwrap();
                file.pwrite(0, vec![Bytes::from_static(&[1; 1024])], true).await.unwrap();
                disk.sync_dir(Path::new("/d")).await.unwrap();
                file.pwrite(0, vec![Bytes::from_static(&[2; 1024])], false).await.unwrap();
                disk.power_loss();
                assert!(file.pread(0, 1).await.is_err(), "handles die with the power");
                disk.read(Path::new("/d/f"), 4096).await.unwrap()
            });
            assert_eq!(found.len(), 1024);
            for sector in found.chunks(512) {
                assert!(sector.iter().all(|b| *b == sector[0]), "sectors are atomic");
            }
            kept[match (found[0], found[1023]) {
                (1, 1) => 0,
                (2, 2) => 1,
                _ => 2,
            }] += 1;
        }
        assert!(kept.iter().all(|n| *n > 10), "{kept:?}");
    }

    #[test]
    fn names_need_their_folder_synced() {
        let mut lost = 0;
        for seed in 0..100 {
            lost += scenario(seed, |disk| async move {
                let path = Path::new("/f");
                disk.write_atomic(path, Bytes::from_static(b"one")).await.unwrap();
                let file = disk.open(Path::new("/g"), OpenHow::CreateNew).await.unwrap();
                file.pwrite(0, vec![Bytes::from_static(b"two")], true).await.unwrap();
                disk.rename(Path::new("/g"), path).await.unwrap();
                assert_eq!(disk.read(path, 9).await.unwrap(), "two");
                disk.power_loss();
                let left = disk.read(path, 9).await.unwrap();
                assert!(left == "one" || left == "two");
                u32::from(left == "one")
            });
        }
        assert!((10..90).contains(&lost), "{lost}");
    }

    #[test]
    fn a_failed_sync_loses_and_the_next_does_not_repair() {
        let mut lost = 0;
        for seed in 0..100 {
            lost += scenario(seed, |disk| async move {
                let file = disk.open(Path::new("/f"), OpenHow::Create).await.unwrap();
                disk.sync_dir(Path::new("/")).await.unwrap();
                disk.faults(|f| f.sync_fails = 1000);
                assert!(file.pwrite(0, vec![Bytes::from_static(b"x")], true).await.is_err());
                disk.faults(|f| f.sync_fails = 0);
                file.sync().await.unwrap();
                assert_eq!(file.pread(0, 9).await.unwrap(), "x");
                disk.power_loss();
                u32::from(disk.read(Path::new("/f"), 9).await.unwrap().is_empty())
            });
        }
        assert!((10..90).contains(&lost), "{lost}");
    }

    #[test]
    fn locks_space_and_folders() {
        scenario(1, |disk| async move {
            let (root, path) = (Path::new("/"), Path::new("/d/lock"));
            assert!(disk.lock(path, "a").await.is_err(), "no folder yet");
            disk.create_dir(Path::new("/d")).await.unwrap();
            let held = disk.lock(path, "a").await.unwrap();
            assert_eq!(disk.lock(path, "b").await.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            drop(held);
            let _held = disk.lock(path, "b").await.unwrap();
            disk.power_loss();
            disk.lock(path, "c").await.unwrap();
            disk.rename(Path::new("/d"), Path::new("/e")).await.unwrap();
            assert_eq!(disk.list(root).await.unwrap(), ["e"]);
            assert_eq!(disk.list(Path::new("/e")).await.unwrap(), ["lock"]);
            assert!(disk.list(Path::new("/d")).await.is_err());
            disk.faults(|f| f.capacity = 4096);
            let file = disk.open(Path::new("/e/f"), OpenHow::CreateNew).await.unwrap();
            file.allocate(0, 4096).await.unwrap();
            let full = file.allocate(4096, 1).await.unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull);
            assert_eq!(file.pread(4000, 200).await.unwrap().len(), 96);
            file.set_len(1).await.unwrap();
            assert_eq!(file.size().await.unwrap(), 1);
        });
    }
}
