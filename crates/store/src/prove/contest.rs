//! Conditional writes of many writers at the same moment. A server that judges a condition and then writes, with nothing
//! held between the two, answers one writer after another rightly, and lets several win who come together.
//!
//! Some servers take but one write a second for one key, and turn the others away (R2, GCS). Those have certainly not stored. Then
//! few writers and rounds are enough: who takes one write after another has nothing to race with.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use super::outcome::{Promise, Verdict};
use super::trial::Trial;
use crate::{ByteRange, Cause, Etag, Put, When};
use windlass_base::{Error, Kind, Result};

/// Number of rounds that are made again because they told nothing, since too few writers were answered.
const UNTOLD_MAX: usize = 8;
/// Numbers of writers and of rounds where the server takes one write of a key after another.
const THROTTLED_WRITERS: usize = 3;
const THROTTLED_ROUNDS: usize = 2;
/// Pause between the last write of a key and the writers that come together.
const THROTTLED_REST: Duration = Duration::from_millis(1500);

/// Number of writers where those who come together wait for each other, as `IN_TURN_ROUNDS` of rounds. Few are enough: the
/// server takes them in turn (SeaweedFS has a writer that found the key's lock taken try again a second later, so that many
/// take long).
const IN_TURN_WRITERS: usize = 4;
const IN_TURN_ROUNDS: usize = 2;
/// Factor of the time of one writer alone: where none of many is answered for so much longer, and for `IN_TURN_MIN` at least,
/// the writers wait for each other. A host that is busy answers late too, but now this writer, now that.
const IN_TURN_FACTOR: u32 = 4;
const IN_TURN_MIN: Duration = Duration::from_millis(500);

/// The outcomes of a round's writers.
struct Round {
    /// The writers that were told that they had stored, each with the etag.
    stored: Vec<(usize, Etag)>,
    refused: usize,
    /// The last writer without an answer that tells: it may have stored.
    unknown: Option<Error>,
    /// The last writer that certainly did not store, for another reason than the condition.
    failed: Option<Error>,
    /// Writers that were turned away since others write.
    throttled: usize,
}

impl Round {
    fn of(puts: Vec<Result<Put>>) -> Round {
        let mut round = Round { stored: Vec::new(), refused: 0, unknown: None, failed: None, throttled: 0 };
        for (writer, put) in puts.into_iter().enumerate() {
            match put {
                Ok(Put::Stored(etag)) => round.stored.push((writer, etag)),
                Ok(Put::Refused) => round.refused += 1,
                Ok(Put::Unknown(e)) => round.unknown = Some(e),
                Err(e) => {
                    round.throttled += usize::from(e.is(Kind::Throttled));
                    round.failed = Some(e);
                }
            }
        }
        round
    }

    /// Tells whether enough writers were answered.
    fn tells(&self, writers: usize) -> bool {
        2 * (self.stored.len() + self.refused + self.throttled) >= writers
    }

    /// Tells whether all were turned away for a write before them. Where one was let in, the others may have lost to that one
    /// (S3 answers some of them that a conflicting write is under way).
    fn turned_away(&self) -> bool {
        self.throttled > 0 && self.stored.is_empty() && self.refused == 0
    }

    fn why(self) -> Error {
        let silent = || Error::new(Kind::Unavailable, "too few writers were answered");
        self.unknown.or(self.failed).unwrap_or_else(silent)
    }
}

/// A server's way to take writers who come together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Together,
    /// The server takes one after another; the others wait.
    InTurn,
    /// All were turned away for a write before them.
    TurnedAway,
}

impl Pace {
    fn writers(self, all: usize) -> usize {
        match self {
            Pace::Together => all,
            Pace::InTurn => IN_TURN_WRITERS.min(all),
            Pace::TurnedAway => THROTTLED_WRITERS.min(all),
        }
    }

    /// Returns the pause before the writers come.
    fn rest(self) -> Duration {
        match self {
            Pace::Together | Pace::InTurn => Duration::ZERO,
            Pace::TurnedAway => THROTTLED_REST,
        }
    }
}

/// The object with which a round begins, and the condition of its writers.
struct Start {
    key: String,
    /// The contents of the object before the writers come; `None`: it is not there.
    base: Option<Bytes>,
    when: When,
}

impl Start {
    async fn of(trial: &Trial<'_>, promise: Promise) -> Result<Start> {
        let (key, base) = (trial.fresh_key(), trial.body());
        Ok(match promise {
            Promise::RefusesMissing => {
                let other = trial.make(&trial.fresh_key(), &base).await?;
                Start { key, base: None, when: When::Matches(other) }
            }
            Promise::RefusesStale => {
                let old = trial.make(&key, &trial.body()).await?;
                trial.replace(&key, old.clone(), &base).await?;
                Start { key, base: Some(base), when: When::Matches(old) }
            }
            Promise::Replaces => {
                let when = When::Matches(trial.make(&key, &base).await?);
                Start { key, base: Some(base), when }
            }
            _ => Start { key, base: None, when: When::Absent },
        })
    }
}

/// The result of the rounds of a promise.
pub(super) struct Shown {
    /// Rounds that told something.
    pub rounds: usize,
    /// Number of writers at the same moment, in the last round.
    pub writers: usize,
    pub verdict: Verdict,
}

