//! What csi-sanity does not ask: contents, refusals that keep data, two hosts.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use windlass_csi::csi::*;
use windlass_csi::status::Code;

use crate::case;
use crate::context::{Case, Context, GROWN, SIZE, fails, must, ok, text};

/// Tells whether this host lets root make a mounted ext4 larger, for which the kernel asks CAP_SYS_RESOURCE.
/// Containers may lack it.
fn may_grow_ext4() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask >> 24 & 1 == 1
}

/// Writes something that a reader knows again, at the published path: a file, or bytes of the device.
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a client of real mounts")]
fn write(c: &Context, at: &Path, what: &str) -> Case {
    let failed = |e: std::io::Error| format!("writing {}: {e}", at.display());
    if !c.block {
        let mut file = std::fs::File::create(at.join("file")).map_err(failed)?;
        file.write_all(what.as_bytes()).map_err(failed)?;
        return file.sync_all().map_err(failed);
    }
    let is_device = std::fs::metadata(at).map_err(failed)?.file_type().is_block_device();
    must(is_device, || format!("{} is no block device", at.display()))?;
    let mut device = std::fs::OpenOptions::new().write(true).open(at).map_err(failed)?;
    device.seek(SeekFrom::Start(1 << 20)).map_err(failed)?;
    let mut block = vec![0; 4096];
    block[..what.len()].copy_from_slice(what.as_bytes());
    device.write_all(&block).map_err(failed)?;
    device.sync_all().map_err(failed)
}

#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a client of real mounts")]
fn read(c: &Context, at: &Path, what: &str) -> Case {
    let failed = |e: std::io::Error| format!("reading {}: {e}", at.display());
    let mut seen = vec![0; what.len()];
    if c.block {
        let mut device = std::fs::File::open(at).map_err(failed)?;
        device.seek(SeekFrom::Start(1 << 20)).map_err(failed)?;
        device.read_exact(&mut seen).map_err(failed)?;
    } else {
        seen = std::fs::read(at.join("file")).map_err(failed)?;
    }
    must(seen == what.as_bytes(), || {
        format!("{} holds {:?}, not {what:?}", at.display(), String::from_utf8_lossy(&seen))
    })
}

async fn put_away(c: &Context, id: &str) -> Case {
    ok(c.here.unpublish(id, "target").await)?;
    ok(c.here.unstage(id).await)
}

/// Uses a volume, writes to it, and puts it away.
async fn written(c: &Context, id: &str, what: &str) -> Case {
    c.use_here(id).await?;
    write(c, &c.target(), what)?;
    put_away(c, id).await
}

async fn holds(c: &Context, id: &str, what: &str) -> Case {
    c.use_here(id).await?;
    read(c, &c.target(), what)?;
    put_away(c, id).await
}

