//! What a volume is told at its creation, and who runs it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::size::{GIB, MIB, parse_duration, parse_size, show_duration, show_size};
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

/// What is still as it was born isn't written.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A volume's settings, kept in its head.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
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

fn bad(why: impl Into<String>) -> Error {
    Error::new(Kind::Usage, why)
}

/// One of a few words.
fn one_of<T: Copy>(key: &str, value: &str, words: &[(&str, T)]) -> Result<T> {
    let known = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    let found = words.iter().find(|(word, _)| *word == value);
    found.map(|(_, is)| *is).ok_or_else(|| bad(format!("{key}={value:?} is unknown: use one of {}", known())))
}

fn word<T: Copy + PartialEq>(value: T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, is)| *is == value).map_or("", |(word, _)| word)
}

const FLUSH: &[(&str, FlushMode)] = &[("local", FlushMode::Local), ("pool", FlushMode::Pool)];
const COMPRESSION: &[(&str, Codec)] = &[("lz4", Codec::Lz4), ("zstd", Codec::Zstd), ("none", Codec::None)];

impl VolumeSettings {
    /// Smallest journal: below this the group commit has no room beside one long write.
    pub const JOURNAL_MIN: u64 = 128 * MIB;
    /// The names that users know them by.
    const KEYS: &str = "flush, compression, max-tail or journal-size";

    /// Sets one by its name, as `KEY=VALUE`.
    fn assign(&mut self, assignment: &str) -> Result<()> {
        let (key, value) = assignment.split_once('=').ok_or_else(|| {
            bad(format!("{assignment:?} is no KEY=VALUE: the keys are {}", VolumeSettings::KEYS))
        })?;
        let ms = || parse_duration(value).map(|time| time.as_millis() as u64);
        match key {
            "flush" => self.flush = one_of(key, value, FLUSH)?,
            "compression" => self.compression = one_of(key, value, COMPRESSION)?,
            "max-tail" => self.max_tail_ms = ms()?,
            "journal-size" => self.journal_size = parse_size(value)?,
            _ => {
                let keys = VolumeSettings::KEYS;
                return Err(bad(format!("a volume has no setting {key:?}: the keys are {keys}")));
            }
        }
        Ok(())
    }

    /// These with all the assignments made, or the first error.
    pub fn assigned(mut self, assignments: &[String]) -> Result<VolumeSettings> {
        assignments.iter().try_for_each(|assignment| self.assign(assignment))?;
        self.check()?;
        Ok(self)
    }

    /// One by its name, as it would be assigned.
    pub fn show(&self, key: &str) -> String {
        let value = match key {
            "flush" => word(self.flush, FLUSH).to_owned(),
            "compression" => word(self.compression, COMPRESSION).to_owned(),
            "max-tail" => show_duration(self.max_tail_ms),
            "journal-size" => show_size(self.journal_size),
            _ => String::new(),
        };
        format!("{key}={value}")
    }

    /// The format that a head needs at least whose volume has them: what a version doesn't know it would not heed.
    pub(super) fn format(&self) -> u32 {
        match self.compression {
            Codec::Zstd => 2,
            Codec::None | Codec::Lz4 => 1,
        }
    }

    pub fn check(&self) -> Result<()> {
        if self.journal_size < VolumeSettings::JOURNAL_MIN {
            let least = show_size(VolumeSettings::JOURNAL_MIN);
            let size = show_size(self.journal_size);
            return Err(bad(format!("a journal of {size} is too small: give it {least} or more")));
        }
        if !(100..=3_600_000).contains(&self.max_tail_ms) {
            return Err(bad("max-tail is out of range: give it 100ms to 1h"));
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
