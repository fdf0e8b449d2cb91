//! A volume moved to another pool, its clients with it; and what is told who asks for it by its old name.

use std::sync::Arc;

use serde_json::json;

use crate::daemon::answers::VolumeMoved;
use crate::daemon::api::{Outcome, VolumeMove, VolumePath};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::pools::OpenPool;
use crate::daemon::progress::ProgressSink;
use crate::daemon::volume_clients::{Alone, Session, Visitor, VolumeClients};
use windlass_base::units::{show_bytes, show_count};
use windlass_base::{Error, Kind, Name, Result, VolumeId, utc};
use windlass_volume::{
    MovedVolume, Moving, MovingClients, OpenMode, Passage, Volume, Volumes, check_other, finish_move,
    give_up_move, move_volume, moved_to, while_moved,
};

/// Clients that use the volume, until its move is over.
struct Clients {
    sessions: Arc<VolumeClients>,
    to: (Name, Volumes),
    /// Session that keeps the volume in use.
    source: Session,
    volume: VolumeId,
    /// Session that keeps the copy in use, and the claim by which nobody takes the name that the copy will have.
    _held: (Session, Alone),
}

impl MovingClients for Clients {
    fn volume(&self) -> Option<VolumeId> {
        Some(self.volume)
    }

    fn passages(&self) -> Vec<Arc<Passage>> {
        self.sessions.passages(&self.source)
    }

    fn follow(&self, moved: &Arc<Volume>) {
        self.sessions.moved(&self.source, (&self.to.0, &self.to.1), moved);
    }
}

/// Moves a volume. If this is cut off before the switch, the next call begins again where it was; after the switch,
/// what is left to do goes on.
pub async fn run(state: &EngineState, args: &VolumeMove, progress: &ProgressSink) -> Result<Outcome> {
    let (path, to) = (&args.path, VolumePath { pool: args.to.clone(), volume: args.path.volume.clone() });
    let open = state.pools.get(&path.pool).await?;
    let (source, target) = (&open.volumes, &state.pools.get(&to.pool).await?.volumes);
    check_other((source, &path.volume), target)?;
    if args.abort {
        return Box::pin(give_up(state, (path, source), (&to, target))).await;
    }
    if Box::pin(finish_move((source, &path.volume), target)).await? {
        return answer(&open, path, to, MovedVolume { already: true, ..MovedVolume::default() });
    }
    let clients = Arc::new(Box::pin(clients(state, (path, source), (&to, target))).await?);
    let told = |doing: &str, done, total| progress.tell(doing, done, total);
    let how = Moving { snapshots: !args.no_snapshots, clients, progress: &told };
    let moved = Box::pin(move_volume((source, &path.volume), target, how)).await?;
    answer(&open, path, to, moved)
}

async fn clients(
    state: &EngineState,
    (path, source): (&VolumePath, &Volumes),
    (to, target): (&VolumePath, &Volumes),
) -> Result<Clients> {
    let sessions = &state.sessions;
    if target.info(&to.volume).await.is_ok() {
        return Err(Error::new(Kind::Exists, format!("volume {to} exists")));
    }
    let alone = sessions.alone(to, target, "moved here", false).await?;
    let who = Visitor::Command("a move");
    let mut session = sessions.enter(path, source, who)?;
    // From now on nobody begins to hold it alone.
    sessions.check_free(path)?;
    // Requests of one that is not served yet could not be held.
    sessions.check_none_expected(path, source.key_of(&path.volume).await?)?;
    let opened = source.open(&path.volume, OpenMode::Normal).await;
    let opened = explained(state, path, opened).await?;
    session.opened(&opened)?;
    let copy = VolumePath { pool: to.pool.clone(), volume: while_moved(target, &to.volume) };
    let copy = sessions.enter(&copy, target, who)?;
    let to = (to.pool.clone(), target.clone());
    let volume = opened.id();
    Ok(Clients { sessions: sessions.clone(), to, source: session, volume, _held: (copy, alone) })
}

