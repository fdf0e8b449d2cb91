//! TLS, and who may open what: each rule of STARTTLS, certificates that must not do, bytes from anywhere.

use proptest::prelude::*;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::access::{Access, Pattern, Policy, Rule, Subject};
use super::super::server::serve_tls_stream;
use super::super::tls_server::{Clock, TlsPem, TlsServer};
use super::*;

const ACK: u32 = 1;
const INVALID: u32 = 3;
const TLS_REQD: u32 = 5;
const UNKNOWN: u32 = 6;
const STARTTLS: u32 = 5;
const READ_ONLY: u16 = 2;

const CA: &[u8] = include_bytes!("certificates/ca.pem");
const SERVER: &[u8] = include_bytes!("certificates/server.pem");
/// Certificate of `web-1`, also as `web-1.example`.
const CLIENT: &[u8] = include_bytes!("certificates/client.pem");
/// Certificate of `web-2`, valid until 2021.
const EXPIRED: &[u8] = include_bytes!("certificates/expired.pem");
/// Certificate of `web-1`, signed by itself.
const STRANGER: &[u8] = include_bytes!("certificates/stranger.pem");

fn server(rt: &Rt, optional: bool) -> TlsServer {
    TlsServer::new(rt, TlsPem { certificate: SERVER, key: SERVER, client_ca: Some(CA), optional }).unwrap()
}

/// Access by certificates alone, without rules.
fn by_certificate(rt: &Rt) -> Arc<Access> {
    Access::new(Policy { tls: Some(server(rt, false)), rules: None })
}

fn rule(subject: &str, exports: &[&str], write: bool) -> Rule {
    let exports = exports.iter().map(|pattern| Pattern::new(*pattern)).collect();
    Rule { subject: Subject::Certificate(Pattern::new(subject)), exports, write }
}

fn by_rules(rt: &Rt, rules: Vec<Rule>) -> Arc<Access> {
    Access::new(Policy { tls: Some(server(rt, false)), rules: Some(rules) })
}

/// Connects a client that has greeted in the open.
async fn greeted(house: &Arc<House>, access: &Arc<Access>, buffer: usize) -> Peer {
    let (io, theirs) = tokio::io::duplex(buffer);
    let stop = CancellationToken::new();
    let (exports, memory) = (Arc::new(Shown(house.clone())), house.memory.clone());
    let server = serve_tls_stream(&house.rt, theirs, access.clone(), exports, memory, stop.clone());
    let mut peer = Peer { io, house: house.clone(), stop, pause: CancellationToken::new(), server };
    peer.greet().await;
    peer
}

fn connector(rt: &Rt, own: Option<&[u8]>, version: &'static SupportedProtocolVersion) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(Clock(rt.clone())))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(pem) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pem).unwrap()],
                PrivateKeyDer::from_pem_slice(pem).unwrap(),
            )
            .unwrap(),
    };
    TlsConnector::from(Arc::new(config))
}

/// Takes a client into TLS; `None` when it was not let in, as far as the client can tell.
async fn into_tls(
    mut peer: Peer,
    own: Option<&[u8]>,
    version: &'static SupportedProtocolVersion,
) -> Option<Peer<TlsStream<DuplexStream>>> {
    peer.send(option(STARTTLS, &[])).await;
    peer.expect(reply(STARTTLS, ACK, &[])).await;
    let Peer { io, house, stop, pause, server } = peer;
    let name = ServerName::try_from("localhost").unwrap();
    let io = connector(&house.rt, own, version).connect(name, io).await.ok()?;
    Some(Peer { io, house, stop, pause, server })
}

async fn within(house: &Arc<House>, access: &Arc<Access>) -> Peer<TlsStream<DuplexStream>> {
    let peer = greeted(house, access, 64 << 10).await;
    into_tls(peer, Some(CLIENT), &rustls::version::TLS13).await.expect("it is let in")
}

/// Asks for the list of exports within TLS, and returns all that the client hears until its end.
async fn heard(peer: &mut Peer<TlsStream<DuplexStream>>) -> Vec<u8> {
    let _ = peer.io.write_all(&option(3, &[])).await;
    let _ = peer.io.flush().await;
    let mut all = Vec::new();
    let _ = peer.io.read_to_end(&mut all).await;
    all
}

