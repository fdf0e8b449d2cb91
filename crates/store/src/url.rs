//! How users name a store: `s3://bucket/prefix?endpoint=…`, `file:///dir`, `mem:NAME`, with `,zone=Z` behind it
//! where a pool's stores are listed.
//!
//! A URL is kept in one canonical form, so that equal places compare equal. `%XX` is understood everywhere and
//! written only where a character would otherwise be read as part of the grammar. A URL never holds secrets.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use windlass_base::{Error, Kind, Result};

/// A place where objects live.
// A few of them live, for as long as a pool or a mount: their size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StoreUrl {
    File { dir: PathBuf },
    S3(S3Place),
    Mem { name: String },
}

/// The parts of an `s3://` URL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct S3Place {
    pub bucket: String,
    /// The prefix of the store's keys, without a slash at its end; empty for the whole bucket.
    pub prefix: String,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub profile: Option<String>,
    pub path_style: Option<bool>,
    /// Requests are not signed: for public buckets.
    pub anonymous: Option<bool>,
    /// Each request says that who sends it pays for it: for buckets that bill their readers.
    pub requester_pays: Option<bool>,
    pub sse: Option<Sse>,
    pub storage_class: Option<String>,
    /// A PEM file of certificate authorities to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// A file of keys as s3fs has it, used instead of the environment's and a profile's.
    pub passwd_file: Option<PathBuf>,
}

/// Server-side encryption asked for with every write.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sse {
    /// `sse=s3`: keys held by the store.
    S3,
    /// `sse=kms` or `sse=kms:KEYID`.
    Kms(Option<String>),
    /// `sse=c:FILE`: 32 bytes from a file, sent with every request.
    Customer(PathBuf),
}

/// Beginnings of the names of regions whose buckets are others than those of the same name elsewhere.
const APART: [&str; 7] = ["cn-", "us-gov-", "us-iso-", "us-isob-", "us-isof-", "eu-isoe-", "eusc-"];

/// A store as a pool lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreSpec {
    pub url: StoreUrl,
    /// The zone, of stores that fail together: `,zone=Z` behind the URL.
    pub zone: Option<String>,
}

fn usage(what: String) -> Error {
    Error::new(Kind::Usage, what)
}

fn decoded(text: &str) -> Result<String> {
    let out = percent_decode_str(text).decode_utf8();
    let out =
        out.map_err(|_| usage(format!("{text:?} in a store's URL is not UTF-8 once its %XX are read")))?;
    if out.contains('\0') {
        return Err(usage("a store's URL can't hold a zero byte".into()));
    }
    Ok(out.into_owned())
}

/// Writes `%XX` for what the grammar would read otherwise.
fn encoded(text: &str, reserved: &[char]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '%' || c.is_control() || reserved.contains(&c) {
            let mut buf = [0; 4];
            for b in c.encode_utf8(&mut buf).bytes() {
                out.push_str(&format!("%{b:02X}"));
            }
        } else {
            out.push(c);
        }
    }
    out.replace(",zone=", "%2Czone=")
}

fn absolute(what: &str, path: &str) -> Result<PathBuf> {
    if !path.starts_with('/') {
        return Err(usage(format!("{what} {path:?} must be an absolute path")));
    }
    // Components drop doubled slashes, `.` and a slash at the end, so that one folder has one name.
    Ok(Path::new(path).components().collect())
}

impl FromStr for Sse {
    type Err = Error;
    fn from_str(s: &str) -> Result<Sse> {
        match s.split_once(':').map_or((s, None), |(a, b)| (a, Some(b))) {
            ("s3", None) => Ok(Sse::S3),
            ("kms", None) => Ok(Sse::Kms(None)),
            ("kms", Some(key)) if !key.is_empty() => Ok(Sse::Kms(Some(key.to_owned()))),
            ("c", Some(file)) => Ok(Sse::Customer(absolute("the key file of sse=c:", file)?)),
            _ => Err(usage(format!("sse={s} is unknown: use s3, kms, kms:KEYID or c:/KEY/FILE"))),
        }
    }
}

impl fmt::Display for Sse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sse::S3 => f.write_str("s3"),
            Sse::Kms(None) => f.write_str("kms"),
            Sse::Kms(Some(key)) => write!(f, "kms:{key}"),
            Sse::Customer(file) => write!(f, "c:{}", file.display()),
        }
    }
}

