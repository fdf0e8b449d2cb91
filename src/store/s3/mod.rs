//! The `s3` store: a bucket, or what lies below a prefix of one, at any S3-compatible endpoint.
//!
//! It owns the translation between our verbs and S3's. Invariants:
//! - one verb is one request (a few where S3 has no single one), sent once: repeating is the retry layer's;
//! - a put's outcome is `Stored` or `Refused` only when the server's answer says so beyond doubt, an `Err` only when
//!   it certainly was not stored, else `Unknown` (`trouble.rs`);
//! - an answer is believed only when it is one of S3's to that request: a listing repeats bucket and prefix, an object
//!   that is said to be missing has S3's code for that, a read and a write have an etag (`trust.rs`);
//! - etags are kept without quotes.
//!
//! It learns from a server's answers how that wants etags and checksums. Whether a server honours conditions at
//! all is not judged here but by `probe`.

mod connect;
mod connector;
mod direct;
mod errors;
mod multipart;
mod past;
mod read;
mod trust;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use bytes::Bytes;
use parking_lot::Mutex;

use self::connect::{Connection, Seal, connect, hides_payload};
use self::direct::SignedRequest;
use self::trust::Trust;
use super::url::{S3Place, StoreUrl};
use super::{
    Attrs, Bucket, BucketRef, ByteRange, Cause, Conditions, Etag, Found, Head, List, Page, Part, Put,
    Restore, Store, VersionList, VersionPage, When,
};
use crate::base::Result;
use crate::base::rt::Rt;

/// Adds what reads of objects sealed with the customer's key need.
macro_rules! read_sealed {
    ($store:expr, $ask:expr) => {
        $ask.set_sse_customer_algorithm($store.seal().algorithm.clone())
            .set_sse_customer_key($store.seal().key.clone())
            .set_sse_customer_key_md5($store.seal().key_md5.clone())
    };
}
use read_sealed;

/// Adds all that a new object is to have.
macro_rules! sealed {
    ($store:expr, $ask:expr) => {
        crate::store::s3::read_sealed!($store, $ask)
            .set_server_side_encryption($store.seal().sse.clone())
            .set_ssekms_key_id($store.seal().kms_key.clone())
            .set_storage_class($store.place.storage_class.as_deref().map(Into::into))
    };
}
use sealed;

/// Sends what a builder of inputs describes: straight, or where that can't be through the SDK.
macro_rules! send {
    ($store:expr, $verb:ident, $input:expr) => {
        match $store.direct() {
            Some(direct) => direct.$verb($input.build()).await,
            None => $input.send_with(&$store.client()).await,
        }
    };
}
use send;

/// Adds the checksum of a body, as the SDK does by default.
macro_rules! summed {
    ($checked:expr, $body:expr, $ask:expr) => {{
        let sum = $checked.then(|| aws_smithy_types::base64::encode(crc32($body).to_be_bytes()));
        $ask.set_checksum_algorithm(sum.is_some().then_some(ChecksumAlgorithm::Crc32)).set_checksum_crc32(sum)
    }};
}
use summed;

/// How etags are sent in conditions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Quoting {
    /// As the standard says.
    Quoted,
    /// As Ceph RGW 16 wants them.
    Bare,
}

impl Quoting {
    fn etag(self, etag: &Etag) -> String {
        match self {
            Quoting::Quoted => format!("\"{}\"", etag.0),
            Quoting::Bare => etag.0.clone(),
        }
    }
}

const QUOTED_OR_OPEN: u8 = 0;
const QUOTED: u8 = 1;
const BARE: u8 = 2;

/// See the module.
#[derive(Debug)]
pub struct S3Store {
    url: String,
    place: S3Place,
    /// What every key begins with in the bucket: empty, or the prefix and a slash.
    base: String,
    connection: Connection,
    /// This server doesn't take checksums, or its user doesn't want them.
    plain: AtomicBool,
    /// This server doesn't take DeleteObjects.
    single_deletes: AtomicBool,
    quoting: AtomicU8,
    /// What a mount was told of this server; where it doesn't heed a condition, it is looked at first.
    conditions: Mutex<Conditions>,
    hides_payload: bool,
    trust: Trust,
}

impl S3Store {
    /// Opens with credentials as the AWS chain finds them. Nothing is sent yet.
    pub async fn open(rt: &Rt, place: &S3Place) -> Result<BucketRef> {
        Ok(S3Store::of(rt, place, connect(rt, place, None).await?))
    }

    /// Opens with these keys instead, for tests.
    pub async fn open_with_keys(rt: &Rt, place: &S3Place, id: &str, secret: &str) -> Result<BucketRef> {
        let keys = Credentials::new(id, secret, None, None, "given");
        Ok(S3Store::of(rt, place, connect(rt, place, Some(keys)).await?))
    }

