//! Who keeps a mount that was taken out of this process's tree: other mount namespaces, other places, open files.
//!
//! A mount namespace begins with a copy of all mounts. What is unmounted here goes on there, and the filesystem with it, until the
//! last copy goes. `/proc/PID/mountinfo` tells it by the number of the filesystem's device.

use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Number of a filesystem's device.
pub type Device = (u32, u32);

/// Largest number of holders that a message names.
const NAMED: usize = 3;

/// A line of a table of mounts.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Line {
    device: Device,
    /// Part of the filesystem that is shown at the place.
    root: String,
    at: PathBuf,
}

/// A place in a mount namespace where the filesystem is still mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy {
    /// A process of that namespace; `None`: the namespace is the own one.
    pub process: Option<(u32, String)>,
    pub at: PathBuf,
    /// True if the namespace has the same root filesystem as the own one: it is no container's.
    same_root: bool,
}

/// Holders of a filesystem that was unmounted here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holders {
    pub copies: Vec<Copy>,
    /// Processes that have files of the filesystem open, or stand in it.
    pub users: Vec<(u32, String)>,
    /// True if there are processes that this user may not look at.
    pub hidden: bool,
}

/// Decodes a field of a table of mounts, in which blanks and the like are written as `\040`.
fn unescaped(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(meant) => {
                bytes.push(meant);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lines(table: &str) -> Vec<Line> {
    let one = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let (device, root, at) = (fields.next()?, fields.next()?, fields.next()?);
        let (major, minor) = device.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        Some(Line { device, root: unescaped(root), at: unescaped(at).into() })
    };
    table.lines().filter_map(one).collect()
}

/// Returns the filesystem and the part of it that a namespace has as its root.
fn root_of(lines: &[Line]) -> Option<(Device, &str)> {
    lines.iter().rev().find(|line| line.at == Path::new("/")).map(|line| (line.device, line.root.as_str()))
}

/// Returns the places of a filesystem in the tables of several namespaces; the first is the own one.
fn copies(tables: &[(Option<(u32, String)>, String)], device: Device) -> Vec<Copy> {
    let parsed: Vec<_> = tables.iter().map(|(process, table)| (process, lines(table))).collect();
    let own_root = parsed.first().and_then(|(_, own)| root_of(own));
    let mut all = Vec::new();
    for (process, lines) in &parsed {
        let same_root = own_root.is_some() && root_of(lines) == own_root;
        for line in lines.iter().filter(|line| line.device == device) {
            all.push(Copy { process: (*process).clone(), at: line.at.clone(), same_root });
        }
    }
    all
}

/// Returns all processes that can be seen, but the own one, with their names.
fn processes() -> Vec<(u32, String)> {
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| *pid != own);
    let named = numbers.filter_map(|pid| Some((pid, read_to_string(format!("/proc/{pid}/comm")).ok()?)));
    named.map(|(pid, name)| (pid, name.trim_end().to_owned())).collect()
}

fn is_on(path: &Path, device: Device) -> bool {
    // Without asking whoever serves it.
    let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT, StatxFlags::empty());
    found.is_ok_and(|found| (found.stx_dev_major, found.stx_dev_minor) == device)
}

fn uses(pid: u32, device: Device) -> bool {
    let of = |name: &str| Path::new("/proc").join(pid.to_string()).join(name);
    let open = std::fs::read_dir(of("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    [of("cwd"), of("root")].into_iter().chain(open).any(|path| is_on(&path, device))
}

/// Tells whether a process that can't be looked at may hold a mount. One that has ended holds nothing, though
/// it is listed still.
fn may_hold(pid: u32) -> bool {
    read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !has_ended(&stat))
}

/// Tells by the text of `/proc/PID/stat` whether a process has ended. The state comes after the name, which
/// is in brackets and may have any character in it.
fn has_ended(stat: &str) -> bool {
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('Z' | 'X'))
}

impl Holders {
    /// Finds the holders of a filesystem by a look through `/proc`.
    pub fn of(device: Device) -> Holders {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let own = read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (mut tables, mut hidden, mut users) = (vec![(None, own)], false, Vec::new());
        // One process of each namespace.
        let mut others = BTreeMap::new();
        for (pid, name) in processes() {
            if uses(pid, device) {
                users.push((pid, name.clone()));
            }
            match link(&pid.to_string()) {
                Some(namespace) if Some(&namespace) != link("self").as_ref() => {
                    others.entry(namespace).or_insert((pid, name));
                }
                Some(_) => {}
                None => hidden |= may_hold(pid),
            }
        }
        for (pid, name) in others.into_values() {
            match read_to_string(format!("/proc/{pid}/mountinfo")) {
                Ok(table) => tables.push((Some((pid, name)), table)),
                Err(_) => hidden |= may_hold(pid),
            }
        }
        Holders { copies: copies(&tables, device), users, hidden }
    }

