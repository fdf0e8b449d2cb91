//! Mirrors between daemons over TCP: who listens for owners of volumes, and how an owner finds its peer.
//!
//! Both sides have a file with one secret (`mirror_key`). Before anything else each shows the other that it knows the secret,
//! which itself is never sent (`auth`). What follows is neither encrypted nor signed: beyond this host it needs a network on
//! which nobody else is, and `--insecure`.

mod auth;
mod framing;

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use self::auth::Secret;
use super::answers::EngineStatus;
use super::config::Config;
use super::engine_tables::EngineState;
use super::listen_addresses;
use windlass_base::rt::{Dial, Disk, Link, Rt};
use windlass_base::{Budget, Error, Kind, PoolId, Result, ResultExt as _};
use windlass_nbd::{Address, Listener, Socket};
use windlass_volume::{EngineContext, serve_mirror};

#[cfg(any(test, fuzzing))]
pub use auth::fuzz;

/// Most connections at once, authenticated or not; more wait to be accepted.
const CLIENTS_MAX: u64 = 256;
/// Size of one connection in the budget that counts them.
const CLIENT: u64 = 1024;
/// Longest time for a connection to show that it knows the secret.
const PATIENCE: Duration = Duration::from_secs(5);

/// Mirror settings of the command line. Where it gives none, the configuration counts.
#[derive(Clone, Debug, Default)]
pub struct MirrorFlags {
    /// Address of the peer to which the journals of volumes that are owned here are mirrored.
    pub peer: Option<String>,
    /// Address where owners of volumes connect.
    pub listen: Option<String>,
    /// The file with the secret.
    pub key: Option<String>,
}

/// Mirror settings of flags and configuration together.
#[derive(Debug, Default)]
pub struct MirrorPlan {
    pub peer: Option<Arc<dyn Dial>>,
    listen: Option<(Address, Secret)>,
}

fn host_port(address: &str, what: &str) -> Result<String> {
    match address.parse()? {
        Address::Tcp(at) => Ok(at),
        other => Err(Error::new(Kind::Usage, format!("{what} {other}: give HOST:PORT"))),
    }
}

impl MirrorPlan {
    /// Reads what flags and configuration say. Nothing is listened on yet. Where `listens` is false there is a peer
    /// at most, as for a command that has no daemon.
    ///
    /// # Errors
    /// `Refused`: it would listen where other hosts reach it.
    pub async fn of(
        rt: &Rt,
        disk: &dyn Disk,
        config: &Config,
        flags: &MirrorFlags,
        (listens, insecure): (bool, bool),
    ) -> Result<MirrorPlan> {
        let written = &config.top;
        let peer = flags.peer.clone().or_else(|| written.mirror.as_ref().map(|it| it.value.clone()));
        let listen =
            flags.listen.clone().or_else(|| written.mirror_listen.as_ref().map(|it| it.value.clone()));
        let listen = listen.filter(|_| listens);
        let key = flags.key.clone().or_else(|| written.mirror_key.as_ref().map(|it| it.value.clone()));
        if peer.is_none() && listen.is_none() {
            return Ok(MirrorPlan::default());
        }
        let Some(key) = key else {
            let why = "a mirror needs a secret that both hosts have: `head -c 32 /dev/urandom | base64 > FILE`, the same FILE on \
                       both, and `--mirror-key FILE`, or `mirror_key` in windlass.toml";
            return Err(Error::new(Kind::Usage, why));
        };
        let secret = Secret::read(disk, &key).await?;
        let peer = match peer {
            Some(at) => {
                let (place, secret) = (host_port(&at, "the peer")?, secret.clone());
                Some(Arc::new(Peer { rt: rt.clone(), place, secret }) as Arc<dyn Dial>)
            }
            None => None,
        };
        let listen = match listen {
            Some(at) => {
                let at = host_port(&at, "owners of mirrored volumes at")?;
                check(&at, insecure).await?;
                Some((Address::Tcp(at), secret))
            }
            None => None,
        };
        Ok(MirrorPlan { peer, listen })
    }

    /// Returns the mirrors of the daemon before that this one would not have, as flags.
    pub fn lacks(&self, before: &EngineStatus) -> Vec<String> {
        let peer = before.mirror.as_ref().filter(|_| self.peer.is_none()).map(|at| format!("--mirror {at}"));
        let listen = before.mirror_listen.as_ref().filter(|_| self.listen.is_none());
        peer.into_iter().chain(listen.map(|at| format!("--mirror-listen {at}"))).collect()
    }

    /// Listens until `stop`, if an address is given. Returns the address with the port that was chosen.
    pub async fn serve(&self, state: &Arc<EngineState>, stop: &CancellationToken) -> Result<Option<Address>> {
        let Some((address, secret)) = &self.listen else { return Ok(None) };
        let (listener, bound) = Listener::bind(address, None).await?;
        let (rt, weak) = (state.host_context.rt.clone(), Arc::downgrade(state));
        rt.spawn(accept(rt.clone(), listener, secret.clone(), weak, stop.clone())).detach();
        Ok(Some(bound))
    }
}

