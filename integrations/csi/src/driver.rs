//! The driver: its settings, and all methods that it has.

use std::sync::Arc;

use crate::attach::Attacher;
use crate::csi::{CONTROLLER, IDENTITY, NODE};
use crate::daemon::Daemon;
use crate::grpc::Router;
use crate::host::Busy;

/// State that all services share.
pub struct Driver {
    /// Name of the driver for orchestrators.
    pub name: String,
    /// Name of this host for orchestrators.
    pub node: String,
    pub daemon: Daemon,
    pub attacher: Attacher,
    /// Ids of volumes that a call is changing.
    pub busy: Busy,
}

/// Makes a router with all methods of a driver.
pub fn router(driver: Driver) -> Router {
    let driver = Arc::new(driver);
    let mut router = Router::default();
    macro_rules! methods {
        ($service:expr, $($name:literal => $method:ident),+ $(,)?) => {$(
            let shared = driver.clone();
            router.add($service, $name, move |request| {
                let driver = shared.clone();
                async move { driver.$method(request).await }
            });
        )+};
    }
    methods!(IDENTITY,
        "GetPluginInfo" => plugin_info,
        "GetPluginCapabilities" => plugin_capabilities,
        "Probe" => probe,
    );
    methods!(CONTROLLER,
        "ControllerGetCapabilities" => controller_capabilities,
        "CreateVolume" => create_volume,
        "DeleteVolume" => delete_volume,
        "ValidateVolumeCapabilities" => validate_capabilities,
        "ListVolumes" => list_volumes,
        "ControllerGetVolume" => controller_get_volume,
        "GetCapacity" => capacity,
        "ControllerExpandVolume" => controller_expand,
        "ControllerModifyVolume" => modify_volume,
        "CreateSnapshot" => create_snapshot,
        "DeleteSnapshot" => delete_snapshot,
        "ListSnapshots" => list_snapshots,
        "GetSnapshot" => get_snapshot,
    );
    methods!(NODE,
        "NodeGetCapabilities" => node_capabilities,
        "NodeGetInfo" => node_info,
        "NodeStageVolume" => stage,
        "NodeUnstageVolume" => unstage,
        "NodePublishVolume" => publish,
        "NodeUnpublishVolume" => unpublish,
        "NodeGetVolumeStats" => volume_stats,
        "NodeExpandVolume" => node_expand,
    );
    router
}