/// Returns the names that LIST shows.
async fn listed(peer: &mut Peer<TlsStream<DuplexStream>>) -> Vec<String> {
    peer.send(option(3, &[])).await;
    let mut names = Vec::new();
    loop {
        let (kind, data) = peer.answer(3).await;
        if kind == ACK {
            return names;
        }
        let len = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
        names.push(String::from_utf8(data[4..4 + len].to_vec()).unwrap());
    }
}

#[test]
fn before_tls_nothing_is_told() {
    simulate(|rt| async move {
        let mut peer = greeted(&House::new(&rt), &by_certificate(&rt), 64 << 10).await;
        let queries = context_data("disk", &[]);
        let (known, none) = (info_data("disk", &[]), info_data("nothing", &[]));
        let nothing = Vec::new();
        let asked = [
            (3, &nothing),
            (6, &known),
            (7, &known),
            (7, &none),
            (8, &nothing),
            (9, &queries),
            (11, &nothing),
            (99, &nothing),
        ];
        for (code, data) in asked {
            peer.send(option(code, data)).await;
            assert_eq!(peer.refused(code, TLS_REQD).await, "begin TLS first");
        }
        peer.send(option(STARTTLS, b"x")).await;
        peer.refused(STARTTLS, INVALID).await;
        peer.send(option(2, &[])).await;
        peer.expect(reply(2, ACK, &[])).await;
        peer.expect_end().await;
    });
}

#[test]
fn who_does_not_begin_tls_is_dropped() {
    let many = option(3, &[]).repeat(16);
    for (bytes, answers) in
        [(option(1, b"disk"), 0), (option(3, &[0; 20_000]), 0), (many, 16), (vec![0; 16], 0)]
    {
        simulate(move |rt| {
            let bytes = bytes.clone();
            async move {
                let mut peer = greeted(&House::new(&rt), &by_certificate(&rt), 64 << 10).await;
                peer.send(bytes).await;
                for _ in 0..answers {
                    peer.refused(3, TLS_REQD).await;
                }
                peer.expect_end().await;
            }
        });
    }
}

#[test]
fn a_silent_client_is_dropped_before_and_within_the_handshake() {
    for begins in [false, true] {
        simulate(move |rt| async move {
            let mut peer = greeted(&House::new(&rt), &by_certificate(&rt), 64 << 10).await;
            let began = rt.now();
            if begins {
                peer.send(option(STARTTLS, &[])).await;
                peer.expect(reply(STARTTLS, ACK, &[])).await;
            }
            peer.expect_end().await;
            assert!(rt.now().since(began) <= Duration::from_secs(20));
        });
    }
}

/// Bytes in the open behind STARTTLS would be taken for a part of the handshake, or of what is said within.
#[test]
fn bytes_behind_starttls_end_the_connection() {
    for behind in [option(3, &[]), option(7, &info_data("disk", &[])), vec![0x16, 3, 1], vec![0]] {
        simulate(move |rt| {
            let behind = behind.clone();
            async move {
                let mut peer = greeted(&House::new(&rt), &by_certificate(&rt), 64 << 10).await;
                peer.send([option(STARTTLS, &[]), behind].concat()).await;
                peer.expect_end().await;
            }
        });
    }
}

#[test]
fn plain_bytes_in_place_of_the_handshake_are_never_options() {
    simulate(|rt| async move {
        let house = House::new(&rt);
        let mut peer = greeted(&house, &by_certificate(&rt), 64 << 10).await;
        peer.send(option(STARTTLS, &[])).await;
        peer.expect(reply(STARTTLS, ACK, &[])).await;
        peer.send(option(7, &info_data("disk", &[]))).await;
        let mut rest = Vec::new();
        let _ = peer.io.read_to_end(&mut rest).await;
        // An alert of TLS at most.
        assert!(rest.len() < 10 && rest.first().is_none_or(|kind| *kind == 0x15), "{rest:?}");
        assert!(house.log().is_empty());
    });
}

