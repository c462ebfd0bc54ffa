//! Passes bytes to the agent and writes down which requests went by.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A relay on a port of its own; its threads end with their connections.
pub(crate) struct Relay {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    /// In front of the agent at `agent`.
    pub(crate) fn start(agent: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A dead agent is a dead connection, not an answer.
                let Ok(server) = TcpStream::connect(agent) else {
                    continue;
                };
                let (from, to) = (client.try_clone(), server.try_clone());
                let (Ok(from), Ok(to)) = (from, to) else {
                    continue;
                };
                let list = Arc::clone(&list);
                std::thread::spawn(move || pass(from, to, Some(&list)));
                std::thread::spawn(move || pass(server, client, None));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Method and path of the requests since the last call.
    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().expect("no thread panics with it"))
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, list: Option<&Mutex<Vec<String>>>) {
    let mut buffer = [0; 16 * 1024];
    let mut text = String::new();
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let piece = &buffer[..count];
        if let Some(list) = list {
            text.push_str(&String::from_utf8_lossy(piece));
            while let Some(end) = text.find(" HTTP/1.1\r\n") {
                let mut rest = text.split_off(end + 1);
                list.lock()
                    .expect("no thread panics with it")
                    .push(request(&text));
                text = rest.split_off("HTTP/1.1".len());
            }
        }
        if to.write_all(piece).is_err() {
            break;
        }
    }
    for side in [from, to] {
        // The other direction may have closed it already.
        let _ = side.shutdown(Shutdown::Both);
    }
}

/// `GET /path` of what ends in a request line without its version; the query is cut off.
fn request(text: &str) -> String {
    let start = ["GET /", "POST /", "PUT /", "DELETE /", "HEAD /"]
        .iter()
        .filter_map(|method| text.rfind(method))
        .max()
        .unwrap_or_default();
    let line = &text[start..].trim_end();
    line.split('?').next().unwrap_or_default().to_owned()
}

#[test]
fn requests_are_told_from_bodies() {
    assert_eq!(request("GET /v1/a?x=1 "), "GET /v1/a");
    assert_eq!(
        request("\r\nhost: x\r\n\r\n{\"a\":1}POST /v1/b "),
        "POST /v1/b"
    );
}
