//! Keys that a process is given while it runs, beside those that the AWS chain finds: by `windlass credentials`, by a file in the
//! state folder, by systemd. Stores ask here before they look anywhere else, and go on with new keys without being opened anew.
//!
//! A process has one keyring: whatever opens a store in it finds the keys that the process was given. Nothing here writes
//! keys anywhere, and no `Debug` and no error shows a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::url::{S3Place, StoreUrl};
use windlass_base::{Error, Kind, Result};

/// Prefix of a profile's name, where a target of keys is written.
const PROFILE: &str = "profile:";
/// The profile of stores that name none.
const DEFAULT_PROFILE: &str = "default";
/// Longest text of keys, in bytes.
pub const KEYS_TEXT_MAX: usize = 64 << 10;

/// An access key and its secret, perhaps for a while only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessKeys {
    pub id: String,
    pub secret: String,
    /// The session token of keys that end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When they end, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

impl fmt::Debug for AccessKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessKeys({})", self.id)
    }
}

fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what)
}

/// The names that a key, its secret, its token and its end have in files of AWS and in the environment, in small letters
/// without `_`.
const NAMES: [&[&str]; 4] = [
    &["awsaccesskeyid", "accesskeyid"],
    &["awssecretaccesskey", "awssecretkey", "secretaccesskey"],
    &["awssessiontoken", "awssecuritytoken", "sessiontoken"],
    &["expiration"],
];

impl AccessKeys {
    /// Reads keys as people and tools hand them on: `ACCESS:SECRET[:TOKEN]`; lines `aws_access_key_id = …` as in files of AWS,
    /// or `AWS_ACCESS_KEY_ID=…` as in the environment; JSON as `aws sts` and a `credential_process` print it.
    ///
    /// # Errors
    /// `Usage`, without a word of the text.
    pub fn parse(text: &str) -> Result<AccessKeys> {
        let text = text.trim();
        if text.starts_with('{') {
            return AccessKeys::of_json(text);
        }
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
        let is_triple = |line: &str| match (line.find(':'), line.find('=')) {
            (Some(colon), Some(equals)) => colon < equals,
            (_, equals) => equals.is_none(),
        };
        if let [line] = lines[..]
            && is_triple(line)
        {
            return AccessKeys::of_line(line);
        }
        if lines.iter().filter(|line| line.starts_with('[')).count() > 1 {
            return Err(usage("the text has several profiles: give one of them alone"));
        }
        let pairs = lines.iter().filter(|line| !line.starts_with('[')).map(|line| {
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = line.split_once('=').ok_or_else(unreadable)?;
            Ok((name.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned()))
        });
        AccessKeys::of_pairs(pairs.collect::<Result<Vec<_>>>()?)
    }

    /// Reads keys from the environment, where they are named as AWS tools name them.
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Result<AccessKeys> {
        let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
        let pairs = names
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), variable(name).filter(|v| !v.is_empty())?)));
        AccessKeys::of_pairs(pairs.collect()).map_err(|_| {
            usage("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of this command")
        })
    }

    fn of_line(line: &str) -> Result<AccessKeys> {
        let mut parts = line.splitn(3, ':').map(str::to_owned);
        let (id, secret, token) = (parts.next(), parts.next(), parts.next());
        AccessKeys::checked(id.zip(secret), token, None)
    }

    fn of_json(text: &str) -> Result<AccessKeys> {
        let value: Value = serde_json::from_str(text).map_err(|_| unreadable())?;
        let within = value.get("Credentials").or_else(|| value.get("AccessKey")).unwrap_or(&value);
        let object = within.as_object().ok_or_else(unreadable)?;
        let pair = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
        AccessKeys::of_pairs(object.iter().filter_map(pair).collect())
    }

    fn of_pairs(pairs: Vec<(String, String)>) -> Result<AccessKeys> {
        let mut found: [Option<String>; 4] = Default::default();
        for (name, value) in pairs {
            let name = name.to_ascii_lowercase().replace('_', "");
            if let Some(at) = NAMES.iter().position(|names| names.contains(&name.as_str())) {
                found[at] = Some(value);
            }
        }
        let [id, secret, token, expires] = found;
        AccessKeys::checked(id.zip(secret), token, expires)
    }

    fn checked(
        keys: Option<(String, String)>,
        token: Option<String>,
        expires: Option<String>,
    ) -> Result<AccessKeys> {
        let (id, secret) = keys.ok_or_else(unreadable)?;
        let is_word =
            |word: &str| !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control());
        if ![&id, &secret].into_iter().chain(&token).all(|word| is_word(word)) {
            return Err(unreadable());
        }
        let expires_ms = expires.map(|text| moment(&text)).transpose()?;
        Ok(AccessKeys { id, secret, token, expires_ms })
    }
}

