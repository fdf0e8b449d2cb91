//! What users write behind `-o`: names as s3fs and mountpoint-s3 have them where those agree.

use std::time::Duration;

use windlass_base::units::parse_size;
use windlass_base::{Accounts, Error, Kind, Result, nearest_word};

/// Default time for which names and attributes are believed after the store told them.
const TTL: Duration = Duration::from_secs(5);
const TTL_MAX: Duration = Duration::from_secs(3600);
/// Default time that one operation may take before the process gets `ETIMEDOUT`.
const DEADLINE: Duration = Duration::from_secs(60);

/// Options that belong to the store's URL and can be written behind `-o` as well, by our name or s3fs's, with
/// the URL's name of each.
const STORE_OPTIONS: &[(&str, &str)] = &[
    ("endpoint", "endpoint"),
    ("endpoint-url", "endpoint"),
    ("url", "endpoint"),
    ("region", "region"),
    ("profile", "profile"),
    ("path_style", "path_style"),
    ("use_path_request_style", "path_style"),
    ("force-path-style", "path_style"),
    ("anonymous", "anonymous"),
    ("public_bucket", "anonymous"),
    ("no-sign-request", "anonymous"),
    ("requester_pays", "requester_pays"),
    ("requester-pays", "requester_pays"),
    ("sse", "sse"),
    ("storage_class", "storage_class"),
    ("storage-class", "storage_class"),
    ("ca", "ca"),
    ("passwd_file", "passwd_file"),
];

/// Options that mount(8) hands to every helper and that mean nothing here. They are words of fstab(5), then
/// ways to count times of access, of which an object has none. The last ones come from /proc/mounts at a
/// remount: there the kernel describes the mount.
const IGNORED: &[&str] = &[
    "defaults",
    "_netdev",
    "auto",
    "noauto",
    "nofail",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nogroup",
    "comment",
    "helper",
    "uhelper",
    "diratime",
    "nodiratime",
    "strictatime",
    "nostrictatime",
    "norelatime",
    "lazytime",
    "nolazytime",
    "silent",
    "loud",
    "remount",
    "user_id",
    "group_id",
    "rootmode",
    "max_read",
    "blksize",
];
/// Options of other programs, with ours for the same purpose, whose names are too different to be found by
/// their spelling.
const ELSEWHERE: &[(&str, &str)] = &[
    ("sync", "flush=bucket"),
    ("dirsync", "flush=bucket"),
    ("use_cache", "cache"),
    ("allow_root", "allow_other"),
    ("mp_umask", "umask"),
    ("entry_timeout", "metadata_ttl"),
    ("attr_timeout", "metadata_ttl"),
    ("negative_timeout", "negative_metadata_ttl"),
    ("host", "endpoint"),
    ("use_sse", "sse"),
];

/// State of the written bytes for which close(2) and fsync(2) wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Flush {
    /// The object must be stored.
    #[default]
    Bucket,
    /// The bytes are on this host's disk; write-back sends them.
    Local,
}

/// Setting of the read cache, which keeps what is read on this host's disk, by etag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cache {
    #[default]
    Off,
    /// The cache is as large as the daemon's setting says.
    On,
    /// The cache has so many bytes, if no daemon with a cache of another size serves the mount.
    Bytes(u64),
}

/// Options by which a mount behaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOptions {
    pub read_only: bool,
    pub flush: Flush,
    /// Owner shown for objects that carry none.
    pub uid: u32,
    pub gid: u32,
    /// Permission bits shown for objects that carry none.
    pub file_mode: u32,
    pub dir_mode: u32,
    /// Users other than the one who mounts may enter.
    pub allow_other: bool,
    /// True if mode, owner and times of an object are taken from a few objects of its directory
    /// (`metadata_sample`) instead of asked for.
    pub sampled: bool,
    pub ttl: Duration,
    pub negative_ttl: Duration,
    pub deadline: Duration,
    pub cache: Cache,
    /// The mount may cover a folder that has something in it. Its contents are not seen until the bucket is
    /// unmounted.
    pub non_empty: bool,
    /// Earlier versions are shown below `.versions` in each directory.
    pub versions: bool,
    /// Name of the mount in /proc/mounts; the store's URL when absent.
    pub fsname: Option<String>,
    /// Flags that are passed on to the kernel: `noexec`, `nosuid`, `nodev`, `noatime`.
    pub kernel: Vec<KernelFlag>,
}

