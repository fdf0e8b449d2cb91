//! From a URL to a client: credentials and region as the AWS chain gives them, one HTTP client for all stores of a
//! process that trust the same authorities, no retries of the SDK's own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Weak;
use std::time::Duration;

use aws_config::default_provider::region::DefaultRegionChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, ConfigLoader};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    ConfigBag, Credentials, Intercept, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    RuntimeComponents, SharedCredentialsProvider, SharedHttpClient,
};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector, http_client_fn};
use futures::FutureExt as _;
use md5::{Digest as _, Md5};
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::sync::Arc;

use crate::keyring::keyring;
use crate::s3::connector::{client, is_proxied, pinned};
use crate::s3::credentials::{Keys, MakeChain};
use crate::s3::errors::where_looked;
use crate::s3::fast_path::{DirectClient, Endpoint};
use crate::s3::passwd_file;
use crate::url::{S3Place, Sse};
use windlass_base::rt::{Disk, RealDisk, Rt};
use windlass_base::{Error, Kind, Result};

const CONNECT: Duration = Duration::from_secs(5);
/// Longest time from the first byte sent to the first one received. The retry layer knows what a request carries and waits
/// less; this is for copies of large objects, which some servers answer only when they are done.
const ANSWER: Duration = Duration::from_secs(900);
/// Longest time from the first byte sent to a web server to the first one received.
const WEB_ANSWER: Duration = Duration::from_secs(30);
const FILE_MAX: usize = 1 << 20;

/// An HTTP client with its pool of connections, and what it may be shared by.
#[derive(Debug)]
pub(super) struct Shared {
    rt: Rt,
    authorities: Option<Vec<u8>>,
    /// The connector by which requests for objects are sent.
    connector: SharedHttpConnector,
    /// The client by which the SDK sends.
    http: SharedHttpClient,
}

/// The clients of all stores that are open. Connections live on the runtime that made them: stores of another one (tests) get
/// their own.
static SHARED: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

fn shared(rt: &Rt, authorities: Option<Vec<u8>>, place: &S3Place) -> Result<Arc<Shared>> {
    let mut all = SHARED.lock();
    all.retain(|weak| weak.strong_count() > 0);
    let same = |s: &Arc<Shared>| s.rt.is(rt) && s.authorities == authorities;
    if let Some(found) = all.iter().filter_map(Weak::upgrade).find(same) {
        return Ok(found);
    }
    if let Some(pem) = &authorities {
        check_authorities(pem).map_err(|why| {
            let file = place.ca.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
            Error::new(Kind::Usage, format!("ca={file} is not a file of certificates in PEM form: {why}"))
        })?;
    }
    let (connector, http) = client(&patience(), tls(authorities.as_deref())?);
    let new = Arc::new(Shared { rt: rt.clone(), authorities, connector, http });
    all.push(Arc::downgrade(&new));
    Ok(new)
}

fn patience() -> HttpConnectorSettings {
    HttpConnectorSettings::builder().connect_timeout(CONNECT).read_timeout(ANSWER).build()
}

fn tls(authorities: Option<&[u8]>) -> Result<TlsContext> {
    let mut trusted = TrustStore::default();
    if let Some(pem) = authorities {
        trusted.add_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(trusted).build();
    context.map_err(|e| Error::new(Kind::Internal, "TLS can't be set up").because(e))
}

/// Makes a connector for web servers that are no stores, with this host's authorities, and through the proxy that the
/// environment names.
pub fn web_client() -> Result<SharedHttpConnector> {
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT).read_timeout(WEB_ANSWER).build();
    Ok(client(&settings, tls(None)?).0)
}

/// Reads certificates before the SDK does: it panics on those that it can't read, when the first request is made.
fn check_authorities(pem: &[u8]) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(pem) {
        roots.add(der.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    if roots.is_empty() { Err("it holds none".into()) } else { Ok(()) }
}

/// The encryption that every write asks of the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Seal {
    pub sse: Option<ServerSideEncryption>,
    pub kms_key: Option<String>,
    /// SSE-C: algorithm, key and its MD5, sent with reads too.
    pub algorithm: Option<String>,
    pub key: Option<String>,
    pub key_md5: Option<String>,
}

async fn seal_of(sse: Option<&Sse>) -> Result<Seal> {
    Ok(match sse {
        None => Seal::default(),
        Some(Sse::S3) => Seal { sse: Some(ServerSideEncryption::Aes256), ..Seal::default() },
        Some(Sse::Kms(key)) => {
            Seal { sse: Some(ServerSideEncryption::AwsKms), kms_key: key.clone(), ..Seal::default() }
        }
        Some(Sse::Customer(file)) => {
            let key = read_file(file).await?;
            if key.len() != 32 {
                return Err(Error::new(
                    Kind::Usage,
                    format!("the key file {} must have 32 bytes; it has {}", file.display(), key.len()),
                ));
            }
            Seal {
                algorithm: Some("AES256".into()),
                key: Some(aws_smithy_types::base64::encode(&key)),
                key_md5: Some(aws_smithy_types::base64::encode(Md5::digest(&key))),
                ..Seal::default()
            }
        }
    })
}

