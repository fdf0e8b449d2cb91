//! `windlass policy` and `windlass pool policy`: the least rights that a pool or a mount needs at S3, as an IAM policy.
//!
//! Listing is allowed on the whole bucket, without a condition on prefixes: only who may list a bucket is told that an
//! object is *not there*; everybody else is told that access is denied, and a store that says so is down.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Global, output, reach_engine};
use crate::daemon::answers::PoolAnswer;
use crate::daemon::api::Verb;
use windlass_base::{Error, Kind, Name, Result};
use windlass_store::{S3Place, Sse, StoreSpec, StoreUrl};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Purpose {
    Pool,
    Mount,
}

/// Who gets the rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Role {
    /// Who serves, repairs and collects
    #[default]
    Writer,
    /// Who only reads: exports, restores, `pool scrub`
    Reader,
    /// Who writes and deletes nothing: objects that nobody needs then stay in the bucket
    NoDelete,
    /// As `writer`, in buckets that keep versions: what this host deletes or overwrites stays there as a version, which it can't
    /// remove, nor end that
    KeepVersions,
}

impl Role {
    fn writes(self) -> bool {
        self != Role::Reader
    }

    fn deletes(self) -> bool {
        matches!(self, Role::Writer | Role::KeepVersions)
    }
}

#[derive(Args, Debug)]
pub struct Policy {
    /// What the rights are for
    #[arg(value_enum)]
    purpose: Purpose,
    /// s3:// URLs, or [store.NAME]s of windlass.toml
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,
    /// Who gets them
    #[arg(long = "as", value_enum, value_name = "ROLE", default_value_t)]
    role: Role,
}

#[derive(Args, Debug)]
pub struct PoolPolicy {
    name: Name,
    /// Who gets the rights
    #[arg(long = "as", value_enum, value_name = "ROLE", default_value_t)]
    role: Role,
}

/// Prints a policy. It asks nobody and needs no engine.
pub async fn run(global: &Global, args: Policy) -> Result<ExitCode> {
    let config = reach_engine::config(global).await?;
    let urls = args.urls.iter().map(|given| config.store_url(given)).collect::<Result<Vec<_>>>()?;
    print(args.purpose, args.role, &urls)
}

/// Prints the policy for the stores that the pool has by now.
pub async fn run_for_pool(global: &Global, args: PoolPolicy) -> Result<ExitCode> {
    let answer: PoolAnswer =
        reach_engine::ask(global, Verb::PoolStatus { name: args.name, walk: false }).await?.answer()?;
    let urls: Vec<String> = answer.status.stores.into_iter().map(|store| store.url).collect();
    print(Purpose::Pool, args.role, &urls)
}

fn print(purpose: Purpose, role: Role, urls: &[String]) -> Result<ExitCode> {
    let place = |url: &String| match url.parse::<StoreSpec>()?.url {
        StoreUrl::S3(place) => Ok(place),
        other => Err(Error::new(
            Kind::Usage,
            format!("{other} has no IAM policy: who may read and write that folder may use it"),
        )),
    };
    let places = urls.iter().map(place).collect::<Result<Vec<_>>>()?;
    let text = serde_json::to_string_pretty(&policy(purpose, role, &places))
        .map_err(|e| Error::new(Kind::Internal, "a policy cannot be written as JSON").because(e))?;
    output::line(&text);
    Ok(ExitCode::SUCCESS)
}

/// Actions that take versions away, or that end their being kept. They are denied by name, so that no other
/// policy of the same user allows them.
const ENDS_VERSIONS: [&str; 12] = [
    "s3:DeleteObjectVersion",
    "s3:BypassGovernanceRetention",
    "s3:PutObjectRetention",
    "s3:PutObjectLegalHold",
    "s3:PutBucketObjectLockConfiguration",
    "s3:PutBucketVersioning",
    "s3:PutLifecycleConfiguration",
    "s3:PutReplicationConfiguration",
    "s3:PutBucketPolicy",
    "s3:DeleteBucketPolicy",
    "s3:DeleteBucket",
    "s3:PutBucketAcl",
];

