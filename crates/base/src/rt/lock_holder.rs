//! Who holds a lock on a file, and what keeps that process from ending, as far as /proc tells it.
//!
//! A process that waits for a disk can't be killed: its threads stay in the kernel, and its locks with them, until the
//! disk answers. Nothing here touches a file of another process: what hangs must not hang this process too.

use std::collections::BTreeMap;
use std::fs::{read_dir, read_link, read_to_string};
use std::path::Path;

use crate::utc;

/// Most mount points that are named.
const MOUNTS_MAX: usize = 3;

/// The parts of `/proc/PID/stat` that tell how a process or thread fares.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    state: char,
    exiting: bool,
}

/// A filesystem that threads wait for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Mount {
    at: String,
    kind: String,
    source: String,
}

#[derive(Debug)]
struct Holder {
    pid: u32,
    stat: Stat,
    killed: bool,
    /// A thread of the process waits in the kernel and can't be interrupted.
    waits: bool,
    mounts: Vec<Mount>,
}

/// Tells who holds the lock on this file, and what to do: "process 7 (windlass) since 2026-11-20T09:15:00Z:
/// stop it". `note`: what the holder has written into the file; `since_ms`: when.
pub(super) fn describe(dev: u64, inode: u64, note: &str, since_ms: u64) -> String {
    let locks = read_to_string("/proc/locks").unwrap_or_default();
    let noted = note.trim().strip_prefix("process ").and_then(|n| n.split_whitespace().next()?.parse().ok());
    let Some(pid) = pid_of(&locks, dev, inode).or(noted) else {
        let who = Some(note.trim()).filter(|note| !note.is_empty()).unwrap_or("another process");
        return format!("{who}: stop it");
    };
    let since = utc::show(since_ms);
    if pid == std::process::id() {
        return format!("this process ({pid}) since {since}: wait until it lets go");
    }
    match Holder::look(pid) {
        Some(holder) => holder.tell(&since),
        None => format!(
            "process {pid} since {since}, which has ended or is not seen from here: stop what it has started"
        ),
    }
}

/// Returns the process that holds a lock (flock) on a file, by the text of `/proc/locks`.
fn pid_of(locks: &str, dev: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            // Another namespace's process has no number here.
            [_, "FLOCK", _, _, pid, at, ..] if at == place => pid.parse().ok().filter(|pid| *pid > 0),
            _ => None,
        }
    })
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name may hold spaces and parentheses.
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut words = tail.split_whitespace();
    let state = words.next()?.chars().next()?;
    let flags: u64 = words.nth(5)?.parse().ok()?;
    Some(Stat { name, state, exiting: flags & 4 != 0 })
}

/// Tells whether SIGKILL is on its way to a process, by the text of `/proc/PID/status`.
fn is_killed(status: &str) -> bool {
    let pending = |line: &str| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    status.lines().filter_map(pending).any(|mask| mask & 1 << 8 != 0)
}

/// Returns the number of the open file that a thread's system call is about, by the text of
/// `/proc/PID/task/TID/syscall`. The number is the first argument of most calls that wait for a disk.
fn first_argument(syscall: &str) -> Option<u64> {
    u64::from_str_radix(syscall.split_whitespace().nth(1)?.strip_prefix("0x")?, 16).ok()
}

/// Returns the mount that a path is on, by the text of `/proc/PID/mountinfo`.
fn mount_of(mountinfo: &str, path: &str) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        let at = unescaped(place.split(' ').nth(4)?);
        let mut what = what.split(' ');
        Some(Mount { at, kind: what.next()?.to_owned(), source: unescaped(what.next()?) })
    });
    // Of several in one place the last one covers the others.
    mounts.filter(|mount| Path::new(path).starts_with(&mount.at)).max_by_key(|mount| mount.at.len())
}

/// Decodes spaces and the like, which are written as `\040`.
fn unescaped(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, is)| text.replace(code, is))
}

