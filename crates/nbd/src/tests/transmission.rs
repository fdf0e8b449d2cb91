//! Every rule of the transmission phase that applies to this server.

use super::*;
use crate::memory_share::STALL;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ENOTSUP: u32 = 95;
const ESHUTDOWN: u32 = 108;

const OVER: u32 = (32 << 20) + 1;
const END: u64 = SIZE;

/// Requests as (flags, command, offset, len), with the error that is due. Each comes with its payload; the
/// connection lives.
const REFUSED: &[(u16, u16, u64, u32, u32)] = &[
    // Ranges: what would grow the disk has no space, the rest is invalid.
    (0, READ, END, 1, EINVAL),
    (0, READ, u64::MAX, 2, EINVAL),
    (0, WRITE, END - 1, 2, ENOSPC),
    (FUA, WRITE, u64::MAX, 5, ENOSPC),
    (0, ZEROES, END, 1, ENOSPC),
    (0, TRIM, END - 511, 512, EINVAL),
    (0, CACHE, END, 1, EINVAL),
    (0, READ, END + 1, 0, EINVAL),
    // Payloads over the limit.
    (0, READ, 0, OVER, EINVAL),
    (0, WRITE, 0, OVER, EINVAL),
    // Flags that the command doesn't have; DF was not agreed.
    (DF, READ, 0, 1, EINVAL),
    (NO_HOLE, WRITE, 0, 3, EINVAL),
    (FAST_ZERO, TRIM, 0, 1, EINVAL),
    (NO_HOLE, CACHE, 0, 1, EINVAL),
    (8, FLUSH, 0, 0, EINVAL),
    (0x8000, READ, 0, 1, EINVAL),
    (0, FLUSH, 1, 0, EINVAL),
    (0, FLUSH, 0, 1, EINVAL),
    // BLOCK_STATUS without a context, RESIZE, and what nobody has defined.
    (0, 7, 0, 512, EINVAL),
    (0, 8, 0, 512, EINVAL),
    (FUA, 999, 0, u32::MAX, EINVAL),
];

fn payload(command: u16, len: u32) -> Vec<u8> {
    // A payload that was not drained would be read as requests and end the connection.
    if command == WRITE { vec![0xAA; len as usize] } else { Vec::new() }
}

#[test]
fn bad_requests_are_refused_one_by_one() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        for (i, &(flags, command, offset, len, errno)) in REFUSED.iter().enumerate() {
            peer.send(request(flags, command, i as u64, offset, len)).await;
            peer.send(payload(command, len)).await;
            peer.expect(simple(errno, i as u64)).await;
        }
        assert_eq!(peer.house.log(), [""; 0]);
        peer.send(request(0, READ, 99, 0, 3)).await;
        peer.expect([simple(0, 99), vec![0; 3]].concat()).await;
    });
}

#[test]
fn bad_requests_are_refused_with_reasons_when_replies_have_structure() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", true).await;
        for (i, &(flags, command, offset, len, errno)) in REFUSED.iter().enumerate() {
            if (flags, command) == (DF, READ) {
                continue;
            }
            peer.send(request(flags, command, i as u64, offset, len)).await;
            peer.send(payload(command, len)).await;
            let (seen, why) = peer.error_chunk(i as u64).await;
            let smaller_would_do = command == READ && len == OVER;
            assert_eq!(seen, if smaller_would_do { EOVERFLOW } else { errno }, "{command} {flags} {len}");
            assert_ne!(why, "");
        }
    });
}

#[test]
fn writes_to_a_snapshot_are_not_permitted() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "snap", false).await;
        for (flags, command) in [(0, WRITE), (FUA, WRITE), (0, TRIM), (0, ZEROES), (NO_HOLE, ZEROES)] {
            peer.send(request(flags, command, 1, 0, 4096)).await;
            peer.send(payload(command, 4096)).await;
            peer.expect(simple(EPERM, 1)).await;
        }
        for (command, len) in [(FLUSH, 0), (CACHE, 512)] {
            peer.send(request(0, command, 2, 0, len)).await;
            peer.expect(simple(0, 2)).await;
        }
        peer.send(request(0, READ, 3, END - 4, 4)).await;
        peer.expect([simple(0, 3), vec![0; 4]].concat()).await;
        assert_eq!(peer.house.log(), ["flush", ".flush", "read 1048572+4", ".read 1048572+4"]);
    });
}

