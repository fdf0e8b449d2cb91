//! What calls ask for: how a volume is used, how large it is, which parameters it has.

use std::collections::HashMap;

use crate::csi::{AccessType, CapacityRange, Mode, VolumeCapability};
use crate::status::{Code, Result, Status};

/// Bytes of which sizes are multiples.
const BLOCK: u64 = 4096;
/// Size in bytes of a volume whose size nobody names.
const SIZE_DEFAULT: u64 = 1 << 30;
pub const SIZE_MAX: u64 = 64 << 40;
const POOL: &str = "pool";
/// Prefix of parameters that sidecars add for themselves.
const SIDECARS: &str = "csi.storage.k8s.io/";
/// Settings of volumes that a class may have, as `windlass volume set` takes them. `template` and `boot-trace` are for
/// administrators.
const SETTINGS: &[&str] = &[
    "flush",
    "compression",
    "recompress",
    "max-tail",
    "journal-size",
    "on-outage",
    "iops",
    "bps",
    "read-iops",
    "read-bps",
    "write-iops",
    "write-bps",
    "quota",
    "history",
];

// ---- capabilities ------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    Ext4,
    Xfs,
}

impl Filesystem {
    pub fn name(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Xfs => "xfs",
        }
    }
}

/// The use of a volume, as a `VolumeCapability` that the driver can serve says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The filesystem to mount; `None`: the volume is used as a block device.
    pub filesystem: Option<Filesystem>,
    pub mount_flags: Vec<String>,
    pub mode: Mode,
}

impl Access {
    /// Reads a capability. `InvalidArgument` where it can't be served.
    pub fn of(capability: Option<&VolumeCapability>) -> Result<Access> {
        let capability = capability.ok_or_else(|| Status::invalid("volume_capability is missing"))?;
        let mode = capability.access_mode.as_ref().map_or(Mode::Unknown, |access| access.mode());
        match mode {
            Mode::Unknown => return Err(Status::invalid("the capability has no access mode")),
            Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter => {
                let why =
                    "a volume that is written belongs to one host at a time: ReadWriteMany is not possible";
                return Err(Status::invalid(why));
            }
            _ => {}
        }
        match &capability.access_type {
            None => Err(Status::invalid("the capability is neither for a block device nor for a mount")),
            Some(AccessType::Block(_)) => Ok(Access { filesystem: None, mount_flags: Vec::new(), mode }),
            Some(AccessType::Mount(mount)) => {
                let filesystem = match mount.fs_type.as_str() {
                    "" | "ext4" => Filesystem::Ext4,
                    "xfs" => Filesystem::Xfs,
                    other => {
                        let why = format!("filesystem {other:?} is not made here: ext4 and xfs are");
                        return Err(Status::invalid(why));
                    }
                };
                Ok(Access { filesystem: Some(filesystem), mount_flags: mount.mount_flags.clone(), mode })
            }
        }
    }

    /// Reads all capabilities of a list that must not be empty.
    pub fn all(capabilities: &[VolumeCapability]) -> Result<Vec<Access>> {
        match capabilities.is_empty() {
            true => Err(Status::invalid("volume_capabilities is missing")),
            false => capabilities.iter().map(|one| Access::of(Some(one))).collect(),
        }
    }

    pub fn only_reads(&self) -> bool {
        matches!(self.mode, Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly)
    }

    pub fn of_many_nodes(&self) -> bool {
        self.mode == Mode::MultiNodeReaderOnly
    }
}

// ---- sizes -------------------------------------------------------------------------------------------------------------

/// A range of sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Least size; 0 where nobody asks for one.
    pub required: u64,
    pub limit: u64,
}

impl Range {
    pub fn of(range: Option<&CapacityRange>) -> Result<Range> {
        let (required, limit) = range.map_or((0, 0), |range| (range.required_bytes, range.limit_bytes));
        let read = |bytes: i64| u64::try_from(bytes).map_err(|_| Status::invalid("a size is negative"));
        let (required, limit) = (read(required)?, read(limit)?);
        if limit != 0 && required > limit {
            return Err(Status::invalid(format!("{required} bytes are required and {limit} the limit")));
        }
        Ok(Range { required, limit: if limit == 0 { u64::MAX } else { limit } })
    }

    pub fn has(&self, size: u64) -> bool {
        (self.required..=self.limit).contains(&size)
    }

