//! Extended headers: every rule of theirs, on both sides of the handshake.

use super::super::handover_state::Phase;
use super::*;

const ACK: u32 = 1;
const INVALID: u32 = 3;
const UNKNOWN: u32 = 6;
const EXT_HEADER_REQD: u32 = 10;

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;

const REQ_ONE: u16 = 8;
const STATUS: u16 = 7;
const NONE: u16 = 0;
const MOST: u64 = 32 << 20;
const GIB: u64 = 1 << 30;
/// Range that one answer covers, in bytes.
const MAPPED: u64 = 32 * GIB;

pub fn extended(flags: u16, command: u16, cookie: u64, offset: u64, len: u64) -> Vec<u8> {
    let mut out = vec![0x21, 0xe4, 0x1c, 0x71];
    out.extend(flags.to_be_bytes());
    out.extend(command.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(len.to_be_bytes());
    out
}

/// Returns a reply's last chunk.
fn reply_chunk(kind: u16, cookie: u64, offset: u64, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u64).to_be_bytes();
    let head = [0x6e, 0x8a, 0x27, 0x8c, 0, 1];
    let numbers = [&cookie.to_be_bytes()[..], &offset.to_be_bytes(), &len].concat();
    [&head[..], &kind.to_be_bytes(), &numbers, payload].concat()
}

fn done(cookie: u64, offset: u64) -> Vec<u8> {
    reply_chunk(NONE, cookie, offset, &[])
}

fn extents(context: u32, all: &[(u64, u64)]) -> Vec<u8> {
    let mut payload = [context.to_be_bytes(), (all.len() as u32).to_be_bytes()].concat();
    for (len, flags) in all {
        payload.extend(len.to_be_bytes());
        payload.extend(flags.to_be_bytes());
    }
    payload
}

impl Peer {
    async fn agree(&mut self) {
        self.send(option(11, &[])).await;
        self.expect(reply(11, ACK, &[])).await;
    }

    /// Receives an error, and returns its number. The reply is for this offset.
    async fn error(&mut self, cookie: u64, offset: u64) -> u32 {
        let head = self.receive(32).await;
        assert_eq!(head[..24], reply_chunk(0x8001, cookie, offset, &[])[..24], "{head:x?}");
        let len = u64::from_be_bytes(head[24..].try_into().unwrap()) as usize;
        let body = self.receive(len).await;
        assert_eq!(usize::from(u16::from_be_bytes([body[4], body[5]])), len - 6);
        assert_ne!(len, 6, "an error has a reason");
        u32::from_be_bytes(body[..4].try_into().unwrap())
    }
}

async fn haggling(rt: &Rt) -> Peer {
    let mut peer = connect(&House::new(rt), 64 << 10);
    peer.greet().await;
    peer
}

async fn agreed(rt: &Rt, name: &str) -> Peer {
    let mut peer = haggling(rt).await;
    peer.agree().await;
    peer.go(name).await;
    peer
}

#[test]
fn the_option_takes_no_data_and_goes_before_structured_replies() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        peer.send(option(11, b"x")).await;
        peer.refused(11, INVALID).await;
        // Nothing was agreed by that; and either may come first, also twice.
        peer.structured().await;
        peer.structured().await;
        peer.agree().await;
        peer.agree().await;
        peer.send(option(8, &[])).await;
        assert_ne!(peer.refused(8, EXT_HEADER_REQD).await, "");
        peer.send(option(8, b"x")).await;
        peer.refused(8, INVALID).await;
        peer.send(option(7, &info_data("nothing", &[]))).await;
        peer.refused(7, UNKNOWN).await;
        peer.send(option(6, &info_data("disk", &[]))).await;
        let (_, info) = peer.answer(6).await;
        // DF, and not BLOCK_STATUS_PAYLOAD.
        assert_eq!(u16::from_be_bytes([info[10], info[11]]) & (1 << 7 | 1 << 12), 1 << 7);
        peer.expect(reply(6, ACK, &[])).await;
        peer.go("disk").await;
        peer.send(extended(0, READ, 1, 3, 1)).await;
        peer.expect(reply_chunk(1, 1, 3, b"\0\0\0\0\0\0\0\x03\0")).await;
        peer.send(extended(0, DISC, 0, 0, 0)).await;
        peer.expect_end().await;
    });
}

