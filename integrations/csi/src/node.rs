//! The service Node: a volume becomes a device of this host, gets a filesystem, and is mounted where a container wants it.
//!
//! *Staging* attaches the device and mounts it once a node; *publishing* binds that, or the device itself, to the path of a
//! container. What is attached and mounted is read from the kernel each time. Two things must hold: nobody makes a filesystem
//! over data, and no volume is attached that another host has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::attach::Identity;
use crate::controller::{condition, fits};
use crate::csi::{
    Empty, GetCapabilitiesResponse, NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetInfoResponse,
    NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodeRpc,
    NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, Unit, VolumeUsage,
};
use crate::daemon::VolumeInfo;
use crate::driver::Driver;
use crate::host::{self, Mount};
use crate::names::Id;
use crate::request::{Access, Filesystem, Range};
use crate::status::{Code, Result, Status, required};

/// Time for a device to take up its volume's new size.
const GROWN_WITHIN: Duration = Duration::from_secs(30);

impl Driver {
    pub async fn node_capabilities(&self, _: Empty) -> Result<GetCapabilitiesResponse> {
        use NodeRpc::*;
        let all = [StageUnstageVolume, GetVolumeStats, ExpandVolume, VolumeCondition, SingleNodeMultiWriter];
        Ok(GetCapabilitiesResponse::of(all.map(i32::from)))
    }

    /// Returns this node's name. Every node reaches every volume whose pool its daemon knows, so there is no
    /// topology.
    pub async fn node_info(&self, _: Empty) -> Result<NodeGetInfoResponse> {
        Ok(NodeGetInfoResponse { node_id: self.node.clone(), max_volumes_per_node: 0 })
    }

    // ---- staging ----

    pub async fn stage(&self, request: NodeStageVolumeRequest) -> Result<Empty> {
        let text = required(&request.volume_id, "volume_id")?;
        let staging = PathBuf::from(required(&request.staging_target_path, "staging_target_path")?);
        let access = Access::of(request.volume_capability.as_ref())?;
        let (id, info) = self.existing(text).await?;
        fits(&access, &id, &info)?;
        let _held = self.busy.hold(id.to_string())?;
        if self.daemon.owned_elsewhere(&info).await? {
            let owner = info.owner.as_deref().unwrap_or("another host");
            let why = format!(
                "volume {id} is in use on host {owner}: it can be staged here once it is unstaged there; when that host is \
                 dead: windlass volume take-over {}",
                info.path
            );
            return Err(Status::precondition(why));
        }
        // A filesystem that is only read may have a log that has to be replayed all the same.
        let read_only = access.only_reads() && access.filesystem.is_none();
        let device = self.attacher.attach(&id, &Identity::of(&info), read_only).await?;
        let Some(filesystem) = access.filesystem else { return Ok(Empty {}) };
        let number = number(&device)?;
        match host::mounted_at(&staging)? {
            Some(mount) if mount.device == number => {}
            Some(_) => {
                let why = format!("something else than volume {id} is mounted at {}", staging.display());
                return Err(Status::exists(why));
            }
            None => {
                let at = format!("volume {id}, {}", device.display());
                let fixed = id.is_fixed(&info);
                // Asked once more: of a volume that is open, it is known what was written last.
                let info = self.daemon.info(&id).await?;
                mount(&device, filesystem, &staging, &access, fixed, &info)
                    .await
                    .map_err(|e| e.context(at))?;
            }
        }
        Ok(Empty {})
    }

