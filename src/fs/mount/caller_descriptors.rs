//! The processes that call: what /proc tells of them.
// The kernel's side of a mount: nothing here is simulated.

use std::path::Path;

/// Descriptors that are looked at.
const MANY: usize = 4096;

/// Whether the process that is closing a file below `dir`, of this number, has it open for writing still, as another
/// descriptor. False where that can't be told.
pub fn has_open(pid: u32, ino: u64, dir: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let Ok(all) = std::fs::read_dir(process.join("fdinfo")) else { return false };
    all.take(MANY).flatten().any(|one| {
        std::fs::read_to_string(one.path()).is_ok_and(|info| is_of(&info, ino))
            && std::fs::read_link(process.join("fd").join(one.file_name()))
                .is_ok_and(|at| at.starts_with(dir))
    })
}

/// The text of /proc/PID/fdinfo/N is of a descriptor for writing of a file with this number.
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
}
