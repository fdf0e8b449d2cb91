//! The owner's side of handing a volume over: it lets go of the volume when another host asks (model `handover`).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};

use crate::head::Stop;
use crate::session::Session;

/// Pause between two signs to the host that asks that the owner is on the way.
const SAY_AGAIN: Duration = Duration::from_secs(5);
/// Pause after an attempt that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// Hands the volume over when another host asks for it, for as long as the session lives. `let_go`: releases the volume, once
/// no command fills it; writes wait meanwhile, and go on where it fails.
pub async fn hand_over_when_asked<F>(session: Arc<Session>, let_go: impl Fn() -> F)
where
    F: Future<Output = Result<(), Stop>>,
{
    while session.or_end(session.rounds.others.asked()).await.is_ok() && !session.has_ended() {
        tracing::info!(volume = %session.context.title(), "another host asks for the volume: it is handed over");
        let (letting_go, telling) = (pin!(let_go()), pin!(tell(&session)));
        let Either::Left((Err(stop), _)) = select(letting_go, telling).await else { return };
        if !session.has_ended() {
            tracing::warn!(volume = %session.context.title(), error = %stop.error(), "not handed over yet");
        }
        session.context.rt().sleep(AGAIN).await;
    }
}

/// Gives signs of life to the host that asks, while what is unsent is stored.
async fn tell(session: &Arc<Session>) {
    let mut times = session.head.lock().wanted.as_ref().map_or(0, |wanted| wanted.heard);
    loop {
        session.context.rt().sleep(SAY_AGAIN).await;
        times += 1;
        // What fails is said again.
        let _ = session.change(|head| head.hear(session.epoch, times)).await;
    }
}
