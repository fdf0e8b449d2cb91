//! What holds in the end, and where each value comes from: a flag, the environment, the file, or nobody.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use super::limits_and_references::{CACHE_MIN, MEMORY_MIN};
use super::section_macro::{Key, Preset, Section};
use super::sections::{
    Alert, Config, Limits, Log, Mount, Pool, Replica, Store, Tls, Top, Traces, VolumeKeys,
};
use super::value_types::{Level, LogFormat, Often, Setting as _, Size, Written, bare_or_quoted, quoted};
use crate::daemon::KeyPlace;
use crate::daemon::StateDir;
use crate::daemon::api::VolumePath;
use windlass_base::units::{GIB, parse_size};
use windlass_base::{Error, Kind, Name, Result, ResultExt as _};

/// Largest block cache on disk where nobody gave a size, in bytes.
const CACHE_MAX: u64 = 10 * GIB;
const ALERT_AFTER: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(30);
const LOG_SLOW: Duration = Duration::from_secs(1);
const REPLICA_EVERY: Duration = Duration::from_secs(3600);
/// Rate of a scrub that the daemon begins, in bytes a second: one that the file asks for, and one that nobody asked
/// for.
const SCRUB_RATE: u64 = 100 << 20;
const UNASKED_SCRUB_RATE: u64 = 20 << 20;
const UNASKED_SCRUB_EVERY: Duration = Duration::from_secs(7 * 24 * 3600);
/// Time for which a daemon runs before a scrub that nobody asked for begins: not among all else of a start.
const UNASKED_SCRUB_AFTER: Duration = Duration::from_secs(3600);

pub const MEMORY_VARIABLE: &str = "WINDLASS_MEMORY";
pub const CACHE_VARIABLE: &str = "WINDLASS_CACHE";
const LOG_VARIABLE: &str = "RUST_LOG";

/// Returns a size that the environment gives.
fn of_environment(name: &'static str) -> Result<Option<u64>> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty());
    text.map(|text| parse_size(&text)).transpose().context(|| name.to_owned())
}

/// Plan by which a pool is scrubbed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubPlan {
    pub every: Duration,
    /// Bytes a second that the scrub reads at most; 0 for no limit.
    pub rate: u64,
    /// Time for which the daemon runs before it begins.
    pub after: Duration,
}

/// Plan by which the daemon tells somebody of troubles.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlertPlan {
    pub command: Option<String>,
    pub url: Option<String>,
    /// Time for which a trouble has stood before somebody is told of it.
    pub after: Duration,
}

/// Plan by which a copy of a volume is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaPlan {
    pub from: VolumePath,
    pub to: VolumePath,
    pub every: Duration,
    pub max_lag: Option<Duration>,
}

impl Config {
    /// Returns how many bytes the engine may use: the flag, else `WINDLASS_MEMORY`, else the file, else min(a quarter
    /// of the machine's memory, 2 GiB).
    pub fn memory(&self, flag: Option<u64>) -> Result<u64> {
        let written = || Ok(of_environment(MEMORY_VARIABLE)?.or(self.top.memory.as_ref().map(|size| size.0)));
        let given = flag.map_or_else(written, |bytes| Ok::<_, Error>(Some(bytes)))?;
        let unasked = || (rustix::system::sysinfo().totalram as u64 / 4).clamp(MEMORY_MIN, 2 * GIB);
        let bytes = given.unwrap_or_else(unasked);
        if bytes < MEMORY_MIN {
            return Err(Error::new(
                Kind::Usage,
                format!("a memory budget of {bytes} bytes is too small: give at least 64M"),
            ));
        }
        Ok(bytes)
    }

    /// Returns how many bytes of local disk the cache of `serve` takes: the flag, else `WINDLASS_CACHE`, else the
    /// file. Else it is a tenth of what is free there beside what the cache has already, 10 GiB at most. Where that
    /// is less than is worth having, there is no cache.
    pub fn cache(&self, flag: Option<u64>, dir: &Path) -> Result<u64> {
        let written = || Ok(of_environment(CACHE_VARIABLE)?.or(self.top.cache.as_ref().map(|size| size.0)));
        let given = flag.map_or_else(written, |bytes| Ok::<_, Error>(Some(bytes)))?;
        match given.unwrap_or_else(|| (room(dir) / 10).min(CACHE_MAX)) {
            0 => Ok(0),
            bytes @ CACHE_MIN.. => Ok(bytes),
            _ if given.is_none() => Ok(0),
            bytes => {
                let why =
                    format!("a block cache of {bytes} bytes is too small: give at least 64M, or 0 for none");
                Err(Error::new(Kind::Usage, why))
            }
        }
    }

    pub fn log_level(&self) -> Level {
        self.log.level.as_ref().map_or(Level::Info, |level| level.value)
    }

    pub fn log_format(&self) -> LogFormat {
        self.log.format.as_ref().map_or(LogFormat::Text, |format| format.value)
    }

