//! Who uses which volume: clients are counted, and a volume that nobody has used for a while is released, so that
//! another host can open it without a word.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::api::VolumePath;
use super::io_tally::{IoRequest, IoTally, IoVerb};
use crate::base::rt::Rt;
use crate::base::units::show_count;
use crate::base::{Error, Kind, Name, Result};
use crate::volume::{Clients, Passage, Volume, VolumeSettings, Volumes};

/// How long a volume stays ours after its last client left.
const LINGER: Duration = Duration::from_secs(60);

/// How long clients that are hung up on may take: their requests that are under way are done first.
const HANG_UP: Duration = Duration::from_secs(15);

/// The daemon itself, as a visitor: it opens what was open here when it was cut off.
pub const DAEMON: Visitor<'_> = Visitor::Command(DAEMON_NAME);
const DAEMON_NAME: &str = "the daemon";

/// What is done to a volume that a command alone may write to. Commands go on with it meanwhile, as to take a snapshot.
const FILLED: &str = "filled by a command";

/// Who comes to use a volume.
#[derive(Clone, Copy, Debug)]
pub enum Visitor<'a> {
    /// A connection: the client's address, or `process` and its number.
    Client(&'a str),
    /// A command, or the daemon itself.
    Command(&'a str),
}

#[derive(Debug)]
struct Client {
    /// For messages.
    name: String,
    /// Cancelled to end the connection; a command has none, and comes to its end by itself.
    hang_up: Option<CancellationToken>,
}

/// That a volume is held alone: for as long as somebody has a guard of it.
#[derive(Debug)]
struct Hold {
    /// What is being done to the volume.
    what: &'static str,
    guards: u64,
}

#[derive(Debug, Default)]
struct Use {
    /// By their visits.
    clients: BTreeMap<u64, Client>,
    /// Counts arrivals, so that a timer set before a later visit does nothing.
    visits: u64,
    /// A command has the volume alone.
    alone: Option<Hold>,
    /// Who has written and is still connected, and by how many connections.
    writers: BTreeMap<String, u64>,
    /// That there are several was said.
    warned: bool,
    /// What they use, once one of them has opened it. It tells by which name it goes now.
    volume: Weak<Volume>,
    /// What clients have asked of it.
    io: Arc<IoTally>,
    /// The way of their requests to it.
    passage: Arc<Passage>,
    /// The pool that it was moved to while they used it.
    moved: Option<(Name, Volumes)>,
}

/// Uses of volumes by their names; several of one name for as long as a volume took that name while others asked for it.
/// Whoever joins or ends one holds the lock of all.
type Uses = BTreeMap<VolumePath, Vec<Arc<Mutex<Use>>>>;

/// See the module.
#[derive(Debug)]
pub struct VolumeClients {
    rt: Rt,
    uses: Mutex<Uses>,
    /// Names that a rename takes or gives up now: nobody begins to hold a volume alone by one of them. Locked after `uses`.
    renaming: Mutex<Vec<VolumePath>>,
    /// Somebody has left.
    left: Notify,
}

/// One volume in use, for listings.
#[derive(Clone, Debug, Serialize)]
pub struct SessionInfo {
    pub path: VolumePath,
    pub clients: u64,
    /// What clients have asked of it since the first of them came.
    #[serde(skip)]
    pub io: Arc<IoTally>,
}

/// A volume that was renamed, or moved, is in use under its new name.
fn follow_names(uses: &mut Uses) {
    let mut moved = Vec::new();
    for (path, all) in uses.iter_mut() {
        all.retain(|one| {
            let Some(now) = one.lock().path(path).filter(|now| now != path) else { return true };
            moved.push((now, one.clone()));
            false
        });
    }
    if moved.is_empty() {
        return;
    }
    uses.retain(|_, all| !all.is_empty());
    // Before those who asked for that name in vain: who comes next joins them.
    for (path, one) in moved {
        uses.entry(path).or_default().insert(0, one);
    }
}

impl Use {
    /// What the volume is called now, once it is open.
    fn name(&self) -> Option<Name> {
        self.volume.upgrade().map(|volume| volume.name())
    }

    /// Where the volume is now that was asked for by this, once it is open.
    fn path(&self, asked: &VolumePath) -> Option<VolumePath> {
        let pool = self.moved.as_ref().map_or(&asked.pool, |(pool, _)| pool).clone();
        Some(VolumePath { pool, volume: self.name()? })
    }

    fn visit(&mut self) -> u64 {
        self.visits += 1;
        self.visits
    }

    /// Nobody is there, and nobody has it alone.
    fn is_over(&self) -> bool {
        self.clients.is_empty() && self.alone.is_none()
    }

    fn hang_up(&self) -> usize {
        self.clients.values().flat_map(|c| &c.hang_up).map(CancellationToken::cancel).count()
    }
}

/// `Owned`: a command has the volume alone. It is named, where it is a client.
fn check_free(path: &VolumePath, all: &[Arc<Mutex<Use>>], is_command: bool) -> Result<()> {
    for one in all {
        let one = one.lock();
        let Some(Hold { what, .. }) = one.alone else { continue };
        if what == FILLED && is_command {
            continue;
        }
        let names = one.clients.values().map(|client| client.name.as_str()).collect::<Vec<_>>().join(", ");
        let who = if names.is_empty() { names } else { format!(" ({names})") };
        return Err(Error::new(Kind::Owned, format!("{path} is being {what}{who}: try again when it is")));
    }
    Ok(())
}

/// `Owned`, by their names, while somebody uses the volume, but for those who will be hung up on.
fn check_unused(path: &VolumePath, all: &[Arc<Mutex<Use>>], hang_up: bool) -> Result<()> {
    let mut names = Vec::new();
    for one in all {
        let one = one.lock();
        let stays = one.clients.values().filter(|c| !hang_up || c.hang_up.is_none());
        names.extend(stays.map(|c| c.name.clone()));
    }
    if names.is_empty() {
        return Ok(());
    }
    let many = show_count(names.len() as u64, "client");
    let why = format!("{path} has {many} connected ({}): disconnect first", names.join(", "));
    Err(Error::new(Kind::Owned, why))
}

impl VolumeClients {
    pub fn new(rt: Rt) -> Arc<VolumeClients> {
        Arc::new(VolumeClients {
            rt,
            uses: Mutex::default(),
            renaming: Mutex::default(),
            left: Notify::new(),
        })
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        let mut uses = self.uses.lock();
        follow_names(&mut uses);
        uses
    }

    /// Counts one client until the guard is dropped. `Owned`: a command has the volume alone.
    pub fn enter(
        self: &Arc<Self>,
        path: &VolumePath,
        volumes: &Volumes,
        who: Visitor<'_>,
    ) -> Result<Session> {
        let mut uses = self.uses();
        let all = uses.entry(path.clone()).or_default();
        check_free(path, all, matches!(who, Visitor::Command(_)))?;
        Ok(self.admit(uses, path, volumes, who))
    }

    /// The only client, who alone may come until the guard is dropped; `Owned`, by their names, while there are others.
    pub async fn enter_alone(
        self: &Arc<Self>,
        path: &VolumePath,
        volumes: &Volumes,
        who: Visitor<'_>,
    ) -> Result<(Session, Alone)> {
        let alone = self.alone(path, volumes, FILLED, false).await?;
        Ok((self.admit(self.uses(), path, volumes, who), alone))
    }

    fn admit(
        self: &Arc<Self>,
        mut uses: MutexGuard<'_, Uses>,
        path: &VolumePath,
        volumes: &Volumes,
        who: Visitor<'_>,
    ) -> Session {
        let all = uses.entry(path.clone()).or_default();
        if all.is_empty() {
            all.push(Arc::default());
        }
        let counted = all[0].clone();
        let (io, passage) = {
            let one = counted.lock();
            (one.io.clone(), one.passage.clone())
        };
        let (name, hang_up) = match who {
            Visitor::Client(peer) => (peer, Some(CancellationToken::new())),
            Visitor::Command(what) => (what, None),
        };
        let visit = {
            let mut one = counted.lock();
            let visit = one.visit();
            one.clients.insert(visit, Client { name: name.to_owned(), hang_up: hang_up.clone() });
            visit
        };
        drop(uses);
        Session {
            of: self.clone(),
            counted,
            path: path.clone(),
            shown: path.to_string(),
            volumes: volumes.clone(),
            visit,
            hang_up: hang_up.unwrap_or_default(),
            writer: writer(name),
            writes: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            io,
            passage,
        }
    }

    /// Nobody else uses the volume until the guard is dropped. `what` is being done to it, as in "is being …". `Owned`, by
    /// their names, while somebody uses it; with `hang_up` clients' connections are ended first, a command never.
    pub async fn alone(
        self: &Arc<Self>,
        path: &VolumePath,
        volumes: &Volumes,
        what: &'static str,
        hang_up: bool,
    ) -> Result<Alone> {
        self.daemon_left(path).await;
        let (alone, all) = {
            let mut uses = self.uses();
            if self.renaming.lock().contains(path) {
                return Err(Error::new(Kind::Owned, format!("{path} is being renamed: try again")));
            }
            let all = uses.entry(path.clone()).or_default();
            check_free(path, all, false)?;
            check_unused(path, all, hang_up)?;
            if all.is_empty() {
                all.push(Arc::default());
            }
            let counted = all[0].clone();
            {
                let mut one = counted.lock();
                one.alone = Some(Hold { what, guards: 1 });
                one.visit();
            }
            for one in all.iter() {
                one.lock().hang_up();
            }
            (Alone { of: self.clone(), counted, path: path.clone(), volumes: volumes.clone() }, all.clone())
        };
        let all_left = async {
            loop {
                let left = self.left.notified();
                if clients(&all) == 0 {
                    return;
                }
                left.await;
            }
        };
        match self.rt.timeout(HANG_UP, all_left).await {
            Some(()) => Ok(alone),
            None => {
                let why = format!("{path}: the requests of its clients did not come to an end in time");
                Err(Error::new(Kind::Unavailable, why))
            }
        }
    }

    /// Another guard for whoever fills this very volume: it is held until both are dropped.
    ///
    /// # Errors
    /// `Refused`: nobody fills it. The client that did has gone, and others may have come.
    pub fn join_filling(
        self: &Arc<Self>,
        path: &VolumePath,
        volumes: &Volumes,
        volume: &Arc<Volume>,
    ) -> Result<Alone> {
        let uses = self.uses();
        for counted in uses.get(path).into_iter().flatten() {
            let mut one = counted.lock();
            if one.volume.upgrade().is_none_or(|held| held.id() != volume.id()) {
                continue;
            }
            if let Some(hold) = one.alone.as_mut().filter(|hold| hold.what == FILLED) {
                hold.guards += 1;
                let (of, counted) = (self.clone(), counted.clone());
                return Ok(Alone { of, counted, path: path.clone(), volumes: volumes.clone() });
            }
        }
        let why = format!("{path} is not held alone any more: others may have written to it");
        Err(Error::new(Kind::Refused, why))
    }

    /// Names for a rename: until the guard is dropped nobody begins to hold a volume alone by one of them. `Owned`: somebody
    /// does already.
    pub fn rename(self: &Arc<Self>, paths: [VolumePath; 2]) -> Result<Renaming> {
        let uses = self.uses();
        for path in &paths {
            check_free(path, uses.get(path).map_or(&[], Vec::as_slice), false)?;
        }
        self.renaming.lock().extend(paths.iter().cloned());
        Ok(Renaming { of: self.clone(), paths })
    }

    /// `Owned`: a command has the volume alone.
    pub fn check_free(&self, path: &VolumePath) -> Result<()> {
        check_free(path, self.uses().get(path).map_or(&[], Vec::as_slice), false)
    }

    /// Waits a while for the daemon itself, which lets go of a volume when that is open.
    async fn daemon_left(&self, path: &VolumePath) {
        let is_there = || {
            let uses = self.uses();
            let mut all = uses.get(path).into_iter().flatten();
            all.any(|one| one.lock().clients.values().any(|client| client.name == DAEMON_NAME))
        };
        let left = async {
            loop {
                let left = self.left.notified();
                if !is_there() {
                    return;
                }
                left.await;
            }
        };
        // Then it is told who is there.
        let _ = self.rt.timeout(HANG_UP, left).await;
    }

    /// Ends the connections of clients, who may come again at once. So many there were.
    pub fn hang_up(&self, path: &VolumePath) -> usize {
        self.uses().get(path).into_iter().flatten().map(|one| one.lock().hang_up()).sum()
    }

    /// The ways of all who use a volume.
    pub fn passages(&self, path: &VolumePath) -> Vec<Arc<Passage>> {
        let uses = self.uses();
        uses.get(path).into_iter().flatten().map(|one| one.lock().passage.clone()).collect()
    }

    /// Those who use a volume use this one of another pool from now on.
    pub fn moved(&self, path: &VolumePath, (pool, volumes): (&Name, &Volumes), to: &Arc<Volume>) {
        let mut uses = self.uses();
        for one in uses.get(path).into_iter().flatten() {
            let mut one = one.lock();
            one.volume = Arc::downgrade(to);
            one.moved = Some((pool.clone(), volumes.clone()));
        }
        follow_names(&mut uses);
    }

    /// `Owned`, by their names, while somebody uses the volume.
    pub fn check_unused(&self, path: &VolumePath) -> Result<()> {
        let uses = self.uses();
        let Some(all) = uses.get(path) else { return Ok(()) };
        check_free(path, all, false)?;
        check_unused(path, all, false)
    }

    pub fn list(&self) -> Vec<SessionInfo> {
        let uses = self.uses();
        // Not what somebody asked for in vain.
        let used =
            |all: &[Arc<Mutex<Use>>]| clients(all) > 0 || all.iter().any(|one| one.lock().name().is_some());
        let used = uses.iter().filter(|(_, all)| used(all));
        // Where `enter` puts clients.
        let io = |all: &[Arc<Mutex<Use>>]| all.first().map(|one| one.lock().io.clone()).unwrap_or_default();
        used.map(|(path, all)| SessionInfo { path: path.clone(), clients: clients(all), io: io(all) })
            .collect()
    }

    /// Of a pool that is no more: nothing of it is left to release.
    pub fn forget(&self, pool: &Name) {
        self.uses().retain(|path, all| path.pool != *pool || clients(all) > 0);
    }

    pub fn clients(&self, path: &VolumePath) -> u64 {
        self.uses().get(path).map_or(0, |all| clients(all))
    }

    /// Those who have written to the volume and are still connected.
    pub fn writers(&self, path: &VolumePath) -> Vec<String> {
        let uses = self.uses();
        let all = uses.get(path).into_iter().flatten();
        let writers: BTreeSet<String> =
            all.flat_map(|one| one.lock().writers.keys().cloned().collect::<Vec<_>>()).collect();
        writers.into_iter().collect()
    }

    fn leave(self: &Arc<Self>, Session { counted, path, volumes, visit, writer, writes, .. }: &Session) {
        {
            let mut one = counted.lock();
            if writes.load(Ordering::Acquire)
                && let Entry::Occupied(mut left) = one.writers.entry(writer.clone())
            {
                *left.get_mut() -= 1;
                if *left.get() == 0 {
                    left.remove();
                }
            }
            one.warned &= one.writers.len() > 1;
            one.clients.remove(visit);
        }
        self.left.notify_waiters();
        self.linger(counted, path, volumes);
    }

    /// The volume is released when nobody comes any more.
    fn linger(self: &Arc<Self>, counted: &Arc<Mutex<Use>>, path: &VolumePath, volumes: &Volumes) {
        let visit = match &*counted.lock() {
            one if one.is_over() => one.visits,
            _ => return,
        };
        let (this, counted, path, volumes) = (self.clone(), counted.clone(), path.clone(), volumes.clone());
        self.rt
            .spawn(async move {
                this.rt.sleep(LINGER).await;
                this.release(&counted, &path, visit, &volumes).await;
            })
            .detach();
    }

    /// `came_by`: the name that its last client asked for.
    async fn release(&self, counted: &Arc<Mutex<Use>>, came_by: &VolumePath, visit: u64, volumes: &Volumes) {
        let path = {
            let mut uses = self.uses();
            let is_this = |one: &Arc<Mutex<Use>>| Arc::ptr_eq(one, counted);
            let Some((path, all)) = uses.iter_mut().find(|(_, all)| all.iter().any(is_this)) else { return };
            let one = counted.lock();
            if one.visits != visit || !one.is_over() {
                return;
            }
            drop(one);
            let path = path.clone();
            all.retain(|one| !is_this(one));
            if all.iter().any(|one| !one.lock().is_over()) {
                return;
            }
            uses.remove(&path);
            path
        };
        let (name, moved) = {
            let one = counted.lock();
            // One that nobody could open is asked for by its name.
            (one.name().unwrap_or_else(|| came_by.volume.clone()), one.moved.clone())
        };
        let volumes = moved.as_ref().map_or(volumes, |(_, volumes)| volumes);
        if let Err(error) = volumes.release(&name).await
            // Another host's, where it was only attached here.
            && !matches!(error.kind(), Kind::NotFound | Kind::Owned)
        {
            tracing::warn!(volume = %path, %error, "could not release a volume that nobody uses");
        }
    }
}

/// Clients of one volume.
fn clients(all: &[Arc<Mutex<Use>>]) -> u64 {
    all.iter().map(|one| one.lock().clients.len() as u64).sum()
}

/// A client's presence.
#[derive(Debug)]
pub struct Session {
    of: Arc<VolumeClients>,
    counted: Arc<Mutex<Use>>,
    path: VolumePath,
    /// The same, for the log.
    shown: String,
    volumes: Volumes,
    visit: u64,
    hang_up: CancellationToken,
    writer: String,
    writes: AtomicBool,
    /// That it may not was said.
    refused: AtomicBool,
    io: Arc<IoTally>,
    passage: Arc<Passage>,
}

/// A volume that nobody else uses.
#[derive(Debug)]
pub struct Alone {
    of: Arc<VolumeClients>,
    counted: Arc<Mutex<Use>>,
    path: VolumePath,
    volumes: Volumes,
}

impl Alone {
    /// The command works on this volume, whatever its name will be.
    pub fn opened(&self, volume: &Arc<Volume>) {
        self.counted.lock().volume = Arc::downgrade(volume);
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        {
            let mut one = self.counted.lock();
            if let Some(hold) = &mut one.alone {
                hold.guards -= 1;
            }
            one.alone.take_if(|hold| hold.guards == 0);
        }
        self.of.linger(&self.counted, &self.path, &self.volumes);
    }
}

/// Names that a rename takes and gives up.
#[derive(Debug)]
pub struct Renaming {
    of: Arc<VolumeClients>,
    paths: [VolumePath; 2],
}

impl Drop for Renaming {
    fn drop(&mut self) {
        let mut renaming = self.of.renaming.lock();
        for path in &self.paths {
            if let Some(at) = renaming.iter().position(|one| one == path) {
                renaming.swap_remove(at);
            }
        }
    }
}

/// What tells one client from another: its process on this host, or its host. The connections of one client share that.
fn writer(peer: &str) -> String {
    match peer.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_string(),
        Err(_) => peer.to_owned(),
    }
}

