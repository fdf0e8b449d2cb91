//! The head in its register: reading it, and changing it by the pure functions of `head`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::confirmed::{Floor, place};
use super::head_value::{Claim, Head, Move};
use super::settings::Host;
use windlass_base::rt::Rt;
use windlass_base::{Epoch, Error, Kind, Nonce, Result};
use windlass_pool::{Change, Compared, Register, Veto};

/// Time for which a volume that has a name and no register is taken for one that is being created.
pub const CREATION: Duration = Duration::from_secs(3);

/// Time for which stores are waited for when their copies are compared.
const COMPARE: Duration = Duration::from_secs(2);

/// The register of a volume, whose values are heads.
#[derive(Clone, Debug)]
pub struct HeadRegister {
    register: Register,
    floor: Floor,
    /// Reason why a value that the register was about to choose was turned down.
    vetoed: Arc<Mutex<Option<String>>>,
}

fn missing() -> Error {
    Error::new(Kind::NotFound, "the volume has no description in the pool (its creation was never finished)")
}

/// Heads that some stores show and most do not (see `HeadRegister::ahead_of_most`).
#[derive(Debug)]
pub struct AheadOfMost {
    /// Newer heads, each with the URL of the store that shows it.
    pub heads: Vec<(String, Head)>,
    /// Is true if most stores were put back for certain.
    pub proven: bool,
    above: u64,
}

impl HeadRegister {
    pub fn new(register: Register) -> HeadRegister {
        HeadRegister { register, floor: Floor::default(), vetoed: Arc::default() }
    }

    /// Returns this register with a floor: no head is accepted that is older than what this host knows of.
    pub fn above(&self, floor: Floor) -> HeadRegister {
        let (judge, vetoed) = (floor.clone(), Arc::<Mutex<Option<String>>>::default());
        let (said, register) = (vetoed.clone(), self.register.clone());
        let veto = Veto::new(move |value| {
            let why = judge.refuses(&Head::decode(value).ok()?, register.guesses())?;
            *said.lock() = Some(why.clone());
            Some(why)
        });
        HeadRegister { register: self.register.with_veto(veto), floor, vetoed }
    }

    /// Returns the newest ownership that this host has noted. Claims are made above it, so that this host's
    /// note of how far the volume has come grows on.
    pub fn last_epoch(&self) -> Epoch {
        self.floor.last_epoch()
    }

    /// Checks that a head is not below the floor. The error names the stores with what each of them shows,
    /// since one of them may be alone with it.
    pub async fn check(&self, head: Head) -> Result<Head> {
        match self.floor.refuses(&head, self.register.guesses()) {
            Some(why) => Err(self.refused(&why).await),
            None => Ok(head),
        }
    }

    async fn explained<T>(&self, done: Result<T>) -> Result<T> {
        let vetoed = self.vetoed.lock().take();
        match (done, vetoed) {
            (Err(_), Some(why)) => Err(self.refused(&why).await),
            (done, _) => done,
        }
    }

    async fn refused(&self, why: &str) -> Error {
        let said = self.register.said().await.into_iter().map(|(url, value)| match value {
            Ok(Some(value)) => match Head::decode(&value) {
                Ok(head) => format!("{url}: {}", place(&head)),
                Err(e) => format!("{url}: {e}"),
            },
            Ok(None) => format!("{url}: nothing"),
            Err(e) => e.to_string(),
        });
        let (said, title, key) =
            (said.collect::<Vec<_>>().join("; "), &self.floor.title, self.register.key());
        Error::new(
            Kind::Refused,
            format!(
                "{why}. The stores show: {said}. Where a store was set back, or somebody wrote to it who may not, delete {key} \
                 there and open the volume again; if all were set back on purpose, `windlass volume take-over {title} \
                 --accept-loss` takes what they show"
            ),
        )
    }

    /// Compares what all stores show. Returns whether copies were found that are older than the others, or
    /// missing; a task of its own mends them.
    ///
    /// # Errors
    /// `Refused`: a majority of the stores was put back from a backup, and others show a newer head.
    pub async fn compare(&self, rt: &Rt, title: &str) -> Result<bool> {
        let (older, newer) = match self.register.compare_soon(COMPARE).await {
            Compared::Sound { older } if older.is_empty() => return Ok(false),
            Compared::Sound { .. } => {
                self.register.mend_older(rt);
                return Ok(true);
            }
            Compared::SetBack { older, newer, .. } => (older, newer),
        };
        let show = |all: Vec<(String, Option<Bytes>)>| {
            let said = all.into_iter().map(|(url, value)| match value.as_deref().map(Head::decode) {
                Some(Ok(head)) => format!("{url}: {}", place(&head)),
                Some(Err(e)) => format!("{url}: {e}"),
                None => format!("{url}: nothing"),
            });
            said.collect::<Vec<_>>().join("; ")
        };
        Err(Error::new(
            Kind::Refused,
            format!(
                "volume {title}: most stores show an older state of it ({}) than others, of which most must once have known ({}): some \
                 were put back from a backup, and not all. Put the others back too, or bring back what these held; or `windlass \
                 volume take-over {title} --accept-loss` takes what most of them show, and puts it on all",
                show(older),
                show(newer)
            ),
        ))
    }