async fn read_file(path: &std::path::Path) -> Result<Vec<u8>> {
    let read = RealDisk::start().read(path, FILE_MAX).await;
    read.map(|bytes| bytes.to_vec())
        .map_err(|e| Error::from(e).context(format!("reading {}", path.display())))
}

/// The clients of one store.
#[derive(Debug)]
pub(super) struct Connection {
    /// See `S3Place::identity`.
    pub identity: String,
    /// Sends a checksum with every body.
    pub checked: Client,
    /// Sends only checksums that an operation must have, for servers that don't take them with every body.
    pub plain: Client,
    /// The way past most of the SDK, where there is one.
    pub direct: Option<DirectClient>,
    /// The user wants no checksums but those that an operation must have: with writes, and with what is read.
    pub plain_writes: bool,
    pub plain_reads: bool,
    /// The store's keys. None: requests are not signed.
    pub keys: Option<Arc<Keys>>,
    pub seal: Seal,
    /// The place by which the keyring knows that the store is open.
    _user: Arc<S3Place>,
    shared: Arc<Shared>,
}

impl Connection {
    /// Returns the addresses of the server's name, each once. Empty: it has none of its own, or a proxy chooses.
    pub async fn addresses(&self) -> Result<Vec<IpAddr>> {
        let Some(endpoint) = self.direct.as_ref().map(DirectClient::endpoint) else { return Ok(Vec::new()) };
        let Ok(uri) = endpoint.parse::<http::Uri>() else { return Ok(Vec::new()) };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if is_proxied(endpoint) || host.parse::<IpAddr>().is_ok() {
            return Ok(Vec::new());
        }
        let port = uri.port_u16().unwrap_or(443);
        let found = tokio::net::lookup_host((host.as_str(), port)).await;
        let found = found.map_err(|e| {
            Error::new(Kind::Unavailable, format!("the name {host} has no address")).because(e)
        })?;
        let all: BTreeSet<IpAddr> = found.map(|at| at.ip()).collect();
        Ok(all.into_iter().collect())
    }

    /// Returns the connection by one address of the server alone, on HTTP connections of its own.
    pub fn by(&self, address: IpAddr) -> Result<Connection> {
        let connector = pinned(&patience(), &tls(self.shared.authorities.as_deref())?, address);
        let own = connector.clone();
        let http = http_client_fn(move |_, _| own.clone());
        let client =
            |of: &Client| Client::from_conf(of.config().to_builder().http_client(http.clone()).build());
        Ok(Connection {
            identity: self.identity.clone(),
            checked: client(&self.checked),
            plain: client(&self.plain),
            direct: self.direct.as_ref().and_then(|direct| direct.by(connector.clone())),
            plain_writes: self.plain_writes,
            plain_reads: self.plain_reads,
            keys: self.keys.clone(),
            seal: self.seal.clone(),
            _user: self._user.clone(),
            shared: self.shared.clone(),
        })
    }
}

/// Says in each request that who sends it pays for it.
#[derive(Debug)]
struct Payer;

impl Intercept for Payer {
    fn name(&self) -> &'static str {
        "Payer"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        context.request_mut().headers_mut().insert("x-amz-request-payer", "requester");
        Ok(())
    }
}

/// Keys that are wanted and can't be had are told when the store is opened.
async fn check_keys(place: &S3Place, given: Option<&Credentials>) -> Result<()> {
    let Some(file) = place.passwd_file.as_ref().filter(|_| given.is_none()) else { return Ok(()) };
    if place.anonymous == Some(true) {
        let why = format!(
            "s3://{}: requests are signed with the keys of passwd_file, or are anonymous: leave one of the two out",
            place.bucket
        );
        return Err(Error::new(Kind::Usage, why));
    }
    match keyring().find(place) {
        Some(_) => Ok(()),
        None => passwd_file::keys(file, &place.bucket).await.map(drop),
    }
}

/// Returns the configuration that AWS tools would have for this place. Making it asks nobody where the region is known.
fn loader(place: &S3Place, http: &SharedHttpClient) -> ConfigLoader {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).read_timeout(ANSWER).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts);
    if let Some(profile) = &place.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = &place.region {
        loader = loader.region(Region::new(region.clone()));
    }
    loader
}

/// Returns the maker of the SDK's chain of credentials, or of the profile alone where the place names one.
fn chain_of(place: Arc<S3Place>, region: Region, http: SharedHttpClient) -> MakeChain {
    Box::new(move || {
        let (place, region, http) = (place.clone(), region.clone(), http.clone());
        async move {
            match &place.profile {
                Some(profile) => {
                    Some(SharedCredentialsProvider::new(of_profile(profile, &place, &http).await))
                }
                None => loader(&place, &http).region(region).load().await.credentials_provider(),
            }
        }
        .boxed()
    })
}