/// Rounds of a promise that is contended.
pub(super) async fn contest(trial: &Trial<'_>, promise: Promise) -> Result<Shown> {
    let (begun, mut untold, mut in_turn) = (trial.rt.now(), 0, 0);
    let mut shown = Shown { rounds: 0, writers: trial.writers(), verdict: Verdict::Held };
    let mut pace = Pace::Together;
    let is_enough = |pace, rounds, in_turn| {
        let all = rounds >= trial.effort.rounds;
        let time = trial.rt.now().since(begun) >= trial.effort.time;
        match pace {
            Pace::Together => all && time,
            Pace::InTurn => (all || in_turn >= IN_TURN_ROUNDS) && time,
            Pace::TurnedAway => rounds >= THROTTLED_ROUNDS,
        }
    };
    while !is_enough(pace, shown.rounds, in_turn) {
        shown.writers = pace.writers(trial.writers());
        let (verdict, seen) = round(trial, promise, (shown.rounds + 1, shown.writers), pace.rest()).await?;
        in_turn += usize::from(seen == Pace::InTurn);
        // Few writers, or after a rest, say nothing of many.
        pace = match (pace, seen) {
            (Pace::Together, seen) => seen,
            (Pace::InTurn, Pace::TurnedAway) => Pace::TurnedAway,
            (pace, _) => pace,
        };
        match verdict {
            Verdict::Held => shown.rounds += 1,
            Verdict::Untold(_) if untold < UNTOLD_MAX => untold += 1,
            verdict => {
                shown.verdict = verdict;
                break;
            }
        }
    }
    Ok(shown)
}

/// Lets so many writers come together; returns what they have shown, and how the server took them.
async fn round(
    trial: &Trial<'_>,
    promise: Promise,
    (number, writers): (usize, usize),
    rest: Duration,
) -> Result<(Verdict, Pace)> {
    let start = Start::of(trial, promise).await?;
    let alone = trial.rt.now();
    trial.make(&trial.fresh_key(), &trial.body()).await?;
    let alone = trial.rt.now().since(alone);
    trial.rt.sleep(rest).await;
    let bodies: Vec<Bytes> = (0..writers).map(|_| trial.body()).collect();
    let together = trial.rt.now();
    let puts = bodies.iter().enumerate().map(async |(writer, body)| {
        let put = trial.way(writer).put(&start.key, body.clone(), start.when.clone(), Cause::Probe).await;
        (put, trial.rt.now().since(together))
    });
    let puts = join_all(puts).await;
    // An answer that was lost was not waited for by the server.
    let is_answered = |put: &Result<Put>| matches!(put, Ok(Put::Stored(_) | Put::Refused));
    let answered = puts.iter().filter(|(put, _)| is_answered(put)).map(|(_, at)| *at).collect();
    let (silence, round) =
        (longest_silence(answered), Round::of(puts.into_iter().map(|(put, _)| put).collect()));
    let pace = match round.turned_away() {
        true => Pace::TurnedAway,
        false if silence >= IN_TURN_MIN && silence >= alone * IN_TURN_FACTOR => Pace::InTurn,
        false => Pace::Together,
    };
    Ok((judged(trial, promise, (&start, &bodies), (number, round)).await?, pace))
}

/// Returns the longest time in which nobody was answered, of writers of whom each was answered after so long.
fn longest_silence(mut answered: Vec<Duration>) -> Duration {
    answered.sort_unstable();
    let before = [Duration::ZERO].into_iter().chain(answered.iter().copied());
    answered.iter().zip(before).map(|(at, before)| *at - before).max().unwrap_or_default()
}

async fn judged(
    trial: &Trial<'_>,
    promise: Promise,
    (start, bodies): (&Start, &[Bytes]),
    (number, round): (usize, Round),
) -> Result<Verdict> {
    let one_wins = matches!(promise, Promise::Creates | Promise::Replaces);
    if round.stored.len() > usize::from(one_wins) {
        return Ok(Verdict::Raced { round: number, winners: round.stored.len() });
    }
    if !round.tells(bodies.len()) {
        return Ok(Verdict::Untold(round.why()));
    }
    if one_wins && round.stored.is_empty() {
        return Ok(match (round.unknown.is_some(), round.failed) {
            // One of these may have won.
            (true, _) => Verdict::Held,
            (false, Some(e)) => Verdict::Untold(e),
            (false, None) => {
                Verdict::Broken("of many writers at the same moment it refuses each, the first too")
            }
        });
    }
    let won = round.stored.first().map(|(writer, etag)| (&bodies[*writer], etag));
    let whole = ByteRange::Whole { max: 1 << 20 };
    let found = trial.bucket.get(&start.key, whole, Cause::Probe).await?;
    let body = found.as_ref().map(|found| &found.body);
    let is_right = match won {
        Some((wanted, etag)) => body == Some(wanted) && found.is_some_and(|found| found.head.etag == *etag),
        None => body == start.base.as_ref(),
    };
    Ok(match is_right {
        true => Verdict::Held,
        false => Verdict::Broken(
            "after many writers at the same moment an object is another than their answers say",
        ),
    })
}