#[test]
fn within_tls_all_is_as_without() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        simulate(move |rt| async move {
            let house = House::new(&rt);
            let peer = greeted(&house, &by_certificate(&rt), 4096).await;
            let mut peer = into_tls(peer, Some(CLIENT), version).await.unwrap();
            assert_eq!(listed(&mut peer).await, ["disk", "snap", "owned"]);
            peer.send(option(STARTTLS, &[])).await;
            peer.refused(STARTTLS, INVALID).await;
            peer.structured().await;
            peer.go("disk").await;
            let data: Vec<u8> = (0..500_000u32).map(|n| (n / 7) as u8).collect();
            peer.send([request(FUA, WRITE, 1, 7, 500_000), data.clone()].concat()).await;
            peer.expect(simple(0, 1)).await;
            peer.send(request(DF, READ, 2, 7, 500_000)).await;
            let wanted = chunk(1, 2, &[&7u64.to_be_bytes()[..], &data].concat());
            assert!(peer.receive(wanted.len()).await == wanted);
            peer.send(request(0, DISC, 0, 0, 0)).await;
            peer.expect_end().await;
        });
    }
}

/// Bytes that TLS holds back go out although nothing else is written: the client reads on only when it has
/// waited.
#[test]
fn a_slow_reader_gets_all() {
    simulate(|rt| async move {
        let house = House::new(&rt);
        let peer = greeted(&house, &by_certificate(&rt), 512).await;
        let mut peer = into_tls(peer, Some(CLIENT), &rustls::version::TLS13).await.unwrap();
        peer.go("disk").await;
        for cookie in 0..20 {
            peer.send(request(0, READ, cookie, 0, 30_000)).await;
            rt.sleep(Duration::from_secs(1)).await;
            peer.expect([simple(0, cookie), vec![0; 30_000]].concat()).await;
        }
        peer.send(request(0, DISC, 0, 0, 0)).await;
        peer.expect_end().await;
    });
}

#[test]
fn a_wrong_certificate_gets_nothing() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for own in [None, Some(EXPIRED), Some(STRANGER), Some(SERVER)] {
            for optional in [false, true] {
                simulate(move |rt| async move {
                    let house = House::new(&rt);
                    let access = Access::new(Policy { tls: Some(server(&rt, optional)), rules: None });
                    let peer = greeted(&house, &access, 64 << 10).await;
                    // In 1.3 the client learns of it when it reads.
                    let Some(mut peer) = into_tls(peer, own, version).await else { return };
                    if own.is_none() && optional {
                        assert_eq!(listed(&mut peer).await.len(), 3);
                    } else {
                        assert_eq!(heard(&mut peer).await, b"", "{own:?}");
                    }
                });
            }
        }
    }
}

#[test]
fn a_client_sees_what_the_rules_say() {
    simulate(|rt| async move {
        let house = House::new(&rt);
        let rules = vec![
            rule("web-1", &["di*"], false),
            rule("*.example", &["owned"], true),
            rule("web-2", &["*"], true),
        ];
        let access = by_rules(&rt, rules);
        let mut peer = within(&house, &access).await;
        assert_eq!(listed(&mut peer).await, ["disk", "owned"]);
        let mut answers = Vec::new();
        for name in ["snap", "none"] {
            for code in [6, 7] {
                peer.send(option(code, &info_data(name, &[]))).await;
                answers.push(peer.refused(code, UNKNOWN).await.replace(name, "X"));
            }
        }
        assert_eq!(answers, ["there is no export \"X\""; 4], "as what is not there");
        peer.send(option(6, &info_data("disk", &[]))).await;
        let (_, data) = peer.answer(6).await;
        assert_eq!(u16::from_be_bytes([data[10], data[11]]) & READ_ONLY, READ_ONLY);
        peer.expect(reply(6, ACK, &[])).await;
        peer.go("disk").await;
        peer.send([request(0, WRITE, 1, 0, 1), vec![1]].concat()).await;
        peer.expect(simple(1, 1)).await;
        for command in [TRIM, ZEROES] {
            peer.send(request(0, command, 2, 0, 1)).await;
            peer.expect(simple(1, 2)).await;
        }
        peer.send(request(0, READ, 3, 0, 1)).await;
        peer.expect([simple(0, 3), vec![0]].concat()).await;
        assert_eq!(house.log(), ["read 0+1", ".read 0+1"]);
        // Where any rule lets it write, it writes.
        let rules = vec![rule("web-1", &["*"], false), rule("web-1.example", &["disk"], true)];
        let mut peer = within(&house, &by_rules(&rt, rules)).await;
        peer.go("disk").await;
        peer.send([request(0, WRITE, 1, 0, 1), vec![1]].concat()).await;
        peer.expect(simple(0, 1)).await;
    });
}

