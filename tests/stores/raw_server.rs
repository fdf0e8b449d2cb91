//! A server of a few objects whose headers are bytes, as HTTP has them: crates that speak S3 have them as text.

// A server of the test's own.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use windlass_base::rt::Rt;
use windlass_store::{BucketRef, S3Store, StoreUrl};

/// Headers by their names in lowercase.
type Headers = BTreeMap<String, Vec<u8>>;
type Objects = Arc<Mutex<BTreeMap<String, (Vec<u8>, Headers)>>>;

pub struct RawServer {
    endpoint: String,
    objects: Objects,
}

/// Tells whether a header describes an object, so that it is kept.
fn is_kept(name: &str) -> bool {
    name.starts_with("x-amz-meta-")
        || matches!(name, "content-disposition" | "cache-control" | "content-language" | "expires")
}

impl RawServer {
    pub async fn start() -> RawServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let objects = Objects::default();
        let its = objects.clone();
        drop(tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                drop(tokio::spawn(serve(client, its.clone())));
            }
        }));
        RawServer { endpoint, objects }
    }

    pub async fn open(&self, rt: &Rt) -> BucketRef {
        let url: StoreUrl = format!("s3://bucket?endpoint={}&region=r", self.endpoint).parse().unwrap();
        let StoreUrl::S3(place) = url else { panic!("it is of S3") };
        S3Store::open_with_keys(rt, &place, "id", "secret").await.unwrap()
    }

    pub fn put(&self, key: &str, body: &[u8], headers: &[(&str, &[u8])]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        self.objects.lock().unwrap().insert(key.to_owned(), (body.to_vec(), headers));
    }

    /// Returns the headers that describe an object; for `KEY?uploads`, those that an upload was begun with.
    pub fn headers(&self, key: &str) -> Headers {
        self.objects.lock().unwrap()[key].1.clone()
    }
}

async fn serve(client: TcpStream, objects: Objects) {
    let mut client = BufReader::new(client);
    loop {
        let (mut line, mut headers) = (Vec::new(), Headers::new());
        client.read_until(b'\n', &mut line).await.unwrap();
        let first = String::from_utf8(line).unwrap();
        let mut words = first.split(' ');
        let (Some(verb), Some(target)) = (words.next(), words.next()) else { return };
        loop {
            let mut line = Vec::new();
            client.read_until(b'\n', &mut line).await.unwrap();
            let line = line.trim_ascii();
            let Some(at) = line.iter().position(|b| *b == b':') else { break };
            let name = String::from_utf8(line[..at].to_ascii_lowercase()).unwrap();
            headers.insert(name, line[at + 1..].trim_ascii().to_vec());
        }
        let length = headers.get("content-length").map_or("0", |v| std::str::from_utf8(v).unwrap());
        let mut body = vec![0; length.parse().unwrap()];
        client.read_exact(&mut body).await.unwrap();
        let answer = answer(&objects, verb, target, headers, body);
        client.write_all(&answer).await.unwrap();
    }
}

fn say(status: &str, headers: &Headers, body: &[u8], sends: bool) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for (name, value) in headers {
        out.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    out.extend(b"\r\n");
    out.extend(if sends { body } else { b"" });
    out
}

fn etag(body: &[u8]) -> (String, Vec<u8>) {
    let sum = body.iter().fold(7u64, |sum, b| sum.wrapping_mul(31) + u64::from(*b));
    ("etag".to_owned(), format!("\"{sum:x}\"").into_bytes())
}

fn answer(objects: &Objects, verb: &str, target: &str, headers: Headers, body: Vec<u8>) -> Vec<u8> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let key = path.trim_start_matches("/bucket/").to_owned();
    let about: Headers = headers.clone().into_iter().filter(|(name, _)| is_kept(name)).collect();
    let mut objects = objects.lock().unwrap();
    let none = Headers::new();
    match verb {
        "GET" if query.contains("tagging") => {
            say("501 Not Implemented", &none, b"<Error><Code>NotImplemented</Code></Error>", true)
        }
        "PUT" => {
            let source = headers.get("x-amz-copy-source");
            let is_copy = source.is_some();
            let from = |source: &Vec<u8>| {
                let source = std::str::from_utf8(source).unwrap();
                objects[source.trim_start_matches("bucket/")].0.clone()
            };
            let body = source.map_or(body, from);
            let (name, tag) = etag(&body);
            objects.insert(key, (body, about));
            let text = String::from_utf8(tag.clone()).unwrap();
            let xml = format!("<CopyObjectResult><ETag>{text}</ETag></CopyObjectResult>");
            let xml = if is_copy { xml.as_bytes() } else { b"" };
            say("200 OK", &[(name, tag)].into(), xml, true)
        }
        "POST" if query.starts_with("uploads") => {
            objects.insert(format!("{key}?uploads"), (body, about));
            let xml = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
            say("200 OK", &none, xml.as_bytes(), true)
        }
        _ => match objects.get(&key) {
            Some((body, about)) => {
                let mut headers = about.clone();
                headers.extend([etag(body)]);
                say("200 OK", &headers, body, verb == "GET")
            }
            None => say("404 Not Found", &none, b"<Error><Code>NoSuchKey</Code></Error>", verb == "GET"),
        },
    }
}
