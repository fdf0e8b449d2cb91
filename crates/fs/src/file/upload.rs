//! From a file's state to the next object: one put, or a multipart upload in which unchanged parts are copied
//! server-side.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};

use super::context::MountContext;
use super::part_plan::{Piece, plan};
use super::streaming_upload::StreamingUpload;
use crate::object::{Base, ByteRanges, Source};
use crate::staging::Stage;
use windlass_base::{Error, Kind, Result};
use windlass_store::{Attrs, Etag, Part, When};

/// Size up to which a file is sent as one put, in bytes.
pub const WHOLE_MAX: u64 = 16 << 20;
const AT_ONCE: usize = 8;
/// Largest range of the source, in bytes, that is fetched as one although staged bytes lie in between.
const FETCH_MAX: u64 = 16 << 20;

/// Counts how often a stage was cut in place, behind which it reads as zeros then; or also how often it was
/// overwritten.
#[derive(Clone, Debug, Default)]
pub struct Cuts(Arc<AtomicU64>);

impl Cuts {
    /// Counts one more cut, which must be done before the stage is changed.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A file's state at one instant, as an upload needs it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub key: String,
    /// Condition on the object at `key` under which this replaces it.
    pub when: When,
    /// The object that has the file's bytes below `base_len`, but for those in `local`.
    pub source: Option<Source>,
    pub base_len: u64,
    pub size: u64,
    pub local: ByteRanges,
    pub dirty: ByteRanges,
    pub stage: Option<Stage>,
    pub attrs: Attrs,
    pub changes: u64,
    /// Counter of changes in the stage that make the snapshot invalid, and its value when the snapshot was
    /// taken.
    pub cuts: (Cuts, u64),
}

/// Returns the file's bytes in `range`, wherever they are.
pub async fn bytes(e: &MountContext, file: &Snapshot, range: Range<u64>) -> Result<Bytes> {
    let pieces = file.local.split(range.clone());
    let away = || pieces.iter().filter(|(_, local)| !local).map(|(piece, _)| piece);
    let hull = away().next().map_or(0, |p| p.start)..away().next_back().map_or(0, |p| p.end);
    let together = away().count() > 1 && hull.end - hull.start <= FETCH_MAX;
    let fetched = if together { fetch(e, file, &hull).await? } else { Bytes::new() };
    let mut out = BytesMut::with_capacity((range.end - range.start) as usize);
    for (piece, local) in &pieces {
        let len = (piece.end - piece.start) as usize;
        if *local {
            out.extend_from_slice(&staged(file.stage.as_ref(), piece.start, len).await?);
        } else if together {
            let at = (piece.start - hull.start) as usize;
            out.extend_from_slice(&fetched[at..at + len]);
        } else {
            out.extend_from_slice(&fetch(e, file, piece).await?);
        }
    }
    Ok(out.freeze())
}

async fn fetch(e: &MountContext, file: &Snapshot, range: &Range<u64>) -> Result<Bytes> {
    let source = file.source.as_ref().filter(|_| range.end <= file.base_len).ok_or_else(|| {
        Error::new(Kind::Internal, format!("{}: bytes that are neither staged nor in the object", file.key))
    })?;
    e.remote.get_of((&source.key, None), &source.base, range.start, range.end - range.start).await
}

/// Reads `len` staged bytes; zeros where nothing was staged.
pub async fn staged(stage: Option<&Stage>, offset: u64, len: usize) -> Result<Bytes> {
    match stage {
        Some(stage) => stage.read(offset, len).await,
        None => Ok(vec![0; len].into()),
    }
}

/// Stores the file, if the object is still the one it was opened as; fails with `Refused` otherwise.
/// `streaming` is what of the file has left already, with the metadata that it will have.
pub async fn upload(e: &MountContext, file: &Snapshot, streaming: Option<StreamingUpload>) -> Result<Etag> {
    if let Some(streaming) = streaming {
        return in_parts(e, file, &streaming).await;
    }
    match &file.source {
        Some(source) if file.is_as(&source.base) => {
            e.remote.put_attrs(&file.key, &source.base, &file.attrs).await
        }
        _ if file.size <= WHOLE_MAX => {
            let _held = e.uploads.take(file.size).await;
            let body = bytes(e, file, 0..file.size).await?;
            file.is_whole()?;
            e.remote.put(&file.key, body, &file.attrs, &file.when).await
        }
        _ => {
            let streaming = StreamingUpload::begin(e, &file.key, file.attrs.clone()).await?;
            in_parts(e, file, &streaming).await
        }
    }
}

impl Snapshot {
    /// Tells whether not a byte of the source has changed.
    fn is_as(&self, base: &Base) -> bool {
        self.dirty.is_empty() && self.base_len == self.size && base.size == self.size
    }

    /// Tells whether the stage was cut or overwritten since. Bytes read of it may then be such as nobody
    /// wrote, or has closed.
    pub fn is_torn(&self) -> bool {
        self.cuts.0.now() != self.cuts.1
    }

    fn is_whole(&self) -> Result<()> {
        let said = || format!("{} was changed while it was sent, and that again and again", self.key);
        if self.is_torn() { Err(Error::new(Kind::Io, said())) } else { Ok(()) }
    }

    /// Tells whether the file will be sent in parts.
    pub fn in_parts(&self) -> bool {
        let as_is = self.source.as_ref().is_some_and(|source| self.is_as(&source.base));
        self.size > WHOLE_MAX && !as_is
    }
}

async fn in_parts(e: &MountContext, file: &Snapshot, streaming: &StreamingUpload) -> Result<Etag> {
    let stored = put_together(e, file, streaming).await;
    if stored.is_err() {
        e.remote.abort(&file.key, &streaming.upload).await;
    }
    stored
}

/// Sends what has not left yet, and completes the upload. Where that fails the upload stays.
pub async fn put_together(e: &MountContext, file: &Snapshot, streaming: &StreamingUpload) -> Result<Etag> {
    let parts = async |base_len| -> Result<Vec<Part>> {
        let pieces = plan(file.size, base_len, &file.dirty).into_iter().enumerate();
        let parts = pieces.map(|(at, piece)| part(e, file, streaming, at as u32 + 1, piece));
        futures::stream::iter(parts).buffered(AT_ONCE).try_collect().await
    };
    let copies = !e.remote.copies_no_parts();
    let parts = match parts(if copies { file.base_len } else { 0 }).await {
        // Then all of it is sent, in the same upload.
        Err(why) if copies && why.is(Kind::Unsupported) && e.remote.copies_no_parts() => parts(0).await,
        parts => parts,
    };
    let parts = parts?;
    file.is_whole()?;
    let (upload, attrs) = (&streaming.upload, &streaming.attrs);
    e.remote.complete(&file.key, upload, &parts, attrs, file.size, &file.when).await
}

async fn part(
    e: &MountContext,
    file: &Snapshot,
    streaming: &StreamingUpload,
    number: u32,
    piece: Piece,
) -> Result<Part> {
    let Range { start, end } = piece.range;
    if let Some(Source { key, base }) = file.source.as_ref().filter(|_| piece.copied) {
        return e.remote.part_copy(&file.key, &streaming.upload, number, key, base, start, end - start).await;
    }
    if let Some(part) = streaming.part(number, &piece.range).await {
        return Ok(part);
    }
    let _held = e.uploads.take(end - start).await;
    let body = bytes(e, file, start..end).await?;
    file.is_whole()?;
    e.remote.part(&file.key, &streaming.upload, number, body).await
}
