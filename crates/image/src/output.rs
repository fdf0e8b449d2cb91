//! Where an image is written to: a new file, a device that holds other bytes, or a stream.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use windlass_base::rt::DiskFile;
use windlass_base::units::show_size;
use windlass_base::{Error, Kind, Result};

/// A sink of bytes that are written once, in order.
#[async_trait]
pub trait ByteSink: Send {
    async fn write(&mut self, bytes: Bytes) -> Result<()>;
    async fn flush(&mut self) -> Result<()>;
}

pub enum Output {
    /// A new file. Ranges that are not written stay holes.
    File(Arc<dyn DiskFile>),
    /// A device that holds other bytes, so that zeros must be written.
    Device(Arc<dyn DiskFile>),
    /// A stream, which has come to `at`. Ranges that are skipped become zeros; nothing before `at` can be
    /// written any more.
    Stream { to: Box<dyn ByteSink>, at: u64 },
}

static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

impl Output {
    /// Prepares for an image of so many bytes.
    pub fn begin(&mut self, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self {
                Output::File(file) => Ok(file.set_len(len).await?),
                Output::Device(file) => match file.size().await? {
                    room if room >= len => Ok(()),
                    room => Err(Error::new(
                        Kind::NoSpace,
                        format!("the device holds {}, the image has {}", show_size(room), show_size(len)),
                    )),
                },
                Output::Stream { .. } => Ok(()),
            }
        })
    }

    pub fn put(&mut self, offset: u64, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self {
                Output::File(file) | Output::Device(file) => {
                    Ok(file.pwrite(offset, vec![bytes], false).await?)
                }
                Output::Stream { .. } => {
                    self.fill(offset).await?;
                    let Output::Stream { to, at } = self else { return Ok(()) };
                    *at += bytes.len() as u64;
                    to.write(bytes).await
                }
            }
        })
    }

    /// Makes the range read as zeros.
    pub fn zero(&mut self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self {
                Output::Device(file) => Ok(file.zero(offset, len).await?),
                Output::File(_) | Output::Stream { .. } => Ok(()),
            }
        })
    }

    /// Ends the image: on return it has `len` bytes, and is durable where it can be.
    pub fn end(&mut self, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self {
                Output::File(file) => {
                    file.set_len(len).await?;
                    Ok(file.sync().await?)
                }
                Output::Device(file) => Ok(file.sync().await?),
                Output::Stream { .. } => {
                    self.fill(len).await?;
                    let Output::Stream { to, .. } = self else { return Ok(()) };
                    to.flush().await
                }
            }
        })
    }

    /// Fills a stream with zeros, up to `offset`.
    async fn fill(&mut self, offset: u64) -> Result<()> {
        let Output::Stream { to, at } = self else { return Ok(()) };
        if offset < *at {
            return Err(Error::new(Kind::Internal, format!("a stream at {at} can't go back to {offset}")));
        }
        while *at < offset {
            let n = (offset - *at).min(ZEROS.len() as u64);
            to.write(Bytes::from_static(&ZEROS[..n as usize])).await?;
            *at += n;
        }
        Ok(())
    }
}
