//! Keys that users have given to this process, and where others are found.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::key_table::{Argon2Costs, Offered};
use super::secret::Secret;
use windlass_base::{Result, VolumeId};

/// A place where keys are found that nobody has given yet.
#[async_trait]
pub trait KeyFinder: Send + Sync + std::fmt::Debug {
    /// Tells whether there is a key for this volume, `POOL/VOLUME`.
    fn has(&self, volume: &str) -> bool;
    /// Fetches the key for this volume. `None`: there is none.
    async fn find(&self, volume: &str) -> Result<Option<Offered>>;
}

/// Volume keys that users have given to this process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OpenKeys {
    open: Arc<Mutex<BTreeMap<VolumeId, Secret>>>,
    /// The secret that opens every volume for which no other key was given, and by which new volumes are
    /// encrypted.
    of_all: Option<Offered>,
    source: Option<Arc<dyn KeyFinder>>,
    /// Costs of passphrases in new slots.
    costs: Argon2Costs,
}

impl OpenKeys {
    /// Makes keys for tests: every new volume is encrypted, and all are opened by this secret.
    pub fn of_all(offered: Offered) -> OpenKeys {
        let costs = Argon2Costs { memory_kib: 64, passes: 1, lanes: 1 };
        OpenKeys { of_all: Some(offered), costs, ..OpenKeys::default() }
    }

    /// Makes keys that are looked for in `source` where they are not here.
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
