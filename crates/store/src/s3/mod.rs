//! The `s3` store: a bucket, or what lies below a prefix of one, at any S3-compatible endpoint.
//!
//! It owns the translation between our verbs and S3's. Invariants:
//! - one verb is one request (a few where S3 has no single one), sent once: repeating is the retry layer's;
//! - a put's outcome is `Stored` or `Refused` only when the server's answer says so beyond doubt, an `Err` only when
//!   it certainly was not stored, else `Unknown` (`errors.rs`);
//! - an answer is believed only when it is one of S3's to that request: a listing repeats bucket and prefix, an object
//!   that is said to be missing has S3's code for that, a read and a write have an etag (`answer_trust.rs`);
//! - etags are kept without quotes.
//!
//! It learns from a server's answers how that wants etags and checksums. Whether a server honours conditions at
//! all is not judged here but by `probe`.

mod answer_trust;
mod bucket_settings;
mod carried;
mod connect;
mod connector;
mod copy_by_hand;
mod credentials;
mod errors;
mod fast_path;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod header_text;
mod list_versions;
mod multipart;
mod passwd_file;
mod quoting;
mod raw_signature;
mod read;
mod restore;
mod write;

pub use self::connect::web_client;
pub use self::passwd_file::keys as passwd_keys;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryFutureExt as _};
use parking_lot::Mutex;

use self::answer_trust::Trust;
use self::connect::{Connection, Seal, connect, hides_payload};
use self::credentials::{Keys, as_credentials};
use self::errors::{Trouble, is_of_old_keys};
use self::fast_path::SignedRequest;
use self::quoting::Quotings;
use super::keyring::AccessKeys;
use super::url::{S3Place, StoreUrl};
use super::{
    Asked, Bucket, BucketAnswer, BucketRef, BucketRequest, BucketRules, Cause, Conditions, NO_ATTRS, Store,
};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

/// Adds what reads of objects sealed with the customer's key need.
macro_rules! read_sealed {
    ($store:expr, $ask:expr) => {
        $ask.set_sse_customer_algorithm($store.seal().algorithm.clone())
            .set_sse_customer_key($store.seal().key.clone())
            .set_sse_customer_key_md5($store.seal().key_md5.clone())
    };
}
use read_sealed;

