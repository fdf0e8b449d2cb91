//! The forms an image leaves in: raw, qcow2, rbd-diff.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use std::sync::Arc;

use super::diff_lineage::Between;
use super::export::{Origin, Part, Sink, portions};
use super::output::Output;
use super::portion_plan::Class;
use super::qcow2_writer::{CLUSTER, Shape, Totals, Writer};
use super::rbd_diff_codec::{Header, Record};
use windlass_base::{Error, Kind, Result};

/// A sink for raw images: the bytes as they are. Zeros are left out where the output allows it.
pub struct Raw {
    out: Output,
    size: u64,
}

impl Raw {
    /// Prepares the output for an image of `size` bytes. A file that can't become so long is an error here,
    /// not after all was read.
    pub async fn new(mut out: Output, size: u64) -> Result<Raw> {
        out.begin(size).await?;
        Ok(Raw { out, size })
    }
}

#[async_trait]
impl Sink for Raw {
    async fn take(&mut self, part: Part) -> Result<()> {
        match part.class {
            Class::Data => self.out.put(part.offset, part.data).await,
            Class::Zero => self.out.zero(part.offset, part.len).await,
            Class::Unchanged => {
                Err(Error::new(Kind::Internal, "a raw image has no form for what is unchanged"))
            }
        }
    }
    async fn finish(&mut self) -> Result<()> {
        self.out.end(self.size).await
    }
}

pub struct Qcow2 {
    out: Output,
    writer: Writer,
}

impl Qcow2 {
    pub fn new(out: Output, shape: Shape) -> Result<Qcow2> {
        Ok(Qcow2 { out, writer: Writer::new(shape)? })
    }

    /// Makes a sink for a stream: all places in the file are known from an earlier pass.
    pub fn laid_out(out: Output, shape: Shape, totals: Totals) -> Result<Qcow2> {
        Ok(Qcow2 { out, writer: Writer::laid_out(shape, totals)? })
    }

    async fn write(&mut self) -> Result<()> {
        for (at, bytes) in self.writer.take() {
            self.out.put(at, bytes).await?;
        }
        Ok(())
    }
}

/// Computes where the parts of a qcow2 will lie. It reads the map alone.
pub async fn lay_out(origin: Arc<dyn Origin>, shape: Shape) -> Result<Totals> {
    let mut writer = Writer::new(shape)?;
    let mut portions = std::pin::pin!(portions(origin, CLUSTER));
    while let Some(portion) = portions.try_next().await? {
        for run in portion.runs {
            match run.class {
                Class::Data => drop(writer.count(run.offset, run.len)),
                Class::Zero => writer.zeros(run.offset, run.len),
                Class::Unchanged => {}
            }
        }
        writer.take();
    }
    writer.finish()
}

#[async_trait]
impl Sink for Qcow2 {
    async fn take(&mut self, part: Part) -> Result<()> {
        match part.class {
            Class::Data if part.packed => self.writer.packed(part.offset, part.data),
            Class::Data => self.writer.data(part.offset, part.data),
            Class::Zero => self.writer.zeros(part.offset, part.len),
            Class::Unchanged => {}
        }
        self.write().await
    }
    async fn finish(&mut self) -> Result<()> {
        let totals = self.writer.finish()?;
        self.write().await?;
        self.out.end(totals.clusters * CLUSTER).await
    }
}

/// A sink for the stream of `rbd export-diff`.
pub struct RbdDiff {
    out: Output,
    at: u64,
    between: Between,
    /// Zeros are part of the stream, since the importing side holds an older state that may have data there.
    tells_zeros: bool,
    /// The run of zeros so far, as offset and length, which may go on with the next part.
    zeros: Option<(u64, u64)>,
}

impl RbdDiff {
    pub async fn new(out: Output, header: &Header, between: Between) -> Result<RbdDiff> {
        let mut sink = RbdDiff { out, at: 0, between, tells_zeros: header.from.is_some(), zeros: None };
        sink.append(header.encode()).await?;
        Ok(sink)
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        let at = self.at;
        self.at += bytes.len() as u64;
        self.out.put(at, bytes).await
    }