#[test]
fn for_whom_there_is_no_rule_there_is_nothing() {
    simulate(|rt| async move {
        let house = House::new(&rt);
        let mut peer = within(&house, &by_rules(&rt, vec![rule("db-*", &["*"], true)])).await;
        assert_eq!(heard(&mut peer).await, b"");
        // An expired certificate has no names.
        let access = by_rules(&rt, vec![rule("web-*", &["*"], true)]);
        let peer = greeted(&house, &access, 64 << 10).await;
        if let Some(mut peer) = into_tls(peer, Some(EXPIRED), &rustls::version::TLS13).await {
            assert_eq!(heard(&mut peer).await, b"");
        }
    });
}

#[test]
fn the_end_of_the_certificate_is_told_before_it_comes() {
    simulate(|rt| async move {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        // 2021-01-01.
        let end = 1_609_459_200_000;
        let pem = TlsPem { certificate: EXPIRED, key: EXPIRED, client_ca: None, optional: false };
        let ends = TlsServer::new(&rt, pem).unwrap();
        assert_eq!(ends.ends_before(end - DAY_MS), None);
        assert_eq!((ends.ends_before(end + DAY_MS), ends.ends_before(u64::MAX)), (Some(end), Some(end)));
        assert_eq!(server(&rt, false).ends_before(end + DAY_MS), None, "it ends in 2120");
    });
}

#[test]
fn a_new_policy_is_for_who_comes_then() {
    simulate(|rt| async move {
        let house = House::new(&rt);
        let access = by_certificate(&rt);
        let mut before = within(&house, &access).await;
        before.go("disk").await;
        let tls = TlsPem { certificate: SERVER, key: SERVER, client_ca: Some(STRANGER), optional: false };
        access.replace(Policy { tls: Some(TlsServer::new(&rt, tls).unwrap()), rules: None });
        let mut after = within(&house, &access).await;
        assert_eq!(heard(&mut after).await, b"");
        before.send(request(0, READ, 3, 0, 1)).await;
        before.expect([simple(0, 3), vec![0]].concat()).await;
    });
}

#[test]
fn files_that_are_none_are_refused() {
    simulate(|rt| async move {
        let fine = TlsPem { certificate: SERVER, key: SERVER, client_ca: Some(CA), optional: false };
        for (pem, why) in [
            (TlsPem { certificate: b"", ..fine }, "the server's certificate is not a file of certificates"),
            (TlsPem { certificate: b"-----BEGIN CERTIFICATE-----\nx", ..fine }, "the server's certificate"),
            (TlsPem { key: b"", ..fine }, "the server's key can't be used"),
            (TlsPem { key: CLIENT, ..fine }, "the server's certificate with its key"),
            (TlsPem { client_ca: Some(b""), ..fine }, "the clients' authority"),
        ] {
            let error = TlsServer::new(&rt, pem).unwrap_err();
            assert!(error.is(Kind::Usage) && error.to_string().contains(why), "{error}");
        }
    });
}

/// Makes bytes that begin as a handshake does, and are none.
fn almost_tls() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        (any::<u8>(), 0..4u8, prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(kind, minor, body)| {
            let len = (body.len() as u16).to_be_bytes();
            [&[20 + kind % 4, 3, minor][..], &len, &body].concat()
        }),
        (0..13u32, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(code, data)| option(code, &data)),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_before_and_in_the_handshake_come_to_an_end(seed: u64, begins: bool, bytes in almost_tls()) {
        let sim = Sim::new(seed);
        let rt = sim.rt();
        tick(sim.rt());
        let scenario = async move {
            let house = House::new(&rt);
            let mut peer = greeted(&house, &by_certificate(&rt), 4096).await;
            if begins {
                peer.send(option(STARTTLS, &[])).await;
                peer.expect(reply(STARTTLS, ACK, &[])).await;
            }
            let (mut theirs, mut mine) = tokio::io::split(peer.io);
            rt.spawn(async move {
                let _ = mine.write_all(&bytes).await;
                let _ = mine.shutdown().await;
            })
            .detach();
            let _ = tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await;
            peer.server.await.expect("no panic");
            assert!(house.log().is_empty());
        };
        sim.run(scenario).unwrap_or_else(|stall| panic!("{stall}"));
    }
}