async fn give_up(
    state: &EngineState,
    (path, source): (&VolumePath, &Volumes),
    (to, target): (&VolumePath, &Volumes),
) -> Result<Outcome> {
    let _alone = state.sessions.alone(to, target, "moved here", false).await?;
    let gone = give_up_move((source, &path.volume), target).await?;
    let value = json!({"from": path, "to": to, "given_up": gone});
    let note = match gone {
        true => format!("what a move of {path} had copied to {} is removed", to.pool),
        false => format!("no move of {path} to {} was begun here", to.pool),
    };
    Ok(Outcome { value, ..Outcome::default() }.note(note))
}

fn answer(open: &OpenPool, from: &VolumePath, to: VolumePath, moved: MovedVolume) -> Result<Outcome> {
    let kept = open.pool.settings().trash().filter(|_| !moved.already);
    let trash_until = kept.map(|kept| utc::show(open.pool.rt().wall_ms() + kept.as_millis() as u64));
    let answer = VolumeMoved { from: from.clone(), to, trash_until, moved };
    let VolumeMoved { to, moved, .. } = &answer;
    let outcome = Outcome::of(&answer)?.note(said(&answer)).degraded(moved.unfinished.is_some());
    let left = moved.left.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let left = (!left.is_empty()).then(|| format!("these snapshots stay with {from} in the trash: {left}"));
    let held = moved.held.as_ref().map(|why| format!("what {from} was stays in the trash: {why}"));
    let unfinished = moved.unfinished.as_ref().map(|why| {
        format!(
            "its clients use the copy, but {why}: `windlass volume move {from} {}` does the rest",
            to.pool
        )
    });
    Ok(outcome.note_all(left).note_all(held).note_all(unfinished))
}

fn said(VolumeMoved { from, to, trash_until, moved }: &VolumeMoved) -> String {
    if moved.already {
        return format!("{from} is {to} by now");
    }
    let left = match trash_until {
        Some(until) => format!("is in the trash of {} until {until}", from.pool),
        None => format!("is removed, as {} keeps no trash", from.pool),
    };
    format!(
        "{from} is {to} now, and what it was {left}: {} were copied in {}, of that {} while clients waited for {} ms",
        show_bytes(moved.copied_bytes),
        show_count(moved.rounds, "round"),
        show_bytes(moved.rest_bytes),
        moved.pause_ms
    )
}

/// Tells where a volume went that is asked for by its old name, instead of that there is none. What a move that was
/// cut off has left to do is done.
pub async fn explained<T>(state: &EngineState, path: &VolumePath, done: Result<T>) -> Result<T> {
    let error = match done {
        Err(e) if e.is(Kind::NotFound) => e,
        done => return done,
    };
    let Ok(open) = state.pools.get(&path.pool).await else { return Err(error) };
    let Ok(Some(moved)) = moved_to(&open.volumes, &path.volume).await else { return Err(error) };
    if let Ok(target) = state.pools.get(&moved.pool).await
        && let Err(error) = Box::pin(finish_move((&open.volumes, &path.volume), &target.volumes)).await
    {
        tracing::warn!(volume = %path, pool = %moved.pool, %error, "what a move has left to do is not done yet");
    }
    Err(Error::new(
        Kind::NotFound,
        format!("{path} was moved to {}/{}: use it there", moved.pool, moved.name),
    ))
}

/// Does what a move to this pool has left to do, where that is known only by the copy, which has no name of its own
/// yet.
pub async fn finish_of_copy(state: &EngineState, copy: &VolumePath) {
    let Some(volume) = copy.volume.moved_as() else { return };
    let Ok(target) = state.pools.get(&copy.pool).await else { return };
    for pool in state.pools.known().into_iter().map(|known| known.name).filter(|name| *name != copy.pool) {
        let Ok(from) = state.pools.get(&pool).await else { continue };
        match Box::pin(finish_move((&from.volumes, &volume), &target.volumes)).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(volume = %copy, %error, "what a move has left to do is not done yet")
            }
        }
    }
}
