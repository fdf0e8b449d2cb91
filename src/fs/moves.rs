//! A directory's rename on its way: written down on this host before the first copy, so that a crash leaves neither
//! half of it for ever. The next mount finishes it, or undoes the one that was being undone.
//!
//! An object is deleted at its old name only when its copy was verified and it is still what was copied; after a
//! crash, when the object at the new name is that copy. What somebody else put at either name meanwhile stays.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use xxhash_rust::xxh3::xxh3_64;

use super::core::{Fs, fail};
use super::errno::Op;
use super::intent::{FORMAT, Move};
use super::remote::Base;
use super::stage::Signature;
use crate::base::{FastMap, Kind, Result};
use crate::store::{Etag, Head, Listed, When};

const PAGE: usize = 1000;
const AT_ONCE: usize = 32;
/// Attempts at an object that others change meanwhile.
const COPIES: usize = 5;

/// Objects by key and etag.
#[derive(Default)]
struct Seen(FastMap<u64, ()>);

impl Seen {
    fn of(key: &str, etag: &Etag) -> u64 {
        xxh3_64(format!("{key}\0{}", etag.0).as_bytes())
    }

    fn add(&mut self, key: &str, etag: &Etag) {
        self.0.insert(Self::of(key, etag), ());
    }

    fn has(&self, object: &Listed) -> bool {
        self.0.contains_key(&Self::of(&object.key, &object.etag))
    }
}

/// A copy that was made.
struct Copied {
    old: Listed,
    new_etag: Etag,
}

impl Fs {
    /// Moves every object below `old` to `new`. The etags of those that nodes know come back. `held`: names that the
    /// caller holds.
    pub(super) async fn move_all(
        &self,
        old: &str,
        new: &str,
        held: &BTreeSet<String>,
    ) -> Op<Vec<(String, Etag)>> {
        let mut intent = Move { format: FORMAT, from: old.to_owned(), to: new.to_owned(), back: false };
        let staging = &self.engine.staging;
        let path = staging.intend(&intent).await?;
        let (mut copied, mut known) = (Seen::default(), Vec::new());
        let stop = AtomicBool::new(false);
        let goes_on = |_: &_| futures::future::ready(!stop.load(Ordering::Relaxed));
        let objects = self.all_below(old).take_while(goes_on);
        let copies = objects.map_ok(|object| self.copy_one(object, old, new).boxed());
        let mut copies = copies.try_buffer_unordered(AT_ONCE);
        let mut failed = None;
        // Copies under way when one fails are awaited: they would land behind the undoing.
        while let Some(copy) = copies.next().await {
            match copy {
                Err(why) => {
                    stop.store(true, Ordering::Relaxed);
                    failed = failed.or(Some(why));
                }
                Ok(None) => {}
                Ok(Some(one)) => {
                    copied.add(&one.old.key, &one.old.etag);
                    if self.inodes.lock().at(&one.old.key, false).is_some() {
                        known.push((one.old.key, one.new_etag));
                    }
                }
            }
        }
        drop(copies);
        if let Some(why) = failed {
            intent.back = true;
            let noted = staging.intend_otherwise(&path, &intent).await;
            if noted.is_ok() && self.end_move(new, old, true).await.is_ok() {
                staging.settled(&path).await;
            }
            tracing::warn!(from = old, to = new, "a directory's rename failed: all of it is at its old name");
            return Err(why);
        }
        if copied.0.is_empty() {
            // A directory that only this mount still showed: its new name must be in the bucket.
            self.put_marker(new).await?;
        }
        self.delete_seen(old, &copied, held).await?;
        staging.settled(&path).await;
        Ok(known)
    }

    fn all_below<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Op<Listed>> {
        let pages =
            futures::stream::try_unfold(Some(None), move |after: Option<Option<String>>| async move {
                let Some(after) = after else { return Ok(None) };
                let page = self.engine.remote.list(prefix, after, false, PAGE).await?;
                Op::Ok(Some((page.objects, page.next.map(Some))))
            });
        pages.map_ok(|objects| futures::stream::iter(objects.into_iter().map(Ok))).try_flatten().boxed()
    }

    /// None: it is gone. What somebody changed since it was listed is copied as it is now.
    async fn copy_one(&self, mut old: Listed, from: &str, to: &str) -> Op<Option<Copied>> {
        let new_key = format!("{to}{}", &old.key[from.len()..]);
        if new_key.len() > super::names::KEY_MAX {
            return Err(fail(Kind::Usage, format!("{new_key} would be longer than a key can be")));
        }
        for _ in 0..COPIES {
            let base = Base { etag: old.etag.clone(), size: old.size };
            match self.engine.remote.copy(&old.key, &new_key, &base, &When::Always).await {
                Ok(new_etag) => return Ok(Some(Copied { old, new_etag })),
                Err(why) if why.is(Kind::Refused) || why.is(Kind::NotFound) => {}
                Err(why) => return Err(why.into()),
            }
            let Some(head) = self.engine.remote.head(&old.key).await? else { return Ok(None) };
            (old.etag, old.size) = (head.etag, head.size);
        }
        Err(fail(Kind::Refused, format!("{} changes all the time: it can't be moved now", old.key)))
    }

