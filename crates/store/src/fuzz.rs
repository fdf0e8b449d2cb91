//! What is read of stores' names and keys, and the answers of S3 servers.

use super::file::fuzz as file;
use super::s3::fuzz as s3;
use super::{AccessKeys, KeyTarget, StoreSpec, StoreUrl};
use windlass_fuzz::{Target, choice, text, texts};

pub const TARGETS: &[Target] = &[
    Target { name: "store_url", run: urls, seeds: some_urls, memory: 64 << 10 },
    Target { name: "access_keys", run: access_keys, seeds: some_keys, memory: 64 << 10 },
    Target { name: "file_store_names", run: file::names, seeds: file::some_names, memory: 256 << 10 },
    Target { name: "s3_answers", run: s3::answers, seeds: s3::some_answers, memory: 4 << 20 },
];

fn some_urls() -> Vec<Vec<u8>> {
    texts(&[
        "s3://bucket/a/prefix?endpoint=http://127.0.0.1:9000&region=eu-west-1&sse=c:/etc/key",
        "s3://b?path-style=true&anonymous=true&storage-class=STANDARD_IA&requester-pays=true",
        "s3://b/p%3F//?profile=x&ca=/ca.pem&passwd_file=/k&sse=kms:id",
        "file:///srv/store%20one,zone=a",
        "mem:name,zone=b",
    ])
}

/// Checks that what is shown of a place is read again as the same place.
fn urls(data: &[u8]) {
    text(data, |text| {
        if let Ok(url) = text.parse::<StoreUrl>() {
            assert_eq!(url.to_string().parse::<StoreUrl>().ok(), Some(url));
        }
        if let Ok(spec) = text.parse::<StoreSpec>() {
            assert_eq!(spec.to_string().parse::<StoreSpec>().ok(), Some(spec));
        }
    });
}

fn some_keys() -> Vec<Vec<u8>> {
    texts(&[
        "\0AKIA:secret/with+signs",
        "\0AKIA:secret:token",
        "\0[default]\naws_access_key_id = A\naws_secret_access_key = \"S\"\naws_session_token = T\n",
        "\0export AWS_ACCESS_KEY_ID=A\nexport AWS_SECRET_ACCESS_KEY=S\n",
        r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":"S","Expiration":"2026-01-31T10:22:33Z"}"#,
        r#"{"Credentials":{"AccessKeyId":"A","SecretAccessKey":"S","SessionToken":"T"}}"#,
        "\x01# keys\nbucket:A:S\nother:B:T\nC:U\n",
        "\x01AWSAccessKeyId=A\nAWSSecretKey=S\n",
        "\x02s3://bucket?endpoint=http://h:1",
        "\x02profile:work",
    ])
}

/// Keys as people hand them on, and a file of keys as s3fs has it.
fn access_keys(data: &[u8]) {
    let (form, rest) = choice(data);
    let (form, data) = if form < 3 { (form, rest) } else { (0, data) };
    text(data, |text| match form {
        1 => s3::passwd_file(text),
        2 => {
            if let Ok(target) = text.parse::<KeyTarget>() {
                assert_eq!(target.to_string().parse::<KeyTarget>().ok(), Some(target));
            }
        }
        _ => drop(AccessKeys::parse(text)),
    });
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
