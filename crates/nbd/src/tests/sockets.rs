//! Real sockets: both kinds, stale files, and a client of another author.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;

use super::super::{
    Access, Address, Client, Entrance, MemoryExports, Pattern, Policy, Rule, SocketRights, Subject, describe,
    list, serve, serve_by,
};
use super::*;
use windlass_base::rt::RealRuntime;

fn real() -> Rt {
    Rt::new(RealRuntime::current())
}

fn unix(dir: &tempfile::TempDir) -> Address {
    Address::Unix(dir.path().join("s"))
}

#[tokio::test]
async fn both_kinds_of_sockets_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let rt = real();
    for address in [unix(&dir), "127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()] {
        let stop = CancellationToken::new();
        let shown = Arc::new(Shown(House::new(&rt)));
        let server = match serve(&rt, &address, shown, Budget::new(SIZE), stop.clone()).await {
            // A host without IPv6 has nothing to show here.
            Err(e) if address.to_string().starts_with('[') => return eprintln!("no IPv6: {e}"),
            other => other.unwrap(),
        };
        let at = server.address().clone();
        assert!(!at.to_string().ends_with(":0"));
        assert_eq!(list(&at).await.unwrap()[1].name, "snap");
        assert_eq!(describe(&at, "owned").await.unwrap().size, SIZE);
        assert_eq!(describe(&at, "nothing").await.unwrap_err().kind(), Kind::NotFound);
        let client = Client::connect(&rt, &at, "disk").await.unwrap();
        let data = Bytes::from(vec![7; 300_000]);
        client.write(5, data.clone(), true).await.unwrap();
        assert_eq!(client.read(5, 300_000).await.unwrap(), data);
        stop.cancel();
        server.ended().await.unwrap();
        assert!(client.flush().await.is_err());
        assert!(Client::connect(&rt, &at, "disk").await.is_err());
    }
    assert!(!dir.path().join("s").exists());
}

#[tokio::test]
async fn a_socket_has_the_mode_that_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let rt = real();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for wanted in [0o600, 0o660, 0o777, 0o600] {
        let stop = CancellationToken::new();
        let shown = Arc::new(Shown(House::new(&rt)));
        let rights = SocketRights { mode: wanted, ..SocketRights::default() };
        let entrance = Entrance { rights, ..Entrance::default() };
        let server =
            serve_by(&rt, &unix(&dir), entrance, shown, Budget::new(SIZE), stop.clone()).await.unwrap();
        assert_eq!(mode(&dir.path().join("s")), wanted);
        assert_eq!(list(server.address()).await.unwrap().len(), 3);
        stop.cancel();
        server.ended().await.unwrap();
    }
    let stop = CancellationToken::new();
    let shown = Arc::new(Shown(House::new(&rt)));
    let _server = serve(&rt, &unix(&dir), shown, Budget::new(SIZE), stop).await.unwrap();
    assert_eq!(mode(&dir.path().join("s")), 0o600, "its owner's alone unless something else is said");
}

#[tokio::test]
async fn a_process_is_known_by_its_user() {
    let dir = tempfile::tempdir().unwrap();
    let rt = real();
    let own = rustix::process::getuid().as_raw();
    let rule = |uid, exports: &str, write| Rule {
        subject: Subject::Process { uid: Some(uid), group: None },
        exports: vec![Pattern::new(exports)],
        write,
    };
    let access = Access::new(Policy { tls: None, rules: Some(vec![rule(own, "d*", false)]) });
    let entrance = Entrance { access: access.clone(), ..Entrance::default() };
    let stop = CancellationToken::new();
    let shown = Arc::new(Shown(House::new(&rt)));
    let server = serve_by(&rt, &unix(&dir), entrance, shown, Budget::new(SIZE), stop.clone()).await.unwrap();
    let at = unix(&dir);
    assert_eq!(list(&at).await.unwrap().iter().map(|l| &*l.name).collect::<Vec<_>>(), ["disk"]);
    assert_eq!(describe(&at, "snap").await.unwrap_err().kind(), Kind::NotFound);
    let client = Client::connect(&rt, &at, "disk").await.unwrap();
    assert!(client.write(0, Bytes::from_static(b"x"), false).await.is_err());
    access.replace(Policy { tls: None, rules: Some(vec![rule(own + 1, "*", true)]) });
    assert!(list(&at).await.is_err(), "nobody else is let in");
    assert_eq!(client.read(0, 1).await.unwrap(), Bytes::from_static(&[0]), "who was in stays");
    stop.cancel();
    server.ended().await.unwrap();
}

