//! A volume moved to another pool while it is used (model `move`).
//!
//! A copy is made there under a name that nobody can give, each host's own, so that only the owner of the volume fills it. It
//! is brought up to date again and again, beside writes, by snapshots that both get, until what is left is little; then
//! the switch is made (`switch`). Cut off before, the volume is as it was and the copy waits for the next attempt; cut off
//! after, the volume's head says where it went, and whoever comes by it does the rest.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::copy_snapshot::{Copied, Copying, Rest, copied_as, copy_snapshot};
use super::switch::{MovingClients, Switch, Switched, finish, stem};
use crate::catalog::{OpenMode, Trash, Volumes, snapshot_group};
use crate::handle::Volume;
use crate::head::{BootTrace, Head, Leaving, Moved, VolumeSettings, is_template};
use crate::space::{State, Tables};
use windlass_base::rt::Instant;
use windlass_base::units::show_bytes;
use windlass_base::{Error, Kind, Lsn, Name, Result, VolumeId};

/// Largest number of times that the copy is brought up to date; one that then still is far behind will always be.
const ROUNDS_MAX: u64 = 40;
/// Time that the rest may take to copy while clients wait, as fast as copying was so far. It becomes longer by as much after
/// each `PATIENCE` rounds, for clients who write so fast that the rest never gets less.
const REST_TAKES: Duration = Duration::from_millis(100);
const PATIENCE: u64 = 5;
/// Bytes that the rest may have where that rate is not known yet, and at most.
const REST: u64 = 4 << 20;
const REST_MAX: u64 = 64 << 20;
/// Pause before stores that are away are asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// Copied bytes below which the rate is not known.
const TELLS_RATE: u64 = 4 << 20;

/// Options of moving a volume.
pub struct Moving<'a> {
    /// The volume's snapshots move with it, but for those that it took by itself.
    pub snapshots: bool,
    pub clients: Arc<dyn MovingClients>,
    /// Function that is told of progress, as that of `Copying` is.
    pub progress: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
}

/// Result of moving a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MovedVolume {
    /// True if the volume had moved before: what was left to do is done.
    pub already: bool,
    /// Number of times that the copy was brought up to date beside writes.
    pub rounds: u64,
    pub copied_bytes: u64,
    pub zeroed_bytes: u64,
    /// Bytes that were compared on both sides.
    pub verified_bytes: u64,
    /// Part of `copied_bytes` that was copied while clients were held, and how long they were.
    pub rest_bytes: u64,
    pub pause_ms: u64,
    /// Snapshots that moved with it, and those that stay with what it was.
    pub snapshots: Vec<Name>,
    pub left: Vec<Name>,
    /// Reason why what the volume was stays in the trash.
    pub held: Option<String>,
    /// Work that is left to do, which changes nothing for clients, and why.
    pub unfinished: Option<String>,
}

/// Returns the name of the copy that this host fills.
pub fn while_moved(to: &Volumes, volume: &Name) -> Name {
    volume.while_moved(xxh3_64(&to.engine.host.id.0.to_le_bytes()) as u32)
}

/// Returns where a volume went, if it did: one that has its name still, or is in the trash.
pub async fn moved_to(from: &Volumes, volume: &Name) -> Result<Option<Moved>> {
    match from.id(volume).await {
        Ok(id) => Ok(from.engine.cell(id).read().await?.and_then(|head| head.moved)),
        Err(e) if e.is(Kind::NotFound) => Trash(from).moved_to(volume).await,
        Err(e) => Err(e),
    }
}

/// Does what is left to do where a volume of this name has moved to that pool. Returns false where none has.
pub async fn finish_move((from, volume): (&Volumes, &Name), to: &Volumes) -> Result<bool> {
    let moved = moved_to(from, volume).await?;
    let Some(moved) = moved.filter(|moved| moved.name == *volume) else { return Ok(false) };
    match to.engine.cell(moved.volume).read().await? {
        None => Ok(false),
        Some(_) => finish(from, volume, to, &moved).await.map(|()| true),
    }
}