    pub async fn unstage(&self, request: NodeUnstageVolumeRequest) -> Result<Empty> {
        let text = required(&request.volume_id, "volume_id")?;
        let staging = PathBuf::from(required(&request.staging_target_path, "staging_target_path")?);
        let _held = self.busy.hold(text)?;
        host::unmount(&staging).await?;
        let Ok(id) = text.parse::<Id>() else { return Ok(Empty {}) };
        // The name has to do where nobody can tell what it stands for now, or where that was never staged.
        let known = self.existing(text).await.ok().map(|(_, info)| Identity::of(&info));
        let found = self.attacher.find(&id, known.as_ref()).await?;
        let identity = found.as_ref().and(known.as_ref());
        let found = if found.is_none() { self.attacher.find(&id, None).await? } else { found };
        let Some(device) = found else { return Ok(Empty {}) };
        // A device node that is bound holds nothing open: the kernel would let it go.
        if let Some(published) = Places::of(&device)?.all.first() {
            let why = format!("volume {id} is still published at {}", published.at.display());
            return Err(Status::precondition(why));
        }
        self.attacher.detach(&id, identity).await?;
        if id.snapshot.is_none() {
            // So that another host need not wait for a minute. Where it fails, the daemon does it by itself later, and
            // until then other hosts are refused.
            if let Err(e) = self.daemon.release(&id).await {
                tracing::warn!(volume = %id, error = e.message, "detached, and not released yet");
            }
        }
        Ok(Empty {})
    }

    // ---- publishing ----

    pub async fn publish(&self, request: NodePublishVolumeRequest) -> Result<Empty> {
        let text = required(&request.volume_id, "volume_id")?;
        let target = PathBuf::from(required(&request.target_path, "target_path")?);
        let access = Access::of(request.volume_capability.as_ref())?;
        let staging = PathBuf::from(required(&request.staging_target_path, "staging_target_path")?);
        let (id, info) = self.existing(text).await?;
        let _held = self.busy.hold(id.to_string())?;
        let found = self.attacher.find(&id, Some(&Identity::of(&info))).await?;
        let not_staged = || Status::precondition(format!("volume {id} is not staged on this node"));
        let device = found.ok_or_else(not_staged)?;
        let read_only = request.readonly || access.only_reads();
        let places = Places::of(&device)?;
        if let Some(there) = places.all.iter().find(|mount| mount.at == canonical(&target)) {
            return match there.read_only == read_only || access.filesystem.is_none() {
                true => Ok(Empty {}),
                false => {
                    Err(Status::exists(format!("{} is published, but not as asked for", target.display())))
                }
            };
        }
        if host::mounted_at(&target)?.is_some() {
            return Err(Status::exists(format!(
                "something else than {id} is mounted at {}",
                target.display()
            )));
        }
        let others = places.all.iter().any(|mount| mount.at != canonical(&staging));
        if access.mode == crate::csi::Mode::SingleNodeSingleWriter && others {
            let why = format!("volume {id} is for one container at a time, and is published to another");
            return Err(Status::precondition(why));
        }
        let source = match access.filesystem {
            Some(_) => {
                let staged = host::mounted_at(&staging)?.filter(|mount| mount.device == places.number);
                staged.ok_or_else(|| {
                    Status::precondition(format!("volume {id} is not mounted at {}", staging.display()))
                })?;
                make_folder(&target)?;
                staging
            }
            None => {
                // The kernel has the device read-only for all or for none: a bind says nothing of that.
                if others && host::is_read_only(&places.number)? != read_only {
                    let how = if read_only { "to write to" } else { "to read" };
                    let why = format!(
                        "volume {id} is published to another container {how} already: a device is for both the same"
                    );
                    return Err(Status::precondition(why));
                }
                set_read_only(&device, &places.number, read_only).await?;
                make_file(&target)?;
                device
            }
        };
        bind(&source, &target, read_only && access.filesystem.is_some()).await?;
        Ok(Empty {})
    }

