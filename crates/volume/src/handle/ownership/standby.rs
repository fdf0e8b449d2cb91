//! A volume that is open here and not owned: released, and shown as it was then; or attached, where it may be handed over,
//! and how its owner is asked for it (model `handover`).
//!
//! Of one that is attached nothing is served: what was read from an older state would stay in the client's caches. All that
//! was acknowledged here is in the pool, so that the volume may go on wherever it is claimed next. Asking is a hint in the
//! head; who owns the volume is decided by releases and claims alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::others_claim::{OthersClaim, PATIENCE};
use super::shown::Shown;
use crate::head::{CopyRound, Head};
use crate::read::VolumeContext;
use crate::space::Tables;
use windlass_base::rt::Instant;
use windlass_base::{Epoch, Error, Nonce, Result};

/// Pause between two looks at the head while an answer is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// Time for which a host that was asked for the volume leaves it to the one that asked.
const YIELD: Duration = Duration::from_secs(10);
/// Time of waiting after which the user is told.
const SILENCE: Duration = Duration::from_secs(2);
/// Pause after which a host says again that it has the volume attached: twice before that is out of date for the owner.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// A released volume as it was when it was opened.
#[derive(Debug)]
pub struct Inert {
    pub shown: Arc<Shown>,
    pub tables: Tables,
    /// Round of a copy that showed no whole state.
    pub round: Option<CopyRound>,
}

impl Inert {
    pub(in crate::handle) fn new(head: &Head, tables: Tables) -> Arc<Inert> {
        Arc::new(Inert { shown: Shown::under(head.active.epoch), tables, round: head.round })
    }
}

/// Facts that tell who comes first when a volume that stands by is to be claimed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standby {
    /// True if the last release was not answered: the volume may still be this host's.
    pub unsure: bool,
    /// Ownership that was let go for another host, and the time until which that one comes first. Without that a busy client
    /// here would claim the volume again before the other host has looked.
    yields: Option<(Epoch, Instant)>,
}

impl Standby {
    /// Returns the facts after a release, as the head tells them.
    pub fn after(head: &Head, now: Instant) -> Standby {
        let asks = head.wanted.as_ref().and_then(|wanted| wanted.asks);
        let yields = asks.filter(|epoch| *epoch == head.active.epoch).map(|epoch| (epoch, now + YIELD));
        Standby { unsure: false, yields }
    }

    pub fn unsure() -> Standby {
        Standby { unsure: true, yields: None }
    }
}

/// Queue of operations that wait for their volume to become this host's: one asks for all.
#[derive(Debug, Default)]
pub struct Queue {
    one: tokio::sync::Mutex<()>,
    /// The last refusal, and when it came: it is the answer for all who waited by then.
    refused: Mutex<Option<(Instant, Arc<Error>)>>,
    /// True if another host has had the volume when this one asked.
    has_asked: AtomicBool,
    /// Claim of another host on the volume.
    pub others: Arc<OthersClaim>,
}

/// The operation that asks for all.
#[derive(Debug)]
pub struct Asker<'a> {
    queue: &'a Queue,
    context: &'a VolumeContext,
    _one: tokio::sync::MutexGuard<'a, ()>,
}

impl Queue {
    /// Waits until this operation may ask for all.
    ///
    /// # Errors
    /// The refusal that another operation got for whom this one has waited.
    pub async fn enter<'a>(&'a self, context: &'a VolumeContext) -> Result<Asker<'a>> {
        let came = context.rt().now();
        let one = self.one.lock().await;
        match &*self.refused.lock() {
            Some((at, error)) if *at >= came => Err(error.share()),
            _ => Ok(Asker { queue: self, context, _one: one }),
        }
    }

    /// Tells whether another host has been asked since this was last called: it may want the volume back.
    pub fn take_asked(&self) -> bool {
        self.has_asked.swap(false, Ordering::Relaxed)
    }
}

