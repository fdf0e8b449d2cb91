//! A volume that is written through its export.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::cli::reach_engine::Door;
use crate::daemon::api::VolumePath;
use windlass_base::{Kind, Result};
use windlass_image::Target;
use windlass_nbd::Client;

/// Name of the NBD context that tells where an export has data.
const ALLOCATION: &str = "base:allocation";
/// Flag of an extent that reads as zeros.
const ZERO: u32 = 2;
/// Most bytes of a request that carries no data.
const RANGE_MAX: u64 = 1 << 30;
/// Attempts to get a volume for which an earlier run's client may still be counted; `PAUSE` lies between
/// them.
pub const ATTEMPTS: u32 = 30;
pub const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct NbdTarget(pub Client);

impl NbdTarget {
    /// Connects to the volume. Nobody else uses it as long as the connection lasts.
    pub async fn open(door: &Door, path: &VolumePath) -> Result<NbdTarget> {
        let mut attempt = 0;
        loop {
            match door.export_alone(path, &[ALLOCATION]).await {
                Err(error) if error.is(Kind::Refused) && attempt < ATTEMPTS => attempt += 1,
                opened => return opened.map(NbdTarget),
            }
            door.rt().sleep(PAUSE).await;
        }
    }
}

#[async_trait]
impl Target for NbdTarget {
    async fn read(&self, offset: u64, len: u64) -> Result<Bytes> {
        self.0.read(offset, len as u32).await
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.0.write(offset, data, false).await
    }

    async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let part = RANGE_MAX.min(end - at);
            self.0.write_zeroes(at, part as u32, false, false).await?;
            at += part;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }

    async fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        let (mut at, mut data) = (range.start, Vec::<Range<u64>>::new());
        while at < range.end {
            for extent in self.0.extents(ALLOCATION, at, RANGE_MAX.min(range.end - at) as u32).await? {
                let end = (at + extent.len).min(range.end);
                if extent.flags & ZERO == 0 && at < end {
                    match data.last_mut() {
                        Some(last) if last.end == at => last.end = end,
                        _ => data.push(at..end),
                    }
                }
                at = end;
            }
        }
        Ok(data)
    }
}