#[test]
fn data_is_written_read_zeroed_and_trimmed() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        peer.send([request(0, WRITE, 1, 1, 3), b"abc".to_vec()].concat()).await;
        peer.expect(simple(0, 1)).await;
        peer.send(request(0, READ, 2, 0, 5)).await;
        peer.expect([simple(0, 2), b"\0abc\0".to_vec()].concat()).await;
        peer.send(request(NO_HOLE, ZEROES, 3, 2, 1)).await;
        peer.expect(simple(0, 3)).await;
        peer.send(request(FAST_ZERO | FUA, ZEROES, 4, 3, 1)).await;
        peer.expect(simple(0, 4)).await;
        peer.send(request(0, READ, 5, 0, 5)).await;
        peer.expect([simple(0, 5), b"\0a\0\0\0".to_vec()].concat()).await;
        peer.send(request(0, TRIM, 6, 0, SIZE as u32)).await;
        peer.expect(simple(0, 6)).await;
        let log = peer.house.log();
        assert!(log.contains(&"zero 2+1 no hole".to_string()), "{log:?}");
        assert!(log.contains(&"trim 0+1048576".to_string()), "{log:?}");
    });
}

#[test]
fn fua_flushes_after_what_writes_and_is_taken_everywhere() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        for (command, len, flushes) in
            [(WRITE, 2, true), (ZEROES, 2, true), (TRIM, 2, true), (READ, 2, false), (CACHE, 2, false)]
        {
            peer.send(request(FUA, command, 1, 0, len)).await;
            peer.send(payload(command, len)).await;
            peer.expect(simple(0, 1)).await;
            if command == READ {
                peer.receive(2).await;
            }
            let log = peer.house.log();
            assert_eq!(log.len(), if flushes { 4 } else { 2 * usize::from(command == READ) });
            // The flush begins when the write has ended.
            assert!(!flushes || log[2..] == ["flush", ".flush"], "{log:?}");
        }
        peer.send(request(FUA, FLUSH, 2, 0, 0)).await;
        peer.expect(simple(0, 2)).await;
        assert_eq!(peer.house.log(), ["flush", ".flush"]);
    });
}

#[test]
fn empty_ranges_are_answered_and_do_nothing() {
    simulate(|rt| async move {
        for structured in [false, true] {
            let mut peer = entered(&rt, "disk", structured).await;
            for command in [READ, WRITE, TRIM, ZEROES, CACHE] {
                for offset in [0, END] {
                    peer.send(request(0, command, 1, offset, 0)).await;
                    let none = structured && command == READ;
                    peer.expect(if none { chunk(0, 1, &[]) } else { simple(0, 1) }).await;
                }
            }
            assert_eq!(peer.house.log(), [""; 0]);
        }
    });
}

#[test]
fn structured_reads_are_one_chunk_with_its_offset() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", true).await;
        peer.send([request(0, WRITE, 1, 512, 3), b"abc".to_vec()].concat()).await;
        peer.expect(simple(0, 1)).await;
        for flags in [0, DF, FUA | DF] {
            peer.send(request(flags, READ, 2, 511, 5)).await;
            peer.expect(chunk(1, 2, b"\0\0\0\0\0\0\x01\xff\0abc\0")).await;
        }
        let mut long = vec![0; 8 + 600_000];
        long[8 + 512..8 + 515].copy_from_slice(b"abc");
        peer.send(request(DF, READ, 3, 0, 600_000)).await;
        peer.expect(chunk(1, 3, &long)).await;
    });
}

