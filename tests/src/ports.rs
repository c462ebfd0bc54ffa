//! Free ports on the loopback interface.

use std::net::{TcpListener, UdpSocket};

/// Ports that are free for TCP and UDP now. Somebody else may take one before
/// it is used, so whoever starts a server with them tries again.
pub fn free<const N: usize>() -> [u16; N] {
    let mut held = Vec::new();
    let ports = std::array::from_fn(|_| {
        loop {
            let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = tcp
                .local_addr()
                .expect("a bound socket has an address")
                .port();
            if let Ok(udp) = UdpSocket::bind(("127.0.0.1", port)) {
                held.push((tcp, udp));
                return port;
            }
        }
    });
    drop(held);
    ports
}