    /// Returns the heads that are ahead of what most stores show, for a user who takes what most show.
    /// `None`: there are none.
    pub async fn ahead_of_most(&self) -> Option<AheadOfMost> {
        let Compared::SetBack { newer, above, proven, .. } = self.register.compare_for_consent(COMPARE).await
        else {
            return None;
        };
        let heads = newer.into_iter().filter_map(|(url, value)| Some((url, Head::decode(&value?).ok()?)));
        Some(AheadOfMost { heads: heads.collect(), above, proven })
    }

    /// Makes what most stores show the volume's head on all of them, over what is ahead of it. Returns a
    /// sentence for the user that tells what was put aside.
    ///
    /// The number of every ownership that any store shows stays used, as by a claim of this host's that was
    /// withdrawn: chunks are named by it.
    pub async fn take_what_most_show(
        &self,
        AheadOfMost { heads, above, .. }: AheadOfMost,
        (host, nonce, now_ms): (&Host, Nonce, u64),
    ) -> Result<String> {
        let used = heads.iter().map(|(_, head)| head.last_epoch()).max().unwrap_or_default();
        let with_used = |value: &Bytes| {
            let mut head = Head::decode(value)?;
            if head.last_epoch() < used {
                let (host, since_ms) = (host.clone(), now_ms);
                head.claim = Some(Claim { epoch: used, nonce, host, since_ms, withdrawn: true });
            }
            head.encode()
        };
        self.register.choose_what_most_show(above, with_used).await?;
        let aside = heads.iter().map(|(url, head)| format!("{url}: {}", place(head))).collect::<Vec<_>>();
        Ok(format!("what most stores show was taken; put aside was what others show ({})", aside.join("; ")))
    }

    /// Returns the current head; `None` when the volume was never created.
    pub async fn read(&self) -> Result<Option<Head>> {
        let value = self.explained(self.register.read().await).await?;
        match value.as_deref().map(Head::decode).transpose()? {
            Some(head) => self.check(head).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns the head as of a moment after this call began (protocol §1.5 b).
    pub async fn confirm(&self) -> Result<Head> {
        let value = self.explained(self.register.confirm().await).await?;
        self.check(value.as_deref().map(Head::decode).transpose()?.ok_or_else(missing)?).await
    }

    /// Applies one change, and returns the head that is current with it. After an unknown outcome `step` is
    /// called again with the value that is current then. So it must recognise what it has done already (the
    /// functions of `Head` do).
    pub async fn change(&self, mut step: impl FnMut(&Head) -> Result<Move> + Send) -> Result<Head> {
        self.change_by(&mut step).await
    }

    async fn change_by(&self, step: &mut (dyn FnMut(&Head) -> Result<Move> + Send)) -> Result<Head> {
        let apply = |value: Option<&Bytes>| {
            let head = Head::decode(value.ok_or_else(missing)?)?;
            Ok(match step(&head)? {
                Move::Already => Change::Keep(head),
                Move::To(next) => Change::Put(next.encode()?, *next),
            })
        };
        self.explained(self.register.change(apply).await).await
    }

    /// Creates the volume. An id is drawn once, so a head that is there already is this host's own unless it
    /// was cancelled. `Removed`: it was cancelled.
    pub async fn create(&self, head: &Head) -> Result<()> {
        let bytes = head.encode_new()?;
        let apply = |value: Option<&Bytes>| match value {
            None => Ok(Change::Put(bytes.clone(), ())),
            Some(there) => match Head::decode(there)? {
                there if there.removed => {
                    Err(Error::new(Kind::Removed, "the volume's creation was cancelled by another"))
                }
                _ => Ok(Change::Keep(())),
            },
        };
        self.register.change(apply).await
    }

    /// Makes sure that the volume is never created. Returns false if it exists.
    pub async fn cancel(&self, head: &Head) -> Result<bool> {
        let mut gone = head.clone();
        gone.removed = true;
        let bytes = gone.encode()?;
        let apply = |value: Option<&Bytes>| match value {
            None => Ok(Change::Put(bytes.clone(), true)),
            Some(there) => Ok(Change::Keep(Head::decode(there)?.removed)),
        };
        self.register.change(apply).await
    }
}