/// Moves a volume that this host owns, or that nobody does, and its clients. The caller sees to it that nobody else uses the
/// copy, and that all clients of the volume pass by what `how` tells.
///
/// # Errors
/// `Exists`: the other pool has a volume of that name. `Owned`: another host has clients of it, which can't follow. `Refused`: a
/// template, a locked snapshot, or clients write faster than can be copied.
pub fn move_volume<'f>(
    (from, volume): (&'f Volumes, &'f Name),
    to: &'f Volumes,
    how: Moving<'f>,
) -> BoxFuture<'f, Result<MovedVolume>> {
    Box::pin(async move {
        check_other((from, volume), to)?;
        if Box::pin(finish_move((from, volume), to)).await? {
            return Ok(MovedVolume { already: true, ..MovedVolume::default() });
        }
        let source = Box::pin(from.open(volume, OpenMode::Normal)).await?;
        from.check_this(volume, source.id(), how.clients.volume())?;
        Box::pin(from.check_unread(volume)).await?;
        if source.settings().template {
            return Err(Error::new(Kind::Refused, is_template(&from.engine.title(volume))));
        }
        if source.is_encrypted() {
            let why = format!(
                "volume {} is encrypted, and such volumes do not move yet: copy its snapshots into one that was made with \
             --encrypt",
                from.engine.title(volume)
            );
            return Err(Error::new(Kind::Refused, why));
        }
        Box::pin(from.check_unlocked(volume)).await?;
        Box::pin(check_free(to, volume)).await?;
        source.session().await?;
        let hidden = while_moved(to, volume);
        let (stem, (done, spent)) = (stem(to, &hidden), Default::default());
        let mut mover = Mover { from, volume, to, hidden, stem, source, how: &how, done, spent };
        let held = Box::pin(from.check_remove(volume, true)).await;
        mover.done.held = held.err().filter(|e| e.is(Kind::Refused)).map(|e| e.to_string());
        Box::pin(mover.make_copy()).await?;
        Box::pin(mover.run()).await
    })
}

/// Checks that `to` is another pool. `Usage`: it is the same.
pub fn check_other((from, volume): (&Volumes, &Name), to: &Volumes) -> Result<()> {
    if from.engine.pool.id() == to.engine.pool.id() {
        let why = format!(
            "volume {} is in that pool: name another one, or `windlass volume rename` it",
            from.engine.title(volume)
        );
        return Err(Error::new(Kind::Usage, why));
    }
    Ok(())
}

/// Checks that the pool has no volume of this name. `Exists`: it has one.
async fn check_free(to: &Volumes, name: &Name) -> Result<()> {
    match to.info(name).await {
        Err(e) if e.is(Kind::NotFound) => Ok(()),
        Err(e) => Err(e),
        Ok(_) => Err(Error::new(Kind::Exists, format!("volume {} exists", to.engine.title(name)))),
    }
}

/// Gives up what an unfinished move has copied. Returns false where there is nothing.
pub async fn give_up_move((from, volume): (&Volumes, &Name), to: &Volumes) -> Result<bool> {
    let hidden = while_moved(to, volume);
    let copy = match to.id(&hidden).await {
        Err(e) if e.is(Kind::NotFound) => return Ok(false),
        copy => copy?,
    };
    match moved_to(from, volume).await? {
        Some(moved) if moved.volume == copy => return Err(moved.refusal()),
        // Another host has moved it.
        Some(_) => {}
        None => match Box::pin(may_be_given_up(from, volume)).await {
            Err(e) if e.is(Kind::NotFound) => {}
            done => done?,
        },
    }
    Box::pin(to.remove(&hidden)).await?;
    let stem = stem(to, &hidden);
    let marks = from.snapshot_names(volume).await.unwrap_or_default();
    for mark in marks.iter().filter(|mark| mark.as_str().starts_with(&stem)) {
        from.remove_snapshot(volume, mark).await?;
    }
    Ok(true)
}

/// Makes sure that no attempt of this host to leave the volume can come through any more: it is claimed, or was by another
/// host.
async fn may_be_given_up(from: &Volumes, volume: &Name) -> Result<()> {
    let claimed = async { from.open(volume, OpenMode::Normal).await?.session().await.map(drop) };
    match claimed.await {
        Err(e) if e.is(Kind::Owned) => {
            let head = from.head(volume, from.id(volume).await?).await?;
            let is_others = head.active.owner.is_some_and(|owner| owner.id != from.engine.host.id);
            if is_others { Ok(()) } else { Err(e) }
        }
        done => done,
    }
}

