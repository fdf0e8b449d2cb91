//! What a volume is told at its creation, and who runs it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::automatic_snapshot_plan::History;
use super::boot_trace::BootTrace;
use super::rate_limits::{Limits, Rate};
use windlass_base::format_limits::VOLUME_MAX;
use windlass_base::units::{GIB, MIB, parse_duration, parse_size, show_duration, show_size};
use windlass_base::{Error, HostId, Kind, Result};
use windlass_frame::Codec;

/// The kind of failure that an acknowledged flush survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlushMode {
    /// This host's disk has what was flushed.
    #[default]
    Local,
    /// The pool has what was flushed, and this host was still the owner after that.
    Pool,
    /// This host's disk has it and another host's. While no other host has all, the flush waits as
    /// `MirrorLoss` says.
    Mirror,
}

/// The setting `mirror-loss`: what a flush of a mirrored volume waits for while no other host has all that
/// was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MirrorLoss {
    /// The flush waits until the pool has it.
    #[default]
    Pool,
    /// The flush waits until another host has it.
    Hold,
}

/// The owner's policy for another host that wants the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandoverPolicy {
    /// The owner does nothing: the other host is refused.
    #[default]
    Never,
    /// The owner stores everything and lets go of the volume, as soon as the other host asks.
    Ask,
}

/// The clients that may write to a volume at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clients {
    /// All that are connected: clients that know of each other, as those of a cluster's filesystem do.
    #[default]
    Any,
    /// The first client that writes, as long as it is connected. Others get errors for their writes.
    One,
}

/// Checks that there can be a volume of this size.
pub fn check_size(size: u64) -> Result<()> {
    if size == 0 || !size.is_multiple_of(512) || size > VOLUME_MAX {
        let size = show_size(size);
        let why = format!("a volume can't have a size of {size}: use a multiple of 512 bytes, at most 64T");
        return Err(Error::new(Kind::Usage, why));
    }
    Ok(())
}

/// Tells whether a value is still as it was born: such a part of the head isn't written.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A volume's settings, kept in its head.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeSettings {
    pub flush: FlushMode,
    pub compression: Codec,
    /// Most that the loss of this host may cost a `local` volume while the stores keep up, in ms of flushed
    /// writes.
    pub max_tail_ms: u64,
    /// Local disk that unsent writes may take, in bytes.
    pub journal_size: u64,
    /// Time after which I/O that waits for stores fails, in ms; `None`: it waits on.
    #[serde(skip_serializing_if = "is_default")]
    pub error_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// Most bytes that may be mapped: a write that needs more fails.
    #[serde(skip_serializing_if = "is_default")]
    pub quota_bytes: Option<u64>,
    /// Is true if the volume is there to be cloned: nobody writes to it, and neither it nor its snapshots are
    /// removed.
    #[serde(skip_serializing_if = "is_default")]
    pub template: bool,
    /// The plan of snapshots that the volume takes by itself.
    #[serde(skip_serializing_if = "is_default")]
    pub history: History,
    /// Age from which on data is compressed anew, by zstd, in ms; `None`: nothing is.
    #[serde(skip_serializing_if = "is_default")]
    pub recompress_after_ms: Option<u64>,
    /// State of the recording of a clone's first boot: off, asked for, or kept.
    #[serde(skip_serializing_if = "is_default")]
    pub boot_trace: BootTrace,
    /// Policy for a host that asks for the volume while another owns it.
    #[serde(skip_serializing_if = "is_default")]
    pub handover: HandoverPolicy,
    /// The setting `mirror-loss`: what flushes wait for while no peer has all.
    #[serde(skip_serializing_if = "is_default")]
    pub mirror_loss: MirrorLoss,
    #[serde(skip_serializing_if = "is_default")]
    pub clients: Clients,
}

