//! Deleting, with doubt: a delete whose answer was lost may have been done, and somebody may have put another object there
//! since. So no delete is repeated before a look: what is still what was to be deleted is deleted again, one key at a
//! time, and nothing else is.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};

use super::circuit_breaker::{CircuitBreaker, is_silence};
use super::late_puts::{LatePut, LatePuts};
use crate::object::{Sighting, is_same_write};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};
use windlass_store::{BucketRef, Cause, Etag, Head, Listed};

const AT_ONCE: usize = 16;
/// Time for which a delete that fails is tried again, after a look each time.
const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Interval at which a name is looked at to which a put may still come.
const LATE_PUT_LOOK: Duration = Duration::from_secs(2);

/// An object that is to be deleted, as it was seen last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doomed {
    pub key: String,
    pub object: Sighting,
    /// The object was seen long ago, so it is looked at before it is deleted.
    pub look_first: bool,
}

impl Doomed {
    pub fn of(key: &str, head: &Head) -> Doomed {
        Doomed { key: key.to_owned(), object: Sighting::of(head), look_first: false }
    }

    pub fn of_listed(listed: Listed) -> Doomed {
        Doomed { key: listed.key.clone(), object: Sighting::of_listed(listed), look_first: false }
    }
}

/// Outcome for one object that was to be deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Gone,
    /// Another object had the name before any delete of ours can have been done; that object stays.
    Stays,
}

/// Outcome for several objects that were to be deleted. Objects that it does not name are gone.
#[derive(Debug, Default)]
pub struct Removed {
    /// Keys that other objects had before any delete of ours can have been done. A key is absent here if
    /// another object came after a delete whose answer was lost: what was to be deleted counts as gone, and
    /// the new object stays.
    pub stay: Vec<String>,
    /// Objects that may be there still.
    pub left: Vec<Doomed>,
    /// Reason why objects are left, if there are any.
    pub why: Option<Error>,
    /// True if the store has refused each request to delete that it was sent: none of them comes late.
    pub refused: bool,
}

impl Removed {
    fn add(&mut self, other: Removed) {
        self.stay.extend(other.stay);
        self.left.extend(other.left);
        self.why = self.why.take().or(other.why);
        self.refused &= other.refused;
    }

    /// Returns the keys that other objects have by now; fails if any object is left.
    pub fn all(self) -> Result<Vec<String>> {
        self.why.map_or(Ok(self.stay), Err)
    }
}

/// What the attempts to delete many objects one by one share.
#[derive(Debug, Default)]
struct Tries {
    /// One of them has met a store that refuses or says nothing: those behind it are not tried.
    stop: AtomicBool,
    /// One of them was not refused: its object is gone, or may still go.
    accepted: AtomicBool,
}

#[derive(Clone, Debug)]
pub struct Remover {
    pub(super) rt: Rt,
    pub(super) bucket: BucketRef,
    pub(super) deadline: Duration,
    pub(super) breaker: Arc<CircuitBreaker>,
    /// Puts that may come to a name after its object was deleted.
    pub(super) late: Arc<LatePuts>,
}

/// Tells whether the error is a refusal of the request: nothing was deleted.
pub(super) fn is_refusal(why: &Error) -> bool {
    matches!(why.kind(), Kind::Denied | Kind::Invalid | Kind::Usage | Kind::Unsupported | Kind::ReadOnly)
}

