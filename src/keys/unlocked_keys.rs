//! Keys that users have given to this process, and where others are found.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::key_table::{Argon2Costs, Offered};
use super::secret::Secret;
use crate::base::{Result, VolumeId};

/// Where keys are found that nobody has given yet.
#[async_trait]
pub trait KeyFinder: Send + Sync + std::fmt::Debug {
    /// Whether it has one for this volume, `POOL/VOLUME`.
    fn has(&self, volume: &str) -> bool;
    /// `None`: it has none.
    async fn find(&self, volume: &str) -> Result<Option<Offered>>;
}

/// Volume keys that users have given to this process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OpenKeys {
    open: Arc<Mutex<BTreeMap<VolumeId, Secret>>>,
    /// Opens every volume of which no other key was given, and is what new ones are encrypted by.
    of_all: Option<Offered>,
    source: Option<Arc<dyn KeyFinder>>,
    /// Of passphrases that new slots take.
    costs: Argon2Costs,
}

impl OpenKeys {
    /// Every new volume is encrypted, and all are opened by this: for tests.
    pub fn of_all(offered: Offered) -> OpenKeys {
        let costs = Argon2Costs { memory_kib: 64, passes: 1, lanes: 1 };
        OpenKeys { of_all: Some(offered), costs, ..OpenKeys::default() }
    }

    /// Keys that are not here are looked for there.
    pub fn with_source(source: Arc<dyn KeyFinder>) -> OpenKeys {
        OpenKeys { source: Some(source), ..OpenKeys::default() }
    }

    pub fn source(&self) -> Option<&dyn KeyFinder> {
        self.source.as_deref()
    }

    pub fn for_all(&self) -> Option<&Offered> {
        self.of_all.as_ref()
    }

    pub fn costs(&self) -> Argon2Costs {
        self.costs
    }

    pub fn put(&self, volume: VolumeId, key: Secret) {
        self.open.lock().insert(volume, key);
    }

    pub fn get(&self, volume: VolumeId) -> Option<Secret> {
        self.open.lock().get(&volume).cloned()
    }

    pub fn forget(&self, volume: VolumeId) {
        self.open.lock().remove(&volume);
    }
}
