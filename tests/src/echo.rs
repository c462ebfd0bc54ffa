//! An application behind a proxy: it echoes, and counts who came.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// No answer takes longer, however loaded the machine is.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A TCP echo service on a port of its own, for the life of the test program.
#[derive(Clone, Debug)]
pub struct Echo {
    address: SocketAddr,
    accepted: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

impl Echo {
    /// Starts the service.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let echo = Self {
            address: listener
                .local_addr()
                .expect("a bound socket has an address"),
            accepted: Arc::default(),
            received: Arc::default(),
        };
        let counted = echo.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.accepted.fetch_add(1, Ordering::SeqCst);
                let counted = counted.clone();
                std::thread::spawn(move || {
                    let _ = counted.serve(stream);
                });
            }
        });
        echo
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that reached it.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Bytes that reached it.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return stream.shutdown(Shutdown::Write);
            }
            self.received
                .fetch_add(u64::try_from(length).unwrap_or(0), Ordering::SeqCst);
            stream.write_all(buffer.get(..length).unwrap_or_default())?;
        }
    }
}

/// Opens a connection to `address` and waits until its echo answers once.
///
/// # Errors
/// If the connection is refused or closed before the answer.
pub fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(&mut stream)?;
    Ok(stream)
}

/// Sends a few bytes and waits for them to come back.
///
/// # Errors
/// If they do not.
pub fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    if &answer == b"ping" {
        Ok(())
    } else {
        Err(io::Error::other("the echo is not the echo"))
    }
}