    pub async fn unpublish(&self, request: NodeUnpublishVolumeRequest) -> Result<Empty> {
        let text = required(&request.volume_id, "volume_id")?;
        let target = PathBuf::from(required(&request.target_path, "target_path")?);
        let _held = self.busy.hold(text)?;
        host::unmount(&target).await?;
        // Only what is empty: whatever else is there, is none of the driver's.
        let gone = match std::fs::symlink_metadata(&target) {
            Err(e) => Err(e),
            Ok(meta) if meta.is_dir() => std::fs::remove_dir(&target),
            Ok(meta) if meta.len() == 0 => std::fs::remove_file(&target),
            Ok(_) => Err(std::io::Error::other("it is no mount, and not empty")),
        };
        match gone {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Status::internal(format!("removing {}: {e}", target.display())))
            }
            _ => Ok(Empty {}),
        }
    }

    // ---- looking and growing ----

    pub async fn volume_stats(
        &self,
        request: NodeGetVolumeStatsRequest,
    ) -> Result<NodeGetVolumeStatsResponse> {
        let text = required(&request.volume_id, "volume_id")?;
        let path = PathBuf::from(required(&request.volume_path, "volume_path")?);
        let (id, info) = self.existing(text).await?;
        let (device, mount) = self.published(&id, &info, &path).await?;
        let usage = match mount {
            Published::Device => {
                let total = host::size_of(&number(&device)?)? as i64;
                vec![VolumeUsage { available: 0, total, used: 0, unit: Unit::Bytes.into() }]
            }
            Published::Folder => usage_of(&path)?,
        };
        Ok(NodeGetVolumeStatsResponse { usage, volume_condition: Some(condition(&info)) })
    }

    pub async fn node_expand(&self, request: NodeExpandVolumeRequest) -> Result<NodeExpandVolumeResponse> {
        let text = required(&request.volume_id, "volume_id")?;
        let path = PathBuf::from(required(&request.volume_path, "volume_path")?);
        let range = Range::of(request.capacity_range.as_ref())?;
        let (id, info) = self.existing(text).await?;
        let (device, published) = self.published(&id, &info, &path).await?;
        let _held = self.busy.hold(id.to_string())?;
        let number = number(&device)?;
        let size = range.grown(info.size)?;
        if size > info.size {
            self.grow(&id, &info, size).await?;
        }
        let until = host::now() + GROWN_WITHIN;
        while host::size_of(&number)? < size {
            if host::now() > until {
                let why = format!("{} has not taken up the new size of {id} yet", device.display());
                return Err(Status::new(Code::Unavailable, why));
            }
            host::sleep(Duration::from_millis(100)).await;
        }
        if let Published::Folder = published
            && !id.is_fixed(&info)
        {
            grow_filesystem(&device, &path).await?;
        }
        Ok(NodeExpandVolumeResponse { capacity_bytes: size as i64 })
    }

    /// Returns the device of a volume that is staged or published at `path`, and in which form. `NotFound`
    /// where it is not.
    async fn published(&self, id: &Id, info: &VolumeInfo, path: &Path) -> Result<(PathBuf, Published)> {
        let absent = || Status::not_found(format!("volume {id} is not at {}", path.display()));
        let device = self.attacher.find(id, Some(&Identity::of(info))).await?.ok_or_else(absent)?;
        let number = number(&device)?;
        match host::mounted_at(path)? {
            Some(mount) if mount.device == number => Ok((device, Published::Folder)),
            _ if host::number_of(path).as_ref() == Some(&number) => Ok((device, Published::Device)),
            _ => Err(absent()),
        }
    }
}

impl Id {
    /// Tells whether nobody writes to the volume: it is a snapshot or a template.
    fn is_fixed(&self, info: &VolumeInfo) -> bool {
        self.snapshot.is_some() || info.template
    }
}

/// The form in which a volume is at a path.
enum Published {
    Device,
    Folder,
}

/// The mounts of a device: where its filesystem is mounted, or its device node bound.
struct Places {
    number: String,
    all: Vec<Mount>,
}

impl Places {
    fn of(device: &Path) -> Result<Places> {
        let number = number(device)?;
        let of_device = |mount: &Mount| {
            mount.device == number
                || (mount.root != "/" && host::number_of(&mount.at).as_ref() == Some(&number))
        };
        Ok(Places { all: host::mounts()?.into_iter().filter(of_device).collect(), number })
    }
}

fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn number(device: &Path) -> Result<String> {
    host::number_of(device)
        .ok_or_else(|| Status::internal(format!("{} is no block device", device.display())))
}

fn make_folder(path: &Path) -> Result<()> {
    let failed = |e| Status::internal(format!("making folder {}: {e}", path.display()));
    std::fs::create_dir_all(path).map_err(failed)
}

/// Makes an empty file, over which a device can be bound.
fn make_file(path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let made = std::fs::OpenOptions::new().create(true).append(true).open(path);
    made.map(drop).map_err(|e| Status::internal(format!("making file {}: {e}", path.display())))
}

async fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    let (source, at) = (host::utf8(source)?, host::utf8(target)?);
    host::run("mount", &["--bind", "--", source, at]).await?;
    if read_only && let Err(e) = host::run("mount", &["-o", "remount,bind,ro", "--", at]).await {
        host::unmount(target).await?;
        return Err(e);
    }
    Ok(())
}

/// Makes a device read-only or writable for those who open it from now on. One that was attached to be read
/// stays so, which is an error.
async fn set_read_only(device: &Path, number: &str, read_only: bool) -> Result<()> {
    if host::is_read_only(number)? == read_only {
        return Ok(());
    }
    host::set_read_only(device, read_only).await?;
    match host::is_read_only(number)? == read_only {
        true => Ok(()),
        false => {
            let why = format!("{} can't be written: it was attached to be read", device.display());
            Err(Status::precondition(why))
        }
    }
}

/// Mounts a device. A device with nothing on it gets a filesystem first.
async fn mount(
    device: &Path,
    filesystem: Filesystem,
    staging: &Path,
    access: &Access,
    fixed: bool,
    info: &VolumeInfo,
) -> Result<()> {
    let (name, path) = (filesystem.name(), host::utf8(device)?);
    match signature(path).await? {
        Signature::Filesystem(found) if found == name => match fixed {
            false => check(filesystem, path).await?,
            true if filesystem == Filesystem::Ext4 && has_log(device)? => return Err(unreplayed()),
            true => {}
        },
        Signature::Filesystem(found) => {
            return Err(Status::precondition(format!(
                "it has a filesystem {found}, and {name} is asked for"
            )));
        }
        Signature::Other(found) => {
            let why = format!("it has {found} on it, and no filesystem: it can be used as a block device");
            return Err(Status::precondition(why));
        }
        Signature::Nothing => make_filesystem(filesystem, path, fixed, info).await?,
    }
    make_folder(staging)?;
    let mut options: Vec<&str> = access.mount_flags.iter().map(String::as_str).collect();
    if fixed || access.only_reads() {
        options.push("ro");
    }
    if filesystem == Filesystem::Xfs {
        // A clone has the id of what it was made from, which may be mounted on this node too.
        options.push("nouuid");
    }
    let options = options.join(",");
    let at = host::utf8(staging)?;
    let args: &[&str] = match options.as_str() {
        "" => &["-t", name, "--", path, at],
        options => &["-t", name, "-o", options, "--", path, at],
    };
    let mounted = host::run("mount", args).await;
    // Without its log it could be mounted, and would lack files that were synced.
    mounted.map_err(|e| match fixed && filesystem == Filesystem::Xfs {
        true => unreplayed().context(e.message),
        false => e,
    })?;
    // A clone may be larger than the snapshot that it was made of.
    if !fixed && !access.only_reads() {
        grow_filesystem(device, staging).await?;
    }
    Ok(())
}

/// Tells whether an ext4 has a log that was not replayed.
fn has_log(device: &Path) -> Result<bool> {
    const SUPERBLOCK: u64 = 1024;
    const INCOMPATIBLE: usize = 0x60;
    const NEEDS_RECOVERY: u32 = 4;
    let mut bytes = [0; INCOMPATIBLE + 4];
    host::read_at(device, SUPERBLOCK, &mut bytes)?;
    let flags = bytes.last_chunk().map_or(0, |flags| u32::from_le_bytes(*flags));
    Ok(flags & NEEDS_RECOVERY != 0)
}

