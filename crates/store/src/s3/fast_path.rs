//! Requests of the hot path, sent without the SDK's orchestrator.
//!
//! What a request looks like and what its answer means is the SDK's word here too: its serializers, its deserializers
//! and errors, its signer, its connections. What it does in between, for each request anew (plugins and interceptors,
//! resolving endpoint, scheme and identity), costs a multiple of all of these (docs/decisions.md); here it is done
//! once, when the store is opened.
//!
//! A request goes straight only where that says the same as the SDK would: to an endpoint that takes plain SigV4 (no
//! directory bucket, no ARN), with keys that the SDK's own chain has handed out and that are still good. Any other is
//! sent through the SDK, which is also what fetches new keys.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_s3::config::endpoint::{DefaultResolver, Params, ResolveEndpoint as _};
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::{ConfigBag, Credentials, FrozenLayer, RuntimePlugin};
use aws_sdk_s3::error::{BoxError, SdkError};
use aws_sdk_s3::operation::copy_object::{CopyObject, CopyObjectError, CopyObjectInput, CopyObjectOutput};
use aws_sdk_s3::operation::create_multipart_upload::{
    CreateMultipartUpload, CreateMultipartUploadError, CreateMultipartUploadInput,
    CreateMultipartUploadOutput,
};
use aws_sdk_s3::operation::delete_object::{
    DeleteObject, DeleteObjectError, DeleteObjectInput, DeleteObjectOutput,
};
use aws_sdk_s3::operation::get_object::{GetObject, GetObjectError, GetObjectInput, GetObjectOutput};
use aws_sdk_s3::operation::head_object::{HeadObject, HeadObjectError, HeadObjectInput, HeadObjectOutput};
use aws_sdk_s3::operation::list_objects_v2::{
    ListObjectsV2, ListObjectsV2Error, ListObjectsV2Input, ListObjectsV2Output,
};
use aws_sdk_s3::operation::put_object::{PutObject, PutObjectError, PutObjectInput, PutObjectOutput};
use aws_sdk_s3::operation::upload_part::{UploadPart, UploadPartError, UploadPartInput, UploadPartOutput};
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat, SdkBody};
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::http::{HttpConnector as _, SharedHttpConnector};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::interceptors::context::{Error as OperationError, Input, Output};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::ser_de::{
    DeserializeResponse as _, SerializeRequest as _, SharedRequestSerializer, SharedResponseDeserializer,
};
use aws_smithy_types::error::operation::BuildError;
use bytes::{Bytes, BytesMut};

use super::connector::TEXT_MAX;
use parking_lot::Mutex;

use super::credentials::Keys;
use super::header_text;
use super::raw_signature::{Signable, signature};
use windlass_base::rt::Rt;

/// Error of a clock, in milliseconds, up to which it does not matter. The SDK draws the line here too.
const SKEW_MS: u64 = 4 * 60 * 1000;
const AGENT: &str = concat!("windlass/", env!("CARGO_PKG_VERSION"));

/// The SDK's serializer and deserializer of one operation.
#[derive(Debug)]
struct Verb(FrozenLayer);

impl Verb {
    fn of(operation: &dyn RuntimePlugin) -> Option<Verb> {
        let verb = Verb(operation.config()?);
        (verb.request().is_some() && verb.answer().is_some()).then_some(verb)
    }

    fn request(&self) -> Option<&SharedRequestSerializer> {
        self.0.load::<SharedRequestSerializer>()
    }

    fn answer(&self) -> Option<&SharedResponseDeserializer> {
        self.0.load::<SharedResponseDeserializer>()
    }
}

/// The facts that all requests to one bucket have in common.
#[derive(Debug)]
pub(super) struct DirectClient {
    rt: Rt,
    http: SharedHttpConnector,
    /// Scheme, authority and the path before any key.
    endpoint: String,
    region: String,
    /// The store's keys. None: requests are not signed.
    keys: Option<Arc<Keys>>,
    payer: bool,
    /// The body is not part of the signature.
    hides_payload: bool,
    mends_clocks: bool,
    /// Milliseconds by which the server's clock is ahead of ours, if by so much that it would refuse our signatures; else 0.
    ahead: AtomicI64,
    /// The name by which the server called itself last.
    server: Mutex<Option<Arc<str>>>,
    verbs: Verbs,
}

/// The facts by which the SDK finds where requests go.
#[derive(Debug)]
pub(super) struct Endpoint<'a> {
    pub bucket: &'a str,
    pub region: &'a str,
    pub endpoint: Option<&'a str>,
    pub path_style: bool,
    pub fips: bool,
    pub dual_stack: bool,
    pub payer: bool,
    pub hides_payload: bool,
    pub mends_clocks: bool,
}

