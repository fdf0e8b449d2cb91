//! How a server wants etags in conditions, learned from its answers.
//!
//! The standard has quotes around them; Ceph RGW 16 refuses these and takes an etag without. What one kind of request
//! shows says nothing of another: the same server copies whatever the condition says.

use std::sync::atomic::{AtomicU8, Ordering};

use futures::future::BoxFuture;

use super::S3Store;
use crate::{Etag, Heeds, Put, When};
use windlass_base::{Error, Kind, Result};

/// The form in which etags are sent in conditions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Quoting {
    /// Etags have quotes, as the standard says.
    Quoted,
    /// Etags have no quotes, as Ceph RGW 16 wants them.
    Bare,
}

impl Quoting {
    pub fn etag(self, etag: &Etag) -> String {
        match self {
            // A weak etag has its quotes behind its mark.
            Quoting::Quoted if !etag.0.contains('"') => format!("\"{}\"", etag.0),
            _ => etag.0.clone(),
        }
    }
}

/// The kind of request that is told the condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Puts,
    /// Copies, told a condition on what they replace.
    Copies,
    Completions,
    /// Copies, told a condition on what they are made of.
    Sources,
    /// Parts of an upload that are copied, told a condition on what they are made of.
    PartSources,
}

const OPEN: u8 = 0;
const QUOTED: u8 = 1;
const BARE: u8 = 2;

/// The forms that were learned, one for each kind of request (`Told`).
#[derive(Debug, Default)]
pub(super) struct Quotings([AtomicU8; 5]);

impl Quotings {
    /// Copies what was learned so far, for another way to the same server.
    pub fn again(&self) -> Quotings {
        Quotings(std::array::from_fn(|i| AtomicU8::new(self.0[i].load(Ordering::Relaxed))))
    }

    pub fn of(&self, told: Told) -> Quoting {
        if self.0[told as usize].load(Ordering::Relaxed) == BARE { Quoting::Bare } else { Quoting::Quoted }
    }

    /// Tells whether a refusal of an etag that was sent so may be for its quotes. It may while nothing is known, and where
    /// another request has learned better meanwhile.
    pub fn is_open(&self, told: Told, sent: Quoting) -> bool {
        self.0[told as usize].load(Ordering::Relaxed) == OPEN || self.of(told) != sent
    }

    /// Learns that a request with a right etag in this form was taken.
    pub fn learn(&self, told: Told, quoting: Quoting) {
        let is = if quoting == Quoting::Bare { BARE } else { QUOTED };
        self.0[told as usize].store(is, Ordering::Relaxed);
    }
}

impl S3Store {
    /// Sends a write that has a condition as far as this server heeds it; what it doesn't is looked for just before.
    /// `attempt` is given the condition that the server is to be told.
    pub(super) async fn conditionally<'a>(
        &self,
        key: &str,
        when: &'a When,
        (told, heeds): (Told, Heeds),
        attempt: impl Fn(Quoting, &'a When) -> BoxFuture<'a, Result<Put>> + Send,
    ) -> Result<Put> {
        if heeds == Heeds::Yes || *when == When::Always {
            return self.with_quoting(key, when, told, move |quoting| attempt(quoting, when)).await;
        }
        let there = self.head_now(key).await.map_err(|t| t.error)?.map(|head| head.etag);
        let holds = match when {
            When::Matches(etag) => there.as_ref() == Some(etag),
            _ => there.is_none(),
        };
        match heeds {
            _ if !holds => Ok(Put::Refused),
            Heeds::Refuses => attempt(Quoting::Quoted, &When::Always).await,
            _ => self.with_quoting(key, when, told, move |quoting| attempt(quoting, when)).await,
        }
    }

    /// Sends a conditional write as this server wants etags. One that refuses a quoted etag that is right gets it without
    /// quotes from then on: a refused write was not stored, so that another is harmless.
    async fn with_quoting<'a>(
        &self,
        key: &str,
        when: &When,
        told: Told,
        attempt: impl Fn(Quoting) -> BoxFuture<'a, Result<Put>> + Send,
    ) -> Result<Put> {
        let quoting = self.quotings.of(told);
        let out = attempt(quoting).await?;
        let When::Matches(wanted) = when else { return Ok(out) };
        if !self.quotings.is_open(told, quoting) {
            return Ok(out);
        }
        match out {
            Put::Stored(_) => self.quotings.learn(told, quoting),
            Put::Refused if self.has_etag(key, wanted).await? => {
                let second = attempt(Quoting::Bare).await?;
                if matches!(second, Put::Stored(_)) {
                    self.quotings.learn(told, Quoting::Bare);
                }
                if matches!(second, Put::Refused) && self.has_etag(key, wanted).await? {
                    return Err(self.refuses_its_own(key, wanted));
                }
                return Ok(second);
            }
            Put::Refused | Put::Unknown(_) => {}
        }
        Ok(out)
    }

    /// Tells whether an object has this etag. False also where that can't be asked for: without the right to list, S3 denies
    /// that there is no such object.
    pub(super) async fn has_etag(&self, key: &str, etag: &Etag) -> Result<bool> {
        match self.head_now(key).await {
            Err(t) if t.error.is(Kind::Denied) => Ok(false),
            head => Ok(head.map_err(|t| t.error)?.is_some_and(|head| head.etag == *etag)),
        }
    }

    /// Returns the error for a store that refuses an etag which it gives itself. Nobody changed the object: to say so would
    /// make a conflict of every edit.
    fn refuses_its_own(&self, key: &str, etag: &Etag) -> Error {
        let why = format!(
            "{}: writing {key:?}: the store says that the object has the etag {:?}, and refuses that etag; a proxy on the way \
             may change etags: reach the store without it",
            self.url, etag.0
        );
        Error::new(Kind::Unsupported, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kind_of_request_says_nothing_of_another() {
        let quotings = Quotings::default();
        quotings.learn(Told::Copies, Quoting::Quoted);
        assert!(quotings.is_open(Told::Puts, Quoting::Quoted));
        assert!(!quotings.is_open(Told::Copies, Quoting::Quoted));
        quotings.learn(Told::Puts, Quoting::Bare);
        assert_eq!((quotings.of(Told::Puts), quotings.of(Told::Copies)), (Quoting::Bare, Quoting::Quoted));
        assert!(quotings.is_open(Told::Puts, Quoting::Quoted), "it was sent before that was learned");
        let etag = |text: &str| Quoting::Quoted.etag(&Etag(text.into()));
        assert_eq!((etag("ab").as_str(), etag("W/\"ab\"").as_str()), ("\"ab\"", "W/\"ab\""));
    }
}
