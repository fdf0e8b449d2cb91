//! Whose keys a store's requests are signed with, and for how long they are good.
//!
//! The keyring comes first, then the place's own file of keys, then what the SDK's chain finds. The SDK keeps what it was told
//! for up to a quarter of an hour, and the chain keeps a profile's keys for good. When the keyring says that something has
//! changed, both are made anew, so that an open store goes on with other keys from its next request on.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::provider::{error::CredentialsError, future};
use aws_sdk_s3::config::{
    ConfigBag, Credentials, IdentityCache, ProvideCredentials, ResolveCachedIdentity, RuntimeComponents,
    SharedCredentialsProvider, SharedIdentityCache,
};
use aws_smithy_runtime_api::client::identity::{Identity, IdentityFuture, SharedIdentityResolver};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::passwd_file;
use crate::keyring::{AccessKeys, KeyTarget, keyring};
use crate::url::S3Place;
use windlass_base::Kind;
use windlass_base::rt::{Instant, Rt};
use windlass_base::utc;

/// Time before their end from which on keys are left to the SDK, which asks for new ones 10 s before it.
const ENDS_SOON: Duration = Duration::from_secs(15);
/// Time for which keys that don't say when they end are good: the SDK asks its chain again after 15 minutes.
const GOOD_FOR: Duration = Duration::from_secs(14 * 60);

/// Makes the SDK's chain for a store, as if the process had just started.
pub(super) type MakeChain =
    Box<dyn Fn() -> BoxFuture<'static, Option<SharedCredentialsProvider>> + Send + Sync>;

/// Shortest time between two refusals of keys that are believed: a store may refuse the new keys too.
const RENEWED_EVERY: Duration = Duration::from_secs(1);

/// A state of the search for keys: the keyring's version, and how often the store's own keys were looked for anew.
pub(super) type KeysVersion = (u64, u64);

/// The keys that were handed out last.
#[derive(Debug)]
struct Known {
    identity: Identity,
    since: Instant,
    /// The version before the keys were looked for.
    version: KeysVersion,
}

/// Count of the times that a store has refused its keys as ended.
#[derive(Debug, Default)]
struct Refused {
    times: u64,
    last: Option<Instant>,
}

/// The keys with which a store's requests are signed.
pub(super) struct Keys {
    rt: Rt,
    place: Arc<S3Place>,
    /// Keys that are used whatever else there is, for tests and trials.
    given: Option<Credentials>,
    make_chain: MakeChain,
    chain: Mutex<Option<(KeysVersion, SharedCredentialsProvider)>>,
    last: Mutex<Option<Known>>,
    refused: Mutex<Refused>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.place.bucket)
    }
}

/// The provider that the SDK asks for keys.
#[derive(Debug)]
struct Provider(Arc<Keys>);

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.0.look())
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        let chain = self.0.chain.lock().as_ref().map(|(_, chain)| chain.clone());
        chain.and_then(|chain| chain.fallback_on_interrupt())
    }
}

/// The cache in which the SDK remembers identities, until there may be others.
#[derive(Debug)]
struct RenewedCache {
    keys: Option<Arc<Keys>>,
    cache: Mutex<(KeysVersion, SharedIdentityCache)>,
}

impl RenewedCache {
    fn current(&self) -> SharedIdentityCache {
        let version = version_of(self.keys.as_ref());
        let mut cache = self.cache.lock();
        if cache.0 != version {
            *cache = (version, IdentityCache::lazy().build());
        }
        cache.1.clone()
    }
}

fn version_of(keys: Option<&Arc<Keys>>) -> KeysVersion {
    (keyring().version(), keys.map_or(0, |keys| keys.refused.lock().times))
}

impl ResolveCachedIdentity for RenewedCache {
    fn resolve_cached_identity<'a>(
        &'a self,
        resolver: SharedIdentityResolver,
        components: &'a RuntimeComponents,
        bag: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        let cache = self.current();
        IdentityFuture::new(async move { cache.resolve_cached_identity(resolver, components, bag).await })
    }
}