#[test]
fn failures_become_the_protocols_errors() {
    let cases = [
        (Kind::NoSpace, ENOSPC),
        (Kind::ReadOnly, EPERM),
        (Kind::Closed, ESHUTDOWN),
        (Kind::Unavailable, EIO),
        (Kind::Corrupt, EIO),
        (Kind::Fenced, EIO),
        (Kind::Unsupported, EINVAL),
    ];
    simulate(move |rt| async move {
        for structured in [false, true] {
            let mut peer = entered(&rt, "disk", structured).await;
            for (kind, errno) in cases {
                peer.house.state.lock().failing = Some((kind, "the reason"));
                for (flags, command, len) in [(0, READ, 9), (FUA, WRITE, 9), (0, FLUSH, 0)] {
                    peer.send([request(flags, command, 5, 0, len), payload(command, len)].concat()).await;
                    match structured {
                        true => assert_eq!(peer.error_chunk(5).await, (errno, "the reason".into())),
                        false => peer.expect(simple(errno, 5)).await,
                    }
                }
            }
            // Only a fast zero may be answered with ENOTSUP.
            for (flags, errno) in [(0, EINVAL), (FAST_ZERO, ENOTSUP)] {
                peer.send(request(flags, ZEROES, 6, 0, 9)).await;
                match structured {
                    true => assert_eq!(peer.error_chunk(6).await.0, errno),
                    false => peer.expect(simple(errno, 6)).await,
                }
            }
        }
    });
}

#[test]
fn a_read_of_the_wrong_length_is_an_error_not_a_shifted_stream() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        peer.house.state.lock().short_reads = true;
        peer.send(request(0, READ, 5, 0, 9)).await;
        peer.expect(simple(EIO, 5)).await;
    });
}

#[test]
fn replies_come_in_the_order_in_which_work_ends() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        peer.house.state.lock().delay = Duration::from_secs(1);
        peer.send(request(0, FLUSH, 1, 0, 0)).await;
        while peer.house.state.lock().log.is_empty() {
            rt.sleep(Duration::from_millis(1)).await;
        }
        peer.house.state.lock().delay = Duration::ZERO;
        peer.send([request(0, WRITE, 2, 0, 1), vec![1]].concat()).await;
        peer.expect(simple(0, 2)).await;
        peer.expect(simple(0, 1)).await;
    });
}

/// After a goodbye what was begun is finished. A client that goes without one asks again elsewhere for what was not
/// answered: its write is given up. Either way the handle is dropped then.
#[test]
fn writes_are_finished_after_a_goodbye_and_given_up_without_one() {
    #[derive(Clone, Copy, PartialEq)]
    enum Going {
        Disc,
        Eof,
        Gone,
        Garbage,
    }
    for going in [Going::Disc, Going::Eof, Going::Gone, Going::Garbage] {
        simulate(move |rt| async move {
            let mut peer = entered(&rt, "disk", false).await;
            peer.house.state.lock().delay = Duration::from_secs(1);
            peer.send([request(FUA, WRITE, 1, 0, 1), vec![1]].concat()).await;
            peer.send(request(0, READ, 2, 4096, 4096)).await;
            match going {
                Going::Disc => peer.send(request(0, DISC, 0, 0, 0)).await,
                Going::Eof => peer.io.shutdown().await.unwrap(),
                Going::Garbage => peer.send([b'X'; 28]).await,
                Going::Gone => {}
            }
            let mut seen = Vec::new();
            if going != Going::Gone {
                peer.io.read_to_end(&mut seen).await.unwrap();
            }
            drop(peer.io);
            peer.server.await.unwrap();
            let read = [simple(0, 2), vec![0; 4096]].concat();
            match going {
                Going::Disc => assert_eq!(seen, [read, simple(0, 1)].concat()),
                Going::Eof | Going::Garbage => assert_eq!(seen, read),
                Going::Gone => {}
            }
            let log = peer.house.log();
            match going {
                Going::Disc => assert_eq!(log.last().unwrap(), ".flush", "{log:?}"),
                _ => assert_eq!(log, ["write 0+1", "read 4096+4096", ".read 4096+4096"]),
            }
            assert_eq!(peer.house.state.lock().open, 0);
        });
    }
}

