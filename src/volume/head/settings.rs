//! What a volume is told at its creation, and who runs it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::size::{GIB, MIB, show_size};
use crate::base::{Error, HostId, Kind, Result};
use crate::frame::Codec;

/// What an acknowledged flush has survived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlushMode {
    /// This host's disk has it.
    #[default]
    Local,
    /// The pool has it, and this host was still the owner after that.
    Pool,
}

/// A volume's settings, kept in its head.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeSettings {
    pub flush: FlushMode,
    pub compression: Codec,
    /// What the loss of this host may cost a `local` volume while the stores keep up.
    pub max_tail_ms: u64,
    /// Local disk that unsent writes may take, in bytes.
    pub journal_size: u64,
}

impl Default for VolumeSettings {
    fn default() -> Self {
        VolumeSettings {
            flush: FlushMode::Local,
            compression: Codec::Lz4,
            max_tail_ms: 5_000,
            journal_size: 4 * GIB,
        }
    }
}

impl VolumeSettings {
    /// Smallest journal: below this the group commit has no room beside one long write.
    pub const JOURNAL_MIN: u64 = 128 * MIB;

    pub fn check(&self) -> Result<()> {
        if self.journal_size < VolumeSettings::JOURNAL_MIN {
            let least = show_size(VolumeSettings::JOURNAL_MIN);
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "a journal of {} is too small: give it {least} or more",
                    show_size(self.journal_size)
                ),
            ));
        }
        if !(100..=3_600_000).contains(&self.max_tail_ms) {
            return Err(Error::new(Kind::Usage, "max-tail is out of range: give it 100ms to 1h"));
        }
        Ok(())
    }

    pub fn max_tail(&self) -> Duration {
        Duration::from_millis(self.max_tail_ms)
    }

    /// The sentence that `volume create` and `volume info` print.
    pub fn meaning(&self) -> String {
        match self.flush {
            FlushMode::Local => format!(
                "survives a crash and a power cut; if this host's disk is lost, at most {} of flushed writes are \
                 lost while the stores keep up",
                Seconds(self.max_tail_ms)
            ),
            FlushMode::Pool => "survives the loss of this host".to_owned(),
        }
    }
}

struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{} s", self.0 / 1000)
        } else {
            write!(f, "{} ms", self.0)
        }
    }
}

/// The state folder that opens volumes, as other hosts will see it named.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Host {
    pub id: HostId,
    pub name: String,
}

/// By name, and by the start of its id: several may have one name.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.id == HostId(0) {
            return Ok(());
        }
        write!(f, " (host id {})", &self.id.to_string()[..8])
    }
}

impl Host {
    /// For a head that names no owner.
    pub fn unknown() -> Host {
        Host { id: HostId(0), name: "another host".to_owned() }
    }
}
