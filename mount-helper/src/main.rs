//! `mount.windlass URL DIR [-sfnv] [-o OPTIONS]`, as mount(8) and fstab call it: becomes `windlass mount URL DIR -o OPTIONS`.
//!
//! Cargo builds it as `mount-windlass`; mount(8) finds it as /sbin/mount.windlass, a copy or a link.
//! `windlass` is looked for beside this program first, then in PATH. Options that mount(8) adds for itself are dropped.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// What mount(8) and fstab write for themselves.
const DROPPED: &[&str] =
    &["defaults", "_netdev", "auto", "noauto", "nofail", "user", "nouser", "users", "owner", "group"];

/// Where programs are looked for when nobody says.
const PATHS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// mount(8)'s exit codes.
const USAGE: u8 = 1;
const SYSTEM: u8 = 2;

#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Run(Vec<OsString>),
    /// `-f`: say that it would be done.
    Nothing,
    Wrong(String),
}

fn kept(options: &str) -> Vec<&str> {
    let ours = |o: &&str| {
        !o.is_empty() && !DROPPED.contains(o) && !o.starts_with("x-") && !o.starts_with("comment=")
    };
    options.split(',').filter(ours).collect()
}

fn wish(args: impl IntoIterator<Item = OsString>) -> Wish {
    let (mut places, mut options, mut fake, mut read_only) = (Vec::new(), Vec::new(), false, false);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or_default();
        if text == "-o" || text == "-t" {
            let Some(value) = args.next() else { return Wish::Wrong(format!("{text} needs a value")) };
            if text == "-o" {
                let Some(value) = value.to_str() else { return Wish::Wrong("options are not UTF-8".into()) };
                options.extend(kept(value).into_iter().map(str::to_owned));
            }
        } else if text.len() > 1 && text.starts_with('-') {
            if !text[1..].chars().all(|c| "sfnvrw".contains(c)) {
                return Wish::Wrong(format!("unknown flag {text}"));
            }
            fake |= text.contains('f');
            read_only |= text.contains('r');
        } else {
            places.push(arg);
        }
    }
    if read_only {
        options.push("ro".into());
    }
    let [url, dir] = &places[..] else {
        return Wish::Wrong("usage: mount.windlass URL DIR [-o OPTIONS]".into());
    };
    if fake {
        return Wish::Nothing;
    }
    let mut run = vec!["mount".into(), url.clone(), dir.clone()];
    if !options.is_empty() {
        run.extend(["-o".into(), options.join(",").into()]);
    }
    Wish::Run(run)
}

fn windlass() -> PathBuf {
    let beside =
        std::env::current_exe().ok().and_then(|me| Some(me.canonicalize().ok()?.with_file_name("windlass")));
    let beside = beside.filter(|p| p.is_file());
    let found = || {
        let paths = std::env::var_os("PATH").unwrap_or_else(|| PATHS.into());
        std::env::split_paths(&paths).map(|dir| dir.join("windlass")).find(|program| program.is_file())
    };
    beside.or_else(found).unwrap_or_else(|| "windlass".into())
}

/// mount(8) starts this without PATH and HOME; by the latter the credentials of the one who mounts are found.
fn surroundings() -> Vec<(&'static str, OsString)> {
    let mut all = Vec::new();
    if std::env::var_os("PATH").is_none() {
        all.push(("PATH", PATHS.into()));
    }
    if std::env::var_os("HOME").is_none()
        && let Some(home) = std::env::home_dir()
    {
        all.push(("HOME", home.into()));
    }
    all
}

fn main() -> ExitCode {
    match wish(std::env::args_os().skip(1)) {
        Wish::Nothing => ExitCode::SUCCESS,
        Wish::Wrong(why) => {
            eprintln!("mount.windlass: {why}");
            ExitCode::from(USAGE)
        }
        Wish::Run(args) => {
            let program = windlass();
            let why = Command::new(&program).args(args).envs(surroundings()).exec();
            eprintln!(
                "mount.windlass: {} can't be started: {why}; install windlass beside this program or in PATH",
                program.display()
            );
            ExitCode::from(SYSTEM)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Wish {
        wish(line.split(' ').map(OsString::from))
    }

    #[test]
    fn what_mount_adds_is_dropped() {
        let run = |line: &str| Wish::Run(line.split(' ').map(OsString::from).collect());
        assert_eq!(
            of("s3://b/p?a=1&b=2 /mnt -o rw,_netdev,uid=7,x-systemd.automount,noauto"),
            run("mount s3://b/p?a=1&b=2 /mnt -o rw,uid=7")
        );
        assert_eq!(of("file:///d /mnt -o rw,remount"), run("mount file:///d /mnt -o rw,remount"));
        assert_eq!(of("file:///d /mnt -o defaults"), run("mount file:///d /mnt"));
        assert_eq!(of("file:///d /mnt -n -v -o ro -o gid=1"), run("mount file:///d /mnt -o ro,gid=1"));
        assert_eq!(of("-r file:///d /mnt -t windlass"), run("mount file:///d /mnt -o ro"));
        assert_eq!(of("-r file:///d /mnt -o rw"), run("mount file:///d /mnt -o rw,ro"));
        assert_eq!(of("-sf file:///d /mnt"), Wish::Nothing);
        for bad in ["/mnt", "a b c", "a b -o", "a b -q"] {
            assert!(matches!(of(bad), Wish::Wrong(_)), "{bad}");
        }
    }
}