    async fn record(&mut self, record: Record) -> Result<()> {
        let mut bytes = BytesMut::new();
        record.put(&mut bytes);
        self.append(bytes.freeze()).await
    }

    async fn end_zeros(&mut self) -> Result<()> {
        match self.zeros.take() {
            Some((offset, len)) => self.record(Record::Zero { offset, len }).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Sink for RbdDiff {
    async fn take(&mut self, part: Part) -> Result<()> {
        let Part { offset, len, .. } = part;
        if part.class == Class::Zero && self.tells_zeros {
            match &mut self.zeros {
                Some((start, before)) if *start + *before == offset => *before += len,
                zeros => *zeros = Some((offset, len)),
            }
            return Ok(());
        }
        self.end_zeros().await?;
        if part.class == Class::Data {
            self.record(Record::Write { offset, len }).await?;
            self.append(part.data).await?;
        }
        Ok(())
    }
    async fn finish(&mut self) -> Result<()> {
        self.end_zeros().await?;
        // In one piece: who reads a pipe to the end of the stream may hang up then.
        let mut end = BytesMut::new();
        Record::End.put(&mut end);
        end.extend_from_slice(&self.between.trailer());
        self.append(end.freeze()).await?;
        self.out.end(self.at).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::ByteSink;
    use super::*;
    use parking_lot::Mutex;

    /// A stream that is kept.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    #[async_trait]
    impl ByteSink for Kept {
        async fn write(&mut self, bytes: Bytes) -> Result<()> {
            self.0.lock().extend_from_slice(&bytes);
            Ok(())
        }
        async fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    fn part(offset: u64, len: u64, class: Class) -> Part {
        let data = if class == Class::Data { vec![b'x'; len as usize].into() } else { Bytes::new() };
        Part { offset, len, class, data, packed: false }
    }

    #[tokio::test]
    async fn a_raw_stream_has_zeros_where_the_image_has_holes() {
        let kept = Kept::default();
        let out = Output::Stream { to: Box::new(kept.clone()), at: 0 };
        let mut raw = Raw::new(out, 1 << 20).await.unwrap();
        for one in [(0, 4096, Class::Zero), (4096, 3, Class::Data), (4099, (1 << 20) - 4099, Class::Zero)] {
            raw.take(part(one.0, one.1, one.2)).await.unwrap();
        }
        raw.finish().await.unwrap();
        let mut wanted = vec![0; 1 << 20];
        wanted[4096..4099].fill(b'x');
        assert!(*kept.0.lock() == wanted);
        assert!(raw.take(part(0, 1, Class::Data)).await.unwrap_err().is(Kind::Internal));
    }

    #[tokio::test]
    async fn a_diff_tells_what_was_written_and_what_became_zero() {
        for from in [Some("a".to_owned()), None] {
            let kept = Kept::default();
            let out = Output::Stream { to: Box::new(kept.clone()), at: 0 };
            let header = Header { from: from.clone(), to: None, size: Some(9000) };
            let mut diff = RbdDiff::new(out, &header, Between::default()).await.unwrap();
            let parts = [
                (0, 1000, Class::Zero),
                (1000, 3000, Class::Zero),
                (4000, 1000, Class::Unchanged),
                (5000, 2, Class::Data),
                (5002, 3998, Class::Zero),
            ];
            for (offset, len, class) in parts {
                diff.take(part(offset, len, class)).await.unwrap();
            }
            diff.finish().await.unwrap();
            let mut wanted = BytesMut::from(&header.encode()[..]);
            if from.is_some() {
                Record::Zero { offset: 0, len: 4000 }.put(&mut wanted);
            }
            Record::Write { offset: 5000, len: 2 }.put(&mut wanted);
            wanted.extend_from_slice(b"xx");
            if from.is_some() {
                Record::Zero { offset: 5002, len: 3998 }.put(&mut wanted);
            }
            Record::End.put(&mut wanted);
            assert_eq!(*kept.0.lock(), wanted);
        }
    }
}
