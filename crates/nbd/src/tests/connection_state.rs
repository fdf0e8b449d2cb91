//! Connections that another process goes on with, in the middle of what they do.

use super::super::handover_state::{ConnectionState, HeldExport, Phase};
use super::super::{Address, Client, PausedServer, go_on, serve};
use super::*;
use windlass_base::rt::RealRuntime;

impl Peer {
    /// Hands the connection to another process, which goes on in the same house.
    pub async fn moved(self) -> Peer {
        let Peer { io, house, stop, pause, server } = self;
        pause.cancel();
        let (theirs, client) = server.await.unwrap().expect("it is handed over");
        assert_eq!(house.state.lock().open, 0, "nobody holds the export between two processes");
        let state = client.state();
        state.check().unwrap();
        let text = serde_json::to_string(&state).unwrap();
        let state: ConnectionState = serde_json::from_str(&text).unwrap();
        let pause = CancellationToken::new();
        let until = Until { stop: stop.clone(), pause: pause.clone() };
        let (exports, memory) = (Arc::new(Shown(house.clone())), house.memory.clone());
        let server = serve_stream(&house.rt, (theirs, Some(state)), exports, memory, until);
        Peer { io, house, stop, pause, server }
    }
}

/// A second write is cut off anywhere in its header or payload.
#[test]
fn a_request_goes_on_where_it_was_cut_off() {
    let second = [request(FUA, WRITE, 2, 4096, 300_000), vec![9; 300_000]].concat();
    for cut in
        [0, 1, 27, 28, 29, 5000, 70_000, 65_536 + 28 - 4096, 262_144 + 28 - 4096, 299_000, second.len() - 1]
    {
        let second = second.clone();
        simulate(move |rt| {
            let second = second.clone();
            async move {
                let mut peer = entered(&rt, "disk", cut % 2 > 0).await;
                peer.send([request(0, WRITE, 1, 0, 3), b"abc".to_vec()].concat()).await;
                peer.expect(simple(0, 1)).await;
                peer.send(&second[..cut]).await;
                let mut peer = peer.moved().await;
                peer.send(&second[cut..]).await;
                peer.expect(simple(0, 2)).await;
                assert_eq!(peer.house.disk.read(4095, 300_002).await.unwrap().into_bytes(), {
                    [vec![0], vec![9; 300_000], vec![0]].concat()
                });
                let writes = peer.house.log().iter().filter(|what| what.starts_with("write")).count();
                assert!(writes <= 6, "no piece twice: {writes}");
            }
        });
    }
}

/// Every connection moves again and again while requests are on their way: each is answered once.
#[test]
fn a_pipeline_goes_on_through_many_moves() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        peer.house.state.lock().delay = Duration::from_millis(3);
        let mut answered = std::collections::BTreeSet::new();
        let mut sent = 0;
        for round in 0..20 {
            for _ in 0..10 {
                let offset = sent * 4096 % SIZE;
                peer.send([request(0, WRITE, sent, offset, 4096), vec![sent as u8; 4096]].concat()).await;
                sent += 1;
            }
            rt.sleep(Duration::from_millis(round % 5)).await;
            peer = peer.moved().await;
            while (answered.len() as u64) + 5 < sent {
                let reply = peer.receive(16).await;
                assert_eq!(reply[..8], simple(0, 0)[..8]);
                let cookie = u64::from_be_bytes(reply[8..].try_into().unwrap());
                assert!(cookie < sent && answered.insert(cookie), "{cookie} is answered once");
            }
        }
        while (answered.len() as u64) < sent {
            let cookie = u64::from_be_bytes(peer.receive(16).await[8..].try_into().unwrap());
            assert!(answered.insert(cookie));
        }
        let writes = peer.house.log().iter().filter(|what| what.starts_with("write")).count() as u64;
        assert_eq!(writes, sent, "none is done twice");
    });
}