    /// Returns the holders as a message names them; `None` where nobody was found.
    pub fn told(&self) -> Option<String> {
        let shown = |(pid, name): &(u32, String)| format!("process {pid} ({name})");
        let copy = |copy: &Copy| match &copy.process {
            Some(process) => {
                format!("the mount namespace of {} still has it, at {}", shown(process), copy.at.display())
            }
            None => format!("it is mounted at {} too", copy.at.display()),
        };
        let copies = listed(self.copies.iter().map(copy).collect());
        let users = listed(self.users.iter().map(shown).collect())
            .map(|users| format!("{users} has files of it open"));
        let found: Vec<String> = copies.into_iter().chain(users).collect();
        match (found.is_empty(), self.hidden) {
            (false, _) => Some(found.join("; ")),
            (true, true) => Some("a process holds it that this user may not look at".to_owned()),
            (true, false) => None,
        }
    }

    /// Unmounts the copies that namespaces of this very root have inherited at this place, where nobody uses
    /// them. A container's mounts are its own.
    pub fn let_go_of_copies(&self, at: &Path) {
        let inherited = self.copies.iter().filter(|copy| copy.same_root && copy.at == at);
        for (pid, name) in inherited.filter_map(|copy| copy.process.as_ref()) {
            match unmount_in(*pid, at) {
                Ok(()) => {
                    tracing::info!(at = %at.display(), pid, name, "unmounted in that process's namespace too")
                }
                Err(why) => {
                    tracing::debug!(at = %at.display(), pid, name, %why, "stays mounted in that process's namespace")
                }
            }
        }
    }
}

fn listed(mut all: Vec<String>) -> Option<String> {
    let more = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    (!all.is_empty()).then(|| all.join(", "))
}

/// Unmounts in another process's namespace. A thread of its own does this, which ends in that namespace: one
/// that goes on must not.
#[allow(
    clippy::disallowed_methods,
    reason = "a thread that changes its namespace must not be one of a pool's"
)]
fn unmount_in(pid: u32, at: &Path) -> Result<(), Errno> {
    let namespace: OwnedFd =
        rustix::fs::open(format!("/proc/{pid}/ns/mnt"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let at = at.to_owned();
    let there = std::thread::spawn(move || {
        // The kernel refuses to move a thread that shares its working directory with others.
        #[allow(deprecated, reason = "without a table of files to give up it is as safe as chdir(2)")]
        rustix::thread::unshare(UnshareFlags::FS)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
        rustix::mount::unmount(&at, UnmountFlags::empty())
    });
    there.join().unwrap_or(Err(Errno::CANCELED))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "26 1 8:1 / / rw shared:1 - ext4 /dev/root rw\n\
        90 26 0:77 /sub /mnt/a\\040b rw - fuse.windlass b rw\nodd\n";

    #[test]
    fn who_has_ended_holds_nothing() {
        for (stat, ended) in
            [("7 (a) b) S 1 7", false), ("7 (Z) R 1 7", false), ("7 (sh) Z 1 7", true), ("odd", false)]
        {
            assert_eq!(has_ended(stat), ended, "{stat}");
        }
    }

    #[test]
    fn copies_are_found_by_the_device_in_each_namespace() {
        let process = |pid: u32| Some((pid, format!("p{pid}")));
        let sandbox = "50 49 8:1 / / rw - ext4 /dev/root rw\n51 50 0:77 / /mnt/w rw - fuse.windlass b rw\n";
        let container = "60 59 0:30 / / rw - overlay o rw\n61 60 0:77 / /mnt/w rw - fuse.windlass b rw\n";
        let tables = [(None, OWN.to_owned()), (process(7), sandbox.into()), (process(8), container.into())];
        let found = copies(&tables, (0, 77));
        let seen: Vec<_> = found
            .iter()
            .map(|copy| (copy.process.clone(), copy.at.to_str().unwrap(), copy.same_root))
            .collect();
        assert_eq!(
            seen,
            [(None, "/mnt/a b", true), (process(7), "/mnt/w", true), (process(8), "/mnt/w", false)]
        );
        assert!(copies(&tables, (0, 78)).is_empty());
    }

    #[test]
    fn a_message_names_some_and_counts_the_others() {
        assert_eq!(Holders::default().told(), None);
        let hidden = Holders { hidden: true, ..Holders::default() };
        assert!(hidden.told().unwrap().contains("may not look at"));
        let copy = |pid| Copy { process: Some((pid, "sleep".into())), at: "/m".into(), same_root: true };
        let many = Holders { copies: (1..=5).map(copy).collect(), ..Holders::default() };
        let told = many.told().unwrap();
        assert!(told.starts_with("the mount namespace of process 1 (sleep) still has it, at /m"), "{told}");
        assert!(told.ends_with("and 2 more") && !told.contains("process 4"), "{told}");
        let both = Holders { users: vec![(9, "cat".into())], copies: vec![copy(1)], hidden: true };
        assert!(both.told().unwrap().ends_with("; process 9 (cat) has files of it open"));
    }

    #[test]
    fn an_open_file_shows_who_has_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = statx(CWD, file.path(), AtFlags::empty(), StatxFlags::empty()).unwrap();
        assert!(uses(std::process::id(), (found.stx_dev_major, found.stx_dev_minor)));
        assert!(!uses(std::process::id(), (4095, 1)));
    }
}
