//! windlass.toml, and the environment over it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::Deserialize;

use crate::base::rt::Disk;
use crate::base::size::{GIB, parse_size};
use crate::base::{Error, Kind, Result};

/// Largest configuration file, in bytes.
const FILE_MAX: usize = 1 << 20;
/// Least budget that an engine works with, in bytes.
const MEMORY_MIN: u64 = 64 << 20;
/// Least block cache on disk, and the largest that nobody asked for.
const CACHE_MIN: u64 = 64 << 20;
const CACHE_MAX: u64 = 10 * GIB;

/// The file as written; unknown keys are refused, since a misspelt one would silently do nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The daemon's memory budget, as `2G`.
    pub memory: Option<String>,
    /// Local disk that `serve` may use for what it reads, as `10G`; 0: none.
    pub cache: Option<String>,
    /// Addresses that `serve` listens on.
    #[serde(default)]
    pub nbd: Vec<String>,
    /// Addresses where `serve` shows its metrics.
    #[serde(default)]
    pub metrics: Vec<String>,
    /// Stores with a name, for `--store NAME`.
    #[serde(default)]
    pub store: BTreeMap<String, BTreeMap<String, toml::Value>>,
}

impl Config {
    /// An absent default file is an empty configuration; an absent named one is an error.
    pub async fn load(disk: &dyn Disk, path: &Path, named: bool) -> Result<Config> {
        let bytes = match disk.read(path, FILE_MAX).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !named => return Ok(Config::default()),
            Err(e) => {
                let why = format!("configuration {}: {e}", path.display());
                return Err(Error::new(Kind::Usage, why));
            }
        };
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Error::new(Kind::Usage, format!("configuration {} is not UTF-8", path.display())))?;
        toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(0, |at| text[..at.start.min(text.len())].matches('\n').count() + 1);
            let why = e.message().lines().collect::<Vec<_>>().join(", ");
            Error::new(Kind::Usage, format!("configuration {}, line {line}: {why}", path.display()))
        })
    }

    /// Bytes that the engine may use: the flag, else `WINDLASS_MEMORY`, else the file, else
    /// min(a quarter of the machine's memory, 2 GiB).
    pub fn memory(&self, flag: Option<u64>) -> Result<u64> {
        let environment = std::env::var("WINDLASS_MEMORY").ok().filter(|v| !v.is_empty());
        let written = environment.as_ref().or(self.memory.as_ref());
        let bytes = match (flag, written) {
            (Some(bytes), _) => bytes,
            (None, Some(text)) => parse_size(text)?,
            (None, None) => (rustix::system::sysinfo().totalram as u64 / 4).clamp(MEMORY_MIN, 2 * GIB),
        };
        if bytes < MEMORY_MIN {
            return Err(Error::new(
                Kind::Usage,
                format!("a memory budget of {bytes} bytes is too small: give at least 64M"),
            ));
        }
        Ok(bytes)
    }

    /// Bytes of local disk for the cache of `serve`: the flag, else `WINDLASS_CACHE`, else the file, else a tenth of what
    /// is free there beside what it has already, 10 GiB at most. Less than what is worth having is none.
    pub fn cache(&self, flag: Option<u64>, dir: &Path) -> Result<u64> {
        let environment = std::env::var("WINDLASS_CACHE").ok().filter(|v| !v.is_empty());
        let written = environment.as_ref().or(self.cache.as_ref());
        let bytes = match (flag, written) {
            (Some(bytes), _) => bytes,
            (None, Some(text)) => parse_size(text)?,
            (None, None) => (room(dir) / 10).min(CACHE_MAX),
        };
        match bytes {
            0 => Ok(0),
            CACHE_MIN.. => Ok(bytes),
            _ if flag.or(written.map(|_| 0)).is_none() => Ok(0),
            _ => {
                let why =
                    format!("a block cache of {bytes} bytes is too small: give at least 64M, or 0 for none");
                Err(Error::new(Kind::Usage, why))
            }
        }
    }

    /// A store as users give it: a URL, or the name of a `[store.NAME]` section.
    pub fn store_url(&self, given: &str) -> Result<String> {
        let (name, zone) =
            given.split_once(",zone=").map_or((given, None), |(name, zone)| (name, Some(zone)));
        if name.contains(':') {
            return Ok(given.to_owned());
        }
        let Some(section) = self.store.get(name) else {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "{name:?} is neither a store's URL (s3://…, file:///…) nor a [store.{name}] section of windlass.toml"
                ),
            ));
        };
        let text = |v: &toml::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let mut url = section
            .get("url")
            .map(text)
            .ok_or_else(|| Error::new(Kind::Usage, format!("[store.{name}] of windlass.toml has no url")))?;
        for (key, value) in section.iter().filter(|(k, _)| !matches!(k.as_str(), "url" | "zone")) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&format!("{key}={}", text(value)));
        }
        match zone.map(str::to_owned).or_else(|| section.get("zone").map(text)) {
            Some(zone) => Ok(format!("{url},zone={zone}")),
            None => Ok(url),
        }
    }
}

/// What is free around a folder that may not be there yet, and what a file in it has.
fn room(dir: &Path) -> u64 {
    let free = |dir: &Path| rustix::fs::statvfs(dir).ok().map(|s| s.f_bavail * s.f_frsize);
    let has = std::fs::metadata(dir.join("frames")).map_or(0, |m| m.blocks() * 512);
    dir.ancestors().find_map(free).unwrap_or(0) + has
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_by_name_become_urls() {
        let text = "memory = '1G'\n[store.a]\nurl = 's3://b/p'\nendpoint = 'http://h:1'\npath_style = true\nzone = 'z'\n";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.store_url("a").unwrap(), "s3://b/p?endpoint=http://h:1&path_style=true,zone=z");
        assert_eq!(
            config.store_url("a,zone=y").unwrap(),
            "s3://b/p?endpoint=http://h:1&path_style=true,zone=y"
        );
        assert_eq!(config.store_url("file:///d,zone=y").unwrap(), "file:///d,zone=y");
        assert_eq!(config.store_url("b").unwrap_err().kind(), Kind::Usage);
        assert_eq!(config.memory(Some(1 << 30)).unwrap(), GIB);
        assert!(config.memory(Some(1)).is_err());
        let dir = Path::new("/nowhere/at/all");
        assert_eq!((config.cache(Some(GIB), dir).unwrap(), config.cache(Some(0), dir).unwrap()), (GIB, 0));
        assert!(config.cache(Some(1), dir).is_err() && config.cache(None, dir).unwrap() <= CACHE_MAX);
        assert!(toml::from_str::<Config>("memroy = '1G'").is_err());
    }
}
