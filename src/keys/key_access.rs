//! Which volumes' keys are at hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::data_key_ciphers::VolumeKey;
use crate::base::{Error, Kind, Result, VolumeId};

/// How what belongs to a volume is stored, and whether it can be read here.
#[derive(Clone, Debug, Default)]
pub enum KeyAccess {
    /// The volume is not encrypted: what is sealed is not its own.
    #[default]
    Plain,
    /// What is not sealed is not its own.
    Sealed(VolumeKey),
    /// It is encrypted, and its key is not here.
    Locked,
}

impl KeyAccess {
    /// `None` for a volume that is not encrypted; `Denied` without the key.
    pub fn key(&self) -> Result<Option<&VolumeKey>> {
        match self {
            KeyAccess::Plain => Ok(None),
            KeyAccess::Sealed(key) => Ok(Some(key)),
            KeyAccess::Locked => Err(KeyAccess::locked()),
        }
    }

    /// What reading without the key comes to.
    pub fn locked() -> Error {
        Error::new(
            Kind::Denied,
            "it is encrypted and its key is not here: give `--key-file`, `--passphrase-file` or `--key-command`, for a daemon to \
             `windlass volume unlock`, or set one of them for it in windlass.toml",
        )
    }
}

/// The access to a volume and its ancestors. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct FamilyKeys(Arc<BTreeMap<VolumeId, KeyAccess>>);

impl FamilyKeys {
    pub fn new(all: BTreeMap<VolumeId, KeyAccess>) -> FamilyKeys {
        FamilyKeys(Arc::new(all))
    }

    pub fn access(&self, volume: VolumeId) -> &KeyAccess {
        self.0.get(&volume).unwrap_or(&KeyAccess::Plain)
    }
}
