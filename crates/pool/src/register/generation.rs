//! Which generation of the pool's membership a register is in (protocol §2.8, model `generation`).
//!
//! The pool register goes first; every other register follows when it is next changed, or when the plan that made the
//! generation comes to it. Until that plan is through, a register is in the pool's generation or in the one before. It is
//! in the pool's as soon as one of its objects there says so, since nobody writes such an object before the seal is known
//! chosen. Therefore one acceptor's answer is waited for even where too few can come to decide.
//!
//! Where the pool's description says that stores of the generation before were given up (`force-recover`), those are not
//! asked there: all that are left must agree, one by one, which any two such rounds have in common.
//!
//! Invariants: an object of an earlier generation counts as absent, and is replaced on its etag; a change in the generation
//! before is a seal or nothing; where a register goes on it begins with the sealed value.

use std::sync::Arc;
use std::time::Duration;

use super::acceptor::{Cell, Shown, Stage};
use super::gather_answers::gather_news;
use super::object::{Object, Opening, Value};
use super::proposer::{Bench, Change, Register, Shared, undecided};
use crate::stores::Member;
use crate::stores::Membership;
use crate::stores::PoolConfig;
use windlass_base::{Error, Generation, Kind, Result};

/// The answer of a generation's acceptors about a register.
enum Survey {
    /// An object of this generation or a later one.
    There(Box<Object>),
    /// A majority has none.
    Nothing,
    /// Too few answer.
    Unclear,
}

/// An acceptor, and what it holds.
pub(super) type Heard = (Arc<Member>, Result<Option<Object>>);

fn newest(heard: &[Heard]) -> Option<&Object> {
    let objects = heard.iter().filter_map(|(_, out)| out.as_ref().ok()?.as_ref());
    objects.max_by_key(|object| (object.generation, object.state.accepted))
}

impl Register {
    /// Returns the pool's description by which the newest generation began that any acceptor shows, or as it was changed
    /// since. It is what those acceptors say that answer, decided by nobody. Changes nothing. For the pool register.
    pub(crate) async fn newest_description(&self) -> Result<Option<PoolConfig>> {
        let heard = self.objects(None).await;
        let Some(object) = newest(&heard) else { return Ok(None) };
        let Some(value) = &object.state.value.bytes else { return Ok(None) };
        let config = PoolConfig::decode(value)?;
        // A seal is the next generation's.
        Ok(if config.generation > object.generation { config.predecessor() } else { Some(config) })
    }

    /// Goes on to the newest generation that any acceptor is in: also where the others agree, since they were given up. An
    /// error, afterwards, where one did not answer that is not known to be away: it may know better.
    pub(crate) async fn hear_of_newer(&self) -> Result<()> {
        let heard = self.hear(None).await?;
        for (member, out) in heard {
            if let Err(e) = out
                && e.is_transient()
                && member.attest().await.is_ok()
            {
                return Err(e);
            }
        }
        Ok(())
    }

    /// Goes on like `hear_of_newer`, by those acceptors alone that answer within `patience`. Silence is no error.
    pub(crate) async fn hear_soon(&self, patience: Duration) -> Result<()> {
        self.hear(Some(patience)).await.map(drop)
    }

    /// Goes on to the generation that a chosen seal begins, though none of its own acceptors tells of it yet. Changes nothing.
    pub(crate) async fn hear_of_seal(&self) -> Result<()> {
        self.shared.glance().await.map(drop)
    }

    async fn hear(&self, patience: Option<Duration>) -> Result<Vec<Heard>> {
        let now = self.shared.roster.current().generation;
        let heard = self.objects(patience).await;
        match newest(&heard) {
            Some(object) if object.generation > now => self.shared.learn_newer(object).await?,
            _ => {}
        }
        Ok(heard)
    }

    /// Returns what each acceptor holds, or why it did not answer within `patience`.
    pub(super) async fn objects(&self, patience: Option<Duration>) -> Vec<Heard> {
        futures::future::join_all(self.looks(patience)).await
    }

    /// Returns one future for each acceptor, which gives what `objects` collects.
    pub(super) fn looks(&self, patience: Option<Duration>) -> Vec<impl Future<Output = Heard> + Send + '_> {
        let now = self.shared.roster.current();
        let stage = Arc::new(Stage::default());
        let looks = now.acceptor_members().map(|m| {
            let cell = Cell { member: m.clone(), register: self.shared.id, stage: stage.clone() };
            async move {
                let out = match patience {
                    Some(patience) => self.shared.rt.timeout(patience, cell.object()).await,
                    None => Some(cell.object().await),
                };
                let late =
                    || Err(Error::new(Kind::Timeout, format!("store {} does not answer", cell.member.url())));
                (cell.member.clone(), out.unwrap_or_else(late))
            }
        });
        looks.collect()
    }

    /// Makes sure that the register is in the pool's generation, with its value known chosen there.
    pub(crate) async fn bring(&self) -> Result<()> {
        self.change(|_| Ok(Change::Keep(()))).await
    }

    /// Takes the pool register into the next generation: what `f` puts is the new description, and seals this generation.
    pub(crate) async fn seal<T: Send>(
        &self,
        mut f: impl FnMut(Option<&bytes::Bytes>) -> Result<Change<T>> + Send,
    ) -> Result<T> {
        let mut out = None;
        self.take_turn(&mut |current| f(current).map(|change| change.keep_in(&mut out)), true).await?;
        out.ok_or_else(undecided)
    }
}

