//! Bytes from anywhere: no panic, no hang, no memory that was not asked for in good faith.

use proptest::prelude::*;

use super::super::decoder::{Arrived, Facts, Intake, PIECE};
use super::super::handshake_wire::{self, ClientFlags, Info, InfoRequest, OptionHeader, ReplyHeader};
use super::super::receive_buffer::Window;
use super::super::wire::{Chunk, Command, Headers, Reply, Request};
use super::extended::extended;
use super::*;

/// Makes random bytes, and bytes that look like the protocol's with something wrong in them.
fn almost_options() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        (0..13u32, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(code, data)| option(code, &data)),
        (6..8u32, any::<bool>(), any::<u8>()).prop_map(|(code, known, flip)| {
            let mut data = info_data(if known { "disk" } else { "nothing" }, &[3]);
            let at = usize::from(flip) % data.len();
            data[at] ^= flip;
            option(code, &data)
        }),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn almost_requests() -> impl Strategy<Value = Vec<u8>> {
    let offset = prop_oneof![0..SIZE, any::<u64>()];
    let len = prop_oneof![0..10_000u32, any::<u32>()];
    let piece = prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..60),
        8 => (0..32u16, 0..10u16, any::<u64>(), offset, len, any::<bool>()).prop_map(
            |(flags, command, cookie, offset, len, whole)| {
                let mut bytes = request(flags, command, cookie, offset, len);
                if command == WRITE && whole {
                    bytes.extend(vec![7; len.min(100_000) as usize]);
                }
                bytes
            }
        ),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Makes requests with extended headers and something wrong in them. Some announce a payload and have none,
