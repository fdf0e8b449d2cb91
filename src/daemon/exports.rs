//! Volumes and snapshots as NBD exports.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::api::{SnapshotPath, VolumePath};
use super::engine_tables::EngineState;
use super::failed_attempts::Attempt;
use super::held_exports::{self, HeldExport, HeldVolume};
use super::io_tally::IoVerb;
use super::verbs::explained;
use super::volume_clients::{Alone, Session, Visitor};
use windlass_base::{Epoch, Error, Kind, Name, PoolId, Result, Rope, VolumeId};
use windlass_nbd::{
    ChangedExtent, Changes, Description, Export, Exports, HeldDisk, Holding, ListedExport, StatusExtent,
};
use windlass_volume::{Attachment, Direction, Filling, OpenMode, Reading, Since, SnapshotView, Volume};

/// Longest time for which a client that asks for the list of exports waits for stores that do not answer.
const LISTING: Duration = Duration::from_secs(15);

/// View of an engine that the NBD face has.
pub struct EngineExports {
    /// The engine's tables. Weak: the face must not keep an engine that ends alive.
    pub state: Weak<EngineState>,
    /// Is true if commands of this user are served: they may ask for a volume alone, by `ALONE` before its name.
    pub for_commands: bool,
}

/// Prefix of the name of a volume that a command wants to write to alone.
pub const ALONE: char = '!';

/// The parsed name of an export.
enum Target {
    Volume(VolumePath),
    Snapshot(SnapshotPath),
}

fn target(name: &str) -> Result<Target> {
    let parsed = if name.contains('@') {
        name.parse().map(Target::Snapshot).map_err(|_: Error| ())
    } else {
        // One that is being imported is opened by who imports it, alone; one that is being moved here by nobody.
        let named = VolumePath::of_volume(name).ok().filter(|path| path.volume.moved_as().is_none());
        named.map(Target::Volume).ok_or(())
    };
    parsed.map_err(|()| no_export(name))
}

fn no_export(name: &str) -> Error {
    let why = format!("there is no export {name:?}: exports are POOL/VOLUME and POOL/VOLUME@SNAPSHOT");
    Error::new(Kind::NotFound, why)
}

impl EngineExports {
    /// Returns the volume or snapshot that is named, and whether it is wanted alone.
    fn target(&self, name: &str) -> Result<(Target, bool)> {
        let wanted_alone = name.strip_prefix(ALONE).filter(|_| self.for_commands);
        match (target(wanted_alone.unwrap_or(name))?, wanted_alone.is_some()) {
            (Target::Volume(path), false) if path.volume.imported_as().is_some() => Err(no_export(name)),
            target => Ok(target),
        }
    }

    fn state(&self) -> Result<Arc<EngineState>> {
        self.state.upgrade().ok_or_else(|| Error::new(Kind::Closed, "the daemon is shutting down"))
    }

    async fn open_in(&self, state: &Arc<EngineState>, name: &str, peer: &str) -> Result<Arc<dyn Export>> {
        match self.target(name)? {
            (Target::Volume(path), is_alone) => {
                let open = state.pools.get(&path.pool).await?;
                let (sessions, who) = (&state.sessions, Visitor::Client(peer));
                let mode = if is_alone { OpenMode::Normal } else { OpenMode::Attach };
                let (session, alone) = match is_alone {
                    true => {
                        let (session, alone) = sessions.enter_alone(&path, &open.volumes, who).await?;
                        (session, Some(alone))
                    }
                    false => (sessions.enter(&path, &open.volumes, who)?, None),
                };
                let volume = open.volumes.open(&path.volume, mode).await;
                let volume = explained(state, &path, volume).await?;
                let filling = match is_alone {
                    true => Some(volume.fill().await?),
                    false => None,
                };
                if is_alone {
                    open.volumes.check_unattached(&path.volume).await?;
                }
                let export = VolumeExport::new(volume, session, alone)?;
                let export = VolumeExport { _filling: filling, ..export };
                let reading = match is_alone {
                    true => None,
                    false => Some(export.volume.read_by_client(false).await?),
                };
                Ok(Arc::new(VolumeExport { _reading: reading, ..export }))
            }
            (Target::Snapshot(path), _) => {
                let open = state.pools.get(&path.volume.pool).await?;
                let view = open.volumes.open_snapshot(&path.volume.volume, &path.snapshot).await?;
                Ok(Arc::new(SnapshotExport { name: path.to_string(), view }))
            }
        }
    }
}

