//! Segment files: their names, how they are made and zeroed.

use std::path::Path;

use bytes::Bytes;

use super::state::{Segment, ZEROS};
use windlass_base::rt::{Disk, DiskFile, OpenHow};
use windlass_base::{Result, ResultExt as _};

/// Bytes of zeros that one write has.
const ZERO_WRITE: u64 = 1 << 20;
/// Bytes of zeros between two syncs. Others use that disk meanwhile, so that both are small.
const ZERO_SYNC: u64 = 8 << 20;
pub fn segment_name(number: u64) -> String {
    format!("segment-{number:08}")
}

pub fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix("segment-")?.parse().ok()
}

/// Makes a segment: allocated, written with zeros (so that later syncs change no metadata), and durable.
pub async fn make_segment(disk: &dyn Disk, dir: &Path, number: u64, bytes: u64) -> Result<Segment> {
    let name = segment_name(number);
    let path = dir.join(&name);
    let doing = || format!("making {} of {bytes} bytes for a journal", path.display());
    let make = async {
        let file = disk.open_log(&path, OpenHow::Create).await?;
        file.allocate(0, bytes).await?;
        zero(&*file, 0, bytes).await?;
        disk.sync_dir(dir).await?;
        Ok::<_, std::io::Error>(file)
    };
    match make.await {
        Ok(file) => Ok(Segment { name, file, bytes }),
        Err(e) => {
            // Half a segment only takes space; the next start would remove it as well.
            let _ = disk.remove(&path).await;
            Err(e).context(doing)
        }
    }
}

/// Writes zeros from `from` up to `to`, durable on return.
pub async fn zero(file: &dyn DiskFile, from: u64, to: u64) -> std::io::Result<()> {
    let mut at = from;
    while at < to {
        let n = (to - at).min(ZERO_WRITE);
        let parts = (0..n).step_by(ZEROS.len()).map(|done| {
            let len = (n - done).min(ZEROS.len() as u64) as usize;
            Bytes::from_static(&ZEROS[..len])
        });
        let sync = at / ZERO_SYNC != (at + n) / ZERO_SYNC || at + n == to;
        file.pwrite(at, parts.collect(), sync).await?;
        at += n;
    }
    Ok(())
}
