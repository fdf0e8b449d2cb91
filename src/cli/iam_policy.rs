//! `windlass policy`: the least rights that a pool or a mount needs at S3, as an IAM policy.
//!
//! Listing is allowed on the whole bucket, without a condition on prefixes: only who may list a bucket is told that an
//! object is *not there*; everybody else is told that access is denied, and a store that says so is down.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Global, output, reach_engine};
use crate::base::{Error, Kind, Result};
use crate::store::{S3Place, Sse, StoreSpec, StoreUrl};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Purpose {
    Pool,
    Mount,
}

#[derive(Args, Debug)]
pub struct Policy {
    /// What the rights are for
    #[arg(value_enum)]
    purpose: Purpose,
    /// s3:// URLs, or [store.NAME]s of windlass.toml
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,
    /// Only the rights that reading needs
    #[arg(long)]
    read_only: bool,
    /// Leave out the right to delete: objects that nobody needs then stay in the bucket
    #[arg(long, conflicts_with = "read_only")]
    no_delete: bool,
}

/// Asks nobody and needs no engine.
pub async fn run(global: &Global, args: Policy) -> Result<ExitCode> {
    let config = reach_engine::config(global).await?;
    let place = |given: &String| match config.store_url(given)?.parse::<StoreSpec>()?.url {
        StoreUrl::S3(place) => Ok(place),
        other => Err(Error::new(
            Kind::Usage,
            format!("{other} has no IAM policy: who may read and write that folder may use it"),
        )),
    };
    let places = args.urls.iter().map(place).collect::<Result<Vec<_>>>()?;
    let text = serde_json::to_string_pretty(&policy(&args, &places))
        .map_err(|e| Error::new(Kind::Internal, "a policy cannot be written as JSON").because(e))?;
    output::line(&text);
    Ok(ExitCode::SUCCESS)
}

fn policy(args: &Policy, places: &[S3Place]) -> Value {
    let writes = !args.read_only;
    let mut buckets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for place in places {
        let slash = if place.prefix.is_empty() { "" } else { "/" };
        let objects = format!("arn:aws:s3:::{}/{}{slash}*", place.bucket, place.prefix);
        buckets.entry(format!("arn:aws:s3:::{}", place.bucket)).or_default().push(objects);
    }
    // Only mounts send large objects in parts; `unmount` and a later mount clear away what was broken off.
    let parts = writes && args.purpose == Purpose::Mount;
    let mut list = vec!["s3:ListBucket"];
    let mut objects = vec!["s3:GetObject"];
    if writes {
        objects.push("s3:PutObject");
    }
    if writes && !args.no_delete {
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
        let verbs = if writes { vec!["kms:Decrypt", "kms:GenerateDataKey"] } else { vec!["kms:Decrypt"] };
        statements.push(json!({"Sid": "Keys", "Effect": "Allow", "Action": verbs, "Resource": keys}));
    }
    json!({"Version": "2012-10-17", "Statement": statements})
}

/// The KMS keys that are named; the store's default key needs no statement.
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

    fn of(purpose: Purpose, read_only: bool, no_delete: bool, urls: &[&str]) -> Value {
        let args = Policy { purpose, urls: Vec::new(), read_only, no_delete };
        let place = |url: &&str| match url.parse::<StoreUrl>().unwrap() {
            StoreUrl::S3(place) => place,
            other => panic!("{other}"),
        };
        policy(&args, &urls.iter().map(place).collect::<Vec<_>>())
    }

    #[test]
    fn each_purpose_gets_what_it_needs_and_no_more() {
        let urls = ["s3://one/tank/a?region=x", "s3://one/tank/b", "s3://two"];
        let full = of(Purpose::Pool, false, false, &urls);
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
        let read = of(Purpose::Pool, true, false, &urls);
        assert_eq!(actions(&read, 1), r#"["s3:GetObject"]"#);
        let kept = of(Purpose::Pool, false, true, &urls);
        assert_eq!(actions(&kept, 1), r#"["s3:GetObject","s3:PutObject"]"#);
        let mount = of(Purpose::Mount, false, false, &urls[..1]);
        assert_eq!(actions(&mount, 0), r#"["s3:ListBucket","s3:ListBucketMultipartUploads"]"#);
        assert!(actions(&mount, 1).ends_with(r#""s3:DeleteObject","s3:AbortMultipartUpload"]"#));
        assert_eq!(of(Purpose::Mount, true, false, &urls), read, "reading is the same");
        let nothing = full.to_string();
        assert!(!nothing.contains("s3:*") && !nothing.contains(r#""*""#));
    }

    #[test]
    fn keys_that_are_named_may_be_used() {
        let url = "s3://b/p?sse=kms:arn:aws:kms:eu-west-1:1:key/k";
        let policy = of(Purpose::Pool, false, false, &[url, url]);
        let keys = &policy["Statement"][2];
        assert_eq!(keys["Resource"], json!(["arn:aws:kms:eu-west-1:1:key/k"]));
        assert_eq!(keys["Action"], json!(["kms:Decrypt", "kms:GenerateDataKey"]));
        let policy = of(Purpose::Pool, true, false, &["s3://b/p?sse=kms:1-2"]);
        assert_eq!(policy["Statement"][2]["Resource"], json!(["arn:aws:kms:*:*:key/1-2"]));
        assert_eq!(policy["Statement"][2]["Action"], json!(["kms:Decrypt"]));
    }
}