fn moment(text: &str) -> Result<u64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok();
    let ms = at.and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
    ms.ok_or_else(|| {
        usage("the time at which the keys expire can't be read: write it as 2026-01-31T12:00:00Z")
    })
}

fn unreadable() -> Error {
    usage(
        "the text is not a key and its secret: write ACCESS:SECRET or ACCESS:SECRET:TOKEN, the lines aws_access_key_id=… and \
         aws_secret_access_key=…, or JSON as `aws sts` prints it",
    )
}

/// The stores that keys are for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum KeyTarget {
    /// All stores with this `profile=`; `default`: and those that name neither a profile nor a file of keys.
    Profile(String),
    /// All stores at a place or below it, at that server alone.
    Place { endpoint: Option<String>, bucket: String, prefix: String },
}

impl KeyTarget {
    pub fn of(place: &S3Place) -> KeyTarget {
        KeyTarget::Place {
            endpoint: place.endpoint.clone(),
            bucket: place.bucket.clone(),
            prefix: place.prefix.clone(),
        }
    }

    /// Returns the target's rank for a store that takes these keys, else `None`. Of several targets, the keys of the highest
    /// rank count.
    fn rank(&self, place: &S3Place) -> Option<usize> {
        let covers = match self {
            KeyTarget::Profile(name) => match &place.profile {
                Some(its) => its == name,
                None => name == DEFAULT_PROFILE && place.passwd_file.is_none(),
            },
            KeyTarget::Place { endpoint, bucket, prefix } => {
                let rest = place.prefix.strip_prefix(prefix.as_str());
                let is_within =
                    rest.is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'));
                *endpoint == place.endpoint && *bucket == place.bucket && is_within
            }
        };
        covers.then_some(match self {
            KeyTarget::Profile(_) => 0,
            KeyTarget::Place { prefix, .. } => 1 + prefix.len(),
        })
    }

    pub fn covers(&self, place: &S3Place) -> bool {
        self.rank(place).is_some()
    }
}

impl FromStr for KeyTarget {
    type Err = Error;
    fn from_str(text: &str) -> Result<KeyTarget> {
        if let Some(name) = text.strip_prefix(PROFILE) {
            return match name.is_empty() || name.contains(char::is_control) {
                true => Err(usage(format!("{text:?} names no profile: write {PROFILE}NAME"))),
                false => Ok(KeyTarget::Profile(name.to_owned())),
            };
        }
        match text.parse()? {
            StoreUrl::S3(place) => Ok(KeyTarget::of(&place)),
            other => Err(usage(format!("{other} takes no credentials: only s3:// stores do"))),
        }
    }
}

impl fmt::Display for KeyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyTarget::Profile(name) => write!(f, "{PROFILE}{name}"),
            KeyTarget::Place { endpoint, bucket, prefix } => {
                let (endpoint, bucket, prefix) = (endpoint.clone(), bucket.clone(), prefix.clone());
                StoreUrl::S3(S3Place { endpoint, bucket, prefix, ..S3Place::default() }).fmt(f)
            }
        }
    }
}

/// The giver of keys. Of several for one target, the first in this order counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeySource {
    /// A command, to this process alone.
    Memory,
    /// A command, and the state folder keeps them.
    Kept,
    /// systemd, when it started the process.
    Systemd,
}

/// The keys that a process was given while it runs, and the open stores that may take them.
#[derive(Debug)]
pub struct Keyring {
    keys: RwLock<BTreeMap<(KeyTarget, KeySource), AccessKeys>>,
    /// Number that changes with what is in the keyring. What was found before it changed is looked for anew.
    version: AtomicU64,
    /// The stores that are open.
    users: Mutex<Vec<Weak<S3Place>>>,
    /// The name of this process, for messages.
    looker: OnceLock<String>,
}

static KEYRING: Keyring = Keyring::new();

/// Returns this process's keyring.
pub fn keyring() -> &'static Keyring {
    &KEYRING
}

impl Keyring {
    const fn new() -> Keyring {
        Keyring {
            keys: RwLock::new(BTreeMap::new()),
            version: AtomicU64::new(0),
            users: Mutex::new(Vec::new()),
            looker: OnceLock::new(),
        }
    }

    /// Says which process this is, for whoever reads that it found no keys.
    pub fn looks_as(&self, looker: &str) {
        let _ = self.looker.set(format!("{looker} (process {})", std::process::id()));
    }

    /// Names who looks for keys here: "the daemon (process 7)".
    pub fn looker(&self) -> String {
        self.looker.get().cloned().unwrap_or_else(|| "this command".to_owned())
    }

