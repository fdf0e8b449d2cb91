//! The sockets: binding them, and giving what connects to the server.
// The clippy bans exempt the faces' sockets.
#![allow(clippy::disallowed_types)]

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{self, AtFlags, Mode};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::{Gid, Uid};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::address::Address;
use windlass_base::{Error, Kind, Result, ResultExt as _};

/// Owner, group and mode of a socket's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketRights {
    pub mode: u32,
    /// User that gets the file, and `gid` its group; `None`: those of this process.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl Default for SocketRights {
    /// Rights by which only this process's user may connect.
    fn default() -> SocketRights {
        SocketRights { mode: 0o600, uid: None, gid: None }
    }
}

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 1024;

pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Makes a socket of a connection that another process had.
    pub fn of(fd: OwnedFd) -> Result<Socket> {
        let doing = || "a handed-over connection".to_owned();
        match family(&fd, false).context(doing)? {
            Family::Unix => {
                let stream = std::os::unix::net::UnixStream::from(fd);
                stream.set_nonblocking(true).context(doing)?;
                Ok(Socket::Unix(UnixStream::from_std(stream).context(doing)?))
            }
            Family::Tcp => {
                let stream = std::net::TcpStream::from(fd);
                stream.set_nonblocking(true).context(doing)?;
                Ok(Socket::Tcp(TcpStream::from_std(stream).context(doing)?))
            }
        }
    }
}

enum Family {
    Tcp,
    Unix,
}

/// Returns the kind of a stream socket. An error: the file is something else, or a socket that listens where
/// a connected one was announced, or the other way round.
fn family(fd: &OwnedFd, listens: bool) -> io::Result<Family> {
    let fits = sockopt::socket_type(fd)? == SocketType::STREAM && sockopt::socket_acceptconn(fd)? == listens;
    match sockopt::socket_domain(fd)? {
        AddressFamily::UNIX if fits => Ok(Family::Unix),
        AddressFamily::INET | AddressFamily::INET6 if fits => Ok(Family::Tcp),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a socket of the kind that was announced")),
    }
}

/// A client's connection.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Tells whether the connection broke since the last call, so that nobody is there any more. Reading says
    /// so as well, but not before all that had arrived is received.
    fn is_broken(&self) -> bool;

    /// Gives up the socket, for another process.
    fn into_fd(self) -> io::Result<OwnedFd>;
}

impl Stream for TcpStream {
    fn is_broken(&self) -> bool {
        !matches!(self.take_error(), Ok(None))
    }

    fn into_fd(self) -> io::Result<OwnedFd> {
        Ok(self.into_std()?.into())
    }
}

impl Stream for UnixStream {
    fn is_broken(&self) -> bool {
        !matches!(self.take_error(), Ok(None))
    }

    fn into_fd(self) -> io::Result<OwnedFd> {
        Ok(self.into_std()?.into())
    }
}

/// A connection whose both ends are in one process.
impl Stream for tokio::io::DuplexStream {
    fn is_broken(&self) -> bool {
        false
    }

    fn into_fd(self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    /// The socket's file and the socket. Fields are dropped in this order: a file removed after the listening
    /// has stopped could be the next server's.
    Unix(SocketFile, UnixListener),
}

/// A socket's file, removed when the listener is dropped, if it is still the one that we made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Inode of the file that we made. `None`: another process removes the file.
    inode: Option<u64>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path).ok() == self.inode {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    Ok(std::fs::symlink_metadata(path)?.ino())
}

impl Listener {
    /// Binds `address`. Returns it as well, with the port that the system chose. `rights` are for a unix
    /// socket's file; `None`: its mode is as the umask says.
    pub async fn bind(address: &Address, rights: Option<SocketRights>) -> Result<(Listener, Address)> {
        let doing = || format!("listening on {address}");
        match address {
            Address::Tcp(host_port) | Address::Tls(host_port) => {
                let listener = TcpListener::bind(host_port).await.context(doing)?;
                let bound = listener.local_addr().context(doing)?.to_string();
                let tls = matches!(address, Address::Tls(_));
                let bound = if tls { Address::Tls(bound) } else { Address::Tcp(bound) };
                Ok((Listener::Tcp(listener), bound))
            }
            Address::Unix(path) => {
                let listener = bind_unix(path, rights).await.map_err(|e| e.context(doing()))?;
                let file = SocketFile { path: path.clone(), inode: Some(inode(path).context(doing)?) };
                Ok((Listener::Unix(file, listener), address.clone()))
            }
        }
    }