/// Opens the volume or snapshot that a client of the daemon before holds, by its ids rather than its name.
fn open_held<'a>(
    state: &'a Arc<EngineState>,
    name: &'a str,
    held: HeldExport,
    peer: &'a str,
) -> BoxFuture<'a, Result<Arc<dyn Export>>> {
    let opened = async move {
        match (held, target(name)?) {
            (HeldExport::Volume { pool, volume, under, writes }, Target::Volume(called)) => {
                let arriving = state.sessions.expected_comes((pool, volume), peer, writes);
                let held = (pool, volume, under, writes);
                let opened = open_held_volume(state, called, held, peer).await;
                let is_over =
                    opened.as_ref().map_or_else(|e| !e.is_transient() && !e.is(Kind::Closed), |_| true);
                if is_over {
                    arriving.ends();
                }
                Ok(Arc::new(opened?) as Arc<dyn Export>)
            }
            (HeldExport::Snapshot { pool, volume, snapshot }, Target::Snapshot(called)) => {
                let open = held_exports::pool_of(state, &called.volume, pool).await?;
                let names = (&called.volume.volume, &called.snapshot);
                let view = open.volumes.open_snapshot_again(volume, &snapshot, names).await?;
                Ok(Arc::new(SnapshotExport { name: called.to_string(), view }) as Arc<dyn Export>)
            }
            _ => Err(Error::new(Kind::Invalid, format!("what a client holds is no export {name}"))),
        }
    };
    opened.boxed()
}

async fn open_held_volume(
    state: &Arc<EngineState>,
    called: VolumePath,
    (pool, volume, under, writes): (PoolId, VolumeId, Option<Vec<Epoch>>, bool),
    peer: &str,
) -> Result<VolumeExport> {
    let open = held_exports::pool_of(state, &called, pool).await?;
    let now = open.volumes.name_now(volume, &called.volume).await?;
    let path = VolumePath { volume: now, ..called };
    let session = state.sessions.enter(&path, &open.volumes, Visitor::Client(peer))?;
    let volume = open.volumes.open_again(volume, &path.volume, under.as_deref()).await?;
    let reading = Some(volume.read_by_client(true).await?);
    let export = VolumeExport::new(volume, session, None)?;
    if writes {
        export.session.has_written();
    }
    Ok(VolumeExport { _reading: reading, ..export })
}

/// Describes a volume. A template is read-only.
fn describe_volume(name: String, size: u64, template: bool) -> Description {
    Description {
        name,
        text: String::new(),
        size,
        read_only: template,
        multi_conn: true,
        fast_zero: !template,
    }
}

fn describe_snapshot(name: String, size: u64) -> Description {
    Description { name, text: String::new(), size, read_only: true, multi_conn: true, fast_zero: false }
}