    fn of(rt: &Rt, place: &S3Place, connection: Connection) -> BucketRef {
        let base = if place.prefix.is_empty() { String::new() } else { format!("{}/", place.prefix) };
        Arc::new(S3Store {
            url: StoreUrl::S3(place.clone()).to_string(),
            plain: AtomicBool::new(connection.plain_writes),
            connection,
            hides_payload: hides_payload(place),
            place: place.clone(),
            base,
            single_deletes: AtomicBool::new(false),
            quoting: AtomicU8::new(QUOTED_OR_OPEN),
            conditions: Mutex::default(),
            trust: Trust::new(rt),
        })
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.base)
    }

    fn direct(&self) -> Option<SignedRequest<'_>> {
        self.connection.direct.as_ref()?.ready()
    }

    fn client(&self) -> Client {
        self.sdk(self.checks())
    }

    fn sdk(&self, checked: bool) -> Client {
        if checked { self.connection.checked.clone() } else { self.connection.plain.clone() }
    }

    /// A checksum goes along with every body.
    fn checks(&self) -> bool {
        !self.plain.load(Ordering::Relaxed)
    }

    fn learn_plain(&self, works: bool) {
        self.plain.fetch_or(works, Ordering::Relaxed);
    }

    fn seal(&self) -> &Seal {
        &self.connection.seal
    }

    fn conditions(&self) -> Conditions {
        *self.conditions.lock()
    }

    fn quoting(&self) -> Quoting {
        if self.quoting.load(Ordering::Relaxed) == BARE { Quoting::Bare } else { Quoting::Quoted }
    }

    fn quoting_is_open(&self) -> bool {
        self.quoting.load(Ordering::Relaxed) == QUOTED_OR_OPEN
    }

    fn learn(&self, quoting: Quoting) {
        self.quoting.store(if quoting == Quoting::Bare { BARE } else { QUOTED }, Ordering::Relaxed);
    }
}

#[async_trait]
impl Store for S3Store {
    fn url(&self) -> &str {
        &self.url
    }
    async fn get(&self, key: &str, range: ByteRange, _: Cause) -> Result<Option<Found>> {
        self.get_now((key, None), range).await
    }
    async fn head(&self, key: &str, _: Cause) -> Result<Option<Head>> {
        self.head_now(key).await.map_err(|t| t.error)
    }
    async fn put(&self, key: &str, body: Bytes, when: When, _: Cause) -> Result<Put> {
        self.put_now(key, body, &Attrs::default(), &when).await
    }
    async fn delete(&self, keys: &[String], _: Cause) -> Result<()> {
        self.delete_now(keys).await
    }
    async fn list(&self, list: &List, _: Cause) -> Result<Page> {
        self.list_now(list).await
    }
}

#[async_trait]
impl Bucket for S3Store {
    async fn put_with(&self, key: &str, body: Bytes, attrs: &Attrs, when: When, _: Cause) -> Result<Put> {
        self.put_now(key, body, attrs, &when).await
    }
    async fn copy(
        &self,
        from: &str,
        to: &str,
        from_match: Option<&Etag>,
        attrs: Option<&Attrs>,
        when: When,
        _: Cause,
    ) -> Result<Put> {
        self.copy_now(from, to, from_match, attrs, &when).await
    }
    fn identity(&self) -> String {
        self.connection.identity.clone()
    }
    fn looks_first(&self, conditions: Conditions) {
        *self.conditions.lock() = conditions;
    }
    async fn multipart_create(&self, key: &str, attrs: &Attrs, _: Cause) -> Result<String> {
        self.create_now(key, attrs).await
    }
    async fn multipart_put(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        body: Bytes,
        _: Cause,
    ) -> Result<Part> {
        self.part_now(key, upload, number, body).await
    }
    async fn multipart_copy(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        from: &str,
        from_match: Option<&Etag>,
        offset: u64,
        len: u64,
        _: Cause,
    ) -> Result<Part> {
        self.part_copy_now(key, upload, number, (from, from_match), (offset, len)).await
    }
    async fn multipart_complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        when: When,
        _: Cause,
    ) -> Result<Put> {
        self.complete_now(key, upload, parts, &when).await
    }
    async fn multipart_abort(&self, key: &str, upload: &str, _: Cause) -> Result<()> {
        self.abort_now(key, upload).await
    }
    async fn presign(&self, key: &str, version: Option<&str>, valid: Duration) -> Result<String> {
        self.presign_now(key, version, valid).await
    }
    async fn versioned(&self, _: Cause) -> Result<bool> {
        self.versioned_now().await
    }
    async fn list_versions(&self, list: &VersionList, _: Cause) -> Result<VersionPage> {
        self.versions_now(list).await
    }
    async fn get_version(
        &self,
        key: &str,
        version: &str,
        range: ByteRange,
        _: Cause,
    ) -> Result<Option<Found>> {
        self.get_now((key, Some(version)), range).await
    }
    async fn head_version(
        &self,
        key: &str,
        version: Option<&str>,
        checksums: bool,
        _: Cause,
    ) -> Result<Option<Head>> {
        self.head_of((key, version), checksums).await.map_err(|t| t.error)
    }
    async fn restore(&self, key: &str, version: Option<&str>, how: Restore, _: Cause) -> Result<bool> {
        self.restore_now(key, version, how).await
    }
    async fn multipart_list(&self, prefix: &str, _: Cause) -> Result<Vec<(String, String)>> {
        self.uploads_now(prefix).await
    }
}