impl DirectClient {
    /// Makes a client for an endpoint. None where only the SDK knows the way.
    pub async fn to(
        rt: &Rt,
        way: Endpoint<'_>,
        keys: Option<Arc<Keys>>,
        http: SharedHttpConnector,
    ) -> Option<DirectClient> {
        if way.bucket.contains(':') {
            return None;
        }
        let params = Params::builder()
            .bucket(way.bucket)
            .region(way.region)
            .use_fips(way.fips)
            .use_dual_stack(way.dual_stack)
            .set_endpoint(way.endpoint.map(str::to_owned))
            .force_path_style(way.path_style)
            .build()
            .ok()?;
        let found = DefaultResolver::new().resolve_endpoint(&params).await.ok()?;
        let scheme = found.auth_schemes().first()?;
        let text = |name: &str| scheme.get(name).and_then(|value| value.as_string());
        if scheme.name() != "sigv4" || text("signingName") != Some("s3") || found.headers().next().is_some() {
            return None;
        }
        Some(DirectClient {
            rt: rt.clone(),
            http,
            endpoint: found.url().to_owned(),
            region: text("signingRegion").unwrap_or(way.region).to_owned(),
            keys,
            payer: way.payer,
            hides_payload: way.hides_payload,
            mends_clocks: way.mends_clocks,
            ahead: AtomicI64::new(0),
            server: Mutex::default(),
            verbs: Verbs::all()?,
        })
    }

    /// Returns scheme, authority and the path before any key.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the same client over other connections. None: the SDK has changed, and only it knows the way.
    pub fn by(&self, http: SharedHttpConnector) -> Option<DirectClient> {
        Some(DirectClient {
            rt: self.rt.clone(),
            http,
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            keys: self.keys.clone(),
            payer: self.payer,
            hides_payload: self.hides_payload,
            mends_clocks: self.mends_clocks,
            ahead: AtomicI64::new(self.ahead_ms()),
            server: Mutex::default(),
            verbs: Verbs::all()?,
        })
    }

    /// See `Bucket::server`.
    pub fn server(&self) -> Option<Arc<str>> {
        self.server.lock().clone()
    }

    fn learn_server(&self, answer: &HttpResponse) {
        let Some(name) = answer.headers().get("server") else { return };
        let mut known = self.server.lock();
        if known.as_deref() != Some(name) {
            *known = Some(name.into());
        }
    }

    /// Learns by how much this host's clock is wrong. If it is by more than the quarter of an hour that S3 allows, requests
    /// are signed by the server's clock. Only a refusal is believed: a proxy's or a cache's clock is nobody's business.
    fn learn_time(&self, answer: &HttpResponse) {
        let text = answer.headers().get("date").filter(|_| self.mends_clocks);
        // An answer with an age comes from a cache.
        let Some(text) = text.filter(|_| answer.headers().get("age").is_none()) else { return };
        let Some(theirs) =
            DateTime::from_str(text, DateTimeFormat::HttpDate).ok().and_then(|t| t.to_millis().ok())
        else {
            return;
        };
        let ahead = theirs.saturating_sub(i64::try_from(self.rt.wall_ms()).unwrap_or(theirs));
        let ahead = match ahead.unsigned_abs() > SKEW_MS {
            true if answer.status().as_u16() != 403 => return,
            true => ahead,
            false => 0,
        };
        if self.ahead.swap(ahead, Ordering::Relaxed) == 0 && ahead != 0 {
            tracing::warn!(
                ahead_s = ahead / 1000,
                "this host's clock differs from {}'s: set it",
                self.endpoint
            );
        }
    }

    pub fn ahead_ms(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed)
    }

    fn time(&self) -> SystemTime {
        let ms = self.rt.wall_ms().saturating_add_signed(self.ahead.load(Ordering::Relaxed));
        UNIX_EPOCH + Duration::from_millis(ms)
    }

    /// Returns the way for one request, with keys that are good now. None: the next request is the SDK's.
    pub fn ready(&self) -> Option<SignedRequest<'_>> {
        let identity = match &self.keys {
            Some(keys) => Some(keys.good()?),
            None => None,
        };
        Some(SignedRequest { direct: self, identity, extra: &[] })
    }
}

/// One request's way, with the keys that sign it.
pub(super) struct SignedRequest<'a> {
    direct: &'a DirectClient,
    identity: Option<Identity>,
    /// Headers beside those of the operation.
    extra: &'a [(String, String)],
}

const IS_PAGE: &str = "the answer has a body where S3's has none, as a page of another server's";

/// Tells whether an answer has a body though S3's answers to this verb have none: then it is a page of another server's.
fn is_page(verb: &str, answer: &HttpResponse) -> bool {
    let body = answer.body().bytes().unwrap_or_default();
    matches!(verb, "put" | "part" | "delete") && !body.trim_ascii().is_empty()
}