    /// Returns how long a client's request takes at least to be told in the log.
    pub fn log_slow(&self) -> Duration {
        self.log.slow.as_ref().map_or(LOG_SLOW, |slow| slow.value.0)
    }

    /// Returns how long a daemon that ends waits for volumes to reach their stores.
    pub fn drain(&self) -> Duration {
        self.limits.drain.as_ref().map_or(DRAIN, |drain| drain.value.0)
    }

    /// Tells whether the pool is opened at the start.
    pub fn serves(&self, pool: &Name) -> bool {
        let section = self.pool.get(pool.as_str());
        section.and_then(|section| section.serve.as_ref()).is_none_or(|serve| serve.value)
    }

    /// Returns how the pool is scrubbed. If the file doesn't say, it is scrubbed only where reading costs nothing
    /// (`is_free`).
    pub fn scrub_plan(&self, pool: &Name, is_free: bool) -> Option<ScrubPlan> {
        let section = self.pool.get(pool.as_str());
        let asked = section.and_then(|section| section.scrub.as_ref()).map(|asked| asked.value);
        let rate = section.and_then(|section| section.scrub_rate.as_ref()).map(|rate| rate.value.0);
        match asked {
            Some(Often(every)) => {
                Some(ScrubPlan { every: every?, rate: rate.unwrap_or(SCRUB_RATE), after: Duration::ZERO })
            }
            None => is_free.then_some(ScrubPlan {
                every: UNASKED_SCRUB_EVERY,
                rate: rate.unwrap_or(UNASKED_SCRUB_RATE),
                after: UNASKED_SCRUB_AFTER,
            }),
        }
    }

    /// Returns whom to tell of troubles, or `None` if nobody is told.
    pub fn alert_plan(&self) -> Option<AlertPlan> {
        let Alert { command, url, after } = &self.alert;
        let value = |text: &Option<Written<String>>| text.as_ref().map(|text| text.value.clone());
        let (command, url) = (value(command), value(url));
        let after = after.as_ref().map_or(ALERT_AFTER, |after| after.value.0);
        (command.is_some() || url.is_some()).then_some(AlertPlan { command, url, after })
    }

    pub fn replicas(&self) -> Vec<ReplicaPlan> {
        let plan = |(from, section): (&String, &Written<Replica>)| {
            Some(ReplicaPlan {
                from: from.parse().ok()?,
                to: section.to.as_ref()?.parse().ok()?,
                every: section.every.as_ref().map_or(REPLICA_EVERY, |every| every.value.0),
                max_lag: section.max_lag.as_ref().map(|lag| lag.value.0),
            })
        };
        self.replica.iter().filter_map(plan).collect()
    }

    /// Returns where the key of a volume is; `volume` is `POOL/VOLUME`.
    pub fn key_place(&self, volume: &str) -> Option<KeyPlace> {
        let keys = self.volume.get(volume)?;
        let text = |it: &Option<Written<String>>| it.as_ref().map(|it| it.value.clone());
        let file = |it| text(it).map(|file| KeyPlace::KeyFile(file.into()));
        let words = || text(&keys.passphrase_file).map(|file| KeyPlace::PassphraseFile(file.into()));
        file(&keys.key_file).or_else(words).or_else(|| text(&keys.key_command).map(KeyPlace::Command))
    }

    /// Returns where the key of a pool is.
    pub fn pool_key_place(&self, pool: &Name) -> Option<KeyPlace> {
        let section = self.pool.get(pool.as_str())?;
        let text = |it: &Option<Written<String>>| it.as_ref().map(|it| it.value.clone());
        let file = text(&section.key_file).map(|file| KeyPlace::KeyFile(file.into()));
        file.or_else(|| text(&section.key_command).map(KeyPlace::Command))
    }

    /// Returns the pools that this host looks for while it does not know them, each with the URLs of its stores, as
    /// the file names them.
    pub fn pools_to_find(&self) -> Vec<(Name, Vec<String>)> {
        let named = self.pool.iter().filter_map(|(name, section)| Some((name.parse().ok()?, section)));
        let stores = |section: &Pool| {
            let stores = section.stores.as_ref()?.values().map(|given| self.store_url(given));
            stores.collect::<Result<Vec<_>>>().ok()
        };
        named.filter_map(|(name, section)| Some((name, stores(section)?))).collect()
    }

    /// Returns what is to be mounted at a folder: the bucket as the file names it, and the options.
    pub fn mount_at(&self, dir: &str) -> Option<(String, Vec<String>)> {
        let section = self.mount.get(dir)?;
        let options = section.options.iter().flat_map(|options| options.values().cloned()).collect();
        Some((section.url.as_ref()?.value.clone(), options))
    }
}

/// Returns how many bytes the block cache in a folder may count with: those free on its disk, and those that its file
/// has already. The folder need not be there yet.
fn room(dir: &Path) -> u64 {
    let free = |dir: &Path| rustix::fs::statvfs(dir).ok().map(|s| s.f_bavail * s.f_frsize);
    let has = std::fs::metadata(dir.join("frames")).map_or(0, |m| m.blocks() * 512);
    dir.ancestors().find_map(free).unwrap_or(0) + has
}

