//! The sockets: binding them, and giving what connects to the server.
// The clippy bans exempt the faces' sockets.
#![allow(clippy::disallowed_types)]

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::address::Address;
use crate::base::{Error, Kind, Result, ResultExt as _};

pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What connects a client.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// It broke since this was asked last: nobody is there any more. Reading says so as well, but not before all that had
    /// arrived is received.
    fn is_broken(&self) -> bool;
}

impl Stream for TcpStream {
    fn is_broken(&self) -> bool {
        !matches!(self.take_error(), Ok(None))
    }
}

impl Stream for UnixStream {
    fn is_broken(&self) -> bool {
        !matches!(self.take_error(), Ok(None))
    }
}

#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    /// In the order of their end: a file removed after the listening has stopped could be the next server's.
    Unix(SocketFile, UnixListener),
}

/// Removed when the listener is, if it is still the one that we made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|now| now == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    Ok(std::fs::symlink_metadata(path)?.ino())
}

impl Listener {
    /// Gives the address with the port that was chosen, too.
    pub async fn bind(address: &Address) -> Result<(Listener, Address)> {
        let doing = || format!("listening on {address}");
        match address {
            Address::Tcp(host_port) => {
                let listener = TcpListener::bind(host_port).await.context(doing)?;
                let bound = listener.local_addr().context(doing)?;
                Ok((Listener::Tcp(listener), Address::Tcp(bound.to_string())))
            }
            Address::Unix(path) => {
                let listener = bind_unix(path).await.map_err(|e| e.context(doing()))?;
                let file = SocketFile { path: path.clone(), inode: inode(path).context(doing)? };
                Ok((Listener::Unix(file, listener), address.clone()))
            }
        }
    }

    /// The next client, and who it is, for the log.
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

/// A host that vanished without a word must not keep its volume open for good.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    Ok(())
}

/// A socket file that a dead process left is replaced; one that is listened on, or is no socket, is not.
async fn bind_unix(path: &Path) -> Result<UnixListener> {
    match UnixListener::bind(path) {
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
    std::fs::remove_file(path)?;
    Ok(UnixListener::bind(path)?)
}
