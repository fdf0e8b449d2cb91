//! The copies of an act (a rename): each is made once, and is known again whatever became of its answer.
//!
//! A copy carries the act's mark, which says of which object it is the copy. To give it one, the source's metadata have to
//! be asked for. That request is spared where the mark isn't needed: where copies keep their source's etag, a copy without
//! it is the same object once more, in every respect that can be asked for. Whether they do is learned from each answer.

use std::time::Duration;

use super::client::{BucketClient, COPIED_A_SECOND, COPY_MAX, is_of_disk, longer};
use super::copy_etags::of_parts;
use crate::object::{ActToken, Base, UploadToken, same_time, upload_hash};
use windlass_base::{Error, Kind, Result};
use windlass_store::{Cause, Etag, Head, Put, When};

/// Number of times that a source or a name which changes meanwhile is looked at.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// Longest pause before a copy that the store has not made is asked for again.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Size of the largest object whose bytes are read to compare it with its copy.
const COMPARED_MAX: u64 = 8 << 20;
/// S3's limit on an object's metadata, in bytes; the mark has to fit.
const META_MAX: usize = 2048;

/// An object as a listing or a look shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeenObject {
    pub etag: Etag,
    pub size: u64,
    pub modified_ms: Option<u64>,
    /// `upload_hash` of the object's metadata, where they were read.
    pub upload: Option<u64>,
}

impl SeenObject {
    pub fn of(head: &Head) -> SeenObject {
        let upload = Some(upload_hash(&head.attrs));
        SeenObject { etag: head.etag.clone(), size: head.size, modified_ms: head.modified_ms, upload }
    }

    /// Tells whether `now`, which has the source's name, is still the object of which `copy` was made.
    pub fn is_still(&self, now: &Head, copy: &Head) -> bool {
        let unchanged = self.etag == now.etag && same_time(self.modified_ms, now.modified_ms);
        // Within one second another client's chmod shows by its token alone, which a copy keeps.
        let copied = self.upload.unwrap_or_else(|| upload_hash(&copy.attrs));
        unchanged && copied == upload_hash(&now.attrs)
    }
}

/// Outcome of copying an object for an act.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ActCopy {
    /// The source as it was copied, and the copy's etag.
    Made { source: SeenObject, copy: Etag },
    /// There is no source.
    Gone,
    /// Another object has the new name.
    Taken,
}

/// Outcome of one attempt to copy an object for an act.
enum Attempt {
    Done(ActCopy),
    /// The copy is to be tried again; the source is this object by now. The error says why nobody knows
    /// whether the copy was made; without one a look showed that something has changed.
    Again(Option<Head>, Option<Error>),
    /// The act's own copy has the new name, and is to be made anew at once: it has no mark, or the source has changed since.
    Over(Etag),
}

impl BucketClient {
    /// Copies an object for an act. If somebody changed the object since it was `seen`, it is copied as it is
    /// now. It is looked at first where nothing is known of it (`None`).
    pub async fn copy_for(
        &self,
        act: &ActToken,
        from: &str,
        to: &str,
        mut seen: Option<SeenObject>,
        mut when: When,
    ) -> Result<ActCopy> {
        let (mut marks, mut source) = (false, None);
        let (mut changes, mut pause) = (0, PAUSE);
        let more = longer(seen.as_ref().map_or(0, |seen| seen.size), COPIED_A_SECOND);
        let until = self.rt.now() + (self.deadline * 11 / 6 + more);
        loop {
            let plain = |seen: &&SeenObject| !of_parts(&seen.etag) && seen.size <= COPY_MAX;
            let out = match seen.as_ref().filter(plain).filter(|_| !marks && self.copies.are_kept()) {
                None => self.copy_marked(act, from, to, source.take(), &when).await?,
                Some(seen) => self.copy_plain(act, from, to, seen, &when).await?,
            };
            match out {
                Attempt::Done(done) => return Ok(done),
                Attempt::Over(copy) => {
                    (marks, when) = (true, When::Matches(copy));
                }
                Attempt::Again(_, Some(why)) if until.since(self.rt.now()) <= pause => return Err(why),
                Attempt::Again(now, doubt) => {
                    changes += usize::from(doubt.is_none());
                    if changes == ATTEMPTS {
                        let said = format!("{from} changes all the time: it can't be moved now");
                        return Err(Error::new(Kind::Refused, said));
                    }
                    self.rt.sleep(pause).await;
                    // A store that asks for fewer requests gets fewer and fewer.
                    pause = if doubt.is_some() { (pause * 2).min(LONGEST_PAUSE) } else { PAUSE };
                    seen = now.as_ref().map(SeenObject::of);
                    source = now;
                }
            }
        }
    }