/// Returns the folder where a filesystem is mounted whose log only mounting replays.
fn replay_folder(id: &Id) -> PathBuf {
    std::env::temp_dir().join(format!("windlass-csi-{}-{}", id.pool, id.volume))
}

fn unreplayed() -> Status {
    let why = "its filesystem was in use when it was kept: what its log holds has to be brought to its place first, and nobody \
               writes here. Make a volume of the snapshot, which mounts as it is, or one for ReadOnlyMany";
    Status::precondition(why)
}

impl Driver {
    /// Takes away what an interrupted `replay_log` has left of a clone: the mount, and the device.
    pub async fn end_replay(&self, id: &Id, info: &VolumeInfo) -> Result<()> {
        let folder = replay_folder(id);
        host::unmount(&folder).await?;
        let gone = std::fs::remove_dir(&folder).or_else(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(Status::internal(format!("removing {}: {e}", folder.display()))),
        });
        gone?;
        self.attacher.detach(id, Some(&Identity::of(info))).await
    }

    /// Replays the log of a clone's filesystem, through a device of its own. `end_replay` takes the device
    /// away again.
    pub async fn replay_log(&self, id: &Id, info: &VolumeInfo, filesystem: Filesystem) -> Result<()> {
        let device = self.attacher.attach(id, &Identity::of(info), false).await?;
        let path = host::utf8(&device)?;
        match (signature(path).await?, filesystem) {
            // Which it is not mounted with later, and that is said then.
            (Signature::Filesystem(found), _) if found != filesystem.name() => Ok(()),
            (Signature::Filesystem(_), Filesystem::Ext4) => check(filesystem, path).await,
            (Signature::Filesystem(_), Filesystem::Xfs) => {
                let folder = replay_folder(id);
                make_folder(&folder)?;
                let at = host::utf8(&folder)?;
                host::run("mount", &["-t", "xfs", "-o", "nouuid", "--", path, at]).await.map(drop)
            }
            (Signature::Nothing | Signature::Other(_), _) => Ok(()),
        }
    }
}

/// The contents of a device, as blkid names them.
#[derive(Debug, PartialEq, Eq)]
enum Signature {
    Nothing,
    Filesystem(String),
    Other(String),
}

async fn signature(device: &str) -> Result<Signature> {
    let done = host::output(Path::new("blkid"), &["-p", "-o", "export", device], &[]).await?;
    match done.status.code() {
        Some(0) => Ok(read_signature(&String::from_utf8_lossy(&done.stdout))),
        Some(2) if done.stderr.is_empty() => Ok(Signature::Nothing),
        _ => Err(Status::internal(format!("blkid can't tell what is on it: {}", host::complaint(&done)))),
    }
}

fn read_signature(said: &str) -> Signature {
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    match (value("USAGE"), value("TYPE"), value("PTTYPE")) {
        (Some("filesystem"), Some(found), _) => Signature::Filesystem(found.to_owned()),
        (_, Some(found), _) => Signature::Other(found.to_owned()),
        (_, None, Some(table)) => Signature::Other(format!("a table of partitions ({table})")),
        (_, None, None) => Signature::Other("something that blkid does not name".to_owned()),
    }
}