impl Asker<'_> {
    /// Waits for the host that the volume was let go for, which comes first.
    pub async fn let_first(&self, standby: &Standby) -> Result<()> {
        let Some((epoch, until)) = standby.yields else { return Ok(()) };
        let rt = self.context.rt();
        while rt.now() < until {
            let head = self.context.cell.read().await?;
            if head.is_none_or(|head| head.active.epoch != epoch) {
                return Ok(());
            }
            rt.sleep(LOOK).await;
        }
        Ok(())
    }

    /// Asks the owner, and returns when the volume may be claimed, or has another owner. `waits` is told once why that
    /// takes long.
    ///
    /// Another host's claim comes first, until its host has had time for it: claims that overtake one another come to no
    /// end where each takes longer than that.
    ///
    /// # Errors
    /// `Owned`: the owner gives it to nobody, or shows no sign of life.
    pub async fn ask(&self, waits: &(dyn Fn(String) + Sync)) -> Result<()> {
        let (context, rt) = (self.context, self.context.rt());
        let (host, nonce) = (&context.engine.host, Nonce(rt.random128()));
        let ask = || context.cell.change(|head| head.ask(host, nonce));
        let head = ask().await?;
        let (epoch, began) = (head.active.epoch, rt.now());
        self.queue.has_asked.store(true, Ordering::Relaxed);
        let (mut sign, mut heard, mut said) = (sign_of_life(&head), began, false);
        let mut now = Some(head);
        while let Some(head) = now.filter(|head| !head.removed && head.active.epoch == epoch) {
            let claimer = self.queue.others.of(&head, host.id, rt.now()).map(|(claim, _)| claim);
            if sign_of_life(&head) != sign {
                (sign, heard) = (sign_of_life(&head), rt.now());
            }
            let patience = PATIENCE + claimer.map_or(Duration::ZERO, |_| self.degrade_after());
            let silent = rt.now().since(heard) >= patience;
            if head.active.released && (claimer.is_none() || silent) {
                return Ok(());
            }
            if silent {
                return Err(self.refuse(head.unanswered(host.id, patience.as_secs())));
            }
            if rt.now().since(began) >= SILENCE && !std::mem::replace(&mut said, true) {
                waits(match (claimer, &head.active.owner) {
                    (Some(claim), _) => format!("I/O waits: {} is opening the volume", claim.host),
                    (None, Some(owner)) => format!("I/O waits: the owner {owner} is asked for the volume"),
                    (None, None) => "I/O waits: the owner is asked for the volume".to_owned(),
                });
            }
            rt.sleep(LOOK).await;
            now = context.cell.read().await?;
            // Another change took its place: an ask of an earlier owner, or none.
            if now.as_ref().is_some_and(|head| {
                head.active.epoch == epoch && !head.active.released && head.asked().is_none()
            }) {
                now = Some(ask().await?);
            }
        }
        Ok(())
    }

    /// Returns how much of its time a claim may spend waiting for one store.
    fn degrade_after(&self) -> Duration {
        self.context.engine.pool.settings().degrade_after().unwrap_or_default()
    }

    fn refuse(&self, error: Error) -> Error {
        let error = error.context(format!("volume {}", self.context.title()));
        *self.queue.refused.lock() = Some((self.context.rt().now(), Arc::new(error.share())));
        error
    }
}

/// Returns the parts of the head that only the owner changes, or who claims the volume.
fn sign_of_life(head: &Head) -> (Nonce, Option<u64>, Option<Nonce>) {
    let claim = head.standing().map(|claim| claim.nonce);
    (head.checkpoint.nonce, head.wanted.as_ref().map(|wanted| wanted.heard), claim)
}

/// A client's presence, for other hosts' sake.
#[derive(Debug)]
pub struct Attachment;

/// Record of whether clients use the volume here.
#[derive(Debug, Default)]
pub struct Attached(Mutex<Weak<Attachment>>);

impl Attached {
    pub fn any(&self) -> bool {
        self.0.lock().strong_count() > 0
    }

    /// Attaches a client. `stands_by`: whether the volume does; `None`: it is not open any more.
    pub fn attach<F>(&self, context: &Arc<VolumeContext>, stands_by: F) -> Arc<Attachment>
    where
        F: Fn() -> Option<bool> + Send + 'static,
    {
        let mut known = self.0.lock();
        if let Some(attachment) = known.upgrade() {
            return attachment;
        }
        let attachment = Arc::new(Attachment);
        *known = Arc::downgrade(&attachment);
        let attached = known.clone();
        let stands_by = move || stands_by().filter(|_| attached.strong_count() > 0);
        context.rt().spawn(say_attached(context.clone(), stands_by)).detach();
        attachment
    }
}

/// Says in the head that this host has the volume attached, for as long as it has: its owner then keeps little unsent,
/// and looks often whether it is asked. `stands_by`: whether that is to be said; `None`: no more.
async fn say_attached(context: Arc<VolumeContext>, stands_by: impl Fn() -> Option<bool>) {
    while let Some(stands_by) = stands_by() {
        if stands_by {
            let (host, nonce) = (&context.engine.host, Nonce(context.rt().random128()));
            if let Err(error) = context.cell.change(|head| head.attach(host, nonce)).await {
                tracing::debug!(volume = %context.title(), %error, "the owner is not told that the volume is attached here");
            }
        }
        context.rt().sleep(SAY_AGAIN).await;
    }
}
