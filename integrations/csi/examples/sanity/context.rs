//! A connection, what cases make, and how they are judged.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use windlass_csi::csi::*;
use windlass_csi::grpc::Client;
use windlass_csi::status::{Code, Status};

pub const SIZE: i64 = 1 << 30;
pub const GROWN: i64 = 2 << 30;
/// Suffix of the names that cases use, as csi-sanity has one against other runs on the same pool.
pub const UNIQUE: &str = "-0A1B2C3D-0E1F2A3B";

/// The result of a case, with what went wrong.
pub type Case = Result<(), String>;

/// One host's driver.
#[derive(Clone)]
pub struct Node {
    pub client: Client,
    pub staging: PathBuf,
    pub targets: PathBuf,
}

pub struct Context {
    pub here: Node,
    pub there: Option<Node>,
    pub block: bool,
    pub passed: u32,
    pub failed: u32,
    pub folder: PathBuf,
    volumes: Vec<String>,
    snapshots: Vec<String>,
}

/// Runs a case, cleans up, and says what came of it.
#[macro_export]
macro_rules! case {
    ($context:ident, $name:expr, $body:block) => {{
        let done: $crate::context::Case = async { $body }.await;
        let cleaned = $context.clean_up().await;
        $context.judge($name, done.and(cleaned));
    }};
}

/// Fails unless `holds`.
pub fn must(holds: bool, what: impl FnOnce() -> String) -> Case {
    if holds { Ok(()) } else { Err(what()) }
}

/// Fails unless the call was refused with this code.
pub fn fails<T>(code: Code, done: Result<T, Status>) -> Case {
    match done {
        Ok(_) => Err(format!("it was done, and {code:?} is wanted")),
        Err(status) if status.is(code) => Ok(()),
        Err(status) => Err(format!("{code:?} is wanted, not {status}")),
    }
}

/// Fails unless the call succeeded.
pub fn ok<T>(done: Result<T, Status>) -> Result<T, String> {
    done.map_err(|status| status.to_string())
}

impl Node {
    async fn new(folder: &Path, socket: &Path) -> Result<Node, String> {
        let (staging, targets) = (folder.join("staging"), folder.join("targets"));
        for dir in [&staging, &targets] {
            std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        Ok(Node { client: ok(Client::connect(socket).await)?, staging, targets })
    }

    pub async fn identity<A: Message + Default>(&self, method: &str) -> Result<A, Status> {
        self.client.call(&format!("{IDENTITY}{method}"), &Empty {}).await
    }

    pub async fn controller<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Status> {
        self.client.call(&format!("{CONTROLLER}{method}"), request).await
    }

    pub async fn node<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Status> {
        self.client.call(&format!("{NODE}{method}"), request).await
    }

    pub async fn stage(&self, id: &str, capability: &VolumeCapability) -> Result<(), Status> {
        let request = NodeStageVolumeRequest {
            volume_id: id.into(),
            staging_target_path: text(&self.staging),
            volume_capability: Some(capability.clone()),
            ..Default::default()
        };
        self.node::<Empty>("NodeStageVolume", &request).await.map(drop)
    }

    pub async fn unstage(&self, id: &str) -> Result<(), Status> {
        let request =
            NodeUnstageVolumeRequest { volume_id: id.into(), staging_target_path: text(&self.staging) };
        self.node::<Empty>("NodeUnstageVolume", &request).await.map(drop)
    }

    pub async fn publish(
        &self,
        id: &str,
        target: &str,
        capability: &VolumeCapability,
        readonly: bool,
    ) -> Result<(), Status> {
        let request = NodePublishVolumeRequest {
            volume_id: id.into(),
            staging_target_path: text(&self.staging),
            target_path: text(&self.targets.join(target)),
            volume_capability: Some(capability.clone()),
            readonly,
            ..Default::default()
        };
        self.node::<Empty>("NodePublishVolume", &request).await.map(drop)
    }

    pub async fn unpublish(&self, id: &str, target: &str) -> Result<(), Status> {
        let target_path = text(&self.targets.join(target));
        let request = NodeUnpublishVolumeRequest { volume_id: id.into(), target_path };
        self.node::<Empty>("NodeUnpublishVolume", &request).await.map(drop)
    }

    pub async fn stats(&self, id: &str, path: &str) -> Result<NodeGetVolumeStatsResponse, Status> {
        let request = NodeGetVolumeStatsRequest { volume_id: id.into(), volume_path: path.into() };
        self.node("NodeGetVolumeStats", &request).await
    }

    pub async fn expand(&self, id: &str, path: &str, bytes: i64) -> Result<NodeExpandVolumeResponse, Status> {
        let request = NodeExpandVolumeRequest {
            volume_id: id.into(),
            volume_path: path.into(),
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            ..Default::default()
        };
        self.node("NodeExpandVolume", &request).await
    }

    /// Undoes everything that a case has left of a volume.
    async fn put_away(&self, id: &str) -> Result<(), String> {
        for entry in std::fs::read_dir(&self.targets).map_err(|e| e.to_string())?.flatten() {
            ok(self.unpublish(id, &entry.file_name().to_string_lossy()).await)?;
        }
        ok(self.unstage(id).await)
    }
}

impl Context {
    pub async fn new(
        folder: PathBuf,
        block: bool,
        socket: &Path,
        other: Option<PathBuf>,
    ) -> Result<Context, String> {
        let there = match other {
            Some(socket) => Some(Node::new(&folder.join("there"), &socket).await?),
            None => None,
        };
        let here = Node::new(&folder.join("here"), socket).await?;
        let (volumes, snapshots) = Default::default();
        Ok(Context { here, there, block, passed: 0, failed: 0, folder, volumes, snapshots })
    }

