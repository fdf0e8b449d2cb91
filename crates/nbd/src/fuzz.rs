//! What peers say: the server against any bytes, on the simulation's virtual time, where what hangs is told as a stall; a
//! client's parsers; what another daemon hands over of a connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use super::access::{Access, Policy};
use super::handover_state::ConnectionState;
use super::handshake_wire::{
    self, ClientFlags, ContextRequest, Info, InfoRequest, OptionHeader, ReplyHeader, option,
};
use super::server::{serve_stream, serve_tls_stream};
use super::suspend_resume::Until;
use super::tls_server::{TlsPem, TlsServer};
use super::wire::{Chunk, Command, Headers, Reply, Request};
use super::{Address, Description, MemoryDisk, MemoryExports};
use windlass_base::Budget;
use windlass_base::rt::sim::Sim;
use windlass_fuzz::{Target, choice, text, texts};

pub const TARGETS: &[Target] = &[
    Target { name: "nbd_handshake", run: handshake, seeds: some_options, memory: 8 << 20 },
    Target { name: "nbd_before_tls", run: before_tls, seeds: some_options, memory: 8 << 20 },
    Target { name: "nbd_simple", run: simple, seeds: || some_requests(Headers::Simple), memory: 8 << 20 },
    Target {
        name: "nbd_structured",
        run: structured,
        seeds: || some_requests(Headers::Structured),
        memory: 8 << 20,
    },
    Target {
        name: "nbd_extended",
        run: extended,
        seeds: || some_requests(Headers::Extended),
        memory: 8 << 20,
    },
    Target { name: "nbd_client", run: client, seeds: some_replies, memory: 256 << 10 },
    Target { name: "nbd_handed_over", run: handed_over, seeds: some_states, memory: 256 << 10 },
    Target { name: "nbd_address", run: address, seeds: some_addresses, memory: 64 << 10 },
];

/// Size of the disk that is served, in bytes. What is written into the disk is memory of the run's.
const SIZE: u64 = 1 << 20;
const SERVER: &[u8] = include_bytes!("tests/certificates/server.pem");

fn exports() -> Arc<MemoryExports> {
    let disk = |name: &str, read_only: bool| {
        let (name, text) = (name.to_owned(), format!("the {name}"));
        MemoryDisk::new(Description { name, text, size: SIZE, read_only, multi_conn: true, fast_zero: true })
    };
    MemoryExports::new(vec![disk("disk", false), disk("snap", true)])
}

/// Sends all bytes to a server, and receives its answers until the connection ends. The connection must end.
fn serve(bytes: Vec<u8>, by_tls: bool) {
    let sim = Sim::new(1);
    let rt = sim.rt();
    let scenario = async move {
        let clock = rt.clone();
        // Of the simulation's timers the next may fire early: with one a second nobody looks silent for minutes.
        let ticks = async move {
            loop {
                clock.sleep(Duration::from_secs(1)).await;
            }
        };
        rt.spawn(ticks).detach();
        let (io, theirs) = tokio::io::duplex(4096);
        let stop = CancellationToken::new();
        let memory = Budget::new(2 * SIZE);
        let server = if by_tls {
            let pem = TlsPem { certificate: SERVER, key: SERVER, client_ca: None, optional: false };
            let tls = TlsServer::new(&rt, pem).expect("a certificate and its key");
            let access = Access::new(Policy { tls: Some(tls), rules: None });
            serve_tls_stream(&rt, theirs, access, exports(), memory.clone(), stop)
        } else {
            let until = Until { stop, pause: CancellationToken::new() };
            serve_stream(&rt, (theirs, None), exports(), memory.clone(), until)
        };
        let (mut from, mut to) = tokio::io::split(io);
        let says = async move {
            // The server may hang up at any point.
            let _ = to.write_all(&bytes).await;
            let _ = to.shutdown().await;
        };
        rt.spawn(says).detach();
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        server.await.expect("no panic");
        assert_eq!(memory.used(), 0, "a client that is gone holds no memory");
    };
    sim.run(scenario).unwrap_or_else(|stall| panic!("{stall}"));
}

fn option_of(code: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    handshake_wire::put_option(&mut out, code, data);
    out
}

