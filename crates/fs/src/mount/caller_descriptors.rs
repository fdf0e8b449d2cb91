//! The processes that call: what /proc tells of them.
// The kernel's side of a mount: nothing here is simulated.

use std::path::Path;

/// Number of descriptors that are looked at.
const MANY: usize = 4096;

/// Tells whether the process that is closing a file below `dir`, of this number, has it open for writing
/// still, as another descriptor. False where that can't be told.
pub fn has_open(pid: u32, ino: u64, dir: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let Ok(all) = std::fs::read_dir(process.join("fdinfo")) else { return false };
    all.take(MANY).flatten().any(|one| {
        std::fs::read_to_string(one.path()).is_ok_and(|info| is_of(&info, ino))
            && std::fs::read_link(process.join("fd").join(one.file_name()))
                .is_ok_and(|at| at.starts_with(dir))
    })
}

/// Tells whether a descriptor that a thread's process is closing is a copy that it has from another process,
/// which has the file open still. A fork copies all, and they are closed when it becomes another program.
/// `known`: threads that have opened the file or written. False where that can't be told.
pub fn is_inherited(thread: u32, known: &[u32], ino: u64, dir: &Path) -> bool {
    if known.contains(&thread) {
        return false;
    }
    let (Some(own), Some(others)) =
        (process_of(thread), known.iter().map(|known| process_of(*known)).collect::<Option<Vec<_>>>())
    else {
        return false;
    };
    // Numbers are used again: one that has the file open is the one that was meant.
    !others.contains(&own) && others.iter().any(|other| has_open(*other, ino, dir))
}

/// Returns the process to which a thread belongs; `None` for one that can't be seen.
fn process_of(thread: u32) -> Option<u32> {
    let status = std::fs::read_to_string(Path::new("/proc").join(thread.to_string()).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// Tells whether the text of /proc/PID/fdinfo/N is of a descriptor for writing of a file with this number.
fn is_of(info: &str, ino: u64) -> bool {
    let field = |name: &str| info.lines().find_map(|line| Some(line.strip_prefix(name)?.trim()));
    let flags = field("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok());
    let number = field("ino:").and_then(|number| number.parse::<u64>().ok());
    number == Some(ino) && flags.is_some_and(|flags| flags & 0o3 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_known_by_its_number_and_that_it_writes() {
        let info = "pos:\t0\nflags:\t0100001\nmnt_id:\t29\nino:\t77\n";
        assert!(is_of(info, 77));
        assert!(!is_of(info, 7));
        assert!(!is_of(&info.replace("0100001", "0100000"), 77), "it only reads");
        assert!(!is_of("pos:\t0\n", 77), "an older kernel's");
        assert!(!has_open(0, 77, Path::new("/")), "a process that can't be seen");
    }

    /// Promise: A whole object is never replaced by half of one.
    #[test]
    fn who_has_a_copy_is_told_from_who_has_opened() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
        let ino = file.as_file().metadata().unwrap().ino();
        let own = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let thread = std::thread::scope(|s| s.spawn(rustix::thread::gettid).join().unwrap());
        let thread = thread.as_raw_nonzero().get() as u32;
        let is = |closer, known: &[u32]| is_inherited(closer, known, ino, dir.path());
        assert!(is(child.id(), &[own]));
        assert!(!is(own, &[own]) && !is(own, &[child.id()]), "the other has it not open");
        assert!(!is(child.id(), &[own, child.id()]), "it has written too");
        assert!(!is(child.id(), &[own, 0]) && !is(0, &[own]), "somebody who can't be seen");
        assert!(!is(child.id(), &[own, thread]), "a thread that has ended");
        drop(file);
        assert!(!is(child.id(), &[own]), "nobody else has it");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
