//! windlass.toml: its sections as types, the reading of it with all that is wrong told at once, and what holds in the end
//! with the environment and flags over it.

mod allow_rule;
mod effective;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod limits_and_references;
mod listen_address;
mod parse;
mod reference;
mod section_macro;
mod sections;
#[cfg(test)]
mod tests;
mod toml_errors;
mod value_types;

use std::path::Path;

use windlass_base::rt::Disk;
use windlass_base::{Error, Kind, Result};

pub use allow_rule::Allow;
pub use effective::{AlertPlan, Origin, ReplicaPlan, Row, ScrubPlan};
pub use listen_address::{Account, ListenAddress};
pub use reference::{example, reference};
pub use section_macro::Wrong;
pub use sections::{Config, Store, Tls};
pub use value_types::{ClientCertificates, Level, List, LogFormat, Written, bare_or_quoted};

/// Largest configuration file, in bytes.
const FILE_MAX: usize = 1 << 20;

/// A file that can't be used, and why.
#[derive(Debug)]
pub enum Unusable {
    /// The file can't be read at all.
    File(Error),
    /// Everything that is wrong in the file, by line.
    Content(Vec<Wrong>),
}

impl Config {
    /// Reads the configuration. A default file that is absent is an empty configuration; a named one that is absent
    /// is an error. The error has a line for each thing that is wrong in the file.
    pub async fn load(disk: &dyn Disk, path: &Path, named: bool) -> Result<Config> {
        Config::read(disk, path, named).await.map_err(|unusable| match unusable {
            Unusable::File(error) => error,
            Unusable::Content(wrong) => {
                let lines = wrong.iter().map(|wrong| format!("configuration {}, {wrong}", path.display()));
                Error::new(Kind::Usage, lines.collect::<Vec<_>>().join("\n"))
            }
        })
    }

    /// Reads the configuration as `load` does, and returns what is wrong in it one by one.
    pub async fn read(disk: &dyn Disk, path: &Path, named: bool) -> Result<Config, Unusable> {
        let bytes = match disk.read(path, FILE_MAX).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !named => return Ok(Config::default()),
            Err(e) => {
                let why = format!("configuration {}: {e}", path.display());
                return Err(Unusable::File(Error::new(Kind::Usage, why)));
            }
        };
        let text = std::str::from_utf8(&bytes).map_err(|e| {
            let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
            let what = "is not UTF-8: save it in that encoding".to_owned();
            Unusable::Content(vec![Wrong { line, key: "the file".to_owned(), what }])
        })?;
        let config = Config::parse(text).map_err(Unusable::Content)?;
        Ok(Config { path: Some(path.to_owned()), ..config })
    }
}