/// Methods of the trait below, boxed by type in functions without bounds. That all that they do may change threads is
/// proven once then, and not for each method of the trait.
impl EngineExports {
    fn listed(&self) -> BoxFuture<'_, Result<Vec<ListedExport>>> {
        async move {
            let mut all = Vec::new();
            for (pool, open) in self.state()?.pools.opened() {
                for (volume, info) in open.volumes.list(LISTING).await? {
                    // It is opened by who imports it or moves it here, and shown to nobody before it is whole.
                    if volume.imported_as().is_some() || volume.moved_as().is_some() {
                        continue;
                    }
                    let path = VolumePath { pool: pool.clone(), volume };
                    // A head that cannot be read now is not offered; opening it by name says why.
                    let Ok(info) = info else { continue };
                    all.push(ListedExport { name: path.to_string(), text: String::new() });
                    if info.snapshots == 0 {
                        continue;
                    }
                    for snapshot in open.volumes.snapshot_names(&path.volume).await.unwrap_or_default() {
                        all.push(ListedExport { name: format!("{path}@{snapshot}"), text: String::new() });
                    }
                }
            }
            Ok(all)
        }
        .boxed()
    }

    fn described<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Description>> {
        async move {
            let state = self.state()?;
            match self.target(name)?.0 {
                Target::Volume(path) => {
                    let info = state.pools.get(&path.pool).await?.volumes.info(&path.volume).await;
                    let info = explained(&state, &path, info).await?;
                    Ok(describe_volume(path.to_string(), info.size, info.template))
                }
                Target::Snapshot(path) => {
                    let open = state.pools.get(&path.volume.pool).await?;
                    let all = open.volumes.snapshot_sizes(&path.volume.volume).await?;
                    let found = all.iter().find(|(name, _)| *name == path.snapshot);
                    let found = found
                        .ok_or_else(|| Error::new(Kind::NotFound, format!("there is no snapshot {path}")))?;
                    Ok(describe_snapshot(path.to_string(), found.1))
                }
            }
        }
        .boxed()
    }

    fn snapshots_before<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        async move {
            let state = self.state()?;
            let target = self.target(name)?.0;
            let (path, before) = match &target {
                Target::Volume(path) => (path, None),
                Target::Snapshot(path) => (&path.volume, Some(&path.snapshot)),
            };
            let volumes = &state.pools.get(&path.pool).await?.volumes;
            let older = volumes.snapshots_before(&path.volume, before).await?;
            Ok(older.iter().map(ToString::to_string).collect())
        }
        .boxed()
    }

    fn opened<'a>(&'a self, name: &'a str, peer: &'a str) -> BoxFuture<'a, Result<Arc<dyn Export>>> {
        async move {
            let state = self.state()?;
            let opened = self.open_in(&state, name, peer).await;
            let attempt = Attempt::Connect(name.trim_start_matches(ALONE).to_owned());
            match &opened {
                Ok(_) => {
                    state.troubles.over(&attempt);
                    if let Ok(path) = name.parse() {
                        state.troubles.over(&Attempt::Reopen(path));
                    }
                }
                // Names that there are not may be anything, and a daemon that ends will be asked again.
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Closed) => {}
                Err(error) => state.troubles.failed(attempt, state.host_context.rt.now(), error.to_string()),
            }
            opened
        }
        .boxed()
    }
}

#[async_trait]
impl Exports for EngineExports {
    async fn list(&self) -> Result<Vec<ListedExport>> {
        self.listed().await
    }
    async fn describe(&self, name: &str) -> Result<Description> {
        self.described(name).await
    }
    async fn changes_since(&self, name: &str) -> Result<Vec<String>> {
        self.snapshots_before(name).await
    }
    async fn open(&self, name: &str, peer: &str) -> Result<Arc<dyn Export>> {
        self.opened(name, peer).await
    }

    async fn open_again(&self, name: &str, held: &HeldDisk, peer: &str) -> Result<Arc<dyn Export>> {
        open_held(&self.state()?, name, HeldExport::of(held)?, peer).await
    }
}

fn extents(runs: Vec<(u64, bool)>) -> Vec<StatusExtent> {
    runs.into_iter().map(|(len, is_data)| StatusExtent { len, hole: !is_data }).collect()
}

fn changed(runs: Vec<(u64, bool)>) -> Vec<ChangedExtent> {
    runs.into_iter().map(|(len, changed)| ChangedExtent { len, changed }).collect()
}

fn snapshot_name(snapshot: &str) -> Result<Name> {
    snapshot.parse().map_err(|_| Error::new(Kind::NotFound, format!("there is no snapshot {snapshot:?}")))
}

