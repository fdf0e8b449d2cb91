//! Stores that were put back from a backup, told by what all acceptors of a register show beside each other (protocol §2.12).
//!
//! Who accepted a ballot was promised it by a majority before. So where so many acceptors have promised less than another has
//! accepted that every majority has one of them, one of them has forgotten a promise: it was put back to what it held before. A
//! majority of such stores agrees among itself, and would be believed.
//!
//! One acceptor alone that is older than the others was away when they were written, or was put back; nobody can tell which.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::generation::Heard;
use super::object::{Ballot, Value};
use super::proposer::{Pauses, Register, Shared};
use windlass_base::{Error, Generation, Kind, Result};

/// Shortest time for which acceptors that have not answered are waited for.
const LINGER: Duration = Duration::from_millis(250);

/// The result of a comparison of what a register's acceptors show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Compared {
    /// Nothing speaks against what a majority shows. `older`: the stores (indices) whose copies are older than the newest, or
    /// not there.
    Sound { older: Vec<usize> },
    /// Enough stores have forgotten what they promised that every majority has one of them; or a majority is behind, where the
    /// user takes what most stores show. `older`: what these stores show, `newer`: what the others show, by URL. `above`: the
    /// highest number of a ballot that any of them has accepted. Not `proven`: nobody has forgotten a promise.
    SetBack {
        older: Vec<(String, Option<Bytes>)>,
        newer: Vec<(String, Option<Bytes>)>,
        above: u64,
        proven: bool,
    },
}

/// Returns an acceptor's generation, and the ballots that it promised and accepted; none where it did not answer.
fn stage(heard: &Heard) -> Option<(Generation, Ballot, Ballot)> {
    let object = heard.1.as_ref().ok()?;
    Some(object.as_ref().map_or((Generation(0), Ballot::default(), Ballot::default()), |object| {
        (object.generation, object.state.promised, object.state.accepted)
    }))
}

/// Tells whether an acceptor is behind the newest state. An object of an earlier generation counts as absent.
fn is_older(heard: &Heard, (generation, accepted): (Generation, Ballot)) -> bool {
    stage(heard)
        .is_some_and(|(own, promised, _)| own < generation || own == generation && promised < accepted)
}

fn show_both(older: Vec<&Heard>, newer: Vec<&Heard>, newest: Ballot, proven: bool) -> Compared {
    let show = |heard: &Heard| {
        let value = heard.1.as_ref().ok().and_then(|object| object.as_ref()?.state.value.bytes.clone());
        (heard.0.url().to_owned(), value)
    };
    let all = |heard: Vec<&Heard>| heard.into_iter().map(show).collect();
    Compared::SetBack { older: all(older), newer: all(newer), above: newest.number, proven }
}

impl Register {
    /// Compares all acceptors that answer within `patience`. Changes nothing.
    pub async fn compare(&self, patience: Duration) -> Compared {
        let first = self.objects(Some(patience)).await;
        self.judge_copies(first, patience).await
    }

    /// Compares as `compare` does, for whoever opens a volume: a store that hangs holds nobody up. Once a majority has
    /// answered, the others have as long again as that took, and at least `LINGER`.
    pub async fn compare_soon(&self, patience: Duration) -> Compared {
        let (rt, majority) = (&self.shared.rt, self.shared.roster.current().majority());
        let begun = rt.now();
        let mut pending: FuturesUnordered<_> = self.looks(Some(patience)).into_iter().collect();
        let mut heard: Vec<Heard> = Vec::new();
        while heard.iter().filter(|(_, object)| object.is_ok()).count() < majority {
            let Some(one) = pending.next().await else { break };
            heard.push(one);
        }
        let rest = async {
            while let Some(one) = pending.next().await {
                heard.push(one);
            }
        };
        // Whether the others came in time or not, what is there is judged.
        let _ = rt.timeout(rt.now().since(begun).max(LINGER), rest).await;
        self.judge_copies(heard, patience).await
    }

    async fn judge_copies(&self, first: Vec<Heard>, patience: Duration) -> Compared {
        let membership = self.shared.roster.current();
        let newest =
            first.iter().filter_map(stage).map(|(generation, _, accepted)| (generation, accepted)).max();
        let Some(newest) = newest else { return Compared::Sound { older: Vec::new() } };
        let older = first.iter().filter(|heard| is_older(heard, newest));
        let older: Vec<usize> = older.map(|(member, _)| member.index()).collect();
        let enough = membership.acceptors.len() - membership.majority() + 1;
        // Whoever gave stores up may have written without those that are older.
        let proves = membership.given_up.is_empty() && newest.0 == membership.generation;
        if newest.1 == Ballot::default() || !proves || older.len() < enough {
            return Compared::Sound { older };
        }
        // Somebody may have been writing between one answer and another. What was accepted by now was promised by now.
        let second = self.objects(Some(patience)).await;
        let (older, others): (Vec<&Heard>, Vec<&Heard>) =
            second.iter().filter(|heard| stage(heard).is_some()).partition(|heard| is_older(heard, newest));
        if older.len() < enough {
            return Compared::Sound { older: older.iter().map(|(member, _)| member.index()).collect() };
        }
        show_both(older, others, newest.1, true)
    }

