//! Earlier versions of objects.

use std::cmp::Reverse;

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::types::EncodingType;

use super::S3Store;
use super::errors::Trouble;
use super::read::{etag_in, length_in, millis, url_decoded};
use crate::{Version, VersionList, VersionMark, VersionPage};
use windlass_base::{Error, Kind, Result};

impl S3Store {
    pub(super) async fn versioned_now(&self) -> Result<bool> {
        let ask = self.client().get_bucket_versioning().bucket(&self.place.bucket);
        match ask.send().await {
            // Suspended, it keeps what it had. One that never kept any has no status.
            Ok(out) => Ok(out.status().is_some()),
            Err(e) => match Trouble::of(&self.url, "asking whether versions are kept", e) {
                // Who may list versions need not have the right to ask this; and moto says no in words of its own.
                t if t.error.is(Kind::Denied) || t.garbled && t.status == 200 => Ok(true),
                t if t.error.is(Kind::Unsupported) || t.status == 405 => Ok(false),
                t => Err(t.error),
            },
        }
    }

    pub(super) async fn versions_now(&self, list: &VersionList) -> Result<VersionPage> {
        let page = match self.versions_page(list, false).await {
            // Control characters in keys are no XML: ask for them in a form that is.
            Err(t) if t.garbled => self.versions_page(list, true).await,
            other => other,
        };
        let page = page.map_err(|t| t.error)?;
        if page.next.is_some() && page.next == list.after {
            let what =
                format!("{}: listing versions of {:?}: the store does not go on", self.url, list.prefix);
            return Err(Error::new(Kind::Invalid, what));
        }
        Ok(page)
    }

    async fn versions_page(&self, list: &VersionList, encoded: bool) -> Result<VersionPage, Trouble> {
        let after = list.after.as_ref();
        let ask = self
            .client()
            .list_object_versions()
            .bucket(&self.place.bucket)
            .prefix(self.full(&list.prefix))
            .set_delimiter(list.delimited.then(|| "/".to_owned()))
            .set_key_marker(after.map(|mark| mark.key.clone()))
            .set_version_id_marker(after.and_then(|mark| mark.version.clone()))
            .set_encoding_type(encoded.then_some(EncodingType::Url))
            .max_keys(list.max.clamp(1, 1000) as i32);
        let doing = format!("listing versions of {:?}", list.prefix);
        let out = ask.send().await.map_err(|e| Trouble::of(&self.url, &doing, e))?;
        self.echoed(&doing, out.name(), out.prefix(), &self.full(&list.prefix))?;
        let page = self.page_of(&out);
        let page = page.ok_or_else(|| {
            Trouble::foreign(&self.url, &doing, "the store tells no name, size or time of a version")
        })?;
        // Taken for the end, it would hide all the versions that are to come.
        if out.is_truncated() == Some(true) && page.next.is_none() {
            return Err(Trouble::foreign(
                &self.url,
                &doing,
                "the store says that there is more, and not where",
            ));
        }
        self.trust.show();
        Ok(page)
    }

    /// Reads a page of versions. None: the answer lacks a fact by which a version is shown.
    fn page_of(&self, out: &ListObjectVersionsOutput) -> Option<VersionPage> {
        let decodes = out.encoding_type() == Some(&EncodingType::Url);
        let decode = |text: &str| match decodes {
            true => url_decoded(text),
            false => text.to_owned(),
        };
        let key = |text: Option<&str>| Some(decode(text?).strip_prefix(&self.base)?.to_owned());
        let objects = out.versions().iter().map(|v| {
            Some(Version {
                key: key(v.key())?,
                id: v.version_id().unwrap_or("null").to_owned(),
                size: length_in(v.size())?,
                etag: Some(etag_in(v.e_tag())),
                modified_ms: millis(v.last_modified())?,
                latest: v.is_latest() == Some(true),
                deleted: false,
            })
        });
        let marks = out.delete_markers().iter().map(|m| {
            Some(Version {
                key: key(m.key())?,
                id: m.version_id().unwrap_or("null").to_owned(),
                size: 0,
                etag: None,
                modified_ms: millis(m.last_modified())?,
                latest: m.is_latest() == Some(true),
                deleted: true,
            })
        });
        let mut versions: Vec<Version> = objects.chain(marks).collect::<Option<_>>()?;
        // They come in two lists, whose times say how they lay between each other.
        versions.sort_by(|a, b| {
            a.key.cmp(&b.key).then_with(|| {
                (Reverse(a.latest), Reverse(a.modified_ms)).cmp(&(Reverse(b.latest), Reverse(b.modified_ms)))
            })
        });
        let prefixes = out.common_prefixes().iter().map(|p| key(p.prefix())).collect::<Option<_>>()?;
        let last = |v: &Version| VersionMark { key: self.full(&v.key), version: Some(v.id.clone()) };
        let told = out.next_key_marker().map(|key| VersionMark {
            key: decode(key),
            version: out.next_version_id_marker().filter(|id| !id.is_empty()).map(str::to_owned),
        });
        let mark = told.or_else(|| versions.last().map(last));
        // An answer that does not say whether there is more is asked behind its last name.
        let ended = out.is_truncated() == Some(false);
        Some(VersionPage { versions, prefixes, next: mark.filter(|_| !ended) })
    }
}