#[test]
fn what_was_not_answered_lands_on_nothing_that_came_after() {
    simulate(|rt| async move {
        let house = House::new(&rt);
        for command in [WRITE, ZEROES, TRIM] {
            let mut lost = entered_at(&house, "disk", false).await;
            house.log();
            house.state.lock().delay = Duration::from_secs(10);
            lost.send([request(0, command, 1, 0, 1), payload(command, 1)].concat()).await;
            while house.log().is_empty() {
                rt.sleep(Duration::from_millis(1)).await;
            }
            drop(lost.io);
            house.state.lock().delay = Duration::ZERO;
            // On another connection it asks again, is answered, and goes on.
            let mut next = entered_at(&house, "disk", false).await;
            for fill in [0xAA, 7] {
                next.send([request(0, WRITE, 2, 0, 1), vec![fill]].concat()).await;
                next.expect(simple(0, 2)).await;
            }
            rt.sleep(Duration::from_secs(20)).await;
            next.send(request(0, READ, 3, 0, 1)).await;
            next.expect([simple(0, 3), vec![7]].concat()).await;
        }
    });
}

#[test]
fn a_client_that_takes_no_replies_is_not_read_any_further() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        let reads: Vec<u8> = (0..400).flat_map(|i| request(0, READ, i, 0, 16 << 10)).collect();
        peer.send(&reads).await;
        rt.sleep(Duration::from_secs(1)).await;
        let begun = peer.house.log().len() / 2;
        // A quarter of the memory for requests, and what the pipe holds.
        assert!((32..=38).contains(&begun), "{begun} × 16 KiB are held for a client that takes none");
        for _ in 0..400 {
            peer.receive(16 + (16 << 10)).await;
        }
        peer.send(request(0, DISC, 0, 0, 0)).await;
        peer.expect_end().await;
    });
}

#[test]
fn replies_without_data_are_bounded_as_well() {
    simulate(|rt| async move {
        let house = House::new(&rt);
        let memory = house.memory.clone();
        // Others have it all.
        let _all = memory.try_take(memory.total()).unwrap();
        let mut peer = entered_at(&house, "disk", false).await;
        let flushes: Vec<u8> = (0..100_000).flat_map(|i| request(0, FLUSH, i, 0, 0)).collect();
        assert!(rt.timeout(Duration::from_secs(5), peer.io.write_all(&flushes)).await.is_none());
        let begun = house.log().len() / 2;
        let most = (crate::memory_share::FLOOR as usize + (64 << 10)) / 16;
        assert!(
            (10_000..=most + 1).contains(&begun),
            "{begun} replies are held for a client that takes none"
        );
    });
}

#[test]
fn requests_under_way_are_bounded() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        peer.house.state.lock().delay = Duration::from_secs(3);
        peer.send((0..1000).flat_map(|i| request(0, FLUSH, i, 0, 0)).collect::<Vec<_>>()).await;
        rt.sleep(Duration::from_secs(1)).await;
        assert_eq!(peer.house.log().len(), 256);
        let mut seen: Vec<_> = Vec::new();
        for _ in 0..1000 {
            seen.push(peer.receive(16).await);
        }
        seen.sort();
        assert!(seen.into_iter().eq((0..1000).map(|i| simple(0, i))));
    });
}

