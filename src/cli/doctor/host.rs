//! The machine: kernel, FUSE, NBD, limits, memory.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::Resource;

use super::check::Check;
use windlass_base::units::{MIB, show_bytes};

/// Oldest version of the kernel that has openat2(2), by which stores in folders are opened.
const KERNEL_MIN: (u32, u32) = (5, 6);
/// Least limit of open files that is no trouble: fewer are used up by some hundred clients, files and
/// connections.
const OPEN_FILES_MIN: u64 = 1024;
/// Bytes that the process takes beside its budget (docs/operations.md).
const MEMORY_BESIDE: u64 = 256 * MIB;

/// Facts on the machine, see the module.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Release of the kernel, as uname(2) says.
    pub kernel: String,
    pub is_root: bool,
    /// Result of opening /dev/fuse; the error says why it can't be opened.
    pub fuse: Result<(), String>,
    pub fusermount: Option<PathBuf>,
    /// The kernel can attach NBD exports as block devices.
    pub nbd: bool,
    /// Most files that `serve` may open. `None`: no limit.
    pub open_files: Option<u64>,
    /// Bytes that the engine may use, or why that is not known.
    pub memory: Result<u64, String>,
    pub memory_total: u64,
    /// Limit of memory of the control group, where it has one, in bytes.
    pub memory_limit: Option<u64>,
}

impl HostFacts {
    pub fn look(memory: Result<u64, String>) -> HostFacts {
        let fuse = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        HostFacts {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            is_root: rustix::process::geteuid().is_root(),
            fuse: fuse.map(drop).map_err(|e| std::io::Error::from(e).to_string()),
            fusermount: in_path("fusermount3"),
            nbd: Path::new("/sys/module/nbd").exists() || Path::new("/dev/nbd0").exists(),
            open_files: rustix::process::getrlimit(Resource::Nofile).maximum,
            memory,
            memory_total: rustix::system::sysinfo().totalram as u64,
            memory_limit: memory_limit(),
        }
    }

    pub fn judge(&self) -> Vec<Check> {
        vec![self.kernel(), self.fuse(), self.fusermount(), self.nbd(), self.open_files(), self.memory()]
    }

    fn kernel(&self) -> Check {
        let mut numbers = self.kernel.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let found = format!("Linux {}", self.kernel);
        match version {
            version if version >= KERNEL_MIN => Check::ok("kernel", found),
            (0, _) => Check::unknown("kernel", format!("{found}: this version can't be read")),
            _ => Check::bad(
                "kernel",
                format!("{found} is older than {}.{}", KERNEL_MIN.0, KERNEL_MIN.1),
                "use a newer kernel",
            ),
        }
    }

    fn fuse(&self) -> Check {
        match &self.fuse {
            Ok(()) => Check::ok("fuse", "/dev/fuse opens: buckets can be mounted"),
            Err(why) => Check::bad(
                "fuse",
                format!("/dev/fuse does not open ({why}): buckets can't be mounted; volumes don't need it"),
                "`modprobe fuse`; in a container start that with `--device /dev/fuse --cap-add SYS_ADMIN`",
            ),
        }
    }

    fn fusermount(&self) -> Check {
        let cure = "install it: `apt install fuse3`, `dnf install fuse3` or `apk add fuse3`";
        match &self.fusermount {
            Some(path) => Check::ok("fusermount", path.display().to_string()),
            None if self.is_root => {
                Check::warn("fusermount", "fusermount3 is not in PATH: only root can mount buckets", cure)
            }
            None => Check::bad(
                "fusermount",
                "fusermount3 is not in PATH: this user, who is not root, can't mount buckets",
                cure,
            ),
        }
    }

    fn nbd(&self) -> Check {
        Check::ok(
            "nbd-module",
            match self.nbd {
                true => "the kernel's nbd module is loaded",
                false => {
                    "the kernel's nbd module is not loaded: QEMU needs none; `modprobe nbd` before `nbd-client`"
                }
            },
        )
    }

    fn open_files(&self) -> Check {
        match self.open_files {
            Some(n) if n < OPEN_FILES_MIN => Check::warn(
                "open-files",
                format!("a process may have {n} files open: many clients or mounted files use that up"),
                "`ulimit -n 65536` before `windlass serve`, or `LimitNOFILE=65536` in its unit",
            ),
            Some(n) => Check::ok("open-files", format!("a process may have {n} files open")),
            None => Check::ok("open-files", "a process may have any number of files open"),
        }
    }

