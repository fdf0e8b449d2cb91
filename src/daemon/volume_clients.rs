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

use super::api::VolumePath;
use crate::base::Name;
use crate::base::rt::Rt;
use crate::volume::Volumes;

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
}

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    rt: Rt,
    uses: Mutex<BTreeMap<VolumePath, Use>>,
}

/// One volume in use, for listings.
#[derive(Clone, Debug, Serialize)]
pub struct SessionInfo {
    pub path: VolumePath,
    pub clients: u64,
}

impl Sessions {
    pub fn new(rt: Rt) -> Arc<Sessions> {
        Arc::new(Sessions { rt, uses: Mutex::default() })
    }

    /// Counts one client until the guard is dropped. `peer`: see `writer`.
    pub fn enter(self: &Arc<Self>, path: &VolumePath, volumes: &Volumes, peer: &str) -> Session {
        let mut uses = self.uses.lock();
        let one = uses.entry(path.clone()).or_default();
        one.clients += 1;
        one.visits += 1;
        let (path, volumes, writer) = (path.clone(), volumes.clone(), writer(peer));
        Session { of: self.clone(), path, volumes, writer, writes: AtomicBool::new(false) }
    }

    pub fn list(&self) -> Vec<SessionInfo> {
        let uses = self.uses.lock();
        uses.iter().map(|(path, u)| SessionInfo { path: path.clone(), clients: u.clients }).collect()
    }

    /// Of a pool that is no more: nothing of it is left to release.
    pub fn forget(&self, pool: &Name) {
        self.uses.lock().retain(|path, u| path.pool != *pool || u.clients > 0);
    }

    pub fn clients(&self, path: &VolumePath) -> u64 {
        self.uses.lock().get(path).map_or(0, |u| u.clients)
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

    fn leave(self: &Arc<Self>, Session { path, volumes, writer, writes, .. }: &Session) {
        let visit = {
            let mut uses = self.uses.lock();
            let Some(one) = uses.get_mut(path) else { return };
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
            if uses.get(path).is_none_or(|u| u.visits != visit || u.clients > 0) {
                return;
            }
            uses.remove(path);
        }
        if let Err(error) = volumes.release(&path.volume).await {
            tracing::warn!(volume = %path, %error, "could not release a volume that nobody uses");
        }
    }
}

/// A client's presence.
#[derive(Debug)]
pub struct Session {
    of: Arc<Sessions>,
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
