//! Who uses which volume: clients are counted, and a volume that nobody has used for a while is released, so that
//! another host can open it without a word.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::api::VolumePath;
use crate::base::rt::Rt;
use crate::base::size::show_count;
use crate::base::{Error, Kind, Result};
use crate::volume::Volumes;

/// How long a volume stays ours after its last client left.
const LINGER: Duration = Duration::from_secs(60);

/// How long clients that are hung up on may take: their requests that are under way are done first.
const HANG_UP: Duration = Duration::from_secs(15);

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

#[derive(Debug, Default)]
struct Use {
    /// By their visits.
    clients: BTreeMap<u64, Client>,
    /// Counts arrivals, so that a timer set before a later visit does nothing.
    visits: u64,
    /// A command has the volume alone: what is being done to it.
    alone: Option<&'static str>,
    /// Who has written and is still connected, and by how many connections.
    writers: BTreeMap<String, u64>,
    /// That there are several was said.
    warned: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    rt: Rt,
    uses: Mutex<BTreeMap<VolumePath, Use>>,
    /// Somebody has left.
    left: Notify,
}

/// One volume in use, for listings.
#[derive(Clone, Debug, Serialize)]
pub struct SessionInfo {
    pub path: VolumePath,
    pub clients: u64,
}

impl Sessions {
    pub fn new(rt: Rt) -> Arc<Sessions> {
        Arc::new(Sessions { rt, uses: Mutex::default(), left: Notify::new() })
    }

