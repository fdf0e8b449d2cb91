//! Templates whose clones are opened on this host for the first time: what their heads say of boot traces, asked for once,
//! and one fetch ahead at a time, whichever clone is the first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::head::Trace;
use windlass_base::rt::{Instant, Rt};
use windlass_base::{StateId, VolumeId};

/// Time for which what a template says counts, whatever other hosts change.
const FRESH: Duration = Duration::from_secs(3);
/// Time for which what was fetched is taken to be here.
const FETCHED: Duration = Duration::from_secs(60);
const TEMPLATES_MAX: usize = 64;

/// The templates of all pools, as far as they are known here. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Boots(Arc<Mutex<BTreeMap<VolumeId, Arc<BootTemplate>>>>);

/// A template's word to its clones.
#[derive(Clone, Debug)]
pub enum Boot {
    Plain,
    /// The clone's first boot is to be recorded.
    Record,
    Fetch(Arc<Trace>),
}

/// One template, as this host knows it.
#[derive(Debug, Default)]
pub struct BootTemplate {
    told: tokio::sync::Mutex<Option<(Instant, Boot)>>,
    /// The snapshot that was fetched last, and when that was done. Held during a fetch, so that there is one
    /// at a time.
    pub fetch: tokio::sync::Mutex<Option<(StateId, Instant)>>,
}

impl Boots {
    pub fn of(&self, template: VolumeId) -> Arc<BootTemplate> {
        let mut known = self.0.lock();
        if known.len() >= TEMPLATES_MAX {
            known.retain(|_, template| Arc::strong_count(template) > 1);
        }
        known.entry(template).or_default().clone()
    }

    /// Forgets a template, since what it says has changed.
    pub fn forget(&self, template: VolumeId) {
        self.0.lock().remove(&template);
    }
}

impl BootTemplate {
    /// Returns what `ask` says, or said a moment ago.
    pub async fn told(&self, rt: &Rt, ask: impl Future<Output = Boot>) -> Boot {
        let mut told = self.told.lock().await;
        if let Some((at, boot)) = &*told
            && rt.now().since(*at) < FRESH
        {
            return boot.clone();
        }
        let boot = ask.await;
        *told = Some((rt.now(), boot.clone()));
        boot
    }

    /// Tells whether this snapshot was fetched a moment ago, so that nothing of it is to be fetched now.
    pub fn has(fetched: Option<(StateId, Instant)>, snapshot: StateId, now: Instant) -> bool {
        fetched.is_some_and(|(of, at)| of == snapshot && now.since(at) < FETCHED)
    }
}
