//! Every rule of option haggling that applies to this server.

use super::*;

const ACK: u32 = 1;
const UNSUP: u32 = 1;
const POLICY: u32 = 2;
const INVALID: u32 = 3;
const UNKNOWN: u32 = 6;
const SHUTDOWN: u32 = 7;
const TOO_BIG: u32 = 9;

/// Flags of `disk`: HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN,
/// SEND_FAST_ZERO.
const DISK_FLAGS: u16 = 0b1001_0110_1101;
/// Flags of `snap`: HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, CAN_MULTI_CONN.
const SNAP_FLAGS: u16 = 0b1_0000_1111;
const SEND_DF: u16 = 1 << 7;

fn export_info(flags: u16) -> Vec<u8> {
    [&[0, 0][..], &SIZE.to_be_bytes(), &flags.to_be_bytes()].concat()
}

async fn haggling(rt: &Rt) -> Peer {
    let mut peer = connect(&House::new(rt), 64 << 10);
    peer.greet().await;
    peer
}

#[test]
fn flags_that_were_not_offered_end_the_connection() {
    for flags in [4u32, 0x8000_0003] {
        simulate(move |rt| async move {
            let mut peer = connect(&House::new(&rt), 64);
            peer.receive(18).await;
            peer.send(flags.to_be_bytes()).await;
            peer.expect_end().await;
        });
    }
}

#[test]
fn an_old_client_enters_by_name_and_has_its_zeroes() {
    for (client_flags, zeroes) in [(0u32, 124), (1, 124), (2, 0), (3, 0)] {
        simulate(move |rt| async move {
            let mut peer = connect(&House::new(&rt), 64);
            peer.receive(18).await;
            peer.send(client_flags.to_be_bytes()).await;
            peer.send(option(1, b"disk")).await;
            peer.expect([&SIZE.to_be_bytes()[..], &DISK_FLAGS.to_be_bytes(), &vec![0; zeroes]].concat())
                .await;
            peer.send(request(0, READ, 7, 0, 3)).await;
            peer.expect([simple(0, 7), vec![0; 3]].concat()).await;
            peer.send(request(0, DISC, 0, 0, 0)).await;
            peer.expect_end().await;
        });
    }
}

#[test]
fn without_fixed_newstyle_only_the_name_is_legal() {
    simulate(|rt| async move {
        let mut peer = connect(&House::new(&rt), 64);
        peer.receive(18).await;
        peer.send([0, 0, 0, 0]).await;
        peer.send(option(3, &[])).await;
        peer.expect_end().await;
    });
}

#[test]
fn a_name_that_cannot_be_entered_ends_the_connection() {
    let long = vec![b'a'; 5000];
    for name in [&b"nothing"[..], b"owned", b"\xff", &long, &vec![b'a'; 40_000]] {
        let name = name.to_vec();
        simulate(move |rt| {
            let name = name.clone();
            async move {
                let mut peer = haggling(&rt).await;
                peer.send(option(1, &name)).await;
                peer.expect_end().await;
            }
        });
    }
}

#[test]
fn unknown_options_are_refused_and_drained() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        // PEEK_EXPORT, STARTTLS, and what nobody has defined.
        for code in [0, 4, 5, 12, 0xffff_ffff] {
            peer.send(option(code, &[])).await;
            assert_ne!(peer.refused(code, UNSUP).await, "");
            if code != 5 {
                for len in [1, 16 << 10, 100_000] {
                    peer.send(option(code, &vec![b'I'; len])).await;
                    peer.refused(code, UNSUP).await;
                }
            }
        }
        peer.go("disk").await;
    });
}

#[test]
fn options_without_data_refuse_data() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        for code in [3, 5, 8, 11] {
            peer.send(option(code, b"x")).await;
            peer.refused(code, INVALID).await;
        }
        // Neither structured replies nor extended headers were agreed by that.
        peer.go("disk").await;
        peer.send(request(0, READ, 1, 0, 1)).await;
        peer.expect([simple(0, 1), vec![0]].concat()).await;
    });
}