#[test]
fn the_old_way_in_is_none_with_extended_headers() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        peer.agree().await;
        peer.send(option(1, b"disk")).await;
        peer.expect_end().await;
    });
}

#[test]
fn all_replies_are_chunks_that_repeat_the_offset() {
    simulate(|rt| async move {
        let mut peer = agreed(&rt, "disk").await;
        peer.send([extended(PAYLOAD | FUA, WRITE, 1, 511, 3), b"abc".to_vec()].concat()).await;
        peer.expect(done(1, 511)).await;
        for flags in [0, DF, FUA | DF] {
            peer.send(extended(flags, READ, 2, 511, 5)).await;
            peer.expect(reply_chunk(1, 2, 511, b"\0\0\0\0\0\0\x01\xffabc\0\0")).await;
        }
        peer.send(extended(NO_HOLE, ZEROES, 3, 512, 1)).await;
        peer.expect(done(3, 512)).await;
        peer.send(extended(FAST_ZERO | FUA, ZEROES, 4, 513, 1)).await;
        peer.expect(done(4, 513)).await;
        peer.send(extended(0, READ, 5, 510, 4)).await;
        peer.expect(reply_chunk(1, 5, 510, b"\0\0\0\0\0\0\x01\xfe\0a\0\0")).await;
        for (command, offset, len) in [(TRIM, 0, SIZE), (CACHE, 9, 9), (FLUSH, 0, 0)] {
            peer.send(extended(0, command, 6, offset, len)).await;
            peer.expect(done(6, offset)).await;
        }
        for (command, flags) in [(READ, 0), (WRITE, PAYLOAD), (TRIM, 0), (ZEROES, 0), (CACHE, 0)] {
            peer.send(extended(flags, command, 7, SIZE, 0)).await;
            peer.expect(done(7, SIZE)).await;
        }
    });
}

/// Requests as (flags, command, offset, len), with the error that is due. Those with `PAYLOAD` come with
/// their payload; the connection lives.
const REFUSED: &[(u16, u16, u64, u64, u32)] = &[
    // Only a write has a payload.
    (PAYLOAD, READ, 0, 1, EINVAL),
    (PAYLOAD, TRIM, 0, 100_000, EINVAL),
    (PAYLOAD, ZEROES, 0, 100_000, EINVAL),
    (PAYLOAD, FLUSH, 0, 1, EINVAL),
    (PAYLOAD, CACHE, 0, MOST, EINVAL),
    (PAYLOAD, STATUS, 0, 12, EINVAL),
    (PAYLOAD, 999, 0, 77, EINVAL),
    // Ranges, of 64 bits.
    (0, READ, SIZE, 1, EINVAL),
    (0, READ, 0, MOST + 1, EOVERFLOW),
    (0, READ, 0, u64::MAX, EOVERFLOW),
    (PAYLOAD, WRITE, SIZE - 1, 2, ENOSPC),
    (PAYLOAD, WRITE, 0, MOST, ENOSPC),
    (0, WRITE, SIZE, 2, ENOSPC),
    (0, ZEROES, 1, u64::MAX, ENOSPC),
    (0, ZEROES, u64::MAX, u64::MAX, ENOSPC),
    (0, TRIM, 0, SIZE + 1, EINVAL),
    (0, TRIM, 0, 1 << 32, EINVAL),
    (0, CACHE, 2, u64::MAX - 1, EINVAL),
    // Flags and commands that are none, and block status without a context.
    (64, READ, 0, 1, EINVAL),
    (PAYLOAD | NO_HOLE, WRITE, 0, 3, EINVAL),
    (0, FLUSH, 0, 1 << 40, EINVAL),
    (0, STATUS, 0, 512, EINVAL),
    (0, 8, 0, 512, EINVAL),
    (FUA, 999, 0, u64::MAX, EINVAL),
];

