//! Which volumes' keys are at hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::data_key_ciphers::VolumeKey;
use super::journal_key::JournalKey;
use windlass_base::{Error, Kind, Result, VolumeId};

/// The way in which a volume's bytes are stored, and whether they can be read here.
#[derive(Clone, Debug, Default)]
pub enum KeyAccess {
    /// The volume is not encrypted. Bytes that are sealed are not its own.
    #[default]
    Plain,
    /// The volume is encrypted, and its key is here. Bytes that are not sealed are not its own.
    Sealed(VolumeKey),
    /// The volume is encrypted, and its key is not here.
    Locked,
}

impl KeyAccess {
    /// Returns the key, or `None` for a volume that is not encrypted. `Denied` without the key.
    pub fn key(&self) -> Result<Option<&VolumeKey>> {
        match self {
            KeyAccess::Plain => Ok(None),
            KeyAccess::Sealed(key) => Ok(Some(key)),
            KeyAccess::Locked => Err(KeyAccess::locked()),
        }
    }

    /// Makes the error of reading without the key.
    pub fn locked() -> Error {
        Error::new(
            Kind::Denied,
            "it is encrypted and its key is not here: give `--key-file`, `--passphrase-file` or `--key-command`, for a daemon to \
             `windlass volume unlock`, or set one of them for it in windlass.toml",
        )
    }
}

/// The access to a volume and its ancestors, and to the volume's journals. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct FamilyKeys(Arc<Family>);

#[derive(Debug, Default)]
struct Family {
    all: BTreeMap<VolumeId, KeyAccess>,
    journal: Option<JournalKey>,
}

impl FamilyKeys {
    /// Makes the access to a volume whose key is not here, or that has none.
    pub fn new(all: BTreeMap<VolumeId, KeyAccess>) -> FamilyKeys {
        FamilyKeys(Arc::new(Family { all, journal: None }))
    }

    /// Makes the access to a volume whose key is here.
    pub fn opened(all: BTreeMap<VolumeId, KeyAccess>, journal: JournalKey) -> FamilyKeys {
        FamilyKeys(Arc::new(Family { all, journal: Some(journal) }))
    }

    pub fn access(&self, volume: VolumeId) -> &KeyAccess {
        self.0.all.get(&volume).unwrap_or(&KeyAccess::Plain)
    }

    /// Returns the key of the volume's journals, if the volume's key is here.
    pub fn journal_key(&self) -> Option<&JournalKey> {
        self.0.journal.as_ref()
    }
}