#[test]
fn what_is_too_long_is_drained_or_ends_the_connection() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        for code in [3, 6, 7, 8, 9, 10, 11] {
            peer.send(option(code, &vec![b'I'; (16 << 10) + 1])).await;
            peer.refused(code, TOO_BIG).await;
        }
        let mut endless = option(3, &[]);
        endless[12..].copy_from_slice(&(33u32 << 20).to_be_bytes());
        peer.send(endless).await;
        peer.expect_end().await;
    });
}

#[test]
fn a_wrong_magic_ends_the_connection() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        peer.send(b"IHAVEOPS\0\0\0\x03\0\0\0\0").await;
        peer.expect_end().await;
    });
}

#[test]
fn abort_is_acknowledged_whatever_comes_with_it() {
    for data in [&b""[..], b"bye", &[0; 50_000]] {
        simulate(move |rt| async move {
            let mut peer = haggling(&rt).await;
            peer.send(option(2, data)).await;
            peer.expect(reply(2, ACK, &[])).await;
            peer.expect_end().await;
        });
        // And the client may be gone before the answer.
        simulate(move |rt| async move {
            let mut peer = haggling(&rt).await;
            peer.send(option(2, data)).await;
            drop(peer.io);
            peer.server.await.unwrap();
        });
    }
}

#[test]
fn list_shows_names_with_their_texts() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        peer.send(option(3, &[])).await;
        peer.expect(reply(3, 2, b"\0\0\0\x04diskthe disk")).await;
        peer.expect(reply(3, 2, b"\0\0\0\x04snapthe snap")).await;
        peer.expect(reply(3, 2, b"\0\0\0\x05ownedthe owned")).await;
        peer.expect(reply(3, ACK, &[])).await;
    });
}

#[test]
fn info_and_go_say_the_same_and_info_opens_nothing() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        peer.structured().await;
        for code in [6, 7] {
            // NAME, an unknown one, BLOCK_SIZE, DESCRIPTION; the empty name is the default's.
            peer.send(option(code, &info_data("", &[1, 77, 3, 2]))).await;
            peer.expect(reply(code, 3, &export_info(DISK_FLAGS | SEND_DF))).await;
            peer.expect(reply(code, 3, b"\0\x01disk")).await;
            peer.expect(reply(code, 3, b"\0\x02the disk")).await;
            peer.expect(reply(code, 3, b"\0\x03\0\0\x02\0\0\0\x10\0\x02\0\0\0")).await;
            peer.expect(reply(code, ACK, &[])).await;
            assert_eq!(peer.house.state.lock().open, usize::from(code == 7));
        }
        peer.send(request(0, DISC, 0, 0, 0)).await;
        peer.expect_end().await;
    });
}

#[test]
fn contexts_are_listed_and_set_where_structured_replies_are() {
    const ALLOCATION: &[u8] = b"base:allocation";
    let context = |id: u32| [&id.to_be_bytes()[..], ALLOCATION].concat();
    simulate(move |rt| async move {
        let mut peer = haggling(&rt).await;
        for code in [9, 10] {
            peer.send(option(code, &context_data("disk", &["base:allocation"]))).await;
            peer.refused(code, INVALID).await;
        }
        peer.structured().await;
        let listed: [&[&str]; 3] = [&["base:"], &["base:allocation"], &["qemu:x", "base:allocation"]];
        for queries in listed {
            peer.send(option(9, &context_data("", queries))).await;
            peer.expect(reply(9, 4, &context(0))).await;
            peer.expect(reply(9, ACK, &[])).await;
        }
        let none: [(u32, &[&str]); 4] = [(9, &["qemu:x"]), (9, &["base:other"]), (10, &[]), (10, &["base:"])];
        for (code, queries) in none {
            peer.send(option(code, &context_data("disk", queries))).await;
            peer.expect(reply(code, ACK, &[])).await;
        }
        for code in [9, 10] {
            peer.send(option(code, &context_data("nothing", &[]))).await;
            peer.refused(code, UNKNOWN).await;
            let mut more = context_data("disk", &["base:allocation"]);
            more[11] = 2;
            let mut longer = context_data("disk", &["base:allocation"]);
            longer.push(0);
            for bad in [b"\0\0\0\x05disk".to_vec(), b"\0\0\0\x04disk".to_vec(), more, longer, vec![0xff; 12]]
            {
                peer.send(option(code, &bad)).await;
                peer.refused(code, INVALID).await;
            }
        }
        peer.send(option(10, &context_data("disk", &["base:allocation"]))).await;
        peer.expect(reply(10, 4, &context(1))).await;
        peer.expect(reply(10, ACK, &[])).await;
        peer.go("disk").await;
        peer.send(request(0, 7, 9, 0, 4096)).await;
        peer.expect(chunk(5, 9, &[0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 3])).await;
    });
}