/// Work that takes longer than a hand-over may is given back and done by the next process.
#[test]
fn what_takes_too_long_is_done_by_the_next_one() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        peer.house.state.lock().delay = Duration::from_secs(3600);
        peer.send([request(0, WRITE, 1, 0, 3), b"abc".to_vec()].concat()).await;
        peer.send(request(0, READ, 2, 4096, 5)).await;
        peer.send(request(0, FLUSH, 3, 0, 0)).await;
        while peer.house.state.lock().log.len() < 3 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        let mut peer = {
            let house = peer.house.clone();
            let moved = peer.moved();
            let quick = async {
                rt.sleep(Duration::from_millis(100)).await;
                house.state.lock().delay = Duration::ZERO;
            };
            futures::join!(moved, quick).0
        };
        let mut cookies = Vec::new();
        for _ in 0..3 {
            let reply = peer.receive(16).await;
            cookies.push(reply[15]);
            if reply[15] == 2 {
                peer.expect([0; 5]).await;
            }
        }
        cookies.sort_unstable();
        assert_eq!(cookies, [1, 2, 3]);
        assert_eq!(peer.house.disk.read(0, 3).await.unwrap().into_bytes(), "abc");
    });
}

#[test]
fn requests_that_wait_for_their_turn_move_too() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        peer.house.state.lock().pace = Some(Duration::from_secs(60));
        for i in 0..4 {
            peer.send([request(0, WRITE, i, i * 4096, 4096), vec![7; 4096]].concat()).await;
        }
        peer.expect(simple(0, 0)).await;
        peer.house.state.lock().pace = None;
        let mut peer = peer.moved().await;
        let mut cookies = vec![0];
        for _ in 0..3 {
            cookies.push(peer.receive(16).await[15]);
        }
        cookies.sort_unstable();
        assert_eq!(cookies, [0, 1, 2, 3]);
        assert_eq!(peer.house.disk.read(0, 16384).await.unwrap().into_bytes(), vec![7; 16384]);
    });
}

/// A long write is still arriving behind writes that wait for their turn, or that are under way and take too long.
#[test]
fn a_long_write_takes_nothing_of_those_before_it_along() {
    for paced in [true, false] {
        simulate(move |rt| async move {
            let mut peer = entered(&rt, "disk", false).await;
            match paced {
                true => peer.house.state.lock().pace = Some(Duration::from_secs(60)),
                false => peer.house.state.lock().delay = Duration::from_secs(3600),
            }
            for i in 0..5 {
                peer.send([request(0, WRITE, i, i * 4096, 4096), vec![i as u8 + 1; 4096]].concat()).await;
            }
            let long = [request(0, WRITE, 5, 20480, 600_000), vec![9; 600_000]].concat();
            let (sent, rest) = long.split_at(100_000);
            peer.send(sent).await;
            rt.sleep(Duration::from_millis(100)).await;
            peer.house.state.lock().pace = None;
            let house = peer.house.clone();
            let quick = async {
                rt.sleep(Duration::from_millis(100)).await;
                house.state.lock().delay = Duration::ZERO;
            };
            let mut peer = futures::join!(peer.moved(), quick).0;
            peer.send(rest).await;
            let mut cookies = Vec::new();
            for _ in 0..6 {
                let reply = peer.receive(16).await;
                assert_eq!(reply[..8], simple(0, 0)[..8]);
                cookies.push(reply[15]);
            }
            assert_eq!(cookies, [0, 1, 2, 3, 4, 5], "in the order in which they came");
            let wanted = [1, 2, 3, 4, 5].map(|i| vec![i; 4096]).concat();
            assert_eq!(peer.house.disk.read(0, 20480).await.unwrap().into_bytes(), wanted);
            assert_eq!(peer.house.disk.read(20480, 600_000).await.unwrap().into_bytes(), vec![9; 600_000]);
        });
    }
}

#[test]
fn a_refused_write_is_refused_behind_a_move_as_well() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", true).await;
        let (offset, len) = (SIZE - 1000, 100_000);
        peer.send(request(0, WRITE, 4, offset, len)).await;
        peer.send(vec![1; 50_000]).await;
        let mut peer = peer.moved().await;
        peer.send(vec![1; 50_000]).await;
        assert_eq!(peer.error_chunk(4).await.0, 28);
        peer.send(request(0, READ, 5, 0, 0)).await;
        peer.expect(chunk(0, 5, &[])).await;
        assert_eq!(peer.house.log(), [""; 0]);
    });
}

/// The request that waits would be taken for the rest of the payload.
#[test]
fn who_has_a_refused_write_half_sent_beside_one_that_waits_is_dropped() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", true).await;
        peer.house.state.lock().delay = Duration::from_secs(3600);
        peer.send(request(0, FLUSH, 3, 0, 0)).await;
        peer.send(request(0, WRITE, 4, SIZE - 1000, 100_000)).await;
        peer.send(vec![1; 50_000]).await;
        while peer.house.state.lock().log.is_empty() {
            rt.sleep(Duration::from_millis(1)).await;
        }
        peer.pause.cancel();
        peer.expect_end().await;
    });
}

