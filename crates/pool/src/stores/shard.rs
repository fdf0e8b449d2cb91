//! One shard on one store: look at it, put it.
//!
//! Invariant: a shard counts as stored only when its store attested after the answer that said so (protocol §1.7).

use bytes::Bytes;

use super::member::Member;
use super::object_key::shard_key;
use crate::chunk::{About, FOOTER_GET, FOOTER_MAX, Footer};
use windlass_base::format_limits::SHARD_SPAN;
use windlass_base::{ChunkId, Error, Kind, Result};
use windlass_store::{ByteRange, Cause, Etag, Found, Put, When};

/// Why a shard, or a part of it, isn't there for us.
#[derive(Debug)]
pub enum Miss {
    /// The store says that it has none; counts only if the store attests after it.
    Absent,
    /// There is an object, and it is not the shard; its etag, to replace it.
    Rot(Etag),
    /// No answer that says anything.
    Silent(Error),
}

/// Where one shard belongs.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    pub(crate) member: &'a Member,
    pub(crate) id: &'a ChunkId,
    pub(crate) index: usize,
}

impl At<'_> {
    pub(crate) fn key(&self) -> String {
        shard_key(self.id, self.index)
    }

    async fn get(&self, range: ByteRange, cause: Cause) -> Result<Found, Miss> {
        match self.member.get(&self.key(), range, cause).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Miss::Absent),
            Err(e) => Err(Miss::Silent(e)),
        }
    }

    fn judge(&self, tail: &[u8], found: &Found) -> Result<Footer, Miss> {
        let rot = || Miss::Rot(found.head.etag.clone());
        match Footer::decode(tail, found.head.size) {
            Ok(footer) if footer.about.id == *self.id && footer.index == self.index => Ok(footer),
            Err(e) if e.is(Kind::Unsupported) => {
                Err(Miss::Silent(e.context(format!("store {}", self.member.url()))))
            }
            _ => Err(rot()),
        }
    }

    /// The footer, and the etag of the object it is in.
    pub(crate) async fn footer(&self, cause: Cause) -> Result<(Footer, Etag), Miss> {
        let found = self.get(ByteRange::Last(FOOTER_GET), cause).await?;
        let footer = self.judge(&found.body, &found)?;
        Ok((footer, found.head.etag))
    }

    /// `len` bytes from `at` on, as they are; fewer only where the object ends.
    pub(crate) async fn range(&self, at: u64, len: u64, cause: Cause) -> Result<(Bytes, Etag), Miss> {
        let found = self.get(ByteRange::At { offset: at, len }, cause).await?;
        Ok((found.body, found.head.etag))
    }

    /// The whole shard, without its footer, every byte verified; and the object's etag.
    pub(crate) async fn whole(&self, cause: Cause) -> Result<(Footer, Bytes, Etag), Miss> {
        // A range and not the whole object: of an object of any size no more than the longest shard is read.
        let max = SHARD_SPAN + FOOTER_MAX as u64;
        let found = self.get(ByteRange::At { offset: 0, len: max }, cause).await?;
        let etag = found.head.etag.clone();
        if found.head.size != found.body.len() as u64 {
            // A shorter answer than asked for says nothing about what is stored; a longer object is not a shard.
            return Err(if found.head.size > max {
                Miss::Rot(etag)
            } else {
                Miss::Silent(short(self.member))
            });
        }
        let tail = found.body.len().saturating_sub(FOOTER_MAX);
        let footer = self.judge(&found.body[tail..], &found)?;
        let shard = found.body.slice(..footer.about.shard_len(self.index).min(found.body.len()));
        let judge = move || (footer.is_whole(&shard), footer, shard);
        let (whole, footer, shard) = self.member.rt().cpu(judge).await.map_err(Miss::Silent)?;
        if whole { Ok((footer, shard, etag)) } else { Err(Miss::Rot(etag)) }
    }

    /// One attempt to have the shard stored, and attested after that. An error of kind `Corrupt` or `Unsupported` is
    /// final; after any other it may be tried again, and may be there already.
    pub(crate) async fn store(&self, about: &About, object: &Bytes, how: How, cause: Cause) -> Result<()> {
        self.store_over((about, object), how, cause, &mut false).await
    }

    /// Has the shard stored as `store` does. `over` becomes true once other contents are seen in its place: they may have been
    /// replaced, whatever the result.
    pub(crate) async fn store_over(
        &self,
        (about, object): (&About, &Bytes),
        how: How,
        cause: Cause,
        over: &mut bool,
    ) -> Result<()> {
        // Nothing but a look tells there that another writer used this identity.
        let how = if how == How::Absent && self.member.is_data_only() { How::Look } else { how };
        let when = match how {
            How::Absent => When::Absent,
            How::Look | How::Verify | How::Replace => {
                match self.present((about, object), how, cause).await? {
                    Present::Same => return self.found().await,
                    Present::Other(etag) => {
                        *over = true;
                        When::Matches(etag)
                    }
                    Present::None => When::Absent,
                }
            }
        };
        let mut answer = self.member.put(&self.key(), object.clone(), when, cause).await?;
        if let Put::Refused = answer {
            // Another repair, or a put of an upload that was given up, may have come in between.
            answer = match self.present((about, object), how, cause).await? {
                Present::Same => return self.found().await,
                Present::Other(etag) => {
                    *over = true;
                    tracing::warn!(
                        "store {} has a damaged object under {}; it is replaced",
                        self.member.url(),
                        self.key()
                    );
                    self.member.put(&self.key(), object.clone(), When::Matches(etag), cause).await?
                }
                Present::None => Put::Refused,
            };
        }
        match answer {
            Put::Stored(_) => self.member.attest().await,
            Put::Unknown(e) => Err(e),
            Put::Refused => Err(Error::new(
                Kind::Unavailable,
                format!("store {} refused {} and shows no reason", self.member.url(), self.key()),
            )),
        }
    }

    /// The shard is there: of a put whose answer was lost, nothing else tells that the store took it.
    async fn found(&self) -> Result<()> {
        self.member.attest().await?;
        self.member.takes_writes();
        Ok(())
    }

    /// What the store has in the shard's place.
    async fn present(&self, (about, object): (&About, &Bytes), how: How, cause: Cause) -> Result<Present> {
        let seen = match how {
            How::Verify | How::Replace => self.whole(cause).await.map(|(footer, _, etag)| (footer, etag)),
            How::Absent | How::Look => self.footer(cause).await,
        };
        match seen {
            Ok((footer, etag)) if how == How::Replace => {
                let ours = Footer::decode(object, object.len() as u64)?;
                Ok(if footer == ours { Present::Same } else { Present::Other(etag) })
            }
            Ok((footer, _)) if footer.about == *about => Ok(Present::Same),
            Ok(_) => Err(self.two_contents()),
            Err(Miss::Absent) => Ok(Present::None),
            Err(Miss::Rot(etag)) => Ok(Present::Other(etag)),
            Err(Miss::Silent(e)) => Err(e),
        }
    }

    fn two_contents(&self) -> Error {
        Error::new(
            Kind::Corrupt,
            format!(
                "store {} has other contents under {}: two writers used one identity; stop this volume and run `pool scrub`",
                self.member.url(),
                self.key()
            ),
        )
    }
}

fn short(member: &Member) -> Error {
    Error::new(
        Kind::Unavailable,
        format!("store {} answered with fewer bytes than it announced", member.url()),
    )
}

/// What is expected in the shard's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// Nothing.
    Absent,
    /// Perhaps the shard: an earlier put had no answer.
    Look,
    /// Perhaps rot under a good footer: every byte is verified.
    Verify,
    /// Perhaps a shard that is right in itself and gives the others of its chunk the lie: every byte is verified, and other
    /// contents go.
    Replace,
}

enum Present {
    Same,
    Other(Etag),
    None,
}