/// A write whose payload stops arriving holds but one piece, of the connection's own memory.
#[test]
fn a_sender_that_stands_still_costs_only_itself() {
    simulate(|rt| async move {
        let house = House::new(&rt);
        let mut still = Vec::new();
        for sent in [0, 1, 100 << 10, 700 << 10] {
            let mut peer = entered_at(&house, "disk", false).await;
            peer.send(request(0, WRITE, 3, 0, SIZE as u32)).await;
            peer.send(vec![7; sent]).await;
            still.push(peer);
        }
        rt.sleep(Duration::from_secs(1)).await;
        assert_eq!(house.memory.used(), 0);
        let mut other = entered_at(&house, "disk", true).await;
        let start = rt.now();
        for cookie in 0..5 {
            other.send([request(0, WRITE, cookie, 0, SIZE as u32), vec![9; SIZE as usize]].concat()).await;
            other.expect(simple(0, cookie)).await;
        }
        assert!(rt.now().since(start) < Duration::from_secs(5), "{:?}", rt.now().since(start));
        // They are not hung up on either, and may go on.
        let mut last = still.pop().unwrap();
        last.send(vec![7; SIZE as usize - (700 << 10)]).await;
        last.expect(simple(0, 3)).await;
    });
}

/// Memory held for a client that takes no replies slows others down, and stops nobody.
#[test]
fn long_reads_go_on_while_others_hold_all_memory() {
    simulate(|rt| async move {
        let house = House::new(&rt);
        let data: Vec<u8> = (0..SIZE).map(|i| (i / 77) as u8).collect();
        let mut peer = entered_at(&house, "disk", false).await;
        peer.send([request(0, WRITE, 1, 0, SIZE as u32), data.clone()].concat()).await;
        peer.expect(simple(0, 1)).await;
        let _all = house.memory.try_take(house.memory.total()).unwrap();
        let start = rt.now();
        // Without structure, and with replies that must not be cut.
        peer.send([request(0, READ, 2, 0, SIZE as u32), request(0, READ, 3, 1, 3)].concat()).await;
        peer.expect([simple(0, 2), data.clone(), simple(0, 3), data[1..4].to_vec()].concat()).await;
        let mut peer = entered_at(&house, "disk", true).await;
        peer.send(request(DF, READ, 4, 0, SIZE as u32)).await;
        peer.expect(chunk(1, 4, &[&[0; 8][..], &data].concat())).await;
        // In chunks.
        peer.send(request(0, READ, 5, 1000, 600_000)).await;
        let mut at = 1000;
        for (len, done) in [(256 << 10, 0), (256 << 10, 0), (600_000 - (512 << 10), 1)] {
            let mut wanted = chunk(1, 5, &[&(at as u64).to_be_bytes()[..], &data[at..at + len]].concat());
            wanted[5] = done;
            peer.expect(wanted).await;
            at += len;
        }
        assert!(rt.now().since(start) < Duration::from_secs(5));
    });
}

/// The header of the whole has left: a reply that lands before the last part would be taken for data.
#[test]
fn nothing_is_answered_amid_a_read_that_is_done_in_parts() {
    const LEN: usize = 300 << 10;
    // The last part is a short one, or memory came back midway and it is a long one.
    for (len, freed) in [(LEN, false), (SIZE as usize, true)] {
        for structured in [false, true] {
            simulate(move |rt| async move {
                let house = House::new(&rt);
                let data: Vec<u8> = (0..len).map(|i| (i / 77) as u8).collect();
                let mut peer = entered_at(&house, "disk", structured).await;
                peer.send([request(0, WRITE, 1, 0, len as u32), data.clone()].concat()).await;
                peer.expect(simple(0, 1)).await;
                let mut all = house.memory.try_take(house.memory.total());
                house.log();
                house.state.lock().delay = Duration::from_secs(1);
                let flags = if structured { DF } else { 0 };
                let behind = [request(0, CACHE, 3, 0, 512), request(0, FLUSH, 4, 0, 0)].concat();
                peer.send([request(flags, READ, 2, 0, len as u32), behind].concat()).await;
                let whole = match structured {
                    true => chunk(1, 2, &[&[0; 8][..], &data].concat()),
                    false => [simple(0, 2), data].concat(),
                };
                let mut seen = peer.receive(1000).await;
                if freed {
                    all = None;
                }
                seen.extend(peer.receive(whole.len() - len + (256 << 10) - 1000).await);
                while !house.state.lock().log.contains(&format!("read 262144+{}", len - (256 << 10))) {
                    rt.sleep(Duration::from_millis(1)).await;
                }
                house.state.lock().delay = Duration::ZERO;
                peer.send(request(0, FLUSH, 5, 0, 0)).await;
                seen.extend(peer.receive(whole.len() - seen.len()).await);
                assert!(seen == whole, "another reply amid the read's data");
                for cookie in [3, 4, 5] {
                    peer.expect(simple(0, cookie)).await;
                }
                drop(all);
            });
        }
    }
}