/// Tells whether a snapshot has the name of one that a move took, whichever move.
fn is_mark(name: &Name) -> bool {
    let parts = name.as_str().strip_prefix("moving-").and_then(|rest| rest.split_once('-'));
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    parts.is_some_and(|(stem, at)| stem.len() == 8 && hex(stem) && hex(at))
}

/// Bytes and time that copying has taken so far, to tell how fast it is.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    bytes: u64,
    time: Duration,
}

impl Spent {
    fn add(&mut self, copied: &Copied, time: Duration) {
        self.bytes += copied.copied_bytes;
        self.time += time;
    }

    /// Returns how many bytes may be left when clients are held, after so many rounds.
    fn bearable(&self, rounds: u64) -> u64 {
        if self.bytes < TELLS_RATE {
            return REST;
        }
        let may_take = REST_TAKES.as_micros() * u128::from(1 + rounds / PATIENCE);
        let takes = may_take * u128::from(self.bytes) / self.time.as_micros().max(1);
        u64::try_from(takes).unwrap_or(u64::MAX).clamp(REST / 4, REST_MAX)
    }
}

/// Result of one round.
enum Attempt {
    Switched(Switched),
    /// Bytes that are left to copy, or were when the switch was given up.
    Left(u64),
}

struct Mover<'a> {
    from: &'a Volumes,
    volume: &'a Name,
    to: &'a Volumes,
    hidden: Name,
    /// Beginning of the names of the move's own snapshots.
    stem: String,
    source: Arc<Volume>,
    how: &'a Moving<'a>,
    done: MovedVolume,
    spent: Spent,
}

/// Returns the settings that a copy has of its volume: not those that make a template of it.
fn shared(settings: VolumeSettings) -> VolumeSettings {
    VolumeSettings { boot_trace: BootTrace::Off, template: false, ..settings }
}