impl Session {
    /// The client uses this volume, whatever its name will be.
    pub fn opened(&self, volume: &Arc<Volume>) {
        self.counted.lock().volume = Arc::downgrade(volume);
    }

    /// Does the work of a client's request, and counts it.
    pub async fn counted<T>(
        &self,
        (verb, offset, bytes): (IoVerb, u64, u64),
        work: Pin<&mut impl Future<Output = Result<T>>>,
    ) -> Result<T> {
        let request = IoRequest { volume: &self.shown, verb, offset, bytes };
        self.io.counted(&self.of.rt, request, work).await
    }

    /// By what name those are found now who use the same volume: it may have been renamed since this came.
    pub fn path_now(&self) -> VolumePath {
        let uses = self.of.uses();
        let is_here = |all: &[Arc<Mutex<Use>>]| all.iter().any(|one| Arc::ptr_eq(one, &self.counted));
        let found = uses.iter().find(|(_, all)| is_here(all)).map(|(path, _)| path.clone());
        found.unwrap_or_else(|| self.path.clone())
    }

    /// Cancelled when the client is to be hung up on.
    pub fn hang_up(&self) -> CancellationToken {
        self.hang_up.clone()
    }

    /// By which all its requests go.
    pub fn passage(&self) -> &Passage {
        &self.passage
    }