pub async fn contents(c: &mut Context) {
    case!(c, "a volume keeps what was written when it is staged again", {
        let id = c.create("keeps").await?.volume_id;
        written(c, &id, "first").await?;
        holds(c, &id, "first").await
    });
    case!(c, "a snapshot of a volume in use, and a larger volume of it", {
        let id = c.create("source").await?.volume_id;
        c.use_here(&id).await?;
        write(c, &c.target(), "before")?;
        let snapshot = c.snapshot("taken", &id).await?;
        write(c, &c.target(), "after")?;
        put_away(c, &id).await?;
        let mut request = c.of_snapshot("restored", &snapshot.snapshot_id);
        let size = if c.block || may_grow_ext4() { GROWN } else { SIZE };
        request.capacity_range = Some(CapacityRange { required_bytes: size, limit_bytes: 0 });
        let made = c.create_as(&request).await?;
        must(made.capacity_bytes == size, || format!("{made:?}"))?;
        must(c.create_as(&request).await? == made, || "the second is another".into())?;
        c.use_here(&made.volume_id).await?;
        read(c, &c.target(), "before")?;
        let told = ok(c.here.stats(&made.volume_id, &text(&c.target())).await)?;
        must(told.usage[0].total > size / 10 * 9, || format!("it did not grow to {size}: {told:?}"))?;
        write(c, &c.target(), "other")?;
        put_away(c, &made.volume_id).await?;
        holds(c, &id, "after").await
    });
    case!(c, "a clone of a volume in use, which takes its snapshot along when it goes", {
        let id = c.create("original").await?.volume_id;
        c.use_here(&id).await?;
        write(c, &c.target(), "shared")?;
        let request = c.of_volume("clone", &id);
        let made = c.create_as(&request).await?;
        must(c.create_as(&request).await? == made, || "the second is another".into())?;
        put_away(c, &id).await?;
        holds(c, &made.volume_id, "shared").await?;
        must(c.list_snapshots(Default::default()).await?.is_empty(), || {
            "the clone's snapshot is shown".into()
        })?;
        fails(Code::FailedPrecondition, c.delete(&id).await)?;
        ok(c.delete(&made.volume_id).await)?;
        ok(c.delete(&id).await)
    });
    case!(c, "published twice on one node, once to read", {
        let id = c.create("twice").await?.volume_id;
        c.use_here(&id).await?;
        write(c, &c.target(), "seen")?;
        let second = c.here.publish(&id, "second", &c.writer(), true).await;
        if c.block {
            // The kernel has a device read-only for all or for none.
            fails(Code::FailedPrecondition, second)?;
        } else {
            ok(second)?;
            read(c, &c.here.targets.join("second"), "seen")?;
            must(write(c, &c.here.targets.join("second"), "x").is_err(), || "it can be written".into())?;
            fails(Code::AlreadyExists, c.here.publish(&id, "second", &c.writer(), false).await)?;
        }
        fails(Code::FailedPrecondition, c.here.unstage(&id).await)
    });
    if c.block {
        case!(c, "a device that is published to be read can't be written", {
            let id = c.create("only-read").await?.volume_id;
            written(c, &id, "kept").await?;
            ok(c.here.stage(&id, &c.writer()).await)?;
            for _ in 0..2 {
                ok(c.here.publish(&id, "target", &c.writer(), true).await)?;
            }
            read(c, &c.target(), "kept")?;
            must(write(c, &c.target(), "lost").is_err(), || "it can be written".into())?;
            fails(Code::FailedPrecondition, c.here.publish(&id, "second", &c.writer(), false).await)?;
            ok(c.here.unpublish(&id, "target").await)?;
            ok(c.here.publish(&id, "target", &c.writer(), false).await)?;
            read(c, &c.target(), "kept")?;
            write(c, &c.target(), "more")?;
            put_away(c, &id).await?;
            holds(c, &id, "more").await
        });
        case!(c, "a device node that was published to be read is left as it came", {
            use std::os::unix::fs::MetadataExt as _;
            let id = c.create("left").await?.volume_id;
            ok(c.here.stage(&id, &c.writer()).await)?;
            ok(c.here.publish(&id, "target", &c.writer(), true).await)?;
            let number = std::fs::metadata(c.target()).map_err(|e| e.to_string())?.rdev();
            let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
            let is_read_only = || {
                let path = format!("/sys/dev/block/{major}:{minor}/ro");
                std::fs::read_to_string(path).map_err(|e| e.to_string())
            };
            must(is_read_only()?.trim() == "1", || "it can be written".into())?;
            put_away(c, &id).await?;
            must(is_read_only()?.trim() == "0", || "whatever has the node next can't be written".into())
        });
    }
    case!(c, "a call that comes again with other words changes nothing", {
        let snapshot = c.snapshot_of_new("words", "of-words").await?;
        let mut request = c.of_snapshot("said", &snapshot.snapshot_id);
        request.parameters.insert("flush".into(), "pool".into());
        let made = c.create_as(&request).await?;
        must(c.create_as(&request).await? == made, || "the second is another".into())?;
        let mut other = request.clone();
        other.parameters.insert("flush".into(), "local".into());
        fails(Code::AlreadyExists, c.try_create(&other).await)?;
        let mut other = request.clone();
        other.capacity_range = Some(CapacityRange { required_bytes: GROWN, limit_bytes: 0 });
        fails(Code::AlreadyExists, c.try_create(&other).await)?;
        let mut other = request.clone();
        other.volume_capabilities = vec![c.capability(Mode::MultiNodeReaderOnly)];
        fails(Code::AlreadyExists, c.try_create(&other).await)?;
        must(c.create_as(&request).await? == made, || "it is another now".into())
    });
    if !c.block {
        case!(c, "files that were synced are there for who only reads a filesystem that was in use", {
            for fs_type in ["ext4", "xfs"] {
                let mount = MountVolume { fs_type: fs_type.into(), ..Default::default() };
                let access_type = Some(AccessType::Mount(mount));
                let writer = VolumeCapability { access_type: access_type.clone(), ..c.writer() };
                let reader = VolumeCapability { access_type, ..c.capability(Mode::MultiNodeReaderOnly) };
                let mut request = c.request(&format!("log-{fs_type}"));
                request.volume_capabilities = vec![writer.clone()];
                let id = c.create_as(&request).await?.volume_id;
                ok(c.here.stage(&id, &writer).await)?;
                ok(c.here.publish(&id, "target", &writer, false).await)?;
                write(c, &c.target(), "synced")?;
                let snapshot = c.snapshot(&format!("used-{fs_type}"), &id).await?.snapshot_id;
                let of_volume = c.of_volume(&format!("of-volume-{fs_type}"), &id);
                let of_snapshot = c.of_snapshot(&format!("of-snapshot-{fs_type}"), &snapshot);
                let mut made = Vec::new();
                for mut request in [of_volume, of_snapshot] {
                    request.volume_capabilities = vec![reader.clone()];
                    let volume = c.create_as(&request).await?;
                    must(c.create_as(&request).await? == volume, || "the second is another".into())?;
                    made.push(volume.volume_id);
                }
                put_away(c, &id).await?;
                for readable in made {
                    ok(c.here.stage(&readable, &reader).await)?;
                    ok(c.here.publish(&readable, "target", &reader, true).await)?;
                    read(c, &c.target(), "synced")?;
                    put_away(c, &readable).await?;
                }
                // Nobody has replayed the log of the snapshot itself.
                let refused = c.here.stage(&snapshot, &reader).await;
                must(refused.as_ref().is_err_and(|e| e.message.contains("Make a volume")), || {
                    format!("{refused:?}")
                })?;
                ok(c.here.unstage(&snapshot).await)?;
            }
            Ok(())
        });
    }
}