impl Default for VolumeSettings {
    fn default() -> Self {
        VolumeSettings {
            flush: FlushMode::Local,
            compression: Codec::Lz4,
            max_tail_ms: 5_000,
            journal_size: 4 * GIB,
            error_after_ms: None,
            limits: Limits::default(),
            quota_bytes: None,
            template: false,
            history: History::default(),
            recompress_after_ms: None,
            boot_trace: BootTrace::Off,
            handover: HandoverPolicy::Never,
            mirror_loss: MirrorLoss::Pool,
            clients: Clients::Any,
        }
    }
}

fn bad(why: impl Into<String>) -> Error {
    Error::new(Kind::Usage, why)
}

/// Returns the value of one of a few words.
fn one_of<T: Copy>(key: &str, value: &str, words: &[(&str, T)]) -> Result<T> {
    let known = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    let found = words.iter().find(|(word, _)| *word == value);
    found.map(|(_, is)| *is).ok_or_else(|| bad(format!("{key}={value:?} is unknown: use one of {}", known())))
}

fn word<T: Copy + PartialEq>(value: T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, is)| *is == value).map_or("", |(word, _)| word)
}

const FLUSH: &[(&str, FlushMode)] =
    &[("local", FlushMode::Local), ("pool", FlushMode::Pool), ("mirror", FlushMode::Mirror)];
const MIRROR_LOSS: &[(&str, MirrorLoss)] = &[("pool", MirrorLoss::Pool), ("hold", MirrorLoss::Hold)];
const HANDOVER: &[(&str, HandoverPolicy)] = &[("never", HandoverPolicy::Never), ("ask", HandoverPolicy::Ask)];
const CLIENTS: &[(&str, Clients)] = &[("any", Clients::Any), ("one", Clients::One)];
const TEMPLATE: &[(&str, bool)] = &[("true", true), ("false", false)];
/// The format of heads of which a version that knows no mirrors must not become the owner.
const MIRRORED: u32 = 6;
/// Time of `on-outage=error` without one.
const ERROR_AFTER_MS: u64 = 30_000;
const COMPRESSION: &[(&str, Codec)] = &[("lz4", Codec::Lz4), ("zstd", Codec::Zstd), ("none", Codec::None)];

/// Age of `recompress=zstd` without one.
const RECOMPRESS_AFTER_MS: u64 = 24 * 60 * 60 * 1000;
const RECOMPRESS_AFTER_MAX_MS: u64 = 3650 * RECOMPRESS_AFTER_MS;

fn parse_count(text: &str) -> Result<u64> {
    text.parse().map_err(|_| bad(format!("{text:?} is not a number of operations")))
}

fn quota(value: &str) -> Result<Option<u64>> {
    match value {
        "none" => Ok(None),
        size => parse_size(size).map(|bytes| Some(bytes).filter(|bytes| *bytes > 0)),
    }
}

/// Parses the value of `on-outage`.
fn error_after(value: &str) -> Result<Option<u64>> {
    match value.split_once(':').unwrap_or((value, "")) {
        ("hold", "") => Ok(None),
        ("error", "") => Ok(Some(ERROR_AFTER_MS)),
        ("error", time) => Ok(Some(parse_duration(time)?.as_millis() as u64)),
        _ => Err(bad(format!("on-outage={value:?} is unknown: use hold, error or error:TIME"))),
    }
}

/// Parses the value of `recompress`.
fn recompress_after(value: &str) -> Result<Option<u64>> {
    match value.split_once(':').unwrap_or((value, "")) {
        ("none", "") => Ok(None),
        ("zstd", "") => Ok(Some(RECOMPRESS_AFTER_MS)),
        ("zstd", time) => Ok(Some(parse_duration(time)?.as_millis() as u64)),
        _ => Err(bad(format!("recompress={value:?} is unknown: use none, zstd or zstd:TIME"))),
    }
}

impl VolumeSettings {
    /// Size of the smallest journal: below this the group commit has no room beside one long write.
    pub const JOURNAL_MIN: u64 = 128 * MIB;
    /// The names by which users know the settings.
    const KEYS: &str = "flush, compression, recompress, max-tail, journal-size, on-outage, quota, template, history, boot-trace, handover, mirror-loss, clients, \
                        iops, bps, read-iops, read-bps, write-iops and write-bps";