fn policy(purpose: Purpose, role: Role, places: &[S3Place]) -> Value {
    let mut buckets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for place in places {
        let slash = if place.prefix.is_empty() { "" } else { "/" };
        let objects = format!("arn:aws:s3:::{}/{}{slash}*", place.bucket, place.prefix);
        buckets.entry(format!("arn:aws:s3:::{}", place.bucket)).or_default().push(objects);
    }
    // Only mounts send large objects in parts; `unmount` and a later mount clear away what was broken off.
    let parts = role.writes() && purpose == Purpose::Mount;
    let mut list = vec!["s3:ListBucket"];
    let mut objects = vec!["s3:GetObject"];
    if role.writes() {
        objects.push("s3:PutObject");
    }
    if role.deletes() {
        objects.push("s3:DeleteObject");
    }
    if parts {
        list.push("s3:ListBucketMultipartUploads");
        objects.push("s3:AbortMultipartUpload");
    }
    let names: Vec<&String> = buckets.keys().collect();
    let below: Vec<&String> = buckets.values().flatten().collect();
    let mut statements = vec![
        json!({"Sid": "List", "Effect": "Allow", "Action": list, "Resource": names}),
        json!({"Sid": "Objects", "Effect": "Allow", "Action": objects, "Resource": below}),
    ];
    let keys = keys(places);
    if !keys.is_empty() {
        let verbs =
            if role.writes() { vec!["kms:Decrypt", "kms:GenerateDataKey"] } else { vec!["kms:Decrypt"] };
        statements.push(json!({"Sid": "Keys", "Effect": "Allow", "Action": verbs, "Resource": keys}));
    }
    if role == Role::KeepVersions {
        let all: Vec<String> =
            buckets.keys().flat_map(|bucket| [bucket.clone(), format!("{bucket}/*")]).collect();
        statements
            .push(json!({"Sid": "KeepVersions", "Effect": "Deny", "Action": ENDS_VERSIONS, "Resource": all}));
    }
    json!({"Version": "2012-10-17", "Statement": statements})
}

/// Returns the KMS keys that are named. The store's default key needs no statement.
fn keys(places: &[S3Place]) -> Vec<String> {
    let named = |place: &S3Place| match &place.sse {
        Some(Sse::Kms(Some(key))) if key.starts_with("arn:") => Some(key.clone()),
        Some(Sse::Kms(Some(key))) => Some(format!("arn:aws:kms:*:*:key/{key}")),
        _ => None,
    };
    let mut keys: Vec<String> = places.iter().filter_map(named).collect();
    keys.sort();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(purpose: Purpose, role: Role, urls: &[&str]) -> Value {
        let place = |url: &&str| match url.parse::<StoreUrl>().unwrap() {
            StoreUrl::S3(place) => place,
            other => panic!("{other}"),
        };
        policy(purpose, role, &urls.iter().map(place).collect::<Vec<_>>())
    }

    #[test]
    fn each_purpose_gets_what_it_needs_and_no_more() {
        let urls = ["s3://one/tank/a?region=x", "s3://one/tank/b", "s3://two"];
        let full = of(Purpose::Pool, Role::Writer, &urls);
        assert_eq!(
            full,
            json!({"Version": "2012-10-17", "Statement": [
                {"Sid": "List", "Effect": "Allow", "Action": ["s3:ListBucket"],
                 "Resource": ["arn:aws:s3:::one", "arn:aws:s3:::two"]},
                {"Sid": "Objects", "Effect": "Allow",
                 "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
                 "Resource": ["arn:aws:s3:::one/tank/a/*", "arn:aws:s3:::one/tank/b/*", "arn:aws:s3:::two/*"]},
            ]})
        );
        let actions = |policy: &Value, at: usize| policy["Statement"][at]["Action"].to_string();
        let read = of(Purpose::Pool, Role::Reader, &urls);
        assert_eq!(actions(&read, 1), r#"["s3:GetObject"]"#);
        let kept = of(Purpose::Pool, Role::NoDelete, &urls);
        assert_eq!(actions(&kept, 1), r#"["s3:GetObject","s3:PutObject"]"#);
        let mount = of(Purpose::Mount, Role::Writer, &urls[..1]);
        assert_eq!(actions(&mount, 0), r#"["s3:ListBucket","s3:ListBucketMultipartUploads"]"#);
        assert!(actions(&mount, 1).ends_with(r#""s3:DeleteObject","s3:AbortMultipartUpload"]"#));
        assert_eq!(of(Purpose::Mount, Role::Reader, &urls), read, "reading is the same");
        let versions = of(Purpose::Pool, Role::KeepVersions, &urls);
        assert_eq!(versions["Statement"][1], full["Statement"][1]);
        let deny = &versions["Statement"][2];
        assert_eq!(deny["Effect"], "Deny");
        assert!(actions(&versions, 2).contains("s3:DeleteObjectVersion"));
        let all = ["arn:aws:s3:::one", "arn:aws:s3:::one/*", "arn:aws:s3:::two", "arn:aws:s3:::two/*"];
        assert_eq!(deny["Resource"], json!(all));
        let nothing = full.to_string();
        assert!(!nothing.contains("s3:*") && !nothing.contains(r#""*""#));
    }

    #[test]
    fn keys_that_are_named_may_be_used() {
        let url = "s3://b/p?sse=kms:arn:aws:kms:eu-west-1:1:key/k";
        let policy = of(Purpose::Pool, Role::Writer, &[url, url]);
        let keys = &policy["Statement"][2];
        assert_eq!(keys["Resource"], json!(["arn:aws:kms:eu-west-1:1:key/k"]));
        assert_eq!(keys["Action"], json!(["kms:Decrypt", "kms:GenerateDataKey"]));
        let policy = of(Purpose::Pool, Role::Reader, &["s3://b/p?sse=kms:1-2"]);
        assert_eq!(policy["Statement"][2]["Resource"], json!(["arn:aws:kms:*:*:key/1-2"]));
        assert_eq!(policy["Statement"][2]["Action"], json!(["kms:Decrypt"]));
    }
}
