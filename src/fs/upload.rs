//! From a file's state to the next object: one put, or a multipart upload in which unchanged parts are copied
//! server-side.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};

use super::engine::Engine;
use super::ranges::Ranges;
use super::remote::Base;
use super::stage::Stage;
use crate::base::{Error, Kind, Result};
use crate::store::{Attrs, Etag, Part, When};

/// Files up to this size are one put.
const WHOLE_MAX: u64 = 16 << 20;
const PART: u64 = 8 << 20;
/// S3's limits: parts of one upload, and a part's smallest size but for the last.
const PARTS_MAX: u64 = 10_000;
/// One request copies no more: S3 allows 5 GiB, but shorter ones go side by side.
const COPY_MAX: u64 = 1 << 30;
const AT_ONCE: usize = 4;

/// An object that has bytes of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    pub key: String,
    pub base: Base,
}

/// A file's state at one instant, as an upload needs it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub key: String,
    /// What must hold of the object at `key` for this to replace it.
    pub when: When,
    /// Whose bytes are the file's below `base_len`, but for those in `local`.
    pub source: Option<Source>,
    pub base_len: u64,
    pub size: u64,
    pub local: Ranges,
    pub dirty: Ranges,
    pub stage: Option<Stage>,
    pub attrs: Attrs,
    pub changes: u64,
}

/// The file's bytes in `range`, wherever they are.
pub async fn bytes(e: &Engine, file: &Snapshot, range: Range<u64>) -> Result<Bytes> {
    let mut out = BytesMut::with_capacity((range.end - range.start) as usize);
    for (piece, local) in file.local.split(range) {
        let len = piece.end - piece.start;
        if local {
            out.extend_from_slice(&staged(file.stage.as_ref(), piece.start, len as usize).await?);
        } else {
            let source = file.source.as_ref().filter(|_| piece.end <= file.base_len).ok_or_else(|| {
                Error::new(
                    Kind::Internal,
                    format!("{}: bytes that are neither staged nor in the object", file.key),
                )
            })?;
            out.extend_from_slice(&e.remote.get_of(&source.key, &source.base, piece.start, len).await?);
        }
    }
    Ok(out.freeze())
}

/// `len` staged bytes; zeros where nothing was.
pub async fn staged(stage: Option<&Stage>, offset: u64, len: usize) -> Result<Bytes> {
    match stage {
        Some(stage) => stage.read(offset, len).await,
        None => Ok(vec![0; len].into()),
    }
}

/// Stores the file, if the object is still the one it was opened as. `Refused` otherwise.
pub async fn upload(e: &Engine, file: &Snapshot) -> Result<Etag> {
    match &file.source {
        Some(source) if source.key == file.key && file.is_as(&source.base) => {
            e.remote.put_attrs(&file.key, &source.base, &file.attrs).await
        }
        _ if file.size <= WHOLE_MAX => {
            let body = bytes(e, file, 0..file.size).await?;
            e.remote.put(&file.key, body, &file.attrs, &file.when).await
        }
        _ => in_parts(e, file, &file.when).await,
    }
}

impl Snapshot {
    /// Not a byte of the object has changed.
    fn is_as(&self, base: &Base) -> bool {
        self.dirty.is_empty() && self.base_len == self.size && base.size == self.size
    }
}

/// The size of parts that are sent; few enough of them for S3.
fn part_size(size: u64) -> u64 {
    size.div_ceil(PARTS_MAX).next_multiple_of(1 << 20).max(PART)
}

/// One part of an upload: its bytes, and whether the object has them all.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Piece {
    range: Range<u64>,
    copied: bool,
}

/// Parts to send, and between them as few and as long parts to copy as can be.
fn plan(file: &Snapshot) -> Vec<Piece> {
    let len = part_size(file.size);
    let mut plan: Vec<Piece> = Vec::new();
    let mut at = 0;
    while at < file.size {
        let range = at..(at + len).min(file.size);
        at = range.end;
        let copied = range.end <= file.base_len && !file.dirty.touches(&range);
        match plan.last_mut() {
            Some(last) if copied && last.copied && range.end - last.range.start <= COPY_MAX => {
                last.range.end = range.end;
            }
            _ => plan.push(Piece { range, copied }),
        }
    }
    plan
}

async fn in_parts(e: &Engine, file: &Snapshot, when: &When) -> Result<Etag> {
    let upload = e.remote.begin(&file.key, &file.attrs).await?;
    let pieces = plan(file).into_iter().enumerate();
    let parts = futures::stream::iter(pieces.map(|(at, piece)| part(e, file, &upload, at as u32 + 1, piece)));
    let parts: Result<Vec<Part>> = parts.buffered(AT_ONCE).try_collect().await;
    match parts {
        Ok(parts) => e.remote.complete(&file.key, &upload, &parts, &file.attrs, file.size, when).await,
        Err(why) => {
            e.remote.abort(&file.key, &upload).await;
            Err(why)
        }
    }
}

async fn part(e: &Engine, file: &Snapshot, upload: &str, number: u32, piece: Piece) -> Result<Part> {
    let Range { start, end } = piece.range;
    if let Some(Source { key, base }) = file.source.as_ref().filter(|_| piece.copied) {
        return e.remote.part_copy(&file.key, upload, number, key, base, start, end - start).await;
    }
    let body = bytes(e, file, start..end).await?;
    e.remote.part(&file.key, upload, number, body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_enough() {
        for size in [17 << 20, 80_000 << 20, 5 << 40] {
            let len = part_size(size);
            assert!(len >= 5 << 20 && size.div_ceil(len) <= PARTS_MAX && len <= 5 << 30);
        }
    }

    #[test]
    fn what_is_unchanged_is_copied_in_one_piece() {
        let (mut dirty, size) = (Ranges::default(), 1 << 30);
        dirty.insert((500 << 20) + 1..(500 << 20) + 4097);
        let base = Base { etag: Etag("e".into()), size };
        let (key, local, attrs, when) = ("f".to_owned(), dirty.clone(), Attrs::default(), When::Always);
        let source = Some(Source { key: key.clone(), base });
        let file = Snapshot {
            key,
            when,
            source,
            base_len: size,
            size,
            local,
            dirty,
            stage: None,
            attrs,
            changes: 1,
        };
        let plan: Vec<_> =
            plan(&file).into_iter().map(|p| (p.range.start >> 20, p.range.end >> 20, p.copied)).collect();
        assert_eq!(plan, [(0, 496, true), (496, 504, false), (504, 1024, true)]);
    }
}