/// or one that is too long.
fn almost_extended() -> impl Strategy<Value = Vec<u8>> {
    let offset = prop_oneof![0..SIZE, any::<u64>()];
    let len = prop_oneof![8 => 0..10_000u64, 2 => 0..33u64 << 20, 1 => any::<u64>()];
    let piece = prop_oneof![
        1 => almost_requests(),
        30 => (0..64u16, 0..10u16, any::<u64>(), offset, len, 0..8u8).prop_map(
            |(flags, command, cookie, offset, len, whole)| {
                let mut bytes = extended(flags, command, cookie, offset, len);
                if (flags & PAYLOAD != 0 || command == WRITE) && whole > 0 {
                    bytes.extend(vec![7; len.min(100_000) as usize]);
                }
                bytes
            }
        ),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Sends all bytes, and receives until the connection ends, which must happen.
fn survives(seed: u64, prefix: Vec<u8>, bytes: Vec<u8>) {
    let sim = Sim::new(seed);
    let rt = sim.rt();
    tick(sim.rt());
    let scenario = async move {
        let house = House::new(&rt);
        let peer = connect(&house, 4096);
        let (mut theirs, mut mine) = tokio::io::split(peer.io);
        rt.spawn(async move {
            // The server may hang up at any point.
            let _ = mine.write_all(&prefix).await;
            let _ = mine.write_all(&bytes).await;
            let _ = mine.shutdown().await;
        })
        .detach();
        let _ = tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await;
        peer.server.await.expect("no panic");
        assert_eq!(house.state.lock().open, 0);
    };
    sim.run(scenario).unwrap_or_else(|stall| panic!("{stall}"));
}

proptest! {
    #[test]
    fn haggling_survives_anything(seed: u64, flags in 0..5u32, bytes in almost_options()) {
        survives(seed, flags.to_be_bytes().into(), bytes);
    }

    #[test]
    fn transmission_survives_anything(seed: u64, structured: bool, bytes in almost_requests()) {
        let mut prefix = vec![0, 0, 0, 3];
        if structured {
            prefix.extend(option(8, &[]));
        }
        prefix.extend(option(7, &info_data("disk", &[])));
        survives(seed, prefix, bytes);
    }

    #[test]
    fn transmission_with_extended_headers_survives_anything(seed: u64, bytes in almost_extended()) {
        let go = option(7, &info_data("disk", &[]));
        survives(seed, [vec![0, 0, 0, 3], option(11, &[]), go].concat(), bytes);
    }

    #[test]
    fn parsers_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), kind: u16) {
        for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
            let _ = Request::parse(headers, &bytes);
            let _ = Reply::parse(headers, &bytes);
        }
        let _ = bytes.first_chunk().map(OptionHeader::parse);
        let _ = bytes.first_chunk().map(ReplyHeader::parse);
        let _ = bytes.first_chunk().map(|b| ClientFlags::parse(*b));
        let _ = bytes.first_chunk().map(handshake_wire::parse_greeting);
        let _ = InfoRequest::parse(&bytes);
        let _ = handshake_wire::parse_listed(&bytes);
        let _ = handshake_wire::parse_name(&bytes);
        let _ = Info::default().take(&bytes);
        let _ = Chunk::parse(kind, &bytes);
    }

    #[test]
    fn what_is_put_is_parsed(name in ".{0,40}", wants in prop::collection::vec(any::<u16>(), 0..9), text in ".{0,40}") {
        let request = InfoRequest { name: name.clone(), wants };
        let mut bytes = Vec::new();
        request.put(&mut bytes);
        prop_assert_eq!(InfoRequest::parse(&bytes).unwrap(), request);
        let listed = ListedExport { name, text };
        let mut bytes = Vec::new();
        handshake_wire::put_listed(&mut bytes, &listed);
        prop_assert_eq!(handshake_wire::parse_listed(&bytes[20..]).unwrap(), listed);
    }

    /// The same requests arrive, wherever receives cut them, and no payload is touched.
    #[test]
    fn requests_arrive_whole_however_they_are_cut(
        writes in prop::collection::vec((prop_oneof![4 => 0..50_000u32, 1 => 0..800_000u32], any::<u8>(), any::<bool>()), 1..8),
        cuts in prop::collection::vec(1..40_000usize, 1..20),
        is_extended: bool,
    ) {
        let mut bytes = Vec::new();
        for (i, &(len, fill, good)) in writes.iter().enumerate() {
            let (flags, cookie) = (if good { 0 } else { DF }, i as u64);
            bytes.extend(match is_extended {
                true => extended(flags | PAYLOAD, WRITE, cookie, 77, len.into()),
                false => request(flags, WRITE, cookie, 77, len),
            });
            bytes.extend(vec![fill; len as usize]);
        }
        let headers = if is_extended { Headers::Extended } else { Headers::Simple };
        let facts = Facts { size: SIZE, flags: 0, status: false, headers };
        let (mut intake, mut window) = (Intake::default(), Window::new());
        let mut rest = &bytes[..];
        let (mut seen, mut got) = (0, 0);
        for cut in cuts.into_iter().cycle() {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            let mut now = now;
            while !now.is_empty() {
                let mut cx = std::task::Context::from_waker(futures::task::noop_waker_ref());
                prop_assert!(window.poll_fill(&mut cx, &mut now).is_ready());
                while let Some(arrived) = intake.next(&mut window, facts).unwrap() {
                    let (len, fill, good) = writes[seen];
                    match arrived {
                        Arrived::Piece(piece) => {
                            let (request, data) = (piece.request, piece.data);
                            prop_assert!(good);
                            prop_assert_eq!((request.cookie, request.command), (seen as u64, Command::Write));
                            prop_assert_eq!(piece.offset, 77 + got as u64);
                            prop_assert!(data.len() <= PIECE as usize && data.iter().all(|b| *b == fill));
                            got += data.len();
                            prop_assert_eq!(piece.last, got == len as usize);
                            if !piece.last {
                                prop_assert_eq!((77 + got) % 4096, 0);
                                continue;
                            }
                            got = 0;
                        }
                        Arrived::Refused { request, .. } => {
                            prop_assert!(!good);
                            prop_assert_eq!((request.cookie, request.len), (seen as u64, len.into()));
                        }
                        Arrived::Request(_) | Arrived::Disconnect => prop_assert!(false),
                    }
                    seen += 1;
                }
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(seen, writes.len());
        prop_assert!(window.bytes().is_empty() && intake.direct().is_none());
    }
}

/// Full windows end within a header, which moves to the front.
#[test]
fn headers_are_whole_across_windows() {
    for is_extended in [false, true] {
        headers_are_whole(is_extended);
    }
}

fn headers_are_whole(is_extended: bool) {
    let one = |i| if is_extended { extended(0, FLUSH, i, 0, 0) } else { request(0, FLUSH, i, 0, 0) };
    // So that windows end within one.
    let bytes: Vec<u8> = (0..20_000).flat_map(one).collect();
    let headers = if is_extended { Headers::Extended } else { Headers::Simple };
    let facts = Facts { size: SIZE, flags: 0, status: false, headers };
    let (mut intake, mut window) = (Intake::default(), Window::new());
    let (mut rest, mut seen) = (&bytes[..], 0);
    while !rest.is_empty() {
        let mut cx = std::task::Context::from_waker(futures::task::noop_waker_ref());
        assert!(window.poll_fill(&mut cx, &mut rest).is_ready());
        while let Some(Arrived::Request(request)) = intake.next(&mut window, facts).unwrap() {
            assert_eq!((request.cookie, request.command), (seen, Command::Flush));
            seen += 1;
        }
    }
    assert_eq!((seen, window.bytes().len()), (20_000, 0));
}

#[test]
fn a_text_is_cut_at_a_character() {
    let text = "ü".repeat(3000);
    assert_eq!(super::super::wire::bounded(&text).len(), 4096);
    assert_eq!(super::super::wire::bounded(&format!("a{text}")).len(), 4095);
}