/// Adds all that a new object is to have. `class`: of what it replaces.
macro_rules! sealed {
    ($store:expr, $ask:expr, $class:expr) => {
        crate::s3::read_sealed!($store, $ask)
            .set_server_side_encryption($store.seal().sse.clone())
            .set_ssekms_key_id($store.seal().kms_key.clone())
            .set_storage_class($store.place.storage_class.as_deref().map(Into::into).or($class))
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

/// Adds headers to what the SDK is about to send.
macro_rules! with_extra {
    ($ask:expr, $extra:expr) => {{
        let extra = $extra.clone();
        $ask.customize().mutate_request(move |request| {
            for (name, value) in &extra {
                // What came in a header goes out in one.
                let _ = request.headers_mut().try_insert(name.clone(), value.clone());
            }
        })
    }};
}
use with_extra;

/// Adds the checksum of a body, as the SDK does by default.
macro_rules! summed {
    ($checked:expr, $body:expr, $ask:expr) => {{
        let sum = $checked.then(|| aws_smithy_types::base64::encode(crc32($body).to_be_bytes()));
        $ask.set_checksum_algorithm(sum.is_some().then_some(ChecksumAlgorithm::Crc32)).set_checksum_crc32(sum)
    }};
}
use summed;

/// Codes by which servers say that they do not know or do not take a key.
const KEY_TROUBLES: &[&str] = &[
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "NotSignedUp",
];

const COPIES_UNKNOWN: u8 = 0;
const COPIES: u8 = 1;
const COPIES_NOT: u8 = 2;

/// A bucket, or what lies below a prefix of one, at any S3-compatible endpoint.
#[derive(Debug)]
pub struct S3Store {
    url: String,
    place: S3Place,
    /// The beginning of every key in the bucket: empty, or the prefix and a slash.
    base: String,
    connection: Connection,
    /// True if this server doesn't take checksums, or its user doesn't want them.
    plain: AtomicBool,
    /// True if this server doesn't take DeleteObjects.
    single_deletes: AtomicBool,
    /// One of `COPIES…`: whether this server copies objects. Where it doesn't, they are read and put.
    copies: AtomicU8,
    quotings: Quotings,
    /// The way in which this server heeds conditions, as a mount was told; where it doesn't, the object is looked at first.
    conditions: Mutex<Conditions>,
    hides_payload: bool,
    trust: Trust,
    tags: Tags,
    /// An object here has another storage class than the standard one.
    classes: AtomicBool,
}

/// Knowledge of a server's tags.
#[derive(Debug, Default)]
struct Tags {
    /// An answer has told how many an object has: one that does not tell has none.
    told: AtomicBool,
    /// The server has none, or its user may not read them.
    none_here: AtomicBool,
}

impl S3Store {
    /// Opens with credentials as the AWS chain finds them. Nothing is sent yet.
    pub fn open<'f>(rt: &'f Rt, place: &'f S3Place) -> BoxFuture<'f, Result<BucketRef>> {
        Box::pin(async move { Ok(S3Store::of(rt, place, connect(rt, place, None).await?)) })
    }

    /// Opens with these keys instead, for tests.
    pub fn open_with_keys<'f>(
        rt: &'f Rt,
        place: &'f S3Place,
        id: &'f str,
        secret: &'f str,
    ) -> BoxFuture<'f, Result<BucketRef>> {
        Box::pin(async move {
            let keys = Credentials::new(id, secret, None, None, "given");
            Ok(S3Store::of(rt, place, connect(rt, place, Some(keys)).await?))
        })
    }

    /// Asks the place with these keys for next to nothing.
    ///
    /// # Errors
    /// `Refused`: the server does not take the keys. `Denied`: it takes them, but not for a listing. Others: nobody can tell.
    pub fn try_keys<'f>(rt: &'f Rt, place: &'f S3Place, keys: &'f AccessKeys) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let given = as_credentials(keys.clone(), "given");
            let connection = connect(rt, place, Some(given)).await?;
            let ask =
                connection.plain.list_objects_v2().bucket(&place.bucket).prefix(&place.prefix).max_keys(1);
            let url = StoreUrl::S3(place.clone()).to_string();
            let Err(trouble) = ask.send().await.map_err(|e| Trouble::of(&url, "trying the keys", e)) else {
                return Ok(());
            };
            let why = trouble.error.to_string();
            match KEY_TROUBLES.contains(&trouble.code.as_str()) {
                true => Err(Error::new(Kind::Refused, why)),
                false => Err(trouble.error),
            }
        })
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
            copies: AtomicU8::new(COPIES_UNKNOWN),
            quotings: Quotings::default(),
            conditions: Mutex::default(),
            trust: Trust::new(rt),
            tags: Tags::default(),
            classes: AtomicBool::new(false),
        })
    }

    /// Opens the same bucket by one address of its server's name, with what was learned of the server so far.
    fn by(&self, address: IpAddr) -> Result<BucketRef> {
        Ok(Arc::new(S3Store {
            url: self.url.clone(),
            place: self.place.clone(),
            base: self.base.clone(),
            connection: self.connection.by(address)?,
            plain: AtomicBool::new(self.plain.load(Ordering::Relaxed)),
            single_deletes: AtomicBool::new(self.single_deletes.load(Ordering::Relaxed)),
            copies: AtomicU8::new(self.copies.load(Ordering::Relaxed)),
            quotings: self.quotings.again(),
            conditions: Mutex::new(self.conditions()),
            hides_payload: self.hides_payload,
            trust: Trust::new(self.trust.rt()),
            tags: Tags::default(),
            classes: AtomicBool::new(self.classes.load(Ordering::Relaxed)),
        }))
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

    /// Tells whether a checksum goes along with every body.
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
}

/// Boxes a verb's future by itself: each is as large as its own verb needs.
fn answer<'a, T: Into<BucketAnswer> + 'a>(
    verb: impl Future<Output = Result<T>> + Send + 'a,
) -> BoxFuture<'a, Result<BucketAnswer>> {
    verb.map_ok(Into::into).boxed()
}