    /// Sets one setting by its name, as `KEY=VALUE`.
    fn assign(&mut self, assignment: &str) -> Result<()> {
        let (key, value) = assignment.split_once('=').ok_or_else(|| {
            bad(format!("{assignment:?} is no KEY=VALUE: the keys are {}", VolumeSettings::KEYS))
        })?;
        let ms = || parse_duration(value).map(|time| time.as_millis() as u64);
        match key {
            "flush" => self.flush = one_of(key, value, FLUSH)?,
            "compression" => self.compression = one_of(key, value, COMPRESSION)?,
            "recompress" => self.recompress_after_ms = recompress_after(value)?,
            "max-tail" => self.max_tail_ms = ms()?,
            "journal-size" => self.journal_size = parse_size(value)?,
            "on-outage" => self.error_after_ms = error_after(value)?,
            "quota" => self.quota_bytes = quota(value)?,
            "template" => self.template = one_of(key, value, TEMPLATE)?,
            "history" => self.history = value.parse()?,
            "boot-trace" => self.boot_trace = BootTrace::parse(value)?,
            "handover" => self.handover = one_of(key, value, HANDOVER)?,
            "mirror-loss" => self.mirror_loss = one_of(key, value, MIRROR_LOSS)?,
            "clients" => self.clients = one_of(key, value, CLIENTS)?,
            _ => self.assign_limit(key, value)?,
        }
        Ok(())
    }

    fn assign_limit(&mut self, key: &str, value: &str) -> Result<()> {
        let Some(limit) = self.limits.named(key) else {
            let keys = VolumeSettings::KEYS;
            return Err(bad(format!("a volume has no setting {key:?}: the keys are {keys}")));
        };
        let number = if key.ends_with("bps") { parse_size } else { parse_count };
        *limit = Rate::parse(value, number).map_err(|e| e.context(key.to_owned()))?;
        Ok(())
    }

    /// Returns these settings with all the assignments made, or the first error.
    pub fn assigned(mut self, assignments: &[String]) -> Result<VolumeSettings> {
        for assignment in assignments {
            let key = assignment.split('=').next().unwrap_or_default();
            let named = |e: Error| if e.to_string().contains(key) { e } else { e.context(key) };
            self.assign(assignment).map_err(named)?;
        }
        self.check()?;
        Ok(self)
    }

    /// Returns the value of one setting by its name, as it would be assigned.
    pub fn show(&self, key: &str) -> String {
        match key {
            "flush" => word(self.flush, FLUSH).to_owned(),
            "compression" => word(self.compression, COMPRESSION).to_owned(),
            "recompress" => match self.recompress_after_ms {
                Some(RECOMPRESS_AFTER_MS) => "zstd".to_owned(),
                Some(ms) => format!("zstd:{}", show_duration(ms)),
                None => "none".to_owned(),
            },
            "max-tail" => show_duration(self.max_tail_ms),
            "journal-size" => show_size(self.journal_size),
            "on-outage" => match self.error_after_ms {
                Some(ms) => format!("error:{}", show_duration(ms)),
                None => "hold".to_owned(),
            },
            "quota" => self.quota_bytes.map_or_else(|| "none".to_owned(), show_size),
            "template" => word(self.template, TEMPLATE).to_owned(),
            "history" => self.history.to_string(),
            "boot-trace" => self.boot_trace.to_string(),
            "handover" => word(self.handover, HANDOVER).to_owned(),
            "mirror-loss" => word(self.mirror_loss, MIRROR_LOSS).to_owned(),
            "clients" => word(self.clients, CLIENTS).to_owned(),
            _ => {
                let number = if key.ends_with("bps") { show_size } else { |n: u64| n.to_string() };
                Rate::show({ self.limits }.named(key).and_then(|limit| *limit), number)
            }
        }
    }

