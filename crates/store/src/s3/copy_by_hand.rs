//! Copies where the server makes none: the object is read and put.

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use super::S3Store;
use super::carried::Description;
use super::write::Copying;
use crate::{ByteRange, Etag, Head, Part, Put, When};
use windlass_base::{Error, Kind, Result};

/// Bytes that pass through this host at once: a smaller object is one put, a larger one is put in such parts.
const PIECE: u64 = 16 << 20;
const PIECES_AT_ONCE: usize = 2;

impl S3Store {
    pub(super) async fn copy_by_hand(
        &self,
        from: &str,
        to: &str,
        how: Copying<'_>,
        when: &When,
    ) -> Result<Put> {
        let Some(head) = self.head_now(from).await.map_err(|t| t.error)? else {
            return Err(Error::new(Kind::NotFound, format!("{}: there is no object {from:?}", self.url)));
        };
        if how.from_match.is_some_and(|etag| *etag != head.etag) {
            return Ok(Put::Refused);
        }
        let about = self.describe_like(from, &head, how.attrs).await?;
        let copied = match head.size {
            ..=PIECE => match self.exactly(from, &head.etag, 0, head.size).await {
                Ok(body) => self.put_described(to, body, &about, when).await,
                Err(e) => Err(e),
            },
            _ => self.copy_pieces(from, to, &head, &about, when).await,
        };
        match copied {
            // The source is another by now.
            Err(e) if e.is(Kind::Refused) => Ok(Put::Refused),
            copied => copied,
        }
    }

    async fn copy_pieces(
        &self,
        from: &str,
        to: &str,
        head: &Head,
        about: &Description,
        when: &When,
    ) -> Result<Put> {
        let upload = self.create_described(to, about).await?;
        let one = |at: u64| {
            let (upload, number) = (upload.as_str(), u32::try_from(at + 1).unwrap_or(u32::MAX));
            let (offset, len) = (at * PIECE, PIECE.min(head.size - at * PIECE));
            async move {
                let body = self.exactly(from, &head.etag, offset, len).await?;
                self.part_now(to, upload, number, body).await
            }
            .boxed()
        };
        let parts: Result<Vec<Part>> = futures::stream::iter((0..head.size.div_ceil(PIECE)).map(one))
            .buffered(PIECES_AT_ONCE)
            .try_collect()
            .await;
        let out = match parts {
            Ok(parts) => self.complete_now(to, &upload, &parts, when).await,
            Err(e) => Err(e),
        };
        if !matches!(out, Ok(Put::Stored(_) | Put::Unknown(_))) {
            // Left behind, it costs money until the bucket's lifecycle rule takes it.
            let _ = self.abort_now(to, &upload).await;
        }
        out
    }

    /// Reads these bytes of the object with this etag; `Refused` when it is another by now.
    async fn exactly(&self, key: &str, etag: &Etag, offset: u64, len: u64) -> Result<Bytes> {
        match self.get_now((key, None), ByteRange::At { offset, len }).await? {
            Some(found) if found.head.etag == *etag && found.body.len() as u64 == len => Ok(found.body),
            _ => Err(Error::new(
                Kind::Refused,
                format!("{}: {key:?} was changed while it was copied", self.url),
            )),
        }
    }
}