/// Changes in a volume or a snapshot since an older snapshot.
struct ChangesIn<T> {
    of: Arc<T>,
    since: Since,
}

#[async_trait]
impl Changes for ChangesIn<Volume> {
    fn held(&self) -> HeldDisk {
        held_exports::told_since(&self.since)
    }

    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<ChangedExtent>> {
        Ok(changed(self.of.changed_since(&self.since, offset, len, max).await?))
    }
}

#[async_trait]
impl Changes for ChangesIn<SnapshotView> {
    fn held(&self) -> HeldDisk {
        held_exports::told_since(&self.since)
    }

    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<ChangedExtent>> {
        Ok(changed(self.of.changed_since(&self.since, offset, len, max).await?))
    }
}

struct VolumeExport {
    /// Volume that the client came to; `session` knows where its requests go now.
    volume: Arc<Volume>,
    session: Session,
    /// Claim of a client that has the volume alone: others may come when it has left.
    _alone: Option<Alone>,
    /// Claim that keeps other hosts from the volume until a client that has it alone has left.
    _filling: Option<Filling>,
    /// Mark by which other hosts are told that the volume is used here.
    _attachment: Arc<Attachment>,
    /// Claim of a client that reads a volume of another host: nobody removes the volume meanwhile.
    _reading: Option<Reading>,
    /// Is true if the volume was a template when the client came.
    template: bool,
}

impl VolumeExport {
    fn new(volume: Arc<Volume>, mut session: Session, mut alone: Option<Alone>) -> Result<VolumeExport> {
        match &mut alone {
            Some(alone) => session.opened_alone(&volume, alone)?,
            None => session.opened(&volume)?,
        }
        let (template, _attachment) = (volume.settings().template, volume.attach());
        let export = VolumeExport {
            volume,
            session,
            _alone: alone,
            _filling: None,
            _attachment,
            _reading: None,
            template,
        };
        Ok(export)
    }

    /// Returns the volume to which requests go now, for callers that can't wait for the end of a move.
    fn now(&self) -> Arc<Volume> {
        self.session.passage().leads_to(&self.volume)
    }

    /// Does the work of a request with the volume that the request goes to. While that volume moves, the request
    /// waits.
    async fn with<T, F>(&self, request: (IoVerb, u64, u64), work: impl FnOnce(Arc<Volume>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let work = pin!(async {
            let pass = self.session.passage().enter().await;
            work(pass.volume(&self.volume)).await
        });
        self.session.counted(request, work).await
    }
}

#[async_trait]
impl Export for VolumeExport {
    fn describe(&self) -> Description {
        let volume = self.now();
        describe_volume(volume.title(), volume.size(), self.template)
    }
    fn holding(&self) -> Arc<dyn Holding> {
        Arc::new(HeldVolume {
            volume: self.volume.clone(),
            passage: self.session.shared_passage(),
            writes: self.session.shared_writes(),
        })
    }
    fn size(&self) -> u64 {
        self.now().size()
    }
    fn turn(&self, writes: bool, bytes: u64) -> Option<BoxFuture<'_, ()>> {
        let direction = if writes { Direction::Write } else { Direction::Read };
        let volume = self.now();
        drop(volume.turn(direction, bytes)?);
        let turn = async move {
            if let Some(turn) = volume.turn(direction, bytes) {
                turn.await;
            }
        };
        Some(turn.boxed())
    }
    async fn read(&self, offset: u64, len: usize) -> Result<Rope> {
        let len = len as u64;
        let read = |volume: Arc<Volume>| async move { volume.read_parts(offset, len).await };
        self.with((IoVerb::Read, offset, len), read).await
    }
    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<StatusExtent>> {
        let pass = self.session.passage().enter().await;
        Ok(extents(pass.volume(&self.volume).allocation(offset, len, max).await?))
    }
    async fn changes(&self, snapshot: &str) -> Result<Box<dyn Changes>> {
        let pass = self.session.passage().enter().await;
        let of = pass.volume(&self.volume);
        let since = of.since(&snapshot_name(snapshot)?).await?;
        Ok(Box::new(ChangesIn { of, since }))
    }
    async fn changes_again(&self, _: &str, held: &HeldDisk) -> Result<Box<dyn Changes>> {
        let snapshot = held_exports::snapshot_of(held)?;
        let pass = self.session.passage().enter().await;
        let of = pass.volume(&self.volume);
        let since = of.since_again(&snapshot).await?;
        Ok(Box::new(ChangesIn { of, since }))
    }
    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.session.writes(|| self.now().settings())?;
        let len = data.len() as u64;
        let write = |volume: Arc<Volume>| async move { volume.write(offset, data).await };
        self.with((IoVerb::Write, offset, len), write).await
    }
    async fn zero(&self, offset: u64, len: u64, _no_hole: bool) -> Result<()> {
        self.session.writes(|| self.now().settings())?;
        let zero = |volume: Arc<Volume>| async move { volume.zero(offset, len).await };
        self.with((IoVerb::Zero, offset, len), zero).await
    }
    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.zero(offset, len, false).await
    }
    async fn keep(&self) -> Result<()> {
        // A volume that is just being left for another pool can't say any more what it has.
        let pass = self.session.passage().enter().await;
        pass.volume(&self.volume).keep().await
    }
    async fn flush(&self) -> Result<()> {
        self.with((IoVerb::Flush, 0, 0), |volume| async move { volume.flush().await }).await
    }
    fn hang_up(&self) -> CancellationToken {
        self.session.hang_up()
    }
}