    /// Returns the size of a new volume. `OutOfRange` where no size is in range.
    pub fn size(&self) -> Result<u64> {
        let wanted = match self.required {
            0 => SIZE_DEFAULT.min(self.limit / BLOCK * BLOCK).max(BLOCK),
            required => required.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX),
        };
        match wanted <= self.limit && wanted <= SIZE_MAX {
            true => Ok(wanted),
            false => {
                let why =
                    format!("a volume has a multiple of {BLOCK} bytes, at most 64 TiB: none is in range");
                Err(Status::new(Code::OutOfRange, why))
            }
        }
    }

    /// Returns the size of a volume that is to grow from `now`. `OutOfRange` where it is larger already than
    /// the limit.
    pub fn grown(&self, now: u64) -> Result<u64> {
        match now {
            _ if now > self.limit => {
                let why = format!("the volume has {now} bytes already, and volumes can't become smaller");
                Err(Status::new(Code::OutOfRange, why))
            }
            _ if now >= self.required => Ok(now),
            _ => self.size(),
        }
    }
}

// ---- parameters --------------------------------------------------------------------------------------------------------

/// Parameters of a StorageClass, without those that Kubernetes itself knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    pub pool: Option<String>,
    /// Settings as `KEY=VALUE`, in order of keys.
    pub settings: Vec<String>,
}

impl Parameters {
    pub fn of(given: &HashMap<String, String>) -> Result<Parameters> {
        let mut found = Parameters { pool: given.get(POOL).cloned(), ..Parameters::default() };
        let rest: HashMap<String, String> =
            given.iter().filter(|(key, _)| *key != POOL).map(|(k, v)| (k.clone(), v.clone())).collect();
        found.settings = settings(&rest)?;
        Ok(found)
    }
}

/// Reads the settings of a VolumeAttributesClass. `InvalidArgument` names a key that is no setting.
pub fn settings(given: &HashMap<String, String>) -> Result<Vec<String>> {
    let mut keys: Vec<&String> = given.keys().filter(|key| !key.starts_with(SIDECARS)).collect();
    keys.sort();
    let one = |key: &String| match SETTINGS.contains(&key.as_str()) {
        true => Ok(format!("{key}={}", given[key])),
        false => {
            let why = format!("parameter {key:?} is not known: there are {POOL}, {}", SETTINGS.join(", "));
            Err(Status::invalid(why))
        }
    };
    keys.into_iter().map(one).collect()
}

// ---- pages -------------------------------------------------------------------------------------------------------------

/// Prefix of the token for the next page, before the last id of this one.
const AFTER: &str = "after:";

