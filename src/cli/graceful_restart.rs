//! How `serve` goes on where the daemon before stops: with its listening sockets, and with its clients' connections. They
//! come from that daemon itself (`--replace`), or from systemd, which keeps what an ending daemon gives it (`keep`) across
//! a restart.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use futures::future::{Either, select};
use rustix::io::FdFlags;

use super::sd_notify;
use crate::daemon::answers::{CredentialsLine, WatchAnswer};
use crate::daemon::api::{HandOver, Verb};
use crate::daemon::control_client::Client;
use crate::daemon::progress::Step;
use crate::daemon::{
    Config, HANDOVER_FORMAT, HandedOver, KnownPool, ListenFlags, MirrorFlags, MirrorPlan, Parcel, Receiver,
    StateDir, check_stores, given_listeners, pack,
};
use windlass_base::rt::{Disk, DiskLock, RealDisk, Rt};
use windlass_base::{Error, Kind, Name, Result, ResultExt as _};
use windlass_nbd::{Listener, PausedServer};
use windlass_store::KeySource;

/// Prefix of the names of the sockets in systemd's keeping, which a number follows. `STATE` names the value
/// that describes the sockets.
const SOCKET: &str = "windlass-";
const STATE: &str = "windlass-state";
/// Name, in systemd's keeping, of the lock that says that a daemon is to come. It holds for as long as
/// systemd keeps it.
const NEXT: &str = "windlass-next";

/// Settings of the new daemon: what it is to serve, and where.
pub struct Asked<'a> {
    pub listen: ListenFlags<'a>,
    pub mirror: &'a MirrorFlags,
    pub pools: &'a [Name],
}

/// Has the daemon that runs hand over to this process, and end. Where none runs there is nothing to take
/// over. On an error that daemon goes on.
pub async fn replace(rt: &Rt, home: &StateDir, config: &Config, asked: &Asked<'_>) -> Result<HandedOver> {
    let Some(mut client) = Client::connect(&home.control()?).await? else {
        tracing::info!("no daemon runs on {}: there is nothing to replace", home.root().display());
        return Ok(HandedOver::default());
    };
    let work = async {
        check_credentials(rt, &home.control()?).await?;
        let (disk, mirror) = (RealDisk::start() as Arc<dyn Disk>, (true, asked.listen.insecure));
        given_listeners(rt, &disk, config, asked.listen).await?;
        let mirror = MirrorPlan::of(rt, &*disk, config, asked.mirror, mirror).await?;
        check_mirror(rt, &home.control()?, &mirror).await?;
        check_stores(rt, &served(home, config, asked.pools).await?).await?;
        take_over(rt, home, &mut client).await
    };
    let servers = work.await.map_err(|error| error.context("the daemon that runs goes on"))?;
    let clients: usize = servers.iter().map(|server| server.clients.len()).sum();
    tracing::info!(clients, "the daemon before has handed over");
    Ok(HandedOver::new(servers, None))
}

/// Refuses a takeover that would lose keys, and their stores with them: keys that are in the memory of the
/// running daemon alone.
async fn check_credentials(rt: &Rt, control: &Path) -> Result<()> {
    let Some(mut client) = Client::connect(control).await? else { return Ok(()) };
    let asked = client.call(rt, Verb::CredentialsList, |_| {}, std::future::pending()).await;
    // A daemon of before has no such verb, and no such keys.
    let lines: Vec<CredentialsLine> = asked.and_then(|outcome| outcome.answer()).unwrap_or_default();
    let in_memory = lines.iter().filter(|line| line.source == KeySource::Memory && line.stores > 0);
    let targets: Vec<&str> = in_memory.map(|line| line.target.as_str()).collect();
    if targets.is_empty() {
        return Ok(());
    }
    let why = format!(
        "the credentials of {} are in the memory of the daemon that runs alone, and open stores use them: set them once more \
         with `windlass credentials set TARGET --keep`, or remove them",
        targets.join(", ")
    );
    Err(Error::new(Kind::Refused, why))
}

/// Refuses a takeover that would end the mirror: flushes would no longer reach the peer's disk, and nobody
/// would be told.
async fn check_mirror(rt: &Rt, control: &Path, plan: &MirrorPlan) -> Result<()> {
    let Some(mut client) = Client::connect(control).await? else { return Ok(()) };
    let asked = client.call(rt, Verb::Watch, |_| {}, std::future::pending()).await;
    // A daemon of before has no such verb, and no mirrors.
    let Some(before) = asked.and_then(|outcome| outcome.answer::<WatchAnswer>()).ok() else { return Ok(()) };
    let missing = plan.lacks(&before.status);
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "the daemon that runs was started with {}, which this one would do without: give it the same flags, with `--mirror-key`, or \
         write them into windlass.toml; to do without them stop that daemon first",
        missing.join(" ")
    );
    Err(Error::new(Kind::Refused, why))
}

