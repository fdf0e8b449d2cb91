//! Acceptors that are damaged or gone: found, and made whole by consensus, never by copying another's bytes.
//!
//! A damaged acceptor has forgotten what it promised and accepted. So the value is first chosen anew by a majority of
//! all acceptors, of which only those count that can be read: any earlier majority had one of them. Only then is it put on
//! the others, over the etag that was seen, so that whoever was promised something there before can't use it.

use super::acceptor::{Seen, Shown};
use super::object::{Ballot, Object};
use super::proposer::{Outcome, Pauses, Register, Shared};
use super::set_back::Compared;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use windlass_base::rt::Rt;
use windlass_base::{Error, Generation, Kind, Result};

/// A copy that was put by a write a moment ago is there after this.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// An acceptor's progress: its generation, and the ballot that it accepted last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Progressed {
    generation: Generation,
    accepted: Ballot,
}

impl Progressed {
    /// Tells whether a value was ever accepted there.
    pub fn has_value(self) -> bool {
        self.accepted != Ballot::default()
    }
}

/// The finding in an acceptor's place, for those that look after registers.
#[derive(Debug)]
pub enum Copy {
    /// An object that can be read.
    Sound(Progressed),
    /// An object that can be read, but lacks what was chosen some time ago: its store was away, or was put back.
    Older,
    Absent,
    Damaged,
    Silent(Error),
}

impl Register {
    /// Returns every acceptor's copy, by the index of its store.
    pub(crate) async fn copies(&self) -> Vec<(usize, Copy)> {
        let Ok(Some(bench)) = self.shared.bench().await else { return Vec::new() };
        let looks =
            bench.cells.values().map(|cell| async move { (cell.member.index(), cell.inspect().await) });
        let (mut shown, mut copies) = (Vec::new(), Vec::new());
        for (index, look) in futures::future::join_all(looks).await {
            match look {
                Ok(Shown::Damaged(..)) => copies.push((index, Copy::Damaged)),
                Ok(seen) => shown.push((index, seen)),
                Err(e) => copies.push((index, Copy::Silent(e))),
            }
        }
        let damaged = bench.take_damaged(&mut shown);
        copies.extend(damaged.into_iter().map(|(index, ..)| (index, Copy::Damaged)));
        copies.extend(shown.into_iter().map(|(index, shown)| match shown {
            Shown::Good(seen) if !seen.own => (index, Copy::Absent),
            Shown::Good(Seen { state, .. }) => {
                let generation = bench.stage.generation;
                (index, Copy::Sound(Progressed { generation, accepted: state.accepted }))
            }
            Shown::Newer(object) => {
                let Object { generation, state, .. } = *object;
                (index, Copy::Sound(Progressed { generation, accepted: state.accepted }))
            }
            Shown::Damaged(..) => (index, Copy::Damaged),
        }));
        copies.sort_by_key(|(index, _)| *index);
        copies
    }

    /// Returns the value that each acceptor accepted last, by the URL of its store: for people, decided by nobody.
    pub async fn said(&self) -> Vec<(String, Result<Option<Bytes>>)> {
        let heard = self.objects(None).await;
        let said = heard.into_iter().map(|(member, object)| {
            let value = object.map(|object| object.and_then(|object| object.state.value.bytes));
            (member.url().to_owned(), value)
        });
        said.collect()
    }

    /// Mends copies that stay older than the others, or missing, for longer than a write takes to come everywhere; in the
    /// background. Whoever knows what belongs on their stores is told by `Pool::has_older`.
    pub fn mend_older(&self, rt: &Rt) {
        let (register, rt) = (self.clone(), rt.clone());
        let task = rt.clone();
        task.spawn(async move {
            rt.sleep(ON_ITS_WAY).await;
            let Compared::Sound { older } = register.compare(ON_ITS_WAY).await else { return };
            if older.is_empty() {
                return;
            }
            let members = register.shared.roster.current().members.clone();
            older.iter().filter_map(|index| members.get(*index)).for_each(|m| m.is_older(&register.key()));
            if let Err(error) = register.mend().await {
                tracing::debug!(key = %register.key(), %error, "older copies stay for now");
            }
        })
        .detach();
    }

    /// Chooses the current value anew and puts it where it is damaged, older or gone. Says for each store where that failed why.
    pub(crate) async fn mend(&self) -> Result<Vec<(usize, Error)>> {
        let run = async {
            let _turn = self.shared.turn.lock().await;
            let mut pauses = Pauses::new(&self.shared.rt);
            loop {
                if let Some(left) = self.shared.mend_once().await? {
                    return Ok(left);
                }
                pauses.pause().await;
            }
        };
        self.by_deadline(run, "").await
    }
}

impl Shared {
    /// Tries once to do what `mend` does. `None`: others came in between.
    async fn mend_once(self: &Arc<Self>) -> Result<Option<Vec<(usize, Error)>>> {
        self.held.lock().take();
        let Some(bench) = self.bench().await? else { return Ok(None) };
        let looks = bench
            .stores()
            .map(|i| self.ask(&bench, i, move |cell| async move { Ok((i, cell.inspect().await?)) }));
        let shown = futures::future::join_all(looks).await;
        let mut shown: Vec<_> = shown.into_iter().filter_map(|out| out.and_then(|out| out).ok()).collect();
        bench.take_damaged(&mut shown);
        if self.meets_newer(&shown).await? {
            return Ok(None);
        }
        let own = |(i, s): &(usize, Shown)| s.good().filter(|s| s.own).map(|s| (*i, s.clone()));
        let sound: Vec<_> = shown.iter().filter_map(own).collect();
        if sound.len() < bench.majority {
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "of its {} copies only {} can be read, fewer than the {} that decide: bring stores back",
                    bench.cells.len(),
                    sound.len(),
                    bench.majority
                ),
            ));
        }
        let Outcome::Done(()) = self.rounds_over(&bench, sound, |value| Ok((value, ()))).await? else {
            return Ok(None);
        };
        let Some(accepted) = self.held.lock().clone() else { return Ok(None) };
        let mut left = Vec::new();
        for index in bench.stores() {
            // An answer of the second round may still be under way; then the etag refuses this one, which is fine.
            if accepted.etags.lock().contains_key(&index) {
                continue;
            }
            let done = self.bring_up(&bench, index, accepted.clone(), true).await;
            let lost = done.and_then(|done| done).err();
            if let Some(e) = lost.filter(|_| !accepted.etags.lock().contains_key(&index)) {
                left.push((index, e));
            }
        }
        Ok(Some(left))
    }
}