/// Mount flags that the kernel itself understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelFlag {
    NoExec,
    NoSuid,
    NoDev,
    NoAtime,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            read_only: false,
            flush: Flush::Bucket,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            file_mode: 0o644,
            dir_mode: 0o755,
            allow_other: false,
            sampled: false,
            ttl: TTL,
            negative_ttl: TTL,
            deadline: DEADLINE,
            cache: Cache::Off,
            non_empty: false,
            versions: false,
            fsname: None,
            kernel: vec![KernelFlag::NoSuid, KernelFlag::NoDev],
        }
    }
}

fn usage(what: String) -> Error {
    Error::new(Kind::Usage, what)
}

/// Returns a user's or group's number, given as a number or as a name that has one in `file`.
fn account(
    name: &str,
    value: Option<&str>,
    (file, look_up): (&str, impl Fn(&str) -> Option<u32>),
) -> Result<u32> {
    let value = value.unwrap_or_default();
    // Numbers are digits alone, as for chown(1).
    let number = value.bytes().all(|digit| digit.is_ascii_digit()).then(|| value.parse().ok()).flatten();
    number.or_else(|| look_up(value).filter(|_| !value.is_empty())).ok_or_else(|| {
        usage(format!(
            "mount option {name}={value:?}: {file} has no such name; write one that it has or a number, as in {name}=1000"
        ))
    })
}

fn octal(name: &str, value: Option<&str>) -> Result<u32> {
    let value = value.unwrap_or_default();
    let bits = u32::from_str_radix(value, 8).ok().filter(|m| *m <= 0o7777);
    bits.ok_or_else(|| {
        usage(format!("mount option {name}={value:?}: write permission bits in octal, as in {name}=0027"))
    })
}

fn seconds(name: &str, value: Option<&str>, max: Duration) -> Result<Duration> {
    let value = value.unwrap_or_default();
    let secs = value.parse::<f64>().ok().filter(|s| s.is_finite() && (0.0..=max.as_secs_f64()).contains(s));
    let secs = secs.ok_or_else(|| {
        usage(format!("mount option {name}={value:?}: write seconds from 0 to {}", max.as_secs()))
    })?;
    Ok(Duration::from_secs_f64(secs))
}

/// Returns the meaning of `value`, which must be one of two words.
fn either<T: Copy>(name: &str, value: Option<&str>, words: [(&str, T); 2]) -> Result<T> {
    let found = words.iter().find(|(word, _)| value == Some(*word)).map(|(_, meaning)| *meaning);
    let ((one, _), (other, _), value) = (words[0], words[1], value.unwrap_or_default());
    let said = || usage(format!("mount option {name}={value:?}: write {name}={one} or {name}={other}"));
    found.ok_or_else(said)
}

fn cache(value: Option<&str>) -> Result<Cache> {
    match value {
        None | Some("on") => Ok(Cache::On),
        Some("off") => Ok(Cache::Off),
        Some(size) => Ok(parse_size(size)
            .map_err(|e| e.context("mount option cache"))
            .map(|n| if n == 0 { Cache::Off } else { Cache::Bytes(n) })?),
    }
}

/// Text of `windlass mount --help` about the options behind `-o`.
pub const HELP: &str = "\
Options behind -o (docs/reference.md says more of each):
  flush=bucket              close and fsync return when the object is stored (default)
  flush=local               ... when this host's disk has the bytes, which are sent in the background
  ro                        nothing can be changed
  uid=N, gid=N              owner of objects that carry none, by number or name
  umask=M, file_mode=M, dir_mode=M
                            permission bits of objects that carry none, octal
  allow_other               users beside the one who mounts may enter
  attributes=exact          stat shows the mode, owner and times of each object, a request a name (default)
  attributes=sampled        ... three objects of a directory tell of the others where they carry only defaults
  metadata_ttl=SECONDS, negative_metadata_ttl=SECONDS
                            how long names and attributes, or absent names, are believed (5)
  cache, cache=SIZE         what is read is kept on this host's disk
  deadline=SECONDS          longest wait for one request of the store (60)
  versions                  each directory has a .versions with earlier versions
  endpoint=URL, region=R, profile=P, path_style, anonymous, requester_pays, sse=S, storage_class=C, ca=FILE,
  passwd_file=FILE          of the store, as in its URL
  nonempty                  the folder may have something in it, which is not seen while the bucket is mounted
  fsname=NAME, noexec, noatime, suid, dev
                            as for other filesystems";