impl Shared {
    fn bench_on(&self, membership: &Membership, stage: Arc<Stage>, behind: bool) -> Bench {
        let cell = |member: &Arc<Member>| {
            (member.index(), Cell { member: member.clone(), register: self.id, stage: stage.clone() })
        };
        let cells = membership.deciding().map(cell).collect();
        Bench { majority: membership.majority(), cells, stage, behind }
    }

    /// Returns the acceptors of the generation that something was done in, while it is the pool's.
    pub fn bench_of(&self, stage: &Arc<Stage>) -> Option<Bench> {
        let now = self.roster.current();
        (now.generation == stage.generation).then(|| self.bench_on(&now, stage.clone(), false))
    }

    /// Returns the acceptors that hold the register now. `None`: too few answer to tell.
    pub async fn bench(self: &Arc<Self>) -> Result<Option<Bench>> {
        loop {
            let now = self.roster.current();
            let known = self.stage.lock().clone();
            if let Some(stage) = known
                && stage.generation == now.generation
            {
                return Ok(Some(self.bench_on(&now, stage, false)));
            }
            if now.generation == Generation(0) {
                return Ok(Some(self.begin(&now, Opening::default())));
            }
            match self.survey(&now).await {
                Survey::Unclear => return Ok(None),
                Survey::There(object) if object.generation == now.generation => {
                    return Ok(Some(self.begin(&now, object.opening)));
                }
                Survey::There(object) => self.roster.learn(&object.opening.members).await?,
                Survey::Nothing => {
                    let Some(before) = &now.before else {
                        // All registers that there were have come along: this one is new.
                        let members = now.description.clone();
                        return Ok(Some(self.begin(&now, Opening { members, base: None })));
                    };
                    return self.bench_before(before).await;
                }
            }
        }
    }

    fn begin(&self, now: &Membership, opening: Opening) -> Bench {
        let stage = Arc::new(Stage { generation: now.generation, opening });
        *self.stage.lock() = Some(stage.clone());
        self.bench_on(now, stage, false)
    }

    /// Returns the acceptors of the generation before, where the pool is a generation ahead of the register.
    async fn bench_before(self: &Arc<Self>, before: &Membership) -> Result<Option<Bench>> {
        let opening = match before.generation {
            Generation(0) => Opening::default(),
            _ => match self.survey(before).await {
                Survey::Unclear => return Ok(None),
                Survey::There(object) if object.generation > before.generation => {
                    self.roster.learn(&object.opening.members).await?;
                    return Ok(None);
                }
                Survey::There(object) => object.opening,
                Survey::Nothing => Opening { members: before.description.clone(), base: None },
            },
        };
        let stage = Arc::new(Stage { generation: before.generation, opening });
        Ok(Some(self.bench_on(before, stage, true)))
    }

    async fn survey(self: &Arc<Self>, membership: &Membership) -> Survey {
        let generation = membership.generation;
        let bench = self.bench_on(membership, Arc::default(), false);
        let asks: Vec<_> = bench
            .stores()
            .map(|index| self.ask(&bench, index, |cell| async move { cell.object().await }))
            .collect();
        let there = |object: &Option<Object>| object.as_ref().is_some_and(|o| o.generation >= generation);
        let answers = gather_news(&self.rt, asks, bench.majority, |all| all.iter().any(there)).await;
        let enough = answers.len() >= bench.majority;
        match answers.into_iter().find(there).flatten() {
            Some(object) => Survey::There(Box::new(object)),
            None if enough => Survey::Nothing,
            None => Survey::Unclear,
        }
    }

    /// Goes on to a later generation where one of the acceptors that were asked is in it; tells whether one was.
    pub async fn meets_newer(&self, seen: &[(usize, Shown)]) -> Result<bool> {
        let newer = seen.iter().find_map(|(_, shown)| match shown {
            Shown::Newer(object) => Some(object),
            _ => None,
        });
        let Some(object) = newer else { return Ok(false) };
        self.learn_newer(object).await.map(|()| true)
    }

    pub async fn learn_newer(&self, object: &Object) -> Result<()> {
        self.roster.learn(&object.opening.members).await?;
        self.enter(object.generation, object.opening.clone());
        Ok(())
    }

    /// Goes on where the seal says, once a sealed value is known chosen.
    pub async fn go_on(&self, sealed: &Value) -> Result<()> {
        let members = sealed.seal.clone().unwrap_or_default();
        let generation = self.roster.learn_of(&members).await?;
        self.enter(generation, Opening { members, base: sealed.bytes.clone() });
        Ok(())
    }

    fn enter(&self, generation: Generation, opening: Opening) {
        let mut stage = self.stage.lock();
        if stage.as_ref().is_none_or(|s| s.generation < generation) {
            *stage = Some(Arc::new(Stage { generation, opening }));
            self.held.lock().take();
        }
    }
}