/// Returns the pools that this daemon is to open.
async fn served(home: &StateDir, config: &Config, pools: &[Name]) -> Result<Vec<KnownPool>> {
    let known = home.known_pools(&*RealDisk::start()).await?;
    let is_served = |pool: &KnownPool| match pools {
        [] => config.serves(&pool.name),
        pools => pools.contains(&pool.name),
    };
    if let Some(missing) = pools.iter().find(|name| !known.iter().any(|pool| pool.name == **name)) {
        return Err(Error::new(Kind::NotFound, format!("this host knows no pool {missing}")));
    }
    Ok(known.into_iter().filter(is_served).collect())
}

async fn take_over(rt: &Rt, home: &StateDir, client: &mut Client) -> Result<Vec<PausedServer>> {
    let path = home.handover(rt.random() as u32)?;
    let receiver = Receiver::listen(&path)?;
    let socket =
        path.to_str().ok_or_else(|| Error::new(Kind::Usage, "the state folder's path is not UTF-8"))?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let asks = Verb::HandOver(HandOver { format: HANDOVER_FORMAT, version, socket: socket.to_owned() });
    let says = |step: Step| {
        if let Step::Says(sentence) = step {
            tracing::info!("{sentence}");
        }
    };
    let mut asking = std::pin::pin!(client.call(rt, asks, says, std::future::pending()));
    let (parcel, sender) = match select(asking.as_mut(), std::pin::pin!(receiver.receive(rt))).await {
        Either::Left((answer, _)) => {
            let why = || Error::new(Kind::Internal, "it has answered and handed nothing over");
            return Err(answer.err().unwrap_or_else(why));
        }
        Either::Right((received, _)) => received?,
    };
    let mut servers = parcel.open()?;
    let taken = async {
        sender.taken().await?;
        asking.await
    };
    match taken.await {
        Ok(_) => Ok(servers),
        // It has let go of everything before it died.
        Err(error) if error.is(Kind::Closed) => {
            tracing::warn!(%error, "the daemon before ended without a word");
            Ok(servers)
        }
        Err(error) => {
            servers.iter_mut().flat_map(|server| &mut server.listener).for_each(Listener::leave_file);
            Err(error)
        }
    }
}

/// Takes what systemd kept of the daemon before. Where it is of no use, its clients are lost, and the daemon
/// starts without them. It must be called only once: the result owns what systemd passed, and all else is
/// closed.
pub fn kept() -> Result<(HandedOver, Option<Next>)> {
    let passed =
        sd_listen_fds::get().map_err(io::Error::other).context(|| "sockets that systemd kept".into())?;
    let mut passed: Vec<(String, OwnedFd)> =
        passed.into_iter().map(|(name, fd)| (name.unwrap_or_default(), fd.into_std())).collect();
    let mut next = None;
    if let Some(at) = passed.iter().position(|(name, _)| name == NEXT) {
        let (_, lock) = passed.swap_remove(at);
        rustix::io::fcntl_setfd(&lock, FdFlags::CLOEXEC).map_err(io::Error::from)?;
        next = Some(Next::Kept(lock));
    }
    let names: Vec<String> =
        passed.iter().map(|(name, _)| name.clone()).filter(|name| is_kept(name)).collect();
    if names.is_empty() {
        return Ok((HandedOver::default(), next));
    }
    let handed_over = match parcel(passed).and_then(Parcel::open) {
        Ok(servers) => {
            let clients: usize = servers.iter().map(|server| server.clients.len()).sum();
            tracing::info!(clients, "systemd kept what the daemon before has left");
            HandedOver::new(servers, Some(forget))
        }
        Err(error) => {
            tracing::error!(%error, "clients are lost: the sockets that systemd kept can't be used");
            names.iter().for_each(|name| forget_one(name));
            // It listens at our addresses for as long as it has those sockets.
            sd_notify::wait_until_heard()?;
            HandedOver::default()
        }
    };
    Ok((handed_over, next))
}

/// Tells whether a daemon has given this into systemd's keeping: a socket, or the value. The value comes
/// last, so that sockets without it are of a daemon that was killed meanwhile. Somebody has to let go of
/// them, or their clients would wait for ever.
fn is_kept(name: &str) -> bool {
    name == STATE || socket_at(name).is_some()
}

fn socket_at(name: &str) -> Option<usize> {
    name.strip_prefix(SOCKET)?.parse().ok()
}

