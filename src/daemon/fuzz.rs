//! What a daemon is told: its configuration, commands, the state that another daemon hands over, files of its folder.

use super::config::fuzz as toml;
use super::control_http::parse as parse_call;
use super::control_server::parse as parse_command;
use super::credentials::KeptFile;
use super::metrics_http_message::Request;
use super::mirror::fuzz as mirror;
use super::nbd_handover::read_text;
use windlass_base::Accounts;
use windlass_fuzz::{Target, choice, text, texts};
use windlass_nbd::Address;

pub const TARGETS: &[Target] = &[
    Target { name: "config", run: toml::file, seeds: toml::some_files, memory: 2 << 20 },
    Target { name: "accounts", run: accounts, seeds: some_accounts, memory: 128 << 10 },
    Target { name: "control_line", run: command, seeds: some_commands, memory: 512 << 10 },
    Target { name: "api_call", run: call, seeds: some_calls, memory: 512 << 10 },
    Target { name: "http_head", run: head, seeds: some_heads, memory: 128 << 10 },
    Target { name: "mirror_knock", run: mirror::admit_bytes, seeds: mirror::some_knocks, memory: 128 << 10 },
    Target { name: "kept_state", run: kept, seeds: some_kept, memory: 256 << 10 },
];

fn some_accounts() -> Vec<Vec<u8>> {
    texts(&["root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000::/:\n", "disk:x:6:a,b\nwindlass:x:99:\n"])
}

/// Parses files of passwd(5) and group(5).
fn accounts(data: &[u8]) {
    text(data, |text| {
        let _ = format!("{:?}", Accounts::parse(text, text));
    });
}

fn some_commands() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"v":1,"verb":"status"}"#,
        r#"{"v":1,"verb":"volume-create","args":{"path":"tank/v","size":1073741824,"settings":["flush=pool"]}}"#,
        r#"{"v":1,"verb":"snapshot-create","args":{"paths":["tank/v@s"],"no_wait":true}}"#,
        r#"{"v":1,"verb":"credentials-set","args":{"target":"s3://b","keys":"A:S","keep":true}}"#,
        r#"{"v":2,"verb":"status"}"#,
    ])
}

/// Parses a line of the control socket. A refusal tells why.
fn command(data: &[u8]) {
    text(data, |line| {
        if let Err(why) = parse_command(line) {
            assert!(!why.to_string().is_empty());
        }
    });
}

fn some_calls() -> Vec<Vec<u8>> {
    texts(&[
        "status\n",
        "volume-create\n{\"path\":\"tank/v\",\"size\":1073741824}",
        "pool-scrub\n{\"name\":\"tank\"}",
        "credentials-set\n{\"target\":\"s3://b\"}",
    ])
}

/// Parses a verb of HTTP, and its arguments behind the line's end.
fn call(data: &[u8]) {
    let end = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
    let args = data.get(end + 1..).unwrap_or_default();
    text(&data[..end], |verb| drop(parse_call(verb, args)));
}

fn some_heads() -> Vec<Vec<u8>> {
    texts(&[
        "GET /metrics HTTP/1.1\r\nHost: localhost:9\r\n\r\n",
        "GET /api/map?volume=tank%2Fv&x=%ff HTTP/1.1\r\nhost: [::1]:9\r\nsec-fetch-site: cross-site\r\n\r\n",
        "HEAD / HTTP/1.0\n",
    ])
}

fn head(data: &[u8]) {
    let request = Request::parse(&String::from_utf8_lossy(data));
    let _ = (request.only_reads(), request.parameter("volume"), request.parameter("x"));
    for bound in ["127.0.0.1:9", "[::1]:9", "0.0.0.0:9", "unix:/s"] {
        let bound: Address = bound.parse().expect("an address");
        let _ = request.is_for(&bound);
    }
}

fn some_kept() -> Vec<Vec<u8>> {
    texts(&[
        "\0{\"format\":1,\"keys\":{\"s3://b\":{\"id\":\"A\",\"secret\":\"S\"}}}",
        "\x01{\"format\":2,\"version\":\"0.1\",\"listeners\":[{\"asked\":\"h:1\",\"address\":\"h:1\",\"accepts\":true,\"clients\":[]}]}",
    ])
}

/// Parses kept credentials, or what another daemon hands over.
fn kept(data: &[u8]) {
    let (which, bytes) = choice(data);
    match which {
        0 => drop(serde_json::from_slice::<KeptFile>(bytes)),
        _ => drop(read_text(bytes)),
    }
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
