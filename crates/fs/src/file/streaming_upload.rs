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
use crate::staging::Stage;
use windlass_base::{Error, Result};
use windlass_store::{Attrs, Part};

/// Size from which on a file begins to leave, in bytes.
pub const BEGIN: u64 = 24 << 20;
/// Largest number of a file's parts on their way before its end.
const AT_ONCE: usize = 4;
const SPOILED_MAX: usize = 8;

type Sending = Shared<BoxFuture<'static, Result<Part, Arc<Error>>>>;

#[derive(Clone)]
struct Begun {
    range: Range<u64>,
    spoiled: bool,
    sending: Sending,
}

/// A multipart upload under way. Dropping it leaves the upload in the bucket: it is completed, aborted, or
/// found by the next mount.
#[derive(Clone)]
pub struct StreamingUpload {
    pub upload: String,
    /// Metadata that the object will carry: S3 wants to know them first.
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

    /// Marks the parts in this range as spoiled: these bytes of the file are others now.
    pub fn spoil(&mut self, range: &Range<u64>) {
        for begun in &mut self.begun {
            begun.spoiled |= begun.range.start < range.end && range.start < begun.range.end;
        }
    }

    /// Sends the whole parts of a file that has `size` bytes, all of them staged.
    pub fn advance(&mut self, e: &MountContext, key: &str, stage: &Stage, size: u64) {
        loop {
            let range = on_grid(self.begun.last().map_or(0, |b| b.range.end));
            let on_the_way = self.begun.iter().filter(|b| b.sending.clone().now_or_never().is_none()).count();
            let spoiled = self.begun.iter().filter(|b| b.spoiled).count();
            if range.end > size || on_the_way >= AT_ONCE || spoiled > SPOILED_MAX {
                return;
            }
            let sending = self.send(e, key, stage, self.begun.len(), range.clone());
            self.begun.push(Begun { range, spoiled: false, sending });
        }
    }

    fn send(&self, e: &MountContext, key: &str, stage: &Stage, index: usize, at: Range<u64>) -> Sending {
        let number = index as u32 + 1;
        let (key, upload, stage) = (key.to_owned(), self.upload.clone(), stage.clone());
        let (remote, memory) = (e.remote.clone(), e.uploads.clone());
        let task = e.rt.spawn(async move {
            let _held = memory.take(at.end - at.start).await;
            let body = stage.read(at.start, (at.end - at.start) as usize).await?;
            remote.part(&key, &upload, number, body).await
        });
        async move { task.await.flatten().map_err(Arc::new) }.boxed().shared()
    }

    /// Sends parts again that failed, and whose bytes are as they were.
    pub fn send_failed_again(&mut self, e: &MountContext, key: &str, stage: &Stage) {
        for at in 0..self.begun.len() {
            let Begun { range, spoiled, sending } = &self.begun[at];
            if !spoiled && matches!(sending.clone().now_or_never(), Some(Err(_))) {
                let again = self.send(e, key, stage, at, range.clone());
                self.begun[at].sending = again;
            }
        }
    }

    /// Returns the offset up to which, from `start` on, the store has each part just as the file is.
    pub fn arrived(&self, start: u64) -> u64 {
        let parts = self.begun.iter().skip_while(|begun| begun.range.start < start);
        let arrived =
            |begun: &&Begun| !begun.spoiled && matches!(begun.sending.clone().now_or_never(), Some(Ok(_)));
        parts.take_while(arrived).last().map_or(start, |begun| begun.range.end)
    }

    /// Returns a future that waits until a part on its way has ended; `None` where no part is.
    pub fn next_end(&self) -> Option<impl Future<Output = ()> + use<>> {
        let sending = self.begun.iter().map(|begun| begun.sending.clone());
        let next = sending.into_iter().find(|sending| sending.clone().now_or_never().is_none())?;
        Some(next.map(drop))
    }

    /// Returns when none of the parts is on its way any more.
    pub async fn ended(&self) {
        for begun in &self.begun {
            let _ = begun.sending.clone().await;
        }
    }

    /// Returns the part of this number, if it left with just these bytes and arrived. Nothing is on its way
    /// under this number any more: it may be sent again.
    pub async fn part(&self, number: u32, range: &Range<u64>) -> Option<Part> {
        let begun = self.begun.get(number as usize - 1)?;
        let sent = begun.sending.clone().await.ok();
        sent.filter(|_| begun.range == *range && !begun.spoiled)
    }
}