/// A piece of the write has failed, and the rest is still to come.
#[test]
fn a_write_that_has_failed_stays_failed() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", true).await;
        peer.house.state.lock().failing = Some((Kind::Io, "the disk is broken"));
        peer.send(request(0, WRITE, 4, 0, 400_000)).await;
        peer.send(vec![1; 300_000]).await;
        while peer.house.state.lock().log.is_empty() {
            rt.sleep(Duration::from_millis(1)).await;
        }
        peer.house.state.lock().failing = None;
        let mut peer = peer.moved().await;
        peer.send(vec![1; 100_000]).await;
        let (errno, why) = peer.error_chunk(4).await;
        assert_eq!((errno, why.contains("broken")), (5, true), "{why}");
    });
}

#[test]
fn replies_that_a_client_has_not_taken_move_with_it() {
    simulate(|rt| async move {
        let mut peer = connect(&House::new(&rt), 1000);
        peer.greet().await;
        peer.go("disk").await;
        let fill = Bytes::from(vec![5; SIZE as usize]);
        peer.house.disk.write(0, fill).await.unwrap();
        peer.send(request(0, READ, 1, 0, 100_000)).await;
        rt.sleep(Duration::from_millis(50)).await;
        let mut peer = peer.moved().await;
        peer.send(request(0, READ, 2, 0, 1)).await;
        peer.expect([simple(0, 1), vec![5; 100_000], simple(0, 2), vec![5]].concat()).await;
    });
}

/// The client sends options, and the connection moves between any two bytes.
#[test]
fn a_client_that_haggles_moves_at_any_byte() {
    let said = [
        vec![0, 0, 0, 3],
        option(8, &[]),
        option(10, &context_data("disk", &["base:allocation"])),
        option(7, &info_data("disk", &[])),
        request(0, 7, 1, 0, 4096),
    ]
    .concat();
    for cut in 0..said.len() {
        let said = said.clone();
        let sim = Sim::new(cut as u64);
        let rt = sim.rt();
        tick(sim.rt());
        let scenario = async move {
            let mut peer = connect(&House::new(&rt), 64 << 10);
            peer.expect(b"NBDMAGICIHAVEOPT\0\x03").await;
            peer.send(&said[..cut]).await;
            rt.sleep(Duration::from_millis(1)).await;
            let mut peer = peer.moved().await;
            peer.send(&said[cut..]).await;
            peer.expect(reply(8, 1, &[])).await;
            assert_eq!(peer.answer(10).await.0, 4);
            peer.expect(reply(10, 1, &[])).await;
            assert_eq!(peer.answer(7).await.0, 3);
            peer.expect(reply(7, 1, &[])).await;
            let status = [1_u32, 4096, 3].map(u32::to_be_bytes).concat();
            peer.expect(chunk(5, 1, &status)).await;
        };
        sim.run(scenario).unwrap_or_else(|stall| panic!("cut at {cut}: {stall}"));
    }
}

#[test]
fn who_has_gone_or_goes_is_not_handed_over() {
    simulate(|rt| async move {
        let mut peer = entered(&rt, "disk", false).await;
        peer.send(request(0, DISC, 1, 0, 0)).await;
        rt.sleep(Duration::from_millis(10)).await;
        peer.pause.cancel();
        peer.expect_end().await;
    });
}

