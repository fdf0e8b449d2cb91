//! What the driver uses of its host: the clock, tasks, programs, the table of mounts, devices.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::status::{Code, Result, Status};

// ---- clock and tasks: the driver is no part of the simulation ----------------------------------------------------------

#[allow(clippy::disallowed_methods, reason = "the driver is no part of the simulation")]
pub fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "the driver is no part of the simulation")]
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

/// Carries a task out to its end, even when nobody waits for it any more. `None` when it panics.
#[allow(clippy::disallowed_methods, reason = "the driver is no part of the simulation")]
pub async fn outlive<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Option<T> {
    tokio::spawn(task).await.ok()
}

#[allow(clippy::disallowed_methods, reason = "the driver is no part of the simulation")]
pub async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

#[allow(clippy::disallowed_methods, reason = "the driver is no part of the simulation")]
pub async fn within<T>(time: Duration, task: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, task).await.ok()
}

/// Returns a number that nobody draws twice.
pub fn random128() -> Result<u128> {
    const KERNELS: &str = "/proc/sys/kernel/random/uuid";
    let drawn = std::fs::read_to_string(KERNELS).ok();
    let number = drawn.and_then(|text| u128::from_str_radix(&text.trim().replace('-', ""), 16).ok());
    number.ok_or_else(|| Status::internal(format!("{KERNELS} gives no number")))
}

/// Returns the time in ms since 1970.
#[allow(clippy::disallowed_methods, reason = "the driver is no part of the simulation")]
pub fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Names of volumes that a call is at work on. Orchestrators repeat calls that take long, while the first one
/// goes on.
#[derive(Clone, Default)]
pub struct Busy(Arc<Mutex<BTreeSet<String>>>);

/// A call's hold on a volume; dropping it lets go.
#[must_use]
pub struct Held {
    busy: Busy,
    name: String,
}

impl Busy {
    /// Holds a volume. `Aborted` while another call has it: the orchestrator comes again then.
    pub fn hold(&self, name: impl Into<String>) -> Result<Held> {
        let name = name.into();
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
            true => Ok(Held { busy: self.clone(), name }),
            false => Err(Status::new(Code::Aborted, format!("another call for {name} is being carried out"))),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.busy.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

// ---- programs ----------------------------------------------------------------------------------------------------------

/// Runs a program to its end, whatever its exit code.
pub async fn output(program: &Path, args: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    let shown = || format!("{} {}", program.display(), args.join(" "));
    let mut command = Command::new(program);
    command.args(args).envs(environment.iter().copied()).stdin(Stdio::null());
    tracing::debug!(command = shown(), "running");
    command.output().await.map_err(|e| Status::internal(format!("{}: {e}", shown())))
}

/// Runs a program, which must succeed, and returns what it printed.
pub async fn run(program: &str, args: &[&str]) -> Result<String> {
    let done = output(Path::new(program), args, &[]).await?;
    match done.status.success() {
        true => Ok(text(&done.stdout)),
        false => Err(Status::internal(format!("{program} {}: {}", args.join(" "), complaint(&done)))),
    }
}

/// Returns why a program failed, in its own words.
pub fn complaint(done: &Output) -> String {
    let said = [text(&done.stderr), text(&done.stdout)].into_iter().find(|said| !said.is_empty());
    let said = said.unwrap_or_else(|| "it said nothing".to_owned()).replace('\n', "; ");
    match done.status.code() {
        Some(code) => format!("{said} (exit code {code})"),
        None => format!("{said} (ended by a signal)"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

// ---- mounts ------------------------------------------------------------------------------------------------------------

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `MAJOR:MINOR` of the filesystem.
    pub device: String,
    /// Part of the filesystem that is shown there: `/` unless a folder or file of it is bound.
    pub root: String,
    pub at: PathBuf,
    /// This mount can only be read; the filesystem's own options say whether it can be written elsewhere.
    pub read_only: bool,
}

/// Returns all mounts that the driver sees.
pub fn mounts() -> Result<Vec<Mount>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo");
    Ok(parsed(&table.map_err(|e| Status::internal(format!("reading /proc/self/mountinfo: {e}")))?))
}

fn parsed(table: &str) -> Vec<Mount> {
    let one = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let (device, root, at) = (fields.next()?, fields.next()?, fields.next()?);
        let options = fields.next()?;
        Some(Mount {
            device: device.to_owned(),
            root: unescaped(root),
            at: unescaped(at).into(),
            read_only: options.split(',').any(|option| option == "ro"),
        })
    };
    table.lines().filter_map(one).collect()
}

/// Decodes a field of the table, in which blanks and the like are written as `\040`.
fn unescaped(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
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

/// Returns the mount at a path: the last of several, which is on top.
pub fn mounted_at(path: &Path) -> Result<Option<Mount>> {
    // Of a path that is not there, or whose server is gone, the text is all there is.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    Ok(mounts()?.into_iter().rev().find(|mount| mount.at == path))
}

/// Unmounts all that is mounted at a path, if anything is.
pub async fn unmount(path: &Path) -> Result<()> {
    while mounted_at(path)?.is_some() {
        run("umount", &["--", utf8(path)?]).await.map_err(|e| Status::internal(e.message))?;
    }
    Ok(())
}

/// Returns a path as programs and messages take it.
pub fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Status::invalid(format!("{} is no UTF-8", path.display())))
}

// ---- devices -----------------------------------------------------------------------------------------------------------

/// Returns `MAJOR:MINOR` of a block device; `None` for anything else.
pub fn number_of(device: &Path) -> Option<String> {
    let meta = std::fs::metadata(device).ok().filter(|meta| meta.file_type().is_block_device())?;
    let number = meta.rdev();
    Some(format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number)))
}