const OTHER_TYPE: &str = "the SDK's deserializer is of another operation";

/// The operations: for each its name here, the SDK's, and the types of what goes in and comes out.
macro_rules! verbs {
    ($($verb:ident: $operation:ident, $input:ty, $output:ty, $error:ty;)*) => {
        #[derive(Debug)]
        struct Verbs {
            $($verb: Verb,)*
        }

        impl Verbs {
            fn all() -> Option<Verbs> {
                Some(Verbs { $($verb: Verb::of(&$operation::new())?,)* })
            }
        }

        impl SignedRequest<'_> {
            $(pub async fn $verb(
                self,
                input: Result<$input, BuildError>,
            ) -> Result<$output, SdkError<$error, HttpResponse>> {
                let input = Input::erase(input.map_err(SdkError::construction_failure)?);
                let verb = &self.direct.verbs.$verb;
                let mut request = self.request(verb, input).map_err(SdkError::construction_failure)?;
                let connection = CaptureSmithyConnection::new();
                request.add_extension(connection.clone());
                let sent = self.direct.http.call(request).await;
                let mut answer = sent.map_err(SdkError::dispatch_failure)?;
                self.direct.learn_time(&answer);
                self.direct.learn_server(&answer);
                // Another connection may lead to a server that is well.
                if matches!(answer.status().as_u16(), 500 | 502 | 504) && let Some(its) = connection.get() {
                    its.poison();
                }
                match read(verb, &mut answer).await {
                    Ok(Ok(_)) if is_page(stringify!($verb), &answer) => {
                        Err(SdkError::response_error(IS_PAGE, answer))
                    }
                    Ok(Ok(out)) => match out.downcast::<$output>() {
                        Ok(out) => Ok(out),
                        Err(_) => Err(SdkError::response_error(OTHER_TYPE, answer)),
                    },
                    Ok(Err(e)) => match e.downcast::<$error>() {
                        Ok(e) => Err(SdkError::service_error(e, answer)),
                        Err(_) => Err(SdkError::response_error(OTHER_TYPE, answer)),
                    },
                    Err(e) => Err(SdkError::response_error(e, answer)),
                }
            })*
        }
    };
}

verbs! {
    get: GetObject, GetObjectInput, GetObjectOutput, GetObjectError;
    head: HeadObject, HeadObjectInput, HeadObjectOutput, HeadObjectError;
    put: PutObject, PutObjectInput, PutObjectOutput, PutObjectError;
    part: UploadPart, UploadPartInput, UploadPartOutput, UploadPartError;
    create: CreateMultipartUpload, CreateMultipartUploadInput, CreateMultipartUploadOutput, CreateMultipartUploadError;
    copy: CopyObject, CopyObjectInput, CopyObjectOutput, CopyObjectError;
    delete: DeleteObject, DeleteObjectInput, DeleteObjectOutput, DeleteObjectError;
    list: ListObjectsV2, ListObjectsV2Input, ListObjectsV2Output, ListObjectsV2Error;
}

impl<'a> SignedRequest<'a> {
    /// Lets these headers go along.
    pub fn with(self, extra: &'a [(String, String)]) -> SignedRequest<'a> {
        SignedRequest { extra, ..self }
    }
}

impl SignedRequest<'_> {
    fn request(&self, verb: &Verb, input: Input) -> Result<HttpRequest, BoxError> {
        let writes = verb.request().ok_or(OTHER_TYPE)?;
        let mut request = writes.serialize_input(input, &mut ConfigBag::base())?;
        request.uri_mut().set_endpoint(&self.direct.endpoint)?;
        request.headers_mut().insert("user-agent", AGENT);
        for (name, value) in self.extra {
            request.headers_mut().try_insert(name.clone(), value.clone())?;
        }
        if self.direct.payer {
            request.headers_mut().insert("x-amz-request-payer", "requester");
        }
        if let Some(identity) = &self.identity {
            self.sign(identity, &mut request)?;
        }
        Ok(request)
    }

    /// Signs a request by signature version 4, as S3 takes it:
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.
    fn sign(&self, identity: &Identity, request: &mut HttpRequest) -> Result<(), BoxError> {
        if self.extra.iter().any(|(_, text)| header_text::value(text).is_some()) {
            return self.sign_raw(identity, request);
        }
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let how = v4::SigningParams::builder()
            .identity(identity)
            .region(&self.direct.region)
            .name("s3")
            .time(self.direct.time())
            .settings(settings)
            .build()?;
        let body = match request.body().bytes() {
            Some([]) => SignableBody::empty(),
            Some(_) if self.direct.hides_payload => SignableBody::UnsignedPayload,
            Some(bytes) => SignableBody::Bytes(bytes),
            None => SignableBody::UnsignedPayload,
        };
        let what = SignableRequest::new(request.method(), request.uri(), request.headers().iter(), body)?;
        let (headers, _) = sign(what, &how.into())?.into_parts().0.into_parts();
        for header in headers {
            request.headers_mut().insert(header.name(), header.value().to_owned());
        }
        Ok(())
    }
}