/// Source of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    Default,
    /// The line of the file.
    File(usize),
    Environment(&'static str),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(line) => write!(f, "line {line}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One key with the value that holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The section, as `store.fast`; empty at the top of the file.
    pub section: String,
    pub name: &'static str,
    /// The value as TOML.
    pub value: String,
    pub origin: Origin,
}

impl Row {
    /// Returns the key with the names of its sections.
    pub fn key(&self) -> String {
        if self.section.is_empty() { self.name.to_owned() } else { format!("{}.{}", self.section, self.name) }
    }
}

/// Returns a row for each key that is written in a section, and `with_presets` also for each that holds by its
/// preset.
fn rows<S: Section>(section: &S, of: &str, with_presets: bool) -> Vec<Row> {
    let row =
        |key: &Key, value: String, origin| Row { section: of.to_owned(), name: key.name, value, origin };
    let written = section.written();
    let mut all = Vec::new();
    for key in S::OUTLINE.keys {
        match (written.iter().find(|(it, ..)| it.name == key.name), key.preset) {
            (Some((_, value, line)), _) => all.push(row(key, value.clone(), Origin::File(*line))),
            (None, Preset::Is(value)) if with_presets => {
                all.push(row(key, value.to_owned(), Origin::Default));
            }
            _ => {}
        }
    }
    all
}

impl Config {
    /// Returns all that is in the file, and `with_presets` also what holds without being there, where that is a
    /// constant.
    pub fn rows(&self, with_presets: bool) -> Vec<Row> {
        let mut all = rows::<Top>(&self.top, "", with_presets);
        all.extend(rows::<Tls>(&self.tls, "tls", with_presets));
        all.extend(rows::<Log>(&self.log, "log", with_presets));
        all.extend(rows::<Traces>(&self.traces, "traces", with_presets));
        all.extend(rows::<Alert>(&self.alert, "alert", with_presets));
        all.extend(rows::<Limits>(&self.limits, "limits", with_presets));
        let of = |kind: &str, name: &String| format!("{kind}.{}", bare_or_quoted(name));
        let stores = self.store.iter().map(|(name, it)| rows::<Store>(it, &of("store", name), with_presets));
        let pools = self.pool.iter().map(|(name, it)| rows::<Pool>(it, &of("pool", name), with_presets));
        let mounts = self.mount.iter().map(|(name, it)| rows::<Mount>(it, &of("mount", name), with_presets));
        all.extend(stores.flatten());
        all.extend(pools.flatten());
        let replicas =
            self.replica.iter().map(|(name, it)| rows::<Replica>(it, &of("replica", name), with_presets));
        all.extend(replicas.flatten());
        let keys =
            self.volume.iter().map(|(name, it)| rows::<VolumeKeys>(it, &of("volume", name), with_presets));
        all.extend(keys.flatten());
        all.extend(mounts.flatten());
        all
    }

    /// Returns each value as a daemon that starts now would take it.
    pub fn effective(&self, home: &StateDir, memory: Option<u64>) -> Result<Vec<Row>> {
        let size = |name, bytes, flag: Option<&'static str>, variable: &'static str, line: Option<usize>| {
            let origin = match (flag, of_environment(variable)?, line) {
                (Some(flag), ..) => Origin::Flag(flag),
                (None, Some(_), _) => Origin::Environment(variable),
                (None, None, Some(line)) => Origin::File(line),
                (None, None, None) => Origin::Default,
            };
            Ok::<_, Error>(Row { section: String::new(), name, value: Size(bytes).show(), origin })
        };
        let line = |size: &Option<Written<Size>>| size.as_ref().map(|size| size.line);
        let flag = memory.map(|_| "--memory");
        let mut all = vec![
            size("memory", self.memory(memory)?, flag, MEMORY_VARIABLE, line(&self.top.memory))?,
            size("cache", self.cache(None, &home.cache())?, None, CACHE_VARIABLE, line(&self.top.cache))?,
        ];
        let lists = [
            ("nbd", self.top.nbd.is_none().then(|| format!("[{}]", quoted(&nbd_here(home))))),
            ("metrics", self.top.metrics.is_none().then(|| "[]".to_owned())),
        ];
        for (name, value) in lists {
            let row = |value| Row { section: String::new(), name, value, origin: Origin::Default };
            all.extend(value.map(row));
        }
        all.extend(
            self.rows(true).into_iter().filter(|row| !matches!(row.key().as_str(), "memory" | "cache")),
        );
        if let Some(filter) = std::env::var(LOG_VARIABLE).ok().filter(|filter| !filter.is_empty()) {
            for row in all.iter_mut().filter(|row| row.key() == "log.level") {
                (row.value, row.origin) = (quoted(&filter), Origin::Environment(LOG_VARIABLE));
            }
        }
        Ok(all)
    }
}

fn nbd_here(home: &StateDir) -> String {
    home.nbd().map_or_else(|_| "unix:nbd.sock".to_owned(), |path| format!("unix:{}", path.display()))
}
