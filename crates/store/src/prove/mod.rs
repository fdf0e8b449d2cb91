//! Whether a store keeps the promises that pools stand on, by behaviour. A pool whose store accepts conditions and ignores
//! them, or lets several writers win who come at the same moment, would lose acknowledged data: such a store is refused by
//! name (protocol §2.14).
//!
//! Each promise is tried by itself, with objects of its own, and comes back as a value (`Tried`). How much is asked is an
//! `Effort`. What can't be found out so: whether a store is durable, and what it does while its own servers fail.

mod alone;
mod contest;
mod files;
mod outcome;
mod trial;

pub use self::files::{FileNeed, TriedNeed, prove_files};
pub use self::outcome::{ConditionalPuts, Promise, Proof, Tried, Verdict};
pub use self::trial::Effort;

use self::trial::Trial;
use super::Bucket;
use futures::future::BoxFuture;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

/// Refuses a store that breaks a promise, naming both. Its objects lie below `prefix` and are removed again.
pub fn probe<'f>(rt: &'f Rt, bucket: &'f dyn Bucket, prefix: &'f str) -> BoxFuture<'f, Result<()>> {
    Box::pin(async move { probe_with(rt, bucket, prefix, Effort::SHORT).await })
}

/// The same, asking so much.
pub async fn probe_with(rt: &Rt, bucket: &dyn Bucket, prefix: &str, effort: Effort) -> Result<()> {
    prove(rt, bucket, prefix, effort, |tried| matches!(tried.verdict, Verdict::Held)).await?.verdict()
}

/// Whether data can be kept there: tries what a store promises but for conditions.
pub async fn probe_data(rt: &Rt, bucket: &dyn Bucket, prefix: &str, effort: Effort) -> Result<()> {
    let goes_on =
        |tried: &Tried| matches!(tried.verdict, Verdict::Held) && tried.promise != Promise::LAST_OF_DATA;
    prove(rt, bucket, prefix, effort, goes_on).await?.data_verdict()
}

/// What a store that is to be a pool's can hold.
#[derive(Debug)]
pub struct Fitness {
    pub conditions: ConditionalPuts,
    /// Why it can't hold registers.
    pub why: Option<Error>,
}

/// Refuses a store that can't hold data, and tells how it keeps the conditions of writes. A single odd answer, as that of a
/// proxy which sends a write twice, makes no verdict that stays: all is asked once more, and both must say so.
///
/// # Errors
/// `Refused`: it can't hold data, or kept conditions the second time.
pub fn probe_fitness<'f>(
    rt: &'f Rt,
    bucket: &'f dyn Bucket,
    prefix: &'f str,
    effort: Effort,
) -> BoxFuture<'f, Result<Fitness>> {
    Box::pin(async move {
        let all_held = |tried: &Tried| matches!(tried.verdict, Verdict::Held);
        let proof = prove(rt, bucket, prefix, effort, all_held).await?;
        proof.data_verdict()?;
        let conditions = proof.conditions()?;
        let Err(why) = proof.verdict() else { return Ok(Fitness { conditions, why: None }) };
        if proof.has_raced() {
            return Ok(Fitness { conditions, why: Some(why) });
        }
        let again = prove(rt, bucket, prefix, effort, all_held).await?;
        again.data_verdict()?;
        match again.conditions()? {
        ConditionalPuts::Held => Err(why.context(
            "asked once more it kept the conditions of writes: run this again, and look at what stands before the store if it \
             says so again",
        )),
        once_more => Ok(Fitness { conditions: conditions.max(once_more), why: Some(why) }),
    }
    })
}

/// Tries each promise for as long as `goes_on` says. An error: the store's addresses can't be had, or what was written
/// can't be removed.
pub async fn prove(
    rt: &Rt,
    bucket: &dyn Bucket,
    prefix: &str,
    effort: Effort,
    mut goes_on: impl FnMut(&Tried) -> bool,
) -> Result<Proof> {
    let mut trial = Trial::new(rt, bucket, prefix, effort);
    let silent =
        trial.find_ways().await.map_err(|e| e.context(format!("checking what {} promises", bucket.url())))?;
    let mut tried = Vec::new();
    for promise in Promise::ALL {
        let one = try_one(&trial, promise).await;
        let more = goes_on(&one);
        tried.push(one);
        if !more {
            break;
        }
    }
    let cleaned = trial.clean().await;
    let proof = Proof { url: bucket.url().to_owned(), addresses: trial.addresses(), silent, tried };
    match proof.verdict() {
        Ok(()) => cleaned.map(|()| proof),
        Err(_) => Ok(proof),
    }
}

async fn try_one(trial: &Trial<'_>, promise: Promise) -> Tried {
    let (mut writers, mut rounds) = (1, 1);
    let shown = async {
        if let Some(how) = Box::pin(alone::broken(trial, promise)).await? {
            return Ok(Verdict::Broken(how));
        }
        if !promise.is_contended() {
            return Ok(Verdict::Held);
        }
        let shown = Box::pin(contest::contest(trial, promise)).await?;
        (writers, rounds) = (shown.writers, shown.rounds);
        Ok(shown.verdict)
    };
    let verdict = shown.await.unwrap_or_else(|e: Error| match e.kind() {
        Kind::Unsupported | Kind::Invalid | Kind::Refused => Verdict::Refused(e),
        _ => Verdict::Untold(e),
    });
    Tried { promise, writers, rounds, verdict }
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;