impl Remover {
    pub(super) async fn ask<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.breaker.over().await?;
        let began = self.rt.now();
        let answer = self.rt.timeout(self.deadline, request).await;
        if answer.as_ref().is_none_or(is_silence) {
            self.breaker.missed(began);
        } else {
            self.breaker.heard();
        }
        answer.unwrap_or_else(|| {
            let secs = self.deadline.as_secs_f64();
            let said = format!("{} gave no answer within {secs:.0} s", self.bucket.url());
            Err(Error::new(Kind::Timeout, said))
        })
    }

    /// Deletes the objects that still are what they were, as far as the store can tell. A store that heeds no
    /// condition deletes whatever is there, so callers that care look just before.
    pub async fn remove(&self, objects: &[Doomed]) -> Removed {
        let (first, now): (Vec<&Doomed>, Vec<&Doomed>) = objects.iter().partition(|o| o.look_first);
        let mut removed = self.remove_now(&now).await;
        removed.add(self.resolve_all(&first, None).await);
        for object in objects.iter().filter(|object| !removed.left.contains(object)) {
            self.watch_late_put(&object.key);
        }
        removed
    }

    /// Watches a name that is gone: a put of ours that comes there late is removed again.
    pub(super) fn watch_late_put(&self, key: &str) {
        let Some(LatePut { attrs, until, .. }) = self.late.watch(key) else { return };
        let (this, key) = (self.clone(), key.to_owned());
        let watch = async move {
            while this.rt.now() < until && this.late.is_watched(&key) {
                this.rt.sleep(LATE_PUT_LOOK).await;
                let Ok(head) = this.ask(this.bucket.head(&key, Cause::File)).await else { continue };
                let Some(head) = head.filter(|head| is_same_write(&attrs, &head.attrs)) else { continue };
                // Asked after the look: what this mount put there was announced before it could be seen.
                if !this.late.is_watched(&key) {
                    return;
                }
                tracing::warn!(key, "a put arrived after its name was removed: it is removed again");
                if this.remove(&[Doomed::of(&key, &head)]).await.all().is_ok() {
                    break;
                }
            }
            this.late.unwatch(&key);
        };
        self.rt.spawn(watch).detach();
    }

    async fn remove_now(&self, objects: &[&Doomed]) -> Removed {
        if objects.is_empty() {
            return Removed::default();
        }
        let all: Vec<(String, Etag)> =
            objects.iter().map(|o| (o.key.clone(), o.object.etag.clone())).collect();
        let doubt = match self.ask(self.bucket.delete_same(&all, Cause::File)).await {
            Ok(true) => return Removed::default(),
            Ok(false) => None,
            Err(why) if is_refusal(&why) && objects.len() == 1 => {
                let left = objects.iter().map(|o| (*o).clone()).collect();
                return Removed { stay: Vec::new(), left, why: Some(why), refused: true };
            }
            Err(why) => Some(why),
        };
        let mut removed = self.resolve_all(objects, doubt.as_ref()).await;
        removed.refused &= doubt.as_ref().is_some_and(is_refusal);
        removed
    }

    async fn resolve_all(&self, objects: &[&Doomed], doubt: Option<&Error>) -> Removed {
        let tries = &Tries::default();
        let looks: Vec<_> =
            objects.iter().map(|object| self.resolve_delete(object, doubt, tries).boxed()).collect();
        let fates: Vec<Result<Fate>> = futures::stream::iter(looks).buffered(AT_ONCE).collect().await;
        let mut removed = Removed { refused: !tries.accepted.load(Ordering::Relaxed), ..Removed::default() };
        for (object, fate) in objects.iter().zip(fates) {
            match fate {
                Ok(Fate::Gone) => {}
                Ok(Fate::Stays) => removed.stay.push(object.key.clone()),
                Err(why) => {
                    removed.left.push((*object).clone());
                    removed.why.get_or_insert(why);
                }
            }
        }
        removed
    }

    /// Looks at the object after a delete of unknown outcome, and deletes it again if it is there as it was.
    async fn resolve_delete(&self, object: &Doomed, doubt: Option<&Error>, tries: &Tries) -> Result<Fate> {
        let Tries { stop, accepted } = tries;
        let (until, mut pause) = (self.rt.now() + PATIENCE, FIRST_PAUSE);
        let mut last = doubt.map(Error::share);
        while !stop.load(Ordering::Relaxed) {
            let looked = self.ask(self.bucket.head(&object.key, Cause::File)).await;
            match looked.inspect_err(|_| stop.store(true, Ordering::Relaxed))? {
                None => return Ok(Fate::Gone),
                // Ours may have been done, and this put since: nobody here has asked to delete it.
                Some(head) if !object.object.is(&head) && last.is_some() => return Ok(Fate::Gone),
                Some(head) if !object.object.is(&head) => return Ok(Fate::Stays),
                Some(_) => {}
            }
            let one = [(object.key.clone(), object.object.etag.clone())];
            let deleted = self.ask(self.bucket.delete_same(&one, Cause::File)).await;
            if !deleted.as_ref().is_err_and(is_refusal) {
                accepted.store(true, Ordering::Relaxed);
            }
            match deleted {
                Ok(true) => return Ok(Fate::Gone),
                Ok(false) => {}
                Err(why) if is_refusal(&why) || why.is(Kind::Timeout) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(why);
                }
                Err(why) => last = Some(why),
            }
            if self.rt.now() > until {
                break;
            }
            self.rt.sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let key = &object.key;
        Err(last.map_or_else(
            || Error::new(Kind::Refused, format!("{key} changes all the time: it can't be deleted now")),
            |why| why.context(format_args!("deleting {key}")),
        ))
    }
}
