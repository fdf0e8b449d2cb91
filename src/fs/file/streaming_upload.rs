//! The parts of a large new file leave for the bucket while it is still being written.
//!
//! A part that is written to again after it left is spoiled: it is sent once more at the end, under the same number,
//! when what left before has ended: of two requests for one number the last to end is the part.
//! A file whose parts are spoiled again and again is no stream: the rest waits for the end.

use std::ops::Range;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

use super::context::MountContext;
use super::part_plan::on_grid;
use crate::base::{Error, Result};
use crate::fs::staging::Stage;
use crate::store::{Attrs, Part};

/// A file begins to leave when it is so long.
pub const BEGIN: u64 = 24 << 20;
/// Parts of one file on their way before its end.
const AT_ONCE: usize = 4;
const SPOILED_MAX: usize = 8;

type Sending = Shared<BoxFuture<'static, Result<Part, Arc<Error>>>>;

#[derive(Clone)]
struct Begun {
    range: Range<u64>,
    spoiled: bool,
    sending: Sending,
}

/// A multipart upload under way. Dropping it leaves it: it is completed, aborted, or found by the next mount.
pub struct StreamingUpload {
    pub upload: String,
    /// What the object will carry: S3 wants to know first.
    pub attrs: Attrs,
    begun: Vec<Begun>,
}

impl std::fmt::Debug for StreamingUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamingUpload({}, {} parts)", self.upload, self.begun.len())
    }
}

impl StreamingUpload {
    pub async fn begin(e: &MountContext, key: &str, attrs: Attrs) -> Result<StreamingUpload> {
        let upload = e.remote.begin(key, &attrs).await?;
        Ok(StreamingUpload { upload, attrs, begun: Vec::new() })
    }

    /// These bytes of the file are others now.
    pub fn spoil(&mut self, range: &Range<u64>) {
        for begun in &mut self.begun {
            begun.spoiled |= begun.range.start < range.end && range.start < begun.range.end;
        }
    }

    /// Sends what is whole of a file that has `size` bytes, all of them staged.
    pub fn advance(&mut self, e: &MountContext, key: &str, stage: &Stage, size: u64) {
        loop {
            let range = on_grid(self.begun.last().map_or(0, |b| b.range.end));
            let on_the_way = self.begun.iter().filter(|b| b.sending.clone().now_or_never().is_none()).count();
            let spoiled = self.begun.iter().filter(|b| b.spoiled).count();
            if range.end > size || on_the_way >= AT_ONCE || spoiled > SPOILED_MAX {
                return;
            }
            let number = self.begun.len() as u32 + 1;
            let (key, upload, stage, at) =
                (key.to_owned(), self.upload.clone(), stage.clone(), range.clone());
            let (remote, memory) = (e.remote.clone(), e.uploads.clone());
            let task = e.rt.spawn(async move {
                let _held = memory.take(at.end - at.start).await;
                let body = stage.read(at.start, (at.end - at.start) as usize).await?;
                remote.part(&key, &upload, number, body).await
            });
            let sending = async move { task.await.flatten().map_err(Arc::new) }.boxed().shared();
            self.begun.push(Begun { range, spoiled: false, sending });
        }
    }

    /// Returns when none of its parts is on its way any more.
    pub async fn ended(&self) {
        for begun in &self.begun {
            let _ = begun.sending.clone().await;
        }
    }

    /// The part of this number, if it left with just these bytes and arrived. Nothing is on its way under this number any
    /// more: it may be sent again.
    pub async fn part(&self, number: u32, range: &Range<u64>) -> Option<Part> {
        let begun = self.begun.get(number as usize - 1)?;
        let sent = begun.sending.clone().await.ok();
        sent.filter(|_| begun.range == *range && !begun.spoiled)
    }
}