#[test]
fn a_long_read_that_fails_half_way_says_so_or_hangs_up() {
    simulate(|rt| async move {
        let house = House::new(&rt);
        let _all = house.memory.try_take(house.memory.total()).unwrap();
        for structured in [true, false] {
            let mut peer = entered_at(&house, "disk", structured).await;
            peer.send(request(0, READ, 1, 0, SIZE as u32)).await;
            let head = if structured { 28 } else { 16 };
            peer.receive(head + (100 << 10)).await;
            house.state.lock().failing = Some((Kind::Corrupt, "the reason"));
            // What was read before: this part, and the next where all of this one has left already.
            let mut rest = vec![0; 156 << 10];
            peer.io.read_exact(&mut rest).await.unwrap();
            if structured {
                assert_eq!(peer.error_chunk(1).await, (EIO, "the reason".into()));
                house.state.lock().failing = None;
                peer.send(request(0, READ, 2, 0, 1)).await;
                peer.receive(28 + 1).await;
            } else {
                peer.expect_end().await;
                house.state.lock().failing = Some((Kind::Corrupt, "the reason"));
                let mut peer = entered_at(&house, "disk", false).await;
                peer.send(request(0, READ, 2, 0, SIZE as u32)).await;
                peer.expect(simple(EIO, 2)).await;
            }
            house.state.lock().failing = None;
            house.log();
        }
    });
}

#[test]
fn a_client_that_takes_no_replies_while_others_wait_for_memory_is_dropped() {
    // Nor one that takes a little all the time, and less than others could use.
    for slow in [false, true] {
        simulate(move |rt| async move {
            let house = House::new(&rt);
            let mut deaf = entered_at(&house, "disk", false).await;
            deaf.send(request(0, READ, 0, 0, SIZE as u32)).await;
            rt.sleep(STALL * 3).await;
            assert_eq!(house.state.lock().open, 1, "nobody waits");
            let _rest = house.memory.try_take(house.memory.total() - house.memory.used());
            let start = rt.now();
            let mut other = entered_at(&house, "disk", false).await;
            while house.state.lock().open > 1 {
                other.send(request(0, READ, 4, 0, SIZE as u32)).await;
                rt.sleep(Duration::from_millis(100)).await;
                other.receive(16 + (1 << 20)).await;
                if slow {
                    let _ = rt.timeout(Duration::from_millis(1), deaf.io.read_exact(&mut [0; 1000])).await;
                }
                assert!(rt.now().since(start) < STALL * 4);
            }
            let mut rest = Vec::new();
            deaf.io.read_to_end(&mut rest).await.unwrap();
            assert!(rest.len() < 1 << 20, "only what had left already");
        });
    }
}