    pub fn judge(&mut self, name: &str, done: Case) {
        match done {
            Ok(()) => {
                self.passed += 1;
                println!("ok {name}");
            }
            Err(why) => {
                self.failed += 1;
                println!("not ok {name}: {why}");
            }
        }
    }

    pub fn capability(&self, mode: Mode) -> VolumeCapability {
        let access_type = match self.block {
            true => AccessType::Block(Empty {}),
            false => AccessType::Mount(MountVolume::default()),
        };
        VolumeCapability {
            access_type: Some(access_type),
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    pub fn writer(&self) -> VolumeCapability {
        self.capability(Mode::SingleNodeWriter)
    }

    pub fn request(&self, name: &str) -> CreateVolumeRequest {
        CreateVolumeRequest {
            name: format!("{name}{UNIQUE}"),
            capacity_range: Some(CapacityRange { required_bytes: SIZE, limit_bytes: 0 }),
            volume_capabilities: vec![self.writer()],
            ..Default::default()
        }
    }

    pub async fn try_create(&mut self, request: &CreateVolumeRequest) -> Result<Volume, Status> {
        let made: CreateVolumeResponse = self.here.controller("CreateVolume", request).await?;
        let volume = made.volume.unwrap_or_default();
        self.volumes.push(volume.volume_id.clone());
        Ok(volume)
    }

    pub async fn create_as(&mut self, request: &CreateVolumeRequest) -> Result<Volume, String> {
        let made = ok(self.try_create(request).await)?;
        must(!made.volume_id.is_empty(), || "a volume without an id".into())?;
        Ok(made)
    }

    pub async fn create(&mut self, name: &str) -> Result<Volume, String> {
        let request = self.request(name);
        self.create_as(&request).await
    }

    pub fn of_snapshot(&self, name: &str, snapshot: &str) -> CreateVolumeRequest {
        self.of(name, ContentSource::Snapshot(SourceId { id: snapshot.into() }))
    }

    pub fn of_volume(&self, name: &str, volume: &str) -> CreateVolumeRequest {
        self.of(name, ContentSource::Volume(SourceId { id: volume.into() }))
    }

    fn of(&self, name: &str, source: ContentSource) -> CreateVolumeRequest {
        let volume_content_source = Some(VolumeContentSource { r#type: Some(source) });
        CreateVolumeRequest { volume_content_source, ..self.request(name) }
    }

    pub async fn try_snapshot(&mut self, name: &str, volume: &str) -> Result<Snapshot, Status> {
        let request = CreateSnapshotRequest {
            source_volume_id: volume.into(),
            name: format!("{name}{UNIQUE}"),
            ..Default::default()
        };
        let made: SnapshotEntry = self.here.controller("CreateSnapshot", &request).await?;
        let snapshot = made.snapshot.unwrap_or_default();
        self.snapshots.push(snapshot.snapshot_id.clone());
        Ok(snapshot)
    }

    pub async fn snapshot(&mut self, name: &str, volume: &str) -> Result<Snapshot, String> {
        let made = ok(self.try_snapshot(name, volume).await)?;
        let whole = !made.snapshot_id.is_empty() && made.source_volume_id == volume;
        must(whole && made.creation_time.is_some() && made.ready_to_use, || {
            format!("an odd snapshot: {made:?}")
        })?;
        Ok(made)
    }

    /// Makes a new volume and a snapshot of it.
    pub async fn snapshot_of_new(&mut self, volume: &str, name: &str) -> Result<Snapshot, String> {
        let volume = self.create(volume).await?;
        self.snapshot(name, &volume.volume_id).await
    }

    pub async fn delete(&self, id: &str) -> Result<(), Status> {
        self.here.controller::<Empty>("DeleteVolume", &VolumeId { volume_id: id.into() }).await.map(drop)
    }

    pub async fn delete_snapshot(&self, id: &str) -> Result<(), Status> {
        self.here
            .controller::<Empty>("DeleteSnapshot", &SnapshotId { snapshot_id: id.into() })
            .await
            .map(drop)
    }

    pub async fn list(&self, max_entries: i32, token: &str) -> Result<ListVolumesResponse, Status> {
        let request = ListVolumesRequest { max_entries, starting_token: token.into() };
        self.here.controller("ListVolumes", &request).await
    }

    pub async fn list_snapshots(&self, request: ListSnapshotsRequest) -> Result<Vec<Snapshot>, String> {
        let listed: ListSnapshotsResponse = ok(self.here.controller("ListSnapshots", &request).await)?;
        Ok(listed.entries.into_iter().filter_map(|entry| entry.snapshot).collect())
    }

    pub async fn controller_expand(
        &self,
        id: &str,
        bytes: i64,
    ) -> Result<ControllerExpandVolumeResponse, Status> {
        let request = ControllerExpandVolumeRequest {
            volume_id: id.into(),
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            volume_capability: Some(self.writer()),
        };
        self.here.controller("ControllerExpandVolume", &request).await
    }

    pub async fn modify(&self, id: &str, key: &str, value: &str) -> Result<(), Status> {
        let request =
            ControllerModifyVolumeRequest { volume_id: id.into(), mutable_parameters: map(key, value) };
        self.here.controller::<Empty>("ControllerModifyVolume", &request).await.map(drop)
    }

    /// Stages the volume and publishes it at `target`.
    pub async fn use_here(&self, id: &str) -> Case {
        ok(self.here.stage(id, &self.writer()).await)?;
        ok(self.here.publish(id, "target", &self.writer(), false).await)
    }

    pub fn target(&self) -> PathBuf {
        self.here.targets.join("target")
    }

    /// Deletes a volume whose device is gone. The daemon may hear of the end of its connections a moment later; an orchestrator
    /// asks again then, and so does this, for 10 s.
    #[allow(clippy::disallowed_methods, reason = "nothing here runs in the simulation")]
    async fn delete_once_left(&self, id: &str) -> Result<(), Status> {
        for _ in 0..100 {
            match self.delete(id).await {
                Err(status) if status.message.contains("disconnect first") => {}
                done => return done,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.delete(id).await
    }

    /// Removes all that was made, in whatever order snapshots and clones allow.
    pub async fn clean_up(&mut self) -> Case {
        let (mut volumes, mut snapshots) =
            (std::mem::take(&mut self.volumes), std::mem::take(&mut self.snapshots));
        volumes.sort();
        volumes.dedup();
        for id in &volumes {
            self.here.put_away(id).await?;
            if let Some(there) = &self.there {
                there.put_away(id).await?;
            }
        }
        let mut why = String::new();
        for _ in 0..4 {
            let (mut volumes_left, mut snapshots_left) = (Vec::new(), Vec::new());
            for id in volumes.into_iter().rev() {
                match self.delete_once_left(&id).await {
                    // Clones that wait in a pool's trash need it as long as they do.
                    Err(status) if status.message.contains("(in the trash)") => {}
                    Err(status) => {
                        why = status.to_string();
                        volumes_left.insert(0, id);
                    }
                    Ok(_) => {}
                }
            }
            for id in snapshots {
                if let Err(status) = self.delete_snapshot(&id).await {
                    why = status.to_string();
                    snapshots_left.push(id);
                }
            }
            (volumes, snapshots) = (volumes_left, snapshots_left);
            if volumes.is_empty() && snapshots.is_empty() {
                return Ok(());
            }
        }
        Err(format!("cleaning up: {why}"))
    }
}

pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

pub fn map(key: &str, value: &str) -> HashMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}