impl Keys {
    pub fn of(rt: &Rt, place: Arc<S3Place>, given: Option<Credentials>, make_chain: MakeChain) -> Arc<Keys> {
        let (chain, last, refused) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Keys { rt: rt.clone(), place, given, make_chain, chain, last, refused })
    }

    pub fn version(self: &Arc<Keys>) -> KeysVersion {
        version_of(Some(self))
    }

    /// Has keys of this version looked for anew, where they come from, since the store says that they have ended. False: that
    /// was done a moment ago.
    pub fn renew(self: &Arc<Keys>, seen: KeysVersion) -> bool {
        if self.version() != seen {
            return true;
        }
        let (now, mut refused) = (self.rt.now(), self.refused.lock());
        if refused.last.is_some_and(|last| now.since(last) < RENEWED_EVERY) {
            return false;
        }
        *refused = Refused { times: refused.times + 1, last: Some(now) };
        true
    }

    /// Returns the provider of keys for the SDK's configuration.
    pub fn provider(self: &Arc<Keys>) -> SharedCredentialsProvider {
        SharedCredentialsProvider::new(Provider(self.clone()))
    }

    /// Returns the cache of identities for the SDK's configuration.
    pub fn cache(keys: Option<&Arc<Keys>>) -> impl ResolveCachedIdentity + 'static {
        let lazy = IdentityCache::lazy().build();
        RenewedCache { keys: keys.cloned(), cache: Mutex::new((version_of(keys), lazy)) }
    }

    /// Returns the keys that are known to be good; none: the SDK is to ask.
    pub fn good(self: &Arc<Keys>) -> Option<Identity> {
        let now = self.version();
        let last = self.last.lock();
        let Known { identity, since, version } = last.as_ref()?;
        let good = match identity.expiration() {
            Some(end) => wall(&self.rt) + ENDS_SOON < end,
            None => self.rt.now().since(*since) < GOOD_FOR,
        };
        (good && *version == now).then(|| identity.clone())
    }

    async fn look(self: &Arc<Keys>) -> Result<Credentials, CredentialsError> {
        // First: what changes meanwhile is looked for again.
        let version = self.version();
        let keys = self.find(version).await?;
        let identity = keys.clone().into();
        *self.last.lock() = Some(Known { identity, since: self.rt.now(), version });
        Ok(keys)
    }

    async fn find(&self, version: KeysVersion) -> Result<Credentials, CredentialsError> {
        if let Some(given) = &self.given {
            return Ok(given.clone());
        }
        if let Some((target, keys)) = keyring().find(&self.place) {
            return self.usable(&target, keys);
        }
        if let Some(file) = &self.place.passwd_file {
            let read = passwd_file::keys(file, &self.place.bucket).await;
            let keys = read.map_err(|e| CredentialsError::provider_error(lacking(e.to_string())))?;
            return Ok(as_credentials(keys, "passwd_file"));
        }
        let known =
            self.chain.lock().as_ref().filter(|(its, _)| *its == version).map(|(_, chain)| chain.clone());
        let chain = match known {
            Some(chain) => chain,
            None => {
                let made = (self.make_chain)().await;
                let chain =
                    made.ok_or_else(|| CredentialsError::not_loaded("no credentials are to be used"))?;
                *self.chain.lock() = Some((version, chain.clone()));
                chain
            }
        };
        chain.provide_credentials().await
    }

    fn usable(&self, target: &KeyTarget, keys: AccessKeys) -> Result<Credentials, CredentialsError> {
        match keys.expires_ms {
            Some(end) if end <= self.rt.wall_ms() => {
                let end = utc::show(end);
                let why = format!(
                    "the credentials of {target} ended at {end}: `windlass credentials set {target}` takes new ones"
                );
                Err(CredentialsError::provider_error(lacking(why)))
            }
            _ => Ok(as_credentials(keys, "keyring")),
        }
    }
}

/// Makes a text an error's source: what says it to the user is the innermost.
fn lacking(why: String) -> windlass_base::Error {
    windlass_base::Error::new(Kind::Denied, why)
}