impl Store for S3Store {
    fn url(&self) -> &str {
        &self.url
    }
    fn clock_ahead_ms(&self) -> i64 {
        self.connection.direct.as_ref().map_or(0, |direct| direct.ahead_ms())
    }
    fn call<'a>(&'a self, request: &'a Arc<BucketRequest>, _: Cause) -> BoxFuture<'a, Result<BucketAnswer>> {
        async move {
            let seen = self.connection.keys.as_ref().map(Keys::version);
            match self.ask(request).await {
                Err(e) if is_of_old_keys(&e) => {
                    let renewed =
                        self.connection.keys.as_ref().zip(seen).is_some_and(|(keys, v)| keys.renew(v));
                    if renewed { self.ask(request).await } else { Err(e) }
                }
                answer => answer,
            }
        }
        .boxed()
    }
}

impl S3Store {
    /// Sends one request, by the keys that are known.
    fn ask<'a>(&'a self, request: &'a BucketRequest) -> BoxFuture<'a, Result<BucketAnswer>> {
        match request {
            BucketRequest::Get { key, version, range } => {
                answer(self.get_now((key, version.as_deref()), *range))
            }
            BucketRequest::Head { key, version, checksums } => {
                let looked = self.head_of((key, version.as_deref()), *checksums);
                answer(looked.map_err(|trouble| trouble.error))
            }
            BucketRequest::Put { key, body, attrs, when } => {
                answer(self.put_now(key, body.clone(), attrs.as_ref().unwrap_or(NO_ATTRS), when))
            }
            BucketRequest::Delete { keys } => answer(self.delete_now(keys)),
            // Servers differ in whether they delete on a condition: whatever is there goes.
            BucketRequest::DeleteSame { objects } => answer(async move {
                let keys: Vec<String> = objects.iter().map(|(key, _)| key.clone()).collect();
                self.delete_now(&keys).await.map(|()| true)
            }),
            BucketRequest::List(list) => answer(self.list_now(list)),
            BucketRequest::Copy { from, to, from_match, attrs, when } => {
                answer(self.copy_now(from, to, from_match.as_ref(), attrs.as_ref(), when))
            }
            BucketRequest::MultipartCreate { key, attrs } => answer(self.create_now(key, attrs)),
            BucketRequest::MultipartPut { key, upload, number, body } => {
                answer(self.part_now(key, upload, *number, body.clone()))
            }
            BucketRequest::MultipartCopy { key, upload, number, from, from_match, offset, len } => {
                let source = (&**from, from_match.as_ref());
                answer(self.part_copy_now(key, upload, *number, source, (*offset, *len)))
            }
            BucketRequest::MultipartComplete { key, upload, parts, when } => {
                answer(self.complete_now(key, upload, parts, when))
            }
            BucketRequest::MultipartAbort { key, upload } => answer(self.abort_now(key, upload)),
            BucketRequest::MultipartList { prefix } => answer(self.uploads_now(prefix)),
            BucketRequest::Versioned => answer(self.versioned_now()),
            BucketRequest::ListVersions(list) => answer(self.versions_now(list)),
            BucketRequest::Restore { key, version, how } => {
                answer(self.restore_now(key, version.as_deref(), *how))
            }
        }
    }
}

#[async_trait]
impl Bucket for S3Store {
    fn identity(&self) -> String {
        self.connection.identity.clone()
    }
    async fn rules(&self) -> Option<BucketRules> {
        Some(self.rules_now().await)
    }
    async fn ahead_ms(&self) -> Option<Asked<i64>> {
        Some(self.ahead_now().await)
    }
    async fn each_address(&self) -> Result<Vec<(IpAddr, BucketRef)>> {
        let all = self.connection.addresses().await?;
        all.into_iter().map(|address| Ok((address, self.by(address)?))).collect()
    }
    fn server(&self) -> Option<Arc<str>> {
        self.connection.direct.as_ref()?.server()
    }
    fn looks_first(&self, conditions: Conditions) {
        *self.conditions.lock() = conditions;
    }
    async fn presign(&self, key: &str, version: Option<&str>, valid: Duration) -> Result<String> {
        self.presign_now(key, version, valid).await
    }
}