    async fn copy_plain(
        &self,
        act: &ActToken,
        from: &str,
        to: &str,
        seen: &SeenObject,
        when: &When,
    ) -> Result<Attempt> {
        self.remover.late.unwatch(to);
        let limit = self.deadline + longer(seen.size, COPIED_A_SECOND);
        let request = self.bucket.copy(from, to, Some(&seen.etag), None, when.clone(), Cause::File);
        let doubt = match self.try_put(to, limit, request).await {
            Ok(Put::Stored(copy)) => {
                self.copies.learn(&seen.etag, &copy);
                return Ok(match copy == seen.etag {
                    true => Attempt::Done(ActCopy::Made { source: seen.clone(), copy }),
                    false => Attempt::Over(copy),
                });
            }
            Ok(Put::Refused) => None,
            Ok(Put::Unknown(why)) => Some(why),
            Err(why) if why.is(Kind::NotFound) => None,
            Err(why) => return Err(why),
        };
        self.settle_copy(act, (from, to), when, doubt).await
    }

    async fn copy_marked(
        &self,
        act: &ActToken,
        from: &str,
        to: &str,
        source: Option<Head>,
        when: &When,
    ) -> Result<Attempt> {
        let source = match source {
            Some(head) => Some(head),
            None => self.head(from).await?,
        };
        let Some(source) = source else { return Ok(Attempt::Done(ActCopy::Gone)) };
        let base = Base { etag: source.etag.clone(), size: source.size };
        let attrs = act.attrs_of_copy(&source);
        let bytes: usize = attrs.user.iter().map(|(name, value)| name.len() + value.len()).sum();
        let attrs = if bytes > META_MAX { &source.attrs } else { &attrs };
        match self.copy_with(from, to, &base, attrs, when).await {
            Ok(copy) => {
                self.copies.learn(&source.etag, &copy);
                Ok(Attempt::Done(ActCopy::Made { source: SeenObject::of(&source), copy }))
            }
            Err(why) if why.is(Kind::Refused) || why.is(Kind::NotFound) => {
                self.settle_copy(act, (from, to), when, None).await
            }
            Err(why) if why.is(Kind::Throttled) => Ok(Attempt::Again(Some(source), Some(why))),
            Err(why) => Err(why),
        }
    }

    /// Looks at both names to learn what became of a copy that was refused, or whose outcome nobody knows.
    async fn settle_copy(
        &self,
        act: &ActToken,
        (from, to): (&str, &str),
        when: &When,
        doubt: Option<Error>,
    ) -> Result<Attempt> {
        // It can be seen, and yet this host's disk may not have kept it.
        let doubt = match doubt {
            Some(why) if is_of_disk(&why) => return Err(why),
            doubt => doubt,
        };
        let (source, there) = futures::future::try_join(self.head(from), self.head(to)).await?;
        let Some(source) = source else { return Ok(Attempt::Done(ActCopy::Gone)) };
        let is_unmarked_copy = match &there {
            Some(there) if doubt.is_some() && *when == When::Absent => {
                self.is_twin((from, &source), (to, there)).await?
            }
            _ => false,
        };
        Ok(match there {
            Some(there) if act.is_pair(&source, &there) => {
                Attempt::Done(ActCopy::Made { source: SeenObject::of(&source), copy: there.etag })
            }
            // A server that has real folders makes them of itself for what lies in them.
            Some(there) if from.ends_with('/') && is_bare_folder(&source) && is_bare_folder(&there) => {
                Attempt::Done(ActCopy::Made { source: SeenObject::of(&source), copy: there.etag })
            }
            Some(there) if *when == When::Absent && (is_unmarked_copy || act.source_of(&there).is_some()) => {
                Attempt::Over(there.etag)
            }
            Some(_) if *when == When::Absent => Attempt::Done(ActCopy::Taken),
            Some(there) if matches!(when, When::Matches(etag) if *etag != there.etag) => {
                Attempt::Done(ActCopy::Taken)
            }
            None if matches!(when, When::Matches(_)) => Attempt::Done(ActCopy::Taken),
            _ => Attempt::Again(Some(source), doubt),
        })
    }

    /// Tells whether the second object has the bytes and the metadata of the first, whatever its etag says.
    /// A copy of ours without a mark does, where copies get etags of their own; what is put in its place then
    /// takes nothing from anybody.
    async fn is_twin(&self, one: (&str, &Head), other: (&str, &Head)) -> Result<bool> {
        let (size, attrs) = (one.1.size, &one.1.attrs);
        if (size, attrs) != (other.1.size, &other.1.attrs) {
            return Ok(false);
        }
        if UploadToken::of(attrs, size).is_some() || size == 0 {
            return Ok(true);
        }
        if size > COMPARED_MAX {
            return Ok(false);
        }
        let bytes = async |(key, head): (&str, &Head)| {
            let base = Base { etag: head.etag.clone(), size };
            self.get_of((key, None), &base, 0, size).await
        };
        match futures::future::try_join(bytes(one), bytes(other)).await {
            Ok((one, other)) => Ok(one == other),
            Err(why) if why.is(Kind::Refused) => Ok(false),
            Err(why) => Err(why),
        }
    }
}

fn is_bare_folder(marker: &Head) -> bool {
    marker.size == 0 && marker.attrs.user.is_empty()
}