/// The client's disk is not what it held any more, or has failed between the last request and the hand-over.
/// The client is answered errors, here and by every process after this. It is not hung up on, since by name
/// it might find another disk.
#[test]
fn a_client_whose_disk_is_not_there_any_more_is_answered_errors_for_good() {
    for (again, lost) in [(Some((Kind::Fenced, "it is another disk")), None), (None, Some("it was lost"))] {
        simulate(move |rt| async move {
            let peer = entered(&rt, "disk", true).await;
            peer.house.state.lock().not_again = again;
            let Peer { io, house, stop, pause, server } = peer;
            pause.cancel();
            let (theirs, client) = server.await.unwrap().unwrap();
            // After the last request, and before it is told.
            house.state.lock().lost = lost;
            let text = serde_json::to_string(&client.state()).unwrap();
            let state: ConnectionState = serde_json::from_str(&text).unwrap();
            let pause = CancellationToken::new();
            let until = Until { stop: stop.clone(), pause: pause.clone() };
            let (exports, memory) = (Arc::new(Shown(house.clone())), house.memory.clone());
            let server = serve_stream(&house.rt, (theirs, Some(state)), exports, memory, until);
            let mut peer = Peer { io, house, stop, pause, server };
            for turn in 0..3 {
                for (cookie, command, len) in [(1, READ, 4096), (2, FLUSH, 0), (4, 4, 4096)] {
                    peer.send(request(0, command, cookie, 0, len)).await;
                    let (errno, why) = peer.error_chunk(cookie).await;
                    assert!(errno == 5 && why.contains("it "), "{turn} {command}: {errno} {why}");
                }
                peer.send([request(0, WRITE, 3, 0, 3), b"abc".to_vec()].concat()).await;
                assert_eq!(peer.error_chunk(3).await.0, 5);
                assert_eq!(peer.house.log(), [""; 0]);
                // Not even where the disk would be entered by now.
                {
                    let mut state = peer.house.state.lock();
                    (state.not_again, state.lost) = (None, None);
                }
                peer = peer.moved().await;
            }
        });
    }
}

/// Stores are away when another process is to go on: the client's requests wait.
#[test]
fn a_client_waits_until_its_disk_can_be_entered_again() {
    simulate(|rt| async move {
        let peer = entered(&rt, "disk", false).await;
        peer.house.state.lock().not_again = Some((Kind::Unavailable, "stores are away"));
        let mut peer = peer.moved().await;
        peer.send(request(0, READ, 1, 0, 4)).await;
        rt.sleep(Duration::from_secs(20)).await;
        // Another process may come meanwhile.
        let mut peer = peer.moved().await;
        rt.sleep(Duration::from_secs(20)).await;
        peer.house.state.lock().not_again = None;
        peer.expect([simple(0, 1), vec![0; 4]].concat()).await;
    });
}

/// Changes are told since the very snapshot, and one that is gone costs nothing else.
#[test]
fn changes_are_told_since_what_was_agreed() {
    for (snapshot, gone) in [("s3", false), ("s7", true)] {
        simulate(move |rt| async move {
            let mut peer = connect(&House::new(&rt), 64 << 10);
            peer.greet().await;
            peer.send(option(8, &[])).await;
            peer.expect(reply(8, 1, &[])).await;
            peer.send(option(10, &context_data("disk", &["qemu:dirty-bitmap:s3"]))).await;
            assert_eq!(peer.answer(10).await.0, 4);
            peer.expect(reply(10, 1, &[])).await;
            peer.go("disk").await;
            let Peer { io, house, stop, pause, server } = peer;
            pause.cancel();
            let (theirs, client) = server.await.unwrap().unwrap();
            let mut state = client.state();
            let Phase::Entered(entered) = &mut state.phase else { panic!("it has entered") };
            assert_eq!(entered.since, [HeldDisk("s3".into())]);
            entered.since = vec![HeldDisk(snapshot.into())];
            let pause = CancellationToken::new();
            let until = Until { stop: stop.clone(), pause: pause.clone() };
            let (exports, memory) = (Arc::new(Shown(house.clone())), house.memory.clone());
            let server = serve_stream(&house.rt, (theirs, Some(state)), exports, memory, until);
            let mut peer = Peer { io, house, stop, pause, server };
            peer.send(request(0, 7, 1, 0, 4096)).await;
            if gone {
                assert_eq!(peer.error_chunk(1).await.0, 5);
            } else {
                peer.expect(chunk(5, 1, &[1_u32, 4096, 0].map(u32::to_be_bytes).concat())).await;
            }
            peer.send(request(0, READ, 2, 0, 0)).await;
            peer.expect(chunk(0, 2, &[])).await;
        });
    }
}

/// A disk that has grown meanwhile is read to its new end; one that is smaller than the client knows it is not that disk.
#[test]
fn a_disk_of_another_size_is_entered_where_it_has_grown() {
    for known in [SIZE / 2, SIZE, SIZE + 1] {
        simulate(move |rt| async move {
            let peer = entered(&rt, "disk", known > SIZE).await;
            let Peer { io, house, stop, pause, server } = peer;
            pause.cancel();
            let (theirs, client) = server.await.unwrap().unwrap();
            let mut state = client.state();
            let Phase::Entered(entered) = &mut state.phase else { panic!("it has entered") };
            assert_eq!(entered.size, SIZE);
            entered.size = known;
            let pause = CancellationToken::new();
            let until = Until { stop: stop.clone(), pause: pause.clone() };
            let (exports, memory) = (Arc::new(Shown(house.clone())), house.memory.clone());
            let server = serve_stream(&house.rt, (theirs, Some(state)), exports, memory, until);
            let mut peer = Peer { io, house, stop, pause, server };
            peer.send(request(0, READ, 1, SIZE - 4, 4)).await;
            if known > SIZE {
                let (errno, why) = peer.error_chunk(1).await;
                assert!(errno == 5 && why.contains("smaller"), "{errno} {why}");
            } else {
                peer.expect([simple(0, 1), vec![0; 4]].concat()).await;
            }
        });
    }
}

