//! An S3 server inside the test's process: the `s3s` crate speaks the protocol, `objects.rs` holds the bucket,
//! `service.rs` gives S3's verbs their meaning, `faults.rs` breaks things between it and the client.
//!
//! It is ours, so it shares our misreadings of S3: `integration/` runs the same suite against servers that
//! nobody of us wrote.

mod faults;
mod objects;
mod service;

use std::sync::{Arc, Mutex};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::S3ServiceBuilder;

pub use faults::{Fault, Faults, Said};
use objects::{Contents, Objects};
pub use objects::{Quirks, Refusal};
use windlass_base::Result;
use windlass_base::rt::Rt;
use windlass_store::{BucketRef, S3Store, StoreUrl};

pub const KEY: &str = "testkey";
pub const SECRET: &str = "testsecret123";
pub const BUCKET: &str = "bucket";

/// A running server. It ends with the test's runtime.
pub struct Server {
    pub endpoint: String,
    pub faults: Arc<Faults>,
    objects: Arc<Objects>,
    keys: Keys,
}

/// The one pair of keys that the server takes.
#[derive(Clone)]
struct Keys(Arc<Mutex<(String, String)>>);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> s3s::S3Result<SecretKey> {
        let keys = self.0.lock().unwrap();
        match keys.0 == access_key {
            true => Ok(keys.1.as_str().into()),
            false => {
                Err(s3s::s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist"))
            }
        }
    }
}

impl Server {
    pub async fn start(quirks: Quirks) -> Server {
        let objects = Arc::new(Objects::new(quirks));
        let mut service = S3ServiceBuilder::new(service::Service(objects.clone()));
        let keys = Keys(Arc::new(Mutex::new((KEY.to_owned(), SECRET.to_owned()))));
        service.set_auth(keys.clone());
        let service = service.build();
        let faults = Arc::new(Faults::default());
        #[allow(clippy::disallowed_types)] // a server of the test's own
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let between = faults.clone();
        spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let service = faults::Between::new(service.clone(), between.clone());
                spawn(async move {
                    let server = Builder::new(TokioExecutor::new());
                    // A connection that a fault cut ends in an error.
                    let _ = server.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Server { endpoint, faults, objects, keys }
    }

    pub fn url(&self, prefix: &str) -> StoreUrl {
        format!("s3://{BUCKET}/{prefix}?endpoint={}&region=us-east-1", self.endpoint).parse().unwrap()
    }

    pub async fn open(&self, rt: &Rt, prefix: &str) -> BucketRef {
        self.open_url(rt, &self.url(prefix), SECRET).await.unwrap()
    }

    pub async fn open_url(&self, rt: &Rt, url: &StoreUrl, secret: &str) -> Result<BucketRef> {
        let StoreUrl::S3(place) = url else { panic!("{url} is not of S3") };
        S3Store::open_with_keys(rt, place, KEY, secret).await
    }

    /// Exchanges the keys: the server takes these alone from now on.
    pub fn rotate(&self, id: &str, secret: &str) {
        *self.keys.0.lock().unwrap() = (id.to_owned(), secret.to_owned());
    }

    /// Deletes the bucket with all that is in it, or makes it anew.
    pub fn set_gone(&self, gone: bool) {
        self.objects.set_gone(gone);
    }

    /// Returns an object's tags, as the header has them.
    pub fn tags(&self, key: &str) -> Option<String> {
        self.objects.get(key).unwrap().about.tags
    }

    /// Gives an object other tags.
    pub fn set_tags(&self, key: &str, tags: Option<String>) {
        let set = |c: &mut Contents| {
            c.objects.get_mut(key).unwrap().about.tags = tags;
            Ok(())
        };
        self.objects.with(set).unwrap();
    }

    /// Lists every key in the bucket.
    pub fn keys(&self) -> Vec<String> {
        self.objects.keys()
    }
}

#[allow(clippy::disallowed_methods)] // the server's tasks are no part of what is tested
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(task));
}