impl SignedRequest<'_> {
    /// Signs a request that has a header with bytes that are no text, as `sign` does.
    fn sign_raw(&self, identity: &Identity, request: &mut HttpRequest) -> Result<(), BoxError> {
        let keys = identity.data::<Credentials>().ok_or("the identity has no keys")?;
        let body = request.body().bytes().filter(|body| body.is_empty() || !self.direct.hides_payload);
        let (method, uri, headers) = (request.method(), request.uri(), request.headers().iter().collect());
        let what = Signable { method, uri, headers, body };
        let added = signature(&what, keys, &self.direct.region, self.direct.time());
        for (name, value) in added.ok_or("the address can't be signed")? {
            request.headers_mut().insert(name, value);
        }
        Ok(())
    }
}

/// Reads the answer: an output or an error of the operation's, or neither.
async fn read(verb: &Verb, answer: &mut HttpResponse) -> Result<Result<Output, OperationError>, BoxError> {
    // As the SDK does: one that is no date (`0`) would make the whole answer unreadable.
    if let Some(expires) = answer.headers_mut().remove("expires") {
        answer.headers_mut().try_insert("expiresstring", expires)?;
    }
    let bag = ConfigBag::base();
    let reads = verb.answer().ok_or(OTHER_TYPE)?;
    let out = match reads.deserialize_streaming_with_config(answer, &bag) {
        Some(out) => out,
        None => {
            let text = read_text(answer.take_body()).await?;
            *answer.body_mut() = SdkBody::from(text);
            reads.deserialize_nonstreaming_with_config(answer, &bag)
        }
    };
    out.map_or_else(
        |e| {
            let mut its = None;
            let other = e.map_operation_error(|e| {
                its = Some(e);
                std::fmt::Error
            });
            its.map_or_else(|| Err(other.into()), |e| Ok(Err(e)))
        },
        |out| Ok(Ok(out)),
    )
}

async fn read_text(body: SdkBody) -> Result<Bytes, BoxError> {
    let (mut body, mut text) = (ByteStream::new(body), BytesMut::new());
    while let Some(piece) = body.next().await {
        let piece = piece?;
        if text.len() + piece.len() > TEXT_MAX {
            return Err(format!("the answer has more than {TEXT_MAX} bytes").into());
        }
        text.extend_from_slice(&piece);
    }
    Ok(text.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::RealRuntime;

    const EXPRESS: &str = "b--use1-az4--x-s3";
    const POINT: &str = "arn:aws:s3:eu-west-1:123456789012:accesspoint/point";

    fn connector() -> SharedHttpConnector {
        SharedHttpConnector::new(aws_smithy_http_client::Connector::builder().build_http())
    }

    async fn way(bucket: &str, endpoint: Option<&str>, path_style: bool) -> Option<String> {
        let way = Endpoint {
            bucket,
            region: "eu-west-1",
            endpoint,
            path_style,
            fips: false,
            dual_stack: false,
            payer: false,
            hides_payload: false,
            mends_clocks: true,
        };
        let rt = Rt::new(RealRuntime::current());
        let direct = DirectClient::to(&rt, way, None, connector()).await?;
        assert_eq!(direct.region, "eu-west-1");
        Some(direct.endpoint)
    }

    #[tokio::test]
    async fn only_what_plain_signatures_are_for_is_reached_straight() {
        let here = Some("http://127.0.0.1:9000");
        for (bucket, endpoint, path_style, there) in [
            ("bucket", here, true, Some("http://127.0.0.1:9000/bucket")),
            (
                "bucket",
                Some("http://storage.example:9000/at/"),
                true,
                Some("http://storage.example:9000/at/bucket"),
            ),
            ("bucket", Some("https://storage.example"), false, Some("https://bucket.storage.example")),
            ("bucket", None, false, Some("https://bucket.s3.eu-west-1.amazonaws.com")),
            ("buck.et", None, false, Some("https://s3.eu-west-1.amazonaws.com/buck.et")),
            ("bucket", None, true, Some("https://s3.eu-west-1.amazonaws.com/bucket")),
            (EXPRESS, None, false, None),
            (POINT, None, false, None),
        ] {
            assert_eq!(way(bucket, endpoint, path_style).await.as_deref(), there, "{bucket} {endpoint:?}");
        }
    }

    /// The SDK tells its serializers; a later version might change that without a word.
    #[test]
    fn the_sdk_tells_how_its_operations_are_written_and_read() {
        assert!(Verbs::all().is_some());
    }
}