impl Holder {
    /// Looks at a process in /proc. `None`: there is no such process.
    fn look(pid: u32) -> Option<Holder> {
        let of = |what: &str| read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let stat = parse_stat(&of("stat"))?;
        let killed = stat.exiting || matches!(stat.state, 'Z' | 'X') || is_killed(&of("status"));
        let mut mounts = BTreeMap::new();
        let mut waits = false;
        for thread in read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let thread = thread.path();
            let of = |what: &str| read_to_string(thread.join(what)).unwrap_or_default();
            if parse_stat(&of("stat")).is_none_or(|stat| stat.state != 'D') {
                continue;
            }
            waits = true;
            let file = first_argument(&of("syscall")).map(|n| thread.join(format!("fd/{n}")));
            let path = file.and_then(|file| read_link(file).ok());
            let path = path.as_deref().and_then(Path::to_str).filter(|path| path.starts_with('/'));
            if let Some(mount) = path.and_then(|path| mount_of(&of("mountinfo"), path)) {
                mounts.insert(mount.at.clone(), mount);
            }
        }
        Some(Holder { pid, stat, killed, waits, mounts: mounts.into_values().take(MOUNTS_MAX).collect() })
    }

    fn tell(&self, since: &str) -> String {
        let pid = self.pid;
        let who = format!("process {pid} ({}) since {since}", self.stat.name);
        let all =
            |each: &dyn Fn(&Mount) -> String| self.mounts.iter().map(each).collect::<Vec<_>>().join(" and ");
        let (what, thaw) = match self.mounts.is_empty() {
            true => ("a disk that it waits for".to_owned(), "fsfreeze --unfreeze MOUNTPOINT".to_owned()),
            false => (
                all(&|m| format!("the filesystem at {} ({} on {})", m.at, m.kind, m.source)),
                all(&|m| format!("fsfreeze --unfreeze {}", m.at)),
            ),
        };
        let cure = format!(
            "thaw what is frozen (`{thaw}`), bring the disk or server back, or give it up (`umount --force`)"
        );
        match (self.killed, self.waits, self.stat.state) {
            (true, true, _) => format!("{who}, which was killed and can't end before {what} answers: {cure}"),
            (true, false, _) => format!("{who}, which was killed and is about to end: try again"),
            (false, true, _) => {
                format!(
                    "{who}, which waits for {what} and can't end before that answers: stop it; if it stays, {cure}"
                )
            }
            (false, false, 'T') => {
                format!("{who}, which is suspended: `kill -CONT {pid}` lets it go on; or stop it")
            }
            (false, false, _) => format!("{who}: stop it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 7:0 / /mnt/my\\040disk rw,relatime - ext4 /dev/loop0 rw
31 22 0:44 / /mnt rw shared:7 master:3 - nfs4 host:/x rw
";

    fn holder(killed: bool, waits: bool, state: char, mounts: Vec<Mount>) -> String {
        let stat = Stat { name: "windlass".into(), state, exiting: false };
        Holder { pid: 7, stat, killed, waits, mounts }.tell("T")
    }

    #[test]
    fn the_texts_of_proc_are_read() {
        let stat = "11849 (a (b) c) D 6148 6147 1435 0 -1 4195336 60627 0 0 0 125 32 0 0 20 0 34 0 7308211";
        let read = parse_stat(stat).unwrap();
        assert_eq!(read, Stat { name: "a (b) c".into(), state: 'D', exiting: false });
        assert!(parse_stat(&stat.replace("4195336", "4228108")).unwrap().exiting);
        for bad in ["", "7", "7 (x", "7 (x)", "7 (x) D 1 2", "7 (x) D 1 2 3 4 5 six"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
        assert!(is_killed("State:\tZ (zombie)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"));
        assert!(!is_killed("SigPnd:\t0000000000004000\nShdPnd:\tx\nSigBlk:\t0000000000000100\n"));
        assert_eq!(
            first_argument("257 0x22 0x7fed70ef0ef8 0xa80c2 0x180 0x0 0x0 0x7fed 0x55bc\n"),
            Some(0x22)
        );
        assert_eq!((first_argument("running\n"), first_argument("-1 0x7ffe 0x55")), (None, Some(0x7ffe)));
        let locks = "1: FLOCK  ADVISORY  WRITE 0 07:0a:12 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 8 fe:00:34 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 9 fe:00:34 0 EOF\n3: FLOCK  ADVISORY  WRITE 11849 fe:00:34 0 EOF\n";
        let dev = |major, minor| rustix::fs::makedev(major, minor);
        assert_eq!(pid_of(locks, dev(0xfe, 0), 34), Some(11849));
        assert_eq!((pid_of(locks, dev(0xfe, 1), 34), pid_of(locks, dev(7, 10), 12)), (None, None));
        let at = |path: &str| mount_of(MOUNTS, path).map(|mount| mount.at).unwrap_or_default();
        assert_eq!([at("/mnt/my disk/st"), at("/mnt/myself"), at("/home")], ["/mnt/my disk", "/mnt", "/"]);
    }

    #[test]
    fn what_keeps_a_holder_from_ending_is_told_with_what_to_do() {
        let mount = vec![mount_of(MOUNTS, "/mnt/my disk/st").unwrap()];
        let cure = "thaw what is frozen (`fsfreeze --unfreeze /mnt/my disk`), bring the disk or server back, or give it up \
                    (`umount --force`)";
        assert_eq!(
            holder(true, true, 'Z', mount.clone()),
            format!(
                "process 7 (windlass) since T, which was killed and can't end before the filesystem at /mnt/my disk (ext4 on \
                 /dev/loop0) answers: {cure}"
            )
        );
        let alive = holder(false, true, 'S', mount);
        assert!(
            alive.contains("waits for the filesystem at /mnt/my disk") && alive.ends_with(cure),
            "{alive}"
        );
        let unknown = holder(true, true, 'Z', Vec::new());
        assert!(unknown.contains("can't end before a disk that it waits for answers: thaw"), "{unknown}");
        assert!(
            holder(true, false, 'Z', Vec::new()).ends_with("which was killed and is about to end: try again")
        );
        assert!(holder(false, false, 'T', Vec::new()).contains("`kill -CONT 7`"));
        assert_eq!(holder(false, false, 'S', Vec::new()), "process 7 (windlass) since T: stop it");
    }

    /// The note may be an older holder's, and the process may be suspended.
    #[test]
    fn a_process_that_holds_a_lock_is_found() {
        use std::io::Read as _;
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let mut child = std::process::Command::new("flock")
            .args(["--nonblock", "--no-fork"])
            .arg(&path)
            .args(["sh", "-c", "echo held; exec sleep 60"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        child.stdout.take().unwrap().read_exact(&mut said).unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let told = |note| {
            let file = std::fs::metadata(&path).unwrap();
            describe(file.dev(), file.ino(), note, 0)
        };
        let until = |what: &str| {
            (0..5000).any(|_| {
                std::thread::yield_now();
                told("process 1").contains(what)
            })
        };
        let who = format!("process {} (", child.id());
        let mut seen = vec![told("process 1"), told("")];
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let stopped = until(&format!("which is suspended: `kill -CONT {}`", child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        seen.push(told("process 1"));
        assert!(
            seen[..2]
                .iter()
                .all(|s| s.starts_with(&who) && s.ends_with("since 1970-01-01T00:00:00Z: stop it")),
            "{seen:?}"
        );
        assert!(stopped, "{seen:?}");
        assert!(!seen[2].starts_with(&who), "it has let go: {seen:?}");
    }
}