/// An export that is another one now ends the connection, and no other.
#[test]
fn a_client_is_not_let_into_another_export_than_it_was_told_of() {
    simulate(|rt| async move {
        let peer = entered(&rt, "disk", false).await;
        let Peer { io, house, stop, pause, server } = peer;
        pause.cancel();
        let (theirs, client) = server.await.unwrap().unwrap();
        let mut state = client.state();
        let Phase::Entered(entered) = &mut state.phase else { panic!("it has entered") };
        entered.export = HeldExport::Held(HeldDisk("snap".into()));
        let pause = CancellationToken::new();
        let until = Until { stop: stop.clone(), pause: pause.clone() };
        let (exports, memory) = (Arc::new(Shown(house.clone())), house.memory.clone());
        let server = serve_stream(&house.rt, (theirs, Some(state)), exports, memory, until);
        Peer { io, house, stop, pause, server }.expect_end().await;
    });
}

#[tokio::test]
async fn a_server_moves_with_its_clients_on_both_kinds_of_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let rt = Rt::new(RealRuntime::current());
    for address in [Address::Unix(dir.path().join("s")), "127.0.0.1:0".parse().unwrap()] {
        let (house, stop) = (House::new(&rt), CancellationToken::new());
        let memory = || Budget::new(SIZE);
        let shown = || Arc::new(Shown(house.clone()));
        let mut server = serve(&rt, &address, shown(), memory(), stop.clone()).await.unwrap();
        let at = server.address().clone();
        let client = Arc::new(Client::connect(&rt, &at, "disk").await.unwrap());
        let load = rt.spawn({
            let (client, rt) = (client.clone(), rt.clone());
            async move {
                for i in 0..400u64 {
                    let data = Bytes::from(vec![i as u8; 4096]);
                    client.write(i % 256 * 4096, data.clone(), i % 7 == 0).await.unwrap();
                    assert_eq!(client.read(i % 256 * 4096, 4096).await.unwrap(), data);
                    rt.sleep(Duration::from_micros(200)).await;
                }
            }
        });
        for _ in 0..10 {
            rt.sleep(Duration::from_millis(5)).await;
            let PausedServer { asked, address, listener, clients } = server.pause().await.unwrap();
            assert_eq!((clients.len(), house.state.lock().open), (1, 0));
            // As another process gets them.
            let fd = listener.as_ref().unwrap().fd().try_clone_to_owned().unwrap();
            let mut old = listener.unwrap();
            old.leave_file();
            drop(old);
            let listener = Some(super::super::Listener::of(&address, fd).unwrap());
            let paused = PausedServer { asked, address, listener, clients };
            server = go_on(&rt, paused, Arc::default(), shown(), memory(), stop.clone());
        }
        load.await.unwrap();
        Client::connect(&rt, &at, "disk").await.unwrap();
        stop.cancel();
        server.ended().await.unwrap();
    }
    assert!(!dir.path().join("s").exists());
}

#[tokio::test]
async fn only_sockets_of_the_announced_kind_are_taken() {
    use super::super::{Listener, Socket};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listens = || std::os::unix::net::UnixListener::bind(dir.path().join("t")).unwrap();
    let file = tempfile::tempfile().unwrap();
    assert!(Socket::of(file.try_clone().unwrap().into()).is_err());
    assert!(Listener::of(&Address::Unix(path.clone()), file.into()).is_err());
    let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(Listener::of(&Address::Unix(path), one.into()).is_err());
    Socket::of(other.into()).unwrap();
    assert!(Socket::of(listens().into()).is_err());
    let _ = std::fs::remove_file(dir.path().join("t"));
    assert!(Listener::of(&"127.0.0.1:1".parse().unwrap(), listens().into()).is_err());
}