    /// Returns the assignments that give another volume these settings, as far as they matter to whoever
    /// writes to it. Whether the volume is a template, and how clones boot, is not among them.
    pub fn assignments(&self) -> Vec<String> {
        let keys = [
            "flush",
            "compression",
            "recompress",
            "max-tail",
            "journal-size",
            "on-outage",
            "quota",
            "history",
            "handover",
            "mirror-loss",
            "clients",
        ];
        keys.iter().chain(Limits::KEYS).map(|key| format!("{key}={}", self.show(key))).collect()
    }

    /// Returns the limits that are set, if any is.
    pub fn show_limits(&self) -> Option<String> {
        let set = |key: &&&str| { self.limits }.named(key).is_some_and(|limit| limit.is_some());
        let shown: Vec<String> =
            Limits::KEYS.iter().filter(set).map(|key| format!("{key}={}", self.show(key))).collect();
        (!shown.is_empty()).then(|| shown.join(", "))
    }

    /// Returns the lowest format that a head with these settings needs: a version that doesn't know a setting
    /// would not heed it.
    pub(super) fn format(&self) -> u32 {
        if self.is_mirrored() {
            return MIRRORED;
        }
        let VolumeSettings {
            compression,
            error_after_ms,
            limits,
            quota_bytes,
            template,
            history,
            boot_trace,
            handover,
            clients,
            ..
        } = *self;
        let plain = compression != Codec::Zstd
            && self.recompress_after_ms.is_none()
            && !template
            && error_after_ms.is_none()
            && quota_bytes.is_none()
            && is_default(&limits)
            && is_default(&history)
            && is_default(&boot_trace)
            && is_default(&handover)
            && is_default(&clients);
        if plain { 1 } else { 2 }
    }

    /// Tells whether these settings say something that a version without mirrors would not heed.
    pub(super) fn is_mirrored(&self) -> bool {
        self.flush == FlushMode::Mirror || !is_default(&self.mirror_loss)
    }

