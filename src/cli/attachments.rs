//! What is attached to this host, and where: NBD devices of the kernel, and files. Its maker writes what it shows where the
//! kernel keeps it (a device's `backend` in sysfs, a file's source in the list of mounts):
//! `windlass:HOST:VOLUME:SNAPSHOT:EXPORT`, the first three by their ids, with `-` for no snapshot.
//!
//! It is known by the daemon that serves it and by the volume's id. The export's name is for people: two daemons of one
//! host may serve volumes of one name, and a name may stand for another volume by now.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use crate::daemon::StateDir;
use windlass_base::{Error, HostId, Kind, Result, StateId, VolumeId};
use windlass_volume::Host;

/// Prefix of the text that marks what we attach.
const OURS: &str = "windlass:";
const NO_SNAPSHOT: &str = "-";

/// A disk that is attached, see the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceOf {
    /// The daemon, by its state folder.
    pub host: HostId,
    pub volume: VolumeId,
    pub snapshot: Option<StateId>,
    /// POOL/VOLUME or POOL/VOLUME@SNAPSHOT, as it was called when it was attached.
    pub export: String,
}

impl DeviceOf {
    /// Tells whether both are one disk of one daemon, whatever it is called.
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
        let foreign = || Error::new(Kind::Invalid, format!("{text:?} is not what we attach says"));
        let parts: Vec<&str> = text.strip_prefix(OURS).ok_or_else(foreign)?.splitn(4, ':').collect();
        let [host, volume, snapshot, export] = parts[..] else { return Err(foreign()) };
        let snapshot = match snapshot {
            NO_SNAPSHOT => None,
            number => Some(StateId(number.parse().map_err(|_| foreign())?)),
        };
        Ok(DeviceOf { host: host.parse()?, volume: volume.parse()?, snapshot, export: export.to_owned() })
    }
}

/// The folder where the kernel shows its disks.
const BLOCK: &str = "/sys/block";
/// The file where the kernel lists what is mounted, for this process.
const MOUNTS: &str = "/proc/self/mountinfo";
/// Types of a mount that is one of our files; it is plain `fuse` where fusermount3 is old.
const FILE_TYPES: [&str; 2] = ["fuse.windlass-file", "fuse"];

/// The place where a disk is attached.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// The kernel's NBD device of this number.
    Device(u32),
    File(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Device(number) => write!(f, "/dev/nbd{number}"),
            Place::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Returns the identity of the state folder's daemon.
pub fn kept_host(home: &StateDir) -> Option<HostId> {
    let text = std::fs::read_to_string(home.root().join("host.json")).ok()?;
    serde_json::from_str::<Host>(&text).ok().map(|host| host.id)
}

/// A disk that is attached, as `status` tells it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Attached {
    pub export: String,
    pub at: String,
}

/// Returns all disks that are attached to this host.
pub fn attached() -> Vec<(Place, DeviceOf)> {
    let mounts = std::fs::read_to_string(MOUNTS).unwrap_or_default();
    let devices = devices(Path::new(BLOCK)).into_iter().map(|(number, of)| (Place::Device(number), of));
    devices.chain(files(&mounts)).collect()
}

/// Returns the disks that are attached of a daemon's volumes.
pub fn attached_of(host: HostId) -> Vec<Attached> {
    let ours = attached().into_iter().filter(|(_, of)| of.host == host);
    ours.map(|(place, of)| Attached { export: of.export, at: place.to_string() }).collect()
}

/// Refuses a disk that is attached already with `Exists`. Each of two places may have a cache of its own in
/// the kernel, as a loop device on a file has. Neither cache would know what was written through the other.
pub fn refuse_second(disk: &DeviceOf) -> Result<()> {
    match attached().into_iter().find(|(_, of)| of.is(disk)) {
        Some((place, _)) => {
            let why = format!("{} is {place} already: `windlass detach {place}` lets it go", disk.export);
            Err(Error::new(Kind::Exists, why))
        }
        None => Ok(()),
    }
}

/// Returns the kernel's NBD devices that were made here, by their numbers. `block`: `/sys/block`.
fn devices(block: &Path) -> Vec<(u32, DeviceOf)> {
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

/// Returns the files that are volumes, by the text of `/proc/PID/mountinfo`.
fn files(mountinfo: &str) -> Vec<(Place, DeviceOf)> {
    let one = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let mut source = source.split(' ');
        source.next().filter(|kind| FILE_TYPES.contains(kind))?;
        let of = unescaped(source.next()?).parse().ok()?;
        Some((Place::File(unescaped(mount.split(' ').nth(4)?).into()), of))
    };
    mountinfo.lines().filter_map(one).collect()
}