#[test]
fn changes_since_snapshots_are_listed_and_told_beside_the_allocation() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        peer.structured().await;
        let listed: [(&[&str], usize); 5] = [
            (&[], 1 + 256),
            (&["qemu:"], 256),
            (&["qemu:dirty-bitmap:"], 256),
            (&["qemu:dirty-bitmap:s299"], 1),
            (&["qemu:dirty-bitmap:none"], 0),
        ];
        for (queries, many) in listed {
            peer.send(option(9, &context_data("disk", queries))).await;
            let mut names = Vec::new();
            loop {
                match peer.answer(9).await {
                    (4, data) => names.push(String::from_utf8(data[4..].to_vec()).unwrap()),
                    other => break assert_eq!(other.0, ACK),
                }
            }
            assert_eq!(names.len(), many, "{queries:?}");
            assert!(many != 1 || names == queries, "{names:?}");
        }
        let many: Vec<String> = (0..17).map(|n| format!("qemu:dirty-bitmap:s{n}")).collect();
        let many: Vec<&str> = many.iter().map(|name| &**name).collect();
        peer.send(option(10, &context_data("disk", &many))).await;
        peer.refused(10, TOO_BIG).await;
        // One that went after it was agreed.
        peer.send(option(10, &context_data("disk", &["qemu:dirty-bitmap:s7"]))).await;
        while peer.answer(10).await.0 == 4 {}
        peer.send(option(7, &info_data("disk", &[]))).await;
        assert_eq!(peer.refused(7, UNKNOWN).await, "snapshot s7 was removed");
        let queries =
            ["qemu:dirty-bitmap:s3", "base:allocation", "qemu:dirty-bitmap:s3", "qemu:dirty-bitmap:no"];
        peer.send(option(10, &context_data("disk", &queries))).await;
        peer.expect(reply(10, 4, b"\0\0\0\x01base:allocation")).await;
        peer.expect(reply(10, 4, b"\0\0\0\x02qemu:dirty-bitmap:s3")).await;
        peer.expect(reply(10, ACK, &[])).await;
        peer.go("disk").await;
        peer.send(request(0, 7, 9, 4096, 8192)).await;
        let mut first = chunk(5, 9, &[0, 0, 0, 1, 0, 0, 32, 0, 0, 0, 0, 3]);
        // Another follows.
        first[5] = 0;
        peer.expect(first).await;
        peer.expect(chunk(5, 9, &[0, 0, 0, 2, 0, 0, 16, 0, 0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 0])).await;
        let one = 8;
        peer.send(request(one, 7, 10, 0, 8192)).await;
        peer.receive(20 + 12).await;
        peer.expect(chunk(5, 10, &[0, 0, 0, 2, 0, 0, 16, 0, 0, 0, 0, 0])).await;
    });
}

#[test]
fn block_status_is_that_of_the_export_it_was_agreed_for() {
    // Another's, none, one that a later option took back, and one that a later option failed to set.
    let others: [&[(&str, &[&str])]; 4] = [
        &[("snap", &["base:allocation"])],
        &[],
        &[("disk", &["base:allocation"]), ("disk", &[])],
        &[("disk", &["base:allocation"]), ("nothing", &["base:allocation"])],
    ];
    for asked in others {
        simulate(move |rt| async move {
            let mut peer = haggling(&rt).await;
            peer.structured().await;
            for (export, queries) in asked {
                peer.send(option(10, &context_data(export, queries))).await;
                while peer.answer(10).await.0 == 4 {}
            }
            peer.go("disk").await;
            peer.send(request(0, 7, 1, 0, 4096)).await;
            assert_eq!(peer.error_chunk(1).await.0, 22);
            // The connection lives on.
            peer.send(request(0, FLUSH, 2, 0, 0)).await;
            peer.expect(simple(0, 2)).await;
        });
    }
}