#[test]
fn bad_requests_are_refused_one_by_one() {
    simulate(|rt| async move {
        let mut peer = agreed(&rt, "disk").await;
        for (i, &(flags, command, offset, len, errno)) in REFUSED.iter().enumerate() {
            peer.send(extended(flags, command, i as u64, offset, len)).await;
            if flags & PAYLOAD != 0 || command == WRITE {
                peer.send(vec![0xAA; len as usize]).await;
            }
            assert_eq!(peer.error(i as u64, offset).await, errno, "{command} {flags} {len}");
        }
        assert_eq!(peer.house.log(), [""; 0]);
        peer.send(extended(0, FLUSH, 99, 0, 0)).await;
        peer.expect(done(99, 0)).await;
        let mut peer = agreed(&rt, "snap").await;
        peer.send([extended(PAYLOAD, WRITE, 1, 7, 4096), vec![1; 4096]].concat()).await;
        assert_eq!(peer.error(1, 7).await, EPERM);
    });
}

/// QEMU's client does not announce payloads.
#[test]
fn a_write_whose_payload_is_not_announced_has_one() {
    simulate(|rt| async move {
        let mut peer = agreed(&rt, "disk").await;
        peer.send([extended(0, WRITE, 1, 5, 3), b"abc".to_vec(), extended(0, READ, 2, 5, 3)].concat()).await;
        peer.expect(done(1, 5)).await;
        peer.expect(reply_chunk(1, 2, 5, b"\0\0\0\0\0\0\0\x05abc")).await;
        peer.send(extended(0, WRITE, 3, 0, MOST + 1)).await;
        peer.expect_end().await;
    });
}

#[test]
fn who_announces_too_long_a_payload_is_hung_up_on() {
    for (command, len) in [(WRITE, MOST + 1), (WRITE, u64::MAX), (TRIM, MOST + 1), (STATUS, 1 << 40)] {
        simulate(move |rt| async move {
            let mut peer = agreed(&rt, "disk").await;
            peer.send(extended(PAYLOAD, command, 1, 0, len)).await;
            peer.expect_end().await;
        });
    }
}

#[test]
fn headers_that_were_not_agreed_end_the_connection() {
    simulate(|rt| async move {
        let mut peer = agreed(&rt, "disk").await;
        // Shorter than those that were agreed: nothing is waited for.
        peer.send(request(0, FLUSH, 1, 0, 0)).await;
        peer.expect_end().await;
        for structured in [false, true] {
            let mut peer = entered(&rt, "disk", structured).await;
            peer.send(extended(0, FLUSH, 1, 0, 0)).await;
            peer.expect_end().await;
        }
        // The flag is unknown there, and a write has its payload without.
        let mut peer = entered(&rt, "disk", false).await;
        peer.send([request(PAYLOAD, WRITE, 1, 0, 3), b"abc".to_vec()].concat()).await;
        peer.expect(simple(EINVAL, 1)).await;
        peer.send(request(PAYLOAD, TRIM, 2, 0, 3)).await;
        peer.expect(simple(EINVAL, 2)).await;
    });
}

#[test]
fn one_request_may_be_about_a_whole_disk_of_any_size() {
    simulate(|rt| async move {
        let mut peer = agreed(&rt, "huge").await;
        for (flags, command, offset, len) in [
            (0, TRIM, 0, HUGE),
            (FUA, ZEROES, 0, HUGE),
            (NO_HOLE, ZEROES, 4096, 5 * GIB + 1),
            (FUA, TRIM, 1, 4 * GIB),
            (0, CACHE, 0, HUGE),
        ] {
            peer.send(extended(flags, command, 1, offset, len)).await;
            peer.expect(done(1, offset)).await;
        }
        peer.send(extended(0, TRIM, 1, 1, HUGE)).await;
        assert_eq!(peer.error(1, 1).await, EINVAL);
        let wanted = [
            "trim 0+17592186044416",
            "zero 0+17592186044416",
            "flush",
            "zero 4096+5368709121",
            "trim 1+4294967296",
            "flush",
        ];
        assert_eq!(peer.house.log(), wanted);
    });
}

