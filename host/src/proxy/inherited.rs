//! Listening sockets that somebody bound for this process, such as systemd.
//!
//! They belong to the whole process, as descriptors do. Whoever is to listen at the
//! address of one uses it instead of binding another, as often as it is wanted: the
//! socket stays open for as long as the process runs, and no connection that waits in
//! it is lost when its listener changes. Its file is not ours to remove.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::listen::ListenAddress;

static SOCKETS: Mutex<Vec<Inherited>> = Mutex::new(Vec::new());

enum Inherited {
    Tcp(SocketAddr, TcpListener),
    Unix(PathBuf, UnixListener),
}

/// Lends a TCP socket that listens already to every proxy of this process, and says
/// where it listens.
///
/// # Errors
/// When it has no address, or cannot be made non-blocking.
pub fn inherit_tcp(listener: TcpListener) -> io::Result<ListenAddress> {
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    sockets().push(Inherited::Tcp(address, listener));
    Ok(ListenAddress::Tcp(address))
}

/// The same for a unix socket.
///
/// # Errors
/// When it has no path, or cannot be made non-blocking.
pub fn inherit_unix(listener: UnixListener) -> io::Result<ListenAddress> {
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let path = address
        .as_pathname()
        .ok_or_else(|| io::Error::other("it is a unix socket without a path"))?
        .to_owned();
    sockets().push(Inherited::Unix(path.clone(), listener));
    Ok(ListenAddress::Unix(path))
}

/// The socket that listens at `address` already.
pub(super) fn tcp(address: SocketAddr) -> io::Result<Option<TcpListener>> {
    let sockets = sockets();
    let found = sockets.iter().find_map(|socket| match socket {
        Inherited::Tcp(at, listener) if *at == address => Some(listener.try_clone()),
        _ => None,
    });
    found.transpose()
}

/// The socket that listens at `path` already.
pub(super) fn unix(path: &Path) -> io::Result<Option<UnixListener>> {
    let sockets = sockets();
    let found = sockets.iter().find_map(|socket| match socket {
        Inherited::Unix(at, listener) if at == path => Some(listener.try_clone()),
        _ => None,
    });
    found.transpose()
}

fn sockets() -> MutexGuard<'static, Vec<Inherited>> {
    SOCKETS.lock().unwrap_or_else(PoisonError::into_inner)
}
