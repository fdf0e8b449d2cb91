//! Trying a store's promises anew when its server calls itself otherwise than before: it was upgraded, or is another one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::context::PoolContext;
use crate::stores::Member;
use windlass_base::rt::Instant;
use windlass_base::{Kind, Result};

/// Pause between a server's new name and the trial of its promises: most commands are over by then, and a server that has just
/// started is at ease.
const SETTLE: Duration = Duration::from_secs(5);
/// A look that came to nothing, since the store did not answer, is made again after this.
const AGAIN: Duration = Duration::from_secs(60);
/// Number of trials of one store within an hour at most: a server that calls itself otherwise all the time costs no more.
const TRIALS_MAX: usize = 16;
const HOUR: Duration = Duration::from_secs(3600);

/// The times within the last hour at which each store was tried, by its URL.
#[derive(Default)]
struct Trials(BTreeMap<String, VecDeque<Instant>>);

impl Trials {
    /// Tells whether the store may be tried now; if so, counts the trial.
    fn begin(&mut self, url: &str, now: Instant) -> bool {
        let of_store = self.0.entry(url.to_owned()).or_default();
        while of_store.front().is_some_and(|at| now.since(*at) >= HOUR) {
            of_store.pop_front();
        }
        let may = of_store.len() < TRIALS_MAX;
        if may {
            of_store.push_back(now);
        }
        may
    }
}

/// Goes on as long as the pool lives.
pub fn start(context: &Arc<PoolContext>) {
    let (rt, bell) = (context.rt().clone(), context.roster().server_bell().clone());
    let (time, context) = (rt.clone(), Arc::downgrade(context));
    let task = async move {
        bell.notified().await;
        let mut trials = Trials::default();
        loop {
            time.sleep(SETTLE).await;
            let Some(now) = context.upgrade() else { return };
            let told = prove_new(&now, &mut trials).await;
            drop(now);
            match told {
                true => bell.notified().await,
                false => time.sleep(AGAIN).await,
            }
        }
    };
    rt.spawn(task).detach();
}

/// Tries each store whose server has a name that is not proven. Returns whether all could be told; false where a store is
/// away, was tried too often or gave no answer, so that it has to be tried again.
async fn prove_new(context: &PoolContext, trials: &mut Trials) -> bool {
    let mut told = true;
    for member in context.members() {
        let Some(server) = member.server() else { continue };
        if context.proven_servers().knows(member.url(), &server).await {
            continue;
        }
        // One that is away is tried when it is back.
        let is_asked = member.standing().usable() || member.is_barred();
        if !is_asked || !trials.begin(member.url(), context.rt().now()) {
            told = false;
            continue;
        }
        match prove(context, &member).await {
            Ok(()) => {}
            // It is out from now on, and the log says why.
            Err(e) if e.is(Kind::Refused) => {}
            Err(error) => {
                tracing::warn!(%error, store = member.url(), "its server calls itself {server} now, and its promises could not be tried");
                told = false;
            }
        }
    }
    told
}

/// Tries a store's promises, and remembers the server that keeps them.
pub fn prove<'f>(context: &'f PoolContext, member: &'f Member) -> BoxFuture<'f, Result<()>> {
    Box::pin(async move {
        member.check_promises(context.roster().trial()).await?;
        if let Some(server) = member.server() {
            context.proven_servers().add(member.url(), &server).await;
        }
        Ok(())
    })
}
