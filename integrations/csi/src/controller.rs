//! The service Controller, but for snapshots: volumes are made, cloned, listed, changed, removed.
//!
//! Every host's driver has it, and asks its own daemon: a pool's stores are all that hosts share. What only a volume's owner can
//! do (settings, removal, a snapshot) is asked of that host's daemon where it can be reached, else it is refused by its name. A
//! volume that another host has grows there, by `NodeExpandVolume`.

use std::collections::HashMap;
use std::time::Duration;

use crate::attach::Identity;
use crate::csi::{
    self, Confirmed, ContentSource, ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
    ControllerModifyVolumeRequest, ControllerRpc, CreateVolumeRequest, CreateVolumeResponse, Empty,
    GetCapabilitiesResponse, GetCapacityRequest, GetCapacityResponse, Int64Value, ListVolumesRequest,
    ListVolumesResponse, SourceId, ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
    VolumeCondition, VolumeContentSource, VolumeEntry, VolumeId, VolumeStatus,
};
use crate::daemon::{PoolInfo, SnapshotInfo, VolumeInfo};
use crate::driver::Driver;
use crate::host;
use crate::names::{self, Id};
use crate::request::{Access, Filesystem, Parameters, Range, SIZE_MAX, page, settings};
use crate::status::{Code, Result, Status, required};

/// Age below which a snapshot for a clone is kept: the call that took it may still be at work.
const HELPER_AT_WORK: Duration = Duration::from_secs(600);

/// A new volume as the call asks for it, beside its source.
struct Wanted {
    id: Id,
    range: Range,
    settings: Vec<String>,
    /// Nobody writes to the volume, and any number of hosts read it.
    for_readers: bool,
    /// The filesystem with which the volume is mounted; `None`: it is used as a device.
    filesystem: Option<Filesystem>,
}

impl Wanted {
    /// Returns the settings that a clone gets when it is made.
    fn settings_at_birth(&self) -> Vec<String> {
        let template = self.for_readers.then(|| "template=true".to_owned());
        self.settings.iter().cloned().chain(template).collect()
    }
}

impl Driver {
    pub async fn controller_capabilities(&self, _: Empty) -> Result<GetCapabilitiesResponse> {
        use ControllerRpc::*;
        let all = [
            CreateDeleteVolume,
            ListVolumes,
            GetCapacity,
            CreateDeleteSnapshot,
            ListSnapshots,
            CloneVolume,
            ExpandVolume,
            VolumeCondition,
            GetVolume,
            SingleNodeMultiWriter,
            ModifyVolume,
            GetSnapshot,
        ];
        Ok(GetCapabilitiesResponse::of(all.map(i32::from)))
    }

    // ---- making ----

