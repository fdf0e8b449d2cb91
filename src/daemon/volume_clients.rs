//! Who uses which volume: clients are counted, and a volume that nobody has used for a while is released, so that
//! another host can open it without a word.
//!
//! Who comes by a name is counted under that name until the volume is open, and from then on with all who use the same
//! volume, by whatever names they came: another host may rename a volume at any time, and give its name to another one.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::api::VolumePath;
use super::expected_clients::{Arriving, Expected, ExpectedClients};
use super::io_tally::{IoRequest, IoTally, IoVerb};
use super::volume_uses::{
    Client, FILLED, Hold, SessionInfo, Use, Uses, VolumeKey, check_free, check_unused, clients, follow_names,
    key_of, use_by_key, use_of, use_to_hold,
};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Name, PoolId, Result, VolumeId};
use windlass_volume::{Clients, Passage, Volume, VolumeSettings, Volumes};

/// Time for which a volume stays ours after its last client left.
const LINGER: Duration = Duration::from_secs(60);

/// Longest time that clients who are hung up on may take: their requests that are under way are done first.
const HANG_UP: Duration = Duration::from_secs(15);

/// The daemon itself as a visitor: it opens what was open here when it was cut off.
pub const DAEMON: Visitor<'_> = Visitor::Command(DAEMON_NAME);
const DAEMON_NAME: &str = "the daemon";

