//! Writing what lies in several places to one.

use std::io::IoSlice;
use std::os::fd::AsFd;

use rustix::io::Errno;

/// Most parts that are handed to one system call (IOV_MAX).
const PARTS_MAX: usize = 1024;

/// Writes all of the parts, one after another, from `offset` on. Errors: the system's; `EIO` of a file that takes nothing.
pub fn write_parts(file: impl AsFd, mut offset: u64, parts: &[impl AsRef<[u8]>]) -> rustix::io::Result<()> {
    for some in parts.chunks(PARTS_MAX) {
        let mut slices: Vec<IoSlice<'_>> = some.iter().map(|p| IoSlice::new(p.as_ref())).collect();
        let mut left = &mut slices[..];
        // Empty parts would look like a disk that takes nothing.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match rustix::io::pwritev(&file, left, offset) {
                Ok(0) => return Err(Errno::IO),
                Ok(n) => {
                    offset += n as u64;
                    IoSlice::advance_slices(&mut left, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}
