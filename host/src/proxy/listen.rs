//! Listening sockets, and how connections are taken from them.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::inherited;

/// Connections that the kernel keeps for us.
const BACKLOG: i32 = 1024;

/// Where a listener is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A unix socket, removed at the end.
    Unix(PathBuf),
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// A bound listener.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, UnixPath),
}

/// A connection from a local program.
pub(super) enum LocalStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket's place in the file system, removed when it is no longer used.
pub(super) struct UnixPath {
    path: PathBuf,
    /// Whether we made it.
    ours: bool,
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        if self.ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// With `mode` as the permissions of a socket file.
    pub(super) fn bind(address: &ListenAddress, mode: Option<u32>) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => bind_tcp(*address).map(Self::Tcp),
            ListenAddress::Unix(path) => bind_unix(path, mode),
        }
    }

    pub(super) fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Self::Unix(_, path) => Ok(ListenAddress::Unix(path.path.clone())),
        }
    }

    /// The next connection. Waits a little when the system is out of descriptors.
    pub(super) async fn accept(&self) -> (LocalStream, Option<SocketAddr>) {
        loop {
            let accepted = match self {
                Self::Tcp(listener) => listener
                    .accept()
                    .await
                    .map(|(stream, from)| (LocalStream::Tcp(stream), Some(from))),
                Self::Unix(listener, _) => listener
                    .accept()
                    .await
                    .map(|(stream, _)| (LocalStream::Unix(stream), None)),
            };
            match accepted {
                Ok((stream, from)) => {
                    if let LocalStream::Tcp(stream) = &stream {
                        prepare(stream);
                    }
                    return (stream, from);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    if let Some(listener) = inherited::tcp(address)? {
        return TcpListener::from_std(listener);
    }
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A socket file that nobody listens on is left over and replaced; any other file stays.
fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<Listener> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    if let Some(listener) = inherited::unix(path)? {
        let path = UnixPath {
            path: path.to_owned(),
            ours: false,
        };
        return Ok(Listener::Unix(UnixListener::from_std(listener)?, path));
    }
    let left_over = std::fs::symlink_metadata(path)
        .is_ok_and(|about| about.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if left_over {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let path = UnixPath {
        path: path.to_owned(),
        ours: true,
    };
    // Before anybody can connect.
    if let Some(mode) = mode {
        std::fs::set_permissions(&path.path, std::fs::Permissions::from_mode(mode))?;
    }
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from_std(socket.into())?;
    Ok(Listener::Unix(listener, path))
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// What every TCP connection gets: no delay, and probes that find dead peers.
pub(crate) fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    let _ = SockRef::from(stream).set_tcp_keepalive(&probes);
}

/// Lets a connection that is dropped end with a reset, or again as usual: what was cut
/// must not look complete.
pub(super) fn reset_on_close(stream: &TcpStream, reset: bool) {
    let _ = SockRef::from(stream).set_linger(reset.then_some(Duration::ZERO));
}

/// Reading and writing through an enum of streams.
macro_rules! delegate_io {
    ($name:ident { $($variant:ident),+ }) => {
        impl tokio::io::AsyncRead for $name {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(stream) => std::pin::Pin::new(stream).poll_read(cx, buf),)+
                }
            }
        }

        impl tokio::io::AsyncWrite for $name {
            fn poll_write(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                match self.get_mut() {
                    $(Self::$variant(stream) => std::pin::Pin::new(stream).poll_write(cx, buf),)+
                }
            }

            fn poll_flush(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(stream) => std::pin::Pin::new(stream).poll_flush(cx),)+
                }
            }

            fn poll_shutdown(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(stream) => std::pin::Pin::new(stream).poll_shutdown(cx),)+
                }
            }
        }
    };
}

pub(super) use delegate_io;

delegate_io!(LocalStream { Tcp, Unix });

impl LocalStream {
    pub(super) fn reset_on_close(&self, reset: bool) {
        if let Self::Tcp(stream) = self {
            reset_on_close(stream, reset);
        }
    }
}