fn info(name: &str, wants: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    InfoRequest { name: name.into(), wants: wants.into() }.put(&mut out);
    out
}

fn some_options() -> Vec<Vec<u8>> {
    let mut contexts = Vec::new();
    let queries = vec!["base:allocation".to_owned(), "qemu:dirty-bitmap:s".to_owned()];
    ContextRequest { name: "disk".into(), queries }.put(&mut contexts);
    let all = [
        vec![
            option_of(option::LIST, &[]),
            option_of(option::INFO, &info("disk", &[1, 2, 3])),
            option_of(option::ABORT, &[]),
        ],
        vec![option_of(option::STARTTLS, &[]), b"\x16\x03\x01\0\x05hello".to_vec()],
        vec![option_of(option::STRUCTURED_REPLY, &[]), option_of(option::LIST_META_CONTEXT, &contexts)],
        vec![
            option_of(option::EXTENDED_HEADERS, &[]),
            option_of(option::SET_META_CONTEXT, &contexts),
            option_of(option::GO, &info("snap", &[])),
        ],
        vec![option_of(option::EXPORT_NAME, b"disk")],
        vec![option_of(99, &[0; 40]), option_of(option::GO, &info("none", &[]))],
    ];
    all.into_iter().map(|options| [vec![0, 0, 0, 3], options.concat()].concat()).collect()
}

fn handshake(data: &[u8]) {
    serve(data.to_vec(), false);
}

fn before_tls(data: &[u8]) {
    serve(data.to_vec(), true);
}

fn some_requests(headers: Headers) -> Vec<Vec<u8>> {
    let put = |all: &[(u16, Command, u64, u64)]| {
        let mut out = Vec::new();
        for (n, (flags, command, offset, len)) in all.iter().enumerate() {
            Request::new(*flags, *command, n as u64, *offset, *len).put(headers, &mut out);
            if matches!(command, Command::Write) {
                out.resize(out.len() + *len as usize, 7);
            }
        }
        out
    };
    let payload = if headers == Headers::Extended { 32 } else { 0 };
    vec![
        put(&[(payload, Command::Write, 4000, 300), (0, Command::Read, 4090, 20), (0, Command::Flush, 0, 0)]),
        put(&[
            (0, Command::Trim, 0, 8192),
            (2, Command::WriteZeroes, 4096, 4096),
            (16, Command::WriteZeroes, 0, 1 << 20),
        ]),
        put(&[
            (8, Command::BlockStatus, 0, 1 << 20),
            (0, Command::BlockStatus, 5, 9000),
            (4, Command::Read, 0, 1 << 20),
        ]),
        put(&[
            (payload, Command::Write, SIZE - 1, 5),
            (0, Command::Read, u64::MAX, 5),
            (0, Command::Disconnect, 0, 0),
        ]),
    ]
}

/// Sends a handshake and then requests to the server. The first byte chooses the export: the disk that may be
/// written or the read-only one, with block status or without.
fn transmit(data: &[u8], headers: Headers) {
    let (how, requests) = choice(data);
    // The seeds are requests as they are: all of them begin with a magic.
    let (how, requests) = if how == 0x25 || how == 0x21 { (0, data) } else { (how, requests) };
    let mut bytes = vec![0, 0, 0, 3];
    match headers {
        Headers::Simple => {}
        Headers::Structured => bytes.extend(option_of(option::STRUCTURED_REPLY, &[])),
        Headers::Extended => bytes.extend(option_of(option::EXTENDED_HEADERS, &[])),
    }
    let name = if how & 1 == 0 { "disk" } else { "snap" };
    if headers.has_chunks() && how & 2 == 0 {
        let mut contexts = Vec::new();
        let queries = vec!["base:allocation".to_owned()];
        ContextRequest { name: name.into(), queries }.put(&mut contexts);
        bytes.extend(option_of(option::SET_META_CONTEXT, &contexts));
    }
    bytes.extend(option_of(option::GO, &info(name, &[])));
    bytes.extend(requests);
    serve(bytes, false);
}

fn simple(data: &[u8]) {
    transmit(data, Headers::Simple);
}

fn structured(data: &[u8]) {
    transmit(data, Headers::Structured);
}

