//! Listening sockets, and how connections are taken from them.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::inherited;
use super::seldom::Seldom;
use super::stats::Stats;

/// Connections that the kernel keeps for us.
const BACKLOG: i32 = 1024;

/// How long to wait after the first failure to accept; doubles.
const PAUSE: Duration = Duration::from_millis(10);

/// The longest such wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

static NO_DESCRIPTOR: Seldom = Seldom::new();
static CANNOT_ACCEPT: Seldom = Seldom::new();

/// Where a listener is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A unix socket, removed at the end.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether both cannot be bound at once.
    pub(super) fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => one.port() == other.port(),
            (Self::Unix(one), Self::Unix(other)) => one == other,
            _ => false,
        }
    }

    /// The address, unless it is a unix socket.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
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
pub(crate) struct Listener {
    socket: Bound,
    spares: Spares,
}

enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, UnixPath),
}

/// A connection by TCP or a unix socket.
pub(crate) enum PlainStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection that was taken, and from where.
pub(crate) type Accepted = (PlainStream, Option<SocketAddr>);

/// A socket's place in the file system, removed when it is no longer used.
struct UnixPath {
    path: PathBuf,
    /// Device and inode: another program's file of the same name is not ours to remove.
    file: Option<(u64, u64)>,
}

impl UnixPath {
    fn file(path: &Path) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        let about = std::fs::symlink_metadata(path).ok()?;
        Some((about.dev(), about.ino()))
    }
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        if self.file.is_some() && Self::file(&self.path) == self.file {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// With `mode` as the permissions of a socket file.
    pub(crate) fn bind(address: &ListenAddress, mode: Option<u32>) -> io::Result<Self> {
        Ok(Self {
            socket: match address {
                ListenAddress::Tcp(address) => bind_tcp(*address).map(Bound::Tcp),
                ListenAddress::Unix(path) => bind_unix(path, mode),
            }?,
            spares: Spares::new(),
        })
    }

    pub(crate) fn address(&self) -> io::Result<ListenAddress> {
        match &self.socket {
            Bound::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Bound::Unix(_, path) => Ok(ListenAddress::Unix(path.path.clone())),
        }
    }

    /// The next connection.
    ///
    /// While the process is out of descriptors, those who come are refused at once, by
    /// means of descriptors that are kept for that; what else stands in the way is waited
    /// for, longer and longer.
    pub(super) async fn accept(&self, stats: &Stats) -> Accepted {
        let mut pause = PAUSE;
        loop {
            self.spares.fill();
            let error = match poll_fn(|cx| self.poll_next(cx)).await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => error,
            };
            if is_out_of_descriptors(&error) && self.refuse_one().await {
                stats.refused_without_descriptor();
                if let Some(times) = NO_DESCRIPTOR.now() {
                    tracing::warn!(%error, times, "connections are refused: raise the limit of open files (`ulimit -n`, LimitNOFILE=), or lower -max-connections");
                }
                // Those who are served already go first.
                tokio::task::yield_now().await;
                continue;
            }
            stats.accept_failed();
            if let Some(times) = CANNOT_ACCEPT.now() {
                tracing::warn!(%error, times, "cannot accept connections; trying again");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The same where nothing is counted.
    pub(crate) async fn accept_uncounted(&self) -> Accepted {
        self.accept(&Stats::default()).await
    }

    /// A connection that is waiting already, if there is one.
    pub(super) async fn waiting(&self) -> Option<Accepted> {
        loop {
            match poll_fn(|cx| Poll::Ready(self.poll_next(cx))).await {
                Poll::Ready(Ok(accepted)) => return Some(accepted),
                Poll::Ready(Err(error)) if is_of_one_connection(&error) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return None,
            }
        }
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match &self.socket {
            Bound::Tcp(listener) => listener.poll_accept(cx).map_ok(|(stream, from)| {
                prepare(&stream);
                (PlainStream::Tcp(stream), Some(from))
            }),
            Bound::Unix(listener, _) => listener
                .poll_accept(cx)
                .map_ok(|(stream, _)| (PlainStream::Unix(stream), None)),
        }
    }

    /// Takes one connection with a spare descriptor and closes it; false if none can be taken.
    async fn refuse_one(&self) -> bool {
        while self.spares.give_up_one() {
            match poll_fn(|cx| Poll::Ready(self.poll_next(cx))).await {
                Poll::Ready(Ok((stream, _))) => {
                    stream.reset_on_close(true);
                    drop(stream);
                    self.spares.fill();
                    return true;
                }
                // Another thread was faster and has the descriptor now.
                Poll::Ready(Err(error)) if is_out_of_descriptors(&error) => {}
                Poll::Ready(Err(_)) | Poll::Pending => {
                    self.spares.fill();
                    return false;
                }
            }
        }
        false
    }
}

/// Descriptors that are kept open to be given up when none is left.
///
/// One is enough to refuse whoever comes, but whoever else opens something at that moment
/// can take it; so there are some, and what comes free goes to them first.
struct Spares(Mutex<Vec<File>>);

impl Spares {
    const KEPT: usize = 8;

    fn new() -> Self {
        let spares = Self(Mutex::new(Vec::with_capacity(Self::KEPT)));
        spares.fill();
        spares
    }

    fn fill(&self) {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while spares.len() < Self::KEPT {
            let Ok(spare) = File::open("/dev/null") else {
                return;
            };
            spares.push(spare);
        }
    }

    /// Whether there was one.
    fn give_up_one(&self) -> bool {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spares.pop().is_some()
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
fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<Bound> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    if let Some(listener) = inherited::unix(path)? {
        let path = UnixPath {
            path: path.to_owned(),
            // It was there before us, and stays.
            file: None,
        };
        return Ok(Bound::Unix(UnixListener::from_std(listener)?, path));
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
        file: UnixPath::file(path),
    };
    // Before anybody can connect.
    if let Some(mode) = mode {
        std::fs::set_permissions(&path.path, std::fs::Permissions::from_mode(mode))?;
    }
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from_std(socket.into())?;
    Ok(Bound::Unix(listener, path))
}

/// `EMFILE`, `ENFILE`: this process or the machine has no descriptor left.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    is(Errno::MFILE) || is(Errno::NFILE)
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

delegate_io!(PlainStream { Tcp, Unix });

impl PlainStream {
    /// See [`reset_on_close`]; a unix socket has no reset.
    pub(super) fn reset_on_close(&self, reset: bool) {
        if let Self::Tcp(stream) = self {
            reset_on_close(stream, reset);
        }
    }

    /// Our own address, unless it is a unix socket.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}
