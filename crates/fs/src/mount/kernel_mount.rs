//! The kernel's mount itself: made, changed while it is up.
//!
//! fuser mounts as type `fuse` where it may mount by itself, and as `fuse.windlass` where fusermount3 does it for it. Whoever
//! asks for our mounts by type must find both, so root's are made here.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::fuse::{FuseServer, THREADS};
use crate::object::{KernelFlag, MountOptions};
use windlass_base::{Error, Kind, Result};

const TYPE: &str = "fuse.windlass";
pub const DEVICE: &str = "/dev/fuse";

fn flags(options: &MountOptions) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    // The kernel's default, which a remount must ask for.
    flags.set(MountFlags::RELATIME, !options.kernel.contains(&KernelFlag::NoAtime));
    for flag in &options.kernel {
        flags |= match flag {
            KernelFlag::NoExec => MountFlags::NOEXEC,
            KernelFlag::NoSuid => MountFlags::NOSUID,
            KernelFlag::NoDev => MountFlags::NODEV,
            KernelFlag::NoAtime => MountFlags::NOATIME,
        };
    }
    flags
}

/// Returns the session's settings, with the mount's flags and name for fusermount3, which names the type by
/// itself.
fn config(options: &MountOptions, name: &str) -> Config {
    let mut config = Config::default();
    // Its option string ends at a comma.
    let name = name.replace(',', "%2C");
    config.mount_options = vec![
        MountOption::FSName(name),
        MountOption::Subtype("windlass".into()),
        MountOption::DefaultPermissions,
    ];
    config.mount_options.extend(options.kernel.iter().map(|flag| match flag {
        KernelFlag::NoExec => MountOption::NoExec,
        KernelFlag::NoSuid => MountOption::NoSuid,
        KernelFlag::NoDev => MountOption::NoDev,
        KernelFlag::NoAtime => MountOption::NoAtime,
    }));
    config.mount_options.dedup();
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}

/// Mounts at `dir` under the name `name`, and begins to answer the kernel.
pub fn attach(
    face: FuseServer,
    dir: &Path,
    options: &MountOptions,
    name: &str,
) -> io::Result<Session<FuseServer>> {
    let config = config(options, name);
    let open = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open(DEVICE, open, Mode::empty())?;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // The kernel heeds the type of `rootmode` alone.
    let others = if options.allow_other { ",allow_other" } else { "" };
    let fd = device.as_raw_fd();
    let data = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid},default_permissions{others}");
    match rustix::mount::mount(name, dir, TYPE, flags(options), Some(CString::new(data)?.as_c_str())) {
        // Not root.
        Err(Errno::PERM) => return Session::new(face, dir, &config),
        mounted => mounted?,
    }
    let acl = config.acl;
    Session::from_fd(face, device, acl, config).inspect_err(|_| {
        // What went wrong before matters more.
        let _ = rustix::mount::unmount(dir, UnmountFlags::DETACH);
    })
}

/// Changes what the kernel heeds by itself: `ro` and the flags of `options`.
pub fn change(dir: &Path, options: &MountOptions) -> Result<()> {
    rustix::mount::mount_remount(dir, flags(options), "").map_err(|why| {
        let hint = match why {
            Errno::BUSY => ": files are open for writing below it",
            Errno::PERM | Errno::ACCESS => ": only root may change a mount",
            _ => "",
        };
        let kind = if why == Errno::BUSY { Kind::Owned } else { Kind::Denied };
        Error::new(kind, format!("remounting {}{hint}", dir.display())).because(io::Error::from(why))
    })
}
