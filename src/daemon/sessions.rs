//! Who uses which volume: clients are counted, and a volume that nobody has used for a while is released, so that
//! another host can open it without a word.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use super::api::VolumePath;
use crate::base::rt::Rt;
use crate::volume::Volumes;

/// How long a volume stays ours after its last client left.
const LINGER: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Use {
    clients: u64,
    /// Counts arrivals, so that a timer set before a later visit does nothing.
    visits: u64,
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

    /// Counts one client until the guard is dropped.
    pub fn enter(self: &Arc<Self>, path: &VolumePath, volumes: &Volumes) -> Session {
        let mut uses = self.uses.lock();
        let one = uses.entry(path.clone()).or_default();
        one.clients += 1;
        one.visits += 1;
        Session { of: self.clone(), path: path.clone(), volumes: volumes.clone() }
    }

    pub fn list(&self) -> Vec<SessionInfo> {
        let uses = self.uses.lock();
        uses.iter().map(|(path, u)| SessionInfo { path: path.clone(), clients: u.clients }).collect()
    }

    pub fn clients(&self, path: &VolumePath) -> u64 {
        self.uses.lock().get(path).map_or(0, |u| u.clients)
    }

    fn leave(self: &Arc<Self>, path: &VolumePath, volumes: &Volumes) {
        let visit = {
            let mut uses = self.uses.lock();
            let Some(one) = uses.get_mut(path) else { return };
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
}

impl Drop for Session {
    fn drop(&mut self) {
        self.of.leave(&self.path, &self.volumes);
    }
}