/// Fails with `Refused` if other hosts reach the address: what they send is in the open.
async fn check(address: &str, insecure: bool) -> Result<()> {
    if insecure || listen_addresses::is_of_this_host(address).await? {
        return Ok(());
    }
    let why = format!(
        "{address} is reached from other hosts, and what is mirrored there is neither encrypted nor signed: listen on 127.0.0.1 \
         behind a tunnel, or say --insecure where nobody else is on that network"
    );
    Err(Error::new(Kind::Refused, why))
}

async fn accept(
    rt: Rt,
    listener: Listener,
    secret: Secret,
    state: Weak<EngineState>,
    stop: CancellationToken,
) {
    let clients = Budget::new(CLIENTS_MAX * CLIENT);
    loop {
        let held = clients.take(CLIENT).await;
        let accepted = futures::select_biased! {
            () = stop.cancelled().fuse() => return,
            accepted = listener.accept().fuse() => accepted,
        };
        let Ok((Socket::Tcp(stream), _)) = accepted else {
            rt.sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (rt2, secret, state, stop) = (rt.clone(), secret.clone(), state.clone(), stop.clone());
        rt.spawn(async move {
            let _held = held;
            let served = serve(&rt2, stream, &secret, &state);
            futures::select_biased! {
                () = stop.cancelled().fuse() => {}
                served = served.fuse() => if let Err(error) = served {
                    tracing::info!(%error, "a mirror of another host's volume ended");
                },
            }
        })
        .detach();
    }
}

async fn serve(rt: &Rt, mut stream: TcpStream, secret: &Secret, state: &Weak<EngineState>) -> Result<()> {
    let late = || Error::new(Kind::Timeout, "who connected did not show in time that it knows the secret");
    stream.set_nodelay(true)?;
    rt.timeout(PATIENCE, auth::admit(rt, &mut stream, secret)).await.ok_or_else(late)??;
    let gone = || Error::new(Kind::Closed, "the daemon is shutting down");
    let budget = state.upgrade().ok_or_else(gone)?.pools.memory().requests.clone();
    let link = framing::link(stream, Some(budget));
    let engine = |begin: windlass_volume::Begin| async move {
        let state = state.upgrade().ok_or_else(gone)?;
        engine_of(&state, begin.pool).await
    };
    serve_mirror(rt.clone(), engine, link).await
}

/// Returns this host's context of the pool, where it knows the pool: the peer looks at the volume's head itself.
async fn engine_of(state: &EngineState, pool: PoolId) -> Result<Arc<EngineContext>> {
    let opened = || state.pools.opened().into_iter().find(|(_, open)| open.pool.id() == pool);
    if opened().is_none() {
        // One may not be open yet.
        for known in state.pools.known() {
            let _ = state.pools.get(&known.name).await;
        }
    }
    let unknown = || {
        let host = &state.host_context.host;
        Error::new(Kind::NotFound, format!("{host} does not know the pool: `windlass pool add` it there"))
    };
    let (_, open) = opened().ok_or_else(unknown)?;
    Ok(open.volumes.shared_engine())
}

/// Another daemon to which this one mirrors its journals.
#[derive(Debug)]
struct Peer {
    rt: Rt,
    place: String,
    secret: Secret,
}

#[async_trait]
impl Dial for Peer {
    async fn dial(&self) -> Result<Link> {
        let doing = || format!("connecting to the peer {}", self.place);
        let mut stream = TcpStream::connect(&self.place).await.context(doing)?;
        stream.set_nodelay(true).context(doing)?;
        auth::knock(&self.rt, &mut stream, &self.secret).await.map_err(|e| e.context(doing()))?;
        Ok(framing::link(stream, None))
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Writes files of its own.
mod tests {
    use super::*;
    use windlass_base::rt::{RealDisk, RealRuntime};

    async fn plan(flags: MirrorFlags, insecure: bool) -> Result<MirrorPlan> {
        let rt = Rt::new(RealRuntime::current());
        MirrorPlan::of(&rt, &*RealDisk::start(), &Config::default(), &flags, (true, insecure)).await
    }

    #[tokio::test]
    async fn what_other_hosts_reach_is_refused_and_a_secret_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let key = Some(file.to_string_lossy().into_owned());
        let listen = |at: &str, key: &Option<String>| MirrorFlags {
            listen: Some(at.to_owned()),
            key: key.clone(),
            ..MirrorFlags::default()
        };
        assert!(plan(MirrorFlags::default(), false).await.unwrap().peer.is_none());
        plan(listen("127.0.0.1:0", &key), false).await.unwrap();
        assert!(plan(listen("127.0.0.1:0", &None), false).await.unwrap_err().is(Kind::Usage));
        assert!(plan(listen("0.0.0.0:1", &key), false).await.unwrap_err().is(Kind::Refused));
        plan(listen("0.0.0.0:1", &key), true).await.unwrap();
        assert!(plan(listen("unix:/x", &key), true).await.unwrap_err().is(Kind::Usage));
        std::fs::write(&file, "short").unwrap();
        assert!(plan(listen("127.0.0.1:0", &key), false).await.unwrap_err().is(Kind::Usage));
    }
}