/// Checks a clone that is made again under its name, in a pool with a trash.
pub async fn anew(c: &mut Context) {
    case!(c, "a clone that is made anew under its name has what its source holds then", {
        let id = c.create("anew-source").await?.volume_id;
        written(c, &id, "one").await?;
        let request = c.of_volume("anew", &id);
        let first = c.create_as(&request).await?.volume_id;
        holds(c, &first, "one").await?;
        ok(c.delete(&first).await)?;
        written(c, &id, "two").await?;
        let second = c.create_as(&request).await?.volume_id;
        holds(c, &second, "two").await
    });
}

pub async fn refusals(c: &mut Context) {
    case!(c, "a volume with snapshots is not deleted, a snapshot with clones neither", {
        let snapshot = c.snapshot_of_new("parent", "child").await?;
        fails(Code::FailedPrecondition, c.delete(&snapshot.source_volume_id).await)?;
        let request = c.of_snapshot("grandchild", &snapshot.snapshot_id);
        let clone = c.create_as(&request).await?;
        fails(Code::FailedPrecondition, c.delete_snapshot(&snapshot.snapshot_id).await)?;
        ok(c.delete(&clone.volume_id).await)?;
        ok(c.delete_snapshot(&snapshot.snapshot_id).await)?;
        ok(c.delete(&snapshot.source_volume_id).await)
    });
    case!(c, "a volume in use is not deleted", {
        let id = c.create("used").await?.volume_id;
        c.use_here(&id).await?;
        fails(Code::FailedPrecondition, c.delete(&id).await)
    });
    case!(c, "a volume of an unknown pool is not taken for deleted", {
        fails(Code::FailedPrecondition, c.delete("no-such-pool/web").await)
    });
    case!(c, "a name that is taken by a volume of another source", {
        let plain = c.create("taken").await?;
        let snapshot = c.snapshot_of_new("another", "of-another").await?;
        let request = c.of_snapshot("taken", &snapshot.snapshot_id);
        fails(Code::AlreadyExists, c.try_create(&request).await)?;
        let request = c.of_volume("taken", &snapshot.source_volume_id);
        fails(Code::AlreadyExists, c.try_create(&request).await)?;
        must(c.create("taken").await? == plain, || "it is another now".into())
    });
    case!(c, "a size below that of the snapshot", {
        let snapshot = c.snapshot_of_new("large", "of-large").await?;
        let mut request = c.of_snapshot("small", &snapshot.snapshot_id);
        request.capacity_range = Some(CapacityRange { required_bytes: 0, limit_bytes: SIZE / 2 });
        fails(Code::OutOfRange, c.try_create(&request).await)
    });
    case!(c, "writers on many nodes, an unknown filesystem, an unknown parameter", {
        for mode in [Mode::MultiNodeMultiWriter, Mode::MultiNodeSingleWriter, Mode::MultiNodeReaderOnly] {
            let mut request = c.request("many");
            request.volume_capabilities = vec![c.capability(mode)];
            fails(Code::InvalidArgument, c.try_create(&request).await)?;
        }
        let mount = MountVolume { fs_type: "btrfs".into(), ..Default::default() };
        let mut request = c.request("odd");
        request.volume_capabilities[0].access_type = Some(AccessType::Mount(mount));
        fails(Code::InvalidArgument, c.try_create(&request).await)?;
        let mut request = c.request("odd");
        request.parameters.insert("replicas".into(), "3".into());
        fails(Code::InvalidArgument, c.try_create(&request).await)
    });
    if !c.block {
        case!(c, "no filesystem is made over data, and none over another one", {
            let id = c.create("data").await?.volume_id;
            c.block = true;
            let done = written(c, &id, "somebody's data").await;
            c.block = false;
            done?;
            fails(Code::FailedPrecondition, c.here.stage(&id, &c.writer()).await)?;
            ok(c.here.unstage(&id).await)?;
            c.block = true;
            let done = holds(c, &id, "somebody's data").await;
            c.block = false;
            done?;
            let id = c.create("ext4").await?.volume_id;
            written(c, &id, "mine").await?;
            let mount = MountVolume { fs_type: "xfs".into(), ..Default::default() };
            let xfs = VolumeCapability { access_type: Some(AccessType::Mount(mount)), ..c.writer() };
            fails(Code::FailedPrecondition, c.here.stage(&id, &xfs).await)?;
            ok(c.here.unstage(&id).await)?;
            holds(c, &id, "mine").await
        });
        case!(c, "xfs, and a clone of it beside it on one node", {
            let mount = MountVolume { fs_type: "xfs".into(), mount_flags: vec!["noatime".into()] };
            let xfs = VolumeCapability { access_type: Some(AccessType::Mount(mount)), ..c.writer() };
            let mut request = c.request("xfs");
            request.volume_capabilities = vec![xfs.clone()];
            let id = c.create_as(&request).await?.volume_id;
            ok(c.here.stage(&id, &xfs).await)?;
            ok(c.here.publish(&id, "target", &xfs, false).await)?;
            write(c, &c.target(), "kept")?;
            let snapshot = c.snapshot("of-xfs", &id).await?;
            let mut request = c.of_snapshot("xfs-clone", &snapshot.snapshot_id);
            request.volume_capabilities = vec![xfs.clone()];
            request.capacity_range = Some(CapacityRange { required_bytes: GROWN, limit_bytes: 0 });
            let clone = c.create_as(&request).await?.volume_id;
            let (staging, second) = (c.here.staging.clone(), c.folder.join("second"));
            std::fs::create_dir_all(&second).map_err(|e| e.to_string())?;
            c.here.staging = second;
            let done = async {
                ok(c.here.stage(&clone, &xfs).await)?;
                ok(c.here.publish(&clone, "clone", &xfs, false).await)?;
                read(c, &c.here.targets.join("clone"), "kept")?;
                let told = ok(c.here.stats(&clone, &text(&c.here.targets.join("clone"))).await)?;
                must(told.usage[0].total > GROWN / 10 * 9, || format!("it did not grow: {told:?}"))
            };
            let done = done.await;
            let away = ok(c.here.unpublish(&clone, "clone").await).and(ok(c.here.unstage(&clone).await));
            c.here.staging = staging;
            done.and(away)
        });
    }
}