/// Makes a filesystem, but only over a volume that holds nothing but zeros: data that no tool knows may be
/// somebody's all the same.
async fn make_filesystem(filesystem: Filesystem, device: &str, fixed: bool, info: &VolumeInfo) -> Result<()> {
    if fixed {
        return Err(Status::precondition("there is no filesystem on it, and it can only be read"));
    }
    if info.mapped_bytes > 0 {
        let why = format!(
            "it holds {} bytes of data and no known filesystem, so none is made: use it as a block device; if this is what a \
             mkfs left that was cut off, remove the volume and make it again",
            info.mapped_bytes
        );
        return Err(Status::precondition(why));
    }
    match filesystem {
        Filesystem::Ext4 => host::run("mkfs.ext4", &["-q", "-F", "-m", "0", device]).await,
        Filesystem::Xfs => host::run("mkfs.xfs", &["-q", device]).await,
    }
    .map(drop)
}

/// Repairs an ext4 where a journal's replay does not. An xfs needs no check.
async fn check(filesystem: Filesystem, device: &str) -> Result<()> {
    if filesystem == Filesystem::Xfs {
        return Ok(());
    }
    let done = host::output(Path::new("e2fsck"), &["-p", device], &[]).await?;
    match done.status.code() {
        Some(0 | 1) => Ok(()),
        _ => {
            let why = format!("e2fsck finds what it does not mend by itself: {}", host::complaint(&done));
            Err(Status::new(Code::DataLoss, why))
        }
    }
}

/// Makes the filesystem as large as its device.
async fn grow_filesystem(device: &Path, at: &Path) -> Result<()> {
    let path = host::utf8(device)?;
    match signature(path).await? {
        Signature::Filesystem(found) if found == "ext4" => host::run("resize2fs", &[path]).await.map(drop),
        Signature::Filesystem(found) if found == "xfs" => {
            host::run("xfs_growfs", &[host::utf8(at)?]).await.map(drop)
        }
        other => Err(Status::internal(format!("{other:?} on {path} is no filesystem that grows here"))),
    }
}

fn usage_of(path: &Path) -> Result<Vec<VolumeUsage>> {
    let told = rustix::fs::statvfs(path).map_err(|e| Status::internal(format!("{}: {e}", path.display())))?;
    let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize) as i64;
    let (total, free) = (bytes(told.f_blocks), bytes(told.f_bfree));
    let (files, free_files) = (told.f_files as i64, told.f_ffree as i64);
    Ok(vec![
        VolumeUsage { available: bytes(told.f_bavail), total, used: total - free, unit: Unit::Bytes.into() },
        VolumeUsage {
            available: free_files,
            total: files,
            used: files - free_files,
            unit: Unit::Inodes.into(),
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_told_apart() {
        let ext4 = "DEVNAME=/dev/nbd0\nUUID=1\nVERSION=1.0\nBLOCK_SIZE=4096\nTYPE=ext4\nUSAGE=filesystem\n";
        assert_eq!(read_signature(ext4), Signature::Filesystem("ext4".into()));
        assert_eq!(read_signature("TYPE=LVM2_member\nUSAGE=raid\n"), Signature::Other("LVM2_member".into()));
        assert!(
            matches!(read_signature("PTUUID=1\nPTTYPE=gpt\n"), Signature::Other(table) if table.contains("gpt"))
        );
        assert!(matches!(read_signature("MINIMUM_IO_SIZE=4096\n"), Signature::Other(_)));
    }

    #[tokio::test]
    async fn filesystems_are_not_made_over_data() {
        let info = |mapped: u64| -> VolumeInfo {
            serde_json::from_value(serde_json::json!({ "path": "p/v", "mapped_bytes": mapped })).unwrap()
        };
        let held = make_filesystem(Filesystem::Ext4, "/no/device", false, &info(4096)).await.unwrap_err();
        assert!(held.is(Code::FailedPrecondition) && held.message.contains("4096 bytes of data"), "{held}");
        let fixed = make_filesystem(Filesystem::Ext4, "/no/device", true, &info(0)).await.unwrap_err();
        assert!(fixed.is(Code::FailedPrecondition), "{fixed}");
        let made = make_filesystem(Filesystem::Ext4, "/no/device", false, &info(0)).await.unwrap_err();
        assert!(made.message.contains("mkfs.ext4"), "{made}");
    }
}