/// Returns one page of a list in order of ids, and the token of the next page, which is empty behind the
/// last. Entries that are added or removed between two pages do not move the others.
pub fn page<T>(all: Vec<(String, T)>, token: &str, max: i32) -> Result<(Vec<T>, String)> {
    let max = match usize::try_from(max) {
        Ok(0) => usize::MAX,
        Ok(max) => max,
        Err(_) => return Err(Status::invalid("max_entries is negative")),
    };
    let invalid =
        || Status::new(Code::Aborted, format!("{token:?} is no token of this driver: list from the start"));
    let after = match token {
        "" => None,
        _ => Some(token.strip_prefix(AFTER).ok_or_else(invalid)?),
    };
    let mut all: Vec<(String, T)> =
        all.into_iter().filter(|(id, _)| after.is_none_or(|after| id.as_str() > after)).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let more = all.len() > max;
    all.truncate(max);
    let next = all.last().filter(|_| more).map(|(id, _)| format!("{AFTER}{id}")).unwrap_or_default();
    Ok((all.into_iter().map(|(_, one)| one).collect(), next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::{AccessMode, Empty, MountVolume};

    fn capability(access_type: Option<AccessType>, mode: Mode) -> VolumeCapability {
        VolumeCapability { access_type, access_mode: Some(AccessMode { mode: mode.into() }) }
    }

    fn mount(fs_type: &str) -> Option<AccessType> {
        Some(AccessType::Mount(MountVolume { fs_type: fs_type.into(), mount_flags: vec!["noatime".into()] }))
    }

    #[test]
    fn capabilities_that_cannot_be_served_are_refused() {
        let access = Access::of(Some(&capability(mount(""), Mode::SingleNodeWriter))).unwrap();
        assert_eq!((access.filesystem, access.only_reads()), (Some(Filesystem::Ext4), false));
        let block = capability(Some(AccessType::Block(Empty {})), Mode::MultiNodeReaderOnly);
        let access = Access::of(Some(&block)).unwrap();
        assert!(access.filesystem.is_none() && access.only_reads() && access.of_many_nodes());
        for bad in [
            capability(mount("btrfs"), Mode::SingleNodeWriter),
            capability(None, Mode::SingleNodeWriter),
            capability(mount(""), Mode::Unknown),
            capability(mount(""), Mode::MultiNodeMultiWriter),
            capability(mount(""), Mode::MultiNodeSingleWriter),
            VolumeCapability { access_type: mount(""), access_mode: None },
        ] {
            assert!(Access::of(Some(&bad)).unwrap_err().is(Code::InvalidArgument), "{bad:?}");
        }
        assert!(Access::of(None).is_err() && Access::all(&[]).is_err());
    }

    fn range(required: i64, limit: i64) -> Result<Range> {
        Range::of(Some(&CapacityRange { required_bytes: required, limit_bytes: limit }))
    }

    #[test]
    fn sizes_are_in_range() {
        assert_eq!(Range::of(None).unwrap().size().unwrap(), 1 << 30);
        assert_eq!(range(1, 0).unwrap().size().unwrap(), 4096);
        assert_eq!(range(10 << 30, 10 << 30).unwrap().size().unwrap(), 10 << 30);
        assert_eq!(range(0, 10_000).unwrap().size().unwrap(), 8192);
        assert!(range(5000, 6000).unwrap().size().unwrap_err().is(Code::OutOfRange));
        assert!(range(0, 4000).unwrap().size().unwrap_err().is(Code::OutOfRange));
        assert!(range(i64::MAX, 0).unwrap().size().unwrap_err().is(Code::OutOfRange));
        assert!(range(-1, 0).unwrap_err().is(Code::InvalidArgument));
        assert!(range(2, 1).unwrap_err().is(Code::InvalidArgument));
        assert!(range(4096, 8192).unwrap().has(8192) && !range(4096, 8192).unwrap().has(8193));
    }

    #[test]
    fn volumes_only_grow() {
        assert_eq!(range(8192, 0).unwrap().grown(4096).unwrap(), 8192);
        assert_eq!(range(4096, 0).unwrap().grown(8192).unwrap(), 8192);
        assert!(range(0, 4096).unwrap().grown(8192).unwrap_err().is(Code::OutOfRange));
    }

    #[test]
    fn parameters_are_settings() {
        let given = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let all = given(&[
            ("pool", "tank"),
            ("quota", "20G"),
            ("flush", "pool"),
            ("csi.storage.k8s.io/pv/name", "x"),
        ]);
        let found = Parameters::of(&all).unwrap();
        assert_eq!(found.pool.as_deref(), Some("tank"));
        assert_eq!(found.settings, ["flush=pool", "quota=20G"]);
        for bad in ["template", "Pool", "size"] {
            let refused = Parameters::of(&given(&[(bad, "x")])).unwrap_err();
            assert!(refused.is(Code::InvalidArgument) && refused.message.contains(bad), "{refused}");
        }
        assert!(settings(&given(&[("pool", "tank")])).is_err(), "a volume stays in its pool");
    }

    #[test]
    fn pages_go_on_where_they_ended() {
        let all = || ["d", "a", "c", "b"].map(|id| (id.to_owned(), id)).to_vec();
        assert_eq!(page(all(), "", 0).unwrap(), (vec!["a", "b", "c", "d"], String::new()));
        let (first, next) = page(all(), "", 2).unwrap();
        assert_eq!(first, ["a", "b"]);
        assert_eq!(page(all(), &next, 0).unwrap(), (vec!["c", "d"], String::new()));
        // The last one of a page may be gone by then.
        let without = all().into_iter().filter(|(id, _)| id != "b").collect();
        assert_eq!(page(without, &next, 2).unwrap(), (vec!["c", "d"], String::new()));
        assert!(page(all(), "invalid-token", 0).unwrap_err().is(Code::Aborted));
        assert!(page(all(), "", -1).unwrap_err().is(Code::InvalidArgument));
        assert_eq!(page(all(), "after:d", 0).unwrap().0, [""; 0]);
    }
}