#[test]
fn block_status_has_lengths_of_64_bits_and_other_requests_pass_it() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        peer.agree().await;
        peer.send(option(10, &context_data("huge", &["base:allocation", "qemu:dirty-bitmap:s1"]))).await;
        while peer.answer(10).await.0 == 4 {}
        peer.go("huge").await;
        // Many steps, between which others are served.
        peer.send([extended(REQ_ONE, STATUS, 1, 0, HUGE), extended(0, FLUSH, 2, 0, 0)].concat()).await;
        peer.expect(done(2, 0)).await;
        peer.receive(2 * (32 + 8 + 16)).await;
        assert_eq!(peer.house.log().iter().filter(|what| *what == "status").count(), 8);
        // To the end of the disk: as far as the first step that has more than a hole.
        let from = DATA.start - 8 * GIB;
        peer.send(extended(0, STATUS, 1, from, HUGE - from)).await;
        let told = [(8 * GIB, 3), (64 << 10, 0), (4 * GIB - (64 << 10), 3)];
        let unchanged = |len| extents(2, &[(len, 0)]);
        let mut first = reply_chunk(6, 1, from, &extents(1, &told));
        first[5] = 0;
        peer.expect(first).await;
        peer.expect(reply_chunk(6, 1, from, &unchanged(MAPPED))).await;
        // One extent, from anywhere, and not beyond the range.
        for (offset, len, (told, flags)) in [
            (0, HUGE, (MAPPED, 3)),
            (77 << 20, 6 * GIB + 512, (6 * GIB + 512, 3)),
            (DATA.start + 512, 512, (512, 0)),
            (DATA.start, HUGE - DATA.start, (64 << 10, 0)),
            (DATA.end, HUGE - DATA.end, (MAPPED, 3)),
        ] {
            peer.send(extended(REQ_ONE, STATUS, 3, offset, len)).await;
            let mut first = reply_chunk(6, 3, offset, &extents(1, &[(told, flags)]));
            first[5] = 0;
            peer.expect(first).await;
            peer.expect(reply_chunk(6, 3, offset, &unchanged(len.min(MAPPED)))).await;
        }
        for (offset, len) in [(0, 0), (0, HUGE + 1), (HUGE, 1)] {
            peer.send(extended(0, STATUS, 4, offset, len)).await;
            assert_eq!(peer.error(4, offset).await, EINVAL);
        }
    });
}

/// Data of which parts are zeros comes in chunks, each with the offset of the whole in its header.
#[test]
fn holes_in_reads_are_told() {
    simulate(|rt| async move {
        let house = House::new(&rt);
        let _all = house.memory.try_take(house.memory.total()).unwrap();
        let mut peer = connect(&house, 64 << 10);
        peer.greet().await;
        peer.agree().await;
        peer.go("disk").await;
        // No memory for it in one: two parts.
        peer.send(extended(0, READ, 5, 1000, 300 << 10)).await;
        let mut at = 1000u64;
        for (len, is_last) in [(256 << 10, 0), (44 << 10, 1)] {
            let payload = [&at.to_be_bytes()[..], &vec![0; len as usize]].concat();
            let mut wanted = reply_chunk(1, 5, 1000, &payload);
            wanted[5] = is_last;
            assert!(peer.receive(wanted.len()).await == wanted);
            at += len;
        }
    });
    let mut out = Vec::new();
    let request = super::super::wire::Request::new(0, super::super::wire::Command::Read, 7, 4096, 8192);
    let headers = super::super::wire::Headers::Extended;
    super::super::wire::ReplyTo::new(headers, &request).put_hole_chunk(&mut out, 8192, 4096, true);
    assert_eq!(out, reply_chunk(2, 7, 4096, &[&8192u64.to_be_bytes()[..], &4096u32.to_be_bytes()].concat()));
}