fn checked_endpoint(value: &str) -> Result<String> {
    let rest = value.strip_prefix("http://").or_else(|| value.strip_prefix("https://"));
    match rest {
        Some(host) if !host.is_empty() && !host.contains(['@', '?', '#']) && !host.starts_with('/') => {
            Ok(value.trim_end_matches('/').to_owned())
        }
        _ => Err(usage(format!("endpoint={value} is not a http:// or https:// address without a user"))),
    }
}

fn boolean(name: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(usage(format!("{name}={value} must be true or false"))),
    }
}

impl S3Place {
    /// Sets a parameter by its name in the URL.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        if value.is_empty() {
            return Err(usage(format!("the store parameter {name}= has no value")));
        }
        match name {
            "endpoint" => self.endpoint = Some(checked_endpoint(value)?),
            "region" => self.region = Some(value.to_owned()),
            "profile" => self.profile = Some(value.to_owned()),
            "path_style" => self.path_style = Some(boolean(name, value)?),
            "anonymous" => self.anonymous = Some(boolean(name, value)?),
            "requester_pays" => self.requester_pays = Some(boolean(name, value)?),
            "sse" => self.sse = Some(value.parse()?),
            "storage_class" => self.storage_class = Some(value.to_owned()),
            "ca" => self.ca = Some(absolute("the file of ca=", value)?),
            "passwd_file" => self.passwd_file = Some(absolute("the file of passwd_file=", value)?),
            _ => {
                return Err(usage(format!(
                    "an s3:// store has no parameter {name:?}: endpoint, region, profile, path_style, anonymous, \
                     requester_pays, sse, storage_class, ca and passwd_file are known; credentials come from that file, the profile or the \
                     environment"
                )));
            }
        }
        Ok(())
    }

    /// Returns why no server has a bucket of this name. A URL is not refused for it: that is for the server to do.
    pub fn bucket_trouble(&self) -> Option<String> {
        let name = self.bucket.as_str();
        let edge = ['.', '-'];
        let why = match name.len() {
            0..3 => "has fewer than 3 characters",
            256.. => "has more than 255 characters",
            _ if name.starts_with(edge) || name.ends_with(edge) => "begins or ends with a dot or a hyphen",
            _ if name.contains("..") => "has two dots in a row",
            _ if name.parse::<std::net::Ipv4Addr>().is_ok() => "is an IP address",
            len => {
                let old = len > 63 || name.contains(|c: char| c == '_' || c.is_ascii_uppercase());
                let elsewhere = self.endpoint.is_some() || self.region.as_deref() == Some("us-east-1");
                return (old && !elsewhere).then(|| {
                    format!(
                        "AWS has no bucket {name:?}: names have no capitals, no underscores and at most 63 characters. Correct it; an old \
                         bucket of such a name needs region=us-east-1, another server an endpoint"
                    )
                });
            }
        };
        Some(format!("no S3 server has a bucket {name:?}: the name {why}; correct it"))
    }

    fn parse(rest: &str) -> Result<S3Place> {
        let (place, query) = rest.split_once('?').map_or((rest, ""), |(a, b)| (a, b));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let bucket = decoded(bucket)?;
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if bucket.is_empty() || !bucket.chars().all(fine) {
            return Err(usage(format!("s3://{place} does not name a bucket: write s3://BUCKET/PREFIX")));
        }
        let prefix = decoded(prefix.strip_suffix('/').unwrap_or(prefix))?;
        let mut out = S3Place { bucket, prefix, ..S3Place::default() };
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| usage(format!("the store parameter {pair:?} must be NAME=VALUE")))?;
            out.set(name, &decoded(value)?)?;
        }
        Ok(out)
    }

    /// Returns a text that says which objects are meant, and nothing of how they are reached. `endpoint` and `region` are
    /// those that are asked in the end, whether the URL, the environment or a profile names them.
    pub fn identity(&self, endpoint: Option<&str>, region: &str) -> String {
        let endpoint = endpoint.map(|e| e.trim_end_matches('/').to_owned());
        // All other regions of AWS share one space of names for buckets.
        let apart = APART.iter().find(|apart| endpoint.is_none() && region.starts_with(**apart));
        let (bucket, prefix) = (self.bucket.clone(), self.prefix.clone());
        let region = apart.map(|apart| (*apart).to_owned());
        StoreUrl::S3(S3Place { bucket, prefix, endpoint, region, ..S3Place::default() }).to_string()
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let path = |p: &PathBuf| p.display().to_string();
        let all = [
            ("endpoint", self.endpoint.clone()),
            ("region", self.region.clone()),
            ("profile", self.profile.clone()),
            ("path_style", self.path_style.map(|b| b.to_string())),
            ("anonymous", self.anonymous.map(|b| b.to_string())),
            ("requester_pays", self.requester_pays.map(|b| b.to_string())),
            ("sse", self.sse.as_ref().map(Sse::to_string)),
            ("storage_class", self.storage_class.clone()),
            ("ca", self.ca.as_ref().map(path)),
            ("passwd_file", self.passwd_file.as_ref().map(path)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

impl StoreUrl {
    /// Parameters that name a file or a profile of the host which opens the store.
    fn taken_of_host(&self) -> Vec<(&'static str, String)> {
        let StoreUrl::S3(place) = self else { return Vec::new() };
        let is_of_host = |name: &str, value: &str| match name {
            "profile" | "ca" | "passwd_file" => true,
            _ => name == "sse" && value.starts_with("c:"),
        };
        place.parameters().into_iter().filter(|(name, value)| is_of_host(name, value)).collect()
    }

    /// Tells whether this URL, which somebody else wrote, uses no file and no profile of this host but those that a URL of
    /// `told`, by this host's own user, uses for the same endpoint. Else a key could go to whoever wrote it.
    pub fn is_covered_by(&self, told: &[StoreUrl]) -> bool {
        let taken = self.taken_of_host();
        let same_server = |told: &StoreUrl| match (self, told) {
            (StoreUrl::S3(a), StoreUrl::S3(b)) => a.endpoint == b.endpoint,
            _ => false,
        };
        let covers = |told: &StoreUrl| {
            let given = told.taken_of_host();
            same_server(told) && taken.iter().all(|parameter| given.contains(parameter))
        };
        taken.is_empty() || told.iter().any(covers)
    }

    /// Sets a parameter given apart from the URL (`-o NAME=VALUE`, a `[store.NAME]` section).
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match self {
            StoreUrl::S3(place) => place.set(name, value),
            _ => Err(usage(format!("{self} takes no parameter {name:?}: only s3:// stores do"))),
        }
    }

    /// Tells whether one place contains the other, or they are the same.
    pub fn overlaps(&self, other: &StoreUrl) -> bool {
        match (self, other) {
            (StoreUrl::File { dir: a }, StoreUrl::File { dir: b }) => {
                let (a, b) = (real(a), real(b));
                a.starts_with(&b) || b.starts_with(&a)
            }
            (StoreUrl::S3(a), StoreUrl::S3(b)) => {
                let within = |a: &str, b: &str| a.is_empty() || a == b || b.starts_with(&format!("{a}/"));
                a.bucket == b.bucket
                    && a.endpoint == b.endpoint
                    && (within(&a.prefix, &b.prefix) || within(&b.prefix, &a.prefix))
            }
            _ => self == other,
        }
    }

    /// Returns the places that contain this one, the nearest first. Of a folder, these are only what its path says once links
    /// are followed.
    pub fn above(&self) -> Vec<StoreUrl> {
        match self {
            StoreUrl::File { dir } => {
                let above = |dir: &Path| StoreUrl::File { dir: dir.to_owned() };
                real(dir).ancestors().skip(1).map(above).collect()
            }
            StoreUrl::S3(place) => {
                let above =
                    |prefix: &str| StoreUrl::S3(S3Place { prefix: prefix.to_owned(), ..place.clone() });
                let top = (!place.prefix.is_empty()).then(|| above(""));
                let cuts = place.prefix.rmatch_indices('/').map(|(at, _)| above(&place.prefix[..at]));
                cuts.chain(top).collect()
            }
            StoreUrl::Mem { .. } => Vec::new(),
        }
    }
}

/// Returns the path without symbolic links, as far as there is something.
fn real(dir: &Path) -> PathBuf {
    let there = |known: &Path| Some((known.canonicalize().ok()?, dir.strip_prefix(known).ok()?.to_owned()));
    let found = dir.ancestors().find_map(there);
    found.map_or_else(|| dir.to_owned(), |(real, rest)| real.components().chain(rest.components()).collect())
}

impl FromStr for StoreUrl {
    type Err = Error;
    fn from_str(s: &str) -> Result<StoreUrl> {
        if let Some(rest) = s.strip_prefix("s3://") {
            return Ok(StoreUrl::S3(S3Place::parse(rest)?));
        }
        if let Some(rest) = s.strip_prefix("file://") {
            if rest.contains('?') {
                return Err(usage(format!("{s} can't have parameters; write %3F for a question mark")));
            }
            let path = decoded(rest.strip_prefix("localhost").unwrap_or(rest))?;
            let dir = absolute("the folder of a file:// store", &path)?;
            return Ok(StoreUrl::File { dir });
        }
        if let Some(name) = s.strip_prefix("mem:") {
            return Ok(StoreUrl::Mem { name: decoded(name)? });
        }
        Err(usage(format!("{s:?} is not a store: write s3://BUCKET/PREFIX?endpoint=… or file:///FOLDER")))
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::File { dir } => write!(f, "file://{}", encoded(&dir.display().to_string(), &['?'])),
            StoreUrl::Mem { name } => write!(f, "mem:{}", encoded(name, &[])),
            StoreUrl::S3(place) => {
                write!(f, "s3://{}", place.bucket)?;
                if !place.prefix.is_empty() {
                    write!(f, "/{}", encoded(&place.prefix, &['?']))?;
                    // A slash at the end is dropped when it is read: one more keeps one that is part of the prefix.
                    f.write_str(if place.prefix.ends_with('/') { "/" } else { "" })?;
                }
                for (at, (name, value)) in place.parameters().iter().enumerate() {
                    let mark = if at == 0 { '?' } else { '&' };
                    write!(f, "{mark}{name}={}", encoded(value, &['&']))?;
                }
                Ok(())
            }
        }
    }
}

impl Serialize for StoreUrl {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StoreUrl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for StoreSpec {
    type Err = Error;
    fn from_str(s: &str) -> Result<StoreSpec> {
        let (url, zone) = s.split_once(",zone=").map_or((s, None), |(a, b)| (a, Some(b)));
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if let Some(zone) = zone
            && (zone.is_empty() || zone.len() > 63 || !zone.chars().all(fine))
        {
            return Err(usage(format!("zone={zone:?} must be 1 to 63 letters, digits, '.', '_' or '-'")));
        }
        Ok(StoreSpec { url: url.parse()?, zone: zone.map(str::to_owned) })
    }
}

impl fmt::Display for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)?;
        self.zone.as_ref().map_or(Ok(()), |zone| write!(f, ",zone={zone}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_of_this_host_goes_only_where_its_user_sent_it() {
        let url = |text: &str| text.parse::<StoreUrl>().unwrap();
        let told = [
            url("s3://a?endpoint=https://good&profile=p&sse=c:/key"),
            url("s3://b?passwd_file=/keys&ca=/ca"),
        ];
        for (listed, fine) in [
            ("file:///s", true),
            ("s3://b?endpoint=http://evil&region=r&sse=s3", true),
            ("s3://other?endpoint=https://good&profile=p&sse=c:/key&region=r", true),
            ("s3://other?endpoint=https://good&profile=p", true),
            ("s3://b/prefix?passwd_file=/keys", true),
            ("s3://a?endpoint=http://evil&sse=c:/key", false),
            ("s3://a?endpoint=http://good&sse=c:/key", false),
            ("s3://a?endpoint=https://good&sse=c:/other", false),
            ("s3://a?endpoint=https://good&profile=q", false),
            ("s3://a?endpoint=https://good&profile=p&passwd_file=/keys", false),
            ("s3://b?endpoint=http://evil&passwd_file=/keys", false),
            ("s3://a?endpoint=http://evil&ca=/ca", false),
            ("s3://a?sse=c:/key", false),
        ] {
            assert_eq!(url(listed).is_covered_by(&told), fine, "{listed}");
        }
    }

    #[test]
    fn urls_are_read() {
        let spec: StoreSpec =
            "s3://b/a/b/?endpoint=http://127.0.0.1:8333/&region=r&path_style=false&sse=kms:k,zone=eu-1"
                .parse()
                .unwrap();
        assert_eq!(spec.zone.as_deref(), Some("eu-1"));
        let StoreUrl::S3(place) = &spec.url else { panic!() };
        assert_eq!((place.bucket.as_str(), place.prefix.as_str()), ("b", "a/b"));
        assert_eq!(place.endpoint.as_deref(), Some("http://127.0.0.1:8333"));
        assert_eq!(place.path_style, Some(false));
        assert_eq!(place.sse, Some(Sse::Kms(Some("k".into()))));
        assert_eq!(
            "file:///tmp//x/".parse::<StoreUrl>().unwrap(),
            StoreUrl::File { dir: PathBuf::from("/tmp/x") }
        );
        assert_eq!("file:///tmp/x,zone=a".parse::<StoreSpec>().unwrap().zone.as_deref(), Some("a"));
        assert_eq!("file:///a%20b".parse::<StoreUrl>().unwrap().to_string(), "file:///a b");
    }

    #[test]
    fn what_is_no_url_says_so() {
        for bad in [
            "",
            "http://x",
            "file://x",
            "file:///x?y=1",
            "s3://",
            "s3://b?access_key=k",
            "s3://b?endpoint=ftp://x",
            "s3://b?endpoint=http://user@x",
            "s3://b?region=",
            "s3://b?sse=x",
            "s3://b?ca=rel",
            "s3://b?passwd_file=rel",
            "s3://b?path_style=maybe",
            "s3://b?anonymous=maybe",
            "s3://b?requester_pays=maybe",
            "s3://b,zone=",
            "s3://b,zone=a/b",
        ] {
            assert_eq!(bad.parse::<StoreSpec>().unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn places_overlap_when_one_holds_the_other() {
        let overlap =
            |a: &str, b: &str| a.parse::<StoreUrl>().unwrap().overlaps(&b.parse::<StoreUrl>().unwrap());
        assert!(overlap("file:///no/a", "file:///no/a/s1"));
        assert!(overlap("file:///no/a/s1/c-00", "file:///no/a/s1"));
        assert!(!overlap("file:///no/a", "file:///no/ab"));
        assert!(overlap("s3://b", "s3://b/pool"));
        assert!(overlap("s3://b/pool/x", "s3://b/pool"));
        assert!(!overlap("s3://b/poo", "s3://b/pool"));
        assert!(!overlap("s3://b/pool?endpoint=http://h", "s3://b/pool"));
        assert!(!overlap("s3://c/pool", "s3://b/pool"));
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        let url = |path: &str| format!("file://{}", dir.path().join(path).display());
        assert!(overlap(&url("link/s/none"), &url("s")), "one that isn't there yet, behind a link");
    }

    #[test]
    fn how_objects_are_reached_does_not_make_them_others() {
        let identity = |url: &str, endpoint: Option<&str>, region: &str| {
            let StoreUrl::S3(place) = url.parse::<StoreUrl>().unwrap() else { panic!() };
            place.identity(endpoint, region)
        };
        let options = "region=r&profile=p&path_style=true&anonymous=true&requester_pays=true&sse=s3&ca=/c&passwd_file=/p";
        let plain = identity("s3://b/x", None, "eu-1");
        assert_eq!(identity(&format!("s3://b/x?{options}&storage_class=GLACIER_IR"), None, "r"), plain);
        let at = Some("http://h/v1/");
        assert_eq!(
            identity("s3://b/x?endpoint=http://h/v1", at, "r"),
            identity("s3://b/x?profile=h", at, "q")
        );
        let others = [
            identity("s3://b/x?profile=h", at, "eu-1"),
            identity("s3://b/y", None, "eu-1"),
            identity("s3://c/x", None, "eu-1"),
            identity("s3://b/x", None, "cn-north-1"),
        ];
        assert!(others.iter().all(|other| *other != plain), "{others:?} are not {plain}");
        assert_eq!(identity("s3://b/x", None, "cn-northwest-1"), others[3]);
    }

    #[test]
    fn the_places_above_are_told() {
        let above = |url: &str| -> Vec<String> {
            url.parse::<StoreUrl>().unwrap().above().iter().map(ToString::to_string).collect()
        };
        assert_eq!(above("file:///no/a/s1"), ["file:///no/a", "file:///no", "file:///"]);
        let s3 = above("s3://b/x/y/z?region=r");
        assert_eq!(s3, ["s3://b/x/y?region=r", "s3://b/x?region=r", "s3://b?region=r"]);
        assert!(above("s3://b").is_empty() && above("mem:a").is_empty());
    }

    proptest! {
        #[test]
        fn urls_print_as_they_read(
            prefix in "[^\0]{0,12}",
            region in proptest::option::of("[^\0]{1,12}"),
            file in "/[^\0]{0,20}",
            zone in proptest::option::of("[a-z0-9]{1,5}"),
        ) {
            let s3 = StoreUrl::S3(S3Place { bucket: "b".into(), prefix, region, ..S3Place::default() });
            let file = StoreUrl::File { dir: absolute("", &file).unwrap() };
            for url in [s3, file] {
                let spec = StoreSpec { url, zone: zone.clone() };
                prop_assert_eq!(spec.to_string().parse::<StoreSpec>().unwrap(), spec);
            }
        }

        #[test]
        fn no_text_breaks_the_parser(text in ".{0,60}") {
            let _ = text.parse::<StoreSpec>();
            let _ = format!("s3://b/{text}").parse::<StoreSpec>();
            let _ = format!("file:///{text}").parse::<StoreSpec>();
        }
    }
}