/// Decodes a name of the kernel's list of mounts, which writes some bytes as a backslash and three octal
/// digits. A name that is no text then can't be one of ours, and stays as it was.
fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let code =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => (bytes.push(byte), rest = &after[3..]).1,
            None => (bytes.push(*first), rest = after).1,
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// Finds the disk that a user means by an export's name. `host`: the daemon that is asked; `None` where
/// nothing tells it. `means`: what the name stands for now, where the daemon says it.
///
/// # Errors
/// `NotFound`: none of them is it. `Refused`: several may be.
pub fn chosen(
    all: &[(Place, DeviceOf)],
    host: Option<HostId>,
    export: &str,
    means: Option<&DeviceOf>,
) -> Result<Place> {
    if let Some((place, _)) = means.and_then(|means| all.iter().find(|(_, of)| of.is(means))) {
        return Ok(place.clone());
    }
    let of_host = |of: &DeviceOf| host.is_none_or(|host| of.host == host);
    let named: Vec<&Place> =
        all.iter().filter(|(_, of)| of.export == export && of_host(of)).map(|(place, _)| place).collect();
    let shown = |all: &[(Place, DeviceOf)]| {
        let one = |(place, of): &(Place, DeviceOf)| format!("{} ({place})", of.export);
        all.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    match named[..] {
        [one] => Ok(one.clone()),
        [] => {
            let there =
                if all.is_empty() { "nothing is".to_owned() } else { format!("these are: {}", shown(all)) };
            Err(Error::new(Kind::NotFound, format!("{export} is not attached; {there}")))
        }
        _ => {
            let places: Vec<String> = named.iter().map(ToString::to_string).collect();
            let why = format!("{export} is attached several times: name the one, of {}", places.join(", "));
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
            (Place::Device(0), of(1, 0xa, None, "p/v")),
            (Place::Device(1), of(2, 0xb, None, "p/v")),
            (Place::Device(2), of(1, 0xc, Some(7), "p/v@s")),
            (Place::File("/h/old.img".into()), of(1, 0xd, None, "p/old")),
        ];
        let chosen = |host: u128, export: &str, means: Option<&DeviceOf>| {
            let host = Some(HostId(host)).filter(|host| *host != HostId(0));
            chosen(&all, host, export, means).map(|place| place.to_string())
        };
        assert_eq!(chosen(1, "p/v", Some(&of(1, 0xa, None, "p/v"))).unwrap(), "/dev/nbd0");
        assert_eq!(
            chosen(2, "p/v", Some(&of(2, 0xb, None, "p/v"))).unwrap(),
            "/dev/nbd1",
            "the other daemon's"
        );
        assert_eq!(
            chosen(1, "p/new", Some(&of(1, 0xd, None, "p/new"))).unwrap(),
            "/h/old.img",
            "it was renamed"
        );
        assert_eq!(chosen(1, "p/v@s", Some(&of(1, 0xc, Some(7), "p/v@s"))).unwrap(), "/dev/nbd2");
        // What a name stood for when the device was made, where nothing is attached of what it stands for now.
        assert_eq!(chosen(1, "p/old", Some(&of(1, 0xe, None, "p/old"))).unwrap(), "/h/old.img");
        assert_eq!(chosen(1, "p/v", None).unwrap(), "/dev/nbd0", "no daemon answers");
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
        assert_eq!(devices(dir.path()), [(0, of(1, 1, None, "tank/a")), (12, b)]);
    }

    #[test]
    fn files_are_found_among_mounts() {
        let (v, w) = (of(1, 2, None, "tank/v"), of(1, 3, Some(7), "tank/w@s"));
        let text = format!(
            "20 1 8:1 / / rw - ext4 /dev/sda rw\n42 20 0:35 / /h/a\\040b\\134.img rw,nosuid shared:7 - fuse.windlass-file {v} rw\n\
             43 20 0:36 / /h/c.img rw - fuse {w} rw\n44 20 0:37 / /h/d rw - fuse.windlass file:///d rw\n\
             45 20 0:38 / /h/e rw - fuse.other {v} rw\n46 20 0:39 / /h/f rw -\n47 20 0:40 / /h/g rw - fuse x rw\n"
        );
        let at = |path: &str| Place::File(path.into());
        assert_eq!(files(&text), [(at("/h/a b\\.img"), v), (at("/h/c.img"), w)]);
        assert_eq!(unescaped("\\9\\04"), "\\9\\04");
    }
}