/// Fills the buffer with what a device has there.
#[allow(clippy::disallowed_types, reason = "a device; nothing here runs in the simulation")]
pub fn read_at(device: &Path, offset: u64, bytes: &mut [u8]) -> Result<()> {
    let read = std::fs::File::open(device).and_then(|file| file.read_exact_at(bytes, offset));
    read.map_err(|e| Status::internal(format!("reading {}: {e}", device.display())))
}

/// Returns the size of a block device in bytes, by its number.
pub fn size_of(number: &str) -> Result<u64> {
    let path = format!("/sys/dev/block/{number}/size");
    let sectors = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    sectors.map(|sectors| sectors * 512).ok_or_else(|| Status::internal(format!("{path} tells no size")))
}

/// Tells whether the kernel takes no writes to a block device, by its number.
pub fn is_read_only(number: &str) -> Result<bool> {
    let path = format!("/sys/dev/block/{number}/ro");
    match std::fs::read_to_string(&path).as_deref().map(str::trim) {
        Ok("0") => Ok(false),
        Ok("1") => Ok(true),
        _ => Err(Status::internal(format!("{path} does not tell whether the device can be written"))),
    }
}

/// Makes a device read-only or writable for those who open it from now on. The kernel keeps this with the
/// device node, over a detach and an attach of another disk. A device that was attached to be read stays so.
pub async fn set_read_only(device: &Path, read_only: bool) -> Result<()> {
    let how = if read_only { "--setro" } else { "--setrw" };
    run("blockdev", &[how, utf8(device)?]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_mounts_is_read() {
        let table = "26 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
            90 26 43:0 / /var/lib/a\\040b/globalmount rw - ext4 /dev/nbd0 rw\n\
            91 26 43:0 / /pods/target ro,noatime master:3 - ext4 /dev/nbd0 rw\n\
            92 26 0:6 /nbd0 /pods/block rw - devtmpfs dev rw\n\nodd\n";
        let found = parsed(table);
        assert_eq!(found.len(), 4);
        assert_eq!(found[1].at, Path::new("/var/lib/a b/globalmount"));
        assert_eq!((found[1].device.as_str(), found[1].read_only), ("43:0", false));
        assert!(found[2].read_only);
        assert_eq!((found[3].root.as_str(), found[3].device.as_str()), ("/nbd0", "0:6"));
        assert_eq!(unescaped(r"a\134b\0"), r"a\b\0");
    }

    #[test]
    fn a_volume_is_held_by_one_call() {
        let busy = Busy::default();
        let held = busy.hold("tank/a").unwrap();
        assert!(busy.hold("tank/a").err().unwrap().is(Code::Aborted));
        let _other = busy.hold("tank/b").unwrap();
        drop(held);
        let _again = busy.hold("tank/a").unwrap();
    }

    #[tokio::test]
    async fn programs_say_why_they_fail() {
        assert_eq!(run("echo", &["a b"]).await.unwrap(), "a b");
        let failed = run("sh", &["-c", "echo one >&2; echo two >&2; exit 3"]).await.unwrap_err();
        assert_eq!(failed.message, "sh -c echo one >&2; echo two >&2; exit 3: one; two (exit code 3)");
        assert!(run("/no/such/program", &[]).await.unwrap_err().message.starts_with("/no/such/program"));
    }
}
