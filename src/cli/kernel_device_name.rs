//! What a kernel's NBD device of ours shows, as its maker writes it into the device's `backend` in sysfs:
//! `windlass:HOST:VOLUME:SNAPSHOT:EXPORT`, the first three by their ids, with `-` for no snapshot.
//!
//! A device is known by the daemon that serves it and by the volume's id. The export's name is for people: two daemons of one
//! host may serve volumes of one name, and a name may stand for another volume by now.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::base::{Error, HostId, Kind, Result, StateId, VolumeId};

/// What the text begins with.
const OURS: &str = "windlass:";
const NO_SNAPSHOT: &str = "-";

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceOf {
    /// The daemon, by its state folder.
    pub host: HostId,
    pub volume: VolumeId,
    pub snapshot: Option<StateId>,
    /// POOL/VOLUME or POOL/VOLUME@SNAPSHOT, as it was called when the device was made.
    pub export: String,
}

impl DeviceOf {
    /// The same disk of the same daemon, whatever it is called.
    pub fn is(&self, other: &DeviceOf) -> bool {
        (self.host, self.volume, self.snapshot) == (other.host, other.volume, other.snapshot)
    }
}

impl fmt::Display for DeviceOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeviceOf { host, volume, snapshot, export } = self;
        let snapshot = snapshot.map_or_else(|| NO_SNAPSHOT.to_owned(), |state| state.to_string());
        write!(f, "{OURS}{host}:{volume}:{snapshot}:{export}")
    }
}

impl FromStr for DeviceOf {
    type Err = Error;

    fn from_str(text: &str) -> Result<DeviceOf> {
        let foreign = || Error::new(Kind::Invalid, format!("{text:?} is not what a device of ours says"));
        let parts: Vec<&str> = text.strip_prefix(OURS).ok_or_else(foreign)?.splitn(4, ':').collect();
        let [host, volume, snapshot, export] = parts[..] else { return Err(foreign()) };
        let snapshot = match snapshot {
            NO_SNAPSHOT => None,
            number => Some(StateId(number.parse().map_err(|_| foreign())?)),
        };
        Ok(DeviceOf { host: host.parse()?, volume: volume.parse()?, snapshot, export: export.to_owned() })
    }
}

/// Numbers of the kernel's NBD devices that were made here, and what they show. `block`: `/sys/block`.
pub fn attached(block: &Path) -> Vec<(u32, DeviceOf)> {
    let entries = std::fs::read_dir(block).into_iter().flatten().flatten();
    let mut all: Vec<(u32, DeviceOf)> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("nbd")?.parse().ok()?;
            let of = std::fs::read_to_string(entry.path().join("backend")).ok()?;
            Some((number, of.trim_end().parse().ok()?))
        })
        .collect();
    all.sort_by_key(|(number, _)| *number);
    all
}