    /// Deletes what is below a prefix and still as it was seen.
    async fn delete_seen(&self, prefix: &str, seen: &Seen, held: &BTreeSet<String>) -> Op<()> {
        if seen.0.is_empty() {
            return Ok(());
        }
        let mut batches =
            self.all_below(prefix).try_filter(|o| futures::future::ready(seen.has(o))).try_chunks(PAGE);
        while let Some(batch) = batches.next().await {
            let (mut keys, mut holds) = (Vec::new(), Vec::new());
            for object in batch.map_err(|e| e.1)? {
                if !held.contains(&object.key) {
                    // Not waited for: whoever has the name may wait for one that this rename holds. What is being
                    // changed stays.
                    let Ok(hold) = self.hold_now(&object.key) else { continue };
                    holds.extend(hold);
                    if !self.is_still(&object).await? {
                        continue;
                    }
                }
                keys.push(object.key);
            }
            if !keys.is_empty() {
                self.engine.remote.delete(&keys).await?;
            }
        }
        Ok(())
    }

    /// Whether the object is what was listed, and not what somebody here wrote and closed since. Its name is held.
    async fn is_still(&self, object: &Listed) -> Op<bool> {
        let other = {
            let inodes = self.inodes.lock();
            let node = inodes.at(&object.key, false);
            node.is_some_and(|n| n.facts.etag.as_ref().is_some_and(|etag| *etag != object.etag))
        };
        if !other {
            return Ok(true);
        }
        let head = self.engine.remote.head(&object.key).await?;
        Ok(head.is_some_and(|head| head.etag == object.etag))
    }

    /// Ends the renames that an earlier mount began.
    pub(super) async fn take_up_moves(&self, moves: Vec<(PathBuf, Move)>) {
        for (path, begun) in moves {
            let Move { from, to, back, format: _ } = &begun;
            tracing::info!(from, to, back, "ending a directory's rename that was cut off");
            let (have, lack) = if *back { (to, from) } else { (from, to) };
            match self.end_move(have, lack, *back).await {
                Ok(()) => self.engine.staging.settled(&path).await,
                Err(f) => {
                    tracing::error!(from, to, why = ?f.why, "a rename can't be ended yet: the next mount tries")
                }
            }
        }
    }

    /// Deletes what is below `have` once the same is below `lack`; copies it there first, unless that would be undoing.
    async fn end_move(&self, have: &str, lack: &str, back: bool) -> Op<()> {
        let ends = self.all_below(have).map_ok(|object| self.end_one(object, have, lack, back).boxed());
        let mut ends =
            ends.try_buffer_unordered(AT_ONCE).try_filter_map(|key| futures::future::ready(Ok(key)));
        let mut done = Vec::new();
        while let Some(key) = ends.next().await {
            done.push(key?);
        }
        drop(ends);
        for keys in done.chunks(PAGE) {
            self.engine.remote.delete(keys).await?;
        }
        Ok(())
    }

    /// The key, if the object may be deleted there.
    async fn end_one(&self, object: Listed, have: &str, lack: &str, back: bool) -> Op<Option<String>> {
        let remote = &self.engine.remote;
        let there = format!("{lack}{}", &object.key[have.len()..]);
        let base = Base { etag: object.etag.clone(), size: object.size };
        match remote.head(&there).await? {
            None if back => Ok(None),
            None => match remote.copy(&object.key, &there, &base, &When::Absent).await {
                Ok(_) => Ok(Some(object.key)),
                Err(why) if why.is(Kind::Exists) || why.is(Kind::Refused) => Ok(None),
                Err(why) => Err(why.into()),
            },
            Some(head) => {
                let same = self.is_copy(&object, &head).await?;
                if !same {
                    tracing::warn!(key = object.key, also = there, "two objects want one name: both stay");
                }
                Ok(same.then_some(object.key))
            }
        }
    }

    async fn is_copy(&self, object: &Listed, there: &Head) -> Result<bool> {
        if object.size != there.size {
            return Ok(false);
        }
        if object.etag == there.etag {
            return Ok(true);
        }
        // Copies in parts have other etags; what we wrote carries times that nothing else does.
        let Some(head) = self.engine.remote.head(&object.key).await? else { return Ok(false) };
        let (a, b) = (Signature::of(&head.attrs, head.size), Signature::of(&there.attrs, there.size));
        Ok(a == b && !a.mtime.is_empty() && head.etag == object.etag)
    }
}