impl Mover<'_> {
    fn now(&self) -> Instant {
        self.from.engine.rt.now()
    }

    fn is_mark(&self, name: &Name) -> bool {
        name.as_str().starts_with(&self.stem)
    }

    async fn tables(&self, volumes: &Volumes, name: &Name) -> Result<Tables> {
        volumes.newest_tables(name, volumes.id(name).await?).await
    }

    async fn head(&self) -> Result<Head> {
        self.from.head(self.volume, self.source.id()).await
    }

    async fn open_copy(&self) -> Result<Arc<Volume>> {
        self.to.open(&self.hidden, OpenMode::Normal).await
    }

    /// Makes the copy, unless it is there, with the volume's settings and what was recorded of its clones' boots.
    async fn make_copy(&self) -> Result<()> {
        match self.open_copy().await {
            Err(e) if e.is(Kind::NotFound) => {}
            there => return there.map(drop),
        }
        let (head, first) = (self.head().await?, self.missing(None).await?);
        let size = first.first().map_or(head.size, |(_, state)| state.size);
        self.to.create(&self.hidden, size, shared(head.settings)).await?;
        let Some(trace) = &head.boot else { return Ok(()) };
        self.to.set(&self.hidden, &["boot-trace=record".into()]).await?;
        let id = self.to.id(&self.hidden).await?;
        self.to.engine.cell(id).change(|head| head.keep_boot(trace)).await?;
        Ok(())
    }

    /// Returns the snapshots that the copy is to have and has not, oldest first: the volume's own, and marks of this move.
    async fn missing(&self, copy: Option<&Tables>) -> Result<Vec<(Name, State)>> {
        let ours = self.tables(self.from, self.volume).await?;
        let id = self.source.id();
        let wanted = |(name, state): &(&Name, &State)| match self.is_mark(name) {
            // Only the newest: what is older was copied, or need not be.
            true => ours.snapshots().filter(|(name, _)| self.is_mark(name)).all(|(_, s)| s.id <= state.id),
            false => self.how.snapshots && !state.history && !is_mark(name),
        };
        let all = ours.snapshots().filter(wanted);
        let missing = all.filter(|(_, state)| copy.is_none_or(|copy| copied_as(copy, id, state).is_none()));
        let missing: Vec<_> = missing.map(|(name, state)| (name.clone(), state.clone())).collect();
        let grows = missing.windows(2).all(|two| two[0].1.size <= two[1].1.size);
        if !grows || missing.last().is_some_and(|(_, state)| state.size > self.source.size()) {
            let why = format!(
                "volume {} has snapshots that are larger than what came after them, and a copy does not shrink: move it \
                 without them, by --no-snapshots, or remove them first",
                self.from.engine.title(self.volume)
            );
            return Err(Error::new(Kind::Refused, why));
        }
        Ok(missing)
    }

    async fn run(mut self) -> Result<MovedVolume> {
        let (mut rest, mut newest) = (0, None);
        while self.done.rounds < ROUNDS_MAX {
            // On the heap, as below: an unoptimized build's stack is too small for all of it.
            match Box::pin(self.attempt(&mut newest)).await {
                Ok(Attempt::Switched(switched)) => return Box::pin(self.moved(switched)).await,
                Ok(Attempt::Left(bytes)) => rest = bytes,
                // Stores that are away are waited for; whoever asked may give up.
                Err(e) if e.is_transient() => {
                    tracing::debug!(volume = %self.volume, error = %e, "a round of a move is tried again");
                    self.from.engine.rt.sleep(AGAIN).await;
                }
                Err(e) => return Err(e),
            }
        }
        let why = format!(
            "clients write to {} as fast as it can be copied: {} are left to copy after {ROUNDS_MAX} rounds. Limit them meanwhile \
             (`windlass volume set {} write-bps=…`), and move it again: it goes on where it was",
            self.from.engine.title(self.volume),
            show_bytes(rest),
            self.from.engine.title(self.volume)
        );
        Err(Error::new(Kind::Refused, why))
    }

    /// Makes one round, and the switch if little is left then. `newest`: the mark of the round before.
    async fn attempt(&mut self, newest: &mut Option<Name>) -> Result<Attempt> {
        // Not between a round and the switch: it takes a while.
        if let Some(mark) = newest {
            Box::pin(self.thin(mark)).await?;
        }
        let mark = newest.insert(Box::pin(self.round()).await?);
        Box::pin(self.follow_settings()).await?;
        let copy = Box::pin(self.open_copy()).await?;
        let rest = Box::pin(Rest::since(mark, &self.source, (self.to, &copy))).await?;
        // What would have to be stored while clients wait.
        Box::pin(self.source.store_all()).await?;
        let (bytes, size) = (Box::pin(rest.bytes()).await?, self.source.size());
        self.done.rounds += 1;
        (self.how.progress)("catching up", size.saturating_sub(bytes), size);
        if bytes > self.spent.bearable(self.done.rounds) {
            return Ok(Attempt::Left(bytes));
        }
        Ok(Box::pin(self.switch(copy, rest)).await?.map_or(Attempt::Left(bytes), Attempt::Switched))
    }

    /// Brings the copy to what the volume holds about now. Returns the mark of that.
    async fn round(&mut self) -> Result<Name> {
        let copy = self.tables(self.to, &self.hidden).await?;
        let begun = self.missing(Some(&copy)).await?.into_iter().rev().find(|(name, _)| self.is_mark(name));
        let mark = match begun {
            Some((name, _)) => name,
            None => Box::pin(self.take_mark()).await?,
        };
        for (name, state) in self.missing(Some(&copy)).await? {
            Box::pin(self.copy_snapshot(&name, &state)).await?;
            if name == mark {
                break;
            }
        }
        Ok(mark)
    }

    async fn take_mark(&self) -> Result<Name> {
        let mark: Name = format!("{}{:x}", self.stem, self.from.engine.rt.wall_ms()).parse()?;
        snapshot_group(&[(self.source.clone(), mark.clone())], true).await?;
        Ok(mark)
    }

    async fn copy_snapshot(&mut self, name: &Name, state: &State) -> Result<()> {
        // Another snapshot had the name when it was copied.
        if self.tables(self.to, &self.hidden).await?.snapshot(name).is_some() {
            Box::pin(self.to.remove_snapshot(&self.hidden, name)).await?;
        }
        let began = self.now();
        let how = Copying { roll_back: true, verify_all: false, progress: self.how.progress };
        let from = (self.from, self.volume, name);
        let copied = Box::pin(copy_snapshot(from, (self.to, &self.hidden), how)).await?;
        self.spent.add(&copied, self.now().since(began));
        tracing::debug!(volume = %self.volume, snapshot = %state.id, copied = copied.copied_bytes, "copied to the other pool");
        self.add(&copied);
        Ok(())
    }

    fn add(&mut self, copied: &Copied) {
        self.done.copied_bytes += copied.copied_bytes;
        self.done.zeroed_bytes += copied.zeroed_bytes;
        self.done.verified_bytes += copied.verified_bytes;
    }

    /// Removes marks that are older than this one, on both sides.
    async fn thin(&self, newest: &Name) -> Result<()> {
        for (volumes, name) in [(self.from, self.volume), (self.to, &self.hidden)] {
            let all = volumes.snapshot_names(name).await?;
            for mark in all.iter().filter(|mark| self.is_mark(mark) && *mark != newest) {
                match volumes.remove_snapshot(name, mark).await {
                    // Somebody has cloned it.
                    Err(e) if matches!(e.kind(), Kind::Refused | Kind::NotFound) => {}
                    done => done?,
                }
            }
        }
        Ok(())
    }

    async fn follow_settings(&self) -> Result<()> {
        let (wanted, has) = (shared(self.source.settings()), shared(self.open_copy().await?.settings()));
        match wanted == has {
            true => Ok(()),
            false => self.to.set(&self.hidden, &wanted.assignments()).await,
        }
    }

    async fn switch(&self, copy: Arc<Volume>, rest: Rest) -> Result<Option<Switched>> {
        let head = self.head().await?;
        let moved = Moved {
            pool: self.to.engine.pool.name().clone(),
            volume: copy.id(),
            name: self.volume.clone(),
            at_ms: self.from.engine.rt.wall_ms(),
        };
        let (size, settings, naming) = (self.source.size(), self.source.settings(), head.naming);
        let left = Leaving { to: moved, size, settings, naming, last: Lsn(0) };
        let switch = Switch {
            from: self.from.clone(),
            to: self.to.clone(),
            source: self.source.clone(),
            copy,
            rest,
            left,
            clients: self.how.clients.clone(),
        };
        self.from.engine.rt.spawn(Box::pin(switch.run())).await?
    }

    /// Adds what the switch came to, and returns the result of the move.
    async fn moved(mut self, switched: Switched) -> Result<MovedVolume> {
        let Switched { rest, pause, unfinished } = switched;
        self.add(&rest);
        self.done.rest_bytes = rest.copied_bytes;
        self.done.pause_ms = pause.as_millis() as u64;
        self.done.unfinished = unfinished;
        let (there, stayed) = self.snapshots().await.unwrap_or_default();
        (self.done.snapshots, self.done.left) = (there, stayed);
        Ok(self.done)
    }

    /// Returns the snapshots that moved, and those that did not.
    async fn snapshots(&self) -> Result<(Vec<Name>, Vec<Name>)> {
        let id: VolumeId = self.source.id();
        let copy = self.open_moved().await?;
        let theirs = self.to.newest_tables(&copy.name(), copy.id()).await?;
        let Some((_, ours)) = self.from.engine.newest(id).await? else { return Ok(Default::default()) };
        let (mut there, mut stayed) = (Vec::new(), Vec::new());
        for (name, state) in ours.snapshots().filter(|(name, _)| !is_mark(name)) {
            match copied_as(&theirs, id, state) {
                Some(as_there) => there.push(as_there.clone()),
                None => stayed.push(name.clone()),
            }
        }
        Ok((there, stayed))
    }

    /// Opens the volume that moved, under its name, or the one that it has until then.
    async fn open_moved(&self) -> Result<Arc<Volume>> {
        match self.to.open(self.volume, OpenMode::Normal).await {
            Err(e) if e.is(Kind::NotFound) => self.open_copy().await,
            there => there,
        }
    }
}
