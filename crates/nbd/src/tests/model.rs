//! Our client against our server: random operations, many at a time, against a plain array.

use futures::stream::{FuturesUnordered, StreamExt as _};

use super::super::client::FlaggedExtent;
use super::*;
use windlass_base::rt::sim::World;

const ALL: [Headers; 3] = [Headers::Simple, Headers::Structured, Headers::Extended];

async fn open(house: &Arc<House>, name: &str, headers: Headers) -> (Client, CancellationToken) {
    let (client, stop) = open_to_map(house, name, &[], headers).await;
    (client.unwrap(), stop)
}

/// Does one random operation on a strip of its own, and the same on the model.
async fn step(world: &World, client: &Client, base: u64, model: &mut [u8]) {
    let start = world.below(model.len() as u64);
    let len = world.below(model.len() as u64 - start + 1);
    let part = &mut model[start as usize..(start + len) as usize];
    let (at, n) = (base + start, len as u32);
    let fua = world.below(4) == 0;
    match world.below(6) {
        0 | 1 => {
            let fill = world.random() as u8;
            part.fill(fill);
            client.write(at, Bytes::from(part.to_vec()), fua).await.unwrap();
        }
        2 => {
            part.fill(0);
            client.write_zeroes(at, n, fua, world.below(2) == 0).await.unwrap();
        }
        3 => {
            // The disk in memory zeroes what is trimmed, as volumes do.
            part.fill(0);
            client.trim(at, n, fua).await.unwrap();
        }
        4 => client.flush().await.unwrap(),
        _ => assert_eq!(client.read(at, n).await.unwrap(), &*part),
    }
}

async fn strip(world: &World, clients: &[Client; 2], i: u64) {
    let len = SIZE / 16;
    let mut model = vec![0; len as usize];
    for _ in 0..60 {
        let client = &clients[world.below(2) as usize];
        step(world, client, i * len, &mut model).await;
    }
    for client in clients {
        assert_eq!(client.read(i * len, len as u32).await.unwrap(), model);
    }
}

#[test]
fn reads_give_what_was_written_on_any_connection() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let world = (*sim).clone();
        tick(sim.rt());
        let scenario = async move {
            let house = House::new(&world.rt());
            let headers = [ALL[seed as usize % 3], ALL[seed as usize / 3 % 3]];
            let clients = [open(&house, "disk", headers[0]).await.0, open(&house, "", headers[1]).await.0];
            house.state.lock().delay = Duration::from_millis(seed % 3);
            let strips: FuturesUnordered<_> = (0..16).map(|i| strip(&world, &clients, i)).collect();
            strips.collect::<Vec<()>>().await;
            for client in clients {
                client.close().await.unwrap();
            }
            assert_eq!(house.state.lock().open, 0);
        };
        sim.run(scenario).unwrap_or_else(|stall| panic!("seed {seed}: {stall}"));
    }
}

fn says(headers: Headers) {
    simulate(move |rt| async move {
        let house = House::new(&rt);
        let (client, stop) = open(&house, "snap", headers).await;
        assert_eq!((client.info().size, client.info().block), (SIZE, Some([512, 4096, 32 << 20])));
        assert_eq!(client.info().text.as_deref(), Some("the snap"));
        let refused = client.write(0, Bytes::from_static(b"x"), false).await.unwrap_err();
        assert_eq!((refused.kind(), refused.to_string()), (Kind::ReadOnly, "the export is read-only".into()));
        assert_eq!(client.read(SIZE, 1).await.unwrap_err().kind(), Kind::Invalid);
        house.state.lock().failing = Some((Kind::Corrupt, "rotten"));
        assert_eq!(client.read(0, 1).await.unwrap_err().to_string(), "rotten");
        stop.cancel();
        // Whatever meets the end of the connection fails, sooner or later, and nothing waits for ever.
        while client.flush().await.is_err_and(|e| e.kind() != Kind::Io) {}
        assert!(client.read(0, 1).await.is_err());
        client.close().await.unwrap();
    });
}

#[test]
fn the_client_says_what_the_server_says() {
    for headers in [Headers::Structured, Headers::Extended] {
        says(headers);
    }
    simulate(|rt| async move {
        let house = House::new(&rt);
        let (io, theirs) = tokio::io::duplex(1000);
        let memory = house.memory.clone();
        let until = Until { stop: CancellationToken::new(), pause: CancellationToken::new() };
        serve_stream(&rt, (theirs, None), Arc::new(Shown(house)), memory, until).detach();
        let refused = Client::enter(&rt, Box::new(io), "owned", &[], Headers::Extended).await.unwrap_err();
        assert_eq!((refused.kind(), refused.to_string().contains("since noon")), (Kind::Refused, true));
    });
}

#[test]
fn the_client_asks_for_extents_of_the_contexts_it_connected_to() {
    for headers in [Headers::Structured, Headers::Extended] {
        asks_for_extents(headers);
    }
}

fn asks_for_extents(headers: Headers) {
    const ALLOCATION: &str = "base:allocation";
    simulate(move |rt| async move {
        let house = House::new(&rt);
        let client = open_to_map(&house, "disk", &[ALLOCATION], headers).await.0.unwrap();
        // The disk in memory is as fine as this: one piece.
        for flags in [3, 0] {
            let told = client.extents(ALLOCATION, 0, SIZE as u32).await.unwrap();
            assert_eq!(told, [FlaggedExtent { len: SIZE, flags }]);
            client.write(SIZE / 2, Bytes::from_static(b"data"), false).await.unwrap();
        }
        assert_eq!(client.extents("base:other", 0, 1).await.unwrap_err().kind(), Kind::Usage);
        client.close().await.unwrap();
        let contexts = [ALLOCATION, "qemu:dirty-bitmap:no"];
        let refused = open_to_map(&house, "disk", &contexts, headers).await.0.unwrap_err();
        assert!(
            refused.is(Kind::NotFound) && refused.to_string().contains("qemu:dirty-bitmap:no"),
            "{refused}"
        );
        let plain = open(&house, "disk", headers).await.0;
        assert_eq!(plain.extents(ALLOCATION, 0, 1).await.unwrap_err().kind(), Kind::Usage);
        plain.close().await.unwrap();
    });
}