    /// Makes a listener of a socket that another process had there. That process removes the socket file
    /// until `keep_file`.
    pub fn of(address: &Address, fd: OwnedFd) -> Result<Listener> {
        let doing = || format!("the handed-over socket of {address}");
        match (family(&fd, true).context(doing)?, address) {
            (Family::Unix, Address::Unix(path)) => {
                let listener = std::os::unix::net::UnixListener::from(fd);
                listener.set_nonblocking(true).context(doing)?;
                let file = SocketFile { path: path.clone(), inode: None };
                Ok(Listener::Unix(file, UnixListener::from_std(listener).context(doing)?))
            }
            (Family::Tcp, Address::Tcp(_) | Address::Tls(_)) => {
                let listener = std::net::TcpListener::from(fd);
                listener.set_nonblocking(true).context(doing)?;
                Ok(Listener::Tcp(TcpListener::from_std(listener).context(doing)?))
            }
            _ => Err(Error::new(Kind::Invalid, "it is of another kind than its address").context(doing())),
        }
    }

    /// Returns the socket, to be given to another process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(_, listener) => listener.as_fd(),
        }
    }

    /// Makes the socket file this process's to remove.
    pub fn keep_file(&mut self) {
        if let Listener::Unix(file, _) = self {
            file.inode = inode(&file.path).ok();
        }
    }

    /// Leaves the socket file to another process, which listens there from now on.
    pub fn leave_file(&mut self) {
        if let Listener::Unix(file, _) = self {
            file.inode = None;
        }
    }

    /// Waits for the next client. Returns its address or process as well, for the log.
    pub async fn accept(&self) -> io::Result<(Socket, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // A client that is already gone again fails these, and will fail the greeting.
                let _ = stream.set_nodelay(true).and_then(|()| keep_alive(&stream));
                Ok((Socket::Tcp(stream), peer.to_string()))
            }
            Listener::Unix(_, listener) => {
                let (stream, _) = listener.accept().await?;
                let pid = stream.peer_cred().ok().and_then(|c| c.pid());
                Ok((Socket::Unix(stream), pid.map_or("local".into(), |pid| format!("process {pid}"))))
            }
        }
    }
}

/// Has the kernel probe a silent client: a host that vanished without a word must not keep its volume open
/// for good.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    Ok(())
}

/// Binds a unix socket. A socket file that a dead process left is replaced; one that is listened on, or is no
/// socket, is not.
async fn bind_unix(path: &Path, rights: Option<SocketRights>) -> Result<UnixListener> {
    match bind_file(path, rights) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
        other => return Ok(other?),
    }
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(Error::new(Kind::Exists, "something that is no socket is there; give another path"));
    }
    match UnixStream::connect(path).await {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => {
            return Err(Error::new(
                Kind::Owned,
                "another process listens there; stop it or give another path",
            ));
        }
    }
    // A server that comes to listen here between the look above and the removal loses its file. Nothing prevents that.
    std::fs::remove_file(path)?;
    Ok(bind_file(path, rights)?)
}

/// Binds a unix socket and listens. With `rights` nobody can connect before the file has its owner and mode,
/// since listening comes last. Until then the file is this user's alone: Linux gives it the mode of the
/// socket, less the umask.
pub fn bind_file(path: &Path, rights: Option<SocketRights>) -> io::Result<UnixListener> {
    let Some(SocketRights { mode, uid, gid }) = rights else { return UnixListener::bind(path) };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let given = || {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        // The owner before the mode: what is for a group is never for another one. A service's sandbox refuses the call itself.
        if uid.is_some() || gid.is_some() {
            fs::chownat(fs::CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        fs::chmod(path, Mode::from_raw_mode(mode))?;
        net::listen(&socket, BACKLOG)
    };
    if let Err(e) = given() {
        let _ = std::fs::remove_file(path);
        return Err(io::Error::new(e.kind(), format!("giving the socket its owner, group and mode: {e}")));
    }
    UnixListener::from_std(socket.into())
}
