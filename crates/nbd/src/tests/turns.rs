//! Requests that wait because the export's rate is limited.

use super::*;

/// Connects a client to a disk that takes one write a second, the first at once.
async fn limited(rt: &Rt) -> Peer {
    let peer = entered(rt, "disk", false).await;
    peer.house.state.lock().pace = Some(Duration::from_secs(1));
    peer
}

fn write(cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    [request(0, WRITE, cookie, offset, len), vec![cookie as u8; len as usize]].concat()
}

#[test]
fn writes_wait_in_order_hold_no_shared_memory_and_let_reads_pass() {
    simulate(|rt| async move {
        let mut peer = limited(&rt).await;
        for i in 0..20 {
            peer.send(write(i, i * 4096, 4096)).await;
        }
        peer.send(request(0, READ, 100, 0, 1)).await;
        peer.expect([simple(0, 0), simple(0, 100), vec![0]].concat()).await;
        let all = peer.house.memory.total();
        let taken = peer.house.memory.try_take(all).expect("those who wait hold none of it");
        let began = rt.now();
        for i in 1..20 {
            peer.expect(simple(0, i)).await;
            if i == 10 {
                peer.send(request(0, FLUSH, 101, 0, 0)).await;
                peer.expect(simple(0, 101)).await;
            }
        }
        let took = rt.now().since(began);
        assert!(took >= Duration::from_secs(17) && took <= Duration::from_secs(30), "{took:?}");
        drop(taken);
        let log = peer.house.log();
        let writes: Vec<_> = log.iter().filter(|one| one.starts_with("write")).cloned().collect();
        assert!(
            writes.iter().enumerate().all(|(i, one)| *one == format!("write {}+4096", i * 4096)),
            "{writes:?}"
        );
    });
}

#[test]
fn what_may_wait_is_bounded_and_more_is_taken_when_turns_come() {
    simulate(|rt| async move {
        let mut peer = limited(&rt).await;
        let sends = async {
            for i in 0..30u64 {
                peer.io.write_all(&write(i, 0, 32 << 10)).await.unwrap();
            }
        };
        let early = rt.timeout(Duration::from_secs(2), sends).await;
        assert!(early.is_none(), "a megabyte fits nowhere");
        let mut answers = vec![0; 16 * 8];
        peer.io.read_exact(&mut answers).await.unwrap();
        assert!(peer.house.memory.used() == 0);
    });
}

#[test]
fn a_long_write_waits_once() {
    simulate(|rt| async move {
        let mut peer = limited(&rt).await;
        let began = rt.now();
        peer.send([write(1, 0, 4096), write(2, 0, 900_000), write(3, 0, 4096)].concat()).await;
        peer.expect([simple(0, 1), simple(0, 2), simple(0, 3)].concat()).await;
        let turns = peer.house.state.lock().next_turn.since(began);
        assert!(
            turns > Duration::from_millis(2_500) && turns < Duration::from_millis(3_500),
            "three turns: {turns:?}"
        );
        peer.send(request(0, READ, 4, 899_999, 1)).await;
        peer.expect([simple(0, 4), vec![2]].concat()).await;
        // Zeroing and trims wait as writes do.
        peer.send([request(0, TRIM, 5, 0, 4096), request(0, ZEROES, 6, 0, 4096)].concat()).await;
        peer.expect([simple(0, 5), simple(0, 6)].concat()).await;
    });
}

#[test]
fn of_a_client_that_is_gone_no_write_is_done_that_waits_but_after_a_goodbye() {
    for goodbye in [false, true] {
        simulate(move |rt| async move {
            let mut peer = limited(&rt).await;
            let last = if goodbye { 300_000 } else { 4096 };
            peer.send([write(1, 0, 4096), write(2, 4096, 4096), write(3, 8192, last)].concat()).await;
            peer.expect(simple(0, 1)).await;
            let house = peer.house.clone();
            if goodbye {
                peer.send(request(0, DISC, 9, 0, 0)).await;
                peer.expect([simple(0, 2), simple(0, 3)].concat()).await;
                peer.expect_end().await;
            } else {
                drop(peer.io);
                peer.server.await.unwrap();
            }
            let writes = house.log().iter().filter(|one| one.starts_with("write")).count();
            // The long one is five pieces.
            assert_eq!(writes, if goodbye { 7 } else { 1 });
        });
    }
}

#[test]
fn a_server_that_stops_does_not_wait_for_turns() {
    simulate(|rt| async move {
        let mut peer = limited(&rt).await;
        peer.house.state.lock().pace = Some(Duration::from_secs(1_000));
        peer.send([write(1, 0, 4096), write(2, 4096, 4096)].concat()).await;
        peer.expect(simple(0, 1)).await;
        let (began, house) = (rt.now(), peer.house.clone());
        peer.stop.cancel();
        peer.expect_end().await;
        assert!(rt.now().since(began) < Duration::from_secs(20));
        assert_eq!(house.log(), ["write 0+4096", ".write 0+4096"]);
    });
}