pub async fn two_hosts(c: &mut Context) {
    let Some(there) = c.there.clone() else { return };
    case!(c, "a volume goes to another host once the first has let go, and never before", {
        let id = c.create("travels").await?.volume_id;
        c.use_here(&id).await?;
        write(c, &c.target(), "from here")?;
        fails(Code::FailedPrecondition, there.stage(&id, &c.writer()).await)?;
        put_away(c, &id).await?;
        ok(there.stage(&id, &c.writer()).await)?;
        ok(there.publish(&id, "target", &c.writer(), false).await)?;
        read(c, &there.targets.join("target"), "from here")?;
        write(c, &there.targets.join("target"), "from there")?;
        fails(Code::FailedPrecondition, c.here.stage(&id, &c.writer()).await)?;
        fails(Code::FailedPrecondition, c.delete(&id).await)?;
        ok(there.unpublish(&id, "target").await)?;
        ok(there.unstage(&id).await)?;
        holds(c, &id, "from there").await
    });
    case!(c, "a snapshot, a setting and a clone of a volume that another host uses, by that host", {
        let id = c.create("far").await?.volume_id;
        ok(there.stage(&id, &c.writer()).await)?;
        ok(there.publish(&id, "target", &c.writer(), false).await)?;
        write(c, &there.targets.join("target"), "far away")?;
        let snapshot = c.snapshot("far-snap", &id).await?;
        ok(c.modify(&id, "iops", "5000").await)?;
        let request = c.of_volume("far-clone", &id);
        let cloned = c.create_as(&request).await?.volume_id;
        let request = c.of_snapshot("far-restored", &snapshot.snapshot_id);
        let restored = c.create_as(&request).await?.volume_id;
        holds(c, &cloned, "far away").await?;
        holds(c, &restored, "far away").await?;
        ok(c.delete(&cloned).await)?;
        ok(c.delete(&restored).await)?;
        ok(c.delete_snapshot(&snapshot.snapshot_id).await)
    });
    case!(c, "what nobody writes to is read on two hosts at once", {
        let id = c.create("template").await?.volume_id;
        written(c, &id, "for all").await?;
        let snapshot = c.snapshot("golden", &id).await?;
        let reader = c.capability(Mode::MultiNodeReaderOnly);
        let mut request = c.of_snapshot("readers", &snapshot.snapshot_id);
        request.volume_capabilities = vec![reader.clone()];
        let made = c.create_as(&request).await?;
        must(c.create_as(&request).await? == made, || "the second is another".into())?;
        for readable in [made.volume_id, snapshot.snapshot_id] {
            fails(Code::FailedPrecondition, c.here.stage(&readable, &c.writer()).await)?;
            for node in [&c.here, &there] {
                ok(node.stage(&readable, &reader).await)?;
                ok(node.publish(&readable, "target", &reader, true).await)?;
            }
            for node in [&c.here, &there] {
                let at = node.targets.join("target");
                read(c, &at, "for all")?;
                must(write(c, &at, "x").is_err(), || "it can be written".into())?;
                ok(node.unpublish(&readable, "target").await)?;
                ok(node.unstage(&readable).await)?;
            }
        }
        Ok(())
    });
}

