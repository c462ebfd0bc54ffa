//! Free ports on the loopback interface.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

/// Below the ports that Linux gives to outgoing connections and to servers on port 0:
/// those could take one before it is used.
const FIRST: u16 = 10_000;
const END: u16 = 32_000;

/// Those that this process was given.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// Ports that are free for TCP and UDP now, none of them given before by this process.
///
/// # Panics
/// If there are none left.
pub fn free<const N: usize>() -> [u16; N] {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    // Other processes look for ports, too: each begins elsewhere.
    let begin = rand::random_range(FIRST..END);
    let mut candidates = (begin..END).chain(FIRST..begin);
    std::array::from_fn(|_| {
        candidates
            .find(|port| is_free(*port) && given.insert(*port))
            .expect("a free port")
    })
}

/// An address on loopback at which nobody listens, and that no socket gets by asking for any port.
///
/// # Panics
/// If there is none left.
pub fn closed() -> SocketAddr {
    let [port] = free();
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok()
}
