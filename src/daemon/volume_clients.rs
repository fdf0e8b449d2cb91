//! Who uses which volume: clients are counted, and a volume that nobody has used for a while is released, so that
//! another host can open it without a word.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use super::api::VolumePath;
use crate::base::Name;
use crate::base::rt::Rt;
use crate::volume::{Volume, Volumes};

/// How long a volume stays ours after its last client left.
const LINGER: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Use {
    clients: u64,
    /// Counts arrivals, so that a timer set before a later visit does nothing.
    visits: u64,
    /// Who has written and is still connected, and by how many connections.
    writers: BTreeMap<String, u64>,
    /// That there are several was said.
    warned: bool,
    /// What they use, once one of them has opened it. It tells by which name it goes now.
    volume: Weak<Volume>,
}

/// Uses of volumes by their names; several of one name for as long as a volume took that name while others asked for it.
/// Whoever joins or ends one holds the lock of all.
type Uses = BTreeMap<VolumePath, Vec<Arc<Mutex<Use>>>>;

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    rt: Rt,
    uses: Mutex<Uses>,
}

/// One volume in use, for listings.
#[derive(Clone, Debug, Serialize)]
pub struct SessionInfo {
    pub path: VolumePath,
    pub clients: u64,
}

/// A volume that was renamed is in use under its new name.
fn follow_names(uses: &mut Uses) {
    let mut moved = Vec::new();
    for (path, all) in uses.iter_mut() {
        for one in all.extract_if(.., |one| one.lock().name().is_some_and(|name| name != path.volume)) {
            let Some(volume) = one.lock().name() else { continue };
            moved.push((VolumePath { pool: path.pool.clone(), volume }, one));
        }
    }
    if moved.is_empty() {
        return;
    }
    uses.retain(|_, all| !all.is_empty());
    for (path, one) in moved {
        uses.entry(path).or_default().push(one);
    }
}

impl Use {
    /// What the volume is called now, once it is open.
    fn name(&self) -> Option<Name> {
        self.volume.upgrade().map(|volume| volume.name())
    }
}

impl Sessions {
    pub fn new(rt: Rt) -> Arc<Sessions> {
        Arc::new(Sessions { rt, uses: Mutex::default() })
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        let mut uses = self.uses.lock();
        follow_names(&mut uses);
        uses
    }

    /// Counts one client until the guard is dropped. `peer`: see `writer`.
    pub fn enter(self: &Arc<Self>, path: &VolumePath, volumes: &Volumes, peer: &str) -> Session {
        let mut uses = self.uses();
        let all = uses.entry(path.clone()).or_default();
        if all.is_empty() {
            all.push(Arc::default());
        }
        let one = all[0].clone();
        let mut counted = one.lock();
        counted.clients += 1;
        counted.visits += 1;
        drop(counted);
        drop(uses);
        let (path, volumes, writer) = (path.clone(), volumes.clone(), writer(peer));
        Session { of: self.clone(), counted: one, path, volumes, writer, writes: AtomicBool::new(false) }
    }

    pub fn list(&self) -> Vec<SessionInfo> {
        let uses = self.uses();
        uses.iter().map(|(path, all)| SessionInfo { path: path.clone(), clients: clients(all) }).collect()
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

    fn leave(self: &Arc<Self>, Session { counted, path, volumes, writer, writes, .. }: &Session) {
        let visit = {
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
            one.clients -= 1;
            if one.clients > 0 {
                return;
            }
            one.visits
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
            if one.visits != visit || one.clients > 0 {
                return;
            }
            drop(one);
            let path = path.clone();
            all.retain(|one| !is_this(one));
            if clients(all) > 0 {
                return;
            }
            uses.remove(&path);
            path
        };
        // One that nobody could open is asked for by its name.
        let name = counted.lock().name().unwrap_or_else(|| came_by.volume.clone());
        if let Err(error) = volumes.release(&name).await {
            tracing::warn!(volume = %path, %error, "could not release a volume that nobody uses");
        }
    }
}

/// Clients of one volume.
fn clients(all: &[Arc<Mutex<Use>>]) -> u64 {
    all.iter().map(|one| one.lock().clients).sum()
}

/// A client's presence.
#[derive(Debug)]
pub struct Session {
    of: Arc<Sessions>,
    counted: Arc<Mutex<Use>>,
    path: VolumePath,
    volumes: Volumes,
    writer: String,
    writes: AtomicBool,
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

    /// The client changes the volume.
    pub fn writes(&self) {
        // Asked at each write: looked at before it is taken.
        if self.writes.load(Ordering::Relaxed) || self.writes.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut one = self.counted.lock();
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