#[tokio::test]
async fn only_a_dead_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let rt = real();
    let (address, path) = (unix(&dir), dir.path().join("s"));
    let listen = async |stop: &CancellationToken| {
        serve(&rt, &address, Arc::new(Shown(House::new(&rt))), Budget::new(SIZE), stop.clone()).await
    };
    // A socket file whose process is dead.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = CancellationToken::new();
    let server = listen(&first).await.unwrap();
    let busy = listen(&CancellationToken::new()).await.unwrap_err();
    assert_eq!(busy.kind(), Kind::Owned);
    assert_eq!(list(&address).await.unwrap().len(), 3);
    // Somebody put another one in its place: that is not removed at the end.
    std::fs::remove_file(&path).unwrap();
    let second = CancellationToken::new();
    let other = listen(&second).await.unwrap();
    first.cancel();
    server.ended().await.unwrap();
    assert_eq!(list(&address).await.unwrap().len(), 3);
    second.cancel();
    other.ended().await.unwrap();
    assert!(!path.exists());
    std::fs::create_dir(&path).unwrap();
    assert_eq!(listen(&CancellationToken::new()).await.unwrap_err().kind(), Kind::Exists);
    let nowhere = Address::Unix(dir.path().join("no/where"));
    let shown = Arc::new(Shown(House::new(&rt)));
    assert!(serve(&rt, &nowhere, shown, Budget::new(SIZE), CancellationToken::new()).await.is_err());
}

/// The client's connection breaks behind requests that wait for others to end; the client would send them
/// again elsewhere.
#[tokio::test]
async fn a_client_whose_connection_broke_is_noticed_while_nothing_more_is_received() {
    let rt = real();
    let (house, stop) = (House::new(&rt), CancellationToken::new());
    house.state.lock().delay = Duration::from_secs(1000);
    let (address, shown) = ("127.0.0.1:0".parse().unwrap(), Arc::new(Shown(house.clone())));
    let server = serve(&rt, &address, shown, Budget::new(64 << 20), stop.clone()).await.unwrap();
    let mut io = match server.address() {
        Address::Tcp(at) => tokio::net::TcpStream::connect(at).await.unwrap(),
        other => panic!("{other}"),
    };
    io.read_exact(&mut [0; 18]).await.unwrap();
    io.write_all(&[0, 0, 0, 3]).await.unwrap();
    io.write_all(&option(7, &info_data("disk", &[]))).await.unwrap();
    // What the export is, and that it is entered.
    io.read_exact(&mut [0; 32 + 20]).await.unwrap();
    let writes: Vec<u8> = (0..300).flat_map(|i| [request(0, WRITE, i, 0, 1), vec![1]].concat()).collect();
    io.write_all(&writes).await.unwrap();
    while house.state.lock().log.len() < 256 {
        rt.sleep(Duration::from_millis(10)).await;
    }
    // Closing it says so by a reset then, as a host does that has never heard of the connection.
    rustix::net::sockopt::set_socket_linger(&io, Some(Duration::ZERO)).unwrap();
    drop(io);
    let gone = async {
        while house.state.lock().open > 0 {
            rt.sleep(Duration::from_millis(10)).await;
        }
    };
    rt.timeout(Duration::from_secs(30), gone).await.expect("its writes are given up");
    assert_eq!(house.log(), vec!["write 0+1"; 256]);
    stop.cancel();
    server.ended().await.unwrap();
}

/// The `nbd` crate uses EXPORT_NAME, simple replies, one request at a time, and blocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_another_author_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let rt = real();
    let stop = CancellationToken::new();
    let disk = MemoryDisk::new(description("disk", false));
    let server = serve(&rt, &unix(&dir), MemoryExports::new(vec![disk]), Budget::new(SIZE), stop.clone())
        .await
        .unwrap();
    let path = dir.path().join("s");
    let oracle = rt.cpu(move || {
        let mut io = std::os::unix::net::UnixStream::connect(path).unwrap();
        let export = nbd::client::handshake(&mut io, b"disk").unwrap();
        assert_eq!((export.size, export.readonly, export.send_flush), (SIZE, false, true));
        let mut client = nbd::client::NbdClient::new(&mut io, &export);
        let mut model = vec![0u8; SIZE as usize];
        for i in 0..200u64 {
            let start = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % SIZE;
            let len = (i * 977 % 70_000).min(SIZE - start) as usize;
            let part = &mut model[start as usize..][..len];
            client.seek(SeekFrom::Start(start)).unwrap();
            if i % 3 < 2 {
                part.fill(i as u8);
                client.write_all(part).unwrap();
                client.flush().unwrap();
            } else {
                let mut seen = vec![1; len];
                client.read_exact(&mut seen).unwrap();
                assert_eq!(seen, part);
            }
        }
    });
    oracle.await.unwrap();
    stop.cancel();
    server.ended().await.unwrap();
}