    /// Checks that the settings suit an encrypted volume, if it is one. Such a volume can't be mirrored. It
    /// keeps no boot trace either, which tells which blocks matter and lies in the head, which is not
    /// encrypted.
    pub fn check_for(&self, encrypted: bool) -> Result<()> {
        if encrypted && self.flush == FlushMode::Mirror {
            let why = "an encrypted volume can't be mirrored: use flush=pool, or flush=local";
            return Err(Error::new(Kind::Refused, why));
        }
        match encrypted && self.boot_trace != BootTrace::Off {
            true => Err(Error::new(Kind::Refused, "an encrypted volume keeps no boot trace")),
            false => Ok(()),
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
        if self.error_after_ms.is_some_and(|ms| !(1_000..=3_600_000).contains(&ms)) {
            return Err(bad("the time of on-outage=error is out of range: give it 1s to 1h"));
        }
        if self.recompress_after_ms.is_some_and(|ms| ms > RECOMPRESS_AFTER_MAX_MS) {
            return Err(bad("the time of recompress=zstd is out of range: give it at most 3650d"));
        }
        Ok(())
    }

    /// Returns how long I/O waits for stores; `None`: as long as it takes.
    pub fn error_after(&self) -> Option<Duration> {
        self.error_after_ms.map(Duration::from_millis)
    }

    pub fn max_tail(&self) -> Duration {
        Duration::from_millis(self.max_tail_ms)
    }

    /// Returns the sentence that `volume create` and `volume info` print.
    pub fn meaning(&self) -> String {
        match self.flush {
            FlushMode::Local => format!(
                "survives a crash and a power cut; if this host's disk is lost, at most {} of flushed writes are \
                 lost while the stores keep up",
                Seconds(self.max_tail_ms)
            ),
            FlushMode::Pool => "survives the loss of this host".to_owned(),
            FlushMode::Mirror => {
                let else_waits = match self.mirror_loss {
                    MirrorLoss::Pool => "for the pool",
                    MirrorLoss::Hold => "until one has",
                };
                format!(
                    "survives the loss of this host, by a peer's journal; waits {else_waits} while no peer has all"
                )
            }
        }
    }
}

impl VolumeSettings {
    /// Returns the sentence that takes the place of `meaning` while this host's disk takes no journal.
    pub fn meaning_without_journal(&self) -> String {
        "waits until all is in the pool, since this host's disk takes no journal now: it survives the loss of this host"
            .to_owned()
    }
}

/// Returns the message that says why a template is neither written to nor removed.
pub fn is_template(volume: &str) -> String {
    format!(
        "{volume} is a template: clone one of its snapshots, or `windlass volume set {volume} template=false` first"
    )
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

/// The state folder that opens volumes, under the name that other hosts see.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Host {
    pub id: HostId,
    pub name: String,
}

/// Shows the host's name and the start of its id, since several hosts may have one name.
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
    /// Returns a stand-in for the owner of a head that names none.
    pub fn unknown() -> Host {
        Host { id: HostId(0), name: "another host".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(assignments: &[&str]) -> Result<VolumeSettings> {
        let assignments: Vec<String> = assignments.iter().map(|one| (*one).to_owned()).collect();
        VolumeSettings::default().assigned(&assignments)
    }

    #[test]
    fn what_is_shown_can_be_assigned() {
        for text in [
            "flush=pool",
            "flush=mirror",
            "mirror-loss=hold",
            "compression=zstd",
            "max-tail=250ms",
            "journal-size=1G",
            "on-outage=error:10s",
            "on-outage=hold",
            "recompress=none",
            "recompress=zstd",
            "recompress=zstd:2h",
            "recompress=zstd:0ms",
            "template=true",
            "history=1m:1h,1h:1d",
            "boot-trace=record",
            "boot-trace=off",
            "handover=ask",
            "handover=never",
            "clients=one",
            "clients=any",
            "quota=10G",
            "iops=1000:5000",
            "read-bps=100M:1G",
            "write-iops=none",
        ] {
            let settings = assigned(&[text]).unwrap();
            let (key, value) = text.split_once('=').unwrap();
            assert_eq!(settings.show(key), value, "{key}");
        }
        let limits = assigned(&["iops=500", "bps=5", "read-iops=0", "write-bps=1K:2K", "write-bps=none"])
            .unwrap()
            .limits;
        assert_eq!(limits.iops, Some(Rate { rate: 500, burst: 50 }));
        assert_eq!(limits.bps, Some(Rate { rate: 5, burst: 1 }));
        assert_eq!((limits.read_iops, limits.write_bps), (None, None));
        assert_eq!(assigned(&["on-outage=error"]).unwrap().error_after(), Some(Duration::from_secs(30)));
        for bad in [
            "iops=1k",
            "iops=-1",
            "bps=1M:0",
            "bps=0:5",
            "on-outage=error:10ms",
            "on-outage=hold:1s",
            "recompress=lz4",
            "recompress=zstd:soon",
            "recompress=zstd:9999d",
            "template=1",
            "boot-trace=kept",
            "handover=always",
            "clients=two",
            "mirror-loss=local",
            "x=1",
        ] {
            assert!(assigned(&[bad]).unwrap_err().is(Kind::Usage), "{bad}");
        }
    }

    #[test]
    fn a_setting_that_an_older_version_would_not_heed_raises_the_format() {
        assert_eq!(assigned(&["flush=pool", "journal-size=1G"]).unwrap().format(), 1);
        for text in [
            "compression=zstd",
            "recompress=zstd",
            "quota=1G",
            "on-outage=error",
            "template=true",
            "history=1m:1h",
            "boot-trace=record",
            "handover=ask",
            "clients=one",
            "read-bps=1M",
        ] {
            assert_eq!(assigned(&[text]).unwrap().format(), 2, "{text}");
        }
    }
}