/// Returns keys in the form that the SDK has for them.
pub(super) fn as_credentials(keys: AccessKeys, provider: &'static str) -> Credentials {
    let end = keys.expires_ms.map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
    Credentials::new(keys.id, keys.secret, keys.token, end, provider)
}

fn wall(rt: &Rt) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(rt.wall_ms())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::FutureExt as _;

    use super::*;
    use crate::keyring::KeySource;
    use windlass_base::rt::RealRuntime;

    /// Keys whose chain counts how often it was made: `chain-1`, `chain-2`, …
    fn keys(rt: &Rt, url: &str, ends_in: Option<u64>) -> Arc<Keys> {
        let place = match url.parse().unwrap() {
            crate::StoreUrl::S3(place) => Arc::new(place),
            other => panic!("{other}"),
        };
        let (rt2, made) = (rt.clone(), Arc::new(AtomicU32::new(0)));
        let make: MakeChain = Box::new(move || {
            let end = ends_in.map(|s| wall(&rt2) + Duration::from_secs(s));
            let id = format!("chain-{}", made.fetch_add(1, Ordering::Relaxed) + 1);
            let chain = SharedCredentialsProvider::new(Credentials::new(id, "secret", None, end, "test"));
            async move { Some(chain) }.boxed()
        });
        Keys::of(rt, place, None, make)
    }

    async fn id(keys: &Arc<Keys>) -> String {
        keys.provider().provide_credentials().await.unwrap().access_key_id().to_owned()
    }

    #[tokio::test]
    async fn keys_are_used_while_they_are_good() {
        let rt = Rt::new(RealRuntime::current());
        for (ends_in, good) in [(None, true), (Some(3600), true), (Some(5), false)] {
            let keys = keys(&rt, "s3://identity-good", ends_in);
            assert!(keys.good().is_none(), "nobody has asked for them");
            // Other tests change the keyring too: then they are asked for again.
            let mut seen = false;
            for _ in 0..100 {
                id(&keys).await;
                seen |= keys.good().is_some();
            }
            assert_eq!(seen, good, "{ends_in:?}");
        }
    }

    #[tokio::test]
    async fn an_open_store_goes_on_with_other_keys() {
        let rt = Rt::new(RealRuntime::current());
        let keys = keys(&rt, "s3://identity-changes/x", None);
        assert!(id(&keys).await.starts_with("chain-"));
        let target: KeyTarget = "s3://identity-changes".parse().unwrap();
        let given =
            |id: &str, expires_ms| AccessKeys { id: id.into(), secret: "s".into(), token: None, expires_ms };
        keyring().set(target.clone(), KeySource::Memory, given("first", None));
        assert!(keys.good().is_none(), "the former ones are not used for one more request");
        assert_eq!(id(&keys).await, "first");
        keyring().set(target.clone(), KeySource::Memory, given("ended", Some(1)));
        let why = keys.provider().provide_credentials().await.unwrap_err();
        let why = std::error::Error::source(&why).map(ToString::to_string).unwrap_or_default();
        assert!(
            why.contains("ended at 1970") && why.contains("windlass credentials set s3://identity-changes"),
            "{why}"
        );
        keyring().remove(&target);
        let again = id(&keys).await;
        assert!(again.starts_with("chain-") && again != "chain-1", "the chain is made anew: {again}");
    }

    #[tokio::test]
    async fn a_file_of_keys_is_read_again_when_it_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        let write = async |text: &'static str| {
            let disk = windlass_base::rt::RealDisk::start();
            windlass_base::rt::Disk::write_atomic(&*disk, &file, bytes::Bytes::from_static(text.as_bytes()))
                .await
                .unwrap();
        };
        let rt = Rt::new(RealRuntime::current());
        write("A:S").await;
        let keys = keys(&rt, &format!("s3://identity-file?passwd_file={}", file.display()), None);
        assert_eq!(id(&keys).await, "A");
        write("B:S").await;
        keyring().renew();
        assert!(keys.good().is_none());
        assert_eq!(id(&keys).await, "B");
    }
}