    /// Compares as `compare` does, for a user who takes what most stores show. Returns `SetBack`, not proven, also where a
    /// majority shows one state and another store a newer one, while nobody need have forgotten anything. What the newer state
    /// names tells which of the two is the volume's.
    pub async fn compare_for_consent(&self, patience: Duration) -> Compared {
        let strictly = self.compare(patience).await;
        let heard = match strictly {
            Compared::SetBack { .. } => return strictly,
            Compared::Sound { .. } => self.objects(Some(patience)).await,
        };
        let states =
            || heard.iter().filter_map(stage).map(|(generation, _, accepted)| (generation, accepted));
        let membership = self.shared.roster.current();
        let is_now = |state: (Generation, Ballot)| state.0 == membership.generation;
        let is_most = |state: &_| states().filter(|other| other == state).count() >= membership.majority();
        let most = states().find(is_most).filter(|most| most.1 != Ballot::default());
        match (most, states().max()) {
            (Some(most), Some(newest))
                if membership.given_up.is_empty() && is_now(most) && is_now(newest) && most < newest =>
            {
                let known = heard.iter().filter(|heard| stage(heard).is_some());
                let (older, others) =
                    known.partition(|heard| stage(heard).is_some_and(|(_, _, accepted)| accepted <= most.1));
                show_both(older, others, newest.1, false)
            }
            _ => strictly,
        }
    }

    /// Chooses what `f` makes of what a majority shows, under a ballot above all that anybody shows, `above` too, without those that
    /// show another: what they have is put over, and can't come back. By consent alone. `Unavailable`: no majority shows one value.
    pub async fn choose_what_most_show(
        &self,
        above: u64,
        f: impl Fn(&Bytes) -> Result<Bytes> + Send + Sync,
    ) -> Result<()> {
        let run = async {
            let _turn = self.shared.turn.lock().await;
            let mut pauses = Pauses::new(&self.shared.rt);
            loop {
                if self.shared.choose_agreed(above, &f).await? {
                    return Ok(());
                }
                pauses.pause().await;
            }
        };
        self.by_deadline(run, "; whether the change was made shows when they answer").await
    }
}

impl Shared {
    /// Tries once to choose anew what a majority shows, over all that anybody else shows. False: others were there.
    async fn choose_agreed(
        self: &Arc<Self>,
        above: u64,
        f: &(dyn Fn(&Bytes) -> Result<Bytes> + Send + Sync),
    ) -> Result<bool> {
        self.held.lock().take();
        let Some(bench) = self.bench().await?.filter(|bench| !bench.behind) else { return Ok(false) };
        let seen = self.look(&bench, |_| false).await?;
        if self.meets_newer(&seen).await? {
            return Ok(false);
        }
        let agreed =
            bench.most_show(&seen).filter(|state| state.value.bytes.is_some() && state.value.seal.is_none());
        let Some(agreed) = agreed.cloned() else {
            // Who has not answered yet may be one of most.
            return if seen.len() < bench.stores().count() { Ok(false) } else { Err(no_majority()) };
        };
        let good = || seen.iter().filter_map(|(index, shown)| Some((*index, shown.good()?)));
        let number = good().map(|(_, seen)| seen.state.promised.max(seen.state.accepted).number).max();
        let number = number.unwrap_or_default().max(above);
        let ballot = Ballot { number: number + 1, proposer: self.rt.random128() };
        let same = good().filter(|(_, seen)| seen.state.accepted == agreed.accepted);
        let same = same.map(|(index, seen)| (index, seen.clone())).collect();
        let promises = self.prepare(&bench, ballot, same).await;
        if promises.len() < bench.majority {
            return Ok(false);
        }
        let over = promises.into_iter().map(|(index, etag, _)| (index, Some(etag)));
        let bytes = agreed.value.bytes.as_ref().map(f).transpose()?;
        Ok(self.accept(&bench, ballot, Value { bytes, seal: None }, over).await)
    }
}

/// Returns the error where no majority shows one value.
fn no_majority() -> Error {
    Error::new(Kind::Unavailable, "no majority of the stores that decide shows one state: bring stores back")
}