fn parcel(passed: Vec<(String, OwnedFd)>) -> Result<Parcel> {
    let (mut state, mut sockets) = (None, Vec::new());
    for (name, fd) in passed {
        // Systemd passes them so that a program that is started would have them too.
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC).map_err(io::Error::from)?;
        match socket_at(&name) {
            Some(place) => sockets.push((place, fd)),
            None if name == STATE => state = Some(fd),
            None => {}
        }
    }
    sockets.sort_by_key(|(place, _)| *place);
    let missing = || Error::new(Kind::Invalid, "they come without what describes them");
    let state = state.ok_or_else(missing)?;
    Ok(Parcel { state, sockets: sockets.into_iter().map(|(_, fd)| fd).collect() })
}

/// Gives the sockets into systemd's keeping, and the lock by which commands know that their clients wait.
///
/// # Errors
/// After an error systemd keeps none of them.
pub fn keep(servers: &[PausedServer], next: Option<&dyn DiskLock>) -> Result<()> {
    let (state, sockets) = pack(servers)?;
    check_places(sockets.len(), sd_notify::places())?;
    let kept = give(&state, &sockets, next);
    if kept.is_err() {
        (0..sockets.len()).for_each(|n| forget_one(&format!("{SOCKET}{n}")));
        forget_one(NEXT);
    }
    kept
}

/// Checks that systemd has room for all sockets. It closes what it has no place for, and tells nobody but its
/// own log.
fn check_places(sockets: usize, places: usize) -> Result<()> {
    // The value and the lock beside them.
    let needed = sockets + 2;
    if needed <= places {
        return Ok(());
    }
    let why = format!(
        "systemd keeps {places} file descriptors, and {needed} are needed: raise FileDescriptorStoreMax= and FDSTORE= in the unit"
    );
    Err(Error::new(Kind::Unsupported, why))
}

fn give(state: &OwnedFd, sockets: &[BorrowedFd<'_>], next: Option<&dyn DiskLock>) -> Result<()> {
    if let Some(next) = next.and_then(DiskLock::descriptor) {
        store(NEXT, next)?;
    }
    for (n, socket) in sockets.iter().enumerate() {
        store(&format!("{SOCKET}{n}"), *socket)?;
    }
    // The value goes last. Sockets without it are of a daemon that was killed here, and the next one closes them
    // instead of going on with half of the clients.
    store(STATE, state.as_fd())
}

fn store(name: &str, fd: BorrowedFd<'_>) -> Result<()> {
    // A client that is gone meanwhile is found out by the next daemon: with its socket removed the others would not fit.
    sd_notify::tell_with(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), Some(fd))
}

/// Takes the sockets out of systemd's keeping. From here on bytes are read from them, and another process
/// could not go on with them.
fn forget(servers: &[PausedServer]) {
    let many: usize = servers.iter().map(|s| usize::from(s.listener.is_some()) + s.clients.len()).sum();
    (0..many).for_each(|n| forget_one(&format!("{SOCKET}{n}")));
    forget_one(STATE);
}

fn forget_one(name: &str) {
    if let Err(error) = sd_notify::tell_with(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None) {
        tracing::warn!(%error, "systemd could not be told to let go of a socket");
    }
}

/// Ends the announcement of this daemon, once it listens: commands that wait for it find it.
pub fn has_come(next: Next) {
    if let Next::Kept(_) = &next {
        forget_one(NEXT);
    }
    drop(next);
}

/// The announcement that this process is the next daemon. It holds until it is dropped.
#[derive(Debug)]
pub enum Next {
    Announced(#[allow(dead_code, reason = "held")] Box<dyn DiskLock>),
    /// The daemon before made the announcement, and systemd kept it.
    Kept(#[allow(dead_code, reason = "held")] OwnedFd),
}

/// Tells whether somebody listens at the control socket.
pub async fn listens(control: &Path) -> bool {
    matches!(Client::connect(control).await, Ok(Some(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A daemon that was killed while it gave its clients into systemd's keeping leaves some of their sockets there.
    #[test]
    fn sockets_without_what_describes_them_are_let_go_of() {
        let one = |name: &str| (name.to_owned(), std::os::unix::net::UnixStream::pair().unwrap().0.into());
        let kept = |names: &[&str]| names.iter().filter(|name| is_kept(name)).count();
        assert_eq!(kept(&["windlass-0", "windlass-17", STATE]), 3);
        assert_eq!(kept(&["", "windlass.socket", "windlass-", NEXT]), 0);
        assert!(parcel(vec![one("windlass-0")]).unwrap_err().is(Kind::Invalid));
    }

    #[test]
    fn more_clients_than_systemd_has_places_for_are_not_given_to_it() {
        assert!(check_places(62, 64).is_ok());
        let refused = check_places(63, 64).unwrap_err();
        assert!(refused.is(Kind::Unsupported) && refused.to_string().contains("65 are needed"), "{refused}");
    }
}