pub async fn growth(c: &mut Context) {
    case!(c, "a volume grows while it is used", {
        let id = c.create("grows").await?.volume_id;
        c.use_here(&id).await?;
        write(c, &c.target(), "as before")?;
        let grown = ok(c.controller_expand(&id, GROWN).await)?;
        must(grown.capacity_bytes == GROWN && grown.node_expansion_required, || format!("{grown:?}"))?;
        let grown = ok(c.here.expand(&id, &text(&c.target()), GROWN).await)?;
        must(grown.capacity_bytes == GROWN, || format!("{grown:?}"))?;
        let told = ok(c.here.stats(&id, &text(&c.target())).await)?;
        must(told.usage[0].total > GROWN / 10 * 9, || format!("it did not grow: {told:?}"))?;
        read(c, &c.target(), "as before")?;
        write(c, &c.target(), "larger")?;
        put_away(c, &id).await?;
        holds(c, &id, "larger").await
    });
    case!(c, "a volume in use grows when its node is asked alone", {
        let id = c.create("grows-there").await?.volume_id;
        c.use_here(&id).await?;
        ok(c.here.expand(&id, &text(&c.target()), GROWN).await)?;
        let told = ok(c.here.stats(&id, &text(&c.target())).await)?;
        must(told.usage[0].total > GROWN / 10 * 9, || format!("it did not grow: {told:?}"))
    });
}
