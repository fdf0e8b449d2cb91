//! Taking a volume over from another host, and what a user gives up by `--accept-loss` then.

use futures::future::BoxFuture;

use crate::catalog::volumes::{OpenMode, Volumes};
use crate::handle::Known;
use crate::head::{FlushMode, TakeOver};
use crate::session::takeover::Notes;
use windlass_base::{Kind, Name, Nonce, Result, VolumeId};

/// Part of a note: what becomes of the clients on the host from which the volume was taken.
const ERRORS: &str = "its clients get errors, within 5 s of what they read next";

impl Volumes {
    /// Makes this engine the owner now, where another host is.
    pub fn take_over<'f>(&'f self, name: &'f Name, accept_loss: bool) -> BoxFuture<'f, Result<TakeOver>> {
        Box::pin(async move {
            let began = self.engine.rt.now();
            let id = self.id(name).await?;
            let mut notes = Vec::new();
            if accept_loss {
                notes.extend(self.take_what_most_show(id).await?);
                self.forget_newer(name, id).await?;
            }
            let head = self.head(name, id).await?;
            // A session that another host has shut out may not have noticed yet: opening the volume tells it.
            let mine = self.here(id).is_some_and(|v| match v.known() {
                Known::Live(session) => session.epoch == head.active.epoch,
                _ => false,
            });
            if head.active.released || mine {
                return Ok(TakeOver { already: true, notes, ..TakeOver::default() });
            }
            let from = head.active.owner.clone().filter(|h| h.id != self.engine.host.id);
            let volume = self.open(name, OpenMode::TakeOver { accept_loss }).await?;
            let Notes { said, guessed } = volume.take_notes();
            let given_up = accept_loss && head.is_mirrored_elsewhere(self.engine.host.id);
            notes.extend(said);
            let mut done = TakeOver { already: from.is_none(), notes, ..TakeOver::default() };
            if let Some(host) = from {
                done.notes.push(match head.settings.flush {
                FlushMode::Local => format!(
                    "what {} acknowledged and had not yet stored in the pool is not in the volume; it is kept there, in \
                     its journal. Until {} notices (within 5 s of what its clients ask for, if it reaches the stores) they may still be \
                     answered from its disk",
                    host.name, host.name
                ),
                FlushMode::Pool | FlushMode::Mirror if guessed => format!(
                    "flushed writes of {} may be among those that are lost; {ERRORS}",
                    host.name
                ),
                FlushMode::Mirror if given_up => format!(
                    "flushed writes of {} that only a peer's journal has are lost; {ERRORS}",
                    host.name
                ),
                FlushMode::Pool | FlushMode::Mirror => {
                    format!("all flushed writes of {} are in the volume; {ERRORS}", host.name)
                }
            });
                done.from = Some(host.name);
            }
            done.took_ms = self.engine.rt.now().since(began).as_millis() as u64;
            Ok(done)
        })
    }

    /// Forgets the newer state that this host has seen, so that the user can take what the stores show. An open volume that has
    /// seen it would refuse the older one as long as it lives, so it is ended: its clients get errors.
    async fn forget_newer(&self, name: &Name, id: VolumeId) -> Result<()> {
        let seat = self.seat(id);
        let _turn = seat.turn.lock().await;
        let refused = self.head(name, id).await.is_err_and(|e| e.is(Kind::Refused));
        // What was found dead under the newer state may be needed by this one.
        self.engine.pool.forget_deletions(id);
        let open = seat.volume.lock().take_if(|_| refused);
        let Some(open) = open else { return self.engine.confirmed(id).forget().await };
        open.forgotten().await;
        // What its session was about to write down comes before this or sees it.
        open.confirmed().forget().await
    }

    /// Takes the state that most stores show, by the user's consent to loss. Where it is not proven that most stores were put
    /// back, that state is taken only if what a newer head names is gone. Returns what was put aside, if anything.
    async fn take_what_most_show(&self, id: VolumeId) -> Result<Option<String>> {
        let cell = self.engine.cell(id);
        let Some(ahead) = cell.ahead_of_most().await else { return Ok(None) };
        if !ahead.proven {
            for (_, head) in &ahead.heads {
                match self.engine.is_whole(head).await {
                    Ok(()) => return Ok(None),
                    Err(e) if e.is(Kind::Corrupt) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        let by = (&self.engine.host, Nonce(self.engine.rt.random128()), self.engine.rt.wall_ms());
        cell.take_what_most_show(ahead, by).await.map(Some)
    }
}