    /// Returns the version of what is in the keyring. It is read before the keys: who finds it unchanged has the newest.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Makes all stores look for their keys anew, also in files.
    pub fn renew(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    pub fn set(&self, target: KeyTarget, source: KeySource, keys: AccessKeys) {
        // The keys first: who reads the new version must not find the old keys, which would count as the newest.
        self.keys.write().insert((target, source), keys);
        self.renew();
    }

    /// Removes all keys of a target; returns whether there were any.
    pub fn remove(&self, target: &KeyTarget) -> bool {
        let mut keys = self.keys.write();
        let before = keys.len();
        keys.retain(|(its, _), _| its != target);
        let removed = keys.len() < before;
        drop(keys);
        self.renew();
        removed
    }

    /// Forgets what one source gave for a target.
    pub fn forget(&self, target: &KeyTarget, source: KeySource) {
        self.keys.write().remove(&(target.clone(), source));
        self.renew();
    }

    /// Takes all that one source has in place of what it had.
    pub fn replace(&self, source: KeySource, new: BTreeMap<KeyTarget, AccessKeys>) {
        let mut keys = self.keys.write();
        keys.retain(|(_, its), _| *its != source);
        keys.extend(new.into_iter().map(|(target, new)| ((target, source), new)));
        drop(keys);
        self.renew();
    }

    /// Returns the keys that count for each target.
    pub fn list(&self) -> Vec<(KeyTarget, KeySource, AccessKeys)> {
        let mut all: Vec<(KeyTarget, KeySource, AccessKeys)> = Vec::new();
        for ((target, source), keys) in &*self.keys.read() {
            if all.last().is_none_or(|(last, ..)| last != target) {
                all.push((target.clone(), *source, keys.clone()));
            }
        }
        all
    }

    /// Returns the keys that the state folder keeps.
    pub fn kept(&self) -> BTreeMap<KeyTarget, AccessKeys> {
        let keys = self.keys.read();
        let kept = keys.iter().filter(|((_, source), _)| *source == KeySource::Kept);
        kept.map(|((target, _), keys)| (target.clone(), keys.clone())).collect()
    }

    /// Returns the keys for a store, and the target for which they were given.
    pub fn find(&self, place: &S3Place) -> Option<(KeyTarget, AccessKeys)> {
        let keys = self.keys.read();
        let ranked = keys.iter().filter_map(|((target, source), keys)| {
            Some(((target.rank(place)?, std::cmp::Reverse(*source)), target, keys))
        });
        ranked.max_by_key(|(rank, ..)| *rank).map(|(_, target, keys)| (target.clone(), keys.clone()))
    }

    /// Notes a store as open, until its place is dropped.
    pub fn join(&self, place: &Arc<S3Place>) {
        let mut users = self.users.lock();
        users.retain(|user| user.strong_count() > 0);
        users.push(Arc::downgrade(place));
    }

    /// Returns the open stores that would take keys given to `target`, each place once.
    pub fn users_of(&self, target: &KeyTarget) -> BTreeSet<S3Place> {
        let open: Vec<Arc<S3Place>> = self.users.lock().iter().filter_map(Weak::upgrade).collect();
        let takes = |place: &S3Place| {
            let rank = target.rank(place);
            rank.is_some()
                && self.find(place).is_none_or(|(other, _)| other == *target || other.rank(place) < rank)
        };
        let signed = open.iter().filter(|place| place.anonymous != Some(true));
        signed.filter(|place| takes(place)).map(|place| (**place).clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(id: &str) -> AccessKeys {
        AccessKeys { id: id.into(), secret: "hush".into(), token: None, expires_ms: None }
    }

    fn place(url: &str) -> S3Place {
        match url.parse().unwrap() {
            StoreUrl::S3(place) => place,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn keys_are_read_in_the_forms_that_tools_write() {
        let env = "export AWS_ACCESS_KEY_ID=\"A\"\nexport AWS_SECRET_ACCESS_KEY='S=+/'\n";
        let sts = r#"{"Credentials": {"AccessKeyId": "A", "SecretAccessKey": "S", "SessionToken": "T",
            "Expiration": "2026-01-31T12:00:00+00:00"}, "AssumedRoleUser": {"Arn": "x"}}"#;
        let process = r#"{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "S"}"#;
        for (text, wanted) in [
            ("A:S", "A/S//"),
            ("\nA:S:T\n", "A/S/T/"),
            ("A:S=\n", "A/S=//"),
            ("[east]\naws_access_key_id = A\naws_secret_access_key = S\nregion = r\n", "A/S//"),
            ("# ours\naws_access_key_id=A\naws_secret_access_key=S\naws_session_token=T\n", "A/S/T/"),
            (env, "A/S=+///"),
            (process, "A/S//"),
            (sts, "A/S/T/1769860800000"),
        ] {
            let read = AccessKeys::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let end = read.expires_ms.map(|ms| ms.to_string()).unwrap_or_default();
            let shown = format!("{}/{}/{}/{end}", read.id, read.secret, read.token.unwrap_or_default());
            assert_eq!(shown, wanted, "{text}");
        }
        for text in [
            "",
            "HUSH",
            ":HUSH",
            "HUSH:",
            "A:HU SH",
            "aws_secret_access_key=HUSH",
            "[a]\naws_access_key_id=A\naws_secret_access_key=HUSH\n[b]\naws_access_key_id=B\n",
            "{\"HUSH\"",
            "{\"SecretAccessKey\": \"HUSH\"}",
            "AWS_ACCESS_KEY_ID=A\nHUSH",
            r#"{"AccessKeyId": "A", "SecretAccessKey": "S", "Expiration": "HUSH"}"#,
        ] {
            let why = AccessKeys::parse(text).unwrap_err();
            assert!(why.is(Kind::Usage) && !why.to_string().contains("HUSH"), "{text}: {why}");
        }
        assert!(!format!("{:?}", AccessKeys::parse("A:HUSH:HUSH").unwrap()).contains("HUSH"));
    }

    #[test]
    fn the_environment_has_both_or_none() {
        let of = |given: &[(&str, &str)]| {
            AccessKeys::of_environment(|name| {
                given.iter().find(|(its, _)| *its == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "S")]).unwrap().id, "A");
        let why = of(&[("AWS_SECRET_ACCESS_KEY", "HUSH")]).unwrap_err().to_string();
        assert!(why.contains("AWS_ACCESS_KEY_ID") && !why.contains("HUSH"), "{why}");
    }

    #[test]
    fn a_store_takes_the_keys_that_name_it_most_closely() {
        let ring = Keyring::new();
        let target = |text: &str| text.parse::<KeyTarget>().unwrap();
        let id = |url: &str| ring.find(&place(url)).map(|(_, keys)| keys.id);
        for text in ["profile:p", "profile:default", "s3://b", "s3://b/x", "s3://b/x/y?endpoint=http://h"] {
            ring.set(target(text), KeySource::Memory, keys(text));
        }
        for (url, wanted) in [
            ("s3://b/x/y", Some("s3://b/x")),
            ("s3://b/x?profile=p&region=r", Some("s3://b/x")),
            ("s3://b/xy", Some("s3://b")),
            ("s3://b", Some("s3://b")),
            ("s3://c?profile=p", Some("profile:p")),
            ("s3://c?profile=q", None),
            ("s3://c", Some("profile:default")),
            ("s3://c?passwd_file=/keys", None),
            ("s3://b/x/y/z?endpoint=http://h", Some("s3://b/x/y?endpoint=http://h")),
            ("s3://b/x/y/z?endpoint=http://evil&profile=q", None),
        ] {
            assert_eq!(id(url).as_deref(), wanted, "{url}");
        }
        for text in ["s3://b/x?endpoint=http://h", "profile:p"] {
            assert_eq!(target(text).to_string(), text);
        }
        for text in ["profile:", "file:///x", "mem:x", "east"] {
            assert!(text.parse::<KeyTarget>().unwrap_err().is(Kind::Usage), "{text}");
        }
    }

    #[test]
    fn what_a_command_gave_counts_before_what_is_kept() {
        let ring = Keyring::new();
        let target = KeyTarget::Profile("p".into());
        let id = || ring.find(&place("s3://b?profile=p")).map(|(_, keys)| keys.id);
        let all = |id: &str| BTreeMap::from([(target.clone(), keys(id))]);
        let before = ring.version();
        ring.replace(KeySource::Systemd, all("systemd"));
        assert_eq!(id().as_deref(), Some("systemd"));
        ring.replace(KeySource::Kept, all("kept"));
        ring.set(target.clone(), KeySource::Memory, keys("memory"));
        assert_eq!(id().as_deref(), Some("memory"));
        assert_eq!(ring.list().len(), 1);
        ring.replace(KeySource::Kept, BTreeMap::new());
        assert_eq!(id().as_deref(), Some("memory"));
        assert!(ring.remove(&target) && !ring.remove(&target));
        assert_eq!(id(), None);
        assert!(ring.version() > before);
    }

    #[test]
    fn the_users_of_keys_are_told() {
        let ring = Keyring::new();
        let open: Vec<Arc<S3Place>> =
            ["s3://b/x?profile=p", "s3://c?profile=p", "s3://d?profile=p&anonymous=true"]
                .map(|url| Arc::new(place(url)))
                .into();
        open.iter().for_each(|place| ring.join(place));
        let users = |target: &str| ring.users_of(&target.parse().unwrap()).len();
        assert_eq!((users("profile:p"), users("s3://b"), users("profile:q")), (2, 1, 0));
        ring.set("s3://b".parse().unwrap(), KeySource::Memory, keys("b"));
        assert_eq!((users("profile:p"), users("s3://b/x"), users("s3://b")), (1, 1, 1));
        drop(open);
        assert_eq!(users("s3://b"), 0);
    }
}