/// Which of these devices a user means by an export's name. `host`: the daemon that is asked; none where nothing tells it.
/// `means`: what the name stands for now, where the daemon says it.
///
/// # Errors
/// `NotFound`: none of them is it. `Refused`: several may be.
pub fn chosen(
    all: &[(u32, DeviceOf)],
    host: Option<HostId>,
    export: &str,
    means: Option<&DeviceOf>,
) -> Result<u32> {
    if let Some((number, _)) = means.and_then(|means| all.iter().find(|(_, of)| of.is(means))) {
        return Ok(*number);
    }
    let of_host = |of: &DeviceOf| host.is_none_or(|host| of.host == host);
    let named: Vec<u32> =
        all.iter().filter(|(_, of)| of.export == export && of_host(of)).map(|(number, _)| *number).collect();
    let shown = |all: &[(u32, DeviceOf)]| {
        let one = |(number, of): &(u32, DeviceOf)| format!("{} (/dev/nbd{number})", of.export);
        all.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    match named[..] {
        [one] => Ok(one),
        [] => {
            let there =
                if all.is_empty() { "nothing is".to_owned() } else { format!("these are: {}", shown(all)) };
            Err(Error::new(Kind::NotFound, format!("{export} is not attached as a device; {there}")))
        }
        _ => {
            let devices: Vec<String> = named.iter().map(|number| format!("/dev/nbd{number}")).collect();
            let why =
                format!("several devices were made of {export}: name the one, of {}", devices.join(", "));
            Err(Error::new(Kind::Refused, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(host: u128, volume: u128, snapshot: Option<u64>, export: &str) -> DeviceOf {
        let (host, volume) = (HostId(host), VolumeId(volume));
        DeviceOf { host, volume, snapshot: snapshot.map(StateId), export: export.into() }
    }

    #[test]
    fn what_a_device_says_is_read_again() {
        for one in [of(1, 2, None, "tank/a"), of(3, 4, Some(7), "tank/a@s")] {
            assert_eq!(one.to_string().parse::<DeviceOf>().unwrap(), one);
        }
        for foreign in
            ["", "windlass:", "windlass:tank/a", "qemu:1:2:-:x", &format!("windlass:{}:1:-:x", HostId(1))]
        {
            assert!(foreign.parse::<DeviceOf>().is_err(), "{foreign}");
        }
    }

    #[test]
    fn a_name_means_a_disk_of_one_daemon_that_has_it_now() {
        let all = [
            (0, of(1, 0xa, None, "p/v")),
            (1, of(2, 0xb, None, "p/v")),
            (2, of(1, 0xc, Some(7), "p/v@s")),
            (3, of(1, 0xd, None, "p/old")),
        ];
        let chosen = |host: u128, export: &str, means: Option<&DeviceOf>| {
            let host = Some(HostId(host)).filter(|host| *host != HostId(0));
            chosen(&all, host, export, means)
        };
        assert_eq!(chosen(1, "p/v", Some(&of(1, 0xa, None, "p/v"))).unwrap(), 0);
        assert_eq!(chosen(2, "p/v", Some(&of(2, 0xb, None, "p/v"))).unwrap(), 1, "the other daemon's");
        assert_eq!(chosen(1, "p/new", Some(&of(1, 0xd, None, "p/new"))).unwrap(), 3, "it was renamed");
        assert_eq!(chosen(1, "p/v@s", Some(&of(1, 0xc, Some(7), "p/v@s"))).unwrap(), 2);
        // What a name stood for when the device was made, where nothing is attached of what it stands for now.
        assert_eq!(chosen(1, "p/old", Some(&of(1, 0xe, None, "p/old"))).unwrap(), 3);
        assert_eq!(chosen(1, "p/v", None).unwrap(), 0, "no daemon answers");
        assert!(chosen(0, "p/v", None).unwrap_err().is(Kind::Refused), "nothing tells which daemon is meant");
        let none = chosen(3, "p/v", None).unwrap_err();
        assert!(none.is(Kind::NotFound) && none.to_string().contains("p/v@s (/dev/nbd2)"), "{none}");
    }

    #[test]
    fn devices_are_found_in_sysfs() {
        let dir = tempfile::tempdir().unwrap();
        let b = of(1, 2, Some(3), "tank/b@s");
        let lines = [
            ("nbd0", of(1, 1, None, "tank/a").to_string()),
            ("nbd12", b.to_string()),
            ("nbd3", "another".into()),
        ];
        for (name, backend) in lines {
            let disk = dir.path().join(name);
            std::fs::create_dir(&disk).unwrap();
            let mut file = tempfile::NamedTempFile::new_in(&disk).unwrap();
            std::io::Write::write_all(&mut file, format!("{backend}\n").as_bytes()).unwrap();
            file.persist(disk.join("backend")).unwrap();
        }
        std::fs::create_dir(dir.path().join("sda")).unwrap();
        std::fs::create_dir(dir.path().join("nbd7")).unwrap();
        assert_eq!(attached(dir.path()), [(0, of(1, 1, None, "tank/a")), (12, b)]);
    }
}
