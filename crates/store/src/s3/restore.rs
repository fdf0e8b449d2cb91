//! Archived objects.

use aws_sdk_s3::types::{GlacierJobParameters, RestoreRequest};

use super::S3Store;
use super::errors::Trouble;
use super::read::doing;
use crate::Restore;
use windlass_base::{Error, Kind, Result};

impl S3Store {
    pub(super) async fn restore_now(&self, key: &str, version: Option<&str>, how: Restore) -> Result<bool> {
        let tier = how.tier.map(|tier| tier.to_string().as_str().into());
        let job = tier.map(|tier| GlacierJobParameters::builder().tier(tier).build().expect("it has a tier"));
        let request =
            RestoreRequest::builder().days(i32::from(how.days)).set_glacier_job_parameters(job).build();
        let ask = self
            .client()
            .restore_object()
            .bucket(&self.place.bucket)
            .key(self.full(key))
            .set_version_id(version.map(str::to_owned))
            .restore_request(request);
        let Err(e) = ask.send().await else { return Ok(true) };
        let t = Trouble::of(&self.url, &doing("restoring", (key, version)), e);
        let said =
            |kind, what: &str| Err(Error::new(kind, format!("{}: restoring {key:?}: {what}", self.url)));
        match t.code.as_str() {
            "RestoreAlreadyInProgress" => Ok(false),
            "InvalidObjectState" | "ObjectAlreadyInActiveTierError" => {
                said(Kind::Invalid, "it isn't archived: there is nothing to restore")
            }
            "GlacierExpeditedRetrievalNotAvailable" => {
                said(Kind::Owned, "the store is too busy to do it at once: name another tier, or try later")
            }
            _ => Err(t.error),
        }
    }
}