/// The second write is cut off anywhere in its header or payload: the reply is for the offset that was sent.
#[test]
fn another_process_goes_on_with_them() {
    let second = [extended(PAYLOAD | FUA, WRITE, 2, 4096, 600_000), vec![9; 600_000]].concat();
    for cut in [
        0,
        1,
        3,
        31,
        32,
        33,
        70_000,
        65_536 + 32 - 4096,
        262_144 + 32 - 4096,
        300_000,
        599_000,
        second.len() - 1,
    ] {
        let second = second.clone();
        simulate(move |rt| {
            let second = second.clone();
            async move {
                let mut peer = agreed(&rt, "disk").await;
                peer.send([extended(PAYLOAD, WRITE, 1, 5, 3), b"abc".to_vec()].concat()).await;
                peer.expect(done(1, 5)).await;
                peer.send(&second[..cut]).await;
                rt.sleep(Duration::from_millis(cut as u64 % 3)).await;
                let mut peer = peer.moved().await.moved().await;
                peer.send(&second[cut..]).await;
                peer.expect(done(2, 4096)).await;
                peer.send(extended(0, READ, 2, 4095, 3)).await;
                peer.expect(reply_chunk(1, 2, 4095, b"\0\0\0\0\0\0\x0f\xff\0\x09\x09")).await;
            }
        });
    }
}

#[test]
fn what_waits_and_what_is_refused_moves_with_its_offset() {
    simulate(|rt| async move {
        let mut peer = agreed(&rt, "disk").await;
        // Its first piece is done, the last one is not.
        peer.send(extended(PAYLOAD, WRITE, 1, 8192, 400_000)).await;
        peer.send(vec![7; 270_000]).await;
        while peer.house.state.lock().log.len() < 2 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        peer.house.state.lock().delay = Duration::from_secs(3600);
        peer.send(vec![7; 130_000]).await;
        peer.send(extended(0, TRIM, 2, 800_000, 1000)).await;
        rt.sleep(Duration::from_secs(1)).await;
        let house = peer.house.clone();
        let quick = async {
            rt.sleep(Duration::from_millis(100)).await;
            house.state.lock().delay = Duration::ZERO;
        };
        let mut peer = futures::join!(peer.moved(), quick).0;
        let mut replies = [peer.receive(32).await, peer.receive(32).await];
        replies.sort();
        assert_eq!(replies, [done(1, 8192), done(2, 800_000)]);
        let data = peer.house.disk.read(8192, 400_000).await.unwrap().into_bytes();
        assert!(data.iter().all(|byte| *byte == 7));
        // A payload that nobody wants is passed over by both.
        for (command, errno) in [(WRITE, ENOSPC), (TRIM, EINVAL)] {
            peer.send(extended(PAYLOAD, command, 3, SIZE - 9, 100_000)).await;
            peer.send(vec![1; 50_000]).await;
            peer = peer.moved().await;
            peer.send(vec![1; 50_000]).await;
            assert_eq!(peer.error(3, SIZE - 9).await, errno);
        }
        peer.send(extended(0, FLUSH, 4, 0, 0)).await;
        peer.expect(done(4, 0)).await;
    });
}

/// A client that agreed to less is not taken for one that agreed to more, whatever the state's author says.
#[test]
fn the_agreement_moves_with_a_client_that_haggles() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        peer.agree().await;
        let mut peer = peer.moved().await;
        peer.send(option(8, &[])).await;
        peer.refused(8, EXT_HEADER_REQD).await;
        peer.go("disk").await;
        peer.send(extended(0, FLUSH, 1, 0, 0)).await;
        peer.expect(done(1, 0)).await;
        peer.pause.cancel();
        let (_, client) = peer.server.await.unwrap().unwrap();
        let Phase::Entered(entered) = client.state().phase else { panic!("it has entered") };
        assert!(entered.agreed.extended && !entered.agreed.structured);
    });
}