#[test]
fn a_long_write_is_done_frame_by_frame() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        let len = 600_000;
        peer.send([request(FUA, WRITE, 1, 1000, len), vec![5; len as usize]].concat()).await;
        peer.expect(simple(0, 1)).await;
        let mut wanted = vec!["write 1000+64536".to_string()];
        wanted.extend((1..9).map(|n| format!("write {}+65536", n << 16)));
        wanted.extend(["write 589824+11176".into(), "flush".into()]);
        let log = peer.house.log();
        assert!(log.iter().step_by(2).eq(wanted.iter()), "{log:?}");
        // What is no longer than so takes effect as a whole.
        let len = 256 << 10;
        peer.send([request(0, WRITE, 1, 1000, len), vec![5; len as usize]].concat()).await;
        peer.expect(simple(0, 1)).await;
        assert_eq!(peer.house.log(), ["write 1000+262144", ".write 1000+262144"]);
        // A piece that fails is the write's failure; the stream goes on behind it.
        peer.house.state.lock().delay = Duration::from_secs(1);
        peer.send(request(0, WRITE, 2, 0, SIZE as u32)).await;
        peer.send(vec![6; 300 << 10]).await;
        peer.house.state.lock().failing = Some((Kind::NoSpace, "the reason"));
        rt.sleep(Duration::from_secs(3)).await;
        peer.house.state.lock().failing = None;
        peer.send(vec![6; SIZE as usize - (300 << 10)]).await;
        peer.expect(simple(ENOSPC, 2)).await;
        // What came behind that piece was passed over.
        peer.send(request(0, READ, 3, 600_000, 1)).await;
        peer.expect([simple(0, 3), vec![5]].concat()).await;
    });
}

#[test]
fn the_largest_write_goes_through_in_pieces() {
    simulate(|rt| async move {
        let house = House::new(&rt);
        let mut peer = connect(&house, 3000);
        peer.greet().await;
        peer.go("disk").await;
        for len in [16 << 10, (16 << 10) + 1, 100_001, SIZE as u32] {
            let data: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
            // A small request right behind, so that its header shares a receive with the payload's end.
            peer.send([request(0, WRITE, 1, 0, len), data.clone(), request(0, FLUSH, 2, 0, 0)].concat())
                .await;
            peer.expect([simple(0, 1), simple(0, 2)].concat()).await;
            peer.send(request(0, READ, 3, 0, len)).await;
            peer.expect([simple(0, 3), data].concat()).await;
        }
    });
}

#[test]
fn a_server_that_stops_finishes_and_hangs_up() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        peer.house.state.lock().delay = Duration::from_secs(3);
        peer.send([request(0, WRITE, 1, 0, 1), vec![1]].concat()).await;
        rt.sleep(Duration::from_secs(1)).await;
        peer.stop.cancel();
        // An error would reach a guest; what is not answered is sent again to the next server.
        peer.send([request(0, WRITE, 2, 0, 1), vec![2]].concat()).await;
        peer.expect(simple(0, 1)).await;
        let house = peer.house.clone();
        peer.expect_end().await;
        assert_eq!(house.log(), ["write 0+1", ".write 0+1"]);
    });
}

#[test]
fn a_server_that_stops_gives_up_what_does_not_end() {
    simulate(|rt| async move {
        let before = rt.now();
        let mut peer = entered(&rt, "disk", true).await;
        peer.house.state.lock().delay = Duration::from_secs(1_000_000);
        peer.send(request(0, FLUSH, 1, 0, 0)).await;
        rt.sleep(Duration::from_secs(1)).await;
        peer.stop.cancel();
        peer.expect_end().await;
        // Nor does a client keep it that takes no replies, or has said goodbye already.
        for goodbye in [vec![], request(0, DISC, 0, 0, 0)] {
            let mut peer = entered(&rt, "disk", false).await;
            peer.send([request(0, READ, 1, 0, SIZE as u32), goodbye].concat()).await;
            rt.sleep(Duration::from_secs(1)).await;
            peer.stop.cancel();
            peer.server.await.unwrap();
            assert_eq!(peer.house.state.lock().open, 0);
        }
        assert!(rt.now().since(before) < Duration::from_secs(120));
    });
}

#[test]
fn an_idle_connection_ends_with_its_server() {
    simulate(|rt| async move {
        let peer = entered(&rt, "disk", true).await;
        peer.stop.cancel();
        peer.expect_end().await;
        // And one whose client doesn't notice.
        let before = rt.now();
        let peer = entered(&rt, "disk", true).await;
        peer.stop.cancel();
        peer.server.await.unwrap();
        assert!(rt.now().since(before) < Duration::from_secs(30));
        drop(peer.io);
    });
}
