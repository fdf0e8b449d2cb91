//! The cases of csi-sanity, by the names that they have there.

use std::collections::BTreeSet;

use windlass_csi::csi::*;
use windlass_csi::status::Code;

use crate::case;
use crate::context::{Context, GROWN, SIZE, UNIQUE, fails, map, must, ok, text};

/// Ids of nothing, as csi-sanity makes them.
const NOWHERE: &str = "fake-vol-id-7";
const NONE: &str = "reallyfakevolumeid";

pub async fn identity(c: &mut Context) {
    case!(c, "Identity: GetPluginCapabilities should return appropriate capabilities", {
        let told: GetPluginCapabilitiesResponse = ok(c.here.identity("GetPluginCapabilities").await)?;
        must(told.capabilities.iter().all(|one| one.r#type.is_some()), || "an unknown capability".into())?;
        must(told.capabilities.len() == 2, || format!("{told:?}"))
    });
    case!(c, "Identity: Probe should return appropriate information", {
        let told: ProbeResponse = ok(c.here.identity("Probe").await)?;
        must(told.ready.is_some_and(|ready| ready.value), || "it is not ready".into())
    });
    case!(c, "Identity: GetPluginInfo should return appropriate information", {
        let told: GetPluginInfoResponse = ok(c.here.identity("GetPluginInfo").await)?;
        let letters = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let fits = (1..=63).contains(&told.name.len()) && told.name.chars().all(letters);
        must(fits && !told.vendor_version.is_empty(), || format!("{told:?}"))
    });
}

pub async fn controller(c: &mut Context) {
    case!(c, "ControllerGetCapabilities should return appropriate capabilities", {
        let told: GetCapabilitiesResponse =
            ok(c.here.controller("ControllerGetCapabilities", &Empty {}).await)?;
        must(told.capabilities.len() == 12, || format!("{told:?}"))
    });
    case!(c, "GetCapacity should return capacity (no optional values added)", {
        let told: GetCapacityResponse =
            ok(c.here.controller("GetCapacity", &GetCapacityRequest::default()).await)?;
        must(told.available_capacity > 0, || format!("{told:?}"))
    });
    list_volumes(c).await;
    create_volume(c).await;
    create_of_sources(c).await;
    delete_and_validate(c).await;
}

async fn list_volumes(c: &mut Context) {
    case!(c, "ListVolumes should return appropriate values (no optional values added)", {
        let listed = ok(c.list(0, "").await)?;
        let whole = |entry: &VolumeEntry| entry.volume.as_ref().is_some_and(|v| !v.volume_id.is_empty());
        must(listed.entries.iter().all(whole), || format!("{listed:?}"))
    });
    case!(c, "ListVolumes should fail when an invalid starting_token is passed", {
        fails(Code::Aborted, c.list(0, "invalid-token").await)
    });
    case!(
        c,
        "ListVolumes check the presence of new volumes and absence of deleted ones in the volume list",
        {
            let before = ok(c.list(0, "").await)?.entries.len();
            let volume = c.create("sanity").await?;
            must(ok(c.list(0, "").await)?.entries.len() == before + 1, || {
                "the new one is not listed".into()
            })?;
            ok(c.delete(&volume.volume_id).await)?;
            must(ok(c.list(0, "").await)?.entries.len() == before, || "the deleted one is listed".into())
        }
    );
    let pages = "ListVolumes pagination should detect volumes added between pages and accept tokens when the last volume from a \
                 page is deleted";
    case!(c, pages, {
        for i in 0..3 {
            c.create(&format!("sanity{i}")).await?;
        }
        let first = ok(c.list(2, "").await)?;
        must(first.entries.len() == 2 && !first.next_token.is_empty(), || format!("{first:?}"))?;
        let id = |entry: &VolumeEntry| entry.volume.clone().unwrap_or_default().volume_id;
        let mut seen: BTreeSet<String> = first.entries.iter().map(id).collect();
        for gone in &seen {
            ok(c.delete(gone).await)?;
        }
        c.create("zz-new-addition").await?;
        let rest = ok(c.list(0, &first.next_token).await)?;
        must(rest.next_token.is_empty() && rest.entries.len() == 2, || format!("{rest:?}"))?;
        must(rest.entries.iter().all(|entry| seen.insert(id(entry))), || "one is listed twice".into())
    });
}

async fn create_volume(c: &mut Context) {
    case!(c, "CreateVolume should fail when no name is provided", {
        fails(Code::InvalidArgument, c.try_create(&CreateVolumeRequest::default()).await)
    });
    case!(c, "CreateVolume should fail when no volume capabilities are provided", {
        let mut request = c.request("sanity-controller-create-no-volume-capabilities");
        request.volume_capabilities.clear();
        fails(Code::InvalidArgument, c.try_create(&request).await)
    });
    case!(c, "CreateVolume should return appropriate values SingleNodeWriter NoCapacity", {
        let mut request = c.request("sanity-controller-create-single-no-capacity");
        request.capacity_range = None;
        c.create_as(&request).await.map(drop)
    });
    case!(c, "CreateVolume should return appropriate values SingleNodeWriter WithCapacity 1Gi", {
        let volume = c.create("sanity-controller-create-single-with-capacity").await?;
        must(volume.capacity_bytes >= SIZE, || format!("{volume:?}"))
    });
    let twice = "CreateVolume should not fail when requesting to create a volume with already existing name and same capacity";
    case!(c, twice, {
        let first = c.create("sanity-controller-create-twice").await?;
        let second = c.create("sanity-controller-create-twice").await?;
        must(first == second && second.capacity_bytes >= SIZE, || format!("{first:?} and {second:?}"))
    });
    let different = "CreateVolume should fail when requesting to create a volume with already existing name and different capacity";
    case!(c, different, {
        let mut request = c.request("sanity-controller-create-twice-different");
        request.capacity_range = Some(CapacityRange { required_bytes: SIZE, limit_bytes: SIZE });
        let first = c.create_as(&request).await?;
        must(first.capacity_bytes == SIZE, || format!("{first:?}"))?;
        request.capacity_range = Some(CapacityRange { required_bytes: 2 * SIZE, limit_bytes: 2 * SIZE });
        fails(Code::AlreadyExists, c.try_create(&request).await)
    });
    case!(c, "CreateVolume should not fail when creating volume with maximum-length name", {
        let mut request = c.request("sanity-controller-create-maxlen");
        request.name += &"a".repeat(128 - request.name.len());
        let volume = c.create_as(&request).await?;
        must(volume.capacity_bytes >= SIZE, || format!("{volume:?}"))
    });
    case!(c, "CreateVolume should create volume with a volume attribute class", {
        let mut request = c.request("sanity-controller-vol-with-mutable-parameters");
        request.mutable_parameters = map("iops", "1000");
        c.create_as(&request).await.map(drop)
    });
    case!(c, "CreateVolume should not create volume with an invalid volume attribute class", {
        let mut request = c.request("sanity-controller-vol-with-mutable-parameters");
        request.mutable_parameters = map("XXX_FakeKey", "XXX_FakeValue");
        fails(Code::InvalidArgument, c.try_create(&request).await)
    });
}

async fn create_of_sources(c: &mut Context) {
    case!(c, "CreateVolume should create volume from an existing source snapshot", {
        let snapshot =
            c.snapshot_of_new("sanity-controller-source-vol", "sanity-controller-snap-from-vol").await?;
        let request = c.of_snapshot("sanity-controller-vol-from-snap", &snapshot.snapshot_id);
        let made = c.create_as(&request).await?;
        must(made.content_source == request.volume_content_source, || format!("{made:?}"))
    });
    case!(c, "CreateVolume should fail when the volume source snapshot is not found", {
        let request = c.of_snapshot("sanity-controller-vol-from-snap", "non-existing-snapshot-id");
        fails(Code::NotFound, c.try_create(&request).await)
    });
    case!(c, "CreateVolume should create volume from an existing source volume", {
        let source = c.create("sanity-controller-source-vol").await?;
        let request = c.of_volume("sanity-controller-vol-from-vol", &source.volume_id);
        let made = c.create_as(&request).await?;
        must(made.content_source == request.volume_content_source, || format!("{made:?}"))
    });
    case!(c, "CreateVolume should fail when the volume source volume is not found", {
        let request = c.of_volume("sanity-controller-vol-from-snap", NOWHERE);
        fails(Code::NotFound, c.try_create(&request).await)
    });
}

async fn delete_and_validate(c: &mut Context) {
    case!(c, "DeleteVolume should fail when no volume id is provided", {
        fails(Code::InvalidArgument, c.delete("").await)
    });
    case!(c, "DeleteVolume should succeed when an invalid volume id is used", { ok(c.delete(NONE).await) });
    case!(c, "DeleteVolume should return appropriate values (no optional values added)", {
        let volume = c.create("sanity-controller-create-appropriate").await?;
        ok(c.delete(&volume.volume_id).await)?;
        ok(c.delete(&volume.volume_id).await)
    });
    let ask = |id: &str, capabilities: Vec<VolumeCapability>| ValidateVolumeCapabilitiesRequest {
        volume_id: id.into(),
        volume_capabilities: capabilities,
        ..Default::default()
    };
    let method = "ValidateVolumeCapabilities";
    case!(c, "ValidateVolumeCapabilities should fail when no volume id is provided", {
        let asked =
            c.here.controller::<ValidateVolumeCapabilitiesResponse>(method, &ask("", Vec::new())).await;
        fails(Code::InvalidArgument, asked)
    });
    case!(c, "ValidateVolumeCapabilities should fail when no volume capabilities are provided", {
        let volume = c.create("sanity-controller-validate-nocaps").await?;
        let request = ask(&volume.volume_id, Vec::new());
        let asked = c.here.controller::<ValidateVolumeCapabilitiesResponse>(method, &request).await;
        fails(Code::InvalidArgument, asked)
    });
    case!(c, "ValidateVolumeCapabilities should return appropriate values (no optional values added)", {
        let volume = c.create("sanity-controller-validate").await?;
        let request = ask(&volume.volume_id, vec![c.writer()]);
        let told: ValidateVolumeCapabilitiesResponse = ok(c.here.controller(method, &request).await)?;
        let confirmed = told.confirmed.ok_or(told.message)?;
        must(confirmed.volume_capabilities == request.volume_capabilities, || format!("{confirmed:?}"))?;
        let request = ask(&volume.volume_id, vec![c.capability(Mode::MultiNodeMultiWriter)]);
        let told: ValidateVolumeCapabilitiesResponse = ok(c.here.controller(method, &request).await)?;
        must(told.confirmed.is_none() && !told.message.is_empty(), || "two writers are confirmed".into())
    });
    case!(c, "ValidateVolumeCapabilities should fail when the requested volume does not exist", {
        let request = ask(NOWHERE, vec![c.writer()]);
        fails(Code::NotFound, c.here.controller::<ValidateVolumeCapabilitiesResponse>(method, &request).await)
    });
}

pub async fn snapshots(c: &mut Context) {
    list_snapshots(c).await;
    case!(c, "GetSnapshot should return an error", {
        let asked = c.here.controller::<SnapshotEntry>("GetSnapshot", &SnapshotId::default()).await;
        fails(Code::InvalidArgument, asked)
    });
    case!(c, "GetSnapshot should return snapshot that match the specified snapshot id", {
        c.snapshot_of_new("getSnapshot-volume-unrelated-s-1", "getSnapshot-snapshot-unrelated-s-1").await?;
        let target =
            c.snapshot_of_new("getSnapshot-volume-target-s", "getSnapshot-snapshot-target-s").await?;
        let request = SnapshotId { snapshot_id: target.snapshot_id.clone() };
        let found: SnapshotEntry = ok(c.here.controller("GetSnapshot", &request).await)?;
        must(found.snapshot.as_ref() == Some(&target), || format!("{found:?}"))
    });
    case!(c, "GetSnapshot should return an error when the specified snapshot id does not exist", {
        let request = SnapshotId { snapshot_id: "none-exist-id".into() };
        fails(Code::NotFound, c.here.controller::<SnapshotEntry>("GetSnapshot", &request).await)
    });
    case!(c, "DeleteSnapshot should fail when no snapshot id is provided", {
        fails(Code::InvalidArgument, c.delete_snapshot("").await)
    });
    case!(c, "DeleteSnapshot should succeed when an invalid snapshot id is used", {
        ok(c.delete_snapshot("reallyfakesnapshotid").await)
    });
    case!(c, "DeleteSnapshot should return appropriate values (no optional values added)", {
        let snapshot = c.snapshot_of_new("DeleteSnapshot-volume-1", "DeleteSnapshot-snapshot-1").await?;
        ok(c.delete_snapshot(&snapshot.snapshot_id).await)?;
        ok(c.delete_snapshot(&snapshot.snapshot_id).await)
    });
    create_snapshot(c).await;
}

async fn list_snapshots(c: &mut Context) {
    let all = ListSnapshotsRequest::default;
    case!(c, "ListSnapshots should return appropriate values (no optional values added)", {
        c.list_snapshots(all()).await.map(drop)
    });
    case!(c, "ListSnapshots should return snapshots that match the specified snapshot id", {
        c.snapshot_of_new("listSnapshots-volume-unrelated-s-1", "listSnapshots-snapshot-unrelated-s-1")
            .await?;
        let target =
            c.snapshot_of_new("listSnapshots-volume-target-s", "listSnapshots-snapshot-target-s").await?;
        let request = ListSnapshotsRequest { snapshot_id: target.snapshot_id.clone(), ..all() };
        must(c.list_snapshots(request).await? == [target], || "others are listed".into())
    });
    case!(c, "ListSnapshots should return empty when the specified snapshot id does not exist", {
        let request = ListSnapshotsRequest { snapshot_id: "none-exist-id".into(), ..all() };
        must(c.list_snapshots(request).await?.is_empty(), || "something is listed".into())
    });
    case!(c, "ListSnapshots should return snapshots that match the specified source volume id", {
        c.snapshot_of_new("listSnapshots-volume-unrelated-v-1", "listSnapshots-snapshot-unrelated-v-1")
            .await?;
        let target =
            c.snapshot_of_new("listSnapshots-volume-target-v", "listSnapshots-snapshot-target-v").await?;
        let request = ListSnapshotsRequest { source_volume_id: target.source_volume_id.clone(), ..all() };
        must(c.list_snapshots(request).await? == [target], || "others are listed".into())
    });
    case!(c, "ListSnapshots should return empty when the specified source volume id does not exist", {
        let request = ListSnapshotsRequest { source_volume_id: NOWHERE.into(), ..all() };
        must(c.list_snapshots(request).await?.is_empty(), || "something is listed".into())
    });
    case!(c, "ListSnapshots check the presence of new snapshots in the snapshot list", {
        let before = c.list_snapshots(all()).await?.len();
        let snapshot = c.snapshot_of_new("listSnapshots-volume-3", "listSnapshots-snapshot-3").await?;
        must(c.list_snapshots(all()).await?.len() == before + 1, || "the new one is not listed".into())?;
        ok(c.delete_snapshot(&snapshot.snapshot_id).await)?;
        must(c.list_snapshots(all()).await?.len() == before, || "the deleted one is listed".into())
    });
    case!(c, "ListSnapshots should return next token when a limited number of entries are requested", {
        let before = c.list_snapshots(all()).await?.len();
        for i in 0..5 {
            c.snapshot_of_new(&format!("volume{i}"), &format!("snapshot{i}")).await?;
        }
        let request = ListSnapshotsRequest { max_entries: 2, ..all() };
        let first: ListSnapshotsResponse = ok(c.here.controller("ListSnapshots", &request).await)?;
        must(first.entries.len() == 2, || format!("{first:?}"))?;
        let rest =
            c.list_snapshots(ListSnapshotsRequest { starting_token: first.next_token, ..all() }).await?;
        must(rest.len() == before + 3, || format!("{} are left", rest.len()))
    });
}

async fn create_snapshot(c: &mut Context) {
    case!(c, "CreateSnapshot should fail when no name is provided", {
        let request = CreateSnapshotRequest { source_volume_id: "testId".into(), ..Default::default() };
        fails(Code::InvalidArgument, c.here.controller::<SnapshotEntry>("CreateSnapshot", &request).await)
    });
    case!(c, "CreateSnapshot should fail when no source volume id is provided", {
        fails(Code::InvalidArgument, c.try_snapshot("name", "").await)
    });
    let same = "CreateSnapshot should succeed when requesting to create a snapshot with already existing name and same source \
                volume ID";
    case!(c, same, {
        let first = c.snapshot_of_new("CreateSnapshot-volume-1", "CreateSnapshot-snapshot-1").await?;
        let second = c.snapshot("CreateSnapshot-snapshot-1", &first.source_volume_id).await?;
        must(first == second, || format!("{first:?} and {second:?}"))
    });
    let other = "CreateSnapshot should fail when requesting to create a snapshot with already existing name and different source \
                 volume ID";
    case!(c, other, {
        c.snapshot_of_new("CreateSnapshot-volume-2", "CreateSnapshot-snapshot-2").await?;
        let volume = c.create("CreateSnapshot-volume-3").await?;
        fails(Code::AlreadyExists, c.try_snapshot("CreateSnapshot-snapshot-2", &volume.volume_id).await)
    });
    case!(c, "CreateSnapshot should succeed when creating snapshot with maximum-length name", {
        let volume = c.create("CreateSnapshot-volume-maxlen-name").await?;
        let name = format!("CreateSnapshot-snapshot-maxlen{}", "a".repeat(128 - 30 - UNIQUE.len()));
        let first = c.snapshot(&name, &volume.volume_id).await?;
        must(c.snapshot(&name, &volume.volume_id).await? == first, || "the second is another".into())
    });
}

pub async fn expand_and_modify(c: &mut Context) {
    case!(c, "ExpandVolume should fail if no volume id is given", {
        fails(Code::InvalidArgument, c.controller_expand("", GROWN).await)
    });
    case!(c, "ExpandVolume should fail if no capacity range is given", {
        let request = ControllerExpandVolumeRequest { volume_id: NOWHERE.into(), ..Default::default() };
        let asked =
            c.here.controller::<ControllerExpandVolumeResponse>("ControllerExpandVolume", &request).await;
        fails(Code::InvalidArgument, asked)
    });
    case!(c, "ExpandVolume should work", {
        let volume = c.create("sanity-expand-volume").await?;
        for _ in 0..2 {
            let grown = ok(c.controller_expand(&volume.volume_id, GROWN).await)?;
            must(grown.capacity_bytes == GROWN, || format!("{grown:?}"))?;
        }
        Ok(())
    });
    case!(c, "ModifyVolume should fail if no volume id is given", {
        fails(Code::InvalidArgument, c.modify("", "iops", "1000").await)
    });
    case!(c, "ModifyVolume should fail if volume does not exist", {
        fails(Code::NotFound, c.modify("non-existing-volume-id", "iops", "1000").await)
    });
    case!(c, "ModifyVolume should fail if specified mutable parameters are not supported by the volume", {
        let volume = c.create("sanity-modify-volume-unsupported").await?;
        fails(Code::InvalidArgument, c.modify(&volume.volume_id, "XXX_FakeKey", "XXX_FakeValue").await)?;
        fails(Code::InvalidArgument, c.modify(&volume.volume_id, "iops", "many").await)
    });
    case!(c, "ModifyVolume should modify a volume created without a volume attribute class", {
        let volume = c.create("sanity-modify-volume").await?;
        ok(c.modify(&volume.volume_id, "iops", "1000").await)
    });
    case!(c, "ModifyVolume should modify a volume created with a volume attribute class", {
        let mut request = c.request("sanity-modify-volume-with-vac");
        request.mutable_parameters = map("iops", "1000");
        let volume = c.create_as(&request).await?;
        ok(c.modify(&volume.volume_id, "iops", "2000").await)
    });
}

pub async fn node_arguments(c: &mut Context) {
    case!(c, "NodeGetCapabilities should return appropriate capabilities", {
        let told: GetCapabilitiesResponse = ok(c.here.node("NodeGetCapabilities", &Empty {}).await)?;
        must(told.capabilities.len() == 5, || format!("{told:?}"))
    });
    case!(c, "NodeGetInfo should return appropriate values", {
        let told: NodeGetInfoResponse = ok(c.here.node("NodeGetInfo", &Empty {}).await)?;
        must(!told.node_id.is_empty() && told.max_volumes_per_node >= 0, || format!("{told:?}"))
    });
    let invalid = Code::InvalidArgument;
    case!(c, "NodePublishVolume should fail when no volume id is provided", {
        fails(invalid, c.here.node::<Empty>("NodePublishVolume", &NodePublishVolumeRequest::default()).await)
    });
    case!(c, "NodePublishVolume should fail when no target path is provided", {
        let request = NodePublishVolumeRequest { volume_id: NOWHERE.into(), ..Default::default() };
        fails(invalid, c.here.node::<Empty>("NodePublishVolume", &request).await)
    });
    case!(c, "NodePublishVolume should fail when no volume capability is provided", {
        let target_path = text(&c.target());
        let request =
            NodePublishVolumeRequest { volume_id: NOWHERE.into(), target_path, ..Default::default() };
        fails(invalid, c.here.node::<Empty>("NodePublishVolume", &request).await)
    });
    case!(c, "NodeUnpublishVolume should fail when no volume id is provided", {
        fails(
            invalid,
            c.here.node::<Empty>("NodeUnpublishVolume", &NodeUnpublishVolumeRequest::default()).await,
        )
    });
    case!(c, "NodeUnpublishVolume should fail when no target path is provided", {
        let request = NodeUnpublishVolumeRequest { volume_id: NOWHERE.into(), ..Default::default() };
        fails(invalid, c.here.node::<Empty>("NodeUnpublishVolume", &request).await)
    });
    case!(c, "NodeStageVolume should fail when no volume id is provided", {
        fails(invalid, c.here.stage("", &c.writer()).await)
    });
    case!(c, "NodeStageVolume should fail when no staging target path is provided", {
        let volume_capability = Some(c.writer());
        let request =
            NodeStageVolumeRequest { volume_id: NOWHERE.into(), volume_capability, ..Default::default() };
        fails(invalid, c.here.node::<Empty>("NodeStageVolume", &request).await)
    });
    case!(c, "NodeStageVolume should fail when no volume capability is provided", {
        let volume = c.create("sanity-node-stage-nocaps").await?;
        let request = NodeStageVolumeRequest {
            volume_id: volume.volume_id,
            staging_target_path: text(&c.here.staging),
            ..Default::default()
        };
        fails(invalid, c.here.node::<Empty>("NodeStageVolume", &request).await)
    });
    case!(c, "NodeUnstageVolume should fail when no volume id is provided", {
        fails(invalid, c.here.unstage("").await)
    });
    case!(c, "NodeUnstageVolume should fail when no staging target path is provided", {
        let request = NodeUnstageVolumeRequest { volume_id: NOWHERE.into(), ..Default::default() };
        fails(invalid, c.here.node::<Empty>("NodeUnstageVolume", &request).await)
    });
    case!(c, "NodeGetVolumeStats should fail when no volume id is provided", {
        fails(invalid, c.here.stats("", "some/path").await)
    });
    case!(c, "NodeGetVolumeStats should fail when no volume path is provided", {
        fails(invalid, c.here.stats(NOWHERE, "").await)
    });
    case!(c, "NodeGetVolumeStats should fail when volume is not found", {
        fails(Code::NotFound, c.here.stats(NOWHERE, "some/path").await)
    });
    case!(c, "NodeExpandVolume should fail when no volume id is provided", {
        fails(invalid, c.here.expand("", &text(&c.target()), GROWN).await)
    });
    case!(c, "NodeExpandVolume should fail when no volume path is provided", {
        let volume = c.create("sanity-node-expand-volume-valid-id").await?;
        fails(invalid, c.here.expand(&volume.volume_id, "", GROWN).await)
    });
    case!(c, "NodeExpandVolume should fail when volume is not found", {
        fails(Code::NotFound, c.here.expand(NOWHERE, "some/path", GROWN).await)
    });
}

pub async fn node_use(c: &mut Context) {
    let single = "NodePublishVolume should fail when volume with single node single writer access mode is already mounted at a \
                  different target path";
    case!(c, single, {
        let capability = c.capability(Mode::SingleNodeSingleWriter);
        let mut request = c.request("sanity-node-publish-single-node-single-writer");
        request.volume_capabilities = vec![capability.clone()];
        let id = c.create_as(&request).await?.volume_id;
        ok(c.here.stage(&id, &capability).await)?;
        ok(c.here.publish(&id, "target", &capability, false).await)?;
        fails(Code::FailedPrecondition, c.here.publish(&id, "other_target", &capability, false).await)?;
        ok(c.here.publish(&id, "target", &capability, false).await)
    });
    case!(c, "NodeUnpublishVolume should remove target path", {
        let id = c.create("sanity-node-unpublish-volume").await?.volume_id;
        c.use_here(&id).await?;
        must(c.target().exists(), || "it is not there".into())?;
        ok(c.here.unpublish(&id, "target").await)?;
        must(!c.target().exists(), || "it is still there".into())
    });
    for (count, name) in [(1, "Node Service should work"), (10, "Node Service should be idempotent")] {
        case!(c, name, {
            let id = c.create(&format!("sanity-node-full-{count}")).await?.volume_id;
            for _ in 0..count {
                ok(c.here.stage(&id, &c.writer()).await)?;
            }
            for _ in 0..count {
                ok(c.here.publish(&id, "target", &c.writer(), false).await)?;
            }
            let told = ok(c.here.stats(&id, &text(&c.target())).await)?;
            must(told.usage.iter().any(|one| one.total > SIZE / 2), || format!("{told:?}"))?;
            for _ in 0..count {
                ok(c.here.unpublish(&id, "target").await)?;
            }
            for _ in 0..count {
                ok(c.here.unstage(&id).await)?;
            }
            Ok(())
        });
    }
    case!(c, "NodeGetVolumeStats should fail when volume does not exist on the specified path", {
        let id = c.create("sanity-node-get-volume-stats").await?.volume_id;
        c.use_here(&id).await?;
        fails(Code::NotFound, c.here.stats(&id, "some/path").await)
    });
    case!(c, "NodeExpandVolume should work if node-expand is called after node-publish", {
        let id = c.create("sanity-node-expand-volume").await?.volume_id;
        must(ok(c.controller_expand(&id, GROWN).await)?.capacity_bytes == GROWN, || {
            "it did not grow".into()
        })?;
        c.use_here(&id).await?;
        let grown = ok(c.here.expand(&id, &text(&c.target()), GROWN).await)?;
        must(grown.capacity_bytes == GROWN, || format!("{grown:?}"))
    });
}