fn extended(data: &[u8]) {
    transmit(data, Headers::Extended);
}

fn some_replies() -> Vec<Vec<u8>> {
    let mut listed = Vec::new();
    handshake_wire::put_listed(
        &mut listed,
        &super::ListedExport { name: "disk".into(), text: "the disk".into() },
    );
    let mut infos = Vec::new();
    let description = Description {
        name: "d".into(),
        text: "t".into(),
        size: SIZE,
        read_only: false,
        multi_conn: true,
        fast_zero: true,
    };
    handshake_wire::put_infos(&mut infos, option::GO, &description, Headers::Extended, &[1, 2, 3]);
    let mut greeting = Vec::new();
    handshake_wire::put_greeting(&mut greeting);
    let all = [greeting, listed, infos, [&0x6744_6698u32.to_be_bytes()[..], &[0; 12]].concat()];
    let chunks = [(1, 20), (5, 40), (6, 36), (0x8001, 20)]
        .map(|(kind, len): (u16, usize)| [&kind.to_be_bytes()[..], &vec![0; len]].concat());
    all.into_iter().map(|bytes| [vec![0, 0], bytes].concat()).chain(chunks).collect()
}

/// Runs a client's parsers on the data: two bytes of a chunk's kind, then bytes as of a server.
fn client(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first_chunk() else { return };
    let kind = u16::from_be_bytes(*kind);
    for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
        if let Ok(Some((_, len))) = Reply::parse(headers, bytes) {
            assert!(len <= bytes.len());
        }
        if let Ok(Some(request)) = Request::parse(headers, bytes) {
            let mut again = Vec::new();
            request.put(headers, &mut again);
            assert_eq!(again, bytes[..Request::bytes(headers)]);
        }
    }
    let _ = Chunk::parse(kind, bytes);
    let _ = bytes.first_chunk().map(OptionHeader::parse);
    let _ = bytes.first_chunk().map(ReplyHeader::parse);
    let _ = bytes.first_chunk().map(|b| ClientFlags::parse(*b));
    let _ = bytes.first_chunk().map(handshake_wire::parse_greeting);
    let _ = (handshake_wire::parse_name(bytes), handshake_wire::parse_context(bytes));
    let mut told = Info::default();
    let _ = told.take(bytes);
    if let Ok(request) = InfoRequest::parse(bytes) {
        assert_eq!(InfoRequest::parse(&info(&request.name, &request.wants)).ok(), Some(request));
    }
    if let Ok(request) = ContextRequest::parse(bytes) {
        let mut again = Vec::new();
        request.put(&mut again);
        assert_eq!(ContextRequest::parse(&again).ok(), Some(request));
    }
    if let Ok(listed) = handshake_wire::parse_listed(bytes) {
        let mut again = Vec::new();
        handshake_wire::put_listed(&mut again, &listed);
        assert_eq!(handshake_wire::parse_listed(&again[ReplyHeader::BYTES..]).ok(), Some(listed));
    }
}

fn some_states() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"peer":"p","phase":{"haggling":{"flags":{"fixed":true,"no_zeroes":true},"agreed":{"structured":true,"extended":false,"contexts":{"of":"","allocation":false,"since":[]}}}},"unread":"","unsent":""}"#,
    ])
}

/// Parses a connection's state as JSON, as another daemon hands it over.
fn handed_over(data: &[u8]) {
    let Ok(state) = serde_json::from_slice::<ConnectionState>(data) else { return };
    if state.check().is_ok() {
        let text = serde_json::to_vec(&state).expect("it has only string keys");
        let again = serde_json::from_slice::<ConnectionState>(&text).expect("it was written here");
        assert_eq!(format!("{again:?}"), format!("{state:?}"));
    }
}

fn some_addresses() -> Vec<Vec<u8>> {
    texts(&["unix:/run/w.sock", "tcp:127.0.0.1:10809", "tcp:[::1]:10809", "127.0.0.1:10809", "nbd://h:1/x"])
}

fn address(data: &[u8]) {
    text(data, |text| {
        if let Ok(address) = text.parse::<Address>() {
            assert_eq!(address.to_string().parse::<Address>().ok(), Some(address));
        }
    });
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