    /// Counts one client until the guard is dropped. `Owned`: a command has the volume alone.
    pub fn enter(
        self: &Arc<Self>,
        path: &VolumePath,
        volumes: &Volumes,
        who: Visitor<'_>,
    ) -> Result<Session> {
        let mut uses = self.uses.lock();
        let one = uses.entry(path.clone()).or_default();
        one.free(path)?;
        let (name, hang_up) = match who {
            Visitor::Client(peer) => (peer, Some(CancellationToken::new())),
            Visitor::Command(what) => (what, None),
        };
        let session = Session {
            of: self.clone(),
            path: path.clone(),
            volumes: volumes.clone(),
            visit: one.visit(),
            hang_up: hang_up.clone().unwrap_or_default(),
            writer: writer(name),
            writes: AtomicBool::new(false),
        };
        one.clients.insert(session.visit, Client { name: name.to_owned(), hang_up });
        Ok(session)
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
        let alone = {
            let mut uses = self.uses.lock();
            let one = uses.entry(path.clone()).or_default();
            one.free(path)?;
            one.nobody(path, hang_up)?;
            one.alone = Some(what);
            one.clients.values().flat_map(|c| &c.hang_up).for_each(CancellationToken::cancel);
            one.visit();
            Alone { of: self.clone(), path: path.clone(), volumes: volumes.clone() }
        };
        let all_left = async {
            loop {
                let left = self.left.notified();
                if self.clients(path) == 0 {
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

    /// Ends the connections of clients, who may come again at once. So many there were.
    pub fn hang_up(&self, path: &VolumePath) -> usize {
        let uses = self.uses.lock();
        let tokens = uses.get(path).into_iter().flat_map(|one| one.clients.values()).flat_map(|c| &c.hang_up);
        tokens.map(CancellationToken::cancel).count()
    }

    /// `Owned`, by their names, while somebody uses the volume.
    pub fn check_unused(&self, path: &VolumePath) -> Result<()> {
        self.uses.lock().get(path).map_or(Ok(()), |one| one.free(path).and_then(|()| one.nobody(path, false)))
    }

    pub fn list(&self) -> Vec<SessionInfo> {
        let uses = self.uses.lock();
        uses.iter()
            .map(|(path, u)| SessionInfo { path: path.clone(), clients: u.clients.len() as u64 })
            .collect()
    }

    pub fn clients(&self, path: &VolumePath) -> u64 {
        self.uses.lock().get(path).map_or(0, |u| u.clients.len() as u64)
    }

    /// Those who have written to the volume and are still connected.
    pub fn writers(&self, path: &VolumePath) -> Vec<String> {
        self.uses.lock().get(path).map_or_else(Vec::new, |u| u.writers.keys().cloned().collect())
    }

    fn writes(&self, path: &VolumePath, writer: &str) {
        let mut uses = self.uses.lock();
        let Some(one) = uses.get_mut(path) else { return };
        *one.writers.entry(writer.to_owned()).or_default() += 1;
        if one.writers.len() > 1 && !std::mem::replace(&mut one.warned, true) {
            let writers = one.writers.keys().cloned().collect::<Vec<_>>().join(", ");
            tracing::warn!(volume = %path, writers, "several clients write to one volume: no ordinary filesystem bears that");
        }
    }

    fn leave(self: &Arc<Self>, Session { path, volumes, visit, writer, writes, .. }: &Session) {
        {
            let mut uses = self.uses.lock();
            let Some(one) = uses.get_mut(path) else { return };
            if writes.load(Ordering::Acquire) {
                leave(&mut one.writers, writer);
            }
            one.warned &= one.writers.len() > 1;
            one.clients.remove(visit);
        }
        self.left.notify_waiters();
        self.linger(path, volumes);
    }

    /// The volume is released when nobody comes any more.
    fn linger(self: &Arc<Self>, path: &VolumePath, volumes: &Volumes) {
        let visit = match self.uses.lock().get(path) {
            Some(one) if one.clients.is_empty() && one.alone.is_none() => one.visits,
            _ => return,
        };
        let (this, path, volumes) = (self.clone(), path.clone(), volumes.clone());
        self.rt
            .spawn(async move {
                this.rt.sleep(LINGER).await;
                this.release(&path, visit, &volumes).await;
            })
            .detach();
    }

    async fn release(&self, path: &VolumePath, visit: u64, volumes: &Volumes) {
        {
            let mut uses = self.uses.lock();
            if uses.get(path).is_none_or(|u| u.visits != visit || u.alone.is_some() || !u.clients.is_empty())
            {
                return;
            }
            uses.remove(path);
        }
        if let Err(error) = volumes.release(&path.volume).await {
            tracing::warn!(volume = %path, %error, "could not release a volume that nobody uses");
        }
    }
}

/// One connection less.
fn leave(connections: &mut BTreeMap<String, u64>, writer: &str) {
    if let Entry::Occupied(mut left) = connections.entry(writer.to_owned()) {
        *left.get_mut() -= 1;
        if *left.get() == 0 {
            left.remove();
        }
    }
}

/// A client's presence.
#[derive(Debug)]
pub struct Session {
    of: Arc<Sessions>,
    path: VolumePath,
    volumes: Volumes,
    visit: u64,
    hang_up: CancellationToken,
    writer: String,
    writes: AtomicBool,
}

/// A volume that nobody else uses.
#[derive(Debug)]
pub struct Alone {
    of: Arc<Sessions>,
    path: VolumePath,
    volumes: Volumes,
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Some(one) = self.of.uses.lock().get_mut(&self.path) {
            one.alone = None;
        }
        self.of.linger(&self.path, &self.volumes);
    }
}

impl Use {
    fn visit(&mut self) -> u64 {
        self.visits += 1;
        self.visits
    }

    fn free(&self, path: &VolumePath) -> Result<()> {
        match self.alone {
            Some(what) => {
                Err(Error::new(Kind::Owned, format!("{path} is being {what}: try again when it is")))
            }
            None => Ok(()),
        }
    }

    /// But for those who can be hung up on, if they will be.
    fn nobody(&self, path: &VolumePath, hang_up: bool) -> Result<()> {
        let stays = self.clients.values().filter(|c| !hang_up || c.hang_up.is_none());
        let names: Vec<&str> = stays.map(|c| &*c.name).collect();
        if names.is_empty() {
            return Ok(());
        }
        let many = show_count(names.len() as u64, "client");
        let why = format!("{path} has {many} connected ({}): disconnect first", names.join(", "));
        Err(Error::new(Kind::Owned, why))
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
    /// Cancelled when the client is to be hung up on.
    pub fn hang_up(&self) -> CancellationToken {
        self.hang_up.clone()
    }

    /// The client changes the volume.
    pub fn writes(&self) {
        // Asked at each write: looked at before it is taken.
        if !self.writes.load(Ordering::Relaxed) && !self.writes.swap(true, Ordering::AcqRel) {
            self.of.writes(&self.path, &self.writer);
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