#[test]
fn a_snapshot_is_shown_as_read_only() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        peer.send(option(7, &info_data("snap", &[]))).await;
        peer.expect(reply(7, 3, &export_info(SNAP_FLAGS))).await;
        peer.expect(reply(7, ACK, &[])).await;
    });
}

#[test]
fn an_export_that_cannot_be_had_is_refused_with_its_reason() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        for code in [6, 7] {
            peer.send(option(code, &info_data("nothing", &[3]))).await;
            assert_eq!(peer.refused(code, UNKNOWN).await, "there is no `nothing`");
        }
        peer.send(option(7, &info_data("owned", &[]))).await;
        assert_eq!(peer.refused(7, POLICY).await, "host `b` has owned it since noon");
        peer.send(option(6, &info_data("owned", &[]))).await;
        assert_eq!((peer.answer(6).await.0, peer.answer(6).await.0), (3, ACK));
        peer.go("disk").await;
    });
}

#[test]
fn lengths_that_do_not_add_up_are_invalid() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        let good = info_data("disk", &[3, 1]);
        let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|cut| good[..cut].to_vec()).collect();
        bad.push([&good[..], b"\0"].concat());
        bad.push(b"\xff\xff\xff\xffdisk\0\0".to_vec());
        bad.push(b"\0\0\0\x01\xff\0\0".to_vec());
        bad.push(info_data(&"a".repeat(4097), &[]));
        for data in bad {
            for code in [6, 7] {
                peer.send(option(code, &data)).await;
                peer.refused(code, INVALID).await;
            }
        }
        peer.send(option(6, &info_data(&"a".repeat(4096), &[]))).await;
        peer.refused(6, UNKNOWN).await;
        peer.go("disk").await;
    });
}

#[test]
fn a_server_that_stops_refuses_options_and_takes_leave() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        peer.stop.cancel();
        for (code, data) in [(3, vec![]), (7, info_data("disk", &[])), (8, vec![]), (99, vec![1])] {
            peer.send(option(code, &data)).await;
            peer.refused(code, SHUTDOWN).await;
        }
        peer.send(option(2, &[])).await;
        peer.expect(reply(2, ACK, &[])).await;
        peer.expect_end().await;
        // Who doesn't answer is not waited for.
        let peer = haggling(&rt).await;
        peer.stop.cancel();
        let before = rt.now();
        peer.expect_end().await;
        assert!(rt.now().since(before) < Duration::from_secs(5));
    });
}

#[test]
fn a_client_that_says_nothing_is_dropped() {
    simulate(|rt| async move {
        let mut peer = haggling(&rt).await;
        peer.send(&option(7, &info_data("disk", &[]))[..20]).await;
        peer.expect_end().await;
    });
}

#[test]
fn bytes_may_come_one_by_one_and_ahead_of_answers() {
    for buffer in [1, 7, 64 << 10] {
        simulate(move |rt| async move {
            let mut peer = connect(&House::new(&rt), buffer);
            peer.greet().await;
            let (mut theirs, mine) = tokio::io::split(peer.io);
            let all = [
                option(8, &[]),
                option(7, &info_data("disk", &[])),
                request(0, WRITE, 1, 5, 3),
                b"abc".to_vec(),
            ];
            let sender = rt.spawn(async move {
                let mut mine = mine;
                mine.write_all(&all.concat()).await.unwrap();
                mine
            });
            let mut seen = vec![0; 20 + 20 + 12 + 20 + 16];
            theirs.read_exact(&mut seen).await.unwrap();
            assert_eq!(seen[72..], simple(0, 1));
            peer.io = theirs.unsplit(sender.await.unwrap());
            peer.send(request(0, DISC, 0, 0, 0)).await;
            peer.expect_end().await;
        });
    }
}