impl MountOptions {
    /// Reads the text behind `-o` (commas between options; `\,` is a comma inside one). What belongs to the store
    /// comes back beside it, under the names of a store URL's parameters.
    pub fn parse(text: &str) -> Result<(MountOptions, Vec<(String, String)>)> {
        let mut options = MountOptions::default();
        let mut store = Vec::new();
        let (mut umask, mut modes) = (None, (false, false));
        for option in split(text) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option.as_str(), None),
            };
            if name.is_empty() || IGNORED.contains(&name) || name.starts_with("x-") || name.starts_with("X-")
            {
                continue;
            }
            modes.0 |= matches!(name, "file_mode" | "file-mode");
            modes.1 |= matches!(name, "dir_mode" | "dir-mode");
            if let Some((_, canonical)) = STORE_OPTIONS.iter().find(|(n, _)| *n == name) {
                store.push(((*canonical).to_owned(), value.unwrap_or("true").to_owned()));
            } else if name == "umask" {
                umask = Some(octal(name, value)?);
            } else if !options.set(name, value)? {
                return Err(unknown(name));
            }
        }
        if let Some(umask) = umask {
            // As everywhere, it takes from what is open to all.
            options.file_mode = if modes.0 { options.file_mode } else { 0o666 } & !umask;
            options.dir_mode = if modes.1 { options.dir_mode } else { 0o777 } & !umask;
        }
        Ok((options, store))
    }

    /// Sets one option; returns false for a name that isn't one of ours.
    fn set(&mut self, name: &str, value: Option<&str>) -> Result<bool> {
        match name {
            "ro" | "read-only" => self.read_only = true,
            "rw" => self.read_only = false,
            "flush" => {
                self.flush = either(name, value, [("bucket", Flush::Bucket), ("local", Flush::Local)])?
            }
            "uid" => self.uid = account(name, value, ("/etc/passwd", |it| Accounts::load().user_named(it)))?,
            "gid" => self.gid = account(name, value, ("/etc/group", |it| Accounts::load().group_named(it)))?,
            "file_mode" | "file-mode" => self.file_mode = octal(name, value)?,
            "dir_mode" | "dir-mode" => self.dir_mode = octal(name, value)?,
            "allow_other" | "allow-other" => self.allow_other = true,
            "attributes" => self.sampled = either(name, value, [("exact", false), ("sampled", true)])?,
            "metadata-ttl" | "metadata_ttl" | "stat_cache_expire" => {
                self.ttl = seconds(name, value, TTL_MAX)?;
                self.negative_ttl = self.ttl;
            }
            "negative-metadata-ttl" | "negative_metadata_ttl" => {
                self.negative_ttl = seconds(name, value, TTL_MAX)?
            }
            "deadline" => {
                self.deadline =
                    seconds(name, value, Duration::from_secs(110))?.max(Duration::from_millis(100));
            }
            "cache" => self.cache = cache(value)?,
            "nonempty" => self.non_empty = true,
            "versions" => self.versions = true,
            "fsname" => self.fsname = value.map(str::to_owned),
            "noexec" => self.kernel.push(KernelFlag::NoExec),
            "nosuid" => self.kernel.push(KernelFlag::NoSuid),
            "nodev" => self.kernel.push(KernelFlag::NoDev),
            "noatime" => self.kernel.push(KernelFlag::NoAtime),
            "suid" => self.kernel.retain(|f| *f != KernelFlag::NoSuid),
            "dev" => self.kernel.retain(|f| *f != KernelFlag::NoDev),
            // mountpoint-s3 wants these said; here they always hold.
            "allow-delete" | "allow-overwrite" => {}
            "exec" => self.kernel.retain(|f| *f != KernelFlag::NoExec),
            "atime" | "relatime" => self.kernel.retain(|f| *f != KernelFlag::NoAtime),
            "async" | "default_permissions" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Returns the error for an unknown option, with the one that was probably meant.
fn unknown(name: &str) -> Error {
    let elsewhere = ELSEWHERE.iter().find(|(word, _)| *word == name).map(|(_, ours)| *ours);
    let of_stores = STORE_OPTIONS.iter().map(|(word, _)| *word);
    let words: Vec<_> = names().chain(of_stores).chain(IGNORED.iter().copied()).collect();
    let why = match elsewhere.or_else(|| nearest_word(name, &words)) {
        Some(meant) => format!("; did you mean `{meant}`? `windlass mount --help` lists all"),
        None => ": `windlass mount --help` lists all".to_owned(),
    };
    usage(format!("there is no mount option {name:?}{why}"))
}

/// Returns the names that `HELP` lists.
fn names() -> impl Iterator<Item = &'static str> {
    let lines = HELP.lines().skip(1).filter_map(|line| line.strip_prefix("  "));
    let words =
        lines.filter(|line| !line.starts_with(' ')).map(|line| line.split("   ").next().unwrap_or(line));
    let names = words.flat_map(|words| words.split(','));
    names.map(|word| word.trim().split('=').next().unwrap_or(word).trim()).filter(|name| !name.is_empty())
}

/// Splits at commas that no backslash protects.
fn split(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ',' => out.push(String::new()),
            '\\' => out.last_mut().expect("never empty").push(chars.next().unwrap_or('\\')),
            c => out.last_mut().expect("never empty").push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_help_lists_there_is() {
        let words = HELP.lines().skip(1).filter_map(|l| l.strip_prefix("  ").filter(|l| !l.starts_with(' ')));
        let mut seen = 0;
        for option in words.flat_map(|l| l.split("   ").next().unwrap_or_default().split(", ")) {
            let value = |n: &str| {
                match n {
                    "SIZE" => "1G",
                    "M" => "022",
                    "N" | "SECONDS" => "7",
                    _ => n.trim(),
                }
                .to_owned()
            };
            let text = match option.trim().split_once('=') {
                Some((name, n)) => format!("{name}={}", value(n)),
                None => option.trim().to_owned(),
            };
            assert!(MountOptions::parse(&text).is_ok(), "{text}");
            seen += 1;
        }
        assert_eq!(seen, 33);
    }

    #[test]
    fn options_are_read_and_unknown_ones_named() {
        let (o, store) = MountOptions::parse(
            "rw,_netdev,uid=7,gid=8,umask=027,file_mode=0666,allow_other,url=http://h:1,x-systemd.automount",
        )
        .unwrap();
        assert_eq!((o.uid, o.gid, o.file_mode, o.dir_mode, o.allow_other), (7, 8, 0o640, 0o750, true));
        let (o, _) = MountOptions::parse("umask=0").unwrap();
        assert_eq!((o.file_mode, o.dir_mode), (0o666, 0o777), "open to all");
        assert_eq!(store, [("endpoint".to_owned(), "http://h:1".to_owned())]);
        let (o, _) =
            MountOptions::parse("ro,stat_cache_expire=1,negative_metadata_ttl=0.5,fsname=a\\,b").unwrap();
        assert!(o.read_only);
        assert_eq!((o.ttl.as_millis(), o.negative_ttl.as_millis()), (1000, 500));
        assert_eq!(o.fsname.unwrap(), "a,b");
        assert!(!o.versions && MountOptions::parse("versions").unwrap().0.versions);
        for bad in [
            "nonsense",
            "uid=no such user",
            "gid=",
            "uid=-1",
            "umask=9",
            "file_mode=77777",
            "stat_cache_expire=-1",
            "deadline=111",
            "fmask=1",
            "flush=never",
            "attributes=some",
        ] {
            let e = MountOptions::parse(bad).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage, "{bad}");
            assert!(e.to_string().contains(bad.split('=').next().unwrap()), "{e}");
        }
        assert_eq!(MountOptions::parse("").unwrap().0, MountOptions::default());
    }

    #[test]
    fn what_people_type_is_known_or_gets_the_nearest_word() {
        let parse = |text: &str| MountOptions::parse(text).map(|(options, _)| options);
        assert_eq!(parse("defaults,_netdev,nofail,group").unwrap(), MountOptions::default());
        let of_fstab =
            "user,noauto,x-systemd.automount,X-mount.mkdir,comment=mine,nodiratime,norelatime,lazytime";
        assert_eq!(parse(of_fstab).unwrap(), MountOptions::default());
        let other = parse("uid=root,allow_other,nonempty").unwrap();
        assert_eq!((other.uid, other.allow_other, other.non_empty), (0, true, true));
        assert!(parse("nonempty").unwrap().non_empty && !MountOptions::default().non_empty);
        let root = parse("uid=root,gid=root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        for (typed, meant) in [
            ("nonemty", "nonempty"),
            ("allow_others", "allow_other"),
            ("metadata-tll=3", "metadata_ttl"),
            ("fs_name=a", "fsname"),
            ("user_id_of=3", "`windlass mount --help`"),
            ("nofial", "`nofail`"),
            ("_netdv", "`_netdev`"),
            ("storage_clas=X", "`storage_class`"),
            ("use_cache=/tmp", "`cache`"),
            ("sync", "`flush=bucket`"),
            ("big_writes", ": `windlass mount --help` lists all"),
        ] {
            let why = parse(typed).unwrap_err().to_string();
            assert!(why.contains("there is no mount option") && why.contains(meant), "{why}");
        }
    }
}