    pub fn shared_passage(&self) -> Arc<Passage> {
        self.passage.clone()
    }

    /// The client changes the volume. `settings`: as they are now.
    ///
    /// # Errors
    /// `ReadOnly`: only one client may, and another does.
    pub fn writes(&self, settings: impl FnOnce() -> VolumeSettings) -> Result<()> {
        // Asked at each write: looked at before it is taken.
        if self.writes.load(Ordering::Relaxed) {
            return Ok(());
        }
        let only_one = settings().clients == Clients::One;
        let mut one = self.counted.lock();
        if only_one && let Some(other) = one.writers.keys().find(|other| **other != self.writer) {
            let (path, own) = (&self.path, &self.writer);
            let why = format!(
                "{path} takes the writes of one client (clients=one), which is {other}: end that one, and {own} may write; or `windlass \
                 volume set {path} clients=any`"
            );
            if !self.refused.swap(true, Ordering::Relaxed) {
                tracing::warn!("{why}");
            }
            return Err(Error::new(Kind::ReadOnly, why));
        }
        if self.writes.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        *one.writers.entry(self.writer.clone()).or_default() += 1;
        if one.writers.len() > 1 && !std::mem::replace(&mut one.warned, true) {
            let writers = one.writers.keys().cloned().collect::<Vec<_>>().join(", ");
            tracing::warn!(volume = %self.path, writers, "several clients write to one volume: no ordinary filesystem bears that");
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.of.leave(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_client_are_one_writer() {
        assert_eq!(writer("10.0.0.7:40001"), writer("10.0.0.7:40002"));
        assert_eq!(writer("[::1]:7"), "::1");
        assert_ne!(writer("process 7"), writer("process 8"));
    }
}
