//! The service Identity.

use crate::csi::{
    BoolValue, Empty, GetPluginCapabilitiesResponse, GetPluginInfoResponse, PluginCapability,
    PluginCapabilityType, PluginService, PluginServiceType, ProbeResponse, VolumeExpansion,
    VolumeExpansionType,
};
use crate::driver::Driver;
use crate::status::Result;

impl Driver {
    pub async fn plugin_info(&self, _: Empty) -> Result<GetPluginInfoResponse> {
        Ok(GetPluginInfoResponse {
            name: self.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    pub async fn plugin_capabilities(&self, _: Empty) -> Result<GetPluginCapabilitiesResponse> {
        let service = PluginService { r#type: PluginServiceType::ControllerService.into() };
        let expansion = VolumeExpansion { r#type: VolumeExpansionType::Online.into() };
        let all = [PluginCapabilityType::Service(service), PluginCapabilityType::VolumeExpansion(expansion)];
        let one = |one| PluginCapability { r#type: Some(one) };
        Ok(GetPluginCapabilitiesResponse { capabilities: all.into_iter().map(one).collect() })
    }

    /// Tells the orchestrator whether a daemon answers. While none does, the driver is not ready, but has not
    /// failed: a failed driver would be started again.
    pub async fn probe(&self, _: Empty) -> Result<ProbeResponse> {
        let answers = self.daemon.ping().await;
        if let Err(refused) = &answers {
            tracing::warn!("{}", refused.message);
        }
        Ok(ProbeResponse { ready: Some(BoolValue { value: answers.is_ok() }) })
    }
}