struct SnapshotExport {
    name: String,
    view: Arc<SnapshotView>,
}

fn frozen(name: &str) -> Error {
    Error::new(Kind::ReadOnly, format!("{name} is a snapshot and never changes: make a clone to write on"))
}

#[async_trait]
impl Export for SnapshotExport {
    fn describe(&self) -> Description {
        describe_snapshot(self.name.clone(), self.view.size())
    }
    fn holding(&self) -> Arc<dyn Holding> {
        Arc::new(held_exports::HeldSnapshot(self.view.clone()))
    }
    fn size(&self) -> u64 {
        self.view.size()
    }
    async fn read(&self, offset: u64, len: usize) -> Result<Rope> {
        self.view.read_parts(offset, len as u64).await
    }
    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<StatusExtent>> {
        Ok(extents(self.view.allocation(offset, len, max).await?))
    }
    async fn changes(&self, snapshot: &str) -> Result<Box<dyn Changes>> {
        let since = self.view.since(&snapshot_name(snapshot)?).await?;
        Ok(Box::new(ChangesIn { of: self.view.clone(), since }))
    }
    async fn changes_again(&self, _: &str, held: &HeldDisk) -> Result<Box<dyn Changes>> {
        let since = self.view.since_again(&held_exports::snapshot_of(held)?).await?;
        Ok(Box::new(ChangesIn { of: self.view.clone(), since }))
    }
    async fn write(&self, _: u64, _: Bytes) -> Result<()> {
        Err(frozen(&self.name))
    }
    async fn zero(&self, _: u64, _: u64, _: bool) -> Result<()> {
        Err(frozen(&self.name))
    }
    async fn trim(&self, _: u64, _: u64) -> Result<()> {
        Err(frozen(&self.name))
    }
    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_imported_is_opened_by_commands_alone() {
        let opens = |for_commands, name| {
            let exports = EngineExports { state: Weak::new(), for_commands };
            exports.target(name).is_ok()
        };
        assert!(opens(true, "!p/~import~v") && opens(true, "!p/v") && opens(false, "p/v"));
        for (for_commands, name) in [(true, "p/~import~v"), (false, "p/~import~v"), (false, "!p/~import~v")] {
            assert!(!opens(for_commands, name), "{name}");
        }
    }
}