    fn memory(&self) -> Check {
        let budget = match &self.memory {
            Ok(budget) => *budget,
            Err(why) => return Check::unknown("memory", why.clone()),
        };
        let takes = budget.saturating_add(MEMORY_BESIDE);
        let (limit, of) = match self.memory_limit.filter(|limit| *limit < self.memory_total) {
            Some(limit) => (limit, "its control group may have"),
            None => (self.memory_total, "this machine has"),
        };
        let found = format!(
            "the budget of {} and {} beside it, of {} that {of}",
            show_bytes(budget),
            show_bytes(MEMORY_BESIDE),
            show_bytes(limit)
        );
        let fits = limit.saturating_sub(MEMORY_BESIDE) / 2;
        let cure = format!("`memory = \"{}M\"` in windlass.toml, or raise the limit", (fits / MIB).max(64));
        match takes {
            takes if takes > limit => {
                Check::bad("memory", format!("{found}: the process is killed before it uses all"), cure)
            }
            takes if takes > limit / 10 * 9 => {
                Check::warn("memory", format!("{found}: hardly any is left"), cure)
            }
            _ => Check::ok("memory", found),
        }
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Returns the least limit of this process's control group and those above it.
fn memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let limits = groups.lines().filter_map(group_of_memory).flat_map(|(root, group, file)| {
        let dirs: Vec<PathBuf> = Path::new(&group).ancestors().map(|dir| root.join(dir)).collect();
        dirs.into_iter().map(move |dir| dir.join(file))
    });
    limits.filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

/// Returns the place of the limits of memory for a line of /proc/self/cgroup: the hierarchy's root, the group
/// in it, the file.
fn group_of_memory(line: &str) -> Option<(&'static Path, String, &'static str)> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, group) = (fields.next()?, fields.next()?.trim_start_matches('/').to_owned());
    match controllers {
        "" => Some((Path::new("/sys/fs/cgroup"), group, "memory.max")),
        all if all.split(',').any(|one| one == "memory") => {
            Some((Path::new("/sys/fs/cgroup/memory"), group, "memory.limit_in_bytes"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::State;
    use windlass_base::units::GIB;

    fn well() -> HostFacts {
        HostFacts {
            kernel: "6.1.0-13-amd64".into(),
            is_root: false,
            fuse: Ok(()),
            fusermount: Some("/usr/bin/fusermount3".into()),
            nbd: false,
            open_files: Some(1024),
            memory: Ok(GIB),
            memory_total: 8 * GIB,
            memory_limit: None,
        }
    }

    fn states(facts: &HostFacts) -> Vec<(String, State)> {
        facts.judge().into_iter().filter(|c| c.state != State::Ok).map(|c| (c.name, c.state)).collect()
    }

    #[test]
    fn a_host_that_is_well_has_nothing() {
        assert!(states(&well()).is_empty());
        assert!(well().judge().iter().all(|check| check.cure.is_none()));
    }

    #[test]
    fn each_trouble_of_a_host_is_named() {
        type Change = fn(&mut HostFacts);
        let troubles: [(&str, State, Change); 9] = [
            ("kernel", State::Bad, |f| f.kernel = "5.4.0".into()),
            ("kernel", State::Unknown, |f| f.kernel = "odd".into()),
            ("fuse", State::Bad, |f| f.fuse = Err("no such device".into())),
            ("fusermount", State::Bad, |f| f.fusermount = None),
            ("fusermount", State::Warn, |f| (f.fusermount, f.is_root) = (None, true)),
            ("open-files", State::Warn, |f| f.open_files = Some(256)),
            ("memory", State::Bad, |f| f.memory_limit = Some(GIB)),
            ("memory", State::Warn, |f| f.memory_total = GIB + MEMORY_BESIDE),
            ("memory", State::Unknown, |f| f.memory = Err("WINDLASS_MEMORY: no size".into())),
        ];
        for (name, state, change) in troubles {
            let mut facts = well();
            change(&mut facts);
            assert_eq!(states(&facts), [(name.to_owned(), state)]);
        }
    }

    #[test]
    fn groups_of_both_kinds_are_found() {
        let two = group_of_memory("0::/a/b").unwrap();
        assert_eq!((two.1.as_str(), two.2), ("a/b", "memory.max"));
        assert_eq!(group_of_memory("4:cpu,memory:/x").unwrap().2, "memory.limit_in_bytes");
        assert!(group_of_memory("5:cpu:/x").is_none() && group_of_memory("").is_none());
    }
}