    pub async fn create_volume(&self, request: CreateVolumeRequest) -> Result<CreateVolumeResponse> {
        let name = required(&request.name, "name")?;
        let access = Access::all(&request.volume_capabilities)?;
        let range = Range::of(request.capacity_range.as_ref())?;
        let mut parameters = Parameters::of(&request.parameters)?;
        parameters.settings.extend(settings(&request.mutable_parameters)?);
        let source = request.volume_content_source.and_then(|source| source.r#type);
        let from = source.as_ref().map(source_id).transpose()?;
        let pool = match (parameters.pool, &from) {
            (None, Some(from)) => from.pool.clone(),
            (Some(pool), Some(from)) if pool != from.pool => {
                let why = format!("a clone of {from} is made in pool {}, not in {pool}", from.pool);
                return Err(Status::invalid(why));
            }
            (Some(pool), _) => pool,
            (None, None) => self.only_pool().await?,
        };
        let id = Id::volume(&pool, &names::volume_name(name));
        let for_readers = access.iter().all(Access::of_many_nodes);
        if access.iter().any(Access::of_many_nodes) && !(for_readers && from.is_some()) {
            let why = "many nodes can read a volume that is made from a snapshot or a volume and that nobody writes to";
            return Err(Status::invalid(why));
        }
        let _held = self.busy.hold(id.to_string())?;
        let filesystem = access.iter().find_map(|one| one.filesystem);
        let wanted = Wanted { id, range, settings: parameters.settings, for_readers, filesystem };
        let info = match from {
            None => self.create_empty(&wanted).await,
            Some(from) if from.snapshot.is_some() => self.create_of_snapshot(&wanted, &from).await,
            Some(from) => self.create_of_volume(&wanted, &from).await,
        }?;
        let content_source = source.map(|source| VolumeContentSource { r#type: Some(source) });
        Ok(CreateVolumeResponse { volume: Some(csi::Volume { content_source, ..volume(&info) }) })
    }

    async fn only_pool(&self) -> Result<String> {
        match &self.daemon.known().await?.pools[..] {
            [only] => Ok(only.name.clone()),
            [] => Err(Status::precondition("this host knows no pool: windlass pool create or add")),
            more => {
                let names: Vec<&str> = more.iter().map(|pool| pool.name.as_str()).collect();
                Err(Status::invalid(format!(
                    "parameter pool is missing: this host knows {}",
                    names.join(", ")
                )))
            }
        }
    }

    async fn create_empty(&self, wanted: &Wanted) -> Result<VolumeInfo> {
        let size = match self.daemon.find(&wanted.id).await? {
            Some(info) if info.origin.is_some() || !wanted.range.has(info.size) => return Err(other(&info)),
            Some(info) => info.size,
            None => wanted.range.size()?,
        };
        // One that is there must have these settings.
        Ok(self.daemon.create(&wanted.id, size, &wanted.settings).await?)
    }

    async fn create_of_snapshot(&self, wanted: &Wanted, from: &Id) -> Result<VolumeInfo> {
        let absent = || Status::not_found(format!("there is no snapshot {from}"));
        let parent = self.daemon.find(from).await?.ok_or_else(absent)?;
        match self.daemon.find(&wanted.id).await? {
            // The snapshot may be gone by now: the daemon knows what the volume is made of.
            Some(info) => self.check_clone(wanted, &info, &parent, from).await,
            None => {
                let size = self.daemon.snapshot(&parent, from).await?.ok_or_else(absent)?.size;
                self.make_clone(wanted, &parent, from, size).await
            }
        }
    }

    /// Makes a volume of another volume, by a snapshot that is taken for this and goes with the clone. A
    /// snapshot that an earlier call has taken shows what the source was then. It counts only where the
    /// volume exists and is made of it.
    async fn create_of_volume(&self, wanted: &Wanted, from: &Id) -> Result<VolumeInfo> {
        let absent = || Status::not_found(format!("there is no volume {from}"));
        let source = self.daemon.find(from).await?.ok_or_else(absent)?;
        if let Some(info) = self.daemon.find(&wanted.id).await? {
            let helper = self.helper_of(&info, &source).await?.ok_or_else(|| other(&info))?;
            return self.check_clone(wanted, &info, &source, &helper).await;
        }
        wanted.range.grown(source.size)?;
        let snapshot = from.at(&names::clone_snapshot(host::random128()?, &wanted.id.volume));
        let made = {
            let _held = self.busy.hold(from.to_string())?;
            let made = async {
                self.daemon.take_snapshot(&source, &snapshot).await?;
                self.daemon.promise_snapshot(&source, &snapshot).await?;
                self.make_clone(wanted, &source, &snapshot, source.size).await
            };
            made.await
        };
        if made.is_err() {
            self.drop_helper(&source, &snapshot).await;
        }
        self.drop_unused_helpers(&source).await;
        self.daemon.let_go(&source).await;
        made
    }

    /// Checks that an existing volume is what is asked for: made of this snapshot, with these settings, and
    /// as large.
    async fn check_clone(
        &self,
        wanted: &Wanted,
        info: &VolumeInfo,
        parent: &VolumeInfo,
        from: &Id,
    ) -> Result<VolumeInfo> {
        if !wanted.range.has(info.size) {
            return Err(other(info));
        }
        Ok(self.daemon.clone(parent, from, &wanted.id, info.size, &wanted.settings_at_birth()).await?)
    }

    /// Makes a volume that is whole from the moment on when it has its name: a call that comes again never
    /// changes it.
    async fn make_clone(
        &self,
        wanted: &Wanted,
        parent: &VolumeInfo,
        from: &Id,
        size: u64,
    ) -> Result<VolumeInfo> {
        let size = wanted.range.grown(size)?;
        match wanted.filesystem.filter(|_| wanted.for_readers) {
            Some(filesystem) => self.make_replayed(wanted, (parent, from), size, filesystem).await,
            None => {
                let settings = wanted.settings_at_birth();
                Ok(self.daemon.clone(parent, from, &wanted.id, size, &settings).await?)
            }
        }
    }

    /// Makes a volume for hosts that only mount it to read. Before it gets its name, the filesystem's log is
    /// replayed, as nobody can do later.
    async fn make_replayed(
        &self,
        wanted: &Wanted,
        (parent, from): (&VolumeInfo, &Id),
        size: u64,
        filesystem: Filesystem,
    ) -> Result<VolumeInfo> {
        let id = Id::volume(&wanted.id.pool, &names::unfinished(&wanted.id.volume));
        let _held = self.busy.hold(id.to_string())?;
        self.drop_unfinished(&id).await?;
        let info = self.daemon.clone(parent, from, &id, size, &wanted.settings).await?;
        let replayed = self.replay_log(&id, &info, filesystem).await;
        self.end_replay(&id, &info).await?;
        self.daemon.release(&id).await?;
        if let Err(e) = replayed {
            self.drop_unfinished(&id).await?;
            return Err(e.context(format!("what is to be {}", wanted.id)));
        }
        self.daemon.set(&info, &["template=true".to_owned()]).await?;
        self.daemon.rename(&info, &wanted.id).await?;
        let made = self.daemon.info(&wanted.id).await?;
        self.daemon.let_go(&info).await;
        Ok(made)
    }

    /// Removes an unfinished volume, which an interrupted call has left and which never had its own name.
    async fn drop_unfinished(&self, id: &Id) -> Result<()> {
        let Some(info) = self.daemon.find(id).await? else { return Ok(()) };
        self.end_replay(id, &info).await?;
        if info.template {
            self.daemon.set(&info, &["template=false".to_owned()]).await?;
        }
        Ok(self.daemon.remove(&info, true).await?)
    }

    // ---- snapshots by which volumes are cloned ----

    /// Returns the snapshot of `source` that was taken to make this volume, if it was made so.
    async fn helper_of(&self, info: &VolumeInfo, source: &VolumeInfo) -> Result<Option<Id>> {
        let Some(parent) = info.parent.as_ref().filter(|parent| parent.volume == source.id) else {
            return Ok(None);
        };
        let all = self.daemon.snapshots(source).await?;
        let found = all.into_iter().find(|one| one.id == parent.snapshot_id);
        let helper = found.filter(|one| names::is_for_a_clone(&one.name));
        Ok(helper.and_then(|one| Some(source.path.parse::<Id>().ok()?.at(&one.name))))
    }

    /// Removes the snapshots for clones that no clone needs, in the trash neither, and that no call is at
    /// work with. Interrupted calls leave such snapshots, and so do clones that went by way of the trash.
    async fn drop_unused_helpers(&self, source: &VolumeInfo) {
        let Ok(of) = source.path.parse::<Id>() else { return };
        let all = self.daemon.snapshots(source).await.unwrap_or_else(|e| {
            tracing::info!(
                volume = source.path,
                error = e.message,
                "its snapshots for clones are not looked through"
            );
            Vec::new()
        });
        let now = host::wall_ms();
        let unused = |one: &SnapshotInfo| {
            let age = now.saturating_sub(one.created_ms);
            names::is_for_a_clone(&one.name)
                && one.clones.is_empty()
                && age > HELPER_AT_WORK.as_millis() as u64
        };
        for one in all.into_iter().filter(unused) {
            self.drop_helper(source, &of.at(&one.name)).await;
        }
    }

    /// Removes a snapshot for a clone. One that a clone needs stays.
    async fn drop_helper(&self, source: &VolumeInfo, snapshot: &Id) {
        if let Err(e) = self.daemon.remove_snapshot(source, snapshot, true).await {
            tracing::info!(%snapshot, error = e.message, "the snapshot of a clone that is gone stays for now");
        }
    }

    // ---- removing ----

    pub async fn delete_volume(&self, request: VolumeId) -> Result<Empty> {
        let id = required(&request.volume_id, "volume_id")?;
        // What was never ours is gone already.
        let Ok(id) = id.parse::<Id>() else { return Ok(Empty {}) };
        if id.snapshot.is_some() {
            let why = format!("{id} is a snapshot that is used as a volume: it is removed as a snapshot");
            return Err(Status::precondition(why));
        }
        let _held = self.busy.hold(id.to_string())?;
        let Some(info) = self.daemon.find(&id).await? else { return Ok(Empty {}) };
        if info.clients > 0 {
            return Err(Status::precondition(format!("volume {id} is in use: detach it first")));
        }
        // They would go with it. Their number in `info` may be older than what the owner has just taken.
        let snapshots = self.daemon.snapshots(&info).await?;
        let others: Vec<String> =
            snapshots.into_iter().map(|one| one.name).filter(|name| !names::is_for_a_clone(name)).collect();
        if !others.is_empty() {
            let why = format!("volume {id} has snapshots, which would go with it: {}", others.join(", "));
            return Err(Status::precondition(why));
        }
        if info.template {
            self.daemon.set(&info, &["template=false".to_owned()]).await?;
        }
        match self.daemon.remove(&info, false).await {
            Err(e) if !e.is("not_found") && !e.is("removed") => {
                if info.template {
                    self.daemon.set(&info, &["template=true".to_owned()]).await?;
                }
                return Err(e.into());
            }
            _ => {}
        }
        self.drop_unfinished(&Id::volume(&id.pool, &names::unfinished(&id.volume))).await?;
        self.let_source_go(&info).await;
        Ok(Empty {})
    }

    /// Removes the snapshot by which a volume was cloned that is gone now. A clone in the trash still needs
    /// its snapshot. Such a snapshot goes with its own volume, or when another clone of that volume is made
    /// or removed.
    async fn let_source_go(&self, gone: &VolumeInfo) {
        let origin = gone.origin.as_deref().and_then(|origin| origin.parse::<Id>().ok());
        let Some(origin) = origin else { return };
        let dropped = async {
            let Some(source) = self.daemon.find(&origin).await? else { return Ok(()) };
            if let Some(helper) = self.helper_of(gone, &source).await? {
                self.drop_helper(&source, &helper).await;
                self.drop_unused_helpers(&source).await;
            }
            self.daemon.let_go(&source).await;
            Ok::<_, Status>(())
        };
        if let Err(e) = dropped.await {
            tracing::info!(volume = gone.path, error = e.message, "what was taken to clone it stays for now");
        }
    }

    // ---- looking ----

    pub async fn validate_capabilities(
        &self,
        request: ValidateVolumeCapabilitiesRequest,
    ) -> Result<ValidateVolumeCapabilitiesResponse> {
        let text = required(&request.volume_id, "volume_id")?;
        if request.volume_capabilities.is_empty() {
            return Err(Status::invalid("volume_capabilities is missing"));
        }
        let (id, info) = self.existing(text).await?;
        let served = Access::all(&request.volume_capabilities)
            .and_then(|all| all.iter().try_for_each(|access| fits(access, &id, &info)))
            .and_then(|()| Parameters::of(&request.parameters).map(drop))
            .and_then(|()| settings(&request.mutable_parameters).map(drop));
        Ok(match served {
            Err(status) => ValidateVolumeCapabilitiesResponse { confirmed: None, message: status.message },
            Ok(()) => ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
        })
    }

    /// Returns a volume, or the volume of a snapshot that is used as one. `NotFound`: there is none.
    pub async fn existing(&self, id: &str) -> Result<(Id, VolumeInfo)> {
        let absent = || Status::not_found(format!("there is no volume {id}"));
        let parsed: Id = id.parse().map_err(|_| absent())?;
        let mut info = self.daemon.find(&parsed).await?.ok_or_else(absent)?;
        if parsed.snapshot.is_some() {
            let snapshot = self.daemon.snapshot(&info, &parsed).await?.ok_or_else(absent)?;
            (info.size, info.snapshot_id) = (snapshot.size, Some(snapshot.id));
        }
        Ok((parsed, info))
    }

    pub async fn list_volumes(&self, request: ListVolumesRequest) -> Result<ListVolumesResponse> {
        let all = self.daemon.volumes().await?;
        let finished =
            |info: &VolumeInfo| !info.path.parse::<Id>().is_ok_and(|id| names::is_unfinished(&id.volume));
        let entries =
            all.into_iter().filter(finished).map(|info| (info.path.clone(), entry(&info))).collect();
        let (entries, next_token) = page(entries, &request.starting_token, request.max_entries)?;
        Ok(ListVolumesResponse { entries, next_token })
    }

    pub async fn controller_get_volume(&self, request: VolumeId) -> Result<VolumeEntry> {
        let (id, info) = self.existing(required(&request.volume_id, "volume_id")?).await?;
        let mut found = entry(&info);
        if let Some(volume) = &mut found.volume {
            volume.volume_id = id.to_string();
        }
        Ok(found)
    }

    /// Returns the free space of one pool, or of all together.
    pub async fn capacity(&self, request: GetCapacityRequest) -> Result<GetCapacityResponse> {
        let maximum_volume_size = Some(Int64Value { value: SIZE_MAX as i64 });
        if request.volume_capabilities.iter().any(|one| Access::of(Some(one)).is_err()) {
            return Ok(GetCapacityResponse { available_capacity: 0, maximum_volume_size });
        }
        let pool = Parameters::of(&request.parameters)?.pool;
        let pools = self.daemon.pools().await?;
        let wanted: Vec<&PoolInfo> =
            pools.iter().filter(|p| pool.as_ref().is_none_or(|name| *name == p.name)).collect();
        match (&wanted[..], pool) {
            ([], Some(name)) => return Err(Status::invalid(format!("this host knows no pool {name}"))),
            ([PoolInfo { layout: None, trouble, name, .. }], Some(_)) => {
                let why = trouble.as_deref().unwrap_or("its stores do not answer");
                return Err(Status::new(Code::Unavailable, format!("pool {name}: {why}")));
            }
            _ => {}
        }
        let free = wanted.into_iter().map(room).fold(0u64, u64::saturating_add);
        Ok(GetCapacityResponse {
            available_capacity: i64::try_from(free).unwrap_or(i64::MAX),
            maximum_volume_size,
        })
    }

    // ---- changing ----

    pub async fn controller_expand(
        &self,
        request: ControllerExpandVolumeRequest,
    ) -> Result<ControllerExpandVolumeResponse> {
        let text = required(&request.volume_id, "volume_id")?;
        if request.capacity_range.is_none() {
            return Err(Status::invalid("capacity_range is missing"));
        }
        let range = Range::of(request.capacity_range.as_ref())?;
        let (id, info) = self.existing(text).await?;
        if id.snapshot.is_some() || info.template {
            return Err(Status::precondition(format!("{id} can only be read: it does not grow")));
        }
        let size = range.grown(info.size)?;
        if size > info.size {
            let _held = self.busy.hold(id.to_string())?;
            // Its owner does it, when its node is asked.
            if !self.daemon.owned_elsewhere(&info).await? {
                self.grow(&id, &info, size).await?;
                self.daemon.let_go(&info).await;
            }
        }
        Ok(ControllerExpandVolumeResponse { capacity_bytes: size as i64, node_expansion_required: true })
    }

    /// Makes a volume larger that this host may open. The kernel's devices take up the size when they connect
    /// again, which other clients may not do.
    pub async fn grow(&self, id: &Id, info: &VolumeInfo, size: u64) -> Result<()> {
        let attached = info.clients > 0 && self.attacher.find(id, Some(&Identity::of(info))).await?.is_some();
        if info.clients > 0 && !attached {
            let why =
                format!("volume {id} is used by a client that would not see it grow: disconnect it first");
            return Err(Status::precondition(why));
        }
        Ok(self.daemon.resize(info, size, attached).await?)
    }

    pub async fn modify_volume(&self, request: ControllerModifyVolumeRequest) -> Result<Empty> {
        let text = required(&request.volume_id, "volume_id")?;
        let settings = settings(&request.mutable_parameters)?;
        let (id, info) = self.existing(text).await?;
        if id.snapshot.is_some() {
            return Err(Status::precondition(format!("{id} is a snapshot: it has no settings")));
        }
        if !settings.is_empty() {
            let _held = self.busy.hold(id.to_string())?;
            self.daemon.set(&info, &settings).await?;
        }
        Ok(Empty {})
    }
}

/// Returns the error that another volume has the name.
fn other(info: &VolumeInfo) -> Status {
    let of = info.origin.as_deref().map(|origin| format!(", a clone of {origin}")).unwrap_or_default();
    Status::exists(format!(
        "volume {} exists with {} bytes{of}, which is not what is asked for",
        info.path, info.size
    ))
}

/// Returns the id of a new volume's source. Text that is no id of ours is `NotFound`.
fn source_id(source: &ContentSource) -> Result<Id> {
    let (SourceId { id: text }, what, is_snapshot) = match source {
        ContentSource::Snapshot(id) => (id, "snapshot", true),
        ContentSource::Volume(id) => (id, "volume", false),
    };
    let text = required(text, what)?;
    let absent = || Status::not_found(format!("there is no {what} {text}"));
    let id: Id = text.parse().map_err(|_| absent())?;
    match id.snapshot.is_some() == is_snapshot {
        true => Ok(id),
        false => Err(absent()),
    }
}

/// Checks that a volume can be used so. Snapshots and templates are only read, by any host; anything else is
/// used by one host.
pub fn fits(access: &Access, id: &Id, info: &VolumeInfo) -> Result<()> {
    let is_fixed = id.snapshot.is_some() || info.template;
    match (is_fixed, access.only_reads()) {
        (true, false) => {
            Err(Status::precondition(format!("{id} can only be read: it is no volume to write to")))
        }
        (false, _) if access.of_many_nodes() => {
            let why = format!("{id} is a volume that can be written: one node uses it at a time");
            Err(Status::precondition(why))
        }
        _ => Ok(()),
    }
}

fn volume(info: &VolumeInfo) -> csi::Volume {
    csi::Volume {
        capacity_bytes: info.size as i64,
        volume_id: info.path.clone(),
        volume_context: HashMap::new(),
        content_source: None,
    }
}

fn entry(info: &VolumeInfo) -> VolumeEntry {
    VolumeEntry {
        volume: Some(volume(info)),
        status: Some(VolumeStatus {
            published_node_ids: Vec::new(),
            volume_condition: Some(condition(info)),
        }),
    }
}

pub fn condition(info: &VolumeInfo) -> VolumeCondition {
    match (&info.trouble, info.state.as_str()) {
        (Some(trouble), _) => VolumeCondition { abnormal: true, message: trouble.clone() },
        (None, "unknown") => {
            VolumeCondition { abnormal: true, message: "its description can't be read now".into() }
        }
        (None, state) => VolumeCondition { abnormal: false, message: state.to_owned() },
    }
}

/// Returns the bytes that volumes can still take of a pool: parity takes the rest. A pool whose stores have
/// no bound has room for the largest volume.
fn room(pool: &PoolInfo) -> u64 {
    let shards = |layout: &str| {
        let (k, m) = layout.split_once('+')?;
        Some((k.parse::<u64>().ok()?, m.parse::<u64>().ok()?)).filter(|(k, _)| *k > 0)
    };
    match (pool.free_bytes, pool.layout.as_deref().and_then(shards)) {
        (_, None) => 0,
        (None, Some(_)) => SIZE_MAX,
        (Some(free), Some((k, m))) => free / (k + m) * k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(origin: Option<&str>, template: bool) -> VolumeInfo {
        let text = serde_json::json!({ "path": "p/v", "size": 8192, "state": "open", "origin": origin, "template": template });
        serde_json::from_value(text).unwrap()
    }

    fn access(mode: csi::Mode) -> Access {
        Access { filesystem: None, mount_flags: Vec::new(), mode }
    }

    #[test]
    fn one_host_writes_and_many_read_what_nobody_writes() {
        let (volume, snapshot): (Id, Id) = ("p/v".parse().unwrap(), "p/v@s".parse().unwrap());
        use csi::Mode::*;
        let (plain, template) = (info(None, false), info(None, true));
        for (mode, on_plain, on_template) in [
            (SingleNodeWriter, true, false),
            (SingleNodeMultiWriter, true, false),
            (SingleNodeReaderOnly, true, true),
            (MultiNodeReaderOnly, false, true),
        ] {
            assert_eq!(fits(&access(mode), &volume, &plain).is_ok(), on_plain, "{mode:?}");
            assert_eq!(fits(&access(mode), &volume, &template).is_ok(), on_template, "{mode:?}");
            assert_eq!(fits(&access(mode), &snapshot, &plain).is_ok(), on_template, "{mode:?}");
        }
    }

    #[test]
    fn room_is_told_without_parity() {
        let pool = |layout: Option<&str>, free_bytes| PoolInfo {
            name: "p".into(),
            layout: layout.map(str::to_owned),
            free_bytes,
            trouble: None,
        };
        assert_eq!(room(&pool(Some("4+2"), Some(600))), 400);
        assert_eq!(room(&pool(Some("1+0"), Some(600))), 600);
        assert_eq!(room(&pool(Some("1+0"), None)), SIZE_MAX);
        assert_eq!(room(&pool(None, Some(600))), 0);
    }

    #[test]
    fn sources_that_are_none_are_not_found() {
        let source = |text: &str, snapshot: bool| {
            let id = SourceId { id: text.into() };
            source_id(&if snapshot { ContentSource::Snapshot(id) } else { ContentSource::Volume(id) })
        };
        assert!(source("p/v@s", true).is_ok() && source("p/v", false).is_ok());
        for (text, snapshot) in [("p/v", true), ("p/v@s", false), ("non-existing-snapshot-id", true)] {
            assert!(source(text, snapshot).unwrap_err().is(Code::NotFound), "{text}");
        }
        assert!(source("", true).unwrap_err().is(Code::InvalidArgument));
    }
}
