//! The parts of a large new file leave for the bucket while it is still being written.
//!
//! A part that is written to again after it left is spoiled: it is sent once more at the end, under the same number,
//! when what left before has ended: of two requests for one number the last to end is the part.
//! A file whose parts are spoiled again and again is no stream: the rest waits for the end.
//!
//! On a disk that is nearly full the parts that have arrived are freed (see `room`): they are never written to again.

use std::ops::Range;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, ready, select_all};

use super::context::MountContext;
use super::part_plan::on_grid;
use crate::base::{Error, Kind, Result};
use crate::fs::staging::{FreedParts, PartsUpload, Stage, StoredPart};
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
            let sending = self.start(e, key, stage, self.begun.len() as u32 + 1, range.clone());
            self.begun.push(Begun { range, spoiled: false, sending });
        }
    }

    fn start(&self, e: &MountContext, key: &str, stage: &Stage, number: u32, at: Range<u64>) -> Sending {
        let (key, upload, stage) = (key.to_owned(), self.upload.clone(), stage.clone());
        let (remote, memory) = (e.remote.clone(), e.uploads.clone());
        let task = e.rt.spawn(async move {
            let _held = memory.take(at.end - at.start).await;
            let body = stage.read(at.start, (at.end - at.start) as usize).await?;
            remote.part(&key, &upload, number, body).await
        });
        async move { task.await.flatten().map_err(Arc::new) }.boxed().shared()
    }

    /// The upload of an earlier run that has what was freed. The other parts are sent anew at the end.
    pub fn resumed(freed: &FreedParts) -> StreamingUpload {
        let last = freed.parts().iter().map(|stored| stored.part().number).max().unwrap_or(0);
        let mut begun: Vec<Begun> = Vec::new();
        for number in 1..=last {
            let range = on_grid(begun.last().map_or(0, |b| b.range.end));
            let stored = freed.parts().iter().rfind(|stored| stored.part().number == number);
            let stored = stored.filter(|stored| stored.range() == range);
            let sent = stored
                .map(StoredPart::part)
                .ok_or_else(|| Arc::new(Error::new(Kind::Closed, "the mount that sent this part has ended")));
            begun.push(Begun { range, spoiled: stored.is_none(), sending: ready(sent).boxed().shared() });
        }
        StreamingUpload { upload: freed.upload.id.clone(), attrs: freed.upload.attrs(), begun }
    }

    /// What the next mount needs to know of the upload.
    pub fn known_as(&self) -> PartsUpload {
        PartsUpload::new(&self.upload, &self.attrs)
    }

    /// The parts that have arrived and are the file's still, but for the first: programs come back to a file's head.
    pub fn stored(&self) -> Vec<StoredPart> {
        let arrived = |begun: &Begun| {
            let part = begun.sending.clone().now_or_never()?.ok()?;
            Some(StoredPart::new(&begun.range, part))
        };
        self.begun.iter().skip(1).filter(|begun| !begun.spoiled).filter_map(arrived).collect()
    }

    /// Begins again with the parts that have not arrived. True: there are some.
    pub fn send_failed_again(&mut self, e: &MountContext, key: &str, stage: &Stage) -> bool {
        let failed = |begun: &Begun| {
            !begun.spoiled && begun.sending.clone().now_or_never().is_some_and(|sent| sent.is_err())
        };
        let failed: Vec<usize> = (0..self.begun.len()).filter(|at| failed(&self.begun[*at])).collect();
        for at in &failed {
            let range = self.begun[*at].range.clone();
            self.begun[*at].sending = self.start(e, key, stage, *at as u32 + 1, range);
        }
        !failed.is_empty()
    }

    /// Waits until one of the parts on their way has arrived or failed. `None`: none is on its way.
    pub fn next_end(&self) -> Option<BoxFuture<'static, Result<Part, Arc<Error>>>> {
        let on_the_way = self.begun.iter().map(|begun| begun.sending.clone());
        let on_the_way: Vec<Sending> = on_the_way.filter(|sending| sending.peek().is_none()).collect();
        if on_the_way.is_empty() {
            return None;
        }
        Some(async move { select_all(on_the_way).await.0 }.boxed())
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