/// A party that comes to use a volume.
#[derive(Clone, Copy, Debug)]
pub enum Visitor<'a> {
    /// A connection: the client's address, or `process` and its number.
    Client(&'a str),
    /// A command, or the daemon itself.
    Command(&'a str),
}

/// Clients and commands that use volumes, by volume. See the module.
#[derive(Debug)]
pub struct VolumeClients {
    rt: Rt,
    uses: Mutex<Uses>,
    /// Names that a rename takes or gives up now: nobody begins to hold a volume alone by one of them. Locked after `uses`.
    renaming: Mutex<Vec<VolumePath>>,
    /// Clients of the daemon before that are to go on here.
    expected: ExpectedClients,
    /// Signal that somebody has left.
    left: Notify,
}

impl VolumeClients {
    pub fn new(rt: Rt) -> Arc<VolumeClients> {
        Arc::new(VolumeClients {
            expected: ExpectedClients::new(rt.clone()),
            rt,
            uses: Mutex::default(),
            renaming: Mutex::default(),
            left: Notify::new(),
        })
    }

    /// Makes the table with the clients of the daemon before, given as for `expect`.
    pub fn expecting(
        rt: &Rt,
        clients: impl IntoIterator<Item = (VolumeKey, String, bool)>,
    ) -> Arc<VolumeClients> {
        let all = VolumeClients::new(rt.clone());
        all.expect(clients);
        all
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

    /// Counts the only client, who alone may come until the guard is dropped. `Owned`, by their names, while there are others.
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
            let client = Client { name: name.to_owned(), hang_up: hang_up.clone(), opened: Weak::new() };
            one.clients.insert(visit, client);
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
            is_command: hang_up.is_none(),
            hang_up: hang_up.unwrap_or_default(),
            writer: writer(name),
            writes: Arc::default(),
            refused: AtomicBool::new(false),
            io,
            passage,
        }
    }

    /// Keeps everybody else from the volume until the guard is dropped. `what` is being done to it, as in "is being …". `Owned`,
    /// by their names, while somebody uses it; with `hang_up` clients' connections are ended first, a command never.
    pub async fn alone(
        self: &Arc<Self>,
        path: &VolumePath,
        volumes: &Volumes,
        what: &'static str,
        hang_up: bool,
    ) -> Result<Alone> {
        self.daemon_left(path).await;
        self.learn_names(path, volumes).await;
        let of = match volumes.key_of(&path.volume).await {
            // What stores that are away do not tell, who opens the volume learns.
            Err(e) if e.is_transient() && self.expected.is_empty() => None,
            of => of?,
        };
        // Before the clients that are counted: these are expected until they are among them.
        self.check_none_expected(path, of)?;
        let (alone, all) = self.hold(path, volumes, (of, what), hang_up)?;
        let all_left = async {
            loop {
                // Made before the look, so that a client that leaves between the look and the wait ends the wait.
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

    /// Holds a volume alone. `of` is the volume that has the name, as far as it is known. Also returns the uses whose clients go
    /// then.
    pub(super) fn hold(
        self: &Arc<Self>,
        path: &VolumePath,
        volumes: &Volumes,
        (of, what): (Option<VolumeKey>, &'static str),
        hang_up: bool,
    ) -> Result<(Alone, Vec<Arc<Mutex<Use>>>)> {
        let mut uses = self.uses();
        if self.renaming.lock().contains(path) {
            return Err(Error::new(Kind::Owned, format!("{path} is being renamed: try again")));
        }
        let mut all = uses.entry(path.clone()).or_default().clone();
        // The volume that has the name now may be in use under another one.
        let known = of.and_then(|of| use_by_key(&uses, of));
        all.extend(known.clone().filter(|known| !all.iter().any(|one| Arc::ptr_eq(one, known))));
        check_free(path, &all, false)?;
        check_unused(path, &all, hang_up)?;
        let counted = known.unwrap_or_else(|| use_to_hold(&mut uses, path, of));
        {
            let mut one = counted.lock();
            one.alone = Some(Hold { what, guards: 1 });
            one.of = one.of.or(of);
            one.visit();
        }
        for one in all.iter() {
            one.lock().hang_up();
        }
        let alone = Alone { of: self.clone(), counted, path: path.clone(), volumes: volumes.clone() };
        Ok((alone, all))
    }

    /// Learns the names of the volume that has the name now, and of those that were known under it. They are found by their names
    /// afterwards, also where another host has renamed one.
    async fn learn_names(&self, path: &VolumePath, volumes: &Volumes) {
        let known: Vec<VolumeId> = {
            let uses = self.uses();
            let all = uses.get(path).into_iter().flatten();
            all.filter_map(|one| one.lock().of).map(|(_, id)| id).collect()
        };
        let mut learnt = vec![volumes.follow(&path.volume).await];
        for id in known {
            learnt.push(volumes.follow_volume(id).await);
        }
        // One that is not there yet has no name to learn.
        for error in learnt.into_iter().filter_map(Result::err).filter(|error| !error.is(Kind::NotFound)) {
            tracing::debug!(volume = %path, %error, "it is not known whether another host has renamed it");
        }
    }

    /// Returns another guard for whoever fills this very volume: it is held until both are dropped.
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
            if one.of != Some(key_of(volume)) {
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

    /// Takes names for a rename: until the guard is dropped nobody begins to hold a volume alone by one of them. `Owned`:
    /// somebody does already.
    pub fn rename(self: &Arc<Self>, paths: [VolumePath; 2]) -> Result<Renaming> {
        let uses = self.uses();
        for path in &paths {
            check_free(path, uses.get(path).map_or(&[], Vec::as_slice), false)?;
        }
        self.renaming.lock().extend(paths.iter().cloned());
        Ok(Renaming { of: self.clone(), paths })
    }

    /// Fails with `Owned` if a command has the volume alone.
    pub fn check_free(&self, path: &VolumePath) -> Result<()> {
        check_free(path, self.uses().get(path).map_or(&[], Vec::as_slice), false)
    }

    /// Waits a while for the daemon itself, which lets go of a volume once the volume is open.
    async fn daemon_left(&self, path: &VolumePath) {
        let is_there = || {
            let uses = self.uses();
            let mut all = uses.get(path).into_iter().flatten();
            all.any(|one| one.lock().clients.values().any(|client| client.name == DAEMON_NAME))
        };
        let left = async {
            loop {
                // As in `alone`: made before the look.
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

    /// Ends the connections of clients, who may come again at once. Returns how many there were.
    pub fn hang_up(&self, path: &VolumePath) -> usize {
        self.uses().get(path).into_iter().flatten().map(|one| one.lock().hang_up()).sum()
    }

    /// Returns the passages of all who use the volume that this session uses, and of those who ask for it by its name.
    pub fn passages(&self, of: &Session) -> Vec<Arc<Passage>> {
        let (path, key) = (of.path_now(), of.counted.lock().of);
        let uses = self.uses();
        let mut found = Vec::new();
        for one in uses.get(&path).into_iter().flatten() {
            let one = one.lock();
            if one.of.is_none() || one.of == key {
                found.push(one.passage.clone());
            }
        }
        found
    }

    /// Has those who use the volume that this session uses go on with another volume, of another pool.
    pub fn moved(&self, of: &Session, (pool, volumes): (&Name, &Volumes), to: &Arc<Volume>) {
        let mut uses = self.uses();
        {
            let mut one = of.counted.lock();
            (one.of, one.volume) = (Some(key_of(to)), Arc::downgrade(to));
            one.moved = Some((pool.clone(), volumes.clone()));
            one.by_move = Some(to.used_by_moved());
        }
        follow_names(&mut uses);
    }

    /// Fails with `Owned`, by its name, while a client of the daemon before is about to go on with the volume.
    pub fn check_none_expected(&self, path: &VolumePath, of: Option<VolumeKey>) -> Result<()> {
        let Some(client) = of.and_then(|of| self.expected.one(of)) else { return Ok(()) };
        let why = format!(
            "{path} has a client ({client}) of the daemon before, which is to go on with it and waits until it is open: try again \
             then, or disconnect it"
        );
        Err(Error::new(Kind::Owned, why))
    }

    /// Fails with `Owned`, by one of them, while somebody uses a volume of the pool or is about to go on with one. `id` is the
    /// pool's, where it is known.
    pub fn check_pool_unused(&self, pool: &Name, id: Option<PoolId>) -> Result<()> {
        let used = self.list().into_iter().find(|used| used.path.pool == *pool && used.clients > 0);
        if let Some(used) = used {
            let why = format!("{} has clients connected: disconnect them first", used.path);
            return Err(Error::new(Kind::Owned, why));
        }
        match self.expected.one_in(id) {
            Some(client) => {
                let why = format!(
                    "pool {pool} has a client ({client}) of the daemon before, which waits until the pool is open: disconnect it first"
                );
                Err(Error::new(Kind::Owned, why))
            }
            None => Ok(()),
        }
    }

    /// Fails with `Owned`, by their names, while somebody uses the volume, or is about to go on with it.
    pub async fn check_unused(&self, path: &VolumePath, volumes: &Volumes) -> Result<()> {
        if !self.expected.is_empty() {
            self.check_none_expected(path, volumes.key_of(&path.volume).await?)?;
        }
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
        let failure = |all: &[Arc<Mutex<Use>>]| all.iter().find_map(|one| one.lock().failure());
        let info = |(path, all): (&VolumePath, &Vec<_>)| SessionInfo {
            path: path.clone(),
            clients: clients(all),
            failure: failure(all),
            io: io(all),
        };
        used.map(info).collect()
    }

    /// Forgets the volumes of a pool that is no more: nothing of it is left to release.
    pub fn forget(&self, pool: &Name) {
        self.uses().retain(|path, all| path.pool != *pool || clients(all) > 0);
    }

    pub fn clients(&self, path: &VolumePath) -> u64 {
        self.uses().get(path).map_or(0, |all| clients(all))
    }

    /// Returns the clients that have written to the volume and are still connected.
    pub fn writers(&self, path: &VolumePath) -> Vec<String> {
        let uses = self.uses();
        let all = uses.get(path).into_iter().flatten();
        let writers: BTreeSet<String> =
            all.flat_map(|one| one.lock().writers.keys().cloned().collect::<Vec<_>>()).collect();
        writers.into_iter().collect()
    }

    /// Expects clients of the daemon before, each given by the volume, the client's address or process, and whether it has
    /// written. It gets all of them, before a command is let in.
    pub fn expect(&self, all: impl IntoIterator<Item = (VolumeKey, String, bool)>) {
        let expected = |(of, peer, writes): (_, String, _)| Expected { of, name: writer(&peer), writes };
        self.expected.expect(all.into_iter().map(expected));
    }

    /// Expects clients of this daemon's own again, which the next one has not taken, and notes that they are served.
    pub fn serve_again(&self, all: impl IntoIterator<Item = (VolumeKey, String, bool)>) {
        self.expect(all);
        self.serves_expected();
    }

    /// Notes that the expected clients are served from now on.
    pub fn serves_expected(&self) {
        self.expected.are_served();
    }

    /// Notes that an expected client comes for its volume.
    pub fn expected_comes(&self, of: VolumeKey, peer: &str, writes: bool) -> Arriving<'_> {
        self.expected.arrives(Expected { of, name: writer(peer), writes })
    }

    /// Tells whether somebody uses the volume, or is about to go on with it.
    pub fn is_used(&self, path: &VolumePath, of: VolumeKey) -> bool {
        self.clients(path) > 0 || self.expected.one(of).is_some()
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
            if one.clients.is_empty() {
                one.by_move = None;
            }
        }
        self.left.notify_waiters();
        self.linger(counted, path, volumes);
    }

    /// Ends a use in which somebody was counted who is counted in the use of the volume itself now.
    fn leave_use(
        self: &Arc<Self>,
        mut uses: MutexGuard<'_, Uses>,
        counted: &Arc<Mutex<Use>>,
        path: &VolumePath,
        volumes: &Volumes,
    ) {
        let was_of_none = {
            let one = counted.lock();
            one.of.is_none() && one.is_over()
        };
        if was_of_none && let Some(all) = uses.get_mut(path) {
            all.retain(|one| !Arc::ptr_eq(one, counted));
            if all.is_empty() {
                uses.remove(path);
            }
        }
        drop(uses);
        self.left.notify_waiters();
        if !was_of_none {
            self.linger(counted, path, volumes);
        }
    }

    /// Releases the volume after a while, when nobody comes any more.
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

    /// Releases a volume to which nobody has come since `visit`. `came_by` is the name that its last client asked for.
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
            let (path, of) = (path.clone(), counted.lock().of);
            all.retain(|one| !is_this(one));
            // Others who ask for the name may be about to open the very volume.
            let is_asked_for = of.is_none() && all.iter().any(|one| !one.lock().is_over());
            if all.is_empty() {
                uses.remove(&path);
            }
            if is_asked_for {
                return;
            }
            path
        };
        let (of, known, moved) = {
            let one = counted.lock();
            (one.of, one.name(), one.moved.clone())
        };
        let volumes = moved.as_ref().map_or(volumes, |(_, volumes)| volumes);
        let released = async {
            let known = known.unwrap_or_else(|| came_by.volume.clone());
            let name = match of {
                // Another volume may have the name by now.
                Some((_, id)) => volumes.name_now(id, &known).await?,
                // One that nobody could open is asked for by its name.
                None => known,
            };
            volumes.release(&name).await
        };
        if let Err(error) = released.await
            // Another host's, where it was only attached here.
            && !matches!(error.kind(), Kind::NotFound | Kind::Owned)
        {
            tracing::warn!(volume = %path, %error, "could not release a volume that nobody uses");
        }
    }
}

/// The presence of a client or of a command.
#[derive(Debug)]
pub struct Session {
    of: Arc<VolumeClients>,
    counted: Arc<Mutex<Use>>,
    path: VolumePath,
    /// The path as text, for the log.
    shown: String,
    volumes: Volumes,
    visit: u64,
    is_command: bool,
    hang_up: CancellationToken,
    writer: String,
    writes: Arc<AtomicBool>,
    /// Is true once the log has said that the client may not write.
    refused: AtomicBool,
    io: Arc<IoTally>,
    passage: Arc<Passage>,
}

/// A hold by which nobody else uses the volume.
#[derive(Debug)]
pub struct Alone {
    of: Arc<VolumeClients>,
    counted: Arc<Mutex<Use>>,
    path: VolumePath,
    volumes: Volumes,
}

impl Alone {
    /// Returns the volume that is held, whatever has its name by now.
    ///
    /// # Errors
    /// `Owned`: it was not told, or there is none.
    pub fn volume(&self) -> Result<VolumeId> {
        let of = self.counted.lock().of;
        let untold =
            || Error::new(Kind::Owned, format!("it can't be told which volume {} is: try again", self.path));
        of.map(|(_, id)| id).ok_or_else(untold)
    }

    /// Notes that the command works on this volume, whatever its name will be.
    ///
    /// # Errors
    /// `Owned`: others use it, who came by another name.
    pub fn opened(&mut self, volume: &Arc<Volume>) -> Result<()> {
        let mut uses = self.of.uses();
        let of_volume = use_of(&mut uses, &self.counted, &self.path, volume);
        if Arc::ptr_eq(&of_volume, &self.counted) {
            return Ok(());
        }
        let all = std::slice::from_ref(&of_volume);
        check_free(&self.path, all, false)?;
        check_unused(&self.path, all, false)?;
        let hold = self.counted.lock().alone.take();
        {
            let mut one = of_volume.lock();
            one.alone = hold;
            one.visit();
        }
        let before = std::mem::replace(&mut self.counted, of_volume);
        self.of.leave_use(uses, &before, &self.path, &self.volumes);
        Ok(())
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

/// Returns what tells one client from another: its process on this host, or its host. The connections of one client share that.
fn writer(peer: &str) -> String {
    match peer.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_string(),
        Err(_) => peer.to_owned(),
    }
}

impl Session {
    /// Counts the client with all who use this volume from now on, whatever the volume's name will be. Called before the client's
    /// first request.
    ///
    /// # Errors
    /// `Owned`: a command has that volume alone.
    pub fn opened(&mut self, volume: &Arc<Volume>) -> Result<()> {
        self.opened_by(volume, None)
    }

    /// Counts the client as `opened` does, for who has the volume alone.
    pub fn opened_alone(&mut self, volume: &Arc<Volume>, alone: &mut Alone) -> Result<()> {
        alone.opened(volume)?;
        self.opened_by(volume, Some(alone))
    }

    fn opened_by(&mut self, volume: &Arc<Volume>, alone: Option<&Alone>) -> Result<()> {
        let mut uses = self.of.uses();
        let of_volume = use_of(&mut uses, &self.counted, &self.path, volume);
        if let Some(client) = self.counted.lock().clients.get_mut(&self.visit) {
            client.opened = Arc::downgrade(volume);
        }
        if Arc::ptr_eq(&of_volume, &self.counted) {
            return Ok(());
        }
        if !alone.is_some_and(|alone| Arc::ptr_eq(&alone.counted, &of_volume)) {
            check_free(&self.path, std::slice::from_ref(&of_volume), self.is_command)?;
        }
        debug_assert!(!self.writes.load(Ordering::Relaxed), "it has written before it was open");
        let client = self.counted.lock().clients.remove(&self.visit);
        {
            let mut one = of_volume.lock();
            self.visit = one.visit();
            one.clients.extend(client.map(|client| (self.visit, client)));
            (self.io, self.passage) = (one.io.clone(), one.passage.clone());
        }
        let before = std::mem::replace(&mut self.counted, of_volume);
        self.of.leave_use(uses, &before, &self.path, &self.volumes);
        Ok(())
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

    /// Returns the name by which users of this session's volume are found now: it may have been renamed since this session began.
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

    /// Returns the passage by which all requests of this session go to the volume.
    pub fn passage(&self) -> &Passage {
        &self.passage
    }

    pub fn shared_passage(&self) -> Arc<Passage> {
        self.passage.clone()
    }

    /// Notes that the client changes the volume. `settings` returns the settings as they are now.
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
        let other = || {
            let here = one.writers.keys().find(|other| **other != self.writer).cloned();
            here.or_else(|| self.of.expected.other_writer(one.of?, &self.writer))
        };
        if only_one && let Some(other) = other() {
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
        self.enter_writer(&mut one);
        Ok(())
    }

    /// Returns the flag that tells whether the client has written, for another process.
    pub fn shared_writes(&self) -> Arc<AtomicBool> {
        self.writes.clone()
    }

    /// Notes that the client has written in another process of this host. Whoever else has come meanwhile, it goes on.
    pub fn has_written(&self) {
        self.enter_writer(&mut self.counted.lock());
    }

    fn enter_writer(&self, one: &mut Use) {
        if self.writes.swap(true, Ordering::AcqRel) {
            return;
        }
        *one.writers.entry(self.writer.clone()).or_default() += 1;
        if one.writers.len() > 1 && !std::mem::replace(&mut one.warned, true) {
            let writers = one.writers.keys().cloned().collect::<Vec<_>>().join(", ");
            tracing::warn!(volume = %self.path, writers, "several clients write to one volume: no ordinary filesystem bears that");
        }
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