pub(super) async fn connect(rt: &Rt, place: &S3Place, given: Option<Credentials>) -> Result<Connection> {
    check_keys(place, given.as_ref()).await?;
    let authorities = match &place.ca {
        Some(file) => Some(read_file(file).await?),
        None => None,
    };
    let seal = seal_of(place.sse.as_ref()).await?;
    let shared = shared(rt, authorities, place)?;
    let base = loader(place, &shared.http).no_credentials().load().await;
    if base.region().is_none() && place.endpoint.is_none() {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "s3://{} needs a region: {} found none in {}; add ?region=… or set AWS_REGION there",
                place.bucket,
                keyring().looker(),
                where_looked()
            ),
        ));
    }
    let region = base.region().cloned().unwrap_or_else(|| Region::new("us-east-1"));
    let endpoint = place.endpoint.clone().or(base.endpoint_url().map(str::to_owned)).map(with_slash);
    let identity = place.identity(endpoint.as_deref(), region.as_ref());
    let path_style = place.path_style.unwrap_or(place.endpoint.is_some());
    let payer = place.requester_pays == Some(true);
    let user = Arc::new(place.clone());
    if given.is_none() {
        keyring().join(&user);
    }
    let signed = place.anonymous != Some(true);
    let chain = || chain_of(user.clone(), region.clone(), shared.http.clone());
    let keys = signed.then(|| Keys::of(rt, user.clone(), given, chain()));
    let way = Endpoint {
        bucket: &place.bucket,
        region: region.as_ref(),
        endpoint: endpoint.as_deref(),
        path_style,
        fips: base.use_fips() == Some(true),
        dual_stack: base.use_dual_stack() == Some(true),
        payer,
        hides_payload: hides_payload(place),
        mends_clocks: base.disable_clock_skew_correction() != Some(true),
    };
    let direct = DirectClient::to(rt, way, keys.clone(), shared.connector.clone()).await;
    let mut config = aws_sdk_s3::config::Builder::from(&base);
    config =
        config.region(region.clone()).force_path_style(path_style).identity_cache(Keys::cache(keys.as_ref()));
    config.set_endpoint_url(endpoint);
    config.set_credentials_provider(keys.as_ref().map(Keys::provider));
    if payer {
        config = config.interceptor(Payer);
    }
    let plain = config.clone().request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
    Ok(Connection {
        identity,
        checked: Client::from_conf(config.build()),
        plain: Client::from_conf(plain.build()),
        direct,
        plain_writes: base.request_checksum_calculation() == Some(RequestChecksumCalculation::WhenRequired),
        keys,
        plain_reads: base.response_checksum_validation() == Some(ResponseChecksumValidation::WhenRequired),
        seal,
        _user: user,
        shared,
    })
}

/// Makes the provider of a profile's keys. Who names a profile means its keys, whatever the environment has: the SDK would
/// take those first, and also where there is no such profile.
async fn of_profile(
    profile: &str,
    place: &S3Place,
    http: &SharedHttpClient,
) -> ProfileFileCredentialsProvider {
    // Looking for a region that was named would ask the network for nothing.
    let config = match &place.region {
        Some(region) => ProviderConfig::without_region().with_region(Some(Region::new(region.clone()))),
        None => {
            let region = DefaultRegionChain::builder().profile_name(profile).build().region().await;
            ProviderConfig::without_region().with_region(region)
        }
    };
    let config = config.with_http_client(http.clone());
    ProfileFileCredentialsProvider::builder().configure(&config).profile_name(profile).build()
}

/// Ends an endpoint's path with a slash: the SDK's rules put the bucket's name right behind the path.
fn with_slash(endpoint: String) -> String {
    let path = endpoint.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path);
    if path.is_some_and(|path| !path.is_empty() && !path.ends_with('/')) { endpoint + "/" } else { endpoint }
}

/// Tells whether bodies are left out of signatures. Where TLS protects a body, hashing all of it for the signature too would
/// only cost time.
pub(super) fn hides_payload(place: &S3Place) -> bool {
    place.endpoint.as_ref().is_none_or(|e| e.starts_with("https:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_an_endpoint_ends_in_a_slash() {
        for (given, wanted) in [
            ("http://storage.example:9000", "http://storage.example:9000"),
            ("http://storage.example/", "http://storage.example/"),
            ("https://storage.example/v1/s3", "https://storage.example/v1/s3/"),
            ("https://storage.example/v1/s3/", "https://storage.example/v1/s3/"),
        ] {
            assert_eq!(with_slash(given.into()), wanted);
        }
    }
}
